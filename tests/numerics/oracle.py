"""What the arithmetic of `npu/arch/numerics` must give, from exact fractions; it shares no code with it.

Fractions round to binary32 and to the 16-bit formats by definition, and special functions follow their definition step
by step.
"""

from fractions import Fraction

from npu.arch.numerics import tables
from npu.arch.numerics.small_float import SmallFloat

SIGN       = 0x80000000
MIN_NORMAL = 0x00800000
INFINITY   = 0x7F800000
ONE        = 0x3F800000
TINY       = 2.0 ** -126   # the value of MIN_NORMAL

#-------------------------------------------------------------------------
# Rounding
#-------------------------------------------------------------------------

def value_of( pattern: int ) -> Fraction:
  """The exact value of a finite binary32 pattern, a subnormal counting as zero."""
  exponent, fraction = ( pattern >> 23 ) & 0xFF, pattern & 0x7FFFFF
  if exponent == 0:
    return Fraction( 0 )
  magnitude = ( 0x800000 | fraction ) * Fraction( 2 ) ** ( exponent - 150 )
  return -magnitude if pattern & SIGN else magnitude

def rounded_magnitude( value: Fraction, exponent_bits: int, fraction_bits: int, gradual: bool ) -> int:
  """|value| to the nearest number of a format, ties to even: its pattern without the sign.

  With `gradual` the spacing stops shrinking below the smallest normal number. Without, numbers
  below it give some integer under 1 << fraction_bits. The exponent has no upper end here.
  """
  value = abs( value )
  if value == 0:
    return 0
  bias     = ( 1 << ( exponent_bits - 1 ) ) - 1
  exponent = value.numerator.bit_length() - value.denominator.bit_length()
  if value < Fraction( 2 ) ** exponent:
    exponent -= 1
  if gradual:
    exponent = max( exponent, 1 - bias )
  # Python rounds a Fraction to the nearest integer, ties to even; a carry moves to the next exponent.
  units = round( value / Fraction( 2 ) ** ( exponent - fraction_bits ) )
  return ( ( exponent + bias - 1 ) << fraction_bits ) + units

def binary32( value: Fraction, zero_sign: int = 0 ) -> int:
  """The pattern of value: rounded with gradual underflow, overflowing to infinity, then flushed."""
  magnitude = rounded_magnitude( value, 8, 23, gradual=True )
  sign      = ( SIGN if value < 0 else 0 ) if value else zero_sign
  return sign | ( min( magnitude, INFINITY ) if magnitude >= MIN_NORMAL else 0 )

#-------------------------------------------------------------------------
# Operations
#-------------------------------------------------------------------------

def exact_add( a: int, b: int ) -> int:
  """The pattern of a + b. A sum of exactly zero is positive unless both operands are negative zeros."""
  x, y = value_of( a ), value_of( b )
  return binary32( x + y, a & b & SIGN if x == y == 0 else 0 )

def exact_sub( a: int, b: int ) -> int:
  """The pattern of a - b."""
  return exact_add( a, b ^ SIGN )

def exact_mul( a: int, b: int ) -> int:
  """The pattern of a * b."""
  return binary32( value_of( a ) * value_of( b ), ( a ^ b ) & SIGN )

def exact_f2i( a: int, scale_exponent: int, limit: int ) -> int:
  """The integer nearest to a / 2**scale_exponent, ties to even, within -limit..limit."""
  return max( -limit, min( limit, round( value_of( a ) / Fraction( 2 ) ** scale_exponent ) ) )

#-------------------------------------------------------------------------
# Block floating point and 16-bit formats
#-------------------------------------------------------------------------

def exact_quantize( row: list[int], width: int ) -> tuple[list[int], int]:
  """Block floating point from the definition: the integers and the shared exponent of one row."""
  exponent = max( ( a >> 23 ) & 0xFF for a in row )
  unit     = exponent - 127 - ( width - 2 )
  return [ exact_f2i( a, unit, 2 ** ( width - 1 ) - 1 ) for a in row ], exponent

def exact_small( fmt: SmallFloat, a: int ) -> int:
  """A 16-bit pattern by the rules of `round_to`: rounded to the format's precision as if its exponent
  had no ends, then saturated above and flushed below."""
  magnitude = rounded_magnitude( value_of( a ), fmt.exponent_bits, fmt.fraction_bits, gradual=False )
  largest   = ( ( 2 ** fmt.exponent_bits - 1 ) << fmt.fraction_bits ) - 1
  if magnitude < 1 << fmt.fraction_bits:
    magnitude = 0
  return ( 0x8000 if a & SIGN else 0 ) | min( magnitude, largest )

#-------------------------------------------------------------------------
# Special functions
#-------------------------------------------------------------------------

def exact_table( name: str, position: int, bits_left: int ) -> int:
  """A table's value in units of 2**-20: the chord of segment position >> bits_left, rounded down
  from its fall over the remaining bits, as the definition has it."""
  segment = position >> bits_left
  fall    = Fraction( int( getattr( tables, f"{name}_SLOPE" )[segment] ) * ( position % 2 ** bits_left ),
                      2 ** bits_left )
  return int( getattr( tables, f"{name}_BASE" )[segment] ) - fall.numerator // fall.denominator

def exact_exp2neg( u: int ) -> int:
  """2**-u from the table, rounded half up to 15 fraction bits."""
  units = Fraction( exact_table( "EXP2NEG", u % 4096, 6 ), 2 ** 5 ) / 2 ** ( u // 4096 )
  return int( units + Fraction( 1, 2 ) )

def exact_reciprocal( a: int ) -> int:
  """1 / a, each step one rounding: y0 + y0 * (1 - m * y0)."""
  table = exact_table( "RECIPROCAL", a % 2 ** 23 >> 6, 11 )
  m, y0 = ONE | a & 0x7FFFFF, binary32( Fraction( table, 2 ** 20 ) )
  y     = exact_add( y0, exact_mul( y0, exact_sub( ONE, exact_mul( m, y0 ) ) ) )
  return a & SIGN | binary32( value_of( y ) / Fraction( 2 ) ** ( ( a >> 23 & 0xFF ) - 127 ) )

def exact_rsqrt( a: int ) -> int:
  """1 / sqrt( |a| ), each step one rounding: y0 * (1.5 - 0.5 * ((v * y0) * y0))."""
  whole, odd = divmod( ( a >> 23 & 0xFF ) - 127, 2 )
  table = exact_table( "RSQRT_ODD" if odd else "RSQRT_EVEN", a % 2 ** 23 >> 6, 11 )
  v, y0 = ONE + ( odd << 23 ) | a & 0x7FFFFF, binary32( Fraction( table, 2 ** 20 ) )
  half  = exact_mul( exact_mul( exact_mul( v, y0 ), y0 ), 0x3F000000 )
  y     = exact_mul( y0, exact_sub( 0x3FC00000, half ) )
  return binary32( value_of( y ) / Fraction( 2 ) ** whole )

def exact_sigmoid( a: int ) -> int:
  """1 / (1 + p), or p / (1 + p) below zero, with p = exp2neg( |a| * log2( e ) )."""
  u = exact_f2i( exact_mul( a & ~SIGN, 0x3FB8AA3B ), -12, 0x1FFFF )   # log2( e ) = 1.442695
  p = exact_exp2neg( u )
  over = binary32( Fraction( p if a & SIGN else 32768 ) )
  return exact_mul( over, exact_reciprocal( binary32( Fraction( 32768 + p ) ) ) )
