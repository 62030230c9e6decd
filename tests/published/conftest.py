"""The published model, on the NPU and in Hugging Face, each made once; figures go to build/published.json."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import npu
from npu.compiler.find import open_model
from npu.tools.compare import Reference
from tests.helpers import ROOT

NAME    = "qwen2.5-coder-0.5b"
CONTEXT = 2048
FIGURES = ROOT / "build" / "published.json"

@pytest.fixture( scope="session" )
def reference() -> Reference:
  """Hugging Face in FP32, with the same dequantised weights."""
  return Reference( open_model( NAME ) )

@pytest.fixture( scope="session" )
def session() -> Iterator[Callable[[str], npu.Session]]:
  """By precision, the model on the functional NPU; one at a time, since each has its own image."""
  last: list[tuple[str, npu.Session]] = []

  def get( precision: str ) -> npu.Session:
    if not last or last[0][0] != precision:
      while last:
        last.pop()[1].close()
      last.append( ( precision, npu.Session( NAME, precision=precision, context=CONTEXT ) ) )
    return last[0][1]

  yield get
  while last:
    last.pop()[1].close()

@pytest.fixture
def figures() -> Iterator[dict[str, Any]]:
  """What a test measured, by table; kept for docs/published.md, beside what others have measured."""
  found: dict[str, Any] = {}
  yield found
  FIGURES.parent.mkdir( exist_ok=True )
  known = json.loads( FIGURES.read_text( encoding="utf-8" ) ) if FIGURES.exists() else {}
  FIGURES.write_text( json.dumps( { **known, **found }, indent=1, ensure_ascii=False ), encoding="utf-8" )
