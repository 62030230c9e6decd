"""The command line: `npu run`, `compile`, `info`, `disasm`, `compare`, `random-model`."""

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from npu.checkpoint import MODELS_DIR, find_model, read_config
from npu.compiler import compile_model
from npu.config import DEFAULT_CONFIG, LINE_BYTES, get_config
from npu.errors import NpuError
from npu.image import Image, load_image
from npu.isa import INSTRUCTION_BYTES, Status, decode, disassemble
from npu.program import DEFAULT_PRECISION
from npu.runtime import Generation, Sampling, Session, TextCodec, check_level, output_path
from translation import commands

app = typer.Typer( help="The open NPU: compile and run Qwen2 checkpoints.", no_args_is_help=True,
                   pretty_exceptions_enable=False, add_completion=False )
messages = Console( stderr=True, highlight=False )

ModelArg     = Annotated[str, typer.Argument( metavar="MODEL", help="Checkpoint folder, or tiny or nano." )]
ConfigOpt    = Annotated[str, typer.Option( "--config", help="edge4, edge8 or edge16." )]
PrecisionOpt = Annotated[str, typer.Option( help="w8a16, w16a16, w8a8, w4a16 or bf16." )]
LevelOpt     = Annotated[str, typer.Option( help="Level to simulate at: fl." )]
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
def open_image( model: str, image: Path | None, config: str, precision: str, context: int | None,
                pass_rows: int | None = None ) -> Iterator[Image]:
  """The given image, or one compiled into a temporary folder that is removed afterwards."""
  if image:
    yield load_image( image )
    return
  with tempfile.TemporaryDirectory( prefix="npu-" ) as folder, progress_bar( f"compiling {model}" ) as progress:
    path = Path( folder ) / "image.npu"
    compile_model( model, path, get_config( config ), precision, context, pass_rows, progress )
    loaded = load_image( path )
    path.unlink()        # the mapping keeps the data; nothing stays behind if we are killed
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

def run_report( session: Session, text: str, done: Generation, level: str ) -> dict[str, Any]:
  """The JSON of `npu run`."""
  c = session.npu.counters
  return { "model": session.manifest["model"], "precision": session.manifest["precision"],
           "config": session.cfg.name, "level": level, "prompt_tokens": len( done.prompt_tokens ),
           "prompt_token_ids": done.prompt_tokens, "tokens": done.tokens, "text": text,
           "status": done.status.name.lower(), "cycles": None, "macs": c.macs,
           "dram_bytes_read": c.dram_bytes_read, "dram_bytes_written": c.dram_bytes_written,
           "instructions": c.instructions, "wall_seconds": round( done.wall_seconds, 3 ),
           "first_token_seconds": round( done.first_token_seconds, 3 ) }

STATUS_TEXT = { Status.EOS: "the model ended its text", Status.LIMIT: "token limit reached",
                Status.CONTEXT: "the context is full" }

@app.command()
def run( model: ModelArg = "tiny",
         prompt: Annotated[str, typer.Option( help="Text to continue." )] = "In the beginning",
         max_new_tokens: Annotated[int, typer.Option( help="Tokens to produce at most." )] = 64,
         precision: PrecisionOpt = DEFAULT_PRECISION, config: ConfigOpt = DEFAULT_CONFIG, level: LevelOpt = "fl",
         temperature: Annotated[float, typer.Option( help="0 is greedy, on the NPU; else the host samples." )] = 0.0,
         top_k: Annotated[int, typer.Option( help="Sample from the k likeliest tokens; 0: all." )] = 0,
         top_p: Annotated[float, typer.Option( help="Sample from the likeliest tokens of this total." )] = 1.0,
         seed: Annotated[int, typer.Option( help="Seed of the sampling." )] = 0,
         context: ContextOpt = None,
         pass_rows: PassRowsOpt = None,
         ignore_eos: Annotated[bool, typer.Option( "--ignore-eos", help="Go on after the end of the text." )] = False,
         image: ImageOpt = None, json_file: JsonOpt = None ) -> None:
  """Generate text with a model on the NPU."""
  check_json( json_file )
  check_level( level )
  sampling = Sampling( temperature, top_k, top_p, seed )
  codec    = TextCodec( model )
  tokens   = codec.encode( prompt )
  with open_image( model, image, config, precision, context, pass_rows ) as loaded:
    session = Session( loaded, level )
  check_same_model( model, session )
  session.check_prompt( tokens, max_new_tokens )
  show, push, shown = json_file != "-", codec.stream(), 0

  def on_token( token: int ) -> None:
    nonlocal shown
    text   = push( token )
    shown += len( text )
    if show:
      sys.stdout.write( text )
      sys.stdout.flush()

  if show:
    sys.stdout.write( prompt )
    sys.stdout.flush()
  done = session.generate( tokens, max_new_tokens, sampling, not ignore_eos, on_token )
  text = codec.decode( done.tokens )
  report = run_report( session, text, done, level )
  if show:
    sys.stdout.write( text[shown:] + "\n" )     # the start of a character that never came to its end
    sys.stdout.flush()
    print_summary( session, done, report )
  if json_file is not None:
    write_json( json_file, report )

def check_same_model( model: str, session: Session ) -> None:
  """NpuError if an image given with --image is not of MODEL."""
  dims, found = asdict( read_config( find_model( model ) ) ), session.manifest["dimensions"]
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
      ( "NPU", f"{report['config']} (n = {session.cfg.n}), {report['precision']}, level {report['level']}" ),
      ( "tokens", f"{report['prompt_tokens']} in, {len( done.tokens )} out; {STATUS_TEXT[done.status]}" ),
      ( "work", f"{report['macs']:,} MACs, {report['dram_bytes_read']:,} bytes read, "
                f"{report['dram_bytes_written']:,} written" ),
      ( "time", f"{done.first_token_seconds:.2f} s to the first token, then "
                f"{done.decode_rate:.1f} tokens/s of simulation" ) ):
    table.add_row( f"[dim]{name}[/dim]", escape( value ) )
  messages.print()
  messages.print( table, soft_wrap=True )

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
  from npu.compare import Reference, compare as compare_models
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
    session = Session( loaded )
  check_same_model( model, session )
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
  from npu.random_model import write_random_model
  try:
    with progress_bar( f"writing {directory}" ) as progress:
      write_random_model( directory, like, seed, progress )
  except ( ValueError, FileExistsError ) as e:
    raise NpuError( str( e ) ) from None
  except OSError as e:
    raise NpuError( f"cannot write {directory}: {e.strerror}" ) from None

app.command()( commands.translate )
app.command()( commands.synth )

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
