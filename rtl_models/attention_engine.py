"""Attention engine, register-transfer level: grouped-query attention with an online softmax.

    cmd -> AttentionCheck -> AttentionCommand -> done                         q: rows to append, then queries
                           +-> AttentionAppend -> kv_wr
                           +-> AttentionSequence -> AttentionRing: chunks, to everybody below
                           +-> AttentionStream -kv-> AttentionChunks -> AttentionTiles --shadow weights--+
                                                                                                         v
      q --queries--+--> n x MacColumn --> AttentionAccumulators --> AttentionSoftmax --probabilities--+
                   +<---------------------------------------------------------------------------------+
                                             +--> n x AttentionOutput --> wr        acc: outputs so far

AttentionIssue says when a row goes into the columns, AttentionSoftmaxFeed when one goes on to the softmax. This file
has what lies between them: the pipeline from the columns to the write port, and the scratchpad rows that it meets.

The multipliers are those of the MAC array (`MacColumn`). A tile of n keys by n elements is stationary while the query
rows of a KV head pass, then their probabilities. Phases alternate: keys of chunk 0, keys of chunk 1, values of chunk 0,
keys of chunk 2, values of chunk 1, ...: the softmax of a chunk hides behind the keys of the next one.
"""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass
from pymtl3.stdlib.stream.ifcs import MasterIfcRTL, RecvIfcRTL, SendIfcRTL

from npu.arch.messages import Ack, Done, mk_attend_cmd, mk_mem_read_req, mk_mem_write, mk_spad_write
from rtl_models.attention.accumulators import AttentionAccumulators
from rtl_models.attention.address_nest import COUNT_BITS, AddressNest
from rtl_models.attention.append import AttentionAppend
from rtl_models.attention.check import AttentionCheck
from rtl_models.attention.chunks import AttentionChunks
from rtl_models.attention.command import AttentionCommand
from rtl_models.attention.issue import AttentionIssue, mk_row
from rtl_models.attention.output import AttentionOutput
from rtl_models.attention.ring import AttentionRing
from rtl_models.attention.rows import AttentionRows
from rtl_models.attention.sequence import AttentionSequence
from rtl_models.attention.shape import AttentionShape
from rtl_models.attention.softmax import AttentionSoftmax
from rtl_models.attention.softmax_feed import AttentionSoftmaxFeed
from rtl_models.attention.stream import AttentionStream
from rtl_models.attention.tiles import AttentionTiles
from rtl_models.mac.column import MacColumn
from rtl_models.mac.operand_decode import OperandDecode

STAGES = 8     # registers from the multiplier to the write port

class AttentionEngineRTL( Component ):
  """Ports of the block at every level.

  Ports
  -----
  cmd
    An ATTEND, rows and addresses resolved (`npu.arch.messages.mk_attend_cmd`).
  ack, done
    An `npu.arch.isa.Error` per command; 0 per accepted one when it is finished.
  kv
    The cache: bursts out, beats in.
  kv_wr
    New keys, values and exponents.
  q
    Scratchpad reads: keys and values of the pass, then queries.
  acc
    Scratchpad reads: outputs so far, where the results go.
  wr
    Scratchpad writes of outputs.
  """

  def construct( s, cfg ):
    n, d  = cfg.n, cfg.derived
    shape = AttentionShape( cfg )
    s.set_metadata( VerilogTranslationPass.explicit_module_name, f"AttentionEngineRTL_n{n}_m{cfg.m_max}" )
    BEAT  = mk_bits( d.beat_bits )
    SPAD  = mk_bits( d.spad_addr_bits )
    COUNT = mk_bits( COUNT_BITS )
    ROW_T = mk_row( cfg )
    WRITE = mk_spad_write( cfg )
    spad_bits, tiles, last_tile = d.spad_addr_bits, shape.tiles, shape.tiles - 1

    # Interface

    s.cmd   = RecvIfcRTL( mk_attend_cmd( cfg ) )
    s.ack   = SendIfcRTL( Ack )
    s.done  = SendIfcRTL( Done )
    s.kv    = MasterIfcRTL( mk_mem_read_req( cfg ), BEAT )
    s.kv_wr = SendIfcRTL( mk_mem_write( cfg ) )
    s.q     = MasterIfcRTL( SPAD, BEAT )
    s.acc   = MasterIfcRTL( SPAD, BEAT )
    s.wr    = SendIfcRTL( WRITE )

    # Components

    s.check    = AttentionCheck( cfg )
    s.command  = AttentionCommand( cfg )
    s.append   = AttentionAppend( cfg )
    s.order    = AttentionSequence( cfg )
    s.ring     = AttentionRing( cfg )
    s.stream   = AttentionStream( cfg )
    s.chunks   = AttentionChunks( cfg )
    s.tiles    = AttentionTiles( cfg )
    s.queries  = AttentionRows( cfg )
    s.outputs  = AttentionRows( cfg )
    s.results  = AddressNest( cfg )
    s.issue    = AttentionIssue( cfg )
    s.decode   = [ OperandDecode() for _ in range( n ) ]
    s.column   = [ MacColumn( n ) for _ in range( n ) ]
    s.sums     = AttentionAccumulators( cfg )
    s.feed     = AttentionSoftmaxFeed( cfg )
    s.softmax  = AttentionSoftmax( cfg )
    s.lane     = [ AttentionOutput() for _ in range( n ) ]

    s.go       = Wire()                   # the pipeline moves

    # Connections

    s.check.cmd      //= s.cmd
    s.check.ack      //= s.ack
    s.append.kv_wr   //= s.kv_wr
    s.stream.mem     //= s.kv
    s.stream.out     //= s.chunks.beats
    s.queries.mem    //= s.q
    s.outputs.mem    //= s.acc

    #---------------------------------------------------------------------
    # The command: append, then attend
    #---------------------------------------------------------------------

    s.command.job        //= s.check.job
    s.command.group      //= s.check.group
    s.command.done       //= s.done
    s.command.appended   //= s.append.idle

    s.append.start       //= s.command.starts
    s.append.rows        //= s.command.now.rows
    s.append.kv_heads    //= s.command.now.kv_heads
    s.append.dims        //= s.command.dims
    s.append.slot        //= s.command.now.pos[0:4]
    s.append.chunk       //= s.command.chunk_beat
    s.append.chunk_beats //= s.command.chunk_beats
    s.append.head_beats  //= s.command.head_beats

    s.stream.start       //= s.command.attends
    s.stream.first       //= s.command.first_beat
    s.stream.head_beats  //= s.command.head_beats
    s.stream.beats       //= s.command.seen_beats
    s.stream.kv_heads    //= s.command.now.kv_heads
    s.stream.sweeps      //= s.command.sweeps

    s.order.start        //= s.command.attends
    s.order.cmd          //= s.command.now
    s.order.group        //= s.command.group_now
    s.order.split        //= s.command.split
    s.order.src_stride   //= s.command.src_stride
    s.order.dst_stride   //= s.command.dst_stride
    s.order.head_step    //= s.command.head_step
    s.order.out          //= s.ring.in_

    #---------------------------------------------------------------------
    # Scratchpad rows: to append, queries, outputs so far; where results go
    #---------------------------------------------------------------------

    s.queries.middle_step //= s.command.src_stride

    @update
    def up_queries():
      s.queries.start @= s.command.starts | ( s.command.attending & s.queries.idle & s.ring.q_val )
      if s.command.appends:
        s.queries.base       @= s.command.now.src2[0:spad_bits]
        s.queries.inner      @= s.command.new_rows
        s.queries.inner_step @= 1
        s.queries.middle     @= zext( s.command.now.rows, COUNT )
        s.queries.outer      @= 1
        s.queries.times      @= 1
      else:
        s.queries.base       @= s.ring.q_chunk.q_addr
        s.queries.inner      @= zext( s.ring.q_chunk.heads, COUNT )
        s.queries.inner_step @= s.command.head_step
        s.queries.middle     @= zext( s.ring.q_chunk.tokens, COUNT )
        s.queries.outer      @= zext( s.command.dims, COUNT )
        s.queries.times      @= tiles

    @update
    def up_taken():
      s.ring.q_next        @= s.queries.ended & ~s.command.appends
      s.queries.out.rdy    @= s.append.rows_in.rdy | s.issue.take_query
      s.append.rows_in.val @= s.queries.out.val
      s.append.rows_in.msg @= s.queries.out.msg

    # Outputs are read after all that the chunk before has written: there may be an output among it. The first
    # chunk of a sweep has none to read.
    s.outputs.base        //= s.ring.o_chunk.o_addr
    s.outputs.inner_step  //= s.command.head_step
    s.outputs.middle_step //= s.command.dst_stride
    s.outputs.times       //= 1
    s.results.base        //= s.ring.w_chunk.o_addr
    s.results.inner_step  //= s.command.head_step
    s.results.middle_step //= s.command.dst_stride
    s.results.times       //= 1
    s.o_ready = Wire()

    @update
    def up_outputs():
      s.o_ready        @= s.outputs.idle & s.ring.o_val & s.ring.o_oldest
      s.outputs.start  @= s.o_ready & ~s.ring.o_chunk.opens
      s.outputs.inner  @= zext( s.ring.o_chunk.heads, COUNT )
      s.outputs.middle @= zext( s.ring.o_chunk.tokens, COUNT )
      s.outputs.outer  @= zext( s.command.dims, COUNT )
      s.ring.o_next    @= s.outputs.ended | ( s.o_ready & s.ring.o_chunk.opens )
      s.results.start  @= ~s.results.val & s.ring.w_val
      s.results.inner  @= zext( s.ring.w_chunk.heads, COUNT )
      s.results.middle @= zext( s.ring.w_chunk.tokens, COUNT )
      s.results.outer  @= zext( s.command.dims, COUNT )

    #---------------------------------------------------------------------
    # Stationary tiles
    #---------------------------------------------------------------------

    for name in ( "chunk", "slot", "val", "next" ):
      for reader in "kv":
        connect( getattr( s.tiles, f"{reader}_{name}" ), getattr( s.ring, f"{reader}_{name}" ) )
    s.chunks.dims   //= s.command.dims
    s.chunks.slot   //= s.tiles.slot
    s.chunks.is_v   //= s.tiles.is_v
    s.chunks.pair   //= s.tiles.pair
    s.chunks.dim    //= s.tiles.dim
    s.chunks.even   //= s.tiles.even
    s.chunks.odd    //= s.tiles.odd
    s.chunks.k_full //= s.tiles.k_full
    s.chunks.v_full //= s.tiles.v_full
    s.chunks.k_free //= s.tiles.k_next
    s.chunks.v_free //= s.tiles.v_next
    s.chunks.e_free //= s.softmax.done
    s.tiles.dims    //= s.command.dims
    s.tiles.swap    //= s.issue.swap

    #---------------------------------------------------------------------
    # Columns: a row of queries, or of probabilities, meets the stationary tile
    #---------------------------------------------------------------------

    s.row = Wire( ROW_T )                 # that is issued, or waits

    s.issue.go           //= s.go
    s.issue.full         //= s.tiles.full
    s.issue.next_tile    //= s.tiles.tile
    s.issue.query_val    //= lambda: s.queries.out.val & s.command.attending
    s.issue.query_exp    //= s.queries.out.msg[16:24]
    s.issue.weights_done //= s.softmax.done
    s.issue.w_slot       //= s.ring.w_slot
    s.row                //= s.issue.row
    s.softmax.w_slot     //= s.row.slot
    s.softmax.w_row      //= s.row.row
    s.softmax.w_tile     //= s.row.tile

    s.query = [ Wire( 16 ) for _ in range( n ) ]
    for k in range( n ):
      s.query[k] //= s.queries.out.msg[32 * k : 32 * k + 16]
      s.decode[k].floating //= 0
      s.decode[k].half     //= 0

    @update
    def up_operands():
      for k in range( n ):
        s.decode[k].in_ @= s.query[k]
        if s.row.is_v:
          s.decode[k].in_ @= s.softmax.w[k]

    for c in range( n ):
      s.column[c].load_en  //= s.tiles.load_en[c]
      s.column[c].swap     //= s.issue.swap
      s.column[c].go       //= s.go
      s.column[c].floating //= 0
      s.column[c].half     //= 0
      for k in range( n ):
        s.column[c].load[k]   //= s.tiles.load[c][k]
        s.column[c].a_sign[k] //= s.decode[k].out[24]
        s.column[c].a_mag[k]  //= s.decode[k].out[8:24]
        s.column[c].a_exp[k]  //= s.decode[k].out[0:8]

    #---------------------------------------------------------------------
    # Pipeline: what stands behind stage i
    #---------------------------------------------------------------------

    s.v    = [ Wire() for _ in range( STAGES + 1 ) ]
    s.meta = [ Wire( ROW_T ) for _ in range( STAGES ) ]
    s.written = Wire()

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
      elif s.go:
        s.v[1] <<= s.issue.issues
        s.v[2] <<= s.v[1]
        s.v[3] <<= s.v[2]
        s.v[4] <<= s.v[3] & s.meta[3].is_v & s.meta[3].closes     # complete sums of values only
        s.v[5] <<= s.v[4]
        s.v[6] <<= s.v[5]
        s.v[7] <<= s.v[6]
        s.v[8] <<= s.v[7]
        s.meta[1] <<= s.row
        s.meta[2] <<= s.meta[1]
        s.meta[3] <<= s.meta[2]
        s.meta[4] <<= s.meta[3]
        s.meta[5] <<= s.meta[4]
        s.meta[6] <<= s.meta[5]
        s.meta[7] <<= s.meta[6]
      elif s.written:
        # Written, but the next row waits for its output so far.
        s.v[8] <<= 0

    # Everything moves, or nothing: the write port is blocked, or an output so far is late.
    s.reads = Wire()

    @update
    def up_go():
      s.reads   @= s.v[5] & ~s.meta[5].fresh
      s.written @= s.v[8] & s.wr.rdy & s.results.val
      s.go      @= ( ~s.v[8] | s.written ) & ( ~s.reads | s.outputs.out.val )
      s.outputs.out.rdy @= s.go & s.reads

    # Stage 4: exact sums

    s.sums.go    //= s.go
    s.sums.val   //= s.v[3]
    s.sums.opens //= s.meta[3].opens
    s.sums.slot  //= s.meta[3].slot
    s.sums.row   //= s.meta[3].row
    s.sums.exp   //= s.meta[3].exp

    for c in range( n ):
      s.sums.total[c] //= s.column[c].total

    if tiles == 1:
      # Sums of values are complete at once, and must not overwrite those of keys.
      s.sums.tile //= 0
      s.sums.keep //= lambda: ~s.meta[3].is_v
    else:
      s.sums.keep //= 1

      @update
      def up_tile():
        s.sums.tile @= s.meta[3].tile
        if s.meta[3].is_v:
          s.sums.tile @= 0

    #---------------------------------------------------------------------
    # Softmax
    #---------------------------------------------------------------------

    s.feed.go          //= s.go
    s.feed.row_done    //= lambda: s.go & s.v[3] & ~s.meta[3].is_v & s.meta[3].closes & ( s.meta[3].tile == last_tile )
    s.feed.row_first   //= s.ring.s_chunk.row_first
    s.feed.row_last    //= s.ring.s_chunk.row_last
    s.feed.heads       //= s.ring.s_chunk.heads
    s.feed.limit_first //= s.ring.s_chunk.limit
    s.feed.next        //= s.ring.s_next
    s.sums.dot_slot    //= s.ring.s_slot
    s.sums.dot_row     //= s.feed.row
    s.sums.dot_tile    //= s.feed.tile
    s.softmax.go       //= s.go
    s.softmax.val      //= s.feed.step
    s.softmax.slot     //= s.ring.s_slot
    s.softmax.row      //= s.feed.row
    s.softmax.tile     //= s.feed.tile
    s.softmax.limit    //= s.feed.limit
    s.softmax.ends     //= s.feed.ends
    s.softmax.fresh    //= s.ring.s_chunk.opens
    s.softmax.dot_exp  //= s.sums.dot_exp
    s.softmax.scale    //= s.command.now.factor
    for c in range( n ):
      s.softmax.dot[c]  //= s.sums.dot[c]
    for i in range( 2 ):
      s.softmax.exponents[i] //= s.chunks.exponents[i]

    #---------------------------------------------------------------------
    # Output: stages 5 to 8, and the write port
    #---------------------------------------------------------------------

    s.softmax.o_slot //= s.meta[5].slot
    s.softmax.o_row  //= s.meta[5].row
    s.softmax.f_slot //= s.meta[7].slot
    s.softmax.f_row  //= s.meta[7].row
    s.result = Wire( BEAT )
    for c in range( n ):
      s.lane[c].go     //= s.go
      s.lane[c].sum    //= s.sums.sum[c]
      s.lane[c].sum_k  //= s.softmax.sum_k
      s.lane[c].o_k    //= s.softmax.o_k
      s.lane[c].fresh  //= s.meta[5].fresh
      s.lane[c].o      //= s.outputs.out.msg[32 * c : 32 * c + 32]
      s.lane[c].ready  //= s.softmax.ready
      s.lane[c].factor //= s.softmax.factor
      s.result[32 * c : 32 * c + 32] //= s.lane[c].out

    @update
    def up_write():
      s.wr.val       @= s.v[8] & s.results.val
      s.wr.msg       @= WRITE( s.results.addr, s.result )
      s.results.step @= s.written
      s.ring.w_next  @= s.written & s.results.last
      s.command.finished @= s.ring.w_next & s.ring.w_chunk.closes

  def line_trace( s ):
    return ( f"{s.cmd}({s.command.line_trace()} {s.append.line_trace()} {s.chunks.line_trace()} "
             f"{s.tiles.line_trace()} {''.join( 'x' if v else ' ' for v in s.v[1:] )}{'' if s.go else '#'}"
             f"{s.softmax.line_trace()}){s.wr}" )
