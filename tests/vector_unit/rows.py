"""Commands that the vector unit must do, one after the other, and the timing around them: the table of its suite."""

from dataclasses import replace
from typing import Any

import numpy as np

from npu.arch.isa import Convert
from tests.vector_unit.world import CALM, WILD, At, Timing, Vec

C = Convert

#-------------------------------------------------------------------------
# Commands
#-------------------------------------------------------------------------

def chain( *commands: Vec, **shape: Any ) -> list[Vec]:
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

#-------------------------------------------------------------------------
# The table
#-------------------------------------------------------------------------

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
