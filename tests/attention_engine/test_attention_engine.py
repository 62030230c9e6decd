"""The attention engine: one suite for all levels."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from npu.arch.config import PRESETS
from npu.arch.isa import Error
from tests.attention_engine.test_attention_engine_fl import Block, Case, oracle
from tests.attention_engine.world import CALM, LEVELS, WILD, Attend, Timing, World, check_cycles, simulate
from tests.harness import Fuzz

#-------------------------------------------------------------------------
# The table
#-------------------------------------------------------------------------

# Sizes are for n = 4. Rows of few cycles, for all levels.
ROWS = [
  # name              commands                                                                   timing
  ( "basic",          [ Attend() ],                                                              CALM ),
  ( "smallest",       [ Attend( heads=1, dim=4, spare=0 ) ],                                     CALM ),
  ( "context_2",      [ Attend( pos=1 ) ],                                                       CALM ),
  ( "context_15",     [ Attend( pos=14 ) ],                                                      CALM ),
  ( "context_16",     [ Attend( pos=15 ) ],                                                      CALM ),
  ( "context_17",     [ Attend( pos=16 ) ],                                                      CALM ),
  ( "context_255",    [ Attend( rows=2, pos=253, dim=4 ) ],                                      CALM ),
  ( "context_256",    [ Attend( rows=2, pos=254, dim=4, spare=0 ) ],                             CALM ),
  ( "rows",           [ Attend( rows=5 ) ],                                                      CALM ),
  ( "m_max",          [ Attend( rows=16 ) ],                                                     CALM ),
  ( "across_chunks",  [ Attend( rows=7, pos=12, heads=4, kv_heads=2 ) ],                         CALM ),
  ( "m_max_across",   [ Attend( rows=16, pos=23, heads=2, kv_heads=2, dim=4 ) ],                 CALM ),
  ( "mid_chunk",      [ Attend( rows=3, pos=37, heads=2, kv_heads=2 ) ],                         CALM ),
  ( "group_1",        [ Attend( rows=2, pos=18, heads=3, kv_heads=3 ) ],                         CALM ),
  ( "group_2",        [ Attend( rows=2, pos=18, heads=6, kv_heads=3 ) ],                         CALM ),
  ( "group_4",        [ Attend( rows=3, pos=5, heads=4 ) ],                                      CALM ),
  ( "group_7",        [ Attend( rows=2, pos=5, heads=14, kv_heads=2 ) ],                         CALM ),
  ( "group_8",        [ Attend( rows=2, pos=15, heads=8 ) ],                                     CALM ),
  ( "group_12",       [ Attend( rows=3, pos=14, heads=12, dim=4 ) ],                             CALM ),
  ( "group_40",       [ Attend( rows=2, pos=1, heads=40, dim=4 ) ],                              CALM ),
  ( "dim_12",         [ Attend( rows=2, pos=9, heads=3, kv_heads=3, dim=12 ) ],                  CALM ),
  ( "dim_16",         [ Attend( rows=2, pos=17, dim=16 ) ],                                      CALM ),
  ( "dim_20",         [ Attend( rows=2, pos=17, heads=2, kv_heads=2, dim=20 ) ],                 CALM ),
  ( "dim_32",         [ Attend( pos=3, heads=3, dim=32 ) ],                                      CALM ),
  ( "equal",          [ Attend( rows=3, pos=30, data="equal" ) ],                                CALM ),
  ( "dominant",       [ Attend( rows=3, pos=30, data="dominant" ) ],                             CALM ),
  ( "negative",       [ Attend( rows=3, pos=30, data="negative" ) ],                             CALM ),
  ( "saturated",      [ Attend( rows=3, pos=30, data="saturated" ) ],                            CALM ),
  ( "rising",         [ Attend( rows=3, pos=40, data="rising" ) ],                               CALM ),
  ( "falling",        [ Attend( rows=3, pos=40, data="falling" ) ],                              CALM ),
  ( "jump",           [ Attend( rows=3, pos=40, data="jump" ) ],                                 CALM ),
  ( "outlier",        [ Attend( rows=3, pos=30, data="outlier" ) ],                              CALM ),
  ( "zero_rows",      [ Attend( rows=5, pos=30, kv_heads=2, data="zero_rows" ) ],                CALM ),
  ( "zero",           [ Attend( rows=2, pos=15, data="zero" ) ],                                 CALM ),
  ( "tiny",           [ Attend( rows=2, pos=20, data="tiny" ) ],                                 CALM ),
  ( "huge",           [ Attend( rows=2, pos=20, data="huge" ) ],                                 CALM ),
  ( "extreme",        [ Attend( rows=2, pos=20, data="extreme" ) ],                              CALM ),
  ( "bits",           [ Attend( rows=4, pos=30, kv_heads=2, data="bits" ) ],                     CALM ),
  ( "factor_zero",    [ Attend( rows=2, pos=16, factor=0.0 ) ],                                  CALM ),
  ( "factor_negative", [ Attend( rows=2, pos=16, factor=-1.5 ) ],                                CALM ),
  ( "factor_huge",    [ Attend( rows=2, pos=16, factor=3e38 ) ],                                 CALM ),
  ( "factor_tiny",    [ Attend( rows=2, pos=16, factor=1e-39 ) ],                                CALM ),
  ( "operands_last",  [ Attend( rows=2, pos=3, place="qkv_last" ), Attend( rows=1, place="kvq_last" ) ],  CALM ),
  ( "queries_last",   [ Attend( rows=3, pos=3, place="kvq_last" ), Attend( rows=2, place="kvq" ) ],  CALM ),
  ( "stalls",         [ Attend( rows=3, pos=14, dim=16 ) ],                                    Timing( stall_seed=1 ) ),
  ( "more_stalls",    [ Attend( rows=6, pos=30, kv_heads=2 ) ],                                Timing( stall_seed=2 ) ),
  ( "slow_memory",    [ Attend( rows=3, pos=14, dim=16 ) ],                          Timing( beats=Fraction( 1, 4 ) ) ),
  ( "latency_1",      [ Attend( rows=2, pos=33 ) ],                                    Timing( latency=1 ) ),
  ( "latency_200",    [ Attend( rows=2, pos=33 ) ],                                    Timing( latency=200 ) ),
  ( "source_delay",   [ Attend(), Attend( rows=2 ), Attend( pos=7 ) ],                           Timing( source=77 ) ),
  ( "sink_delay",     [ Attend(), Attend( rows=2 ), Attend( pos=7 ) ],                           Timing( sink=599 ) ),
  ( "ack_delay",      [ Attend(), Attend( rows=2 ), Attend( pos=7 ) ],                           Timing( ack=599 ) ),
  # Passes of one text: what one appends, the next reads at once.
  ( "same_cache",     [ Attend( rows=3, cache=0, text=0 ), Attend( rows=2, pos=3, cache=0, text=0 ),
                        Attend( pos=5, cache=0, text=0 ) ],                                      CALM ),
  ( "decode",         [ Attend( pos=13 + i, dim=4, cache=0, text=0 ) for i in range( 5 ) ],      CALM ),
  ( "overwritten",    [ Attend( rows=4, pos=14, cache=0, text=0 ), Attend( rows=2, pos=15, cache=0, text=1 ),
                        Attend( rows=2, pos=14, cache=0, text=2 ) ],                             CALM ),
  ( "back_to_back",   [ Attend( rows=2, pos=16 ), Attend( heads=1, dim=16 ), Attend( rows=3, heads=4, kv_heads=4 ),
                        Attend( pos=31, dim=4 ), Attend( heads=7, dim=12 ) ],                    CALM ),
  ( "same_cache_wild", [ Attend( rows=3, pos=12, cache=0, text=0 ), Attend( rows=2, pos=15, cache=0, text=0 ),
                        Attend( pos=17, cache=0, text=0 ) ],                                     WILD ),
  ( "back_to_back_wild", [ Attend( rows=2, pos=16 ), Attend( rows=3, heads=4, kv_heads=4 ), Attend( pos=31, dim=4 ),
                        Attend( heads=7, dim=12 ) ],                                             WILD ),
]

# More cycles.
LONG = [
  ( "dim_64",         [ Attend( rows=2, pos=31, heads=14, kv_heads=2, dim=64 ) ],                CALM ),
  ( "dim_128",        [ Attend( rows=3, pos=14, heads=4, kv_heads=2, dim=128 ) ],                CALM ),
  ( "m_max_group_12", [ Attend( rows=16, pos=7, heads=12 ) ],                                    CALM ),
  ( "m_max_group_7",  [ Attend( rows=16, pos=40, heads=14, kv_heads=2, dim=16 ) ],               WILD ),
  ( "m_max_group_16", [ Attend( rows=16, pos=15, heads=16, dim=4 ) ],                            CALM ),
  ( "group_255",      [ Attend( rows=3, pos=14, heads=255, dim=4 ) ],                            CALM ),
  ( "heads_32",       [ Attend( rows=2, pos=17, heads=32, kv_heads=32 ) ],                       CALM ),
  ( "long_255",       [ Attend( pos=254, heads=4, kv_heads=2, dim=32, spare=0 ) ],               CALM ),
  ( "long_256",       [ Attend( rows=3, pos=253, heads=4, kv_heads=2, dim=32, spare=0 ) ],       WILD ),
  ( "long_257",       [ Attend( rows=16, pos=241, heads=2, dim=32 ) ],                           CALM ),
  ( "outlier_long",   [ Attend( rows=4, pos=200, heads=4, kv_heads=2, dim=32, data="outlier" ) ],  CALM ),
]

# In Python the RTL does some hundred cycles a second: by day it has these only.
QUICK = ( "basic", "smallest", "context_17", "group_4", "dim_12", "outlier", "bits", "operands_last", "decode",
          "stalls" )

def rows_of( table: list, levels: tuple[str, ...], *names: str, quick: tuple[str, ...] = QUICK ) -> list:
  """( level, commands, timing ) of all rows of a table, or of those named."""
  return [ pytest.param( level, commands, timing, id=f"{name}-{level}",
                         marks=[ pytest.mark.nightly ] if level == "rtl" and name not in quick else [] )
           for name, commands, timing in table if not names or name in names for level in levels ]

def scaled( commands: list[Attend], n: int ) -> list[Attend]:
  """The same number of scratchpad rows per head at another n, as far as a head may be so long."""
  return [ replace( a, dim=a.dim * n // 4 if a.dim * n // 4 <= 128 else 128 ) for a in commands ]

def check_row( level: str, n: int, commands: list[Attend], timing: Timing, opts: dict, **kwargs: str ) -> None:
  cfg   = PRESETS[f"edge{n}"]
  world = World( cfg, scaled( commands, n ) )
  check_cycles( cfg, level, world, timing, simulate( cfg, level, world, timing, opts, **kwargs ) )

@pytest.mark.parametrize( ( "level", "commands", "timing" ), rows_of( ROWS, LEVELS ) )
def test_rows( level, commands, timing, cmdline_opts ):
  check_row( level, 4, commands, timing, cmdline_opts )

@pytest.mark.parametrize( ( "level", "commands", "timing" ), rows_of( LONG, ( "fl", "cl", "verilog" ) ) )
def test_long_rows( level, commands, timing, cmdline_opts ):
  check_row( level, 4, commands, timing, cmdline_opts )

SOME = ( "smallest", "context_17", "m_max", "across_chunks", "group_7", "group_40", "dim_12", "dim_20", "outlier",
         "zero_rows", "bits", "queries_last", "more_stalls", "same_cache_wild", "back_to_back_wild" )

@pytest.mark.parametrize( ( "level", "commands", "timing" ), rows_of( ROWS, LEVELS, *SOME, quick=( "smallest", ) ) )
def test_rows_n8( level, commands, timing, cmdline_opts ):
  check_row( level, 8, commands, timing, cmdline_opts )

@pytest.mark.parametrize( ( "level", "commands", "timing" ), rows_of( ROWS, ( "fl", "cl", "verilog" ) )
                          + rows_of( LONG, ( "fl", "cl", "verilog" ), "dim_64", "m_max_group_7" ) )
def test_rows_n16( level, commands, timing, cmdline_opts ):
  check_row( level, 16, commands, timing, cmdline_opts )

# The default, above, is random initial state.
@pytest.mark.parametrize( "x_initial", ( "zeros", "ones" ) )
@pytest.mark.parametrize( ( "level", "commands", "timing" ), rows_of( ROWS, ( "verilog", ), *SOME ) )
def test_initial_state( level, x_initial, commands, timing, cmdline_opts ):
  check_row( level, 4, commands, timing, cmdline_opts, x_initial=x_initial )

@pytest.mark.nightly
@pytest.mark.parametrize( "x_initial", ( "zeros", "ones" ) )
@pytest.mark.parametrize( "n", ( 4, 8, 16 ) )
@pytest.mark.parametrize( ( "level", "commands", "timing" ), rows_of( ROWS + LONG, ( "verilog", ) ) )
def test_initial_state_of_all( level, n, x_initial, commands, timing, cmdline_opts ):
  check_row( level, n, commands, timing, cmdline_opts, x_initial=x_initial )

#-------------------------------------------------------------------------
# Prefill and decode
#-------------------------------------------------------------------------

def check_cuts( level: str, n: int, cuts: list[list[int]], **sizes: int | str ) -> None:
  """The same text in passes of several lengths, each on a cache of its own: the same bits."""
  cfg, commands = PRESETS[f"edge{n}"], []
  for c, cut in enumerate( cuts ):
    at = int( sizes.get( "pos", 0 ) )
    for rows in cut:
      commands.append( Attend( **{ **sizes, "rows": rows, "pos": at, "cache": c, "text": 0, "spare": 1 } ) )
      at += rows
  world = World( cfg, scaled( commands, n ) )
  spad  = simulate( cfg, level, world, Timing( stall_seed=3 ) ).spad
  found = [ world.result( spad, c ) for c in range( len( commands ) ) ]
  whole = [ np.concatenate( [ y for y, a in zip( found, commands, strict=True ) if a.cache == c ] )
            for c in range( len( cuts ) ) ]
  for one in whole[1:]:
    assert np.array_equal( one, whole[0] )

@pytest.mark.parametrize( ( "level", "n", "data" ), [
  ( "fl", 4, "random" ), ( "cl", 4, "random" ), ( "rtl", 4, "outlier" ), ( "verilog", 4, "random" ),
  ( "verilog", 4, "outlier" ), ( "verilog", 8, "random" ), ( "verilog", 16, "outlier" ) ] )
def test_prefill_equals_decode( level, n, data ):
  check_cuts( level, n, [ [ 6 ], [ 2, 4 ], [ 1 ] * 6 ], pos=13, dim=4, data=data )

@pytest.mark.parametrize( ( "level", "n" ), [
  ( "fl", 4 ), ( "cl", 4 ), ( "cl", 16 ), ( "verilog", 4 ), ( "verilog", 16 ) ] )
def test_prefill_equals_decode_of_a_prompt( level, n ):
  cuts = [ [ 16, 16, 5 ], [ 15, 2, 16, 4 ], [ 1 ] * 37 ]
  check_cuts( level, n, cuts, heads=4, kv_heads=2, data="zero_rows" )

#-------------------------------------------------------------------------
# Something that nobody here wrote
#-------------------------------------------------------------------------

@pytest.mark.parametrize( ( "level", "n", "data" ), [
  ( "rtl", 4, "random" ),
  *( ( *at, data ) for at in ( ( "fl", 4 ), ( "cl", 4 ), ( "verilog", 4 ), ( "verilog", 16 ) )
     for data in ( "random", "equal", "dominant", "negative", "outlier", "zero_rows" ) ) ] )
def test_softmax_attention( level, n, data ):
  """torch's attention in float64, within the error that `oracle` proves."""
  import torch
  cfg   = PRESETS[f"edge{n}"]
  a     = scaled( [ Attend( rows=3, pos=30, heads=4, kv_heads=2, data=data ) ], n )[0]
  world = World( cfg, [ a ] )
  found = world.result( simulate( cfg, level, world ).spad, 0 ).view( np.float32 )
  keys  = a.pos + a.rows
  q, k, v = ( Block( x[:keys], e[:keys] ) for x, e in world.tokens( 0 ) )
  q    = Block( q.q[a.pos :], q.exponent[a.pos :] )
  mask = torch.arange( keys ) <= torch.arange( a.pos, keys )[:, None]
  y    = torch.nn.functional.scaled_dot_product_attention(
    *( torch.tensor( x.values ).transpose( 0, 1 ) for x in ( q, k, v ) ), attn_mask=mask, enable_gqa=True )
  mine, bound = oracle( Case( q, *( Block( x.q.transpose( 1, 0, 2 ), x.exponent.T ) for x in ( k, v ) ) ), a.pos )
  y = y.transpose( 0, 1 ).numpy()
  # The oracle's factor is binary32.
  assert ( np.abs( y - mine ) <= 1e-6 * ( 1 + np.abs( y ).max( axis=-1, keepdims=True ) ) ).all()
  assert ( np.abs( found - mine ) <= bound ).all()

#-------------------------------------------------------------------------
# Random commands and timing
#-------------------------------------------------------------------------

KINDS = ( "random", "equal", "dominant", "negative", "saturated", "rising", "falling", "jump", "outlier", "zero_rows",
          "zero", "tiny", "huge", "extreme", "bits" )

@st.composite
def attends( draw: st.DrawFn, longest: int ) -> Attend:
  kv    = draw( st.integers( 1, 3 ) )
  group = draw( st.sampled_from( ( 1, 1, 2, 3, 4, 7, 8, 12 ) ) )
  dim   = 4 * draw( st.integers( 1, max( 1, min( 8, longest // ( 4 * kv * group ) ) ) ) )
  rows  = draw( st.integers( 1, max( 1, min( 16, longest // ( kv * group ) ) ) ) )
  return Attend( rows, draw( st.integers( 0, longest ) ), kv * group, kv, dim, draw( st.sampled_from( KINDS ) ),
                 spare=draw( st.integers( 0, 2 ) ), place=draw( st.sampled_from( ( "qkv", "kvq", "kvq_last" ) ) ) )

@st.composite
def texts( draw: st.DrawFn, longest: int ) -> list[Attend]:
  """Some passes of one text, on one cache."""
  first, passes = draw( attends( longest ) ), []
  at = first.pos
  for rows in draw( st.lists( st.integers( 1, first.rows ), min_size=2, max_size=3 ) ):
    passes.append( replace( first, rows=rows, pos=at, cache=0, text=0 ) )
    at += rows
  return passes

timings = st.builds(
  Timing, source=st.builds( Fuzz, st.integers( 0, 99 ) ), ack=st.builds( Fuzz, st.integers( 0, 99 ) ),
  sink=st.builds( Fuzz, st.integers( 0, 99 ), st.sampled_from( ( 5, 100 ) ) ), latency=st.integers( 1, 60 ),
  beats=st.sampled_from( ( Fraction( 1 ), Fraction( 2, 3 ), Fraction( 1, 4 ) ) ),
  stall_seed=st.none() | st.integers( 0, 99 ) )

def fuzz( level: str, n: int, examples: int, longest: int = 40 ) -> None:
  @settings( max_examples=examples, suppress_health_check=list( HealthCheck ) )
  @given( st.lists( attends( longest ), min_size=1, max_size=3 ) | texts( longest ), timings,
          st.integers( 0, 1 << 30 ) )
  def check( commands, timing, seed ):
    cfg   = PRESETS[f"edge{n}"]
    world = World( cfg, scaled( commands, n ), seed )
    check_cycles( cfg, level, world, timing, simulate( cfg, level, world, timing ) )
  check()

@pytest.mark.parametrize( ( "level", "n", "examples" ), [
  ( "fl", 4, 15 ), ( "cl", 4, 15 ), ( "cl", 8, 10 ), ( "cl", 16, 10 ), ( "verilog", 4, 20 ), ( "verilog", 8, 8 ),
  ( "verilog", 16, 10 ) ] )
def test_random( level, n, examples ):
  fuzz( level, n, examples )

@pytest.mark.parametrize( "level", ( "rtl", ) )
def test_random_small( level ):
  fuzz( level, 4, 2, 12 )

@pytest.mark.nightly
@pytest.mark.parametrize( ( "level", "n", "examples", "longest" ), [
  ( "fl", 4, 200, 100 ), ( "cl", 8, 200, 100 ), ( "rtl", 4, 40, 40 ), ( "rtl", 8, 15, 40 ), ( "verilog", 4, 300, 100 ),
  ( "verilog", 8, 100, 100 ), ( "verilog", 16, 200, 100 ), ( "verilog", 16, 10, 600 ) ] )
def test_random_at_length( level, n, examples, longest ):
  fuzz( level, n, examples, longest )

#-------------------------------------------------------------------------
# Cycles
#-------------------------------------------------------------------------

# A calm memory of latency 5 at n = 4. Query rows x chunks x tiles bound them from below.
CYCLES = {
  "basic":       129,    # 2 x 1 x 16: mostly the way from the operands to the results
  "m_max":       789,    # 32 x 1 x 16 = 512
  "group_7":     534,    # 28 x 1 x 16 = 448
  "context_256": 630,    # 4 x 16 x 8 = 512
  "dim_20":      514,    # 4 x 2 x 40 = 320
  "dim_64":      9278,   # 14 x (2 + 3) x 128 = 8,960
  "heads_32":    2775,   # 64 x 2 x 16 = 2,048
}

@pytest.mark.parametrize( "level", ( "cl", "verilog" ) )
@pytest.mark.parametrize( "name", sorted( CYCLES ) )
def test_cycles( level, name, cmdline_opts ):
  cfg   = PRESETS["edge4"]
  world = World( cfg, { n: c for n, c, _ in ROWS + LONG }[name] )
  assert simulate( cfg, level, world, opts=cmdline_opts ).cycles == CYCLES[name]

@pytest.mark.parametrize( "level", ( "cl", "verilog" ) )
@pytest.mark.parametrize( "rows", ( 1, 4 ) )
def test_no_bubbles( level, rows ):
  """Past the start, every cycle brings a beat (one row of 7 heads), or a query row meets a tile (four rows)."""
  cfg  = PRESETS["edge16"]
  grew = [ simulate( cfg, level, World( cfg, [ Attend( rows, 16 * chunks - rows, 7, 1, 64 ) ] ) ).cycles
           for chunks in ( 6, 12 ) ]
  assert grew[1] - grew[0] == 6 * ( 65 if rows == 1 else 7 * rows * 8 )

#-------------------------------------------------------------------------
# Bad commands
#-------------------------------------------------------------------------

# Two good commands: 2 rows of 4 heads of 8 at positions 3 and 4, a cache of 2 chunks.
GOOD = Attend( rows=2, pos=3, heads=4, kv_heads=2 )

BAD = [
  ( "no_rows",            { "rows": 0 },                                   Error.ZERO_SIZE ),
  ( "no_length",          { "length": 0 },                                 Error.ZERO_SIZE ),
  ( "no_heads",           { "heads": 0 },                                  Error.ZERO_SIZE ),
  ( "no_kv_heads",        { "kv_heads": 0 },                               Error.ZERO_SIZE ),
  ( "no_chunks",          { "chunks": 0 },                                 Error.ZERO_SIZE ),
  ( "zero_before_size",   { "chunks": 0, "rows": 17 },                     Error.ZERO_SIZE ),
  ( "too_many_rows",      { "rows": 17 },                                  Error.BAD_SIZE ),
  ( "rows_255",           { "rows": 255 },                                 Error.BAD_SIZE ),
  ( "heads_5_of_2",       { "heads": 5 },                                  Error.BAD_SIZE ),
  ( "heads_1_of_2",       { "heads": 1 },                                  Error.BAD_SIZE ),
  ( "heads_255_of_2",     { "heads": 255 },                                Error.BAD_SIZE ),
  ( "heads_254_of_255",   { "heads": 254, "kv_heads": 255 },               Error.BAD_SIZE ),
  ( "heads_255_of_127",   { "heads": 255, "kv_heads": 127 },               Error.BAD_SIZE ),
  ( "heads_200_of_7",     { "heads": 200, "kv_heads": 7 },                 Error.BAD_SIZE ),
  ( "ragged_head",        { "length": 10 },                                Error.BAD_SIZE ),
  ( "head_of_1",          { "length": 1 },                                 Error.BAD_SIZE ),
  ( "head_too_long",      { "length": 132 },                               Error.BAD_SIZE ),
  ( "head_of_1020",       { "length": 1020 },                              Error.BAD_SIZE ),
  ( "size_before_position", { "length": 10, "pos": 99 },                   Error.BAD_SIZE ),
  ( "one_position_too_far", { "pos": 31 },                                 Error.BAD_POSITION ),
  ( "past_the_cache",     { "pos": 32, "rows": 1 },                        Error.BAD_POSITION ),
  ( "position_wraps",     { "pos": 0xFFFFFFFF, "rows": 1 },                Error.BAD_POSITION ),
  ( "position_wraps_by_2", { "pos": 0xFFFFFFFE, "rows": 2 },               Error.BAD_POSITION ),
  ( "position_is_signed", { "pos": 0x80000000 },                           Error.BAD_POSITION ),
  ( "position_before_memory", { "pos": 31, "dram": 0 },                    Error.BAD_POSITION ),
  ( "past_the_memory",    { "lines": 3 + 2 * 2 * 9 - 1 },                  Error.BAD_DRAM ),
  ( "no_memory",          { "lines": 0 },                                  Error.BAD_DRAM ),
  ( "chunks_past_memory", { "chunks": 7 },                                 Error.BAD_DRAM ),
  ( "most_chunks",        { "chunks": 0x3FFFFF },                          Error.BAD_DRAM ),
  ( "address_too_high",   { "dram": 0xFFFFFFFF },                          Error.BAD_DRAM ),
  ( "end_wraps",          { "dram": 0xFFFFFFFF - 35, "lines": 0xFFFFFFFF },  Error.BAD_DRAM ),
  # 255 * 130,566 * 129 lines are 2**32 and some
  ( "size_wraps",         { "heads": 255, "kv_heads": 255, "length": 128, "chunks": 130566, "lines": 0xFFFFFFFF },
                                                                           Error.BAD_DRAM ),
  ( "size_is_wide",       { "heads": 255, "kv_heads": 255, "length": 128, "chunks": 0x3FFFFF, "lines": 0xFFFFFFFF },
                                                                           Error.BAD_DRAM ),
  ( "below_writable",     { "writable": 4 },                               Error.BAD_DRAM ),
  ( "mailbox",            { "dram": 0 },                                   Error.BAD_DRAM ),
  ( "all_below_writable", { "writable": 0xFFFFFFFF },                      Error.BAD_DRAM ),
  ( "memory_before_scratchpad", { "dram": 0, "dst": 8190 },                Error.BAD_DRAM ),
  # (rows - 1) * stride + width: 1 * 17 + 8 for queries and for keys and values, 1 * 10 + 8 for results
  ( "queries_too_high",   { "src": 8192 - 25 + 1 },                        Error.BAD_SPAD ),
  ( "keys_too_high",      { "src2": 8192 - 25 + 1 },                       Error.BAD_SPAD ),
  ( "results_too_high",   { "dst": 8192 - 18 + 1 },                        Error.BAD_SPAD ),
  ( "highest_queries",    { "src": 0xFFFFFF },                             Error.BAD_SPAD ),
  ( "highest_keys",       { "src2": 0xFFFFFF },                            Error.BAD_SPAD ),
  ( "highest_results",    { "dst": 0xFFFFFF },                             Error.BAD_SPAD ),
  ( "scratchpad_wraps",   { "dst": 0xFFFFFF - 17 },                        Error.BAD_SPAD ),
  ( "operand_stride",     { "src_stride": 8185 },                          Error.BAD_SPAD ),
  ( "result_stride",      { "dst_stride": 0xFFFF },                        Error.BAD_SPAD ),
  ( "stride_wraps",       { "rows": 16, "dst_stride": 0x8000, "dst": 0 },  Error.BAD_SPAD ),
  # 1 * 17 + 254 * 2
  ( "many_heads",         { "heads": 254, "src": 8192 - 525 + 1 },         Error.BAD_SPAD ),
]

def bad_world( *changes: dict[str, int] ) -> World:
  """Bad commands between two good ones."""
  world = World( PRESETS["edge4"], [ GOOD, replace( GOOD, pos=0 ) ] )
  world.messages[1:1] = [ world.patched( 0, **c ) for c in changes ]
  return world

@pytest.mark.parametrize( "level", ( "fl", "cl", "verilog" ) )
@pytest.mark.parametrize( ( "changes", "error" ), [ pytest.param( c, e, id=name ) for name, c, e in BAD ] )
def test_bad_command( level, changes, error, cmdline_opts ):
  """A bad command between two good ones is answered with its error, in order, and touches nothing."""
  cfg   = PRESETS["edge4"]
  world = bad_world( changes )
  assert world.expected.acks == [ Error.NONE, error, Error.NONE ]
  check_cycles( cfg, level, world, CALM, simulate( cfg, level, world, opts=cmdline_opts ) )

@pytest.mark.parametrize( ( "level", "timing" ), [
  *( pytest.param( level, CALM, id=f"calm-{level}" ) for level in LEVELS ),
  *( pytest.param( level, WILD, id=f"wild-{level}" ) for level in ( "fl", "cl", "verilog" ) ) ] )
def test_bad_commands_in_a_row( level, timing, cmdline_opts ):
  cfg   = PRESETS["edge4"]
  world = bad_world( *( c for _, c, _ in BAD ) )
  check_cycles( cfg, level, world, timing, simulate( cfg, level, world, timing, opts=cmdline_opts ) )

@pytest.mark.parametrize( "level", ( "fl", "cl", "verilog" ) )
def test_nothing_but_bad_commands( level, cmdline_opts ):
  cfg   = PRESETS["edge4"]
  world = bad_world( *( c for _, c, _ in BAD ) )
  world.messages = world.messages[1:-1]
  assert simulate( cfg, level, world, opts=cmdline_opts ).cycles == 0

# What is just allowed; see `GOOD`.
EDGE = [
  ( "end_of_memory",      { "lines": 3 + 2 * 2 * 9 } ),
  ( "writable_is_zero",   { "writable": 0 } ),
  ( "stride_of_zero",     { "src_stride": 0 } ),
  ( "overlapping_rows",   { "src_stride": 3 } ),
  ( "widest_stride_of_one_row", { "rows": 1, "src_stride": 0xFFFF, "dst_stride": 0xFFFF } ),
  ( "operands_at_the_end", { "src": 8192 - 25, "src2": 8192 - 25, "dst": 100 } ),
]

@pytest.mark.parametrize( "level", ( "fl", "cl", "verilog" ) )
@pytest.mark.parametrize( "changes", [ pytest.param( c, id=name ) for name, c in EDGE ] )
def test_edges( level, changes, cmdline_opts ):
  """Commands at the edge of what `check` accepts, between two good ones."""
  cfg   = PRESETS["edge4"]
  world = bad_world( changes )
  # Operands anywhere: integers and exponents of finite numbers.
  world.spad &= np.uint32( 0x007F_FFFF )
  assert world.expected.acks == [ Error.NONE ] * 3
  check_cycles( cfg, level, world, CALM, simulate( cfg, level, world, opts=cmdline_opts ) )

@pytest.mark.parametrize( ( "level", "n" ), [
  ( "fl", 4 ), ( "cl", 4 ), ( "verilog", 4 ), ( "verilog", 8 ), ( "verilog", 16 ) ] )
def test_far_addresses( level, n ):
  """At the end of the largest memory, with KV heads far apart."""
  cfg   = PRESETS[f"edge{n}"]
  a     = scaled( [ Attend( rows=3, pos=14, heads=4, kv_heads=2, spare=20000 ) ], n )[0]
  lines = World( cfg, [ a ] ).lines
  world = World( cfg, [ a ], first=( 1 << 32 ) - 1 - lines )
  check_cycles( cfg, level, world, CALM, simulate( cfg, level, world ) )

@pytest.mark.parametrize( "level", ( "fl", "cl", "verilog" ) )
@pytest.mark.parametrize( "timing", ( CALM, WILD ), ids=( "calm", "wild" ) )
def test_commands_that_share_rows( level, timing ):
  """Each finds what the one before left: results as queries, results over operands and over results."""
  cfg   = PRESETS["edge4"]
  world = World( cfg, [ GOOD, replace( GOOD, pos=20 ), replace( GOOD, pos=17 ), GOOD ] )
  a, _, c, _ = world.messages
  world.messages[1] = world.patched( 1, src=int( a.dst ), src_stride=int( a.dst_stride ) )
  world.messages[2] = world.patched( 2, dst=int( a.dst ) )
  world.messages[3] = world.patched( 3, dst=int( a.src ), dst_stride=int( a.src_stride ) )
  # A copy of the first with other results, after its queries are gone.
  world.messages.append( world.patched( 0, dst=int( c.dst ) ) )
  check_cycles( cfg, level, world, timing, simulate( cfg, level, world, timing ) )

#-------------------------------------------------------------------------
# Protocol
#-------------------------------------------------------------------------

@pytest.mark.parametrize( "level", ( "cl", "verilog" ) )
def test_ack_does_not_wait_for_earlier_commands( level, cmdline_opts ):
  """Two more commands are taken and answered while one is executed."""
  cfg   = PRESETS["edge4"]
  world = World( cfg, [ Attend( rows=4, pos=40 ), Attend( pos=3 ), Attend() ] )
  world.messages.insert( 1, world.patched( 1, rows=0 ) )
  trace = simulate( cfg, level, world, opts=cmdline_opts )
  taken, acks, dones = ( trace.events[name] for name in ( "command", "ack", "done" ) )
  assert taken[3] < dones[0] and acks[3] < dones[0]
  assert all( a - t <= 40 for a, t in zip( acks, taken, strict=True ) )

@pytest.mark.parametrize( ( "level", "reset_at", "commands" ), [
  *( ( level, at, 3 ) for level in ( "fl", "cl", "verilog" ) for at in ( 1, 20, 77, 150, 222, 300, 450, 600 ) ),
  ( "rtl", 100, 1 ) ] )
def test_reset( level, reset_at, commands, cmdline_opts ):
  """A reset in the middle of anything: afterwards everything happens as if for the first time."""
  cfg    = PRESETS["edge4"]
  timing = Timing( stall_seed=9 )
  world  = World( cfg, [ Attend( rows=3, pos=14, kv_heads=2 ), Attend( rows=2, pos=30 ), Attend( pos=5 ) ][:commands] )
  check_cycles( cfg, level, world, timing, simulate( cfg, level, world, timing, cmdline_opts, reset_at ) )

OTHERS = ( { "m_max": 1 }, { "m_max": 3 }, { "m_max": 5, "spad_bytes": 4096 }, { "m_max": 64 },
           { "m_max": 2, "dram_latency": 1 }, { "m_max": 2, "dram_latency": 300 } )

@pytest.mark.parametrize( ( "level", "changes" ), [
  *( pytest.param( level, c, id=f"{c}-{level}" ) for level in ( "fl", "cl" ) for c in OTHERS ),
  *( pytest.param( "rtl", c, id=f"{c}-rtl", marks=[ pytest.mark.nightly ] if i != 2 else [] )
     for i, c in enumerate( OTHERS ) ) ] )
def test_other_configurations( level, changes ):
  """Nothing depends on the presets: a row more than m_max is refused."""
  cfg   = PRESETS["edge4"].but( **changes )
  world = World( cfg, [ Attend( rows=min( cfg.m_max, 18 ), pos=14, heads=1, dim=4 ), Attend( heads=9, dim=4 ) ] )
  world.messages.insert( 1, world.patched( 0, rows=cfg.m_max + 1 ) )
  assert world.expected.acks == [ Error.NONE, Error.BAD_SIZE, Error.NONE ]
  check_cycles( cfg, level, world, CALM, simulate( cfg, level, world ) )

@pytest.mark.nightly
@pytest.mark.parametrize( "level", ( "verilog", ) )
def test_64_rows( level ):
  cfg   = PRESETS["edge4"].but( m_max=64 )
  world = World( cfg, [ Attend( rows=64, pos=9, heads=7, dim=16 ), Attend( rows=63, heads=2, kv_heads=2 ) ] )
  check_cycles( cfg, level, world, WILD, simulate( cfg, level, world, WILD ) )
