"""Two NPUs with one prompt, run and compared: what `npu diff` does."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl.npu import NpuFL, Result
from npu.arch.config import LINE_BYTES, NpuConfig
from npu.arch.isa import disassemble
from npu.compiler.build import Progress
from npu.compiler.image import Image
from npu.compiler.precision import DEFAULT_PRECISION
from npu.errors import NpuError
from npu.machine.levels import check_levels, parse_levels
from npu.runtime.device import Device, SimOptions
from npu.runtime.images import check_same_model, image_file, load
from npu.runtime.plan import OnProgress
from npu.runtime.text import TextCodec
from npu.tools.diff.difference import Comparison, Difference, show_result, show_word
from npu.tools.diff.follower import MAILBOX_BYTES, Follower
from npu.tools.diff.recording import Recording
from npu.tools.diff.walk import Walk

Watching = Callable[[Device, str], AbstractContextManager[OnProgress | None]]

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

  def lines( self, a: str = "a", b: str = "b" ) -> Iterator[str]:
    """For people; `a` and `b` say what the levels were."""
    if self.difference:
      yield from self.difference.lines( ( a, b ) )
      return
    yield f"no difference: {self.instructions:,} instructions compared; both end with {self.ends[0]}"
    for label, name, cycles in ( ( "a", a, self.cycles[0] ), ( "b", b, self.cycles[1] ) ):
      yield f"  {label} {name}: " + ( "without cycles" if cycles is None else f"{cycles:,} cycles" )

  def to_json( self ) -> dict[str, Any]:
    """As `npu diff --json` writes it, below the levels."""
    d = self.difference
    found = None if d is None else {
      "instruction": d.effect and d.effect.pc, "text": d.effect and disassemble( d.effect.instruction ),
      "position": d.effect and d.effect.pos, "rows": d.effect and d.effect.rows, "where": d.where, "a": d.a,
      "b": d.b, "note": d.note }
    return { "same": d is None, "instructions": self.instructions, "difference": found, "ends": list( self.ends ),
             "tokens": list( self.tokens ), "cycles": list( self.cycles ) }

class _Side:
  # One of the two NPUs: its device, its walk, and its recording if it is a machine.

  def __init__( self, load: Callable[[], Image], levels: Mapping[str, str] | None, options: SimOptions ) -> None:
    self.device = Device( load(), levels, options )
    self.tokens: list[int] = []
    self.cycle: int | None = None
    self.result: Result | None = None
    self.recording: Recording | None = None
    if self.device.machine:
      # What the instructions have written is kept apart from the machine's memory, which is ahead of it.
      self.shadow    = load().dram
      self.recording = Recording()
      self.recording.listen( self.device.machine )

  def prepare( self, prompt: list[int], limit: int, eos: tuple[int, ...] ) -> None:
    """Everything for the doorbell."""
    session = self.device
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
    assert self.device.machine and self.recording

    def progress( cycle: int, pc: int ) -> None:
      self.cycle = cycle
      if on_progress:
        on_progress( cycle, pc )
      watch()

    options = self.device.options
    try:
      found = self.device.machine.run( self.tokens.append, progress, options.max_cycles, options.hang_cycles )
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
    if self.device.machine:
      found: NDArray[np.uint32] = self.device.machine.npu.memory.spad.array()
      return found
    return self.walk.core.spad

def compare_levels( load: Callable[[], Image], a: Mapping[str, str] | None, b: Mapping[str, str] | None,
                    prompt: list[int], max_new_tokens: int, stop_at_eos: bool = True,
                    options: SimOptions | None = None,
                    watching: Watching | None = None
                    ) -> Report:
  """Run a greedy generation on two NPUs and compare what every instruction wrote.

  Parameters
  ----------
  load
    Makes a new copy of the image, for each NPU and for what is kept beside a machine.
  a, b
    Levels by block; None is the functional NPU.
  watching
    ( device, "a" or "b" ): a context in which that machine runs, with what is called while it does.

  Raises
  ------
  NpuError
    The prompt is refused, or a machine cannot be built. A machine that fails while it runs is a difference.
  """
  options = options or SimOptions()
  with ExitStack() as stack:
    sides = _Side( load, a, options ), _Side( load, b, options )
    for side in sides:
      stack.callback( side.device.close )
    first = sides[0].device
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
    machines = sorted( ( s for s in sides if s.recording ), key=lambda s: speed( s.device ) )
    for side in machines:
      seen = watching( side.device, "ab"[sides.index( side )] ) if watching else nullcontext()
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

def speed( device: Device ) -> int:
  """A number for the slowest level of a device's blocks: the larger, the slower."""
  return max( ( "cl", "fl", "verilog", "rtl" ).index( level ) for level in ( device.levels or { "": "fl" } ).values() )

COMPARED_BYTES = 1 << 24       # at a time

def _at_the_end( sides: tuple[_Side, _Side], count: int ) -> Difference | None:
  # No instruction differs: how the runs ended, and what is in the memories.
  if sides[0].result != sides[1].result:
    return Difference( None, count, "they end differently", *( s.end() for s in sides ) )
  a, b = ( s.device.dram for s in sides )
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

def diff( model: str | Path, prompt: str | Sequence[int], a: str | Mapping[str, str] | None = "fl",
          b: str | Mapping[str, str] | None = "cl", *, max_new_tokens: int = 4, stop_at_eos: bool = True,
          image: str | Path | None = None, precision: str = DEFAULT_PRECISION, config: str | NpuConfig | None = None,
          context: int | None = None, pass_rows: int | None = None, options: SimOptions | None = None,
          watching: Watching | None = None, progress: Progress | None = None ) -> Report:
  """Run a greedy generation on two NPUs and name the first instruction whose result differs.

  Parameters
  ----------
  model
    A checkpoint folder or an embedded model's name.
  prompt
    Text, or tokens.
  a, b
    Level of all blocks, or levels by block (`mac_array=rtl,...`, or a mapping); None is the functional NPU.
  image
    The file of an image of `model`, to use instead of compiling it.
  precision, config, context, pass_rows, progress
    As for `npu.compile`.
  options, watching
    As for `compare_levels`, whose errors these are too.
  """
  levels_a, levels_b = ( parse_levels( x ) if isinstance( x, str ) else None if x is None else check_levels( x )
                         for x in ( a, b ) )
  tokens = TextCodec( str( model ) ).encode( prompt ) if isinstance( prompt, str ) else list( prompt )
  with image_file( model, image, precision=precision, config=config, context=context, pass_rows=pass_rows,
                   progress=progress ) as path:
    check_same_model( model, load( path ) )
    return compare_levels( lambda: load( path ), levels_a, levels_b, tokens, max_new_tokens, stop_at_eos, options,
                           watching )
