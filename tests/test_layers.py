"""The layers of the project hold: `make lint` refuses an import that points the wrong way."""

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT
from translation.blocks import BLOCKS

PACKAGES = ( "npu", "fl", "cl", "rtl_models", "translation" )
TESTS    = "tests"

def lint_imports( tree: Path ) -> subprocess.CompletedProcess[str]:
  """What `make lint` runs on the imports of a tree."""
  command = [ str( Path( sys.executable ).with_name( "lint-imports" ) ), "--no-cache", "--no-logo" ]
  return subprocess.run( command, cwd=tree, capture_output=True, text=True, check=False )

@pytest.fixture
def tree( tmp_path: Path ) -> Path:
  """A copy of the modules."""
  for package in ( *PACKAGES, TESTS ):
    shutil.copytree( ROOT / package, tmp_path / package,
                     ignore=lambda _, names: [ n for n in names if "." in n and not n.endswith( ".py" ) ] )
  shutil.copy( ROOT / "setup.cfg", tmp_path )
  return tmp_path

LAYERS    = "each layer imports those below it only"
LIBRARY   = "the library as a whole is for those who use it, not for its parts"
COMPILER  = "the compiler knows what the hardware is, and not how it is simulated"
RTL       = "hardware is built on no simulation of it"
PARTS     = "a block is made of its own parts, the MAC columns and what is common"
CL_PARTS  = "the same at the cycle level"
MAC       = "the MAC array's parts are for it and the attention engine"
VECTOR    = "the vector unit's parts are its own"
ATTENTION = "the attention engine's parts are its own"
CONTROL   = "the controller's parts are its own"
MEMORY    = "the memory system's parts are its own"

@pytest.mark.parametrize( "file, line, contract", (
  pytest.param( "npu/arch/isa.py", "import fl.npu", LAYERS, id="arch above fl" ),
  pytest.param( "fl/mac_array.py", "from npu.compiler import image", LAYERS, id="fl knows the compiler" ),
  pytest.param( "cl/mac_array.py", "from rtl_models.mac import column", LAYERS, id="cl knows rtl" ),
  pytest.param( "npu/runtime/session.py", "def f():\n  from npu.cli import main", LAYERS, id="inside a function" ),
  pytest.param( "cl/common/ports.py", "from tests.harness import Sink", LAYERS, id="a package knows tests" ),
  pytest.param( "npu/arch/isa.py", "from npu import Session", LIBRARY, id="arch knows the library" ),
  pytest.param( "fl/kernels/gemm.py", "import npu", LIBRARY, id="fl knows the library" ),
  pytest.param( "rtl_models/mac/column.py", "def f():\n  import npu", LIBRARY, id="rtl knows the library" ),
  pytest.param( "npu/runtime/session.py", "from npu import compare", LIBRARY, id="runtime knows the library" ),
  pytest.param( "npu/compiler/build.py", "import fl.mac_array", COMPILER, id="compiler knows fl" ),
  pytest.param( "rtl_models/common/delay.py", "from fl.vector_unit import check", RTL, id="rtl knows fl" ),
  pytest.param( "rtl_models/mac/column.py", "from rtl_models.vector import lane", PARTS, id="parts of others" ),
  pytest.param( "rtl_models/controller.py", "from rtl_models import vector_unit", PARTS, id="a block in a block" ),
  pytest.param( "cl/controller.py", "from cl import vector_unit", CL_PARTS, id="a block in a block, cl" ),
  pytest.param( "rtl_models/vector_unit.py", "from rtl_models.mac import column", MAC, id="MAC columns elsewhere" ),
  pytest.param( "rtl_models/controller.py", "from rtl_models.vector import lane", VECTOR, id="the vector unit's" ),
  pytest.param( "cl/mac_array.py", "from cl.vector import row_fetch", VECTOR, id="the vector unit's, cl" ),
  pytest.param( "rtl_models/mac_array.py", "from rtl_models.attention import ring", ATTENTION, id="attention's" ),
  pytest.param( "cl/vector_unit.py", "from cl.attention import tiles", ATTENTION, id="attention's, cl" ),
  pytest.param( "rtl_models/memory_hub.py", "from rtl_models.control import dma", CONTROL, id="the controller's" ),
  pytest.param( "cl/memory_hub.py", "from cl.control import jobs", CONTROL, id="the controller's, cl" ),
  pytest.param( "cl/attention_engine.py", "from cl.memory import model", MEMORY, id="the memory system's, cl" ) ) )
def test_lint_refuses_an_import_upwards( tree, file, line, contract ):
  path = tree / file
  path.write_text( f"{path.read_text()}\n{line}\n" )
  done = lint_imports( tree )
  assert done.returncode == 1 and f"{contract} BROKEN" in done.stdout, done.stdout
  assert file.removesuffix( ".py" ).replace( "/", "." ) in done.stdout

def test_lint_accepts_the_tree_as_it_is( tree ):
  done = lint_imports( tree )
  assert done.returncode == 0 and "0 broken" in done.stdout, done.stdout

def test_every_module_has_its_layer():
  config = configparser.ConfigParser()
  config.read( ROOT / "setup.cfg" )
  layers = config["importlinter:contract:layers"]["layers"].replace( "|", " " ).split()
  found  = { f"npu.{p.stem}" for p in ( ROOT / "npu" ).glob( "[a-z]*" ) if p.suffix in ( "", ".py" ) }
  # The version is read by whoever wants it and reads nothing.
  assert found | { "fl", "cl", "rtl_models", "translation", TESTS } == { *layers, "npu.version" }

def test_every_folder_is_a_package():
  # import-linter does not see what is in a folder that is none.
  folders = { path.parent for package in ( *PACKAGES, TESTS ) for path in ( ROOT / package ).rglob( "*.py" ) }
  assert [ folder for folder in folders if not ( folder / "__init__.py" ).exists() ] == []

def test_every_package_is_known():
  # Hidden folders, and what the build makes: see .gitignore.
  others = [ f for f in ROOT.iterdir() if f.is_dir() and f.name[0] != "." and f.name not in ( "build", "dist" ) ]
  assert { f.name for f in others if any( f.rglob( "*.py" ) ) } == { *PACKAGES, TESTS }

# Imports by a string, which import-linter does not see: names of `import npu`, classes of blocks, modules of PyMTL3
# whose names mean their classes elsewhere.
BY_STRING = { "npu/__init__.py", "translation/blocks.py", "translation/simulate.py" }

def test_imports_by_a_string_are_few():
  found = { str( path.relative_to( ROOT ) ) for package in PACKAGES for path in ( ROOT / package ).rglob( "*.py" )
            if re.search( r"import_module|__import__|lazy_loader|runpy", path.read_text( encoding="utf-8" ) ) }
  assert found == BY_STRING

def test_imports_by_a_string_point_down():
  modules = { place.split( "." )[0] for places in BLOCKS.values() for place in places.values() }
  assert modules == { "fl", "cl", "rtl_models" }
  simulate = ( ROOT / "translation" / "simulate.py" ).read_text( encoding="utf-8" )
  assert set( re.findall( r'import_module\( "(\w+)', simulate ) ) == { "pymtl3" }
