"""Result files, checked before the work begins and written whole or not at all; where files are kept between runs."""

import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from npu.errors import NpuError

STDOUT = "-"      # as the name of a result file: standard output

def output_path( name: str | Path ) -> Path:
  """A path that can be written, checked before long work; NpuError if its folder does not exist."""
  path = Path( name )
  try:
    problem = ( "it is a folder" if path.is_dir() else
                "it is not a regular file" if path.exists() and not path.is_file() else
                "no such folder" if not path.absolute().parent.is_dir() else "" )
  except OSError as e:
    problem = str( e.strerror )
  if problem:
    raise NpuError( f"cannot write {path}: {problem}" )
  return path

def check_json( target: str | None ) -> None:
  """Refuse a JSON target that cannot be written before any work is done."""
  if target is not None and target != STDOUT:
    output_path( target )

def write_json( target: str, data: dict[str, Any] ) -> None:
  """Write JSON to a file, whole or not at all, or to standard output."""
  text = json.dumps( data, indent=2 ) + "\n"
  if target == STDOUT:
    sys.stdout.write( text )
    sys.stdout.flush()
    return
  path = Path( target )
  part = path.with_name( f".{path.name}.{os.getpid()}.part" )
  try:
    part.write_text( text )
    part.replace( path )
  except OSError as e:
    raise NpuError( f"cannot write {path}: {e.strerror}" ) from None
  finally:
    with suppress( OSError ):
      part.unlink()

def cache_dir() -> Path:
  """Where models, images and compiled functions are kept: NPU_CACHE_DIR if it is set, else npu in $XDG_CACHE_HOME or
  ~/.cache.

  Raises
  ------
  NpuError
    None of them is set, and there is no home folder.
  """
  named = os.environ.get( "NPU_CACHE_DIR" )
  if named:
    return Path( named ).resolve()
  # The specification of the base folders wants a relative XDG_CACHE_HOME to be ignored.
  xdg = Path( os.environ.get( "XDG_CACHE_HOME", "" ) )
  try:
    return ( xdg if xdg.is_absolute() else Path.home() / ".cache" ) / "npu"
  except RuntimeError:
    raise NpuError( "there is no home folder to keep files in; set NPU_CACHE_DIR" ) from None
