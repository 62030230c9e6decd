"""Weights in memory: the layout against bytes written by hand, and the way there from float32."""

from collections.abc import Iterable
from itertools import pairwise

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st
from numpy.typing import NDArray

from npu.arch.isa import GemmMode
from npu.arch.weight_stream import (
  FLOATING_MODES,
  GROUP_MODES,
  SCALE_MASK,
  WEIGHT_BITS,
  StreamLayout,
  Weights,
  group_integers,
  pack,
  unpack,
)
from npu.compiler.precision import PRECISIONS, Precision, get_precision
from npu.compiler.quantize_weights import CLIP_STEPS, grouped_int4, per_channel, quantize_weights

SIZES  = ( 4, 8, 16 )
GROUPS = ( 32, 64, 128 )

#-------------------------------------------------------------------------
# Matrices
#-------------------------------------------------------------------------

# What a mode stores: bits of a weight, as the architecture says and not as the module says.
STORED_BITS = { "I16_I8": 8, "I16_I16": 16, "I8_I8": 8, "I16_G4": 4, "I16_G8": 8,
                "BF16": 16, "FP16": 16 }
INTEGERS    = { "I16_I8": ( -128, 127 ), "I16_I16": ( -32768, 32767 ), "I8_I8": ( -128, 127 ),
                "I16_G4": ( 0, 15 ), "I16_G8": ( -128, 127 ) }

def per_channel_mode( mode: GemmMode ) -> bool:
  """Whether a mode has one scale per output channel."""
  return mode.name in ( "I16_I8", "I16_I16", "I8_I8" )

def mk_weights( layout: StreamLayout, rng: np.random.Generator ) -> Weights:
  """Random weights that a layout can hold, whole range of the format, with zero points that fit it."""
  size = ( layout.k, layout.cols )
  bias = rng.standard_normal( layout.cols ).astype( np.float32 ) if layout.has_bias else None
  if layout.mode in FLOATING_MODES:
    return Weights( rng.integers( 0, 1 << 16, size ).astype( np.uint16 ), bias=bias )
  low, high = INTEGERS[layout.mode.name]
  values    = rng.integers( low, high + 1, size ).astype( np.int16 if high > 127 else np.int8 )
  if not layout.group:
    return Weights( values, rng.random( layout.cols, dtype=np.float32 ) + np.float32( 0.1 ), bias=bias )
  size   = ( -( -layout.k // layout.group ), layout.cols )
  # The low 8 bits of a group's scale are where the zero point goes.
  scales = ( ( rng.random( size, dtype=np.float32 ) + np.float32( 0.1 ) ).view( np.uint32 )
             & np.uint32( 0xFFFFFF00 ) ).view( np.float32 )
  return Weights( values, scales, rng.integers( low, high + 1, size ).astype( np.int8 ), bias )

@st.composite
def layouts( draw: st.DrawFn, modes: Iterable[GemmMode] = tuple( GemmMode ) ) -> StreamLayout:
  """Every geometry and those modes; sizes that divide nothing more often than not."""
  mode  = draw( st.sampled_from( tuple( modes ) ) )
  group = draw( st.sampled_from( GROUPS ) ) if mode in GROUP_MODES else 0
  return StreamLayout( mode, draw( st.sampled_from( SIZES ) ), draw( st.integers( 1, 300 ) ),
                       draw( st.integers( 1, 70 ) ), group, draw( st.booleans() ) )

def same( a: NDArray | None, b: NDArray | None ) -> bool:
  """Whether two optional arrays are equal, type and shape too."""
  if a is None or b is None:
    return a is b
  return a.dtype == b.dtype and a.shape == b.shape and np.array_equal( a, b )

#-------------------------------------------------------------------------
# Sizes
#-------------------------------------------------------------------------

def beats_of( layout: StreamLayout ) -> int:
  """Beats of a stream, from the table in the module's docstring, one output tile at a time."""
  n, bits, beats = layout.n, STORED_BITS[layout.mode.name], 0
  for _ in range( 0, layout.cols, n ):
    beats += 1 if layout.has_bias else 0
    beats += 1 if per_channel_mode( layout.mode ) else 0
    if layout.mode in GROUP_MODES:
      for _ in range( 0, layout.k, layout.group ):
        beats += 1 + layout.group * bits // 32
    else:
      # A multiple of n rows, and of the rows that one beat holds.
      k = layout.k
      while k % n or k * n * bits % ( 32 * n ):
        k += 1
      beats += k * n * bits // ( 32 * n )
  return beats

def test_bits_of_every_mode():
  assert { mode.name: bits for mode, bits in WEIGHT_BITS.items() } == STORED_BITS
  assert set( WEIGHT_BITS ) == set( GemmMode )

@pytest.mark.parametrize( "mode", GemmMode, ids=lambda mode: mode.name )
@pytest.mark.parametrize( "n", SIZES )
@pytest.mark.parametrize( "k, cols", (
  pytest.param(   1,   1, id="1x1" ),
  pytest.param(   3,   5, id="3x5" ),
  pytest.param(  32,  16, id="32x16" ),
  pytest.param(  33,  17, id="33x17" ),
  pytest.param( 127,  31, id="127x31" ),
  pytest.param( 896, 128, id="896x128" ) ) )
def test_beats_are_those_of_the_table( mode, n, k, cols ):
  for group in GROUPS if mode in GROUP_MODES else ( 0, ):
    for has_bias in ( False, True ):
      layout = StreamLayout( mode, n, k, cols, group, has_bias )
      assert layout.total_beats == beats_of( layout ), layout
      assert layout.total_bytes == 4 * n * beats_of( layout )
      assert layout.k_padded >= k and layout.tiles * n >= cols

@given( layouts() )
def test_beats_are_those_of_the_table_for_any_size( layout ):
  assert layout.total_beats == beats_of( layout )

@pytest.mark.parametrize( "layout, beats", (
  # Each by hand: tiles * ( bias + scale + weights ), or groups * ( lanes + weights ).
  pytest.param( ( "I16_I8",  16, 896,  896,   0, False ), 56 * ( 0 + 1 + 224 ), id="o" ),
  pytest.param( ( "I16_I8",  16, 896, 1152,   0, True ),  72 * ( 1 + 1 + 224 ), id="qkv" ),
  pytest.param( ( "I16_I16",  4, 896,    8,   0, False ),  2 * ( 0 + 1 + 448 ), id="i16" ),
  pytest.param( ( "BF16",     8,  10,    9,   0, True ),   2 * ( 1 + 0 + 8 ),   id="bf16" ),
  pytest.param( ( "I16_G4",  16, 896,   16,  32, False ), 28 * ( 1 + 4 ),       id="g4" ),
  pytest.param( ( "I16_G8",   4, 130,    4, 128, True ),   1 + 2 * ( 1 + 32 ),  id="g8" ) ) )
def test_beats_by_hand( layout, beats ):
  mode, *sizes = layout
  assert StreamLayout( GemmMode[mode], *sizes ).total_beats == beats

#-------------------------------------------------------------------------
# Layouts by hand
#-------------------------------------------------------------------------

def hex_of( words: NDArray[np.uint32] ) -> str:
  """The bytes in memory order, four at a time."""
  return words.astype( "<u4" ).tobytes().hex( " ", 4 )

def test_int8_bytes_in_order():
  """K = 3, N = 5 for n = 4: two output tiles, one row and three columns of padding."""
  layout = StreamLayout( GemmMode.I16_I8, 4, 3, 5, 0, True )
  values = np.array( [ [ 1,  2,  3,  4,    5 ],
                       [ 6,  7,  8,  9,   10 ],
                       [ -1, -2, -3, -4, -128 ] ], dtype=np.int8 )
  scales = np.array( [ 1.0, 2.0, 0.5, -1.0, 1.5 ], dtype=np.float32 )
  bias   = np.array( [ 0.0, 1.0, -2.0, 4.0, -0.5 ], dtype=np.float32 )
  assert hex_of( pack( layout, Weights( values, scales, bias=bias ) ) ) == " ".join( (
    "00000000 0000803f 000000c0 00008040",     # biases of columns 0 to 3
    "0000803f 00000040 0000003f 000080bf",     # their scales
    "01020304 06070809 fffefdfc 00000000",     # rows 0 to 2, and one that is padding
    "000000bf 00000000 00000000 00000000",     # column 4
    "0000c03f 00000000 00000000 00000000",
    "05000000 0a000000 80000000 00000000" ) )

def test_int16_bytes_in_order():
  layout = StreamLayout( GemmMode.I16_I16, 4, 2, 4, 0, False )
  values = np.array( [ [ 1, -1, 0x1234, -32768 ], [ 5, 6, 7, 8 ] ], dtype=np.int16 )
  scales = np.array( [ 1.0, 2.0, 0.5, -1.0 ], dtype=np.float32 )
  assert hex_of( pack( layout, Weights( values, scales ) ) ) == " ".join( (
    "0000803f 00000040 0000003f 000080bf",
    "0100ffff 34120080 05000600 07000800",     # rows 0 and 1
    "00000000 00000000 00000000 00000000" ) )  # K is a multiple of n

def test_bf16_bytes_in_order():
  layout = StreamLayout( GemmMode.BF16, 4, 3, 2, 0, True )
  values = np.array( [ [ 0x3F80, 0xBF80 ], [ 0x4000, 0xC000 ], [ 0x1234, 0x5678 ] ], dtype=np.uint16 )
  bias   = np.array( [ 1.0, -1.0 ], dtype=np.float32 )
  assert hex_of( pack( layout, Weights( values, bias=bias ) ) ) == " ".join( (
    "0000803f 000080bf 00000000 00000000",     # biases; no scales
    "803f80bf 00000000 004000c0 00000000",
    "34127856 00000000 00000000 00000000" ) )

def test_int4_groups_bytes_in_order():
  """K = 33, N = 3 for n = 4 and groups of 32: the second group is one row, then its zero points."""
  layout = StreamLayout( GemmMode.I16_G4, 4, 33, 3, 32, True )
  values = np.zeros( ( 33, 3 ), dtype=np.int8 )
  values[0], values[1], values[31], values[32] = ( 1, 2, 3 ), ( 4, 5, 6 ), ( 13, 14, 15 ), ( 7, 8, 9 )
  scales = np.array( [ [ 1.0, 2.0, 0.5 ], [ 1.5, -1.0, 4.0 ] ], dtype=np.float32 )
  zeros  = np.array( [ [ 1, 2, 3 ], [ 10, 0, 15 ] ], dtype=np.int8 )
  bias   = np.array( [ 1.0, 2.0, 3.0 ], dtype=np.float32 )
  found  = hex_of( pack( layout, Weights( values, scales, zeros, bias ) ) )
  assert found == " ".join( (
    "0000803f 00000040 00004040 00000000",     # biases
    "0100803f 02000040 0300003f 00000000",     # group 0: scales with zero points in their low bytes
    "21035406 00000000 00000000 00000000",     # rows 0 to 7, two bytes each, the first weight lowest
    "00000000 00000000 00000000 00000000",
    "00000000 00000000 00000000 00000000",
    "00000000 00000000 00000000 0000ed0f",     # row 31 ends the group
    "0a00c03f 000080bf 0f008040 00000000",     # group 1
    "87090a0f 0a0f0a0f 0a0f0a0f 0a0f0a0f",     # row 32, then the zero points 10, 0, 15
    "0a0f0a0f 0a0f0a0f 0a0f0a0f 0a0f0a0f",
    "0a0f0a0f 0a0f0a0f 0a0f0a0f 0a0f0a0f",
    "0a0f0a0f 0a0f0a0f 0a0f0a0f 0a0f0a0f" ) )

def test_negative_zero_points_are_signed_bytes():
  layout = StreamLayout( GemmMode.I16_G8, 4, 32, 1, 32, False )
  values = np.full( ( 32, 1 ), -128, dtype=np.int8 )
  words  = pack( layout, Weights( values, np.ones( ( 1, 1 ), dtype=np.float32 ),
                                  np.array( [ [ -2 ] ], dtype=np.int8 ) ) )
  assert hex_of( words[:8] ) == " ".join( ( "fe00803f 00000000 00000000 00000000",
                                            "80000000 80000000 80000000 80000000" ) )
  assert ( group_integers( layout, unpack( layout, words ) ) == -126 ).all()

#-------------------------------------------------------------------------
# Round trips
#-------------------------------------------------------------------------

@given( layouts(), st.integers( 0, 1 << 32 ) )
def test_unpack_inverts_pack( layout, seed ):
  weights = mk_weights( layout, np.random.default_rng( seed ) )
  stream  = pack( layout, weights )
  assert stream.dtype == np.uint32 and stream.nbytes == layout.total_bytes
  found = unpack( layout, stream )
  assert same( found.values[: layout.k], weights.values )
  assert same( found.scales, weights.scales )
  assert same( found.zeros, weights.zeros )
  assert same( found.bias, weights.bias )

@given( layouts(), st.integers( 0, 1 << 32 ) )
def test_padding_multiplies_to_zero( layout, seed ):
  weights = mk_weights( layout, np.random.default_rng( seed ) )
  stream  = pack( layout, weights )
  # Rows past K, and columns past N: read the stream as if they were part of the matrix.
  whole = unpack( StreamLayout( layout.mode, layout.n, layout.k_padded, layout.tiles * layout.n,
                                layout.group, layout.has_bias ), stream )
  assert not whole.values[:, layout.cols :].any()
  for part in ( whole.scales, whole.zeros, whole.bias ):
    assert part is None or not part[..., layout.cols :].any()
  below = whole.values[layout.k :, : layout.cols]
  if layout.group:
    assert not group_integers( layout, unpack( layout, stream ) )[layout.k :].any()
    assert np.array_equal( below, np.broadcast_to( weights.zeros[-1], below.shape ) )
  else:
    assert not below.any()

@given( layouts(), st.integers( 0, 1 << 32 ) )
def test_output_tiles_are_streams_of_their_own( layout, seed ):
  """The array works on one tile after the other: a tile depends on its n columns and nothing else."""
  w      = mk_weights( layout, np.random.default_rng( seed ) )
  stream = pack( layout, w ).reshape( layout.tiles, -1 )
  for t in { 0, layout.tiles // 2, layout.tiles - 1 }:
    at  = slice( t * layout.n, min( ( t + 1 ) * layout.n, layout.cols ) )
    one = StreamLayout( layout.mode, layout.n, layout.k, at.stop - at.start, layout.group,
                        layout.has_bias )
    cut = [ None if a is None else a[..., at] for a in ( w.values, w.scales, w.zeros, w.bias ) ]
    assert np.array_equal( pack( one, Weights( *cut ) ), stream[t] )

@given( layouts( GROUP_MODES ), st.integers( 0, 1 << 32 ) )
def test_group_integers_are_stored_minus_zero_point( layout, seed ):
  w     = mk_weights( layout, np.random.default_rng( seed ) )
  found = group_integers( layout, unpack( layout, pack( layout, w ) ) )
  assert found.shape == ( layout.k_padded, layout.cols )
  for k in { 0, layout.k // 2, layout.k - 1 }:
    zeros = w.zeros[k // layout.group].tolist()
    assert found[k].tolist() == [ q - z for q, z in zip( w.values[k].tolist(), zeros, strict=True ) ]

@pytest.mark.parametrize( "pattern", ( 0x3FC000FF, 0x3FC00001 ), ids=hex )
def test_scale_bits_under_the_zero_point_are_dropped( pattern ):
  layout = StreamLayout( GemmMode.I16_G4, 4, 32, 4, 32, False )
  scales = np.full( ( 1, 4 ), pattern, dtype=np.uint32 ).view( np.float32 )
  zeros  = np.full( ( 1, 4 ), 5, dtype=np.int8 )
  values = np.zeros( ( 32, 4 ), dtype=np.int8 )
  found  = unpack( layout, pack( layout, Weights( values, scales, zeros ) ) )
  assert ( found.scales == 1.5 ).all() and ( found.zeros == 5 ).all()

#-------------------------------------------------------------------------
# Per output channel
#-------------------------------------------------------------------------

def matrices( k: int, cols: int, seed: int, spread: float ) -> NDArray[np.float32]:
  """A float32 matrix, columns of sizes up to 2**spread apart."""
  rng   = np.random.default_rng( seed )
  sizes = 2.0 ** rng.uniform( -spread, spread, cols )
  return ( rng.standard_normal( ( k, cols ) ) * sizes ).astype( np.float32 )

@given( st.integers( 1, 40 ), st.integers( 1, 9 ), st.integers( 0, 1 << 32 ),
        st.sampled_from( ( 0, 4, 60 ) ), st.sampled_from( ( 8, 16 ) ) )
def test_per_channel_error_is_at_most_half_a_step( k, cols, seed, spread, weight_bits ):
  w     = matrices( k, cols, seed, spread )
  found = per_channel( w, weight_bits )
  top   = 2 ** ( weight_bits - 1 ) - 1
  assert found.values.dtype == ( np.int8 if weight_bits == 8 else np.int16 )
  assert found.scales.dtype == np.float32 and ( found.scales > 0 ).all() and found.zeros is None
  # The largest of a column is the largest integer, and never -top - 1.
  assert ( np.abs( found.values.astype( np.int64 ) ).max( axis=0 ) == top ).all()
  error = np.abs( found.values * found.scales.astype( np.float64 ) - w )
  # The quotient w / scale is rounded to float32 first: up to top * 2**-24 of a step.
  assert ( error <= found.scales.astype( np.float64 ) * ( 0.5 + top * 2.0 ** -23 ) ).all()

@pytest.mark.parametrize( "weight_bits", ( 8, 16 ) )
def test_per_channel_column_of_zeros( weight_bits ):
  w = matrices( 12, 3, 1, 0 )
  w[:, 1] = 0
  found = per_channel( w, weight_bits )
  assert not found.values[:, 1].any()
  # Not zero: a scale of zero would be no scale to divide by, and a subnormal one flushes.
  assert found.scales[1] == np.float32( 2.0 ** -126 )
  assert found.values[:, 0].any() and found.values[:, 2].any()

@pytest.mark.parametrize( "weight_bits, top", ( ( 8, 127 ), ( 16, 32767 ) ) )
def test_per_channel_by_hand( weight_bits, top ):
  w = np.array( [ [ top, -2 * top ], [ -1.5, 5.0 ], [ 0.5, 3.0 ], [ 2.5, -1.0 ] ], dtype=np.float32 )
  found = per_channel( w, weight_bits )
  assert found.scales.tolist() == [ 1.0, 2.0 ]
  # Ties go to even.
  assert found.values.tolist() == [ [ top, -top ], [ -2, 2 ], [ 0, 2 ], [ 2, 0 ] ]

#-------------------------------------------------------------------------
# INT4 groups
#-------------------------------------------------------------------------

def squared_error( w: NDArray, found: Weights, group: int ) -> NDArray[np.float64]:
  """Squared error of each group and column, [K / group, N], in float64."""
  spread = [ np.repeat( a.astype( np.float64 ), group, axis=0 ) for a in ( found.zeros, found.scales ) ]
  error  = ( found.values - spread[0] ) * spread[1] - w
  return np.square( error ).reshape( -1, group, w.shape[1] ).sum( axis=1 )

def unclipped_int4( w: NDArray, group: int ) -> Weights:
  """INT4 groups whose 15 steps span each group's range (and zero), the search left out."""
  scales, zeros, values = [], [], []
  for block in w.astype( np.float64 ).reshape( -1, group, w.shape[1] ):
    low, high = np.minimum( block.min( axis=0 ), 0 ), np.maximum( block.max( axis=0 ), 0 )
    step  = ( ( high - low ) / 15 ).astype( np.float32 ).view( np.uint32 )
    scale = ( ( step + np.uint32( 128 ) ) & np.uint32( 0xFFFFFF00 ) ).view( np.float32 )
    zero  = np.clip( np.rint( -low / scale ), 0, 15 )
    scales.append( scale )
    zeros.append( zero )
    values.append( np.clip( np.rint( block / scale ) + zero, 0, 15 ) )
  return Weights( np.concatenate( values ), np.stack( scales ), np.stack( zeros ) )

@settings( max_examples=50 )
@given( st.sampled_from( GROUPS ), st.integers( 1, 3 ), st.integers( 1, 6 ), st.integers( 0, 1 << 32 ),
        st.sampled_from( ( "normal", "outlier", "positive", "negative" ) ) )
@example( 32, 2, 2, 15367, "positive" )
def test_int4_groups_are_no_worse_than_without_the_clip_search( group, count, cols, seed, kind ):
  w = matrices( group * count, cols, seed, 4 )
  if kind == "outlier":
    w[seed % len( w )] *= 20
  elif kind != "normal":
    w = np.abs( w ) if kind == "positive" else -np.abs( w )
  found = grouped_int4( w, group )
  assert found.values.dtype == found.zeros.dtype == np.int8 and found.scales.dtype == np.float32
  assert found.values.shape == w.shape and found.scales.shape == found.zeros.shape == ( count, cols )
  assert found.values.min() >= 0 and found.values.max() <= 15
  assert found.zeros.min() >= 0 and found.zeros.max() <= 15
  assert not ( found.scales.view( np.uint32 ) & ~SCALE_MASK ).any() and ( found.scales > 0 ).all()
  limit = squared_error( w, unclipped_int4( w, group ), group )
  # The search compares errors in float32.
  assert ( squared_error( w, found, group ) <= limit * ( 1 + 1e-5 ) ).all()

def test_clip_search_starts_unclipped_and_gains_on_normal_weights():
  assert CLIP_STEPS[0] == 1.0 and all( a > b for a, b in pairwise( CLIP_STEPS ) )
  w = matrices( 128, 64, 7, 0 )
  gain = ( squared_error( w, grouped_int4( w, 128 ), 128 )
           / squared_error( w, unclipped_int4( w, 128 ), 128 ) )
  # Measured 0.904 on average: most groups of normal weights are better with the tails cut.
  assert gain.mean() < 0.91

@pytest.mark.parametrize( "numbers, scale, zero", (
  pytest.param( range( 16 ),        1.0,  0, id="from zero up" ),
  pytest.param( range( -15, 1 ),    1.0, 15, id="up to zero" ),
  pytest.param( range( -10, 21, 2 ), 2.0, 5, id="both signs" ),
  pytest.param( range( 1, 16 ),     1.0,  0, id="without zero" ) ) )
def test_int4_is_exact_where_sixteen_values_suffice( numbers, scale, zero ):
  w     = np.resize( np.array( numbers, dtype=np.float32 ), 32 )[:, None]
  found = grouped_int4( w, 32 )
  assert ( found.scales, found.zeros ) == ( scale, zero )
  assert squared_error( w, found, 32 ) == 0

@given( st.integers( 0, 1 << 32 ), st.sampled_from( ( "normal", "positive", "negative" ) ) )
def test_zero_is_exact_in_int4_groups( seed, kind ):
  w = matrices( 64, 5, seed, 4 )
  if kind != "normal":
    w = np.copysign( np.abs( w ) + np.float32( 1 ), 1 if kind == "positive" else -1 )
  w[seed % 64] = 0
  found = grouped_int4( w, 32 )
  assert np.array_equal( found.values[seed % 64], found.zeros[seed % 64 // 32] )

def test_int4_group_of_zeros():
  found = grouped_int4( np.zeros( ( 64, 2 ), dtype=np.float32 ), 32 )
  assert np.array_equal( found.values, np.repeat( found.zeros, 32, axis=0 ) )
  assert ( found.scales == np.float32( 2.0 ** -100 ) ).all()

def test_int4_groups_are_independent():
  w = matrices( 96, 4, 3, 2 )
  whole, middle = grouped_int4( w, 32 ), grouped_int4( w[32:64], 32 )
  assert np.array_equal( whole.values[32:64], middle.values )
  assert np.array_equal( whole.scales[1], middle.scales[0] )
  assert np.array_equal( whole.zeros[1], middle.zeros[0] )

def test_scale_is_rounded_to_nearest_and_not_cut():
  # A range of 15 steps of 1 + 0x80 and 1 + 0x7f units in the last place: up, and down.
  steps = np.array( [ 0x3F800080, 0x3F80007F ], dtype=np.uint32 ).view( np.float32 )
  w     = np.zeros( ( 32, 2 ), dtype=np.float32 )
  w[0]  = ( steps.astype( np.float64 ) * 15 ).astype( np.float32 )
  w[1:16] = ( np.arange( 15 )[:, None] * steps ).astype( np.float32 )
  assert grouped_int4( w, 32 ).scales.view( np.uint32 ).tolist() == [ [ 0x3F800100, 0x3F800000 ] ]

#-------------------------------------------------------------------------
# Precisions
#-------------------------------------------------------------------------

@given( st.integers( 0, 1 << 32 ) )
def test_bf16_weights_are_those_of_ml_dtypes( seed ):
  rng     = np.random.default_rng( seed )
  # Normal numbers up to the last one that does not round to infinity, ties among them.
  pattern = rng.integers( 0x00800000, 0x7F7F8000, ( 16, 5 ) ) | rng.integers( 0, 2, ( 16, 5 ) ) << 31
  pattern[::3] = pattern[::3] & ~0xFFFF | 0x8000
  w = pattern.astype( np.uint32 ).view( np.float32 )
  w[np.abs( w ) > 3.3e38] = 1.0
  found = quantize_weights( w, get_precision( "bf16" ) )
  assert same( found.values, w.astype( ml_dtypes.bfloat16 ).view( np.uint16 ) )
  assert found.scales is None and found.zeros is None

@pytest.mark.parametrize( "name", PRECISIONS )
@pytest.mark.parametrize( "n", SIZES )
def test_every_precision_packs_and_stands_for_the_matrix( name, n ):
  precision = get_precision( name )
  w    = matrices( 64, 21, 5, 1 )
  bias = np.arange( 21, dtype=np.float32 )
  found  = quantize_weights( w, precision, bias )
  layout = StreamLayout( precision.mode, n, 64, 21, precision.group, True )
  back   = unpack( layout, pack( layout, found ) )
  assert same( back.bias, bias )
  if precision.group:
    scales = np.repeat( back.scales.astype( np.float64 ), precision.group, axis=0 )
    value  = group_integers( layout, back ) * scales
  elif precision.mode == GemmMode.BF16:
    value = ( back.values.astype( np.uint32 ) << 16 ).view( np.float32 )
  else:
    value = back.values * back.scales.astype( np.float64 )
  # Of the largest in a column: half a step, and for INT4 what the clip may cut as well.
  limit = { "w8a16": 1 / 254, "w8a8": 1 / 254, "w16a16": 1 / 65534, "w4a16": 0.45,
            "bf16": 1 / 256 }[name]
  assert ( np.abs( value - w ).max( axis=0 ) <= limit * 1.01 * np.abs( w ).max( axis=0 ) ).all()

@pytest.mark.parametrize( "name, mode, act_bits, group", (
  pytest.param( "w8a16",  GemmMode.I16_I8,  16,  0, id="w8a16" ),
  pytest.param( "w16a16", GemmMode.I16_I16, 16,  0, id="w16a16" ),
  pytest.param( "w8a8",   GemmMode.I8_I8,    8,  0, id="w8a8" ),
  pytest.param( "w4a16",  GemmMode.I16_G4,  16, 32, id="w4a16" ),
  pytest.param( "bf16",   GemmMode.BF16,     0,  0, id="bf16" ) ) )
def test_precision( name, mode, act_bits, group ):
  found = get_precision( name )
  assert ( found.name, found.mode, found.act_bits, found.group ) == ( name, mode, act_bits, group )
  assert len( PRECISIONS ) == 5

@pytest.mark.parametrize( "mode", ( GemmMode.I16_G8, GemmMode.FP16 ), ids=lambda mode: mode.name )
def test_weights_of_a_mode_that_nothing_makes_are_refused( mode ):
  # Not taken for those of another mode with groups, or of one with integers.
  with pytest.raises( ValueError, match=f"no weights of mode {mode.name}" ):
    quantize_weights( np.ones( ( 32, 4 ), dtype=np.float32 ), Precision( "new", mode, 16, 32 ) )
