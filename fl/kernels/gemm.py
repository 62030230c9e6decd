"""GEMM, compiled: the integer modes, on the weight stream as it lies in memory.

A tile of the stream is K rows of n weights, in the order of use. Sums of n columns run side by side, which are vector
instructions; all activation rows pass a tile while it is in the cache of the core, so weights are read once per pass.

Why no sum overflows, with |q| <= 2**15 always:

- INT8 weights: a product is at most 2**22, 256 of them at most 2**30: they are summed in int32, blocks in int64.
- INT16 weights: a product is at most 2**30, summed in int64: up to 2**33 of them.
- K-groups: at most 128 products with stored integers of at most 2**7, at most 2**29 in int32. Minus the zero point, of
  at most 2**7, times the sum of the group's activations, at most 2**22: in int64.
"""

# Compiled functions carry no type hints: numba's signatures say what they take.
# mypy: allow-untyped-defs, allow-incomplete-defs

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from fl import mac_array
from fl.kernels.compiler import compiled, in_parallel
from fl.kernels.scalar import add_exponent, fadd, fmul, from_bits, i2f, inner
from npu.arch.isa import GemmMode
from npu.arch.numerics.block_float import lsb_exponent, unpack as unpack_lanes
from npu.arch.numerics.fp32 import F32
from npu.arch.weight_stream import ACTIVATION_BITS, FLOATING_MODES, GROUP_MODES, WEIGHT_BITS, StreamLayout

BLOCK = 256      # products of INT16 and INT8 that are summed in int32

# Put into the caller before it is compiled; left to LLVM, the loop waits for memory twice as long.
inlined = njit( inline="always" )

#-------------------------------------------------------------------------
# Sums of n columns
#-------------------------------------------------------------------------

# In each of these n is a constant where they are called: the loops over columns become vector instructions.

@inlined
def add_octets( n, q, w, first, end, part ):
  """Add the products of q[first:end] and rows first to end of w, int8 [K * n], to part, int32 [n]."""
  whole = first + ( end - first ) // 8 * 8
  for k in range( first, whole, 8 ):
    r = w[k * n : ( k + 8 ) * n]
    a, b, c, d = np.int32( q[k] ), np.int32( q[k + 1] ), np.int32( q[k + 2] ), np.int32( q[k + 3] )
    e, f, g, h = np.int32( q[k + 4] ), np.int32( q[k + 5] ), np.int32( q[k + 6] ), np.int32( q[k + 7] )
    # Eight rows at once, as `part` is in memory.
    for i in range( n ):
      part[i] += np.int32(   a * r[        i] + b * r[n     + i] + c * r[2 * n + i] + d * r[3 * n + i]
                           + e * r[4 * n + i] + f * r[5 * n + i] + g * r[6 * n + i] + h * r[7 * n + i] )
  for k in range( whole, end ):
    for i in range( n ):
      part[i] += np.int32( q[k] * w[k * n + i] )

@inlined
def sum_octets( n, q, w, part, acc ):
  """The products of q, int16 [K], and w, int8 [K * n], summed in acc, int64 [n]."""
  acc[:] = 0
  for first in range( 0, len( q ), BLOCK ):
    part[:] = 0
    add_octets( n, q, w, first, min( first + BLOCK, len( q ) ), part )
    for c in range( n ):
      acc[c] += part[c]

@inlined
def sum_words( n, q, w, acc ):
  """The same for w of int16; K is a multiple of 4."""
  acc[:] = 0
  for k in range( 0, len( q ), 4 ):
    r = w[k * n : ( k + 4 ) * n]
    for c in range( n ):
      acc[c] += (   np.int64( q[k    ] ) * r[        c] + np.int64( q[k + 1] ) * r[n     + c]
                  + np.int64( q[k + 2] ) * r[2 * n + c] + np.int64( q[k + 3] ) * r[3 * n + c] )

@inner
def finish( y, exponent, has_bias, bias, residual, m, column ):
  """What follows a sum that has its scale, as in `mac_array.gemm_integer`."""
  y = add_exponent( y, exponent )
  if has_bias:
    y = fadd( y, bias )
  if len( residual ):
    y = fadd( y, residual[m, column] )
  return y

#-------------------------------------------------------------------------
# Output tiles first to end
#-------------------------------------------------------------------------

# Activations q int16 [M, K] and their exponents int64 [M]; the stream as words, float32 or uint32 [tiles, tile_words],
# and as weights, of int8 or int16; residual float32 [M, N] or [0, 0]; result y float32 [M, N].

@compiled( "void( int16[:,::1], int64[::1], float32[:,::1], int8[:,::1], int64, boolean, float32[:,::1], "
           "float32[:,::1], int64, int64 )" )
def gemm_octets( q, exponent, words, weights, n, has_bias, residual, y, first, end ):
  """I16_I8 and I8_I8."""
  part, acc = np.empty( n, np.int32 ), np.empty( n, np.int64 )
  scale = n if has_bias else 0
  for t in range( first, end ):
    w = weights[t][4 * ( scale + n ) :]
    for m in range( len( q ) ):
      if n == 16:
        sum_octets( 16, q[m], w, part, acc )
      elif n == 8:
        sum_octets( 8, q[m], w, part, acc )
      else:
        sum_octets( 4, q[m], w, part, acc )
      for c in range( min( n, y.shape[1] - t * n ) ):
        y[m, t * n + c] = finish( fmul( i2f( acc[c] ), words[t, scale + c] ), exponent[m], has_bias, words[t, c],
                                  residual, m, t * n + c )

@compiled( "void( int16[:,::1], int64[::1], float32[:,::1], int16[:,::1], int64, boolean, float32[:,::1], "
           "float32[:,::1], int64, int64 )" )
def gemm_words( q, exponent, words, weights, n, has_bias, residual, y, first, end ):
  """I16_I16."""
  acc   = np.empty( n, np.int64 )
  scale = n if has_bias else 0
  for t in range( first, end ):
    w = weights[t][2 * ( scale + n ) :]
    for m in range( len( q ) ):
      if n == 16:
        sum_words( 16, q[m], w, acc )
      elif n == 8:
        sum_words( 8, q[m], w, acc )
      else:
        sum_words( 4, q[m], w, acc )
      for c in range( min( n, y.shape[1] - t * n ) ):
        y[m, t * n + c] = finish( fmul( i2f( acc[c] ), words[t, scale + c] ), exponent[m], has_bias, words[t, c],
                                  residual, m, t * n + c )

@inner
def unpack_nibbles( packed, unpacked ):
  """INT4 weights of a group, two in an octet, as int8."""
  for i in range( len( packed ) ):
    unpacked[2 * i    ] = packed[i] & 0xF
    unpacked[2 * i + 1] = ( packed[i] >> 4 ) & 0xF

@compiled( "void( int16[:,::1], int64[:,::1], int64[::1], uint32[:,::1], int8[:,::1], int64, int64, boolean, boolean, "
           "float32[:,::1], float32[:,::1], int64, int64 )" )
def gemm_groups( q, sums, exponent, words, weights, n, size, is_nibbles, has_bias,
                 residual, y, first, end ):
  """I16_G4 and I16_G8 in groups of `size`; `sums` are those of q by group, [M, groups]."""
  part, unpacked = np.empty( n, np.int32 ), np.empty( size * n, np.int8 )
  octets = size * n // 2 if is_nibbles else size * n
  for t in range( first, end ):
    cols = min( n, y.shape[1] - t * n )
    y[:, t * n : t * n + cols] = 0
    at = n if has_bias else 0                      # the group's first word
    for g in range( sums.shape[1] ):
      w = weights[t][4 * ( at + n ) : 4 * ( at + n ) + octets]
      if is_nibbles:
        unpack_nibbles( w, unpacked )
        w = unpacked
      for m in range( len( q ) ):
        part[:] = 0
        if n == 16:
          add_octets( 16, q[m, g * size : ( g + 1 ) * size], w, 0, size, part )
        elif n == 8:
          add_octets( 8, q[m, g * size : ( g + 1 ) * size], w, 0, size, part )
        else:
          add_octets( 4, q[m, g * size : ( g + 1 ) * size], w, 0, size, part )
        for c in range( cols ):
          lane = np.int64( words[t, at + c] )
          zero = ( ( lane & 0xFF ) ^ 0x80 ) - 0x80
          acc  = part[c] - zero * sums[m, g]
          y[m, t * n + c] = fadd( y[m, t * n + c], fmul( i2f( acc ), from_bits( lane & 0xFFFFFF00 ) ) )
      at += n + octets // 4
    for m in range( len( q ) ):
      for c in range( cols ):
        y[m, t * n + c] = finish( y[m, t * n + c], exponent[m], has_bias, from_bits( words[t, c] ), residual, m,
                                  t * n + c )

#-------------------------------------------------------------------------
# The command as a whole
#-------------------------------------------------------------------------

def gemm_stream( layout: StreamLayout, stream: NDArray[np.uint32], lanes: NDArray[np.uint32],
                 residual: F32 | None = None ) -> F32:
  """As `mac_array.gemm_stream`; the floating modes are numpy's."""
  if layout.mode in FLOATING_MODES:
    return mac_array.gemm_stream( layout, stream, lanes, residual )
  wide, exponent = unpack_lanes( lanes )
  q = np.zeros( ( len( lanes ), layout.k_padded ), dtype=np.int16 )
  q[:, : layout.k] = wide
  lsb   = lsb_exponent( exponent, ACTIVATION_BITS[layout.mode] )
  words = stream.reshape( layout.tiles, layout.tile_words )
  added = np.zeros( ( 0, 0 ), dtype=np.float32 ) if residual is None else np.ascontiguousarray( residual )
  y     = np.empty( ( len( lanes ), layout.cols ), dtype=np.float32 )
  work  = y.size * layout.k
  rest: tuple[Any, ...] = ( layout.has_bias, added, y )
  if layout.mode in GROUP_MODES:
    sums = wide.reshape( len( lanes ), -1, layout.group ).sum( axis=-1 )
    in_parallel( gemm_groups, layout.tiles, work, q, sums, lsb, words, words.view( np.int8 ), layout.n, layout.group,
                 WEIGHT_BITS[layout.mode] == 4, *rest )
  elif layout.mode == GemmMode.I16_I16:
    in_parallel( gemm_words, layout.tiles, work, q, lsb, words.view( np.float32 ), words.view( np.int16 ), layout.n,
                 *rest )
  else:
    in_parallel( gemm_octets, layout.tiles, work, q, lsb, words.view( np.float32 ), words.view( np.int8 ), layout.n,
                 *rest )
  return y
