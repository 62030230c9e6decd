"""The MAC array's surroundings in tests: commands, their data, what must come out, and how long it takes."""

# Components carry no type hints, as everywhere.
# mypy: allow-untyped-defs, allow-incomplete-defs

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
from pymtl3 import Bits1, Component

from cl.mac_array import MacArrayCL
from fl.mac_array import MacArrayFL, gemm, weights_of
from npu.arch.config import LINE_BYTES, NpuConfig, ceil_div, round_up
from npu.arch.isa import GROUP_SIZES, Error, GemmMode
from npu.arch.messages import Ack, Done, mk_gemm_cmd
from npu.arch.numerics.block_float import pack as pack_lanes, quantize
from npu.arch.numerics.fp32 import bits, from_bits
from npu.arch.numerics.small_float import BF16, FP16, round_to
from npu.arch.weight_stream import (
  ACTIVATION_BITS,
  FLOATING_MODES,
  SCALE_MASK,
  WEIGHT_BITS,
  StreamLayout,
  Weights,
  pack,
)
from rtl_models.mac_array import MacArrayRTL
from tests.harness import Fuzz, Memory, Scratchpad, Sink, Source
from translation.levels import mk_dut
from translation.simulate import run

LEVELS = ( "fl", "cl", "rtl", "verilog" )
BLOCK  = { "fl": MacArrayFL, "cl": MacArrayCL, "rtl": MacArrayRTL }

#-------------------------------------------------------------------------
# Commands and their data
#-------------------------------------------------------------------------

@dataclass( frozen=True )
class Gemm:
  """A command to test: what it computes, and what the data is like."""
  mode: GemmMode = GemmMode.I16_I8
  rows: int = 1
  k: int = 8
  cols: int = 8
  group: int = 0          # as encoded: 1, 2, 3 for 32, 64, 128
  bias: bool = False
  residual: bool = False
  data: str = "random"    # random, extreme, zero, tiny, huge, cancel, spread

@dataclass( frozen=True )
class Timing:
  """How the surroundings behave."""
  source: int | Fuzz = 0
  sink: int | Fuzz = 0
  start: int | Fuzz = 0
  latency: int = 5
  beats: Fraction = Fraction( 1 )
  stall_seed: int | None = None

CALM = Timing()
WILD = Timing( source=Fuzz( 3 ), sink=Fuzz( 4 ), start=Fuzz( 6, 40 ), latency=17, beats=Fraction( 2, 3 ), stall_seed=5 )

def activations( g: Gemm, rng: np.random.Generator ) -> np.ndarray:
  """Scratchpad lanes [rows, k] as the vector unit would leave them."""
  x = rng.standard_normal( ( g.rows, g.k ) ).astype( np.float32 )
  if g.data == "zero":
    x[:] = 0
  elif g.data == "tiny":
    x *= np.float32( 2.0 ** -120 )
  elif g.data == "huge":
    x *= np.float32( 2.0 ** 60 )
  if g.mode in FLOATING_MODES:
    if g.data == "spread":
      # Large activations meet weights of zero: they must not decide how the small ones are aligned.
      return np.tile( np.array( [ 0x7000, 0x0480 ] ), ( g.rows, g.k // 2 ) ).astype( np.uint32 )
    if g.data == "extreme":
      # The whole exponent range, zeros and subnormals (which count as zero) side by side.
      return rng.choice( np.array( [ 0, 0x8000, 0x0001, 0x8080, 0x0400, 0x4000, 0xBF80, 0x3C00 ] ),
                         ( g.rows, g.k ) ).astype( np.uint32 )
    return round_to( BF16 if g.mode == GemmMode.BF16 else FP16, x ).astype( np.uint32 )
  q, exponent = quantize( x, ACTIVATION_BITS[g.mode] )
  if g.data == "extreme":
    q = np.full_like( q, -( 1 << ( ACTIVATION_BITS[g.mode] - 1 ) ) )
  return pack_lanes( q, exponent )

def weights( g: Gemm, rng: np.random.Generator ) -> Weights:
  """A matrix [k, cols] in the mode's format; K is filled up to whole tiles with values that must not count."""
  shape  = ( g.k if g.group else round_up( g.k, 16 ), g.cols )
  groups = g.k // GROUP_SIZES[g.group] if g.group else 1
  bias   = rng.standard_normal( g.cols ).astype( np.float32 ) if g.bias else None
  if g.mode in FLOATING_MODES:
    w = rng.standard_normal( shape ).astype( np.float32 )
    if g.data == "cancel":
      w[1::2] = -w[0::2][: len( w[1::2] )]
    values: np.ndarray = round_to( BF16 if g.mode == GemmMode.BF16 else FP16, w )
    if g.data == "spread":
      values = np.where( np.arange( shape[0] )[:, None] % 2, values, [ [ 0, 0x8001 ] * ( g.cols // 2 ) ] )
    if g.data == "extreme":
      # The largest are such that no sum overflows: infinity is not an accepted value.
      values = rng.choice( np.array( [ 0, 0x8000, 0x0001, 0x7B7F, 0x0080, 0x3F80, 0xBF80, 0xFB00 ] ), shape )
    return Weights( values.astype( np.uint16 ), bias=bias )
  low, high = { 4: ( 0, 15 ), 8: ( -128, 127 ), 16: ( -32768, 32767 ) }[WEIGHT_BITS[g.mode]]
  values = rng.integers( low, high + 1, shape )
  if g.data == "extreme":
    values[:] = np.where( np.arange( g.cols ) % 2, high, low )
  elif g.data == "zero":
    values[:] = 0
  dtype  = np.int16 if WEIGHT_BITS[g.mode] == 16 else np.int8
  scales = rng.standard_normal( ( groups, g.cols ) ).astype( np.float32 ) * np.float32( 2.0 ** -10 )
  if not g.group:
    return Weights( values.astype( dtype ), scales[0], bias=bias )
  zeros = rng.integers( -128, 128, ( groups, g.cols ) ).astype( np.int8 )
  return Weights( values.astype( dtype ), from_bits( bits( scales ) & SCALE_MASK ), zeros, bias )

class World:
  """Memory and scratchpad for a sequence of commands, and what the scratchpad must hold afterwards."""

  def __init__( self, cfg: NpuConfig, commands: list[Gemm], seed: int = 0 ) -> None:
    rng = np.random.default_rng( seed )
    self.cfg, self.beats = cfg, 0
    self.messages: list[Any] = []
    blocks: list[np.ndarray] = [ np.zeros( LINE_BYTES, dtype=np.uint8 ) ]
    self.spad = rng.integers( 0, 1 << 32, ( 4096, cfg.n ), dtype=np.uint32 )   # no row is zero by chance
    self.expected = self.spad.copy()
    row = 3
    for g in commands:
      layout = StreamLayout( g.mode, cfg.n, g.k, g.cols, GROUP_SIZES[g.group], g.bias )
      filled = replace( layout, k=layout.k_padded )
      matrix = weights( g, rng )
      stream = pack( filled, replace( matrix, values=matrix.values[: layout.k_padded] ) )
      line   = sum( len( b ) for b in blocks ) // LINE_BYTES
      blocks.append( np.pad( stream.view( np.uint8 ), ( 0, -stream.nbytes % LINE_BYTES ) ) )
      self.beats += layout.total_beats
      # Strides larger than the rows leave gaps that nothing may write.
      kw, cw  = ceil_div( g.k, cfg.n ), ceil_div( g.cols, cfg.n )
      s_stride, d_stride = kw + 1, cw + 2
      src, src2 = row, row + g.rows * s_stride
      dst = src2 + g.rows * d_stride
      row = dst + g.rows * d_stride
      lanes = activations( g, rng )
      residual = rng.standard_normal( ( g.rows, g.cols ) ).astype( np.float32 ) if g.residual else None
      for m in range( g.rows ):
        self.put( src + m * s_stride, lanes[m] )
        if residual is not None:
          self.put( src2 + m * d_stride, bits( residual[m] ) )
      y = gemm( layout, weights_of( layout, stream ), lanes, residual )
      for m in range( g.rows ):
        padded = np.zeros( cw * cfg.n, dtype=np.uint32 )
        padded[: g.cols] = bits( y[m] )
        self.expected[dst + m * d_stride : dst + m * d_stride + cw] = padded.reshape( cw, cfg.n )
      self.messages.append( mk_gemm_cmd( cfg )(
        line, dst, src, src2, int( g.mode ), g.group, int( g.bias ), int( g.residual ), g.k, g.cols, g.rows,
        d_stride, s_stride, 0 ) )
    self.dram = np.concatenate( blocks )
    for message in self.messages:
      message.lines @= len( self.dram ) // LINE_BYTES
    assert row <= len( self.spad ), "the commands need more scratchpad than the test has"

  def put( self, row: int, words: np.ndarray ) -> None:
    """Write words into scratchpad rows, before and after alike; lanes past the end keep what was there."""
    for spad in ( self.spad, self.expected ):
      spad.reshape( -1 )[row * self.cfg.n : row * self.cfg.n + len( words )] = words

class Harness( Component ):
  def construct( s, dut, world, errors, timing ):
    s.dut  = dut
    s.cmd  = Source( mk_gemm_cmd( world.cfg ), world.messages, timing.source )
    s.mem  = Memory( world.cfg, world.dram, timing.latency, timing.beats, timing.stall_seed )
    s.spad = Scratchpad( world.cfg, 2, 1, world.spad.copy(), timing.stall_seed )
    good = errors.count( Error.NONE )
    s.start     = Source( Bits1, [ 1 ] * good, timing.start )
    s.ack_sink  = Sink( Ack, [ int( e ) for e in errors ], timing.sink )
    s.done_sink = Sink( Done, [ 0 ] * good, timing.sink )
    s.cmd.send     //= s.dut.cmd
    s.start.send   //= s.dut.start
    s.dut.ack      //= s.ack_sink.recv
    s.dut.mem      //= s.mem.ifc
    s.dut.act      //= s.spad.read[0]
    s.dut.res      //= s.spad.read[1]
    s.dut.wr       //= s.spad.write[0]
    s.dut.done     //= s.done_sink.recv

  def done( s ):
    return s.cmd.done() and s.ack_sink.done() and s.done_sink.done()

  def line_trace( s ):
    return s.dut.line_trace()

def simulate( cfg: NpuConfig, level: str, world: World, timing: Timing = CALM, errors: list[Error] | None = None,
              opts: dict | None = None, max_cycles: int = 200_000, **kwargs: Any ) -> int:
  """Run a world at a level, check every scratchpad row and the memory traffic; returns cycles."""
  th = Harness( mk_dut( BLOCK, level, cfg, **kwargs ), world, errors or [ Error.NONE ] * len( world.messages ), timing )
  cycles = run( th, max_cycles, opts )
  wrong = np.argwhere( th.spad.rows != world.expected )
  assert len( wrong ) == 0, ( f"scratchpad row {wrong[0][0]} lane {wrong[0][1]} is "
                              f"{th.spad.rows[tuple( wrong[0] )]:#010x}, expected "
                              f"{world.expected[tuple( wrong[0] )]:#010x}; {len( wrong )} differ" )
  assert th.mem.beats == world.beats
  return cycles

def check_cycles( cfg: NpuConfig, level: str, world: World, timing: Timing, cycles: int ) -> None:
  """RTL and Verilog take exactly the cycles that CL does."""
  if level in ( "rtl", "verilog" ):
    assert cycles == simulate( cfg, "cl", world, timing )
