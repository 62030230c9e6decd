"""Published Qwen2.5-Coder-0.5B-Instruct on the functional NPU, against Hugging Face in FP32: `make published`.

The functional level gives the bits of all others; what is compared here is the arithmetic, not the levels.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import npu
from npu.compiler.find import held_out_text, open_model
from npu.tools.compare import Reference, compare_logits
from tests.published.conftest import NAME
from tests.published.execution import passes
from tests.published.prompts import CONTINUED, EIGHT, TASKS, Task

pytestmark = [ pytest.mark.published, pytest.mark.filterwarnings( "default" ) ]

PRECISIONS = ( "w16a16", "w8a16", "w8a8", "w4a16", "bf16" )
Sessions   = Callable[[str], npu.Session]

def npu_tokens( session: npu.Session, prompt: str | list[int], count: int, stop: bool = False ) -> list[int]:
  """What the NPU goes on with, greedily."""
  return list( session.generate_tokens( prompt, count, stop_at_eos=stop ) )

def reference_tokens( reference: Reference, tokens: list[int], count: int, stop: tuple[int, ...] = () ) -> list[int]:
  """The same of Hugging Face."""
  import torch
  with torch.no_grad():
    made = reference.model.generate( torch.tensor( [ tokens ] ), attention_mask=torch.ones( 1, len( tokens ) ),
                                     max_new_tokens=count, do_sample=False, eos_token_id=list( stop ) or None,
                                     pad_token_id=0 )
  return [ int( t ) for t in made[0, len( tokens ) :] ]

def parting( reference: Reference, tokens: list[int], a: list[int], b: list[int] ) -> tuple[int, float] | None:
  """Where two continuations part, and how far Hugging Face's two logits are apart there; None if they do not."""
  for at, ( x, y ) in enumerate( zip( a, b, strict=True ) ):
    if x != y:
      logits = reference.logits( tokens + b[:at] )[-1]
      return at, float( logits[y] - logits[x] )
  return None

#-------------------------------------------------------------------------
# Text
#-------------------------------------------------------------------------

def test_it_writes_a_quicksort_that_works( session: Sessions, figures: dict[str, Any] ) -> None:
  text = "def quicksort(arr):" + "".join( session( "w8a16" ).generate( "def quicksort(arr):", 96 ) )
  figures["quicksort"] = text
  # The last statement may be cut off: what counts is the function.
  body = text.split( "\n\n" )[0] if "\n\n" in text else text
  task = Task( "quicksort", "", "quicksort([3, 1, 2]) == [1, 2, 3]\nquicksort([]) == []\n"
               "quicksort([5, 5, 1, -1]) == [-1, 1, 5, 5]" )
  assert passes( task, body ), text

def test_programs( session: Sessions, reference: Reference, figures: dict[str, Any] ) -> None:
  s    = session( "w8a16" )
  stop = tuple( s.device.manifest["dimensions"]["eos_tokens"] )
  rows = []
  for task in TASKS:
    prompt = npu.Conversation( s ).prompt( task.prompt )
    mine   = s.decode( npu_tokens( s, prompt, 256, stop=True ) )
    theirs = s.decode( reference_tokens( reference, prompt, 256, stop ) )
    rows.append( { "name": task.name, "npu": passes( task, mine ), "reference": passes( task, theirs ),
                   "same": mine == theirs } )
  figures["programs"] = rows
  assert sum( r["npu"] for r in rows ) >= sum( r["reference"] for r in rows ), rows

#-------------------------------------------------------------------------
# Tokens
#-------------------------------------------------------------------------

def test_greedy_tokens_are_hugging_faces( session: Sessions, reference: Reference, figures: dict[str, Any] ) -> None:
  s, rows = session( "w16a16" ), []
  for prompt in CONTINUED:
    tokens = s.encode( prompt )
    parted = parting( reference, tokens, npu_tokens( s, tokens, 64 ), reference_tokens( reference, tokens, 64 ) )
    rows.append( { "prompt": prompt, "at": parted and parted[0], "gap": parted and parted[1] } )
  figures["greedy"] = rows
  assert sum( r["at"] is None for r in rows ) >= 15, rows

@pytest.mark.parametrize( "precision", PRECISIONS )
def test_eight_prompts( session: Sessions, reference: Reference, figures: dict[str, Any], precision: str ) -> None:
  s, rows = session( precision ), []
  for prompt in EIGHT:
    tokens = s.encode( prompt )
    parted = parting( reference, tokens, npu_tokens( s, tokens, 16 ), reference_tokens( reference, tokens, 16 ) )
    rows.append( { "prompt": prompt, "at": parted and parted[0], "gap": parted and parted[1] } )
  figures[f"eight {precision}"] = rows
  least = { "w16a16": 8, "w8a16": 6 }.get( precision, 0 )
  assert sum( r["at"] is None for r in rows ) >= least, rows

#-------------------------------------------------------------------------
# Logits
#-------------------------------------------------------------------------

TEXTS = { "code": ( Path( __file__ ).with_name( "code.txt" ).read_text( encoding="utf-8" ), 1024 ),
          "English": ( held_out_text(), 1024 ) }
LIMITS = { "w16a16": ( 99.5, 1e-5 ), "w8a16": ( 98.5, 1e-3 ), "bf16": ( 98.5, 1e-3 ), "w8a8": ( 90.0, 5e-2 ),
           "w4a16": ( 70.0, 0.5 ) }

@pytest.mark.parametrize( "precision", PRECISIONS )
def test_accuracy( session: Sessions, reference: Reference, figures: dict[str, Any], precision: str ) -> None:
  s, found = session( precision ), {}
  for name, ( text, count ) in TEXTS.items():
    tokens      = s.encode( text )[:count]
    found[name] = compare_logits( s.device, reference, tokens, 512 ).report( s.device ).to_json()
    assert found[name]["tokens"] == count
  figures[f"accuracy {precision}"] = found
  top1, kl = LIMITS[precision]
  assert np.mean( [ f["top1"] for f in found.values() ] ) >= top1, found
  assert np.mean( [ f["kl"] for f in found.values() ] ) <= kl, found

#-------------------------------------------------------------------------
# The file and its name
#-------------------------------------------------------------------------

def test_the_name_and_the_file_are_one_model( tmp_path: Path ) -> None:
  by_name = open_model( NAME )
  by_path = open_model( by_name.path )
  assert by_name.dims == by_path.dims and by_name.fingerprint() == by_path.fingerprint()
  assert ( by_name.dims.layers, by_name.dims.hidden_size, by_name.dims.vocab_size ) == ( 24, 896, 151936 )
