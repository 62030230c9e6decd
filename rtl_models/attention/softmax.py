"""The online softmax: sums of a row with a chunk's keys become 16-bit probabilities, n keys per step.

Costs n lanes, and per query row the running maximum and mass; probabilities and the row's powers of two are kept for
two chunks, because the softmax of one runs while the other's are multiplied with its values.

A row goes in as T key tiles in T consecutive steps, or with steps between rows. `done` comes a fixed number of steps
after its last one.
"""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass
from pymtl3.stdlib.basic_rtl import RegisterFile

from npu.arch.config import clog2
from npu.arch.numerics.special import U_FRACTION_BITS
from rtl_models.attention.chunks import EXPONENT_BITS
from rtl_models.attention.largest import Largest
from rtl_models.attention.reciprocal import STEPS, AttentionReciprocal
from rtl_models.attention.shape import DOT_BITS, DROP_BITS, K_BITS, AttentionShape
from rtl_models.attention.softmax_lane import SCORE_BITS, TOP_BITS, AttentionSoftmaxLane
from rtl_models.common.delay import Delay
from rtl_models.common.exp2neg import P_BITS
from rtl_models.common.fp32 import Fp32Add, Fp32AddExponent, IntToFp32

def softmax_steps( tiles ):
  """Steps from a row's last key tile until everything of the row can be read."""
  return 16 + tiles

class AttentionSoftmax( Component ):
  """Ports as below; everything moves in a step, a cycle with `go`.

  Ports
  -----
  val, slot, row, tile
    A key tile of a row goes in: chunk mod 2, query row, which tile.
  limit
    The last key of the chunk that the query sees; 16 or more: all, and the next chunk as well.
  fresh, ends
    The chunk is the first of its sweep; the row is the last one of the chunk.
  dot, dot_exp
    The sums, and the exponent of the query.
  exponents
    Of the keys and values of both chunks.
  done
    The last row of a chunk has come to its end.
  w_slot, w_row, w_tile, w
    Probabilities to read.
  o_slot, o_row, sum_k, o_k
    To read: powers of two of a row's sum, and of its output so far.
  f_slot, f_row, ready, factor
    To read: whether the chunk is the row's last, and the reciprocal of its mass.
  """

  def construct( s, cfg ):
    n, shape = cfg.n, AttentionShape( cfg )
    s.set_metadata( VerilogTranslationPass.explicit_module_name, f"AttentionSoftmax_n{n}_r{shape.rows}" )
    T     = shape.tiles
    ROW   = mk_bits( shape.row_bits )
    TILE  = mk_bits( shape.tile_bits )
    LINE  = mk_bits( EXPONENT_BITS )
    FAR   = mk_bits( TOP_BITS )
    last_tile = T - 1
    rows2     = 2 * ( 1 << shape.row_bits )
    sum_bits  = P_BITS + 4                       # 16 probabilities
    signed    = sum_bits + 1
    max_drop  = ( 1 << DROP_BITS ) - 1
    info_bits = 8 + DROP_BITS
    row_bits  = shape.row_bits
    twelve, round_up = U_FRACTION_BITS, ( 1 << U_FRACTION_BITS ) - 1
    ceil_bits = SCORE_BITS + 1
    # Steps that a row has behind it, as in the lane, where something happens.
    TOP, TERM, MASS, LARGE, QUANT = 6, 8 + T, 9 + T, 10 + T, 10 + 2 * T
    LAST = LARGE + 1 + STEPS
    assert LAST + 1 == softmax_steps( T ) and QUANT <= LAST

    # Interface

    s.go        = InPort()
    s.val       = InPort()
    s.slot      = InPort()
    s.row       = InPort( ROW )
    s.tile      = InPort( TILE )
    s.limit     = InPort( 8 )
    s.fresh     = InPort()
    s.ends      = InPort()
    s.dot       = [ InPort( DOT_BITS ) for _ in range( n ) ]
    s.dot_exp   = InPort( 8 )
    s.scale     = InPort( 32 )
    s.exponents = [ InPort( LINE ) for _ in range( 2 ) ]
    s.done      = OutPort()
    s.w_slot    = InPort()
    s.w_row     = InPort( ROW )
    s.w_tile    = InPort( TILE )
    s.w         = [ OutPort( 16 ) for _ in range( n ) ]
    s.o_slot    = InPort()
    s.o_row     = InPort( ROW )
    s.sum_k     = OutPort( K_BITS )
    s.o_k       = OutPort( K_BITS )
    s.f_slot    = InPort()
    s.f_row     = InPort( ROW )
    s.ready     = OutPort()
    s.factor    = OutPort( 32 )

    # Components

    s.lane       = [ AttentionSoftmaxLane( T ) for _ in range( n ) ]
    s.top_of     = Largest( SCORE_BITS, n )
    s.exp_of     = Largest( 8, n )
    s.tops       = RegisterFile( FAR, 1 << row_bits )
    s.masses     = RegisterFile( Bits32, 1 << row_bits )
    s.ws         = RegisterFile( mk_bits( 16 * n ), rows2 * T )
    s.infos      = RegisterFile( mk_bits( info_bits ), rows2 )
    s.factors    = RegisterFile( mk_bits( 33 ), rows2 )
    s.reciprocal = AttentionReciprocal()
    s.mass_float = IntToFp32( signed )
    s.mass_lower = Fp32AddExponent( K_BITS )
    s.mass_add   = Fp32Add()

    # What goes along with a key tile

    s.vals   = Delay( 1, LAST )
    s.lasts  = Delay( 1, LAST )        # it is its row's last tile
    s.endss  = Delay( 1, LAST )
    s.slots  = Delay( 1, LAST )
    s.rows   = Delay( row_bits, LAST )
    s.tiles  = Delay( shape.tile_bits, QUANT )
    s.limits = Delay( 8, 4 )
    s.readys = Delay( 1, LAST )        # the chunk is the row's last
    s.freshs = Delay( 1, LARGE )
    s.exps   = Delay( 8, 3 )
    s.drops  = Delay( DROP_BITS, LARGE - TOP )
    for line in ( s.vals, s.lasts, s.endss, s.slots, s.rows, s.tiles, s.limits, s.readys, s.freshs, s.exps,
                  s.drops ):
      line.go //= s.go
    s.vals.in_   //= s.val
    s.endss.in_  //= s.ends
    s.slots.in_  //= s.slot
    s.rows.in_   //= s.row
    s.tiles.in_  //= s.tile
    s.limits.in_ //= s.limit
    s.freshs.in_ //= s.fresh
    s.readys.in_ //= lambda: s.limit < 16
    s.exps.in_   //= s.dot_exp
    s.lasts.in_  //= lambda: s.tile == last_tile

    #---------------------------------------------------------------------
    # Scores
    #---------------------------------------------------------------------

    # Exponents by slot and key: element 16 * slot + key.
    s.k_exps = [ Wire( 8 ) for _ in range( 32 ) ]
    s.v_exps = [ Wire( 8 ) for _ in range( 32 ) ]
    for slot in range( 2 ):
      for key in range( 16 ):
        s.k_exps[16 * slot + key] //= s.exponents[slot][8 * key : 8 * key + 8]
        s.v_exps[16 * slot + key] //= s.exponents[slot][128 + 8 * key : 136 + 8 * key]

    # Keys of the lanes: where a tile's key is in a chunk, and among the exponents of both.
    lg = clog2( n )
    s.key3  = [ Wire( 5 ) for _ in range( n ) ]
    s.key4  = [ Wire( 8 ) for _ in range( n ) ]
    s.key8  = [ Wire( 5 ) for _ in range( n ) ]
    for c in range( n ):
      for b in range( lg ):
        for key in ( s.key3[c], s.key4[c], s.key8[c] ):
          key[b] //= ( c >> b ) & 1
      for b in range( lg, 4 ):
        s.key3[c][b] //= s.tiles.out[3][b - lg]
        s.key4[c][b] //= s.tiles.out[4][b - lg]
        s.key8[c][b] //= s.tiles.out[TERM][b - lg]
      s.key3[c][4] //= s.slots.out[3]
      s.key8[c][4] //= s.slots.out[TERM]
      for b in range( 4, 8 ):
        s.key4[c][b] //= 0

    s.score_k = [ Wire( K_BITS ) for _ in range( n ) ]
    s.term_k  = [ Wire( K_BITS ) for _ in range( n ) ]
    s.sees    = [ Wire() for _ in range( n ) ]
    s.exp3    = Wire( 8 )
    s.limit4  = Wire( 8 )
    s.exp3   //= s.exps.out[3]
    s.limit4 //= s.limits.out[4]

    @update
    def up_keys():
      for c in range( n ):
        # lsb of query and key: E - 127 - 14 each; a value's 2**(E - 127).
        s.score_k[c] @= zext( s.exp3, K_BITS ) + zext( s.k_exps[s.key3[c]], K_BITS ) - 282
        s.term_k[c]  @= zext( s.v_exps[s.key8[c]], K_BITS ) - 127
        s.sees[c]    @= s.key4[c] <= s.limit4

    s.top7    = Wire( TOP_BITS )
    s.w_scale = Wire( K_BITS )
    s.w_new   = Wire( 16 * n )
    for c in range( n ):
      s.lane[c].go       //= s.go
      s.lane[c].dot      //= s.dot[c]
      s.lane[c].factor   //= s.scale
      s.lane[c].score_k  //= s.score_k[c]
      s.lane[c].sees     //= s.sees[c]
      s.lane[c].score    //= s.top_of.in_[c]
      s.lane[c].top      //= s.top7
      s.lane[c].term_k   //= s.term_k[c]
      s.lane[c].exponent //= s.exp_of.in_[c]
      s.lane[c].w_scale  //= s.w_scale
      s.w_new[16 * c : 16 * c + 16] //= s.lane[c].w

    #---------------------------------------------------------------------
    # Maximum: of the row's tiles, then rounded up, then of all chunks
    #---------------------------------------------------------------------

    s.max6   = Wire( SCORE_BITS )
    s.ceil6  = Wire( ceil_bits )
    s.old6   = Wire( TOP_BITS )
    s.new6   = Wire( TOP_BITS )
    s.rise6  = Wire( TOP_BITS )
    s.top_en = Wire()
    s.last6  = Wire()
    s.first5 = Wire()
    s.last6           //= s.lasts.out[TOP]
    s.old6            //= s.tops.rdata[0]
    s.tops.raddr[0]   //= s.rows.out[TOP]
    s.tops.waddr[0]   //= s.rows.out[TOP]
    s.tops.wdata[0]   //= s.new6
    s.tops.wen[0]     //= s.top_en
    s.first5          //= lambda: s.tiles.out[5] == 0

    @update
    def up_top():
      s.ceil6 @= ( zext( s.max6, ceil_bits ) + round_up ) >> twelve
      s.new6  @= s.ceil6[0:TOP_BITS]
      if ~s.freshs.out[6] & ( s.old6 > s.ceil6[0:TOP_BITS] ):
        s.new6 @= s.old6
      s.rise6 @= s.new6 - s.old6
      s.drops.in_ @= s.rise6[0:DROP_BITS]
      if s.rise6 > max_drop:
        s.drops.in_ @= max_drop
      s.top_en @= s.go & s.vals.out[6] & s.last6

    @update_ff
    def ff_top():
      if s.go:
        if s.first5 | ( s.top_of.out > s.max6 ):
          s.max6 <<= s.top_of.out
        if s.vals.out[6] & s.last6:
          s.top7 <<= s.new6

    #---------------------------------------------------------------------
    # Mass: the sum of probabilities
    #---------------------------------------------------------------------

    s.beat8  = Wire( sum_bits )
    s.sum9   = Wire( sum_bits )
    s.first8 = Wire()
    s.ps     = [ Wire( P_BITS ) for _ in range( n ) ]
    for c in range( n ):
      s.ps[c] //= s.lane[c].p
    s.first8 //= lambda: s.tiles.out[TERM] == 0

    @update
    def up_sum():
      s.beat8 @= 0
      for c in range( n ):
        s.beat8 @= s.beat8 + zext( s.ps[c], sum_bits )

    s.sum10  = Wire( 32 )
    s.mass11 = Wire( 32 )
    s.mass_en = Wire()
    s.mass_float.in_  //= lambda: zext( s.sum9, signed )
    s.masses.raddr[0] //= s.rows.out[LARGE]
    s.masses.waddr[0] //= s.rows.out[LARGE]
    s.masses.wdata[0] //= s.mass_add.out
    s.masses.wen[0]   //= s.mass_en
    s.mass_lower.x    //= s.masses.rdata[0]
    s.mass_add.b      //= s.sum10

    s.drop10  = Wire( DROP_BITS )
    s.fresh10 = Wire()
    s.drop10  //= s.drops.out[LARGE - TOP]
    s.fresh10 //= s.freshs.out[LARGE]
    s.end10   = Wire()                # a row's last tile is behind step LARGE
    s.end10  //= lambda: s.vals.out[LARGE] & s.lasts.out[LARGE]

    @update
    def up_mass():
      s.mass_lower.k @= ~zext( s.drop10, K_BITS ) + 1
      s.mass_add.a   @= s.mass_lower.out
      if s.fresh10:
        s.mass_add.a @= 0
      s.mass_en @= s.go & s.end10

    @update_ff
    def ff_mass():
      if s.go:
        s.sum9 <<= s.beat8
        if ~s.first8:
          s.sum9 <<= s.sum9 + s.beat8
        s.sum10  <<= s.mass_float.out
        s.mass11 <<= s.mass_add.out

    s.reciprocal.go //= s.go
    s.reciprocal.x  //= s.mass11

    #---------------------------------------------------------------------
    # Largest term, and quantisation relative to it
    #---------------------------------------------------------------------

    s.exp10   = Wire( 8 )
    s.exp11   = Wire( 8 )             # of a whole row, while its tiles are quantised
    s.first9  = Wire()
    s.first9 //= lambda: s.tiles.out[MASS] == 0

    @update
    def up_scale():
      s.w_scale @= zext( s.exp11, K_BITS ) - 141

    @update_ff
    def ff_largest():
      if s.go:
        if s.first9 | ( s.exp_of.out > s.exp10 ):
          s.exp10 <<= s.exp_of.out
        if s.end10:
          s.exp11 <<= s.exp10

    #---------------------------------------------------------------------
    # What is kept
    #---------------------------------------------------------------------

    s.w_en      = Wire()
    s.info_en   = Wire()
    s.factor_en = Wire()
    s.info      = Wire( info_bits )
    s.ws.wen[0]        //= s.w_en
    s.ws.wdata[0]      //= s.w_new
    s.infos.wen[0]     //= s.info_en
    s.infos.wdata[0]   //= s.info
    s.factors.wen[0]   //= s.factor_en
    s.factors.wdata[0] //= lambda: concat( s.readys.out[LAST], s.reciprocal.out )

    # Slot, row, and tile where there are several: wires, because a lambda per case would be translated once.
    w_bits  = clog2( rows2 * T )
    tile_at = w_bits - 1 - row_bits
    s.w_at  = Wire( w_bits )
    s.w_of  = Wire( w_bits )
    s.w_at[w_bits - 1]         //= s.slots.out[QUANT]
    s.w_of[w_bits - 1]         //= s.w_slot
    s.w_at[tile_at:w_bits - 1] //= s.rows.out[QUANT]
    s.w_of[tile_at:w_bits - 1] //= s.w_row
    if tile_at:
      s.w_at[0:tile_at] //= s.tiles.out[QUANT]
      s.w_of[0:tile_at] //= s.w_tile
    s.ws.waddr[0]      //= s.w_at
    s.ws.raddr[0]      //= s.w_of
    s.infos.waddr[0]   //= lambda: concat( s.slots.out[LARGE], s.rows.out[LARGE] )
    s.infos.raddr[0]   //= lambda: concat( s.o_slot, s.o_row )
    s.factors.waddr[0] //= lambda: concat( s.slots.out[LAST], s.rows.out[LAST] )
    s.factors.raddr[0] //= lambda: concat( s.f_slot, s.f_row )

    @update
    def up_keep():
      s.w_en      @= s.go & s.vals.out[QUANT]
      s.info_en   @= s.go & s.end10
      s.info      @= concat( s.drop10, s.exp10 )
      s.factor_en @= s.go & s.vals.out[LAST] & s.lasts.out[LAST]
      s.done      @= s.factor_en & s.endss.out[LAST]

    s.o_info = Wire( info_bits )
    s.o_drop = Wire( DROP_BITS )
    s.o_exp  = Wire( 8 )
    s.o_info //= s.infos.rdata[0]
    s.o_exp  //= s.o_info[0:8]
    s.o_drop //= s.o_info[8 : 8 + DROP_BITS]
    s.f_info = Wire( 33 )
    s.f_info //= s.factors.rdata[0]
    s.ready  //= s.f_info[32]
    s.factor //= s.f_info[0:32]
    s.w_row16 = Wire( 16 * n )
    s.w_row16 //= s.ws.rdata[0]
    for c in range( n ):
      s.w[c] //= s.w_row16[16 * c : 16 * c + 16]

    @update
    def up_powers():
      # lsb of w, E - 127 - 14, and 14 for the value's own.
      s.sum_k @= zext( s.o_exp, K_BITS ) - 155
      s.o_k   @= ~zext( s.o_drop, K_BITS ) + 1

  def line_trace( s ):
    return "".join( "x" if v else " " for v in s.vals.out[1:] )
