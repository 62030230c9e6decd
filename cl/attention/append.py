"""Appends a pass's keys and values to the cache: which beat each scratchpad row becomes a half of."""

from npu.arch.config import CHUNK
from npu.arch.footprint import kv_layout

def append_steps( cfg, i, rows, position ):
  """What the appender does, a step each: (scratchpad row within the head or None for the exponent, beat, strobe).

  No beat: the half is kept for the next step.
  """
  d, layout = cfg.derived, kv_layout( i )
  width, half = int( i.length ) // cfg.n, d.beat_bytes // 2
  low, high = ( 1 << half ) - 1, ( ( 1 << half ) - 1 ) << half
  for r in range( rows ):
    chunk, slot = divmod( position + r, CHUNK )
    for which in range( 2 ):
      for head in range( layout.kv_heads ):
        first = ( int( i.dram ) + ( head * layout.chunks + chunk ) * layout.chunk_lines ) * d.beats_per_line
        place = which * CHUNK + slot
        for t in range( width ):
          beat, upper = divmod( place * width + t, 2 )
          beat += first + d.beats_per_line
          if upper:
            yield t, beat, ( low | high ) if t else high
          else:
            yield t, beat if t == width - 1 else None, low
        beat, byte = divmod( place, d.beat_bytes )
        yield None, first + beat, 1 << byte
