"""How long the vector unit takes, and that it is busy all the time."""

import pytest

from npu.arch.config import PRESETS
from tests.vector_unit.cycles import section
from tests.vector_unit.rows import ROWS
from tests.vector_unit.world import Vec, World, simulate

# A scratchpad that never stalls, at n = 4; from reset to the last completion.
CYCLES = {
  "copy":    21,     # mostly the check of the command, seven cycles, and the lanes, eight
  "add":     25,     # 6 rows
  "swiglu":  57,     # 6 rows, 4 cycles each
  "rmsnorm": 72,
  "softmax": 83,
  "argmax":  22,
  "heads":   72,     # 24 rows, twice
  "tails":   535,
  "hasty":   196,
}

@pytest.mark.parametrize( "level", ( "cl", "verilog" ) )
@pytest.mark.parametrize( "name", sorted( CYCLES ) )
def test_cycles( level, name ):
  cfg   = PRESETS["edge4"]
  world = World( cfg, next( commands for row, commands, _ in ROWS if row == name ) )
  assert simulate( cfg, level, world ).cycles == CYCLES[name]

# Passes over a long segment, at a row a cycle: for maxima, sums and results. SWIGLU has n/4 special-function pipes.
PASSES = { "COPY": 1, "ADD": 1, "MUL": 1, "SCALE": 1, "CONVERT": 1, "ROPE": 1, "ARGMAX": 1, "QUANTIZE": 1, "RMSNORM": 2,
           "SOFTMAX": 3, "SWIGLU": 4 }

@pytest.mark.parametrize( "level", ( "cl", "verilog" ) )
@pytest.mark.parametrize( "segments", ( 1, 5 ) )
@pytest.mark.parametrize( "op", sorted( PASSES ) )
def test_no_bubbles( level, op, segments ):
  """Ten more rows in each segment cost just their passes, and the scan of the first segment for exponents."""
  cfg   = PRESETS["edge4"]
  count = 1 if op == "ARGMAX" else segments
  mode  = { "QUANTIZE": 16, "ARGMAX": 1 }.get( op, 0 )
  short, long = ( simulate( cfg, level, World( cfg, [ Vec( op, length=length, segments=segments, mode=mode ) ] ) )
                  for length in ( 200, 240 ) )
  scan  = 1 if op in ( "QUANTIZE", "RMSNORM" ) else 0
  assert long.cycles - short.cycles == 10 * ( PASSES[op] * count + scan )

@pytest.mark.nightly
@pytest.mark.level( "verilog" )
def test_cycle_table():
  """The table of docs/cycles.md, which is measured on CL, is that of the Verilog."""
  assert section( "verilog" ) == section( "cl" )

@pytest.mark.parametrize( "level", ( "cl", "verilog" ) )
def test_two_commands_wait( level ):
  """Commands are taken and answered while an earlier one is at work."""
  cfg   = PRESETS["edge4"]
  found = simulate( cfg, level, World( cfg, [ Vec( "SOFTMAX", rows=8, length=40 ), Vec( "COPY" ), Vec( "ADD" ) ] ) )
  assert found.commands[2] < found.dones[0]
  assert found.acks[2] < found.dones[0]
