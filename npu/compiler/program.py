"""The forward pass as a program: memory map, scratchpad map, instructions, wait masks.

`build` reads top to bottom like the model: it needs only dimensions, no weights. Prefill and decode are
the same loop: a pass processes the next rows of the token buffer, up to `pass_rows` of them; when it has
reached the end, it finds the next token and appends it.
"""

from dataclasses import dataclass, field
from math import e as EULER, log2, sqrt

import numpy as np

from npu.arch.config import CHUNK, LINE_BYTES, MAX_HEAD_DIM, NpuConfig, ceil_div, round_up
from npu.arch.footprint import Access, footprint
from npu.arch.isa import (
  GROUP_SIZES,
  INSTRUCTION_BYTES,
  Cond,
  Convert,
  GemmFlag,
  Instruction,
  Rel,
  Status,
  Unit,
  mk,
)
from npu.arch.kv_cache import KvLayout
from npu.arch.mailbox import MAILBOX_WORDS
from npu.arch.weight_stream import StreamLayout
from npu.compiler.checkpoint import ModelConfig
from npu.compiler.precision import Precision
from npu.errors import NpuError

#-------------------------------------------------------------------------
# Dimensions as padded for the hardware
#-------------------------------------------------------------------------

@dataclass( frozen=True )
class Shape:
  """A model's dimensions in elements, padded to whole scratchpad rows (and K-groups).

  Padding is zeros all the way: in the embedding, weights, biases and gains; so it changes no result.
  """
  model: ModelConfig
  cfg: NpuConfig
  precision: Precision

  @property
  def unit( self ) -> int:
    """Lengths of GEMM operands are multiples of this."""
    return max( self.cfg.n, self.precision.group )

  @property
  def hidden( self ) -> int:
    """Padded hidden size."""
    return round_up( self.model.hidden_size, self.unit )

  @property
  def inter( self ) -> int:
    """Padded intermediate size."""
    return round_up( self.model.intermediate_size, self.unit )

  @property
  def half( self ) -> int:
    """Padded half of a head: RoPE's halves are in whole scratchpad rows."""
    return round_up( self.model.head_dim // 2, max( self.cfg.n, self.precision.group // 2 ) )

  @property
  def head( self ) -> int:
    """Padded head size: two halves."""
    return 2 * self.half

  @property
  def vocab( self ) -> int:
    """Padded vocabulary size."""
    return round_up( self.model.vocab_size, LINE_BYTES // 4 )

  def rows( self, elements: int ) -> int:
    """Scratchpad rows of so many elements."""
    return ceil_div( elements, self.cfg.n )

  def stream( self, k: int, cols: int, bias: bool = False ) -> StreamLayout:
    """The weight stream of one matrix in this precision."""
    return StreamLayout( self.precision.mode, self.cfg.n, k, cols, self.precision.group, bias )

  def matrices( self ) -> dict[str, StreamLayout]:
    """The four weight streams of a layer. `qkv` and `gate_up` are fused along N."""
    m = self.model
    return { "qkv":     self.stream( self.hidden, ( m.heads + 2 * m.kv_heads ) * self.head, bias=True ),
             "o":       self.stream( m.heads * self.head, self.hidden ),
             "gate_up": self.stream( self.hidden, 2 * self.inter ),
             "down":    self.stream( self.inter, self.hidden ) }

#-------------------------------------------------------------------------
# Memory map
#-------------------------------------------------------------------------

@dataclass( frozen=True )
class Region:
  """A named range of DRAM: first line, size in bytes, whether the image file holds it (or it starts as zeros)."""
  name: str
  line: int
  size: int
  stored: bool

@dataclass
class MemoryMap:
  """Regions one after the other, each on a line boundary."""
  regions: dict[str, Region] = field( default_factory=dict )
  lines: int = 0

  def add( self, name: str, size: int, stored: bool = True ) -> int:
    """Reserve `size` bytes; returns the region's line."""
    line = self.lines
    self.regions[name] = Region( name, line, size, stored )
    self.lines += ceil_div( size, LINE_BYTES )
    return line

  def line( self, name: str ) -> int:
    """First line of a region."""
    return self.regions[name].line

# RMSNorms of a layer and the last one: gains in one region, a row of lines each.
NORMS_PER_LAYER = 2

@dataclass( frozen=True )
class HeadTile:
  """A part of the vocabulary: first column and columns, multiples of a line of FP32."""
  start: int
  cols: int

def head_tiles( shape: Shape, cols: int ) -> list[HeadTile]:
  """The vocabulary cut into parts of at most `cols` columns."""
  return [ HeadTile( s, min( cols, shape.vocab - s ) ) for s in range( 0, shape.vocab, cols ) ]

#-------------------------------------------------------------------------
# Scratchpad map
#-------------------------------------------------------------------------

@dataclass( frozen=True )
class SpadMap:
  """First scratchpad rows of the buffers. `qkv` + `att`, `gate_up` and `logits` share the space after `gains`."""
  pass_rows: int
  x: int
  h: int
  rope: int
  gains: tuple[int, int]
  qkv: int
  att: int
  gate_up: int
  logits: tuple[int, int]
  head_cols: int       # columns of the output head at a time
  total: int

def _spad_map( shape: Shape, pass_rows: int ) -> SpadMap | None:
  """The map for passes of that many rows, or None if it does not fit."""
  m, n = shape.model, shape.cfg.n
  hidden, head, inter = shape.rows( shape.hidden ), shape.rows( shape.head ), shape.rows( shape.inter )
  x     = 0
  h     = x + pass_rows * hidden
  rope  = h + pass_rows * hidden
  gains = ( rope + pass_rows * shape.rows( shape.half ), rope + pass_rows * shape.rows( shape.half ) + hidden )
  work  = gains[1] + hidden
  qkv   = pass_rows * ( m.heads + 2 * m.kv_heads ) * head
  need  = max( qkv + pass_rows * m.heads * head, pass_rows * 2 * inter )
  size  = shape.cfg.derived.spad_rows
  # Two buffers of logits, so that a GEMM fills one while the vector unit searches the other. They take
  # what is there, but no more than 4,096 columns: beyond that only the latency grows.
  line_rows = LINE_BYTES // 4 // n
  cols_rows = min( ( size - work ) // ( 2 * pass_rows ) // line_rows * line_rows, 4096 // n,
                   shape.vocab // n )
  if work + need > size or cols_rows < min( 64 // n, shape.vocab // n ):
    return None
  return SpadMap( pass_rows, x, h, rope, gains, work, work + qkv, work,
                  ( work, work + pass_rows * cols_rows ), cols_rows * n,
                  max( work + need, work + 2 * pass_rows * cols_rows ) )

def fit_spad( shape: Shape, pass_rows: int | None = None ) -> SpadMap:
  """The scratchpad map with the most rows per pass that fit, at most `pass_rows` (default: m_max).

  Raises
  ------
  NpuError
    Not even one row fits, or `pass_rows` is out of range.
  """
  limit = shape.cfg.m_max if pass_rows is None else pass_rows
  if not 1 <= limit <= shape.cfg.m_max:
    raise NpuError( f"pass rows are {limit}; config {shape.cfg.name} does 1 to {shape.cfg.m_max}" )
  for rows in range( limit, 0, -1 ):
    found = _spad_map( shape, rows )
    if found:
      return found
  raise NpuError( f"config {shape.cfg.name} has {shape.cfg.spad_bytes} bytes of scratchpad: too few for one row of "
                  f"this model (hidden {shape.hidden}, intermediate {shape.inter}); raise spad_bytes" )

#-------------------------------------------------------------------------
# The program
#-------------------------------------------------------------------------

@dataclass( frozen=True )
class Program:
  """What `build` returns: everything about an image but its data."""
  shape: Shape
  context: int
  memory: MemoryMap
  spad: SpadMap
  tiles: list[HeadTile]
  instructions: list[Instruction]

  @property
  def logits_row_bytes( self ) -> int:
    """Bytes from one row of stored logits to the next."""
    return 4 * self.shape.vocab

  def kv_layout( self ) -> KvLayout:
    """The KV cache of a layer."""
    return KvLayout( self.shape.head, self.shape.model.kv_heads, ceil_div( self.context, CHUNK ) )

def _map_memory( shape: Shape, context: int, spad: SpadMap, tiles: list[HeadTile], instructions: int,
                 kv: KvLayout ) -> MemoryMap:
  m, memory = shape.model, MemoryMap()
  memory.add( "mailbox", 4 * MAILBOX_WORDS )
  memory.add( "tokens", 4 * ( context + 1 ) )
  memory.add( "program", INSTRUCTION_BYTES * instructions )
  memory.add( "norms", ( NORMS_PER_LAYER * m.layers + 1 ) * round_up( 4 * shape.hidden, LINE_BYTES ) )
  memory.add( "rope", context * round_up( 4 * shape.half, LINE_BYTES ) )
  memory.add( "embedding", m.vocab_size * round_up( 4 * shape.hidden, LINE_BYTES ) )
  for i in range( m.layers ):
    for name, layout in shape.matrices().items():
      memory.add( f"layers.{i}.{name}", layout.total_bytes )
  for j, tile in enumerate( tiles ):
    memory.add( f"head.{j}", shape.stream( shape.hidden, tile.cols ).total_bytes )
  for i in range( m.layers ):
    memory.add( f"kv.{i}", kv.total_lines * LINE_BYTES, stored=False )
  memory.add( "logits", spad.pass_rows * 4 * shape.vocab, stored=False )
  return memory

class _Builder:
  """Emits the instructions of one model; a method per part of the forward pass."""

  def __init__( self, shape: Shape, memory: MemoryMap, spad: SpadMap, kv: KvLayout ) -> None:
    self.shape, self.memory, self.spad, self.kv = shape, memory, spad, kv
    self.out: list[Instruction] = []

  def emit( self, mnemonic: str, **operands: int | float ) -> None:
    self.out.append( mk( mnemonic, **operands ) )

  def matrix( self, name: str, width: int, stride: int = 0 ) -> dict[str, int]:
    """The operands that describe one row-major operand: `width` elements, `stride` rows (default: dense)."""
    return { f"{name}_stride": stride or self.shape.rows( width ) }

  def load_gain( self, norm: int ) -> None:
    """Bring the gain of a norm into one of two buffers, well before it is needed: the next GEMM hides it."""
    s, slot = self.shape, norm % 2
    row_lines = ceil_div( 4 * s.hidden, LINE_BYTES )
    self.emit( "LOAD", dram=self.memory.line( "norms" ) + norm * row_lines, dst=self.spad.gains[slot],
               rows=1, length=s.hidden, dst_stride=s.rows( s.hidden ), row_lines=row_lines )

  def to_activations( self, base: int, length: int, stride: int ) -> None:
    """Convert a matrix in place to what the MAC array takes in this precision."""
    common: dict[str, int] = { "dst": base, "src": base, "segments": 1, "length": length,
                               "dst_stride": stride, "src_stride": stride }
    if self.shape.precision.act_bits:
      self.emit( "QUANTIZE", bits=self.shape.precision.act_bits, **common )
    else:
      self.emit( "CONVERT", formats=Convert.FP32_BF16, **common )

  def norm( self, norm: int ) -> None:
    """h = activations( rmsnorm( x ) * gain ); the gain is there already."""
    s, sp = self.shape, self.spad
    stride = s.rows( s.hidden )
    self.emit( "RMSNORM", dst=sp.h, src=sp.x, src2=sp.gains[norm % 2], segments=1, length=s.hidden,
               dst_stride=stride, src_stride=stride, inv_length=1.0 / s.model.hidden_size,
               eps=s.model.rms_norm_eps )
    self.to_activations( sp.h, s.hidden, stride )

  def gemm( self, region: str, layout: StreamLayout, src: int, dst: int, src_stride: int, dst_stride: int,
            residual: bool = False ) -> None:
    """dst = src x region (+ dst)."""
    flags = GemmFlag.BIAS * layout.has_bias | GemmFlag.RESIDUAL * residual
    self.emit( "GEMM", dram=self.memory.line( region ), mode=layout.mode, group=GROUP_SIZES.index( layout.group ),
               flags=flags, src=src, dst=dst, src2=dst if residual else 0, k=layout.k, cols=layout.cols,
               src_stride=src_stride, dst_stride=dst_stride )

  def attention( self, i: int ) -> None:
    """x += o( attention( rope( qkv( norm( x ) ) ) ) )."""
    s, sp, m = self.shape, self.spad, self.shape.model
    layouts  = s.matrices()
    head     = s.rows( s.head )
    qkv      = ( m.heads + 2 * m.kv_heads ) * head
    self.norm( NORMS_PER_LAYER * i )
    self.gemm( f"layers.{i}.qkv", layouts["qkv"], sp.h, sp.qkv, s.rows( s.hidden ), qkv )
    # Heads of q and k follow each other: one ROPE turns both. Padded halves turn zeros into zeros.
    self.emit( "ROPE", dst=sp.qkv, src=sp.qkv, src2=sp.rope, segments=m.heads + m.kv_heads, length=s.head,
               dst_stride=qkv, src_stride=qkv, src2_stride=s.rows( s.half ) )
    self.emit( "QUANTIZE", dst=sp.qkv, src=sp.qkv, segments=m.heads + 2 * m.kv_heads, length=s.head,
               dst_stride=qkv, src_stride=qkv, bits=16 )
    self.emit( "ATTEND", dram=self.memory.line( f"kv.{i}" ), dst=sp.att, heads=m.heads, src=sp.qkv,
               kv_heads=m.kv_heads, src2=sp.qkv + m.heads * head, length=s.head, chunks=self.kv.chunks,
               dst_stride=m.heads * head, src_stride=qkv, factor=log2( EULER ) / sqrt( m.head_dim ) )
    self.to_activations( sp.att, m.heads * s.head, m.heads * head )
    self.load_gain( NORMS_PER_LAYER * i + 1 )
    self.gemm( f"layers.{i}.o", layouts["o"], sp.att, sp.x, m.heads * head, s.rows( s.hidden ), residual=True )

  def mlp( self, i: int ) -> None:
    """x += down( silu( gate( norm( x ) ) ) * up( norm( x ) ) )."""
    s, sp   = self.shape, self.spad
    layouts = s.matrices()
    inter   = s.rows( s.inter )
    self.norm( NORMS_PER_LAYER * i + 1 )
    self.gemm( f"layers.{i}.gate_up", layouts["gate_up"], sp.h, sp.gate_up, s.rows( s.hidden ), 2 * inter )
    self.emit( "SWIGLU", dst=sp.gate_up, src=sp.gate_up, src2=sp.gate_up + inter, segments=1, length=s.inter,
               dst_stride=2 * inter, src_stride=2 * inter, src2_stride=2 * inter )
    self.to_activations( sp.gate_up, s.inter, 2 * inter )
    self.load_gain( NORMS_PER_LAYER * i + 2 )
    self.gemm( f"layers.{i}.down", layouts["down"], sp.gate_up, sp.x, 2 * inter, s.rows( s.hidden ), residual=True )

  def head( self, tiles: list[HeadTile] ) -> None:
    """TOKEN = argmax( head( norm( x ) ) ), a part of the vocabulary at a time."""
    s, sp = self.shape, self.spad
    row_lines = 4 * s.vocab // LINE_BYTES
    self.norm( NORMS_PER_LAYER * s.model.layers )
    for j, tile in enumerate( tiles ):
      buffer, stride = sp.logits[j % 2], s.rows( tile.cols )
      self.gemm( f"head.{j}", s.stream( s.hidden, tile.cols ), sp.h, buffer, s.rows( s.hidden ), stride )
      self.emit( "ARGMAX", rows=1, src=buffer, length=min( tile.cols, s.model.vocab_size - tile.start ),
                 base=tile.start, first=int( j == 0 ) )
      self.emit( "STORE", cond=Cond.LOGITS, dram=self.memory.line( "logits" ) + 4 * tile.start // LINE_BYTES,
                 src=buffer, length=tile.cols, src_stride=stride, row_lines=row_lines )

  def program( self, tiles: list[HeadTile] ) -> list[Instruction]:
    """The whole loop."""
    s, sp = self.shape, self.spad
    hidden = s.rows( s.hidden )
    self.emit( "PASS", limit=sp.pass_rows )
    self.emit( "EMBED", dram=self.memory.line( "embedding" ), dst=sp.x, vocab=s.model.vocab_size, length=s.hidden,
               dst_stride=hidden, row_lines=ceil_div( 4 * s.hidden, LINE_BYTES ) )
    self.emit( "LOAD", rel=Rel.POS, dram=self.memory.line( "rope" ), dst=sp.rope, length=s.half,
               dst_stride=s.rows( s.half ), row_lines=ceil_div( 4 * s.half, LINE_BYTES ) )
    self.load_gain( 0 )
    for i in range( s.model.layers ):
      self.attention( i )
      self.mlp( i )
    self.emit( "ADVANCE" )
    self.emit( "JUMP", cond=Cond.PREFILL, target=0 )
    # Only the last row predicts a new token; scoring wants all of them.
    self.emit( "COPY", cond=Cond.GENERATE, rel=Rel.LAST, rows=1, dst=sp.x, src=sp.x, segments=1, length=s.hidden,
               dst_stride=hidden, src_stride=hidden )
    self.emit( "SETROWS", cond=Cond.GENERATE, rows=1 )
    self.head( tiles )
    self.emit( "HALT", cond=Cond.SCORE, status=Status.SCORED )
    self.emit( "EMIT" )
    self.emit( "JUMP", target=0 )
    return self.out

ALL_UNITS = Unit.MAC | Unit.VEC | Unit.ATT | Unit.LOAD | Unit.STORE

def worst_accesses( cfg: NpuConfig, i: Instruction, pass_rows: int ) -> list[Access]:
  """What an instruction may touch in a pass of up to `pass_rows` rows, whatever the registers hold."""
  rows = int( i.rows ) or pass_rows
  if i.rel == Rel.LAST:
    first, last = footprint( cfg, i, rows, 0 ), footprint( cfg, i, rows, pass_rows - 1 )
    return [ Access( a.space, a.low, b.high, a.write ) for a, b in zip( first, last, strict=True ) ]
  return footprint( cfg, i, rows, 0 )    # other registers move only within read-only tables

def assign_waits( cfg: NpuConfig, instructions: list[Instruction], pass_rows: int ) -> list[Instruction]:
  """Give each instruction the smallest wait mask that keeps every data dependence.

  A unit runs its own instructions in order; an instruction waits for another unit when that unit still
  has something to do that touches the same rows or lines, one of the two writing. A wait holds even if
  the instruction's condition does not. Jumps, and EMIT, which needs TOKEN, wait as well.
  """
  pending: dict[Unit, list[Access]] = { u: [] for u in ALL_UNITS }
  out = []
  for i in instructions:
    touched = worst_accesses( cfg, i, pass_rows )
    wait = Unit( 0 )
    if i.mnemonic in ( "JUMP", "HALT" ):
      wait = ALL_UNITS
    elif i.mnemonic == "EMIT":
      wait = Unit.VEC
    else:
      for unit, accesses in pending.items():
        if unit != i.format.unit and any( a.conflicts( b ) for a in accesses for b in touched ):
          wait |= unit
    for unit in wait:
      pending[unit] = []
    if i.format.unit:
      pending[i.format.unit] += touched
    out.append( i.but( wait=int( wait ) ) if wait else i )
  return out

def build( model: ModelConfig, cfg: NpuConfig, precision: Precision, context: int,
           pass_rows: int | None = None ) -> Program:
  """Memory map, scratchpad map and instructions for a model.

  Parameters
  ----------
  context
    Positions that the KV cache and the RoPE table hold.
  pass_rows
    The most rows of a pass; default: as many as fit, up to m_max.

  Raises
  ------
  NpuError
    The model does not fit the configuration; the message says which parameter to change.
  """
  shape = Shape( model, cfg, precision )
  longest = max( shape.hidden, shape.inter, model.heads * shape.head )
  if longest > cfg.k_max:
    raise NpuError( f"config {cfg.name} sums at most k_max = {cfg.k_max} products; this model needs {longest}" )
  for name, value, bits in ( ( "heads + 2 * kv_heads", model.heads + 2 * model.kv_heads, 8 ),
                             ( "intermediate_size", 2 * shape.inter, 20 ),
                             ( "vocab_size", shape.vocab, 20 ) ):
    if value >= 1 << bits:
      raise NpuError( f"the model's {name} is {value} (padded); instructions hold up to {( 1 << bits ) - 1}" )
  if shape.head > MAX_HEAD_DIM:
    raise NpuError( f"the model's head_dim is {model.head_dim} ({shape.head} padded); the attention engine does up to "
                    f"{MAX_HEAD_DIM}" )
  spad  = fit_spad( shape, pass_rows )
  tiles = head_tiles( shape, spad.head_cols )
  kv    = KvLayout( shape.head, model.kv_heads, ceil_div( context, CHUNK ) )
  # The program's length depends only on the number of layers and tiles: build once to count, once for real.
  draft  = _Builder( shape, _map_memory( shape, context, spad, tiles, 0, kv ), spad, kv ).program( tiles )
  memory = _map_memory( shape, context, spad, tiles, len( draft ), kv )
  instructions = _Builder( shape, memory, spad, kv ).program( tiles )
  return Program( shape, context, memory, spad, tiles, assign_waits( cfg, instructions, spad.pass_rows ) )

def head_order( shape: Shape ) -> np.ndarray:
  """Where element j of a head stands in its padded form: int array [head_dim]."""
  real = shape.model.head_dim // 2
  return np.concatenate( [ np.arange( real ), shape.half + np.arange( real ) ] )
