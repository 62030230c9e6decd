"""The NPU against Hugging Face's Qwen2 in float32: models of any shape, the trained one's figures, its text.

What is compared is `npu compare`'s own measure: KL(reference || NPU) in nats per position, agreement on
the most likely token, and the change of perplexity.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, note, settings, strategies as st
from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers.utils import logging

from npu.arch.config import PRESETS
from npu.arch.isa import Status
from npu.compiler.build import compile_model
from npu.compiler.find import find_folder
from npu.compiler.image import load_image
from npu.runtime.device import Device
from npu.runtime.text import TextCodec
from npu.tools.compare import Reference, compare_logits

logging.disable_progress_bar()

@pytest.fixture( scope="module", autouse=True )
def one_thread() -> Any:
  """These models are too small to share a matrix product between threads."""
  before = torch.get_num_threads()
  torch.set_num_threads( 1 )
  yield
  torch.set_num_threads( before )

#-------------------------------------------------------------------------
# Random models
#-------------------------------------------------------------------------

# Random nets are the harder case: their logits are noise, which nothing learnt to keep.
RANDOM_KL = { "w16a16": 1e-6, "w8a16": 1e-3 }
RANDOM_TOKENS = 24

@dataclass( frozen=True )
class RandomModel:
  """The shape of a Qwen2 model, the geometry to run it on, and a seed for weights and tokens."""
  layers: int
  kv_heads: int
  group: int
  head_dim: int
  hidden: int
  inter: int
  vocab: int
  tied: bool
  theta: float
  n: int
  seed: int

  def config( self ) -> Qwen2Config:
    """As transformers wants it; none of the special tokens is in so small a vocabulary."""
    return Qwen2Config(
      vocab_size=self.vocab, hidden_size=self.hidden, intermediate_size=self.inter,
      num_hidden_layers=self.layers, num_attention_heads=self.kv_heads * self.group,
      num_key_value_heads=self.kv_heads, head_dim=self.head_dim, max_position_embeddings=32,
      tie_word_embeddings=self.tied, rope_parameters={ "rope_type": "default", "rope_theta": self.theta },
      bos_token_id=None, eos_token_id=None, pad_token_id=None )

  def save( self, folder: Path ) -> None:
    """A checkpoint whose activations and logits are of order one, with biases and gains that matter."""
    generator = torch.Generator().manual_seed( self.seed )
    model = Qwen2ForCausalLM( self.config() )
    with torch.no_grad():
      for name, p in model.named_parameters():
        values = torch.randn( p.shape, generator=generator )
        if name.endswith( "norm.weight" ):
          p.copy_( 1 + 0.2 * values )
        elif name.endswith( ".bias" ):
          p.copy_( values )
        else:
          # 1.5 for the head, so that it has opinions.
          head = name in ( "lm_head.weight", "model.embed_tokens.weight" )
          p.copy_( values * ( 1.5 if head else 1.0 ) / p.shape[1] ** 0.5 )
    model.save_pretrained( folder )

@st.composite
def random_models( draw: st.DrawFn ) -> RandomModel:
  """Shapes that mostly fit nothing: odd sizes, heads that no n divides."""
  return RandomModel(
    layers=draw( st.integers( 1, 3 ) ), kv_heads=draw( st.integers( 1, 3 ) ), group=draw( st.integers( 1, 7 ) ),
    head_dim=2 * draw( st.integers( 1, 24 ) ), hidden=draw( st.integers( 16, 96 ) ),
    inter=draw( st.integers( 16, 128 ) ), vocab=draw( st.integers( 17, 300 ) ), tied=draw( st.booleans() ),
    theta=draw( st.sampled_from( ( 1e2, 1e4, 1e6 ) ) ), n=draw( st.sampled_from( ( 4, 8, 16 ) ) ),
    seed=draw( st.integers( 0, 2 ** 31 ) ) )

def figures( device: Device, reference: Reference, tokens: list[int], window: int ) -> dict[str, Any]:
  """What `npu compare` says of an NPU."""
  return compare_logits( device, reference, tokens, window ).report( device ).to_json()

def check_random_model( m: RandomModel, precisions: tuple[str, ...] = tuple( RANDOM_KL ) ) -> dict[str, Any]:
  """Compile with each precision and compare; returns the figures."""
  tokens = [ int( t ) for t in np.random.default_rng( m.seed ).integers( 0, m.vocab, RANDOM_TOKENS ) ]
  found  = {}
  with tempfile.TemporaryDirectory() as name:
    folder = Path( name )
    m.save( folder / "model" )
    reference = Reference( folder / "model" )
    assert np.std( reference.logits( tokens ) ) > 0.7
    for precision in precisions:
      image = folder / f"{precision}.npu"
      compile_model( str( folder / "model" ), image, PRESETS[f"edge{m.n}"], precision )
      found[precision] = figures( Device( load_image( image ) ), reference, tokens, 32 )
  return found

# The same models in every run: the noise of INT8 weights is a property of the model, and a few of the smallest
# random ones are beyond the bound of w8a16. (Measured: 1.09e-3 with vocabulary 17 and intermediate size 20,
# 1.65e-3 with heads of 2. A finer search for the scales does not bring them below.)
@settings( max_examples=12, derandomize=True )
@given( m=random_models() )
def test_random_models( m: RandomModel ) -> None:
  for precision, found in check_random_model( m ).items():
    note( f"{precision}: {found}" )
    assert found["tokens"] == RANDOM_TOKENS
    assert found["kl"] <= RANDOM_KL[precision]

@pytest.mark.nightly
@pytest.mark.parametrize( "precision", list( RANDOM_KL ) )
def test_many_random_models( precision: str ) -> None:
  @settings( max_examples=300, derandomize=True )
  @given( m=random_models() )
  def check( m: RandomModel ) -> None:
    figures = check_random_model( m, ( precision, ) )[precision]
    note( f"{precision}: {figures}" )
    assert figures["kl"] <= RANDOM_KL[precision]
  check()

# The two that were found beyond the bound, so that the miss stays in sight.
@pytest.mark.nightly
@pytest.mark.xfail( strict=True, reason="the noise of INT8 weights: see above" )
@pytest.mark.parametrize( "m", [
  RandomModel( 3, 1, 7, 40, 68, 20, 17,  False, 1e2, 4, 7581 ),
  RandomModel( 2, 1, 5, 2,  94, 46, 154, False, 1e2, 4, 245851 ) ], ids=[ "KL 1.09e-3", "KL 1.65e-3" ] )
def test_models_beyond_the_bound( m: RandomModel ) -> None:
  assert check_random_model( m, ( "w8a16", ) )["w8a16"]["kl"] <= RANDOM_KL["w8a16"]

SHAPES: list[tuple[str, RandomModel]] = [
  #                                              layers kv group dim hidden inter vocab tied theta n seed
  ( "all odd",                      RandomModel( 2,     1, 3,    6,  33,    51,   101,  True,  1e4, 16, 1 ) ),
  ( "no grouping, not tied",        RandomModel( 1,     3, 1,    10, 30,    77,   64,   False, 1e4, 8,  2 ) ),
  ( "head of two",                  RandomModel( 1,     2, 2,    2,  17,    19,   37,   True,  1e2, 4,  3 ) ),
  ( "all multiples of 16",          RandomModel( 3,     2, 2,    32, 64,    96,   256,  False, 1e6, 16, 4 ) ),
  ( "heads wider than the model",   RandomModel( 2,     2, 7,    48, 32,    32,   48,   True,  1e6, 8,  5 ) ) ]

@pytest.mark.parametrize( "m", [ r[1] for r in SHAPES ], ids=[ r[0] for r in SHAPES ] )
def test_shapes( m: RandomModel ) -> None:
  """Shapes that every run shall see, whatever hypothesis draws."""
  for precision, figures in check_random_model( m ).items():
    assert figures["kl"] <= RANDOM_KL[precision], precision

#-------------------------------------------------------------------------
# The trained model
#-------------------------------------------------------------------------

@dataclass( frozen=True )
class Figures:
  """What a precision may lose on held-out text: KL at most, top-1 at least and perplexity change at most
  that many per cent."""
  tokens: int
  kl: float
  top1: float
  ppl_change: float

# The changes of perplexity go either way; so few tokens say little about them below a tenth of a per cent.
TINY_FIGURES = {
  "w16a16": Figures( 512, 1e-6, 99.9, 0.05 ),
  "w8a16":  Figures( 512, 1e-3, 98.5, 0.3 ),
  "w8a8":   Figures( 512, 5e-3, 96.0, 1.0 ),
  "w4a16":  Figures( 512, 8e-2, 85.0, 6.0 ),
  "bf16":   Figures( 256, 2e-4, 99.0, 0.1 ) }

@pytest.fixture( scope="module" )
def reference() -> Reference:
  return Reference( find_folder( "tiny" ) )

@pytest.fixture( scope="module" )
def heldout() -> list[int]:
  """Text that the model was not trained on."""
  text = ( find_folder( "tiny" ).parent / "heldout.txt" ).read_text( encoding="utf-8" )
  return TextCodec( "tiny" ).encode( text )

def tiny( folder: Path, precision: str ) -> Device:
  """The trained model on an NPU."""
  compile_model( "tiny", folder / "tiny.npu", PRESETS["edge16"], precision )
  return Device( load_image( folder / "tiny.npu" ) )

def check_figures( device: Device, reference: Reference, tokens: list[int], limit: Figures ) -> None:
  found = figures( device, reference, tokens, device.context )
  print( found )
  assert found["tokens"] == len( tokens )
  assert 0 <= found["kl"] <= limit.kl
  assert found["top1"] >= limit.top1
  assert abs( found["ppl_change_percent"] ) <= limit.ppl_change

@pytest.mark.parametrize( "precision", TINY_FIGURES )
def test_tiny( tmp_path: Path, reference: Reference, heldout: list[int], precision: str ) -> None:
  limit = TINY_FIGURES[precision]
  check_figures( tiny( tmp_path, precision ), reference, heldout[: limit.tokens], limit )

@pytest.mark.nightly
@pytest.mark.parametrize( "precision", TINY_FIGURES )
def test_tiny_on_more_text( tmp_path: Path, reference: Reference, heldout: list[int], precision: str ) -> None:
  check_figures( tiny( tmp_path, precision ), reference, heldout[:4096], TINY_FIGURES[precision] )

#-------------------------------------------------------------------------
# Text
#-------------------------------------------------------------------------

PROMPTS = (
  "In the beginning God created",
  "And it came to pass in those days, that",
  "The LORD is my shepherd;",
  "Blessed are the meek: for they shall",
  "And Moses said unto the people,",
  "Thou shalt not",
  "For unto us a child is",
  "And he went up into the mountain, and",
  "hack: n. Originally, a quick job that",
  "A hacker is a person who",
  "bug: n. An unwanted and unintended property of a program",
  "foo: /foo/ interj. A word used",
  "The machine is down because the",
  "kluge: n. A clever programming trick",
  "real programmers do not write",
  "This term comes from the early days of Unix, when" )

NEW_TOKENS = 64
LEAST_EQUAL = 15     # of 16 prompts: a near tie of two tokens may go the other way once

def greedy_reference( reference: Reference, prompt: list[int] ) -> list[int]:
  """What Hugging Face generates, greedily and with its cache; the end-of-sequence token included."""
  with torch.no_grad():
    found = reference.model.generate(
      torch.tensor( [ prompt ] ), attention_mask=torch.ones( 1, len( prompt ), dtype=torch.long ),
      max_new_tokens=NEW_TOKENS, do_sample=False, use_cache=True,
      pad_token_id=reference.model.config.eos_token_id )
  return [ int( t ) for t in found[0, len( prompt ) :] ]

def difference( reference: Reference, prompt: list[int], expect: list[int], got: list[int] ) -> str:
  """Where two continuations part, and how much the reference preferred its own token there."""
  at = next( ( i for i, ( a, b ) in enumerate( zip( expect, got, strict=False ) ) if a != b ),
             min( len( expect ), len( got ) ) )
  if at == min( len( expect ), len( got ) ):
    return f"position {at}: one of them ends ({len( expect )} tokens expected, {len( got )} found)"
  logits = reference.logits( prompt + expect[:at] )[-1]
  return ( f"position {at}: token {got[at]} for {expect[at]}, whose logit is larger by "
           f"{logits[expect[at]] - logits[got[at]]:.6f}" )

def test_greedy_text( tmp_path: Path, reference: Reference ) -> None:
  """w16a16 writes what Hugging Face writes, 64 tokens from each prompt."""
  session, codec = tiny( tmp_path, "w16a16" ), TextCodec( "tiny" )
  differ = []
  for text in PROMPTS:
    prompt = codec.encode( text )
    expect = greedy_reference( reference, prompt )
    done   = session.generate( prompt, NEW_TOKENS )
    assert done.status == ( Status.LIMIT if len( done.tokens ) == NEW_TOKENS else Status.EOS )
    if done.tokens != expect:
      differ.append( f"{text!r}: {difference( reference, prompt, expect, done.tokens )}" )
  print( f"{len( PROMPTS ) - len( differ )} of {len( PROMPTS )} equal" )
  assert len( PROMPTS ) - len( differ ) >= LEAST_EQUAL, "\n".join( differ )
