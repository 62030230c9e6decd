"""Vector unit, functional level: norms, RoPE, SwiGLU, softmax, quantisation, argmax, bit exact.

Arrays are float32 [..., length] where the last axis is one segment; leading axes are token rows and
segments. Every multiply and add is one flushed binary32 operation, in the order written.
"""

import numpy as np
from numpy.typing import NDArray

from npu.config import NpuConfig
from npu.isa import Error, Instruction
from npu.numerics.block_float import lsb_exponent, quantize
from npu.numerics.fp32 import F32, add_exponent, f2i, fadd, fmul, fsub, i2f
from npu.numerics.special import U_FRACTION_BITS, exp2neg, reciprocal, rsqrt, sigmoid

SCORE_LIMIT = ( 1 << 31 ) - 1    # softmax arguments: signed, 19 integer and 12 fraction bits

def check( cfg: NpuConfig, i: Instruction, rows: int ) -> Error:
  """Whether the unit accepts a command; the first thing wrong with it otherwise."""
  names = { f.name for f in i.format.fields }
  if rows == 0 or i.length == 0 or ( "segments" in names and i.segments == 0 ):
    return Error.ZERO_SIZE
  if i.mnemonic == "QUANTIZE" and i.bits not in ( 8, 16 ):
    return Error.BAD_FIELD
  if rows > cfg.m_max or ( i.mnemonic == "ROPE" and int( i.length ) % 2 ):
    return Error.BAD_SIZE
  if i.mnemonic == "RMSNORM" and i.length > cfg.k_max:
    return Error.BAD_SIZE
  return Error.NONE

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
