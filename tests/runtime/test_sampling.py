"""Sampling against Hugging Face's own logits processors, what a model advises, and stop texts of a run."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import npu
from npu.arch.isa import Status
from npu.runtime.device import Device
from npu.runtime.sampling import Sampling, distribution, penalize, sample
from tests.helpers import mk_chain, mk_checkpoint

#-------------------------------------------------------------------------
# Against Hugging Face
#-------------------------------------------------------------------------

HOW = (
  pytest.param( { "temperature": 1.0, "min_p": 0.2 }, id="min_p" ),
  pytest.param( { "temperature": 3.0, "min_p": 0.2 }, id="min_p, hot" ),
  pytest.param( { "temperature": 1.0, "min_p": 1.0 }, id="min_p 1" ),
  pytest.param( { "temperature": 1.0, "repetition_penalty": 1.3 }, id="penalty" ),
  pytest.param( { "temperature": 1.0, "repetition_penalty": 0.5 }, id="a penalty below 1" ),
  pytest.param( { "temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.1 }, id="as Qwen2.5" ),
  pytest.param( { "temperature": 2.0, "top_k": 30, "top_p": 0.9, "min_p": 0.1, "repetition_penalty": 1.5 },
                id="all" ) )

def processed( how: dict[str, Any], seen: list[int], logits: np.ndarray ) -> np.ndarray:
  """Probabilities [vocabulary] after the processors that transformers chooses for these parameters, in its order."""
  import torch
  from transformers import GenerationConfig, GenerationMixin
  config      = GenerationConfig( do_sample=True, **how )
  host        = GenerationMixin()
  host.config = SimpleNamespace( is_encoder_decoder=False )
  processors  = host._get_logits_processor( config, device="cpu", input_ids_seq_length=len( seen ) )
  scores      = processors( torch.tensor( [ seen ] ), torch.tensor( logits[None] ) )
  return torch.softmax( scores.double(), dim=-1 )[0].numpy()

@pytest.mark.filterwarnings( "default" )     # torch's and transformers' own are not our errors
@pytest.mark.parametrize( "how", HOW )
@pytest.mark.parametrize( "seed", range( 4 ) )
def test_probabilities_are_those_of_hugging_face( how, seed ):
  rng    = np.random.default_rng( seed )
  logits = ( 3 * rng.standard_normal( 200 ) ).astype( np.float32 )
  seen   = [ int( t ) for t in rng.integers( 0, 200, 40 ) ] + [ int( logits.argmax() ) ]
  order, p = distribution( logits, Sampling( **how ), seen )
  expected = processed( how, seen, logits )
  found    = np.zeros( 200 )
  found[order] = p
  assert ( found > 0 ).tolist() == ( expected > 0 ).tolist()
  np.testing.assert_allclose( found, expected, rtol=1e-5 )

def test_a_penalty_alone_is_greedy():
  logits = np.array( [ 1.0, 3.0, 2.0, -1.0 ], dtype=np.float32 )
  rng    = np.random.default_rng( 0 )
  how    = Sampling( repetition_penalty=2.0 )
  assert how.on_host and not Sampling().on_host and not Sampling( top_k=3, min_p=0.5 ).on_host
  assert penalize( logits, 2.0, [ 1, 3, 1 ] ).tolist() == [ 1.0, 1.5, 2.0, -2.0 ]
  assert ( sample( logits, how, rng ), sample( logits, how, rng, [ 1, 3 ] ) ) == ( 1, 2 )

#-------------------------------------------------------------------------
# In a run
#-------------------------------------------------------------------------

@pytest.fixture( scope="module" )
def model( tmp_path_factory: pytest.TempPathFactory ) -> Path:
  return mk_checkpoint( tmp_path_factory.mktemp( "models" ) / "small", seed=3, tie_word_embeddings=False )

@pytest.fixture( scope="module" )
def image( model: Path ) -> Path:
  path = model.with_name( "small.npu" )
  npu.compile( model, path, config="edge4" )
  return path

@pytest.mark.parametrize( "at", ( "fl", pytest.param( "cl", marks=pytest.mark.level( "cl" ) ) ) )
def test_a_penalty_counts_prompt_and_output( image, at ):
  how = Sampling( repetition_penalty=1.8 )
  with Device( npu.load( image ), at ) as device:
    done   = device.generate( [ 5, 6, 7 ], 5, how, stop_at_eos=False )
    plain  = device.generate( [ 5, 6, 7 ], 5, stop_at_eos=False )
    tokens = done.prompt_tokens + done.tokens
    scores = np.concatenate( [ rows.copy() for rows in device.score( tokens ) ] )
  assert done.tokens == [ int( np.argmax( penalize( scores[i - 1], 1.8, tokens[:i] ) ) ) for i in range( 3, 8 ) ]
  assert done.tokens != plain.tokens and done.status == Status.LIMIT

STOP_TEXT = "abcdefgh"

@pytest.fixture( scope="module" )
def chain( tmp_path_factory: pytest.TempPathFactory ) -> Path:
  """A model that says STOP_TEXT on the prompt `>`, a character a token."""
  codec = npu.TextCodec( "nano" )
  return mk_chain( tmp_path_factory.mktemp( "models" ) / "chain", [ codec.encode( c )[0] for c in ">" + STOP_TEXT ] )

@pytest.mark.parametrize( "at", ( "fl", pytest.param( "cl", marks=pytest.mark.level( "cl" ) ) ) )
@pytest.mark.parametrize( "how", ( pytest.param( None, id="greedy" ), pytest.param( Sampling( 1e-6 ), id="sampled" ) ) )
def test_a_stop_text_ends_the_run( chain, at, how ):
  with npu.Session( chain, config="edge4", level=at ) as session:
    assert list( session.generate( ">", 8, how, stop=[ "de", "zz" ] ) ) == [ "a", "b", "c" ]
    report = session.report()
    assert ( report.status, report.text, session.decode( report.tokens ) ) == ( "stop", "abc", "abcde" )
    assert ( "tokens", "1 in, 5 out; a stop text came" ) in report.rows()
    # What was held back and is no stop text comes after all.
    assert "".join( session.generate( ">", 4, how, stop=[ "dx" ] ) ) == "abcd"
    assert ( session.report().status, session.report().text ) == ( "limit", "abcd" )

#-------------------------------------------------------------------------
# What a model advises
#-------------------------------------------------------------------------

QWEN = { "do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.1 }

@pytest.mark.parametrize( "generation, changes, expected", (
  pytest.param( QWEN, {}, Sampling( 0.7, 20, 0.8, repetition_penalty=1.1 ), id="Qwen2.5" ),
  pytest.param( QWEN, { "temperature": 0.2, "seed": 3 }, Sampling( 0.2, 20, 0.8, 3, repetition_penalty=1.1 ),
                id="with changes" ),
  pytest.param( { **QWEN, "do_sample": False }, {}, Sampling( 0.0, 20, 0.8, repetition_penalty=1.1 ), id="greedy" ),
  pytest.param( { "do_sample": True }, {}, Sampling( 1.0, 50 ), id="Hugging Face's own" ),
  pytest.param( { "min_p": 0.1, "temperature": 2 }, {}, Sampling( 2, 50, min_p=0.1 ), id="min_p" ),
  pytest.param( { "repetition_penalty": 1.1 }, {}, Sampling( 0.0, 50, repetition_penalty=1.1 ), id="penalty" ) ) )
def test_a_model_advises( tmp_path, generation, changes, expected ):
  ( tmp_path / "generation_config.json" ).write_text( json.dumps( generation ) )
  assert Sampling.of_model( tmp_path_model( tmp_path ), **changes ) == expected

def tmp_path_model( folder: Path ) -> Path:
  ( folder / "config.json" ).write_text( "{}" )
  return folder

@pytest.mark.parametrize( "generation, message", (
  pytest.param( { "eos_token_id": 3 }, "{} advises nothing on sampling; choose a temperature instead", id="nothing" ),
  pytest.param( { "do_sample": True, "top_k": "20" },
                "the sampling that {} advises: top_k is '20'; a number is expected", id="text" ),
  pytest.param( { "do_sample": True, "top_p": 7.5 },
                "the sampling that {} advises: top_p is 7.5; choose more than 0, up to 1", id="out of range" ) ) )
def test_wrong_advice_is_told( tmp_path, generation, message ):
  ( tmp_path / "generation_config.json" ).write_text( json.dumps( generation ) )
  with pytest.raises( npu.NpuError ) as e:
    Sampling.of_model( tmp_path_model( tmp_path ) )
  assert str( e.value ) == message.format( tmp_path.name )
