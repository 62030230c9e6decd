"""Wait masks: enough that nothing clashes, and no more, along every path through a program.

Hazards are worked out here a second time, from what each instruction may touch.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass

import pytest
from hypothesis import given, settings, strategies as st

from npu.arch.config import get_config
from npu.arch.isa import Cond, Instruction, Rel, Unit, mk
from npu.compiler.precision import get_precision
from npu.compiler.program import Program, assign_waits, build
from tests.compiler.programs import CONTEXT, MODELS, Operand, built, by_case, operands, region_at

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

#-------------------------------------------------------------------------
# Waits of compiled programs
#-------------------------------------------------------------------------

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
