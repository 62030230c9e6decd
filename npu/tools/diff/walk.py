"""A run as a walk through the program, one instruction after the other."""

from dataclasses import dataclass, replace

from fl.controller import ENGINES, Fault, Registers, boot, command_of, holds, offset
from fl.npu import NpuFL, Result
from npu.arch.config import LINE_BYTES
from npu.arch.footprint import Access, footprint
from npu.arch.isa import INSTRUCTION_BYTES, Error, Instruction, Status, Unit
from npu.arch.mailbox import Word
from npu.tools.diff.follower import Follower

@dataclass( frozen=True )
class Effect:
  """An executed instruction: where it stands, what it may have written, and what is compared besides."""
  pc: int
  instruction: Instruction
  pos: int
  rows: int
  accesses: tuple[Access, ...] = ()
  command: dict[str, int] | None = None      # of an engine's instruction
  token: int | None = None                   # of ARGMAX
  missing: str = ""

class Walk:
  """A run of a functional NPU or of a Follower, one instruction after the other.

  Attributes
  ----------
  result
    How the run ended; None before.
  """

  def __init__( self, core: NpuFL ) -> None:
    self.core   = core
    self.result: Result | None = None
    self._emit: Effect | None = None
    # What the mailbox says stays there if the run does not even begin.
    core.r = Registers( pos=core.mailbox[Word.POS], len=core.mailbox[Word.LEN] )
    try:
      core.r = boot( core.mailbox )
    except Fault as fault:
      self.result = Result( Status.ERROR, fault.error, 0, 0 )

  def step( self ) -> Effect | None:
    """The next instruction that has a result, or None at the end.

    Raises
    ------
    Incomplete
      The machine that is followed is not so far; call again later.
    """
    core = self.core
    while self._emit is None and self.result is None:
      try:
        effect = self._execute()
      except Fault as fault:
        self.result = Result( Status.ERROR, fault.error, core.r.pc, core.r.count )
        return None
      if effect and effect.instruction.mnemonic == "EMIT" and isinstance( core, Follower ):
        self._emit = effect
      elif effect:
        return self._with_writes( effect )
    if self._emit:
      assert isinstance( core, Follower )
      core.emitted()
      emitted, self._emit = self._emit, None
      return self._with_writes( emitted )
    return None

  def write_mailbox( self ) -> None:
    """What the NPU tells its host at the end of the run."""
    box, r = self.core.mailbox, self.core.r
    if self.result:
      box[Word.POS], box[Word.LEN], box[Word.COUNT], box[Word.PC] = r.pos, r.len, self.result.count, self.result.pc
      box[Word.ERROR], box[Word.STATUS], box[Word.DOORBELL] = self.result.error, self.result.status, 0

  def _with_writes( self, effect: Effect ) -> Effect:
    # A Follower's writes, wherever they went.
    core = self.core
    if not isinstance( core, Follower ):
      return effect
    more, core.touched = tuple( core.touched ), []
    missing, core.missing = core.missing, ""
    return replace( effect, accesses=effect.accesses + more, missing=missing )

  def _execute( self ) -> Effect | None:
    # One instruction; None if it has no result.
    core, r = self.core, self.core.r
    pc, i   = r.pc, core.fetch()
    happens = holds( int( i.cond ), r )
    rows    = int( i.rows ) or r.rows
    unit    = i.format.unit
    engine  = happens and unit in ENGINES
    command = None
    if engine and not isinstance( core, Follower ):
      start   = r.program * LINE_BYTES + pc * INSTRUCTION_BYTES
      message = command_of( core.cfg, core.dram[start : start + INSTRUCTION_BYTES].tobytes(), r )
      command = { name: int( getattr( message, name ) ) for name in message.__bitstruct_fields__ }
    accesses = ( tuple( a for a in footprint( core.cfg, i, rows, offset( int( i.rel ), r ) ) if a.write )
                 if happens and rows else () )
    place    = r.tokens + 4 * r.len // LINE_BYTES
    status   = core.step()
    if status != Status.RUNNING:
      self.result = Result( status, Error.NONE, pc, r.count )
    if not happens or ( unit == Unit.CTRL and i.mnemonic != "EMIT" ):
      return None
    if i.mnemonic == "EMIT":
      return Effect( pc, i, r.pos, rows, ( Access( "dram", place, place + 1, True ), ) )
    if isinstance( core, Follower ) and engine:
      command = core.command
    return Effect( pc, i, r.pos, rows, accesses, command, r.token if i.mnemonic == "ARGMAX" else None )
