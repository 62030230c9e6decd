"""The whole functional NPU: an end to every program, hand-written ones, mutated ones, and to any mailbox."""

import random
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any

import numpy as np
import pytest

from fl.controller import Registers, holds
from fl.npu import NpuFL
from npu.arch.config import LINE_BYTES, NpuConfig
from npu.arch.isa import (
  FORMATS,
  INSTRUCTION_BYTES,
  Cond,
  Error,
  Field,
  GemmFlag,
  GemmMode,
  Instruction,
  Rel,
  Status,
  decode,
  encode,
  mk,
)
from npu.arch.mailbox import Flag, Word
from tests.machine.sessions import CONFIGS, NANO_VOCAB, Images

@pytest.fixture( scope="module" )
def images( tmp_path_factory: pytest.TempPathFactory ) -> Images:
  return Images( tmp_path_factory.mktemp( "images" ) )

@contextmanager
def alarm( seconds: int, what: str ) -> Iterator[None]:
  """Turn a run that does not end into a failure that says which one."""
  def ring( signum: int, frame: FrameType | None ) -> None:
    raise TimeoutError( f"no end after {seconds} s: {what}" )
  before = signal.signal( signal.SIGALRM, ring )
  signal.alarm( seconds )
  try:
    yield
  finally:
    signal.alarm( 0 )
    signal.signal( signal.SIGALRM, before )

#-------------------------------------------------------------------------
# Hand-written programs
#-------------------------------------------------------------------------

SMALL   = NpuConfig( name="hand", n=16, m_max=8, spad_bytes=16384, k_max=1024 )
ROWS    = 256                 # of SMALL's scratchpad
LINES   = 512                 # of DRAM
PROGRAM = 8                   # lines 8 to 15, 16 instructions
CONTEXT = 31                  # token buffer in lines 2 and 3
ONES    = 120                 # a line of ones
PEAK    = 121                 # a line of FP32 whose largest element is number 5

Code = Sequence[Instruction | bytes]

def machine( code: Code, **words: int ) -> NpuFL:
  """A machine with that program; the mailbox asks for one token from a prompt of three, unless `words`
  say otherwise."""
  npu = NpuFL( SMALL, np.zeros( LINES * LINE_BYTES, dtype=np.uint8 ) )
  octets = b"".join( i if isinstance( i, bytes ) else encode( i ) for i in code )
  npu.dram[PROGRAM * LINE_BYTES :][: len( octets )] = np.frombuffer( octets, dtype=np.uint8 )
  usual = { "PROGRAM": PROGRAM, "PROGRAM_COUNT": len( code ), "TOKENS": 2, "CONTEXT": CONTEXT,
            "DRAM_LINES": LINES, "LEN": 3, "LIMIT": 1, "DOORBELL": 1 }
  for name, value in usual.items():
    npu.mailbox[Word[name]] = value
  npu.mailbox.tokens[:3] = ( 5, 6, 7 )
  for name, value in words.items():
    npu.mailbox[Word[name]] = value
  npu.dram.view( np.uint32 )[16 * ONES : 16 * ONES + 16] = 0xFFFFFFFF
  npu.dram.view( np.float32 )[16 * PEAK + 5] = 1.0
  return npu

PASS  = mk( "PASS", limit=8 )
COPY  = mk( "COPY", rows=1, segments=1, length=16 )
GEMM  = mk( "GEMM", rows=1, dram=16, dst=8, k=16, cols=16 )
EMBED = mk( "EMBED", dram=16, vocab=8, length=16, row_lines=1, dst_stride=1 )
LOAD  = mk( "LOAD", rows=1, dram=16, length=16 )
STORE = mk( "STORE", rows=1, dram=LINES - 1, length=16 )
ATT   = mk( "ATTEND", dram=32, dst=128, heads=2, kv_heads=1, src2=2, length=16, chunks=2, dst_stride=2, src_stride=4,
            factor=1.0 )

def raw( i: Instruction, **fields: int ) -> bytes:
  """An instruction with fields set to bits that `encode` may not know: ( word, low bit, width, value )."""
  words = np.frombuffer( encode( i ), dtype=np.uint32 ).copy()
  places = { f.name: f for f in i.format.all_fields } | { "opcode": Field( "opcode", 0, 0, 8, "" ) }
  for name, value in fields.items():
    f = places[name]
    words[f.word] = ( int( words[f.word] ) & ~( ( ( 1 << f.width ) - 1 ) << f.low ) ) | value << f.low
  return words.tobytes()

# Each code ends at `pc` with the error; what comes before it must have been accepted.
#   name, error, pc, program, and words of the mailbox if it is not the usual one
ERROR_ROWS: list[tuple[Any, ...]] = [
  ( "opcode 0",                          "BAD_OPCODE",   1,  [ PASS, bytes( 32 ) ] ),
  ( "opcode 0xFF",                       "BAD_OPCODE",   2,  [ PASS, COPY, raw( PASS, opcode=0xFF ) ] ),
  ( "opcode of nothing",                 "BAD_OPCODE",   0,  [ raw( PASS, opcode=0x41 ) ] ),

  ( "condition",                         "BAD_FIELD",    0,  [ raw( PASS, cond=5 ) ] ),
  ( "register",                          "BAD_FIELD",    1,  [ PASS, raw( LOAD, rel=5 ) ] ),
  ( "unit in the wait mask",             "BAD_FIELD",    1,  [ PASS, raw( COPY, wait=0x20 ) ] ),
  ( "GEMM mode",                         "BAD_FIELD",    1,  [ PASS, raw( GEMM, mode=7 ) ] ),
  ( "GEMM flag",                         "BAD_FIELD",    1,  [ PASS, raw( GEMM, flags=4 ) ] ),
  ( "GEMM group",                        "BAD_FIELD",    1,  [ PASS, GEMM.but( group=4 ) ] ),
  ( "formats of CONVERT",                "BAD_FIELD",    1,
    [ PASS, raw( mk( "CONVERT", segments=1, length=1 ), formats=4 ) ] ),
  ( "bits of QUANTIZE",                  "BAD_FIELD",    1,
    [ PASS, mk( "QUANTIZE", segments=1, length=1, bits=4 ) ] ),
  ( "relative GEMM",                     "BAD_FIELD",    1,  [ PASS, GEMM.but( rel=Rel.POS ) ] ),
  ( "relative EMBED",                    "BAD_FIELD",    1,  [ PASS, EMBED.but( rel=Rel.POS ) ] ),
  ( "relative ARGMAX",                   "BAD_FIELD",    1,
    [ PASS, mk( "ARGMAX", rows=1, length=1, rel=Rel.LAST ) ] ),
  ( "relative ATTEND",                   "BAD_FIELD",    1,  [ PASS, ATT.but( rel=Rel.POS ) ] ),
  ( "status of HALT: idle",              "BAD_FIELD",    0,  [ mk( "HALT" ) ] ),
  ( "status of HALT: running",           "BAD_FIELD",    0,  [ mk( "HALT", status=Status.RUNNING ) ] ),
  ( "status of HALT: error",             "BAD_FIELD",    0,  [ mk( "HALT", status=Status.ERROR ) ] ),
  ( "status of HALT: undefined",         "BAD_FIELD",    0,  [ raw( mk( "HALT" ), status=6 ) ] ),

  ( "LOAD past the end",                 "BAD_DRAM",     1,
    [ LOAD.but( dram=LINES - 1 ), LOAD.but( dram=LINES ) ] ),
  ( "LOAD, one word too many",           "BAD_DRAM",     0,
    [ LOAD.but( dram=LINES - 1, length=17 ) ] ),
  ( "LOAD, last row",                    "BAD_DRAM",     1,
    [ LOAD.but( rows=2, dram=LINES - 2, row_lines=1 ),
      LOAD.but( rows=2, dram=LINES - 2, row_lines=2 ) ] ),
  ( "LOAD, far",                         "BAD_DRAM",     0,  [ LOAD.but( dram=0xFFFFFFFF ) ] ),
  ( "LOAD, relative",                    "BAD_DRAM",     1,
    [ PASS, LOAD.but( rel=Rel.LEN, dram=LINES - 3, row_lines=1 ) ] ),
  ( "STORE past the end",                "BAD_DRAM",     1,  [ STORE, STORE.but( dram=LINES ) ] ),
  ( "EMBED table past the end",          "BAD_DRAM",     2,
    [ PASS, EMBED.but( dram=LINES - 8 ), EMBED.but( dram=LINES - 7 ) ] ),
  ( "GEMM stream past the end",          "BAD_DRAM",     1,
    [ GEMM.but( dram=LINES - 5 ), GEMM.but( dram=LINES - 4 ) ] ),
  ( "GEMM stream with bias",             "BAD_DRAM",     0,
    [ GEMM.but( dram=LINES - 5, flags=GemmFlag.BIAS ) ] ),
  ( "GEMM of the largest size",          "BAD_DRAM",     0,  [ GEMM.but( cols=0xFFFFF, k=1024 ) ] ),
  ( "cache past the end",                "BAD_DRAM",     2,
    [ PASS, ATT.but( dram=LINES - 34 ), ATT.but( dram=LINES - 33 ) ] ),
  ( "program outside of memory",         "BAD_DRAM",     0,  [ PASS ], { "PROGRAM": LINES } ),

  ( "program across the end",            "BAD_OPCODE",   0,
    [ PASS ] * 2, { "PROGRAM": LINES - 1, "PROGRAM_COUNT": 9 } ),

  ( "src past the end",                  "BAD_SPAD",     1,
    [ COPY.but( src=ROWS - 1 ), COPY.but( src=ROWS ) ] ),
  ( "dst past the end",                  "BAD_SPAD",     1,
    [ COPY.but( dst=ROWS - 1 ), COPY.but( dst=ROWS ) ] ),
  ( "one lane too many",                 "BAD_SPAD",     0,  [ COPY.but( src=ROWS - 1, length=17 ) ] ),
  ( "one segment too many",              "BAD_SPAD",     1,
    [ COPY.but( dst=ROWS - 2, segments=2 ), COPY.but( dst=ROWS - 2, segments=3 ) ] ),
  ( "last token row",                    "BAD_SPAD",     1,
    [ COPY.but( rows=2, src=ROWS - 3, src_stride=2 ),
      COPY.but( rows=2, src=ROWS - 3, src_stride=3 ) ] ),
  ( "src moved by a register",           "BAD_SPAD",     2,
    [ PASS, COPY.but( rel=Rel.LEN, src=ROWS - 4, src_stride=1 ),
      COPY.but( rel=Rel.LEN, src=ROWS - 3, src_stride=1 ) ] ),
  ( "second operand",                    "BAD_SPAD",     0,
    [ mk( "ADD", rows=1, segments=1, length=16, src2=ROWS ) ] ),
  ( "gain",                              "BAD_SPAD",     0,
    [ mk( "RMSNORM", rows=1, segments=1, length=17, src2=ROWS - 1 ) ] ),
  ( "RoPE table",                        "BAD_SPAD",     0,
    [ mk( "ROPE", rows=1, segments=1, length=34, src2=ROWS - 1 ) ] ),
  ( "RoPE halves in whole rows",         "BAD_SPAD",     1,
    [ mk( "ROPE", rows=1, segments=1, length=18, src=ROWS - 2 ),
      mk( "ROPE", rows=1, segments=1, length=2, src=ROWS - 1 ) ] ),
  ( "ARGMAX",                            "BAD_SPAD",     0,
    [ mk( "ARGMAX", rows=1, length=16, src=ROWS ) ] ),
  ( "LOAD to outside",                   "BAD_SPAD",     0,  [ LOAD.but( dst=ROWS ) ] ),
  ( "STORE from outside",                "BAD_SPAD",     0,  [ STORE.but( src=ROWS ) ] ),
  ( "GEMM result",                       "BAD_SPAD",     0,  [ GEMM.but( dst=ROWS ) ] ),
  ( "GEMM operand",                      "BAD_SPAD",     0,  [ GEMM.but( src=ROWS ) ] ),
  ( "GEMM residual",                     "BAD_SPAD",     1,
    [ GEMM.but( src2=ROWS ), GEMM.but( src2=ROWS, flags=GemmFlag.RESIDUAL ) ] ),
  ( "ATTEND queries",                    "BAD_SPAD",     1,  [ PASS, ATT.but( src=ROWS - 8 ) ] ),
  ( "ATTEND keys and values",            "BAD_SPAD",     1,  [ PASS, ATT.but( src2=ROWS - 9 ) ] ),
  ( "ATTEND result",                     "BAD_SPAD",     1,  [ PASS, ATT.but( dst=ROWS - 5 ) ] ),

  ( "ROWS is zero before any pass",      "ZERO_SIZE",    0,  [ COPY.but( rows=0 ) ] ),
  ( "SETROWS to zero",                   "ZERO_SIZE",    2,
    [ PASS, mk( "SETROWS" ), COPY.but( rows=0 ) ] ),
  ( "length",                            "ZERO_SIZE",    0,  [ COPY.but( length=0 ) ] ),
  ( "segments",                          "ZERO_SIZE",    0,  [ COPY.but( segments=0 ) ] ),
  ( "LOAD of nothing",                   "ZERO_SIZE",    0,  [ LOAD.but( length=0 ) ] ),
  ( "STORE of nothing",                  "ZERO_SIZE",    0,  [ STORE.but( length=0 ) ] ),
  ( "EMBED of nothing",                  "ZERO_SIZE",    1,  [ PASS, EMBED.but( length=0 ) ] ),
  ( "no vocabulary",                     "ZERO_SIZE",    1,  [ PASS, EMBED.but( vocab=0 ) ] ),
  ( "K",                                 "ZERO_SIZE",    0,  [ GEMM.but( k=0 ) ] ),
  ( "columns",                           "ZERO_SIZE",    0,  [ GEMM.but( cols=0 ) ] ),
  ( "heads",                             "ZERO_SIZE",    1,  [ PASS, ATT.but( heads=0 ) ] ),

  ( "K beyond k_max",                    "BAD_SIZE",     0,  [ GEMM.but( k=1025 ) ] ),
  ( "rows beyond m_max",                 "BAD_SIZE",     1,
    [ COPY.but( rows=8, src_stride=1, dst_stride=1 ), COPY.but( rows=9 ) ] ),
  ( "ROWS beyond m_max",                 "BAD_SIZE",     1,
    [ mk( "SETROWS", rows=200 ), COPY.but( rows=0 ) ] ),
  ( "odd head",                          "BAD_SIZE",     0,
    [ mk( "ROPE", rows=1, segments=1, length=7 ) ] ),
  ( "K not in whole groups",             "BAD_SIZE",     0,
    [ GEMM.but( mode=GemmMode.I16_G4, group=1, k=48 ) ] ),
  ( "heads that do not divide",          "BAD_SIZE",     1,  [ PASS, ATT.but( heads=3, kv_heads=2 ) ] ),
  ( "head not in whole rows",            "BAD_SIZE",     1,  [ PASS, ATT.but( length=24 ) ] ),

  ( "token at the vocabulary size",      "BAD_TOKEN",    2,
    [ PASS, EMBED.but( vocab=8 ), EMBED.but( vocab=7 ) ] ),
  ( "first token of the pass",           "BAD_TOKEN",    1,  [ PASS, EMBED.but( vocab=5 ) ] ),

  ( "a pass of no rows",                 "BAD_POSITION", 0,  [ mk( "PASS" ) ] ),
  ( "a pass with nothing to do",         "BAD_POSITION", 2,  [ PASS, mk( "ADVANCE" ), PASS ] ),
  ( "everything processed already",      "BAD_POSITION", 0,  [ PASS ], { "POS": 3 } ),
  ( "advance past the text",             "BAD_POSITION", 2,
    [ PASS, mk( "ADVANCE" ), mk( "ADVANCE" ) ] ),
  ( "advance by SETROWS",                "BAD_POSITION", 1,
    [ mk( "SETROWS", rows=4 ), mk( "ADVANCE" ) ] ),
  ( "EMBED past the text",               "BAD_POSITION", 1,  [ PASS, EMBED.but( rows=4 ) ] ),
  ( "EMBED after the last token",        "BAD_POSITION", 2,  [ PASS, mk( "ADVANCE" ), EMBED ] ),
  ( "ATTEND past the cache",             "BAD_POSITION", 1,
    [ PASS, ATT.but( chunks=1 ) ], { "POS": 14, "LEN": 17 } ),

  ( "jump to itself",                    "NO_PROGRESS",  1,  [ PASS, mk( "JUMP", target=1 ) ] ),
  ( "loop without ADVANCE",              "NO_PROGRESS",  2,  [ PASS, COPY, mk( "JUMP", target=0 ) ] ),
  ( "two loops at one position",         "NO_PROGRESS",  3,
    [ mk( "JUMP", target=2 ), mk( "JUMP", target=3 ), mk( "JUMP", target=1 ),
      mk( "JUMP", target=0 ) ] ),
  ( "loop with an ADVANCE by nothing",   "NO_PROGRESS",  2,
    [ mk( "SETROWS" ), mk( "ADVANCE" ), mk( "JUMP", target=0 ) ] ),
  ( "loop that emits",                   "NO_PROGRESS",  1,
    [ mk( "EMIT" ), mk( "JUMP", target=0 ) ], { "LIMIT": 20 } ),

  ( "no end",                            "BAD_PC",       2,  [ PASS, COPY ] ),
  ( "no instruction at all",             "BAD_PC",       0,  [] ),
  ( "jump to the end",                   "BAD_PC",       2,  [ mk( "JUMP", target=2 ), PASS ] ),
  ( "jump far away",                     "BAD_PC",       0xFFFFFFFF,
    [ PASS, mk( "JUMP", target=0xFFFFFFFF ) ] ),
  ( "last instruction left out",         "BAD_PC",       2,  [ PASS, COPY.but( cond=Cond.SCORE ) ] ),

  ( "no tokens asked for",               "BAD_MAILBOX",  0,  [ PASS ], { "LIMIT": 0 } ),
  ( "five EOS tokens",                   "BAD_MAILBOX",  0,  [ PASS ], { "EOS_COUNT": 5 } ),
  ( "position after the text",           "BAD_MAILBOX",  0,  [ PASS ], { "POS": 4 } ),
  ( "text longer than the context",      "BAD_MAILBOX",  0,  [ PASS ], { "LEN": CONTEXT + 1 } ) ]

@pytest.mark.parametrize( "row", ERROR_ROWS, ids=lambda r: f"{r[1]}: {r[0]}" )
def test_errors( row: tuple[Any, ...] ) -> None:
  """The error and where: instructions before it were accepted, ends of ranges among them."""
  _, name, pc, code, words = row if len( row ) == 5 else ( *row, {} )
  error, npu = Error[name], machine( code, **words )
  with alarm( 20, "hand-written program" ):
    result = npu.run()
  assert ( result.status, result.error, result.pc ) == ( Status.ERROR, error, pc )
  box = npu.mailbox
  assert ( box[Word.STATUS], box[Word.ERROR], box[Word.PC], box[Word.DOORBELL] ) == ( Status.ERROR, error, pc, 0 )

def test_every_error_is_provoked() -> None:
  assert { Error[row[1]] for row in ERROR_ROWS } == set( Error ) - { Error.NONE }

# Programs that store over the mailbox or name memory that is not there: only a broken image does.
STRAY_ROWS: list[tuple[str, Code, dict[str, int]]] = [
  ( "token buffer outside, EMBED",  [ PASS, EMBED ], { "TOKENS": LINES } ),
  ( "token buffer outside, EMIT",   [ PASS, mk( "EMIT" ) ], { "TOKENS": LINES } ),
  ( "token buffer across the end",  [ PASS, EMBED ], { "TOKENS": LINES - 1, "LEN": CONTEXT, "POS": CONTEXT - 8 } ),
  ( "text past the memory",         [ PASS, EMBED ], { "CONTEXT": 1 << 30, "LEN": 1 << 20, "POS": 1048575 } ),
  ( "mailbox stored over",          [ PASS, LOAD.but( dram=ONES ), STORE.but( dram=1 ), mk( "EMIT" ) ], {} ),
  ( "token number beyond 32 bits",  [ PASS, LOAD.but( dram=PEAK ),
                                      mk( "ARGMAX", rows=1, length=16, base=0xFFFFFFFC, first=1 ),
                                      mk( "EMIT" ) ], {} ),
  ( "EMBED rows longer than apart", [ PASS, EMBED.but( dram=LINES - 8, length=64 ) ], {} ),
  ( "EMBED rows of no distance",    [ PASS, EMBED.but( dram=LINES, row_lines=0 ) ], {} ) ]

@pytest.mark.parametrize( "code, words", [ r[1:] for r in STRAY_ROWS ], ids=[ r[0] for r in STRAY_ROWS ] )
def test_broken_images_end_with_a_status( code: Code, words: dict[str, int] ) -> None:
  """Not with a Python exception, and with no word read from outside of the memory."""
  npu = machine( code, **words )
  with alarm( 20, "broken image" ):
    assert npu.run().status not in ( Status.IDLE, Status.RUNNING )

@pytest.mark.parametrize( "operands", [ { "length": 64 }, { "dram": LINES, "row_lines": 0 } ],
                          ids=( "rows overlap", "rows of no distance" ) )
def test_embed_stays_inside_the_memory( operands: dict[str, int] ) -> None:
  """The last row of the table is `length` words, however near to each other its rows are."""
  result = machine( [ PASS, EMBED.but( **{ "dram": LINES - 8, **operands } ) ] ).run()
  assert ( result.error, result.pc ) == ( Error.BAD_DRAM, 1 )

@pytest.mark.parametrize( "i, good", [
  ( mk( "STORE", dram=100, src=0, rows=2, length=16, src_stride=2, row_lines=1 ), True ),
  ( mk( "STORE", dram=99, src=0, rows=2, length=16, src_stride=2, row_lines=1 ), False ),
  ( mk( "LOAD", dram=99, dst=0, rows=2, length=16, dst_stride=2, row_lines=1 ), True ) ],
  ids=( "write", "write below", "read below" ) )
def test_a_program_writes_only_where_it_may( i: Instruction, good: bool ) -> None:
  """Below WRITABLE are the program itself, the tables and the weights."""
  result = machine( [ PASS, i ], WRITABLE=100 ).run()
  assert result.error == ( Error.BAD_PC if good else Error.BAD_DRAM )

def test_a_refused_mailbox_is_left_alone() -> None:
  """POS and LEN are the host's: after BAD_MAILBOX they say what they said, so that it can mend the rest."""
  npu = machine( [ PASS ], POS=2, LEN=3, LIMIT=0 )
  assert npu.run().error == Error.BAD_MAILBOX
  assert ( npu.mailbox[Word.POS], npu.mailbox[Word.LEN] ) == ( 2, 3 )

HOLDS_ROWS = [
  # cond            flags: none   LOGITS  SCORE   both;  at the end of the text: none, SCORE
  ( Cond.ALWAYS,    ( True,  True,  True,  True,  True,  True ) ),
  ( Cond.PREFILL,   ( True,  True,  False, False, False, False ) ),
  ( Cond.GENERATE,  ( True,  True,  False, False, True,  False ) ),
  ( Cond.SCORE,     ( False, False, True,  True,  False, True ) ),
  ( Cond.LOGITS,    ( False, True,  True,  True,  False, True ) ) ]

@pytest.mark.parametrize( "cond, expect", HOLDS_ROWS, ids=[ r[0].name for r in HOLDS_ROWS ] )
def test_conditions( cond: Cond, expect: tuple[bool, ...] ) -> None:
  middle, end = Registers( pos=2, len=3 ), Registers( pos=3, len=3 )
  states = ( ( middle, 0 ), ( middle, 1 ), ( middle, 2 ), ( middle, 3 ), ( end, 0 ), ( end, 2 ) )
  assert tuple( holds( cond, replace( r, flags=flags ) ) for r, flags in states ) == expect

def test_load_store_and_embed() -> None:
  """Which words go where: strides on both sides, relative addresses, padding lanes."""
  npu  = machine( [] )
  dram = npu.dram.view( np.uint32 ).reshape( LINES, 16 )
  dram[:] = np.arange( LINES * 16 ).reshape( LINES, 16 )
  npu.mailbox[Word.TOKENS], npu.mailbox[Word.CONTEXT] = 2, CONTEXT
  npu.spad[:] = 9
  npu.r = Registers( pos=2, len=5, rows=3, token=4, tokens=2, context=CONTEXT, lines=LINES )
  npu.execute( mk( "LOAD", rel=Rel.POS, rows=2, dram=100, dst=10, length=20, dst_stride=3, row_lines=4 ) )
  for row, line in ( ( 10, 108 ), ( 13, 112 ) ):
    assert npu.spad[row : row + 2].reshape( -1 ).tolist() == [ *range( line * 16, line * 16 + 20 ), *[ 0 ] * 12 ]
  assert ( npu.spad[12] == 9 ).all() and ( npu.spad[15] == 9 ).all()
  npu.execute( mk( "STORE", rel=Rel.LAST, rows=2, dram=200, src=10, length=18, src_stride=3, row_lines=5 ) )
  for line, first in ( ( 210, 108 ), ( 215, 112 ) ):
    assert dram[line : line + 2].reshape( -1 )[:18].tolist() == list( range( first * 16, first * 16 + 18 ) )
    assert dram[line + 1, 2] == ( line + 1 ) * 16 + 2                # only the words asked for
  npu.mailbox.tokens[:5] = ( 0, 0, 7, 0, 3 )
  npu.execute( mk( "EMBED", dram=300, dst=30, vocab=8, length=16, dst_stride=2, row_lines=2 ) )
  assert [ int( npu.spad[30 + 2 * r, 0] ) // 16 for r in range( 3 ) ] == [ 314, 300, 306 ]

#-------------------------------------------------------------------------
# Mutated programs
#-------------------------------------------------------------------------

@dataclass
class Mutator:
  """Makes broken programs out of a good one."""
  rng: random.Random
  program: bytes

  def value( self, f: Field ) -> int:
    """Bits for a field: small, a power of two or nearly, or anything at all."""
    top = ( 1 << f.width ) - 1
    return self.rng.choice( [
      self.rng.randint( 0, top ), self.rng.randint( 0, min( top, 16 ) ),
      min( top, max( 0, ( 1 << self.rng.randint( 0, f.width ) ) + self.rng.randint( -1, 1 ) ) ), top, 0 ] )

  def instruction( self ) -> bytes:
    """A random instruction: anything at all, or a known one with random or with zero operands."""
    if self.rng.random() < 0.1:
      return self.rng.randbytes( INSTRUCTION_BYTES )
    fmt   = self.rng.choice( FORMATS )
    words = [ fmt.opcode, 0, 0, 0, 0, 0, 0, 0 ]
    for f in fmt.all_fields:
      if f.name in ( "cond", "rel", "wait" ) and self.rng.random() < 0.8:
        continue
      words[f.word] |= self.value( f ) << f.low
    return b"".join( w.to_bytes( 4, "little" ) for w in words )

  def changed_field( self, at: int ) -> bytes:
    """An instruction of the program with one field replaced: mostly still sensible."""
    code = self.program[at : at + INSTRUCTION_BYTES]
    f    = self.rng.choice( decode( code ).format.all_fields )
    word = int.from_bytes( code[4 * f.word : 4 * f.word + 4], "little" )
    word = word & ~( ( ( 1 << f.width ) - 1 ) << f.low ) | self.value( f ) << f.low
    return code[: 4 * f.word] + word.to_bytes( 4, "little" ) + code[4 * f.word + 4 :]

  def mutate( self ) -> bytes:
    """The program with one to three things wrong."""
    code = bytearray( self.program )
    for _ in range( self.rng.randint( 1, 3 ) ):
      at   = self.rng.randrange( len( code ) // INSTRUCTION_BYTES ) * INSTRUCTION_BYTES
      kind = self.rng.randrange( 4 )
      if kind == 0:
        code[self.rng.randrange( len( code ) )] ^= 1 << self.rng.randrange( 8 )
      elif kind == 1:
        code[at : at + INSTRUCTION_BYTES] = self.instruction()
      elif kind == 2:
        code[at : at + INSTRUCTION_BYTES] = self.changed_field( at )
      else:                                              # another instruction of the program in its place
        other = self.rng.randrange( len( code ) // INSTRUCTION_BYTES ) * INSTRUCTION_BYTES
        code[at : at + INSTRUCTION_BYTES] = self.program[other : other + INSTRUCTION_BYTES]
    return bytes( code )

def fuzz( images: Images, seed: int, count: int ) -> dict[Status, int]:
  """Run `count` mutated programs; each must end by itself, and say how. Returns how they ended."""
  rng   = random.Random( seed )
  image = images.image( context=24 )
  clean = np.array( image.dram )
  start = int( clean[4 * Word.PROGRAM : 4 * Word.PROGRAM + 4].view( np.uint32 )[0] ) * LINE_BYTES
  size  = int( clean[4 * Word.PROGRAM_COUNT : 4 * Word.PROGRAM_COUNT + 4].view( np.uint32 )[0] ) * INSTRUCTION_BYTES
  mutator = Mutator( rng, clean[start : start + size].tobytes() )
  cfg     = CONFIGS[16].but( spad_bytes=1 << 20 )
  ends    = dict.fromkeys( Status, 0 )
  for i in range( count ):
    npu = NpuFL( cfg, clean.copy() )
    npu.dram[start : start + size] = np.frombuffer( mutator.mutate(), dtype=np.uint8 )
    box, prompt = npu.mailbox, rng.randint( 1, 20 )
    box.tokens[:prompt] = [ rng.randrange( NANO_VOCAB ) for _ in range( prompt ) ]
    box[Word.LEN], box[Word.LIMIT], box[Word.DOORBELL] = prompt, rng.randint( 1, 3 ), 1
    box[Word.FLAGS] = rng.choice( ( 0, Flag.LOGITS, Flag.SCORE, Flag.LOGITS | Flag.SCORE ) )
    what = f"seed {seed}, program {i}"
    with alarm( 60, what ):
      try:
        result = npu.run()
      except Exception as e:
        raise AssertionError( f"{what}: {type( e ).__name__}: {e}" ) from e
    assert result.status in ( *( Status( s ) for s in range( 2, 6 ) ), Status.ERROR ), what
    assert ( result.status == Status.ERROR ) == ( result.error != Error.NONE ), what
    ends[result.status] += 1
  return ends

def test_mutated_programs_end( images: Images ) -> None:
  """Each of 400 ends with a status: some as if nothing had happened, most with an error."""
  ends = fuzz( images, 2024, 400 )
  assert ends[Status.ERROR] > 100 and ends[Status.LIMIT] > 20 and ends[Status.SCORED] > 20

@pytest.mark.nightly
@pytest.mark.parametrize( "seed", range( 10 ) )
def test_many_mutated_programs_end( images: Images, seed: int ) -> None:
  assert sum( fuzz( images, seed, 1000 ).values() ) == 1000

def test_random_mailboxes_end( images: Images ) -> None:
  """Whatever the host writes into its words, a run ends with a status."""
  rng, clean = random.Random( 5 ), np.array( images.image( context=24 ).dram )
  for i in range( 200 ):
    npu = NpuFL( CONFIGS[16], clean.copy() )
    box = npu.mailbox
    for word in ( Word.FLAGS, Word.POS, Word.LEN, Word.LIMIT, Word.EOS_COUNT, *( Word.EOS + j for j in range( 4 ) ) ):
      box[Word( word ) if word in list( Word ) else word] = rng.choice(
        ( 0, 1, 2, 3, 24, 25, rng.randrange( 30 ), rng.randrange( 1 << 32 ), 0xFFFFFFFF ) )
    box.tokens[:] = [ rng.choice( ( rng.randrange( NANO_VOCAB ), rng.randrange( 1 << 32 ) ) ) if rng.random() < 0.02
                      else rng.randrange( NANO_VOCAB ) for _ in range( 25 ) ]
    with alarm( 60, f"mailbox {i}" ):
      assert npu.run().status not in ( Status.IDLE, Status.RUNNING )
