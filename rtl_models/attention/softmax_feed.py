"""Puts rows into the softmax when their sums are complete, one key tile per step."""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass

from rtl_models.attention.shape import AttentionShape

class AttentionSoftmaxFeed( Component ):
  """Counts the complete rows; which they are is known, as rows come in the order of their chunks.

  Ports
  -----
  go
    Everything moves in this cycle.
  row_done
    One more row has met all keys of its chunk.
  row_first, row_last, heads, limit_first
    The rows of the chunk, the heads of a token row, and the last key that the first row sees (`mk_chunk`).
  step, row, tile, limit, ends
    A key tile goes in, as `AttentionSoftmax` takes it.
  next
    It is the last one of the chunk.
  """

  def construct( s, cfg ):
    shape = AttentionShape( cfg )
    s.set_metadata( VerilogTranslationPass.explicit_module_name,
                    f"AttentionSoftmaxFeed_r{shape.row_bits}_t{shape.tiles}" )
    ROW   = mk_bits( shape.row_bits )
    TILE  = mk_bits( shape.tile_bits )
    READY = mk_bits( shape.row_bits + 2 )
    last_tile = shape.tiles - 1

    # Interface

    s.go          = InPort()
    s.row_done    = InPort()
    s.row_first   = InPort( ROW )
    s.row_last    = InPort( ROW )
    s.heads       = InPort( 8 )
    s.limit_first = InPort( 5 )
    s.step        = OutPort()
    s.row         = OutPort( ROW )
    s.tile        = OutPort( TILE )
    s.limit       = OutPort( 8 )
    s.ends        = OutPort()
    s.next        = OutPort()

    # State

    s.ready      = Wire( READY )          # complete rows
    s.begun      = Wire()                 # a row of this chunk has gone in; then, of the next one:
    s.next_row   = Wire( ROW )
    s.next_head  = Wire( 8 )
    s.next_limit = Wire( 8 )

    # Logic

    s.head     = Wire( 8 )
    s.row_ends = Wire()

    @update
    def up_row():
      s.row   @= s.next_row
      s.limit @= s.next_limit
      s.head  @= s.next_head
      if ~s.begun:
        s.row   @= s.row_first
        s.limit @= zext( s.limit_first, 8 )
        s.head  @= 0
      s.ends  @= s.row == s.row_last

    @update
    def up_step():
      s.step     @= s.go & ( s.ready != 0 )
      s.row_ends @= s.step & ( s.tile == last_tile )
      s.next     @= s.row_ends & s.ends

    @update_ff
    def ff_step():
      if s.reset:
        s.ready <<= 0
        s.begun <<= 0
        s.tile  <<= 0
      else:
        s.ready <<= s.ready + zext( s.row_done, READY ) - zext( s.row_ends, READY )
        if s.row_ends:
          s.begun      <<= ~s.next
          s.next_row   <<= s.row + 1
          s.next_head  <<= s.head + 1
          s.next_limit <<= s.limit
          if s.head + 1 == s.heads:
            s.next_head  <<= 0
            s.next_limit <<= s.limit + 1
        if s.row_ends:
          s.tile <<= 0
        elif s.step:
          s.tile <<= s.tile + 1

  def line_trace( s ):
    return f"{s.row}.{s.tile}" if s.step else "."
