"""`npu diff`: mixes of levels that do not differ, and blocks broken on purpose, each found where it is wrong first."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl.attention_engine import AttentionEngineFL
from fl.controller import ControllerFL
from fl.mac_array import MacArrayFL
from fl.vector_unit import VectorUnitFL
from npu.arch.config import LINE_BYTES, get_config
from npu.arch.footprint import Access
from npu.arch.isa import INSTRUCTION_BYTES, Error, Instruction, decode, disassemble
from npu.arch.mailbox import Mailbox, Word
from npu.compiler.build import compile_model
from npu.compiler.image import load_image
from npu.machine.levels import parse_levels
from npu.runtime.device import SimOptions
from npu.tools.diff import Difference, Report, compare_levels, joined, show_word
from tests.helpers import CliResult, cli_error, files, mk_checkpoint, run_cli
from translation.blocks import BLOCKS

PROMPT = [ 5, 6, 7 ]        # two passes of at most two rows

@pytest.fixture( scope="module" )
def model( tmp_path_factory: pytest.TempPathFactory ) -> Path:
  return mk_checkpoint( tmp_path_factory.mktemp( "models" ) / "small", seed=3, tie_word_embeddings=False )

@pytest.fixture( scope="module" )
def image( model: Path ) -> Path:
  path = model.with_name( "small.npu" )
  compile_model( str( model ), path, get_config( "edge4" ), "w8a16", None, 2 )
  return path

@pytest.fixture( scope="module" )
def program( image: Path ) -> list[Instruction]:
  loaded = load_image( image )
  region = next( r for r in loaded.manifest["regions"] if r["name"] == "program" )
  data   = loaded.dram[region["line"] * LINE_BYTES :][: region["size"]].tobytes()
  return [ decode( data[at : at + INSTRUCTION_BYTES] ) for at in range( 0, len( data ), INSTRUCTION_BYTES ) ]

def compared( image: Path, a: str, b: str, tokens: int = 2, **options: Any ) -> Report:
  return compare_levels( lambda: load_image( image ), parse_levels( a ), parse_levels( b ), PROMPT, tokens, False,
                         SimOptions( **options ) )

def places( program: list[Instruction], *mnemonics: str ) -> list[int]:
  """The pcs of instructions."""
  return [ pc for pc, i in enumerate( program ) if i.mnemonic in mnemonics ]

#-------------------------------------------------------------------------
# No difference
#-------------------------------------------------------------------------

@pytest.mark.parametrize( "level, a, b", (
  pytest.param( "fl", "fl", "fl", id="the same" ),
  pytest.param( "fl", "fl", ",".join( f"{name}=fl" for name in ( "mac_array", "vector_unit", "controller" ) ),
                id="functional components" ),
  pytest.param( "cl", "fl", "cl", id="functional and cl" ),
  pytest.param( "cl", "cl", "fl", id="cl and functional" ),
  pytest.param( "cl", "cl", "vector_unit=fl", id="two machines" ),
  pytest.param( "rtl", "fl", "memory_hub=rtl", id="rtl hub" ),
  *( pytest.param( "verilog", "cl", f"{name}=verilog", id=f"verilog {name}" ) for name in
     ( "mac_array", "vector_unit", "attention_engine", "controller", "memory_hub" ) ),
  pytest.param( "verilog", "fl", "verilog", id="verilog" ),
  pytest.param( "rtl", "fl", "rtl", id="rtl", marks=pytest.mark.nightly ) ) )
def test_levels_do_not_differ( image, level, a, b ):
  report = compared( image, a, b )
  assert report.difference is None, "\n".join( report.difference.lines( ( a, b ) ) )
  assert report.instructions == compared( image, "fl", "fl" ).instructions > 100
  assert report.tokens[0] == report.tokens[1] and len( report.tokens[0] ) == 2
  for levels, cycles in zip( ( a, b ), report.cycles, strict=True ):
    assert ( cycles is None ) == ( levels == "fl" )

@pytest.mark.level( "cl" )
def test_timing_makes_no_difference( image ):
  usual = compared( image, "fl", "cl" )
  other = compared( image, "fl", "cl", stall_seed=4, dram_latency=99, dram_bandwidth=0.3 )
  assert usual.difference is other.difference is None
  assert usual.instructions == other.instructions and usual.cycles[1] < other.cycles[1]

@pytest.mark.level( "cl" )
def test_attention_over_several_chunks( model, tmp_path ):
  # Sums of a chunk are kept in the scratchpad at the levels with cycles.
  image = tmp_path / "image.npu"
  compile_model( str( model ), image, get_config( "edge4" ), "w8a16" )
  prompt = [ t % 384 for t in range( 7, 45 ) ]
  report = compare_levels( lambda: load_image( image ), None, parse_levels( "cl" ), prompt, 1 )
  assert report.difference is None

@pytest.mark.level( "cl" )
@pytest.mark.parametrize( "word, value, end", (
  pytest.param( Word.PROGRAM_COUNT, 12, "ERROR BAD_PC at instruction 12, 0 tokens", id="in the middle of a layer" ),
  pytest.param( Word.WRITABLE, 1 << 20, "", id="at the first ATTEND" ),
  pytest.param( Word.CONTEXT, 2, "ERROR BAD_MAILBOX at instruction 0, 0 tokens", id="before it begins" ) ) )
def test_the_same_error_is_no_difference( image, program, word, value, end ):
  def load():
    loaded = load_image( image )
    Mailbox( loaded.dram )[word] = value
    return loaded
  report = compare_levels( load, None, parse_levels( "cl" ), PROMPT, 2 )
  assert report.difference is None
  if word == Word.WRITABLE:
    end = f"ERROR BAD_DRAM at instruction {places( program, 'ATTEND' )[0]}, 0 tokens"
  assert report.ends == ( end, end )

#-------------------------------------------------------------------------
# Broken blocks
#-------------------------------------------------------------------------

# What is broken, and in which command (from 0 on); set by the tests.
BROKEN = { "at": 0 }

class Counting:
  """Counts what `broken` is asked."""
  count = -1

  def broken( s ) -> bool:
    s.count += 1
    return s.count == BROKEN["at"]

class WrongBit( MacArrayFL, Counting ):
  """One bit of one result is wrong."""
  def write_matrix( s, base, stride, words ):
    if s.broken():
      words[-1, 5] ^= 1
    yield from super().write_matrix( base, stride, words )

class WrongPlace( MacArrayFL, Counting ):
  """A result is a row off."""
  def write_matrix( s, base, stride, words ):
    yield from super().write_matrix( int( base ) + s.broken(), stride, words )

class Missing( MacArrayFL, Counting ):
  """The last columns of a result are not written."""
  def write_matrix( s, base, stride, words ):
    yield from super().write_matrix( base, stride, words[:, : -s.cfg.n] if s.broken() else words )

class Silent( MacArrayFL, Counting ):
  """A command is never done."""
  def write_matrix( s, base, stride, words ):
    while s.broken():
      s.count -= 1
      yield
    yield from super().write_matrix( base, stride, words )

class Refusing( VectorUnitFL, Counting ):
  """A good command is refused."""
  def send( s, box, msg ):
    if box is s.ack_box and s.broken():
      msg = int( Error.BAD_SIZE )
    yield from super().send( box, msg )

class WrongToken( VectorUnitFL, Counting ):
  """Another token is the likeliest."""
  def send( s, box, msg ):
    if box is s.done_box and msg and s.broken():
      msg += 1
    yield from super().send( box, msg )

class WrongKey( AttentionEngineFL, Counting ):
  """A byte of the cache is wrong."""
  def write_bytes( s, name, start, data ):
    if s.broken():
      data = data.copy()
      data[0] ^= 0x80
    yield from super().write_bytes( name, start, data )

class WrongRows( ControllerFL, Counting ):
  """A command has another stride."""
  def send( s, box, msg ):
    if box is s.vec_cmd_box and s.broken():
      msg.dst_stride = int( msg.dst_stride ) + 1
    yield from super().send( box, msg )

class WrongLoad( ControllerFL, Counting ):
  """A row of LOAD or EMBED has a wrong lane."""
  def write_row( s, base, words, length ):
    if s.broken():
      words = words ^ np.uint32( 0x100 )
    yield from super().write_row( base, words, length )

class WrongStep( ControllerFL, Counting ):
  """An instruction is left out."""
  def execute( s, i, code, r ):
    if not s.broken():
      yield from super().execute( i, code, r )

class WrongEmit( ControllerFL ):
  """Another token than the one found is written."""
  def write_words( s, port, start, words ):
    if port == "post" and start >= 128:
      words = [ words[0] + 1 ]
    yield from super().write_words( port, start, words )

class WrongEnd( ControllerFL ):
  """The mailbox gets another position."""
  def report( s, **words ):
    if "POS" in words:
      words["POS"] += 1
    yield from super().report( **words )

class WrongStatus( ControllerFL ):
  """The mailbox gets another status."""
  def report( s, **words ):
    if "POS" in words:
      words["STATUS"] = 4
    yield from super().report( **words )

@pytest.fixture
def broken( monkeypatch, image ):
  """A function: ( class, block, which command ) -> the difference that is found, with the block at fl."""
  def run( cls: type, block: str, at: int = 0, other: str = "fl", **options: Any ) -> Difference:
    monkeypatch.setitem( BROKEN, "at", at )
    monkeypatch.setitem( BLOCKS, block, { **BLOCKS[block], "fl": f"{__name__}:{cls.__name__}" } )
    report = compared( image, other, f"{block}=fl", **options )
    assert report.difference
    return report.difference
  return run

@pytest.mark.level( "cl" )
@pytest.mark.parametrize( "at", ( 0, 3, 6 ) )
@pytest.mark.parametrize( "other", ( "fl", "cl" ) )
def test_a_wrong_bit_is_found( broken, program, at, other ):
  found = broken( WrongBit, "mac_array", at, other )
  gemm  = places( program, "GEMM" )[at]
  assert found.effect.pc == gemm and found.effect.instruction == program[gemm]
  assert ( found.effect.pos, found.effect.rows ) == ( 0, 2 )
  i     = found.effect.instruction
  row   = int( i.dst ) + int( i.dst_stride ) * ( found.effect.rows - 1 ) + 1
  assert found.where == f"scratchpad row {row:#x}, lane 1"
  a, b  = ( int( text.split()[0], 16 ) for text in ( found.a, found.b ) )
  assert a ^ b == 1
  assert found.a == f"{a:#010x}  {np.uint32( a ).view( np.float32 )}"
  assert re.fullmatch( r"1 of [\d,]+ words differ", found.note )

@pytest.mark.level( "cl" )
def test_a_wrong_bit_of_the_second_pass( broken, program ):
  gemms = places( program, "GEMM" )
  first = sum( pc < places( program, "ADVANCE" )[0] for pc in gemms )      # those of the first pass
  found = broken( WrongBit, "mac_array", first )
  assert ( found.effect.pc, found.effect.pos, found.effect.rows ) == ( gemms[0], 2, 1 )

@pytest.mark.level( "cl" )
def test_a_result_in_a_wrong_place_is_found( broken, program ):
  found = broken( WrongPlace, "mac_array", 1 )
  i     = program[places( program, "GEMM" )[1]]
  assert found.effect.instruction == i
  assert found.where.startswith( f"scratchpad row {int( i.dst ):#x}, lane " )

@pytest.mark.level( "cl" )
def test_a_result_that_is_not_complete_is_found( broken, program ):
  found = broken( Missing, "mac_array", 2 )
  assert found.effect.pc == places( program, "GEMM" )[2]
  assert ( found.where, found.a ) == ( "its result is not complete", "complete" )
  assert re.fullmatch( r"(\d+) of (\d+) rows", found.b )

@pytest.mark.level( "cl" )
def test_a_command_that_is_never_done_is_found( broken, program ):
  found = broken( Silent, "mac_array", 1, hang_cycles=500 )
  assert found.effect.pc == places( program, "GEMM" )[1]
  assert re.match( r"0 of \d+ rows written, and never reported done; nothing has moved for 500 cycles, in cycle \d+: ",
                   found.b )
  assert "mac_array: 1 commands to finish" in found.b

@pytest.mark.level( "cl" )
def test_a_refusal_is_found( broken, program ):
  found = broken( Refusing, "vector_unit", 4 )
  pc    = [ pc for pc, i in enumerate( program ) if i.format.unit.name == "VEC" ][4]
  assert found.effect.pc == pc
  assert found.b.endswith( f"; the run has ended: ERROR BAD_SIZE at instruction {pc}, 0 tokens" )

@pytest.mark.level( "cl" )
def test_a_wrong_token_is_found( broken, program ):
  found = broken( WrongToken, "vector_unit" )
  assert found.effect.pc == places( program, "ARGMAX" )[0] and found.where == "TOKEN"
  assert int( found.b ) == int( found.a ) + 1

@pytest.mark.level( "cl" )
def test_a_wrong_key_is_found( broken, program ):
  found = broken( WrongKey, "attention_engine", 1 )
  i     = program[places( program, "ATTEND" )[0]]
  assert found.effect.instruction == i
  # The output differs as well, and the scratchpad is looked at first.
  assert found.where.startswith( ( f"scratchpad row {int( i.dst ):#x}", f"memory line {int( i.dram ) + 1:#x}" ) )

@pytest.mark.level( "cl" )
def test_a_wrong_command_is_found( broken, program ):
  found = broken( WrongRows, "controller", 2 )
  i     = [ i for i in program if i.format.unit.name == "VEC" ][2]
  assert found.effect.instruction == i
  assert found.where == "field dst_stride of its command"
  assert ( found.a, found.b ) == ( f"{int( i.dst_stride ):#x}", f"{int( i.dst_stride ) + 1:#x}" )

@pytest.mark.level( "cl" )
@pytest.mark.parametrize( "at, mnemonic", ( ( 0, "EMBED" ), ( 2, "LOAD" ) ) )
def test_a_wrong_load_is_found( broken, at, mnemonic ):
  found = broken( WrongLoad, "controller", at )
  assert found.effect.instruction.mnemonic == mnemonic
  assert int( found.a.split()[0], 16 ) ^ int( found.b.split()[0], 16 ) == 0x100

@pytest.mark.level( "cl" )
def test_an_instruction_that_is_left_out_is_found( broken, program ):
  # The third engine instruction: its unit's next command comes in its place.
  found = broken( WrongStep, "controller", 4 )
  units = [ pc for pc, i in enumerate( program ) if i.format.unit ]
  assert found.effect.pc == units[4]

@pytest.mark.level( "cl" )
def test_a_token_that_is_not_the_one_found( broken, program ):
  found = broken( WrongEmit, "controller" )
  assert found.effect.pc == places( program, "EMIT" )[0] and found.where.startswith( "memory line " )

@pytest.mark.level( "cl" )
def test_another_end_is_found( broken ):
  found = broken( WrongStatus, "controller" )
  assert found.effect is None and found.where == "they end differently"
  assert found.a.startswith( "LIMIT at instruction " ) and found.b == found.a.replace( "LIMIT", "CONTEXT" )

@pytest.mark.level( "cl" )
def test_another_mailbox_is_found( broken ):
  found = broken( WrongEnd, "controller" )
  assert found.effect is None
  assert found.where == f"in the end, memory line 0x0, byte {4 * Word.POS}"
  assert ( int( found.a.split()[0], 16 ), int( found.b.split()[0], 16 ) ) == ( 4, 5 )

@pytest.mark.level( "cl" )
def test_the_second_machine_stops_at_the_difference( monkeypatch, image ):
  whole = compared( image, "cl", "mac_array=fl" )
  assert whole.difference is None
  monkeypatch.setitem( BLOCKS, "mac_array", { **BLOCKS["mac_array"], "fl": f"{__name__}:WrongBit" } )
  report = compared( image, "cl", "mac_array=fl" )
  assert report.difference and report.cycles[1] < whole.cycles[1] // 3
  assert report.cycles[0] == whole.cycles[0]

#-------------------------------------------------------------------------
# The command
#-------------------------------------------------------------------------

def diff( model: Path, image: Path, *args: object ) -> CliResult:
  return run_cli( "diff", model, "--image", image, "--prompt", "abc", "--max-new-tokens", 2, "--ignore-eos", *args )

@pytest.mark.level( "cl" )
def test_the_command_says_that_nothing_differs( model, image, tmp_path ):
  result = diff( model, image, "--a", "fl", "--b", "vector_unit=fl", "--json", tmp_path / "d.json" )
  assert ( result.code, result.err ) == ( 0, "" )
  assert re.fullmatch( r"no difference: \d+ instructions compared; both end with LIMIT at instruction \d+, "
                       r"2 tokens\n  a fl: without cycles\n  b vector_unit=fl: [\d,]+ cycles\n", result.out )
  report = json.loads( ( tmp_path / "d.json" ).read_text() )
  assert report["same"] is True and report["difference"] is None and report["cycles"][0] is None
  assert report["tokens"][0] == report["tokens"][1]

@pytest.mark.level( "cl" )
def test_the_command_shows_the_difference( monkeypatch, model, image, program ):
  monkeypatch.setitem( BLOCKS, "mac_array", { **BLOCKS["mac_array"], "fl": f"{__name__}:WrongBit" } )
  result = diff( model, image, "--b", "mac_array=fl" )
  assert ( result.code, result.err ) == ( 1, "" )
  pc     = places( program, "GEMM" )[0]
  lines  = result.out.splitlines()
  assert re.fullmatch( rf"instruction {pc} differs, after \d+ instructions without a difference", lines[0] )
  assert lines[1:3] == [ f"  {disassemble( program[pc] )}", "  position 0, 2 rows" ]
  assert re.fullmatch( r"  scratchpad row 0x[0-9a-f]+, lane 1", lines[3] )
  assert re.fullmatch( r"  a fl            0x[0-9a-f]{8}  -?[\d.e+-]+", lines[4] )
  assert re.fullmatch( r"  b mac_array=fl  0x[0-9a-f]{8}  -?[\d.e+-]+", lines[5] )
  assert re.fullmatch( r"  1 of [\d,]+ words differ", lines[6] )
  report = json.loads( diff( model, image, "--b", "mac_array=fl", "--json", "-" ).out )
  assert report["same"] is False and report["difference"]["instruction"] == pc

@pytest.mark.parametrize( "args, message", (
  pytest.param( [ "--a", "gates" ], "unknown level 'gates'; choose one of fl, cl, rtl, verilog", id="level" ),
  pytest.param( [ "--b", "array=cl" ], "unknown block 'array'; choose one of mac_array, vector_unit, attention_engine, "
                                      "controller, memory_hub", id="block" ),
  pytest.param( [ "--b", "cl,rtl" ], "--b has 'rtl'; write BLOCK=LEVEL with commas in between, as in "
                                     "mac_array=rtl,vector_unit=cl", id="syntax" ),
  pytest.param( [ "--b", "fl", "--stall-seed", "1" ], "--stall-seed needs a level with cycles, such as cl",
                id="no clock" ),
  pytest.param( [ "--max-cycles", "0" ], "--max-cycles is 0; choose 1 or more", id="cycles" ),
  pytest.param( [ "--max-new-tokens", "0" ], "--max-new-tokens is 0; choose 1 or more", id="no tokens" ),
  pytest.param( [ "--prompt", "" ], "the prompt is empty; give at least one token", id="prompt" ),
  pytest.param( [ "--image", "none" ], "cannot read image none: No such file or directory", id="image" ) ) )
def test_wrong_arguments_are_told( model, args, message ):
  assert cli_error( "diff", model, "--config", "edge4", *args ) == message

@pytest.mark.level( "cl" )
def test_too_many_cycles_are_a_difference( model, image, tmp_path ):
  result = diff( model, image, "--max-cycles", 1000 )
  assert result.code == 1
  assert "the run has not ended after 1000 cycles: instruction " in result.out
  assert files( tmp_path ) == set()

#-------------------------------------------------------------------------
# Parts
#-------------------------------------------------------------------------

def test_words_are_shown_twice():
  assert show_word( 0x3f800000 ) == "0x3f800000  1.0"
  assert show_word( 0x7fc00000 ) == "0x7fc00000  nan"
  assert show_word( 1 ) == "0x00000001  1.401298464324817e-45" or show_word( 1 ) == "0x00000001  1e-45"

def test_ranges_are_joined():
  accesses = [ Access( *a, True ) for a in ( ( "dram", 5, 6 ), ( "spad", 4, 8 ), ( "spad", 0, 2 ), ( "spad", 7, 9 ),
                                             ( "spad", 9, 10 ), ( "spad", 4, 5 ) ) ]
  assert list( joined( accesses ) ) == [ ( "spad", 0, 2 ), ( "spad", 4, 10 ), ( "dram", 5, 6 ) ]
