"""The mailbox: how host and NPU talk. It is the first thing in DRAM, 32 little-endian words.

The host writes prompt tokens into the token buffer, sets LEN, LIMIT, FLAGS and the EOS tokens, and writes 1
to DOORBELL. The NPU sets STATUS to RUNNING, processes positions POS to LEN - 1, appends tokens to the
buffer (LEN and COUNT tell how far it is), and at the end writes STATUS, ERROR and PC, and clears DOORBELL.
POS stays where it was, so a later doorbell goes on from there with the KV cache as it is.
"""

from enum import IntEnum, IntFlag

import numpy as np
from numpy.typing import NDArray

from npu.arch.config import LINE_BYTES

MAILBOX_WORDS = 32
MAX_EOS       = 4

class Word( IntEnum ):
  """Word offsets in the mailbox. `rw` both sides write, `h` the host, `n` the NPU, `c` the compiler."""
  DOORBELL      = 0    # rw: 1 starts a run, 0 when it has ended
  FLAGS         = 1    # h: see Flag
  POS           = 2    # rw: positions processed so far
  LEN           = 3    # rw: tokens in the buffer
  LIMIT         = 4    # h: tokens to produce in this run, at least 1
  EOS_COUNT     = 5    # h: how many of the next four words count
  EOS           = 6    # h: end-of-sequence tokens, words 6 to 9
  STATUS        = 10   # n: see npu.arch.isa.Status
  ERROR         = 11   # n: see npu.arch.isa.Error
  PC            = 12   # n: the instruction that ended the run
  COUNT         = 13   # n: tokens produced in this run
  PROGRAM       = 14   # c: line of the first instruction
  PROGRAM_COUNT = 15   # c: instructions
  TOKENS        = 16   # c: line of the token buffer, context + 1 words
  CONTEXT       = 17   # c: positions that the KV cache holds
  DRAM_LINES    = 18   # c: size of the memory
  WRITABLE      = 19   # c: first line that a program may write; below are its code, tables and weights

class Flag( IntFlag ):
  """Options of a run."""
  LOGITS = 1   # store the logits of the last position of each pass that has them
  SCORE  = 2   # store the logits of every position, and stop after each pass

class Mailbox:
  """Named access to the mailbox words and the token buffer in a DRAM array of bytes."""

  def __init__( self, dram: NDArray[np.uint8] ) -> None:
    self._dram  = dram
    self._words = dram[: 4 * MAILBOX_WORDS].view( np.uint32 )

  def __getitem__( self, word: int ) -> int:
    return int( self._words[word] )

  def __setitem__( self, word: int, value: int ) -> None:
    self._words[word] = value

  @property
  def tokens( self ) -> NDArray[np.uint32]:
    """The token buffer, context + 1 words, writable."""
    start = self[Word.TOKENS] * LINE_BYTES
    return self._dram[start : start + 4 * ( self[Word.CONTEXT] + 1 )].view( np.uint32 )

  @property
  def eos_tokens( self ) -> list[int]:
    """The end-of-sequence tokens of this run."""
    return [ self[Word.EOS + i] for i in range( min( self[Word.EOS_COUNT], MAX_EOS ) ) ]
