"""The configuration: presets, derived widths against their worst cases, and the text of its errors."""

import pytest

from npu.arch.config import (
  CHUNK,
  DEFAULT_CONFIG,
  LINE_BYTES,
  PRESETS,
  NpuConfig,
  ceil_div,
  clog2,
  get_config,
  round_up,
)
from npu.errors import NpuError

SIZES   = ( 4, 8, 16 )
# Both sides of powers of two, where a width that is one short shows.
LENGTHS = ( 16, 17, 31, 32, 33, 896, 4864, 32767, 32768, 32769, ( 1 << 20 ) - 1, 1 << 20 )

def signed_bits( low: int, high: int ) -> int:
  """The narrowest two's complement width that holds low..high."""
  return max( high.bit_length(), ( -low - 1 ).bit_length() ) + 1

#-------------------------------------------------------------------------
# Arithmetic
#-------------------------------------------------------------------------

@pytest.mark.parametrize( "x", ( 1, 2, 3, 4, 5, 15, 16, 17, 1023, 1024, 1025 ) )
def test_clog2_is_the_smallest_power_that_reaches( x ):
  b = clog2( x )
  assert 2 ** b >= x
  assert b == 0 or 2 ** ( b - 1 ) < x

@pytest.mark.parametrize( "a, b, quotient, rounded", (
  pytest.param(   0, 16, 0,   0, id="zero" ),
  pytest.param(   1, 16, 1,  16, id="one" ),
  pytest.param(  15, 16, 1,  16, id="one less" ),
  pytest.param(  16, 16, 1,  16, id="exactly" ),
  pytest.param(  17, 16, 2,  32, id="one more" ),
  pytest.param( 896,  1, 896, 896, id="by one" ) ) )
def test_ceil_div_and_round_up_go_up( a, b, quotient, rounded ):
  assert ceil_div( a, b ) == quotient
  assert round_up( a, b ) == rounded

#-------------------------------------------------------------------------
# Presets
#-------------------------------------------------------------------------

@pytest.mark.parametrize( "name, n, spad_bytes", (
  pytest.param( "edge4",   4, 131072,  id="edge4" ),
  pytest.param( "edge8",   8, 262144,  id="edge8" ),
  pytest.param( "edge16", 16, 1048576, id="edge16" ) ) )
def test_preset( name, n, spad_bytes ):
  cfg = get_config( name )
  assert cfg is PRESETS[name]
  assert ( cfg.name, cfg.n, cfg.spad_bytes ) == ( name, n, spad_bytes )
  # What results could depend on is the same everywhere, so that programs compare across presets.
  assert ( cfg.m_max, cfg.k_max ) == ( 16, 32768 )

def test_there_is_a_preset_for_every_size_and_one_is_the_default():
  assert tuple( cfg.n for cfg in PRESETS.values() ) == SIZES
  assert get_config( DEFAULT_CONFIG ) == NpuConfig()

def test_constants_of_the_image_and_the_arithmetic_do_not_follow_n():
  assert LINE_BYTES == 64
  assert CHUNK == 16

#-------------------------------------------------------------------------
# Derived widths
#-------------------------------------------------------------------------

@pytest.mark.parametrize( "n, lanes, beat_bytes, beat_bits, beats_per_line", (
  pytest.param(  4,  4, 16, 128, 4, id="n=4" ),
  pytest.param(  8,  8, 32, 256, 2, id="n=8" ),
  pytest.param( 16, 16, 64, 512, 1, id="n=16" ) ) )
def test_beat_is_one_fp32_per_lane( n, lanes, beat_bytes, beat_bits, beats_per_line ):
  d = NpuConfig( n=n ).derived
  assert ( d.lanes, d.beat_bytes, d.beat_bits, d.beats_per_line ) == (
    lanes, beat_bytes, beat_bits, beats_per_line )

@pytest.mark.parametrize( "n", SIZES )
@pytest.mark.parametrize( "spad_bytes", ( 4096, 1 << 17, 1 << 26 ) )
def test_scratchpad_rows_fill_it_and_their_addresses_fit( n, spad_bytes ):
  d = NpuConfig( n=n, spad_bytes=spad_bytes ).derived
  assert d.spad_rows * d.beat_bytes == spad_bytes
  assert 2 ** d.spad_addr_bits == d.spad_rows

@pytest.mark.parametrize( "m_max, row_count_bits", ( ( 1, 1 ), ( 2, 2 ), ( 3, 2 ), ( 4, 3 ), ( 15, 4 ),
                                                     ( 16, 5 ), ( 63, 6 ), ( 64, 7 ) ) )
def test_row_count_holds_zero_to_m_max( m_max, row_count_bits ):
  assert NpuConfig( m_max=m_max ).derived.row_count_bits == row_count_bits == m_max.bit_length()

@pytest.mark.parametrize( "n", SIZES )
@pytest.mark.parametrize( "k_max", LENGTHS )
def test_accumulator_holds_the_worst_dot_product( n, k_max ):
  # Each factor at the far ends of INT16, the end that has no positive counterpart too.
  products = [ a * b for a in ( -32768, 32767 ) for b in ( -32768, 32767 ) ]
  needed   = signed_bits( k_max * min( products ), k_max * max( products ) )
  d        = NpuConfig( n=n, k_max=k_max ).derived
  assert needed <= d.acc_bits <= needed + 1
  if k_max & ( k_max - 1 ) == 0:
    assert d.acc_bits == needed

@pytest.mark.parametrize( "k_max", LENGTHS )
def test_square_sum_holds_the_worst_row_and_wastes_nothing_at_a_power_of_two( k_max ):
  # Unsigned, and block floating point never gives -32768.
  needed = ( k_max * 32767 ** 2 ).bit_length()
  d      = NpuConfig( k_max=k_max ).derived
  assert needed <= d.square_bits <= needed + 1
  if k_max & ( k_max - 1 ) == 0:
    assert d.square_bits == needed

@pytest.mark.parametrize( "n", SIZES )
def test_aligned_sum_holds_n_products_of_two_floats( n ):
  # Significands are below 2, products below 4: two integer bits, sixteen of fraction, any signs.
  magnitude = 4 * 2 ** 16 - 1
  assert NpuConfig( n=n ).derived.align_bits == signed_bits( -n * magnitude, n * magnitude )

def test_widths_of_the_default_configuration():
  d = NpuConfig().derived
  assert ( d.acc_bits, d.square_bits, d.align_bits ) == ( 47, 45, 23 )
  assert ( d.spad_rows, d.spad_addr_bits, d.row_count_bits ) == ( 16384, 14, 5 )

#-------------------------------------------------------------------------
# The object
#-------------------------------------------------------------------------

def test_derived_is_computed_once():
  cfg = NpuConfig()
  assert cfg.derived is cfg.derived

def test_but_changes_a_copy_and_its_widths():
  cfg   = get_config( "edge16" )
  other = cfg.but( n=8, k_max=4864 )
  assert ( other.n, other.k_max, other.m_max ) == ( 8, 4864, cfg.m_max )
  assert cfg.n == 16
  assert cfg.derived.beat_bytes == 64 and other.derived.beat_bytes == 32

def test_config_is_a_value():
  assert NpuConfig() == NpuConfig() and hash( NpuConfig() ) == hash( NpuConfig() )
  assert NpuConfig().but( n=8 ) != NpuConfig()
  with pytest.raises( AttributeError ):
    NpuConfig().n = 8

@pytest.mark.parametrize( "changes", (
  { "m_max": 1 }, { "m_max": 64 }, { "spad_bytes": 4096 }, { "spad_bytes": 1 << 26 },
  { "n": 4, "k_max": 4 }, { "k_max": 16 }, { "k_max": 1 << 20 }, { "dram_latency": 1 },
  { "dram_latency": 1000 } ), ids=str )
def test_limits_are_allowed( changes ):
  cfg = NpuConfig( **changes )
  assert { key: getattr( cfg, key ) for key in changes } == changes

#-------------------------------------------------------------------------
# Errors
#-------------------------------------------------------------------------

SPAD   = "choose a power of two from 4096 to 67108864"
CYCLES = "choose 1 to 1000 cycles"

ERROR_ROWS = (
  # parameter       value            the message after "config toy: "
  ( "n",            0,               "n is 0; choose 4, 8 or 16" ),
  ( "n",            5,               "n is 5; choose 4, 8 or 16" ),
  ( "n",            32,              "n is 32; choose 4, 8 or 16" ),
  ( "m_max",        0,               "m_max is 0; choose 1 to 64 rows" ),
  ( "m_max",        65,              "m_max is 65; choose 1 to 64 rows" ),
  ( "spad_bytes",   0,               f"spad_bytes is 0; {SPAD}" ),
  ( "spad_bytes",   2048,            f"spad_bytes is 2048; {SPAD}" ),
  ( "spad_bytes",   5000,            f"spad_bytes is 5000; {SPAD}" ),
  ( "spad_bytes",   1 << 27,         f"spad_bytes is 134217728; {SPAD}" ),
  ( "spad_bytes",   -4096,           f"spad_bytes is -4096; {SPAD}" ),
  ( "k_max",        15,              "k_max is 15; choose 16 to 1048576" ),
  ( "k_max",        ( 1 << 20 ) + 1, "k_max is 1048577; choose 16 to 1048576" ),
  ( "dram_latency", 0,               f"dram_latency is 0; {CYCLES}" ),
  ( "dram_latency", 1001,            f"dram_latency is 1001; {CYCLES}" ),
)

@pytest.mark.parametrize( "parameter, value, message", ERROR_ROWS )
def test_out_of_range_parameter_says_what_to_choose( parameter, value, message ):
  with pytest.raises( NpuError ) as error:
    NpuConfig( name="toy", **{ parameter: value } )
  assert str( error.value ) == f"config toy: {message}"
  # A changed copy is checked again, under its own name.
  with pytest.raises( NpuError ) as error:
    NpuConfig().but( **{ parameter: value } )
  assert str( error.value ) == f"config edge16: {message}"

def test_least_k_max_follows_n():
  with pytest.raises( NpuError ) as error:
    NpuConfig( name="toy", n=4, k_max=3 )
  assert str( error.value ) == "config toy: k_max is 3; choose 4 to 1048576"

@pytest.mark.parametrize( "name", ( "edge32", "", "EDGE16" ) )
def test_unknown_preset_lists_the_known_ones( name ):
  with pytest.raises( NpuError ) as error:
    get_config( name )
  assert str( error.value ) == f"unknown config '{name}'; choose one of edge4, edge8, edge16"
