"""Attention engine, functional level: grouped-query attention with an online softmax, bit exact.

Keys come in chunks of 16 at absolute positions, whatever n is and however a prompt is cut into passes.
Sums inside a chunk are exact integers; between chunks the order is fixed: so prefill equals decode.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymtl3 import mk_bits

from fl.agent import Agent, Process
from fl.vector_unit import SCORE_LIMIT, ceil_to_integer
from npu.arch.config import CHUNK, LINE_BYTES, MAX_HEAD_DIM, NpuConfig, ceil_div
from npu.arch.footprint import bounds, footprint, kv_layout
from npu.arch.isa import Error, Instruction, mk
from npu.arch.kv_cache import KvLayout
from npu.arch.messages import Ack, Done, mk_attend_cmd, mk_mem_read_req, mk_mem_write, mk_spad_write
from npu.arch.numerics.block_float import lsb_exponent, quantize, unpack
from npu.arch.numerics.fp32 import BIAS, F32, I64, add_exponent, bits, f2i, fadd, fmul, from_bits, i2f
from npu.arch.numerics.special import U_FRACTION_BITS, exp2neg, reciprocal

NO_KEY    = -( 1 << 20 )    # running maximum before the first key: below every score
MAX_DROP  = 511             # an exponent that falls this far is zero anyway

def check( cfg: NpuConfig, i: Instruction, rows: int, position: int, lines: int, writable: int ) -> Error:
  """Whether the engine accepts an ATTEND command; the first thing wrong with it otherwise.

  `lines` is the size of the memory, `writable` the first line that may be written.
  """
  if rows == 0 or i.length == 0 or i.heads == 0 or i.kv_heads == 0 or i.chunks == 0:
    return Error.ZERO_SIZE
  if rows > cfg.m_max or int( i.heads ) % int( i.kv_heads ) or int( i.length ) % cfg.n or i.length > MAX_HEAD_DIM:
    return Error.BAD_SIZE
  if position + rows > int( i.chunks ) * CHUNK:
    return Error.BAD_POSITION
  return bounds( cfg, footprint( cfg, i, rows ), lines, writable )

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

def attend_cache( q: I64, q_exponent: I64, layout: KvLayout, cache: NDArray[np.uint8], position: int,
                  factor: float ) -> F32:
  """`attend` on a layer's cache as it lies in memory, bytes; `fl.kernels.attention` has it compiled.

  The keys and values of the queries' own positions are in the cache already.
  """
  chunks = ceil_div( position + len( q ), CHUNK )
  return attend( q, q_exponent, *layout.read( cache, 0, chunks ), *layout.read( cache, 1, chunks ), position, factor )

#-------------------------------------------------------------------------
# Component
#-------------------------------------------------------------------------

EXPONENT_BYTES = 2 * CHUNK    # of a chunk's first line: those of the keys, those of the values

def instruction_of( cmd: Any ) -> Instruction:
  """The ATTEND instruction that a command message stands for."""
  names = ( "rows", "heads", "kv_heads", "length", "chunks", "dram", "dst", "src", "src2", "dst_stride", "src_stride" )
  factor = from_bits( np.array( int( cmd.factor ), dtype=np.uint32 ) ).item()
  return mk( "ATTEND", factor=factor, **{ name: int( getattr( cmd, name ) ) for name in names } )

class AttentionEngineFL( Agent ):
  """The block's ports around `attend`, in no particular time; see `rtl_models.attention_engine` for the ports."""

  def construct( s, cfg: NpuConfig ) -> None:
    BEAT = mk_bits( cfg.derived.beat_bits )
    SPAD = mk_bits( cfg.derived.spad_addr_bits )
    s.cfg = cfg
    s.add_recv( "cmd", mk_attend_cmd( cfg ) )
    s.add_send( "ack", Ack )
    s.add_master( "kv", mk_mem_read_req( cfg ), BEAT )
    s.add_send( "kv_wr", mk_mem_write( cfg ) )
    s.add_master( "q", SPAD, BEAT )
    s.add_master( "acc", SPAD, BEAT )      # a functional component keeps its sums to itself
    s.add_send( "wr", mk_spad_write( cfg ) )
    s.add_send( "done", Done )
    s.start()

  def process( s ) -> Process:
    """One command after the other."""
    while True:
      cmd   = yield from s.recv( s.cmd_box )
      i     = instruction_of( cmd )
      error = check( s.cfg, i, int( cmd.rows ), int( cmd.pos ), int( cmd.lines ), int( cmd.writable ) )
      yield from s.send( s.ack_box, Ack( int( error ) ) )
      if not error:
        yield from s.execute( i, int( cmd.pos ) )
        yield from s.send( s.done_box, Done( 0 ) )

  def execute( s, i: Instruction, position: int ) -> Process:
    """Append keys and values, read the cache, compute, write the result."""
    rows, heads, kv, dim = int( i.rows ), int( i.heads ), int( i.kv_heads ), int( i.length )
    width = dim // s.cfg.n
    words = yield from s.read_matrix( "q", i.src, rows, i.src_stride, heads * width )
    q, q_exponent = unpack( words.reshape( rows, heads, dim ) )
    words = yield from s.read_matrix( "q", i.src2, rows, i.src_stride, 2 * kv * width )
    new   = unpack( words.reshape( rows, 2, kv, dim ) )
    yield from s.append( i, position, *new )
    k, k_exponent, v, v_exponent = yield from s.read_cache( i, ceil_div( position + rows, CHUNK ) )
    y = attend( q, q_exponent, k, k_exponent, v, v_exponent, position, float( i.factor ) )
    yield from s.write_matrix( i.dst, i.dst_stride, bits( y ).reshape( rows, -1 ) )

  def append( s, i: Instruction, position: int, q: I64, exponent: I64 ) -> Process:
    """Store the pass's keys and values: q [R, 2, KV, D], exponent [R, 2, KV]."""
    layout = kv_layout( i )
    for r, which, head in np.ndindex( *exponent.shape ):
      chunk, slot = divmod( position + r, CHUNK )
      start = ( int( i.dram ) + ( head * layout.chunks + chunk ) * layout.chunk_lines ) * LINE_BYTES
      slot += which * CHUNK
      yield from s.write_bytes( "kv_wr", start + slot, exponent[r, which, head].astype( np.uint8 ).reshape( 1 ) )
      row = q[r, which, head].astype( np.int16 ).view( np.uint8 )
      yield from s.write_bytes( "kv_wr", start + LINE_BYTES + slot * len( row ), row )

  def read_cache( s, i: Instruction, chunks: int ) -> Process:
    """The first `chunks` chunks of each head: keys, their exponents, values, theirs, as `attend` takes them."""
    layout, d = kv_layout( i ), s.cfg.derived
    rows  = 4 * CHUNK * layout.head_dim // d.beat_bytes
    shape = ( layout.kv_heads, chunks * CHUNK )
    k, k_exponent = np.zeros( ( *shape, layout.head_dim ), dtype=np.int64 ), np.zeros( shape, dtype=np.int64 )
    v, v_exponent = k.copy(), k_exponent.copy()
    for head, chunk in np.ndindex( layout.kv_heads, chunks ):
      line  = int( i.dram ) + ( head * layout.chunks + chunk ) * layout.chunk_lines
      first = line * d.beats_per_line
      e   = yield from s.read_stream( first, ceil_div( EXPONENT_BYTES, d.beat_bytes ), "kv" )
      kv  = yield from s.read_stream( first + d.beats_per_line, rows, "kv" )
      at  = slice( chunk * CHUNK, ( chunk + 1 ) * CHUNK )
      k_exponent[head, at], v_exponent[head, at] = e.view( np.uint8 )[:EXPONENT_BYTES].reshape( 2, CHUNK )
      k[head, at], v[head, at] = kv.view( np.int16 ).reshape( 2, CHUNK, layout.head_dim )
    return k, k_exponent, v, v_exponent
