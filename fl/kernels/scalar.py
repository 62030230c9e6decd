"""The arithmetic of `npu.arch.numerics`, one number at a time, to be compiled: the same formulas, the same bits.

Names are those of the numpy functions, which explain them. Integers are int64 throughout: numba would make int64 of
int32 operations anyway, and float64 of uint64 mixed with int64.
"""

# A scalar of numba has the type that it is given; `Any` stands for float32 and int64 here.

from typing import Any

import numpy as np
from numba import njit

from npu.arch.numerics import tables
from npu.arch.numerics.fp32 import LARGEST
from npu.arch.numerics.special import LOG2_E, P_FRACTION_BITS, U_FRACTION_BITS, U_MAX

SMALLEST     = np.float32( 2.0 ** -126 )
ZERO         = np.float32( 0 )
ONE          = np.float32( 1 )
ONE_AND_HALF = np.float32( 1.5 )
P_ONE        = 1 << P_FRACTION_BITS

EXP2NEG_BASE,    EXP2NEG_SLOPE    = tables.EXP2NEG_BASE, tables.EXP2NEG_SLOPE
RECIPROCAL_BASE, RECIPROCAL_SLOPE = tables.RECIPROCAL_BASE, tables.RECIPROCAL_SLOPE
RSQRT_BASE  = np.stack( [ tables.RSQRT_EVEN_BASE, tables.RSQRT_ODD_BASE ] )
RSQRT_SLOPE = np.stack( [ tables.RSQRT_EVEN_SLOPE, tables.RSQRT_ODD_SLOPE ] )

@njit
def bits( x: Any ) -> Any:
  """The pattern of a float32, 0 to 2**32 - 1."""
  return np.int64( np.float32( x ).view( np.uint32 ) )

@njit
def from_bits( pattern: Any ) -> Any:
  return np.uint32( pattern ).view( np.float32 )

@njit
def flush( x: Any ) -> Any:
  # Times zero, and not zero, as the sign stays.
  return x * ZERO if abs( x ) < SMALLEST else x

@njit
def fadd( a: Any, b: Any ) -> Any:
  return flush( flush( a ) + flush( b ) )

@njit
def fsub( a: Any, b: Any ) -> Any:
  return flush( flush( a ) - flush( b ) )

@njit
def fmul( a: Any, b: Any ) -> Any:
  return flush( flush( a ) * flush( b ) )

@njit
def i2f( i: Any ) -> Any:
  return np.float32( i )

@njit
def biased_exponent( x: Any ) -> Any:
  return ( bits( x ) >> 23 ) & 0xFF

@njit
def add_exponent( x: Any, k: Any ) -> Any:
  pattern  = bits( x )
  sign     = pattern & 0x80000000
  exponent = ( pattern >> 23 ) & 0xFF
  moved    = exponent + k
  result   = sign | ( moved << 23 ) | ( pattern & 0x007FFFFF )
  result   = sign | 0x7F7FFFFF if moved >= 255 else result
  return from_bits( sign if exponent == 0 or moved <= 0 else result )

@njit
def shift_right_rne( value: Any, shift: Any ) -> Any:
  """As the numpy function, for shift >= 1."""
  shift = min( shift, 62 )
  floor = value >> shift
  rest  = value - ( floor << shift )
  half  = 1 << ( shift - 1 )
  return floor + np.int64( rest > half or ( rest == half and ( floor & 1 ) == 1 ) )

@njit
def f2i( x: Any, scale_exponent: Any, limit: Any ) -> Any:
  pattern  = bits( x )
  exponent = ( pattern >> 23 ) & 0xFF
  mantissa = ( pattern & 0x7FFFFF ) | 0x800000 if exponent > 0 else 0
  shift    = 150 + scale_exponent - exponent
  value    = shift_right_rne( mantissa, shift ) if shift > 0 else mantissa << min( -shift, 38 )
  value    = min( value, limit )
  return -value if pattern >> 31 == 1 else value

@njit
def lsb_exponent( exponent: Any, width: Any ) -> Any:
  return exponent - 127 - ( width - 2 )

@njit
def largest_exponent( x: Any ) -> Any:
  """Of a row, float32 [length]."""
  found = np.int64( 0 )
  for i in range( len( x ) ):
    found = max( found, biased_exponent( x[i] ) )
  return found

@njit
def exp2neg( u: Any ) -> Any:
  u        = min( u, U_MAX )
  fraction = u & ( ( 1 << U_FRACTION_BITS ) - 1 )
  segment  = fraction >> 6
  t        = EXP2NEG_BASE[segment] - ( ( EXP2NEG_SLOPE[segment] * ( fraction & 63 ) ) >> 6 )
  shift    = ( u >> U_FRACTION_BITS ) + ( tables.FRACTION_BITS - P_FRACTION_BITS )
  return ( t + ( 1 << ( shift - 1 ) ) ) >> shift

@njit
def seed( base: Any, slope: Any, fraction: Any ) -> Any:
  """Table value for a 23-bit mantissa fraction."""
  segment = fraction >> 17
  y = base[segment] - ( ( slope[segment] * ( ( fraction >> 6 ) & 0x7FF ) ) >> 11 )
  return add_exponent( i2f( y ), -tables.FRACTION_BITS )

@njit
def reciprocal( x: Any ) -> Any:
  pattern  = bits( x )
  exponent = ( pattern >> 23 ) & 0xFF
  fraction = pattern & 0x007FFFFF
  m  = from_bits( fraction | 127 << 23 )
  y0 = seed( RECIPROCAL_BASE, RECIPROCAL_SLOPE, fraction )
  y  = fadd( y0, fmul( y0, fsub( ONE, fmul( m, y0 ) ) ) )
  y  = LARGEST if exponent == 0 else add_exponent( y, 127 - exponent )
  return from_bits( bits( y ) | ( pattern & 0x80000000 ) )

@njit
def rsqrt( x: Any ) -> Any:
  pattern  = bits( x )
  exponent = ( pattern >> 23 ) & 0xFF
  fraction = pattern & 0x007FFFFF
  odd  = ( exponent - 127 ) & 1
  v    = add_exponent( from_bits( fraction | 127 << 23 ), odd )
  y0   = seed( RSQRT_BASE[odd], RSQRT_SLOPE[odd], fraction )
  half = add_exponent( fmul( fmul( v, y0 ), y0 ), -1 )
  y    = fmul( y0, fsub( ONE_AND_HALF, half ) )
  return LARGEST if exponent == 0 else add_exponent( y, -( ( exponent - 127 - odd ) >> 1 ) )

@njit
def sigmoid( x: Any ) -> Any:
  p = exp2neg( f2i( fmul( abs( x ), LOG2_E ), -U_FRACTION_BITS, U_MAX ) )
  numerator = p if bits( x ) >> 31 == 1 else P_ONE
  return fmul( i2f( numerator ), reciprocal( i2f( P_ONE + p ) ) )
