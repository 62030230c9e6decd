"""The arithmetic of `npu/arch/numerics` against oracles that share no code with it.

Exact fractions round to binary32 by definition; numpy's float32, its float16 and ml_dtypes' bfloat16
take the large random sets; float64 is exact enough to measure the special functions' errors.
"""

import random
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.typing import ArrayLike, NDArray

from npu.arch.numerics import mk_tables, tables
from npu.arch.numerics.block_float import lsb_exponent, pack, quantize, unpack
from npu.arch.numerics.fp32 import (
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
  shift_right_rne,
)
from npu.arch.numerics.small_float import BF16, FP16, SmallFloat, fields, round_to, to_fp32
from npu.arch.numerics.special import U_FRACTION_BITS, U_MAX, exp2neg, reciprocal, rsqrt, sigmoid

SIGN       = 0x80000000
MIN_NORMAL = 0x00800000
MAX_FINITE = 0x7F7FFFFF
INFINITY   = 0x7F800000
ONE        = 0x3F800000
TINY       = 2.0 ** -126   # the value of MIN_NORMAL

#-------------------------------------------------------------------------
# Oracles
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

def numpy_flush( x: NDArray[np.float32] ) -> NDArray[np.float32]:
  """Flush by comparing values, where the project looks at fields."""
  return np.where( np.abs( x ) < np.float32( TINY ), np.copysign( np.float32( 0 ), x ), x )

#-------------------------------------------------------------------------
# Data and comparison
#-------------------------------------------------------------------------

def floats( patterns: Iterable[int] | NDArray[Any] ) -> NDArray[np.float32]:
  """binary32 values with these patterns."""
  return np.array( patterns if isinstance( patterns, np.ndarray ) else list( patterns ),
                   dtype=np.uint32 ).view( np.float32 )

def powers( exponent: ArrayLike ) -> NDArray[np.float64]:
  """2**exponent, exactly, in float64."""
  return np.ldexp( 1.0, np.asarray( exponent ) )

def assert_bits( got: NDArray[Any], expected: ArrayLike, *inputs: ArrayLike ) -> None:
  """Every bit agrees, the sign of zero too; a failure shows the first difference with its inputs."""
  assert got.dtype == np.float32
  pattern = np.ascontiguousarray( got ).view( np.uint32 ).reshape( got.shape )
  wanted  = np.asarray( expected )
  if wanted.dtype == np.float32:
    wanted = np.ascontiguousarray( wanted ).view( np.uint32 ).reshape( wanted.shape )
  assert pattern.shape == wanted.shape
  wrong = np.flatnonzero( pattern != wanted )
  if wrong.size:
    i     = wrong[0]
    shown = ", ".join( str( np.asarray( x ).flat[i] ) for x in inputs )
    pytest.fail( f"{wrong.size} of {pattern.size} differ; the first is [{i}] ({shown}): "
                 f"got {pattern.flat[i]:08X}, expected {int( wanted.flat[i] ):08X}" )

def check_pairs( f: Callable[..., Any], oracle: Callable[[int, int], int],
                 pairs: list[tuple[int, int]] ) -> None:
  """f on all pairs of patterns at once, against the oracle one by one."""
  a, b = zip( *pairs, strict=True )
  assert_bits( f( floats( a ), floats( b ) ), [ oracle( x, y ) for x, y in pairs ],
               [ f"{x:08X}" for x in a ], [ f"{y:08X}" for y in b ] )

def random_patterns( seed: int, count: int, low: int = 0, high: int = 254 ) -> NDArray[np.uint32]:
  """Patterns with exponent fields in low..high, every exponent as likely as the next."""
  rng = np.random.default_rng( seed )
  return ( rng.integers( 0, 2, count ) << 31 | rng.integers( low, high + 1, count ) << 23
           | rng.integers( 0, 1 << 23, count ) ).astype( np.uint32 )

# The ends, the middle and their neighbours: where carries and ties are.
CORNERS   = ( 0, 1, 2, 0x3FFFFF, 0x400000, 0x400001, 0x7FFFFE, 0x7FFFFF )
FRACTIONS = st.sampled_from( CORNERS ) | st.integers( 0, 0x7FFFFF )

def joined( sign: int, exponent: int, fraction: int ) -> int:
  """A binary32 pattern from its fields."""
  return sign << 31 | exponent << 23 | fraction

def patterns( low: int = 0, high: int = 254 ) -> st.SearchStrategy[int]:
  """Finite patterns, subnormal ones too, with exponent fields in low..high."""
  return st.builds( joined, st.integers( 0, 1 ), st.integers( low, high ), FRACTIONS )

@st.composite
def near_pairs( draw: st.DrawFn ) -> tuple[int, int]:
  """Pairs whose exponents are close enough for a sum to round or to cancel."""
  a        = draw( patterns() )
  exponent = ( a >> 23 & 0xFF ) + draw( st.integers( -27, 27 ) )
  return a, joined( draw( st.integers( 0, 1 ) ), min( max( exponent, 0 ), 254 ), draw( FRACTIONS ) )

@st.composite
def edge_pairs( draw: st.DrawFn ) -> tuple[int, int]:
  """Pairs whose product lies about the smallest normal or the largest finite number."""
  a        = draw( patterns() )
  exponent = draw( st.sampled_from( ( 126, 127, 128, 379, 380, 381, 382 ) ) ) - ( a >> 23 & 0xFF )
  return a, joined( draw( st.integers( 0, 1 ) ), min( max( exponent, 0 ), 254 ), draw( FRACTIONS ) )

PAIRS = st.lists( near_pairs() | edge_pairs() | st.tuples( patterns(), patterns() ),
                  min_size=1, max_size=20 )

#-------------------------------------------------------------------------
# Add, subtract, multiply
#-------------------------------------------------------------------------

ADD_ROWS = [
  # name                                       a           b           a + b
  ( "zero + zero",                             0x00000000, 0x00000000, 0x00000000 ),
  ( "-zero + -zero",                           0x80000000, 0x80000000, 0x80000000 ),
  ( "zero + -zero",                            0x00000000, 0x80000000, 0x00000000 ),
  ( "x - x is plus zero",                      0xBF800000, 0x3F800000, 0x00000000 ),
  ( "x + zero is x",                           0x80800000, 0x00000000, 0x80800000 ),
  ( "a subnormal counts as zero",              0x00800000, 0x00400000, 0x00800000 ),
  ( "the largest subnormal counts as zero",    0x80800000, 0x807FFFFF, 0x80800000 ),
  ( "two subnormals do not add up to normal",  0x00400000, 0x00400000, 0x00000000 ),
  ( "two negative subnormals are -zero",       0x80400000, 0x80400000, 0x80000000 ),
  ( "a subnormal difference is zero",          0x00800001, 0x80800000, 0x00000000 ),
  ( "a negative one is -zero",                 0x00800000, 0x80800001, 0x80000000 ),
  ( "the smallest normal difference",          0x01000000, 0x80800000, 0x00800000 ),
  ( "a tie stays at even",                     0x3F800000, 0x33800000, 0x3F800000 ),
  ( "a tie moves to even",                     0x3F800001, 0x33800000, 0x3F800002 ),
  ( "just above a tie",                        0x3F800000, 0x33800001, 0x3F800001 ),
  ( "just below a tie",                        0x3F800001, 0x337FFFFF, 0x3F800001 ),
  ( "a tie below a power of two",              0x3F800000, 0xB3000000, 0x3F800000 ),
  ( "just beyond it",                          0x3F800000, 0xB3000001, 0x3F7FFFFF ),
  ( "a sticky bit far below",                  0x3F800001, 0x26800000, 0x3F800001 ),
  ( "rounding carries into the exponent",      0x3FFFFFFF, 0x33800000, 0x40000000 ),
  ( "all but one bit cancels",                 0x3F800000, 0xBF7FFFFF, 0x33800000 ),
  ( "overflow",                                0x7F7FFFFF, 0x7F7FFFFF, 0x7F800000 ),
  ( "negative overflow",                       0xFF7FFFFF, 0xFF7FFFFF, 0xFF800000 ),
  ( "overflow by a tie",                       0x7F7FFFFF, 0x73000000, 0x7F800000 ),
  ( "no overflow just below it",               0x7F7FFFFF, 0x72FFFFFF, 0x7F7FFFFF ),
]

MUL_ROWS = [
  # name                                       a           b           a * b
  ( "zero * zero",                             0x00000000, 0x00000000, 0x00000000 ),
  ( "-zero * x",                               0x80000000, 0x3F800000, 0x80000000 ),
  ( "-zero * -x",                              0x80000000, 0xBF800000, 0x00000000 ),
  ( "a subnormal counts as zero",              0x007FFFFF, 0x7F000000, 0x00000000 ),
  ( "with its sign",                           0x807FFFFF, 0x7F000000, 0x80000000 ),
  ( "x * 1 is x",                              0x80800001, 0x3F800000, 0x80800001 ),
  ( "a tie stays at even",                     0x3F800003, 0x3FC00000, 0x3FC00004 ),
  ( "a tie moves to even",                     0x3F800001, 0x3FC00000, 0x3FC00002 ),
  ( "rounding carries into the exponent",      0x3FFFFFFF, 0x3F800001, 0x40000000 ),
  ( "rounds up to the smallest normal",        0x00FFFFFF, 0x3F000000, 0x00800000 ),
  ( "the same, negative",                      0x00FFFFFF, 0xBF000000, 0x80800000 ),
  ( "just not rounding up to it",              0x00FFFFFF, 0x3EFFFFFF, 0x00000000 ),
  ( "half the smallest normal",                0x00800000, 0xBF000000, 0x80000000 ),
  ( "deep underflow",                          0x00800000, 0x00800000, 0x00000000 ),
  ( "deep negative underflow",                 0x80800000, 0x00800000, 0x80000000 ),
  ( "overflow",                                0x7F000000, 0x40000000, 0x7F800000 ),
  ( "negative overflow by one unit",           0x7F7FFFFF, 0xBF800001, 0xFF800000 ),
  ( "just no overflow",                        0x7F7FFFFF, 0x3F7FFFFF, 0x7F7FFFFE ),
]

def named( rows: list[Any] ) -> list[Any]:
  """Rows of (name, values...) as named test cases."""
  return [ pytest.param( *values, id=name ) for name, *values in rows ]

@pytest.mark.parametrize( "a, b, expected", named( ADD_ROWS ) )
def test_fadd_row( a, b, expected ):
  # The rows are worked out by hand, so they test the oracle as well.
  assert exact_add( a, b ) == exact_add( b, a ) == expected
  for f, x, y in ( ( fadd, a, b ), ( fadd, b, a ), ( fsub, a, b ^ SIGN ) ):
    assert_bits( f( floats( [ x ] ), floats( [ y ] ) ), [ expected ] )

@pytest.mark.parametrize( "a, b, expected", named( MUL_ROWS ) )
def test_fmul_row( a, b, expected ):
  assert exact_mul( a, b ) == exact_mul( b, a ) == expected
  for x, y in ( ( a, b ), ( b, a ) ):
    assert_bits( fmul( floats( [ x ] ), floats( [ y ] ) ), [ expected ] )

OPERATIONS = named( [ ( "fadd", fadd, exact_add ), ( "fsub", fsub, exact_sub ),
                      ( "fmul", fmul, exact_mul ) ] )

@pytest.mark.parametrize( "f, oracle", OPERATIONS )
@settings( max_examples=400 )
@given( pairs=PAIRS )
def test_operation_rounds_the_exact_result( f, oracle, pairs ):
  check_pairs( f, oracle, pairs )

@pytest.mark.parametrize( "f, oracle", OPERATIONS )
def test_operation_is_exact_at_every_exponent_difference( f, oracle ):
  rng   = random.Random( 1 )
  pairs = []
  for difference in range( 254 ):
    for low in { 1, rng.randint( 1, 254 - difference ), 254 - difference }:
      for _ in range( 12 ):
        a = joined( rng.getrandbits( 1 ), low, rng.choice( CORNERS ) )
        b = joined( rng.getrandbits( 1 ), low + difference, rng.choice( CORNERS ) )
        pairs += [ ( a, b ), ( b, a ) ]
  check_pairs( f, oracle, pairs )

NUMPY_OPERATIONS = named( [ ( "fadd", fadd, np.add ), ( "fsub", fsub, np.subtract ),
                            ( "fmul", fmul, np.multiply ) ] )

@pytest.mark.parametrize( "f, ufunc", NUMPY_OPERATIONS )
@pytest.mark.parametrize( "low, high", named( [ ( "all", 0, 254 ), ( "tiny", 0, 30 ),
                                                ( "root of tiny", 48, 80 ), ( "about one", 115, 139 ),
                                                ( "huge", 225, 254 ) ] ) )
def test_operation_is_numpy_float32_then_flush( f, ufunc, low, high ):
  a = floats( random_patterns( 2, 1 << 18, low, high ) )
  b = floats( random_patterns( 3, 1 << 18, low, high ) )
  with np.errstate( all="ignore" ):
    expected = numpy_flush( ufunc( numpy_flush( a ), numpy_flush( b ) ) )
  assert_bits( f( a, b ), expected, a, b )

#-------------------------------------------------------------------------
# Flush, integers, exponents
#-------------------------------------------------------------------------

def test_flush_clears_subnormals_and_nothing_else():
  fractions = ( *CORNERS, 0x123456, 0x600000 )
  every     = [ joined( sign, exponent, fraction )
                for sign in ( 0, 1 ) for exponent in range( 255 ) for fraction in fractions ]
  assert_bits( flush( floats( every ) ), [ p if p >> 23 & 0xFF else p & SIGN for p in every ] )
  # An overflowed sum passes through unharmed.
  assert_bits( flush( floats( [ INFINITY, INFINITY | SIGN ] ) ), [ INFINITY, INFINITY | SIGN ] )

def test_bits_and_from_bits_are_inverse_on_every_kind_of_pattern():
  every = random_patterns( 4, 1 << 12 )
  assert np.array_equal( bits( floats( every ) ), every )
  assert np.array_equal( from_bits( every ).view( np.uint32 ), every )

def test_biased_exponent_is_the_field():
  every = random_patterns( 5, 1 << 14 )
  got   = biased_exponent( floats( every ) )
  assert got.dtype == np.int64
  assert np.array_equal( got, every >> np.uint32( 23 ) & np.uint32( 0xFF ) )

I2F_ROWS = [
  ( "zero",                  0,                     0x00000000 ),
  ( "one",                   1,                     0x3F800000 ),
  ( "minus one",            -1,                     0xBF800000 ),
  ( "largest exact",         2 ** 24,               0x4B800000 ),
  ( "tie stays at even",     2 ** 24 + 1,           0x4B800000 ),
  ( "tie moves to even",     2 ** 24 + 3,           0x4B800002 ),
  ( "negative tie",        -( 2 ** 24 + 3 ),        0xCB800002 ),
  ( "just above a tie",      2 ** 40 + 2 ** 16 + 1, 0x53800001 ),
  ( "just below a tie",      2 ** 40 + 2 ** 16 - 1, 0x53800000 ),
  ( "carry",                 2 ** 25 - 1,           0x4C000000 ),
  # Rounded to float64 first this would become a tie and go down.
  ( "no double rounding",    2 ** 62 + 2 ** 38 + 1, 0x5E800001 ),
  ( "largest",               2 ** 63 - 1,           0x5F000000 ),
  ( "smallest",             -2 ** 63,               0xDF000000 ),
]

@pytest.mark.parametrize( "i, expected", named( I2F_ROWS ) )
def test_i2f_row( i, expected ):
  assert binary32( Fraction( i ) ) == expected
  assert_bits( i2f( np.array( [ i ], dtype=np.int64 ) ), [ expected ] )

@settings( max_examples=300 )
@given( integers=st.lists( st.builds( lambda width, i, sign: sign * ( i >> ( 63 - width ) ),
                                      st.integers( 1, 63 ), st.integers( 0, 2 ** 63 - 1 ),
                                      st.sampled_from( ( -1, 1 ) ) ), min_size=1, max_size=20 ) )
def test_i2f_rounds_the_exact_integer( integers ):
  expected = [ binary32( Fraction( i ) ) for i in integers ]
  assert_bits( i2f( np.array( integers, dtype=np.int64 ) ), expected, integers )
  whole    = [ float( i ) for i in integers ]
  expected = [ binary32( Fraction( x ) ) for x in whole ]
  assert_bits( i2f( np.array( whole, dtype=np.float64 ) ), expected, whole )

ADD_EXPONENT_ROWS = [
  ( "nothing added",                   0xBF812345,    0, 0xBF812345 ),
  ( "up",                              0x3F812345,   10, 0x44812345 ),
  ( "down",                            0xBF812345,  -10, 0xBA812345 ),
  ( "zero stays zero",                 0x00000000,  300, 0x00000000 ),
  ( "-zero stays -zero",               0x80000000,    1, 0x80000000 ),
  ( "a subnormal counts as zero",      0x80400000,    5, 0x80000000 ),
  ( "to the smallest normal",          0x01000000,   -1, 0x00800000 ),
  ( "below it",                        0x00FFFFFF,   -1, 0x00000000 ),
  ( "below it, negative",              0x80FFFFFF,   -1, 0x80000000 ),
  ( "into the largest exponent",       0x7E812345,    1, 0x7F012345 ),
  ( "above it: the largest finite",    0x7F000000,    1, 0x7F7FFFFF ),
  ( "above it, negative",              0xFF000000,    1, 0xFF7FFFFF ),
  ( "the whole range up",              0x00812345,  253, 0x7F012345 ),
  ( "the whole range down",            0xFF012345, -253, 0x80812345 ),
  ( "far above",                       0x3F800000,  1 << 40, 0x7F7FFFFF ),
  ( "far below",                       0xBF800000, -1 << 40, 0x80000000 ),
]

@pytest.mark.parametrize( "a, k, expected", named( ADD_EXPONENT_ROWS ) )
def test_add_exponent_row( a, k, expected ):
  assert_bits( add_exponent( floats( [ a ] ), k ), [ expected ] )

def test_add_exponent_is_exact_from_every_exponent_by_every_amount():
  a = floats( joined( sign, exponent, fraction ) for sign in ( 0, 1 ) for exponent in range( 1, 255 )
              for fraction in ( 0, 0x2AAAAA, 0x7FFFFF ) )
  k = np.arange( -260, 261 )[:, None]
  scaled   = a.astype( np.float64 ) * powers( k )
  largest  = float( np.finfo( np.float32 ).max )
  expected = np.clip( np.where( np.abs( scaled ) < TINY, np.copysign( 0.0, scaled ), scaled ),
                      -largest, largest )
  assert_bits( add_exponent( a, k ), expected.astype( np.float32 ) )

SHIFT_ROWS = [
  ( "no shift",            5,             0,  5 ),
  ( "half to even down",   1,             1,  0 ),
  ( "half to even up",     3,             1,  2 ),
  ( "below half",          5,             2,  1 ),
  ( "above half",          7,             2,  2 ),
  ( "tie up to even",      6,             2,  2 ),
  ( "tie down to even",    10,            2,  2 ),
  ( "all of it",           0xFFFFFF,      24, 1 ),
  ( "just under half",     0x7FFFFF,      24, 0 ),
  ( "exactly half",        0x800000,      24, 0 ),
  ( "beyond",              0xFFFFFF,      25, 0 ),
  ( "far beyond",          0xFFFFFF,     400, 0 ),
  ( "largest value",       2 ** 61,       61, 1 ),
  ( "and half of it",      2 ** 61,       62, 0 ),
]

@pytest.mark.parametrize( "value, shift, expected", named( SHIFT_ROWS ) )
def test_shift_right_rne_row( value, shift, expected ):
  assert shift_right_rne( np.array( [ value ] ), shift ).tolist() == [ expected ]

# Values below 2**61 cover every use: what is shifted right is a 24-bit mantissa.
@settings( max_examples=300 )
@given( value=st.integers( 0, 2 ** 61 - 1 ) | st.integers( 0, 64 ), shift=st.integers( 0, 400 ),
        tie=st.booleans() )
def test_shift_right_rne_is_the_nearest_integer( value, shift, tie ):
  if tie and 0 < shift < 60:
    value = ( value >> shift << shift ) | 1 << ( shift - 1 )
  got = shift_right_rne( np.array( [ value ], dtype=np.int64 ), shift )
  assert got.tolist() == [ round( Fraction( value, 1 << shift ) ) ]

F2I_ROWS = [
  # name                                a           scale  limit        result
  ( "zero",                             0x00000000,     0, 100,              0 ),
  ( "-zero",                            0x80000000,     0, 100,              0 ),
  ( "a subnormal counts as zero",       0x007FFFFF,  -149, 2 ** 30,          0 ),
  ( "smallest normal, exactly",         0x00800000,  -149, 2 ** 30,    2 ** 23 ),
  ( "half goes to even, 0",             0x3F000000,     0, 100,              0 ),
  ( "just above half",                  0x3F000001,     0, 100,              1 ),
  ( "just below half",                  0x3EFFFFFF,     0, 100,              0 ),
  ( "1.5 goes to even, 2",              0x3FC00000,     0, 100,              2 ),
  ( "2.5 goes to even, 2",              0x40200000,     0, 100,              2 ),
  ( "-2.5 goes to even, -2",            0xC0200000,     0, 100,             -2 ),
  ( "-1.5 goes to even, -2",            0xBFC00000,     0, 100,             -2 ),
  ( "a scale",                          0x40200000,    -4, 100,             40 ),
  ( "a coarse scale",                   0x42C80000,     3, 100,             12 ),   # 100 / 8 = 12.5
  ( "at the limit",                     0x42C80000,     0, 100,            100 ),
  ( "over the limit",                   0x42CA0000,     0, 100,            100 ),
  ( "under the negative limit",         0xC2CA0000,     0, 100,           -100 ),
  ( "rounds to the limit",              0x42C90000,     0, 100,            100 ),   # 100.5
  ( "rounds over the limit",            0x42CB0000,     0, 101,            101 ),   # 101.5
  ( "largest finite saturates",         0x7F7FFFFF,     0, 2 ** 40 - 1, 2 ** 40 - 1 ),
  ( "finest scale saturates",           0xFF7FFFFF,  -300, 2 ** 40 - 1, 1 - 2 ** 40 ),
  ( "coarsest scale is zero",           0xFF7FFFFF,   300, 2 ** 40 - 1,        0 ),
  ( "shifted left without loss",        0x3FFFFFFF,   -38, 2 ** 40 - 1, 0xFFFFFF << 15 ),
  ( "one more reaches the limit",       0x3FFFFFFF,   -39, 2 ** 40 - 1, 0xFFFFFF << 16 ),
  ( "and one more saturates",           0x3FFFFFFF,   -40, 2 ** 40 - 1, 2 ** 40 - 1 ),
]

@pytest.mark.parametrize( "a, scale, limit, expected", named( F2I_ROWS ) )
def test_f2i_row( a, scale, limit, expected ):
  assert exact_f2i( a, scale, limit ) == expected
  got = f2i( floats( [ a ] ), scale, limit )
  assert got.dtype == np.int64
  assert got.tolist() == [ expected ]

@settings( max_examples=400 )
@given( data=st.lists( st.tuples( patterns(), st.integers( -70, 70 ) ), min_size=1, max_size=20 ),
        limit=st.integers( 1, 2 ** 40 - 1 ) | st.sampled_from( ( 127, 32767, U_MAX, 2 ** 40 - 1 ) ) )
def test_f2i_is_the_nearest_integer( data, limit ):
  # Drawn about the value's own exponent: most other scales only give zero or the limit.
  cases = [ ( a, ( a >> 23 & 0xFF ) - 127 + offset ) for a, offset in data ]
  a, scale = zip( *cases, strict=True )
  got      = f2i( floats( a ), np.array( scale ), limit )
  assert got.tolist() == [ exact_f2i( x, s, limit ) for x, s in cases ]

#-------------------------------------------------------------------------
# Block floating point
#-------------------------------------------------------------------------

QUANTIZE_ROWS = [
  # name                      bits row                                   E  q
  ( "zeros",                    16, [ 0.0, 0.0, 0.0 ],                      0, [ 0, 0, 0 ] ),
  ( "signed zeros",              8, [ -0.0, 0.0 ],                          0, [ 0, 0 ] ),
  ( "subnormals are zeros",     16, [ 2.0 ** -127, -2.0 ** -149 ],          0, [ 0, 0 ] ),
  ( "one, 16 bits",             16, [ 1.0, -1.0 ],                        127, [ 16384, -16384 ] ),
  ( "one, 8 bits",               8, [ 1.0, -1.0, 0.5 ],                   127, [ 64, -64, 32 ] ),
  ( "ties, 16 bits",            16, [ 1.0, 1 / 2 ** 15, -5 / 2 ** 15 ],   127, [ 16384, 0, -2 ] ),
  ( "ties up, 16 bits",         16, [ 1.0, 3 / 2 ** 15, -7 / 2 ** 15 ],   127, [ 16384, 2, -4 ] ),
  ( "ties, 8 bits",              8, [ 1.0, 1 / 2 ** 7, -5 / 2 ** 7 ],     127, [ 64, 0, -2 ] ),
  ( "ties up, 8 bits",           8, [ 1.0, 3 / 2 ** 7, -7 / 2 ** 7 ],     127, [ 64, 2, -4 ] ),
  ( "just above a tie",         16, [ 1.0, 2.0 ** -15 + 2.0 ** -38 ],     127, [ 16384, 1 ] ),
  ( "saturates, 16 bits",       16, [ 2 - 2.0 ** -23, 2.0 ** -23 - 2 ],   127, [ 32767, -32767 ] ),
  ( "saturates, 8 bits",         8, [ 2 - 2.0 ** -23, 2.0 ** -7 - 2 ],    127, [ 127, -127 ] ),
  ( "just does not saturate",    8, [ 2 - 2.0 ** -7 - 2.0 ** -23, -1.75 ], 127, [ 127, -112 ] ),
  ( "smallest normal",          16, [ TINY, -TINY ],                        1, [ 16384, -16384 ] ),
  ( "huge spread",              16, [ 2.0 ** 127, TINY, -TINY, 1.0 ],     254, [ 16384, 0, 0, 0 ] ),
  ( "the last that counts",     16, [ 2.0 ** 15, 1.0, -1.5 ],             142, [ 16384, 0, -1 ] ),
  ( "exponent of a negative",   16, [ 1.0, -4.0 ],                        129, [ 4096, -16384 ] ),
]

@pytest.mark.parametrize( "width, row, exponent, q", named( QUANTIZE_ROWS ) )
def test_quantize_row( width, row, exponent, q ):
  x = np.array( row, dtype=np.float32 )
  assert exact_quantize( x.view( np.uint32 ).tolist(), width ) == ( q, exponent )
  got, e = quantize( x, width )
  assert ( got.tolist(), int( e ) ) == ( q, exponent )

@pytest.mark.parametrize( "width", ( 8, 16 ) )
@settings( max_examples=300 )
@given( row=st.integers( 0, 254 ).flatmap( lambda top: st.lists(
  patterns( max( 0, top - 18 ), top ) | patterns( 0, top ), min_size=1, max_size=16 ) ) )
def test_quantize_follows_its_definition( width, row ):
  q, exponent = quantize( floats( row ), width )
  assert ( q.tolist(), int( exponent ) ) == exact_quantize( row, width )

@pytest.mark.parametrize( "width", ( 8, 16 ) )
def test_quantize_is_float64_rint_on_many_rows( width ):
  x = floats( random_patterns( 6, 1 << 19, 100, 118 ) ).reshape( -1, 4, 32 )
  x = add_exponent( x, np.arange( -90, 4096 - 90 ).reshape( -1, 1, 1 ) % 220 - 90 )
  q, exponent = quantize( x, width )
  assert q.shape == x.shape and exponent.shape == x.shape[:-1]
  unit  = powers( exponent - 127 - ( width - 2 ) )[..., None]
  limit = 2 ** ( width - 1 ) - 1
  assert np.array_equal( q, np.clip( np.rint( x.astype( np.float64 ) / unit ), -limit, limit ) )
  # Half a unit, except where the limit cuts off a value that would have rounded to the next power.
  error = np.abs( q * unit - x )
  assert np.all( error <= np.where( np.abs( q ) == limit, unit, unit / 2 ) )
  # Some element of the row has the shared exponent, so all its bits are in use.
  assert np.all( np.abs( q ).max( axis=-1 ) >= 2 ** ( width - 2 ) )

def test_quantize_treats_each_row_alone():
  x = floats( random_patterns( 7, 6 * 5, 110, 140 ) ).reshape( 6, 5 )
  q, exponent = quantize( x, 16 )
  for i in range( len( x ) ):
    q_i, exponent_i = quantize( x[i], 16 )
    assert np.array_equal( q[i], q_i ) and exponent[i] == exponent_i

def test_lsb_exponent_is_the_weight_of_one_unit():
  # 1.0 is 16384 units of 2**-14, or 64 of 2**-6.
  assert lsb_exponent( 127, 16 ) == -14
  assert lsb_exponent( 127, 8 ) == -6
  assert lsb_exponent( [ 0, 254 ], 16 ).tolist() == [ -141, 113 ]

PACK_ROWS = [
  # name                 q       E    lane
  ( "zero",                   0,   0, 0x00000000 ),
  ( "one",                    1, 127, 0x007F0001 ),
  ( "minus one",             -1, 127, 0x007FFFFF ),
  ( "largest",            32767, 254, 0x00FE7FFF ),
  ( "smallest",          -32767,   1, 0x00018001 ),
  ( "full negative",     -32768, 255, 0x00FF8000 ),
]

@pytest.mark.parametrize( "q, exponent, lane", named( PACK_ROWS ) )
def test_pack_row( q, exponent, lane ):
  packed = pack( np.array( [ [ q, 0 ] ] ), np.array( [ exponent ] ) )
  assert packed.dtype == np.uint32
  # The exponent is in the second lane as well.
  assert packed.tolist() == [ [ lane, exponent << 16 ] ]
  back, e = unpack( packed )
  assert ( back.tolist(), e.tolist() ) == ( [ [ q, 0 ] ], [ exponent ] )

@pytest.mark.parametrize( "width", ( 8, 16 ) )
def test_unpack_inverts_pack_on_quantized_rows( width ):
  q, exponent = quantize( floats( random_patterns( 8, 1 << 14 ) ).reshape( 8, -1, 16 ), width )
  lanes       = pack( q, exponent )
  assert lanes.shape == q.shape
  assert not ( lanes >> np.uint32( 24 ) ).any()
  assert np.array_equal( lanes >> np.uint32( 16 ), np.broadcast_to( exponent[..., None], q.shape ) )
  back, e = unpack( lanes )
  assert np.array_equal( back, q ) and np.array_equal( e, exponent )

#-------------------------------------------------------------------------
# Special functions: every fraction, so the bounds are proven
#-------------------------------------------------------------------------

def all_mantissas( exponent: int ) -> Iterable[NDArray[np.float32]]:
  """Every positive binary32 number with this exponent field, 2**20 at a time to stay in the caches."""
  first = exponent << 23
  for start in range( first, first + ( 1 << 23 ), 1 << 20 ):
    yield floats( np.arange( start, start + ( 1 << 20 ), dtype=np.uint32 ) )

def test_exp2neg_is_within_its_bound_monotone_and_in_range():
  # To twice U_MAX as the interface defines it: 17 bits, 12 of them fraction.
  assert U_FRACTION_BITS == 12 and U_MAX == 0x1FFFF
  u = np.arange( 1 << 18 )
  p = exp2neg( u )
  assert p.dtype == np.int64
  assert p[0] == 32768
  assert p.min() == 0 and p.max() == 32768
  assert np.all( np.diff( p ) <= 0 )
  assert np.abs( p / 32768 - np.exp2( -u / 4096 ) ).max() <= 2.4e-5

def test_exp2neg_of_a_whole_number_is_a_power_of_two():
  # From 16 on zero: the table starts a little below 1, and half of that does not round up.
  assert exp2neg( np.arange( 33 ) << 12 ).tolist() == [ 32768 >> k for k in range( 33 ) ]

@pytest.mark.parametrize( "u", ( 0x1FFFF, 0x20000, 0x20001, 0x40000, 1 << 31, 1 << 32, 1 << 62 ) )
def test_exp2neg_is_zero_from_its_largest_argument_on( u ):
  assert exp2neg( u ) == 0

def test_reciprocal_of_every_mantissa_is_within_its_bound():
  worst = max( np.abs( reciprocal( m ).astype( np.float64 ) * m - 1 ).max()
               for m in all_mantissas( 127 ) )
  assert worst <= 1.2e-7

@pytest.mark.parametrize( "exponent", named( [ ( "even", 127 ), ( "odd", 128 ) ] ) )
def test_rsqrt_of_every_mantissa_is_within_its_bound( exponent ):
  worst = max( np.abs( rsqrt( m ).astype( np.float64 ) * np.sqrt( m.astype( np.float64 ) ) - 1 ).max()
               for m in all_mantissas( exponent ) )
  assert worst <= 2.0e-7

def mantissas_at_every_exponent() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
  """(m in [1, 2) of shape [1, count], exponent fields 1..254 of shape [254, 1])."""
  chosen = np.concatenate( [ CORNERS, random_patterns( 9, 400 ) & np.uint32( 0x7FFFFF ) ] )
  return floats( chosen.astype( np.uint32 ) + np.uint32( ONE ) )[None, :], np.arange( 1, 255 )[:, None]

def test_reciprocal_moves_the_exponent_exactly():
  m, exponent = mantissas_at_every_exponent()
  x        = ( m * powers( exponent - 127 ) ).astype( np.float32 )
  exact    = reciprocal( m ).astype( np.float64 ) * powers( 127 - exponent )
  expected = np.where( exact < TINY, 0, exact ).astype( np.float32 )
  assert_bits( reciprocal( x ), expected, x )
  assert_bits( reciprocal( -x ), -expected, -x )

def test_rsqrt_halves_the_exponent_exactly_and_ignores_the_sign():
  m, exponent = mantissas_at_every_exponent()
  x     = ( m * powers( exponent - 127 ) ).astype( np.float32 )
  odd   = ( exponent + 1 ) % 2
  exact = rsqrt( ( m * powers( odd ) ).astype( np.float32 ) ) * powers( ( 127 + odd - exponent ) // 2 )
  assert_bits( rsqrt( x ), exact.astype( np.float32 ), x )
  assert_bits( rsqrt( -x ), exact.astype( np.float32 ), -x )

# The bounds above would leave room for other bits; results are promised to the bit.
@pytest.mark.parametrize( "f, oracle, low, high", named( [
  ( "reciprocal", reciprocal, exact_reciprocal, 1,  254 ),
  ( "rsqrt",      rsqrt,      exact_rsqrt,      1,  254 ),
  ( "sigmoid",    sigmoid,    exact_sigmoid,    110, 132 ),
  ( "sigmoid, all exponents", sigmoid, exact_sigmoid, 1, 254 ) ] ) )
def test_special_function_is_its_definition_step_by_step( f, oracle, low, high ):
  x = random_patterns( 18, 3000, low, high )
  assert_bits( f( floats( x ) ), [ oracle( a ) for a in x.tolist() ], [ f"{a:08X}" for a in x.tolist() ] )

def test_exp2neg_is_its_definition_step_by_step():
  u = random.Random( 19 ).sample( range( 1 << 17 ), 5000 )
  assert exp2neg( u ).tolist() == [ exact_exp2neg( x ) for x in u ]

SPECIAL_ROWS = [
  # name                                   f           x           f( x )
  ( "1 / 1",                               reciprocal, 0x3F800000, 0x3F800000 ),
  ( "1 / -2",                              reciprocal, 0xC0000000, 0xBF000000 ),
  ( "1 / 0",                               reciprocal, 0x00000000, 0x7F7FFFFF ),
  ( "1 / -0",                              reciprocal, 0x80000000, 0xFF7FFFFF ),
  ( "1 / subnormal",                       reciprocal, 0x007FFFFF, 0x7F7FFFFF ),
  ( "1 / -subnormal",                      reciprocal, 0x80000001, 0xFF7FFFFF ),
  ( "1 / smallest normal",                 reciprocal, 0x00800000, 0x7E800000 ),
  ( "1 / 2**126 is the smallest normal",   reciprocal, 0x7E800000, 0x00800000 ),
  ( "1 / (2**126 and a bit) is zero",      reciprocal, 0x7E800001, 0x00000000 ),
  ( "1 / -largest is -zero",               reciprocal, 0xFF7FFFFF, 0x80000000 ),
  ( "rsqrt 1",                             rsqrt,      0x3F800000, 0x3F800000 ),
  ( "rsqrt 4",                             rsqrt,      0x40800000, 0x3F000000 ),
  ( "rsqrt 1/4",                           rsqrt,      0x3E800000, 0x40000000 ),
  ( "rsqrt -4",                            rsqrt,      0xC0800000, 0x3F000000 ),
  ( "rsqrt 0",                             rsqrt,      0x00000000, 0x7F7FFFFF ),
  ( "rsqrt -0",                            rsqrt,      0x80000000, 0x7F7FFFFF ),
  ( "rsqrt subnormal",                     rsqrt,      0x007FFFFF, 0x7F7FFFFF ),
  ( "rsqrt smallest normal",               rsqrt,      0x00800000, 0x5F000000 ),
  ( "sigmoid 0",                           sigmoid,    0x00000000, 0x3F000000 ),
  ( "sigmoid -0",                          sigmoid,    0x80000000, 0x3F000000 ),
  ( "sigmoid subnormal",                   sigmoid,    0x807FFFFF, 0x3F000000 ),
  ( "sigmoid smallest normal",             sigmoid,    0x80800000, 0x3F000000 ),
  ( "sigmoid 32",                          sigmoid,    0x42000000, 0x3F800000 ),
  ( "sigmoid -32",                         sigmoid,    0xC2000000, 0x00000000 ),
  # x * log2(e) overflows here.
  ( "sigmoid largest",                     sigmoid,    0x7F7FFFFF, 0x3F800000 ),
  ( "sigmoid -largest",                    sigmoid,    0xFF7FFFFF, 0x00000000 ),
]

@pytest.mark.parametrize( "f, x, expected", named( SPECIAL_ROWS ) )
def test_special_row( f, x, expected ):
  assert_bits( f( floats( [ x ] ) ), [ expected ] )

def silu_arguments() -> NDArray[np.float32]:
  """A dense grid where silu bends, and every binade up to the largest finite number."""
  return np.concatenate( [ np.linspace( -40, 40, ( 1 << 20 ) + 1 ).astype( np.float32 ),
                           floats( random_patterns( 10, 1 << 18 ) ) ] )

def test_silu_is_within_its_bound():
  x     = silu_arguments()
  s     = sigmoid( x )
  assert np.all( ( s >= 0 ) & ( s <= 1 ) )
  exact = x.astype( np.float64 )
  # exp of a negative number only, so that it cannot overflow.
  p     = np.exp( -np.abs( exact ) )
  exact_sigmoid = np.where( exact >= 0, 1, p ) / ( 1 + p )
  # About zero silu says little about sigma: there it is exp2neg's bound and, from rounding u to 12
  # fraction bits, ln(2) * 2**-13 * p / (1 + p)**2.
  assert np.abs( s - exact_sigmoid ).max() <= 2.4e-5 + 2.2e-5
  assert np.abs( fmul( x, s ) - exact * exact_sigmoid ).max() <= 4e-4
  # Far out silu is x or zero, exactly.
  far   = np.abs( exact ) >= 32
  assert_bits( fmul( x, s )[far], np.where( x >= 0, x, np.float32( -0.0 ) )[far], x[far] )

#-------------------------------------------------------------------------
# Tables
#-------------------------------------------------------------------------

def test_tables_are_what_the_generator_prints( capsys ):
  mk_tables.main()
  assert Path( tables.__file__ ).read_text() == capsys.readouterr().out

@pytest.mark.parametrize( "name", ( "EXP2NEG", "RECIPROCAL", "RSQRT_EVEN", "RSQRT_ODD" ) )
def test_table_entries_are_positive_integers_that_fall( name ):
  base, slope = getattr( tables, f"{name}_BASE" ), getattr( tables, f"{name}_SLOPE" )
  for table in ( base, slope ):
    assert table.dtype == np.int64 and table.shape == ( 64, )
    assert table.min() > 0
    assert np.all( np.diff( table ) < 0 )
  # Every value interpolated is below one.
  assert base.max() < 1 << tables.FRACTION_BITS

#-------------------------------------------------------------------------
# BF16 and FP16
#-------------------------------------------------------------------------

FORMATS = named( [ ( "bf16", BF16, ml_dtypes.bfloat16 ), ( "fp16", FP16, np.float16 ) ] )

ROUND_TO_ROWS = [
  # name                                 format  x           pattern
  ( "bf16 zero",                         BF16,   0x00000000, 0x0000 ),
  ( "bf16 -zero",                        BF16,   0x80000000, 0x8000 ),
  ( "bf16 one",                          BF16,   0x3F800000, 0x3F80 ),
  ( "bf16 tie stays at even",            BF16,   0x3F808000, 0x3F80 ),
  ( "bf16 tie moves to even",            BF16,   0xBF818000, 0xBF82 ),
  ( "bf16 just above a tie",             BF16,   0x3F808001, 0x3F81 ),
  ( "bf16 carry",                        BF16,   0x3FFF8000, 0x4000 ),
  ( "bf16 saturates",                    BF16,   0x7F7FFFFF, 0x7F7F ),
  ( "bf16 saturates from a tie",         BF16,   0xFF7F8000, 0xFF7F ),
  ( "bf16 smallest normal",              BF16,   0x00800000, 0x0080 ),
  ( "bf16 subnormals are zero first",    BF16,   0x807FFFFF, 0x8000 ),
  ( "fp16 zero",                         FP16,   0x00000000, 0x0000 ),
  ( "fp16 -zero",                        FP16,   0x80000000, 0x8000 ),
  ( "fp16 one",                          FP16,   0x3F800000, 0x3C00 ),
  ( "fp16 tie stays at even",            FP16,   0x3F801000, 0x3C00 ),
  ( "fp16 tie moves to even",            FP16,   0xBF803000, 0xBC02 ),
  ( "fp16 just above a tie",             FP16,   0x3F801001, 0x3C01 ),
  ( "fp16 carry",                        FP16,   0x3FFFF000, 0x4000 ),
  ( "fp16 largest",                      FP16,   0x477FE000, 0x7BFF ),
  ( "fp16 saturates",                    FP16,   0x477FF000, 0x7BFF ),
  ( "fp16 saturates far out",            FP16,   0xFF7FFFFF, 0xFBFF ),
  ( "fp16 smallest normal",              FP16,   0xB8800000, 0x8400 ),
  ( "fp16 rounds up to it by a tie",     FP16,   0x387FF000, 0x0400 ),
  # With gradual underflow it would round up; the format's full precision keeps it below.
  ( "fp16 just below that is zero",      FP16,   0x387FEFFF, 0x0000 ),
  ( "fp16 largest subnormal is zero",    FP16,   0xB87FC000, 0x8000 ),
  ( "fp16 far below is zero",            FP16,   0x80800000, 0x8000 ),
]

@pytest.mark.parametrize( "fmt, x, expected", named( ROUND_TO_ROWS ) )
def test_round_to_row( fmt, x, expected ):
  assert exact_small( fmt, x ) == expected
  got = round_to( fmt, floats( [ x ] ) )
  assert got.dtype == np.uint16
  assert got.tolist() == [ expected ]

@pytest.mark.parametrize( "fmt, dtype", FORMATS )
@settings( max_examples=300 )
@given( data=st.data() )
def test_round_to_rounds_the_exact_value( fmt, dtype, data ):
  about = 127 - fmt.bias, 127 + fmt.bias
  drop  = 23 - fmt.fraction_bits
  # Fractions within one unit of a tie, and any others, at the ends of the format's range and anywhere.
  ties  = st.builds( lambda high, low: ( high << drop | 1 << ( drop - 1 ) ) + low,
                     st.integers( 0, ( 1 << fmt.fraction_bits ) - 1 ), st.integers( -1, 1 ) )
  ends  = st.sampled_from( [ e for end in about for e in range( end - 2, end + 4 ) if 0 <= e <= 254 ] )
  drawn = st.builds( joined, st.integers( 0, 1 ), ends | st.integers( 0, 254 ), ties | FRACTIONS )
  x     = data.draw( st.lists( drawn, min_size=1, max_size=20 ) )
  assert round_to( fmt, floats( x ) ).tolist() == [ exact_small( fmt, a ) for a in x ]

@pytest.mark.parametrize( "fmt, dtype", FORMATS )
def test_round_to_is_the_usual_conversion_but_for_our_rules( fmt, dtype ):
  low, high = max( 0, 127 - fmt.bias - 12 ), min( 254, 127 + fmt.bias + 3 )
  x = floats( np.concatenate( [ random_patterns( 11, 1 << 20 ),
                                random_patterns( 12, 1 << 20, low, high ) ] ) )
  with np.errstate( over="ignore" ):
    usual = x.astype( dtype ).view( np.uint16 ).astype( np.int64 )
  sign, magnitude = usual & 0x8000, usual & 0x7FFF
  # Saturation: no infinities.
  magnitude = np.minimum( magnitude, ( ( 2 ** fmt.exponent_bits - 1 ) << fmt.fraction_bits ) - 1 )
  # Flushing: zero below the smallest normal number, after rounding with the format's full precision;
  # so what is less than a quarter of the format's finest spacing below it rounds up. A binary32
  # subnormal, though, is zero before any rounding.
  smallest  = 2.0 ** ( 1 - fmt.bias )
  flushed   = np.abs( x ) < max( smallest * ( 1 - 2.0 ** -( fmt.fraction_bits + 2 ) ), TINY )
  assert np.array_equal( round_to( fmt, x ), sign | np.where( flushed, 0, magnitude ) )

@pytest.mark.parametrize( "fmt, dtype", FORMATS )
def test_to_fp32_is_exact_for_every_pattern_and_rounds_back( fmt, dtype ):
  p        = np.arange( 1 << 16, dtype=np.uint16 )
  ones     = ( 1 << fmt.exponent_bits ) - 1
  exponent = p >> fmt.fraction_bits & ones
  p        = p[ exponent < ones ]   # infinities and NaN are not accepted inputs
  assert p.size == ( 1 << 16 ) - ( 2 << fmt.fraction_bits )
  usual    = p.view( dtype ).astype( np.float32 )
  subnormal = np.abs( usual ) < 2.0 ** ( 1 - fmt.bias )
  expected = np.where( subnormal, np.copysign( np.float32( 0 ), usual ), usual )
  assert_bits( to_fp32( fmt, p ), expected, p )
  assert np.array_equal( round_to( fmt, to_fp32( fmt, p ) ), np.where( subnormal, p & 0x8000, p ) )

@pytest.mark.parametrize( "fmt, dtype", FORMATS )
def test_fields_take_every_pattern_apart( fmt, dtype ):
  p = np.arange( 1 << 16, dtype=np.uint16 )
  sign, exponent, fraction = fields( fmt, p )
  assert np.array_equal( np.signbit( p.view( dtype ).astype( np.float32 ) ), sign == 1 )
  assert exponent.min() == 0 and exponent.max() == ( 1 << fmt.exponent_bits ) - 1
  assert fraction.min() == 0 and fraction.max() == ( 1 << fmt.fraction_bits ) - 1
  assert np.array_equal( sign << 15 | exponent << fmt.fraction_bits | fraction, p )

#-------------------------------------------------------------------------
# What holds for all of them
#-------------------------------------------------------------------------

# Functions that make no infinity, and others of one array with a binary32 result.
FINITE = named( [ ( f.__name__, f ) for f in ( flush, reciprocal, rsqrt, sigmoid ) ] )
UNARY  = FINITE + named( [
  ( "fadd",         lambda x: fadd( x, np.float32( 1e-38 ) ) ),
  ( "fsub",         lambda x: fsub( np.float32( 1.5e-38 ), x ) ),
  ( "fmul",         lambda x: fmul( x, np.float32( 1e-10 ) ) ),
  ( "square",       lambda x: fmul( x, x ) ),
  ( "cube",         lambda x: fmul( fmul( x, x ), x ) ),
  ( "add_exponent", lambda x: add_exponent( x, -5 ) ),
  ( "i2f",          lambda x: i2f( np.trunc( x ).astype( np.float64 ) ) ),
  ( "bf16",         lambda x: to_fp32( BF16, round_to( BF16, x ) ) ),
  ( "fp16",         lambda x: to_fp32( FP16, round_to( FP16, x ) ) ) ] )

@pytest.mark.parametrize( "f", UNARY )
@pytest.mark.parametrize( "low, high", named( [ ( "all", 0, 254 ), ( "tiny", 0, 40 ),
                                                ( "huge", 215, 254 ) ] ) )
def test_result_is_never_subnormal_nor_a_nan( f, low, high ):
  x       = floats( np.concatenate( [ random_patterns( 13, 1 << 16, low, high ),
                                      np.arange( MIN_NORMAL - 64, MIN_NORMAL + 64 ) ] ) )
  pattern = f( x ).view( np.uint32 )
  assert not ( ( pattern & INFINITY == 0 ) & ( pattern & 0x7FFFFF != 0 ) ).any()
  assert not ( ( pattern & INFINITY == INFINITY ) & ( pattern & 0x7FFFFF != 0 ) ).any()

@pytest.mark.parametrize( "f", FINITE )
def test_function_is_finite_at_every_exponent( f ):
  x = floats( joined( sign, exponent, fraction )
              for sign in ( 0, 1 ) for exponent in range( 255 ) for fraction in CORNERS )
  assert np.isfinite( f( x ) ).all()

@pytest.mark.parametrize( "f", UNARY )
@pytest.mark.parametrize( "shape", ( (), ( 0, ), ( 1, ), ( 2, 3 ), ( 2, 0, 3 ) ), ids=str )
def test_result_has_the_shape_of_the_argument( f, shape ):
  got = f( np.full( shape, 2.0, dtype=np.float32 ) )
  assert got.shape == shape and got.dtype == np.float32

@pytest.mark.parametrize( "f", UNARY )
def test_result_does_not_depend_on_the_layout_and_the_argument_stays( f ):
  x      = floats( random_patterns( 14, 60, 100, 150 ) ).reshape( 6, 10 )
  before = x.copy()
  whole  = f( x )
  assert_bits( f( x.T ), whole.T )
  assert_bits( f( x[::2, 1::3] ), whole[::2, 1::3] )
  assert_bits( x, before )

@pytest.mark.parametrize( "f", named( [ ( f.__name__, f ) for f in ( fadd, fsub, fmul ) ] ) )
def test_operands_broadcast( f ):
  a, b = floats( random_patterns( 15, 3, 120, 130 ) ), floats( random_patterns( 16, 4, 120, 130 ) )
  assert_bits( f( a[:, None], b ), np.stack( [ f( np.full( 4, x ), b ) for x in a ] ) )

def test_exponents_and_scales_broadcast():
  x = floats( random_patterns( 17, 12, 110, 140 ) ).reshape( 3, 4 )
  k = np.array( [ -9, 0, 7 ] )[:, None]
  rows = [ ( x[i], k[i, 0] ) for i in range( 3 ) ]
  assert_bits( add_exponent( x, k ), np.stack( [ add_exponent( *row ) for row in rows ] ) )
  assert np.array_equal( f2i( x, k, 1000 ), np.stack( [ f2i( *row, 1000 ) for row in rows ] ) )
