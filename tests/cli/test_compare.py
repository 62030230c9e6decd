"""`npu compare` and `npu random-model`."""

import json
import math
import sys
from itertools import pairwise

import pytest

from npu.runtime.text import TextCodec
from npu.tools.random_model import SHAPES
from tests.cli.world import run_json
from tests.helpers import cli_error, files, mk_checkpoint, run_cli

#-------------------------------------------------------------------------
# compare
#-------------------------------------------------------------------------

FIGURES = { "ppl_ref", "ppl_npu", "ppl_change_percent", "top1", "kl", "max_abs", "rms" }

@pytest.mark.filterwarnings( "default" )     # torch's and transformers' own are not our errors
def test_compare_with_hugging_face( model, out ):
  ( out / "text" ).write_text( "And the evening and the morning were the first day. " * 5 )
  result = run_cli( "compare", model, "--precision", "w16a16", "--text", out / "text", "--tokens", 100,
                    "--json", out / "c.json" )
  assert result.code == 0
  report = json.loads( ( out / "c.json" ).read_text() )
  assert FIGURES | { "model", "precision", "config", "tokens" } == set( report )
  assert ( report["model"], report["precision"], report["tokens"] ) == ( "small", "w16a16", 100 )
  assert report["kl"] < 1e-4 and report["top1"] > 95 and abs( report["ppl_change_percent"] ) < 0.5
  assert "small, w16a16, edge16, 100 tokens" in result.out

def test_compare_prints_only_json_if_asked( model, image, stub_reference ):
  result = run_cli( "compare", model, "--image", image, "--tokens", 10, "--json", "-" )
  assert ( result.code, result.err ) == ( 0, "" )
  report = json.loads( result.out )
  assert report["tokens"] == 10 and set( report ) >= FIGURES

@pytest.mark.parametrize( "context", ( pytest.param( 64, id="one window" ), pytest.param( 5, id="windows of 5" ) ) )
def test_compare_computes_perplexity_over_the_following_tokens( model, out, stub_reference, context ):
  text   = "1122311112"     # a token each: digits are never merged
  tokens = TextCodec( "nano" ).encode( text )
  assert len( tokens ) == len( text )
  ( out / "text" ).write_text( text )
  report = json.loads( run_cli( "compare", model, "--text", out / "text", "--context", context,
                                "--json", "-" ).out )
  # The stub's logit is 1 for the token itself and 0 for the rest; a window's last token predicts nothing.
  pairs = [ ( a, b ) for i, ( a, b ) in enumerate( pairwise( tokens ), 1 ) if i % context ]
  nll   = [ math.log( math.e + 383 ) - ( a == b ) for a, b in pairs ]
  assert report["ppl_ref"] == pytest.approx( math.exp( sum( nll ) / len( nll ) ), rel=1e-6 )
  assert report["tokens"] == len( tokens )

def test_compare_in_passes_of_a_few_rows( model, stub_reference ):
  few, many = ( json.loads( run_cli( "compare", model, "--tokens", 10, *rows, "--json", "-" ).out )
                for rows in ( [ "--pass-rows", 3 ], [] ) )
  assert few == pytest.approx( many )     # the logits are equal; sums over positions are cut elsewhere
  assert "pass rows are 99" in cli_error( "compare", model, "--pass-rows", 99 )

@pytest.mark.parametrize( "tokens", ( 1, 0, -3 ) )
def test_compare_needs_two_tokens( model, tokens ):
  assert cli_error( "compare", model, "--tokens", tokens ) == f"--tokens is {tokens}; choose 2 or more"

@pytest.mark.parametrize( "content, message", (
  pytest.param( b"", "the text has 0 tokens; at least 2 are needed", id="empty" ),
  pytest.param( b"a", "the text has 1 tokens; at least 2 are needed", id="one token" ),
  pytest.param( b"caf\xe9", "cannot read {text}: 'utf-8' codec can't decode byte 0xe9 in position 3: "
                            "unexpected end of data", id="not UTF-8" ) ) )
def test_compare_refuses_a_text( model, image, out, stub_reference, content, message ):
  text = out / "text"
  text.write_bytes( content )
  assert cli_error( "compare", model, "--image", image, "--text", text ) == message.format( text=text )

@pytest.mark.parametrize( "name, reason", ( pytest.param( "none", "No such file or directory", id="missing" ),
                                            pytest.param( ".", "Is a directory", id="a folder" ) ) )

def test_compare_tells_that_it_cannot_read( model, out, name, reason ):
  assert cli_error( "compare", model, "--text", out / name ) == f"cannot read {out / name}: {reason}"


def test_compare_needs_a_context_of_two( model, stub_reference ):
  cli_error( "compare", model, "--context", 1, "--tokens", 4 )


def test_compare_refuses_a_token_outside_the_vocabulary( tmp_path, stub_reference ):
  folder = mk_checkpoint( tmp_path / "model", vocab_size=100, eos_token_id=0 )
  cli_error( "compare", folder, "--tokens", 20 )

def test_compare_without_torch_says_what_to_install( model, image, monkeypatch ):
  monkeypatch.setitem( sys.modules, "torch", None )      # an import of it fails
  assert ( cli_error( "compare", model, "--image", image )
           == "npu compare needs torch for the Hugging Face reference: install the project's `test` extra" )

#-------------------------------------------------------------------------
# random-model
#-------------------------------------------------------------------------

def test_random_model_can_be_run( out ):
  done = run_cli( "random-model", out / "new" / "model", "--like", "nano", "--seed", 4 )
  size = ( out / "new" / "model" / "model.safetensors" ).stat().st_size
  assert ( done.code, done.out ) == ( 0, "" )
  assert done.err == f"{out / 'new' / 'model'}: {size:,} bytes of weights, nano, seed 4\n"
  report = run_json( out / "new" / "model", "--max-new-tokens", 3 )
  assert ( report["model"], len( report["tokens"] ) ) == ( "model", 3 )

def test_random_model_of_an_unknown_shape( out ):
  assert ( cli_error( "random-model", out / "m", "--like", "qwen2-7b" )
           == f"unknown model shape 'qwen2-7b'; known are {', '.join( SHAPES )}" )
  assert files( out ) == set()

def test_random_model_of_a_negative_seed( out ):
  assert cli_error( "random-model", out / "m", "--like", "nano", "--seed", -1 ) == "--seed is -1; choose 0 or more"
  assert files( out ) == set()

@pytest.mark.parametrize( "name, message", (
  pytest.param( "full", "{path} exists and is not an empty directory; choose another, or remove it first",
                id="a folder in use" ),
  pytest.param( "full/file", "{path} exists and is not an empty directory; choose another, or remove it first",
                id="a file" ),
  pytest.param( "full/file/m", "cannot write {path}: Not a directory", id="below a file" ),
  pytest.param( "full/file/m/m", "cannot write {path}: Not a directory", id="further below a file" ),
  pytest.param( "a" * 300, "cannot write {path}: File name too long", id="too long" ) ) )
def test_random_model_in_a_wrong_place( out, name, message ):
  ( out / "full" ).mkdir()
  ( out / "full" / "file" ).write_text( "x" )
  before = files( out )
  assert cli_error( "random-model", out / name, "--like", "nano" ) == message.format( path=out / name )
  assert files( out ) == before

def test_random_model_takes_an_empty_folder( out ):
  assert run_cli( "random-model", out, "--like", "nano" ).code == 0
  assert "model.safetensors" in files( out )
