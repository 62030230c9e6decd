"""IEEE-754 binary32, round to nearest even, subnormals flushed to zero: one function per operation.

Every function takes and returns numpy float32 arrays (or int64 where said), any shapes that
broadcast. "Flushed" means: an operand or a rounded result smaller in magnitude than 2**-126 counts as
zero with its sign. The result is rounded first, as numpy does it with subnormals, and flushed
after, so that a result which rounds up to 2**-126 survives. There is no fused multiply-add.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

EXPONENT_MASK = np.uint32( 0x7F800000 )
SIGN_MASK     = np.uint32( 0x80000000 )
BIAS          = 127
MAX_FINITE    = np.uint32( 0x7F7FFFFF )
LARGEST       = np.float32( MAX_FINITE.view( np.float32 ) )

def bits( x: F32 ) -> NDArray[np.uint32]:
  """The 32-bit pattern of each element."""
  return np.ascontiguousarray( x, dtype=np.float32 ).view( np.uint32 )

def from_bits( pattern: NDArray[np.uint32] ) -> F32:
  """Each 32-bit pattern read as binary32."""
  return np.ascontiguousarray( pattern, dtype=np.uint32 ).view( np.float32 )

def flush( x: ArrayLike ) -> F32:
  """Subnormals become zero with the same sign; everything else stays."""
  pattern = bits( np.asarray( x, dtype=np.float32 ) )
  return from_bits( np.where( pattern & EXPONENT_MASK, pattern, pattern & SIGN_MASK ) ).reshape(
    np.shape( x ) )

def fadd( a: ArrayLike, b: ArrayLike ) -> F32:
  """a + b. Overflow gives infinity, as IEEE-754 says; accepted programs never come near it."""
  with np.errstate( all="ignore" ):
    return flush( flush( a ) + flush( b ) )

def fsub( a: ArrayLike, b: ArrayLike ) -> F32:
  """a - b: an add with the sign of b flipped."""
  with np.errstate( all="ignore" ):
    return flush( flush( a ) - flush( b ) )

def fmul( a: ArrayLike, b: ArrayLike ) -> F32:
  """a * b."""
  with np.errstate( all="ignore" ):
    return flush( flush( a ) * flush( b ) )

def i2f( i: ArrayLike ) -> F32:
  """Integers (int64, or exact integers in float64) to the nearest binary32, ties to even."""
  return np.asarray( i ).astype( np.float32 )

def add_exponent( x: ArrayLike, k: ArrayLike ) -> F32:
  """x * 2**k by adding k to the exponent field; k is an integer array.

  Zero stays zero. Below the smallest normal number the result is zero, above the largest finite
  number it is that number, each with the sign of x: this operation makes no infinity.
  """
  pattern, k = np.broadcast_arrays( bits( flush( x ) ).reshape( np.shape( x ) ),
                                    np.asarray( k, dtype=np.int64 ) )
  exponent   = ( ( pattern & EXPONENT_MASK ) >> np.uint32( 23 ) ).astype( np.int64 )
  moved      = exponent + k
  sign       = pattern & SIGN_MASK
  fraction   = pattern & np.uint32( 0x007FFFFF )
  result     = sign | ( np.clip( moved, 0, 255 ).astype( np.uint32 ) << np.uint32( 23 ) ) | fraction
  result     = np.where( moved >= 255, sign | MAX_FINITE, result )
  return from_bits( np.where( ( exponent == 0 ) | ( moved <= 0 ), sign, result ) ).reshape(
    pattern.shape )

def biased_exponent( x: ArrayLike ) -> I64:
  """The exponent field, 0 to 255; 0 means zero, since subnormals are flushed."""
  pattern = bits( np.asarray( x, dtype=np.float32 ) )
  return ( ( pattern & EXPONENT_MASK ) >> np.uint32( 23 ) ).astype( np.int64 ).reshape( np.shape( x ) )

def shift_right_rne( value: I64, shift: ArrayLike ) -> I64:
  """value / 2**shift rounded to the nearest integer, ties to even; 0 <= value <= 2**61, shift >= 0."""
  shift = np.minimum( np.asarray( shift, dtype=np.int64 ), 62 )
  floor = value >> shift
  rest  = value - ( floor << shift )
  half  = np.where( shift > 0, np.int64( 1 ) << np.maximum( shift - 1, 0 ), np.int64( 1 ) )
  up    = ( rest > half ) | ( ( rest == half ) & ( ( floor & 1 ) == 1 ) )
  return floor + up

def f2i( x: ArrayLike, scale_exponent: ArrayLike, limit: int ) -> I64:
  """x / 2**scale_exponent to the nearest integer, ties to even, saturated to -limit..limit.

  This is the one float-to-integer converter: the quantiser uses it with the row's exponent, the
  softmax with a constant one.

  Parameters
  ----------
  x
    binary32 values (flushed on the way in).
  scale_exponent
    The weight of the result's least significant bit, as a power of two.
  limit
    The largest magnitude of the result, below 2**40.
  """
  x        = flush( x )
  exponent = biased_exponent( x )
  pattern  = bits( x ).reshape( x.shape ).astype( np.int64 )
  mantissa = np.where( exponent > 0, ( pattern & 0x7FFFFF ) | 0x800000, 0 )
  # mantissa * 2**(exponent - 150) / 2**scale_exponent: shift right by 150 + scale - exponent.
  shift    = 150 + np.asarray( scale_exponent, dtype=np.int64 ) - exponent
  left     = np.clip( -shift, 0, 38 )                 # any further left saturates as well
  value    = shift_right_rne( mantissa << left, np.maximum( shift, 0 ) )
  value    = np.minimum( value, limit )
  return np.where( pattern >> 31 == 1, -value, value )
