"""The instruction set: where fields stand, what does not decode, assembly, and the generated table."""

import struct
from enum import IntFlag
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, strategies as st

from npu.arch.isa import (
  BY_MNEMONIC,
  BY_OPCODE,
  COMMON,
  FORMATS,
  GROUP_SIZES,
  INSTRUCTION_BYTES,
  OPCODE,
  BadInstruction,
  Cond,
  Convert,
  Error,
  Field,
  Format,
  GemmFlag,
  GemmMode,
  Instruction,
  Rel,
  Status,
  Unit,
  assemble,
  decode,
  disassemble,
  encode,
  markdown,
  mk,
)
from npu.errors import NpuError

ROOT  = Path( __file__ ).resolve().parents[2]
ENUMS = ( Cond, Rel, Unit, GemmMode, GemmFlag, Convert, Status, Error )

by_format = pytest.mark.parametrize( "fmt", FORMATS, ids=lambda fmt: fmt.mnemonic )

def is_enum( f: Field ) -> bool:
  """Whether a field's values have names."""
  return isinstance( f.kind, type )

def is_flags( f: Field ) -> bool:
  """Whether a field is a union of named bits."""
  return is_enum( f ) and issubclass( f.kind, IntFlag )

def defined( f: Field ) -> set[int]:
  """Every value that an enumerated field may have."""
  values = { int( v ) for v in f.kind.__members__.values() }
  if is_flags( f ):
    unions = { 0 }
    for v in values:
      unions |= { u | v for u in unions }
    return unions
  return values

def mask_of( f: Field ) -> int:
  """The bits of its word that a field takes."""
  return ( ( 1 << f.width ) - 1 ) << f.low

def words_of( data: bytes ) -> list[int]:
  """The eight words of an instruction."""
  return list( struct.unpack( "<8I", data ) )

def with_raw( fmt: Format, f: Field, raw: int ) -> bytes:
  """An instruction that is zero but for its opcode and the bits of one field."""
  words = [ fmt.opcode ] + 7 * [ 0 ]
  words[f.word] |= raw << f.low
  return struct.pack( "<8I", *words )

def message_of( wrong, error=NpuError ) -> str:
  """The text of the error that calling `wrong` raises."""
  with pytest.raises( error ) as info:
    wrong()
  assert "\n" not in str( info.value )
  return str( info.value )

#-------------------------------------------------------------------------
# Formats
#-------------------------------------------------------------------------

def test_mnemonics_and_opcodes_are_unique_and_fit():
  assert len( BY_MNEMONIC ) == len( BY_OPCODE ) == len( FORMATS )
  assert all( 0 < fmt.opcode < 1 << OPCODE.width for fmt in FORMATS )
  assert ( OPCODE.word, OPCODE.low ) == ( 0, 0 )

@by_format
def test_fields_fit_their_words_and_do_not_overlap( fmt ):
  used = 8 * [ 0 ]
  for f in ( OPCODE, *fmt.all_fields ):
    assert 0 <= f.word < INSTRUCTION_BYTES // 4 and f.low >= 0 and f.width > 0, f
    assert f.low + f.width <= 32, f
    assert not used[f.word] & mask_of( f ), f
    used[f.word] |= mask_of( f )

@by_format
def test_field_names_are_unique_and_common_fields_come_first( fmt ):
  names = [ f.name for f in fmt.all_fields ]
  assert len( set( names ) ) == len( names )
  assert fmt.all_fields[: len( COMMON )] == COMMON
  assert [ f.word for f in COMMON ] == [ 0, 0, 0, 0 ]
  assert sum( mask_of( f ) for f in ( OPCODE, *COMMON ) ) == 0xFFFFFFFF

# What cannot stand where others have it, and why.
MOVED = { ( "ATTEND", "factor" ): "word 1 is its DRAM address" }

def test_a_field_of_several_instructions_stands_at_one_place():
  places: dict[str, dict[tuple[int, int], list[str]]] = {}
  for fmt in FORMATS:
    for f in fmt.fields:
      if ( fmt.mnemonic, f.name ) not in MOVED:
        places.setdefault( f.name, {} ).setdefault( ( f.word, f.low ), [] ).append( fmt.mnemonic )
  assert { name: found for name, found in places.items() if len( found ) > 1 } == {}

@by_format
def test_enumerated_fields_hold_every_value_of_their_enumeration( fmt ):
  for f in filter( is_enum, fmt.all_fields ):
    assert max( defined( f ) ) < 1 << f.width

def test_group_sizes_are_those_of_the_documented_codes():
  assert GROUP_SIZES == ( 0, 32, 64, 128 )

#-------------------------------------------------------------------------
# Encodings
#-------------------------------------------------------------------------

# By hand from the tables, in memory order: an encoding must not change without this test saying so.
GOLDEN = (
  pytest.param( mk( "PASS", limit=16 ),
                "02000000 00000000 00000000 00000000 00000000 10000000 00000000 00000000", id="PASS" ),
  pytest.param( mk( "LOAD", cond=Cond.SCORE, wait=Unit.VEC | Unit.STORE, rows=9, rel=Rel.POS,
                    dram=0x89ABCDEF, dst=0x123456, length=0x54321, dst_stride=0xFEDC,
                    row_lines=0x13579BDF ),
                "10239110 efcdab89 56341200 00000000 00000000 21430500 dcfe0000 df9b5713", id="LOAD" ),
  pytest.param( mk( "GEMM", cond=Cond.GENERATE, wait=Unit.VEC | Unit.LOAD, rows=3, dram=0x1234,
                    dst=0x56, mode=GemmMode.I16_G4, flags=GemmFlag.BIAS | GemmFlag.RESIDUAL, group=1,
                    src=0x789, src2=0xABC, k=4864, cols=896, dst_stride=0x38, src_stride=0x130 ),
                "20a23000 34120000 56000003 89070003 bc0a0001 00130000 38003001 80030000", id="GEMM" ),
  pytest.param( mk( "RMSNORM", wait=Unit.MAC, dst=1, src=2, src2=3, segments=1, length=896,
                    dst_stride=56, src_stride=57, inv_length=1 / 1024, eps=-0.5 ),
                "30100000 0000803a 01000000 02000000 03000001 80030000 38003900 000000bf",
                id="RMSNORM" ),
  pytest.param( mk( "ATTEND", dram=0x100000, dst=0x400, heads=14, src=0x200, kv_heads=2, src2=0x238,
                    length=64, chunks=256, dst_stride=0x38, src_stride=0x48, factor=1.0 ),
                "40000000 00001000 0004000e 00020002 38020000 40000400 38004800 0000803f",
                id="ATTEND" ),
)

@pytest.mark.parametrize( "instruction, golden", GOLDEN )
def test_golden_encoding( instruction, golden ):
  assert encode( instruction ).hex( " ", 4 ) == golden
  assert decode( bytes.fromhex( golden ) ) == instruction

@by_format
def test_all_zero_operands_encode_to_the_opcode( fmt ):
  assert words_of( encode( mk( fmt.mnemonic ) ) ) == [ fmt.opcode ] + 7 * [ 0 ]
  assert decode( encode( mk( fmt.mnemonic ) ) ) == mk( fmt.mnemonic )

@by_format
def test_each_field_alone_sets_its_bits_and_no_others( fmt ):
  for f in fmt.all_fields:
    if f.kind == "fp32":
      value = 0x7F7FFFFF
    else:
      value = max( defined( f ) ) if is_enum( f ) else ( 1 << f.width ) - 1
    data  = with_raw( fmt, f, value )
    found = decode( data )
    assert set( found.operands ) == { f.name }
    assert encode( found ) == data
    if f.kind == "fp32":
      assert found.operands[f.name] == float( np.finfo( np.float32 ).max )
    else:
      assert found.operands[f.name] == value

@by_format
def test_bits_without_a_name_are_ignored_and_written_as_zero( fmt ):
  named = 8 * [ 0 ]
  for f in ( OPCODE, *fmt.all_fields ):
    named[f.word] |= mask_of( f )
  data = struct.pack( "<8I", fmt.opcode, *( ~m & 0xFFFFFFFF for m in named[1:] ) )
  assert decode( data ) == mk( fmt.mnemonic )

#-------------------------------------------------------------------------
# Round trips
#-------------------------------------------------------------------------

# Zero, subnormals, the ends of the range, infinities. No NaN, whose payload a conversion to Python's
# float may change; minus zero has a test of its own.
MINUS_ZERO   = 0x80000000
FP32_CORNERS = ( 0x00000000, 0x00000001, 0x807FFFFF, 0x00800000, 0x7F7FFFFF, 0xFF7FFFFF,
                 0x7F800000, 0xFF800000, 0x3F800000, 0x3F800001 )

def is_nan( pattern: int ) -> bool:
  """Whether a binary32 pattern is a NaN."""
  return pattern & 0x7F800000 == 0x7F800000 and bool( pattern & 0x007FFFFF )

def raws( f: Field ) -> st.SearchStrategy[int]:
  """The field's bits: every defined value, the ends of the range more often than chance."""
  if is_enum( f ):
    return st.sampled_from( sorted( defined( f ) ) )
  top = ( 1 << f.width ) - 1
  if f.kind == "fp32":
    return st.sampled_from( FP32_CORNERS ) | st.integers( 0, top ).filter(
      lambda raw: raw != MINUS_ZERO and not is_nan( raw ) )
  return st.sampled_from( ( 0, 1, top ) ) | st.integers( 0, top )

@st.composite
def encodings( draw: st.DrawFn ) -> tuple[Format, dict[str, int], bytes]:
  """A format, the bits of its fields, and the 32 bytes put together here, without `encode`."""
  fmt   = draw( st.sampled_from( FORMATS ) )
  words = [ fmt.opcode ] + 7 * [ 0 ]
  raw   = { f.name: draw( raws( f ) ) for f in fmt.all_fields }
  for f in fmt.all_fields:
    words[f.word] |= raw[f.name] << f.low
  return fmt, raw, struct.pack( "<8I", *words )

def value_of( f: Field, raw: int ) -> int | float:
  """The operand that a field's bits stand for."""
  return struct.unpack( "<f", struct.pack( "<I", raw ) )[0] if f.kind == "fp32" else raw

@given( encodings() )
def test_encode_puts_every_operand_in_its_field( drawn ):
  fmt, raw, data = drawn
  operands = { f.name: value_of( f, raw[f.name] ) for f in fmt.all_fields }
  assert encode( Instruction( fmt.mnemonic, operands ) ) == data

@given( encodings() )
def test_decode_gives_back_every_operand_that_is_not_zero( drawn ):
  fmt, raw, data = drawn
  found = decode( data )
  assert found.mnemonic == fmt.mnemonic
  assert set( found.operands ) == { name for name, bits in raw.items() if bits }
  for f in fmt.all_fields:
    assert getattr( found, f.name ) == value_of( f, raw[f.name] )
  assert encode( found ) == data

@given( encodings() )
def test_assembly_reads_back_as_the_same_instruction( drawn ):
  data = drawn[2]
  text = disassemble( decode( data ) )
  assert "\n" not in text and text == text.strip()
  assert encode( assemble( text ) ) == data
  assert encode( assemble( f"  {text}   ; {text}" ) ) == data

def test_minus_zero_is_not_lost():
  data = with_raw( BY_MNEMONIC["SCALE"], BY_MNEMONIC["SCALE"].fields[0], MINUS_ZERO )
  assert encode( decode( data ) ) == encode( mk( "SCALE", factor=-0.0 ) ) == data
  assert encode( assemble( disassemble( decode( data ) ) ) ) == data

@example( b"".join( struct.pack( "<I", word ) for word in ( 0x35, 0x7FC00000, 0, 0, 0, 0, 0, 0 ) ) )
@given( st.binary( min_size=INSTRUCTION_BYTES, max_size=INSTRUCTION_BYTES ) )
def test_any_bytes_decode_or_are_refused( data ):
  try:
    found = decode( data )
  except BadInstruction as bad:
    assert bad.error in ( Error.BAD_OPCODE, Error.BAD_FIELD )
  else:
    assert found.format.opcode == data[0]
    assert decode( encode( found ) ).operands.keys() == found.operands.keys()

#-------------------------------------------------------------------------
# What does not decode
#-------------------------------------------------------------------------

@pytest.mark.parametrize( "opcode", sorted( set( range( 256 ) ) - set( BY_OPCODE ) ), ids=hex )
def test_undefined_opcode( opcode ):
  # The rest of the word has undefined values too: the opcode is what is wrong first.
  for rest in ( 0, 0xFFFFFF00 ):
    with pytest.raises( BadInstruction ) as info:
      decode( struct.pack( "<8I", rest | opcode, *( 7 * [ rest ] ) ) )
    assert info.value.error == Error.BAD_OPCODE
    assert str( info.value ) == f"opcode {opcode:#04x} is not defined"

@by_format
def test_every_undefined_value_of_an_enumerated_field( fmt ):
  fields = [ f for f in fmt.all_fields if is_enum( f ) ]
  assert { "cond", "wait", "rel" } <= { f.name for f in fields }
  for f in fields:
    for raw in set( range( 1 << f.width ) ) - defined( f ):
      with pytest.raises( BadInstruction ) as info:
        decode( with_raw( fmt, f, raw ) )
      assert info.value.error == Error.BAD_FIELD
      bits = sum( int( v ) for v in f.kind )
      assert str( info.value ) == (
        f"{f.name} is {raw:#x}; bits of {bits:#x} are defined" if is_flags( f )
        else f"{f.name} is {raw}; not defined" )

@pytest.mark.parametrize( "mnemonic, name, values", (
  pytest.param( "COPY",    "cond",    5,  id="cond" ),
  pytest.param( "COPY",    "rel",     5,  id="rel" ),
  pytest.param( "COPY",    "wait",    32, id="wait" ),
  pytest.param( "GEMM",    "mode",    7,  id="mode" ),
  pytest.param( "GEMM",    "flags",   4,  id="flags" ),
  pytest.param( "CONVERT", "formats", 4,  id="formats" ),
  pytest.param( "HALT",    "status",  7,  id="status" ) ) )
def test_how_many_values_an_enumerated_field_has( mnemonic, name, values ):
  # So that a value added without thought for the decoders shows.
  [ f ] = [ f for f in BY_MNEMONIC[mnemonic].all_fields if f.name == name ]
  assert len( defined( f ) ) == values

#-------------------------------------------------------------------------
# Operands
#-------------------------------------------------------------------------

@by_format
def test_operand_that_does_not_fit_is_named( fmt ):
  for f in fmt.all_fields:
    if f.kind != "fp32":
      for value in ( 1 << f.width, -1 ):
        wrong    = mk( fmt.mnemonic, **{ f.name: value } )
        text     = f"{fmt.mnemonic} {f.name}={value}"
        expected = f"field {f.name} is {value}; it has {f.width} bits, 0 to {( 1 << f.width ) - 1}"
        assert message_of( lambda i=wrong: encode( i ) ) == expected
        if not is_enum( f ):
          assert message_of( lambda t=text: assemble( t ) ) == expected

def test_operands_are_attributes_and_zero_if_not_given():
  i = mk( "COPY", length=64, dst=8 )
  assert ( i.length, i.dst, i.src, i.wait, i.format.opcode ) == ( 64, 8, 0, 0, 0x39 )
  with pytest.raises( AttributeError, match="src2" ):
    i.src2   # noqa: B018 - reading it is the test
  assert i.but( length=65, src=1 ) == mk( "COPY", length=65, dst=8, src=1 )
  assert i == mk( "COPY", length=64, dst=8 ) != mk( "COPY", length=64, dst=9 )

COPY_FIELDS = "cond, dst, dst_stride, length, rel, rows, segments, src, src_stride, wait"

@pytest.mark.parametrize( "wrong, message", (
  pytest.param( lambda: mk( "MOVE" ), "unknown instruction 'MOVE'", id="mnemonic" ),
  pytest.param( lambda: mk( "copy" ), "unknown instruction 'copy'", id="mnemonic in lower case" ),
  pytest.param( lambda: mk( "COPY", src2=1 ), f"COPY has no field 'src2'; it has {COPY_FIELDS}",
                id="field" ),
  pytest.param( lambda: mk( "COPY" ).but( src2=1 ), f"COPY has no field 'src2'; it has {COPY_FIELDS}",
                id="field of a copy" ) ) )
def test_wrong_instruction( wrong, message ):
  assert message_of( wrong ) == message

#-------------------------------------------------------------------------
# Assembly
#-------------------------------------------------------------------------

@pytest.mark.parametrize( "text, expected", (
  pytest.param( "WAIT", mk( "WAIT" ), id="no operands" ),
  pytest.param( "WAIT wait=CTRL", mk( "WAIT", wait=0 ), id="the empty mask by name" ),
  pytest.param( " WAIT\twait=MAC|STORE ; both ends", mk( "WAIT", wait=17 ), id="flags and a comment" ),
  pytest.param( "COPY dst=0x10 length=64 cond=LOGITS rel=LEN",
                mk( "COPY", dst=16, length=64, cond=4, rel=4 ), id="hex, decimal and names" ),
  pytest.param( "COPY rows=0b101", mk( "COPY", rows=5 ), id="binary" ),
  pytest.param( "SCALE factor=0x3fc00000", mk( "SCALE", factor=1.5 ), id="fp32 as a pattern" ),
  pytest.param( "SCALE factor=-1.5e-3", mk( "SCALE", factor=-1.5e-3 ), id="fp32 as a number" ),
  pytest.param( "HALT status=SCORED", mk( "HALT", status=5 ), id="status" ) ) )
def test_assemble( text, expected ):
  assert encode( assemble( text ) ) == encode( expected )

@pytest.mark.parametrize( "instruction, text", (
  pytest.param( mk( "WAIT" ), "WAIT", id="no operands" ),
  pytest.param( mk( "COPY", dst=0x38, src=0, segments=1, length=896 ),
                "COPY     dst=0x38 segments=1 length=896", id="zero left out" ),
  pytest.param( mk( "GEMM", mode=GemmMode.I16_I8, flags=3, wait=10 ),
                "GEMM     wait=VEC|LOAD flags=BIAS|RESIDUAL", id="flags" ),
  pytest.param( mk( "CONVERT", formats=Convert.FP16_FP32, cond=Cond.PREFILL, rel=Rel.TOKEN ),
                "CONVERT  cond=PREFILL rel=TOKEN formats=FP16_FP32", id="names" ),
  pytest.param( mk( "SCALE", factor=0.1 ), "SCALE    factor=0.1", id="shortest decimal" ),
  pytest.param( mk( "SCALE", factor=float( "-inf" ) ), "SCALE    factor=0xff800000", id="infinity" ) ) )
def test_disassemble( instruction, text ):
  assert disassemble( instruction ) == text

COPY_OWN = "cond, wait, rows, rel, dst, src, segments, length, dst_stride, src_stride"

@pytest.mark.parametrize( "text, message", (
  pytest.param( "", "an empty line is no instruction", id="empty" ),
  pytest.param( "  ; COPY", "an empty line is no instruction", id="only a comment" ),
  pytest.param( "MOVE dst=1", "unknown instruction 'MOVE'", id="mnemonic" ),
  pytest.param( "COPY src2=1", f"COPY has no field 'src2'; it has {COPY_OWN}", id="field" ),
  pytest.param( "COPY fast", f"COPY has no field 'fast'; it has {COPY_OWN}", id="no field at all" ),
  pytest.param( "COPY rows=x", "field rows: 'x' is not a number", id="number" ),
  pytest.param( "COPY rows=", "field rows: '' is not a number", id="no number" ),
  pytest.param( "COPY rows=1.5", "field rows: '1.5' is not a number", id="fraction of a row" ),
  pytest.param( "COPY rows=256", "field rows is 256; it has 8 bits, 0 to 255", id="too large" ),
  pytest.param( "COPY rows=-1", "field rows is -1; it has 8 bits, 0 to 255", id="negative" ),
  pytest.param( "SCALE factor=two", "field factor: 'two' is not a number", id="fp32" ),
  pytest.param( "SCALE factor=0xyz", "field factor: '0xyz' is not a number", id="fp32 pattern" ),
  pytest.param( "COPY cond=NEVER",
                "field cond: 'NEVER' is not one of ALWAYS, PREFILL, GENERATE, SCORE, LOGITS",
                id="condition" ),
  pytest.param( "COPY wait=VEC|GPU", "field wait: 'GPU' is not one of MAC, VEC, ATT, LOAD, STORE, CTRL",
                id="one of two flags" ),
  pytest.param( "GEMM flags=0", "field flags: '0' is not one of BIAS, RESIDUAL",
                id="number for a name" ) ) )
def test_wrong_assembly( text, message ):
  assert message_of( lambda: assemble( text ) ) == message

@pytest.mark.parametrize( "factor", (
  pytest.param( "0x1ffffffff", id="pattern of more than 32 bits" ),
  pytest.param( "1e39", id="number beyond binary32" ) ) )
def test_constant_that_is_too_large_is_named( factor ):
  assert message_of( lambda: assemble( f"SCALE factor={factor}" ) ).startswith( "field factor" )

#-------------------------------------------------------------------------
# Documentation
#-------------------------------------------------------------------------

def section( mnemonic: str ) -> str:
  """The part of the table that is about one instruction."""
  [ found ] = [ part for part in markdown().split( "\n### " ) if part.startswith( f"`{mnemonic}`" ) ]
  return found

@by_format
def test_documentation_has_every_field_of_every_instruction( fmt ):
  text = section( fmt.mnemonic )
  unit = fmt.unit.name if fmt.unit else "CTRL"
  assert text.startswith( f"`{fmt.mnemonic}` (opcode {fmt.opcode:#04x}, {unit})\n\n{fmt.doc}.\n" )
  rows = [ line for line in text.splitlines() if line.startswith( "|" ) ]
  assert sorted( rows[2:] ) == sorted(
    f"| {f.word} | {f.low + f.width - 1}:{f.low} | `{f.name}` | {f.doc} |" for f in fmt.fields )

def test_documentation_has_the_common_fields_and_every_value_by_name():
  common = markdown().split( "## Instructions" )[0]
  for f in ( OPCODE, *COMMON ):
    assert f"| {f.low + f.width - 1}:{f.low} | `{f.name}` | {f.doc} |" in common
  for enum in ENUMS:
    [ line ] = [ line for line in common.splitlines() if line.startswith( f"**{enum.__name__}**: " ) ]
    # Unit.CTRL is the absence of a unit; an instruction's heading names it.
    assert all( f"{int( v )} `{name}`" in line for name, v in enum.__members__.items()
                if enum is not Unit or v )

def test_documentation_follows_from_the_definition():
  path = ROOT / "docs" / "isa.md"
  if not path.exists():
    pytest.skip( "docs/isa.md is not there yet" )
  assert markdown() in path.read_text(), "run `make docs`"
