"""The vector unit's table of docs/cycles.md: the shapes of Qwen2-0.5B."""

from dataclasses import replace

from npu.arch.config import PRESETS, ceil_div
from tests.vector_unit.world import Run, Vec, World, simulate

CFG    = PRESETS["edge16"]
QUEUED = 4                  # commands in a queue
VOCAB, PART = 151_936, 4096

COMMANDS = {
  "RMSNORM 896":      Vec( "RMSNORM", length=896 ),
  "QUANTIZE 896":     Vec( "QUANTIZE", length=896 ),
  "ADD 896":          Vec( "ADD", length=896 ),
  "ROPE 16 x 64":     Vec( "ROPE", segments=16, length=64 ),
  "QUANTIZE 18 x 64": Vec( "QUANTIZE", segments=18, length=64 ),
  "SWIGLU 4,864":     Vec( "SWIGLU", length=4864 ),
  "QUANTIZE 4,864":   Vec( "QUANTIZE", length=4864 ),
  "SOFTMAX 1,024":    Vec( "SOFTMAX", length=1024 ),
}

INTRODUCTION = f"""## Vector unit

The shapes of Qwen2-0.5B, n = 16, a scratchpad that never stalls. Alone: cycles from the one in which a command is taken
to the one in which its completion is. In a queue: cycles from one completion to the next while commands wait. Lanes
busy: rows of the scratchpad written (ARGMAX: read) per cycle, in a queue. ARGMAX goes over the vocabulary of
{VOCAB:,} in {ceil_div( VOCAB, PART )} commands, one per part of the logits; its figures are for a part of {PART:,}.

| command | rows | alone | in a queue | lanes busy |
|---|---|---|---|---|
"""

def line( name: str, rows: int, alone: int, queued: float, results: int ) -> str:
  """One row of the table."""
  return f"| {name} | {rows} | {alone:,} | {queued:,.0f} | {100 * results / queued:.0f} % |\n"

def run( level: str, world: World ) -> Run:
  return simulate( CFG, level, world, max_cycles=1_000_000 )

def measure( level: str, name: str, v: Vec ) -> str:
  """A command alone, and the same one in a queue: it does the same to the same rows again."""
  world  = World( CFG, [ v ] )
  once   = run( level, world )
  world.messages *= QUEUED
  world.effects  *= QUEUED
  found  = run( level, world )
  queued = ( found.dones[-1] - found.dones[0] ) / ( QUEUED - 1 )
  return line( name, v.rows, once.dones[0] - once.commands[0], queued, len( world.effects[0].writes ) )

def search( level: str ) -> str:
  """One search over all parts."""
  parts = [ Vec( "ARGMAX", length=min( PART, VOCAB - base ), mode=int( base == 0 ), param=base )
            for base in range( 0, VOCAB, PART ) ]
  once  = run( level, World( CFG, parts[:1] ) )
  found = run( level, World( CFG, parts ) )
  # The last part is shorter.
  queued = ( found.dones[-2] - found.dones[0] ) / ( len( parts ) - 2 )
  return line( f"ARGMAX {PART:,}", 1, once.dones[0] - once.commands[0], queued, ceil_div( PART, CFG.n ) )

def section( level: str ) -> str:
  """The section of docs/cycles.md, measured at that level."""
  rows = [ measure( level, name, replace( v, rows=m ) ) for name, v in COMMANDS.items() for m in ( 1, 16 ) ]
  return INTRODUCTION + "".join( rows ) + search( level )
