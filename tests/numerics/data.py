"""Data for the tests of the arithmetic: binary32 patterns, drawn and random; and the comparison of every bit."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray

# The ends, the middle and their neighbours: where carries and ties are.
CORNERS   = ( 0, 1, 2, 0x3FFFFF, 0x400000, 0x400001, 0x7FFFFE, 0x7FFFFF )
FRACTIONS = st.sampled_from( CORNERS ) | st.integers( 0, 0x7FFFFF )

def joined( sign: int, exponent: int, fraction: int ) -> int:
  """A binary32 pattern from its fields."""
  return sign << 31 | exponent << 23 | fraction

def patterns( low: int = 0, high: int = 254 ) -> st.SearchStrategy[int]:
  """Finite patterns, subnormal ones too, with exponent fields in low..high."""
  return st.builds( joined, st.integers( 0, 1 ), st.integers( low, high ), FRACTIONS )

def random_patterns( seed: int, count: int, low: int = 0, high: int = 254 ) -> NDArray[np.uint32]:
  """Patterns with exponent fields in low..high, every exponent as likely as the next."""
  rng = np.random.default_rng( seed )
  return ( rng.integers( 0, 2, count ) << 31 | rng.integers( low, high + 1, count ) << 23
           | rng.integers( 0, 1 << 23, count ) ).astype( np.uint32 )

def floats( patterns: Iterable[int] | NDArray[Any] ) -> NDArray[np.float32]:
  """binary32 values with these patterns."""
  return np.array( patterns if isinstance( patterns, np.ndarray ) else list( patterns ),
                   dtype=np.uint32 ).view( np.float32 )

def powers( exponent: ArrayLike ) -> NDArray[np.float64]:
  """2**exponent, exactly, in float64."""
  return np.ldexp( 1.0, np.asarray( exponent ) )

def assert_bits( got: NDArray[Any], expected: ArrayLike, *inputs: ArrayLike ) -> None:
  """Every bit agrees, the sign of zero too; a failure shows the first difference with its inputs."""
  assert got.dtype == np.float32
  pattern = np.ascontiguousarray( got ).view( np.uint32 ).reshape( got.shape )
  wanted  = np.asarray( expected )
  if wanted.dtype == np.float32:
    wanted = np.ascontiguousarray( wanted ).view( np.uint32 ).reshape( wanted.shape )
  assert pattern.shape == wanted.shape
  wrong = np.flatnonzero( pattern != wanted )
  if wrong.size:
    i     = wrong[0]
    shown = ", ".join( str( np.asarray( x ).flat[i] ) for x in inputs )
    pytest.fail( f"{wrong.size} of {pattern.size} differ; the first is [{i}] ({shown}): "
                 f"got {pattern.flat[i]:08X}, expected {int( wanted.flat[i] ):08X}" )

def named( rows: list[Any] ) -> list[Any]:
  """Rows of (name, values...) as named test cases."""
  return [ pytest.param( *values, id=name ) for name, *values in rows ]
