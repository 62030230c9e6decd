"""Sizes of the attention engine that follow from the configuration, for all its modules."""

from npu.arch.config import CHUNK, MAX_HEAD_DIM, ROWS_PER_TOKEN, clog2

DOT_BITS       = 30 + clog2( MAX_HEAD_DIM ) + 2    # the worst case of MAX_HEAD_DIM products of INT16, and a sign
K_BITS         = 10     # signed exponents that are added: -512..511
DROP_BITS      = 9      # how far a running maximum rises, at most MAX_DROP

class AttentionShape:
  """Counts, and widths of their indices in bits."""

  def __init__( self, cfg ):
    self.rows      = ROWS_PER_TOKEN * cfg.m_max     # query rows of a sweep, at most
    self.row_bits  = clog2( self.rows )
    self.tiles     = CHUNK // cfg.n                 # key tiles of a chunk; also beats of its line of exponents
    self.tile_bits = max( clog2( self.tiles ), 1 )
    self.dims      = MAX_HEAD_DIM // cfg.n          # scratchpad rows of a head, at most
    self.dim_bits  = clog2( self.dims + 1 )
