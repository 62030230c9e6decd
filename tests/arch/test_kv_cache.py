"""The KV cache in memory: bytes by hand, what is written is what is read, and nothing else moves."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray

from npu.arch.config import CHUNK, LINE_BYTES
from npu.arch.kv_cache import KvLayout

KEYS, VALUES = 0, 1

def empty( layout: KvLayout, fill: int = 0 ) -> NDArray[np.uint8]:
  """The memory of one layer's cache."""
  return np.full( layout.total_lines * LINE_BYTES, fill, dtype=np.uint8 )

def noise( layout: KvLayout, seed: int ) -> NDArray[np.uint8]:
  """A cache full of random bytes."""
  size = layout.total_lines * LINE_BYTES
  return np.random.default_rng( seed ).integers( 0, 256, size ).astype( np.uint8 )

def mk_token( layout: KvLayout, rng: np.random.Generator ) -> tuple[NDArray, NDArray]:
  """Random keys or values of one token and their exponents, ends of the ranges included."""
  q = rng.integers( -32768, 32768, ( layout.kv_heads, layout.head_dim ) )
  q[0, 0], q[-1, -1] = rng.choice( ( -32768, -32767, 32767, -1, 0 ), 2 )
  return q, rng.choice( ( 0, 1, 127, 254, 255 ), layout.kv_heads )

def place( layout: KvLayout, head: int, position: int, which: int ) -> tuple[int, int]:
  """Byte addresses of a token's exponent and of its row, from the module's description."""
  chunk_bytes = 64 + 2 * 16 * 2 * layout.head_dim
  base = ( head * layout.chunks + position // 16 ) * chunk_bytes
  row  = 64 + ( which * 16 + position % 16 ) * 2 * layout.head_dim
  return base + which * 16 + position % 16, base + row

#-------------------------------------------------------------------------
# Sizes
#-------------------------------------------------------------------------

@pytest.mark.parametrize( "head_dim, kv_heads, chunks, chunk_lines, total_lines", (
  pytest.param(   8, 1,    1,   9,     9, id="smallest" ),
  pytest.param(  32, 2,    4,  33,   264, id="tiny" ),
  pytest.param(  64, 2,  256,  65, 33280, id="0.5B" ),
  pytest.param( 128, 4, 2048, 129, 129 * 8192, id="7B" ) ) )
def test_sizes( head_dim, kv_heads, chunks, chunk_lines, total_lines ):
  layout = KvLayout( head_dim, kv_heads, chunks )
  # A line of exponents, and keys and values of 16 tokens in INT16.
  assert layout.chunk_lines * LINE_BYTES == 64 + 16 * 2 * 2 * head_dim
  assert ( layout.chunk_lines, layout.total_lines ) == ( chunk_lines, total_lines )

#-------------------------------------------------------------------------
# Bytes
#-------------------------------------------------------------------------

def test_bytes_of_a_small_cache():
  """Two heads of 8, two chunks; token 0's keys, token 17's values."""
  layout = KvLayout( 8, 2, 2 )
  cache  = empty( layout )
  layout.append( cache, KEYS, 0, np.array( [ [ 1, -1, 0x1234, -32768, 5, 6, 7, 32767 ], 8 * [ 9 ] ] ),
                 np.array( [ 127, 130 ] ) )
  layout.append( cache, VALUES, 17, np.array( [ 8 * [ -2 ], [ 1, 2, 3, 4, 5, 6, 7, 8 ] ] ),
                 np.array( [ 1, 255 ] ) )
  chunk    = 64 + 2 * 16 * 16
  expected = {
    # head 0, chunk 0: the exponent of key 0, and its row right after the line of exponents
    0:                     "7f",
    64:                    "0100 ffff 3412 0080 0500 0600 0700 ff7f",
    # head 0, chunk 1: value exponents start at byte 16, value rows after 16 key rows
    chunk + 16 + 1:        "01",
    chunk + 64 + 17 * 16:  "feff feff feff feff feff feff feff feff",
    # head 1 starts after both chunks of head 0
    2 * chunk:             "82",
    2 * chunk + 64:        "0900 0900 0900 0900 0900 0900 0900 0900",
    3 * chunk + 16 + 1:    "ff",
    3 * chunk + 64 + 17 * 16: "0100 0200 0300 0400 0500 0600 0700 0800" }
  golden = bytearray( len( cache ) )
  assert len( golden ) == 4 * chunk
  for at, text in expected.items():
    data = bytes.fromhex( text )
    golden[at : at + len( data )] = data
  assert cache.tobytes() == bytes( golden )

@pytest.mark.parametrize( "which", ( KEYS, VALUES ), ids=( "keys", "values" ) )
@pytest.mark.parametrize( "position", ( 0, 1, 15, 16, 31, 47 ) )
def test_append_writes_two_places_per_head_and_nothing_else( position, which ):
  layout = KvLayout( 16, 3, 3 )
  before = noise( layout, 1 )
  cache  = before.copy()
  q, exponent = mk_token( layout, np.random.default_rng( 2 ) )
  layout.append( cache, which, position, q, exponent )
  for head in range( layout.kv_heads ):
    at, row = place( layout, head, position, which )
    assert cache[at] == exponent[head]
    assert cache[row : row + 32].tobytes() == q[head].astype( "<i2" ).tobytes()
    before[at], before[row : row + 32] = cache[at], cache[row : row + 32]
  assert np.array_equal( cache, before )

def test_places_do_not_overlap_and_leave_half_of_the_first_line():
  """Every key, value and exponent of every head and position has bytes of its own."""
  layout = KvLayout( 8, 3, 2 )
  owners = np.zeros( layout.total_lines * LINE_BYTES, dtype=np.int64 )
  for position in range( layout.chunks * CHUNK ):
    for which in ( KEYS, VALUES ):
      cache = empty( layout )
      layout.append( cache, which, position, np.full( ( 3, 8 ), 0x0101 ), np.ones( 3, dtype=np.int64 ) )
      assert cache.sum() == layout.kv_heads * ( 2 * layout.head_dim + 1 )
      owners += cache
  assert owners.max() == 1
  assert ( owners == 0 ).sum() == 32 * layout.kv_heads * layout.chunks

def test_a_head_streams_linearly():
  """A head is one block: what is appended with one head alone is that head's part of the whole."""
  whole, one = KvLayout( 8, 3, 2 ), KvLayout( 8, 1, 2 )
  cache, parts = empty( whole ), [ empty( one ) for _ in range( 3 ) ]
  rng = np.random.default_rng( 3 )
  for position in range( 32 ):
    for which in ( KEYS, VALUES ):
      q, exponent = mk_token( whole, rng )
      whole.append( cache, which, position, q, exponent )
      for head, part in enumerate( parts ):
        one.append( part, which, position, q[head : head + 1], exponent[head : head + 1] )
  assert np.array_equal( cache, np.concatenate( parts ) )

#-------------------------------------------------------------------------
# Append and read
#-------------------------------------------------------------------------

@settings( max_examples=50 )
@given( st.sampled_from( ( 8, 16, 24, 64 ) ), st.integers( 1, 4 ), st.integers( 1, 4 ),
        st.integers( 0, 1 << 32 ), st.data() )
def test_what_was_appended_is_read( head_dim, kv_heads, chunks, seed, data ):
  layout = KvLayout( head_dim, kv_heads, chunks )
  tokens = data.draw( st.integers( 1, chunks * CHUNK ) )
  rng    = np.random.default_rng( seed )
  cache  = empty( layout, 0xEE )
  wrote  = [ [ mk_token( layout, rng ) for _ in range( tokens ) ] for _ in range( 2 ) ]
  # Keys and values in any order, each position twice: the second time counts.
  for position in rng.permutation( np.repeat( np.arange( tokens ), 2 ) ):
    for which in ( VALUES, KEYS ):
      layout.append( cache, which, position, *mk_token( layout, rng ) )
      layout.append( cache, which, position, *wrote[which][position] )
  used = -( -tokens // CHUNK )
  for which in ( KEYS, VALUES ):
    q, exponent = layout.read( cache, which, used )
    assert q.shape == ( kv_heads, used * CHUNK, head_dim ) and q.dtype == np.int64
    assert exponent.shape == ( kv_heads, used * CHUNK ) and exponent.dtype == np.int64
    for position, ( expected, scale ) in enumerate( wrote[which] ):
      assert np.array_equal( q[:, position], expected )
      assert np.array_equal( exponent[:, position], scale )
    # Slots of the last chunk that nothing was appended to are as they were.
    assert ( q[:, tokens:] == 0xEEEE - 0x10000 ).all() and ( exponent[:, tokens:] == 0xEE ).all()

@pytest.mark.parametrize( "position", ( 0, 15, 16, 40 ) )
def test_chunks_are_independent( position ):
  """A token changes its own chunk; the others read as before."""
  layout = KvLayout( 16, 2, 3 )
  cache  = noise( layout, 6 )
  before = [ layout.read( cache, which, 3 ) for which in ( KEYS, VALUES ) ]
  q, exponent = mk_token( layout, np.random.default_rng( position ) )
  layout.append( cache, KEYS, position, q, exponent )
  after = [ layout.read( cache, which, 3 ) for which in ( KEYS, VALUES ) ]
  assert np.array_equal( after[KEYS][0][:, position], q )
  for a, b in zip( after[KEYS], before[KEYS], strict=True ):
    assert np.array_equal( np.delete( a, position, axis=1 ), np.delete( b, position, axis=1 ) )
  for a, b in zip( after[VALUES], before[VALUES], strict=True ):
    assert np.array_equal( a, b )

def test_reading_fewer_chunks_reads_the_first_ones():
  layout = KvLayout( 8, 2, 4 )
  cache  = noise( layout, 5 )
  q, exponent = layout.read( cache, VALUES, 4 )
  for chunks in ( 1, 2, 3 ):
    some, scale = layout.read( cache, VALUES, chunks )
    assert np.array_equal( some, q[:, : chunks * CHUNK] )
    assert np.array_equal( scale, exponent[:, : chunks * CHUNK] )

def test_reading_gives_copies():
  layout = KvLayout( 8, 1, 1 )
  cache  = empty( layout )
  q, exponent = layout.read( cache, KEYS, 1 )
  q[:], exponent[:] = 1, 1
  assert not cache.any()
