"""Copies rows from memory to the scratchpad: LOAD, and EMBED once its tokens are known."""

from collections import deque

from cl.common.ports import Sender
from cl.common.streams import StreamReader
from cl.control.jobs import Jobs
from npu.arch.messages import mk_mem_read_req, mk_spad_write

class LoadUnit( Jobs ):
  """Memory to scratchpad."""

  def __init__( self, cfg, load, spad_wr ):
    super().__init__()
    self.request = mk_mem_read_req( cfg )
    self.write   = mk_spad_write( cfg )
    self.stream  = StreamReader( cfg )
    self.bpl     = cfg.derived.beats_per_line
    self.load    = load
    self.req_out = Sender( load.req )
    self.wr_out  = Sender( spad_wr )
    self.rows    = deque()       # scratchpad rows to write
    self.burst   = ( 0, 0 )      # the request that is offered

  def tick( self, pushed ):
    """One cycle; `pushed` is a new job or None."""
    written = self.wr_out.taken()
    self.stream.tick( self.load, written )
    if written:
      self.rows.popleft()
    if written and not self.rows:
      self.state = "idle"
      if pushed is not None:
        self.queue.append( pushed )
    elif self.begin( pushed ):
      self.stream.jobs.extend( ( line * self.bpl, self.now.width ) for line in self.now.lines )
      self.rows.extend( self.now.rows() )
    self.offer( written )

  def offer( self, written ):
    """What is offered in the next cycle."""
    stream = self.stream
    if stream.asks():
      burst = ( stream.addr, stream.burst() )
      if burst != self.burst or not self.req_out.on:
        self.req_out.offer( self.request( *burst ) )
        self.burst = burst
    else:
      self.req_out.offer( None )
    if not stream.buffer:
      self.wr_out.offer( None )
    elif written or not self.wr_out.on:
      now, data = self.now, stream.buffer[0]
      if len( self.rows ) % now.width == 1 % now.width:      # the last beat of a row
        data &= ( 1 << 32 * now.tail ) - 1
      self.wr_out.offer( self.write( self.rows[0], data ) )
