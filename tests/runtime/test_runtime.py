"""The host's side: text and tokens, sampling, and what a session computes however it is asked."""

import json
import math
import random
import shutil
from collections import Counter
from itertools import pairwise
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, strategies as st
from tokenizers import Tokenizer, decoders, models

from npu.arch.config import get_config
from npu.arch.isa import Status
from npu.arch.mailbox import Word
from npu.compiler.build import compile_model
from npu.compiler.image import load_image
from npu.errors import NpuError
from npu.files import output_path
from npu.runtime.device import Device
from npu.runtime.sampling import Sampling, sample
from npu.runtime.text import StopTexts, TextCodec
from tests.helpers import CONFIG, NANO, REMOVED, expected_shapes, mk_chain, mk_checkpoint, random_tensors

def mk_session( folder: Path, precision: str = "w8a16", config: str = "edge16", context: int | None = None,
                pass_rows: int | None = None ) -> Device:
  """A session with the checkpoint in `folder`, compiled to a file beside it."""
  image = folder.with_suffix( ".npu" )
  compile_model( str( folder ), image, get_config( config ), precision, context, pass_rows )
  return Device( load_image( image ) )

def logits( session: Device, tokens: list[int] ) -> np.ndarray:
  """Logits of every position, [tokens, vocabulary]."""
  return np.concatenate( [ rows.copy() for rows in session.score( tokens ) ] )

# Of 64 positions, and untied, since a tied random model mostly repeats its last token.
RANDOM = { "seed": 3, "tie_word_embeddings": False }

@pytest.fixture( scope="module" )
def codec() -> TextCodec:
  return TextCodec( "nano" )

@pytest.fixture( scope="module" )
def session( tmp_path_factory: pytest.TempPathFactory ) -> Device:
  """The model RANDOM; tests share it, so each starts with a prompt of its own."""
  return mk_session( mk_checkpoint( tmp_path_factory.mktemp( "session" ) / "model", **RANDOM ) )

# Longer than two passes of 16 rows.
PROMPT = random.Random( 1 ).choices( range( 384 ), k=37 )

#-------------------------------------------------------------------------
# Text
#-------------------------------------------------------------------------

TEXTS = (
  pytest.param( "In the beginning", id="plain" ),
  pytest.param( "naïve café", id="two bytes" ),
  pytest.param( "10 € or 日本語", id="three bytes" ),
  pytest.param( "🎉 and 👩‍💻", id="four bytes and joined" ),
  pytest.param( "  two\n\n\tlines  ", id="white space" ),
  pytest.param( "\ufffd", id="the replacement character itself" ) )

@pytest.mark.parametrize( "text", TEXTS )
def test_text_survives_the_tokens( codec, text ):
  assert codec.decode( codec.encode( text ) ) == text

@pytest.mark.parametrize( "text", TEXTS )
def test_characters_stream_whole( codec, text ):
  push   = codec.stream()
  pieces = [ push( token ) for token in codec.encode( text ) ]
  # A replacement character is withheld in case its bytes go on.
  assert "".join( pieces ) == text.removesuffix( "\ufffd" )
  assert not any( "\ufffd" in piece for piece in pieces )

def test_a_character_appears_with_its_last_byte( codec ):
  push = codec.stream()
  assert [ push( t ) for t in codec.encode( "é€🎉" ) ] == [ "", "é", "", "", "€", "", "", "", "🎉" ]

@given( tokens=st.lists( st.integers( 0, 383 ), max_size=24 ) )
def test_any_tokens_stream_to_their_text( tokens ):
  codec = TextCodec( "nano" )
  push  = codec.stream()
  shown = ""
  for i, token in enumerate( tokens, 1 ):
    shown += push( token )
    # What has been shown is never taken back, and at most unfinished bytes are held.
    assert codec.decode( tokens[:i] ).startswith( shown )
  assert codec.decode( tokens )[len( shown ):].strip( "\ufffd" ) == ""

# Decoders that look at what stands beside a token, or put characters together from bytes; tokens that stand together.
DECODERS = (
  pytest.param( decoders.ByteLevel(), [ "H", "i", "Ġ", "you", "Ċ", "Ã", "©", "â", "Ĥ", "¬" ], id="bytes" ),
  pytest.param( decoders.Metaspace(), [ "▁", "▁He", "llo", "▁world", "!", "é" ], id="spaces" ),
  pytest.param( decoders.WordPiece( cleanup=False ), [ "he", "##llo", "##s", "world", "!" ], id="words" ),
  pytest.param( decoders.Sequence( [ decoders.ByteFallback(), decoders.Fuse(), decoders.Strip( " ", 1, 0 ) ] ),
                [ " a", "b", "<0xC3> <0xA9>", "<0xE2> <0x82> <0xAC>", " " ], id="byte fallback" ) )

@pytest.mark.parametrize( "decoder, pieces", DECODERS )
@given( data=st.data() )
def test_a_stream_is_what_decoding_all_gives( decoder, pieces, data ):
  units     = [ piece.split( " " ) if "<" in piece else [ piece ] for piece in pieces ] + [ [ "<s>" ] ]
  names     = [ name for unit in units for name in unit ]
  tokenizer = Tokenizer( models.WordLevel( { name: i for i, name in enumerate( names ) }, unk_token=names[0] ) )
  tokenizer.decoder = decoder
  tokenizer.add_special_tokens( [ "<s>" ] )
  codec  = TextCodec( mock.Mock( tokenizer=lambda: tokenizer ) )
  drawn  = data.draw( st.lists( st.sampled_from( units ), max_size=16 ) )
  tokens = [ names.index( name ) for unit in drawn for name in unit ]
  push, shown, text = codec.stream(), "", ""
  for i, token in enumerate( tokens, 1 ):
    shown += push( token )
    text   = codec.decode( tokens[:i] )
    # A decoder that fails at unfinished bytes takes back what it has said before.
    assert text.startswith( shown ) or text.endswith( "\ufffd" )
  assert text == codec.decode( tokens ) and text[len( shown ):].strip( "\ufffd" ) == ""

def test_a_stream_decodes_a_few_tokens_at_a_time( codec, monkeypatch ):
  sizes, decode = [], TextCodec.decode
  def spy( s: TextCodec, tokens: list[int] ) -> str:
    sizes.append( len( tokens ) )
    return decode( s, tokens )
  monkeypatch.setattr( TextCodec, "decode", spy )
  push   = codec.stream()
  tokens = codec.encode( "In the beginning was the word: é€🎉. " * 40 )
  assert "".join( push( token ) for token in tokens ) == "In the beginning was the word: é€🎉. " * 40
  for _ in range( 1000 ):
    assert push( 381 ) == ""
  assert max( sizes ) <= 12

def test_a_tokenizer_does_not_cut_or_fill_a_prompt( tmp_path, codec ):
  file = json.loads( ( NANO / "tokenizer.json" ).read_text() )
  file["truncation"] = { "direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0 }
  file["padding"]    = { "strategy": { "Fixed": 32 }, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 381,
                         "pad_type_id": 0, "pad_token": "<|endoftext|>" }
  ( tmp_path / "tokenizer.json" ).write_text( json.dumps( file ) )
  for text in ( "In", "In the beginning was the word" ):
    assert TextCodec( tmp_path ).encode( text ) == codec.encode( text )

#-------------------------------------------------------------------------
# Texts that end a text
#-------------------------------------------------------------------------

@pytest.mark.parametrize( "stops, pieces, expected, found", (
  pytest.param( [], [ "a", "b" ], [ "a", "b", "" ], False, id="none" ),
  pytest.param( [ "end" ], [ "the ", "end", " of" ], [ "the ", "" ], True, id="a piece" ),
  pytest.param( [ "end" ], [ "the e", "n", "d of" ], [ "the ", "", "" ], True, id="over pieces" ),
  pytest.param( [ "end" ], [ "en", "t", "en" ], [ "", "ent", "", "en" ], False, id="beginnings" ),
  pytest.param( [ "aab" ], [ "a", "a", "a", "b" ], [ "", "", "a", "" ], True, id="a beginning in a beginning" ),
  pytest.param( [ "\n\n" ], [ "x\n", "y\n", "\nz" ], [ "x", "\ny", "" ], True, id="new lines" ),
  pytest.param( [ "hello world", "lo" ], [ "hello world" ], [ "hel" ], True, id="the one that is complete first" ),
  pytest.param( [ "b", "abc" ], [ "xab", "c" ], [ "xa" ], True, id="the shorter one, in the longer one" ) ) )
def test_a_stop_text_ends_a_text( stops, pieces, expected, found ):
  cut   = StopTexts( stops )
  shown = []
  for piece in pieces:
    shown.append( cut.push( piece ) )
    if cut.found:
      break
  else:
    shown.append( cut.finish() )
  assert ( shown, cut.found, cut.shown ) == ( expected, found, len( "".join( expected ) ) )

@given( text=st.text( "ab", max_size=12 ), stops=st.lists( st.text( "ab", min_size=1, max_size=4 ), max_size=3 ),
        sizes=st.lists( st.integers( 1, 4 ), min_size=12, max_size=12 ) )
def test_a_stop_text_does_not_depend_on_the_pieces( text, stops, sizes ):
  def shown( pieces: list[str] ) -> str:
    cut, said = StopTexts( stops ), ""
    for piece in pieces:
      said += cut.push( piece )
      if cut.found:
        return said
    return said + cut.finish()
  cuts   = [ sum( sizes[:i] ) for i in range( len( sizes ) + 1 ) ]
  pieces = [ text[a:b] for a, b in pairwise( cuts ) if text[a:b] ]
  assert shown( pieces ) == shown( list( text ) )

def test_special_tokens_are_not_text( codec ):
  assert codec.decode( [ 381, *codec.encode( "a" ), 383 ] ) == "a"
  push = codec.stream()
  assert [ push( t ) for t in ( *codec.encode( "a" ), 381 ) ] == [ "a", "" ]

def copy_tokenizer( folder: Path, *names: str ) -> Path:
  for name in names:
    shutil.copy( NANO / name, folder )
  return folder

@pytest.mark.filterwarnings( "default" )     # transformers' own are not our errors
def test_older_tokenizer_files_give_the_same_tokens( tmp_path, codec ):
  older = TextCodec( str( copy_tokenizer( tmp_path, "vocab.json", "merges.txt", "tokenizer_config.json" ) ) )
  for text in ( "In the beginning was the word.", "  naïve\n\n 10 €" ):
    assert older.encode( text ) == codec.encode( text )
    assert older.decode( older.encode( text ) ) == text

def test_a_broken_tokenizer_is_refused( tmp_path ):
  ( tmp_path / "tokenizer.json" ).write_text( "{" )
  with pytest.raises( NpuError ) as e:
    TextCodec( str( tmp_path ) )
  assert ( str( e.value ) == f"{tmp_path}: the tokenizer cannot be loaded: "
           "EOF while parsing an object at line 1 column 1" )


@pytest.mark.filterwarnings( "default" )
def test_a_folder_without_tokenizer_is_refused( tmp_path ):
  folder = mk_checkpoint( tmp_path / "model", tokenizer=False )
  with pytest.raises( NpuError ) as e:
    TextCodec( str( folder ) )
  assert str( e.value ) == ( f"{folder} has no tokenizer; tokenizer.json, or vocab.json and merges.txt, "
                             "are expected" )


def test_text_that_is_not_unicode_is_refused( codec ):
  with pytest.raises( NpuError ) as e:
    codec.encode( "caf\udce9" )        # what Python makes of the byte E9 on a UTF-8 command line
  assert str( e.value ) == "the prompt is not valid UTF-8"

def test_an_empty_stop_text_is_refused():
  with pytest.raises( NpuError ) as e:
    StopTexts( [ "end", "" ] )
  assert str( e.value ) == "stop is empty; give a text that ends the generation"

#-------------------------------------------------------------------------
# Sampling
#-------------------------------------------------------------------------

HUNDRED = "choose 0 (greedy) to 100"
PART    = "choose more than 0, up to 1"
PENALTY = "choose 0.01 to 100 (1: none)"

@pytest.mark.parametrize( "parameters, message", (
  pytest.param( { "temperature": -0.1 }, f"temperature is -0.1; {HUNDRED}", id="negative temperature" ),
  pytest.param( { "temperature": 100.5 }, f"temperature is 100.5; {HUNDRED}", id="too hot" ),
  pytest.param( { "temperature": math.nan }, f"temperature is nan; {HUNDRED}", id="temperature NaN" ),
  pytest.param( { "temperature": math.inf }, f"temperature is inf; {HUNDRED}", id="temperature infinite" ),
  pytest.param( { "top_k": -1 }, "top_k is -1; choose 0 (all) or more", id="negative top_k" ),
  pytest.param( { "top_p": 0.0 }, f"top_p is 0.0; {PART}", id="top_p 0" ),
  pytest.param( { "top_p": 1.001 }, f"top_p is 1.001; {PART}", id="top_p above 1" ),
  pytest.param( { "top_p": -0.5 }, f"top_p is -0.5; {PART}", id="negative top_p" ),
  pytest.param( { "top_p": math.nan }, f"top_p is nan; {PART}", id="top_p NaN" ),
  pytest.param( { "min_p": -0.1 }, "min_p is -0.1; choose 0 (all) to 1", id="negative min_p" ),
  pytest.param( { "min_p": 1.5 }, "min_p is 1.5; choose 0 (all) to 1", id="min_p above 1" ),
  pytest.param( { "repetition_penalty": 0.0 }, f"repetition_penalty is 0.0; {PENALTY}", id="penalty 0" ),
  pytest.param( { "repetition_penalty": math.nan }, f"repetition_penalty is nan; {PENALTY}", id="penalty NaN" ),
  pytest.param( { "temperature": 1.0, "seed": -1 }, "seed is -1; choose 0 or more", id="negative seed" ) ) )
def test_sampling_parameters_are_checked( parameters, message ):
  with pytest.raises( NpuError ) as e:
    Sampling( **parameters )
  assert str( e.value ) == message

# In falling order: tokens 3, 0, 4, 1, 2; probabilities 0.64, 0.23, 0.09, 0.03, 0.01.
LOGITS = np.array( [ 1.0, -1.0, -2.0, 2.0, 0.0 ], dtype=np.float32 )

def expected( temperature: float, kept: list[int] ) -> dict[int, float]:
  """Softmax over the kept tokens, in Python's own floating point."""
  weights = { t: math.exp( float( LOGITS[t] ) / temperature ) for t in kept }
  return { t: w / sum( weights.values() ) for t, w in weights.items() }

@pytest.mark.parametrize( "how, kept", (
  pytest.param( Sampling( 1.0 ), [ 0, 1, 2, 3, 4 ], id="all" ),
  pytest.param( Sampling( 0.5 ), [ 0, 1, 2, 3, 4 ], id="cold" ),
  pytest.param( Sampling( 5.0 ), [ 0, 1, 2, 3, 4 ], id="hot" ),
  pytest.param( Sampling( 1.0, top_k=1 ), [ 3 ], id="top_k 1" ),
  pytest.param( Sampling( 2.0, top_k=3 ), [ 3, 0, 4 ], id="top_k 3" ),
  pytest.param( Sampling( 1.0, top_k=99 ), [ 0, 1, 2, 3, 4 ], id="top_k beyond the vocabulary" ),
  pytest.param( Sampling( 1.0, top_p=1e-9 ), [ 3 ], id="top_p keeps one at least" ),
  pytest.param( Sampling( 1.0, top_p=0.63 ), [ 3 ], id="top_p reached by the first" ),
  pytest.param( Sampling( 1.0, top_p=0.65 ), [ 3, 0 ], id="top_p reached by the second" ),
  pytest.param( Sampling( 1.0, top_p=0.95 ), [ 3, 0, 4 ], id="top_p reached by the third" ),
  # Of 2 and 0 alone, token 3 has 0.73: top_p counts what top_k has left.
  pytest.param( Sampling( 1.0, top_k=2, top_p=0.7 ), [ 3 ], id="top_k, then top_p" ),
  pytest.param( Sampling( 5.0, top_k=2, top_p=0.7 ), [ 3, 0 ], id="temperature, then top_p" ) ) )
def test_samples_follow_the_distribution( how, kept ):
  rng, count = np.random.default_rng( 1 ), 1000
  found = Counter( sample( LOGITS, how, rng ) for _ in range( count ) )
  for token in range( len( LOGITS ) ):
    p = expected( how.temperature, kept ).get( token, 0.0 )
    # Five standard deviations; none at all where the probability is 0 or 1.
    assert abs( found[token] - count * p ) <= 5 * math.sqrt( count * p * ( 1 - p ) ) + 1e-6, ( token, found )

@pytest.mark.parametrize( "temperature", (
  pytest.param( 1e-3, id="cold" ),
  pytest.param( 1e-300, id="coldest that divides" ),
  pytest.param( 1e-310, id="so cold that logits overflow" ) ) )
@pytest.mark.filterwarnings( "ignore:overflow:RuntimeWarning", "ignore:invalid value:RuntimeWarning" )
def test_near_zero_temperature_is_greedy( temperature ):
  rng = np.random.default_rng( 1 )
  assert { sample( LOGITS, Sampling( temperature ), rng ) for _ in range( 50 ) } == { 3 }

#-------------------------------------------------------------------------
# Prompts
#-------------------------------------------------------------------------

@pytest.mark.parametrize( "tokens, message", (
  pytest.param( [], "the prompt is empty; give at least one token", id="empty" ),
  pytest.param( [ 1 ] * 65, "the prompt has 65 tokens; this image's context is 64", id="too long" ),
  pytest.param( [ 1, 384 ], "the prompt has token 384; the model's vocabulary is 0 to 383",
                id="past the vocabulary" ),
  pytest.param( [ 1, -2 ], "the prompt has token -2; the model's vocabulary is 0 to 383", id="negative" ) ) )
def test_prompt_is_refused( session, tokens, message ):
  with pytest.raises( NpuError ) as e:
    session.generate( tokens, 1 )
  assert str( e.value ) == message

@pytest.mark.parametrize( "count, message", (
  pytest.param( 0, "max_new_tokens is 0; choose 1 or more", id="zero" ),
  pytest.param( -5, "max_new_tokens is -5; choose 1 or more", id="negative" ) ) )
def test_number_of_tokens_is_refused( session, count, message ):
  with pytest.raises( NpuError ) as e:
    session.generate( [ 1 ], count )
  assert str( e.value ) == message

@pytest.mark.parametrize( "temperature", ( 0.0, 1.0 ) )
@pytest.mark.parametrize( "count", (
  pytest.param( ( 1 << 32 ) - 1, id="the largest word" ),
  pytest.param( 1 << 32, id="no longer a word" ) ) )
def test_a_large_number_of_tokens_means_all_that_fit( session, count, temperature, request ):
  done = session.generate( PROMPT, count, Sampling( temperature ), stop_at_eos=False )
  assert ( len( done.tokens ), done.status ) == ( 64 - len( PROMPT ) + 1, Status.CONTEXT )

def test_level_is_checked( tmp_path ):
  image = mk_session( mk_checkpoint( tmp_path / "model" ) ) and load_image( tmp_path / "model.npu" )
  with pytest.raises( NpuError ) as e:
    Device( image, "gates" )
  assert str( e.value ) == "unknown level 'gates'; choose one of fl, cl, rtl, verilog"

def test_an_error_of_the_npu_is_told( tmp_path ):
  session = mk_session( mk_checkpoint( tmp_path / "model" ) )
  session.npu.mailbox[Word.PROGRAM_COUNT] = 3        # the program ends in the middle of a layer
  with pytest.raises( NpuError ) as e:
    session.generate( [ 1 ], 1 )
  assert str( e.value ) == "the NPU stopped with BAD_PC at instruction 3"

#-------------------------------------------------------------------------
# Generation
#-------------------------------------------------------------------------

@pytest.mark.parametrize( "prompt", (
  pytest.param( PROMPT[:1], id="one token" ),
  pytest.param( PROMPT[:16], id="one full pass" ),
  pytest.param( PROMPT[:17], id="one more than a pass" ),
  pytest.param( PROMPT, id="three passes" ) ) )
def test_greedy_tokens_are_the_likeliest_of_the_scores( session, prompt ):
  done   = session.generate( prompt, 12, stop_at_eos=False )
  scores = logits( session, prompt + done.tokens )
  assert done.tokens == scores[len( prompt ) - 1 : -1].argmax( axis=1 ).tolist()
  assert ( done.prompt_tokens, done.status ) == ( prompt, Status.LIMIT )

def test_a_session_starts_afresh_with_each_prompt( session ):
  first = session.generate( PROMPT, 8, stop_at_eos=False ).tokens
  other = session.generate( PROMPT[5:], 8, stop_at_eos=False ).tokens
  assert session.generate( PROMPT, 8, stop_at_eos=False ).tokens == first
  assert session.generate( PROMPT[5:], 8, stop_at_eos=False ).tokens == other
  assert not np.array_equal( logits( session, PROMPT )[-1], logits( session, PROMPT[5:] )[-1] )

def test_tokens_are_told_as_they_come( session ):
  told: list[int] = []
  done = session.generate( PROMPT, 6, stop_at_eos=False, on_token=told.append )
  assert told == done.tokens and len( told ) == 6
  told.clear()
  done = session.generate( PROMPT, 6, Sampling( 1.0 ), stop_at_eos=False, on_token=told.append )
  assert told == done.tokens and len( told ) == 6

def test_the_first_token_comes_before_the_end( session ):
  done = session.generate( PROMPT, 6, stop_at_eos=False )
  assert 0 < done.first_token_seconds < done.wall_seconds
  assert done.decode_rate == pytest.approx( 5 / ( done.wall_seconds - done.first_token_seconds ) )

@pytest.mark.parametrize( "how", (
  pytest.param( Sampling( 1e-6 ), id="temperature near 0" ),
  pytest.param( Sampling( 1.0, top_k=1 ), id="top_k 1" ),
  pytest.param( Sampling( 100.0, top_k=1, seed=9 ), id="top_k 1, hot" ),
  pytest.param( Sampling( 1.0, top_p=1e-9 ), id="top_p near 0" ) ) )
@pytest.mark.parametrize( "prompt", ( pytest.param( [ 5 ], id="short" ), pytest.param( PROMPT, id="long" ) ) )
def test_sampling_that_leaves_no_choice_is_greedy( session, prompt, how ):
  greedy  = session.generate( prompt, 20, stop_at_eos=False )
  sampled = session.generate( prompt, 20, how, stop_at_eos=False )
  assert ( sampled.tokens, sampled.status ) == ( greedy.tokens, greedy.status )

@pytest.mark.parametrize( "how", (
  pytest.param( Sampling( 1.0 ), id="all" ),
  pytest.param( Sampling( 0.7, top_k=40, top_p=0.9 ), id="top_k and top_p" ) ) )
def test_sampling_depends_on_its_seed_alone( session, how ):
  def run( seed: int ) -> list[int]:
    seeded = Sampling( how.temperature, how.top_k, how.top_p, seed )
    return session.generate( PROMPT[:8], 16, seeded, stop_at_eos=False ).tokens
  assert run( 1 ) == run( 1 )
  assert len( { tuple( run( seed ) ) for seed in range( 4 ) } ) == 4

def test_each_sample_is_drawn_after_the_samples_before_it( session ):
  how    = Sampling( 1.5, seed=7 )
  done   = session.generate( PROMPT, 16, how, stop_at_eos=False )
  scores = logits( session, PROMPT + done.tokens )[len( PROMPT ) - 1 : -1]
  rng    = np.random.default_rng( 7 )
  assert done.tokens == [ sample( row, how, rng ) for row in scores ]
  assert done.tokens != scores.argmax( axis=1 ).tolist()

# 28 tokens come after a prompt of 37: the last one is known, but has no position of its own.
@pytest.mark.parametrize( "temperature", ( 0.0, 1.0 ) )
@pytest.mark.parametrize( "limit, count, status", (
  pytest.param(   1,  1, Status.LIMIT,   id="one" ),
  pytest.param(  27, 27, Status.LIMIT,   id="one before the end" ),
  pytest.param(  28, 28, Status.LIMIT,   id="limit and end together" ),
  pytest.param(  29, 28, Status.CONTEXT, id="one past the end" ),
  pytest.param( 999, 28, Status.CONTEXT, id="many" ) ) )
def test_the_run_ends_with_the_limit_or_the_context( session, limit, count, status, temperature, request ):
  done = session.generate( PROMPT, limit, Sampling( temperature ), stop_at_eos=False )
  assert ( len( done.tokens ), done.status ) == ( count, status )

def test_a_prompt_may_fill_the_context( session ):
  done = session.generate( [ 7 ] * 64, 5, stop_at_eos=False )
  assert ( len( done.tokens ), done.status ) == ( 1, Status.CONTEXT )

@pytest.mark.parametrize( "temperature", ( pytest.param( 0.0, id="greedy" ), pytest.param( 1e-3, id="sampled" ) ) )
@pytest.mark.parametrize( "eos, stop, count, status", (
  pytest.param( [ 5 ], True, 4, Status.EOS, id="last of the chain" ),
  pytest.param( [ 3 ], True, 2, Status.EOS, id="in the middle" ),
  pytest.param( [ 99, 98, 97, 3 ], True, 2, Status.EOS, id="fourth of four" ),
  pytest.param( [ 3 ], False, 4, Status.LIMIT, id="ignored" ),
  pytest.param( [ 99 ], True, 4, Status.LIMIT, id="another token" ),
  pytest.param( REMOVED, True, 4, Status.LIMIT, id="none" ) ) )
def test_the_end_of_the_text_stops_the_run( tmp_path, eos, stop, count, status, temperature ):
  session = mk_session( mk_chain( tmp_path / "model", [ 1, 2, 3, 4, 5 ], eos_token_id=eos ) )
  done = session.generate( [ 1 ], 4, Sampling( temperature ), stop_at_eos=stop )
  assert done.tokens == [ 2, 3, 4, 5 ][:count]
  assert done.status == status


def test_a_fifth_eos_counts_or_is_refused( tmp_path ):
  folder = mk_chain( tmp_path / "model", [ 1, 2, 3, 4, 5 ], eos_token_id=[ 99, 98, 97, 96, 3 ] )
  try:
    done = mk_session( folder ).generate( [ 1 ], 4 )
  except NpuError as e:
    assert str( e ) == f"{folder / 'config.json'}: eos_token_id has 5 tokens; at most 4 are supported"
  else:
    assert ( done.tokens, done.status ) == ( [ 2, 3 ], Status.EOS )

#-------------------------------------------------------------------------
# The same model in other words
#-------------------------------------------------------------------------

UNTIED     = { "tie_word_embeddings": False }
EMBEDDING  = "model.embed_tokens.weight"
THETA      = { "rope_theta": REMOVED, "rope_parameters": { "rope_theta": 1e4, "rope_type": "default" } }
TENSORS    = random_tensors( expected_shapes( CONFIG ), seed=0 )
SAME_HEAD  = { **UNTIED, "replace": { "lm_head.weight": TENSORS[EMBEDDING] } }
# BF16 values are float32 values; kept in float32 they are the same model.
BF16_VALUES = { name: ( t.view( np.uint32 ) & 0xffff0000 ).view( np.float32 ) for name, t in TENSORS.items() }

@pytest.mark.parametrize( "precision", ( "w8a16", "w16a16" ) )
@pytest.mark.parametrize( "one, other, same", (
  pytest.param( {}, THETA, True, id="rope_theta at the top and in rope_parameters" ),
  pytest.param( {}, { "rope_theta": REMOVED }, True, id="rope_theta given and by default" ),
  pytest.param( {}, { "shards": 3 }, True, id="one file and three" ),
  pytest.param( { "dtype": "BF16" }, { "dtype": "BF16", "shards": 2 }, True, id="one file and two, BF16" ),
  pytest.param( { "replace": BF16_VALUES }, { "replace": BF16_VALUES, "dtype": "BF16" }, True,
                id="BF16 values as F32 and BF16" ),
  pytest.param( {}, SAME_HEAD, True, id="tied, and a head equal to the embedding" ),
  pytest.param( {}, { "generation": { "eos_token_id": 3 } }, True, id="another EOS" ),
  # That the differences below are seen shows that the tests above could fail.
  pytest.param( {}, { "rope_theta": 1e6 }, False, id="another rope_theta" ),
  pytest.param( {}, { "dtype": "BF16" }, False, id="rounded weights" ),
  pytest.param( {}, UNTIED, False, id="another head" ),
  pytest.param( {}, { "rms_norm_eps": 0.1 }, False, id="another rms_norm_eps" ),
  pytest.param( {}, { "seed": 1 }, False, id="other weights" ) ) )
def test_logits_of_two_spellings( tmp_path, one, other, same, precision ):
  a, b = ( logits( mk_session( mk_checkpoint( tmp_path / name, **options ), precision ), PROMPT[:20] )
           for name, options in ( ( "a", one ), ( "b", other ) ) )
  assert np.isfinite( a ).all() and a.std() > 0.1
  assert np.array_equal( a, b ) == same

@pytest.mark.parametrize( "options", (
  pytest.param( { "config": "edge4" }, id="edge4" ),
  pytest.param( { "config": "edge8" }, id="edge8" ),
  pytest.param( { "pass_rows": 1 }, id="a row a pass" ),
  pytest.param( { "pass_rows": 5 }, id="five rows a pass" ),
  pytest.param( { "context": 40 }, id="a shorter context" ) ) )
def test_logits_do_not_depend_on_how_they_are_computed( tmp_path, session, options ):
  other = mk_session( mk_checkpoint( tmp_path / "model", **RANDOM ), **options )
  np.testing.assert_array_equal( logits( other, PROMPT ), logits( session, PROMPT ) )
  assert ( other.generate( PROMPT, 3, stop_at_eos=False ).tokens
           == session.generate( PROMPT, 3, stop_at_eos=False ).tokens )

#-------------------------------------------------------------------------
# Where results go
#-------------------------------------------------------------------------

def test_output_path_takes_what_can_be_written( tmp_path, monkeypatch ):
  monkeypatch.chdir( tmp_path )
  for name in ( "new", "./new", str( tmp_path / "new" ) ):
    assert output_path( name ) == Path( name )
  ( tmp_path / "old" ).write_text( "x" )
  assert output_path( "old" ) == Path( "old" )

@pytest.mark.parametrize( "name, message", (
  pytest.param( "folder", "cannot write folder: it is a folder", id="a folder" ),
  pytest.param( ".", "cannot write .: it is a folder", id="here" ),
  pytest.param( "missing/file", "cannot write missing/file: no such folder", id="no such folder" ),
  pytest.param( "file/file", "cannot write file/file: no such folder", id="below a file" ),
  pytest.param( "a" * 300, f"cannot write {'a' * 300}: File name too long", id="too long" ) ) )
def test_output_path_refuses_the_rest( tmp_path, monkeypatch, name, message ):
  monkeypatch.chdir( tmp_path )
  ( tmp_path / "folder" ).mkdir()
  ( tmp_path / "file" ).write_text( "x" )
  with pytest.raises( NpuError ) as e:
    output_path( name )
  assert str( e.value ) == message
