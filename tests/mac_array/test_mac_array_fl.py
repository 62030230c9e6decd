"""The MAC array's golden model against Python integers and exact fractions.

Nothing here uses numpy's arithmetic to find an expected value: sums are Python integers, and each
rounding to binary32 is that of a `Fraction`, by definition of the format.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.typing import ArrayLike, NDArray

from fl.controller import Registers
from fl.mac_array import aligned_dot, check, epilogue, gemm_floating, gemm_groups, gemm_integer
from fl.npu import NpuFL
from npu.arch.config import LINE_BYTES, NpuConfig
from npu.arch.isa import Error, GemmFlag, GemmMode, mk
from npu.arch.numerics.small_float import BF16, FP16, SmallFloat

SMALLEST = Fraction( 2 ) ** -126                         # smallest normal binary32
LARGEST  = ( 2 - Fraction( 2 ) ** -23 ) * 2 ** 127       # largest finite binary32
FORMATS  = ( BF16, FP16 )

#-------------------------------------------------------------------------
# Oracle: binary32
#-------------------------------------------------------------------------

def power( k: int ) -> Fraction:
  """2**k for any integer k."""
  return Fraction( 2 ) ** k

def binary32( x: Fraction ) -> Fraction:
  """x to the nearest binary32, ties to even, then zero if that is subnormal."""
  if x == 0:
    return x
  exponent = abs( x.numerator ).bit_length() - x.denominator.bit_length()
  if abs( x ) < power( exponent ):
    exponent -= 1
  unit    = power( max( exponent, -126 ) - 23 )
  rounded = round( x / unit ) * unit                     # Python rounds ties to even
  assert abs( rounded ) <= LARGEST, "no case here is meant to overflow"
  return rounded if abs( rounded ) >= SMALLEST else Fraction( 0 )

def moved( x: Fraction, k: int ) -> Fraction:
  """x * 2**k within binary32's exponents: zero below them, the largest finite number above them."""
  y = x * power( k )
  if abs( y ) < SMALLEST:
    return Fraction( 0 )
  return max( -LARGEST, min( LARGEST, y ) )

def f32( values: ArrayLike ) -> NDArray[np.float32]:
  """Numbers that binary32 can hold, as an array of it."""
  return np.array( values, dtype=np.float32 )

def to_array( rows: Sequence[Sequence[Fraction]] ) -> NDArray[np.float32]:
  """Binary32 fractions as an array; float() of each is exact."""
  return f32( [ [ float( x ) for x in row ] for row in rows ] )

def pattern( x: NDArray[np.float32] ) -> list[int]:
  """Bit patterns, for what a comparison of values does not see: the sign of zero."""
  return [ int( p ) for p in x.view( np.uint32 ).reshape( -1 ) ]

#-------------------------------------------------------------------------
# Oracle: matrix products
#-------------------------------------------------------------------------

Floats = NDArray[np.float32]

def finish( y: Fraction, m: int, c: int, bias: Floats | None, residual: Floats | None ) -> Fraction:
  """The epilogue of one element."""
  if bias is not None:
    y = binary32( y + Fraction( float( bias[c] ) ) )
  if residual is not None:
    y = binary32( y + Fraction( float( residual[m, c] ) ) )
  return y

def oracle_groups( q: NDArray, exponent: NDArray, act_bits: int, w: NDArray, scales: Floats,
                   bias: Floats | None, residual: Floats | None ) -> Floats:
  """A sum of integers per K-group, scaled and added in order of K; scales are [G, N]."""
  rows, size = [], q.shape[1] // scales.shape[0]
  for m in range( q.shape[0] ):
    row  = []
    left = [ int( v ) for v in q[m] ]
    for c in range( w.shape[1] ):
      right, y = [ int( v ) for v in w[:, c] ], Fraction( 0 )
      for g in range( scales.shape[0] ):
        part = slice( g * size, ( g + 1 ) * size )
        acc  = sum( a * b for a, b in zip( left[part], right[part], strict=True ) )
        y    = binary32( y + binary32( binary32( Fraction( acc ) ) * Fraction( float( scales[g, c] ) ) ) )
      y = moved( y, int( exponent[m] ) - 127 - ( act_bits - 2 ) )
      row.append( finish( y, m, c, bias, residual ) )
    rows.append( row )
  return to_array( rows )

def oracle_integer( q: NDArray, exponent: NDArray, act_bits: int, w: NDArray, scales: Floats,
                    bias: Floats | None, residual: Floats | None ) -> Floats:
  """Per-channel modes: one group that is the whole of K. Adding it to zero rounds nothing more."""
  return oracle_groups( q, exponent, act_bits, w, scales[None], bias, residual )

def split( fmt: SmallFloat, p: int ) -> tuple[int, int]:
  """(signed integer significand, biased exponent) of a 16-bit pattern; a subnormal has significand 0."""
  exponent = ( p >> fmt.fraction_bits ) % ( 1 << fmt.exponent_bits )
  if exponent == 0:
    return 0, 0
  significand = ( 1 << fmt.fraction_bits ) + p % ( 1 << fmt.fraction_bits )
  return -significand if p >= 0x8000 else significand, exponent

def oracle_column( fmt: SmallFloat, a: Sequence[int], w: Sequence[int] ) -> Fraction:
  """One pass of the array, one column: magnitudes aligned to the largest exponent, 16 fraction bits
  kept, the rest cut off, and the signed sum."""
  terms = []
  for x, y in zip( a, w, strict=True ):
    ( sx, ex ), ( sy, ey ) = split( fmt, x ), split( fmt, y )
    if sx * sy:
      terms.append( ( sx * sy, ex + ey ) )
  if not terms:
    return Fraction( 0 )
  largest, total = max( e for _, e in terms ), 0
  for product, e in terms:
    # One unit is 2**-16 at the largest exponent; int() drops the rest of a magnitude.
    magnitude = int( abs( product ) * power( 16 - 2 * fmt.fraction_bits + e - largest ) )
    total    += magnitude if product > 0 else -magnitude
  return moved( Fraction( total ), largest - 2 * fmt.bias - 16 )

def oracle_floating( fmt: SmallFloat, n: int, a: NDArray, w: NDArray, bias: Floats | None,
                     residual: Floats | None ) -> Floats:
  """Passes of n products, accumulated in binary32."""
  rows = []
  for m in range( a.shape[0] ):
    row = []
    for c in range( w.shape[1] ):
      y = Fraction( 0 )
      for k in range( 0, a.shape[1], n ):
        column = oracle_column( fmt, [ int( p ) for p in a[m, k : k + n] ],
                                [ int( p ) for p in w[k : k + n, c] ] )
        y = binary32( y + column )
      row.append( finish( y, m, c, bias, residual ) )
    rows.append( row )
  return to_array( rows )

def test_the_oracle_rounds_as_numpy() -> None:
  """The oracle itself, on what numpy does in hardware: a wrong oracle would prove nothing."""
  rng = np.random.default_rng( 1 )
  for x in rng.standard_normal( 500 ) * 10.0 ** rng.integers( -30, 30, 500 ):
    assert float( binary32( Fraction( float( x ) ) ) ) == float( np.float32( x ) )
  ties = ( ( 2 ** 24 + 1, 2 ** 24 ), ( 2 ** 24 + 3, 2 ** 24 + 4 ), ( -2 ** 24 - 1, -2 ** 24 ) )
  for x, rounded in ties:
    assert binary32( Fraction( x ) ) == rounded

#-------------------------------------------------------------------------
# Integer modes
#-------------------------------------------------------------------------

def check_integer( q: ArrayLike, exponent: ArrayLike, act_bits: int, w: ArrayLike, scales: ArrayLike,
                   bias: ArrayLike | None = None, residual: ArrayLike | None = None ) -> None:
  """gemm_integer, and gemm_groups with one group, give the oracle's values."""
  q, exponent, w = np.array( q ), np.array( exponent ), np.array( w )
  scales = f32( scales )
  b      = None if bias is None else f32( bias )
  r      = None if residual is None else f32( residual )
  expect = oracle_integer( q, exponent, act_bits, w, scales, b, r )
  got    = gemm_integer( q, exponent, act_bits, w, scales, b, r )
  assert got.dtype == np.float32 and got.shape == expect.shape
  assert np.array_equal( got, expect )
  one_group = gemm_groups( q, exponent, act_bits, w, scales[None], b, r )
  assert np.array_equal( one_group, expect )

def full( rows: int, cols: int, value: int ) -> NDArray[np.int64]:
  """A matrix of one value."""
  return np.full( ( rows, cols ), value, dtype=np.int64 )

EXTREMES = [
  # name                            act_bits  q       w
  ( "int16 most positive",          16,  32767,  32767 ),
  ( "int16 quantised most negative", 16, -32767,  32767 ),
  ( "int16 below what is quantised", 16, -32768, -32768 ),
  ( "int16 x int8 positive",        16,  32767,    127 ),
  ( "int16 x int8 negative",        16,  32767,   -128 ),
  ( "int16 x int8 both negative",   16, -32768,   -128 ),
  ( "int8 positive",                 8,    127,    127 ),
  ( "int8 most negative",            8,   -128,   -128 ),
  ( "int8 mixed",                    8,   -127,    127 ),
  ( "zero activations",             16,      0,  32767 ),
  ( "zero weights",                 16, -32768,      0 ) ]

@pytest.mark.parametrize( "k", ( 1, 17, 128 ) )
@pytest.mark.parametrize( "act_bits, q, w", [ row[1:] for row in EXTREMES ], ids=[ r[0] for r in EXTREMES ] )
def test_extremes( act_bits: int, q: int, w: int, k: int ) -> None:
  """The ends of the formats everywhere, one row and two."""
  for rows in ( 1, 2 ):
    check_integer( full( rows, k, q ), [ 127 ] * rows, act_bits, full( k, 3, w ), [ 1.0, 0.37, -3e-5 ] )

def test_zero_results_are_plus_zero() -> None:
  """The sum of nothing has no sign: zeros meet a zero of either sign as +0."""
  zeros = full( 1, 4, 0 )
  got   = gemm_integer( zeros, np.array( [ 0 ] ), 16, full( 4, 2, 5 ), f32( [ 1, 1 ] ), f32( [ -0.0, 0 ] ) )
  assert pattern( got ) == [ 0, 0 ]

def test_sums_beyond_2_to_24_are_exact() -> None:
  """binary32 accumulation would lose the ones; 2**24 is where it starts to."""
  for k, ones in ( ( 64, 1 ), ( 2048, 5 ), ( 32768, 3 ) ):
    q = np.full( ( 1, k ), 32767, dtype=np.int64 )
    w = np.full( ( k, 2 ), 32767, dtype=np.int64 )
    w[k // 2 :] *= -1                                 # the two halves cancel ...
    q[0, :ones] -= 1                                  # ... but for this much
    w[:, 1] = np.where( np.arange( k ) % 2, -32768, 32767 )
    check_integer( q, [ 141 ], 16, w, [ 1.0, 0.1 ] )
    got = gemm_integer( q, np.array( [ 141 ] ), 16, w, f32( [ 1, 1 ] ) )
    assert got[0, 0] == -ones * 32767                 # 141 = 127 + 14: q counts units of one

@pytest.mark.parametrize( "rest", ( -3, -1, 0, 1, 2, 4097 ) )
def test_the_longest_dot_product( rest: int ) -> None:
  """2**20 products, the most that any configuration allows: partial sums reach 2**49 and cancel."""
  k = 1 << 20
  q = np.full( ( 1, k ), -32768, dtype=np.int64 )
  w = np.zeros( ( k, 1 ), dtype=np.int64 )
  w[1 : k // 2], w[k // 2 : k - 1] = -32767, 32767
  q[0, 0], w[0, 0] = 1, rest
  got = gemm_integer( q, np.array( [ 141 ] ), 16, w, f32( [ 1 ] ) )
  assert float( got[0, 0] ) == rest

def test_the_largest_sum() -> None:
  """2**50, on a scale that brings it back to one."""
  lowest = full( 1, 1 << 20, -32768 )
  assert gemm_integer( lowest, np.array( [ 91 ] ), 16, lowest.T, f32( [ 1 ] ) )[0, 0] == 1.0

def test_the_sum_rounds_once_and_then_the_scaled_sum() -> None:
  """2**24 + 1 becomes 2**24 before the scale: 3 * 2**24, where 3 * (2**24 + 1) would give two more."""
  q = np.array( [ [ 4096, 1 ] ] )
  w = np.array( [ [ 4096 ], [ 1 ] ] )
  check_integer( q, [ 141 ], 16, w, [ 3.0 ] )
  assert gemm_integer( q, np.array( [ 141 ] ), 16, w, f32( [ 3 ] ) )[0, 0] == 3 * 2 ** 24

@pytest.mark.parametrize( "exponent, act_bits, expect", [
  ( 141, 16, 6.0 ), ( 127, 16, 6.0 * 2.0 ** -14 ), ( 133, 8, 6.0 ), ( 127, 8, 6.0 * 2.0 ** -6 ),
  ( 1, 16, 6.0 * 2.0 ** -140 ), ( 16, 16, 6.0 * 2.0 ** -125 ), ( 254, 16, 6.0 * 2.0 ** 113 ) ] )
def test_what_one_unit_stands_for( exponent: int, act_bits: int, expect: float ) -> None:
  """q = 6, w = 1, scale = 1: the row exponent and the width of the format alone decide."""
  got = gemm_integer( np.array( [ [ 6 ] ] ), np.array( [ exponent ] ), act_bits, np.array( [ [ 1 ] ] ),
                      f32( [ 1 ] ) )
  assert float( got[0, 0] ) == ( expect if expect >= 2.0 ** -126 else 0.0 )

def test_each_row_has_its_own_exponent_and_each_column_its_own_scale() -> None:
  """Powers of two that differ everywhere: an exponent or a scale taken from a neighbour shows."""
  q = full( 3, 4, 1 )
  got = gemm_integer( q, np.array( [ 139, 140, 141 ] ), 16, full( 4, 2, 1 ), f32( [ 1, 1024 ] ) )
  assert got.tolist() == [ [ 1, 1024 ], [ 2, 2048 ], [ 4, 4096 ] ]

@st.composite
def products( draw: st.DrawFn ) -> tuple[int, int, int, int, int, int, bool, bool]:
  """(seed, rows, K-groups, elements of a group, columns, activation bits, bias, residual)."""
  return ( draw( st.integers( 0, 2 ** 32 - 1 ) ), draw( st.integers( 1, 3 ) ), draw( st.integers( 1, 4 ) ),
           draw( st.sampled_from( ( 1, 2, 7, 16, 32 ) ) ), draw( st.integers( 1, 4 ) ),
           draw( st.sampled_from( ( 8, 16 ) ) ), draw( st.booleans() ), draw( st.booleans() ) )

def check_random( case: tuple[int, int, int, int, int, int, bool, bool] ) -> None:
  """Random integers of all sizes, scales over ten decades, biases and residuals near the result."""
  seed, m, groups, size, cols, act_bits, with_bias, with_residual = case
  rng  = np.random.default_rng( seed )
  top  = 1 << ( act_bits - 1 )
  span = top >> int( rng.integers( 0, act_bits - 1 ) )
  q    = rng.integers( -span, span, ( m, groups * size ) )
  w    = rng.integers( -top, top, ( groups * size, cols ) )
  exponent = rng.integers( 100, 160, m )
  scales   = ( 10.0 ** rng.uniform( -6, 3, ( groups, cols ) ) ).astype( np.float32 )
  plain    = oracle_groups( q, exponent, act_bits, w, scales, None, None )
  near     = np.abs( plain ).max() * 10.0 ** rng.uniform( -4, 2 )
  bias     = ( rng.standard_normal( cols ) * near ).astype( np.float32 ) if with_bias else None
  residual = ( rng.standard_normal( ( m, cols ) ) * near ).astype( np.float32 ) if with_residual else None
  expect = oracle_groups( q, exponent, act_bits, w, scales, bias, residual )
  assert np.array_equal( gemm_groups( q, exponent, act_bits, w, scales, bias, residual ), expect )
  if groups == 1:
    assert np.array_equal( gemm_integer( q, exponent, act_bits, w, scales[0], bias, residual ), expect )

@settings( max_examples=100 )
@given( case=products() )
def test_random_integer_products( case: tuple[int, int, int, int, int, int, bool, bool] ) -> None:
  check_random( case )

@pytest.mark.nightly
@settings( max_examples=3000 )
@given( case=products() )
def test_many_random_integer_products( case: tuple[int, int, int, int, int, int, bool, bool] ) -> None:
  check_random( case )

def test_rows_and_columns_do_not_see_each_other() -> None:
  """A product is the same alone and among others: results may not depend on how rows are batched."""
  rng    = np.random.default_rng( 3 )
  q, w   = rng.integers( -32768, 32768, ( 16, 200 ) ), rng.integers( -128, 128, ( 200, 40 ) )
  scales = rng.uniform( 1e-4, 1e-2, 40 ).astype( np.float32 )
  exponent = rng.integers( 120, 135, 16 )
  together = gemm_integer( q, exponent, 16, w, scales )
  for m, c in ( ( 0, 0 ), ( 7, 39 ), ( 15, 16 ) ):
    alone = gemm_integer( q[m : m + 1], exponent[m : m + 1], 16, w[:, c : c + 1], scales[c : c + 1] )
    assert pattern( alone )[0] == pattern( together[m : m + 1, c] )[0]

def test_groups_add_in_order_of_k() -> None:
  """2**24, 1, 1: from the left both ones vanish; any other order keeps them."""
  q = np.array( [ [ 1, 1, 1 ] ] )
  w = np.array( [ [ 1, 1 ], [ 1, 1 ], [ 1, 1 ] ] )
  scales = f32( [ [ 2 ** 24, 1 ], [ 1, 1 ], [ 1, 2 ** 24 ] ] )
  got = gemm_groups( q, np.array( [ 141 ] ), 16, w, scales )
  assert got.tolist() == [ [ 2 ** 24, 2 ** 24 + 2 ] ]

def test_a_group_has_its_own_scale_per_column() -> None:
  q = np.array( [ [ 1, 10, 100, 1000 ] ] )
  w = np.ones( ( 4, 2 ), dtype=np.int64 )
  got = gemm_groups( q, np.array( [ 141 ] ), 16, w, f32( [ [ 1, 2 ], [ 4, 8 ] ] ) )
  assert got.tolist() == [ [ 11 + 4 * 1100, 2 * 11 + 8 * 1100 ] ]

#-------------------------------------------------------------------------
# Epilogue
#-------------------------------------------------------------------------

BIG = float( 2 ** 24 )

EPILOGUE_ROWS = [
  # name                              acc  E    scale  bias  residual  result
  ( "nothing",                        3,   141, 1.0,   None, None,     3.0 ),
  ( "bias",                           3,   141, 1.0,   0.5,  None,     3.5 ),
  ( "residual",                       3,   141, 1.0,   None, 0.25,     3.25 ),
  ( "bias and then residual",         1,   141, BIG,   1.0,  -BIG,     0.0 ),
  ( "residual is not added to bias",  1,   141, BIG,   1.0,  1.0,      BIG ),
  ( "exponent and then bias",         1,   143, 1.0,   1.0,  None,     5.0 ),
  ( "exponent and then residual",     1,   143, 1.0,   None, 1.0,      5.0 ),
  ( "scale and then exponent",        1,   143, 0.5,   None, None,     2.0 ),
  ( "exponent before bias, down",     2,   139, 1.0,   1.0,  -1.0,     0.5 ),
  ( "flushed product, bias remains",  1,   1,   1e-3,  2.0,  None,     2.0 ) ]

@pytest.mark.parametrize( "acc, exponent, scale, bias, residual, expect", [ r[1:] for r in EPILOGUE_ROWS ],
                          ids=[ r[0] for r in EPILOGUE_ROWS ] )
def test_epilogue_order( acc: int, exponent: int, scale: float, bias: float | None, residual: float | None,
                         expect: float ) -> None:
  """Cases where another order of scale, exponent, bias and residual gives another number."""
  b = None if bias is None else f32( [ bias ] )
  r = None if residual is None else f32( [ [ residual ] ] )
  q, e, w = np.array( [ [ acc ] ] ), np.array( [ exponent ] ), np.array( [ [ 1 ] ] )
  assert float( gemm_integer( q, e, 16, w, f32( [ scale ] ), b, r )[0, 0] ) == expect
  assert float( gemm_groups( q, e, 16, w, f32( [ [ scale ] ] ), b, r )[0, 0] ) == expect

def test_epilogue_of_floating_modes() -> None:
  """2**24 as 4096 * 4096: bias first, then the residual, here as well."""
  a, w = np.array( [ [ 0x4580, 0, 0, 0 ] ], dtype=np.uint16 ), np.zeros( ( 4, 1 ), dtype=np.uint16 )
  w[0] = 0x4580
  assert gemm_floating( BF16, 4, a, w )[0, 0] == BIG
  assert gemm_floating( BF16, 4, a, w, f32( [ 1 ] ), f32( [ [ -BIG ] ] ) )[0, 0] == 0.0
  assert gemm_floating( BF16, 4, a, w, f32( [ 1 ] ), None )[0, 0] == BIG
  assert gemm_floating( BF16, 4, a, w, None, f32( [ [ 3 ] ] ) )[0, 0] == BIG + 4

def test_epilogue_alone() -> None:
  """A bias goes along a row, a residual is a matrix; without either nothing changes, not even -0."""
  y = f32( [ [ 1, 2 ], [ -0.0, 4 ] ] )
  assert pattern( epilogue( y, None, None ) ) == pattern( y )
  assert epilogue( y, f32( [ 10, 20 ] ), None ).tolist() == [ [ 11, 22 ], [ 10, 24 ] ]
  assert epilogue( y, None, f32( [ [ 1, 2 ], [ 3, 4 ] ] ) ).tolist() == [ [ 2, 4 ], [ 3, 8 ] ]

#-------------------------------------------------------------------------
# Floating modes
#-------------------------------------------------------------------------

def one( fmt: SmallFloat, exponent: int = 0, fraction: int = 0, negative: bool = False ) -> int:
  """The pattern of +-(1 + fraction / 2**fraction_bits) * 2**exponent."""
  return ( 0x8000 * negative ) | ( ( exponent + fmt.bias ) << fmt.fraction_bits ) | fraction

def matrix( patterns: Sequence[int] ) -> NDArray[np.uint16]:
  """Patterns as a column."""
  return np.array( patterns, dtype=np.uint16 )[:, None]

def dot( fmt: SmallFloat, n: int, a: Sequence[int], w: Sequence[int] ) -> float:
  """One row times one column; the oracle agrees."""
  got = gemm_floating( fmt, n, matrix( a ).T, matrix( w ) )
  assert np.array_equal( got, oracle_floating( fmt, n, matrix( a ).T, matrix( w ), None, None ) )
  return float( got[0, 0] )

@pytest.mark.parametrize( "fmt", FORMATS, ids=lambda f: f.name )
def test_truncation_of_magnitude( fmt: SmallFloat ) -> None:
  """What is cut off makes a term smaller, never a sum more negative (a floor would)."""
  unit = 2.0 ** -16
  # One, and a term whose leading bit is `down` places below, split evenly over the two operands.
  def pair( down: int, negative: bool, fraction: int = 0 ) -> float:
    low = down // 2
    return dot( fmt, 4, [ one( fmt ), one( fmt, -low, fraction, negative ), 0, 0 ],
                [ one( fmt ), one( fmt, low - down ), 0, 0 ] )
  most = ( 1 << fmt.fraction_bits ) - 1
  assert pair( 16, False ) == 1 + unit
  assert pair( 16, True )  == 1 - unit
  assert pair( 17, True )  == 1.0                     # floor: 1 - unit
  assert pair( 17, True, most )  == 1.0               # nearly a whole unit, cut all the same
  assert pair( 17, False, most ) == 1.0
  assert pair( 16, True, most )  == 1 - unit          # nearly two units
  assert pair( 28, True )  == 1.0

@pytest.mark.parametrize( "fmt", FORMATS, ids=lambda f: f.name )
def test_truncation_is_per_term( fmt: SmallFloat ) -> None:
  """Sixteen terms of half a unit each: gone, though together they are eight units."""
  low = 8
  a = [ one( fmt ) ] + [ one( fmt, -low ) ] * 15
  w = [ one( fmt ) ] + [ one( fmt, -low - 1 ) ] * 15
  assert dot( fmt, 16, a, w ) == 1.0
  # Without the large term the small ones are exact.
  assert dot( fmt, 16, [ 0, *a[1:] ], [ 0, *w[1:] ] ) == 15 * 2.0 ** -17

@pytest.mark.parametrize( "fmt", FORMATS, ids=lambda f: f.name )
def test_the_largest_exponent_is_of_the_factors( fmt: SmallFloat ) -> None:
  """The exponent that counts is the sum of the factors' exponents, not that of the product: 1.5 * 1.5
  is 2.25, but aligns as 1.0."""
  half = 1 << ( fmt.fraction_bits - 1 )
  a, w = [ one( fmt, 0, half ), one( fmt, -8 ), 0, 0 ], [ one( fmt, 0, half ), one( fmt, -8 ), 0, 0 ]
  assert dot( fmt, 4, a, w ) == 2.25 + 2.0 ** -16

@pytest.mark.parametrize( "fmt", FORMATS, ids=lambda f: f.name )
def test_cancellation( fmt: SmallFloat ) -> None:
  """What large terms leave when they cancel is what 16 fraction bits kept of the small ones."""
  big, minus = one( fmt, 6 ), one( fmt, 6, negative=True )
  unit = one( fmt )
  assert dot( fmt, 4, [ big, minus, 0, 0 ], [ unit ] * 4 ) == 0.0
  # 2**6 aligns 2**-10 at its last bit, and 2**-11 below it.
  for down, expect in ( ( 10, 2.0 ** -10 ), ( 11, 0.0 ) ):
    small = [ one( fmt, -down // 2 ), one( fmt, -( down - -( -down // 2 ) ) ) ]
    assert dot( fmt, 4, [ big, small[0], minus, 0 ], [ unit, small[1], unit, 0 ] ) == expect

@pytest.mark.parametrize( "fmt", FORMATS, ids=lambda f: f.name )
@pytest.mark.parametrize( "n", ( 4, 8, 16 ) )
def test_signs_of_zero( fmt: SmallFloat, n: int ) -> None:
  """Every zero result is +0: products of zeros, exact cancellation, and all with negative zeros."""
  minus_zero, unit, minus = 0x8000, one( fmt ), one( fmt, negative=True )
  for a, w in ( ( [ 0, 0 ], [ unit, unit ] ), ( [ minus_zero, 0 ], [ unit, minus ] ),
                ( [ minus_zero, minus_zero ], [ unit, unit ] ), ( [ unit, minus ], [ unit, unit ] ),
                ( [ unit, unit ], [ minus_zero, minus_zero ] ) ):
    rest = [ 0 ] * ( n - 2 )
    got  = gemm_floating( fmt, n, matrix( a + rest ).T, matrix( w + rest ) )
    assert pattern( got ) == [ 0 ]

@pytest.mark.parametrize( "fmt", FORMATS, ids=lambda f: f.name )
def test_subnormal_operands_are_zero( fmt: SmallFloat ) -> None:
  """They add nothing, and their exponent does not count as the largest."""
  largest_subnormal = ( 1 << fmt.fraction_bits ) - 1
  top, small = one( fmt, fmt.bias ), one( fmt, -10 )
  for p in ( 0, 0x8000, 1, largest_subnormal, 0x8000 | largest_subnormal ):
    # Beside a product of exponent 0 + 2 * bias, 2**-20 would be cut off.
    assert dot( fmt, 4, [ p, small, 0, 0 ], [ top, small, 0, 0 ] ) == 2.0 ** -20
    assert dot( fmt, 4, [ small, top, 0, 0 ], [ small, p, 0, 0 ] ) == 2.0 ** -20
    assert dot( fmt, 4, [ p ] * 4, [ top ] * 4 ) == 0.0

def test_bf16_ends_of_the_exponent() -> None:
  """Results below the smallest normal number are zero; above the largest finite, that one."""
  top, most = one( BF16, 127 ), one( BF16, 127, 127 )
  assert dot( BF16, 4, [ most, 0, 0, 0 ], [ most, 0, 0, 0 ] ) == float( LARGEST )
  assert dot( BF16, 4, [ most | 0x8000, 0, 0, 0 ], [ most, 0, 0, 0 ] ) == -float( LARGEST )
  assert dot( BF16, 4, [ top, 0, 0, 0 ], [ one( BF16 ), 0, 0, 0 ] ) == 2.0 ** 127
  assert dot( BF16, 4, [ one( BF16, -63 ), 0, 0, 0 ], [ one( BF16, -63 ), 0, 0, 0 ] ) == 2.0 ** -126
  assert dot( BF16, 4, [ one( BF16, -63 ), 0, 0, 0 ], [ one( BF16, -64 ), 0, 0, 0 ] ) == 0.0
  assert dot( BF16, 4, [ one( BF16, -126 ), 0, 0, 0 ], [ one( BF16, -126 ), 0, 0, 0 ] ) == 0.0
  # Two terms of 2**-127 are zero each, but their sum is taken before it is flushed.
  assert dot( BF16, 4, [ one( BF16, -63 ) ] * 2 + [ 0, 0 ], [ one( BF16, -64 ) ] * 2 + [ 0, 0 ] ) == 2.0 ** -126
  assert dot( BF16, 4, [ one( BF16, -126 ), 0, 0, 0 ], [ top, 0, 0, 0 ] ) == 2.0

def test_fp16_ends_of_the_exponent() -> None:
  """No product of FP16 numbers leaves binary32's range. Exponent 31 is an ordinary one here."""
  least, most = one( FP16, -14 ), one( FP16, 15, 1023 )
  assert dot( FP16, 4, [ least, 0, 0, 0 ], [ least, 0, 0, 0 ] ) == 2.0 ** -28
  # 65504 squared has 22 significant bits, of which 18 are kept.
  exact = 65504 ** 2
  assert dot( FP16, 4, [ most, 0, 0, 0 ], [ most, 0, 0, 0 ] ) == exact - exact % 2 ** 14
  assert dot( FP16, 4, [ one( FP16, 16 ), 0, 0, 0 ], [ least, 0, 0, 0 ] ) == 4.0

def test_exact_products() -> None:
  """BF16 products have 14 fraction bits and are kept whole; FP16 products have 20 and lose four."""
  assert dot( BF16, 4, [ one( BF16, 0, 1 ), 0, 0, 0 ], [ one( BF16, 0, 1 ), 0, 0, 0 ] ) == ( 1 + 2.0 ** -7 ) ** 2
  assert dot( FP16, 4, [ one( FP16, 0, 1 ), 0, 0, 0 ], [ one( FP16, 0, 1 ), 0, 0, 0 ] ) == 1 + 2.0 ** -9

@pytest.mark.parametrize( "fmt", FORMATS, ids=lambda f: f.name )
def test_dependence_on_n( fmt: SmallFloat ) -> None:
  """A small term survives in a pass of its own, and falls off beside a large one."""
  a = [ one( fmt ), 0, 0, 0, one( fmt, -8 ), 0, 0, 0 ] + [ 0 ] * 8
  w = [ one( fmt ), 0, 0, 0, one( fmt, -9 ), 0, 0, 0 ] + [ 0 ] * 8
  found = { n: dot( fmt, n, a, w ) for n in ( 4, 8, 16 ) }
  assert found == { 4: 1 + 2.0 ** -17, 8: 1.0, 16: 1.0 }

@st.composite
def floating_cases( draw: st.DrawFn ) -> tuple[SmallFloat, int, int, int, int, int, int]:
  """(format, n, seed, rows, passes, columns, exponent spread)."""
  fmt = draw( st.sampled_from( FORMATS ) )
  return ( fmt, draw( st.sampled_from( ( 4, 8, 16 ) ) ), draw( st.integers( 0, 2 ** 32 - 1 ) ),
           draw( st.integers( 1, 3 ) ), draw( st.integers( 1, 4 ) ), draw( st.integers( 1, 3 ) ),
           draw( st.integers( 0, 12 ) ) )

def random_patterns( rng: np.random.Generator, fmt: SmallFloat, spread: int, shape: tuple[int, int] ) -> NDArray:
  """Patterns with exponents within `spread` of the middle, here and there a zero or a subnormal."""
  fields = ( rng.integers( 0, 2, shape ) << 15
             | ( fmt.bias + rng.integers( -spread, spread + 1, shape ) ) << fmt.fraction_bits
             | rng.integers( 0, 1 << fmt.fraction_bits, shape ) )
  odd = rng.integers( 0, 10, shape ) == 0
  no_exponent = 0x8000 | ( ( 1 << fmt.fraction_bits ) - 1 )
  return np.where( odd, fields & no_exponent, fields ).astype( np.uint16 )

def check_floating( case: tuple[SmallFloat, int, int, int, int, int, int] ) -> None:
  fmt, n, seed, m, passes, cols, spread = case
  rng = np.random.default_rng( seed )
  a = random_patterns( rng, fmt, spread, ( m, passes * n ) )
  w = random_patterns( rng, fmt, spread, ( passes * n, cols ) )
  bias     = rng.standard_normal( cols ).astype( np.float32 )
  residual = rng.standard_normal( ( m, cols ) ).astype( np.float32 )
  assert np.array_equal( gemm_floating( fmt, n, a, w ), oracle_floating( fmt, n, a, w, None, None ) )
  assert np.array_equal( gemm_floating( fmt, n, a, w, bias, residual ),
                         oracle_floating( fmt, n, a, w, bias, residual ) )
  # Within a pass the order of K does not matter, as the sum is exact; zeros in a pass change nothing.
  order = np.concatenate( [ n * p + rng.permutation( n ) for p in range( passes ) ] )
  again = gemm_floating( fmt, n, a[:, order], w[order] )
  assert pattern( again ) == pattern( gemm_floating( fmt, n, a, w ) )

@settings( max_examples=100 )
@given( case=floating_cases() )
def test_random_floating_products( case: tuple[SmallFloat, int, int, int, int, int, int] ) -> None:
  check_floating( case )

@pytest.mark.nightly
@settings( max_examples=3000 )
@given( case=floating_cases() )
def test_many_random_floating_products( case: tuple[SmallFloat, int, int, int, int, int, int] ) -> None:
  check_floating( case )

@pytest.mark.parametrize( "fmt, low, high", [ ( BF16, 1, 254 ), ( FP16, 1, 30 ) ], ids=( "bf16", "fp16" ) )
def test_one_pass_over_all_exponents( fmt: SmallFloat, low: int, high: int ) -> None:
  """One pass with exponents from end to end of the format, saturation and flush included."""
  rng = np.random.default_rng( 11 )
  for _ in range( 60 ):
    fields = [ ( int( rng.integers( 0, 2 ) ) << 15 | int( e ) << fmt.fraction_bits
                 | int( rng.integers( 0, 1 << fmt.fraction_bits ) ) )
               for e in rng.choice( ( low, low + 1, fmt.bias, high - 1, high ), 16 ) ]
    a, w = fields[:8], fields[8:]
    got  = aligned_dot( fmt, matrix( a ).T, matrix( w ) )
    assert Fraction( float( got[0, 0] ) ) == oracle_column( fmt, a, w )

#-------------------------------------------------------------------------
# The instruction
#-------------------------------------------------------------------------

WEIGHT_BITS = { GemmMode.I16_I8: 8, GemmMode.I16_I16: 16, GemmMode.I8_I8: 8, GemmMode.I16_G4: 4,
                GemmMode.I16_G8: 8, GemmMode.BF16: 16, GemmMode.FP16: 16 }
SMALL_FLOATS = { GemmMode.BF16: BF16, GemmMode.FP16: FP16 }

def words_of( values: Sequence[int], width: int ) -> list[int]:
  """Integers of `width` bits as 32-bit words, the first in the lowest bits."""
  whole = 0
  for i, v in enumerate( values ):
    whole |= ( v % ( 1 << width ) ) << ( width * i )
  return [ whole >> at & 0xFFFFFFFF for at in range( 0, width * len( values ), 32 ) ]

@dataclass
class Gemm:
  """A random GEMM: operands as numbers, and as the words that memory and scratchpad hold.

  The stream is put together here from the description in npu/arch/weight_stream.py.
  """
  mode: GemmMode
  n: int
  rows: int
  k: int
  cols: int
  group: int = 0
  with_bias: bool = False
  with_residual: bool = False
  seed: int = 1

  def __post_init__( self ) -> None:
    rng, shape = np.random.default_rng( self.seed ), ( self.k, self.cols )
    self.groups = self.k // self.group if self.group else 1
    self.zeros  = np.zeros( ( self.groups, self.cols ), dtype=np.int64 )
    if self.mode in SMALL_FLOATS:
      fmt    = SMALL_FLOATS[self.mode]
      self.q = random_patterns( rng, fmt, 4, ( self.rows, self.k ) ).astype( np.int64 )
      self.w = random_patterns( rng, fmt, 4, shape ).astype( np.int64 )
    else:
      top    = 1 << ( 7 if self.mode == GemmMode.I8_I8 else 15 )
      self.q = rng.integers( -top, top, ( self.rows, self.k ) )
      half   = 1 << ( WEIGHT_BITS[self.mode] - 1 )
      low    = 0 if self.mode == GemmMode.I16_G4 else -half
      self.w = rng.integers( low, low + 2 * half, shape )
      if self.group:
        self.zeros = rng.integers( -128, 128, self.zeros.shape )
    self.exponent = rng.integers( 120, 134, self.rows )
    scales        = rng.uniform( 1e-3, 1e-2, self.zeros.shape ).astype( np.float32 )
    # A group's scale shares its word with the zero point, which takes the low 8 bits.
    self.scales   = ( scales.view( np.uint32 ) & ( 0xFFFFFF00 if self.group else 0xFFFFFFFF ) ).view( np.float32 )
    self.bias     = rng.standard_normal( self.cols ).astype( np.float32 ) if self.with_bias else None
    self.residual = ( rng.standard_normal( ( self.rows, self.cols ) ).astype( np.float32 )
                      if self.with_residual else None )

  def expect( self ) -> Floats:
    """By the oracles."""
    if self.mode in SMALL_FLOATS:
      k = -self.k % self.n
      a, w = np.pad( self.q, ( ( 0, 0 ), ( 0, k ) ) ), np.pad( self.w, ( ( 0, k ), ( 0, 0 ) ) )
      return oracle_floating( SMALL_FLOATS[self.mode], self.n, a, w, self.bias, self.residual )
    size = self.k // self.groups
    w    = self.w - np.repeat( self.zeros, size, axis=0 )
    return oracle_groups( self.q, self.exponent, 8 if self.mode == GemmMode.I8_I8 else 16, w, self.scales,
                          self.bias, self.residual )

  def stream( self ) -> list[int]:
    """The weight stream: output tiles of n columns, K padded to whole beats."""
    width  = WEIGHT_BITS[self.mode]
    k      = -( -self.k // max( self.n, 32 // width ) ) * max( self.n, 32 // width )
    size   = self.group or k
    out: list[int] = []
    for first in range( 0, self.cols, self.n ):
      columns = [ c if c < self.cols else None for c in range( first, first + self.n ) ]
      def lanes( x: Floats, columns: Sequence[int | None] = columns ) -> list[int]:
        return [ 0 if c is None else int( x.view( np.uint32 )[c] ) for c in columns ]
      if self.bias is not None:
        out += lanes( self.bias )
      if not self.group and self.mode not in SMALL_FLOATS:
        out += lanes( self.scales[0] )
      for g in range( self.groups ):
        if self.group:
          zeros = [ 0 if c is None else int( self.zeros[g, c] ) % 256 for c in columns ]
          out  += [ s | z for s, z in zip( lanes( self.scales[g] ), zeros, strict=True ) ]
        out += words_of( [ int( self.w[r, c] ) if c is not None and r < self.k else 0
                           for r in range( g * size, g * size + size ) for c in columns ], width )
    return out

PLAIN_MODES = ( GemmMode.I16_I8, GemmMode.I16_I16, GemmMode.I8_I8, GemmMode.BF16, GemmMode.FP16 )
GROUP_MODES = ( GemmMode.I16_G4, GemmMode.I16_G8 )

GEMM_ROWS: list[tuple[str, tuple[GemmMode, ...], int, int, int, int, bool, bool]] = [
  # name                  modes        rows  k    cols  group  bias   residual
  ( "one of each",        PLAIN_MODES, 1,    1,   1,    0,     False, False ),
  ( "whole tiles",        PLAIN_MODES, 2,    16,  32,   0,     True,  False ),
  ( "nothing whole",      PLAIN_MODES, 3,    37,  21,   0,     False, True ),
  ( "all at once",        PLAIN_MODES, 16,   20,  17,   0,     True,  True ),
  ( "one group of 32",    GROUP_MODES, 2,    32,  16,   1,     False, False ),
  ( "groups of 32",       GROUP_MODES, 3,    96,  19,   1,     True,  True ),
  ( "groups of 64",       GROUP_MODES, 1,    128, 5,    2,     True,  False ),
  ( "groups of 128",      GROUP_MODES, 2,    256, 3,    3,     False, True ) ]

@pytest.mark.parametrize( "n", ( 4, 8, 16 ) )
@pytest.mark.parametrize( "mode, rows, k, cols, code, with_bias, with_residual",
                          [ ( m, *r[2:] ) for r in GEMM_ROWS for m in r[1] ],
                          ids=[ f"{r[0]}, {m.name}" for r in GEMM_ROWS for m in r[1] ] )
def test_instruction( mode: GemmMode, rows: int, k: int, cols: int, code: int, with_bias: bool,
                      with_residual: bool, n: int ) -> None:
  """Every mode from its memory words to its result; padding lanes of the result are zero, other rows
  stay, and what fills up the operands is not read."""
  g   = Gemm( mode, n, rows, k, cols, ( 0, 32, 64, 128 )[code], with_bias, with_residual, seed=n )
  npu = NpuFL( NpuConfig( name="bench", n=n, spad_bytes=1 << 16 ), np.full( 1 << 16, 0xAB, dtype=np.uint8 ) )
  npu.r = Registers( lines=len( npu.dram ) // LINE_BYTES )
  npu.spad[:] = 0xABCDABCD
  words = g.stream()
  npu.dram.view( np.uint32 )[16 : 16 + len( words )] = words
  src_stride, dst_stride = -( -k // n ) + 1, -( -cols // n ) + 2
  dst, src2 = 17 * src_stride, 17 * src_stride + 17 * dst_stride
  flat = npu.spad.reshape( -1 )
  for r in range( rows ):
    lanes = ( g.q[r] & 0xFFFF ) | ( 0 if mode in SMALL_FLOATS else int( g.exponent[r] ) << 16 )
    flat[r * src_stride * n :][:k] = lanes.astype( np.uint32 )
    if g.residual is not None:
      flat[( src2 + r * dst_stride ) * n :][:cols] = g.residual[r].view( np.uint32 )
  expect = npu.spad.copy()
  for r, y in enumerate( g.expect() ):
    width = -( -cols // n )
    row   = np.zeros( width * n, dtype=np.float32 )
    row[:cols] = y
    expect[dst + r * dst_stride :][:width] = row.view( np.uint32 ).reshape( width, n )
  flags = GemmFlag.BIAS * with_bias | GemmFlag.RESIDUAL * with_residual
  npu.execute( mk( "GEMM", rows=rows, dram=1, mode=mode, flags=flags, group=code, src=0, src2=src2, dst=dst, k=k,
                   cols=cols, src_stride=src_stride, dst_stride=dst_stride ) )
  assert np.array_equal( npu.spad, expect )

#-------------------------------------------------------------------------
# Commands
#-------------------------------------------------------------------------

CFG = NpuConfig( name="small", n=4, m_max=8, spad_bytes=4096, k_max=1024 )

CHECK_ROWS: list[tuple[str, int, dict[str, int], Error]] = [
  # name                            rows  operands                                         error
  ( "int8 weights",                 1,    {},                                              Error.NONE ),
  ( "all rows",                     8,    {},                                              Error.NONE ),
  ( "longest K",                    1,    { "k": 1024 },                                   Error.NONE ),
  ( "K need not be a multiple",     1,    { "k": 1023, "cols": 3 },                        Error.NONE ),
  ( "int4 groups of 32",            1,    { "mode": GemmMode.I16_G4, "group": 1, "k": 96 },  Error.NONE ),
  ( "int8 groups of 64",            1,    { "mode": GemmMode.I16_G8, "group": 2, "k": 64 },  Error.NONE ),
  ( "int4 groups of 128",           1,    { "mode": GemmMode.I16_G4, "group": 3, "k": 256 }, Error.NONE ),
  ( "bf16",                         1,    { "mode": GemmMode.BF16 },                       Error.NONE ),
  ( "no rows",                      0,    {},                                              Error.ZERO_SIZE ),
  ( "no K",                         1,    { "k": 0 },                                      Error.ZERO_SIZE ),
  ( "no columns",                   1,    { "cols": 0 },                                   Error.ZERO_SIZE ),
  ( "no size before group",         1,    { "cols": 0, "group": 9 },                       Error.ZERO_SIZE ),
  ( "group code 4",                 1,    { "group": 4 },                                  Error.BAD_FIELD ),
  ( "group code 255",               1,    { "group": 255, "mode": GemmMode.I16_G4 },       Error.BAD_FIELD ),
  ( "a row too many",               9,    {},                                              Error.BAD_SIZE ),
  ( "most rows that fit the field", 255,  {},                                              Error.BAD_SIZE ),
  ( "K too long by one",            1,    { "k": 1025 },                                   Error.BAD_SIZE ),
  ( "mode that is not defined",     1,    { "mode": 7 },                                   Error.BAD_FIELD ),
  ( "group in a mode without",      1,    { "group": 1 },                                  Error.BAD_SIZE ),
  ( "group in bf16",                1,    { "group": 1, "mode": GemmMode.BF16 },           Error.BAD_SIZE ),
  ( "group mode without group",     1,    { "mode": GemmMode.I16_G4 },                     Error.BAD_SIZE ),
  ( "K not whole groups of 32",     1,    { "mode": GemmMode.I16_G8, "group": 1, "k": 48 },  Error.BAD_SIZE ),
  ( "K not whole groups of 128",    1,    { "mode": GemmMode.I16_G4, "group": 3, "k": 192 }, Error.BAD_SIZE ) ]

@pytest.mark.parametrize( "rows, operands, error", [ r[1:] for r in CHECK_ROWS ], ids=[ r[0] for r in CHECK_ROWS ] )
def test_check( rows: int, operands: dict[str, int], error: Error ) -> None:
  assert check( CFG, mk( "GEMM", **{ "k": 64, "cols": 8, **operands } ), rows, lines=1 << 20 ) == error
