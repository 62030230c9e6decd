"""One way to build a simulator: a block at any level, and a run that counts cycles.

`mk_dut` gives a block at one of four levels: `fl`, `cl`, `rtl`, and `verilog`, which is the RTL class
translated to SystemVerilog, compiled by Verilator and imported with the same ports. `run` simulates a
component that has a `done()`.

The import is not PyMTL3's own, which compiles into the working directory under the name of the class without
a lock, fixes the initial state in the library, and cannot trace with Verilator 5. That one stays
reachable through `--test-verilog`, as a second opinion on the same Verilog.
"""

import functools
import importlib
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, chdir, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, cast
from unittest import mock

from filelock import FileLock
from pymtl3 import Component, DefaultPassGroup, InPort, MetadataKey, OutPort, Wire, connect, mk_bits, update, update_ff
from pymtl3.datatypes import is_bitstruct_class
from pymtl3.dsl import Interface
from pymtl3.dsl.NamedObject import NamedObject
from pymtl3.passes.sim.PrepareSimPass import PrepareSimPass
from pymtl3.passes.sim.SimpleTickPass import SimpleTickPass
from pymtl3.passes.tracing.VcdGenerationPass import VcdGenerationPass
from pymtl3.stdlib.test_utils.test_helpers import config_model_with_cmdline_opts, finalize_verilator

from cl.signals import mk_sample
from npu.errors import NpuError
from translation import verilator
from translation.verilog import ROOT, set_module_names, to_verilog

# Modules, which the classes of the same name hide.
vcd_module = importlib.import_module( "pymtl3.passes.tracing.VcdGenerationPass" )
vtb_module = importlib.import_module( "pymtl3.passes.backends.verilog.tbgen.VerilogTBGenPass" )

LEVELS = ( "fl", "cl", "rtl", "verilog" )

WAVES         = ROOT / "build" / "waves"   # where --dump-vcd writes
DRAIN_CYCLES  = 20                         # after done(), for messages that should not come
TRACED_CYCLES = 16                         # in the message of a timeout
CHECKED_CYCLES = 64                        # between two looks at whether outputs follow inputs

level_key = MetadataKey( str )             # on a component of `mk_dut`: its level

#-------------------------------------------------------------------------
# A block at a level
#-------------------------------------------------------------------------

def mk_dut( cls: Any, level: str, *args: Any, x_initial: str | None = None, seed: int = 1, **kwargs: Any ) -> Any:
  """The block at that level, not yet elaborated: `cls( *args, **kwargs )` or its Verilated import.

  Parameters
  ----------
  cls
    The class, or the classes by level: { "fl": MacArrayFL, "cl": MacArrayCL, "rtl": MacArrayRTL }. The
    level `verilog` uses the class of `rtl`.
  x_initial
    At `verilog`: what registers and memories hold before they are written: zeros, ones or rand. By
    default what NPU_X_INITIAL says, else rand, so that nothing leans on a simulator's zeros. Verilator gives
    all words of a memory the same random value.
  seed
    Of rand, 1 or more.

  Raises
  ------
  NpuError
    The level or `x_initial` is unknown, the block has no class at that level, Verilator is missing, or
    module names clash.
  VerilatorError
    Verilator or the C++ compiler does not take the translated block.
  """
  if level not in LEVELS:
    raise NpuError( f"level is {level!r}; choose one of {', '.join( LEVELS )}" )
  if isinstance( cls, Mapping ):
    wanted = "rtl" if level == "verilog" else level
    if wanted not in cls:
      raise NpuError( f"no class for level {wanted}; there are classes for {', '.join( cls )}" )
    cls = cls[wanted]
  if level == "verilog":
    x_initial = x_initial or os.environ.get( "NPU_X_INITIAL", "rand" )
    if x_initial not in verilator.X_INITIAL:
      raise NpuError( f"x_initial is {x_initial!r}; choose one of {', '.join( verilator.X_INITIAL )}" )
    if not 1 <= seed < 1 << 31:
      raise NpuError( f"the seed of x_initial is {seed}; choose 1 to 2147483647" )
    design    = mk_design( cls, *args, **kwargs )
    dut       = Verilated( design, design.library(), x_initial, seed )
  else:
    dut = cls( *args, **kwargs )
  dut.set_metadata( level_key, level )
  return dut

@dataclass( frozen=True )
class Port:
  """A port of a translated block: its place in Python, such as recv[1].msg, its name in Verilog, its type."""
  place: str
  verilog: str
  Type: Any
  is_input: bool

@dataclass( frozen=True )
class Design:
  """A translated block: `interface` makes its ports and interfaces anew, by name; `ports` are all of them."""
  top: str
  source: str
  ports: tuple[Port, ...]
  interface: Mapping[str, Any]

  @property
  def widths( self ) -> list[int]:
    """Bits of each port."""
    return [ p.Type.nbits for p in self.ports ]

  def places( self, is_input: bool ) -> dict[int, Port]:
    """The inputs or the outputs, by their place among all ports."""
    return { i: p for i, p in enumerate( self.ports ) if p.is_input == is_input }

  def library( self, trace: bool = False ) -> Path:
    """The compiled library, with or without waveforms."""
    return verilator.compile_model( self.top, self.source, [ p.verilog for p in self.ports ], trace )

def mk_design( cls: Any, *args: Any, **kwargs: Any ) -> Design:
  """Translate `cls( *args, **kwargs )`; only once for the same arguments, if they are hashable."""
  try:
    hash( ( args, *kwargs.values() ) )
  except TypeError:
    return _mk_design( cls, *args, **kwargs )
  return _mk_design_once( cls, *args, **kwargs )

def _mk_design( cls: Any, *args: Any, **kwargs: Any ) -> Design:
  with _apart_from_other_elaboration():
    block = cls( *args, **kwargs )
    block.elaborate()
  top, source = to_verilog( block )
  signals   = block.get_all_object_filter(
    lambda x: isinstance( x, ( InPort, OutPort ) ) and x.get_host_component() is block
              and x.is_top_level_signal() and repr( x ) != "s.clk" )
  ports     = [ Port( place := repr( x )[2:], _verilog_name( place ), x._dsl.Type, isinstance( x, InPort ) )
                for x in sorted( signals, key=repr ) ]
  interface = { name: _recipe( x ) for name, x in vars( block ).items()
                if name not in ( "clk", "reset" ) and _is_interface( x ) }
  return Design( top, source, tuple( ports ), interface )

_mk_design_once = functools.lru_cache( maxsize=64, typed=True )( _mk_design )

@contextmanager
def _apart_from_other_elaboration() -> Iterator[None]:
  # While a design is elaborated, PyMTL3 keeps a hook on the class NamedObject. Elaborating a second one
  # removes it, and the first would lose everything that it declares afterwards.
  saved = { name: vars( NamedObject )[name] for name in ( "__setattr__", "_elaborate_stack" )
            if name in vars( NamedObject ) }
  for name in saved:
    delattr( NamedObject, name )
  try:
    yield
  finally:
    for name, value in saved.items():
      setattr( NamedObject, name, value )

def _verilog_name( place: str ) -> str:
  # PyMTL3 joins the names and moves all indices to the end: xs[1].msg is xs__msg[1].
  return "__".join( re.findall( r"[A-Za-z_]\w*", place ) ) + "".join( re.findall( r"\[\d+\]", place ) )

def _is_interface( x: Any ) -> bool:
  return _is_interface( x[0] ) if isinstance( x, list ) and x else isinstance( x, ( InPort, OutPort, Interface ) )

def _recipe( x: Any ) -> Any:
  if isinstance( x, list ):
    return [ _recipe( y ) for y in x ]
  cls: Any = type( x )
  if isinstance( x, Interface ):
    make = functools.partial( cls, *x._dsl.args, **x._dsl.kwargs )
    return ( lambda: make().inverse() ) if getattr( x._dsl, "inversed", False ) else make
  return functools.partial( cls, x._dsl.Type )

def _follow( recipe: Any ) -> Any:
  return [ _follow( r ) for r in recipe ] if isinstance( recipe, list ) else recipe()

def _at( component: Any, place: str ) -> Any:
  for name, index in re.findall( r"([A-Za-z_]\w*)|\[(\d+)\]", place ):
    component = getattr( component, name ) if name else component[int( index )]
  return component

class Verilated( Component ):
  """A Verilated design with the ports of the RTL block, in a PyMTL3 simulation."""

  def construct( s, design: Design, library: Path, x_initial: str, seed: int ) -> None:
    inputs   = design.places( True )
    outputs  = design.places( False )
    n_in     = len( inputs )
    n_out    = len( outputs )
    to_int   = [ _bits_to_int if is_bitstruct_class( p.Type ) else int for p in inputs.values() ]
    from_int = [ _bits_from_int( p.Type ) for p in outputs.values() ]
    in_port, out_port = list( inputs ), list( outputs )

    model = s._mk_model( design, library, x_initial, seed )
    s._mk_ports( design )

    # Logic

    # PyMTL3 reads in these blocks what depends on what, so the ports appear in them as ins and outs.

    @update
    def comb() -> None:
      for i in range( n_in ):
        model[0].write( in_port[i], to_int[i]( s.ins[i] ) )
      model[0].eval()
      for i in range( n_out ):
        s.outs[i] @= from_int[i]( model[0].read( out_port[i] ) )

    @update_ff
    def clock() -> None:
      model[0].tick()

  def _mk_model( s, design: Design, library: Path, x_initial: str, seed: int ) -> list[verilator.Model]:
    """The model, in a list so that `trace_to` can exchange it."""
    s._design, s._x_initial, s._seed = design, x_initial, seed
    s._model = [ verilator.Model( library, design.widths, x_initial, seed ) ]
    return s._model

  def _mk_ports( s, design: Design ) -> None:
    """The interface, and a wire for every port of it: `ins` and `outs`."""
    for name, recipe in design.interface.items():
      setattr( s, name, _follow( recipe ) )
    s.ins  = [ Wire( p.Type ) for p in design.places( True ).values() ]
    s.outs = [ Wire( p.Type ) for p in design.places( False ).values() ]
    for wires, ports in ( ( s.ins, design.places( True ) ), ( s.outs, design.places( False ) ) ):
      for wire, port in zip( wires, ports.values(), strict=True ):
        connect( wire, _at( s, port.place ) )

  def trace_to( s, path: Path ) -> None:
    """Start the model again, now with a waveform of everything inside, in the file `path`."""
    s._model[0].close()
    s._model[0] = verilator.Model( s._design.library( trace=True ), s._design.widths, s._x_initial, s._seed, path )

  def close( s ) -> None:
    """Free the model and finish its waveform. The component is of no use afterwards."""
    s._model[0].close()

  def line_trace( s ) -> str:
    """All interfaces, in the order in which the block declares them."""
    flat = [ getattr( s, name ) for name in s._design.interface ]
    return "|".join( str( x ) for ifc in flat for x in ( ifc if isinstance( ifc, list ) else [ ifc ] ) )

class Registered( Verilated ):
  """The same for a design whose outputs depend on registers alone.

  Everything happens at the clock edge, so no simulator has to find out in which order, or how often, blocks that
  are connected in circles settle: of the whole NPU that is nine tenths of the time. Only what has changed is
  copied. Now and then it is checked that outputs do not follow inputs; NpuError if they do.
  """

  def construct( s, design: Design, library: Path, x_initial: str, seed: int ) -> None:
    outputs  = design.places( False )
    n_out    = len( outputs )
    from_int = [ _bits_from_int( p.Type ) for p in outputs.values() ]
    in_port, out_port = list( design.places( True ) ), list( outputs )

    model = s._mk_model( design, library, x_initial, seed )
    s._mk_ports( design )

    # State: copiers of inputs, the last outputs, and the cycle

    me = s
    s._copies: list[Callable[[], None]] = []
    s._last: list[int | None] = [ None ] * n_out
    s._now = 0

    def start() -> None:
      me._copies = [ _mk_copy( wire, functools.partial( model[0].write, port ) )
                     for wire, port in zip( me.ins, in_port, strict=True ) ]

    def check() -> None:
      for i in range( n_out ):
        if model[0].read( out_port[i] ) != me._last[i]:
          raise NpuError( f"{design.top}: output {outputs[out_port[i]].place} follows an input within a cycle" )

    # Logic

    # Not `clock`: PyMTL3 takes a block of a subclass for that of the same name in the class above it.
    @update_ff
    def clock_all() -> None:
      if not me._copies:
        start()
      for copy in me._copies:
        copy()
      model[0].eval()
      if me._now % CHECKED_CYCLES == CHECKED_CYCLES - 1 and not s.reset:
        check()
      me._now += 1
      model[0].tick()
      for i in range( n_out ):
        value = model[0].read( out_port[i] )
        if value != me._last[i]:
          me._last[i] = value
          s.outs[i] <<= from_int[i]( value )

def _mk_copy( wire: Any, write: Callable[[int], None] ) -> Callable[[], None]:
  # Writes the value of a wire, if it is not what it was.
  leaves = _leaves( wire )
  sample = mk_sample( leaves )
  last: tuple[int, ...] = ()

  def copy() -> None:
    nonlocal last
    values = sample()
    if values != last:
      last   = values
      whole  = 0
      for value, leaf in zip( values, leaves, strict=True ):
        whole = whole << leaf.nbits | value
      write( whole )
  return copy

def _leaves( value: Any ) -> list[Any]:
  # The Bits in a signal's value, the highest first.
  if isinstance( value, list ):
    return [ leaf for x in reversed( value ) for leaf in _leaves( x ) ]
  if is_bitstruct_class( type( value ) ):
    return [ leaf for name in value.__bitstruct_fields__ for leaf in _leaves( getattr( value, name ) ) ]
  return [ value ]

def registered( dut: Any ) -> Any:
  """A block of `mk_dut` whose outputs depend on registers alone, not elaborated yet: as it is, or at `verilog` as
  `Registered`."""
  if dut.get_metadata( level_key ) != "verilog":
    return dut
  faster = Registered( *dut._dsl.args )
  faster.set_metadata( level_key, "verilog" )
  return faster

def _bits_to_int( value: Any ) -> int:
  return int( value.to_bits() )

def _bits_from_int( Type: Any ) -> Callable[[int], Any]:
  Bits = mk_bits( Type.nbits )
  return ( lambda value: Type.from_bits( Bits( value ) ) ) if is_bitstruct_class( Type ) else Type

#-------------------------------------------------------------------------
# A run
#-------------------------------------------------------------------------

class SimulationTimeout( Exception ):
  """done() did not hold within the limit; the message has what was missing and the last line traces."""

def run( component: Any, max_cycles: int, opts: Mapping[str, Any] | None = None, *, linetrace: bool = False,
         drain: int = DRAIN_CYCLES ) -> int:
  """Simulate until `component.done()`, and then `drain` cycles more; returns when done() first held.

  Cycle 0 is the first one without reset. The result counts the cycles before done() held: a sink that takes
  its last message in cycle 9 makes it 10.

  Parameters
  ----------
  component
    Not yet elaborated. It has `done() -> bool`, and may have `line_trace() -> str`. Components inside that
    have `waiting_for() -> str` (empty if they wait for nothing) are asked for the message of a timeout.
  max_cycles
    The limit.
  opts
    The fixture `cmdline_opts`, PyMTL3's command line options:

    --max-cycles N
      overrides `max_cycles`.
    --dump-vcd
      writes waveforms to build/waves/: of the Python simulation, and in a file of its own the inside of
      each Verilated block.
    --dump-textwave
      prints waveforms of single bits at the end.
    --test-verilog[=zeros|ones|rand|N]
      blocks of the level `rtl` are translated and imported by PyMTL3's own pass instead. Other levels run
      as they are. With --dump-vcd it does not show the inside: the wrapper of PyMTL3 does not compile
      with Verilator 5.
    --dump-vtb
      with --test-verilog: writes a Verilog test bench next to PyMTL3's translation, in build/pymtl3/.
    --test-yosys-verilog
      is refused: its Verilog for ports of bitstructs does not pass Verilator 5.
  linetrace
    Whether to print a line trace per cycle.

  Raises
  ------
  SimulationTimeout
    done() does not hold after `max_cycles` cycles.
  NpuError
    An option of PyMTL3 that does not work.

  Anything that a component raises comes out with the line trace of its cycle as a note.
  """
  opts  = opts or {}
  limit = opts.get( "max_cycles" ) or max_cycles
  with ExitStack() as stack:
    component, tick = _prepare( component, opts, stack )
    cycle  = 0
    recent: deque[str] = deque( maxlen=TRACED_CYCLES )

    def step() -> None:
      nonlocal cycle
      if linetrace:
        print( _line_trace( component, cycle ) )
      try:
        tick()
      except Exception as e:
        e.add_note( _line_trace( component, cycle ) )
        raise
      cycle += 1

    component.sim_reset()
    while not component.done():
      if cycle >= limit:
        raise SimulationTimeout( _timeout_message( component, limit, recent ) )
      if limit - cycle <= TRACED_CYCLES:
        recent.append( _line_trace( component, cycle ) )
      step()
    cycles = cycle
    for _ in range( drain ):
      step()
    if opts.get( "dump_textwave" ):
      component.print_textwave()
  return cycles

@contextmanager
def simulator( component: Any, opts: Mapping[str, Any] | None = None ) -> Iterator[tuple[Any, Callable[[], None]]]:
  """The component ready to simulate, not reset, and its clock tick: for what drives a simulation itself.

  `component` and `opts` as in `run`, which this is the inside of. `sim_reset()` of the component resets it, at any
  time. Waveforms are complete, and Verilated blocks closed, when the context ends.
  """
  with ExitStack() as stack:
    yield _prepare( component, opts or {}, stack )

def _prepare( component: Any, opts: Mapping[str, Any], stack: ExitStack ) -> tuple[Any, Callable[[], None]]:
  # The component ready to simulate, and its clock tick; `stack` closes what it opened.
  if opts.get( "test_yosys_verilog" ):
    raise NpuError( "--test-yosys-verilog does not work: its Verilog for ports of bitstructs does not pass "
                    "Verilator 5; use --test-verilog" )
  component.elaborate()
  files = stack.enter_context( _closed_files() )
  for module in ( vcd_module, vtb_module ):
    stack.enter_context( mock.patch.object( module, "open", files, create=True ) )
  if opts.get( "test_verilog" ):
    component = _import_by_pymtl3( component, opts, stack )
  for c in _inside( component ):
    if isinstance( c, Verilated ):
      stack.callback( c.close )
      if opts.get( "dump_vcd" ):
        c.trace_to( _wave_file( f"{opts['dump_vcd']}.{repr( c )[2:]}" ) )
  if opts.get( "dump_vcd" ):
    wave = _wave_file( opts["dump_vcd"] )
    component.set_metadata( VcdGenerationPass.vcd_file_name, str( wave.with_name( wave.stem ) ) )
  component.apply( DefaultPassGroup( textwave=bool( opts.get( "dump_textwave" ) ) ) )
  # PyMTL3's sim_tick settles the combinational blocks before the clock edge and again after it, for test
  # benches that set top-level ports in between. There are none here, so once is enough.
  component._sched.schedule_posedge_flip = [ _mk_flip( component ) ]
  update   = [ block for block in component._sched.update_schedule if not _does_nothing( component, block ) ]
  schedule = PrepareSimPass().collect_ff_funcs( component ) + update
  return component, SimpleTickPass.gen_tick_function( schedule )

def _mk_flip( component: Any ) -> Callable[[], None]:
  # What PyMTL3 does to every signal that `<<=` assigns, `x._flip()`, without its calls and its search for the signals:
  # that takes a tenth of the time, and in a cycle-level simulation of the NPU it was a quarter of everything. A
  # line per signal, as a loop over signals of many types takes five times as long.
  signals = [ x for x in component._dsl.all_signals if x._dsl.needs_double_buffer ]
  leaves  = [ leaf for x in sorted( signals, key=repr ) for leaf in _leaves( _at( component, repr( x )[2:] ) ) ]
  bits    = { f"x{i}": leaf for i, leaf in enumerate( leaves ) }
  lines = [ "def flip():", *( f"  {x}._uint = {x}._next" for x in bits ), "  pass" ]
  exec( compile( "\n".join( lines ), "ff_flips", "exec" ), bits )
  return cast( Callable[[], None], bits["flip"] )

def _does_nothing( component: Any, block: Any ) -> bool:
  # Nets whose signals are one object are empty functions, which only count for the order of the others.
  def nothing() -> None:
    pass
  return block in component._dag.genblks and block.__code__.co_code == nothing.__code__.co_code

@contextmanager
def _closed_files() -> Iterator[Callable[..., TextIO]]:
  # PyMTL3 leaves its output files open. This is an `open` whose files are closed at the end.
  with ExitStack() as files:
    yield lambda *args: files.enter_context( open( *args ) )

def _import_by_pymtl3( component: Any, opts: Mapping[str, Any], stack: ExitStack ) -> Any:
  # It works in the working directory, by name: each worker has a folder of its own.
  verilator.setup()
  blocks = [ c for c in _inside( component ) if c.has_metadata( level_key ) and c.get_metadata( level_key ) == "rtl" ]
  if not blocks:
    return component      # PyMTL3 would take the whole harness for the block
  for block in blocks:
    set_module_names( block )
  folder = ROOT / "build" / "pymtl3" / os.environ.get( "PYTEST_XDIST_WORKER", "main" )
  folder.mkdir( parents=True, exist_ok=True )
  # Its --dump-vcd is left out, as that does not compile.
  chosen = { name: opts.get( name, "" ) for name in ( "test_verilog", "dump_vtb" ) }
  with FileLock( folder.with_name( f"{folder.name}.lock" ) ), chdir( folder ):
    component = config_model_with_cmdline_opts( component, chosen, [ repr( b )[2:] for b in blocks ] )
  stack.callback( finalize_verilator, component )
  return component

def _wave_file( name: str ) -> Path:
  WAVES.mkdir( parents=True, exist_ok=True )
  return WAVES / ( re.sub( r"[^\w.-]", "_", name ) + ".vcd" )

def _inside( component: Any ) -> list[Any]:
  return sorted( component.get_all_object_filter( lambda x: isinstance( x, Component ) ), key=repr )

def _line_trace( component: Any, cycle: int ) -> str:
  if not hasattr( component, "line_trace" ):
    return f"{cycle:4}:"
  try:
    return f"{cycle:4}: {component.line_trace()}"
  except Exception as e:   # must not hide the error that it comes with
    return f"{cycle:4}: no line trace: {e!r}"

def _timeout_message( component: Any, limit: int, recent: Iterable[str] ) -> str:
  missing = [ f"  {repr( c )[2:]}: {text}" for c in _inside( component ) if hasattr( type( c ), "waiting_for" )
              and ( text := c.waiting_for() ) ]
  return "\n".join( [ f"done() does not hold after {limit} cycles; waiting for", *( missing or [ "  done() itself" ] ),
                      "last cycles:", *recent ] )
