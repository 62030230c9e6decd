"""The table of blocks: the classes of each at every level, imported when they are asked for."""

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from npu.errors import NpuError

LEVELS = ( "fl", "cl", "rtl", "verilog" )

# By block, the module and class of each level. A class takes an `NpuConfig`; all levels have the same ports.
BLOCKS: dict[str, dict[str, str]] = {
  "mac_array": { "fl":  "fl.mac_array:MacArrayFL",
                 "cl":  "cl.mac_array:MacArrayCL",
                 "rtl": "rtl_models.mac_array:MacArrayRTL" },
  "vector_unit": { "fl":  "fl.vector_unit:VectorUnitFL",
                   "cl":  "cl.vector_unit:VectorUnitCL",
                   "rtl": "rtl_models.vector_unit:VectorUnitRTL" },
  "attention_engine": { "fl":  "fl.attention_engine:AttentionEngineFL",
                        "cl":  "cl.attention_engine:AttentionEngineCL",
                        "rtl": "rtl_models.attention_engine:AttentionEngineRTL" },
  "controller": { "fl":  "fl.controller:ControllerFL",
                  "cl":  "cl.controller:ControllerCL",
                  "rtl": "rtl_models.controller:ControllerRTL" },
  # Values do not pass through arithmetic here, so there is no functional level.
  "memory_hub": { "cl":  "cl.memory_hub:MemoryHubCL",
                  "rtl": "rtl_models.memory_hub:MemoryHubRTL" },
}

class Classes( Mapping[str, Any] ):
  """The classes of a block by level, as `translation.levels.mk_dut` takes them.

  Only the level that is read is imported, so that one at work does not wait for another.
  """

  def __init__( self, places: Mapping[str, str] ) -> None:
    self._places = places

  def __getitem__( self, level: str ) -> Any:
    module, _, name = self._places[level].partition( ":" )
    return getattr( importlib.import_module( module ), name )

  def __contains__( self, level: object ) -> bool:
    return level in self._places

  def __iter__( self ) -> Iterator[str]:
    return iter( self._places )

  def __len__( self ) -> int:
    return len( self._places )

def get_block( name: str ) -> Classes:
  """The classes of the block of that name; NpuError names the known ones otherwise."""
  if name not in BLOCKS:
    raise NpuError( f"unknown block '{name}'; choose one of {', '.join( BLOCKS )}" )
  return Classes( BLOCKS[name] )
