"""What comes out of a block by its name: files for Verilog tools, and its size in gates.

`npu translate` and `npu synth` are these functions with a command line in front:

    translate_block( "mac_array", "edge4", "build/mac_array" )
    synthesise_block( "mac_array", "edge4" ).total( "gates" )
"""

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from npu.arch.config import DEFAULT_CONFIG, NpuConfig, get_config
from npu.errors import NpuError
from translation import verilator
from translation.blocks import get_block
from translation.levels import mk_dut
from translation.synth import Report, synthesise
from translation.verilog import translate

WAIVERS = Path( __file__ ).with_name( "waivers.vlt" )      # what the lint may find, and why

#-------------------------------------------------------------------------
# A block by its name
#-------------------------------------------------------------------------

@dataclass( frozen=True )
class Translation:
  """A block in SystemVerilog.

  Attributes
  ----------
  files
    Texts by name: TOP.sv with all modules, the file list TOP.f, and waivers.vlt, for the lint.
  folder
    Where they have been written; None if they have not.
  findings
    What the lint says beyond the waivers, empty if it is clean; None without lint.
  """
  files: Mapping[str, str]
  folder: Path | None = None
  findings: str | None = None

  @property
  def top( self ) -> str:
    """The name of the top module."""
    return Path( next( iter( self.files ) ) ).stem

def translate_block( block: str, config: NpuConfig | str = DEFAULT_CONFIG, output: Path | str | None = None,
                     lint: bool = False ) -> Translation:
  """Translate a block to SystemVerilog.

  Parameters
  ----------
  block
    A name of `translation.blocks`, such as mac_array.
  config
    The NPU's configuration, or the name of a preset, such as edge4.
  output
    A folder for the files, which is made if it is missing; files of the same names are replaced. None writes nothing.
  lint
    Whether Verilator reads the result. What it finds is in the result, and no error.

  Raises
  ------
  NpuError
    The block or the configuration is unknown, the block has no RTL, module names clash, Verilator is needed and
    missing, or the files cannot be written. Nothing has been written then.
  """
  component = mk_rtl( block, config )
  if lint:
    verilator.setup()     # if it is missing, nothing is written
  files  = translated( component )
  folder = None if output is None else Path( output )
  if folder:
    write_all( folder, files )
  return Translation( files, folder, lint_files( files, folder ) if lint else None )

def synthesise_block( block: str, config: NpuConfig | str = DEFAULT_CONFIG,
                      progress: Callable[[int, int], None] | None = None ) -> Report:
  """Synthesise a block to generic gates: size and logic depth of its modules, as `translation.synth` counts them.

  `block` and `config` as in `translate_block`; `progress`, the time that it takes and what is raised as in
  `translation.synth.synthesise`, and NpuError also for an unknown block or configuration, or a block without RTL.
  """
  return synthesise( mk_rtl( block, config ), progress )

#-------------------------------------------------------------------------
# Step by step
#-------------------------------------------------------------------------

def mk_rtl( block: str, config: NpuConfig | str ) -> Any:
  """The RTL of a block, not yet elaborated.

  Raises NpuError if there is no such block or configuration, or if the block has no RTL.
  """
  return mk_dut( get_block( block ), "rtl", get_config( config ) if isinstance( config, str ) else config )

def translated( component: Any ) -> dict[str, str]:
  """The files of a translation by name: SystemVerilog, file list, waivers. Raises as `verilog.to_verilog`."""
  with TemporaryDirectory( prefix="npu-translate-" ) as folder:
    sources = translate( component, folder )
    texts   = { p.name: p.read_text() for p in sources }
    texts  |= { p.name: p.read_text() for p in sorted( Path( folder ).iterdir() ) if p not in sources }
  return { **texts, WAIVERS.name: WAIVERS.read_text() }

def lint_files( texts: Mapping[str, str], folder: Path | None = None ) -> str:
  """What Verilator's lint finds in the files of `translated`, beyond their waivers; empty if it is clean.

  With `folder`, where they have been written, findings name the files there; without, they have names alone. Raises
  NpuError if Verilator is missing.
  """
  sources = [ name for name in texts if name.endswith( ".sv" ) ]
  if folder:
    return verilator.lint( [ folder / name for name in sources ], folder / WAIVERS.name )
  with TemporaryDirectory( prefix="npu-lint-" ) as temporary:
    write_all( Path( temporary ), texts )
    return verilator.lint( sources, WAIVERS.name, temporary )

def write_all( folder: Path, texts: Mapping[str, str] ) -> None:
  """Write files, `texts` by name, to a folder, which is made if it is missing.

  Raises NpuError if that is not possible, and then nothing has changed.
  """
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
