"""Break the RTL on purpose, one small error at a time, and see that the suite notices each.

    python -m tests.mutations             every mutation of every block
    python -m tests.mutations mac_array   of one block

Each runs the block's suite on the translated Verilog of a changed copy of the tree. Exit code 1 if a
mutation survives, or no longer applies.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

ROOT    = Path( __file__ ).resolve().parent.parent
FOLDERS = ( "npu", "fl", "cl", "rtl_models", "translation", "tests" )
FILES   = ( "conftest.py", "setup.cfg", "pyproject.toml" )

# The table of directed rows at n = 4, bad commands and cycle counts.
SELECTED = "(test_rows and not n8 and not n16) or test_bad or test_cycles"

@dataclass( frozen=True )
class Mutation:
  """One error: in which file what becomes what."""
  block: str
  name: str
  file: str
  before: str
  after: str

def _mac( name: str, file: str, before: str, after: str ) -> Mutation:
  return Mutation( "mac_array", name, f"rtl_models/{file}.py", before, after )

MUTATIONS = (
  _mac( "sign of the weight dropped", "mac_column", "s.a_sign[k] ^ s.active[k][24]", "s.a_sign[k]" ),
  _mac( "FP16 products aligned one bit off", "mac_column", "s.mag1[k][4:22]", "s.mag1[k][3:21]" ),
  _mac( "smallest exponent instead of the largest", "mac_column", "if s.b > s.a:", "if s.b < s.a:" ),
  _mac( "exponent of zero decides the alignment", "mac_column",
        "if ( s.a_exp[k] != 0 ) & ( s.active[k][0:8] != 0 ):", "if s.a_exp[k] != 0:" ),
  _mac( "write stall ignored", "mac_array", "~( s.v[10] & ~s.wr.rdy ) & ", "" ),
  _mac( "late residual ignored", "mac_array", " & ~( s.v[9] & s.gemm.residual & ~s.ress.out.val )", "" ),
  _mac( "row written twice while a residual is late", "mac_array", "      elif s.wr.rdy:\n", "      elif s.reset:\n" ),
  _mac( "scale of the neighbour column", "mac_array", "//= s.scale[c]", "//= s.scale[c ^ 1]" ),
  _mac( "one lane too many in the last tile", "mac_array", "( s.n_rest > c )", "( s.n_rest >= c )" ),
  _mac( "lanes past K multiplied", "mac_array", "( s.k_rest > c )", "( s.k_rest >= c )" ),
  _mac( "tile swapped after its first row", "mac_array", "( s.issue & s.last_m ) )", "s.issue )" ),
  _mac( "group sum not started anew", "mac_array", "s.next.first     @= s.g == 0", "s.next.first     @= s.kt == 0" ),
  _mac( "bias dropped after one row", "mac_array", "s.v[8] & s.meta[8].last_row & ", "s.v[8] & " ),
  _mac( "activation exponent off by one", "mac_array", "- 141", "- 140" ),
  _mac( "INT8 activations scaled as INT16", "mac_array", "- 133", "- 141" ),
  _mac( "m_max rows refused", "mac_array", "s.cmd.msg.rows > m_max", "s.cmd.msg.rows >= m_max" ),
  _mac( "error code lost", "mac_array", "DONE( s.code, 0 )", "DONE( 0, 0 )" ),
  _mac( "zero point ignored for INT4", "weight_loader", "zext( s.nibble[j][c], 16 ) - s.zero16[c]",
        "zext( s.nibble[j][c], 16 )" ),
  _mac( "halves of an INT4 beat exchanged", "weight_loader", "          if s.second:", "          if ~s.second:" ),
  _mac( "shadow weights overwritten", "weight_loader", "( ~s.is_full | s.swap )", "Bits1( 1 )" ),
  _mac( "burst crosses 4 KiB", "stream_reader", "LEN( page ) - zext( s.addr[0:offset], LEN )", "LEN( page )" ),
  _mac( "stride forgotten in later tiles", "row_reader", "s.addr   <<= s.column + 1", "s.addr   <<= s.addr + 1" ),
  _mac( "accumulator keeps an old sum", "mac_output", "if ~s.floating & ~s.first3:", "if ~s.floating:" ),
  _mac( "scale's exponent of BF16 used for FP16", "mac_array", "s.top_bias @= 46", "s.top_bias @= 270" ),
)

def survives( mutation: Mutation, folder: Path ) -> str:
  """Why the mutation counts as unnoticed; empty if the suite failed, as it should."""
  tree = folder / "tree"
  shutil.rmtree( tree, ignore_errors=True )
  tree.mkdir()
  for name in FOLDERS:
    shutil.copytree( ROOT / name, tree / name, ignore=shutil.ignore_patterns( "__pycache__" ) )
  for name in FILES:
    shutil.copy( ROOT / name, tree / name )
  target = tree / mutation.file
  text   = target.read_text()
  if mutation.before not in text:
    return "does not apply any more"
  target.write_text( text.replace( mutation.before, mutation.after ) )
  environment = { **os.environ, "PYTHONPATH": str( tree ), "NPU_CACHE_DIR": str( folder / "cache" ),
                  "NPU_X_INITIAL": "zeros" }
  done = subprocess.run( [ sys.executable, "-m", "pytest", f"tests/test_{mutation.block}.py", "-x", "-q",
                           "-p", "no:cacheprovider", "--level=verilog", "-k", SELECTED ],
                         cwd=tree, env=environment, capture_output=True, text=True, check=False )
  # 1: tests failed. Anything else than that is no verdict on the mutation.
  if done.returncode == 1 and " failed" in done.stdout:
    return ""
  return "survived" if done.returncode == 0 else f"pytest ended with {done.returncode}"

def main( block: Annotated[str | None, typer.Argument( help="Only this block's." )] = None ) -> None:
  """Apply every mutation and report."""
  bad = 0
  with tempfile.TemporaryDirectory( prefix="npu-mutations-" ) as folder:
    for mutation in MUTATIONS:
      if block in ( None, mutation.block ):
        problem = survives( mutation, Path( folder ) )
        bad += bool( problem )
        print( f"{'NOT NOTICED' if problem else 'noticed':12} {mutation.block}: {mutation.name} {problem}", flush=True )
  if bad:
    raise typer.Exit( 1 )

if __name__ == "__main__":
  typer.run( main )
