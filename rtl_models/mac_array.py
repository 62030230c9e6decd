"""MAC array, register-transfer level: weight-stationary n x n multipliers behind a stream of weights.

    cmd --> MacCheck --> ack
          +--> StreamReader --beats--> WeightLoader --shadow weights--> n x MacColumn --> n x MacOutput --> wr
          |       ^  v mem                  scales, biases ------------------------------^
          +--> sequencer --act--> activation rows ------------------------^     res: residual rows

A tile of n x n weights is stationary while up to m_max activation rows pass, one a cycle; the next tile
loads meanwhile. Weights of the next command load while this one drains; its activations are read
only after this one's last row is written, so commands of the array are in order.
"""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass
from pymtl3.stdlib.stream import NormalQueueRTL
from pymtl3.stdlib.stream.ifcs import MasterIfcRTL, RecvIfcRTL, SendIfcRTL

from npu.arch.config import clog2
from npu.arch.isa import GemmMode
from npu.arch.messages import Ack, Done, mk_gemm_cmd, mk_mem_read_req, mk_spad_write, mk_stream_req
from rtl_models.common.stream_reader import StreamReader
from rtl_models.mac.check import MacCheck
from rtl_models.mac.column import MacColumn
from rtl_models.mac.operand_decode import OperandDecode
from rtl_models.mac.output import K_BITS, MacOutput
from rtl_models.mac.row_reader import RowReader
from rtl_models.mac.weight_loader import WeightLoader

STAGES = 10    # registers from the multiplier to the write port

class MacArrayRTL( Component ):
  """Ports of the block at every level.

  Ports
  -----
  cmd
    A GEMM, rows and addresses resolved (`npu.arch.messages.mk_gemm_cmd`).
  ack
    One answer per command, in order, as soon as it is checked: an `npu.arch.isa.Error`.
  start
    One message per accepted command, in order: its operands are there. Weights stream without waiting for it.
  done
    One message per accepted command, in order, when its last row is written.
  mem
    The weight stream: bursts out, beats in.
  act, res
    Scratchpad reads: an address out, a row of n lanes in; activations and residuals.
  wr
    Scratchpad writes of result rows.
  """

  def construct( s, cfg ):
    n, d  = cfg.n, cfg.derived
    lg    = clog2( n )
    s.set_metadata( VerilogTranslationPass.explicit_module_name, f"MacArrayRTL_n{n}_m{cfg.m_max}" )
    BEAT  = mk_bits( d.beat_bits )
    SPAD  = mk_bits( d.spad_addr_bits )
    ROW   = mk_bits( d.row_count_bits )
    K     = mk_bits( K_BITS )
    CMD   = mk_gemm_cmd( cfg )
    WRITE = mk_spad_write( cfg )
    META  = mk_bitstruct( f"MacRow_m{d.row_count_bits}", {
      "row": ROW, "first": Bits1, "last": Bits1, "first_sum": Bits1, "last_sum": Bits1, "last_row": Bits1,
      "exp": Bits8 } )
    I8_I8, BF16, FP16 = ( int( m ) for m in ( GemmMode.I8_I8, GemmMode.BF16, GemmMode.FP16 ) )

    # Interface

    s.cmd   = RecvIfcRTL( CMD )
    s.ack   = SendIfcRTL( Ack )
    s.start = RecvIfcRTL( Bits1 )
    s.done  = SendIfcRTL( Done )
    s.mem   = MasterIfcRTL( mk_mem_read_req( cfg ), BEAT )
    s.act   = MasterIfcRTL( SPAD, BEAT )
    s.res   = MasterIfcRTL( SPAD, BEAT )
    s.wr    = SendIfcRTL( WRITE )

    # Components

    s.check   = MacCheck( cfg )
    s.acks    = NormalQueueRTL( Ack, 2 )
    s.todo    = NormalQueueRTL( CMD, 2 )      # to compute
    s.fetch   = NormalQueueRTL( CMD, 2 )      # to stream; the requests for the reader in step with it
    s.streams = NormalQueueRTL( mk_stream_req( cfg ), 2 )
    s.reader  = StreamReader( cfg )
    s.loader  = WeightLoader( cfg )
    s.acts    = RowReader( cfg )
    s.ress    = RowReader( cfg )
    s.column  = [ MacColumn( n ) for _ in range( n ) ]
    s.lane    = [ MacOutput( cfg ) for _ in range( n ) ]
    s.decode  = [ OperandDecode() for _ in range( n ) ]

    # Connections

    s.check.cmd    //= s.cmd.msg
    s.acks.send    //= s.ack
    s.streams.send //= s.reader.start
    s.fetch.send   //= s.loader.start
    s.reader.mem   //= s.mem
    s.reader.out   //= s.loader.beats
    s.acts.mem     //= s.act
    s.ress.mem     //= s.res

    #---------------------------------------------------------------------
    # Commands: check, then queue for the stream and for the arithmetic
    #---------------------------------------------------------------------

    beat_shift     = clog2( d.beats_per_line )
    beat_addr_bits = d.beat_addr_bits
    s.take = Wire()

    @update
    def up_take():
      s.cmd.rdy            @= s.todo.recv.rdy & s.fetch.recv.rdy & s.streams.recv.rdy & s.acks.recv.rdy
      s.take               @= s.cmd.val & s.cmd.rdy & ( s.check.error == 0 )
      s.acks.recv.val      @= s.cmd.val & s.cmd.rdy
      s.acks.recv.msg      @= s.check.error
      s.todo.recv.val      @= s.take
      s.todo.recv.msg      @= s.cmd.msg
      s.fetch.recv.val     @= s.take
      s.fetch.recv.msg     @= s.cmd.msg
      s.streams.recv.val   @= s.take
      s.streams.recv.msg.addr  @= zext( s.cmd.msg.dram, beat_addr_bits ) << beat_shift
      s.streams.recv.msg.beats @= s.check.beats

    #---------------------------------------------------------------------
    # The command that is computed
    #---------------------------------------------------------------------

    IDLE, SETUP, RUN, REPORT = range( 4 )
    s.state   = Wire( 2 )
    s.gemm    = Wire( CMD )
    s.begins   = Wire()
    s.starts  = Wire( 2 )                     # messages of `start` not used yet
    s.k_tiles = Wire( 20 )
    s.n_tiles = Wire( 20 )
    s.floating = Wire()
    s.half     = Wire()
    s.sums     = Wire()                       # groups or floating: FP32 accumulation
    s.finished = Wire()                       # the last row is written in this cycle

    @update
    def up_command():
      s.k_tiles  @= trunc( ( zext( s.gemm.k, 28 ) + ( n - 1 ) ) >> lg, 20 )
      s.n_tiles  @= trunc( ( zext( s.gemm.cols, 28 ) + ( n - 1 ) ) >> lg, 20 )
      s.floating @= s.gemm.mode >= BF16
      s.half     @= s.gemm.mode == FP16
      s.sums     @= s.floating | ( s.gemm.group != 0 )
      s.start.rdy     @= s.starts != 3
      s.todo.send.rdy @= ( s.state == IDLE ) & ( s.starts != 0 )
      s.begins         @= s.todo.send.val & s.todo.send.rdy
      s.done.val      @= s.state == REPORT
      s.done.msg      @= 0

    @update_ff
    def ff_starts():
      if s.reset:
        s.starts <<= 0
      else:
        s.starts <<= s.starts + zext( s.start.val & s.start.rdy, 2 ) - zext( s.begins, 2 )

    @update_ff
    def ff_command():
      if s.reset:
        s.state <<= IDLE
      elif s.state == IDLE:
        if s.begins:
          s.gemm  <<= s.todo.send.msg
          s.state <<= SETUP
      elif s.state == SETUP:
        s.state <<= RUN
      elif s.state == RUN:
        if s.finished:
          s.state <<= REPORT
      elif s.done.rdy:
        s.state <<= IDLE

    # Addresses and strides are kept in the scratchpad's width: the controller has checked the range.
    s.src        = Wire( SPAD )
    s.src2       = Wire( SPAD )
    s.dst        = Wire( SPAD )
    s.src_stride = Wire( SPAD )
    s.dst_stride = Wire( SPAD )
    same         = min( d.spad_addr_bits, 16 )
    s.src  //= s.gemm.src[0 : d.spad_addr_bits]
    s.src2 //= s.gemm.src2[0 : d.spad_addr_bits]
    s.dst  //= s.gemm.dst[0 : d.spad_addr_bits]
    s.src_stride[0:same] //= s.gemm.src_stride[0:same]
    s.dst_stride[0:same] //= s.gemm.dst_stride[0:same]
    for b in range( same, d.spad_addr_bits ):
      s.src_stride[b] //= 0
      s.dst_stride[b] //= 0

    @update
    def up_readers():
      s.acts.start  @= s.state == SETUP
      s.acts.base   @= s.src
      s.acts.stride @= s.src_stride
      s.acts.rows   @= trunc( s.gemm.rows, ROW )
      s.acts.inner  @= s.k_tiles
      s.acts.outer  @= s.n_tiles
      s.ress.start  @= ( s.state == SETUP ) & s.gemm.residual
      s.ress.base   @= s.src2
      s.ress.stride @= s.dst_stride
      s.ress.rows   @= trunc( s.gemm.rows, ROW )
      s.ress.inner  @= s.n_tiles
      s.ress.outer  @= 1

    #---------------------------------------------------------------------
    # Sequencer: one activation row meets the stationary tile
    #---------------------------------------------------------------------

    s.go      = Wire()
    s.issue   = Wire()
    s.active  = Wire()                        # the columns hold a tile that is not used up
    s.swap    = Wire()
    s.m       = Wire( ROW )
    s.kt      = Wire( 20 )
    s.g       = Wire( 6 )                     # K tile within the group
    s.g_last  = Wire( 6 )
    s.first_group = Wire()
    s.last_m  = Wire()
    s.last_kt = Wire()
    s.last_g  = Wire()
    last_32, last_64, last_128 = ( Bits6( size // n - 1 ) for size in ( 32, 64, 128 ) )

    @update
    def up_issue():
      s.g_last @= last_32
      if s.gemm.group == 2:
        s.g_last @= last_64
      elif s.gemm.group == 3:
        s.g_last @= last_128
      s.last_m  @= zext( s.m, 8 ) + 1 == s.gemm.rows
      s.last_kt @= s.kt + 1 == s.k_tiles
      s.last_g  @= s.g == s.g_last
      s.issue   @= ( s.state == RUN ) & s.active & s.acts.out.val & s.go
      s.acts.out.rdy @= s.issue
      s.swap    @= s.loader.full & ( ~s.active | ( s.issue & s.last_m ) )
      s.loader.swap @= s.swap

    @update_ff
    def ff_issue():
      if s.reset:
        s.active <<= 0
      elif s.swap:
        s.active <<= 1
      elif s.issue & s.last_m:
        s.active <<= 0
      if s.state == SETUP:
        s.m  <<= 0
        s.kt <<= 0
        s.g  <<= 0
        s.first_group <<= 1
      elif s.issue:
        s.m <<= s.m + 1
        if s.last_m:
          s.m  <<= 0
          s.kt <<= s.kt + 1
          s.g  <<= s.g + 1
          if s.last_g:
            s.g <<= 0
            s.first_group <<= 0
          if s.last_kt:
            s.kt <<= 0
            s.g  <<= 0
            s.first_group <<= 1

    #---------------------------------------------------------------------
    # Operands: lanes past K count as zero
    #---------------------------------------------------------------------

    s.operand = [ Wire( 16 ) for _ in range( n ) ]
    s.keep  = [ Wire() for _ in range( n ) ]
    s.k_rest = Wire( lg )                     # lanes of the last K tile; 0: all

    s.k_rest //= s.gemm.k[0:lg]
    for c in range( n ):
      s.operand[c] //= s.acts.out.msg[32 * c : 32 * c + 16]
      s.decode[c].floating //= s.floating
      s.decode[c].half     //= s.half

    @update
    def up_operands():
      for c in range( n ):
        s.keep[c] @= ~s.last_kt | ( s.k_rest == 0 ) | ( s.k_rest > c )
        s.decode[c].in_ @= 0
        if s.keep[c]:
          s.decode[c].in_ @= s.operand[c]

    for c in range( n ):
      s.column[c].load_en  //= s.loader.load_en
      s.column[c].swap     //= s.swap
      s.column[c].go       //= s.go
      s.column[c].floating //= s.floating
      s.column[c].half     //= s.half
      for k in range( n ):
        s.column[c].load[k]   //= s.loader.load[k % min( n, 8 )][c]
        s.column[c].a_sign[k] //= s.decode[k].out[24]
        s.column[c].a_mag[k]  //= s.decode[k].out[8:24]
        s.column[c].a_exp[k]  //= s.decode[k].out[0:8]

    #---------------------------------------------------------------------
    # Pipeline: what stands behind stage i
    #---------------------------------------------------------------------

    s.v    = [ Wire() for _ in range( STAGES + 1 ) ]
    s.meta = [ Wire( META ) for _ in range( STAGES ) ]
    s.next = Wire( META )

    @update
    def up_meta():
      # Floating modes sum in FP32 at every K tile, group modes at the end of each group.
      s.next @= META( s.m, s.kt == 0, s.last_kt, s.kt == 0, s.last_kt, s.last_m, s.acts.out.msg[16:24] )
      if s.floating:
        s.next.first @= 1
        s.next.last  @= 1
      elif s.gemm.group != 0:
        s.next.first     @= s.g == 0
        s.next.last      @= s.last_g
        s.next.first_sum @= s.first_group

    @update_ff
    def ff_pipeline():
      if s.reset:
        s.v[1] <<= 0
        s.v[2] <<= 0
        s.v[3] <<= 0
        s.v[4] <<= 0
        s.v[5] <<= 0
        s.v[6] <<= 0
        s.v[7] <<= 0
        s.v[8] <<= 0
        s.v[9] <<= 0
        s.v[10] <<= 0
      elif s.go:
        s.v[1] <<= s.issue
        s.v[2] <<= s.v[1]
        s.v[3] <<= s.v[2]
        s.v[4] <<= s.v[3] & s.meta[3].last           # complete sums only
        s.v[5] <<= s.v[4]
        s.v[6] <<= s.v[5]
        s.v[7] <<= s.v[6] & s.meta[6].last_sum       # complete results only
        s.v[8] <<= s.v[7]
        s.v[9] <<= s.v[8]
        s.v[10] <<= s.v[9]
        s.meta[1] <<= s.next
        s.meta[2] <<= s.meta[1]
        s.meta[3] <<= s.meta[2]
        s.meta[4] <<= s.meta[3]
        s.meta[5] <<= s.meta[4]
        s.meta[6] <<= s.meta[5]
        s.meta[7] <<= s.meta[6]
        s.meta[8] <<= s.meta[7]
      elif s.wr.rdy:
        # Written, but the next row waits for its residual.
        s.v[10] <<= 0

    # Everything moves, or nothing: the write port is blocked, or a residual is late.
    s.go //= lambda: ~( s.v[10] & ~s.wr.rdy ) & ~( s.v[9] & s.gemm.residual & ~s.ress.out.val )

    s.exponent = Wire( K )
    s.top_bias = Wire( K )

    @update
    def up_controls():
      # 2**lsb of the activations: E - 127 - (bits - 2).
      s.exponent @= zext( s.meta[7].exp, K ) - 141
      if s.gemm.mode == I8_I8:
        s.exponent @= zext( s.meta[7].exp, K ) - 133
      # Twice the format's bias, and the 16 fraction bits of an aligned sum.
      s.top_bias @= 270
      if s.half:
        s.top_bias @= 46
      s.loader.scales.rdy @= s.go & s.v[5] & s.meta[5].last_row & ~s.floating
      s.loader.biases.rdy @= s.go & s.v[8] & s.meta[8].last_row & s.gemm.bias
      s.ress.out.rdy      @= s.go & s.v[9] & s.gemm.residual
    s.scale = [ Wire( 32 ) for _ in range( n ) ]

    s.scale_lane = [ Wire( 32 ) for _ in range( n ) ]
    for c in range( n ):
      s.scale_lane[c] //= s.loader.scales.msg[32 * c : 32 * c + 32]

    @update
    def up_scale():
      for c in range( n ):
        s.scale[c] @= s.scale_lane[c]
        if s.gemm.group != 0:
          # The low 8 bits are the zero point, which the loader has taken off.
          s.scale[c] @= concat( s.scale_lane[c][8:32], Bits8( 0 ) )

    for c in range( n ):
      s.lane[c].go         //= s.go
      s.lane[c].floating   //= s.floating
      s.lane[c].accumulate //= s.sums
      s.lane[c].total      //= s.column[c].total
      s.lane[c].top        //= s.column[c].top
      s.lane[c].top_bias   //= s.top_bias
      s.lane[c].valid3     //= s.v[3]
      s.lane[c].first3     //= s.meta[3].first
      s.lane[c].row3       //= s.meta[3].row[0 : d.row_index_bits]
      s.lane[c].scale      //= s.scale[c]
      s.lane[c].valid6     //= s.v[6]
      s.lane[c].first6     //= s.meta[6].first_sum
      s.lane[c].row6       //= s.meta[6].row[0 : d.row_index_bits]
      s.lane[c].exponent   //= s.exponent
      s.lane[c].bias_en    //= s.gemm.bias
      s.lane[c].bias       //= s.loader.biases.msg[32 * c : 32 * c + 32]
      s.lane[c].res_en     //= s.gemm.residual
      s.lane[c].res        //= s.ress.out.msg[32 * c : 32 * c + 32]

    #---------------------------------------------------------------------
    # Write port
    #---------------------------------------------------------------------

    s.w_addr   = Wire( SPAD )
    s.w_column = Wire( SPAD )
    s.w_m      = Wire( ROW )
    s.w_n      = Wire( 20 )                   # output tiles to go
    s.n_rest   = Wire( lg )
    s.result   = Wire( BEAT )
    s.lane_out = [ Wire( 32 ) for _ in range( n ) ]

    s.n_rest //= s.gemm.cols[0:lg]

    for c in range( n ):
      s.result[32 * c : 32 * c + 32] //= s.lane_out[c]

    @update
    def up_write():
      for c in range( n ):
        # Lanes past the last column are written as zero.
        s.lane_out[c] @= 0
        if ( s.w_n != 1 ) | ( s.n_rest == 0 ) | ( s.n_rest > c ):
          s.lane_out[c] @= s.lane[c].out
      s.wr.val   @= s.v[10]
      s.wr.msg   @= WRITE( s.w_addr, s.result )
      s.finished @= s.wr.val & s.wr.rdy & ( s.w_n == 1 ) & ( zext( s.w_m, 8 ) + 1 == s.gemm.rows )

    @update_ff
    def ff_write():
      if s.state == SETUP:
        s.w_addr   <<= s.dst
        s.w_column <<= s.dst
        s.w_m      <<= 0
        s.w_n      <<= s.n_tiles
      elif s.wr.val & s.wr.rdy:
        s.w_m    <<= s.w_m + 1
        s.w_addr <<= s.w_addr + s.dst_stride
        if zext( s.w_m, 8 ) + 1 == s.gemm.rows:
          s.w_m      <<= 0
          s.w_n      <<= s.w_n - 1
          s.w_column <<= s.w_column + 1
          s.w_addr   <<= s.w_column + 1

  def line_trace( s ):
    return ( f"{s.cmd}({'.SR!'[int( s.state )]} {s.loader.line_trace()} "
             f"{''.join( 'x' if v else ' ' for v in s.v[1:] )}{'' if s.go else '#'}){s.wr}" )
