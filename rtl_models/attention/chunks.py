"""Buffers two chunks of keys, values and exponents between the stream and the multipliers.

Costs 4 memories of half beats: rows by parity of the key and of the scratchpad row. A beat brings two halves, of one
key or of two, and a load takes one half of an even and of an odd key: neither ever needs a memory twice.
"""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass
from pymtl3.stdlib.basic_rtl import RegisterFile
from pymtl3.stdlib.stream.ifcs import RecvIfcRTL

from npu.arch.config import CHUNK, clog2
from rtl_models.attention.shape import AttentionShape

EXPONENT_BITS = 8 * 2 * CHUNK    # of a chunk: keys in the lower half, values in the upper

class AttentionChunks( Component ):
  """Takes chunks in order; keys, values and exponents are given back separately.

  Ports
  -----
  beats
    The stream.
  k_full, v_full
    Whether the oldest chunk's keys, or values, are here.
  k_free, v_free, e_free
    Gives back the oldest chunk's keys, values, exponents.
  slot, is_v, pair, dim
    What to read: chunk (mod 2), matrix, pair of keys, scratchpad row.
  even, odd
    n INT16 of the even and of the odd key, in the same cycle.
  exponents
    Of both chunks.
  """

  def construct( s, cfg ):
    n, d  = cfg.n, cfg.derived
    shape = AttentionShape( cfg )
    s.set_metadata( VerilogTranslationPass.explicit_module_name, f"AttentionChunks_n{n}" )
    BEAT  = mk_bits( d.beat_bits )
    DIM   = mk_bits( shape.dim_bits )
    LINE  = mk_bits( EXPONENT_BITS )
    half  = d.beat_bits // 2
    high  = clog2( shape.dims // 2 )          # bits of a scratchpad row's index without its parity
    a     = 5 + high                          # slot, matrix, pair of keys, scratchpad row
    depth = 1 << a
    dim_top    = high + 1
    last_line  = shape.tiles - 1
    beat_bits  = d.beat_bits

    # Interface

    s.dims      = InPort( DIM )
    s.beats     = RecvIfcRTL( BEAT )
    s.k_full    = OutPort()
    s.v_full    = OutPort()
    s.k_free    = InPort()
    s.v_free    = InPort()
    s.e_free    = InPort()
    s.slot      = InPort()
    s.is_v      = InPort()
    s.pair      = InPort( 3 )
    s.dim       = InPort( DIM )
    s.even      = OutPort( half )
    s.odd       = OutPort( half )
    s.exponents = [ OutPort( LINE ) for _ in range( 2 ) ]

    # Components: bank 2 * parity of the key + parity of the scratchpad row

    s.bank = [ RegisterFile( mk_bits( half ), depth ) for _ in range( 4 ) ]

    # State

    EXPS, KEYS, VALUES = range( 3 )
    s.part  = Wire( 2 )
    s.line  = Wire( 2 )              # beat of the exponents
    s.key   = Wire( 4 )              # of the beat's low half
    s.tile  = Wire( DIM )            # scratchpad row of the beat's low half
    s.into  = Wire()                 # chunk that is filled, mod 2
    s.kept  = [ Wire( LINE ) for _ in range( 2 ) ]
    s.e_count = Wire( 2 )
    s.k_count = Wire( 2 )
    s.v_count = Wire( 2 )

    # Filling: where the two halves of a beat go

    s.key1   = Wire( 4 )
    s.tile1  = Wire( DIM )
    s.key2   = Wire( 4 )             # of the next beat's low half
    s.tile2  = Wire( DIM )
    s.take   = Wire()
    s.ends   = Wire()                # the part is complete with this beat

    @update
    def up_fill():
      s.key1  @= s.key
      s.tile1 @= s.tile + 1
      if s.tile + 1 == s.dims:
        s.key1  @= s.key + 1
        s.tile1 @= 0
      s.key2  @= s.key1
      s.tile2 @= s.tile1 + 1
      if s.tile1 + 1 == s.dims:
        s.key2  @= s.key1 + 1
        s.tile2 @= 0
      s.beats.rdy @= s.e_count != 2
      s.ends      @= s.line == last_line
      if s.part == KEYS:
        s.beats.rdy @= s.k_count != 2
      elif s.part == VALUES:
        s.beats.rdy @= s.v_count != 2
      if s.part != EXPS:
        s.ends @= ( s.key1 == 15 ) & ( s.tile1 + 1 == s.dims )
      s.take   @= s.beats.val & s.beats.rdy
      s.k_full @= s.k_count != 0
      s.v_full @= s.v_count != 0

    s.e_new = Wire()
    s.k_new = Wire()
    s.v_new = Wire()

    @update
    def up_new():
      s.e_new @= s.take & s.ends & ( s.part == EXPS )
      s.k_new @= s.take & s.ends & ( s.part == KEYS )
      s.v_new @= s.take & s.ends & ( s.part == VALUES )

    @update_ff
    def ff_fill():
      if s.reset:
        s.part    <<= EXPS
        s.line    <<= 0
        s.key     <<= 0
        s.tile    <<= 0
        s.into    <<= 0
        s.e_count <<= 0
        s.k_count <<= 0
        s.v_count <<= 0
      else:
        s.e_count <<= s.e_count + zext( s.e_new, 2 ) - zext( s.e_free, 2 )
        s.k_count <<= s.k_count + zext( s.k_new, 2 ) - zext( s.k_free, 2 )
        s.v_count <<= s.v_count + zext( s.v_new, 2 ) - zext( s.v_free, 2 )
        if s.take:
          if s.part == EXPS:
            s.line <<= s.line + 1
          else:
            s.key  <<= s.key2
            s.tile <<= s.tile2
          if s.ends:
            s.line <<= 0
            s.part <<= s.part + 1
            if s.part == VALUES:
              s.part <<= EXPS
              s.into <<= ~s.into

    # Exponents: the first 32 bytes of the line. (Blocks of one name share one translation, hence two names.)

    s.wide = Wire( LINE )
    if beat_bits >= EXPONENT_BITS:
      s.wide //= s.beats.msg[0:EXPONENT_BITS]

      @update_ff
      def ff_whole():
        if s.take & ( s.part == EXPS ) & ( s.line == 0 ):
          s.kept[s.into] <<= s.wide
    else:
      @update
      def up_wide():
        s.wide @= concat( s.beats.msg, s.beats.msg )
        if s.line == 1:
          s.wide @= concat( s.beats.msg, s.kept[s.into][0:beat_bits] )

      @update_ff
      def ff_halves():
        if s.take & ( s.part == EXPS ) & ( s.line < 2 ):
          s.kept[s.into] <<= s.wide

    for i in range( 2 ):
      s.exponents[i] //= s.kept[i]

    # Memories

    s.low_at   = Wire( a )
    s.high_at  = Wire( a )
    s.low_in   = Wire( 2 )
    s.high_in  = Wire( 2 )
    s.low_half  = Wire( half )
    s.high_half = Wire( half )
    s.store    = Wire()
    s.low_half  //= s.beats.msg[0:half]
    s.high_half //= s.beats.msg[half : d.beat_bits]

    @update
    def up_place():
      s.store   @= s.take & ( s.part != EXPS )
      s.low_in  @= concat( s.key[0], s.tile[0] )
      s.high_in @= concat( s.key1[0], s.tile1[0] )
      s.low_at  @= concat( s.into, s.part == VALUES, s.key[1:4], s.tile[1:dim_top] )
      s.high_at @= concat( s.into, s.part == VALUES, s.key1[1:4], s.tile1[1:dim_top] )

    @update
    def up_banks():
      for b in range( 4 ):
        s.bank[b].wen[0]   @= s.store & ( ( s.low_in == b ) | ( s.high_in == b ) )
        s.bank[b].waddr[0] @= s.low_at
        s.bank[b].wdata[0] @= s.low_half
        if s.high_in == b:
          s.bank[b].waddr[0] @= s.high_at
          s.bank[b].wdata[0] @= s.high_half

    s.read_at = Wire( a )
    s.read_at //= lambda: concat( s.slot, s.is_v, s.pair, s.dim[1:dim_top] )
    for b in range( 4 ):
      s.bank[b].raddr[0] //= s.read_at

    @update
    def up_read():
      s.even @= s.bank[0].rdata[0]
      s.odd  @= s.bank[2].rdata[0]
      if s.dim[0]:
        s.even @= s.bank[1].rdata[0]
        s.odd  @= s.bank[3].rdata[0]

  def line_trace( s ):
    return f"{s.e_count}{s.k_count}{s.v_count}"
