"""2**-u from a table of 64 segments: combinational, bit for bit `npu.arch.numerics.special.exp2neg`.

Costs a table of 64 x 34 bits, a multiplier of 14 x 6 bits and a shifter. A table without the multiplier would need
4,096 entries for the same error.
"""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass

from npu.arch.numerics import tables
from npu.arch.numerics.special import P_FRACTION_BITS, U_FRACTION_BITS, U_MAX
from rtl_models.common.segment_table import SEGMENT_BITS, SegmentTable

U_BITS = U_MAX.bit_length()
P_BITS = P_FRACTION_BITS + 1

class Exp2Neg( Component ):
  """out = 2**-u: `u` has 12 fraction bits and is at most U_MAX; `out` has 15 fraction bits, 0 to 32768."""

  def construct( s ):
    s.set_metadata( VerilogTranslationPass.explicit_module_name, "Exp2Neg" )
    t_bits  = tables.FRACTION_BITS
    # The value is shifted right by the integer part and this: the last place is for rounding.
    places  = t_bits - P_FRACTION_BITS - 1
    low     = U_FRACTION_BITS - SEGMENT_BITS

    s.u     = InPort( U_BITS )
    s.out   = OutPort( P_BITS )

    s.lines   = SegmentTable( "EXP2NEG", low )
    s.moved   = Wire( t_bits )
    s.rounded = Wire( t_bits )
    s.lines.segment //= s.u[low:U_FRACTION_BITS]
    s.lines.low     //= s.u[0:low]

    @update
    def up_shift():
      s.moved   @= ( s.lines.out >> places ) >> zext( s.u[U_FRACTION_BITS:U_BITS], t_bits )
      s.rounded @= ( s.moved + 1 ) >> 1
      s.out     @= s.rounded[0:P_BITS]

  def line_trace( s ):
    return f"{s.u}:{s.out}"
