"""The layers of the project hold: `make lint` refuses an import that points the wrong way."""

import configparser
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT

PACKAGES = ( "npu", "fl", "cl", "rtl_models", "translation" )

def lint_imports( tree: Path ) -> subprocess.CompletedProcess[str]:
  """What `make lint` runs on the imports of a tree."""
  command = [ str( Path( sys.executable ).with_name( "lint-imports" ) ), "--no-cache", "--no-logo" ]
  return subprocess.run( command, cwd=tree, capture_output=True, text=True, check=False )

@pytest.fixture
def tree( tmp_path: Path ) -> Path:
  """A copy of the modules."""
  for package in PACKAGES:
    shutil.copytree( ROOT / package, tmp_path / package,
                     ignore=lambda _, names: [ n for n in names if "." in n and not n.endswith( ".py" ) ] )
  shutil.copy( ROOT / "setup.cfg", tmp_path )
  return tmp_path

LAYERS   = "each layer imports those below it only"
COMPILER = "the compiler knows what the hardware is, and not how it is simulated"
RTL      = "hardware is built on no simulation of it"
PARTS    = "a block is made of its own parts, the MAC columns and what is common"

@pytest.mark.parametrize( "file, line, contract", (
  pytest.param( "npu/arch/isa.py", "import fl.npu", LAYERS, id="arch above fl" ),
  pytest.param( "fl/mac_array.py", "from npu.compiler import image", LAYERS, id="fl knows the compiler" ),
  pytest.param( "cl/mac_array.py", "from rtl_models.mac import column", LAYERS, id="cl knows rtl" ),
  pytest.param( "npu/runtime/session.py", "def f():\n  from npu.cli import main", LAYERS, id="inside a function" ),
  pytest.param( "npu/compiler/build.py", "import fl.mac_array", COMPILER, id="compiler knows fl" ),
  pytest.param( "rtl_models/common/delay.py", "from fl.vector_unit import check", RTL, id="rtl knows fl" ),
  pytest.param( "rtl_models/mac/column.py", "from rtl_models.vector import lane", PARTS, id="parts of others" ) ) )
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
  assert found | { "fl", "cl", "rtl_models", "translation" } == { *layers, "npu.version" }
