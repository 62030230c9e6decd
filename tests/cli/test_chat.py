"""`npu chat` through a pipe and on a terminal, `npu run --chat`, where prompts come from, options of sampling."""

import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from npu.cli.run import piped
from npu.runtime.text import TextCodec
from tests.cli.world import run_json
from tests.helpers import CHATML, CliResult, cli_command, cli_environment, cli_error, mk_chain, mk_checkpoint, run_cli

@pytest.fixture( scope="module" )
def speaker( tmp_path_factory: pytest.TempPathFactory ) -> Path:
  """A model that answers anything with `Yes`: the chat template ends in a new line, after which it says so."""
  codec = TextCodec( "nano" )
  chain = [ codec.encode( "\n" )[0], *codec.encode( "Yes" ), 383 ]
  return mk_chain( tmp_path_factory.mktemp( "models" ) / "speaker", chain, template=CHATML,
                   max_position_embeddings=128 )

@pytest.fixture( scope="module" )
def endless( tmp_path_factory: pytest.TempPathFactory ) -> Path:
  """A model that says a and b in turn, without an end."""
  codec  = TextCodec( "nano" )
  [ a ], [ b ], [ line ] = ( codec.encode( c ) for c in "ab\n" )
  folder = mk_chain( tmp_path_factory.mktemp( "models" ) / "endless", [ line, a, b ], template=CHATML,
                     max_position_embeddings=4096 )
  from safetensors.numpy import load_file, save_file
  tensors = load_file( folder / "model.safetensors" )
  tensors["lm_head.weight"][a] += tensors["model.embed_tokens.weight"][b]
  save_file( tensors, folder / "model.safetensors", metadata={ "format": "pt" } )
  return folder

def chat_lines( monkeypatch: pytest.MonkeyPatch, lines: str, *args: object ) -> CliResult:
  """`npu chat ARGS` with lines from a pipe."""
  monkeypatch.setattr( sys, "stdin", io.StringIO( lines ) )
  return run_cli( "chat", *args )

#-------------------------------------------------------------------------
# Through a pipe
#-------------------------------------------------------------------------

@pytest.mark.parametrize( "args", ( [], pytest.param( [ "--level", "cl", "--config", "edge4" ], id="cl",
                                                      marks=pytest.mark.level( "cl" ) ) ) )
def test_every_line_is_a_message( speaker, monkeypatch, tmp_path, args ):
  done = chat_lines( monkeypatch, "a\n\nb\n/reset\nc", speaker, "--system", "S", "--json", tmp_path / "r.json", *args )
  assert ( done.code, done.out, done.err ) == ( 0, "Yes\nYes\nYes\n", "" )
  told = json.loads( ( tmp_path / "r.json" ).read_text() )
  assert ( told["model"], told["system"], told["level"] ) == ( "speaker", "S", "cl" if args else "fl" )
  turns = told["turns"]
  assert [ ( t["conversation"], t["user"], t["text"] ) for t in turns ] == [ ( 1, "a", "Yes" ), ( 1, "b", "Yes" ),
                                                                            ( 2, "c", "Yes" ) ]
  one, two, three = turns
  assert ( one["cached_tokens"], two["cached_tokens"] ) == ( 0, one["prompt_tokens"] + len( one["tokens"] ) - 1 )
  # The system prompt is the same after /reset.
  assert 0 < three["cached_tokens"] < one["prompt_tokens"] == three["prompt_tokens"]
  assert ( one["cycles"] is not None ) == bool( args )

def test_json_on_standard_output_is_all_there( speaker, monkeypatch ):
  done = chat_lines( monkeypatch, "a\n/quit\nb\n", speaker, "--json", "-" )
  assert ( done.code, done.err ) == ( 0, "" )
  assert [ t["user"] for t in json.loads( done.out )["turns"] ] == [ "a" ]

def test_commands_work_in_a_pipe( speaker, monkeypatch ):
  done = chat_lines( monkeypatch, "/stats\na\n/stats\n/help\n", speaker )
  assert done.out == "Yes\n"
  for text in ( "no answer yet", "answers: 1; 16 new tokens in, 3 out", "/reset  begin a new conversation" ):
    assert text in re.sub( r" *\n +", " ", done.err ), text

@pytest.mark.parametrize( "lines, message, turns", (
  pytest.param( "a\n/what\nb\n", "no command /what; there are /reset, /stats, /help, /quit (a message that begins "
                "with / needs a space in front)", 1, id="command" ),
  pytest.param( "a\nb\n" + "c" * 99 + "\n", "the conversation has 154 tokens with this message, and the context holds "
                "128; begin anew, or choose a larger context", 2, id="context" ),
  pytest.param( "a\ncaf\udce9\n", "the prompt is not valid UTF-8", 1, id="not UTF-8" ) ) )
def test_a_wrong_line_in_a_pipe_ends_the_talk( speaker, monkeypatch, tmp_path, lines, message, turns ):
  done = chat_lines( monkeypatch, lines, speaker, "--json", tmp_path / "r.json" )
  assert ( done.code, done.err ) == ( 2, f"error: {message}\n" )
  assert len( json.loads( ( tmp_path / "r.json" ).read_text() )["turns"] ) == turns

@pytest.mark.parametrize( "args, message", (
  pytest.param( [ "nano" ], "nano has no chat template, so it cannot chat; choose a model that was made for "
                "conversations (an instruct or chat model)", id="no template" ),
  pytest.param( [ "{speaker}", "--max-new-tokens", 0 ], "--max-new-tokens is 0; choose 1 or more", id="no tokens" ),
  pytest.param( [ "{speaker}", "--stop", "" ], "--stop is empty; give a text that ends the generation", id="stop" ),
  pytest.param( [ "{speaker}", "--max-cycles", 9 ], "--max-cycles needs a level with cycles, such as cl", id="clock" ),
  pytest.param( [ "{speaker}", "--json", "no/r.json" ], "cannot write no/r.json: no such folder", id="json" ) ) )
def test_what_a_chat_cannot_do_is_told_first( speaker, monkeypatch, args, message ):
  monkeypatch.setattr( sys, "stdin", io.StringIO( "a\n" ) )
  assert cli_error( "chat", *( str( a ).format( speaker=speaker ) for a in args ) ) == message

def test_a_template_that_fails_is_told( tmp_path, monkeypatch ):
  folder = mk_checkpoint( tmp_path / "model", template="{{ raise_exception( 'no' ) }}" )
  monkeypatch.setattr( sys, "stdin", io.StringIO( "a\n" ) )
  assert cli_error( "chat", folder ) == "the chat template cannot be rendered: no"

#-------------------------------------------------------------------------
# On a terminal
#-------------------------------------------------------------------------

class Terminal:
  """A process on a terminal of its own: what it has written, and what is typed."""

  def __init__( self, *args: object ) -> None:
    self._fd, slave = pty.openpty()
    self.process = subprocess.Popen( cli_command( *args ), env=cli_environment( TERM="xterm", COLUMNS="200" ),
                                     stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
                                     preexec_fn=lambda: os.close( os.open( os.ttyname( 0 ), os.O_RDWR ) ) )
    os.close( slave )
    self.text = ""

  def expect( self, text: str, seconds: float = 60 ) -> str:
    """Wait until it writes this text; what came before it."""
    end = time.monotonic() + seconds
    while text not in self.text:
      assert time.monotonic() < end, ( text, self.text )
      if select.select( [ self._fd ], [], [], 0.2 )[0]:
        try:
          self.text += os.read( self._fd, 4096 ).decode()
        except OSError:       # it has ended
          assert text in self.text, ( text, self.text )
    before, _, self.text = self.text.partition( text )
    return before

  def type( self, keys: str ) -> None:
    """Press keys."""
    os.write( self._fd, keys.encode() )

  def interrupt( self, done: Callable[[], object] ) -> None:
    """Press Ctrl-C at the prompt until `done` succeeds within two seconds.

    A key alone would do for a person. Between the prompt and readline's first look at the keys, which is as long as a
    test needs to press one, Python notices a signal only with the next key.
    """
    for _ in range( 30 ):
      self.type( "\x03" )
      with suppress( AssertionError, subprocess.TimeoutExpired ):
        done()
        return
    raise AssertionError( "no answer to Ctrl-C" )

  def told( self ) -> str:
    """Wait for what Ctrl-C at the prompt answers."""
    return self.expect( "Once more, or Ctrl-D, ends.", 2 )

  def end( self ) -> int:
    """Wait for its end; the exit code."""
    code = self.process.wait( timeout=60 )
    os.close( self._fd )
    return code

@contextmanager
def terminal( *args: object ) -> Iterator[Terminal]:
  """A process on a terminal, which is gone afterwards."""
  made = Terminal( *args )
  try:
    yield made
  finally:
    if made.process.poll() is None:
      made.process.kill()
      made.process.wait()

def test_a_talk_on_a_terminal( speaker, tmp_path ):
  with terminal( "chat", speaker, "--json", tmp_path / "r.json" ) as t:
    assert "speaker: 1 layers" in t.expect( "> " )
    t.type( "hello\n" )
    assert "Yes" in t.expect( "> " )
    t.type( "/what\n" )
    assert "error: no command /what" in t.expect( "> " )
    t.type( "x" * 120 + "\n" )
    assert "begin anew" in t.expect( "> " )
    t.type( "/reset\n" )
    t.expect( "> " )
    t.type( "\x1b[A\x1b[A\x1b[A\x1b[A\n" )     # the history has what was typed
    assert "Yes" in t.expect( "> " )
    t.type( "\x04" )
    assert t.end() == 0
  turns = json.loads( ( tmp_path / "r.json" ).read_text() )["turns"]
  assert [ ( t["conversation"], t["user"] ) for t in turns ] == [ ( 1, "hello" ), ( 2, "hello" ) ]

@pytest.mark.parametrize( "args", ( [], pytest.param( [ "--level", "cl", "--config", "edge4" ], id="cl",
                                                      marks=pytest.mark.level( "cl" ) ) ) )
def test_an_interrupt_stops_the_answer_and_the_second_the_program( endless, tmp_path, args ):
  with terminal( "chat", endless, "--max-new-tokens", 4000, "--json", tmp_path / "r.json", "--no-progress"
                 if args else "--ignore-eos", *args ) as t:
    t.expect( "> " )
    t.type( "hi\n" )
    t.expect( "abab" )             # while it goes on
    t.type( "\x03" )
    assert "Once more, or Ctrl-D, ends." in t.expect( "> " )
    t.type( "yo\n" )
    t.expect( "abab" )
    t.type( "\x03" )
    t.expect( "> " )
    t.interrupt( lambda: t.process.wait( timeout=2 ) )
    assert t.end() == 130
  one, two = json.loads( ( tmp_path / "r.json" ).read_text() )["turns"]
  assert ( one["status"], two["status"] ) == ( "running", "running" )
  assert one["text"].startswith( "abab" ) and two["cached_tokens"] > one["prompt_tokens"]

def test_an_interrupt_at_the_prompt( speaker ):
  with terminal( "chat", speaker ) as t:
    t.expect( "> " )
    t.interrupt( t.told )
    t.expect( "> " )
    t.type( "a\n" )
    assert "Yes" in t.expect( "> " )
    t.interrupt( t.told )
    t.expect( "> " )
    t.type( "/quit\n" )
    assert t.end() == 0

def test_an_interrupt_of_a_pipe_ends_the_program( endless, tmp_path ):
  command = cli_command( "chat", endless, "--max-new-tokens", 4000, "--json", tmp_path / "r.json" )
  with subprocess.Popen( command, env=cli_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, text=True ) as process:
    process.stdin.write( "hi\nyo\n" )
    process.stdin.close()
    assert process.stdout.read( 4 ) == "abab"
    process.send_signal( signal.SIGINT )
    assert process.wait( timeout=60 ) == 130
  assert [ t["user"] for t in json.loads( ( tmp_path / "r.json" ).read_text() )["turns"] ] == [ "hi" ]

#-------------------------------------------------------------------------
# npu run
#-------------------------------------------------------------------------

def test_run_takes_a_prompt_for_a_message( speaker ):
  done = run_cli( "run", speaker, "--chat", "--system", "S", "--prompt", "hi" )
  assert ( done.code, done.out ) == ( 0, "Yes\n" ) and "the model ended its text" in done.err
  report   = run_json( speaker, "--chat", "--system", "S", "--prompt", "hi" )
  expected = "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
  assert report["prompt_token_ids"] == TextCodec( speaker ).encode( expected )
  assert cli_error( "run", speaker, "--system", "S" ) == "--system needs --chat"
  assert cli_error( "run", "nano", "--chat" ).startswith( "nano has no chat template" )

def spawn( *args: object, **options: Any ) -> subprocess.CompletedProcess:
  return subprocess.run( cli_command( *args ), env=cli_environment(), capture_output=True, timeout=60, check=False,
                         **options )

NANO = ( "run", "nano", "--max-new-tokens", 2, "--json", "-" )

@pytest.mark.parametrize( "args, data, expected", (
  pytest.param( [], b"Light\n", "Light", id="a pipe" ),
  pytest.param( [], b"Light\r\n", "Light", id="another new line" ),
  pytest.param( [], b"two\nlines\n\n", "two\nlines\n", id="lines" ),
  pytest.param( [], b"", "In the beginning", id="an empty pipe" ),
  pytest.param( [ "--prompt", "Dark" ], b"Light\n", "Dark", id="a prompt beside a pipe" ),
  pytest.param( [ "--prompt", "-" ], b"Light\n", "Light", id="a prompt -" ),
  pytest.param( [ "--prompt-file", "-" ], b"Light\n", "Light", id="a file -" ),
  pytest.param( [ "--prompt-file", "p.txt" ], b"Light\n", "From\na file", id="a file beside a pipe" ) ) )
def test_where_a_prompt_comes_from( tmp_path, args, data, expected ):
  ( tmp_path / "p.txt" ).write_bytes( b"From\na file\n" )
  done = spawn( *NANO, *args, input=data, cwd=tmp_path )
  assert done.returncode == 0, done.stderr
  assert json.loads( done.stdout )["prompt_token_ids"] == TextCodec( "nano" ).encode( expected )

def test_a_file_as_standard_input_is_a_prompt( tmp_path ):
  ( tmp_path / "p.txt" ).write_text( "Light\n" )
  with ( tmp_path / "p.txt" ).open() as file:
    done = spawn( *NANO, stdin=file )
  assert json.loads( done.stdout )["prompt_token_ids"] == TextCodec( "nano" ).encode( "Light" )

@pytest.mark.parametrize( "options", (
  pytest.param( { "stdin": subprocess.DEVNULL }, id="null" ),
  pytest.param( { "preexec_fn": lambda: os.close( 0 ) }, id="closed" ) ) )
def test_nothing_is_read_where_nobody_speaks( options ):
  done = spawn( *NANO, **options )
  assert json.loads( done.stdout )["prompt_token_ids"] == TextCodec( "nano" ).encode( "In the beginning" )

def test_a_terminal_is_no_pipe( monkeypatch ):
  _, slave = pty.openpty()
  with os.fdopen( slave ) as terminal_in:
    monkeypatch.setattr( sys, "stdin", terminal_in )
    assert not piped()

@pytest.mark.parametrize( "args, data, message", (
  pytest.param( [ "--prompt", "a", "--prompt-file", "b" ], b"", "--prompt and --prompt-file exclude each other",
                id="two" ),
  pytest.param( [ "--prompt-file", "none.txt" ], b"", "cannot read none.txt: No such file or directory", id="no file" ),
  pytest.param( [ "--prompt-file", "." ], b"", "cannot read .: Is a directory", id="a folder" ),
  pytest.param( [ "--prompt", "-" ], b"", "the prompt is empty; give at least one token", id="nothing" ),
  pytest.param( [], b"caf\xe9", "cannot read standard input: 'utf-8' codec can't decode byte 0xe9 in position 3: "
                "unexpected end of data", id="not UTF-8" ) ) )
def test_a_prompt_that_cannot_be_read_is_told( tmp_path, args, data, message ):
  done = spawn( *NANO, *args, input=data, cwd=tmp_path )
  assert ( done.returncode, done.stdout, done.stderr.decode() ) == ( 2, b"", f"error: {message}\n" )

#-------------------------------------------------------------------------
# Sampling
#-------------------------------------------------------------------------

def test_a_stop_text_ends_a_run( speaker ):
  report = run_json( speaker, "--chat", "--prompt", "a", "--stop", "zz", "--stop", "s" )
  assert ( report["status"], report["text"] ) == ( "stop", "Ye" )
  done = run_cli( "run", speaker, "--chat", "--prompt", "a", "--stop", "s" )
  assert done.out == "Ye\n" and "a stop text came" in done.err

def test_the_model_says_how_to_sample( tmp_path, monkeypatch ):
  folder = mk_checkpoint( tmp_path / "model", seed=3, tie_word_embeddings=False, template=CHATML,
                          generation={ "do_sample": True, "temperature": 0.9, "top_k": 20, "top_p": 0.8,
                                       "repetition_penalty": 1.1 } )
  common = [ folder, "--prompt", "a", "--max-new-tokens", 12, "--ignore-eos" ]
  as_it_says = [ "--temperature", 0.9, "--top-k", 20, "--top-p", 0.8, "--repetition-penalty", 1.1 ]
  def tokens( *args: object ) -> list[int]:
    found: list[int] = run_json( *common, *args )["tokens"]
    return found
  assert tokens( "--sampling", "model" ) == tokens( *as_it_says )
  more = [ "--seed", 5, "--min-p", 0.2 ]
  assert tokens( "--sampling", "model", *more ) == tokens( *as_it_says, *more )
  assert tokens( "--sampling", "model", "--temperature", 0, "--repetition-penalty", 1 ) == tokens()
  assert tokens( "--repetition-penalty", 1.5 ) != tokens()

@pytest.mark.parametrize( "args, message", (
  pytest.param( [ "--min-p", 2 ], "--min-p is 2.0; choose 0 (all) to 1", id="min_p" ),
  pytest.param( [ "--repetition-penalty", 0 ], "--repetition-penalty is 0.0; choose 0.01 to 100 (1: none)",
                id="penalty" ),
  pytest.param( [ "--stop", "" ], "--stop is empty; give a text that ends the generation", id="stop" ),
  pytest.param( [ "--sampling", "best" ], "unknown sampling 'best'; choose model, or leave it out", id="sampling" ),
  pytest.param( [ "--sampling", "model" ], "nano advises nothing on sampling; choose a temperature instead",
                id="no advice" ) ) )
def test_wrong_sampling_is_told( args, message ):
  assert cli_error( "run", "nano", *args ) == message
