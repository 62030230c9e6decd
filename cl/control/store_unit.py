"""Copies rows from the scratchpad to memory: STORE."""

from collections import deque

from pymtl3 import *

from cl.common.ports import Sender
from cl.common.streams import RowReader
from cl.control.jobs import Jobs
from npu.arch.messages import mk_mem_write

class StoreUnit( Jobs ):
  """Scratchpad to memory."""

  def __init__( self, cfg, spad_rd, store ):
    super().__init__()
    self.write   = mk_mem_write( cfg )
    self.address = mk_bits( cfg.derived.spad_addr_bits )
    self.bpl     = cfg.derived.beats_per_line
    self.full    = ( 1 << cfg.derived.beat_bytes ) - 1
    self.spad_rd = spad_rd
    self.req_out = Sender( spad_rd.req )
    self.wr_out  = Sender( store )
    self.rows    = RowReader()
    self.beats   = deque()       # beats to write

  def tick( self, pushed ):
    """One cycle; `pushed` is a new job or None."""
    asked   = self.req_out.taken()
    written = self.wr_out.taken()
    self.rows.tick( self.spad_rd, written )
    if written:
      self.beats.popleft()
    if written and not self.beats:
      self.state = "idle"
      if pushed is not None:
        self.queue.append( pushed )
    elif self.begin( pushed ):
      now = self.now
      self.rows.start( now.rows() )
      self.beats.extend( line * self.bpl + c for line in now.lines for c in range( now.width ) )
    self.offer( asked, written )

  def offer( self, asked, written ):
    """What is offered in the next cycle."""
    rows = self.rows
    if not rows.asks():
      self.req_out.offer( None )
    elif asked or not self.req_out.on:
      self.req_out.offer( self.address( rows.next ) )
    if not rows.buffer:
      self.wr_out.offer( None )
    elif written or not self.wr_out.on:
      ends   = len( self.beats ) % self.now.width == 1 % self.now.width
      strobe = ( 1 << 4 * self.now.tail ) - 1 if ends else self.full
      self.wr_out.offer( self.write( self.beats[0], rows.buffer[0], strobe ) )
