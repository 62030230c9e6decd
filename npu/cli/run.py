"""The commands that make a model run: `npu run`, `npu compile`, `npu random-model`."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

import npu
from npu.cli.options import (
  DEFAULT_CONFIG,
  DEFAULT_MODEL,
  DEFAULT_PRECISION,
  DEFAULT_PROMPT,
  SHAPES,
  BandwidthOpt,
  ConfigOpt,
  ContextOpt,
  EosOpt,
  HangOpt,
  ImageOpt,
  JsonOpt,
  LatencyOpt,
  LevelOpt,
  LevelsOpt,
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
  or_,
)
from npu.cli.output import messages, progress_bar, progress_line, refuse_without_clock, rows_table, wants_line
from npu.files import STDOUT, check_json, output_path, write_json

if TYPE_CHECKING:
  from npu.runtime.progress import ProgressLine

def run( model: ModelArg = DEFAULT_MODEL, prompt: PromptOpt = DEFAULT_PROMPT, max_new_tokens: TokensOpt = 64,
         precision: PrecisionOpt = DEFAULT_PRECISION, config: ConfigOpt = DEFAULT_CONFIG, level: LevelOpt = None,
         levels: LevelsOpt = None,
         temperature: Annotated[float, typer.Option( help="0 is greedy, on the NPU; else the host samples." )] = 0.0,
         top_k: Annotated[int, typer.Option( help="Sample from the k likeliest tokens; 0: all." )] = 0,
         top_p: Annotated[float, typer.Option( help="Sample from the likeliest tokens of this total." )] = 1.0,
         seed: Annotated[int, typer.Option( help="Seed of the sampling." )] = 0,
         context: ContextOpt = None, pass_rows: PassRowsOpt = None, ignore_eos: EosOpt = False,
         image: ImageOpt = None, no_cache: NoCacheOpt = False, json_file: JsonOpt = None,
         progress: ProgressOpt = None,
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
  from npu.machine.levels import choose_levels
  from npu.runtime.device import check_prompt
  check_json( json_file )
  chosen = choose_levels( level, levels )
  if chosen is None:
    refuse_without_clock( { "--progress": progress or None, "--line-trace": line_trace or None, "--vcd": vcd,
                            "--max-cycles": max_cycles, "--hang-cycles": hang_cycles,
                            "--dram-latency": dram_latency, "--dram-bandwidth": dram_bandwidth,
                            "--stall-seed": stall_seed } )
  options  = npu.SimOptions( dram_latency, dram_bandwidth, stall_seed, max_cycles, hang_cycles,
                             None if vcd is None else output_path( vcd ), write_trace if line_trace else None )
  sampling = npu.Sampling( temperature, top_k, top_p, seed )
  codec    = npu.TextCodec( model )
  tokens   = codec.encode( prompt )
  show     = json_file != STDOUT
  with ExitStack() as stack:
    loaded = open_with_bar( model, image, precision, config, context, pass_rows, no_cache )
    # Before a machine is built, which may take a minute.
    check_prompt( loaded.manifest, tokens, max_new_tokens )
    session = stack.enter_context( npu.Session( loaded, level=level, levels=levels, options=options,
                                                tokenizer=codec ) )
    line   = progress_line( session.plan( tokens, max_new_tokens, sampling ), prompt if show else "" ) \
             if chosen and wants_line( progress, line_trace ) else None
    # What the line shows on the same terminal is written when the line is gone.
    held   = line is not None and messages.is_terminal and sys.stdout.isatty()
    out    = TextOutput( prompt, show, show and not held, line )
    with simulation_report( out ) if chosen else nullcontext(), line or nullcontext():
      for piece in session.generate( tokens, max_new_tokens, sampling, stop_at_eos=not ignore_eos, on_progress=line ):
        out.write( piece )
    out.finish()
    report, about = session.report(), session.rows()
  if show:
    messages.print()
    messages.print( rows_table( about + report.rows() ), soft_wrap=True )
  if json_file is not None:
    write_json( json_file, report.to_json() )

def open_with_bar( model: str, image: Path | None, precision: str, config: str, context: int | None,
                   pass_rows: int | None = None, no_cache: bool = False ) -> "npu.Image":
  """The given image of the model, or one that is kept, or compiled behind a bar."""
  from npu.runtime.images import open_image
  with progress_bar( f"compiling {model}" ) if image is None else nullcontext() as bar:
    return open_image( model, image, precision=precision, config=config, context=context, pass_rows=pass_rows,
                       progress=bar, cache=not no_cache )

@contextmanager
def file_with_bar( model: str, image: Path | None, precision: str, config: str, context: int | None,
                   pass_rows: int | None, no_cache: bool = False ) -> Iterator[Path]:
  """The same as a file, for those who load it more than once."""
  from npu.runtime.images import image_file
  with ExitStack() as stack:
    with progress_bar( f"compiling {model}" ) if image is None else nullcontext() as bar:
      path = stack.enter_context( image_file( model, image, precision=precision, config=config, context=context,
                                              pass_rows=pass_rows, progress=bar, cache=not no_cache ) )
    yield path

def write_trace( line: str ) -> None:
  """A line of --line-trace."""
  sys.stderr.write( line + "\n" )

@contextmanager
def simulation_report( out: "TextOutput" ) -> Iterator[None]:
  """A simulation that is ended from outside is told in several lines, below the text so far; the exit code is 1."""
  try:
    yield
  except npu.SimulationError as e:
    out.finish()
    messages.print( "error: " + "\n  ".join( str( e ).split( "; " ) ), markup=False, soft_wrap=True )
    raise typer.Exit( 1 ) from None

class TextOutput:
  """Writes prompt and text to standard output as they come, or at the end.

  Parameters
  ----------
  show
    Whether to write at all.
  live
    Whether to write before the end.
  line
    Gets the text as well.
  """

  def __init__( self, prompt: str, show: bool, live: bool, line: "ProgressLine | None" ) -> None:
    self._show, self._live, self._line = show, live, line
    self._late = "" if live else prompt
    if live:
      self._out( prompt )

  def _out( self, text: str ) -> None:
    sys.stdout.write( text )
    sys.stdout.flush()

  def write( self, text: str ) -> None:
    """The next piece of text."""
    if self._live:
      self._out( text )
    else:
      self._late += text
    if self._line:
      self._line.add_text( text )

  def finish( self ) -> None:
    """No more text comes."""
    if self._show:
      self._out( self._late + "\n" )

def compile_( model: ModelArg,
              output: Annotated[Path, typer.Option( "-o", "--output", help="Image file to write." )],
              precision: PrecisionOpt = DEFAULT_PRECISION, config: ConfigOpt = DEFAULT_CONFIG,
              context: ContextOpt = None, pass_rows: PassRowsOpt = None ) -> None:
  """Compile a checkpoint to an image file."""
  path = output_path( output )
  with progress_bar( f"compiling {model}" ) as progress:
    image = npu.compile( model, path, precision=precision, config=config, context=context, pass_rows=pass_rows,
                         progress=progress )
  m      = image.manifest
  stored = sum( r["size"] for r in m["regions"] if r["stored"] )
  messages.print( f"{escape( str( path ) )}: {stored:,} bytes stored, {image.dram.size:,} bytes of "
                  f"DRAM, {m['instructions']} instructions, up to {m['pass_rows']} rows a pass", soft_wrap=True )

def random_model( directory: Annotated[Path, typer.Argument( help="Folder to make." )],
                  like: Annotated[str, typer.Option( help=f"{or_( SHAPES )}.", autocompletion=among( SHAPES ) )],
                  seed: Annotated[int, typer.Option( help="Seed of the weights." )] = 0 ) -> None:
  """Write a random checkpoint of real dimensions, with a working tokenizer."""
  with progress_bar( f"writing {directory}" ) as progress:
    npu.random_model( directory, like, seed, progress )
