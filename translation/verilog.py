"""SystemVerilog from RTL components, by PyMTL3's translator and without its side effects.

PyMTL3's own pass writes into the working directory, gives modules names with double underscores, which
Verilator spells differently in its file names, and writes the absolute paths of the Python files.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pymtl3.passes.backends.verilog import VerilogTranslationPass
from pymtl3.passes.backends.verilog.translation.VTranslator import VTranslator
from pymtl3.passes.backends.verilog.util.utility import get_component_unique_name
from pymtl3.passes.rtlir import RTLIRGetter

from npu.errors import NpuError

ROOT = Path( __file__ ).resolve().parent.parent

def to_verilog( component: Any ) -> tuple[str, str]:
  """The name of the top module, and SystemVerilog for it and all modules below it.

  `component` is RTL; it is elaborated if it is not yet. The text depends on the design only, not on
  the machine, the folder or the run. Comments carry the Python source of each block.

  Module names are those that components set (`VerilogTranslationPass.explicit_module_name`), else
  PyMTL3's with single underscores.

  Raises
  ------
  NpuError
    Two different components ask for one module name; the names are in the message.
  """
  if not component._dsl.constructed:
    component.elaborate()
  set_module_names( component )
  translation            = VerilogTranslationPass()
  translation.translator = VTranslator( component )
  translation.translator.translate( component, translation.gen_tr_cfgs( component ) )
  hierarchy = translation.translator.hierarchy
  structs   = [ ( struct.get_name(), struct.get_class().__name__ ) for struct in hierarchy.decl_type_struct ]
  return translation.translator._top_module_full_name, _tidy( hierarchy.src, structs )

def translate( component: Any, directory: Path | str ) -> list[Path]:
  """Write `component` to `directory`, which is made: TOP.sv, and the file list TOP.f.

  Returns the SystemVerilog files, without the file list. Files appear complete or not at all. Raises
  as `to_verilog`.
  """
  directory = Path( directory )
  directory.mkdir( parents=True, exist_ok=True )
  top, source = to_verilog( component )
  verilog = directory / f"{top}.sv"
  write_atomically( verilog, source )
  write_atomically( directory / f"{top}.f", f"{verilog.name}\n" )
  return [ verilog ]

def write_atomically( path: Path, text: str ) -> None:
  """Write a file that other processes see complete or not at all."""
  temporary = path.with_name( f".{path.name}.{os.getpid()}.tmp" )
  temporary.write_text( text )
  temporary.replace( path )

def set_module_names( component: Any ) -> None:
  """Give every module of an elaborated design an explicit name with single underscores.

  PyMTL3 merges instances whose class name and arguments look the same in print, and Verilator takes the
  first of two modules with the same name, so both are checked here. Raises as `to_verilog`.
  """
  explicit = VerilogTranslationPass.explicit_module_name
  first: dict[str, tuple[Any, str]] = {}   # by module name: who has it, and PyMTL3's own name
  for c in sorted( component.get_all_object_filter( _is_component ), key=repr ):
    unique = get_component_unique_name( RTLIRGetter( cache=False ).get_component_ifc_rtlir( c ) )
    if not c.has_metadata( explicit ):
      c.set_metadata( explicit, re.sub( "__+", "_", unique ) )
    name = c.get_metadata( explicit )
    if "__" in name:
      raise NpuError( f"{c!r} ({type( c ).__name__}) asks for the module name {name}; "
                      "choose one without a double underscore" )
    other, other_unique = first.setdefault( name, ( c, unique ) )
    if other_unique != unique or type( other ) is not type( c ):
      raise NpuError( f"{other!r} ({type( other ).__name__}) and {c!r} ({type( c ).__name__}) are different "
                      f"but share the module name {name}; choose a name for each set of parameters" )

def _is_component( obj: Any ) -> bool:
  return hasattr( obj, "get_child_components" )

def _tidy( source: str, structs: Iterable[tuple[str, str]] ) -> str:
  # PyMTL3 adds all fields to the name of a struct; the name of its class is enough where it is unique.
  structs = list( structs )
  classes = [ name for _, name in structs ]
  for long, short in structs:
    name   = short if classes.count( short ) == 1 else re.sub( "__+", "_", long )
    source = re.sub( rf"\b{re.escape( long )}\b", name, source )
  source = re.sub( r"(?m)^( *// At )(.*)$", lambda m: m[1] + _relative( m[2] ), source )
  return re.sub( r"(?m) +(,?) *$", r"\1", source ).rstrip() + "\n"

def _relative( place: str ) -> str:
  # A file of the project relative to it, one of an installed package relative to site-packages.
  _, installed, tail = place.rpartition( "/site-packages/" )
  if installed:
    return tail
  return place.removeprefix( f"{ROOT}/" ) if place.startswith( f"{ROOT}/" ) else place.rpartition( "/" )[2]
