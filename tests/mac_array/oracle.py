"""The MAC array's results from Python integers and exact fractions.

Nothing here uses numpy's arithmetic to find an expected value: sums are Python integers, and each rounding to binary32
is that of a `Fraction`, by definition of the format.
"""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npu.arch.numerics.small_float import BF16, FP16, SmallFloat

SMALLEST = Fraction( 2 ) ** -126                         # smallest normal binary32
LARGEST  = ( 2 - Fraction( 2 ) ** -23 ) * 2 ** 127       # largest finite binary32
FORMATS  = ( BF16, FP16 )

#-------------------------------------------------------------------------
# binary32
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
# Matrix products
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

#-------------------------------------------------------------------------
# Data
#-------------------------------------------------------------------------

def random_patterns( rng: np.random.Generator, fmt: SmallFloat, spread: int, shape: tuple[int, int] ) -> NDArray:
  """Patterns with exponents within `spread` of the middle, here and there a zero or a subnormal."""
  fields = ( rng.integers( 0, 2, shape ) << 15
             | ( fmt.bias + rng.integers( -spread, spread + 1, shape ) ) << fmt.fraction_bits
             | rng.integers( 0, 1 << fmt.fraction_bits, shape ) )
  odd = rng.integers( 0, 10, shape ) == 0
  no_exponent = 0x8000 | ( ( 1 << fmt.fraction_bits ) - 1 )
  return np.where( odd, fields & no_exponent, fields ).astype( np.uint16 )
