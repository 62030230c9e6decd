"""1 / x and 1 / sqrt( x ) in one pipeline (`npu.arch.numerics.special.reciprocal` and `rsqrt`).

Costs three tables, three FP32 multipliers and two adders. The two functions share all but the tables; a divider
would be smaller and take 24 cycles per result.

| stage | reciprocal                | root                              |
|-------|---------------------------|-----------------------------------|
| 1     | seed from its table       | seed from its table, odd or even  |
| 2     | seed y0 to FP32           | seed y0 to FP32                   |
| 3     | m * y0                    | v * y0                            |
| 4     |                           | times y0, halved                  |
| 5     | 1 - that                  | 1.5 - that                        |
| 6     | times y0                  | times y0                          |
| 7     | plus y0                   |                                   |
| 8     | exponent                  | exponent                          |
"""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass

from rtl_models.common.fp32 import Fp32Add, Fp32AddExponent, Fp32Mul, IntToFp32
from rtl_models.common.segment_table import SegmentTable

RECIPROCAL_STAGES = 8
K_BITS            = 10

class ReciprocalPipe( Component ):
  """A new x every cycle in which `go`, its result `RECIPROCAL_STAGES` such cycles later.

  Ports
  -----
  x
    FP32. Zero gives the largest finite number.
  root
    0 gives 1 / x, 1 gives 1 / sqrt( |x| ).
  """

  def construct( s ):
    s.set_metadata( VerilogTranslationPass.explicit_module_name, "ReciprocalPipe" )

    # Interface

    s.go   = InPort()
    s.x    = InPort( 32 )
    s.root = InPort()
    s.out  = OutPort( 32 )

    # What travels beside the arithmetic: index i is behind stage i + 1

    s.roots = [ Wire()         for _ in range( 7 ) ]
    s.sign  = [ Wire()         for _ in range( 7 ) ]
    s.zero  = [ Wire()         for _ in range( 7 ) ]
    s.k     = [ Wire( K_BITS ) for _ in range( 7 ) ]    # what stage 8 adds to the exponent
    s.y0    = [ Wire( 32 )     for _ in range( 5 ) ]    # from stage 2 on: index i is behind stage i + 2

    # Stage 1: seed

    s.plain = SegmentTable( "RECIPROCAL", 11 )
    s.even  = SegmentTable( "RSQRT_EVEN", 11 )
    s.odd   = SegmentTable( "RSQRT_ODD", 11 )
    for seed in ( s.plain, s.even, s.odd ):
      seed.segment //= s.x[17:23]
      seed.low     //= s.x[6:17]
    s.is_odd = Wire()                          # the exponent without its bias
    s.root_k = Wire( K_BITS )
    s.seed1  = Wire( 21 )
    s.v1     = Wire( 32 )                      # m in [1, 2), or v in [1, 4)

    @update
    def up_exponent():
      s.is_odd @= s.root & ~s.x[23]
      s.root_k @= 127 - zext( s.x[23:31], K_BITS ) + zext( s.is_odd, K_BITS )

    # Stage 2: to FP32, in units of 2**-20

    s.to_float = IntToFp32( 21 )
    s.to_float.in_ //= s.seed1
    s.v2 = Wire( 32 )

    # Stage 3

    s.mul3 = Fp32Mul()
    s.mul3.a //= s.v2
    s.mul3.b //= s.y0[0]
    s.t3   = Wire( 32 )

    # Stage 4

    s.mul4 = Fp32Mul()
    s.mul4.a //= s.t3
    s.mul4.b //= s.y0[1]
    s.t4   = Wire( 32 )                        # with its sign changed

    # Stage 5

    s.add5 = Fp32Add()
    s.add5.a //= lambda: Bits32( 0x3FC00000 ) if s.roots[3] else Bits32( 0x3F800000 )
    s.add5.b //= s.t4
    s.u5   = Wire( 32 )

    # Stage 6

    s.mul6 = Fp32Mul()
    s.mul6.a //= s.y0[3]
    s.mul6.b //= s.u5
    s.w6   = Wire( 32 )

    # Stage 7

    s.add7 = Fp32Add()
    s.add7.a //= s.y0[4]
    s.add7.b //= s.w6
    s.y7   = Wire( 32 )

    # Stage 8

    s.raise8 = Fp32AddExponent( K_BITS )
    s.raise8.x //= s.y7
    s.raise8.k //= s.k[6]

    @update_ff
    def ff_refine():
      if s.go:
        s.v1    <<= concat( Bits1( 0 ), s.is_odd, Bits7( 0 ) if s.is_odd else Bits7( 0x7F ), s.x[0:23] )
        s.seed1 <<= zext( s.plain.out, 21 )
        if s.root:
          s.seed1 <<= zext( s.even.out, 21 )
          if s.is_odd:
            s.seed1 <<= zext( s.odd.out, 21 )
        s.v2 <<= s.v1
        s.t3 <<= s.mul3.out
        s.t4 <<= concat( ~s.t3[31], s.t3[0:31] )
        if s.roots[2]:
          s.t4 <<= concat( ~s.mul4.out[31], s.mul4.out[23:31] - 1, s.mul4.out[0:23] )
        s.u5 <<= s.add5.out
        s.w6 <<= s.mul6.out
        s.y7 <<= s.add7.out
        if s.roots[5]:
          s.y7 <<= s.w6
        s.out <<= concat( s.raise8.out[31] | s.sign[6], s.raise8.out[0:31] )
        if s.zero[6]:
          s.out <<= concat( s.sign[6], Bits31( 0x7F7FFFFF ) )

    # One block drives all of an array.
    @update_ff
    def ff_beside():
      if s.go:
        s.roots[0] <<= s.root
        s.sign[0]  <<= s.x[31] & ~s.root
        s.zero[0]  <<= s.x[23:31] == 0
        s.k[0]     <<= s.root_k
        if s.root:
          # The difference is even: half of it, with its sign.
          s.k[0]   <<= concat( s.root_k[9], s.root_k[1:10] )
        for i in range( 1, 7 ):
          s.roots[i] <<= s.roots[i - 1]
          s.sign[i]  <<= s.sign[i - 1]
          s.zero[i]  <<= s.zero[i - 1]
          s.k[i]     <<= s.k[i - 1]
        s.y0[0] <<= concat( s.to_float.out[31], s.to_float.out[23:31] - 20, s.to_float.out[0:23] )
        for i in range( 1, 5 ):
          s.y0[i] <<= s.y0[i - 1]

  def line_trace( s ):
    return f"{s.out}"
