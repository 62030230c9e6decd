"""A value on its way along a pipeline."""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass

class Delay( Component ):
  """`out[i]` is `in_` as it was i steps ago; a step is a cycle with `go`. Reset clears it."""

  def construct( s, nbits, depth ):
    s.set_metadata( VerilogTranslationPass.explicit_module_name, f"Delay_{nbits}_{depth}" )
    assert depth >= 2, f"Delay: depth is {depth}; choose at least 2, or a register"
    kept  = nbits * ( depth - 1 )

    s.go  = InPort()
    s.in_ = InPort( nbits )
    s.out = [ OutPort( nbits ) for _ in range( depth + 1 ) ]

    # One long register: the newest value is lowest.
    s.line = Wire( nbits * depth )
    s.out[0] //= s.in_
    for i in range( depth ):
      s.out[i + 1] //= s.line[nbits * i : nbits * i + nbits]

    @update_ff
    def ff_line():
      if s.reset:
        s.line <<= 0
      elif s.go:
        s.line <<= concat( s.line[0:kept], s.in_ )

  def line_trace( s ):
    return f"{s.line}"
