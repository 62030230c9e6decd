"""Memory hub, cycle level: arbitration of the blocks' memory ports.

The behaviour is in `Hub`, a plain class: what it offers in a cycle follows from its state, and `tick` moves the state,
given what was taken in the cycle. `HubPorts` are the clients' signals. Both are in two components: `MemoryHubCL`, and
`cl.memory_system.MemorySystemCL`, where the memory is in the same block.

There is one rule of order: a write that is taken at any port is seen by every read request that is taken in a
later cycle at any port, and writes take effect in the order in which they were taken.
"""

from collections import deque

from pymtl3 import *
from pymtl3.stdlib.stream.ifcs import MasterIfcRTL, MinionIfcRTL, RecvIfcRTL, SendIfcRTL

from cl.common.ports import HIGH, LOW, ReadPort, WritePort
from cl.common.signals import mk_any
from npu.arch.messages import mk_mem_read_req, mk_mem_write

READ_CLIENTS  = ( "fetch", "load", "kv", "weights" )     # in order of priority
WRITE_CLIENTS = ( "post", "store", "kv_wr" )

class Hub:
  """Arbitrates between clients; see `rtl_models.memory_hub.MemoryHubRTL`.

  Attributes
  ----------
  reads
    Per read client, the request that is held: [address, beats, mask of the batches of writes that it must follow].
  batches
    Two, each with the writes that were taken in one cycle: (address, data, strobe).
  offered
    The read client whose request is offered to the memory.
  buffer, routes
    Beats for the clients, and whose they are: [client, beats to go].
  """

  def __init__( self, cfg ):
    self.depth = cfg.derived.stream_bursts
    self.reset()

  def reset( self ):
    self.reads   = [ None ] * len( READ_CLIENTS )
    self.held    = 0                                      # how many of them
    self.batches = [ [], [] ]
    self.fill    = self.drain = 0
    self.offered = None
    self.buffer  = deque()
    self.routes  = deque()

  def request( self ):
    """The (address, beats) that is offered to the memory, or None."""
    return None if self.offered is None else tuple( self.reads[self.offered][:2] )

  def write( self ):
    """The write that is offered to the memory, or None."""
    batch = self.batches[self.drain]
    return batch[0] if batch else None

  def active( self ):
    """Whether anything is in the hub or on its way."""
    return bool( self.held or self.routes or self.batches[0] or self.batches[1] )

  def receiver( self ):
    """The client that buffer[0] is offered to, or None."""
    return self.routes[0][0] if self.buffer and self.routes else None

  def tick( self, asks, writes, gave, asked, beat, wrote ):
    """One cycle.

    Parameters
    ----------
    asks, writes
      What was taken from clients: (client, address, beats) and (address, data, strobe), in order of priority.
    gave
      Whether the beat that was offered to a client was taken.
    asked, wrote
      Whether the memory took the request and the write that were offered to it.
    beat
      What was taken from the memory, or None.
    """
    reads, batches = self.reads, self.batches
    if wrote:
      batch = batches[self.drain]
      del batch[0]
      if not batch:
        mask = ~( 1 << self.drain )
        for r in reads:
          if r is not None:
            r[2] &= mask
        self.drain ^= 1
    if asked:
      self.routes.append( [ self.offered, reads[self.offered][1] ] )
      reads[self.offered] = self.offered = None
      self.held -= 1
    if asks:
      follows = bool( batches[0] ) + 2 * bool( batches[1] )
      for client, addr, beats in asks:
        reads[client] = [ addr, beats, follows ]
      self.held += len( asks )
    if writes:
      batches[self.fill] = writes
      self.fill ^= 1
    if gave:
      self.buffer.popleft()
      route = self.routes[0]
      route[1] -= 1
      if not route[1]:
        self.routes.popleft()
    if beat is not None:
      self.buffer.append( beat )
    # What is offered stays until it is taken.
    if self.held and self.offered is None and len( self.routes ) < self.depth:
      for client, r in enumerate( reads ):
        if r is not None and not r[2]:
          self.offered = client
          break

class HubPorts:
  """The clients' side of a hub: who asks, who gets."""

  def __init__( self, hub, reads, writes ):
    self.hub    = hub
    self.reads  = [ ReadPort( ifc ) for ifc in reads ]
    self.writes = [ WritePort( ifc ) for ifc in writes ]
    self.wakes  = mk_any( [ p.req_val for p in self.reads ] + [ p.val for p in self.writes ] )
    self.open   = True        # whether writes are taken in this cycle
    self.shown  = None        # client that is offered a beat in this cycle

  def taken( self ):
    """The requests and the writes that are taken in this cycle, as `Hub.tick` wants them."""
    asks   = [ ( i, int( p.req_msg.addr ), int( p.req_msg.beats ) )
               for i, p in enumerate( self.reads ) if p.ready and p.req_val ]
    writes = [ ( int( p.msg.addr ), int( p.msg.data ), int( p.msg.strobe ) )
               for p in self.writes if p.val ] if self.open else ()
    return asks, writes

  def tick( self, asked, beat, wrote ):
    """One cycle of the hub, and what the clients see in the next."""
    hub    = self.hub
    shown  = self.shown
    gave   = shown is not None and bool( self.reads[shown].resp_rdy )
    asks   = writes = ()
    if self.wakes():
      asks, writes = self.taken()
    was_offered = hub.offered
    hub.tick( asks, writes, gave, asked, beat, wrote )
    for i, _, _ in asks:
      p = self.reads[i]
      p.ready   = False
      p.req_rdy <<= LOW
    if asked:
      p = self.reads[was_offered]
      p.ready   = True
      p.req_rdy <<= HIGH
    if ( writes or wrote ) and self.open == bool( hub.batches[hub.fill] ):
      self.open = not self.open
      for p in self.writes:
        p.rdy <<= HIGH if self.open else LOW
    client = hub.receiver()
    if client != shown:
      self.shown = client
      if shown is not None:
        self.reads[shown].resp_val <<= LOW
      if client is not None:
        self.reads[client].resp_val <<= HIGH
    if client is not None and ( gave or client != shown ):
      self.reads[client].resp_msg <<= hub.buffer[0]

class MemoryHubCL( Component ):
  """See `rtl_models.memory_hub.MemoryHubRTL` for the ports."""

  def construct( s, cfg ):
    BEAT = Beat = mk_bits( cfg.derived.beat_bits )
    REQ, WRITE = mk_mem_read_req( cfg ), mk_mem_write( cfg )
    n_reads, n_writes = len( READ_CLIENTS ), len( WRITE_CLIENTS )
    s.read   = [ MinionIfcRTL( REQ, BEAT ) for _ in range( n_reads ) ]
    s.write  = [ RecvIfcRTL( WRITE ) for _ in range( n_writes ) ]
    s.mem    = MasterIfcRTL( REQ, BEAT )
    s.mem_wr = SendIfcRTL( WRITE )
    s.hub    = Hub( cfg )
    s.ports  = None
    # State is plain Python, reached by another name: PyMTL3 takes what it reads through `s` for signals.
    me = s

    @update_ff
    def ff_tick():
      if s.reset:
        for i in range( n_reads ):
          s.read[i].req.rdy  <<= 1
          s.read[i].resp.val <<= 0
          s.read[i].resp.msg <<= 0
        for i in range( n_writes ):
          s.write[i].rdy <<= 1
        s.mem.resp.rdy <<= 1
        me.hub.reset()
        me.ports = HubPorts( me.hub, me.read, me.write )
      else:
        beat = Beat( s.mem.resp.msg ) if s.mem.resp.val & s.mem.resp.rdy else None
        me.ports.tick( bool( s.mem.req.val & s.mem.req.rdy ), beat, bool( s.mem_wr.val & s.mem_wr.rdy ) )
      request, write = me.hub.request(), me.hub.write()
      s.mem.resp.rdy <<= len( me.hub.buffer ) < 2
      s.mem.req.val  <<= request is not None
      s.mem_wr.val   <<= write is not None
      if request is not None:
        s.mem.req.msg <<= REQ( *request )
      if write is not None:
        s.mem_wr.msg <<= WRITE( *write )

  def line_trace( s ):
    return f"{'|'.join( str( p.req ) for p in s.read )}({s.mem.req}){'|'.join( str( p ) for p in s.write )}"
