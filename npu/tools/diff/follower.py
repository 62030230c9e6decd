"""The functional NPU in the footsteps of a machine: its results come from a recording."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl.controller import Fault
from fl.npu import NpuFL
from npu.arch.config import LINE_BYTES, NpuConfig
from npu.arch.footprint import Access, footprint
from npu.arch.isa import Error, Instruction
from npu.arch.mailbox import MAILBOX_WORDS
from npu.tools.diff.recording import Recording

MAILBOX_BYTES = 4 * MAILBOX_WORDS

class Incomplete( Exception ):
  """The machine has not yet done all of the instruction."""

class Follower( NpuFL ):
  """The functional NPU, with results that a machine has written instead of its own.

  Parameters
  ----------
  dram
    As it was for the machine when the doorbell rang, and apart from the machine's.
  """

  def __init__( self, cfg: NpuConfig, dram: NDArray[np.uint8], recording: Recording ) -> None:
    super().__init__( cfg, dram, kernels="numpy" )
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
