"""How the host picks a token from logits, where the NPU is not to take the likeliest itself."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from npu.errors import OptionError

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
      raise OptionError( "temperature", f"is {self.temperature}; choose 0 (greedy) to 100" )
    if self.top_k < 0:
      raise OptionError( "top_k", f"is {self.top_k}; choose 0 (all) or more" )
    if not 0 < self.top_p <= 1:
      raise OptionError( "top_p", f"is {self.top_p}; choose more than 0, up to 1" )
    if self.seed < 0:
      raise OptionError( "seed", f"is {self.seed}; choose 0 or more" )

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
