"""The vector unit, one suite for all levels: the table of commands, other sizes, results against numpy's, resets."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from npu.arch.config import PRESETS
from npu.arch.isa import Convert, Error
from tests.vector_unit.rows import ROWS, chain, search
from tests.vector_unit.world import (
  CALM,
  LEVELS,
  NIGHTLY_RTL,
  At,
  Vec,
  World,
  changed,
  checked,
  simulate,
  simulate_again,
)

#-------------------------------------------------------------------------
# The table
#-------------------------------------------------------------------------

# In Python the RTL does less than a hundred cycles a second: every operation, in the order of these rows, in every run;
# the others only nightly. All of them run as Verilog.
QUICK = ( "hasty_wild", "heads", "one_lane", "rope_odd_half", "search_ties", "second_stalls", "values_argmax", "sum" )

def cases( *names: str, levels: tuple[str, ...] = LEVELS, quick: tuple[str, ...] = QUICK ) -> list:
  """( level, commands, timing ) of the rows of those names, or of all."""
  return [ pytest.param( level, commands, timing, id=f"{name}-{level}",
                         marks=[ pytest.mark.nightly ] if level == "rtl" and name not in quick else [] )
           for name, commands, timing in ROWS if not names or name in names for level in levels ]

@pytest.mark.parametrize( ( "level", "commands", "timing" ), cases() )
def test_rows( level, commands, timing, cmdline_opts ):
  cfg = PRESETS["edge4"]
  checked( cfg, level, World( cfg, commands ), timing, cmdline_opts )

@pytest.mark.parametrize( ( "level", "commands", "timing" ), cases(
  "one_lane", "tails", "rope_odd_half", "values_softmax", "values_argmax", "search_ties", "sum", "hasty_wild",
  "second_stalls", "independent_wild", quick=( "sum", ) ) )
def test_rows_n8( level, commands, timing, cmdline_opts ):
  cfg = PRESETS["edge8"]
  checked( cfg, level, World( cfg, commands ), timing, cmdline_opts )

@pytest.mark.parametrize( ( "level", "commands", "timing" ), cases( levels=( "fl", "cl", "verilog" ) ) )
def test_rows_n16( level, commands, timing, cmdline_opts ):
  cfg = PRESETS["edge16"]
  checked( cfg, level, World( cfg, commands ), timing, cmdline_opts )

# The default, above, is random initial state.
@pytest.mark.parametrize( "x_initial", ( "zeros", "ones" ) )
@pytest.mark.parametrize( ( "level", "commands", "timing" ), cases( levels=( "verilog", ) ) )
def test_initial_state( level, x_initial, commands, timing, cmdline_opts ):
  cfg = PRESETS["edge4"]
  checked( cfg, level, World( cfg, commands ), timing, cmdline_opts, x_initial=x_initial )

#-------------------------------------------------------------------------
# Other sizes
#-------------------------------------------------------------------------

# Other sizes than the presets', all at once: each is a model for Verilator to build.
SMALL = replace( PRESETS["edge4"], m_max=3, k_max=256, spad_bytes=1 << 14 )

@pytest.mark.parametrize( ( "level", "m_max" ), [
  ( "fl", 3 ), ( "cl", 3 ), ( "rtl", 3 ), ( "verilog", 3 ), ( "cl", 1 ), ( "cl", 64 ),
  pytest.param( "rtl", 1, marks=pytest.mark.nightly ), pytest.param( "rtl", 64, marks=pytest.mark.nightly ) ] )
def test_other_row_counts( level, m_max, cmdline_opts ):
  """m_max is a parameter, and a row more is refused."""
  cfg   = replace( SMALL, m_max=m_max )
  world = World( cfg, [ Vec( "RMSNORM", rows=m_max, length=5 ), Vec( "COPY", rows=m_max, length=5 ),
                        Vec( "ADD", length=3 ) ] )
  checked( cfg, level, world, CALM, cmdline_opts )
  world.messages.insert( 1, changed( world.messages[0], rows=m_max + 1 ) )
  simulate( cfg, level, world, errors=[ Error.NONE, Error.BAD_SIZE, Error.NONE, Error.NONE ], opts=cmdline_opts )

@pytest.mark.parametrize( "level", ( "fl", "cl", "verilog" ) )
@pytest.mark.parametrize( "data", ( "full", "equal", "zero" ) )
def test_longest_norm( level, data ):
  """k_max elements of the largest magnitude: the sum of squares has all of its bits; one more is refused."""
  v     = Vec( "RMSNORM", length=SMALL.k_max, data=data )
  world = World( SMALL, [ v, replace( v, segments=2 ) ] )
  checked( SMALL, level, world, CALM )
  world.messages.insert( 1, changed( world.messages[0], length=SMALL.k_max + 1 ) )
  simulate( SMALL, level, world, errors=[ Error.NONE, Error.BAD_SIZE, Error.NONE ] )

@pytest.mark.parametrize( "level", ( "fl", "cl", "verilog" ) )
@pytest.mark.parametrize( "op", ( "SOFTMAX", "QUANTIZE", "ARGMAX" ) )
def test_whole_scratchpad( level, op ):
  """One segment that is all of the scratchpad: the largest sum of probabilities that fits, the last row."""
  v     = Vec( op, length=SMALL.spad_bytes // 4, mode=1 if op == "ARGMAX" else 16, src=At( 0, 0 ), dst=At( 0, 0 ) )
  v     = replace( v, param=1e-12 ) if op == "SOFTMAX" else v
  world = World( SMALL, [ v ], fill=SMALL.derived.spad_rows )
  checked( SMALL, level, world, CALM )

@pytest.mark.nightly
@pytest.mark.parametrize( "level", ( "fl", "cl", "verilog" ) )
def test_longest_softmax( level ):
  """As many elements as the length field holds, each with a probability of 1 before they are normalised."""
  cfg   = replace( PRESETS["edge16"], spad_bytes=1 << 23 )
  world = World( cfg, [ Vec( "SOFTMAX", length=( 1 << 20 ) - 1, data="zero", dst="src", gap=-1 ) ] )
  checked( cfg, level, world, CALM, max_cycles=2_000_000 )

#-------------------------------------------------------------------------
# Against what others compute: numpy's float32 and float64, Python's integers
#-------------------------------------------------------------------------

TINY = np.float32( 2.0 ** -126 )

def flushed( x: np.ndarray ) -> np.ndarray:
  return np.where( np.abs( x ) < TINY, np.copysign( np.float32( 0 ), x ), x )

def exactly( function: Callable[..., np.ndarray] ) -> Callable[..., None]:
  """Compares with float32 operations, each result flushed."""
  def compare( out: np.ndarray, *operands: np.ndarray ) -> None:
    expect = flushed( function( *operands ) ).astype( np.float32 )
    assert np.array_equal( out.view( np.uint32 ), expect.view( np.uint32 ) )
  return compare

def within( bound: float, function: Callable[..., np.ndarray] ) -> Callable[..., None]:
  """Compares with float64; the bound is relative to the largest result."""
  def compare( out: np.ndarray, *operands: np.ndarray ) -> None:
    expect = function( *( x.astype( np.float64 ) for x in operands ) )
    assert np.abs( out - expect ).max() <= bound * np.abs( expect ).max()
  return compare

def softmax64( x: np.ndarray ) -> np.ndarray:
  p = np.exp( x - x.max( axis=-1, keepdims=True ) )
  return p / p.sum( axis=-1, keepdims=True )

def is_quantised( out: np.ndarray, x: np.ndarray ) -> None:
  """Python's own integers and rounding, element by element."""
  for row, lanes in zip( x, out.view( np.uint32 ), strict=True ):
    exponent = max( int( v.view( np.uint32 ) ) >> 23 & 0xFF for v in row )
    for v, lane in zip( row, lanes, strict=True ):
      q = max( -32767, min( 32767, round( float( v ) * 2.0 ** ( 127 + 14 - exponent ) ) ) )
      assert int( lane ) == ( exponent << 16 | q & 0xFFFF )

def silu64( x: np.ndarray ) -> np.ndarray:
  return x / ( 1 + np.exp( -x ) )

OTHERS: dict[str, tuple[Vec, Callable[..., None]]] = {
  "add":      ( Vec( "ADD", data="wide", data2="wide" ),          exactly( np.add ) ),
  "mul":      ( Vec( "MUL", data="wide", data2="wide" ),          exactly( np.multiply ) ),
  "scale":    ( Vec( "SCALE", data="wide", param=-0.3 ),          exactly( lambda x: x * np.float32( -0.3 ) ) ),
  "quantize": ( Vec( "QUANTIZE", data="random" ),                 is_quantised ),
  "to_bf16":  ( Vec( "CONVERT", data="wide", mode=Convert.FP32_BF16 ),
                lambda out, x: np.testing.assert_array_equal( out.view( np.uint32 ),
                                                              x.astype( ml_dtypes.bfloat16 ).view( np.uint16 ) ) ),
  "rmsnorm":  ( Vec( "RMSNORM", eps=1e-6 ),
                within( 1e-5, lambda x, g: x / np.sqrt( np.mean( x * x, axis=-1, keepdims=True ) + 1e-6 ) * g[:1] ) ),
  "swiglu":   ( Vec( "SWIGLU" ),                                  within( 4e-4, lambda x, y: silu64( x ) * y ) ),
  "softmax":  ( Vec( "SOFTMAX" ),                                 within( 1e-3, softmax64 ) ),
}

@pytest.mark.parametrize( "level", NIGHTLY_RTL )
@pytest.mark.parametrize( "name", OTHERS )
def test_against_others( level, name ):
  """Results in the scratchpad against numpy, not against fl/."""
  cfg, ( v, compare ) = PRESETS["edge4"], OTHERS[name]
  rows, length, width = 3, 12, 3
  world = World( cfg, [ replace( v, rows=rows, length=length, gap=0 ) ] )
  found = simulate( cfg, level, world )
  def matrix( spad: np.ndarray, at: Any, count: int = rows ) -> np.ndarray:
    return spad[int( at ) : int( at ) + count * width].reshape( count, length ).view( np.float32 )
  msg = world.messages[0]
  operands = [ matrix( world.spad, msg.src ) ]
  if v.op in ( "ADD", "MUL", "SWIGLU", "RMSNORM" ):
    operands.append( matrix( world.spad, msg.src2, 1 if v.op == "RMSNORM" else rows ) )
  compare( matrix( found.rows, msg.dst ), *operands )

@pytest.mark.parametrize( "level", NIGHTLY_RTL )
def test_argmax_against_numpy( level ):
  """A search over parts is one over the whole."""
  cfg   = PRESETS["edge4"]
  world = World( cfg, search( 9, 14, 3, 8, data="ties", gap=0 ) )
  found = simulate( cfg, level, world )
  parts = [ found.rows.reshape( -1 )[int( m.src ) * cfg.n :][: int( m.length )].view( np.float32 )
            for m in world.messages ]
  so_far = [ np.concatenate( parts[: k + 1] ) for k in range( len( parts ) ) ]
  assert [ e.done for e in world.effects ] == [ int( np.argmax( x ) ) for x in so_far ]

#-------------------------------------------------------------------------
# Reset
#-------------------------------------------------------------------------

@pytest.mark.parametrize( ( "level", "cycles" ), [
  pytest.param( level, cycles, marks=[ pytest.mark.nightly ] if level == "rtl" and cycles != 55 else [] )
  for level in LEVELS for cycles in ( 1, 4, 9, 17, 30, 55, 90, 120 ) ] )
def test_reset( level, cycles ):
  """A reset in the middle of anything: what was under way is gone, a search too, and a new run is as the first."""
  cfg    = PRESETS["edge4"]
  before = World( cfg, [ *search( 5, data="huge" ), Vec( "RMSNORM", rows=2, length=9 ), Vec( "SOFTMAX", length=9 ),
                         Vec( "ROPE", rows=2, length=10 ), *search( 9, data="huge" ), Vec( "SWIGLU", length=9 ) ], 1 )
  after  = World( cfg, [ Vec( "ARGMAX", mode=0, length=9, data="negative" ), Vec( "QUANTIZE", rows=2, length=9 ),
                         *chain( Vec( "RMSNORM" ), Vec( "QUANTIZE", dst="src" ), length=6 ) ] )
  found  = simulate_again( cfg, level, before, cycles, after )
  if level != "fl":
    assert found == simulate( cfg, level, after )
