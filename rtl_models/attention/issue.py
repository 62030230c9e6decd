"""Decides in which cycle the next row of queries, or of probabilities, meets the stationary tile."""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass

from rtl_models.attention.shape import AttentionShape
from rtl_models.attention.tiles import mk_tile

def mk_row( cfg ):
  """What goes along with a row through the pipeline.

  `is_v`: probabilities for values, otherwise a query for keys. `slot`, `tile`, `opens`, `closes`, `fresh` are those of
  the tile (`mk_tile`), `row` is the query row, `exp` the exponent of the query.
  """
  shape = AttentionShape( cfg )
  return mk_bitstruct( f"AttentionRow_r{shape.row_bits}_t{shape.tile_bits}", {
    "is_v": Bits1, "slot": Bits1, "row": mk_bits( shape.row_bits ), "tile": mk_bits( shape.tile_bits ),
    "opens": Bits1, "closes": Bits1, "fresh": Bits1, "exp": Bits8 } )

class AttentionIssue( Component ):
  """One row a cycle, as far as there is a tile, what it meets, and room behind.

  Ports
  -----
  go
    The pipeline takes a row in this cycle.
  full, next_tile, swap
    A tile (`mk_tile`) is in the shadow registers; it becomes the stationary one.
  query_val, query_exp, take_query
    The next query row is there; its exponent; it is used up.
  weights_done
    One more chunk has its probabilities.
  w_slot
    The slot of the oldest chunk, to which results are written.
  issues, row
    A row is issued; which one (`mk_row`), whether it is issued or waits.
  """

  def construct( s, cfg ):
    shape  = AttentionShape( cfg )
    s.set_metadata( VerilogTranslationPass.explicit_module_name,
                    f"AttentionIssue_r{shape.row_bits}_t{shape.tile_bits}" )
    ROW    = mk_bits( shape.row_bits )
    ROW_T  = mk_row( cfg )
    TILE_T = mk_tile( cfg )

    # Interface

    s.go           = InPort()
    s.full         = InPort()
    s.next_tile    = InPort( TILE_T )
    s.swap         = OutPort()
    s.query_val    = InPort()
    s.query_exp    = InPort( 8 )
    s.take_query   = OutPort()
    s.weights_done = InPort()
    s.w_slot       = InPort()
    s.issues       = OutPort()
    s.row          = OutPort( ROW_T )

    # State

    s.active   = Wire()                   # the columns hold a tile that is not used up
    s.tile     = Wire( TILE_T )
    s.at       = Wire( ROW )
    s.weighted = Wire( 2 )                # chunks whose probabilities are there and not used up

    # Logic

    s.last_row     = Wire()
    s.weights_used = Wire()

    @update
    def up_issue():
      s.last_row @= s.at == s.tile.row_last
      s.issues   @= s.go & s.active & s.query_val
      if s.tile.is_v:
        # A row that waits in the pipeline for its output so far must not hold up the writes that this waits for.
        s.issues @= s.go & s.active & ( s.weighted != 0 ) & ( s.tile.fresh | ( s.w_slot == s.tile.slot ) )
      s.swap         @= s.full & ( ~s.active | ( s.issues & s.last_row ) )
      s.weights_used @= s.issues & s.last_row & s.tile.is_v & s.tile.ends
      s.take_query   @= s.issues & ~s.tile.is_v

    @update
    def up_row():
      s.row @= ROW_T( s.tile.is_v, s.tile.slot, s.at, s.tile.tile, s.tile.opens, s.tile.closes, s.tile.fresh,
                      s.query_exp )

    @update_ff
    def ff_issue():
      if s.reset:
        s.active   <<= 0
        s.weighted <<= 0
      else:
        if s.swap:
          s.active <<= 1
        elif s.issues & s.last_row:
          s.active <<= 0
        s.weighted <<= s.weighted + zext( s.weights_done, 2 ) - zext( s.weights_used, 2 )
      if s.swap:
        s.tile <<= s.next_tile
        s.at   <<= s.next_tile.row_first
      elif s.issues:
        s.at   <<= s.at + 1

  def line_trace( s ):
    return f"{s.at}" if s.issues else "."
