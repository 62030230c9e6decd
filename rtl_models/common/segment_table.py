"""A function as 64 straight lines: a table of 64 bases and slopes, one small multiplier, one subtraction."""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass

from npu.arch.numerics import tables

SEGMENT_BITS = 6
SLOPE_BITS   = 14
MOST_LOW     = 11    # bits, of all tables

class SegmentTable( Component ):
  """out = base[segment] - ( slope[segment] * low >> low_bits ), units of 2**-20. Combinational.

  Parameters
  ----------
  name
    Of the table in `npu.arch.numerics.tables`: EXP2NEG, RECIPROCAL, RSQRT_EVEN, RSQRT_ODD.
  low_bits
    Bits of the argument below those that choose the segment.
  """

  def construct( s, name, low_bits ):
    s.set_metadata( VerilogTranslationPass.explicit_module_name, f"SegmentTable_{name}" )
    bases, slopes = getattr( tables, f"{name}_BASE" ), getattr( tables, f"{name}_SLOPE" )
    out_bits  = tables.FRACTION_BITS
    word_bits = out_bits + SLOPE_BITS
    wide      = SLOPE_BITS + MOST_LOW

    s.segment = InPort( SEGMENT_BITS )
    s.low     = InPort( low_bits )
    s.out     = OutPort( out_bits )

    s.rom     = [ Wire( word_bits ) for _ in range( 1 << SEGMENT_BITS ) ]
    s.word    = Wire( word_bits )

    for i in range( 1 << SEGMENT_BITS ):
      s.rom[i] //= int( bases[i] ) << SLOPE_BITS | int( slopes[i] )

    @update
    def up_line():
      s.word @= s.rom[s.segment]
      s.out  @= ( s.word[SLOPE_BITS:word_bits]
                  - trunc( ( zext( s.word[0:SLOPE_BITS], wide ) * zext( s.low, wide ) ) >> low_bits, out_bits ) )

  def line_trace( s ):
    return f"{s.out}"
