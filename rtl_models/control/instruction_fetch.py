"""Reads instructions ahead of their use.

Costs a queue of eight instructions. Memory addresses count beats; a slot is a place for an instruction, half a line.
"""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass
from pymtl3.stdlib.stream import NormalQueueRTL
from pymtl3.stdlib.stream.ifcs import MasterIfcRTL, SendIfcRTL

from npu.arch.messages import mk_mem_read_req
from rtl_models.control.decoder import INSTRUCTION_BITS

DEPTH     = 8     # instructions asked for or waiting
SLOT_BITS = 34    # 2^33 slots, and as many again where a program counter may point

class InstructionFetch( Component ):
  """One instruction per request, in order, from slot `first` on and before slot `limit`.

  What is under way or waits when it starts anew counts as stale and is dropped, one instruction a cycle.

  Ports
  -----
  start
    Go on at `first`.
  hold
    No new requests.
  quiet
    No request is offered or unanswered.
  mem
    Every response is taken at once.
  """

  def construct( s, cfg ):
    n, d  = cfg.n, cfg.derived
    s.set_metadata( VerilogTranslationPass.explicit_module_name, f"InstructionFetch_n{n}" )
    BEAT  = mk_bits( d.beat_bits )
    ADDR  = mk_bits( d.beat_addr_bits )
    LEN   = mk_bits( d.burst_len_bits )
    CODE  = mk_bits( INSTRUCTION_BITS )
    REQ   = mk_mem_read_req( cfg )
    beats = max( 8 // n, 1 )              # of an instruction

    # Interface

    s.start = InPort()
    s.first = InPort( SLOT_BITS )
    s.limit = InPort( SLOT_BITS )
    s.hold  = InPort()
    s.quiet = OutPort()
    s.mem   = MasterIfcRTL( REQ, BEAT )
    s.out   = SendIfcRTL( CODE )

    # Components

    s.queue  = NormalQueueRTL( CODE, DEPTH )
    s.slot   = Wire( SLOT_BITS )          # the next to ask for
    s.asking = Wire()
    s.addr   = Wire( ADDR )
    s.ahead  = Wire( 4 )                  # instructions asked for and not taken or dropped
    s.stale  = Wire( 4 )                  # of them, to be dropped
    s.asks   = Wire()                     # one more is asked for
    s.pops   = Wire()                     # one less is ahead
    s.left   = Wire( 4 )
    s.room   = Wire()                     # to note down which half of a beat is asked for

    # Logic

    @update
    def up_request():
      s.mem.req.val  @= s.asking
      s.mem.req.msg  @= REQ( s.addr, LEN( beats ) )
      s.quiet        @= ~s.asking & ( s.ahead == s.queue.count )
      s.asks         @= ( ~s.start & ~s.hold & ( ~s.asking | s.mem.req.rdy ) & ( s.ahead != DEPTH )
                          & ( s.slot < s.limit ) & s.room )

    @update
    def up_out():
      s.out.val        @= s.queue.send.val & ( s.stale == 0 )
      s.out.msg        @= s.queue.send.msg
      s.queue.send.rdy @= ( s.stale != 0 ) | s.out.rdy
      s.pops           @= s.queue.send.val & s.queue.send.rdy
      s.left           @= s.ahead - zext( s.pops, 4 )

    @update_ff
    def ff_request():
      if s.reset:
        s.asking <<= 0
        s.ahead  <<= 0
        s.stale  <<= 0
        s.slot   <<= 0
      else:
        if s.asks:
          s.asking <<= 1
          s.slot   <<= s.slot + 1
        elif s.mem.req.rdy:
          s.asking <<= 0
        s.ahead <<= s.left + zext( s.asks, 4 )
        if s.start:
          s.slot  <<= s.first
          s.stale <<= s.left
        elif s.pops & ( s.stale != 0 ):
          s.stale <<= s.stale - 1

    # How instructions and beats relate: two beats each, one each, or two to a beat.

    # Room is reserved, so that responses never wait.

    if n == 4:
      s.room //= 1
      s.low    = Wire( BEAT )
      s.second = Wire()

      @update_ff
      def ff_beat():
        if s.reset:
          s.second <<= 0
        elif s.mem.resp.val:
          s.low    <<= s.mem.resp.msg
          s.second <<= ~s.second

      @update_ff
      def ff_addr4():
        if s.asks:
          s.addr <<= s.slot << 1

      @update
      def up_code4():
        s.mem.resp.rdy   @= s.queue.recv.rdy
        s.queue.recv.val @= s.mem.resp.val & s.second
        s.queue.recv.msg @= concat( s.mem.resp.msg, s.low )

    elif n == 8:
      s.room //= 1

      @update_ff
      def ff_addr8():
        if s.asks:
          s.addr <<= trunc( s.slot, ADDR )

      @update
      def up_code8():
        s.mem.resp.rdy   @= s.queue.recv.rdy
        s.queue.recv.val @= s.mem.resp.val
        s.queue.recv.msg @= s.mem.resp.msg

    else:
      s.odd  = NormalQueueRTL( Bits1, DEPTH )    # which half of each beat that is asked for
      s.half = Wire( CODE )
      s.room //= s.odd.recv.rdy

      @update_ff
      def ff_addr16():
        if s.asks:
          s.addr <<= s.slot[1:33]

      @update
      def up_code16():
        s.mem.resp.rdy   @= s.queue.recv.rdy & s.odd.send.val
        s.odd.recv.val   @= s.asks
        s.odd.recv.msg   @= s.slot[0]
        s.odd.send.rdy   @= s.mem.resp.val
        s.half           @= s.mem.resp.msg[0:256]
        if s.odd.send.msg:
          s.half @= s.mem.resp.msg[256:512]
        s.queue.recv.val @= s.mem.resp.val
        s.queue.recv.msg @= s.half

  def line_trace( s ):
    return f"{s.slot}({s.ahead}-{s.stale})"
