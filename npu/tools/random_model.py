"""Random Qwen2 checkpoints of known shapes, for work that needs a model's size but not its knowledge.

`write_random_model` writes the files that `save_pretrained` writes: config.json,
generation_config.json, BF16 safetensors and a working byte-level BPE tokenizer. It downloads
nothing and needs no torch. The same shape and seed give the same files.
"""

import errno
import hashlib
import json
import math
import os
import re
import shutil
import string
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import TensorSpec, serialize_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from npu.errors import NpuError, OptionError
from npu.tools.tokenizer import QWEN2_SPLIT, SPECIAL_TOKENS, save_qwen2_tokenizer

#-------------------------------------------------------------------------
# Shapes
#-------------------------------------------------------------------------

SHAPES: dict[str, dict[str, int]] = {
  "nano":       { "vocab_size": 384, "hidden_size": 64, "intermediate_size": 96,
                  "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2 },
  "tiny":       { "vocab_size": 1024, "hidden_size": 128, "intermediate_size": 352,
                  "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2 },
  "qwen2-0.5b": { "vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864,
                  "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2 },
  "qwen2-1.5b": { "vocab_size": 151936, "hidden_size": 1536, "intermediate_size": 8960,
                  "num_hidden_layers": 28, "num_attention_heads": 12, "num_key_value_heads": 2 },
}

# Longest sequence in tokens, and the base of the rotary embedding's frequencies.
CONTEXT: dict[str, int] = { "nano": 256, "tiny": 256, "qwen2-0.5b": 32768, "qwen2-1.5b": 32768 }
ROPE_THETA: dict[str, float] = { "nano": 1e4, "tiny": 1e4, "qwen2-0.5b": 1e6, "qwen2-1.5b": 1e6 }

# Qwen2 pads its vocabulary: of 151936 rows only these and the special tokens have a text.
QWEN2_ORDINARY_TOKENS = 151643

# One shard is in memory at a time, so this (or the largest tensor, if larger) bounds the memory.
SHARD_BYTES = 280_000_000

def n_ordinary_tokens( vocab_size: int ) -> int:
  """Number of tokens that are not special, which is also the id of <|endoftext|>."""
  return min( vocab_size - len( SPECIAL_TOKENS ), QWEN2_ORDINARY_TOKENS )

def mk_config( like: str ) -> dict[str, Any]:
  """Contents of config.json for the shape `like`, with the keys of Qwen2's published checkpoints."""
  end    = n_ordinary_tokens( SHAPES[like]["vocab_size"] )
  config = {
    **SHAPES[like],
    "architectures": [ "Qwen2ForCausalLM" ],
    "attention_dropout": 0.0,
    "bos_token_id": end,
    "eos_token_id": end,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "max_position_embeddings": CONTEXT[like],
    "max_window_layers": SHAPES[like]["num_hidden_layers"],
    "model_type": "qwen2",
    "rms_norm_eps": 1e-6,
    "rope_theta": ROPE_THETA[like],
    "sliding_window": CONTEXT[like],
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_sliding_window": False,
  }
  return dict( sorted( config.items() ) )

def tensor_shapes( like: str ) -> dict[str, tuple[int, ...]]:
  """Name and shape of every tensor; linear weights are [ outputs, inputs ]. The head is tied."""
  shape  = SHAPES[like]
  hidden = shape["hidden_size"]
  inter  = shape["intermediate_size"]
  kv     = hidden // shape["num_attention_heads"] * shape["num_key_value_heads"]
  layer: dict[str, tuple[int, ...]] = {
    "input_layernorm.weight": ( hidden, ),
    "self_attn.q_proj.weight": ( hidden, hidden ), "self_attn.q_proj.bias": ( hidden, ),
    "self_attn.k_proj.weight": ( kv, hidden ),     "self_attn.k_proj.bias": ( kv, ),
    "self_attn.v_proj.weight": ( kv, hidden ),     "self_attn.v_proj.bias": ( kv, ),
    "self_attn.o_proj.weight": ( hidden, hidden ),
    "post_attention_layernorm.weight": ( hidden, ),
    "mlp.gate_proj.weight": ( inter, hidden ),
    "mlp.up_proj.weight": ( inter, hidden ),
    "mlp.down_proj.weight": ( hidden, inter ),
  }
  return { "model.embed_tokens.weight": ( shape["vocab_size"], hidden ),
           **{ f"model.layers.{i}.{name}": dims
               for i in range( shape["num_hidden_layers"] ) for name, dims in layer.items() },
           "model.norm.weight": ( hidden, ) }

#-------------------------------------------------------------------------
# Weights
#-------------------------------------------------------------------------

CHUNK = 1 << 20   # values per step, so that the float32 copy stays small beside the BF16 tensor

def to_bf16( values: NDArray[np.float32] ) -> NDArray[np.uint16]:
  """BF16 bit patterns of finite float32 `values` (any shape), rounded to nearest, ties to even."""
  bits = values.view( np.uint32 )
  # Just under half a unit of the last kept bit, or exactly half where that bit is odd, carries
  # into the kept half when it should.
  bits = bits + ( 0x7fff + ( bits >> 16 & 1 ) )
  return ( bits >> 16 ).astype( np.uint16 )

def mean_and_std( name: str, dims: tuple[int, ...] ) -> tuple[float, float]:
  """Distribution of a tensor's values, such that activations neither vanish nor blow up."""
  if name.endswith( "norm.weight" ):
    return 1.0, 0.1
  if name.endswith( "v_proj.bias" ):
    return 0.0, 0.1
  if name.endswith( ".bias" ):
    return 0.0, 1.0
  # The embedding is also the output head, with `hidden_size` inputs: the same rule serves it.
  return 0.0, 1.0 / math.sqrt( dims[1] )

def random_tensor( name: str, dims: tuple[int, ...], seed: int ) -> NDArray[np.uint16]:
  """BF16 bit patterns of shape `dims`, determined by `seed` and the tensor's `name` alone."""
  digest    = hashlib.sha256( f"{seed}/{name}".encode() ).digest()
  rng       = np.random.Generator( np.random.PCG64( int.from_bytes( digest, "little" ) ) )
  mean, std = mean_and_std( name, dims )
  flat      = np.empty( math.prod( dims ), np.uint16 )
  for start in range( 0, flat.size, CHUNK ):
    values  = rng.standard_normal( min( CHUNK, flat.size - start ), np.float32 )
    values *= np.float32( std )
    values += np.float32( mean )
    flat[ start : start + CHUNK ] = to_bf16( values )
  if name.endswith( ( "q_proj.bias", "k_proj.bias" ) ):
    # Qwen2 has a few channels with very large q and k biases, which low precision must survive.
    channels       = rng.choice( flat.size, max( 1, flat.size // 32 ), replace=False )
    signs          = rng.integers( 0, 2, channels.size ) * 2 - 1
    flat[channels] = to_bf16( ( 10 * signs ).astype( np.float32 ) )
  return flat.reshape( dims )

def plan_shards( sizes: dict[str, int], limit: int ) -> list[list[str]]:
  """Split the tensors, `sizes` in bytes, in order into shards of at most `limit` bytes each.

  A tensor larger than `limit` gets a shard of its own.
  """
  shards: list[list[str]] = []
  room = 0
  for name, size in sizes.items():
    if not shards or size > room:
      shards.append( [] )
      room = limit
    shards[-1].append( name )
    room -= size
  return shards

def write_shard( path: Path, tensors: dict[str, NDArray[np.uint16]] ) -> None:
  """Write BF16 bit patterns as one safetensors file."""
  if sys.byteorder == "big":
    tensors = { name: t.byteswap() for name, t in tensors.items() }
  specs = { name: TensorSpec( dtype="bfloat16", shape=t.shape, data_ptr=t.ctypes.data,
                              data_len=t.nbytes ) for name, t in tensors.items() }
  serialize_file( specs, path, metadata={ "format": "pt" } )
  # safetensors makes its files readable by the owner alone; the other files follow the umask.
  shutil.copymode( path.parent / "config.json", path )

def write_weights( directory: Path, like: str, seed: int,
                   progress: Callable[[int, int], None] | None ) -> None:
  """Write model.safetensors, or shards and their index; config.json must be there already."""
  shapes = tensor_shapes( like )
  sizes  = { name: 2 * math.prod( dims ) for name, dims in shapes.items() }
  total  = sum( sizes.values() )
  shards = plan_shards( sizes, SHARD_BYTES )
  done   = 0
  weight_map: dict[str, str] = {}
  for number, names in enumerate( shards, 1 ):
    file_name = "model.safetensors"
    if len( shards ) > 1:
      file_name = f"model-{number:05}-of-{len( shards ):05}.safetensors"
    tensors: dict[str, NDArray[np.uint16]] = {}
    for name in names:
      tensors[name]    = random_tensor( name, shapes[name], seed )
      weight_map[name] = file_name
      done            += sizes[name]
      if progress:
        progress( done, total )
    write_shard( directory / file_name, tensors )
    del tensors  # else it is still there while the next shard's first tensor is made
  if len( shards ) > 1:
    write_json( directory / "model.safetensors.index.json",
                { "metadata": { "total_parameters": total // 2, "total_size": total },
                  "weight_map": dict( sorted( weight_map.items() ) ) } )

#-------------------------------------------------------------------------
# Tokenizer
#-------------------------------------------------------------------------
#
# There is no corpus to train on. Instead a list of texts is worked through, most useful first, and
# each is given the merges it still lacks. A new merge ranks below all earlier ones, so it is tried
# only where no earlier one applies: it cannot change how an earlier token comes about. And as two
# neighbouring pieces of a split text, taken alone, split into just these two, the new token is
# distinct from all others and is reached from its own text.

PIECES = """
  in er on re th an at en es or ti te is it al ar ed st ng ing ion ent and the le ou se ve ic as ro
"""

# Roughly by how common they are in English prose.
WORDS = """
  the of and to a in is that it was for on are as with his they be at this from I have or by one had
  not but what all were when we there can an your which their if will each about how up out them
  then she many some so these would other into has more her two like him see time could no make than
  first been its who now people my made over did down only way find use may water long little very
  after words called just where most know get through back much before go good new write our used me
  man too any day same right look think also around another came come work three word must because
  does part even place well such here take why things help put years different away again off went
  old number great tell men say small every found still between name should home big give air line
  set own under read last never us left end along while might next sound below saw something thought
  both few those always looked show large often together asked house world going want school
  important until form food keep children feet land side without boy once animals life enough took
  sometimes four head above kind began almost live page got earth need far hand high year mother
  light parts country father let night following picture being study second eyes soon times story
  boys since white days ever paper hard near sentence better best across during today others however
  sure means knew try told young miles sun ways thing whole hear example heard several change answer
  room sea against top turned learn point city play toward five using himself usually money seen car
  morning given order red door really ship feel person language model token network machine computer
  program data memory number system value function code error file test input output run start stop
  return define class import print true false none list string loop index question problem reason
  fact idea power force energy heart love death king queen son daughter god lord spirit
  holy shall unto thou thee thy hath man woman child friend brother sister family body
  face voice moment minute hour week month state government company business market service group
  party war peace law history science art music book letter color black green blue brown yellow gold
  one two three four five six seven eight nine ten hundred thousand million hello please thank yes
  Monday Tuesday Wednesday Thursday Friday Saturday Sunday January February March April June July
  August September October November December England London America China Paris France German
"""

SYMBOLS = """
  's 't 're 've 'm 'll 'd , . .. ... -- --- == != <= >= -> => += -= *= /= // /* */ ** && || :: () []
  {} (); ); ]; }; () {}, ), ]) )) "" '' ", ', ": '." ." ?" !" ," (" (' "> </ /> <! ## ### ``` ~~ ++ __
"""

# First and last code points of blocks whose every character becomes one token.
CHARACTERS = [
  ( 0xa1, 0x24f ), ( 0x391, 0x3a9 ), ( 0x3b1, 0x3c9 ), ( 0x400, 0x481 ),   # Latin, Greek, Cyrillic
  ( 0x5d0, 0x5ea ), ( 0x621, 0x64a ), ( 0x904, 0x939 ), ( 0xe01, 0xe30 ),  # Hebrew to Thai
  ( 0x2010, 0x2027 ), ( 0x2030, 0x205e ), ( 0x20a0, 0x20bf ), ( 0x2190, 0x21ff ),  # signs, arrows
  ( 0x2200, 0x22ff ), ( 0x2500, 0x25ff ), ( 0x2600, 0x27bf ),              # mathematics to dingbats
  ( 0x3001, 0x3002 ), ( 0x3041, 0x3096 ), ( 0x30a1, 0x30fc ), ( 0xff01, 0xff5e ),  # Japanese, wide
  ( 0x4e00, 0x9fa5 ), ( 0xac00, 0xd7a3 ),                                  # Chinese, Korean
  ( 0x1f300, 0x1f64f ), ( 0x1f680, 0x1f6c5 ), ( 0x1f900, 0x1f9ff ),        # emoji
]

def byte_characters() -> str:
  """The character that stands for each of the 256 bytes in a byte-level vocabulary, as in GPT-2."""
  printable = [ *range( 33, 127 ), *range( 161, 173 ), *range( 174, 256 ) ]
  others    = [ b for b in range( 256 ) if b not in printable ]
  return "".join( chr( b if b in printable else 256 + others.index( b ) ) for b in range( 256 ) )

BYTE_CHARACTERS = byte_characters()

def word_texts() -> Iterator[str]:
  """Common English, most useful first: it is all that a small vocabulary has room for."""
  words = WORDS.split()
  yield from PIECES.split()
  for group in ( words[:200], words[200:] ):
    yield from ( " " + w for w in group )
    yield from ( w.capitalize() for w in group )
    yield from group
    yield from ( " " + w.capitalize() for w in group )

def symbol_texts() -> Iterator[str]:
  """Punctuation, white space, and single characters beyond ASCII. Qwen2 never merges digits."""
  for symbol in SYMBOLS.split():
    yield symbol
    if not symbol[-1].isalpha():  # " 's" is never one piece: the pre-tokeniser splits it
      yield " " + symbol
  for n in range( 2, 33 ):
    yield " " * n
  for n in range( 2, 9 ):
    yield "\n" * n
    yield "\t" * n
  for first, last in CHARACTERS:
    yield from map( chr, range( first, last + 1 ) )

def letter_texts() -> Iterator[str]:
  """All short strings of letters, then longer pronounceable ones: more than Qwen2's vocabulary."""
  lower, upper, vowels = string.ascii_lowercase, string.ascii_uppercase, "aeiou"
  for n in range( 1, 4 ):
    for text in map( "".join, product( lower, repeat=n ) ):
      yield from ( text, " " + text, text.capitalize(), " " + text.capitalize() )
  for n in range( 2, 4 ):
    yield from map( "".join, product( upper, repeat=n ) )
  for text in map( "".join, product( lower, vowels, lower, vowels, lower ) ):
    yield text
    yield " " + text

def split( text: str, ranks: dict[tuple[str, str], int] ) -> list[str]:
  """The BPE pieces of `text` (in byte characters) under the merges `ranks`, lowest rank first."""
  pieces = list( text )
  while len( pieces ) > 1:
    rank, i = min( ( ranks.get( pair, sys.maxsize ), i )
                   for i, pair in enumerate( pairwise( pieces ) ) )
    if rank == sys.maxsize:
      break
    pieces[ i : i + 2 ] = [ pieces[i] + pieces[ i + 1 ] ]
  return pieces

def mk_merges( count: int ) -> list[tuple[str, str]]:
  """The first `count` merges. Each makes a token of its own, which its own text encodes to."""
  ranks: dict[tuple[str, str], int] = {}
  for texts in ( word_texts(), symbol_texts(), letter_texts() ):
    for text in texts:
      characters = "".join( BYTE_CHARACTERS[b] for b in text.encode() )
      # The split is made anew after each merge, which may apply more than once in a text.
      while len( pieces := split( characters, ranks ) ) > 1:
        if len( ranks ) == count:
          return list( ranks )
        ranks[ pieces[0], pieces[1] ] = len( ranks )
  raise ValueError( f"no more than {len( ranks )} merges can be made, {count} are wanted" )

def mk_tokenizer( vocab_size: int ) -> Tokenizer:
  """A byte-level BPE tokenizer with Qwen2's normaliser, pre-tokeniser and special tokens.

  Ids: 256 bytes, the merges, then <|endoftext|>, <|im_start|> and <|im_end|>, which are the last
  of `vocab_size` ids, or 151643 to 151645 as in Qwen2 if there are more. Any text decodes to
  itself in Unicode's normal form C. Raises ValueError if `vocab_size` is below 259.
  """
  n_merges = n_ordinary_tokens( vocab_size ) - len( BYTE_CHARACTERS )
  if n_merges < 0:
    raise ValueError( f"a vocabulary of {vocab_size} has no room for 256 bytes and the special tokens" )
  merges    = mk_merges( n_merges )
  tokens    = sorted( BYTE_CHARACTERS ) + [ a + b for a, b in merges ]
  tokenizer = Tokenizer( models.BPE( vocab={ t: i for i, t in enumerate( tokens ) }, merges=merges ) )
  tokenizer.normalizer    = normalizers.NFC()
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence( [
    pre_tokenizers.Split( Regex( QWEN2_SPLIT ), behavior="isolated" ),
    pre_tokenizers.ByteLevel( add_prefix_space=False, use_regex=False ) ] )
  tokenizer.decoder = decoders.ByteLevel()
  tokenizer.add_special_tokens( [ AddedToken( t, special=True ) for t in SPECIAL_TOKENS ] )
  return tokenizer

#-------------------------------------------------------------------------
# Checkpoint
#-------------------------------------------------------------------------

def write_json( path: Path, value: dict[str, Any] ) -> None:
  """Write `value` as save_pretrained does: indented by 2, with a final newline."""
  path.write_text( json.dumps( value, indent=2 ) + "\n", encoding="utf-8" )

def write_files( directory: Path, like: str, seed: int,
                 progress: Callable[[int, int], None] | None ) -> None:
  """Write all files of the checkpoint into the existing `directory`."""
  config = mk_config( like )
  write_json( directory / "config.json", config )
  write_json( directory / "generation_config.json",
              { "bos_token_id": config["bos_token_id"], "do_sample": False,
                "eos_token_id": config["eos_token_id"] } )
  save_qwen2_tokenizer( mk_tokenizer( SHAPES[like]["vocab_size"] ), directory, CONTEXT[like] )
  write_weights( directory, like, seed, progress )

def write_random_model( directory: Path, like: str, seed: int = 0,
                        progress: Callable[[int, int], None] | None = None ) -> None:
  """Write a random Qwen2 checkpoint with the shape `like`, a key of SHAPES, to `directory`.

  The directory must be new or empty; it appears complete or, on failure, not at all. Memory stays
  near that of the largest tensor. `progress( done, total )` is called after each tensor with the
  bytes of weights made so far and in all.

  Raises ValueError for an unknown shape and FileExistsError if `directory` is a file or not empty.
  """
  if like not in SHAPES:
    raise ValueError( f"unknown model shape {like!r}; known are {', '.join( SHAPES )}" )
  # Resolved, because a directory cannot be renamed over a symbolic link to one.
  target = directory.resolve()
  if target.exists() and ( not target.is_dir() or any( target.iterdir() ) ):
    raise FileExistsError( f"{directory} exists and is not an empty directory; "
                           "choose another, or remove it first" )
  try:
    target.parent.mkdir( parents=True, exist_ok=True )
  except FileExistsError:
    raise NotADirectoryError( errno.ENOTDIR, os.strerror( errno.ENOTDIR ) ) from None
  with tempfile.TemporaryDirectory( prefix=f".{target.name}-", dir=target.parent ) as parent:
    # One level down, because the temporary directory itself is readable by its owner alone.
    partial = Path( parent ) / "model"
    partial.mkdir()
    with _os_errors():
      write_files( partial, like, seed, progress )
    os.replace( partial, target )

@contextmanager
def _os_errors() -> Iterator[None]:
  """OSError for a full disk and the like, which safetensors and tokenizers raise as errors of their own."""
  try:
    yield
  except OSError:
    raise
  except Exception as e:
    number = re.search( r"\(os error (\d+)\)", str( e ) )
    if number is None:
      raise
    raise OSError( int( number[1] ), os.strerror( int( number[1] ) ) ) from e

def random_model( directory: str | Path, like: str, seed: int = 0,
                  progress: Callable[[int, int], None] | None = None ) -> Path:
  """Write a random checkpoint of real dimensions, with a working tokenizer; the folder.

  As `write_random_model`, with NpuError for whatever is wrong.
  """
  if seed < 0:
    raise OptionError( "seed", f"is {seed}; choose 0 or more" )
  try:
    write_random_model( Path( directory ), like, seed, progress )
  except ( ValueError, FileExistsError ) as e:
    raise NpuError( str( e ) ) from None
  except OSError as e:
    raise NpuError( f"cannot write {directory}: {e.strerror}" ) from None
  return Path( directory )
