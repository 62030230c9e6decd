"""Reads instructions ahead of their use."""

from collections import deque

from npu.arch.isa import INSTRUCTION_BYTES
from npu.arch.messages import mk_mem_read_req

DEPTH = 8    # instructions asked for or waiting

class InstructionFetch:
  """Instructions ahead of their use; a slot is a place for one, half a line."""

  def __init__( self, cfg ):
    self.n       = cfg.n
    self.request = mk_mem_read_req( cfg )
    self.size    = cfg.derived.beat_bytes
    self.beats   = max( 8 // cfg.n, 1 )
    self.asking  = None          # the request that is offered
    self.slot    = 0             # the next to ask for
    self.limit   = 0
    self.ahead   = 0             # instructions asked for and not taken or dropped
    self.stale   = 0             # of them, to be dropped
    self.parts   = b""           # of an instruction, so far
    self.odd     = deque()       # which half of each beat that is asked for
    self.queue   = deque()

  def quiet( self ):
    """No request is offered or unanswered."""
    return self.asking is None and self.ahead == len( self.queue )

  def still( self, hold ):
    """Nothing moves unless an instruction is taken."""
    return self.quiet() and not self.stale and ( hold or self.ahead == DEPTH or self.slot >= self.limit )

  def has( self ):
    """Whether an instruction can be taken."""
    return not self.stale and len( self.queue ) > 0

  def tick( self, first, hold, wanted, rdy, beat ):
    """One cycle: where to go on, or None; no new requests; take an instruction; request taken; response."""
    taken = self.asking is not None and rdy
    asks  = ( first is None and not hold and ( taken or self.asking is None ) and self.ahead != DEPTH
              and self.slot < self.limit )
    if self.queue and ( self.stale or wanted ):
      self.queue.popleft()
      self.ahead -= 1
      if self.stale:
        self.stale -= 1
    if beat is not None:
      self.arrive( beat.to_bytes( self.size, "little" ) )
    if asks:
      self.asking = self.request( self.slot * 8 // self.n, self.beats )
      self.odd.append( self.slot & 1 )
      self.slot  += 1
      self.ahead += 1
    elif taken:
      self.asking = None
    if first is not None:
      self.slot, self.stale = first, self.ahead

  def arrive( self, octets ):
    """Two beats are an instruction, or one is, or half of one."""
    if self.n == 16:
      octets = octets[INSTRUCTION_BYTES * self.odd.popleft() :][:INSTRUCTION_BYTES]
    self.parts += octets
    if len( self.parts ) == INSTRUCTION_BYTES:
      self.queue.append( self.parts )
      self.parts = b""
