"""Attention engine, register-transfer level: grouped-query attention with an online softmax.

    cmd -> AttentionCheck -+-> AttentionAppend -> kv_wr                       q: rows to append, then queries
                           +-> AttentionSequence -> chunks, to everybody below
                           +-> AttentionStream -kv-> AttentionChunks -> AttentionTiles --shadow weights--+
                                                                                                         v
      q --queries--+--> n x MacColumn --> AttentionAccumulators --> AttentionSoftmax --probabilities--+
                   +<---------------------------------------------------------------------------------+
                                             +--> n x AttentionOutput --> wr        acc: outputs so far

The multipliers are those of the MAC array (`MacColumn`). A tile of n keys by n elements is stationary while the query
rows of a KV head pass, then their probabilities. Phases alternate: keys of chunk 0, keys of chunk 1, values of chunk 0,
keys of chunk 2, values of chunk 1, ...: the softmax of a chunk hides behind the keys of the next one.
"""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass
from pymtl3.stdlib.stream.ifcs import MasterIfcRTL, RecvIfcRTL, SendIfcRTL

from npu.arch.config import ROWS_PER_TOKEN, clog2
from npu.arch.messages import Ack, Done, mk_attend_cmd, mk_mem_read_req, mk_mem_write, mk_spad_write
from rtl_models.attention.accumulators import AttentionAccumulators
from rtl_models.attention.address_nest import COUNT_BITS, AddressNest
from rtl_models.attention.append import AttentionAppend
from rtl_models.attention.check import AttentionCheck
from rtl_models.attention.chunks import AttentionChunks
from rtl_models.attention.output import AttentionOutput
from rtl_models.attention.rows import AttentionRows
from rtl_models.attention.sequence import AttentionSequence, mk_chunk
from rtl_models.attention.shape import AttentionShape
from rtl_models.attention.softmax import AttentionSoftmax
from rtl_models.attention.stream import AttentionStream
from rtl_models.attention.tiles import AttentionTiles, mk_tile
from rtl_models.mac.column import MacColumn
from rtl_models.mac.operand_decode import OperandDecode

STAGES = 8     # registers from the multiplier to the write port
CHUNKS = 4     # chunks between the first that is read and the last that is written

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
    lg    = clog2( n )
    shape = AttentionShape( cfg )
    s.set_metadata( VerilogTranslationPass.explicit_module_name, f"AttentionEngineRTL_n{n}_m{cfg.m_max}" )
    BEAT    = mk_bits( d.beat_bits )
    ADDR    = mk_bits( d.beat_addr_bits )
    SPAD    = mk_bits( d.spad_addr_bits )
    ROW     = mk_bits( shape.row_bits )
    TILE    = mk_bits( shape.tile_bits )
    COUNT   = mk_bits( COUNT_BITS )
    CMD     = mk_attend_cmd( cfg )
    WRITE   = mk_spad_write( cfg )
    CHUNK_T = mk_chunk( cfg )
    TILE_T  = mk_tile( cfg )
    META    = mk_bitstruct( f"AttentionRow_r{shape.row_bits}_t{shape.tile_bits}", {
      "is_v": Bits1, "slot": Bits1, "row": ROW, "tile": TILE, "opens": Bits1, "closes": Bits1, "fresh": Bits1,
      "exp": Bits8 } )
    spad_bits, dim_bits = d.spad_addr_bits, shape.dim_bits
    all_rows, last_tile = shape.rows, shape.tiles - 1
    tiles   = shape.tiles

    # Interface

    s.cmd   = RecvIfcRTL( CMD )
    s.ack   = SendIfcRTL( Ack )
    s.done  = SendIfcRTL( Done )
    s.kv    = MasterIfcRTL( mk_mem_read_req( cfg ), BEAT )
    s.kv_wr = SendIfcRTL( mk_mem_write( cfg ) )
    s.q     = MasterIfcRTL( SPAD, BEAT )
    s.acc   = MasterIfcRTL( SPAD, BEAT )
    s.wr    = SendIfcRTL( WRITE )

    # Components

    s.check    = AttentionCheck( cfg )
    s.append   = AttentionAppend( cfg )
    s.order    = AttentionSequence( cfg )
    s.stream   = AttentionStream( cfg )
    s.chunks   = AttentionChunks( cfg )
    s.tiles    = AttentionTiles( cfg )
    s.queries  = AttentionRows( cfg )
    s.outputs  = AttentionRows( cfg )
    s.results  = AddressNest( cfg )
    s.decode   = [ OperandDecode() for _ in range( n ) ]
    s.column   = [ MacColumn( n ) for _ in range( n ) ]
    s.sums     = AttentionAccumulators( cfg )
    s.softmax  = AttentionSoftmax( cfg )
    s.lane     = [ AttentionOutput() for _ in range( n ) ]

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

    IDLE, SETUP, START, APPEND, ATTEND, REPORT = range( 6 )
    s.state    = Wire( 3 )
    s.now      = Wire( CMD )
    s.group    = Wire( 8 )
    s.finished = Wire()                   # the last result is written in this cycle

    @update
    def up_command():
      s.check.job.rdy   @= s.state == IDLE
      s.check.group.rdy @= s.state == IDLE
      s.done.val        @= s.state == REPORT
      s.done.msg        @= 0

    @update_ff
    def ff_command():
      if s.reset:
        s.state <<= IDLE
      elif s.state == IDLE:
        if s.check.job.val:
          s.now   <<= s.check.job.msg
          s.group <<= s.check.group.msg
          s.state <<= SETUP
      elif s.state == SETUP:
        s.state <<= START
      elif s.state == START:
        s.state <<= APPEND
      elif s.state == APPEND:
        if s.append.idle:
          s.state <<= ATTEND
      elif s.state == ATTEND:
        if s.finished:
          s.state <<= REPORT
      elif s.done.rdy:
        s.state <<= IDLE

    # Sizes, in scratchpad rows and in beats. A line has as many beats as a chunk has key tiles.

    line_bits = clog2( d.beats_per_line )
    lg_token  = clog2( ROWS_PER_TOKEN )
    s.dims        = Wire( dim_bits )      # scratchpad rows of a head
    s.split       = Wire()                # a KV head's query rows need several sweeps
    s.sweeps      = Wire( 6 )
    s.chunk_beats = Wire( 10 )
    s.head_beats  = Wire( 32 )
    s.seen_beats  = Wire( 32 )            # of the chunks that have a key
    s.first_beat  = Wire( ADDR )          # of the cache
    s.chunk_beat  = Wire( ADDR )          # of the chunk where this pass begins
    s.c_beats     = Wire( 10 )
    s.c_seen      = Wire( 32 )
    s.c_rows      = Wire( 16 )
    s.dims //= s.now.length[lg : lg + dim_bits]

    @update
    def up_sizes():
      s.c_beats @= ( s.now.length + 1 ) << line_bits
      s.c_seen  @= ( s.now.pos + zext( s.now.rows, 32 ) + 15 ) >> 4
      s.c_rows  @= zext( s.now.rows, 16 ) * zext( s.group, 16 )

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
          s.sweeps <<= trunc( ( zext( s.group, 9 ) + ( ROWS_PER_TOKEN - 1 ) ) >> lg_token, 6 )

    # Addresses and strides are kept in the scratchpad's width: the check has seen the range.
    s.src_stride = Wire( SPAD )
    s.dst_stride = Wire( SPAD )
    s.head_step  = Wire( SPAD )
    same         = min( spad_bits, 16 )
    s.src_stride[0:same] //= s.now.src_stride[0:same]
    s.dst_stride[0:same] //= s.now.dst_stride[0:same]
    for b in range( same, spad_bits ):
      s.src_stride[b] //= 0
      s.dst_stride[b] //= 0
    s.head_step[0:dim_bits] //= s.dims
    for b in range( dim_bits, spad_bits ):
      s.head_step[b] //= 0

    s.attends = Wire()                    # the first cycle of attention
    s.attends //= lambda: ( s.state == APPEND ) & s.append.idle

    s.append.start       //= lambda: s.state == START
    s.append.rows        //= s.now.rows
    s.append.kv_heads    //= s.now.kv_heads
    s.append.dims        //= s.dims
    s.append.slot        //= s.now.pos[0:4]
    s.append.chunk       //= s.chunk_beat
    s.append.chunk_beats //= s.chunk_beats
    s.append.head_beats  //= s.head_beats

    s.stream.start       //= s.attends
    s.stream.first       //= s.first_beat
    s.stream.head_beats  //= s.head_beats
    s.stream.beats       //= s.seen_beats
    s.stream.kv_heads    //= s.now.kv_heads
    s.stream.sweeps      //= s.sweeps

    s.order.start     //= s.attends
    s.order.cmd       //= s.now
    s.order.group     //= s.group
    s.order.split     //= s.split
    s.order.src_stride //= s.src_stride
    s.order.dst_stride //= s.dst_stride
    s.order.head_step  //= s.head_step

    #---------------------------------------------------------------------
    # Chunks: everybody goes through them, each at its own place
    #---------------------------------------------------------------------

    # Counters of chunks since reset, mod 8: the lower half is the place, the lowest bit the slot.
    s.ring   = [ Wire( CHUNK_T ) for _ in range( CHUNKS ) ]
    s.known  = Wire( 3 )
    s.at_q   = Wire( 3 )
    s.at_k   = Wire( 3 )
    s.at_v   = Wire( 3 )
    s.at_s   = Wire( 3 )
    s.at_o   = Wire( 3 )
    s.at_w   = Wire( 3 )
    s.q_chunk = Wire( CHUNK_T )
    s.s_chunk = Wire( CHUNK_T )
    s.o_chunk = Wire( CHUNK_T )
    s.w_chunk = Wire( CHUNK_T )
    s.q_next = Wire()
    s.s_next = Wire()
    s.o_next = Wire()
    s.w_next = Wire()

    @update
    def up_ring():
      s.order.out.rdy @= s.known - s.at_w < CHUNKS
      s.q_chunk       @= s.ring[s.at_q[0:2]]
      s.s_chunk       @= s.ring[s.at_s[0:2]]
      s.o_chunk       @= s.ring[s.at_o[0:2]]
      s.w_chunk       @= s.ring[s.at_w[0:2]]
      s.tiles.k_chunk @= s.ring[s.at_k[0:2]]
      s.tiles.v_chunk @= s.ring[s.at_v[0:2]]
      s.tiles.k_val   @= s.at_k != s.known
      s.tiles.v_val   @= s.at_v != s.known
      s.tiles.k_slot  @= s.at_k[0]
      s.tiles.v_slot  @= s.at_v[0]

    @update_ff
    def ff_ring():
      if s.reset:
        s.known <<= 0
        s.at_q  <<= 0
        s.at_k  <<= 0
        s.at_v  <<= 0
        s.at_s  <<= 0
        s.at_o  <<= 0
        s.at_w  <<= 0
      else:
        if s.order.out.val & s.order.out.rdy:
          s.known <<= s.known + 1
          s.ring[s.known[0:2]] <<= s.order.out.msg
        s.at_q <<= s.at_q + zext( s.q_next, 3 )
        s.at_k <<= s.at_k + zext( s.tiles.k_next, 3 )
        s.at_v <<= s.at_v + zext( s.tiles.v_next, 3 )
        s.at_s <<= s.at_s + zext( s.s_next, 3 )
        s.at_o <<= s.at_o + zext( s.o_next, 3 )
        s.at_w <<= s.at_w + zext( s.w_next, 3 )

    #---------------------------------------------------------------------
    # Scratchpad rows: to append, queries, outputs so far; where results go
    #---------------------------------------------------------------------

    s.new_rows   = Wire( COUNT )          # scratchpad rows of a token's keys and values
    s.appends    = Wire()

    @update
    def up_append():
      s.new_rows   @= ( zext( s.now.kv_heads, COUNT ) * zext( s.dims, COUNT ) ) << 1
      s.appends    @= ( s.state == START ) | ( s.state == APPEND )

    @update
    def up_queries():
      s.queries.start       @= ( ( s.state == START )
                                 | ( ( s.state == ATTEND ) & s.queries.idle & ( s.at_q != s.known ) ) )
      s.queries.middle_step @= s.src_stride
      if s.appends:
        s.queries.base       @= s.now.src2[0:spad_bits]
        s.queries.inner      @= s.new_rows
        s.queries.inner_step @= 1
        s.queries.middle     @= zext( s.now.rows, COUNT )
        s.queries.outer      @= 1
        s.queries.times      @= 1
      else:
        s.queries.base       @= s.q_chunk.q_addr
        s.queries.inner      @= zext( s.q_chunk.heads, COUNT )
        s.queries.inner_step @= s.head_step
        s.queries.middle     @= zext( s.q_chunk.tokens, COUNT )
        s.queries.outer      @= zext( s.dims, COUNT )
        s.queries.times      @= tiles
      s.q_next @= s.queries.ended & ~s.appends

    # Outputs are read after all that the chunk before has written: there may be an output among it. The first
    # chunk of a sweep has none to read.
    s.outputs.base        //= s.o_chunk.o_addr
    s.outputs.inner_step  //= s.head_step
    s.outputs.middle_step //= s.dst_stride
    s.outputs.times       //= 1
    s.results.base        //= s.w_chunk.o_addr
    s.results.inner_step  //= s.head_step
    s.results.middle_step //= s.dst_stride
    s.results.times       //= 1
    s.o_ready = Wire()

    @update
    def up_outputs():
      s.o_ready        @= s.outputs.idle & ( s.at_o != s.known ) & ( s.at_o == s.at_w )
      s.outputs.start  @= s.o_ready & ~s.o_chunk.opens
      s.outputs.inner  @= zext( s.o_chunk.heads, COUNT )
      s.outputs.middle @= zext( s.o_chunk.tokens, COUNT )
      s.outputs.outer  @= zext( s.dims, COUNT )
      s.o_next         @= s.outputs.ended | ( s.o_ready & s.o_chunk.opens )
      s.results.start  @= ~s.results.val & ( s.at_w != s.known )
      s.results.inner  @= zext( s.w_chunk.heads, COUNT )
      s.results.middle @= zext( s.w_chunk.tokens, COUNT )
      s.results.outer  @= zext( s.dims, COUNT )

    #---------------------------------------------------------------------
    # Stationary tiles
    #---------------------------------------------------------------------

    s.chunks.dims   //= s.dims
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
    s.tiles.dims    //= s.dims

    #---------------------------------------------------------------------
    # Issue: a row of queries, or of probabilities, meets the stationary tile
    #---------------------------------------------------------------------

    s.go      = Wire()
    s.issue   = Wire()
    s.active  = Wire()                    # the columns hold a tile that is not used up
    s.swap    = Wire()
    s.tile    = Wire( TILE_T )
    s.row     = Wire( ROW )
    s.last_row = Wire()
    s.weighted    = Wire( 2 )                 # chunks whose probabilities are there and not used up
    s.weights_used = Wire()

    @update
    def up_issue():
      s.last_row @= s.row == s.tile.row_last
      s.issue    @= s.go & s.active & s.queries.out.val & ( s.state == ATTEND )
      if s.tile.is_v:
        # A row that waits in the pipeline for its output so far must not hold up the writes that this waits for.
        s.issue  @= s.go & s.active & ( s.weighted != 0 ) & ( s.tile.fresh | ( s.at_w[0] == s.tile.slot ) )
      s.swap     @= s.tiles.full & ( ~s.active | ( s.issue & s.last_row ) )
      s.tiles.swap @= s.swap
      s.weights_used  @= s.issue & s.last_row & s.tile.is_v & s.tile.ends
      s.queries.out.rdy     @= s.append.rows_in.rdy | ( s.issue & ~s.tile.is_v )
      s.append.rows_in.val  @= s.queries.out.val
      s.append.rows_in.msg  @= s.queries.out.msg

    @update_ff
    def ff_issue():
      if s.reset:
        s.active <<= 0
        s.weighted   <<= 0
      else:
        if s.swap:
          s.active <<= 1
        elif s.issue & s.last_row:
          s.active <<= 0
        s.weighted <<= s.weighted + zext( s.softmax.done, 2 ) - zext( s.weights_used, 2 )
      if s.swap:
        s.tile <<= s.tiles.tile
        s.row  <<= s.tiles.tile.row_first
      elif s.issue:
        s.row  <<= s.row + 1

    s.softmax.w_slot //= s.tile.slot
    s.softmax.w_row  //= s.row
    s.softmax.w_tile //= s.tile.tile
    s.query = [ Wire( 16 ) for _ in range( n ) ]
    for k in range( n ):
      s.query[k] //= s.queries.out.msg[32 * k : 32 * k + 16]
      s.decode[k].floating //= 0
      s.decode[k].half     //= 0

    @update
    def up_operands():
      for k in range( n ):
        s.decode[k].in_ @= s.query[k]
        if s.tile.is_v:
          s.decode[k].in_ @= s.softmax.w[k]

    for c in range( n ):
      s.column[c].load_en  //= s.tiles.load_en[c]
      s.column[c].swap     //= s.swap
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
    s.meta = [ Wire( META ) for _ in range( STAGES ) ]
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
        s.v[1] <<= s.issue
        s.v[2] <<= s.v[1]
        s.v[3] <<= s.v[2]
        s.v[4] <<= s.v[3] & s.meta[3].is_v & s.meta[3].closes     # complete sums of values only
        s.v[5] <<= s.v[4]
        s.v[6] <<= s.v[5]
        s.v[7] <<= s.v[6]
        s.v[8] <<= s.v[7]
        s.meta[1] <<= META( s.tile.is_v, s.tile.slot, s.row, s.tile.tile, s.tile.opens, s.tile.closes, s.tile.fresh,
                            s.queries.out.msg[16:24] )
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
    s.row_done = Wire()                   # a row has met all keys of its chunk

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

    s.row_done //= lambda: s.go & s.v[3] & ~s.meta[3].is_v & s.meta[3].closes & ( s.meta[3].tile == last_tile )

    #---------------------------------------------------------------------
    # Softmax: rows go in when they are complete, one key tile per step
    #---------------------------------------------------------------------

    READY = mk_bits( shape.row_bits + 2 )
    s.rows_ready = Wire( READY )
    s.s_begun    = Wire()                 # a row of this chunk has gone in
    s.s_row      = Wire( ROW )
    s.s_head     = Wire( 8 )
    s.s_limit    = Wire( 8 )
    s.s_tile     = Wire( TILE )
    s.s_step     = Wire()
    s.s_row_ends = Wire()
    s.s_now      = Wire( ROW )
    s.s_limit_now = Wire( 8 )
    s.s_head_now  = Wire( 8 )

    @update
    def up_softmax():
      s.s_now       @= s.s_row
      s.s_limit_now @= s.s_limit
      s.s_head_now  @= s.s_head
      if ~s.s_begun:
        s.s_now       @= s.s_chunk.row_first
        s.s_limit_now @= zext( s.s_chunk.limit, 8 )
        s.s_head_now  @= 0
      s.s_step     @= s.go & ( s.rows_ready != 0 )
      s.s_row_ends @= s.s_step & ( s.s_tile == last_tile )
      s.s_next     @= s.s_row_ends & ( s.s_now == s.s_chunk.row_last )
      s.softmax.ends @= s.s_now == s.s_chunk.row_last

    @update_ff
    def ff_softmax():
      if s.reset:
        s.rows_ready <<= 0
        s.s_begun    <<= 0
        s.s_tile     <<= 0
      else:
        s.rows_ready <<= s.rows_ready + zext( s.row_done, READY ) - zext( s.s_row_ends, READY )
        if s.s_row_ends:
          s.s_begun <<= ~s.s_next
          s.s_row   <<= s.s_now + 1
          s.s_head  <<= s.s_head_now + 1
          s.s_limit <<= s.s_limit_now
          if s.s_head_now + 1 == s.s_chunk.heads:
            s.s_head  <<= 0
            s.s_limit <<= s.s_limit_now + 1
        if s.s_row_ends:
          s.s_tile <<= 0
        elif s.s_step:
          s.s_tile <<= s.s_tile + 1

    s.sums.dot_slot     //= s.at_s[0]
    s.sums.dot_row      //= s.s_now
    s.sums.dot_tile     //= s.s_tile
    s.softmax.go        //= s.go
    s.softmax.val       //= s.s_step
    s.softmax.slot      //= s.at_s[0]
    s.softmax.row       //= s.s_now
    s.softmax.tile      //= s.s_tile
    s.softmax.limit     //= s.s_limit_now
    s.softmax.fresh     //= s.s_chunk.opens
    s.softmax.dot_exp   //= s.sums.dot_exp
    s.softmax.scale     //= s.now.factor
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
      s.w_next       @= s.written & s.results.last
      s.finished     @= s.w_next & s.w_chunk.closes

  def line_trace( s ):
    return ( f"{s.cmd}({'.SSA!R'[int( s.state )]} {s.append.line_trace()} {s.chunks.line_trace()} "
             f"{s.tiles.line_trace()} {''.join( 'x' if v else ' ' for v in s.v[1:] )}{'' if s.go else '#'}"
             f"{s.softmax.line_trace()}){s.wr}" )
