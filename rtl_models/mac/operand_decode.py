"""A 16-bit operand of the multiplier array as sign, magnitude and exponent. Costs one 16-bit negation."""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass

from rtl_models.mac.column import WEIGHT_BITS

class OperandDecode( Component ):
  """Integer (two's complement), BF16 (`floating`) or FP16 (`floating` and `half`) to `MacColumn`'s format.

  Floating zeros and subnormals have magnitude and exponent zero.
  """

  def construct( s ):
    s.set_metadata( VerilogTranslationPass.explicit_module_name, "OperandDecode" )
    s.in_      = InPort( 16 )
    s.floating = InPort()
    s.half     = InPort()
    s.out      = OutPort( WEIGHT_BITS )
    s.mag      = Wire( 16 )
    s.exp      = Wire( 8 )

    @update
    def up_decode():
      s.exp @= 0
      s.mag @= s.in_
      if s.floating:
        if s.half:
          s.exp @= zext( s.in_[10:15], 8 )
          s.mag @= concat( Bits5( 0 ), Bits1( 1 ), s.in_[0:10] )
        else:
          s.exp @= s.in_[7:15]
          s.mag @= concat( Bits8( 0 ), Bits1( 1 ), s.in_[0:7] )
        if s.exp == 0:
          s.mag @= 0
      elif s.in_[15]:
        s.mag @= ~s.in_ + 1
      s.out @= concat( s.in_[15], s.mag, s.exp )
