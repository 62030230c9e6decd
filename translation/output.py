"""What comes out of a block by its name: the files of `npu translate`."""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from npu.arch.config import get_config
from npu.errors import NpuError
from translation.blocks import get_block
from translation.levels import mk_dut
from translation.verilog import translate

WAIVERS = Path( __file__ ).with_name( "waivers.vlt" )

def mk_rtl( block: str, config: str ) -> Any:
  """The RTL of a block, not yet elaborated. Raises NpuError if there is no such block or configuration."""
  return mk_dut( get_block( block ), "rtl", get_config( config ) )

def translated( component: Any ) -> dict[str, str]:
  """The files of a translation by name: SystemVerilog, file list, waivers. Raises as `verilog.to_verilog`."""
  with TemporaryDirectory( prefix="npu-translate-" ) as folder:
    sources = translate( component, folder )
    texts   = { p.name: p.read_text() for p in sources }
    texts  |= { p.name: p.read_text() for p in sorted( Path( folder ).iterdir() ) if p not in sources }
  return { **texts, WAIVERS.name: WAIVERS.read_text() }

def write_all( folder: Path, texts: Mapping[str, str] ) -> None:
  """Write files to a folder, which is made if it is missing. Raises NpuError, and then nothing has changed."""
  if folder.exists() and not folder.is_dir():
    raise NpuError( f"cannot write to {folder}: it is not a folder" )
  for name in texts:
    if ( folder / name ).is_dir():
      raise NpuError( f"cannot write {folder / name}: it is a folder" )
  new   = not folder.exists()
  parts = { folder / f".{name}.{os.getpid()}.part": folder / name for name in texts }
  try:
    folder.mkdir( parents=True, exist_ok=True )
    for part, path in parts.items():
      part.write_text( texts[path.name] )
    for part, path in parts.items():
      part.replace( path )
  except OSError as e:
    raise NpuError( f"cannot write to {folder}: {e.strerror}" ) from None
  finally:
    with suppress( OSError ):
      for part in parts:
        part.unlink( missing_ok=True )
      if new:
        folder.rmdir()    # only if it is empty
