"""Checks a command of the attention engine, and answers it; accepted ones go on to a queue.

One command at a time, always in the same number of cycles: a divider that takes a bit per cycle, then one range
per cycle through one `RangeCheck`.
"""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass
from pymtl3.stdlib.stream import NormalQueueRTL
from pymtl3.stdlib.stream.ifcs import RecvIfcRTL, SendIfcRTL

from npu.arch.config import MAX_HEAD_DIM, clog2
from npu.arch.isa import Error
from npu.arch.messages import Ack, mk_attend_cmd
from rtl_models.common.range_check import RangeCheck

COMMANDS    = 2     # accepted commands that wait
DIVIDE_BITS = 8     # cycles of the division

class AttentionCheck( Component ):
  """`fl.attention_engine.check` as hardware.

  Ports
  -----
  cmd, ack
    Of the block.
  job, group
    Accepted commands and their query heads per KV head, in step.
  """

  def construct( s, cfg ):
    d  = cfg.derived
    lg = clog2( cfg.n )
    s.set_metadata( VerilogTranslationPass.explicit_module_name,
                    f"AttentionCheck_n{cfg.n}_m{cfg.m_max}_r{d.spad_rows}" )
    CMD   = mk_attend_cmd( cfg )
    m_max = cfg.m_max
    ZERO_SIZE, BAD_SIZE, BAD_POSITION, BAD_DRAM, BAD_SPAD = ( int( e ) for e in (
      Error.ZERO_SIZE, Error.BAD_SIZE, Error.BAD_POSITION, Error.BAD_DRAM, Error.BAD_SPAD ) )

    # Interface

    s.cmd   = RecvIfcRTL( CMD )
    s.ack   = SendIfcRTL( Ack )
    s.job   = SendIfcRTL( CMD )
    s.group = SendIfcRTL( Bits8 )

    # Components

    s.jobs   = NormalQueueRTL( CMD, COMMANDS )
    s.groups = NormalQueueRTL( Bits8, COMMANDS )
    s.range_ = RangeCheck( cfg )
    s.job   //= s.jobs.send
    s.group //= s.groups.send

    # State

    IDLE, DIVIDE, BLOCKS, LINES, SRC, SRC2, DST, ANSWER = range( 8 )
    last_bit = DIVIDE_BITS - 1
    s.state   = Wire( 3 )
    s.now     = Wire( CMD )
    s.count     = Wire( 3 )
    s.rest    = Wire( 9 )        # remainder so far
    s.quotient = Wire( 8 )       # the dividend moves out, the quotient in
    s.blocks  = Wire( 30 )       # chunks of all KV heads
    s.lines   = Wire( 42 )
    s.in_range  = Wire()           # all scratchpad ranges so far

    # Division: heads / kv_heads

    s.shifted = Wire( 9 )
    s.fits    = Wire()

    @update
    def up_divide():
      s.shifted @= concat( s.rest[0:8], s.quotient[7] )
      s.fits    @= s.shifted >= zext( s.now.kv_heads, 9 )

    # Ranges

    s.head_rows = Wire( 10 )
    s.q_rows    = Wire( 28 )
    s.kv_rows   = Wire( 28 )

    @update
    def up_range():
      s.head_rows      @= s.now.length >> lg
      s.q_rows         @= zext( s.now.heads, 28 ) * zext( s.head_rows, 28 )
      s.kv_rows        @= ( zext( s.now.kv_heads, 28 ) * zext( s.head_rows, 28 ) ) << 1
      s.range_.rows    @= s.now.rows
      s.range_.base    @= s.now.src
      s.range_.stride  @= s.now.src_stride
      s.range_.width   @= s.q_rows
      if s.state == SRC2:
        s.range_.base  @= s.now.src2
        s.range_.width @= s.kv_rows
      elif s.state == DST:
        s.range_.base   @= s.now.dst
        s.range_.stride @= s.now.dst_stride

    # The first thing wrong

    s.error = Wire( 4 )
    s.high  = Wire( 43 )
    s.tokens   = Wire( 33 )
    s.capacity = Wire( 33 )

    @update
    def up_error():
      s.high     @= zext( s.now.dram, 43 ) + zext( s.lines, 43 )
      s.tokens   @= zext( s.now.pos, 33 ) + zext( s.now.rows, 33 )
      s.capacity @= zext( s.now.chunks, 33 ) << 4
      s.error @= 0
      if ( ( s.now.rows == 0 ) | ( s.now.length == 0 ) | ( s.now.heads == 0 ) | ( s.now.kv_heads == 0 )
           | ( s.now.chunks == 0 ) ):
        s.error @= ZERO_SIZE
      elif ( ( s.now.rows > m_max ) | ( s.rest != 0 ) | ( s.now.length[0:lg] != 0 )
             | ( s.now.length > MAX_HEAD_DIM ) ):
        s.error @= BAD_SIZE
      elif s.tokens > s.capacity:
        s.error @= BAD_POSITION
      elif ( s.high > zext( s.now.lines, 43 ) ) | ( s.now.dram < s.now.writable ):
        s.error @= BAD_DRAM
      elif ~s.in_range:
        s.error @= BAD_SPAD

    # Handshakes

    @update
    def up_answer():
      s.cmd.rdy @= ( s.state == IDLE ) & s.jobs.recv.rdy
      s.ack.val @= s.state == ANSWER
      s.ack.msg @= s.error
      s.jobs.recv.val   @= s.ack.val & s.ack.rdy & ( s.error == 0 )
      s.jobs.recv.msg   @= s.now
      s.groups.recv.val @= s.jobs.recv.val
      s.groups.recv.msg @= s.quotient

    @update_ff
    def ff_state():
      if s.reset:
        s.state <<= IDLE
      elif s.state == IDLE:
        if s.cmd.val & s.cmd.rdy:
          s.state    <<= DIVIDE
          s.now      <<= s.cmd.msg
          s.count      <<= 0
          s.rest     <<= 0
          s.quotient <<= s.cmd.msg.heads
          s.in_range   <<= 1
      elif s.state == DIVIDE:
        s.count      <<= s.count + 1
        s.quotient <<= concat( s.quotient[0:7], s.fits )
        s.rest     <<= s.shifted
        if s.fits:
          s.rest <<= s.shifted - zext( s.now.kv_heads, 9 )
        if s.count == last_bit:
          s.state <<= BLOCKS
      elif s.state == BLOCKS:
        s.blocks <<= zext( s.now.kv_heads, 30 ) * zext( s.now.chunks, 30 )
        s.state  <<= LINES
      elif s.state == LINES:
        s.lines <<= zext( s.blocks, 42 ) * ( zext( s.now.length, 42 ) + 1 )
        s.state <<= SRC
      elif s.state == ANSWER:
        if s.ack.rdy:
          s.state <<= IDLE
      else:
        s.in_range <<= s.in_range & s.range_.ok
        s.state  <<= s.state + 1

  def line_trace( s ):
    return f"{s.state}"
