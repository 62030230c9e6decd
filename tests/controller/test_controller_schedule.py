"""What the controller does at the same time, what it waits for, and how long that takes."""

from itertools import pairwise
from typing import Any

import pytest

from npu.arch.config import PRESETS
from npu.arch.isa import Unit
from tests.controller.instructions import ATT, BUSY, COPY, GEMM, HALT, LOAD, PASS, STORE, WAIT
from tests.controller.rows import ROWS
from tests.controller.simulation import simulate
from tests.controller.world import CALM, Case, Timing, World

CLOCKED = ( "cl", "rtl", "verilog" )

def times( events: list[tuple], *what: Any ) -> list[int]:
  """Cycles in which something happened."""
  return [ e[0] for e in events if e[1 : 1 + len( what )] == what ]

def events_of( level: str, code: list, timing: Timing, opts: dict, **words: int ) -> list[tuple]:
  cfg = PRESETS["edge4"]
  return simulate( cfg, level, World( cfg, Case( code, words ) ), timing, opts )

# From reset to the end of the run, with a memory of latency 5 at n = 4.
CYCLES = {
  "halt":             33,
  "load":             50,
  "embed":            71,
  "store":            45,
  "gemm":             48,
  "vector":           47,
  "basic":            55,
  "lengths":         515,
  "long_program":    233,    # two a control instruction
  "jump_far":         49,
  "loop":            725,
}

@pytest.mark.parametrize( "level", CLOCKED )
@pytest.mark.parametrize( "name", sorted( CYCLES ) )
def test_cycles( level, name, cmdline_opts ):
  ( case, timing ), = ( ( case, timing ) for row, _, _, case, timing in ROWS if row == name )
  cfg = PRESETS["edge4"]
  assert simulate( cfg, level, World( cfg, case ), timing, cmdline_opts )[-1][0] == CYCLES[name]

@pytest.mark.parametrize( "level", CLOCKED )
def test_units_work_at_the_same_time( level, cmdline_opts ):
  """Without wait masks, everything is dispatched long before the first of it is finished."""
  events = events_of( level, [ *BUSY, HALT ], Timing( work=400 ), cmdline_opts )
  first  = min( t for u in ( "MAC", "VEC", "ATT" ) for t in times( events, f"{u} done" ) )
  for what in ( "MAC command", "MAC start", "VEC command", "ATT command", "load", "spad_rd" ):
    assert times( events, what )[0] < first - 200

@pytest.mark.parametrize( "level", CLOCKED )
def test_gemm_is_sent_before_it_may_start( level, cmdline_opts ):
  """Its weights stream while the vector unit works; what writes memory must be finished, though."""
  events = events_of( level, [ COPY, GEMM.but( wait=int( Unit.VEC ) ), HALT ], Timing( work=100 ), cmdline_opts )
  assert times( events, "MAC command" )[0] < times( events, "VEC done" )[0] - 80
  assert times( events, "VEC done" )[0] < times( events, "MAC start" )[0]
  events = events_of( level, [ PASS, ATT, GEMM.but( wait=int( Unit.ATT ) ), HALT ], Timing( work=100 ), cmdline_opts )
  assert times( events, "ATT done" )[0] < times( events, "MAC command" )[0]

@pytest.mark.parametrize( "level", CLOCKED )
@pytest.mark.parametrize( "unit", ( Unit.MAC, Unit.VEC, Unit.ATT, Unit.LOAD, Unit.STORE ) )
def test_waits_says_which_unit( level, unit, cmdline_opts ):
  """The port names the unit while it is waited for, and only then."""
  code   = [ PASS, *[ i for i in BUSY if i.format.unit == unit ], WAIT.but( wait=int( unit ) ), HALT ]
  events = [ e for e in events_of( level, code, Timing( work=100, gap=9 ), cmdline_opts ) if e[1] == "pc, waits" ]
  masks  = { e[3] for e in events }
  assert int( unit ) in masks and masks <= { 0, int( unit ), *( [ int( Unit.LOAD ) ] if unit == Unit.LOAD else [] ) }
  waited = sum( b[0] - a[0] for a, b in pairwise( events ) if a[3] == unit and a[2] == len( code ) - 2 )
  assert waited > 50

@pytest.mark.parametrize( "level", CLOCKED )
def test_no_waits_without_masks( level, cmdline_opts ):
  """A program that depends on nothing waits for nothing until it ends."""
  events = events_of( level, [ PASS, COPY, GEMM, LOAD, STORE.but( src=300 ), ATT, HALT ], Timing( work=3 ),
                      cmdline_opts )
  assert { e[3] for e in events if e[1] == "pc, waits" and e[2] < 6 } == { 0 }

@pytest.mark.parametrize( "level", CLOCKED )
def test_loads_stream( level, cmdline_opts ):
  """A long LOAD takes a beat a cycle, whatever the latency; many rows of one beat are not much slower."""
  for code, beats, slack in ( ( [ LOAD.but( length=4000 ), HALT ], 1000, 150 ),
                              ( [ LOAD.but( rows=16, row_lines=3, length=160, dst_stride=40 ), HALT ], 640, 200 ) ):
    done = times( events_of( level, code, Timing( latency=40 ), cmdline_opts ), "spad_wr" )
    assert len( done ) == beats and done[-1] - done[0] < beats + slack

@pytest.mark.parametrize( "level", CLOCKED )
def test_stores_stream( level, cmdline_opts ):
  """A long STORE writes a beat a cycle."""
  done = times( events_of( level, [ STORE.but( length=4000 ), HALT ], CALM, cmdline_opts ), "store" )
  assert len( done ) == 1000 and done[-1] - done[0] < 1020

@pytest.mark.parametrize( "level", CLOCKED )
def test_loads_queue( level, cmdline_opts ):
  """A second LOAD is accepted while the first is at work, so that what follows is not held up."""
  events = events_of( level, [ LOAD.but( length=400 ), LOAD, COPY, HALT ], Timing( gap=4 ), cmdline_opts )
  assert times( events, "VEC command" )[0] < times( events, "spad_wr" )[-1] - 200
