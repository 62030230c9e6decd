"""The attention engine's surroundings in tests: commands, their data, what must come out, and when."""

# Components carry no type hints, as everywhere.
# mypy: allow-untyped-defs, allow-incomplete-defs

from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymtl3 import Component

from fl.attention_engine import EXPONENT_BYTES, AttentionEngineFL, check, instruction_of
from fl.npu import NpuFL
from npu.arch.config import CHUNK, LINE_BYTES, NpuConfig, ceil_div
from npu.arch.footprint import kv_sweeps
from npu.arch.isa import Error
from npu.arch.kv_cache import KvLayout
from npu.arch.messages import Ack, Done, mk_attend_cmd
from npu.arch.numerics.block_float import pack, quantize
from tests.harness import Delays, Fuzz, Memory, Scratchpad, Sink, Source
from translation.levels import mk_dut
from translation.simulate import run

LEVELS = ( "fl", "cl", "rtl", "verilog" )
LOG2_E = 1.4426950408889634

def block( level: str ) -> Any:
  """The component of that level; a level is imported only if it is used."""
  if level == "fl":
    return AttentionEngineFL
  module, name = ( "cl", "AttentionEngineCL" ) if level == "cl" else ( "rtl_models", "AttentionEngineRTL" )
  return getattr( import_module( f"{module}.attention_engine" ), name )

#-------------------------------------------------------------------------
# Commands and their data
#-------------------------------------------------------------------------

@dataclass( frozen=True )
class Attend:
  """A command to test: its sizes, and what the data is like.

  Commands with the same number of a `cache` work on one cache, otherwise each has its own. Commands with
  the same number of a `text` get the same tokens: query, key and value at a position depend on the text and
  the position alone.
  """
  rows: int = 1
  pos: int = 0
  heads: int = 2
  kv_heads: int = 1
  dim: int = 8
  data: str = "random"           # see `tokens`
  spare: int = 1                 # chunks that the cache has more than this command needs
  cache: int | None = None
  text: int | None = None
  factor: float | None = None    # default: log2(e) / sqrt(dim)
  place: str = "qkv"             # order of the operands; "last" in it: at the end of the scratchpad

@dataclass( frozen=True )
class Timing:
  """How the surroundings behave."""
  source: Delays = 0
  ack: Delays = 0
  sink: Delays = 0
  latency: int = 5
  beats: Fraction = Fraction( 1 )
  stall_seed: int | None = None

CALM = Timing()
WILD = Timing( source=Fuzz( 3 ), ack=Fuzz( 6 ), sink=Fuzz( 4 ), latency=17, beats=Fraction( 2, 3 ), stall_seed=5 )

Block = tuple[NDArray[np.int64], NDArray[np.int64]]     # integers [T, heads, D], exponents [T, heads]

def tokens( a: Attend, count: int, rng: np.random.Generator ) -> tuple[Block, Block, Block]:
  """Queries, keys and values of `count` positions, as block-float integers and exponents."""
  q = rng.standard_normal( ( count, a.heads, a.dim ) )
  k = rng.standard_normal( ( count, a.kv_heads, a.dim ) )
  v = rng.standard_normal( ( count, a.kv_heads, a.dim ) )
  one  = rng.standard_normal( a.dim )
  line = one / ( one @ one ) ** 0.5
  # Along `line`, a score is the product of lengths times log2(e) / sqrt(dim).
  unit = ( a.dim ** 0.5 / LOG2_E ) ** 0.5
  at   = np.arange( count )[:, None, None]
  if a.data == "equal":
    k[:] = k[0]
  elif a.data == "dominant":
    q, k[count * 2 // 3] = q + 4 * line, 10 * line
  elif a.data == "negative":
    q, k = np.zeros_like( q ) + line, k - 1e4 * line
  elif a.data == "saturated":
    q, k = q * 1e6, k * 1e6
  elif a.data == "rising":
    q, k = np.zeros_like( q ) + unit * line, np.zeros_like( k ) + unit * line * at / 3
  elif a.data == "falling":
    q, k = np.zeros_like( q ) + unit * line, np.zeros_like( k ) - unit * line * at / 3
  elif a.data == "jump":
    # The maximum grows by more than an exponent can fall, to a little above a multiple of 512, then stays.
    q, k = np.zeros_like( q ) + unit * line, k + unit * line * np.where( at < count // 2, -516, 516 )
  elif a.data == "outlier":
    k[..., a.dim // 3] += 200
    k[count // 2] *= 200
    v *= 2.0 ** rng.integers( -40, 40, ( count, a.kv_heads, 1 ) )
  elif a.data == "zero_rows":
    for x in ( q, k, v ):
      x[rng.random( x.shape[:2] ) < 0.4] = 0
  elif a.data == "zero":
    q[:], k[:], v[:] = 0, 0, 0
  elif a.data == "tiny":
    q, k, v = q * 2.0 ** -60, k * 2.0 ** -60, v * 2.0 ** -122
  elif a.data == "huge":
    q, k, v = q * 2.0 ** 60, k * 2.0 ** -60, v * 2.0 ** 100
  blocks = [ quantize( x.astype( np.float32 ), 16 ) for x in ( q, k, v ) ]
  if a.data == "extreme":
    signs  = ( np.ones_like( at ), np.where( at % 3, 1, -1 ), np.where( at % 2, 1, -1 ) )
    blocks = [ ( np.full_like( x, 32767 ) * s, e ) for ( x, e ), s in zip( blocks, signs, strict=True ) ]
  elif a.data == "bits":
    # Whatever a memory can hold, short of sums that overflow.
    exponents = ( [ 0, 1, 120, 127, 140, 254 ], [ 0, 1, 120, 127, 140, 254 ], [ 0, 1, 100, 127, 200 ] )
    blocks = [ ( rng.integers( -32768, 32768, x.shape ), rng.choice( c, e.shape ) )
               for ( x, e ), c in zip( blocks, exponents, strict=True ) ]
  return blocks[0], blocks[1], blocks[2]

@dataclass
class Cache:
  """A cache in memory: its layout and its first line."""
  layout: KvLayout
  line: int

@dataclass
class Expected:
  """What a world must hold afterwards, and what the engine must have answered."""
  spad: NDArray[np.uint32]
  dram: NDArray[np.uint8]
  acks: list[Error] = field( default_factory=list )

class World:
  """Memory and scratchpad for a sequence of commands.

  Everything that no command reads is random: gaps, unused bytes, rows of the cache that are not written
  yet (with exponents of finite numbers), scratchpad rows. The first cache starts at the first writable line and
  the last ends with the memory; operands are at the start of the scratchpad and results at its very end, or
  the other way round. `first` is the line where the memory begins that there is.
  """

  def __init__( self, cfg: NpuConfig, commands: list[Attend], seed: int = 0, first: int = 0 ) -> None:
    rng = np.random.default_rng( seed )
    self.cfg, self.commands, self.seed, self.first = cfg, commands, seed, first
    self.messages: list[Any] = []
    self.spad   = rng.integers( 0, 1 << 32, ( cfg.derived.spad_rows, cfg.n ), dtype=np.uint32 )
    self.caches: dict[int, Cache] = {}
    self.writable = line = 3
    for c, a in enumerate( commands ):
      chunks = max( ceil_div( b.pos + b.rows, CHUNK ) + b.spare for b in self.sharing( c ) )
      if cache_of( c, a ) not in self.caches:
        self.caches[cache_of( c, a )] = Cache( KvLayout( a.dim, a.kv_heads, chunks ), line )
        line += self.caches[cache_of( c, a )].layout.total_lines + 1
    self.lines = line - 1
    self.dram  = rng.integers( 0, 256, self.lines * LINE_BYTES, dtype=np.uint8 )
    known: dict[int, int] = {}       # positions of a cache that hold keys and values
    low, high = 0, len( self.spad )
    for c, a in enumerate( commands ):
      key = cache_of( c, a )
      q, k, v = self.tokens( c )
      if key not in known:
        self.fill( key, rng )
      for position in range( known.get( key, 0 ), a.pos ):
        self.put_token( key, position, k, v )
      known[key] = max( known.get( key, 0 ), a.pos + a.rows )
      # Strides larger than the rows leave gaps that nothing may write.
      head  = a.dim // cfg.n
      sizes = { "operands": ( a.heads + 2 * a.kv_heads ) * head, "result": a.heads * head }
      gaps  = { "operands": 1, "result": 2 }
      lower, upper = ( "result", "operands" ) if "last" in a.place else ( "operands", "result" )
      high -= ( a.rows - 1 ) * ( sizes[upper] + gaps[upper] ) + sizes[upper]
      at    = { lower: low, upper: high }
      low  += a.rows * ( sizes[lower] + gaps[lower] )
      high -= gaps[upper]
      assert low <= high, "the commands need more scratchpad than there is"
      kv_first = a.place.startswith( "kv" )
      src, src2 = at["operands"], at["operands"]
      src, src2 = ( src + 2 * a.kv_heads * head, src2 ) if kv_first else ( src, src2 + a.heads * head )
      for r in range( a.rows ):
        lanes = [ pack( x[0][a.pos + r], x[1][a.pos + r] ).reshape( -1 )
                  for x in ( ( k, v, q ) if kv_first else ( q, k, v ) ) ]
        row   = at["operands"] + r * ( sizes["operands"] + 1 )
        self.spad[row : row + sizes["operands"]] = np.concatenate( lanes ).reshape( -1, cfg.n )
      factor = np.float32( LOG2_E / a.dim ** 0.5 if a.factor is None else a.factor ).view( np.uint32 )
      cache  = self.caches[key]
      self.messages.append( mk_attend_cmd( cfg )(
        a.rows, a.heads, a.kv_heads, a.dim, cache.layout.chunks, a.pos, first + cache.line, at["result"], src, src2,
        sizes["result"] + 2, sizes["operands"] + 1, int( factor ), first + self.lines, first + self.writable ) )

  def sharing( self, c: int ) -> list[Attend]:
    """The commands that work on the cache of command c."""
    return [ b for d, b in enumerate( self.commands ) if cache_of( d, b ) == cache_of( c, self.commands[c] ) ]

  def tokens( self, c: int ) -> tuple[Block, Block, Block]:
    """The text of command c: whole chunks up to the last position in its cache, the same for every cut."""
    a = self.commands[c]
    count = CHUNK * max( ceil_div( b.pos + b.rows, CHUNK ) for b in self.sharing( c ) )
    return tokens( a, count, np.random.default_rng( ( self.seed, c if a.text is None else 1000 + a.text ) ) )

  def fill( self, key: int, rng: np.random.Generator ) -> None:
    """Finite rubbish in every slot of a cache."""
    layout, start = self.caches[key].layout, self.caches[key].line * LINE_BYTES
    chunks = self.dram[start : start + layout.total_lines * LINE_BYTES].reshape( -1, layout.chunk_lines * LINE_BYTES )
    chunks[:, : 2 * CHUNK] = rng.choice( [ 0, 1, 127, 200, 254 ], ( len( chunks ), 2 * CHUNK ) )

  def put_token( self, key: int, position: int, k: Block, v: Block ) -> None:
    """What an earlier pass left in a cache."""
    cache = self.caches[key]
    data  = self.dram[cache.line * LINE_BYTES :][: cache.layout.total_lines * LINE_BYTES]
    for which, ( x, e ) in enumerate( ( k, v ) ):
      cache.layout.append( data, which, position, x[position], e[position] )

  @cached_property
  def expected( self ) -> Expected:
    """The golden machine on these messages."""
    npu = NpuFL( self.cfg, self.dram.copy() )
    npu.spad[:] = self.spad
    found = Expected( npu.spad, npu.dram )
    for m in self.messages:
      i, rows, position = instruction_of( m ), int( m.rows ), int( m.pos )
      found.acks.append( check( self.cfg, i, rows, position, int( m.lines ), int( m.writable ) ) )
      if not found.acks[-1]:
        npu.r.pos = position
        npu.do_attend( i.but( dram=int( i.dram ) - self.first ), rows, 0 )
    return found

  def beats( self, level: str ) -> int:
    """Beats of the cache that the engine reads: whole chunks up to the last row's, once per KV head and sweep.

    The functional level reads once and leaves the unused bytes out.
    """
    d, total = self.cfg.derived, 0
    for m, error in zip( self.messages, self.expected.acks, strict=True ):
      if not error:
        chunks = ceil_div( int( m.pos ) + int( m.rows ), CHUNK )
        rows   = 4 * CHUNK * int( m.length ) // d.beat_bytes
        line   = ceil_div( EXPONENT_BYTES, d.beat_bytes ) if level == "fl" else d.beats_per_line
        sweeps = 1 if level == "fl" else kv_sweeps( self.cfg, int( m.rows ), int( m.heads ) // int( m.kv_heads ) )
        total += int( m.kv_heads ) * sweeps * chunks * ( line + rows )
    return total

  def result( self, spad: NDArray[np.uint32], c: int ) -> NDArray[np.uint32]:
    """The bits of command c's result [rows, heads, dim] in a scratchpad."""
    a, m = self.commands[c], self.messages[c]
    index = int( m.dst ) + np.arange( a.rows )[:, None] * int( m.dst_stride )
    return spad[index + np.arange( a.heads * a.dim // self.cfg.n )].reshape( a.rows, a.heads, a.dim )

  def patched( self, c: int, **changes: int ) -> Any:
    """A copy of message c with some fields changed."""
    message = self.messages[c].clone()
    for name, value in changes.items():
      setattr( message, name, type( getattr( message, name ) )( value ) )
    return message

def cache_of( c: int, a: Attend ) -> int:
  """The number of command c's cache."""
  return 1000 + c if a.cache is None else a.cache

#-------------------------------------------------------------------------
# Simulation
#-------------------------------------------------------------------------

@dataclass
class Trace:
  """When everything happened that is seen at the ports: cycles, or tuples that start with one."""
  cycles: int
  events: dict[str, list[Any]]
  spad: NDArray[np.uint32]

  def check_equal( self, other: "Trace" ) -> None:
    """Every port does the same in the same cycle."""
    for name, found in self.events.items():
      expected = other.events[name]
      if found != expected:
        at = next( ( i for i, ( x, y ) in enumerate( zip( found, expected, strict=False ) ) if x != y ),
                   min( len( found ), len( expected ) ) )
        raise AssertionError( f"{name} {at} of {len( found )}: {found[at : at + 3]}, expected of {len( expected )}: "
                              f"{expected[at : at + 3]}" )
    assert self.cycles == other.cycles

class Harness( Component ):
  """The block in its world. With `reset_at`, everything is reset in that cycle and begins again."""

  def construct( s, dut, world, timing, reset_at ):
    cfg    = world.cfg
    s.dut  = dut
    s.cmd  = Source( mk_attend_cmd( cfg ), world.messages, timing.source )
    s.mem  = Memory( cfg, world.dram.copy(), timing.latency, timing.beats, timing.stall_seed,
                     first=world.first * cfg.derived.beats_per_line )
    s.spad = Scratchpad( cfg, 2, 1, world.spad.copy(), timing.stall_seed )
    acks   = world.expected.acks
    s.ack_sink  = Sink( Ack, [ int( e ) for e in acks ], timing.ack )
    s.done_sink = Sink( Done, [ 0 ] * acks.count( Error.NONE ), timing.sink )
    s.cmd.send  //= s.dut.cmd
    s.dut.ack   //= s.ack_sink.recv
    s.dut.done  //= s.done_sink.recv
    s.dut.kv    //= s.mem.ifc
    s.dut.kv_wr //= s.mem.wr
    s.dut.q     //= s.spad.read[0]
    s.dut.acc   //= s.spad.read[1]
    s.dut.wr    //= s.spad.write[0]
    s.reset_at  = reset_at

  def done( s ):
    if s.cmd.now == s.reset_at:
      s.reset_at = None
      s.sim_reset()
    return s.reset_at is None and s.cmd.done() and s.ack_sink.done() and s.done_sink.done()

  def line_trace( s ):
    return s.dut.line_trace()

def simulate( cfg: NpuConfig, level: str, world: World, timing: Timing = CALM, opts: dict | None = None,
              reset_at: int | None = None, max_cycles: int = 1_000_000, **kwargs: Any ) -> Trace:
  """Run a world at a level; check every scratchpad row, every byte of the memory and the memory traffic."""
  th = Harness( mk_dut( block( level ), level, cfg, **kwargs ), world, timing, reset_at )
  run( th, max_cycles, opts )
  expected = world.expected
  wrong = np.argwhere( th.spad.rows != expected.spad )
  assert len( wrong ) == 0, ( f"scratchpad row {wrong[0][0]} lane {wrong[0][1]} is "
                              f"{th.spad.rows[tuple( wrong[0] )]:#010x}, expected "
                              f"{expected.spad[tuple( wrong[0] )]:#010x}; {len( wrong )} differ" )
  odd = np.flatnonzero( th.mem.data != expected.dram )
  assert len( odd ) == 0, ( f"byte {odd[0] % LINE_BYTES} of line {odd[0] // LINE_BYTES} is {th.mem.data[odd[0]]}, "
                            f"expected {expected.dram[odd[0]]}; {len( odd )} differ" )
  assert th.mem.beats == world.beats( level )
  return Trace( th.done_sink.cycles[-1] + 1 if th.done_sink.cycles else 0, {
    "command": th.cmd.cycles, "ack": th.ack_sink.cycles, "done": th.done_sink.cycles, "memory read": th.mem.requests,
    "beat": th.mem.cycles, "memory write": th.mem.writes, "scratchpad read": th.spad.reads,
    "scratchpad write": [ w[:3] for w in th.spad.writes ] }, th.spad.rows )

def check_cycles( cfg: NpuConfig, level: str, world: World, timing: Timing, trace: Trace ) -> None:
  """RTL and Verilog do everything in exactly the cycles in which CL does it."""
  if level in ( "rtl", "verilog" ):
    trace.check_equal( simulate( cfg, "cl", world, timing ) )
