"""Sigmoid, and the reciprocals and roots of segments: a special-function pipe.

Costs five FP32 multipliers, two adders, one converter and four tables; n/4 of them serve n lanes, so that SWIGLU runs
at n/4 elements per cycle. A pipe per lane would be four times as fast and more than double the vector unit.

| stage | computes                                   |
|-------|--------------------------------------------|
| 1     | |x| * log2( e )                            |
| 2     | to fixed point, 12 fraction bits           |
| 3     | p = 2**-that                               |
| 4     | 1 + p to FP32                              |
| 5..12 | reciprocal (`ReciprocalPipe`)              |
| 13    | times p where x is negative, else times 1  |
"""

import numpy as np
from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass

from npu.arch.numerics.special import LOG2_E, P_FRACTION_BITS, U_FRACTION_BITS, U_MAX
from rtl_models.common.exp2neg import P_BITS, U_BITS, Exp2Neg
from rtl_models.common.fp32 import EXPONENT_BITS, Fp32Mul, Fp32ToFixed, IntToFp32
from rtl_models.vector.reciprocal import RECIPROCAL_STAGES, ReciprocalPipe

SIGMOID_STAGES = RECIPROCAL_STAGES + 5

class SigmoidPipe( Component ):
  """A new x every cycle in which `go`; x and its sigmoid at `gate` and `out` after `SIGMOID_STAGES` such cycles.

  Ports
  -----
  scalar, scalar_x, scalar_root
    Instead of an x: the reciprocal or root of scalar_x, at `scalar_out` `RECIPROCAL_STAGES` cycles later.
  """

  def construct( s ):
    s.set_metadata( VerilogTranslationPass.explicit_module_name, "SigmoidPipe" )
    stages  = SIGMOID_STAGES
    last    = stages - 1
    LOG2E   = Bits32( int( LOG2_E.view( np.uint32 ) ) )
    U_SCALE = mk_bits( EXPONENT_BITS )( -U_FRACTION_BITS )
    U_LIMIT = mk_bits( U_BITS )( U_MAX )
    ONE     = mk_bits( P_BITS + 2 )( 1 << P_FRACTION_BITS )
    wide    = P_BITS + 2                      # 1 + p, and a sign

    # Interface

    s.go          = InPort()
    s.x           = InPort( 32 )
    s.gate        = OutPort( 32 )
    s.out         = OutPort( 32 )
    s.scalar      = InPort()
    s.scalar_x    = InPort( 32 )
    s.scalar_root = InPort()
    s.scalar_out  = OutPort( 32 )

    # x and p travel beside the reciprocal: index i is behind stage i + 1, of p behind stage i + 3

    s.xs = [ Wire( 32 )     for _ in range( stages ) ]
    s.ps = [ Wire( P_BITS ) for _ in range( 9 ) ]

    # Stages 1 to 4

    s.scale  = Fp32Mul()
    s.scale.a //= lambda: concat( Bits1( 0 ), s.x[0:31] )
    s.scale.b //= LOG2E
    s.t1     = Wire( 32 )
    s.fix    = Fp32ToFixed( U_BITS + 1 )
    s.fix.x  //= s.t1
    s.fix.scale_exponent //= U_SCALE
    s.fix.limit //= U_LIMIT
    s.u2     = Wire( U_BITS )
    s.power  = Exp2Neg()
    s.power.u //= s.u2
    s.sum    = IntToFp32( wide )
    s.sum.in_ //= lambda: zext( s.ps[0], wide ) + ONE
    s.d4     = Wire( 32 )

    # Stages 5 to 12

    s.reciprocal = ReciprocalPipe()
    s.reciprocal.go   //= s.go
    s.reciprocal.x    //= lambda: s.scalar_x if s.scalar else s.d4
    s.reciprocal.root //= lambda: s.scalar & s.scalar_root
    s.scalar_out      //= s.reciprocal.out

    # Stage 13; the numerator's conversion has a stage of its own before it.

    s.numerator = IntToFp32( wide )
    s.numerator.in_ //= lambda: zext( s.ps[8], wide ) if s.xs[10][31] else ONE
    s.n12       = Wire( 32 )
    s.final_mul = Fp32Mul()
    s.final_mul.a //= s.n12
    s.final_mul.b //= s.reciprocal.out
    s.gate      //= s.xs[last]

    @update_ff
    def ff_values():
      if s.go:
        s.t1  <<= s.scale.out
        s.u2  <<= trunc( s.fix.out, U_BITS )
        s.d4  <<= s.sum.out
        s.n12 <<= s.numerator.out
        s.out <<= s.final_mul.out

    @update_ff
    def ff_beside():
      if s.go:
        s.xs[0] <<= s.x
        for i in range( 1, stages ):
          s.xs[i] <<= s.xs[i - 1]
        s.ps[0] <<= s.power.out
        for i in range( 1, 9 ):
          s.ps[i] <<= s.ps[i - 1]

  def line_trace( s ):
    return f"{s.out}"
