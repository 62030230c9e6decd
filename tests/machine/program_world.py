"""Random programs for the whole NPU: every instruction, every register, good ones and broken ones; and what NpuFL
makes of them.

Programs and data are such that everything a run does is defined at every level; see `Reference` for what is not.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from fl import vector_unit
from fl.npu import NpuFL, Result
from fl.vector_unit import Operand
from npu.arch.config import LINE_BYTES, NpuConfig, ceil_div
from npu.arch.footprint import segment_rows
from npu.arch.isa import (
  GROUP_SIZES,
  INSTRUCTION_BYTES,
  BadInstruction,
  Cond,
  GemmFlag,
  GemmMode,
  Instruction,
  Rel,
  Status,
  decode,
  disassemble,
  encode,
  mk,
)
from npu.arch.mailbox import Mailbox, Word
from npu.arch.numerics import fp32
from npu.arch.weight_stream import ACTIVATION_BITS, FLOATING_MODES, GROUP_MODES
from npu.compiler.program import ALL_UNITS, assign_waits

# Small, so that a program takes some hundred cycles.
CONFIG = NpuConfig( name="programs", n=4, m_max=4, spad_bytes=4096, k_max=256, dram_latency=8 )

LINES    = 512       # of DRAM
TOKENS   = 2         # the token buffer, in lines 2 and 3
CONTEXT  = 31
PROGRAM  = 4         # the first line of the program; data that programs only read begin at
TABLES   = 20
WRITABLE = 256       # data that a program may read and write
END_STATUSES = ( Status.EOS, Status.LIMIT, Status.CONTEXT, Status.SCORED, Status.ERROR )

FAR = ( 1 << 32 ) - 1

@dataclass( frozen=True )
class Case:
  """A program and what surrounds it: `dram` with the doorbell rung."""
  seed: int
  kind: str                  # all, masks, mutated; loose: with any wait masks
  count: int                 # instructions
  dram: NDArray[np.uint8]
  spad: NDArray[np.uint32]

  def listing( self ) -> str:
    """The program and the mailbox, for messages."""
    box   = Mailbox( self.dram )
    lines = [ f"{at:3}  {text}" for at, text in enumerate( map( show, self.code() ) ) ]
    return "\n".join( [ f"seed {self.seed} ({self.kind})", *lines,
                        " ".join( f"{w.name}={box[w]}" for w in Word ),
                        f"tokens {self.dram[LINE_BYTES * TOKENS :][: 4 * 12].view( np.uint32 ).tolist()}" ] )

  def code( self ) -> list[bytes]:
    """The instructions."""
    start = PROGRAM * LINE_BYTES
    return [ self.dram[start + INSTRUCTION_BYTES * at :][:INSTRUCTION_BYTES].tobytes() for at in range( self.count ) ]

def show( code: bytes ) -> str:
  """An instruction in assembly, or its bytes if it has none."""
  try:
    return disassemble( decode( code ) )
  except BadInstruction as e:
    return f"{code.hex()} ({e})"

#-------------------------------------------------------------------------
# What NpuFL makes of it
#-------------------------------------------------------------------------

class NotDefinedError( Exception ):
  """A program does what the NPU's documents leave open."""

def cells( o: Operand ) -> set[int]:
  """The scratchpad rows of a matrix."""
  return { o.base + r * o.stride + c for r in range( o.rows ) for c in range( o.width ) }

def apart( o: Operand ) -> bool:
  """Whether its token rows do not overlap each other."""
  return len( cells( o ) ) == o.rows * o.width

def same( a: Operand, b: Operand ) -> bool:
  """Whether two matrices are in the same place."""
  return ( a.base, a.rows, a.width ) == ( b.base, b.rows, b.width ) and ( a.stride == b.stride or a.rows == 1 )

class Reference( NpuFL ):
  """NpuFL that raises NotDefinedError when an instruction does what is not defined:

  - An FP32 operation of an engine meets or makes a number with exponent 255, which is NaN or infinity: the
    operators do not accept it, and the simulated scratchpad refuses results that have it.
  - An integer GEMM reads rows that are not block floating point: their exponent is to be the same in every lane.
  - The result of an engine overlaps an operand in another way than its document allows: the vector unit's in place,
    the MAC array's residual in place, the attention engine's keys and values anyhow. Or, except in the vector unit,
    it overlaps itself (a stride below the width).
  """

  def __init__( self, cfg: NpuConfig, dram: NDArray[np.uint8], spad: NDArray[np.uint32] ) -> None:
    super().__init__( cfg, dram )
    self.spad = spad

  def refuse( self, i: Instruction, why: str ) -> None:
    raise NotDefinedError( f"{why}: {self.r.pc} {disassemble( i )}" )

  def check_places( self, i: Instruction, result: Operand, others: list[Operand], *, in_place: list[Operand] ) -> None:
    """Whether the result may be where it is: not on `others`, on those `in_place` only exactly."""
    rows = cells( result )
    bad  = any( rows & cells( o ) for o in others )
    if bad or any( rows & cells( o ) and not ( same( o, result ) and apart( result ) ) for o in in_place ):
      self.refuse( i, "the result overlaps an operand" )

  def check_blocks( self, i: Instruction, lanes: NDArray[np.uint32] ) -> None:
    """Whether each row of `lanes` is block floating point: the exponent is the same in every lane."""
    exponents = lanes >> np.uint32( 16 ) & np.uint32( 0xFF )
    if np.any( exponents != exponents[..., :1] ):
      self.refuse( i, "not block floating point" )

  @contextmanager
  def finite( self, i: Instruction, words: list[NDArray[np.uint32]] ) -> Iterator[None]:
    """Watch every operand and result of FP32 operations; `words` are FP32 as well."""
    flush, write = fp32.flush, self.write
    def check( pattern: NDArray[np.uint32] ) -> None:
      if np.any( pattern & fp32.EXPONENT_MASK == fp32.EXPONENT_MASK ):
        self.refuse( i, "NaN or infinity" )
    def watched_flush( x: Any ) -> Any:
      check( fp32.bits( np.asarray( x, dtype=np.float32 ) ) )
      found = flush( x )
      check( fp32.bits( found ) )
      return found
    def watched_write( base: float, stride: float, data: NDArray[np.uint32] ) -> None:
      check( data )
      write( base, stride, data )
    for w in words:
      check( w )
    with mock.patch.object( fp32, "flush", watched_flush ), mock.patch.object( self, "write", watched_write ):
      yield

  def do_gemm( self, i: Instruction, rows: int, off: int ) -> None:
    out    = Operand( int( i.dst ), rows, int( i.dst_stride ), ceil_div( int( i.cols ), self.cfg.n ) )
    source = Operand( int( i.src ), rows, int( i.src_stride ), ceil_div( int( i.k ), self.cfg.n ) )
    added  = [ Operand( int( i.src2 ), rows, out.stride, out.width ) ] * bool( int( i.flags ) & GemmFlag.RESIDUAL )
    self.check_places( i, out, [ source ], in_place=added )
    if not apart( out ):
      self.refuse( i, "the result overlaps itself" )
    if int( i.mode ) not in FLOATING_MODES:
      self.check_blocks( i, self.read( i.src, rows, i.src_stride, int( i.k ) ) )
    with self.finite( i, [] ):
      super().do_gemm( i, rows, off )

  def do_vector( self, i: Instruction, rows: int, off: int ) -> None:
    found = vector_unit.operands( self.cfg, i, rows, off )
    if i.mnemonic != "ARGMAX":
      out    = Operand( int( i.dst ), rows, int( i.dst_stride ), segment_rows( self.cfg, i ) * int( i.segments ) )
      shared = found[:1] if i.mnemonic in ( "RMSNORM", "ROPE" ) else found
      self.check_places( i, out, found[len( shared ):], in_place=shared )
    # The operators see the operands of other instructions.
    words = []
    if i.mnemonic in ( "ARGMAX", "QUANTIZE" ):
      segments = int( i.segments ) if i.mnemonic == "QUANTIZE" else 1
      source   = self.read( found[0].base, found[0].rows, found[0].stride, found[0].width * self.cfg.n )
      words    = [ vector_unit.elements( i, source, segments ) ]
    with self.finite( i, words ):
      super().do_vector( i, rows, off )

  def do_attend( self, i: Instruction, rows: int, off: int ) -> None:
    head   = ceil_div( int( i.length ), self.cfg.n )
    out    = Operand( int( i.dst ), rows, int( i.dst_stride ), int( i.heads ) * head )
    source = Operand( int( i.src ), rows, int( i.src_stride ), int( i.heads ) * head )
    self.check_places( i, out, [ source ], in_place=[] )
    if not apart( out ):
      self.refuse( i, "the result overlaps itself" )
    with self.finite( i, [] ):
      super().do_attend( i, rows, off )

@dataclass( frozen=True )
class Golden:
  """A case, and how it ends."""
  case: Case
  result: Result
  dram: NDArray[np.uint8]
  spad: NDArray[np.uint32]

def golden( case: Case ) -> Golden | None:
  """Run a case with the golden model; None if it is not defined what it does."""
  dram, spad = case.dram.copy(), case.spad.copy()
  try:
    result = Reference( CONFIG, dram, spad ).run()
  except NotDefinedError:
    return None
  except Exception as e:
    e.add_note( case.listing() )
    raise
  return Golden( case, result, dram, spad )

#-------------------------------------------------------------------------
# Random programs
#-------------------------------------------------------------------------

def random_words( rng: np.random.Generator, count: int, exponent: int ) -> NDArray[np.uint32]:
  """Words that are moderate numbers in every format: FP32, BF16 and FP16 in both halves, Q1.14, and block-float lanes
  with `exponent`, 96 to 127; if it is 0, with any of these in each lane."""
  halves = ( rng.integers( 0, 2, 2 * count ) << 15 | 2 * rng.integers( 58, 66, 2 * count ) << 7
             | rng.integers( 0, 128, 2 * count ) )
  halves[1::2] = halves[1::2] & ~0x7F | ( exponent or rng.integers( 96, 128, count ) )
  return halves.astype( np.uint16 ).view( np.uint32 )

@dataclass
class Programmer:
  """Makes random programs of instructions that will probably be accepted, and breaks them."""
  seed: int
  cfg: NpuConfig = CONFIG
  rng: random.Random = field( init=False )
  rels: tuple[Rel, ...] = tuple( Rel )       # that programs may use

  def __post_init__( self ) -> None:
    self.rng = random.Random( self.seed )

  def pick( self, *choices: Any ) -> Any:
    return self.rng.choice( choices )

  def spad( self, rows: int = 1 ) -> int:
    """The first of `rows` scratchpad rows; rarely, they end outside."""
    top = self.cfg.derived.spad_rows
    if self.rng.random() < 0.01:
      return self.rng.randrange( top, 2 * top )
    return self.rng.randrange( max( top - rows, 1 ) )

  def line( self, low: int, size: int ) -> int:
    """A line of memory with `size` lines from it on, not below `low`; rarely, they end outside."""
    if self.rng.random() < 0.01:
      return self.rng.choice( ( LINES - 1, LINES, FAR, 0 ) )
    return self.rng.randrange( low, max( LINES - size, low + 1 ) )

  def common( self ) -> dict[str, int]:
    """Condition and rows."""
    rows = self.pick( 0, 0, 1, 2, 3, self.cfg.m_max, self.rng.randint( 0, self.cfg.m_max ) )
    if self.rng.random() < 0.01:
      rows = self.cfg.m_max + 1
    return { "cond": int( self.pick( *[ Cond.ALWAYS ] * 12, *Cond ) ), "rows": rows }

  def length( self ) -> int:
    return 0 if self.rng.random() < 0.01 else self.pick( 4, 8, 16, self.rng.randint( 1, 20 ) )

  def stride( self, width: int ) -> int:
    """From one token row to the next: mostly such that they do not overlap."""
    return self.rng.randrange( width + 2 ) if self.rng.random() < 0.05 else width + self.pick( 0, 0, 1, 3 )

  def constant( self, low: int = -6, high: int = 3 ) -> float:
    """A moderate positive FP32 number."""
    return float( np.float32( self.rng.uniform( 1, 2 ) * 2.0 ** self.rng.randint( low, high ) ) )

  def dma( self ) -> Instruction:
    name, length = self.pick( "LOAD", "LOAD", "STORE", "STORE", "EMBED" ), self.length()
    rel   = Rel.NONE if name == "EMBED" else self.pick( *[ Rel.NONE ] * 3, *self.rels )
    width = ceil_div( length, self.cfg.n )
    lines = self.pick( 0, 1, 2, ceil_div( 4 * length, LINE_BYTES ) )
    out: dict[str, int] = { **self.common(), "rel": int( rel ), "length": length, "row_lines": lines }
    out["dram"] = self.line( WRITABLE if name == "STORE" else TABLES, 16 )
    place, stride = ( "src", "src_stride" ) if name == "STORE" else ( "dst", "dst_stride" )
    out |= { place: self.spad( 40 ), stride: self.stride( width ) }
    return mk( name, **out, **( { "vocab": self.pick( 8, 8, 8, 3 ) } if name == "EMBED" else {} ) )

  def gemm( self ) -> list[Instruction]:
    """A GEMM; often, what it reads is quantised before."""
    mode  = self.pick( *GemmMode )
    group = self.rng.randrange( 1, 3 ) if mode in GROUP_MODES else 0
    k     = GROUP_SIZES[group] * self.pick( 1, 1, 2 ) if group else self.pick( 4, 8, 16, self.rng.randint( 1, 40 ) )
    if self.rng.random() < 0.02:
      k += 1
    cols  = self.pick( 4, 8, self.rng.randint( 1, 16 ) )
    width, out = ceil_div( k, self.cfg.n ), ceil_div( cols, self.cfg.n )
    dst, src, stride = self.spad( 30 ), self.spad( 70 ), width + self.rng.randrange( 3 )
    gemm = mk( "GEMM", **self.common(), mode=int( mode ), group=group, flags=self.rng.randrange( 4 ), k=k, cols=cols,
               dram=self.line( TABLES, 60 ), src=src, src_stride=stride, dst=dst, dst_stride=self.stride( out ),
               src2=self.pick( dst, self.spad( 30 ) ) )
    if mode in FLOATING_MODES or self.rng.random() < 0.4:
      return [ gemm ]
    return [ mk( "QUANTIZE", rows=gemm.rows, dst=src, src=src, segments=1, length=k, dst_stride=stride,
                 src_stride=stride, bits=ACTIVATION_BITS[mode] ), gemm ]

  def vector( self ) -> Instruction:
    name = self.pick( "RMSNORM", "ROPE", "SWIGLU", "ADD", "MUL", "SCALE", "QUANTIZE", "SOFTMAX", "COPY", "CONVERT" )
    length, segments = self.length(), self.pick( 1, 1, 2, 3 )
    if name == "ROPE" and self.rng.random() < 0.95:
      length += length % 2
    rows   = 2 * ceil_div( length // 2, self.cfg.n ) if name == "ROPE" else ceil_div( length, self.cfg.n )
    width  = rows * segments
    stride, dst = self.stride( width ), self.spad( 70 )
    place  = lambda: self.pick( dst, *[ self.spad( 70 ) ] * 3 )      # noqa: E731
    out: dict[str, Any] = { **self.common(), "rel": int( self.pick( *[ Rel.NONE ] * 4, *self.rels ) ), "dst": dst,
                            "src": place(), "segments": segments, "length": length, "dst_stride": stride,
                            "src_stride": self.pick( stride, stride, self.stride( width ) ) }
    if name in ( "SWIGLU", "ADD", "MUL" ):
      out |= { "src2": place(), "src2_stride": self.pick( stride, stride, self.stride( width ) ) }
    elif name == "ROPE":
      out |= { "src2": self.spad( 40 ), "src2_stride": self.stride( width // segments // 2 ) }
    elif name == "RMSNORM":
      out |= { "src2": self.spad( 40 ), "inv_length": self.constant(), "eps": self.constant( -20, 0 ) }
    elif name in ( "SCALE", "SOFTMAX" ):
      out["factor"] = self.constant()
    elif name == "QUANTIZE":
      out["bits"] = self.pick( 8, 16 )
    elif name == "CONVERT":
      out["formats"] = self.rng.randrange( 4 )
    return mk( name, **out )

  def argmax( self ) -> Instruction:
    cond = self.common()["cond"]
    return mk( "ARGMAX", cond=cond, rows=1, src=self.spad( 20 ), length=self.pick( 3, 4, self.rng.randint( 1, 30 ) ),
               base=self.pick( 0, 0, 0, 3, 30, self.rng.randrange( 1 << 32 ) ), first=self.rng.randrange( 2 ) )

  def attend( self ) -> Instruction:
    kv     = self.pick( 1, 1, 2 )
    heads  = kv * self.pick( 1, 2 )
    length = self.pick( 4, 4, 8, 16 )
    width  = length // self.cfg.n
    return mk( "ATTEND", **self.common(), heads=heads, kv_heads=kv, length=length, chunks=self.pick( 1, 2, 2, 2 ),
               dram=self.line( WRITABLE, 2 * kv * ( length + 1 ) ), dst=self.spad( 70 ), src=self.spad( 70 ),
               src2=self.spad( 70 ), dst_stride=self.stride( heads * width ),
               src_stride=self.stride( heads * width ), factor=self.constant() )

  def control( self, at: int, count: int ) -> Instruction:
    cond = self.common()["cond"]
    name = self.pick( "JUMP", "JUMP", "PASS", "ADVANCE", "SETROWS", "WAIT", "EMIT", "HALT" )
    if name == "JUMP":
      return mk( "JUMP", cond=self.pick( cond, Cond.PREFILL ),
                 target=self.pick( at + 1, self.rng.randint( at, count ), self.rng.randrange( count + 1 ) ) )
    operands: dict[str, int] = {}
    if name == "PASS":
      operands["limit"] = self.pick( 1, 2, 3, self.cfg.m_max )
    elif name == "SETROWS":
      operands["rows"] = self.pick( 1, 1, 2, self.cfg.m_max )
    elif name == "HALT":
      operands["status"] = int( self.pick( *[ Status.SCORED ] * 4, *Status ) )
      cond = self.pick( cond, Cond.SCORE )
    return mk( name, cond=cond, **operands )

  def instructions( self, at: int, count: int ) -> list[Instruction]:
    """One or two that will probably be accepted."""
    kind = self.pick( *"DDDDGGVVVVVXAAC" )
    if kind == "C":
      return [ self.control( at, count ) ]
    if kind == "G":
      return self.gemm()
    return [ { "D": self.dma, "V": self.vector, "X": self.argmax, "A": self.attend }[kind]() ]

  def program( self ) -> list[Instruction]:
    """A pass, and an end that goes round or not."""
    count = self.rng.randint( 1, 10 )
    body: list[Instruction] = []
    while len( body ) < count:
      body += self.instructions( len( body ) + 1, count + 1 )
    jump, halt = mk( "JUMP" ), mk( "HALT", status=Status.SCORED )
    find  = mk( "ARGMAX", rows=1, src=self.spad( 20 ), length=self.rng.randint( 1, 8 ), first=1 )
    ends: list[list[Instruction]] = [
      [], [ halt ], [ find, mk( "EMIT" ), halt ], [ mk( "ADVANCE" ), find, mk( "EMIT" ), jump ],
      [ mk( "ADVANCE" ), mk( "JUMP", cond=Cond.PREFILL ), find, mk( "HALT", cond=Cond.SCORE, status=Status.SCORED ),
        mk( "EMIT" ), jump ] ]
    return [ mk( "PASS", limit=self.pick( 1, 2, 3, 4, 4 ) ), *body, *self.rng.choice( ends ) ]

  def mutate( self, code: list[bytes], words: dict[str, int] ) -> list[bytes]:
    """One or two things wrong: a bit, a word, an instruction, the mailbox. All units are waited for still."""
    code = list( code )
    for _ in range( self.pick( 1, 1, 2 ) ):
      at     = self.rng.randrange( len( code ) )
      octets = bytearray( code[at] )
      kind   = self.pick( "bit", "bit", "bit", "word", "instruction", "mailbox" )
      if kind == "bit":
        octets[self.rng.randrange( 32 )] ^= 1 << self.rng.randrange( 8 )
      elif kind == "word":
        place = 4 * self.rng.randrange( 8 )
        value = self.pick( 0, FAR, self.rng.randrange( 64 ), self.rng.randrange( 1 << 32 ),
                           1 << self.rng.randrange( 32 ) )
        octets[place : place + 4] = value.to_bytes( 4, "little" )
      elif kind == "instruction":
        octets = bytearray( self.rng.randbytes( 32 ) )
      else:
        words |= self.bad_mailbox( len( code ) )
      word0 = int.from_bytes( octets[:4], "little" ) | int( ALL_UNITS ) << 12
      code[at] = word0.to_bytes( 4, "little" ) + bytes( octets[4:] )
    return code

  def bad_mailbox( self, count: int ) -> dict[str, int]:
    """A word of the mailbox with a value that it should not have, or might. None lets a program write to itself,
    and none says that there is more memory than there is."""
    any_word = self.pick( 0, 1, 2, 5, CONTEXT, CONTEXT + 1, 1 << 31, FAR, self.rng.randrange( 1 << 32 ) )
    name = self.pick( "FLAGS", "POS", "LEN", "LIMIT", "EOS_COUNT", "EOS", "PROGRAM", "PROGRAM_COUNT", "TOKENS",
                      "CONTEXT", "DRAM_LINES", "WRITABLE" )
    value = {
      "PROGRAM":       self.pick( PROGRAM + 1, TABLES, LINES - 1, LINES, 1 << 31, FAR ),
      "PROGRAM_COUNT": self.pick( 0, 1, self.rng.randint( 0, count + 3 ), FAR ),
      "TOKENS":        self.pick( TOKENS, WRITABLE + 40, LINES - 2, LINES - 1, LINES, FAR ),
      "CONTEXT":       self.pick( 0, 3, 10, LINES * 16, 1 << 30, FAR ),
      "DRAM_LINES":    self.pick( 0, 3, 4, 5, PROGRAM + count // 2, WRITABLE, WRITABLE + 50, LINES - 1 ),
      "WRITABLE":      self.pick( WRITABLE + 60, LINES, FAR ) }.get( name, any_word )
    return { name: value }

  def mailbox( self, count: int ) -> dict[str, int]:
    length = self.pick( 1, 2, 3, 5, 8 )
    return { "DOORBELL": 1, "FLAGS": self.pick( 0, 0, 1, 2, 3 ), "POS": self.pick( 0, 0, 0, min( 2, length - 1 ) ),
             "LEN": length, "LIMIT": self.pick( 1, 1, 2, 3 ), "EOS_COUNT": self.rng.randrange( 5 ), "EOS": 3,
             "STATUS": 9, "PROGRAM": PROGRAM, "PROGRAM_COUNT": count, "TOKENS": TOKENS,
             "CONTEXT": self.pick( CONTEXT, CONTEXT, 9 ), "DRAM_LINES": LINES, "WRITABLE": WRITABLE }

  def case( self, kind: str ) -> Case:
    """A program with its memory."""
    if kind == "masks":
      self.rels = ( Rel.NONE, Rel.LAST )
    code  = self.program()
    words = self.mailbox( len( code ) )
    if kind == "masks":
      code = assign_waits( self.cfg, code, self.cfg.m_max )
    elif kind == "loose":
      code = [ i.but( wait=self.pick( 0, 0, self.rng.randrange( 32 ) ) ) for i in code ]
    else:
      code = [ i.but( wait=int( ALL_UNITS ) ) for i in code ]
    octets = [ encode( i ) for i in code ]
    if kind == "mutated":
      octets = self.mutate( octets, words )
    values = np.random.default_rng( self.seed )
    exponent = self.pick( 0, self.rng.randint( 96, 127 ) )
    memory = random_words( values, LINES * LINE_BYTES // 4, exponent )
    spad   = random_words( values, self.cfg.derived.spad_rows * self.cfg.n, exponent ).reshape( -1, self.cfg.n )
    memory[: TABLES * LINE_BYTES // 4] = 0
    tokens = 16 * TOKENS
    memory[tokens : tokens + CONTEXT + 1] = [ self.rng.randrange( self.pick( *[ 3 ] * 30, 20 ) )
                                              for _ in range( CONTEXT + 1 ) ]
    start  = 16 * PROGRAM
    memory[start : start + 8 * len( code )] = np.frombuffer( b"".join( octets ), dtype=np.uint32 )
    for name, value in words.items():
      memory[Word[name]] = value
    memory[Word.EOS + 1 : Word.EOS + 4] = ( 30, 7, 1 << 20 )
    return Case( self.seed, kind, len( code ), memory.view( np.uint8 ), spad )

def cases( first: int, kinds: tuple[str, ...] = ( "all", "mutated", "masks", "mutated" ) ) -> Iterator[Golden]:
  """Cases whose every step is defined, from a seed on, with what becomes of them."""
  for seed in range( first, first + ( 1 << 32 ) ):
    found = golden( Programmer( seed ).case( kinds[seed % len( kinds )] ) )
    if found:
      yield found

def loose_cases( first: int ) -> Iterator[Case]:
  """Programs with any wait masks: their results depend on time."""
  for seed in range( first, first + ( 1 << 32 ) ):
    yield Programmer( seed ).case( "loose" )
