"""The MAC array's golden model in the integer modes, against Python integers."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.typing import ArrayLike, NDArray

from fl.mac_array import gemm_groups, gemm_integer
from tests.mac_array.oracle import f32, oracle_groups, oracle_integer, pattern

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
