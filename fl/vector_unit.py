"""Vector unit, functional level: norms, RoPE, SwiGLU, softmax, quantisation, argmax, bit exact.

Arrays are float32 [..., length] where the last axis is one segment; leading axes are token rows and
segments. Every multiply and add is one flushed binary32 operation, in the order written. `execute` is a command
as a whole, from scratchpad words to scratchpad words; `VectorUnitFL` is the block's ports around it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymtl3 import mk_bits

from fl.agent import Agent, Process
from npu.arch.config import NpuConfig
from npu.arch.footprint import bounds, footprint, segment_rows
from npu.arch.isa import BY_MNEMONIC, VECTOR_OP, Convert, Error, Instruction, mk
from npu.arch.messages import Ack, Done, mk_spad_write, mk_vector_cmd
from npu.arch.numerics.block_float import lsb_exponent, pack, quantize
from npu.arch.numerics.fp32 import F32, add_exponent, bits, f2i, fadd, fmul, from_bits, fsub, i2f
from npu.arch.numerics.small_float import BF16, FP16, SmallFloat, round_to, to_fp32
from npu.arch.numerics.special import U_FRACTION_BITS, exp2neg, reciprocal, rsqrt, sigmoid

U32 = NDArray[np.uint32]

SCORE_LIMIT = ( 1 << 31 ) - 1    # softmax arguments: signed, 19 integer and 12 fraction bits

def check( cfg: NpuConfig, i: Instruction, rows: int, offset: int = 0 ) -> Error:
  """Whether the unit accepts a command; the first thing wrong with it otherwise.

  `offset` is the value of the register that `rel` names: token rows that `src` moves by.
  """
  names = { f.name for f in i.format.fields }
  if rows == 0 or i.length == 0 or ( "segments" in names and i.segments == 0 ):
    return Error.ZERO_SIZE
  if i.mnemonic == "QUANTIZE" and i.bits not in ( 8, 16 ):
    return Error.BAD_FIELD
  if rows > cfg.m_max or ( i.mnemonic == "ROPE" and int( i.length ) % 2 ):
    return Error.BAD_SIZE
  if i.mnemonic == "RMSNORM" and i.length > cfg.k_max:
    return Error.BAD_SIZE
  return bounds( cfg, footprint( cfg, i, rows, offset ), lines=0 )

def rmsnorm( x: F32, gain: F32, inv_length: float, eps: float ) -> F32:
  """x / sqrt(mean(x**2) + eps) * gain (Zhang and Sennrich, 2019).

  The sum of squares is an exact integer, of the row quantised to 16 bits.

  Parameters
  ----------
  x
    float32 [..., length].
  gain
    float32 [length].
  inv_length, eps
    1 / length and the norm's epsilon, as FP32 constants.
  """
  q, exponent = quantize( x, 16 )
  squares = ( q * q ).sum( axis=-1 )
  mean    = add_exponent( fmul( i2f( squares ), np.float32( inv_length ) ), 2 * lsb_exponent( exponent, 16 ) )
  r       = rsqrt( fadd( mean, np.float32( eps ) ) )
  return fmul( fmul( x, r[..., None] ), gain )

def rope( x: F32, cos: F32, sin: F32 ) -> F32:
  """Rotary position embedding in Hugging Face's split-half order (Su et al., 2021).

  Parameters
  ----------
  x
    float32 [..., length]; pairs are (i, i + length / 2).
  cos, sin
    float32 [..., length / 2], broadcast against x.
  """
  half = x.shape[-1] // 2
  a, b = x[..., :half], x[..., half:]
  return np.concatenate( [ fsub( fmul( a, cos ), fmul( b, sin ) ),
                           fadd( fmul( b, cos ), fmul( a, sin ) ) ], axis=-1 )

def rope_table( lanes: NDArray[np.uint32] ) -> tuple[F32, F32]:
  """(cos, sin) as binary32 from lanes that hold both as Q1.14, cos in the low half."""
  cos = ( lanes & np.uint32( 0xFFFF ) ).astype( np.uint16 ).view( np.int16 )
  sin = ( lanes >> np.uint32( 16 ) ).astype( np.uint16 ).view( np.int16 )
  return add_exponent( i2f( cos ), -14 ), add_exponent( i2f( sin ), -14 )

def swiglu( gate: F32, up: F32 ) -> F32:
  """silu(gate) * up, with silu(x) = x * sigmoid(x) (Shazeer, 2020)."""
  return fmul( fmul( gate, sigmoid( gate ) ), up )

def softmax( x: F32, factor: float ) -> F32:
  """Softmax over the last axis of scores x; `factor` is log2(e) times their scale.

  Scores become integers with 12 fraction bits in base 2; the maximum is rounded up to an integer;
  probabilities have 15 fraction bits and an exact sum.
  """
  scores = f2i( fmul( x, np.float32( factor ) ), -U_FRACTION_BITS, SCORE_LIMIT )
  top    = ceil_to_integer( scores.max( axis=-1 ) )
  p      = exp2neg( ( top[..., None] << U_FRACTION_BITS ) - scores )
  return fmul( i2f( p ), reciprocal( i2f( p.sum( axis=-1 ) ) )[..., None] )

def ceil_to_integer( scores: NDArray[np.int64] ) -> NDArray[np.int64]:
  """Scores with 12 fraction bits, rounded up to an integer."""
  return ( scores + ( ( 1 << U_FRACTION_BITS ) - 1 ) ) >> U_FRACTION_BITS

def argmax( x: F32, best: tuple[float, int] | None, base: int ) -> tuple[float, int]:
  """(largest value, its index) of x [length], whose first index is `base`, and of an earlier `best`.

  The lowest index wins a tie; -0 equals +0. Indices have 32 bits and wrap.
  """
  index = int( np.argmax( x ) )
  found = ( float( x[index] ), ( base + index ) & 0xFFFFFFFF )
  return found if best is None or found[0] > best[0] else best

def convert( formats: Convert, words: U32 ) -> U32:
  """CONVERT: lanes that hold binary32 or 16-bit patterns, as lanes of the other."""
  fmt: SmallFloat = BF16 if formats in ( Convert.FP32_BF16, Convert.BF16_FP32 ) else FP16
  if formats in ( Convert.BF16_FP32, Convert.FP16_FP32 ):
    return bits( to_fp32( fmt, words.astype( np.uint16 ) ) )
  return round_to( fmt, from_bits( words ) ).astype( np.uint32 )

#-------------------------------------------------------------------------
# The command as a whole
#-------------------------------------------------------------------------

Best = tuple[float, int] | None    # ARGMAX: the largest value so far and its index

_NAMES = { name: { f.name for f in BY_MNEMONIC[name].fields } for name in VECTOR_OP }

@dataclass( frozen=True )
class Operand:
  """A matrix in the scratchpad: token rows of `width` scratchpad rows, the first at `base`, `stride` apart."""
  base: int
  rows: int
  stride: int
  width: int

def operands( cfg: NpuConfig, i: Instruction, rows: int, offset: int = 0 ) -> list[Operand]:
  """What a command reads: src, and src2 if it has one; rows and offset as in `check`."""
  names   = _NAMES[i.mnemonic]
  segment = segment_rows( cfg, i )
  if i.mnemonic == "ARGMAX":
    return [ Operand( int( i.src ), 1, 0, segment ) ]
  width, stride = segment * int( i.segments ), int( i.src_stride )
  found = [ Operand( int( i.src ) + offset * stride, rows, stride, width ) ]
  if i.mnemonic == "RMSNORM":
    found.append( Operand( int( i.src2 ), 1, 0, segment ) )
  elif i.mnemonic == "ROPE":
    found.append( Operand( int( i.src2 ), rows, int( i.src2_stride ), segment // 2 ) )
  elif "src2" in names:
    found.append( Operand( int( i.src2 ), rows, int( i.src2_stride ), width ) )
  return found

def elements( i: Instruction, words: U32, segments: int ) -> U32:
  """The elements [rows, segments, length] in token rows of whole scratchpad rows [rows, lanes].

  A segment begins on a scratchpad row of its own, and so does each half of ROPE's.
  """
  parts = 2 * segments if i.mnemonic == "ROPE" else segments
  short = int( i.length ) * segments // parts
  apart = words.reshape( len( words ), parts, -1 )[..., :short]
  return apart.reshape( len( words ), segments, -1 )

def spread( cfg: NpuConfig, i: Instruction, result: U32 ) -> U32:
  """The inverse of `elements`; lanes past the end of a segment are zero."""
  rows, segments, length = result.shape
  parts = 2 * segments if i.mnemonic == "ROPE" else segments
  width = segment_rows( cfg, i ) * cfg.n * segments // parts
  words = np.zeros( ( rows, parts, width ), dtype=np.uint32 )
  words[..., : length * segments // parts] = result.reshape( rows, parts, -1 )
  return words.reshape( rows, -1 )

def execute( cfg: NpuConfig, i: Instruction, words: list[U32], best: Best = None,
             functions: Mapping[str, Callable[..., U32]] | None = None ) -> tuple[U32 | None, Best]:
  """What a command computes.

  Parameters
  ----------
  words
    The matrices of `operands` as they stand in the scratchpad, [rows, width * n].
  best
    What the last ARGMAX returned, None if there was none.
  functions
    FUNCTIONS, or others that compute the same.

  Returns
  -------
  The result in whole scratchpad rows [rows, width * n], None for ARGMAX; and what the next ARGMAX goes on with.
  """
  if i.mnemonic == "ARGMAX":
    return None, argmax( from_bits( words[0][0, : int( i.length )] ), None if i.first else best, int( i.base ) )
  x = elements( i, words[0], int( i.segments ) )
  return spread( cfg, i, ( functions or FUNCTIONS )[i.mnemonic]( i, x, *words[1:] ) ), best

def _rmsnorm( i: Instruction, x: U32, gains: U32 ) -> U32:
  gain = from_bits( gains[0, : int( i.length )] )
  return bits( rmsnorm( from_bits( x ), gain, float( i.inv_length ), float( i.eps ) ) )

def _rope( i: Instruction, x: U32, table: U32 ) -> U32:
  cos, sin = rope_table( table[:, None, : int( i.length ) // 2] )
  return bits( rope( from_bits( x ), cos, sin ) )

def _binary( function: Callable[[F32, F32], F32] ) -> Callable[..., U32]:
  return lambda i, x, y: bits( function( from_bits( x ), from_bits( elements( i, y, int( i.segments ) ) ) ) )

# From the elements of src [rows, segments, length] and the words of src2 to the elements of the result.
FUNCTIONS: Mapping[str, Callable[..., U32]] = {
  "RMSNORM":  _rmsnorm,
  "ROPE":     _rope,
  "SOFTMAX":  lambda i, x: bits( softmax( from_bits( x ), float( i.factor ) ) ),
  "SWIGLU":   _binary( swiglu ),
  "ADD":      _binary( fadd ),
  "MUL":      _binary( fmul ),
  "SCALE":    lambda i, x: bits( fmul( from_bits( x ), np.float32( i.factor ) ) ),
  "QUANTIZE": lambda i, x: pack( *quantize( from_bits( x ), int( i.bits ) ) ),
  "CONVERT":  lambda i, x: convert( Convert( int( i.formats ) ), x ),
  "COPY":     lambda i, x: x,
}

#-------------------------------------------------------------------------
# Component
#-------------------------------------------------------------------------

_MNEMONIC = { op: name for name, op in VECTOR_OP.items() }

# Fields of a command that stand for different fields of instructions.
_MODE  = { "QUANTIZE": "bits", "CONVERT": "formats" }
_PARAM = { "RMSNORM": "inv_length", "SCALE": "factor", "SOFTMAX": "factor" }

def _fp32( pattern: Any ) -> float:
  return float( np.uint32( int( pattern ) ).view( np.float32 ) )

def instruction_of( cmd: Any ) -> Instruction:
  """The instruction that a command message stands for; `op` is one of VECTOR_OP."""
  name  = _MNEMONIC[int( cmd.op )]
  found: dict[str, int | float] = { f: int( getattr( cmd, f ) ) for f in _NAMES[name] if hasattr( cmd, f ) }
  if name in _MODE:
    found[_MODE[name]] = int( cmd.mode )
  if name in _PARAM:
    found[_PARAM[name]] = _fp32( cmd.param )
  if name == "RMSNORM":
    found["eps"] = _fp32( cmd.eps )
  if name == "ARGMAX":
    found |= { "first": int( cmd.mode ) & 1, "base": int( cmd.param ) }
  return mk( name, rows=int( cmd.rows ), **found )

class VectorUnitFL( Agent ):
  """The block's ports around `execute`, in no particular time; see `rtl_models.vector_unit` for the ports."""

  def construct( s, cfg: NpuConfig ) -> None:
    BEAT = mk_bits( cfg.derived.beat_bits )
    SPAD = mk_bits( cfg.derived.spad_addr_bits )
    s.cfg = cfg
    s.add_recv( "cmd", mk_vector_cmd( cfg ) )
    s.add_send( "ack", Ack )
    s.add_send( "done", Done )
    s.add_master( "src", SPAD, BEAT )
    s.add_master( "src2", SPAD, BEAT )
    s.add_send( "wr", mk_spad_write( cfg ) )
    s.start()

  def process( s ) -> Process:
    """One command after the other: read everything, compute, write everything."""
    best: Best = None
    while True:
      cmd   = yield from s.recv( s.cmd_box )
      i     = instruction_of( cmd )
      error = check( s.cfg, i, int( i.rows ) )
      yield from s.send( s.ack_box, int( error ) )
      if error:
        continue
      words = []
      for name, o in zip( ( "src", "src2" ), operands( s.cfg, i, int( i.rows ) ), strict=False ):
        words.append( ( yield from s.read_matrix( name, o.base, o.rows, o.stride, o.width ) ) )
      result, best = execute( s.cfg, i, words, best )
      if result is not None:
        yield from s.write_matrix( i.dst, i.dst_stride, result )
      yield from s.send( s.done_box, best[1] if i.mnemonic == "ARGMAX" and best else 0 )
