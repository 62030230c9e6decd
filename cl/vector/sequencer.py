"""Which scratchpad rows a command of the vector unit reads and writes, in order, and the values of its results."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fl.vector_unit import execute, operands
from npu.arch.config import NpuConfig
from npu.arch.footprint import segment_rows
from npu.arch.isa import Instruction, mk

U32 = NDArray[np.uint32]

PHASES = { "RMSNORM": 2, "SOFTMAX": 3 }    # passes over a segment; others have one
SCANS  = ( "QUANTIZE", "RMSNORM" )
BINARY = ( "SWIGLU", "ADD", "MUL" )
ONE    = 0x3F800000

class Tag( NamedTuple ):
  """What is known of a row when it is asked for."""
  job: "Job"
  scan: bool      # only for its exponents
  phase: int
  second: bool    # of a ROPE pair
  first: bool     # of its segment
  last: bool
  ends: bool      # the command's last
  keep: int       # lanes that are used

class Ask( NamedTuple ):
  """A row to read, and where its result goes, if it has one."""
  addr: int
  tag: Tag
  write: int | None

class Job:
  """An accepted command: the rows that it reads and writes, in order, and their values."""

  def __init__( self, cfg: NpuConfig, i: Instruction ) -> None:
    self.cfg, self.i, self.op = cfg, i, i.mnemonic
    rope = self.op == "ROPE"
    unit = int( i.length ) // 2 if rope else int( i.length )
    self.width    = segment_rows( cfg, i )
    self.height   = self.width // 2 if rope else self.width
    self.rest     = unit - ( self.height - 1 ) * cfg.n
    self.segments = 1 if self.op == "ARGMAX" else int( i.segments )
    self.phases   = PHASES.get( self.op, 1 )
    # Rows of n elements, and segments, are commands of their own. RMSNORM and SWIGLU end in a product.
    halves        = 2 if rope else 1
    one           = {} if self.op == "ARGMAX" else { "segments": 1 }
    self.segment  = i.but( **one )
    row           = mk( "MUL", segments=1 ) if self.op in ( "RMSNORM", "SWIGLU" ) else self.segment
    self.whole    = row.but( length=halves * cfg.n )
    self.tail     = row.but( length=halves * self.rest )

  def src( self ) -> Iterator[Ask]:
    """Rows of the first operand."""
    i, height = self.i, self.height
    where     = operands( self.cfg, i, int( i.rows ) )[0]
    result    = self.op != "ARGMAX"
    pair      = ( 0, 1 ) if self.op == "ROPE" else ( 0, )
    for r in range( where.rows ):
      for g in range( self.segments ):
        start = where.base + r * where.stride + g * self.width
        to    = int( i.dst ) + r * int( i.dst_stride ) + g * self.width if result else 0
        over  = r == where.rows - 1 and g == self.segments - 1
        for phase in range( self.phases ):
          writes = result and phase == self.phases - 1
          for k in range( height ):
            last = k == height - 1
            for second in pair:
              ends = over and last and phase == self.phases - 1 and second == pair[-1]
              tag  = Tag( self, False, phase, bool( second ), k == 0, last, ends, self.rest if last else self.cfg.n )
              at   = k + second * height
              yield Ask( start + at, tag, to + at if writes else None )

  def src2( self ) -> Iterator[Ask]:
    """Rows at the second port: scans of the first operand, rows of the second."""
    found = operands( self.cfg, self.i, int( self.i.rows ) )
    scans: list[Iterator[Ask]] = []
    uses: list[Iterator[Ask]]  = []
    for r in range( found[0].rows ):
      for g in range( self.segments ):
        if self.op in SCANS:
          scans.append( self.run( found[0].base + r * found[0].stride + g * self.width, True ) )
        if len( found ) > 1:
          start = found[1].base + r * found[1].stride
          uses.append( self.run( start + g * self.width if self.op in BINARY else start, False ) )
    # RMSNORM scans one segment more than the one that needs gains next.
    for k, use in enumerate( uses ):
      for scan in scans[( k + 1 if k else 0 ) : k + 2]:
        yield from scan
      yield from use
    if not uses:
      for scan in scans:
        yield from scan

  def run( self, start: int, scan: bool ) -> Iterator[Ask]:
    """The rows of a segment from `start` on."""
    for k in range( self.height ):
      last = k == self.height - 1
      tag  = Tag( self, scan, 0, False, k == 0, last, False, self.rest if last else self.cfg.n )
      yield Ask( start + k, tag, None )

  def rows( self, tag: Tag, *operands: list[U32] ) -> U32:
    """Rows of results from rows of each operand that are all like the one of that tag."""
    made, _ = execute( self.cfg, self.whole if tag.keep == self.cfg.n else self.tail,
                       [ np.stack( words ) for words in operands ] )
    assert made is not None
    return made

  def gates( self, tag: Tag, rows: list[U32] ) -> U32:
    """SWIGLU: gates times their sigmoids. The factor of one is exact; the real one is not there yet."""
    ones    = np.full( ( len( rows ), self.cfg.n ), ONE, dtype=np.uint32 )
    made, _ = execute( self.cfg, self.segment.but( length=tag.keep ), [ np.stack( rows ), ones ] )
    assert made is not None
    return made

  def segment_results( self, rows: list[U32], *words: U32 ) -> U32:
    """A segment's results [height, n] from all of its rows."""
    made, _ = execute( self.cfg, self.segment, [ np.concatenate( rows )[None], *( w[None] for w in words ) ] )
    assert made is not None
    return made.reshape( -1, self.cfg.n )
