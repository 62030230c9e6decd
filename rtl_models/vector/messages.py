"""Messages inside the vector unit, and what its operations mean to its parts."""

from functools import cache
from typing import Any

from pymtl3 import Bits1, Bits2, Bits4, Bits8, Bits32, mk_bits, mk_bitstruct

from npu.arch.config import NpuConfig, clog2
from npu.arch.isa import VECTOR_OP

RMSNORM, ROPE, SWIGLU, ADD, MUL, SCALE, QUANTIZE, SOFTMAX, ARGMAX, COPY, CONVERT = ( VECTOR_OP[m] for m in (
  "RMSNORM", "ROPE", "SWIGLU", "ADD", "MUL", "SCALE", "QUANTIZE", "SOFTMAX", "ARGMAX", "COPY", "CONVERT" ) )

def _name( kind: str, cfg: NpuConfig ) -> str:
  return f"{kind}_n{cfg.n}_a{cfg.derived.spad_addr_bits}"

@cache
def mk_walk( cfg: NpuConfig ) -> Any:
  """The rows that a job reads and writes: its fields that say where."""
  fields = dict( mk_job( cfg ).__bitstruct_fields__ )
  return mk_bitstruct( _name( "VectorWalk", cfg ), {
    name: Type for name, Type in fields.items() if name not in ( "mode", "param", "eps" ) } )

@cache
def mk_job( cfg: NpuConfig ) -> Any:
  """An accepted command. Addresses and strides are in the scratchpad's width.

  `height` is the scratchpad rows of a segment, of ROPE of half a segment; `rest` is how many lanes of the
  last of them are used, 0 for all. ARGMAX has one row and one segment here, and RMSNORM's src2_stride is 0.
  """
  SPAD = mk_bits( cfg.derived.spad_addr_bits )
  return mk_bitstruct( _name( "VectorJob", cfg ), {
    "op": Bits4, "mode": Bits8, "rows": Bits8, "segments": Bits8, "height": SPAD, "rest": mk_bits( clog2( cfg.n ) ),
    "dst": SPAD, "src": SPAD, "src2": SPAD, "dst_stride": SPAD, "src_stride": SPAD, "src2_stride": SPAD,
    "param": Bits32, "eps": Bits32 } )

@cache
def mk_row_tag( cfg: NpuConfig ) -> Any:
  """What is known of a row of src when it is asked for.

  `phase`: which pass over the segment. `second`: of a ROPE pair. `first`, `last`: of the segment, of ROPE of its
  halves. `ends`: the command's last. `keep`: lanes that are used.
  """
  return mk_bitstruct( _name( "VectorRowTag", cfg ), {
    "phase": Bits2, "second": Bits1, "first": Bits1, "last": Bits1, "ends": Bits1, "keep": mk_bits( cfg.n ) } )

@cache
def mk_scan_tag( cfg: NpuConfig ) -> Any:
  """The same at src2; `scan`: only for its exponents. The rest counts for a scan only."""
  return mk_bitstruct( _name( "VectorScanTag", cfg ), {
    "scan": Bits1, "first": Bits1, "last": Bits1, "keep": mk_bits( cfg.n ) } )

@cache
def mk_control( cfg: NpuConfig ) -> Any:
  """What the stages do to a row; it travels with the row. See `vector_lane` for the stages.

  mul, conv      stage 1 multiplies, converts small floats (`mode`)
  fix            stage 2 converts to fixed point, `score` with 12 fraction bits, else by `exp`, `narrow` to 8 bits
  square, pack, arg   stage 3 squares, packs block floats, takes from the maximum
  arg            stage 4 takes 2**-u
  prob           stage 5 converts it to FP32
  chain          stage 6 multiplies again, and that is the result
  rope, negate   stage 6 multiplies the pair's other half, changes the sign
  plus           stage 7 adds
  largest, argmax, total   row reductions: for SOFTMAX's maximum, for ARGMAX, a sum
  root           of the sum: RMSNORM
  first, last    of the segment, for the reductions; ARGMAX: `first` starts a new search
  write, ends    there is a result; the command ends with this row
  """
  names = ( "mul", "conv", "fix", "score", "narrow", "square", "pack", "arg", "prob", "chain", "rope", "negate", "plus",
            "largest", "argmax", "total", "root", "first", "last", "write", "ends" )
  return mk_bitstruct( _name( "VectorControl", cfg ), {
    **dict.fromkeys( names, Bits1 ), "mode": Bits2, "exp": Bits8, "keep": mk_bits( cfg.n ) } )
