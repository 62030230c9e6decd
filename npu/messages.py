"""Messages between blocks: one factory per message, with widths from the configuration.

A factory returns the same class for the same widths, so that two blocks that are built apart still
agree on the type of the wire between them.
"""

from functools import cache
from typing import Any

from pymtl3 import Bits1, Bits2, Bits3, Bits4, Bits16, Bits20, Bits24, Bits32, mk_bits, mk_bitstruct

from npu.config import NpuConfig

def _name( kind: str, cfg: NpuConfig ) -> str:
  d = cfg.derived
  return f"{kind}_n{cfg.n}_a{d.spad_addr_bits}_m{d.row_count_bits}"

@cache
def mk_mem_read_req( cfg: NpuConfig ) -> Any:
  """A burst read: `addr` in beats, `beats` in 1..burst_beats; it must not cross a 4 KiB boundary.

  The answer is `beats` messages of one beat (Bits of 32n), in order of address; bursts are answered in
  order of request.
  """
  d = cfg.derived
  return mk_bitstruct( _name( "MemReadReq", cfg ), {
    "addr": mk_bits( d.beat_addr_bits ), "beats": mk_bits( d.burst_len_bits ) } )

@cache
def mk_spad_write( cfg: NpuConfig ) -> Any:
  """A scratchpad write: one whole row of n lanes. (A read request is just an address.)"""
  d = cfg.derived
  return mk_bitstruct( _name( "SpadWrite", cfg ), {
    "addr": mk_bits( d.spad_addr_bits ), "data": mk_bits( d.beat_bits ) } )

@cache
def mk_completion() -> Any:
  """What a unit answers to a command: `npu.isa.Error`, 0 for success; `value` is ARGMAX's index."""
  return mk_bitstruct( "Completion", { "error": Bits4, "value": Bits32 } )

@cache
def mk_gemm_cmd( cfg: NpuConfig ) -> Any:
  """A GEMM as the controller hands it to the array: rows and addresses are resolved.

  `dram` in lines; `dst`, `src`, `src2` in scratchpad rows; `k` and `cols` in elements; fields as in
  `npu.isa`.
  """
  return mk_bitstruct( _name( "GemmCmd", cfg ), {
    "dram": Bits32, "dst": Bits24, "src": Bits24, "src2": Bits24, "mode": Bits3, "group": Bits2,
    "bias": Bits1, "residual": Bits1, "k": Bits20, "cols": Bits20, "rows": mk_bits( 8 ),
    "dst_stride": Bits16, "src_stride": Bits16 } )

@cache
def mk_stream_req( cfg: NpuConfig ) -> Any:
  """A linear stream to read: first beat, and how many."""
  return mk_bitstruct( _name( "StreamReq", cfg ), {
    "addr": mk_bits( cfg.derived.beat_addr_bits ), "beats": Bits32 } )
