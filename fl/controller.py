"""Controller, functional level: registers, conditions, and what each control instruction does."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from npu.config import LINE_BYTES
from npu.isa import Cond, Error, Instruction, Rel, Status, Unit
from npu.mailbox import MAX_EOS, Flag, Mailbox, Word

END_STATUSES = ( Status.EOS, Status.LIMIT, Status.CONTEXT, Status.SCORED )   # what HALT may say

class Fault( Exception ):
  """An instruction that cannot be done; `error` is the code that the mailbox gets."""

  def __init__( self, error: Error ) -> None:
    super().__init__( error.name )
    self.error = error

@dataclass
class Registers:
  """The controller's state during a run: what it took from the mailbox at the doorbell, and what moves."""
  flags: int = 0         # options of the run, see npu.mailbox.Flag
  limit: int = 0         # tokens to produce
  eos: tuple[int, ...] = ()
  program: int = 0       # line of the first instruction
  program_count: int = 0
  tokens: int = 0        # line of the token buffer
  context: int = 0       # positions of the KV cache; the token buffer has one more
  pos: int = 0        # positions processed: the first row of the next pass
  len: int = 0        # tokens known
  rows: int = 0       # rows of this pass
  token: int = 0      # the last token that ARGMAX found
  count: int = 0      # tokens produced in this run
  pc: int = 0         # the next instruction
  last_jump: int = -1 # POS at the last backward jump

def boot( mailbox: Mailbox, dram_bytes: int ) -> Registers:
  """Registers at the doorbell; Fault if the mailbox contradicts itself or the memory's size.

  Everything is taken over here, so that a program that writes over the mailbox does no harm to its own run.
  """
  r = Registers( flags=mailbox[Word.FLAGS], limit=mailbox[Word.LIMIT], eos=tuple( mailbox.eos_tokens ),
                 program=mailbox[Word.PROGRAM], program_count=mailbox[Word.PROGRAM_COUNT],
                 tokens=mailbox[Word.TOKENS], context=mailbox[Word.CONTEXT], pos=mailbox[Word.POS],
                 len=mailbox[Word.LEN] )
  if mailbox[Word.EOS_COUNT] > MAX_EOS or r.limit == 0 or not r.pos <= r.len <= r.context:
    raise Fault( Error.BAD_MAILBOX )
  if r.tokens * LINE_BYTES + 4 * ( r.context + 1 ) > dram_bytes:
    raise Fault( Error.BAD_MAILBOX )
  return r

def holds( cond: int, r: Registers ) -> bool:
  """Whether an instruction's condition holds."""
  score = bool( r.flags & Flag.SCORE )
  return { Cond.ALWAYS:   True,
           Cond.PREFILL:  not score and r.pos < r.len,
           Cond.GENERATE: not score,
           Cond.SCORE:    score,
           Cond.LOGITS:   score or bool( r.flags & Flag.LOGITS ) }[Cond( cond )]

def offset( rel: int, r: Registers ) -> int:
  """Value of the register that an address is relative to."""
  return { Rel.NONE: 0, Rel.POS: r.pos, Rel.LAST: max( r.rows - 1, 0 ), Rel.TOKEN: r.token,
           Rel.LEN: r.len }[Rel( rel )]

def control( i: Instruction, r: Registers, tokens: NDArray[np.uint32] ) -> Status:
  """Execute a control instruction; RUNNING means that the run goes on at r.pc.

  `tokens` is the token buffer, uint32 [context + 1].

  Raises
  ------
  Fault
    A pass with nothing to do, or a loop that makes no progress.
  """
  here = r.pc
  r.pc = here + 1
  if i.mnemonic == "PASS":
    r.rows = min( int( i.limit ), r.len - r.pos )
    if r.rows <= 0:
      raise Fault( Error.BAD_POSITION )
  elif i.mnemonic == "ADVANCE":
    if r.pos + r.rows > r.len:
      raise Fault( Error.BAD_POSITION )
    r.pos += r.rows
  elif i.mnemonic == "SETROWS":
    r.rows = int( i.rows )
  elif i.mnemonic == "JUMP":
    if i.target <= here:
      if r.pos == r.last_jump:
        raise Fault( Error.NO_PROGRESS )
      r.last_jump = r.pos
    r.pc = int( i.target )
  elif i.mnemonic == "EMIT":
    return emit( r, tokens )
  elif i.mnemonic == "HALT":
    if i.status not in END_STATUSES:
      raise Fault( Error.BAD_FIELD )
    return Status( int( i.status ) )
  return Status.RUNNING

def emit( r: Registers, tokens: NDArray[np.uint32] ) -> Status:
  """Append TOKEN to the token buffer, and see whether the run ends with it."""
  if r.len > r.context:
    raise Fault( Error.BAD_POSITION )
  tokens[r.len] = np.uint32( r.token )
  r.len   += 1
  r.count += 1
  if r.token in r.eos:
    return Status.EOS
  if r.count == r.limit:
    return Status.LIMIT
  return Status.CONTEXT if r.len > r.context else Status.RUNNING

def check_dma( i: Instruction, rows: int, r: Registers ) -> Error:
  """Whether the load/store unit accepts a LOAD, STORE or EMBED; the first thing wrong with it otherwise."""
  if rows == 0 or i.length == 0 or ( i.mnemonic == "EMBED" and i.vocab == 0 ):
    return Error.ZERO_SIZE
  if i.mnemonic == "EMBED" and r.pos + rows > r.len:
    return Error.BAD_POSITION
  return Error.NONE

def check_rel( i: Instruction ) -> Error:
  """`rel` moves `dram` of LOAD and STORE, and `src` of vector instructions that have a src_stride."""
  names = { f.name for f in i.format.fields }
  moves = i.mnemonic in ( "LOAD", "STORE" ) or ( i.format.unit == Unit.VEC and "src_stride" in names )
  return Error.BAD_FIELD if i.rel and not moves else Error.NONE
