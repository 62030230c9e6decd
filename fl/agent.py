"""Functional-level components: a Python generator behind stream ports."""

from collections import deque
from collections.abc import Generator
from copy import deepcopy
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymtl3 import Bits, Component, Wire, connect, update, update_ff
from pymtl3.stdlib.stream.ifcs import MasterIfcRTL, RecvIfcRTL, SendIfcRTL

from npu.arch.messages import mk_mem_read_req, mk_mem_write, mk_spad_write

Process = Generator[None, None, Any]

def to_lanes( row: Bits, n: int ) -> NDArray[np.uint32]:
  """A beat or scratchpad row of n lanes as words; lane 0 is in the lowest bits."""
  return np.frombuffer( int( row ).to_bytes( 4 * n, "little" ), dtype=np.uint32 )

def from_lanes( words: NDArray[np.uint32] ) -> int:
  """The inverse of `to_lanes`."""
  return int.from_bytes( np.ascontiguousarray( words, dtype=np.uint32 ).tobytes(), "little" )

class InBox( Component ):
  """Takes messages into a Python queue, `got`."""

  def construct( s, Type: Any ) -> None:
    s.recv = RecvIfcRTL( Type )
    s.got: deque[Any] = deque()

    @update_ff
    def ff_box() -> None:
      if s.reset:
        s.got.clear()
        s.recv.rdy <<= 0
      else:
        if s.recv.val & s.recv.rdy:
          s.got.append( deepcopy( s.recv.msg ) )   # PyMTL3 changes messages in place
        s.recv.rdy <<= len( s.got ) < 2

class OutBox( Component ):
  """Sends the messages of a Python queue, `todo`; the first one stays there until it is taken."""

  def construct( s, Type: Any ) -> None:
    s.send = SendIfcRTL( Type )
    s.todo: deque[Any] = deque()

    @update_ff
    def ff_box() -> None:
      if s.reset:
        s.todo.clear()
        s.send.val <<= 0
      else:
        if s.send.val & s.send.rdy:
          s.todo.popleft()
        s.send.val <<= len( s.todo ) > 0
        if s.todo:
          s.send.msg <<= s.todo[0]

class Agent( Component ):
  """Runs `process`, a generator, one step per cycle.

  A subclass makes its ports with `add_recv`, `add_send` and `add_master`, then calls `start`. In
  `process`, `yield from s.recv( box )` waits for a message and returns it, `yield from s.send( box, msg )`
  waits until it is taken; the box of port `x` is `s.x_box`, of a master `s.x_req_box` and `s.x_resp_box`.
  """

  cfg: Any

  def add_recv( s, name: str, Type: Any ) -> None:
    """An input `name` of messages."""
    setattr( s, name, RecvIfcRTL( Type ) )
    setattr( s, f"{name}_box", InBox( Type ) )
    connect( getattr( s, name ), getattr( s, f"{name}_box" ).recv )

  def add_send( s, name: str, Type: Any ) -> None:
    """An output `name` of messages."""
    setattr( s, name, SendIfcRTL( Type ) )
    setattr( s, f"{name}_box", OutBox( Type ) )
    connect( getattr( s, name ), getattr( s, f"{name}_box" ).send )

  def add_master( s, name: str, Request: Any, Response: Any ) -> None:
    """A port `name` with requests out and responses in."""
    setattr( s, name, MasterIfcRTL( Request, Response ) )
    setattr( s, f"{name}_req_box", OutBox( Request ) )
    setattr( s, f"{name}_resp_box", InBox( Response ) )
    connect( getattr( s, name ).req, getattr( s, f"{name}_req_box" ).send )
    connect( getattr( s, name ).resp, getattr( s, f"{name}_resp_box" ).recv )

  def start( s ) -> None:
    """Run `process` from the next reset on."""
    s.running: Process | None = None
    s.clock   = Wire()
    s.stepped = 0     # the clock of the last step

    @update_ff
    def ff_clock() -> None:
      s.clock <<= ~s.clock

    # After all boxes have moved: the order of blocks at a clock edge differs from one Python process to the
    # next, and with it the cycles would. A combinational block may run more than once in a cycle.
    @update
    def up_process() -> None:
      if s.stepped != s.clock:
        s.stepped = int( s.clock )
        if s.reset:
          s.running = s.process()
        elif s.running is not None:
          next( s.running )

  def process( s ) -> Process:
    """The component's behaviour; a subclass defines it."""
    raise NotImplementedError

  def recv( s, box: InBox ) -> Process:
    """The next message of an input."""
    while not box.got:
      yield
    return box.got.popleft()

  def send( s, box: OutBox, msg: Any ) -> Process:
    """Offer a message until it is taken."""
    box.todo.append( msg )
    while box.todo:
      yield

  def read_stream( s, first: int, beats: int, name: str = "mem" ) -> Process:
    """`beats` beats of memory from beat `first` on, as words; bursts stay inside 4 KiB."""
    asks, answers = getattr( s, f"{name}_req_box" ), getattr( s, f"{name}_resp_box" )
    d, words = s.cfg.derived, []
    Request  = mk_mem_read_req( s.cfg )
    while beats:
      burst = min( beats, d.burst_beats - first % d.burst_beats )
      yield from s.send( asks, Request( first, burst ) )
      for _ in range( burst ):
        beat = yield from s.recv( answers )
        words.append( to_lanes( beat, s.cfg.n ) )
      first, beats = first + burst, beats - burst
    return np.concatenate( words )

  def write_bytes( s, name: str, start: int, data: NDArray[np.uint8] ) -> Process:
    """Write bytes to memory from byte address `start` on: whole beats, strobes at the ends."""
    size, Write = s.cfg.derived.beat_bytes, mk_mem_write( s.cfg )
    box = getattr( s, f"{name}_box" )
    while len( data ):
      beat, skip = divmod( start, size )
      part = data[: size - skip].tobytes()
      strobe = ( ( 1 << len( part ) ) - 1 ) << skip
      yield from s.send( box, Write( beat, int.from_bytes( part, "little" ) << 8 * skip, strobe ) )
      start, data = start + len( part ), data[len( part ) :]

  def read_matrix( s, name: str, base: float, rows: int, stride: float, width: int ) -> Process:
    """`rows` x `width` scratchpad rows as words [rows, width * n]."""
    asks, answers, words = getattr( s, f"{name}_req_box" ), getattr( s, f"{name}_resp_box" ), []
    for r in range( rows ):
      for c in range( width ):
        yield from s.send( asks, int( base ) + r * int( stride ) + c )
        row = yield from s.recv( answers )
        words.append( to_lanes( row, s.cfg.n ) )
    return np.concatenate( words ).reshape( rows, -1 )

  def write_matrix( s, base: float, stride: float, words: NDArray[np.uint32] ) -> Process:
    """Write words [rows, width * n] to scratchpad rows."""
    n, Write = s.cfg.n, mk_spad_write( s.cfg )
    for r, row in enumerate( words ):
      for c in range( len( row ) // n ):
        data = from_lanes( row[c * n : ( c + 1 ) * n] )
        yield from s.send( s.wr_box, Write( int( base ) + r * int( stride ) + c, data ) )

  def line_trace( s ) -> str:
    """Nothing: a functional component has no time to show."""
    return ""
