"""The tokenizer's side of the host: text to tokens, and tokens to text as they come."""

from collections.abc import Callable
from pathlib import Path

from npu.compiler.find import open_model
from npu.compiler.model import Model
from npu.errors import NpuError

class TextCodec:
  """A model's tokenizer: text to tokens, and tokens to text as they come. NpuError if it has none."""

  def __init__( self, model: str | Path | Model ) -> None:
    self._tokenizer = ( open_model( model ) ).tokenizer()

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
