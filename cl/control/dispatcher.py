"""Hands commands to the engines, takes their answers, and counts what is not finished."""

from collections import deque

from cl.common.ports import HIGH, Sender
from npu.arch.isa import Unit

ENGINES = ( Unit.MAC, Unit.VEC, Unit.ATT )
MOST    = 8    # commands that an engine may have unfinished

class Dispatcher:
  """One command at a time; `cmds`, `acks` and `dones` are the ports of the ENGINES, in their order."""

  def __init__( self, cmds, acks, dones, start ):
    self.outs       = { unit: Sender( cmd ) for unit, cmd in zip( ENGINES, cmds, strict=True ) }
    self.acks       = dict( zip( ENGINES, acks, strict=True ) )
    self.dones      = tuple( zip( ENGINES, dones, strict=True ) )
    self.start_out  = Sender( start )
    self.unfinished = dict.fromkeys( ENGINES, 0 )
    self.kinds      = deque()    # of the vector unit's commands: is it an ARGMAX
    self.mac_out, self.vec_out, self.att_out = self.outs.values()

  def busy( self ):
    """Engines that have something unfinished."""
    u = self.unfinished
    return ( u[Unit.MAC] and Unit.MAC ) | ( u[Unit.VEC] and Unit.VEC ) | ( u[Unit.ATT] and Unit.ATT )

  def offer( self, unit, command ):
    """Offer the command in the next cycle, if the engine may have one more."""
    room = self.unfinished[unit] != MOST and ( unit != Unit.VEC or len( self.kinds ) < MOST )
    self.outs[unit].offer( command if room else None )

  def offer_start( self, on ):
    """Whether the start of a GEMM is offered in the next cycle."""
    self.start_out.offer( HIGH if on else None )

  def sent( self, unit, is_argmax ):
    """Whether the engine takes the command in this cycle; its answer is taken from the next one on."""
    out = self.outs[unit]
    if not out.taken():
      return False
    out.offer( None )
    self.acks[unit].rdy <<= 1
    if unit == Unit.VEC:
      self.kinds.append( is_argmax )
    return True

  def answer( self, unit ):
    """The engine's answer, if it comes in this cycle, or None. An accepted command is unfinished."""
    ack = self.acks[unit]
    if not ack.val:
      return None
    ack.rdy <<= 0
    error = int( ack.msg )
    if not error:
      self.unfinished[unit] += 1
    return error

  def tick( self ):
    """Count the commands that are finished in this cycle; the result of an ARGMAX, or None."""
    token = None
    for unit, done in self.dones:
      if done.val:
        self.unfinished[unit] -= 1
        if unit == Unit.VEC and self.kinds and self.kinds.popleft():
          token = int( done.msg )
    return token
