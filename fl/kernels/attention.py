"""Attention, compiled: a query row at a time, chunk by chunk, on the KV cache as it lies in memory."""

# Compiled functions carry no type hints: numba's signatures say what they take.
# mypy: allow-untyped-defs, allow-incomplete-defs

import numpy as np
from numpy.typing import NDArray

from fl.attention_engine import MAX_DROP, NO_KEY
from fl.kernels.compiler import compiled, in_parallel
from fl.kernels.scalar import (
  add_exponent,
  exp2neg,
  f2i,
  fadd,
  fmul,
  i2f,
  inner,
  largest_exponent,
  lsb_exponent,
  reciprocal,
)
from fl.vector_unit import SCORE_LIMIT
from npu.arch.config import CHUNK, LINE_BYTES
from npu.arch.kv_cache import KvLayout
from npu.arch.numerics.fp32 import F32, I64
from npu.arch.numerics.special import U_FRACTION_BITS

@inner
def _scores( q, q_lsb, keys, exponents, factor, count, s ):
  """Scores of the chunk's first `count` keys into s, int64 [16]; their maximum, rounded up to an integer."""
  dim, largest = len( q ), NO_KEY << U_FRACTION_BITS
  for j in range( count ):
    dot = np.int64( 0 )
    for d in range( dim ):
      dot += np.int64( q[d] ) * keys[j * dim + d]
    scaled  = add_exponent( fmul( i2f( dot ), factor ), q_lsb + lsb_exponent( np.int64( exponents[j] ), 16 ) )
    s[j]    = f2i( scaled, -U_FRACTION_BITS, SCORE_LIMIT )
    largest = max( largest, s[j] )
  return ( largest + ( ( 1 << U_FRACTION_BITS ) - 1 ) ) >> U_FRACTION_BITS

@inner
def _chunk_sum( p, values, exponents, terms, acc ):
  """P . V of a chunk in acc, int64 [D]; the power of two of its unit. At most 16 products of 2**30."""
  dim = len( acc )
  for j in range( CHUNK ):
    terms[j] = add_exponent( i2f( p[j] ), np.int64( exponents[j] ) - 127 )
  lsb    = lsb_exponent( largest_exponent( terms ), 16 )
  acc[:] = 0
  for j in range( CHUNK ):
    w = f2i( terms[j], lsb, 32767 )
    for d in range( dim ):
      acc[d] += w * values[j * dim + d]
  return lsb - 14

@compiled( "void( int16[:,:,:,::1], int64[:,:,::1], uint8[:,:,::1], int16[:,:,::1], int64, float32, "
           "float32[:,:,:,::1], int64, int64 )" )
def _attend( q, q_lsb, octets, words, position, factor, out, first, end ):
  """KV heads first to end: q and out [R, KV, group, D], q_lsb [R, KV, group], the cache [KV, chunks, bytes or words].

  A row reads chunks up to its own position only: later ones would not change it.
  """
  rows, _, group, dim = q.shape
  s, p   = np.empty( CHUNK, np.int64 ), np.empty( CHUNK, np.int64 )
  terms  = np.empty( CHUNK, np.float32 )
  acc    = np.empty( dim, np.int64 )
  for head, row, g in np.ndindex( ( end - first, rows, group ) ):
    head += first
    o      = out[row, head, g]
    o[:]   = 0
    l      = np.float32( 0 )                                        # noqa: E741 - the name in the papers
    before = np.int64( NO_KEY )
    for chunk in range( ( position + row ) // CHUNK + 1 ):
      exponents = octets[head, chunk]
      body      = words[head, chunk][LINE_BYTES // 2 :]
      count     = min( position + row + 1 - chunk * CHUNK, CHUNK )
      top  = max( before, _scores( q[row, head, g], q_lsb[row, head, g], body, exponents, factor, count, s ) )
      mass = np.int64( 0 )
      for j in range( CHUNK ):
        p[j]  = exp2neg( max( ( top << U_FRACTION_BITS ) - s[j], 0 ) ) if j < count else 0
        mass += p[j]
      unit = _chunk_sum( p, body[CHUNK * dim :], exponents[CHUNK :], terms, acc )
      drop = -min( top - before, MAX_DROP )
      for d in range( dim ):
        o[d] = fadd( add_exponent( o[d], drop ), add_exponent( i2f( acc[d] ), unit ) )
      l      = fadd( add_exponent( l, drop ), i2f( mass ) )         # noqa: E741
      before = top
    r = reciprocal( l )
    for d in range( dim ):
      o[d] = fmul( o[d], r )

def attend_cache( q: I64, q_exponent: I64, layout: KvLayout, cache: NDArray[np.uint8], position: int,
                  factor: float ) -> F32:
  """As `attention_engine.attend_cache`."""
  rows, heads, dim = q.shape
  shape  = ( rows, layout.kv_heads, heads // layout.kv_heads )
  octets = cache.reshape( layout.kv_heads, layout.chunks, -1 )
  out    = np.empty( ( *shape, dim ), dtype=np.float32 )
  lsb    = q_exponent.reshape( shape ) - 127 - 14
  work   = 2 * q.size * ( position + rows )
  in_parallel( _attend, layout.kv_heads, work, q.reshape( *shape, dim ).astype( np.int16 ), lsb, octets,
               octets.view( np.int16 ), position, np.float32( factor ), out )
  return out.reshape( rows, heads, dim )
