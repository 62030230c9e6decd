"""One lane of the running output: o * 2**drop + sum * 2**k, at the end times 1 / l.

Costs an FP32 adder and an FP32 multiplier. Pipeline, one row per step, counted from the multiplier's first stage:

    stage 5   integer to FP32
    stage 6   times a power of two: the sum, and the output so far
    stage 7   add
    stage 8   times the reciprocal of the row's mass, after its last chunk
"""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass

from rtl_models.attention.shape import DOT_BITS, K_BITS
from rtl_models.common.fp32 import Fp32Add, Fp32AddExponent, Fp32Mul, IntToFp32

class AttentionOutput( Component ):
  """`sum` stands behind stage 4; what meets it in stage i comes with the row that stands behind stage i - 1.

  Ports
  -----
  sum_k, o_k
    Stage 6: powers of two of the sum and of the output so far.
  fresh, o
    Stage 6: there is no output so far; the output so far.
  ready, factor
    Stage 8: this is the last chunk; the reciprocal.
  """

  def construct( s ):
    s.set_metadata( VerilogTranslationPass.explicit_module_name, "AttentionOutput" )

    # Interface

    s.go     = InPort()
    s.sum    = InPort( DOT_BITS )
    s.sum_k  = InPort( K_BITS )
    s.o_k    = InPort( K_BITS )
    s.fresh  = InPort()
    s.o      = InPort( 32 )
    s.ready  = InPort()
    s.factor = InPort( 32 )
    s.out    = OutPort( 32 )

    # Components

    s.to_float = IntToFp32( DOT_BITS )
    s.scale    = Fp32AddExponent( K_BITS )
    s.lower    = Fp32AddExponent( K_BITS )
    s.add      = Fp32Add()
    s.mul      = Fp32Mul()

    # Logic

    s.f5  = Wire( 32 )
    s.f6  = Wire( 32 )
    s.o6  = Wire( 32 )
    s.f7  = Wire( 32 )
    s.f8  = Wire( 32 )
    s.to_float.in_ //= s.sum
    s.scale.x      //= s.f5
    s.scale.k      //= s.sum_k
    s.lower.x      //= s.o
    s.lower.k      //= s.o_k
    s.add.a        //= s.o6
    s.add.b        //= s.f6
    s.mul.a        //= s.f7
    s.mul.b        //= s.factor
    s.out          //= s.f8

    @update_ff
    def ff_lane():
      if s.go:
        s.f5 <<= s.to_float.out
        s.f6 <<= s.scale.out
        s.o6 <<= s.lower.out
        if s.fresh:
          s.o6 <<= 0
        s.f7 <<= s.add.out
        s.f8 <<= s.f7
        if s.ready:
          s.f8 <<= s.mul.out

  def line_trace( s ):
    return f"{s.out}"
