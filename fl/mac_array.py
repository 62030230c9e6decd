"""MAC array, functional level: the product of activation rows and a weight stream, bit exact.

The functions are the specification; `MacArrayFL` is the block's ports around them.

Integer modes sum exactly, whatever the order. numpy has no fast integer product, so the sums run in
float64, where every partial sum of integers below 2**53 is exact: 2**30 * k_max is far below that.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymtl3 import Bits1, mk_bits

from fl.agent import Agent, Process
from npu.arch.config import NpuConfig, ceil_div
from npu.arch.footprint import bounds, footprint, gemm_layout
from npu.arch.isa import GROUP_SIZES, Error, GemmFlag, GemmMode, Instruction, mk
from npu.arch.messages import Ack, Done, mk_gemm_cmd, mk_mem_read_req, mk_spad_write
from npu.arch.numerics.block_float import lsb_exponent, unpack as unpack_lanes
from npu.arch.numerics.fp32 import F32, I64, add_exponent, bits, fadd, fmul, from_bits, i2f
from npu.arch.numerics.small_float import BF16, FP16, SmallFloat, fields
from npu.arch.weight_stream import (
  ACTIVATION_BITS,
  FLOATING_MODES,
  GROUP_MODES,
  StreamLayout,
  Weights,
  group_integers,
  unpack,
)

ALIGN_FRACTION_BITS = 16   # fraction bits kept when the products of a column are aligned

def check( cfg: NpuConfig, i: Instruction, rows: int, lines: int ) -> Error:
  """Whether the array accepts a GEMM command; the first thing wrong with it otherwise.

  `lines` is the size of the memory.
  """
  if rows == 0 or i.k == 0 or i.cols == 0:
    return Error.ZERO_SIZE
  if int( i.group ) >= len( GROUP_SIZES ) or int( i.mode ) not in set( GemmMode ):
    return Error.BAD_FIELD
  if rows > cfg.m_max or i.k > cfg.k_max:
    return Error.BAD_SIZE
  group = GROUP_SIZES[int( i.group )]
  if ( GemmMode( int( i.mode ) ) in GROUP_MODES ) != ( group > 0 ) or ( group and int( i.k ) % group ):
    return Error.BAD_SIZE
  if gemm_layout( cfg, i ).total_beats >= 1 << 32:
    return Error.BAD_SIZE
  return bounds( cfg, footprint( cfg, i, rows ), lines )

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

#-------------------------------------------------------------------------
# The command as a whole
#-------------------------------------------------------------------------

def weights_of( layout: StreamLayout, stream: NDArray[np.uint32] ) -> Weights:
  """A weight stream as the functions above take it: integers as float64, zero points subtracted."""
  w = unpack( layout, stream )
  if layout.mode in FLOATING_MODES:
    return w
  integers = group_integers( layout, w ) if layout.mode in GROUP_MODES else w.values
  return Weights( integers.astype( np.float64 ), w.scales, w.zeros, w.bias )

def gemm( layout: StreamLayout, weights: Weights, lanes: NDArray[np.uint32], residual: F32 | None = None ) -> F32:
  """What a GEMM command computes.

  Parameters
  ----------
  layout, weights
    The stream's layout, and its content from `weights_of`.
  lanes
    Activations as they stand in the scratchpad, uint32 [M, K].
  residual
    float32 [M, N] or None.

  Returns
  -------
  float32 [M, N]
  """
  padded = np.pad( lanes, ( ( 0, 0 ), ( 0, layout.k_padded - layout.k ) ) )
  if layout.mode in FLOATING_MODES:
    fmt = BF16 if layout.mode == GemmMode.BF16 else FP16
    return gemm_floating( fmt, layout.n, padded.astype( np.uint16 ), weights.values, weights.bias, residual )
  q, exponent = unpack_lanes( padded )
  function    = gemm_groups if layout.mode in GROUP_MODES else gemm_integer
  assert weights.scales is not None
  return function( q, exponent, ACTIVATION_BITS[layout.mode], weights.values, weights.scales, weights.bias, residual )

def gemm_stream( layout: StreamLayout, stream: NDArray[np.uint32], lanes: NDArray[np.uint32],
                 residual: F32 | None = None ) -> F32:
  """The same from the stream as it lies in memory, uint32 words; `fl.kernels.gemm` has it compiled."""
  return gemm( layout, weights_of( layout, stream ), lanes, residual )

#-------------------------------------------------------------------------
# Component
#-------------------------------------------------------------------------

def instruction_of( cmd: Any ) -> Instruction:
  """The GEMM instruction that a command message stands for."""
  flags = GemmFlag.BIAS * int( cmd.bias ) | GemmFlag.RESIDUAL * int( cmd.residual )
  names = ( "dram", "dst", "src", "src2", "mode", "group", "k", "cols", "rows", "dst_stride", "src_stride" )
  return mk( "GEMM", flags=flags, **{ name: int( getattr( cmd, name ) ) for name in names } )

class MacArrayFL( Agent ):
  """The block's ports around `gemm`, in no particular time; see `rtl_models.mac_array` for the ports."""

  def construct( s, cfg: NpuConfig ) -> None:
    BEAT = mk_bits( cfg.derived.beat_bits )
    SPAD = mk_bits( cfg.derived.spad_addr_bits )
    s.cfg = cfg
    s.add_recv( "cmd", mk_gemm_cmd( cfg ) )
    s.add_send( "ack", Ack )
    s.add_recv( "start", Bits1 )
    s.add_master( "mem", mk_mem_read_req( cfg ), BEAT )
    s.add_master( "act", SPAD, BEAT )
    s.add_master( "res", SPAD, BEAT )
    s.add_send( "wr", mk_spad_write( cfg ) )
    s.add_send( "done", Done )
    Agent.start( s )      # the port hides it

  def process( s ) -> Process:
    """One command after the other."""
    while True:
      cmd   = yield from s.recv( s.cmd_box )
      i     = instruction_of( cmd )
      error = check( s.cfg, i, int( cmd.rows ), int( cmd.lines ) )
      yield from s.send( s.ack_box, int( error ) )
      if not error:
        yield from s.recv( s.start_box )
        yield from s.execute( i )
        yield from s.send( s.done_box, 0 )

  def execute( s, i: Instruction ) -> Process:
    """Read everything, compute, write everything."""
    n, rows = s.cfg.n, int( i.rows )
    layout  = gemm_layout( s.cfg, i )
    stream  = yield from s.read_stream( int( i.dram ) * s.cfg.derived.beats_per_line, layout.total_beats )
    lanes   = yield from s.read_matrix( "act", i.src, rows, i.src_stride, ceil_div( int( i.k ), n ) )
    width   = ceil_div( int( i.cols ), n )
    residual = None
    if int( i.flags ) & GemmFlag.RESIDUAL:
      words    = yield from s.read_matrix( "res", i.src2, rows, i.dst_stride, width )
      residual = from_bits( words )[:, : int( i.cols )]
    y = gemm_stream( layout, stream, lanes[:, : int( i.k )], residual )
    result = np.zeros( ( rows, width * n ), dtype=np.uint32 )
    result[:, : int( i.cols )] = bits( y )
    yield from s.write_matrix( i.dst, i.dst_stride, result )
