"""The vector unit's surroundings in tests: commands, their data, what must come out, and how long it takes."""

# Components carry no type hints, as everywhere.
# mypy: allow-untyped-defs, allow-incomplete-defs

from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pymtl3 import Component

from fl.vector_unit import Best, check, execute, instruction_of, operands
from npu.arch.config import NpuConfig
from npu.arch.footprint import segment_rows
from npu.arch.isa import VECTOR_OP, Convert, Error, Instruction, mk
from npu.arch.messages import Ack, Done, mk_vector_cmd
from npu.arch.numerics.special import LOG2_E
from tests.harness import Fuzz, Scratchpad, Sink, Source
from translation.blocks import get_block
from translation.levels import mk_dut
from translation.simulate import run

LEVELS = ( "fl", "cl", "rtl", "verilog" )
BLOCK  = get_block( "vector_unit" )

# Levels of tests with many cases: all of them, the slow one nightly.
NIGHTLY_RTL = ( "fl", "cl", pytest.param( "rtl", marks=pytest.mark.nightly ), "verilog" )

U32 = NDArray[np.uint32]

EXPONENT = np.uint32( 0x7F800000 )    # all of it set: infinity or NaN

#-------------------------------------------------------------------------
# Commands and their data
#-------------------------------------------------------------------------

@dataclass( frozen=True )
class At:
  """A place in the scratchpad: its first row, and the rows from one token row to the next."""
  base: int
  stride: int

@dataclass( frozen=True )
class Vec:
  """A command to test: what it computes, where, and what the data is like."""
  op: str = "COPY"
  rows: int = 1
  segments: int = 1
  length: int = 8
  mode: int = 16                # QUANTIZE: bits; CONVERT: formats; ARGMAX: first
  param: float | None = None    # RMSNORM: inv_length, by default 1 / length; SCALE, SOFTMAX: factor; ARGMAX: base
  eps: float = 1e-6
  data: str = "random"          # of src; see `numbers`
  data2: str = "random"         # of src2, a ROPE table apart
  src: At | str = "new"         # new: with data; last: what the last command wrote
  src2: At | str = "new"
  dst: At | str = "new"         # src, src2: in place
  gap: int = 1                  # scratchpad rows between token rows, which belong to nobody

@dataclass( frozen=True )
class Timing:
  """How the surroundings behave."""
  source: int | Fuzz = 0
  ack: int | Fuzz = 0
  done: int | Fuzz = 0
  stall_seed: int | None = None
  stalled: float = 0.25         # of the cycles, each port of the scratchpad

CALM = Timing()
WILD = Timing( source=Fuzz( 3 ), ack=Fuzz( 6 ), done=Fuzz( 4 ), stall_seed=5 )

def numbers( kind: str, shape: tuple[int, ...], rng: np.random.Generator ) -> U32:
  """Patterns of finite numbers, save for the kinds `bits` and `small`."""
  def draw( low: int, high: int, fractions: Any = None ) -> U32:
    """Random signs, exponent fields of low..high, fractions."""
    f = rng.integers( 0, 1 << 23, shape ) if fractions is None else rng.choice( fractions, shape )
    return ( rng.integers( 0, 2, shape ) << 31 | rng.integers( low, high + 1, shape ) << 23 | f ).astype( np.uint32 )
  made = {
    "random":   lambda: rng.standard_normal( shape ).astype( np.float32 ).view( np.uint32 ),
    "wide":     lambda: draw( 67, 187 ),           # the product of two is finite
    "large":    lambda: draw( 180, 190 ),          # the same, just
    "huge":     lambda: draw( 240, 253 ),          # the sum of two is finite
    "rope":     lambda: draw( 240, 251 ),          # twice the sum of two is finite
    "gain":     lambda: draw( 0, 176 ),            # RMSNORM of anything is finite
    "any":      lambda: draw( 0, 254 ),
    "tiny":     lambda: draw( 0, 26 ),             # subnormals, and products that are
    "zero":     lambda: draw( 0, 0, [ 0 ] ),       # of both signs
    "ends":     lambda: rng.choice( np.array( [ 0x7F7FFFFF, 0xFF7FFFFF, 0x00800000, 0x80800000, 0, 1 << 31, 1,
                                                0x807FFFFF ], dtype=np.uint32 ), shape ),
    "edge":     lambda: draw( 120, 130, [ 0, 1, 0x7FFFFE, 0x7FFFFF, 0x7FFF00, 0x7FFE80, 0x7FFF80, 0x000080, 0x000100,
                                          0x7F0000, 0x7E8000, 0x400000, 0x010000, 0x008000 ] ),
    "equal":    lambda: np.full( shape, 0xBFC00000, dtype=np.uint32 ),
    "ties":     lambda: rng.choice( np.array( [ 0x40400000, 0x40400000, 0x3F800000, 0xC0400000 ], dtype=np.uint32 ),
                                    shape ),
    "negative": lambda: draw( 100, 150 ) | np.uint32( 1 << 31 ),
    "unit":     lambda: draw( 100, 126 ),          # below 1
    "full":     lambda: draw( 127, 127, [ 0x7FFFFF ] ),
    "halves":   lambda: draw( 100, 150, [ 0x001000, 0x003000, 0x008000, 0x018000, 0x7FF000, 0x7FF800, 0x7F8000 ] ),
    "scores":   lambda: ( rng.standard_normal( shape ) * 40 ).astype( np.float32 ).view( np.uint32 ),
    "extreme":  lambda: draw( 140, 160 ),          # scores that saturate
    "small":    lambda: small_floats( shape, rng ),
    "bits":     lambda: rng.integers( 0, 1 << 32, shape, dtype=np.uint32 ),
  }
  return made[kind]()

def small_floats( shape: tuple[int, ...], rng: np.random.Generator ) -> U32:
  """16-bit patterns that are no infinity in BF16, under bits that must not matter."""
  pattern = rng.integers( 0, 1 << 32, shape, dtype=np.uint32 )
  return np.where( pattern & np.uint32( 0x7F80 ) == 0x7F80, pattern ^ np.uint32( 0x0080 ), pattern )

def rope_lanes( shape: tuple[int, ...], kind: str, rng: np.random.Generator ) -> U32:
  """Lanes of a table: cos and sin of random angles, or for the kind `bits` any two Q1.14."""
  if kind == "bits":
    return numbers( kind, shape, rng )
  angle    = rng.uniform( 0, 6.3, shape )
  cos, sin = ( np.rint( f( angle ) * 16384 ).astype( np.int64 ) & 0xFFFF for f in ( np.cos, np.sin ) )
  return ( cos | sin << 16 ).astype( np.uint32 )

def widens( i: Instruction ) -> bool:
  """Whether it is a CONVERT of 16-bit patterns."""
  return i.mnemonic == "CONVERT" and i.formats in ( Convert.BF16_FP32, Convert.FP16_FP32 )

def reads_fp32( i: Instruction ) -> bool:
  """Whether src holds numbers for it, and not just bits."""
  return i.mnemonic != "COPY" and not widens( i )

def writes_fp32( i: Instruction ) -> bool:
  """Whether its result lanes hold numbers."""
  return i.mnemonic not in ( "COPY", "QUANTIZE", "ARGMAX" ) and ( i.mnemonic != "CONVERT" or widens( i ) )

def all_finite( lanes: U32 ) -> bool:
  return not ( ( lanes & EXPONENT ) == EXPONENT ).any()

def param_bits( v: Vec ) -> int:
  """The word `param` of a command."""
  if v.op == "ARGMAX":
    return int( v.param or 0 )
  value = v.param if v.param is not None else { "RMSNORM": 1 / max( v.length, 1 ), "SCALE": -0.3 }.get( v.op, LOG2_E )
  return int( np.float32( value ).view( np.uint32 ) )

def changed( msg: Any, **fields: int ) -> Any:
  """A copy of a command with other fields."""
  copy = msg.clone()
  for name, value in fields.items():
    setattr( copy, name, type( getattr( copy, name ) )( value ) )
  return copy

#-------------------------------------------------------------------------
# The world
#-------------------------------------------------------------------------

@dataclass
class Effect:
  """What a command must do: the scratchpad rows that it writes, in any order, and its `done`."""
  instruction: Instruction
  writes: list[tuple[int, bytes]]
  done: int

@dataclass
class World:
  """A scratchpad for a sequence of commands, what they write, and what it must hold afterwards.

  All that no command is to compute with is garbage, half of it NaN: lanes past the end of a segment, fields of a
  command that its instruction does not have.

  Parameters
  ----------
  fill
    Scratchpad rows from row 0 on that hold random numbers, for commands with places of their own.
  lenient
    Leave commands out that would compute with or write what is not finite; else that is an error.
  """
  cfg: NpuConfig
  commands: list[Vec]
  seed: int = 0
  fill: int = 0
  lenient: bool = False

  messages: list[Any] = field( default_factory=list )
  effects: list[Effect] = field( default_factory=list )
  readable: set[int] = field( default_factory=set )    # scratchpad rows that are operands

  def __post_init__( self ) -> None:
    self.rng  = np.random.default_rng( self.seed )
    shape     = ( self.cfg.derived.spad_rows, self.cfg.n )
    self.spad = self.rng.integers( 0, 1 << 32, shape, dtype=np.uint32 )
    self.spad |= np.where( self.rng.integers( 0, 2, shape ), EXPONENT, np.uint32( 0 ) )
    self.spad[: self.fill] = numbers( "random", ( self.fill, self.cfg.n ), self.rng )
    self.expected = self.spad.copy()
    self.row  = self.fill + 3
    self.last: At | None = None
    self.best: Best = None
    for v in self.commands:
      self.add( v )

  def new( self, rows: int, width: int, gap: int ) -> At:
    """Room that nobody has."""
    at = At( self.row, width + gap )
    self.row += ( rows - 1 ) * at.stride + width + 1
    assert self.row <= len( self.spad ), "the commands need more scratchpad than there is"
    return at

  def put( self, at: At, words: U32, starts: list[int] ) -> None:
    """Words [rows, parts, elements] into fresh rows, before and after alike; part p begins at row starts[p]."""
    for r, parts in enumerate( words ):
      for start, elements in zip( starts, parts, strict=True ):
        lane = ( at.base + r * at.stride + start ) * self.cfg.n
        for spad in ( self.spad, self.expected ):
          spad.reshape( -1 )[lane : lane + len( elements )] = elements

  def place( self, v: Vec, which: At | str, rows: int, parts: int, length: int, kind: str ) -> At:
    """Where an operand is: `parts` runs of `length` elements per token row, each in whole scratchpad rows."""
    if isinstance( which, At ):
      return which
    if which == "last":
      assert self.last is not None
      return self.last
    width = -( -length // self.cfg.n )
    at    = self.new( rows, parts * width, v.gap )
    table = v.op == "ROPE" and which == "table"
    shape = ( rows, parts, length )
    self.put( at, rope_lanes( shape, kind, self.rng ) if table else numbers( kind, shape, self.rng ),
              [ p * width for p in range( parts ) ] )
    return at

  def add( self, v: Vec ) -> None:
    """Append a command: its data, its message, its effect."""
    halves = 2 if v.op == "ROPE" else 1
    parts  = 1 if v.op == "ARGMAX" else v.segments * halves
    src    = self.place( v, v.src, 1 if v.op == "ARGMAX" else v.rows, parts, v.length // halves, v.data )
    src2   = At( 0, 0 )
    if v.op == "RMSNORM":
      src2 = self.place( v, v.src2, 1, 1, v.length, v.data2 )
    elif v.op == "ROPE":
      src2 = self.place( v, "table" if v.src2 == "new" else v.src2, v.rows, 1, v.length // 2, v.data2 )
    elif v.op in ( "SWIGLU", "ADD", "MUL" ):
      src2 = self.place( v, v.src2, v.rows, parts, v.length, v.data2 )
    dst = { "src": src, "src2": src2 }.get( v.dst ) if isinstance( v.dst, str ) else v.dst
    if dst is None:
      width = segment_rows( self.cfg, mk( v.op, length=v.length ) )
      dst   = src if v.op == "ARGMAX" else self.new( v.rows, width * v.segments, v.gap )
    self.append( self.message( v, src, src2, dst ) )
    self.last = dst

  def message( self, v: Vec, src: At, src2: At, dst: At ) -> Any:
    """The command, with garbage in the fields that its instruction does not have."""
    Cmd   = mk_vector_cmd( self.cfg )
    names = { f.name for f in mk( v.op ).format.fields }
    known = { "op": VECTOR_OP[v.op], "rows": v.rows, "segments": v.segments, "length": v.length, "dst": dst.base,
              "src": src.base, "src2": src2.base, "dst_stride": dst.stride, "src_stride": src.stride,
              "src2_stride": src2.stride, "param": param_bits( v ),
              "eps": int( np.float32( v.eps ).view( np.uint32 ) ), "mode": v.mode }
    if v.op == "ARGMAX":      # only bit 0 of the mode is `first`
      known["mode"] = v.mode & 1 | int( self.rng.integers( 0, 128 ) ) << 1
    has = { "op", "rows", *names }
    has |= { "mode" } if names & { "bits", "formats", "first" } else set()
    has |= { "param" } if names & { "inv_length", "factor", "base" } else set()
    msg  = Cmd()
    for name, Type in Cmd.__bitstruct_fields__.items():
      value = known[name] if name in has else int( self.rng.integers( 0, 1 << Type.nbits ) )
      setattr( msg, name, Type( value ) )
    return msg

  def append( self, msg: Any ) -> None:
    """Execute the command on what must come out, in order."""
    i     = instruction_of( msg )
    rows  = int( i.rows )
    assert check( self.cfg, i, rows ) == Error.NONE
    where = operands( self.cfg, i, rows )
    index = [ o.base + np.arange( o.rows )[:, None] * o.stride + np.arange( o.width ) for o in where ]
    words = [ self.expected[x].reshape( len( x ), -1 ) for x in index ]
    result, best = execute( self.cfg, i, words, self.best )
    fine  = result is None or not writes_fp32( i ) or all_finite( result )
    if reads_fp32( i ):
      fine &= self.operands_finite( i, words )
    if self.lenient and not fine:
      return
    assert fine, f"{i}: its data is outside of what is documented"
    self.best = best
    writes: list[tuple[int, bytes]] = []
    if result is not None:
      for r, row in enumerate( result.reshape( rows, -1, self.cfg.n ) ):
        for c, lanes in enumerate( row ):
          at = int( i.dst ) + r * int( i.dst_stride ) + c
          self.expected[at] = lanes
          writes.append( ( at, lanes.tobytes() ) )
    self.messages.append( msg )
    done = best[1] if i.mnemonic == "ARGMAX" and best else 0
    self.effects.append( Effect( i, sorted( writes ), done ) )
    self.readable |= { int( a ) for x in index for a in x.flat }

  def operands_finite( self, i: Instruction, words: list[U32] ) -> bool:
    """Whether the elements of the operands are numbers (a ROPE table always is)."""
    length = int( i.length ) // ( 2 if i.mnemonic == "ROPE" else 1 )
    width  = -( -length // self.cfg.n ) * self.cfg.n
    checked = words[:1] if i.mnemonic == "ROPE" else words
    return all( all_finite( w.reshape( -1, width )[:, :length] ) for w in checked )

class Harness( Component ):
  """With `later`, ( cycles, world ), everything is reset after so many cycles, to do that world then."""

  def construct( s, dut, world, errors, timing, later=None ):
    # One acknowledgement per command, a completion for each that is accepted.
    dones   = [ e.done for e in world.effects ]
    s.later = later
    s.dut   = dut
    s.cmd   = Source( mk_vector_cmd( world.cfg ), world.messages, timing.source )
    s.spad  = Scratchpad( world.cfg, 2, 1, world.spad.copy(), timing.stall_seed, timing.stalled )
    s.ack_sink  = Sink( Ack,  [ int( e ) for e in errors ], timing.ack )
    s.done_sink = Sink( Done, dones, timing.done )
    s.cmd.send     //= s.dut.cmd
    s.dut.src      //= s.spad.read[0]
    s.dut.src2     //= s.spad.read[1]
    s.dut.wr       //= s.spad.write[0]
    s.dut.ack      //= s.ack_sink.recv
    s.dut.done     //= s.done_sink.recv

  def done( s ):
    if s.later:
      cycles, world = s.later
      if s.spad.now < cycles:
        return False
      s.later    = None
      s.cmd.msgs = world.messages
      s.ack_sink.expected  = [ Ack( 0 ) ] * len( world.messages )
      s.done_sink.expected = [ Done( e.done ) for e in world.effects ]
      s.spad.rows[:]       = world.spad
      s.sim_reset()
    return s.cmd.done() and s.ack_sink.done() and s.done_sink.done()

  def line_trace( s ):
    return s.dut.line_trace()

@dataclass
class Run:
  """When everything happened, and what the scratchpad held in the end."""
  cycles: int
  commands: list[int]                   # cycles in which commands were taken
  acks: list[int]
  dones: list[int]
  reads: list[tuple[int, int, int]]     # cycle, port, row
  writes: list[tuple[int, int]]         # cycle, row
  rows: U32 = field( compare=False, repr=False )

def simulate( cfg: NpuConfig, level: str, world: World, timing: Timing = CALM, errors: list[Error] | None = None,
              opts: dict | None = None, max_cycles: int = 200_000, values: bool = True, **kwargs: Any ) -> Run:
  """Run a world at a level, check every write, every row and every answer; returns what happened when.

  Without `values` it checks where is written, and not what.
  """
  acks = errors or [ Error.NONE ] * len( world.messages )
  th   = Harness( mk_dut( BLOCK, level, cfg, **kwargs ), world, acks, timing )
  return check_run( th, world, run( th, max_cycles, opts ), values )

def simulate_again( cfg: NpuConfig, level: str, before: World, cycles: int, world: World ) -> Run:
  """Some cycles of `before`, a reset, then `world`, as `simulate` does it from the reset on."""
  acks = [ Error.NONE ] * len( before.messages )
  th   = Harness( mk_dut( BLOCK, level, cfg ), before, acks, CALM, ( cycles, world ) )
  return check_run( th, world, run( th, 200_000 ) - cycles )

def check_run( th: Any, world: World, cycles: int, values: bool = True ) -> Run:
  """Compare what happened with what should have."""
  check_writes( world, th.spad.writes, values )
  wrong = np.argwhere( ( th.spad.rows != world.expected ) & values )
  assert len( wrong ) == 0, ( f"scratchpad row {wrong[0][0]} lane {wrong[0][1]} is "
                              f"{th.spad.rows[tuple( wrong[0] )]:#010x}, expected "
                              f"{world.expected[tuple( wrong[0] )]:#010x}; {len( wrong )} differ" )
  strange = { a for _, _, a in th.spad.reads } - world.readable
  assert not strange, f"rows that are no operand were read: {sorted( strange )[:4]}"
  return Run( cycles, th.cmd.cycles, th.ack_sink.cycles, th.done_sink.cycles, th.spad.reads,
              [ ( cycle, a ) for cycle, _, a, _ in th.spad.writes ], th.spad.rows )

def check_writes( world: World, writes: list[tuple[int, int, int, U32]], values: bool = True ) -> None:
  """Each command writes each of its rows once and nothing else, after all of the one before; all numbers are finite."""
  log = iter( writes )
  for number, effect in enumerate( world.effects ):
    found = list( islice( log, len( effect.writes ) ) )
    if not values:
      assert sorted( a for _, _, a, _ in found ) == [ a for a, _ in effect.writes ]
      continue
    if writes_fp32( effect.instruction ):
      bad = [ a for _, _, a, row in found if not all_finite( row ) ]
      assert not bad, f"command {number} ({effect.instruction.mnemonic}) wrote infinity or NaN to rows {bad[:4]}"
    got = sorted( ( a, row.tobytes() ) for _, _, a, row in found )
    if got != effect.writes:
      differ = [ pair for pair in zip( got, effect.writes, strict=False ) if pair[0] != pair[1] ]
      ( a, row ), ( at, expected ) = differ[0] if differ else ( ( 0, b"" ), ( 0, b"" ) )
      raise AssertionError(
        f"command {number} ({effect.instruction.mnemonic}): {len( got )} of {len( effect.writes )} rows written, "
        f"{len( differ )} differ; the first is row {a}: {np.frombuffer( row, dtype=np.uint32 )}, expected row {at}: "
        f"{np.frombuffer( expected, dtype=np.uint32 )}" )
  extra = list( log )
  assert not extra, f"{len( extra )} writes too many, the first to row {extra[0][2]} in cycle {extra[0][0]}"

def check_cycles( cfg: NpuConfig, level: str, world: World, timing: Timing, found: Run,
                  errors: list[Error] | None = None ) -> None:
  """RTL and Verilog do everything in exactly the cycles in which CL does."""
  if level in ( "rtl", "verilog" ):
    assert found == simulate( cfg, "cl", world, timing, errors )

def checked( cfg: NpuConfig, level: str, world: World, timing: Timing, opts: dict | None = None, **kwargs: Any ) -> Run:
  """A run whose results are right and whose cycles are those of CL."""
  found = simulate( cfg, level, world, timing, opts=opts, **kwargs )
  check_cycles( cfg, level, world, timing, found )
  return found
