"""A model as it lies on disk, whatever its form: dimensions, tensors, tokenizer, chat template.

`npu.compiler.find.open_model` finds out which form a MODEL argument has. Everything that reads a model works with
`Model` alone, so a form is one class: `npu.compiler.folder` for what Hugging Face's `save_pretrained` writes,
`npu.compiler.gguf_model` for GGUF files.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from npu.arch.numerics.fp32 import F32
from npu.compiler.checkpoint import ModelConfig

if TYPE_CHECKING:
  from tokenizers import Tokenizer

@dataclass( frozen=True )
class ChatTemplate:
  """How a conversation becomes a prompt.

  Attributes
  ----------
  source
    The template, in Jinja.
  variables
    What it may name beside the messages: bos_token, eos_token and the like, as text.
  """
  source: str
  variables: Mapping[str, str] = field( default_factory=dict )

class Model( Protocol ):
  """A model on disk.

  Attributes
  ----------
  name
    What reports call it.
  path
    Its folder or file.
  """
  name: str
  path: Path

  @property
  def dims( self ) -> ModelConfig:
    """The dimensions; NpuError if they cannot be read or are not supported."""

  def check( self, name: str, shape: tuple[int, ...] ) -> None:
    """NpuError unless the tensor, by its Hugging Face name, exists with that shape and a type that can be read."""

  def read( self, name: str, shape: tuple[int, ...], start: int = 0, stop: int | None = None ) -> F32:
    """Rows start..stop of a tensor as flushed float32; NpuError as `check`, and for NaN and infinity."""
    raise NotImplementedError

  def tokenizer( self ) -> "Tokenizer":
    """The tokenizer; NpuError if there is none, or it cannot be loaded."""
    raise NotImplementedError

  def chat_template( self ) -> ChatTemplate | None:
    """The template, if the model has one; NpuError if it cannot be read."""
    raise NotImplementedError

  def generation( self ) -> Mapping[str, Any]:
    """What the model's makers advise for sampling, as in generation_config.json: temperature, top_k, top_p,
    repetition_penalty, min_p, do_sample; empty if they say nothing."""
    raise NotImplementedError

  def fingerprint( self ) -> str:
    """Hexadecimal digest of everything that an image of it depends on; another one for another model."""
    raise NotImplementedError
