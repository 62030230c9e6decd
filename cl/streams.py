"""Readers that run ahead of what uses their data."""

from collections import deque

MAX_BURST = 16    # beats

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
