"""The vector unit's golden model, instruction by instruction, on a scratchpad; and the commands that it refuses."""

from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from fl.npu import NpuFL
from fl.vector_unit import check
from npu.arch.config import NpuConfig, ceil_div
from npu.arch.isa import Convert, Error, Instruction, Rel, mk
from tests.vector_unit.oracle import (
  F32,
  LOG2_E,
  RMSNORM_ERROR,
  ROUNDING,
  SILU_ERROR,
  assert_within,
  check_sum,
  flushed,
  normal,
  pattern,
  quantised,
  rmsnorm_quantised,
  rotated,
  silu_oracle,
  softmax_oracle,
)

#-------------------------------------------------------------------------
# Instructions on a scratchpad
#-------------------------------------------------------------------------

GARBAGE = 0xFFC01234       # a NaN: if a padding lane were read, it would spread
SPAD    = 1 << 16

class Bench:
  """A scratchpad full of garbage, matrices put into it, one instruction, and what it left.

  Parameters
  ----------
  n
    Lanes.
  rows, segments, length
    Size of the operands.
  gap
    Scratchpad rows between token rows that belong to nobody.
  halves
    Segments are two halves, each in whole scratchpad rows (ROPE).
  """

  def __init__( self, n: int, rows: int, segments: int, length: int, gap: int, halves: bool = False ) -> None:
    self.cfg = NpuConfig( name="bench", n=n, spad_bytes=SPAD )
    self.npu = NpuFL( self.cfg, np.zeros( 4096, dtype=np.uint8 ) )
    self.npu.spad[:] = GARBAGE
    self.npu.r.rows = rows
    self.rows, self.segments, self.length, self.halves = rows, segments, length, halves
    self.width  = segments * self.segment_rows( length )
    self.stride = self.width + gap
    self.used   = 0

  def segment_rows( self, length: int ) -> int:
    """Scratchpad rows of one segment."""
    return 2 * ceil_div( length // 2, self.cfg.n ) if self.halves else ceil_div( length, self.cfg.n )

  def lanes( self, segments: int, length: int ) -> NDArray[np.int64]:
    """Where the elements of one token row are, in lanes from its start: [segments, length]."""
    start = np.arange( segments )[:, None] * self.segment_rows( length ) * self.cfg.n
    at    = np.arange( length )
    if self.halves:
      at = at + np.where( at >= length // 2, self.segment_rows( length ) // 2 * self.cfg.n - length // 2, 0 )
    return start + at

  def put( self, words: NDArray[np.uint32], stride: int ) -> int:
    """Words [rows, segments, length] into the scratchpad; returns the first row."""
    base, ( rows, segments, length ) = self.used, words.shape
    flat = self.npu.spad.reshape( -1 )
    for r in range( rows ):
      flat[( base + r * stride ) * self.cfg.n + self.lanes( segments, length )] = words[r]
    self.used = base + rows * stride + segments * self.segment_rows( length )
    return base

  def execute( self, mnemonic: str, dst: int, **operands: float ) -> NDArray[np.uint32]:
    """Run the instruction; returns the result [rows, segments, length].

    Whatever is not result is as before, except that the result's padding lanes are zero.
    """
    before = self.npu.spad.copy()
    self.npu.execute( mk( mnemonic, dst=dst, segments=self.segments, length=self.length,
                          dst_stride=self.stride, **operands ) )
    starts  = ( dst + np.arange( self.rows ) * self.stride ) * self.cfg.n
    places  = starts[:, None, None] + self.lanes( self.segments, self.length )
    flat    = self.npu.spad.reshape( -1 ).copy()
    found   = flat[places]
    flat[places] = 0
    expect  = before.reshape( -1 )
    expect[starts[:, None] + np.arange( self.width * self.cfg.n )] = 0
    assert np.array_equal( flat, expect ), "something else was written, or padding is not zero"
    return found

# (rows, segments, length as n-multiple and rest, gap)
GEOMETRIES = [ ( 1, 1, 0, 1, 0 ), ( 1, 1, 1, 0, 0 ), ( 2, 1, 1, 1, 0 ), ( 3, 2, 1, -1, 2 ), ( 2, 3, 3, 2, 1 ),
               ( 16, 2, 2, 0, 0 ) ]

def geometry_name( g: tuple[int, int, int, int, int] ) -> str:
  return f"{g[0]}x{g[1]}x({g[2]}n{g[3]:+d})gap{g[4]}"

def unary( bench: Bench, x: NDArray[np.uint32], mnemonic: str, **operands: float ) -> NDArray[np.uint32]:
  """A one-operand instruction, to a place of its own and in place: both must agree."""
  src = bench.put( x, bench.stride )
  out = bench.execute( mnemonic, bench.used, src=src, src_stride=bench.stride, **operands )
  assert np.array_equal( bench.execute( mnemonic, src, src=src, src_stride=bench.stride, **operands ), out )
  return out

def binary( bench: Bench, x: F32, y: F32, mnemonic: str ) -> NDArray[np.uint32]:
  """A two-operand instruction; the second operand has a stride of its own."""
  src   = bench.put( pattern( x ), bench.stride )
  other = bench.stride + 3
  src2  = bench.put( pattern( y ), other )
  return bench.execute( mnemonic, bench.used + 1, src=src, src2=src2, src_stride=bench.stride, src2_stride=other )

def run_copy( b: Bench, x: F32, y: F32 ) -> None:
  assert np.array_equal( unary( b, pattern( x ), "COPY" ), pattern( x ) )

def run_scale( b: Bench, x: F32, y: F32 ) -> None:
  factor = np.float32( -0.3 )
  src    = b.put( pattern( x ), b.stride )
  found  = b.execute( "SCALE", src, src=src, src_stride=b.stride, factor=float( factor ) )
  assert np.array_equal( found, pattern( flushed( x * factor ) ) )

def run_add( b: Bench, x: F32, y: F32 ) -> None:
  assert np.array_equal( binary( b, x, y, "ADD" ), pattern( flushed( x + y ) ) )

def run_mul( b: Bench, x: F32, y: F32 ) -> None:
  assert np.array_equal( binary( b, x, y, "MUL" ), pattern( flushed( x * y ) ) )

def run_swiglu( b: Bench, x: F32, y: F32 ) -> None:
  silu = silu_oracle( x )
  got  = binary( b, x, y, "SWIGLU" ).view( np.float32 )
  assert_within( got, silu * y, np.abs( y ) * SILU_ERROR + 4 * ROUNDING * np.abs( silu * y ) )

def run_softmax( b: Bench, x: F32, y: F32 ) -> None:
  src = b.put( pattern( x ), b.stride )
  got = b.execute( "SOFTMAX", b.used, src=src, src_stride=b.stride, factor=float( LOG2_E ) ).view( np.float32 )
  assert_within( got, *softmax_oracle( x, LOG2_E ) )
  check_sum( got )

def run_rmsnorm( b: Bench, x: F32, y: F32 ) -> None:
  gain  = y[0, 0]
  src   = b.put( pattern( x ), b.stride )
  src2  = b.put( pattern( gain )[None, None], 0 )
  got   = b.execute( "RMSNORM", b.used, src=src, src2=src2, src_stride=b.stride, inv_length=1 / b.length, eps=1e-6 )
  exact = rmsnorm_quantised( x, gain, 1e-6 )
  assert_within( got.view( np.float32 ), exact, RMSNORM_ERROR * np.abs( exact ) )

def run_quantize( b: Bench, x: F32, y: F32 ) -> None:
  for bits in ( 16, 8 ):
    fresh   = Bench( b.cfg.n, b.rows, b.segments, b.length, 1 )
    src     = fresh.put( pattern( x ), fresh.stride )
    q, unit = quantised( x, bits )
    expect  = ( q & 0xFFFF ) | ( ( unit + bits - 2 + 127 ) << 16 )[..., None]
    got     = fresh.execute( "QUANTIZE", src, src=src, src_stride=fresh.stride, bits=bits )
    assert np.array_equal( got, expect.astype( np.uint32 ) )

def run_convert( b: Bench, x: F32, y: F32 ) -> None:
  for to, back, dtype in ( ( Convert.FP32_BF16, Convert.BF16_FP32, ml_dtypes.bfloat16 ),
                           ( Convert.FP32_FP16, Convert.FP16_FP32, np.float16 ) ):
    fresh = Bench( b.cfg.n, b.rows, b.segments, b.length, 1 )
    src   = fresh.put( pattern( x ), fresh.stride )
    small = x.astype( dtype )
    found = fresh.execute( "CONVERT", src, src=src, src_stride=fresh.stride, formats=to )
    assert np.array_equal( found, small.view( np.uint16 ) )
    wide  = fresh.execute( "CONVERT", src, src=src, src_stride=fresh.stride, formats=back )
    assert np.array_equal( wide.view( np.float32 ), small.astype( np.float32 ) )

OPERATIONS: dict[str, Callable[[Bench, F32, F32], None]] = {
  "COPY": run_copy, "SCALE": run_scale, "ADD": run_add, "MUL": run_mul, "SWIGLU": run_swiglu,
  "SOFTMAX": run_softmax, "RMSNORM": run_rmsnorm, "QUANTIZE": run_quantize, "CONVERT": run_convert }

@pytest.mark.parametrize( "n", ( 4, 8, 16 ) )
@pytest.mark.parametrize( "geometry", GEOMETRIES, ids=geometry_name )
@pytest.mark.parametrize( "operation", OPERATIONS )
def test_instruction( operation: str, geometry: tuple[int, int, int, int, int], n: int ) -> None:
  """Every operand form: rows, segments, lengths that n does not divide, strides, padding."""
  rows, segments, whole, rest, gap = geometry
  length = max( 1, whole * n + rest )
  x = normal( n, rows, segments, length, scale=3 )
  y = normal( n + 1, rows, segments, length )
  x[np.abs( x ) < 1e-3] = 1e-3                          # binary16 would make subnormals of smaller ones
  OPERATIONS[operation]( Bench( n, rows, segments, length, gap ), x, y )

@pytest.mark.parametrize( "n", ( 4, 8, 16 ) )
@pytest.mark.parametrize( "rows, segments, half, gap",
                          [ ( 1, 1, 1, 0 ), ( 2, 3, 16, 0 ), ( 3, 2, 17, 2 ), ( 16, 2, 6, 1 ) ] )
def test_rope_instruction( rows: int, segments: int, half: int, gap: int, n: int ) -> None:
  """Each half of a head in whole scratchpad rows; the table has a row per token, for all heads."""
  b = Bench( n, rows, segments, 2 * half, gap, halves=True )
  x = normal( n, rows, segments, 2 * half )
  turn  = np.random.default_rng( half ).integers( -16384, 16385, ( 2, rows, half ) )
  lanes = ( ( turn[0] & 0xFFFF ) | ( turn[1] & 0xFFFF ) << 16 ).astype( np.uint32 )
  src   = b.put( pattern( x ), b.stride )
  table_stride = ceil_div( half, n ) + 1
  b.halves = False
  src2  = b.put( lanes[:, None], table_stride )
  b.halves = True
  got   = b.execute( "ROPE", src, src=src, src2=src2, src_stride=b.stride, src2_stride=table_stride )
  cos, sin = ( ( t / 16384 ).astype( np.float32 )[:, None] for t in turn )
  assert_within( got.view( np.float32 ), *rotated( x, cos, sin ) )

@pytest.mark.parametrize( "n", ( 4, 8, 16 ) )
def test_argmax_instruction( n: int ) -> None:
  """Parts of any length, a new search or the one before going on; TOKEN is the index."""
  b = Bench( n, 1, 1, 1, 0 )
  parts = [ ( [ 1.0, 3.0, 3.0 ], 1 ), ( [ 3.0 ] * ( n + 1 ), 1 ), ( [ 0.0 ] * n + [ 4.0 ], n + 4 + n ) ]
  base  = 0
  for values, expect in parts:
    src = b.put( pattern( np.array( [ [ values ] ] ) ), ceil_div( len( values ), n ) )
    b.npu.execute( mk( "ARGMAX", rows=1, src=src, length=len( values ), base=base, first=int( base == 0 ) ) )
    base += len( values )
    assert b.npu.r.token == expect
  src = b.put( pattern( np.array( [ [ [ -2.0, -1.0 ] ] ] ) ), 1 )
  b.npu.execute( mk( "ARGMAX", rows=1, src=src, length=2, base=100, first=1 ) )
  assert b.npu.r.token == 101

@pytest.mark.parametrize( "rel, offset", [ ( Rel.NONE, 0 ), ( Rel.POS, 2 ), ( Rel.LAST, 4 ), ( Rel.TOKEN, 1 ),
                                           ( Rel.LEN, 3 ) ] )
def test_src_moves_with_a_register( rel: Rel, offset: int ) -> None:
  """`rel` moves src by whole token rows, and neither dst nor src2."""
  b = Bench( 8, 1, 1, 11, 1 )
  x = normal( 5, 6, 1, 11 )
  src = b.put( pattern( x ), b.stride )
  b.npu.r.pos, b.npu.r.rows, b.npu.r.token, b.npu.r.len = 2, 5, 1, 3
  out = b.execute( "COPY", b.used, rel=rel, rows=1, src=src, src_stride=b.stride )
  assert np.array_equal( out[0], pattern( x )[offset] )
  y    = normal( 6, 1, 1, 11 )
  src2 = b.put( pattern( y ), b.stride )
  out  = b.execute( "ADD", b.used, rel=rel, rows=1, src=src, src2=src2, src_stride=b.stride, src2_stride=b.stride )
  assert np.array_equal( out[0], pattern( flushed( x[offset] + y[0] ) ) )

#-------------------------------------------------------------------------
# Commands
#-------------------------------------------------------------------------

CFG = NpuConfig( name="small", n=4, m_max=8, spad_bytes=1 << 13, k_max=1024 )

def command( mnemonic: str, **operands: float ) -> Instruction:
  """An instruction with one segment of eight elements, if nothing else is said."""
  sized = { "length": 8 } if mnemonic == "ARGMAX" else { "length": 8, "segments": 1 }
  return mk( mnemonic, **{ **sized, **operands } )

CHECK_ROWS: list[tuple[str, Instruction, int, Error]] = [
  # name                       command                                        rows  error
  ( "rmsnorm",                 command( "RMSNORM" ),                          1,    Error.NONE ),
  ( "all rows",                command( "ADD" ),                              8,    Error.NONE ),
  ( "rope, even",              command( "ROPE", length=6 ),                   1,    Error.NONE ),
  ( "quantize to 8",           command( "QUANTIZE", bits=8 ),                 1,    Error.NONE ),
  ( "quantize to 16",          command( "QUANTIZE", bits=16 ),                1,    Error.NONE ),
  ( "argmax has no segments",  command( "ARGMAX" ),                           1,    Error.NONE ),
  ( "longest norm",            command( "RMSNORM", length=1024 ),             1,    Error.NONE ),
  ( "longer than any norm",    command( "COPY", length=1025 ),                1,    Error.NONE ),
  ( "no rows",                 command( "ADD" ),                              0,    Error.ZERO_SIZE ),
  ( "no length",               command( "SOFTMAX", length=0 ),                1,    Error.ZERO_SIZE ),
  ( "no length, argmax",       command( "ARGMAX", length=0 ),                 1,    Error.ZERO_SIZE ),
  ( "no segments",             command( "MUL", segments=0 ),                  1,    Error.ZERO_SIZE ),
  ( "quantize to 0",           command( "QUANTIZE" ),                         1,    Error.BAD_FIELD ),
  ( "quantize to 12",          command( "QUANTIZE", bits=12 ),                1,    Error.BAD_FIELD ),
  ( "size before field",       command( "QUANTIZE", bits=12, length=0 ),      1,    Error.ZERO_SIZE ),
  ( "a row too many",          command( "COPY" ),                             9,    Error.BAD_SIZE ),
  ( "rope, odd",               command( "ROPE", length=7 ),                   1,    Error.BAD_SIZE ),
  ( "rope of one",             command( "ROPE", length=1 ),                   1,    Error.BAD_SIZE ),
  ( "norm too long",           command( "RMSNORM", length=1025 ),             1,    Error.BAD_SIZE ) ]

@pytest.mark.parametrize( "i, rows, error", [ r[1:] for r in CHECK_ROWS ], ids=[ r[0] for r in CHECK_ROWS ] )
def test_check( i: Instruction, rows: int, error: Error ) -> None:
  assert check( CFG, i, rows ) == error
