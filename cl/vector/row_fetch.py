"""Reads scratchpad rows ahead of their use, and keeps a tag with each."""

from collections import deque
from collections.abc import Iterator

from cl.vector.sequencer import U32, Ask, Tag

AHEAD = 4    # scratchpad rows asked for before their use, at each port

class RowFetch:
  """Reads scratchpad rows ahead of their use, in a given order."""

  def __init__( self ) -> None:
    self.order: Iterator[Ask] = iter( () )
    self.next: Ask | None     = None
    self.tags: deque[Tag]     = deque()    # of rows asked for and not used
    self.rows: deque[U32]     = deque()    # there and not used, lanes [n]

  def start( self, order: Iterator[Ask] ) -> None:
    """Begin a new command."""
    self.order = order
    self.next  = next( order, None )

  def ask( self ) -> None:
    """The scratchpad has taken the request."""
    assert self.next is not None
    self.tags.append( self.next.tag )
    self.next = next( self.order, None )

  def use( self ) -> None:
    """The oldest row is used."""
    self.tags.popleft()
    self.rows.popleft()
