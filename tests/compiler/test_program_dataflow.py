"""What each instruction of a program reads and writes: all of it inside the scratchpad and as its footprint says, and
what is read is what was written."""

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from npu.arch.config import LINE_BYTES, NpuConfig, get_config
from npu.arch.footprint import footprint
from npu.arch.isa import Cond, GemmFlag, Rel, mk
from npu.compiler.precision import get_precision
from npu.compiler.program import Program, build
from tests.compiler.programs import CONTEXT, MODELS, built, by_case, is_rope_load, operands, region_at, sizes_of, up

#-------------------------------------------------------------------------
# Footprints
#-------------------------------------------------------------------------

@by_case
def test_everything_is_inside_the_scratchpad( case ):
  program = built( case )
  rows    = program.spad.pass_rows
  for i in program.instructions:
    for operand in operands( program, i, rows, range( rows ) ):
      assert operand.grid().max() < program.spad.total

@by_case
def test_footprint_has_the_ends_of_every_operand( case ):
  """What bounds checks and wait masks are made of."""
  program = built( case )
  cfg     = program.shape.cfg
  for i in program.instructions:
    for rows in { 1, program.spad.pass_rows }:
      expected = [ ( int( o.grid().min() ), int( o.grid().max() ) + 1, o.write )
                   for o in operands( program, i, rows, ( rows - 1, ) ) ]
      found = footprint( cfg, i, int( i.rows ) or rows, rows - 1 if i.rel == Rel.LAST else 0 )
      spad  = [ ( a.low, a.high, a.write ) for a in found if a.space == "spad" ]
      assert sorted( spad ) == sorted( expected )
      for a in found:
        if a.space == "dram":
          region = program.memory.regions[region_at( program, a.low )]
          assert a.high <= region.line + up( region.size, LINE_BYTES ) // LINE_BYTES
          assert a.write == ( not region.stored )

# By hand, for n = 4: what compiled programs have no use for. (space, low, high, written), in any order.
@pytest.mark.parametrize( "instruction, rows, offset, expected", (
  pytest.param( mk( "LOAD", rel=Rel.POS, dram=100, dst=8, length=18, dst_stride=7, row_lines=3 ), 2, 5,
                { ( "dram", 115, 120, False ), ( "spad", 8, 20, True ) }, id="LOAD, row 5 on" ),
  pytest.param( mk( "STORE", rel=Rel.LEN, dram=100, src=8, length=16, src_stride=4, row_lines=1 ), 3, 2,
                { ( "dram", 102, 105, True ), ( "spad", 8, 20, False ) }, id="STORE" ),
  pytest.param( mk( "EMBED", dram=100, dst=0, vocab=10, length=5, dst_stride=2, row_lines=2 ), 1, 0,
                { ( "dram", 100, 119, False ), ( "spad", 0, 2, True ) }, id="EMBED, any token" ),
  pytest.param( mk( "ROPE", dst=40, src=20, src2=10, segments=2, length=12, dst_stride=9, src_stride=8,
                    src2_stride=2 ), 2, 0,
                { ( "spad", 40, 57, True ), ( "spad", 20, 36, False ), ( "spad", 10, 14, False ) },
                id="ROPE, halves in whole rows" ),
  pytest.param( mk( "ADD", rel=Rel.LAST, dst=40, src=20, src2=10, segments=3, length=5, dst_stride=6,
                    src_stride=7, src2_stride=8 ), 1, 4,
                { ( "spad", 40, 46, True ), ( "spad", 48, 54, False ), ( "spad", 10, 16, False ) },
                id="ADD, src alone moves" ),
  pytest.param( mk( "RMSNORM", dst=40, src=20, src2=10, segments=2, length=8, dst_stride=4,
                    src_stride=4 ), 3, 0,
                { ( "spad", 40, 52, True ), ( "spad", 20, 32, False ), ( "spad", 10, 12, False ) },
                id="RMSNORM, one gain" ),
  pytest.param( mk( "ARGMAX", src=20, length=9 ), 1, 0, { ( "spad", 20, 23, False ) }, id="ARGMAX" ),
  pytest.param( mk( "GEMM", dram=100, dst=40, src=20, src2=60, k=10, cols=6, dst_stride=5, src_stride=4,
                    flags=GemmFlag.RESIDUAL ), 2, 0,
                # Two tiles of a beat of scales and three of weights: 128 bytes.
                { ( "dram", 100, 102, False ), ( "spad", 40, 47, True ), ( "spad", 60, 67, False ),
                  ( "spad", 20, 27, False ) }, id="GEMM" ),
  pytest.param( mk( "ATTEND", dram=100, dst=40, heads=4, src=20, kv_heads=2, src2=60, length=8,
                    chunks=3, dst_stride=8, src_stride=16 ), 2, 0,
                # A chunk of 8-element heads is a line of exponents and 8 of rows.
                { ( "dram", 100, 154, True ), ( "spad", 40, 56, True ), ( "spad", 20, 44, False ),
                  ( "spad", 60, 84, False ) }, id="ATTEND" ),
  pytest.param( mk( "JUMP", target=5 ), 1, 0, set(), id="JUMP" ) ) )
def test_footprint_by_hand( instruction, rows, offset, expected ):
  found = footprint( get_config( "edge4" ), instruction, rows, offset )
  assert len( found ) == len( expected )
  assert { ( a.space, a.low, a.high, a.write ) for a in found } == expected

#-------------------------------------------------------------------------
# What is read is what was written
#-------------------------------------------------------------------------

ROW_BITS    = 8      # of a token row in an origin
COLUMN_BITS = 24

def origin( writer: NDArray | int, row: NDArray | int, column: NDArray | int ) -> NDArray[np.int64]:
  """What a scratchpad row holds, as one number: who wrote it, which token row, which part of that."""
  return ( np.int64( writer ) << ROW_BITS | row ) << COLUMN_BITS | column

@dataclass
class Steps:
  """Instructions that wrote what later ones come back to: residual stream, normed rows, RoPE rows, gain."""
  x: int = -1
  h: int = -1
  rope: int = -1
  gain: int = -1

def sources( program: Program, at: int, steps: Steps ) -> dict[str, tuple[int, int]]:
  """By operand: which instruction must have written it, and from which of its scratchpad rows on."""
  s    = sizes_of( program )
  code = program.instructions
  i    = code[at]
  # Gains are loaded ahead, in the middle of other steps.
  last = at - 2 if code[at - 1].mnemonic == "LOAD" else at - 1
  if i.mnemonic == "RMSNORM":
    return { "src": ( steps.x, 0 ), "src2": ( steps.gain, 0 ) }
  if i.mnemonic == "COPY":
    return { "src": ( steps.x, 0 ) }
  if i.mnemonic == "GEMM" and region_at( program, int( i.dram ) ).startswith( "head" ):
    return { "src": ( steps.h, 0 ) }
  if i.mnemonic == "GEMM":
    return { "src": ( last, 0 ), "src2": ( steps.x, 0 ) }
  if i.mnemonic == "ROPE":
    return { "src": ( last, 0 ), "src2": ( steps.rope, 0 ) }
  if i.mnemonic == "SWIGLU":
    return { "src": ( last, 0 ), "src2": ( last, s.inter // s.n ) }     # gate, up
  if i.mnemonic == "ATTEND":
    return { "src": ( last, 0 ), "src2": ( last, s.heads * s.head // s.n ) }
  return { "src": ( at - 2 if i.mnemonic == "STORE" else last, 0 ) }

def check_dataflow( program: Program, rows: int, scoring: bool ) -> None:
  """Run a pass, noting the origin of each scratchpad row; check that of all that operands read."""
  s      = sizes_of( program )
  code   = program.instructions
  memory = np.full( program.shape.cfg.derived.spad_rows, -1 )
  steps  = Steps()
  for at, i in enumerate( code ):
    if i.cond == Cond.GENERATE and scoring:
      continue
    expected = sources( program, at, steps )
    touched  = operands( program, i, rows, ( rows - 1, ) )
    for operand in touched:
      if not operand.write:
        writer, start = expected[operand.name]
        columns = np.arange( operand.width )
        writers = np.full( operand.width, writer )
        if i.mnemonic == "QUANTIZE" and code[at + 1].mnemonic == "ATTEND":
          # Queries and keys have been through RoPE, values have not.
          writers[( s.heads + s.kv_heads ) * s.head // s.n :] -= 1
        found = memory[operand.grid()]
        wants = origin( writers, np.array( operand.rows )[:, None], start + columns )
        assert np.array_equal( found, wants ), ( at, i, operand.name )
    for operand in touched:
      if operand.write:
        token_rows = np.array( operand.rows )[:, None]
        memory[operand.grid()] = origin( at, token_rows, np.arange( operand.width ) )
    if i.mnemonic in ( "EMBED", "COPY" ) or ( i.mnemonic == "GEMM" and i.flags & GemmFlag.RESIDUAL ):
      steps.x = at
    elif i.mnemonic in ( "QUANTIZE", "CONVERT" ) and code[at - 1].mnemonic == "RMSNORM":
      steps.h = at
    elif is_rope_load( program, i ):
      steps.rope = at
    elif i.mnemonic == "LOAD":
      steps.gain = at
    elif i.mnemonic == "SETROWS":
      rows = int( i.rows )

@by_case
def test_every_operand_is_what_the_last_step_wrote( case ):
  """Nothing is overwritten while it is wanted, left unwritten, or read from the wrong place."""
  program = built( case )
  rows    = program.spad.pass_rows
  for count, scoring in { ( 1, False ), ( rows, False ), ( rows, True ) }:
    check_dataflow( program, count, scoring )

def test_narrow_head_makes_room_for_rows():
  """The two buffers of logits take what is left; a small scratchpad gives many parts of the head."""
  cfg     = NpuConfig( name="small", n=16, spad_bytes=1 << 16 )
  program = build( MODELS["tiny"], cfg, get_precision( "w8a16" ), CONTEXT )
  assert 64 <= program.spad.head_cols < 1024 and len( program.tiles ) > 1
  assert program.spad.total <= cfg.derived.spad_rows
  check_dataflow( program, program.spad.pass_rows, True )
