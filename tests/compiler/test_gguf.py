"""GGUF files: what is read of them, and the message for each that is not one or not one for the NPU."""

import hashlib
import shutil
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from hypothesis import given, settings, strategies as st
from tokenizers import AddedToken, Tokenizer

from npu.arch.config import PRESETS
from npu.compiler.build import compile_model
from npu.compiler.checkpoint import ModelConfig, tensor_shapes
from npu.compiler.find import open_model
from npu.compiler.folder import FolderModel
from npu.compiler.gguf_file import GgufFile, readable_types
from npu.compiler.gguf_model import GgufModel, gguf_name
from npu.compiler.image import load_image
from npu.compiler.model import ChatTemplate
from npu.errors import NpuError
from npu.runtime.device import Device
from npu.tools.compare import Reference
from tests.compiler.gguf_files import (
  gguf_tensor_name,
  header,
  key,
  metadata,
  mk_models,
  random_blocks,
  tensor,
  text,
  vocabulary,
  write_gguf,
)
from tests.helpers import CONFIG, NANO, REMOVED

SMALL = ( "Q8_0", "Q5_0", "Q4_1" )

def refusal( call, *args ) -> str:
  """The message with which a call is refused: one line."""
  with pytest.raises( NpuError ) as e:
    call( *args )
  assert len( str( e.value ).splitlines() ) == 1
  return str( e.value )

#-------------------------------------------------------------------------
# Tensors
#-------------------------------------------------------------------------

def assert_same_images( a: Path, b: Path ) -> None:
  """Two images have the same memory, and say the same of it, but for the digests of the files that they are from."""
  x, y = load_image( a ), load_image( b )
  assert np.array_equal( x.dram, y.dram )
  digests = x.manifest.pop( "model_digest" ), y.manifest.pop( "model_digest" )
  assert x.manifest == y.manifest and digests[0] != digests[1]

@pytest.mark.parametrize( "kind", readable_types() )
def test_every_block_type_is_read_slice_by_slice( tmp_path, kind ):
  number = GGMLQuantizationType[kind]
  shape  = ( 7, 512 )
  blocks = random_blocks( shape, number, 1 )
  write_gguf( tmp_path / "m.gguf", { "t": blocks, "v": blocks[0] }, {}, types={ "t": number, "v": number } )
  expected = gguf.dequantize( blocks, number )
  file     = GgufFile( tmp_path / "m.gguf" )
  file.check_type( "t" )
  assert np.isfinite( expected ).all() and file.tensors["t"].shape == shape
  for start, stop in ( ( 0, 7 ), ( 0, 1 ), ( 2, 5 ), ( 6, 7 ) ):
    found = file.read( "t", start, stop )
    assert found.dtype == np.float32
    np.testing.assert_array_equal( found, expected[start:stop] )
  np.testing.assert_array_equal( file.read( "v", 3, 400 ), expected[0, 3:400] )

def test_names_of_tensors():
  dims = ModelConfig( 384, 64, 96, 12, 4, 2, 16, 64, 1e-6, 1e4, False, () )
  for name in tensor_shapes( dims ):
    assert gguf_name( name ) == gguf_tensor_name( name )

@pytest.mark.parametrize( "kinds, changes", (
  pytest.param( SMALL, {}, id="mixed, tied" ),
  pytest.param( ( "F32", "F16", "BF16" ), { "tie_word_embeddings": False }, id="floating, untied" ),
  pytest.param( ( "Q4_K", "Q6_K", "Q5_K" ), { "hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1 },
                id="K blocks" ) ) )
def test_the_image_is_that_of_a_folder_with_the_same_numbers( tmp_path, kinds, changes ):
  """Byte by byte: dimensions, tokens that end a text and all weights."""
  file, folder = mk_models( tmp_path, kinds, **changes )
  for model, name in ( ( file, "a.npu" ), ( folder, "b.npu" ) ):
    compile_model( model, tmp_path / name, PRESETS["edge16"], "w8a16" )
  assert_same_images( tmp_path / "a.npu", tmp_path / "b.npu" )

def test_hugging_faces_model_of_a_file_is_that_of_the_folder( tmp_path ):
  file, folder = mk_models( tmp_path, SMALL, tie_word_embeddings=False )
  tokens = [ 1, 50, 300, 7 ]
  found  = Reference( file ).logits( tokens )
  np.testing.assert_array_equal( found, Reference( folder ).logits( tokens ) )
  compile_model( file, tmp_path / "a.npu", PRESETS["edge16"], "w16a16" )
  device = Device( load_image( tmp_path / "a.npu" ) )
  np.testing.assert_allclose( np.concatenate( list( device.score( tokens ) ) ), found, atol=0.02 )

@pytest.mark.parametrize( "bad", ( np.inf, np.nan ) )
def test_a_value_that_is_not_finite_is_refused( tmp_path, bad ):
  values = np.ones( ( 4, 64 ), dtype=np.float32 )
  values[2, 5] = bad
  path = tmp_path / "m.gguf"
  write_gguf( path, { "token_embd.weight": values }, {} )
  model = GgufModel( path )
  assert ( model.read( "model.embed_tokens.weight", ( 4, 64 ), 3, 4 ) == 1 ).all()
  assert refusal( model.read, "model.embed_tokens.weight", ( 4, 64 ), 1 ) == \
    f"{path}: tensor token_embd.weight holds {bad} at [2, 5]; all weights must be finite"

#-------------------------------------------------------------------------
# Dimensions and the rest of the metadata
#-------------------------------------------------------------------------

PLAIN = ModelConfig(
  vocab_size=384, hidden_size=64, intermediate_size=96, layers=2, heads=4, kv_heads=2, head_dim=16, context=64,
  rms_norm_eps=1e-6, rope_theta=1e4, tied=True, eos_tokens=( 381, 383 ) )

@pytest.mark.parametrize( "changes, expected", (
  pytest.param( {}, {}, id="plain" ),
  pytest.param( { "qwen2.attention.layer_norm_rms_epsilon": 1e-5 }, { "rms_norm_eps": 1e-5 }, id="epsilon" ),
  pytest.param( { "qwen2.rope.freq_base": 1e6 }, { "rope_theta": 1e6 }, id="freq_base" ),
  pytest.param( { "qwen2.rope.freq_base": REMOVED }, { "rope_theta": 1e4 }, id="default freq_base" ),
  pytest.param( { "qwen2.attention.head_count_kv": REMOVED }, { "kv_heads": 4 }, id="default head_count_kv" ),
  pytest.param( { "qwen2.attention.key_length": 10, "qwen2.attention.value_length": 10 }, { "head_dim": 10 },
                id="key_length" ),
  pytest.param( { "qwen2.rope.dimension_count": 16 }, {}, id="RoPE of whole heads" ),
  pytest.param( { "qwen2.rope.scaling.type": "none", "qwen2.rope.scaling.factor": 1.0 }, {}, id="unscaled RoPE" ),
  pytest.param( { "tokenizer.ggml.eos_token_id": 383 }, { "eos_tokens": ( 383, 381 ) }, id="EOS" ),
  pytest.param( { "tokenizer.ggml.eos_token_id": 5, "tokenizer.ggml.eot_token_id": 6 },
                { "eos_tokens": ( 5, 6, 383, 381 ) }, id="EOS and EOT" ),
  pytest.param( { "tokenizer.ggml.eos_token_id": REMOVED }, { "eos_tokens": ( 383, 381 ) }, id="EOS by text alone" ),
  pytest.param( { "split.count": 0, "split.no": 0 }, {}, id="parts put together again" ) ) )
def test_dimensions( tmp_path, changes, expected ):
  path, _ = mk_models( tmp_path, SMALL, changes=changes )
  assert GgufModel( path ).dims == ModelConfig( **{ **vars( PLAIN ), **expected } )

def test_an_output_of_its_own_is_not_tied( tmp_path ):
  path, _ = mk_models( tmp_path, SMALL, tie_word_embeddings=False )
  assert GgufModel( path ).dims == ModelConfig( **{ **vars( PLAIN ), "tied": False } )

def test_name_template_and_advice( tmp_path ):
  path, _ = mk_models( tmp_path, SMALL, changes={
    "tokenizer.chat_template": "{{ eos_token }}", "tokenizer.ggml.eos_token_id": 383,
    "general.sampling.temp": 0.7, "general.sampling.top_k": 20, "general.sampling.penalty_repeat": 1.05 } )
  model = GgufModel( path )
  assert ( model.name, model.path ) == ( "model", path )
  assert model.chat_template() == ChatTemplate( "{{ eos_token }}", {
    "bos_token": "<|endoftext|>", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>" } )
  assert model.generation() == { "temperature": 0.7, "top_k": 20, "repetition_penalty": 1.05, "do_sample": True }
  assert model.fingerprint() == hashlib.sha256( path.read_bytes() ).hexdigest()

def test_without_template_and_advice( tmp_path ):
  path, _ = mk_models( tmp_path, SMALL )
  assert GgufModel( path ).chat_template() is None
  assert GgufModel( path ).generation() == {}

#-------------------------------------------------------------------------
# Which file
#-------------------------------------------------------------------------

def test_a_file_is_known_by_its_content_and_a_folder_by_its_file( tmp_path ):
  path, folder = mk_models( tmp_path, SMALL )
  other = path.rename( tmp_path / "weights.bin" )
  assert isinstance( open_model( other ), GgufModel )
  assert isinstance( open_model( folder ), FolderModel )
  ( tmp_path / "one" ).mkdir()
  inside = other.rename( tmp_path / "one" / "a.gguf" )
  assert open_model( tmp_path / "one" ).path == inside
  shutil.copy( inside, tmp_path / "one" / "b.gguf" )
  assert refusal( open_model, tmp_path / "one" ) == \
    f"{tmp_path}/one holds 2 GGUF models; name one of them: a.gguf, b.gguf"
  shutil.copy( inside, folder )
  assert isinstance( open_model( folder ), FolderModel )

def test_parts( tmp_path ):
  """Any part will do, and a folder of them is one model."""
  _, folder = mk_models( tmp_path, SMALL, split=9 )
  parts = sorted( tmp_path.glob( "*.gguf" ) )
  assert [ p.name for p in parts ] == [ f"model-0000{i}-of-00003.gguf" for i in ( 1, 2, 3 ) ]
  for path in ( *parts, tmp_path ):
    model = open_model( path )
    assert ( model.name, model.path ) == ( "model", parts[0] )
  compile_model( parts[2], tmp_path / "a.npu", PRESETS["edge16"], "w8a16" )
  compile_model( folder, tmp_path / "b.npu", PRESETS["edge16"], "w8a16" )
  assert_same_images( tmp_path / "a.npu", tmp_path / "b.npu" )
  before = model.fingerprint()
  parts[1].write_bytes( parts[1].read_bytes()[:-1] + b"\xff" )
  assert model.fingerprint() != before

def test_parts_that_are_missing_or_mixed_up( tmp_path ):
  mk_models( tmp_path, SMALL, split=9 )
  parts = sorted( tmp_path.glob( "*.gguf" ) )
  alone = Path( shutil.copy( parts[0], tmp_path / "alone.gguf" ) )
  assert refusal( GgufModel, alone ) == (
    f"{alone} is one of 3 parts of a model; a name that ends in -00001-of-00003.gguf is expected, "
    "so that the others can be found" )
  shutil.copy( parts[0], parts[1] )
  assert refusal( GgufModel, parts[2] ) == \
    f"{parts[1]}: split.no and split.count are 0 and 3; 1 and 3 are expected"
  parts[1].unlink()
  assert refusal( GgufModel, parts[0] ) == f"{parts[1]} is missing; the model is split into 3 files"

#-------------------------------------------------------------------------
# Tokenizer
#-------------------------------------------------------------------------

USER, UNUSED = "<tool_call>", "[PAD385]"

@pytest.fixture( scope="module" )
def tokenizers( tmp_path_factory: pytest.TempPathFactory ) -> tuple[Tokenizer, Tokenizer]:
  """Of a GGUF file, and of a tokenizer.json with the same vocabulary."""
  path = tmp_path_factory.mktemp( "tokenizer" ) / "m.gguf"
  texts, types, _ = vocabulary()
  write_gguf( path, {}, metadata( CONFIG ) | {
    "tokenizer.ggml.tokens": [ *texts, USER, UNUSED ], "tokenizer.ggml.token_type": [ *types, 4, 5 ] } )
  expected = Tokenizer.from_file( str( NANO / "tokenizer.json" ) )
  expected.add_tokens( [ AddedToken( USER, normalized=False ) ] )
  return GgufModel( path ).tokenizer(), expected

ODD_PIECES = (
  "<|im_start|>", "<|im_end|>", "<|endoftext|>", USER, UNUSED, "<|im_", " \n", "\r\n\r\n", "\t ", "'LL", "'s",
  "e\u0301", "\u212b", "\u017f", "\x00", "\x1b[0m", "\u00a0", "\u3000", "\ufeff", "\u0e33", "1234", "the lord " )
PIECES = st.sampled_from( ODD_PIECES ) | st.text( max_size=8 ) | st.text( " \n\r\t'sa1.", max_size=8 )

@settings( max_examples=300 )
@given( pieces=st.lists( PIECES ) )
def test_tokens_are_those_of_a_tokenizer_json( tokenizers, pieces ):
  found, expected = tokenizers
  words  = "".join( pieces )
  tokens = expected.encode( words ).ids
  assert found.encode( words ).ids == tokens
  for skip in ( True, False ):
    assert found.decode( tokens, skip_special_tokens=skip ) == expected.decode( tokens, skip_special_tokens=skip )

def test_control_tokens_are_special_and_unused_ones_are_not_there( tokenizers ):
  found, _ = tokenizers
  assert found.get_vocab_size() == 385
  assert found.decode( [ 384, 381, 385 ], skip_special_tokens=True ) == USER
  assert { i: t.special for i, t in found.get_added_tokens_decoder().items() } == {
    381: True, 382: True, 383: True, 384: False }

#-------------------------------------------------------------------------
# Metadata that is refused
#-------------------------------------------------------------------------

TOKENS, TYPES, MERGES = vocabulary()

@pytest.mark.parametrize( "changes, message", (
  ( { "qwen2.rope.scaling.type": "yarn" },
    "qwen2.rope.scaling.type is 'yarn'; only unscaled RoPE ('none') is supported" ),
  ( { "qwen2.rope.scaling.factor": 4.0 },
    "qwen2.rope.scaling.factor is 4.0; only unscaled RoPE (1.0) is supported" ),
  ( { "qwen2.block_count": REMOVED }, "qwen2.block_count is missing; a positive integer is expected" ),
  ( { "qwen2.block_count": 0 }, "qwen2.block_count is 0; a positive integer is expected" ),
  ( { "qwen2.block_count": 1 << 20 }, "qwen2.block_count is 1048576; at most 65536 are supported" ),
  ( { "qwen2.block_count": 1 }, "tensor 'blk.1.attn_k.bias' is none of a dense Qwen2 model" ),
  ( { "qwen2.block_count": 2.0 }, "qwen2.block_count is 2.0; a positive integer is expected" ),
  ( { "qwen2.block_count": "two\n" }, r"qwen2.block_count is 'two\n'; a positive integer is expected" ),
  ( { "qwen2.block_count": True }, "qwen2.block_count is True; a positive integer is expected" ),
  ( { "qwen2.attention.head_count": [ 4, 4 ] },
    "qwen2.attention.head_count is an array; a positive integer is expected" ),
  ( { "qwen2.attention.head_count": 3 }, "3 attention heads are not divisible by 2 key-value heads" ),
  ( { "qwen2.attention.head_count": 64 }, "a head has 1 elements; an even number is expected" ),
  ( { "qwen2.attention.value_length": 8 },
    "qwen2.attention.value_length is 8; 16 is expected, the elements of a head" ),
  ( { "qwen2.rope.dimension_count": 8 },
    "qwen2.rope.dimension_count is 8; 16 is expected, the elements of a head" ),
  ( { "qwen2.rope.freq_base": -1.0 }, "qwen2.rope.freq_base is -1.0; a positive number is expected" ),
  ( { "qwen2.attention.layer_norm_rms_epsilon": float( "nan" ) },
    "qwen2.attention.layer_norm_rms_epsilon is nan; a positive number is expected" ),
  ( { "qwen2.attention.layer_norm_rms_epsilon": REMOVED },
    "qwen2.attention.layer_norm_rms_epsilon is missing; a positive number is expected" ),
  ( { "qwen2.context_length": REMOVED }, "qwen2.context_length is missing; a positive integer is expected" ),
  ( { "tokenizer.ggml.eos_token_id": 384 },
    "tokenizer.ggml.eos_token_id is 384; a number from 0 to 383 is expected" ),
  ( { "tokenizer.ggml.tokens": [ *TOKENS, "more" ] },
    "token_embd.weight has 384 rows, fewer than the 385 tokens of the vocabulary; a row for each is expected" ),
  ( { "tokenizer.ggml.tokens": REMOVED }, "tokenizer.ggml.tokens is missing; an array of texts is expected" ),
  ( { "tokenizer.ggml.tokens": [ 1, 2 ] },
    "tokenizer.ggml.tokens is an array of numbers; an array of texts is expected" ),
  ( { "general.alignment": 24 }, "general.alignment is 24; a power of two is expected" ) ) )
def test_dimensions_that_are_refused( tmp_path, changes, message ):
  path, _ = mk_models( tmp_path, SMALL, changes=changes )
  assert refusal( lambda: GgufModel( path ).dims ) == f"{path}: {message}"

@pytest.mark.parametrize( "architecture, found", ( ( "llama", "'llama'" ), ( "qwen2moe", "'qwen2moe'" ),
                                                   ( "", "missing" ) ) )
def test_other_architectures( tmp_path, architecture, found ):
  path, _ = mk_models( tmp_path, SMALL, architecture=architecture )
  assert refusal( lambda: GgufModel( path ).dims ) == \
    f"{path}: general.architecture is {found}; only 'qwen2' is supported"

@pytest.mark.parametrize( "options, message", (
  ( { "drop": ( "blk.1.ffn_up.weight", ) }, "tensor blk.1.ffn_up.weight is missing" ),
  ( { "drop": ( "token_embd.weight", ) }, "tensor token_embd.weight is missing" ),
  ( { "extra": { "output.bias": np.zeros( 384, np.float32 ) } },
    "tensor 'output.bias' is none of a dense Qwen2 model" ),
  ( { "changes": { "qwen2.feed_forward_length": 128 } },
    "tensor blk.0.ffn_gate.weight has shape (96, 64); (128, 64) is expected from the metadata" ),
  ( { "drop": ( "output_norm.weight", ), "extra": { "output_norm.weight": np.ones( 64, np.float64 ) } },
    f"tensor output_norm.weight is F64; {', '.join( readable_types() )} are supported" ) ) )
def test_tensors_that_are_refused( tmp_path, options, message ):
  path, _ = mk_models( tmp_path, SMALL, **options )
  assert refusal( compile_model, path, tmp_path / "a.npu", PRESETS["edge16"], "w8a16" ) == f"{path}: {message}"

@pytest.mark.parametrize( "changes, message", (
  ( { "tokenizer.ggml.model": REMOVED }, " has no tokenizer; tokenizer.ggml.model is expected to be 'gpt2'" ),
  ( { "tokenizer.ggml.model": "llama" }, ": tokenizer.ggml.model is 'llama'; only 'gpt2' is supported" ),
  ( { "tokenizer.ggml.pre": "llama-bpe" }, ": tokenizer.ggml.pre is 'llama-bpe'; only 'qwen2' is supported" ),
  ( { "tokenizer.ggml.add_bos_token": True },
    ": tokenizer.ggml.add_bos_token is true; Qwen2's tokenizer adds no tokens to a text" ),
  ( { "tokenizer.ggml.add_bos_token": 1 }, ": tokenizer.ggml.add_bos_token is 1; true or false is expected" ),
  ( { "tokenizer.ggml.token_type": REMOVED },
    ": tokenizer.ggml.token_type is missing; an array of numbers is expected" ),
  ( { "tokenizer.ggml.token_type": TYPES[:-1] },
    ": tokenizer.ggml.token_type has 383 entries; 384 are expected from tokenizer.ggml.tokens" ),
  ( { "tokenizer.ggml.token_type": [ *TYPES[:-1], 6 ] },
    ": token 383 is of type 6; 1 (normal), 3 (control), 4 (user defined) and 5 (unused) are supported" ),
  ( { "tokenizer.ggml.tokens": [ *TOKENS[:-1], "!" ] },
    ": tokens 0 and 383 are both '!'; each token needs a text of its own" ),
  ( { "tokenizer.ggml.tokens": [ *TOKENS[:-1], "" ] },
    ": token 383 is empty; each token needs a text of its own" ),
  ( { "tokenizer.ggml.tokens": [ *( t.encode() for t in TOKENS[:-1] ), b"\xff\n" ] },
    r": tokenizer.ggml.tokens holds b'\xff\n'; UTF-8 is expected" ),
  ( { "tokenizer.ggml.merges": [ *MERGES, "a" ] },
    ": tokenizer.ggml.merges holds 'a'; two tokens with a space between are expected" ),
  ( { "tokenizer.ggml.merges": [ *MERGES, "zq zq" ] },
    ": tokenizer.ggml.merges does not fit tokenizer.ggml.tokens: 'Token `zq` out of vocabulary'" ) ) )
def test_tokenizers_that_are_refused( tmp_path, changes, message ):
  path = tmp_path / "m.gguf"
  write_gguf( path, {}, metadata( CONFIG ) | changes )
  assert refusal( GgufModel( path ).tokenizer ) == f"{path}{message}"

#-------------------------------------------------------------------------
# Files that are damaged
#-------------------------------------------------------------------------

HUGE = struct.pack( "<Q", 1 << 62 )
ONE  = header( 1, 0 )

DAMAGED = {
  "empty": ( b"", " starts with b''; a GGUF file starts with b'GGUF'" ),
  "another magic": ( b"GGML" + bytes( 40 ), " starts with b'GGML'; a GGUF file starts with b'GGUF'" ),
  "nothing but the magic": (
    b"GGUF", " is truncated or damaged: 4 bytes of the version are expected from 4 on, and the file has 4" ),
  "half a header": (
    header( 0, 0 )[:20],
    " is truncated or damaged: 8 bytes of the number of metadata keys are expected from 16 on, and the file has 20" ),
  "big-endian": ( b"GGUF" + struct.pack( ">IQQ", 3, 0, 0 ),
                  " is big-endian; a little-endian GGUF file is expected" ),
  "version": ( header( 0, 0, version=1 ), " is GGUF version 1; 2 and 3 are supported" ),
  "no tensor could be so many": (
    header( 1 << 60, 0 ), f": {1 << 60} tensors are announced; at most 65536 are supported" ),
  "nor a key": ( header( 0, 1 << 40 ), f": {1 << 40} metadata keys are announced; at most 65536 are supported" ),
  "more keys than bytes": (
    header( 0, 60000 ),
    " is truncated or damaged: 780000 bytes of 60000 metadata keys are expected from 24 on, and the file has 24" ),
  "a long key": (
    header( 0, 1 ) + HUGE + bytes( 9 ),
    f" is truncated or damaged: {1 << 62} bytes of a key of the metadata are expected from 32 on, "
    "and the file has 41" ),
  "a long text": (
    header( 0, 1 ) + key( "a", 8, struct.pack( "<Q", 9 ) ),
    " is truncated or damaged: 9 bytes of 'a' are expected from 45 on, and the file has 45" ),
  "an unknown type": (
    header( 0, 1 ) + key( "a", 99, bytes( 8 ) ),
    ": 'a' is of type 99, which GGUF does not have; the file is damaged" ),
  "an array of arrays": (
    header( 0, 1 ) + key( "a", 9, struct.pack( "<IQ", 9, 1 ) ),
    ": 'a' is an array of type 9; one of numbers or strings is expected" ),
  "a long array": (
    header( 0, 1 ) + key( "a", 9, struct.pack( "<IQ", 4, 1 << 50 ) ),
    f": {1 << 50} elements of 'a' are announced; at most {1 << 28} are supported" ),
  "an array past the end": (
    header( 0, 1 ) + key( "a", 9, struct.pack( "<IQ", 4, 9 ) ),
    " is truncated or damaged: 36 bytes of 9 elements of 'a' are expected from 49 on, and the file has 49" ),
  "many texts": (
    header( 0, 1 ) + key( "a", 9, struct.pack( "<IQ", 8, 1 << 50 ) ),
    f": {1 << 50} strings of 'a' are announced; at most {1 << 24} are supported" ),
  "a long text of many": (
    header( 0, 1 ) + key( "a", 9, struct.pack( "<IQ", 8, 3 ) + text( "x" ) + HUGE + bytes( 8 ) ),
    f" is truncated or damaged: {( 1 << 62 ) + 25} bytes of 'a' are expected from 49 on, and the file has 74" ),
  "a key twice": ( header( 0, 2 ) + key( "a\n", 7, b"\1" ) * 2, r" has the key 'a\n' twice" ),
  "no dimensions": ( ONE + tensor( "t", (), 0, 0 ) + bytes( 40 ),
                     ": tensor 't' has 0 dimensions; 1 to 4 are expected" ),
  "many dimensions": ( ONE + tensor( "t", ( 1, ) * 5, 0, 0 ), ": tensor 't' has 5 dimensions; 1 to 4 are expected" ),
  "no elements": ( ONE + tensor( "t", ( 0, 4 ), 0, 0 ),
                   ": tensor 't' has shape (4, 0); at least one element is expected" ),
  "a part of a block": ( ONE + tensor( "t", ( 33, 4 ), 8, 0 ),
                         ": tensor 't' has shape (4, 33); rows of a multiple of 32 elements are expected" ),
  "an unknown block type": (
    ONE + tensor( "t", ( 32, ), 99, 0 ),
    f": tensor 't' is of type 99, which is not known; {', '.join( readable_types() )} are supported" ),
  "a huge tensor": (
    ONE + tensor( "t", ( 1 << 40, 1 << 40 ), 0, 0 ),
    f" is truncated or damaged: tensor 't' ends at byte {96 + ( 1 << 82 )}, and the file has 65" ),
  "a tensor past the end": (
    ONE + tensor( "t", ( 4, ), 0, 32 ) + bytes( 54 ),
    " is truncated or damaged: tensor 't' ends at byte 112, and the file has 111" ),
  "a tensor twice": ( header( 2, 0 ) + tensor( "t", ( 4, ), 0, 0 ) * 2 + bytes( 64 ),
                      " has the tensor 't' twice" ) }

@pytest.mark.parametrize( "data, message", DAMAGED.values(), ids=DAMAGED )
def test_damaged_files( tmp_path, data, message ):
  path = tmp_path / "m.gguf"
  path.write_bytes( data )
  assert refusal( open_model, path ) == f"{path}{message}"

def test_a_file_that_is_mostly_hole_costs_no_time( tmp_path ):
  """Its size allows whatever it announces."""
  path = tmp_path / "m.gguf"
  for data, message in (
      ( header( 0, 1 ) + struct.pack( "<Q", 1 << 30 ),
        f"a key of the metadata has {1 << 30} bytes; at most {1 << 24} are supported" ),
      ( header( 0, 1 ) + key( "a", 9, struct.pack( "<IQQ", 8, 1, 1 << 35 ) ),
        f"'a' has {( 1 << 35 ) + 8} bytes; at most {1 << 30} are supported" ) ):
    path.write_bytes( data )
    with path.open( "r+b" ) as file:
      file.truncate( 1 << 40 )
    assert refusal( open_model, path ) == f"{path}: {message}"

@pytest.fixture( scope="module" )
def whole( tmp_path_factory: pytest.TempPathFactory ) -> bytes:
  """A file that is right."""
  path, _ = mk_models( tmp_path_factory.mktemp( "whole" ), ( "Q4_0", ) )
  return path.read_bytes()

def use( path: Path ) -> None:
  """Everything that is done with a model, short of computing."""
  model = open_model( path )
  for name, shape in tensor_shapes( model.dims ).items():
    model.check( name, shape )
  model.tokenizer()
  model.chat_template()
  model.generation()

@settings( max_examples=100 )
@given( data=st.data() )
def test_a_truncated_file_is_refused( tmp_path_factory, whole, data ):
  path = tmp_path_factory.getbasetemp() / "truncated.gguf"
  path.write_bytes( whole[: data.draw( st.integers( 0, len( whole ) - 1 ) )] )
  assert str( path ) in refusal( use, path )

@settings( max_examples=300 )
@given( data=st.data() )
def test_a_damaged_file_is_refused_or_another_model( tmp_path_factory, whole, data ):
  """Bytes of all but the weights are changed; nothing but an NpuError of one line comes of it."""
  path    = tmp_path_factory.getbasetemp() / "damaged.gguf"
  changed = bytearray( whole )
  for _ in range( data.draw( st.integers( 1, 3 ) ) ):
    changed[data.draw( st.integers( 0, 10000 ) )] = data.draw( st.integers( 0, 255 ) )
  path.write_bytes( changed )
  try:
    use( path )
  except NpuError as e:
    assert len( str( e ).splitlines() ) == 1
