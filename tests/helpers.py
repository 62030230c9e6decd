"""What several test files share: small random checkpoints, and the command line run inside the process.

`mk_checkpoint` lists the tensors itself and needs no torch, so it is a second opinion on the names and
shapes in `npu.compiler.checkpoint`.
"""

import io
import json
import os
import shutil
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from npu.cli import main as cli

ROOT = Path( __file__ ).resolve().parent.parent
NANO = ROOT / "npu" / "models" / "nano"

#-------------------------------------------------------------------------
# Checkpoints
#-------------------------------------------------------------------------

NUMPY_DTYPES: dict[str, Any] = {
  "F32": np.float32, "BF16": ml_dtypes.bfloat16, "F16": np.float16, "F64": np.float64, "I8": np.int8 }

# Small, but with grouped-query attention, and no size a multiple of 16: padding happens everywhere.
CONFIG: dict[str, Any] = {
  "architectures": [ "Qwen2ForCausalLM" ], "model_type": "qwen2", "hidden_act": "silu",
  "vocab_size": 384, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2,
  "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
  "rms_norm_eps": 1e-6, "rope_theta": 1e4, "tie_word_embeddings": True,
  "bos_token_id": 381, "eos_token_id": 381, "use_sliding_window": False }

# The chat template of many models, without a system prompt of its own.
CHATML = ( "{%- for message in messages %}\n  {{- '<|im_start|>' + message.role + '\\n' + message.content + "
           "'<|im_end|>' + '\\n' }}\n{%- endfor %}\n"
           "{%- if add_generation_prompt %}\n  {{- '<|im_start|>assistant\\n' }}\n{%- endif %}" )

REMOVED = object()     # as the value of a change: the key goes

# Where a value goes, and the value: ( tensor, index, value ).
Poison = tuple[str, tuple[int, ...], float]

def with_changes( config: Mapping[str, Any], changes: Mapping[str, Any] ) -> dict[str, Any]:
  """A copy of `config` with some keys changed, or gone where the change is REMOVED."""
  return { k: v for k, v in { **config, **changes }.items() if v is not REMOVED }

def expected_shapes( c: Mapping[str, Any] ) -> dict[str, tuple[int, ...]]:
  """Every tensor of a Qwen2 model by name, as transformers names and shapes it."""
  h, inter, heads = c["hidden_size"], c["intermediate_size"], c["num_attention_heads"]
  dim   = c.get( "head_dim" ) or h // heads
  q, kv = heads * dim, c.get( "num_key_value_heads", heads ) * dim
  layer = { "input_layernorm.weight": ( h, ), "post_attention_layernorm.weight": ( h, ),
            "self_attn.q_proj.weight": ( q, h ),  "self_attn.q_proj.bias": ( q, ),
            "self_attn.k_proj.weight": ( kv, h ), "self_attn.k_proj.bias": ( kv, ),
            "self_attn.v_proj.weight": ( kv, h ), "self_attn.v_proj.bias": ( kv, ),
            "self_attn.o_proj.weight": ( h, q ),  "mlp.gate_proj.weight": ( inter, h ),
            "mlp.up_proj.weight": ( inter, h ),   "mlp.down_proj.weight": ( h, inter ) }
  shapes: dict[str, tuple[int, ...]] = { "model.embed_tokens.weight": ( c["vocab_size"], h ) }
  for i in range( c["num_hidden_layers"] ):
    shapes |= { f"model.layers.{i}.{name}": shape for name, shape in layer.items() }
  shapes["model.norm.weight"] = ( h, )
  if not c.get( "tie_word_embeddings", False ):
    shapes["lm_head.weight"] = ( c["vocab_size"], h )
  return shapes

def random_tensors( shapes: Mapping[str, tuple[int, ...]], seed: int ) -> dict[str, NDArray]:
  """Float32 tensors of a size that keeps activations near 1, so that logits differ from each other."""
  rng   = np.random.default_rng( seed )
  found: dict[str, NDArray] = {}
  for name, shape in shapes.items():
    values = rng.standard_normal( shape ).astype( np.float32 )
    if name.endswith( "norm.weight" ):
      found[name] = np.float32( 1 ) + np.float32( 0.1 ) * values
    else:
      found[name] = values * np.float32( 0.5 if len( shape ) == 1 else 1.5 / np.sqrt( shape[1] ) )
  return found

def write_weights( folder: Path, tensors: dict[str, NDArray], shards: int = 1 ) -> None:
  """Write model.safetensors, or so many shards and their index."""
  if shards == 1:
    save_file( tensors, folder / "model.safetensors", metadata={ "format": "pt" } )
    return
  weight_map: dict[str, str] = {}
  for i, names in enumerate( np.array_split( np.array( sorted( tensors ) ), shards ), 1 ):
    file = f"model-{i:05}-of-{shards:05}.safetensors"
    save_file( { str( n ): tensors[str( n )] for n in names }, folder / file, metadata={ "format": "pt" } )
    weight_map |= { str( n ): file for n in names }
  index = { "metadata": {}, "weight_map": weight_map }
  ( folder / "model.safetensors.index.json" ).write_text( json.dumps( index ) )

def mk_checkpoint( folder: Path, seed: int = 0, *, dtype: str = "F32", shards: int = 1,
                   drop: Collection[str] = (), reshape: Mapping[str, tuple[int, ...]] | None = None,
                   poison: Collection[Poison] = (), retype: Mapping[str, str] | None = None,
                   replace: Mapping[str, NDArray] | None = None,
                   generation: Mapping[str, Any] | None = None, tokenizer: bool = True, template: str | None = None,
                   **config_changes: Any ) -> Path:
  """Write a small random Qwen2 checkpoint to `folder`, which is made; returns it.

  Parameters
  ----------
  dtype
    F32, BF16 or F16, for all tensors; `retype` gives one by tensor name, F64 and I8 too.
  shards
    Files that the tensors are spread over; more than one come with an index.
  drop
    Tensors to leave out, of the file and of the index.
  reshape
    Shapes by tensor name, other than the right ones.
  poison
    Values to plant.
  replace
    Values by tensor name, instead of random ones; names that the model does not have are added.
  generation
    Contents of generation_config.json, which is not written without.
  tokenizer
    Whether to add the tokenizer of the embedded model `nano`, of 384 tokens.
  template
    A chat template to add, in a file of its own.
  config_changes
    Keys of config.json, see CONFIG; REMOVED takes one out.
  """
  config = with_changes( CONFIG, config_changes )
  folder.mkdir( parents=True )
  ( folder / "config.json" ).write_text( json.dumps( config ) )
  if generation is not None:
    ( folder / "generation_config.json" ).write_text( json.dumps( generation ) )
  if tokenizer:
    for name in ( "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt" ):
      shutil.copy( NANO / name, folder )
  if template is not None:
    ( folder / "chat_template.jinja" ).write_text( template )
  tensors = random_tensors( expected_shapes( config ), seed ) | dict( replace or {} )
  tensors |= { n: np.resize( tensors[n], shape ) for n, shape in ( reshape or {} ).items() }
  for name, index, value in poison:
    tensors[name][index] = value
  types = { n: NUMPY_DTYPES[( retype or {} ).get( n, dtype )] for n in tensors }
  write_weights( folder, { n: t.astype( types[n] ) for n, t in tensors.items() if n not in drop }, shards )
  return folder

def mk_chain( folder: Path, tokens: Sequence[int], **options: Any ) -> Path:
  """Write a checkpoint that answers `tokens[0]` with the rest of `tokens`, which must all differ.

  The layers add nothing to the embedding, and the head's row of a token is the embedding of the token
  before it. `options` are those of `mk_checkpoint`.
  """
  assert len( set( tokens ) ) == len( tokens ), tokens
  config = { "hidden_size": 64, "num_hidden_layers": 1, "tie_word_embeddings": False, **options }
  shapes = expected_shapes( { **CONFIG, **config } )
  # Rows of signs: any two of them are far from parallel.
  signs = np.random.default_rng( 1 ).choice( ( -1.0, 1.0 ), shapes["lm_head.weight"] ).astype( np.float32 )
  head  = np.zeros_like( signs )
  head[list( tokens[1:] )] = signs[list( tokens[:-1] )]
  silent = { n: np.zeros( s, dtype=np.float32 ) for n, s in shapes.items()
             if n.endswith( ( "o_proj.weight", "down_proj.weight" ) ) }
  return mk_checkpoint( folder, replace={ "model.embed_tokens.weight": signs, "lm_head.weight": head, **silent },
                        **config )

#-------------------------------------------------------------------------
# The command line
#-------------------------------------------------------------------------

@dataclass( frozen=True )
class CliResult:
  """What a command left: exit code and both outputs."""
  code: int
  out: str
  err: str

def run_cli( *args: object ) -> CliResult:
  """`npu ARGS` in this process, which saves the seconds that imports take.

  An exception that is not the command line's own comes out of here, as the traceback that it would be.
  """
  out, err, code = io.StringIO(), io.StringIO(), 0
  with mock.patch.object( sys, "argv", [ "npu", *map( str, args ) ] ), \
       redirect_stdout( out ), redirect_stderr( err ):
    try:
      cli.main()
    except SystemExit as e:
      assert e.code is None or isinstance( e.code, int ), e.code
      code = e.code or 0
  return CliResult( code, out.getvalue(), err.getvalue() )

def cli_error( *args: object ) -> str:
  """The message of a command that fails by the user's error.

  That is: exit code 2, nothing on standard output, on standard error one line that starts with `error:`.
  """
  result = run_cli( *args )
  assert ( result.code, result.out ) == ( 2, "" ), result
  line, newline, rest = result.err.partition( "\n" )
  assert line.startswith( "error: " ) and newline and not rest, result.err
  return line.removeprefix( "error: " )

def cli_command( *args: object ) -> list[str]:
  """The argument list that runs `npu ARGS` in a process of its own; see `cli_environment`."""
  return [ sys.executable, "-m", "npu.cli.main", *map( str, args ) ]

def cli_environment( **changes: str ) -> dict[str, str]:
  """This process's environment, in which `npu` is found wherever the process starts."""
  return { **os.environ, "PYTHONPATH": str( ROOT ), **changes }

def files( folder: Path ) -> set[str]:
  """Everything below a folder, hidden files too, by relative name."""
  return { str( p.relative_to( folder ) ) for p in folder.rglob( "*" ) }
