"""The memory system: hub at all levels, DRAM and scratchpad; and all of them as one block, cycle by cycle."""

# Components carry no type hints, as everywhere.
# mypy: allow-untyped-defs, allow-incomplete-defs, no-check-untyped-defs

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from pymtl3 import Component, connect, mk_bits

from cl.memory.model import AccessError
from cl.memory.scratchpad import SPAD_READERS, SPAD_WRITERS
from cl.memory_hub import READ_CLIENTS, WRITE_CLIENTS, MemoryHubCL
from cl.memory_system import MemorySystem, MemorySystemCL
from npu.arch.config import PRESETS, NpuConfig
from npu.arch.messages import mk_mem_read_req, mk_mem_write, mk_spad_write
from rtl_models.memory_hub import MemoryHubRTL
from tests.harness import Fuzz, Scratchpad, Sink, Source
from translation.levels import mk_dut
from translation.simulate import SimulationTimeout, run

LEVELS = ( "cl", "rtl", "verilog" )
HUB    = { "cl": MemoryHubCL, "rtl": MemoryHubRTL }
FETCH, LOAD, KV, WEIGHTS = READ_CLIENTS
POST, STORE, KV_WR       = WRITE_CLIENTS
BEATS  = 1024    # of the memory

#-------------------------------------------------------------------------
# Traffic and what must come of it
#-------------------------------------------------------------------------

@dataclass( frozen=True )
class Traffic:
  """What clients do: reads are ( address, beats ), writes are ( address, bytes that are written )."""
  reads: dict[str, Sequence[tuple[int, int]]] = field( default_factory=dict )
  writes: dict[str, Sequence[tuple[int, str]]] = field( default_factory=dict )   # "all", "low" or "odd"
  delays: int | Fuzz | dict[str, Sequence[int]] = 0
  sink: int | Fuzz = 0
  latency: int = 5
  bandwidth: float = 1.0
  stall_seed: int | None = None

  def delay( self, client: str ):
    """Delays before a client's messages."""
    if isinstance( self.delays, dict ):
      return self.delays.get( client, 0 )
    if isinstance( self.delays, Fuzz ):
      return replace( self.delays, seed=self.delays.seed + sum( map( ord, client ) ) )
    return self.delays

STROBES = { "all": lambda i: True, "low": lambda i: i < 4, "odd": lambda i: i % 2 }

def keep_quiet( s, Request, Response, Write, read, write ):
  """Connect clients that ask nothing and write nothing: PyMTL3 wants a driver for every net."""
  s.quiet_asks = [ Source( Request, [] ) for _ in read ]
  s.quiet_gets = [ Sink( Response, [] ) for _ in read ]
  s.quiet_puts = [ Source( Write, [] ) for _ in write ]
  for i in range( len( read ) ):
    connect( s.quiet_asks[i].send, read[i].req )
    connect( s.quiet_gets[i].recv, read[i].resp )
  for i in range( len( write ) ):
    connect( s.quiet_puts[i].send, write[i] )

class World( Component ):
  """Clients around a memory system."""

  def construct( s, cfg, system, t, seed ):
    rng = np.random.default_rng( seed )
    d   = cfg.derived
    s.cfg, s.before = cfg, rng.integers( 0, 256, BEATS * d.beat_bytes, dtype=np.uint8 )
    s.data   = s.before.copy()
    s.system = system( cfg, s.data, t.stall_seed )
    REQ, WRITE, BEAT = mk_mem_read_req( cfg ), mk_mem_write( cfg ), mk_bits( d.beat_bits )
    reads  = [ t.reads.get( name, () ) for name in READ_CLIENTS ]
    writes = [ [ WRITE( addr, int.from_bytes( rng.bytes( d.beat_bytes ), "little" ),
                        sum( 1 << i for i in range( d.beat_bytes ) if STROBES[kind]( i ) ) )
                 for addr, kind in t.writes.get( name, () ) ] for name in WRITE_CLIENTS ]
    s.asks  = [ Source( REQ, [ REQ( *r ) for r in todo ], t.delay( name ) )
                for name, todo in zip( READ_CLIENTS, reads, strict=True ) ]
    s.gets  = [ Sink( BEAT, None, t.sink ) for _ in READ_CLIENTS ]
    s.puts  = [ Source( WRITE, todo, t.delay( name ) ) for name, todo in zip( WRITE_CLIENTS, writes, strict=True ) ]
    s.beats = [ sum( n for _, n in todo ) for todo in reads ]
    for i in range( len( READ_CLIENTS ) ):
      connect( s.asks[i].send, s.system.read[i].req )
      connect( s.gets[i].recv, s.system.read[i].resp )
    for i in range( len( WRITE_CLIENTS ) ):
      connect( s.puts[i].send, s.system.write[i] )
    keep_quiet( s, mk_bits( d.spad_addr_bits ), BEAT, mk_spad_write( cfg ), s.system.spad_read, s.system.spad_write )

  def done( s ):
    return ( all( x.done() for x in s.asks + s.puts )
             and all( len( x.msgs ) == n for x, n in zip( s.gets, s.beats, strict=True ) ) )

  def waiting_for( s ):
    return f"beats: {[ len( x.msgs ) for x in s.gets ]} of {s.beats}"

  def line_trace( s ):
    return s.system.line_trace()

  def log( s ):
    """The cycle of everything that happened."""
    return [ x.cycles for x in s.asks + s.gets + s.puts ]

  def check_data( s ):
    """Data of every read, and what is in the memory at the end."""
    size    = s.cfg.derived.beat_bytes
    writes  = sorted( ( cycle, i, k ) for i, x in enumerate( s.puts ) for k, cycle in enumerate( x.cycles ) )
    content = s.before.reshape( -1, size ).copy()
    history = { a: [ ( -1, content[a].copy() ) ] for a in range( BEATS ) }
    for cycle, i, k in writes:
      m     = s.puts[i].msgs[k]
      bytes_ = np.frombuffer( int( m.data ).to_bytes( size, "little" ), dtype=np.uint8 )
      mask  = np.array( [ int( m.strobe ) >> b & 1 for b in range( size ) ], dtype=bool )
      content[int( m.addr )][mask] = bytes_[mask]
      history[int( m.addr )].append( ( cycle, content[int( m.addr )].copy() ) )
    for asks, gets in zip( s.asks, s.gets, strict=True ):
      beats = iter( zip( gets.msgs, gets.cycles, strict=True ) )
      for request, asked in zip( asks.msgs, asks.cycles, strict=True ):
        for a in range( int( request.addr ), int( request.addr ) + int( request.beats ) ):
          beat, got = next( beats )
          versions  = history[a]
          # What was written in an earlier cycle than the request must be there; what came later, up to the answer, may.
          oldest    = max( i for i, ( cycle, _ ) in enumerate( versions ) if cycle < asked )
          allowed   = [ v for i, ( cycle, v ) in enumerate( versions ) if i >= oldest and cycle < got ]
          found     = np.frombuffer( int( beat ).to_bytes( size, "little" ), dtype=np.uint8 )
          assert any( ( found == v ).all() for v in allowed ), f"beat {a}, asked for in cycle {asked}, got in {got}"
    assert ( s.data.reshape( -1, size ) == content ).all()

def simulate( cfg: NpuConfig, system, t: Traffic, seed: int = 1, opts=None ) -> World:
  """Run traffic, check the data, return the world with its logs."""
  cfg   = cfg.but( dram_latency=t.latency, dram_bandwidth=t.bandwidth )
  world = World( cfg, system, t, seed )
  run( world, 20_000, opts )
  world.check_data()
  return world

def at_level( level: str, **kwargs ):
  """A memory system whose hub is at that level."""
  def mk_system( cfg, dram, stall_seed ):
    return MemorySystem( cfg, dram, stall_seed, partial( mk_dut, HUB, level, **kwargs ) )
  return mk_system

def check_level( cfg: NpuConfig, level: str, t: Traffic, seed: int = 1, opts=None, **kwargs ) -> None:
  """At that level everything happens in the same cycles as in the one block."""
  assert simulate( cfg, at_level( level, **kwargs ), t, seed, opts ).log() \
      == simulate( cfg, MemorySystemCL, t, seed ).log()

#-------------------------------------------------------------------------
# The table
#-------------------------------------------------------------------------

ALL  = { name: [ ( 64 * i + 3 * k, 1 + ( 5 * i + 3 * k ) % 13 ) for k in range( 6 ) ]
         for i, name in enumerate( READ_CLIENTS ) }
PUTS = { name: [ ( 32 * i + 4 * k, ( "all", "low", "odd" )[k % 3] ) for k in range( 8 ) ]
         for i, name in enumerate( WRITE_CLIENTS ) }
SAME = { name: [ ( 7, ( "all", "odd", "low" )[( i + k ) % 3] ) for k in range( 6 ) ]
         for i, name in enumerate( WRITE_CLIENTS ) }
LOOK = { name: [ ( 7, 1 ), ( 6, 3 ) ] * 4 for name in READ_CLIENTS }

ROWS = [
  ( "one_read",         Traffic( { FETCH: [ ( 5, 1 ) ] } ) ),
  ( "one_burst",        Traffic( { WEIGHTS: [ ( 16, 16 ) ] } ) ),
  ( "page_end",         Traffic( { KV: [ ( 250, 6 ) ] } ) ),
  ( "last_beat",        Traffic( { LOAD: [ ( BEATS - 1, 1 ) ] } ) ),
  ( "stream",           Traffic( { WEIGHTS: [ ( 16 * k, 16 ) for k in range( 12 ) ] } ) ),
  ( "single_beats",     Traffic( { LOAD: [ ( 9 * k, 1 ) for k in range( 40 ) ] }, latency=60 ) ),
  ( "one_write",        Traffic( {}, { POST: [ ( 3, "all" ) ] } ) ),
  ( "write_stream",     Traffic( {}, { STORE: [ ( k, "all" ) for k in range( 30 ) ] } ) ),
  ( "priority",         Traffic( ALL ) ),
  ( "all_writers",      Traffic( {}, PUTS ) ),
  ( "everything",       Traffic( ALL, PUTS ) ),
  ( "one_place",        Traffic( LOOK, SAME ) ),
  ( "read_after_write", Traffic( { name: [ ( 7, 1 ) ] for name in READ_CLIENTS }, SAME,
                                 { FETCH: [ 1 ], LOAD: [ 2 ], KV: [ 3 ], WEIGHTS: [ 4 ],
                                   POST: [ 0, 0, 1, 1, 2, 2 ] } ) ),
  ( "delays",           Traffic( ALL, PUTS, 3 ) ),
  ( "slow_clients",     Traffic( ALL, PUTS, 0, 4 ) ),
  ( "slow_memory",      Traffic( ALL, PUTS, bandwidth=0.3 ) ),
  ( "slow_writes",      Traffic( LOOK, SAME, bandwidth=0.25 ) ),
  ( "latency_1",        Traffic( ALL, PUTS, latency=1 ) ),
  ( "latency_300",      Traffic( ALL, PUTS, latency=300 ) ),
  ( "stalls",           Traffic( ALL, PUTS, stall_seed=1 ) ),
  ( "one_place_stalls", Traffic( LOOK, SAME, stall_seed=2 ) ),
  ( "wild",             Traffic( ALL, PUTS, Fuzz( 3 ), Fuzz( 4 ), 17, 0.66, 5 ) ),
  ( "one_place_wild",   Traffic( LOOK, SAME, Fuzz( 5, 3 ), Fuzz( 6 ), 3, 0.5, 7 ) ),
]
TABLE = [ pytest.param( t, id=name ) for name, t in ROWS ]

@pytest.mark.parametrize( "level", LEVELS )
@pytest.mark.parametrize( "t", TABLE )
def test_rows( level, t, cmdline_opts ):
  check_level( PRESETS["edge4"], level, t, opts=cmdline_opts )

@pytest.mark.parametrize( "level", ( "cl", "verilog" ) )
@pytest.mark.parametrize( "n", ( 8, 16 ) )
@pytest.mark.parametrize( "t", [ p for p in TABLE if p.id in ( "last_beat", "everything", "one_place", "wild" ) ] )
def test_rows_of_other_sizes( level, n, t, cmdline_opts ):
  beats = 4096 // ( 4 * n )     # the table's bursts stay inside 4 KiB at n = 4 only
  fits  = replace( t, reads={ c: [ ( a, b ) for a, b in todo if a // beats == ( a + b - 1 ) // beats ]
                              for c, todo in t.reads.items() } )
  check_level( PRESETS[f"edge{n}"], level, fits, opts=cmdline_opts )

@pytest.mark.parametrize( "level", ( "verilog", ) )
@pytest.mark.parametrize( "x_initial", ( "zeros", "ones" ) )
@pytest.mark.parametrize( "t", TABLE )
def test_initial_state( level, x_initial, t, cmdline_opts ):
  check_level( PRESETS["edge4"], level, t, opts=cmdline_opts, x_initial=x_initial )

#-------------------------------------------------------------------------
# Cycles
#-------------------------------------------------------------------------

@pytest.mark.parametrize( "level", LEVELS )
def test_latency( level ):
  """A request is answered two cycles later than by the memory alone: one cycle of the hub on each way."""
  world = simulate( PRESETS["edge4"], at_level( level ), Traffic( { KV: [ ( 5, 2 ) ] }, latency=9 ) )
  asked, = world.asks[2].cycles
  assert world.gets[2].cycles == [ asked + 11, asked + 12 ]

@pytest.mark.parametrize( "level", LEVELS )
@pytest.mark.parametrize( ( "bandwidth", "gap" ), [ ( 1.0, 1 ), ( 0.5, 2 ) ] )
def test_no_bubbles( level, bandwidth, gap ):
  """Bursts of 16 follow each other without a gap, and so do writes; reads and writes share the bandwidth."""
  t = Traffic( { WEIGHTS: [ ( 16 * k, 16 ) for k in range( 8 ) ] }, bandwidth=bandwidth )
  got, = ( x.cycles for x in simulate( PRESETS["edge4"], at_level( level ), t ).gets if x.cycles )
  assert np.diff( got ).tolist() == [ gap ] * 127
  t = Traffic( {}, { STORE: [ ( k, "all" ) for k in range( 64 ) ] }, bandwidth=bandwidth )
  put = simulate( PRESETS["edge4"], at_level( level ), t ).puts[1].cycles
  assert put[-1] - put[4] == gap * 59
  t = Traffic( { WEIGHTS: [ ( 16 * k, 16 ) for k in range( 8 ) ] }, { STORE: [ ( k, "all" ) for k in range( 100 ) ] },
               bandwidth=bandwidth )
  world = simulate( PRESETS["edge4"], at_level( level ), t )
  cycles = max( world.puts[1].cycles[-1], world.gets[3].cycles[-1] )
  assert 228 * gap <= cycles <= 228 * gap + 12

@pytest.mark.parametrize( "level", LEVELS )
def test_priority( level ):
  """Requests that wait at the same time are answered in the order fetch, load, kv, weights."""
  t     = Traffic( { name: [ ( 32 * i, 4 ) ] for i, name in enumerate( READ_CLIENTS ) } )
  first = [ x.cycles[0] for x in simulate( PRESETS["edge4"], at_level( level ), t ).gets ]
  assert first == [ first[0] + 4 * i for i in range( 4 ) ]

#-------------------------------------------------------------------------
# Random traffic
#-------------------------------------------------------------------------

@st.composite
def traffics( draw ) -> Traffic:
  few    = draw( st.booleans() )      # few addresses: reads and writes meet
  places = st.integers( 0, 5 ) if few else st.integers( 0, BEATS - 1 )
  bursts = st.tuples( places, st.integers( 1, 16 ) ).map( lambda r: ( r[0], min( r[1], 256 - r[0] % 256 ) ) )
  puts   = st.tuples( places, st.sampled_from( sorted( STROBES ) ) )
  fuzz   = st.just( 0 ) | st.builds( Fuzz, st.integers( 0, 99 ), st.integers( 1, 8 ) )
  return Traffic( { c: draw( st.lists( bursts, max_size=12 ) ) for c in READ_CLIENTS },
                  { c: draw( st.lists( puts, max_size=12 ) ) for c in WRITE_CLIENTS },
                  draw( fuzz ), draw( fuzz ), draw( st.integers( 1, 50 ) ),
                  draw( st.sampled_from( ( 1.0, 1.0, 0.66, 0.25 ) ) ), draw( st.none() | st.integers( 0, 99 ) ) )

def fuzz( level: str, examples: int ) -> None:
  @settings( max_examples=examples, suppress_health_check=list( HealthCheck ), deadline=None )
  @given( traffics(), st.integers( 0, 1 << 30 ) )
  def check( t, seed ):
    check_level( PRESETS["edge4"], level, t, seed )
  check()

@pytest.mark.parametrize( ( "level", "examples" ), [ ( "cl", 25 ), ( "rtl", 12 ), ( "verilog", 25 ) ] )
def test_random( level, examples ):
  fuzz( level, examples )

@pytest.mark.nightly
@pytest.mark.parametrize( ( "level", "examples" ), [ ( "cl", 400 ), ( "rtl", 150 ), ( "verilog", 400 ) ] )
def test_random_at_length( level, examples ):
  fuzz( level, examples )

#-------------------------------------------------------------------------
# What is refused
#-------------------------------------------------------------------------

SYSTEMS = [ pytest.param( MemorySystemCL, id="one" ), pytest.param( MemorySystem, id="parts" ) ]

@pytest.mark.level( "cl" )
@pytest.mark.parametrize( "system", SYSTEMS )
@pytest.mark.parametrize( ( "read", "write", "message" ), [
  ( ( 5, 0 ),        None,  "a burst of 0 beats at beat 5 is empty" ),
  ( ( 250, 7 ),      None,  "a burst of 7 beats at beat 250 crosses 4 KiB, which is 256 beats" ),
  ( ( BEATS, 1 ),    None,  f"a burst of 1 beats at beat {BEATS} leaves the memory of {BEATS} beats" ),
  ( None,            BEATS, f"a write of beat {BEATS} leaves the memory of {BEATS} beats" ),
] )
def test_bad_access( system, read, write, message ):
  t = Traffic( { LOAD: [ read ] if read else [] }, { STORE: [ ( write, "all" ) ] if write else [] } )
  with pytest.raises( AccessError, match=f"memory, cycle [0-9]+: {re.escape( message )}" ):
    simulate( PRESETS["edge4"], system, t )

#-------------------------------------------------------------------------
# Scratchpad
#-------------------------------------------------------------------------

class Around( Component ):
  """Readers and writers around a scratchpad: ours in a memory system, or the harness's."""

  def construct( s, cfg, system, reads, writes, delays, sink, stall_seed ):
    ROW, ADDR, WRITE = ( mk_bits( cfg.derived.beat_bits ), mk_bits( cfg.derived.spad_addr_bits ),
                         mk_spad_write( cfg ) )
    s.system = system( cfg, stall_seed )
    s.asks   = [ Source( ADDR, todo, delays ) for todo in reads ]
    s.gets   = [ Sink( ROW, None, sink ) for _ in reads ]
    s.puts   = [ Source( WRITE, [ WRITE( *w ) for w in todo ], delays ) for todo in writes ]
    ours     = hasattr( s.system, "spad_read" )
    for i in range( len( reads ) ):
      port = s.system.spad_read[i] if ours else s.system.read[i]
      connect( s.asks[i].send, port.req )
      connect( s.gets[i].recv, port.resp )
    for i in range( len( writes ) ):
      connect( s.puts[i].send, s.system.spad_write[i] if ours else s.system.write[i] )
    if ours:
      keep_quiet( s, mk_mem_read_req( cfg ), ROW, mk_mem_write( cfg ), s.system.read, s.system.write )

  def done( s ):
    return ( all( x.done() for x in s.asks + s.puts )
             and all( len( x.msgs ) == len( y.msgs ) for x, y in zip( s.gets, s.asks, strict=True ) ) )

def ours( system ):
  return lambda cfg, stall_seed: system( cfg, np.zeros( 4096, dtype=np.uint8 ), stall_seed )

def theirs( cfg, stall_seed ):
  return Scratchpad( cfg, len( SPAD_READERS ), len( SPAD_WRITERS ) )

def spad_traffic( seed: int, rows: int = 8 ):
  rng = np.random.default_rng( seed )
  # Writers keep to rows of their own: two of them may not meet.
  return ( [ rng.integers( 0, rows * len( SPAD_WRITERS ), 40 ).tolist() for _ in SPAD_READERS ],
           [ [ ( int( a ) * len( SPAD_WRITERS ) + i, int( v ) ) for a, v in
               zip( rng.integers( 0, rows, 30 ), rng.integers( 0, 1 << 22, 30 ), strict=True ) ]
             for i in range( len( SPAD_WRITERS ) ) ] )

def run_spad( cfg, system, traffic, delays=0, sink=0, stall_seed=None ):
  world = Around( cfg, system, *traffic, delays, sink, stall_seed )
  run( world, 20_000 )
  return world

@pytest.mark.level( "cl" )
@pytest.mark.parametrize( "system", SYSTEMS )
@pytest.mark.parametrize( ( "delays", "sink" ), [ ( 0, 0 ), ( 3, 0 ), ( 0, 4 ), ( Fuzz( 1 ), Fuzz( 2 ) ) ] )
def test_scratchpad_is_the_harness_one( system, delays, sink ):
  """Every row and every cycle is that of the scratchpad that the blocks are tested with."""
  cfg   = PRESETS["edge4"]
  found, expected = ( run_spad( cfg, make, spad_traffic( 1 ), delays, sink ) for make in ( ours( system ), theirs ) )
  shift = expected.asks[0].cycles[0] - found.asks[0].cycles[0]     # the harness's takes nothing in cycles 0 and 1
  for x, y in zip( found.gets, expected.gets, strict=True ):
    assert [ int( m ) for m in x.msgs ] == [ int( m ) for m in y.msgs ]
    if sink == 0 and not isinstance( delays, Fuzz ):
      assert [ c + shift for c in x.cycles ] == y.cycles
  assert ( found.system.spad.array() == expected.system.rows ).all()

@pytest.mark.level( "cl" )
@pytest.mark.parametrize( "seed", range( 4 ) )
def test_scratchpad_stalls( seed ):
  """With stalls everything comes, in order, and in one block in the same cycles as in parts."""
  cfg    = PRESETS["edge4"]
  worlds = [ run_spad( cfg, ours( x ), spad_traffic( seed ), Fuzz( seed ), Fuzz( seed + 1 ), seed )
             for x in ( MemorySystemCL, MemorySystem ) ]
  logs   = [ [ x.cycles for x in w.asks + w.gets + w.puts ] for w in worlds ]
  assert logs[0] == logs[1]
  w = worlds[0]
  for asks, gets in zip( w.asks, w.gets, strict=True ):
    for address, asked, row in zip( asks.msgs, asks.cycles, gets.msgs, strict=True ):
      before = [ ( cycle, int( m.data ) ) for x in w.puts for m, cycle in zip( x.msgs, x.cycles, strict=True )
                 if m.addr == address and cycle < asked ]
      assert int( row ) == ( max( before )[1] if before else 0 )

NAN, INFINITY, LARGEST, BLOCK = 0x7FC00000, 0xFF800000, 0x7F7FFFFF, 0x00FF7FFF

@pytest.mark.level( "cl" )
@pytest.mark.parametrize( "n", ( 4, 16 ) )
@pytest.mark.parametrize( "word", ( NAN, INFINITY ) )
@pytest.mark.parametrize( ( "writer", "fails" ), [ ( 0, True ), ( 1, True ), ( 2, True ), ( 3, False ) ] )
def test_scratchpad_refuses_infinity( n, word, writer, fails ):
  """A result that is NaN or infinite is a bug; what LOAD brings may be anything."""
  cfg    = PRESETS[f"edge{n}"]
  row    = sum( x << 32 * i for i, x in enumerate( [ LARGEST, BLOCK, word, 0xFF7FFFFF ] ) )
  writes = [ [ ( 9, row ) ] if i == writer else [] for i in range( len( SPAD_WRITERS ) ) ]
  reads  = [ [] for _ in SPAD_READERS ]
  if fails:
    message = f"{SPAD_WRITERS[writer]} writes {word:#010x} (NaN or infinity) to row 9, lane 2"
    with pytest.raises( AccessError, match=re.escape( message ) ):
      run_spad( cfg, ours( MemorySystemCL ), ( reads, writes ) )
  else:
    run_spad( cfg, ours( MemorySystemCL ), ( reads, writes ) )

@pytest.mark.level( "cl" )
@pytest.mark.parametrize( "system", SYSTEMS )
def test_scratchpad_refuses_two_writes( system ):
  writes = [ [ ( 9, 1 ) ], [ ( 8, 1 ) ], [ ( 9, 2 ) ], [] ]
  with pytest.raises( AccessError, match=r"scratchpad, cycle [0-9]+: mac and att both write row 9" ):
    run_spad( PRESETS["edge4"], ours( system ), ( [ [] for _ in SPAD_READERS ], writes ) )

@pytest.mark.level( "cl" )
def test_timeout_names_what_is_missing():
  t = Traffic( { LOAD: [ ( 1, 1 ) ] }, sink=10_000 )
  with pytest.raises( SimulationTimeout, match=r"beats: \[0, 0, 0, 0\] of \[0, 1, 0, 0\]" ):
    run( World( PRESETS["edge4"], MemorySystemCL, t, 1 ), 100 )
