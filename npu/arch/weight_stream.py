"""The order of weights in memory: exactly the order in which the MAC array uses them.

A stream is the concatenation of output tiles, n result columns each. An output tile is

| part                                            | beats                     | present          |
|-------------------------------------------------|---------------------------|------------------|
| biases, n x FP32                                | 1                         | flag BIAS        |
| scales, n x FP32                                | 1                         | I16_I8, I16_I16, I8_I8 |
| weights: rows of n, K of them                   | K * n * bits / (32 n)     | those and BF16, FP16 |
| per K-group: scales and zero points, n lanes    | 1                         | I16_G4, I16_G8   |
| per K-group: weights, rows of n                 | group * bits / 32         | I16_G4, I16_G8   |

K is padded to a multiple of n (of the group, in group modes) and so that the weights fill whole beats;
padding is zero (the zero point, in group modes). Weights are little-endian within a beat: the first is
in its lowest bits. A group lane holds the FP32 scale in bits 31:8 (its low 8 fraction bits are zero) and
the zero point, signed, in bits 7:0.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from npu.arch.config import round_up
from npu.arch.isa import GemmMode
from npu.arch.numerics.fp32 import F32, I64, bits, from_bits

WEIGHT_BITS = { GemmMode.I16_I8: 8, GemmMode.I16_I16: 16, GemmMode.I8_I8: 8, GemmMode.I16_G4: 4,
                GemmMode.I16_G8: 8, GemmMode.BF16: 16, GemmMode.FP16: 16 }
ACTIVATION_BITS = { GemmMode.I16_I8: 16, GemmMode.I16_I16: 16, GemmMode.I8_I8: 8, GemmMode.I16_G4: 16,
                    GemmMode.I16_G8: 16 }
GROUP_MODES    = ( GemmMode.I16_G4, GemmMode.I16_G8 )
FLOATING_MODES = ( GemmMode.BF16, GemmMode.FP16 )

SCALE_MASK = np.uint32( 0xFFFFFF00 )   # the part of a group lane that is the scale

@dataclass( frozen=True )
class Weights:
  """One matrix as the MAC array sees it.

  Attributes
  ----------
  values
    [K, N]: integers (int8 or int16; group modes: the stored integers, zero points not yet subtracted)
    or uint16 patterns (floating modes).
  scales
    float32 [N], in group modes [K / group, N]; None in floating modes.
  zeros
    int8 [K / group, N] in group modes, else None.
  bias
    float32 [N] or None.
  """
  values: NDArray
  scales: F32 | None = None
  zeros: NDArray[np.int8] | None = None
  bias: F32 | None = None

@dataclass( frozen=True )
class StreamLayout:
  """Where things are in a stream of a K x N matrix, for one n.

  Parameters
  ----------
  mode, n, k, cols
    Number formats, geometry, and the matrix's size in elements before padding.
  group
    Elements of a K-group: 32, 64 or 128 in group modes, else 0.
  has_bias
    Whether bias beats are in the stream.
  """
  mode: GemmMode
  n: int
  k: int
  cols: int
  group: int
  has_bias: bool

  @property
  def k_padded( self ) -> int:
    """Rows of weights in the stream per output tile."""
    if self.group:
      return round_up( self.k, self.group )
    per_beat = 32 // WEIGHT_BITS[self.mode]            # rows of n weights in one beat
    return round_up( self.k, max( self.n, per_beat ) )

  @property
  def tiles( self ) -> int:
    """Output tiles of n columns."""
    return -( -self.cols // self.n )

  @property
  def groups( self ) -> int:
    """K-groups; 1 outside of the group modes."""
    return self.k_padded // self.group if self.group else 1

  @property
  def header_words( self ) -> int:
    """Words before the first weights that are not a group's: biases and per-channel scales."""
    per_channel = self.mode not in GROUP_MODES and self.mode not in FLOATING_MODES
    return self.n * ( int( self.has_bias ) + int( per_channel ) )

  @property
  def group_words( self ) -> int:
    """Words of one K-group, its scale lanes included."""
    weights = self.k_padded // self.groups * self.n * WEIGHT_BITS[self.mode] // 32
    return weights + ( self.n if self.group else 0 )

  @property
  def tile_words( self ) -> int:
    """Words of one output tile."""
    return self.header_words + self.groups * self.group_words

  @property
  def total_bytes( self ) -> int:
    """Bytes of the stream."""
    return 4 * self.tile_words * self.tiles

  @property
  def total_beats( self ) -> int:
    """Beats of the stream: 4n bytes each."""
    return self.total_bytes // ( 4 * self.n )

def _to_tiles( layout: StreamLayout, values: NDArray, fill: int | NDArray = 0 ) -> NDArray:
  """[K, N] padded and cut into [tiles, k_padded, n]."""
  padded = np.zeros( ( layout.k_padded, layout.tiles * layout.n ), dtype=values.dtype )
  padded[: layout.k, : layout.cols] = values
  if layout.k_padded > layout.k and np.any( fill ):
    padded[layout.k :, : layout.cols] = fill
  return padded.reshape( layout.k_padded, layout.tiles, layout.n ).transpose( 1, 0, 2 )

def _lane_tiles( layout: StreamLayout, values: F32 ) -> NDArray[np.uint32]:
  """float32 [N] padded and cut into words [tiles, n]."""
  padded = np.zeros( layout.tiles * layout.n, dtype=np.float32 )
  padded[: layout.cols] = values
  return bits( padded ).reshape( layout.tiles, layout.n )

def pack( layout: StreamLayout, weights: Weights ) -> NDArray[np.uint32]:
  """The stream of a matrix, uint32 words; `weights.values` is [k, cols] as in the layout."""
  words = np.zeros( ( layout.tiles, layout.tile_words ), dtype=np.uint32 )
  at = 0
  if layout.has_bias:
    assert weights.bias is not None
    words[:, : layout.n] = _lane_tiles( layout, weights.bias )
    at = layout.n
  if layout.header_words > at:
    assert weights.scales is not None
    words[:, at : at + layout.n] = _lane_tiles( layout, weights.scales )
  body = words[:, layout.header_words :].reshape( layout.tiles, layout.groups, layout.group_words )
  fill: int | NDArray = 0
  if layout.group:
    assert weights.scales is not None and weights.zeros is not None
    for g in range( layout.groups ):
      lanes = np.zeros( layout.tiles * layout.n, dtype=np.uint32 )
      lanes[: layout.cols] = ( bits( weights.scales[g] ) & SCALE_MASK ) | weights.zeros[g].view( np.uint8 )
      body[:, g, : layout.n] = lanes.reshape( layout.tiles, layout.n )
    fill = weights.zeros[-1]
  tiles = _to_tiles( layout, weights.values, fill )
  flat  = np.ascontiguousarray( tiles ).reshape( layout.tiles, layout.groups, -1 )
  if WEIGHT_BITS[layout.mode] == 4:
    nibbles = flat.astype( np.uint8 ) & np.uint8( 0xF )
    flat    = nibbles[..., 0::2] | ( nibbles[..., 1::2] << np.uint8( 4 ) )
  body[:, :, layout.n if layout.group else 0 :] = np.ascontiguousarray( flat ).view( np.uint32 )
  return words.reshape( -1 )

def unpack( layout: StreamLayout, stream: NDArray[np.uint32] ) -> Weights:
  """The inverse of `pack`: values [k_padded, cols], padding of N removed."""
  words = stream.reshape( layout.tiles, layout.tile_words )
  at, bias, scales, zeros = 0, None, None, None
  if layout.has_bias:
    bias = from_bits( words[:, : layout.n] ).reshape( -1 )[: layout.cols]
    at = layout.n
  if layout.header_words > at:
    scales = from_bits( words[:, at : at + layout.n] ).reshape( -1 )[: layout.cols]
  body = words[:, layout.header_words :].reshape( layout.tiles, layout.groups, layout.group_words )
  if layout.group:
    lanes  = body[:, :, : layout.n].transpose( 1, 0, 2 ).reshape( layout.groups, -1 )[:, : layout.cols]
    scales = from_bits( lanes & SCALE_MASK )
    zeros  = ( lanes & np.uint32( 0xFF ) ).astype( np.uint8 ).view( np.int8 )
  raw  = np.ascontiguousarray( body[:, :, layout.n if layout.group else 0 :] )
  bit_count = WEIGHT_BITS[layout.mode]
  if bit_count == 4:
    octets = raw.view( np.uint8 )
    flat   = np.empty( ( *octets.shape[:-1], 2 * octets.shape[-1] ), dtype=np.int8 )
    flat[..., 0::2] = octets & np.uint8( 0xF )
    flat[..., 1::2] = octets >> np.uint8( 4 )
  elif layout.mode in FLOATING_MODES:
    flat = raw.view( np.uint16 )
  else:
    flat = raw.view( np.int8 if bit_count == 8 else np.int16 )
  tiles  = flat.reshape( layout.tiles, layout.k_padded, layout.n )
  values = tiles.transpose( 1, 0, 2 ).reshape( layout.k_padded, -1 )[:, : layout.cols]
  return Weights( values, scales, zeros, bias )

def group_integers( layout: StreamLayout, weights: Weights ) -> I64:
  """Stored integers minus zero points, [k_padded, cols] (group modes)."""
  assert weights.zeros is not None
  values = weights.values.astype( np.int64 )
  return values - np.repeat( weights.zeros.astype( np.int64 ), layout.group, axis=0 )
