"""Reads the mailbox at a doorbell, and tokens for EMBED."""

from npu.arch.messages import mk_mem_read_req

class BeatReader:
  """Reads beats in order: the mailbox in one burst, tokens beat by beat."""

  def __init__( self, cfg ):
    self.request = mk_mem_read_req( cfg )
    self.asking  = None
    self.addr    = 0
    self.asks    = 0             # requests to go
    self.beats   = 1             # of each
    self.got     = []

  def start( self, addr, asks, beats ):
    """Begin in the next cycle."""
    self.addr, self.asks, self.beats, self.got = addr, asks, beats, []
    self.asking = self.request( addr, beats )

  def tick( self, rdy, beat ):
    """One cycle: request taken; response."""
    if self.asking is not None and rdy:
      self.asks  -= 1
      self.addr  += self.beats
      self.asking = self.request( self.addr, self.beats ) if self.asks else None
    if beat is not None:
      self.got.append( beat )
