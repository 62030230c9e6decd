"""Exact sums of all query rows with the keys of a chunk; at n = 16 of one tile of them.

Costs a memory of 39 bits per query row and key, twice at n below 16: there the softmax of a chunk reads its sums
while those of the next one are made. At n = 16 it reads a sum in the cycle after it is complete.
"""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass
from pymtl3.stdlib.basic_rtl import RegisterFile

from npu.arch.config import clog2
from rtl_models.attention.shape import DOT_BITS, AttentionShape
from rtl_models.mac.column import mk_total_bits

class AttentionAccumulators( Component ):
  """Adds the columns' sums into a row's; `sum` is the result, in the next step, `dot` any row.

  Ports
  -----
  go
    A step.
  val, opens, keep
    There is a row; its sum begins; it is written back.
  slot, row, tile
    Which: chunk mod 2, query row, key tile.
  exp
    A byte that is kept with the sum where it begins: the exponent of the queries.
  dot_slot, dot_row, dot_tile
    What is read at `dot` and `dot_exp`.
  """

  def construct( s, cfg ):
    n, shape = cfg.n, AttentionShape( cfg )
    s.set_metadata( VerilogTranslationPass.explicit_module_name, f"AttentionAccumulators_n{n}_r{shape.rows}" )
    total_bits = mk_total_bits( n )
    ROW  = mk_bits( shape.row_bits )
    TILE = mk_bits( shape.tile_bits )
    word = n * DOT_BITS + 8
    # Chunk and tile are part of the address only where there are several tiles.
    depth = shape.rows if shape.tiles == 1 else 2 * shape.tiles * ( 1 << shape.row_bits )

    # Interface

    s.go       = InPort()
    s.total    = [ InPort( total_bits ) for _ in range( n ) ]
    s.val      = InPort()
    s.opens    = InPort()
    s.keep     = InPort()
    s.slot     = InPort()
    s.row      = InPort( ROW )
    s.tile     = InPort( TILE )
    s.exp      = InPort( 8 )
    s.sum      = [ OutPort( DOT_BITS ) for _ in range( n ) ]
    s.dot_slot = InPort()
    s.dot_row  = InPort( ROW )
    s.dot_tile = InPort( TILE )
    s.dot      = [ OutPort( DOT_BITS ) for _ in range( n ) ]
    s.dot_exp  = OutPort( 8 )

    # Components

    s.memory = RegisterFile( mk_bits( word ), depth, rd_ports=2 )
    addr     = clog2( depth )
    s.at     = Wire( addr )
    s.dot_at = Wire( addr )
    if shape.tiles == 1:
      s.at     //= s.row
      s.dot_at //= s.dot_row
    else:
      s.at     //= lambda: concat( s.slot, s.tile, s.row )
      s.dot_at //= lambda: concat( s.dot_slot, s.dot_tile, s.dot_row )

    # Logic

    s.old     = Wire( word )
    s.word     = Wire( word )
    s.wide    = [ Wire( DOT_BITS ) for _ in range( n ) ]
    s.earlier  = [ Wire( DOT_BITS ) for _ in range( n ) ]
    s.result  = [ Wire( DOT_BITS ) for _ in range( n ) ]
    s.new_exp = Wire( 8 )
    s.old_exp = Wire( 8 )
    s.held    = [ Wire( DOT_BITS ) for _ in range( n ) ]
    s.memory.raddr[0] //= s.at
    s.memory.raddr[1] //= s.dot_at
    s.memory.waddr[0] //= s.at
    s.memory.wdata[0] //= s.word
    s.memory.rdata[0] //= s.old
    s.read = Wire( word )
    s.read //= s.memory.rdata[1]

    # Signs are extended by wires: `sext` of an array element translates wrongly.
    for c in range( n ):
      low, high = DOT_BITS * c, DOT_BITS * c + DOT_BITS
      s.wide[c][0:total_bits] //= s.total[c]
      for b in range( total_bits, DOT_BITS ):
        s.wide[c][b] //= s.total[c][total_bits - 1]
      s.earlier[c]     //= s.old[low:high]
      s.word[low:high] //= s.result[c]
      s.dot[c]        //= s.read[low:high]
      s.sum[c]        //= s.held[c]
    s.word[word - 8 : word] //= s.new_exp
    s.old_exp              //= s.old[word - 8 : word]
    s.dot_exp              //= s.read[word - 8 : word]

    @update
    def up_add():
      s.new_exp @= s.old_exp
      if s.opens:
        s.new_exp @= s.exp
      for c in range( n ):
        s.result[c] @= s.wide[c] + s.earlier[c]
        if s.opens:
          s.result[c] @= s.wide[c]
      s.memory.wen[0] @= s.go & s.val & s.keep

    @update_ff
    def ff_sum():
      for c in range( n ):
        if s.go:
          s.held[c] <<= s.result[c]

  def line_trace( s ):
    return f"{s.at}"
