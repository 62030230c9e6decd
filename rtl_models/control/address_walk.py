"""Steps through the addresses of a matrix, row by row."""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass

WIDTH_BITS = 21    # of a row: 2^20 elements and a little

class AddressWalk( Component ):
  """For each of `rows`, for each of `width`: base + row * stride + column.

  Ports
  -----
  start
    Begins anew in the next cycle. The parameters stay as they are until the last address.
  step
    Goes on to the next address.
  more
    There is an address at `addr`.
  last_column, last
    It is the last one of its row; and of all.
  """

  def construct( s, nbits ):
    s.set_metadata( VerilogTranslationPass.explicit_module_name, f"AddressWalk_a{nbits}" )

    # Interface

    s.start       = InPort()
    s.base        = InPort( nbits )
    s.stride      = InPort( nbits )
    s.rows        = InPort( 8 )
    s.width       = InPort( WIDTH_BITS )
    s.step        = InPort()
    s.more        = OutPort()
    s.addr        = OutPort( nbits )
    s.last_column = OutPort()
    s.last        = OutPort()

    # Components

    s.at      = Wire( nbits )
    s.row     = Wire( nbits )             # first address of this row
    s.next    = Wire( nbits )             # and of the next
    s.to_go   = Wire( 8 )                 # rows, this one included
    s.columns = Wire( WIDTH_BITS )        # of this row, this one included

    # Logic

    @update
    def up_walk():
      s.more        @= s.to_go != 0
      s.addr        @= s.at
      s.last_column @= s.columns == 1
      s.last        @= ( s.columns == 1 ) & ( s.to_go == 1 )
      s.next        @= s.row + s.stride

    @update_ff
    def ff_walk():
      if s.reset:
        s.to_go <<= 0
      elif s.start:
        s.at      <<= s.base
        s.row     <<= s.base
        s.to_go   <<= s.rows
        s.columns <<= s.width
      elif s.step:
        if s.columns != 1:
          s.at      <<= s.at + 1
          s.columns <<= s.columns - 1
        else:
          s.at      <<= s.next
          s.row     <<= s.next
          s.to_go   <<= s.to_go - 1
          s.columns <<= s.width

  def line_trace( s ):
    return f"{s.at}({s.to_go}:{s.columns})"
