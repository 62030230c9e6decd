"""Copies rows from the scratchpad to memory: STORE."""

from collections import deque

from pymtl3 import *

from cl.control.jobs import Jobs
from cl.ports import Sender
from npu.arch.messages import mk_mem_write

AHEAD = 4    # scratchpad rows asked for and not stored

class Storer( Jobs ):
  """Scratchpad to memory."""

  def __init__( self, cfg, spad_rd, store ):
    super().__init__()
    self.write   = mk_mem_write( cfg )
    self.address = mk_bits( cfg.derived.spad_addr_bits )
    self.bpl     = cfg.derived.beats_per_line
    self.full    = ( 1 << cfg.derived.beat_bytes ) - 1
    self.resp    = spad_rd.resp
    self.req_out = Sender( spad_rd.req )
    self.wr_out  = Sender( store )
    self.free    = AHEAD
    self.buffer  = deque()
    self.asks    = deque()       # scratchpad rows to read
    self.beats   = deque()       # beats to write

  def tick( self, pushed ):
    """One cycle; `pushed` is a new job or None."""
    asked   = self.req_out.taken()
    written = self.wr_out.taken()
    if asked:
      self.asks.popleft()
      self.free -= 1
    if written:
      self.buffer.popleft()
      self.beats.popleft()
      self.free += 1
    if self.resp.val:
      self.buffer.append( int( self.resp.msg ) )
    if written and not self.beats:
      self.state = "idle"
      if pushed is not None:
        self.queue.append( pushed )
    elif self.begin( pushed ):
      now = self.now
      self.asks.extend( now.rows() )
      self.beats.extend( line * self.bpl + c for line in now.lines for c in range( now.width ) )
    self.offer( asked, written )

  def offer( self, asked, written ):
    """What is offered in the next cycle."""
    if not self.asks or not self.free:
      self.req_out.offer( None )
    elif asked or not self.req_out.on:
      self.req_out.offer( self.address( self.asks[0] ) )
    if not self.buffer:
      self.wr_out.offer( None )
    elif written or not self.wr_out.on:
      ends   = len( self.beats ) % self.now.width == 1 % self.now.width
      strobe = ( 1 << 4 * self.now.tail ) - 1 if ends else self.full
      self.wr_out.offer( self.write( self.beats[0], self.buffer[0], strobe ) )
