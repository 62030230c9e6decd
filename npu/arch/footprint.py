"""What an instruction reads and writes: for bounds checks, wait masks and documentation alike."""

from collections.abc import Callable
from dataclasses import dataclass

from npu.arch.config import LINE_BYTES, ROWS_PER_TOKEN, NpuConfig, ceil_div
from npu.arch.isa import GROUP_SIZES, Error, GemmFlag, GemmMode, Instruction
from npu.arch.kv_cache import KvLayout
from npu.arch.weight_stream import StreamLayout

@dataclass( frozen=True )
class Access:
  """A half-open range of scratchpad rows (`spad`) or DRAM lines (`dram`), read or written."""
  space: str
  low: int
  high: int
  write: bool

  def conflicts( self, other: "Access" ) -> bool:
    """Whether the two may not be reordered: they overlap and one of them writes."""
    return ( self.space == other.space and ( self.write or other.write )
             and self.low < other.high and other.low < self.high )

def gemm_layout( cfg: NpuConfig, i: Instruction ) -> StreamLayout:
  """The weight stream that a GEMM reads."""
  return StreamLayout( GemmMode( int( i.mode ) ), cfg.n, int( i.k ), int( i.cols ),
                       GROUP_SIZES[int( i.group )], bool( int( i.flags ) & GemmFlag.BIAS ) )

def kv_layout( i: Instruction ) -> KvLayout:
  """The cache of the layer that an ATTEND works on."""
  return KvLayout( int( i.length ), int( i.kv_heads ), int( i.chunks ) )

def kv_sweeps( cfg: NpuConfig, rows: int, group: int ) -> int:
  """How often an ATTEND of so many rows, with `group` query heads per KV head, streams the cache: the attention engine
  has room for ROWS_PER_TOKEN * m_max query rows."""
  return 1 if rows * group <= ROWS_PER_TOKEN * cfg.m_max else ceil_div( group, ROWS_PER_TOKEN )

def segment_rows( cfg: NpuConfig, i: Instruction ) -> int:
  """Scratchpad rows of one segment; ROPE keeps its halves in whole rows."""
  if i.mnemonic == "ROPE":
    return 2 * ceil_div( int( i.length ) // 2, cfg.n )
  return ceil_div( int( i.length ), cfg.n )

def _spad( base: float, rows: int, stride: float, width: int, write: bool ) -> Access:
  """A matrix: `rows` token rows, `stride` apart, each `width` scratchpad rows."""
  low = int( base )
  return Access( "spad", low, low + ( rows - 1 ) * int( stride ) + width, write )

def _dma( cfg: NpuConfig, i: Instruction, rows: int, offset: int ) -> list[Access]:
  store = i.mnemonic == "STORE"
  lines = ceil_div( 4 * int( i.length ), LINE_BYTES )
  width = ceil_div( int( i.length ), cfg.n )
  low   = int( i.dram ) + offset * int( i.row_lines )
  dram  = Access( "dram", low, low + ( rows - 1 ) * int( i.row_lines ) + lines, store )
  if i.mnemonic == "EMBED":
    dram = Access( "dram", int( i.dram ), int( i.dram ) + ( int( i.vocab ) - 1 ) * int( i.row_lines ) + lines, False )
  if store:
    return [ dram, _spad( i.src, rows, i.src_stride, width, False ) ]
  return [ dram, _spad( i.dst, rows, i.dst_stride, width, True ) ]

def _gemm( cfg: NpuConfig, i: Instruction, rows: int, offset: int ) -> list[Access]:
  stream = gemm_layout( cfg, i )
  out    = ceil_div( int( i.cols ), cfg.n )
  found  = [ Access( "dram", int( i.dram ), int( i.dram ) + ceil_div( stream.total_bytes, LINE_BYTES ), False ),
             _spad( i.src, rows, i.src_stride, ceil_div( int( i.k ), cfg.n ), False ),
             _spad( i.dst, rows, i.dst_stride, out, True ) ]
  if int( i.flags ) & GemmFlag.RESIDUAL:
    found.append( _spad( i.src2, rows, i.dst_stride, out, False ) )
  return found

def _vector( cfg: NpuConfig, i: Instruction, rows: int, offset: int ) -> list[Access]:
  segment = segment_rows( cfg, i )
  names   = { f.name for f in i.format.fields }
  width   = segment * ( int( i.segments ) if "segments" in names else 1 )
  stride  = int( i.src_stride ) if "src_stride" in names else 0
  found   = [ _spad( int( i.src ) + offset * stride, rows, stride, width, False ) ]
  if "dst" in names:
    found.append( _spad( i.dst, rows, i.dst_stride, width, True ) )
  if i.mnemonic == "RMSNORM":
    found.append( _spad( i.src2, 1, 0, segment, False ) )
  elif i.mnemonic == "ROPE":
    found.append( _spad( i.src2, rows, i.src2_stride, segment // 2, False ) )
  elif "src2" in names:
    found.append( _spad( i.src2, rows, i.src2_stride, width, False ) )
  return found

def _attend( cfg: NpuConfig, i: Instruction, rows: int, offset: int ) -> list[Access]:
  head  = ceil_div( int( i.length ), cfg.n )
  cache = Access( "dram", int( i.dram ), int( i.dram ) + kv_layout( i ).total_lines, True )
  return [ cache, _spad( i.src, rows, i.src_stride, int( i.heads ) * head, False ),
           _spad( i.src2, rows, i.src_stride, 2 * int( i.kv_heads ) * head, False ),
           _spad( i.dst, rows, i.dst_stride, int( i.heads ) * head, True ) ]

_KINDS: dict[str, Callable[[NpuConfig, Instruction, int, int], list[Access]]] = {
  "LOAD": _dma, "EMBED": _dma, "STORE": _dma, "GEMM": _gemm, "ATTEND": _attend }

def footprint( cfg: NpuConfig, i: Instruction, rows: int, offset: int = 0 ) -> list[Access]:
  """Everything that an engine instruction touches; control instructions touch nothing.

  Parameters
  ----------
  rows
    Token rows of this execution (at least 1).
  offset
    Value of the register that `rel` names.
  """
  if i.format.unit == 0:
    return []
  return _KINDS.get( i.mnemonic, _vector )( cfg, i, rows, offset )

def bounds( cfg: NpuConfig, accesses: list[Access], lines: int, writable: int = 0 ) -> Error:
  """What is wrong with the ranges that an instruction touches; memory first.

  Parameters
  ----------
  lines, writable
    Size of the memory, and the first line that may be written.
  """
  dram = [ a for a in accesses if a.space == "dram" ]
  spad = [ a for a in accesses if a.space == "spad" ]
  if any( a.high > lines or ( a.write and a.low < writable ) for a in dram ):
    return Error.BAD_DRAM
  return Error.BAD_SPAD if any( a.high > cfg.derived.spad_rows for a in spad ) else Error.NONE
