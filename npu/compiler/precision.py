"""The precisions that a model can be compiled to: the number formats of its matrix products."""

from dataclasses import dataclass

from npu.arch.isa import GemmMode
from npu.errors import NpuError

@dataclass( frozen=True )
class Precision:
  """Number formats of the matrix products: the GEMM mode, and the K-group (0: none)."""
  name: str
  mode: GemmMode
  act_bits: int      # of the block-float activations; 0: BF16
  group: int = 0

PRECISIONS = { p.name: p for p in (
  Precision( "w8a16",  GemmMode.I16_I8,  16 ),
  Precision( "w16a16", GemmMode.I16_I16, 16 ),
  Precision( "w8a8",   GemmMode.I8_I8,    8 ),
  Precision( "w4a16",  GemmMode.I16_G4,  16, 32 ),
  Precision( "bf16",   GemmMode.BF16,     0 ) ) }
DEFAULT_PRECISION = "w8a16"

def get_precision( name: str ) -> Precision:
  """The precision of that name; NpuError names the known ones otherwise."""
  if name not in PRECISIONS:
    raise NpuError( f"unknown precision '{name}'; choose one of {', '.join( PRECISIONS )}" )
  return PRECISIONS[name]
