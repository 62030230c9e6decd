"""The arithmetic of `npu.arch.numerics`, one number at a time, to be compiled: the same formulas, the same bits.

Names are those of the numpy functions, which explain them. Integers are int64 throughout: numba would make int64 of
int32 operations anyway, and float64 of uint64 mixed with int64.
"""

# Compiled functions carry no type hints: numba's signatures say what they take.
# mypy: allow-untyped-defs, allow-incomplete-defs

import math

import numpy as np
from numba import njit

from npu.arch.numerics import tables
from npu.arch.numerics.fp32 import LARGEST
from npu.arch.numerics.special import LOG2_E, P_FRACTION_BITS, U_FRACTION_BITS, U_MAX

# Part of whoever calls it: a call would cost more than most of these do, and it would keep loops from becoming vector
# instructions.
inner = njit( forceinline=True, error_model="numpy" )

SMALLEST     = np.float32( 2.0 ** -126 )
ZERO         = np.float32( 0 )
ONE          = np.float32( 1 )
ONE_AND_HALF = np.float32( 1.5 )
P_ONE        = 1 << P_FRACTION_BITS

EXP2NEG_BASE,    EXP2NEG_SLOPE    = tables.EXP2NEG_BASE, tables.EXP2NEG_SLOPE
RECIPROCAL_BASE, RECIPROCAL_SLOPE = tables.RECIPROCAL_BASE, tables.RECIPROCAL_SLOPE
RSQRT_BASE  = np.stack( [ tables.RSQRT_EVEN_BASE, tables.RSQRT_ODD_BASE ] )
RSQRT_SLOPE = np.stack( [ tables.RSQRT_EVEN_SLOPE, tables.RSQRT_ODD_SLOPE ] )

@inner
def bits( x ):
  """The pattern of a float32, 0 to 2**32 - 1."""
  return np.int64( np.float32( x ).view( np.uint32 ) )

@inner
def from_bits( pattern ):
  return np.uint32( pattern ).view( np.float32 )

@inner
def flush( x ):
  # Times zero, and not zero, as the sign stays.
  return x * ZERO if abs( x ) < SMALLEST else x

@inner
def fadd( a, b ):
  return flush( flush( a ) + flush( b ) )

@inner
def fsub( a, b ):
  return flush( flush( a ) - flush( b ) )

@inner
def fmul( a, b ):
  return flush( flush( a ) * flush( b ) )

@inner
def i2f( i ):
  return np.float32( i )

@inner
def biased_exponent( x ):
  return ( bits( x ) >> 23 ) & 0xFF

@inner
def add_exponent( x, k ):
  pattern  = bits( x )
  sign     = pattern & 0x80000000
  exponent = ( pattern >> 23 ) & 0xFF
  moved    = exponent + k
  result   = sign | ( moved << 23 ) | ( pattern & 0x007FFFFF )
  result   = sign | 0x7F7FFFFF if moved >= 255 else result
  return from_bits( sign if exponent == 0 or moved <= 0 else result )

@inner
def shift_right_rne( value, shift ):
  """As the numpy function, for shift >= 1."""
  shift = min( shift, 62 )
  floor = value >> shift
  rest  = value - ( floor << shift )
  half  = 1 << ( shift - 1 )
  return floor + np.int64( rest > half or ( rest == half and ( floor & 1 ) == 1 ) )

@inner
def f2i( x, scale_exponent, limit ):
  pattern  = bits( x )
  exponent = ( pattern >> 23 ) & 0xFF
  mantissa = ( pattern & 0x7FFFFF ) | 0x800000 if exponent > 0 else 0
  shift    = 150 + scale_exponent - exponent
  value    = shift_right_rne( mantissa, shift ) if shift > 0 else mantissa << min( -shift, 38 )
  value    = min( value, limit )
  return -value if pattern >> 31 == 1 else value

@inner
def to_integers( x, scale_exponent, limit, q ):
  """`f2i` of a row, float32 [length], into q, int64 [length].

  The quotient is exact in float64, whose exponents reach further, and `rint` rounds it as `f2i` does.
  """
  unit, most = math.ldexp( 1.0, -scale_exponent ), np.float64( limit )
  for i in range( len( x ) ):
    value = np.rint( np.float64( flush( x[i] ) ) * unit )
    q[i]  = np.int64( min( max( value, -most ), most ) )

@inner
def lsb_exponent( exponent, width ):
  return exponent - 127 - ( width - 2 )

@inner
def largest_exponent( x ):
  """Of a row, float32 [length]."""
  found = np.int64( 0 )
  for i in range( len( x ) ):
    found = max( found, biased_exponent( x[i] ) )
  return found

@inner
def exp2neg( u ):
  u        = min( u, U_MAX )
  fraction = u & ( ( 1 << U_FRACTION_BITS ) - 1 )
  segment  = fraction >> 6
  t        = EXP2NEG_BASE[segment] - ( ( EXP2NEG_SLOPE[segment] * ( fraction & 63 ) ) >> 6 )
  shift    = ( u >> U_FRACTION_BITS ) + ( tables.FRACTION_BITS - P_FRACTION_BITS )
  return ( t + ( 1 << ( shift - 1 ) ) ) >> shift

@inner
def seed( base, slope, fraction ):
  """Table value for a 23-bit mantissa fraction."""
  segment = fraction >> 17
  y = base[segment] - ( ( slope[segment] * ( ( fraction >> 6 ) & 0x7FF ) ) >> 11 )
  return add_exponent( i2f( y ), -tables.FRACTION_BITS )

@inner
def reciprocal( x ):
  pattern  = bits( x )
  exponent = ( pattern >> 23 ) & 0xFF
  fraction = pattern & 0x007FFFFF
  m  = from_bits( fraction | 127 << 23 )
  y0 = seed( RECIPROCAL_BASE, RECIPROCAL_SLOPE, fraction )
  y  = fadd( y0, fmul( y0, fsub( ONE, fmul( m, y0 ) ) ) )
  y  = LARGEST if exponent == 0 else add_exponent( y, 127 - exponent )
  return from_bits( bits( y ) | ( pattern & 0x80000000 ) )

@inner
def rsqrt( x ):
  pattern  = bits( x )
  exponent = ( pattern >> 23 ) & 0xFF
  fraction = pattern & 0x007FFFFF
  odd  = ( exponent - 127 ) & 1
  v    = add_exponent( from_bits( fraction | 127 << 23 ), odd )
  y0   = seed( RSQRT_BASE[odd], RSQRT_SLOPE[odd], fraction )
  half = add_exponent( fmul( fmul( v, y0 ), y0 ), -1 )
  y    = fmul( y0, fsub( ONE_AND_HALF, half ) )
  return LARGEST if exponent == 0 else add_exponent( y, -( ( exponent - 127 - odd ) >> 1 ) )

@inner
def sigmoid( x ):
  p = exp2neg( f2i( fmul( abs( x ), LOG2_E ), -U_FRACTION_BITS, U_MAX ) )
  numerator = p if bits( x ) >> 31 == 1 else P_ONE
  return fmul( i2f( numerator ), reciprocal( i2f( P_ONE + p ) ) )
