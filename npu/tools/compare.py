"""Teacher-forced comparison with Hugging Face's float32 model on the same tokens."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npu.errors import NpuError
from npu.runtime.session import Session

@dataclass
class Comparison:
  """Sums over positions; `summary` turns them into the figures."""
  tokens: int = 0            # positions compared
  predicted: int = 0         # positions whose next token is known
  nll_ref: float = 0.0       # nats
  nll_npu: float = 0.0
  same_top: int = 0
  kl: float = 0.0            # nats, KL(reference || NPU)
  square_error: float = 0.0
  max_abs: float = 0.0
  logits: int = 0

  def add( self, ref: NDArray[np.float32], npu: NDArray[np.float32], following: list[int] ) -> None:
    """Take in logits [rows, vocabulary] of both, and the tokens that really follow (may be one short)."""
    p, q = log_softmax( ref ), log_softmax( npu )
    at   = np.arange( len( following ) )
    self.tokens       += len( ref )
    self.predicted    += len( following )
    self.nll_ref      -= float( p[at, following].sum() )
    self.nll_npu      -= float( q[at, following].sum() )
    self.same_top     += int( ( ref.argmax( axis=1 ) == npu.argmax( axis=1 ) ).sum() )
    self.kl           += float( ( np.exp( p ) * ( p - q ) ).sum() )
    error = npu.astype( np.float64 ) - ref
    self.square_error += float( np.square( error ).sum() )
    self.max_abs       = max( self.max_abs, float( np.abs( error ).max() ) )
    self.logits       += ref.size

  def summary( self ) -> dict[str, Any]:
    """The figures: perplexities, change in per cent, agreement in per cent, mean KL, logit errors."""
    ppl_ref = float( np.exp( self.nll_ref / self.predicted ) )
    ppl_npu = float( np.exp( self.nll_npu / self.predicted ) )
    return { "tokens": self.tokens, "ppl_ref": ppl_ref, "ppl_npu": ppl_npu,
             "ppl_change_percent": 100 * ( ppl_npu / ppl_ref - 1 ), "top1": 100 * self.same_top / self.tokens,
             "kl": self.kl / self.tokens, "max_abs": self.max_abs,
             "rms": float( np.sqrt( self.square_error / self.logits ) ) }

def log_softmax( logits: NDArray[np.float32] ) -> NDArray[np.float64]:
  """log softmax over the last axis, in float64."""
  x = logits.astype( np.float64 )
  x -= x.max( axis=-1, keepdims=True )
  return np.asarray( x - np.log( np.exp( x ).sum( axis=-1, keepdims=True ) ) )

class Reference:
  """Hugging Face's Qwen2 in float32 on the CPU; NpuError if torch is not installed."""

  def __init__( self, folder: Path ) -> None:
    try:
      import torch
      from transformers import Qwen2ForCausalLM
      from transformers.utils import logging
    except ImportError:
      raise NpuError( "npu compare needs torch for the Hugging Face reference: "
                      "install the project's `test` extra" ) from None
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    self._torch = torch
    self.model  = Qwen2ForCausalLM.from_pretrained( folder, dtype=torch.float32 ).eval()

  def logits( self, tokens: list[int] ) -> NDArray[np.float32]:
    """Logits [len( tokens ), vocabulary]."""
    with self._torch.no_grad():
      found: NDArray[np.float32] = self.model( input_ids=self._torch.tensor( [ tokens ] ) ).logits[0].numpy()
    return found

def compare( session: Session, reference: Reference, tokens: list[int], window: int,
             progress: Callable[[int, int], None] | None = None ) -> Comparison:
  """Compare both models on `tokens`, cut into windows that start with an empty context.

  Parameters
  ----------
  window
    Tokens per window, at most the image's context.
  progress
    Called with (tokens done, tokens in all).

  Raises
  ------
  NpuError
    There are fewer than two tokens.
  """
  if len( tokens ) < 2:
    raise NpuError( f"the text has {len( tokens )} tokens; at least 2 are needed" )
  if window < 2:
    raise NpuError( f"the context is {window}; comparing needs at least 2 positions" )
  found = Comparison()
  for start in range( 0, len( tokens ), window ):
    part = tokens[start : start + window]
    if len( part ) < 2:
      break
    session.check_prompt( part )
    ref, at = reference.logits( part ), 0
    for rows in session.score( part ):
      found.add( ref[at : at + len( rows )], rows, part[at + 1 : at + 1 + len( rows )] )
      at += len( rows )
      if progress:
        progress( start + at, len( tokens ) )
  return found
