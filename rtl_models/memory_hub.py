"""Memory hub, register-transfer level: seven clients share one memory.

    read[0..3] --> HubRequest --\\ priority                    beats
                                 +----------> mem.req   mem.resp --> buffer --> read[0..3]
    write[0..2] --> WriteBatch --\\                                     ^
                --> WriteBatch ---+---------> mem_wr          routes: whose beats come

Costs seven messages of registers for the clients and a few beats for the way back. What a client sees as ready must
not depend on what the others offer, so each has a register of its own. Writes that are taken in one cycle are a
batch; two batches, one filling while the other drains, take a write a cycle. A read request
remembers the batches that were there when it was taken and waits until they are gone: that is the rule of
order. Requests of different clients are concurrent otherwise, and the first in the list goes first.
"""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass
from pymtl3.stdlib.stream import NormalQueueRTL
from pymtl3.stdlib.stream.ifcs import MasterIfcRTL, MinionIfcRTL, RecvIfcRTL, SendIfcRTL

from npu.arch.config import clog2
from npu.arch.messages import mk_mem_read_req, mk_mem_write

READS  = 4    # fetch, load, kv, weights
WRITES = 3    # post, store, kv_wr

def module_name( kind, cfg ):
  """With what the names of the messages contain (`npu.arch.messages`)."""
  d = cfg.derived
  return f"{kind}_n{cfg.n}_a{d.spad_addr_bits}_m{d.row_count_bits}"

class HubRequest( Component ):
  """A read client's request, until the memory takes it.

  Ports
  -----
  busy
    Per batch, whether it holds writes.
  ends
    Per batch, whether its last write is taken in this cycle.
  """

  def construct( s, cfg ):
    REQ = mk_mem_read_req( cfg )
    s.set_metadata( VerilogTranslationPass.explicit_module_name, module_name( "HubRequest", cfg ) )

    # Interface

    s.recv = RecvIfcRTL( REQ )
    s.send = SendIfcRTL( REQ )
    s.busy = InPort( 2 )
    s.ends = InPort( 2 )

    # Logic

    s.full    = Wire()
    s.request = Wire( REQ )
    s.follows = Wire( 2 )      # batches that must be gone before

    @update
    def up_ports():
      s.recv.rdy @= ~s.full
      s.send.val @= s.full & ( s.follows == 0 )
      s.send.msg @= s.request

    @update_ff
    def ff_request():
      if s.reset:
        s.full    <<= 0
        s.follows <<= 0
      elif s.recv.val & s.recv.rdy:
        s.full    <<= 1
        s.request <<= s.recv.msg
        s.follows <<= s.busy & ~s.ends
      else:
        s.follows <<= s.follows & ~s.ends
        if s.send.val & s.send.rdy:
          s.full <<= 0

class WriteBatch( Component ):
  """The writes of one cycle, given to the memory one after the other, the first client's first.

  Ports
  -----
  load
    Takes the writes of all clients with `val` in this cycle; only when not busy.
  ends
    The last write is taken in this cycle.
  """

  def construct( s, cfg ):
    WRITE = mk_mem_write( cfg )
    s.set_metadata( VerilogTranslationPass.explicit_module_name, module_name( "WriteBatch", cfg ) )

    # Interface

    s.load = InPort()
    s.val  = [ InPort() for _ in range( WRITES ) ]
    s.msg  = [ InPort( WRITE ) for _ in range( WRITES ) ]
    s.send = SendIfcRTL( WRITE )
    s.busy = OutPort()
    s.ends = OutPort()

    # Logic

    s.valid = Wire( WRITES )
    s.rest  = Wire( WRITES )
    s.held  = [ Wire( WRITE ) for _ in range( WRITES ) ]

    @update
    def up_send():
      s.busy @= s.valid != 0
      s.rest @= s.valid & ( s.valid - 1 )
      s.send.val @= s.busy
      s.send.msg @= s.held[2]
      if s.valid[1]:
        s.send.msg @= s.held[1]
      if s.valid[0]:
        s.send.msg @= s.held[0]

    @update
    def up_ends():
      s.ends @= s.send.val & s.send.rdy & ( s.rest == 0 )

    @update_ff
    def ff_batch():
      if s.reset:
        s.valid <<= 0
      elif s.load:
        s.valid <<= concat( s.val[2], s.val[1], s.val[0] )
        for i in range( WRITES ):
          s.held[i] <<= s.msg[i]
      elif s.send.val & s.send.rdy:
        s.valid <<= s.rest

class MemoryHubRTL( Component ):
  """Ports of the hub at every level.

  Ports
  -----
  read
    The read clients fetch, load, kv, weights, in order of priority: bursts (`npu.arch.messages.mk_mem_read_req`) in,
    their beats out, in order. A client that asks has room for the answer: beats that a client does not take hold
    up those of the others.
  write
    The write clients post, store, kv_wr, in order of priority: `npu.arch.messages.mk_mem_write`.
  mem
    To the memory: bursts out, beats in, in order.
  mem_wr
    To the memory: writes.

  A write that is taken is seen by every read request that is taken in a later cycle, whatever the ports, and
  writes take effect in the order in which they were taken; those of one cycle in order of priority. The memory
  must show a write to the requests that it takes in later cycles.
  """

  def construct( s, cfg ):
    d     = cfg.derived
    depth = d.stream_bursts
    s.set_metadata( VerilogTranslationPass.explicit_module_name,
                    f"{module_name( 'MemoryHubRTL', cfg )}_d{depth}" )
    BEAT  = mk_bits( d.beat_bits )
    REQ   = mk_mem_read_req( cfg )
    WRITE = mk_mem_write( cfg )
    LEN   = mk_bits( d.burst_len_bits )
    WHO   = mk_bits( clog2( READS ) )
    ROUTE = mk_bitstruct( f"Route_n{cfg.n}", { "client": WHO, "beats": LEN } )

    # Interface

    s.read   = [ MinionIfcRTL( REQ, BEAT ) for _ in range( READS ) ]
    s.write  = [ RecvIfcRTL( WRITE ) for _ in range( WRITES ) ]
    s.mem    = MasterIfcRTL( REQ, BEAT )
    s.mem_wr = SendIfcRTL( WRITE )

    # Components

    s.request = [ HubRequest( cfg ) for _ in range( READS ) ]
    s.batch   = [ WriteBatch( cfg ) for _ in range( 2 ) ]
    s.routes  = NormalQueueRTL( ROUTE, depth )
    s.buffer  = NormalQueueRTL( BEAT, 2 )

    # Connections

    s.mem.resp //= s.buffer.recv
    for i in range( READS ):
      s.read[i].req      //= s.request[i].recv
      s.read[i].resp.msg //= s.buffer.send.msg
      s.request[i].busy[0] //= s.batch[0].busy
      s.request[i].busy[1] //= s.batch[1].busy
      s.request[i].ends[0] //= s.batch[0].ends
      s.request[i].ends[1] //= s.batch[1].ends
    for i in range( WRITES ):
      for b in range( 2 ):
        s.batch[b].val[i] //= s.write[i].val
        s.batch[b].msg[i] //= s.write[i].msg

    # Requests: the first client, but what is offered stays until it is taken

    s.held  = Wire()
    s.chose = Wire( WHO )
    s.grant = Wire( WHO )
    s.asks  = Wire( READS )
    for i in range( READS ):
      s.asks[i] //= s.request[i].send.val

    @update
    def up_grant():
      s.grant @= 3
      if s.asks[2]:
        s.grant @= 2
      if s.asks[1]:
        s.grant @= 1
      if s.asks[0]:
        s.grant @= 0
      if s.held:
        s.grant @= s.chose

    @update
    def up_request():
      s.mem.req.val @= ( s.asks != 0 ) & s.routes.recv.rdy
      s.mem.req.msg @= s.request[s.grant].send.msg

    @update
    def up_taken():
      for i in range( READS ):
        s.request[i].send.rdy @= ( s.grant == i ) & s.routes.recv.rdy & s.mem.req.rdy
      s.routes.recv.val @= s.mem.req.val & s.mem.req.rdy
      s.routes.recv.msg @= ROUTE( s.grant, s.mem.req.msg.beats )

    @update_ff
    def ff_grant():
      if s.reset:
        s.held <<= 0
      else:
        s.held  <<= s.mem.req.val & ~s.mem.req.rdy
        s.chose <<= s.grant

    # Beats: to the client whose burst it is

    s.client = Wire( WHO )
    s.client //= s.routes.send.msg.client
    s.given  = Wire( LEN )       # beats of the burst so far
    s.shown  = Wire()
    s.gave   = Wire()

    @update
    def up_beats():
      s.shown @= s.buffer.send.val & s.routes.send.val
      for i in range( READS ):
        s.read[i].resp.val @= s.shown & ( s.client == i )

    @update
    def up_gave():
      s.gave @= s.shown & s.read[s.client].resp.rdy
      s.buffer.send.rdy @= s.gave
      s.routes.send.rdy @= s.gave & ( s.given + 1 == s.routes.send.msg.beats )

    @update_ff
    def ff_beats():
      if s.reset:
        s.given <<= 0
      elif s.gave:
        s.given <<= s.given + 1
        if s.given + 1 == s.routes.send.msg.beats:
          s.given <<= 0

    # Writes: batches in turn

    s.fill  = Wire()
    s.drain = Wire()
    s.open  = Wire()
    s.takes = Wire()

    @update
    def up_open():
      s.open @= ~s.batch[s.fill].busy
      for i in range( WRITES ):
        s.write[i].rdy @= s.open

    @update
    def up_takes():
      s.takes @= s.open & ( s.write[0].val | s.write[1].val | s.write[2].val )
      s.batch[0].load @= s.takes & ~s.fill
      s.batch[1].load @= s.takes & s.fill

    @update
    def up_write():
      s.mem_wr.val @= s.batch[s.drain].send.val
      s.mem_wr.msg @= s.batch[s.drain].send.msg

    @update
    def up_wrote():
      s.batch[0].send.rdy @= s.mem_wr.rdy & ~s.drain
      s.batch[1].send.rdy @= s.mem_wr.rdy & s.drain

    @update_ff
    def ff_batches():
      if s.reset:
        s.fill  <<= 0
        s.drain <<= 0
      else:
        if s.takes:
          s.fill <<= ~s.fill
        if s.batch[s.drain].ends:
          s.drain <<= ~s.drain

  def line_trace( s ):
    return ( f"{'|'.join( str( p.req ) for p in s.read )}({s.mem.req})"
             f"{'|'.join( str( p ) for p in s.write )}" )
