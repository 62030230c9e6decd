"""The compiled GEMM gives the bits of the numpy one: every integer mode, geometry, shape and extreme of the data."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import example, given, strategies as st
from numpy.typing import NDArray

from fl import mac_array
from fl.kernels import choose
from npu.arch.isa import GemmMode
from npu.arch.numerics.block_float import pack as pack_lanes
from npu.arch.numerics.fp32 import F32, bits
from npu.arch.weight_stream import ACTIVATION_BITS, GROUP_MODES, StreamLayout

COMPILED = choose( "compiled" )

@dataclass( frozen=True )
class Case:
  """A GEMM; `data` is what its integers are like, `fp32` what scales, biases and residuals are like."""
  mode: GemmMode
  n: int
  rows: int
  k: int
  cols: int
  group: int = 0
  bias: bool = False
  residual: bool = False
  data: str = "random"      # random, lowest: all of them the most negative, zero
  fp32: str = "usual"       # usual, tiny: around the smallest normal number, huge
  seed: int = 0

  @property
  def layout( self ) -> StreamLayout:
    return StreamLayout( self.mode, self.n, self.k, self.cols, self.group, self.bias )

@st.composite
def cases( draw: st.DrawFn ) -> Case:
  mode  = draw( st.sampled_from( sorted( ACTIVATION_BITS ) ) )
  group = draw( st.sampled_from( ( 32, 64, 128 ) ) ) if mode in GROUP_MODES else 0
  k     = group * draw( st.integers( 1, 4 ) ) if group else draw( st.integers( 1, 600 ) )
  return Case( mode, draw( st.sampled_from( ( 4, 8, 16 ) ) ), draw( st.integers( 1, 16 ) ), k,
               draw( st.integers( 1, 50 ) ), group, draw( st.booleans() ), draw( st.booleans() ),
               draw( st.sampled_from( ( "random", "lowest", "zero" ) ) ),
               draw( st.sampled_from( ( "usual", "tiny", "huge" ) ) ), draw( st.integers( 0, 1 << 32 ) ) )

def numbers( rng: np.random.Generator, kind: str, shape: tuple[int, ...] ) -> F32:
  """binary32 of that kind, with zeros of both signs and subnormals in between."""
  power = { "usual": ( -20, 20 ), "tiny": ( -149, -110 ), "huge": ( 90, 127 ) }[kind]
  x     = rng.uniform( -2, 2, shape ) * 2.0 ** rng.integers( *power, shape )
  odd   = rng.choice( np.array( [ 0.0, -0.0, 1e-40, -1e-40 ] ), shape )
  return np.where( rng.random( shape ) < 0.2, odd, x ).astype( np.float32 )

def data( c: Case ) -> tuple[NDArray[np.uint32], NDArray[np.uint32], F32 | None]:
  """Stream, lanes and residual; every bit of the stream is random, padding included."""
  rng, layout = np.random.default_rng( c.seed ), c.layout
  words = rng.integers( 0, 1 << 32, ( layout.tiles, layout.tile_words ), dtype=np.uint32 )
  q     = rng.integers( -32768, 32768, ( c.rows, c.k ) )
  if c.data != "random":
    octet = { GemmMode.I16_I16: 0x80008000, GemmMode.I16_G4: 0xFFFFFFFF }.get( c.mode, 0x80808080 )
    words[:], q[:] = ( octet, -32768 ) if c.data == "lowest" else ( 0, 0 )
  header = words[:, : layout.header_words]
  header[:] = bits( numbers( rng, c.fp32, header.shape ) )
  for g in range( layout.groups if c.group else 0 ):
    lanes = words[:, layout.header_words + g * layout.group_words :][:, : c.n]
    zeros = np.uint32( 0x7F ) if c.data == "lowest" else rng.integers( 0, 256, lanes.shape, dtype=np.uint32 )
    lanes[:] = ( bits( numbers( rng, c.fp32, lanes.shape ) ) & np.uint32( 0xFFFFFF00 ) ) | zeros
  lanes = pack_lanes( q, rng.integers( 0, 255, c.rows ) )
  return words.reshape( -1 ), lanes, numbers( rng, c.fp32, ( c.rows, c.cols ) ) if c.residual else None

def check( c: Case ) -> None:
  stream, lanes, residual = data( c )
  expect = mac_array.gemm_stream( c.layout, stream, lanes, residual )
  got    = COMPILED.gemm( c.layout, stream, lanes, residual )
  finite = np.isfinite( expect )        # what follows an overflow is not defined
  assert np.array_equal( np.isfinite( got ), finite )
  assert np.array_equal( bits( got )[finite], bits( expect )[finite] )

@given( cases() )
@example( Case( GemmMode.I16_I8, 16, 16, 512, 33, bias=True, residual=True, data="lowest" ) )
@example( Case( GemmMode.I16_G8, 16, 2, 256, 16, group=128, data="lowest" ) )
@example( Case( GemmMode.I16_I8, 16, 3, 40, 16, bias=True, residual=True, fp32="tiny" ) )
def test_compiled_equals_numpy( c: Case ) -> None:
  check( c )

@pytest.mark.parametrize( "mode", [ m for m in ACTIVATION_BITS if m not in GROUP_MODES ] )
@pytest.mark.parametrize( "n", ( 4, 16 ) )
def test_the_longest_sum_of_the_largest_products_is_exact( mode: GemmMode, n: int ) -> None:
  """K = 32768 of -32768 times the lowest weight: 2**45 in the INT16 mode."""
  check( Case( mode, n, 1, 32768, n, data="lowest" ) )
  check( Case( mode, n, 1, 32768, n ) )

def test_all_cores_share_a_large_matrix() -> None:
  """Enough columns for several threads, the last tile not whole; every row and every tile is there."""
  check( Case( GemmMode.I16_I8, 16, 5, 896, 1500, bias=True, residual=True ) )
  check( Case( GemmMode.I16_G4, 16, 5, 896, 1500, group=32 ) )

def test_floating_modes_are_numpys() -> None:
  rng    = np.random.default_rng( 1 )
  layout = StreamLayout( GemmMode.BF16, 4, 16, 8, 0, False )
  stream = rng.integers( 0, 0x4000, 2 * layout.total_bytes // 4, dtype=np.uint16 ).view( np.uint32 )
  lanes  = rng.integers( 0, 0x4000, ( 3, 16 ), dtype=np.uint32 )
  assert np.array_equal( COMPILED.gemm( layout, stream, lanes ), mac_array.gemm_stream( layout, stream, lanes ) )

def test_unknown_kernels() -> None:
  with pytest.raises( ValueError, match="unknown kernels 'fast'; choose numpy or compiled" ):
    choose( "fast" )
