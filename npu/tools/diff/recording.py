"""What a machine does, recorded at the ports of its units."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

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
