"""The vector unit at every level on random commands: on data of their own, on each other's results, at random times."""

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from npu.arch.config import PRESETS
from npu.arch.isa import Convert
from tests.harness import Fuzz
from tests.vector_unit.world import At, Timing, Vec, World, checked, simulate

# Kinds of data by operation: finite numbers whose results are finite.
KINDS = {
  "COPY":     ( "bits", ),
  "ADD":      ( "random", "wide", "tiny", "zero", "edge" ),
  "MUL":      ( "random", "wide", "tiny", "zero", "edge" ),
  "SCALE":    ( "random", "wide", "tiny", "zero", "edge" ),
  "SWIGLU":   ( "random", "scores", "tiny", "zero", "edge" ),
  "QUANTIZE": ( "random", "any", "edge", "ends", "tiny", "zero", "full" ),
  "RMSNORM":  ( "random", "wide", "edge", "tiny", "zero", "full" ),
  "ROPE":     ( "random", "wide", "tiny", "zero", "edge" ),
  "SOFTMAX":  ( "random", "scores", "extreme", "tiny", "zero", "edge", "equal" ),
  "ARGMAX":   ( "any", "ties", "equal", "negative", "zero" ),
  "CONVERT":  ( "any", "edge", "tiny", "small" ),
}
OPS = sorted( KINDS )

def mode_of( draw: st.DrawFn, op: str ) -> int:
  choices = { "QUANTIZE": ( 8, 16 ), "CONVERT": tuple( Convert ), "ARGMAX": ( 0, 1 ) }
  return int( draw( st.sampled_from( choices.get( op, ( 0, ) ) ) ) )

def param_of( draw: st.DrawFn, op: str ) -> float | None:
  choices = { "SCALE": ( -0.3, 1.0, 0.0, 1e-20, 1e9 ), "SOFTMAX": ( None, 0.1, -2.0 ), "ARGMAX": ( 0, 77, 0xFFFFFFFE ) }
  return draw( st.sampled_from( choices.get( op, ( None, ) ) ) )

@st.composite
def vecs( draw: st.DrawFn ) -> Vec:
  """A command with data of its own."""
  op     = draw( st.sampled_from( OPS ) )
  length = draw( st.integers( 1, 36 ) )
  mode   = mode_of( draw, op )
  kinds  = ( "small", ) if op == "CONVERT" and mode in ( Convert.BF16_FP32, Convert.FP16_FP32 ) else KINDS[op]
  kinds  = tuple( k for k in kinds if k != "small" ) or kinds
  return Vec( op, draw( st.integers( 1, 5 ) | st.just( 16 ) ), draw( st.integers( 1, 4 ) ),
              2 * length if op == "ROPE" else length, mode, param_of( draw, op ), data=draw( st.sampled_from( kinds ) ),
              data2=draw( st.sampled_from( ( "random", "wide", "bits" ) if op == "ROPE" else ( "random", "unit" ) ) ),
              dst=draw( st.sampled_from( ( "new", "new", "src" ) ) ), gap=draw( st.integers( 0, 2 ) ) )

STRIDE, SLOT, SLOTS = 8, 24, 5    # scratchpad rows of a token row, of a place; places

@st.composite
def dependent( draw: st.DrawFn ) -> list[Vec]:
  """Commands on five places of a small scratchpad: each reads what others have written, often at once.

  A command's result is exactly where one of its operands is, or apart from all of them.
  """
  shapes = draw( st.lists( st.tuples( st.integers( 1, 3 ), st.integers( 1, 2 ), st.integers( 1, 5 ) ),
                           min_size=1, max_size=2 ) )
  moved  = draw( st.sampled_from( ( 0, 0, 1, 3 ) ) )    # places that overlap the ones of other commands
  made, last = [], 0
  for _ in range( draw( st.integers( 2, 9 ) ) ):
    op = draw( st.sampled_from( OPS ) )
    rows, segments, length = draw( st.sampled_from( shapes ) )
    src, src2, other = ( draw( st.just( last ) | st.integers( 0, SLOTS - 1 ) ) for _ in range( 3 ) )
    in_place = { src, src2 } if op in ( "ADD", "MUL", "SWIGLU" ) else { src } - { src2 }
    allowed  = in_place | ( set( range( SLOTS ) ) - { src, src2 } )
    dst      = other if other in allowed else draw( st.sampled_from( sorted( allowed ) ) )
    shift    = draw( st.sampled_from( ( 0, moved ) ) )
    at       = [ At( shift + slot * SLOT, STRIDE ) for slot in ( src, src2, dst ) ]
    made.append( Vec( op, rows, segments, 2 * length if op in ( "ROPE", "ARGMAX" ) else length, mode_of( draw, op ),
                      param_of( draw, op ), src=at[0], src2=at[1], dst=at[2] ) )
    last = src if op == "ARGMAX" else dst
  return made

def fuzzes( most: int ) -> st.SearchStrategy:
  return st.just( 0 ) | st.builds( Fuzz, st.integers( 0, 99 ), st.just( most ) )

timings = st.builds( Timing, source=fuzzes( 12 ), ack=fuzzes( 9 ), done=fuzzes( 30 ),
                     stall_seed=st.none() | st.integers( 0, 99 ), stalled=st.sampled_from( ( 0.1, 0.25, 0.6 ) ) )

def fuzz( level: str, n: int, examples: int ) -> None:
  """Commands of their own, then commands on each other's results."""
  @settings( max_examples=examples, suppress_health_check=list( HealthCheck ) )
  @given( st.lists( vecs(), min_size=1, max_size=4 ), timings, st.integers( 1, 1 << 30 ) )
  def own( commands, timing, seed ):
    cfg = PRESETS[f"edge{n}"]
    checked( cfg, level, World( cfg, commands, seed ), timing, seed=seed )

  @settings( max_examples=examples, suppress_health_check=list( HealthCheck ) )
  @given( dependent(), timings, st.integers( 1, 1 << 30 ) )
  def shared( commands, timing, seed ):
    cfg = PRESETS[f"edge{n}"]
    checked( cfg, level, World( cfg, commands, seed, fill=SLOT * SLOTS + 8, lenient=True ), timing, seed=seed )
  own()
  shared()

@pytest.mark.parametrize( ( "level", "n", "examples" ), [
  ( "fl", 4, 15 ), ( "cl", 4, 15 ), ( "cl", 8, 8 ), ( "cl", 16, 8 ), ( "verilog", 4, 25 ), ( "verilog", 8, 10 ),
  ( "verilog", 16, 10 ) ] )
def test_random( level, n, examples ):
  fuzz( level, n, examples )

@pytest.mark.nightly
@pytest.mark.parametrize( ( "level", "n", "examples" ), [
  ( "fl", 4, 200 ), ( "fl", 16, 100 ), ( "cl", 8, 200 ), ( "rtl", 4, 60 ), ( "rtl", 8, 20 ), ( "verilog", 4, 500 ),
  ( "verilog", 8, 200 ), ( "verilog", 16, 300 ) ] )
def test_random_at_length( level, n, examples ):
  fuzz( level, n, examples )

@st.composite
def overlapping( draw: st.DrawFn ) -> list[Vec]:
  """Commands on a few rows of the scratchpad, each with operands and result that overlap in any way."""
  places = st.builds( At, st.integers( 0, 12 ), st.integers( 0, 4 ) )
  shapes = st.tuples( st.integers( 1, 4 ), st.integers( 1, 3 ), st.sampled_from( ( 2, 6, 8, 14 ) ) )
  ops    = st.sampled_from( [ op for op in OPS if op not in ( "ARGMAX", "CONVERT" ) ] )
  return [ Vec( op, *draw( shapes ), src=draw( places ), src2=draw( places ), dst=draw( places ) )
           for op in draw( st.lists( ops, min_size=1, max_size=6 ) ) ]

@pytest.mark.parametrize( ( "level", "examples" ), [ ( "cl", 10 ), ( "verilog", 25 ) ] )
def test_overlap_never_hangs( level, examples ):
  """What such a command computes is not defined; it ends when CL says, and reads and writes only what it should."""
  @settings( max_examples=examples, suppress_health_check=list( HealthCheck ) )
  @given( overlapping(), timings, st.integers( 1, 1 << 30 ) )
  def check( commands, timing, seed ):
    cfg   = PRESETS["edge4"]
    world = World( cfg, commands, seed, fill=200, lenient=True )
    found = simulate( cfg, level, world, timing, values=False, seed=seed )
    if level != "cl":
      assert found == simulate( cfg, "cl", world, timing, values=False )
  check()

@pytest.mark.parametrize( "level", ( "cl", "verilog" ) )
@pytest.mark.parametrize( "op", ( "ADD", "SWIGLU", "RMSNORM" ) )
def test_own_results_are_not_waited_for( level, op ):
  """Rows whose operands are the results of the row before, after commands that have filled all there is to fill."""
  cfg   = PRESETS["edge4"]
  copy  = Vec( "COPY", rows=16, length=4, src=At( 20, 1 ), dst=At( 40, 1 ) )
  own   = Vec( op, rows=16, length=4, src=At( 60, 1 ), src2=At( 79, 1 ), dst=At( 80 if op != "RMSNORM" else 61, 1 ) )
  world = World( cfg, [ copy, own, copy, own ], fill=200 )
  found = simulate( cfg, level, world, values=False )
  assert found == simulate( cfg, "cl", world, values=False )
