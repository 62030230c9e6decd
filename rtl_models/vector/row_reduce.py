"""A row of lanes to one value."""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass

from npu.arch.config import clog2

class LargerKey( Component ):
  """The larger of two keys and its lane; of equal ones a's."""

  def construct( s, key_bits, lane_bits ):
    s.set_metadata( VerilogTranslationPass.explicit_module_name, f"LargerKey_{key_bits}_{lane_bits}" )
    s.a        = InPort( key_bits )
    s.a_lane   = InPort( lane_bits )
    s.b        = InPort( key_bits )
    s.b_lane   = InPort( lane_bits )
    s.out      = OutPort( key_bits )
    s.out_lane = OutPort( lane_bits )

    @update
    def up_larger():
      s.out      @= s.a
      s.out_lane @= s.a_lane
      if s.b > s.a:
        s.out      @= s.b
        s.out_lane @= s.b_lane

class RowMax( Component ):
  """The largest of n unsigned keys and the lowest lane that has it: a tree, whose depth grows with log2( n )."""

  def construct( s, n, key_bits ):
    s.set_metadata( VerilogTranslationPass.explicit_module_name, f"RowMax_n{n}_{key_bits}" )
    lane_bits = clog2( n )
    s.key  = [ InPort( key_bits ) for _ in range( n ) ]
    s.out  = OutPort( key_bits )
    s.lane = OutPort( lane_bits )
    s.node = [ LargerKey( key_bits, lane_bits ) for _ in range( n - 1 ) ]

    # Neighbours first, so that the lanes of a are always below those of b.
    level, free = [ ( s.key[c], c ) for c in range( n ) ], iter( s.node )
    while len( level ) > 1:
      above = []
      for ( a, a_lane ), ( b, b_lane ) in zip( level[::2], level[1::2], strict=True ):
        node = next( free )
        connect( node.a, a )
        connect( node.b, b )
        connect( node.a_lane, a_lane )
        connect( node.b_lane, b_lane )
        above.append( ( node.out, node.out_lane ) )
      level = above
    connect( s.out, level[0][0] )
    connect( s.lane, level[0][1] )

  def line_trace( s ):
    return f"{s.out}"

class RowSum( Component ):
  """The sum of n unsigned numbers of 32 bits. Written as a chain; synthesis makes a tree of it."""

  def construct( s, n ):
    s.set_metadata( VerilogTranslationPass.explicit_module_name, f"RowSum_n{n}" )
    out_bits = 32 + clog2( n )
    s.in_ = [ InPort( 32 ) for _ in range( n ) ]
    s.out = OutPort( out_bits )

    @update
    def up_sum():
      s.out @= zext( s.in_[0], out_bits )
      for c in range( 1, n ):
        s.out @= s.out + zext( s.in_[c], out_bits )

  def line_trace( s ):
    return f"{s.out}"
