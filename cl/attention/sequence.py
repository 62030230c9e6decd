"""The chunks of a command in their order: KV heads, sweeps, chunks; and what each sweep finds."""

import numpy as np

from fl.agent import to_lanes
from fl.attention_engine import EXPONENT_BYTES, MAX_DROP, NO_KEY, chunk_sums, scores
from fl.vector_unit import ceil_to_integer
from npu.arch.config import CHUNK, LINE_BYTES, ROWS_PER_TOKEN
from npu.arch.footprint import kv_sweeps
from npu.arch.numerics.block_float import unpack
from npu.arch.numerics.fp32 import add_exponent, bits, fadd, fmul, i2f
from npu.arch.numerics.special import U_FRACTION_BITS, exp2neg, reciprocal

class Sweep:
  """Query rows that go through a KV head's chunks together, and what they have found so far."""

  def __init__( self, i, rows, position, head, heads, n ):
    self.i, self.rows, self.position, self.heads, self.n = i, rows, position, heads, n
    self.base  = head * int( i.length ) // n      # scratchpad row of the first head in its token row
    self.words = []                               # queries as they came: element tiles, then rows
    self.q     = None

  def begin( self ):
    """All queries are here."""
    n, count = self.n, self.rows * self.heads
    lanes  = np.concatenate( [ to_lanes( w, n ) for w in self.words ] ).reshape( -1, count, n ).transpose( 1, 0, 2 )
    self.q, self.q_exponent = unpack( lanes.reshape( count, -1 ) )
    self.top = np.full( count, NO_KEY, dtype=np.int64 )
    self.o   = np.zeros( self.q.shape, dtype=np.float32 )
    self.l   = np.zeros( count, dtype=np.float32 )   # noqa: E741 - the name in the papers
    self.at  = self.position + np.repeat( np.arange( self.rows ), self.heads )

  def attend( self, chunk, data ):
    """One chunk, as `fl.attention_engine.attend` does it; returns the rows that are written, as integers."""
    if self.q is None:
      self.begin()
    live  = slice( chunk.skip * self.heads, None )
    exps  = np.frombuffer( data, dtype=np.uint8, count=EXPONENT_BYTES ).astype( np.int64 ).reshape( 2, CHUNK )
    k, v  = np.frombuffer( data, dtype=np.int16, offset=LINE_BYTES ).astype( np.int64 ).reshape( 2, CHUNK, -1 )
    s     = scores( self.q[None, live], self.q_exponent[None, live], k[None], exps[None, 0], self.i.factor )[0]
    limit = self.at[live] - CHUNK * chunk.index
    valid = np.arange( CHUNK ) <= limit[:, None]
    old   = self.top[live]
    top   = np.maximum( old, ceil_to_integer( np.where( valid, s, NO_KEY << U_FRACTION_BITS ).max( axis=-1 ) ) )
    p     = np.where( valid, exp2neg( np.maximum( ( top[:, None] << U_FRACTION_BITS ) - s, 0 ) ), 0 )
    sums  = chunk_sums( p[None, :, None], v[None, None], exps[None, 1:] )[0, :, 0]
    drop  = -np.minimum( top - old, MAX_DROP )
    o     = fadd( add_exponent( self.o[live], drop[:, None] ), sums )
    mass  = fadd( add_exponent( self.l[live], drop ), i2f( p.sum( axis=-1 ) ) )
    self.top[live], self.o[live], self.l[live] = top, o, mass
    ready = limit < CHUNK
    if ready.any():
      o = np.where( ready[:, None], fmul( o, reciprocal( mass )[:, None] ), o )
    size  = 4 * self.n
    words = bits( o ).reshape( len( o ), -1, self.n ).transpose( 1, 0, 2 ).tobytes()
    return [ int.from_bytes( words[b : b + size], "little" ) for b in range( 0, len( words ), size ) ]

class Chunk:
  """A chunk of a sweep, and the token rows that see it: all but the first `skip`."""

  def __init__( self, sweep, index, closes ):
    self.sweep, self.index, self.closes = sweep, index, closes
    self.opens = index == 0
    self.skip  = max( 0, CHUNK * index - sweep.position )
    self.rows  = ( sweep.rows - self.skip ) * sweep.heads

  def addresses( self, base, stride ):
    """Scratchpad rows of a matrix like the queries: element tiles, then token rows, then heads."""
    sweep = self.sweep
    width = int( sweep.i.length ) // sweep.n
    first = int( base ) + sweep.base
    rows  = [ first + r * int( stride ) + h * width
              for r in range( self.skip, sweep.rows ) for h in range( sweep.heads ) ]
    return [ row + t for t in range( width ) for row in rows ]

def sweeps_of( cfg, i, rows, position ):
  """Lists of sweeps, by KV head."""
  group = int( i.heads ) // int( i.kv_heads )
  most  = group if kv_sweeps( cfg, rows, group ) == 1 else ROWS_PER_TOKEN
  return [ [ Sweep( i, rows, position, kv * group + h, min( most, group - h ), cfg.n )
             for h in range( 0, group, most ) ] for kv in range( int( i.kv_heads ) ) ]

def chunks_of( heads, seen ):
  """The chunks of a command: each sweep goes through the `seen` first ones of its KV head."""
  sweeps = [ sweep for head in heads for sweep in head ]
  for sweep in sweeps:
    for c in range( seen ):
      yield Chunk( sweep, c, sweep is sweeps[-1] and c == seen - 1 )
