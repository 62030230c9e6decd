"""Buffers two chunks of keys, values and exponents between the stream and the multipliers."""

from collections import deque

KEPT = 2    # chunks in the buffer

class ChunkBuffer:
  """Chunks between the stream and the loader: how much of the next one is here, and which are complete."""

  def __init__( self, cfg ):
    self.line  = cfg.derived.beats_per_line
    self.size  = 4 * cfg.n
    self.part  = 0                   # of the next beat: exponents, keys, values
    self.count = [ 0, 0, 0 ]         # complete parts that are not given back
    self.beats = []                  # of this chunk
    self.ends  = self.line           # beats of the chunk at which the part is complete
    self.data  = deque()             # bytes of complete chunks, for the arithmetic

  def takes( self ):
    """Whether there is room for the next beat."""
    return self.count[self.part] < KEPT

  def take( self, beat, half ):
    """A beat; `half` is the number of beats of the keys. Returns the part that is complete with it, or None."""
    self.beats.append( beat )
    if len( self.beats ) < self.ends:
      return None
    part = self.part
    if part == 2:
      self.data.append( b"".join( b.to_bytes( self.size, "little" ) for b in self.beats ) )
      self.beats, self.part, self.ends = [], 0, self.line
    else:
      self.part += 1
      self.ends += half
    return part
