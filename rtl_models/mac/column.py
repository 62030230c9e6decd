"""One column of the multiplier array: n stationary weights, n multipliers, an adder tree.

Costs n multipliers of 16 x 16 bits (unsigned), n shifters for the floating modes, and the weights twice: the
shadow copy loads while the active one multiplies. The alternative, an activation skewed through
neighbour-to-neighbour registers, saves wires and costs 2n cycles of latency per tile.

Numbers travel as sign and magnitude: the same multiplier serves integers (16-bit magnitudes) and
floating formats (significands), and truncating a magnitude, as the floating modes want it, is dropping bits.

Pipeline, one row of activations per cycle when `go`:

    stage 1  multiply; add exponents; find the largest
    stage 2  align (floating modes), apply signs, add in fours
    stage 3  add the rest
"""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass

from npu.arch.config import clog2
from rtl_models.common.larger_exponent import EXP_BITS, LargerExponent

WEIGHT_BITS = 25    # sign, 16-bit magnitude, 8-bit exponent (floating modes)
KEEP_BITS   = 18    # an aligned magnitude: 2 integer and 16 fraction bits
PART_BITS   = 34    # four products of 31 bits, signed

def mk_total_bits( n ):
  """Width of a column's sum: n products, signed."""
  return PART_BITS + clog2( n ) - 2

class MacColumn( Component ):
  """`load_en` writes rows of the shadow weights; `swap` makes them active at the end of the cycle.

  Ports
  -----
  a_sign, a_mag, a_exp
    The row of activations that multiplies in this cycle, if `go`.
  floating, half
    Mode: 0 integer; floating with half = 0 is BF16 and with half = 1 FP16.
  total, top
    Signed sum of the products, and the largest exponent (floating modes), three cycles later.
  """

  def construct( s, n ):
    s.set_metadata( VerilogTranslationPass.explicit_module_name, f"MacColumn_n{n}" )
    part_bits  = PART_BITS
    total_bits = mk_total_bits( n )
    parts      = n // 4

    # Interface

    s.load_en  = InPort( n )
    s.load     = [ InPort( WEIGHT_BITS ) for _ in range( n ) ]
    s.swap     = InPort()
    s.go       = InPort()
    s.floating = InPort()
    s.half     = InPort()
    s.a_sign   = [ InPort() for _ in range( n ) ]
    s.a_mag    = [ InPort( 16 ) for _ in range( n ) ]
    s.a_exp    = [ InPort( 8 ) for _ in range( n ) ]
    s.total    = OutPort( total_bits )
    s.top      = OutPort( EXP_BITS )

    # Weights

    s.shadow = [ Wire( WEIGHT_BITS ) for _ in range( n ) ]
    s.active = [ Wire( WEIGHT_BITS ) for _ in range( n ) ]

    @update_ff
    def ff_weights():
      for k in range( n ):
        if s.load_en[k]:
          s.shadow[k] <<= s.load[k]
        if s.swap:
          s.active[k] <<= s.shadow[k]

    # Stage 1: multiply

    s.exp = [ Wire( EXP_BITS ) for _ in range( n ) ]

    @update
    def up_exponents():
      for k in range( n ):
        s.exp[k] @= 0
        # A biased exponent of zero means the value zero: it must not decide the alignment.
        if ( s.a_exp[k] != 0 ) & ( s.active[k][0:8] != 0 ):
          s.exp[k] @= zext( s.a_exp[k], EXP_BITS ) + zext( s.active[k][0:8], EXP_BITS )

    s.larger = [ LargerExponent() for _ in range( n - 1 ) ]
    nodes    = list( s.exp )
    for node in s.larger:
      node.a //= nodes.pop( 0 )
      node.b //= nodes.pop( 0 )
      nodes.append( node.out )
    s.max = Wire( EXP_BITS )
    s.max //= nodes[0]

    s.sign1 = [ Wire() for _ in range( n ) ]
    s.mag1  = [ Wire( 32 ) for _ in range( n ) ]
    s.exp1  = [ Wire( EXP_BITS ) for _ in range( n ) ]
    s.max1  = Wire( EXP_BITS )

    @update_ff
    def ff_multiply():
      if s.go:
        s.max1 <<= s.max
        for k in range( n ):
          s.sign1[k] <<= s.a_sign[k] ^ s.active[k][24]
          s.mag1[k]  <<= zext( s.a_mag[k], 32 ) * zext( s.active[k][8:24], 32 )
          s.exp1[k]  <<= s.exp[k]

    # Stage 2: align, apply signs, add in fours

    s.raw     = [ Wire( KEEP_BITS ) for _ in range( n ) ]
    s.drop    = [ Wire( EXP_BITS ) for _ in range( n ) ]
    s.aligned = [ Wire( part_bits ) for _ in range( n ) ]
    s.addend  = [ Wire( part_bits ) for _ in range( n ) ]

    @update
    def up_align():
      for k in range( n ):
        # BF16 products have 14 fraction bits and FP16 products 20: 16 are kept.
        s.raw[k] @= concat( s.mag1[k][0:16], Bits2( 0 ) )
        if s.half:
          s.raw[k] @= s.mag1[k][4:22]
        s.drop[k] @= s.max1 - s.exp1[k]
        s.aligned[k] @= zext( s.mag1[k], part_bits )
        if s.floating:
          s.aligned[k] @= 0
          if s.drop[k] < KEEP_BITS:
            s.aligned[k] @= zext( s.raw[k] >> zext( s.drop[k], KEEP_BITS ), part_bits )
        s.addend[k] @= s.aligned[k]
        if s.sign1[k]:
          s.addend[k] @= ~s.aligned[k] + 1

    s.fours = [ [ Wire( part_bits ) for _ in range( 4 ) ] for _ in range( parts ) ]
    for k in range( n ):
      s.fours[k // 4][k % 4] //= s.addend[k]

    s.part2 = [ Wire( part_bits ) for _ in range( parts ) ]
    s.max2  = Wire( EXP_BITS )

    @update_ff
    def ff_parts():
      if s.go:
        s.max2 <<= s.max1
        for p in range( parts ):
          s.part2[p] <<= s.fours[p][0] + s.fours[p][1] + s.fours[p][2] + s.fours[p][3]

    # Stage 3: add the rest

    s.wide  = [ Wire( total_bits ) for _ in range( parts ) ]
    s.sum   = Wire( total_bits )

    for p in range( parts ):
      if total_bits == part_bits:
        s.wide[p] //= s.part2[p]
      else:
        s.wide[p][0:part_bits] //= s.part2[p]
        for b in range( part_bits, total_bits ):
          s.wide[p][b] //= s.part2[p][part_bits - 1]

    @update
    def up_sum():
      s.sum @= s.wide[0]
      for p in range( 1, parts ):
        s.sum @= s.sum + s.wide[p]

    @update_ff
    def ff_sum():
      if s.go:
        s.total <<= s.sum
        s.top   <<= s.max2

  def line_trace( s ):
    return f"{s.total}"
