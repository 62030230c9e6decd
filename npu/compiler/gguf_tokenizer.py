"""The tokenizer of a GGUF file, as Hugging Face's for Qwen2: byte-level BPE.

The file has the vocabulary, the merges and the types of tokens. How text is normalised and cut before the merges is not
in it, only a name for that, so what the name stands for is written down here.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from npu.compiler.gguf_file import GgufFile, shown
from npu.errors import NpuError

if TYPE_CHECKING:
  from tokenizers import Tokenizer

# The pattern of Qwen2's published tokenizer.json.
QWEN2_SPLIT = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
  r"|\s*[\r\n]+|\s+(?!\S)|\s+" )

TOKENS, TYPES, MERGES = ( f"tokenizer.ggml.{key}" for key in ( "tokens", "token_type", "merges" ) )

# Types of tokens, with llama.cpp's numbers. An unused one fills the vocabulary up: no text becomes it, nor it a text.
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5

def token_texts( file: GgufFile ) -> list[str]:
  """The texts of all tokens by id: of ordinary ones in GPT-2's characters for bytes, of the others as they are."""
  try:
    return [ token.decode() for token in file.strings( TOKENS ) ]
  except UnicodeDecodeError as e:
    raise NpuError( f"{file.path}: {TOKENS} holds {e.object!r:.60}; UTF-8 is expected" ) from None

def mk_tokenizer( file: GgufFile ) -> "Tokenizer":
  """The tokenizer of a GGUF file; NpuError if it has none, it is of another kind, or it contradicts itself."""
  from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
  _refuse_other_kinds( file )
  texts, types = token_texts( file ), _token_types( file )
  try:
    tokenizer = Tokenizer( models.BPE( vocab=_vocabulary( file.path, texts, types ), merges=_merges( file ) ) )
  except NpuError:
    raise
  except Exception as e:
    raise NpuError( f"{file.path}: {MERGES} does not fit {TOKENS}: {_problem( e )}" ) from None
  tokenizer.normalizer    = normalizers.NFC()
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence( [
    pre_tokenizers.Split( Regex( QWEN2_SPLIT ), behavior="isolated" ),
    pre_tokenizers.ByteLevel( add_prefix_space=False, use_regex=False ) ] )
  tokenizer.decoder       = decoders.ByteLevel()
  tokenizer.add_special_tokens( [ AddedToken( t, normalized=False ) for t in _of_type( texts, types, CONTROL ) ] )
  tokenizer.add_tokens( [ AddedToken( t, normalized=False ) for t in _of_type( texts, types, USER_DEFINED ) ] )
  return tokenizer

def _problem( e: Exception ) -> str:
  """What is wrong, in one line; the library tells where it noticed before that."""
  return shown( str( e ).rpartition( ": " )[2] )

def _refuse_other_kinds( file: GgufFile ) -> None:
  for key, expected in ( ( "model", "gpt2" ), ( "pre", "qwen2" ) ):
    found = file.text( f"tokenizer.ggml.{key}" )
    if found is None:
      raise NpuError( f"{file.path} has no tokenizer; tokenizer.ggml.{key} is expected to be {expected!r}" )
    if found != expected:
      raise NpuError( f"{file.path}: tokenizer.ggml.{key} is {shown( found )}; only {expected!r} is supported" )
  for key in ( "add_bos_token", "add_eos_token" ):
    if file.flag( f"tokenizer.ggml.{key}" ):
      raise NpuError( f"{file.path}: tokenizer.ggml.{key} is true; Qwen2's tokenizer adds no tokens to a text" )

def _token_types( file: GgufFile ) -> list[int]:
  found = file.numbers( TYPES )
  known = np.isin( found, ( NORMAL, CONTROL, USER_DEFINED, UNUSED ) )
  if not known.all():
    at = int( np.argmin( known ) )
    raise NpuError( f"{file.path}: token {at} is of type {found[at]}; {NORMAL} (normal), {CONTROL} (control), "
                    f"{USER_DEFINED} (user defined) and {UNUSED} (unused) are supported" )
  return [ int( kind ) for kind in found.tolist() ]

def _of_type( texts: list[str], types: list[int], kind: int ) -> list[str]:
  return [ text for text, found in zip( texts, types, strict=True ) if found == kind ]

def _vocabulary( path: Path, texts: list[str], types: list[int] ) -> dict[str, int]:
  """Ids by text, of all tokens that are in use."""
  if len( texts ) != len( types ):
    raise NpuError( f"{path}: {TYPES} has {len( types )} entries; {len( texts )} are expected from {TOKENS}" )
  found: dict[str, int] = {}
  for i, ( text, kind ) in enumerate( zip( texts, types, strict=True ) ):
    if kind != UNUSED and ( not text or found.setdefault( text, i ) != i ):
      problem = f"tokens {found[text]} and {i} are both {shown( text )}" if text else f"token {i} is empty"
      raise NpuError( f"{path}: {problem}; each token needs a text of its own" )
  return found

def _merges( file: GgufFile ) -> list[tuple[str, str]]:
  """Pairs of tokens in the order in which they are merged. Neither has a space in it: GPT-2 writes that as a letter."""
  found = []
  for merge in file.strings( MERGES ):
    pair = merge.decode( errors="replace" ).split( " " )
    if len( pair ) != 2:
      raise NpuError( f"{file.path}: {MERGES} holds {shown( merge )}; two tokens with a space between are expected" )
    found.append( ( pair[0], pair[1] ) )
  return found
