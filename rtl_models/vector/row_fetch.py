"""Reads scratchpad rows ahead of their use, at addresses that come from outside, and keeps a tag with each."""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass
from pymtl3.stdlib.stream import NormalQueueRTL
from pymtl3.stdlib.stream.ifcs import MasterIfcRTL, SendIfcRTL

AHEAD = 4    # rows asked for but not used: hides the scratchpad's latency at one row a cycle

class RowFetch( Component ):
  """Costs a buffer of `AHEAD` rows. A row is asked for only if it has room, so that a response never waits.

  Parameters
  ----------
  TAG
    Type of a tag.

  Ports
  -----
  ask, addr, tag
    A row is wanted; they stay until `taken`.
  taken
    The scratchpad has taken the request.
  out, out_tag
    The rows, in order, and their tags.
  """

  def construct( s, cfg, TAG ):
    d = cfg.derived
    s.set_metadata( VerilogTranslationPass.explicit_module_name, f"RowFetch_n{cfg.n}_a{d.spad_addr_bits}_t{TAG.nbits}" )
    BEAT = mk_bits( d.beat_bits )
    SPAD = mk_bits( d.spad_addr_bits )

    # Interface

    s.ask     = InPort()
    s.addr    = InPort( SPAD )
    s.tag     = InPort( TAG )
    s.taken   = OutPort()
    s.mem     = MasterIfcRTL( SPAD, BEAT )
    s.out     = SendIfcRTL( BEAT )
    s.out_tag = OutPort( TAG )

    # Components

    s.buffer = NormalQueueRTL( BEAT, AHEAD )
    s.tags   = NormalQueueRTL( TAG, AHEAD )   # its room is the reservation

    # Connections

    s.mem.resp      //= s.buffer.recv
    s.out.msg       //= s.buffer.send.msg
    s.mem.req.msg   //= s.addr
    s.tags.recv.msg //= s.tag
    s.out_tag       //= s.tags.send.msg

    # Logic

    @update
    def up_request():
      s.mem.req.val   @= s.ask & s.tags.recv.rdy
      s.taken         @= s.mem.req.val & s.mem.req.rdy
      s.tags.recv.val @= s.taken
      s.out.val         @= s.buffer.send.val & s.tags.send.val
      s.buffer.send.rdy @= s.out.val & s.out.rdy
      s.tags.send.rdy   @= s.out.val & s.out.rdy

  def line_trace( s ):
    return f"{s.buffer.count}/{s.tags.count}"
