"""A block at one of four levels, behind the same ports.

The levels are `fl`, `cl`, `rtl`, and `verilog`, which is the RTL class translated to SystemVerilog, compiled by
Verilator and imported (`translation.verilated`).
"""

import os
from collections.abc import Mapping
from typing import Any

from pymtl3 import MetadataKey

from npu.errors import NpuError
from translation import verilator
from translation.blocks import LEVELS
from translation.verilated import Registered, Verilated, mk_design

level_key = MetadataKey( str )             # on a component of `mk_dut`: its level

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

def registered( dut: Any ) -> Any:
  """A block of `mk_dut` whose outputs depend on registers alone, not elaborated yet: as it is, or at `verilog` as
  `Registered`."""
  if dut.get_metadata( level_key ) != "verilog":
    return dut
  faster = Registered( *dut._dsl.args )
  faster.set_metadata( level_key, "verilog" )
  return faster
