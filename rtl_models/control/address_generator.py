"""Works out the rows of an instruction and the addresses that depend on registers.

Costs a multiplier of 32 x 32 bits, which all products share: one a cycle, in a register at its end.
"""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass

from npu.arch.config import LINE_BYTES, clog2
from npu.arch.isa import Rel

SUM_BITS = 66    # of a line address: less than 2^64 + 2^40

class AddressGenerator( Component ):
  """Rows are there at once. Addresses take three cycles: the offset times the distance of rows; `place`, where the
  rows times their distance are multiplied; and the one in which `low` and `high` are there, and stay.

  Ports
  -----
  rows_field, rel, dram, src, length, row_lines, src_stride, vocab
    The instruction.
  is_vec, is_embed
    It is the vector unit's: its address is `src`. It is EMBED: its rows are those of the table.
  pos, len, rows, token
    Registers.
  rows_now
    Token rows of the instruction; what does not fit counts as 255.
  place
    The second of the three cycles.
  low, high
    The first line and the one after the last, wide enough not to wrap; for the vector unit, `low` is `src`.
  row_width
    Scratchpad rows of a token row.
  src_now
    `src` of a vector instruction; what does not fit becomes the largest number, which no check lets pass.
  gather, row
    Row of EMBED's table that is looked up in this cycle,
  line
    and in the next one its line.
  """

  def construct( s, cfg ):
    n  = cfg.n
    lg = clog2( n )
    s.set_metadata( VerilogTranslationPass.explicit_module_name, f"AddressGenerator_n{n}" )
    SUM            = mk_bits( SUM_BITS )
    words_per_line = LINE_BYTES // 4
    line_shift     = clog2( words_per_line )
    BY_POS, BY_LAST, BY_TOKEN, BY_LEN = ( Bits4( x ) for x in ( Rel.POS, Rel.LAST, Rel.TOKEN, Rel.LEN ) )
    FAR            = Bits24( ( 1 << 24 ) - 1 )

    # Interface

    s.rows_field = InPort( 8 )
    s.rel        = InPort( 4 )
    s.dram       = InPort( 32 )
    s.src        = InPort( 24 )
    s.length     = InPort( 20 )
    s.row_lines  = InPort( 32 )
    s.src_stride = InPort( 16 )
    s.vocab      = InPort( 24 )
    s.is_vec     = InPort()
    s.is_embed   = InPort()
    s.pos        = InPort( 32 )
    s.len        = InPort( 32 )
    s.rows       = InPort( 20 )
    s.token      = InPort( 32 )
    s.rows_now   = OutPort( 8 )
    s.place      = InPort()
    s.low        = OutPort( SUM_BITS )
    s.high       = OutPort( SUM_BITS )
    s.row_width  = OutPort( 21 )
    s.src_now    = OutPort( 24 )
    s.gather     = InPort()
    s.row        = InPort( 32 )
    s.line       = OutPort( 32 )

    # Components

    s.last_row = Wire( 20 )
    s.offset   = Wire( 32 )               # value of the register that `rel` names
    s.factor   = Wire( 32 )
    s.distance = Wire( 32 )
    s.product  = Wire( 64 )
    s.moved    = Wire( SUM_BITS )
    s.row_size = Wire( 21 )               # lines of a row

    # Logic

    @update
    def up_rows():
      s.rows_now @= s.rows_field
      if s.rows_field == 0:
        s.rows_now @= s.rows[0:8]
        if s.rows > 255:
          s.rows_now @= 255
      s.last_row @= 0
      if s.rows != 0:
        s.last_row @= s.rows - 1

    @update
    def up_offset():
      s.offset @= 0
      if s.rel == BY_POS:
        s.offset @= s.pos
      elif s.rel == BY_LAST:
        s.offset @= zext( s.last_row, 32 )
      elif s.rel == BY_TOKEN:
        s.offset @= s.token
      elif s.rel == BY_LEN:
        s.offset @= s.len

    @update
    def up_factors():
      s.distance @= s.row_lines
      if s.is_vec:
        s.distance @= zext( s.src_stride, 32 )
      s.factor @= s.offset
      if s.gather:
        s.factor @= s.row
      elif s.place:
        s.factor @= zext( s.rows_now, 32 ) - 1
        if s.is_embed:
          s.factor @= zext( s.vocab, 32 ) - 1

    @update_ff
    def ff_product():
      s.product <<= zext( s.factor, 64 ) * zext( s.distance, 64 )

    @update
    def up_sums():
      s.moved @= zext( s.product, SUM ) + zext( s.dram, SUM )
      if s.is_vec:
        s.moved @= zext( s.product, SUM ) + zext( s.src, SUM )
      s.row_size  @= ( zext( s.length, 21 ) + ( words_per_line - 1 ) ) >> line_shift
      s.row_width @= ( zext( s.length, 21 ) + ( n - 1 ) ) >> lg
      s.high      @= s.low + zext( s.product, SUM ) + zext( s.row_size, SUM )
      s.line      @= s.product[0:32] + s.dram

    @update_ff
    def ff_low():
      if s.place:
        s.low <<= s.moved

    @update
    def up_src():
      s.src_now @= s.src
      if s.rel != 0:
        s.src_now @= s.low[0:24]
        if s.low > zext( FAR, SUM ):
          s.src_now @= FAR

  def line_trace( s ):
    return f"{s.low}:{s.product}"
