"""Checkpoints: every spelling of a Qwen2 that must be read, and the message for each that must not."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from npu.compiler.checkpoint import Checkpoint, ModelConfig, read_config, tensor_shapes
from npu.compiler.find import MODELS_DIR, find_folder
from npu.errors import NpuError
from tests.helpers import (
  CONFIG,
  REMOVED,
  cli_error,
  expected_shapes,
  files,
  mk_checkpoint,
  random_tensors,
  run_cli,
  with_changes,
)

NORM = "model.norm.weight"
UP   = "model.layers.0.mlp.up_proj.weight"
DOWN = "model.layers.1.mlp.down_proj.weight"
BIAS = "model.layers.1.self_attn.q_proj.bias"
HEAD = "lm_head.weight"
INDEX = "model.safetensors.index.json"

#-------------------------------------------------------------------------
# Folders
#-------------------------------------------------------------------------

@pytest.mark.parametrize( "name", ( "tiny", "nano" ) )
def test_embedded_models_are_found_by_name( name ):
  assert find_folder( name ) == MODELS_DIR / name

def test_a_folder_is_found_by_its_path( tmp_path ):
  assert find_folder( str( tmp_path ) ) == tmp_path

@pytest.mark.parametrize( "name", (
  pytest.param( "no/such/folder", id="nothing there" ),
  pytest.param( __file__, id="a file" ),
  pytest.param( "a" * 300, id="longer than a name may be" ) ) )
def test_what_is_no_folder_is_refused( name ):
  with pytest.raises( NpuError ) as e:
    find_folder( name )
  assert str( e.value ) == ( f"no such model: {name}; give a checkpoint folder, a GGUF file or one of tiny, nano, "
                             "qwen2.5-coder-0.5b" )

#-------------------------------------------------------------------------
# Configurations that must be read
#-------------------------------------------------------------------------

PLAIN = ModelConfig(
  vocab_size=384, hidden_size=24, intermediate_size=40, layers=2, heads=4, kv_heads=2, head_dim=6, context=64,
  rms_norm_eps=1e-6, rope_theta=1e4, tied=True, eos_tokens=( 381, ) )

def write_config( folder: Path, generation: dict | None = None, **changes: object ) -> Path:
  """A folder with config.json, and generation_config.json if given, and no more."""
  ( folder / "config.json" ).write_text( json.dumps( with_changes( CONFIG, changes ) ) )
  if generation is not None:
    ( folder / "generation_config.json" ).write_text( json.dumps( generation ) )
  return folder

ROPE_NEW = { "rope_theta": 5e5, "rope_type": "default" }

@pytest.mark.parametrize( "changes, expected", (
  pytest.param( {}, {}, id="plain" ),
  pytest.param( { "rope_theta": 1e6 }, { "rope_theta": 1e6 }, id="rope_theta at the top" ),
  pytest.param( { "rope_theta": REMOVED, "rope_parameters": ROPE_NEW }, { "rope_theta": 5e5 },
                id="rope_theta in rope_parameters" ),
  pytest.param( { "rope_theta": 1e6, "rope_parameters": ROPE_NEW }, { "rope_theta": 5e5 },
                id="rope_parameters come before the top" ),
  pytest.param( { "rope_theta": 1e6, "rope_parameters": { "rope_type": "default" } }, { "rope_theta": 1e6 },
                id="rope_parameters without rope_theta" ),
  pytest.param( { "rope_theta": REMOVED }, { "rope_theta": 1e4 }, id="default rope_theta" ),
  pytest.param( { "rope_theta": 1000000 }, { "rope_theta": 1e6 }, id="rope_theta as an integer" ),
  pytest.param( { "rope_scaling": None, "rope_parameters": None }, {}, id="rope keys that are null" ),
  pytest.param( { "rope_scaling": { "type": "default" } }, {}, id="unscaled, old spelling" ),
  pytest.param( { "rope_scaling": { "rope_type": "default" } }, {}, id="unscaled, new spelling" ),
  pytest.param( { "num_key_value_heads": REMOVED }, { "kv_heads": 4 }, id="no num_key_value_heads" ),
  pytest.param( { "num_key_value_heads": 1 }, { "kv_heads": 1 }, id="multi-query" ),
  pytest.param( { "head_dim": 10 }, { "head_dim": 10 }, id="head_dim" ),
  pytest.param( { "head_dim": None }, { "head_dim": 6 }, id="head_dim null" ),
  pytest.param( { "max_position_embeddings": REMOVED }, { "context": 32768 }, id="default context" ),
  pytest.param( { "rms_norm_eps": 1e-5 }, { "rms_norm_eps": 1e-5 }, id="rms_norm_eps" ),
  pytest.param( { "rms_norm_eps": REMOVED }, { "rms_norm_eps": 1e-6 }, id="default rms_norm_eps" ),
  pytest.param( { "hidden_act": REMOVED }, {}, id="default hidden_act" ),
  pytest.param( { "tie_word_embeddings": False }, { "tied": False }, id="untied" ),
  pytest.param( { "tie_word_embeddings": REMOVED }, { "tied": False }, id="untied by default" ),
  pytest.param( { "sliding_window": 32, "max_window_layers": 2 }, {}, id="a window that is off" ),
  pytest.param( { "layer_types": [ "full_attention" ] * 2 }, {}, id="layer_types, all full" ),
  pytest.param( { "quantization_config": None }, {}, id="quantization_config null" ),
  pytest.param( { "eos_token_id": 7 }, { "eos_tokens": ( 7, ) }, id="one EOS" ),
  pytest.param( { "eos_token_id": [ 7, 8 ] }, { "eos_tokens": ( 7, 8 ) }, id="two EOS" ),
  pytest.param( { "eos_token_id": REMOVED }, { "eos_tokens": () }, id="no EOS" ),
  pytest.param( { "generation": { "eos_token_id": [ 3, 4 ] } }, { "eos_tokens": ( 3, 4 ) },
                id="EOS of generation_config.json comes first" ),
  pytest.param( { "generation": { "eos_token_id": 0 } }, { "eos_tokens": ( 0, ) }, id="EOS 0" ),
  pytest.param( { "generation": { "do_sample": False } }, { "eos_tokens": ( 381, ) },
                id="generation_config.json without EOS" ),
  pytest.param( { "torch_dtype": "bfloat16", "some_key_to_come": [ 1 ] }, {}, id="keys that do not matter" ) ) )
def test_config_is_read( tmp_path, changes, expected ):
  assert read_config( write_config( tmp_path, **changes ) ) == ModelConfig( **{ **vars( PLAIN ), **expected } )

@pytest.mark.parametrize( "changes", (
  pytest.param( {}, id="tied" ),
  pytest.param( { "tie_word_embeddings": False }, id="untied" ),
  pytest.param( { "head_dim": 10 }, id="heads wider than hidden" ),
  pytest.param( { "num_key_value_heads": 1, "num_hidden_layers": 3 }, id="multi-query" ) ) )
def test_tensors_are_those_of_transformers( tmp_path, changes ):
  assert tensor_shapes( read_config( write_config( tmp_path, **changes ) ) ) == expected_shapes( CONFIG | changes )

#-------------------------------------------------------------------------
# Configurations that must be refused
#-------------------------------------------------------------------------

WINDOW   = "{config}: sliding-window attention is on; only full attention is supported"
UNSCALED = "only unscaled RoPE ('default') is supported"
POSITIVE = "a positive integer is expected"

REFUSED_CONFIGS = (
  pytest.param( { "model_type": "llama" }, "{config}: model_type is 'llama'; only 'qwen2' is supported",
                id="llama" ),
  pytest.param( { "model_type": "qwen2_moe" }, "{config}: model_type is 'qwen2_moe'; only 'qwen2' is supported",
                id="mixture of experts" ),
  pytest.param( { "model_type": REMOVED }, "{config}: model_type is None; only 'qwen2' is supported",
                id="no model_type" ),
  pytest.param( { "hidden_act": "gelu" }, "{config}: hidden_act is 'gelu'; only 'silu' is supported",
                id="hidden_act" ),
  pytest.param( { "rope_scaling": { "type": "yarn", "factor": 4.0 } },
                "{config}: rope_scaling is of type 'yarn'; " + UNSCALED, id="YaRN, old spelling" ),
  pytest.param( { "rope_scaling": { "rope_type": "yarn", "factor": 4.0 } },
                "{config}: rope_scaling is of type 'yarn'; " + UNSCALED, id="YaRN, rope_type" ),
  pytest.param( { "rope_theta": REMOVED,
                  "rope_parameters": { "rope_theta": 1e6, "rope_type": "yarn", "factor": 4.0 } },
                "{config}: rope_parameters is of type 'yarn'; " + UNSCALED, id="YaRN, new spelling" ),
  pytest.param( { "rope_scaling": { "type": "linear", "factor": 2.0 } },
                "{config}: rope_scaling is of type 'linear'; " + UNSCALED, id="linear scaling" ),
  pytest.param( { "use_sliding_window": True, "sliding_window": 32 }, WINDOW, id="use_sliding_window" ),
  pytest.param( { "layer_types": [ "full_attention", "sliding_attention" ] }, WINDOW,
                id="sliding layer_types" ),
  pytest.param( { "quantization_config": { "quant_method": "gptq", "bits": 4 } },
                "{config}: quantization_config is set; give the unquantised checkpoint",
                id="quantization_config" ),
  pytest.param( { "num_key_value_heads": 3 },
                "{config}: 4 attention heads are not divisible by 3 key-value heads", id="heads" ),
  pytest.param( { "head_dim": 5 }, "{config}: head_dim is 5; an even number is expected", id="odd head_dim" ),
  pytest.param( { "hidden_size": 12 }, "{config}: head_dim is 3; an even number is expected",
                id="odd head_dim from hidden_size" ),
  pytest.param( { "num_attention_heads": 48 }, "{config}: head_dim is 0; an even number is expected",
                id="more heads than hidden" ),
  pytest.param( { "head_dim": -2 }, "{config}: head_dim is -2; " + POSITIVE, id="negative head_dim" ),
  *( pytest.param( { key: value }, f"{{config}}: {key} is {value!r}; {POSITIVE}", id=f"{key} {value!r}" )
     for key, value in ( ( "vocab_size", 0 ), ( "hidden_size", -24 ), ( "intermediate_size", "40" ),
                         ( "num_hidden_layers", 2.0 ), ( "num_attention_heads", True ),
                         ( "num_key_value_heads", None ), ( "max_position_embeddings", "64" ) ) ),
  pytest.param( { "vocab_size": REMOVED }, "{config}: vocab_size is None; " + POSITIVE, id="no vocab_size" ),
  *( pytest.param( { "rope_theta": value }, f"{{config}}: rope_theta is {value!r}; a positive number is expected",
                   id=f"rope_theta {value!r}" )
     for value in ( None, "x", 0, -1.0, math.nan ) ),
  *( pytest.param( { "rms_norm_eps": value },
                   f"{{config}}: rms_norm_eps is {value!r}; a positive number is expected",
                   id=f"rms_norm_eps {value!r}" )
     for value in ( None, "x", -1.0, math.nan ) ),
  *( pytest.param( { key: [ 1 ] }, f"{{config}}: {key} is [1]; a JSON object is expected",
                   id=f"{key} a list" )
     for key in ( "rope_scaling", "rope_parameters" ) ),
  *( pytest.param( { "eos_token_id": value },
                   f"{{config}}: eos_token_id is {value!r}; token numbers from 0 to 383 are expected",
                   id=f"eos_token_id {value!r}" )
     for value in ( "x", -1, 1 << 40, [ 1, None ] ) ) )

@pytest.mark.parametrize( "changes, message", REFUSED_CONFIGS )
def test_config_is_refused( tmp_path, changes, message ):
  folder = tmp_path / "model"
  folder.mkdir()
  write_config( folder, **changes )
  assert ( cli_error( "compile", folder, "-o", tmp_path / "image" )
           == message.format( config=folder / "config.json" ) )
  assert files( tmp_path ) == { "model", "model/config.json" }

@pytest.mark.parametrize( "name", ( "config.json", "generation_config.json" ) )
@pytest.mark.parametrize( "content, message", (
  pytest.param( b"{", "is not readable JSON: Expecting property name enclosed in double quotes: "
                      "line 1 column 2 (char 1)", id="cut off" ),
  pytest.param( b"", "is not readable JSON: Expecting value: line 1 column 1 (char 0)", id="empty" ),
  pytest.param( b"[ 1 ]", "holds a list; a JSON object is expected", id="a list" ),
  pytest.param( b'{ "a": "\xff" }', "is not readable JSON: 'utf-8' codec can't decode byte 0xff in position 8: "
                                    "invalid start byte", id="not UTF-8" ) ) )
def test_broken_json_is_refused( tmp_path, name, content, message ):
  folder = mk_checkpoint( tmp_path / "model" )
  ( folder / name ).write_bytes( content )
  assert cli_error( "compile", folder, "-o", tmp_path / "image" ) == f"{folder / name} {message}"

def test_folder_without_config_is_refused( tmp_path ):
  assert ( cli_error( "compile", tmp_path, "-o", tmp_path / "image" )
           == f"{tmp_path} has no config.json; it is not a Hugging Face checkpoint" )
  assert files( tmp_path ) == set()

#-------------------------------------------------------------------------
# Weights that must be refused
#-------------------------------------------------------------------------

ONE    = "{folder}/model.safetensors"
FIRST  = "{folder}/model-00001-of-00002.safetensors"
SECOND = "{folder}/model-00002-of-00002.safetensors"

def not_finite( file: str, name: str, value: str, where: list[int] ) -> str:
  return f"{file}: tensor {name} holds {value} at {where}; all weights must be finite"

@pytest.mark.parametrize( "options, message", (
  pytest.param( { "drop": [ NORM ] }, f"{{folder}}: tensor {NORM} is missing", id="missing" ),
  pytest.param( { "drop": [ NORM ], "shards": 2 }, f"{{folder}}: tensor {NORM} is missing",
                id="missing, sharded" ),
  pytest.param( { "drop": [ BIAS ] }, f"{{folder}}: tensor {BIAS} is missing", id="missing bias" ),
  pytest.param( { "drop": [ HEAD ], "tie_word_embeddings": False }, f"{{folder}}: tensor {HEAD} is missing",
                id="missing head" ),
  pytest.param( { "reshape": { NORM: ( 25, ) } },
                f"{ONE}: tensor {NORM} has shape (25,); (24,) is expected from config.json", id="too long" ),
  pytest.param( { "reshape": { UP: ( 24, 40 ) }, "shards": 2 },
                f"{FIRST}: tensor {UP} has shape (24, 40); (40, 24) is expected from config.json",
                id="transposed, sharded" ),
  pytest.param( { "reshape": { BIAS: ( 24, 1 ) } },
                f"{ONE}: tensor {BIAS} has shape (24, 1); (24,) is expected from config.json",
                id="one dimension too many" ),
  pytest.param( { "retype": { NORM: "I8" } },
                f"{ONE}: tensor {NORM} is I8; one of F32, BF16, F16 is expected", id="INT8" ),
  pytest.param( { "retype": { UP: "F64" } },
                f"{ONE}: tensor {UP} is F64; one of F32, BF16, F16 is expected", id="float64" ),
  pytest.param( { "poison": [ ( DOWN, ( 3, 7 ), math.nan ) ] }, not_finite( ONE, DOWN, "nan", [ 3, 7 ] ),
                id="NaN" ),
  pytest.param( { "poison": [ ( DOWN, ( 0, 0 ), math.inf ) ] }, not_finite( ONE, DOWN, "inf", [ 0, 0 ] ),
                id="infinity" ),
  pytest.param( { "poison": [ ( DOWN, ( 23, 39 ), -math.inf ) ] }, not_finite( ONE, DOWN, "-inf", [ 23, 39 ] ),
                id="-infinity" ),
  pytest.param( { "poison": [ ( DOWN, ( 3, 7 ), math.nan ) ], "shards": 2 },
                not_finite( SECOND, DOWN, "nan", [ 3, 7 ] ), id="NaN, sharded" ),
  pytest.param( { "poison": [ ( DOWN, ( 3, 7 ), math.nan ) ], "dtype": "BF16" },
                not_finite( ONE, DOWN, "nan", [ 3, 7 ] ), id="NaN, BF16" ),
  pytest.param( { "poison": [ ( DOWN, ( 3, 7 ), math.inf ) ], "dtype": "BF16", "shards": 2 },
                not_finite( SECOND, DOWN, "inf", [ 3, 7 ] ), id="infinity, BF16, sharded" ),
  pytest.param( { "poison": [ ( DOWN, ( 3, 7 ), -math.inf ) ], "dtype": "F16" },
                not_finite( ONE, DOWN, "-inf", [ 3, 7 ] ), id="-infinity, F16" ),
  pytest.param( { "poison": [ ( BIAS, ( 23, ), math.nan ) ] }, not_finite( ONE, BIAS, "nan", [ 23 ] ),
                id="NaN in a bias" ),
  pytest.param( { "poison": [ ( NORM, ( 5, ), math.inf ) ] }, not_finite( ONE, NORM, "inf", [ 5 ] ),
                id="infinity in a gain" ),
  pytest.param( { "poison": [ ( "model.embed_tokens.weight", ( 383, 23 ), math.nan ) ] },
                not_finite( ONE, "model.embed_tokens.weight", "nan", [ 383, 23 ] ), id="NaN in the embedding" ),
  pytest.param( { "poison": [ ( HEAD, ( 383, 23 ), math.nan ) ], "tie_word_embeddings": False },
                not_finite( ONE, HEAD, "nan", [ 383, 23 ] ), id="NaN in the last row of the head" ),
  pytest.param( { "poison": [ ( DOWN, ( 9, 1 ), math.inf ), ( DOWN, ( 3, 7 ), math.nan ) ] },
                not_finite( ONE, DOWN, "nan", [ 3, 7 ] ), id="the first of two" ) ) )
def test_weights_are_refused( tmp_path, options, message ):
  folder = mk_checkpoint( tmp_path / "model", **options )
  out = tmp_path / "out"
  out.mkdir()
  assert cli_error( "compile", folder, "-o", out / "image" ) == message.format( folder=folder )
  assert files( out ) == set()

def remove( name: str ) -> Callable[[Path], None]:
  return lambda folder: ( folder / name ).unlink()

def only( *names: str ) -> Callable[[Path], None]:
  """Rename the weights, so that a folder holds files of these names instead."""
  def damage( folder: Path ) -> None:
    ( folder / "model.safetensors" ).unlink()
    for name in names:
      ( folder / name ).write_bytes( b"\x80\x02}q\x00." )
  return damage

def write( name: str, content: bytes ) -> Callable[[Path], None]:
  return lambda folder: ( folder / name ).write_bytes( content ) and None

def cut( name: str, count: int ) -> Callable[[Path], None]:
  def damage( folder: Path ) -> None:
    ( folder / name ).write_bytes( ( folder / name ).read_bytes()[:-count] )
  return damage

def remap( change: Callable[[str, str], object] ) -> Callable[[Path], None]:
  """Change the file of each tensor in the index."""
  def damage( folder: Path ) -> None:
    index = json.loads( ( folder / INDEX ).read_text() )
    index["weight_map"] = { n: change( n, f ) for n, f in index["weight_map"].items() }
    ( folder / INDEX ).write_text( json.dumps( index ) )
  return damage

BROKEN = "is not a readable safetensors file: Error while deserializing header:"

@pytest.mark.parametrize( "shards, damage, message", (
  pytest.param( 1, only(), "{folder} has no weights; model.safetensors is expected", id="no weights" ),
  pytest.param( 1, only( "pytorch_model.bin" ),
                "{folder} has only pickled weights (pytorch_model.bin); model.safetensors is expected",
                id="pickle" ),
  pytest.param( 1, only( "consolidated.00.pth" ),
                "{folder} has only pickled weights (consolidated.00.pth); model.safetensors is expected",
                id="pickle, .pth" ),
  pytest.param( 1, only( "pytorch_model-00002-of-00002.bin", "pytorch_model-00001-of-00002.bin" ),
                "{folder} has only pickled weights (pytorch_model-00001-of-00002.bin); "
                "model.safetensors is expected", id="pickle shards" ),
  pytest.param( 1, write( "model.safetensors", b"" ), f"{ONE} {BROKEN} header too small", id="empty" ),
  pytest.param( 1, write( "model.safetensors", b"\x05" * 100 ), f"{ONE} {BROKEN} header too large",
                id="junk" ),
  pytest.param( 1, cut( "model.safetensors", 1 ),
                f"{ONE} {BROKEN} incomplete metadata, file not fully covered", id="cut off" ),
  pytest.param( 2, cut( "model-00002-of-00002.safetensors", 1000 ),
                f"{SECOND} {BROKEN} incomplete metadata, file not fully covered", id="a shard cut off" ),
  pytest.param( 2, remove( "model-00002-of-00002.safetensors" ),
                f"{SECOND} is missing, though the index names it", id="a shard missing" ),
  pytest.param( 2, remap( lambda name, file: file.replace( "00002-of", "00001-of" ) ),
                f"{FIRST}: tensor {NORM} is missing", id="the index names the wrong shard" ),
  pytest.param( 2, remap( lambda name, file: 3 ),
                f"{{folder}}/{INDEX}: weight_map holds 3 for tensor model.embed_tokens.weight; "
                "a file name is expected", id="the index names a number" ),
  pytest.param( 2, write( INDEX, b"{" ),
                f"{{folder}}/{INDEX} is not readable JSON: Expecting property name enclosed in double quotes: "
                "line 1 column 2 (char 1)", id="a broken index" ),
  pytest.param( 2, write( INDEX, b"[]" ), f"{{folder}}/{INDEX} holds a list; a JSON object is expected",
                id="an index that is a list" ),
  pytest.param( 2, write( INDEX, b"{}" ), f"{{folder}}/{INDEX} has no weight_map", id="an empty index" ) ) )
def test_files_of_weights_are_refused( tmp_path, shards, damage, message ):
  folder = mk_checkpoint( tmp_path / "model", shards=shards )
  damage( folder )
  before = files( tmp_path )
  assert cli_error( "compile", folder, "-o", tmp_path / "image" ) == message.format( folder=folder )
  assert files( tmp_path ) == before

def test_a_failed_compilation_leaves_the_image_that_was_there( tmp_path ):
  # The bad value is in what is written last, so most of the new image exists when it is found.
  bad = mk_checkpoint( tmp_path / "bad", tie_word_embeddings=False,
                       poison=[ ( HEAD, ( 383, 23 ), math.nan ) ] )
  image = tmp_path / "image"
  image.write_bytes( b"the old one" )
  before = files( tmp_path )
  cli_error( "compile", bad, "-o", image )
  assert image.read_bytes() == b"the old one"
  assert files( tmp_path ) == before

def test_superfluous_tensors_do_not_matter( tmp_path ):
  more = { "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones( 3, np.float32 ),
           HEAD: np.full( ( 384, 24 ), np.nan, np.float32 ) }     # tied: the head is not read
  folder = mk_checkpoint( tmp_path / "model", replace=more )
  assert run_cli( "compile", folder, "-o", tmp_path / "image" ).code == 0

#-------------------------------------------------------------------------
# Models that do not fit
#-------------------------------------------------------------------------

@pytest.mark.parametrize( "changes, config, message", (
  pytest.param( { "intermediate_size": 20000 }, "edge4",
                "config edge4 has 131072 bytes of scratchpad: too few for one row of this model "
                "(hidden 24, intermediate 20000); raise spad_bytes", id="scratchpad" ),
  pytest.param( { "intermediate_size": 33000 }, "edge16",
                "config edge16 sums at most k_max = 32768 products; this model needs 33008", id="k_max" ),
  pytest.param( { "hidden_size": 600, "num_attention_heads": 300, "num_key_value_heads": 300 }, "edge16",
                "the model's heads + 2 * kv_heads is 900 (padded); instructions hold up to 255", id="heads" ),
  pytest.param( { "head_dim": 130 }, "edge16",
                "the model's head_dim is 130 (160 padded); the attention engine does up to 128", id="head_dim" ),
  pytest.param( { "vocab_size": 1 << 20, "hidden_size": 2, "num_attention_heads": 1,
                  "num_key_value_heads": 1 }, "edge16",
                "the model's vocab_size is 1048576 (padded); instructions hold up to 1048575",
                id="vocabulary" ) ) )
def test_what_does_not_fit_is_refused( tmp_path, changes, config, message ):
  folder = mk_checkpoint( tmp_path / "model", dtype="F16", tokenizer=False, num_hidden_layers=1, **changes )
  before = files( tmp_path )
  assert cli_error( "compile", folder, "-o", tmp_path / "image", "--config", config ) == message
  assert files( tmp_path ) == before

#-------------------------------------------------------------------------
# Reading
#-------------------------------------------------------------------------

SHAPES = expected_shapes( CONFIG )

@pytest.mark.parametrize( "shards", ( 1, 3 ) )
@pytest.mark.parametrize( "dtype, rounded", (
  pytest.param( "F32",  lambda x: x, id="F32" ),
  pytest.param( "BF16", lambda x: x.astype( ml_dtypes.bfloat16 ).astype( np.float32 ), id="BF16" ),
  pytest.param( "F16",  lambda x: x.astype( np.float16 ).astype( np.float32 ), id="F16" ) ) )
def test_every_tensor_is_read_exactly( tmp_path, dtype, rounded, shards ):
  checkpoint = Checkpoint( mk_checkpoint( tmp_path / "model", seed=3, dtype=dtype, shards=shards ) )
  for name, values in random_tensors( SHAPES, seed=3 ).items():
    checkpoint.check( name, SHAPES[name] )
    found = checkpoint.read( name, SHAPES[name] )
    assert found.dtype == np.float32
    np.testing.assert_array_equal( found, rounded( values ), err_msg=name )

@pytest.mark.parametrize( "start, stop", (
  pytest.param(   0, None, id="all" ),
  pytest.param(   0,    1, id="first" ),
  pytest.param( 383,  384, id="last" ),
  pytest.param( 100,  200, id="middle" ),
  pytest.param( 100, None, id="to the end" ),
  pytest.param( 200,  200, id="none" ) ) )
@pytest.mark.parametrize( "dtype", ( "F32", "BF16" ) )
def test_a_slice_of_rows_is_read( tmp_path, dtype, start, stop ):
  name       = "model.embed_tokens.weight"
  checkpoint = Checkpoint( mk_checkpoint( tmp_path / "model", dtype=dtype ) )
  whole      = checkpoint.read( name, SHAPES[name] )
  np.testing.assert_array_equal( checkpoint.read( name, SHAPES[name], start, stop ), whole[start:stop] )

def test_a_slice_of_a_vector_is_read( tmp_path ):
  checkpoint = Checkpoint( mk_checkpoint( tmp_path / "model" ) )
  np.testing.assert_array_equal( checkpoint.read( NORM, ( 24, ), 5, 9 ), checkpoint.read( NORM, ( 24, ) )[5:9] )

def test_a_bad_value_is_placed_in_the_tensor_and_not_in_the_slice( tmp_path ):
  name   = "model.embed_tokens.weight"
  folder = mk_checkpoint( tmp_path / "model", poison=[ ( name, ( 210, 4 ), math.nan ) ] )
  checkpoint = Checkpoint( folder )
  checkpoint.read( name, SHAPES[name], 0, 210 )
  checkpoint.read( name, SHAPES[name], 211 )
  with pytest.raises( NpuError ) as e:
    checkpoint.read( name, SHAPES[name], 200, 220 )
  assert str( e.value ) == not_finite( str( folder / "model.safetensors" ), name, "nan", [ 210, 4 ] )

@pytest.mark.parametrize( "dtype, value, expected", (
  pytest.param( "F32",  1e-40,      0.0,        id="a float32 subnormal is flushed" ),
  pytest.param( "F32",  -1e-40,     0.0,        id="a negative one too" ),
  pytest.param( "F32",  2.0 ** -126, 2.0 ** -126, id="the smallest normal float32 stays" ),
  pytest.param( "BF16", 2.0 ** -130, 0.0,       id="a BF16 subnormal is flushed" ),
  pytest.param( "F16",  2.0 ** -24, 2.0 ** -24, id="an F16 subnormal is a normal float32" ),
  pytest.param( "F16",  65504.0,    65504.0,    id="the largest F16" ),
  pytest.param( "F32",  3.4028234663852886e38, 3.4028234663852886e38, id="the largest float32" ) ) )
def test_subnormals_are_flushed( tmp_path, dtype, value, expected ):
  folder = mk_checkpoint( tmp_path / "model", dtype=dtype, poison=[ ( NORM, ( 0, ), value ) ] )
  assert Checkpoint( folder ).read( NORM, ( 24, ) )[0] == expected
