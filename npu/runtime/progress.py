"""How far a slow simulation is, and how long it may still take.

`Pace` scales the rest of a `Plan` by what the part that is done has taken, and `ProgressLine` shows it.
"""

import time
from collections.abc import Callable

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from npu.runtime.plan import Plan

class Pace:
  """Speed and time left of a run, from what is done."""

  def __init__( self, plan: Plan, clock: Callable[[], float] = time.monotonic ) -> None:
    self.plan   = plan
    self._clock = clock
    self._began = clock()

  def text( self, cycle: int, pc: int ) -> str:
    """The line: instruction, cycle, cycles per second, and the time that is left at most."""
    seconds = max( self._clock() - self._began, 1e-9 )
    parts   = [ f"instruction {pc} ({self.plan.done:,} of at most {self.plan.total:,})", f"cycle {cycle:,}",
                f"{cycle / seconds:,.0f} cycles/s" ]
    # Earlier, the time is mostly that of the first weights on their way.
    if self.plan.share > 0.005:
      parts.append( f"at most about {duration( seconds * ( 1 / self.plan.share - 1 ) )} left" )
    return ", ".join( parts )

def duration( seconds: float ) -> str:
  """A time for people: 8 s, 3 min, 2.5 h."""
  if seconds < 100:
    return f"{seconds:.0f} s"
  return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"

class ProgressLine:
  """A line on standard error while a simulation runs; a context manager.

  On a terminal it is one line that changes, below the text so far, gone at the end. Elsewhere a line is written now
  and then.

  Parameters
  ----------
  console
    Of standard error.
  pace
    Of the run.
  text
    The text so far, or nothing: shown only on a terminal.
  title
    In front of the line.
  seconds
    Between two lines, where there is no terminal.
  """

  def __init__( self, console: Console, pace: Pace, text: str = "", title: str = "", seconds: float = 10.0 ) -> None:
    self._console, self._pace, self._title, self._seconds = console, pace, title, seconds
    self._text = text
    self._line = ""
    self._told = float( "-inf" )
    self._live = Live( console=console, transient=True, auto_refresh=False, redirect_stdout=False,
                       redirect_stderr=False ) if console.is_terminal else None

  def __enter__( self ) -> "ProgressLine":
    if self._live:
      self._live.start()
      self._show()
    return self

  def __exit__( self, *_: object ) -> None:
    if self._live:
      self._live.stop()

  def add_text( self, text: str ) -> None:
    """More of the text."""
    self._text += text
    self._show()

  def __call__( self, cycle: int, pc: int ) -> None:
    """The run is so far: an `OnProgress`."""
    self._pace.plan.move( pc )       # every time, or it would miss a pass
    now = time.monotonic()
    if now - self._told < ( 0.2 if self._live else self._seconds ):
      return
    self._told = now
    self._line = self._title + self._pace.text( cycle, pc )
    if self._live:
      self._show()
    else:
      self._console.print( self._line, markup=False, soft_wrap=True )

  def _show( self ) -> None:
    if self._live:
      line = Text( self._line, style="dim", overflow="ellipsis", no_wrap=True )
      self._live.update( Group( Text( self._text ), line ) if self._text else line, refresh=True )
