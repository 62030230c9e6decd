"""BF16 and FP16 to and from binary32 (`npu.arch.numerics.small_float`)."""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass

from npu.arch.isa import Convert

class SmallFloatConvert( Component ):
  """out = x in another format, as `npu.arch.isa.Convert` says. 16-bit patterns stand in bits 15:0. Combinational.

  To 16 bits it rounds to nearest even and saturates; below the smallest normal number is zero, both ways.
  """

  def construct( s ):
    s.set_metadata( VerilogTranslationPass.explicit_module_name, "SmallFloatConvert" )
    FP32_BF16, FP32_FP16, BF16_FP32 = int( Convert.FP32_BF16 ), int( Convert.FP32_FP16 ), int( Convert.BF16_FP32 )
    BF16_ONE, BF16_MOST = 0x0080, 0x7F7F       # smallest normal and largest finite number
    FP16_MOST  = 0x7BFF
    REBIAS     = ( 127 - 15 ) << 10            # between exponents of binary32 and of FP16
    FP16_LEAST = 0x0400 + REBIAS
    FP16_TOP   = FP16_MOST + REBIAS
    REBIAS_LOW = Bits15( REBIAS % ( 1 << 15 ) )

    s.x      = InPort( 32 )
    s.mode   = InPort( 2 )
    s.out    = OutPort( 32 )

    s.size   = Wire( 32 )                      # the magnitude, zero for subnormals
    s.up_b   = Wire( 32 )                      # what rounds it, at BF16's and FP16's last place
    s.up_h   = Wire( 32 )
    s.b      = Wire( 32 )
    s.h      = Wire( 32 )

    # Rounding the magnitude as one integer carries from the fraction into the exponent.
    @update
    def up_round():
      s.size @= 0
      if s.x[23:31] != 0:
        s.size @= zext( s.x[0:31], 32 )
      s.up_b @= s.size + 0x7FFF + zext( s.size[16], 32 )
      s.up_h @= s.size + 0x0FFF + zext( s.size[13], 32 )
      s.b    @= s.up_b >> 16
      s.h    @= s.up_h >> 13

    @update
    def up_pack():
      if s.mode == FP32_BF16:
        s.out @= concat( Bits16( 0 ), s.x[31], s.b[0:15] )
        if s.b < BF16_ONE:
          s.out @= concat( Bits16( 0 ), s.x[31], Bits15( 0 ) )
        elif s.b > BF16_MOST:
          s.out @= concat( Bits16( 0 ), s.x[31], Bits15( BF16_MOST ) )
      elif s.mode == FP32_FP16:
        s.out @= concat( Bits16( 0 ), s.x[31], s.h[0:15] - REBIAS_LOW )
        if s.h < FP16_LEAST:
          s.out @= concat( Bits16( 0 ), s.x[31], Bits15( 0 ) )
        elif s.h > FP16_TOP:
          s.out @= concat( Bits16( 0 ), s.x[31], Bits15( FP16_MOST ) )
      elif s.mode == BF16_FP32:
        s.out @= concat( s.x[0:16], Bits16( 0 ) )
        if s.x[7:15] == 0:
          s.out @= concat( s.x[15], Bits31( 0 ) )
      else:
        s.out @= concat( s.x[15], zext( s.x[10:15], 8 ) + 112, s.x[0:10], Bits13( 0 ) )
        if s.x[10:15] == 0:
          s.out @= concat( s.x[15], Bits31( 0 ) )

  def line_trace( s ):
    return f"{s.x}:{s.out}"
