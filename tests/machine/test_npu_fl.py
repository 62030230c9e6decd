"""The whole functional NPU: one answer whatever the geometry and the passes, how a run ends, and what it counts."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from fl.npu import Result
from npu.arch.config import LINE_BYTES
from npu.arch.isa import Error, Status, decode
from npu.arch.mailbox import Flag, Word
from npu.compiler.build import compile_model
from npu.compiler.image import load_image
from npu.compiler.precision import PRECISIONS
from npu.runtime.device import Device
from tests.machine.sessions import CONFIGS, NANO_VOCAB, TOKENS, Images, decoded, last_logits, scored, text

@pytest.fixture( scope="module" )
def images( tmp_path_factory: pytest.TempPathFactory ) -> Images:
  return Images( tmp_path_factory.mktemp( "images" ) )

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
  s = Device( load_image( path ) )
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

def index_of( s: Device, mnemonic: str ) -> int:
  """Where the only instruction of that name is in the program."""
  box   = s.npu.mailbox
  start = box[Word.PROGRAM] * LINE_BYTES
  code  = [ decode( s.npu.dram[start + 32 * i : start + 32 * i + 32].tobytes() ).mnemonic
            for i in range( box[Word.PROGRAM_COUNT] ) ]
  assert code.count( mnemonic ) == 1
  return code.index( mnemonic )

def mailbox( s: Device ) -> dict[str, int]:
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
