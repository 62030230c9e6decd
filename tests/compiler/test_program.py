"""The program of a model: memory map, scratchpad map, the output head, and the listing, instruction by instruction.

Sizes are worked out here a second time, from the architecture's description of each instruction, for models and
configurations of every kind.
"""

from itertools import pairwise
from math import e, log2, sqrt

import numpy as np
import pytest

from npu.arch.config import LINE_BYTES
from npu.arch.isa import Cond, Convert, GemmFlag, Instruction, Rel, Status, Unit, decode, encode
from npu.compiler.program import Program, head_tiles
from tests.compiler.programs import CONTEXT, built, by_case, is_rope_load, region_at, sizes_of, up

#-------------------------------------------------------------------------
# Memory map
#-------------------------------------------------------------------------

def stream_bytes( program: Program, k: int, cols: int, bias: bool = False ) -> int:
  """Bytes of a weight stream whose K and N need no padding."""
  precision = program.shape.precision.name
  bits      = { "w8a16": 8, "w16a16": 16, "w8a8": 8, "w4a16": 4, "bf16": 16 }[precision]
  scales    = { "w4a16": k // 32, "bf16": 0 }.get( precision, 1 )
  return k * cols * bits // 8 + 4 * cols * ( scales + bias )

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

def is_one_row( program: Program, i: Instruction ) -> bool:
  """Whether an instruction works on one row in every pass."""
  gain = i.mnemonic == "LOAD" and not is_rope_load( program, i )
  return gain or i.mnemonic in ( "COPY", "SETROWS", "ARGMAX" )

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
