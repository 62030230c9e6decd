"""Copies rows from the scratchpad to memory: STORE."""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass
from pymtl3.stdlib.stream import NormalQueueRTL
from pymtl3.stdlib.stream.ifcs import MasterIfcRTL, RecvIfcRTL, SendIfcRTL

from npu.arch.config import clog2
from npu.arch.messages import mk_mem_write
from rtl_models.control.address_walk import WIDTH_BITS, AddressWalk
from rtl_models.control.load_unit import JOBS, mk_store_job

AHEAD = 4    # rows asked for but not written: hides the scratchpad's latency at one row a cycle

class StoreUnit( Component ):
  """One job after the other; the scratchpad is read ahead of the writes.

  Ports
  -----
  job
    What to store (`mk_store_job`); words past the length are not written.
  busy
    A job waits or is being done.
  """

  def construct( s, cfg ):
    n, d  = cfg.n, cfg.derived
    lg    = clog2( n )
    s.set_metadata( VerilogTranslationPass.explicit_module_name, f"StoreUnit_n{n}_a{d.spad_addr_bits}" )
    BEAT  = mk_bits( d.beat_bits )
    SPAD  = mk_bits( d.spad_addr_bits )
    JOB   = mk_store_job( cfg )
    addr_bits  = d.beat_addr_bits
    beat_shift = clog2( d.beats_per_line )
    IDLE, SETUP, RUN = range( 3 )

    # Interface

    s.job  = RecvIfcRTL( JOB )
    s.busy = OutPort()
    s.spad = MasterIfcRTL( SPAD, BEAT )
    s.wr   = SendIfcRTL( mk_mem_write( cfg ) )

    # Components

    s.queue  = NormalQueueRTL( JOB, JOBS )
    s.rows   = NormalQueueRTL( BEAT, AHEAD )
    s.source = AddressWalk( d.spad_addr_bits )
    s.target = AddressWalk( addr_bits )
    s.state  = Wire( 2 )
    s.now    = Wire( JOB )
    s.free   = Wire( 3 )                  # rows neither read nor asked for
    s.width  = Wire( WIDTH_BITS )         # beats of a row
    s.tail   = Wire( lg )                 # words in the last beat of a row; 0: all

    # Connections

    s.job           //= s.queue.recv
    s.spad.resp     //= s.rows.recv
    s.source.base   //= s.now.spad
    s.source.stride //= s.now.stride
    s.source.rows   //= s.now.rows
    s.source.width  //= s.width
    s.target.rows   //= s.now.rows
    s.target.width  //= s.width
    s.tail          //= s.now.length[0:lg]

    # Logic

    @update
    def up_job():
      s.busy           @= ( s.state != IDLE ) | s.queue.send.val
      s.queue.send.rdy @= s.state == IDLE
      s.width          @= ( zext( s.now.length, WIDTH_BITS ) + ( n - 1 ) ) >> lg
      s.source.start   @= s.state == SETUP
      s.target.start   @= s.state == SETUP
      s.target.base    @= zext( s.now.dram, addr_bits ) << beat_shift
      s.target.stride  @= zext( s.now.row_lines, addr_bits ) << beat_shift

    @update_ff
    def ff_job():
      if s.reset:
        s.state <<= IDLE
      elif s.state == IDLE:
        if s.queue.send.val:
          s.now   <<= s.queue.send.msg
          s.state <<= SETUP
      elif s.state == SETUP:
        s.state <<= RUN
      elif s.target.step & s.target.last:
        s.state <<= IDLE

    @update
    def up_read():
      s.spad.req.val @= s.source.more & ( s.free != 0 )
      s.spad.req.msg @= s.source.addr
      s.source.step  @= s.spad.req.val & s.spad.req.rdy

    @update_ff
    def ff_free():
      if s.reset:
        s.free <<= AHEAD
      elif s.source.step & ~s.target.step:
        s.free <<= s.free - 1
      elif s.target.step & ~s.source.step:
        s.free <<= s.free + 1

    s.keep   = [ Wire() for _ in range( n ) ]      # lanes that are not past the length
    s.strobe = Wire( 4 * n )
    for c in range( n ):
      for b in range( 4 ):
        s.strobe[4 * c + b] //= s.keep[c]

    @update
    def up_lanes():
      for c in range( n ):
        s.keep[c] @= ~s.target.last_column | ( s.tail == 0 ) | ( s.tail > c )

    @update
    def up_write():
      s.wr.val        @= s.rows.send.val & s.target.more
      s.wr.msg.addr   @= s.target.addr
      s.wr.msg.data   @= s.rows.send.msg
      s.wr.msg.strobe @= s.strobe
      s.rows.send.rdy @= s.wr.rdy & s.target.more
      s.target.step   @= s.wr.val & s.wr.rdy

  def line_trace( s ):
    return f"{s.state}:{s.source.line_trace()}:{s.target.line_trace()}"
