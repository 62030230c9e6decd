"""Messages between blocks: one factory per message, with widths from the configuration.

A factory returns the same class for the same widths, so that two blocks that are built apart still
agree on the type of the wire between them.
"""

from functools import cache
from typing import Any

from pymtl3 import (
  Bits1,
  Bits3,
  Bits4,
  Bits8,
  Bits10,
  Bits16,
  Bits20,
  Bits22,
  Bits24,
  Bits32,
  mk_bits,
  mk_bitstruct,
)

from npu.arch.config import NpuConfig

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
def mk_mem_write( cfg: NpuConfig ) -> Any:
  """A write of one beat: `addr` in beats, bit i of `strobe` says whether byte i is written.

  There is no answer: a write that is taken is seen by every read request that is taken in a later cycle.
  """
  d = cfg.derived
  return mk_bitstruct( _name( "MemWrite", cfg ), {
    "addr": mk_bits( d.beat_addr_bits ), "data": mk_bits( d.beat_bits ), "strobe": mk_bits( d.beat_bytes ) } )

#-------------------------------------------------------------------------
# Commands of the engines, and their answers
#-------------------------------------------------------------------------

# A command is an instruction with rows and addresses resolved. Fields are as in `npu.arch.isa`; those that the
# instruction does not name are ignored. An engine answers each command twice: `ack`, as soon as it is checked
# and whatever earlier commands are doing, and `done`, when it is finished. A refused command has no effect and
# no `done`.

Ack  = Bits4     # npu.arch.isa.Error: NONE accepts the command
Done = Bits32    # ARGMAX: the index of the largest element so far; otherwise 0

@cache
def mk_gemm_cmd( cfg: NpuConfig ) -> Any:
  """A GEMM for the MAC array.

  `dram` in lines; `dst`, `src`, `src2` in scratchpad rows; `k` and `cols` in elements; `lines` is the size of
  the memory.
  """
  return mk_bitstruct( _name( "GemmCmd", cfg ), {
    "dram": Bits32, "dst": Bits24, "src": Bits24, "src2": Bits24, "mode": Bits3, "group": Bits8,
    "bias": Bits1, "residual": Bits1, "k": Bits20, "cols": Bits20, "rows": Bits8,
    "dst_stride": Bits16, "src_stride": Bits16, "lines": Bits32 } )

@cache
def mk_vector_cmd( cfg: NpuConfig ) -> Any:
  """An instruction of the vector unit.

  `op` is one of `npu.arch.isa.VECTOR_OP`; `mode` is QUANTIZE's bits, CONVERT's formats, ARGMAX's
  first; `param` is RMSNORM's inv_length, the factor of SCALE and SOFTMAX (FP32), ARGMAX's base. `dst`, `src`,
  `src2` and strides in scratchpad rows; `length` in elements.
  """
  return mk_bitstruct( _name( "VectorCmd", cfg ), {
    "op": Bits4, "mode": Bits8, "rows": Bits8, "segments": Bits8, "length": Bits20,
    "dst": Bits24, "src": Bits24, "src2": Bits24, "dst_stride": Bits16, "src_stride": Bits16,
    "src2_stride": Bits16, "param": Bits32, "eps": Bits32 } )

@cache
def mk_attend_cmd( cfg: NpuConfig ) -> Any:
  """An ATTEND for the attention engine.

  `pos` is the position of the pass's first row; `dram` in lines; `lines` is the size of the memory and
  `writable` the first line that may be written; `dst`, `src`, `src2` and strides in scratchpad rows; `length` in
  elements; `factor` FP32.
  """
  return mk_bitstruct( _name( "AttendCmd", cfg ), {
    "rows": Bits8, "heads": Bits8, "kv_heads": Bits8, "length": Bits10, "chunks": Bits22, "pos": Bits32,
    "dram": Bits32, "dst": Bits24, "src": Bits24, "src2": Bits24, "dst_stride": Bits16, "src_stride": Bits16,
    "factor": Bits32, "lines": Bits32, "writable": Bits32 } )

@cache
def mk_stream_req( cfg: NpuConfig ) -> Any:
  """A linear stream to read: first beat, and how many."""
  return mk_bitstruct( _name( "StreamReq", cfg ), {
    "addr": mk_bits( cfg.derived.beat_addr_bits ), "beats": Bits32 } )
