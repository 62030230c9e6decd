"""The cycle tables of docs/cycles.md, measured on the cycle-level models or on the Verilog.

    python -m tests.cycles            write docs/cycles.md
    python -m tests.cycles --check    exit code 1 if it is out of date
"""

import importlib
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

OUTPUT = Path( __file__ ).resolve().parent.parent / "docs" / "cycles.md"
BLOCKS = ( "mac_array", "vector_unit", "attention_engine", "controller" )   # each has a table in its folder

INTRODUCTION = """# Cycles

Written by `python -m tests.cycles`. Counts are exact: they are the same for the cycle-level model, the RTL in
Python and the Verilog, and do not depend on the machine.
"""

def main( check: Annotated[bool, typer.Option( help="Only compare with the file." )] = False,
          level: Annotated[str, typer.Option( help="cl or verilog." )] = "cl" ) -> None:
  """Measure and write, or check."""
  console  = Console( stderr=True )
  sections = [ INTRODUCTION ]
  for block in BLOCKS:
    began = time.perf_counter()
    sections.append( importlib.import_module( f"tests.{block}.cycles" ).section( level ) )
    console.print( f"{block}: {time.perf_counter() - began:.0f} s ({level})" )
  text = "\n".join( sections )
  if not check:
    OUTPUT.write_text( text )
  elif not OUTPUT.exists() or OUTPUT.read_text() != text:
    console.print( f"{OUTPUT.name} is out of date: run python -m tests.cycles" )
    sys.exit( 1 )

if __name__ == "__main__":
  typer.run( main )
