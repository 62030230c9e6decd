"""Measure speed and memory: `make bench`. Each figure is one run on this machine; the tables are Markdown.

The functional level runs in processes of its own, for its memory, and so does Hugging Face, with the same checkpoint,
prompt and number of tokens; the levels with cycles in this one, without the time that building them takes.
"""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from npu.arch.config import get_config
from npu.compiler.build import compile_model
from npu.compiler.image import load_image
from npu.compiler.precision import DEFAULT_PRECISION
from npu.errors import NpuError
from npu.machine.levels import LEVELS
from npu.runtime.device import Device
from npu.runtime.text import TextCodec

@dataclass( frozen=True )
class Measured:
  """A finished command: wall seconds, peak resident memory in bytes, what it printed."""
  seconds: float
  peak_bytes: int
  output: str

def measure( *arguments: str, module: str = "npu.cli.main" ) -> Measured:
  """Run `python -m MODULE ARGUMENTS` in a process of its own; RuntimeError if it fails."""
  began = time.perf_counter()
  with tempfile.TemporaryFile( "w+" ) as out:
    child = subprocess.Popen( [ sys.executable, "-m", module, *arguments ], stdout=out )
    _, status, usage = os.wait4( child.pid, 0 )
    child.returncode = os.waitstatus_to_exitcode( status )
    if child.returncode:
      raise RuntimeError( f"{module} {' '.join( arguments )} ended with {child.returncode}" )
    out.seek( 0 )
    return Measured( time.perf_counter() - began, usage.ru_maxrss * 1024, out.read() )

def machine() -> str:
  """The processor's name and how many cores this process may use."""
  names = [ line.partition( ":" )[2].strip() for line in Path( "/proc/cpuinfo" ).read_text().splitlines()
            if line.startswith( "model name" ) ]
  return f"{names[0] if names else 'unknown processor'}, {len( os.sched_getaffinity( 0 ) )} cores"

#-------------------------------------------------------------------------
# The functional level and Hugging Face
#-------------------------------------------------------------------------

PROMPT = list( range( 100, 116 ) )      # 16 tokens, one pass of the default configuration

@dataclass( frozen=True )
class Decoded:
  """How long a model took, in seconds: from opening it to being ready, to the first token, and all tokens after it."""
  ready: float
  first: float
  rest: float

def decode_npu( image: Path, tokens: int ) -> Decoded:
  """Generate from PROMPT at the functional level, greedily; loading compiled functions is part of the first token."""
  began  = time.perf_counter()
  opened = load_image( image )
  ready  = time.perf_counter()
  with Device( opened ) as device:
    run   = device.stream( PROMPT, tokens, stop_at_eos=False )
    next( run )
    first = time.perf_counter()
    for _ in run:
      pass
    return Decoded( ready - began, first - ready, time.perf_counter() - first )

def decode_huggingface( model: Path, tokens: int ) -> Decoded:
  """The same with Hugging Face in FP32, a forward pass per token, without what `generate` does around it."""
  import torch
  from transformers import Qwen2ForCausalLM
  torch.set_num_threads( len( os.sched_getaffinity( 0 ) ) )
  began = time.perf_counter()
  qwen  = Qwen2ForCausalLM.from_pretrained( model, dtype=torch.float32 ).eval()
  times = [ time.perf_counter() ]
  ids, cache = torch.tensor( [ PROMPT ] ), None
  with torch.inference_mode():
    for _ in range( tokens ):
      out   = qwen( input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1 )
      cache = out.past_key_values
      ids   = out.logits[:, -1:].argmax( dim=-1 )
      times.append( time.perf_counter() )
  return Decoded( times[0] - began, times[1] - times[0], times[-1] - times[1] )

DECODE = { "npu": decode_npu, "huggingface": decode_huggingface }

def decoded( what: str, path: Path, tokens: int ) -> tuple[Decoded, float]:
  """One of DECODE in a process of its own, and its peak memory in bytes."""
  done = measure( "--decode", what, "--path", str( path ), "--tokens", str( tokens ), module="npu.tools.bench" )
  return Decoded( **json.loads( done.output ) ), done.peak_bytes

def bench_functional( like: str, precision: str, tokens: int, folder: Path ) -> Iterator[tuple[str, str]]:
  """Compile and decode a random model of real dimensions at the functional level, and decode it with Hugging Face."""
  model, image = folder / like, folder / f"{like}-{precision}.npu"
  if not model.exists():
    measure( "random-model", str( model ), "--like", like )
  made = measure( "compile", str( model ), "-o", str( image ), "--precision", precision )
  yield "compile", f"{made.seconds:.0f} s, peak {made.peak_bytes / 1e9:.2f} GB"
  cold, _   = decoded( "npu", image, 1 )
  npu, peak = decoded( "npu", image, tokens )
  image.unlink()
  yield "open the image, checking it", f"{npu.ready:.1f} s"
  yield f"prompt of {len( PROMPT )}, first token", f"{npu.first:.2f} s"
  yield "the same, functions perhaps not in the cache", f"{cold.first:.2f} s"
  speed = ( tokens - 1 ) / npu.rest
  yield f"decode, {tokens - 1} tokens", f"{speed:.2f} tokens/s"
  yield "run, peak memory", f"{peak / 1e9:.2f} GB"
  if importlib.util.find_spec( "torch" ) is None:
    yield "Hugging Face FP32", "torch is not installed: `make test` does it"
    return
  other, peak = decoded( "huggingface", model, tokens )
  reference   = ( tokens - 1 ) / other.rest
  yield "Hugging Face FP32, first token", f"{other.first:.2f} s"
  yield f"Hugging Face FP32, decode, {tokens - 1} tokens", f"{reference:.2f} tokens/s, peak {peak / 1e9:.2f} GB"
  yield "decode, times Hugging Face", f"{speed / reference:.2f}"

#-------------------------------------------------------------------------
# Levels with a clock
#-------------------------------------------------------------------------

@dataclass( frozen=True )
class Simulation:
  """A whole NPU to simulate: `limit` is the most cycles, None the whole run."""
  level: str
  config: str
  model: str
  tokens: int
  limit: int | None = None

# PyMTL3 in Python takes too long for a whole run: its speed shows in some thousand cycles.
SIMULATIONS = ( Simulation( "cl", "edge16", "tiny", 9 ),
                Simulation( "rtl", "edge4", "nano", 1, 2048 ),
                Simulation( "verilog", "edge4", "nano", 3 ),
                Simulation( "verilog", "edge16", "tiny", 9 ) )

class _Enough( Exception ):
  # Ends a simulation that has shown its speed.
  pass

@dataclass( frozen=True )
class Speed:
  """What a simulation took: cycles and wall seconds of the run, and seconds that building it took."""
  cycles: int
  seconds: float
  build_seconds: float

def simulate( what: Simulation, folder: Path ) -> Speed:
  """Generate with a whole NPU, from a prompt of a few tokens on."""
  path = folder / f"{what.model}-{what.config}.npu"
  if not path.exists():
    compile_model( what.model, path, get_config( what.config ), DEFAULT_PRECISION )
  cycles, began = 0, time.perf_counter()
  with Device( load_image( path ), what.level ) as device:
    built = time.perf_counter()

    def watch( cycle: int, pc: int ) -> None:
      nonlocal cycles
      cycles = cycle
      if what.limit is not None and cycle >= what.limit:
        raise _Enough

    with suppress( _Enough ):
      device.generate( TextCodec( what.model ).encode( "In the beginning" ), what.tokens, stop_at_eos=False,
                        on_progress=watch )
      assert device.stats
      cycles = device.stats.cycles
    return Speed( cycles, time.perf_counter() - built, built - began )

def print_row( *cells: str ) -> None:
  """A row of a Markdown table; it appears as soon as it is known."""
  print( f"| {' | '.join( cells )} |", flush=True )

def print_head( *cells: str ) -> None:
  """The first row, and the line below it."""
  print_row( *cells )
  print( "|---" * len( cells ) + "|", flush=True )

def bench_cycles( levels: list[str], folder: Path ) -> None:
  """Print how fast whole NPUs are simulated."""
  print_head( "whole NPU", "model", "cycles", "simulation", "build" )
  for what in SIMULATIONS:
    if what.level not in levels:
      continue
    found = simulate( what, folder )
    n     = get_config( what.config ).n
    name  = f"{what.level.upper() if what.level != 'verilog' else 'Verilog'}, n = {n}"
    did   = f"{found.cycles:,}" if what.limit is None else f"the first {found.cycles:,}"
    print_row( name, what.model, did, f"{found.cycles / found.seconds:,.0f} cycles/s",
               f"{found.build_seconds:.0f} s" )

def main( like: Annotated[str, typer.Option( help="Shape of the functional level's random model." )] = "qwen2-0.5b",
          precision: Annotated[str, typer.Option( help="Its precision." )] = "w8a16",
          tokens: Annotated[int, typer.Option( help="Tokens that it produces." )] = 33,
          levels: Annotated[str, typer.Option( help="Levels to measure, with commas." )] = ",".join( LEVELS ),
          decode: Annotated[str, typer.Option( hidden=True )] = "",
          path: Annotated[Path, typer.Option( hidden=True )] = Path(),
          ) -> None:
  """Print the figures that the README states."""
  if decode:      # in the process that is measured
    print( json.dumps( asdict( DECODE[decode]( path, tokens ) ) ) )
    return
  chosen = levels.split( "," )
  for level in chosen:
    if level not in LEVELS:
      raise typer.BadParameter( f"unknown level '{level}'; choose one of {', '.join( LEVELS )}" )
  print( f"machine: {machine()}\n" )
  with tempfile.TemporaryDirectory( prefix="npu-bench-" ) as folder:
    if "fl" in chosen:
      print_head( "functional level", f"{like}, {precision}" )
      for row in bench_functional( like, precision, tokens, Path( folder ) ):
        print_row( *row )
      print()
    if chosen != [ "fl" ]:
      try:
        bench_cycles( chosen, Path( folder ) )
      except NpuError as e:
        raise SystemExit( f"error: {e}" ) from None

if __name__ == "__main__":
  typer.run( main )
