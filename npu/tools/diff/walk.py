"""Two NPUs side by side: the first instruction, in the order of the program, whose result differs.

A machine at levels with cycles works on several instructions at once. What it does is recorded at the ports of its
units, where every level does the same: commands, answers, and writes in their order. A `Follower` then goes through the
program one instruction at a time, as the functional NPU does, and takes each result from the recording instead of
computing it. So two machines, or a machine and the functional NPU, are compared instruction by instruction, whatever
their timing. The second one stops at the first difference.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl.controller import ENGINES, Fault, Registers, boot, command_of, holds, offset
from fl.npu import NpuFL, Result
from npu.arch.config import LINE_BYTES, NpuConfig
from npu.arch.footprint import Access, footprint
from npu.arch.isa import INSTRUCTION_BYTES, Error, Instruction, Status, Unit, disassemble
from npu.arch.mailbox import MAILBOX_WORDS, Word
from npu.compiler.image import Image
from npu.errors import NpuError
from npu.runtime.progress import OnProgress
from npu.runtime.session import Session, SimOptions

MAILBOX_BYTES = 4 * MAILBOX_WORDS

#-------------------------------------------------------------------------
# What a machine does
#-------------------------------------------------------------------------

@dataclass
class Stream:
  """What one unit has done, in its order: commands as {field: value}, answers, and events.

  An event is ( "row", address, row ) for the scratchpad, ( "beat", address, data, strobe ) for memory, both with
  Python's integers, or ( "done", value ).
  """
  commands: deque[dict[str, int]] = field( default_factory=deque )
  events: deque[tuple[Any, ...]]  = field( default_factory=deque )

class Recording:
  """Listens to the units of a machine.

  Attributes
  ----------
  streams
    By unit, as in `npu.machine.npu`: mac_array, vector_unit, attention_engine, load, store, controller.
  end
    How the machine has ended, in words: nothing more comes. None before.
  """

  def __init__( self ) -> None:
    self.streams: dict[str, Stream] = {}
    self.end: str | None = None

  def listen( self, machine: Any ) -> None:
    """Record what the machine does from now on. Resets end it."""
    hear = { "cmd": self._cmd, "done": self._done, "write": self._row, "put": self._beat }
    for name, observer in machine.npu.observers.items():
      stream = self.streams[name] = Stream()
      for kind, f in hear.items():
        setattr( observer, f"on_{kind}", _both( getattr( observer, f"on_{kind}" ), f, stream ) )

  def _cmd( self, stream: Stream, msg: Any ) -> None:
    stream.commands.append( { name: int( getattr( msg, name ) ) for name in msg.__bitstruct_fields__ } )

  def _done( self, stream: Stream, msg: Any ) -> None:
    stream.events.append( ( "done", int( msg ) ) )

  def _row( self, stream: Stream, msg: Any ) -> None:
    stream.events.append( ( "row", int( msg.addr ), int( msg.data ) ) )

  def _beat( self, stream: Stream, msg: Any ) -> None:
    stream.events.append( ( "beat", int( msg.addr ), int( msg.data ), int( msg.strobe ) ) )

def _both( first: Callable[[Any], None], then: Callable[[Stream, Any], None], stream: Stream ) -> Callable[[Any], None]:
  # A handler of an observer, followed by one that records.
  def on( channel: Any ) -> None:
    first( channel )
    then( stream, channel.msg )
  return on

#-------------------------------------------------------------------------
# One instruction at a time
#-------------------------------------------------------------------------

class Incomplete( Exception ):
  """The machine has not yet done all of the instruction."""

UNIT_NAMES = { Unit.MAC: "mac_array", Unit.VEC: "vector_unit", Unit.ATT: "attention_engine" }

class Follower( NpuFL ):
  """The functional NPU, with results that a machine has written instead of its own.

  Parameters
  ----------
  dram
    As it was for the machine when the doorbell rang, and apart from the machine's.
  """

  def __init__( self, cfg: NpuConfig, dram: NDArray[np.uint8], recording: Recording ) -> None:
    super().__init__( cfg, dram, cache_bytes=0 )
    self.recording = recording
    self.command: dict[str, int] | None = None     # of the last instruction
    self.touched: list[Access] = []                # what it has written, wherever that is
    self.missing = ""                              # what it should have written and has not, as the machine has ended

  def take( self, name: str, i: Instruction, rows: int, off: int ) -> None:
    """Carry out what the unit `name` has done for the next of its instructions, which is `i`; Incomplete if that is not
    all yet."""
    stream  = self.recording.streams[name]
    engine  = name not in ( "load", "store" )
    count   = expected_rows( self.cfg, i, rows, off )
    octets  = 4 * int( i.length ) * rows if name == "store" else 0
    taken: list[tuple[Any, ...]] = []
    kept: list[tuple[Any, ...]]  = []
    value: int | None = None
    seen = written = used = 0
    whole = False
    for event in stream.events:
      used += 1
      if event[0] == "row" and ( seen < count or name == "attention_engine" ):
        seen += 1                  # attention keeps its sums in the rows of the result until they are final
        taken.append( event )
      elif event[0] == "beat":
        taken.append( event )
        written += event[3].bit_count()
      elif event[0] == "row":
        kept.append( event )       # the unit has begun with its next instruction before this one is reported done
      else:
        value = event[1]
      # An engine's instruction ends with its `done`, which comes after all of its writes; LOAD and STORE have none.
      whole = value is not None if engine else seen == count and written >= octets
      if whole:
        break
    if not whole and self.recording.end is None:
      raise Incomplete
    if engine:
      self.command = stream.commands.popleft() if stream.commands else {}
    for _ in range( used ):
      stream.events.popleft()
    stream.events.extendleft( reversed( kept ) )
    if seen < count or written < octets or ( engine and value is None ):
      self.missing = ( f"{seen} of {count} rows" if seen < count else f"{written} of {octets} bytes" if octets
                       else "everything" ) + " written, and never reported done" * ( engine and value is None )
    for event in taken:
      self.put( event )
    if i.mnemonic == "ARGMAX" and value is not None:
      self.r.token = value

  def put( self, event: tuple[Any, ...] ) -> None:
    """Carry out one write."""
    if event[0] == "row":
      _, addr, row = event
      if addr < len( self.spad ):
        self.spad[addr] = np.frombuffer( row.to_bytes( 4 * self.cfg.n, "little" ), dtype="<u4" )
      self.touched.append( Access( "spad", addr, addr + 1, True ) )
      return
    size = self.cfg.derived.beat_bytes
    _, addr, data, strobe = event
    octets = np.frombuffer( data.to_bytes( size, "little" ), dtype=np.uint8 )
    mask   = np.array( [ bool( strobe >> k & 1 ) for k in range( size ) ] )
    place  = self.dram[addr * size : ( addr + 1 ) * size]
    place[mask[: len( place )]] = octets[: len( place )][mask[: len( place )]]
    line = addr * size // LINE_BYTES
    self.touched.append( Access( "dram", line, line + 1, True ) )

  def emitted( self ) -> None:
    """Carry out the write of an EMIT that has just been executed; Incomplete if it has not come yet."""
    events = self.recording.streams["controller"].events
    size   = self.cfg.derived.beat_bytes
    while events and events[0][1] * size < MAILBOX_BYTES:
      events.popleft()
    if events:
      self.put( events.popleft() )
    elif self.recording.end is None:
      raise Incomplete
    else:
      self.missing = "no token written"

  def do_load( self, i: Instruction, rows: int, off: int ) -> None:
    self.take( "load", i, rows, off )

  def do_embed( self, i: Instruction, rows: int, off: int ) -> None:
    if ( self.tokens()[self.r.pos : self.r.pos + rows] >= int( i.vocab ) ).any():
      raise Fault( Error.BAD_TOKEN )
    self.take( "load", i, rows, off )

  def do_store( self, i: Instruction, rows: int, off: int ) -> None:
    self.take( "store", i, rows, off )

  def do_gemm( self, i: Instruction, rows: int, off: int ) -> None:
    self.take( "mac_array", i, rows, off )

  def do_vector( self, i: Instruction, rows: int, off: int ) -> None:
    self.take( "vector_unit", i, rows, off )

  def do_attend( self, i: Instruction, rows: int, off: int ) -> None:
    self.take( "attention_engine", i, rows, off )

def expected_rows( cfg: NpuConfig, i: Instruction, rows: int, off: int ) -> int:
  """Scratchpad rows that an engine instruction writes."""
  for a in footprint( cfg, i, rows, off ):
    if a.space == "spad" and a.write:
      return rows * ( a.high - a.low - ( rows - 1 ) * int( i.dst_stride ) )
  return 0

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

#-------------------------------------------------------------------------
# Comparison
#-------------------------------------------------------------------------

@dataclass( frozen=True )
class Difference:
  """The first thing that differs.

  Attributes
  ----------
  effect
    The instruction, as `a` has executed it; None if no instruction's result differs but something at the end.
  number
    Instructions with results before it.
  where
    What differs, in words.
  a, b
    Both values, in words.
  note
    How much more of the same result differs, or nothing.
  """
  effect: Effect | None
  number: int
  where: str
  a: str
  b: str
  note: str = ""

  def lines( self, names: tuple[str, str] ) -> Iterator[str]:
    """For people; `names` are the levels of both."""
    if self.effect:
      e = self.effect
      yield f"instruction {e.pc} differs, after {self.number} instructions without a difference"
      yield f"  {disassemble( e.instruction )}"
      yield f"  position {e.pos}, {e.rows} rows"
    else:
      yield f"the runs differ, after {self.number} instructions without a difference"
    yield f"  {self.where}"
    width = max( len( x ) for x in names )
    for label, name, value in ( ( "a", names[0], self.a ), ( "b", names[1], self.b ) ):
      yield f"  {label} {name:{width}}  {value}"
    if self.note:
      yield f"  {self.note}"

def show_word( word: int ) -> str:
  """A word in hexadecimal and as FP32."""
  return f"{word:#010x}  {np.uint32( word ).view( np.float32 )}"

class Comparison:
  """Compares two walks as far as they are.

  Attributes
  ----------
  count
    Instructions with results that are the same.
  difference
    The first one that is not, or None.
  """

  def __init__( self, a: Walk, b: Walk ) -> None:
    self.a, self.b  = a, b
    self.count      = 0
    self.difference: Difference | None = None
    self._a_effect: Effect | None = None
    self._a_ready   = False

  def advance( self ) -> None:
    """Compare what both have, up to a difference or the end of both runs."""
    while not self.difference:
      try:
        if not self._a_ready:
          self._a_effect, self._a_ready = self.a.step(), True
        b = self.b.step()
      except Incomplete:
        return
      a, self._a_ready = self._a_effect, False
      if a is None and b is None:
        if self.a.result != self.b.result:
          self.difference = Difference( None, self.count, "the runs end differently", show_result( self.a.result ),
                                        show_result( self.b.result ) )
        return
      self.difference = self._compare( a, b )
      self.count += self.difference is None

  def _compare( self, a: Effect | None, b: Effect | None ) -> Difference | None:
    if a is None or b is None or a.pc != b.pc:
      return Difference( a or b, self.count, "other instructions are executed", show_place( a, self.a ),
                         show_place( b, self.b ) )
    if a.missing or b.missing:
      return Difference( a, self.count, "its result is not complete",
                         *( f"{x.missing}{ended( w )}" if x.missing else "complete"
                            for x, w in ( ( a, self.a ), ( b, self.b ) ) ) )
    for name in a.command or {}:
      x, y = ( a.command or {} )[name], ( b.command or {} ).get( name )
      if x != y:
        return Difference( a, self.count, f"field {name} of its command", f"{x:#x}",
                           "none" if y is None else f"{y:#x}" )
    found = self._memories( a, b )
    if found is None and a.token != b.token:
      return Difference( a, self.count, "TOKEN", str( a.token ), str( b.token ) )
    return found

  def _memories( self, a: Effect, b: Effect ) -> Difference | None:
    n, words, first, wrong = self.a.core.cfg.n, 0, None, 0
    for space, low, high in joined( [ *a.accesses, *b.accesses ] ):
      x, y = ( part( walk.core, space, low, high ) for walk in ( self.a, self.b ) )
      words += x.size
      bad    = np.flatnonzero( x != y )
      wrong += len( bad )
      if first is None and len( bad ):
        at    = int( bad[0] )
        place = ( f"scratchpad row {low + at // n:#x}, lane {at % n}" if space == "spad" else
                  f"memory line {low + 4 * at // LINE_BYTES:#x}, byte {4 * at % LINE_BYTES}" )
        first = Difference( a, self.count, place, show_word( int( x[at] ) ), show_word( int( y[at] ) ) )
    if first is None:
      return None
    note = f"{wrong:,} of {words:,} words differ"
    return Difference( a, self.count, first.where, first.a, first.b, note )

def joined( accesses: list[Access] ) -> Iterator[tuple[str, int, int]]:
  """The ranges that accesses cover together, scratchpad first, in order, none overlapping another."""
  for space in ( "spad", "dram" ):
    ranges = sorted( ( a.low, a.high ) for a in accesses if a.space == space )
    at = 0
    while at < len( ranges ):
      low, high = ranges[at]
      at += 1
      while at < len( ranges ) and ranges[at][0] <= high:
        high = max( high, ranges[at][1] )
        at  += 1
      yield space, low, high

def part( core: NpuFL, space: str, low: int, high: int ) -> NDArray[np.uint32]:
  """Words of scratchpad rows or memory lines."""
  if space == "spad":
    return core.spad[low:high].reshape( -1 )
  return core.dram[low * LINE_BYTES : high * LINE_BYTES].view( np.uint32 )

def ended( walk: Walk ) -> str:
  """How the machine that is followed has ended, if it has."""
  end = walk.core.recording.end if isinstance( walk.core, Follower ) else None
  return f"; {end}" if end else ""

def show_place( effect: Effect | None, walk: Walk ) -> str:
  """What a walk has at this point."""
  if effect:
    return f"{effect.pc}  {disassemble( effect.instruction )}"
  return show_result( walk.result )

def show_result( result: Result | None ) -> str:
  """How a run ended."""
  if result is None:
    return "has not ended"
  error = f" {Error( result.error ).name}" if result.error else ""
  return f"{Status( result.status ).name}{error} at instruction {result.pc}, {result.count} tokens"

#-------------------------------------------------------------------------
# Two runs
#-------------------------------------------------------------------------

class _Found( Exception ):
  # Ends a simulation: the first difference is known.
  pass

@dataclass( frozen=True )
class Report:
  """What a comparison found.

  Attributes
  ----------
  instructions
    With results, compared and the same.
  difference
    The first difference, or None.
  ends
    Of a and b: how the run ended, in words.
  tokens, cycles
    Of a and b, as far as they ran: tokens, and cycles, None at the functional level.
  """
  instructions: int
  difference: Difference | None
  ends: tuple[str, str]
  tokens: tuple[list[int], list[int]]
  cycles: tuple[int | None, int | None]

class _Side:
  # One of the two NPUs: its session, its walk, and its recording if it is a machine.

  def __init__( self, load: Callable[[], Image], levels: Mapping[str, str] | None, options: SimOptions ) -> None:
    self.session = Session( load(), levels, options )
    self.tokens: list[int] = []
    self.cycle: int | None = None
    self.result: Result | None = None
    self.recording: Recording | None = None
    if self.session.machine:
      # What the instructions have written is kept apart from the machine's memory, which is ahead of it.
      self.shadow    = load().dram
      self.recording = Recording()
      self.recording.listen( self.session.machine )

  def prepare( self, prompt: list[int], limit: int, eos: tuple[int, ...] ) -> None:
    """Everything for the doorbell."""
    session = self.session
    session.load_prompt( prompt )
    session.prepare( limit, 0, eos )
    if self.recording:
      core: NpuFL = Follower( session.cfg, self.shadow, self.recording )
      self.shadow[:MAILBOX_BYTES] = session.dram[:MAILBOX_BYTES]
      core.mailbox.tokens[:] = session.npu.mailbox.tokens
    else:
      assert isinstance( session.npu, NpuFL )
      core = session.npu
    self.walk = Walk( core )

  def run( self, watch: Callable[[], None], on_progress: OnProgress | None ) -> None:
    """Simulate the machine to the end, or until `watch` raises _Found."""
    assert self.session.machine and self.recording

    def progress( cycle: int, pc: int ) -> None:
      self.cycle = cycle
      if on_progress:
        on_progress( cycle, pc )
      watch()

    options = self.session.options
    try:
      found = self.session.machine.run( self.tokens.append, progress, options.max_cycles, options.hang_cycles )
    except NpuError as e:
      self.recording.end = str( e )
    else:
      self.cycle  = found.stats.cycles
      self.result = Result( found.status, found.error, found.pc, found.count )
      self.recording.end = f"the run has ended: {show_result( self.result )}"

  def finish( self ) -> None:
    """The walk has come to its end."""
    core = self.walk.core
    if not self.recording:
      self.result = self.walk.result
      self.walk.write_mailbox()
      self.tokens = [ int( t ) for t in core.mailbox.tokens[core.r.len - core.r.count : core.r.len] ]

  def end( self ) -> str:
    """How the run has ended, in words."""
    if self.recording and not self.result:
      return self.recording.end or show_result( None )
    return show_result( self.result )

  def spad( self ) -> NDArray[np.uint32]:
    """The scratchpad as it is."""
    if self.session.machine:
      found: NDArray[np.uint32] = self.session.machine.npu.memory.spad.array()
      return found
    return self.walk.core.spad

def compare_levels( load: Callable[[], Image], a: Mapping[str, str] | None, b: Mapping[str, str] | None,
                    prompt: list[int], max_new_tokens: int, stop_at_eos: bool = True,
                    options: SimOptions | None = None,
                    watching: Callable[[Session, str], AbstractContextManager[OnProgress | None]] | None = None
                    ) -> Report:
  """Run a greedy generation on two NPUs and compare what every instruction wrote.

  Parameters
  ----------
  load
    Makes a new copy of the image, for each NPU and for what is kept beside a machine.
  a, b
    Levels by block; None is the functional NPU.
  watching
    ( session, "a" or "b" ): a context in which that machine runs, with what is called while it does.

  Raises
  ------
  NpuError
    The prompt is refused, or a machine cannot be built. A machine that fails while it runs is a difference.
  """
  options = options or SimOptions()
  with ExitStack() as stack:
    sides = _Side( load, a, options ), _Side( load, b, options )
    for side in sides:
      stack.callback( side.session.close )
    first = sides[0].session
    first.check_prompt( prompt, max_new_tokens )
    eos   = tuple( first.manifest["dimensions"]["eos_tokens"] ) if stop_at_eos else ()
    for side in sides:
      side.prepare( prompt, max_new_tokens, eos )
    found = Comparison( sides[0].walk, sides[1].walk )

    def watch() -> None:
      found.advance()
      if found.difference:
        raise _Found

    # The functional NPU only walks. Of two machines the faster one runs first: only the second one can end early.
    machines = sorted( ( s for s in sides if s.recording ), key=lambda s: speed( s.session ) )
    for side in machines:
      seen = watching( side.session, "ab"[sides.index( side )] ) if watching else nullcontext()
      with seen as told, suppress( _Found ):
        side.run( watch if side is machines[-1] else _nothing, told )
    found.advance()
    for side in sides:
      side.finish()
    difference = found.difference or _at_the_end( sides, found.count )
    x, y = sides
    return Report( found.count, difference, ( x.end(), y.end() ), ( x.tokens, y.tokens ), ( x.cycle, y.cycle ) )

def _nothing() -> None:
  pass

def speed( session: Session ) -> int:
  """A number for the slowest level of a session's blocks: the larger, the slower."""
  return max( ( "cl", "fl", "verilog", "rtl" ).index( level ) for level in ( session.levels or { "": "fl" } ).values() )

COMPARED_BYTES = 1 << 24       # at a time

def _at_the_end( sides: tuple[_Side, _Side], count: int ) -> Difference | None:
  # No instruction differs: how the runs ended, and what is in the memories.
  if sides[0].result != sides[1].result:
    return Difference( None, count, "they end differently", *( s.end() for s in sides ) )
  a, b = ( s.session.dram for s in sides )
  for low in range( 0, len( a ), COMPARED_BYTES ):
    x, y = ( m[low : low + COMPARED_BYTES].view( np.uint32 ) for m in ( a, b ) )
    if len( bad := np.flatnonzero( x != y ) ):
      at = low + 4 * int( bad[0] )
      return Difference( None, count, f"in the end, memory line {at // LINE_BYTES:#x}, byte {at % LINE_BYTES}",
                         show_word( int( x[bad[0]] ) ), show_word( int( y[bad[0]] ) ) )
  x, y = ( s.spad() for s in sides )
  if len( wrong := np.argwhere( x != y ) ):
    row, lane = ( int( k ) for k in wrong[0] )
    return Difference( None, count, f"in the end, scratchpad row {row:#x}, lane {lane}",
                       show_word( int( x[row, lane] ) ), show_word( int( y[row, lane] ) ) )
  return None
