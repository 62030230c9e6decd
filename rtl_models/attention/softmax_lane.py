"""One lane of the online softmax: an exact dot product to a 16-bit probability.

Costs an FP32 multiplier, an `Exp2Neg` and the converters. With T tiles of keys per chunk, what a row has in common (its
maximum, its largest term) is known T steps after the lane's first part of it: the lane waits as long.

    step 1         the dot product, from its memory
    step 2         to FP32
    step 3         times factor
    step 4         times 2**(exponents of query and key)
    step 5         to an integer with 12 fraction bits; keys after the query become the least number
    step 6 + T     waits for the row's maximum
    step 7 + T     below the maximum by
    step 8 + T     2**-that
    step 9 + T     to FP32, times 2**(exponent of the value)
    step 10 + 2T   waits for the row's largest exponent
    then           quantised
"""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass

from npu.arch.numerics.special import U_FRACTION_BITS, U_MAX
from rtl_models.attention.shape import DOT_BITS, K_BITS
from rtl_models.common.delay import Delay
from rtl_models.common.exp2neg import P_BITS, U_BITS, Exp2Neg
from rtl_models.common.fp32 import Fp32AddExponent, Fp32Mul, Fp32ToFixed, IntToFp32

SCORE_BITS = 32                                   # biased: 2**31 stands for 0, and 0 for no key
TOP_BITS   = SCORE_BITS - U_FRACTION_BITS + 1     # a score rounded up

class AttentionSoftmaxLane( Component ):
  """What meets the lane in a step comes with the number of steps that its row has behind it.

  Ports
  -----
  dot
    Step 0.
  score_k
    Step 3: the power of two of a score.
  sees
    Step 4: the query may see this key.
  score
    Behind step 5, biased.
  top
    Step 6 + T: the row's maximum, biased and without fraction bits.
  p
    Behind step 8 + T.
  term_k
    Step 8 + T: the power of two of a term.
  exponent
    Of the term, behind step 9 + T.
  w_scale
    Step 10 + 2T: power of two of the result's lowest bit.
  w
    Step 10 + 2T.
  """

  def construct( s, tiles ):
    s.set_metadata( VerilogTranslationPass.explicit_module_name, f"AttentionSoftmaxLane_t{tiles}" )
    far  = TOP_BITS + U_FRACTION_BITS             # bits of a difference
    p_signed = P_BITS + 1
    u_max    = U_MAX
    wait     = tiles + 1
    twelve   = U_FRACTION_BITS

    # Interface

    s.go       = InPort()
    s.dot      = InPort( DOT_BITS )
    s.factor   = InPort( 32 )
    s.score_k  = InPort( K_BITS )
    s.sees     = InPort()
    s.score    = OutPort( SCORE_BITS )
    s.top      = InPort( TOP_BITS )
    s.p        = OutPort( P_BITS )
    s.term_k   = InPort( K_BITS )
    s.exponent = OutPort( 8 )
    s.w_scale  = InPort( K_BITS )
    s.w        = OutPort( 16 )

    # Components

    s.to_float = IntToFp32( DOT_BITS )
    s.mul      = Fp32Mul()
    s.scale    = Fp32AddExponent( K_BITS )
    s.to_fixed = Fp32ToFixed( SCORE_BITS )
    s.scores   = Delay( SCORE_BITS, wait )
    s.exp2neg  = Exp2Neg()
    s.p_float  = IntToFp32( p_signed )
    s.raise_   = Fp32AddExponent( K_BITS )
    s.terms    = Delay( 32, wait )
    s.quantize = Fp32ToFixed( 16 )

    # Scores

    s.x1 = Wire( DOT_BITS )
    s.x2 = Wire( 32 )
    s.x3 = Wire( 32 )
    s.x4 = Wire( 32 )
    s.x5 = Wire( SCORE_BITS )
    s.to_float.in_           //= s.x1
    s.mul.a                  //= s.x2
    s.mul.b                  //= s.factor
    s.scale.x                //= s.x3
    s.scale.k                //= s.score_k
    s.to_fixed.x             //= s.x4
    s.to_fixed.scale_exponent //= ( 1 << K_BITS ) - U_FRACTION_BITS
    s.to_fixed.limit         //= ( 1 << 31 ) - 1
    s.score                  //= s.x5
    s.scores.go              //= s.go
    s.scores.in_             //= s.x5

    @update_ff
    def ff_score():
      if s.go:
        s.x1 <<= s.dot
        s.x2 <<= s.to_float.out
        s.x3 <<= s.mul.out
        s.x4 <<= s.scale.out
        s.x5 <<= 0
        if s.sees:
          s.x5 <<= concat( ~s.to_fixed.out[31], s.to_fixed.out[0:31] )

    # Probabilities

    s.late   = Wire( SCORE_BITS )
    s.below  = Wire( far )
    s.u      = Wire( U_BITS )
    s.none   = Wire()
    s.p8     = Wire( P_BITS )
    s.late      //= s.scores.out[wait]
    s.exp2neg.u //= s.u
    s.p         //= s.p8

    @update
    def up_below():
      s.below @= ( zext( s.top, far ) << twelve ) - zext( s.late, far )

    @update_ff
    def ff_probability():
      if s.go:
        s.u <<= s.below[0:U_BITS]
        if s.below > u_max:
          s.u <<= u_max
        s.none <<= s.late == 0
        s.p8   <<= s.exp2neg.out
        if s.none:
          s.p8 <<= 0

    # Terms

    s.term = Wire( 32 )
    s.p_float.in_  //= lambda: zext( s.p8, p_signed )
    s.raise_.x     //= s.p_float.out
    s.raise_.k     //= s.term_k
    s.exponent     //= s.term[23:31]
    s.terms.go     //= s.go
    s.terms.in_    //= s.term
    s.quantize.x   //= s.terms.out[wait]
    s.quantize.scale_exponent //= s.w_scale
    s.quantize.limit          //= ( 1 << 15 ) - 1
    s.quantize.out            //= s.w

    @update_ff
    def ff_term():
      if s.go:
        s.term <<= s.raise_.out

  def line_trace( s ):
    return f"{s.p8}"
