"""Block floating point against its definition and against float64, and how it is packed into lanes."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from npu.arch.numerics.block_float import lsb_exponent, pack, quantize, unpack
from npu.arch.numerics.fp32 import add_exponent
from tests.numerics.data import floats, named, patterns, powers, random_patterns
from tests.numerics.oracle import TINY, exact_quantize

QUANTIZE_ROWS = [
  # name                      bits row                                   E  q
  ( "zeros",                    16, [ 0.0, 0.0, 0.0 ],                      0, [ 0, 0, 0 ] ),
  ( "signed zeros",              8, [ -0.0, 0.0 ],                          0, [ 0, 0 ] ),
  ( "subnormals are zeros",     16, [ 2.0 ** -127, -2.0 ** -149 ],          0, [ 0, 0 ] ),
  ( "one, 16 bits",             16, [ 1.0, -1.0 ],                        127, [ 16384, -16384 ] ),
  ( "one, 8 bits",               8, [ 1.0, -1.0, 0.5 ],                   127, [ 64, -64, 32 ] ),
  ( "ties, 16 bits",            16, [ 1.0, 1 / 2 ** 15, -5 / 2 ** 15 ],   127, [ 16384, 0, -2 ] ),
  ( "ties up, 16 bits",         16, [ 1.0, 3 / 2 ** 15, -7 / 2 ** 15 ],   127, [ 16384, 2, -4 ] ),
  ( "ties, 8 bits",              8, [ 1.0, 1 / 2 ** 7, -5 / 2 ** 7 ],     127, [ 64, 0, -2 ] ),
  ( "ties up, 8 bits",           8, [ 1.0, 3 / 2 ** 7, -7 / 2 ** 7 ],     127, [ 64, 2, -4 ] ),
  ( "just above a tie",         16, [ 1.0, 2.0 ** -15 + 2.0 ** -38 ],     127, [ 16384, 1 ] ),
  ( "saturates, 16 bits",       16, [ 2 - 2.0 ** -23, 2.0 ** -23 - 2 ],   127, [ 32767, -32767 ] ),
  ( "saturates, 8 bits",         8, [ 2 - 2.0 ** -23, 2.0 ** -7 - 2 ],    127, [ 127, -127 ] ),
  ( "just does not saturate",    8, [ 2 - 2.0 ** -7 - 2.0 ** -23, -1.75 ], 127, [ 127, -112 ] ),
  ( "smallest normal",          16, [ TINY, -TINY ],                        1, [ 16384, -16384 ] ),
  ( "huge spread",              16, [ 2.0 ** 127, TINY, -TINY, 1.0 ],     254, [ 16384, 0, 0, 0 ] ),
  ( "the last that counts",     16, [ 2.0 ** 15, 1.0, -1.5 ],             142, [ 16384, 0, -1 ] ),
  ( "exponent of a negative",   16, [ 1.0, -4.0 ],                        129, [ 4096, -16384 ] ),
]

@pytest.mark.parametrize( "width, row, exponent, q", named( QUANTIZE_ROWS ) )
def test_quantize_row( width, row, exponent, q ):
  x = np.array( row, dtype=np.float32 )
  assert exact_quantize( x.view( np.uint32 ).tolist(), width ) == ( q, exponent )
  got, e = quantize( x, width )
  assert ( got.tolist(), int( e ) ) == ( q, exponent )

@pytest.mark.parametrize( "width", ( 8, 16 ) )
@settings( max_examples=300 )
@given( row=st.integers( 0, 254 ).flatmap( lambda top: st.lists(
  patterns( max( 0, top - 18 ), top ) | patterns( 0, top ), min_size=1, max_size=16 ) ) )
def test_quantize_follows_its_definition( width, row ):
  q, exponent = quantize( floats( row ), width )
  assert ( q.tolist(), int( exponent ) ) == exact_quantize( row, width )

@pytest.mark.parametrize( "width", ( 8, 16 ) )
def test_quantize_is_float64_rint_on_many_rows( width ):
  x = floats( random_patterns( 6, 1 << 19, 100, 118 ) ).reshape( -1, 4, 32 )
  x = add_exponent( x, np.arange( -90, 4096 - 90 ).reshape( -1, 1, 1 ) % 220 - 90 )
  q, exponent = quantize( x, width )
  assert q.shape == x.shape and exponent.shape == x.shape[:-1]
  unit  = powers( exponent - 127 - ( width - 2 ) )[..., None]
  limit = 2 ** ( width - 1 ) - 1
  assert np.array_equal( q, np.clip( np.rint( x.astype( np.float64 ) / unit ), -limit, limit ) )
  # Half a unit, except where the limit cuts off a value that would have rounded to the next power.
  error = np.abs( q * unit - x )
  assert np.all( error <= np.where( np.abs( q ) == limit, unit, unit / 2 ) )
  # Some element of the row has the shared exponent, so all its bits are in use.
  assert np.all( np.abs( q ).max( axis=-1 ) >= 2 ** ( width - 2 ) )

def test_quantize_treats_each_row_alone():
  x = floats( random_patterns( 7, 6 * 5, 110, 140 ) ).reshape( 6, 5 )
  q, exponent = quantize( x, 16 )
  for i in range( len( x ) ):
    q_i, exponent_i = quantize( x[i], 16 )
    assert np.array_equal( q[i], q_i ) and exponent[i] == exponent_i

def test_lsb_exponent_is_the_weight_of_one_unit():
  # 1.0 is 16384 units of 2**-14, or 64 of 2**-6.
  assert lsb_exponent( 127, 16 ) == -14
  assert lsb_exponent( 127, 8 ) == -6
  assert lsb_exponent( [ 0, 254 ], 16 ).tolist() == [ -141, 113 ]

PACK_ROWS = [
  # name                 q       E    lane
  ( "zero",                   0,   0, 0x00000000 ),
  ( "one",                    1, 127, 0x007F0001 ),
  ( "minus one",             -1, 127, 0x007FFFFF ),
  ( "largest",            32767, 254, 0x00FE7FFF ),
  ( "smallest",          -32767,   1, 0x00018001 ),
  ( "full negative",     -32768, 255, 0x00FF8000 ),
]

@pytest.mark.parametrize( "q, exponent, lane", named( PACK_ROWS ) )
def test_pack_row( q, exponent, lane ):
  packed = pack( np.array( [ [ q, 0 ] ] ), np.array( [ exponent ] ) )
  assert packed.dtype == np.uint32
  # The exponent is in the second lane as well.
  assert packed.tolist() == [ [ lane, exponent << 16 ] ]
  back, e = unpack( packed )
  assert ( back.tolist(), e.tolist() ) == ( [ [ q, 0 ] ], [ exponent ] )

@pytest.mark.parametrize( "width", ( 8, 16 ) )
def test_unpack_inverts_pack_on_quantized_rows( width ):
  q, exponent = quantize( floats( random_patterns( 8, 1 << 14 ) ).reshape( 8, -1, 16 ), width )
  lanes       = pack( q, exponent )
  assert lanes.shape == q.shape
  assert not ( lanes >> np.uint32( 24 ) ).any()
  assert np.array_equal( lanes >> np.uint32( 16 ), np.broadcast_to( exponent[..., None], q.shape ) )
  back, e = unpack( lanes )
  assert np.array_equal( back, q ) and np.array_equal( e, exponent )
