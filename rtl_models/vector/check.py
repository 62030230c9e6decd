"""Checks a command of the vector unit and works out its sizes: `fl.vector_unit.check` in five cycles."""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass
from pymtl3.stdlib.stream.ifcs import RecvIfcRTL, SendIfcRTL

from npu.arch.config import clog2
from npu.arch.isa import Error
from npu.arch.messages import Ack, mk_vector_cmd
from rtl_models.common.range_check import RangeCheck
from rtl_models.vector.messages import ADD, ARGMAX, MUL, QUANTIZE, RMSNORM, ROPE, SWIGLU, mk_job

class VectorCheck( Component ):
  """Takes a command, answers it at `ack`, and sends it on at `out` if it is good.

  One multiplier for the width of a token row and one `RangeCheck` see src, src2 and dst one after the other.
  A command is taken only if `out` has room: its answer waits for nobody else.
  """

  def construct( s, cfg ):
    n, d  = cfg.n, cfg.derived
    lg    = clog2( n )
    a     = d.spad_addr_bits
    s.set_metadata( VerilogTranslationPass.explicit_module_name, f"VectorCheck_n{n}_a{a}_m{cfg.m_max}_k{cfg.k_max}" )
    CMD   = mk_vector_cmd( cfg )
    JOB   = mk_job( cfg )
    height  = max( a, 21 )                    # and it holds the length before it is divided
    m_max, k_max = cfg.m_max, cfg.k_max
    ZERO_SIZE, BAD_FIELD, BAD_SIZE, BAD_SPAD = (
      int( e ) for e in ( Error.ZERO_SIZE, Error.BAD_FIELD, Error.BAD_SIZE, Error.BAD_SPAD ) )

    # Interface

    s.cmd = RecvIfcRTL( CMD )
    s.ack = SendIfcRTL( Ack )
    s.out = SendIfcRTL( JOB )

    # Components

    IDLE, SIZE, SRC, SRC2, DST, REPORT = range( 6 )
    s.state    = Wire( 3 )
    s.c        = Wire( CMD )
    s.height   = Wire( height )               # of a segment, of ROPE of half a segment
    s.rest     = Wire( lg )
    s.bad_spad = Wire()
    s.range_   = RangeCheck( cfg )

    # What the operation is like

    s.is_rope   = Wire()
    s.is_argmax = Wire()
    s.is_norm   = Wire()
    s.has_src2  = Wire()
    s.unit      = Wire( 20 )                  # elements that begin on a scratchpad row of their own
    s.segments  = Wire( 8 )
    s.width     = Wire( 28 )                  # scratchpad rows of a token row

    @update
    def up_operation():
      s.is_rope   @= s.c.op == ROPE
      s.is_argmax @= s.c.op == ARGMAX
      s.is_norm   @= s.c.op == RMSNORM
      s.has_src2  @= s.is_norm | s.is_rope | ( s.c.op == SWIGLU ) | ( s.c.op == ADD ) | ( s.c.op == MUL )
      s.unit      @= s.c.length
      if s.is_rope:
        s.unit    @= s.c.length >> 1
      s.segments  @= s.c.segments
      if s.is_argmax:
        s.segments @= 1
      s.width     @= zext( s.height, 28 ) * zext( s.segments, 28 )
      if s.is_rope:
        s.width   @= ( zext( s.height, 28 ) * zext( s.segments, 28 ) ) << 1

    @update
    def up_range():
      s.range_.base   @= s.c.src
      s.range_.rows   @= s.c.rows
      s.range_.stride @= s.c.src_stride
      s.range_.width  @= s.width
      if s.is_argmax:
        s.range_.stride @= 0
      if s.state == SRC2:
        s.range_.base   @= s.c.src2
        s.range_.stride @= s.c.src2_stride
        if s.is_norm:
          s.range_.stride @= 0
        if s.is_norm | s.is_rope:
          s.range_.width @= zext( s.height, 28 )
      elif s.state == DST:
        s.range_.base   @= s.c.dst
        s.range_.stride @= s.c.dst_stride

    s.error = Wire( 4 )

    @update
    def up_error():
      s.error @= 0
      if ( s.c.rows == 0 ) | ( s.c.length == 0 ) | ( s.segments == 0 ):
        s.error @= ZERO_SIZE
      elif ( s.c.op == QUANTIZE ) & ( s.c.mode != 8 ) & ( s.c.mode != 16 ):
        s.error @= BAD_FIELD
      elif ( s.c.rows > m_max ) | ( s.is_rope & s.c.length[0] ):
        s.error @= BAD_SIZE
      elif s.is_norm & ( zext( s.c.length, 32 ) > k_max ):
        s.error @= BAD_SIZE
      elif s.bad_spad:
        s.error @= BAD_SPAD

    @update_ff
    def ff_state():
      if s.reset:
        s.state <<= IDLE
      elif s.state == IDLE:
        if s.cmd.val & s.cmd.rdy:
          s.c     <<= s.cmd.msg
          s.state <<= SIZE
      elif s.state == SIZE:
        s.height   <<= ( zext( s.unit, height ) + ( n - 1 ) ) >> lg
        s.rest     <<= s.unit[0:lg]
        s.bad_spad <<= 0
        s.state    <<= SRC
      elif s.state == SRC:
        s.bad_spad <<= ~s.range_.ok
        s.state    <<= SRC2
      elif s.state == SRC2:
        s.bad_spad <<= s.bad_spad | ( s.has_src2 & ~s.range_.ok )
        s.state    <<= DST
      elif s.state == DST:
        s.bad_spad <<= s.bad_spad | ( ~s.is_argmax & ~s.range_.ok )
        s.state    <<= REPORT
      elif s.ack.rdy:
        s.state <<= IDLE

    # The rest of an address or stride that is too long for the scratchpad is zero, or the stride is not used.
    same    = min( a, 16 )
    strides = ( "dst_stride", "src_stride", "src2_stride" )
    s.strides = [ Wire( a ) for _ in strides ]
    for i, name in enumerate( strides ):
      s.strides[i][0:same] //= getattr( s.c, name )[0:same]
      for b in range( same, a ):
        s.strides[i][b] //= 0

    @update
    def up_out():
      s.cmd.rdy @= ( s.state == IDLE ) & s.out.rdy
      s.ack.val @= s.state == REPORT
      s.ack.msg @= s.error
      s.out.val @= ( s.state == REPORT ) & s.ack.rdy & ( s.error == 0 )
      s.out.msg.op          @= s.c.op
      s.out.msg.mode        @= s.c.mode
      s.out.msg.rows        @= s.c.rows
      s.out.msg.segments    @= s.segments
      s.out.msg.height      @= s.height[0:a]
      s.out.msg.rest        @= s.rest
      s.out.msg.dst         @= s.c.dst[0:a]
      s.out.msg.src         @= s.c.src[0:a]
      s.out.msg.src2        @= s.c.src2[0:a]
      s.out.msg.dst_stride  @= s.strides[0]
      s.out.msg.src_stride  @= s.strides[1]
      s.out.msg.src2_stride @= s.strides[2]
      s.out.msg.param       @= s.c.param
      s.out.msg.eps         @= s.c.eps
      if s.is_argmax:
        s.out.msg.rows @= 1
      if s.is_norm:
        s.out.msg.src2_stride @= 0

  def line_trace( s ):
    return ".zabcR"[int( s.state )]
