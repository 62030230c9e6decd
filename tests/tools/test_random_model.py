"""Random checkpoints: transformers must read them as its own, and the same seed must give the same."""

import hashlib
import json
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from npu.tools import random_model
from npu.tools.random_model import SHAPES, mk_tokenizer, to_bf16, write_random_model
from npu.tools.tokenizer import SPECIAL_TOKENS, save_qwen2_tokenizer

TEXTS = [
  "The quick brown fox jumps over the lazy dog, doesn't it? 12345",
  "  leading and trailing  \n\n\ttabs\r\n",
  "naïve café, Здравствуй мир, 日本語のテキスト, 한국어, مرحبا",
  "🎉👩‍💻🇫🇷 \U0002070e \x00\x7f\ufffd",
  unicodedata.normalize( "NFD", "decomposed é ạ̈" ),
  "def f( x ):\n    return x == \"<|im_start|>\"\n",
  "",
]

def digests( directory: Path ) -> dict[str, str]:
  """Name and SHA-256 of each file."""
  return { p.name: hashlib.sha256( p.read_bytes() ).hexdigest() for p in directory.iterdir() }

@pytest.fixture( scope="module", params=[ "tiny", "nano" ] )
def written( request: pytest.FixtureRequest,
             tmp_path_factory: pytest.TempPathFactory ) -> tuple[str, Path]:
  """A shape's name and the directory of its checkpoint."""
  directory = tmp_path_factory.mktemp( "models" ) / request.param
  write_random_model( directory, request.param )
  return request.param, directory

#-------------------------------------------------------------------------
# Configuration and weights
#-------------------------------------------------------------------------

def test_config_is_read_by_transformers( written: tuple[str, Path] ) -> None:
  like, directory = written
  config = Qwen2Config.from_pretrained( directory )
  for key, value in SHAPES[like].items():
    assert getattr( config, key ) == value
  assert config.max_position_embeddings == 256
  assert config.rope_parameters["rope_theta"] == 10000.0
  assert config.tie_word_embeddings
  assert config.dtype == torch.bfloat16
  assert config.eos_token_id == SHAPES[like]["vocab_size"] - 3

@pytest.mark.parametrize( "like", SHAPES )
def test_every_shape_has_the_tensors_of_transformers( like: str ) -> None:
  config = Qwen2Config( **random_model.mk_config( like ) )
  with torch.device( "meta" ):
    model = Qwen2ForCausalLM( config )
  expected = { name: tuple( p.shape ) for name, p in model.named_parameters() }
  assert random_model.tensor_shapes( like ) == expected

def test_weights_load_and_give_spread_logits( written: tuple[str, Path] ) -> None:
  model, info = Qwen2ForCausalLM.from_pretrained( written[1], output_loading_info=True,
                                                  dtype=torch.float32 )
  assert not any( info.values() ), info
  tokens = torch.arange( 64 ).view( 1, 64 )
  with torch.no_grad():
    output = model( input_ids=tokens, output_hidden_states=True )
  assert 0.5 < output.logits.std() < 2
  assert all( 0.01 < h.std() < 10 for h in output.hidden_states )

def test_generation_config_is_valid( written: tuple[str, Path] ) -> None:
  model = Qwen2ForCausalLM.from_pretrained( written[1], dtype=torch.float32 )
  model.generation_config.validate( strict=True )
  tokens = model.generate( torch.tensor( [ [ 1, 2, 3 ] ] ), max_new_tokens=4, do_sample=False )
  assert tokens.shape[1] > 3

def test_bias_outliers( written: tuple[str, Path] ) -> None:
  state = Qwen2ForCausalLM.from_pretrained( written[1] ).state_dict()
  keys  = state["model.layers.0.self_attn.k_proj.bias"].float().abs()
  assert 1 <= ( keys == 10 ).sum() <= len( keys ) // 8
  assert state["model.layers.0.self_attn.v_proj.bias"].abs().max() < 1

def test_bf16_rounding_is_that_of_torch() -> None:
  rng    = np.random.default_rng( 0 )
  values = rng.standard_normal( 4096 ).astype( np.float32 )
  ties   = ( np.arange( 1 << 12, dtype=np.uint32 ) << 16 | 0x8000 ).view( np.float32 )
  both   = np.concatenate( [ values, -values, ties, -ties ] )
  expected = torch.from_numpy( both ).bfloat16().view( torch.int16 ).numpy().view( np.uint16 )
  assert np.array_equal( to_bf16( both ), expected )

#-------------------------------------------------------------------------
# Files
#-------------------------------------------------------------------------

def test_seed_determines_the_files( written: tuple[str, Path], tmp_path: Path ) -> None:
  like, directory = written
  write_random_model( tmp_path / "same", like )
  write_random_model( tmp_path / "other", like, seed=1 )
  assert digests( tmp_path / "same" ) == digests( directory )
  differing = { name for name, d in digests( tmp_path / "other" ).items()
                if d != digests( directory )[name] }
  assert differing == { "model.safetensors" }

def test_shards_hold_the_same_weights( written: tuple[str, Path], tmp_path: Path,
                                       monkeypatch: pytest.MonkeyPatch ) -> None:
  like, directory = written
  monkeypatch.setattr( random_model, "SHARD_BYTES", 100_000 )
  write_random_model( tmp_path / "sharded", like )
  index  = json.loads( ( tmp_path / "sharded" / "model.safetensors.index.json" ).read_text() )
  shards = sorted( p.name for p in ( tmp_path / "sharded" ).glob( "*.safetensors" ) )
  assert len( shards ) > 1
  assert sorted( set( index["weight_map"].values() ) ) == shards
  whole = Qwen2ForCausalLM.from_pretrained( directory ).state_dict()
  parts = Qwen2ForCausalLM.from_pretrained( tmp_path / "sharded" ).state_dict()
  assert whole.keys() == parts.keys()
  assert all( torch.equal( whole[name], parts[name] ) for name in whole )
  assert index["metadata"]["total_size"] == sum(
    2 * whole[name].numel() for name in index["weight_map"] )

def test_shard_plan() -> None:
  sizes = { "a": 5, "b": 20, "c": 4, "d": 6, "e": 1 }
  assert random_model.plan_shards( sizes, 10 ) == [ [ "a" ], [ "b" ], [ "c", "d" ], [ "e" ] ]
  assert random_model.plan_shards( sizes, 36 ) == [ list( sizes ) ]

def test_progress_ends_at_the_total( tmp_path: Path ) -> None:
  calls: list[tuple[int, int]] = []
  write_random_model( tmp_path / "nano", "nano", progress=lambda *call: calls.append( call ) )
  done = [ d for d, _ in calls ]
  assert done == sorted( done )
  assert len( { t for _, t in calls } ) == 1
  assert calls[-1][0] == calls[-1][1]

def test_files_are_as_readable_as_others( written: tuple[str, Path], tmp_path: Path ) -> None:
  ( tmp_path / "directory" ).mkdir()
  ( tmp_path / "file" ).touch()
  assert written[1].stat().st_mode == ( tmp_path / "directory" ).stat().st_mode
  assert { p.stat().st_mode for p in written[1].iterdir() } == { ( tmp_path / "file" ).stat().st_mode }

def test_new_parents_and_empty_directories_are_used( tmp_path: Path ) -> None:
  ( tmp_path / "empty" ).mkdir()
  write_random_model( tmp_path / "empty", "nano" )
  write_random_model( tmp_path / "a" / "b", "nano" )
  assert digests( tmp_path / "empty" ) == digests( tmp_path / "a" / "b" )

def test_unknown_shape( tmp_path: Path ) -> None:
  with pytest.raises( ValueError, match=r"'huge'.*nano, tiny, qwen2-0\.5b, qwen2-1\.5b" ):
    write_random_model( tmp_path / "model", "huge" )
  assert list( tmp_path.iterdir() ) == []

def test_existing_files_are_kept( tmp_path: Path ) -> None:
  ( tmp_path / "notes" ).write_text( "mine" )
  for path in ( tmp_path, tmp_path / "notes" ):
    with pytest.raises( FileExistsError, match="not an empty directory" ):
      write_random_model( path, "nano" )
  assert [ p.name for p in tmp_path.iterdir() ] == [ "notes" ]

def test_failure_leaves_nothing( tmp_path: Path ) -> None:
  def stop( done: int, total: int ) -> None:
    raise KeyboardInterrupt
  with pytest.raises( KeyboardInterrupt ):
    write_random_model( tmp_path / "nano", "nano", progress=stop )
  assert list( tmp_path.iterdir() ) == []

def test_torch_is_not_needed( tmp_path: Path ) -> None:
  code = ( "import sys; from pathlib import Path; sys.modules['torch'] = None\n"
           "from npu.tools.random_model import write_random_model\n"
           "write_random_model( Path( sys.argv[1] ), 'nano' )" )
  subprocess.run( [ sys.executable, "-c", code, str( tmp_path / "nano" ) ], check=True,
                  cwd=Path( __file__ ).parents[2] )
  assert ( tmp_path / "nano" / "model.safetensors" ).exists()

#-------------------------------------------------------------------------
# Tokenizer
#-------------------------------------------------------------------------

def check_every_id_is_reached( tokenizer: Tokenizer, n_ordinary: int ) -> None:
  """Each ordinary token's text encodes to this token, and its bytes do where they are no text."""
  for i in range( n_ordinary ):
    token = tokenizer.id_to_token( i )
    assert [ t.id for t in tokenizer.model.tokenize( token ) ] == [ i ], token
    text = tokenizer.decode( [ i ] )
    if "\ufffd" not in text:
      assert tokenizer.encode( text ).ids == [ i ], token

@pytest.mark.parametrize( "text", TEXTS )
def test_text_survives_the_tokenizer( written: tuple[str, Path], text: str ) -> None:
  tokenizer = AutoTokenizer.from_pretrained( written[1] )
  assert tokenizer.decode( tokenizer.encode( text ) ) == unicodedata.normalize( "NFC", text )

def test_small_tokenizer_uses_every_id( written: tuple[str, Path] ) -> None:
  like, directory = written
  n_ids     = SHAPES[like]["vocab_size"]
  tokenizer = Tokenizer.from_file( str( directory / "tokenizer.json" ) )
  assert sorted( tokenizer.get_vocab().values() ) == list( range( n_ids ) )
  assert tokenizer.token_to_id( "<|endoftext|>" ) == n_ids - 3
  assert tokenizer.token_to_id( "<|im_end|>" ) == n_ids - 1
  check_every_id_is_reached( tokenizer, n_ids - 3 )

def test_big_tokenizer_has_the_ids_of_qwen2( tmp_path: Path ) -> None:
  tokenizer = mk_tokenizer( 151936 )
  assert sorted( tokenizer.get_vocab().values() ) == list( range( 151646 ) )
  check_every_id_is_reached( tokenizer, 151643 )

  save_qwen2_tokenizer( tokenizer, tmp_path, 32768 )
  loaded = AutoTokenizer.from_pretrained( tmp_path )
  assert type( loaded ).__name__.startswith( "Qwen2Tokenizer" )
  assert len( loaded ) == 151646
  assert loaded.convert_tokens_to_ids( SPECIAL_TOKENS ) == [ 151643, 151644, 151645 ]
  assert loaded.eos_token_id == 151643
  for text in TEXTS:
    assert loaded.decode( loaded.encode( text ) ) == unicodedata.normalize( "NFC", text )
  # Plain English needs about as many tokens as with a trained vocabulary.
  assert loaded.encode( "Hello world, the night is young." ) == tokenizer.encode(
    "Hello world, the night is young." ).ids
  assert len( loaded.encode( "Hello world, the night is young." ) ) <= 9

def test_vocabulary_without_room_is_refused() -> None:
  with pytest.raises( ValueError, match="no room" ):
    mk_tokenizer( 258 )
