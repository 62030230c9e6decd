"""Whether a matrix of scratchpad rows lies inside the scratchpad.

Costs a multiplier of 8 x 16 bits and two adders. A unit has one of them and uses it for one operand per cycle; a
running sum, one token row a cycle, would save the multiplier and take up to 64 cycles per operand.
"""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass

END_BITS = 30    # base + 255 * stride + width, without overflow

class RangeCheck( Component ):
  """ok = base + ( rows - 1 ) * stride + width <= spad_rows. Combinational.

  Ports
  -----
  base
    First scratchpad row.
  rows, stride
    Token rows, at least 1 (for 0 `ok` means nothing), and the scratchpad rows from one to the next.
  width
    Scratchpad rows of one token row.
  """

  def construct( s, cfg ):
    s.set_metadata( VerilogTranslationPass.explicit_module_name, f"RangeCheck_r{cfg.derived.spad_rows}" )
    limit    = mk_bits( END_BITS )( cfg.derived.spad_rows )

    s.base   = InPort( 24 )
    s.rows   = InPort( 8 )
    s.stride = InPort( 16 )
    s.width  = InPort( 28 )
    s.ok     = OutPort()

    s.steps  = Wire( 8 )
    s.stop   = Wire( END_BITS )

    @update
    def up_stop():
      s.steps @= s.rows - 1
      s.stop  @= ( zext( s.base, END_BITS ) + zext( s.steps, END_BITS ) * zext( s.stride, END_BITS )
                  + zext( s.width, END_BITS ) )
      s.ok    @= s.stop <= limit

  def line_trace( s ):
    return f"{s.stop}{'' if s.ok else '!'}"
