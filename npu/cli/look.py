"""The commands that look inside: `npu info`, `npu disasm`, `npu diff`."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import npu
from npu.cli.options import (
  DEFAULT_CONFIG,
  DEFAULT_MODEL,
  DEFAULT_PRECISION,
  DEFAULT_PROMPT,
  LEVELS,
  BandwidthOpt,
  ConfigOpt,
  ContextOpt,
  EosOpt,
  HangOpt,
  ImageArg,
  ImageOpt,
  JsonOpt,
  LatencyOpt,
  MaxCyclesOpt,
  ModelArg,
  NoCacheOpt,
  PassRowsOpt,
  PrecisionOpt,
  ProgressOpt,
  PromptOpt,
  StallOpt,
  TokensOpt,
  among,
)
from npu.cli.output import progress_line, refuse_without_clock, wants_line
from npu.cli.run import file_with_bar
from npu.files import STDOUT, check_json, write_json

if TYPE_CHECKING:
  from npu.runtime.progress import ProgressLine

#-------------------------------------------------------------------------
# npu info, npu disasm
#-------------------------------------------------------------------------

def info( image: ImageArg, json_file: JsonOpt = None ) -> None:
  """Show what is in an image: model, regions, sizes, program length."""
  check_json( json_file )
  manifest = npu.load( image ).manifest
  if json_file:
    write_json( json_file, manifest )
  if json_file == STDOUT:
    return
  out = Console( highlight=False )
  d, c = manifest["dimensions"], manifest["config"]
  title = f"{image}: {manifest['model']}, {manifest['precision']}, for {c['name']} (n = {c['n']})"
  out.print( escape( title ), soft_wrap=True )
  out.print( f"{d['layers']} layers, hidden {d['hidden_size']}, intermediate {d['intermediate_size']}, "
             f"{d['heads']} heads, {d['kv_heads']} KV heads of {d['head_dim']}, vocabulary {d['vocab_size']}",
             soft_wrap=True )
  out.print( f"context {manifest['context']}, up to {manifest['pass_rows']} rows a pass, "
             f"{manifest['instructions']} instructions", soft_wrap=True )
  out.print( f"runs at the levels {', '.join( LEVELS )} (npu run --level)", soft_wrap=True )
  table = Table( "region", "count", "first line", "bytes", "in file", box=None, pad_edge=False )
  for column in table.columns[1:4]:
    column.justify = "right"
  for name, count, line, size, stored in region_rows( manifest ):
    table.add_row( name, str( count ), f"{line:#x}", f"{size:,}", "yes" if stored else "zeros" )
  out.print( table )

def region_rows( manifest: dict[str, Any] ) -> list[tuple[str, int, int, int, bool]]:
  """(name, regions, first line, bytes, stored), regions of the same kind in all layers as one row."""
  kinds: dict[str, tuple[str, int, int, int, bool]] = {}
  for r in manifest["regions"]:
    kind = ".".join( "*" if p.isdigit() else p for p in r["name"].split( "." ) )
    _, count, line, size, stored = kinds.get( kind, ( kind, 0, r["line"], 0, r["stored"] ) )
    kinds[kind] = ( kind, count + 1, line, size + r["size"], stored )
  return list( kinds.values() )

def disasm( image: ImageArg ) -> None:
  """Print an image's program, one instruction a line."""
  for pc, instruction in enumerate( npu.load( image ).instructions() ):
    sys.stdout.write( f"{pc:5d}  {npu.disassemble( instruction )}\n" )

#-------------------------------------------------------------------------
# npu diff
#-------------------------------------------------------------------------

MIX_HELP = "Level of all blocks, fl, cl, rtl or verilog, or BLOCK=LEVEL,... with cl for the others."

def diff( model: ModelArg = DEFAULT_MODEL, prompt: PromptOpt = DEFAULT_PROMPT,
          a: Annotated[str, typer.Option( metavar="LEVELS", help=MIX_HELP, autocompletion=among( LEVELS ) )] = "fl",
          b: Annotated[str, typer.Option( metavar="LEVELS", help="The same, of the other NPU.",
                                          autocompletion=among( LEVELS ) )] = "cl",
          max_new_tokens: TokensOpt = 4, precision: PrecisionOpt = DEFAULT_PRECISION,
          config: ConfigOpt = DEFAULT_CONFIG, context: ContextOpt = None, pass_rows: PassRowsOpt = None,
          ignore_eos: EosOpt = False, image: ImageOpt = None, no_cache: NoCacheOpt = False, json_file: JsonOpt = None,
          progress: ProgressOpt = None, max_cycles: MaxCyclesOpt = None, hang_cycles: HangOpt = None,
          dram_latency: LatencyOpt = None, dram_bandwidth: BandwidthOpt = None, stall_seed: StallOpt = None ) -> None:
  """Run two mixes of levels and name the first instruction whose result differs.

  What every instruction writes is compared, in the order of the program:
  scratchpad rows, memory, tokens. If nothing differs, the exit code is 0;
  otherwise both values are shown, and it is 1.

  npu diff --a fl --b mac_array=rtl nano --config edge4
  """
  from npu.machine.levels import parse_levels
  check_json( json_file )
  levels = parse_levels( a, "--a" ), parse_levels( b, "--b" )
  if levels == ( None, None ):
    refuse_without_clock( { "--progress": progress or None, "--max-cycles": max_cycles, "--hang-cycles": hang_cycles,
                            "--dram-latency": dram_latency, "--dram-bandwidth": dram_bandwidth,
                            "--stall-seed": stall_seed } )
  options = npu.SimOptions( dram_latency, dram_bandwidth, stall_seed, max_cycles, hang_cycles )
  tokens  = npu.TextCodec( model ).encode( prompt )

  @contextmanager
  def watching( device: npu.Device, name: str ) -> "Iterator[ProgressLine | None]":
    if not wants_line( progress ):
      yield None
      return
    with progress_line( device.plan( max_new_tokens ), title=f"{name}: " ) as line:
      yield line

  with file_with_bar( model, image, precision, config, context, pass_rows, no_cache ) as path:
    report = npu.diff( model, tokens, *levels, max_new_tokens=max_new_tokens, stop_at_eos=not ignore_eos,
                       image=path, options=options, watching=watching )
  if json_file is not None:
    write_json( json_file, { "a": a, "b": b, **report.to_json() } )
  if json_file != STDOUT:
    out = Console( highlight=False, markup=False )
    for line in report.lines( a, b ):
      out.print( line, soft_wrap=True )
  if report.difference:
    raise typer.Exit( 1 )
