"""Appends a pass's keys and values to the cache: two scratchpad rows make one beat of INT16."""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass
from pymtl3.stdlib.stream.ifcs import RecvIfcRTL, SendIfcRTL

from npu.arch.config import CHUNK
from npu.arch.messages import mk_mem_write
from rtl_models.attention.shape import AttentionShape

class AttentionAppend( Component ):
  """For each token row, keys then values, each KV head: its rows, then its exponent, as in `npu.arch.kv_cache`.

  A beat is written when its second half is there, or at the end of a head's row. Rows of an odd number of
  halves begin in the middle of a beat: strobes.

  Ports
  -----
  start
    Begins; the parameters stay.
  chunk
    First beat of the chunk of `pos`, of KV head 0.
  chunk_beats, head_beats
    Beats from a chunk, and from a KV head, to the next.
  rows_in
    Scratchpad rows, per token all keys and then all values.
  idle
    Every write is taken.
  """

  def construct( s, cfg ):
    n, d  = cfg.n, cfg.derived
    shape = AttentionShape( cfg )
    s.set_metadata( VerilogTranslationPass.explicit_module_name, f"AttentionAppend_n{n}" )
    BEAT  = mk_bits( d.beat_bits )
    ADDR  = mk_bits( d.beat_addr_bits )
    DIM   = mk_bits( shape.dim_bits )
    WRITE = mk_mem_write( cfg )
    MASK  = mk_bits( d.beat_bytes )
    tiles = shape.tiles
    half_bits  = d.beat_bits // 2
    d_bytes    = d.beat_bytes
    LOW_HALF   = MASK( ( 1 << ( d.beat_bytes // 2 ) ) - 1 )
    HIGH_HALF  = MASK( ( ( 1 << ( d.beat_bytes // 2 ) ) - 1 ) << ( d.beat_bytes // 2 ) )
    # At n = 4 the exponents of keys and of values are in beats of their own.
    OWN_BEATS  = Bits1( d.beat_bytes == CHUNK )

    # Interface

    s.start       = InPort()
    s.rows        = InPort( 8 )
    s.kv_heads    = InPort( 8 )
    s.dims        = InPort( DIM )
    s.slot        = InPort( 4 )
    s.chunk       = InPort( ADDR )
    s.chunk_beats = InPort( 10 )
    s.head_beats  = InPort( 32 )
    s.rows_in     = RecvIfcRTL( BEAT )
    s.kv_wr       = SendIfcRTL( WRITE )
    s.idle        = OutPort()

    # State

    s.busy     = Wire()
    s.row      = Wire( 8 )
    s.which    = Wire()              # 0 keys, 1 values
    s.head     = Wire( 8 )
    s.t        = Wire( DIM )
    s.exp_next = Wire()              # the exponent is written next
    s.place    = Wire( 4 )           # of the token in its chunk
    s.first    = Wire( ADDR )        # beat of this token's chunk, KV head 0
    s.block    = Wire( ADDR )        # and of this KV head
    s.hold     = Wire( half_bits )
    s.exp      = Wire( 8 )
    s.full     = Wire()
    s.out      = Wire( WRITE )

    # What is written

    s.half     = Wire( half_bits )
    for c in range( n ):
      s.half[16 * c : 16 * c + 16] //= s.rows_in.msg[32 * c : 32 * c + 16]
    s.exps     = Wire( BEAT )        # the exponent, in every byte
    for b in range( d.beat_bytes ):
      s.exps[8 * b : 8 * b + 8] //= s.exp

    s.halves   = Wire( 12 )          # half beats before this one in the chunk's rows
    s.high     = Wire()
    s.last_t   = Wire()
    s.step     = Wire()
    s.emit     = Wire()
    s.low_half = Wire( half_bits )
    s.place_byte     = Wire( 5 )
    s.next     = Wire( WRITE )

    @update
    def up_step():
      s.halves  @= zext( concat( s.which, s.place ), 12 ) * zext( s.dims, 12 ) + zext( s.t, 12 )
      s.high    @= s.halves[0]
      s.last_t  @= s.t + 1 == s.dims
      s.step    @= s.busy & ( ~s.full | s.kv_wr.rdy ) & ( s.exp_next | s.rows_in.val )
      s.emit    @= s.step & ( s.exp_next | s.high | s.last_t )
      s.rows_in.rdy @= s.step & ~s.exp_next
      s.kv_wr.val   @= s.full
      s.kv_wr.msg   @= s.out
      s.idle        @= ~s.busy & ~s.full

    @update
    def up_write():
      s.low_half @= s.half
      if s.high:
        s.low_half @= s.hold
      s.place_byte @= zext( s.place, 5 )
      if s.which & ~OWN_BEATS:
        s.place_byte @= zext( s.place, 5 ) + CHUNK
      if s.exp_next:
        s.next.addr   @= s.block + zext( s.which & OWN_BEATS, ADDR )
        s.next.data   @= s.exps
        s.next.strobe @= MASK( 1 ) << zext( s.place_byte, d_bytes )
      else:
        s.next.addr   @= s.block + zext( s.halves[1:12], ADDR ) + tiles
        s.next.data   @= concat( s.half, s.low_half )
        s.next.strobe @= LOW_HALF
        if s.high:
          s.next.strobe @= HIGH_HALF
          if s.t != 0:
            s.next.strobe @= HIGH_HALF | LOW_HALF

    @update_ff
    def ff_step():
      if s.reset:
        s.busy <<= 0
        s.full <<= 0
      else:
        if s.emit:
          s.full <<= 1
          s.out  <<= s.next
        elif s.kv_wr.rdy:
          s.full <<= 0
        if s.start:
          s.busy     <<= 1
          s.row      <<= 0
          s.which    <<= 0
          s.head     <<= 0
          s.t        <<= 0
          s.exp_next <<= 0
          s.place    <<= s.slot
          s.first    <<= s.chunk
          s.block    <<= s.chunk
        elif s.step & ~s.exp_next:
          s.hold <<= s.half
          s.t    <<= s.t + 1
          if s.t == 0:
            s.exp <<= s.rows_in.msg[16:24]
          if s.last_t:
            s.t        <<= 0
            s.exp_next <<= 1
        elif s.step:
          s.exp_next <<= 0
          s.head  <<= s.head + 1
          s.block <<= s.block + zext( s.head_beats, ADDR )
          if s.head + 1 == s.kv_heads:
            s.head  <<= 0
            s.block <<= s.first
            s.which <<= ~s.which
            if s.which:
              s.row   <<= s.row + 1
              s.place <<= s.place + 1
              if s.place == 15:
                s.first <<= s.first + zext( s.chunk_beats, ADDR )
                s.block <<= s.first + zext( s.chunk_beats, ADDR )
              if s.row + 1 == s.rows:
                s.busy <<= 0

  def line_trace( s ):
    return f"{s.row}:{s.head}" if s.busy else "."
