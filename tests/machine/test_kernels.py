"""Whole runs with compiled kernels and with numpy's: the same memory, bit for bit; and neither keeps what is stale."""

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fl.kernels import LARGE_BYTES, NUMPY, choose, compiler
from fl.npu import NpuFL
from npu.arch.config import LINE_BYTES, NpuConfig
from npu.arch.isa import GemmMode, Status, encode, mk
from npu.arch.mailbox import Flag, Mailbox, Word
from npu.compiler.precision import PRECISIONS
from npu.machine.simulation import Machine
from tests.machine.sessions import TOKENS, Images

@pytest.fixture( scope="module" )
def images( tmp_path_factory: pytest.TempPathFactory ) -> Images:
  return Images( tmp_path_factory.mktemp( "images" ) )

@pytest.mark.parametrize( "n", ( 4, 8, 16 ) )
@pytest.mark.parametrize( "precision", PRECISIONS )
def test_whole_runs_are_equal( images: Images, precision: str, n: int ) -> None:
  """Prefill in passes of several rows, then tokens with their logits: memory, scratchpad and counters agree."""
  ends = []
  for kernels in ( "numpy", "compiled" ):
    device = images.session( n=n, precision=precision, pass_rows=5 )
    device.npu = NpuFL( device.cfg, device.dram, kernels )
    device.load_prompt( TOKENS[:18] )
    device.ring( 6, Flag.LOGITS )
    ends.append( device.npu )
  gold, got = ends
  assert np.array_equal( got.dram, gold.dram ) and np.array_equal( got.spad, gold.spad )
  assert got.mailbox[Word.LEN] == 24 and got.counters == gold.counters

def test_the_size_of_the_memory_chooses() -> None:
  assert choose( None, LARGE_BYTES - 1 ) is NUMPY
  assert choose( None, LARGE_BYTES ).gemm is choose( "compiled" ).gemm is not NUMPY.gemm

def test_where_compiled_functions_are_kept( tmp_path: Path, monkeypatch: pytest.MonkeyPatch ) -> None:
  """NPU_CACHE_DIR comes first, then XDG_CACHE_HOME if it is absolute; what cannot be a folder is no cache."""
  find = compiler.cache_folder.__wrapped__
  monkeypatch.delenv( "NPU_CACHE_DIR", raising=False )
  monkeypatch.setenv( "XDG_CACHE_HOME", str( tmp_path / "xdg" ) )
  assert find().parent == tmp_path / "xdg" / "npu" and find().is_dir()
  monkeypatch.setenv( "NPU_CACHE_DIR", str( tmp_path / "named" ) )
  assert find().parent == tmp_path / "named"
  ( tmp_path / "file" ).touch()
  monkeypatch.setenv( "NPU_CACHE_DIR", str( tmp_path / "file" ) )
  assert find() is None
  monkeypatch.delenv( "NPU_CACHE_DIR" )
  monkeypatch.setenv( "XDG_CACHE_HOME", "relative" )
  monkeypatch.setenv( "HOME", str( tmp_path / "home" ) )
  assert find().parent == tmp_path / "home" / ".cache" / "npu"

#-------------------------------------------------------------------------
# Weights that change
#-------------------------------------------------------------------------

CFG = NpuConfig( name="hand", n=16, m_max=8, spad_bytes=16384, k_max=1024 )
PROGRAM, BUFFER, RESULTS, ONES, LINES = 8, 17, 64, 66, 67      # lines of the memory

# The stream begins a line before the token buffer: a line of scales, then 16 rows of INT16. Token j is weight 2j of it.
GEMM = mk( "GEMM", rows=1, dram=BUFFER - 1, dst=8, mode=GemmMode.I16_I16, k=16, cols=16, wait=31 )

# Multiply, append the number of the largest column as a token, multiply again.
CODE = ( mk( "PASS", limit=1 ),
         mk( "LOAD", rows=1, dram=ONES, length=16 ),
         GEMM,
         mk( "STORE", rows=1, dram=RESULTS, src=8, length=16, wait=31 ),
         mk( "ARGMAX", src=8, length=16, first=1, wait=31 ),
         mk( "EMIT", wait=31 ),
         GEMM,
         mk( "STORE", rows=1, dram=RESULTS + 1, src=8, length=16, wait=31 ),
         mk( "HALT", status=Status.SCORED, wait=31 ) )

def memory() -> NDArray[np.uint8]:
  """DRAM with CODE, a prompt of three tokens, scales of one, and activations of one."""
  dram, octets = np.zeros( LINES * LINE_BYTES, dtype=np.uint8 ), b"".join( encode( i ) for i in CODE )
  dram[PROGRAM * LINE_BYTES :][: len( octets )] = np.frombuffer( octets, dtype=np.uint8 )
  lines = dram.view( np.uint32 ).reshape( LINES, -1 )
  lines[BUFFER - 1], lines[ONES] = np.float32( 1 ).view( np.uint32 ), 1 | 141 << 16
  box   = Mailbox( dram )
  words = { "PROGRAM": PROGRAM, "PROGRAM_COUNT": len( CODE ), "TOKENS": BUFFER, "CONTEXT": 63, "DRAM_LINES": LINES,
            "WRITABLE": RESULTS, "LIMIT": 9 }
  for name, value in words.items():
    box[Word[name]] = value
  return dram

def products( dram: NDArray[np.uint8] ) -> list[list[float]]:
  """The first eight columns of both results."""
  return dram.view( np.float32 ).reshape( LINES, -1 )[RESULTS : RESULTS + 2, :8].tolist()

@pytest.mark.parametrize( "level, kernels", ( ( "fl", "numpy" ), ( "fl", "compiled" ), ( "cl", None ) ) )
def test_weights_are_read_when_they_are_used( level: str, kernels: str | None ) -> None:
  """Weights that EMIT writes between two equal GEMMs, and that the host writes between two runs, count at once."""
  dram = memory()
  with ExitStack() as stack:
    npu = NpuFL( CFG, dram, kernels ) if level == "fl" else stack.enter_context( Machine( CFG, dram, "cl" ) )
    for prompt, largest in ( ( ( 5, 6, 7 ), 4 ), ( ( 5, 9, 2 ), 2 ) ):
      npu.mailbox.tokens[:4] = ( *prompt, 0 )
      npu.mailbox[Word.POS], npu.mailbox[Word.LEN], npu.mailbox[Word.DOORBELL] = 0, 3, 1
      assert npu.run().status == Status.SCORED
      first = [ prompt[0], 0, prompt[1], 0, prompt[2], 0, 0, 0 ]
      assert products( npu.dram ) == [ first, [ *first[:6], largest, 0 ] ]
