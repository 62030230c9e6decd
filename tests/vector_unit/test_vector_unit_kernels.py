"""The compiled operations of the vector unit give the bits of the numpy ones."""

import numpy as np
import pytest
from hypothesis import given, strategies as st
from numpy.typing import NDArray

from fl import vector_unit
from fl.kernels import choose
from npu.arch.config import NpuConfig
from npu.arch.isa import Instruction, mk

COMPILED = choose( "compiled" ).vector
NAMES    = ( "RMSNORM", "QUANTIZE", "SWIGLU", "ROPE" )

def floats( rng: np.random.Generator, shape: tuple[int, ...], spread: int ) -> NDArray[np.uint32]:
  """Finite binary32 whose exponents are at most `spread` apart, zeros and subnormals in between."""
  top      = int( rng.integers( 0, 254 ) )
  exponent = np.maximum( top - rng.integers( 0, spread + 1, shape ), 0 )
  found    = rng.integers( 0, 1 << 23, shape ) | exponent << 23 | rng.integers( 0, 2, shape ) << 31
  return np.where( rng.random( shape ) < 0.1, 0, found ).astype( np.uint32 )

def instruction( name: str, segments: int, length: int, width: int, rng: np.random.Generator ) -> Instruction:
  """One of NAMES; constants as a model has them."""
  fields = { "RMSNORM": { "inv_length": float( np.float32( 1 / length ) ),
                          "eps": float( np.float32( rng.choice( [ 0, 1e-6, 1e-5 ] ) ) ) },
             "QUANTIZE": { "bits": width } }
  whole  = length + length % 2 if name == "ROPE" else length
  return mk( name, segments=segments, length=whole, **fields.get( name, {} ) )

@pytest.mark.parametrize( "name", NAMES )
@given( n=st.sampled_from( ( 4, 8, 16 ) ), rows=st.integers( 1, 16 ), segments=st.integers( 1, 3 ),
        length=st.integers( 1, 70 ), width=st.sampled_from( ( 8, 16 ) ), spread=st.sampled_from( ( 0, 8, 40, 254 ) ),
        seed=st.integers( 0, 1 << 32 ) )
def test_compiled_equals_numpy( name: str, n: int, rows: int, segments: int, length: int, width: int, spread: int,
                                seed: int ) -> None:
  rng  = np.random.default_rng( seed )
  cfg  = NpuConfig( name="kernels", n=n )
  i    = instruction( name, segments, length, width, rng )
  words = [ floats( rng, ( o.rows, o.width * n ), spread ) for o in vector_unit.operands( cfg, i, rows ) ]
  expect, _ = vector_unit.execute( cfg, i, words )
  got, _    = vector_unit.execute( cfg, i, words, functions=COMPILED )
  assert expect is not None and got is not None and got.dtype == expect.dtype
  finite = ( expect & np.uint32( 0x7F800000 ) ) != 0x7F800000     # what follows an overflow is not defined
  assert np.array_equal( got[finite], expect[finite] )

@pytest.mark.parametrize( "name", ( "SWIGLU", "RMSNORM" ) )
def test_every_exponent_and_segment_of_the_tables( name: str ) -> None:
  """All exponents with 128 fractions of both signs: the special functions over their whole range."""
  fraction = np.arange( 128, dtype=np.uint32 ) << np.uint32( 16 ) | np.uint32( 0x5A5A )
  x = ( np.arange( 255, dtype=np.uint32 )[:, None] << np.uint32( 23 ) | fraction ).reshape( -1, 1, 1 )
  x = np.concatenate( [ x, x | np.uint32( 1 << 31 ) ] )
  i = mk( name, segments=1, length=1, **( { "inv_length": 1.0 } if name == "RMSNORM" else {} ) )
  other = np.full( ( len( x ), 1 ), np.float32( 1 ).view( np.uint32 ) )
  expect = vector_unit.FUNCTIONS[name]( i, x, other )
  finite = ( expect & np.uint32( 0x7F800000 ) ) != 0x7F800000
  assert np.array_equal( COMPILED[name]( i, x, other )[finite], expect[finite] )
