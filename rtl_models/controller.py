"""Controller, register-transfer level: runs a program from the doorbell to the report in the mailbox.

    doorbell --> MailboxReader --> ControlRegisters --> MailboxWriter --> post, finished
                                      |
    fetch <--> InstructionFetch --> instruction --> Decoder, Interlock
                                      |
                                      +--> control instructions: ControlRegisters
                                      +--> AddressGenerator --+--> Dispatcher --cmd, start--> engines --ack, done-->
                                                              +--> Dma <--> load, spad_wr, spad_rd, store

One instruction after the other is decoded, waits, and is executed or handed to its unit, which checks it before the
next one is looked at. Units work in parallel. This file has the states that a run goes through; the parts, in
`rtl_models/control/`, do what there is to do in each.
"""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass
from pymtl3.stdlib.stream.ifcs import MasterIfcRTL, RecvIfcRTL, SendIfcRTL

from npu.arch.isa import BY_MNEMONIC, Error, Status
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
from rtl_models.control.address_generator import AddressGenerator
from rtl_models.control.control_registers import ControlRegisters
from rtl_models.control.decoder import INSTRUCTION_BITS, Decoder, place
from rtl_models.control.dispatcher import Dispatcher
from rtl_models.control.dma import Dma
from rtl_models.control.fetch_port import FetchPort
from rtl_models.control.instruction_fetch import SLOT_BITS, InstructionFetch
from rtl_models.control.interlock import Interlock
from rtl_models.control.mailbox_reader import MailboxReader
from rtl_models.control.mailbox_writer import END, START, TOKEN, MailboxWriter

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
    d = cfg.derived
    s.set_metadata( VerilogTranslationPass.explicit_module_name,
                    f"ControllerRTL_n{cfg.n}_a{d.spad_addr_bits}_m{cfg.m_max}" )
    BEAT = mk_bits( d.beat_bits )
    SPAD = mk_bits( d.spad_addr_bits )
    RUNNING = Bits4( Status.RUNNING )
    NONE, BAD_FIELD, BAD_DRAM, BAD_TOKEN, BAD_PC, BAD_MAILBOX = ( Bits4( x ) for x in (
      Error.NONE, Error.BAD_FIELD, Error.BAD_DRAM, Error.BAD_TOKEN, Error.BAD_PC, Error.BAD_MAILBOX ) )
    EMIT, HALT = ( Bits8( BY_MNEMONIC[m].opcode ) for m in ( "EMIT", "HALT" ) )
    AT_START, AT_TOKEN, AT_END = Bits2( START ), Bits2( TOKEN ), Bits2( END )

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

    s.box       = MailboxReader( cfg )
    s.reporter  = MailboxWriter( cfg )
    s.fetcher   = InstructionFetch( cfg )
    s.readers   = FetchPort( cfg )
    s.decoder   = Decoder()
    s.interlock = Interlock()
    s.registers = ControlRegisters()
    s.addresses = AddressGenerator( cfg )
    s.dispatch  = Dispatcher( cfg )
    s.dma       = Dma( cfg )

    s.state  = Wire( 5 )
    s.limit  = Wire( SLOT_BITS )          # first slot that is not fetched
    s.code   = Wire( INSTRUCTION_BITS )   # the instruction
    s.opcode = Wire( 8 )
    s.rel    = Wire( 4 )
    s.target = Wire( 32 )
    s.busy   = Wire( 5 )                  # units with something unfinished
    s.behind = Wire( 5 )                  # the same without the GEMM that is looked at
    s.fault  = Wire( 4 )                  # what ends the run in this cycle
    s.steps  = Wire()                     # PC goes on
    s.emits  = Wire()                     # the report is EMIT's

    #---------------------------------------------------------------------
    # Connections
    #---------------------------------------------------------------------

    # Ports

    for name in ( "mac_cmd", "mac_ack", "mac_start", "mac_done", "vec_cmd", "vec_ack", "vec_done", "att_cmd",
                  "att_ack", "att_done" ):
      connect( getattr( s.dispatch, name ), getattr( s, name ) )
    for name in ( "load", "spad_wr", "spad_rd", "store" ):
      connect( getattr( s.dma, name ), getattr( s, name ) )
    s.readers.mem    //= s.fetch
    s.readers.box    //= s.box.mem
    s.readers.tokens //= s.dma.token_mem
    s.readers.code   //= s.fetcher.mem
    s.reporter.post  //= s.post
    s.pc             //= s.registers.pc

    # Fields of the instruction

    def field( mnemonic, name ):
      return s.code[place( mnemonic, name )]

    def connect_fields( part, mnemonic, *names ):
      for name in names:
        connect( getattr( part, name ), field( mnemonic, name ) )

    mask_low = place( "WAIT", "wait" ).start
    s.opcode               //= field( "WAIT", "opcode" )
    s.rel                  //= field( "WAIT", "rel" )
    s.target               //= field( "JUMP", "target" )
    s.interlock.mask       //= s.code[mask_low : mask_low + 5]
    s.decoder.mask         //= field( "WAIT", "wait" )
    s.decoder.kind         //= field( "HALT", "status" )
    s.registers.end_status //= field( "HALT", "status" )
    s.registers.rows_field //= field( "WAIT", "rows" )
    s.addresses.rows_field //= field( "WAIT", "rows" )
    s.dispatch.operands    //= s.code[32:INSTRUCTION_BITS]
    connect_fields( s.decoder,   "GEMM", "opcode", "cond", "rel", "flags" )
    connect_fields( s.interlock, "WAIT", "opcode", "cond", "rel" )
    connect_fields( s.registers, "PASS", "opcode", "limit" )
    connect_fields( s.registers, "JUMP", "target" )
    connect_fields( s.addresses, "LOAD", "rel", "dram", "length", "row_lines" )
    connect_fields( s.addresses, "STORE", "src", "src_stride" )
    connect_fields( s.addresses, "EMBED", "vocab" )
    connect_fields( s.dispatch,  "GEMM", "opcode" )
    connect_fields( s.dma,       "LOAD", "opcode", "dst", "length", "dst_stride", "row_lines" )
    connect_fields( s.dma,       "STORE", "src", "src_stride" )
    connect_fields( s.dma,       "EMBED", "vocab" )

    # What it is, the mailbox, registers

    def connect_all( part, source, *names ):
      for name in names:
        connect( getattr( part, name ), getattr( source, name ) )

    connect_all( s.interlock, s.decoder, "is_mac" )
    connect_all( s.addresses, s.decoder, "is_vec", "is_embed" )
    for i, name in enumerate( ( "is_mac", "is_vec", "is_att" ) ):
      connect( s.dispatch.unit[i], getattr( s.decoder, name ) )
    connect_all( s.registers, s.box, "first_pos", "first_len", "max_count", "capacity", "ends_eos" )
    connect_all( s.interlock, s.box, "score", "logits" )
    connect_all( s.dispatch,  s.box, "lines", "writable" )
    connect_all( s.dma,       s.box, "lines", "writable", "token_line" )
    connect_all( s.reporter,  s.registers, "pos", "len", "status", "error", "pc", "count" )
    connect_all( s.interlock, s.registers, "pos", "len" )
    connect_all( s.addresses, s.registers, "pos", "len", "rows" )
    connect_all( s.dispatch,  s.registers, "pos" )
    connect_all( s.dma,       s.registers, "pos", "len" )
    s.reporter.tokens //= s.box.token_line
    for part in ( s.box, s.reporter, s.addresses ):
      connect( part.token, s.dispatch.token )

    # From part to part

    connect_all( s.dma, s.addresses, "low", "high", "row_width", "line" )
    s.addresses.row      //= s.dma.row
    s.dma.rows           //= s.addresses.rows_now
    s.dispatch.rows      //= s.addresses.rows_now
    s.dispatch.src       //= s.addresses.src_now
    s.registers.executes //= s.interlock.executes
    s.registers.steps    //= s.steps
    s.registers.fault    //= s.fault
    s.interlock.busy     //= s.busy
    s.interlock.behind   //= s.behind
    s.fetcher.limit      //= s.limit

    #---------------------------------------------------------------------
    # What the parts do in which state
    #---------------------------------------------------------------------

    @update
    def up_box():
      s.box.start         @= ( s.state == BOOT ) & s.fetcher.quiet
      s.readers.to_box    @= s.state == READ
      s.readers.to_tokens @= s.state == TOKENS

    @update
    def up_units():
      s.addresses.place  @= s.state == PLACE
      s.addresses.gather @= s.state == TOKENS
      s.dispatch.send    @= s.state == SEND
      s.dispatch.await_  @= s.state == ANSWER
      s.dispatch.go      @= ( s.state == BEGIN ) & ( s.interlock.after == 0 )
      s.dispatch.clear   @= s.state < ENTER
      s.dma.start        @= ( s.state == QUIET ) & s.fetcher.quiet
      s.dma.gather       @= s.state == TOKENS
      s.dma.push         @= s.state == JOB

    @update
    def up_busy():
      s.busy   @= concat( s.dma.store_busy, s.dma.load_busy, s.dispatch.busy )
      s.behind @= concat( s.dma.store_busy, s.dma.load_busy, s.dispatch.busy[1:3], s.dispatch.mac_before )

    @update
    def up_decoded():
      s.interlock.decoded @= ( s.state == DECODE ) & ( s.decoder.error == 0 )

    @update
    def up_waits():
      s.waits @= 0
      if s.interlock.decoded:
        s.waits @= s.interlock.lacks
      elif s.state == BEGIN:
        s.waits @= s.interlock.after
      elif s.state == DRAIN:
        s.waits @= s.busy

    @update
    def up_registers():
      s.registers.enter  @= s.state == ENTER
      s.registers.posted @= ( s.state == POST ) & s.reporter.ends & s.emits

    # Instructions ahead

    @update
    def up_ahead():
      s.fetcher.hold    @= ( s.state < FETCH ) | ( s.state > POST )
      s.fetcher.start   @= s.registers.jumps | ( s.state == ENTER )
      s.fetcher.first   @= s.box.first_slot
      if s.registers.jumps:
        s.fetcher.first @= s.box.first_slot + zext( s.target, SLOT_BITS )
      s.fetcher.out.rdy @= s.state == FETCH

    @update_ff
    def ff_code():
      if s.state == ENTER:
        s.limit <<= s.box.end_slot
      if ( s.state == FETCH ) & s.fetcher.out.val:
        s.code <<= s.fetcher.out.msg

    # Reports

    @update
    def up_report():
      s.reporter.start @= 0
      s.reporter.kind  @= AT_START
      if s.state == ENTER:
        s.reporter.start @= 1
      elif s.state == DECODE:
        s.reporter.start @= s.interlock.executes & ( s.opcode == EMIT ) & ( s.registers.control_fault == 0 )
        s.reporter.kind  @= AT_TOKEN
      elif s.state == DRAIN:
        s.reporter.start @= s.busy == 0
        s.reporter.kind  @= AT_END
      s.doorbell.rdy @= s.state == IDLE
      s.finished.val @= s.state == TELL
      s.finished.msg @= s.registers.status

    @update_ff
    def ff_emits():
      if s.reporter.start:
        s.emits <<= s.state == DECODE

    #---------------------------------------------------------------------
    # States
    #---------------------------------------------------------------------

    s.slot = Wire( SLOT_BITS )            # where PC points

    @update
    def up_fault():
      s.slot  @= s.box.first_slot + zext( s.registers.pc, SLOT_BITS )
      s.fault @= NONE
      if s.state == FETCH:
        if s.registers.pc >= s.box.code_count:
          s.fault @= BAD_PC
        elif s.slot >= s.limit:
          s.fault @= BAD_DRAM
      elif s.state == DECODE:
        if s.decoder.error != 0:
          s.fault @= s.decoder.error
        elif s.interlock.executes:
          if s.decoder.is_control:
            s.fault @= s.registers.control_fault
          elif ( s.rel != 0 ) & ~s.decoder.may_move:
            s.fault @= BAD_FIELD
      elif s.state == CHECK:
        s.fault @= s.dma.fault
      elif s.state == ANSWER:
        if s.dispatch.answered:
          s.fault @= s.dispatch.answer
      elif s.state == TOKENS:
        if s.dma.all_read & s.dma.bad_token:
          s.fault @= BAD_TOKEN
      elif s.state == POST:
        if s.reporter.ends & s.box.bad:
          s.fault @= BAD_MAILBOX

    @update
    def up_steps():
      s.steps @= 0
      if s.state == DECODE:
        s.steps @= ( s.interlock.skips | ( s.interlock.executes & s.decoder.is_control & ( s.opcode != EMIT )
                                           & ( s.opcode != HALT ) ) )
      elif s.state == ANSWER:
        s.steps @= s.dispatch.answered & ~s.decoder.is_mac
      elif s.state == BEGIN:
        s.steps @= s.dispatch.gone
      elif s.state == JOB:
        s.steps @= s.dma.pushed
      elif s.state == POST:
        s.steps @= s.reporter.ends & s.emits & ( s.registers.emitted == RUNNING )
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
        if s.interlock.executes:
          if s.opcode == EMIT:
            s.state <<= POST
          elif s.opcode == HALT:
            s.state <<= DRAIN
          elif s.decoder.is_mac | s.decoder.is_att | ( s.decoder.is_vec & ( s.rel == 0 ) ):
            s.state <<= SEND
          else:
            s.state <<= OFFSET
      elif s.state == OFFSET:
        s.state <<= PLACE
      elif s.state == PLACE:
        s.state <<= CHECK
        if s.decoder.is_vec:
          s.state <<= SEND
      elif s.state == CHECK:
        s.state <<= JOB
        if s.decoder.is_embed:
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
        if s.dma.all_read:
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

  def line_trace( s ):
    return f"{s.state}:{s.pc}:{s.waits}"
