"""Scratchpad addresses in the order of a nested loop."""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass

COUNT_BITS = 16

class AddressNest( Component ):
  """For each of `times`, of `outer`, of `middle`, of `inner`: base + outer index + middle index * middle_step +
  inner index * inner_step.

  Costs three adders and no multiplier: each loop keeps the address at which it began.

  Ports
  -----
  start
    Begins with `base`; the other parameters must stay until the end.
  val, addr, last
    An address, and whether it is the last one.
  step
    Takes it.
  """

  def construct( s, cfg ):
    s.set_metadata( VerilogTranslationPass.explicit_module_name, f"AddressNest_a{cfg.derived.spad_addr_bits}" )
    SPAD  = mk_bits( cfg.derived.spad_addr_bits )
    COUNT = mk_bits( COUNT_BITS )

    # Interface

    s.start       = InPort()
    s.base        = InPort( SPAD )
    s.inner       = InPort( COUNT )
    s.inner_step  = InPort( SPAD )
    s.middle      = InPort( COUNT )
    s.middle_step = InPort( SPAD )
    s.outer       = InPort( COUNT )
    s.times       = InPort( 3 )
    s.val         = OutPort()
    s.addr        = OutPort( SPAD )
    s.last        = OutPort()
    s.step        = InPort()

    # State

    s.busy    = Wire()
    s.now     = Wire( SPAD )
    s.column  = Wire( SPAD )        # where the middle loop's step began
    s.plane   = Wire( SPAD )        # where the outer loop's step began
    s.i       = Wire( COUNT )
    s.m       = Wire( COUNT )
    s.o       = Wire( COUNT )
    s.t       = Wire( 3 )
    s.val   //= s.busy
    s.addr  //= s.now

    # Logic

    s.last_i = Wire()
    s.last_m = Wire()
    s.last_o = Wire()

    @update
    def up_last():
      s.last_i @= s.i + 1 == s.inner
      s.last_m @= s.m + 1 == s.middle
      s.last_o @= s.o + 1 == s.outer
      s.last   @= s.last_i & s.last_m & s.last_o & ( s.t + 1 == s.times )

    @update_ff
    def ff_step():
      if s.reset:
        s.busy <<= 0
      elif s.start:
        s.busy   <<= 1
        s.now    <<= s.base
        s.column <<= s.base
        s.plane  <<= s.base
        s.i      <<= 0
        s.m      <<= 0
        s.o      <<= 0
        s.t      <<= 0
      elif s.step:
        if ~s.last_i:
          s.i   <<= s.i + 1
          s.now <<= s.now + s.inner_step
        else:
          s.i <<= 0
          if ~s.last_m:
            s.m      <<= s.m + 1
            s.column <<= s.column + s.middle_step
            s.now    <<= s.column + s.middle_step
          else:
            s.m <<= 0
            if ~s.last_o:
              s.o      <<= s.o + 1
              s.plane  <<= s.plane + 1
              s.column <<= s.plane + 1
              s.now    <<= s.plane + 1
            else:
              s.o      <<= 0
              s.t      <<= s.t + 1
              s.plane  <<= s.base
              s.column <<= s.base
              s.now    <<= s.base
              s.busy   <<= ~s.last

  def line_trace( s ):
    return f"{s.now}" if s.busy else "."
