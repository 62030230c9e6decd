"""Compiled attention gives the bits of numpy's, from the same cache."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from fl import attention_engine
from fl.kernels import choose
from npu.arch.config import CHUNK, LINE_BYTES
from npu.arch.kv_cache import KvLayout
from npu.arch.numerics.fp32 import bits

COMPILED = choose( "compiled" )

def check( layout: KvLayout, group: int, rows: int, position: int, seed: int, data: str, near: int ) -> None:
  """Attention of a pass over a cache of random bytes: what lies after the pass's positions must not count."""
  rng   = np.random.default_rng( seed )
  cache = rng.integers( 0, 256, layout.total_lines * LINE_BYTES, dtype=np.uint8 )
  q     = rng.integers( -32768, 32768, ( rows, layout.kv_heads * group, layout.head_dim ) )
  if data == "lowest":
    q[:] = -32768
    cache.view( np.uint16 )[:] = 0x8000
  # Exponents near 1.0, where scores neither saturate nor vanish, or anywhere.
  low, high  = ( 127 - near, 127 + near ) if near < 127 else ( 0, 255 )
  q_exponent = rng.integers( low, high, q.shape[:2] )
  chunks     = cache.reshape( layout.kv_heads, layout.chunks, -1 )
  chunks[:, :, : 2 * CHUNK] = rng.integers( low, high, ( *chunks.shape[:2], 2 * CHUNK ) )
  factor = float( np.float32( 1.4426950408889634 / layout.head_dim ** 0.5 ) )
  before = cache.copy()
  expect = attention_engine.attend_cache( q, q_exponent, layout, cache, position, factor )
  got    = COMPILED.attend( q, q_exponent, layout, cache, position, factor )
  assert np.array_equal( cache, before )
  finite = np.isfinite( expect )        # what follows an overflow is not defined
  assert got.shape == expect.shape and np.array_equal( bits( got )[finite], bits( expect )[finite] )

@given( kv_heads=st.integers( 1, 3 ), group=st.integers( 1, 7 ), dim=st.sampled_from( ( 4, 16, 64, 80, 128 ) ),
        rows=st.integers( 1, 16 ), position=st.integers( 0, 80 ), data=st.sampled_from( ( "random", "lowest" ) ),
        near=st.sampled_from( ( 1, 6, 127 ) ), seed=st.integers( 0, 1 << 32 ) )
def test_compiled_equals_numpy( kv_heads: int, group: int, dim: int, rows: int, position: int, data: str, near: int,
                                seed: int ) -> None:
  check( KvLayout( dim, kv_heads, 6 ), group, rows, position, seed, data, near )

@pytest.mark.parametrize( "rows, position", ( ( 1, 1023 ), ( 16, 500 ) ) )
def test_long_contexts( rows: int, position: int ) -> None:
  """As a layer of Qwen2-0.5B; heads are shared between threads."""
  check( KvLayout( 64, 2, 64 ), 7, rows, position, 3, "random", 4 )
