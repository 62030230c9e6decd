"""Where keys and values are in DRAM.

A layer's cache is one block per KV head; a block is a sequence of chunks of 16 tokens at absolute
positions; a chunk is one line of exponents (16 bytes of keys, 16 of values, 32 unused), then 16
key rows, then 16 value rows, each of `head_dim` INT16. So a head streams linearly, and a new
token is two whole rows and two bytes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from npu.arch.config import CHUNK, LINE_BYTES
from npu.arch.numerics.fp32 import I64

@dataclass( frozen=True )
class KvLayout:
  """The cache of one layer: `head_dim` as padded in memory, `chunks` of capacity."""
  head_dim: int
  kv_heads: int
  chunks: int

  @property
  def chunk_lines( self ) -> int:
    """Lines of 64 bytes in one chunk: the exponents, and 2 x 16 rows of 2 * head_dim bytes."""
    return 1 + self.head_dim * 4 * CHUNK // LINE_BYTES

  @property
  def total_lines( self ) -> int:
    """Lines of one layer."""
    return self.kv_heads * self.chunks * self.chunk_lines

  def _chunks( self, cache: NDArray[np.uint8] ) -> NDArray[np.uint8]:
    return cache.reshape( self.kv_heads, self.chunks, self.chunk_lines * LINE_BYTES )

  def append( self, cache: NDArray[np.uint8], which: int, position: int, q: I64, exponent: I64 ) -> None:
    """Store one token's keys (which = 0) or values (1): q [kv_heads, head_dim], exponent [kv_heads]."""
    chunk = self._chunks( cache )[:, position // CHUNK]
    slot  = position % CHUNK
    start = LINE_BYTES + ( which * CHUNK + slot ) * 2 * self.head_dim
    chunk[:, which * CHUNK + slot] = exponent
    chunk[:, start : start + 2 * self.head_dim] = q.astype( np.int16 ).view( np.uint8 )

  def read( self, cache: NDArray[np.uint8], which: int, chunks: int ) -> tuple[I64, I64]:
    """The first `chunks` chunks: q [kv_heads, 16 * chunks, head_dim], exponent [kv_heads, 16 * chunks]."""
    head  = self._chunks( cache )[:, :chunks]
    start = LINE_BYTES + which * CHUNK * 2 * self.head_dim
    rows  = np.ascontiguousarray( head[:, :, start : start + CHUNK * 2 * self.head_dim] )
    q     = rows.view( np.int16 ).reshape( self.kv_heads, chunks * CHUNK, self.head_dim )
    exponent = head[:, :, which * CHUNK : ( which + 1 ) * CHUNK].reshape( self.kv_heads, -1 )
    return q.astype( np.int64 ), exponent.astype( np.int64 )
