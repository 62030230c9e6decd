"""A small model, its image, an empty folder; and that no command leaves a temporary file."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from npu.arch.config import PRESETS
from npu.compiler.build import compile_model
from npu.compiler.model import Model
from tests.helpers import files, mk_checkpoint

@pytest.fixture( autouse=True )
def temporary( tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch ) -> Iterator[Path]:
  """The place of temporary files, where no command may leave anything of its own."""
  folder = tmp_path_factory.mktemp( "temporary" )
  monkeypatch.setattr( tempfile, "tempdir", str( folder ) )
  monkeypatch.setenv( "TMPDIR", str( folder ) )
  yield folder
  # Other libraries have their caches here.
  assert not [ name for name in files( folder ) if name.startswith( "npu-" ) ]

@pytest.fixture( scope="module" )
def model( tmp_path_factory: pytest.TempPathFactory ) -> Path:
  """A random model of 64 positions, untied, since a tied one mostly repeats its last token."""
  return mk_checkpoint( tmp_path_factory.mktemp( "models" ) / "small", seed=3, tie_word_embeddings=False )

@pytest.fixture( scope="module" )
def image( model: Path ) -> Path:
  """The image of `model`."""
  path = model.with_name( "small.npu" )
  compile_model( str( model ), path, PRESETS["edge16"], "w8a16" )
  return path

@pytest.fixture
def out( tmp_path: Path ) -> Path:
  """An empty folder."""
  folder = tmp_path / "out"
  folder.mkdir()
  return folder

class StubReference:
  """In place of Hugging Face's model, which takes seconds to import: logits that prefer the token itself."""

  def __init__( self, model: Model ) -> None:
    self.vocab = model.dims.vocab_size

  def logits( self, tokens: list[int] ) -> np.ndarray:
    return np.eye( self.vocab, dtype=np.float32 )[tokens]

@pytest.fixture
def stub_reference( monkeypatch: pytest.MonkeyPatch ) -> None:
  monkeypatch.setattr( "npu.tools.compare.Reference", StubReference )
