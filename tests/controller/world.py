"""Cases for the controller: a program, mailbox, tokens and memory, how the surroundings behave; and what must become of
them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from npu.arch.config import LINE_BYTES, NpuConfig
from npu.arch.isa import Instruction, encode
from npu.arch.mailbox import Word
from tests.controller.reference import Expected, Reference, expect

ALL_UNITS = 31

#-------------------------------------------------------------------------
# Cases
#-------------------------------------------------------------------------

LINES    = 1024      # of DRAM
TOKENS   = 2         # the token buffer, in lines 2 and 3
CONTEXT  = 31
PROGRAM  = 8
WRITABLE = 512       # data that a program may read from line 64 on, and write from here on
PROMPT   = ( 5, 6, 7 )

@dataclass( frozen=True )
class Timing:
  """How the surroundings behave, in cycles."""
  latency: int = 5
  gap: int = 1                     # from one beat of a memory port to the next
  stall_seed: int | None = None    # random stalls of every port
  ack: int = 0                     # an engine checks a command for so long ...
  work: int = 10                   # ... and works on it for so long
  seed: int | None = None          # with one, `ack` and `work` are the most

CALM = Timing()
WILD = Timing( latency=17, gap=2, stall_seed=5, ack=4, work=40, seed=7 )

Code = Sequence[Instruction | bytes]

@dataclass( frozen=True )
class Case:
  """A program and what surrounds it.

  `words` are mailbox words by name, other than the usual ones; `found` is what ARGMAX finds, one after the other and
  again from the first. Each of `runs` is a doorbell: mailbox words by name, and tokens by place, that the host writes
  before it. With `early`, the host writes nothing and rings all at once.
  """
  code: Code
  words: Mapping[str, int] = field( default_factory=dict )
  found: Sequence[int] = ( 4, 6, 1, 7, 2 )
  prompt: Sequence[int] = PROMPT
  runs: Sequence[Mapping[str | int, int]] = ( {}, )
  early: bool = False
  ordered: bool = True             # whether the wait masks order all that depends on each other

def in_bytes( i: Instruction | bytes ) -> bytes:
  """The 32 bytes of an instruction."""
  return i if isinstance( i, bytes ) else encode( i )

def waiting( code: Sequence[Instruction], wait: int = ALL_UNITS ) -> list[Instruction]:
  """A program in which every instruction waits for these units."""
  return [ i.but( wait=wait ) for i in code ]

#-------------------------------------------------------------------------
# The world
#-------------------------------------------------------------------------

class World:
  """Memory and scratchpad for a case, and what must become of them in each run."""

  def __init__( self, cfg: NpuConfig, case: Case, seed: int = 0 ) -> None:
    rng = np.random.default_rng( seed )
    self.cfg, self.case = cfg, case
    dram  = rng.integers( 0, 256, LINES * LINE_BYTES, dtype=np.uint8 )
    words = dram.view( np.uint32 )
    spad  = rng.integers( 0, 1 << 32, ( cfg.derived.spad_rows, cfg.n ), dtype=np.uint32 )
    usual = { "DOORBELL": 0, "FLAGS": 0, "POS": 0, "LEN": len( case.prompt ), "LIMIT": 1, "EOS_COUNT": 0, "STATUS": 0,
              "PROGRAM": PROGRAM, "PROGRAM_COUNT": len( case.code ), "TOKENS": TOKENS, "CONTEXT": CONTEXT,
              "DRAM_LINES": LINES, "WRITABLE": WRITABLE }
    place = { **usual, **case.words }
    code  = np.frombuffer( b"".join( map( in_bytes, case.code ) ), dtype=np.uint8 )
    start = place["PROGRAM"] * LINE_BYTES
    if start < len( dram ):
      dram[start : start + len( code )] = code[: len( dram ) - start]
    for name, value in place.items():
      words[word_number( name )] = value
    start = 16 * place["TOKENS"]
    if start < len( words ):
      words[start : start + len( case.prompt )] = case.prompt[: len( words ) - start]
    self.memory, self.spad = dram.tobytes(), spad.tobytes()
    ref = Reference( cfg, dram, spad, case.found )
    self.expected: list[Expected] = []
    for k in range( len( case.runs ) ):
      for address, value in self.host_writes( k ).items():
        words[address] = value
      self.expected.append( expect( cfg, ref ) )

  def host_writes( self, k: int ) -> dict[int, int]:
    """What the host writes before run k, by word address."""
    if self.case.early:
      return {}
    tokens = 16 * self.case.words.get( "TOKENS", TOKENS )
    return { tokens + name if isinstance( name, int ) else word_number( name ): value
             for name, value in { "DOORBELL": 1, **self.case.runs[k] }.items() }

def word_number( name: str ) -> int:
  """Where a word of the mailbox is; EOS1 to EOS3 follow EOS."""
  return Word.EOS + int( name[3:] ) if name[:3] == "EOS" and name[3:].isdecimal() else Word[name]
