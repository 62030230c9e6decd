"""The largest exponent of a segment, one row a cycle."""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass

from rtl_models.common.larger_exponent import EXP_BITS, LargerExponent

class ExponentScan( Component ):
  """Costs a tree of n comparators of 8 bits, and one for the rows.

  Ports
  -----
  en, field, keep, first
    Exponents of a row, the lanes that count, and whether it begins a segment.
  out
    With the last row: the segment's largest biased exponent.
  """

  def construct( s, cfg ):
    n = cfg.n
    s.set_metadata( VerilogTranslationPass.explicit_module_name, f"ExponentScan_n{n}" )

    # Interface

    s.en    = InPort()
    s.field = [ InPort( 8 ) for _ in range( n ) ]
    s.keep  = InPort( n )
    s.first = InPort()
    s.out   = OutPort( 8 )

    # Components

    s.larger = [ LargerExponent() for _ in range( n - 1 ) ]
    s.used   = [ Wire( EXP_BITS ) for _ in range( n ) ]
    s.most   = Wire( EXP_BITS )               # of the row
    s.best   = Wire( EXP_BITS )               # of the rows so far
    s.now    = Wire( EXP_BITS )

    # Connections

    nodes = list( s.used )
    for node in s.larger:
      node.a //= nodes.pop( 0 )
      node.b //= nodes.pop( 0 )
      nodes.append( node.out )
    s.most //= nodes[0]

    # Logic

    @update
    def up_fields():
      for c in range( n ):
        s.used[c] @= 0
        if s.keep[c]:
          s.used[c] @= zext( s.field[c], EXP_BITS )

    @update
    def up_best():
      s.now @= s.most
      if ~s.first & ( s.best > s.most ):
        s.now @= s.best
      s.out @= trunc( s.now, 8 )

    @update_ff
    def ff_best():
      if s.en:
        s.best <<= s.now

  def line_trace( s ):
    return f"{s.best}"
