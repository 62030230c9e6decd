"""MAC array, functional level: the product of activation rows and a weight stream, bit exact.

Integer modes sum exactly, whatever the order. numpy has no fast integer product, so the sums run in
float64, where every partial sum of integers below 2**53 is exact: 2**30 * k_max is far below that.
"""

import numpy as np
from numpy.typing import NDArray

from npu.config import NpuConfig
from npu.isa import GROUP_SIZES, Error, GemmMode, Instruction
from npu.numerics.block_float import lsb_exponent
from npu.numerics.fp32 import F32, I64, add_exponent, fadd, fmul, i2f
from npu.numerics.small_float import SmallFloat, fields
from npu.weight_stream import GROUP_MODES

ALIGN_FRACTION_BITS = 16   # fraction bits kept when the products of a column are aligned

def check( cfg: NpuConfig, i: Instruction, rows: int ) -> Error:
  """Whether the array accepts a GEMM command; the first thing wrong with it otherwise."""
  if rows == 0 or i.k == 0 or i.cols == 0:
    return Error.ZERO_SIZE
  if int( i.group ) >= len( GROUP_SIZES ):
    return Error.BAD_FIELD
  if rows > cfg.m_max or i.k > cfg.k_max:
    return Error.BAD_SIZE
  group = GROUP_SIZES[int( i.group )]
  if ( GemmMode( int( i.mode ) ) in GROUP_MODES ) != ( group > 0 ) or ( group and int( i.k ) % group ):
    return Error.BAD_SIZE
  return Error.NONE

def epilogue( y: F32, bias: F32 | None, residual: F32 | None ) -> F32:
  """y [M, N] plus bias [N], then plus residual [M, N]; one FP32 add each."""
  if bias is not None:
    y = fadd( y, bias )
  if residual is not None:
    y = fadd( y, residual )
  return y

def gemm_integer( q: I64, exponent: I64, act_bits: int, weights: NDArray, scales: F32,
                  bias: F32 | None = None, residual: F32 | None = None ) -> F32:
  """Per-channel integer modes: y = (q . w) * scale * 2**lsb (+ bias) (+ residual).

  Parameters
  ----------
  q, exponent
    Block-float activations: integers [M, K] and the row exponents [M].
  act_bits
    8 or 16: the format of q.
  weights
    Integers [K, N], any dtype that holds them (float64 is fastest).
  scales
    float32 [N], one per output channel.

  Returns
  -------
  float32 [M, N]
  """
  acc = q.astype( np.float64 ) @ weights.astype( np.float64, copy=False )
  y   = fmul( i2f( acc ), scales )
  y   = add_exponent( y, lsb_exponent( exponent, act_bits )[:, None] )
  return epilogue( y, bias, residual )

def gemm_groups( q: I64, exponent: I64, act_bits: int, weights: NDArray, scales: F32,
                 bias: F32 | None = None, residual: F32 | None = None ) -> F32:
  """K-group modes: an exact sum per group, scaled and added in FP32 in order of K.

  As `gemm_integer`, but weights [K, N] have their zero points subtracted already and scales are [G, N].
  """
  groups, cols = scales.shape
  size = q.shape[1] // groups
  acc  = np.matmul( q.astype( np.float64 ).reshape( -1, groups, size ).transpose( 1, 0, 2 ),
                    weights.astype( np.float64, copy=False ).reshape( groups, size, cols ) )
  y = np.zeros( ( q.shape[0], cols ), dtype=np.float32 )
  for g in range( groups ):
    y = fadd( y, fmul( i2f( acc[g] ), scales[g] ) )
  y = add_exponent( y, lsb_exponent( exponent, act_bits )[:, None] )
  return epilogue( y, bias, residual )

def _significand( fmt: SmallFloat, pattern: NDArray[np.uint16] ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
  """(signed significand with the hidden bit, biased exponent); zero and subnormals have significand 0."""
  sign, exponent, fraction = fields( fmt, pattern )
  significand = np.where( exponent > 0, fraction | ( 1 << fmt.fraction_bits ), 0 )
  return np.where( sign == 1, -significand, significand ).astype( np.int32 ), exponent.astype( np.int32 )

def aligned_dot( fmt: SmallFloat, a: NDArray[np.uint16], w: NDArray[np.uint16] ) -> F32:
  """One pass of the array in a floating mode: n products per column, aligned and summed.

  Each product is exact; its magnitude is aligned to the column's largest exponent with 16 fraction bits
  kept and the rest truncated; the sum is exact.

  Parameters
  ----------
  a, w
    16-bit patterns [M, n] and [n, N].

  Returns
  -------
  float32 [M, N]
  """
  sig_a, exp_a = _significand( fmt, a )
  sig_w, exp_w = _significand( fmt, w )
  product  = sig_a[:, :, None] * sig_w[None]
  exponent = np.where( product == 0, 0, exp_a[:, :, None] + exp_w[None] )
  largest  = exponent.max( axis=1 )
  # A product has 2 * fraction_bits fraction bits; 16 are kept at the column's largest exponent.
  shift    = largest[:, None] - exponent + max( 0, 2 * fmt.fraction_bits - ALIGN_FRACTION_BITS )
  widened  = np.abs( product ) << max( 0, ALIGN_FRACTION_BITS - 2 * fmt.fraction_bits )
  kept     = widened >> np.minimum( shift, 31 )
  total    = np.where( product < 0, -kept, kept ).sum( axis=1, dtype=np.int64 )
  return add_exponent( i2f( total ), largest.astype( np.int64 ) - 2 * fmt.bias - ALIGN_FRACTION_BITS )

def gemm_floating( fmt: SmallFloat, n: int, a: NDArray[np.uint16], w: NDArray[np.uint16],
                   bias: F32 | None = None, residual: F32 | None = None ) -> F32:
  """BF16 and FP16 modes: FP32 accumulation over K in steps of n; the result depends on n.

  Parameters
  ----------
  a, w
    16-bit patterns [M, K] and [K, N]; K a multiple of n (pad with zeros).

  Returns
  -------
  float32 [M, N]
  """
  y = np.zeros( ( a.shape[0], w.shape[1] ), dtype=np.float32 )
  for k in range( 0, a.shape[1], n ):
    y = fadd( y, aligned_dot( fmt, a[:, k : k + n], w[k : k + n] ) )
  return epilogue( y, bias, residual )
