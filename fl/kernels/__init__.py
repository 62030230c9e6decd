"""Who computes at the functional level: the numpy functions, which are the specification, or compiled ones.

`choose` is the one place where that is decided. Both give the same bits; tests hold them against each other. Compiled
functions read weights and keys from the memory where they lie, so that there is no copy that could become stale.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from numpy.typing import NDArray

from fl import attention_engine, mac_array, vector_unit
from npu.arch.numerics.fp32 import F32

LARGE_BYTES = 64 << 20    # with less, numpy is done before the compiled functions are loaded

@dataclass( frozen=True )
class Kernels:
  """The functions that a run spends its time in.

  Attributes
  ----------
  gemm
    As `mac_array.gemm_stream`.
  attend
    As `attention_engine.attend_cache`.
  vector
    By mnemonic, as `vector_unit.FUNCTIONS`.
  """
  gemm: Callable[..., F32]
  attend: Callable[..., F32]
  vector: Mapping[str, Callable[..., NDArray]]

NUMPY = Kernels( mac_array.gemm_stream, attention_engine.attend_cache, vector_unit.FUNCTIONS )

def choose( name: str | None, dram_bytes: int = 0 ) -> Kernels:
  """The functions of that name: `numpy` or `compiled`; None chooses by the size of the memory.

  Raises
  ------
  ValueError
    There are none of that name.
  """
  if name is None:
    name = "compiled" if dram_bytes >= LARGE_BYTES else "numpy"
  if name == "numpy":
    return NUMPY
  if name != "compiled":
    raise ValueError( f"unknown kernels '{name}'; choose numpy or compiled" )
  # Here, because numba takes longer to import than a small model to run.
  from fl.kernels import attention, gemm, vector
  return Kernels( gemm.gemm_stream, attention.attend_cache, vector.FUNCTIONS )
