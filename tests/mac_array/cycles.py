"""The MAC array's section of docs/cycles.md: one matrix of Qwen2-0.5B's hidden size."""

from npu.arch.config import PRESETS
from npu.arch.weight_stream import StreamLayout
from tests.mac_array.world import Gemm, Timing, World, simulate

SIZE = 896    # K and N: the hidden size of Qwen2-0.5B

# The same product elsewhere, 16 x 16, weight-stationary: ONNXim's rule, and SCALE-Sim 3.0 (docs/architecture.md).
ELSEWHERE = { 1: ( 50_225, 147_391 ), 16: ( 50_237, 194_431 ), 128: ( 401_469, 545_663 ) }

INTRODUCTION = """## MAC array

K = N = {size}, INT8 weights, n = 16, beats of 64 bytes, memory latency {latency} cycles. One pass has up to 16 rows;
128 rows are eight passes, and the weights are read once per pass. The bound is max(weight beats, rows x tiles); the
stream has one more beat per output tile for the scales, and the start and end of a command add to it. For comparison:
ONNXim's rule and SCALE-Sim 3.0 for the same product on a 16 x 16 weight-stationary array.

| rows | cycles | bound | above the bound | multipliers busy | ONNXim | SCALE-Sim |
|---|---|---|---|---|---|---|
"""

def passes( rows: int ) -> list[Gemm]:
  """The commands of a product with that many rows."""
  return [ Gemm( rows=min( rows, 16 ), k=SIZE, cols=SIZE ) ] * -( -rows // 16 )

def measure( rows: int, level: str ) -> int:
  """Cycles from reset to the last completion."""
  cfg      = PRESETS["edge16"]
  commands = passes( rows )
  world    = World( cfg, commands[:1] )
  # All passes work on the same rows: that changes no cycle, and the result is checked as well.
  world.messages *= len( commands )
  world.beats    *= len( commands )
  return simulate( cfg, level, world, Timing( latency=cfg.dram_latency ), max_cycles=1_000_000 )

def line( rows: int, cycles: int ) -> str:
  """One row of the table."""
  cfg    = PRESETS["edge16"]
  tiles  = ( SIZE // cfg.n ) ** 2
  layout = StreamLayout( passes( rows )[0].mode, cfg.n, SIZE, SIZE, 0, False )
  beats  = ( layout.total_beats - layout.tiles ) * len( passes( rows ) )
  bound  = max( beats, rows * tiles )
  busy   = rows * tiles / cycles
  onnxim, scalesim = ELSEWHERE[rows]
  return ( f"| {rows} | {cycles:,} | {bound:,} | {100 * ( cycles / bound - 1 ):.2f} % | {100 * busy:.1f} % | "
           f"{onnxim:,} | {scalesim:,} |" )

def section( level: str ) -> str:
  """Measure at `cl` or `verilog`; the section as Markdown."""
  lines = [ line( rows, measure( rows, level ) ) for rows in ELSEWHERE ]
  return INTRODUCTION.format( size=SIZE, latency=PRESETS["edge16"].dram_latency ) + "\n".join( lines ) + "\n"
