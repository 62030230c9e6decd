"""A model as a GGUF file, or as the parts of one: quantised weights, metadata and tokenizer together."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npu.arch.mailbox import MAX_EOS
from npu.arch.numerics.fp32 import F32
from npu.compiler.checkpoint import ModelConfig, finite, tensor_shapes
from npu.compiler.gguf_file import MAX_ENTRIES, GgufFile, is_gguf, shown
from npu.compiler.gguf_tokenizer import mk_tokenizer, token_texts
from npu.compiler.model import ChatTemplate
from npu.errors import NpuError

if TYPE_CHECKING:
  from tokenizers import Tokenizer

ARCHITECTURE = "qwen2"

# Parts of a model that was split, as llama.cpp's tools name them.
PART = re.compile( r"(?P<name>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf" )

# GGUF's names by Hugging Face's, without what both begin with in a layer.
TENSORS = { "model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
            "lm_head.weight": "output.weight" }
LAYER_TENSORS = {
  "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
  "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
  "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down" }

# What llama.cpp takes for the end of a text by its text alone, of the tokens that Qwen2 has.
END_TEXTS = ( "<|im_end|>", "<|endoftext|>" )

# Advice for sampling: keys of generation_config.json, and what follows general.sampling in GGUF.
SAMPLING = { "temperature": "temp", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p",
             "repetition_penalty": "penalty_repeat" }

SPECIAL = { "bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown" }

def gguf_name( name: str ) -> str:
  """GGUF's name of a tensor, by its Hugging Face name."""
  if name in TENSORS:
    return TENSORS[name]
  _, _, layer, rest = name.split( ".", 3 )
  module, _, kind = rest.rpartition( "." )
  return f"blk.{layer}.{LAYER_TENSORS[module]}.{kind}"

#-------------------------------------------------------------------------
# Files
#-------------------------------------------------------------------------

def find_gguf( folder: Path ) -> Path | None:
  """The GGUF model in a folder, by its first part; None if the folder has none or has other weights.

  Raises
  ------
  NpuError
    There are several.
  """
  if any( folder.glob( "*.safetensors" ) ):
    return None
  # Parts that belong together count once, by the one that sorts first.
  models: dict[str, Path] = {}
  for path in sorted( p for p in folder.glob( "*.gguf" ) if is_gguf( p ) ):
    part = PART.fullmatch( path.name )
    models.setdefault( f"{part['name']}-of-{part['count']}" if part else path.name, path )
  if len( models ) > 1:
    names = [ path.name for path in models.values() ]
    raise NpuError( f"{folder} holds {len( names )} GGUF models; name one of them: "
                    f"{', '.join( names[:5] )}{', ...' if names[5:] else ''}" )
  return next( iter( models.values() ), None )

def open_parts( path: Path ) -> list[GgufFile]:
  """All files of a model, in order; the first one has the metadata. `path` is any of them.

  Raises
  ------
  NpuError
    As `GgufFile`; a part is missing, or does not belong to the others.
  """
  file  = GgufFile( path )
  # A model that was put together again says 0.
  count = file.integer( "split.count" ) if file.metadata.get( "split.count" ) else 1
  if count == 1:
    return [ file ]
  part = PART.fullmatch( path.name )
  if part is None or int( part["count"] ) != count:
    raise NpuError( f"{path} is one of {count} parts of a model; "
                    f"a name that ends in -00001-of-{count:05}.gguf is expected, so that the others can be found" )
  files = []
  for i in range( count ):
    other = path.with_name( f"{part['name']}-{i + 1:05}-of-{count:05}.gguf" )
    if not other.exists():
      raise NpuError( f"{other} is missing; the model is split into {count} files" )
    files.append( file if other == path else GgufFile( other ) )
    found = ( files[i].metadata.get( "split.no" ), files[i].metadata.get( "split.count" ) )
    if found != ( i, count ):
      raise NpuError( f"{other}: split.no and split.count are {found[0]} and {found[1]}; {i} and {count} are expected" )
  return files

class _Tensors:
  """The tensors of all files of a model, by their Hugging Face names."""

  def __init__( self, files: Sequence[GgufFile] ) -> None:
    self._first = files[0]
    self._file: dict[str, GgufFile] = {}
    for file in files:
      for name in file.tensors:
        if name in self._file:
          raise NpuError( f"{file.path} has the tensor {shown( name )}, which {self._file[name].path} has too" )
        self._file[name] = file
    expected = files[0].metadata.get( "split.tensors.count", len( self._file ) )
    if expected != len( self._file ):
      raise NpuError( f"{files[0].path}: the model's files have {len( self._file )} tensors; "
                      f"{expected} are expected from split.tensors.count" )

  def shape( self, name: str ) -> tuple[int, ...] | None:
    """The shape of a tensor; None if there is none of that name."""
    file = self._file.get( gguf_name( name ) )
    return file.tensors[gguf_name( name )].shape if file else None

  def find( self, name: str, shape: tuple[int, ...] ) -> tuple[GgufFile, str]:
    """The file of a tensor and its name there; NpuError if it is not as it must be."""
    there = gguf_name( name )
    if there not in self._file:
      raise NpuError( f"{self._first.path}: tensor {there} is missing" )
    file  = self._file[there]
    found = file.tensors[there].shape
    if found != shape:
      raise NpuError( f"{file.path}: tensor {there} has shape {found}; {shape} is expected from the metadata" )
    file.check_type( there )
    return file, there

  def refuse_others( self, names: Sequence[str] ) -> None:
    """NpuError for a tensor that is none of these: the result would be another model's without it."""
    for name in sorted( set( self._file ) - { gguf_name( n ) for n in names } ):
      raise NpuError( f"{self._file[name].path}: tensor {shown( name )} is none of a dense Qwen2 model" )

#-------------------------------------------------------------------------
# Dimensions
#-------------------------------------------------------------------------

def _refuse_unsupported( file: GgufFile ) -> None:
  """NpuError for what the NPU does not compute."""
  found = file.text( "general.architecture" )
  if found != ARCHITECTURE:
    raise NpuError( f"{file.path}: general.architecture is {shown( found ) if found else 'missing'}; "
                    f"only {ARCHITECTURE!r} is supported" )
  kind = file.text( "qwen2.rope.scaling.type" )
  if kind not in ( None, "none" ):
    raise NpuError( f"{file.path}: qwen2.rope.scaling.type is {shown( kind or '' )}; "
                    "only unscaled RoPE ('none') is supported" )
  for key in ( "qwen2.rope.scaling.factor", "qwen2.rope.scale_linear" ):
    if ( factor := file.number( key ) ) not in ( None, 0.0, 1.0 ):
      raise NpuError( f"{file.path}: {key} is {factor}; only unscaled RoPE (1.0) is supported" )

def _positive_number( file: GgufFile, key: str, default: float | None = None ) -> float:
  value = file.number( key )
  value = default if value is None else value
  if value is None or not 0 < value < inf:
    raise NpuError( f"{file.path}: {key} is {'missing' if value is None else value}; a positive number is expected" )
  return value

def _head_dim( file: GgufFile, hidden: int, heads: int ) -> int:
  """Elements of a head: keys, values and what RoPE turns are the same in Qwen2."""
  found = file.integer( "qwen2.attention.key_length", max( 1, hidden // heads ) )
  if found < 2 or found % 2:
    raise NpuError( f"{file.path}: a head has {found} elements; an even number is expected" )
  for key in ( "qwen2.attention.value_length", "qwen2.rope.dimension_count" ):
    if ( other := file.integer( key, found ) ) != found:
      raise NpuError( f"{file.path}: {key} is {other}; {found} is expected, the elements of a head" )
  return found

def _eos_tokens( file: GgufFile, texts: Sequence[str] ) -> tuple[int, ...]:
  """Tokens that end a text: what the metadata names, and what llama.cpp knows by its text."""
  keys  = ( "tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id" )
  found = [ token for key in keys if ( token := file.index( key, len( texts ) ) ) is not None ]
  found += [ texts.index( text ) for text in END_TEXTS if text in texts ]
  unique = tuple( dict.fromkeys( found ) )
  assert len( unique ) <= MAX_EOS, unique
  return unique

def _read_dims( file: GgufFile, tensors: _Tensors, texts: Sequence[str] ) -> ModelConfig:
  layers = file.integer( "qwen2.block_count" )
  if layers > MAX_ENTRIES:
    raise NpuError( f"{file.path}: qwen2.block_count is {layers}; at most {MAX_ENTRIES} are supported" )
  hidden   = file.integer( "qwen2.embedding_length" )
  heads    = file.integer( "qwen2.attention.head_count" )
  kv_heads = file.integer( "qwen2.attention.head_count_kv", heads )
  if heads % kv_heads:
    raise NpuError( f"{file.path}: {heads} attention heads are not divisible by {kv_heads} key-value heads" )
  embedding = tensors.shape( "model.embed_tokens.weight" )
  if embedding is None:
    raise NpuError( f"{file.path}: tensor token_embd.weight is missing" )
  if len( texts ) > embedding[0]:
    raise NpuError( f"{file.path}: token_embd.weight has {embedding[0]} rows, fewer than the {len( texts )} tokens "
                    "of the vocabulary; a row for each is expected" )
  return ModelConfig(
    vocab_size=embedding[0], hidden_size=hidden,
    intermediate_size=file.integer( "qwen2.feed_forward_length" ), layers=layers,
    heads=heads, kv_heads=kv_heads, head_dim=_head_dim( file, hidden, heads ),
    context=file.integer( "qwen2.context_length" ),
    rms_norm_eps=_positive_number( file, "qwen2.attention.layer_norm_rms_epsilon" ),
    rope_theta=_positive_number( file, "qwen2.rope.freq_base", 10000.0 ),
    tied=tensors.shape( "lm_head.weight" ) is None, eos_tokens=_eos_tokens( file, texts ) )

#-------------------------------------------------------------------------
# The model
#-------------------------------------------------------------------------

class GgufModel:
  """See `npu.compiler.model.Model`. `path` is any file of the model; the attribute is the first one."""

  def __init__( self, path: Path ) -> None:
    self._files = open_parts( path )
    self._file  = self._files[0]
    self.path   = self._file.path
    part        = PART.fullmatch( self.path.name )
    self.name   = part["name"] if part else self.path.stem

  # Read when they are needed: the tokenizer alone works without dimensions and weights.

  @cached_property
  def dims( self ) -> ModelConfig:
    """From the metadata; NpuError if it is broken or not supported."""
    _refuse_unsupported( self._file )
    found = _read_dims( self._file, self._tensors, self._texts )
    self._tensors.refuse_others( list( tensor_shapes( found ) ) )
    return found

  @cached_property
  def _tensors( self ) -> _Tensors:
    return _Tensors( self._files )

  @cached_property
  def _texts( self ) -> list[str]:
    return token_texts( self._file )

  def check( self, name: str, shape: tuple[int, ...] ) -> None:
    """As `Model.check`."""
    self._tensors.find( name, shape )

  def read( self, name: str, shape: tuple[int, ...], start: int = 0, stop: int | None = None ) -> F32:
    """As `Model.read`. Only these rows are dequantised."""
    file, there = self._tensors.find( name, shape )
    values = file.read( there, start, shape[0] if stop is None else stop )
    return finite( values, file.path, there, start )

  def tokenizer( self ) -> "Tokenizer":
    """From the metadata."""
    return mk_tokenizer( self._file )

  def chat_template( self ) -> ChatTemplate | None:
    """From tokenizer.chat_template."""
    source = self._file.text( "tokenizer.chat_template" )
    if source is None:
      return None
    tokens = { name: self._file.index( f"tokenizer.ggml.{key}_token_id", len( self._texts ) )
               for name, key in SPECIAL.items() }
    return ChatTemplate( source, { name: self._texts[i] for name, i in tokens.items() if i is not None } )

  def generation( self ) -> Mapping[str, Any]:
    """From the keys general.sampling.*, which say nothing of do_sample: advice for sampling is advice to sample."""
    keys  = { name: f"general.sampling.{key}" for name, key in SAMPLING.items() }
    found = { name: self._file.metadata[key] for name, key in keys.items() if self._file.number( key ) is not None }
    return found | { "do_sample": True } if found.get( "temperature" ) else found

  def fingerprint( self ) -> str:
    """SHA-256 of the file; of a model in parts, that of the digests of its parts."""
    digests = []
    for file in self._files:
      with file.path.open( "rb" ) as data:
        digests.append( hashlib.file_digest( data, "sha256" ) )
    return digests[0].hexdigest() if len( digests ) == 1 else \
      hashlib.sha256( b"".join( d.digest() for d in digests ) ).hexdigest()
