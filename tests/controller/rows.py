"""Programs that the controller must run to a good end, and how each ends: the table of its suite."""

import struct

from npu.arch.isa import Cond, Instruction, Rel, Status, Unit, mk
from npu.arch.mailbox import Flag
from tests.controller.instructions import (
  ADVANCE,
  ARGMAX,
  ATT,
  BUSY,
  COPY,
  EMBED,
  EMIT,
  FAR,
  GEMM,
  HALT,
  LOAD,
  LOOP,
  PASS,
  RMSNORM,
  STORE,
  WAIT,
  jump,
  raw,
)
from tests.controller.world import CALM, LINES, WILD, WRITABLE, Case, Timing, waiting

#-------------------------------------------------------------------------
# Programs
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

#-------------------------------------------------------------------------
# The table
#-------------------------------------------------------------------------

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
