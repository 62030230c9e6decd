"""Readers that run ahead of what uses their data."""

from collections import deque

MAX_BURST = 16    # beats

class Stream:
  """Reads beats ahead of their use into a buffer; asks for a burst once the buffer has room for it."""

  def __init__( self, cfg ):
    self.page   = cfg.derived.burst_beats
    self.room   = cfg.derived.stream_beats
    self.buffer = deque()
    self.addr   = 0
    self.left   = 0

  def burst( self ):
    """Beats of the next burst: inside 4 KiB, inside the stream."""
    return min( self.page - self.addr % self.page, MAX_BURST, self.left )

  def asks( self ):
    """Whether a request is offered in this cycle."""
    return self.left > 0 and self.room >= self.burst()
