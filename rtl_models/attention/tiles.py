"""Loads tiles of keys and of values into the columns' shadow registers, in the order in which they are multiplied.

Phases alternate: keys of chunk 0, keys of chunk 1, values of chunk 0, keys of chunk 2, values of chunk 1, ...: while
one chunk's softmax runs, the multipliers have the next chunk's keys. Two keys load per cycle.
"""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass

from rtl_models.attention.sequence import mk_chunk
from rtl_models.attention.shape import AttentionShape
from rtl_models.mac.column import WEIGHT_BITS
from rtl_models.mac.operand_decode import OperandDecode

def mk_tile( cfg ):
  """A stationary tile: n keys by n elements.

  `is_v`: values, with the elements as columns; otherwise keys, as columns. `slot` is the chunk, mod 2; `tile` the
  key tile. `opens` and `closes`: its sums are the first, the last ones of an accumulation. `ends`: the last
  tile of its phase. `fresh`: the chunk is the first of its sweep.
  """
  shape = AttentionShape( cfg )
  ROW   = mk_bits( shape.row_bits )
  return mk_bitstruct( f"AttentionTile_r{shape.row_bits}_t{shape.tile_bits}", {
    "is_v": Bits1, "slot": Bits1, "tile": mk_bits( shape.tile_bits ), "opens": Bits1, "closes": Bits1,
    "ends": Bits1, "fresh": Bits1, "row_first": ROW, "row_last": ROW } )

class AttentionTiles( Component ):
  """`full` says that the shadow registers hold the whole tile `tile`; `swap` takes it.

  Ports
  -----
  k_val, k_chunk, k_next
    The chunk whose keys are multiplied next, if it is known; it is done with.
  v_val, v_chunk, v_next
    The same for values.
  k_full, v_full
    The oldest keys, values are in the buffer.
  is_v, pair, dim, even, odd
    What is read from the buffer, and what it says.
  load_en, load
    To each column its own.
  """

  def construct( s, cfg ):
    n, d  = cfg.n, cfg.derived
    shape = AttentionShape( cfg )
    s.set_metadata( VerilogTranslationPass.explicit_module_name, f"AttentionTiles_n{n}_r{shape.row_bits}" )
    DIM     = mk_bits( shape.dim_bits )
    TILE    = mk_bits( shape.tile_bits )
    CHUNK_T = mk_chunk( cfg )
    TILE_T  = mk_tile( cfg )
    half    = d.beat_bits // 2
    pairs   = n // 2
    last_tile, last_pair = shape.tiles - 1, pairs - 1
    tiles_per = shape.tiles

    # Interface

    s.dims    = InPort( DIM )
    s.k_val   = InPort()
    s.k_chunk = InPort( CHUNK_T )
    s.k_slot  = InPort()
    s.k_full  = InPort()
    s.k_next  = OutPort()
    s.v_val   = InPort()
    s.v_chunk = InPort( CHUNK_T )
    s.v_slot  = InPort()
    s.v_full  = InPort()
    s.v_next  = OutPort()
    s.is_v    = OutPort()
    s.slot    = OutPort()
    s.pair    = OutPort( 3 )
    s.dim     = OutPort( DIM )
    s.even    = InPort( half )
    s.odd     = InPort( half )
    s.load_en = [ OutPort( n ) for _ in range( n ) ]
    s.load    = [ [ OutPort( WEIGHT_BITS ) for _ in range( n ) ] for _ in range( n ) ]
    s.full    = OutPort()
    s.tile    = OutPort( TILE_T )
    s.swap    = InPort()

    # State

    s.values  = Wire()             # phase
    s.ahead   = Wire( 2 )          # chunks whose keys are done and whose values are not
    s.closed  = Wire()             # the last keys were the last ones of the command
    s.t       = Wire( TILE )
    s.e       = Wire( DIM )
    s.p       = Wire( 3 )
    s.is_full = Wire()
    s.held    = Wire( TILE_T )
    s.full  //= s.is_full
    s.tile  //= s.held

    # One pair of keys per cycle

    s.step    = Wire()
    s.filled  = Wire()
    s.last_t  = Wire()
    s.last_e  = Wire()
    s.ends    = Wire()

    @update
    def up_step():
      s.last_t @= s.t == last_tile
      s.last_e @= s.e + 1 == s.dims
      s.step   @= s.k_val & s.k_full & ( ~s.is_full | s.swap )
      s.slot   @= s.k_slot
      if s.values:
        s.step @= s.v_val & s.v_full & ( ~s.is_full | s.swap )
        s.slot @= s.v_slot
      s.filled @= s.step & ( s.p == last_pair )
      s.ends   @= s.last_t & s.last_e
      s.k_next @= s.filled & s.ends & ~s.values
      s.v_next @= s.filled & s.ends & s.values
      s.is_v   @= s.values
      s.dim    @= s.e

    if tiles_per == 1:
      s.pair //= s.p
    else:
      @update
      def up_pair():
        s.pair @= zext( s.t, 3 ) * pairs + s.p

    s.after = Wire( 2 )

    @update
    def up_after():
      s.after @= s.ahead
      if s.k_next:
        s.after @= s.ahead + 1
      elif s.v_next:
        s.after @= s.ahead - 1

    @update_ff
    def ff_step():
      if s.reset:
        s.values  <<= 0
        s.ahead   <<= 0
        s.closed  <<= 0
        s.t       <<= 0
        s.e       <<= 0
        s.p       <<= 0
        s.is_full <<= 0
      else:
        if s.filled:
          s.is_full <<= 1
        elif s.swap:
          s.is_full <<= 0
        if s.step:
          s.p <<= s.p + 1
        if s.filled:
          s.p    <<= 0
          s.held <<= TILE_T( 0, s.k_slot, s.t, s.e == 0, s.last_e, s.ends, s.k_chunk.opens,
                             s.k_chunk.row_first, s.k_chunk.row_last )
          # Sums go over the elements of a key, or over the keys: that loop is the inner one.
          if ~s.values:
            s.e <<= s.e + 1
            if s.last_e:
              s.e <<= 0
              s.t <<= s.t + 1
          else:
            s.held <<= TILE_T( 1, s.v_slot, s.t, s.t == 0, s.last_t, s.ends, s.v_chunk.opens,
                               s.v_chunk.row_first, s.v_chunk.row_last )
            s.t <<= s.t + 1
            if s.last_t:
              s.t <<= 0
              s.e <<= s.e + 1
          if s.ends:
            s.t <<= 0
            s.e <<= 0
        if s.k_next:
          s.closed <<= s.k_chunk.closes
        if s.k_next | s.v_next:
          s.ahead  <<= s.after
          s.values <<= ( s.after == 2 ) | ( ( s.after == 1 ) & s.closed )
          if s.k_next:
            s.values <<= ( s.after == 2 ) | s.k_chunk.closes

    # To the columns: keys are columns, or the elements of values are

    s.decode_even = [ OperandDecode() for _ in range( n ) ]
    s.decode_odd  = [ OperandDecode() for _ in range( n ) ]
    s.weight_even = [ Wire( WEIGHT_BITS ) for _ in range( n ) ]
    s.weight_odd  = [ Wire( WEIGHT_BITS ) for _ in range( n ) ]
    for k in range( n ):
      s.decode_even[k].in_ //= s.even[16 * k : 16 * k + 16]
      s.decode_odd[k].in_  //= s.odd[16 * k : 16 * k + 16]
      for decode in ( s.decode_even[k], s.decode_odd[k] ):
        decode.floating //= 0
        decode.half     //= 0
      s.weight_even[k] //= s.decode_even[k].out
      s.weight_odd[k]  //= s.decode_odd[k].out

    # By column: what it loads if it is a key, and if it is an element.
    s.by_key = [ [ Wire( WEIGHT_BITS ) for _ in range( n ) ] for _ in range( n ) ]
    s.by_dim = [ [ Wire( WEIGHT_BITS ) for _ in range( n ) ] for _ in range( n ) ]
    for c in range( n ):
      for k in range( n ):
        s.by_key[c][k] //= s.weight_odd[k] if c % 2 else s.weight_even[k]
        s.by_dim[c][k] //= s.weight_odd[c] if k % 2 else s.weight_even[c]

    MASK    = mk_bits( n )
    s.pair_rows = Wire( n )
    ALL     = MASK( -1 )
    BOTH    = MASK( 3 )

    @update
    def up_load():
      s.pair_rows @= BOTH << ( zext( s.p, n ) << 1 )
      for c in range( n ):
        for k in range( n ):
          s.load[c][k] @= s.by_key[c][k]
          if s.values:
            s.load[c][k] @= s.by_dim[c][k]
        s.load_en[c] @= 0
        if s.step:
          if s.values:
            s.load_en[c] @= s.pair_rows
          elif s.pair_rows[c]:
            s.load_en[c] @= ALL

  def line_trace( s ):
    return f"{'V' if s.values else 'K'}{s.t}.{s.e}.{s.p}{'F' if s.is_full else ' '}"
