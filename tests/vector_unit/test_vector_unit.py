"""The vector unit: one suite for all levels."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from npu.arch.config import PRESETS, NpuConfig
from npu.arch.isa import Convert, Error
from tests.harness import Fuzz
from tests.vector_unit.cycles import section
from tests.vector_unit.world import (
  CALM,
  LEVELS,
  WILD,
  At,
  Run,
  Timing,
  Vec,
  World,
  check_cycles,
  simulate,
  simulate_again,
)

#-------------------------------------------------------------------------
# The table
#-------------------------------------------------------------------------

C = Convert

def chain( *commands: Vec, **shape: int ) -> list[Vec]:
  """Commands of one shape, each but the first on what the one before wrote."""
  return [ replace( v, src="last" if k else v.src, **shape ) for k, v in enumerate( commands ) ]

def each( op: str, *kinds: str, **fields: Any ) -> list[Vec]:
  """A command for each kind of data."""
  return [ Vec( op, data=kind, **fields ) for kind in kinds ]

def search( *lengths: int, base: int = 0, **fields: Any ) -> list[Vec]:
  """One search over parts of such lengths."""
  starts = np.cumsum( [ base, *lengths ] ) & 0xFFFFFFFF
  return [ Vec( "ARGMAX", length=n, mode=int( k == 0 ), param=int( starts[k] ), **fields )
           for k, n in enumerate( lengths ) ]

# What follows what in a program, in place where it can be.
NORM   = chain( Vec( "RMSNORM" ), Vec( "QUANTIZE", dst="src" ), rows=3, length=10 )
HEADS  = chain( Vec( "ROPE", dst="src" ), Vec( "QUANTIZE", dst="src" ), rows=2, segments=3, length=16 )
MLP    = chain( Vec( "SWIGLU" ), Vec( "QUANTIZE", dst="src", mode=8 ), rows=2, length=13 )
SUM    = chain( Vec( "ADD", dst="src2" ), Vec( "RMSNORM" ), Vec( "CONVERT", mode=C.FP32_BF16, dst="src" ),
                Vec( "CONVERT", mode=C.BF16_FP32, dst="src" ), Vec( "ADD", src2="last", dst="src" ),
                Vec( "QUANTIZE", dst="src" ), rows=2, length=11 )
# Every operation, on what the one before left: as few rows as can be, so that a write is read at once.
HASTY  = chain( Vec( "COPY" ), Vec( "SCALE", dst="src" ), Vec( "ADD", dst="src" ), Vec( "MUL", dst="src" ),
                Vec( "SWIGLU", dst="src" ), Vec( "RMSNORM", dst="src" ), Vec( "SOFTMAX", dst="src" ),
                Vec( "CONVERT", mode=C.FP32_FP16, dst="src" ), Vec( "CONVERT", mode=C.FP16_FP32, dst="src" ),
                Vec( "ARGMAX", mode=1 ), Vec( "QUANTIZE", dst="src" ), Vec( "COPY" ), length=4 )
# Second operands that have just been written: a gain, a ROPE table, a summand.
SECOND = [ Vec( "COPY", length=9 ), Vec( "RMSNORM", rows=2, length=9, src2="last" ),
           Vec( "COPY", rows=2, length=5, data="bits", gap=0 ),
           Vec( "ROPE", rows=2, length=10, segments=2, src2="last" ),
           Vec( "SCALE", rows=2, length=6 ), Vec( "MUL", rows=2, length=6, src2="last", dst="src2" ),
           Vec( "SWIGLU", rows=2, length=6, src2="last", dst="src2" ) ]
# SWIGLU's results come late, and then they are second operands of the next one.
LATE   = [ Vec( "SWIGLU", length=4 ), Vec( "SWIGLU", length=4, src2="last" ), Vec( "ADD", length=4, src2="last" ),
           Vec( "SWIGLU", rows=2, length=6 ), Vec( "SWIGLU", rows=2, length=6, src2="last", dst="src2" ),
           Vec( "SWIGLU", rows=2, length=6, src2="last" ), Vec( "MUL", rows=2, length=6, src2="last" ) ]
# One place is written again and again: the last one counts.
AGAIN  = [ Vec( "COPY", rows=2, length=9, data=kind, dst=At( 3000, 3 ) ) for kind in ( "bits", "zero", "any" ) ]

# A place that one command reads and the next one writes.
PLACE  = At( 3000, 4 )
REUSE  = [ Vec( "COPY", rows=2, length=9, dst=PLACE ), Vec( "ADD", rows=2, length=9, src2=PLACE ),
           Vec( "COPY", rows=2, length=9, dst=PLACE ), Vec( "ROPE", rows=2, length=18, src2=PLACE ),
           Vec( "SCALE", rows=2, length=9, dst=PLACE ), Vec( "RMSNORM", rows=2, length=9, src2=PLACE ),
           Vec( "MUL", rows=2, length=9, dst=PLACE ), Vec( "SWIGLU", rows=2, length=9, src2=PLACE ),
           Vec( "COPY", rows=2, length=9, dst=PLACE ), Vec( "QUANTIZE", rows=2, length=9, src=PLACE ),
           Vec( "COPY", rows=2, length=9, dst=PLACE ), Vec( "SOFTMAX", rows=2, length=9, src=PLACE ) ]
# A search whose parts come to the same place one after the other.
PARTS  = [ v for k in range( 4 ) for v in ( Vec( "COPY", length=9, data="any", dst=PLACE ),
                                            Vec( "ARGMAX", length=9, src=PLACE, mode=int( k == 0 ), param=9 * k ) ) ]

SLOW_IN, SLOW_ACK, SLOW_DONE = Timing( source=70 ), Timing( ack=60 ), Timing( done=60 )

HEAVY = Timing( stall_seed=8, stalled=0.7 )

def stalls( seed: int ) -> Timing:
  return Timing( stall_seed=seed )

ROWS: list[tuple[str, list[Vec], Timing]] = [
  # name                  commands                                                                  timing
  ( "copy",               [ Vec( "COPY" ) ],                                                        CALM ),
  ( "add",                [ Vec( "ADD", rows=2, length=10 ) ],                                      CALM ),
  ( "mul",                [ Vec( "MUL", rows=2, length=10 ) ],                                      CALM ),
  ( "scale",              [ Vec( "SCALE", rows=2, length=10 ) ],                                    CALM ),
  ( "swiglu",             [ Vec( "SWIGLU", rows=2, length=10 ) ],                                   CALM ),
  ( "quantize_16",        [ Vec( "QUANTIZE", rows=2, length=10 ) ],                                 CALM ),
  ( "quantize_8",         [ Vec( "QUANTIZE", rows=2, length=10, mode=8 ) ],                         CALM ),
  ( "rmsnorm",            [ Vec( "RMSNORM", rows=2, length=10 ) ],                                  CALM ),
  ( "rope",               [ Vec( "ROPE", rows=2, segments=2, length=16 ) ],                         CALM ),
  ( "softmax",            [ Vec( "SOFTMAX", rows=2, length=10 ) ],                                  CALM ),
  ( "argmax",             search( 10 ),                                                             CALM ),
  ( "to_bf16",            [ Vec( "CONVERT", rows=2, length=10, mode=C.FP32_BF16 ) ],                CALM ),
  ( "to_fp16",            [ Vec( "CONVERT", rows=2, length=10, mode=C.FP32_FP16 ) ],                CALM ),
  ( "from_bf16",          [ Vec( "CONVERT", rows=2, length=10, mode=C.BF16_FP32, data="small" ) ],  CALM ),
  ( "from_fp16",          [ Vec( "CONVERT", rows=2, length=10, mode=C.FP16_FP32, data="small" ) ],  CALM ),
  # Sizes: one lane, whole rows, m_max rows, segments with and without a tail, no gap.
  ( "one_lane",           [ Vec( op, length=1, mode=16 if op != "ARGMAX" else 1 ) for op in
                            ( "COPY", "ADD", "QUANTIZE", "RMSNORM", "SOFTMAX", "SWIGLU", "ARGMAX" ) ],  CALM ),
  ( "whole_rows",         [ Vec( op, length=16, rows=2, gap=0 ) for op in
                            ( "COPY", "MUL", "QUANTIZE", "RMSNORM", "SOFTMAX", "SWIGLU" ) ],        CALM ),
  ( "tails",              [ Vec( op, length=n, segments=2 ) for op in ( "ADD", "QUANTIZE", "RMSNORM", "SOFTMAX" )
                            for n in ( 5, 6, 7, 17 ) ],                                             CALM ),
  ( "m_max_copy",         [ Vec( "COPY", rows=16, length=5 ) ],                                     CALM ),
  ( "m_max_norm",         [ Vec( "RMSNORM", rows=16, length=9 ), Vec( "QUANTIZE", rows=16, src="last", length=9 ) ],
                                                                                                    CALM ),
  ( "m_max_softmax",      [ Vec( "SOFTMAX", rows=16, length=6 ) ],                                  CALM ),
  ( "heads_norm",         [ Vec( "RMSNORM", rows=2, segments=3, length=10 ) ],                      CALM ),
  ( "many_segments",      [ Vec( "QUANTIZE", rows=2, segments=18, length=8 ), Vec( "SOFTMAX", segments=9, length=3 ),
                            Vec( "COPY", segments=255, length=2 ) ],                                CALM ),
  ( "rope_odd_half",      [ Vec( "ROPE", rows=2, segments=2, length=2 * half ) for half in ( 1, 3, 5, 7, 9 ) ], CALM ),
  ( "rope_table_bits",    [ Vec( "ROPE", rows=3, length=12, data2="bits" ) ],                       CALM ),
  ( "long",               [ Vec( op, length=200, mode=16 if op != "ARGMAX" else 1 ) for op in
                            ( "QUANTIZE", "RMSNORM", "SOFTMAX", "SWIGLU", "ARGMAX", "ROPE" ) ],     CALM ),
  ( "rows_in_one_place",  [ Vec( "COPY", rows=3, length=9, dst=At( 3000, 0 ) ),
                            Vec( "ADD", rows=3, length=9, src2=At( 3000, 0 ) ),
                            Vec( "RMSNORM", rows=3, length=9, src=At( 3000, 0 ) ),
                            Vec( "QUANTIZE", rows=3, length=9, src=At( 3000, 0 ) ) ],               CALM ),
  ( "rows_interleaved",   [ Vec( "COPY", rows=4, length=6, gap=-1 ), Vec( "SOFTMAX", rows=3, length=6, gap=-1 ) ],
                                                                                                    CALM ),
  # Values.
  ( "bits",               each( "COPY", "bits", rows=2, segments=2, length=7 ),                     CALM ),
  ( "values_add",         each( "ADD", "wide", "tiny", "zero", "edge", "ends", length=12, data2="wide" )
                          + [ Vec( "ADD", length=12, data=k, data2=k ) for k in ( "tiny", "zero", "edge", "huge" ) ],
                                                                                                    CALM ),
  ( "values_mul",         each( "MUL", "wide", "tiny", "zero", "edge", length=12, data2="wide" )
                          + each( "MUL", "ends", length=12, data2="unit" ),                         CALM ),
  ( "values_scale",       [ Vec( "SCALE", length=12, data=k, param=p ) for k in ( "wide", "tiny", "zero", "edge" )
                            for p in ( 1.0, -1e-20, 0.0, 1e15 ) ],                                  CALM ),
  ( "values_swiglu",      each( "SWIGLU", "wide", "tiny", "zero", "edge", "scores", "negative", rows=2, length=12 )
                          + each( "SWIGLU", "ends", rows=2, length=12, data2="unit" ),              CALM ),
  ( "values_quantize",    [ Vec( "QUANTIZE", length=12, data=k, mode=b ) for b in ( 8, 16 ) for k in
                            ( "wide", "any", "tiny", "zero", "edge", "ends", "equal", "full" ) ],   CALM ),
  ( "values_rmsnorm",     each( "RMSNORM", "wide", "any", "tiny", "zero", "edge", "ends", "equal", "full", "huge",
                                length=12, data2="unit" )
                          + each( "RMSNORM", "any", "tiny", "zero", length=12, data2="unit", eps=0.0 ),  CALM ),
  ( "values_rope",        each( "ROPE", "wide", "tiny", "zero", "edge", "rope", length=12 )
                          + each( "ROPE", "wide", "tiny", "edge", length=12, data2="bits" ),        CALM ),
  ( "values_softmax",     each( "SOFTMAX", "scores", "extreme", "tiny", "zero", "edge", "equal", "negative", length=12 )
                          + [ Vec( "SOFTMAX", length=12, data="scores", param=p ) for p in ( 0.0, -0.05, 30.0, 1e-9 ) ],
                                                                                                    CALM ),
  ( "values_argmax",      [ v for k in ( "any", "zero", "equal", "ties", "negative", "tiny", "ends", "edge" )
                            for v in search( 11, 7, data=k ) ],                                     CALM ),
  ( "values_to_small",    [ Vec( "CONVERT", length=16, data=k, mode=m ) for m in ( C.FP32_BF16, C.FP32_FP16 ) for k in
                            ( "any", "tiny", "edge", "ends", "random", "zero", "halves" ) ],        CALM ),
  ( "values_from_small",  [ Vec( "CONVERT", rows=2, length=40, data="small", mode=m )
                            for m in ( C.BF16_FP32, C.FP16_FP32 ) ],                                CALM ),
  ( "norm_constants",     [ Vec( "RMSNORM", rows=2, length=10, param=p, eps=e ) for p, e in
                            ( ( 1.0, 1.0 ), ( 1e-30, 1e-5 ), ( 1e30, 0.0 ), ( 0.0, 1e20 ) ) ],      CALM ),
  # The bounds of docs/vector_unit.md, within which nothing becomes infinite.
  ( "bounds",             [ Vec( "ADD", length=12, data="huge", data2="huge" ),
                            Vec( "MUL", length=12, data="large", data2="large" ),
                            Vec( "SWIGLU", length=12, data="large", data2="large" ),
                            Vec( "ROPE", length=12, data="rope", data2="bits" ),
                            *each( "SOFTMAX", "any", "ends", "huge", length=12 ),
                            *( Vec( "RMSNORM", length=12, data=k, data2="gain", param=p, eps=e )
                               for k in ( "any", "ends", "tiny" ) for p in ( 1.0, 2.0 ** -20 )
                               for e in ( 0.0, 2.0 ** 99 ) ) ],                                     CALM ),
  # Searches.
  ( "search",             search( 9, 6, 12, base=100 ),                                             CALM ),
  ( "search_ties",        search( 5, 4, 1, 8, data="ties" ) + search( 3, 3, data="equal" ),         CALM ),
  ( "search_zeros",       search( 4, 9, 5, data="zero" ),                                           CALM ),
  ( "search_wraps",       search( 5, 6, 7, base=0xFFFFFFF8 ) + search( 9, base=0xFFFFFFFC, data="negative" ), CALM ),
  ( "search_not_begun",   [ Vec( "ARGMAX", length=9, mode=0, data="negative" ) ],                   CALM ),
  ( "search_interrupted", [ *search( 9, 6 ), Vec( "ADD" ), Vec( "SOFTMAX" ),
                            Vec( "ARGMAX", length=5, mode=0, data="negative", param=15 ), Vec( "QUANTIZE" ),
                            Vec( "ARGMAX", length=5, mode=0, param=20 ) ],                          CALM ),
  ( "search_rows",        [ Vec( "ARGMAX", rows=16, length=9, mode=1 ) ],                           CALM ),
  # One command after the other, on the same data.
  ( "norm",               NORM,                                                                     CALM ),
  ( "heads",              HEADS,                                                                    CALM ),
  ( "mlp",                MLP,                                                                      CALM ),
  ( "sum",                SUM,                                                                      CALM ),
  ( "hasty",              HASTY,                                                                    CALM ),
  ( "second",             SECOND,                                                                   CALM ),
  ( "late",               LATE,                                                                     CALM ),
  ( "late_stalls",        LATE,                                                                     stalls( 9 ) ),
  ( "again",              AGAIN,                                                                    CALM ),
  ( "reuse",              REUSE,                                                                    CALM ),
  ( "parts",              PARTS,                                                                    CALM ),
  ( "norm_stalls",        NORM * 2,                                                                 stalls( 1 ) ),
  ( "heads_stalls",       HEADS * 2,                                                                stalls( 2 ) ),
  ( "sum_stalls",         SUM,                                                                      stalls( 3 ) ),
  ( "hasty_stalls",       HASTY,                                                                    stalls( 4 ) ),
  ( "second_stalls",      SECOND,                                                                   stalls( 5 ) ),
  ( "reuse_stalls",       REUSE,                                                                    stalls( 6 ) ),
  ( "parts_stalls",       PARTS * 2,                                                                stalls( 7 ) ),
  ( "reuse_heavy",        REUSE,                                                                    HEAVY ),
  ( "hasty_heavy",        HASTY,                                                                    HEAVY ),
  ( "segments_heavy",     [ Vec( "QUANTIZE", rows=2, segments=18, length=3 ), Vec( "RMSNORM", segments=9, length=3 ),
                            Vec( "QUANTIZE", segments=9, length=7 ) ],                              HEAVY ),
  ( "again_wild",         AGAIN + NORM,                                                             WILD ),
  ( "hasty_wild",         HASTY + HASTY[::-1][1:],                                                  WILD ),
  ( "independent",        [ Vec( "ADD", rows=2 ), Vec( "SOFTMAX", rows=2 ), Vec( "ROPE", length=6, rows=2 ),
                            Vec( "RMSNORM", rows=2 ), *search( 6 ), Vec( "SWIGLU" ), Vec( "COPY" ) ],  CALM ),
  ( "independent_wild",   [ Vec( "ADD", rows=2 ), Vec( "SOFTMAX", rows=2 ), Vec( "ROPE", length=6, rows=2 ),
                            Vec( "RMSNORM", rows=2 ), *search( 6 ), Vec( "SWIGLU" ), Vec( "COPY" ) ],  WILD ),
  ( "source_delay",       [ Vec( "COPY" ), Vec( "RMSNORM" ), Vec( "ADD" ) ],                        SLOW_IN ),
  ( "ack_delay",          [ Vec( "COPY", length=2 ) ] * 8,                                          SLOW_ACK ),
  ( "done_delay",         [ Vec( "COPY", length=2 ), *search( 3, 4 ) ] * 3,                         SLOW_DONE ),
]

# In Python the RTL does less than a hundred cycles a second: every operation, in the order of these rows, in every run;
# the others only nightly. All of them run as Verilog.
QUICK = ( "hasty_wild", "heads", "one_lane", "rope_odd_half", "search_ties", "second_stalls", "values_argmax", "sum" )

def cases( *names: str, levels: tuple[str, ...] = LEVELS, quick: tuple[str, ...] = QUICK ) -> list:
  """( level, commands, timing ) of the rows of those names, or of all."""
  return [ pytest.param( level, commands, timing, id=f"{name}-{level}",
                         marks=[ pytest.mark.nightly ] if level == "rtl" and name not in quick else [] )
           for name, commands, timing in ROWS if not names or name in names for level in levels ]

def checked( cfg: NpuConfig, level: str, world: World, timing: Timing, opts: dict | None = None, **kwargs: Any ) -> Run:
  """A run whose results are right and whose cycles are those of CL."""
  found = simulate( cfg, level, world, timing, opts=opts, **kwargs )
  check_cycles( cfg, level, world, timing, found )
  return found

@pytest.mark.parametrize( ( "level", "commands", "timing" ), cases() )
def test_rows( level, commands, timing, cmdline_opts ):
  cfg = PRESETS["edge4"]
  checked( cfg, level, World( cfg, commands ), timing, cmdline_opts )

@pytest.mark.parametrize( ( "level", "commands", "timing" ), cases(
  "one_lane", "tails", "rope_odd_half", "values_softmax", "values_argmax", "search_ties", "sum", "hasty_wild",
  "second_stalls", "independent_wild", quick=( "sum", ) ) )
def test_rows_n8( level, commands, timing, cmdline_opts ):
  cfg = PRESETS["edge8"]
  checked( cfg, level, World( cfg, commands ), timing, cmdline_opts )

@pytest.mark.parametrize( ( "level", "commands", "timing" ), cases( levels=( "fl", "cl", "verilog" ) ) )
def test_rows_n16( level, commands, timing, cmdline_opts ):
  cfg = PRESETS["edge16"]
  checked( cfg, level, World( cfg, commands ), timing, cmdline_opts )

# The default, above, is random initial state.
@pytest.mark.parametrize( "x_initial", ( "zeros", "ones" ) )
@pytest.mark.parametrize( ( "level", "commands", "timing" ), cases( levels=( "verilog", ) ) )
def test_initial_state( level, x_initial, commands, timing, cmdline_opts ):
  cfg = PRESETS["edge4"]
  checked( cfg, level, World( cfg, commands ), timing, cmdline_opts, x_initial=x_initial )

# Levels of tests with many cases: all of them, the slow one nightly.
NIGHTLY_RTL = ( "fl", "cl", pytest.param( "rtl", marks=pytest.mark.nightly ), "verilog" )

# Other sizes than the presets', all at once: each is a model for Verilator to build.
SMALL = replace( PRESETS["edge4"], m_max=3, k_max=256, spad_bytes=1 << 14 )

@pytest.mark.parametrize( ( "level", "m_max" ), [
  ( "fl", 3 ), ( "cl", 3 ), ( "rtl", 3 ), ( "verilog", 3 ), ( "cl", 1 ), ( "cl", 64 ),
  pytest.param( "rtl", 1, marks=pytest.mark.nightly ), pytest.param( "rtl", 64, marks=pytest.mark.nightly ) ] )
def test_other_row_counts( level, m_max, cmdline_opts ):
  """m_max is a parameter, and a row more is refused."""
  cfg   = replace( SMALL, m_max=m_max )
  world = World( cfg, [ Vec( "RMSNORM", rows=m_max, length=5 ), Vec( "COPY", rows=m_max, length=5 ),
                        Vec( "ADD", length=3 ) ] )
  checked( cfg, level, world, CALM, cmdline_opts )
  world.messages.insert( 1, changed( world.messages[0], rows=m_max + 1 ) )
  simulate( cfg, level, world, errors=[ Error.NONE, Error.BAD_SIZE, Error.NONE, Error.NONE ], opts=cmdline_opts )

@pytest.mark.parametrize( "level", ( "fl", "cl", "verilog" ) )
@pytest.mark.parametrize( "data", ( "full", "equal", "zero" ) )
def test_longest_norm( level, data ):
  """k_max elements of the largest magnitude: the sum of squares has all of its bits; one more is refused."""
  v     = Vec( "RMSNORM", length=SMALL.k_max, data=data )
  world = World( SMALL, [ v, replace( v, segments=2 ) ] )
  checked( SMALL, level, world, CALM )
  world.messages.insert( 1, changed( world.messages[0], length=SMALL.k_max + 1 ) )
  simulate( SMALL, level, world, errors=[ Error.NONE, Error.BAD_SIZE, Error.NONE ] )

@pytest.mark.parametrize( "level", ( "fl", "cl", "verilog" ) )
@pytest.mark.parametrize( "op", ( "SOFTMAX", "QUANTIZE", "ARGMAX" ) )
def test_whole_scratchpad( level, op ):
  """One segment that is all of the scratchpad: the largest sum of probabilities that fits, the last row."""
  v     = Vec( op, length=SMALL.spad_bytes // 4, mode=1 if op == "ARGMAX" else 16, src=At( 0, 0 ), dst=At( 0, 0 ) )
  v     = replace( v, param=1e-12 ) if op == "SOFTMAX" else v
  world = World( SMALL, [ v ], fill=SMALL.derived.spad_rows )
  checked( SMALL, level, world, CALM )

@pytest.mark.nightly
@pytest.mark.parametrize( "level", ( "fl", "cl", "verilog" ) )
def test_longest_softmax( level ):
  """As many elements as the length field holds, each with a probability of 1 before they are normalised."""
  cfg   = replace( PRESETS["edge16"], spad_bytes=1 << 23 )
  world = World( cfg, [ Vec( "SOFTMAX", length=( 1 << 20 ) - 1, data="zero", dst="src", gap=-1 ) ] )
  checked( cfg, level, world, CALM, max_cycles=2_000_000 )

#-------------------------------------------------------------------------
# Random commands and timing
#-------------------------------------------------------------------------

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
  kinds  = ( "small", ) if op == "CONVERT" and mode in ( C.BF16_FP32, C.FP16_FP32 ) else KINDS[op]
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

#-------------------------------------------------------------------------
# Against what others compute: numpy's float32 and float64, Python's integers
#-------------------------------------------------------------------------

TINY = np.float32( 2.0 ** -126 )

def flushed( x: np.ndarray ) -> np.ndarray:
  return np.where( np.abs( x ) < TINY, np.copysign( np.float32( 0 ), x ), x )

def exactly( function: Callable[..., np.ndarray] ) -> Callable[..., None]:
  """Compares with float32 operations, each result flushed."""
  def compare( out: np.ndarray, *operands: np.ndarray ) -> None:
    expect = flushed( function( *operands ) ).astype( np.float32 )
    assert np.array_equal( out.view( np.uint32 ), expect.view( np.uint32 ) )
  return compare

def within( bound: float, function: Callable[..., np.ndarray] ) -> Callable[..., None]:
  """Compares with float64; the bound is relative to the largest result."""
  def compare( out: np.ndarray, *operands: np.ndarray ) -> None:
    expect = function( *( x.astype( np.float64 ) for x in operands ) )
    assert np.abs( out - expect ).max() <= bound * np.abs( expect ).max()
  return compare

def softmax64( x: np.ndarray ) -> np.ndarray:
  p = np.exp( x - x.max( axis=-1, keepdims=True ) )
  return p / p.sum( axis=-1, keepdims=True )

def is_quantised( out: np.ndarray, x: np.ndarray ) -> None:
  """Python's own integers and rounding, element by element."""
  for row, lanes in zip( x, out.view( np.uint32 ), strict=True ):
    exponent = max( int( v.view( np.uint32 ) ) >> 23 & 0xFF for v in row )
    for v, lane in zip( row, lanes, strict=True ):
      q = max( -32767, min( 32767, round( float( v ) * 2.0 ** ( 127 + 14 - exponent ) ) ) )
      assert int( lane ) == ( exponent << 16 | q & 0xFFFF )

def silu64( x: np.ndarray ) -> np.ndarray:
  return x / ( 1 + np.exp( -x ) )

OTHERS: dict[str, tuple[Vec, Callable[..., None]]] = {
  "add":      ( Vec( "ADD", data="wide", data2="wide" ),          exactly( np.add ) ),
  "mul":      ( Vec( "MUL", data="wide", data2="wide" ),          exactly( np.multiply ) ),
  "scale":    ( Vec( "SCALE", data="wide", param=-0.3 ),          exactly( lambda x: x * np.float32( -0.3 ) ) ),
  "quantize": ( Vec( "QUANTIZE", data="random" ),                 is_quantised ),
  "to_bf16":  ( Vec( "CONVERT", data="wide", mode=C.FP32_BF16 ),
                lambda out, x: np.testing.assert_array_equal( out.view( np.uint32 ),
                                                              x.astype( ml_dtypes.bfloat16 ).view( np.uint16 ) ) ),
  "rmsnorm":  ( Vec( "RMSNORM", eps=1e-6 ),
                within( 1e-5, lambda x, g: x / np.sqrt( np.mean( x * x, axis=-1, keepdims=True ) + 1e-6 ) * g[:1] ) ),
  "swiglu":   ( Vec( "SWIGLU" ),                                  within( 4e-4, lambda x, y: silu64( x ) * y ) ),
  "softmax":  ( Vec( "SOFTMAX" ),                                 within( 1e-3, softmax64 ) ),
}

@pytest.mark.parametrize( "level", NIGHTLY_RTL )
@pytest.mark.parametrize( "name", OTHERS )
def test_against_others( level, name ):
  """Results in the scratchpad against numpy, not against fl/."""
  cfg, ( v, compare ) = PRESETS["edge4"], OTHERS[name]
  rows, length, width = 3, 12, 3
  world = World( cfg, [ replace( v, rows=rows, length=length, gap=0 ) ] )
  found = simulate( cfg, level, world )
  def matrix( spad: np.ndarray, at: Any, count: int = rows ) -> np.ndarray:
    return spad[int( at ) : int( at ) + count * width].reshape( count, length ).view( np.float32 )
  msg = world.messages[0]
  operands = [ matrix( world.spad, msg.src ) ]
  if v.op in ( "ADD", "MUL", "SWIGLU", "RMSNORM" ):
    operands.append( matrix( world.spad, msg.src2, 1 if v.op == "RMSNORM" else rows ) )
  compare( matrix( found.rows, msg.dst ), *operands )

@pytest.mark.parametrize( "level", NIGHTLY_RTL )
def test_argmax_against_numpy( level ):
  """A search over parts is one over the whole."""
  cfg   = PRESETS["edge4"]
  world = World( cfg, search( 9, 14, 3, 8, data="ties", gap=0 ) )
  found = simulate( cfg, level, world )
  parts = [ found.rows.reshape( -1 )[int( m.src ) * cfg.n :][: int( m.length )].view( np.float32 )
            for m in world.messages ]
  so_far = [ np.concatenate( parts[: k + 1] ) for k in range( len( parts ) ) ]
  assert [ e.done for e in world.effects ] == [ int( np.argmax( x ) ) for x in so_far ]

#-------------------------------------------------------------------------
# Cycles
#-------------------------------------------------------------------------

# A scratchpad that never stalls, at n = 4; from reset to the last completion.
CYCLES = {
  "copy":    21,     # mostly the check of the command, seven cycles, and the lanes, eight
  "add":     25,     # 6 rows
  "swiglu":  57,     # 6 rows, 4 cycles each
  "rmsnorm": 72,
  "softmax": 83,
  "argmax":  22,
  "heads":   72,     # 24 rows, twice
  "tails":   535,
  "hasty":   196,
}

@pytest.mark.parametrize( "level", ( "cl", "verilog" ) )
@pytest.mark.parametrize( "name", sorted( CYCLES ) )
def test_cycles( level, name ):
  cfg   = PRESETS["edge4"]
  world = World( cfg, next( commands for row, commands, _ in ROWS if row == name ) )
  assert simulate( cfg, level, world ).cycles == CYCLES[name]

# Passes over a long segment, at a row a cycle: for maxima, sums and results. SWIGLU has n/4 special-function pipes.
PASSES = { "COPY": 1, "ADD": 1, "MUL": 1, "SCALE": 1, "CONVERT": 1, "ROPE": 1, "ARGMAX": 1, "QUANTIZE": 1, "RMSNORM": 2,
           "SOFTMAX": 3, "SWIGLU": 4 }

@pytest.mark.parametrize( "level", ( "cl", "verilog" ) )
@pytest.mark.parametrize( "segments", ( 1, 5 ) )
@pytest.mark.parametrize( "op", sorted( PASSES ) )
def test_no_bubbles( level, op, segments ):
  """Ten more rows in each segment cost just their passes, and the scan of the first segment for exponents."""
  cfg   = PRESETS["edge4"]
  count = 1 if op == "ARGMAX" else segments
  mode  = { "QUANTIZE": 16, "ARGMAX": 1 }.get( op, 0 )
  short, long = ( simulate( cfg, level, World( cfg, [ Vec( op, length=length, segments=segments, mode=mode ) ] ) )
                  for length in ( 200, 240 ) )
  scan  = 1 if op in ( "QUANTIZE", "RMSNORM" ) else 0
  assert long.cycles - short.cycles == 10 * ( PASSES[op] * count + scan )

@pytest.mark.nightly
@pytest.mark.level( "verilog" )
def test_cycle_table():
  """The table of docs/cycles.md, which is measured on CL, is that of the Verilog."""
  assert section( "verilog" ) == section( "cl" )

@pytest.mark.parametrize( "level", ( "cl", "verilog" ) )
def test_two_commands_wait( level ):
  """Commands are taken and answered while an earlier one is at work."""
  cfg   = PRESETS["edge4"]
  found = simulate( cfg, level, World( cfg, [ Vec( "SOFTMAX", rows=8, length=40 ), Vec( "COPY" ), Vec( "ADD" ) ] ) )
  assert found.commands[2] < found.dones[0]
  assert found.acks[2] < found.dones[0]

#-------------------------------------------------------------------------
# Bad commands
#-------------------------------------------------------------------------

def changed( msg: Any, **fields: int ) -> Any:
  """A copy of a command with other fields."""
  copy = msg.clone()
  for name, value in fields.items():
    setattr( copy, name, type( getattr( copy, name ) )( value ) )
  return copy

TOP = PRESETS["edge4"].derived.spad_rows

# By name: the command, what is changed in it, the error. Where several things are wrong the first one counts.
BAD: list[tuple[str, Vec, dict[str, int], Error]] = [
  ( "no_rows",             Vec( "ADD" ),               { "rows": 0 },                              Error.ZERO_SIZE ),
  ( "no_length",           Vec( "SOFTMAX" ),           { "length": 0 },                            Error.ZERO_SIZE ),
  ( "no_segments",         Vec( "MUL" ),               { "segments": 0 },                          Error.ZERO_SIZE ),
  ( "argmax_no_rows",      Vec( "ARGMAX", mode=1 ),    { "rows": 0 },                              Error.ZERO_SIZE ),
  ( "argmax_no_length",    Vec( "ARGMAX", mode=1 ),    { "length": 0 },                            Error.ZERO_SIZE ),
  ( "bits_0",              Vec( "QUANTIZE" ),          { "mode": 0 },                              Error.BAD_FIELD ),
  ( "bits_12",             Vec( "QUANTIZE" ),          { "mode": 12 },                             Error.BAD_FIELD ),
  ( "bits_24",             Vec( "QUANTIZE" ),          { "mode": 24 },                             Error.BAD_FIELD ),
  ( "bits_272",            Vec( "QUANTIZE" ),          { "mode": 0x88 },                           Error.BAD_FIELD ),
  ( "many_rows",           Vec( "COPY" ),              { "rows": 17 },                             Error.BAD_SIZE ),
  ( "most_rows",           Vec( "COPY" ),              { "rows": 255 },                            Error.BAD_SIZE ),
  ( "argmax_many_rows",    Vec( "ARGMAX", mode=1 ),    { "rows": 17 },                             Error.BAD_SIZE ),
  ( "odd_head",            Vec( "ROPE" ),              { "length": 7 },                            Error.BAD_SIZE ),
  ( "head_of_one",         Vec( "ROPE" ),              { "length": 1 },                            Error.BAD_SIZE ),
  ( "long_norm",           Vec( "RMSNORM" ),           { "length": 32769 },                        Error.BAD_SIZE ),
  ( "size_before_field",   Vec( "QUANTIZE" ),          { "mode": 5, "length": 0 },                 Error.ZERO_SIZE ),
  ( "field_before_rows",   Vec( "QUANTIZE" ),          { "mode": 5, "rows": 17 },                  Error.BAD_FIELD ),
  ( "rows_before_place",   Vec( "ADD" ),               { "rows": 17, "src": TOP },                 Error.BAD_SIZE ),
  ( "odd_before_place",    Vec( "ROPE" ),              { "length": 9, "dst": TOP },                Error.BAD_SIZE ),
  ( "src_one_past",        Vec( "COPY", length=9 ),    { "src": TOP - 2 },                         Error.BAD_SPAD ),
  ( "src_far",             Vec( "COPY" ),              { "src": 0xFFFFFF },                        Error.BAD_SPAD ),
  ( "src_stride",          Vec( "COPY", rows=2 ),      { "src": 0, "src_stride": TOP - 1 },        Error.BAD_SPAD ),
  ( "src_strides",         Vec( "COPY", rows=16 ),     { "src_stride": 0xFFFF },                   Error.BAD_SPAD ),
  ( "src_length",          Vec( "COPY" ),              { "length": ( 1 << 20 ) - 1 },              Error.BAD_SPAD ),
  ( "src_segments",        Vec( "COPY", length=200 ),  { "segments": 255 },                        Error.BAD_SPAD ),
  ( "all_at_once",         Vec( "COPY", rows=16 ),     { "length": ( 1 << 20 ) - 1, "segments": 255, "src": 0xFFFFFF,
                                                         "src_stride": 0xFFFF },                   Error.BAD_SPAD ),
  ( "wraps_24",            Vec( "COPY" ),              { "length": 1 << 18, "segments": 255, "src": 0xFFFFFF },
                                                                                                   Error.BAD_SPAD ),
  ( "dst_one_past",        Vec( "ADD", length=9 ),     { "dst": TOP - 2 },                         Error.BAD_SPAD ),
  ( "dst_far",             Vec( "SCALE" ),             { "dst": TOP },                             Error.BAD_SPAD ),
  ( "dst_stride",          Vec( "QUANTIZE", rows=2 ),  { "dst": 1, "dst_stride": TOP - 2 },        Error.BAD_SPAD ),
  ( "src2_one_past",       Vec( "MUL", length=9 ),     { "src2": TOP - 2 },                        Error.BAD_SPAD ),
  ( "src2_stride",         Vec( "SWIGLU", rows=2 ),    { "src2": 1, "src2_stride": TOP - 2 },      Error.BAD_SPAD ),
  ( "gain_one_past",       Vec( "RMSNORM", length=9 ), { "src2": TOP - 2 },                        Error.BAD_SPAD ),
  ( "table_one_past",      Vec( "ROPE", length=10 ),   { "src2": TOP - 1 },                        Error.BAD_SPAD ),
  ( "rope_half_past",      Vec( "ROPE", length=10 ),   { "src": TOP - 3 },                         Error.BAD_SPAD ),
  ( "rope_dst_past",       Vec( "ROPE", length=2 ),    { "dst": TOP - 1 },                         Error.BAD_SPAD ),
  ( "argmax_one_past",     Vec( "ARGMAX", mode=1 ),    { "src": TOP - 1 },                         Error.BAD_SPAD ),
  ( "convert_far",         Vec( "CONVERT", mode=0 ),   { "dst": TOP - 1 },                         Error.BAD_SPAD ),
]

def bad_world( cfg: NpuConfig, v: Vec, changes: dict[str, int] ) -> tuple[World, Any]:
  """A search before and after a bad command of that kind, and the bad command."""
  bad = changed( World( cfg, [ v ] ).messages[0], **changes )
  return World( cfg, [ Vec( "ADD", rows=2 ), *search( 7, data="ties" ), Vec( "ARGMAX", mode=0, length=3, param=7 ),
                       Vec( "RMSNORM" ) ] ), bad

@pytest.mark.parametrize( "level", NIGHTLY_RTL )
@pytest.mark.parametrize( ( "v", "changes", "error" ), [ pytest.param( *row, id=name ) for name, *row in BAD ] )
def test_bad_command( level, v, changes, error, cmdline_opts ):
  """A bad command between good ones is answered with its error, in order, and does nothing."""
  cfg = PRESETS["edge4"]
  world, bad = bad_world( cfg, v, changes )
  world.messages.insert( 2, bad )
  good  = Error.NONE
  errors = [ good, good, error, good, good ]
  found = simulate( cfg, level, world, errors=errors, opts=cmdline_opts )
  check_cycles( cfg, level, world, CALM, found, errors )

@pytest.mark.parametrize( ( "level", "timing" ), [
  pytest.param( level, timing, id=f"{name}-{level}", marks=[ pytest.mark.nightly ] if f"{name}-{level}" == "wild-rtl"
                else [] ) for level in LEVELS for name, timing in ( ( "calm", CALM ), ( "wild", WILD ) ) ] )
def test_bad_commands_in_a_row( level, timing, cmdline_opts ):
  """All of them, a good one after every third."""
  cfg    = PRESETS["edge4"]
  world  = World( cfg, [ Vec( "COPY", length=6 ), *search( 5, 6 ) ] * ( len( BAD ) // 9 ) )
  good   = iter( world.messages )
  mixed, errors = [], []
  for k, ( _, v, changes, error ) in enumerate( BAD ):
    mixed.append( bad_world( cfg, v, changes )[1] )
    errors.append( error )
    if k % 3 == 2 and ( msg := next( good, None ) ) is not None:
      mixed.append( msg )
      errors.append( Error.NONE )
  rest = list( good )
  world.messages, errors = mixed + rest, errors + [ Error.NONE ] * len( rest )
  found = simulate( cfg, level, world, timing, errors, cmdline_opts )
  check_cycles( cfg, level, world, timing, found, errors )

@pytest.mark.parametrize( "level", LEVELS )
def test_last_row( level, cmdline_opts ):
  """Operands and results that end with the scratchpad are accepted."""
  cfg = PRESETS["edge4"]
  put = [ Vec( "COPY", segments=2, length=4, dst=At( TOP - 8 + 2 * k, 0 ) ) for k in range( 4 ) ]
  end = [ Vec( "COPY", rows=2, length=9, src=At( TOP - 7, 4 ) ),
          Vec( "ADD", length=9, src2=At( TOP - 3, 9 ) ),
          Vec( "ROPE", length=10, src=At( TOP - 4, 1 ), src2=At( TOP - 2, 0xFFFF ) ),
          Vec( "ARGMAX", src=At( TOP - 2, 1 ) ),
          Vec( "RMSNORM", rows=2, length=6, src2=At( TOP - 2, 5 ) ),
          Vec( "QUANTIZE", rows=2, length=9, dst=At( TOP - 7, 4 ) ),
          Vec( "ROPE", length=10, dst=At( TOP - 4, 1 ) ),
          Vec( "COPY", src=At( TOP - 2, 0xFFFF ), dst=At( 0, 0xFFFF ) ) ]
  world = World( cfg, put + end )
  checked( cfg, level, world, CALM, cmdline_opts )

#-------------------------------------------------------------------------
# Reset
#-------------------------------------------------------------------------

@pytest.mark.parametrize( ( "level", "cycles" ), [
  pytest.param( level, cycles, marks=[ pytest.mark.nightly ] if level == "rtl" and cycles != 55 else [] )
  for level in LEVELS for cycles in ( 1, 4, 9, 17, 30, 55, 90, 120 ) ] )
def test_reset( level, cycles ):
  """A reset in the middle of anything: what was under way is gone, a search too, and a new run is as the first."""
  cfg    = PRESETS["edge4"]
  before = World( cfg, [ *search( 5, data="huge" ), Vec( "RMSNORM", rows=2, length=9 ), Vec( "SOFTMAX", length=9 ),
                         Vec( "ROPE", rows=2, length=10 ), *search( 9, data="huge" ), Vec( "SWIGLU", length=9 ) ], 1 )
  after  = World( cfg, [ Vec( "ARGMAX", mode=0, length=9, data="negative" ), Vec( "QUANTIZE", rows=2, length=9 ),
                         *chain( Vec( "RMSNORM" ), Vec( "QUANTIZE", dst="src" ), length=6 ) ] )
  found  = simulate_again( cfg, level, before, cycles, after )
  if level != "fl":
    assert found == simulate( cfg, level, after )
