"""The largest of several unsigned numbers: a tree of comparators."""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass

class Larger( Component ):
  """The larger of two numbers."""

  def construct( s, nbits ):
    s.set_metadata( VerilogTranslationPass.explicit_module_name, f"Larger_{nbits}" )
    s.a   = InPort( nbits )
    s.b   = InPort( nbits )
    s.out = OutPort( nbits )

    @update
    def up_larger():
      s.out @= s.a
      if s.b > s.a:
        s.out @= s.b

class Largest( Component ):
  """The largest of `count`."""

  def construct( s, nbits, count ):
    s.set_metadata( VerilogTranslationPass.explicit_module_name, f"Largest_{nbits}_{count}" )
    s.in_    = [ InPort( nbits ) for _ in range( count ) ]
    s.out    = OutPort( nbits )

    s.larger = [ Larger( nbits ) for _ in range( count - 1 ) ]
    nodes    = list( s.in_ )
    for node in s.larger:
      node.a //= nodes.pop( 0 )
      node.b //= nodes.pop( 0 )
      nodes.append( node.out )
    s.out //= nodes[0]

  def line_trace( s ):
    return f"{s.out}"
