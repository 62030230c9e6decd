"""The whole NPU, functional level: an instruction-set simulator on numpy memory.

`NpuFL` executes an image instruction by instruction with the blocks' pure functions. It is the golden
model of the machine: what it computes, every other level computes, bit for bit.
"""

from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fl import attention_engine, controller, mac_array, vector_unit
from fl.controller import Fault, Registers
from fl.kernels import choose
from npu.arch.config import CHUNK, LINE_BYTES, NpuConfig, ceil_div
from npu.arch.footprint import gemm_layout, kv_layout, kv_sweeps
from npu.arch.isa import (
  INSTRUCTION_BYTES,
  BadInstruction,
  Error,
  GemmFlag,
  Instruction,
  Status,
  Unit,
  decode,
)
from npu.arch.mailbox import Mailbox, Word
from npu.arch.numerics.block_float import unpack
from npu.arch.numerics.fp32 import bits, from_bits

TokenCallback = Callable[[int], None]

@dataclass
class Counters:
  """What runs did.

  Attributes
  ----------
  macs
    Multiply-accumulates: padded dimensions of GEMMs, keys that rows may see in attention.
  dram_bytes_read, dram_bytes_written
    By the memory hub's client, in whole beats. `load`, `kv` and `weights`, `store` and `kv_wr` are as at every level.
    `fetch` is executed instructions and token numbers; with a clock, instructions are read ahead, and the mailbox is
    read (`fetch`) and reported (`post`), too.
  instructions
    Fetched.
  """
  macs: int = 0
  dram_bytes_read: Counter[str] = field( default_factory=lambda: Counter( fetch=0, load=0, kv=0, weights=0 ) )
  dram_bytes_written: Counter[str] = field( default_factory=lambda: Counter( store=0, kv_wr=0 ) )
  instructions: int = 0

@dataclass( frozen=True )
class Result:
  """How a run ended: `pc` is the instruction that ended it."""
  status: Status
  error: Error
  pc: int
  count: int

R = TypeVar( "R", bound=Result )

def drain( run: Generator[int, None, R], on_token: TokenCallback | None = None ) -> R:
  """Take all tokens of a run, call `on_token` with each, and return how it ended."""
  try:
    while True:
      try:
        token = next( run )
      except StopIteration as end:
        ended: R = end.value
        return ended
      if on_token:
        on_token( token )
  finally:
    run.close()

class NpuFL:
  """The NPU on a DRAM array.

  Parameters
  ----------
  cfg
    The configuration that the image was compiled for.
  dram
    Bytes; the mailbox is at address 0. It is written to.
  kernels
    Who computes: `numpy`, the specification; `compiled`, the same bits sooner; None: compiled for a memory of 64 MiB or
    more, as loading the compiled functions takes half a second.
  """

  def __init__( self, cfg: NpuConfig, dram: NDArray[np.uint8], kernels: str | None = None ) -> None:
    self.cfg      = cfg
    self.dram     = np.asarray( dram )       # of a memory-mapped file: without what numpy does at each slice of it
    self.mailbox  = Mailbox( dram )
    self.spad     = np.zeros( ( cfg.derived.spad_rows, cfg.n ), dtype=np.uint32 )
    self.r        = Registers()
    self.counters = Counters()
    self._best: tuple[float, int] | None = None
    self.kernels  = choose( kernels, dram.size )

  #-----------------------------------------------------------------------
  # The run
  #-----------------------------------------------------------------------

  def run( self, on_token: TokenCallback | None = None ) -> Result:
    """Answer a doorbell: run until the program ends or faults, and report in the mailbox."""
    return drain( self.stream(), on_token )

  def stream( self ) -> Generator[int, None, Result]:
    """The same, a token at a time as they come; at the end, how the run ended."""
    box = self.mailbox
    box[Word.STATUS], box[Word.ERROR], box[Word.COUNT] = Status.RUNNING, Error.NONE, 0
    at, error, status = 0, Error.NONE, Status.RUNNING
    # What the mailbox says stays there if the run does not even begin.
    self.r = Registers( pos=box[Word.POS], len=box[Word.LEN] )
    try:
      self.r = controller.boot( box )
      while status == Status.RUNNING:
        at    = self.r.pc
        count = self.r.count
        status = self.step()
        if self.r.count > count:
          box[Word.LEN], box[Word.COUNT] = self.r.len, self.r.count
          yield self.r.token
    except Fault as fault:
      status, error = Status.ERROR, fault.error
    box[Word.POS], box[Word.LEN], box[Word.COUNT] = self.r.pos, self.r.len, self.r.count
    box[Word.PC], box[Word.ERROR], box[Word.STATUS] = at, error, status
    box[Word.DOORBELL] = 0
    return Result( status, error, at, self.r.count )

  def step( self ) -> Status:
    """Fetch and execute one instruction; Fault if it cannot be done."""
    i = self.fetch()
    self.counters.instructions += 1
    if not controller.holds( int( i.cond ), self.r ):
      self.r.pc += 1
      return Status.RUNNING
    if i.format.unit == Unit.CTRL:
      return controller.control( i, self.r, self.tokens() )
    self.execute( i )
    self.r.pc += 1
    return Status.RUNNING

  def fetch( self ) -> Instruction:
    """The instruction at pc."""
    if self.r.pc >= self.r.program_count:
      raise Fault( Error.BAD_PC )
    start = self.r.program * LINE_BYTES + self.r.pc * INSTRUCTION_BYTES
    if start + INSTRUCTION_BYTES > self.r.lines * LINE_BYTES:
      raise Fault( Error.BAD_DRAM )
    self.counters.dram_bytes_read["fetch"] += INSTRUCTION_BYTES
    try:
      return decode( self.dram[start : start + INSTRUCTION_BYTES].tobytes() )
    except BadInstruction as e:
      raise Fault( e.error ) from None

  def execute( self, i: Instruction ) -> None:
    """Check and execute an engine instruction."""
    rows = int( i.rows ) or self.r.rows
    off  = controller.offset( int( i.rel ), self.r )
    for error in ( controller.check_rel( i ), self.check( i, rows, off ) ):
      if error:
        raise Fault( error )
    name = "vector" if i.format.unit == Unit.VEC else i.mnemonic.lower()
    getattr( self, f"do_{name}" )( i, rows, off )

  def check( self, i: Instruction, rows: int, off: int ) -> Error:
    """What the instruction's unit says of it."""
    if i.format.unit == Unit.MAC:
      return mac_array.check( self.cfg, i, rows, self.r.lines )
    if i.format.unit == Unit.VEC:
      return vector_unit.check( self.cfg, i, rows, off )
    if i.format.unit == Unit.ATT:
      return attention_engine.check( self.cfg, i, rows, self.r.pos, self.r.lines, self.r.writable )
    return controller.check_dma( self.cfg, i, rows, self.r )

  #-----------------------------------------------------------------------
  # Scratchpad access
  #-----------------------------------------------------------------------

  def read( self, base: float, rows: int, stride: float, lanes: int ) -> NDArray[np.uint32]:
    """A matrix [rows, lanes] of scratchpad words; lanes need not be a multiple of n."""
    width  = ceil_div( lanes, self.cfg.n )
    matrix = np.empty( ( rows, lanes ), dtype=np.uint32 )
    for r in range( rows ):
      start     = int( base ) + r * int( stride )
      matrix[r] = self.spad[start : start + width].reshape( -1 )[:lanes]
    return matrix

  def write( self, base: float, stride: float, words: NDArray[np.uint32] ) -> None:
    """The inverse; lanes that fill up the last scratchpad row become zero."""
    rows, lanes = words.shape
    width = ceil_div( lanes, self.cfg.n )
    if lanes % self.cfg.n:
      words = np.pad( words, ( ( 0, 0 ), ( 0, width * self.cfg.n - lanes ) ) )
    for r in range( rows ):
      start = int( base ) + r * int( stride )
      self.spad[start : start + width] = words[r].reshape( width, self.cfg.n )

  #-----------------------------------------------------------------------
  # Load/store unit
  #-----------------------------------------------------------------------

  def words( self, line: int, count: int ) -> NDArray[np.uint32]:
    """`count` words of DRAM from a line on, as a view."""
    return self.dram[line * LINE_BYTES : line * LINE_BYTES + 4 * count].view( np.uint32 )

  def tokens( self ) -> NDArray[np.uint32]:
    """The token buffer, as a view."""
    return self.words( self.r.tokens, self.r.context + 1 )

  def beat_bytes( self, lanes: float ) -> int:
    """Bytes of the whole beats that hold so many words."""
    return ceil_div( int( lanes ), self.cfg.n ) * self.cfg.derived.beat_bytes

  def do_load( self, i: Instruction, rows: int, off: int ) -> None:
    lines = [ int( i.dram ) + ( off + r ) * int( i.row_lines ) for r in range( rows ) ]
    self.write( i.dst, i.dst_stride, np.stack( [ self.words( a, int( i.length ) ) for a in lines ] ) )
    self.counters.dram_bytes_read["load"] += rows * self.beat_bytes( i.length )

  def do_embed( self, i: Instruction, rows: int, off: int ) -> None:
    tokens = self.tokens()[self.r.pos : self.r.pos + rows]
    if ( tokens >= int( i.vocab ) ).any():
      raise Fault( Error.BAD_TOKEN )
    lines = [ int( i.dram ) + int( t ) * int( i.row_lines ) for t in tokens ]
    self.write( i.dst, i.dst_stride, np.stack( [ self.words( a, int( i.length ) ) for a in lines ] ) )
    skipped = self.r.pos % self.cfg.n       # tokens before the first one in its beat
    self.counters.dram_bytes_read["fetch"] += self.beat_bytes( skipped + rows )
    self.counters.dram_bytes_read["load"]  += rows * self.beat_bytes( i.length )

  def do_store( self, i: Instruction, rows: int, off: int ) -> None:
    data = self.read( i.src, rows, i.src_stride, int( i.length ) )
    for r in range( rows ):
      line = int( i.dram ) + ( off + r ) * int( i.row_lines )
      self.words( line, int( i.length ) )[:] = data[r]
    self.counters.dram_bytes_written["store"] += rows * self.beat_bytes( i.length )

  #-----------------------------------------------------------------------
  # MAC array
  #-----------------------------------------------------------------------

  def do_gemm( self, i: Instruction, rows: int, off: int ) -> None:
    layout   = gemm_layout( self.cfg, i )
    residual = None
    if int( i.flags ) & GemmFlag.RESIDUAL:
      residual = from_bits( self.read( i.src2, rows, i.dst_stride, int( i.cols ) ) )
    lanes  = self.read( i.src, rows, i.src_stride, int( i.k ) )
    stream = self.words( int( i.dram ), layout.total_bytes // 4 )
    y      = self.kernels.gemm( layout, stream, lanes, residual )
    self.write( i.dst, i.dst_stride, bits( y ) )
    self.counters.macs += rows * layout.k * layout.cols
    self.counters.dram_bytes_read["weights"] += layout.total_bytes

  #-----------------------------------------------------------------------
  # Vector unit
  #-----------------------------------------------------------------------

  def do_vector( self, i: Instruction, rows: int, off: int ) -> None:
    """Any instruction of the vector unit."""
    words = [ self.read( o.base, o.rows, o.stride, o.width * self.cfg.n )
              for o in vector_unit.operands( self.cfg, i, rows, off ) ]
    result, self._best = vector_unit.execute( self.cfg, i, words, self._best, self.kernels.vector )
    if result is not None:
      self.write( i.dst, i.dst_stride, result )
    elif self._best:
      self.r.token = self._best[1]

  #-----------------------------------------------------------------------
  # Attention engine
  #-----------------------------------------------------------------------

  def do_attend( self, i: Instruction, rows: int, off: int ) -> None:
    layout, heads, kv = kv_layout( i ), int( i.heads ), int( i.kv_heads )
    dim    = layout.head_dim
    start  = int( i.dram ) * LINE_BYTES
    cache  = self.dram[start : start + layout.total_lines * LINE_BYTES]
    q, q_exp = unpack( self.read( i.src, rows, i.src_stride, heads * dim ).reshape( rows, heads, dim ) )
    new = self.read( i.src2, rows, i.src_stride, 2 * kv * dim ).reshape( rows, 2, kv, dim )
    for r in range( rows ):
      for which in ( 0, 1 ):
        layout.append( cache, which, self.r.pos + r, *unpack( new[r, which] ) )
    out = self.kernels.attend( q, q_exp, layout, cache, self.r.pos, float( i.factor ) )
    self.write( i.dst, i.dst_stride, bits( out.reshape( rows, -1 ) ) )
    keys = sum( self.r.pos + r + 1 for r in range( rows ) )
    self.counters.macs += 2 * heads * dim * keys
    chunks = ceil_div( self.r.pos + rows, CHUNK )
    sweeps = kv_sweeps( self.cfg, rows, heads // kv )
    self.counters.dram_bytes_read["kv"] += sweeps * kv * chunks * layout.chunk_lines * LINE_BYTES
    self.counters.dram_bytes_written["kv_wr"] += rows * kv * 2 * ( 2 * dim + self.cfg.derived.beat_bytes )
