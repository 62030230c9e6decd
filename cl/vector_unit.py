"""Vector unit, cycle level: what happens in which cycle.

Values come from `fl.vector_unit`; this file says when. Every cycle has two halves: first all that can happen
is decided from the state at its beginning, then the state moves. So the order of the statements in the
second half does not matter, and the cycle counts are those of `rtl_models.vector_unit`.

    ask      a scratchpad row is asked for, at either port, if it has room and waits for no earlier result
    enter    a row and what it needs are there: it begins its way through the lanes
    feed     SWIGLU: a row begins its way through the special-function pipes, in four cycles, and enters after that
    retire   eight cycles after it entered a row is written, if nothing holds the lanes
"""

from collections import deque

import numpy as np
from pymtl3 import *
from pymtl3.stdlib.stream.ifcs import MasterIfcRTL, RecvIfcRTL, SendIfcRTL

from cl.vector.row_fetch import AHEAD, RowFetch
from cl.vector.sequencer import ONE, U32, Job, Tag
from fl.agent import from_lanes, to_lanes
from fl.vector_unit import check, execute, instruction_of
from npu.arch.messages import Ack, Done, mk_spad_write, mk_vector_cmd

COMMANDS = 2     # commands that wait for the ports, and for the lanes; completions that wait to be taken
CHECKING = 4     # cycles between a command and its answer
SCANNED  = 4     # segments whose exponents wait for use
PENDING  = 16    # results asked for and not written
RETIRE   = 7     # where in the lanes a row is written,
MAXIMUM  = 4     # where its maximum is known,
SUM      = 6     # and its sum
SCALAR   = 13    # cycles from there to the reciprocal or root
STEPS    = 4     # cycles in which a row is fed to the special-function pipes
PIPE     = 13    # cycles from the last of them to the row's leaving

class Row:
  """A row in the lanes, or on its way there."""

  __slots__ = ( "ends", "gated", "index", "maximum", "operands", "second", "tag", "total", "words", "writes" )

  def __init__( self, tag: Tag, *operands: U32, words: U32 | None = None ) -> None:
    self.tag      = tag
    self.operands = operands
    self.words    = words     # its result [n], once it is known
    self.second: Row | None = None    # of a ROPE pair
    self.gated    = False     # SWIGLU: the operand is times its sigmoid
    self.ends     = tag.ends  # the command's last
    self.writes   = tag.phase == tag.job.phases - 1 and tag.job.op != "ARGMAX"
    self.maximum  = False     # the end of a pass that finds the maximum
    self.total    = False     # the end of a pass that adds up
    self.index    = 0         # ARGMAX's result

def complete( rows: list[Row | None] ) -> None:
  """The result of the last row, and with it of the others that are like it: numpy is the faster the more there are."""
  last = rows[-1]
  assert last is not None
  like = [ r for r in rows if r is not None and r.writes and r.words is None and r.operands
           and r.tag.job is last.tag.job and r.tag.keep == last.tag.keep ]
  operands = zip( *( r.operands for r in like ), strict=True )
  made     = last.tag.job.rows( last.tag, *( list( words ) for words in operands ) )
  n        = last.tag.job.cfg.n
  for row, words in zip( like, made, strict=True ):
    row.words = words[:n]
    if row.second is not None:
      row.second.words = words[n:]

def multiply_gates( rows: list[Row] ) -> None:
  """SWIGLU: gates become gates times their sigmoids, of the first row and of the others that are like it."""
  tag  = rows[0].tag
  like = [ r for r in rows if r.tag.job is tag.job and r.tag.keep == tag.keep ]
  for row, words in zip( like, tag.job.gates( tag, [ r.operands[0] for r in like ] ), strict=True ):
    row.operands = ( words, )
    row.gated    = True

class VectorUnitCL( Component ):
  """See `rtl_models.vector_unit.VectorUnitRTL` for the ports."""

  def construct( s, cfg ):
    BEAT  = mk_bits( cfg.derived.beat_bits )
    SPAD  = mk_bits( cfg.derived.spad_addr_bits )
    WRITE = mk_spad_write( cfg )
    s.cfg = cfg

    # Interface

    s.cmd  = RecvIfcRTL( mk_vector_cmd( cfg ) )
    s.ack  = SendIfcRTL( Ack )
    s.done = SendIfcRTL( Done )
    s.src  = MasterIfcRTL( SPAD, BEAT )
    s.src2 = MasterIfcRTL( SPAD, BEAT )
    s.wr   = SendIfcRTL( WRITE )

    # State is plain Python, reached by another name: PyMTL3 takes what it reads through `s` for signals.
    s.clear()
    me = s

    @update_ff
    def ff_tick():
      if s.reset:
        me.clear()
        # Every response has its place in a buffer before it is asked for.
        s.src.resp.rdy  <<= 1
        s.src2.resp.rdy <<= 1
      elif me.busy or s.cmd.val:
        me.tick()
      else:
        return
      # Outputs depend on state alone: what is offered in the next cycle. Assignments cost most of the
      # simulation's time, so only what changes is assigned.
      now  = ( me.checked is None and len( me.todo ) < COMMANDS, me.answers(), len( me.dones ) > 0,
               me.asks( me.first ), me.asks( me.second ), me.offers() )
      last = me.shown
      me.shown = now
      if now[0] is not last[0]:
        s.cmd.rdy <<= now[0]
      if now[1] is not last[1]:
        s.ack.val <<= now[1]
      if now[2] is not last[2]:
        s.done.val <<= now[2]
      if now[3] is not last[3]:
        s.src.req.val <<= now[3]
      if now[4] is not last[4]:
        s.src2.req.val <<= now[4]
      if now[5] is not last[5]:
        s.wr.val <<= now[5]
      if now[1]:
        s.ack.msg <<= me.checked[1]
      if now[2]:
        s.done.msg <<= me.dones[0]
      if now[3]:
        s.src.req.msg <<= me.first.next.addr
      if now[4]:
        s.src2.req.msg <<= me.second.next.addr
      if now[5]:
        s.wr.msg <<= WRITE( me.pending[0], from_lanes( me.pipe[RETIRE].words ) )

  def clear( s ):
    """The state after reset."""
    s.busy     = False
    s.shown    = ( None, ) * 6   # which outputs are offered: not known
    s.checked  = None        # ( instruction, error ) of the command that is checked
    s.wait     = 0           # cycles until its answer
    s.todo     = deque()     # jobs that wait for the ports
    s.entering = 0           # jobs whose rows are not all in the lanes
    s.first    = RowFetch()
    s.second   = RowFetch()
    s.pending  = deque()     # where results go that are not written
    s.sealed   = 0           # how many of them, from the oldest on, the job at the ports must wait for
    s.room     = SCANNED     # segments that may still be scanned
    s.scanned  = []          # rows of the segment that is scanned
    s.found    = deque()     # rows of the segments that are
    s.pipe     = [ None ] * ( RETIRE + 1 )   # pipe[i]: the row behind stage i
    s.held     = None        # a ROPE pair's first element
    s.turn     = None        # a ROPE pair's second row
    s.step     = 0           # of the row that is fed
    s.steps    = 0           # of the special-function pipes so far
    s.fed      = deque()     # ( step at which it leaves them, row )
    s.caught   = None        # a row that has left them
    s.maximum  = False       # the segment's maximum is there,
    s.factor   = False       # and its reciprocal or root
    s.scalar   = 0           # cycles until that
    s.segment  = None        # rows that are passed over
    s.k        = 0           # row of its last pass
    s.results  = None        # of the segment, uint32 [height, n]
    s.best     = None        # of the searches so far
    s.dones    = deque()

  def answers( s ):
    """Whether an answer is offered."""
    return s.checked is not None and s.wait == 0

  def asks( s, port ):
    """Whether a request is offered at a port."""
    ask = port.next
    if ask is None or len( port.tags ) == AHEAD or ( ask.tag.scan and s.room == 0 ):
      return False
    if ask.write is not None and len( s.pending ) == PENDING:
      return False
    return all( s.pending[k] != ask.addr for k in range( s.sealed ) )

  def offers( s ):
    """Whether a result is offered."""
    row = s.pipe[RETIRE]
    return row is not None and row.writes and not ( row.ends and len( s.dones ) == COMMANDS )

  def tick( s ):
    """One cycle."""
    # What happens in this cycle, from the state at its beginning
    out     = s.pipe[RETIRE]
    written = s.shown[5] and bool( s.wr.rdy )
    go      = out is None or written or ( not out.writes and not ( out.ends and len( s.dones ) == COMMANDS ) )
    scans   = bool( s.second.rows ) and s.second.tags[0].scan
    two     = bool( s.second.rows ) and not scans
    enters  = s.caught is not None and go and two
    pipe_go = go and ( two or s.caught is None )
    act     = s.entry( go, two, pipe_go )
    asked   = s.shown[3] and bool( s.src.req.rdy )
    asked2  = s.shown[4] and bool( s.src2.req.rdy )
    starts  = bool( s.todo ) and s.first.next is None and s.second.next is None and s.entering < COMMANDS
    reports = bool( s.dones ) and bool( s.done.rdy )

    # How the state moves
    if scans:
      s.tick_scan()
    tag = s.first.tags[0] if act else None
    row, s.turn = ( s.turn, None ) if go else ( None, s.turn )
    if enters:
      row = s.caught
      if not row.gated:
        multiply_gates( [ row, *( fed for _, fed in s.fed ) ] )
      row.operands = ( *row.operands, s.second.rows[0] )
    elif act == "enter":
      row = s.enter( tag )
    elif act == "hold":
      s.held = s.first.rows[0]
    if pipe_go:
      s.tick_pipes( act == "feed" )
    if go:
      s.tick_lanes( row )
    if enters or ( act == "enter" and s.uses_second( tag ) ):
      s.second.use()
    if act and ( act != "feed" or s.step == 0 ):
      s.first.use()
      s.entering -= tag.ends
    if asked:
      if s.first.next.write is not None:
        s.pending.append( s.first.next.write )
      s.first.ask()
    if asked2:
      s.room -= s.second.next.tag.scan and s.second.next.tag.last
      s.second.ask()
    if s.src.resp.val:
      s.first.rows.append( to_lanes( s.src.resp.msg, s.cfg.n ) )
    if s.src2.resp.val:
      s.second.rows.append( to_lanes( s.src2.resp.msg, s.cfg.n ) )
    if written:
      s.pending.popleft()
      s.sealed = max( s.sealed - 1, 0 )
    if starts:
      job = s.todo.popleft()
      s.first.start( job.src() )
      s.second.start( job.src2() )
      s.entering += 1
      s.sealed = len( s.pending )
    if reports:
      s.dones.popleft()
    if go and out is not None and out.ends:
      s.dones.append( out.index )
    s.tick_check()
    s.busy = ( s.checked is not None or s.entering > 0 or bool( s.todo or s.dones or s.fed )
               or s.caught is not None or s.turn is not None or any( s.pipe ) )

  def tick_check( s ):
    """Take, check and answer commands."""
    if s.checked is None:
      if s.cmd.val and s.cmd.rdy:
        i = instruction_of( s.cmd.msg )
        s.checked = ( i, int( check( s.cfg, i, int( i.rows ) ) ) )
        s.wait    = CHECKING
    elif s.wait:
      s.wait -= 1
    elif s.ack.rdy:
      i, error  = s.checked
      s.checked = None
      if not error:
        s.todo.append( Job( s.cfg, i ) )

  def tick_scan( s ):
    """A row that is only scanned leaves its buffer."""
    s.scanned.append( s.second.rows[0] )
    if s.second.tags[0].last:
      s.found.append( s.scanned )
      s.scanned = []
    s.second.use()

  #-----------------------------------------------------------------------
  # Into the lanes
  #-----------------------------------------------------------------------

  def uses_second( s, tag ):
    """Whether the row enters together with one of the second operand."""
    return tag.job.op in ( "ADD", "MUL", "ROPE" ) or ( tag.job.op == "RMSNORM" and tag.phase == 1 )

  def uses_scan( s, tag ):
    """Whether the row needs its segment's exponent."""
    return tag.job.op == "QUANTIZE" or ( tag.job.op == "RMSNORM" and tag.phase == 0 )

  def entry( s, go, two, pipe_go ):
    """What happens to the oldest row of src: enter, hold, feed, or nothing."""
    if not s.first.rows:
      return None
    tag = s.first.tags[0]
    op  = tag.job.op
    if op == "SWIGLU":
      return "feed" if pipe_go else None
    if not go or s.fed or s.caught is not None:
      return None
    if op == "ROPE" and not tag.second:
      return "hold"
    waits = ( s.turn is not None or ( s.uses_second( tag ) and not two ) or ( s.uses_scan( tag ) and not s.found )
              or ( op == "SOFTMAX" and tag.phase > 0 and not s.maximum )
              or ( tag.phase > 0 and tag.phase == tag.job.phases - 1 and not s.factor ) )
    return None if waits else "enter"

  def enter( s, tag ):
    """The row that enters the lanes, with its result if it has one."""
    job, x = tag.job, s.first.rows[0]
    op     = job.op
    row    = Row( tag, x, s.second.rows[0] ) if s.uses_second( tag ) else Row( tag, x )
    if tag.phase == 0:
      s.maximum = s.factor = False
    if tag.first:
      s.k = 0
      if tag.phase == 0:
        s.segment = []
    if op == "ROPE":
      row.operands = ( np.concatenate( [ s.held, x ] ), row.operands[1] )
      row.ends     = False
      s.turn       = row.second = Row( tag )
    elif op == "QUANTIZE":
      if tag.first:
        s.results = job.segment_results( s.found[0] )
      row.words = s.results[s.k]
    elif op in ( "RMSNORM", "SOFTMAX" ):
      s.pass_over( row, x )
    elif op == "ARGMAX":
      s.segment.append( x )
      if tag.ends:
        _, s.best = execute( s.cfg, job.i, [ np.concatenate( s.segment )[None] ], s.best )
        row.index = s.best[1]
    s.k += 1
    if tag.last and s.uses_scan( tag ):
      s.found.popleft()
      s.room += 1
    return row

  def pass_over( s, row, x ):
    """A row of one of the passes of RMSNORM and SOFTMAX."""
    tag, job = row.tag, row.tag.job
    norm     = job.op == "RMSNORM"
    if tag.phase == 0:
      s.segment.append( x )
      if tag.last:
        # With a gain of one, which multiplies exactly; the real one is not there yet.
        ones      = [ np.full( job.height * s.cfg.n, ONE, dtype=np.uint32 ) ] if norm else []
        s.results = job.segment_results( s.segment, *ones )
    row.maximum = not norm and tag.phase == 0 and tag.last
    row.total   = tag.phase == job.phases - 2 and tag.last
    if row.writes and norm:
      row.operands = ( s.results[s.k], row.operands[1] )
    elif row.writes:
      row.words = s.results[s.k]

  def tick_pipes( s, feeds ):
    """The special-function pipes move, and a quarter of a row may enter them."""
    s.steps += 1
    s.caught = s.fed.popleft()[1] if s.fed and s.fed[0][0] == s.steps else None
    if feeds:
      s.step = ( s.step + 1 ) % STEPS
      if s.step == 0:
        s.fed.append( ( s.steps + PIPE, Row( s.first.tags[0], s.first.rows[0] ) ) )

  def tick_lanes( s, row ):
    """Every row moves one stage; a new one may enter."""
    s.pipe = [ row, *s.pipe[:RETIRE] ]
    last   = s.pipe[RETIRE]
    if last is not None and last.writes and last.words is None:
      complete( s.pipe )
    if s.scalar:
      s.scalar -= 1
      s.factor = s.factor or s.scalar == 0
    if s.pipe[MAXIMUM] and s.pipe[MAXIMUM].maximum:
      s.maximum = True
    if s.pipe[SUM] and s.pipe[SUM].total:
      s.scalar = SCALAR

  def line_trace( s ):
    return ( f"{s.cmd}({len( s.first.rows )}/{len( s.first.tags )} {len( s.second.rows )}/{len( s.second.tags )} "
             f"{''.join( 'x' if r else ' ' for r in s.pipe )}){s.wr}" )
