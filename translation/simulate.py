"""One way to run a simulation: `run` simulates a component that has a `done()`, and counts its cycles.

`simulator` is the inside of it, for what drives a simulation itself. Both close the Verilated blocks of the component
when they end, and trace what is inside these too when waveforms are asked for.
"""

import importlib
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, chdir, contextmanager
from pathlib import Path
from typing import Any, TextIO, cast
from unittest import mock

from filelock import FileLock
from pymtl3 import Component, DefaultPassGroup
from pymtl3.passes.sim.PrepareSimPass import PrepareSimPass
from pymtl3.passes.sim.SimpleTickPass import SimpleTickPass
from pymtl3.passes.tracing.VcdGenerationPass import VcdGenerationPass
from pymtl3.stdlib.test_utils.test_helpers import config_model_with_cmdline_opts, finalize_verilator

from npu.errors import NpuError
from translation import verilator
from translation.levels import level_key
from translation.verilated import Verilated, bits_of, object_at
from translation.verilog import ROOT, set_module_names

# Modules, which the classes of the same name hide.
vcd_module = importlib.import_module( "pymtl3.passes.tracing.VcdGenerationPass" )
vtb_module = importlib.import_module( "pymtl3.passes.backends.verilog.tbgen.VerilogTBGenPass" )

WAVES         = ROOT / "build" / "waves"   # where --dump-vcd writes
DRAIN_CYCLES  = 20                         # after done(), for messages that should not come
TRACED_CYCLES = 16                         # in the message of a timeout

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
  leaves  = [ leaf for x in sorted( signals, key=repr ) for leaf in bits_of( object_at( component, repr( x )[2:] ) ) ]
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
