"""Loads tiles of keys and of values into the shadow registers, in the order in which they are multiplied."""

class Tile:
  """A stationary tile."""

  def __init__( self, is_v, number, chunk, first, completes, ends ):
    self.is_v      = is_v
    self.number    = number        # of the chunk, since reset
    self.chunk     = chunk
    self.first     = first         # tile of its phase
    self.completes = completes     # its sums are a row's last ones: of keys of the whole chunk, of values
    self.ends      = ends          # the last tile of its phase
    self.rows      = chunk.rows

class TileLoader:
  """Loads tiles into the shadow registers, phase by phase."""

  def __init__( self ):
    self.values = False      # phase
    self.ahead  = 0          # chunks whose keys are done and whose values are not
    self.closed = False      # the last keys were the last ones of the command
    self.tile   = 0          # of the phase
    self.pair   = 0          # of the tile
    self.held   = None       # the tile that the shadow registers hold
    self.numbers = [ 0, 0 ]  # next chunk of keys, of values

  def phase_done( self, chunk ):
    """The phase is loaded: which one is next?"""
    self.numbers[self.values] += 1
    if self.values:
      self.ahead -= 1
    else:
      self.ahead += 1
      self.closed = chunk.closes
    self.values = self.ahead == 2 or ( self.ahead == 1 and self.closed )
