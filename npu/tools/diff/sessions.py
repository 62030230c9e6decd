"""Two sessions with one prompt, run and compared: what `npu diff` does."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fl.npu import NpuFL, Result
from npu.arch.config import LINE_BYTES
from npu.compiler.image import Image
from npu.errors import NpuError
from npu.runtime.progress import OnProgress
from npu.runtime.session import Session, SimOptions
from npu.tools.diff.difference import Comparison, Difference, show_result, show_word
from npu.tools.diff.follower import MAILBOX_BYTES, Follower
from npu.tools.diff.recording import Recording
from npu.tools.diff.walk import Walk

class _Found( Exception ):
  # Ends a simulation: the first difference is known.
  pass

@dataclass( frozen=True )
class Report:
  """What a comparison found.

  Attributes
  ----------
  instructions
    With results, compared and the same.
  difference
    The first difference, or None.
  ends
    Of a and b: how the run ended, in words.
  tokens, cycles
    Of a and b, as far as they ran: tokens, and cycles, None at the functional level.
  """
  instructions: int
  difference: Difference | None
  ends: tuple[str, str]
  tokens: tuple[list[int], list[int]]
  cycles: tuple[int | None, int | None]

class _Side:
  # One of the two NPUs: its session, its walk, and its recording if it is a machine.

  def __init__( self, load: Callable[[], Image], levels: Mapping[str, str] | None, options: SimOptions ) -> None:
    self.session = Session( load(), levels, options )
    self.tokens: list[int] = []
    self.cycle: int | None = None
    self.result: Result | None = None
    self.recording: Recording | None = None
    if self.session.machine:
      # What the instructions have written is kept apart from the machine's memory, which is ahead of it.
      self.shadow    = load().dram
      self.recording = Recording()
      self.recording.listen( self.session.machine )

  def prepare( self, prompt: list[int], limit: int, eos: tuple[int, ...] ) -> None:
    """Everything for the doorbell."""
    session = self.session
    session.load_prompt( prompt )
    session.prepare( limit, 0, eos )
    if self.recording:
      core: NpuFL = Follower( session.cfg, self.shadow, self.recording )
      self.shadow[:MAILBOX_BYTES] = session.dram[:MAILBOX_BYTES]
      core.mailbox.tokens[:] = session.npu.mailbox.tokens
    else:
      assert isinstance( session.npu, NpuFL )
      core = session.npu
    self.walk = Walk( core )

  def run( self, watch: Callable[[], None], on_progress: OnProgress | None ) -> None:
    """Simulate the machine to the end, or until `watch` raises _Found."""
    assert self.session.machine and self.recording

    def progress( cycle: int, pc: int ) -> None:
      self.cycle = cycle
      if on_progress:
        on_progress( cycle, pc )
      watch()

    options = self.session.options
    try:
      found = self.session.machine.run( self.tokens.append, progress, options.max_cycles, options.hang_cycles )
    except NpuError as e:
      self.recording.end = str( e )
    else:
      self.cycle  = found.stats.cycles
      self.result = Result( found.status, found.error, found.pc, found.count )
      self.recording.end = f"the run has ended: {show_result( self.result )}"

  def finish( self ) -> None:
    """The walk has come to its end."""
    core = self.walk.core
    if not self.recording:
      self.result = self.walk.result
      self.walk.write_mailbox()
      self.tokens = [ int( t ) for t in core.mailbox.tokens[core.r.len - core.r.count : core.r.len] ]

  def end( self ) -> str:
    """How the run has ended, in words."""
    if self.recording and not self.result:
      return self.recording.end or show_result( None )
    return show_result( self.result )

  def spad( self ) -> NDArray[np.uint32]:
    """The scratchpad as it is."""
    if self.session.machine:
      found: NDArray[np.uint32] = self.session.machine.npu.memory.spad.array()
      return found
    return self.walk.core.spad

def compare_levels( load: Callable[[], Image], a: Mapping[str, str] | None, b: Mapping[str, str] | None,
                    prompt: list[int], max_new_tokens: int, stop_at_eos: bool = True,
                    options: SimOptions | None = None,
                    watching: Callable[[Session, str], AbstractContextManager[OnProgress | None]] | None = None
                    ) -> Report:
  """Run a greedy generation on two NPUs and compare what every instruction wrote.

  Parameters
  ----------
  load
    Makes a new copy of the image, for each NPU and for what is kept beside a machine.
  a, b
    Levels by block; None is the functional NPU.
  watching
    ( session, "a" or "b" ): a context in which that machine runs, with what is called while it does.

  Raises
  ------
  NpuError
    The prompt is refused, or a machine cannot be built. A machine that fails while it runs is a difference.
  """
  options = options or SimOptions()
  with ExitStack() as stack:
    sides = _Side( load, a, options ), _Side( load, b, options )
    for side in sides:
      stack.callback( side.session.close )
    first = sides[0].session
    first.check_prompt( prompt, max_new_tokens )
    eos   = tuple( first.manifest["dimensions"]["eos_tokens"] ) if stop_at_eos else ()
    for side in sides:
      side.prepare( prompt, max_new_tokens, eos )
    found = Comparison( sides[0].walk, sides[1].walk )

    def watch() -> None:
      found.advance()
      if found.difference:
        raise _Found

    # The functional NPU only walks. Of two machines the faster one runs first: only the second one can end early.
    machines = sorted( ( s for s in sides if s.recording ), key=lambda s: speed( s.session ) )
    for side in machines:
      seen = watching( side.session, "ab"[sides.index( side )] ) if watching else nullcontext()
      with seen as told, suppress( _Found ):
        side.run( watch if side is machines[-1] else _nothing, told )
    found.advance()
    for side in sides:
      side.finish()
    difference = found.difference or _at_the_end( sides, found.count )
    x, y = sides
    return Report( found.count, difference, ( x.end(), y.end() ), ( x.tokens, y.tokens ), ( x.cycle, y.cycle ) )

def _nothing() -> None:
  pass

def speed( session: Session ) -> int:
  """A number for the slowest level of a session's blocks: the larger, the slower."""
  return max( ( "cl", "fl", "verilog", "rtl" ).index( level ) for level in ( session.levels or { "": "fl" } ).values() )

COMPARED_BYTES = 1 << 24       # at a time

def _at_the_end( sides: tuple[_Side, _Side], count: int ) -> Difference | None:
  # No instruction differs: how the runs ended, and what is in the memories.
  if sides[0].result != sides[1].result:
    return Difference( None, count, "they end differently", *( s.end() for s in sides ) )
  a, b = ( s.session.dram for s in sides )
  for low in range( 0, len( a ), COMPARED_BYTES ):
    x, y = ( m[low : low + COMPARED_BYTES].view( np.uint32 ) for m in ( a, b ) )
    if len( bad := np.flatnonzero( x != y ) ):
      at = low + 4 * int( bad[0] )
      return Difference( None, count, f"in the end, memory line {at // LINE_BYTES:#x}, byte {at % LINE_BYTES}",
                         show_word( int( x[bad[0]] ) ), show_word( int( y[bad[0]] ) ) )
  x, y = ( s.spad() for s in sides )
  if len( wrong := np.argwhere( x != y ) ):
    row, lane = ( int( k ) for k in wrong[0] )
    return Difference( None, count, f"in the end, scratchpad row {row:#x}, lane {lane}",
                       show_word( int( x[row, lane] ) ), show_word( int( y[row, lane] ) ) )
  return None
