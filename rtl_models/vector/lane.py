"""One lane of the vector unit: all that happens to one element, in seven stages behind its operands.

Costs two FP32 multipliers, one adder, one float-to-fixed converter, one exp2neg table and three small integer
converters. Every operation goes through all stages, so that operations of any two commands may follow each other.

| stage | elementwise                  | QUANTIZE, RMSNORM's squares | SOFTMAX             |
|-------|------------------------------|-----------------------------|---------------------|
| 0     | operands x, a, b, y          | x                           | x, a = factor, b    |
| 1     | x * a, or another format     |                             | x * factor          |
| 2     |                              | to fixed point              | to fixed point      |
| 3     |                              | pack, or square             | maximum - score = u |
| 4     |                              |                             | p = 2**-u           |
| 5     |                              |                             | p to FP32           |
| 6     | that * b, or y * b (ROPE)    |                             | p * b               |
| 7     | plus b (ADD), plus y * b     |                             |                     |

Stage 2 ends in the keys that row maxima compare, stage 4 in the addends of row sums.
"""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass

from npu.arch.numerics.special import U_FRACTION_BITS, U_MAX
from rtl_models.common.exp2neg import P_BITS, U_BITS, Exp2Neg
from rtl_models.common.fp32 import EXPONENT_BITS, Fp32Add, Fp32Mul, Fp32ToFixed, IntToFp32
from rtl_models.vector.messages import mk_control
from rtl_models.vector.small_float import SmallFloatConvert

LANE_STAGES = 7
A_SRC2, A_PARAM, A_SCALAR, A_COS, A_SIGMOID = range( 5 )
B_SRC2, B_SIN, B_SCALAR = range( 3 )

class RopeFactor( Component ):
  """Q1.14 as FP32. Combinational."""

  def construct( s ):
    s.set_metadata( VerilogTranslationPass.explicit_module_name, "RopeFactor" )
    s.in_ = InPort( 16 )
    s.out = OutPort( 32 )
    s.to_float = IntToFp32( 16 )
    s.to_float.in_ //= s.in_

    @update
    def up_out():
      s.out @= 0
      if s.to_float.out[23:31] != 0:
        s.out @= concat( s.to_float.out[31], s.to_float.out[23:31] - 14, s.to_float.out[0:23] )

class VectorLane( Component ):
  """Everything moves in cycles with `go`.

  Ports
  -----
  src, src2
    The lane's words of the rows that wait at the two ports.
  keep_src
    ROPE: hold src, which is the first element of a pair.
  load, sel_a, sel_b, pair, from_pipe
    Load stage 0. x is src; `from_pipe` it is the gate; of a `pair` it is the held element, and y is src.
  swap
    Exchange x and y in stage 0 instead.
  grab, pipe_gate, pipe_sigmoid
    Take a gate and its sigmoid from the lane's special-function pipe, for `from_pipe`.
  param, scalar, top
    The command's constant; the segment's reciprocal or root; SOFTMAX's maximum as a score.
  c
    c[i] controls stage i + 1: it belongs to the row behind stage i.
  used2, used6
    Whether the lane counts, for the rows behind stages 2 and 6.
  key, addend
    For the row behind stage 2, and behind stage 4.
  """

  def construct( s, cfg ):
    CONTROL = mk_control( cfg )
    s.set_metadata( VerilogTranslationPass.explicit_module_name, f"VectorLane_n{cfg.n}_a{cfg.derived.spad_addr_bits}" )
    EXP     = mk_bits( EXPONENT_BITS )
    U_SCALE = EXP( -U_FRACTION_BITS )
    NOTHING = Bits32( U_MAX )                 # its exp2neg is zero
    real_bits = P_BITS + 1

    # Interface

    s.go           = InPort()
    s.src          = InPort( 32 )
    s.src2         = InPort( 32 )
    s.keep_src     = InPort()
    s.load         = InPort()
    s.sel_a        = InPort( 3 )
    s.sel_b        = InPort( 2 )
    s.pair         = InPort()
    s.from_pipe    = InPort()
    s.swap         = InPort()
    s.grab        = InPort()
    s.pipe_gate    = InPort( 32 )
    s.pipe_sigmoid = InPort( 32 )
    s.param        = InPort( 32 )
    s.scalar       = InPort( 32 )
    s.top          = InPort( 32 )
    s.c            = [ InPort( CONTROL ) for _ in range( LANE_STAGES ) ]
    s.used2        = InPort()
    s.used6        = InPort()
    s.key          = OutPort( 32 )
    s.addend       = OutPort( 32 )
    s.out          = OutPort( 32 )

    # Stage 0: operands

    s.held    = Wire( 32 )
    s.gate    = Wire( 32 )
    s.sigmoid = Wire( 32 )
    s.cos     = RopeFactor()
    s.sin     = RopeFactor()
    s.cos.in_ //= s.src2[0:16]
    s.sin.in_ //= s.src2[16:32]
    s.x0      = Wire( 32 )
    s.a0      = Wire( 32 )
    s.b0      = Wire( 32 )
    s.y0      = Wire( 32 )

    @update_ff
    def ff_caught():
      if s.grab:
        s.gate    <<= s.pipe_gate
        s.sigmoid <<= s.pipe_sigmoid

    @update_ff
    def ff_operands():
      if s.go:
        if s.keep_src:
          s.held <<= s.src
        if s.swap:
          s.x0 <<= s.y0
          s.y0 <<= s.x0
        elif s.load:
          s.x0 <<= s.src
          s.y0 <<= s.src
          if s.from_pipe:
            s.x0 <<= s.gate
          elif s.pair:
            s.x0 <<= s.held
          s.a0 <<= s.src2
          if s.sel_a == A_PARAM:
            s.a0 <<= s.param
          elif s.sel_a == A_SCALAR:
            s.a0 <<= s.scalar
          elif s.sel_a == A_COS:
            s.a0 <<= s.cos.out
          elif s.sel_a == A_SIGMOID:
            s.a0 <<= s.sigmoid
          s.b0 <<= s.src2
          if s.sel_b == B_SIN:
            s.b0 <<= s.sin.out
          elif s.sel_b == B_SCALAR:
            s.b0 <<= s.scalar

    # b and y travel to stage 6: index i is behind stage i + 1

    s.b = [ Wire( 32 ) for _ in range( 5 ) ]
    s.y = [ Wire( 32 ) for _ in range( 5 ) ]

    @update_ff
    def ff_beside():
      if s.go:
        s.b[0] <<= s.b0
        s.y[0] <<= s.y0
        for i in range( 1, 5 ):
          s.b[i] <<= s.b[i - 1]
          s.y[i] <<= s.y[i - 1]

    # Stage 1: multiply, or another format

    s.mul1    = Fp32Mul()
    s.mul1.a  //= s.x0
    s.mul1.b  //= s.a0
    s.convert = SmallFloatConvert()
    s.convert.x    //= s.x0
    s.convert.mode //= s.c[0].mode
    s.v1      = Wire( 32 )

    @update_ff
    def ff_multiply():
      if s.go:
        s.v1 <<= s.x0
        if s.c[0].mul:
          s.v1 <<= s.mul1.out
        elif s.c[0].conv:
          s.v1 <<= s.convert.out

    # Stage 2: to fixed point. 2**lsb is E - 127 - (bits - 2).

    s.fix    = Fp32ToFixed( 32 )
    s.fix.x  //= s.v1
    s.v2     = Wire( 32 )

    @update
    def up_fix():
      s.fix.scale_exponent @= zext( s.c[1].exp, EXPONENT_BITS ) - 141
      s.fix.limit          @= 32767
      if s.c[1].score:
        s.fix.scale_exponent @= U_SCALE
        s.fix.limit          @= Bits31( -1 )
      elif s.c[1].narrow:
        s.fix.scale_exponent @= zext( s.c[1].exp, EXPONENT_BITS ) - 133
        s.fix.limit          @= 127

    @update_ff
    def ff_fix():
      if s.go:
        s.v2 <<= s.v1
        if s.c[1].fix:
          s.v2 <<= s.fix.out

    # Keys whose unsigned order is that of scores, and of FP32 numbers, where the zeros are equal

    @update
    def up_key():
      s.key @= concat( ~s.v2[31], s.v2[0:31] )
      if s.c[2].argmax:
        if s.v2[31] & ( s.v2[0:31] != 0 ):
          s.key @= ~s.v2
        else:
          s.key @= concat( Bits1( 1 ), s.v2[0:31] )
      if ~s.used2:
        s.key @= 0

    # Stage 3: square, pack, or the distance from the maximum, which fits 32 bits without a sign

    s.size  = Wire( 16 )
    s.below = Wire( 32 )
    s.v3    = Wire( 32 )

    @update
    def up_distance():
      s.size  @= s.v2[0:16]
      if s.v2[15]:
        s.size @= ~s.v2[0:16] + 1
      s.below @= s.top - s.v2
      if ( s.below > NOTHING ) | ~s.used2:
        s.below @= NOTHING

    @update_ff
    def ff_distance():
      if s.go:
        s.v3 <<= s.v2
        if s.c[2].square:
          s.v3 <<= 0
          if s.used2:
            s.v3 <<= zext( s.size, 32 ) * zext( s.size, 32 )
        elif s.c[2].pack:
          s.v3 <<= concat( Bits8( 0 ), s.c[2].exp, s.v2[0:16] )
        elif s.c[2].arg:
          s.v3 <<= s.below

    # Stage 4: 2**-u

    s.power = Exp2Neg()
    s.power.u //= s.v3[0:U_BITS]
    s.v4    = Wire( 32 )
    s.addend //= s.v4

    @update_ff
    def ff_power():
      if s.go:
        s.v4 <<= s.v3
        if s.c[3].arg:
          s.v4 <<= zext( s.power.out, 32 )

    # Stage 5: to FP32

    s.to_float = IntToFp32( real_bits )
    s.to_float.in_ //= s.v4[0:real_bits]
    s.v5    = Wire( 32 )

    @update_ff
    def ff_float():
      if s.go:
        s.v5 <<= s.v4
        if s.c[4].prob:
          s.v5 <<= s.to_float.out

    # Stage 6: multiply again

    s.mul6  = Fp32Mul()
    s.mul6.a //= lambda: s.y[4] if s.c[5].rope else s.v5
    s.mul6.b //= s.b[4]
    s.v6    = Wire( 32 )
    s.w6    = Wire( 32 )

    @update_ff
    def ff_again():
      if s.go:
        s.v6 <<= s.v5
        s.w6 <<= s.b[4]
        if s.c[5].rope | s.c[5].chain:
          s.w6 <<= concat( s.mul6.out[31] ^ s.c[5].negate, s.mul6.out[0:31] )

    # Stage 7: add

    s.add   = Fp32Add()
    s.add.a //= s.v6
    s.add.b //= s.w6

    @update_ff
    def ff_add():
      if s.go:
        s.out <<= s.v6
        if s.c[6].plus:
          s.out <<= s.add.out
        elif s.c[6].chain:
          s.out <<= s.w6
        if ~s.used6:
          s.out <<= 0

  def line_trace( s ):
    return f"{s.out}"
