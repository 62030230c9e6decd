"""The special functions: table lookups in integers, refined in binary32 where more is needed.

Error bounds (each proven over every input fraction in tests/numerics/test_special.py):

| function   | method                                  | bound                                  |
|------------|-----------------------------------------|----------------------------------------|
| exp2neg    | 64 segments, one rounding               | 2.4e-5 absolute                        |
| reciprocal | 64 segments, one Newton step            | 1.2e-7 relative                        |
| rsqrt      | 2 x 64 segments, one Newton step        | 2.0e-7 relative                        |
| sigmoid    | exp2neg, reciprocal, one multiply       | 4e-4 absolute in x * sigmoid(x)        |
"""

import numpy as np
from numpy.typing import ArrayLike

from npu.arch.numerics import tables
from npu.arch.numerics.fp32 import (
    BIAS,
    F32,
    I64,
    LARGEST,
    SIGN_MASK,
    add_exponent,
    biased_exponent,
    bits,
    f2i,
    fadd,
    flush,
    fmul,
    from_bits,
    fsub,
    i2f,
)

U_FRACTION_BITS = 12                    # exp2neg's argument
U_MAX           = ( 1 << 17 ) - 1       # 31.99: every larger argument gives 0 as well
P_FRACTION_BITS = 15                    # exp2neg's result: 32768 is 1.0
LOG2_E          = np.float32( 1.4426950408889634 )

def interpolate( base: I64, slope: I64, segment: I64, low: I64, low_bits: int ) -> I64:
  """base[segment] - slope[segment] * low / 2**low_bits, truncated; units of 2**-20."""
  return base[segment] - ( ( slope[segment] * low ) >> low_bits )

def exp2neg( u: ArrayLike ) -> I64:
  """2**-u.

  Parameters
  ----------
  u
    Integers >= 0 with 12 fraction bits; above `U_MAX` they count as `U_MAX`.

  Returns
  -------
  int64 with 15 fraction bits, 0..32768, rounded half up once.
  """
  u = np.minimum( np.asarray( u, dtype=np.int64 ), U_MAX )
  whole, fraction = u >> U_FRACTION_BITS, u & ( ( 1 << U_FRACTION_BITS ) - 1 )
  t = interpolate( tables.EXP2NEG_BASE, tables.EXP2NEG_SLOPE, fraction >> 6, fraction & 63, 6 )
  shift = whole + ( tables.FRACTION_BITS - P_FRACTION_BITS )
  return ( t + ( np.int64( 1 ) << ( shift - 1 ) ) ) >> shift

def _seed( base: I64, slope: I64, mantissa: I64 ) -> F32:
  """Table value for a 23-bit mantissa fraction, as binary32 in (0.5, 1]; 11 bits interpolate."""
  y = interpolate( base, slope, mantissa >> 17, ( mantissa >> 6 ) & 0x7FF, 11 )
  return add_exponent( i2f( y ), -tables.FRACTION_BITS )

def _split( x: F32 ) -> tuple[I64, I64, F32]:
  """(biased exponent, 23-bit fraction, 1.fraction as binary32) of |x|."""
  fraction = bits( x ).reshape( x.shape ) & np.uint32( 0x007FFFFF )
  one_to_two = from_bits( fraction | np.uint32( BIAS << 23 ) ).reshape( x.shape )
  return biased_exponent( x ), fraction.astype( np.int64 ), one_to_two

def reciprocal( x: ArrayLike ) -> F32:
  """1 / x: y = y0 + y0 * (1 - m * y0) for the mantissa m, then the exponent.

  The usual y0 * (2 - m * y0) saves an add but rounds once more: 1.5e-7. 1/0 is the largest finite
  number.
  """
  x = flush( x )
  exponent, fraction, m = _split( x )
  y0 = _seed( tables.RECIPROCAL_BASE, tables.RECIPROCAL_SLOPE, fraction )
  y  = fadd( y0, fmul( y0, fsub( np.float32( 1 ), fmul( m, y0 ) ) ) )
  y  = add_exponent( y, BIAS - exponent )
  y  = np.where( exponent == 0, LARGEST, y )
  return from_bits( bits( y ) | ( bits( x ) & SIGN_MASK ) ).reshape( x.shape )

def rsqrt( x: ArrayLike ) -> F32:
  """1 / sqrt(|x|): y = y0 * (1.5 - 0.5 * (v * y0) * y0) for v in [1, 4), then half the exponent.

  rsqrt(0) is the largest finite number.
  """
  x = flush( x )
  exponent, fraction, m = _split( x )
  odd  = ( exponent - BIAS ) & 1
  v    = add_exponent( m, odd )
  y0   = np.where( odd == 1, _seed( tables.RSQRT_ODD_BASE, tables.RSQRT_ODD_SLOPE, fraction ),
                   _seed( tables.RSQRT_EVEN_BASE, tables.RSQRT_EVEN_SLOPE, fraction ) )
  half = add_exponent( fmul( fmul( v, y0 ), y0 ), -1 )
  y    = fmul( y0, fsub( np.float32( 1.5 ), half ) )
  y    = add_exponent( y, -( ( exponent - BIAS - odd ) >> 1 ) )
  return np.where( exponent == 0, LARGEST, y ).astype( np.float32 )

def sigmoid( x: ArrayLike ) -> F32:
  """1 / (1 + exp(-x)): with p = exp(-|x|), it is 1 / (1 + p) for x >= 0 and p / (1 + p) below."""
  x = flush( x )
  u = f2i( fmul( np.abs( x ), LOG2_E ), -U_FRACTION_BITS, U_MAX )
  p = exp2neg( u )
  one = np.int64( 1 << P_FRACTION_BITS )
  numerator = np.where( bits( x ).reshape( x.shape ) & SIGN_MASK, p, one )
  return fmul( i2f( numerator ), reciprocal( i2f( one + p ) ) )
