"""The special functions: against float64 on every fraction, so that their bounds are proven; against their definition,
to the bit; and their tables."""

import random
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from npu.arch.numerics import mk_tables, tables
from npu.arch.numerics.fp32 import fmul
from npu.arch.numerics.special import U_FRACTION_BITS, U_MAX, exp2neg, reciprocal, rsqrt, sigmoid
from tests.numerics.data import CORNERS, assert_bits, floats, named, powers, random_patterns
from tests.numerics.oracle import ONE, TINY, exact_exp2neg, exact_reciprocal, exact_rsqrt, exact_sigmoid

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
