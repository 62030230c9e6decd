"""1 / x in a pipeline of five steps: a table of 64 segments and one Newton step (`special.reciprocal`).

Costs the table, a multiplier of 15 x 11 bits, two FP32 multipliers and two FP32 adders; one of each, used twice, would
take ten cycles per value.
"""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass

from npu.arch.numerics import tables
from npu.arch.numerics.fp32 import BIAS
from rtl_models.attention.shape import K_BITS
from rtl_models.common.delay import Delay
from rtl_models.common.fp32 import Fp32Add, Fp32AddExponent, Fp32Mul, IntToFp32
from rtl_models.common.segment_table import SegmentTable

STEPS    = 4     # registers; the last step's result is not registered
LOW_BITS = 11    # of the fraction, that interpolate

class ReciprocalSeed( Component ):
  """A first guess of 1 / 1.fraction, as binary32 in (0.5, 1]."""

  def construct( s ):
    s.set_metadata( VerilogTranslationPass.explicit_module_name, "ReciprocalSeed" )
    t_bits  = tables.FRACTION_BITS
    signed  = t_bits + 2
    s.fraction = InPort( 23 )
    s.out      = OutPort( 32 )

    s.lines    = SegmentTable( "RECIPROCAL", LOW_BITS )
    s.to_float = IntToFp32( signed )
    s.scale    = Fp32AddExponent( K_BITS )
    s.lines.segment //= s.fraction[17:23]
    s.lines.low     //= s.fraction[6:17]
    s.scale.x //= s.to_float.out
    s.scale.k //= ( 1 << K_BITS ) - t_bits
    s.out     //= s.scale.out

    @update
    def up_sign():
      s.to_float.in_ @= zext( s.lines.out, signed )

  def line_trace( s ):
    return f"{s.out}"

class AttentionReciprocal( Component ):
  """`out` is 1 / x of four steps ago; x is positive and normal."""

  def construct( s ):
    s.set_metadata( VerilogTranslationPass.explicit_module_name, "AttentionReciprocal" )
    ONE = BIAS << 23

    # Interface

    s.go  = InPort()
    s.x   = InPort( 32 )
    s.out = OutPort( 32 )

    # Components

    s.seed      = ReciprocalSeed()
    s.times_m   = Fp32Mul()
    s.from_one  = Fp32Add()
    s.times_y   = Fp32Mul()
    s.correct   = Fp32Add()
    s.scale     = Fp32AddExponent( K_BITS )
    s.exponents = Delay( 8, STEPS )
    s.guesses   = Delay( 32, STEPS )         # in step with the error's way
    s.m         = Wire( 32 )
    s.error     = Wire( 32 )
    s.rest      = Wire( 32 )
    s.change    = Wire( 32 )

    # y0 + y0 * ( 1 - m * y0 )

    s.exponents.go  //= s.go
    s.exponents.in_ //= s.x[23:31]
    s.guesses.go    //= s.go
    s.seed.fraction //= s.x[0:23]
    s.y0 = Wire( 32 )
    s.y0 //= s.guesses.in_
    s.seed.out      //= s.y0
    s.times_m.a     //= s.m
    s.times_m.b     //= s.guesses.out[1]
    s.from_one.a    //= ONE
    s.times_y.a     //= s.guesses.out[3]
    s.times_y.b     //= s.rest
    s.correct.b     //= s.change
    s.scale.x       //= s.correct.out
    s.out           //= s.scale.out
    s.correct.a     //= s.guesses.out[4]

    @update
    def up_controls():
      s.from_one.b @= concat( ~s.error[31], s.error[0:31] )
      s.scale.k    @= BIAS - zext( s.exponents.out[4], K_BITS )

    @update_ff
    def ff_steps():
      if s.go:
        s.m          <<= concat( Bits1( 0 ), Bits8( BIAS ), s.x[0:23] )
        s.error      <<= s.times_m.out
        s.rest       <<= s.from_one.out
        s.change     <<= s.times_y.out

  def line_trace( s ):
    return f"{s.out}"
