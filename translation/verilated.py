"""Blocks as Verilog in a PyMTL3 simulation: translated, compiled by Verilator, imported with the same ports.

The import is not PyMTL3's own, which compiles into the working directory under the name of the class without
a lock, fixes the initial state in the library, and cannot trace with Verilator 5. That one stays
reachable through `--test-verilog`, as a second opinion on the same Verilog.
"""

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pymtl3 import Component, InPort, OutPort, Wire, connect, mk_bits, update, update_ff
from pymtl3.datatypes import is_bitstruct_class
from pymtl3.dsl import Interface
from pymtl3.dsl.NamedObject import NamedObject

from cl.common.signals import mk_sample
from npu.errors import NpuError
from translation import verilator
from translation.verilog import to_verilog

CHECKED_CYCLES = 64      # between two looks at whether outputs follow inputs

#-------------------------------------------------------------------------
# A translated block
#-------------------------------------------------------------------------

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

def object_at( component: Any, place: str ) -> Any:
  """What is at a place in a component, such as recv[1].msg."""
  for name, index in re.findall( r"([A-Za-z_]\w*)|\[(\d+)\]", place ):
    component = getattr( component, name ) if name else component[int( index )]
  return component

#-------------------------------------------------------------------------
# Its import
#-------------------------------------------------------------------------

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
        connect( wire, object_at( s, port.place ) )

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
  leaves = bits_of( wire )
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

def bits_of( value: Any ) -> list[Any]:
  """The Bits in a signal's value, the highest first."""
  if isinstance( value, list ):
    return [ leaf for x in reversed( value ) for leaf in bits_of( x ) ]
  if is_bitstruct_class( type( value ) ):
    return [ leaf for name in value.__bitstruct_fields__ for leaf in bits_of( getattr( value, name ) ) ]
  return [ value ]

def _bits_to_int( value: Any ) -> int:
  return int( value.to_bits() )

def _bits_from_int( Type: Any ) -> Callable[[int], Any]:
  Bits = mk_bits( Type.nbits )
  return ( lambda value: Type.from_bits( Bits( value ) ) ) if is_bitstruct_class( Type ) else Type
