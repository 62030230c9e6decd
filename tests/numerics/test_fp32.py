"""The binary32 operations of `npu/arch/numerics` against exact fractions, and on large random sets against numpy."""

import random
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray

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
from npu.arch.numerics.special import U_MAX
from tests.numerics.data import (
  CORNERS,
  FRACTIONS,
  assert_bits,
  floats,
  joined,
  named,
  patterns,
  powers,
  random_patterns,
)
from tests.numerics.oracle import INFINITY, SIGN, TINY, binary32, exact_add, exact_f2i, exact_mul, exact_sub

#-------------------------------------------------------------------------
# Add, subtract, multiply
#-------------------------------------------------------------------------

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

def check_pairs( f: Callable[..., Any], oracle: Callable[[int, int], int],
                 pairs: list[tuple[int, int]] ) -> None:
  """f on all pairs of patterns at once, against the oracle one by one."""
  a, b = zip( *pairs, strict=True )
  assert_bits( f( floats( a ), floats( b ) ), [ oracle( x, y ) for x, y in pairs ],
               [ f"{x:08X}" for x in a ], [ f"{y:08X}" for y in b ] )

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

def numpy_flush( x: NDArray[np.float32] ) -> NDArray[np.float32]:
  """Flush by comparing values, where the project looks at fields."""
  return np.where( np.abs( x ) < np.float32( TINY ), np.copysign( np.float32( 0 ), x ), x )

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
