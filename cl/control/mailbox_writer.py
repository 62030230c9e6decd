"""Writes what the host is told: mailbox words, and new tokens."""

from collections import deque

from cl.common.ports import Sender
from npu.arch.config import LINE_BYTES
from npu.arch.mailbox import Word
from npu.arch.messages import mk_mem_write

# What is written at the beginning, after a token and at the end of a run; blocks go from high to low.
AT_START = ( Word.STATUS, Word.ERROR, Word.COUNT )
AT_TOKEN = ( Word.LEN, Word.COUNT )
AT_END   = ( Word.DOORBELL, Word.POS, Word.LEN, Word.STATUS, Word.ERROR, Word.PC, Word.COUNT )
WRITTEN  = 16    # words that a report may contain, from the first on

class MailboxWriter:
  """One report at a time, a block of one beat after the other; a block without a word to write takes a cycle too."""

  def __init__( self, cfg, post ):
    self.n     = cfg.n
    self.write = mk_mem_write( cfg )
    self.post  = post
    self.out   = Sender( post )
    self.queue = deque()         # writes of the report; None: a block without a word to write
    self.goes  = False           # the oldest is done with in this cycle,
    self.ends  = False           # and it is the last

  def start( self, words, r, status, error, pc, token=None ):
    """Write words of the mailbox from registers and these values, and before them a token."""
    n     = self.n
    value = { Word.POS: r.pos, Word.LEN: r.len, Word.STATUS: status, Word.ERROR: error, Word.PC: pc,
              Word.COUNT: r.count, Word.DOORBELL: 0 }
    if token is not None:
      beat, lane = divmod( LINE_BYTES // 4 * r.tokens + r.len - 1, n )
      self.queue.append( self.write( beat, token << 32 * lane, 15 << 4 * lane ) )
    for block in reversed( range( WRITTEN // n ) ):
      inside = [ w for w in words if w // n == block ]
      data   = sum( int( value[w] ) << 32 * ( w % n ) for w in inside )
      strobe = sum( 15 << 4 * ( w % n ) for w in inside )
      self.queue.append( self.write( block, data, strobe ) if inside else None )

  def decide( self ):
    """What happens in this cycle, from the state at its beginning."""
    self.goes = len( self.queue ) > 0 and ( self.queue[0] is None or bool( self.post.rdy ) )
    self.ends = self.goes and len( self.queue ) == 1

  def tick( self ):
    """End of the cycle."""
    if self.goes:
      self.queue.popleft()

  def offer( self ):
    """What is offered in the next cycle."""
    self.out.offer( self.queue[0] if self.queue else None )
