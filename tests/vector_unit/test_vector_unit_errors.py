"""Commands that the vector unit refuses at every level, and those that it only just accepts."""

from typing import Any

import pytest

from npu.arch.config import PRESETS, NpuConfig
from npu.arch.isa import Error
from tests.vector_unit.rows import search
from tests.vector_unit.world import (
  CALM,
  LEVELS,
  NIGHTLY_RTL,
  WILD,
  At,
  Vec,
  World,
  changed,
  check_cycles,
  checked,
  simulate,
)

TOP = PRESETS["edge4"].derived.spad_rows

# By name: the command, what is changed in it, the error. Where several things are wrong the first one counts.
BAD: list[tuple[str, Vec, dict[str, int], Error]] = [
  ( "no_rows",             Vec( "ADD" ),               { "rows": 0 },                              Error.ZERO_SIZE ),
  ( "no_length",           Vec( "SOFTMAX" ),           { "length": 0 },                            Error.ZERO_SIZE ),
  ( "no_segments",         Vec( "MUL" ),               { "segments": 0 },                          Error.ZERO_SIZE ),
  ( "argmax_no_rows",      Vec( "ARGMAX", mode=1 ),    { "rows": 0 },                              Error.ZERO_SIZE ),
  ( "argmax_no_length",    Vec( "ARGMAX", mode=1 ),    { "length": 0 },                            Error.ZERO_SIZE ),
  ( "bits_0",              Vec( "QUANTIZE" ),          { "mode": 0 },                              Error.BAD_FIELD ),
  ( "bits_12",             Vec( "QUANTIZE" ),          { "mode": 12 },                             Error.BAD_FIELD ),
  ( "bits_24",             Vec( "QUANTIZE" ),          { "mode": 24 },                             Error.BAD_FIELD ),
  ( "bits_272",            Vec( "QUANTIZE" ),          { "mode": 0x88 },                           Error.BAD_FIELD ),
  ( "many_rows",           Vec( "COPY" ),              { "rows": 17 },                             Error.BAD_SIZE ),
  ( "most_rows",           Vec( "COPY" ),              { "rows": 255 },                            Error.BAD_SIZE ),
  ( "argmax_many_rows",    Vec( "ARGMAX", mode=1 ),    { "rows": 17 },                             Error.BAD_SIZE ),
  ( "odd_head",            Vec( "ROPE" ),              { "length": 7 },                            Error.BAD_SIZE ),
  ( "head_of_one",         Vec( "ROPE" ),              { "length": 1 },                            Error.BAD_SIZE ),
  ( "long_norm",           Vec( "RMSNORM" ),           { "length": 32769 },                        Error.BAD_SIZE ),
  ( "size_before_field",   Vec( "QUANTIZE" ),          { "mode": 5, "length": 0 },                 Error.ZERO_SIZE ),
  ( "field_before_rows",   Vec( "QUANTIZE" ),          { "mode": 5, "rows": 17 },                  Error.BAD_FIELD ),
  ( "rows_before_place",   Vec( "ADD" ),               { "rows": 17, "src": TOP },                 Error.BAD_SIZE ),
  ( "odd_before_place",    Vec( "ROPE" ),              { "length": 9, "dst": TOP },                Error.BAD_SIZE ),
  ( "src_one_past",        Vec( "COPY", length=9 ),    { "src": TOP - 2 },                         Error.BAD_SPAD ),
  ( "src_far",             Vec( "COPY" ),              { "src": 0xFFFFFF },                        Error.BAD_SPAD ),
  ( "src_stride",          Vec( "COPY", rows=2 ),      { "src": 0, "src_stride": TOP - 1 },        Error.BAD_SPAD ),
  ( "src_strides",         Vec( "COPY", rows=16 ),     { "src_stride": 0xFFFF },                   Error.BAD_SPAD ),
  ( "src_length",          Vec( "COPY" ),              { "length": ( 1 << 20 ) - 1 },              Error.BAD_SPAD ),
  ( "src_segments",        Vec( "COPY", length=200 ),  { "segments": 255 },                        Error.BAD_SPAD ),
  ( "all_at_once",         Vec( "COPY", rows=16 ),     { "length": ( 1 << 20 ) - 1, "segments": 255, "src": 0xFFFFFF,
                                                         "src_stride": 0xFFFF },                   Error.BAD_SPAD ),
  ( "wraps_24",            Vec( "COPY" ),              { "length": 1 << 18, "segments": 255, "src": 0xFFFFFF },
                                                                                                   Error.BAD_SPAD ),
  ( "dst_one_past",        Vec( "ADD", length=9 ),     { "dst": TOP - 2 },                         Error.BAD_SPAD ),
  ( "dst_far",             Vec( "SCALE" ),             { "dst": TOP },                             Error.BAD_SPAD ),
  ( "dst_stride",          Vec( "QUANTIZE", rows=2 ),  { "dst": 1, "dst_stride": TOP - 2 },        Error.BAD_SPAD ),
  ( "src2_one_past",       Vec( "MUL", length=9 ),     { "src2": TOP - 2 },                        Error.BAD_SPAD ),
  ( "src2_stride",         Vec( "SWIGLU", rows=2 ),    { "src2": 1, "src2_stride": TOP - 2 },      Error.BAD_SPAD ),
  ( "gain_one_past",       Vec( "RMSNORM", length=9 ), { "src2": TOP - 2 },                        Error.BAD_SPAD ),
  ( "table_one_past",      Vec( "ROPE", length=10 ),   { "src2": TOP - 1 },                        Error.BAD_SPAD ),
  ( "rope_half_past",      Vec( "ROPE", length=10 ),   { "src": TOP - 3 },                         Error.BAD_SPAD ),
  ( "rope_dst_past",       Vec( "ROPE", length=2 ),    { "dst": TOP - 1 },                         Error.BAD_SPAD ),
  ( "argmax_one_past",     Vec( "ARGMAX", mode=1 ),    { "src": TOP - 1 },                         Error.BAD_SPAD ),
  ( "convert_far",         Vec( "CONVERT", mode=0 ),   { "dst": TOP - 1 },                         Error.BAD_SPAD ),
]

def bad_world( cfg: NpuConfig, v: Vec, changes: dict[str, int] ) -> tuple[World, Any]:
  """A search before and after a bad command of that kind, and the bad command."""
  bad = changed( World( cfg, [ v ] ).messages[0], **changes )
  return World( cfg, [ Vec( "ADD", rows=2 ), *search( 7, data="ties" ), Vec( "ARGMAX", mode=0, length=3, param=7 ),
                       Vec( "RMSNORM" ) ] ), bad

@pytest.mark.parametrize( "level", NIGHTLY_RTL )
@pytest.mark.parametrize( ( "v", "changes", "error" ), [ pytest.param( *row, id=name ) for name, *row in BAD ] )
def test_bad_command( level, v, changes, error, cmdline_opts ):
  """A bad command between good ones is answered with its error, in order, and does nothing."""
  cfg = PRESETS["edge4"]
  world, bad = bad_world( cfg, v, changes )
  world.messages.insert( 2, bad )
  good  = Error.NONE
  errors = [ good, good, error, good, good ]
  found = simulate( cfg, level, world, errors=errors, opts=cmdline_opts )
  check_cycles( cfg, level, world, CALM, found, errors )

@pytest.mark.parametrize( ( "level", "timing" ), [
  pytest.param( level, timing, id=f"{name}-{level}", marks=[ pytest.mark.nightly ] if f"{name}-{level}" == "wild-rtl"
                else [] ) for level in LEVELS for name, timing in ( ( "calm", CALM ), ( "wild", WILD ) ) ] )
def test_bad_commands_in_a_row( level, timing, cmdline_opts ):
  """All of them, a good one after every third."""
  cfg    = PRESETS["edge4"]
  world  = World( cfg, [ Vec( "COPY", length=6 ), *search( 5, 6 ) ] * ( len( BAD ) // 9 ) )
  good   = iter( world.messages )
  mixed, errors = [], []
  for k, ( _, v, changes, error ) in enumerate( BAD ):
    mixed.append( bad_world( cfg, v, changes )[1] )
    errors.append( error )
    if k % 3 == 2 and ( msg := next( good, None ) ) is not None:
      mixed.append( msg )
      errors.append( Error.NONE )
  rest = list( good )
  world.messages, errors = mixed + rest, errors + [ Error.NONE ] * len( rest )
  found = simulate( cfg, level, world, timing, errors, cmdline_opts )
  check_cycles( cfg, level, world, timing, found, errors )

@pytest.mark.parametrize( "level", LEVELS )
def test_last_row( level, cmdline_opts ):
  """Operands and results that end with the scratchpad are accepted."""
  cfg = PRESETS["edge4"]
  put = [ Vec( "COPY", segments=2, length=4, dst=At( TOP - 8 + 2 * k, 0 ) ) for k in range( 4 ) ]
  end = [ Vec( "COPY", rows=2, length=9, src=At( TOP - 7, 4 ) ),
          Vec( "ADD", length=9, src2=At( TOP - 3, 9 ) ),
          Vec( "ROPE", length=10, src=At( TOP - 4, 1 ), src2=At( TOP - 2, 0xFFFF ) ),
          Vec( "ARGMAX", src=At( TOP - 2, 1 ) ),
          Vec( "RMSNORM", rows=2, length=6, src2=At( TOP - 2, 5 ) ),
          Vec( "QUANTIZE", rows=2, length=9, dst=At( TOP - 7, 4 ) ),
          Vec( "ROPE", length=10, dst=At( TOP - 4, 1 ) ),
          Vec( "COPY", src=At( TOP - 2, 0xFFFF ), dst=At( 0, 0xFFFF ) ) ]
  world = World( cfg, put + end )
  checked( cfg, level, world, CALM, cmdline_opts )
