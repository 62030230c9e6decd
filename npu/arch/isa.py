"""The instruction set: the one definition of every encoding.

An instruction is 32 bytes, eight little-endian 32-bit words. Word 0 is the same for all of them;
fields that several instructions have stand at the same place in each, so that a decoder is wires.
Bits that an instruction does not name are written as zero and ignored when read. `docs/isa.md` is
generated from this module (`make docs`).

Addresses: `dram` counts lines of 64 bytes, `dst`/`src`/`src2` count scratchpad rows of n lanes, `target`
counts instructions. A matrix in the scratchpad is `rows` rows of tokens, each `stride` scratchpad rows
after the one before. Lengths count elements; the last scratchpad row of a length that n does not divide
is partly used.
"""

import re
import struct
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from functools import lru_cache
from math import copysign, isinf
from typing import TYPE_CHECKING

import numpy as np

from npu.errors import NpuError

INSTRUCTION_BYTES = 32

class Unit( IntFlag ):
  """Units that run instructions; a wait mask is a union of them."""
  MAC = 1; VEC = 2; ATT = 4; LOAD = 8; STORE = 16; CTRL = 0   # noqa: E702

class Cond( IntEnum ):
  """When an instruction is executed at all."""
  ALWAYS   = 0
  PREFILL  = 1   # not scoring, and POS < LEN: more of the prompt is to come
  GENERATE = 2   # not scoring
  SCORE    = 3   # the mailbox asks for the logits of every position
  LOGITS   = 4   # the mailbox asks for logits in memory (scoring implies it)

class Rel( IntEnum ):
  """The register that an address is relative to."""
  NONE  = 0
  POS   = 1      # position of the pass's first row
  LAST  = 2      # ROWS - 1: the pass's last row
  TOKEN = 3      # the last token found
  LEN   = 4      # tokens known so far

class GemmMode( IntEnum ):
  """Activation x weight formats of the MAC array."""
  I16_I8  = 0    # block-float INT16 x INT8, one FP32 scale per output channel
  I16_I16 = 1    # block-float INT16 x INT16, the same
  I8_I8   = 2    # block-float INT8 x INT8, the same
  I16_G4  = 3    # block-float INT16 x INT4 in K-groups, scale and zero point per group and channel
  I16_G8  = 4    # block-float INT16 x INT8 in K-groups, the same
  BF16    = 5    # floating: aligned sums of n products, FP32 accumulation
  FP16    = 6

class GemmFlag( IntFlag ):
  """Options of GEMM."""
  BIAS     = 1   # the stream carries a bias row per output tile
  RESIDUAL = 2   # the matrix at src2 is added to the result

class Convert( IntEnum ):
  """Formats of CONVERT: 16-bit patterns stand in bits 15:0 of a lane."""
  FP32_BF16 = 0
  FP32_FP16 = 1
  BF16_FP32 = 2
  FP16_FP32 = 3

class Status( IntEnum ):
  """What the mailbox says after a run."""
  IDLE    = 0
  RUNNING = 1
  EOS     = 2    # an end-of-sequence token was produced
  LIMIT   = 3    # as many tokens as asked for were produced
  CONTEXT = 4    # the context is full
  SCORED  = 5    # one pass was scored; the logits of its rows are in memory
  ERROR   = 15

class Error( IntEnum ):
  """Why a run ended with Status.ERROR."""
  NONE         = 0
  BAD_OPCODE   = 1
  BAD_FIELD    = 2    # a mode, condition, register or flag that is not defined
  BAD_DRAM     = 3    # a DRAM address range outside the memory, or a write below the first writable line
  BAD_SPAD     = 4    # a scratchpad address range outside the scratchpad
  ZERO_SIZE    = 5    # a zero length, row count, head count or segment count
  BAD_SIZE     = 6    # a size that the unit cannot do (odd head_dim, K or rows too large, K-group)
  BAD_TOKEN    = 7    # a token at or above the vocabulary size
  BAD_POSITION = 8    # a position past the KV cache, or a pass with nothing to do
  NO_PROGRESS  = 9    # two backward jumps at the same position
  BAD_PC       = 10   # execution ran past the end of the program
  BAD_MAILBOX  = 11   # positions or lengths in the mailbox that contradict each other

GROUP_SIZES = ( 0, 32, 64, 128 )   # what the `group` field stands for

#-------------------------------------------------------------------------
# Fields and formats
#-------------------------------------------------------------------------

@dataclass( frozen=True )
class Field:
  """A bit field: its word, lowest bit, width, how it is written in assembly, and what it means."""
  name: str
  word: int
  low: int
  width: int
  doc: str
  kind: str | type = "int"      # "int", "hex", "fp32", or an enumeration

@dataclass( frozen=True )
class Format:
  """One instruction: opcode, unit, operand fields besides those of word 0, meaning."""
  mnemonic: str
  opcode: int
  unit: Unit
  fields: tuple[Field, ...]
  doc: str

  @property
  def all_fields( self ) -> tuple[Field, ...]:
    """The common fields that the instruction's meaning depends on, then its own."""
    return COMMON + self.fields

OPCODE = Field( "opcode", 0, 0, 8, "which instruction" )
COMMON = (
  Field( "cond", 0,  8, 4, "executed only if this holds", Cond ),
  Field( "wait", 0, 12, 8, "units that must have finished everything dispatched to them", Unit ),
  Field( "rows", 0, 20, 8, "token rows; 0 stands for the register ROWS" ),
  Field( "rel",  0, 28, 4, "register that the address is relative to", Rel ) )

_DRAM     = Field( "dram",   1, 0, 32, "DRAM line address", "hex" )
_DST      = Field( "dst",    2, 0, 24, "scratchpad row of the result", "hex" )
_SRC      = Field( "src",    3, 0, 24, "scratchpad row of the operand", "hex" )
_SRC2     = Field( "src2",   4, 0, 24, "scratchpad row of the second operand", "hex" )
_SEGMENTS = Field( "segments", 4, 24, 8, "segments per token row, each in whole scratchpad rows" )
_LENGTH   = Field( "length", 5, 0, 20, "elements per segment" )
_DSTRIDE  = Field( "dst_stride", 6, 0, 16, "scratchpad rows from one token row to the next" )
_SSTRIDE  = Field( "src_stride", 6, 16, 16, "the same, of the operand" )
_S2STRIDE = Field( "src2_stride", 7, 0, 16, "the same, of the second operand" )
_ROWLINES = Field( "row_lines", 7, 0, 32, "DRAM lines from one row to the next, and per unit of `rel`" )

_UNARY  = ( _DST, _SRC, _SEGMENTS, _LENGTH, _DSTRIDE, _SSTRIDE )
_BINARY = ( _DST, _SRC, _SRC2, _SEGMENTS, _LENGTH, _DSTRIDE, _SSTRIDE, _S2STRIDE )

FORMATS = (
  Format( "WAIT",    0x01, Unit.CTRL, (), "does nothing once its wait mask is satisfied" ),
  Format( "PASS",    0x02, Unit.CTRL, (
    Field( "limit", 5, 0, 20, "the most rows of a pass" ), ),
    "ROWS = min(limit, LEN - POS); an error if that is zero" ),
  Format( "ADVANCE", 0x03, Unit.CTRL, (), "POS = POS + ROWS; an error if that is more than LEN" ),
  Format( "SETROWS", 0x04, Unit.CTRL, (), "ROWS = rows, 0 included" ),
  Format( "JUMP",    0x05, Unit.CTRL, (
    Field( "target", 1, 0, 32, "instruction to go on at" ), ),
    "goes on at `target`; going backward twice without POS having grown is an error" ),
  Format( "EMIT",    0x06, Unit.CTRL, (),
    "tokens[LEN] = TOKEN, LEN = LEN + 1; ends the run at an EOS token, the token limit or a full context" ),
  Format( "HALT",    0x07, Unit.CTRL, (
    Field( "status", 2, 24, 8, "status that the mailbox gets", Status ), ),
    "ends the run; only EOS, LIMIT, CONTEXT and SCORED may be said" ),
  Format( "LOAD",    0x10, Unit.LOAD, ( _DRAM, _DST, _LENGTH, _DSTRIDE, _ROWLINES ),
    "copies `rows` rows of `length` words from DRAM to the scratchpad" ),
  Format( "EMBED",   0x11, Unit.LOAD, (
    _DRAM, _DST, Field( "vocab", 3, 0, 24, "rows of the table: a token at or above is an error" ),
    _LENGTH, _DSTRIDE, _ROWLINES ),
    "row r of the result is row tokens[POS + r] of the table at `dram`" ),
  Format( "STORE",   0x12, Unit.STORE, ( _DRAM, _SRC, _LENGTH, _SSTRIDE, _ROWLINES ),
    "copies `rows` rows of `length` words from the scratchpad to DRAM" ),
  Format( "GEMM",    0x20, Unit.MAC, (
    _DRAM, _DST, Field( "mode", 2, 24, 8, "number formats", GemmMode ),
    _SRC, Field( "flags", 3, 24, 8, "options", GemmFlag ),
    _SRC2, Field( "group", 4, 24, 8, "K-group: 0 none, 1, 2, 3 for 32, 64, 128" ),
    Field( "k", 5, 0, 20, "elements of an operand row" ), _DSTRIDE, _SSTRIDE,
    Field( "cols", 7, 0, 20, "elements of a result row" ) ),
    "result = operand x weight stream (+ bias) (+ residual at src2, with dst_stride)" ),
  Format( "RMSNORM", 0x30, Unit.VEC, (
    Field( "inv_length", 1, 0, 32, "1 / the elements that are not padding", "fp32" ), *_BINARY[:-1],
    Field( "eps", 7, 0, 32, "added to the mean square", "fp32" ) ),
    "x / sqrt(mean(x^2) + eps) * gain; gain is one segment at src2" ),
  Format( "ROPE",    0x31, Unit.VEC, _BINARY,
    "rotates the pairs (i, i + length/2); each half in whole scratchpad rows; a lane of the table at "
    "src2 holds cos in bits 15:0 and sin in bits 31:16, both Q1.14" ),
  Format( "SWIGLU",  0x32, Unit.VEC, _BINARY, "silu(src) * src2" ),
  Format( "ADD",     0x33, Unit.VEC, _BINARY, "src + src2" ),
  Format( "MUL",     0x34, Unit.VEC, _BINARY, "src * src2" ),
  Format( "SCALE",   0x35, Unit.VEC, ( Field( "factor", 1, 0, 32, "constant", "fp32" ), *_UNARY ),
    "src * factor" ),
  Format( "QUANTIZE", 0x36, Unit.VEC, (
    *_UNARY, Field( "bits", 2, 24, 8, "8 or 16" ) ),
    "block floating point: integer in bits 15:0, exponent of the segment in bits 23:16 of each lane" ),
  Format( "SOFTMAX", 0x37, Unit.VEC, (
    Field( "factor", 1, 0, 32, "log2(e) times the scale of the scores", "fp32" ), *_UNARY ),
    "softmax of src * factor in base 2 over each segment" ),
  Format( "ARGMAX",  0x38, Unit.VEC, (
    Field( "base", 1, 0, 32, "index of the first element" ),
    Field( "first", 2, 24, 1, "1 starts a new search, 0 goes on with the last one" ), _SRC, _LENGTH ),
    "TOKEN = index of the largest element so far; the lowest index wins a tie" ),
  Format( "COPY",    0x39, Unit.VEC, _UNARY, "src, unchanged" ),
  Format( "CONVERT", 0x3A, Unit.VEC, (
    *_UNARY, Field( "formats", 2, 24, 8, "from and to", Convert ) ), "src in another format" ),
  Format( "ATTEND",  0x40, Unit.ATT, (
    _DRAM, _DST, Field( "heads", 2, 24, 8, "query heads" ),
    _SRC, Field( "kv_heads", 3, 24, 8, "key-value heads, a divisor of heads" ),
    Field( "src2", 4, 0, 24, "scratchpad row of the keys; the values follow directly", "hex" ),
    Field( "length", 5, 0, 10, "elements of a head" ),
    Field( "chunks", 5, 10, 22, "capacity of the cache in chunks of 16 tokens" ),
    _DSTRIDE, Field( "src_stride", 6, 16, 16, "of queries, keys and values alike" ),
    Field( "factor", 7, 0, 32, "log2(e) / sqrt(head_dim)", "fp32" ) ),
    "appends keys and values of this pass to the cache at `dram`, then causal attention; all operands "
    "are block-float INT16 per head" ),
)

BY_MNEMONIC = { f.mnemonic: f for f in FORMATS }
BY_OPCODE   = { f.opcode: f for f in FORMATS }

# Operations as the vector unit's commands name them: the low half of the opcode.
VECTOR_OP = { f.mnemonic: f.opcode & 0xF for f in FORMATS if f.unit == Unit.VEC }

#-------------------------------------------------------------------------
# Instructions
#-------------------------------------------------------------------------

class BadInstruction( ValueError ):
  """A word that does not decode; `error` is the code that the mailbox gets."""

  def __init__( self, error: Error, message: str ) -> None:
    super().__init__( message )
    self.error = error

def _to_bits( f: Field, value: float ) -> int:
  if f.kind == "fp32":
    with np.errstate( over="ignore" ):
      rounded = np.float32( value )
    if isinf( rounded ) and not isinf( value ):
      raise NpuError( f"field {f.name} is {value}; FP32 ends at 3.4e38" )
    return int( rounded.view( np.uint32 ) )
  raw = int( value )
  if not 0 <= raw < 1 << f.width:
    raise NpuError( f"field {f.name} is {value}; it has {f.width} bits, 0 to {( 1 << f.width ) - 1}" )
  return raw

def _from_bits( f: Field, raw: int ) -> int | float:
  if f.kind == "fp32":
    return float( np.uint32( raw ).view( np.float32 ) )
  if isinstance( f.kind, type ):
    if issubclass( f.kind, IntFlag ):
      known = 0
      for flag in f.kind:
        known |= int( flag )
      if raw & ~known:
        raise BadInstruction( Error.BAD_FIELD, f"{f.name} is {raw:#x}; bits of {known:#x} are defined" )
    elif raw not in { int( v ) for v in f.kind }:       # type: ignore[attr-defined]
      raise BadInstruction( Error.BAD_FIELD, f"{f.name} is {raw}; not defined" )
    return int( raw )
  return raw

@dataclass( frozen=True )
class Instruction:
  """A mnemonic and its operands by field name; operands that are not given are zero, zeros are not kept.

  Read an operand as an attribute: `i.length`.
  """
  mnemonic: str
  operands: dict[str, int | float] = field( default_factory=dict )

  def __post_init__( self ) -> None:
    if self.mnemonic not in BY_MNEMONIC:
      raise NpuError( f"unknown instruction '{self.mnemonic}'" )
    names = { f.name for f in self.format.all_fields }
    for name in self.operands:
      if name not in names:
        raise NpuError( f"{self.mnemonic} has no field '{name}'; it has {', '.join( sorted( names ) )}" )
    # Operands become plain attributes: a simulator reads them a million times.
    self.__dict__.update( dict.fromkeys( names, 0 ), **self.operands )
    self.__dict__["operands"] = { k: v for k, v in self.operands.items() if v or copysign( 1, v ) < 0 }

  @property
  def format( self ) -> Format:
    """The definition of this instruction."""
    return BY_MNEMONIC[self.mnemonic]

  if TYPE_CHECKING:
    def __getattr__( self, name: str ) -> int | float: ...

  def but( self, **changes: int | float ) -> "Instruction":
    """A copy with some operands changed."""
    return Instruction( self.mnemonic, { **self.operands, **changes } )

def mk( mnemonic: str, **operands: int | float ) -> Instruction:
  """Build an instruction: `mk( "COPY", dst=0, src=8, segments=1, length=64 )`."""
  return Instruction( mnemonic, operands )

def encode( instruction: Instruction ) -> bytes:
  """The 32 bytes of an instruction; NpuError if an operand does not fit its field."""
  words = [ instruction.format.opcode, 0, 0, 0, 0, 0, 0, 0 ]
  for f in instruction.format.all_fields:
    words[f.word] |= _to_bits( f, instruction.operands.get( f.name, 0 ) ) << f.low
  return struct.pack( "<8I", *words )

@lru_cache( maxsize=1 << 14 )
def decode( data: bytes ) -> Instruction:
  """The instruction in 32 bytes; the same object for the same bytes, as simulators meet them again and again.

  Raises
  ------
  BadInstruction
    The opcode is not defined, or an enumerated field has an undefined value.
  """
  words  = struct.unpack( "<8I", data )
  opcode = words[0] & 0xFF
  if opcode not in BY_OPCODE:
    raise BadInstruction( Error.BAD_OPCODE, f"opcode {opcode:#04x} is not defined" )
  fmt = BY_OPCODE[opcode]
  operands = {}
  for f in fmt.all_fields:
    raw = ( words[f.word] >> f.low ) & ( ( 1 << f.width ) - 1 )
    if raw:
      operands[f.name] = _from_bits( f, raw )
  return Instruction( fmt.mnemonic, operands )

#-------------------------------------------------------------------------
# Assembly text
#-------------------------------------------------------------------------

def _show( f: Field, value: int | float ) -> str:
  if isinstance( f.kind, type ) and issubclass( f.kind, IntFlag ):
    return "|".join( str( v.name ) for v in f.kind if int( v ) & int( value ) )
  if isinstance( f.kind, type ):
    return str( f.kind( value ).name )                  # type: ignore[call-arg, attr-defined]
  if f.kind == "fp32":
    pattern = int( np.float32( value ).view( np.uint32 ) )
    return str( np.float32( value ) ) if np.isfinite( np.float32( value ) ) else f"{pattern:#010x}"
  return f"{int( value ):#x}" if f.kind == "hex" else str( int( value ) )

def _parse( f: Field, text: str ) -> int | float:
  if isinstance( f.kind, type ):
    total = 0
    for name in text.split( "|" ):
      if name not in f.kind.__members__:                # type: ignore[attr-defined]
        raise NpuError( f"field {f.name}: '{name}' is not one of "
                        f"{', '.join( f.kind.__members__ )}" )   # type: ignore[attr-defined]
      total |= int( f.kind[name] )                      # type: ignore[index]
    return total
  try:
    if f.kind == "fp32" and text.startswith( "0x" ):
      return float( np.uint32( int( text, 16 ) ).view( np.float32 ) )
    return float( text ) if f.kind == "fp32" else int( text, 0 )
  except ( ValueError, OverflowError ):
    raise NpuError( f"field {f.name}: '{text}' is not a number" ) from None

def disassemble( instruction: Instruction ) -> str:
  """One line of assembly; operands that are zero are left out."""
  shown = [ f"{f.name}={_show( f, instruction.operands[f.name] )}" for f in instruction.format.all_fields
            if _to_bits( f, instruction.operands.get( f.name, 0 ) ) ]
  return f"{instruction.mnemonic:<8} {' '.join( shown )}".rstrip()

def assemble( line: str ) -> Instruction:
  """The instruction that one line of assembly says; `;` starts a comment.

  Raises
  ------
  NpuError
    An unknown mnemonic or field, a value that is no number or does not fit.
  """
  parts = re.sub( r";.*", "", line ).split()
  if not parts:
    raise NpuError( "an empty line is no instruction" )
  if parts[0] not in BY_MNEMONIC:
    raise NpuError( f"unknown instruction '{parts[0]}'" )
  fields = { f.name: f for f in BY_MNEMONIC[parts[0]].all_fields }
  operands: dict[str, int | float] = {}
  for part in parts[1:]:
    name, equals, text = part.partition( "=" )
    if not equals or name not in fields:
      raise NpuError( f"{parts[0]} has no field '{name}'; it has {', '.join( fields )}" )
    if name in operands:
      raise NpuError( f"{parts[0]} has field '{name}' twice" )
    operands[name] = _parse( fields[name], text )
    _to_bits( fields[name], operands[name] )
  return Instruction( parts[0], operands )

#-------------------------------------------------------------------------
# Documentation
#-------------------------------------------------------------------------

def markdown() -> str:
  """The instruction tables of docs/isa.md."""
  out = [ "## Common fields (word 0)\n", "| bits | field | meaning |", "|---|---|---|" ]
  for f in ( OPCODE, *COMMON ):
    out.append( f"| {f.low + f.width - 1}:{f.low} | `{f.name}` | {f.doc} |" )
  for enum in ( Cond, Rel, Unit, GemmMode, GemmFlag, Convert, Status, Error ):
    values = ", ".join( f"{int( v )} `{v.name}`" for v in enum )
    out.append( f"\n**{enum.__name__}**: {values}." )
  out.append( "\n## Instructions\n" )
  for fmt in FORMATS:
    unit = fmt.unit.name if fmt.unit else "CTRL"
    out += [ f"### `{fmt.mnemonic}` (opcode {fmt.opcode:#04x}, {unit})\n", f"{fmt.doc}.\n" ]
    if fmt.fields:
      out += [ "| word | bits | field | meaning |", "|---|---|---|---|" ]
      out += [ f"| {f.word} | {f.low + f.width - 1}:{f.low} | `{f.name}` | {f.doc} |"
               for f in sorted( fmt.fields, key=lambda f: ( f.word, f.low ) ) ]
      out.append( "" )
  return "\n".join( out ).rstrip() + "\n"
