"""What the lanes find out about a segment: SOFTMAX's maximum, sums and what becomes of them, ARGMAX's search.

    behind stage 2  keys    --> RowMax --> 3: the row's largest --> 4: the segment's, or of the search so far
    behind stage 4  addends --> RowSum --> 5: the row's sum     --> 6: the segment's --> SegmentScalar
"""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass

from npu.arch.config import clog2
from rtl_models.vector.row_reduce import RowMax, RowSum
from rtl_models.vector.segment_scalar import SegmentScalar

SUM_BITS = 36    # of 2**20 probabilities of 16 bits

class SegmentReduce( Component ):
  """Everything moves in cycles with `go`.

  Ports
  -----
  key, addend
    From the lanes, of the rows behind stages 2 and 4.
  v3, first3, last3, largest3, argmax3
    Whether there is a row behind stage 3, and its controls (`mk_control`).
  v5, first5, last5, total5, root5, exp5
    The same behind stage 5.
  index, found
    ARGMAX: the index of lane 0 of the row behind stage 3, and the index of the best so far, with that row.
  fresh
    A segment begins: top and scalar belong to the one before.
  top, top_val
    SOFTMAX's maximum, rounded up to an integer, as a score.
  inv_length, eps
    RMSNORM's constants.
  pipe_x, pipe_val, pipe_root, pipe_out
    To and from the special-function pipe.
  scalar, scalar_val
    The segment's reciprocal or root.
  """

  def construct( s, cfg ):
    n, lg      = cfg.n, clog2( cfg.n )
    total_bits = max( cfg.derived.square_bits, SUM_BITS )
    s.set_metadata( VerilogTranslationPass.explicit_module_name,
                    f"SegmentReduce_n{n}_a{cfg.derived.spad_addr_bits}_t{total_bits}" )

    # Interface

    s.go         = InPort()
    s.key        = [ InPort( 32 ) for _ in range( n ) ]
    s.addend     = [ InPort( 32 ) for _ in range( n ) ]
    s.v3         = InPort()
    s.first3     = InPort()
    s.last3      = InPort()
    s.largest3   = InPort()
    s.argmax3    = InPort()
    s.v5         = InPort()
    s.first5     = InPort()
    s.last5      = InPort()
    s.total5     = InPort()
    s.root5      = InPort()
    s.exp5       = InPort( 8 )
    s.index      = InPort( 32 )
    s.found      = OutPort( 32 )
    s.fresh      = InPort()
    s.top        = OutPort( 32 )
    s.top_val    = OutPort()
    s.inv_length = InPort( 32 )
    s.eps        = InPort( 32 )
    s.pipe_x     = OutPort( 32 )
    s.pipe_val   = OutPort()
    s.pipe_root  = OutPort()
    s.pipe_out   = InPort( 32 )
    s.scalar     = OutPort( 32 )
    s.scalar_val = OutPort()

    # Components

    s.row_max   = RowMax( n, 32 )
    s.row_sum   = RowSum( n )
    s.to_scalar = SegmentScalar( total_bits )

    # Connections

    for c in range( n ):
      s.row_max.key[c] //= s.key[c]
      s.row_sum.in_[c] //= s.addend[c]
    s.to_scalar.go         //= s.go
    s.to_scalar.inv_length //= s.inv_length
    s.to_scalar.eps        //= s.eps
    s.to_scalar.x          //= s.pipe_x
    s.to_scalar.x_val      //= s.pipe_val
    s.to_scalar.x_root     //= s.pipe_root

    # Maxima

    s.key3     = Wire( 32 )
    s.lane3    = Wire( lg )
    s.best     = Wire( 32 )                   # SOFTMAX's key
    s.best_now = Wire( 32 )
    s.rounded  = Wire( 20 )
    s.most     = Wire( 32 )                   # ARGMAX's key and index; they stay between commands
    s.at       = Wire( 32 )
    s.searched = Wire()                       # there is one
    s.better   = Wire()

    @update
    def up_best():
      s.best_now @= s.key3
      if ~s.first3 & ( s.best > s.key3 ):
        s.best_now @= s.best
      # Keys are scores with the sign changed; 12 fraction bits.
      s.rounded @= trunc( ( concat( ~s.best_now[31], s.best_now[0:31] ) + 0xFFF ) >> 12, 20 )

    @update
    def up_search():
      s.better @= s.first3 | ~s.searched | ( s.key3 > s.most )
      s.found  @= s.at
      if s.better:
        s.found @= s.index + zext( s.lane3, 32 )

    @update_ff
    def ff_maxima():
      if s.reset:
        s.searched <<= 0
      elif s.go & s.v3 & s.argmax3:
        s.searched <<= 1
      if s.go:
        s.key3  <<= s.row_max.out
        s.lane3 <<= s.row_max.lane
        if s.v3 & s.largest3:
          s.best <<= s.best_now
          if s.last3:
            s.top <<= concat( s.rounded, Bits12( 0 ) )
        if s.v3 & s.argmax3:
          s.at <<= s.found
          if s.better:
            s.most <<= s.key3

    # Sums

    s.sum5 = Wire( total_bits )
    s.sum6 = Wire( total_bits )
    s.val6 = Wire()
    s.to_scalar.val   //= s.val6
    s.to_scalar.total //= s.sum6
    s.root6 = Wire()
    s.exp6  = Wire( 8 )
    s.to_scalar.root     //= s.root6
    s.to_scalar.exponent //= s.exp6

    @update_ff
    def ff_sums():
      if s.reset:
        s.val6 <<= 0
      elif s.go:
        s.val6 <<= s.v5 & s.total5 & s.last5
      if s.go:
        s.sum5 <<= zext( s.row_sum.out, total_bits )
        if s.v5 & s.total5:
          s.sum6 <<= s.sum5
          if ~s.first5:
            s.sum6 <<= s.sum6 + s.sum5
          s.root6 <<= s.root5
          s.exp6  <<= s.exp5
        if s.to_scalar.done:
          s.scalar <<= s.pipe_out

    # What is there

    @update_ff
    def ff_valid():
      if s.reset | s.fresh:
        s.top_val    <<= 0
        s.scalar_val <<= 0
      elif s.go:
        if s.v3 & s.largest3 & s.last3:
          s.top_val <<= 1
        if s.to_scalar.done:
          s.scalar_val <<= 1

  def line_trace( s ):
    return f"{s.top}{'!' if s.top_val else ' '}{s.scalar}{'!' if s.scalar_val else ' '}"
