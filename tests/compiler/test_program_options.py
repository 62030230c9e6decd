"""What a program may be asked for: rows of a pass, a context, any configuration; and what is refused, and how."""

from dataclasses import replace

import pytest

from npu.arch.config import NpuConfig, get_config
from npu.arch.isa import encode
from npu.compiler.checkpoint import ModelConfig
from npu.compiler.precision import PRECISIONS, get_precision
from npu.compiler.program import Shape, build, fit_spad, head_order
from npu.errors import NpuError
from tests.compiler.programs import CONTEXT, MODELS, built

def changed( **changes: int ) -> ModelConfig:
  """The model nano with other dimensions."""
  return replace( MODELS["nano"], **changes )

def message_of( wrong ) -> str:
  """The text of the NpuError that calling `wrong` raises: one line."""
  with pytest.raises( NpuError ) as info:
    wrong()
  assert "\n" not in str( info.value )
  return str( info.value )

#-------------------------------------------------------------------------
# Options
#-------------------------------------------------------------------------

@pytest.mark.parametrize( "pass_rows", ( 1, 2, 7, 16 ) )
def test_pass_rows_option( pass_rows ):
  shape   = built( ( "nano", "edge16", "w8a16" ) ).shape
  program = build( shape.model, shape.cfg, shape.precision, CONTEXT, pass_rows )
  assert program.spad.pass_rows == program.instructions[0].limit == pass_rows
  assert program.memory.regions["logits"].size == pass_rows * 4 * 384

def test_pass_rows_that_do_not_fit_become_as_many_as_do():
  program = build( MODELS["0.5B"], get_config( "edge8" ), get_precision( "w8a16" ), CONTEXT, 9 )
  assert program.spad.pass_rows == 5

def test_exact_fit():
  """1,024 elements of scratchpad: 4 * 112 of rows and gains, 32 of RoPE, 2 * 272 of gate and up."""
  cfg   = NpuConfig( name="toy", n=16, spad_bytes=4096 )
  model = changed( hidden_size=112, intermediate_size=272, heads=2, kv_heads=1, head_dim=64 )
  p     = get_precision( "w8a16" )
  found = build( model, cfg, p, CONTEXT ).spad
  assert ( found.pass_rows, found.total, cfg.derived.spad_rows ) == ( 1, 64, 64 )
  larger = replace( model, intermediate_size=273 )
  assert message_of( lambda: build( larger, cfg, p, CONTEXT ) ) == (
    "config toy has 4096 bytes of scratchpad: too few for one row of this model "
    "(hidden 112, intermediate 288); raise spad_bytes" )

@pytest.mark.parametrize( "context, chunks", ( ( 1, 1 ), ( 16, 1 ), ( 17, 2 ), ( 256, 16 ) ) )
def test_context( context, chunks ):
  program = build( MODELS["nano"], get_config( "edge16" ), get_precision( "w8a16" ), context )
  assert program.memory.regions["tokens"].size == 4 * ( context + 1 )
  assert program.memory.regions["rope"].size == context * 64
  assert { i.chunks for i in program.instructions if i.mnemonic == "ATTEND" } == { chunks }

@pytest.mark.parametrize( "model, config, precision, expected", (
  pytest.param( "nano", "edge16", "w8a16", [ *range( 8 ), *range( 16, 24 ) ], id="half of a row" ),
  pytest.param( "nano", "edge4",  "w8a16", [ *range( 16 ) ], id="whole rows" ),
  pytest.param( "nano", "edge4",  "w4a16", [ *range( 8 ), *range( 16, 24 ) ], id="half of a group" ),
  pytest.param( "odd",  "edge4",  "bf16",  [ *range( 5 ), *range( 8, 13 ) ], id="odd half" ) ) )
def test_head_order( model, config, precision, expected ):
  shape = Shape( MODELS[model], get_config( config ), get_precision( precision ) )
  assert head_order( shape ).tolist() == expected

#-------------------------------------------------------------------------
# Errors
#-------------------------------------------------------------------------

@pytest.mark.parametrize( "precision", PRECISIONS )
def test_model_that_does_not_fit_names_spad_bytes( precision ):
  cfg, p = get_config( "edge4" ), get_precision( precision )
  assert message_of( lambda: build( MODELS["7B"], cfg, p, 16 ) ) == (
    "config edge4 has 131072 bytes of scratchpad: too few for one row of this model "
    "(hidden 3584, intermediate 18944); raise spad_bytes" )
  # And what the message says helps.
  assert build( MODELS["7B"], cfg.but( spad_bytes=1 << 18 ), p, 16 ).spad.pass_rows == 1

@pytest.mark.parametrize( "pass_rows", ( 0, -1, 17 ) )
def test_pass_rows_out_of_range( pass_rows ):
  s       = built( ( "nano", "edge16", "w8a16" ) ).shape
  message = f"pass rows are {pass_rows}; config edge16 does 1 to 16"
  assert message_of( lambda: fit_spad( s, pass_rows ) ) == message
  assert message_of( lambda: build( s.model, s.cfg, s.precision, 16, pass_rows ) ) == message

@pytest.mark.parametrize( "model, k_max, message", (
  pytest.param( changed( intermediate_size=200 ), 207,
                "config toy sums at most k_max = 207 products; this model needs 208",
                id="inter, padded" ),
  pytest.param( changed( hidden_size=200 ), 207,
                "config toy sums at most k_max = 207 products; this model needs 208",
                id="hidden, padded" ),
  pytest.param( changed( heads=10 ), 319,
                "config toy sums at most k_max = 319 products; this model needs 320",
                id="heads, padded" ),
  pytest.param( changed( heads=254, kv_heads=1 ), 32768,
                "the model's heads + 2 * kv_heads is 256 (padded); instructions hold up to 255",
                id="heads" ),
  pytest.param( changed( head_dim=130 ), 32768,
                "the model's head_dim is 130 (160 padded); the attention engine does up to 128", id="head_dim" ),
  pytest.param( changed( intermediate_size=1 << 19 ), 1 << 20,
                "the model's intermediate_size is 1048576 (padded); instructions hold up to 1048575",
                id="intermediate_size, gate and up" ),
  pytest.param( changed( vocab_size=1048561 ), 32768,
                "the model's vocab_size is 1048576 (padded); instructions hold up to 1048575",
                id="vocab_size" ) ) )
def test_model_that_instructions_cannot_hold( model, k_max, message ):
  cfg = NpuConfig( name="toy", k_max=k_max, spad_bytes=1 << 26 )
  assert message_of( lambda: build( model, cfg, get_precision( "w8a16" ), 16 ) ) == message

@pytest.mark.parametrize( "changes", (
  pytest.param( { "heads": 253, "kv_heads": 1 }, id="heads" ),
  pytest.param( { "head_dim": 128 }, id="head_dim" ),
  pytest.param( { "vocab_size": 1048560 }, id="vocab_size" ),
  pytest.param( { "intermediate_size": ( 1 << 19 ) - 16 }, id="intermediate_size" ) ) )
def test_largest_model_that_instructions_hold( changes ):
  cfg = NpuConfig( name="toy", k_max=1 << 20, spad_bytes=1 << 26 )
  for i in build( changed( **changes ), cfg, get_precision( "w8a16" ), 16 ).instructions:
    encode( i )

def test_k_max_that_suffices():
  cfg = NpuConfig( name="toy", k_max=128 )      # the heads' 4 * 16, each half padded to 16
  assert build( MODELS["nano"], cfg, get_precision( "w4a16" ), 16 ).instructions

@pytest.mark.parametrize( "name", ( "w4a4", "", "W8A16" ) )
def test_unknown_precision_lists_the_known_ones( name ):
  assert message_of( lambda: get_precision( name ) ) == (
    f"unknown precision '{name}'; choose one of w8a16, w16a16, w8a8, w4a16, bf16" )
