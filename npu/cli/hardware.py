"""The commands `npu translate` and `npu synth`; `npu.cli.main` registers them.

PyMTL3 and the tools are imported when a command runs, so that the other commands start as fast as without them.
"""

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

import npu
from npu.cli.options import DEFAULT_CONFIG, BlockOpt, ConfigOpt, JsonOpt
from npu.cli.output import progress_bar
from npu.files import STDOUT, check_json, write_json

if TYPE_CHECKING:
  from translation.synth import Report

#-------------------------------------------------------------------------
# npu translate
#-------------------------------------------------------------------------

def translate( block: BlockOpt,
               output: Annotated[Path, typer.Option( "-o", "--output", metavar="DIR",
                                                     help="Folder for the files; made if it is missing." )],
               config: ConfigOpt = DEFAULT_CONFIG,
               no_lint: Annotated[bool, typer.Option( "--no-lint", help="Do not run Verilator." )] = False ) -> None:
  """Translate a block to SystemVerilog and lint it.

  Writes TOP.sv with all modules, the file list TOP.f, and waivers.vlt:
  what the lint may find, and why. If it finds anything else, that is
  printed and the exit code is 1.
  """
  from translation.output import WAIVERS
  from translation.synth import module_names
  from translation.verilator import version
  result = npu.translate( block, config, output, lint=not no_lint )
  out    = Console( highlight=False, markup=False )
  for name, text in result.files.items():
    modules = f", {len( module_names( text ) )} modules" if name.endswith( ".sv" ) else ""
    out.print( f"{output / name}: {len( text.splitlines() ):,} lines{modules}", soft_wrap=True )
  if result.findings:
    Console( stderr=True, highlight=False, markup=False ).print( result.findings, soft_wrap=True )
    raise typer.Exit( 1 )
  if not no_lint:
    out.print( f"lint: clean (Verilator {version()}, -Wall, {WAIVERS.name})", soft_wrap=True )

#-------------------------------------------------------------------------
# npu synth
#-------------------------------------------------------------------------

def synth( block: BlockOpt, config: ConfigOpt = DEFAULT_CONFIG, json_file: JsonOpt = None ) -> None:
  """Synthesise a block to generic gates and show the size and logic depth of its modules.

  Gates are NOT, two-input gates and two-input multiplexers, of no process;
  flip-flops come on top. Arrays of many entries are counted in bits. Depth
  is gates on the longest path between registers or ports. A row is for one
  instance, without the modules inside it except for depth; the total is
  over all instances.

  The MAC array takes half a minute with edge4 and a minute with edge16, and
  the first start of Yosys a minute or two more.
  """
  from translation.output import mk_rtl
  from translation.synth import prepare, version
  check_json( json_file )
  mk_rtl( block, config )       # wrong names are told before Yosys starts, which may take minutes
  start = time.monotonic()
  with progress_bar( "starting Yosys" ):
    prepare()
  with progress_bar( f"synthesising {block}" ) as progress:
    report = npu.synthesise( block, config, progress )
  seconds = time.monotonic() - start
  if json_file:
    write_json( json_file, { "block": block, "config": config, "yosys": version(), "seconds": round( seconds, 1 ),
                             **as_json( report ) } )
  if json_file != STDOUT:
    print_report( report, seconds )

def as_json( report: "Report" ) -> dict[str, Any]:
  """The report for `--json`: totals over all instances, the top's depth, and the modules."""
  top = report.top_module
  return { "top": report.top, **{ what: report.total( what ) for what in TOTALS }, "depth": top.depth, "path": top.path,
           "modules": [ dataclasses.asdict( m ) for m in report.modules ], "warnings": list( report.warnings ) }

TOTALS = ( "gates", "flip_flops", "memory_bits" )

def print_report( report: "Report", seconds: float ) -> None:
  """The table on standard output; what looks wrong on standard error."""
  top   = report.top_module
  table = Table( "module", "instances", "gates", "flip-flops", "memory bits", "depth", box=None, pad_edge=False )
  for column in table.columns[1:]:
    column.justify = "right"
  for column in table.columns:
    column.no_wrap = True
  for m in report.modules:
    table.add_row( m.name, f"{m.instances:,}", f"{m.gates:,}", f"{m.flip_flops:,}", f"{m.memory_bits:,}",
                   "loop" if m.depth is None else f"{m.depth:,}" )
  table.add_section()
  table.add_row( "total", f"{sum( m.instances for m in report.modules ):,}", f"{report.total( 'gates' ):,}",
                 f"{report.total( 'flip_flops' ):,}", f"{report.total( 'memory_bits' ):,}",
                 "loop" if top.depth is None else f"{top.depth:,}" )
  # As wide as the table is: module names are too long for 80 columns, and a name that is cut off says little.
  out = Console( highlight=False, markup=False )
  out.width = max( out.width, Console( width=1000 ).measure( table ).maximum )
  out.print( table )
  where = top.path if top.depth is None else f"deepest path {top.path}"
  out.print( f"{report.top}: {where}; {seconds:.0f} s", soft_wrap=True )
  err = Console( stderr=True, highlight=False, markup=False )
  for warning in report.warnings:
    err.print( f"warning: {warning}", soft_wrap=True )
