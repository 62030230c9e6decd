"""Image files: what is written is loaded, what is damaged is refused, what fails leaves nothing."""

import errno
import io
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray

from npu.arch.config import LINE_BYTES, get_config
from npu.compiler.build import compile_model
from npu.compiler.image import HEADER, MAGIC, PAYLOAD_OFFSET, VERSION, Image, create_image, load_image
from npu.errors import NpuError

ROOT = Path( __file__ ).resolve().parents[2]

PAYLOAD  = np.random.default_rng( 0 ).integers( 0, 256, 300 ).astype( np.uint8 )
MANIFEST = { "model": "toy", "regions": [ { "name": "mailbox", "line": 0 } ], "text": "naïve café" }
DRAM     = 16 * LINE_BYTES     # more than the payload: the rest is the hole

def write( path: Path, payload: NDArray = PAYLOAD, manifest: dict[str, Any] = MANIFEST,
           dram_bytes: int = DRAM ) -> Path:
  """An image of one region."""
  with create_image( path ) as image:
    image.write( payload )
    image.finish( manifest, dram_bytes )
  return path

def message_of( action: Callable[[], object] ) -> str:
  """The text of the NpuError that an action raises: one line."""
  with pytest.raises( NpuError ) as info:
    action()
  assert "\n" not in str( info.value )
  return str( info.value )

def names( folder: Path ) -> list[str]:
  """What is in a folder, hidden files too."""
  return sorted( p.name for p in folder.iterdir() )

def patch( path: Path, at: int, data: bytes ) -> None:
  """Overwrite bytes of a file."""
  with path.open( "r+b" ) as file:
    file.seek( at )
    file.write( data )

def header_of( path: Path ) -> list[Any]:
  """Magic, version, manifest bytes, payload bytes, DRAM bytes, hash."""
  return list( HEADER.unpack( path.read_bytes()[: HEADER.size] ) )

#-------------------------------------------------------------------------
# Round trip
#-------------------------------------------------------------------------

def test_what_was_written_is_loaded( tmp_path ):
  path  = write( tmp_path / "toy.npu" )
  image = load_image( path )
  assert isinstance( image, Image ) and image.path == path
  assert image.manifest == MANIFEST
  assert image.dram.shape == ( DRAM, ) and image.dram.dtype == np.uint8
  assert np.array_equal( image.dram[: len( PAYLOAD )], PAYLOAD )
  assert not image.dram[len( PAYLOAD ) :].any()
  assert names( tmp_path ) == [ "toy.npu" ]

def test_parts_of_the_file_are_where_the_format_says( tmp_path ):
  data = write( tmp_path / "toy.npu" ).read_bytes()
  assert HEADER.size == LINE_BYTES and MAGIC == b"NPUIMAGE" and VERSION == 1 and PAYLOAD_OFFSET == 4096
  text = json.dumps( MANIFEST ).encode()
  assert data[:32] == b"NPUIMAGE" + struct.pack( "<IIQQ", 1, len( text ), 300, DRAM )
  assert not any( data[64:4096] )
  assert data[4096:4396] == PAYLOAD.tobytes()
  assert not any( data[4396 : 4096 + DRAM] )
  assert data[4096 + DRAM :] == text

def test_arrays_of_any_type_and_order_are_their_bytes( tmp_path ):
  words = np.arange( 12, dtype=np.uint32 ).reshape( 3, 4 )
  with create_image( tmp_path / "toy.npu" ) as image:
    for array in ( words, words.T, words[:, ::2], np.float32( [ 1.5 ] ), np.int16( [] ) ):
      image.write( array )
    assert image.written == 4 * ( 12 + 12 + 6 + 1 )
    image.finish( {}, 128 )
  expected = np.concatenate( [ words.ravel(), words.T.ravel(), words[:, ::2].ravel() ] )
  dram = load_image( tmp_path / "toy.npu" ).dram
  assert np.array_equal( dram[:120].view( np.uint32 ), expected )
  assert dram[120:124].view( np.float32 ) == 1.5

@settings( max_examples=30 )
@given( st.lists( st.tuples( st.integers( 0, 5 ), st.integers( 0, 200 ) ), max_size=6 ),
        st.integers( 0, 10 ), st.integers( 0, 1 << 32 ) )
def test_regions_at_lines( tmp_path_factory, regions, hole, seed ):
  """Regions of any size, lines apart; gaps and the hole are zeros."""
  path, rng = tmp_path_factory.mktemp( "regions" ) / "toy.npu", np.random.default_rng( seed )
  expected  = bytearray()
  with create_image( path ) as image:
    for gap, size in regions:
      line = -( -len( expected ) // LINE_BYTES ) + gap
      data = rng.integers( 0, 256, size ).astype( np.uint8 )
      image.seek_line( line )
      assert image.written == line * LINE_BYTES
      image.write( data )
      expected += bytes( line * LINE_BYTES - len( expected ) ) + data.tobytes()
    lines = -( -len( expected ) // LINE_BYTES ) + hole + 1
    image.finish( { "n": len( regions ) }, lines * LINE_BYTES )
  found = load_image( path )
  assert found.dram.tobytes() == bytes( expected ) + bytes( lines * LINE_BYTES - len( expected ) )
  assert found.manifest == { "n": len( regions ) }

def test_regions_out_of_order_are_a_mistake_of_the_caller( tmp_path ):
  with pytest.raises( AssertionError, match="regions are written in order of address" ), \
       create_image( tmp_path / "toy.npu" ) as image:
    image.write( np.zeros( 65, dtype=np.uint8 ) )
    image.seek_line( 1 )
  assert names( tmp_path ) == []

def test_writing_replaces_an_older_image( tmp_path ):
  path = write( tmp_path / "toy.npu" )
  write( path, PAYLOAD[::-1], { "model": "newer" } )
  image = load_image( path )
  assert image.manifest == { "model": "newer" }
  assert np.array_equal( image.dram[: len( PAYLOAD )], PAYLOAD[::-1] )
  assert names( tmp_path ) == [ "toy.npu" ]

def test_an_image_that_is_loaded_stays_as_it_is_when_its_file_is_replaced( tmp_path ):
  path = write( tmp_path / "toy.npu" )
  old  = load_image( path )
  write( path, PAYLOAD[::-1] )
  assert np.array_equal( old.dram[: len( PAYLOAD )], PAYLOAD )

#-------------------------------------------------------------------------
# The hole
#-------------------------------------------------------------------------

def test_hole_takes_no_disk_space_and_reads_as_zeros( tmp_path ):
  size  = 64 << 20
  path  = write( tmp_path / "toy.npu", dram_bytes=size )
  found = path.stat()
  assert found.st_size == PAYLOAD_OFFSET + size + len( json.dumps( MANIFEST ).encode() )
  assert found.st_blocks * 512 < 1 << 20
  dram = load_image( path ).dram
  assert dram.size == size
  assert not dram[len( PAYLOAD ) :: 4093].any() and not dram[-4096:].any()

@pytest.fixture( scope="module" )
def nano( tmp_path_factory: pytest.TempPathFactory ) -> Path:
  """The embedded model, compiled."""
  path = tmp_path_factory.mktemp( "nano" ) / "nano.npu"
  compile_model( "nano", path, get_config( "edge16" ), "w8a16" )
  return path

def test_memory_of_a_model_starts_with_an_empty_cache_and_no_logits( nano ):
  image = load_image( nano )
  empty = [ r for r in image.manifest["regions"] if not r["stored"] ]
  assert [ r["name"] for r in empty ] == [ "kv.0", "kv.1", "logits" ]
  for r in empty:
    start = r["line"] * LINE_BYTES
    assert r["size"] and not image.dram[start : start + r["size"]].any()
  # They are in the hole, so the file does not hold them.
  stored = max( r["line"] * LINE_BYTES + r["size"] for r in image.manifest["regions"] if r["stored"] )
  assert header_of( nano )[3] == stored <= min( r["line"] for r in empty ) * LINE_BYTES

def test_writing_to_the_memory_does_not_change_the_file( nano ):
  before = nano.read_bytes()
  image  = load_image( nano )
  for at in ( 0, 5000, len( image.dram ) // 2, -1 ):     # mailbox, tables, weights, the hole
    image.dram[at] ^= 0xFF
  image.dram.flush()
  del image
  assert nano.read_bytes() == before
  load_image( nano )

def test_two_loaded_images_do_not_share_memory( nano ):
  a, b = load_image( nano ), load_image( nano )
  a.dram[:4096] = 0x5A
  assert not np.array_equal( a.dram[:4096], b.dram[:4096] )

#-------------------------------------------------------------------------
# Not an image
#-------------------------------------------------------------------------

@pytest.mark.parametrize( "data", (
  pytest.param( b"", id="empty" ),
  pytest.param( b"hello", id="short text" ),
  pytest.param( MAGIC, id="magic alone" ),
  pytest.param( MAGIC + bytes( HEADER.size - 9 ), id="a byte of the header missing" ),
  pytest.param( b"NPUIMAGf" + bytes( 10000 ), id="another magic" ),
  pytest.param( b"\x7fELF" + bytes( 10000 ), id="a program" ) ) )
def test_other_files_are_refused( tmp_path, data ):
  path = tmp_path / "toy.npu"
  path.write_bytes( data )
  assert message_of( lambda: load_image( path ) ) == (
    f"{path} is not an NPU image; make one with `npu compile MODEL -o FILE`" )

def test_no_such_file( tmp_path ):
  path = tmp_path / "toy.npu"
  assert message_of( lambda: load_image( path ) ) == (
    f"cannot read image {path}: No such file or directory" )

def test_a_folder_is_no_image( tmp_path ):
  assert message_of( lambda: load_image( tmp_path ) ) == f"cannot read image {tmp_path}: Is a directory"

@pytest.mark.parametrize( "version", ( 0, 2, 1 << 24, 0xFFFFFFFF ) )
def test_another_version_is_refused( tmp_path, version ):
  path = write( tmp_path / "toy.npu" )
  patch( path, 8, struct.pack( "<I", version ) )
  assert message_of( lambda: load_image( path ) ) == (
    f"{path} is an image of version {version}; this program reads version 1: compile it again" )

#-------------------------------------------------------------------------
# Damage
#-------------------------------------------------------------------------

@pytest.mark.parametrize( "size", (
  pytest.param( HEADER.size,                 id="header alone" ),
  pytest.param( PAYLOAD_OFFSET - 1,          id="before the payload" ),
  pytest.param( PAYLOAD_OFFSET,              id="no payload" ),
  pytest.param( PAYLOAD_OFFSET + 150,        id="in the payload" ),
  pytest.param( PAYLOAD_OFFSET + 300,        id="no hole" ),
  pytest.param( PAYLOAD_OFFSET + DRAM - 1,   id="in the hole" ),
  pytest.param( PAYLOAD_OFFSET + DRAM,       id="no manifest" ),
  pytest.param( PAYLOAD_OFFSET + DRAM + 10,  id="in the manifest" ),
  pytest.param( -1,                          id="the last byte" ) ) )
def test_truncated_file_is_refused( tmp_path, size ):
  path = write( tmp_path / "toy.npu" )
  full = path.stat().st_size
  os.truncate( path, size % full )
  assert message_of( lambda: load_image( path ) ) == (
    f"{path} has {size % full} bytes; its header says {full}: it is truncated, compile it again" )

def damaged( path: Path ) -> str:
  """What is said of a file whose checksum is wrong."""
  return f"{path} is damaged: its checksum is wrong; compile it again"

def test_every_flipped_byte_of_payload_and_manifest_is_found( tmp_path ):
  path  = write( tmp_path / "toy.npu", PAYLOAD[:20], { "m": 1 } )
  data  = path.read_bytes()
  start = PAYLOAD_OFFSET + DRAM
  for at in ( *range( PAYLOAD_OFFSET, PAYLOAD_OFFSET + 20 ), *range( start, len( data ) ) ):
    for flip in ( 0x01, 0x80 ):
      patch( path, at, bytes( [ data[at] ^ flip ] ) )
      assert message_of( lambda: load_image( path ) ) == damaged( path ), at
    patch( path, at, data[at : at + 1] )
  assert load_image( path ).manifest == { "m": 1 }

@settings( max_examples=40 )
@given( st.data() )
def test_any_flipped_bit_of_a_model_is_found( nano, data ):
  original = header_of( nano )
  stored   = data.draw( st.sampled_from( ( "payload", "manifest", "hash" ) ) )
  _, _, manifest_bytes, payload_bytes, dram_bytes, _ = original
  low, size = { "payload": ( PAYLOAD_OFFSET, payload_bytes ), "hash": ( 32, 32 ),
                "manifest": ( PAYLOAD_OFFSET + dram_bytes, manifest_bytes ) }[stored]
  at    = low + data.draw( st.integers( 0, size - 1 ) )
  value = nano.read_bytes()[at]
  patch( nano, at, bytes( [ value ^ 1 << data.draw( st.integers( 0, 7 ) ) ] ) )
  try:
    assert message_of( lambda: load_image( nano ) ) == damaged( nano )
  finally:
    patch( nano, at, bytes( [ value ] ) )

class _NoReadAtEnd( io.BufferedReader ):
  """A file that fails where a loop would go on reading nothing for ever."""

  def read( self, size: int | None = -1 ) -> bytes:
    data = super().read( size )
    assert data or not size, "read past the end of the file"
    return data

@pytest.fixture
def no_endless_reading( monkeypatch: pytest.MonkeyPatch ) -> None:
  """Make `Path.open( "rb" )` give a file that fails instead of being read past its end."""
  real = Path.open
  monkeypatch.setattr( Path, "open", lambda path, mode="r": (
    _NoReadAtEnd( io.FileIO( path ) ) if mode == "rb" else real( path, mode ) ) )

# Offset and width of the header's sizes.
SIZES = { "manifest": ( 12, 4 ), "payload": ( 16, 8 ), "dram": ( 24, 8 ) }

@pytest.mark.parametrize( "size, change", (
  pytest.param( "manifest", 1,       id="manifest too large" ),
  pytest.param( "manifest", 1 << 31, id="manifest far too large" ),
  pytest.param( "manifest", -1,      id="manifest too small" ),
  pytest.param( "dram",     1,       id="memory too large" ),
  pytest.param( "dram",     1 << 60, id="memory far too large" ),
  pytest.param( "dram",     -64,     id="memory too small" ) ) )
def test_wrong_sizes_in_the_header_are_refused( tmp_path, no_endless_reading, size, change ):
  path = write( tmp_path / "toy.npu" )
  full, ( at, width ) = path.stat().st_size, SIZES[size]
  value = int.from_bytes( path.read_bytes()[at : at + width], "little" ) + change
  patch( path, at, value.to_bytes( width, "little" ) )
  assert message_of( lambda: load_image( path ) ) == (
    f"{path} has {full} bytes; its header says {full + change}: "
    f"it is {'truncated' if change > 0 else 'too long'}, compile it again" )

@pytest.mark.parametrize( "change", (
  pytest.param( -1,        id="too small" ),
  pytest.param( 1,         id="into the hole" ),
  pytest.param( DRAM,      id="past the memory" ),
  pytest.param( 1 << 60,   id="far too large" ) ) )
def test_wrong_payload_size_in_the_header_is_refused( tmp_path, no_endless_reading, change ):
  path = write( tmp_path / "toy.npu" )
  patch( path, 16, ( 300 + change ).to_bytes( 8, "little" ) )
  message_of( lambda: load_image( path ) )

def test_sizes_that_add_up_all_the_same_are_refused( tmp_path ):
  path = write( tmp_path / "toy.npu" )
  magic, version, manifest_bytes, payload_bytes, dram_bytes, digest = header_of( path )
  patch( path, 0, HEADER.pack( magic, version, manifest_bytes + 64, payload_bytes, dram_bytes - 64,
                               digest ) )
  assert message_of( lambda: load_image( path ) ) == damaged( path )

#-------------------------------------------------------------------------
# Failing to write
#-------------------------------------------------------------------------

class _FullDisk( io.FileIO ):
  """A file on a disk with `room` bytes left."""
  room: int

  def write( self, data: Any ) -> int:
    self.room -= len( data )
    if self.room < 0:
      raise OSError( errno.ENOSPC, os.strerror( errno.ENOSPC ) )
    return super().write( data )

def fill_disk( monkeypatch: pytest.MonkeyPatch, room: int ) -> None:
  """Let files that are opened for writing hold `room` bytes."""
  real = Path.open

  def open_full( path: Path, mode: str = "r" ) -> Any:
    if "w" not in mode:
      return real( path, mode )
    file = _FullDisk( path, "w+" )
    file.room = room
    return file

  monkeypatch.setattr( Path, "open", open_full )

def older( folder: Path, there: bool ) -> tuple[Path, bytes | None]:
  """Where an image is to be written, and the bytes of an older one of that name, if there is one."""
  path = folder / "toy.npu"
  return path, write( path, PAYLOAD[:10] ).read_bytes() if there else None

def check_untouched( path: Path, data: bytes | None ) -> None:
  """The older image is what it was, and nothing else is there."""
  assert names( path.parent ) == ( [] if data is None else [ path.name ] )
  if data is not None:
    assert path.read_bytes() == data
    load_image( path )

there = pytest.mark.parametrize( "there", ( False, True ), ids=( "new", "over an older image" ) )
TEXT  = len( json.dumps( MANIFEST ).encode() )

@there
@pytest.mark.parametrize( "room", (
  pytest.param( 0,                           id="at once" ),
  pytest.param( PAYLOAD_OFFSET,              id="before the payload" ),
  pytest.param( PAYLOAD_OFFSET + 299,        id="in the payload" ),
  pytest.param( PAYLOAD_OFFSET + 300,        id="before the manifest" ),
  pytest.param( PAYLOAD_OFFSET + 300 + TEXT, id="before the header" ) ) )
def test_full_disk_leaves_nothing( tmp_path, monkeypatch, room, there ):
  path, data = older( tmp_path, there )
  with monkeypatch.context() as patched:
    fill_disk( patched, room )
    assert message_of( lambda: write( path ) ) == f"cannot write {path}: No space left on device"
  check_untouched( path, data )
  with monkeypatch.context() as patched:
    fill_disk( patched, PAYLOAD_OFFSET + 300 + TEXT + HEADER.size )
    write( path )
  assert load_image( path ).manifest == MANIFEST

@there
@pytest.mark.parametrize( "owner, name", (
  pytest.param( os,   "fsync",   id="fsync" ),
  pytest.param( Path, "replace", id="rename" ) ) )
def test_late_failure_leaves_nothing( tmp_path, monkeypatch, owner, name, there ):
  path, data = older( tmp_path, there )

  def fail( *_: object ) -> None:
    raise OSError( errno.EIO, "Input/output error" )

  monkeypatch.setattr( owner, name, fail )
  assert message_of( lambda: write( path ) ) == f"cannot write {path}: Input/output error"
  check_untouched( path, data )

@there
@pytest.mark.parametrize( "error", ( NpuError( "no such tensor" ), KeyboardInterrupt(), MemoryError() ),
                          ids=lambda error: type( error ).__name__ )
def test_error_of_the_caller_goes_through_and_leaves_nothing( tmp_path, error, there ):
  path, data = older( tmp_path, there )
  with pytest.raises( type( error ) ) as info, create_image( path ) as image:
    image.write( PAYLOAD )
    raise error
  assert info.value is error
  check_untouched( path, data )

# The limit on the size of a file makes a real write fail: the kernel takes some of the data, not all.
LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
from npu.errors import NpuError
from npu.compiler.image import create_image
resource.setrlimit( resource.RLIMIT_FSIZE, ( 10000, 10000 ) )
try:
  with create_image( Path( sys.argv[1] ) ) as image:
    for _ in range( 100 ):
      image.write( np.ones( int( sys.argv[2] ), dtype=np.uint8 ) )
    image.finish( {}, 1 << 20 )
except NpuError as e:
  print( e )
"""

@pytest.mark.parametrize( "block, there", (
  pytest.param( 4096, True,  id="large blocks, over an older image" ),
  pytest.param( 60,   False, id="all in the buffer until the end, new" ) ) )
def test_file_size_limit_leaves_nothing( tmp_path, block, there ):
  path, data = older( tmp_path, there )
  done = subprocess.run( [ sys.executable, "-c", LIMITED, str( path ), str( block ) ], cwd=ROOT,
                         capture_output=True, text=True, timeout=60 )
  assert ( done.stdout, done.stderr ) == ( f"cannot write {path}: File too large\n", "" )
  check_untouched( path, data )

def test_no_such_folder( tmp_path ):
  path = tmp_path / "none" / "toy.npu"
  assert message_of( lambda: write( path ) ) == f"cannot write {path}: No such file or directory"
  assert names( tmp_path ) == []

def test_a_folder_is_not_replaced( tmp_path ):
  path = tmp_path / "toy.npu"
  path.mkdir()
  assert message_of( lambda: write( path ) ) == f"cannot write {path}: it is a folder; give a file name"
  assert names( tmp_path ) == [ "toy.npu" ] and names( path ) == []

@pytest.mark.parametrize( "name, reason", (
  pytest.param( "file/toy.npu", "Not a directory",    id="folder is a file" ),
  pytest.param( 300 * "x",      "File name too long", id="long name" ) ) )
def test_no_place_for_a_file( tmp_path, name, reason ):
  ( tmp_path / "file" ).touch()
  path = tmp_path / name
  assert message_of( lambda: write( path ) ) == f"cannot write {path}: {reason}"
  assert names( tmp_path ) == [ "file" ]

def test_read_only_file_system( tmp_path, monkeypatch ):
  """There even removing a file that is not there is refused."""
  def refuse( *_: object, **__: object ) -> None:
    raise OSError( errno.EROFS, "Read-only file system" )

  monkeypatch.setattr( Path, "open", refuse )
  monkeypatch.setattr( Path, "unlink", refuse )
  path = tmp_path / "toy.npu"
  assert message_of( lambda: write( path ) ) == f"cannot write {path}: Read-only file system"
