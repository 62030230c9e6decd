"""Attention engine, cycle level: what happens in which cycle.

Values come from `fl.attention_engine`, a chunk at a time; this file says when. Every cycle has two halves: first all
that can happen is decided from the state at its beginning, then the state moves. So the cycle counts are those of
`rtl_models.attention_engine`.

    check       a command at a time, in a fixed number of cycles
    append      a scratchpad row a cycle becomes half a beat of the cache
    chunk       what the stream brings: exponents, keys, values; two chunks are kept
    load        two keys (or values) a cycle into the shadow tile; the loader decides the order of phases
    issue       a query row, or a row of probabilities, meets the stationary tile
    step        a cycle in which the pipeline moves; everything behind the issue counts in steps
    softmax     a row with all keys of a chunk goes in, a key tile per step; it comes out a fixed number of steps later
"""

from collections import deque

import numpy as np
from pymtl3 import *
from pymtl3.stdlib.stream.ifcs import MasterIfcRTL, RecvIfcRTL, SendIfcRTL

from cl.attention.append import append_steps
from cl.attention.chunks import ChunkBuffer
from cl.attention.sequence import chunks_of, sweeps_of
from cl.attention.tiles import Tile, TileLoader
from cl.common.streams import RowReader, StreamReader
from fl.agent import from_lanes, to_lanes
from fl.attention_engine import check, instruction_of
from npu.arch.config import CHUNK, ceil_div
from npu.arch.footprint import kv_layout
from npu.arch.messages import Ack, Done, mk_attend_cmd, mk_mem_read_req, mk_mem_write, mk_spad_write

COMMANDS     = 2     # accepted commands that wait
CHECK_CYCLES = 13    # from a command's first cycle in the check to its answer: 8 of them divide
CHUNKS       = 4     # between the first that is read and the last that is written
# Steps from the issue until a row's sum is complete, an output so far is needed, the write port.
SUM, OUTPUT, WRITE_PORT = 3, 5, 8

def softmax_steps( tiles ):
  """Steps from a row's last key tile until its probabilities can be read."""
  return 15 + tiles

class AttentionEngineCL( Component ):
  """See `rtl_models.attention_engine.AttentionEngineRTL` for the ports."""

  def construct( s, cfg ):
    d    = cfg.derived
    BEAT = mk_bits( d.beat_bits )
    SPAD = mk_bits( d.spad_addr_bits )
    REQ, WRITE, KV_WRITE = mk_mem_read_req( cfg ), mk_spad_write( cfg ), mk_mem_write( cfg )
    s.cfg = cfg

    # Interface

    s.cmd   = RecvIfcRTL( mk_attend_cmd( cfg ) )
    s.ack   = SendIfcRTL( Ack )
    s.done  = SendIfcRTL( Done )
    s.kv    = MasterIfcRTL( REQ, BEAT )
    s.kv_wr = SendIfcRTL( KV_WRITE )
    s.q     = MasterIfcRTL( SPAD, BEAT )
    s.acc   = MasterIfcRTL( SPAD, BEAT )
    s.wr    = SendIfcRTL( WRITE )

    # State is plain Python, reached by another name: PyMTL3 takes what it reads through `s` for signals.
    s.clear()
    me = s

    @update_ff
    def ff_tick():
      if s.reset:
        me.clear()
        s.kv.resp.rdy  <<= 1
        s.q.resp.rdy   <<= 1
        s.acc.resp.rdy <<= 1
        s.cmd.rdy      <<= 1
        s.ack.val      <<= 0
        s.done.val     <<= 0
        s.done.msg     <<= 0
        s.kv.req.val   <<= 0
        s.kv_wr.val    <<= 0
        s.q.req.val    <<= 0
        s.acc.req.val  <<= 0
        s.wr.val       <<= 0
      elif me.busy or s.cmd.val:
        me.tick()
        # Outputs depend on state alone: what is offered in the next cycle. Assignments cost most of the
        # simulation's time, so nothing is set that stays as it is.
        new = me.offers()
        old = me.offered
        if new != old:
          if new[0] != old[0]:
            s.cmd.rdy <<= new[0]
          if new[1] != old[1]:
            s.ack.val <<= new[1] is not None
            s.ack.msg <<= new[1] or 0
          if new[2] != old[2]:
            s.done.val <<= new[2]
          if new[3] != old[3]:
            s.kv.req.val <<= new[3] is not None
            if new[3] is not None:
              s.kv.req.msg <<= REQ( *new[3] )
          if new[4] is not old[4]:
            s.kv_wr.val <<= new[4] is not None
            if new[4] is not None:
              s.kv_wr.msg <<= KV_WRITE( *new[4] )
          if new[5] != old[5]:
            s.q.req.val <<= new[5] is not None
            if new[5] is not None:
              s.q.req.msg <<= new[5]
          if new[6] != old[6]:
            s.acc.req.val <<= new[6] is not None
            if new[6] is not None:
              s.acc.req.msg <<= new[6]
          if new[7] != old[7]:
            s.wr.val <<= new[7] is not None
            if new[7] is not None:
              s.wr.msg <<= WRITE( *new[7] )
          me.offered = new

  def clear( s ):
    """The state after reset."""
    s.busy     = False             # anything at all is going on
    s.checking = None              # (message, instruction), in the check
    s.wait     = 0                 # cycles until its answer
    s.error    = 0
    s.jobs     = deque()           # accepted: (message, instruction)
    s.state    = "idle"
    s.steps    = None              # of the appender
    s.next     = None              # its next step
    s.write    = None              # at the memory's write port
    s.stream   = StreamReader( s.cfg )
    s.buffer   = ChunkBuffer( s.cfg )
    s.loader   = TileLoader()
    s.queries  = RowReader()
    s.outputs  = RowReader()
    s.results  = ()                # addresses that are written, of this chunk
    s.result   = 0                 # the next one
    s.source   = None              # chunks to come
    s.ring     = [ None ] * CHUNKS
    # Chunks since reset: known, and where the readers and the writer are.
    s.known = s.at_q = s.at_s = s.at_o = s.at_w = 0
    s.active   = None              # stationary tile
    s.row      = 0                 # its next row
    s.weighted = 0                 # chunks whose probabilities are there and not used up
    s.step     = 0
    s.sums     = deque()           # steps in which a row has met all keys
    s.needs    = deque()           # in which an output so far is needed
    s.ports    = deque()           # from which on a result is at the write port
    s.words    = deque()           # results, in order
    s.ready    = 0                 # complete rows that the softmax has not begun, or not finished
    s.s_tile   = 0
    s.s_rows   = 0                 # rows of this chunk that have gone into the softmax
    s.softmax  = deque()           # steps in which a chunk's last row comes out
    s.offered  = ( True, None, False, None, None, None, None, None )

  def offers( s ):
    """What stands at the outputs: a ready, a message or None each."""
    stream, queries, outputs = s.stream, s.queries, s.outputs
    return ( s.checking is None and len( s.jobs ) < COMMANDS,
             s.error if s.checking and not s.wait else None,
             s.state == "report",
             ( stream.addr, stream.burst() ) if stream.asks() else None,
             s.write,
             queries.next if queries.asks() else None,
             outputs.next if outputs.asks() else None,
             ( s.results[s.result], s.words[0] )
             if s.ports and s.ports[0] <= s.step and s.result < len( s.results ) else None )

  def tick( s ):
    """One cycle."""
    if s.state == "attend":
      s.tick_attend()
    elif s.state in ( "start", "append" ):
      s.tick_append()
    elif s.state == "idle":
      if s.jobs:
        s.msg, s.i = s.jobs.popleft()
        s.state = "setup"
    elif s.state == "setup":
      s.state = "start"
    elif s.done.rdy:
      s.state = "idle"
    s.tick_check()
    s.busy = s.state != "idle" or s.checking is not None or len( s.jobs ) > 0

  def tick_check( s ):
    """Commands come in, and are answered."""
    if s.checking:
      if s.wait:
        s.wait -= 1
      elif s.ack.rdy:
        if not s.error:
          s.jobs.append( s.checking )
        s.checking = None
    elif s.cmd.val and s.cmd.rdy:
      m = s.cmd.msg.clone()
      i = instruction_of( m )
      s.checking, s.wait = ( m, i ), CHECK_CYCLES
      s.error = int( check( s.cfg, i, int( m.rows ), int( m.pos ), int( m.lines ), int( m.writable ) ) )

  #-----------------------------------------------------------------------
  # Append
  #-----------------------------------------------------------------------

  def tick_append( s ):
    """Scratchpad rows become beats of the cache."""
    i, n = s.i, s.cfg.n
    if s.state == "start":
      rows, width = int( s.msg.rows ), 2 * int( i.kv_heads ) * int( i.length ) // n
      s.queries.start( [ int( i.src2 ) + r * int( i.src_stride ) + c for r in range( rows ) for c in range( width ) ] )
      s.steps = append_steps( s.cfg, i, rows, int( s.msg.pos ) )
      s.next  = next( s.steps )
      s.state = "append"
      return
    free  = s.write is None or bool( s.kv_wr.rdy )
    idle  = s.next is None and s.write is None
    takes = False
    if free:
      s.write = None
    if s.next and free:
      t, beat, strobe = s.next
      takes = t is not None and len( s.queries.buffer ) > 0
      if takes:
        row  = s.queries.buffer[0]
        half = int.from_bytes( to_lanes( row, n ).astype( np.uint16 ).tobytes(), "little" )
        if t == 0:
          s.exponent = row >> 16 & 0xFF
        if beat is None:
          s.half = half
        else:
          # The lower half is the one before, if that is of this row.
          low     = s.half if strobe & 1 and strobe >> 2 * n & 1 else half
          s.write = ( beat, half << 16 * n | low, strobe )
      elif t is None:
        s.write = ( beat, from_lanes( np.full( n, s.exponent * 0x01010101, dtype=np.uint32 ) ), strobe )
      if takes or t is None:
        s.next = next( s.steps, None )
    s.queries.tick( s.q, takes )
    if idle:
      s.begin()

  def begin( s ):
    """Everything is appended: attention begins in the next cycle."""
    i, rows, position = s.i, int( s.msg.rows ), int( s.msg.pos )
    layout   = kv_layout( i )
    beats    = layout.chunk_lines * s.cfg.derived.beats_per_line
    seen     = ceil_div( position + rows, CHUNK )
    heads    = sweeps_of( s.cfg, i, rows, position )
    s.source = chunks_of( heads, seen )
    s.coming = next( s.source )
    for kv, sweeps in enumerate( heads ):
      first = int( i.dram ) * s.cfg.derived.beats_per_line + kv * layout.chunks * beats
      s.stream.jobs.extend( [ ( first, seen * beats ) ] * len( sweeps ) )
    s.dims   = int( i.length ) // s.cfg.n
    s.tiles  = CHUNK // s.cfg.n
    s.state  = "attend"

  #-----------------------------------------------------------------------
  # Attend
  #-----------------------------------------------------------------------

  def tick_attend( s ):
    """One cycle of attention."""
    stream, buffer, loader, queries, outputs, ring = s.stream, s.buffer, s.loader, s.queries, s.outputs, s.ring
    step, known, at_w = s.step, s.known, s.at_w

    # What happens in this cycle, from the state at its beginning
    at_port = len( s.ports ) > 0 and s.ports[0] <= step
    written = at_port and s.result < len( s.results ) and bool( s.wr.rdy )
    needs   = len( s.needs ) > 0 and s.needs[0] == step
    go      = ( not at_port or written ) and ( not needs or len( outputs.buffer ) > 0 )
    tile    = s.active
    issue   = False
    if go and tile:
      if tile.is_v:
        issue = s.weighted > 0 and ( tile.chunk.opens or tile.number == at_w )
      else:
        issue = len( queries.buffer ) > 0
    last    = issue and s.row == tile.rows - 1
    swap    = loader.held is not None and ( tile is None or last )
    number  = loader.numbers[loader.values]
    loads   = ( number != known and buffer.count[1 + loader.values] > 0 and ( loader.held is None or swap ) )
    takes   = len( stream.buffer ) > 0 and buffer.takes()
    opens_o = outputs.next is None and s.at_o != known and s.at_o == at_w
    opens_q = queries.next is None and s.at_q != known
    opens_w = s.result >= len( s.results ) and at_w != known
    w_ends  = written and s.result == len( s.results ) - 1

    # How the state moves: the pipeline
    if issue:
      s.issue( tile )
    if written:
      s.ports.popleft()
      s.words.popleft()
      s.result += 1
    soft = False
    if go:
      if needs:
        s.needs.popleft()
      soft = s.step_softmax()
      s.step = step + 1

    # Tiles
    if swap:
      s.active, s.row = loader.held, 0
      loader.held = None
    elif last:
      s.active = None
    elif issue:
      s.row += 1
    if soft:
      s.weighted += 1
      buffer.count[0] -= 1
    if last and tile.is_v and tile.ends:
      s.weighted -= 1
    filled_part = buffer.take( stream.buffer[0], s.dims * CHUNK // 2 ) if takes else None
    if loads:
      s.load( ring[number % CHUNKS] )
    if filled_part is not None:
      buffer.count[filled_part] += 1

    # Ports
    stream.tick( s.kv, takes )
    if queries.tick( s.q, issue and not tile.is_v ):
      s.at_q += 1
    if outputs.tick( s.acc, needs and go ):
      s.at_o += 1
    if opens_q:
      queries.start( s.q_rows( ring[s.at_q % CHUNKS] ) )
    if opens_o:
      chunk = ring[s.at_o % CHUNKS]
      if chunk.opens:
        s.at_o += 1
      else:
        outputs.start( chunk.addresses( s.i.dst, s.i.dst_stride ) )
    if opens_w:
      s.results, s.result = ring[at_w % CHUNKS].addresses( s.i.dst, s.i.dst_stride ), 0
    if w_ends:
      s.at_w += 1
      if ring[at_w % CHUNKS].closes:
        s.state = "report"
    if s.coming and known - at_w < CHUNKS:
      ring[known % CHUNKS] = s.coming
      s.known  = known + 1
      s.coming = next( s.source, None )

  def q_rows( s, chunk ):
    """Where the queries of a chunk are: all of them, for each key tile."""
    return chunk.addresses( s.i.src, s.i.src_stride ) * s.tiles

  def load( s, chunk ):
    """Two keys of the next tile."""
    loader = s.loader
    loader.pair += 1
    if loader.pair < s.cfg.n // 2:
      return
    values, count = loader.values, s.tiles * s.dims
    loader.pair   = 0
    loader.tile  += 1
    ends          = loader.tile == count
    completes     = loader.tile % s.tiles == 0 if values else ends
    loader.held   = Tile( values, loader.numbers[values], chunk, loader.tile == 1, completes, ends )
    if ends:
      loader.tile = 0
      s.buffer.count[1 + values] -= 1
      loader.phase_done( chunk )

  def issue( s, tile ):
    """A row meets the stationary tile."""
    chunk = tile.chunk
    if tile.is_v:
      if tile.first and s.row == 0:
        s.words.extend( chunk.sweep.attend( chunk, s.buffer.data.popleft() ) )
      if tile.completes:
        s.ports.append( s.step + WRITE_PORT )
        if not chunk.opens:
          s.needs.append( s.step + OUTPUT )
    else:
      if chunk.opens and len( chunk.sweep.words ) < chunk.rows * s.dims:
        chunk.sweep.words.append( s.queries.buffer[0] )
      if tile.completes:
        s.sums.append( s.step + SUM )

  def step_softmax( s ):
    """A step of the softmax; whether the last row of a chunk comes out in it."""
    step = s.step
    if s.ready:
      s.s_tile += 1
      if s.s_tile == s.tiles:
        s.s_tile  = 0
        s.ready  -= 1
        s.s_rows += 1
        if s.s_rows == s.ring[s.at_s % CHUNKS].rows:
          s.s_rows = 0
          s.at_s  += 1
          s.softmax.append( step + softmax_steps( s.tiles ) )
    if s.sums and s.sums[0] == step:
      s.sums.popleft()
      s.ready += 1
    if s.softmax and s.softmax[0] == step:
      s.softmax.popleft()
      return True
    return False

  def line_trace( s ):
    """The state, the chunks in the buffer, the tile, what is on its way."""
    return f"{s.cmd}({s.state} {s.buffer.count} {len( s.sums )}.{s.ready}.{len( s.softmax )}.{len( s.ports )}){s.wr}"
