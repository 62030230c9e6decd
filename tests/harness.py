"""What surrounds a block under test, the same at every level: sources, sinks, a memory and a scratchpad.

All ports are val/rdy streams (`pymtl3.stdlib.stream.ifcs`) and all outputs are registers, so nothing here is
combinational. Cycle 0 is the first one without reset; nothing is sent or taken before. What a component did
and when is in its attributes. A reset starts everything anew, except for the contents of memory and
scratchpad. Everything is deterministic, and random stalls depend on the seed and the cycle alone, never on the
traffic: a block sees the same stalls at every level.

A test connects them in a component with a `done()`, and `translation.simulate.run` runs it:

    class Harness( Component ):
      def construct( s, dut, msgs, expected ):
        s.dut, s.src, s.sink = dut, Source( T, msgs ), Sink( T, expected, Fuzz( seed=1 ) )
        s.src.send  //= s.dut.recv
        s.dut.send  //= s.sink.recv
      def done( s ):
        return s.src.done() and s.sink.done()
"""

# Components carry no type hints, as everywhere; mypy leaves them alone.
# mypy: allow-untyped-defs, allow-incomplete-defs, no-check-untyped-defs

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymtl3 import Component, mk_bits, update_ff
from pymtl3.stdlib.stream.ifcs import MinionIfcRTL, RecvIfcRTL, SendIfcRTL

from npu.arch.messages import mk_mem_read_req, mk_mem_write, mk_spad_write

class HarnessError( AssertionError ):
  """A block under test did something wrong: what, where and in which cycle."""

#-------------------------------------------------------------------------
# Delays and stalls
#-------------------------------------------------------------------------

@dataclass( frozen=True )
class Fuzz:
  """Random delays: none for half of the messages, otherwise 1 to `most` cycles."""
  seed: int
  most: int = 5

# Cycles before each message: the same for all, one by one, or random.
Delays = int | Sequence[int] | Fuzz

class _Delays:
  """`next()` gives the delay before the next message; none after the end of a list."""

  def __init__( self, delays: Delays, messages: int | None ) -> None:
    if isinstance( delays, Sequence ) and messages is not None and len( delays ) != messages:
      raise ValueError( f"{len( delays )} delays for {messages} messages" )
    self.delays = delays
    self.reset()

  def reset( self ) -> None:
    self.random = random.Random( self.delays.seed if isinstance( self.delays, Fuzz ) else 0 )
    self.given  = iter( self.delays if isinstance( self.delays, Sequence ) else () )

  def next( self ) -> int:
    if isinstance( self.delays, int ):
      return self.delays
    if isinstance( self.delays, Fuzz ):
      return self.random.randint( 1, self.delays.most ) if self.random.random() < 0.5 else 0
    return next( self.given, 0 )

class _Stalls:
  """`next()` says for each of `ports` ports whether it stalls in the next cycle."""

  def __init__( self, seed: int | None, probability: float, ports: int ) -> None:
    self.seed, self.probability, self.ports = seed, probability, ports
    self.reset()

  def reset( self ) -> None:
    self.random = random.Random( self.seed or 0 )

  def next( self ) -> list[bool]:
    if self.seed is None:
      return [ False ] * self.ports
    return [ self.random.random() < self.probability for _ in range( self.ports ) ]

def _messages( Type: Any, msgs: Sequence[Any] ) -> list[Any]:
  return [ m if isinstance( m, Type ) else Type( m ) for m in msgs ]

def row_to_int( row: NDArray[np.uint32] ) -> int:
  """The bits of a row of lanes [n], as they are on a port: lane 0 is the lowest."""
  return int.from_bytes( np.ascontiguousarray( row, dtype="<u4" ).tobytes(), "little" )

def int_to_row( bits: int, n: int ) -> NDArray[np.uint32]:
  """The lanes [n] of a row, from its bits; lane 0 is the lowest."""
  return np.frombuffer( int( bits ).to_bytes( 4 * n, "little" ), dtype="<u4" ).astype( np.uint32 )

#-------------------------------------------------------------------------
# Source and sink
#-------------------------------------------------------------------------

class Source( Component ):
  """Sends `msgs` in order: the first is offered in cycle 1, each next one in the cycle after the last was taken,
  and each later by its delay.

  Ports
  -----
  send
    SendIfcRTL( Type ). `val` stays once it is set.

  After a run `cycles` has the cycle in which each message was taken.
  """

  def construct( s, Type, msgs, delays=0 ):
    s.send   = SendIfcRTL( Type )
    s.msgs   = _messages( Type, msgs )
    s.delays = _Delays( delays, len( s.msgs ) )
    s.sent   = 0
    s.wait   = 0
    s.now    = 0
    s.cycles = []

    @update_ff
    def tick():
      if s.reset:
        s.delays.reset()
        s.wait   = s.delays.next()
        s.sent   = s.now = 0
        s.cycles = []
        s.send.val <<= 0
      else:
        if s.send.val & s.send.rdy:
          s.cycles.append( s.now )
          s.sent += 1
          s.wait = s.delays.next()
        if s.wait == 0 and s.sent < len( s.msgs ):
          s.send.val <<= 1
          s.send.msg <<= s.msgs[s.sent]
        else:
          s.send.val <<= 0
        s.wait = max( s.wait - 1, 0 )
        s.now += 1

  def done( s ):
    """Whether all messages are sent."""
    return s.sent == len( s.msgs )

  def waiting_for( s ):
    """What is missing, empty if nothing."""
    return "" if s.done() else f"{s.sent} of {len( s.msgs )} messages are sent{_last( s.cycles )}"

  def line_trace( s ):
    """The message sent, # stalled, . idle."""
    return f"{s.send}"

class Sink( Component ):
  """Takes messages and compares them with `expected`, in order; it stays ready after the last one.

  Each message is taken `delays` cycles after it could have been, the first one in cycle 1.

  Ports
  -----
  recv
    RecvIfcRTL( Type ). `rdy` stays once it is set, until a message comes.

  Parameters
  ----------
  expected
    None to take everything and compare nothing.

  After a run `msgs` has the messages and `cycles` the cycle in which each was taken. Raises HarnessError for a
  wrong and for an extra message, in the cycle in which it comes.
  """

  def construct( s, Type, expected, delays=0 ):
    s.recv     = RecvIfcRTL( Type )
    s.expected = None if expected is None else _messages( Type, expected )
    s.delays   = _Delays( delays, None if expected is None else len( s.expected ) )
    s.wait     = 0
    s.now      = 0
    s.msgs     = []
    s.cycles   = []

    @update_ff
    def tick():
      if s.reset:
        s.delays.reset()
        s.wait   = s.delays.next()
        s.now    = 0
        s.msgs   = []
        s.cycles = []
        s.recv.rdy <<= 0
      else:
        if s.recv.val & s.recv.rdy:
          s.take( s.recv.msg )
          s.wait = s.delays.next()
        s.recv.rdy <<= s.wait == 0
        s.wait = max( s.wait - 1, 0 )
        s.now += 1

  def take( s, msg ):
    i = len( s.msgs )
    s.msgs.append( msg.clone() )   # PyMTL3 changes messages in place
    s.cycles.append( s.now )
    if s.expected is None:
      return
    if i >= len( s.expected ):
      raise HarnessError( f"{repr( s )[2:]}: extra message in cycle {s.now}: message {i} is {msg}, but only "
                          f"{len( s.expected )} are expected" )
    if msg != s.expected[i]:
      raise HarnessError( f"{repr( s )[2:]}: wrong message in cycle {s.now}: message {i} of {len( s.expected )}\n"
                          f"  got      {msg}\n  expected {s.expected[i]}" )

  def done( s ):
    """Whether all expected messages came; if none are known, always."""
    return s.expected is None or len( s.msgs ) >= len( s.expected )

  def waiting_for( s ):
    """What is missing, empty if nothing."""
    return "" if s.done() else f"{len( s.msgs )} of {len( s.expected )} messages came{_last( s.cycles )}"

  def line_trace( s ):
    """The message taken, # stalled, . idle."""
    return f"{s.recv}"

def _last( cycles: Sequence[int] ):
  return f", the last in cycle {cycles[-1]}" if cycles else ""

#-------------------------------------------------------------------------
# Memory
#-------------------------------------------------------------------------

class Memory( Component ):
  """DRAM: answers burst reads with one message per beat, in order, and takes writes of one beat.

  A request taken in cycle t has its first beat offered in cycle t + latency, later if beats of earlier
  requests are still to go. Beats are offered 1 / beats_per_cycle cycles apart, rounded up to whole cycles
  without losing the fraction; one that is not taken at once holds up those behind it. Requests
  are taken in every cycle, any number of them. With a seed, in a random part of the cycles no request is
  taken, in as many no beat begins to be offered, and in as many no write is taken.

  Reads and writes share the bandwidth, and take turns if both want to go on. A read request sees the writes
  taken before its own cycle, and no others.

  Ports
  -----
  ifc
    MinionIfcRTL( mk_mem_read_req( cfg ), Bits of a beat ): connect a MasterIfcRTL, or its `req` and `resp`.
  wr
    RecvIfcRTL( mk_mem_write( cfg ) ); may be left open.

  Parameters
  ----------
  data
    uint8 [bytes], whole beats; used and changed, not copied.
  latency
    Cycles, 1 or more; by default cfg.dram_latency.
  beats_per_cycle
    More than 0, at most 1; write Fraction( 2, 3 ).
  stall_seed, stall_probability
    None stalls never.
  first
    Address of `data` in beats.

  After a run `requests` has ( cycle, address in beats, beats ) of each request, `beats` the number of
  beats taken and `cycles` the cycle of each; `writes` has ( cycle, address in beats, strobe ) of each write.
  Raises HarnessError for a burst of no beats, one that crosses 4 KiB, and a burst or write that leaves the
  memory.
  """

  def construct( s, cfg, data, latency=None, beats_per_cycle=Fraction( 1 ), stall_seed=None,
                 stall_probability=0.25, first=0 ):
    Beat       = mk_bits( cfg.derived.beat_bits )
    s.ifc      = MinionIfcRTL( mk_mem_read_req( cfg ), Beat )
    s.wr       = RecvIfcRTL( mk_mem_write( cfg ) )
    s.cfg      = cfg
    s.data     = data
    s.first    = first
    s.latency  = cfg.dram_latency if latency is None else latency
    s.period   = 1 / Fraction( beats_per_cycle )
    s.stalls   = _Stalls( stall_seed, stall_probability, 2 )
    s.w_stalls = _Stalls( None if stall_seed is None else stall_seed + 1, stall_probability, 1 )
    s.clear()
    if data.dtype != np.uint8 or data.size % cfg.derived.beat_bytes:
      raise ValueError( f"memory is {data.dtype} [{data.size}]; it must be uint8, whole beats of "
                        f"{cfg.derived.beat_bytes} bytes" )
    if s.latency < 1 or s.period < 1:
      raise ValueError( f"memory has latency {s.latency} and {beats_per_cycle} beats per cycle; choose at least 1 "
                        "cycle and at most 1 beat" )

    @update_ff
    def tick():
      if s.reset:
        s.clear()
        s.ifc.req.rdy  <<= 0
        s.ifc.resp.val <<= 0
        s.wr.rdy       <<= 0
      else:
        # Reads first: they do not see the write of this cycle.
        if s.ifc.req.val & s.ifc.req.rdy:
          s.take( int( s.ifc.req.msg.addr ), int( s.ifc.req.msg.beats ) )
        if s.ifc.resp.val & s.ifc.resp.rdy:
          s.give()
        if s.wr.val & s.wr.rdy:
          s.write( int( s.wr.msg.addr ), int( s.wr.msg.data ), int( s.wr.msg.strobe ) )
        s.writing = bool( s.wr.val )
        s.waits   = s.writing and not s.wr.rdy
        s.now += 1
        stalls, w_stall = s.stalls.next(), s.w_stalls.next()[0]
        s.ifc.req.rdy  <<= not stalls[0]
        reads = s.offer( stalls[1] or ( s.waits and s.turn and not w_stall ) )
        s.ifc.resp.val <<= reads
        if reads:
          s.ifc.resp.msg <<= s.queue[0][1]
        s.wr.rdy <<= not reads and not w_stall and s.free <= s.now

  def clear( s ):
    s.stalls.reset()
    s.w_stalls.reset()
    s.requests = []
    s.writes   = []
    s.beats    = 0
    s.cycles   = []
    s.queue    = deque()          # ( earliest cycle, bits ) of beats to come
    s.free     = Fraction( 0 )    # when the next beat may follow the one before
    s.begun    = None             # when the beat that is offered was due, None if none is
    s.writing  = False            # a write was offered in the cycle before,
    s.waits    = False            # and not taken
    s.turn     = False            # it is before the next read
    s.now      = 0

  def take( s, addr, beats ):
    d = s.cfg.derived
    s.requests.append( ( s.now, addr, beats ) )
    where = f"{repr( s )[2:]}: in cycle {s.now} a burst of {beats} beats at beat {addr}"
    if beats == 0:
      raise HarnessError( f"{where} is empty" )
    if addr // d.burst_beats != ( addr + beats - 1 ) // d.burst_beats:
      raise HarnessError( f"{where} crosses 4 KiB, which is {d.burst_beats} beats" )
    s.check( where, addr, beats )
    s.queue.extend( ( s.now + s.latency, s.beat( addr + i ) ) for i in range( beats ) )

  def offer( s, stalled ):
    if s.begun is None and s.queue and not stalled:
      due     = max( Fraction( s.queue[0][0] ), s.free )
      s.begun = due if due <= s.now else None
    return s.begun is not None

  def give( s ):
    at_once = ceil( s.begun ) == s.now
    s.free  = ( s.begun if at_once else s.now ) + s.period
    s.begun = None
    s.turn  = True
    s.queue.popleft()
    s.beats += 1
    s.cycles.append( s.now )

  def write( s, addr, data, strobe ):
    size = s.cfg.derived.beat_bytes
    s.writes.append( ( s.now, addr, strobe ) )
    s.check( f"{repr( s )[2:]}: in cycle {s.now} a write to beat {addr}", addr, 1 )
    beat    = s.data[( addr - s.first ) * size :][:size]
    taken   = [ strobe >> i & 1 == 1 for i in range( size ) ]
    beat[taken] = np.frombuffer( data.to_bytes( size, "little" ), dtype=np.uint8 )[taken]
    # Writes in a row lose no fraction of a cycle.
    at_once = s.writing and ceil( s.free ) == s.now
    s.free  = ( s.free if at_once else s.now ) + s.period
    s.turn  = False

  def check( s, where, addr, beats ):
    total = s.data.size // s.cfg.derived.beat_bytes
    if addr < s.first or addr + beats > s.first + total:
      raise HarnessError( f"{where} leaves the memory of {total} beats" )

  def beat( s, addr ):
    size = s.cfg.derived.beat_bytes
    return int.from_bytes( s.data[( addr - s.first ) * size :][:size].tobytes(), "little" )

  def done( s ):
    """Whether every request is answered."""
    return not s.queue

  def waiting_for( s ):
    """What is missing, empty if nothing."""
    return "" if s.done() else f"{len( s.queue )} beats are asked for and not taken{_last( s.cycles )}"

  def line_trace( s ):
    """Request, beats to go, beat, write."""
    return f"{s.ifc.req}({len( s.queue )}){s.ifc.resp}|{s.wr}"

#-------------------------------------------------------------------------
# Scratchpad
#-------------------------------------------------------------------------

class Scratchpad( Component ):
  """Rows of n 32-bit lanes with separate read and write ports.

  A read taken in cycle t has its row offered in cycle t + 1, and every port takes a read per cycle while its rows
  are taken at once. It sees the writes taken before cycle t. With a seed, each port takes no request, and
  begins to offer no row, in a random part of the cycles.

  Ports
  -----
  read
    n_read_ports of MinionIfcRTL( Bits of an address, Bits of a row ).
  write
    n_write_ports of RecvIfcRTL( mk_spad_write( cfg ) ).

  Parameters
  ----------
  rows
    uint32 [rows, n], used and changed; or the number of rows, which are then 0. By default cfg's number.
  stall_seed, stall_probability
    None stalls never.

  After a run `rows` has the contents, `reads` has ( cycle, port, address ) of each read and `writes` has
  ( cycle, port, address, row ) of each write, in order. Raises HarnessError for an address out of range and
  for two writes to a row in a cycle.
  """

  def construct( s, cfg, n_read_ports=1, n_write_ports=1, rows=None, stall_seed=None,
                 stall_probability=0.25 ):
    d      = cfg.derived
    Addr   = mk_bits( d.spad_addr_bits )
    Row    = mk_bits( d.beat_bits )
    if rows is None or isinstance( rows, int ):
      rows = np.zeros( ( d.spad_rows if rows is None else rows, cfg.n ), dtype=np.uint32 )
    if rows.dtype != np.uint32 or rows.ndim != 2 or rows.shape[1] != cfg.n or len( rows ) > d.spad_rows:
      raise ValueError( f"scratchpad is {rows.dtype} {list( rows.shape )}; it must be uint32 [rows, {cfg.n}] of at "
                        f"most {d.spad_rows} rows" )
    s.read   = [ MinionIfcRTL( Addr, Row ) for _ in range( n_read_ports ) ]
    s.write  = [ RecvIfcRTL( mk_spad_write( cfg ) ) for _ in range( n_write_ports ) ]
    s.rows   = rows
    s.stalls = _Stalls( stall_seed, stall_probability, 2 * n_read_ports + n_write_ports )
    s.clear()

    @update_ff
    def tick():
      if s.reset:
        s.clear()
        for i in range( n_read_ports ):
          s.read[i].req.rdy  <<= 0
          s.read[i].resp.val <<= 0
        for i in range( n_write_ports ):
          s.write[i].rdy <<= 0
      else:
        # Reads first: they do not see the writes of this cycle.
        for i in range( n_read_ports ):
          if s.read[i].resp.val & s.read[i].resp.rdy:
            s.queues[i].popleft()
            s.begun[i] = False
          if s.read[i].req.val & s.read[i].req.rdy:
            s.take_read( i, int( s.read[i].req.msg ) )
        for i in range( n_write_ports ):
          if s.write[i].val & s.write[i].rdy:
            s.take_write( i, int( s.write[i].msg.addr ), int( s.write[i].msg.data ) )
        s.now += 1
        stalls = s.stalls.next()
        for i in range( n_read_ports ):
          s.begun[i] = s.begun[i] or ( len( s.queues[i] ) > 0 and not stalls[2 * i] )
          s.read[i].resp.val <<= s.begun[i]
          s.read[i].resp.msg <<= s.queues[i][0] if s.queues[i] else 0
          s.read[i].req.rdy  <<= len( s.queues[i] ) < 2 and not stalls[2 * i + 1]
        for i in range( n_write_ports ):
          s.write[i].rdy <<= not stalls[2 * n_read_ports + i]

  def clear( s ):
    s.stalls.reset()
    s.reads  = []
    s.writes = []
    s.queues = [ deque() for _ in s.read ]   # rows read and not taken, at most two
    s.begun  = [ False for _ in s.read ]     # whether a row is offered
    s.now    = 0

  def take_read( s, port, addr ):
    s.check( f"read[{port}]", addr )
    s.reads.append( ( s.now, port, addr ) )
    s.queues[port].append( row_to_int( s.rows[addr] ) )

  def take_write( s, port, addr, data ):
    s.check( f"write[{port}]", addr )
    if any( cycle == s.now and other == addr for cycle, _, other, _ in s.writes[-len( s.write ):] ):
      raise HarnessError( f"{repr( s )[2:]}: two writes to row {addr} in cycle {s.now}" )
    row = int_to_row( data, s.rows.shape[1] )
    s.writes.append( ( s.now, port, addr, row ) )
    s.rows[addr] = row

  def check( s, port, addr ):
    if addr >= len( s.rows ):
      raise HarnessError( f"{repr( s )[2:]}.{port}: row {addr} in cycle {s.now}, but there are {len( s.rows )} rows" )

  def done( s ):
    """Whether every read is answered."""
    return not any( s.queues )

  def waiting_for( s ):
    """What is missing, empty if nothing."""
    return "; ".join( f"read[{i}] has {len( q )} rows read and not taken" for i, q in enumerate( s.queues ) if q )

  def line_trace( s ):
    """Read ports, then write ports."""
    return "|".join( [ f"{p.req}(){p.resp}" for p in s.read ] + [ f"{p}" for p in s.write ] )
