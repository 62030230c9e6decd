"""What a user can do wrong: arguments that there are not, places that cannot be written."""


import pytest

from npu.runtime.text import TextCodec
from tests.cli.world import NO_MODEL, PROMPT, run_json
from tests.helpers import cli_error, files, mk_checkpoint, run_cli

#-------------------------------------------------------------------------
# Wrong arguments
#-------------------------------------------------------------------------


@pytest.mark.parametrize( "command", ( "run", "compile", "compare" ) )
@pytest.mark.parametrize( "name", ( "huge", "no/such/folder", __file__ ) )
def test_an_unknown_model_is_told( out, command, name ):
  assert cli_error( command, name, *( [ "-o", out / "x" ] if command == "compile" else [] ) ) == NO_MODEL.format( name )
  assert files( out ) == set()

CONFIGS = "choose one of edge4, edge8, edge16"
FORMATS = "choose one of w8a16, w16a16, w8a8, w4a16, bf16"

@pytest.mark.parametrize( "command", ( "run", "compile", "compare" ) )
@pytest.mark.parametrize( "option, value, message", (
  pytest.param( "--config", "edge32", f"unknown config 'edge32'; {CONFIGS}", id="config" ),
  pytest.param( "--config", "", f"unknown config ''; {CONFIGS}", id="empty config" ),
  pytest.param( "--precision", "int8", f"unknown precision 'int8'; {FORMATS}", id="precision" ),
  pytest.param( "--precision", "W8A16", f"unknown precision 'W8A16'; {FORMATS}", id="precision in capitals" ),
  pytest.param( "--context", "0", "context is 0; {model} was made for 1 to 64 positions", id="context 0" ),
  pytest.param( "--context", "-1", "context is -1; {model} was made for 1 to 64 positions",
                id="negative context" ),
  pytest.param( "--context", "65", "context is 65; {model} was made for 1 to 64 positions",
                id="context too long" ) ) )
def test_what_cannot_be_compiled_is_told( model, out, command, option, value, message ):
  args = [ "-o", out / "x" ] if command == "compile" else []
  assert cli_error( command, model, option, value, *args ) == message.format( model=model )
  assert files( out ) == set()

@pytest.mark.parametrize( "command", ( "run", "compile" ) )
@pytest.mark.parametrize( "rows", ( 0, -1, 17 ) )
def test_wrong_pass_rows_are_told( model, out, command, rows ):
  args = [ "-o", out / "x" ] if command == "compile" else []
  assert ( cli_error( command, model, "--pass-rows", rows, *args )
           == f"pass rows are {rows}; config edge16 does 1 to 16" )

@pytest.mark.parametrize( "args, message", (
  pytest.param( [ "--level", "gates" ], "unknown level 'gates'; choose one of fl, cl, rtl, verilog", id="level" ),
  pytest.param( [ "--temperature", "-1" ], "--temperature is -1.0; choose 0 (greedy) to 100",
                id="negative temperature" ),
  pytest.param( [ "--temperature", "101" ], "--temperature is 101.0; choose 0 (greedy) to 100",
                id="too hot" ),
  pytest.param( [ "--temperature", "nan" ], "--temperature is nan; choose 0 (greedy) to 100",
                id="temperature NaN" ),
  pytest.param( [ "--top-k", "-1" ], "--top-k is -1; choose 0 (all) or more", id="top_k" ),
  pytest.param( [ "--top-p", "0" ], "--top-p is 0.0; choose more than 0, up to 1", id="top_p 0" ),
  pytest.param( [ "--top-p", "1.5" ], "--top-p is 1.5; choose more than 0, up to 1", id="top_p above 1" ),
  pytest.param( [ "--temperature", "1", "--seed", "-1" ], "--seed is -1; choose 0 or more",
                id="negative seed" ),
  pytest.param( [ "--prompt", "" ], "the prompt is empty; give at least one token", id="empty prompt" ),
  pytest.param( [ "--prompt", "caf\udce9" ], "the prompt is not valid UTF-8", id="prompt not UTF-8" ),
  pytest.param( [ "--prompt", "x" * 65 ], "the prompt has 65 tokens; this image's context is 64",
                id="prompt too long" ),
  pytest.param( [ "--max-new-tokens", "0" ], "--max-new-tokens is 0; choose 1 or more", id="no tokens" ),
  pytest.param( [ "--max-new-tokens", "-1" ], "--max-new-tokens is -1; choose 1 or more", id="fewer tokens" ) ) )
def test_wrong_arguments_of_run_are_told( model, args, message ):
  assert cli_error( "run", model, *args ) == message


def test_any_number_of_tokens_may_be_asked_for( model ):
  assert run_json( model, "--prompt", "x" * 60, "--max-new-tokens", 1 << 32 )["status"] == "context"

def test_wrong_arguments_leave_no_json( model, out ):
  for args in ( [ "--prompt", "" ], [ "--top-p", "2" ], [ "--precision", "x" ], [ "--max-new-tokens", "0" ] ):
    assert run_cli( "run", model, *args, "--json", out / "r.json" ).code == 2
    assert files( out ) == set()


def test_a_token_outside_the_vocabulary_is_told( tmp_path ):
  folder = mk_checkpoint( tmp_path / "model", vocab_size=100, eos_token_id=0 )
  token  = max( TextCodec( "nano" ).encode( PROMPT ) )
  assert token >= 100
  assert ( cli_error( "run", folder, "--prompt", PROMPT )
           == f"the prompt has token {token}; the model's vocabulary is 0 to 99" )

@pytest.mark.parametrize( "args, words", (
  pytest.param( [ "frobnicate" ], [ "frobnicate" ], id="command" ),
  pytest.param( [ "run", "--frobnicate" ], [ "--frobnicate" ], id="option" ),
  pytest.param( [ "run", "a", "b" ], [ "b" ], id="two models" ),
  pytest.param( [ "run", "--temperature", "hot" ], [ "--temperature" ], id="temperature" ),
  pytest.param( [ "run", "--top-k", "1.5" ], [ "--top-k" ], id="top_k" ),
  pytest.param( [ "run", "--max-new-tokens", "many" ], [ "--max-new-tokens" ], id="tokens" ),
  pytest.param( [ "run", "--json" ], [ "--json" ], id="option without its value" ),
  pytest.param( [ "compile", "tiny" ], [ "-o" ], id="no output" ),
  pytest.param( [ "compile" ], [ "argument" ], id="nothing" ),
  pytest.param( [ "random-model", "x" ], [ "--like" ], id="no shape" ) ) )
def test_wrong_usage_is_told( monkeypatch, args, words ):
  monkeypatch.setenv( "COLUMNS", "200" )
  result = run_cli( *args )
  assert ( result.code, result.out ) == ( 2, "" )
  assert "Traceback" not in result.err
  for word in words:
    assert word in result.err


@pytest.mark.parametrize( "args", ( [ "frobnicate" ], [ "run", "--temperature", "hot" ], [ "compile", "tiny" ] ) )
def test_wrong_usage_is_told_in_one_line( args ):
  cli_error( *args )

#-------------------------------------------------------------------------
# Places that cannot be written
#-------------------------------------------------------------------------

@pytest.mark.parametrize( "command", ( "compile", "run", "info", "compare" ) )
@pytest.mark.parametrize( "name, reason", (
  pytest.param( "missing/file", "no such folder", id="missing folder" ),
  pytest.param( "folder", "it is a folder", id="a folder" ),
  pytest.param( "file/file", "no such folder", id="below a file" ),
  pytest.param( "a" * 300, "File name too long", id="too long" ),
  pytest.param( "a" * 250, "File name too long", id="too long for a temporary name" ) ) )
def test_a_place_that_cannot_be_written_is_told( model, image, out, stub_reference, command, name, reason,
                                                 request ):
  ( out / "folder" ).mkdir()
  ( out / "file" ).write_text( "x" )
  before = files( out )
  args = { "compile": [ model, "-o" ], "run": [ model, "--max-new-tokens", "1", "--json" ],
           "info": [ image, "--json" ],
           "compare": [ model, "--image", image, "--tokens", "2", "--json" ] }[command]
  result = run_cli( command, *args, out / name )
  assert result.code == 2
  assert result.err.splitlines()[-1] == f"error: cannot write {out / name}: {reason}"
  assert files( out ) == before
  # What is seen from the path alone is told before any work is done.
  assert result.out == "" or len( name ) == 250


def test_an_empty_name_of_the_json_file_is_told( model ):
  assert cli_error( "run", model, "--max-new-tokens", 1, "--json", "" ) == "cannot write .: it is a folder"
