"""The controller: one suite for all levels."""

import random
import struct
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from npu.arch.config import PRESETS, NpuConfig
from npu.arch.isa import FORMATS, Cond, Error, Field, Instruction, Rel, Status, Unit, encode, mk
from npu.arch.mailbox import Flag
from npu.compiler.program import assign_waits
from tests.controller.simulation import LEVELS, check_cycles, simulate
from tests.controller.world import (
  ALL_UNITS,
  CALM,
  CONTEXT,
  LINES,
  WILD,
  WRITABLE,
  Case,
  Timing,
  World,
  in_bytes,
  waiting,
)

#-------------------------------------------------------------------------
# Instructions
#-------------------------------------------------------------------------

PASS    = mk( "PASS", limit=8 )
EMBED   = mk( "EMBED", dram=64, dst=0, vocab=8, length=16, row_lines=1, dst_stride=4 )
LOAD    = mk( "LOAD", rows=1, dram=100, dst=40, length=16, dst_stride=4 )
STORE   = mk( "STORE", rows=1, dram=600, src=40, length=16, src_stride=4 )
GEMM    = mk( "GEMM", rows=1, dram=128, dst=80, src=90, k=16, cols=16 )
COPY    = mk( "COPY", rows=1, dst=100, src=110, segments=1, length=16 )
RMSNORM = mk( "RMSNORM", rows=1, dst=100, src=110, src2=120, segments=1, length=16, inv_length=1 / 16, eps=1e-6 )
ARGMAX  = mk( "ARGMAX", rows=1, src=7, length=16, base=3, first=1 )
ATT     = mk( "ATTEND", dram=700, dst=128, heads=2, kv_heads=1, src=140, src2=160, length=16, chunks=2, dst_stride=8,
              src_stride=16, factor=0.25 )
ADVANCE = mk( "ADVANCE" )
EMIT    = mk( "EMIT" )
HALT    = mk( "HALT", status=Status.SCORED )
WAIT    = mk( "WAIT" )

def jump( target: int, **operands: int ) -> Instruction:
  return mk( "JUMP", target=target, **operands )

def raw( i: Instruction, **fields: int ) -> bytes:
  """An instruction with fields set to bits that `encode` may not take."""
  words  = list( struct.unpack( "<8I", encode( i ) ) )
  places = { f.name: f for f in i.format.all_fields } | { "opcode": Field( "opcode", 0, 0, 8, "" ) }
  for name, value in fields.items():
    f = places[name]
    words[f.word] = words[f.word] & ~( ( ( 1 << f.width ) - 1 ) << f.low ) | value << f.low
  return struct.pack( "<8I", *words )

FAR = 0xFFFFFFFF

# Every unit at work.
BUSY = [ PASS, LOAD.but( length=200 ), EMBED, GEMM, COPY, ARGMAX, ATT, STORE.but( length=200, src=300 ) ]

def ordered( code: list[Instruction], n: int = 4 ) -> list[Instruction]:
  """A program with the compiler's wait masks."""
  return assign_waits( PRESETS[f"edge{n}"], code, PRESETS[f"edge{n}"].m_max )

# As the compiler writes them: passes over the prompt, then a token each.
LOOP = ordered( [
  PASS,                                                                          # 0
  EMBED,
  LOAD.but( rows=0, rel=Rel.POS, dram=200, row_lines=2, length=20, dst=70, dst_stride=5 ),
  RMSNORM.but( rows=0, src=0, src_stride=4, dst_stride=4 ),
  GEMM.but( rows=0, src=100, dst=200, src_stride=4, dst_stride=4, flags=1 ),
  mk( "ROPE", src=200, dst=200, src2=70, segments=1, length=16, src_stride=4, dst_stride=4, src2_stride=5 ),
  mk( "QUANTIZE", src=200, dst=200, segments=1, length=16, src_stride=4, dst_stride=4, bits=16 ),
  ATT.but( src=200, src2=400, dst=500 ),
  GEMM.but( rows=0, dram=160, src=500, dst=0, src2=0, src_stride=4, dst_stride=4, flags=2 ),
  ADVANCE,
  jump( 0, cond=Cond.PREFILL ),                                                  # 10
  COPY.but( cond=Cond.GENERATE, rel=Rel.LAST, src=0, dst=0, src_stride=4, dst_stride=4 ),
  mk( "SETROWS", cond=Cond.GENERATE, rows=1 ),
  GEMM.but( rows=0, src=0, dst=600, src_stride=4, dst_stride=20, cols=80 ),
  ARGMAX.but( src=600, length=80 ),
  STORE.but( cond=Cond.LOGITS, rows=0, dram=800, src=600, length=79, src_stride=20, row_lines=6 ),
  GEMM.but( rows=0, dram=300, src=0, dst=1000, src_stride=4, dst_stride=20, cols=80 ),
  ARGMAX.but( src=1000, length=78, first=0, base=80 ),
  HALT.but( cond=Cond.SCORE ),                                                   # 18
  EMIT,
  jump( 0 ) ] )

#-------------------------------------------------------------------------
# The table
#-------------------------------------------------------------------------

# In the order of Cond, before and after the ADVANCE that ends the prompt.
CONDITIONS = waiting( [
  PASS, *( STORE.but( cond=c, dram=600 + int( c ) ) for c in Cond ), ADVANCE,
  *( STORE.but( cond=c, dram=610 + int( c ) ) for c in Cond ), HALT ], Unit.STORE )

RELATIVE = [
  PASS.but( limit=2 ), ADVANCE, PASS.but( limit=3 ), ARGMAX,
  *( LOAD.but( rel=r, rows=2, dram=100, row_lines=3, dst=40 + 20 * int( r ) ) for r in Rel ),
  *( STORE.but( rel=r, rows=2, dram=600 + 50 * int( r ), row_lines=3, src=40 + 20 * int( r ), wait=int( Unit.LOAD ) )
     for r in Rel ),
  *( COPY.but( rel=r, rows=2, src_stride=3 ) for r in Rel ),
  *( mk( "ROPE", rel=r, rows=1, segments=1, length=6, src=5, src_stride=7, src2=9, src2_stride=2 ) for r in Rel ),
  HALT ]

LENGTHS = ( 1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 31, 32, 33, 63, 64, 65 )

def moves( rows: int = 1 ) -> list[Instruction]:
  """A LOAD and a STORE of each length."""
  return [ x for k, length in enumerate( LENGTHS ) for x in (
    LOAD.but( rows=rows, length=length, row_lines=9, dst=70 * k, dst_stride=20 ),
    STORE.but( rows=rows, length=length, row_lines=9, dram=520 + 9 * k, src=70 * k, src_stride=20,
               wait=int( Unit.LOAD ) ) ) ]

VECTORS = [
  RMSNORM.but( rows=2, dst_stride=5, src_stride=6, inv_length=float( "nan" ), eps=-0.0 ),
  mk( "ROPE", rows=2, dst=1, src=2, src2=3, segments=4, length=10, dst_stride=9, src_stride=11, src2_stride=13 ),
  *( mk( op, rows=3, dst=1, src=2, src2=3, segments=4, length=5, dst_stride=9, src_stride=11, src2_stride=13 )
     for op in ( "SWIGLU", "ADD", "MUL" ) ),
  mk( "SCALE", rows=3, dst=1, src=2, segments=4, length=5, dst_stride=9, src_stride=11, factor=-1.5 ),
  mk( "QUANTIZE", rows=3, dst=1, src=2, segments=4, length=5, dst_stride=9, src_stride=11, bits=8 ),
  mk( "SOFTMAX", rows=3, dst=1, src=2, segments=4, length=5, dst_stride=9, src_stride=11, factor=3.5 ),
  ARGMAX.but( base=0x89ABCDEF, first=0 ),
  *( mk( "CONVERT", rows=3, dst=1, src=2, segments=4, length=5, dst_stride=9, src_stride=11,
         formats=f )
     for f in range( 4 ) ) ]

GEMMS = [ GEMM.but( rows=2, mode=m, group=g, k=64, cols=9, flags=f, src2=50, dst_stride=17, src_stride=19 )
          for m, g, f in ( ( 0, 0, 0 ), ( 1, 0, 1 ), ( 2, 0, 2 ), ( 3, 1, 3 ), ( 4, 2, 0 ), ( 5, 0, 1 ), ( 6, 0, 2 ) ) ]

WIDE_ATT = ATT.but( rows=2, heads=6, kv_heads=3, length=32, chunks=3, dst=1, src=2, src2=3, factor=-7.25 )

# Signalling NaNs, and a NaN of all ones.
RAW_CONSTANTS = [ raw( RMSNORM, inv_length=0x7F812345, eps=0xFF800001 ),
                  raw( mk( "SCALE", rows=1, segments=1, length=1 ), factor=0xFFFFFFFF ) ]

# PASS, WAIT, ADVANCE and ARGMAX with ones in every bit that they do not name.
UNNAMED_BITS = [ *( struct.pack( "<8I", opcode, *[ 0xFFFFFFFF ] * 7 ) for opcode in ( 0x02, 0x01, 0x03 ) ),
                 struct.pack( "<8I", 0x00100038, 5, 0x01FFFFFF, 0xFF000007, FAR, 0xFFF00010, FAR, FAR ) ]

LONG = [ LOAD.but( rows=2, length=1301, row_lines=90, dst_stride=333 ),
         STORE.but( rows=2, length=1301, row_lines=90, src_stride=333, wait=int( Unit.LOAD ) ), HALT ]

PAGE_ENDS = [ LOAD.but( dram=127, length=32 ), LOAD.but( rows=3, dram=191, row_lines=64, dst=60 ),
              STORE.but( dram=639, length=33, wait=int( Unit.LOAD ) ), HALT ]

ROWS_1_TO_16 = [ PASS, *( x for r in range( 1, 17 ) for x in (
  LOAD.but( rows=r, dram=100 + r, row_lines=2, length=5, dst=40 * r, dst_stride=2 ),
  STORE.but( rows=r, dram=520 + 20 * r, row_lines=1, length=5, src=40 * r, src_stride=2, wait=int( Unit.LOAD ) ) ) ),
  HALT ]

ROWS_REGISTER = waiting( [
  PASS.but( limit=16 ), EMBED.but( vocab=16, row_lines=2 ), LOAD.but( rows=0, row_lines=1 ),
  STORE.but( rows=0, src=0, row_lines=3 ), mk( "SETROWS", rows=3 ), EMBED.but( vocab=16, dst=200 ),
  STORE.but( rows=0, dram=700, src=200, row_lines=1 ), GEMM.but( rows=0 ), HALT ] )

OVERLAPPING = waiting( [
  LOAD.but( rows=3, row_lines=0 ), LOAD.but( rows=3, row_lines=1, dst=80, dst_stride=0 ),
  LOAD.but( rows=4, row_lines=1, dst=120, dst_stride=1, length=14 ), STORE.but( rows=3, row_lines=0 ),
  STORE.but( rows=4, dram=650, row_lines=1, length=45 ), STORE.but( rows=4, dram=700, src_stride=0, row_lines=2 ),
  STORE.but( rows=4, dram=750, src=120, src_stride=1, row_lines=1, length=15 ),
  LOAD.but( rows=3, row_lines=0, dst_stride=0, dst=0 ), HALT ] )

LOADS = [ LOAD.but( length=100 ), LOAD.but( length=3, dst=41 ), LOAD.but( rows=5, row_lines=7, dst=42 ),
          LOAD.but( length=64, dst=30 ), LOAD.but( dst=33 ), LOAD.but( dst=35, length=1 ), HALT ]

STORES = [ STORE.but( length=100 ), STORE.but( length=3, src=3 ), STORE.but( rows=5, src=5, dram=598, row_lines=1 ),
           STORE.but( length=1, dram=602 ), STORE.but( length=77, dram=601, src=90 ), HALT ]

EMBED_ROWS = [ PASS.but( limit=16 ), EMBED.but( vocab=40, row_lines=3, length=21, dst_stride=7 ), HALT ]

LAST_LINES = [ LOAD.but( dram=LINES - 1 ), LOAD.but( rows=2, dram=LINES - 5, row_lines=4, dst=80 ),
               STORE.but( rows=2, dram=LINES - 5, row_lines=3, length=32, src=80, wait=int( Unit.LOAD ) ), HALT ]

LAST_ROWS = [ LOAD.but( dst=1008 ), STORE.but( src=1008, wait=int( Unit.LOAD ) ),
              LOAD.but( rows=2, dst=1000, dst_stride=9, length=1 ), HALT ]

# A word of zero is stored over the tokens at positions 1 to 3, and EMBED reads those.
NEW_TOKENS = waiting( [ PASS, LOAD.but( dst=0, length=1 ), STORE.but( dram=2, src=0, length=4 ), EMBED, HALT ] )

LIMIT, EOS, CONTEXT_FULL, SCORED = Status.LIMIT, Status.EOS, Status.CONTEXT, Status.SCORED

def emitting( tokens: int ) -> list[Instruction]:
  """So many tokens in a row."""
  return [ x for _ in range( tokens ) for x in ( ARGMAX, EMIT ) ]

def stops( count: int, *tokens: int ) -> dict[str, int]:
  """Mailbox words: end-of-sequence tokens, and how many of them count."""
  return { "EOS_COUNT": count, **{ f"EOS{k}" if k else "EOS": token for k, token in enumerate( tokens ) } }

# name, how it ends, pc of the end, case, timing
ROWS: list[tuple[str, Status, int, Case, Timing]] = [
  ( "halt",           SCORED,  0, Case( [ HALT ] ), CALM ),
  ( "basic",          LIMIT,   2, Case( [ PASS, ARGMAX, EMIT ] ), CALM ),
  ( "load",           SCORED,  1, Case( [ LOAD, HALT ] ), CALM ),
  ( "embed",          SCORED,  2, Case( [ PASS, EMBED, HALT ] ), CALM ),
  ( "store",          SCORED,  1, Case( [ STORE, HALT ] ), CALM ),
  ( "load_store",     SCORED,  2, Case( [ LOAD, STORE.but( wait=int( Unit.LOAD ) ), HALT ] ), CALM ),
  ( "gemm",           SCORED,  1, Case( [ GEMM, HALT ] ), CALM ),
  ( "vector",         SCORED,  1, Case( [ COPY, HALT ] ), CALM ),
  ( "attend",         SCORED,  2, Case( [ PASS, ATT, HALT ] ), CALM ),
  ( "all_units",      SCORED,  8, Case( [ *BUSY, HALT ] ), CALM ),
  ( "all_units_slow", SCORED,  8, Case( [ *BUSY, HALT ] ), Timing( work=150, ack=20 ) ),
  ( "all_units_in_order", SCORED, 8, Case( waiting( [ *BUSY, HALT ] ) ), Timing( work=30 ) ),
  ( "vector_messages", SCORED, len( VECTORS ), Case( [ *VECTORS, HALT ] ), CALM ),
  ( "gemm_messages",  SCORED,  len( GEMMS ), Case( [ *GEMMS, HALT ] ), Timing( work=3 ) ),
  ( "attend_message", SCORED,  2, Case( [ PASS, WIDE_ATT, HALT ], { "POS": 1 } ), CALM ),
  ( "raw_constants",  SCORED,  2, Case( [ *RAW_CONSTANTS, HALT ] ), CALM ),
  ( "unnamed_bits",   SCORED,  4, Case( [ *UNNAMED_BITS, HALT ] ), CALM ),

  *( ( f"conditions_{flags}", SCORED, 12, Case( CONDITIONS, { "FLAGS": flags } ), CALM ) for flags in range( 4 ) ),
  ( "unknown_flags",  SCORED,  12, Case( CONDITIONS, { "FLAGS": 0xFFFFFFFC } ), CALM ),
  ( "relative",       SCORED,  24, Case( RELATIVE, prompt=range( 6 ), found=( 7, ) ), CALM ),
  ( "relative_slow",  SCORED,  24, Case( RELATIVE, prompt=range( 6 ), found=( 7, ) ), WILD ),
  ( "last_of_no_rows", SCORED, 2, Case( [ LOAD.but( rel=Rel.LAST, row_lines=500 ),
                                          COPY.but( rel=Rel.LAST, src_stride=9999 ), HALT ] ), CALM ),
  ( "token_of_before", SCORED, 4, Case( [ ARGMAX, ARGMAX.but( first=0 ), COPY, LOAD.but( rel=Rel.TOKEN, row_lines=1 ),
                                          HALT ], found=( 900, 11 ) ), Timing( work=60 ) ),

  ( "lengths",        SCORED,  36, Case( [ *moves(), HALT ] ), CALM ),
  ( "lengths_rows",   SCORED,  36, Case( [ *moves( 3 ), HALT ] ), CALM ),
  ( "lengths_wild",   SCORED,  36, Case( waiting( [ *moves( 2 ), HALT ] ) ), WILD ),
  ( "long_rows",      SCORED,  2, Case( LONG ), CALM ),
  ( "long_rows_wild", SCORED,  2, Case( LONG ), WILD ),
  ( "page_ends",      SCORED,  3, Case( PAGE_ENDS ), CALM ),
  ( "rows_1_to_16",   SCORED,  33, Case( ROWS_1_TO_16 ), CALM ),
  ( "rows_register",  SCORED,  8, Case( ROWS_REGISTER, prompt=range( 16 ) ), CALM ),
  ( "overlapping",    SCORED,  8, Case( OVERLAPPING ), CALM ),
  ( "load_load",      SCORED,  6, Case( LOADS ), CALM ),
  ( "store_store",    SCORED,  5, Case( STORES ), CALM ),
  ( "embed_rows",     SCORED,  2, Case( EMBED_ROWS, { "POS": 3 }, prompt=range( 2, 31 ) ), CALM ),
  ( "embed_rows_wild", SCORED, 2, Case( EMBED_ROWS, { "POS": 13 }, prompt=range( 2, 31 ) ), WILD ),
  ( "embed_embed",    SCORED,  5, Case( [ PASS.but( limit=2 ), EMBED, ADVANCE, EMBED.but( rows=1, dst=100 ),
                                          EMBED.but( rows=1, dst=2 ), HALT ] ), CALM ),
  ( "embed_overlapping", SCORED, 3, Case( [ PASS, EMBED.but( row_lines=0, length=33 ),
                                            EMBED.but( dst_stride=1, dst=50 ), HALT ] ), CALM ),
  ( "emit_then_embed", LIMIT,  6, Case( [ PASS, ADVANCE, ARGMAX, EMIT, PASS, EMBED.but( vocab=300, wait=31 ), EMIT ],
                                        { "LIMIT": 2 }, found=( 250, ) ), Timing( work=50, latency=1 ) ),
  ( "last_lines",     SCORED,  3, Case( LAST_LINES ), CALM ),
  ( "first_writable", SCORED,  1, Case( [ STORE.but( dram=WRITABLE ), HALT ] ), CALM ),
  ( "last_rows",      SCORED,  3, Case( LAST_ROWS ), CALM ),
  ( "store_to_tokens", SCORED, 4, Case( NEW_TOKENS, { "WRITABLE": 2, "POS": 1 }, prompt=[ 99 ] * 4 ), CALM ),

  ( "eos_none",       LIMIT,   7, Case( emitting( 8 ), { "LIMIT": 4, **stops( 0, 5, 5, 5, 5 ) }, found=( 5, ) ), CALM ),
  *( ( f"eos_{k}_of_{n}", EOS, 2 * k - 1, Case( emitting( 5 ), { "LIMIT": 9, **stops( n, 21, 22, 23, 24 ) },
                                                found=( *range( 30, 29 + k ), 20 + k ) ), CALM )
     for n in range( 1, 5 ) for k in range( 1, n + 1 ) ),
  ( "eos_not_counted", LIMIT,  5, Case( emitting( 5 ), { "LIMIT": 3, **stops( 2, 8, 9, 5, 5 ) }, found=( 5, ) ), CALM ),
  ( "eos_before_limit", EOS,   1, Case( emitting( 5 ), stops( 1, FAR ), found=( FAR, ) ), CALM ),
  ( "eos_before_context", EOS, 1, Case( emitting( 5 ), { "CONTEXT": 3, "LIMIT": 9, **stops( 1, 4 ) }, found=( 4, ) ),
    CALM ),
  ( "limit_before_context", LIMIT, 1, Case( emitting( 5 ), { "CONTEXT": 3 } ), CALM ),
  ( "context_full",   CONTEXT_FULL, 5, Case( emitting( 5 ), { "CONTEXT": 5, "LIMIT": 0xFFFFFFFF } ), CALM ),
  ( "token_without_argmax", LIMIT, 0, Case( [ EMIT ] ), CALM ),
  ( "token_kept_for_the_run", LIMIT, 2, Case( [ ARGMAX, EMIT, EMIT ], { "LIMIT": 2 } ), CALM ),
  ( "token_of_a_new_run", LIMIT, 1, Case( [ ARGMAX.but( cond=Cond.LOGITS ), EMIT ],
                                          runs=( { "FLAGS": Flag.LOGITS }, { "FLAGS": 0 } ) ), CALM ),
  ( "halt_context",   CONTEXT_FULL, 1, Case( [ PASS, HALT.but( status=Status.CONTEXT ) ] ), CALM ),
  ( "halt_eos",       EOS,     0, Case( [ HALT.but( status=Status.EOS ) ] ), CALM ),
  ( "halt_limit",     LIMIT,   0, Case( [ HALT.but( status=Status.LIMIT ) ] ), CALM ),
  ( "halt_skipped",   SCORED,  4, Case( [ HALT.but( cond=Cond.SCORE, status=s ) for s in ( 0, 1, 15, 2 ) ] + [ HALT ] ),
    CALM ),

  ( "jump_forward",   SCORED,  4, Case( [ jump( 2 ), bytes( 32 ), PASS, jump( 4 ), HALT ] ), CALM ),
  ( "jump_next",      SCORED,  3, Case( [ jump( 1 ), jump( 2 ), jump( 3 ), HALT ] ), CALM ),
  ( "jump_back",      SCORED,  4, Case( [ jump( 3 ), LOAD, jump( 4 ), jump( 1 ), HALT ] ), CALM ),
  ( "jump_not_taken", SCORED,  2, Case( [ jump( 0, cond=Cond.SCORE ), jump( 77, cond=Cond.PREFILL ), HALT ],
                                        { "POS": 3 } ), CALM ),
  ( "jump_far",       SCORED,  90, Case( [ jump( 90 ), *[ bytes( 32 ) ] * 89, HALT ] ), CALM ),
  ( "long_program",   SCORED,  100, Case( [ *[ WAIT, PASS ] * 50, HALT ] ), CALM ),
  ( "program_at_end", SCORED,  3, Case( [ PASS, LOAD, COPY, HALT ], { "PROGRAM": LINES - 2 } ), CALM ),
  ( "count_beyond_memory", SCORED, 1, Case( [ PASS, HALT ], { "PROGRAM": LINES - 1, "PROGRAM_COUNT": 0xFFFFFFFF } ),
    CALM ),
  ( "odd_count",      SCORED,  2, Case( [ PASS, PASS, HALT ] ), CALM ),
  ( "small_memory",   SCORED,  1, Case( [ LOAD.but( dram=15 ), HALT ], { "DRAM_LINES": 16, "WRITABLE": 12 } ), CALM ),
  ( "tokens_at_end",  LIMIT,   3, Case( [ PASS, EMBED, ARGMAX, EMIT ], { "TOKENS": LINES - 2 } ), CALM ),
  ( "large_memory",   SCORED,  3, Case( [ PASS, LOAD, STORE.but( src=300 ), HALT ], { "DRAM_LINES": 0xFFFFFFFF } ),
    CALM ),
  ( "progress",       LIMIT,   3, Case( [ PASS.but( limit=1 ), ADVANCE, jump( 0, cond=Cond.PREFILL ), EMIT ] ), CALM ),
  ( "advance_nothing", SCORED, 3, Case( [ ADVANCE, mk( "SETROWS" ), ADVANCE, HALT ] ), CALM ),
  ( "setrows",        SCORED,  4, Case( [ mk( "SETROWS", rows=2 ), ADVANCE, mk( "SETROWS", rows=255 ),
                                          mk( "SETROWS", rows=1 ), HALT ] ), CALM ),
  ( "nothing_to_process", LIMIT, 1, Case( [ ARGMAX, EMIT ], { "LEN": 0 } ), CALM ),
  ( "rel_on_control", LIMIT,   3, Case( [ PASS.but( rel=Rel.POS, rows=9 ), WAIT.but( rel=Rel.LEN ),
                                          ADVANCE.but( rel=Rel.LAST ),
                                          EMIT.but( rel=Rel.TOKEN, rows=3 ) ] ), CALM ),

  ( "loop",           LIMIT,   19, Case( LOOP, { "LIMIT": 3 } ), CALM ),
  ( "loop_wild",      LIMIT,   19, Case( LOOP, { "LIMIT": 3 } ), WILD ),
  ( "loop_long_prompt", LIMIT, 19, Case( LOOP, { "LIMIT": 2 }, prompt=[ 1 ] * 19 ), Timing( work=20 ) ),
  ( "loop_logits",    LIMIT,   19, Case( LOOP, { "LIMIT": 2, "FLAGS": Flag.LOGITS } ), Timing( work=5, ack=2 ) ),
  ( "loop_score",     SCORED,  18, Case( LOOP, { "FLAGS": Flag.SCORE } ), CALM ),
  ( "loop_context",   CONTEXT_FULL, 19, Case( LOOP, { "LIMIT": 99, "CONTEXT": 5 }, found=( 4, 1, 2 ) ), CALM ),
  ( "loop_latency_1", LIMIT,   19, Case( LOOP, { "LIMIT": 2 } ), Timing( latency=1, work=0 ) ),
  ( "loop_latency_200", LIMIT, 19, Case( LOOP, { "LIMIT": 2 } ), Timing( latency=200 ) ),
  ( "loop_slow_memory", LIMIT, 19, Case( LOOP, { "LIMIT": 2 } ), Timing( gap=4 ) ),
  ( "loop_stalls",    LIMIT,   19, Case( LOOP, { "LIMIT": 2 } ), Timing( stall_seed=3 ) ),
  ( "loop_slow_acks", LIMIT,   19, Case( LOOP, { "LIMIT": 2 } ), Timing( ack=25, work=1 ) ),

  ( "second_run",     LIMIT,   19, Case( LOOP, runs=( {}, {}, { "LIMIT": 2 } ) ), CALM ),
  ( "second_prompt",  LIMIT,   19, Case( LOOP, { "EOS_COUNT": 1, "EOS": 12 }, found=( 12, 4 ), runs=(
      {}, { "POS": 0, "LEN": 2, 0: 3, 1: 1, "FLAGS": Flag.LOGITS, "EOS": 77 }, ) ), CALM ),
  ( "rung_early",     LIMIT,   19, Case( LOOP, runs=( {}, {}, {} ), found=( 1, 2 ), early=True ), CALM ),
  ( "run_after_fault", LIMIT,  19, Case( LOOP, runs=( { 0: 99 }, { "LIMIT": 0, 0: 1 }, { "LIMIT": 1 } ) ), CALM ),
  ( "scored_in_parts", SCORED, 18, Case( LOOP, { "FLAGS": Flag.SCORE }, prompt=[ 2 ] * 19, runs=( {}, {}, {} ) ),
    CALM ),
]

def rows_of( *names: str ) -> list:
  return [ pytest.param( case, timing, id=name ) for name, _, _, case, timing in ROWS if not names or name in names ]

def test_rows_end_as_they_should() -> None:
  """The table means what it says."""
  for name, status, pc, case, _ in ROWS:
    result = World( PRESETS["edge4"], case ).expected[-1].result
    assert ( name, result.status, result.pc, result.error ) == ( name, status, pc, Error.NONE )

def check( level: str, n: int, case: Case, timing: Timing, opts: dict | None = None, seed: int = 0,
           **kwargs: Any ) -> None:
  cfg   = PRESETS[f"edge{n}"]
  world = World( cfg, case, seed )
  check_cycles( cfg, level, world, timing, simulate( cfg, level, world, timing, opts, **kwargs ) )

# Python simulates some 400 cycles of the RTL a second: there a selection runs every time, and all of them nightly.
RTL_ROWS = ( "basic", "embed", "store", "all_units", "all_units_slow", "vector_messages", "gemm_messages",
             "raw_constants", "conditions_1",
             "relative", "lengths", "page_ends", "overlapping", "load_load", "store_store", "embed_rows_wild",
             "emit_then_embed", "eos_3_of_4",
             "context_full", "jump_back", "program_at_end", "loop", "loop_stalls", "second_prompt", "run_after_fault" )

@pytest.mark.parametrize( "level", ( "fl", "cl", "verilog" ) )
@pytest.mark.parametrize( ( "case", "timing" ), rows_of() )
def test_rows( level, case, timing, cmdline_opts ):
  check( level, 4, case, timing, cmdline_opts )

@pytest.mark.parametrize( "level", ( "rtl", ) )
@pytest.mark.parametrize( ( "case", "timing" ), rows_of( *RTL_ROWS ) )
def test_rows_rtl( level, case, timing, cmdline_opts ):
  check( level, 4, case, timing, cmdline_opts )

@pytest.mark.nightly
@pytest.mark.parametrize( "level", ( "rtl", ) )
@pytest.mark.parametrize( ( "case", "timing" ), rows_of() )
@pytest.mark.parametrize( "n", ( 4, 8 ) )
def test_rows_rtl_at_length( level, n, case, timing, cmdline_opts ):
  check( level, n, case, timing, cmdline_opts )

@pytest.mark.parametrize( "level", LEVELS )
@pytest.mark.parametrize( ( "case", "timing" ), rows_of( "raw_constants", "overlapping", "embed_rows_wild",
                                                         "eos_4_of_4", "program_at_end",
                                                         "store_to_tokens", "loop_wild", "second_prompt" ) )
def test_rows_n8( level, case, timing, cmdline_opts ):
  check( level, 8, case, timing, cmdline_opts )

@pytest.mark.parametrize( "level", ( "cl", "verilog" ) )
@pytest.mark.parametrize( ( "case", "timing" ), rows_of() )
def test_rows_n16( level, case, timing, cmdline_opts ):
  check( level, 16, case, timing, cmdline_opts )

# The default, above, is random initial state.
@pytest.mark.parametrize( "level", ( "verilog", ) )
@pytest.mark.parametrize( "x_initial", ( "zeros", "ones" ) )
@pytest.mark.parametrize( ( "case", "timing" ), rows_of( *RTL_ROWS ) )
def test_initial_state( level, x_initial, case, timing, cmdline_opts ):
  check( level, 4, case, timing, cmdline_opts, x_initial=x_initial )

@pytest.mark.nightly
@pytest.mark.parametrize( "level", ( "verilog", ) )
@pytest.mark.parametrize( "x_initial", ( "zeros", "ones" ) )
@pytest.mark.parametrize( "n", ( 4, 8, 16 ) )
@pytest.mark.parametrize( ( "case", "timing" ), rows_of() )
def test_initial_state_at_length( level, n, x_initial, case, timing, cmdline_opts ):
  check( level, n, case, timing, cmdline_opts, x_initial=x_initial )

#-------------------------------------------------------------------------
# Faults
#-------------------------------------------------------------------------

# Instructions that are refused, whatever is at work around them, and those to do before. The scratchpad has 2^13 rows.
FAULTS: list[tuple[str, Error, list[Instruction], Instruction | bytes]] = [
  ( "opcode_0",           Error.BAD_OPCODE,   [], bytes( 32 ) ),
  ( "opcode_ff",          Error.BAD_OPCODE,   [], b"\xff" * 32 ),
  *( ( f"opcode_{c:02x}", Error.BAD_OPCODE,   [], raw( PASS, opcode=c, cond=1 ) ) for c in ( 0x08, 0x0F, 0x13, 0x21,
      0x3B, 0x41, 0x82, 0x90 ) ),
  ( "cond",               Error.BAD_FIELD,    [], raw( PASS, cond=5 ) ),
  ( "cond_15",            Error.BAD_FIELD,    [], raw( COPY, cond=15 ) ),
  ( "wait",               Error.BAD_FIELD,    [], raw( WAIT, wait=0x20 ) ),
  ( "wait_80",            Error.BAD_FIELD,    [], raw( LOAD, wait=0x80 ) ),
  ( "rel",                Error.BAD_FIELD,    [], raw( LOAD, rel=5 ) ),
  ( "rel_of_control",     Error.BAD_FIELD,    [], raw( EMIT, rel=8 ) ),
  ( "mode",               Error.BAD_FIELD,    [], raw( GEMM, mode=7 ) ),
  ( "mode_8",             Error.BAD_FIELD,    [], raw( GEMM, mode=8 ) ),
  ( "flags",              Error.BAD_FIELD,    [], raw( GEMM, flags=4 ) ),
  ( "group",              Error.BAD_FIELD,    [], GEMM.but( group=4 ) ),
  ( "group_129",          Error.BAD_FIELD,    [], GEMM.but( group=129, mode=3 ) ),
  ( "group_of_nothing",   Error.ZERO_SIZE,    [], GEMM.but( group=7, k=0 ) ),
  ( "skipped_opcode",     Error.BAD_OPCODE,   [], raw( PASS, opcode=0x99, cond=3 ) ),
  ( "skipped_mode",       Error.BAD_FIELD,    [], raw( GEMM, mode=7, cond=3 ) ),
  ( "skipped_status",     Error.BAD_FIELD,    [], raw( HALT, status=6, cond=3 ) ),
  ( "skipped_rel",        Error.BAD_FIELD,    [], raw( COPY, rel=5, cond=3 ) ),
  ( "formats",            Error.BAD_FIELD,    [], raw( mk( "CONVERT", rows=1, segments=1, length=1 ), formats=4 ) ),
  ( "formats_80",         Error.BAD_FIELD,    [], raw( mk( "CONVERT", rows=1, segments=1, length=1 ), formats=0x80 ) ),
  ( "bits",               Error.BAD_FIELD,    [], mk( "QUANTIZE", rows=1, segments=1, length=1, bits=4 ) ),
  ( "relative_gemm",      Error.BAD_FIELD,    [], GEMM.but( rel=Rel.POS, k=0 ) ),
  ( "relative_embed",     Error.BAD_FIELD,    [ PASS ], EMBED.but( rel=Rel.LAST, length=0 ) ),
  ( "relative_argmax",    Error.BAD_FIELD,    [], ARGMAX.but( rel=Rel.TOKEN ) ),
  ( "relative_attend",    Error.BAD_FIELD,    [ PASS ], ATT.but( rel=Rel.LEN ) ),
  ( "halt_idle",          Error.BAD_FIELD,    [], mk( "HALT" ) ),
  ( "halt_running",       Error.BAD_FIELD,    [], mk( "HALT", status=Status.RUNNING ) ),
  ( "halt_error",         Error.BAD_FIELD,    [], mk( "HALT", status=Status.ERROR ) ),
  *( ( f"halt_{v}",       Error.BAD_FIELD,    [], raw( HALT, status=v ) ) for v in ( 6, 14, 16, 0x85 ) ),
  ( "load_past",          Error.BAD_DRAM,     [], LOAD.but( dram=LINES ) ),
  ( "load_word_too_many", Error.BAD_DRAM,     [], LOAD.but( dram=LINES - 1, length=17 ) ),
  ( "load_last_row",      Error.BAD_DRAM,     [], LOAD.but( rows=2, dram=LINES - 2, row_lines=2 ) ),
  ( "load_far",           Error.BAD_DRAM,     [], LOAD.but( dram=FAR, length=0xFFFFF ) ),
  ( "load_rows_far",      Error.BAD_DRAM,     [], LOAD.but( rows=2, dram=100, row_lines=FAR - 50 ) ),
  ( "load_pos",           Error.BAD_DRAM,     [ PASS, ADVANCE ], LOAD.but( rel=Rel.POS, dram=LINES - 3, row_lines=1 ) ),
  ( "load_token_far",     Error.BAD_DRAM,     [ ARGMAX ], LOAD.but( rel=Rel.TOKEN, row_lines=1 ) ),
  ( "load_token_49",      Error.BAD_DRAM,     [ ARGMAX ], LOAD.but( rel=Rel.TOKEN, row_lines=1 << 17 ) ),
  ( "load_token_64",      Error.BAD_DRAM,     [ ARGMAX ], LOAD.but( rel=Rel.TOKEN, rows=3, dram=5, row_lines=FAR ) ),
  ( "load_token_32",      Error.BAD_DRAM,     [ ARGMAX ], LOAD.but( rel=Rel.TOKEN, dram=101, row_lines=1 ) ),
  ( "store_token_64",     Error.BAD_DRAM,     [ ARGMAX ], STORE.but( rel=Rel.TOKEN, rows=3, dram=600, row_lines=FAR ) ),
  ( "store_past",         Error.BAD_DRAM,     [], STORE.but( dram=LINES ) ),
  ( "store_word_too_many", Error.BAD_DRAM,    [], STORE.but( dram=LINES - 2, length=33 ) ),
  ( "store_below",        Error.BAD_DRAM,     [], STORE.but( dram=WRITABLE - 1 ) ),
  ( "store_mailbox",      Error.BAD_DRAM,     [], STORE.but( dram=0 ) ),
  ( "embed_table",        Error.BAD_DRAM,     [ PASS ], EMBED.but( dram=LINES - 7 ) ),
  ( "embed_table_far",    Error.BAD_DRAM,     [ PASS ], EMBED.but( vocab=0x10001, row_lines=1 << 16 ) ),
  ( "embed_table_farther", Error.BAD_DRAM,    [ PASS ], EMBED.but( vocab=0xFFFFFF, row_lines=FAR ) ),
  ( "embed_last_row",     Error.BAD_DRAM,     [ PASS ], EMBED.but( dram=LINES - 8, length=64 ) ),
  ( "gemm_stream",        Error.BAD_DRAM,     [], GEMM.but( dram=LINES - 2 ) ),
  ( "cache_past",         Error.BAD_DRAM,     [ PASS ], ATT.but( dram=LINES - 3 ) ),
  ( "cache_below",        Error.BAD_DRAM,     [ PASS ], ATT.but( dram=WRITABLE - 1 ) ),
  ( "load_dst",           Error.BAD_SPAD,     [], LOAD.but( dst=1 << 13 ) ),
  ( "load_dst_end",       Error.BAD_SPAD,     [], LOAD.but( dst=( 1 << 13 ) - 3, length=64 ) ),
  ( "load_dst_far",       Error.BAD_SPAD,     [], LOAD.but( dst=0xFFFFFF ) ),
  ( "load_dst_rows",      Error.BAD_SPAD,     [], LOAD.but( rows=16, dst=0, dst_stride=547 ) ),
  ( "store_src",          Error.BAD_SPAD,     [], STORE.but( rows=2, src=0, src_stride=0xFFFF ) ),
  ( "embed_dst",          Error.BAD_SPAD,     [ PASS ], EMBED.but( rows=3, dst_stride=4095, length=64 ) ),
  ( "embed_dst_far",      Error.BAD_SPAD,     [ PASS ], EMBED.but( dst=0xFFFFFC, vocab=1 ) ),
  ( "dram_before_spad",   Error.BAD_DRAM,     [], LOAD.but( dram=LINES, dst=0xFFFFFF ) ),
  ( "src_moved",          Error.BAD_SPAD,     [ PASS ], COPY.but( rel=Rel.LAST, src=0, src_stride=4096 ) ),
  ( "src_moved_24",       Error.BAD_SPAD,     [ PASS, ADVANCE ], COPY.but( rel=Rel.POS, src=0xFFFFFE, src_stride=1 ) ),
  ( "src_moved_32",       Error.BAD_SPAD,     [ ARGMAX ], COPY.but( rel=Rel.TOKEN, src=0xFFFF, src_stride=0xFFFF ) ),
  ( "src_moved_far",      Error.BAD_SPAD,     [ ARGMAX ], COPY.but( rel=Rel.TOKEN, src=20, src_stride=1 ) ),
  ( "gemm_dst",           Error.BAD_SPAD,     [], GEMM.but( dst=0xFFFFFF ) ),
  ( "load_of_nothing",    Error.ZERO_SIZE,    [], LOAD.but( length=0, dram=FAR ) ),
  ( "store_of_nothing",   Error.ZERO_SIZE,    [], STORE.but( length=0, dram=0 ) ),
  ( "embed_of_nothing",   Error.ZERO_SIZE,    [ PASS ], EMBED.but( length=0, rows=9 ) ),
  ( "no_vocabulary",      Error.ZERO_SIZE,    [ PASS ], EMBED.but( vocab=0, rows=9 ) ),
  ( "no_rows",            Error.ZERO_SIZE,    [ mk( "SETROWS" ) ], LOAD.but( rows=0 ) ),
  ( "no_rows_embed",      Error.ZERO_SIZE,    [ mk( "SETROWS" ) ], EMBED ),
  ( "no_rows_store",      Error.ZERO_SIZE,    [ mk( "SETROWS" ) ], STORE.but( rows=0 ) ),
  ( "no_rows_gemm",       Error.ZERO_SIZE,    [ mk( "SETROWS" ) ], GEMM.but( rows=0 ) ),
  ( "no_rows_copy",       Error.ZERO_SIZE,    [ mk( "SETROWS" ) ], COPY.but( rows=0 ) ),
  ( "no_heads",           Error.ZERO_SIZE,    [ PASS ], ATT.but( heads=0 ) ),
  ( "rows_gemm",          Error.BAD_SIZE,     [], GEMM.but( rows=17 ) ),
  ( "rows_copy",          Error.BAD_SIZE,     [ mk( "SETROWS", rows=255 ) ], COPY.but( rows=0 ) ),
  ( "rows_load",          Error.BAD_SIZE,     [], LOAD.but( rows=17 ) ),
  ( "rows_store",         Error.BAD_SIZE,     [], STORE.but( rows=17 ) ),
  ( "rows_embed",         Error.BAD_SIZE,     [ PASS ], EMBED.but( rows=17 ) ),
  ( "k",                  Error.BAD_SIZE,     [], GEMM.but( k=32769 ) ),
  ( "heads",              Error.BAD_SIZE,     [ PASS ], ATT.but( heads=3, kv_heads=2 ) ),
  ( "token",              Error.BAD_TOKEN,    [ PASS ], EMBED.but( vocab=7 ) ),
  ( "first_token",        Error.BAD_TOKEN,    [ PASS ], EMBED.but( rows=1, vocab=5 ) ),
  ( "no_token_left",      Error.BAD_POSITION, [ PASS, ADVANCE ], EMBED.but( rows=1 ) ),
  ( "embed_past",         Error.BAD_POSITION, [ PASS ], EMBED.but( rows=4, dram=FAR ) ),
  ( "pass_nothing",       Error.BAD_POSITION, [], mk( "PASS" ) ),
  ( "pass_again",         Error.BAD_POSITION, [ PASS, ADVANCE ], PASS ),
  ( "advance_past",       Error.BAD_POSITION, [ mk( "SETROWS", rows=4 ) ], ADVANCE ),
  ( "advance_again",      Error.BAD_POSITION, [ PASS, ADVANCE ], ADVANCE ),
  ( "attend_past",        Error.BAD_POSITION, [ PASS, ADVANCE ], ATT.but( chunks=1, rows=14 ) ),
  ( "no_progress",        Error.NO_PROGRESS,  [], jump( 0 ) ),
  ( "pc_far",             Error.BAD_PC,       [], jump( FAR ) ),
]

FOUND = ( FAR, )     # what ARGMAX finds in these programs

def fault_cases( bad: Instruction | bytes, before: list[Instruction] ) -> dict[str, Case]:
  """The instruction alone, after every unit got something to do, and in the middle of the compiler's loop."""
  work = [ *( i for i in BUSY if i not in ( PASS, EMBED, ATT ) ), ATT.but( rows=1 ) ]
  return { "alone": Case( [ *before, bad, HALT ], found=FOUND ),
           "busy":  Case( [ *before, *work, bad, LOAD, HALT ], found=FOUND ),
           "loop":  Case( [ *LOOP[:9], *[ i.but( wait=ALL_UNITS ) for i in before if i not in ( PASS, ARGMAX ) ],
                            *[ i for i in before if i == ARGMAX ], bad, *LOOP[9:] ], found=FOUND ) }

def fault_rows( *places: str ) -> list:
  return [ pytest.param( error, fault_cases( bad, before )[place], place, id=f"{name}-{place}" )
           for name, error, before, bad in FAULTS for place in places ]

def check_fault( level: str, n: int, error: Error, case: Case, place: str, opts: dict | None ) -> None:
  cfg    = PRESETS[f"edge{n}"].but( spad_bytes=( 1 << 13 ) * 4 * n )
  timing = { "alone": CALM, "busy": Timing( work=70, seed=3 ), "loop": WILD }[place]
  world  = World( cfg, case )
  result = world.expected[0].result
  if place != "loop":     # where the rest of the loop may come first, or the program go on
    assert ( result.status, result.error ) == ( Status.ERROR, error )
  check_cycles( cfg, level, world, timing, simulate( cfg, level, world, timing, opts ) )

@pytest.mark.parametrize( "level", ( "fl", "cl", "verilog" ) )
@pytest.mark.parametrize( ( "error", "case", "place" ), fault_rows( "busy" ) )
def test_faults( level, error, case, place, cmdline_opts ):
  check_fault( level, 4, error, case, place, cmdline_opts )

@pytest.mark.parametrize( "level", ( "cl", "verilog" ) )
@pytest.mark.parametrize( ( "error", "case", "place" ), fault_rows( "alone", "loop" ) )
def test_faults_elsewhere( level, error, case, place, cmdline_opts ):
  check_fault( level, 4, error, case, place, cmdline_opts )

@pytest.mark.nightly
@pytest.mark.parametrize( ( "level", "n" ), ( ( "fl", 4 ), ( "rtl", 4 ), ( "verilog", 8 ), ( "verilog", 16 ) ) )
@pytest.mark.parametrize( ( "error", "case", "place" ), fault_rows( "alone", "busy", "loop" ) )
def test_faults_at_length( level, n, error, case, place, cmdline_opts ):
  check_fault( level, n, error, case, place, cmdline_opts )

def test_every_error_is_provoked() -> None:
  """Together with the mailbox, below."""
  assert { e for _, e, _, _ in FAULTS } | { Error.BAD_MAILBOX } == set( Error ) - { Error.NONE }

@pytest.mark.parametrize( "level", LEVELS )
def test_skipped_instructions( level, cmdline_opts ):
  """What an instruction would be refused for does not matter if its condition does not hold."""
  skipped = []
  for _, _, _, bad in FAULTS:
    code    = bytearray( in_bytes( bad ) )
    code[1] = code[1] & 0xF0 | Cond.SCORE
    case = Case( [ bytes( code ), HALT ] )
    if World( PRESETS["edge4"], case ).expected[0].result.error == Error.NONE:
      skipped.append( bytes( code ) )
  assert len( skipped ) > 60
  check( level, 4, Case( [ LOAD, *skipped, HALT ] ), CALM, cmdline_opts )

# What is wrong with a mailbox, and what is only nearly wrong.
MAILBOXES: list[tuple[str, dict[str, int], bool]] = [
  ( "no_limit",          { "LIMIT": 0 }, False ),
  ( "five_eos",          { "EOS_COUNT": 5 }, False ),
  ( "many_eos",          { "EOS_COUNT": 1 << 31 }, False ),
  ( "eos_8",             { "EOS_COUNT": 8 }, False ),
  ( "pos_past_len",      { "POS": 4 }, False ),
  ( "pos_far",           { "POS": FAR }, False ),
  ( "len_past_context",  { "LEN": CONTEXT + 1 }, False ),
  ( "len_far",           { "LEN": FAR, "POS": 2 }, False ),
  ( "len_and_pos_far",   { "LEN": FAR, "POS": FAR }, False ),
  ( "tokens_past",       { "TOKENS": LINES - 1 }, False ),
  ( "tokens_at_the_end", { "TOKENS": LINES }, False ),
  ( "tokens_far",        { "TOKENS": FAR }, False ),
  ( "context_far",       { "CONTEXT": FAR }, False ),
  ( "context_28",        { "CONTEXT": ( 1 << 28 ) - 1 }, False ),
  ( "context_30",        { "CONTEXT": ( 1 << 30 ) - 1 }, False ),
  ( "context_line_more", { "CONTEXT": 16 * ( LINES - 2 ), "PROGRAM": 40 }, False ),
  ( "context_all",       { "CONTEXT": 16 * ( LINES - 2 ) - 1 }, True ),
  ( "no_memory",         { "DRAM_LINES": 0 }, False ),
  ( "memory_to_tokens",  { "DRAM_LINES": 4 }, True ),
  ( "memory_line_less",  { "DRAM_LINES": 3 }, False ),
  ( "everything_done",   { "POS": 3 }, True ),
  ( "len_is_context",    { "CONTEXT": 3 }, True ),
  ( "no_context",        { "CONTEXT": 0, "LEN": 0 }, True ),
  ( "four_eos",          { "EOS_COUNT": 4 }, True ),
  ( "limit_far",         { "LIMIT": FAR }, True ),
  ( "memory_far",        { "DRAM_LINES": FAR }, True ),
  ( "all_far",           dict.fromkeys( ( "FLAGS", "POS", "LEN", "LIMIT", "EOS_COUNT", "PROGRAM", "PROGRAM_COUNT",
                                          "TOKENS", "CONTEXT",
                                          "DRAM_LINES", "WRITABLE" ), FAR ), False ),
]

@pytest.mark.parametrize( "level", ( "fl", "cl", "verilog" ) )
@pytest.mark.parametrize( ( "words", "good" ), [ pytest.param( w, g, id=name ) for name, w, g in MAILBOXES ] )
def test_mailboxes( level, words, good, cmdline_opts ):
  case   = Case( [ COPY, EMIT ], { "LIMIT": 7, **words } )
  result = World( PRESETS["edge4"], case ).expected[0].result
  assert ( result.error != Error.BAD_MAILBOX ) == good
  check( level, 4, case, CALM, cmdline_opts )

# Programs that are not there, or not all of it: name, error, pc, code, words.
PROGRAMS: list[tuple[str, Error, int, list, dict[str, int]]] = [
  ( "no_instruction",      Error.BAD_PC,     0, [], {} ),
  ( "no_end",              Error.BAD_PC,     2, [ PASS, COPY ], {} ),
  ( "last_one_skipped",    Error.BAD_PC,     2, [ PASS, HALT.but( cond=Cond.SCORE ) ], {} ),
  ( "jump_to_the_end",     Error.BAD_PC,     1, [ jump( 1 ) ], {} ),
  ( "jump_past_the_end",   Error.BAD_PC,     7, [ LOAD, jump( 7 ), HALT ], {} ),
  ( "shorter_count",       Error.BAD_PC,     1, [ PASS, HALT ], { "PROGRAM_COUNT": 1 } ),
  ( "program_past",        Error.BAD_DRAM,   0, [ PASS ], { "PROGRAM": LINES } ),
  ( "program_far",         Error.BAD_DRAM,   0, [ PASS ], { "PROGRAM": FAR } ),
  ( "program_far_in_far_memory", Error.BAD_DRAM, 0, [ PASS ], { "PROGRAM": FAR, "DRAM_LINES": FAR } ),
  ( "program_over_the_end", Error.BAD_DRAM,  2, [ PASS, PASS, HALT ], { "PROGRAM": LINES - 1 } ),
  ( "program_over_the_end_odd", Error.BAD_DRAM, 3, [ jump( 3 ) ], { "PROGRAM": LINES - 1, "PROGRAM_COUNT": 9 } ),
  ( "jump_over_the_end",   Error.BAD_DRAM,   FAR - 1, [ jump( FAR - 1 ) ], { "PROGRAM_COUNT": FAR } ),
  ( "jump_over_4_gib",     Error.BAD_DRAM,   1 << 27, [ jump( 1 << 27 ) ], { "PROGRAM_COUNT": FAR } ),
  ( "jump_wraps",          Error.BAD_DRAM,   FAR - 15, [ jump( FAR - 15 ) ], { "PROGRAM_COUNT": FAR } ),
  ( "not_in_the_memory",   Error.BAD_DRAM,   0, [ PASS ], { "DRAM_LINES": 8 } ),
  ( "loop_of_nothing",     Error.NO_PROGRESS, 1, [ PASS, jump( 0 ) ], {} ),
  ( "jump_to_itself",      Error.NO_PROGRESS, 0, [ jump( 0 ) ], {} ),
  ( "two_loops",           Error.NO_PROGRESS, 3, [ jump( 2 ), jump( 3 ), jump( 1 ), jump( 0 ) ], {} ),
  ( "emits_for_ever",      Error.NO_PROGRESS, 1, [ EMIT, jump( 0 ) ], { "LIMIT": 20 } ),
  ( "emits_to_the_end",    Error.BAD_POSITION, 1, [ EMIT, mk( "PASS" ), HALT ], { "LIMIT": 20 } ),
  ( "rows_256",            Error.BAD_SIZE,   1, [ PASS.but( limit=0xFFFFF ), COPY.but( rows=0 ) ],
    { "LEN": 256, "CONTEXT": 256, "TOKENS": 100 } ),
  ( "rows_257",            Error.BAD_SIZE,   1, [ PASS.but( limit=0xFFFFF ), GEMM.but( rows=0 ) ],
    { "LEN": 257, "CONTEXT": 257, "TOKENS": 100 } ),
  ( "rows_256_attend",     Error.BAD_SIZE,   1, [ PASS.but( limit=0xFFFFF ), ATT ],
    { "LEN": 256, "CONTEXT": 256, "TOKENS": 100 } ),
  ( "rows_256_load",       Error.BAD_SIZE,   1, [ PASS.but( limit=0xFFFFF ), LOAD.but( rows=0 ) ],
    { "LEN": 256, "CONTEXT": 256, "TOKENS": 100 } ),
  ( "rows_257_store",      Error.BAD_SIZE,   1, [ PASS.but( limit=0xFFFFF ), STORE.but( rows=0 ) ],
    { "LEN": 257, "CONTEXT": 257, "TOKENS": 100 } ),
  ( "rows_260_embed",      Error.BAD_SIZE,   1, [ PASS.but( limit=260 ), EMBED.but( rows=0 ) ],
    { "LEN": 300, "CONTEXT": 300, "TOKENS": 100 } ),
  ( "last_far",            Error.BAD_DRAM,   2, [ PASS.but( limit=0xFFFFF ), LOAD.but( rel=Rel.LAST, row_lines=3 ),
                                                  LOAD.but( rel=Rel.LAST, row_lines=4 ) ],
                                                  { "LEN": 257, "CONTEXT": 257, "TOKENS": 900 } ),
  ( "advance_far",         Error.BAD_DRAM,   3, [ PASS.but( limit=0xFFFFF ), ADVANCE,
                                                  LOAD.but( rel=Rel.POS, row_lines=3 ),
                                                  LOAD.but( rel=Rel.POS, row_lines=4 ) ],
                                                  { "LEN": 300, "CONTEXT": 300, "TOKENS": 900 } ),
  ( "late_token",          Error.BAD_TOKEN,  1, [ PASS.but( limit=16 ), EMBED ], { "LEN": 20, "POS": 5 } ),
  ( "cache_of_positions",  Error.BAD_POSITION, 2, [ PASS, ATT.but( chunks=2 ), ATT.but( chunks=1 ) ],
    { "LEN": 17, "POS": 14 } ),
]

@pytest.mark.parametrize( "level", ( "fl", "cl", "verilog" ) )
@pytest.mark.parametrize( ( "error", "pc", "code", "words" ), [ pytest.param( *row[1:],
    id=row[0] ) for row in PROGRAMS ] )
def test_programs( level, error, pc, code, words, cmdline_opts ):
  case   = Case( code, words )
  result = World( PRESETS["edge4"], case ).expected[0].result
  assert ( result.status, result.error, result.pc ) == ( Status.ERROR, error, pc )
  check( level, 4, case, CALM, cmdline_opts )

#-------------------------------------------------------------------------
# Schedule
#-------------------------------------------------------------------------

CLOCKED = ( "cl", "rtl", "verilog" )

def times( events: list[tuple], *what: Any ) -> list[int]:
  """Cycles in which something happened."""
  return [ e[0] for e in events if e[1 : 1 + len( what )] == what ]

def events_of( level: str, code: list, timing: Timing, opts: dict, **words: int ) -> list[tuple]:
  cfg = PRESETS["edge4"]
  return simulate( cfg, level, World( cfg, Case( code, words ) ), timing, opts )

# From reset to the end of the run, with a memory of latency 5 at n = 4.
CYCLES = {
  "halt":             33,
  "load":             50,
  "embed":            71,
  "store":            45,
  "gemm":             48,
  "vector":           47,
  "basic":            55,
  "lengths":         515,
  "long_program":    233,    # two a control instruction
  "jump_far":         49,
  "loop":            725,
}

@pytest.mark.parametrize( "level", CLOCKED )
@pytest.mark.parametrize( "name", sorted( CYCLES ) )
def test_cycles( level, name, cmdline_opts ):
  ( case, timing ), = ( ( case, timing ) for row, _, _, case, timing in ROWS if row == name )
  cfg = PRESETS["edge4"]
  assert simulate( cfg, level, World( cfg, case ), timing, cmdline_opts )[-1][0] == CYCLES[name]

@pytest.mark.parametrize( "level", CLOCKED )
def test_units_work_at_the_same_time( level, cmdline_opts ):
  """Without wait masks, everything is dispatched long before the first of it is finished."""
  events = events_of( level, [ *BUSY, HALT ], Timing( work=400 ), cmdline_opts )
  first  = min( t for u in ( "MAC", "VEC", "ATT" ) for t in times( events, f"{u} done" ) )
  for what in ( "MAC command", "MAC start", "VEC command", "ATT command", "load", "spad_rd" ):
    assert times( events, what )[0] < first - 200

@pytest.mark.parametrize( "level", CLOCKED )
def test_gemm_is_sent_before_it_may_start( level, cmdline_opts ):
  """Its weights stream while the vector unit works; what writes memory must be finished, though."""
  events = events_of( level, [ COPY, GEMM.but( wait=int( Unit.VEC ) ), HALT ], Timing( work=100 ), cmdline_opts )
  assert times( events, "MAC command" )[0] < times( events, "VEC done" )[0] - 80
  assert times( events, "VEC done" )[0] < times( events, "MAC start" )[0]
  events = events_of( level, [ PASS, ATT, GEMM.but( wait=int( Unit.ATT ) ), HALT ], Timing( work=100 ), cmdline_opts )
  assert times( events, "ATT done" )[0] < times( events, "MAC command" )[0]

@pytest.mark.parametrize( "level", CLOCKED )
@pytest.mark.parametrize( "unit", ( Unit.MAC, Unit.VEC, Unit.ATT, Unit.LOAD, Unit.STORE ) )
def test_waits_says_which_unit( level, unit, cmdline_opts ):
  """The port names the unit while it is waited for, and only then."""
  code   = [ PASS, *[ i for i in BUSY if i.format.unit == unit ], WAIT.but( wait=int( unit ) ), HALT ]
  events = [ e for e in events_of( level, code, Timing( work=100, gap=9 ), cmdline_opts ) if e[1] == "pc, waits" ]
  masks  = { e[3] for e in events }
  assert int( unit ) in masks and masks <= { 0, int( unit ), *( [ int( Unit.LOAD ) ] if unit == Unit.LOAD else [] ) }
  waited = sum( b[0] - a[0] for a, b in pairwise( events ) if a[3] == unit and a[2] == len( code ) - 2 )
  assert waited > 50

@pytest.mark.parametrize( "level", CLOCKED )
def test_no_waits_without_masks( level, cmdline_opts ):
  """A program that depends on nothing waits for nothing until it ends."""
  events = events_of( level, [ PASS, COPY, GEMM, LOAD, STORE.but( src=300 ), ATT, HALT ], Timing( work=3 ),
                      cmdline_opts )
  assert { e[3] for e in events if e[1] == "pc, waits" and e[2] < 6 } == { 0 }

@pytest.mark.parametrize( "level", CLOCKED )
def test_loads_stream( level, cmdline_opts ):
  """A long LOAD takes a beat a cycle, whatever the latency; many rows of one beat are not much slower."""
  for code, beats, slack in ( ( [ LOAD.but( length=4000 ), HALT ], 1000, 150 ),
                              ( [ LOAD.but( rows=16, row_lines=3, length=160, dst_stride=40 ), HALT ], 640, 200 ) ):
    done = times( events_of( level, code, Timing( latency=40 ), cmdline_opts ), "spad_wr" )
    assert len( done ) == beats and done[-1] - done[0] < beats + slack

@pytest.mark.parametrize( "level", CLOCKED )
def test_stores_stream( level, cmdline_opts ):
  """A long STORE writes a beat a cycle."""
  done = times( events_of( level, [ STORE.but( length=4000 ), HALT ], CALM, cmdline_opts ), "store" )
  assert len( done ) == 1000 and done[-1] - done[0] < 1020

@pytest.mark.parametrize( "level", CLOCKED )
def test_loads_queue( level, cmdline_opts ):
  """A second LOAD is accepted while the first is at work, so that what follows is not held up."""
  events = events_of( level, [ LOAD.but( length=400 ), LOAD, COPY, HALT ], Timing( gap=4 ), cmdline_opts )
  assert times( events, "VEC command" )[0] < times( events, "spad_wr" )[-1] - 200

#-------------------------------------------------------------------------
# Other configurations, and values from elsewhere
#-------------------------------------------------------------------------

@pytest.mark.parametrize( "level", LEVELS )
@pytest.mark.parametrize( "m_max", ( 1, 3, 64 ) )
def test_other_row_counts( level, m_max, cmdline_opts ):
  """m_max is a parameter; one row more is refused."""
  cfg  = PRESETS["edge4"].but( m_max=m_max, name=f"rows{m_max}" )
  code = [ PASS.but( limit=m_max ), LOAD.but( rows=m_max, row_lines=1, dst=0, length=9 ),
           EMBED.but( vocab=200, dst=300, rows=m_max ),
           STORE.but( rows=0, src=0, row_lines=1, wait=int( Unit.LOAD ) ), LOAD.but( rows=m_max + 1 ), HALT ]
  world = World( cfg, Case( code, { "CONTEXT": 80, "PROGRAM": 40 }, prompt=range( 80 ) ) )
  assert ( world.expected[0].result.error, world.expected[0].result.pc ) == ( Error.BAD_SIZE, 4 )
  check_cycles( cfg, level, world, CALM, simulate( cfg, level, world, CALM, cmdline_opts ) )

@pytest.mark.parametrize( "level", LEVELS )
def test_smallest_scratchpad( level, cmdline_opts ):
  """4 KiB: the last row is taken, the one after it refused; strides are wider than its addresses."""
  cfg   = PRESETS["edge4"].but( spad_bytes=4096, m_max=3, name="small" )
  world = World( cfg, Case( [ LOAD.but( dst=252 ), STORE.but( src=252, wait=8 ),
                              LOAD.but( rows=3, dst=2, dst_stride=125 ), LOAD.but( dst_stride=0x100 ),
                              LOAD.but( rows=2, dst_stride=0x100, length=1, dst=0 ), HALT ] ) )
  assert ( world.expected[0].result.error, world.expected[0].result.pc ) == ( Error.BAD_SPAD, 4 )
  check_cycles( cfg, level, world, CALM, simulate( cfg, level, world, CALM, cmdline_opts ) )

def test_moves_by_numpy() -> None:
  """Where words go, from slices of arrays: what the world expects is what the instruction set says."""
  cfg   = PRESETS["edge8"]
  code  = waiting( [
    PASS.but( limit=2 ), ADVANCE, PASS,
    LOAD.but( rows=3, rel=Rel.POS, dram=100, row_lines=5, length=21, dst=40, dst_stride=4 ),
    EMBED.but( dram=200, vocab=9, row_lines=4, dst=60, dst_stride=5, length=8 ),
    STORE.but( rows=2, rel=Rel.LAST, dram=600, row_lines=7, length=19, src=41, src_stride=6 ), ARGMAX, EMIT ] )
  world  = World( cfg, Case( code, prompt=( 1, 2, 7, 0, 8 ), found=( 1234567, ) ) )
  before = np.frombuffer( world.memory, np.uint32 ).reshape( -1, 16 )
  spad   = np.frombuffer( world.spad, np.uint32 ).reshape( -1, 8 ).copy()
  for r in range( 3 ):
    line = before[100 + 5 * ( 2 + r ) : 102 + 5 * ( 2 + r )].reshape( -1 )
    spad[40 + 4 * r : 43 + 4 * r] = np.pad( line[:21], ( 0, 3 ) ).reshape( 3, 8 )
    spad[60 + 5 * r] = before[200 + 4 * ( 7, 0, 8 )[r]][:8]
  after = before.copy()
  for r in range( 2 ):
    after[600 + 7 * ( 2 + r ) :][:2].reshape( -1 )[:19] = spad[41 + 6 * r :][:3].reshape( -1 )[:19]
  after[2, 5] = 1234567
  #                        POS LEN  STATUS ERROR PC COUNT
  after[0, [ 0, 2, 3, 10, 11, 12, 13 ]] = 0, 2, 6, int( Status.LIMIT ), 0, 7, 1
  assert world.expected[0].memory == after.tobytes() and world.expected[0].spad == spad.tobytes()

#-------------------------------------------------------------------------
# Reset
#-------------------------------------------------------------------------

def check_reset( level: str, n: int, at: int, opts: dict ) -> None:
  cfg   = PRESETS[f"edge{n}"]
  world = World( cfg, Case( [ LOAD.but( length=300 ), STORE.but( length=300, src=200 ), *LOOP ], { "LIMIT": 2 } ) )
  check_cycles( cfg, level, world, WILD, simulate( cfg, level, world, WILD, opts, reset_at=at ), reset_at=at )

@pytest.mark.parametrize( ( "level", "at" ), [
  *( ( level, at ) for level in ( "fl", "cl", "verilog" ) for at in ( 3, 9, 17, 30, 61, 100, 140, 200, 260, 333 ) ),
  ( "rtl", 40 ), ( "rtl", 150 ) ] )
def test_reset_in_a_run( level, at, cmdline_opts ):
  """A reset in the middle, and the memory as it was: the next run is as the first would have been."""
  check_reset( level, 4, at, cmdline_opts )

@pytest.mark.nightly
@pytest.mark.parametrize( "level", ( "verilog", ) )
@pytest.mark.parametrize( "n", ( 4, 16 ) )
@pytest.mark.parametrize( "at", range( 1, 900, 7 ) )
def test_reset_at_length( level, n, at, cmdline_opts ):
  check_reset( level, n, at, cmdline_opts )

#-------------------------------------------------------------------------
# Random programs
#-------------------------------------------------------------------------

class Programmer:
  """Makes random programs: mostly sensible ones, with wait masks that order what depends on each other, or not."""

  def __init__( self, seed: int, cfg: NpuConfig ) -> None:
    self.rng, self.cfg = random.Random( seed ), cfg

  def pick( self, *choices: Any ) -> Any:
    return self.rng.choice( choices )

  def spad( self ) -> int:
    """A row with room behind it; few, so that instructions meet."""
    return self.pick( 0, 3, 40, 100, self.rng.randrange( 300 ) )

  def instruction( self, at: int, count: int ) -> Instruction:
    """One that will probably be accepted."""
    rng  = self.rng
    rows = self.pick( 0, 0, 1, 2, 3 )
    cond = self.pick( *[ Cond.ALWAYS ] * 12, *Cond )
    kind = self.pick( *"LLLSSSEGGVVVAXXPDRWJ" )
    row  = { "rows": rows, "cond": int( cond ) }
    move = { **row, "length": self.pick( 1, 16, rng.randint( 1, 70 ), rng.randint( 1, 70 ) ),
             "row_lines": rng.randrange( 6 ) }
    if kind == "L":
      return mk( "LOAD", **move, rel=self.pick( 0, 0, *Rel ), dram=rng.randrange( 64, 300 ), dst=self.spad(),
                 dst_stride=rng.randrange( 20 ) )
    if kind == "S":
      return mk( "STORE", **move, rel=self.pick( 0, 0, Rel.LAST ), dram=rng.randrange( WRITABLE, 900 ), src=self.spad(),
                 src_stride=rng.randrange( 20 ) )
    if kind == "E":
      return mk( "EMBED", **move, dram=rng.randrange( 64, 400 ), dst=self.spad(), vocab=self.pick( 16, 16, 3, 5 ),
                 dst_stride=rng.randrange( 20 ) )
    if kind == "G":
      return GEMM.but( **row, mode=rng.randrange( 3 ), src=self.spad(), dst=self.spad(), src_stride=rng.randrange( 9 ),
                       dst_stride=rng.randrange( 9 ), flags=rng.randrange( 4 ), k=rng.randint( 1, 40 ),
                       cols=rng.randint( 1, 40 ) )
    if kind == "A":
      return ATT.but( **row, src=self.spad(), dst=self.spad(), src2=self.spad(), dram=rng.randrange( WRITABLE, 900 ) )
    if kind == "X":
      return ARGMAX.but( cond=int( cond ), src=self.spad(), base=rng.randrange( 1 << 32 ), first=rng.randrange( 2 ) )
    if kind == "V":
      op = self.pick( "RMSNORM", "ROPE", "SWIGLU", "ADD", "MUL", "SCALE", "QUANTIZE", "SOFTMAX", "COPY", "CONVERT" )
      extra: dict[str, Any] = { "QUANTIZE": { "bits": 16 }, "CONVERT": { "formats": rng.randrange( 4 ) },
                                "SCALE": { "factor": 0.5 } }.get( op, {} )
      if op not in ( "SCALE", "QUANTIZE", "SOFTMAX", "COPY", "CONVERT" ):
        extra["src2"] = self.spad()
      return mk( op, **row, **extra, rel=self.pick( 0, 0, 0, Rel.POS, Rel.LAST ), dst=self.spad(), src=self.spad(),
                 segments=rng.randint( 1, 3 ), length=2 * rng.randint( 1, 20 ), dst_stride=rng.randrange( 30 ),
                 src_stride=rng.randrange( 30 ) )
    if kind == "J":
      return jump( self.pick( at + 1, rng.randint( at + 1, count + 1 ), rng.randrange( count + 2 ) ), cond=int( cond ) )
    control = { "P": PASS.but( limit=self.pick( 1, 2, 3, 8 ) ), "D": ADVANCE, "W": WAIT,
                "R": mk( "SETROWS", rows=self.pick( 1, 2 ) ) }
    return control[kind].but( cond=int( cond ) )

  def program( self ) -> list[Instruction]:
    count = self.rng.randint( 1, 20 )
    body  = [ self.instruction( k, count ) for k in range( 1, count + 1 ) ]
    ends  = self.pick( [ HALT ], [ EMIT, HALT ], [ ARGMAX, EMIT, jump( 0 ) ],
                       [ ADVANCE, jump( 0, cond=Cond.PREFILL ), ARGMAX, EMIT, jump( 0 ) ], [] )
    return [ PASS.but( limit=self.pick( 1, 2, 3, 3, 8 ) ), *body, *ends ]

  def value( self, f: Field ) -> int:
    """Bits for a field: anything at all, small, a power of two or nearly."""
    top = ( 1 << f.width ) - 1
    return self.pick( self.rng.randint( 0, top ), self.rng.randint( 0, min( top, 16 ) ), top, 0,
                      min( top, max( 0, ( 1 << self.rng.randint( 0, f.width ) ) + self.rng.randint( -1, 1 ) ) ) )

  def mutate( self, code: list[Instruction] ) -> list[Instruction | bytes]:
    """One or two things wrong: a bit, a field, an instruction."""
    out: list[Instruction | bytes] = list( code )
    for _ in range( self.rng.randint( 1, 2 ) ):
      at    = self.rng.randrange( len( out ) )
      octets = bytearray( in_bytes( out[at] ) )
      kind  = self.rng.randrange( 5 )
      if kind == 0:
        octets[self.rng.randrange( 32 )] ^= 1 << self.rng.randrange( 8 )
      elif kind == 1:
        fmt    = self.rng.choice( FORMATS )
        octets = bytearray( raw( mk( fmt.mnemonic ), **{ f.name: self.value( f ) for f in fmt.fields } ) )
      elif kind == 2:
        octets = bytearray( self.rng.randbytes( 32 ) )
      elif isinstance( code[at], Instruction ):
        f = self.rng.choice( code[at].format.all_fields )
        octets = bytearray( raw( code[at], **{ f.name: self.value( f ) } ) )
      out[at] = bytes( octets )
    return out

  def mailbox( self ) -> dict[str, int]:
    words = { "LIMIT": self.pick( 1, 2, 3 ), "FLAGS": self.pick( 0, 0, 1, 2, 3 ), "EOS_COUNT": self.rng.randrange( 5 ),
              "EOS": 3, "EOS1": 1 << 20, "EOS2": 7, "EOS3": 9, "POS": self.pick( 0, 0, 1, 4 ) }
    if self.rng.random() < 0.2:
      name = self.pick( "POS", "LEN", "LIMIT", "EOS_COUNT", "CONTEXT", "FLAGS", "PROGRAM_COUNT", "DRAM_LINES", "EOS" )
      words[name] = self.pick( 0, 1, 4, 5, 8, 16, 31, 32, 33, 200, 1 << 31, FAR, self.rng.randrange( 1 << 32 ) )
    return words

  def case( self ) -> Case:
    """A program, a mailbox, and one to three runs."""
    code: list[Any] = self.program()
    words = self.mailbox()
    kind  = self.pick( "all", "all", "masks", "wrong", "mutated", "mutated" )
    if kind == "masks":
      code = assign_waits( self.cfg, code, self.cfg.m_max )
    elif kind == "wrong":
      code = [ i.but( wait=self.pick( 0, 0, 0, self.rng.randrange( 32 ) ) ) for i in code ]
    else:
      code = waiting( code )
      if kind == "mutated":
        code = self.mutate( code )
    if any( words.get( name, 0 ) > 31 for name in ( "CONTEXT", "DRAM_LINES" ) ):
      # Tokens would lie in the program, or memory where there is none.
      words = { k: v for k, v in words.items() if k not in ( "CONTEXT", "DRAM_LINES" ) }
    return Case( code, words, found=[ self.pick( 0, 1, 2, 3, 7, 9, 20, 1 << 20, FAR ) for _ in range( 5 ) ],
                 prompt=[ self.rng.randrange( self.pick( *[ 4 ] * 9, 20 ) ) for _ in range( 6 ) ],
                 runs=( {}, ) * self.pick( 1, 1, 1, 2, 3 ), early=self.pick( False, False, True ),
                 ordered=kind in ( "all", "masks" ) )

timings = st.builds(
  Timing, latency=st.integers( 1, 60 ), gap=st.sampled_from( ( 1, 1, 2, 4 ) ),
  stall_seed=st.none() | st.integers( 0, 99 ), ack=st.integers( 0, 20 ),
  work=st.integers( 0, 80 ), seed=st.none() | st.integers( 0, 99 ) )

def fuzz( level: str, n: int, examples: int ) -> None:
  cfg = PRESETS[f"edge{n}"]
  @settings( max_examples=examples, suppress_health_check=list( HealthCheck ) )
  @given( st.integers( 0, 1 << 40 ), timings )
  def run( seed, timing ):
    check( level, n, Programmer( seed, cfg ).case(), timing, seed=seed & 0xFFFF )
  run()

@pytest.mark.parametrize( "level", LEVELS )
def test_a_fetch_outlasts_its_run( level ):
  """A run of 16 instructions per beat ends in three cycles; the memory grants what was asked for ahead later."""
  timing = Timing( latency=53, gap=2, stall_seed=40, work=3, seed=91 )
  check( level, 16, Programmer( 900, PRESETS["edge16"] ).case(), timing, seed=900 )

@pytest.mark.parametrize( ( "level", "n", "examples" ), [
  ( "fl", 4, 12 ), ( "fl", 16, 6 ), ( "cl", 4, 30 ), ( "cl", 8, 20 ), ( "cl", 16, 20 ), ( "rtl", 4, 5 ),
  ( "verilog", 4, 50 ), ( "verilog", 8, 20 ), ( "verilog", 16, 20 ) ] )
def test_random( level, n, examples ):
  fuzz( level, n, examples )

@pytest.mark.nightly
@pytest.mark.parametrize( ( "level", "n", "examples" ), [
  ( "fl", 8, 300 ), ( "cl", 4, 1000 ), ( "cl", 16, 300 ), ( "rtl", 4, 60 ), ( "rtl", 8, 30 ), ( "verilog", 4, 2000 ),
  ( "verilog", 8, 500 ),
  ( "verilog", 16, 500 ) ] )
def test_random_at_length( level, n, examples ):
  fuzz( level, n, examples )

def test_random_programs_are_of_all_kinds() -> None:
  """Most errors and statuses come up, and not only at the first instruction."""
  ends = [ e.result for seed in range( 300 ) for e in World( PRESETS["edge4"],
                                                             Programmer( seed, PRESETS["edge4"] ).case() ).expected ]
  assert { r.error for r in ends } >= set( Error ) - { Error.BAD_FIELD, Error.BAD_SIZE }
  assert { r.status for r in ends } >= { Status.EOS, Status.LIMIT, Status.SCORED, Status.ERROR }
  assert sum( r.error == Error.NONE for r in ends ) > 60 and sum( r.pc > 8 for r in ends ) > 60
