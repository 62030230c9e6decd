"""Teacher-forced comparison with Hugging Face's float32 model on the same tokens."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npu.arch.config import NpuConfig
from npu.compiler.checkpoint import tensor_shapes
from npu.compiler.find import held_out_text, open_model
from npu.compiler.folder import FolderModel
from npu.compiler.image import Image
from npu.compiler.model import Model
from npu.compiler.precision import DEFAULT_PRECISION
from npu.errors import NpuError, OptionError
from npu.runtime.device import Device
from npu.runtime.images import open_image
from npu.runtime.report import html_table
from npu.runtime.text import TextCodec

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

  def report( self, device: Device ) -> "ComparisonReport":
    """The figures, of an image that was compared."""
    ppl_ref = float( np.exp( self.nll_ref / self.predicted ) )
    ppl_npu = float( np.exp( self.nll_npu / self.predicted ) )
    m = device.manifest
    return ComparisonReport(
      model=m["model"], precision=m["precision"], config=device.cfg.name, tokens=self.tokens,
      ppl_ref=ppl_ref, ppl_npu=ppl_npu, ppl_change_percent=100 * ( ppl_npu / ppl_ref - 1 ),
      top1=100 * self.same_top / self.tokens, kl=self.kl / self.tokens, max_abs=self.max_abs,
      rms=float( np.sqrt( self.square_error / self.logits ) ) )

@dataclass( frozen=True )
class ComparisonReport:
  """How near an NPU is to Hugging Face in float32. `to_json` is what `npu compare --json` writes.

  Attributes
  ----------
  tokens
    Positions compared.
  ppl_ref, ppl_npu, ppl_change_percent
    Perplexities, and the change from the first to the second.
  top1
    Positions at which both find the same token likeliest, in per cent.
  kl
    Mean of KL( reference || NPU ), in nats.
  max_abs, rms
    Of the differences of logits.
  """
  model: str
  precision: str
  config: str
  tokens: int
  ppl_ref: float
  ppl_npu: float
  ppl_change_percent: float
  top1: float
  kl: float
  max_abs: float
  rms: float

  def to_json( self ) -> dict[str, Any]:
    """As `npu compare --json` writes it."""
    return asdict( self )

  def rows( self ) -> list[tuple[str, str]]:
    """The figures in words: (name, text)."""
    return [ ( "model", f"{self.model}, {self.precision}, {self.config}, {self.tokens} tokens" ),
             ( "perplexity", f"{self.ppl_ref:.4f} Hugging Face fp32, {self.ppl_npu:.4f} NPU "
                             f"({self.ppl_change_percent:+.3f} %)" ),
             ( "top-1 agreement", f"{self.top1:.2f} %" ),
             ( "mean KL", f"{self.kl:.3e} nats" ),
             ( "logit error", f"{self.max_abs:.3e} largest, {self.rms:.3e} rms" ) ]

  def _repr_html_( self ) -> str:
    return html_table( self.rows() )

def log_softmax( logits: NDArray[np.float32] ) -> NDArray[np.float64]:
  """log softmax over the last axis, in float64."""
  x = logits.astype( np.float64 )
  x -= x.max( axis=-1, keepdims=True )
  return np.asarray( x - np.log( np.exp( x ).sum( axis=-1, keepdims=True ) ) )

class Reference:
  """Hugging Face's Qwen2 in float32 on the CPU, with the weights of a model of any form.

  Raises
  ------
  NpuError
    torch is not installed, or as `open_model`.
  """

  def __init__( self, model: str | Path | Model ) -> None:
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
    opened      = open_model( model )
    self.model  = ( Qwen2ForCausalLM.from_pretrained( opened.path, dtype=torch.float32 )
                    if isinstance( opened, FolderModel ) else _built( opened ) ).eval()

  def logits( self, tokens: list[int] ) -> NDArray[np.float32]:
    """Logits [len( tokens ), vocabulary]."""
    with self._torch.no_grad():
      found: NDArray[np.float32] = self.model( input_ids=self._torch.tensor( [ tokens ] ) ).logits[0].numpy()
    return found

def _built( model: Model ) -> Any:
  """Hugging Face's model of these dimensions, with tensors as the NPU's compiler reads them."""
  import torch
  from transformers import Qwen2Config, Qwen2ForCausalLM
  m = model.dims
  config = Qwen2Config(
    vocab_size=m.vocab_size, hidden_size=m.hidden_size, intermediate_size=m.intermediate_size,
    num_hidden_layers=m.layers, num_attention_heads=m.heads, num_key_value_heads=m.kv_heads, head_dim=m.head_dim,
    max_position_embeddings=m.context, rms_norm_eps=m.rms_norm_eps, tie_word_embeddings=m.tied,
    rope_parameters={ "rope_type": "default", "rope_theta": m.rope_theta },
    bos_token_id=None, eos_token_id=list( m.eos_tokens ) or None, pad_token_id=None )
  state = { name: torch.from_numpy( model.read( name, shape ) ) for name, shape in tensor_shapes( m ).items() }
  return Qwen2ForCausalLM.from_pretrained( None, config=config, state_dict=state, dtype=torch.float32 )

def compare_logits( device: Device, reference: Reference, tokens: list[int], window: int,
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
    device.check_prompt( part )
    ref, at = reference.logits( part ), 0
    for rows in device.score( part ):
      found.add( ref[at : at + len( rows )], rows, part[at + 1 : at + 1 + len( rows )] )
      at += len( rows )
      if progress:
        progress( start + at, len( tokens ) )
  return found

def compare( model: str | Path | Model, *, text: str | None = None, tokens: int = 4096,
             image: Image | str | Path | None = None, precision: str = DEFAULT_PRECISION,
             config: str | NpuConfig | None = None, context: int | None = None, pass_rows: int | None = None,
             progress: Callable[[int, int], None] | None = None ) -> ComparisonReport:
  """Compare a model on the functional NPU with Hugging Face in float32, teacher-forced on the same tokens.

  Parameters
  ----------
  model
    A checkpoint folder, a GGUF file, an embedded model's name, or what `open_model` returns.
  text
    What to compare on; None: the held-out text of the embedded models.
  tokens
    Of the text, from its start; cut into windows of the image's context.
  image, precision, config, context, pass_rows
    As for `npu.Session`.
  progress
    Called with (tokens done, tokens in all).

  Raises
  ------
  NpuError
    As `npu.Session` and `compare_logits`; torch is not installed.
  """
  if tokens < 2:
    raise OptionError( "tokens", f"is {tokens}; choose 2 or more" )
  opened = open_model( model )
  known  = TextCodec( opened ).encode( held_out_text() if text is None else text )[:tokens]
  device = Device( open_image( opened, image, precision=precision, config=config, context=context,
                                pass_rows=pass_rows ) )
  found  = compare_logits( device, Reference( opened ), known, device.context, progress )
  return found.report( device )
