"""Reads scratchpad rows of a matrix ahead of their use, in the order of a nested loop."""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass
from pymtl3.stdlib.stream import NormalQueueRTL
from pymtl3.stdlib.stream.ifcs import MasterIfcRTL, SendIfcRTL

AHEAD = 4    # rows asked for but not used: hides the scratchpad's latency at one row a cycle

class RowReader( Component ):
  """For each of `outer`, of `inner`, of `rows`: the row at base + inner index + row * stride.

  Ports
  -----
  start
    Takes the parameters in this cycle; reads begin in the next.
  out
    The rows, in order.
  """

  def construct( s, cfg ):
    d = cfg.derived
    s.set_metadata( VerilogTranslationPass.explicit_module_name, f"RowReader_n{cfg.n}_a{d.spad_addr_bits}" )
    BEAT = mk_bits( d.beat_bits )
    SPAD = mk_bits( d.spad_addr_bits )
    ROW  = mk_bits( d.row_count_bits )

    # Interface

    s.start  = InPort()
    s.base   = InPort( SPAD )
    s.stride = InPort( SPAD )
    s.rows   = InPort( ROW )
    s.inner  = InPort( 20 )
    s.outer  = InPort( 20 )
    s.mem    = MasterIfcRTL( SPAD, BEAT )
    s.out    = SendIfcRTL( BEAT )

    # Components

    s.buffer = NormalQueueRTL( BEAT, AHEAD )
    s.free   = Wire( 3 )
    s.addr   = Wire( SPAD )
    s.column = Wire( SPAD )               # address of the first row at this inner index
    s.row    = Wire( ROW )
    s.i      = Wire( 20 )
    s.o      = Wire( 20 )                 # outer steps to go
    s.asked  = Wire()
    s.used   = Wire()

    # Connections

    s.mem.resp //= s.buffer.recv
    s.out      //= s.buffer.send

    # Logic

    @update
    def up_request():
      s.mem.req.val @= ( s.o != 0 ) & ( s.free != 0 )
      s.mem.req.msg @= s.addr
      s.asked @= s.mem.req.val & s.mem.req.rdy
      s.used  @= s.out.val & s.out.rdy

    @update_ff
    def ff_request():
      if s.reset:
        s.o    <<= 0
        s.free <<= AHEAD
      else:
        if s.asked & ~s.used:
          s.free <<= s.free - 1
        elif s.used & ~s.asked:
          s.free <<= s.free + 1
        if s.start:
          s.addr   <<= s.base
          s.column <<= s.base
          s.row    <<= 0
          s.i      <<= 0
          s.o      <<= s.outer
        elif s.asked:
          if s.row + 1 != s.rows:
            s.row  <<= s.row + 1
            s.addr <<= s.addr + s.stride
          else:
            s.row <<= 0
            if s.i + 1 != s.inner:
              s.i      <<= s.i + 1
              s.column <<= s.column + 1
              s.addr   <<= s.column + 1
            else:
              s.i <<= 0
              s.o <<= s.o - 1
              s.column <<= s.base
              s.addr   <<= s.base

  def line_trace( s ):
    return f"{s.o}:{s.i}:{s.row}"
