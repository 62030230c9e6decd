"""Images that are kept between runs: when one is used again, when it is not, and what goes to make room."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import npu
from npu.compiler.find import open_model
from npu.runtime import image_cache
from npu.runtime.images import check_same_model, image_file
from tests.helpers import ROOT, cli_environment, cli_error, files, mk_checkpoint, run_cli

@pytest.fixture( autouse=True )
def cache( tmp_path: Path, monkeypatch: pytest.MonkeyPatch ) -> Path:
  """Where images are kept, nobody's else; and small models are worth it."""
  monkeypatch.setenv( "XDG_CACHE_HOME", str( tmp_path / "cache" ) )
  monkeypatch.delenv( "NPU_CACHE_DIR", raising=False )
  monkeypatch.delenv( "NPU_CACHE_GB", raising=False )
  monkeypatch.setattr( image_cache, "SMALL", 0 )
  return tmp_path / "cache" / "npu" / "images"

@pytest.fixture
def model( tmp_path: Path ) -> Path:
  return mk_checkpoint( tmp_path / "model", seed=3, tie_word_embeddings=False )

@pytest.fixture
def compiled( monkeypatch: pytest.MonkeyPatch ) -> list[Path]:
  """The files that were compiled so far."""
  found: list[Path] = []
  real = image_cache.compile_model
  def count( model: npu.compiler.model.Model, path: Path, *others: object ) -> object:
    found.append( path )
    return real( model, path, *others )
  monkeypatch.setattr( image_cache, "compile_model", count )
  return found

def images( folder: Path ) -> list[Path]:
  return sorted( folder.glob( "*.npu" ) )

#-------------------------------------------------------------------------
# Used again
#-------------------------------------------------------------------------

def test_a_model_is_compiled_once( model, cache, compiled, tmp_path ):
  first, second = npu.compile( model ), npu.compile( str( model ) )
  assert compiled == images( cache ) and len( compiled ) == 1
  direct = npu.compile( model, tmp_path / "direct.npu" )
  for image in ( first, second ):
    assert image.manifest == direct.manifest and np.array_equal( image.dram, direct.dram )
  assert compiled[0].read_bytes() == ( tmp_path / "direct.npu" ).read_bytes()

def test_everything_that_compiles_for_itself_uses_it( model, compiled ):
  for _ in range( 2 ):
    with npu.Session( model, config="edge4" ) as session:
      list( session.generate_tokens( "In", 1 ) )
  assert npu.diff( model, "In", b="fl", config="edge4", max_new_tokens=1 ).difference is None
  assert run_cli( "run", model, "--config", "edge4", "--max-new-tokens", 1 ).code == 0
  assert len( compiled ) == 1

@pytest.mark.parametrize( "other", (
  pytest.param( { "precision": "w4a16" }, id="precision" ), pytest.param( { "config": "edge4" }, id="config" ),
  pytest.param( { "context": 32 }, id="context" ), pytest.param( { "pass_rows": 4 }, id="pass rows" ) ) )
def test_what_was_asked_for_tells_images_apart( model, compiled, other ):
  for _ in range( 2 ):
    npu.compile( model )
    npu.compile( model, **other )
  assert len( compiled ) == 2

def change_weights( folder: Path ) -> None:
  other = mk_checkpoint( folder.parent / "other", seed=4, tie_word_embeddings=False )
  shutil.copy( other / "model.safetensors", folder )

@pytest.mark.parametrize( "change", (
  pytest.param( change_weights, id="weights" ),
  pytest.param( lambda f: ( f / "generation_config.json" ).write_text( '{"eos_token_id": 5}' ), id="end of text" ) ) )
def test_a_model_that_changes_is_compiled_again( model, compiled, monkeypatch, change ):
  monkeypatch.setattr( image_cache, "UNSETTLED", 0 )     # so its digest is remembered at once
  before = npu.compile( model )
  change( model )
  after = npu.compile( model )
  assert len( compiled ) == 2 and before.manifest["model_digest"] != after.manifest["model_digest"]

def test_another_name_or_compiler_makes_another_image( model, compiled, monkeypatch ):
  npu.compile( model )
  shutil.copytree( model, model.with_name( "copy" ) )
  assert npu.compile( model.with_name( "copy" ) ).manifest["model"] == "copy"
  monkeypatch.setattr( image_cache, "compiler_version", lambda: "another" )
  npu.compile( model )
  assert len( compiled ) == 3

def test_the_version_is_that_of_the_sources( tmp_path, monkeypatch ):
  def version() -> str:
    return image_cache.compiler_version.__wrapped__()
  assert version() == version() == image_cache.compiler_version()
  shutil.copytree( ROOT / "npu" / "compiler", tmp_path / "compiler" )
  monkeypatch.setattr( "npu.compiler.__path__", [ str( tmp_path / "compiler" ) ] )
  assert version() == image_cache.compiler_version()
  with ( tmp_path / "compiler" / "quantize_weights.py" ).open( "a" ) as file:
    file.write( "\n" )
  assert version() != image_cache.compiler_version()

#-------------------------------------------------------------------------
# Not kept
#-------------------------------------------------------------------------

def test_who_wants_none_gets_none( model, cache, compiled ):
  npu.compile( model, cache=False )
  with image_file( model, cache=False ) as path:
    assert path.exists()
  assert not path.exists() and len( compiled ) == 2 and not cache.exists()

@pytest.mark.parametrize( "command", ( [ "run" ], [ "diff", "--b", "fl" ] ) )
def test_commands_can_do_without( model, cache, command ):
  args = [ *command, model, "--max-new-tokens", 1 ]
  assert run_cli( *args, "--no-cache" ).code == 0 and not cache.exists()
  assert run_cli( *args ).code == 0 and len( images( cache ) ) == 1

def test_small_models_are_compiled_each_time( model, cache, compiled, monkeypatch ):
  monkeypatch.setattr( image_cache, "SMALL", sum( p.stat().st_size for p in model.iterdir() ) + 1 )
  npu.compile( model )
  npu.compile( model )
  assert len( compiled ) == 2 and not cache.exists()

def test_a_limit_of_zero_keeps_nothing( model, cache, monkeypatch ):
  monkeypatch.setenv( "NPU_CACHE_GB", "0" )
  npu.compile( model )
  assert not cache.exists()

@pytest.mark.parametrize( "text", ( "much", "-1", "nan", "inf" ) )
def test_a_limit_that_is_none_is_told( model, monkeypatch, text ):
  monkeypatch.setenv( "NPU_CACHE_GB", text )
  assert ( cli_error( "run", model )
           == f"NPU_CACHE_GB is {text!r}; a number of gigabytes, or 0 to keep no images, is expected" )

def test_without_a_place_it_works_all_the_same( model, cache, compiled, tmp_path, caplog ):
  ( tmp_path / "cache" ).write_text( "a file" )
  npu.compile( model )
  assert len( compiled ) == 1
  assert [ r.message for r in caplog.records ] == [ f"note: no image is kept: {cache}: Not a directory" ]

def test_what_cannot_be_compiled_leaves_no_image( model, cache ):
  assert cli_error( "run", model, "--context", 65 ) == f"context is 65; {model} was made for 1 to 64 positions"
  assert cli_error( "run", model, "--precision", "x" ).startswith( "unknown precision" )
  assert all( name.endswith( ".lock" ) for name in files( cache ) )

#-------------------------------------------------------------------------
# Damaged, or cut off
#-------------------------------------------------------------------------

@pytest.mark.parametrize( "damage", (
  pytest.param( lambda d: b"", id="empty" ), pytest.param( lambda d: d[:5000], id="cut off" ),
  pytest.param( lambda d: d[:5000] + bytes( [ d[5000] ^ 4 ] ) + d[5001:], id="a bit" ) ) )
def test_a_damaged_image_is_compiled_again( model, cache, compiled, caplog, damage ):
  npu.compile( model )
  [ path ] = images( cache )
  good = path.read_bytes()
  path.write_bytes( damage( good ) )
  npu.compile( model )
  assert len( compiled ) == 2 and path.read_bytes() == good
  assert [ r.message for r in caplog.records ] == [ "note: the image of model that was kept is damaged; "
                                                    "compiling it again" ]

def spawn( model: Path, code: str ) -> subprocess.Popen[str]:
  """A process that compiles the model; when it comes to that, it says so and executes the code first."""
  code = f"""
import time, npu
from npu.runtime import image_cache
image_cache.SMALL = 0
real = image_cache.compile_model
def compile_model( model, path, *others ):
  print( "compiling", flush=True )
  {code}
  return real( model, path, *others )
image_cache.compile_model = compile_model
print( npu.compile( {str( model )!r} ).manifest["model"] )
"""
  return subprocess.Popen( [ sys.executable, "-c", code ], env=cli_environment(), stdout=subprocess.PIPE,
                           stderr=subprocess.PIPE, text=True )

def test_of_two_processes_one_compiles( model, cache ):
  processes = [ spawn( model, "time.sleep( 1 )" ) for _ in range( 2 ) ]
  said      = sorted( p.communicate( timeout=60 ) for p in processes )
  assert said == [ ( "compiling\nmodel\n", "" ), ( "model\n", "" ) ]
  assert len( images( cache ) ) == 1

def test_what_a_killed_compilation_left_is_cleared( model, cache ):
  process = spawn( model, "( path.parent / f'.{path.name}.1.part' ).touch(); print( 'there', flush=True ); "
                          "time.sleep( 60 )" )
  assert process.stdout is not None
  assert [ process.stdout.readline() for _ in range( 2 ) ] == [ "compiling\n", "there\n" ]
  [ part ] = cache.glob( ".*.part" )
  # Not while it is at work.
  npu.compile( model, config="edge4" )
  assert part.exists()
  process.send_signal( signal.SIGKILL )
  process.communicate( timeout=60 )
  npu.compile( model, config="edge8" )
  assert not part.exists()
  npu.compile( model )
  assert len( images( cache ) ) == 3

#-------------------------------------------------------------------------
# Room
#-------------------------------------------------------------------------

CONFIGS = "edge4", "edge8", "edge16"

@pytest.fixture
def three( model: Path, cache: Path ) -> dict[str, Path]:
  """An image for each configuration, the first one compiled first."""
  found: dict[str, Path] = {}
  for age, config in zip( ( 30, 20, 10 ), CONFIGS, strict=True ):
    npu.compile( model, config=config )
    [ found[config] ] = set( images( cache ) ) - set( found.values() )
    os.utime( found[config], ( time.time() - age, ) * 2 )
  return found

def room_for( monkeypatch: pytest.MonkeyPatch, *paths: Path ) -> None:
  """Set the limit to what these images take."""
  size = sum( image_cache.disk_bytes( p.stat() ) for p in paths )
  monkeypatch.setenv( "NPU_CACHE_GB", repr( ( size + 1 ) / 1e9 ) )

def test_the_least_recently_used_goes_first( model, cache, three, monkeypatch ):
  npu.compile( model, config="edge4" )
  room_for( monkeypatch, three["edge4"], three["edge16"] )
  image_cache.shrink( cache )
  assert images( cache ) == sorted( [ three["edge4"], three["edge16"] ] )
  assert { p.stem for p in cache.glob( "*.lock" ) } == { three["edge4"].stem, three["edge16"].stem }

def test_a_new_image_makes_room_for_itself( model, cache, three, monkeypatch ):
  room_for( monkeypatch, *three.values() )
  npu.compile( model, precision="w4a16" )
  assert three["edge4"] not in images( cache ) and three["edge16"] in images( cache ) and len( images( cache ) ) >= 2

def test_an_image_in_use_stays( model, cache, three, monkeypatch ):
  monkeypatch.setenv( "NPU_CACHE_GB", "1e-9" )
  with image_file( model, config="edge4" ) as path:
    image_cache.shrink( cache )
    assert images( cache ) == [ path ] == [ three["edge4"] ]
  image_cache.shrink( cache )
  assert images( cache ) == []

def test_an_image_that_is_too_large_works_and_goes( model, cache, monkeypatch, tmp_path ):
  monkeypatch.setenv( "NPU_CACHE_GB", "1e-9" )
  with image_file( model ) as path:
    assert path.exists()
  image = npu.compile( model )
  assert images( cache ) == []
  assert np.array_equal( image.dram, npu.compile( model, tmp_path / "direct.npu" ).dram )

#-------------------------------------------------------------------------
# Digests of models
#-------------------------------------------------------------------------

@pytest.fixture
def hashed( monkeypatch: pytest.MonkeyPatch ) -> list[Path]:
  """The models whose weights were read for their digest."""
  found: list[Path] = []
  real = npu.compiler.folder.FolderModel.fingerprint
  monkeypatch.setattr( "npu.compiler.folder.FolderModel.fingerprint",
                       lambda m: ( found.append( m.path ), real( m ) )[1] )
  return found

def test_a_digest_is_made_once( model, hashed, monkeypatch ):
  monkeypatch.setattr( image_cache, "UNSETTLED", 0 )
  digests = { image_cache.fingerprint( open_model( model ) ) for _ in range( 3 ) }
  assert len( digests ) == 1 == len( hashed )
  # Also while it is compiled.
  npu.compile( model )
  npu.compile( model )
  assert len( hashed ) == 1

def test_a_digest_of_a_file_that_has_just_changed_is_not_remembered( model, hashed ):
  for _ in range( 2 ):
    image_cache.fingerprint( open_model( model ) )
  assert len( hashed ) == 2

@pytest.mark.parametrize( "text", ( "", "{", "[]", '{"x": 1}' ) )
def test_a_broken_index_is_written_anew( model, cache, hashed, monkeypatch, text ):
  monkeypatch.setattr( image_cache, "UNSETTLED", 0 )
  index = cache.with_name( "digests.json" )
  index.parent.mkdir( parents=True )
  index.write_text( text )
  for _ in range( 2 ):
    image_cache.fingerprint( open_model( model ) )
  assert len( hashed ) == 1 and set( json.loads( index.read_text() ) ) == { str( model ) }

def test_old_digests_are_forgotten( tmp_path, cache, monkeypatch ):
  monkeypatch.setattr( image_cache, "UNSETTLED", 0 )
  monkeypatch.setattr( image_cache, "REMEMBERED", 2 )
  folders = [ mk_checkpoint( tmp_path / name, tokenizer=False ) for name in "abc" ]
  for folder in folders:
    image_cache.fingerprint( open_model( folder ) )
  assert set( json.loads( cache.with_name( "digests.json" ).read_text() ) ) == set( map( str, folders[1:] ) )

#-------------------------------------------------------------------------
# Images of other weights
#-------------------------------------------------------------------------

def test_an_image_of_other_weights_is_refused( model, tmp_path ):
  image = npu.compile( model, tmp_path / "a.npu" )
  check_same_model( model, image )
  change_weights( model )
  message = f"the image is of other weights than {model}; compile it again"
  for command in ( [ "run" ], [ "compare" ], [ "diff" ] ):
    assert cli_error( *command, model, "--image", tmp_path / "a.npu" ) == message
  with pytest.raises( npu.NpuError ) as e:
    npu.Session( model, image=image )
  assert str( e.value ) == message

def test_an_older_image_is_compared_by_its_dimensions( model, tmp_path ):
  image = npu.compile( model, tmp_path / "a.npu" )
  assert image.manifest.pop( "model_digest" ) == open_model( model ).fingerprint()
  change_weights( model )
  check_same_model( model, image )

def test_without_weights_dimensions_are_compared( model, tmp_path ):
  image = npu.compile( model, tmp_path / "a.npu" )
  ( model / "model.safetensors" ).unlink()
  with npu.Session( model, image=image ) as session:
    assert session.encode( "In" )
