"""Scratchpad: a model that answers in the next cycle, its ports, and the component around them."""

import numpy as np
from pymtl3 import *
from pymtl3.stdlib.stream.ifcs import MinionIfcRTL, RecvIfcRTL

from cl.common.ports import HIGH, LOW, ReadPort, WritePort
from cl.common.signals import mk_any, mk_sample
from cl.memory.model import AccessError, Stalls
from npu.arch.messages import mk_spad_write

SPAD_READERS = ( "mac.act", "mac.res", "vec.src", "vec.src2", "att.q", "att.acc", "store" )
SPAD_WRITERS = ( "mac", "vec", "att", "load" )
FP32_WRITERS = 3                                         # of them, the first three write results

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
    self.reads  = [ ReadPort( ifc ) for ifc in reads ]
    self.writes = [ WritePort( ifc ) for ifc in writes ]
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
        me.spad.reset()
        me.ports = SpadPorts( me.spad, me.read, me.write )
      else:
        me.ports.tick()

  def line_trace( s ):
    return "|".join( [ f"{p.req}(){p.resp}" for p in s.read ] + [ f"{p}" for p in s.write ] )
