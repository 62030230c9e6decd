"""The command line, from its arguments to its files: what it prints, what it writes, how it fails.

Most commands run inside this process; those at the end of this file have one of their own.
"""

import json
import math
import os
import resource
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from npu.arch.config import PRESETS
from npu.arch.isa import assemble, disassemble, encode
from npu.compiler.build import compile_model
from npu.compiler.program import PRECISIONS
from npu.runtime.session import TextCodec
from npu.tools.random_model import SHAPES
from tests.helpers import cli_command, cli_environment, cli_error, files, mk_chain, mk_checkpoint, run_cli

@pytest.fixture( autouse=True )
def temporary( tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch ) -> Iterator[Path]:
  """The place of temporary files, where no command may leave anything of its own."""
  folder = tmp_path_factory.mktemp( "temporary" )
  monkeypatch.setattr( tempfile, "tempdir", str( folder ) )
  monkeypatch.setenv( "TMPDIR", str( folder ) )
  yield folder
  # Other libraries have their caches here.
  assert not [ name for name in files( folder ) if name.startswith( "npu-" ) ]

@pytest.fixture( scope="module" )
def model( tmp_path_factory: pytest.TempPathFactory ) -> Path:
  """A random model of 64 positions, untied, since a tied one mostly repeats its last token."""
  return mk_checkpoint( tmp_path_factory.mktemp( "models" ) / "small", seed=3, tie_word_embeddings=False )

@pytest.fixture( scope="module" )
def image( model: Path ) -> Path:
  """The image of `model`."""
  path = model.with_name( "small.npu" )
  compile_model( str( model ), path, PRESETS["edge16"], "w8a16" )
  return path

@pytest.fixture
def out( tmp_path: Path ) -> Path:
  """An empty folder."""
  folder = tmp_path / "out"
  folder.mkdir()
  return folder

PROMPT = "the lord "

def run_json( *args: object ) -> dict[str, Any]:
  """What `npu run ARGS --json -` prints, which must be JSON and nothing else."""
  result = run_cli( "run", *args, "--json", "-" )
  assert ( result.code, result.err ) == ( 0, "" )
  found = json.loads( result.out )
  assert isinstance( found, dict )
  return found

def untimed( report: dict[str, Any] ) -> dict[str, Any]:
  """A report without the times, which differ from run to run."""
  return { key: value for key, value in report.items() if not key.endswith( "_seconds" ) }

@contextmanager
def time_limit( seconds: float ) -> Iterator[None]:
  """Fail what would hang. Not TimeoutError, which is an OSError and would be taken for the file's."""
  def stop( *_: object ) -> None:
    raise AssertionError( f"still running after {seconds} s" )
  old = signal.signal( signal.SIGALRM, stop )
  signal.setitimer( signal.ITIMER_REAL, seconds )
  try:
    yield
  finally:
    signal.setitimer( signal.ITIMER_REAL, 0 )
    signal.signal( signal.SIGALRM, old )

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
  monkeypatch.setattr( "npu.runtime.session.TextCodec.stream", spying( TextCodec.stream, pieces ) )
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

#-------------------------------------------------------------------------
# Images
#-------------------------------------------------------------------------

@pytest.mark.parametrize( "args", (
  pytest.param( [], id="greedy" ),
  pytest.param( [ "--temperature", "0.8", "--top-k", "20", "--seed", "3" ], id="sampled" ) ) )
def test_a_run_from_an_image_is_the_direct_run( model, image, args ):
  common = [ model, "--prompt", PROMPT, "--max-new-tokens", 8, *args ]
  assert untimed( run_json( *common, "--image", image ) ) == untimed( run_json( *common ) )

def test_a_run_leaves_the_image_as_it_is( model, image ):
  before = image.read_bytes()
  run_json( model, "--prompt", PROMPT, "--max-new-tokens", 4, "--image", image )
  assert image.read_bytes() == before

def test_compile_says_what_it_wrote( model, out ):
  result = run_cli( "compile", model, "-o", out / "a.npu" )
  assert ( result.code, result.out ) == ( 0, "" )
  manifest = json.loads( run_cli( "info", out / "a.npu", "--json", "-" ).out )
  stored   = sum( r["size"] for r in manifest["regions"] if r["stored"] )
  last     = max( manifest["regions"], key=lambda r: r["line"] )
  dram     = -( -( 64 * last["line"] + last["size"] ) // 64 ) * 64
  assert result.err == ( f"{out / 'a.npu'}: {stored:,} bytes stored, {dram:,} bytes of DRAM, "
                         f"{manifest['instructions']} instructions, up to 16 rows a pass\n" )
  assert files( out ) == { "a.npu" }

def test_compiling_twice_gives_the_same_file( model, image, out ):
  run_cli( "compile", model, "-o", out / "a.npu" )
  assert ( out / "a.npu" ).read_bytes() == image.read_bytes()

def test_compile_replaces_an_older_file( model, image, out ):
  ( out / "a.npu" ).write_bytes( b"old" )
  assert run_cli( "compile", model, "-o", out / "a.npu" ).code == 0
  assert ( out / "a.npu" ).read_bytes() == image.read_bytes()
  assert files( out ) == { "a.npu" }


def test_brackets_in_a_path_are_shown( model, out ):
  path = out / "[x].npu"
  assert run_cli( "compile", model, "-o", path ).err.startswith( f"{path}: " )
  assert run_cli( "info", path ).out.startswith( f"{path}: " )

def test_info_shows_the_image( image ):
  result = run_cli( "info", image )
  assert ( result.code, result.err ) == ( 0, "" )
  lines = [ line.rstrip() for line in result.out.splitlines() ]
  assert lines[:3] == [
    f"{image}: small, w8a16, for edge16 (n = 16)",
    "2 layers, hidden 24, intermediate 40, 4 heads, 2 KV heads of 6, vocabulary 384",
    f"context 64, up to 16 rows a pass, {len( program_of( image ) )} instructions" ]
  assert lines[3] == "runs at the levels fl, cl, rtl, verilog (npu run --level)"
  assert lines[4].split() == [ "region", "count", "first", "line", "bytes", "in", "file" ]
  rows = { row.split()[0]: row.split()[1:] for row in lines[5:] }
  # The mailbox is 32 words at line 0, a KV cache per layer is not in the file.
  assert rows["mailbox"] == [ "1", "0x0", "128", "yes" ]
  assert rows["tokens"][0] == "1" and rows["tokens"][2] == str( 4 * 65 )
  assert rows["layers.*.qkv"][0] == rows["kv.*"][0] == "2"
  assert rows["kv.*"][3] == rows["logits"][3] == "zeros"
  assert set( rows ) == { "mailbox", "tokens", "program", "norms", "rope", "embedding", "head.*", "kv.*",
                          "logits", *( f"layers.*.{m}" for m in ( "qkv", "o", "gate_up", "down" ) ) }

def test_info_as_json( image, out ):
  manifest = json.loads( run_cli( "info", image, "--json", "-" ).out )
  assert { "model", "precision", "config", "dimensions", "context", "instructions", "regions" } <= set( manifest )
  assert ( manifest["model"], manifest["precision"], manifest["context"] ) == ( "small", "w8a16", 64 )
  assert manifest["config"]["name"] == "edge16" and manifest["dimensions"]["vocab_size"] == 384
  ends = 0
  for region in manifest["regions"]:
    assert region["line"] * 64 >= ends, region     # in order, and none overlaps the next
    ends = region["line"] * 64 + region["size"]
  result = run_cli( "info", image, "--json", out / "i.json" )
  assert json.loads( ( out / "i.json" ).read_text() ) == manifest
  assert "mailbox" in result.out

def program_of( image: Path ) -> list[bytes]:
  """The instructions in an image file, found through its header and manifest alone."""
  data = image.read_bytes()
  magic, _, manifest_bytes, _, dram_bytes = struct.unpack_from( "<8sIIQQ", data )
  assert magic == b"NPUIMAGE"
  manifest = json.loads( data[4096 + dram_bytes :][:manifest_bytes] )
  region   = next( r for r in manifest["regions"] if r["name"] == "program" )
  program  = data[4096 + 64 * region["line"] :][: region["size"]]
  return [ program[i : i + 32] for i in range( 0, len( program ), 32 ) ]

@pytest.mark.parametrize( "precision", PRECISIONS )
def test_disassembly_is_the_program( model, out, precision ):
  run_cli( "compile", model, "-o", out / "a.npu", "--precision", precision, "--config", "edge4" )
  result  = run_cli( "disasm", out / "a.npu" )
  program = program_of( out / "a.npu" )
  lines   = result.out.splitlines()
  assert len( lines ) == len( program )
  for pc, ( line, word ) in enumerate( zip( lines, program, strict=True ) ):
    number, text = line.split( maxsplit=1 )
    assert int( number ) == pc
    assert encode( assemble( text ) ) == word
    assert disassemble( assemble( text ) ) == text
  assert lines[0].split()[1:] == [ "PASS", "limit=16" ]
  assert lines[-1].split()[1] == "JUMP"

HEADER = struct.Struct( "<8sIIQQ32s" )

def header( **changes: int ) -> Callable[[bytes], bytes]:
  """An image with some header fields added to."""
  def damage( data: bytes ) -> bytes:
    names  = ( "magic", "version", "manifest_bytes", "payload_bytes", "dram_bytes", "digest" )
    fields = dict( zip( names, HEADER.unpack_from( data ), strict=True ) )
    for name, more in changes.items():
      fields[name] += more
    return HEADER.pack( *fields.values() ) + data[HEADER.size :]
  return damage

def flip( at: int ) -> Callable[[bytes], bytes]:
  """An image with one bit changed."""
  def damage( data: bytes ) -> bytes:
    changed = bytearray( data )
    changed[at] ^= 4
    return bytes( changed )
  return damage

NO_IMAGE  = "{image} is not an NPU image; make one with `npu compile MODEL -o FILE`"
DAMAGED   = "{image} is damaged: its checksum is wrong; compile it again"
WRONG_SIZE = "{image} has {size} bytes; its header says {full}: it is truncated, compile it again"

@pytest.mark.parametrize( "command", ( "info", "disasm", "run", "compare" ) )
@pytest.mark.parametrize( "damage, message", (
  pytest.param( lambda d: b"", NO_IMAGE, id="empty" ),
  pytest.param( lambda d: d[:63], NO_IMAGE, id="shorter than its header" ),
  pytest.param( lambda d: b"PK" + d[2:], NO_IMAGE, id="another format" ),
  pytest.param( header( version=1 ), "{image} is an image of version 2; this program reads version 1: "
                                     "compile it again", id="another version" ),
  pytest.param( lambda d: d[:-1], WRONG_SIZE, id="one byte short" ),
  pytest.param( lambda d: d[:5000], WRONG_SIZE, id="cut off" ),
  pytest.param( flip( 4096 + 1000 ), DAMAGED, id="a bit of the program" ),
  pytest.param( flip( 4096 + 20000 ), DAMAGED, id="a bit of the weights" ),
  pytest.param( flip( -3 ), DAMAGED, id="a bit of the manifest" ),
  pytest.param( flip( 40 ), DAMAGED, id="a bit of the checksum" ),
  pytest.param( header( payload_bytes=-64 ), DAMAGED, id="payload too short" ),
  pytest.param( header( dram_bytes=-64, manifest_bytes=64 ), DAMAGED, id="sizes that add up" ) ) )
def test_a_bad_image_is_refused( model, image, out, command, damage, message ):
  data = image.read_bytes()
  bad  = out / "bad.npu"
  bad.write_bytes( damage( data ) )
  args = [ command, model, "--image", bad ] if command in ( "run", "compare" ) else [ command, bad ]
  assert cli_error( *args ) == message.format( image=bad, size=bad.stat().st_size, full=len( data ) )

def test_an_image_that_claims_more_than_it_has_is_refused( image, out ):
  bad = out / "bad.npu"
  bad.write_bytes( header( payload_bytes=1 << 40 )( image.read_bytes() ) )
  _, _, _, payload_bytes, dram_bytes, _ = HEADER.unpack_from( bad.read_bytes() )
  with time_limit( 5.0 ):        # not to read on for ever at the end of the file
    assert cli_error( "info", bad ) == (
      f"{bad} is damaged: its header says that {payload_bytes} of {dram_bytes} bytes are stored; "
      "compile it again" )

@pytest.mark.parametrize( "command", ( "info", "disasm", "run", "compare" ) )
@pytest.mark.parametrize( "name, reason", ( pytest.param( "none", "No such file or directory", id="missing" ),
                                            pytest.param( ".", "Is a directory", id="a folder" ) ) )
def test_a_missing_image_is_told( model, out, command, name, reason ):
  path = out / name
  args = [ command, model, "--image", path ] if command in ( "run", "compare" ) else [ command, path ]
  assert cli_error( *args ) == f"cannot read image {path}: {reason}"

#-------------------------------------------------------------------------
# Wrong arguments
#-------------------------------------------------------------------------

NO_MODEL = "no such model folder: {}; give a checkpoint folder or one of tiny, nano"

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

#-------------------------------------------------------------------------
# compare
#-------------------------------------------------------------------------

class StubReference:
  """In place of Hugging Face's model, which takes seconds to import: logits that prefer the token itself."""

  def __init__( self, folder: Path ) -> None:
    self.vocab = json.loads( ( folder / "config.json" ).read_text() )["vocab_size"]

  def logits( self, tokens: list[int] ) -> np.ndarray:
    return np.eye( self.vocab, dtype=np.float32 )[tokens]

@pytest.fixture
def stub_reference( monkeypatch: pytest.MonkeyPatch ) -> None:
  monkeypatch.setattr( "npu.tools.compare.Reference", StubReference )

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
  assert run_cli( "random-model", out / "new" / "model", "--like", "nano", "--seed", 4 ).code == 0
  report = run_json( out / "new" / "model", "--max-new-tokens", 3 )
  assert ( report["model"], len( report["tokens"] ) ) == ( "model", 3 )

def test_random_model_of_an_unknown_shape( out ):
  assert ( cli_error( "random-model", out / "m", "--like", "qwen2-7b" )
           == f"unknown model shape 'qwen2-7b'; known are {', '.join( SHAPES )}" )
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

#-------------------------------------------------------------------------
# In a process of their own
#-------------------------------------------------------------------------

def spawn( *args: object, file_size: int | None = None, code: str = "", **options: Any ) -> subprocess.CompletedProcess:
  """`npu ARGS` as a user runs it.

  Parameters
  ----------
  file_size
    The largest file that it can write, in bytes, as on a full disk.
  code
    Python to execute first.
  """
  def limit() -> None:
    if file_size is not None:
      resource.setrlimit( resource.RLIMIT_FSIZE, ( file_size, file_size ) )
  command = cli_command( *args )
  if code:
    command = [ sys.executable, "-c", f"{code}\nfrom npu.cli.main import main\nmain()", *command[3:] ]
  # No byte code: a file of it, cut off, would be in the way of others.
  environment = cli_environment( PYTHONDONTWRITEBYTECODE="1", PYTHONIOENCODING="utf-8" )
  return subprocess.run( command, env=environment, preexec_fn=limit, timeout=60, check=False,
                         **{ "capture_output": True, "text": True, "encoding": "utf-8", **options } )

def test_run_as_a_user_does( model, image, out ):
  done = spawn( "run", model, "--image", image, "--prompt", "é ", "--max-new-tokens", 6, "--json", "r.json", cwd=out )
  assert done.returncode == 0
  report = json.loads( ( out / "r.json" ).read_text() )
  assert done.stdout.rstrip( "\ufffd\n" ) == ( "é " + report["text"] ).rstrip( "\ufffd\n" )
  assert "6 out; token limit reached" in done.stderr
  assert untimed( report ) == untimed( run_json( model, "--prompt", "é ", "--max-new-tokens", 6 ) )

def test_an_error_as_a_user_sees_it( out ):
  done = spawn( "run", "nowhere", "--json", "r.json", cwd=out )
  assert ( done.returncode, done.stdout ) == ( 2, "" )
  assert done.stderr == f"error: {NO_MODEL.format( 'nowhere' )}\n"
  assert files( out ) == set()

def test_run_needs_neither_torch_nor_transformers( model ):
  done = spawn( "run", model, "--max-new-tokens", 2, "--json", "-",
                code="import sys; sys.modules.update( torch=None, transformers=None )" )
  assert ( done.returncode, done.stderr ) == ( 0, "" )
  assert len( json.loads( done.stdout )["tokens"] ) == 2

@pytest.mark.parametrize( "command, file_size", (
  pytest.param( "compile", 20000, id="compile" ),
  pytest.param( "run", 20000, id="run, its image" ),
  pytest.param( "random-model", 20000, id="random-model, weights" ),
  pytest.param( "random-model", 5000, id="random-model, tokenizer" ) ) )
def test_a_full_disk_is_told( model, out, command, file_size ):
  args = { "compile": [ model, "-o", "a.npu" ], "run": [ model, "--json", "r.json" ],
           "random-model": [ "m", "--like", "nano" ] }[command]
  done = spawn( command, *args, file_size=file_size, cwd=out )
  assert ( done.returncode, done.stdout ) == ( 2, "" )
  lines = done.stderr.splitlines()
  assert len( lines ) == 1 and lines[0].startswith( "error: cannot write " )
  assert lines[0].endswith( ": File too large" )
  if command != "run":
    assert lines[0] == f"error: cannot write {args[0] if command == 'random-model' else 'a.npu'}: File too large"
  assert files( out ) == set()

def test_json_on_a_full_disk_is_told( model, image, out ):
  ( out / "r.json" ).write_text( "old" )
  done = spawn( "run", model, "--image", image, "--max-new-tokens", 2, "--json", "r.json", file_size=100, cwd=out )
  assert done.returncode == 2
  assert done.stderr.splitlines()[-1] == "error: cannot write r.json: File too large"
  assert files( out ) == { "r.json" } and ( out / "r.json" ).read_text() == "old"

@pytest.mark.skipif( not os.path.exists( "/dev/full" ), reason="no /dev/full here" )

def test_a_full_disk_behind_standard_output_is_told( model, image ):
  with open( "/dev/full", "w" ) as full:
    done = spawn( "run", model, "--image", image, "--max-new-tokens", 2, capture_output=False, stdout=full,
                  stderr=subprocess.PIPE )
  assert done.returncode == 2
  assert done.stderr == "error: cannot write standard output: No space left on device\n"

def test_a_reader_that_goes_is_no_error( image ):
  read, write = os.pipe()
  os.close( read )
  done = spawn( "disasm", image, capture_output=False, stdout=write, stderr=subprocess.PIPE )
  os.close( write )
  assert done.stderr == ""

def test_help_lists_the_commands():
  done = spawn( "--help" )
  assert done.returncode == 0
  for command in ( "run", "compile", "info", "disasm", "compare", "random-model" ):
    assert command in done.stdout
