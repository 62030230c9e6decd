"""MAC array, cycle level: what happens in which cycle.

Values come from `fl.mac_array`; this file says when. Every cycle has two halves: first all that can happen
is decided from the state at its beginning, then the state moves. So the order of the statements in the
second half does not matter, and the cycle counts are those of `rtl_models.mac_array`.

    beat        a cycle of the stream: into the buffer, later out of it into biases, scales or shadow weights
    issue       an activation row meets the stationary tile; K tiles inside, rows innermost
    swap        the shadow weights become the stationary tile, in the cycle of the old tile's last issue
    retire      ten cycles after its last issue a row is written, if nothing holds the pipeline
"""

from collections import deque

import numpy as np
from pymtl3 import *
from pymtl3.stdlib.stream.ifcs import MasterIfcRTL, RecvIfcRTL, SendIfcRTL

from cl.common.streams import RowReader, StreamReader
from cl.mac.weight_loader import WeightLoader, stream_parts
from fl.agent import from_lanes, to_lanes
from fl.mac_array import check, epilogue, gemm, instruction_of, weights_of
from npu.arch.config import ceil_div
from npu.arch.footprint import gemm_layout
from npu.arch.isa import GemmFlag
from npu.arch.messages import Ack, Done, mk_gemm_cmd, mk_mem_read_req, mk_spad_write
from npu.arch.numerics.fp32 import bits, from_bits
from npu.arch.weight_stream import FLOATING_MODES, StreamLayout

COMMANDS = 2     # commands that wait for the stream, and for the arithmetic
STARTS   = 3     # starts that are not used yet
STAGES   = 10    # cycles from issue to the write port
# Rows that are not the end of a sum leave the pipeline after stage 3 (integers) or 6 (FP32 sums).
INT_SUM, SCALE, FP32_SUM, BIAS, RESIDUAL = 4, 6, 7, 9, 10

class Row:
  """An activation row in the pipeline."""

  def __init__( self, ends_int, ends_sum, last_row, floating, words, used ):
    self.ends_int = ends_int      # the last K tile of an integer sum
    self.ends_sum = ends_sum      # the last K tile of all: a result
    self.last_row = last_row      # of the pass
    self.floating = floating
    self.words    = words         # the result, float32 [n], if ends_sum
    self.used     = used          # lanes before the last column

def mask( words, used ):
  """Lanes from `used` on become zero."""
  return np.where( np.arange( len( words ) ) < used, words, np.float32( 0 ) ).astype( np.float32 )

class MacArrayCL( Component ):
  """See `rtl_models.mac_array.MacArrayRTL` for the ports."""

  def construct( s, cfg ):
    d    = cfg.derived
    BEAT = mk_bits( d.beat_bits )
    SPAD = mk_bits( d.spad_addr_bits )
    REQ, WRITE = mk_mem_read_req( cfg ), mk_spad_write( cfg )
    s.cfg = cfg

    # Interface

    s.cmd   = RecvIfcRTL( mk_gemm_cmd( cfg ) )
    s.ack   = SendIfcRTL( Ack )
    s.start = RecvIfcRTL( Bits1 )
    s.done  = SendIfcRTL( Done )
    s.mem   = MasterIfcRTL( REQ, BEAT )
    s.act   = MasterIfcRTL( SPAD, BEAT )
    s.res   = MasterIfcRTL( SPAD, BEAT )
    s.wr    = SendIfcRTL( WRITE )

    # State is plain Python, reached by another name: PyMTL3 takes what it reads through `s` for signals.
    s.clear()
    me = s

    @update_ff
    def ff_tick():
      if s.reset:
        me.clear()
        # Every response has its place in a buffer before it is asked for.
        s.mem.resp.rdy <<= 1
        s.act.resp.rdy <<= 1
        s.res.resp.rdy <<= 1
        s.done.msg     <<= 0
      elif me.rests and not s.cmd.val and not s.start.val:
        return
      else:
        me.tick()
      # Outputs depend on state alone: what is offered in the next cycle. Assignments cost most of the
      # simulation's time, so there are none that change nothing.
      asks, act, res, writes = me.stream.asks(), me.acts.asks(), me.ress.asks(), me.pipe[STAGES] is not None
      flow, control = ( asks, act, res, writes ), me.control()
      if flow != me.flow:
        me.flow = flow
        s.mem.req.val <<= asks
        s.act.req.val <<= act
        s.res.req.val <<= res
        s.wr.val      <<= writes
      if control != me.controls:
        me.controls = control
        s.cmd.rdy   <<= control[0]
        s.start.rdy <<= control[1]
        s.ack.val   <<= control[2]
        s.done.val  <<= control[3]
        if me.acks:
          s.ack.msg <<= me.acks[0]
      if asks:
        s.mem.req.msg <<= REQ( me.stream.addr, me.stream.burst() )
      if act:
        s.act.req.msg <<= me.acts.next
      if res:
        s.res.req.msg <<= me.ress.next
      if writes:
        s.wr.msg <<= WRITE( *me.write() )
      me.rests = not any( flow ) and me.is_idle()

  def clear( s ):
    """The state after reset."""
    s.acks   = deque()                    # errors to answer
    s.todo   = deque()                    # instructions to compute
    s.starts = 0                          # of them, released
    s.fetch  = deque()                    # layouts to take apart
    s.stream = StreamReader( s.cfg )
    s.loader = WeightLoader()
    s.acts   = RowReader()
    s.ress   = RowReader()
    s.pipe   = [ None ] * ( STAGES + 1 )  # pipe[i]: the row behind stage i
    s.state  = "idle"
    s.active = False                      # a stationary tile that is not used up
    s.i      = None                       # the instruction that is computed
    s.writes = deque()                    # addresses still to be written
    s.layout, s.residual = None, False
    s.filled = s.last_of_tile = False
    s.flow = s.controls = None            # what the outputs say
    s.rests  = False                      # nothing changes until a message comes

  def control( s ):
    """`rdy` of cmd and start, `val` of ack and done, and which ack."""
    takes = len( s.todo ) < COMMANDS and len( s.fetch ) < COMMANDS and len( s.acks ) < COMMANDS
    return takes, s.starts < STARTS, bool( s.acks ), s.state == "report", s.acks[0] if s.acks else 0

  def is_idle( s ):
    """Whether there is no command in the block."""
    return s.state == "idle" and not ( s.todo or s.acks or s.fetch or s.loader.setup )

  def write( s ):
    """The address and data that stand at the write port."""
    return s.writes[0], from_lanes( bits( s.pipe[STAGES].words ) )

  def tick( s ):
    """One cycle."""
    # What happens in this cycle, from the state at its beginning
    head    = s.pipe[RESIDUAL - 1]
    needs   = head is not None and s.residual
    go      = not ( s.pipe[STAGES] and not s.wr.rdy ) and not ( needs and not s.ress.buffer )
    issue   = s.state == "run" and s.active and bool( s.acts.buffer ) and go
    last_m  = issue and s.m == s.rows - 1
    swap    = s.loader.full and ( not s.active or last_m )
    written = bool( s.pipe[STAGES] and s.wr.rdy )
    took_residual = needs and go
    residual_row  = s.ress.buffer[0] if took_residual else None
    row = s.issue_row() if issue else None

    # How the state moves
    s.acts.tick( s.act, issue )
    s.ress.tick( s.res, took_residual )
    s.tick_stream( swap )
    if go:
      s.tick_pipeline( row, residual_row )
    elif written:
      s.pipe[STAGES] = None
    s.tick_commands( written )
    s.active = swap or ( s.active and not last_m )

  #-----------------------------------------------------------------------
  # Stream side
  #-----------------------------------------------------------------------

  def tick_stream( s, swap ):
    """Requests, responses, and one part of the stream."""
    stream, loader = s.stream, s.loader
    takes = loader.takes( bool( stream.buffer ), swap )
    pops  = takes and loader.part != "half"
    loads = bool( s.fetch ) and not loader.setup and loader.part is None
    if loader.setup:
      loader.setup = False
      loader.parts = stream_parts( loader.layout )
      s.next_part()
    elif takes:
      s.take_part( swap )
    if swap and not ( takes and s.filled ):
      loader.full = False
    stream.tick( s.mem, pops )
    if loads:
      loader.layout = s.fetch.popleft()
      loader.setup  = True

  def next_part( s ):
    """Look at what comes next in the stream."""
    s.loader.part, s.last_of_tile = next( s.loader.parts, ( None, False ) )

  def take_part( s, swap ):
    """Take one part of the stream."""
    loader   = s.loader
    s.filled = loader.part in ( "half", "tile" )
    if loader.part != "half":
      loader.beats.append( to_lanes( s.stream.buffer[0], s.cfg.n ) )
    if loader.part == "bias":
      loader.biases += 1
    elif loader.part == "scale":
      loader.scales += 1
    elif s.filled:
      loader.full = True
    if s.last_of_tile:
      loader.tiles.append( np.concatenate( loader.beats ) )
      loader.beats = []
    s.next_part()

  #-----------------------------------------------------------------------
  # Commands
  #-----------------------------------------------------------------------

  def tick_commands( s, written ):
    """Answer, start, finish and report commands."""
    if s.ack.val and s.ack.rdy:
      s.acks.popleft()
    starts = s.state == "idle" and bool( s.todo ) and s.starts > 0
    s.starts += int( s.start.val and s.start.rdy ) - int( starts )
    if starts:
      s.i     = s.todo.popleft()
      s.state = "setup"
    elif s.state == "setup":
      s.set_up()
      s.state = "run"
    elif s.state == "run" and written:
      s.writes.popleft()
      if not s.writes:
        s.state = "report"
    elif s.state == "report" and s.done.rdy:
      s.state = "idle"
    if s.cmd.val and s.cmd.rdy:
      i     = instruction_of( s.cmd.msg )
      error = check( s.cfg, i, int( i.rows ), int( s.cmd.msg.lines ) )
      s.acks.append( int( error ) )
      if not error:
        layout = gemm_layout( s.cfg, i )
        s.todo.append( i )
        s.fetch.append( layout )
        s.stream.jobs.append( ( int( i.dram ) * s.cfg.derived.beats_per_line, layout.total_beats ) )

  def set_up( s ):
    """Counters and addresses of a command."""
    i, n     = s.i, s.cfg.n
    s.layout = gemm_layout( s.cfg, i )
    s.rows, s.k_tiles = int( i.rows ), ceil_div( int( i.k ), n )
    s.residual = bool( int( i.flags ) & GemmFlag.RESIDUAL )
    s.floating = s.layout.mode in FLOATING_MODES
    s.m = s.kt = s.tile = 0
    s.lanes = np.zeros( ( s.rows, s.k_tiles * n ), dtype=np.uint32 )
    tiles = s.layout.tiles
    s.acts.start( int( i.src ) + m * int( i.src_stride ) + kt
                  for _ in range( tiles ) for kt in range( s.k_tiles ) for m in range( s.rows ) )
    if s.residual:
      s.ress.start( int( i.src2 ) + m * int( i.dst_stride ) + t for t in range( tiles ) for m in range( s.rows ) )
    s.writes = deque( int( i.dst ) + m * int( i.dst_stride ) + t for t in range( tiles ) for m in range( s.rows ) )

  #-----------------------------------------------------------------------
  # Arithmetic side
  #-----------------------------------------------------------------------

  def issue_row( s ):
    """The next activation row meets the stationary tile."""
    n, layout = s.cfg.n, s.layout
    s.lanes[s.m, s.kt * n : ( s.kt + 1 ) * n] = to_lanes( s.acts.buffer[0], n )
    last_kt  = s.kt == s.k_tiles - 1
    group    = layout.group // n
    ends_int = s.floating or last_kt or ( group > 0 and s.kt % group == group - 1 )
    words    = s.result() if last_kt else None
    row = Row( ends_int, last_kt, s.m == s.rows - 1, s.floating, words, layout.cols - s.tile * n )
    s.m += 1
    if s.m == s.rows:
      s.m, s.kt = 0, s.kt + 1
      if last_kt:
        s.kt, s.tile = 0, s.tile + 1
    return row

  def result( s ):
    """Row m of this output tile, float32 [n], without its residual; lanes past the last column are zero."""
    n, layout = s.cfg.n, s.layout
    if s.m == 0:
      one = StreamLayout( layout.mode, n, layout.k, n, layout.group, layout.has_bias )
      s.one, s.weights = one, weights_of( one, s.loader.tiles.popleft() )
    y = gemm( s.one, s.weights, s.lanes[s.m : s.m + 1, : layout.k] )[0]
    return mask( y, layout.cols - s.tile * n )

  def tick_pipeline( s, row, residual_row ):
    """Every row moves one stage; a new one enters."""
    into = [ None, row, *s.pipe[1:STAGES] ]
    if into[INT_SUM] and not into[INT_SUM].ends_int:
      into[INT_SUM] = None
    if into[SCALE] and into[SCALE].last_row and not into[SCALE].floating:
      s.loader.scales -= 1
    if into[FP32_SUM] and not into[FP32_SUM].ends_sum:
      into[FP32_SUM] = None
    if into[BIAS] and into[BIAS].last_row and s.layout.has_bias:
      s.loader.biases -= 1
    if residual_row is not None:
      out = into[RESIDUAL]
      out.words = mask( epilogue( out.words, None, from_bits( to_lanes( residual_row, s.cfg.n ) ) ), out.used )
    s.pipe = into

  def line_trace( s ):
    return ( f"{s.cmd}({s.state[0]}{len( s.stream.buffer ):3d}{'F' if s.loader.full else ' '} "
             f"{''.join( 'x' if r else ' ' for r in s.pipe[1:] )}){s.wr}" )
