"""Which scratchpad rows the vector unit reads and writes, in order: nested loops in hardware.

    src    for each token row, segment, pass over the segment, row of it (of ROPE: row of both halves)
    src2   the second operand, row by row as src; and for QUANTIZE and RMSNORM the exponent scan of src, ahead

The two ports run on their own, each as far ahead as its buffer. RMSNORM's gain and scans share src2: the scan of the
next segment comes before the gain of this one.
"""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass
from pymtl3.stdlib.stream.ifcs import RecvIfcRTL

from npu.arch.config import clog2
from rtl_models.vector.messages import (
  ADD,
  ARGMAX,
  MUL,
  QUANTIZE,
  RMSNORM,
  ROPE,
  SOFTMAX,
  SWIGLU,
  mk_row_tag,
  mk_scan_tag,
  mk_walk,
)

SCANNED = 4    # segments whose exponents may wait for use

class VectorSequencer( Component ):
  """Takes a job once both ports have asked for everything that the one before needs.

  Ports
  -----
  ask, addr, tag, taken, and the same with 2
    For src and src2: to the RowFetch, and from it whether the row is asked for in this cycle.
  hit, hit2
    The row waits for a result that is still to be written.
  room, push, write
    With a row of src goes the address of its result, if it has one, into the ledger.
  scan_used
    The exponent of a segment is used up.
  """

  def construct( s, cfg ):
    n, d  = cfg.n, cfg.derived
    a, lg = d.spad_addr_bits, clog2( n )
    s.set_metadata( VerilogTranslationPass.explicit_module_name, f"VectorSequencer_n{n}_a{a}" )
    SPAD  = mk_bits( a )
    TAG   = mk_row_tag( cfg )
    SCAN  = mk_scan_tag( cfg )
    WALK  = mk_walk( cfg )
    ALL   = mk_bits( n )( -1 )

    # Interface

    s.start     = RecvIfcRTL( WALK )
    s.ask       = OutPort()
    s.addr      = OutPort( SPAD )
    s.tag       = OutPort( TAG )
    s.taken     = InPort()
    s.hit       = InPort()
    s.ask2      = OutPort()
    s.addr2     = OutPort( SPAD )
    s.tag2      = OutPort( SCAN )
    s.taken2    = InPort()
    s.hit2      = InPort()
    s.room      = InPort()
    s.push      = OutPort()
    s.write     = OutPort( SPAD )
    s.scan_used = InPort()

    # The job, and what it is like

    s.op          = Wire( 4 )
    s.segments    = Wire( 8 )
    s.height      = Wire( SPAD )
    s.rest        = Wire( lg )
    s.src_stride  = Wire( SPAD )
    s.src2_stride = Wire( SPAD )
    s.dst_stride  = Wire( SPAD )
    s.is_rope = Wire()
    s.is_norm = Wire()
    s.phases  = Wire( 2 )                     # the last pass over a segment
    s.keep    = Wire( n )                     # lanes of the last row of a segment

    @update
    def up_job():
      s.is_rope @= s.op == ROPE
      s.is_norm @= s.op == RMSNORM
      s.phases  @= 0
      if s.is_norm:
        s.phases @= 1
      elif s.op == SOFTMAX:
        s.phases @= 2
      s.keep @= ALL
      if s.rest != 0:
        s.keep @= ~( ALL << zext( s.rest, n ) )

    #---------------------------------------------------------------------
    # src, and the addresses of results
    #---------------------------------------------------------------------

    s.on      = Wire()
    s.cur     = Wire( SPAD )
    s.segment = Wire( SPAD )                  # first row of the segment
    s.row     = Wire( SPAD )                  # of the token row
    s.w_cur   = Wire( SPAD )
    s.w_row   = Wire( SPAD )
    s.k       = Wire( SPAD )                  # row within the segment
    s.phase   = Wire( 2 )
    s.second  = Wire()
    s.g       = Wire( 8 )                     # segments and token rows to go
    s.r       = Wire( 8 )

    s.last_k     = Wire()
    s.last_phase = Wire()
    s.last_g     = Wire()
    s.last_r     = Wire()
    s.skip       = Wire( SPAD )               # ROPE: the second half, which is already done
    s.writes     = Wire()

    @update
    def up_src():
      s.last_k     @= s.k + 1 == s.height
      s.last_phase @= s.phase == s.phases
      s.last_g     @= s.g == 1
      s.last_r     @= s.r == 1
      s.writes     @= s.last_phase & ( s.op != ARGMAX )
      s.skip       @= 0
      if s.is_rope:
        s.skip     @= s.height
      s.ask     @= s.on & ~s.hit & ( s.room | ~s.writes )
      s.addr    @= s.cur
      s.write      @= s.w_cur
      if s.second:
        s.addr  @= s.cur + s.height
        s.write    @= s.w_cur + s.height
      s.tag.phase  @= s.phase
      s.tag.second @= s.second
      s.tag.first  @= s.k == 0
      s.tag.last   @= s.last_k
      s.tag.ends   @= s.last_k & s.last_phase & s.last_g & s.last_r & ( s.second | ~s.is_rope )
      s.tag.keep   @= ALL
      if s.last_k:
        s.tag.keep @= s.keep

    @update
    def up_push():
      s.push @= s.taken & s.writes

    @update_ff
    def ff_src():
      if s.reset:
        s.on <<= 0
      elif s.start.val & s.start.rdy:
        s.on      <<= 1
        s.cur     <<= s.start.msg.src
        s.segment <<= s.start.msg.src
        s.row     <<= s.start.msg.src
        s.w_cur   <<= s.start.msg.dst
        s.w_row   <<= s.start.msg.dst
        s.k       <<= 0
        s.phase   <<= 0
        s.second  <<= 0
        s.g       <<= s.start.msg.segments
        s.r       <<= s.start.msg.rows
      elif s.taken:
        if s.is_rope & ~s.second:
          s.second <<= 1
        else:
          s.second <<= 0
          s.k      <<= s.k + 1
          s.cur    <<= s.cur + 1
          if s.writes:
            s.w_cur <<= s.w_cur + 1
          if s.last_k:
            s.k     <<= 0
            s.phase <<= s.phase + 1
            s.cur   <<= s.segment
            if s.last_phase:
              s.phase   <<= 0
              s.g       <<= s.g - 1
              s.cur     <<= s.cur + 1 + s.skip
              s.segment <<= s.cur + 1 + s.skip
              s.w_cur   <<= s.w_cur + 1 + s.skip
              if s.last_g:
                s.g       <<= s.segments
                s.r       <<= s.r - 1
                s.row     <<= s.row + s.src_stride
                s.cur     <<= s.row + s.src_stride
                s.segment <<= s.row + s.src_stride
                s.w_row   <<= s.w_row + s.dst_stride
                s.w_cur   <<= s.w_row + s.dst_stride
                if s.last_r:
                  s.on <<= 0

    #---------------------------------------------------------------------
    # src2: the exponent scan
    #---------------------------------------------------------------------

    s.c_on   = Wire()
    s.c_cur  = Wire( SPAD )
    s.c_row  = Wire( SPAD )
    s.c_k    = Wire( SPAD )
    s.c_g    = Wire( 8 )
    s.c_r    = Wire( 8 )
    s.free   = Wire( 3 )                      # exponents that there is room for
    s.c_last = Wire()
    s.c_done = Wire()                         # a segment is asked for

    # and the second operand

    s.o_on   = Wire()
    s.o_cur  = Wire( SPAD )
    s.o_row  = Wire( SPAD )
    s.o_k    = Wire( SPAD )
    s.o_g    = Wire( 8 )
    s.o_r    = Wire( 8 )
    s.o_last = Wire()

    # Whose turn it is; RMSNORM has scanned `ahead` segments more than it has asked gains for.
    s.scanning = Wire()
    s.ahead    = Wire( 2 )

    @update
    def up_src2():
      s.c_last  @= s.c_k + 1 == s.height
      s.o_last  @= s.o_k + 1 == s.height
      s.tag2.scan  @= s.scanning
      s.tag2.first @= s.c_k == 0
      s.tag2.last  @= s.c_last
      s.tag2.keep  @= ALL
      s.addr2 @= s.o_cur
      s.ask2  @= s.o_on & ~s.hit2
      if s.scanning:
        s.addr2 @= s.c_cur
        s.ask2  @= s.c_on & ~s.hit2 & ( s.free != 0 )
        if s.c_last:
          s.tag2.keep @= s.keep

    @update
    def up_scanned():
      s.c_done @= s.taken2 & s.scanning & s.c_last

    @update_ff
    def ff_src2():
      if s.reset:
        s.c_on <<= 0
        s.o_on <<= 0
        s.free <<= SCANNED
      else:
        if s.c_done & ~s.scan_used:
          s.free <<= s.free - 1
        elif s.scan_used & ~s.c_done:
          s.free <<= s.free + 1
        if s.start.val & s.start.rdy:
          s.scanning <<= ( s.start.msg.op == QUANTIZE ) | ( s.start.msg.op == RMSNORM )
          s.ahead    <<= 0
          s.c_on     <<= ( s.start.msg.op == QUANTIZE ) | ( s.start.msg.op == RMSNORM )
          s.c_cur    <<= s.start.msg.src
          s.c_row    <<= s.start.msg.src
          s.c_k      <<= 0
          s.c_g      <<= s.start.msg.segments
          s.c_r      <<= s.start.msg.rows
          s.o_on     <<= ( ( s.start.msg.op == RMSNORM ) | ( s.start.msg.op == ROPE ) | ( s.start.msg.op == SWIGLU )
                           | ( s.start.msg.op == ADD ) | ( s.start.msg.op == MUL ) )
          s.o_cur    <<= s.start.msg.src2
          s.o_row    <<= s.start.msg.src2
          s.o_k      <<= 0
          s.o_g      <<= s.start.msg.segments
          s.o_r      <<= s.start.msg.rows
        elif s.taken2 & s.scanning:
          s.c_k   <<= s.c_k + 1
          s.c_cur <<= s.c_cur + 1
          if s.c_last:
            s.c_k <<= 0
            s.c_g <<= s.c_g - 1
            if s.is_norm:
              s.ahead    <<= s.ahead + 1
              s.scanning <<= s.ahead == 0
            if s.c_g == 1:
              s.c_g   <<= s.segments
              s.c_r   <<= s.c_r - 1
              s.c_row <<= s.c_row + s.src_stride
              s.c_cur <<= s.c_row + s.src_stride
              if s.c_r == 1:
                s.c_on     <<= 0
                s.scanning <<= 0
        elif s.taken2:
          s.o_k   <<= s.o_k + 1
          s.o_cur <<= s.o_cur + 1
          if s.o_last:
            s.o_k <<= 0
            s.o_g <<= s.o_g - 1
            s.ahead    <<= s.ahead - 1
            s.scanning <<= s.c_on
            if s.is_rope | s.is_norm:
              s.o_cur <<= s.o_row
            if s.o_g == 1:
              s.o_g   <<= s.segments
              s.o_r   <<= s.o_r - 1
              s.o_row <<= s.o_row + s.src2_stride
              s.o_cur <<= s.o_row + s.src2_stride
              if s.o_r == 1:
                s.o_on <<= 0

    @update
    def up_start():
      s.start.rdy @= ~s.on & ~s.c_on & ~s.o_on

    @update_ff
    def ff_job():
      if s.start.val & s.start.rdy:
        s.op          <<= s.start.msg.op
        s.segments    <<= s.start.msg.segments
        s.height      <<= s.start.msg.height
        s.rest        <<= s.start.msg.rest
        s.src_stride  <<= s.start.msg.src_stride
        s.src2_stride <<= s.start.msg.src2_stride
        s.dst_stride  <<= s.start.msg.dst_stride

  def line_trace( s ):
    return ( f"{s.addr if s.ask else '#' if s.on else '.'}|"
             f"{s.addr2 if s.ask2 else '#' if s.c_on | s.o_on else '.'}" )
