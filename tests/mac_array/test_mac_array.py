"""The MAC array: one suite for all levels."""

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from npu.arch.config import PRESETS
from npu.arch.isa import GROUP_SIZES, Error, GemmMode
from npu.arch.weight_stream import GROUP_MODES
from tests.harness import Fuzz
from tests.mac_array.world import CALM, LEVELS, WILD, Gemm, Timing, World, check_cycles, simulate

#-------------------------------------------------------------------------
# The table
#-------------------------------------------------------------------------

M = GemmMode

ROWS = [
  # name                     commands                                                               timing
  ( "basic",                 [ Gemm() ],                                                            CALM ),
  ( "one_tile",              [ Gemm( k=4, cols=4 ) ],                                               CALM ),
  ( "one_lane",              [ Gemm( k=1, cols=1 ) ],                                               CALM ),
  ( "ragged",                [ Gemm( k=10, cols=9, rows=3 ) ],                                      CALM ),
  ( "many_tiles",            [ Gemm( k=48, cols=40, rows=2 ) ],                                     CALM ),
  ( "two_pages",             [ Gemm( M.I16_I16, k=64, cols=40 ) ],                                  CALM ),
  ( "m_max",                 [ Gemm( k=12, cols=12, rows=16 ) ],                                    CALM ),
  ( "bias_residual",         [ Gemm( k=16, cols=12, rows=3, bias=True, residual=True ) ],           CALM ),
  ( "zeros",                 [ Gemm( k=16, cols=8, rows=2, data="zero", bias=True ) ],              CALM ),
  ( "extreme_i16_i8",        [ Gemm( k=40, cols=8, rows=2, data="extreme" ) ],                      CALM ),
  ( "extreme_i16_i16",       [ Gemm( M.I16_I16, k=40, cols=8, rows=2, data="extreme" ) ],           CALM ),
  ( "extreme_i8_i8",         [ Gemm( M.I8_I8, k=40, cols=8, rows=2, data="extreme" ) ],             CALM ),
  ( "extreme_i16_g4",        [ Gemm( M.I16_G4, k=64, cols=8, rows=2, group=1, data="extreme" ) ],   CALM ),
  ( "extreme_i16_g8",        [ Gemm( M.I16_G8, k=64, cols=8, rows=2, group=1, data="extreme" ) ],   CALM ),
  ( "tiny_exponents",        [ Gemm( k=16, cols=8, rows=2, data="tiny", bias=True ) ],              CALM ),
  ( "huge_exponents",        [ Gemm( k=16, cols=8, rows=2, data="huge", residual=True ) ],          CALM ),
  ( "i16_i16",               [ Gemm( M.I16_I16, k=20, cols=9, rows=5, bias=True ) ],                CALM ),
  ( "i8_i8",                 [ Gemm( M.I8_I8, k=20, cols=9, rows=5, residual=True ) ],              CALM ),
  ( "g4_32",                 [ Gemm( M.I16_G4, k=96, cols=9, rows=3, group=1, bias=True ) ],        CALM ),
  ( "g4_64",                 [ Gemm( M.I16_G4, k=128, cols=5, rows=2, group=2 ) ],                  CALM ),
  ( "g4_128",                [ Gemm( M.I16_G4, k=128, cols=5, rows=1, group=3, residual=True ) ],   CALM ),
  ( "g8_32",                 [ Gemm( M.I16_G8, k=64, cols=9, rows=3, group=1, residual=True ) ],    CALM ),
  ( "g8_64",                 [ Gemm( M.I16_G8, k=128, cols=5, rows=2, group=2, bias=True ) ],       CALM ),
  ( "g8_128",                [ Gemm( M.I16_G8, k=128, cols=5, rows=1, group=3 ) ],                  CALM ),
  ( "bf16",                  [ Gemm( M.BF16, k=26, cols=9, rows=5, bias=True, residual=True ) ],    CALM ),
  ( "fp16",                  [ Gemm( M.FP16, k=26, cols=9, rows=5, bias=True, residual=True ) ],    CALM ),
  ( "bf16_extreme",          [ Gemm( M.BF16, k=32, cols=8, rows=3, data="extreme" ) ],              CALM ),
  ( "fp16_extreme",          [ Gemm( M.FP16, k=32, cols=8, rows=3, data="extreme" ) ],              CALM ),
  ( "bf16_cancel",           [ Gemm( M.BF16, k=32, cols=8, rows=2, data="cancel" ) ],               CALM ),
  ( "fp16_cancel",           [ Gemm( M.FP16, k=32, cols=8, rows=2, data="cancel" ) ],               CALM ),
  ( "bf16_spread",           [ Gemm( M.BF16, k=32, cols=8, rows=2, data="spread" ) ],               CALM ),
  ( "fp16_spread",           [ Gemm( M.FP16, k=32, cols=8, rows=2, data="spread" ) ],               CALM ),
  ( "late_residual", [ Gemm( k=4, cols=64, rows=8, residual=True ) ], Timing( stall_seed=2 ) ),
  ( "source_delay", [ Gemm( rows=2 ), Gemm(), Gemm( k=12 ) ], Timing( source=7 ) ),
  ( "start_delay", [ Gemm( rows=2 ), Gemm(), Gemm( k=12 ) ], Timing( start=90 ) ),
  ( "sink_delay", [ Gemm( rows=2 ), Gemm(), Gemm( k=12 ) ], Timing( sink=29 ) ),
  ( "slow_memory", [ Gemm( k=32, cols=16, rows=2 ) ], Timing( beats=Fraction( 1, 4 ) ) ),
  ( "latency_1", [ Gemm( k=32, cols=16 ) ], Timing( latency=1 ) ),
  ( "latency_200", [ Gemm( k=32, cols=16 ) ] * 2, Timing( latency=200 ) ),
  ( "stalls", [ Gemm( k=32, cols=12, rows=4, bias=True, residual=True ) ], Timing( stall_seed=1 ) ),
  ( "back_to_back",          [ Gemm( k=16, rows=2 ), Gemm( M.I16_I16, k=8 ), Gemm( M.BF16, k=12, cols=4, bias=True ),
                               Gemm( M.I16_G4, k=32, group=1 ), Gemm( rows=5, residual=True ) ],    CALM ),
  ( "back_to_back_wild",     [ Gemm( k=16, rows=2 ), Gemm( M.I16_I16, k=8, residual=True ), Gemm( M.FP16, cols=4 ),
                               Gemm( M.I16_G8, k=32, group=1, bias=True ), Gemm( rows=5, residual=True ) ],  WILD ),
  ( "small_tiles_wild",      [ Gemm( k=4, cols=4, bias=True ) ] * 6,                                WILD ),
]

def rows_of( *names: str ) -> list:
  return [ pytest.param( commands, timing, id=name ) for name, commands, timing in ROWS
           if not names or name in names ]

@pytest.mark.parametrize( "level", LEVELS )
@pytest.mark.parametrize( ( "commands", "timing" ), rows_of() )
def test_rows( level, commands, timing, cmdline_opts ):
  cfg   = PRESETS["edge4"]
  world = World( cfg, commands )
  cycles = simulate( cfg, level, world, timing, opts=cmdline_opts )
  check_cycles( cfg, level, world, timing, cycles )

@pytest.mark.parametrize( "level", LEVELS )
@pytest.mark.parametrize( ( "commands", "timing" ), rows_of(
  "ragged", "many_tiles", "bias_residual", "extreme_i16_i16", "g4_64", "g8_32", "bf16", "fp16_extreme",
  "back_to_back_wild" ) )
def test_rows_n8( level, commands, timing, cmdline_opts ):
  cfg   = PRESETS["edge8"]
  world = World( cfg, commands )
  check_cycles( cfg, level, world, timing, simulate( cfg, level, world, timing, opts=cmdline_opts ) )

# In Python the RTL of 256 multipliers does some ten cycles a second: there it runs as Verilog.
@pytest.mark.parametrize( "level", ( "fl", "cl", "verilog" ) )
@pytest.mark.parametrize( ( "commands", "timing" ), rows_of() )
def test_rows_n16( level, commands, timing, cmdline_opts ):
  cfg   = PRESETS["edge16"]
  world = World( cfg, commands )
  check_cycles( cfg, level, world, timing, simulate( cfg, level, world, timing, opts=cmdline_opts ) )

# The default, above, is random initial state.
@pytest.mark.parametrize( "level", ( "verilog", ) )
@pytest.mark.parametrize( "x_initial", ( "zeros", "ones" ) )
@pytest.mark.parametrize( ( "commands", "timing" ), rows_of() )
def test_initial_state( level, x_initial, commands, timing, cmdline_opts ):
  cfg   = PRESETS["edge4"]
  world = World( cfg, commands )
  cycles = simulate( cfg, level, world, timing, opts=cmdline_opts, x_initial=x_initial )
  check_cycles( cfg, level, world, timing, cycles )

#-------------------------------------------------------------------------
# Random commands and timing
#-------------------------------------------------------------------------

@st.composite
def gemms( draw: st.DrawFn ) -> Gemm:
  mode  = draw( st.sampled_from( list( GemmMode ) ) )
  group = draw( st.integers( 1, 3 ) ) if mode in GROUP_MODES else 0
  k     = GROUP_SIZES[group] * draw( st.integers( 1, 2 ) ) if group else draw( st.integers( 1, 40 ) )
  return Gemm( mode, draw( st.integers( 1, 16 ) ), k, draw( st.integers( 1, 20 ) ), group, draw( st.booleans() ),
               draw( st.booleans() ), draw( st.sampled_from( ( "random", "extreme", "tiny", "huge", "cancel" ) ) ) )

timings = st.builds(
  Timing, source=st.builds( Fuzz, st.integers( 0, 99 ) ), sink=st.builds( Fuzz, st.integers( 0, 99 ) ),
  start=st.builds( Fuzz, st.integers( 0, 99 ), st.just( 60 ) ),
  latency=st.integers( 1, 60 ), beats=st.sampled_from( ( Fraction( 1 ), Fraction( 2, 3 ), Fraction( 1, 4 ) ) ),
  stall_seed=st.none() | st.integers( 0, 99 ) )

def fuzz( level: str, n: int, examples: int ) -> None:
  @settings( max_examples=examples, suppress_health_check=list( HealthCheck ) )
  @given( st.lists( gemms(), min_size=1, max_size=3 ), timings, st.integers( 0, 1 << 30 ) )
  def check( commands, timing, seed ):
    cfg   = PRESETS[f"edge{n}"]
    world = World( cfg, commands, seed )
    check_cycles( cfg, level, world, timing, simulate( cfg, level, world, timing ) )
  check()

@pytest.mark.parametrize( ( "level", "n", "examples" ), [
  ( "fl", 4, 15 ), ( "cl", 4, 15 ), ( "cl", 8, 10 ), ( "cl", 16, 10 ), ( "rtl", 4, 8 ),
  ( "verilog", 4, 25 ), ( "verilog", 8, 10 ), ( "verilog", 16, 10 ) ] )
def test_random( level, n, examples ):
  fuzz( level, n, examples )

@pytest.mark.nightly
@pytest.mark.parametrize( ( "level", "n", "examples" ), [
  ( "fl", 4, 200 ), ( "cl", 8, 200 ), ( "rtl", 4, 60 ), ( "rtl", 8, 20 ), ( "verilog", 4, 400 ),
  ( "verilog", 16, 200 ) ] )
def test_random_at_length( level, n, examples ):
  fuzz( level, n, examples )

#-------------------------------------------------------------------------
# Cycles
#-------------------------------------------------------------------------

# A calm memory of latency 5 at n = 4. The stream's beats (16 bytes) or rows x tiles bound them from below.
CYCLES = {
  "basic":         28,    # 2 x 2 tiles: mostly start and end
  "many_tiles":    263,   # 120 tiles x 2 rows = 240
  "m_max":         167,   # 9 tiles x 16 rows = 144
  "bias_residual": 60,
  "g4_32":         240,
  "bf16":          129,
}

@pytest.mark.parametrize( "level", ( "cl", "rtl", "verilog" ) )
@pytest.mark.parametrize( "name", sorted( CYCLES ) )
def test_cycles( level, name, cmdline_opts ):
  cfg   = PRESETS["edge4"]
  world = World( cfg, dict( ( n, c ) for n, c, _ in ROWS )[name] )
  assert simulate( cfg, level, world, opts=cmdline_opts ) == CYCLES[name]

@pytest.mark.parametrize( "level", ( "cl", "verilog" ) )
def test_no_bubbles( level ):
  """Past the start, every cycle brings a beat (one row) or an activation row (16 rows)."""
  cfg = PRESETS["edge4"]
  for rows, bound in ( ( 1, lambda g: ( g.k // 4 + 1 ) * g.cols // 4 ), ( 16, lambda g: 16 * g.k // 4 * g.cols // 4 ) ):
    short, long = Gemm( k=64, cols=16, rows=rows ), Gemm( k=64, cols=32, rows=rows )
    grown = simulate( cfg, level, World( cfg, [ long ] ) ) - simulate( cfg, level, World( cfg, [ short ] ) )
    assert grown == bound( long ) - bound( short )

#-------------------------------------------------------------------------
# Bad commands
#-------------------------------------------------------------------------

BAD = [
  ( "no_rows",         { "rows": 0 },                             Error.ZERO_SIZE ),
  ( "no_k",            { "k": 0 },                                Error.ZERO_SIZE ),
  ( "no_columns",      { "cols": 0 },                             Error.ZERO_SIZE ),
  ( "undefined_mode",  { "mode": 7 },                             Error.BAD_FIELD ),
  ( "undefined_group", { "group": 4 },                            Error.BAD_FIELD ),
  ( "too_many_rows",   { "rows": 17 },                            Error.BAD_SIZE ),
  ( "k_too_long",      { "k": 32769 },                            Error.BAD_SIZE ),
  ( "group_missing",   { "mode": int( M.I16_G4 ) },               Error.BAD_SIZE ),
  ( "group_unwanted",  { "group": 1 },                            Error.BAD_SIZE ),
  ( "ragged_group_32", { "mode": int( M.I16_G8 ), "group": 1, "k": 33 },  Error.BAD_SIZE ),
  ( "ragged_group_64", { "mode": int( M.I16_G4 ), "group": 2, "k": 96 },  Error.BAD_SIZE ),
  ( "ragged_group_128", { "mode": int( M.I16_G4 ), "group": 3, "k": 64 }, Error.BAD_SIZE ),
  ( "past_the_memory", { "lines": 2 },                            Error.BAD_DRAM ),
  ( "address_too_high", { "dram": 0xFFFFFFFF },                   Error.BAD_DRAM ),
  ( "src_too_high",    { "src": 8191 },                           Error.BAD_SPAD ),
  ( "src_stride",      { "src_stride": 8190 },                    Error.BAD_SPAD ),
  ( "dst_too_high",    { "dst": 0xFFFFFF },                       Error.BAD_SPAD ),
  ( "dst_stride",      { "dst_stride": 0xFFFF },                  Error.BAD_SPAD ),
  ( "residual_too_high", { "src2": 8192, "residual": 1 },         Error.BAD_SPAD ),
]

@pytest.mark.parametrize( "level", LEVELS )
@pytest.mark.parametrize( ( "changes", "error" ), [ pytest.param( c, e, id=name ) for name, c, e in BAD ] )
def test_bad_command( level, changes, error, cmdline_opts ):
  """A bad command between two good ones is answered with its error, in order, and touches nothing."""
  cfg   = PRESETS["edge4"]
  world = World( cfg, [ Gemm( rows=2 ), Gemm( bias=True ) ] )
  bad   = world.messages[0].clone()
  for name, value in changes.items():
    setattr( bad, name, type( getattr( bad, name ) )( value ) )
  world.messages.insert( 1, bad )
  simulate( cfg, level, world, errors=[ Error.NONE, error, Error.NONE ], opts=cmdline_opts )

@pytest.mark.parametrize( "level", LEVELS )
def test_other_row_counts( level, cmdline_opts ):
  """m_max is a parameter: 3 rows at most, and a fourth is refused."""
  cfg   = replace( PRESETS["edge4"], m_max=3 )
  world = World( cfg, [ Gemm( rows=3, k=9 ), Gemm( rows=1 ) ] )
  check_cycles( cfg, level, world, CALM, simulate( cfg, level, world, opts=cmdline_opts ) )
