"""What a difference is, how it is told, and the comparison of two walks that finds it."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fl.npu import NpuFL, Result
from npu.arch.config import LINE_BYTES
from npu.arch.footprint import Access
from npu.arch.isa import Error, Status, disassemble
from npu.tools.diff.follower import Follower, Incomplete
from npu.tools.diff.walk import Effect, Walk

@dataclass( frozen=True )
class Difference:
  """The first thing that differs.

  Attributes
  ----------
  effect
    The instruction, as `a` has executed it; None if no instruction's result differs but something at the end.
  number
    Instructions with results before it.
  where
    What differs, in words.
  a, b
    Both values, in words.
  note
    How much more of the same result differs, or nothing.
  """
  effect: Effect | None
  number: int
  where: str
  a: str
  b: str
  note: str = ""

  def lines( self, names: tuple[str, str] ) -> Iterator[str]:
    """For people; `names` are the levels of both."""
    if self.effect:
      e = self.effect
      yield f"instruction {e.pc} differs, after {self.number} instructions without a difference"
      yield f"  {disassemble( e.instruction )}"
      yield f"  position {e.pos}, {e.rows} rows"
    else:
      yield f"the runs differ, after {self.number} instructions without a difference"
    yield f"  {self.where}"
    width = max( len( x ) for x in names )
    for label, name, value in ( ( "a", names[0], self.a ), ( "b", names[1], self.b ) ):
      yield f"  {label} {name:{width}}  {value}"
    if self.note:
      yield f"  {self.note}"

def show_word( word: int ) -> str:
  """A word in hexadecimal and as FP32."""
  return f"{word:#010x}  {np.uint32( word ).view( np.float32 )}"

class Comparison:
  """Compares two walks as far as they are.

  Attributes
  ----------
  count
    Instructions with results that are the same.
  difference
    The first one that is not, or None.
  """

  def __init__( self, a: Walk, b: Walk ) -> None:
    self.a, self.b  = a, b
    self.count      = 0
    self.difference: Difference | None = None
    self._a_effect: Effect | None = None
    self._a_ready   = False

  def advance( self ) -> None:
    """Compare what both have, up to a difference or the end of both runs."""
    while not self.difference:
      try:
        if not self._a_ready:
          self._a_effect, self._a_ready = self.a.step(), True
        b = self.b.step()
      except Incomplete:
        return
      a, self._a_ready = self._a_effect, False
      if a is None and b is None:
        if self.a.result != self.b.result:
          self.difference = Difference( None, self.count, "the runs end differently", show_result( self.a.result ),
                                        show_result( self.b.result ) )
        return
      self.difference = self._compare( a, b )
      self.count += self.difference is None

  def _compare( self, a: Effect | None, b: Effect | None ) -> Difference | None:
    if a is None or b is None or a.pc != b.pc:
      return Difference( a or b, self.count, "other instructions are executed", show_place( a, self.a ),
                         show_place( b, self.b ) )
    if a.missing or b.missing:
      return Difference( a, self.count, "its result is not complete",
                         *( f"{x.missing}{ended( w )}" if x.missing else "complete"
                            for x, w in ( ( a, self.a ), ( b, self.b ) ) ) )
    for name in a.command or {}:
      x, y = ( a.command or {} )[name], ( b.command or {} ).get( name )
      if x != y:
        return Difference( a, self.count, f"field {name} of its command", f"{x:#x}",
                           "none" if y is None else f"{y:#x}" )
    found = self._memories( a, b )
    if found is None and a.token != b.token:
      return Difference( a, self.count, "TOKEN", str( a.token ), str( b.token ) )
    return found

  def _memories( self, a: Effect, b: Effect ) -> Difference | None:
    n, words, first, wrong = self.a.core.cfg.n, 0, None, 0
    for space, low, high in joined( [ *a.accesses, *b.accesses ] ):
      x, y = ( part( walk.core, space, low, high ) for walk in ( self.a, self.b ) )
      words += x.size
      bad    = np.flatnonzero( x != y )
      wrong += len( bad )
      if first is None and len( bad ):
        at    = int( bad[0] )
        place = ( f"scratchpad row {low + at // n:#x}, lane {at % n}" if space == "spad" else
                  f"memory line {low + 4 * at // LINE_BYTES:#x}, byte {4 * at % LINE_BYTES}" )
        first = Difference( a, self.count, place, show_word( int( x[at] ) ), show_word( int( y[at] ) ) )
    if first is None:
      return None
    note = f"{wrong:,} of {words:,} words differ"
    return Difference( a, self.count, first.where, first.a, first.b, note )

def joined( accesses: list[Access] ) -> Iterator[tuple[str, int, int]]:
  """The ranges that accesses cover together, scratchpad first, in order, none overlapping another."""
  for space in ( "spad", "dram" ):
    ranges = sorted( ( a.low, a.high ) for a in accesses if a.space == space )
    at = 0
    while at < len( ranges ):
      low, high = ranges[at]
      at += 1
      while at < len( ranges ) and ranges[at][0] <= high:
        high = max( high, ranges[at][1] )
        at  += 1
      yield space, low, high

def part( core: NpuFL, space: str, low: int, high: int ) -> NDArray[np.uint32]:
  """Words of scratchpad rows or memory lines."""
  if space == "spad":
    return core.spad[low:high].reshape( -1 )
  return core.dram[low * LINE_BYTES : high * LINE_BYTES].view( np.uint32 )

def ended( walk: Walk ) -> str:
  """How the machine that is followed has ended, if it has."""
  end = walk.core.recording.end if isinstance( walk.core, Follower ) else None
  return f"; {end}" if end else ""

def show_place( effect: Effect | None, walk: Walk ) -> str:
  """What a walk has at this point."""
  if effect:
    return f"{effect.pc}  {disassemble( effect.instruction )}"
  return show_result( walk.result )

def show_result( result: Result | None ) -> str:
  """How a run ended."""
  if result is None:
    return "has not ended"
  error = f" {Error( result.error ).name}" if result.error else ""
  return f"{Status( result.status ).name}{error} at instruction {result.pc}, {result.count} tokens"
