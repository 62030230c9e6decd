"""The instruction stream of the whole NPU, fuzzed: random and mutated programs end alike at every level; none hangs.

A program ends with the status, error, PC and token count of NpuFL, with its memory and its scratchpad; and at the
levels below `cl`, in the same cycle as `cl`. A failure names the program's seed: `Programmer( SEED ).case( KIND )`.
"""

import random
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from types import TracebackType

import numpy as np
import pytest
from pymtl3 import mk_bits

from cl.memory.model import AccessError
from npu.arch.config import LINE_BYTES
from npu.arch.isa import Error, Status
from npu.arch.mailbox import Mailbox, Word
from npu.machine.simulation import Machine, TimedResult
from tests.machine.program_world import (
  CONFIG,
  CONTEXT,
  END_STATUSES,
  LINES,
  PROGRAM,
  WRITABLE,
  Case,
  Golden,
  cases,
  golden,
  loose_cases,
)

BEAT         = mk_bits( CONFIG.derived.beat_bits )
MAX_CYCLES   = 200_000
QUIET_CYCLES = 5_000
SHORT        = 1_500     # cycles; Python RTL is given programs that are no longer

class Bench:
  """One machine for many programs; each begins after a reset. A context manager."""

  def __init__( self, level: str ) -> None:
    self.level   = level
    self.machine = Machine( CONFIG, np.zeros( LINES * LINE_BYTES, dtype=np.uint8 ), level )

  def __enter__( self ) -> "Bench":
    return self

  def __exit__( self, kind: type[BaseException] | None, error: BaseException | None,
                where: TracebackType | None ) -> None:
    self.machine.close()

  def run( self, case: Case ) -> TimedResult:
    """Run a case; SimulationError if it hangs."""
    machine = self.machine
    machine.reset()
    machine.dram[:] = case.dram
    machine.npu.memory.spad.rows[:] = [ BEAT( int.from_bytes( row.tobytes(), "little" ) ) for row in case.spad ]
    return machine.run( max_cycles=MAX_CYCLES, quiet_cycles=QUIET_CYCLES )

  def check( self, gold: Golden ) -> TimedResult:
    """Run a case and compare everything that can be seen."""
    try:
      found, wants = self.run( gold.case ), gold.result
      assert ( found.status, found.error, found.pc, found.count ) \
          == ( wants.status, wants.error, wants.pc, wants.count )
      wrong = np.flatnonzero( self.machine.dram != gold.dram )
      assert not len( wrong ), f"byte {wrong[0]:#x} of the memory differs, and {len( wrong ) - 1} more"
      spad  = self.machine.npu.memory.spad.array()
      wrong = np.argwhere( spad != gold.spad )
      assert not len( wrong ), ( f"row {wrong[0][0]}, lane {wrong[0][1]} of the scratchpad is {spad[*wrong[0]]:#010x}, "
                                 f"not {gold.spad[*wrong[0]]:#010x}, and {len( wrong ) - 1} lanes more differ" )
    except Exception as e:
      e.add_note( f"level {self.level}; {gold.result}\n{gold.case.listing()}" )
      raise
    return found

#-------------------------------------------------------------------------
# Programs whose wait masks order what depends on each other
#-------------------------------------------------------------------------

def check_golden( gold: Golden ) -> None:
  """What must be so whatever the program: a legal end, and nothing written but where it may."""
  case, result, box = gold.case, gold.result, Mailbox( gold.dram )
  what = f"{result}\n{case.listing()}"
  assert result.status in END_STATUSES, what
  assert ( result.status == Status.ERROR ) == ( result.error != Error.NONE ), what
  assert ( box[Word.STATUS], box[Word.ERROR], box[Word.PC], box[Word.COUNT], box[Word.DOORBELL] ) \
      == ( result.status, result.error, result.pc, result.count, 0 ), what
  fixed = slice( PROGRAM * LINE_BYTES, WRITABLE * LINE_BYTES )
  assert np.array_equal( gold.dram[fixed], case.dram[fixed] ), what

def fuzz( level: str, count: int, first: int ) -> None:
  """Check programs at a level, the first of them drawn with seed `first`."""
  programs = cases( first )
  if level == "fl":
    # The golden model is this level; its blocks behind ports are slow, and get a part of the programs.
    with Bench( level ) as bench:
      for k, gold in enumerate( islice( programs, count ) ):
        check_golden( gold )
        if k % 25 == 0:
          bench.check( gold )
    return
  with Bench( level ) as bench, Bench( "cl" ) as timed:
    done = 0
    while done < count:
      gold = next( programs )
      if level != "cl":
        expect = timed.check( gold )
        if level == "rtl" and expect.stats.cycles > SHORT:
          continue
      found = bench.check( gold )
      if level != "cl":
        assert found.stats == expect.stats, gold.case.listing()
      done += 1

@pytest.mark.parametrize( ( "level", "count" ), [ ( "fl", 1000 ), ( "cl", 100 ), ( "rtl", 10 ), ( "verilog", 100 ) ] )
def test_programs( level, count ):
  fuzz( level, count, 0 )

@pytest.mark.nightly
@pytest.mark.parametrize( "part", range( 10 ) )
@pytest.mark.parametrize( ( "level", "count" ), [ ( "fl", 1000 ), ( "cl", 100 ), ( "rtl", 10 ), ( "verilog", 100 ) ] )
def test_more_programs( level, count, part ):
  fuzz( level, count, ( part + 1 ) << 20 )

#-------------------------------------------------------------------------
# Programs with any wait masks
#-------------------------------------------------------------------------

def ends( bench: Bench, programs: Iterator[Case], count: int ) -> None:
  """Every program ends in a legal way. Two units that write the same row in the same cycle are a fault of the program
  that the simulated scratchpad refuses: it ends there, and another is drawn; few do so."""
  done = refused = 0
  # What is computed from half-written rows may be anything.
  bench.machine.npu.memory.spad.fp32 = 0
  while done < count:
    case = next( programs )
    try:
      result = bench.run( case )
    except AccessError as e:
      if "both write row" in str( e ):
        refused += 1
        continue
      e.add_note( case.listing() )
      raise
    except Exception as e:
      e.add_note( case.listing() )
      raise
    assert result.status in END_STATUSES, case.listing()
    assert ( result.status == Status.ERROR ) == ( result.error != Error.NONE ), case.listing()
    assert Mailbox( bench.machine.dram )[Word.DOORBELL] == 0, case.listing()
    done += 1
  assert refused <= 2 + count // 5

@pytest.mark.parametrize( ( "level", "count" ), [ ( "cl", 50 ), ( "rtl", 2 ), ( "verilog", 50 ) ] )
def test_any_masks( level, count ):
  with Bench( level ) as bench:
    ends( bench, loose_cases( 0 ), count )

@pytest.mark.nightly
@pytest.mark.parametrize( ( "level", "count" ), [ ( "cl", 1000 ), ( "rtl", 20 ), ( "verilog", 1000 ) ] )
def test_more_with_any_masks( level, count ):
  with Bench( level ) as bench:
    ends( bench, loose_cases( 1 << 24 ), count )

#-------------------------------------------------------------------------
# The programs themselves
#-------------------------------------------------------------------------

def test_programs_are_of_all_kinds():
  """Every status and error comes up, good ends as often as bad ones, and most programs that are drawn are defined."""
  found = list( islice( cases( 0 ), 1000 ) )
  ended = Counter( g.result.error for g in found )
  assert { g.result.status for g in found } == set( END_STATUSES )
  assert set( ended ) == set( Error )
  assert ended[Error.NONE] > 300 and sum( g.result.pc > 3 for g in found ) > 400
  assert found[-1].case.seed < 1600

def test_programs_are_reproducible():
  seed = random.Random( 1 ).randrange( 1 << 30 )
  one, other = ( next( cases( seed ) ) for _ in range( 2 ) )
  assert np.array_equal( one.case.dram, other.case.dram ) and np.array_equal( one.spad, other.spad )
  again = golden( one.case )
  assert again is not None and np.array_equal( again.dram, one.dram )
  assert len( one.case.code() ) <= CONTEXT
