"""The command line: `npu run`, `diff`, `compile`, `info`, `disasm`, `compare`, `random-model`, `translate`, `synth`."""

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from npu.arch.config import DEFAULT_CONFIG, LINE_BYTES, get_config
from npu.arch.isa import INSTRUCTION_BYTES, Status, decode, disassemble
from npu.arch.mailbox import Flag
from npu.cli import hardware
from npu.compiler.build import compile_model
from npu.compiler.checkpoint import MODELS_DIR, find_model, read_config
from npu.compiler.image import Image, load_image
from npu.compiler.program import DEFAULT_PRECISION
from npu.errors import NpuError
from npu.runtime.progress import Pace, ProgressLine
from npu.runtime.session import (
  LEVELS,
  Generation,
  Sampling,
  Session,
  SimOptions,
  TextCodec,
  check_prompt,
  level_name,
  output_path,
  parse_levels,
)
from npu.tools.diff import Report, compare_levels

app = typer.Typer( help="The open NPU: compile and run Qwen2 checkpoints, at the levels fl, cl, rtl and verilog.",
                   no_args_is_help=True,
                   pretty_exceptions_enable=False, add_completion=False )
messages = Console( stderr=True, highlight=False )

ModelArg     = Annotated[str, typer.Argument( metavar="MODEL", help="Checkpoint folder, or tiny or nano." )]
ConfigOpt    = Annotated[str, typer.Option( "--config", help="edge4, edge8 or edge16." )]
PrecisionOpt = Annotated[str, typer.Option( help="w8a16, w16a16, w8a8, w4a16 or bf16." )]
PromptOpt    = Annotated[str, typer.Option( help="Text to continue." )]
LevelOpt     = Annotated[str | None, typer.Option(
  help="Level of all blocks: fl (default, without cycles), cl, rtl or verilog." )]
LevelsOpt    = Annotated[str | None, typer.Option(
  metavar="BLOCK=LEVEL,...", help="Levels of blocks; the others have --level's, or cl." )]
ProgressOpt  = Annotated[bool | None, typer.Option(
  "--progress/--no-progress", help="Whether to show how far it is, at levels with cycles (default: on a terminal)." )]
LatencyOpt   = Annotated[int | None, typer.Option( help="Cycles from a memory request to its first beat." )]
BandwidthOpt = Annotated[float | None, typer.Option( help="Beats per cycle that memory moves, at most 1." )]
StallOpt     = Annotated[int | None, typer.Option( "--stall-seed",
                                                   help="Random stalls of memory; results stay the same." )]
MaxCyclesOpt = Annotated[int | None, typer.Option( help="End after so many cycles, with what each unit waits for." )]
HangOpt      = Annotated[int | None, typer.Option(
  "--hang-cycles", help="End when nothing has moved for so many cycles (default: 20,000 and ten latencies)." )]
JsonOpt      = Annotated[str | None, typer.Option( "--json", metavar="FILE",
                                                   help="Write the results as JSON; - is standard output." )]
ContextOpt   = Annotated[int | None, typer.Option(
  help="Positions to provide for (default: the model's own, up to 4096)." )]
PassRowsOpt  = Annotated[int | None, typer.Option( help="Prompt rows per pass (default: as many as fit)." )]
ImageOpt     = Annotated[Path | None, typer.Option( "--image", metavar="FILE",
                                                    help="Use this image of MODEL instead of compiling." )]

@contextmanager
def progress_bar( what: str ) -> Iterator[Callable[[int, int], None]]:
  """A bar on the terminal's standard error, gone when the work is done; silent elsewhere."""
  columns = ( TextColumn( "{task.description}" ), BarColumn(), TaskProgressColumn(), TimeRemainingColumn() )
  with Progress( *columns, console=messages, transient=True, disable=not messages.is_terminal ) as bar:
    task = bar.add_task( escape( what ), total=None )
    yield lambda done, total: bar.update( task, completed=done, total=total )

@contextmanager
def image_file( model: str, image: Path | None, config: str, precision: str, context: int | None,
                pass_rows: int | None = None ) -> Iterator[Path]:
  """The given image, or one compiled into a temporary folder that is removed afterwards."""
  if image:
    yield image
    return
  with tempfile.TemporaryDirectory( prefix="npu-" ) as folder:
    path = Path( folder ) / "image.npu"
    with progress_bar( f"compiling {model}" ) as progress:
      compile_model( model, path, get_config( config ), precision, context, pass_rows, progress )
    yield path

@contextmanager
def open_image( model: str, image: Path | None, config: str, precision: str, context: int | None,
                pass_rows: int | None = None ) -> Iterator[Image]:
  """The same, loaded."""
  with image_file( model, image, config, precision, context, pass_rows ) as path:
    loaded = load_image( path )
    if not image:
      path.unlink()      # the mapping keeps the data; nothing stays behind if we are killed
    yield loaded

def write_json( target: str, data: dict[str, Any] ) -> None:
  """Write JSON to a file, whole or not at all, or to standard output."""
  text = json.dumps( data, indent=2 ) + "\n"
  if target == "-":
    sys.stdout.write( text )
    sys.stdout.flush()
    return
  path = Path( target )
  part = path.with_name( f".{path.name}.{os.getpid()}.part" )
  try:
    part.write_text( text )
    part.replace( path )
  except OSError as e:
    raise NpuError( f"cannot write {path}: {e.strerror}" ) from None
  finally:
    with suppress( OSError ):
      part.unlink()

def check_json( target: str | None ) -> None:
  """Refuse a JSON target that cannot be written before any work is done."""
  if target is not None and target != "-":
    output_path( target )

def run_report( session: Session, text: str, done: Generation ) -> dict[str, Any]:
  """The JSON of `npu run`. What only a clock can tell is null at the functional level."""
  c = session.counters
  return { "model": session.manifest["model"], "precision": session.manifest["precision"],
           "config": session.cfg.name, "level": level_name( session.levels ), "levels": session.levels,
           "prompt_tokens": len( done.prompt_tokens ),
           "prompt_token_ids": done.prompt_tokens, "tokens": done.tokens, "text": text,
           "status": done.status.name.lower(), **cycle_report( session ), "macs": c.macs,
           "dram_bytes_read": c.dram_bytes_read.total(), "dram_bytes_written": c.dram_bytes_written.total(),
           "dram_bytes_read_by": c.dram_bytes_read, "dram_bytes_written_by": c.dram_bytes_written,
           "instructions": c.instructions, "wall_seconds": round( done.wall_seconds, 3 ),
           "first_token_seconds": round( done.first_token_seconds, 3 ) }

CYCLE_KEYS = ( "cycles", "prefill_cycles", "decode_cycles", "mac_utilization", "busy_cycles", "stall_cycles",
               "dispatch_wait_cycles" )

def cycle_report( session: Session ) -> dict[str, Any]:
  """The part of the JSON that a clock tells: cycles, and where they went."""
  s = session.stats
  if s is None:
    return dict.fromkeys( CYCLE_KEYS )
  values = ( s.cycles, s.prefill_cycles, s.decode_cycles, round( s.mac_utilization, 6 ),
             { name: u.busy for name, u in s.units.items() },
             { name: dict( sorted( u.stalls.items() ) ) for name, u in s.units.items() },
             s.dispatch_waits )
  return dict( zip( CYCLE_KEYS, values, strict=True ) )

STATUS_TEXT = { Status.EOS: "the model ended its text", Status.LIMIT: "token limit reached",
                Status.CONTEXT: "the context is full" }

@app.command()
def run( model: ModelArg = "tiny", prompt: PromptOpt = "In the beginning",
         max_new_tokens: Annotated[int, typer.Option( help="Tokens to produce at most." )] = 64,
         precision: PrecisionOpt = DEFAULT_PRECISION, config: ConfigOpt = DEFAULT_CONFIG, level: LevelOpt = None,
         levels: LevelsOpt = None,
         temperature: Annotated[float, typer.Option( help="0 is greedy, on the NPU; else the host samples." )] = 0.0,
         top_k: Annotated[int, typer.Option( help="Sample from the k likeliest tokens; 0: all." )] = 0,
         top_p: Annotated[float, typer.Option( help="Sample from the likeliest tokens of this total." )] = 1.0,
         seed: Annotated[int, typer.Option( help="Seed of the sampling." )] = 0,
         context: ContextOpt = None,
         pass_rows: PassRowsOpt = None,
         ignore_eos: Annotated[bool, typer.Option( "--ignore-eos", help="Go on after the end of the text." )] = False,
         image: ImageOpt = None, json_file: JsonOpt = None, progress: ProgressOpt = None,
         line_trace: Annotated[bool, typer.Option(
           "--line-trace", help="Write a line per cycle to standard error." )] = False,
         vcd: Annotated[str | None, typer.Option(
           metavar="FILE", help="Write waveforms; the inside of Verilated blocks goes to files beside it." )] = None,
         max_cycles: MaxCyclesOpt = None, hang_cycles: HangOpt = None, dram_latency: LatencyOpt = None,
         dram_bandwidth: BandwidthOpt = None, stall_seed: StallOpt = None ) -> None:
  """Generate text with a model on the NPU.

  At the level fl results come without cycles. At cl, rtl and verilog, and
  in any mix of them, they are the same, with the cycles that they take;
  the options from --progress on are for these levels.
  """
  check_json( json_file )
  chosen = chosen_levels( level, levels )
  if chosen is None:
    refuse_without_clock( { "--progress": progress or None, "--line-trace": line_trace or None, "--vcd": vcd,
                            "--max-cycles": max_cycles, "--hang-cycles": hang_cycles,
                            "--dram-latency": dram_latency, "--dram-bandwidth": dram_bandwidth,
                            "--stall-seed": stall_seed } )
  options  = SimOptions( dram_latency, dram_bandwidth, stall_seed, max_cycles, hang_cycles,
                         None if vcd is None else output_path( vcd ), write_trace if line_trace else None )
  sampling = Sampling( temperature, top_k, top_p, seed )
  codec    = TextCodec( model )
  tokens   = codec.encode( prompt )
  show     = json_file != "-"
  with ExitStack() as stack:
    with open_image( model, image, config, precision, context, pass_rows ) as loaded:
      check_same_model( model, loaded )
      check_prompt( loaded.manifest, tokens, max_new_tokens )
      session = stack.enter_context( Session( loaded, chosen, options ) )
    line   = mk_line( session, tokens, max_new_tokens, sampling, prompt if show else "" ) \
             if chosen and wants_line( progress, line_trace ) else None
    # What the line shows on the same terminal is written when the line is gone.
    held   = line is not None and messages.is_terminal and sys.stdout.isatty()
    stream = TextStream( codec, prompt, show, show and not held, line )
    with simulation_report( stream ) if chosen else nullcontext(), line or nullcontext():
      done = session.generate( tokens, max_new_tokens, sampling, not ignore_eos, stream.push, line )
    stream.finish()
    report = run_report( session, codec.decode( done.tokens ), done )
  if show:
    print_summary( session, done, report )
  if json_file is not None:
    write_json( json_file, report )

def chosen_levels( level: str | None, levels: str | None ) -> dict[str, str] | None:
  """What --level and --levels say together; None is the functional NPU."""
  if levels is None:
    text = "fl" if level is None else level
  else:
    text = f"{'cl' if level is None else level},{levels}"
  if level is not None and level not in LEVELS:
    raise NpuError( f"unknown level '{level}'; choose one of {', '.join( LEVELS )}" )
  return parse_levels( text, "--levels" )

def refuse_without_clock( options: dict[str, object | None] ) -> None:
  """NpuError if one of the options is given, which the functional level has no use for."""
  for name, value in options.items():
    if value is not None:
      raise NpuError( f"{name} needs a level with cycles, such as cl" )

def write_trace( line: str ) -> None:
  """A line of --line-trace."""
  sys.stderr.write( line + "\n" )

def wants_line( progress: bool | None, other_output: bool = False ) -> bool:
  """Whether to show how far a simulation is; by default on a terminal that shows nothing else."""
  return messages.is_terminal and not other_output if progress is None else progress

def mk_line( session: Session, tokens: list[int], limit: int, sampling: Sampling, text: str ) -> ProgressLine:
  """The line for `Session.generate` with these arguments."""
  session.load_prompt( tokens )
  return ProgressLine( messages, Pace( session.plan( limit, Flag.LOGITS if sampling.temperature else 0 ) ), text )

@contextmanager
def simulation_report( stream: "TextStream" ) -> Iterator[None]:
  """A simulation that is ended from outside is told in several lines, below the text so far; the exit code is 1."""
  from npu.machine.npu import SimulationError
  try:
    yield
  except SimulationError as e:
    stream.finish()
    messages.print( "error: " + "\n  ".join( str( e ).split( "; " ) ), markup=False, soft_wrap=True )
    raise typer.Exit( 1 ) from None

class TextStream:
  """Writes prompt and text to standard output as tokens come, or at the end.

  Parameters
  ----------
  show
    Whether to write at all.
  live
    Whether to write before the end.
  line
    Gets the text as well.
  """

  def __init__( self, codec: TextCodec, prompt: str, show: bool, live: bool, line: ProgressLine | None ) -> None:
    self._codec, self._show, self._live, self._line = codec, show, live, line
    self._new    = codec.stream()
    self._tokens: list[int] = []
    self._shown  = 0
    self._late   = "" if live else prompt
    if live:
      self._write( prompt )

  def _write( self, text: str ) -> None:
    sys.stdout.write( text )
    sys.stdout.flush()

  def push( self, token: int ) -> None:
    """The next token."""
    self._tokens.append( token )
    text = self._new( token )
    self._shown += len( text )
    if self._live:
      self._write( text )
    else:
      self._late += text
    if self._line:
      self._line.add_text( text )

  def finish( self ) -> None:
    """No more tokens come: the start of a character that never came to its end is written too."""
    if self._show:
      self._write( self._late + self._codec.decode( self._tokens )[self._shown :] + "\n" )

MIX_HELP = "Level of all blocks, fl, cl, rtl or verilog, or BLOCK=LEVEL,... with cl for the others."

@app.command()
def diff( model: ModelArg = "tiny", prompt: PromptOpt = "In the beginning",
          a: Annotated[str, typer.Option( metavar="LEVELS", help=MIX_HELP )] = "fl",
          b: Annotated[str, typer.Option( metavar="LEVELS", help="The same, of the other NPU." )] = "cl",
          max_new_tokens: Annotated[int, typer.Option( help="Tokens to produce at most." )] = 4,
          precision: PrecisionOpt = DEFAULT_PRECISION, config: ConfigOpt = DEFAULT_CONFIG,
          context: ContextOpt = None, pass_rows: PassRowsOpt = None,
          ignore_eos: Annotated[bool, typer.Option( "--ignore-eos", help="Go on after the end of the text." )] = False,
          image: ImageOpt = None, json_file: JsonOpt = None, progress: ProgressOpt = None,
          max_cycles: MaxCyclesOpt = None, hang_cycles: HangOpt = None, dram_latency: LatencyOpt = None,
          dram_bandwidth: BandwidthOpt = None, stall_seed: StallOpt = None ) -> None:
  """Run two mixes of levels and name the first instruction whose result differs.

  What every instruction writes is compared, in the order of the program:
  scratchpad rows, memory, tokens. If nothing differs, the exit code is 0;
  otherwise both values are shown, and it is 1.

  npu diff --a fl --b mac_array=rtl nano --config edge4
  """
  check_json( json_file )
  levels = parse_levels( a, "--a" ), parse_levels( b, "--b" )
  if levels == ( None, None ):
    refuse_without_clock( { "--progress": progress or None, "--max-cycles": max_cycles, "--hang-cycles": hang_cycles,
                            "--dram-latency": dram_latency, "--dram-bandwidth": dram_bandwidth,
                            "--stall-seed": stall_seed } )
  options = SimOptions( dram_latency, dram_bandwidth, stall_seed, max_cycles, hang_cycles )
  tokens  = TextCodec( model ).encode( prompt )

  @contextmanager
  def watching( session: Session, name: str ) -> Iterator[ProgressLine | None]:
    if not wants_line( progress ):
      yield None
      return
    with ProgressLine( messages, Pace( session.plan( max_new_tokens ) ), title=f"{name}: " ) as line:
      yield line

  with image_file( model, image, config, precision, context, pass_rows ) as path:
    check_same_model( model, load_image( path ) )
    report = compare_levels( lambda: load_image( path ), *levels, tokens, max_new_tokens, not ignore_eos, options,
                             watching )
  if json_file is not None:
    write_json( json_file, diff_report( report, a, b ) )
  if json_file != "-":
    out = Console( highlight=False, markup=False )
    for line in diff_lines( report, a, b ):
      out.print( line, soft_wrap=True )
  if report.difference:
    raise typer.Exit( 1 )

def diff_lines( report: Report, a: str, b: str ) -> Iterator[str]:
  """What `npu diff` prints."""
  if report.difference:
    yield from report.difference.lines( ( a, b ) )
    return
  yield f"no difference: {report.instructions:,} instructions compared; both end with {report.ends[0]}"
  for label, name, cycles in ( ( "a", a, report.cycles[0] ), ( "b", b, report.cycles[1] ) ):
    yield f"  {label} {name}: " + ( "without cycles" if cycles is None else f"{cycles:,} cycles" )

def diff_report( report: Report, a: str, b: str ) -> dict[str, Any]:
  """The JSON of `npu diff`."""
  d = report.difference
  found = None if d is None else {
    "instruction": d.effect and d.effect.pc, "text": d.effect and disassemble( d.effect.instruction ),
    "position": d.effect and d.effect.pos, "rows": d.effect and d.effect.rows, "where": d.where, "a": d.a, "b": d.b,
    "note": d.note }
  return { "a": a, "b": b, "same": d is None, "instructions": report.instructions, "difference": found,
           "ends": list( report.ends ), "tokens": list( report.tokens ), "cycles": list( report.cycles ) }

def check_same_model( model: str, image: Image ) -> None:
  """NpuError if an image given with --image is not of MODEL."""
  dims, found = asdict( read_config( find_model( model ) ) ), image.manifest["dimensions"]
  for name, value in dims.items():
    if name != "eos_tokens" and found[name] != value:
      raise NpuError( f"the image is of another model than {model}: its {name} is {found[name]}, not {value}" )

def print_summary( session: Session, done: Generation, report: dict[str, Any] ) -> None:
  """A few lines on what ran, on standard error."""
  d     = session.manifest["dimensions"]
  table = Table( box=None, show_header=False, pad_edge=False )
  for name, value in (
      ( "model", f"{report['model']}: {d['layers']} layers, hidden {d['hidden_size']}, {d['heads']} heads, "
                 f"{d['kv_heads']} KV heads, vocabulary {d['vocab_size']}" ),
      ( "NPU", f"{report['config']} (n = {session.cfg.n}), {report['precision']}, "
              f"{levels_text( session )}" ),
      ( "tokens", f"{report['prompt_tokens']} in, {len( done.tokens )} out; {STATUS_TEXT[done.status]}" ),
      ( "work", f"{report['macs']:,} MACs, {report['dram_bytes_read']:,} bytes read, "
                f"{report['dram_bytes_written']:,} written" ),
      *cycle_summary( session ),
      ( "time", time_summary( session, done ) ) ):
    table.add_row( f"[dim]{name}[/dim]", escape( value ) )
  messages.print()
  messages.print( table, soft_wrap=True )

def levels_text( session: Session ) -> str:
  """The level of all blocks, or that of most and the others."""
  found = list( ( session.levels or { "": "fl" } ).items() )
  most  = max( dict( found ).values(), key=[ level for _, level in found ].count )
  return ", ".join( [ f"level {most}", *( f"{name} {level}" for name, level in found if level != most ) ] )

def cycle_summary( session: Session ) -> list[tuple[str, str]]:
  """Cycles, if there is a clock."""
  s = session.stats
  if s is None:
    return []
  decode = s.decode_cycles
  each   = f", then {sum( decode ) / len( decode ):,.0f} a token" if decode else ""
  timeless = [ name for name, level in ( session.levels or {} ).items() if level == "fl" ]
  note     = f" (not the hardware's: {', '.join( timeless )} at fl)" if timeless else ""
  return [ ( "cycles", f"{s.cycles:,}: {s.prefill_cycles:,} to the first token{each}; "
                       f"{100 * s.mac_utilization:.1f} % of the multipliers used{note}" ) ]

def time_summary( session: Session, done: Generation ) -> str:
  """Seconds of simulation."""
  if session.stats is None:
    return f"{done.first_token_seconds:.2f} s to the first token, then {done.decode_rate:.1f} tokens/s of simulation"
  rate = session.stats.cycles / max( done.wall_seconds, 1e-9 )
  return f"{done.wall_seconds:.2f} s of simulation, {rate:,.0f} cycles/s"

@app.command( "compile" )
def compile_command( model: Annotated[str, typer.Argument( help="Checkpoint folder, or tiny or nano." )],
                     output: Annotated[Path, typer.Option( "-o", "--output", help="Image file to write." )],
                     precision: PrecisionOpt = DEFAULT_PRECISION, config: ConfigOpt = DEFAULT_CONFIG,
                     context: ContextOpt = None,
                     pass_rows: PassRowsOpt = None ) -> None:
  """Compile a checkpoint to an image file."""
  path = output_path( str( output ) )
  with progress_bar( f"compiling {model}" ) as progress:
    program = compile_model( model, path, get_config( config ), precision, context, pass_rows, progress )
  stored = sum( r.size for r in program.memory.regions.values() if r.stored )
  messages.print( f"{escape( str( path ) )}: {stored:,} bytes stored, {program.memory.lines * LINE_BYTES:,} bytes of "
                  f"DRAM, {len( program.instructions )} instructions, up to {program.spad.pass_rows} rows a pass",
                  soft_wrap=True )

def region_rows( manifest: dict[str, Any] ) -> list[tuple[str, int, int, int, bool]]:
  """(name, regions, first line, bytes, stored), regions of the same kind in all layers as one row."""
  kinds: dict[str, tuple[str, int, int, int, bool]] = {}
  for r in manifest["regions"]:
    kind = ".".join( "*" if p.isdigit() else p for p in r["name"].split( "." ) )
    _, count, line, size, stored = kinds.get( kind, ( kind, 0, r["line"], 0, r["stored"] ) )
    kinds[kind] = ( kind, count + 1, line, size + r["size"], stored )
  return list( kinds.values() )

@app.command()
def info( image: Annotated[Path, typer.Argument( help="Image file." )], json_file: JsonOpt = None ) -> None:
  """Show what is in an image: model, regions, sizes, program length."""
  check_json( json_file )
  manifest = load_image( image ).manifest
  if json_file:
    write_json( json_file, manifest )
  if json_file == "-":
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

@app.command()
def disasm( image: Annotated[Path, typer.Argument( help="Image file." )] ) -> None:
  """Print an image's program, one instruction a line."""
  loaded = load_image( image )
  region = next( r for r in loaded.manifest["regions"] if r["name"] == "program" )
  data   = loaded.dram[region["line"] * LINE_BYTES :][: region["size"]].tobytes()
  for pc in range( len( data ) // INSTRUCTION_BYTES ):
    word = data[pc * INSTRUCTION_BYTES :][:INSTRUCTION_BYTES]
    sys.stdout.write( f"{pc:5d}  {disassemble( decode( word ) )}\n" )

@app.command()
def compare( model: ModelArg = "tiny", precision: PrecisionOpt = DEFAULT_PRECISION, config: ConfigOpt = DEFAULT_CONFIG,
             text: Annotated[Path | None, typer.Option(
               metavar="FILE", help="Text (default: the held-out text)." )] = None,
             tokens: Annotated[int, typer.Option( help="Tokens to compare on, from the start of the text." )] = 4096,
             context: ContextOpt = None, image: ImageOpt = None, json_file: JsonOpt = None ) -> None:
  """Compare with Hugging Face's float32 model, teacher-forced on the same tokens."""
  from npu.tools.compare import Reference, compare as compare_models
  check_json( json_file )
  if tokens < 2:
    raise NpuError( f"--tokens is {tokens}; choose 2 or more" )
  try:
    words = ( text or MODELS_DIR / "heldout.txt" ).read_text()
  except OSError as e:
    raise NpuError( f"cannot read {text}: {e.strerror}" ) from None
  except UnicodeDecodeError as e:
    raise NpuError( f"cannot read {text}: {e}" ) from None
  known = TextCodec( model ).encode( words )[:tokens]
  with open_image( model, image, config, precision, context ) as loaded:
    check_same_model( model, loaded )
    session = Session( loaded )
  reference = Reference( find_model( model ) )
  with progress_bar( f"comparing {len( known )} tokens" ) as progress:
    figures = compare_models( session, reference, known, session.context, progress ).summary()
  report = { "model": session.manifest["model"], "precision": session.manifest["precision"],
             "config": session.cfg.name, **figures }
  if json_file:
    write_json( json_file, report )
  if json_file != "-":
    print_comparison( report )

def print_comparison( r: dict[str, Any] ) -> None:
  """The figures of a comparison as a table."""
  table = Table( box=None, show_header=False, pad_edge=False )
  for name, value in (
      ( "model", f"{r['model']}, {r['precision']}, {r['config']}, {r['tokens']} tokens" ),
      ( "perplexity", f"{r['ppl_ref']:.4f} Hugging Face fp32, {r['ppl_npu']:.4f} NPU "
                      f"({r['ppl_change_percent']:+.3f} %)" ),
      ( "top-1 agreement", f"{r['top1']:.2f} %" ),
      ( "mean KL", f"{r['kl']:.3e} nats" ),
      ( "logit error", f"{r['max_abs']:.3e} largest, {r['rms']:.3e} rms" ) ):
    table.add_row( f"[dim]{name}[/dim]", escape( value ) )
  Console( highlight=False ).print( table, soft_wrap=True )

@app.command( "random-model" )
def random_model( directory: Annotated[Path, typer.Argument( help="Folder to make." )],
                  like: Annotated[str, typer.Option( help="qwen2-0.5b, qwen2-1.5b, tiny or nano." )],
                  seed: Annotated[int, typer.Option( help="Seed of the weights." )] = 0 ) -> None:
  """Write a random checkpoint of real dimensions, with a working tokenizer."""
  from npu.tools.random_model import write_random_model
  try:
    with progress_bar( f"writing {directory}" ) as progress:
      write_random_model( directory, like, seed, progress )
  except ( ValueError, FileExistsError ) as e:
    raise NpuError( str( e ) ) from None
  except OSError as e:
    raise NpuError( f"cannot write {directory}: {e.strerror}" ) from None

app.command()( hardware.translate )
app.command()( hardware.synth )

def main() -> None:
  """Entry point: a user's error is one line on standard error and exit code 2.

  A reader that goes away, as in `npu disasm X | head`, is no error; Typer ends the program silently.
  """
  try:
    sys.exit( app( standalone_mode=False, prog_name="npu" ) )
  except NpuError as e:
    fail( str( e ) )
  except typer.TyperException as e:
    if type( e ).__name__ == "NoArgsIsHelpError":
      e.show( file=sys.stdout )     # type: ignore[attr-defined]
      sys.exit( 0 )
    fail( e.format_message() )
  except OSError as e:
    # Files are handled where they are used; what is left is standard output.
    os.dup2( os.open( os.devnull, os.O_WRONLY ), sys.stdout.fileno() )
    fail( f"cannot write standard output: {e.strerror}" )
  except ( KeyboardInterrupt, typer.Abort ):
    sys.exit( 130 )

def fail( message: str ) -> None:
  """One line on standard error, exit code 2."""
  messages.print( f"error: {' '.join( message.split() )}", markup=False, soft_wrap=True )
  sys.exit( 2 )

if __name__ == "__main__":
  main()
