"""Hands instructions to the engines, and counts what is not finished."""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass
from pymtl3.stdlib.stream import NormalQueueRTL
from pymtl3.stdlib.stream.ifcs import RecvIfcRTL, SendIfcRTL

from npu.arch.isa import GemmFlag, Unit
from npu.arch.messages import Ack, Done, mk_attend_cmd, mk_gemm_cmd, mk_vector_cmd
from rtl_models.control.decoder import OPERAND_BITS, opcode_set, opcodes, opcodes_with, operand

MOST = 8    # commands that an engine may have unfinished

class Dispatcher( Component ):
  """Turns an instruction into its engine's command, waits for the answer, and keeps TOKEN.

  Ports
  -----
  opcode, operands, rows, src, pos, lines, writable
    The instruction, word 0 apart; its rows and, for the vector unit, `src` are resolved. Stable while `send`.
  unit
    One bit per engine: MAC, VEC, ATT.
  send
    Offer the command; `sent` when it is taken in this cycle.
  await_
    Take the answer; `answered` when it comes in this cycle, and it is `answer`.
  go
    Offer `mac_start`; `gone` when it is taken in this cycle.
  clear
    No run is going on.
  busy
    One bit per engine: something is accepted and not finished.
  mac_before
    The same for the array without its last command.
  token
    The result of the last ARGMAX; 0 at the beginning of a run.
  """

  def construct( s, cfg ):
    s.set_metadata( VerilogTranslationPass.explicit_module_name, f"Dispatcher_n{cfg.n}_a{cfg.derived.spad_addr_bits}" )
    GEMM, VECTOR, ATTEND = mk_gemm_cmd( cfg ), mk_vector_cmd( cfg ), mk_attend_cmd( cfg )

    # Interface

    s.opcode      = InPort( 8 )
    s.operands    = InPort( OPERAND_BITS )
    s.rows        = InPort( 8 )
    s.src         = InPort( 24 )
    s.pos         = InPort( 32 )
    s.lines       = InPort( 32 )
    s.writable    = InPort( 32 )
    s.unit        = InPort( 3 )
    s.send        = InPort()
    s.sent        = OutPort()
    s.await_      = InPort()
    s.answered    = OutPort()
    s.answer      = OutPort( 4 )
    s.go          = InPort()
    s.gone        = OutPort()
    s.clear       = InPort()
    s.busy        = OutPort( 3 )
    s.mac_before  = OutPort()
    s.token       = OutPort( 32 )

    s.mac_cmd   = SendIfcRTL( GEMM )
    s.mac_ack   = RecvIfcRTL( Ack )
    s.mac_start = SendIfcRTL( Bits1 )
    s.mac_done  = RecvIfcRTL( Done )
    s.vec_cmd   = SendIfcRTL( VECTOR )
    s.vec_ack   = RecvIfcRTL( Ack )
    s.vec_done  = RecvIfcRTL( Done )
    s.att_cmd   = SendIfcRTL( ATTEND )
    s.att_ack   = RecvIfcRTL( Ack )
    s.att_done  = RecvIfcRTL( Done )

    #---------------------------------------------------------------------
    # Commands: mostly wires
    #---------------------------------------------------------------------

    # MAC array

    for name in ( "dram", "dst", "src", "src2", "group", "k", "cols", "dst_stride", "src_stride" ):
      connect( getattr( s.mac_cmd.msg, name ), s.operands[operand( "GEMM", name )] )
    s.mac_cmd.msg.rows  //= s.rows
    s.mac_cmd.msg.lines //= s.lines

    mode, flags = operand( "GEMM", "mode" ).start, operand( "GEMM", "flags" ).start
    s.mac_cmd.msg.mode     //= s.operands[mode : mode + 3]
    s.mac_cmd.msg.bias     //= s.operands[flags + GemmFlag.BIAS.bit_length() - 1]
    s.mac_cmd.msg.residual //= s.operands[flags + GemmFlag.RESIDUAL.bit_length() - 1]

    # Attention engine

    for name in ( "dram", "dst", "src", "src2", "heads", "kv_heads", "length", "chunks", "dst_stride", "src_stride",
                  "factor" ):
      connect( getattr( s.att_cmd.msg, name ), s.operands[operand( "ATTEND", name )] )
    s.att_cmd.msg.rows     //= s.rows
    s.att_cmd.msg.pos      //= s.pos
    s.att_cmd.msg.lines    //= s.lines
    s.att_cmd.msg.writable //= s.writable

    # Vector unit: fields that an instruction does not name are zero

    s.vec_cmd.msg.op     //= s.opcode[0:4]
    s.vec_cmd.msg.rows   //= s.rows
    s.vec_cmd.msg.src    //= s.src
    s.vec_cmd.msg.length //= s.operands[operand( "COPY", "length" )]

    def named( names ):
      return opcode_set( f"vec_{names[0]}", opcodes_with( Unit.VEC, *names ) )

    s.has_dst    = named( ( "dst", ) )
    s.has_sstr   = named( ( "src_stride", ) )
    s.has_src2   = named( ( "src2", ) )
    s.has_s2str  = named( ( "src2_stride", ) )
    s.has_seg    = named( ( "segments", ) )
    s.has_param  = named( ( "inv_length", "factor", "base" ) )
    s.has_eps    = named( ( "eps", ) )
    s.has_mode   = named( ( "bits", "formats" ) )
    s.has_first  = named( ( "first", ) )
    for member in ( s.has_dst, s.has_sstr, s.has_src2, s.has_s2str, s.has_seg, s.has_param, s.has_eps, s.has_mode,
                    s.has_first ):
      connect( member.value, s.opcode )

    s.v_dst   = Wire( 24 )
    s.v_src2  = Wire( 24 )
    s.v_seg   = Wire( 8 )
    s.v_dstr  = Wire( 16 )
    s.v_sstr  = Wire( 16 )
    s.v_s2str = Wire( 16 )
    s.v_param = Wire( 32 )
    s.v_eps   = Wire( 32 )
    s.v_mode  = Wire( 8 )
    s.v_first = Wire( 1 )
    s.v_dst   //= s.operands[operand( "ADD", "dst" )]
    s.v_src2  //= s.operands[operand( "ADD", "src2" )]
    s.v_seg   //= s.operands[operand( "ADD", "segments" )]
    s.v_dstr  //= s.operands[operand( "ADD", "dst_stride" )]
    s.v_sstr  //= s.operands[operand( "ADD", "src_stride" )]
    s.v_s2str //= s.operands[operand( "ADD", "src2_stride" )]
    s.v_param //= s.operands[operand( "SCALE", "factor" )]
    s.v_eps   //= s.operands[operand( "RMSNORM", "eps" )]
    s.v_mode  //= s.operands[operand( "QUANTIZE", "bits" )]
    s.v_first //= s.operands[operand( "ARGMAX", "first" )]

    @update
    def up_vector():
      s.vec_cmd.msg.dst         @= 0
      s.vec_cmd.msg.dst_stride  @= 0
      s.vec_cmd.msg.src_stride  @= 0
      s.vec_cmd.msg.src2        @= 0
      s.vec_cmd.msg.src2_stride @= 0
      s.vec_cmd.msg.segments    @= 0
      s.vec_cmd.msg.param       @= 0
      s.vec_cmd.msg.eps         @= 0
      s.vec_cmd.msg.mode        @= 0
      if s.has_dst.ok:
        s.vec_cmd.msg.dst        @= s.v_dst
        s.vec_cmd.msg.dst_stride @= s.v_dstr
      if s.has_sstr.ok:
        s.vec_cmd.msg.src_stride @= s.v_sstr
      if s.has_src2.ok:
        s.vec_cmd.msg.src2 @= s.v_src2
      if s.has_s2str.ok:
        s.vec_cmd.msg.src2_stride @= s.v_s2str
      if s.has_seg.ok:
        s.vec_cmd.msg.segments @= s.v_seg
      if s.has_param.ok:
        s.vec_cmd.msg.param @= s.v_param
      if s.has_eps.ok:
        s.vec_cmd.msg.eps @= s.v_eps
      if s.has_mode.ok:
        s.vec_cmd.msg.mode @= s.v_mode
      elif s.has_first.ok:
        s.vec_cmd.msg.mode @= zext( s.v_first, 8 )

    #---------------------------------------------------------------------
    # Handshakes and counts
    #---------------------------------------------------------------------

    # Counts wrap: a `done` that overtakes its answer would do no harm.
    s.mac_count = Wire( 4 )
    s.vec_count = Wire( 4 )
    s.att_count = Wire( 4 )
    s.accepted  = Wire()
    s.kinds     = NormalQueueRTL( Bits1, MOST )    # of the vector unit's commands: is it an ARGMAX
    s.argmax    = opcode_set( "argmax", opcodes( "ARGMAX" ) )
    s.argmax.value //= s.opcode

    @update
    def up_cmd():
      s.mac_cmd.val @= s.send & s.unit[0] & ( s.mac_count != MOST )
      s.vec_cmd.val @= s.send & s.unit[1] & ( s.vec_count != MOST ) & s.kinds.recv.rdy
      s.att_cmd.val @= s.send & s.unit[2] & ( s.att_count != MOST )
      s.sent        @= ( ( s.mac_cmd.val & s.mac_cmd.rdy ) | ( s.vec_cmd.val & s.vec_cmd.rdy )
                         | ( s.att_cmd.val & s.att_cmd.rdy ) )

    @update
    def up_ack():
      s.mac_ack.rdy @= s.await_ & s.unit[0]
      s.vec_ack.rdy @= s.await_ & s.unit[1]
      s.att_ack.rdy @= s.await_ & s.unit[2]
      s.answered    @= ( ( s.mac_ack.val & s.mac_ack.rdy ) | ( s.vec_ack.val & s.vec_ack.rdy )
                         | ( s.att_ack.val & s.att_ack.rdy ) )
      s.answer      @= s.mac_ack.msg
      if s.unit[1]:
        s.answer @= s.vec_ack.msg
      elif s.unit[2]:
        s.answer @= s.att_ack.msg
      s.accepted    @= s.answered & ( s.answer == 0 )

    @update
    def up_start():
      s.mac_start.val @= s.go
      s.mac_start.msg @= 1
      s.gone          @= s.go & s.mac_start.rdy

    @update
    def up_busy():
      s.mac_done.rdy @= 1
      s.vec_done.rdy @= 1
      s.att_done.rdy @= 1
      s.busy         @= concat( s.att_count != 0, s.vec_count != 0, s.mac_count != 0 )
      s.mac_before   @= s.mac_count != 1

    @update_ff
    def ff_counts():
      if s.reset:
        s.mac_count <<= 0
        s.vec_count <<= 0
        s.att_count <<= 0
      else:
        s.mac_count <<= s.mac_count + zext( s.accepted & s.unit[0], 4 ) - zext( s.mac_done.val, 4 )
        s.vec_count <<= s.vec_count + zext( s.accepted & s.unit[1], 4 ) - zext( s.vec_done.val, 4 )
        s.att_count <<= s.att_count + zext( s.accepted & s.unit[2], 4 ) - zext( s.att_done.val, 4 )

    # A refused command leaves its kind behind; the run ends with it.
    @update
    def up_kinds():
      s.kinds.recv.val @= s.vec_cmd.val & s.vec_cmd.rdy
      s.kinds.recv.msg @= s.argmax.ok
      s.kinds.send.rdy @= s.vec_done.val | s.clear

    @update_ff
    def ff_token():
      if s.clear:
        s.token <<= 0
      elif s.vec_done.val & s.kinds.send.val & s.kinds.send.msg:
        s.token <<= s.vec_done.msg

  def line_trace( s ):
    return f"{s.mac_count}{s.vec_count}{s.att_count}"
