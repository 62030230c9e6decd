"""What must happen around the controller, from NpuFL with the engines left out: every command, every word that is read
and written, in order, and what must be finished before each."""

import itertools
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl import controller
from fl.controller import Fault
from fl.npu import NpuFL, Result
from npu.arch.config import LINE_BYTES, NpuConfig, ceil_div
from npu.arch.isa import INSTRUCTION_BYTES, VECTOR_OP, Error, GemmFlag, Instruction, Rel, Unit
from npu.arch.mailbox import Mailbox

ENGINES = ( Unit.MAC, Unit.VEC, Unit.ATT )
UNITS   = ( *ENGINES, Unit.LOAD, Unit.STORE )

#-------------------------------------------------------------------------
# What NpuFL does
#-------------------------------------------------------------------------

@dataclass
class Step:
  """An instruction of a run that decodes, executed or not."""
  pc: int
  i: Instruction
  mask: int
  command: dict[str, int] = field( default_factory=dict )      # fields of the message to its engine
  error: Error = Error.NONE                                    # what the engine answers
  done: bool = False                                           # accepted
  rows: list[tuple[int, int]] = field( default_factory=list )  # LOAD, EMBED, STORE: ( line, scratchpad row ) of each
  width: int = 0                                               # beats of a row

def command_fields( i: Instruction, code: bytes, r: controller.Registers ) -> dict[str, int]:
  """The fields of an engine's command that an instruction decides."""
  words = struct.unpack( "<8I", code )
  raw   = { f.name: words[f.word] >> f.low & ( ( 1 << f.width ) - 1 ) for f in i.format.fields }
  out   = { k: v for k, v in raw.items() if k in ( "dram", "dst", "src", "src2", "k", "cols", "length", "segments",
                                                   "heads",
                                                   "kv_heads", "chunks", "dst_stride", "src_stride", "src2_stride",
                                                   "eps" ) }
  out["rows"] = min( words[0] >> 20 & 0xFF or r.rows, 255 )
  if i.format.unit == Unit.MAC:
    out |= { "bias": raw["flags"] & GemmFlag.BIAS, "residual": raw["flags"] >> 1, "lines": r.lines }
    out |= { "mode": raw["mode"], "group": raw["group"] }
  elif i.format.unit == Unit.ATT:
    out |= { "pos": r.pos, "factor": raw["factor"], "lines": r.lines, "writable": r.writable }
  else:
    base = { Rel.NONE: 0, Rel.POS: r.pos, Rel.LAST: max( r.rows - 1, 0 ), Rel.TOKEN: r.token, Rel.LEN: r.len }
    out["src"] = min( raw["src"] + base[Rel( int( i.rel ) )] * raw.get( "src_stride", 0 ), 0xFFFFFF )
    out["op"]  = VECTOR_OP[i.mnemonic]
    for name, place in ( ( "bits", "mode" ), ( "formats", "mode" ), ( "first", "mode" ), ( "inv_length", "param" ),
                         ( "factor", "param" ), ( "base", "param" ) ):
      if name in raw:
        out[place] = raw[name]
  return out

class _Box( Mailbox ):
  """A mailbox that remembers what was written, as ( word address, value )."""

  def __init__( self, dram: NDArray[np.uint8], posts: list[tuple[int, int]] ) -> None:
    super().__init__( dram )
    self.posts = posts

  def __setitem__( self, word: int, value: int ) -> None:
    self.posts.append( ( int( word ), int( value ) ) )
    super().__setitem__( word, value )

class Reference( NpuFL ):
  """NpuFL with engines that do nothing, writing down what it does."""

  def __init__( self, cfg: NpuConfig, dram: NDArray[np.uint8], spad: NDArray[np.uint32], found: Sequence[int] ) -> None:
    super().__init__( cfg, dram )
    self.spad  = spad
    self.found = itertools.cycle( found )
    self.code  = b""
    self.steps: list[Step] = []
    self.posts: list[tuple[int, int]] = []
    self.mailbox = _Box( dram, self.posts )

  def fetch( self ) -> Instruction:
    i = super().fetch()
    start = self.r.program * LINE_BYTES + self.r.pc * INSTRUCTION_BYTES
    self.code = self.dram[start : start + INSTRUCTION_BYTES].tobytes()
    self.steps.append( Step( self.r.pc, i, int( i.wait ) ) )
    return i

  def execute( self, i: Instruction ) -> None:
    step = self.steps[-1]
    rows = int( i.rows ) or self.r.rows
    off  = controller.offset( int( i.rel ), self.r )
    if error := controller.check_rel( i ):
      raise Fault( error )
    unit = i.format.unit
    if unit in ENGINES:
      step.command = command_fields( i, self.code, self.r )
    if error := self.check( i, rows, off ):
      step.error = error
      raise Fault( error )
    if unit not in ENGINES:
      numbers: Any = range( off, off + rows )
      if i.mnemonic == "EMBED":
        numbers = self.tokens()[self.r.pos : self.r.pos + rows].tolist()
      getattr( self, f"do_{i.mnemonic.lower()}" )( i, rows, off )
      base, stride = ( int( i.src ), int( i.src_stride ) ) if unit == Unit.STORE else ( int( i.dst ),
          int( i.dst_stride ) )
      step.rows  = [ ( int( i.dram ) + t * int( i.row_lines ), base + r * stride ) for r, t in enumerate( numbers ) ]
      step.width = ceil_div( int( i.length ), self.cfg.n )
    elif i.mnemonic == "ARGMAX":
      self.r.token = next( self.found )
    step.done = True

#-------------------------------------------------------------------------
# What must happen
#-------------------------------------------------------------------------

# How many of each unit's actions must be finished before something may happen: by unit.
Need = tuple[int, ...]

@dataclass
class Expected:
  """A run: what must happen on each port, in order, and after how much of the rest."""
  result: Result
  posts: list[tuple[int, int]]           # writes to `post`, by words
  tokens: tuple[int, int]                # first word and words of the token buffer
  program: tuple[int, int]               # first byte of the program, and the byte after it
  memory: bytes                          # DRAM afterwards
  spad: bytes                            # the scratchpad afterwards
  commands: dict[Unit, list[Step]]       # those that must be sent; the last one of all may be refused
  needs: dict[Unit, list[Need]]          # before each of them
  start_needs: list[Need]                # before each start of the MAC array
  emit_needs: list[Need]
  loads: list[int]                       # beats to read ...
  spad_writes: list[int]                 # ... and the rows that they go to
  load_steps: list[tuple[int, Need]]     # number of the first beat, and what must be finished before
  spad_reads: list[int]
  stores: list[tuple[int, int]]          # ( beat, strobe )
  store_steps: list[tuple[int, Need]]
  total: Need

def expect( cfg: NpuConfig, ref: Reference ) -> Expected:
  """Run the reference and draw up what it did."""
  ref.steps.clear()
  ref.posts.clear()
  def token( value: int ) -> None:
    # NpuFL calls this after LEN and COUNT, whereas the token itself comes before them.
    ref.posts.insert( len( ref.posts ) - 2, ( 16 * ref.r.tokens + ref.r.len - 1, value ) )
  result = ref.run( token )
  r   = ref.r
  # A refused mailbox leaves no registers: nothing is fetched but the mailbox.
  program = ( r.program * LINE_BYTES, min( r.program * LINE_BYTES + r.program_count * INSTRUCTION_BYTES,
                                           r.lines * LINE_BYTES ) )
  e = Expected( result, list( ref.posts ), ( 16 * r.tokens, r.context + 1 if r.lines else 0 ), program,
                ref.dram.tobytes(), ref.spad.tobytes(), { u: [] for u in ENGINES }, { u: [] for u in ENGINES }, [], [],
                [], [], [], [], [], [], () )
  bpl = cfg.derived.beats_per_line
  sent, need = dict.fromkeys( UNITS, 0 ), dict.fromkeys( UNITS, 0 )
  for step in ref.steps:
    unit, before = step.i.format.unit, dict( need )
    for u in UNITS:
      if step.mask & u:
        need[u] = sent[u]
    now = tuple( need.values() )
    if unit in ENGINES and step.command:
      at_once = { u: need[u] if u in ( Unit.ATT, Unit.STORE ) else before[u] for u in UNITS }
      e.commands[unit].append( step )
      e.needs[unit].append( tuple( at_once.values() ) if unit == Unit.MAC else now )
    if step.i.mnemonic == "EMIT":
      e.emit_needs.append( now )
    if not step.done:
      continue
    if unit == Unit.MAC:
      e.start_needs.append( now )
    if unit in ENGINES:
      sent[unit] += 1
      continue
    beats = [ line * bpl + c for line, _ in step.rows for c in range( step.width ) ]
    rows  = [ row + c for _, row in step.rows for c in range( step.width ) ]
    sent[unit] += len( beats )
    if unit == Unit.LOAD:
      e.load_steps.append( ( len( e.loads ), now ) )
      e.loads += beats
      e.spad_writes += rows
    else:
      e.store_steps.append( ( len( e.stores ), now ) )
      e.spad_reads += rows
      full, tail = ( 1 << 4 * cfg.n ) - 1, ( 1 << 4 * ( ( int( step.i.length ) - 1 ) % cfg.n + 1 ) ) - 1
      e.stores += [ ( b, tail if j % step.width == step.width - 1 else full ) for j, b in enumerate( beats ) ]
  e.total = tuple( sent.values() )
  return e
