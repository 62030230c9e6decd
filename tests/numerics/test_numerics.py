"""What holds for all functions of `npu/arch/numerics`: no subnormals, finite results, shapes, layouts, broadcasting."""

import numpy as np
import pytest

from npu.arch.numerics.fp32 import add_exponent, f2i, fadd, flush, fmul, fsub, i2f
from npu.arch.numerics.small_float import BF16, FP16, round_to, to_fp32
from npu.arch.numerics.special import reciprocal, rsqrt, sigmoid
from tests.numerics.data import CORNERS, assert_bits, floats, joined, named, random_patterns
from tests.numerics.oracle import INFINITY, MIN_NORMAL

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
