"""Controller, cycle level: what happens in which cycle.

Values come from `fl.controller`; this file says when. A cycle has two halves: first the state of the controller decides
from what was true at its beginning, then the readers, writers and units move. So nothing sees what another part does
in the same cycle, and the cycle counts are those of `rtl_models.controller`, whose states have the same names.

While the controller waits for an engine and nothing else moves, it sleeps: a cycle costs a look at the `done`s.
"""

import numpy as np
from pymtl3 import *
from pymtl3.stdlib.stream.ifcs import MasterIfcRTL, RecvIfcRTL, SendIfcRTL

from cl.common.ports import Sender
from cl.common.signals import mk_any
from cl.control.beat_reader import BeatReader
from cl.control.dispatcher import ENGINES, Dispatcher
from cl.control.instruction_fetch import InstructionFetch
from cl.control.jobs import JOBS, Job
from cl.control.load_unit import LoadUnit
from cl.control.mailbox_writer import AT_END, AT_START, AT_TOKEN, MailboxWriter
from cl.control.store_unit import StoreUnit
from fl.controller import Fault, Registers, boot, check_dma, check_rel, command_of, control, holds, offset
from npu.arch.config import LINE_BYTES, ceil_div
from npu.arch.isa import BadInstruction, Error, Rel, Status, Unit, decode
from npu.arch.mailbox import MAILBOX_WORDS, Mailbox, Word
from npu.arch.messages import (
  Ack,
  Done,
  mk_attend_cmd,
  mk_gemm_cmd,
  mk_mem_read_req,
  mk_mem_write,
  mk_spad_write,
  mk_vector_cmd,
)

WRITERS = Unit.ATT | Unit.STORE    # units that may write what a GEMM streams

# States, as in `rtl_models.controller`.
( IDLE, BOOT, READ, ENTER, FETCH, DECODE, OFFSET, PLACE, CHECK, SEND, ANSWER, BEGIN, JOB, POST, QUIET, TOKENS, DRAIN,
  LAST, TELL ) = range( 19 )

class ControllerCL( Component ):
  """See `rtl_models.controller.ControllerRTL` for the ports."""

  def construct( s, cfg ):
    d    = cfg.derived
    BEAT = mk_bits( d.beat_bits )
    SPAD = mk_bits( d.spad_addr_bits )
    REQ, WRITE = mk_mem_read_req( cfg ), mk_mem_write( cfg )
    s.cfg = cfg

    # Interface

    s.doorbell  = RecvIfcRTL( Bits1 )
    s.finished  = SendIfcRTL( Bits4 )
    s.fetch     = MasterIfcRTL( REQ, BEAT )
    s.post      = SendIfcRTL( WRITE )
    s.load      = MasterIfcRTL( REQ, BEAT )
    s.spad_wr   = SendIfcRTL( mk_spad_write( cfg ) )
    s.spad_rd   = MasterIfcRTL( SPAD, BEAT )
    s.store     = SendIfcRTL( WRITE )
    s.mac_cmd   = SendIfcRTL( mk_gemm_cmd( cfg ) )
    s.mac_ack   = RecvIfcRTL( Ack )
    s.mac_start = SendIfcRTL( Bits1 )
    s.mac_done  = RecvIfcRTL( Done )
    s.vec_cmd   = SendIfcRTL( mk_vector_cmd( cfg ) )
    s.vec_ack   = RecvIfcRTL( Ack )
    s.vec_done  = RecvIfcRTL( Done )
    s.att_cmd   = SendIfcRTL( mk_attend_cmd( cfg ) )
    s.att_ack   = RecvIfcRTL( Ack )
    s.att_done  = RecvIfcRTL( Done )
    s.pc        = OutPort( 32 )
    s.waits     = OutPort( 5 )

    # Every response has its place before it is asked for, and a `done` is only counted.

    s.fetch.resp.rdy   //= 1
    s.load.resp.rdy    //= 1
    s.spad_rd.resp.rdy //= 1
    s.mac_done.rdy     //= 1
    s.vec_done.rdy     //= 1
    s.att_done.rdy     //= 1

    # State is plain Python, reached by another name: PyMTL3 takes what it reads through `s` for signals.
    s.clear()
    me = s

    @update_ff
    def ff_tick():
      if s.reset:
        me.clear()
        me.woken = mk_any( [ me.doorbell.val, me.mac_done.val, me.vec_done.val, me.att_done.val ] )
        s.doorbell.rdy  <<= 1
        s.finished.val  <<= 0
        s.fetch.req.val <<= 0
        s.post.val      <<= 0
        s.load.req.val  <<= 0
        s.spad_wr.val   <<= 0
        s.spad_rd.req.val <<= 0
        s.store.val     <<= 0
        s.mac_cmd.val   <<= 0
        s.vec_cmd.val   <<= 0
        s.att_cmd.val   <<= 0
        s.mac_start.val <<= 0
        s.mac_ack.rdy   <<= 0
        s.vec_ack.rdy   <<= 0
        s.att_ack.rdy   <<= 0
        s.pc            <<= 0
        s.waits         <<= 0
      elif not me.asleep or me.woken():
        me.tick()

    # PyMTL3 turns over in every cycle each field of what a block of flip-flops assigns; here it costs nothing while
    # nothing changes. What is assigned was decided at the end of the cycle before, so the outputs are registers still.
    @update
    def up_messages():
      if me.fresh:
        me.fresh = False
        if me.finish_out.fresh:
          s.finished.msg @= me.finish_out.arrives()
        if me.fetch_out.fresh:
          s.fetch.req.msg @= me.fetch_out.arrives()
        if me.writer.out.fresh:
          s.post.msg @= me.writer.out.arrives()
        if me.loader.req_out.fresh:
          s.load.req.msg @= me.loader.req_out.arrives()
        if me.loader.wr_out.fresh:
          s.spad_wr.msg @= me.loader.wr_out.arrives()
        if me.storer.req_out.fresh:
          s.spad_rd.req.msg @= me.storer.req_out.arrives()
        if me.storer.wr_out.fresh:
          s.store.msg @= me.storer.wr_out.arrives()
        if me.dispatcher.start_out.fresh:
          s.mac_start.msg @= me.dispatcher.start_out.arrives()
        if me.dispatcher.mac_out.fresh:
          s.mac_cmd.msg @= me.dispatcher.mac_out.arrives()
        if me.dispatcher.vec_out.fresh:
          s.vec_cmd.msg @= me.dispatcher.vec_out.arrives()
        if me.dispatcher.att_out.fresh:
          s.att_cmd.msg @= me.dispatcher.att_out.arrives()

  def clear( s ):
    """The state after reset."""
    s.fetcher = InstructionFetch( s.cfg )
    s.reader  = BeatReader( s.cfg )
    s.loader  = LoadUnit( s.cfg, s.load, s.spad_wr )
    s.storer  = StoreUnit( s.cfg, s.spad_rd, s.store )
    s.writer  = MailboxWriter( s.cfg, s.post )
    s.dispatcher = Dispatcher( ( s.mac_cmd, s.vec_cmd, s.att_cmd ), ( s.mac_ack, s.vec_ack, s.att_ack ),
                               ( s.mac_done, s.vec_done, s.att_done ), s.mac_start )
    s.fetch_out, s.finish_out = Sender( s.fetch.req ), Sender( s.finished )
    s.states  = ( s.do_idle, s.do_boot, s.do_read, s.do_enter, s.do_fetch, s.do_decode, s.do_offset, s.do_place,
                  s.do_check, s.do_send, s.do_answer, s.do_begin, s.do_job, s.do_post, s.do_quiet, s.do_tokens,
                  s.do_drain, s.do_last, s.do_tell )
    s.state   = IDLE
    s.asleep  = False            # nothing moves until a `done` or a doorbell
    s.fresh   = False            # a message may have changed
    s.r       = Registers()
    s.here    = 0                # PC
    s.status, s.error, s.fault = Status.RUNNING, Error.NONE, Error.NONE
    s.emitted = None             # status after an EMIT
    s.refused = Error.NONE       # what is wrong with the mailbox
    s.code, s.i, s.unit = b"", None, Unit.CTRL
    s.executes = False           # the instruction's condition holds
    s.needs = s.early = 0        # units that must be finished before the instruction is executed, and sent
    s.lacks   = 0                # those that are not
    s.command = None             # the message for the engine
    s.after   = IDLE             # the state after an address is computed
    s.tokens  = []               # of an EMBED, so far
    s.job     = None
    s.pc_shown = s.waits_shown = 0

  #-----------------------------------------------------------------------
  # A cycle
  #-----------------------------------------------------------------------

  def tick( s ):
    """One cycle."""
    state  = s.state
    hold   = not FETCH <= state <= POST
    s.first = None               # slot to go on fetching at
    s.new_load = s.new_store = None

    # What happens, from what is true at the beginning of the cycle
    s.writer.decide()
    s.states[state]()

    # And everything else moves
    s.fresh = True
    rdy   = s.fetch_out.taken()
    beat  = int( s.fetch.resp.msg ) if s.fetch.resp.val else None
    if state in ( READ, TOKENS ):
      s.reader.tick( rdy, beat )
      rdy, beat = False, None
    s.fetcher.tick( s.first, hold, state == FETCH, rdy, beat )
    if s.new_load or s.loader.busy():
      s.loader.tick( s.new_load )
    if s.new_store or s.storer.busy():
      s.storer.tick( s.new_store )
    s.writer.tick()
    token = s.dispatcher.tick()
    if token is not None:
      s.r.token = token
    s.show()

  def busy( s ):
    """Units that have something unfinished."""
    return s.dispatcher.busy() | ( s.loader.busy() and Unit.LOAD ) | ( s.storer.busy() and Unit.STORE )

  def show( s ):
    """Outputs of the next cycle: they depend on the state alone."""
    state = s.state
    s.lacks = 0
    if state == DECODE and not s.fault:
      s.lacks = s.early & s.busy()
    elif state == BEGIN:
      # The array is busy with this command, which has not begun.
      own     = Unit.MAC if s.dispatcher.unfinished[Unit.MAC] == 1 else 0
      s.lacks = s.needs & s.busy() & ~own
    elif state == DRAIN:
      s.lacks = s.busy()
    if s.lacks != s.waits_shown:
      s.waits <<= s.lacks
      s.waits_shown = s.lacks
    if s.here != s.pc_shown:
      s.pc <<= s.here
      s.pc_shown = s.here
    s.fetch_out.offer( s.reader.asking or s.fetcher.asking )
    s.writer.offer()
    s.dispatcher.offer_start( state == BEGIN and not s.lacks )
    if state == SEND:
      s.dispatcher.offer( s.unit, s.command )
    s.asleep = ( ( s.lacks or state == IDLE ) and s.fetcher.still( not FETCH <= state <= POST )
                 and not s.loader.busy() and not s.storer.busy() and not s.writer.queue )

  def fail( s, error ):
    """An instruction, or the mailbox, ends the run."""
    s.status, s.error = Status.ERROR, error
    s.state = DRAIN

  def step( s ):
    """On to the next instruction."""
    s.here += 1
    s.state = FETCH

  #-----------------------------------------------------------------------
  # Begin and end of a run
  #-----------------------------------------------------------------------

  def do_idle( s ):
    if s.doorbell.val:
      s.doorbell.rdy <<= 0
      s.state = BOOT

  def do_boot( s ):
    if s.fetcher.quiet():
      s.reader.start( 0, 1, MAILBOX_WORDS // s.cfg.n )
      s.state = READ

  def do_read( s ):
    if len( s.reader.got ) == MAILBOX_WORDS // s.cfg.n:
      s.state = ENTER

  def do_enter( s ):
    size = s.cfg.derived.beat_bytes
    box  = Mailbox( np.frombuffer( b"".join( b.to_bytes( size, "little" ) for b in s.reader.got ), dtype=np.uint8 ) )
    s.dispatcher.kinds.clear()
    s.here, s.status, s.error, s.emitted = 0, Status.RUNNING, Error.NONE, None
    s.refused, s.fetcher.limit = Error.NONE, 0
    try:
      s.r = boot( box )
      s.fetcher.limit = min( 2 * s.r.program + s.r.program_count, 2 * s.r.lines )
    except Fault as fault:
      s.r, s.refused = Registers( pos=box[Word.POS], len=box[Word.LEN] ), fault.error
    s.first = 2 * s.r.program
    s.report( AT_START )
    s.state = POST

  def report( s, words, token=None ):
    """Write words of the mailbox, and before them a token."""
    s.writer.start( words, s.r, s.status, s.error, s.here, token )

  def do_post( s ):
    if not s.writer.ends:
      return
    if s.refused:
      s.fail( s.refused )
    elif s.emitted is None:
      s.state = FETCH
    elif s.emitted == Status.RUNNING:
      s.step()
    else:
      s.status = s.emitted
      s.state  = DRAIN

  def do_drain( s ):
    if not s.lacks:
      s.report( AT_END )
      s.state = LAST

  def do_last( s ):
    if s.writer.ends:
      s.state = TELL
      s.finish_out.offer( Bits4( int( s.status ) ) )

  def do_tell( s ):
    if s.finished.rdy:
      s.finish_out.offer( None )
      s.doorbell.rdy <<= 1
      s.state = IDLE

  #-----------------------------------------------------------------------
  # Instructions
  #-----------------------------------------------------------------------

  def do_fetch( s ):
    if s.here >= s.r.program_count:
      s.fail( Error.BAD_PC )
    elif 2 * s.r.program + s.here >= s.fetcher.limit:
      s.fail( Error.BAD_DRAM )
    elif s.fetcher.has():
      s.code, s.fault, s.state = s.fetcher.queue[0], Error.NONE, DECODE
      try:
        s.i = decode( s.code )
      except BadInstruction as bad:
        s.fault = bad.error
      else:
        s.look_at( s.i )

  def look_at( s, i ):
    """What the instruction waits for."""
    s.unit     = i.format.unit
    s.executes = holds( int( i.cond ), s.r )
    s.needs    = int( i.wait )
    if i.mnemonic == "EMIT" or i.rel == Rel.TOKEN:
      s.needs |= Unit.VEC
    elif i.mnemonic == "EMBED":
      s.needs |= Unit.LOAD
    s.early = s.needs & WRITERS if s.unit == Unit.MAC and s.executes else s.needs

  def do_decode( s ):
    if s.fault:
      s.fail( s.fault )
    elif s.lacks:
      pass
    elif not s.executes:
      s.step()
    elif s.unit == Unit.CTRL:
      s.execute()
    elif error := check_rel( s.i ):
      s.fail( error )
    elif s.unit in ENGINES:
      s.command = command_of( s.cfg, s.code, s.r )
      s.state, s.after = OFFSET if s.unit == Unit.VEC and s.i.rel else SEND, SEND
    else:
      s.state, s.after = OFFSET, CHECK

  def execute( s ):
    """A control instruction."""
    tokens = {}
    s.r.pc = s.here
    try:
      status = control( s.i, s.r, tokens )
    except Fault as fault:
      s.fail( fault.error )
      return
    if s.i.mnemonic == "EMIT":
      s.emitted = status
      s.report( AT_TOKEN, s.r.token )
      s.state = POST
    elif s.i.mnemonic == "HALT":
      s.status, s.state = status, DRAIN
    elif s.i.mnemonic == "JUMP":
      s.here  = s.r.pc
      s.first = 2 * s.r.program + s.here
      s.state = FETCH
    else:
      s.step()

  def do_offset( s ):
    s.state = PLACE

  def do_place( s ):
    s.state = s.after

  def do_send( s ):
    if s.dispatcher.sent( s.unit, s.i.mnemonic == "ARGMAX" ):
      s.state = ANSWER

  def do_answer( s ):
    error = s.dispatcher.answer( s.unit )
    if error:
      s.fail( Error( error ) )
    elif error is not None:
      if s.unit == Unit.MAC:
        s.state = BEGIN
      else:
        s.step()

  def do_begin( s ):
    if s.dispatcher.start_out.taken():
      s.step()

  def do_check( s ):
    i, r  = s.i, s.r
    rows  = int( i.rows ) or r.rows
    if error := check_dma( s.cfg, i, rows, r ):
      s.fail( error )
      return
    start = offset( int( i.rel ), r )
    s.job = Job( s.cfg, i, range( start, start + rows ) )
    s.state = QUIET if i.mnemonic == "EMBED" else JOB

  def do_quiet( s ):
    if s.fetcher.quiet():
      n, rows = s.cfg.n, len( s.job.lines )
      beat, s.lane = divmod( LINE_BYTES // 4 * s.r.tokens + s.r.pos, n )
      s.reader.start( beat, ceil_div( s.lane + rows, n ), 1 )
      s.tokens = []
      s.state  = TOKENS

  def do_tokens( s ):
    n, i, rows = s.cfg.n, s.i, len( s.job.lines )
    if len( s.tokens ) == rows:
      if max( s.tokens ) >= i.vocab:
        s.fail( Error.BAD_TOKEN )
      else:
        s.job   = Job( s.cfg, i, s.tokens )
        s.state = JOB
      return
    beat, lane = divmod( s.lane + len( s.tokens ), n )
    if beat < len( s.reader.got ):
      s.tokens.append( s.reader.got[beat] >> 32 * lane & 0xFFFFFFFF )

  def do_job( s ):
    unit = s.storer if s.unit == Unit.STORE else s.loader
    if len( unit.queue ) < JOBS:
      if unit is s.storer:
        s.new_store = s.job
      else:
        s.new_load = s.job
      s.step()

  def line_trace( s ):
    return f"{s.state}:{s.here}:{s.lacks}"
