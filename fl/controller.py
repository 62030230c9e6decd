"""Controller, functional level: registers, conditions, and what each control instruction does."""

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymtl3 import Bits1, Bits4, OutPort, mk_bits, update_ff

from fl.agent import Agent, Process, from_lanes
from npu.arch.config import LINE_BYTES, NpuConfig, ceil_div
from npu.arch.footprint import bounds, footprint
from npu.arch.isa import (
  INSTRUCTION_BYTES,
  VECTOR_OP,
  BadInstruction,
  Cond,
  Error,
  GemmFlag,
  Instruction,
  Rel,
  Status,
  Unit,
  decode,
)
from npu.arch.mailbox import MAILBOX_WORDS, MAX_EOS, Flag, Mailbox, Word
from npu.arch.messages import (
  Ack,
  Done,
  mk_attend_cmd,
  mk_gemm_cmd,
  mk_mem_read_req,
  mk_mem_write,
  mk_spad_write,
  mk_vector_cmd,
)

END_STATUSES = ( Status.EOS, Status.LIMIT, Status.CONTEXT, Status.SCORED )   # what HALT may say

class Fault( Exception ):
  """An instruction that cannot be done; `error` is the code that the mailbox gets."""

  def __init__( self, error: Error ) -> None:
    super().__init__( error.name )
    self.error = error

@dataclass
class Registers:
  """The controller's state during a run: what it took from the mailbox at the doorbell, and what moves."""
  flags: int = 0         # options of the run, see npu.arch.mailbox.Flag
  limit: int = 0         # tokens to produce
  eos: tuple[int, ...] = ()
  program: int = 0       # line of the first instruction
  program_count: int = 0
  tokens: int = 0        # line of the token buffer
  context: int = 0       # positions of the KV cache; the token buffer has one more
  lines: int = 0         # size of the memory
  writable: int = 0      # first line that the program may write
  pos: int = 0        # positions processed: the first row of the next pass
  len: int = 0        # tokens known
  rows: int = 0       # rows of this pass
  token: int = 0      # the last token that ARGMAX found
  count: int = 0      # tokens produced in this run
  pc: int = 0         # the next instruction
  last_jump: int = -1 # POS at the last backward jump

def boot( mailbox: Mailbox ) -> Registers:
  """Registers at the doorbell; Fault if the mailbox contradicts itself."""
  r = Registers( flags=mailbox[Word.FLAGS], limit=mailbox[Word.LIMIT], eos=tuple( mailbox.eos_tokens ),
                 program=mailbox[Word.PROGRAM], program_count=mailbox[Word.PROGRAM_COUNT],
                 tokens=mailbox[Word.TOKENS], context=mailbox[Word.CONTEXT], pos=mailbox[Word.POS],
                 len=mailbox[Word.LEN], lines=mailbox[Word.DRAM_LINES], writable=mailbox[Word.WRITABLE] )
  if mailbox[Word.EOS_COUNT] > MAX_EOS or r.limit == 0 or not r.pos <= r.len <= r.context:
    raise Fault( Error.BAD_MAILBOX )
  if r.tokens + ceil_div( 4 * ( r.context + 1 ), LINE_BYTES ) > r.lines:
    raise Fault( Error.BAD_MAILBOX )
  return r

def holds( cond: int, r: Registers ) -> bool:
  """Whether an instruction's condition holds."""
  if cond == Cond.ALWAYS:
    return True
  score = bool( r.flags & Flag.SCORE )
  return { Cond.PREFILL:  not score and r.pos < r.len,
           Cond.GENERATE: not score,
           Cond.SCORE:    score,
           Cond.LOGITS:   score or bool( r.flags & Flag.LOGITS ) }[Cond( cond )]

def offset( rel: int, r: Registers ) -> int:
  """Value of the register that an address is relative to."""
  if rel == Rel.NONE:
    return 0
  return { Rel.POS: r.pos, Rel.LAST: max( r.rows - 1, 0 ), Rel.TOKEN: r.token,
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

def check_dma( cfg: NpuConfig, i: Instruction, rows: int, r: Registers ) -> Error:
  """Whether the load/store unit accepts a LOAD, STORE or EMBED; the first thing wrong with it otherwise."""
  if rows == 0 or i.length == 0 or ( i.mnemonic == "EMBED" and i.vocab == 0 ):
    return Error.ZERO_SIZE
  if rows > cfg.m_max:
    return Error.BAD_SIZE
  if i.mnemonic == "EMBED" and r.pos + rows > r.len:
    return Error.BAD_POSITION
  return bounds( cfg, footprint( cfg, i, rows, offset( int( i.rel ), r ) ), r.lines, r.writable )

def check_rel( i: Instruction ) -> Error:
  """`rel` moves `dram` of LOAD and STORE, and `src` of vector instructions that have a src_stride."""
  names = { f.name for f in i.format.fields }
  moves = i.mnemonic in ( "LOAD", "STORE" ) or ( i.format.unit == Unit.VEC and "src_stride" in names )
  return Error.BAD_FIELD if i.rel and not moves else Error.NONE

#-------------------------------------------------------------------------
# Commands
#-------------------------------------------------------------------------

MAX_ROWS = 255              # of a command; a ROWS above is refused by every unit, as this is
FAR_ROW  = ( 1 << 24 ) - 1  # a scratchpad row that no scratchpad has

ENGINES = { Unit.MAC: ( "mac", mk_gemm_cmd ), Unit.VEC: ( "vec", mk_vector_cmd ), Unit.ATT: ( "att", mk_attend_cmd ) }

# The fields of vector instructions that a command calls otherwise.
_RENAMED = { "inv_length": "param", "factor": "param", "base": "param", "bits": "mode", "formats": "mode",
             "first": "mode" }

def command_of( cfg: NpuConfig, code: bytes, r: Registers ) -> Any:
  """The message to an engine that an instruction becomes: rows and addresses resolved.

  `code` is the 32 bytes of a GEMM, a vector instruction or an ATTEND. Constants go through as they are, NaNs
  included.
  """
  i     = decode( code )
  words = struct.unpack( "<8I", code )
  field = { f.name: ( words[f.word] >> f.low ) & ( ( 1 << f.width ) - 1 ) for f in i.format.fields }
  field["rows"] = min( int( i.rows ) or r.rows, MAX_ROWS )
  if i.format.unit == Unit.MAC:
    flags = field.pop( "flags" )
    field |= { "bias": int( bool( flags & GemmFlag.BIAS ) ), "residual": int( bool( flags & GemmFlag.RESIDUAL ) ),
               "lines": r.lines }
  elif i.format.unit == Unit.ATT:
    field |= { "pos": r.pos, "lines": r.lines, "writable": r.writable }
  else:
    field = { _RENAMED.get( name, name ): value for name, value in field.items() }
    field["src"] = min( field["src"] + offset( int( i.rel ), r ) * field.get( "src_stride", 0 ), FAR_ROW )
    field["op"]  = VECTOR_OP[i.mnemonic]
  command = ENGINES[i.format.unit][1]( cfg )()
  for name, value in field.items():
    setattr( command, name, value )
  return command

#-------------------------------------------------------------------------
# Component
#-------------------------------------------------------------------------

class ControllerFL( Agent ):
  """The block's ports around the functions above, one instruction after the other, each finished before the next
  is fetched; see `rtl_models.controller` for the ports. `waits` is 0: there is no time to wait in.
  """

  def construct( s, cfg: NpuConfig ) -> None:
    BEAT = mk_bits( cfg.derived.beat_bits )
    SPAD = mk_bits( cfg.derived.spad_addr_bits )
    s.cfg = cfg
    s.add_recv( "doorbell", Bits1 )
    s.add_send( "finished", Bits4 )
    s.add_master( "fetch", mk_mem_read_req( cfg ), BEAT )
    s.add_send( "post", mk_mem_write( cfg ) )
    s.add_master( "load", mk_mem_read_req( cfg ), BEAT )
    s.add_send( "spad_wr", mk_spad_write( cfg ) )
    s.add_master( "spad_rd", SPAD, BEAT )
    s.add_send( "store", mk_mem_write( cfg ) )
    for name, mk_cmd in ENGINES.values():
      s.add_send( f"{name}_cmd", mk_cmd( cfg ) )
      s.add_recv( f"{name}_ack", Ack )
      if name == "mac":
        s.add_send( "mac_start", Bits1 )
      s.add_recv( f"{name}_done", Done )
    s.pc    = OutPort( 32 )
    s.waits = OutPort( 5 )
    s.at    = 0
    s.waits //= 0
    s.start()

    @update_ff
    def ff_pc() -> None:
      if s.reset:
        s.at = 0
      s.pc <<= s.at

  def process( s ) -> Process:
    """One run after the other."""
    while True:
      yield from s.recv( s.doorbell_box )
      status = yield from s.run_program()
      yield from s.send( s.finished_box, int( status ) )

  def run_program( s ) -> Process:
    """As NpuFL.run: answer a doorbell, report in the mailbox; returns the status."""
    yield from s.report( COUNT=0, ERROR=Error.NONE, STATUS=Status.RUNNING )
    lines = ceil_div( 4 * MAILBOX_WORDS, LINE_BYTES )
    words = yield from s.read_stream( 0, lines * s.cfg.derived.beats_per_line, "fetch" )
    box   = Mailbox( words.view( np.uint8 ) )
    r     = Registers( pos=box[Word.POS], len=box[Word.LEN] )
    s.at, error, status = 0, Error.NONE, Status.RUNNING
    try:
      r = boot( box )
      while status == Status.RUNNING:
        s.at   = r.pc
        count  = r.count
        status = yield from s.step( r )
        if r.count > count:
          yield from s.report( COUNT=r.count, LEN=r.len )
    except Fault as fault:
      status, error = Status.ERROR, fault.error
    yield from s.report( COUNT=r.count, PC=s.at, ERROR=error, STATUS=status, LEN=r.len, POS=r.pos, DOORBELL=0 )
    return status

  def report( s, **words: int ) -> Process:
    """Write words of the mailbox, one after the other."""
    for name, value in words.items():
      yield from s.write_words( "post", 4 * Word[name], [ value ] )

  def write_words( s, port: str, start: int, words: Any ) -> Process:
    """Write words to memory from a byte address on."""
    yield from s.write_bytes( port, start, np.array( words, dtype=np.uint32 ).view( np.uint8 ) )

  def step( s, r: Registers ) -> Process:
    """As NpuFL.step: fetch and execute one instruction; Fault if it cannot be done."""
    code = yield from s.fetch_code( r )
    try:
      i = decode( code )
    except BadInstruction as e:
      raise Fault( e.error ) from None
    if not holds( int( i.cond ), r ):
      r.pc += 1
      return Status.RUNNING
    if i.format.unit == Unit.CTRL:
      tokens: Any = {}        # those that are appended, by place
      status = control( i, r, tokens )
      for place, token in tokens.items():
        yield from s.write_words( "post", LINE_BYTES * r.tokens + 4 * place, [ token ] )
      return status
    yield from s.execute( i, code, r )
    r.pc += 1
    return Status.RUNNING

  def fetch_code( s, r: Registers ) -> Process:
    """The bytes of the instruction at pc."""
    if r.pc >= r.program_count:
      raise Fault( Error.BAD_PC )
    start = r.program * LINE_BYTES + r.pc * INSTRUCTION_BYTES
    if start + INSTRUCTION_BYTES > r.lines * LINE_BYTES:
      raise Fault( Error.BAD_DRAM )
    words = yield from s.read_words( start, INSTRUCTION_BYTES // 4 )
    return words.tobytes()

  def read_words( s, start: int, count: int ) -> Process:
    """Words of memory from a byte address on, through `fetch`."""
    beat, skip = divmod( start, s.cfg.derived.beat_bytes )
    words = yield from s.read_stream( beat, ceil_div( skip + 4 * count, s.cfg.derived.beat_bytes ), "fetch" )
    return words[skip // 4 : skip // 4 + count]

  def execute( s, i: Instruction, code: bytes, r: Registers ) -> Process:
    """Check an instruction and have its unit do it."""
    if error := check_rel( i ):
      raise Fault( error )
    if i.format.unit not in ENGINES:
      yield from s.move( i, r )
      return
    name  = ENGINES[i.format.unit][0]
    yield from s.send( getattr( s, f"{name}_cmd_box" ), command_of( s.cfg, code, r ) )
    error = yield from s.recv( getattr( s, f"{name}_ack_box" ) )
    if error:
      raise Fault( Error( int( error ) ) )
    if name == "mac":
      yield from s.send( s.mac_start_box, 1 )
    value = yield from s.recv( getattr( s, f"{name}_done_box" ) )
    if i.mnemonic == "ARGMAX":
      r.token = int( value )

  def move( s, i: Instruction, r: Registers ) -> Process:
    """LOAD, EMBED and STORE, row by row."""
    rows = int( i.rows ) or r.rows
    if error := check_dma( s.cfg, i, rows, r ):
      raise Fault( error )
    start = offset( int( i.rel ), r )
    index = range( start, start + rows )
    if i.mnemonic == "EMBED":
      index = yield from s.read_words( LINE_BYTES * r.tokens + 4 * r.pos, rows )
      if ( index >= int( i.vocab ) ).any():
        raise Fault( Error.BAD_TOKEN )
    length, width = int( i.length ), ceil_div( int( i.length ), s.cfg.n )
    for row, number in enumerate( index ):
      line = int( i.dram ) + int( number ) * int( i.row_lines )
      if i.mnemonic == "STORE":
        words = yield from s.read_matrix( "spad_rd", int( i.src ) + row * int( i.src_stride ), 1, 0, width )
        yield from s.write_words( "store", LINE_BYTES * line, words[0, :length] )
      else:
        words = yield from s.read_stream( line * s.cfg.derived.beats_per_line, width, "load" )
        yield from s.write_row( int( i.dst ) + row * int( i.dst_stride ), words, length )

  def write_row( s, base: int, words: NDArray[np.uint32], length: int ) -> Process:
    """Write one token row to the scratchpad; lanes past its length become zero."""
    words = words.copy()
    words[length:] = 0
    for c, lanes in enumerate( words.reshape( -1, s.cfg.n ) ):
      yield from s.send( s.spad_wr_box, mk_spad_write( s.cfg )( base + c, from_lanes( lanes ) ) )
