"""The registers of a run, and the control instructions, which do nothing but change them."""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass

from npu.arch.isa import BY_MNEMONIC, Error, Status
from rtl_models.control.decoder import Member

class ControlRegisters( Component ):
  """PC, POS, LEN, ROWS, and what the mailbox is told: COUNT, STATUS, ERROR.

  Ports
  -----
  enter, first_pos, first_len
    A run begins, with these POS and LEN.
  opcode, limit, rows_field, target, end_status
    The instruction: what PASS, SETROWS, JUMP and HALT say.
  executes
    It is executed in this cycle. Only control instructions change anything.
  control_fault
    What would be wrong with that, as `npu.arch.isa.Error`; then nothing changes.
  steps
    PC goes on.
  jumps
    PC goes to `target`, for `executes`.
  max_count, capacity, ends_eos
    LIMIT and CONTEXT of the mailbox; TOKEN is an end-of-sequence token.
  emitted
    STATUS after an EMIT that has changed LEN and COUNT.
  posted
    Its report is written: STATUS becomes that.
  fault
    What ends the run in this cycle, or NONE.
  """

  def construct( s ):
    s.set_metadata( VerilogTranslationPass.explicit_module_name, "ControlRegisters" )
    RUNNING, FAILED     = Bits4( Status.RUNNING ), Bits4( Status.ERROR )
    EOS, LIMIT, CONTEXT = Bits4( Status.EOS ), Bits4( Status.LIMIT ), Bits4( Status.CONTEXT )
    NONE, BAD_FIELD, BAD_POSITION, NO_PROGRESS = ( Bits4( x ) for x in (
      Error.NONE, Error.BAD_FIELD, Error.BAD_POSITION, Error.NO_PROGRESS ) )
    PASS, ADVANCE, SETROWS, JUMP, EMIT, HALT = ( Bits8( BY_MNEMONIC[m].opcode ) for m in (
      "PASS", "ADVANCE", "SETROWS", "JUMP", "EMIT", "HALT" ) )

    # Interface

    s.enter         = InPort()
    s.first_pos     = InPort( 32 )
    s.first_len     = InPort( 32 )
    s.opcode        = InPort( 8 )
    s.limit         = InPort( 20 )
    s.rows_field    = InPort( 8 )
    s.target        = InPort( 32 )
    s.end_status    = InPort( 8 )
    s.executes      = InPort()
    s.control_fault = OutPort( 4 )
    s.steps         = InPort()
    s.jumps         = OutPort()
    s.max_count     = InPort( 32 )
    s.capacity      = InPort( 32 )
    s.ends_eos      = InPort()
    s.emitted       = OutPort( 4 )
    s.posted        = InPort()
    s.fault         = InPort( 4 )
    s.pc            = OutPort( 32 )
    s.pos           = OutPort( 32 )       # positions processed
    s.len           = OutPort( 32 )       # tokens known
    s.rows          = OutPort( 20 )       # of this pass
    s.count         = OutPort( 32 )       # tokens produced in this run
    s.status        = OutPort( 4 )
    s.error         = OutPort( 4 )

    # Components

    s.jumped    = Wire()                  # there was a backward jump in this run,
    s.jump_pos  = Wire( 32 )              # at this position
    s.unread    = Wire( 32 )              # LEN - POS
    s.pass_rows = Wire( 20 )
    s.advanced  = Wire( 33 )
    s.backward  = Wire()
    s.stuck     = Wire()
    s.may_end   = Member( "may_end", 8, { Status.EOS, Status.LIMIT, Status.CONTEXT, Status.SCORED } )
    s.may_end.value //= s.end_status

    # Logic

    @update
    def up_control():
      s.unread    @= s.len - s.pos
      s.pass_rows @= s.limit
      if s.unread < zext( s.limit, 32 ):
        s.pass_rows @= s.unread[0:20]
      s.advanced  @= zext( s.pos, 33 ) + zext( s.rows, 33 )
      s.backward  @= s.target <= s.pc
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

    @update
    def up_jumps():
      s.jumps @= s.executes & ( s.opcode == JUMP ) & ~s.stuck

    @update
    def up_emitted():
      s.emitted @= RUNNING
      if s.ends_eos:
        s.emitted @= EOS
      elif s.count == s.max_count:
        s.emitted @= LIMIT
      elif s.len > s.capacity:
        s.emitted @= CONTEXT

    @update_ff
    def ff_registers():
      if s.reset:
        s.pc <<= 0
      elif s.enter:
        s.pos    <<= s.first_pos
        s.len    <<= s.first_len
        s.rows   <<= 0
        s.count  <<= 0
        s.pc     <<= 0
        s.jumped <<= 0
        s.status <<= RUNNING
        s.error  <<= NONE
      elif s.steps:
        s.pc <<= s.pc + 1
        if s.jumps:
          s.pc <<= s.target
      if s.executes & ( s.control_fault == 0 ):
        if s.opcode == PASS:
          s.rows <<= s.pass_rows
        elif s.opcode == SETROWS:
          s.rows <<= zext( s.rows_field, 20 )
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
      if s.posted:
        s.status <<= s.emitted
      if s.fault != 0:
        s.status <<= FAILED
        s.error  <<= s.fault

  def line_trace( s ):
    return f"{s.pc}:{s.pos}/{s.len}:{s.rows}"
