"""What the controller refuses at every level: instructions, mailboxes, programs that are not there."""

import pytest

from npu.arch.config import PRESETS
from npu.arch.isa import Cond, Error, Instruction, Rel, Status, mk
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
  STORE,
  WAIT,
  jump,
  raw,
)
from tests.controller.simulation import LEVELS, check, check_cycles, simulate
from tests.controller.world import ALL_UNITS, CALM, CONTEXT, LINES, WILD, WRITABLE, Case, Timing, World, in_bytes

#-------------------------------------------------------------------------
# Instructions
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

#-------------------------------------------------------------------------
# Mailboxes and programs
#-------------------------------------------------------------------------

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
