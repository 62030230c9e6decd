"""What the lanes do to the row that enters them: from its operation and tag to the controls of every stage."""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass

from rtl_models.vector.lane import A_COS, A_PARAM, A_SCALAR, A_SIGMOID, A_SRC2, B_SCALAR, B_SIN, B_SRC2
from rtl_models.vector.messages import (
  ADD,
  ARGMAX,
  CONVERT,
  MUL,
  QUANTIZE,
  RMSNORM,
  ROPE,
  SCALE,
  SOFTMAX,
  SWIGLU,
  mk_control,
)

class VectorDecode( Component ):
  """Combinational.

  Ports
  -----
  op, mode, phase, first, last, ends, keep, exp
    Of the row at src: operation and mode of its command, its tag (`mk_row_tag`), its segment's exponent.
  out_pass
    The row is in RMSNORM's or SOFTMAX's last pass over its segment.
  turn, turn_keep, turn_ends
    It is not that row that enters, but the second one of a ROPE pair; its lanes, and whether the command ends with it.
  from_pipe, pipe_keep, pipe_ends
    Nor that one, but a row of SWIGLU from the special-function pipes.
  now, sel_a, sel_b
    For the lanes; see `mk_control` and `VectorLane`.
  """

  def construct( s, cfg ):
    n = cfg.n
    s.set_metadata( VerilogTranslationPass.explicit_module_name, f"VectorDecode_n{n}_a{cfg.derived.spad_addr_bits}" )

    # Interface

    s.op        = InPort( 4 )
    s.mode      = InPort( 8 )
    s.phase     = InPort( 2 )
    s.first     = InPort()
    s.last      = InPort()
    s.ends      = InPort()
    s.keep      = InPort( n )
    s.exp       = InPort( 8 )
    s.out_pass  = OutPort()
    s.turn      = InPort()
    s.turn_keep = InPort( n )
    s.turn_ends = InPort()
    s.from_pipe = InPort()
    s.pipe_keep = InPort( n )
    s.pipe_ends = InPort()
    s.now       = OutPort( mk_control( cfg ) )
    s.sel_a     = OutPort( 3 )
    s.sel_b     = OutPort( 2 )

    s.d_op      = Wire( 4 )                   # of the row that enters
    s.sums      = Wire()                      # it is in a pass that ends in a sum

    @update
    def up_pass():
      s.out_pass @= ( ( s.op == RMSNORM ) & ( s.phase == 1 ) ) | ( s.phase == 2 )

    @update
    def up_operation():
      s.d_op @= s.op
      if s.turn:
        s.d_op @= ROPE
      elif s.from_pipe:
        s.d_op @= SWIGLU
      s.sums @= ( ( ( s.d_op == RMSNORM ) & ~s.out_pass )
                  | ( ( s.d_op == SOFTMAX ) & ( s.phase == 1 ) ) )

    @update
    def up_control():
      s.now.mul     @= ( ( s.d_op == MUL ) | ( s.d_op == SCALE ) | ( s.d_op == SWIGLU ) | ( s.d_op == ROPE )
                         | ( s.d_op == SOFTMAX ) | ( ( s.d_op == RMSNORM ) & s.out_pass ) )
      s.now.conv    @= s.d_op == CONVERT
      s.now.mode    @= s.mode[0:2]
      s.now.fix     @= ( s.d_op == QUANTIZE ) | ( s.d_op == SOFTMAX ) | ( ( s.d_op == RMSNORM ) & ~s.out_pass )
      s.now.score   @= s.d_op == SOFTMAX
      s.now.narrow  @= ( s.d_op == QUANTIZE ) & ( s.mode == 8 )
      s.now.square  @= ( s.d_op == RMSNORM ) & ~s.out_pass
      s.now.pack    @= s.d_op == QUANTIZE
      s.now.arg     @= ( s.d_op == SOFTMAX ) & ( s.phase != 0 )
      s.now.prob    @= ( s.d_op == SOFTMAX ) & s.out_pass
      s.now.chain   @= ( s.d_op == SWIGLU ) | ( ( ( s.d_op == RMSNORM ) | ( s.d_op == SOFTMAX ) ) & s.out_pass )
      s.now.rope    @= s.d_op == ROPE
      s.now.negate  @= ( s.d_op == ROPE ) & ~s.turn
      s.now.plus    @= ( s.d_op == ROPE ) | ( s.d_op == ADD )
      s.now.largest @= ( s.d_op == SOFTMAX ) & ( s.phase == 0 )
      s.now.argmax  @= s.d_op == ARGMAX
      s.now.total   @= s.sums
      s.now.root    @= s.d_op == RMSNORM
      s.now.first   @= s.first & ( ( s.d_op != ARGMAX ) | s.mode[0] )
      s.now.last    @= s.last
      s.now.write   @= ( s.d_op != ARGMAX ) & ( ( ( s.d_op != RMSNORM ) & ( s.d_op != SOFTMAX ) ) | s.out_pass )
      s.now.ends    @= s.ends & ( s.d_op != ROPE )
      s.now.exp     @= s.exp
      s.now.keep    @= s.keep
      if s.turn:
        s.now.ends @= s.turn_ends
        s.now.keep @= s.turn_keep
      elif s.from_pipe:
        s.now.ends @= s.pipe_ends
        s.now.keep @= s.pipe_keep

    @update
    def up_select():
      s.sel_a @= A_SRC2
      if s.from_pipe:
        s.sel_a @= A_SIGMOID
      elif ( s.op == SCALE ) | ( s.op == SOFTMAX ):
        s.sel_a @= A_PARAM
      elif s.op == RMSNORM:
        s.sel_a @= A_SCALAR
      elif s.op == ROPE:
        s.sel_a @= A_COS
      s.sel_b @= B_SRC2
      if s.from_pipe:
        s.sel_b @= B_SRC2
      elif s.op == ROPE:
        s.sel_b @= B_SIN
      elif s.op == SOFTMAX:
        s.sel_b @= B_SCALAR

  def line_trace( s ):
    return f"{s.d_op}"
