"""What a run will execute: its path through the program, without computing anything.

The path is known beforehand but for the end: `steps` walks it, and a `Plan` weighs every step with a rough number of
cycles.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

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
