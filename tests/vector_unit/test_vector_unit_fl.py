"""The vector unit's golden model against float64, and each of its instructions on a scratchpad.

Bounds are of two kinds. A *proof* adds up the errors of the steps, so no input may exceed it. Where a
proof is far above what ever happens, a second, *measured* bound watches the usual inputs.
"""

from collections.abc import Callable
from itertools import pairwise

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import ArrayLike, NDArray

from fl.npu import NpuFL
from fl.vector_unit import argmax, ceil_to_integer, check, rmsnorm, rope, rope_table, softmax, swiglu
from npu.arch.config import NpuConfig, ceil_div
from npu.arch.isa import Convert, Error, Instruction, Rel, mk
from npu.arch.numerics.special import exp2neg

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

#-------------------------------------------------------------------------
# Bounds
#-------------------------------------------------------------------------

# One rounding to binary32, relative.
ROUNDING = 2.0 ** -24

# Below this everything is flushed; an absolute error that any operation may add.
TINY = 2.0 ** -126

# Relative error of the table functions, proven over every fraction in test_numerics.
RECIPROCAL_ERROR = 1.2e-7
RSQRT_ERROR      = 2.0e-7

# exp2neg's error over all of its arguments, see test_exp2neg_error: the table's, relative, and one
# rounding to 15 fraction bits, absolute.
EXP_RELATIVE = 1.03e-5
EXP_ABSOLUTE = 2.0 ** -16

# A score is rounded to 12 fraction bits in base 2.
SCORE_ERROR = 2.0 ** -13

# RMSNorm of a row as quantised: the sum of squares is exact; four roundings of the mean (sum, 1/length,
# product, eps) count half after the root, rsqrt, and two products.
RMSNORM_ERROR = 2 * ROUNDING + RSQRT_ERROR + 2 * ROUNDING

# Quantising moves an element by at most 2**-15 of the row's largest (half a unit; a whole one where it
# saturates, just under the next power of two). See `rmsnorm_proof` for what that does to the root mean
# square. This much was measured, relative, on 1,000 rows of 896 normal values: errors average out.
RMSNORM_MEASURED = 1e-5

# |x| times the error of the sigmoid. The worst is where exp2neg's rounding first gives zero, at
# |x| = 16 ln 2 = 11.1: 11.1 * 2**-16 = 1.7e-4. Nearer to zero |x| is smaller, further out exp(-|x|) is.
SILU_ERROR = 1.71e-4

# The sum of the results: the integer sum is exact, one reciprocal, one rounding each.
SUM_ERROR = RECIPROCAL_ERROR + 2 * ROUNDING

#-------------------------------------------------------------------------
# Oracles in float64
#-------------------------------------------------------------------------

def quantised( x: F32, bits: int ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
  """Block floating point: integers and the power of two that a unit stands for, per row."""
  top     = np.abs( x.astype( np.float64 ) ).max( axis=-1 )
  _, e    = np.frexp( top )                           # top = m * 2**e with m in [0.5, 1)
  unit    = e.astype( np.int64 ) - 1 - ( bits - 2 )
  limit   = 2 ** ( bits - 1 ) - 1
  q       = np.clip( np.rint( x / np.ldexp( 1.0, unit )[..., None] ), -limit, limit )
  return q.astype( np.int64 ), unit

def rmsnorm_oracle( x: F64, gain: F32, eps: float ) -> F64:
  """The definition."""
  return x / np.sqrt( np.mean( np.square( x ), axis=-1, keepdims=True ) + eps ) * gain

def rmsnorm_quantised( x: F32, gain: F32, eps: float ) -> F64:
  """The same, with the mean square of the quantised row."""
  q, unit = quantised( x, 16 )
  mean    = np.sum( q * q, axis=-1, keepdims=True ) / x.shape[-1] * np.ldexp( 1.0, 2 * unit )[..., None]
  return x.astype( np.float64 ) / np.sqrt( mean + eps ) * gain

def rmsnorm_proof( x: F32 ) -> F64:
  """How far quantising may move a row's root mean square, relative: |dx| <= sqrt(L) * 2**-15 * max|x|
  as vectors, and 1 / (1 - t) - 1 for its inverse."""
  x64 = x.astype( np.float64 )
  t   = np.sqrt( x.shape[-1] ) * 2.0 ** -15 * np.abs( x64 ).max( -1 ) / np.sqrt( np.square( x64 ).sum( -1 ) )
  return ( t / ( 1 - t ) )[..., None]

def silu_oracle( x: F32 ) -> F64:
  """x / (1 + e**-x), without overflow."""
  x64 = x.astype( np.float64 )
  p   = np.exp( -np.abs( x64 ) )
  return x64 * np.where( x64 < 0, p, 1.0 ) / ( 1 + p )

def softmax_oracle( x: F32, factor: np.float32 ) -> tuple[F64, F64]:
  """Softmax of x * factor in base 2, and the bound on each element's error.

  Before normalising, an element p is off by what its score is off and by exp2neg's error; then
  |p' / l' - p / l| <= (d + y * D) / l' where d is its error and D that of the sum.
  """
  s   = x.astype( np.float64 ) * float( factor )
  top = np.ceil( s.max( axis=-1, keepdims=True ) )
  p   = np.exp2( s - top )
  total = p.sum( axis=-1, keepdims=True )
  off   = p * ( np.exp2( SCORE_ERROR + np.abs( s ) * ROUNDING ) * ( 1 + EXP_RELATIVE ) - 1 ) + EXP_ABSOLUTE
  lost  = off.sum( axis=-1, keepdims=True )
  y     = p / total
  return y, ( off + y * lost ) / ( total - lost ) + y * SUM_ERROR

def assert_within( got: F32, expect: F64, bound: ArrayLike ) -> None:
  """Finite binary32, and nowhere further from the expected value than allowed."""
  assert got.dtype == np.float32 and got.shape == expect.shape
  assert np.isfinite( got ).all()
  excess = np.abs( got - expect ) - ( bound + np.float64( TINY ) )
  worst  = np.unravel_index( np.argmax( excess ), excess.shape )
  assert excess[worst] <= 0, ( f"at {worst}: got {got[worst]}, expected {expect[worst]}, "
                               f"{excess[worst]:.3g} more than allowed" )

def flushed( x: F32 ) -> F32:
  """Subnormals as zeros of the same sign, by value."""
  return np.where( np.abs( x ) < np.float32( TINY ), np.copysign( np.float32( 0 ), x ), x )

def pattern( x: F32 ) -> NDArray[np.uint32]:
  """Bit patterns, which tell -0 from +0."""
  return np.ascontiguousarray( x, dtype=np.float32 ).view( np.uint32 )

def normal( seed: int, *shape: int, scale: float = 1.0 ) -> F32:
  """Normal values."""
  return ( np.random.default_rng( seed ).standard_normal( shape ) * scale ).astype( np.float32 )

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

def rotated( x: F32, cos: F32, sin: F32 ) -> tuple[F64, F64]:
  """Pairs (i, i + half) turned, one by one, and the bound: two products and a sum are rounded."""
  half = x.shape[-1] // 2
  out, bound = np.zeros( x.shape ), np.zeros( x.shape )
  for at in np.ndindex( *x.shape[:-1], half ):
    i = at[-1]
    a, b = float( x[( *at[:-1], i )] ), float( x[( *at[:-1], i + half )] )
    c, s = float( np.broadcast_to( cos, ( *x.shape[:-1], half ) )[at] ), \
           float( np.broadcast_to( sin, ( *x.shape[:-1], half ) )[at] )
    out[( *at[:-1], i )], out[( *at[:-1], i + half )] = a * c - b * s, b * c + a * s
    bound[( *at[:-1], i )]        = 2 * ROUNDING * ( abs( a * c ) + abs( b * s ) ) * ( 1 + ROUNDING )
    bound[( *at[:-1], i + half )] = 2 * ROUNDING * ( abs( b * c ) + abs( a * s ) ) * ( 1 + ROUNDING )
  return out, bound + 2 * TINY

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

LOG2_E = np.float32( 1.4426950408889634 )

def check_softmax( x: F32, factor: np.float32 = LOG2_E ) -> F32:
  """Within the bound of the definition; non-negative; the sum is one within its own bound."""
  got = softmax( x, float( factor ) )
  y, bound = softmax_oracle( x, factor )
  assert_within( got, y, bound )
  check_sum( got )
  return got

def check_sum( y: F32 ) -> None:
  """Probabilities that add up to one."""
  assert np.isfinite( y ).all() and ( y >= 0 ).all() and not np.signbit( y ).any()
  assert np.abs( y.astype( np.float64 ).sum( axis=-1 ) - 1 ).max() <= SUM_ERROR

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

#-------------------------------------------------------------------------
# Instructions on a scratchpad
#-------------------------------------------------------------------------

GARBAGE = 0xFFC01234       # a NaN: if a padding lane were read, it would spread
SPAD    = 1 << 16

class Bench:
  """A scratchpad full of garbage, matrices put into it, one instruction, and what it left.

  Parameters
  ----------
  n
    Lanes.
  rows, segments, length
    Size of the operands.
  gap
    Scratchpad rows between token rows that belong to nobody.
  halves
    Segments are two halves, each in whole scratchpad rows (ROPE).
  """

  def __init__( self, n: int, rows: int, segments: int, length: int, gap: int, halves: bool = False ) -> None:
    self.cfg = NpuConfig( name="bench", n=n, spad_bytes=SPAD )
    self.npu = NpuFL( self.cfg, np.zeros( 4096, dtype=np.uint8 ) )
    self.npu.spad[:] = GARBAGE
    self.npu.r.rows = rows
    self.rows, self.segments, self.length, self.halves = rows, segments, length, halves
    self.width  = segments * self.segment_rows( length )
    self.stride = self.width + gap
    self.used   = 0

  def segment_rows( self, length: int ) -> int:
    """Scratchpad rows of one segment."""
    return 2 * ceil_div( length // 2, self.cfg.n ) if self.halves else ceil_div( length, self.cfg.n )

  def lanes( self, segments: int, length: int ) -> NDArray[np.int64]:
    """Where the elements of one token row are, in lanes from its start: [segments, length]."""
    start = np.arange( segments )[:, None] * self.segment_rows( length ) * self.cfg.n
    at    = np.arange( length )
    if self.halves:
      at = at + np.where( at >= length // 2, self.segment_rows( length ) // 2 * self.cfg.n - length // 2, 0 )
    return start + at

  def put( self, words: NDArray[np.uint32], stride: int ) -> int:
    """Words [rows, segments, length] into the scratchpad; returns the first row."""
    base, ( rows, segments, length ) = self.used, words.shape
    flat = self.npu.spad.reshape( -1 )
    for r in range( rows ):
      flat[( base + r * stride ) * self.cfg.n + self.lanes( segments, length )] = words[r]
    self.used = base + rows * stride + segments * self.segment_rows( length )
    return base

  def execute( self, mnemonic: str, dst: int, **operands: float ) -> NDArray[np.uint32]:
    """Run the instruction; returns the result [rows, segments, length].

    Whatever is not result is as before, except that the result's padding lanes are zero.
    """
    before = self.npu.spad.copy()
    self.npu.execute( mk( mnemonic, dst=dst, segments=self.segments, length=self.length,
                          dst_stride=self.stride, **operands ) )
    starts  = ( dst + np.arange( self.rows ) * self.stride ) * self.cfg.n
    places  = starts[:, None, None] + self.lanes( self.segments, self.length )
    flat    = self.npu.spad.reshape( -1 ).copy()
    found   = flat[places]
    flat[places] = 0
    expect  = before.reshape( -1 )
    expect[starts[:, None] + np.arange( self.width * self.cfg.n )] = 0
    assert np.array_equal( flat, expect ), "something else was written, or padding is not zero"
    return found

# (rows, segments, length as n-multiple and rest, gap)
GEOMETRIES = [ ( 1, 1, 0, 1, 0 ), ( 1, 1, 1, 0, 0 ), ( 2, 1, 1, 1, 0 ), ( 3, 2, 1, -1, 2 ), ( 2, 3, 3, 2, 1 ),
               ( 16, 2, 2, 0, 0 ) ]

def geometry_name( g: tuple[int, int, int, int, int] ) -> str:
  return f"{g[0]}x{g[1]}x({g[2]}n{g[3]:+d})gap{g[4]}"

def unary( bench: Bench, x: NDArray[np.uint32], mnemonic: str, **operands: float ) -> NDArray[np.uint32]:
  """A one-operand instruction, to a place of its own and in place: both must agree."""
  src = bench.put( x, bench.stride )
  out = bench.execute( mnemonic, bench.used, src=src, src_stride=bench.stride, **operands )
  assert np.array_equal( bench.execute( mnemonic, src, src=src, src_stride=bench.stride, **operands ), out )
  return out

def binary( bench: Bench, x: F32, y: F32, mnemonic: str ) -> NDArray[np.uint32]:
  """A two-operand instruction; the second operand has a stride of its own."""
  src   = bench.put( pattern( x ), bench.stride )
  other = bench.stride + 3
  src2  = bench.put( pattern( y ), other )
  return bench.execute( mnemonic, bench.used + 1, src=src, src2=src2, src_stride=bench.stride, src2_stride=other )

def run_copy( b: Bench, x: F32, y: F32 ) -> None:
  assert np.array_equal( unary( b, pattern( x ), "COPY" ), pattern( x ) )

def run_scale( b: Bench, x: F32, y: F32 ) -> None:
  factor = np.float32( -0.3 )
  src    = b.put( pattern( x ), b.stride )
  found  = b.execute( "SCALE", src, src=src, src_stride=b.stride, factor=float( factor ) )
  assert np.array_equal( found, pattern( flushed( x * factor ) ) )

def run_add( b: Bench, x: F32, y: F32 ) -> None:
  assert np.array_equal( binary( b, x, y, "ADD" ), pattern( flushed( x + y ) ) )

def run_mul( b: Bench, x: F32, y: F32 ) -> None:
  assert np.array_equal( binary( b, x, y, "MUL" ), pattern( flushed( x * y ) ) )

def run_swiglu( b: Bench, x: F32, y: F32 ) -> None:
  silu = silu_oracle( x )
  got  = binary( b, x, y, "SWIGLU" ).view( np.float32 )
  assert_within( got, silu * y, np.abs( y ) * SILU_ERROR + 4 * ROUNDING * np.abs( silu * y ) )

def run_softmax( b: Bench, x: F32, y: F32 ) -> None:
  src = b.put( pattern( x ), b.stride )
  got = b.execute( "SOFTMAX", b.used, src=src, src_stride=b.stride, factor=float( LOG2_E ) ).view( np.float32 )
  assert_within( got, *softmax_oracle( x, LOG2_E ) )
  check_sum( got )

def run_rmsnorm( b: Bench, x: F32, y: F32 ) -> None:
  gain  = y[0, 0]
  src   = b.put( pattern( x ), b.stride )
  src2  = b.put( pattern( gain )[None, None], 0 )
  got   = b.execute( "RMSNORM", b.used, src=src, src2=src2, src_stride=b.stride, inv_length=1 / b.length, eps=1e-6 )
  exact = rmsnorm_quantised( x, gain, 1e-6 )
  assert_within( got.view( np.float32 ), exact, RMSNORM_ERROR * np.abs( exact ) )

def run_quantize( b: Bench, x: F32, y: F32 ) -> None:
  for bits in ( 16, 8 ):
    fresh   = Bench( b.cfg.n, b.rows, b.segments, b.length, 1 )
    src     = fresh.put( pattern( x ), fresh.stride )
    q, unit = quantised( x, bits )
    expect  = ( q & 0xFFFF ) | ( ( unit + bits - 2 + 127 ) << 16 )[..., None]
    got     = fresh.execute( "QUANTIZE", src, src=src, src_stride=fresh.stride, bits=bits )
    assert np.array_equal( got, expect.astype( np.uint32 ) )

def run_convert( b: Bench, x: F32, y: F32 ) -> None:
  for to, back, dtype in ( ( Convert.FP32_BF16, Convert.BF16_FP32, ml_dtypes.bfloat16 ),
                           ( Convert.FP32_FP16, Convert.FP16_FP32, np.float16 ) ):
    fresh = Bench( b.cfg.n, b.rows, b.segments, b.length, 1 )
    src   = fresh.put( pattern( x ), fresh.stride )
    small = x.astype( dtype )
    found = fresh.execute( "CONVERT", src, src=src, src_stride=fresh.stride, formats=to )
    assert np.array_equal( found, small.view( np.uint16 ) )
    wide  = fresh.execute( "CONVERT", src, src=src, src_stride=fresh.stride, formats=back )
    assert np.array_equal( wide.view( np.float32 ), small.astype( np.float32 ) )

OPERATIONS: dict[str, Callable[[Bench, F32, F32], None]] = {
  "COPY": run_copy, "SCALE": run_scale, "ADD": run_add, "MUL": run_mul, "SWIGLU": run_swiglu,
  "SOFTMAX": run_softmax, "RMSNORM": run_rmsnorm, "QUANTIZE": run_quantize, "CONVERT": run_convert }

@pytest.mark.parametrize( "n", ( 4, 8, 16 ) )
@pytest.mark.parametrize( "geometry", GEOMETRIES, ids=geometry_name )
@pytest.mark.parametrize( "operation", OPERATIONS )
def test_instruction( operation: str, geometry: tuple[int, int, int, int, int], n: int ) -> None:
  """Every operand form: rows, segments, lengths that n does not divide, strides, padding."""
  rows, segments, whole, rest, gap = geometry
  length = max( 1, whole * n + rest )
  x = normal( n, rows, segments, length, scale=3 )
  y = normal( n + 1, rows, segments, length )
  x[np.abs( x ) < 1e-3] = 1e-3                          # binary16 would make subnormals of smaller ones
  OPERATIONS[operation]( Bench( n, rows, segments, length, gap ), x, y )

@pytest.mark.parametrize( "n", ( 4, 8, 16 ) )
@pytest.mark.parametrize( "rows, segments, half, gap",
                          [ ( 1, 1, 1, 0 ), ( 2, 3, 16, 0 ), ( 3, 2, 17, 2 ), ( 16, 2, 6, 1 ) ] )
def test_rope_instruction( rows: int, segments: int, half: int, gap: int, n: int ) -> None:
  """Each half of a head in whole scratchpad rows; the table has a row per token, for all heads."""
  b = Bench( n, rows, segments, 2 * half, gap, halves=True )
  x = normal( n, rows, segments, 2 * half )
  turn  = np.random.default_rng( half ).integers( -16384, 16385, ( 2, rows, half ) )
  lanes = ( ( turn[0] & 0xFFFF ) | ( turn[1] & 0xFFFF ) << 16 ).astype( np.uint32 )
  src   = b.put( pattern( x ), b.stride )
  table_stride = ceil_div( half, n ) + 1
  b.halves = False
  src2  = b.put( lanes[:, None], table_stride )
  b.halves = True
  got   = b.execute( "ROPE", src, src=src, src2=src2, src_stride=b.stride, src2_stride=table_stride )
  cos, sin = ( ( t / 16384 ).astype( np.float32 )[:, None] for t in turn )
  assert_within( got.view( np.float32 ), *rotated( x, cos, sin ) )

@pytest.mark.parametrize( "n", ( 4, 8, 16 ) )
def test_argmax_instruction( n: int ) -> None:
  """Parts of any length, a new search or the one before going on; TOKEN is the index."""
  b = Bench( n, 1, 1, 1, 0 )
  parts = [ ( [ 1.0, 3.0, 3.0 ], 1 ), ( [ 3.0 ] * ( n + 1 ), 1 ), ( [ 0.0 ] * n + [ 4.0 ], n + 4 + n ) ]
  base  = 0
  for values, expect in parts:
    src = b.put( pattern( np.array( [ [ values ] ] ) ), ceil_div( len( values ), n ) )
    b.npu.execute( mk( "ARGMAX", rows=1, src=src, length=len( values ), base=base, first=int( base == 0 ) ) )
    base += len( values )
    assert b.npu.r.token == expect
  src = b.put( pattern( np.array( [ [ [ -2.0, -1.0 ] ] ] ) ), 1 )
  b.npu.execute( mk( "ARGMAX", rows=1, src=src, length=2, base=100, first=1 ) )
  assert b.npu.r.token == 101

@pytest.mark.parametrize( "rel, offset", [ ( Rel.NONE, 0 ), ( Rel.POS, 2 ), ( Rel.LAST, 4 ), ( Rel.TOKEN, 1 ),
                                           ( Rel.LEN, 3 ) ] )
def test_src_moves_with_a_register( rel: Rel, offset: int ) -> None:
  """`rel` moves src by whole token rows, and neither dst nor src2."""
  b = Bench( 8, 1, 1, 11, 1 )
  x = normal( 5, 6, 1, 11 )
  src = b.put( pattern( x ), b.stride )
  b.npu.r.pos, b.npu.r.rows, b.npu.r.token, b.npu.r.len = 2, 5, 1, 3
  out = b.execute( "COPY", b.used, rel=rel, rows=1, src=src, src_stride=b.stride )
  assert np.array_equal( out[0], pattern( x )[offset] )
  y    = normal( 6, 1, 1, 11 )
  src2 = b.put( pattern( y ), b.stride )
  out  = b.execute( "ADD", b.used, rel=rel, rows=1, src=src, src2=src2, src_stride=b.stride, src2_stride=b.stride )
  assert np.array_equal( out[0], pattern( flushed( x[offset] + y[0] ) ) )

#-------------------------------------------------------------------------
# Commands
#-------------------------------------------------------------------------

CFG = NpuConfig( name="small", n=4, m_max=8, spad_bytes=1 << 13, k_max=1024 )

def command( mnemonic: str, **operands: float ) -> Instruction:
  """An instruction with one segment of eight elements, if nothing else is said."""
  sized = { "length": 8 } if mnemonic == "ARGMAX" else { "length": 8, "segments": 1 }
  return mk( mnemonic, **{ **sized, **operands } )

CHECK_ROWS: list[tuple[str, Instruction, int, Error]] = [
  # name                       command                                        rows  error
  ( "rmsnorm",                 command( "RMSNORM" ),                          1,    Error.NONE ),
  ( "all rows",                command( "ADD" ),                              8,    Error.NONE ),
  ( "rope, even",              command( "ROPE", length=6 ),                   1,    Error.NONE ),
  ( "quantize to 8",           command( "QUANTIZE", bits=8 ),                 1,    Error.NONE ),
  ( "quantize to 16",          command( "QUANTIZE", bits=16 ),                1,    Error.NONE ),
  ( "argmax has no segments",  command( "ARGMAX" ),                           1,    Error.NONE ),
  ( "longest norm",            command( "RMSNORM", length=1024 ),             1,    Error.NONE ),
  ( "longer than any norm",    command( "COPY", length=1025 ),                1,    Error.NONE ),
  ( "no rows",                 command( "ADD" ),                              0,    Error.ZERO_SIZE ),
  ( "no length",               command( "SOFTMAX", length=0 ),                1,    Error.ZERO_SIZE ),
  ( "no length, argmax",       command( "ARGMAX", length=0 ),                 1,    Error.ZERO_SIZE ),
  ( "no segments",             command( "MUL", segments=0 ),                  1,    Error.ZERO_SIZE ),
  ( "quantize to 0",           command( "QUANTIZE" ),                         1,    Error.BAD_FIELD ),
  ( "quantize to 12",          command( "QUANTIZE", bits=12 ),                1,    Error.BAD_FIELD ),
  ( "size before field",       command( "QUANTIZE", bits=12, length=0 ),      1,    Error.ZERO_SIZE ),
  ( "a row too many",          command( "COPY" ),                             9,    Error.BAD_SIZE ),
  ( "rope, odd",               command( "ROPE", length=7 ),                   1,    Error.BAD_SIZE ),
  ( "rope of one",             command( "ROPE", length=1 ),                   1,    Error.BAD_SIZE ),
  ( "norm too long",           command( "RMSNORM", length=1025 ),             1,    Error.BAD_SIZE ) ]

@pytest.mark.parametrize( "i, rows, error", [ r[1:] for r in CHECK_ROWS ], ids=[ r[0] for r in CHECK_ROWS ] )
def test_check( i: Instruction, rows: int, error: Error ) -> None:
  assert check( CFG, i, rows ) == error
