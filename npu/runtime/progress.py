"""How far a slow simulation is, and how long it may still take.

The path of a run through its program is known beforehand but for the end: `steps` walks it without computing
anything. A `Plan` weighs every step with a rough number of cycles, `Pace` scales the rest by what the part that is done
has taken, and `ProgressLine` shows it.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from fl.controller import Fault, Registers, boot, control, holds
from npu.arch.config import CHUNK, LINE_BYTES, NpuConfig, ceil_div
from npu.arch.footprint import footprint, gemm_layout
from npu.arch.isa import INSTRUCTION_BYTES, BadInstruction, Instruction, Status, Unit, decode
from npu.arch.mailbox import MAILBOX_WORDS, Mailbox, Word

OnProgress = Callable[[int, int], None]       # cycle of the run, and the instruction that is dealt with

def steps( dram: NDArray[np.uint8], words: NDArray[np.uint8] ) -> Iterator[tuple[int, Instruction, Registers]]:
  """The instructions of a run in their order: (pc, instruction, registers before it), those included whose condition
  does not hold. A fault that shows in the registers ends it. Nothing is written.

  Parameters
  ----------
  dram
    With the program.
  words
    The bytes of the mailbox at the doorbell. End-of-sequence tokens do not count: the run goes on to its limit or the
    end of the context.
  """
  box    = words[: 4 * MAILBOX_WORDS].copy()
  status = Status.RUNNING
  try:
    r     = boot( Mailbox( box ) )
    r.eos = ()
    while status == Status.RUNNING:
      start = r.program * LINE_BYTES + r.pc * INSTRUCTION_BYTES
      if r.pc >= r.program_count:
        return
      pc, i = r.pc, decode( dram[start : start + INSTRUCTION_BYTES].tobytes() )
      yield pc, i, r
      if i.format.unit == Unit.CTRL and holds( int( i.cond ), r ):
        status = control( i, r, {} )      # type: ignore[arg-type]
      else:
        r.pc += 1
  except ( Fault, BadInstruction ):
    return

def instructions_of( dram: NDArray[np.uint8], words: NDArray[np.uint8], tokens: int ) -> int:
  """Instructions fetched by a run that has produced `tokens` tokens and then ended without an error; as in `steps`."""
  words = words.copy()
  Mailbox( words )[Word.LIMIT] = max( tokens, 1 )
  return sum( 1 for _ in steps( dram, words ) )

def cost( cfg: NpuConfig, i: Instruction, r: Registers ) -> float:
  """About how many cycles an instruction takes: what memory, multipliers or lanes need at least, and a start."""
  if not holds( int( i.cond ), r ):
    return 2
  rows = int( i.rows ) or r.rows
  if i.format.unit == Unit.CTRL or rows == 0:
    return 5
  start = 20 + cfg.dram_latency
  if i.format.unit == Unit.MAC:
    beats = gemm_layout( cfg, i ).total_bytes / cfg.derived.beat_bytes
    return start + max( beats / cfg.dram_bandwidth, rows * int( i.k ) * int( i.cols ) / cfg.n ** 2 )
  if i.format.unit == Unit.ATT:
    chunks = ceil_div( r.pos + rows, CHUNK )
    beats  = int( i.kv_heads ) * chunks * 4 * CHUNK * int( i.length ) / cfg.derived.beat_bytes
    tiles  = rows * int( i.heads ) * chunks * 2 * CHUNK * int( i.length ) / cfg.n ** 2
    return start + max( beats / cfg.dram_bandwidth, tiles )
  # A matrix of the scratchpad, about twice, as most vector instructions have two sweeps.
  return start + 2 * sum( a.high - a.low for a in footprint( cfg, i, rows, 0 ) if a.space == "spad" and a.write )

class Plan:
  """What a run will execute at most, and how far it is.

  Attributes
  ----------
  total
    Instructions.
  done
    Of them, before the one that is dealt with.
  """

  def __init__( self, cfg: NpuConfig, dram: NDArray[np.uint8] ) -> None:
    walk = [ ( pc, cost( cfg, i, r ) ) for pc, i, r in steps( dram, dram ) ]
    self.total = len( walk )
    self.done  = 0
    self._cost = np.concatenate( [ [ 0.0 ], np.cumsum( [ c for _, c in walk ] ) ] )
    self._at: dict[int, list[int]] = {}
    for place, ( pc, _ ) in enumerate( walk ):
      self._at.setdefault( pc, [] ).append( place )

  def move( self, pc: int ) -> None:
    """The run deals with the instruction at `pc`: from the last place on, the next one with it."""
    places = self._at.get( pc, [] )
    next_  = bisect_left( places, self.done )
    if next_ < len( places ):
      self.done = places[next_]

  @property
  def share( self ) -> float:
    """Of the whole work, 0 to 1."""
    return float( self._cost[self.done] / max( self._cost[-1], 1.0 ) )

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
