"""A block at the RTL and Verilated: the same in every cycle, from any initial state, with PyMTL3's options."""

import re
from itertools import product

import pytest
from hypothesis import given, settings, strategies as st
from pymtl3 import Component

from npu.arch.messages import mk_spad_write
from npu.errors import NpuError
from tests.harness import Fuzz, HarnessError, Sink, Source
from tests.translation.small_blocks import (
  AMOUNT,
  CFG,
  MASK,
  WIDTHS,
  AdderRTL,
  CrossRTL,
  ForgetfulRTL,
  Harness,
  LoopRTL,
  PortsRTL,
  Through,
  WrongRTL,
  both,
  mk_harness,
  mk_simulation,
  verilog,
)
from translation import simulate, verilated
from translation.levels import mk_dut
from translation.simulate import SimulationTimeout, run
from translation.verilator import VerilatorError

#-------------------------------------------------------------------------
# One suite for all levels
#-------------------------------------------------------------------------

@both
def test_adds( level, cmdline_opts ):
  th = mk_harness( level, [ 0, 1, MASK, MASK - AMOUNT, 1 << 200 ] )
  assert run( th, 100, cmdline_opts ) == 7
  assert th.sink.cycles == [ 2, 3, 4, 5, 6 ]

@verilog
def test_levels_agree_in_every_cycle():
  def cycles( level, seed ):
    th    = mk_harness( level, range( 60 ), Fuzz( seed ), Fuzz( seed + 100 ) )
    total = run( th, 1000 )
    return total, th.src.cycles, th.sink.cycles
  for seed in range( 5 ):
    assert cycles( "rtl", seed ) == cycles( "verilog", seed )

@both
@settings( max_examples=30 )
@given( data=st.lists( st.integers( 0, MASK ), max_size=8 ), seed=st.integers( 0, 999 ) )
def test_adds_anything( level, data, seed ):
  run( mk_harness( level, data, Fuzz( seed ), Fuzz( seed + 1 ) ), 1000 )

@both
def test_extra_message_is_caught( level ):
  T = mk_spad_write( CFG )
  with pytest.raises( HarnessError, match="extra message in cycle 3: message 1 is 0000:" ):
    run( Harness( mk_dut( WrongRTL, level, CFG, AMOUNT ), [ T( 0, 1 ) ], [ T( 0, 1 ) ] ), 100 )

@both
def test_timeout( level ):
  T = mk_spad_write( CFG )
  with pytest.raises( SimulationTimeout, match="sink: 1 of 2 messages came, the last in cycle 2" ):
    run( Harness( mk_dut( AdderRTL, level, CFG, AMOUNT ), [ T( 0, 1 ) ], [ T( 0, 8 ), T( 0, 1 ) ] ), 30 )

@both
def test_all_kinds_of_ports( level ):
  dut = mk_simulation( mk_dut( PortsRTL, level ) )
  for w in WIDTHS:
    port = getattr( dut, f"a{w}" )
    for value in ( 0, 1, ( 1 << w ) - 1, ( 1 << w ) // 3 ):
      port @= value
      dut.sim_eval_combinational()
      assert getattr( dut, f"b{w}" ) == value
  for i, j in product( range( 2 ), range( 3 ) ):
    dut.grid[i][j] @= 10 * i + j
  for i in range( 2 ):
    dut.wide[i] @= ( i + 1 ) << 90
  dut.pairs[1].val @= 1
  dut.sim_eval_combinational()
  assert [ [ int( x ) for x in row ] for row in dut.turn ] == [ [ 0, 10 ], [ 1, 11 ], [ 2, 12 ] ]
  assert [ int( x ) >> 90 for x in dut.swap ] == [ 2, 1 ]
  assert ( dut.pairs[0].rdy, dut.pairs[1].rdy ) == ( 1, 0 )

@both
@pytest.mark.parametrize( "inside", [ False, True ] )
def test_outputs_that_come_back_as_inputs( level, inside ):
  # Inside construct, one design is elaborated while another one is.
  verilated._mk_design_once.cache_clear()
  dut = None if inside else mk_dut( CrossRTL, level )
  top = mk_simulation( Through( lambda: dut or mk_dut( CrossRTL, level ) ) )
  assert top.last == 5

@verilog
def test_two_imports_of_one_block_are_apart():
  class Two( Component ):
    def construct( s ):
      s.duts = [ mk_dut( AdderRTL, "verilog", CFG, AMOUNT ) for _ in range( 2 ) ]
      T      = mk_spad_write( CFG )
      s.src  = Source( T, [ T( 0, i ) for i in range( 9 ) ] )
      s.sink = Sink( T, [ T( 0, i + 2 * AMOUNT ) for i in range( 9 ) ] )
      s.src.send     //= s.duts[0].recv
      s.duts[0].send //= s.duts[1].recv
      s.duts[1].send //= s.sink.recv
    def done( s ):
      return s.sink.done()
  assert run( Two(), 100 ) == 12

@verilog
def test_logic_that_does_not_settle_is_an_error_and_no_crash():
  dut = mk_simulation( mk_dut( LoopRTL, "verilog", x_initial="zeros" ) )
  dut.en @= 1
  with pytest.raises( VerilatorError, match="converge" ):
    dut.sim_eval_combinational()

def test_classes_by_level():
  classes = { "fl": AdderRTL, "rtl": WrongRTL }
  assert isinstance( mk_dut( classes, "fl", CFG, 1 ), AdderRTL )
  assert isinstance( mk_dut( classes, "rtl", CFG, 1 ), WrongRTL )
  with pytest.raises( NpuError, match=r"^no class for level cl; there are classes for fl, rtl$" ):
    mk_dut( classes, "cl", CFG, 1 )
  with pytest.raises( NpuError, match=r"^level is 'gate'; choose one of fl, cl, rtl, verilog$" ):
    mk_dut( classes, "gate", CFG, 1 )

#-------------------------------------------------------------------------
# Initial state
#-------------------------------------------------------------------------

def initial_state( **kwargs ):
  dut = mk_simulation( mk_dut( ForgetfulRTL, "verilog", **kwargs ) )
  words = []
  for addr in range( 4 ):
    dut.addr @= addr
    dut.sim_eval_combinational()
    words.append( int( dut.word ) )
  return [ int( dut.out_a ), int( dut.out_b ) ], words

@verilog
def test_initial_zeros_and_ones():
  assert initial_state( x_initial="zeros" ) == ( 2 * [ 0 ], 4 * [ 0 ] )
  assert initial_state( x_initial="ones" )  == ( 2 * [ 2**32 - 1 ], 4 * [ 2**100 - 1 ] )

@verilog
def test_initial_rand_is_the_same_for_a_seed():
  regs, words = initial_state( x_initial="rand" )
  assert regs[0] != regs[1]
  assert not { 0, 2**32 - 1, 2**100 - 1 } & { *regs, *words }
  assert len( set( words ) ) == 1   # Verilator gives all words of a memory the same value
  assert initial_state() == initial_state( x_initial="rand", seed=1 ) == ( regs, words )
  assert initial_state( seed=2 ) != ( regs, words )

@verilog
def test_initial_state_from_the_environment( monkeypatch ):
  monkeypatch.setenv( "NPU_X_INITIAL", "ones" )
  assert initial_state()[0] == 2 * [ 2**32 - 1 ]
  assert initial_state( x_initial="zeros" )[0] == 2 * [ 0 ]

@verilog
def test_unknown_initial_state():
  with pytest.raises( NpuError, match=r"^x_initial is 'x'; choose one of zeros, ones, rand$" ):
    mk_dut( ForgetfulRTL, "verilog", x_initial="x" )
  with pytest.raises( NpuError, match=r"^the seed of x_initial is 0; choose 1 to 2147483647$" ):
    mk_dut( ForgetfulRTL, "verilog", seed=0 )

@verilog
@pytest.mark.parametrize( "x_initial", [ "zeros", "ones", "rand" ] )
def test_reset_hides_the_initial_state( x_initial ):
  assert run( mk_harness( "verilog", range( 5 ), x_initial=x_initial ), 100 ) == 7

#-------------------------------------------------------------------------
# PyMTL3's options
#-------------------------------------------------------------------------

@pytest.fixture
def waves( tmp_path, monkeypatch ):
  monkeypatch.setattr( simulate, "WAVES", tmp_path / "waves" )
  return tmp_path / "waves"

@both
def test_dump_vcd( level, waves ):
  assert run( mk_harness( level, range( 5 ) ), 100, { "dump_vcd": "a.b__c[1]" } ) == 7
  files = { p.name: p.read_text() for p in waves.iterdir() }
  assert set( files ) == { "rtl": { "a.b__c_1_.vcd" }, "verilog": { "a.b__c_1_.vcd", "a.b__c_1_.dut.vcd" } }[level]
  python = files["a.b__c_1_.vcd"]
  assert "$scope module sink $end" in python and python.count( "\n#" ) > 50
  if level == "verilog":
    assert re.search( r"\$var wire +1 \S+ full ", files["a.b__c_1_.dut.vcd"] )

@both
def test_dump_textwave( level, capsys ):
  run( mk_harness( level, range( 2 ) ), 100, { "dump_textwave": True } )
  assert "recv.val" in capsys.readouterr().out

@verilog
def test_pymtl3_import_agrees( waves, monkeypatch, tmp_path ):
  monkeypatch.chdir( tmp_path )
  th = mk_harness( "rtl", range( 20 ), Fuzz( 1 ), Fuzz( 2 ) )
  cycles = run( th, 1000, { "test_verilog": "ones", "dump_vcd": "wave" } )
  assert type( th.dut ) is not AdderRTL
  other  = mk_harness( "verilog", range( 20 ), Fuzz( 1 ), Fuzz( 2 ) )
  assert cycles == run( other, 1000 )
  assert th.sink.cycles == other.sink.cycles
  assert [ p.name for p in waves.iterdir() ] == [ "wave.vcd" ]
  assert [ p.name for p in tmp_path.iterdir() ] == [ "waves" ]

@verilog
def test_other_levels_ignore_test_verilog():
  th = mk_harness( "verilog", range( 5 ) )
  assert run( th, 100, { "test_verilog": "zeros" } ) == 7
  assert isinstance( th.dut, simulate.Verilated )

def test_yosys_option_is_refused():
  with pytest.raises( NpuError, match=r"^--test-yosys-verilog does not work" ):
    run( mk_harness( "rtl", [] ), 100, { "test_yosys_verilog": "zeros" } )
