"""Takes a weight stream apart; see npu/arch/weight_stream.py for its order."""

from collections import deque

from npu.arch.config import ceil_div
from npu.arch.weight_stream import FLOATING_MODES, GROUP_MODES, WEIGHT_BITS, StreamLayout

HEADERS = 4    # biases, and scales, that wait for their tile

class WeightLoader:
  """Takes the stream apart: biases and scales into queues, weights into the shadow registers."""

  def __init__( self ):
    self.layout = None      # of the stream that is loaded
    self.setup  = False     # a command has just come
    self.parts  = None      # what the stream still brings
    self.part   = None      # what the next beat is
    self.full   = False     # the shadow registers hold a tile
    self.scales = 0         # waiting
    self.biases = 0
    self.beats  = []        # of this output tile, so far
    self.tiles  = deque()   # words of complete output tiles, for the arithmetic

  def takes( self, has_beat, swap ):
    """Whether the next part of the stream is taken in this cycle."""
    if not has_beat or self.part is None:
      return False
    return { "bias": self.biases < HEADERS, "scale": self.scales < HEADERS }.get(
      self.part, not self.full or swap )

def stream_parts( layout: StreamLayout ):
  """The parts of a stream, one per cycle: bias, scale, half, weights, tile (weights that complete a tile).

  `half` leaves the beat in the buffer: at n = 4 a beat of INT4 holds two tiles. The last part of an
  output tile comes with True.
  """
  n = layout.n
  rows_per_beat  = 32 // WEIGHT_BITS[layout.mode]
  steps  = max( n // rows_per_beat, 1 )
  halves = rows_per_beat > n
  k_tiles = ceil_div( layout.k, n )
  per_group = layout.group // n
  for _ in range( layout.tiles ):
    if layout.has_bias:
      yield "bias", False
    if layout.mode not in GROUP_MODES and layout.mode not in FLOATING_MODES:
      yield "scale", False
    for kt in range( k_tiles ):
      if layout.group and kt % per_group == 0:
        yield "scale", False
      for step in range( steps ):
        if step < steps - 1:
          yield "weights", False
        else:
          yield ( "half" if halves and kt % 2 == 0 else "tile" ), kt == k_tiles - 1
