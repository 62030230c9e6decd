"""The MAC array: one suite for all levels."""

from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymtl3 import Component

from cl.mac_array import MacArrayCL
from fl.mac_array import MacArrayFL, gemm, weights_of
from npu.config import LINE_BYTES, PRESETS, NpuConfig, ceil_div, round_up
from npu.isa import GROUP_SIZES, Error, GemmMode
from npu.messages import mk_completion, mk_gemm_cmd
from npu.numerics.block_float import pack as pack_lanes
from npu.numerics.block_float import quantize
from npu.numerics.fp32 import bits, from_bits
from npu.numerics.small_float import BF16, FP16, round_to
from npu.weight_stream import (
  ACTIVATION_BITS,
  FLOATING_MODES,
  GROUP_MODES,
  SCALE_MASK,
  WEIGHT_BITS,
  StreamLayout,
  Weights,
  pack,
)
from rtl_models.mac_array import MacArrayRTL
from tests.harness import Fuzz, Memory, Scratchpad, Sink, Source
from translation.simulate import mk_dut, run

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
  latency: int = 5
  beats: Fraction = Fraction( 1 )
  stall_seed: int | None = None

CALM = Timing()
WILD = Timing( source=Fuzz( 3 ), sink=Fuzz( 4 ), latency=17, beats=Fraction( 2, 3 ), stall_seed=5 )

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
      w[1::2] = -w[0 : 2 * ( g.k // 2 ) : 2][: len( w[1::2] )]
    values = round_to( BF16 if g.mode == GemmMode.BF16 else FP16, w )
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
    self.cfg, self.messages, self.beats = cfg, [], 0
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
        d_stride, s_stride ) )
    self.dram = np.concatenate( blocks )
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
    s.done_sink = Sink( mk_completion(), [ mk_completion()( int( e ), 0 ) for e in errors ], timing.sink )
    s.cmd.send     //= s.dut.cmd
    s.dut.mem      //= s.mem.ifc
    s.dut.act      //= s.spad.read[0]
    s.dut.res      //= s.spad.read[1]
    s.dut.wr       //= s.spad.write[0]
    s.dut.done     //= s.done_sink.recv

  def done( s ):
    return s.cmd.done() and s.done_sink.done()

  def line_trace( s ):
    return s.dut.line_trace()

def simulate( cfg: NpuConfig, level: str, world: World, timing: Timing = CALM, errors: list[Error] | None = None,
              opts: dict | None = None, max_cycles: int = 200_000, **kwargs: object ) -> int:
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

#-------------------------------------------------------------------------
# The table
#-------------------------------------------------------------------------

M = GemmMode

ROWS = [
  # name                     commands                                                               timing
  ( "basic",                 [ Gemm() ],                                                            CALM ),
  ( "one_tile",              [ Gemm( k=4, cols=4 ) ],                                               CALM ),
  ( "one_lane",              [ Gemm( k=1, cols=1 ) ],                                               CALM ),
  ( "ragged",                [ Gemm( k=10, cols=9, rows=3 ) ],                                      CALM ),
  ( "many_tiles",            [ Gemm( k=48, cols=40, rows=2 ) ],                                     CALM ),
  ( "m_max",                 [ Gemm( k=12, cols=12, rows=16 ) ],                                    CALM ),
  ( "bias_residual",         [ Gemm( k=16, cols=12, rows=3, bias=True, residual=True ) ],           CALM ),
  ( "zeros",                 [ Gemm( k=16, cols=8, rows=2, data="zero", bias=True ) ],              CALM ),
  ( "extreme_i16_i8",        [ Gemm( k=40, cols=8, rows=2, data="extreme" ) ],                      CALM ),
  ( "extreme_i16_i16",       [ Gemm( M.I16_I16, k=40, cols=8, rows=2, data="extreme" ) ],           CALM ),
  ( "extreme_i8_i8",         [ Gemm( M.I8_I8, k=40, cols=8, rows=2, data="extreme" ) ],             CALM ),
  ( "extreme_i16_g4",        [ Gemm( M.I16_G4, k=64, cols=8, rows=2, group=1, data="extreme" ) ],   CALM ),
  ( "extreme_i16_g8",        [ Gemm( M.I16_G8, k=64, cols=8, rows=2, group=1, data="extreme" ) ],   CALM ),
  ( "tiny_exponents",        [ Gemm( k=16, cols=8, rows=2, data="tiny", bias=True ) ],              CALM ),
  ( "huge_exponents",        [ Gemm( k=16, cols=8, rows=2, data="huge", residual=True ) ],          CALM ),
  ( "i16_i16",               [ Gemm( M.I16_I16, k=20, cols=9, rows=5, bias=True ) ],                CALM ),
  ( "i8_i8",                 [ Gemm( M.I8_I8, k=20, cols=9, rows=5, residual=True ) ],              CALM ),
  ( "g4_32",                 [ Gemm( M.I16_G4, k=96, cols=9, rows=3, group=1, bias=True ) ],        CALM ),
  ( "g4_64",                 [ Gemm( M.I16_G4, k=128, cols=5, rows=2, group=2 ) ],                  CALM ),
  ( "g4_128",                [ Gemm( M.I16_G4, k=128, cols=5, rows=1, group=3, residual=True ) ],   CALM ),
  ( "g8_32",                 [ Gemm( M.I16_G8, k=64, cols=9, rows=3, group=1, residual=True ) ],    CALM ),
  ( "g8_64",                 [ Gemm( M.I16_G8, k=128, cols=5, rows=2, group=2, bias=True ) ],       CALM ),
  ( "g8_128",                [ Gemm( M.I16_G8, k=128, cols=5, rows=1, group=3 ) ],                  CALM ),
  ( "bf16",                  [ Gemm( M.BF16, k=26, cols=9, rows=5, bias=True, residual=True ) ],    CALM ),
  ( "fp16",                  [ Gemm( M.FP16, k=26, cols=9, rows=5, bias=True, residual=True ) ],    CALM ),
  ( "bf16_extreme",          [ Gemm( M.BF16, k=32, cols=8, rows=3, data="extreme" ) ],              CALM ),
  ( "fp16_extreme",          [ Gemm( M.FP16, k=32, cols=8, rows=3, data="extreme" ) ],              CALM ),
  ( "bf16_cancel",           [ Gemm( M.BF16, k=32, cols=8, rows=2, data="cancel" ) ],               CALM ),
  ( "fp16_cancel",           [ Gemm( M.FP16, k=32, cols=8, rows=2, data="cancel" ) ],               CALM ),
  ( "bf16_spread",           [ Gemm( M.BF16, k=32, cols=8, rows=2, data="spread" ) ],               CALM ),
  ( "fp16_spread",           [ Gemm( M.FP16, k=32, cols=8, rows=2, data="spread" ) ],               CALM ),
  ( "late_residual",         [ Gemm( k=4, cols=64, rows=8, residual=True ) ],                       Timing( stall_seed=2 ) ),
  ( "source_delay",          [ Gemm( rows=2 ), Gemm(), Gemm( k=12 ) ],                              Timing( source=7 ) ),
  ( "sink_delay",            [ Gemm( rows=2 ), Gemm(), Gemm( k=12 ) ],                              Timing( sink=29 ) ),
  ( "slow_memory",           [ Gemm( k=32, cols=16, rows=2 ) ],                            Timing( beats=Fraction( 1, 4 ) ) ),
  ( "latency_1",             [ Gemm( k=32, cols=16 ) ],                                             Timing( latency=1 ) ),
  ( "latency_200",           [ Gemm( k=32, cols=16 ) ] * 2,                                         Timing( latency=200 ) ),
  ( "stalls",                [ Gemm( k=32, cols=12, rows=4, bias=True, residual=True ) ],           Timing( stall_seed=1 ) ),
  ( "back_to_back",          [ Gemm( k=16, rows=2 ), Gemm( M.I16_I16, k=8 ), Gemm( M.BF16, k=12, cols=4, bias=True ),
                               Gemm( M.I16_G4, k=32, group=1 ), Gemm( rows=5, residual=True ) ],    CALM ),
  ( "back_to_back_wild",     [ Gemm( k=16, rows=2 ), Gemm( M.I16_I16, k=8, residual=True ), Gemm( M.FP16, cols=4 ),
                               Gemm( M.I16_G8, k=32, group=1, bias=True ), Gemm( rows=5, residual=True ) ],  WILD ),
  ( "small_tiles_wild",      [ Gemm( k=4, cols=4, bias=True ) ] * 6,                                WILD ),
]

def rows_of( *names: str ) -> list:
  return [ pytest.param( commands, timing, id=name ) for name, commands, timing in ROWS
           if not names or name in names ]

@pytest.mark.parametrize( "level", LEVELS )
@pytest.mark.parametrize( ( "commands", "timing" ), rows_of() )
def test_rows( level, commands, timing, cmdline_opts ):
  cfg   = PRESETS["edge4"]
  world = World( cfg, commands )
  cycles = simulate( cfg, level, world, timing, opts=cmdline_opts )
  check_cycles( cfg, level, world, timing, cycles )

@pytest.mark.parametrize( "level", LEVELS )
@pytest.mark.parametrize( ( "commands", "timing" ), rows_of(
  "ragged", "many_tiles", "bias_residual", "extreme_i16_i16", "g4_64", "g8_32", "bf16", "fp16_extreme",
  "back_to_back_wild" ) )
def test_rows_n8( level, commands, timing ):
  cfg   = PRESETS["edge8"]
  world = World( cfg, commands )
  check_cycles( cfg, level, world, timing, simulate( cfg, level, world, timing ) )

# In Python the RTL of 256 multipliers does some ten cycles a second: there it runs as Verilog.
@pytest.mark.parametrize( "level", ( "fl", "cl", "verilog" ) )
@pytest.mark.parametrize( ( "commands", "timing" ), rows_of() )
def test_rows_n16( level, commands, timing ):
  cfg   = PRESETS["edge16"]
  world = World( cfg, commands )
  check_cycles( cfg, level, world, timing, simulate( cfg, level, world, timing ) )

@pytest.mark.parametrize( "level", ( "verilog", ) )
@pytest.mark.parametrize( "x_initial", ( "zeros", "ones", "rand" ) )
def test_initial_state_does_not_matter( level, x_initial ):
  cfg   = PRESETS["edge4"]
  world = World( cfg, dict( ( n, c ) for n, c, _ in ROWS )["back_to_back_wild"] )
  cycles = simulate( cfg, level, world, WILD, x_initial=x_initial )
  check_cycles( cfg, level, world, WILD, cycles )

#-------------------------------------------------------------------------
# Random commands and timing
#-------------------------------------------------------------------------

@st.composite
def gemms( draw: st.DrawFn ) -> Gemm:
  mode  = draw( st.sampled_from( list( GemmMode ) ) )
  group = draw( st.integers( 1, 3 ) ) if mode in GROUP_MODES else 0
  k     = GROUP_SIZES[group] * draw( st.integers( 1, 2 ) ) if group else draw( st.integers( 1, 40 ) )
  return Gemm( mode, draw( st.integers( 1, 16 ) ), k, draw( st.integers( 1, 20 ) ), group, draw( st.booleans() ),
               draw( st.booleans() ), draw( st.sampled_from( ( "random", "extreme", "tiny", "huge", "cancel" ) ) ) )

timings = st.builds(
  Timing, source=st.builds( Fuzz, st.integers( 0, 99 ) ), sink=st.builds( Fuzz, st.integers( 0, 99 ) ),
  latency=st.integers( 1, 60 ), beats=st.sampled_from( ( Fraction( 1 ), Fraction( 2, 3 ), Fraction( 1, 4 ) ) ),
  stall_seed=st.none() | st.integers( 0, 99 ) )

def fuzz( level: str, n: int, examples: int ) -> None:
  @settings( max_examples=examples, suppress_health_check=list( HealthCheck ) )
  @given( st.lists( gemms(), min_size=1, max_size=3 ), timings, st.integers( 0, 1 << 30 ) )
  def check( commands, timing, seed ):
    cfg   = PRESETS[f"edge{n}"]
    world = World( cfg, commands, seed )
    check_cycles( cfg, level, world, timing, simulate( cfg, level, world, timing ) )
  check()

@pytest.mark.parametrize( ( "level", "n", "examples" ), [
  ( "fl", 4, 15 ), ( "cl", 4, 15 ), ( "cl", 8, 10 ), ( "cl", 16, 10 ), ( "rtl", 4, 8 ),
  ( "verilog", 4, 25 ), ( "verilog", 8, 10 ), ( "verilog", 16, 10 ) ] )
def test_random( level, n, examples ):
  fuzz( level, n, examples )

@pytest.mark.nightly
@pytest.mark.parametrize( ( "level", "n", "examples" ), [
  ( "fl", 4, 200 ), ( "cl", 8, 200 ), ( "rtl", 4, 60 ), ( "rtl", 8, 20 ), ( "verilog", 4, 400 ), ( "verilog", 16, 200 ) ] )
def test_random_at_length( level, n, examples ):
  fuzz( level, n, examples )

#-------------------------------------------------------------------------
# Cycles
#-------------------------------------------------------------------------

# A calm memory of latency 5 at n = 4. The stream's beats (16 bytes) or rows x tiles bound them from below.
CYCLES = {
  "basic":         28,    # 2 x 2 tiles: mostly start and end
  "many_tiles":    263,   # 120 tiles x 2 rows = 240
  "m_max":         167,   # 9 tiles x 16 rows = 144
  "bias_residual": 60,
  "g4_32":         240,
  "bf16":          129,
}

@pytest.mark.parametrize( "level", ( "cl", "rtl", "verilog" ) )
@pytest.mark.parametrize( "name", sorted( CYCLES ) )
def test_cycles( level, name ):
  cfg   = PRESETS["edge4"]
  world = World( cfg, dict( ( n, c ) for n, c, _ in ROWS )[name] )
  assert simulate( cfg, level, world ) == CYCLES[name]

@pytest.mark.parametrize( "level", ( "cl", "verilog" ) )
def test_no_bubbles( level ):
  """Past the start, every cycle brings a beat (one row) or an activation row (16 rows)."""
  cfg = PRESETS["edge4"]
  for rows, bound in ( ( 1, lambda g: ( g.k // 4 + 1 ) * g.cols // 4 ), ( 16, lambda g: 16 * g.k // 4 * g.cols // 4 ) ):
    short, long = Gemm( k=64, cols=16, rows=rows ), Gemm( k=64, cols=32, rows=rows )
    grown = simulate( cfg, level, World( cfg, [ long ] ) ) - simulate( cfg, level, World( cfg, [ short ] ) )
    assert grown == bound( long ) - bound( short )

#-------------------------------------------------------------------------
# Bad commands
#-------------------------------------------------------------------------

BAD = [
  ( "no_rows",         { "rows": 0 },                             Error.ZERO_SIZE ),
  ( "no_k",            { "k": 0 },                                Error.ZERO_SIZE ),
  ( "no_columns",      { "cols": 0 },                             Error.ZERO_SIZE ),
  ( "undefined_mode",  { "mode": 7 },                             Error.BAD_FIELD ),
  ( "too_many_rows",   { "rows": 17 },                            Error.BAD_SIZE ),
  ( "k_too_long",      { "k": 32769 },                            Error.BAD_SIZE ),
  ( "group_missing",   { "mode": int( M.I16_G4 ) },               Error.BAD_SIZE ),
  ( "group_unwanted",  { "group": 1 },                            Error.BAD_SIZE ),
  ( "ragged_group_32", { "mode": int( M.I16_G8 ), "group": 1, "k": 33 },  Error.BAD_SIZE ),
  ( "ragged_group_64", { "mode": int( M.I16_G4 ), "group": 2, "k": 96 },  Error.BAD_SIZE ),
  ( "ragged_group_128", { "mode": int( M.I16_G4 ), "group": 3, "k": 64 }, Error.BAD_SIZE ),
]

@pytest.mark.parametrize( "level", LEVELS )
@pytest.mark.parametrize( ( "changes", "error" ), [ pytest.param( c, e, id=name ) for name, c, e in BAD ] )
def test_bad_command( level, changes, error ):
  """A bad command between two good ones is answered with its error, in order, and touches nothing."""
  cfg   = PRESETS["edge4"]
  world = World( cfg, [ Gemm( rows=2 ), Gemm( bias=True ) ] )
  bad   = world.messages[0].clone()
  for name, value in changes.items():
    setattr( bad, name, type( getattr( bad, name ) )( value ) )
  world.messages.insert( 1, bad )
  simulate( cfg, level, world, errors=[ Error.NONE, error, Error.NONE ] )

@pytest.mark.parametrize( "level", LEVELS )
def test_other_row_counts( level ):
  """m_max is a parameter: 3 rows at most, and a fourth is refused."""
  cfg   = replace( PRESETS["edge4"], m_max=3 )
  world = World( cfg, [ Gemm( rows=3, k=9 ), Gemm( rows=1 ) ] )
  check_cycles( cfg, level, world, CALM, simulate( cfg, level, world ) )
