"""The special functions in RTL against `npu.arch.numerics`, for every input that their tables tell apart.

exp2neg, reciprocal, rsqrt, sigmoid, and the conversions of 16-bit formats.

All of them stand side by side in one bench, several times, so that one Verilated model checks them all and a cycle
takes several inputs.
"""

from collections.abc import Callable, Iterator
from functools import cache

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray
from pymtl3 import Component, DefaultPassGroup, InPort, OutPort, connect

from npu.arch.isa import Convert
from npu.arch.numerics.fp32 import bits, f2i, fmul, from_bits
from npu.arch.numerics.small_float import BF16, FP16, fields, round_to, to_fp32
from npu.arch.numerics.special import LOG2_E, U_FRACTION_BITS, U_MAX, exp2neg, reciprocal, rsqrt, sigmoid
from rtl_models.common.exp2neg import Exp2Neg
from rtl_models.vector.reciprocal import RECIPROCAL_STAGES, ReciprocalPipe
from rtl_models.vector.sigmoid import SIGMOID_STAGES, SigmoidPipe
from rtl_models.vector.small_float import SmallFloatConvert
from translation.verilator import Model, compile_model
from translation.verilog import to_verilog

U32 = NDArray[np.uint32]

LANES = 8

# What a lane takes and gives: exp2neg's argument; the reciprocal's, and whether it is a root; CONVERT's word and
# formats; sigmoid's argument, which comes out beside the result.
OPERANDS = np.dtype( [ ( "u", "<u4" ), ( "x", "<u4" ), ( "root", "<u4" ), ( "word", "<u4" ), ( "formats", "<u4" ),
                       ( "gate", "<u4" ) ] )
RESULTS  = np.dtype( [ ( "power", "<u4" ), ( "inverse", "<u4" ), ( "converted", "<u4" ), ( "gate", "<u4" ),
                       ( "sigmoid", "<u4" ) ] )

# Cycles from operand to result, the one that takes the operand included; the others are combinational.
LATENCY = { "inverse": RECIPROCAL_STAGES, "gate": SIGMOID_STAGES, "sigmoid": SIGMOID_STAGES }

def widths( lanes: int ) -> list[int]:
  """Bits of the bench's ports: operands, go, results."""
  return [ 8 * OPERANDS.itemsize * lanes, 1, 8 * RESULTS.itemsize * lanes ]

class SpecialBench( Component ):
  """Every function in each lane; the records of all lanes side by side on two wide ports."""

  def construct( s, lanes ):
    take, _, give = widths( lanes )
    s.in_ = InPort( take )
    s.go  = InPort()
    s.out = OutPort( give )
    s.powers   = [ Exp2Neg()           for _ in range( lanes ) ]
    s.inverses = [ ReciprocalPipe()    for _ in range( lanes ) ]
    s.converts = [ SmallFloatConvert() for _ in range( lanes ) ]
    s.sigmoids = [ SigmoidPipe()       for _ in range( lanes ) ]
    for i in range( lanes ):
      a, b = 8 * OPERANDS.itemsize * i, 8 * RESULTS.itemsize * i
      connect( s.powers[i].u,      s.in_[a : a + 17] )
      connect( s.inverses[i].x,    s.in_[a + 32 : a + 64] )
      connect( s.inverses[i].root, s.in_[a + 64] )
      connect( s.inverses[i].go,   s.go )
      connect( s.converts[i].x,    s.in_[a + 96 : a + 128] )
      connect( s.converts[i].mode, s.in_[a + 128 : a + 130] )
      connect( s.sigmoids[i].go,   s.go )
      connect( s.sigmoids[i].x,    s.in_[a + 160 : a + 192] )
      connect( s.sigmoids[i].scalar,      0 )
      connect( s.sigmoids[i].scalar_x,    0 )
      connect( s.sigmoids[i].scalar_root, 0 )
      connect( s.out[b : b + 16],       s.powers[i].out )
      connect( s.out[b + 16 : b + 32],  0 )
      connect( s.out[b + 32 : b + 64],  s.inverses[i].out )
      connect( s.out[b + 64 : b + 96],  s.converts[i].out )
      connect( s.out[b + 96 : b + 128], s.sigmoids[i].gate )
      connect( s.out[b + 128 : b + 160], s.sigmoids[i].out )

#-------------------------------------------------------------------------
# Inputs
#-------------------------------------------------------------------------

ENDS      = np.array( [ 0, 1, 2, 0x3FFFFF, 0x400000, 0x7FFFFE, 0x7FFFFF ] )
EXPONENTS = np.array( [ 1, 2, 3, 63, 64, 100, 125, 126, 127, 128, 129, 130, 160, 190, 191, 252, 253, 254 ] )

def table_inputs( rng: np.random.Generator, exponents: NDArray ) -> U32:
  """One number for each of the 2**17 segments and interpolation bits; exponents and the lowest bits at random."""
  table = np.arange( 1 << 17 ) << 6 | rng.integers( 0, 64, 1 << 17 )
  return ( rng.choice( exponents, table.size ) << 23 | table ).astype( np.uint32 )

def inverses( rng: np.random.Generator ) -> list[tuple[U32, int]]:
  """Numbers and whether their root is asked for."""
  every  = ( np.arange( 255 )[:, None] << 23 | ENDS ).ravel().astype( np.uint32 )     # zero and subnormals too
  parts  = [ ( every, 0 ), ( every, 1 ), ( table_inputs( rng, EXPONENTS ), 0 ) ]
  is_odd = ( EXPONENTS & 1 ).astype( bool )
  parts += [ ( table_inputs( rng, EXPONENTS[chosen] ), 1 ) for chosen in ( is_odd, ~is_odd ) ]
  return parts

def gates( rng: np.random.Generator ) -> U32:
  """Numbers of both signs that give every argument of exp2neg, and any others."""
  u = np.arange( U_MAX + 1 )
  x = ( u / ( 1 << U_FRACTION_BITS ) / LOG2_E ).astype( np.float32 )
  assert np.array_equal( f2i( fmul( x, LOG2_E ), -U_FRACTION_BITS, U_MAX ), u )
  others = ( np.arange( 255 )[:, None] << 23 | ENDS ).ravel().astype( np.uint32 )
  positive = np.concatenate( [ bits( x ), others ] )
  return rng.permutation( np.concatenate( [ positive, positive | np.uint32( 1 << 31 ) ] ) )

def conversions( rng: np.random.Generator ) -> list[tuple[U32, Convert]]:
  """Words and formats: all 16-bit patterns under any other bits, and all that rounding tells apart."""
  short = np.arange( 1 << 16, dtype=np.uint32 )
  short = short | rng.integers( 0, 1 << 16, short.size, dtype=np.uint32 ) << np.uint32( 16 )
  found = [ ( short[short & 0x7F80 != 0x7F80], Convert.BF16_FP32 ), ( short, Convert.FP16_FP32 ) ]
  finite = np.arange( 1 << 16, dtype=np.uint32 )
  finite = finite[finite & 0x7F80 != 0x7F80] << np.uint32( 16 )
  for low in ( 0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF ):
    found.append( ( finite | np.uint32( low ), Convert.FP32_BF16 ) )
  # FP16 drops 13 bits. Its exponents, and a few around them.
  top  = np.arange( 100 << 10, 146 << 10, dtype=np.uint32 ) << np.uint32( 13 )
  for low in ( 0, 1, 0x0FFF, 0x1000, 0x1001, 0x1FFF ):
    found.append( ( top | np.uint32( low ), Convert.FP32_FP16 ) )
  found.append( ( top | np.uint32( 0x80001000 ), Convert.FP32_FP16 ) )
  found.append( ( finite | np.uint32( 0x1000 ), Convert.FP32_FP16 ) )
  return found

def records( us: U32, numbers: list[tuple[U32, int]], words: list[tuple[U32, Convert]], xs: U32 ) -> NDArray:
  """Inputs of all functions side by side; the shorter columns start again."""
  columns = { "u": us, "gate": xs,
              "x":       np.concatenate( [ x for x, _ in numbers ] ),
              "root":    np.concatenate( [ np.full( x.size, root ) for x, root in numbers ] ),
              "word":    np.concatenate( [ x for x, _ in words ] ),
              "formats": np.concatenate( [ np.full( x.size, int( f ) ) for x, f in words ] ) }
  made = np.zeros( max( c.size for c in columns.values() ), dtype=OPERANDS )
  for name, column in columns.items():
    made[name] = np.resize( column, made.size )
  return made

@cache
def all_records() -> NDArray:
  rng = np.random.default_rng( 1 )
  return records( np.arange( U_MAX + 1, dtype=np.uint32 ), inverses( rng ), conversions( rng ), gates( rng ) )

def expected( given: NDArray ) -> NDArray:
  """What `npu.arch.numerics` says."""
  result = np.zeros( given.size, dtype=RESULTS )
  result["power"]   = exp2neg( given["u"] )
  result["gate"], result["sigmoid"] = given["gate"], bits( sigmoid( from_bits( given["gate"] ) ) )
  x, root = from_bits( given["x"] ), given["root"] == 1
  result["inverse"][~root] = bits( reciprocal( x[~root] ) )
  result["inverse"][root]  = bits( rsqrt( x[root] ) )
  functions: dict[Convert, Callable[[U32], U32]] = {
    Convert.FP32_BF16: lambda w: round_to( BF16, from_bits( w ) ),
    Convert.FP32_FP16: lambda w: round_to( FP16, from_bits( w ) ),
    Convert.BF16_FP32: lambda w: bits( to_fp32( BF16, w.astype( np.uint16 ) ) ),
    Convert.FP16_FP32: lambda w: bits( to_fp32( FP16, w.astype( np.uint16 ) ) ) }
  for formats, function in functions.items():
    these = given["formats"] == int( formats )
    result["converted"][these] = function( given["word"][these] )
  return result

#-------------------------------------------------------------------------
# Simulation, Verilog
#-------------------------------------------------------------------------

# A step of a bench: operands and go in, results out, a clock edge in between.
Step = Callable[[bytes, int], bytes]

def simulated( lanes: int ) -> Step:
  bench = SpecialBench( lanes )
  bench.elaborate()
  bench.apply( DefaultPassGroup() )

  def step( operands: bytes, go: int ) -> bytes:
    bench.in_ @= int.from_bytes( operands, "little" )
    bench.go  @= go
    bench.sim_tick()
    return int( bench.out ).to_bytes( RESULTS.itemsize * lanes, "little" )
  return step

def verilated( lanes: int ) -> Step:
  library = compile_model( *to_verilog( SpecialBench( lanes ) ), [ "in_", "go", "out" ] )
  model   = Model( library, widths( lanes ), x_initial="rand", seed=1 )

  def step( operands: bytes, go: int ) -> bytes:
    model.write( 0, int.from_bytes( operands, "little" ) )
    model.write( 1, go )
    model.tick()
    return model.read( 2 ).to_bytes( RESULTS.itemsize * lanes, "little" )
  return step

def through( step: Step, given: NDArray, lanes: int, goes: Iterator[int] | None = None ) -> NDArray:
  """The results of all records. Those of the pipelines come later, and only cycles with `go` count for them."""
  most   = max( LATENCY.values() )
  padded = np.zeros( ( -( -given.size // lanes ) + most - 1 ) * lanes, dtype=OPERANDS )
  padded[: given.size] = given
  stream, size = padded.tobytes(), OPERANDS.itemsize * lanes
  made = bytearray()
  for start in range( 0, len( stream ), size ):
    while goes is not None and not next( goes ):
      step( bytes( size ), 0 )
    made += step( stream[start : start + size], 1 )
  found   = np.frombuffer( made, dtype=RESULTS )
  results = found[: given.size].copy()
  for name, cycles in LATENCY.items():
    results[name] = found[name][lanes * ( cycles - 1 ) :][: given.size]
  return results

#-------------------------------------------------------------------------
# Tests
#-------------------------------------------------------------------------

def check( given: NDArray, results: NDArray ) -> None:
  """Every result, bit for bit; a failure shows the first wrong one with its operands."""
  wanted = expected( given )
  for name in RESULTS.names or ():
    wrong = np.flatnonzero( results[name] != wanted[name] )
    if wrong.size:
      i = wrong[0]
      pytest.fail( f"{name}: {wrong.size} of {given.size} differ; the first is [{i}] "
                   f"({', '.join( f'{n} {int( given[n][i] ):#x}' for n in given.dtype.names )}): "
                   f"got {int( results[name][i] ):#x}, expected {int( wanted[name][i] ):#x}" )

def sample( count: int ) -> NDArray:
  return np.random.default_rng( 2 ).choice( all_records(), count, replace=False )

@pytest.mark.level( "verilog" )
def test_every_table_input():
  given = all_records()
  check( given, through( verilated( LANES ), given, LANES ) )

@pytest.mark.parametrize( "level", ( "rtl", "verilog" ) )
def test_the_pipe_stands_without_go( level ):
  """Results wait for `go`, whatever x does meanwhile."""
  rng   = np.random.default_rng( 3 )
  lanes = 1 if level == "rtl" else LANES
  step  = simulated( lanes ) if level == "rtl" else verilated( lanes )
  given = sample( 600 if level == "rtl" else 20_000 )
  check( given, through( step, given, lanes, iter( lambda: int( rng.integers( 0, 2 ) ), 2 ) ) )

@pytest.mark.nightly
@pytest.mark.level( "verilog" )
@pytest.mark.parametrize( ( "root", "exponent" ), [ ( 0, 127 ), ( 1, 127 ), ( 1, 128 ) ] )
def test_every_fraction( root, exponent ):
  """All 2**23 fractions: the bits below those that interpolate count in the Newton step."""
  step = verilated( LANES )
  for part in np.split( np.arange( 1 << 23, dtype=np.uint32 ), 16 ):
    x = part | np.uint32( exponent << 23 )
    none  = np.zeros( 1, np.uint32 )
    given = records( none, [ ( x, root ) ], [ ( none, Convert.FP32_BF16 ) ], none )
    check( given, through( step, given, LANES ) )

def test_conversions_agree_with_ml_dtypes():
  """What is expected of CONVERT, against rounding that others wrote, where the 16-bit result is normal and finite."""
  given = all_records()
  for formats, fmt, dtype in ( ( Convert.FP32_BF16, BF16, ml_dtypes.bfloat16 ),
                               ( Convert.FP32_FP16, FP16, np.float16 ) ):
    words = given["word"][given["formats"] == int( formats )]
    with np.errstate( over="ignore" ):
      theirs = from_bits( words ).astype( dtype ).view( np.uint16 )
    _, exponent, _ = fields( fmt, theirs )
    # At the smallest normal exponent the two may differ: ours rounds as if exponents had no lower end.
    usual = ( exponent > 1 ) & ( exponent < ( 1 << fmt.exponent_bits ) - 1 )
    assert np.array_equal( round_to( fmt, from_bits( words ) )[usual], theirs[usual] )
