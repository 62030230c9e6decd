"""Reads scratchpad rows ahead of their use, in the order of an `AddressNest`."""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass
from pymtl3.stdlib.stream import NormalQueueRTL
from pymtl3.stdlib.stream.ifcs import MasterIfcRTL, SendIfcRTL

from rtl_models.attention.address_nest import COUNT_BITS, AddressNest

AHEAD = 4    # rows asked for but not used: hides the scratchpad's latency at one row a cycle

class AttentionRows( Component ):
  """Ports as `AddressNest`, and the rows at `out`, in order.

  Ports
  -----
  idle
    Everything is asked for: the next nest may start.
  ended
    The last row of the nest is asked for in this cycle.
  """

  def construct( s, cfg ):
    d = cfg.derived
    s.set_metadata( VerilogTranslationPass.explicit_module_name, f"AttentionRows_n{cfg.n}_a{d.spad_addr_bits}" )
    BEAT  = mk_bits( d.beat_bits )
    SPAD  = mk_bits( d.spad_addr_bits )
    COUNT = mk_bits( COUNT_BITS )

    # Interface

    s.start       = InPort()
    s.base        = InPort( SPAD )
    s.inner       = InPort( COUNT )
    s.inner_step  = InPort( SPAD )
    s.middle      = InPort( COUNT )
    s.middle_step = InPort( SPAD )
    s.outer       = InPort( COUNT )
    s.times       = InPort( 3 )
    s.idle        = OutPort()
    s.ended       = OutPort()
    s.mem         = MasterIfcRTL( SPAD, BEAT )
    s.out         = SendIfcRTL( BEAT )

    # Components

    s.nest   = AddressNest( cfg )
    s.buffer = NormalQueueRTL( BEAT, AHEAD )
    s.free   = Wire( 3 )

    # Connections

    s.nest.start       //= s.start
    s.nest.base        //= s.base
    s.nest.inner       //= s.inner
    s.nest.inner_step  //= s.inner_step
    s.nest.middle      //= s.middle
    s.nest.middle_step //= s.middle_step
    s.nest.outer       //= s.outer
    s.nest.times       //= s.times
    s.mem.resp         //= s.buffer.recv
    s.out              //= s.buffer.send
    s.mem.req.msg      //= s.nest.addr

    # Logic

    s.asked = Wire()
    s.used  = Wire()

    @update
    def up_request():
      s.mem.req.val @= s.nest.val & ( s.free != 0 )
      s.asked       @= s.mem.req.val & s.mem.req.rdy
      s.used        @= s.out.val & s.out.rdy
      s.nest.step   @= s.asked
      s.idle        @= ~s.nest.val
      s.ended       @= s.asked & s.nest.last

    @update_ff
    def ff_free():
      if s.reset:
        s.free <<= AHEAD
      elif s.asked & ~s.used:
        s.free <<= s.free - 1
      elif s.used & ~s.asked:
        s.free <<= s.free + 1

  def line_trace( s ):
    return f"{s.nest.line_trace()}({s.free})"
