"""How the host picks a token from logits, where the NPU is not to take the likeliest itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npu.compiler.find import open_model
from npu.compiler.model import Model
from npu.errors import NpuError, OptionError

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

Tokens = Sequence[int] | NDArray[np.uint32]

# What Hugging Face takes where a model that is to be sampled says nothing.
USUAL = { "temperature": 1.0, "top_k": 50, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0 }

@dataclass( frozen=True )
class Sampling:
  """How the host picks a token from logits, in the terms and in the order of Hugging Face: the penalty, then
  temperature, top_k, top_p and min_p. By default it is greedy without a penalty: then the NPU picks.

  Attributes
  ----------
  temperature
    Logits are divided by it; 0 is the likeliest token.
  top_k
    How many of the likeliest tokens to draw from; 0: all.
  top_p
    Draw from the likeliest tokens that have this probability together.
  seed
    Of the draws of a run.
  min_p
    Leave out tokens of less than this share of the likeliest one's probability.
  repetition_penalty
    Logits of tokens that are in the prompt or the output are divided by it, or multiplied if they are negative.

  Raises
  ------
  NpuError
    A parameter is out of range.
  """
  temperature: float = 0.0
  top_k: int = 0
  top_p: float = 1.0
  seed: int = 0
  min_p: float = 0.0
  repetition_penalty: float = 1.0

  def __post_init__( self ) -> None:
    if not 0 <= self.temperature <= 100:
      raise OptionError( "temperature", f"is {self.temperature}; choose 0 (greedy) to 100" )
    if self.top_k < 0:
      raise OptionError( "top_k", f"is {self.top_k}; choose 0 (all) or more" )
    if not 0 < self.top_p <= 1:
      raise OptionError( "top_p", f"is {self.top_p}; choose more than 0, up to 1" )
    if self.seed < 0:
      raise OptionError( "seed", f"is {self.seed}; choose 0 or more" )
    if not 0 <= self.min_p <= 1:
      raise OptionError( "min_p", f"is {self.min_p}; choose 0 (all) to 1" )
    if not 0.01 <= self.repetition_penalty <= 100:
      raise OptionError( "repetition_penalty", f"is {self.repetition_penalty}; choose 0.01 to 100 (1: none)" )

  @property
  def on_host( self ) -> bool:
    """Whether the host needs the logits; the NPU takes the likeliest token itself."""
    return self.temperature > 0 or self.repetition_penalty != 1

  @classmethod
  def of_model( cls, model: str | Path | Model, **changes: Any ) -> "Sampling":
    """What a model's makers advise (Hugging Face: generation_config.json), with changes.

    What they leave open is as Hugging Face has it: temperature 1, top_k 50, no other limit. Without sampling
    (do_sample is false, or neither it nor a temperature is given) the temperature is 0.

    Raises
    ------
    NpuError
      The model says nothing of sampling, or something that cannot be.
    """
    opened  = open_model( model )
    said    = opened.generation()
    advised = { name: said[name] for name in USUAL if said.get( name ) is not None }
    if not advised and "do_sample" not in said:
      raise NpuError( f"{opened.name} advises nothing on sampling; choose a temperature instead" )
    for name, value in advised.items():
      kinds = ( int, ) if name == "top_k" else ( int, float )
      if isinstance( value, bool ) or not isinstance( value, kinds ):
        raise NpuError( f"the sampling that {opened.name} advises: {name} is {value!r}; a number is expected" )
    try:
      cls( **advised )
    except OptionError as e:
      raise NpuError( f"the sampling that {opened.name} advises: {e}" ) from None
    if not said.get( "do_sample", "temperature" in advised ):
      advised["temperature"] = 0.0
    return cls( **{ **USUAL, **advised, **changes } )

def penalize( logits: NDArray[np.float32], penalty: float, seen: Tokens ) -> F64:
  """Logits [vocabulary] with those of the tokens in `seen` made less likely (more likely by a penalty below 1)."""
  found  = logits.astype( np.float64 )
  tokens = np.unique( np.asarray( seen, dtype=np.int64 ) )
  found[tokens] = np.where( found[tokens] < 0, found[tokens] * penalty, found[tokens] / penalty )
  return found

def distribution( logits: NDArray[np.float32], how: Sampling, seen: Tokens = () ) -> tuple[I64, F64]:
  """The tokens to draw from, likeliest first, and their probabilities.

  Parameters
  ----------
  logits
    [vocabulary].
  how
    With a temperature above 0.
  seen
    The tokens of prompt and output.
  """
  scores = logits.astype( np.float64 ) if how.repetition_penalty == 1 else \
           penalize( logits, how.repetition_penalty, seen )
  order  = np.argsort( -scores, kind="stable" )
  if how.top_k:
    order = order[: how.top_k]
  # Differences first: a temperature near zero then makes -infinity, and never infinity - infinity.
  below = scores[order] - float( scores[order[0]] )
  with np.errstate( over="ignore" ):
    p = np.where( below < 0, np.exp( np.minimum( below, -1e-300 ) / how.temperature ), 1.0 )
  p /= p.sum()
  keep = int( np.searchsorted( np.cumsum( p ), how.top_p ) ) + 1 if how.top_p < 1 else len( p )
  keep = min( keep, int( np.count_nonzero( p >= how.min_p * p[0] ) ) )
  return order[:keep], p[:keep] / p[:keep].sum()

def sample( logits: NDArray[np.float32], how: Sampling, rng: np.random.Generator, seen: Tokens = () ) -> int:
  """One token from logits [vocabulary]; `seen` are the tokens of prompt and output, for the penalty."""
  if how.temperature == 0:
    return int( np.argmax( penalize( logits, how.repetition_penalty, seen ) ) )
  order, p = distribution( logits, how, seen )
  return int( order[rng.choice( len( p ), p=p )] )
