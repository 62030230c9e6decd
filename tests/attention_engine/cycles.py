"""The attention engine's section of docs/cycles.md."""

from npu.arch.config import CHUNK, PRESETS, ceil_div
from tests.attention_engine.world import Attend, Timing, World, simulate

CONTEXTS = ( 128, 1024, 4096 )    # the last row of the pass is the last of so many positions
ROWS     = ( 1, 16 )
HEADS, KV_HEADS, HEAD_DIM = 14, 2, 64

INTRODUCTION = """## Attention engine

One layer of Qwen2-0.5B ({heads} heads, {kv_heads} KV heads of {dim}), n = {n}, beats of {beat} bytes, memory latency
{latency} cycles: one ATTEND whose last row is the last of that many positions. The cache is read once per pass: its
beats bound the cycles from below. So do the multipliers: {mults} of them do one query row of {n} elements with {n} keys
a cycle, for the scores and again for the values. Shares are of the cycles.

| positions | rows | cycles | cache beats | share | multiplier cycles | share | bound by |
|---|---|---|---|---|---|---|---|
"""

def measure( level: str, context: int, rows: int ) -> tuple[int, int]:
  """Cycles from reset to `done`, and beats of the cache."""
  cfg   = PRESETS["edge16"]
  world = World( cfg, [ Attend( rows, context - rows, HEADS, KV_HEADS, HEAD_DIM ) ] )
  trace = simulate( cfg, level, world, Timing( latency=cfg.dram_latency ), max_cycles=2_000_000 )
  return trace.cycles, world.beats( level )

def multiplier_cycles( n: int, context: int, rows: int ) -> int:
  """Query rows times tiles of n x n, of the chunks that each row sees."""
  tiles  = 2 * ( CHUNK // n ) * ( HEAD_DIM // n )
  chunks = sum( ceil_div( context - r, CHUNK ) for r in range( rows ) )
  return HEADS * chunks * tiles

def section( level: str ) -> str:
  """Measure at `cl` or `verilog`; the section as Markdown."""
  cfg   = PRESETS["edge16"]
  lines = []
  for context in CONTEXTS:
    for rows in ROWS:
      cycles, beats = measure( level, context, rows )
      busy  = multiplier_cycles( cfg.n, context, rows )
      bound = "cache" if beats > busy else "multipliers"
      lines.append( f"| {context:,} | {rows} | {cycles:,} | {beats:,} | {100 * beats / cycles:.1f} % | {busy:,} | "
                    f"{100 * busy / cycles:.1f} % | {bound} |" )
  text = INTRODUCTION.format( heads=HEADS, kv_heads=KV_HEADS, dim=HEAD_DIM, n=cfg.n, latency=cfg.dram_latency,
                              beat=cfg.derived.beat_bytes, mults=cfg.n ** 2 )
  return text + "\n".join( lines ) + "\n"
