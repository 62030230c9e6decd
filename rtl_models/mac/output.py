"""One lane of the array's output: accumulate, scale, bias, residual.

Costs the two accumulators of a column (m_max integers of `acc_bits` and m_max FP32), one FP32
multiplier and three FP32 adders. One adder used three times would save two thirds of that and take
three cycles per row in the precisions that need all three.

Pipeline, one row per cycle when `go`; stages are counted from the multiplier's first:

    stage 4   integer accumulation over K (of the group, in group modes)
    stage 5   integer to FP32
    stage 6   times the scale; or, floating modes, times 2**top
    stage 7   FP32 accumulation over groups, or over K in floating modes
    stage 8   times the exponent of the activation row (integer modes)
    stage 9   plus bias
    stage 10  plus residual
"""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass

from rtl_models.common.fp32 import Fp32Add, Fp32AddExponent, Fp32Mul, IntToFp32
from rtl_models.common.larger_exponent import EXP_BITS
from rtl_models.mac.column import mk_total_bits

K_BITS = 10    # signed exponents that are added: -512..511

class MacOutput( Component ):
  """`total` and `top` come from a MacColumn; the row that stands in stage i - 1 meets the controls of stage i.

  Ports
  -----
  valid3, first3, row3
    The row that enters stage 4: whether there is one, whether it starts a sum, its index.
  valid6, first6, row6
    The same for stage 7.
  """

  def construct( s, cfg ):
    d = cfg.derived
    total_bits = mk_total_bits( cfg.n )
    s.set_metadata( VerilogTranslationPass.explicit_module_name, f"MacOutput_n{cfg.n}_m{cfg.m_max}_a{d.acc_bits}" )
    ROW = mk_bits( d.row_index_bits )

    # Interface

    s.go         = InPort()
    s.floating   = InPort()
    s.accumulate = InPort()             # stage 7 adds up: group and floating modes
    s.total      = InPort( total_bits )
    s.top        = InPort( EXP_BITS )
    s.top_bias   = InPort( K_BITS )     # taken off `top`: twice the format's bias, and the fraction bits
    s.valid3     = InPort()
    s.first3     = InPort()
    s.row3       = InPort( ROW )
    s.scale      = InPort( 32 )
    s.valid6     = InPort()
    s.first6     = InPort()
    s.row6       = InPort( ROW )
    s.exponent   = InPort( K_BITS )
    s.bias_en    = InPort()
    s.bias       = InPort( 32 )
    s.res_en     = InPort()
    s.res        = InPort( 32 )
    s.out        = OutPort( 32 )

    # Stage 4: integer accumulation

    s.acc  = [ Wire( d.acc_bits ) for _ in range( cfg.m_max ) ]
    s.wide = Wire( d.acc_bits )
    s.sum  = Wire( d.acc_bits )
    s.int4 = Wire( d.acc_bits )
    s.top4 = Wire( EXP_BITS )

    s.wide[0:total_bits] //= s.total
    for b in range( total_bits, d.acc_bits ):
      s.wide[b] //= s.total[total_bits - 1]

    @update
    def up_accumulate():
      s.sum @= s.wide
      if ~s.floating & ~s.first3:
        s.sum @= s.wide + s.acc[s.row3]

    @update_ff
    def ff_accumulate():
      if s.go:
        s.int4 <<= s.sum
        s.top4 <<= s.top
        if s.valid3:
          s.acc[s.row3] <<= s.sum

    # Stage 5: to FP32

    s.to_float = IntToFp32( d.acc_bits )
    s.to_float.in_ //= s.int4
    s.f5   = Wire( 32 )
    s.top5 = Wire( EXP_BITS )

    @update_ff
    def ff_float():
      if s.go:
        s.f5   <<= s.to_float.out
        s.top5 <<= s.top4

    # Stage 6: scale

    s.mul = Fp32Mul()
    s.mul.a //= s.f5
    s.mul.b //= s.scale
    s.raise_ = Fp32AddExponent( K_BITS )
    s.raise_.x //= s.f5
    s.f6 = Wire( 32 )

    @update
    def up_top():
      s.raise_.k @= zext( s.top5, K_BITS ) - s.top_bias

    @update_ff
    def ff_scale():
      if s.go:
        if s.floating:
          s.f6 <<= s.raise_.out
        else:
          s.f6 <<= s.mul.out

    # Stage 7: FP32 accumulation

    s.y   = [ Wire( 32 ) for _ in range( cfg.m_max ) ]
    s.add = Fp32Add()
    s.add.a //= s.f6
    s.f7 = Wire( 32 )

    @update
    def up_y():
      s.add.b @= 0
      if ~s.first6:
        s.add.b @= s.y[s.row6]

    @update_ff
    def ff_y():
      if s.go:
        s.f7 <<= s.f6
        if s.accumulate:
          s.f7 <<= s.add.out
        if s.valid6:
          s.y[s.row6] <<= s.add.out

    # Stage 8: the row's exponent

    s.lower = Fp32AddExponent( K_BITS )
    s.lower.x //= s.f7
    s.lower.k //= s.exponent
    s.f8 = Wire( 32 )

    @update_ff
    def ff_exponent():
      if s.go:
        s.f8 <<= s.lower.out
        if s.floating:
          s.f8 <<= s.f7

    # Stage 9: bias

    s.add_bias = Fp32Add()
    s.add_bias.a //= s.f8
    s.add_bias.b //= s.bias
    s.f9 = Wire( 32 )

    @update_ff
    def ff_bias():
      if s.go:
        s.f9 <<= s.f8
        if s.bias_en:
          s.f9 <<= s.add_bias.out

    # Stage 10: residual

    s.add_res = Fp32Add()
    s.add_res.a //= s.f9
    s.add_res.b //= s.res

    @update_ff
    def ff_residual():
      if s.go:
        s.out <<= s.f9
        if s.res_en:
          s.out <<= s.add_res.out

  def line_trace( s ):
    return f"{s.out}"
