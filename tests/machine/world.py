"""The whole NPU in tests: images, runs at any mix of levels, and NpuFL to compare with."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl.npu import NpuFL
from npu.arch.config import PRESETS, NpuConfig
from npu.arch.mailbox import Mailbox, Word
from npu.compiler.build import compile_model
from npu.compiler.image import load_image
from npu.machine.simulation import Machine, TimedResult
from tests.helpers import mk_checkpoint

ENGINES = ( "mac_array", "vector_unit", "attention_engine", "controller", "memory_hub" )
PROMPT  = [ 5, 17, 99, 300, 42 ]

# A model of the least size: a token takes about a thousand cycles at n = 4.
SMALL: dict[str, Any] = {
  "vocab_size": 20, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2,
  "num_key_value_heads": 1, "bos_token_id": 19, "eos_token_id": 19, "max_position_embeddings": 24 }

@dataclass( frozen=True )
class Image:
  """A compiled model: `dram` as the host finds it."""
  cfg: NpuConfig
  dram: NDArray[np.uint8]

GetImage = Callable[..., Image]

def mk_images( folder: Path ) -> GetImage:
  """A function that compiles an embedded model or `small` for a configuration, once."""
  made: dict[tuple[str, int, str], Image] = {}
  small = mk_checkpoint( folder / "model", tokenizer=False, **SMALL )

  def get( name: str, n: int = 4, precision: str = "w8a16" ) -> Image:
    key = name, n, precision
    if key not in made:
      path, cfg = folder / f"{name}-{n}-{precision}.npu", PRESETS[f"edge{n}"]
      compile_model( str( small ) if name == "small" else name, path, cfg, precision,
                     pass_rows=3 if name == "small" else None )
      made[key] = Image( cfg, np.array( load_image( path ).dram ) )
    return made[key]

  return get

def prepare( image: Image, prompt: Sequence[int], limit: int, flags: int = 0,
             eos: Sequence[int] = () ) -> NDArray[np.uint8]:
  """A copy of the memory with a prompt in it and the doorbell rung."""
  dram = image.dram.copy()
  box  = Mailbox( dram )
  box.tokens[: len( prompt )] = prompt
  box[Word.POS], box[Word.LEN], box[Word.LIMIT], box[Word.FLAGS] = 0, len( prompt ), limit, flags
  box[Word.EOS_COUNT] = len( eos )
  for i, token in enumerate( eos ):
    box[Word.EOS + i] = token
  box[Word.DOORBELL] = 1
  return dram

@dataclass( frozen=True )
class Golden:
  """What NpuFL makes of a memory."""
  dram: NDArray[np.uint8]
  tokens: list[int]
  npu: NpuFL
  result: Any

def golden( image: Image, dram: NDArray[np.uint8] ) -> Golden:
  """Run NpuFL on a copy."""
  copy   = dram.copy()
  tokens: list[int] = []
  npu    = NpuFL( image.cfg, copy )
  result = npu.run( tokens.append )
  return Golden( copy, tokens, npu, result )

def check_run( image: Image, machine: Machine, gold: Golden ) -> TimedResult:
  """Run a machine and compare everything that can be seen with NpuFL."""
  tokens: list[int] = []
  result = machine.run( tokens.append )
  assert tokens == gold.tokens
  assert ( result.status, result.error, result.pc, result.count ) \
      == ( gold.result.status, gold.result.error, gold.result.pc, gold.result.count )
  wrong = np.flatnonzero( machine.dram != gold.dram )
  assert len( wrong ) == 0, f"byte {wrong[0]:#x} of the memory differs, and {len( wrong ) - 1} more"
  return result

def simulate( image: Image, levels: Mapping[str, str] | str, prompt: Sequence[int], limit: int, flags: int = 0,
              **options: Any ) -> TimedResult:
  """Run a prompt at some levels, compare with NpuFL, return what it took."""
  dram = prepare( image, prompt, limit, flags )
  with Machine( image.cfg, dram.copy(), levels, **options ) as machine:
    return check_run( image, machine, golden( image, dram ) )
