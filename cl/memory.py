"""Memory system, cycle level: memory hub, DRAM and scratchpad, and the three as one component.

The behaviour is in three plain classes, `Hub`, `Dram` and `Scratchpad`: what they offer in a cycle follows from
their state, and `tick` moves the state, given what was taken in the cycle. Around them are components:
one each (`MemoryHubCL`, `DramCL`, `ScratchpadCL`), connected by `MemorySystem`, which takes the hub of any
level; and `MemorySystemCL`, all of them in one block without ports in between, which has the same cycles and
takes a fraction of the time. Signals are assigned only when they change: a cycle without traffic costs the
look at the valid bits.

There is one rule of order: a write that is taken at any port is seen by every read request that is taken in a
later cycle at any port, and writes take effect in the order in which they were taken.
"""

import random
from collections import deque
from fractions import Fraction

import numpy as np
from pymtl3 import *
from pymtl3.stdlib.stream.ifcs import MasterIfcRTL, MinionIfcRTL, RecvIfcRTL, SendIfcRTL

from cl.signals import mk_any, mk_sample
from npu.arch.messages import mk_mem_read_req, mk_mem_write, mk_spad_write
from npu.errors import NpuError

READ_CLIENTS  = ( "fetch", "load", "kv", "weights" )     # in order of priority
WRITE_CLIENTS = ( "post", "store", "kv_wr" )
SPAD_READERS  = ( "mac.act", "mac.res", "vec.src", "vec.src2", "att.q", "att.acc", "store" )
SPAD_WRITERS  = ( "mac", "vec", "att", "load" )
FP32_WRITERS  = 3                                         # of them, the first three write results

LOW, HIGH = Bits1( 0 ), Bits1( 1 )

class AccessError( NpuError ):
  """A unit asked the memory system for something impossible, or wrote a number that cannot be: a bug of the unit."""

class Stalls:
  """Random stalls, a quarter of the cycles for each of `ports` ports: they depend on the seed and the cycle only."""

  def __init__( self, seed, ports ):
    self.seed, self.ports = seed, ports
    self.reset()

  def reset( self ):
    self.random = random.Random( self.seed )

  def next( self ):
    """The ports that stall in the next cycle, as bits."""
    if self.seed is None:
      return 0
    return self.random.getrandbits( self.ports ) & self.random.getrandbits( self.ports )

#-------------------------------------------------------------------------
# Hub
#-------------------------------------------------------------------------

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
    self.reads  = [ _Reader( ifc ) for ifc in reads ]
    self.writes = [ _Writer( ifc ) for ifc in writes ]
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

class _Reader:
  # The signals of a MinionIfcRTL, and what is offered on it.
  __slots__ = ( "begun", "busy", "queue", "ready", "req_msg", "req_rdy", "req_val", "resp_msg", "resp_rdy", "resp_val" )

  def __init__( self, ifc ):
    self.req_val,  self.req_rdy,  self.req_msg  = ifc.req.val,  ifc.req.rdy,  ifc.req.msg
    self.resp_val, self.resp_rdy, self.resp_msg = ifc.resp.val, ifc.resp.rdy, ifc.resp.msg
    self.ready = True
    self.busy  = False
    self.begun = False
    self.queue = deque()

class _Writer:
  # The signals of a RecvIfcRTL.
  __slots__ = ( "msg", "rdy", "ready", "val" )

  def __init__( self, ifc ):
    self.val, self.rdy, self.msg = ifc.val, ifc.rdy, ifc.msg
    self.ready = True

#-------------------------------------------------------------------------
# DRAM
#-------------------------------------------------------------------------

class Dram:
  """Memory with latency and bandwidth.

  A request taken in cycle t has its first beat offered in cycle t + latency, later if beats before it are still to
  go or the bandwidth is used up. Beats read and written share the bandwidth; requests cost nothing and any
  number may be under way. A read sees the writes that were taken before its request.

  Parameters
  ----------
  data
    uint8 [bytes], whole beats; read and written in place.
  stall_seed
    None, or random stalls of requests, beats and writes.

  Attributes
  ----------
  data
    As given.
  request_rdy, write_rdy, offers
    What it offers in this cycle; `offers` is whether queue[0] is offered.
  beats_read, beats_written
    Beats of requests and writes that were taken.
  mailbox_writes
    Writes to the mailbox so far: how the host notices news.
  """

  def __init__( self, cfg, data, stall_seed=None, latency=None, bandwidth=None ):
    d = cfg.derived
    if data.dtype != np.uint8 or data.size % d.beat_bytes:
      raise NpuError( f"memory is {data.dtype} [{data.size}]; it must be uint8, whole beats of {d.beat_bytes} bytes" )
    self.data    = data.view( np.ndarray )       # a memory-mapped image is slow to take parts of
    self.size    = d.beat_bytes
    self.page    = d.burst_beats
    self.beats   = data.size // d.beat_bytes
    self.Beat    = mk_bits( d.beat_bits )
    self.latency = cfg.dram_latency if latency is None else latency
    rate = Fraction( cfg.dram_bandwidth if bandwidth is None else bandwidth ).limit_denominator( 1000 )
    if self.latency < 1 or not 0 < rate <= 1:
      raise NpuError( f"memory has latency {self.latency} and {float( rate )} beats per cycle; choose at least 1 "
                      "cycle, and more than 0 and at most 1 beat" )
    # Time for the bandwidth is counted in parts of a cycle: a beat takes `cost` of them, a cycle has `parts`.
    self.parts, self.cost = rate.numerator, rate.denominator
    self.stalls  = Stalls( stall_seed, 3 )
    self.now     = 0
    self.beats_read = self.beats_written = self.mailbox_writes = 0
    self.mailbox = -( -128 // self.size )     # beats
    self.reset()

  def reset( self ):
    self.stalls.reset()
    self.queue  = deque()                     # ( earliest cycle, beat )
    self.free   = 0                           # when the next beat may move, in parts
    self.offers = False
    self.now    = 0
    self.settle()

  def settle( self ):
    """Decide what is offered in the cycle that begins."""
    stalls = self.stalls.next() if self.stalls.seed is not None else 0
    moves  = self.now * self.parts >= self.free
    self.request_rdy = not stalls & 1
    self.write_rdy   = moves and not stalls & 4
    if self.queue and moves and not self.offers:
      self.offers = self.queue[0][0] <= self.now and not stalls & 2

  def active( self ):
    """Whether the next cycle may differ from this one without anybody asking."""
    return bool( self.queue ) or not self.write_rdy or self.stalls.seed is not None

  def tick( self, request, gave, write ):
    """One cycle: the request (address, beats) and the write (address, data, strobe) that were taken, or None, and
    whether the beat that was offered was taken."""
    if request is not None:
      self.read( *request )
    if gave:
      self.queue.popleft()
      self.offers = False
      self.spend()
    if write is not None:
      self.write( *write )
      self.spend()
    self.now += 1
    self.settle()

  def spend( self ):
    """A beat has moved in this cycle."""
    self.free = max( self.free, self.now * self.parts ) + self.cost

  def read( self, addr, beats ):
    """Take a request."""
    where = f"memory, cycle {self.now}: a burst of {beats} beats at beat {addr}"
    if beats == 0:
      raise AccessError( f"{where} is empty" )
    if addr // self.page != ( addr + beats - 1 ) // self.page:
      raise AccessError( f"{where} crosses 4 KiB, which is {self.page} beats" )
    if addr + beats > self.beats:
      raise AccessError( f"{where} leaves the memory of {self.beats} beats" )
    size, due, Beat = self.size, self.now + self.latency, self.Beat
    octets = self.data[addr * size : ( addr + beats ) * size].tobytes()
    self.queue.extend( ( due, Beat( int.from_bytes( octets[i : i + size], "little" ) ) )
                       for i in range( 0, beats * size, size ) )
    self.beats_read += beats

  def write( self, addr, data, strobe ):
    """Take a write."""
    if addr >= self.beats:
      raise AccessError( f"memory, cycle {self.now}: a write of beat {addr} leaves the memory of {self.beats} beats" )
    size   = self.size
    octets = np.frombuffer( data.to_bytes( size, "little" ), dtype=np.uint8 )
    if strobe == ( 1 << size ) - 1:
      self.data[addr * size : ( addr + 1 ) * size] = octets
    else:
      index = [ i for i in range( size ) if strobe >> i & 1 ]
      self.data[addr * size + np.array( index, dtype=np.int64 )] = octets[index]
    self.beats_written  += 1
    self.mailbox_writes += addr < self.mailbox

#-------------------------------------------------------------------------
# Scratchpad
#-------------------------------------------------------------------------

class Scratchpad:
  """Rows of n 32-bit lanes with separate read and write ports.

  A read taken in cycle t has its row offered in cycle t + 1, and every port takes a read per cycle while its rows
  are taken at once. It sees the writes taken before cycle t.

  Parameters
  ----------
  rows
    uint32 [rows, n] to begin with (copied), or None: zeros, cfg's number.
  reads, writes
    Names of the ports, for messages.
  fp32_writers
    So many write ports, the first ones, carry FP32 results or block-float lanes, of which no lane may have the
    exponent of NaN and infinity.
  """

  def __init__( self, cfg, reads, writes, rows=None, stall_seed=None, fp32_writers=0 ):
    d = cfg.derived
    Row = mk_bits( d.beat_bits )
    self.n       = cfg.n
    self.reads, self.writes = reads, writes
    self.rows    = ( [ Row( 0 ) ] * d.spad_rows if rows is None else
                     [ Row( int.from_bytes( row.astype( "<u4" ).tobytes(), "little" ) ) for row in rows ] )
    self.stalls  = Stalls( None if stall_seed is None else stall_seed + 1, 2 * len( reads ) + len( writes ) )
    self.fp32    = fp32_writers
    lanes        = sum( 1 << 32 * i for i in range( cfg.n ) )
    # An exponent of all ones plus one is a carry into the sign, which is masked away before.
    self.exponents, self.ulps, self.signs = 0x7F800000 * lanes, 0x00800000 * lanes, 0x80000000 * lanes
    self.now     = 0

  def reset( self ):
    """Ports and time; the rows stay, as in a memory without reset."""
    self.stalls.reset()
    self.now = 0

  def array( self ):
    """All rows, uint32 [rows, n]."""
    size = 4 * self.n
    return np.frombuffer( b"".join( int( r ).to_bytes( size, "little" ) for r in self.rows ),
                          dtype="<u4" ).astype( np.uint32 ).reshape( -1, self.n )

  def read( self, port, addr ):
    """The row at `addr`."""
    if addr >= len( self.rows ):
      raise AccessError( f"scratchpad, cycle {self.now}: {self.reads[port]} reads row {addr}, but there are "
                         f"{len( self.rows )} rows" )
    return self.rows[addr]

  def write( self, port, addr, row ):
    """Set the row at `addr`."""
    name = self.writes[port]
    if addr >= len( self.rows ):
      raise AccessError( f"scratchpad, cycle {self.now}: {name} writes row {addr}, but there are {len( self.rows )} "
                         "rows" )
    if port < self.fp32:
      value = int( row )
      bad   = ( value & self.exponents ) + self.ulps & self.signs
      if bad:
        lane = ( bad & -bad ).bit_length() // 32 - 1
        raise AccessError( f"scratchpad, cycle {self.now}: {name} writes {value >> 32 * lane & 0xFFFFFFFF:#010x} "
                           f"(NaN or infinity) to row {addr}, lane {lane}" )
    self.rows[addr] = row

class SpadPorts:
  """The ports of a scratchpad."""

  def __init__( self, spad, reads, writes ):
    self.spad   = spad
    self.reads  = [ _Reader( ifc ) for ifc in reads ]
    self.writes = [ _Writer( ifc ) for ifc in writes ]
    self.stalls = spad.stalls.seed is not None
    self.active = self.stalls     # whether the next cycle may differ from this one without anybody asking
    asks, puts  = [ p.req_val for p in self.reads ], [ p.val for p in self.writes ]
    self.sample = mk_sample( asks )
    self.puts   = mk_any( puts )
    self.wakes  = mk_any( asks + puts )

  def tick( self ):
    """One cycle: rows given, reads and then writes taken; and what is offered in the next cycle."""
    spad   = self.spad
    stalls = spad.stalls.next() if self.stalls else 0
    active = self.stalls
    i = 0
    for p, asks in zip( self.reads, self.sample() ):   # noqa: B905 (the check costs time in every cycle)
      if asks or p.busy or stalls:
        active = self.tick_read( i, p, asks, stalls >> 2 * i ) or active
      i += 1
    if self.puts():
      self.take_writes()
    if self.stalls:
      stalls >>= 2 * len( self.reads )
      for i, p in enumerate( self.writes ):
        ready = not stalls >> i & 1
        if ready != p.ready:
          p.ready = ready
          p.rdy <<= HIGH if ready else LOW
    self.active = active
    spad.now += 1

  def tick_read( self, i, p, asks, stalls ):
    """The same for one read port; whether it has more to do."""
    queue, begun, ready = p.queue, p.begun, p.ready
    if begun and p.resp_rdy:
      queue.popleft()
      begun = False
    if asks and ready:
      queue.append( self.spad.read( i, int( p.req_msg ) ) )
    if queue and not begun and not stalls & 1:
      begun = True
      p.resp_msg <<= queue[0]
    if begun != p.begun:
      p.begun = begun
      p.resp_val <<= HIGH if begun else LOW
    p.ready = len( queue ) < 2 and not stalls & 2
    if p.ready != ready:
      p.req_rdy <<= HIGH if p.ready else LOW
    p.busy = bool( queue ) or not p.ready
    return p.busy

  def take_writes( self ):
    """Take what is offered at the write ports."""
    written = {}
    for i, p in enumerate( self.writes ):
      if p.ready and p.val:
        addr = int( p.msg.addr )
        if addr in written:
          raise AccessError( f"scratchpad, cycle {self.spad.now}: {self.spad.writes[written[addr]]} and "
                             f"{self.spad.writes[i]} both write row {addr}" )
        written[addr] = i
        self.spad.write( i, addr, p.msg.data.clone() )

#-------------------------------------------------------------------------
# Components
#-------------------------------------------------------------------------

# State is plain Python, reached by another name (`me`): PyMTL3 takes what it reads through `s` for signals. It
# learns from the reset branches what a block drives; after a reset, the signals are assigned through the
# objects that they have become by then, which saves looking them up.

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
    return _hub_trace( s )

def _hub_trace( s ):
  return f"{'|'.join( str( p.req ) for p in s.read )}({s.mem.req}){'|'.join( str( p ) for p in s.write )}"

class DramCL( Component ):
  """A `Dram` behind ports.

  Ports
  -----
  mem
    MinionIfcRTL( mk_mem_read_req( cfg ), Bits of a beat ).
  mem_wr
    RecvIfcRTL( mk_mem_write( cfg ) ).
  """

  def construct( s, cfg, data, stall_seed=None, latency=None, bandwidth=None ):
    s.mem    = MinionIfcRTL( mk_mem_read_req( cfg ), mk_bits( cfg.derived.beat_bits ) )
    s.mem_wr = RecvIfcRTL( mk_mem_write( cfg ) )
    s.dram   = Dram( cfg, data, stall_seed, latency, bandwidth )
    me = s

    @update_ff
    def ff_tick():
      if s.reset:
        me.dram.reset()
      else:
        request = write = None
        if s.mem.req.val & s.mem.req.rdy:
          request = int( s.mem.req.msg.addr ), int( s.mem.req.msg.beats )
        if s.mem_wr.val & s.mem_wr.rdy:
          write = int( s.mem_wr.msg.addr ), int( s.mem_wr.msg.data ), int( s.mem_wr.msg.strobe )
        me.dram.tick( request, bool( s.mem.resp.val & s.mem.resp.rdy ), write )
      s.mem.req.rdy  <<= me.dram.request_rdy
      s.mem_wr.rdy   <<= me.dram.write_rdy
      s.mem.resp.val <<= me.dram.offers
      if me.dram.offers:
        s.mem.resp.msg <<= me.dram.queue[0][1]

  def line_trace( s ):
    return f"{s.mem.req}({len( s.dram.queue )}){s.mem.resp}|{s.mem_wr}"

class ScratchpadCL( Component ):
  """A `Scratchpad` behind ports.

  Ports
  -----
  read
    MinionIfcRTL( Bits of an address, Bits of a row ), one per name in `reads`.
  write
    RecvIfcRTL( mk_spad_write( cfg ) ), one per name in `writes`.
  """

  def construct( s, cfg, reads=SPAD_READERS, writes=SPAD_WRITERS, rows=None, stall_seed=None,
                 fp32_writers=FP32_WRITERS ):
    n_reads, n_writes = len( reads ), len( writes )
    s.read  = [ MinionIfcRTL( mk_bits( cfg.derived.spad_addr_bits ), mk_bits( cfg.derived.beat_bits ) )
                for _ in range( n_reads ) ]
    s.write = [ RecvIfcRTL( mk_spad_write( cfg ) ) for _ in range( n_writes ) ]
    s.spad  = Scratchpad( cfg, reads, writes, rows, stall_seed, fp32_writers )
    s.ports = None
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
        me.spad.reset()
        me.ports = SpadPorts( me.spad, me.read, me.write )
      else:
        me.ports.tick()

  def line_trace( s ):
    return "|".join( [ f"{p.req}(){p.resp}" for p in s.read ] + [ f"{p}" for p in s.write ] )

class MemorySystem( Component ):
  """Hub, DRAM and scratchpad, each a component: takes the hub of any level.

  Ports
  -----
  read, write
    The hub's clients, in the order of READ_CLIENTS and WRITE_CLIENTS.
  spad_read, spad_write
    The scratchpad's ports, in the order of SPAD_READERS and SPAD_WRITERS.

  Parameters
  ----------
  dram
    uint8 [bytes], read and written in place.
  stall_seed
    None, or random stalls of DRAM and scratchpad.
  memory_hub
    The hub's class, or a function of cfg.
  """

  def construct( s, cfg, dram, stall_seed=None, memory_hub=MemoryHubCL ):
    d = cfg.derived
    BEAT, SPAD = mk_bits( d.beat_bits ), mk_bits( d.spad_addr_bits )

    # Interface

    s.read       = [ MinionIfcRTL( mk_mem_read_req( cfg ), BEAT ) for _ in READ_CLIENTS ]
    s.write      = [ RecvIfcRTL( mk_mem_write( cfg ) ) for _ in WRITE_CLIENTS ]
    s.spad_read  = [ MinionIfcRTL( SPAD, BEAT ) for _ in SPAD_READERS ]
    s.spad_write = [ RecvIfcRTL( mk_spad_write( cfg ) ) for _ in SPAD_WRITERS ]

    # Components

    s.memory_hub = memory_hub( cfg )
    s.memory     = DramCL( cfg, dram, stall_seed )
    s.scratchpad = ScratchpadCL( cfg, stall_seed=stall_seed )
    s.dram, s.spad = s.memory.dram, s.scratchpad.spad

    # Connections

    for outer, inner in ( ( s.read, s.memory_hub.read ), ( s.write, s.memory_hub.write ),
                          ( s.spad_read, s.scratchpad.read ), ( s.spad_write, s.scratchpad.write ) ):
      for a, b in zip( outer, inner, strict=True ):
        connect( a, b )
    s.memory_hub.mem    //= s.memory.mem
    s.memory_hub.mem_wr //= s.memory.mem_wr

  def line_trace( s ):
    return f"{s.memory_hub.line_trace()} {s.memory.line_trace()}"

class MemorySystemCL( Component ):
  """The same as `MemorySystem`, with the same cycles, in one block: the whole NPU is to be simulated fast."""

  def construct( s, cfg, dram, stall_seed=None ):
    d = cfg.derived
    BEAT, SPAD = mk_bits( d.beat_bits ), mk_bits( d.spad_addr_bits )
    n_reads, n_writes = len( READ_CLIENTS ), len( WRITE_CLIENTS )
    n_spad_reads, n_spad_writes = len( SPAD_READERS ), len( SPAD_WRITERS )

    # Interface

    s.read       = [ MinionIfcRTL( mk_mem_read_req( cfg ), BEAT ) for _ in range( n_reads ) ]
    s.write      = [ RecvIfcRTL( mk_mem_write( cfg ) ) for _ in range( n_writes ) ]
    s.spad_read  = [ MinionIfcRTL( SPAD, BEAT ) for _ in range( n_spad_reads ) ]
    s.spad_write = [ RecvIfcRTL( mk_spad_write( cfg ) ) for _ in range( n_spad_writes ) ]

    # State

    s.hub   = Hub( cfg )
    s.dram  = Dram( cfg, dram, stall_seed )
    s.spad  = Scratchpad( cfg, SPAD_READERS, SPAD_WRITERS, None, stall_seed, FP32_WRITERS )
    s.hub_ports = s.spad_ports = None
    s.active    = True      # whether hub or DRAM have something to do by themselves
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
        for i in range( n_spad_reads ):
          s.spad_read[i].req.rdy  <<= 1
          s.spad_read[i].resp.val <<= 0
          s.spad_read[i].resp.msg <<= 0
        for i in range( n_spad_writes ):
          s.spad_write[i].rdy <<= 1
        me.hub.reset()
        me.dram.reset()
        me.spad.reset()
        me.hub_ports  = HubPorts( me.hub, me.read, me.write )
        me.spad_ports = SpadPorts( me.spad, me.spad_read, me.spad_write )
        me.active     = True
      else:
        me.tick()

  def tick( s ):
    """One cycle; where nothing is under way and nobody asks, only the time passes."""
    spad_ports, hub_ports, dram = s.spad_ports, s.hub_ports, s.dram
    if spad_ports.active or spad_ports.wakes():
      spad_ports.tick()
    else:
      s.spad.now += 1
    if not ( s.active or hub_ports.wakes() ):
      dram.now += 1
      return
    hub     = s.hub
    request = hub.request() if dram.request_rdy and hub.offered is not None else None
    write   = hub.write() if dram.write_rdy else None
    gave    = dram.offers and len( hub.buffer ) < 2
    hub_ports.tick( request is not None, dram.queue[0][1] if gave else None, write is not None )
    dram.tick( request, gave, write )
    s.active = dram.active() or hub.active()

  def line_trace( s ):
    return ( f"{'|'.join( str( p.req ) for p in s.read )}({len( s.dram.queue )})"
             f"{'|'.join( str( p ) for p in s.write )}" )
