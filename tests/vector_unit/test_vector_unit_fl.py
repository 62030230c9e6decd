"""The vector unit's golden model, function by function, against float64."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp

from fl.vector_unit import argmax, ceil_to_integer, rmsnorm, rope, rope_table, softmax, swiglu
from npu.arch.numerics.special import exp2neg
from tests.vector_unit.oracle import (
  EXP_ABSOLUTE,
  EXP_RELATIVE,
  F32,
  LOG2_E,
  RECIPROCAL_ERROR,
  RMSNORM_ERROR,
  RMSNORM_MEASURED,
  ROUNDING,
  SILU_ERROR,
  SUM_ERROR,
  TINY,
  assert_within,
  check_sum,
  normal,
  pattern,
  rmsnorm_oracle,
  rmsnorm_proof,
  rmsnorm_quantised,
  rotated,
  silu_oracle,
  softmax_oracle,
)

#-------------------------------------------------------------------------
# RMSNorm
#-------------------------------------------------------------------------

def check_rmsnorm( x: F32, gain: F32, eps: float = 1e-6 ) -> None:
  """Tightly as the quantised row's norm, and within the proof as the row's own."""
  got = rmsnorm( x, gain, 1.0 / x.shape[-1], eps )
  tight = rmsnorm_quantised( x, gain, eps )
  assert_within( got, tight, RMSNORM_ERROR * np.abs( tight ) )
  exact = rmsnorm_oracle( x.astype( np.float64 ), gain, eps )
  if np.any( x ):
    assert_within( got, exact, ( rmsnorm_proof( x ) + RMSNORM_ERROR ) * np.abs( exact ) )

def outliers( seed: int, length: int, *places: tuple[int, float] ) -> F32:
  """A row of normal values with some replaced."""
  x = normal( seed, 1, length )
  for at, value in places:
    x[0, at] = value
  return x

RMSNORM_ROWS: list[tuple[str, F32]] = [
  ( "one element",                 np.array( [ [ 3.7 ] ], dtype=np.float32 ) ),
  ( "one negative element",        np.array( [ [ -1e-3 ] ], dtype=np.float32 ) ),
  ( "all equal",                   np.full( ( 1, 37 ), 0.3, dtype=np.float32 ) ),
  ( "three rows of 37",            normal( 1, 3, 37 ) ),
  ( "896 as in 0.5B",              normal( 2, 2, 896 ) ),
  ( "4864",                        normal( 3, 1, 4864 ) ),
  ( "residuals of 1e4",            outliers( 4, 896, ( 5, 1e4 ), ( 700, -8e3 ) ) ),
  ( "one of 1e4 among thousandths", outliers( 5, 64, ( 63, 1e4 ) ) * np.float32( 1e-3 ) ),
  ( "all of 1e4",                  normal( 6, 2, 100, scale=1e4 ) ),
  ( "small: eps counts",           normal( 7, 2, 64, scale=1e-3 ) ),
  ( "tiny: eps is all",            normal( 8, 2, 64, scale=1e-22 ) ),
  ( "huge",                        normal( 9, 2, 64, scale=1e17 ) ),
  ( "just under a power of two",   np.full( ( 1, 5 ), np.nextafter( np.float32( 2 ), np.float32( 0 ) ) ) ) ]

@pytest.mark.parametrize( "x", [ r[1] for r in RMSNORM_ROWS ], ids=[ r[0] for r in RMSNORM_ROWS ] )
def test_rmsnorm( x: F32 ) -> None:
  gain = normal( 20, x.shape[-1], scale=0.3 ) + np.float32( 1 )
  check_rmsnorm( x, gain )
  check_rmsnorm( x, -10 * gain, 1e-5 )

def test_rmsnorm_measured() -> None:
  """On usual rows the error stays far below the proof."""
  x    = normal( 30, 1000, 896 )
  gain = np.ones( 896, dtype=np.float32 )
  exact = rmsnorm_oracle( x.astype( np.float64 ), gain, 1e-6 )
  assert_within( rmsnorm( x, gain, 1 / 896, 1e-6 ), exact, RMSNORM_MEASURED * np.abs( exact ) )

def test_rmsnorm_of_zeros() -> None:
  """Zeros stay zeros, with and without eps: no 0 * infinity."""
  x = np.array( [ [ 0.0, -0.0, 0.0 ] ], dtype=np.float32 )
  for eps in ( 1e-6, 0.0 ):
    assert pattern( rmsnorm( x, np.ones( 3, dtype=np.float32 ), 1 / 3, eps ) ).tolist() == [ [ 0, 0x80000000, 0 ] ]

def test_rmsnorm_rows_do_not_see_each_other() -> None:
  """A large row beside a small one: each has its own exponent."""
  x    = np.concatenate( [ normal( 1, 1, 50, scale=1e4 ), normal( 2, 1, 50, scale=1e-2 ) ] )
  gain = np.ones( 50, dtype=np.float32 )
  both = rmsnorm( x, gain, 1 / 50, 1e-6 )
  for i in range( 2 ):
    assert np.array_equal( pattern( both[i] ), pattern( rmsnorm( x[i], gain, 1 / 50, 1e-6 ) ) )

# Normal binary32 values whose squares are far from both ends.
SIZES    = st.floats( 2.0 ** -40, 2.0 ** 40, width=32 )
MODERATE = SIZES | SIZES.map( lambda x: -x ) | st.just( 0.0 )

@settings( max_examples=150 )
@given( x=hnp.arrays( np.float32, hnp.array_shapes( min_dims=2, max_dims=2, max_side=20 ), elements=MODERATE ) )
def test_rmsnorm_of_anything( x: F32 ) -> None:
  check_rmsnorm( x[np.any( x, axis=-1 )] if np.any( x ) else x, np.ones( x.shape[-1], dtype=np.float32 ) )

#-------------------------------------------------------------------------
# RoPE
#-------------------------------------------------------------------------

ANGLES = np.linspace( 0, 6.28, 9 )

ROPE_ROWS: list[tuple[str, F32]] = [
  ( "one pair",                normal( 1, 9, 2 ) ),
  ( "head of 6",               normal( 2, 9, 6 ) ),
  ( "keys of 200 beside 1",    normal( 3, 9, 8 ) * np.array( [ 200, 1, 1, 1, 1, 1, 200, 1 ], dtype=np.float32 ) ),
  ( "all of 1e4",              normal( 4, 9, 10, scale=1e4 ) ),
  ( "zeros",                   np.zeros( ( 9, 4 ), dtype=np.float32 ) ) ]

@pytest.mark.parametrize( "x", [ r[1] for r in ROPE_ROWS ], ids=[ r[0] for r in ROPE_ROWS ] )
def test_rope( x: F32 ) -> None:
  half = x.shape[-1] // 2
  freq = 10000.0 ** ( -np.arange( half ) / half )
  cos, sin = ( f( ANGLES[:, None] * freq ).astype( np.float32 ) for f in ( np.cos, np.sin ) )
  assert_within( rope( x, cos, sin ), *rotated( x, cos, sin ) )

def test_rope_directions() -> None:
  """A quarter turn takes (1, 0) to (0, 1) and (0, 1) to (-1, 0); no turn changes nothing."""
  x = np.array( [ 1, 2, 3, 4 ], dtype=np.float32 )         # pairs (1, 3) and (2, 4)
  one, zero = np.ones( 2, dtype=np.float32 ), np.zeros( 2, dtype=np.float32 )
  assert rope( x, zero, one ).tolist() == [ -3, -4, 1, 2 ]
  assert rope( x, one, zero ).tolist() == [ 1, 2, 3, 4 ]

def test_rope_table() -> None:
  """cos in the low half of a lane, sin in the high half, both signed with 14 fraction bits."""
  rows = [ ( 0x00004000, 1.0, 0.0 ), ( 0x40000000, 0.0, 1.0 ), ( 0xC0004000, 1.0, -1.0 ), ( 0x0000C000, -1.0, 0.0 ),
           ( 0x0001FFFF, -2.0 ** -14, 2.0 ** -14 ), ( 0x80007FFF, 2 - 2.0 ** -14, -2.0 ) ]
  cos, sin = rope_table( np.array( [ r[0] for r in rows ], dtype=np.uint32 ) )
  assert cos.dtype == sin.dtype == np.float32
  assert cos.tolist() == [ r[1] for r in rows ] and sin.tolist() == [ r[2] for r in rows ]

#-------------------------------------------------------------------------
# SwiGLU
#-------------------------------------------------------------------------

def check_swiglu( gate: F32, up: F32 ) -> None:
  """silu within its error, times up: three roundings of the product."""
  silu  = silu_oracle( gate )
  bound = np.abs( up ) * ( SILU_ERROR + 2 * RECIPROCAL_ERROR * np.abs( silu ) )
  assert_within( swiglu( gate, up ), silu * up, bound + np.abs( up ) * TINY + 3 * ROUNDING * np.abs( silu * up ) )

def test_swiglu_over_the_range() -> None:
  """Every gate that matters, densely, and much beyond."""
  gate = np.concatenate( [ np.linspace( -30, 30, 200_001 ), np.logspace( -30, 6, 2000 ),
                           -np.logspace( -30, 6, 2000 ) ] ).astype( np.float32 )
  check_swiglu( gate, np.ones_like( gate ) )
  check_swiglu( gate, normal( 1, *gate.shape, scale=100 ) )

@pytest.mark.parametrize( "gate, up, expect", [
  ( 0.0, 5.0, 0 ), ( -0.0, 5.0, 0x80000000 ), ( 1.0, 0.0, 0 ), ( 1e4, 2.0, 0x469C4000 ), ( -1e4, 2.0, 0x80000000 ),
  ( 64.0, -1.0, 0xC2800000 ) ] )
def test_swiglu_ends( gate: float, up: float, expect: int ) -> None:
  """Far out, silu is the identity or zero, exactly."""
  assert pattern( swiglu( np.float32( [ gate ] ), np.float32( [ up ] ) ) ).tolist() == [ expect ]

#-------------------------------------------------------------------------
# Softmax
#-------------------------------------------------------------------------

def check_softmax( x: F32, factor: np.float32 = LOG2_E ) -> F32:
  """Within the bound of the definition; non-negative; the sum is one within its own bound."""
  got = softmax( x, float( factor ) )
  y, bound = softmax_oracle( x, factor )
  assert_within( got, y, bound )
  check_sum( got )
  return got

SOFTMAX_ROWS: list[tuple[str, F32]] = [
  ( "one element",             np.array( [ [ -5.3 ] ], dtype=np.float32 ) ),
  ( "zeros",                   np.zeros( ( 1, 13 ), dtype=np.float32 ) ),
  ( "all equal",               np.full( ( 1, 100 ), 17.3, dtype=np.float32 ) ),
  ( "normal",                  normal( 1, 5, 50 ) ),
  ( "spread",                  normal( 2, 5, 50, scale=10 ) ),
  ( "long",                    normal( 3, 2, 4096, scale=3 ) ),
  ( "one dominates",           outliers( 4, 64, ( 40, 80.0 ) ) ),
  ( "one far below",           outliers( 5, 64, ( 40, -80.0 ) ) ),
  ( "large and close",         normal( 6, 3, 20 ) + np.float32( 1000 ) ),
  ( "two signs of 1e4",        normal( 7, 3, 20, scale=1e4 ) ) ]

@pytest.mark.parametrize( "x", [ r[1] for r in SOFTMAX_ROWS ], ids=[ r[0] for r in SOFTMAX_ROWS ] )
def test_softmax( x: F32 ) -> None:
  check_softmax( x )
  check_softmax( x, np.float32( 0.125 ) * LOG2_E )
  check_softmax( x, -LOG2_E )

@pytest.mark.parametrize( "values, expect", [
  ( [ 1e30, 1e30, -1e30, 0.0 ], [ 0.5, 0.5, 0.0, 0.0 ] ),
  ( [ -1e30, -1e30 ],           [ 0.5, 0.5 ] ),
  ( [ 3e38, 0.0, -3e38 ],       [ 1.0, 0.0, 0.0 ] ),
  ( [ 2.0 ** 19, 2.0 ** 20 ],   [ 0.5, 0.5 ] ),             # both beyond the largest score
  ( [ -2.0 ** 18, -2.0 ** 18 - 40 ], [ 1.0, 0.0 ] ) ] )
def test_softmax_of_extreme_scores( values: list[float], expect: list[float] ) -> None:
  """Scores saturate at +-2**19; whatever they are, the result is a distribution."""
  got = softmax( np.array( [ values ], dtype=np.float32 ), 1.0 )
  check_sum( got )
  assert np.abs( got[0] - expect ).max() <= SUM_ERROR

def test_exp2neg_error() -> None:
  """Every argument; what is beyond 32 gives zero."""
  u     = np.arange( 1 << 17 )
  exact = np.exp2( -u / 4096 )
  assert ( np.abs( exp2neg( u ) / 32768 - exact ) <= EXP_RELATIVE * exact + EXP_ABSOLUTE ).all()
  assert not exp2neg( np.array( [ 1 << 17, 1 << 30, 1 << 40 ] ) ).any()

@settings( max_examples=150 )
@given( x=hnp.arrays( np.float32, hnp.array_shapes( min_dims=1, max_dims=2, max_side=30 ),
                      elements=st.floats( -2.0 ** 15, 2.0 ** 15, width=32 ) ) )
def test_softmax_of_anything( x: F32 ) -> None:
  check_softmax( x )

@pytest.mark.parametrize( "score, expect", [
  ( 0, 0 ), ( 1, 1 ), ( 4095, 1 ), ( 4096, 1 ), ( 4097, 2 ), ( -1, 0 ), ( -4095, 0 ), ( -4096, -1 ), ( -4097, -1 ) ] )
def test_ceil_to_integer( score: int, expect: int ) -> None:
  assert ceil_to_integer( np.array( [ score ] ) ).tolist() == [ expect ]

#-------------------------------------------------------------------------
# Argmax
#-------------------------------------------------------------------------

ARGMAX_ROWS: list[tuple[str, list[float], int]] = [
  ( "one element",               [ -7.0 ],                       0 ),
  ( "in the middle",             [ 1.0, 5.0, 2.0 ],              1 ),
  ( "last",                      [ 1.0, 2.0, 3.0 ],              2 ),
  ( "all negative",              [ -3.0, -1.0, -2.0 ],           1 ),
  ( "the first of a tie",        [ 1.0, 4.0, 4.0, 4.0 ],         1 ),
  ( "all tie",                   [ 2.5 ] * 5,                    0 ),
  ( "-0 before +0",              [ -1.0, -0.0, 0.0 ],            1 ),
  ( "+0 before -0",              [ -1.0, 0.0, -0.0 ],            1 ),
  ( "neighbours of binary32",    [ 1.0, float( np.nextafter( np.float32( 1 ), np.float32( 2 ) ) ), 1.0 ], 1 ),
  ( "largest finite",            [ 3.4e38, -3.4e38 ],            0 ) ]

@pytest.mark.parametrize( "values, index", [ r[1:] for r in ARGMAX_ROWS ], ids=[ r[0] for r in ARGMAX_ROWS ] )
def test_argmax( values: list[float], index: int ) -> None:
  x = np.array( values, dtype=np.float32 )
  assert argmax( x, None, 0 ) == ( float( x[index] ), index )
  assert argmax( x, None, 4096 ) == ( float( x[index] ), 4096 + index )

@pytest.mark.parametrize( "best, values, expect", [
  ( ( 1.0, 7 ),  [ 0.0, 2.0 ],   ( 2.0, 17 ) ),
  ( ( 3.0, 7 ),  [ 0.0, 2.0 ],   ( 3.0, 7 ) ),
  ( ( 2.0, 7 ),  [ 0.0, 2.0 ],   ( 2.0, 7 ) ),          # a tie goes to the earlier part
  ( ( 0.0, 7 ),  [ -0.0, -1.0 ], ( 0.0, 7 ) ),
  ( ( -0.0, 7 ), [ 0.0, -1.0 ],  ( -0.0, 7 ) ),         # +0 is not larger than -0
  ( ( -9.0, 0 ), [ -8.0 ],       ( -8.0, 16 ) ) ] )
def test_argmax_goes_on( best: tuple[float, int], values: list[float], expect: tuple[float, int] ) -> None:
  assert argmax( np.array( values, dtype=np.float32 ), best, 16 ) == expect

@settings( max_examples=100 )
@given( values=st.lists( st.sampled_from( ( -2.0, -1.0, -0.0, 0.0, 1.0, 1.5 ) ), min_size=1, max_size=40 ),
        cuts=st.lists( st.integers( 1, 39 ), max_size=5 ) )
def test_argmax_over_parts( values: list[float], cuts: list[int] ) -> None:
  """However the elements are cut, the first of the largest is found; few values, so many ties."""
  bounds = sorted( { 0, len( values ), *( c for c in cuts if c < len( values ) ) } )
  best: tuple[float, int] | None = None
  for low, high in pairwise( bounds ):
    best = argmax( np.array( values[low:high], dtype=np.float32 ), best, low )
  assert best is not None and best[1] == values.index( max( values ) )
