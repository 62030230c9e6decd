"""The whole NPU: controller, engines and memory system, at any mix of levels.

What happens is observed at the ports of the blocks, which are the same at every level, and so are the
figures. A unit is busy while a command is with it; a busy cycle in which no message moves at any of its ports is
attributed to one cause, the first of:

    write        a result that is offered is not taken
    scratchpad   a row that is asked for is not granted, or rows are due and none comes
    request      a burst that is asked for is not granted
    memory       beats are due and none comes
    compute      none of these
"""

# Components carry no type hints, as everywhere; mypy leaves them alone.
# mypy: allow-untyped-defs, allow-incomplete-defs, no-check-untyped-defs

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

from pymtl3 import Bits1, Bits4, Component, update_ff
from pymtl3.stdlib.stream.ifcs import RecvIfcRTL, SendIfcRTL

from cl.common.signals import mk_any, mk_sample
from cl.memory_system import MemorySystem, MemorySystemCL
from npu.arch.isa import Unit
from npu.errors import NpuError
from translation.blocks import get_block

CAUSES = ( "write", "scratchpad", "request", "memory", "compute" )

class SimulationError( NpuError ):
  """The simulated machine hangs, or a block breaks the rules of its ports: what, where and when."""

#-------------------------------------------------------------------------
# What is observed
#-------------------------------------------------------------------------

@dataclass
class UnitStats:
  """What a unit did: cycles with a command, cycles of them in which nothing moved by cause, commands finished, their
  multiply-accumulates, and beats that it read and wrote by the memory hub's client."""
  busy: int = 0
  stalls: Counter[str] = field( default_factory=Counter )
  commands: int = 0
  macs: int = 0
  beats_read: Counter[str] = field( default_factory=Counter )
  beats_written: Counter[str] = field( default_factory=Counter )

  def add( self, more: "UnitStats" ) -> None:
    """Take in what the unit did in another run."""
    self.busy     += more.busy
    self.commands += more.commands
    self.macs     += more.macs
    for mine, theirs in ( ( self.stalls, more.stalls ), ( self.beats_read, more.beats_read ),
                          ( self.beats_written, more.beats_written ) ):
      mine.update( theirs )

class _Channel:
  # A val/rdy channel: its signals as they are in the simulation.
  def __init__( self, name, ifc ):
    self.name = name
    self.val, self.rdy, self.msg = ifc.val, ifc.rdy, ifc.msg

# What a channel that is refused means.
REFUSED = { "write": "write", "put": "write", "ask": "scratchpad", "burst": "request" }

class Observer:
  """Watches the ports of one unit.

  Parameters
  ----------
  channels
    ( name, kind, interface ). Kinds: `cmd`, `ack`, `done` for commands; `burst` and `beat` for memory reads, `put` for
    writes; `ask` and `row` for scratchpad reads, `write` for writes; `other` is only watched.
  macs
    The multiply-accumulates of a command message, for kind `cmd`.
  """

  def __init__( self, name, channels, macs=lambda cmd: 0 ):
    self.name, self.macs = name, macs
    self.channels = [ ( kind, _Channel( n, ifc ) ) for n, kind, ifc in channels ]
    self.has_commands = any( kind == "cmd" for kind, _ in self.channels )
    # An idle unit wakes up when one of these becomes valid.
    kinds = ( "cmd", "ack", "done" ) if self.has_commands else ( "burst", "put", "ask", "write", "other" )
    self.wakes  = mk_any( [ c.val for kind, c in self.channels if kind in kinds ] )
    self.sample = mk_sample( [ x for _, c in self.channels for x in ( c.val, c.rdy ) ] )
    self.known  = {}        # by sample: (actions, cause if nothing moves)
    self.stats  = UnitStats()
    self.checking    = deque()   # multiply-accumulates of commands that are not answered yet
    self.outstanding = deque()   # and of those accepted
    self.beats_due = self.rows_due = 0
    self.puts = 0                # writes to memory, since the reset
    self.now = self.moved = 0

  def tick( self, now ):
    """One cycle; only for a unit that `awake` says has something to show."""
    self.now = now
    key  = self.sample()
    info = self.known.get( key )
    if info is None:
      info = self.known[key] = self.learn( key )
    actions, refused = info
    stats = self.stats
    stats.busy += 1
    if actions:
      self.moved = now
      for action, channel in actions:
        action( channel )
    else:
      stats.stalls[refused or ( "scratchpad" if self.rows_due else "memory" if self.beats_due else "compute" )] += 1

  def awake( self ):
    """Whether the unit has anything to do or to show."""
    return self.outstanding or self.checking or self.beats_due or self.rows_due or self.wakes()

  def learn( self, key ):
    """What a sample means."""
    actions, refused = [], set()
    for ( kind, channel ), val, rdy in zip( self.channels, key[::2], key[1::2], strict=True ):
      if val and rdy:
        actions.append( ( getattr( self, f"on_{kind}" ), channel ) )
      elif val:
        refused.add( REFUSED.get( kind ) )
    return actions, next( ( cause for cause in CAUSES if cause in refused ), None )

  def on_cmd( self, channel ):
    self.checking.append( self.macs( channel.msg ) )

  def on_ack( self, channel ):
    if not self.checking:
      raise SimulationError( f"cycle {self.now}: {self.name} answers a command that it did not get" )
    macs = self.checking.popleft()
    if not channel.msg:
      self.outstanding.append( macs )

  def on_done( self, channel ):
    if not self.outstanding:
      raise SimulationError( f"cycle {self.now}: {self.name} has finished a command that it did not accept" )
    self.stats.macs     += self.outstanding.popleft()
    self.stats.commands += 1

  def on_burst( self, channel ):
    beats = int( channel.msg.beats )
    self.beats_due += beats
    self.stats.beats_read[channel.name] += beats

  def on_beat( self, channel ):
    self.beats_due -= 1

  def on_put( self, channel ):
    self.puts += 1
    self.stats.beats_written[channel.name] += 1

  def on_ask( self, channel ):
    self.rows_due += 1

  def on_row( self, channel ):
    self.rows_due -= 1

  def on_write( self, channel ):
    pass

  def on_other( self, channel ):
    pass

  def waits_for( self ):
    """What the unit has to do and waits for, in words; empty if it is idle."""
    parts  = [ f"{len( self.outstanding )} commands to finish" ] * bool( self.outstanding )
    parts += [ f"{len( self.checking )} commands to answer" ] * bool( self.checking )
    parts += [ f"{self.beats_due} beats due" ] * bool( self.beats_due )
    parts += [ f"{self.rows_due} rows due" ] * bool( self.rows_due )
    parts += [ f"{c.name} is offered and not taken" for _, c in self.channels if c.val and not c.rdy ]
    return ", ".join( parts )

def gemm_macs( cmd: Any ) -> int:
  """Multiply-accumulates of a GEMM: its padded dimensions."""
  return int( cmd.rows ) * int( cmd.k ) * int( cmd.cols )

def attend_macs( cmd: Any ) -> int:
  """Multiply-accumulates of an ATTEND: the keys that each row may see, for scores and values."""
  rows, pos = int( cmd.rows ), int( cmd.pos )
  return 2 * int( cmd.heads ) * int( cmd.length ) * sum( pos + r + 1 for r in range( rows ) )

#-------------------------------------------------------------------------
# The machine
#-------------------------------------------------------------------------

class Npu( Component ):
  """Controller, engines, memory hub, scratchpad and DRAM.

  Ports
  -----
  doorbell
    RecvIfcRTL( Bits1 ): a message starts a run of what the mailbox says.
  finished
    SendIfcRTL( Bits4 ): its `npu.arch.isa.Status`, when it has ended.

  Parameters
  ----------
  dram
    The memory, uint8 [bytes], read and written in place.
  mac_array, vector_unit, attention_engine, controller
    Their classes, or functions of cfg. None: the cycle-level model.
  memory_hub
    The same; None: hub, DRAM and scratchpad as one block (`cl.memory_system.MemorySystemCL`), which is faster and has
    the same cycles.
  stall_seed
    None, or random stalls of DRAM and scratchpad.
  """

  def construct( s, cfg, dram, mac_array=None, vector_unit=None, attention_engine=None, controller=None,
                 memory_hub=None, stall_seed=None ):

    # Interface

    s.doorbell = RecvIfcRTL( Bits1 )
    s.finished = SendIfcRTL( Bits4 )

    # Components

    s.mac_array        = ( mac_array or get_block( "mac_array" )["cl"] )( cfg )
    s.vector_unit      = ( vector_unit or get_block( "vector_unit" )["cl"] )( cfg )
    s.attention_engine = ( attention_engine or get_block( "attention_engine" )["cl"] )( cfg )
    s.controller       = ( controller or get_block( "controller" )["cl"] )( cfg )
    s.memory           = ( MemorySystem( cfg, dram, stall_seed, memory_hub ) if memory_hub else
                           MemorySystemCL( cfg, dram, stall_seed ) )

    # Connections

    s.doorbell //= s.controller.doorbell
    s.finished //= s.controller.finished

    s.controller.mac_cmd   //= s.mac_array.cmd
    s.controller.mac_ack   //= s.mac_array.ack
    s.controller.mac_start //= s.mac_array.start
    s.controller.mac_done  //= s.mac_array.done
    s.controller.vec_cmd   //= s.vector_unit.cmd
    s.controller.vec_ack   //= s.vector_unit.ack
    s.controller.vec_done  //= s.vector_unit.done
    s.controller.att_cmd   //= s.attention_engine.cmd
    s.controller.att_ack   //= s.attention_engine.ack
    s.controller.att_done  //= s.attention_engine.done

    s.controller.fetch     //= s.memory.read[0]
    s.controller.load      //= s.memory.read[1]
    s.attention_engine.kv  //= s.memory.read[2]
    s.mac_array.mem        //= s.memory.read[3]

    s.controller.post         //= s.memory.write[0]
    s.controller.store        //= s.memory.write[1]
    s.attention_engine.kv_wr  //= s.memory.write[2]

    s.mac_array.act        //= s.memory.spad_read[0]
    s.mac_array.res        //= s.memory.spad_read[1]
    s.vector_unit.src      //= s.memory.spad_read[2]
    s.vector_unit.src2     //= s.memory.spad_read[3]
    s.attention_engine.q   //= s.memory.spad_read[4]
    s.attention_engine.acc //= s.memory.spad_read[5]
    s.controller.spad_rd   //= s.memory.spad_read[6]

    s.mac_array.wr         //= s.memory.spad_write[0]
    s.vector_unit.wr       //= s.memory.spad_write[1]
    s.attention_engine.wr  //= s.memory.spad_write[2]
    s.controller.spad_wr   //= s.memory.spad_write[3]

    # Observation

    s.observers = {}
    s.waits     = Counter()     # cycles of a run by the mask of the units that dispatch waits for
    s.now       = 0             # cycles since the reset
    s.running   = False
    me = s

    @update_ff
    def ff_observe():
      if s.reset:
        me.watch()
      else:
        me.observe()

  def watch( s ):
    """Begin to observe, with the signals as they are in the simulation."""
    c, mac, vec, att = s.controller, s.mac_array, s.vector_unit, s.attention_engine
    s.now, s.running, s.waits = 0, False, Counter()
    s.waits_port, s.pc_port = c.waits, c.pc
    s.written = s.memory.dram.beats_written      # before the reset
    s.observers = { o.name: o for o in (
      Observer( "mac_array", [
        ( "cmd", "cmd", mac.cmd ), ( "ack", "ack", mac.ack ), ( "start", "other", mac.start ),
        ( "done", "done", mac.done ), ( "weights", "burst", mac.mem.req ), ( "weights data", "beat", mac.mem.resp ),
        ( "act", "ask", mac.act.req ), ( "act data", "row", mac.act.resp ), ( "res", "ask", mac.res.req ),
        ( "res data", "row", mac.res.resp ), ( "wr", "write", mac.wr ) ], gemm_macs ),
      Observer( "vector_unit", [
        ( "cmd", "cmd", vec.cmd ), ( "ack", "ack", vec.ack ), ( "done", "done", vec.done ),
        ( "src", "ask", vec.src.req ), ( "src data", "row", vec.src.resp ), ( "src2", "ask", vec.src2.req ),
        ( "src2 data", "row", vec.src2.resp ), ( "wr", "write", vec.wr ) ] ),
      Observer( "attention_engine", [
        ( "cmd", "cmd", att.cmd ), ( "ack", "ack", att.ack ), ( "done", "done", att.done ),
        ( "kv", "burst", att.kv.req ), ( "kv data", "beat", att.kv.resp ), ( "kv_wr", "put", att.kv_wr ),
        ( "q", "ask", att.q.req ), ( "q data", "row", att.q.resp ), ( "acc", "ask", att.acc.req ),
        ( "acc data", "row", att.acc.resp ), ( "wr", "write", att.wr ) ], attend_macs ),
      Observer( "load", [ ( "load", "burst", c.load.req ), ( "load data", "beat", c.load.resp ),
                          ( "spad_wr", "write", c.spad_wr ) ] ),
      Observer( "store", [ ( "spad_rd", "ask", c.spad_rd.req ), ( "spad_rd data", "row", c.spad_rd.resp ),
                           ( "store", "put", c.store ) ] ),
      Observer( "controller", [ ( "doorbell", "other", c.doorbell ), ( "fetch", "burst", c.fetch.req ),
                                ( "fetch data", "beat", c.fetch.resp ), ( "post", "put", c.post ),
                                ( "finished", "other", c.finished ) ] ) ) }
    s.watched = list( s.observers.values() )
    s.begins  = _Channel( "doorbell", c.doorbell )
    s.ends    = _Channel( "finished", c.finished )

  def observe( s ):
    """One cycle."""
    now = s.now
    for o in s.watched:
      if o.awake():
        o.tick( now )
    if s.running:
      s.waits[int( s.waits_port )] += 1
      if s.ends.val and s.ends.rdy:
        s.running = False
    elif s.begins.val and s.begins.rdy:
      s.running = True
    s.now = now + 1

  def clear_stats( s ):
    """Count from zero."""
    s.waits.clear()
    for o in s.watched:
      o.stats = UnitStats()

  def writes_pending( s ):
    """Writes that were taken and are not in the memory yet."""
    return sum( o.puts for o in s.watched ) - ( s.memory.dram.beats_written - s.written )

  def last_move( s ):
    """The last cycle in which a message moved anywhere."""
    return max( o.moved for o in s.watched )

  def stats( s ):
    """UnitStats by unit: mac_array, vector_unit, attention_engine, load, store, controller."""
    return { o.name: o.stats for o in s.watched }

  def dispatch_waits( s ):
    """Cycles in which dispatch waited, by the unit it waited for; a cycle counts for each of several units."""
    return { unit.name: sum( n for mask, n in s.waits.items() if mask & unit ) for unit in Unit if unit }

  def waiting_for( s ):
    """What every unit waits for, a line each."""
    mask  = int( s.waits_port )
    lines = [ f"{o.name}: {text}" for o in s.watched if ( text := o.waits_for() ) ]
    names = ", ".join( str( unit.name ) for unit in Unit if mask & unit ) or "nothing"
    return "; ".join( [ f"instruction {int( s.pc_port )} waits for {names}", *lines ] )

  def line_trace( s ):
    return " ".join( f"[{x.line_trace()}]" for x in ( s.controller, s.mac_array, s.vector_unit, s.attention_engine,
                                                      s.memory ) )
