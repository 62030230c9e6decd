"""The whole functional NPU: one answer whatever the geometry and the passes, and an end to every program."""

import random
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fl.controller import Registers, holds
from fl.npu import NpuFL, Result
from npu.arch.config import LINE_BYTES, PRESETS, NpuConfig
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
from npu.compiler.build import compile_model
from npu.compiler.image import Image, load_image
from npu.compiler.program import PRECISIONS
from npu.runtime.session import Session

#-------------------------------------------------------------------------
# Images
#-------------------------------------------------------------------------

CONFIGS = { 4: PRESETS["edge4"], 8: PRESETS["edge8"], 16: PRESETS["edge16"] }

class Images:
  """Compiled embedded models, each made once; every session has a memory of its own."""

  def __init__( self, folder: Path ) -> None:
    self.folder = folder

  def image( self, model: str = "nano", n: int = 16, precision: str = "w8a16", pass_rows: int | None = None,
             context: int = 64 ) -> Image:
    """An image; its DRAM is private to the caller."""
    path = self.folder / f"{model}-{n}-{precision}-{pass_rows}-{context}.npu"
    if not path.exists():
      compile_model( model, path, CONFIGS[n], precision, context, pass_rows )
    return load_image( path )

  def session( self, model: str = "nano", n: int = 16, precision: str = "w8a16", pass_rows: int | None = None,
               context: int = 64 ) -> Session:
    """An NPU with an image."""
    return Session( self.image( model, n, precision, pass_rows, context ) )

@pytest.fixture( scope="module" )
def images( tmp_path_factory: pytest.TempPathFactory ) -> Images:
  return Images( tmp_path_factory.mktemp( "images" ) )

def text( vocab: int, length: int, seed: int = 7 ) -> list[int]:
  """Random tokens."""
  return [ int( t ) for t in np.random.default_rng( seed ).integers( 0, vocab, length ) ]

NANO_VOCAB = 384
TOKENS     = text( NANO_VOCAB, 40 )

Bits = NDArray[np.uint32]

def scored( s: Session, tokens: list[int] ) -> Bits:
  """Bit patterns of the logits of all positions [len( tokens ), vocabulary]."""
  return np.concatenate( [ rows.copy() for rows in s.score( tokens ) ] ).view( np.uint32 )

def last_logits( s: Session ) -> Bits:
  """Bit patterns of the logits that the last GENERATE pass stored."""
  return s._logits[0, : s.vocab].copy().view( np.uint32 )

def decoded( s: Session, tokens: list[int] ) -> Bits:
  """The same logits as `scored`, from decode: a run for each token, which the host then puts in place of
  the one that the NPU found."""
  s.load_prompt( tokens[:1] )
  box, found = s.npu.mailbox, []
  for following in [ *tokens[1:], 0 ]:
    assert s.ring( 1, Flag.LOGITS ).status == Status.LIMIT
    found.append( last_logits( s ) )
    box.tokens[box[Word.LEN] - 1] = following
  return np.stack( found )

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
# One answer
#-------------------------------------------------------------------------

@pytest.mark.parametrize( "precision", PRECISIONS )
def test_prefill_equals_decode( images: Images, precision: str ) -> None:
  """Passes of 1, 2, 3, 5 and 16 rows, and decode token by token: the same logits, bit for bit."""
  expect = decoded( images.session( precision=precision ), TOKENS )
  assert len( np.unique( expect, axis=0 ) ) > len( TOKENS ) // 2     # they do depend on the position
  for pass_rows in ( 1, 2, 3, 5, 16 ):
    got = scored( images.session( precision=precision, pass_rows=pass_rows ), TOKENS )
    assert np.array_equal( got, expect ), f"passes of {pass_rows}"

@pytest.mark.parametrize( "precision", [ p for p in PRECISIONS if p != "bf16" ] )
def test_results_do_not_depend_on_n( images: Images, precision: str ) -> None:
  """Integer precisions: n = 4, 8, 16 and their scratchpads of different sizes give the same logits."""
  expect = scored( images.session( precision=precision ), TOKENS )
  for n in ( 4, 8 ):
    assert np.array_equal( scored( images.session( n=n, precision=precision ), TOKENS ), expect ), f"n = {n}"

def test_bf16_depends_on_n_alone( images: Images ) -> None:
  """Floating sums of n products do depend on n, slightly; for each n all passes agree."""
  by_n = []
  for n in ( 4, 8, 16 ):
    found = [ scored( images.session( n=n, precision="bf16", pass_rows=p ), TOKENS ) for p in ( 1, 3, 16 ) ]
    assert np.array_equal( found[0], found[1] ) and np.array_equal( found[0], found[2] )
    by_n.append( found[0].view( np.float32 ) )
  for other in by_n[1:]:
    assert not np.array_equal( by_n[0], other )
    assert np.abs( by_n[0] - other ).max() < 0.2

def test_tiny_does_so_too( images: Images ) -> None:
  """The larger embedded model: two geometries, three ways to cut, tiles of the vocabulary, once."""
  tokens = text( 1024, 33 )
  expect = scored( images.session( "tiny" ), tokens )
  assert np.array_equal( decoded( images.session( "tiny" ), tokens ), expect )
  assert np.array_equal( scored( images.session( "tiny", n=8, pass_rows=3 ), tokens ), expect )
  assert np.array_equal( scored( images.session( "tiny", n=4, pass_rows=5 ), tokens ), expect )

@pytest.mark.parametrize( "spad_bytes", ( 1 << 13, 1 << 14, 1 << 16 ) )
def test_results_do_not_depend_on_the_scratchpad( images: Images, tmp_path: Path, spad_bytes: int ) -> None:
  """A small scratchpad means short passes and a head in many parts; the same tokens and logits."""
  path = tmp_path / "small.npu"
  program = compile_model( "nano", path, CONFIGS[4].but( spad_bytes=spad_bytes ), "w8a16", 64 )
  assert ( spad_bytes > 1 << 13 ) or ( len( program.tiles ) > 1 and program.spad.pass_rows < 16 )
  s = Session( load_image( path ) )
  assert np.array_equal( scored( s, TOKENS ), scored( images.session(), TOKENS ) )
  assert s.generate( TOKENS[:9], 12, stop_at_eos=False ).tokens == \
    images.session().generate( TOKENS[:9], 12, stop_at_eos=False ).tokens

def test_score_equals_generate( images: Images ) -> None:
  """The logits that picked each generated token are those that scoring the text gives; so is the token."""
  s = images.session()
  s.load_prompt( TOKENS[:7] )
  picked, box = [], s.npu.mailbox
  for _ in range( 10 ):
    s.ring( 1, Flag.LOGITS )
    picked.append( last_logits( s ) )
  out = [ int( t ) for t in box.tokens[: box[Word.LEN]] ]
  expect = scored( images.session(), out[:-1] )[6:]
  assert np.array_equal( np.stack( picked ), expect )
  assert out[7:] == [ int( row.argmax() ) for row in expect.view( np.float32 ) ]
  assert images.session().generate( TOKENS[:7], 10, stop_at_eos=False ).tokens == out[7:]

def test_a_run_leaves_nothing_behind( images: Images ) -> None:
  """After another prompt, an error and a score, the same NPU answers as a new one."""
  s = images.session()
  expect = images.session().generate( TOKENS[:5], 8, stop_at_eos=False ).tokens
  s.generate( TOKENS[10:30], 20, stop_at_eos=False )
  s.load_prompt( TOKENS[:3] )
  s.npu.mailbox.tokens[1] = NANO_VOCAB
  s.npu.mailbox[Word.LIMIT] = 1
  assert s.npu.run().error == Error.BAD_TOKEN
  list( s.score( TOKENS[:20] ) )
  assert s.generate( TOKENS[:5], 8, stop_at_eos=False ).tokens == expect

#-------------------------------------------------------------------------
# Statuses and the mailbox
#-------------------------------------------------------------------------

def index_of( s: Session, mnemonic: str ) -> int:
  """Where the only instruction of that name is in the program."""
  box   = s.npu.mailbox
  start = box[Word.PROGRAM] * LINE_BYTES
  code  = [ decode( s.npu.dram[start + 32 * i : start + 32 * i + 32].tobytes() ).mnemonic
            for i in range( box[Word.PROGRAM_COUNT] ) ]
  assert code.count( mnemonic ) == 1
  return code.index( mnemonic )

def mailbox( s: Session ) -> dict[str, int]:
  """What the NPU says."""
  words = ( Word.DOORBELL, Word.POS, Word.LEN, Word.STATUS, Word.ERROR, Word.PC, Word.COUNT )
  return { w.name: s.npu.mailbox[w] for w in words }

def test_limit( images: Images ) -> None:
  """A run ends with its last token; the token itself is not processed yet."""
  s = images.session()
  s.load_prompt( TOKENS[:20] )
  seen: list[int] = []
  result = s.ring( 5, on_token=seen.append )
  emit   = index_of( s, "EMIT" )
  assert result == Result( Status.LIMIT, Error.NONE, emit, 5 )
  assert mailbox( s ) == { "DOORBELL": 0, "POS": 24, "LEN": 25, "STATUS": Status.LIMIT, "ERROR": 0, "PC": emit,
                           "COUNT": 5 }
  assert [ int( t ) for t in s.npu.mailbox.tokens[:25] ] == TOKENS[:20] + seen
  assert not s.npu.mailbox.tokens[25:].any()

@pytest.mark.parametrize( "position", ( 0, 3 ) )
def test_eos( images: Images, position: int ) -> None:
  """An EOS token ends the run, is in the buffer, and is reported; of four EOS tokens any will do."""
  free = images.session().generate( TOKENS[:6], 8, stop_at_eos=False ).tokens
  stop = free[position]
  if stop in free[:position]:
    pytest.fail( f"pick another prompt: {free} repeats itself too early" )
  others = [ t for t in range( NANO_VOCAB ) if t not in free ]
  for eos in ( ( stop, ), ( others[0], others[1], others[2], stop ) ):
    s = images.session()
    s.load_prompt( TOKENS[:6] )
    result = s.ring( 8, eos=eos )
    assert result == Result( Status.EOS, Error.NONE, index_of( s, "EMIT" ), position + 1 )
    assert mailbox( s )["LEN"] == 7 + position
    assert [ int( t ) for t in s.npu.mailbox.tokens[6 : 7 + position] ] == free[: position + 1]

def test_eos_words_beyond_the_count_do_not_count( images: Images ) -> None:
  """A token left over in the EOS words from an earlier run ends nothing."""
  s    = images.session()
  free = images.session().generate( TOKENS[:6], 4, stop_at_eos=False ).tokens
  s.npu.mailbox[Word.EOS + 1] = free[1]
  s.load_prompt( TOKENS[:6] )
  assert s.ring( 4, eos=( NANO_VOCAB - 1, ) ).status == Status.LIMIT

def test_eos_comes_before_limit_and_limit_before_context( images: Images ) -> None:
  """When a token ends the run in several ways, this is what it is called."""
  token = images.session( context=20 ).generate( TOKENS[:20], 1, stop_at_eos=False ).tokens[0]
  for eos, limit, status in ( ( ( token, ), 1, Status.EOS ), ( (), 1, Status.LIMIT ), ( (), 2, Status.CONTEXT ) ):
    s = images.session( context=20 )
    s.load_prompt( TOKENS[:20] )
    assert s.ring( limit, eos=eos ).status == status

@pytest.mark.parametrize( "prompt", ( 1, 10, 19, 20 ) )
def test_context( images: Images, prompt: int ) -> None:
  """A full context ends the run: every position is used, and one token more than that is known."""
  s = images.session( context=20 )
  s.load_prompt( TOKENS[:prompt] )
  result = s.ring( 1000 )
  assert result == Result( Status.CONTEXT, Error.NONE, index_of( s, "EMIT" ), 21 - prompt )
  assert ( s.npu.mailbox[Word.POS], s.npu.mailbox[Word.LEN] ) == ( 20, 21 )
  wider = images.session( context=64 ).generate( TOKENS[:prompt], 21 - prompt, stop_at_eos=False ).tokens
  assert [ int( t ) for t in s.npu.mailbox.tokens[prompt:21] ] == wider
  s.npu.mailbox[Word.DOORBELL] = 1
  assert s.npu.run().error == Error.BAD_MAILBOX          # there is no room to go on

def test_scored( images: Images ) -> None:
  """Scoring stops after each pass, at HALT, and produces no tokens."""
  s = images.session()
  s.load_prompt( TOKENS[:20] )
  for rows, pos in ( ( 16, 16 ), ( 4, 20 ) ):
    result = s.ring( 1, Flag.SCORE )
    assert result == Result( Status.SCORED, Error.NONE, index_of( s, "HALT" ), 0 )
    assert mailbox( s ) == { "DOORBELL": 0, "POS": pos, "LEN": 20, "STATUS": Status.SCORED, "ERROR": 0,
                             "PC": index_of( s, "HALT" ), "COUNT": 0 }, rows

@pytest.mark.parametrize( "limits", [ ( 1, ) * 9, ( 4, 5 ), ( 8, 1 ), ( 2, 3, 4 ) ], ids=str )
def test_going_on_after_limit( images: Images, limits: tuple[int, ...] ) -> None:
  """Several doorbells are one long run: tokens, mailbox, KV cache and logits."""
  def finish( parts: Sequence[int] ) -> tuple[list[int], dict[str, int], bytes]:
    s = images.session()
    s.load_prompt( TOKENS[:18] )
    for limit in parts:
      assert s.ring( limit, Flag.LOGITS ).status == Status.LIMIT
    regions = { r["name"]: r for r in s.manifest["regions"] }
    state   = b"".join( s.npu.dram[r["line"] * LINE_BYTES :][: r["size"]].tobytes()
                        for name, r in regions.items() if name.startswith( "kv." ) )
    found   = mailbox( s )
    assert found.pop( "COUNT" ) == parts[-1]
    return [ int( t ) for t in s.npu.mailbox.tokens ], found, state + last_logits( s ).tobytes()
  assert finish( limits ) == finish( ( 9, ) )

def test_going_on_with_more_text( images: Images ) -> None:
  """A second turn: the host appends tokens after an answer, and only those are processed."""
  s = images.session()
  s.load_prompt( TOKENS[:10] )
  s.ring( 4 )
  box = s.npu.mailbox
  at  = box[Word.LEN]
  box.tokens[at : at + 12] = TOKENS[10:22]
  box[Word.LEN] = at + 12
  before = s.npu.counters.instructions
  assert s.ring( 6 ).status == Status.LIMIT
  whole  = [ int( t ) for t in box.tokens[: at + 12] ]
  assert [ int( t ) for t in box.tokens[at + 12 : at + 18] ] == \
    images.session().generate( whole, 6, stop_at_eos=False ).tokens
  assert s.npu.counters.instructions - before < 7 * box[Word.PROGRAM_COUNT]    # one prefill pass, six tokens

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
# Counters
#-------------------------------------------------------------------------

# Nano, w8a16, one token at position 0. A head of 16 is 2 x 8, padded to 32 lanes at n = 16 and to 16 at
# n = 8: so q, k and v have 8 heads of that, and o takes 4.
@pytest.mark.parametrize( "n, head", ( ( 16, 32 ), ( 8, 16 ) ) )
def test_counters_of_one_token( images: Images, n: int, head: int ) -> None:
  """Multiply-accumulates and bytes of a decode step, added up by hand."""
  s = images.session( n=n )
  s.load_prompt( TOKENS[:1] )
  s.ring( 1 )
  beat    = 4 * n
  tiles   = 384 // n
  macs    = 2 * ( 64 * 8 * head + 4 * head * 64 + 64 * 192 + 96 * 64 ) + 64 * 384
  attend  = 2 * ( 2 * 4 * head * 1 )
  # Output tiles of n columns: a beat of scales (and one of biases), then K rows of n bytes.
  qkv     = 8 * head // n * ( 2 * beat + 64 * n )
  o       = 64 // n * ( beat + 4 * head * n )
  gate_up = 192 // n * ( beat + 64 * n )
  down    = 64 // n * ( beat + 96 * n )
  logits  = tiles * ( beat + 64 * n )
  # One chunk of two KV heads in two layers: a line of exponents, 16 rows of keys and 16 of values.
  cache   = 2 * 2 * ( 64 + 2 * 16 * 2 * head )
  # Five gains, the embedding, a row of the RoPE table.
  loads   = 5 * 64 * 4 + 64 * 4 + max( beat, 4 * head // 2 )
  # PASS, EMBED, LOAD; 16 in each layer; 7 before the head, 3 in it; HALT and EMIT.
  fetched = 3 + 2 * 16 + 7 + 3 + 2
  c = s.npu.counters
  assert c.instructions == fetched
  assert c.macs == macs + attend
  # The token's number is fetched, too.
  assert c.dram_bytes_read == { "weights": 2 * ( qkv + o + gate_up + down ) + logits, "load": loads, "kv": cache,
                                "fetch": 32 * fetched + beat }
  # A key and a value row per KV head and layer, with its exponent a beat each.
  assert c.dram_bytes_written == { "kv_wr": 2 * 2 * 2 * ( 2 * head + beat ), "store": 0 }

def test_counters_add_up_over_runs( images: Images ) -> None:
  """Storing logits writes a row of them more; a prefill pass reads weights once for all its rows."""
  s = images.session()
  s.load_prompt( TOKENS[:1] )
  s.ring( 1 )
  first = s.npu.counters.dram_bytes_written.total()
  s.load_prompt( TOKENS[:1] )
  s.ring( 1, Flag.LOGITS )
  assert s.npu.counters.dram_bytes_written.total() == 2 * first + 4 * 384
  one, sixteen = images.session(), images.session()
  for t, tokens in ( ( one, TOKENS[:1] ), ( sixteen, TOKENS[:16] ) ):
    t.load_prompt( tokens )
    t.ring( 1 )
  # 15 more embeddings and rows of the RoPE table; the tokens are in one beat.
  more = sixteen.npu.counters.dram_bytes_read - one.npu.counters.dram_bytes_read
  assert more == { "load": 15 * ( 256 + 64 ) }

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
