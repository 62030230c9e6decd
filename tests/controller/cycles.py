"""The controller's section of docs/cycles.md."""

from npu.arch.config import PRESETS, ceil_div
from npu.arch.isa import Cond, Instruction, Status, mk
from tests.controller.simulation import simulate
from tests.controller.world import WRITABLE, Case, Timing, World

CFG    = PRESETS["edge16"]
TIMING = Timing( latency=CFG.dram_latency, work=0 )

LOAD = mk( "LOAD", rows=1, dram=64, length=16 )
COPY = mk( "COPY", rows=1, segments=1, length=16 )

# What is between two others of its kind: engines accept a command in the cycle after they took it.
INSTRUCTIONS = {
  "control (WAIT, PASS, ADVANCE, SETROWS)": mk( "WAIT" ),
  "any, skipped":                           LOAD.but( cond=Cond.SCORE ),
  "vector":                                 COPY,
  "vector, relative address":               COPY.but( rel=1 ),
  "ATTEND":                                 mk( "ATTEND", rows=1, dram=WRITABLE, heads=1, kv_heads=1, length=16,
                                                chunks=1 ),
  "GEMM":                                   mk( "GEMM", rows=1, dram=64, k=16, cols=16 ),
}
PAUSE = 40    # control instructions, so that nothing waits for instructions to come from memory

MOVES = {
  "LOAD":  LOAD,
  "EMBED": mk( "EMBED", rows=1, dram=64, vocab=8, length=16 ),
  "STORE": mk( "STORE", rows=1, dram=WRITABLE, length=16 ),
}
SHAPES = ( ( 1, 16 ), ( 1, 896 ), ( 16, 896 ) )    # rows and words of each: the hidden size of Qwen2-0.5B

INTRODUCTION = """## Controller

n = {n}, beats of {beat} bytes, memory latency {latency} cycles; engines that check a command in one cycle. A program
of one HALT takes {halt} cycles from the doorbell to the end of the report; a taken JUMP adds {jump}, an EMIT {emit}.
Cycles from one instruction of a kind to the next, while instructions are there and nothing is waited for:

| instruction | cycles |
|---|---|
"""

MOVES_HEAD = """
Cycles that one of these adds to a program whose next instruction waits for it, and the beats that it moves. EMBED reads
its tokens first, through the port of the instructions.

| instruction | rows | words | beats | cycles |
|---|---|---|---|---|
"""

def cycles( level: str, code: list[Instruction], **words: int ) -> int:
  """From the doorbell to the end of a run."""
  world  = World( CFG, Case( [ *code, mk( "HALT", status=Status.SCORED ) ], words, prompt=[ 1 ] * 16 ) )
  events = simulate( CFG, level, world, TIMING )
  return int( events[-1][0] - next( e[0] for e in events if e[1] == "doorbell" ) )

def more( level: str, before: list[Instruction], after: list[Instruction], i: list[Instruction], **words: int ) -> int:
  """Cycles that instructions add to a program."""
  return cycles( level, [ *before, *i, *after ], **words ) - cycles( level, [ *before, *after ], **words )

def section( level: str ) -> str:
  """The section of docs/cycles.md, measured at that level."""
  halt  = cycles( level, [] )
  pause = [ mk( "PASS", limit=16 ), *[ mk( "WAIT" ) ] * PAUSE ]
  # A jump of its own place on, so that the code is the same with it and without it, but for what it costs.
  jump  = more( level, pause, pause, [ mk( "JUMP", target=len( pause ) + 1 ) ] )
  emit  = more( level, pause, pause, [ mk( "EMIT" ) ], LIMIT=9 )
  out   = INTRODUCTION.format( n=CFG.n, beat=CFG.derived.beat_bytes, latency=CFG.dram_latency, halt=halt, jump=jump,
                               emit=emit )
  for name, i in INSTRUCTIONS.items():
    one, two = ( more( level, pause, pause, [ i ] * k ) for k in ( 1, 3 ) )
    out += f"| {name} | {( two - one ) / 2:g} |\n"
  out += MOVES_HEAD
  for name, move in MOVES.items():
    for rows, words in SHAPES:
      stride = { "src_stride" if name == "STORE" else "dst_stride": ceil_div( words, CFG.n ) }
      i = move.but( rows=rows, length=words, **stride )
      taken = more( level, pause, [ mk( "WAIT", wait=31 ), *pause ], [ i ] )
      out  += f"| {name} | {rows} | {words} | {rows * ceil_div( words, CFG.n )} | {taken} |\n"
  return out
