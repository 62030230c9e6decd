"""The program of a model: memory map, scratchpad map, what each instruction reads, and wait masks.

Sizes, footprints and hazards are worked out here a second time, from the architecture's description of
each instruction, for models and configurations of every kind.
"""

import random
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from math import e, log2, sqrt

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray

from npu.arch.config import LINE_BYTES, PRESETS, NpuConfig, get_config
from npu.arch.footprint import footprint
from npu.arch.isa import (
  Cond,
  Convert,
  GemmFlag,
  Instruction,
  Rel,
  Status,
  Unit,
  decode,
  encode,
  mk,
)
from npu.compiler.checkpoint import ModelConfig, find_model, read_config
from npu.compiler.program import (
  PRECISIONS,
  Program,
  Shape,
  assign_waits,
  build,
  fit_spad,
  get_precision,
  head_order,
  head_tiles,
)
from npu.errors import NpuError

#-------------------------------------------------------------------------
# Models
#-------------------------------------------------------------------------

MODELS = {
  "nano": read_config( find_model( "nano" ) ),
  "tiny": read_config( find_model( "tiny" ) ),
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

def changed( **changes: int ) -> ModelConfig:
  """The model nano with other dimensions."""
  return replace( MODELS["nano"], **changes )

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

def stream_bytes( program: Program, k: int, cols: int, bias: bool = False ) -> int:
  """Bytes of a weight stream whose K and N need no padding."""
  precision = program.shape.precision.name
  bits      = { "w8a16": 8, "w16a16": 16, "w8a8": 8, "w4a16": 4, "bf16": 16 }[precision]
  scales    = { "w4a16": k // 32, "bf16": 0 }.get( precision, 1 )
  return k * cols * bits // 8 + 4 * cols * ( scales + bias )

def message_of( wrong ) -> str:
  """The text of the NpuError that calling `wrong` raises: one line."""
  with pytest.raises( NpuError ) as info:
    wrong()
  assert "\n" not in str( info.value )
  return str( info.value )

#-------------------------------------------------------------------------
# Memory map
#-------------------------------------------------------------------------

def expected_regions( program: Program ) -> list[tuple[str, int, bool]]:
  """(name, bytes, stored) of every region, in order."""
  s, m  = sizes_of( program ), program.shape.model
  row   = up( 4 * s.hidden, 64 )
  found = [ ( "mailbox", 128, True ), ( "tokens", 4 * ( CONTEXT + 1 ), True ),
            ( "program", 32 * len( program.instructions ), True ),
            ( "norms", ( 2 * m.layers + 1 ) * row, True ),
            ( "rope", CONTEXT * up( 4 * s.half, 64 ), True ),
            ( "embedding", m.vocab_size * row, True ) ]
  for i in range( m.layers ):
    found += [ ( f"layers.{i}.qkv", stream_bytes( program, s.hidden, s.qkv, bias=True ), True ),
               ( f"layers.{i}.o", stream_bytes( program, s.heads * s.head, s.hidden ), True ),
               ( f"layers.{i}.gate_up", stream_bytes( program, s.hidden, 2 * s.inter ), True ),
               ( f"layers.{i}.down", stream_bytes( program, s.inter, s.hidden ), True ) ]
  for j, tile in enumerate( program.tiles ):
    found.append( ( f"head.{j}", stream_bytes( program, s.hidden, tile.cols ), True ) )
  cache_bytes = m.kv_heads * up( CONTEXT, 16 ) // 16 * ( 64 + 2 * 16 * 2 * s.head )
  found += [ ( f"kv.{i}", cache_bytes, False ) for i in range( m.layers ) ]
  return found + [ ( "logits", program.spad.pass_rows * 4 * s.vocab, False ) ]

@by_case
def test_regions_follow_each_other_on_line_boundaries( case ):
  program = built( case )
  found   = list( program.memory.regions.values() )
  assert [ ( r.name, r.size, r.stored ) for r in found ] == expected_regions( program )
  assert list( program.memory.regions ) == [ r.name for r in found ]
  line = 0
  for r in found:
    assert r.line == line and r.size > 0
    line += up( r.size, LINE_BYTES ) // LINE_BYTES
  assert program.memory.lines == line
  # The file ends with the last stored region: none may come after one that is not.
  assert sorted( found, key=lambda r: not r.stored ) == found

def test_sizes_that_the_compiler_reads():
  program = built( ( "odd", "edge16", "w8a16" ) )
  assert program.logits_row_bytes == 4 * 384
  kv = program.kv_layout()
  assert ( kv.head_dim, kv.kv_heads, kv.chunks ) == ( 32, 3, 5 )
  assert program.context == CONTEXT

#-------------------------------------------------------------------------
# Scratchpad map
#-------------------------------------------------------------------------

def buffers( program: Program ) -> tuple[dict[str, tuple[int, int]], list[dict[str, tuple[int, int]]]]:
  """First row and rows of the buffers that always live, and of those of each phase."""
  s, spad = sizes_of( program ), program.spad
  rows, n = spad.pass_rows, s.n
  always  = { "x": ( spad.x, rows * s.hidden // n ), "h": ( spad.h, rows * s.hidden // n ),
              "rope": ( spad.rope, rows * s.half // n ),
              "gain 0": ( spad.gains[0], s.hidden // n ), "gain 1": ( spad.gains[1], s.hidden // n ) }
  return always, [
    { "qkv": ( spad.qkv, rows * s.qkv // n ), "att": ( spad.att, rows * s.heads * s.head // n ) },
    { "gate_up": ( spad.gate_up, rows * 2 * s.inter // n ) },
    { f"logits {i}": ( at, rows * spad.head_cols // n ) for i, at in enumerate( spad.logits ) } ]

@by_case
def test_buffers_that_live_together_do_not_overlap( case ):
  program = built( case )
  always, phases = buffers( program )
  end = 0
  for phase in phases:
    at = 0
    for low, rows in sorted( ( always | phase ).values() ):
      assert low >= at and rows > 0, ( always, phase )
      at = low + rows
    end = max( end, at )
  assert program.spad.total == end <= program.shape.cfg.derived.spad_rows

def rows_needed( program: Program, rows: int ) -> int:
  """Scratchpad rows of a pass, with the narrowest parts of the head: a line of FP32 is 16 columns."""
  s    = sizes_of( program )
  work = max( s.qkv + s.heads * s.head, 2 * s.inter, 2 * min( 64, s.vocab ) )
  return ( rows * ( 2 * s.hidden + s.half + work ) + 2 * s.hidden ) // s.n

@by_case
def test_pass_has_as_many_rows_as_fit( case ):
  program = built( case )
  cfg, rows = program.shape.cfg, program.spad.pass_rows
  assert rows_needed( program, rows ) <= cfg.derived.spad_rows
  assert rows == cfg.m_max or rows_needed( program, rows + 1 ) > cfg.derived.spad_rows

@pytest.mark.parametrize( "config, model, rows", (
  pytest.param( "edge4",  "0.5B",  2, id="0.5B on edge4" ),
  pytest.param( "edge8",  "0.5B",  5, id="0.5B on edge8" ),
  pytest.param( "edge16", "0.5B", 16, id="0.5B on edge16" ),
  pytest.param( "edge4",  "1.5B",  1, id="1.5B on edge4" ),
  pytest.param( "edge8",  "7B",    1, id="7B on edge8" ),
  pytest.param( "edge16", "7B",    5, id="7B on edge16" ),
  pytest.param( "edge4",  "tiny", 16, id="tiny on edge4" ) ) )
def test_rows_of_a_pass( config, model, rows ):
  assert built( ( model, config, "w8a16" ) ).spad.pass_rows == rows

#-------------------------------------------------------------------------
# The output head
#-------------------------------------------------------------------------

@by_case
def test_head_covers_the_vocabulary_exactly_once( case ):
  program = built( case )
  at = 0
  for tile in program.tiles:
    assert tile.start == at and 0 < tile.cols <= program.spad.head_cols
    assert tile.cols % 16 == 0       # whole lines of logits
    at += tile.cols
  assert at == sizes_of( program ).vocab
  searches = [ i for i in program.instructions if i.mnemonic == "ARGMAX" ]
  assert [ i.first for i in searches ] == [ 1 ] + ( len( searches ) - 1 ) * [ 0 ]
  found = [ v for i in searches for v in range( i.base, i.base + i.length ) ]
  assert found == list( range( program.shape.model.vocab_size ) )

@pytest.mark.parametrize( "cols, expected", (
  pytest.param( 384, [ ( 0, 384 ) ], id="one" ),
  pytest.param( 400, [ ( 0, 384 ) ], id="wider than the vocabulary" ),
  pytest.param( 128, [ ( 0, 128 ), ( 128, 128 ), ( 256, 128 ) ], id="even" ),
  pytest.param( 160, [ ( 0, 160 ), ( 160, 160 ), ( 320, 64 ) ], id="a shorter last one" ),
  pytest.param( 368, [ ( 0, 368 ), ( 368, 16 ) ], id="a line left over" ) ) )
def test_head_tiles( cols, expected ):
  shape = built( ( "odd", "edge16", "w8a16" ) ).shape
  assert [ ( t.start, t.cols ) for t in head_tiles( shape, cols ) ] == expected

@by_case
def test_logits_are_stored_without_gaps( case ):
  program = built( case )
  stores  = [ i for i in program.instructions if i.mnemonic == "STORE" ]
  assert all( i.row_lines * LINE_BYTES == program.logits_row_bytes for i in stores )
  at = program.memory.line( "logits" )
  for i in stores:
    assert i.dram == at and i.cond == Cond.LOGITS
    at += 4 * i.length // LINE_BYTES
  assert at == program.memory.line( "logits" ) + stores[0].row_lines

#-------------------------------------------------------------------------
# The listing
#-------------------------------------------------------------------------

# Each gain is loaded before the GEMM in front of its norm.
NORM      = [ "RMSNORM", "QUANTIZE" ]
ATTENTION = [ *NORM, "GEMM", "ROPE", "QUANTIZE", "ATTEND", "QUANTIZE", "LOAD", "GEMM" ]
MLP       = [ *NORM, "GEMM", "SWIGLU", "QUANTIZE", "LOAD", "GEMM" ]

@by_case
def test_listing( case ):
  program = built( case )
  listing = [ "PASS", "EMBED", "LOAD", "LOAD", *program.shape.model.layers * ( ATTENTION + MLP ),
              "ADVANCE", "JUMP", "COPY", "SETROWS", *NORM,
              *len( program.tiles ) * [ "GEMM", "ARGMAX", "STORE" ], "HALT", "EMIT", "JUMP" ]
  # Activations of the MAC array are BF16 in that precision; the attention engine's are INT16 always.
  if case[2] == "bf16":
    listing = [ "CONVERT" if name == "QUANTIZE" and following in ( "GEMM", "LOAD" ) else name
                for name, following in zip( listing, [ *listing[1:], "" ], strict=True ) ]
  assert [ i.mnemonic for i in program.instructions ] == listing

@by_case
def test_operands_fit_and_read_back( case ):
  for i in built( case ).instructions:
    found = decode( encode( i ) )
    assert found.mnemonic == i.mnemonic
    assert { k: np.float32( v ) for k, v in found.operands.items() } == {
      k: np.float32( v ) for k, v in i.operands.items() if v }

CONDITIONS = { "JUMP": Cond.PREFILL, "COPY": Cond.GENERATE, "SETROWS": Cond.GENERATE,
               "STORE": Cond.LOGITS, "HALT": Cond.SCORE }

@by_case
def test_conditions_and_control( case ):
  program = built( case )
  *body, last = program.instructions
  assert ( last.mnemonic, last.cond, last.target ) == ( "JUMP", Cond.ALWAYS, 0 )
  for i in body:
    assert i.cond == CONDITIONS.get( i.mnemonic, Cond.ALWAYS )
    moved = Rel.POS if is_rope_load( program, i ) else Rel.NONE
    assert i.rel == { "COPY": Rel.LAST }.get( i.mnemonic, moved )
    assert i.rows == ( 1 if is_one_row( program, i ) else 0 )
  [ start ] = [ i for i in body if i.mnemonic == "PASS" ]
  assert start.limit == program.spad.pass_rows
  [ halt ] = [ i for i in body if i.mnemonic == "HALT" ]
  assert halt.status == Status.SCORED
  [ jump ] = [ i for i in body if i.mnemonic == "JUMP" ]
  assert jump.target == 0

def is_rope_load( program: Program, i: Instruction ) -> bool:
  """Whether an instruction brings the rows of the RoPE table."""
  return i.mnemonic == "LOAD" and region_at( program, int( i.dram ) ) == "rope"

def is_one_row( program: Program, i: Instruction ) -> bool:
  """Whether an instruction works on one row in every pass."""
  gain = i.mnemonic == "LOAD" and not is_rope_load( program, i )
  return gain or i.mnemonic in ( "COPY", "SETROWS", "ARGMAX" )

def region_at( program: Program, line: int ) -> str:
  """The region that a line is in."""
  regions = list( program.memory.regions.values() )
  found   = regions[bisect_right( regions, line, key=lambda r: r.line ) - 1]
  assert found.line <= line < found.line + up( found.size, LINE_BYTES ) // LINE_BYTES
  return found.name

@by_case
def test_operands_of_the_engines( case ):
  """Lengths and constants against the model's dimensions, layer by layer."""
  program = built( case )
  s, m, p = sizes_of( program ), program.shape.model, program.shape.precision
  gemms   = { program.memory.line( r.name ): r for r in program.memory.regions.values() }
  shapes  = { "qkv": ( s.hidden, s.qkv, GemmFlag.BIAS ),
              "o": ( s.heads * s.head, s.hidden, GemmFlag.RESIDUAL ),
              "gate_up": ( s.hidden, 2 * s.inter, 0 ),
              "down": ( s.inter, s.hidden, GemmFlag.RESIDUAL ) }
  streams, gains, caches = [], [], []
  for i in program.instructions:
    if i.mnemonic == "GEMM":
      name = gemms[i.dram].name
      streams.append( name )
      part = name.split( "." )[-1]
      k, cols, flags = shapes.get( part ) or ( s.hidden, program.tiles[int( part )].cols, 0 )
      assert ( i.k, i.cols, i.flags ) == ( k, cols, flags ), name
      assert ( i.mode, ( 0, 32 )[i.group] ) == ( p.mode, 32 if p.name == "w4a16" else 0 )
    elif i.mnemonic == "RMSNORM":
      assert ( i.segments, i.length ) == ( 1, s.hidden )
      assert ( i.inv_length, i.eps ) == ( 1 / m.hidden_size, m.rms_norm_eps )   # of the unpadded row
    elif i.mnemonic == "ROPE":
      assert ( i.segments, i.length ) == ( m.heads + m.kv_heads, s.head )
    elif i.mnemonic == "ATTEND":
      caches.append( region_at( program, i.dram ) )
      assert i.dram == program.memory.line( caches[-1] )
      assert ( i.heads, i.kv_heads, i.length, i.chunks ) == ( m.heads, m.kv_heads, s.head, 5 )
      assert i.factor == pytest.approx( log2( e ) / sqrt( m.head_dim ), rel=1e-12 )
    elif i.mnemonic == "SWIGLU":
      assert ( i.segments, i.length, i.src2 - i.src ) == ( 1, s.inter, s.inter // s.n )
    elif i.mnemonic == "CONVERT":
      assert ( p.name, i.formats, i.segments ) == ( "bf16", Convert.FP32_BF16, 1 )
    elif i.mnemonic == "LOAD" and not is_rope_load( program, i ):
      gains.append( i.dram - program.memory.line( "norms" ) )
      assert ( i.length, i.row_lines ) == ( s.hidden, up( 4 * s.hidden, 64 ) // 64 )
    elif i.mnemonic == "LOAD":
      assert ( i.dram, i.length ) == ( program.memory.line( "rope" ), s.half )
      assert i.row_lines == up( 4 * s.half, 64 ) // 64
    elif i.mnemonic == "EMBED":
      assert ( i.dram, i.vocab ) == ( program.memory.line( "embedding" ), m.vocab_size )
      assert ( i.length, i.row_lines ) == ( s.hidden, up( 4 * s.hidden, 64 ) // 64 )
  names = [ f"layers.{i}.{part}" for i in range( m.layers ) for part in shapes ]
  assert streams == names + [ f"head.{j}" for j in range( len( program.tiles ) ) ]
  assert gains == [ i * up( 4 * s.hidden, 64 ) // 64 for i in range( 2 * m.layers + 1 ) ]
  assert caches == [ f"kv.{i}" for i in range( m.layers ) ]

@by_case
def test_buffers_alternate( case ):
  """So that a gain comes while the last one is in use, and a part of the head while one is searched."""
  program = built( case )
  code    = program.instructions
  gains   = [ i for i in code if i.mnemonic == "LOAD" and not is_rope_load( program, i ) ]
  parts   = [ i for i in code if i.mnemonic == "GEMM" ][-len( program.tiles ) :]
  for found, slots in ( ( gains, program.spad.gains ), ( parts, program.spad.logits ) ):
    assert [ i.dst for i in found ] == [ slots[j % 2] for j in range( len( found ) ) ]
  assert not any( i.wait for i in gains )
  assert not any( i.wait & Unit.VEC for i in parts[1::2] )

@by_case
def test_quantize_widths( case ):
  """16 bits for the attention engine, and for the MAC array what the precision says."""
  program = built( case )
  bits    = { "w8a8": 8 }.get( case[2], 16 )
  for i, following in pairwise( program.instructions ):
    if i.mnemonic == "QUANTIZE":
      assert i.bits == ( 16 if following.mnemonic == "ATTEND" else bits )
      assert i.dst == i.src and i.dst_stride == i.src_stride

#-------------------------------------------------------------------------
# Footprints
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
    if i.flags & GemmFlag.RESIDUAL:
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

#-------------------------------------------------------------------------
# Hazards
#-------------------------------------------------------------------------

@dataclass( frozen=True )
class Span:
  """What an instruction touches: a half-open range of scratchpad rows, a DRAM region, or TOKEN."""
  space: str
  low: int
  high: int
  write: bool

def spans_of( operand: Operand ) -> list[Span]:
  """The ranges of an operand; token rows that touch are one."""
  ranges: list[tuple[int, int]] = []
  for r in operand.rows:
    low = operand.base + r * operand.stride
    if ranges and ranges[-1][1] == low:
      low = ranges.pop()[0]
    ranges.append( ( low, operand.base + r * operand.stride + operand.width ) )
  return [ Span( "spad", low, high, operand.write ) for low, high in ranges ]

def touched_by( program: Program, i: Instruction, rows: int ) -> list[Span]:
  """The most that an instruction may touch, in a pass of up to `rows` rows."""
  spans = [ span for o in operands( program, i, rows, range( rows ) ) for span in spans_of( o ) ]
  if any( f.name == "dram" for f in i.format.fields ):
    write = i.mnemonic in ( "STORE", "ATTEND" )
    spans.append( Span( region_at( program, int( i.dram ) ), 0, 1, write ) )
  # EMIT appends a token where no EMBED has read yet, so the token buffer is not among these.
  if i.mnemonic in ( "ARGMAX", "EMIT" ):
    spans.append( Span( "TOKEN", 0, 1, i.mnemonic == "ARGMAX" ) )
  return spans

UNITS = ( Unit.MAC, Unit.VEC, Unit.ATT, Unit.LOAD, Unit.STORE )

def clash( a: list[Span], b: list[Span] ) -> bool:
  """Whether two instructions may not overlap in time: both touch something that one of them writes."""
  return any( s.space == t.space and s.low < t.high and t.low < s.high and ( s.write or t.write )
              for s in a for t in b )

def worst_spans( program: Program, code: list[Instruction], rows: int ) -> list[list[Span]]:
  """What each instruction may touch."""
  return [ touched_by( program, i, rows ) for i in code ]

@dataclass
class Hazards:
  """What an interpretation found: (instruction, unit) pairs.

  `missing`: the unit may still be busy with something that the instruction must not overlap.
  `needless`: the instruction waits for the unit, and nothing that it has to do clashes with it.
  """
  missing: set[tuple[int, Unit]]
  needless: set[tuple[int, Unit]]

def interpret( code: list[Instruction], spans: list[list[Span]], path: Iterable[int] ) -> Hazards:
  """Dispatch instructions along a path: a unit does its own in order, and takes any time over it.

  An instruction is dispatched when the units of its wait mask have finished all that they were given;
  from then on it may overlap with whatever other units still have to do. A wait is done even if the
  condition does not hold, and every instruction may be executed or not: the worst case is all of them.
  """
  busy: dict[Unit, list[list[Span]]] = { u: [] for u in UNITS }
  found = Hazards( set(), set() )
  for at in path:
    i = code[at]
    for unit in UNITS:
      hit = unit != i.format.unit and any( clash( spans[at], other ) for other in busy[unit] )
      if i.wait & unit:
        busy[unit] = []
        if not hit:
          found.needless.add( ( at, unit ) )
      elif hit:
        found.missing.add( ( at, unit ) )
    if i.format.unit:
      busy[i.format.unit].append( spans[at] )
  return found

def loops( code: list[Instruction] ) -> list[int]:
  """A pass of the prompt, one that ends with a token, another of each: every way round both loops."""
  prefill = next( at for at, i in enumerate( code ) if i.mnemonic == "JUMP" )
  return [ *range( prefill + 1 ), *range( len( code ) ), *range( len( code ) ), *range( prefill + 1 ) ]

def without( code: list[Instruction], *bits: tuple[int, Unit] ) -> list[Instruction]:
  """A program with those wait bits taken out."""
  code = list( code )
  for at, unit in bits:
    assert code[at].wait & unit
    code[at] = code[at].but( wait=int( code[at].wait ) & ~int( unit ) )
  return code

def wait_bits( code: list[Instruction] ) -> list[tuple[int, Unit]]:
  """Every (instruction, unit) of the wait masks."""
  return [ ( at, unit ) for at, i in enumerate( code ) for unit in UNITS if i.wait & unit ]

ALL_UNITS = sum( UNITS )
FIXED     = { "JUMP": ALL_UNITS, "HALT": ALL_UNITS, "EMIT": Unit.VEC, "PASS": 0, "ADVANCE": 0,
              "SETROWS": 0 }

@by_case
def test_no_hazards_and_no_needless_waits( case ):
  program = built( case )
  code    = program.instructions
  spans   = worst_spans( program, code, program.spad.pass_rows )
  found   = interpret( code, spans, loops( code ) )
  assert found.missing == set()
  assert { code[at].mnemonic for at, _ in found.needless } <= set( FIXED )
  for i in code:
    if i.mnemonic in FIXED:
      assert i.wait == FIXED[i.mnemonic]

@pytest.mark.parametrize( "case", (
  pytest.param( ( "nano", "edge16", "w8a16" ), id="one part of the head" ),
  pytest.param( ( "tiny", "edge4",  "w4a16" ), id="two parts of the head" ),
  pytest.param( ( "odd",  "edge8",  "bf16" ),  id="odd sizes" ) ) )
def test_without_any_one_wait_there_is_a_hazard( case ):
  program  = built( case )
  code     = program.instructions
  spans    = worst_spans( program, code, program.spad.pass_rows )
  harmless = { code[at].mnemonic for at, unit in wait_bits( code )
               if not interpret( without( code, ( at, unit ) ), spans, loops( code ) ).missing }
  # After HALT, whose wait is done whether the run is scored or not, nothing is left to wait for.
  assert harmless == { "JUMP", "HALT", "EMIT" }

@pytest.mark.parametrize( "unit, mnemonics, victim", (
  pytest.param( Unit.VEC,   ( "HALT", "EMIT" ), "EMIT",  id="EMIT before the last ARGMAX" ),
  pytest.param( Unit.MAC,   ( "JUMP", ),        "EMBED", id="EMBED before the last GEMM of a pass" ),
  pytest.param( Unit.STORE, ( "HALT", "JUMP" ), "GEMM",  id="GEMM before the logits are stored" ) ) )
def test_waits_of_control_instructions_are_there_for_a_reason( unit, mnemonics, victim ):
  program = built( ( "tiny", "edge4", "w8a16" ) )
  code    = program.instructions
  spans   = worst_spans( program, code, program.spad.pass_rows )
  less    = without( code, *( ( at, unit ) for at, i in enumerate( code ) if i.mnemonic in mnemonics ) )
  found   = interpret( less, spans, loops( code ) ).missing
  assert ( victim, unit ) in { ( code[at].mnemonic, missing ) for at, missing in found }

@pytest.mark.parametrize( "case", (
  ( "0.5B", "edge16", "w8a16" ),
  ( "1.5B", "edge4",  "bf16" ),
  ( "7B",   "edge8",  "w4a16" ) ), ids="-".join )
def test_without_some_waits_of_a_large_model_there_is_a_hazard( case ):
  program = built( case )
  code    = program.instructions
  spans   = worst_spans( program, code, program.spad.pass_rows )
  bits    = [ ( at, unit ) for at, unit in wait_bits( code ) if code[at].mnemonic not in FIXED ]
  assert len( bits ) > 100
  for at, unit in random.Random( 0 ).sample( bits, 8 ):
    assert interpret( without( code, ( at, unit ) ), spans, loops( code ) ).missing, ( at, unit )

@by_case
def test_run_ends_when_everything_is_done( case ):
  """Where it may end, no unit is busy: the host finds all logits stored, a later run all units free."""
  code = built( case ).instructions
  busy = 0
  for i in code:
    busy &= ~int( i.wait )
    assert not ( busy and i.mnemonic in ( "HALT", "EMIT" ) )
    busy |= int( i.format.unit )

@pytest.mark.parametrize( "pass_rows", ( 1, 3 ) )
def test_waits_of_shorter_passes( pass_rows ):
  program = build( MODELS["tiny"], get_config( "edge4" ), get_precision( "w8a16" ), CONTEXT, pass_rows )
  code    = program.instructions
  found   = interpret( code, worst_spans( program, code, pass_rows ), loops( code ) )
  assert not found.missing
  assert { code[at].mnemonic for at, _ in found.needless } <= set( FIXED )

#-------------------------------------------------------------------------
# Waits of any program
#-------------------------------------------------------------------------

@st.composite
def straight_code( draw: st.DrawFn ) -> list[Instruction]:
  """Instructions of all units without jumps: dense matrices, on so few addresses that most clash."""
  program = built( ( "nano", "edge16", "w8a16" ) )
  regions = [ program.memory.line( name ) for name in ( "logits", "norms", "rope" ) ]
  code    = []
  names   = st.sampled_from( ( "LOAD", "STORE", "EMBED", "GEMM", "ATTEND", "COPY", "ADD", "RMSNORM",
                               "ARGMAX", "EMIT", "SETROWS", "HALT" ) )
  for name in draw( st.lists( names, max_size=25 ) ):
    width  = draw( st.integers( 1, 2 ) )
    values = { f: draw( st.integers( 0, 12 ) ) for f in ( "dst", "src", "src2" ) }
    values |= { "rows": draw( st.integers( 0, 2 ) ), "length": 16 * width, "dst_stride": width,
                "src_stride": width, "src2_stride": width, "segments": 1, "row_lines": 0,
                "dram": draw( st.sampled_from( regions ) ), "cond": draw( st.sampled_from( Cond ) ) }
    if name == "GEMM":
      values |= { "k": 16 * width, "cols": 16 * width, "flags": draw( st.integers( 0, 3 ) ) }
    if name == "EMBED":
      values |= { "dram": program.memory.line( "embedding" ), "vocab": 1 }
    if name == "ATTEND":
      values |= { "dram": program.memory.line( "kv.0" ), "heads": 2, "kv_heads": 1, "chunks": 1,
                  "src_stride": 2 * width }
    fields = { f.name for f in mk( name ).format.all_fields }
    code.append( mk( name, **{ k: v for k, v in values.items() if k in fields } ) )
  return code

@settings( max_examples=100 )
@given( straight_code(), st.integers( 1, 4 ) )
def test_waits_of_any_program_are_enough_and_no_more( code, pass_rows ):
  program = built( ( "nano", "edge16", "w8a16" ) )
  waits   = assign_waits( program.shape.cfg, code, pass_rows )
  assert [ i.but( wait=0 ) for i in waits ] == code
  found   = interpret( waits, worst_spans( program, code, pass_rows ), range( len( code ) ) )
  assert found.missing == set()
  assert { waits[at].mnemonic for at, _ in found.needless } <= { "HALT", "EMIT" }

@pytest.mark.parametrize( "row", (
  pytest.param( 0, id="first" ),
  pytest.param( 2, id="between" ),
  pytest.param( 3, id="last" ) ) )
def test_copy_of_the_last_row_waits_for_any_row( row ):
  """A pass may have any number of rows up to the most, so LAST may be any of them."""
  load = mk( "LOAD", rows=1, dst=2 * row, length=32, dst_stride=2 )
  copy = mk( "COPY", rel=Rel.LAST, rows=1, dst=100, segments=1, length=32, dst_stride=2, src_stride=2 )
  assert assign_waits( get_config( "edge16" ), [ load, copy ], 4 )[1].wait == Unit.LOAD

#-------------------------------------------------------------------------
# Options
#-------------------------------------------------------------------------

@pytest.mark.parametrize( "pass_rows", ( 1, 2, 7, 16 ) )
def test_pass_rows_option( pass_rows ):
  shape   = built( ( "nano", "edge16", "w8a16" ) ).shape
  program = build( shape.model, shape.cfg, shape.precision, CONTEXT, pass_rows )
  assert program.spad.pass_rows == program.instructions[0].limit == pass_rows
  assert program.memory.regions["logits"].size == pass_rows * 4 * 384

def test_pass_rows_that_do_not_fit_become_as_many_as_do():
  program = build( MODELS["0.5B"], get_config( "edge8" ), get_precision( "w8a16" ), CONTEXT, 9 )
  assert program.spad.pass_rows == 5

def test_exact_fit():
  """1,024 elements of scratchpad: 4 * 112 of rows and gains, 32 of RoPE, 2 * 272 of gate and up."""
  cfg   = NpuConfig( name="toy", n=16, spad_bytes=4096 )
  model = changed( hidden_size=112, intermediate_size=272, heads=2, kv_heads=1, head_dim=64 )
  p     = get_precision( "w8a16" )
  found = build( model, cfg, p, CONTEXT ).spad
  assert ( found.pass_rows, found.total, cfg.derived.spad_rows ) == ( 1, 64, 64 )
  larger = replace( model, intermediate_size=273 )
  assert message_of( lambda: build( larger, cfg, p, CONTEXT ) ) == (
    "config toy has 4096 bytes of scratchpad: too few for one row of this model "
    "(hidden 112, intermediate 288); raise spad_bytes" )

def test_narrow_head_makes_room_for_rows():
  """The two buffers of logits take what is left; a small scratchpad gives many parts of the head."""
  cfg     = NpuConfig( name="small", n=16, spad_bytes=1 << 16 )
  program = build( MODELS["tiny"], cfg, get_precision( "w8a16" ), CONTEXT )
  assert 64 <= program.spad.head_cols < 1024 and len( program.tiles ) > 1
  assert program.spad.total <= cfg.derived.spad_rows
  check_dataflow( program, program.spad.pass_rows, True )

@pytest.mark.parametrize( "context, chunks", ( ( 1, 1 ), ( 16, 1 ), ( 17, 2 ), ( 256, 16 ) ) )
def test_context( context, chunks ):
  program = build( MODELS["nano"], get_config( "edge16" ), get_precision( "w8a16" ), context )
  assert program.memory.regions["tokens"].size == 4 * ( context + 1 )
  assert program.memory.regions["rope"].size == context * 64
  assert { i.chunks for i in program.instructions if i.mnemonic == "ATTEND" } == { chunks }

@pytest.mark.parametrize( "model, config, precision, expected", (
  pytest.param( "nano", "edge16", "w8a16", [ *range( 8 ), *range( 16, 24 ) ], id="half of a row" ),
  pytest.param( "nano", "edge4",  "w8a16", [ *range( 16 ) ], id="whole rows" ),
  pytest.param( "nano", "edge4",  "w4a16", [ *range( 8 ), *range( 16, 24 ) ], id="half of a group" ),
  pytest.param( "odd",  "edge4",  "bf16",  [ *range( 5 ), *range( 8, 13 ) ], id="odd half" ) ) )
def test_head_order( model, config, precision, expected ):
  shape = Shape( MODELS[model], get_config( config ), get_precision( precision ) )
  assert head_order( shape ).tolist() == expected

#-------------------------------------------------------------------------
# Errors
#-------------------------------------------------------------------------

@pytest.mark.parametrize( "precision", PRECISIONS )
def test_model_that_does_not_fit_names_spad_bytes( precision ):
  cfg, p = get_config( "edge4" ), get_precision( precision )
  assert message_of( lambda: build( MODELS["7B"], cfg, p, 16 ) ) == (
    "config edge4 has 131072 bytes of scratchpad: too few for one row of this model "
    "(hidden 3584, intermediate 18944); raise spad_bytes" )
  # And what the message says helps.
  assert build( MODELS["7B"], cfg.but( spad_bytes=1 << 18 ), p, 16 ).spad.pass_rows == 1

@pytest.mark.parametrize( "pass_rows", ( 0, -1, 17 ) )
def test_pass_rows_out_of_range( pass_rows ):
  s       = built( ( "nano", "edge16", "w8a16" ) ).shape
  message = f"pass rows are {pass_rows}; config edge16 does 1 to 16"
  assert message_of( lambda: fit_spad( s, pass_rows ) ) == message
  assert message_of( lambda: build( s.model, s.cfg, s.precision, 16, pass_rows ) ) == message

@pytest.mark.parametrize( "model, k_max, message", (
  pytest.param( changed( intermediate_size=200 ), 207,
                "config toy sums at most k_max = 207 products; this model needs 208",
                id="inter, padded" ),
  pytest.param( changed( hidden_size=200 ), 207,
                "config toy sums at most k_max = 207 products; this model needs 208",
                id="hidden, padded" ),
  pytest.param( changed( heads=10 ), 319,
                "config toy sums at most k_max = 319 products; this model needs 320",
                id="heads, padded" ),
  pytest.param( changed( heads=254, kv_heads=1 ), 32768,
                "the model's heads + 2 * kv_heads is 256 (padded); instructions hold up to 255",
                id="heads" ),
  pytest.param( changed( head_dim=130 ), 32768,
                "the model's head_dim is 130 (160 padded); the attention engine does up to 128", id="head_dim" ),
  pytest.param( changed( intermediate_size=1 << 19 ), 1 << 20,
                "the model's intermediate_size is 1048576 (padded); instructions hold up to 1048575",
                id="intermediate_size, gate and up" ),
  pytest.param( changed( vocab_size=1048561 ), 32768,
                "the model's vocab_size is 1048576 (padded); instructions hold up to 1048575",
                id="vocab_size" ) ) )
def test_model_that_instructions_cannot_hold( model, k_max, message ):
  cfg = NpuConfig( name="toy", k_max=k_max, spad_bytes=1 << 26 )
  assert message_of( lambda: build( model, cfg, get_precision( "w8a16" ), 16 ) ) == message

@pytest.mark.parametrize( "changes", (
  pytest.param( { "heads": 253, "kv_heads": 1 }, id="heads" ),
  pytest.param( { "head_dim": 128 }, id="head_dim" ),
  pytest.param( { "vocab_size": 1048560 }, id="vocab_size" ),
  pytest.param( { "intermediate_size": ( 1 << 19 ) - 16 }, id="intermediate_size" ) ) )
def test_largest_model_that_instructions_hold( changes ):
  cfg = NpuConfig( name="toy", k_max=1 << 20, spad_bytes=1 << 26 )
  for i in build( changed( **changes ), cfg, get_precision( "w8a16" ), 16 ).instructions:
    encode( i )

def test_k_max_that_suffices():
  cfg = NpuConfig( name="toy", k_max=128 )      # the heads' 4 * 16, each half padded to 16
  assert build( MODELS["nano"], cfg, get_precision( "w4a16" ), 16 ).instructions

@pytest.mark.parametrize( "name", ( "w4a4", "", "W8A16" ) )
def test_unknown_precision_lists_the_known_ones( name ):
  assert message_of( lambda: get_precision( name ) ) == (
    f"unknown precision '{name}'; choose one of w8a16, w16a16, w8a8, w4a16, bf16" )
