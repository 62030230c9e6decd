"""The MAC array's golden model in the floating modes, against exact fractions: what is aligned, cut off and flushed."""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray

from fl.mac_array import aligned_dot, gemm_floating
from npu.arch.numerics.small_float import BF16, FP16, SmallFloat
from tests.mac_array.oracle import FORMATS, LARGEST, oracle_column, oracle_floating, pattern, random_patterns

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
