"""What the models of DRAM and scratchpad have in common: the errors that they raise, and their random stalls."""

import random

from npu.errors import NpuError

class AccessError( NpuError ):
  """A unit asked the memory system for something impossible, or wrote a number that cannot be: a bug of the unit."""

class Stalls:
  """Random stalls, a quarter of the cycles for each of `ports` ports: they depend on the seed and the cycle only."""

  def __init__( self, seed, ports ):
    self.seed, self.ports = seed, ports
    self.reset()

  def reset( self ):
    self.random = random.Random( self.seed )

  def next( self ):
    """The ports that stall in the next cycle, as bits."""
    if self.seed is None:
      return 0
    return self.random.getrandbits( self.ports ) & self.random.getrandbits( self.ports )
