"""NpuFL on compiled embedded models: images, sessions, and the logits of a text, scored or decoded."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from npu.arch.config import PRESETS
from npu.arch.isa import Status
from npu.arch.mailbox import Flag, Word
from npu.compiler.build import compile_model
from npu.compiler.image import Image, load_image
from npu.runtime.device import Device

CONFIGS = { 4: PRESETS["edge4"], 8: PRESETS["edge8"], 16: PRESETS["edge16"] }

class Images:
  """Compiled embedded models, each made once; every session has a memory of its own."""

  def __init__( self, folder: Path ) -> None:
    self.folder = folder

  def image( self, model: str = "nano", n: int = 16, precision: str = "w8a16", pass_rows: int | None = None,
             context: int = 64 ) -> Image:
    """An image; its DRAM is private to the caller."""
    path = self.folder / f"{model}-{n}-{precision}-{pass_rows}-{context}.npu"
    if not path.exists():
      compile_model( model, path, CONFIGS[n], precision, context, pass_rows )
    return load_image( path )

  def session( self, model: str = "nano", n: int = 16, precision: str = "w8a16", pass_rows: int | None = None,
               context: int = 64 ) -> Device:
    """An NPU with an image."""
    return Device( self.image( model, n, precision, pass_rows, context ) )

def text( vocab: int, length: int, seed: int = 7 ) -> list[int]:
  """Random tokens."""
  return [ int( t ) for t in np.random.default_rng( seed ).integers( 0, vocab, length ) ]

NANO_VOCAB = 384
TOKENS     = text( NANO_VOCAB, 40 )

Bits = NDArray[np.uint32]

def scored( s: Device, tokens: list[int] ) -> Bits:
  """Bit patterns of the logits of all positions [len( tokens ), vocabulary]."""
  return np.concatenate( [ rows.copy() for rows in s.score( tokens ) ] ).view( np.uint32 )

def last_logits( s: Device ) -> Bits:
  """Bit patterns of the logits that the last GENERATE pass stored."""
  return s._logits[0, : s.vocab].copy().view( np.uint32 )

def decoded( s: Device, tokens: list[int] ) -> Bits:
  """The same logits as `scored`, from decode: a run for each token, which the host then puts in place of
  the one that the NPU found."""
  s.load_prompt( tokens[:1] )
  box, found = s.npu.mailbox, []
  for following in [ *tokens[1:], 0 ]:
    assert s.ring( 1, Flag.LOGITS ).status == Status.LIMIT
    found.append( last_logits( s ) )
    box.tokens[box[Word.LEN] - 1] = following
  return np.stack( found )
