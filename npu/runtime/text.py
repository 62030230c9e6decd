"""The tokenizer's side of the host: text to tokens, and tokens to text as they come."""

from collections.abc import Callable, Sequence
from pathlib import Path

from npu.compiler.find import open_model
from npu.compiler.model import Model
from npu.errors import NpuError, OptionError

class TextCodec:
  """A model's tokenizer: text to tokens, and tokens to text as they come. NpuError if it has none.

  Attributes
  ----------
  model
    Where it is from.
  """

  def __init__( self, model: str | Path | Model ) -> None:
    self.model      = open_model( model )
    self._tokenizer = self.model.tokenizer()
    # A file may ask for what training needed: prompts cut to a length, or filled up to one.
    self._tokenizer.no_truncation()
    self._tokenizer.no_padding()

  def encode( self, text: str, special: bool = True ) -> list[int]:
    """Tokens of a text; NpuError if it holds what UTF-8 cannot.

    `special` is whether the tokenizer adds what it puts around a text, such as a token for its beginning.
    """
    try:
      text.encode()
    except UnicodeEncodeError:
      raise NpuError( "the prompt is not valid UTF-8" ) from None
    return list( self._tokenizer.encode( text, add_special_tokens=special ).ids )

  def decode( self, tokens: Sequence[int] ) -> str:
    """Text of tokens, special ones left out."""
    return str( self._tokenizer.decode( list( tokens ), skip_special_tokens=True ) )

  def special_at_start( self, text: str ) -> int | None:
    """The special token that a text begins with, if there is one."""
    found = [ ( len( name ), token ) for token, name in self._specials().items() if text.startswith( name ) ]
    return max( found )[1] if found else None

  def _specials( self ) -> dict[int, str]:
    added = self._tokenizer.get_added_tokens_decoder()
    return { int( token ): str( about.content ) for token, about in added.items() if about.special }

  def stream( self ) -> Callable[[int], str]:
    """A function that takes one token at a time and returns the text that is new and complete.

    A character may take several tokens; it appears with the last of them. Work per token does not grow with the text:
    only the tokens of the piece before are decoded again, since a decoder may look at what stands beside a token.
    """
    specials = self._specials()
    window: list[int] = []      # the tokens of the last piece, then those of which nothing has been shown
    settled  = 0                # how many tokens the last piece had
    seen     = ""               # its text, decoded alone

    def push( token: int ) -> str:
      nonlocal window, settled, seen
      if token in specials:
        return ""
      window.append( token )
      text = self.decode( window )
      if text.endswith( "\N{REPLACEMENT CHARACTER}" ) or len( text ) <= len( seen ):
        return ""
      new     = text[len( seen ) :]
      window  = window[settled :]
      settled = len( window )
      seen    = self.decode( window )
      return new

    return push

class StopTexts:
  """Cuts a text that comes in pieces before the first of some texts that end it.

  A piece that may be the beginning of such a text is held back until it is known.

  Parameters
  ----------
  texts
    What ends the text; the one that is complete first counts.

  Attributes
  ----------
  found
    Whether the end has come.
  shown
    Characters that have been let through.

  Raises
  ------
  NpuError
    One of the texts is empty.
  """

  def __init__( self, texts: Sequence[str] = () ) -> None:
    if "" in texts:
      raise OptionError( "stop", "is empty; give a text that ends the generation" )
    self.found  = False
    self.shown  = 0
    self._texts = tuple( texts )
    self._held  = ""

  def push( self, piece: str ) -> str:
    """The next piece of text; what can be shown."""
    text  = self._held + piece
    found = [ ( start + len( s ), start ) for s in self._texts if ( start := text.find( s ) ) >= 0 ]
    if found:
      self.found = True
      end        = min( found )[1]
    else:
      end = len( text ) - self._begun( text )
    self._held  = text[end :]
    self.shown += end
    return text[:end]

  def _begun( self, text: str ) -> int:
    """How many characters at the end of a text may be the beginning of one that ends it."""
    longest = max( map( len, self._texts ), default=1 ) - 1
    sizes   = range( min( longest, len( text ) ), 0, -1 )
    return next( ( n for n in sizes if any( s.startswith( text[-n:] ) for s in self._texts ) ), 0 )

  def finish( self ) -> str:
    """No more pieces come; what was held back can be shown, unless the end has come."""
    rest = "" if self.found else self._held
    self.shown += len( rest )
    return rest
