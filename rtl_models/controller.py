"""Controller, register-transfer level: runs a program from the doorbell to the report in the mailbox.

    doorbell --> MailboxReader --> registers --> MailboxWriter --> post, finished
                                      |
    fetch <--> InstructionFetch --> instruction --> Decoder, conditions, wait masks
                                      |
                                      +--> control instructions: done here
                                      +--> Dispatcher --cmd, start--> engines --ack, done-->
                                      +--> checks, TokenReader --> LoadUnit <--> load, spad_wr
                                                               --> StoreUnit <--> spad_rd, store

One instruction after the other is decoded, waits, and is executed or handed to its unit, which checks it before the
next one is looked at. Units work in parallel.
"""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass
from pymtl3.stdlib.stream.ifcs import MasterIfcRTL, RecvIfcRTL, SendIfcRTL

from npu.arch.config import LINE_BYTES, clog2
from npu.arch.isa import BY_MNEMONIC, Cond, Error, Rel, Status, Unit
from npu.arch.mailbox import MAX_EOS, Flag, Word
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
from rtl_models.common.range_check import RangeCheck
from rtl_models.control.decoder import (
  INSTRUCTION_BITS,
  Decoder,
  Member,
  opcode_set,
  opcodes,
  opcodes_of,
  opcodes_with,
  place,
)
from rtl_models.control.dispatcher import Dispatcher
from rtl_models.control.instruction_fetch import SLOT_BITS, InstructionFetch
from rtl_models.control.load_unit import LoadUnit, table_rows
from rtl_models.control.mailbox_reader import MailboxReader
from rtl_models.control.mailbox_writer import END, START, TOKEN, MailboxWriter
from rtl_models.control.store_unit import StoreUnit
from rtl_models.control.token_reader import TokenReader

# States, in the order of a run. In those from FETCH to POST instructions are fetched ahead.
( IDLE,      # until the doorbell
  BOOT,      # until nothing of the run before is under way on `fetch`
  READ,      # the mailbox
  ENTER,     # take it over and check it
  FETCH,     # until the instruction at PC is there
  DECODE,    # and wait for its units; control instructions are executed
  OFFSET,    # `rel` times the distance of rows
  PLACE,     # the address, and the rows times their distance
  CHECK,     # LOAD, STORE and EMBED
  SEND,      # the command to the engine
  ANSWER,    # until the engine has checked it
  BEGIN,     # GEMM: until the rest of its units are ready
  JOB,       # into the queue of LOAD or STORE
  POST,      # a report in the mailbox
  QUIET,     # EMBED: until nothing is under way on `fetch`
  TOKENS,    # EMBED: read the tokens
  DRAIN,     # the end of a run: until all units are finished
  LAST,      # the last report
  TELL ) = range( 19 )

SUM_BITS = 66    # of a line address: less than 2^64 + 2^40

class ControllerRTL( Component ):
  """Ports of the block at every level.

  Ports
  -----
  doorbell, finished
    A message starts a run; one with its `npu.arch.isa.Status` ends it, when the mailbox is written.
  fetch
    Memory reads: the mailbox, instructions, tokens for EMBED.
  post
    Memory writes: mailbox words and new tokens.
  load, spad_wr
    LOAD and EMBED: memory reads, scratchpad writes.
  spad_rd, store
    STORE: scratchpad reads, memory writes.
  mac_cmd, vec_cmd, att_cmd
    Commands with rows and addresses resolved.
  mac_ack, vec_ack, att_ack
    An `npu.arch.isa.Error` per command: NONE accepts it.
  mac_start
    A message per accepted GEMM, when its operands are there.
  mac_done, vec_done, att_done
    One per accepted command; ARGMAX's is the token.
  pc
    The instruction that is dealt with.
  waits
    Units (`npu.arch.isa.Unit`) that it waits for in this cycle.
  """

  def construct( s, cfg ):
    n, d = cfg.n, cfg.derived
    s.set_metadata( VerilogTranslationPass.explicit_module_name,
                    f"ControllerRTL_n{n}_a{d.spad_addr_bits}_m{cfg.m_max}" )
    BEAT = mk_bits( d.beat_bits )
    SPAD = mk_bits( d.spad_addr_bits )
    SUM  = mk_bits( SUM_BITS )
    INDEX = mk_bits( clog2( table_rows( cfg ) ) )
    index_bits = clog2( table_rows( cfg ) )
    m_max, words_per_line = cfg.m_max, LINE_BYTES // 4
    line_shift = clog2( words_per_line )
    lg = clog2( n )
    RUNNING, FAILED = Bits4( Status.RUNNING ), Bits4( Status.ERROR )
    EOS, LIMIT, CONTEXT = Bits4( Status.EOS ), Bits4( Status.LIMIT ), Bits4( Status.CONTEXT )
    ( NONE, BAD_FIELD, BAD_DRAM, BAD_SPAD, ZERO_SIZE, BAD_SIZE, BAD_TOKEN, BAD_POSITION, NO_PROGRESS, BAD_PC,
      BAD_MAILBOX ) = ( Bits4( x ) for x in (
        Error.NONE, Error.BAD_FIELD, Error.BAD_DRAM, Error.BAD_SPAD, Error.ZERO_SIZE, Error.BAD_SIZE,
        Error.BAD_TOKEN, Error.BAD_POSITION, Error.NO_PROGRESS, Error.BAD_PC, Error.BAD_MAILBOX ) )
    PREFILL, GENERATE, SCORE, LOGITS = ( Bits4( x ) for x in (
      Cond.PREFILL, Cond.GENERATE, Cond.SCORE, Cond.LOGITS ) )
    BY_POS, BY_LAST, BY_TOKEN, BY_LEN = ( Bits4( x ) for x in ( Rel.POS, Rel.LAST, Rel.TOKEN, Rel.LEN ) )
    PASS, ADVANCE, SETROWS, JUMP, EMIT, HALT, EMBED, STORE = (
      Bits8( BY_MNEMONIC[m].opcode ) for m in (
        "PASS", "ADVANCE", "SETROWS", "JUMP", "EMIT", "HALT", "EMBED", "STORE" ) )
    ON_VEC, ON_LOAD  = Bits5( Unit.VEC ), Bits5( Unit.LOAD )
    WRITERS          = Bits5( Unit.ATT | Unit.STORE )    # units that may write what a GEMM streams
    AT_START, AT_TOKEN, AT_END = Bits2( START ), Bits2( TOKEN ), Bits2( END )
    FAR = Bits24( ( 1 << 24 ) - 1 )

    # Interface

    s.doorbell  = RecvIfcRTL( Bits1 )
    s.finished  = SendIfcRTL( Bits4 )
    s.fetch     = MasterIfcRTL( mk_mem_read_req( cfg ), BEAT )
    s.post      = SendIfcRTL( mk_mem_write( cfg ) )
    s.load      = MasterIfcRTL( mk_mem_read_req( cfg ), BEAT )
    s.spad_wr   = SendIfcRTL( mk_spad_write( cfg ) )
    s.spad_rd   = MasterIfcRTL( SPAD, BEAT )
    s.store     = SendIfcRTL( mk_mem_write( cfg ) )
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

    # Components

    s.box        = MailboxReader( cfg )
    s.reporter   = MailboxWriter( cfg )
    s.fetcher      = InstructionFetch( cfg )
    s.decoder    = Decoder()
    s.dispatch   = Dispatcher( cfg )
    s.tokens     = TokenReader( cfg )
    s.loader     = LoadUnit( cfg )
    s.storer     = StoreUnit( cfg )
    s.range_     = RangeCheck( cfg )

    s.state  = Wire( 5 )
    s.pos    = Wire( 32 )                 # positions processed
    s.len    = Wire( 32 )                 # tokens known
    s.rows   = Wire( 20 )                 # of this pass
    s.count  = Wire( 32 )                 # tokens produced in this run
    s.here   = Wire( 32 )                 # PC
    s.jumped = Wire()                     # there was a backward jump in this run,
    s.jump_pos = Wire( 32 )               # at this position
    s.status = Wire( 4 )                  # what the mailbox says
    s.error  = Wire( 4 )
    s.limit  = Wire( SLOT_BITS )          # first slot that is not fetched
    s.code   = Wire( INSTRUCTION_BITS )   # the instruction

    s.dispatch.mac_cmd   //= s.mac_cmd
    s.dispatch.mac_ack   //= s.mac_ack
    s.dispatch.mac_start //= s.mac_start
    s.dispatch.mac_done  //= s.mac_done
    s.dispatch.vec_cmd   //= s.vec_cmd
    s.dispatch.vec_ack   //= s.vec_ack
    s.dispatch.vec_done  //= s.vec_done
    s.dispatch.att_cmd   //= s.att_cmd
    s.dispatch.att_ack   //= s.att_ack
    s.dispatch.att_done  //= s.att_done
    s.loader.mem  //= s.load
    s.loader.wr   //= s.spad_wr
    s.storer.spad //= s.spad_rd
    s.storer.wr   //= s.store
    s.reporter.post //= s.post
    s.pc            //= s.here

    #---------------------------------------------------------------------
    # `fetch`: one reader at a time
    #---------------------------------------------------------------------

    s.fetches = Wire()                    # instructions may be asked for

    @update
    def up_fetch():
      s.fetches @= ( s.state >= FETCH ) & ( s.state <= POST )
      s.fetch.req.val @= s.fetcher.mem.req.val | s.tokens.mem.req.val | s.box.mem.req.val
      s.fetch.req.msg  @= s.fetcher.mem.req.msg
      s.fetch.resp.rdy @= s.fetcher.mem.resp.rdy
      if s.state == READ:
        s.fetch.req.msg  @= s.box.mem.req.msg
        s.fetch.resp.rdy @= s.box.mem.resp.rdy
      elif s.state == TOKENS:
        s.fetch.req.msg  @= s.tokens.mem.req.msg
        s.fetch.resp.rdy @= s.tokens.mem.resp.rdy
      s.box.mem.req.rdy    @= s.fetch.req.rdy
      s.tokens.mem.req.rdy @= s.fetch.req.rdy
      s.fetcher.mem.req.rdy  @= s.fetch.req.rdy
      s.box.mem.resp.val    @= s.fetch.resp.val & ( s.state == READ )
      s.tokens.mem.resp.val @= s.fetch.resp.val & ( s.state == TOKENS )
      s.fetcher.mem.resp.val  @= s.fetch.resp.val & ( s.state != READ ) & ( s.state != TOKENS )
      s.box.mem.resp.msg    @= s.fetch.resp.msg
      s.tokens.mem.resp.msg @= s.fetch.resp.msg
      s.fetcher.mem.resp.msg  @= s.fetch.resp.msg

    #---------------------------------------------------------------------
    # Mailbox
    #---------------------------------------------------------------------

    s.score      = Wire()
    s.logits     = Wire()
    s.max_count  = Wire( 32 )
    s.eos_count  = Wire( 32 )
    s.code_line    = Wire( 32 )
    s.code_count = Wire( 32 )
    s.token_line     = Wire( 32 )             # line of the token buffer
    s.capacity    = Wire( 32 )
    s.lines      = Wire( 32 )
    s.writable   = Wire( 32 )
    s.first_pos  = Wire( 32 )
    s.first_len  = Wire( 32 )
    s.eos        = [ Wire( 32 ) for _ in range( MAX_EOS ) ]
    s.score         //= s.box.word[int( Word.FLAGS )][Flag.SCORE.bit_length() - 1]
    s.logits        //= s.box.word[int( Word.FLAGS )][Flag.LOGITS.bit_length() - 1]
    s.max_count     //= s.box.word[int( Word.LIMIT )]
    s.eos_count     //= s.box.word[int( Word.EOS_COUNT )]
    s.code_line       //= s.box.word[int( Word.PROGRAM )]
    s.code_count //= s.box.word[int( Word.PROGRAM_COUNT )]
    s.token_line        //= s.box.word[int( Word.TOKENS )]
    s.capacity       //= s.box.word[int( Word.CONTEXT )]
    s.lines         //= s.box.word[int( Word.DRAM_LINES )]
    s.writable      //= s.box.word[int( Word.WRITABLE )]
    s.first_pos     //= s.box.word[int( Word.POS )]
    s.first_len     //= s.box.word[int( Word.LEN )]
    for k in range( MAX_EOS ):
      s.eos[k] //= s.box.word[int( Word.EOS ) + k]

    s.box_bad    = Wire()
    s.buffer_end = Wire( 34 )
    s.ends_eos   = Wire()                 # TOKEN is an end-of-sequence token
    s.first_slot = Wire( SLOT_BITS )
    s.code_end   = Wire( SLOT_BITS )
    s.memory_end = Wire( SLOT_BITS )

    @update
    def up_box():
      # The token buffer has CONTEXT + 1 words.
      s.buffer_end @= zext( s.token_line, 34 ) + ( ( zext( s.capacity, 34 ) + words_per_line ) >> line_shift )
      s.box_bad @= ( ( s.eos_count > MAX_EOS ) | ( s.max_count == 0 ) | ( s.first_pos > s.first_len )
                     | ( s.first_len > s.capacity ) | ( s.buffer_end > zext( s.lines, 34 ) ) )
      s.first_slot @= zext( s.code_line, SLOT_BITS ) << 1
      s.memory_end @= zext( s.lines, SLOT_BITS ) << 1
      s.code_end   @= s.first_slot + zext( s.code_count, SLOT_BITS )
      s.box.start  @= ( s.state == BOOT ) & s.fetcher.quiet

    s.match   = [ Wire() for _ in range( MAX_EOS ) ]
    s.hits = Wire( MAX_EOS )
    for k in range( MAX_EOS ):
      s.hits[k] //= s.match[k]

    @update
    def up_match():
      for k in range( MAX_EOS ):
        s.match[k] @= ( s.eos[k] == s.dispatch.token ) & ( s.eos_count > k )

    @update
    def up_ends():
      s.ends_eos @= s.hits != 0

    #---------------------------------------------------------------------
    # The instruction
    #---------------------------------------------------------------------

    s.opcode   = Wire( 8 )
    s.cond     = Wire( 4 )
    s.mask     = Wire( 5 )
    s.rows_of  = Wire( 8 )
    s.rel      = Wire( 4 )
    s.dram     = Wire( 32 )
    s.target   = Wire( 32 )
    s.dst      = Wire( 24 )
    s.src      = Wire( 24 )
    s.vocab    = Wire( 24 )
    s.length   = Wire( 20 )
    s.dst_stride = Wire( 16 )
    s.src_stride = Wire( 16 )
    s.row_lines  = Wire( 32 )
    s.end_status = Wire( 8 )
    s.opcode     //= s.code[place( "WAIT", "opcode" )]
    s.cond       //= s.code[place( "WAIT", "cond" )]
    mask_low = place( "WAIT", "wait" ).start
    s.mask       //= s.code[mask_low : mask_low + 5]
    s.rows_of    //= s.code[place( "WAIT", "rows" )]
    s.rel        //= s.code[place( "WAIT", "rel" )]
    s.dram       //= s.code[place( "LOAD", "dram" )]
    s.target     //= s.code[place( "JUMP", "target" )]
    s.dst        //= s.code[place( "LOAD", "dst" )]
    s.src        //= s.code[place( "STORE", "src" )]
    s.vocab      //= s.code[place( "EMBED", "vocab" )]
    s.length     //= s.code[place( "LOAD", "length" )]
    s.dst_stride //= s.code[place( "LOAD", "dst_stride" )]
    s.src_stride //= s.code[place( "STORE", "src_stride" )]
    s.row_lines  //= s.code[place( "LOAD", "row_lines" )]
    s.end_status //= s.code[place( "HALT", "status" )]

    s.is_control = opcode_set( "control", opcodes_of( Unit.CTRL ) )
    s.is_mac     = opcode_set( "mac", opcodes_of( Unit.MAC ) )
    s.is_vec     = opcode_set( "vec", opcodes_of( Unit.VEC ) )
    s.is_att     = opcode_set( "att", opcodes_of( Unit.ATT ) )
    s.may_move   = opcode_set( "may_move", opcodes( "LOAD", "STORE" ) | opcodes_with( Unit.VEC, "src_stride" ) )
    s.may_end    = Member( "may_end", 8, { Status.EOS, Status.LIMIT, Status.CONTEXT, Status.SCORED } )
    s.may_end.value //= s.end_status
    for member in ( s.is_control, s.is_mac, s.is_vec, s.is_att, s.may_move ):
      connect( member.value, s.opcode )
    s.decoder.opcode //= s.opcode
    s.decoder.cond   //= s.cond
    s.decoder.mask   //= s.code[place( "WAIT", "wait" )]
    s.decoder.rel    //= s.rel
    s.decoder.kind   //= s.end_status
    s.decoder.flags  //= s.code[place( "GEMM", "flags" )]

    s.slot   = Wire( SLOT_BITS )          # where PC points
    s.holds  = Wire()                     # the condition
    s.busy   = Wire( 5 )
    s.needs  = Wire( 5 )                  # units that must be finished before the instruction is executed
    s.early  = Wire( 5 )                  # and before it is sent
    s.lacks  = Wire( 5 )                  # those of them that are not
    s.after  = Wire( 5 )                  # GEMM: of the rest, those that are not finished before this command
    s.behind = Wire( 5 )                  # units that are busy with what came before this GEMM
    s.mac_before = Wire()
    s.mac_before //= s.dispatch.mac_before
    s.ready  = Wire()                     # decoded, and need not wait
    s.executes = Wire()

    @update
    def up_decode():
      s.slot  @= s.first_slot + zext( s.here, SLOT_BITS )
      s.holds @= 1
      if s.cond == PREFILL:
        s.holds @= ~s.score & ( s.pos < s.len )
      elif s.cond == GENERATE:
        s.holds @= ~s.score
      elif s.cond == SCORE:
        s.holds @= s.score
      elif s.cond == LOGITS:
        s.holds @= s.score | s.logits

    @update
    def up_needs():
      s.needs @= s.mask
      if ( s.opcode == EMIT ) | ( s.rel == BY_TOKEN ):
        s.needs @= s.mask | ON_VEC
      elif s.opcode == EMBED:
        s.needs @= s.mask | ON_LOAD
      s.early @= s.needs
      if s.is_mac.ok & s.holds:
        s.early @= s.needs & WRITERS

    @update
    def up_waits():
      s.busy   @= concat( s.storer.busy, s.loader.busy, s.dispatch.busy )
      s.behind @= concat( s.storer.busy, s.loader.busy, s.dispatch.busy[1:3], s.mac_before )
      s.lacks  @= s.early & s.busy
      s.after  @= s.needs & s.behind
      s.ready  @= ( s.state == DECODE ) & ( s.decoder.error == 0 ) & ( s.lacks == 0 )
      s.executes @= s.ready & s.holds
      s.waits @= 0
      if ( s.state == DECODE ) & ( s.decoder.error == 0 ):
        s.waits @= s.lacks
      elif s.state == BEGIN:
        s.waits @= s.after
      elif s.state == DRAIN:
        s.waits @= s.busy

    #---------------------------------------------------------------------
    # Control instructions
    #---------------------------------------------------------------------

    s.unread   = Wire( 32 )               # LEN - POS
    s.pass_rows = Wire( 20 )
    s.limit_of = Wire( 20 )
    s.advanced = Wire( 33 )
    s.backward = Wire()
    s.stuck    = Wire()
    s.jumps    = Wire()
    s.control_fault = Wire( 4 )
    s.limit_of //= s.code[place( "PASS", "limit" )]

    @update
    def up_control():
      s.unread    @= s.len - s.pos
      s.pass_rows @= s.limit_of
      if s.unread < zext( s.limit_of, 32 ):
        s.pass_rows @= s.unread[0:20]
      s.advanced  @= zext( s.pos, 33 ) + zext( s.rows, 33 )
      s.backward  @= s.target <= s.here
      s.stuck     @= s.backward & s.jumped & ( s.jump_pos == s.pos )
      s.control_fault @= NONE
      if ( s.opcode == PASS ) & ( s.pass_rows == 0 ):
        s.control_fault @= BAD_POSITION
      elif ( s.opcode == ADVANCE ) & ( s.advanced > zext( s.len, 33 ) ):
        s.control_fault @= BAD_POSITION
      elif ( s.opcode == JUMP ) & s.stuck:
        s.control_fault @= NO_PROGRESS
      elif ( s.opcode == EMIT ) & ( s.len > s.capacity ):
        s.control_fault @= BAD_POSITION
      elif ( s.opcode == HALT ) & ~s.may_end.ok:
        s.control_fault @= BAD_FIELD
      s.jumps @= s.executes & ( s.opcode == JUMP ) & ~s.stuck

    #---------------------------------------------------------------------
    # Addresses: one multiplier
    #---------------------------------------------------------------------

    s.rows_now = Wire( 8 )                # of this instruction
    s.last_row = Wire( 20 )
    s.offset   = Wire( 32 )               # value of the register that `rel` names
    s.factor   = Wire( 32 )
    s.distance = Wire( 32 )
    s.product  = Wire( 64 )
    s.moved    = Wire( SUM_BITS )
    s.low      = Wire( SUM_BITS )         # first line, or src
    s.high     = Wire( SUM_BITS )         # the line after the last one
    s.row_size = Wire( 21 )               # lines of a row
    s.row_width = Wire( 21 )              # scratchpad rows of a row

    @update
    def up_rows():
      s.rows_now @= s.rows_of
      if s.rows_of == 0:
        s.rows_now @= s.rows[0:8]
        if s.rows > 255:
          s.rows_now @= 255
      s.last_row @= 0
      if s.rows != 0:
        s.last_row @= s.rows - 1

    @update
    def up_offset():
      s.offset @= 0
      if s.rel == BY_POS:
        s.offset @= s.pos
      elif s.rel == BY_LAST:
        s.offset @= zext( s.last_row, 32 )
      elif s.rel == BY_TOKEN:
        s.offset @= s.dispatch.token
      elif s.rel == BY_LEN:
        s.offset @= s.len

    @update
    def up_factors():
      s.distance @= s.row_lines
      if s.is_vec.ok:
        s.distance @= zext( s.src_stride, 32 )
      s.factor @= s.offset
      if s.state == TOKENS:
        s.factor @= s.tokens.out.msg
      elif s.state == PLACE:
        s.factor @= zext( s.rows_now, 32 ) - 1
        if s.opcode == EMBED:
          s.factor @= zext( s.vocab, 32 ) - 1

    @update_ff
    def ff_product():
      s.product <<= zext( s.factor, 64 ) * zext( s.distance, 64 )

    @update
    def up_sums():
      s.moved @= zext( s.product, SUM ) + zext( s.dram, SUM )
      if s.is_vec.ok:
        s.moved @= zext( s.product, SUM ) + zext( s.src, SUM )
      s.row_size  @= ( zext( s.length, 21 ) + ( words_per_line - 1 ) ) >> line_shift
      s.row_width @= ( zext( s.length, 21 ) + ( n - 1 ) ) >> lg
      s.high      @= s.low + zext( s.product, SUM ) + zext( s.row_size, SUM )

    @update_ff
    def ff_low():
      if s.state == PLACE:
        s.low <<= s.moved

    s.src_now = Wire( 24 )

    @update
    def up_src():
      s.src_now @= s.src
      if s.rel != 0:
        s.src_now @= s.low[0:24]
        if s.low > zext( FAR, SUM ):
          s.src_now @= FAR

    #---------------------------------------------------------------------
    # Engines
    #---------------------------------------------------------------------

    s.dispatch.opcode   //= s.opcode
    s.dispatch.operands //= s.code[32:INSTRUCTION_BITS]
    s.dispatch.rows     //= s.rows_now
    s.dispatch.src      //= s.src_now
    s.dispatch.pos      //= s.pos
    s.dispatch.lines    //= s.lines
    s.dispatch.writable //= s.writable
    s.dispatch.unit[0]  //= s.is_mac.ok
    s.dispatch.unit[1]  //= s.is_vec.ok
    s.dispatch.unit[2]  //= s.is_att.ok

    @update
    def up_dispatch():
      s.dispatch.send   @= s.state == SEND
      s.dispatch.await_ @= s.state == ANSWER
      s.dispatch.go  @= ( s.state == BEGIN ) & ( s.after == 0 )
      s.dispatch.clear  @= s.state < ENTER

    #---------------------------------------------------------------------
    # LOAD, STORE, EMBED
    #---------------------------------------------------------------------

    s.is_store  = Wire()
    s.is_embed  = Wire()
    s.dma_fault = Wire( 4 )
    s.last_pos  = Wire( 33 )

    s.range_.rows   //= s.rows_now
    s.spad_row    = Wire( 24 )
    s.spad_stride = Wire( 16 )

    @update
    def up_check():
      s.is_store @= s.opcode == STORE
      s.is_embed @= s.opcode == EMBED
      s.spad_row    @= s.dst
      s.spad_stride @= s.dst_stride
      if s.is_store:
        s.spad_row    @= s.src
        s.spad_stride @= s.src_stride
      s.range_.base   @= s.spad_row
      s.range_.stride @= s.spad_stride
      s.range_.width  @= zext( s.row_width, 28 )
      s.last_pos      @= zext( s.pos, 33 ) + zext( s.rows_now, 33 )

    @update
    def up_dma_fault():
      s.dma_fault @= NONE
      if ( s.rows_now == 0 ) | ( s.length == 0 ) | ( s.is_embed & ( s.vocab == 0 ) ):
        s.dma_fault @= ZERO_SIZE
      elif s.rows_now > m_max:
        s.dma_fault @= BAD_SIZE
      elif s.is_embed & ( s.last_pos > zext( s.len, 33 ) ):
        s.dma_fault @= BAD_POSITION
      elif ( s.high > zext( s.lines, SUM ) ) | ( s.is_store & ( s.low < zext( s.writable, SUM ) ) ):
        s.dma_fault @= BAD_DRAM
      elif ~s.range_.ok:
        s.dma_fault @= BAD_SPAD

    # Strides in the scratchpad's width: the range is checked.
    s.stride = Wire( SPAD )
    same     = min( d.spad_addr_bits, 16 )
    s.stride[0:same] //= s.spad_stride[0:same]
    for b in range( same, d.spad_addr_bits ):
      s.stride[b] //= 0
    for msg in ( s.loader.job.msg, s.storer.job.msg ):
      connect( msg.dram, s.low[0:32] )
      connect( msg.row_lines, s.row_lines )
      connect( msg.spad, s.spad_row[0 : d.spad_addr_bits] )
      connect( msg.stride, s.stride )
      connect( msg.rows, s.rows_now )
      connect( msg.length, s.length )
    s.loader.job.msg.gather //= s.is_embed
    s.queued = Wire()                     # the job is taken in this cycle

    @update
    def up_job():
      s.loader.job.val @= ( s.state == JOB ) & ~s.is_store
      s.storer.job.val @= ( s.state == JOB ) & s.is_store
      s.queued @= ( s.loader.job.val & s.loader.job.rdy ) | ( s.storer.job.val & s.storer.job.rdy )

    # Tokens: one a cycle through the multiplier into the load unit's table, a cycle later

    s.read_rows = Wire( 8 )               # tokens read
    s.wrong     = Wire()                  # one of them is not in the table
    s.took      = Wire()                  # the product is a token's
    s.took_row  = Wire( INDEX )
    s.all_read  = Wire()

    @update
    def up_tokens():
      s.tokens.start   @= ( s.state == QUIET ) & s.fetcher.quiet
      s.tokens.first   @= ( zext( s.token_line, 36 ) << line_shift ) + zext( s.pos, 36 )
      s.tokens.count   @= s.rows_now
      s.tokens.out.rdy @= s.state == TOKENS
      s.all_read       @= s.read_rows == s.rows_now
      s.loader.table_en   @= s.took
      s.loader.table_row  @= s.took_row
      s.loader.table_line @= s.product[0:32] + s.dram

    @update_ff
    def ff_tokens():
      s.took     <<= ~s.reset & s.tokens.out.val & s.tokens.out.rdy
      s.took_row <<= s.read_rows[0:index_bits]
      if s.state == QUIET:
        s.read_rows <<= 0
        s.wrong     <<= 0
      elif s.tokens.out.val & s.tokens.out.rdy:
        s.read_rows <<= s.read_rows + 1
        s.wrong     <<= s.wrong | ( s.tokens.out.msg >= zext( s.vocab, 32 ) )

    #---------------------------------------------------------------------
    # States
    #---------------------------------------------------------------------

    s.fault   = Wire( 4 )                 # what ends the run in this cycle
    s.emitted = Wire( 4 )                 # status after EMIT
    s.emits   = Wire()                    # the report is EMIT's
    s.steps   = Wire()                    # PC goes on

    @update
    def up_fault():
      s.fault @= NONE
      if s.state == FETCH:
        if s.here >= s.code_count:
          s.fault @= BAD_PC
        elif s.slot >= s.limit:
          s.fault @= BAD_DRAM
      elif s.state == DECODE:
        if s.decoder.error != 0:
          s.fault @= s.decoder.error
        elif s.executes:
          if s.is_control.ok:
            s.fault @= s.control_fault
          elif ( s.rel != 0 ) & ~s.may_move.ok:
            s.fault @= BAD_FIELD
      elif s.state == CHECK:
        s.fault @= s.dma_fault
      elif s.state == ANSWER:
        if s.dispatch.answered:
          s.fault @= s.dispatch.answer
      elif s.state == TOKENS:
        if s.all_read & s.wrong:
          s.fault @= BAD_TOKEN
      elif s.state == POST:
        if s.reporter.ends & s.box_bad:
          s.fault @= BAD_MAILBOX

    @update
    def up_emitted():
      s.emitted @= RUNNING
      if s.ends_eos:
        s.emitted @= EOS
      elif s.count == s.max_count:
        s.emitted @= LIMIT
      elif s.len > s.capacity:
        s.emitted @= CONTEXT

    @update
    def up_steps():
      s.steps @= 0
      if s.state == DECODE:
        s.steps @= ( ( s.ready & ~s.holds ) | ( s.executes & s.is_control.ok & ( s.opcode != EMIT )
                                                & ( s.opcode != HALT ) ) )
      elif s.state == ANSWER:
        s.steps @= s.dispatch.answered & ~s.is_mac.ok
      elif s.state == BEGIN:
        s.steps @= s.dispatch.gone
      elif s.state == JOB:
        s.steps @= s.queued
      elif s.state == POST:
        s.steps @= s.reporter.ends & s.emits & ( s.emitted == RUNNING )
      if s.fault != 0:
        s.steps @= 0

    @update_ff
    def ff_state():
      if s.reset:
        s.state <<= IDLE
      elif s.fault != 0:
        s.state <<= DRAIN
      elif s.steps:
        s.state <<= FETCH
      elif s.state == IDLE:
        if s.doorbell.val:
          s.state <<= BOOT
      elif s.state == BOOT:
        if s.fetcher.quiet:
          s.state <<= READ
      elif s.state == READ:
        if ~s.box.busy:
          s.state <<= ENTER
      elif s.state == ENTER:
        s.state <<= POST
      elif s.state == FETCH:
        if s.fetcher.out.val:
          s.state <<= DECODE
      elif s.state == DECODE:
        if s.executes:
          if s.opcode == EMIT:
            s.state <<= POST
          elif s.opcode == HALT:
            s.state <<= DRAIN
          elif s.is_mac.ok | s.is_att.ok | ( s.is_vec.ok & ( s.rel == 0 ) ):
            s.state <<= SEND
          else:
            s.state <<= OFFSET
      elif s.state == OFFSET:
        s.state <<= PLACE
      elif s.state == PLACE:
        s.state <<= CHECK
        if s.is_vec.ok:
          s.state <<= SEND
      elif s.state == CHECK:
        s.state <<= JOB
        if s.is_embed:
          s.state <<= QUIET
      elif s.state == SEND:
        if s.dispatch.sent:
          s.state <<= ANSWER
      elif s.state == ANSWER:
        if s.dispatch.answered:
          s.state <<= BEGIN
      elif s.state == POST:
        if s.reporter.ends:
          s.state <<= DRAIN
          if ~s.emits:
            s.state <<= FETCH
      elif s.state == QUIET:
        if s.fetcher.quiet:
          s.state <<= TOKENS
      elif s.state == TOKENS:
        if s.all_read:
          s.state <<= JOB
      elif s.state == DRAIN:
        if s.busy == 0:
          s.state <<= LAST
      elif s.state == LAST:
        if s.reporter.ends:
          s.state <<= TELL
      elif s.state == TELL:
        if s.finished.rdy:
          s.state <<= IDLE

    @update_ff
    def ff_registers():
      if s.reset:
        s.here <<= 0
      elif s.state == ENTER:
        s.pos    <<= s.first_pos
        s.len    <<= s.first_len
        s.rows   <<= 0
        s.count  <<= 0
        s.here   <<= 0
        s.jumped <<= 0
        s.status <<= RUNNING
        s.error  <<= NONE
        s.limit  <<= s.memory_end
        if s.code_end < s.memory_end:
          s.limit <<= s.code_end
        if s.box_bad:
          s.limit <<= 0
      elif s.steps:
        s.here <<= s.here + 1
        if s.jumps:
          s.here <<= s.target
      if s.executes & ( s.control_fault == 0 ):
        if s.opcode == PASS:
          s.rows <<= s.pass_rows
        elif s.opcode == SETROWS:
          s.rows <<= zext( s.rows_of, 20 )
        elif s.opcode == ADVANCE:
          s.pos <<= s.advanced[0:32]
        elif s.opcode == EMIT:
          s.len   <<= s.len + 1
          s.count <<= s.count + 1
        elif s.opcode == HALT:
          s.status <<= s.end_status[0:4]
      if s.jumps & s.backward:
        s.jumped   <<= 1
        s.jump_pos <<= s.pos
      if ( s.state == POST ) & s.reporter.ends & s.emits:
        s.status <<= s.emitted
      if s.fault != 0:
        s.status <<= FAILED
        s.error  <<= s.fault

    @update_ff
    def ff_code():
      if ( s.state == FETCH ) & s.fetcher.out.val:
        s.code <<= s.fetcher.out.msg

    @update
    def up_ahead():
      s.fetcher.hold    @= ~s.fetches
      s.fetcher.limit   @= s.limit
      s.fetcher.start   @= s.jumps | ( s.state == ENTER )
      s.fetcher.first   @= s.first_slot
      if s.jumps:
        s.fetcher.first @= s.first_slot + zext( s.target, SLOT_BITS )
      s.fetcher.out.rdy @= s.state == FETCH

    s.reporter.pos    //= s.pos
    s.reporter.len    //= s.len
    s.reporter.status //= s.status
    s.reporter.error  //= s.error
    s.reporter.pc     //= s.here
    s.reporter.count  //= s.count
    s.reporter.token  //= s.dispatch.token
    s.reporter.tokens //= s.token_line

    @update
    def up_report():
      s.reporter.start @= 0
      s.reporter.kind  @= AT_START
      if s.state == ENTER:
        s.reporter.start @= 1
      elif s.state == DECODE:
        s.reporter.start @= s.executes & ( s.opcode == EMIT ) & ( s.control_fault == 0 )
        s.reporter.kind  @= AT_TOKEN
      elif s.state == DRAIN:
        s.reporter.start @= s.busy == 0
        s.reporter.kind  @= AT_END
      s.doorbell.rdy @= s.state == IDLE
      s.finished.val @= s.state == TELL
      s.finished.msg @= s.status

    @update_ff
    def ff_emits():
      if s.reporter.start:
        s.emits <<= s.state == DECODE

  def line_trace( s ):
    return f"{s.state}:{s.here}:{s.waits}"
