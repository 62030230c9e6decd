"""Measure speed and memory: `make bench`. Each figure is one run on this machine, in a process of its own."""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

console = Console( highlight=False )

@dataclass( frozen=True )
class Measured:
  """A finished command: wall seconds, peak resident memory in bytes, what it printed."""
  seconds: float
  peak_bytes: int
  output: str

def measure( *arguments: str ) -> Measured:
  """Run `npu ARGUMENTS` in a process of its own; RuntimeError if it fails."""
  began = time.perf_counter()
  with tempfile.TemporaryFile( "w+" ) as out:
    child = subprocess.Popen( [ sys.executable, "-m", "npu.cli", *arguments ], stdout=out )
    _, status, usage = os.wait4( child.pid, 0 )
    child.returncode = os.waitstatus_to_exitcode( status )
    if child.returncode:
      raise RuntimeError( f"npu {' '.join( arguments )} ended with {child.returncode}" )
    out.seek( 0 )
    return Measured( time.perf_counter() - began, usage.ru_maxrss * 1024, out.read() )

def machine() -> str:
  """The processor's name and how many cores this process may use."""
  names = [ line.partition( ":" )[2].strip() for line in Path( "/proc/cpuinfo" ).read_text().splitlines()
            if line.startswith( "model name" ) ]
  return f"{names[0] if names else 'unknown processor'}, {len( os.sched_getaffinity( 0 ) )} cores"

def bench_functional( like: str, precision: str, tokens: int, folder: Path ) -> list[tuple[str, str]]:
  """Compile and decode a random model of real dimensions at the functional level."""
  model, image = folder / like, folder / f"{like}-{precision}.npu"
  if not model.exists():
    measure( "random-model", str( model ), "--like", like )
  made = measure( "compile", str( model ), "-o", str( image ), "--precision", precision )
  ran  = measure( "run", str( model ), "--image", str( image ), "--max-new-tokens", str( tokens ), "--ignore-eos",
                  "--prompt", "In the beginning", "--json", "-" )
  image.unlink()
  report = json.loads( ran.output )
  decode = report["wall_seconds"] - report["first_token_seconds"]
  return [ ( "compile", f"{made.seconds:.0f} s, peak {made.peak_bytes / 1e9:.2f} GB" ),
           ( f"prefill, {report['prompt_tokens']} tokens", f"{report['first_token_seconds']:.1f} s" ),
           ( f"decode, {tokens - 1} tokens", f"{( tokens - 1 ) / decode:.2f} tokens/s" ),
           ( "run, peak memory", f"{ran.peak_bytes / 1e9:.2f} GB" ) ]

def main( like: Annotated[str, typer.Option( help="Shape of the random model." )] = "qwen2-0.5b",
          precision: Annotated[str, typer.Option( help="Precision." )] = "w8a16",
          tokens: Annotated[int, typer.Option( help="Tokens to produce." )] = 17 ) -> None:
  """Print the figures that the README states."""
  console.print( f"machine: {machine()}" )
  with tempfile.TemporaryDirectory( prefix="npu-bench-" ) as folder:
    table = Table( "functional level", f"{like}, {precision}", box=None, pad_edge=False )
    for name, value in bench_functional( like, precision, tokens, Path( folder ) ):
      table.add_row( name, value )
    console.print( table )

if __name__ == "__main__":
  typer.run( main )
