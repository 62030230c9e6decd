"""Functions compiled by numba, each when it is first called, kept on disk, and run on all cores.

Each is compiled for one signature, so a run compiles what it uses and nothing twice: a second or two per function the
first time, some hundredths from the cache. Floating point is strict: numba reorders and fuses nothing unless `fastmath`
asks for it, which nothing here does.
"""

import functools
import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numba

import fl
import npu.arch
from npu.arch.config import ceil_div
from npu.errors import NpuError
from npu.files import cache_dir

@functools.cache
def cache_folder() -> Path | None:
  """Where compiled functions are kept: a folder of `npu.files.cache_dir`.

  The name has a hash of all files that functions and constants come from, as numba sees changes in one of them only.
  None if no such folder can be written: then every process compiles for itself.
  """
  sources = sorted( p for module in ( fl, npu.arch ) for p in Path( module.__path__[0] ).rglob( "*.py" ) )
  key     = hashlib.sha256( b"".join( p.read_bytes() for p in sources ) ).hexdigest()[:16]
  try:
    folder = cache_dir() / f"kernels-{key}"
    folder.mkdir( parents=True, exist_ok=True )
  except ( OSError, NpuError ):      # no permission; no home folder
    return None
  return folder if os.access( folder, os.W_OK ) else None

class Compiled:
  """A function that is compiled for one signature when it is first needed.

  Its last two arguments are a range of independent pieces of work, first and end: see `in_parallel`.
  """

  def __init__( self, signature: str, function: Callable[..., None] ) -> None:
    self.signature, self.function = signature, function

  @functools.cached_property
  def machine_code( self ) -> Callable[..., None]:
    """The compiled function, from the cache or made now."""
    # numba takes the folder from its settings when a function asks for a cache; others' settings stay as they are.
    folder, before = cache_folder(), numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str( folder or before )
    try:
      decorate = numba.njit( self.signature, nogil=True, error_model="numpy", cache=bool( folder ) )
      made: Callable[..., None] = decorate( self.function )
      return made
    finally:
      numba.config.CACHE_DIR = before

  def __call__( self, *arguments: Any ) -> None:
    self.machine_code( *arguments )

def compiled( signature: str ) -> Callable[[Callable[..., None]], Compiled]:
  """Decorator that makes a `Compiled`; the signature is numba's."""
  return lambda function: Compiled( signature, function )

#-------------------------------------------------------------------------
# Threads
#-------------------------------------------------------------------------

SHARE = 1 << 19    # some 30 microseconds of multiply-accumulates

# numba's own threads would end the process if two runs used them at once.

@functools.cache
def _pool() -> ThreadPoolExecutor | None:
  cores   = len( os.sched_getaffinity( 0 ) ) if hasattr( os, "sched_getaffinity" ) else os.cpu_count() or 1
  helpers = cores - 1
  return ThreadPoolExecutor( helpers, "npu-kernel" ) if helpers else None

os.register_at_fork( after_in_child=_pool.cache_clear )      # a child process has none of its parent's threads

def in_parallel( function: Compiled, pieces: int, work: int, *arguments: Any ) -> None:
  """Call a compiled function on pieces 0 to `pieces` - 1, a share for each core.

  `work` is the multiply-accumulates of all pieces: a share of less than SHARE would not be worth a thread's attention.
  """
  run, pool = function.machine_code, _pool()
  cores     = min( pool._max_workers + 1 if pool else 1, max( work // SHARE, 1 ) )
  share     = ceil_div( pieces, cores )
  others    = [ pool.submit( run, *arguments, first, min( first + share, pieces ) )
                for first in range( share, pieces, share ) ] if pool else []
  run( *arguments, 0, min( share, pieces ) )
  for other in others:
    other.result()
