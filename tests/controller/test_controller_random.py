"""The controller at every level on random programs, good ones and broken ones, with random timing."""

import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from npu.arch.config import PRESETS, NpuConfig
from npu.arch.isa import FORMATS, Cond, Error, Field, Instruction, Rel, Status, mk
from npu.compiler.program import assign_waits
from tests.controller.instructions import ADVANCE, ARGMAX, ATT, EMIT, FAR, GEMM, HALT, PASS, WAIT, jump, raw
from tests.controller.simulation import LEVELS, check
from tests.controller.world import WRITABLE, Case, Timing, World, in_bytes, waiting

#-------------------------------------------------------------------------
# Programs
#-------------------------------------------------------------------------

class Programmer:
  """Makes random programs: mostly sensible ones, with wait masks that order what depends on each other, or not."""

  def __init__( self, seed: int, cfg: NpuConfig ) -> None:
    self.rng, self.cfg = random.Random( seed ), cfg

  def pick( self, *choices: Any ) -> Any:
    return self.rng.choice( choices )

  def spad( self ) -> int:
    """A row with room behind it; few, so that instructions meet."""
    return self.pick( 0, 3, 40, 100, self.rng.randrange( 300 ) )

  def instruction( self, at: int, count: int ) -> Instruction:
    """One that will probably be accepted."""
    rng  = self.rng
    rows = self.pick( 0, 0, 1, 2, 3 )
    cond = self.pick( *[ Cond.ALWAYS ] * 12, *Cond )
    kind = self.pick( *"LLLSSSEGGVVVAXXPDRWJ" )
    row  = { "rows": rows, "cond": int( cond ) }
    move = { **row, "length": self.pick( 1, 16, rng.randint( 1, 70 ), rng.randint( 1, 70 ) ),
             "row_lines": rng.randrange( 6 ) }
    if kind == "L":
      return mk( "LOAD", **move, rel=self.pick( 0, 0, *Rel ), dram=rng.randrange( 64, 300 ), dst=self.spad(),
                 dst_stride=rng.randrange( 20 ) )
    if kind == "S":
      return mk( "STORE", **move, rel=self.pick( 0, 0, Rel.LAST ), dram=rng.randrange( WRITABLE, 900 ), src=self.spad(),
                 src_stride=rng.randrange( 20 ) )
    if kind == "E":
      return mk( "EMBED", **move, dram=rng.randrange( 64, 400 ), dst=self.spad(), vocab=self.pick( 16, 16, 3, 5 ),
                 dst_stride=rng.randrange( 20 ) )
    if kind == "G":
      return GEMM.but( **row, mode=rng.randrange( 3 ), src=self.spad(), dst=self.spad(), src_stride=rng.randrange( 9 ),
                       dst_stride=rng.randrange( 9 ), flags=rng.randrange( 4 ), k=rng.randint( 1, 40 ),
                       cols=rng.randint( 1, 40 ) )
    if kind == "A":
      return ATT.but( **row, src=self.spad(), dst=self.spad(), src2=self.spad(), dram=rng.randrange( WRITABLE, 900 ) )
    if kind == "X":
      return ARGMAX.but( cond=int( cond ), src=self.spad(), base=rng.randrange( 1 << 32 ), first=rng.randrange( 2 ) )
    if kind == "V":
      op = self.pick( "RMSNORM", "ROPE", "SWIGLU", "ADD", "MUL", "SCALE", "QUANTIZE", "SOFTMAX", "COPY", "CONVERT" )
      extra: dict[str, Any] = { "QUANTIZE": { "bits": 16 }, "CONVERT": { "formats": rng.randrange( 4 ) },
                                "SCALE": { "factor": 0.5 } }.get( op, {} )
      if op not in ( "SCALE", "QUANTIZE", "SOFTMAX", "COPY", "CONVERT" ):
        extra["src2"] = self.spad()
      return mk( op, **row, **extra, rel=self.pick( 0, 0, 0, Rel.POS, Rel.LAST ), dst=self.spad(), src=self.spad(),
                 segments=rng.randint( 1, 3 ), length=2 * rng.randint( 1, 20 ), dst_stride=rng.randrange( 30 ),
                 src_stride=rng.randrange( 30 ) )
    if kind == "J":
      return jump( self.pick( at + 1, rng.randint( at + 1, count + 1 ), rng.randrange( count + 2 ) ), cond=int( cond ) )
    control = { "P": PASS.but( limit=self.pick( 1, 2, 3, 8 ) ), "D": ADVANCE, "W": WAIT,
                "R": mk( "SETROWS", rows=self.pick( 1, 2 ) ) }
    return control[kind].but( cond=int( cond ) )

  def program( self ) -> list[Instruction]:
    count = self.rng.randint( 1, 20 )
    body  = [ self.instruction( k, count ) for k in range( 1, count + 1 ) ]
    ends  = self.pick( [ HALT ], [ EMIT, HALT ], [ ARGMAX, EMIT, jump( 0 ) ],
                       [ ADVANCE, jump( 0, cond=Cond.PREFILL ), ARGMAX, EMIT, jump( 0 ) ], [] )
    return [ PASS.but( limit=self.pick( 1, 2, 3, 3, 8 ) ), *body, *ends ]

  def value( self, f: Field ) -> int:
    """Bits for a field: anything at all, small, a power of two or nearly."""
    top = ( 1 << f.width ) - 1
    return self.pick( self.rng.randint( 0, top ), self.rng.randint( 0, min( top, 16 ) ), top, 0,
                      min( top, max( 0, ( 1 << self.rng.randint( 0, f.width ) ) + self.rng.randint( -1, 1 ) ) ) )

  def mutate( self, code: list[Instruction] ) -> list[Instruction | bytes]:
    """One or two things wrong: a bit, a field, an instruction."""
    out: list[Instruction | bytes] = list( code )
    for _ in range( self.rng.randint( 1, 2 ) ):
      at    = self.rng.randrange( len( out ) )
      octets = bytearray( in_bytes( out[at] ) )
      kind  = self.rng.randrange( 5 )
      if kind == 0:
        octets[self.rng.randrange( 32 )] ^= 1 << self.rng.randrange( 8 )
      elif kind == 1:
        fmt    = self.rng.choice( FORMATS )
        octets = bytearray( raw( mk( fmt.mnemonic ), **{ f.name: self.value( f ) for f in fmt.fields } ) )
      elif kind == 2:
        octets = bytearray( self.rng.randbytes( 32 ) )
      elif isinstance( code[at], Instruction ):
        f = self.rng.choice( code[at].format.all_fields )
        octets = bytearray( raw( code[at], **{ f.name: self.value( f ) } ) )
      out[at] = bytes( octets )
    return out

  def mailbox( self ) -> dict[str, int]:
    words = { "LIMIT": self.pick( 1, 2, 3 ), "FLAGS": self.pick( 0, 0, 1, 2, 3 ), "EOS_COUNT": self.rng.randrange( 5 ),
              "EOS": 3, "EOS1": 1 << 20, "EOS2": 7, "EOS3": 9, "POS": self.pick( 0, 0, 1, 4 ) }
    if self.rng.random() < 0.2:
      name = self.pick( "POS", "LEN", "LIMIT", "EOS_COUNT", "CONTEXT", "FLAGS", "PROGRAM_COUNT", "DRAM_LINES", "EOS" )
      words[name] = self.pick( 0, 1, 4, 5, 8, 16, 31, 32, 33, 200, 1 << 31, FAR, self.rng.randrange( 1 << 32 ) )
    return words

  def case( self ) -> Case:
    """A program, a mailbox, and one to three runs."""
    code: list[Any] = self.program()
    words = self.mailbox()
    kind  = self.pick( "all", "all", "masks", "wrong", "mutated", "mutated" )
    if kind == "masks":
      code = assign_waits( self.cfg, code, self.cfg.m_max )
    elif kind == "wrong":
      code = [ i.but( wait=self.pick( 0, 0, 0, self.rng.randrange( 32 ) ) ) for i in code ]
    else:
      code = waiting( code )
      if kind == "mutated":
        code = self.mutate( code )
    if any( words.get( name, 0 ) > 31 for name in ( "CONTEXT", "DRAM_LINES" ) ):
      # Tokens would lie in the program, or memory where there is none.
      words = { k: v for k, v in words.items() if k not in ( "CONTEXT", "DRAM_LINES" ) }
    return Case( code, words, found=[ self.pick( 0, 1, 2, 3, 7, 9, 20, 1 << 20, FAR ) for _ in range( 5 ) ],
                 prompt=[ self.rng.randrange( self.pick( *[ 4 ] * 9, 20 ) ) for _ in range( 6 ) ],
                 runs=( {}, ) * self.pick( 1, 1, 1, 2, 3 ), early=self.pick( False, False, True ),
                 ordered=kind in ( "all", "masks" ) )

#-------------------------------------------------------------------------
# Runs
#-------------------------------------------------------------------------

timings = st.builds(
  Timing, latency=st.integers( 1, 60 ), gap=st.sampled_from( ( 1, 1, 2, 4 ) ),
  stall_seed=st.none() | st.integers( 0, 99 ), ack=st.integers( 0, 20 ),
  work=st.integers( 0, 80 ), seed=st.none() | st.integers( 0, 99 ) )

def fuzz( level: str, n: int, examples: int ) -> None:
  cfg = PRESETS[f"edge{n}"]
  @settings( max_examples=examples, suppress_health_check=list( HealthCheck ) )
  @given( st.integers( 0, 1 << 40 ), timings )
  def run( seed, timing ):
    check( level, n, Programmer( seed, cfg ).case(), timing, seed=seed & 0xFFFF )
  run()

@pytest.mark.parametrize( "level", LEVELS )
def test_a_fetch_outlasts_its_run( level ):
  """A run of 16 instructions per beat ends in three cycles; the memory grants what was asked for ahead later."""
  timing = Timing( latency=53, gap=2, stall_seed=40, work=3, seed=91 )
  check( level, 16, Programmer( 900, PRESETS["edge16"] ).case(), timing, seed=900 )

@pytest.mark.parametrize( ( "level", "n", "examples" ), [
  ( "fl", 4, 12 ), ( "fl", 16, 6 ), ( "cl", 4, 30 ), ( "cl", 8, 20 ), ( "cl", 16, 20 ), ( "rtl", 4, 5 ),
  ( "verilog", 4, 50 ), ( "verilog", 8, 20 ), ( "verilog", 16, 20 ) ] )
def test_random( level, n, examples ):
  fuzz( level, n, examples )

@pytest.mark.nightly
@pytest.mark.parametrize( ( "level", "n", "examples" ), [
  ( "fl", 8, 300 ), ( "cl", 4, 1000 ), ( "cl", 16, 300 ), ( "rtl", 4, 60 ), ( "rtl", 8, 30 ), ( "verilog", 4, 2000 ),
  ( "verilog", 8, 500 ),
  ( "verilog", 16, 500 ) ] )
def test_random_at_length( level, n, examples ):
  fuzz( level, n, examples )

def test_random_programs_are_of_all_kinds() -> None:
  """Most errors and statuses come up, and not only at the first instruction."""
  ends = [ e.result for seed in range( 300 ) for e in World( PRESETS["edge4"],
                                                             Programmer( seed, PRESETS["edge4"] ).case() ).expected ]
  assert { r.error for r in ends } >= set( Error ) - { Error.BAD_FIELD, Error.BAD_SIZE }
  assert { r.status for r in ends } >= { Status.EOS, Status.LIMIT, Status.SCORED, Status.ERROR }
  assert sum( r.error == Error.NONE for r in ends ) > 60 and sum( r.pc > 8 for r in ends ) > 60
