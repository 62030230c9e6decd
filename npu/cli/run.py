"""The commands that make a model run: `npu run`, `npu compile`, `npu random-model`."""

import os
import select
import stat
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

import npu
from npu.cli.options import (
  DEFAULT_CONFIG,
  DEFAULT_MODEL,
  DEFAULT_PRECISION,
  DEFAULT_PROMPT,
  SAMPLINGS,
  SHAPES,
  AnyPromptOpt,
  BandwidthOpt,
  ConfigOpt,
  ContextOpt,
  EosOpt,
  HangOpt,
  HeatOpt,
  ImageOpt,
  JsonOpt,
  LatencyOpt,
  LevelOpt,
  LevelsOpt,
  MaxCyclesOpt,
  MinPOpt,
  ModelArg,
  NoCacheOpt,
  PassRowsOpt,
  PenaltyOpt,
  PrecisionOpt,
  ProgressOpt,
  PromptFileOpt,
  SamplingOpt,
  SeedOpt,
  StallOpt,
  StopOpt,
  SystemOpt,
  TokensOpt,
  TopKOpt,
  TopPOpt,
  TraceOpt,
  VcdOpt,
  among,
  or_,
)
from npu.cli.output import messages, progress_bar, progress_line, refuse_without_clock, rows_table, wants_line
from npu.errors import NpuError
from npu.files import STDOUT, check_json, output_path, write_json

if TYPE_CHECKING:
  from npu.runtime.progress import ProgressLine

def run( model: ModelArg = DEFAULT_MODEL, prompt: AnyPromptOpt = None, prompt_file: PromptFileOpt = None,
         chat: Annotated[bool, typer.Option( "--chat", help="Take the prompt for a message to a chat model." )] = False,
         system: SystemOpt = None, max_new_tokens: TokensOpt = 64, precision: PrecisionOpt = DEFAULT_PRECISION,
         config: ConfigOpt = DEFAULT_CONFIG, level: LevelOpt = None, levels: LevelsOpt = None,
         temperature: HeatOpt = None, top_k: TopKOpt = None, top_p: TopPOpt = None, min_p: MinPOpt = None,
         repetition_penalty: PenaltyOpt = None, seed: SeedOpt = None, sampling: SamplingOpt = None,
         stop: StopOpt = None, context: ContextOpt = None, pass_rows: PassRowsOpt = None, ignore_eos: EosOpt = False,
         image: ImageOpt = None, no_cache: NoCacheOpt = False, json_file: JsonOpt = None,
         progress: ProgressOpt = None,
         line_trace: TraceOpt = False, vcd: VcdOpt = None, max_cycles: MaxCyclesOpt = None,
         hang_cycles: HangOpt = None, dram_latency: LatencyOpt = None, dram_bandwidth: BandwidthOpt = None,
         stall_seed: StallOpt = None ) -> None:
  """Generate text with a model on the NPU.

  At the level fl results come without cycles. At cl, rtl and verilog, and
  in any mix of them, they are the same, with the cycles that they take;
  the options from --progress on are for these levels.
  """
  from npu.machine.levels import choose_levels
  from npu.runtime.device import check_prompt
  from npu.runtime.text import StopTexts
  check_json( json_file )
  if system is not None and not chat:
    raise NpuError( "--system needs --chat" )
  chosen  = choose_levels( level, levels )
  options = sim_options( chosen is not None, progress, line_trace, vcd, max_cycles, hang_cycles, dram_latency,
                         dram_bandwidth, stall_seed )
  stops   = stop or []
  StopTexts( stops )
  codec   = npu.TextCodec( model )
  how     = mk_sampling( codec, sampling, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p,
                         repetition_penalty=repetition_penalty, seed=seed )
  text    = read_prompt( prompt, prompt_file )
  tokens, ends = one_turn( codec, system, text ) if chat else ( codec.encode( text ), [] )
  shown   = "" if chat else text
  show    = json_file != STDOUT
  with ExitStack() as stack:
    loaded = open_with_bar( model, image, precision, config, context, pass_rows, no_cache )
    # Before a machine is built, which may take a minute.
    check_prompt( loaded.manifest, tokens, max_new_tokens )
    session = stack.enter_context( npu.Session( loaded, level=level, levels=levels, options=options,
                                                tokenizer=codec ) )
    line   = progress_line( session.plan( tokens, max_new_tokens, how ), shown if show else "" ) \
             if chosen and wants_line( progress, line_trace ) else None
    out    = TextOutput( shown, show, line )
    with simulation_report( out ) if chosen else nullcontext(), line or nullcontext():
      for piece in session.generate( tokens, max_new_tokens, how, stop=stops, stop_at_eos=not ignore_eos,
                                     end_tokens=[] if ignore_eos else ends, on_progress=line ):
        out.write( piece )
    out.finish()
    report, about = session.report(), session.rows()
  if show:
    messages.print()
    messages.print( rows_table( about + report.rows() ), soft_wrap=True )
  if json_file is not None:
    write_json( json_file, report.to_json() )

def sim_options( clock: bool, progress: bool | None, line_trace: bool, vcd: str | None, max_cycles: int | None,
                 hang_cycles: int | None, dram_latency: int | None, dram_bandwidth: float | None,
                 stall_seed: int | None ) -> "npu.SimOptions":
  """The options of a level with cycles; NpuError if there is no clock and one of them is given."""
  if not clock:
    refuse_without_clock( { "--progress": progress or None, "--line-trace": line_trace or None, "--vcd": vcd,
                            "--max-cycles": max_cycles, "--hang-cycles": hang_cycles,
                            "--dram-latency": dram_latency, "--dram-bandwidth": dram_bandwidth,
                            "--stall-seed": stall_seed } )
  return npu.SimOptions( dram_latency, dram_bandwidth, stall_seed, max_cycles, hang_cycles,
                         None if vcd is None else output_path( vcd ), write_trace if line_trace else None )

def mk_sampling( codec: "npu.TextCodec", source: str | None, **given: float | None ) -> "npu.Sampling":
  """What the options of sampling say together; those that are None are not given."""
  changes: dict[str, Any] = { name: value for name, value in given.items() if value is not None }
  if source is None:
    return npu.Sampling( **changes )
  if source not in SAMPLINGS:
    raise NpuError( f"unknown sampling {source!r}; choose model, or leave it out" )
  return npu.Sampling.of_model( codec.model, **changes )

def one_turn( codec: "npu.TextCodec", system: str | None, text: str ) -> tuple[list[int], list[int]]:
  """The prompt for the answer to one message, and the tokens that end the answer."""
  from npu.runtime.chat import chat_template, chat_tokens, end_tokens, mk_messages, user
  template = chat_template( codec )
  return chat_tokens( codec, template, mk_messages( system, user( text ) ) ), end_tokens( codec, template )

#-------------------------------------------------------------------------
# Prompts
#-------------------------------------------------------------------------

STDIN = "-"      # as a prompt or its file: standard input

def read_prompt( prompt: str | None, file: str | None ) -> str:
  """The prompt: as it is given, from a file, from a pipe that has something to say, or the default.

  The new line at the end of a file is not part of it. NpuError if it cannot be read.
  """
  if prompt is not None and file is not None:
    raise NpuError( "--prompt and --prompt-file exclude each other" )
  if file is not None and file != STDIN:
    try:
      return prompt_text( Path( file ).read_bytes(), file )
    except OSError as e:
      raise NpuError( f"cannot read {file}: {e.strerror}" ) from None
  if prompt == STDIN or file == STDIN:
    return prompt_text( read_stdin(), "standard input" )
  if prompt is None:
    return ( prompt_text( read_stdin(), "standard input" ) if piped() else "" ) or DEFAULT_PROMPT
  return prompt

def prompt_text( data: bytes, name: str ) -> str:
  """The text of a file without the new line at its end; NpuError if it is not UTF-8."""
  try:
    text = data.decode( "utf-8" )
  except UnicodeDecodeError as e:
    raise NpuError( f"cannot read {name}: {e}" ) from None
  return text.removesuffix( "\n" ).removesuffix( "\r" )

def read_stdin() -> bytes:
  """Standard input to its end; NpuError if it is closed."""
  if sys.stdin is None:
    raise NpuError( "cannot read standard input: it is closed" )
  # Someone who has left a pipe open without knowing is told what we are waiting for.
  if piped() and not select.select( [ sys.stdin ], [], [], 2.0 )[0]:
    messages.print( "reading the prompt from standard input; give --prompt to leave it alone", soft_wrap=True )
  return sys.stdin.buffer.read()

def piped() -> bool:
  """Whether standard input is a pipe or a file: not a terminal, a device, a socket, or closed."""
  try:
    mode = os.fstat( sys.stdin.fileno() ).st_mode
  except ( AttributeError, OSError, ValueError ):
    return False
  return stat.S_ISFIFO( mode ) or stat.S_ISREG( mode )

#-------------------------------------------------------------------------
# Images
#-------------------------------------------------------------------------

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

#-------------------------------------------------------------------------
# Output
#-------------------------------------------------------------------------

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
  line
    Gets the text as well.
  """

  def __init__( self, prompt: str, show: bool, line: "ProgressLine | None" ) -> None:
    # What the line shows on the same terminal is written when the line is gone.
    held = line is not None and messages.is_terminal and sys.stdout.isatty()
    self._show, self._live, self._line = show, show and not held, line
    self._late = "" if self._live else prompt
    if self._live:
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

#-------------------------------------------------------------------------
# npu compile, npu random-model
#-------------------------------------------------------------------------

def compile_( model: ModelArg,
              output: Annotated[Path, typer.Option( "-o", "--output", metavar="FILE", help="Image file to write." )],
              precision: PrecisionOpt = DEFAULT_PRECISION, config: ConfigOpt = DEFAULT_CONFIG,
              context: ContextOpt = None, pass_rows: PassRowsOpt = None ) -> None:
  """Compile a model to an image file."""
  path = output_path( output )
  with progress_bar( f"compiling {model}" ) as progress:
    image = npu.compile( model, path, precision=precision, config=config, context=context, pass_rows=pass_rows,
                         progress=progress )
  m      = image.manifest
  stored = sum( r["size"] for r in m["regions"] if r["stored"] )
  messages.print( f"{escape( str( path ) )}: {stored:,} bytes stored, {image.dram.size:,} bytes of "
                  f"DRAM, {m['instructions']} instructions, up to {m['pass_rows']} rows a pass", soft_wrap=True )

def random_model( directory: Annotated[Path, typer.Argument( metavar="DIR", help="Folder to make." )],
                  like: Annotated[str, typer.Option( help=f"{or_( SHAPES )}.", autocompletion=among( SHAPES ) )],
                  seed: Annotated[int, typer.Option( help="Seed of the weights." )] = 0 ) -> None:
  """Write a random checkpoint of real dimensions, with a working tokenizer."""
  with progress_bar( f"writing {directory}" ) as progress:
    npu.random_model( directory, like, seed, progress )
  size = sum( file.stat().st_size for file in directory.glob( "*.safetensors" ) )
  messages.print( f"{escape( str( directory ) )}: {size:,} bytes of weights, {like}, seed {seed}", soft_wrap=True )
