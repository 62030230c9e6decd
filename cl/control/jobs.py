"""Jobs of LOAD and STORE: what each copies, and the queue of a unit."""

from collections import deque

from npu.arch.config import ceil_div

JOBS = 2    # that wait for LOAD, and for STORE

class Job:
  """A checked LOAD, EMBED or STORE; `numbers` are the rows of the table at `dram`."""

  def __init__( self, cfg, i, numbers ):
    stores      = i.mnemonic == "STORE"
    length      = int( i.length )
    self.lines  = [ int( i.dram ) + int( k ) * int( i.row_lines ) for k in numbers ]
    self.spad   = int( i.src if stores else i.dst )
    self.stride = int( i.src_stride if stores else i.dst_stride )
    self.width  = ceil_div( length, cfg.n )
    self.tail   = ( length - 1 ) % cfg.n + 1      # words in the last beat of a row

  def rows( self ):
    """Scratchpad rows, in order."""
    return [ self.spad + r * self.stride + c for r in range( len( self.lines ) ) for c in range( self.width ) ]

class Jobs:
  """A queue of jobs, one of which is done."""

  def __init__( self ):
    self.queue = deque()
    self.state = "idle"
    self.now   = None

  def busy( self ):
    """A job waits or is being done."""
    return self.state != "idle" or len( self.queue ) > 0

  def begin( self, pushed ):
    """Queue and state; True in the cycle in which a job is set up."""
    sets_up = self.state == "setup"
    if sets_up:
      self.state = "run"
    elif self.state == "idle" and self.queue:
      self.now, self.state = self.queue.popleft(), "setup"
    if pushed is not None:
      self.queue.append( pushed )
    return sets_up
