"""Attention engine, functional level: grouped-query attention with an online softmax, bit exact.

Keys come in chunks of 16 at absolute positions, whatever n is and however a prompt is cut into passes.
Sums inside a chunk are exact integers; between chunks the order is fixed: so prefill equals decode.
"""

import numpy as np

from fl.vector_unit import SCORE_LIMIT, ceil_to_integer
from npu.config import CHUNK, NpuConfig
from npu.isa import Error, Instruction
from npu.numerics.block_float import lsb_exponent, quantize
from npu.numerics.fp32 import BIAS, F32, I64, add_exponent, f2i, fadd, fmul, i2f
from npu.numerics.special import U_FRACTION_BITS, exp2neg, reciprocal

NO_KEY    = -( 1 << 20 )    # running maximum before the first key: below every score
MAX_DROP  = 511             # an exponent that falls this far is zero anyway

def check( cfg: NpuConfig, i: Instruction, rows: int, position: int ) -> Error:
  """Whether the engine accepts an ATTEND command; the first thing wrong with it otherwise."""
  if rows == 0 or i.length == 0 or i.heads == 0 or i.kv_heads == 0 or i.chunks == 0:
    return Error.ZERO_SIZE
  if rows > cfg.m_max or int( i.heads ) % int( i.kv_heads ) or int( i.length ) % cfg.n:
    return Error.BAD_SIZE
  if position + rows > int( i.chunks ) * CHUNK:
    return Error.BAD_POSITION
  return Error.NONE

def scores( q: I64, q_exponent: I64, k: I64, k_exponent: I64, factor: float ) -> I64:
  """Scaled base-2 scores as integers with 12 fraction bits.

  q [KV, R, D] and q_exponent [KV, R]; k [KV, T, D] and k_exponent [KV, T]; returns [KV, R, T].
  """
  dot = q.astype( np.float64 ) @ k.astype( np.float64 ).transpose( 0, 2, 1 )
  s   = fmul( i2f( dot ), np.float32( factor ) )
  s   = add_exponent( s, lsb_exponent( q_exponent, 16 )[:, :, None] + lsb_exponent( k_exponent, 16 )[:, None] )
  return f2i( s, -U_FRACTION_BITS, SCORE_LIMIT )

def chunk_sums( p: I64, v: I64, v_exponent: I64 ) -> F32:
  """P . V of each chunk: an exact integer sum, as binary32.

  The 16 terms P_j * 2**E_j of a chunk are themselves quantised to block floating point, relative to
  the largest *term*, so that a value row with a large exponent but no probability costs no precision.

  p [KV, R, C, 16] with 15 fraction bits; v [KV, C, 16, D]; v_exponent [KV, C, 16].
  Returns [KV, R, C, D] in units where a probability of one is 32768.
  """
  terms = add_exponent( i2f( p ), v_exponent[:, None] - BIAS )
  w, w_exponent = quantize( terms, 16 )
  dot = np.matmul( w.astype( np.float64 ).transpose( 0, 2, 1, 3 ), v.astype( np.float64 ) )
  # p * v = w * 2**lsb(w) * v * 2**-14: the value's own 2**(E - 127) is in w already.
  return add_exponent( i2f( dot.transpose( 0, 2, 1, 3 ) ), lsb_exponent( w_exponent, 16 )[..., None] - 14 )

def attend( q: I64, q_exponent: I64, k: I64, k_exponent: I64, v: I64, v_exponent: I64,
            position: int, factor: float ) -> F32:
  """Causal attention of R query tokens at positions `position`, `position` + 1, ...

  Parameters
  ----------
  q, q_exponent
    Block-float INT16 queries [R, H, D], exponents [R, H].
  k, k_exponent, v, v_exponent
    The cache: [KV, T, D] and [KV, T]; T a multiple of 16, at least position + R. Head h reads KV
    head h // (H / KV).
  factor
    log2(e) / sqrt(head_dim) as an FP32 constant.

  Returns
  -------
  float32 [R, H, D]
  """
  rows, heads, dim = q.shape
  kv_heads, keys   = k.shape[:2]
  group, chunks    = heads // kv_heads, keys // CHUNK

  # Query rows by KV head: all heads of a group and all tokens share one stream of keys.
  by_head = q.reshape( rows, kv_heads, group, dim ).transpose( 1, 0, 2, 3 ).reshape( kv_heads, -1, dim )
  by_exp  = q_exponent.reshape( rows, kv_heads, group ).transpose( 1, 0, 2 ).reshape( kv_heads, -1 )
  s       = scores( by_head, by_exp, k, k_exponent, factor ).reshape( kv_heads, -1, chunks, CHUNK )
  row_pos = np.repeat( position + np.arange( rows ), group )
  valid   = np.less_equal( np.arange( keys ).reshape( 1, 1, chunks, CHUNK ), row_pos[None, :, None, None] )
  live    = np.logical_or.reduce( valid, axis=-1 )                   # chunks that a row sees at all

  top = ceil_to_integer( np.where( valid, s, NO_KEY << U_FRACTION_BITS ).max( axis=-1 ) )
  top = np.maximum.accumulate( top, axis=-1 )                        # [KV, R * group, C]
  p   = np.where( valid, exp2neg( np.maximum( ( top[..., None] << U_FRACTION_BITS ) - s, 0 ) ), 0 )
  by_chunk = ( kv_heads, chunks, CHUNK )
  sums = chunk_sums( p, v.reshape( *by_chunk, dim ), v_exponent.reshape( by_chunk ) )
  mass = i2f( p.sum( axis=-1 ) )

  o = np.zeros( ( kv_heads, rows * group, dim ), dtype=np.float32 )
  l = np.zeros( ( kv_heads, rows * group ), dtype=np.float32 )       # noqa: E741 - the name in the papers
  before = np.full( l.shape, NO_KEY, dtype=np.int64 )
  for c in range( chunks ):
    drop   = -np.minimum( top[..., c] - before, MAX_DROP )
    on     = np.broadcast_to( live[..., c], l.shape )
    o      = np.where( on[..., None], fadd( add_exponent( o, drop[..., None] ), sums[:, :, c] ), o )
    l      = np.where( on, fadd( add_exponent( l, drop ), mass[..., c] ), l )   # noqa: E741
    before = top[..., c]
  out = fmul( o, reciprocal( l )[..., None] )
  return out.reshape( kv_heads, rows, group, dim ).transpose( 1, 0, 2, 3 ).reshape( rows, heads, dim )
