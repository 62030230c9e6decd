"""LOAD, STORE and EMBED: checks them, and hands them to the units that move the data.

Costs a `RangeCheck`, the units, and the reader of EMBED's tokens.
"""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass
from pymtl3.stdlib.stream.ifcs import MasterIfcRTL, SendIfcRTL

from npu.arch.config import LINE_BYTES, clog2
from npu.arch.isa import BY_MNEMONIC, Error
from npu.arch.messages import mk_mem_read_req, mk_mem_write, mk_spad_write
from rtl_models.common.range_check import RangeCheck
from rtl_models.control.address_generator import SUM_BITS
from rtl_models.control.load_unit import LoadUnit, table_rows
from rtl_models.control.store_unit import StoreUnit
from rtl_models.control.token_reader import WORD_ADDR_BITS, TokenReader

class Dma( Component ):
  """One instruction at a time is checked; behind that LOAD and STORE work for themselves.

  Ports
  -----
  opcode, src, dst, vocab, length, src_stride, dst_stride, row_lines
    The instruction.
  rows, low, high, row_width
    Its rows and addresses, as `AddressGenerator` gives them.
  pos, len, lines, writable, token_line
    Registers; sizes of the memory, and the line of the token buffer, from the mailbox.
  fault
    What is wrong with the instruction, as `npu.arch.isa.Error`.
  start
    EMBED: tokens are read from the next cycle on.
  gather
    EMBED: tokens are taken, one a cycle: each is `row`, and its `line` comes a cycle later.
  all_read, bad_token
    All of them are taken; one is not in the table.
  push
    Offer the job to its unit; `pushed` when it is taken in this cycle.
  load_busy, store_busy
    Units with something unfinished.
  load, spad_wr, spad_rd, store
    Of the block.
  token_mem
    Reads of the token buffer.
  """

  def construct( s, cfg ):
    d = cfg.derived
    s.set_metadata( VerilogTranslationPass.explicit_module_name, f"Dma_n{cfg.n}_a{d.spad_addr_bits}_m{cfg.m_max}" )
    BEAT       = mk_bits( d.beat_bits )
    SPAD       = mk_bits( d.spad_addr_bits )
    SUM        = mk_bits( SUM_BITS )
    m_max      = cfg.m_max
    index_bits = clog2( table_rows( cfg ) )
    line_shift = clog2( LINE_BYTES // 4 )
    NONE, BAD_DRAM, BAD_SPAD, ZERO_SIZE, BAD_SIZE, BAD_POSITION = ( Bits4( x ) for x in (
      Error.NONE, Error.BAD_DRAM, Error.BAD_SPAD, Error.ZERO_SIZE, Error.BAD_SIZE, Error.BAD_POSITION ) )
    EMBED, STORE = ( Bits8( BY_MNEMONIC[m].opcode ) for m in ( "EMBED", "STORE" ) )

    # Interface

    s.opcode     = InPort( 8 )
    s.src        = InPort( 24 )
    s.dst        = InPort( 24 )
    s.vocab      = InPort( 24 )
    s.length     = InPort( 20 )
    s.src_stride = InPort( 16 )
    s.dst_stride = InPort( 16 )
    s.row_lines  = InPort( 32 )
    s.rows       = InPort( 8 )
    s.low        = InPort( SUM_BITS )
    s.high       = InPort( SUM_BITS )
    s.row_width  = InPort( 21 )
    s.pos        = InPort( 32 )
    s.len        = InPort( 32 )
    s.lines      = InPort( 32 )
    s.writable   = InPort( 32 )
    s.token_line = InPort( 32 )
    s.fault      = OutPort( 4 )
    s.start      = InPort()
    s.gather     = InPort()
    s.row        = OutPort( 32 )
    s.line       = InPort( 32 )
    s.all_read   = OutPort()
    s.bad_token  = OutPort()
    s.push       = InPort()
    s.pushed     = OutPort()
    s.load_busy  = OutPort()
    s.store_busy = OutPort()
    s.load       = MasterIfcRTL( mk_mem_read_req( cfg ), BEAT )
    s.spad_wr    = SendIfcRTL( mk_spad_write( cfg ) )
    s.spad_rd    = MasterIfcRTL( SPAD, BEAT )
    s.store      = SendIfcRTL( mk_mem_write( cfg ) )
    s.token_mem  = MasterIfcRTL( mk_mem_read_req( cfg ), BEAT )

    # Components

    s.range_ = RangeCheck( cfg )
    s.tokens = TokenReader( cfg )
    s.loader = LoadUnit( cfg )
    s.storer = StoreUnit( cfg )

    # Connections

    s.loader.mem  //= s.load
    s.loader.wr   //= s.spad_wr
    s.loader.busy //= s.load_busy
    s.storer.spad //= s.spad_rd
    s.storer.wr   //= s.store
    s.storer.busy //= s.store_busy
    s.tokens.mem  //= s.token_mem

    #---------------------------------------------------------------------
    # Check
    #---------------------------------------------------------------------

    s.is_store    = Wire()
    s.is_embed    = Wire()
    s.last_pos    = Wire( 33 )
    s.spad_row    = Wire( 24 )
    s.spad_stride = Wire( 16 )

    s.range_.rows   //= s.rows
    s.range_.base   //= s.spad_row
    s.range_.stride //= s.spad_stride

    @update
    def up_operands():
      s.is_store    @= s.opcode == STORE
      s.is_embed    @= s.opcode == EMBED
      s.spad_row    @= s.dst
      s.spad_stride @= s.dst_stride
      if s.is_store:
        s.spad_row    @= s.src
        s.spad_stride @= s.src_stride
      s.range_.width  @= zext( s.row_width, 28 )
      s.last_pos      @= zext( s.pos, 33 ) + zext( s.rows, 33 )

    @update
    def up_fault():
      s.fault @= NONE
      if ( s.rows == 0 ) | ( s.length == 0 ) | ( s.is_embed & ( s.vocab == 0 ) ):
        s.fault @= ZERO_SIZE
      elif s.rows > m_max:
        s.fault @= BAD_SIZE
      elif s.is_embed & ( s.last_pos > zext( s.len, 33 ) ):
        s.fault @= BAD_POSITION
      elif ( s.high > zext( s.lines, SUM ) ) | ( s.is_store & ( s.low < zext( s.writable, SUM ) ) ):
        s.fault @= BAD_DRAM
      elif ~s.range_.ok:
        s.fault @= BAD_SPAD

    #---------------------------------------------------------------------
    # EMBED: tokens become lines in the load unit's table
    #---------------------------------------------------------------------

    s.taken    = Wire( 8 )                # tokens
    s.took     = Wire()                   # `line` is a token's
    s.took_row = Wire( index_bits )

    s.tokens.start      //= s.start
    s.tokens.count      //= s.rows
    s.tokens.out.rdy    //= s.gather
    s.row               //= s.tokens.out.msg
    s.loader.table_en   //= s.took
    s.loader.table_row  //= s.took_row
    s.loader.table_line //= s.line

    @update
    def up_tokens():
      s.tokens.first @= ( zext( s.token_line, WORD_ADDR_BITS ) << line_shift ) + zext( s.pos, WORD_ADDR_BITS )
      s.all_read     @= s.taken == s.rows

    @update_ff
    def ff_tokens():
      s.took     <<= ~s.reset & s.tokens.out.val & s.tokens.out.rdy
      s.took_row <<= s.taken[0:index_bits]
      if s.start:
        s.taken     <<= 0
        s.bad_token <<= 0
      elif s.tokens.out.val & s.tokens.out.rdy:
        s.taken     <<= s.taken + 1
        s.bad_token <<= s.bad_token | ( s.tokens.out.msg >= zext( s.vocab, 32 ) )

    #---------------------------------------------------------------------
    # Jobs
    #---------------------------------------------------------------------

    # Strides in the scratchpad's width: the range is checked.
    s.stride = Wire( SPAD )
    same     = min( d.spad_addr_bits, 16 )
    s.stride[0:same] //= s.spad_stride[0:same]
    for b in range( same, d.spad_addr_bits ):
      s.stride[b] //= 0
    for msg in ( s.loader.job.msg, s.storer.job.msg ):
      connect( msg.dram, s.low[0:32] )
      connect( msg.row_lines, s.row_lines )
      connect( msg.spad, s.spad_row[0 : d.spad_addr_bits] )
      connect( msg.stride, s.stride )
      connect( msg.rows, s.rows )
      connect( msg.length, s.length )
    s.loader.job.msg.gather //= s.is_embed

    @update
    def up_push():
      s.loader.job.val @= s.push & ~s.is_store
      s.storer.job.val @= s.push & s.is_store
      s.pushed @= ( s.loader.job.val & s.loader.job.rdy ) | ( s.storer.job.val & s.storer.job.rdy )

  def line_trace( s ):
    return f"{s.loader.line_trace()} {s.storer.line_trace()}"
