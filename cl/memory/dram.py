"""DRAM: a model with latency and bandwidth, and the component around it."""

from collections import deque
from fractions import Fraction

import numpy as np
from pymtl3 import *
from pymtl3.stdlib.stream.ifcs import MinionIfcRTL, RecvIfcRTL

from cl.memory.model import AccessError, Stalls
from npu.arch.messages import mk_mem_read_req, mk_mem_write
from npu.errors import NpuError

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
    # State is plain Python, reached by another name: PyMTL3 takes what it reads through `s` for signals.
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
