"""The tokenizer's side of the host: text to tokens, and tokens to text as they come."""

from collections.abc import Callable
from typing import Any

from npu.compiler.checkpoint import find_model
from npu.errors import NpuError

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
