"""Reads a linear stream from memory ahead of its use.

Costs a buffer of `stream_beats` beats. Bursts are asked for only as far as the buffer has room, so a
response never waits and the memory is never blocked.
"""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass
from pymtl3.stdlib.stream import NormalQueueRTL
from pymtl3.stdlib.stream.ifcs import MasterIfcRTL, RecvIfcRTL, SendIfcRTL

from npu.arch.config import clog2
from npu.arch.messages import mk_mem_read_req, mk_stream_req

MAX_BURST = 16    # beats: long enough for a DRAM row, short enough to keep the buffer busy

class StreamReader( Component ):
  """Takes requests (first beat, number of beats) one after the other, and sends their beats in order."""

  def construct( s, cfg ):
    d = cfg.derived
    s.set_metadata( VerilogTranslationPass.explicit_module_name, f"StreamReader_n{cfg.n}_d{d.stream_beats}" )
    BEAT   = mk_bits( d.beat_bits )
    ADDR   = mk_bits( d.beat_addr_bits )
    LEN    = mk_bits( d.burst_len_bits )
    FREE   = mk_bits( clog2( d.stream_beats + 1 ) )
    REQ    = mk_mem_read_req( cfg )
    offset = clog2( d.burst_beats )       # bits of an address inside a 4 KiB page
    page   = d.burst_beats
    depth  = d.stream_beats

    # Interface

    s.start = RecvIfcRTL( mk_stream_req( cfg ) )
    s.mem   = MasterIfcRTL( REQ, BEAT )
    s.out   = SendIfcRTL( BEAT )

    # Components

    s.buffer = NormalQueueRTL( BEAT, d.stream_beats )
    s.addr   = Wire( ADDR )
    s.left   = Wire( 32 )
    s.free   = Wire( FREE )               # entries neither filled nor asked for
    s.burst  = Wire( LEN )

    # Connections

    s.mem.resp //= s.buffer.recv
    s.out      //= s.buffer.send

    # Logic

    @update
    def up_burst():
      s.burst @= LEN( page ) - zext( s.addr[0:offset], LEN )
      if s.burst > MAX_BURST:
        s.burst @= MAX_BURST
      if s.left < zext( s.burst, 32 ):
        s.burst @= trunc( s.left, LEN )
      s.start.rdy    @= s.left == 0
      s.mem.req.val  @= ( s.left != 0 ) & ( zext( s.free, 32 ) >= zext( s.burst, 32 ) )
      s.mem.req.msg  @= REQ( s.addr, s.burst )

    s.taken = Wire( FREE )
    s.given = Wire( FREE )

    @update
    def up_room():
      s.taken @= 0
      if s.mem.req.val & s.mem.req.rdy:
        s.taken @= trunc( zext( s.burst, 32 ), FREE )
      s.given @= zext( s.out.val & s.out.rdy, FREE )

    @update_ff
    def ff_request():
      if s.reset:
        s.left <<= 0
        s.free <<= depth
      else:
        s.free <<= s.free - s.taken + s.given
        if s.start.val & s.start.rdy:
          s.addr <<= s.start.msg.addr
          s.left <<= s.start.msg.beats
        elif s.mem.req.val & s.mem.req.rdy:
          s.addr <<= s.addr + zext( s.burst, ADDR )
          s.left <<= s.left - zext( s.burst, 32 )

  def line_trace( s ):
    return f"{s.left}"
