"""The whole NPU: any mix of levels gives the tokens and the memory of NpuFL, and those with time the same cycles."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymtl3 import Component, InPort, OutPort, update_ff

from cl.memory.model import AccessError
from fl.npu import NpuFL
from fl.vector_unit import VectorUnitFL
from npu.arch.config import PRESETS
from npu.arch.isa import Error, Status
from npu.arch.mailbox import Flag, Mailbox, Word
from npu.errors import NpuError
from npu.machine.levels import BLOCKS, check_levels
from npu.machine.npu import CAUSES, SimulationError
from npu.machine.simulation import Machine
from tests.machine.world import ENGINES, PROMPT, check_run, golden, mk_images, prepare, simulate
from translation.levels import mk_dut, registered
from translation.simulate import WAVES, run

@pytest.fixture( scope="session" )
def images( tmp_path_factory ):
  return mk_images( tmp_path_factory.mktemp( "images" ) )

#-------------------------------------------------------------------------
# All levels
#-------------------------------------------------------------------------

@pytest.mark.parametrize( "level", ( "fl", "cl", "rtl", "verilog" ) )
def test_small_model( level, images ):
  simulate( images( "small" ), level, [ 3, 1, 4, 1, 5 ], 1 if level == "rtl" else 4 )

@pytest.mark.parametrize( ( "level", "n" ), [ ( "cl", 8 ), ( "cl", 16 ), ( "verilog", 8 ), ( "verilog", 16 ) ] )
def test_nano( level, n, images ):
  result = simulate( images( "nano", n ), level, PROMPT, 3 )
  if level == "verilog":
    assert result.stats == simulate( images( "nano", n ), "cl", PROMPT, 3 ).stats

@pytest.mark.parametrize( "level", ( "cl", "verilog" ) )
@pytest.mark.parametrize( "precision", ( "w16a16", "w8a8", "w4a16", "bf16" ) )
def test_precisions( level, precision, images ):
  image  = images( "nano", 16, precision )
  result = simulate( image, level, PROMPT, 2 )
  if level == "verilog":
    assert result.stats == simulate( image, "cl", PROMPT, 2 ).stats

@pytest.mark.parametrize( "level", ( "rtl", "verilog" ) )
@pytest.mark.parametrize( "block", ENGINES )
def test_one_block( level, block, images ):
  """One block at a lower level, the others at `cl`: the same cycles for everything."""
  image, tokens = images( "small" ), 1 if level == "rtl" else 2
  assert simulate( image, { block: level }, [ 3, 1 ], tokens, stall_seed=4 ).stats \
      == simulate( image, "cl", [ 3, 1 ], tokens, stall_seed=4 ).stats

@pytest.mark.parametrize( "block", ENGINES[:-1] )
def test_one_block_functional( block, images ):
  """One functional block among cycle-level ones, and the reverse."""
  simulate( images( "small" ), { block: "fl" }, [ 3, 1, 4, 1 ], 2 )
  simulate( images( "small" ), dict.fromkeys( ENGINES, "fl" ) | { block: "cl" }, [ 3, 1, 4, 1 ], 2 )

#-------------------------------------------------------------------------
# Timing
#-------------------------------------------------------------------------

TIMINGS: list[dict[str, Any]] = [
  { "latency": 1 }, { "latency": 200 }, { "bandwidth": 0.25 }, { "stall_seed": 1 },
  { "latency": 13, "bandwidth": 0.66, "stall_seed": 2 } ]

@pytest.mark.parametrize( "level", ( "fl", "cl", "verilog" ) )
@pytest.mark.parametrize( "timing", TIMINGS )
def test_timings( level, timing, images ):
  """Whatever the memory does, results are the same, and so are the cycles of the levels with time."""
  image  = images( "small" )
  result = simulate( image, level, [ 3, 1, 4, 1, 5 ], 3, **timing )
  if level == "verilog":
    assert result.stats == simulate( image, "cl", [ 3, 1, 4, 1, 5 ], 3, **timing ).stats

@pytest.mark.level( "cl" )
def test_figures( images ):
  """Work and traffic are NpuFL's, whatever the timing; cycles add up."""
  image = images( "nano" )
  gold  = golden( image, prepare( image, PROMPT, 4 ) )
  stats = simulate( image, "cl", PROMPT, 4 ).stats
  assert stats.macs == gold.npu.counters.macs
  assert stats.mac_utilization == stats.units["mac_array"].macs / ( 16 * stats.cycles )
  reads, writes = gold.npu.counters.dram_bytes_read, gold.npu.counters.dram_bytes_written
  assert { c: stats.dram_bytes_read[c] for c in ( "load", "kv", "weights" ) } \
      == { c: reads[c] for c in ( "load", "kv", "weights" ) }
  assert { c: stats.dram_bytes_written[c] for c in ( "kv_wr", "store" ) } == writes
  # The mailbox and prefetched instructions are not in NpuFL's count.
  assert stats.dram_bytes_read["fetch"] > reads["fetch"]
  assert len( stats.token_cycles ) == 4
  assert stats.token_cycles == sorted( set( stats.token_cycles ) )
  assert stats.prefill_cycles + sum( stats.decode_cycles ) == stats.token_cycles[-1] <= stats.cycles
  for unit in stats.units.values():
    assert sum( unit.stalls.values() ) <= unit.busy <= stats.cycles
    assert set( unit.stalls ) <= set( CAUSES )
  assert stats.dispatch_waits["MAC"] > 0

@pytest.mark.level( "cl" )
def test_memory_bound( images ):
  """A slow memory shows as cycles in which the array waits for data; a fast one does not."""
  image = images( "nano" )
  fast, slow = ( simulate( image, "cl", PROMPT[:1], 2, bandwidth=b ).stats for b in ( 1.0, 0.25 ) )
  assert slow.units["mac_array"].stalls["memory"] > fast.units["mac_array"].stalls["memory"] + 10_000
  assert slow.dispatch_waits["MAC"] > fast.dispatch_waits["MAC"]
  assert slow.cycles > 3 * fast.cycles

#-------------------------------------------------------------------------
# The host's side
#-------------------------------------------------------------------------

@pytest.mark.parametrize( "level", ( "fl", "cl", "verilog" ) )
def test_runs_follow_each_other( level, images ):
  """One machine, several doorbells: scoring pass by pass, then more tokens; each as NpuFL does it."""
  image = images( "small" )
  dram  = prepare( image, [ 3, 1, 4, 1, 5, 9, 2 ], 1, Flag.SCORE )
  gold  = NpuFL( image.cfg, dram.copy() )
  with Machine( image.cfg, dram, level ) as machine:
    for flags in ( Flag.SCORE, Flag.SCORE, Flag.SCORE, Flag( 0 ), Flag.LOGITS ):
      tokens: tuple[list[int], list[int]] = ( [], [] )
      for i, npu in enumerate( ( gold, machine ) ):
        npu.mailbox[Word.FLAGS], npu.mailbox[Word.DOORBELL] = flags, 1
        if flags != Flag.SCORE:
          npu.mailbox[Word.POS] = 0
        assert npu.run( tokens[i].append ).status == ( Status.SCORED if flags == Flag.SCORE else Status.LIMIT )
      assert tokens[0] == tokens[1]
      assert ( machine.dram == gold.dram ).all()

@pytest.mark.parametrize( "level", ( "fl", "cl", "verilog" ) )
@pytest.mark.parametrize( "cycles", ( 1, 40, 300, 901, 1500 ) )
def test_reset( level, cycles, images ):
  """A reset in the middle of a run leaves nothing behind: the next run is the same as the first, to the cycle."""
  image = images( "small" )
  dram  = prepare( image, [ 3, 1, 4, 1, 5 ], 2 )
  gold  = golden( image, dram )
  with Machine( image.cfg, dram.copy(), level ) as machine:
    first = check_run( image, machine, gold )
    machine.dram[:] = dram
    with pytest.raises( SimulationError, match=f"the run has not ended after {cycles} cycles" ):
      machine.run( max_cycles=cycles )
    machine.reset()
    machine.dram[:] = dram
    again = check_run( image, machine, gold )
    if level != "fl":
      assert again.stats == first.stats

@pytest.mark.parametrize( "level", ( "fl", "cl", "verilog" ) )
@pytest.mark.parametrize( ( "word", "value", "error" ), [
  ( Word.LIMIT, 0, Error.BAD_MAILBOX ), ( Word.PROGRAM_COUNT, 3, Error.BAD_PC ), ( Word.DRAM_LINES, 9, None ) ] )
def test_faults( level, word, value, error, images ):
  """A run that cannot be ends with its error in the mailbox, and the machine takes the next doorbell."""
  image = images( "small" )
  dram  = prepare( image, [ 3, 1, 4 ], 2 )
  right = int( Mailbox( dram )[word] )
  Mailbox( dram )[word] = value
  gold  = golden( image, dram )
  assert gold.result.status == Status.ERROR
  assert error in ( None, gold.result.error )
  with Machine( image.cfg, dram, level ) as machine:
    check_run( image, machine, gold )
    dram[:] = prepare( image, [ 3, 1, 4 ], 2 )
    assert machine.mailbox[word] == right
    check_run( image, machine, golden( image, dram ) )

@pytest.mark.level( "cl" )
def test_end_of_sequence( images ):
  image = images( "small" )
  token = golden( image, prepare( image, [ 3, 1 ], 1 ) ).tokens[0]
  dram  = prepare( image, [ 3, 1 ], 9, eos=[ 18, token ] )
  with Machine( image.cfg, dram.copy() ) as machine:
    assert check_run( image, machine, golden( image, dram ) ).status == Status.EOS

@pytest.mark.level( "cl" )
def test_progress_and_trace( images ):
  image = images( "small" )
  lines: list[str] = []
  seen: list[tuple[int, int]] = []
  with Machine( image.cfg, prepare( image, [ 3, 1 ], 1 ), trace=lines.append ) as machine:
    result = machine.run( progress=lambda cycle, pc: seen.append( ( cycle, pc ) ) )
  assert [ cycle for cycle, _ in seen ] == list( range( 256, result.stats.cycles + 1, 256 ) )
  assert { pc for _, pc in seen } <= set( range( machine.mailbox[Word.PROGRAM_COUNT] ) )
  assert len( lines ) == result.stats.cycles
  assert re.match( r" +[0-9]+: \[", lines[0] )

@pytest.mark.parametrize( "level", ( "cl", "verilog" ) )
def test_wave( level, images ):
  image = images( "small" )
  files = [ WAVES / f"test_npu_{level}.vcd" ]
  if level == "verilog":
    files.append( WAVES / f"test_npu_{level}.npu.mac_array.vcd" )
  for file in files:
    file.unlink( missing_ok=True )
  with Machine( image.cfg, prepare( image, [ 3 ], 1 ), { "mac_array": level }, wave=f"test_npu_{level}" ) as machine:
    machine.run()
  for file in files:
    assert "$enddefinitions" in file.read_text()

#-------------------------------------------------------------------------
# What goes wrong
#-------------------------------------------------------------------------

class DeafVectorUnit( VectorUnitFL ):
  """Accepts commands and never finishes one."""

  def process( s ) -> Any:
    """Answer, and forget."""
    while True:
      yield from s.recv( s.cmd_box )
      yield from s.send( s.ack_box, 0 )

class InventiveVectorUnit( VectorUnitFL ):
  """Finishes what nobody asked for."""

  def process( s ) -> Any:
    """No command, but done."""
    yield from s.send( s.done_box, 0 )
    while True:
      yield

class InfiniteVectorUnit( VectorUnitFL ):
  """Writes infinity."""

  def process( s ) -> Any:
    """Whatever it is told to do."""
    yield from s.recv( s.cmd_box )
    yield from s.write_matrix( 7, 0, np.full( ( 1, s.cfg.n ), 0x7F800000, dtype=np.uint32 ) )
    while True:
      yield

@pytest.mark.level( "cl" )
def test_hang( images ):
  """The report names the unit that is stuck and who waits for it."""
  image = images( "small" )
  with ( Machine( image.cfg, prepare( image, [ 3, 1 ], 1 ), classes={ "vector_unit": DeafVectorUnit } ) as machine,
         pytest.raises( SimulationError ) as caught ):
    machine.run( quiet_cycles=2000 )
  message = str( caught.value )
  assert "\n" not in message
  assert re.match( r"nothing has moved for 2000 cycles, in cycle [0-9]+: instruction [0-9]+ waits for VEC; ", message )
  assert re.search( r"vector_unit: [0-9] commands to finish", message )

@pytest.mark.level( "cl" )
def test_invented_completion( images ):
  image = images( "small" )
  with ( Machine( image.cfg, prepare( image, [ 3 ], 1 ), classes={ "vector_unit": InventiveVectorUnit } ) as machine,
         pytest.raises( SimulationError, match=r"cycle [0-9]+: vector_unit has finished a command that it did not" ) ):
    machine.run()

@pytest.mark.level( "cl" )
def test_infinity( images ):
  image = images( "small" )
  with ( Machine( image.cfg, prepare( image, [ 3 ], 1 ), classes={ "vector_unit": InfiniteVectorUnit } ) as machine,
         pytest.raises( AccessError, match=r"scratchpad, cycle [0-9]+: vec writes 0x7f800000 \(NaN or infinity\)" ) ):
    machine.run()

@pytest.mark.parametrize( ( "levels", "message" ), [
  ( "gate",              "unknown level 'gate'; choose one of fl, cl, rtl, verilog" ),
  ( { "mac": "cl" },     f"unknown block 'mac'; choose one of {', '.join( BLOCKS )}" ),
  ( { "controller": 1 }, "unknown level '1'; choose one of fl, cl, rtl, verilog" ),
] )
def test_bad_levels( levels, message ):
  with pytest.raises( NpuError, match=f"^{re.escape( message )}$" ):
    check_levels( levels )

def test_bad_memory( tmp_path: Path ):
  with pytest.raises( NpuError, match=r"memory is uint8 \[100\]; it must be uint8, whole beats of 16 bytes" ):
    Machine( PRESETS["edge4"], np.zeros( 100, dtype=np.uint8 ), "fl" )

#-------------------------------------------------------------------------
# Verilated blocks at the clock edge
#-------------------------------------------------------------------------

class PassRTL( Component ):
  """An output that follows an input in the same cycle."""

  def construct( s ) -> None:
    s.in_ = InPort( 8 )
    s.out = OutPort( 8 )
    s.out //= s.in_

class CountRTL( Component ):
  """An output that counts."""

  def construct( s ) -> None:
    s.in_ = InPort( 8 )
    s.out = OutPort( 8 )

    @update_ff
    def ff_count() -> None:
      if s.reset:
        s.out <<= 0
      else:
        s.out <<= s.out + s.in_

class Counting( Component ):
  """Drives a block of that class with the cycle."""

  def construct( s, cls: Any, wrap: Any ) -> None:
    s.dut = wrap( mk_dut( cls, "verilog" ) )
    s.now = OutPort( 8 )
    s.seen: list[int] = []
    s.dut.in_ //= s.now

    @update_ff
    def ff_now() -> None:
      if s.reset:
        s.now <<= 0
      else:
        s.now <<= s.now + 1
        s.seen.append( int( s.dut.out ) )

  def done( s ) -> bool:
    """After 300 cycles."""
    return len( s.seen ) == 300

@pytest.mark.level( "verilog" )
def test_registered():
  """What a block with registers at its outputs does does not depend on how it is imported."""
  worlds = [ Counting( CountRTL, wrap ) for wrap in ( registered, lambda dut: dut ) ]
  for world in worlds:
    run( world, 400 )
  assert worlds[0].seen[:300] == worlds[1].seen[:300] == [ sum( range( i ) ) % 256 for i in range( 300 ) ]

@pytest.mark.level( "verilog" )
def test_not_registered():
  """A block whose outputs follow its inputs cannot be imported so, and that is noticed."""
  with pytest.raises( NpuError, match="output out follows an input within a cycle" ):
    run( Counting( PassRTL, registered ), 400 )
