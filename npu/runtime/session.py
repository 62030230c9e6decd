"""A model on an NPU: text in, text out, and a report of what it took."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from npu.arch.config import NpuConfig
from npu.arch.mailbox import Flag
from npu.compiler.build import Progress
from npu.compiler.find import EMBEDDED, open_model
from npu.compiler.image import Image
from npu.compiler.model import Model
from npu.compiler.precision import DEFAULT_PRECISION
from npu.errors import NpuError, OptionError
from npu.machine.levels import choose_levels
from npu.runtime.device import Device, Run, SimOptions
from npu.runtime.images import open_image
from npu.runtime.plan import OnProgress, Plan
from npu.runtime.report import RunReport, device_rows, html_table, run_report
from npu.runtime.sampling import Sampling
from npu.runtime.text import StopTexts, TextCodec

class Session:
  """A model on an NPU. A context manager: `close` frees what a machine with cycles holds.

      with npu.Session( "tiny" ) as session:
        for piece in session.generate( "In the beginning", 32 ):
          print( piece, end="" )
        print( session.report() )

  Parameters
  ----------
  model
    A checkpoint folder, an embedded model's name, what `open_model` returns, or an image (of an embedded model, or
    with `tokenizer`).
  image
    An image of `model` to use instead of compiling, or its file.
  precision, config, context, pass_rows, progress
    As for `npu.compile`, if the model is compiled here.
  level, levels
    Level of all blocks: fl (the default, without cycles), cl, rtl or verilog. Levels by block, or as text
    `BLOCK=LEVEL,...`; the other blocks have `level`, or cl.
  options
    Of a machine with cycles: the memory's timing, limits, waveforms, trace.
  tokenizer
    Where text comes from and goes to, if not from the model's own folder.

  Attributes
  ----------
  device
    The NPU itself, which knows tokens only.
  codec
    The tokenizer; None for an image without one.

  Raises
  ------
  NpuError
    The model, the image, a level or an option is not one that there is, or they do not fit each other.
  """

  def __init__( self, model: str | Path | Model | Image, *, image: Image | str | Path | None = None,
                precision: str = DEFAULT_PRECISION, config: str | NpuConfig | None = None,
                context: int | None = None, pass_rows: int | None = None, level: str | None = None,
                levels: str | Mapping[str, str] | None = None, options: SimOptions | None = None,
                tokenizer: TextCodec | str | Path | None = None, progress: Progress | None = None ) -> None:
    chosen = choose_levels( level, levels )
    if chosen is None:
      check_no_clock( options )
    if isinstance( model, Image ):
      if image is not None:
        raise NpuError( "the model is an image already; leave out image" )
      name = model.manifest["model"]
      self.codec = mk_codec( tokenizer or ( name if name in EMBEDDED else None ) )
      loaded     = model
    else:
      opened     = open_model( model )
      self.codec = mk_codec( tokenizer or opened )
      loaded     = open_image( opened, image, precision=precision, config=config, context=context,
                               pass_rows=pass_rows, progress=progress )
    self.device = Device( loaded, chosen, options )
    self._stops = StopTexts()       # of the last run

  def __enter__( self ) -> "Session":
    return self

  def __exit__( self, kind: type[BaseException] | None, error: BaseException | None,
                where: TracebackType | None ) -> None:
    self.close()

  def close( self ) -> None:
    """Finish waveforms and free Verilated blocks; the session is of no use afterwards."""
    self.device.close()

  def encode( self, prompt: str | Sequence[int] ) -> list[int]:
    """The tokens of a prompt, which may be tokens already; NpuError if there is no tokenizer for a text."""
    if not isinstance( prompt, str ):
      return [ int( t ) for t in prompt ]
    return self.tokenizer().encode( prompt )

  def decode( self, tokens: Sequence[int] ) -> str:
    """The text of tokens, special ones left out; NpuError if there is no tokenizer."""
    return self.tokenizer().decode( list( tokens ) )

  def tokenizer( self ) -> TextCodec:
    """The tokenizer; NpuError if there is none."""
    if self.codec is None:
      raise NpuError( f"the image of {self.device.manifest['model']} comes without a tokenizer; "
                      "give the session one (tokenizer=FOLDER), or work with tokens" )
    return self.codec

  def generate( self, prompt: str | Sequence[int], max_new_tokens: int = 64, sampling: Sampling | None = None, *,
                stop: Sequence[str] = (), stop_at_eos: bool = True, end_tokens: Sequence[int] = (),
                reuse_cache: bool = False, on_progress: OnProgress | None = None ) -> Iterator[str]:
    """Continue a prompt: pieces of text as they come, whole characters each.

    Whoever stops taking pieces ends the run. What it took is in `report`.

    Parameters
    ----------
    prompt
      Text, or tokens.
    max_new_tokens
      Tokens to produce at most.
    sampling
      How the host picks tokens; by default the NPU takes the likeliest.
    stop
      Texts that end the run; they are not among the pieces.
    stop_at_eos
      False: go on after the end of the text.
    end_tokens
      More tokens that end the run.
    reuse_cache
      Compute only what the KV cache does not hold yet of the prompt; the results are the same.
    on_progress
      At levels with cycles, called now and then with the cycle and the instruction.

    Raises
    ------
    NpuError
      The prompt is empty, longer than the context, or has unknown tokens; a stop text is empty; or the NPU stopped
      with an error.
    """
    self.tokenizer()
    stops = StopTexts( stop )
    run   = self.generate_tokens( prompt, max_new_tokens, sampling, stop_at_eos=stop_at_eos, end_tokens=end_tokens,
                                  reuse_cache=reuse_cache, on_progress=on_progress )
    self._stops = stops
    return self._pieces( run, stops )

  def _pieces( self, run: Run, stops: StopTexts ) -> Iterator[str]:
    codec = self.tokenizer()
    push, known = codec.stream(), 0
    with closing( run ):
      for token in run:
        text   = push( token )
        known += len( text )
        if piece := stops.push( text ):
          yield piece
        if stops.found:
          return
    # The start of a character that never came to its end is told at the end.
    rest = stops.push( codec.decode( self.device.last.tokens )[known:] ) + stops.finish()
    if rest:
      yield rest

  def generate_tokens( self, prompt: str | Sequence[int], max_new_tokens: int = 64,
                       sampling: Sampling | None = None, *, stop_at_eos: bool = True, end_tokens: Sequence[int] = (),
                       reuse_cache: bool = False, on_progress: OnProgress | None = None ) -> Run:
    """The same, as tokens: the token that ends the run is among them."""
    tokens = self.encode( prompt )
    self.device.end_run()        # its counts are not this one's
    self.device.clear_counts()
    self._stops = StopTexts()
    return self.device.stream( tokens, max_new_tokens, sampling, stop_at_eos, on_progress, end_tokens=end_tokens,
                               reuse_cache=reuse_cache )

  def plan( self, prompt: str | Sequence[int], max_new_tokens: int = 64, sampling: Sampling | None = None,
            reuse_cache: bool = False ) -> Plan:
    """What `generate` with these arguments will execute, if nothing ends it before the limit."""
    tokens = self.encode( prompt )
    self.device.end_run()        # it says what the cache holds before the token buffer changes
    self.device.load_prompt( tokens, reuse_cache )
    return self.device.plan( max_new_tokens, Flag.LOGITS if sampling and sampling.on_host else 0 )

  def logits( self, prompt: str | Sequence[int] ) -> NDArray[np.float32]:
    """Logits [tokens, vocabulary] of every position of a prompt: row i is what follows token i."""
    tokens = self.encode( prompt )
    self.device.end_run()
    with self.device.uncounted():
      return np.concatenate( [ rows.copy() for rows in self.device.score( tokens ) ] )

  def report( self ) -> RunReport:
    """What the last `generate` was, so far; cycles and work of a machine with cycles are there when it has ended."""
    text, stops = self.codec.decode( self.device.last.tokens ) if self.codec else "", self._stops
    return run_report( self.device, text[: stops.shown] if stops.found else text, stops.found )

  def rows( self ) -> list[tuple[str, str]]:
    """The model and the NPU in words: (name, text)."""
    return device_rows( self.device )

  def __repr__( self ) -> str:
    return "Session: " + "; ".join( f"{name} {text}" for name, text in self.rows() )

  def _repr_html_( self ) -> str:
    context = self.device.context, self.device.manifest["pass_rows"]
    return html_table( [ *self.rows(), ( "context", "{} tokens, up to {} rows a pass".format( *context ) ) ] )

def mk_codec( source: TextCodec | Model | str | Path | None ) -> TextCodec | None:
  """A tokenizer from where it is."""
  return source if source is None or isinstance( source, TextCodec ) else TextCodec( source )

def check_no_clock( options: SimOptions | None ) -> None:
  """NpuError if an option is given that the functional level has no use for."""
  for name, value in vars( options ).items() if options else ():
    if value is not None:
      raise OptionError( name, "needs a level with cycles, such as cl" )
