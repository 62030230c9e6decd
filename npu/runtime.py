"""The host's side: tokenizer, mailbox, doorbell, tokens out."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl.npu import NpuFL, Result
from npu.checkpoint import find_model
from npu.config import LINE_BYTES, NpuConfig
from npu.errors import NpuError
from npu.image import Image
from npu.isa import Error, Status
from npu.mailbox import Flag, Word

LEVELS = ( "fl", )

#-------------------------------------------------------------------------
# Text
#-------------------------------------------------------------------------

class TextCodec:
  """The model's tokenizer: text to tokens, and tokens to text as they come."""

  def __init__( self, model: str ) -> None:
    self._folder = find_model( model )
    self._tokenizer = self._load()

  def _load( self ) -> Any:
    # tokenizer.json alone needs no more than the tokenizers library, which starts at once.
    path = self._folder / "tokenizer.json"
    if not path.exists() and not all( ( self._folder / f ).exists() for f in ( "vocab.json", "merges.txt" ) ):
      raise NpuError( f"{self._folder} has no tokenizer; tokenizer.json, or vocab.json and merges.txt, are expected" )
    try:
      if path.exists():
        from tokenizers import Tokenizer
        return Tokenizer.from_file( str( path ) )
      from transformers import AutoTokenizer
      return AutoTokenizer.from_pretrained( self._folder, local_files_only=True ).backend_tokenizer
    except Exception as e:
      raise NpuError( f"{self._folder}: the tokenizer cannot be loaded: {str( e ).splitlines()[0]}" ) from None

  def encode( self, text: str ) -> list[int]:
    """Tokens of a text; NpuError if it holds what UTF-8 cannot."""
    try:
      text.encode()
    except UnicodeEncodeError:
      raise NpuError( "the prompt is not valid UTF-8" ) from None
    return list( self._tokenizer.encode( text ).ids )

  def decode( self, tokens: list[int] ) -> str:
    """Text of tokens, special ones left out."""
    return str( self._tokenizer.decode( tokens, skip_special_tokens=True ) )

  def stream( self ) -> Callable[[int], str]:
    """A function that takes one token at a time and returns the text that is new and complete.

    A character may take several tokens; it appears with the last of them.
    """
    tokens: list[int] = []
    shown = 0

    def push( token: int ) -> str:
      nonlocal shown
      tokens.append( token )
      text = self.decode( tokens )
      if text.endswith( "\N{REPLACEMENT CHARACTER}" ):
        return ""
      new, shown = text[shown:], len( text )
      return new

    return push

#-------------------------------------------------------------------------
# Sampling
#-------------------------------------------------------------------------

@dataclass( frozen=True )
class Sampling:
  """How the host picks a token from logits. `temperature` 0 is greedy: then the NPU picks.

  Raises
  ------
  NpuError
    A parameter is out of range.
  """
  temperature: float = 0.0
  top_k: int = 0          # 0: all
  top_p: float = 1.0
  seed: int = 0

  def __post_init__( self ) -> None:
    if not 0 <= self.temperature <= 100:
      raise NpuError( f"--temperature is {self.temperature}; choose 0 (greedy) to 100" )
    if self.top_k < 0:
      raise NpuError( f"--top-k is {self.top_k}; choose 0 (all) or more" )
    if not 0 < self.top_p <= 1:
      raise NpuError( f"--top-p is {self.top_p}; choose more than 0, up to 1" )
    if self.seed < 0:
      raise NpuError( f"--seed is {self.seed}; choose 0 or more" )

def sample( logits: NDArray[np.float32], how: Sampling, rng: np.random.Generator ) -> int:
  """One token from logits [vocabulary]: temperature, then top-k, then top-p."""
  order = np.argsort( -logits, kind="stable" )
  if how.top_k:
    order = order[: how.top_k]
  # Differences first: a temperature near zero then makes -infinity, and never infinity - infinity.
  below = logits[order].astype( np.float64 ) - float( logits[order[0]] )
  with np.errstate( over="ignore" ):
    p = np.where( below < 0, np.exp( np.minimum( below, -1e-300 ) / how.temperature ), 1.0 )
  p /= p.sum()
  keep = int( np.searchsorted( np.cumsum( p ), how.top_p ) ) + 1 if how.top_p < 1 else len( p )
  p = p[:keep] / p[:keep].sum()
  return int( order[rng.choice( len( p ), p=p )] )

#-------------------------------------------------------------------------
# Generation and scoring
#-------------------------------------------------------------------------

@dataclass
class Generation:
  """What a run produced. `wall_seconds` is the NPU's prefill and decode, without compiling or loading."""
  prompt_tokens: list[int]
  tokens: list[int] = field( default_factory=list )
  status: Status = Status.IDLE
  wall_seconds: float = 0.0
  first_token_seconds: float = 0.0     # of them, until the first token

  @property
  def decode_rate( self ) -> float:
    """Tokens per second of wall time after the first token; 0 if there was only one."""
    seconds = self.wall_seconds - self.first_token_seconds
    return ( len( self.tokens ) - 1 ) / seconds if seconds > 0 else 0.0

def check_level( level: str ) -> None:
  """NpuError unless the NPU can be simulated at that level."""
  if level not in LEVELS:
    raise NpuError( f"unknown level '{level}'; choose one of {', '.join( LEVELS )}" )

class Session:
  """An NPU with an image loaded.

  Parameters
  ----------
  image
    From `npu.image.load_image`.
  level
    The level to simulate at.

  Raises
  ------
  NpuError
    The level is not known.
  """

  def __init__( self, image: Image, level: str = "fl" ) -> None:
    check_level( level )
    self.manifest = image.manifest
    self.cfg      = NpuConfig( **image.manifest["config"] )
    self.npu      = NpuFL( self.cfg, image.dram )
    self.vocab    = int( image.manifest["dimensions"]["vocab_size"] )
    self.context  = int( image.manifest["context"] )
    regions       = { r["name"]: r for r in image.manifest["regions"] }
    logits        = regions["logits"]
    start         = logits["line"] * LINE_BYTES
    self._logits  = image.dram[start : start + logits["size"]].view( np.float32 ).reshape(
      -1, image.manifest["logits_row_bytes"] // 4 )

  def check_prompt( self, tokens: list[int], max_new_tokens: int = 1 ) -> None:
    """NpuError if the prompt is empty, too long, or has a token that the model does not know."""
    if max_new_tokens < 1:
      raise NpuError( f"--max-new-tokens is {max_new_tokens}; choose 1 or more" )
    if not tokens:
      raise NpuError( "the prompt is empty; give at least one token" )
    if len( tokens ) > self.context:
      raise NpuError( f"the prompt has {len( tokens )} tokens; this image's context is {self.context}" )
    wrong = [ t for t in tokens if not 0 <= t < self.vocab ]
    if wrong:
      raise NpuError( f"the prompt has token {max( wrong )}; the model's vocabulary is 0 to {self.vocab - 1}" )

  def load_prompt( self, tokens: list[int] ) -> None:
    """Put a prompt into the token buffer and go back to position 0; NpuError as `check_prompt`."""
    self.check_prompt( tokens )
    box = self.npu.mailbox
    box.tokens[: len( tokens )] = tokens
    box[Word.POS], box[Word.LEN] = 0, len( tokens )

  def ring( self, limit: int, flags: int = 0, eos: tuple[int, ...] = (),
            on_token: Callable[[int], None] | None = None ) -> Result:
    """Write the run's parameters, ring the doorbell, wait for the end.

    Raises
    ------
    NpuError
      The NPU stopped with an error: the image is not one of the compiler's.
    """
    box = self.npu.mailbox
    box[Word.FLAGS], box[Word.LIMIT], box[Word.EOS_COUNT] = flags, min( limit, 0xFFFFFFFF ), len( eos )
    for i, token in enumerate( eos ):
      box[Word.EOS + i] = token
    box[Word.DOORBELL] = 1
    result = self.npu.run( on_token )
    if result.status == Status.ERROR:
      raise NpuError( f"the NPU stopped with {Error( result.error ).name} at instruction {result.pc}" )
    return result

  def generate( self, prompt: list[int], max_new_tokens: int, sampling: Sampling | None = None,
                stop_at_eos: bool = True, on_token: Callable[[int], None] | None = None ) -> Generation:
    """Continue a prompt. Greedy runs are one doorbell; sampled ones ring once a token.

    `on_token` is called with each token as it is produced, the end-of-sequence token included.
    """
    self.check_prompt( prompt, max_new_tokens )
    eos = tuple( self.manifest["dimensions"]["eos_tokens"] ) if stop_at_eos else ()
    self.load_prompt( prompt )
    done  = Generation( list( prompt ) )
    began = time.perf_counter()

    def push( token: int ) -> None:
      if not done.tokens:
        done.first_token_seconds = time.perf_counter() - began
      done.tokens.append( token )
      if on_token:
        on_token( token )

    if sampling is None or sampling.temperature == 0:
      done.status = self.ring( max_new_tokens, eos=eos, on_token=push ).status
    else:
      done.status = self._sampled( max_new_tokens, sampling, eos, push )
    done.wall_seconds = time.perf_counter() - began
    return done

  def _sampled( self, limit: int, how: Sampling, eos: tuple[int, ...], push: Callable[[int], None] ) -> Status:
    rng, box = np.random.default_rng( how.seed ), self.npu.mailbox
    for count in range( limit ):
      status = self.ring( 1, Flag.LOGITS ).status
      token  = sample( self._logits[0, : self.vocab], how, rng )
      box.tokens[box[Word.LEN] - 1] = token
      push( token )
      if token in eos:
        return Status.EOS
      if count + 1 < limit and ( status == Status.CONTEXT or box[Word.LEN] > self.context ):
        return Status.CONTEXT
    return Status.LIMIT

  def score( self, tokens: list[int] ) -> Iterator[NDArray[np.float32]]:
    """Logits of every position, a pass at a time: arrays [rows, vocabulary] (views: copy to keep)."""
    self.load_prompt( tokens )
    box, at = self.npu.mailbox, 0
    while at < len( tokens ):
      self.ring( 1, Flag.SCORE )
      rows = box[Word.POS] - at
      at  += rows
      yield self._logits[:rows, : self.vocab]

def output_path( name: str ) -> Path:
  """A path that can be written, checked before long work; NpuError if its folder does not exist."""
  path = Path( name )
  try:
    problem = ( "it is a folder" if path.is_dir() else
                "it is not a regular file" if path.exists() and not path.is_file() else
                "no such folder" if not path.absolute().parent.is_dir() else "" )
  except OSError as e:
    problem = str( e.strerror )
  if problem:
    raise NpuError( f"cannot write {path}: {problem}" )
  return path
