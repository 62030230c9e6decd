"""Readers that run ahead of what uses their data."""

from collections import deque

MAX_BURST  = 16    # beats
ROWS_AHEAD = 4     # scratchpad rows asked for before their use

class StreamReader:
  """Reads linear streams of beats from memory, one after the other; asks for a burst once the buffer has room for it.

  `addr` and `burst` are the request that is offered while `asks`.
  """

  def __init__( self, cfg ):
    self.page   = cfg.derived.burst_beats
    self.room   = cfg.derived.stream_beats
    self.buffer = deque()
    self.jobs   = deque()    # (first beat, beats) to come
    self.addr   = 0
    self.left   = 0

  def burst( self ):
    """Beats of the next burst: inside 4 KiB, inside the stream."""
    return min( self.page - self.addr % self.page, MAX_BURST, self.left )

  def asks( self ):
    """Whether a request is offered in this cycle."""
    return self.left > 0 and self.room >= self.burst()

  def tick( self, ifc, used ):
    """End of the cycle; `used`: the oldest beat was taken."""
    if self.left == 0:
      if self.jobs:
        self.addr, self.left = self.jobs.popleft()
    elif ifc.req.rdy:
      burst = self.burst()
      if self.room >= burst:
        self.room -= burst
        self.addr += burst
        self.left -= burst
    if used:
      self.buffer.popleft()
      self.room += 1
    if ifc.resp.val:
      self.buffer.append( int( ifc.resp.msg ) )

class RowReader:
  """Reads scratchpad rows in a given order of addresses; asks for one as long as the buffer has room for it.

  `next` is the address that is offered while `asks`, or None once everything is asked for.
  """

  def __init__( self ):
    self.free   = ROWS_AHEAD
    self.buffer = deque()
    self.order  = iter( () )
    self.next   = None

  def start( self, order ):
    """Begin a new sequence of addresses."""
    self.order = iter( order )
    self.next  = next( self.order, None )

  def asks( self ):
    """Whether a request is offered in this cycle."""
    return self.next is not None and self.free > 0

  def tick( self, ifc, used ):
    """End of the cycle; `used`: the oldest row was taken. Returns whether the last row was asked for."""
    ended = False
    if self.next is not None and self.free > 0 and ifc.req.rdy:
      self.free -= 1
      self.next  = next( self.order, None )
      ended = self.next is None
    if used:
      self.buffer.popleft()
      self.free += 1
    if ifc.resp.val:
      self.buffer.append( int( ifc.resp.msg ) )
    return ended
