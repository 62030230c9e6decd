"""The harness itself: exact timing, and that it catches what it should."""

import random
from fractions import Fraction
from itertools import pairwise
from math import ceil

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from pymtl3 import Bits8, Bits16, Component, mk_bits
from pymtl3.stdlib.stream import NormalQueueRTL

from npu.arch.config import get_config
from npu.arch.messages import mk_mem_read_req, mk_mem_write, mk_spad_write
from tests.harness import Fuzz, HarnessError, Memory, Scratchpad, Sink, Source, int_to_row, row_to_int
from translation.simulate import SimulationTimeout, run

pytestmark = pytest.mark.level( "rtl" )

CFG   = get_config( "edge4" )
D     = CFG.derived
REQ   = mk_mem_read_req( CFG )
WRITE = mk_spad_write( CFG )
STORE = mk_mem_write( CFG )
BEAT  = mk_bits( D.beat_bits )

BEATS = 2 * D.burst_beats

def mk_data( seed=0 ):
  return np.random.default_rng( seed ).integers( 0, 256, BEATS * D.beat_bytes, dtype=np.uint8 )

def beat_of( data, addr ):
  return int.from_bytes( data[addr * D.beat_bytes : ( addr + 1 ) * D.beat_bytes].tobytes(), "little" )

class Pipe( Component ):
  """A source, a queue (or nothing) and a sink."""

  def construct( s, sent, expected, src_delays=0, sink_delays=0, queue=False ):
    s.src  = Source( Bits16, sent, src_delays )
    s.sink = Sink( Bits16, expected, sink_delays )
    if queue:
      s.queue = NormalQueueRTL( Bits16, 2 )
      s.src.send   //= s.queue.recv
      s.queue.send //= s.sink.recv
    else:
      s.src.send //= s.sink.recv

  def done( s ):
    return s.src.done() and s.sink.done()

  def line_trace( s ):
    return f"{s.src.line_trace()}>{s.sink.line_trace()}"

class MemoryTest( Component ):
  """Bursts from a source, beats into a sink."""

  def construct( s, data, bursts, req_delays=0, beat_delays=0, **memory ):
    s.src  = Source( REQ, [ REQ( addr, beats ) for addr, beats in bursts ], req_delays )
    s.mem  = Memory( CFG, data, **memory )
    s.sink = Sink( BEAT, [ beat_of( data, a + i ) for a, beats in bursts for i in range( beats ) ], beat_delays )
    s.src.send     //= s.mem.ifc.req
    s.mem.ifc.resp //= s.sink.recv

  def done( s ):
    return s.src.done() and s.sink.done()

class WritesTest( Component ):
  """Bursts from a source, beats into a sink that compares nothing, and writes from another source."""

  def construct( s, data, writes, bursts=(), write_delays=0, req_delays=0, beat_delays=0, **memory ):
    s.src    = Source( REQ, [ REQ( addr, beats ) for addr, beats in bursts ], req_delays )
    s.writes = Source( STORE, [ STORE( *w ) for w in writes ], write_delays )
    s.mem    = Memory( CFG, data, **memory )
    s.sink   = Sink( BEAT, None, beat_delays )
    s.src.send     //= s.mem.ifc.req
    s.writes.send  //= s.mem.wr
    s.mem.ifc.resp //= s.sink.recv

  def done( s ):
    return s.src.done() and s.writes.done() and s.mem.done()

class ScratchpadTest( Component ):
  """One source of addresses and one sink of rows per read port, one source per write port."""

  def construct( s, rows, reads, expected, writes=(), read_delays=0, row_delays=0, write_delays=0, **pad ):
    Addr    = mk_bits( D.spad_addr_bits )
    s.pad   = Scratchpad( CFG, len( reads ), len( writes ), rows, **pad )
    s.addrs = [ Source( Addr, r, read_delays ) for r in reads ]
    s.rows  = [ Sink( BEAT, e, row_delays ) for e in expected ]
    s.data  = [ Source( WRITE, [ WRITE( a, row_to_int( row ) ) for a, row in w ], write_delays ) for w in writes ]
    for i in range( len( reads ) ):
      s.addrs[i].send    //= s.pad.read[i].req
      s.pad.read[i].resp //= s.rows[i].recv
    for i in range( len( writes ) ):
      s.data[i].send //= s.pad.write[i]

  def done( s ):
    return all( c.done() for c in ( *s.addrs, *s.rows, *s.data, s.pad ) )

#-------------------------------------------------------------------------
# Source and sink
#-------------------------------------------------------------------------

def test_messages_pass_back_to_back():
  th = Pipe( [ 5, 6, 7 ], [ 5, 6, 7 ] )
  assert run( th, 100 ) == 4                      # cycles 1, 2 and 3
  assert th.src.cycles == th.sink.cycles == [ 1, 2, 3 ]
  assert th.sink.msgs == [ 5, 6, 7 ]

def test_source_waits():
  th = Pipe( [ 1, 2, 3, 4 ], [ 1, 2, 3, 4 ], src_delays=[ 2, 0, 1, 3 ] )
  assert run( th, 100 ) == 11
  assert th.sink.cycles == [ 3, 4, 6, 10 ]

def test_sink_waits():
  th = Pipe( [ 1, 2, 3, 4 ], [ 1, 2, 3, 4 ], sink_delays=[ 1, 0, 0, 4 ] )
  run( th, 100 )
  assert th.src.cycles == [ 2, 3, 4, 9 ]

def test_delays_of_both_sides_overlap():
  th = Pipe( [ 1, 2, 3 ], [ 1, 2, 3 ], src_delays=[ 0, 5, 0 ], sink_delays=[ 3, 0, 2 ] )
  run( th, 100 )
  assert th.sink.cycles == [ 4, 10, 13 ]

def test_constant_delay():
  th = Pipe( [ 1, 2, 3 ], [ 1, 2, 3 ], src_delays=2 )
  run( th, 100 )
  assert th.sink.cycles == [ 3, 6, 9 ]

def test_fuzz_depends_on_the_seed_alone():
  def cycles( seed ):
    th = Pipe( range( 50 ), range( 50 ), Fuzz( seed ), Fuzz( seed + 1, most=3 ), queue=True )
    run( th, 1000 )
    return th.sink.cycles
  assert cycles( 1 ) == cycles( 1 ) != cycles( 2 )
  gaps = { b - a for a, b in pairwise( cycles( 1 ) ) }
  assert 1 in gaps and max( gaps ) > 3

def test_nothing_to_do_takes_no_cycles():
  assert run( Pipe( [], [] ), 100 ) == 0

def test_as_many_delays_as_messages():
  with pytest.raises( ValueError, match="2 delays for 3 messages" ):
    run( Pipe( [ 1, 2, 3 ], [ 1, 2, 3 ], src_delays=[ 1, 2 ] ), 100 )

def test_wrong_message_is_caught():
  with pytest.raises( HarnessError ) as e:
    run( Pipe( [ 1, 2, 0xbad, 4 ], [ 1, 2, 3, 4 ] ), 100 )
  assert str( e.value ) == "sink: wrong message in cycle 3: message 2 of 4\n  got      0bad\n  expected 0003"
  assert "3: 0bad" in e.value.__notes__[0]

def test_extra_message_is_caught_after_done():
  with pytest.raises( HarnessError ) as e:
    run( Pipe( [ 1, 2, 3 ], [ 1, 2 ], src_delays=[ 0, 0, 10 ] ), 100 )
  assert str( e.value ) == "sink: extra message in cycle 13: message 2 is 0003, but only 2 are expected"

def test_sink_without_expectation_records():
  th = Pipe( [ 7, 8 ], None )
  assert run( th, 100 ) == 3
  assert th.sink.msgs == [ 7, 8 ] and th.sink.cycles == [ 1, 2 ]

#-------------------------------------------------------------------------
# run
#-------------------------------------------------------------------------

def test_timeout_says_what_is_missing():
  with pytest.raises( SimulationTimeout ) as e:
    run( Pipe( [ 1, 2 ], [ 1, 2, 3 ] ), 50 )
  lines = str( e.value ).splitlines()
  assert lines[:4] == [ "done() does not hold after 50 cycles; waiting for",
                        "  sink: 2 of 3 messages came, the last in cycle 2", "last cycles:",
                        "  34:     >    " ]
  assert lines[-1].startswith( "  49: " ) and len( lines ) == 19

def test_timeout_with_nothing_to_ask():
  class Never( Component ):
    def construct( s ):
      pass
    def done( s ):
      return False
  with pytest.raises( SimulationTimeout, match=r"5 cycles; waiting for\n  done\(\) itself\n" ):
    run( Never(), 5 )

def test_done_in_the_last_cycle_is_in_time():
  assert run( Pipe( [ 5, 6, 7 ], [ 5, 6, 7 ] ), 4 ) == 4
  with pytest.raises( SimulationTimeout ):
    run( Pipe( [ 5, 6, 7 ], [ 5, 6, 7 ] ), 3 )

def test_max_cycles_option_overrides():
  assert run( Pipe( [ 5, 6, 7 ], [ 5, 6, 7 ] ), 3, { "max_cycles": 10 } ) == 4

def test_linetrace_prints_every_cycle( capsys ):
  run( Pipe( [ 5 ], [ 5 ] ), 10, linetrace=True, drain=1 )
  assert capsys.readouterr().out == "   0: .   >.   \n   1: 0005>0005\n   2:     >    \n"

#-------------------------------------------------------------------------
# Memory
#-------------------------------------------------------------------------

@pytest.mark.parametrize( "latency", [ 1, 2, 7, 40 ] )
def test_memory_latency( latency ):
  th = MemoryTest( mk_data(), [ ( 3, 4 ) ], latency=latency )
  run( th, 200 )
  assert th.mem.requests == [ ( 1, 3, 4 ) ]
  assert th.sink.cycles == th.mem.cycles == [ 1 + latency + i for i in range( 4 ) ]

def test_memory_default_latency():
  th = MemoryTest( mk_data(), [ ( 0, 1 ) ] )
  run( th, 200 )
  assert th.sink.cycles == [ 1 + CFG.dram_latency ]

@pytest.mark.parametrize( "rate", [ "1", "2/3", "1/2", "3/4", "1/5" ] )
def test_memory_bandwidth_is_exact( rate ):
  rate = Fraction( rate )
  # The bursts are outstanding together, so the beats come as one stream.
  th = MemoryTest( mk_data(), [ ( 0, 16 ), ( 100, 1 ), ( 64, 23 ) ], latency=10, beats_per_cycle=rate )
  run( th, 1000 )
  assert th.mem.beats == 40
  assert th.sink.cycles == [ ceil( 11 + i / rate ) for i in range( 40 ) ]

def test_memory_idle_time_is_lost():
  th = MemoryTest( mk_data(), [ ( 0, 2 ), ( 8, 2 ) ], [ 0, 20 ], latency=5, beats_per_cycle=Fraction( 1, 2 ) )
  run( th, 1000 )
  assert th.sink.cycles == [ 6, 8, 27, 29 ]

def test_beat_that_is_not_taken_holds_up_the_others():
  th = MemoryTest( mk_data(), [ ( 0, 3 ) ], beat_delays=[ 10, 0, 0 ], latency=2, beats_per_cycle=Fraction( 1, 3 ) )
  run( th, 1000 )
  assert th.sink.cycles == [ 11, 14, 17 ]

@settings( max_examples=20 )
@given( seed=st.integers( 0, 2**32 ), latency=st.integers( 1, 9 ), probability=st.floats( 0, 0.9 ),
        rate=st.fractions( "1/4", 1, max_denominator=8 ) )
def test_memory_keeps_data_and_order( seed, latency, probability, rate ):
  r      = random.Random( seed )
  bursts = [ ( addr, r.randint( 1, min( 20, D.burst_beats - addr % D.burst_beats ) ) )
             for addr in ( r.randrange( BEATS ) for _ in range( 6 ) ) ]
  th = MemoryTest( mk_data( 1 ), bursts, Fuzz( seed ), Fuzz( seed + 1 ), latency=latency, beats_per_cycle=rate,
                   stall_seed=seed, stall_probability=probability )
  run( th, 20000 )
  assert th.mem.beats == sum( n for _, n in bursts )
  assert th.mem.done()

def test_memory_stalls_depend_on_seed_and_cycle_alone():
  def run_one( seed, delays ):
    th = MemoryTest( mk_data(), [ ( 0, 100 ) ], beat_delays=delays, latency=1, stall_seed=seed, stall_probability=0.5 )
    run( th, 2000 )
    return th.sink.cycles
  assert run_one( 1, 0 ) == run_one( 1, 0 ) != run_one( 2, 0 )
  # A beat begins to be offered in the same cycles, whatever happened before.
  late = run_one( 1, [ 60 ] + 99 * [ 0 ] )
  assert [ c for c in run_one( 1, 0 ) if late[1] <= c ][:30] == late[1:31]
  assert 150 < run_one( 1, 0 )[-1] < 250

@pytest.mark.parametrize( "burst, message", [
  ( ( 0, 0 ), "mem: in cycle 1 a burst of 0 beats at beat 0 is empty" ),
  ( ( 255, 2 ), "mem: in cycle 1 a burst of 2 beats at beat 255 crosses 4 KiB, which is 256 beats" ),
  ( ( 512, 1 ), "mem: in cycle 1 a burst of 1 beats at beat 512 leaves the memory of 512 beats" ) ] )
def test_memory_refuses( burst, message ):
  class Requests( Component ):
    def construct( s ):
      s.src  = Source( REQ, [ REQ( *burst ) ] )
      s.mem  = Memory( CFG, mk_data() )
      s.sink = Sink( BEAT, None )
      s.src.send     //= s.mem.ifc.req
      s.mem.ifc.resp //= s.sink.recv
    def done( s ):
      return s.src.done() and s.mem.done()
  with pytest.raises( HarnessError ) as e:
    run( Requests(), 100 )
  assert str( e.value ) == message

def test_memory_waits_for():
  with pytest.raises( SimulationTimeout, match="mem: 3 beats are asked for and not taken, the last in cycle 3" ):
    run( MemoryTest( mk_data(), [ ( 0, 5 ) ], beat_delays=[ 0, 0, 99, 0, 0 ], latency=1 ), 20 )

def test_whole_burst_up_to_the_end_of_memory():
  th = MemoryTest( mk_data(), [ ( 0, 256 ), ( 256, 256 ) ], latency=1 )
  assert run( th, 1000 ) == 514

@pytest.mark.parametrize( "data, change", [
  ( np.zeros( 32, np.int8 ), {} ), ( np.zeros( 31, np.uint8 ), {} ), ( np.zeros( 32, np.uint8 ), { "latency": 0 } ),
  ( np.zeros( 32, np.uint8 ), { "beats_per_cycle": Fraction( 3, 2 ) } ) ] )
def test_memory_checks_its_parameters( data, change ):
  with pytest.raises( ValueError, match="memory " ):
    Memory( CFG, data, **change ).elaborate()

# Writes

ALL = ( 1 << D.beat_bytes ) - 1

def mk_writes( count, seed=0, addrs=range( BEATS ) ):
  r = random.Random( seed )
  return [ ( r.choice( addrs ), r.getrandbits( D.beat_bits ), r.getrandbits( D.beat_bytes ) ) for _ in range( count ) ]

def written( data, writes ):
  data = data.copy()
  for addr, value, strobe in writes:
    for i in range( D.beat_bytes ):
      if strobe >> i & 1:
        data[addr * D.beat_bytes + i] = value >> 8 * i & 0xFF
  return data

def test_memory_writes_what_the_strobe_says():
  before = mk_data()
  writes = [ ( 0, 0, ALL ), ( 5, ALL << 8, 0x8001 ), ( BEATS - 1, 0x1234, 2 ), ( 9, 77, 0 ), *mk_writes( 20 ) ]
  data   = before.copy()
  th     = WritesTest( data, writes )
  run( th, 100 )
  assert np.array_equal( data, written( before, writes ) )
  assert th.mem.writes == [ ( 1 + i, addr, strobe ) for i, ( addr, _, strobe ) in enumerate( writes ) ]

@pytest.mark.parametrize( "rate", [ "1", "2/3", "4/5", "1/5" ] )
def test_memory_write_bandwidth_is_exact( rate ):
  rate = Fraction( rate )
  th   = WritesTest( mk_data(), mk_writes( 20 ), beats_per_cycle=rate )
  run( th, 1000 )
  assert th.writes.cycles == [ ceil( 1 + i / rate ) for i in range( 20 ) ]

def test_memory_read_sees_the_writes_before_it():
  # The write is taken in cycle 3, a request in each of the cycles 1 to 6; beats come much later.
  before = mk_data()
  data   = before.copy()
  write  = ( 7, 1234567, ALL )
  th     = WritesTest( data, [ write ], [ ( 7, 1 ) ] * 6, write_delays=[ 2 ], latency=20 )
  run( th, 100 )
  assert th.writes.cycles == [ 3 ]
  assert th.sink.msgs == [ beat_of( before, 7 ) ] * 3 + [ 1234567 ] * 3

def test_memory_shares_its_bandwidth():
  # Beats from cycle 6 on; while both directions want to go on they alternate.
  th = WritesTest( mk_data(), mk_writes( 10 ), [ ( 0, 6 ) ], latency=5, beats_per_cycle=Fraction( 1, 2 ) )
  run( th, 1000 )
  assert th.writes.cycles == [ 1, 3, 5, 9, 13, 17, 21, 25, 29, 31 ]
  assert th.sink.cycles == [ 7, 11, 15, 19, 23, 27 ]

def test_memory_beat_that_is_not_taken_holds_up_writes():
  th = WritesTest( mk_data(), mk_writes( 6 ), [ ( 0, 2 ) ], latency=2, beat_delays=[ 10, 0 ] )
  run( th, 100 )
  assert th.sink.cycles == [ 11, 13 ]
  assert th.writes.cycles == [ 1, 2, 12, 14, 15, 16 ]

@settings( max_examples=20 )
@given( seed=st.integers( 0, 2**32 ), latency=st.integers( 1, 9 ), probability=st.floats( 0, 0.9 ),
        rate=st.fractions( "1/4", 1, max_denominator=8 ) )
def test_memory_keeps_writes_and_bandwidth( seed, latency, probability, rate ):
  before = mk_data( 2 )
  data   = before.copy()
  # Reads of the lower half, writes to the upper half.
  writes = mk_writes( 30, seed, range( BEATS // 2, BEATS ) )
  bursts = [ ( 7 * i, 1 + i ) for i in range( 8 ) ]
  th = WritesTest( data, writes, bursts, Fuzz( seed ), Fuzz( seed + 1 ), Fuzz( seed + 2 ), latency=latency,
                   beats_per_cycle=rate, stall_seed=seed, stall_probability=probability )
  run( th, 20000 )
  assert np.array_equal( data, written( before, writes ) )
  assert th.sink.msgs == [ beat_of( before, a + i ) for a, beats in bursts for i in range( beats ) ]
  cycles = sorted( th.sink.cycles + th.writes.cycles )
  assert all( b - a >= int( 10 / rate ) for a, b in zip( cycles, cycles[10:], strict=False ) )

def test_memory_stalls_writes():
  th = WritesTest( mk_data(), mk_writes( 100 ), stall_seed=1, stall_probability=0.5 )
  run( th, 1000 )
  assert 150 < th.writes.cycles[-1] < 250

def test_memory_refuses_a_write_outside():
  with pytest.raises( HarnessError ) as e:
    run( WritesTest( mk_data(), [ ( 512, 0, 0 ) ] ), 100 )
  assert str( e.value ) == "mem: in cycle 1 a write to beat 512 leaves the memory of 512 beats"

def test_memory_need_not_begin_at_zero():
  before = mk_data( 3 )
  data   = before.copy()
  first  = ( 1 << D.beat_addr_bits ) - BEATS       # to the very end
  writes = [ ( first + 300, 1, ALL ), ( first + 511, 2, ALL ) ]
  th     = WritesTest( data, writes, [ ( first + 7, 2 ), ( first + 511, 1 ) ], req_delays=9, first=first )
  run( th, 200 )
  assert th.sink.msgs == [ beat_of( before, 7 ), beat_of( before, 8 ), 2 ]
  assert np.array_equal( data, written( before, [ ( a - first, *rest ) for a, *rest in writes ] ) )
  with pytest.raises( HarnessError, match="leaves the memory of 512 beats" ):
    run( WritesTest( data, [ ( first - 1, 0, 0 ) ], first=first ), 100 )

# Reset

def test_reset_starts_everything_anew():
  """In the middle of reads and writes: afterwards all of them happen again, in the same cycles."""
  class Restarted( WritesTest ):
    def done( s ):
      if s.writes.now == s.reset_at:
        s.reset_at = None
        s.sim_reset()
      return s.reset_at is None and super().done()
  def one( reset_at ):
    th = Restarted( mk_data(), mk_writes( 20, addrs=range( 100, 120 ) ), [ ( 0, 16 ), ( 20, 16 ) ], Fuzz( 1 ),
                    Fuzz( 2 ), Fuzz( 3 ), stall_seed=3 )
    th.reset_at = reset_at
    run( th, 1000 )
    return th.src.cycles, th.writes.cycles, th.sink.cycles, th.sink.msgs, th.mem.requests, th.mem.writes, th.mem.beats
  assert one( 30 ) == one( 60 ) == one( 0 )

#-------------------------------------------------------------------------
# Scratchpad
#-------------------------------------------------------------------------

def mk_rows( count=64, seed=0 ):
  return np.random.default_rng( seed ).integers( 0, 2**32, ( count, CFG.n ), dtype=np.uint32 )

def bits_of( rows, addrs ):
  return [ row_to_int( rows[a] ) for a in addrs ]

def test_rows_and_bits():
  row = np.array( [ 1, 2, 0xdeadbeef, 0x80000000 ], dtype=np.uint32 )
  assert row_to_int( row ) == 0x80000000_deadbeef_00000002_00000001
  assert int_to_row( row_to_int( row ), 4 ).tolist() == row.tolist()

def test_scratchpad_reads_one_row_per_cycle():
  rows = mk_rows()
  th   = ScratchpadTest( rows, [ range( 40 ) ], [ bits_of( rows, range( 40 ) ) ] )
  run( th, 200 )
  assert th.addrs[0].cycles == [ 1 + i for i in range( 40 ) ]
  assert th.rows[0].cycles  == [ 2 + i for i in range( 40 ) ]
  assert th.pad.reads == [ ( 1 + i, 0, i ) for i in range( 40 ) ]

def test_scratchpad_holds_two_rows():
  rows = mk_rows()
  th   = ScratchpadTest( rows, [ range( 5 ) ], [ bits_of( rows, range( 5 ) ) ], row_delays=[ 9, 0, 0, 0, 0 ] )
  run( th, 200 )
  assert th.addrs[0].cycles == [ 1, 2, 11, 12, 13 ]
  assert th.rows[0].cycles  == [ 10, 11, 12, 13, 14 ]

def test_scratchpad_write_is_seen_in_the_next_cycle():
  rows = mk_rows()
  new  = mk_rows( seed=1 )
  # The row is written in cycle 3 and read in cycles 2, 3 and 4.
  expected = [ row_to_int( rows[9] ), row_to_int( rows[9] ), row_to_int( new[0] ) ]
  th = ScratchpadTest( rows, [ [ 9, 9, 9 ] ], [ expected ], [ [ ( 9, new[0] ) ] ], read_delays=[ 1, 0, 0 ],
                       write_delays=2 )
  run( th, 200 )
  [ ( cycle, port, addr, row ) ] = th.pad.writes
  assert ( cycle, port, addr, row.tolist() ) == ( 3, 0, 9, new[0].tolist() )
  assert th.pad.rows[9].tolist() == new[0].tolist()

def test_scratchpad_ports_are_independent():
  rows = mk_rows()
  th   = ScratchpadTest( rows, [ range( 10 ), range( 10, 30 ) ], [ bits_of( rows, range( 10 ) ),
                         bits_of( rows, range( 10, 30 ) ) ], [ [ ( 40, rows[1] ) ], [ ( 41, rows[2] ) ] ] )
  assert run( th, 200 ) == 22
  assert [ w[:3] for w in th.pad.writes ] == [ ( 1, 0, 40 ), ( 1, 1, 41 ) ]

@pytest.mark.parametrize( "ports", [ ( 1, 0 ), ( 0, 1 ) ] )
def test_scratchpad_with_one_kind_of_port( ports ):
  rows  = mk_rows()
  reads = [ [ 1 ] ][:ports[0]]
  th    = ScratchpadTest( rows, reads, [ bits_of( rows, r ) for r in reads ], [ [ ( 3, rows[0] ) ] ][:ports[1]] )
  assert run( th, 20 ) in ( 2, 3 )

@settings( max_examples=20 )
@given( seed=st.integers( 0, 2**32 ), probability=st.floats( 0, 0.9 ) )
def test_scratchpad_keeps_data_and_order( seed, probability ):
  r     = random.Random( seed )
  rows  = mk_rows()
  reads = [ [ r.randrange( 32 ) for _ in range( 20 ) ] for _ in range( 2 ) ]
  data  = [ ( r.randrange( 32, 64 ), row ) for row in mk_rows( 10, seed=1 ) ]
  th    = ScratchpadTest( rows.copy(), reads, [ bits_of( rows, a ) for a in reads ], [ data ], Fuzz( seed ),
                          Fuzz( seed + 1 ), Fuzz( seed + 2 ), stall_seed=seed, stall_probability=probability )
  run( th, 10000 )
  for addr, row in data:
    rows[addr] = row
  assert np.array_equal( th.pad.rows, rows )
  assert [ w[2] for w in th.pad.writes ] == [ addr for addr, _ in data ]

def test_scratchpad_stalls_are_deterministic():
  def cycles( seed ):
    rows = mk_rows()
    th   = ScratchpadTest( rows, [ range( 40 ) ], [ bits_of( rows, range( 40 ) ) ], stall_seed=seed )
    run( th, 1000 )
    return th.rows[0].cycles
  assert cycles( 1 ) == cycles( 1 ) != cycles( 2 )
  assert cycles( 1 )[-1] > 45

@pytest.mark.parametrize( "reads, writes, message", [
  ( [ [ 64 ] ], [ [] ], "pad.read[0]: row 64 in cycle 1, but there are 64 rows" ),
  ( [ [] ], [ [ 63, 100 ] ], "pad.write[0]: row 100 in cycle 2, but there are 64 rows" ),
  ( [ [] ], [ [ 5, 6 ], [ 4, 6 ] ], "pad: two writes to row 6 in cycle 2" ) ] )
def test_scratchpad_refuses( reads, writes, message ):
  rows = mk_rows()
  th   = ScratchpadTest( rows, reads, [ None ], [ [ ( a, rows[0] ) for a in w ] for w in writes ] )
  with pytest.raises( HarnessError ) as e:
    run( th, 100 )
  assert str( e.value ) == message

def test_scratchpad_size():
  pad = Scratchpad( CFG )
  pad.elaborate()
  assert pad.rows.shape == ( D.spad_rows, CFG.n ) and pad.rows.dtype == np.uint32
  pad = Scratchpad( CFG, rows=10 )
  pad.elaborate()
  assert pad.rows.shape == ( 10, CFG.n )
  with pytest.raises( ValueError, match=r"scratchpad is uint32 \[8, 5\]; it must be uint32 \[rows, 4\]" ):
    Scratchpad( CFG, rows=np.zeros( ( 8, 5 ), np.uint32 ) ).elaborate()

def test_types_of_messages():
  with pytest.raises( ValueError ):
    Source( Bits8, [ 256 ] ).elaborate()
