"""Train the embedded models (`tiny`, `nano`) from public-domain English.

The text is the King James Bible and the Jargon File, as Debian packages them; as root:

    apt-get install bible-kjv bible-kjv-text jargon-text

Then, with the project's `test` extra (torch) installed:

    python -m npu.models.train tiny --steps 4000
    python -m npu.models.train nano --steps 8000

Each run writes the checkpoint (BF16 safetensors, `save_pretrained` layout) to `npu/models/<name>`,
and the held-out text that `npu compare` measures on to `npu/models/heldout.txt`.
"""

import gzip
import math
import random
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import torch
import typer
from tokenizers import (
  AddedToken,
  Regex,
  Tokenizer,
  decoders,
  models,
  normalizers,
  pre_tokenizers,
  trainers,
)
from transformers import Qwen2Config, Qwen2ForCausalLM

from npu.tools.random_model import SHAPES
from npu.tools.tokenizer import QWEN2_SPLIT, SPECIAL_TOKENS, save_qwen2_tokenizer

MODELS_DIR = Path( __file__ ).parent
JARGON     = Path( "/usr/share/doc/jargon-text/jargon.txt.gz" )
SEQUENCE   = 256   # tokens per training sequence, and the models' context length
BATCH      = 16    # sequences per step
HELD_OUT   = 97    # every 97th document is held out: it is never trained on

#-------------------------------------------------------------------------
# Text
#-------------------------------------------------------------------------

def bible_documents() -> list[str]:
  """One document per chapter, one verse per line."""
  text = subprocess.run( [ "bible", "-f", "gen1:1-rev22:21" ], capture_output=True, text=True,
                         check=True ).stdout
  chapters: dict[str, list[str]] = {}
  for line in text.splitlines():
    reference, _, verse = line.partition( " " )
    if verse:
      chapters.setdefault( reference.partition( ":" )[0], [] ).append( verse.strip() )
  return [ "\n".join( verses ) for verses in chapters.values() ]

def jargon_documents() -> list[str]:
  """One document per entry or section, paragraphs unwrapped, plain ASCII only."""
  text  = gzip.decompress( JARGON.read_bytes() ).decode( "utf-8" )
  for fancy, plain in ( ( "‘", "'" ), ( "’", "'" ), ( "“", '"' ), ( "”", '"' ), ( "—", "--" ) ):
    text = text.replace( fancy, plain )
  documents: list[str] = []
  paragraphs: list[str] = []
  for block in re.split( r"\n\s*\n", text ):
    paragraph = re.sub( r"\s+", " ", block ).strip().replace( "{", "" ).replace( "}", "" )
    if not paragraph or not paragraph.isascii() or not re.search( "[a-z]{3}", paragraph ):
      continue
    # A headword stands alone on a line with less indentation than its definition.
    if len( paragraph ) < 60 and paragraph[-1] not in ".:,;?!)" and paragraphs:
      documents.append( "\n".join( paragraphs ) )
      paragraphs = []
    paragraphs.append( paragraph )
  documents.append( "\n".join( paragraphs ) )
  return [ d for d in documents if len( d ) > 80 ]

def load_text() -> tuple[list[str], list[str]]:
  """Returns (training documents, held-out documents); both corpora in both, in proportion."""
  train, held = [], []
  for documents in ( bible_documents(), jargon_documents() ):
    train += [ d for i, d in enumerate( documents ) if i % HELD_OUT != HELD_OUT // 2 ]
    held  += documents[ HELD_OUT // 2 :: HELD_OUT ]
  random.Random( 0 ).shuffle( held )      # so that the start of the held-out text has both kinds
  return train, held

def train_tokenizer( documents: list[str], vocab_size: int ) -> Tokenizer:
  """Byte-level BPE with Qwen2's normaliser and pre-tokeniser; special tokens come last."""
  tokenizer = Tokenizer( models.BPE( byte_fallback=False ) )
  tokenizer.normalizer    = normalizers.NFC()
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence( [
    pre_tokenizers.Split( Regex( QWEN2_SPLIT ), behavior="isolated" ),
    pre_tokenizers.ByteLevel( add_prefix_space=False, use_regex=False ) ] )
  tokenizer.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer( vocab_size=vocab_size - len( SPECIAL_TOKENS ), show_progress=False,
                                 initial_alphabet=pre_tokenizers.ByteLevel.alphabet() )
  tokenizer.train_from_iterator( documents, trainer )
  tokenizer.add_special_tokens( [ AddedToken( t, special=True ) for t in SPECIAL_TOKENS ] )
  return tokenizer

def encode( tokenizer: Tokenizer, documents: list[str] ) -> torch.Tensor:
  """All documents as one token stream, each followed by <|endoftext|>."""
  end    = tokenizer.token_to_id( "<|endoftext|>" )
  stream = []
  for e in tokenizer.encode_batch( documents ):
    stream += e.ids + [ end ]
  return torch.tensor( stream )

#-------------------------------------------------------------------------
# Training
#-------------------------------------------------------------------------

@torch.no_grad()
def held_out_loss( model: Qwen2ForCausalLM, stream: torch.Tensor ) -> float:
  """Mean cross entropy in nats over the held-out stream, in windows of SEQUENCE tokens."""
  model.eval()
  windows = stream[ : len( stream ) // SEQUENCE * SEQUENCE ].view( -1, SEQUENCE )
  losses  = [ model( input_ids=w, labels=w ).loss.item() for w in windows.split( 8 ) ]
  model.train()
  return sum( losses ) / len( losses )

def mk_optimizers( model: Qwen2ForCausalLM, muon_lr: float, adam_lr: float ) -> list[Any]:
  """Muon on the matrices, AdamW on the embedding, norms and biases."""
  matrices = [ p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name ]
  rest     = [ p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name ]
  return [ torch.optim.Muon( matrices, lr=muon_lr, momentum=0.95, weight_decay=0.05 ),
           torch.optim.AdamW( rest, lr=adam_lr, betas=( 0.9, 0.95 ), weight_decay=0.0 ) ]

def schedule( step: int, steps: int ) -> float:
  """Learning-rate factor: 50 steps of warm-up, constant, then linear decay over the last 60 %."""
  if step < 50:
    return ( step + 1 ) / 50
  return min( 1.0, ( steps - step ) / ( 0.6 * steps ) )

def main( name: str, steps: int = 4000, seed: int = 1, threads: int = 1, muon_lr: float = 0.02,
          adam_lr: float = 0.004 ) -> None:
  """Train the embedded model NAME (tiny or nano) and write it to npu/models/NAME."""
  torch.manual_seed( seed )
  torch.set_num_threads( threads )
  train_docs, held_docs = load_text()
  ( MODELS_DIR / "heldout.txt" ).write_text( "\n\n".join( held_docs ) + "\n" )
  print( f"{sum( map( len, train_docs ) )} training characters, "
         f"{sum( map( len, held_docs ) )} held out", flush=True )

  tokenizer = train_tokenizer( train_docs, SHAPES[name]["vocab_size"] )
  end       = tokenizer.token_to_id( "<|endoftext|>" )
  data      = encode( tokenizer, train_docs )
  held      = encode( tokenizer, held_docs )
  config    = Qwen2Config( **SHAPES[name], max_position_embeddings=SEQUENCE, tie_word_embeddings=True,
                           rope_theta=10000.0, bos_token_id=end, eos_token_id=end,
                           rms_norm_eps=1e-6, use_cache=False )
  model     = Qwen2ForCausalLM( config )
  print( f"{sum( p.numel() for p in model.parameters() )} parameters, {len( data )} training tokens, "
         f"{len( held )} held out", flush=True )

  optimizers = mk_optimizers( model, muon_lr, adam_lr )
  base_lrs   = [ o.param_groups[0]["lr"] for o in optimizers ]
  starts     = torch.Generator().manual_seed( seed )
  began      = time.time()
  for step in range( steps ):
    for optimizer, lr in zip( optimizers, base_lrs, strict=True ):
      optimizer.param_groups[0]["lr"] = lr * schedule( step, steps )
    offsets = torch.randint( 0, len( data ) - SEQUENCE, ( BATCH, ), generator=starts )
    batch   = torch.stack( [ data[ o : o + SEQUENCE ] for o in offsets ] )
    loss    = model( input_ids=batch, labels=batch ).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_( model.parameters(), 1.0 )
    for optimizer in optimizers:
      optimizer.step()
      optimizer.zero_grad()
    if step % 200 == 199 or step == steps - 1:
      value = held_out_loss( model, held )
      print( f"step {step + 1} train {loss.item():.3f} held-out {value:.3f} "
             f"ppl {math.exp( value ):.2f} {time.time() - began:.0f} s", flush=True )

  directory = MODELS_DIR / name
  model.config.use_cache = True
  model.to( torch.bfloat16 ).save_pretrained( directory )
  save_qwen2_tokenizer( tokenizer, directory, SEQUENCE )
  print( f"bf16 held-out ppl {math.exp( held_out_loss( model.float(), held ) ):.2f}", flush=True )

if __name__ == "__main__":
  typer.run( main )
