"""From float32 matrices to the MAC array's weight formats."""

import numpy as np

from npu.arch.isa import GemmMode
from npu.arch.numerics.fp32 import F32, bits, from_bits
from npu.arch.numerics.small_float import BF16, round_to
from npu.arch.weight_stream import SCALE_MASK, WEIGHT_BITS, Weights
from npu.compiler.precision import Precision

# Fractions of a group's full range that the search for the best INT4 clip tries.
CLIP_STEPS = tuple( float( c ) for c in np.linspace( 1.0, 0.6, 11 ) )

# Modes whose weights are integers with a scale per output channel.
PER_CHANNEL = ( GemmMode.I16_I8, GemmMode.I16_I16, GemmMode.I8_I8 )

def per_channel( w: F32, weight_bits: int ) -> Weights:
  """Symmetric integers, one scale per output channel (largest magnitude / largest integer).

  w [K, N] float32; returns int8 or int16 values [K, N] and float32 scales [N].
  """
  top    = ( 1 << ( weight_bits - 1 ) ) - 1
  scales = ( np.abs( w ).max( axis=0, initial=0.0 ) / np.float32( top ) ).astype( np.float32 )
  scales = np.maximum( scales, np.float32( 2.0 ** -126 ) )
  values = np.clip( np.rint( w / scales ), -top, top )
  return Weights( values.astype( np.int8 if weight_bits == 8 else np.int16 ), scales )

def _short_scale( scale: F32 ) -> F32:
  """Round to 15 fraction bits: the zero point takes the low 8 bits of the lane."""
  return from_bits( ( bits( scale ) + np.uint32( 0x80 ) ) & SCALE_MASK ).reshape( scale.shape )

def grouped_int4( w: F32, group: int ) -> Weights:
  """Unsigned INT4 with scale and zero point per group of K; the clip with the least squared error wins.

  w [K, N] float32, K a multiple of `group`; returns values 0..15 [K, N], scales and zeros [K / group, N].
  """
  k, cols = w.shape
  blocks  = w.reshape( k // group, group, cols )
  low     = np.minimum( blocks.min( axis=1 ), 0 )
  high    = np.maximum( blocks.max( axis=1 ), 0 )
  best    = np.full( low.shape, np.inf, dtype=np.float32 )
  values  = np.zeros( blocks.shape, dtype=np.int8 )
  scales  = np.zeros( low.shape, dtype=np.float32 )
  zeros   = np.zeros( low.shape, dtype=np.int8 )
  for clip in CLIP_STEPS:
    scale = _short_scale( np.maximum( ( high - low ) * np.float32( clip ) / 15, np.float32( 2.0 ** -100 ) ) )
    zero  = np.clip( np.rint( -low * np.float32( clip ) / scale ), 0, 15 )
    q     = np.clip( np.rint( blocks / scale[:, None] ) + zero[:, None], 0, 15 )
    error = np.square( ( q - zero[:, None] ) * scale[:, None] - blocks ).sum( axis=1 )
    better = error < best
    best   = np.where( better, error, best )
    scales = np.where( better, scale, scales )
    zeros  = np.where( better, zero, zeros ).astype( np.int8 )
    values = np.where( better[:, None], q, values ).astype( np.int8 )
  return Weights( values.reshape( k, cols ), scales, zeros )

def quantize_weights( w: F32, precision: Precision, bias: F32 | None = None ) -> Weights:
  """The matrix w [K, N] in the precision's weight format, with its bias [N].

  Raises
  ------
  ValueError
    Nothing here makes weights for the precision's mode.
  """
  if precision.mode == GemmMode.BF16:
    found = Weights( round_to( BF16, w ) )
  elif precision.mode == GemmMode.I16_G4:
    found = grouped_int4( w, precision.group )
  elif precision.mode in PER_CHANNEL:
    found = per_channel( w, WEIGHT_BITS[precision.mode] )
  else:
    raise ValueError( f"no weights of mode {precision.mode.name} are made yet" )
  return Weights( found.values, found.scales, found.zeros, bias )
