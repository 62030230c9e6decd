"""Break the RTL on purpose, one small error at a time, and see that the suite notices each.

    python -m tests.mutations             every mutation of every block
    python -m tests.mutations mac_array   of one block

Each runs the block's suite on the translated Verilog of a changed copy of the tree. Exit code 1 if a
mutation survives, or no longer applies.
"""

import importlib
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import typer

ROOT    = Path( __file__ ).resolve().parent.parent
FOLDERS = ( "npu", "fl", "cl", "rtl_models", "translation", "tests" )
FILES   = ( "conftest.py", "setup.cfg", "pyproject.toml" )
# Each has its table and its suite in a folder of tests/.
BLOCKS  = ( "mac_array", "vector_unit", "attention_engine", "controller", "memory_hub" )

Mutation = tuple[str, str, str, str]     # name, file, what becomes what

def table( block: str ) -> Any:
  """A block's module of mutations."""
  return importlib.import_module( f"tests.{block}.mutations" )

def survives( block: str, mutation: Mutation, cache: Path ) -> str:
  """Why the mutation counts as unnoticed; empty if the suite failed, as it should."""
  with tempfile.TemporaryDirectory( prefix="npu-mutation-" ) as folder:
    return survives_in( Path( folder ), block, mutation, cache )

def survives_in( tree: Path, block: str, mutation: Mutation, cache: Path ) -> str:
  """The same, with the changed copy in an empty folder."""
  _, file, before, after = mutation
  for name in FOLDERS:
    shutil.copytree( ROOT / name, tree / name, ignore=shutil.ignore_patterns( "__pycache__" ) )
  for name in FILES:
    shutil.copy( ROOT / name, tree / name )
  target = tree / file
  text   = target.read_text()
  if before not in text:
    return "does not apply any more"
  target.write_text( text.replace( before, after ) )
  environment = { **os.environ, "PYTHONPATH": str( tree ), "NPU_CACHE_DIR": str( cache ),
                  "NPU_X_INITIAL": "zeros" }
  done = subprocess.run( [ sys.executable, "-m", "pytest", f"tests/{block}", "-x", "-q",
                           "-p", "no:cacheprovider", "--level=verilog", "-k", table( block ).SELECTED ],
                         cwd=tree, env=environment, capture_output=True, text=True, check=False )
  # 1: tests failed. Anything else than that is no verdict on the mutation.
  if done.returncode == 1 and " failed" in done.stdout:
    return ""
  return "survived" if done.returncode == 0 else f"pytest ended with {done.returncode}"

def main( block: Annotated[str | None, typer.Argument( help="Only this block's." )] = None,
          workers: Annotated[int, typer.Option( min=1, help="Mutations at a time." )] = 2 ) -> None:
  """Apply every mutation and report."""
  if block is not None and block not in BLOCKS:
    raise typer.BadParameter( f"there is no block {block!r}; choose one of {', '.join( BLOCKS )}" )
  jobs = [ ( name, mutation ) for name in ( BLOCKS if block is None else [ block ] )
           for mutation in table( name ).MUTATIONS ]
  bad = 0
  with tempfile.TemporaryDirectory( prefix="npu-mutations-" ) as cache, ThreadPoolExecutor( workers ) as pool:
    problems = pool.map( lambda job: survives( job[0], job[1], Path( cache ) ), jobs )
    for ( name, mutation ), problem in zip( jobs, problems, strict=True ):
      bad += bool( problem )
      print( f"{'NOT NOTICED' if problem else 'noticed':12} {name}: {mutation[0]} {problem}".rstrip(), flush=True )
  print( f"{len( jobs ) - bad} of {len( jobs )} noticed" )
  if bad:
    raise typer.Exit( 1 )

if __name__ == "__main__":
  typer.run( main )
