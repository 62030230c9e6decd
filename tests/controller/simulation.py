"""The controller among its surroundings, at any level."""

# Components carry no type hints, as everywhere.
# mypy: allow-untyped-defs, allow-incomplete-defs, no-check-untyped-defs

from typing import Any

from pymtl3 import Component

from npu.arch.config import PRESETS, NpuConfig
from tests.controller.surroundings import Surroundings
from tests.controller.world import CALM, Case, Timing, World
from translation.blocks import get_block
from translation.levels import mk_dut
from translation.simulate import run

LEVELS = ( "fl", "cl", "rtl", "verilog" )
BLOCK  = get_block( "controller" )

class Harness( Component ):
  """A controller in its surroundings; `reset_at` is a cycle in which both are reset."""

  def construct( s, dut, world, timing, strict, reset_at ):
    s.dut, s.around = dut, Surroundings( world, timing, strict )
    s.reset_at      = reset_at
    s.cycle         = 0
    d, a = s.dut, s.around
    a.doorbell //= d.doorbell
    d.finished //= a.finished
    d.fetch    //= a.read[0]
    d.load     //= a.read[1]
    d.post     //= a.write[0]
    d.store    //= a.write[1]
    d.spad_wr  //= a.spad_wr
    d.spad_rd  //= a.spad_rd
    d.mac_cmd  //= a.cmd[0]
    d.vec_cmd  //= a.cmd[1]
    d.att_cmd  //= a.cmd[2]
    a.ack[0]   //= d.mac_ack
    a.ack[1]   //= d.vec_ack
    a.ack[2]   //= d.att_ack
    d.mac_start //= a.start
    a.engine_done[0] //= d.mac_done
    a.engine_done[1] //= d.vec_done
    a.engine_done[2] //= d.att_done
    a.pc       //= d.pc
    a.waits    //= d.waits

  def done( s ):
    # `run` asks before every cycle.
    if s.reset_at is not None:
      s.reset @= s.reset_at <= s.cycle < s.reset_at + 3
    s.cycle += 1
    return s.around.done() and ( s.reset_at is None or s.cycle > s.reset_at + 4 )

  def line_trace( s ):
    return f"{s.around.line_trace()} {s.dut.line_trace()}"

def simulate( cfg: NpuConfig, level: str, world: World, timing: Timing = CALM, opts: dict | None = None,
              max_cycles: int = 200_000, reset_at: int | None = None, **kwargs: Any ) -> list[tuple]:
  """Run a world at a level and check everything; returns what happened and when."""
  th = Harness( mk_dut( BLOCK, level, cfg, **kwargs ), world, timing, level != "fl", reset_at )
  run( th, max_cycles, opts )
  return th.around.events

def check_cycles( cfg: NpuConfig, level: str, world: World, timing: Timing, events: list[tuple],
                  reset_at: int | None = None ) -> None:
  """RTL and Verilog do exactly what CL does, in the same cycles."""
  if level in ( "rtl", "verilog" ):
    same = simulate( cfg, "cl", world, timing, reset_at=reset_at )
    for got, want in zip( events, same, strict=False ):
      assert got == want, f"{level} does {got}, cl {want}"
    assert len( events ) == len( same )

def check( level: str, n: int, case: Case, timing: Timing, opts: dict | None = None, seed: int = 0,
           **kwargs: Any ) -> None:
  """Run a case on a preset configuration at a level; everything is checked, its cycles too."""
  cfg   = PRESETS[f"edge{n}"]
  world = World( cfg, case, seed )
  check_cycles( cfg, level, world, timing, simulate( cfg, level, world, timing, opts, **kwargs ) )
