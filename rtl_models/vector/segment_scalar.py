"""From a segment's sum to what its elements are multiplied with, before the reciprocal or root.

RMSNORM: mean square plus eps, from the exact integer sum of squares. SOFTMAX: the sum of probabilities. Costs one FP32
multiplier and one adder, used once per segment.

    stage 1  to FP32
    stage 2  times 1 / length       (RMSNORM only, as are the next two)
    stage 3  times the unit of the squares
    stage 4  plus eps
"""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass

from rtl_models.common.fp32 import Fp32Add, Fp32AddExponent, Fp32Mul, IntToFp32
from rtl_models.vector.reciprocal import RECIPROCAL_STAGES

SCALAR_STAGES = 4
K_BITS        = 10

class SegmentScalar( Component ):
  """The result of a sum is at `x`, with `x_val`, four cycles of `go` later.

  Ports
  -----
  val, total, root, exponent
    A sum; whether it is RMSNORM's, and then the segment's exponent.
  inv_length, eps
    RMSNORM's constants; they stay until the result is there.
  done
    The reciprocal or root of x, `RECIPROCAL_STAGES` cycles after it, is there in this cycle.
  """

  def construct( s, nbits ):
    s.set_metadata( VerilogTranslationPass.explicit_module_name, f"SegmentScalar_{nbits}" )
    signed = nbits + 1
    deep   = SCALAR_STAGES + RECIPROCAL_STAGES
    x_last, last = SCALAR_STAGES - 1, deep - 1
    stages = SCALAR_STAGES

    # Interface

    s.go         = InPort()
    s.val        = InPort()
    s.total      = InPort( nbits )
    s.root       = InPort()
    s.exponent   = InPort( 8 )
    s.inv_length = InPort( 32 )
    s.eps        = InPort( 32 )
    s.x          = OutPort( 32 )
    s.x_val      = OutPort()
    s.x_root     = OutPort()
    s.done       = OutPort()

    s.v     = [ Wire() for _ in range( deep ) ]       # index i is behind stage i + 1
    s.roots = [ Wire() for _ in range( stages ) ]
    s.x_val  //= s.v[x_last]
    s.x_root //= s.roots[x_last]
    s.done   //= s.v[last]

    s.to_float = IntToFp32( signed )
    s.to_float.in_ //= lambda: zext( s.total, signed )
    s.f1    = Wire( 32 )
    s.mul   = Fp32Mul()
    s.mul.a //= s.f1
    s.mul.b //= s.inv_length
    s.f2    = Wire( 32 )
    s.raise_ = Fp32AddExponent( K_BITS )
    s.raise_.x //= s.f2
    # 2 * lsb, with lsb = E - 127 - 14.
    s.raise_.k //= lambda: ( zext( s.exponent, K_BITS ) << 1 ) - 282
    s.f3    = Wire( 32 )
    s.add   = Fp32Add()
    s.add.a //= s.f3
    s.add.b //= s.eps

    @update_ff
    def ff_values():
      if s.go:
        s.f1 <<= s.to_float.out
        s.f2 <<= s.mul.out if s.roots[0] else s.f1
        s.f3 <<= s.raise_.out if s.roots[1] else s.f2
        s.x  <<= s.add.out if s.roots[2] else s.f3

    @update_ff
    def ff_valid():
      if s.reset:
        for i in range( deep ):
          s.v[i] <<= 0
      elif s.go:
        s.v[0] <<= s.val
        for i in range( 1, deep ):
          s.v[i] <<= s.v[i - 1]

    @update_ff
    def ff_roots():
      if s.go:
        s.roots[0] <<= s.root
        for i in range( 1, stages ):
          s.roots[i] <<= s.roots[i - 1]

  def line_trace( s ):
    return f"{s.x}"
