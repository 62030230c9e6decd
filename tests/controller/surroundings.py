"""The controller's surroundings in tests: a memory with mailbox, tokens and program, a scratchpad, stand-ins for the
engines.

The stand-ins check commands with the functions of `fl/`, work for a while and compute nothing. ARGMAX finds what the
case says. Everything that the controller does is compared with what it should have done, in order, and with the wait
masks.
"""

# Components carry no type hints, as everywhere.
# mypy: allow-untyped-defs, allow-incomplete-defs, no-check-untyped-defs

import itertools
import random
from bisect import bisect_right
from collections import deque

from pymtl3 import Bits1, Bits4, Component, InPort, mk_bits, update_ff
from pymtl3.stdlib.stream.ifcs import MinionIfcRTL, RecvIfcRTL, SendIfcRTL

from fl import attention_engine, mac_array, vector_unit
from npu.arch.config import LINE_BYTES, ceil_div
from npu.arch.isa import Status, Unit
from npu.arch.mailbox import Word
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
from tests.controller.reference import ENGINES, UNITS
from tests.controller.world import WRITABLE
from tests.harness import HarnessError

MAX_BURST = 16       # beats

OWN_WORDS = { Word.DOORBELL, Word.POS, Word.LEN, Word.STATUS, Word.ERROR, Word.PC, Word.COUNT }

class _Reader:
  """A read port of the memory: what was read, and when it may come."""

  def __init__( self ) -> None:
    self.queue: deque[tuple[int, int]] = deque()
    self.free    = 0
    self.offered = False

  def offer( self, now: int, stalled: bool ) -> bool:
    if not self.offered and self.queue and not stalled:
      self.offered = max( self.queue[0][0], self.free ) <= now
    return self.offered

class _Engine:
  """What a stand-in has to do."""

  def __init__( self, seed: int ) -> None:
    self.random = random.Random( seed )
    self.sent: list[bool] = []              # commands taken: accepted?
    self.acks: deque[tuple[int, int]] = deque()       # ( cycle, error )
    self.todo: deque[tuple[int, int]] = deque()       # ( cycles of work, value ) of accepted commands
    self.acked    = 0                       # accepted commands whose acknowledgement is taken
    self.started  = 0                       # messages on the MAC array's start
    self.begun    = 0                       # when the command at work will be finished, 0 if none is
    self.finished = 0

class Surroundings( Component ):
  """Everything around the controller; see the top of this file."""

  def construct( s, world, timing, strict ):
    cfg  = world.cfg
    d    = cfg.derived
    BEAT = mk_bits( d.beat_bits )
    SPAD = mk_bits( d.spad_addr_bits )

    # Interface

    s.doorbell = SendIfcRTL( Bits1 )
    s.finished = RecvIfcRTL( Bits4 )
    s.read     = [ MinionIfcRTL( mk_mem_read_req( cfg ), BEAT ) for _ in range( 2 ) ]     # fetch, load
    s.write    = [ RecvIfcRTL( mk_mem_write( cfg ) ) for _ in range( 2 ) ]                # post, store
    s.spad_wr  = RecvIfcRTL( mk_spad_write( cfg ) )
    s.spad_rd  = MinionIfcRTL( SPAD, BEAT )
    s.cmd      = [ RecvIfcRTL( mk( cfg ) ) for mk in ( mk_gemm_cmd, mk_vector_cmd, mk_attend_cmd ) ]
    s.ack      = [ SendIfcRTL( Ack ) for _ in range( 3 ) ]
    s.start    = RecvIfcRTL( Bits1 )
    s.engine_done = [ SendIfcRTL( Done ) for _ in range( 3 ) ]
    s.pc       = InPort( 32 )
    s.waits    = InPort( 5 )

    s.world, s.timing, s.strict, s.beat_bytes, s.n = world, timing, strict, d.beat_bytes, cfg.n
    s.burst_beats = d.burst_beats
    s.now = 0
    s.begin()

    # What the controller offers and is not taken stays as it is; what it asked for it takes at once.
    outputs = { "finished": s.finished, "fetch": s.read[0].req, "load": s.read[1].req, "post": s.write[0],
                "store": s.write[1],
                "spad_wr": s.spad_wr, "spad_rd": s.spad_rd.req, "mac_cmd": s.cmd[0], "vec_cmd": s.cmd[1],
                "att_cmd": s.cmd[2],
                "mac_start": s.start }
    answers = { "fetch": s.read[0].resp, "load": s.read[1].resp, "spad_rd": s.spad_rd.resp }
    held    = {}

    def watch_offers():
      for name, port in outputs.items():
        if name in held and ( not port.val or port.msg != held[name] ):
          s.fail( f"{name} offered {held[name]}, and now {port}" )
        held.pop( name, None )
        if port.val and not port.rdy:
          held[name] = port.msg.clone()
      for name, port in answers.items():
        if s.strict and port.val and not port.rdy:
          s.fail( f"{name} does not take its answer" )

    @update_ff
    def tick():
      if s.reset:
        s.begin()
        held.clear()
        s.doorbell.val <<= 0
        s.finished.rdy <<= 0
        s.spad_wr.rdy  <<= 0
        s.start.rdy    <<= 0
        s.spad_rd.req.rdy  <<= 0
        s.spad_rd.resp.val <<= 0
        for i in range( 2 ):
          s.read[i].req.rdy  <<= 0
          s.read[i].resp.val <<= 0
          s.write[i].rdy     <<= 0
        for i in range( 3 ):
          s.cmd[i].rdy <<= 0
          s.ack[i].val <<= 0
          s.engine_done[i].val <<= 0
      else:
        # What happens in this cycle: reads before writes, which they do not see.
        s.watch( int( s.pc ), int( s.waits ) )
        watch_offers()
        for i in range( 2 ):
          if s.read[i].req.val & s.read[i].req.rdy:
            s.take_read( i, int( s.read[i].req.msg.addr ), int( s.read[i].req.msg.beats ) )
          if s.read[i].resp.val & s.read[i].resp.rdy:
            s.give_beat( i )
        if s.spad_rd.resp.val & s.spad_rd.resp.rdy:
          s.rows.popleft()
          s.row_offered = False
        if s.spad_rd.req.val & s.spad_rd.req.rdy:
          s.take_row_read( int( s.spad_rd.req.msg ) )
        for i in range( 3 ):
          if s.engine_done[i].val & s.engine_done[i].rdy:
            s.give_done( i )
          if s.ack[i].val & s.ack[i].rdy:
            s.give_ack( i )
          if s.cmd[i].val & s.cmd[i].rdy:
            s.take_command( i, s.cmd[i].msg, int( s.pc ) )
        if s.start.val & s.start.rdy:
          s.take_start()
        if s.spad_wr.val & s.spad_wr.rdy:
          s.take_row_write( int( s.spad_wr.msg.addr ), int( s.spad_wr.msg.data ) )
        for i in range( 2 ):
          if s.write[i].val & s.write[i].rdy:
            s.take_write( i, int( s.write[i].msg.addr ), int( s.write[i].msg.data ), int( s.write[i].msg.strobe ) )
        if s.finished.val & s.finished.rdy:
          s.take_finished( int( s.finished.msg ) )
        if s.doorbell.val & s.doorbell.rdy:
          s.rung += 1
          s.log( "doorbell" )

        # What is offered in the next one.
        s.now += 1
        stall = s.stalls()
        s.doorbell.msg <<= 1
        s.doorbell.val <<= s.rung < len( s.world.expected ) and ( s.world.case.early or s.rung == s.run_number )
        s.finished.rdy <<= not stall & 1
        for i in range( 2 ):
          s.read[i].req.rdy  <<= not stall >> 1 + i & 1
          s.read[i].resp.val <<= s.readers[i].offer( s.now, stall >> 3 + i & 1 )
          s.read[i].resp.msg <<= s.readers[i].queue[0][1] if s.readers[i].offered else 0
          s.write[i].rdy     <<= s.write_free[i] <= s.now and not stall >> 5 + i & 1
        s.spad_wr.rdy      <<= not stall >> 7 & 1
        s.row_offered        = s.row_offered or ( len( s.rows ) > 0 and not stall >> 8 & 1 )
        s.spad_rd.resp.val <<= s.row_offered
        s.spad_rd.resp.msg <<= s.rows[0] if s.row_offered else 0
        s.spad_rd.req.rdy  <<= len( s.rows ) < 2 and not stall >> 9 & 1
        s.start.rdy        <<= not stall >> 10 & 1
        for i in range( 3 ):
          e = s.engines[i]
          s.work( i )
          s.cmd[i].rdy <<= len( e.todo ) < 3 and not stall >> 11 + i & 1
          s.ack[i].val <<= len( e.acks ) > 0 and e.acks[0][0] <= s.now
          s.ack[i].msg <<= e.acks[0][1] if e.acks else 0
          s.engine_done[i].val <<= 0 < e.begun <= s.now
          s.engine_done[i].msg <<= e.todo[0][1] if e.begun else 0

  # Start, and start of a run

  def begin( s ):
    s.memory      = bytearray( s.world.memory )
    s.spad        = bytearray( s.world.spad )
    s.events      = []
    s.watched     = None
    s.run_number  = 0
    s.rung        = 0
    s.asked_ahead = False
    s.found       = itertools.cycle( s.world.case.found )
    s.stall_random = random.Random( s.timing.stall_seed or 0 )
    s.readers     = [ _Reader(), _Reader() ]
    s.write_free  = [ 0, 0 ]
    s.rows        = deque()
    s.row_offered = False
    s.engines     = [ _Engine( 10 * ( s.timing.seed or 0 ) + i ) for i in range( 3 ) ]
    s.statuses    = []
    s.histories   = []
    s.begin_run()

  def begin_run( s ):
    s.loaded = s.row_written = s.row_read = s.stored = s.emitted = 0
    s.history, s.closed = {}, False
    for e in s.engines:
      e.sent, e.acked, e.started, e.finished = [], 0, 0, 0
    if s.run_number < len( s.world.expected ):
      for address, value in s.world.host_writes( s.run_number ).items():
        s.memory[4 * address : 4 * address + 4] = value.to_bytes( 4, "little" )

  def stalls( s ):
    if s.timing.stall_seed is None:
      return 0
    return s.stall_random.getrandbits( 16 ) & s.stall_random.getrandbits( 16 )

  def log( s, what, *values ):
    s.events.append( ( s.now, what, *values ) )

  def watch( s, pc, waits ):
    if ( pc, waits ) != s.watched:
      s.watched = ( pc, waits )
      s.log( "pc, waits", pc, waits )

  # What is right

  def fail( s, text ):
    raise HarnessError( f"run {s.run_number}, cycle {s.now}: {text}" )

  def expected_now( s ):
    if s.run_number >= len( s.world.expected ) or s.rung <= s.run_number:
      s.fail( "something happens between two runs" )
    return s.world.expected[s.run_number]

  def require( s, need, what ):
    finished = ( *( e.finished for e in s.engines ), s.row_written, s.stored )
    for unit, least, count in zip( UNITS, need, finished, strict=True ):
      if count < least:
        s.fail( f"{what}, but {unit.name} has finished {count} of {least}" )

  # Memory

  def take_read( s, port, addr, beats ):
    name = ( "fetch", "load" )[port]
    s.log( name, addr, beats )
    where = f"{name} of {beats} beats at beat {addr}"
    if not 1 <= beats <= s.burst_beats or addr // s.burst_beats != ( addr + beats - 1 ) // s.burst_beats:
      s.fail( f"{where} is empty or crosses 4 KiB" )
    if beats > MAX_BURST and s.strict:
      s.fail( f"{where} is longer than {MAX_BURST}" )
    if ( addr + beats ) * s.beat_bytes > len( s.memory ):
      s.fail( f"{where} leaves the memory" )
    if port == 0:
      s.check_fetch( addr, beats, where )
    else:
      e = s.expected_now()
      if list( range( addr, addr + beats ) ) != e.loads[s.loaded : s.loaded + beats]:
        s.fail( f"{where}, expected {e.loads[s.loaded : s.loaded + 16]}" )
      s.require( e.load_steps[bisect_right( e.load_steps, s.loaded, key=lambda x: x[0] ) - 1][1], where )
      s.loaded += beats
    reader = s.readers[port]
    size   = s.beat_bytes
    reader.queue.extend( ( s.now + s.timing.latency, int.from_bytes( s.memory[a * size : ( a + 1 ) * size], "little" ) )
                         for a in range( addr, addr + beats ) )

  def check_fetch( s, addr, beats, where ):
    low, high = addr * s.beat_bytes, ( addr + beats ) * s.beat_bytes
    if s.asked_ahead and s.rung <= s.run_number:
      e = s.world.expected[s.run_number - 1]
      allowed = [ e.program ]
    else:
      e = s.expected_now()
      allowed = [ ( 0, 2 * LINE_BYTES ), ( 4 * e.tokens[0], 4 * sum( e.tokens ) ), e.program ]
    s.asked_ahead = False
    for first, last in allowed:
      if first // s.beat_bytes * s.beat_bytes <= low and high <= ceil_div( last, s.beat_bytes ) * s.beat_bytes:
        return
    s.fail( f"{where} is neither mailbox nor tokens nor program" )

  def give_beat( s, port ):
    reader = s.readers[port]
    reader.queue.popleft()
    reader.offered = False
    reader.free    = s.now + s.timing.gap

  def take_write( s, port, addr, data, strobe ):
    name = ( "post", "store" )[port]
    s.log( name, addr, strobe )
    s.write_free[port] = s.now + s.timing.gap
    start = addr * s.beat_bytes
    if start + s.beat_bytes > len( s.memory ):
      s.fail( f"{name} at beat {addr} leaves the memory" )
    octets = data.to_bytes( s.beat_bytes, "little" )
    if port == 0:
      s.check_post( start // 4, octets, strobe )
    else:
      e = s.expected_now()
      if e.stores[s.stored : s.stored + 1] != [ ( addr, strobe ) ]:
        s.fail( f"store of {strobe:#x} at beat {addr}, expected {e.stores[s.stored : s.stored + 4]}" )
      s.stored += 1
    for i in range( s.beat_bytes ):
      if strobe >> i & 1:
        s.memory[start + i] = octets[i]

  def check_post( s, first, octets, strobe ):
    e = s.expected_now()
    if s.closed:
      s.fail( "post after DOORBELL" )
    overlaps = e.tokens[0] < 32
    for i in range( s.n ):
      part = strobe >> 4 * i & 15
      if part == 0:
        continue
      word, value = first + i, int.from_bytes( octets[4 * i : 4 * i + 4], "little" )
      is_token = e.tokens[0] <= word < sum( e.tokens )
      if part != 15 or not ( word in OWN_WORDS or is_token ):
        s.fail( f"post of bytes {part:#x} of word {word}" )
      old = int.from_bytes( s.memory[4 * word : 4 * word + 4], "little" )
      if is_token and not overlaps:
        if s.emitted >= len( e.emit_needs ):
          s.fail( f"token posted to word {word}: no EMIT has been reached" )
        s.require( e.emit_needs[s.emitted], f"token {s.emitted} posted" )
        s.emitted += 1
      elif word == Word.LEN and value > old and not overlaps and s.emitted < 1 + s.grown():
        s.fail( f"LEN is {value} before the token" )
      elif word == Word.PC or ( word == Word.STATUS and value != Status.RUNNING ):
        s.require( e.total, "the mailbox says that the run has ended" )
      elif word == Word.DOORBELL:
        s.closed = True
      if old != value:
        s.history.setdefault( word, [] ).append( value )

  def grown( s ):
    return len( s.history.get( int( Word.LEN ), () ) )

  # Scratchpad

  def take_row_read( s, row ):
    s.log( "spad_rd", row )
    e = s.expected_now()
    if e.spad_reads[s.row_read : s.row_read + 1] != [ row ]:
      s.fail( f"read of scratchpad row {row}, expected {e.spad_reads[s.row_read : s.row_read + 4]}" )
    s.require( e.store_steps[bisect_right( e.store_steps, s.row_read, key=lambda x: x[0] ) - 1][1],
               f"read of scratchpad row {row}" )
    s.row_read += 1
    s.rows.append( int.from_bytes( s.spad[row * s.beat_bytes : ( row + 1 ) * s.beat_bytes], "little" ) )

  def take_row_write( s, row, data ):
    s.log( "spad_wr", row )
    e = s.expected_now()
    if e.spad_writes[s.row_written : s.row_written + 1] != [ row ]:
      s.fail( f"write of scratchpad row {row}, expected {e.spad_writes[s.row_written : s.row_written + 4]}" )
    s.row_written += 1
    s.spad[row * s.beat_bytes : ( row + 1 ) * s.beat_bytes] = data.to_bytes( s.beat_bytes, "little" )

  # Engines

  def take_command( s, i, msg, pc ):
    unit, e, expected = ENGINES[i], s.engines[i], s.expected_now()
    s.log( f"{unit.name} command" )
    k = len( e.sent )
    if k >= len( expected.commands[unit] ):
      s.fail( f"{unit.name} gets {msg}; it has its {k} commands already" )
    step = expected.commands[unit][k]
    got  = { name: int( getattr( msg, name ) ) & ( 1 if ( step.i.mnemonic, name ) == ( "ARGMAX", "mode" ) else -1 )
             for name in step.command }
    if got != step.command:
      wrong = { name: ( got[name], want ) for name, want in step.command.items() if got[name] != want }
      s.fail( f"{unit.name} command {k}, {step.i.mnemonic} at {step.pc}: ( got, expected ) are {wrong}" )
    if pc != step.pc:
      s.fail( f"{step.i.mnemonic} is at {step.pc}, pc says {pc}" )
    s.require( expected.needs[unit][k], f"{unit.name} gets command {k}, {step.i.mnemonic} at {step.pc}" )
    error = s.answer( unit, msg )
    if error != step.error:
      s.fail( f"{step.i.mnemonic} at {step.pc} is answered {error.name}, expected {step.error.name}" )
    e.sent.append( not error )
    e.acks.append( ( s.now + 1 + s.delay( e, s.timing.ack ), int( error ) ) )
    if not error:
      value = next( s.found ) if step.i.mnemonic == "ARGMAX" else e.random.getrandbits( 32 )
      e.todo.append( ( s.delay( e, s.timing.work ), value ) )

  def answer( s, unit, msg ):
    cfg = s.world.cfg
    if unit == Unit.MAC:
      return mac_array.check( cfg, mac_array.instruction_of( msg ), int( msg.rows ), int( msg.lines ) )
    if unit == Unit.VEC:
      return vector_unit.check( cfg, vector_unit.instruction_of( msg ), int( msg.rows ) )
    return attention_engine.check( cfg, attention_engine.instruction_of( msg ), int( msg.rows ), int( msg.pos ),
                                   int( msg.lines ), int( msg.writable ) )

  def delay( s, e, most ):
    return most if s.timing.seed is None else e.random.randint( 0, most )

  def give_ack( s, i ):
    e = s.engines[i]
    s.log( f"{ENGINES[i].name} ack" )
    e.acked += e.acks.popleft()[1] == 0

  def take_start( s ):
    e = s.engines[0]
    s.log( "MAC start" )
    if e.started >= e.acked:
      s.fail( f"start {e.started} of the MAC array, which has accepted {e.acked} commands" )
    s.require( s.expected_now().start_needs[e.started], f"start {e.started} of the MAC array" )
    e.started += 1

  def work( s, i ):
    e = s.engines[i]
    if e.todo and not e.begun and e.finished < ( e.started if i == 0 else e.acked ):
      e.begun = s.now + 1 + e.todo[0][0]

  def give_done( s, i ):
    e = s.engines[i]
    s.log( f"{ENGINES[i].name} done" )
    e.todo.popleft()
    e.begun = 0
    e.finished += 1

  # The end of a run

  def take_finished( s, status ):
    s.log( "finished", status )
    e = s.expected_now()
    s.require( e.total, "finished" )
    for what, count, want in ( ( "loads", s.loaded, len( e.loads ) ), ( "stores", s.stored, len( e.stores ) ),
                               *( ( f"{u.name} commands", len( x.sent ), len( e.commands[u] ) )
                                  for u, x in zip( ENGINES, s.engines, strict=True ) ) ):
      if count != want:
        s.fail( f"finished after {count} {what}, expected {want}" )
    if status != e.result.status:
      s.fail( f"finished with {status}, expected {e.result}" )
    if not s.closed:
      s.fail( "finished before DOORBELL is cleared" )
    s.check_memory( e )
    # An instruction that was asked for ahead may be granted, and come, when its run has ended.
    s.asked_ahead = s.read[0].req.val and not s.read[0].req.rdy
    s.run_number += 1
    s.begin_run()

  def check_memory( s, e ):
    ordered = s.world.case.ordered
    size    = len( s.memory ) if ordered else WRITABLE * LINE_BYTES
    for name, got, want, unit in ( ( "DRAM word", s.memory[:size], e.memory[:size], 4 ),
                                   ( "scratchpad row", s.spad if ordered else b"", e.spad if ordered else b"",
                                     s.beat_bytes ) ):
      if got != want:
        at = next( i for i in range( 0, len( want ), unit ) if got[i : i + unit] != want[i : i + unit] )
        s.fail( f"{name} {at // unit} is {got[at : at + unit][::-1].hex()}, expected "
                f"{want[at : at + unit][::-1].hex()}; result {e.result}" )
    before  = s.before_run()
    history = {}
    for word, value in e.posts:
      if history.get( word, [ before( word ) ] )[-1] != value:
        history.setdefault( word, [] ).append( value )
    if history != s.history:
      s.fail( f"words of the mailbox were {s.history}, expected {history}" )

  def before_run( s ):
    memory = s.world.memory if s.run_number == 0 else s.world.expected[s.run_number - 1].memory
    host   = s.world.host_writes( s.run_number )
    return lambda word: host.get( word, int.from_bytes( memory[4 * word : 4 * word + 4], "little" ) )

  def done( s ):
    """Whether every run has ended."""
    return s.run_number == len( s.world.expected )

  def waiting_for( s ):
    """What is missing, empty if nothing."""
    if s.done():
      return ""
    e = s.world.expected[s.run_number]
    return ( f"run {s.run_number} of {len( s.world.expected )}, expected {e.result}; "
             f"loads {s.loaded} of {len( e.loads )}, stores {s.stored} of {len( e.stores )}, engines "
             + ", ".join( f"{x.finished} of {len( e.commands[u] )}" for u,
                          x in zip( ENGINES, s.engines, strict=True ) ) )

  def line_trace( s ):
    return f"{int( s.pc ):3} {int( s.waits ):05b}"
