"""Takes one ATTEND after the other through its phases, and works out its sizes.

Costs three multipliers of 32 x 10 bits, which have a cycle of their own, and two of a byte by less.
"""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass
from pymtl3.stdlib.stream.ifcs import RecvIfcRTL, SendIfcRTL

from npu.arch.config import ROWS_PER_TOKEN, clog2
from npu.arch.messages import Done, mk_attend_cmd
from rtl_models.attention.address_nest import COUNT_BITS
from rtl_models.attention.shape import AttentionShape

class AttentionCommand( Component ):
  """First all of the command's keys and values are appended, then it attends.

  Ports
  -----
  job, group
    A command that the check has accepted, and its query heads per KV head.
  done
    Of the block.
  now, group_now
    The command at work.
  starts, appends
    The first cycle of appending; every cycle of it.
  attends, attending
    The first cycle of attention; every cycle after it until the end.
  appended, finished
    Every write of the append is taken; the last result is written in this cycle.
  dims, new_rows
    Scratchpad rows of a head, and of a token's keys and values.
  split, sweeps
    Whether a KV head's query rows need several sweeps, and how many.
  first_beat, chunk_beat
    First beat of the cache, and of the chunk where this pass begins, of KV head 0.
  chunk_beats, head_beats, seen_beats
    Beats of a chunk, of a KV head, and of those of its chunks that have a key.
  src_stride, dst_stride, head_step
    Scratchpad rows from a token row, and from a head, to the next.
  """

  def construct( s, cfg ):
    n, d  = cfg.n, cfg.derived
    lg    = clog2( n )
    shape = AttentionShape( cfg )
    s.set_metadata( VerilogTranslationPass.explicit_module_name,
                    f"AttentionCommand_n{n}_a{d.spad_addr_bits}_r{shape.row_bits}" )
    ADDR  = mk_bits( d.beat_addr_bits )
    SPAD  = mk_bits( d.spad_addr_bits )
    COUNT = mk_bits( COUNT_BITS )
    CMD   = mk_attend_cmd( cfg )
    spad_bits, dim_bits = d.spad_addr_bits, shape.dim_bits
    all_rows  = shape.rows
    line_bits = clog2( d.beats_per_line )
    lg_token  = clog2( ROWS_PER_TOKEN )
    IDLE, SETUP, START, APPEND, ATTEND, REPORT = range( 6 )

    # Interface

    s.job         = RecvIfcRTL( CMD )
    s.group       = RecvIfcRTL( Bits8 )
    s.done        = SendIfcRTL( Done )
    s.now         = OutPort( CMD )
    s.group_now   = OutPort( 8 )
    s.starts      = OutPort()
    s.appends     = OutPort()
    s.attends     = OutPort()
    s.attending   = OutPort()
    s.appended    = InPort()
    s.finished    = InPort()
    s.dims        = OutPort( dim_bits )
    s.new_rows    = OutPort( COUNT )
    s.split       = OutPort()
    s.sweeps      = OutPort( 6 )
    s.first_beat  = OutPort( ADDR )
    s.chunk_beat  = OutPort( ADDR )
    s.chunk_beats = OutPort( 10 )
    s.head_beats  = OutPort( 32 )
    s.seen_beats  = OutPort( 32 )
    s.src_stride  = OutPort( SPAD )
    s.dst_stride  = OutPort( SPAD )
    s.head_step   = OutPort( SPAD )

    # Phases

    s.state = Wire( 3 )

    @update
    def up_phase():
      s.job.rdy   @= s.state == IDLE
      s.group.rdy @= s.state == IDLE
      s.done.val  @= s.state == REPORT
      s.done.msg  @= 0
      s.starts    @= s.state == START
      s.appends   @= ( s.state == START ) | ( s.state == APPEND )
      s.attending @= s.state == ATTEND

    @update
    def up_attends():
      s.attends @= ( s.state == APPEND ) & s.appended

    @update_ff
    def ff_phase():
      if s.reset:
        s.state <<= IDLE
      elif s.state == IDLE:
        if s.job.val:
          s.now       <<= s.job.msg
          s.group_now <<= s.group.msg
          s.state     <<= SETUP
      elif s.state == SETUP:
        s.state <<= START
      elif s.state == START:
        s.state <<= APPEND
      elif s.state == APPEND:
        if s.appended:
          s.state <<= ATTEND
      elif s.state == ATTEND:
        if s.finished:
          s.state <<= REPORT
      elif s.done.rdy:
        s.state <<= IDLE

    # Sizes, in scratchpad rows and in beats. A line has as many beats as a chunk has key tiles.

    s.c_beats = Wire( 10 )
    s.c_seen  = Wire( 32 )
    s.c_rows  = Wire( 16 )
    s.dims  //= s.now.length[lg : lg + dim_bits]

    @update
    def up_sizes():
      s.c_beats  @= ( s.now.length + 1 ) << line_bits
      s.c_seen   @= ( s.now.pos + zext( s.now.rows, 32 ) + 15 ) >> 4
      s.c_rows   @= zext( s.now.rows, 16 ) * zext( s.group_now, 16 )
      s.new_rows @= ( zext( s.now.kv_heads, COUNT ) * zext( s.dims, COUNT ) ) << 1

    @update_ff
    def ff_sizes():
      if s.state == SETUP:
        s.chunk_beats <<= s.c_beats
        s.head_beats  <<= zext( s.now.chunks, 32 ) * zext( s.c_beats, 32 )
        s.seen_beats  <<= s.c_seen * zext( s.c_beats, 32 )
        s.first_beat  <<= zext( s.now.dram, ADDR ) << line_bits
        s.chunk_beat  <<= ( ( zext( s.now.dram, ADDR ) << line_bits )
                            + zext( ( s.now.pos >> 4 ) * zext( s.c_beats, 32 ), ADDR ) )
        s.split       <<= s.c_rows > all_rows
        s.sweeps      <<= 1
        if s.c_rows > all_rows:
          s.sweeps <<= trunc( ( zext( s.group_now, 9 ) + ( ROWS_PER_TOKEN - 1 ) ) >> lg_token, 6 )

    # Addresses and strides are kept in the scratchpad's width: the check has seen the range.

    same = min( spad_bits, 16 )
    s.src_stride[0:same]    //= s.now.src_stride[0:same]
    s.dst_stride[0:same]    //= s.now.dst_stride[0:same]
    s.head_step[0:dim_bits] //= s.dims
    for b in range( same, spad_bits ):
      s.src_stride[b] //= 0
      s.dst_stride[b] //= 0
    for b in range( dim_bits, spad_bits ):
      s.head_step[b] //= 0

  def line_trace( s ):
    return ".SSA!R"[int( s.state )]
