"""What the vector unit's results must be near to, in float64, and how near.

Bounds are of two kinds. A *proof* adds up the errors of the steps, so no input may exceed it. Where a proof is far
above what ever happens, a second, *measured* bound watches the usual inputs.
"""

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

#-------------------------------------------------------------------------
# Bounds
#-------------------------------------------------------------------------

# One rounding to binary32, relative.
ROUNDING = 2.0 ** -24

# Below this everything is flushed; an absolute error that any operation may add.
TINY = 2.0 ** -126

# Relative error of the table functions, proven over every fraction in tests/numerics/test_special.py.
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

#-------------------------------------------------------------------------
# Data and comparison
#-------------------------------------------------------------------------

LOG2_E = np.float32( 1.4426950408889634 )

def assert_within( got: F32, expect: F64, bound: F64 ) -> None:
  """Finite binary32, and nowhere further from the expected value than allowed."""
  assert got.dtype == np.float32 and got.shape == expect.shape
  assert np.isfinite( got ).all()
  excess = np.abs( got - expect ) - ( bound + np.float64( TINY ) )
  worst  = np.unravel_index( np.argmax( excess ), excess.shape )
  assert excess[worst] <= 0, ( f"at {worst}: got {got[worst]}, expected {expect[worst]}, "
                               f"{excess[worst]:.3g} more than allowed" )

def check_sum( y: F32 ) -> None:
  """Probabilities that add up to one."""
  assert np.isfinite( y ).all() and ( y >= 0 ).all() and not np.signbit( y ).any()
  assert np.abs( y.astype( np.float64 ).sum( axis=-1 ) - 1 ).max() <= SUM_ERROR

def flushed( x: F32 ) -> F32:
  """Subnormals as zeros of the same sign, by value."""
  return np.where( np.abs( x ) < np.float32( TINY ), np.copysign( np.float32( 0 ), x ), x )

def pattern( x: F32 ) -> NDArray[np.uint32]:
  """Bit patterns, which tell -0 from +0."""
  return np.ascontiguousarray( x, dtype=np.float32 ).view( np.uint32 )

def normal( seed: int, *shape: int, scale: float = 1.0 ) -> F32:
  """Normal values."""
  return ( np.random.default_rng( seed ).standard_normal( shape ) * scale ).astype( np.float32 )
