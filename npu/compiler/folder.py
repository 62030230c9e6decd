"""A model as a folder of Hugging Face's: config.json, safetensors, tokenizer.json."""

import hashlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npu.arch.numerics.fp32 import F32
from npu.compiler.checkpoint import Checkpoint, ModelConfig, read_config, read_json
from npu.compiler.model import ChatTemplate
from npu.errors import NpuError

if TYPE_CHECKING:
  from tokenizers import Tokenizer

# Special tokens that chat templates name.
SPECIAL = ( "bos_token", "eos_token", "pad_token", "unk_token" )

class FolderModel:
  """See `npu.compiler.model.Model`."""

  def __init__( self, path: Path ) -> None:
    self.path = path
    self.name = path.resolve().name

  # Read when they are needed: the tokenizer alone works without dimensions and weights.

  @cached_property
  def dims( self ) -> ModelConfig:
    """From config.json; NpuError if it is missing, broken or not supported."""
    return read_config( self.path )

  @cached_property
  def _tensors( self ) -> Checkpoint:
    return Checkpoint( self.path )

  def check( self, name: str, shape: tuple[int, ...] ) -> None:
    """As `Model.check`."""
    self._tensors.check( name, shape )

  def read( self, name: str, shape: tuple[int, ...], start: int = 0, stop: int | None = None ) -> F32:
    """As `Model.read`."""
    return self._tensors.read( name, shape, start, stop )

  def tokenizer( self ) -> "Tokenizer":
    """From tokenizer.json, or vocab.json and merges.txt."""
    path = self.path / "tokenizer.json"
    if not path.exists() and not all( ( self.path / f ).exists() for f in ( "vocab.json", "merges.txt" ) ):
      raise NpuError( f"{self.path} has no tokenizer; tokenizer.json, or vocab.json and merges.txt, are expected" )
    try:
      # tokenizer.json alone needs no more than the tokenizers library, which starts at once.
      if path.exists():
        from tokenizers import Tokenizer
        return Tokenizer.from_file( str( path ) )
      from transformers import AutoTokenizer
      found: Tokenizer = AutoTokenizer.from_pretrained( self.path, local_files_only=True ).backend_tokenizer
      return found
    except Exception as e:
      raise NpuError( f"{self.path}: the tokenizer cannot be loaded: {str( e ).splitlines()[0]}" ) from None

  def chat_template( self ) -> ChatTemplate | None:
    """From chat_template.jinja, or tokenizer_config.json."""
    path   = self.path / "tokenizer_config.json"
    config = read_json( path ) if path.exists() else {}
    file   = self.path / "chat_template.jinja"
    source = file.read_text( encoding="utf-8" ) if file.exists() else config.get( "chat_template" )
    if source is None:
      return None
    if not isinstance( source, str ):
      raise NpuError( f"{path}: chat_template is a {type( source ).__name__}; one template as text is expected" )
    # A special token is a text, or an object that has it as its content.
    known = { key: value.get( "content" ) if isinstance( value, dict ) else value
              for key in SPECIAL if ( value := config.get( key ) ) }
    return ChatTemplate( source, { key: str( value ) for key, value in known.items() if value is not None } )

  def generation( self ) -> Mapping[str, Any]:
    """From generation_config.json."""
    path = self.path / "generation_config.json"
    return read_json( path ) if path.exists() else {}

  def fingerprint( self ) -> str:
    """Of config.json, generation_config.json and the files of weights: names, sizes and contents."""
    digest = hashlib.sha256()
    files  = [ self.path / "config.json", self.path / "generation_config.json", *self._tensors.files() ]
    for path in files:
      if path.exists():
        digest.update( f"{path.name} {path.stat().st_size}\n".encode() )
        with path.open( "rb" ) as file:
          digest.update( hashlib.file_digest( file, "sha256" ).digest() )
    return digest.hexdigest()
