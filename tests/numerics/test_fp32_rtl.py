"""The binary32 operators of `rtl_models/common/fp32.py` against numpy's float32, in simulation and as Verilog.

All operators stand side by side in one bench, so that one Verilated model checks them all: a record of
operands in, a record of results out. The expected results come from numpy on whole arrays, float64
where that is exact, and `npu.arch.numerics.fp32` has to agree with them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pymtl3 import Component, DefaultPassGroup, InPort, OutPort, connect

from npu.arch.numerics.fp32 import add_exponent, f2i, fadd, flush, fmul, i2f
from rtl_models.common.fp32 import (
  Fp32Add,
  Fp32AddExponent,
  Fp32Less,
  Fp32Mul,
  Fp32ToFixed,
  IntToFp32,
)
from translation.verilator import Model, compile_model, lint
from translation.verilog import to_verilog, translate

SIGN     = 0x80000000
TINY     = np.float32( 2.0 ** -126 )
LARGEST  = float( np.finfo( np.float32 ).max )

#-------------------------------------------------------------------------
# Operators and what is expected of them
#-------------------------------------------------------------------------

# One record of operands; each operator reads the low bits of those it has ports for.
OPERANDS = np.dtype( [ ( "a", "<u4" ), ( "b", "<u4" ), ( "x", "<u4" ), ( "k", "<i4" ), ( "y", "<u4" ),
                       ( "scale", "<i4" ), ( "limit", "<i8" ), ( "i", "<i8" ) ] )

def flushed( pattern: NDArray[np.uint32] ) -> NDArray[np.float32]:
  """The values of these patterns, flushed by comparing values where the project looks at fields."""
  x = np.ascontiguousarray( pattern ).view( np.float32 )
  return np.where( np.abs( x ) < TINY, np.copysign( np.float32( 0 ), x ), x )

def flushed_bits( x: NDArray[np.float32] ) -> NDArray[np.uint32]:
  return flushed( x.view( np.uint32 ) ).view( np.uint32 )

def signed( value: NDArray[Any], bits: int ) -> NDArray[np.int64]:
  """The lowest bits of integers, read as signed ones."""
  return value.astype( np.int64 ) << ( 64 - bits ) >> ( 64 - bits )

def sum_of( v: NDArray ) -> NDArray[np.uint32]:
  return flushed_bits( flushed( v["a"] ) + flushed( v["b"] ) )

def product_of( v: NDArray ) -> NDArray[np.uint32]:
  return flushed_bits( flushed( v["a"] ) * flushed( v["b"] ) )

def less( v: NDArray ) -> NDArray[np.bool_]:
  return flushed( v["a"] ) < flushed( v["b"] )

def scaled( kbits: int, v: NDArray ) -> NDArray[np.uint32]:
  exact = np.ldexp( flushed( v["x"] ).astype( np.float64 ), signed( v["k"], kbits ) )
  exact = np.where( np.abs( exact ) < TINY, np.copysign( 0.0, exact ), exact )
  return np.clip( exact, -LARGEST, LARGEST ).astype( np.float32 ).view( np.uint32 )

def converted( nbits: int, v: NDArray ) -> NDArray[np.uint32]:
  return signed( v["i"], nbits ).astype( np.float64 ).astype( np.float32 ).view( np.uint32 )

def limit_of( nbits: int, v: NDArray ) -> NDArray[np.int64]:
  return v["limit"] & ( ( 1 << ( nbits - 1 ) ) - 1 )

def fixed( nbits: int, v: NDArray ) -> NDArray[np.int64]:
  limit = limit_of( nbits, v )
  exact = np.ldexp( flushed( v["y"] ).astype( np.float64 ), -v["scale"] )
  return np.clip( np.rint( exact ), -limit, limit ).astype( np.int64 )

def floats( pattern: NDArray[np.uint32] ) -> NDArray[np.float32]:
  return np.ascontiguousarray( pattern ).view( np.float32 )

@dataclass( frozen=True )
class Operator:
  """A component in the bench, and its results by numpy and by `npu.arch.numerics`."""
  name:     str
  mk:       Callable[[], Component]
  nbits:    int                           # of the result
  ports:    list[tuple[str, str, int]]    # port, field of OPERANDS, width
  expected: Callable[[NDArray], NDArray]
  numerics: Callable[[NDArray], NDArray]

def of_pairs( f: Callable[..., Any] ) -> Callable[[NDArray], NDArray]:
  return lambda v: f( floats( v["a"] ), floats( v["b"] ) )

PAIR = [ ( "a", "a", 32 ), ( "b", "b", 32 ) ]

OPERATORS = [
  Operator( "add",  Fp32Add,  32, PAIR, sum_of,     of_pairs( fadd ) ),
  Operator( "mul",  Fp32Mul,  32, PAIR, product_of, of_pairs( fmul ) ),
  Operator( "less", Fp32Less, 1,  PAIR, less,
            of_pairs( lambda a, b: flush( a ) < flush( b ) ) ),
  *( Operator( f"add_exponent_{n}", partial( Fp32AddExponent, n ), 32,
               [ ( "x", "x", 32 ), ( "k", "k", n ) ], partial( scaled, n ),
               lambda v, n=n: add_exponent( floats( v["x"] ), signed( v["k"], n ) ) )
     for n in ( 6, 9, 10, 12 ) ),
  *( Operator( f"int_to_fp32_{n}", partial( IntToFp32, n ), 32,
               [ ( "in_", "i", n ) ], partial( converted, n ),
               lambda v, n=n: i2f( signed( v["i"], n ) ) )
     for n in ( 8, 17, 26, 27, 48 ) ),
  *( Operator( f"to_fixed_{n}", partial( Fp32ToFixed, n ), n,
               [ ( "x", "y", 32 ), ( "scale_exponent", "scale", 10 ), ( "limit", "limit", n - 1 ) ],
               partial( fixed, n ),
               lambda v, n=n: f2i( floats( v["y"] ), v["scale"], limit_of( n, v ) ) )
     for n in ( 8, 16, 18, 24, 32, 41 ) ),
]

RESULTS = np.dtype( [ ( op.name, "<u4" if op.nbits <= 32 else "<u8" ) for op in OPERATORS ] )

def low_bits( result: NDArray, nbits: int ) -> NDArray[np.uint64]:
  """The pattern of a result, integers in two's complement."""
  pattern = result.view( np.uint32 ) if result.dtype == np.float32 else result
  return pattern.astype( np.int64 ).view( np.uint64 ) & np.uint64( ( 1 << nbits ) - 1 )

def place( layout: np.dtype, field: str ) -> tuple[int, int]:
  """The first bit of a field in a record, and the one after its last."""
  dtype, offset = layout.fields[field][:2]
  return 8 * offset, 8 * ( offset + dtype.itemsize )

class Fp32Bench( Component ):
  """Every operator, its operands and its result at fixed places of two wide ports."""
  def construct( s ):
    s.in_ = InPort( 8 * OPERANDS.itemsize )
    s.out = OutPort( 8 * RESULTS.itemsize )

    for op in OPERATORS:
      dut = op.mk()
      setattr( s, op.name, dut )
      for port, field, width in op.ports:
        low, _ = place( OPERANDS, field )
        connect( getattr( dut, port ), s.in_[low:low + width] )
      low, high = place( RESULTS, op.name )
      connect( dut.out, s.out[low:low + op.nbits] )
      if low + op.nbits < high:
        connect( s.out[low + op.nbits:high], 0 )

#-------------------------------------------------------------------------
# Operands
#-------------------------------------------------------------------------

SHARE = 1 << 17       # records of each kind

# The ends, the middle and their neighbours: where carries and ties are.
CORNERS = np.array( [ 0, 1, 2, 0x3FFFFF, 0x400000, 0x400001, 0x7FFFFE, 0x7FFFFF ] )
EDGES   = np.array( [ 0, 1, 2, 24, 25, 126, 127, 128, 253, 254 ] )

def pack( sign: NDArray, exponent: NDArray, fraction: NDArray ) -> NDArray[np.uint32]:
  """Finite patterns from their fields; exponents are clipped to 0..254."""
  return ( sign << 31 | np.clip( exponent, 0, 254 ) << 23 | fraction ).astype( np.uint32 )

class Draw:
  """Random fields of `count` patterns, from one seed."""

  def __init__( self, seed: int, count: int ) -> None:
    self.rng   = np.random.default_rng( seed )
    self.count = count

  def integers( self, low: int, high: int ) -> NDArray[np.int64]:
    """low..high, both ends included."""
    return self.rng.integers( low, high, self.count, endpoint=True )

  def sign( self ) -> NDArray[np.int64]:
    return self.integers( 0, 1 )

  def corner( self ) -> NDArray[np.int64]:
    return self.rng.choice( CORNERS, self.count )

  def fraction( self ) -> NDArray[np.int64]:
    """A third each: anything, a corner, a few significant bits (which make ties)."""
    kind  = self.integers( 0, 2 )
    short = self.integers( 0, 0x7FFFFF ) >> ( bits := self.integers( 9, 23 ) ) << bits
    return np.choose( kind, ( self.integers( 0, 0x7FFFFF ), self.corner(), short ) )

  def number( self, low: int = 0, high: int = 254 ) -> NDArray[np.uint32]:
    return pack( self.sign(), self.integers( low, high ), self.fraction() )

def product_near_power_of_two( d: Draw, low: int, high: int ) -> tuple[NDArray, NDArray]:
  """Pairs with a sum of exponent fields in low..high whose significands multiply to about 1 or 2."""
  exponent, fraction = d.integers( max( 1, low - 254 ), min( 254, low - 1 ) ), d.fraction()
  inverse = ( 1 << 47 ) // ( fraction | 1 << 23 ) + d.integers( -3, 3 )
  return ( pack( d.sign(), exponent, fraction ),
           pack( d.sign(), d.integers( low, high ) - exponent, inverse & 0x7FFFFF ) )

def pairs( d: Draw ) -> list[tuple[NDArray, NDArray]]:
  """Operands of the operators that take two, each kind in an array of its own."""
  a, exponent = d.number(), d.integers( 0, 254 )
  kinds = [ ( a, d.number() ) ]
  # Every difference of exponents about which anything happens, both ways.
  apart = np.resize( np.arange( -60, 61 ), d.count )
  kinds += [ ( pack( d.sign(), exponent, d.fraction() ),
               pack( d.sign(), exponent + apart, d.fraction() ) ) ]
  # Cancellation down to a few units, or to nothing.
  close  = np.clip( ( a & 0x7FFFFFFF ) + d.integers( -9, 9 ), 0, 0x7F7FFFFF )
  kinds += [ ( a, close.astype( np.uint32 ) | ( ~a & SIGN ) ) ]
  # Sums about a tie.
  kinds += [ ( pack( d.sign(), exponent, d.fraction() ),
               pack( d.sign(), exponent - d.integers( 23, 26 ), d.corner() ) ) ]
  # Products of short significands: ties.
  kinds += [ ( pack( d.sign(), d.integers( 60, 190 ), d.integers( 0, 0xFFF ) << 11 ),
               pack( d.sign(), d.integers( 60, 190 ), d.integers( 0, 0xFFF ) << 11 ) ) ]
  # About the smallest normal number and about the largest, as products and as sums.
  kinds += [ product_near_power_of_two( d, 125, 128 ), product_near_power_of_two( d, 379, 382 ) ]
  kinds += [ ( d.number( 0, 30 ), d.number( 0, 30 ) ), ( d.number( 228, 254 ), d.number( 252, 254 ) ) ]
  # Every exponent with every other.
  one, two = ( e.ravel() for e in np.meshgrid( np.arange( 255 ), np.arange( 255 ) ) )
  every    = Draw( 2, one.size )
  kinds   += [ ( pack( every.sign(), one, every.fraction() ),
                 pack( every.sign(), two, every.fraction() ) ) ]
  # Corners with corners.
  corners  = pack( *( f.ravel() for f in np.meshgrid( np.arange( 2 ), EDGES, CORNERS ) ) )
  kinds   += [ ( np.repeat( corners, corners.size ), np.tile( corners, corners.size ) ) ]
  return kinds

def amounts( d: Draw ) -> list[tuple[NDArray, NDArray]]:
  """x and k: results at both ends of the exponent, and anywhere."""
  x, y = d.number(), d.number()
  end  = d.rng.choice( [ 0, 255 ], d.count )
  return [ ( x, end + d.integers( -3, 3 ) - ( x >> 23 & 0xFF ) ),
           ( y, d.integers( -600, 600 ) ), ( d.number(), d.integers( -2048, 2047 ) ) ]

def integers( d: Draw ) -> list[tuple[NDArray]]:
  """Integers of every length, at random, about ties and about powers of two, both signs."""
  length = d.integers( 0, 62 )
  random = d.integers( 0, ( 1 << 62 ) - 1 ) >> length
  half   = np.int64( 1 ) << np.maximum( 37 - length, 0 )         # of the unit in the last place
  tie    = ( random & ~( 2 * half - 1 ) | half ) + d.integers( -1, 1 )
  power  = ( np.int64( 1 ) << length ) + d.integers( -2, 2 )
  return [ ( np.where( d.sign() == 1, -i, i ), ) for i in ( random, tie, power ) ]

def conversions( d: Draw ) -> list[tuple[NDArray, NDArray, NDArray]]:
  """x, scale and limit: every shift that matters, any shift, and results about the limit."""
  x, y  = d.number(), d.number()
  any_  = d.integers( 0, ( 1 << 41 ) - 1 ) >> d.integers( 0, 40 )
  limit = np.where( d.integers( 0, 3 ) > 0, -1, any_ )
  near  = ( np.int64( 1 ) << d.rng.choice( [ 7, 15, 17, 23, 31, 40 ], d.count ) ) - 1
  scale = d.integers( -120, 80 )
  about = np.ldexp( near + d.integers( -3, 3 ) / 2, scale ) * np.where( d.sign(), -1, 1 )
  return [ ( x, ( x >> 23 & 0xFF ) - 127 - d.integers( -30, 45 ), limit ),
           ( y, d.integers( -512, 511 ), limit ),
           ( about.astype( np.float32 ).view( np.uint32 ), scale, np.where( d.sign(), near, -1 ) ) ]

@cache
def operands() -> NDArray:
  """More than a million records for every operator; the shorter columns start again."""
  groups = ( ( ( "a", "b" ),             pairs( Draw( 1, SHARE ) ) ),
             ( ( "x", "k" ),             amounts( Draw( 3, 3 * SHARE ) ) ),
             ( ( "y", "scale", "limit" ), conversions( Draw( 4, 3 * SHARE ) ) ),
             ( ( "i", ),                 integers( Draw( 5, 3 * SHARE ) ) ) )
  columns = { name: np.concatenate( kinds ) for names, drawn in groups
              for name, kinds in zip( names, zip( *drawn, strict=True ), strict=True ) }
  records = np.zeros( max( c.size for c in columns.values() ), dtype=OPERANDS )
  assert min( c.size for c in columns.values() ) > 1_000_000
  for name, column in columns.items():
    records[name] = np.resize( column, records.size )
  return records

def sample( count: int ) -> NDArray:
  """Some of these records, at random: an even share of each kind."""
  return np.random.default_rng( 6 ).choice( operands(), count, replace=False )

#-------------------------------------------------------------------------
# Simulation, Verilog
#-------------------------------------------------------------------------

def simulated( records: NDArray ) -> NDArray:
  """The results of the bench in PyMTL3's simulation."""
  bench = Fp32Bench()
  bench.elaborate()
  bench.apply( DefaultPassGroup() )
  results = bytearray()
  for record in records:
    bench.in_ @= int.from_bytes( record.tobytes(), "little" )
    bench.sim_eval_combinational()
    results += int( bench.out ).to_bytes( RESULTS.itemsize, "little" )
  return np.frombuffer( results, dtype=RESULTS )

def verilated( records: NDArray ) -> NDArray:
  """The results of the bench translated to Verilog and compiled."""
  library = compile_model( *to_verilog( Fp32Bench() ), [ "in_", "out" ] )
  model   = Model( library, [ 8 * OPERANDS.itemsize, 8 * RESULTS.itemsize ], x_initial="rand", seed=1 )
  stream  = records.tobytes()
  results = bytearray()
  for start in range( 0, len( stream ), OPERANDS.itemsize ):
    model.write( 0, int.from_bytes( stream[start:start + OPERANDS.itemsize], "little" ) )
    model.eval()
    results += model.read( 1 ).to_bytes( RESULTS.itemsize, "little" )
  return np.frombuffer( results, dtype=RESULTS )

#-------------------------------------------------------------------------
# Tests
#-------------------------------------------------------------------------

def check_operator( op: Operator, records: NDArray, results: NDArray ) -> None:
  """Every result, bit for bit; a failure shows the first wrong one with its operands."""
  with np.errstate( all="ignore" ):
    expected = low_bits( op.expected( records ), op.nbits )
  found = results[op.name].astype( np.uint64 )
  assert found.shape == expected.shape
  wrong = np.flatnonzero( found != expected )
  if wrong.size:
    i     = wrong[0]
    shown = ", ".join( f"{p} {int( records[f][i] ) & ( 1 << 64 ) - 1:X}" for p, f, _ in op.ports )
    pytest.fail( f"{op.name}: {wrong.size} of {found.size} differ; the first is [{i}] ({shown}): "
                 f"got {found[i]:X}, expected {expected[i]:X}" )

# One test for all operators: under pytest-xdist, a test for each would run the bench in each worker.
@pytest.mark.parametrize( "level", ( "rtl", "verilog" ) )
def test_operators_are_numpy_float32_then_flush( level, subtests ):
  if level == "rtl":
    records = sample( 4000 )
    results = simulated( records )
  else:
    records = operands()
    results = verilated( records )
  for op in OPERATORS:
    with subtests.test( op.name ):
      check_operator( op, records, results )

@pytest.mark.level( "rtl" )
def test_operands_that_are_not_finite_do_no_harm():
  # They are not accepted, and what comes out is nobody's business as long as the simulation goes on.
  records = sample( 64 )
  for field in ( "a", "b", "x", "y" ):
    records[field][::2] |= 0x7F800000
  assert simulated( records ).size == records.size

# What PyMTL3's translation looks like to the linter. The last line is the bench's own, whose operands
# have room to spare. Anything else is a finding.
WAIVER = """\
`verilator_config
lint_off -rule UNUSEDPARAM  -file "*" -match "Parameter is not used: '__const__*"
lint_off -rule UNUSEDSIGNAL -file "*" -match "Signal is not used: 'clk'"
lint_off -rule UNUSEDSIGNAL -file "*" -match "Signal is not used: 'reset'"
lint_off -rule WIDTHEXPAND  -file "*" -match "*Assign RHS's CONST '1'h0' generates 1 bits.*"
lint_off -rule UNUSEDSIGNAL -file "*" -match "Bits of signal are not used: 'in_'*"
"""

@pytest.mark.level( "verilog" )
def test_verilog_has_no_lint( tmp_path ):
  waiver = tmp_path / "waiver.vlt"
  waiver.write_text( WAIVER )
  assert lint( translate( Fp32Bench(), tmp_path ), waiver ) == ""

@pytest.mark.parametrize( "op", [ pytest.param( op, id=op.name ) for op in OPERATORS ] )
def test_numerics_agree_with_the_expected_results( op ):
  records = sample( 1 << 18 )
  with np.errstate( all="ignore" ):
    expected = low_bits( op.expected( records ), op.nbits )
  assert np.array_equal( low_bits( op.numerics( records ), op.nbits ), expected )
