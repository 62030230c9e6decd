"""The command `npu chat`: a conversation on the terminal, or line by line through a pipe."""

import sys
from collections.abc import Callable
from contextlib import ExitStack, closing, nullcontext, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.markup import escape

import npu
from npu.cli.options import (
  DEFAULT_CONFIG,
  DEFAULT_MODEL,
  DEFAULT_PRECISION,
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
)
from npu.cli.output import messages, progress_line, rows_table, wants_line
from npu.cli.run import TextOutput, mk_sampling, open_with_bar, sim_options, simulation_report
from npu.errors import NpuError, OptionError
from npu.files import STDOUT, check_json, write_json

if TYPE_CHECKING:
  from npu.runtime.progress import ProgressLine

def chat( model: ModelArg = DEFAULT_MODEL, system: SystemOpt = None, max_new_tokens: TokensOpt = 512,
          precision: PrecisionOpt = DEFAULT_PRECISION, config: ConfigOpt = DEFAULT_CONFIG, level: LevelOpt = None,
          levels: LevelsOpt = None, temperature: HeatOpt = None, top_k: TopKOpt = None, top_p: TopPOpt = None,
          min_p: MinPOpt = None, repetition_penalty: PenaltyOpt = None, seed: SeedOpt = None,
          sampling: SamplingOpt = None, stop: StopOpt = None, context: ContextOpt = None,
          pass_rows: PassRowsOpt = None, ignore_eos: EosOpt = False, image: ImageOpt = None,
          no_cache: NoCacheOpt = False, json_file: JsonOpt = None, progress: ProgressOpt = None,
          line_trace: TraceOpt = False, vcd: VcdOpt = None, max_cycles: MaxCyclesOpt = None,
          hang_cycles: HangOpt = None, dram_latency: LatencyOpt = None, dram_bandwidth: BandwidthOpt = None,
          stall_seed: StallOpt = None ) -> None:
  """Talk with a model on the NPU, in several turns.

  On a terminal, Ctrl-C stops an answer, Ctrl-D or /quit ends, and /help
  lists more. From a pipe, every line is a message. The options are those
  of npu run; --json gets all turns, each with its report.
  """
  from npu.machine.levels import choose_levels
  from npu.runtime.chat import Conversation, chat_template
  from npu.runtime.text import StopTexts
  check_json( json_file )
  if max_new_tokens < 1:
    raise OptionError( "max_new_tokens", f"is {max_new_tokens}; choose 1 or more" )
  clock    = choose_levels( level, levels ) is not None
  options  = sim_options( clock, progress, line_trace, vcd, max_cycles, hang_cycles, dram_latency, dram_bandwidth,
                          stall_seed )
  StopTexts( stop or [] )
  codec    = npu.TextCodec( model )
  template = chat_template( codec )
  how      = mk_sampling( codec, sampling, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p,
                          repetition_penalty=repetition_penalty, seed=seed )
  answers  = Answers( max_new_tokens, how, stop or [], not ignore_eos, clock,
                      clock and wants_line( progress, line_trace ) )
  with ExitStack() as stack:
    loaded  = open_with_bar( model, image, precision, config, context, pass_rows, no_cache=no_cache )
    session = stack.enter_context( npu.Session( loaded, level=level, levels=levels, options=options,
                                                tokenizer=codec ) )
    talk    = Talk( Conversation( session, system=system, template=template ), answers, json_file != STDOUT )
    try:
      talk.run()
    finally:
      if json_file is not None:
        write_json( json_file, { **talk.to_json(), "system": system } )

@dataclass( frozen=True )
class Answers:
  """How the model answers: what the options say.

  Attributes
  ----------
  clock
    Whether the level has cycles.
  line
    Whether to show how far a simulation is.
  """
  max_new_tokens: int
  sampling: "npu.Sampling"
  stop: list[str]
  stop_at_eos: bool
  clock: bool
  line: bool

class Talk:
  """What happens between the user and a conversation.

  Parameters
  ----------
  conversation
    The model.
  answers
    How it answers.
  show
    Whether standard output gets the answers.
  """

  def __init__( self, conversation: "npu.Conversation", answers: Answers, show: bool ) -> None:
    self.conversation = conversation
    self._answers     = answers
    self._show        = show
    self._terminal    = sys.stdin is not None and sys.stdin.isatty()
    self._number      = 1           # of the conversation: one more after each reset
    self._turns: list[tuple[int, str, npu.RunReport]] = []
    self._interrupted = False       # the last that came from the user was Ctrl-C

  def run( self ) -> None:
    """Read and answer until the end of the input, /quit, or Ctrl-C, the second one in a row on a terminal.

    Raises
    ------
    NpuError
      Something is wrong with a line that does not come from a terminal; there it is told, and the talk goes on.
    """
    if self._terminal:
      with suppress( ImportError ):
        import readline  # noqa: F401 (input() then has a history)
      messages.print( rows_table( self.conversation.session.rows() ), soft_wrap=True )
      messages.print( "[dim]Ctrl-C stops an answer, Ctrl-D ends, /help lists more.[/dim]" )
    while True:
      try:
        line = self._read()
        if line is None or line.strip() == "/quit":
          return
        self._interrupted = False
        self._handle( line )
      except KeyboardInterrupt:
        if not self._terminal or self._interrupted:
          raise
        self._interrupted = True
        messages.print( "\n[dim]Once more, or Ctrl-D, ends.[/dim]" )

  def _read( self ) -> str | None:
    """The next line; None at the end."""
    if sys.stdin is None:
      return None
    try:
      if self._terminal and sys.stdout.isatty():
        return input( "> " )
      if self._terminal:
        messages.print( "> ", end="" )
      line = sys.stdin.readline()
      return line.removesuffix( "\n" ) if line else None
    except EOFError:
      messages.print()
      return None
    except UnicodeDecodeError:
      raise NpuError( "standard input is not valid UTF-8" ) from None

  def _handle( self, line: str ) -> None:
    try:
      if line.startswith( "/" ):
        self._command( line.strip() )
      elif line.strip():
        self._answer( line )
    except NpuError as e:
      if not self._terminal:
        raise
      messages.print( f"error: {e}", markup=False, soft_wrap=True )

  #-----------------------------------------------------------------------
  # Commands
  #-----------------------------------------------------------------------

  def _command( self, line: str ) -> None:
    found = COMMANDS.get( line )
    if found is None:
      raise NpuError( f"no command {line}; there are {', '.join( COMMANDS )} (a message that begins with / needs "
                      "a space in front)" )
    found[1]( self )

  def reset( self ) -> None:
    """Begin a new conversation."""
    self.conversation.reset()
    self._number += 1

  def stats( self ) -> None:
    """Show what the last answer took, and all together."""
    if not self._turns:
      messages.print( "no answer yet" )
      return
    messages.print( rows_table( [ *self._turns[-1][2].rows(), ( "in all", self._total() ) ] ), soft_wrap=True )

  def _total( self ) -> str:
    reports = [ report for _, _, report in self._turns ]
    read    = sum( r.prompt_tokens - r.cached_tokens for r in reports )
    written = sum( len( r.tokens ) for r in reports )
    cycles  = f", {sum( r.cycles or 0 for r in reports ):,} cycles" if self._answers.clock else ""
    seconds = sum( r.wall_seconds for r in reports )
    return f"answers: {len( reports )}; {read} new tokens in, {written} out{cycles}, {seconds:.2f} s of simulation"

  def help( self ) -> None:
    """List the commands."""
    rows = [ ( name, about ) for name, ( about, _ ) in COMMANDS.items() ]
    messages.print( rows_table( [ *rows, ( "Ctrl-C", "stop the answer; twice: end" ), ( "Ctrl-D", "end" ) ] ) )

  #-----------------------------------------------------------------------
  # Answers
  #-----------------------------------------------------------------------

  def _answer( self, text: str ) -> None:
    how, before = self._answers, self.conversation.messages
    line = self._line( text ) if how.line else None
    out  = TextOutput( "", self._show, line )
    pieces = self.conversation.say( text, how.max_new_tokens, how.sampling, stop=how.stop,
                                    stop_at_eos=how.stop_at_eos, on_progress=line )
    try:
      with simulation_report( out ) if how.clock else nullcontext(), \
           closing( pieces ), line or nullcontext():      # type: ignore[type-var]
        for piece in pieces:
          out.write( piece )
      out.finish()
    except KeyboardInterrupt:
      out.finish()
      raise
    finally:
      if self.conversation.messages is not before:
        self._turns.append( ( self._number, text, self.conversation.report() ) )
    self._remark()

  def _line( self, text: str ) -> "ProgressLine":
    plan = self.conversation.session.plan( self.conversation.prompt( text ), self._answers.max_new_tokens,
                                           self._answers.sampling, reuse_cache=True )
    return progress_line( plan )

  def _remark( self ) -> None:
    """Say why an answer is not at its end."""
    remarks = { "limit": "token limit reached; --max-new-tokens sets it",
                "context": "the context is full; /reset begins anew" }
    remark  = remarks.get( self._turns[-1][2].status )
    if remark and self._terminal:
      messages.print( f"[dim]({escape( remark )})[/dim]", soft_wrap=True )

  def to_json( self ) -> dict[str, Any]:
    """All turns: what the user said, and the report, whose `text` is the answer. `conversation` is one more after each
    /reset.
    """
    from npu.machine.levels import level_name
    device = self.conversation.session.device
    return { "model": device.manifest["model"], "precision": device.manifest["precision"], "config": device.cfg.name,
             "level": level_name( device.levels ),
             "turns": [ { "conversation": number, "user": text, **report.to_json() }
                        for number, text, report in self._turns ] }

# /quit is seen where the input is read.
COMMANDS: dict[str, tuple[str, Callable[[Talk], None]]] = {
  "/reset": ( "begin a new conversation", Talk.reset ),
  "/stats": ( "show what the last answer took, and all together", Talk.stats ),
  "/help":  ( "list the commands", Talk.help ),
  "/quit":  ( "end", lambda talk: None ) }
