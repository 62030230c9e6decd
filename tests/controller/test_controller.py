"""The controller, one suite for all levels: the table of programs, other configurations, resets."""

import numpy as np
import pytest

from npu.arch.config import PRESETS
from npu.arch.isa import Error, Rel, Status, Unit
from tests.controller.instructions import ADVANCE, ARGMAX, EMBED, EMIT, HALT, LOAD, LOOP, PASS, STORE
from tests.controller.rows import ROWS
from tests.controller.simulation import LEVELS, check, check_cycles, simulate
from tests.controller.world import CALM, WILD, Case, World, waiting

#-------------------------------------------------------------------------
# The table
#-------------------------------------------------------------------------

def rows_of( *names: str ) -> list:
  return [ pytest.param( case, timing, id=name ) for name, _, _, case, timing in ROWS if not names or name in names ]

def test_rows_end_as_they_should() -> None:
  """The table means what it says."""
  for name, status, pc, case, _ in ROWS:
    result = World( PRESETS["edge4"], case ).expected[-1].result
    assert ( name, result.status, result.pc, result.error ) == ( name, status, pc, Error.NONE )

# Python simulates some 400 cycles of the RTL a second: there a selection runs every time, and all of them nightly.
RTL_ROWS = ( "basic", "embed", "store", "all_units", "all_units_slow", "vector_messages", "gemm_messages",
             "raw_constants", "conditions_1",
             "relative", "lengths", "page_ends", "overlapping", "load_load", "store_store", "embed_rows_wild",
             "emit_then_embed", "eos_3_of_4",
             "context_full", "jump_back", "program_at_end", "loop", "loop_stalls", "second_prompt", "run_after_fault" )

@pytest.mark.parametrize( "level", ( "fl", "cl", "verilog" ) )
@pytest.mark.parametrize( ( "case", "timing" ), rows_of() )
def test_rows( level, case, timing, cmdline_opts ):
  check( level, 4, case, timing, cmdline_opts )

@pytest.mark.parametrize( "level", ( "rtl", ) )
@pytest.mark.parametrize( ( "case", "timing" ), rows_of( *RTL_ROWS ) )
def test_rows_rtl( level, case, timing, cmdline_opts ):
  check( level, 4, case, timing, cmdline_opts )

@pytest.mark.nightly
@pytest.mark.parametrize( "level", ( "rtl", ) )
@pytest.mark.parametrize( ( "case", "timing" ), rows_of() )
@pytest.mark.parametrize( "n", ( 4, 8 ) )
def test_rows_rtl_at_length( level, n, case, timing, cmdline_opts ):
  check( level, n, case, timing, cmdline_opts )

@pytest.mark.parametrize( "level", LEVELS )
@pytest.mark.parametrize( ( "case", "timing" ), rows_of( "raw_constants", "overlapping", "embed_rows_wild",
                                                         "eos_4_of_4", "program_at_end",
                                                         "store_to_tokens", "loop_wild", "second_prompt" ) )
def test_rows_n8( level, case, timing, cmdline_opts ):
  check( level, 8, case, timing, cmdline_opts )

@pytest.mark.parametrize( "level", ( "cl", "verilog" ) )
@pytest.mark.parametrize( ( "case", "timing" ), rows_of() )
def test_rows_n16( level, case, timing, cmdline_opts ):
  check( level, 16, case, timing, cmdline_opts )

# The default, above, is random initial state.
@pytest.mark.parametrize( "level", ( "verilog", ) )
@pytest.mark.parametrize( "x_initial", ( "zeros", "ones" ) )
@pytest.mark.parametrize( ( "case", "timing" ), rows_of( *RTL_ROWS ) )
def test_initial_state( level, x_initial, case, timing, cmdline_opts ):
  check( level, 4, case, timing, cmdline_opts, x_initial=x_initial )

@pytest.mark.nightly
@pytest.mark.parametrize( "level", ( "verilog", ) )
@pytest.mark.parametrize( "x_initial", ( "zeros", "ones" ) )
@pytest.mark.parametrize( "n", ( 4, 8, 16 ) )
@pytest.mark.parametrize( ( "case", "timing" ), rows_of() )
def test_initial_state_at_length( level, n, x_initial, case, timing, cmdline_opts ):
  check( level, n, case, timing, cmdline_opts, x_initial=x_initial )

#-------------------------------------------------------------------------
# Other configurations, and values from elsewhere
#-------------------------------------------------------------------------

@pytest.mark.parametrize( "level", LEVELS )
@pytest.mark.parametrize( "m_max", ( 1, 3, 64 ) )
def test_other_row_counts( level, m_max, cmdline_opts ):
  """m_max is a parameter; one row more is refused."""
  cfg  = PRESETS["edge4"].but( m_max=m_max, name=f"rows{m_max}" )
  code = [ PASS.but( limit=m_max ), LOAD.but( rows=m_max, row_lines=1, dst=0, length=9 ),
           EMBED.but( vocab=200, dst=300, rows=m_max ),
           STORE.but( rows=0, src=0, row_lines=1, wait=int( Unit.LOAD ) ), LOAD.but( rows=m_max + 1 ), HALT ]
  world = World( cfg, Case( code, { "CONTEXT": 80, "PROGRAM": 40 }, prompt=range( 80 ) ) )
  assert ( world.expected[0].result.error, world.expected[0].result.pc ) == ( Error.BAD_SIZE, 4 )
  check_cycles( cfg, level, world, CALM, simulate( cfg, level, world, CALM, cmdline_opts ) )

@pytest.mark.parametrize( "level", LEVELS )
def test_smallest_scratchpad( level, cmdline_opts ):
  """4 KiB: the last row is taken, the one after it refused; strides are wider than its addresses."""
  cfg   = PRESETS["edge4"].but( spad_bytes=4096, m_max=3, name="small" )
  world = World( cfg, Case( [ LOAD.but( dst=252 ), STORE.but( src=252, wait=8 ),
                              LOAD.but( rows=3, dst=2, dst_stride=125 ), LOAD.but( dst_stride=0x100 ),
                              LOAD.but( rows=2, dst_stride=0x100, length=1, dst=0 ), HALT ] ) )
  assert ( world.expected[0].result.error, world.expected[0].result.pc ) == ( Error.BAD_SPAD, 4 )
  check_cycles( cfg, level, world, CALM, simulate( cfg, level, world, CALM, cmdline_opts ) )

def test_moves_by_numpy() -> None:
  """Where words go, from slices of arrays: what the world expects is what the instruction set says."""
  cfg   = PRESETS["edge8"]
  code  = waiting( [
    PASS.but( limit=2 ), ADVANCE, PASS,
    LOAD.but( rows=3, rel=Rel.POS, dram=100, row_lines=5, length=21, dst=40, dst_stride=4 ),
    EMBED.but( dram=200, vocab=9, row_lines=4, dst=60, dst_stride=5, length=8 ),
    STORE.but( rows=2, rel=Rel.LAST, dram=600, row_lines=7, length=19, src=41, src_stride=6 ), ARGMAX, EMIT ] )
  world  = World( cfg, Case( code, prompt=( 1, 2, 7, 0, 8 ), found=( 1234567, ) ) )
  before = np.frombuffer( world.memory, np.uint32 ).reshape( -1, 16 )
  spad   = np.frombuffer( world.spad, np.uint32 ).reshape( -1, 8 ).copy()
  for r in range( 3 ):
    line = before[100 + 5 * ( 2 + r ) : 102 + 5 * ( 2 + r )].reshape( -1 )
    spad[40 + 4 * r : 43 + 4 * r] = np.pad( line[:21], ( 0, 3 ) ).reshape( 3, 8 )
    spad[60 + 5 * r] = before[200 + 4 * ( 7, 0, 8 )[r]][:8]
  after = before.copy()
  for r in range( 2 ):
    after[600 + 7 * ( 2 + r ) :][:2].reshape( -1 )[:19] = spad[41 + 6 * r :][:3].reshape( -1 )[:19]
  after[2, 5] = 1234567
  #                        POS LEN  STATUS ERROR PC COUNT
  after[0, [ 0, 2, 3, 10, 11, 12, 13 ]] = 0, 2, 6, int( Status.LIMIT ), 0, 7, 1
  assert world.expected[0].memory == after.tobytes() and world.expected[0].spad == spad.tobytes()

#-------------------------------------------------------------------------
# Reset
#-------------------------------------------------------------------------

def check_reset( level: str, n: int, at: int, opts: dict ) -> None:
  cfg   = PRESETS[f"edge{n}"]
  world = World( cfg, Case( [ LOAD.but( length=300 ), STORE.but( length=300, src=200 ), *LOOP ], { "LIMIT": 2 } ) )
  check_cycles( cfg, level, world, WILD, simulate( cfg, level, world, WILD, opts, reset_at=at ), reset_at=at )

@pytest.mark.parametrize( ( "level", "at" ), [
  *( ( level, at ) for level in ( "fl", "cl", "verilog" ) for at in ( 3, 9, 17, 30, 61, 100, 140, 200, 260, 333 ) ),
  ( "rtl", 40 ), ( "rtl", 150 ) ] )
def test_reset_in_a_run( level, at, cmdline_opts ):
  """A reset in the middle, and the memory as it was: the next run is as the first would have been."""
  check_reset( level, 4, at, cmdline_opts )

@pytest.mark.nightly
@pytest.mark.parametrize( "level", ( "verilog", ) )
@pytest.mark.parametrize( "n", ( 4, 16 ) )
@pytest.mark.parametrize( "at", range( 1, 900, 7 ) )
def test_reset_at_length( level, n, at, cmdline_opts ):
  check_reset( level, n, at, cmdline_opts )
