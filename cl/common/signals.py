"""Looking at many signals of a running simulation at once, for what does so in every cycle.

PyMTL3 keeps the value of a signal in an object that stays the same from the first reset on. The functions here read
it there: `int( signal )` takes ten times as long. They are made during a reset, in an update block.
"""

from collections.abc import Callable, Sequence
from typing import Any

def mk_sample( signals: Sequence[Any] ) -> Callable[[], tuple[int, ...]]:
  """A function that returns the values of signals (of Bits, not of bitstructs)."""
  return _mk( signals, lambda values: "( " + "".join( f"{v}, " for v in values ) + ")" )

def mk_any( signals: Sequence[Any] ) -> Callable[[], int]:
  """A function that returns something true if one of the signals is not 0."""
  return _mk( signals, " or ".join )

def _mk( signals: Sequence[Any], expression: Callable[[list[str]], str] ) -> Any:
  names = { f"x{i}": signal for i, signal in enumerate( signals ) }
  return eval( f"lambda: {expression( [ f'{name}._uint' for name in names ] )}", names )
