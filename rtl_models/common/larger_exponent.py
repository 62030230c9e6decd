"""The larger of two exponents: what the trees of the MAC columns and the vector unit's scan are made of."""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass

EXP_BITS = 9       # the sum of two biased exponents of 8 bits

class LargerExponent( Component ):
  """The larger of two exponents: a node of a tree, whose depth grows with log2( n ) comparators and not with n."""

  def construct( s ):
    s.set_metadata( VerilogTranslationPass.explicit_module_name, "LargerExponent" )
    s.a   = InPort( EXP_BITS )
    s.b   = InPort( EXP_BITS )
    s.out = OutPort( EXP_BITS )

    @update
    def up_larger():
      s.out @= s.a
      if s.b > s.a:
        s.out @= s.b
