"""Images that are kept, so that a model is compiled once.

They lie in `images` of `npu.files.cache_dir`. An image has the digest of all that it depends on as its
name: the model, what was asked for, and the compiler. So there is none that is out of date; what is not used any
more goes when all together are too large, the least recently used ones first.

An image is compiled under a lock of its name, so that of two processes that want it one waits for the other. Whoever
works with its path holds a shared lock of the file itself, and such a file is not removed. A loaded image needs none:
it is mapped, and POSIX keeps a mapped file that has been removed.
"""

import fcntl
import functools
import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

import npu.arch
import npu.compiler
from npu.arch.config import NpuConfig
from npu.compiler.build import Progress, compile_model
from npu.compiler.image import Image, load_image
from npu.compiler.model import Model
from npu.errors import NpuError
from npu.files import cache_dir, write_json

LIMIT      = "NPU_CACHE_GB"      # the environment variable
DEFAULT_GB = 10.0

# Of a smaller model, in bytes, no image is kept and no digest remembered: one of this size compiles in 0.3 s.
SMALL = 16 << 20

# A file that was changed less than so many nanoseconds ago may change again without any of its times telling.
UNSETTLED = 2_000_000_000

REMEMBERED = 100                 # digests of models

log = logging.getLogger( "npu" )

#-------------------------------------------------------------------------
# Models
#-------------------------------------------------------------------------

Stamps = list[tuple[str, int, int, int, int]]

def stamps( path: Path ) -> Stamps:
  """Of each file of a model: name, size, time of content and of the inode in nanoseconds, inode."""
  files = sorted( p for p in path.rglob( "*" ) if p.is_file() ) if path.is_dir() else [ path ]
  return [ ( str( p.relative_to( path ) ), s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino )
           for p in files for s in ( p.stat(), ) ]

def model_bytes( found: Stamps ) -> int:
  """How large a model is on disk."""
  return sum( size for _, size, *_ in found )

def fingerprint( model: Model ) -> str:
  """`Model.fingerprint`, which reads all weights; remembered as long as the stamps of a large model stay.

  Raises
  ------
  NpuError
    As `Model.fingerprint`; or a file cannot be read.
  """
  try:
    found = stamps( model.path )
    return model.fingerprint() if model_bytes( found ) < SMALL else _remembered( model, found )
  except OSError as e:
    raise NpuError( f"cannot read {e.filename or model.path}: {e.strerror or e}" ) from None

def _remembered( model: Model, found: Stamps ) -> str:
  where = str( model.path.resolve() )
  stamp = hashlib.sha256( repr( ( compiler_version(), found ) ).encode() ).hexdigest()
  known = _digests()
  if known.get( where, ( "", "" ) )[0] == stamp:
    return known[where][1]
  settled = time.time_ns() - UNSETTLED
  digest  = model.fingerprint()
  if all( max( content, inode ) < settled for _, _, content, inode, _ in found ):
    # Read again, since that took a while. If two processes write at once, one digest has to be made again.
    known = _digests()
    known.pop( where, None )
    known[where] = ( stamp, digest )
    with suppress( OSError, NpuError ):         # then it is not remembered
      cache_dir().mkdir( parents=True, exist_ok=True )
      write_json( str( cache_dir() / "digests.json" ), dict( list( known.items() )[-REMEMBERED:] ) )
  return digest

def _digests() -> dict[str, tuple[str, str]]:
  """By the path of a model: its stamps' digest, and its own."""
  with suppress( OSError, ValueError, TypeError, AttributeError, NpuError ):
    known = json.loads( ( cache_dir() / "digests.json" ).read_text() )
    return { where: ( str( stamp ), str( digest ) ) for where, ( stamp, digest ) in known.items() }
  return {}

@functools.cache
def compiler_version() -> str:
  """Digest of all sources that decide what is in an image.

  A number by hand would be forgotten some day. The compiler imports nothing of the project but itself and `npu.arch`;
  `make lint` holds that.
  """
  digest = hashlib.sha256()
  for package in ( npu.arch, npu.compiler ):
    folder = Path( package.__path__[0] )
    for path in sorted( folder.rglob( "*.py" ) ):
      digest.update( f"{path.relative_to( folder )} {path.stat().st_size}\n".encode() )
      digest.update( path.read_bytes() )
  return digest.hexdigest()

#-------------------------------------------------------------------------
# Images
#-------------------------------------------------------------------------

@dataclass( frozen=True )
class Wanted:
  """An image to be made; the fields are the parameters of `npu.compiler.build.compile_model`."""
  model: Model
  cfg: NpuConfig
  precision: str
  context: int | None
  pass_rows: int | None

  def compile( self, path: Path, progress: Progress | None, digest: str | None = None ) -> Image:
    """Compile it to a file, and load that."""
    compile_model( self.model, path, self.cfg, self.precision, self.context, self.pass_rows, progress, digest )
    return load_image( path )

  def key( self, digest: str ) -> str:
    """The name of its file, without a suffix; `digest` is that of the model."""
    # numpy has a share in it: sines, and how values are rounded. The model's name is in the manifest.
    depends = ( digest, self.model.name, asdict( self.cfg ), self.precision, self.context, self.pass_rows,
                compiler_version(), np.__version__ )
    return hashlib.sha256( repr( depends ).encode() ).hexdigest()[:32]

def limit() -> int:
  """How many bytes images may take together; NpuError if NPU_CACHE_GB is not a number."""
  text = os.environ.get( LIMIT, "" )
  with suppress( ValueError, OverflowError ):
    bytes_ = int( 1e9 * float( text or DEFAULT_GB ) )
    if bytes_ >= 0:
      return bytes_
  raise NpuError( f"{LIMIT} is {text!r}; a number of gigabytes, or 0 to keep no images, is expected" )

def keeps( model: Model ) -> bool:
  """Whether an image of the model is kept: not of a small one, nor where there is no place."""
  try:
    if not limit() or model_bytes( stamps( model.path ) ) < SMALL:
      return False
  except OSError:
    return False               # whoever reads the model says what is wrong with it
  try:
    folder = cache_dir() / "images"
    folder.mkdir( parents=True, exist_ok=True )
    problem = "" if os.access( folder, os.W_OK ) else f"{folder} cannot be written"
  except OSError as e:
    problem = f"{folder}: {e.strerror}"
  except NpuError as e:
    problem = str( e )
  if problem:
    log.warning( "note: no image is kept: %s", problem )
  return not problem

@contextmanager
def kept_image( wanted: Wanted, progress: Progress | None ) -> Iterator[Image]:
  """An image that is kept, or is compiled now and kept; its path is good inside the context, itself also after it.

  Raises
  ------
  NpuError
    As `npu.compiler.build.compile_model`.
  """
  digest = fingerprint( wanted.model )
  path   = cache_dir() / "images" / f"{wanted.key( digest )}.npu"
  with ExitStack() as stack:
    with FileLock( path.with_suffix( ".lock" ) ):
      image = _load( path, wanted.model.name )
      if image is None:
        # After us, so that an image that is larger than all may be goes as well.
        stack.callback( shrink, path.parent )
        image = wanted.compile( path, progress, digest )
      fcntl.flock( stack.enter_context( path.open( "rb" ) ), fcntl.LOCK_SH )
    with suppress( OSError ):  # of another user
      os.utime( path )         # so it is the last to go
    yield image

def _load( path: Path, name: str ) -> Image | None:
  """The kept image of a model of that name, unless there is none, or it is damaged."""
  if not path.exists():
    return None
  try:
    return load_image( path )
  except NpuError:
    log.warning( "note: the image of %s that was kept is damaged; compiling it again", name )
    return None

def shrink( folder: Path ) -> None:
  """Remove what compilations left that were killed, and images until the rest is within the limit.

  The least recently used ones go first; those in use stay.
  """
  for part in folder.glob( ".*.part" ):
    with suppress( OSError ), FileLock( folder / f"{part.name[1:].partition( '.' )[0]}.lock", timeout=0 ):
      part.unlink()
  images = sorted( kept_images( folder ), key=lambda image: image[1].st_mtime_ns )
  excess = sum( disk_bytes( stat ) for _, stat in images ) - limit()
  for path, stat in images:
    if excess > 0 and _remove( path ):
      excess -= disk_bytes( stat )

def kept_images( folder: Path ) -> list[tuple[Path, os.stat_result]]:
  """The images that there are; others may come and go meanwhile."""
  found = []
  for path in folder.glob( "*.npu" ):
    with suppress( FileNotFoundError ):
      found.append( ( path, path.stat() ) )
  return found

def disk_bytes( stat: os.stat_result ) -> int:
  """What a file takes: the KV cache in an image is a hole."""
  return 512 * stat.st_blocks

def _remove( path: Path ) -> bool:
  """Remove an image and its lock, unless it is in use or being compiled."""
  lock = path.with_suffix( ".lock" )
  # Whoever waits for a lock that is removed compiles beside another one, which is wasted and does no harm.
  with suppress( Timeout, OSError ), FileLock( lock, timeout=0 ), path.open( "rb" ) as file:
    fcntl.flock( file, fcntl.LOCK_EX | fcntl.LOCK_NB )
    path.unlink()
    lock.unlink()
    return True
  return False
