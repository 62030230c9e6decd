"""Vector unit, register-transfer level: n lanes behind two scratchpad readers.

    cmd --> VectorCheck --> VectorSequencer --> src   RowFetch --+--------------> n x VectorLane --> wr
                 |                  |      \\-> src2  RowFetch --+      ^        |     ^
                ack                 |                  |         |      |        v     |
                                    |             ExponentScan --+      |     SegmentReduce
                                    +--> WriteLedger     src --> n/4 x SigmoidPipe <---+

A row enters the lanes when its row of src, its row of src2 and what it needs of its segment are there, and is
written eight cycles later. Rows enter in the order of commands and never overtake each other. See
docs/vector_unit.md for the schedule.
"""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass
from pymtl3.stdlib.stream import NormalQueueRTL
from pymtl3.stdlib.stream.ifcs import MasterIfcRTL, RecvIfcRTL, SendIfcRTL

from npu.arch.messages import Ack, Done, mk_spad_write, mk_vector_cmd
from rtl_models.vector.check import VectorCheck
from rtl_models.vector.decode import VectorDecode
from rtl_models.vector.exponent_scan import ExponentScan
from rtl_models.vector.lane import LANE_STAGES, VectorLane
from rtl_models.vector.messages import (
  ADD,
  MUL,
  QUANTIZE,
  RMSNORM,
  ROPE,
  SOFTMAX,
  SWIGLU,
  mk_control,
  mk_job,
  mk_row_tag,
  mk_scan_tag,
  mk_walk,
)
from rtl_models.vector.row_fetch import RowFetch
from rtl_models.vector.segment_reduce import SegmentReduce
from rtl_models.vector.sequencer import SCANNED, VectorSequencer
from rtl_models.vector.sigmoid import SIGMOID_STAGES, SigmoidPipe
from rtl_models.vector.write_ledger import WriteLedger

COMMANDS  = 2     # checked commands that wait
STEPS     = 4     # of SWIGLU: cycles in which a row goes through n/4 pipes

class VectorUnitRTL( Component ):
  """Ports of the block at every level.

  Ports
  -----
  cmd
    A command, rows and addresses resolved (`npu.arch.messages.mk_vector_cmd`).
  ack
    One `npu.arch.isa.Error` per command, in order; NONE accepts it.
  done
    One per accepted command, in order, when its last row is written: ARGMAX's index, else 0.
  src
    Scratchpad reads: an address out, a row of n lanes in. The first operand.
  src2
    The same: the second operand; for QUANTIZE and RMSNORM also the first, whose exponents are scanned ahead.
  wr
    Scratchpad writes of result rows.
  """

  def construct( s, cfg ):
    n, d   = cfg.n, cfg.derived
    s.set_metadata( VerilogTranslationPass.explicit_module_name, f"VectorUnitRTL_n{n}_a{d.spad_addr_bits}_m{cfg.m_max}"
                                                                 f"_k{cfg.k_max}" )
    BEAT    = mk_bits( d.beat_bits )
    SPAD    = mk_bits( d.spad_addr_bits )
    JOB     = mk_job( cfg )
    WALK    = mk_walk( cfg )
    CONTROL = mk_control( cfg )
    WRITE   = mk_spad_write( cfg )
    CONST   = mk_bitstruct( "VectorConstants", { "op": Bits4, "mode": Bits8, "param": Bits32, "eps": Bits32 } )
    pipes   = n // STEPS
    STEPS_LAST = Bits2( STEPS - 1 )
    behind  = LANE_STAGES + 1                 # registers from stage 0 on
    p_last, p_stages = SIGMOID_STAGES - 1, SIGMOID_STAGES

    # Interface

    s.cmd  = RecvIfcRTL( mk_vector_cmd( cfg ) )
    s.ack  = SendIfcRTL( Ack )
    s.done = SendIfcRTL( Done )
    s.src  = MasterIfcRTL( SPAD, BEAT )
    s.src2 = MasterIfcRTL( SPAD, BEAT )
    s.wr   = SendIfcRTL( WRITE )

    # Components

    s.check     = VectorCheck( cfg )
    s.todo      = NormalQueueRTL( JOB, COMMANDS )
    s.sequencer = VectorSequencer( cfg )
    s.ledger    = WriteLedger( cfg )
    s.srcs      = RowFetch( cfg, mk_row_tag( cfg ) )
    s.src2s     = RowFetch( cfg, mk_scan_tag( cfg ) )
    s.consts    = NormalQueueRTL( CONST, COMMANDS )    # of the command whose rows enter, and of the next
    s.scan      = ExponentScan( cfg )
    s.decode    = VectorDecode( cfg )
    s.exps      = NormalQueueRTL( Bits8, SCANNED )
    s.lane      = [ VectorLane( cfg ) for _ in range( n ) ]
    s.pipe      = [ SigmoidPipe() for _ in range( pipes ) ]
    s.segment   = SegmentReduce( cfg )
    s.dones     = NormalQueueRTL( Done, COMMANDS )

    # Connections

    s.cmd             //= s.check.cmd
    s.ack             //= s.check.ack
    s.check.out       //= s.todo.recv
    s.src             //= s.srcs.mem
    s.src2            //= s.src2s.mem
    s.done            //= s.dones.send
    s.sequencer.room  //= s.ledger.room
    s.sequencer.push  //= s.ledger.push
    s.sequencer.write //= s.ledger.addr
    s.srcs.ask        //= s.sequencer.ask
    s.srcs.addr       //= s.sequencer.addr
    s.srcs.tag        //= s.sequencer.tag
    s.srcs.taken      //= s.sequencer.taken
    s.src2s.ask       //= s.sequencer.ask2
    s.src2s.addr      //= s.sequencer.addr2
    s.src2s.tag       //= s.sequencer.tag2
    s.src2s.taken     //= s.sequencer.taken2
    s.ledger.query[0] //= s.sequencer.addr
    s.ledger.query[1] //= s.sequencer.addr2
    s.ledger.hit[0]   //= s.sequencer.hit
    s.ledger.hit[1]   //= s.sequencer.hit2

    @update
    def up_start():
      s.todo.send.rdy       @= s.sequencer.start.rdy & s.consts.recv.rdy
      s.sequencer.start.val @= s.todo.send.val & s.consts.recv.rdy
      s.consts.recv.val     @= s.todo.send.val & s.sequencer.start.rdy
      s.consts.recv.msg     @= CONST( s.todo.send.msg.op, s.todo.send.msg.mode, s.todo.send.msg.param,
                                      s.todo.send.msg.eps )
      s.sequencer.start.msg @= WALK(
        s.todo.send.msg.op, s.todo.send.msg.rows, s.todo.send.msg.segments, s.todo.send.msg.height,
        s.todo.send.msg.rest, s.todo.send.msg.dst, s.todo.send.msg.src, s.todo.send.msg.src2,
        s.todo.send.msg.dst_stride, s.todo.send.msg.src_stride, s.todo.send.msg.src2_stride )
      s.ledger.seal         @= s.todo.send.val & s.todo.send.rdy

    #---------------------------------------------------------------------
    # Who enters the lanes in this cycle
    #---------------------------------------------------------------------

    s.go      = Wire()                        # the lanes move
    s.pipe_go = Wire()                        # and so do the special-function pipes
    s.here    = Wire()                        # a row of src is there
    s.op      = Wire( 4 )                     # and its operation
    s.is_rope = Wire()
    s.two     = Wire()                        # a row of the second operand is there
    s.use_two = Wire()
    s.use_exp = Wire()
    s.ready   = Wire()                        # what the row needs is there
    s.holds   = Wire()                        # the first row of a ROPE pair is kept
    s.fire    = Wire()                        # the row enters
    s.feeds   = Wire()                        # SWIGLU: n/4 lanes of the row enter the pipes
    s.turn    = Wire()                        # the pair in stage 0 enters once more, exchanged
    s.turn_ends = Wire()
    s.in_pipes = Wire( 3 )                    # SWIGLU rows that are in the pipes
    s.caught  = Wire()                        # one has left them and waits for its second operand
    s.caught_keep = Wire( n )
    s.caught_ends = Wire()
    s.enters  = Wire()                        # and enters the lanes
    s.step    = Wire( 2 )

    @update
    def up_entry():
      s.here     @= s.srcs.out.val & s.consts.send.val
      s.op       @= s.consts.send.msg.op
      s.is_rope  @= s.op == ROPE
      s.two      @= s.src2s.out.val & ~s.src2s.out_tag.scan
      s.use_two  @= ( s.op == ADD ) | ( s.op == MUL ) | s.is_rope | ( ( s.op == RMSNORM ) & s.decode.out_pass )
      s.use_exp  @= ( s.op == QUANTIZE ) | ( ( s.op == RMSNORM ) & ~s.decode.out_pass )
      s.ready    @= ( s.here & ( s.in_pipes == 0 ) & ( s.two | ~s.use_two ) & ( s.exps.send.val | ~s.use_exp )
                      & ( s.segment.scalar_val | ~s.decode.out_pass )
                      & ( s.segment.top_val | ( s.op != SOFTMAX ) | ( s.srcs.out_tag.phase == 0 ) ) )
      s.pipe_go  @= s.go & ( s.two | ~s.caught )
      s.holds    @= s.go & s.is_rope & ~s.srcs.out_tag.second & s.here & ( s.in_pipes == 0 )
      s.fire     @= s.go & ~s.turn & s.ready & ( s.op != SWIGLU ) & ( s.srcs.out_tag.second | ~s.is_rope )
      s.feeds    @= s.pipe_go & s.here & ( s.op == SWIGLU )
      s.enters   @= s.pipe_go & s.caught

    s.taken    = Wire()
    s.exp_used = Wire()

    @update
    def up_taken():
      s.taken           @= s.holds | s.fire | ( s.feeds & ( s.step == STEPS_LAST ) )
      s.srcs.out.rdy    @= s.taken
      s.consts.send.rdy @= s.taken & s.srcs.out_tag.ends
      s.src2s.out.rdy   @= s.scan.en | ( s.fire & s.use_two ) | s.enters
      s.exp_used        @= s.fire & s.use_exp & s.srcs.out_tag.last

    @update_ff
    def ff_entry():
      if s.reset:
        s.turn     <<= 0
        s.in_pipes <<= 0
        s.step     <<= 0
      else:
        if s.go:
          s.turn      <<= s.fire & s.is_rope
          s.turn_ends <<= s.srcs.out_tag.ends
        if s.feeds:
          s.step <<= s.step + 1
        if s.feeds & ( s.step == STEPS_LAST ) & ~s.enters:
          s.in_pipes <<= s.in_pipes + 1
        elif s.enters & ~( s.feeds & ( s.step == STEPS_LAST ) ):
          s.in_pipes <<= s.in_pipes - 1

    # Exponents: every row that is scanned leaves its buffer at once

    for i in range( n ):
      connect( s.scan.field[i], s.src2s.out.msg[32 * i + 23 : 32 * i + 31] )
    s.scan.keep  //= s.src2s.out_tag.keep
    s.scan.first //= s.src2s.out_tag.first
    s.exps.recv.msg //= s.scan.out
    s.exps.send.rdy       //= s.exp_used
    s.sequencer.scan_used //= s.exp_used

    @update
    def up_scan():
      s.scan.en       @= s.src2s.out.val & s.src2s.out_tag.scan & s.exps.recv.rdy
      s.exps.recv.val @= s.src2s.out.val & s.src2s.out_tag.scan & s.src2s.out_tag.last

    # ARGMAX: the index of lane 0

    s.index_now  = Wire( 32 )
    s.index_next = Wire( 32 )

    @update
    def up_index():
      s.index_now @= s.index_next
      if s.srcs.out_tag.first:
        s.index_now @= s.consts.send.msg.param

    @update_ff
    def ff_index():
      if s.fire:
        s.index_next <<= s.index_now + n

    #---------------------------------------------------------------------
    # What the lanes do to it
    #---------------------------------------------------------------------

    s.v = [ Wire() for _ in range( behind ) ]             # behind stage i there is a row
    s.c = [ Wire( CONTROL ) for _ in range( behind ) ]    # and what is done to it

    s.decode.op        //= s.op
    s.decode.mode      //= s.consts.send.msg.mode
    s.decode.phase     //= s.srcs.out_tag.phase
    s.decode.first     //= s.srcs.out_tag.first
    s.decode.last      //= s.srcs.out_tag.last
    s.decode.ends      //= s.srcs.out_tag.ends
    s.decode.keep      //= s.srcs.out_tag.keep
    s.decode.exp       //= s.exps.send.msg
    s.decode.turn      //= s.turn
    s.decode.turn_keep //= s.c[0].keep
    s.decode.turn_ends //= s.turn_ends
    s.decode.from_pipe //= s.enters
    s.decode.pipe_keep //= s.caught_keep
    s.decode.pipe_ends //= s.caught_ends

    @update_ff
    def ff_valid():
      if s.reset:
        for i in range( behind ):
          s.v[i] <<= 0
      elif s.go:
        s.v[0] <<= s.fire | s.turn | s.enters
        for i in range( 1, behind ):
          s.v[i] <<= s.v[i - 1]

    @update_ff
    def ff_control():
      if s.go:
        s.c[0] <<= s.decode.now
        for i in range( 1, behind ):
          s.c[i] <<= s.c[i - 1]

    #---------------------------------------------------------------------
    # Lanes
    #---------------------------------------------------------------------

    s.src_lane = [ Wire( 32 ) for _ in range( n ) ]
    s.load     = Wire()
    s.load   //= lambda: s.fire | s.enters
    s.grab     = [ Wire() for _ in range( STEPS ) ]

    for i in range( n ):
      lane = s.lane[i]
      at   = slice( 32 * i, 32 * i + 32 )
      connect( s.src_lane[i], s.srcs.out.msg[at] )
      connect( lane.src,      s.srcs.out.msg[at] )
      connect( lane.src2,     s.src2s.out.msg[at] )
      connect( lane.go,        s.go )
      connect( lane.keep_src,  s.holds )
      connect( lane.load,      s.load )
      connect( lane.sel_a,     s.decode.sel_a )
      connect( lane.sel_b,     s.decode.sel_b )
      connect( lane.pair,      s.is_rope )
      connect( lane.from_pipe, s.enters )
      connect( lane.swap,      s.turn )
      connect( lane.grab,      s.grab[i // pipes] )
      connect( lane.pipe_gate,    s.pipe[i % pipes].gate )
      connect( lane.pipe_sigmoid, s.pipe[i % pipes].out )
      connect( lane.param,     s.consts.send.msg.param )
      connect( lane.scalar,    s.segment.scalar )
      connect( lane.top,       s.segment.top )
      for j in range( LANE_STAGES ):
        connect( lane.c[j], s.c[j] )
      connect( lane.used2, s.c[2].keep[i] )
      connect( lane.used6, s.c[6].keep[i] )
      connect( s.segment.key[i],    lane.key )
      connect( s.segment.addend[i], lane.addend )

    #---------------------------------------------------------------------
    # SWIGLU: four steps of a row through the special-function pipes
    #---------------------------------------------------------------------

    # Index i is behind stage i + 1.
    s.p_v    = [ Wire() for _ in range( p_stages ) ]
    s.p_step = [ Wire( 2 ) for _ in range( p_stages ) ]
    s.p_keep = [ Wire( n ) for _ in range( p_stages ) ]
    s.p_ends = [ Wire() for _ in range( p_stages ) ]
    s.feed   = [ [ Wire( 32 ) for _ in range( STEPS ) ] for _ in range( pipes ) ]

    for i in range( n ):
      connect( s.feed[i % pipes][i // pipes], s.src_lane[i] )
    for k in range( pipes ):
      connect( s.pipe[k].go, s.pipe_go )
      if k > 0:
        connect( s.pipe[k].scalar, 0 )
        connect( s.pipe[k].scalar_x, 0 )
        connect( s.pipe[k].scalar_root, 0 )

    @update
    def up_feed():
      for k in range( pipes ):
        s.pipe[k].x @= s.feed[k][s.step]

    @update
    def up_grab():
      for j in range( STEPS ):
        s.grab[j] @= s.pipe_go & s.p_v[p_last] & ( s.p_step[p_last] == j )

    @update_ff
    def ff_pipe():
      if s.reset:
        s.caught <<= 0
        for i in range( p_stages ):
          s.p_v[i] <<= 0
      elif s.pipe_go:
        s.caught <<= s.grab[STEPS_LAST]
        s.p_v[0] <<= s.feeds
        for i in range( 1, p_stages ):
          s.p_v[i] <<= s.p_v[i - 1]

    @update_ff
    def ff_pipe_row():
      if s.pipe_go:
        s.caught_keep <<= s.p_keep[p_last]
        s.caught_ends <<= s.p_ends[p_last]
        s.p_step[0]   <<= s.step
        s.p_keep[0]   <<= s.srcs.out_tag.keep
        s.p_ends[0]   <<= s.srcs.out_tag.ends
        for i in range( 1, p_stages ):
          s.p_step[i] <<= s.p_step[i - 1]
          s.p_keep[i] <<= s.p_keep[i - 1]
          s.p_ends[i] <<= s.p_ends[i - 1]

    # Segments

    s.index = [ Wire( 32 ) for _ in range( behind ) ]     # ARGMAX: of lane 0; behind stage 4, of the best so far

    s.segment.go         //= s.go
    s.segment.v3         //= s.v[3]
    s.segment.first3     //= s.c[3].first
    s.segment.last3      //= s.c[3].last
    s.segment.largest3   //= s.c[3].largest
    s.segment.argmax3    //= s.c[3].argmax
    s.segment.v5         //= s.v[5]
    s.segment.first5     //= s.c[5].first
    s.segment.last5      //= s.c[5].last
    s.segment.total5     //= s.c[5].total
    s.segment.root5      //= s.c[5].root
    s.segment.exp5       //= s.c[5].exp
    s.segment.index      //= s.index[3]
    s.segment.fresh      //= lambda: s.fire & ( s.srcs.out_tag.phase == 0 )
    s.segment.inv_length //= s.consts.send.msg.param
    s.segment.eps        //= s.consts.send.msg.eps
    s.segment.pipe_x     //= s.pipe[0].scalar_x
    s.segment.pipe_val   //= s.pipe[0].scalar
    s.segment.pipe_root  //= s.pipe[0].scalar_root
    s.segment.pipe_out   //= s.pipe[0].scalar_out

    @update_ff
    def ff_indices():
      if s.go:
        s.index[0] <<= s.index_now
        s.index[1] <<= s.index[0]
        s.index[2] <<= s.index[1]
        s.index[3] <<= s.index[2]
        s.index[4] <<= 0
        if s.c[3].argmax:
          s.index[4] <<= s.segment.found
        s.index[5] <<= s.index[4]
        s.index[6] <<= s.index[5]
        s.index[7] <<= s.index[6]

    #---------------------------------------------------------------------
    # Results
    #---------------------------------------------------------------------

    s.blocked = Wire()
    s.result  = Wire( BEAT )
    for i in range( n ):
      connect( s.result[32 * i : 32 * i + 32], s.lane[i].out )

    @update
    def up_write():
      s.wr.val  @= s.v[7] & s.c[7].write & ( ~s.c[7].ends | s.dones.recv.rdy )
      s.wr.msg  @= WRITE( s.ledger.head, s.result )
      s.blocked @= ( s.c[7].write & ~s.wr.rdy ) | ( s.c[7].ends & ~s.dones.recv.rdy )
      s.go      @= ~( s.v[7] & s.blocked )
      s.dones.recv.val @= s.v[7] & s.c[7].ends & ( ~s.c[7].write | s.wr.rdy )
      s.dones.recv.msg @= s.index[7]
      s.ledger.pop     @= s.wr.val & s.wr.rdy

  def line_trace( s ):
    return ( f"{s.cmd}({s.check.line_trace()} {s.sequencer.line_trace()} {s.srcs.line_trace()} {s.src2s.line_trace()} "
             f"{''.join( 'x' if v else ' ' for v in s.v )}{'' if s.go else '#'}){s.wr}" )
