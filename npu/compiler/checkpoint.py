"""Reading Qwen2 and Qwen2.5 dense checkpoints as Hugging Face's `save_pretrained` writes them."""

import json
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 - teaches numpy the type name "bfloat16", which safetensors asks for
import numpy as np
from safetensors import SafetensorError, safe_open

from npu.arch.mailbox import MAX_EOS
from npu.arch.numerics.fp32 import F32, flush
from npu.errors import NpuError

FLOAT_DTYPES = ( "F32", "BF16", "F16" )

@dataclass( frozen=True )
class ModelConfig:
  """The dimensions of a Qwen2 model; sizes in elements, `context` in tokens."""
  vocab_size: int
  hidden_size: int
  intermediate_size: int
  layers: int
  heads: int
  kv_heads: int
  head_dim: int
  context: int
  rms_norm_eps: float
  rope_theta: float
  tied: bool
  eos_tokens: tuple[int, ...]

def read_json( path: Path ) -> dict[str, Any]:
  """A JSON object from a file of a checkpoint; NpuError if there is none."""
  try:
    data = json.loads( path.read_text() )
  except FileNotFoundError:
    raise NpuError( f"{path.parent} has no {path.name}; it is not a Hugging Face checkpoint" ) from None
  except ( OSError, ValueError ) as e:
    raise NpuError( f"{path} is not readable JSON: {e}" ) from None
  if not isinstance( data, dict ):
    raise NpuError( f"{path} holds a {type( data ).__name__}; a JSON object is expected" )
  return data

def _refuse_unsupported( data: dict[str, Any], path: Path ) -> None:
  """NpuError for what the NPU does not compute."""
  if data.get( "model_type" ) != "qwen2":
    raise NpuError( f"{path}: model_type is {data.get( 'model_type' )!r}; only 'qwen2' is supported" )
  if data.get( "hidden_act", "silu" ) != "silu":
    raise NpuError( f"{path}: hidden_act is {data['hidden_act']!r}; only 'silu' is supported" )
  for key in ( "rope_scaling", "rope_parameters" ):
    if not isinstance( data.get( key ) or {}, dict ):
      raise NpuError( f"{path}: {key} is {data[key]!r}; a JSON object is expected" )
    kind = ( data.get( key ) or {} ).get( "rope_type", ( data.get( key ) or {} ).get( "type", "default" ) )
    if kind != "default":
      raise NpuError( f"{path}: {key} is of type {kind!r}; only unscaled RoPE ('default') is supported" )
  if data.get( "quantization_config" ):
    raise NpuError( f"{path}: quantization_config is set; give the unquantised checkpoint" )
  if data.get( "use_sliding_window" ) or "sliding_attention" in str( data.get( "layer_types" ) ):
    raise NpuError( f"{path}: sliding-window attention is on; only full attention is supported" )

def _eos_tokens( folder: Path, data: dict[str, Any], vocab_size: int ) -> tuple[int, ...]:
  """EOS ids of generation_config.json, or else of config.json."""
  path = folder / "generation_config.json"
  eos  = read_json( path ).get( "eos_token_id" ) if path.exists() else None
  if eos is None:
    path, eos = folder / "config.json", data.get( "eos_token_id" )
  tokens = [] if eos is None else eos if isinstance( eos, list ) else [ eos ]
  if not all( isinstance( t, int ) and 0 <= t < vocab_size for t in tokens ):
    raise NpuError( f"{path}: eos_token_id is {eos!r}; token numbers from 0 to {vocab_size - 1} are expected" )
  if len( tokens ) > MAX_EOS:
    raise NpuError( f"{path}: eos_token_id has {len( tokens )} tokens; at most {MAX_EOS} are supported" )
  return tuple( tokens )

def read_config( folder: Path ) -> ModelConfig:
  """The model's dimensions from its config.json.

  Raises
  ------
  NpuError
    The file is missing or broken, the model is not a dense Qwen2, or dimensions contradict each other.
  """
  path = folder / "config.json"
  data = read_json( path )
  _refuse_unsupported( data, path )

  def positive( key: str, default: int | None = None ) -> int:
    value = data.get( key, default )
    if not isinstance( value, int ) or isinstance( value, bool ) or value < 1:
      raise NpuError( f"{path}: {key} is {value!r}; a positive integer is expected" )
    return value

  def positive_number( key: str, value: Any ) -> float:
    if not isinstance( value, int | float ) or not 0 < value < inf:
      raise NpuError( f"{path}: {key} is {value!r}; a positive number is expected" )
    return float( value )

  heads    = positive( "num_attention_heads" )
  kv_heads = positive( "num_key_value_heads", heads )
  hidden   = positive( "hidden_size" )
  head_dim = hidden // heads if data.get( "head_dim" ) is None else positive( "head_dim" )
  if heads % kv_heads:
    raise NpuError( f"{path}: {heads} attention heads are not divisible by {kv_heads} key-value heads" )
  if head_dim < 2 or head_dim % 2:
    raise NpuError( f"{path}: head_dim is {head_dim}; an even number is expected" )
  # transformers 5 writes rope_theta inside rope_parameters, older versions at the top.
  theta = ( data.get( "rope_parameters" ) or {} ).get( "rope_theta", data.get( "rope_theta", 10000.0 ) )
  vocab = positive( "vocab_size" )
  return ModelConfig(
    vocab_size=vocab, hidden_size=hidden,
    intermediate_size=positive( "intermediate_size" ), layers=positive( "num_hidden_layers" ),
    heads=heads, kv_heads=kv_heads, head_dim=head_dim,
    context=positive( "max_position_embeddings", 32768 ),
    rms_norm_eps=positive_number( "rms_norm_eps", data.get( "rms_norm_eps", 1e-6 ) ),
    rope_theta=positive_number( "rope_theta", theta ), tied=bool( data.get( "tie_word_embeddings", False ) ),
    eos_tokens=_eos_tokens( folder, data, vocab ) )

class Checkpoint:
  """Tensors of a checkpoint folder by name, read as float32, a slice of rows at a time if wanted.

  Raises
  ------
  NpuError
    The folder has no safetensors, a shard is missing or broken.
  """

  def __init__( self, folder: Path ) -> None:
    self.folder = folder
    self._files: dict[str, Path] = {}
    self._open: dict[Path, Any] = {}
    index = folder / "model.safetensors.index.json"
    if index.exists():
      weight_map = read_json( index ).get( "weight_map" )
      if not isinstance( weight_map, dict ):
        raise NpuError( f"{index} has no weight_map" )
      for name, file in weight_map.items():
        if not isinstance( file, str ):
          raise NpuError( f"{index}: weight_map holds {file!r} for tensor {name}; a file name is expected" )
      self._files = { name: folder / file for name, file in weight_map.items() }
    elif ( folder / "model.safetensors" ).exists():
      path = folder / "model.safetensors"
      self._files = { name: path for name in list( self._shard( path ).keys() ) }
    else:
      pickles = sorted( p.name for p in folder.glob( "*.bin" ) ) + sorted( p.name for p in folder.glob( "*.pt*" ) )
      found   = f"only pickled weights ({pickles[0]})" if pickles else "no weights"
      raise NpuError( f"{folder} has {found}; model.safetensors is expected" )

  def files( self ) -> list[Path]:
    """The files of weights, in the order of their names."""
    return sorted( set( self._files.values() ) )

  def _shard( self, path: Path ) -> Any:
    if path not in self._open:
      try:
        self._open[path] = safe_open( path, "np" )
      except FileNotFoundError:
        raise NpuError( f"{path} is missing, though the index names it" ) from None
      except ( OSError, SafetensorError ) as e:
        raise NpuError( f"{path} is not a readable safetensors file: {e}" ) from None
    return self._open[path]

  def _slice( self, name: str, shape: tuple[int, ...] ) -> Any:
    if name not in self._files:
      raise NpuError( f"{self.folder}: tensor {name} is missing" )
    path = self._files[name]
    try:
      found = self._shard( path ).get_slice( name )
    except SafetensorError:
      raise NpuError( f"{path}: tensor {name} is missing" ) from None
    if tuple( found.get_shape() ) != shape:
      raise NpuError( f"{path}: tensor {name} has shape {tuple( found.get_shape() )}; "
                      f"{shape} is expected from config.json" )
    if found.get_dtype() not in FLOAT_DTYPES:
      raise NpuError( f"{path}: tensor {name} is {found.get_dtype()}; one of "
                      f"{', '.join( FLOAT_DTYPES )} is expected" )
    return found

  def check( self, name: str, shape: tuple[int, ...] ) -> None:
    """NpuError unless the tensor exists with that shape and a floating type."""
    self._slice( name, shape )

  def read( self, name: str, shape: tuple[int, ...], start: int = 0, stop: int | None = None ) -> F32:
    """Rows start..stop of a tensor as flushed float32.

    Raises
    ------
    NpuError
      The tensor is missing, has another shape or type, or holds NaN or infinity.
    """
    rows = self._slice( name, shape )[start : shape[0] if stop is None else stop]
    with np.errstate( all="ignore" ):
      values = np.asarray( rows ).astype( np.float32 )
    return finite( values, self._files[name], name, start )

def finite( values: F32, path: Path, name: str, start: int ) -> F32:
  """Rows of a tensor from `start` on, flushed; NpuError if they hold NaN or infinity."""
  if not np.isfinite( values ).all():
    where = [ int( w ) for w in np.argwhere( ~np.isfinite( values ) )[0] ]
    bad   = values[tuple( where )]
    where[0] += start
    raise NpuError( f"{path}: tensor {name} holds {bad} at {where}; all weights must be finite" )
  return flush( values )

def tensor_shapes( m: ModelConfig ) -> dict[str, tuple[int, ...]]:
  """Every tensor that the NPU needs, by its Hugging Face name."""
  q, kv, h, inter = m.heads * m.head_dim, m.kv_heads * m.head_dim, m.hidden_size, m.intermediate_size
  shapes: dict[str, tuple[int, ...]] = {
    "model.embed_tokens.weight": ( m.vocab_size, h ), "model.norm.weight": ( h, ) }
  for i in range( m.layers ):
    p = f"model.layers.{i}."
    shapes |= {
      p + "input_layernorm.weight": ( h, ), p + "post_attention_layernorm.weight": ( h, ),
      p + "self_attn.q_proj.weight": ( q, h ), p + "self_attn.q_proj.bias": ( q, ),
      p + "self_attn.k_proj.weight": ( kv, h ), p + "self_attn.k_proj.bias": ( kv, ),
      p + "self_attn.v_proj.weight": ( kv, h ), p + "self_attn.v_proj.bias": ( kv, ),
      p + "self_attn.o_proj.weight": ( h, q ),
      p + "mlp.gate_proj.weight": ( inter, h ), p + "mlp.up_proj.weight": ( inter, h ),
      p + "mlp.down_proj.weight": ( h, inter ) }
  if not m.tied:
    shapes["lm_head.weight"] = ( m.vocab_size, h )
  return shapes

