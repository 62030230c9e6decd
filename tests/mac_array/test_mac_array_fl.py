"""The MAC array's golden model, all modes: the epilogue, the instruction on memory and scratchpad, refused commands."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest

from fl.controller import Registers
from fl.mac_array import check, epilogue, gemm_floating, gemm_groups, gemm_integer
from fl.npu import NpuFL
from npu.arch.config import LINE_BYTES, NpuConfig
from npu.arch.isa import Error, GemmFlag, GemmMode, mk
from npu.arch.numerics.small_float import BF16, FP16
from tests.mac_array.oracle import Floats, binary32, f32, oracle_floating, oracle_groups, pattern, random_patterns

def test_the_oracle_rounds_as_numpy() -> None:
  """The oracle itself, on what numpy does in hardware: a wrong oracle would prove nothing."""
  rng = np.random.default_rng( 1 )
  for x in rng.standard_normal( 500 ) * 10.0 ** rng.integers( -30, 30, 500 ):
    assert float( binary32( Fraction( float( x ) ) ) ) == float( np.float32( x ) )
  ties = ( ( 2 ** 24 + 1, 2 ** 24 ), ( 2 ** 24 + 3, 2 ** 24 + 4 ), ( -2 ** 24 - 1, -2 ** 24 ) )
  for x, rounded in ties:
    assert binary32( Fraction( x ) ) == rounded

#-------------------------------------------------------------------------
# Epilogue
#-------------------------------------------------------------------------

BIG = float( 2 ** 24 )

EPILOGUE_ROWS = [
  # name                              acc  E    scale  bias  residual  result
  ( "nothing",                        3,   141, 1.0,   None, None,     3.0 ),
  ( "bias",                           3,   141, 1.0,   0.5,  None,     3.5 ),
  ( "residual",                       3,   141, 1.0,   None, 0.25,     3.25 ),
  ( "bias and then residual",         1,   141, BIG,   1.0,  -BIG,     0.0 ),
  ( "residual is not added to bias",  1,   141, BIG,   1.0,  1.0,      BIG ),
  ( "exponent and then bias",         1,   143, 1.0,   1.0,  None,     5.0 ),
  ( "exponent and then residual",     1,   143, 1.0,   None, 1.0,      5.0 ),
  ( "scale and then exponent",        1,   143, 0.5,   None, None,     2.0 ),
  ( "exponent before bias, down",     2,   139, 1.0,   1.0,  -1.0,     0.5 ),
  ( "flushed product, bias remains",  1,   1,   1e-3,  2.0,  None,     2.0 ) ]

@pytest.mark.parametrize( "acc, exponent, scale, bias, residual, expect", [ r[1:] for r in EPILOGUE_ROWS ],
                          ids=[ r[0] for r in EPILOGUE_ROWS ] )
def test_epilogue_order( acc: int, exponent: int, scale: float, bias: float | None, residual: float | None,
                         expect: float ) -> None:
  """Cases where another order of scale, exponent, bias and residual gives another number."""
  b = None if bias is None else f32( [ bias ] )
  r = None if residual is None else f32( [ [ residual ] ] )
  q, e, w = np.array( [ [ acc ] ] ), np.array( [ exponent ] ), np.array( [ [ 1 ] ] )
  assert float( gemm_integer( q, e, 16, w, f32( [ scale ] ), b, r )[0, 0] ) == expect
  assert float( gemm_groups( q, e, 16, w, f32( [ [ scale ] ] ), b, r )[0, 0] ) == expect

def test_epilogue_of_floating_modes() -> None:
  """2**24 as 4096 * 4096: bias first, then the residual, here as well."""
  a, w = np.array( [ [ 0x4580, 0, 0, 0 ] ], dtype=np.uint16 ), np.zeros( ( 4, 1 ), dtype=np.uint16 )
  w[0] = 0x4580
  assert gemm_floating( BF16, 4, a, w )[0, 0] == BIG
  assert gemm_floating( BF16, 4, a, w, f32( [ 1 ] ), f32( [ [ -BIG ] ] ) )[0, 0] == 0.0
  assert gemm_floating( BF16, 4, a, w, f32( [ 1 ] ), None )[0, 0] == BIG
  assert gemm_floating( BF16, 4, a, w, None, f32( [ [ 3 ] ] ) )[0, 0] == BIG + 4

def test_epilogue_alone() -> None:
  """A bias goes along a row, a residual is a matrix; without either nothing changes, not even -0."""
  y = f32( [ [ 1, 2 ], [ -0.0, 4 ] ] )
  assert pattern( epilogue( y, None, None ) ) == pattern( y )
  assert epilogue( y, f32( [ 10, 20 ] ), None ).tolist() == [ [ 11, 22 ], [ 10, 24 ] ]
  assert epilogue( y, None, f32( [ [ 1, 2 ], [ 3, 4 ] ] ) ).tolist() == [ [ 2, 4 ], [ 3, 8 ] ]

#-------------------------------------------------------------------------
# The instruction
#-------------------------------------------------------------------------

WEIGHT_BITS = { GemmMode.I16_I8: 8, GemmMode.I16_I16: 16, GemmMode.I8_I8: 8, GemmMode.I16_G4: 4,
                GemmMode.I16_G8: 8, GemmMode.BF16: 16, GemmMode.FP16: 16 }
SMALL_FLOATS = { GemmMode.BF16: BF16, GemmMode.FP16: FP16 }

def words_of( values: Sequence[int], width: int ) -> list[int]:
  """Integers of `width` bits as 32-bit words, the first in the lowest bits."""
  whole = 0
  for i, v in enumerate( values ):
    whole |= ( v % ( 1 << width ) ) << ( width * i )
  return [ whole >> at & 0xFFFFFFFF for at in range( 0, width * len( values ), 32 ) ]

@dataclass
class Gemm:
  """A random GEMM: operands as numbers, and as the words that memory and scratchpad hold.

  The stream is put together here from the description in npu/arch/weight_stream.py.
  """
  mode: GemmMode
  n: int
  rows: int
  k: int
  cols: int
  group: int = 0
  with_bias: bool = False
  with_residual: bool = False
  seed: int = 1

  def __post_init__( self ) -> None:
    rng, shape = np.random.default_rng( self.seed ), ( self.k, self.cols )
    self.groups = self.k // self.group if self.group else 1
    self.zeros  = np.zeros( ( self.groups, self.cols ), dtype=np.int64 )
    if self.mode in SMALL_FLOATS:
      fmt    = SMALL_FLOATS[self.mode]
      self.q = random_patterns( rng, fmt, 4, ( self.rows, self.k ) ).astype( np.int64 )
      self.w = random_patterns( rng, fmt, 4, shape ).astype( np.int64 )
    else:
      top    = 1 << ( 7 if self.mode == GemmMode.I8_I8 else 15 )
      self.q = rng.integers( -top, top, ( self.rows, self.k ) )
      half   = 1 << ( WEIGHT_BITS[self.mode] - 1 )
      low    = 0 if self.mode == GemmMode.I16_G4 else -half
      self.w = rng.integers( low, low + 2 * half, shape )
      if self.group:
        self.zeros = rng.integers( -128, 128, self.zeros.shape )
    self.exponent = rng.integers( 120, 134, self.rows )
    scales        = rng.uniform( 1e-3, 1e-2, self.zeros.shape ).astype( np.float32 )
    # A group's scale shares its word with the zero point, which takes the low 8 bits.
    self.scales   = ( scales.view( np.uint32 ) & ( 0xFFFFFF00 if self.group else 0xFFFFFFFF ) ).view( np.float32 )
    self.bias     = rng.standard_normal( self.cols ).astype( np.float32 ) if self.with_bias else None
    self.residual = ( rng.standard_normal( ( self.rows, self.cols ) ).astype( np.float32 )
                      if self.with_residual else None )

  def expect( self ) -> Floats:
    """By the oracles."""
    if self.mode in SMALL_FLOATS:
      k = -self.k % self.n
      a, w = np.pad( self.q, ( ( 0, 0 ), ( 0, k ) ) ), np.pad( self.w, ( ( 0, k ), ( 0, 0 ) ) )
      return oracle_floating( SMALL_FLOATS[self.mode], self.n, a, w, self.bias, self.residual )
    size = self.k // self.groups
    w    = self.w - np.repeat( self.zeros, size, axis=0 )
    return oracle_groups( self.q, self.exponent, 8 if self.mode == GemmMode.I8_I8 else 16, w, self.scales,
                          self.bias, self.residual )

  def stream( self ) -> list[int]:
    """The weight stream: output tiles of n columns, K padded to whole beats."""
    width  = WEIGHT_BITS[self.mode]
    k      = -( -self.k // max( self.n, 32 // width ) ) * max( self.n, 32 // width )
    size   = self.group or k
    out: list[int] = []
    for first in range( 0, self.cols, self.n ):
      columns = [ c if c < self.cols else None for c in range( first, first + self.n ) ]
      def lanes( x: Floats, columns: Sequence[int | None] = columns ) -> list[int]:
        return [ 0 if c is None else int( x.view( np.uint32 )[c] ) for c in columns ]
      if self.bias is not None:
        out += lanes( self.bias )
      if not self.group and self.mode not in SMALL_FLOATS:
        out += lanes( self.scales[0] )
      for g in range( self.groups ):
        if self.group:
          zeros = [ 0 if c is None else int( self.zeros[g, c] ) % 256 for c in columns ]
          out  += [ s | z for s, z in zip( lanes( self.scales[g] ), zeros, strict=True ) ]
        out += words_of( [ int( self.w[r, c] ) if c is not None and r < self.k else 0
                           for r in range( g * size, g * size + size ) for c in columns ], width )
    return out

PLAIN_MODES = ( GemmMode.I16_I8, GemmMode.I16_I16, GemmMode.I8_I8, GemmMode.BF16, GemmMode.FP16 )
GROUP_MODES = ( GemmMode.I16_G4, GemmMode.I16_G8 )

GEMM_ROWS: list[tuple[str, tuple[GemmMode, ...], int, int, int, int, bool, bool]] = [
  # name                  modes        rows  k    cols  group  bias   residual
  ( "one of each",        PLAIN_MODES, 1,    1,   1,    0,     False, False ),
  ( "whole tiles",        PLAIN_MODES, 2,    16,  32,   0,     True,  False ),
  ( "nothing whole",      PLAIN_MODES, 3,    37,  21,   0,     False, True ),
  ( "all at once",        PLAIN_MODES, 16,   20,  17,   0,     True,  True ),
  ( "one group of 32",    GROUP_MODES, 2,    32,  16,   1,     False, False ),
  ( "groups of 32",       GROUP_MODES, 3,    96,  19,   1,     True,  True ),
  ( "groups of 64",       GROUP_MODES, 1,    128, 5,    2,     True,  False ),
  ( "groups of 128",      GROUP_MODES, 2,    256, 3,    3,     False, True ) ]

@pytest.mark.parametrize( "n", ( 4, 8, 16 ) )
@pytest.mark.parametrize( "mode, rows, k, cols, code, with_bias, with_residual",
                          [ ( m, *r[2:] ) for r in GEMM_ROWS for m in r[1] ],
                          ids=[ f"{r[0]}, {m.name}" for r in GEMM_ROWS for m in r[1] ] )
def test_instruction( mode: GemmMode, rows: int, k: int, cols: int, code: int, with_bias: bool,
                      with_residual: bool, n: int ) -> None:
  """Every mode from its memory words to its result; padding lanes of the result are zero, other rows
  stay, and what fills up the operands is not read."""
  g   = Gemm( mode, n, rows, k, cols, ( 0, 32, 64, 128 )[code], with_bias, with_residual, seed=n )
  npu = NpuFL( NpuConfig( name="bench", n=n, spad_bytes=1 << 16 ), np.full( 1 << 16, 0xAB, dtype=np.uint8 ) )
  npu.r = Registers( lines=len( npu.dram ) // LINE_BYTES )
  npu.spad[:] = 0xABCDABCD
  words = g.stream()
  npu.dram.view( np.uint32 )[16 : 16 + len( words )] = words
  src_stride, dst_stride = -( -k // n ) + 1, -( -cols // n ) + 2
  dst, src2 = 17 * src_stride, 17 * src_stride + 17 * dst_stride
  flat = npu.spad.reshape( -1 )
  for r in range( rows ):
    lanes = ( g.q[r] & 0xFFFF ) | ( 0 if mode in SMALL_FLOATS else int( g.exponent[r] ) << 16 )
    flat[r * src_stride * n :][:k] = lanes.astype( np.uint32 )
    if g.residual is not None:
      flat[( src2 + r * dst_stride ) * n :][:cols] = g.residual[r].view( np.uint32 )
  expect = npu.spad.copy()
  for r, y in enumerate( g.expect() ):
    width = -( -cols // n )
    row   = np.zeros( width * n, dtype=np.float32 )
    row[:cols] = y
    expect[dst + r * dst_stride :][:width] = row.view( np.uint32 ).reshape( width, n )
  flags = GemmFlag.BIAS * with_bias | GemmFlag.RESIDUAL * with_residual
  npu.execute( mk( "GEMM", rows=rows, dram=1, mode=mode, flags=flags, group=code, src=0, src2=src2, dst=dst, k=k,
                   cols=cols, src_stride=src_stride, dst_stride=dst_stride ) )
  assert np.array_equal( npu.spad, expect )

#-------------------------------------------------------------------------
# Commands
#-------------------------------------------------------------------------

CFG = NpuConfig( name="small", n=4, m_max=8, spad_bytes=4096, k_max=1024 )

CHECK_ROWS: list[tuple[str, int, dict[str, int], Error]] = [
  # name                            rows  operands                                         error
  ( "int8 weights",                 1,    {},                                              Error.NONE ),
  ( "all rows",                     8,    {},                                              Error.NONE ),
  ( "longest K",                    1,    { "k": 1024 },                                   Error.NONE ),
  ( "K need not be a multiple",     1,    { "k": 1023, "cols": 3 },                        Error.NONE ),
  ( "int4 groups of 32",            1,    { "mode": GemmMode.I16_G4, "group": 1, "k": 96 },  Error.NONE ),
  ( "int8 groups of 64",            1,    { "mode": GemmMode.I16_G8, "group": 2, "k": 64 },  Error.NONE ),
  ( "int4 groups of 128",           1,    { "mode": GemmMode.I16_G4, "group": 3, "k": 256 }, Error.NONE ),
  ( "bf16",                         1,    { "mode": GemmMode.BF16 },                       Error.NONE ),
  ( "no rows",                      0,    {},                                              Error.ZERO_SIZE ),
  ( "no K",                         1,    { "k": 0 },                                      Error.ZERO_SIZE ),
  ( "no columns",                   1,    { "cols": 0 },                                   Error.ZERO_SIZE ),
  ( "no size before group",         1,    { "cols": 0, "group": 9 },                       Error.ZERO_SIZE ),
  ( "group code 4",                 1,    { "group": 4 },                                  Error.BAD_FIELD ),
  ( "group code 255",               1,    { "group": 255, "mode": GemmMode.I16_G4 },       Error.BAD_FIELD ),
  ( "a row too many",               9,    {},                                              Error.BAD_SIZE ),
  ( "most rows that fit the field", 255,  {},                                              Error.BAD_SIZE ),
  ( "K too long by one",            1,    { "k": 1025 },                                   Error.BAD_SIZE ),
  ( "mode that is not defined",     1,    { "mode": 7 },                                   Error.BAD_FIELD ),
  ( "group in a mode without",      1,    { "group": 1 },                                  Error.BAD_SIZE ),
  ( "group in bf16",                1,    { "group": 1, "mode": GemmMode.BF16 },           Error.BAD_SIZE ),
  ( "group mode without group",     1,    { "mode": GemmMode.I16_G4 },                     Error.BAD_SIZE ),
  ( "K not whole groups of 32",     1,    { "mode": GemmMode.I16_G8, "group": 1, "k": 48 },  Error.BAD_SIZE ),
  ( "K not whole groups of 128",    1,    { "mode": GemmMode.I16_G4, "group": 3, "k": 192 }, Error.BAD_SIZE ) ]

@pytest.mark.parametrize( "rows, operands, error", [ r[1:] for r in CHECK_ROWS ], ids=[ r[0] for r in CHECK_ROWS ] )
def test_check( rows: int, operands: dict[str, int], error: Error ) -> None:
  assert check( CFG, mk( "GEMM", **{ "k": 64, "cols": 8, **operands } ), rows, lines=1 << 20 ) == error
