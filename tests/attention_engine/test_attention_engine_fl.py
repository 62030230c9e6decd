"""The attention engine's golden model against float64 softmax attention, and prefill against decode.

The oracle is given the same block-float queries, keys and values, as the real numbers that they are:
what is measured is the engine, not the quantiser.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray

from fl.attention_engine import attend, check, chunk_sums
from fl.npu import NpuFL
from npu.arch.config import CHUNK, LINE_BYTES, NpuConfig, round_up
from npu.arch.isa import Error, mk
from npu.arch.kv_cache import KvLayout
from tests.vector_unit.oracle import EXP_ABSOLUTE, EXP_RELATIVE, RECIPROCAL_ERROR, ROUNDING, SCORE_ERROR, quantised

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

#-------------------------------------------------------------------------
# Bounds
#-------------------------------------------------------------------------

# A probability times the power of two of its value row is quantised to 16 bits, relative to the largest
# such term of the chunk: half a unit, or a whole one where it saturates; both at most this much of it.
TERM_ERROR = 2.0 ** -15

# On normal queries, keys and values: measured 5.5e-5 of the largest value over all of test_random. The
# proof, in `oracle`, is up to ten times that: it lets every rounding go the same way.
MEASURED_ERROR = 6e-5

LOG2_E = 1.4426950408889634

#-------------------------------------------------------------------------
# Data
#-------------------------------------------------------------------------

@dataclass( frozen=True )
class Block:
  """Block-float rows: integers [..., D] and biased exponents [...]."""
  q: I64
  exponent: I64

  @property
  def values( self ) -> F64:
    """The numbers that they stand for."""
    return self.q * np.ldexp( 1.0, self.exponent - 127 - 14 )[..., None]

def block( x: NDArray ) -> Block:
  """Real numbers as block-float rows; a row of zeros has exponent 0."""
  q, unit = quantised( x.astype( np.float32 ), 16 )
  return Block( q, np.where( np.any( x, axis=-1 ), unit + 14 + 127, 0 ) )

@dataclass( frozen=True )
class Case:
  """Queries [R, H, D], and keys and values [KV, T, D] of positions 0 to T - 1."""
  q: Block
  k: Block
  v: Block

  @property
  def factor( self ) -> np.float32:
    """log2(e) / sqrt(D) as the engine gets it."""
    return np.float32( LOG2_E / np.sqrt( self.q.q.shape[-1] ) )

def mk_case( q: NDArray, k: NDArray, v: NDArray ) -> Case:
  return Case( block( q ), block( k ), block( v ) )

def normal( seed: int, *shape: int, scale: float = 1.0 ) -> F64:
  """Normal values."""
  return np.random.default_rng( seed ).standard_normal( shape ) * scale

def padded( b: Block, keys: int, seed: int | None = None ) -> tuple[I64, I64]:
  """A cache [KV, keys, D] and exponents [KV, keys]: what is past the valid rows is zero or, with a
  seed, anything that the bytes of a memory can hold."""
  kv, valid, dim = b.q.shape
  if seed is None:
    q, e = np.zeros( ( kv, keys, dim ), dtype=np.int64 ), np.zeros( ( kv, keys ), dtype=np.int64 )
  else:
    rng = np.random.default_rng( seed )
    q   = rng.choice( np.array( [ -32768, 32767, 0, 1, 12345 ] ), ( kv, keys, dim ) )
    e   = rng.choice( np.array( [ 0, 1, 127, 254, 255 ] ), ( kv, keys ) )
  q[:, :valid], e[:, :valid] = b.q, b.exponent
  return q, e

def run( c: Case, position: int, rows: slice = slice( None ), chunks: int | None = None,
         garbage: int | None = None, valid: int | None = None ) -> F32:
  """The engine on some query rows, the first of them at `position`.

  The cache holds `valid` keys (default: as many as the last query sees), in `chunks` chunks (default: as
  few as hold them); `garbage` seeds what is after them.
  """
  q, qe = c.q.q[rows], c.q.exponent[rows]
  last  = position + len( q ) if valid is None else valid
  keys  = round_up( last, CHUNK ) if chunks is None else chunks * CHUNK
  seeds = ( None, None ) if garbage is None else ( garbage, garbage + 1 )
  k, ke = padded( Block( c.k.q[:, :last], c.k.exponent[:, :last] ), keys, seeds[0] )
  v, ve = padded( Block( c.v.q[:, :last], c.v.exponent[:, :last] ), keys, seeds[1] )
  got   = attend( q, qe, k, ke, v, ve, position, float( c.factor ) )
  assert got.dtype == np.float32 and got.shape == q.shape
  assert np.isfinite( got ).all()
  return got

def bits( x: F32 ) -> NDArray[np.uint32]:
  """Bit patterns."""
  return np.ascontiguousarray( x ).view( np.uint32 )

#-------------------------------------------------------------------------
# Oracle
#-------------------------------------------------------------------------

def oracle( c: Case, position: int ) -> tuple[F64, F64]:
  """Softmax attention in float64, and how far the engine may be from it: both [R, H, D].

  With the largest score rounded up to an integer as zero, a probability p is off by `off`: by what its
  score is off, by exp2neg's table, and by exp2neg's last rounding. Scores lose two roundings and then
  all beyond 12 fraction bits. Sums of a chunk are exact in what they are given, see TERM_ERROR; a
  rounding for each chunk and two more make the whole sum. The quotient then adds its own.
  """
  ( rows, heads, dim ), kv_heads = c.q.q.shape, c.k.q.shape[0]
  q, k, v, power = c.q.values, c.k.values, c.v.values, np.ldexp( 1.0, c.v.exponent - 127 )
  out, bound = np.zeros( ( rows, heads, dim ) ), np.zeros( ( rows, heads, dim ) )
  for r, h in np.ndindex( rows, heads ):
    g, keys = h * kv_heads // heads, position + r + 1
    s       = k[g, :keys] @ q[r, h] * float( c.factor )
    wrong   = SCORE_ERROR + 2 * ROUNDING * np.abs( s )
    p       = np.exp2( s - np.ceil( ( s + wrong ).max() ) )
    mass    = p.sum()
    y       = p @ v[g, :keys] / mass
    off     = p * ( np.exp2( wrong ) * ( 1 + EXP_RELATIVE ) - 1 ) + EXP_ABSOLUTE
    chunks  = range( 0, keys, CHUNK )
    terms   = sum( TERM_ERROR * ( ( p + off )[a : a + CHUNK] * power[g, a : keys][:CHUNK] ).max()
                   * np.abs( v[g, a : keys] / power[g, a : keys, None] )[:CHUNK].sum( axis=0 ) for a in chunks )
    summing = ( len( chunks ) + 2 ) * ROUNDING * ( ( p + off ) @ np.abs( v[g, :keys] ) + np.abs( y ) * mass )
    lost    = off @ np.abs( v[g, :keys] - y ) + terms + summing
    out[r, h]   = y
    bound[r, h] = lost / ( mass - off.sum() ) + ( RECIPROCAL_ERROR + 2 * ROUNDING ) * np.abs( y )
  return out, bound + 2.0 ** -126

def check_case( c: Case, position: int ) -> F64:
  """Within the bound; returns the error."""
  expect, bound = oracle( c, position )
  error = np.abs( run( c, position ) - expect )
  worst = np.unravel_index( np.argmax( error - bound ), error.shape )
  assert error[worst] <= bound[worst], ( f"at {worst}: off by {error[worst]:.3g}, expected {expect[worst]:.6g} "
                                         f"within {bound[worst]:.3g}" )
  return error

def test_the_oracle_is_softmax_attention() -> None:
  """The oracle against torch, so that a wrong oracle does not agree with a wrong engine."""
  import torch
  c = mk_case( normal( 1, 5, 4, 16 ), normal( 2, 2, 9, 16 ), normal( 3, 2, 9, 16 ) )
  expect, _ = oracle( c, 4 )
  q    = torch.tensor( c.q.values ).transpose( 0, 1 )
  k, v = ( torch.tensor( b.values ).repeat_interleave( 2, dim=0 ) for b in ( c.k, c.v ) )
  mask = torch.arange( 9 ) <= torch.arange( 4, 9 )[:, None]
  found = torch.nn.functional.scaled_dot_product_attention( q, k, v, attn_mask=mask ).transpose( 0, 1 )
  assert np.abs( found.numpy() - expect ).max() < 1e-7         # the factor is binary32 in the oracle

#-------------------------------------------------------------------------
# Values
#-------------------------------------------------------------------------

GROUPS   = ( 1, 2, 4, 7, 8 )
DIMS     = ( 16, 32, 80, 128 )
CONTEXTS = ( 1, 15, 16, 17, 255, 256 )

@pytest.mark.parametrize( "context", CONTEXTS )
@pytest.mark.parametrize( "dim", DIMS )
@pytest.mark.parametrize( "group", GROUPS )
def test_random( group: int, dim: int, context: int ) -> None:
  """Normal values; up to two query rows, that end with the context."""
  rows = min( 2, context )
  seed = group * 10_000 + dim * 300 + context
  c    = mk_case( normal( seed, rows, 2 * group, dim ), normal( seed + 1, 2, context, dim ),
                  normal( seed + 2, 2, context, dim ) )
  error = check_case( c, context - rows )
  assert error.max() <= MEASURED_ERROR * np.abs( c.v.values ).max()

def with_rows( x: F64, rows: Sequence[int], factor: float ) -> F64:
  """Some positions of keys or values [KV, T, D] multiplied."""
  x[:, list( rows )] *= factor
  return x

def with_channels( x: F64, channels: Sequence[int], factor: float ) -> F64:
  """Some channels of all keys multiplied, as Qwen2's key bias does."""
  x[..., list( channels )] *= factor
  return x

def spread_rows( seed: int, keys: int, decades: int ) -> F64:
  """Values whose rows differ by so many decades, in random order."""
  order = np.random.default_rng( seed ).permutation( keys )
  return normal( seed, 1, keys, 32 ) * 10.0 ** ( decades * order[None, :, None] / keys - decades / 2 )

def opposite( seed: int, keys: int, by: float ) -> tuple[F64, F64]:
  """Queries and keys that are `by` times opposite to each other, and a little random."""
  base = normal( seed, 1, 1, 32 )
  q    = np.repeat( base, 3, axis=0 ) + normal( seed + 1, 3, 1, 32, scale=0.01 )
  k    = -by * np.repeat( base, keys, axis=1 ) + normal( seed + 2, 1, keys, 32, scale=0.01 * by )
  return q, k

def outlier_cases() -> dict[str, Case]:
  """Named inputs that something could go wrong with: 3 query rows, 40 keys, head of 32."""
  t, d = 40, 32
  q, k, v = normal( 1, 3, 1, d ), normal( 2, 1, t, d ), normal( 3, 1, t, d )
  same    = np.repeat( normal( 4, 1, 1, d ), t, axis=1 )
  small   = normal( 5, 1, t, d, scale=1e-3 )
  rising  = same * np.arange( t )[:, None]
  two     = with_channels( with_channels( k.copy(), [ 7 ], 200 ), [ 9 ], -130 )
  cases = {
    "a channel of keys at 200":         mk_case( q, with_channels( k.copy(), [ 7 ], 200 ), v ),
    "two channels at 200 and -130":     mk_case( q, two, v ),
    "200 beside 1 in queries too":      mk_case( with_channels( q.copy(), [ 3 ], 200 ),
                                                 with_channels( k.copy(), [ 3 ], 200 ), v ),
    "one key of 200":                   mk_case( q, with_rows( k.copy(), [ 5 ], 200 ), v ),
    "values over twelve decades":       mk_case( q, k, spread_rows( 6, t, 12 ) ),
    "values over sixty decades":        mk_case( q, k, spread_rows( 7, t, 60 ) ),
    "one value of 1e4":                 mk_case( q, k, with_rows( v.copy(), [ 17 ], 1e4 ) ),
    "a huge value without probability": mk_case( np.repeat( same[:, :1], 3, axis=0 ),
                                                 with_rows( np.repeat( same, 1, axis=0 ), [ 20 ], -30 ),
                                                 with_rows( v.copy(), [ 20 ], 1e4 ) ),
    "scores all equal":                 mk_case( q, same, v ),
    "queries of zero":                  mk_case( np.zeros( ( 3, 1, d ) ), k, v ),
    "keys of zero":                     mk_case( q, np.zeros( ( 1, t, d ) ), v ),
    "values of zero":                   mk_case( q, k, np.zeros( ( 1, t, d ) ) ),
    "all values the same":              mk_case( q, k, same ),
    "small everything":                 mk_case( q * 1e-3, small, v * 1e-6 ),
    "one dominant, first":              mk_case( np.repeat( k[:, :1], 3, axis=0 ) * 10, k, v ),
    "one dominant, mid-chunk":          mk_case( np.repeat( k[:, 21:22], 3, axis=0 ) * 10, k, v ),
    "one dominant, last":               mk_case( np.repeat( k[:, 37:38], 3, axis=0 ) * 10, k, v ),
    "rising scores":                    mk_case( np.repeat( same[:, :1], 3, axis=0 ), rising, v ),
    "falling scores":                   mk_case( np.repeat( same[:, :1], 3, axis=0 ), -rising, v ),
    "very negative":                    mk_case( *opposite( 8, t, 100.0 ), v ),
    "very positive":                    mk_case( *opposite( 9, t, -100.0 ), v ) }
  return cases

OUTLIERS = outlier_cases()

@pytest.mark.parametrize( "name", OUTLIERS )
def test_outliers( name: str ) -> None:
  check_case( OUTLIERS[name], 37 )

def test_equal_scores_give_the_mean() -> None:
  """With nothing to prefer, the result is the mean of the values, to the last few bits."""
  v = np.arange( 1, 31, dtype=np.float64 )[None, :, None] * np.ones( ( 1, 30, 16 ) )
  c = mk_case( np.zeros( ( 1, 1, 16 ) ), normal( 1, 1, 30, 16 ), v )
  assert np.abs( run( c, 29 ) / 15.5 - 1 ).max() <= 3e-7

def test_one_key_gives_its_value() -> None:
  """The first token sees only itself. Its score may be anything, its probability is one."""
  for scale in ( 1e-3, 1.0, 30.0 ):
    c = mk_case( normal( 1, 1, 4, 16, scale=scale ), normal( 2, 2, 1, 16 ), normal( 3, 2, 1, 16 ) )
    expect = np.repeat( c.v.values[:, 0], 2, axis=0 )[None]
    # Its term has 15 bits of its own, and it is divided by itself.
    assert ( np.abs( run( c, 0 ) - expect ) <= ( RECIPROCAL_ERROR + 3 * ROUNDING ) * np.abs( expect ) ).all()

def test_heads_read_their_own_kv_head() -> None:
  """Head h reads KV head h // group: with equal scores, and values that name their head."""
  for kv, group in ( ( 1, 3 ), ( 2, 1 ), ( 2, 7 ), ( 4, 2 ) ):
    v   = np.repeat( np.arange( 1.0, kv + 1 )[:, None, None], 5, axis=1 ) * np.ones( ( kv, 5, 16 ) )
    c   = mk_case( np.zeros( ( 2, kv * group, 16 ) ), normal( 1, kv, 5, 16 ), v )
    got = run( c, 3 )
    assert np.array_equal( np.rint( got[..., 0] ), np.tile( np.repeat( np.arange( 1, kv + 1 ), group ), ( 2, 1 ) ) )

def test_a_query_sees_no_later_key() -> None:
  """Values that name their position, equal scores: row r at position p averages 0 to p + r."""
  v = np.arange( 40.0 )[None, :, None] * np.ones( ( 1, 40, 16 ) )
  c = mk_case( np.zeros( ( 16, 1, 16 ) ), normal( 1, 1, 40, 16 ), v )
  for position in ( 0, 1, 15, 16, 20, 24 ):
    expect = ( position + np.arange( 16 ) ) / 2
    assert np.abs( run( c, position )[:, 0, 0] - expect ).max() <= 1e-5

def test_extreme_scores_are_finite() -> None:
  """Whatever exponents and integers the cache holds among its valid rows, nothing becomes NaN."""
  rng = np.random.default_rng( 5 )
  for _ in range( 50 ):
    q = Block( rng.integers( -32768, 32768, ( 2, 2, 16 ) ), rng.choice( [ 0, 127, 200, 255 ], ( 2, 2 ) ) )
    k = Block( rng.integers( -32768, 32768, ( 1, 20, 16 ) ), rng.choice( [ 0, 127, 200, 255 ], ( 1, 20 ) ) )
    v = Block( rng.integers( -32768, 32768, ( 1, 20, 16 ) ), rng.choice( [ 0, 100, 127, 200 ], ( 1, 20 ) ) )
    run( Case( q, k, v ), 18 )

def test_chunk_sums() -> None:
  """P . V of a chunk by hand: powers of two are exact, whatever their order and exponents."""
  p = np.zeros( ( 1, 1, 2, 16 ), dtype=np.int64 )
  v = np.zeros( ( 1, 2, 16, 2 ), dtype=np.int64 )
  e = np.zeros( ( 1, 2, 16 ), dtype=np.int64 )
  p[0, 0, 0, :3] = 32768, 16384, 1                       # 1, 1/2, and the least there is
  v[0, 0, :3]    = [ [ 16384, -16384 ], [ 8192, 16384 ], [ 16384, 16384 ] ]
  e[0, 0, :3]    = 127, 128, 132                         # so 16384 is 1, 2, 32
  p[0, 0, 1, 15], v[0, 1, 15], e[0, 1, 15] = 16384, ( 1, -32767 ), 141
  expect = [ [ 32768 * ( 1 + 0.5 ) + 32, 32768 * ( -1 + 1 ) + 32 ], [ 16384, -16384 * 32767 ] ]
  assert chunk_sums( p, v, e ).tolist() == [ [ expect ] ]

#-------------------------------------------------------------------------
# Prefill equals decode
#-------------------------------------------------------------------------

def cut( total: int, sizes: Sequence[int] ) -> list[slice]:
  """Passes of these sizes, repeated as needed, over `total` rows."""
  out, at, i = [], 0, 0
  while at < total:
    out.append( slice( at, min( at + sizes[i % len( sizes )], total ) ) )
    at, i = out[-1].stop, i + 1
  return out

TEXT = 70
LONG = mk_case( normal( 11, TEXT, 6, 32 ), with_channels( normal( 12, 2, TEXT, 32 ), [ 4 ], 150 ),
                normal( 13, 2, TEXT, 32 ) * 10.0 ** normal( 14, 2, TEXT, 1 ) )
BY_TOKEN = np.concatenate( [ run( LONG, i, slice( i, i + 1 ) ) for i in range( TEXT ) ] )

def check_cut( sizes: Sequence[int], garbage: int | None ) -> None:
  for rows in cut( TEXT, sizes ):
    got = run( LONG, rows.start, rows, garbage=garbage )
    assert np.array_equal( bits( got ), bits( BY_TOKEN[rows] ) ), ( sizes, rows )

@pytest.mark.parametrize( "sizes", [ ( 1, ), ( 2, ), ( 3, ), ( 5, ), ( 15, ), ( 16, ), ( 17, ), ( 70, ), ( 7, 16 ),
                                     ( 15, 2 ), ( 1, 16 ) ], ids=str )
def test_any_cut_equals_token_by_token( sizes: tuple[int, ...] ) -> None:
  """Bit for bit, also where passes start in the middle of a chunk, with rubbish after the last key."""
  check_cut( sizes, None )
  check_cut( sizes, 99 )

@settings( max_examples=30 )
@given( sizes=st.lists( st.integers( 1, 20 ), min_size=1, max_size=10 ), garbage=st.integers( 0, 1000 ) )
def test_random_cuts( sizes: list[int], garbage: int ) -> None:
  check_cut( sizes, garbage )

@pytest.mark.nightly
@settings( max_examples=1000 )
@given( sizes=st.lists( st.integers( 1, 64 ), min_size=1, max_size=70 ), garbage=st.integers( 0, 10 ** 6 ) )
def test_many_random_cuts( sizes: list[int], garbage: int ) -> None:
  check_cut( sizes, garbage )

@pytest.mark.parametrize( "name", OUTLIERS )
def test_cuts_of_outliers( name: str ) -> None:
  """The three rows of each outlier case at once and one by one."""
  c = OUTLIERS[name]
  together = run( c, 37 )
  for i in range( 3 ):
    alone = run( c, 37 + i, slice( i, i + 1 ), garbage=i )
    assert np.array_equal( bits( alone[0] ), bits( together[i] ) )

@pytest.mark.parametrize( "position", ( 0, 1, 14, 15, 16, 30, 31, 32 ) )
def test_what_is_after_the_last_key_does_not_matter( position: int ) -> None:
  """Zeros, rubbish of several kinds, later keys of a longer text, and whole chunks of them."""
  expect = bits( BY_TOKEN[position : position + 3] )
  rows   = slice( position, position + 3 )
  for garbage in range( 20 ):
    assert np.array_equal( bits( run( LONG, position, rows, garbage=garbage ) ), expect )
  assert np.array_equal( bits( run( LONG, position, rows, valid=TEXT ) ), expect )
  assert np.array_equal( bits( run( LONG, position, rows, chunks=9, garbage=1 ) ), expect )

def test_heads_do_not_see_each_other() -> None:
  """A head alone gives what it gives among others, as do two KV heads apart."""
  for h in range( 6 ):
    kv = slice( h // 3, h // 3 + 1 )
    alone = Case( Block( LONG.q.q[:, h : h + 1], LONG.q.exponent[:, h : h + 1] ),
                  Block( LONG.k.q[kv], LONG.k.exponent[kv] ), Block( LONG.v.q[kv], LONG.v.exponent[kv] ) )
    assert np.array_equal( bits( run( alone, 40, slice( 40, 50 ) )[:, 0] ), bits( BY_TOKEN[40:50, h] ) )

#-------------------------------------------------------------------------
# The instruction
#-------------------------------------------------------------------------

def packed( b: Block ) -> NDArray[np.uint32]:
  """Scratchpad lanes: integers in bits 15:0, the exponent in bits 23:16 of every lane."""
  return ( ( b.q & 0xFFFF ) | ( b.exponent[..., None] << 16 ) ).astype( np.uint32 )

def by_instruction( n: int, sizes: Sequence[int], seed: int ) -> tuple[F32, NDArray[np.uint8]]:
  """All of LONG through ATTEND, in passes; returns the result and the cache. All else is rubbish."""
  cfg    = NpuConfig( name="attend", n=n, spad_bytes=1 << 19, m_max=64 )
  rows   = 64 * ( 6 + 4 ) * 32 // n
  layout = KvLayout( 32, 2, 5 )
  rng    = np.random.default_rng( seed )
  lines  = layout.total_lines
  npu    = NpuFL( cfg, rng.integers( 0, 256, ( lines + 7 ) * LINE_BYTES, dtype=np.uint8 ) )
  npu.spad[:] = rng.integers( 0, 1 << 32, npu.spad.shape, dtype=np.uint32 )
  operands = dict( dram=5, dst=rows, heads=6, src=0, kv_heads=2, src2=6 * 32 // n, length=32, chunks=5,
                   dst_stride=6 * 32 // n + 1, src_stride=10 * 32 // n, factor=float( LONG.factor ) )
  found = []
  for part in cut( TEXT, sizes ):
    count = part.stop - part.start
    new   = [ packed( LONG.q )[part] ] + [ packed( b )[:, part].transpose( 1, 0, 2 ) for b in ( LONG.k, LONG.v ) ]
    lanes = np.concatenate( [ x.reshape( count, -1 ) for x in new ], axis=1 )
    npu.spad.reshape( -1 )[: lanes.size] = lanes.reshape( -1 )
    npu.r.pos, npu.r.rows, npu.r.lines = part.start, count, len( npu.dram ) // LINE_BYTES
    npu.execute( mk( "ATTEND", **operands ) )
    index = rows + np.arange( count )[:, None] * ( 6 * 32 // n + 1 ) + np.arange( 6 * 32 // n )
    found.append( npu.spad[index].view( np.float32 ).reshape( count, 6, 32 ) )
  return np.concatenate( found ), npu.dram[5 * LINE_BYTES : ( 5 + lines ) * LINE_BYTES]

@pytest.mark.parametrize( "n", ( 4, 8, 16 ) )
def test_instruction( n: int ) -> None:
  """Any n and any cut: the result of the functions, and a cache that reads back as what went in."""
  for seed, sizes in enumerate( ( ( 1, ), ( 5, 16 ), ( 64, ) ) ):
    got, cache = by_instruction( n, sizes, seed )
    assert np.array_equal( bits( got ), bits( BY_TOKEN ) )
    # The format of npu/arch/kv_cache.py, by its description: 16 + 16 exponents in a line, then rows of keys, of values.
    chunks = cache.reshape( 2, 5, -1 )
    for which, b in enumerate( ( LONG.k, LONG.v ) ):
      start = LINE_BYTES + which * CHUNK * 64
      q     = np.ascontiguousarray( chunks[:, :, start : start + CHUNK * 64] ).view( np.int16 ).reshape( 2, 80, 32 )
      e     = chunks[:, :, which * CHUNK : ( which + 1 ) * CHUNK].reshape( 2, 80 )
      assert np.array_equal( q[:, :TEXT], b.q ) and np.array_equal( e[:, :TEXT], b.exponent )

#-------------------------------------------------------------------------
# Commands
#-------------------------------------------------------------------------

CFG = NpuConfig( name="small", n=8, m_max=8, spad_bytes=4096 )

CHECK_ROWS: list[tuple[str, dict[str, int], int, int, Error]] = [
  # name                         operands                          rows  position  error
  ( "one token",                 {},                               1,    0,        Error.NONE ),
  ( "all rows",                  {},                               8,    0,        Error.NONE ),
  ( "the last positions",        {},                               8,    56,       Error.NONE ),
  ( "the last position",         {},                               1,    63,       Error.NONE ),
  ( "as many KV heads as heads", { "kv_heads": 6 },                1,    0,        Error.NONE ),
  ( "one KV head",               { "kv_heads": 1 },                1,    0,        Error.NONE ),
  ( "no rows",                   {},                               0,    0,        Error.ZERO_SIZE ),
  ( "no length",                 { "length": 0 },                  1,    0,        Error.ZERO_SIZE ),
  ( "no heads",                  { "heads": 0 },                   1,    0,        Error.ZERO_SIZE ),
  ( "no KV heads",               { "kv_heads": 0 },                1,    0,        Error.ZERO_SIZE ),
  ( "no capacity",               { "chunks": 0 },                  1,    0,        Error.ZERO_SIZE ),
  ( "a row too many",            {},                               9,    0,        Error.BAD_SIZE ),
  ( "heads do not divide",       { "kv_heads": 4 },                1,    0,        Error.BAD_SIZE ),
  ( "more KV heads than heads",  { "kv_heads": 12 },               1,    0,        Error.BAD_SIZE ),
  ( "head not in whole rows",    { "length": 20 },                 1,    0,        Error.BAD_SIZE ),
  ( "one position too far",      {},                               1,    64,       Error.BAD_POSITION ),
  ( "a pass across the end",     {},                               8,    57,       Error.BAD_POSITION ),
  ( "far past the end",          {},                               1,    1 << 30,  Error.BAD_POSITION ),
  ( "size before position",      { "length": 20 },                 1,    64,       Error.BAD_SIZE ),
  ( "zero before size",          { "chunks": 0 },                  9,    0,        Error.ZERO_SIZE ) ]

@pytest.mark.parametrize( "operands, rows, position, error", [ r[1:] for r in CHECK_ROWS ],
                          ids=[ r[0] for r in CHECK_ROWS ] )
def test_check( operands: dict[str, int], rows: int, position: int, error: Error ) -> None:
  fine = { "heads": 6, "kv_heads": 2, "length": 24, "chunks": 4 }
  assert check( CFG, mk( "ATTEND", **{ **fine, **operands } ), rows, position, lines=1 << 20, writable=0 ) == error
