"""`npu run`: results, text as it comes, how runs end, sampling."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from npu.compiler.precision import PRECISIONS
from npu.runtime.text import TextCodec
from tests.cli.world import PROMPT, run_json, untimed
from tests.helpers import files, mk_chain, mk_checkpoint, run_cli

#-------------------------------------------------------------------------
# run: results
#-------------------------------------------------------------------------

def test_json_has_the_promised_keys( model ):
  report = run_json( model, "--prompt", PROMPT, "--max-new-tokens", 5, "--precision", "w16a16",
                     "--config", "edge8" )
  assert report["model"] == "small"
  assert ( report["precision"], report["config"], report["level"] ) == ( "w16a16", "edge8", "fl" )
  assert report["prompt_tokens"] == len( TextCodec( str( model ) ).encode( PROMPT ) )
  assert len( report["tokens"] ) == 5 and all( type( t ) is int for t in report["tokens"] )
  assert report["text"] == TextCodec( str( model ) ).decode( report["tokens"] )
  # What only a clock can tell.
  for key in ( "levels", "cycles", "prefill_cycles", "decode_cycles", "mac_utilization", "busy_cycles", "stall_cycles",
               "dispatch_wait_cycles" ):
    assert report[key] is None, key
  for key in ( "macs", "dram_bytes_read", "dram_bytes_written" ):
    assert type( report[key] ) is int and report[key] > 0, key
  assert type( report["wall_seconds"] ) is float and report["wall_seconds"] > 0

def test_work_is_counted( model ):
  # More than the products that the model has for its tokens, padding aside; not many times more.
  report  = run_json( model, "--prompt", "a", "--max-new-tokens", 1 )
  weights = 2 * ( 24 * ( 24 + 12 + 12 ) + 24 * 24 + 3 * 24 * 40 ) + 24 * 384
  assert report["prompt_tokens"] == 1
  assert weights < report["macs"] < 4 * weights
  assert weights < report["dram_bytes_read"] < 8 * weights

def test_two_runs_are_the_same_but_for_the_time( model ):
  one, two = ( run_json( model, "--prompt", PROMPT, "--max-new-tokens", 12 ) for _ in range( 2 ) )
  assert untimed( one ) == untimed( two )

def test_json_goes_to_a_file_and_text_to_the_terminal( model, out ):
  result = run_cli( "run", model, "--prompt", PROMPT, "--max-new-tokens", 8, "--json", out / "r.json" )
  report = json.loads( ( out / "r.json" ).read_text() )
  assert result.code == 0
  assert result.out == PROMPT + report["text"] + "\n"
  assert untimed( report ) == untimed( run_json( model, "--prompt", PROMPT, "--max-new-tokens", 8 ) )
  assert files( out ) == { "r.json" }

def test_json_replaces_an_older_file( model, out ):
  ( out / "r.json" ).write_text( "old" * 10000 )
  run_cli( "run", model, "--max-new-tokens", 1, "--json", out / "r.json" )
  assert json.loads( ( out / "r.json" ).read_text() )["model"] == "small"
  assert files( out ) == { "r.json" }

def test_the_summary_is_on_standard_error( model ):
  result = run_cli( "run", model, "--prompt", PROMPT, "--max-new-tokens", 3 )
  for text in ( "small: 2 layers, hidden 24, 4 heads, 2 KV heads, vocabulary 384",
                "edge16 (n = 16), w8a16, level fl", "3 out; token limit reached", "MACs" ):
    assert text in result.err
    assert text not in result.out

@pytest.mark.parametrize( "args", (
  pytest.param( [ "--config", "edge4" ], id="edge4" ),
  pytest.param( [ "--config", "edge8" ], id="edge8" ),
  pytest.param( [ "--pass-rows", "1" ], id="a row a pass" ),
  pytest.param( [ "--context", "40" ], id="a shorter context" ) ) )
def test_tokens_do_not_depend_on_how_they_are_computed( model, args ):
  common = [ model, "--prompt", PROMPT, "--max-new-tokens", 12 ]
  assert run_json( *common, *args )["tokens"] == run_json( *common )["tokens"]

@pytest.mark.parametrize( "precision", PRECISIONS )
def test_every_precision_runs( model, precision ):
  report = run_json( model, "--prompt", PROMPT, "--max-new-tokens", 3, "--precision", precision )
  assert ( report["precision"], len( report["tokens"] ) ) == ( precision, 3 )

def test_the_embedded_model_is_the_default_and_writes_english( out ):
  result = run_cli( "run", "--max-new-tokens", 12, "--json", out / "r.json" )
  assert json.loads( ( out / "r.json" ).read_text() )["model"] == "tiny"
  assert result.out.startswith( "In the beginning" )
  # More than a third of the letters of English text are among these; noise has few of them.
  text = result.out.removeprefix( "In the beginning" )
  assert sum( c in "etaoin " for c in text ) > len( text ) / 3


def test_the_model_here_has_the_name_of_the_folder( model, monkeypatch ):
  monkeypatch.chdir( model )
  assert run_json( ".", "--max-new-tokens", 1 )["model"] == "small"

#-------------------------------------------------------------------------
# run: text
#-------------------------------------------------------------------------

# Any text of different tokens, produced on the prompt `>`: see mk_chain.
@pytest.mark.parametrize( "text", (
  pytest.param( "Hi!", id="plain" ),
  pytest.param( "é", id="two bytes" ),
  pytest.param( "€", id="three bytes" ),
  pytest.param( "a🎉b", id="four bytes" ),
  pytest.param( "é€🎉", id="several" ),
  pytest.param( " a\nb\tc", id="white space" ),
  pytest.param( "[b]x", id="what looks like markup" ) ) )
def test_text_streams_as_it_comes( tmp_path, monkeypatch, text ):
  codec  = TextCodec( "nano" )
  tokens = codec.encode( text )
  folder = mk_chain( tmp_path / "model", [ *codec.encode( ">" ), *tokens ] )
  pieces: list[str] = []
  monkeypatch.setattr( "npu.runtime.text.TextCodec.stream", spying( TextCodec.stream, pieces ) )
  result = run_cli( "run", folder, "--prompt", ">", "--max-new-tokens", len( tokens ) )
  assert result.out == f">{text}\n"
  assert len( pieces ) == len( tokens ) and "\ufffd" not in "".join( pieces )

def spying( stream: Callable, pieces: list[str] ) -> Callable:
  """`TextCodec.stream` that also keeps what is streamed."""
  def wrapped( codec: TextCodec ) -> Callable[[int], str]:
    push = stream( codec )
    def spy( token: int ) -> str:
      pieces.append( push( token ) )
      return pieces[-1]
    return spy
  return wrapped

@pytest.mark.parametrize( "seed", range( 3 ) )
def test_what_is_shown_is_prompt_and_text( tmp_path, seed ):
  folder = mk_checkpoint( tmp_path / "model", seed=seed, tie_word_embeddings=False )
  result = run_cli( "run", folder, "--prompt", PROMPT, "--max-new-tokens", 12, "--json", tmp_path / "r.json" )
  text   = json.loads( ( tmp_path / "r.json" ).read_text() )["text"]
  # Bytes that are no character, as a random model makes them, are shown once their end is known.
  assert result.out.rstrip( "\ufffd\n" ) == ( PROMPT + text ).rstrip( "\ufffd\n" )


def test_an_unfinished_character_is_shown_at_the_end( tmp_path ):
  codec  = TextCodec( "nano" )
  first  = codec.encode( "€" )[0]
  folder = mk_chain( tmp_path / "model", [ *codec.encode( ">a" ), first ] )
  result = run_cli( "run", folder, "--prompt", ">", "--max-new-tokens", 2, "--json", tmp_path / "r.json" )
  assert json.loads( ( tmp_path / "r.json" ).read_text() )["text"] == "a\ufffd"
  assert result.out == ">a\ufffd\n"

#-------------------------------------------------------------------------
# run: ends
#-------------------------------------------------------------------------

def greedy( model: Path, *args: object ) -> list[int]:
  """The tokens that a model goes on with when nothing stops it."""
  tokens: list[int] = run_json( model, "--prompt", PROMPT, "--ignore-eos", *args )["tokens"]
  return tokens

@pytest.mark.parametrize( "sampled", ( pytest.param( [], id="greedy" ),
                                       pytest.param( [ "--temperature", "1e-6" ], id="sampled" ) ) )
@pytest.mark.parametrize( "at, wrap", (
  pytest.param( 0, lambda t: t, id="first token" ),
  pytest.param( 4, lambda t: t, id="fifth token" ),
  pytest.param( 4, lambda t: [ 383, t ], id="one of two" ) ) )
def test_eos_stops_and_can_be_ignored( tmp_path, at, wrap, sampled ):
  # What the model says anyway is declared the end, in generation_config.json.
  folder = mk_checkpoint( tmp_path / "model", seed=3, tie_word_embeddings=False )
  tokens = greedy( folder, "--max-new-tokens", 8 )
  ( folder / "generation_config.json" ).write_text( json.dumps( { "eos_token_id": wrap( tokens[at] ) } ) )
  common = [ folder, "--prompt", PROMPT, "--max-new-tokens", 8, *sampled ]
  report = run_json( *common )
  assert report["tokens"] == tokens[: tokens.index( tokens[at] ) + 1]
  assert report["status"] == "eos"
  ignored = run_json( *common, "--ignore-eos" )
  assert ( ignored["tokens"], ignored["status"] ) == ( tokens, "limit" )
  assert "the model ended its text" in run_cli( "run", *common ).err

def test_a_full_context_stops( model ):
  report = run_json( model, "--prompt", PROMPT, "--context", 20, "--ignore-eos" )
  # The last token needs no position: nothing comes after it.
  assert len( report["tokens"] ) == 20 - report["prompt_tokens"] + 1
  assert report["status"] == "context"
  assert "the context is full" in run_cli( "run", model, "--prompt", PROMPT, "--context", 20 ).err

def test_the_limit_stops( model ):
  report = run_json( model, "--prompt", PROMPT, "--max-new-tokens", 3, "--ignore-eos" )
  assert ( len( report["tokens"] ), report["status"] ) == ( 3, "limit" )

#-------------------------------------------------------------------------
# run: sampling
#-------------------------------------------------------------------------

@pytest.mark.parametrize( "args", (
  pytest.param( [ "--temperature", "1e-6" ], id="temperature near 0" ),
  pytest.param( [ "--temperature", "2", "--top-k", "1" ], id="top_k 1" ),
  pytest.param( [ "--temperature", "2", "--top-p", "1e-9", "--seed", "5" ], id="top_p near 0" ),
  pytest.param( [ "--top-k", "3", "--top-p", "0.5", "--seed", "5" ], id="greedy whatever else is given" ) ) )
def test_sampling_without_choice_is_greedy( model, args ):
  assert greedy( model, "--max-new-tokens", 12, *args ) == greedy( model, "--max-new-tokens", 12 )

def test_sampling_follows_its_seed( model ):
  def run( seed: int ) -> dict[str, Any]:
    return untimed( run_json( model, "--prompt", PROMPT, "--max-new-tokens", 12, "--temperature", "1",
                              "--seed", seed ) )
  assert run( 1 ) == run( 1 )
  assert len( { tuple( run( seed )["tokens"] ) for seed in range( 4 ) } ) == 4
