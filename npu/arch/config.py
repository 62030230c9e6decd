"""The one configuration object, and every width derived from it.

`NpuConfig` holds what an architect chooses; `Derived` computes what follows. Blocks take the
configuration as their only constructor argument and read widths from `cfg.derived`; no other module
computes a width.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from npu.errors import NpuError

LINE_BYTES = 64   # DRAM addresses in instructions count lines of 64 bytes: the largest beat (n = 16)
CHUNK      = 16   # keys per attention chunk, whatever n is: it is part of the arithmetic

MAX_HEAD_DIM   = 128   # the attention engine's buffers hold 16 keys and values of so many elements
ROWS_PER_TOKEN = 8     # query rows that a sweep of the attention engine takes, per token row of the largest pass

def clog2( x: int ) -> int:
  """Smallest b with 2**b >= x, for x >= 1."""
  return ( x - 1 ).bit_length()

def ceil_div( a: int, b: int ) -> int:
  """a / b rounded up, for b > 0."""
  return -( -a // b )

def round_up( a: int, b: int ) -> int:
  """The smallest multiple of b that is at least a."""
  return ceil_div( a, b ) * b

@dataclass( frozen=True )
class NpuConfig:
  """What an architect chooses.

  Parameters
  ----------
  name
    Shown in reports and stored in images.
  n
    Geometry: the MAC array is n x n, the vector unit has n lanes, a memory beat and a scratchpad
    row are 4n bytes. 4, 8 or 16. Results do not depend on it (except in the `bf16` precision).
  m_max
    The most token rows of one pass, 1 to 64. Results do not depend on it.
  spad_bytes
    Scratchpad size; a power of two. Decides how many rows of a large model fit one pass.
  k_max
    The longest dot product, in elements; sizes the accumulators.
  dram_latency
    Cycles from a memory request to its first beat, at the levels that have time.
  dram_bandwidth
    Beats per cycle that the memory moves, read or written: more than 0, at most 1.

  Raises
  ------
  NpuError
    A value is out of range; the message says what to change.
  """
  name: str = "edge16"
  n: int = 16
  m_max: int = 16
  spad_bytes: int = 1 << 20
  k_max: int = 32768
  dram_latency: int = 40
  dram_bandwidth: float = 1.0

  def __post_init__( self ) -> None:
    if self.n not in ( 4, 8, 16 ):
      raise NpuError( f"config {self.name}: n is {self.n}; choose 4, 8 or 16" )
    if not 1 <= self.m_max <= 64:
      raise NpuError( f"config {self.name}: m_max is {self.m_max}; choose 1 to 64 rows" )
    if self.spad_bytes & ( self.spad_bytes - 1 ) or not 4096 <= self.spad_bytes <= 1 << 26:
      raise NpuError( f"config {self.name}: spad_bytes is {self.spad_bytes}; "
                      "choose a power of two from 4096 to 67108864" )
    if not self.n <= self.k_max <= 1 << 20:
      raise NpuError( f"config {self.name}: k_max is {self.k_max}; choose {self.n} to 1048576" )
    if not 1 <= self.dram_latency <= 1000:
      raise NpuError( f"config {self.name}: dram_latency is {self.dram_latency}; "
                      "choose 1 to 1000 cycles" )
    if not 0.01 <= self.dram_bandwidth <= 1:
      raise NpuError( f"config {self.name}: dram_bandwidth is {self.dram_bandwidth}; "
                      "choose 0.01 to 1 beats per cycle" )

  @cached_property
  def derived( self ) -> "Derived":
    """Every width and size that follows from this configuration."""
    return Derived( self )

  def but( self, **changes: Any ) -> "NpuConfig":
    """A copy with some parameters changed, checked again."""
    return replace( self, **changes )

class Derived:
  """Widths in bits and sizes in bytes, rows, lanes or beats that follow from an `NpuConfig`."""

  def __init__( self, cfg: NpuConfig ) -> None:
    self.lanes          = cfg.n
    self.beat_bytes     = 4 * cfg.n                         # one memory beat, one scratchpad row
    self.beat_bits      = 8 * self.beat_bytes
    self.beats_per_line = LINE_BYTES // self.beat_bytes
    # 2**32 lines, counted in beats; a burst stays inside 4 KiB, as AXI4 wants it.
    self.beat_addr_bits = 32 + clog2( self.beats_per_line )
    self.burst_beats    = 4096 // self.beat_bytes
    self.burst_len_bits = clog2( self.burst_beats + 1 )
    # Beats that a stream may have under way: enough to hide the latency behind bursts of 16.
    self.stream_beats   = 1 << clog2( cfg.dram_latency + 24 )
    # Bursts that the memory hub may have under way: bursts of eight beats hide the latency.
    self.stream_bursts  = max( 16, self.stream_beats // 8 )
    self.spad_rows      = cfg.spad_bytes // self.beat_bytes
    self.spad_addr_bits = clog2( self.spad_rows )
    self.row_count_bits = clog2( cfg.m_max + 1 )
    self.row_index_bits = max( clog2( cfg.m_max ), 1 )
    # The worst case of k_max products of two INT16 of magnitude at most 2^15, and a sign.
    self.acc_bits       = 30 + clog2( cfg.k_max ) + 1 + 1
    # RMSNorm's sum of squares of at most k_max INT16 in -32767..32767, never negative.
    self.square_bits    = 30 + clog2( cfg.k_max )
    # The floating modes: 18-bit aligned magnitudes (2 integer and 16 fraction bits), n of them, signed.
    self.align_bits     = 18 + clog2( cfg.n ) + 1

PRESETS = {
  "edge4":  NpuConfig( name="edge4",  n=4,  spad_bytes=1 << 17 ),
  "edge8":  NpuConfig( name="edge8",  n=8,  spad_bytes=1 << 18 ),
  "edge16": NpuConfig( name="edge16", n=16, spad_bytes=1 << 20 ),
}
DEFAULT_CONFIG = "edge16"

def get_config( name: str ) -> NpuConfig:
  """The preset of that name; NpuError names the known ones otherwise."""
  if name not in PRESETS:
    raise NpuError( f"unknown config '{name}'; choose one of {', '.join( PRESETS )}" )
  return PRESETS[name]

def as_config( config: "str | NpuConfig | None" ) -> NpuConfig:
  """A configuration from a preset's name, or as it is; None is the default preset."""
  return config if isinstance( config, NpuConfig ) else get_config( DEFAULT_CONFIG if config is None else config )
