"""Programs of models of every kind, for the tests to look at: their padded sizes, which region of the memory an address
is in, and where the operands of an instruction are.

Worked out from the architecture's description, a second time.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from npu.arch.config import LINE_BYTES, PRESETS, get_config
from npu.arch.isa import GemmFlag, Instruction, Rel, Unit
from npu.compiler.checkpoint import ModelConfig, read_config
from npu.compiler.find import find_folder
from npu.compiler.precision import PRECISIONS, get_precision
from npu.compiler.program import Program, build

#-------------------------------------------------------------------------
# Models
#-------------------------------------------------------------------------

MODELS = {
  "nano": read_config( find_folder( "nano" ) ),
  "tiny": read_config( find_folder( "tiny" ) ),
  # No size is a multiple of anything that the hardware likes.
  "odd":  ModelConfig( 383, 23, 41, 2, 6, 3, 10, 77, 1e-5, 1e4, False, ( 1, 2 ) ),
  "0.5B": ModelConfig( 151936,  896,  4864, 24, 14, 2,  64, 32768, 1e-6, 1e6, True,  () ),
  "1.5B": ModelConfig( 151936, 1536,  8960, 28, 12, 2, 128, 32768, 1e-6, 1e6, True,  () ),
  "7B":   ModelConfig( 152064, 3584, 18944, 28, 28, 4, 128, 32768, 1e-6, 1e6, False, () ),
}
CONTEXT = 70                     # not a whole number of chunks
TOO_LARGE = { ( "7B", "edge4" ) }

CASES = [ ( m, c, p ) for m in MODELS for c in PRESETS for p in PRECISIONS
          if ( m, c ) not in TOO_LARGE ]
by_case = pytest.mark.parametrize( "case", CASES, ids="-".join )

@cache
def built( case: tuple[str, str, str] ) -> Program:
  """The program of a model on a configuration in a precision."""
  model, config, precision = case
  return build( MODELS[model], get_config( config ), get_precision( precision ), CONTEXT )

#-------------------------------------------------------------------------
# Sizes
#-------------------------------------------------------------------------

def up( a: int, b: int ) -> int:
  """The smallest multiple of b that is at least a."""
  return ( a + b - 1 ) // b * b

@dataclass( frozen=True )
class Sizes:
  """A model's padded dimensions, in elements."""
  n: int
  hidden: int
  inter: int
  half: int
  vocab: int
  heads: int
  kv_heads: int

  @property
  def head( self ) -> int:
    return 2 * self.half

  @property
  def qkv( self ) -> int:
    return ( self.heads + 2 * self.kv_heads ) * self.head

def sizes_of( program: Program ) -> Sizes:
  """Whole scratchpad rows, whole groups of 32 in w4a16, each half of a head too."""
  m, n  = program.shape.model, program.shape.cfg.n
  unit  = max( n, 32 ) if program.shape.precision.name == "w4a16" else n
  half  = max( n, 16 ) if program.shape.precision.name == "w4a16" else n
  return Sizes( n, up( m.hidden_size, unit ), up( m.intermediate_size, unit ),
                up( m.head_dim // 2, half ), up( m.vocab_size, 16 ), m.heads, m.kv_heads )

#-------------------------------------------------------------------------
# Regions of the memory
#-------------------------------------------------------------------------

def is_rope_load( program: Program, i: Instruction ) -> bool:
  """Whether an instruction brings the rows of the RoPE table."""
  return i.mnemonic == "LOAD" and region_at( program, int( i.dram ) ) == "rope"

def region_at( program: Program, line: int ) -> str:
  """The region that a line is in."""
  regions = list( program.memory.regions.values() )
  found   = regions[bisect_right( regions, line, key=lambda r: r.line ) - 1]
  assert found.line <= line < found.line + up( found.size, LINE_BYTES ) // LINE_BYTES
  return found.name

#-------------------------------------------------------------------------
# Operands
#-------------------------------------------------------------------------

@dataclass( frozen=True )
class Operand:
  """A matrix in the scratchpad: first row, token rows of it, how far apart and how wide these are."""
  name: str
  base: int
  rows: Sequence[int]
  stride: int
  width: int
  write: bool

  def grid( self ) -> NDArray[np.int64]:
    """The scratchpad rows, [token rows, width]."""
    return self.base + np.array( self.rows )[:, None] * self.stride + np.arange( self.width )

def operands( program: Program, i: Instruction, rows: int, last: Sequence[int] ) -> list[Operand]:
  """The scratchpad operands of an instruction with so many rows in the pass.

  `last` is every value that the register LAST may have.
  """
  n     = program.shape.cfg.n
  every = range( int( i.rows ) or rows )
  found: list[Operand] = []

  def add( name: str, width: float, stride: float, token_rows: Sequence[int] = every ) -> None:
    found.append( Operand( name, int( getattr( i, name ) ), token_rows, int( stride ), int( width ),
                           name == "dst" ) )

  def wide( elements: float ) -> int:
    return -( -int( elements ) // n )

  if i.mnemonic in ( "LOAD", "EMBED" ):
    add( "dst", wide( i.length ), i.dst_stride )
  elif i.mnemonic == "STORE":
    add( "src", wide( i.length ), i.src_stride )
  elif i.mnemonic == "GEMM":
    add( "src", wide( i.k ), i.src_stride )
    add( "dst", wide( i.cols ), i.dst_stride )
    if int( i.flags ) & GemmFlag.RESIDUAL:
      add( "src2", wide( i.cols ), i.dst_stride )
  elif i.mnemonic == "ATTEND":
    add( "src", i.heads * wide( i.length ), i.src_stride )
    add( "src2", 2 * i.kv_heads * wide( i.length ), i.src_stride )
    add( "dst", i.heads * wide( i.length ), i.dst_stride )
  elif i.mnemonic == "ARGMAX":
    add( "src", wide( i.length ), 0, ( 0, ) )
  elif i.format.unit == Unit.VEC:
    segment = 2 * wide( i.length // 2 ) if i.mnemonic == "ROPE" else wide( i.length )
    moved   = sorted( { r + f for f in last for r in every } ) if i.rel == Rel.LAST else every
    add( "src", i.segments * segment, i.src_stride, moved )
    add( "dst", i.segments * segment, i.dst_stride )
    if i.mnemonic == "RMSNORM":
      add( "src2", segment, 0, ( 0, ) )
    elif i.mnemonic == "ROPE":
      add( "src2", segment // 2, i.src2_stride )
    elif i.mnemonic in ( "SWIGLU", "ADD", "MUL" ):
      add( "src2", i.segments * segment, i.src2_stride )
  return found
