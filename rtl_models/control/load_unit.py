"""Copies rows from memory to the scratchpad: LOAD, and EMBED once its tokens are known.

Costs the buffer of its `StreamReader` and a table of m_max line addresses.
"""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass
from pymtl3.stdlib.basic_rtl import RegisterFile
from pymtl3.stdlib.stream import NormalQueueRTL
from pymtl3.stdlib.stream.ifcs import MasterIfcRTL, RecvIfcRTL, SendIfcRTL

from npu.arch.config import clog2
from npu.arch.messages import mk_mem_read_req, mk_spad_write
from rtl_models.common.stream_reader import StreamReader
from rtl_models.control.address_walk import WIDTH_BITS, AddressWalk

JOBS = 2    # that wait while one is done

def table_rows( cfg ):
  """Entries of the table of lines: one per token row of a pass, and as many more as an index can name."""
  return max( 1 << clog2( cfg.m_max ), 2 )

def mk_store_job( cfg ):
  """A checked STORE: `dram` and `row_lines` in lines, `spad` and `stride` in scratchpad rows, `length` in words."""
  return mk_bitstruct( f"StoreJob_a{cfg.derived.spad_addr_bits}", job_fields( cfg ) )

def mk_load_job( cfg ):
  """A checked LOAD or EMBED: the same, and `gather` if the line of each row is in the table."""
  return mk_bitstruct( f"LoadJob_a{cfg.derived.spad_addr_bits}", { **job_fields( cfg ), "gather": Bits1 } )

def job_fields( cfg ):
  """What loads and stores have in common."""
  SPAD = mk_bits( cfg.derived.spad_addr_bits )
  return { "dram": Bits32, "row_lines": Bits32, "spad": SPAD, "stride": SPAD, "rows": Bits8, "length": Bits20 }

class LoadUnit( Component ):
  """One job after the other; the memory is asked for the next row while the data of this one is under way.

  Ports
  -----
  job
    What to load (`mk_load_job`); lanes past the length become zero.
  table_en, table_row, table_line
    Writes the table of lines for a job with `gather`; only while the unit is not busy.
  busy
    A job waits or is being done.
  """

  def construct( s, cfg ):
    n, d  = cfg.n, cfg.derived
    lg    = clog2( n )
    s.set_metadata( VerilogTranslationPass.explicit_module_name, f"LoadUnit_n{n}_a{d.spad_addr_bits}_m{cfg.m_max}" )
    BEAT  = mk_bits( d.beat_bits )
    JOB   = mk_load_job( cfg )
    INDEX = mk_bits( clog2( table_rows( cfg ) ) )
    addr_bits  = d.beat_addr_bits
    beat_shift = clog2( d.beats_per_line )
    IDLE, SETUP, RUN = range( 3 )

    # Interface

    s.job        = RecvIfcRTL( JOB )
    s.table_en   = InPort()
    s.table_row  = InPort( INDEX )
    s.table_line = InPort( 32 )
    s.busy       = OutPort()
    s.mem        = MasterIfcRTL( mk_mem_read_req( cfg ), BEAT )
    s.wr         = SendIfcRTL( mk_spad_write( cfg ) )

    # Components

    s.queue  = NormalQueueRTL( JOB, JOBS )
    s.places = RegisterFile( Bits32, table_rows( cfg ) )
    s.reader = StreamReader( cfg )
    s.target = AddressWalk( d.spad_addr_bits )
    s.state  = Wire( 2 )
    s.now    = Wire( JOB )
    s.asks   = Wire( 8 )                  # rows that the reader has not been asked for
    s.index  = Wire( INDEX )              # the first of them
    s.line   = Wire( 32 )                 # and where it is, without a table
    s.from_  = Wire( 32 )                 # and where it is
    s.width  = Wire( WIDTH_BITS )         # beats of a row
    s.tail   = Wire( lg )                 # words in the last beat of a row; 0: all

    # Connections

    s.job               //= s.queue.recv
    s.reader.mem        //= s.mem
    s.places.wen[0]     //= s.table_en
    s.places.waddr[0]   //= s.table_row
    s.places.wdata[0]   //= s.table_line
    s.places.raddr[0]   //= s.index
    s.target.base       //= s.now.spad
    s.target.stride     //= s.now.stride
    s.target.rows       //= s.now.rows
    s.target.width      //= s.width
    s.tail              //= s.now.length[0:lg]

    # Logic

    @update
    def up_job():
      s.busy           @= ( s.state != IDLE ) | s.queue.send.val
      s.queue.send.rdy @= s.state == IDLE
      s.target.start   @= s.state == SETUP
      s.width          @= ( zext( s.now.length, WIDTH_BITS ) + ( n - 1 ) ) >> lg
      s.from_          @= s.line
      if s.now.gather:
        s.from_ @= s.places.rdata[0]
      s.reader.start.val       @= s.asks != 0
      s.reader.start.msg.addr  @= zext( s.from_, addr_bits ) << beat_shift
      s.reader.start.msg.beats @= zext( s.width, 32 )

    @update_ff
    def ff_job():
      if s.reset:
        s.state <<= IDLE
        s.asks  <<= 0
      elif s.state == IDLE:
        if s.queue.send.val:
          s.now   <<= s.queue.send.msg
          s.state <<= SETUP
      elif s.state == SETUP:
        s.state <<= RUN
        s.asks  <<= s.now.rows
        s.index <<= 0
        s.line  <<= s.now.dram
      else:
        if s.reader.start.val & s.reader.start.rdy:
          s.asks  <<= s.asks - 1
          s.index <<= s.index + 1
          s.line  <<= s.line + s.now.row_lines
        if s.target.step & s.target.last:
          s.state <<= IDLE

    s.keep   = [ Wire() for _ in range( n ) ]      # lanes that are not past the length
    s.lane   = [ Wire( 32 ) for _ in range( n ) ]
    s.masked = [ Wire( 32 ) for _ in range( n ) ]
    s.data   = Wire( BEAT )
    for c in range( n ):
      s.lane[c] //= s.reader.out.msg[32 * c : 32 * c + 32]
      s.data[32 * c : 32 * c + 32] //= s.masked[c]

    @update
    def up_lanes():
      for c in range( n ):
        s.keep[c]   @= ~s.target.last_column | ( s.tail == 0 ) | ( s.tail > c )
        s.masked[c] @= s.lane[c]
        if ~s.keep[c]:
          s.masked[c] @= 0

    @update
    def up_write():
      s.wr.val         @= s.reader.out.val & s.target.more
      s.wr.msg.addr    @= s.target.addr
      s.wr.msg.data    @= s.data
      s.reader.out.rdy @= s.wr.rdy & s.target.more
      s.target.step    @= s.wr.val & s.wr.rdy

  def line_trace( s ):
    return f"{s.state}:{s.asks}:{s.target.line_trace()}"
