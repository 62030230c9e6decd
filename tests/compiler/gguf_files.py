"""Small GGUF files: of a random model and nano's vocabulary, and of fields one by one, which may be wrong.

The names and keys are listed here again, as a second opinion on those in `npu.compiler.gguf_model`.
"""

import json
import struct
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter
from numpy.typing import NDArray

from tests.helpers import CONFIG, NANO, REMOVED, expected_shapes, mk_checkpoint, random_tensors

# Rows of a multiple of 32, as the block types want it.
SHAPE: dict[str, Any] = { "hidden_size": 64, "intermediate_size": 96 }

PARTS = { "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
          "self_attn.o_proj": "attn_output", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
          "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
          "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
          "model.layers.": "blk." }

def gguf_tensor_name( name: str ) -> str:
  """GGUF's name of a tensor of Hugging Face's."""
  for there, here in PARTS.items():
    name = name.replace( there, here )
  return name

def vocabulary() -> tuple[list[str], list[int], list[str]]:
  """Nano's tokens, their types and merges."""
  data  = json.loads( ( NANO / "tokenizer.json" ).read_text( encoding="utf-8" ) )
  ids   = data["model"]["vocab"] | { t["content"]: t["id"] for t in data["added_tokens"] }
  texts = sorted( ids, key=lambda text: ids[text] )
  types = [ 1 if text in data["model"]["vocab"] else 3 for text in texts ]
  return texts, types, [ " ".join( pair ) for pair in data["model"]["merges"] ]

def metadata( config: Mapping[str, Any] ) -> dict[str, Any]:
  """What llama.cpp's converter writes of a model with such a config.json."""
  texts, types, merges = vocabulary()
  return {
    "general.name": "a random model",
    "qwen2.block_count": config["num_hidden_layers"], "qwen2.context_length": config["max_position_embeddings"],
    "qwen2.embedding_length": config["hidden_size"], "qwen2.feed_forward_length": config["intermediate_size"],
    "qwen2.attention.head_count": config["num_attention_heads"],
    "qwen2.attention.head_count_kv": config["num_key_value_heads"],
    "qwen2.attention.layer_norm_rms_epsilon": config["rms_norm_eps"], "qwen2.rope.freq_base": config["rope_theta"],
    "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "qwen2", "tokenizer.ggml.tokens": texts,
    "tokenizer.ggml.token_type": types, "tokenizer.ggml.merges": merges, "tokenizer.ggml.eos_token_id": 381,
    "tokenizer.ggml.bos_token_id": 381, "tokenizer.ggml.padding_token_id": 381 }

VALUE_TYPES = { bool: GGUFValueType.BOOL, int: GGUFValueType.UINT32, float: GGUFValueType.FLOAT32,
                str: GGUFValueType.STRING, list: GGUFValueType.ARRAY }

def write_gguf( path: Path, tensors: Mapping[str, NDArray], values: Mapping[str, Any], *,
                types: Mapping[str, GGMLQuantizationType] | None = None, architecture: str = "qwen2",
                split: int = 0 ) -> None:
  """Write a GGUF file.

  Parameters
  ----------
  tensors
    By GGUF name: float32, or bytes of blocks if `types` has the name.
  values
    Metadata; REMOVED leaves a key out.
  architecture
    Empty: left out.
  split
    Tensors of a file, if there are to be several: `NAME-00001-of-00003.gguf` and so on.
  """
  writer = GGUFWriter( path, architecture, split_max_tensors=split )
  for key, value in values.items():
    if value is not REMOVED:
      writer.add_key_value( key, value, VALUE_TYPES[type( value )] )
  for name, data in tensors.items():
    writer.add_tensor( name, data, raw_dtype=( types or {} ).get( name ) )
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()

def quantised( data: NDArray, kind: GGMLQuantizationType, seed: int ) -> NDArray[np.uint8]:
  """Rows of blocks of a type: of these numbers, or random if `gguf` cannot quantise to it."""
  try:
    return gguf.quantize( data, kind ).view( np.uint8 )
  except NotImplementedError:
    return random_blocks( data.shape, kind, seed )

def random_blocks( shape: Sequence[int], kind: GGMLQuantizationType, seed: int ) -> NDArray[np.uint8]:
  """Random blocks whose numbers are finite: no byte has the highest bit of an exponent of a scale."""
  size = gguf.quant_shape_to_byte_shape( tuple( shape ), kind )
  return np.random.default_rng( seed ).integers( 0, 256, size, np.uint8 ) & np.uint8( 0xbf )

def mk_models( folder: Path, kinds: Collection[str], *, seed: int = 0, changes: Mapping[str, Any] | None = None,
               drop: Collection[str] = (), extra: Mapping[str, NDArray] | None = None, split: int = 0,
               architecture: str = "qwen2", **config_changes: Any ) -> tuple[Path, Path]:
  """Write one random model twice: as a GGUF file and as a folder that has the same numbers in float32.

  Parameters
  ----------
  kinds
    Block types, which the matrices take in turn.
  changes
    Of the metadata.
  drop, extra
    Tensors of the GGUF file to leave out, and then to add, by GGUF name.

  Returns
  -------
  The file, which is not there under this name if it was split, and the folder. Their names differ by the suffix only.
  """
  config = { **CONFIG, **SHAPE, **config_changes }
  found  = random_tensors( expected_shapes( config ), seed )
  types: dict[str, GGMLQuantizationType] = {}
  stored: dict[str, NDArray] = {}
  plain: dict[str, NDArray]  = {}
  for i, ( name, data ) in enumerate( found.items() ):
    there = gguf_tensor_name( name )
    if data.ndim == 2:
      types[there]  = GGMLQuantizationType[list( kinds )[i % len( kinds )]]
      stored[there] = quantised( data, types[there], seed + i )
      plain[name]   = np.array( gguf.dequantize( stored[there], types[there] ) )
    else:
      stored[there] = plain[name] = data
  path = folder / "model.gguf"
  kept = { n: d for n, d in stored.items() if n not in drop } | dict( extra or {} )
  write_gguf( path, kept, metadata( config ) | dict( changes or {} ), types=types, architecture=architecture,
              split=split )
  mk_checkpoint( folder / "model", replace=plain, generation={ "eos_token_id": [ 381, 383 ] },
                 **{ **SHAPE, **config_changes } )
  return path, folder / "model"

#-------------------------------------------------------------------------
# Field by field
#-------------------------------------------------------------------------

def text( value: bytes | str ) -> bytes:
  """A string as GGUF has it."""
  data = value.encode() if isinstance( value, str ) else value
  return struct.pack( "<Q", len( data ) ) + data

def key( name: str, kind: int, value: bytes ) -> bytes:
  """A metadata key, its type's number, and its value as bytes."""
  return text( name ) + struct.pack( "<I", kind ) + value

def tensor( name: str, shape: Sequence[int], kind: int, offset: int ) -> bytes:
  """The description of a tensor; the shape is in GGUF's order."""
  return text( name ) + struct.pack( f"<I{len( shape )}QIQ", len( shape ), *shape, kind, offset )

def header( tensors: int, keys: int, *, version: int = 3, magic: bytes = b"GGUF" ) -> bytes:
  """The beginning of a file."""
  return magic + struct.pack( "<IQQ", version, tensors, keys )
