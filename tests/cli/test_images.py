"""Images on the command line: `npu compile`, `info`, `disasm`, `run --image`, and files that are none."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from npu.arch.isa import assemble, disassemble, encode
from npu.compiler.precision import PRECISIONS
from tests.cli.world import PROMPT, run_json, time_limit, untimed
from tests.helpers import cli_error, files, run_cli

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
