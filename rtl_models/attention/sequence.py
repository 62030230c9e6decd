"""The chunks of a command in their order: KV heads, sweeps, chunks."""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass
from pymtl3.stdlib.stream.ifcs import SendIfcRTL

from npu.arch.config import ROWS_PER_TOKEN
from npu.arch.messages import mk_attend_cmd
from rtl_models.attention.shape import AttentionShape

FAR_BITS = 34    # positions relative to a chunk, signed

def mk_chunk( cfg ):
  """One chunk of a sweep, and the query rows that see it: those of the last `tokens` token rows.

  `q_addr` and `o_addr` are scratchpad rows of the first of them; rows are numbered from the pass's first token
  row on, heads innermost. `limit` is the last key that the first of them sees, at most 16. `opens` marks the
  first chunk of a sweep, `closes` the last one of the command.
  """
  d, shape = cfg.derived, AttentionShape( cfg )
  SPAD, ROW = mk_bits( d.spad_addr_bits ), mk_bits( shape.row_bits )
  return mk_bitstruct( f"AttentionChunk_a{d.spad_addr_bits}_r{shape.row_bits}", {
    "q_addr": SPAD, "o_addr": SPAD, "heads": Bits8, "tokens": Bits8, "row_first": ROW, "row_last": ROW,
    "limit": Bits5, "opens": Bits1, "closes": Bits1 } )

class AttentionSequence( Component ):
  """One chunk per cycle.

  Ports
  -----
  start
    Begins; the parameters stay.
  cmd, group, split
    The command; its query heads per KV head; whether they need several sweeps.
  src_stride, dst_stride, head_step
    Scratchpad rows from a token row, and from a head, to the next.
  """

  def construct( s, cfg ):
    d, shape = cfg.derived, AttentionShape( cfg )
    s.set_metadata( VerilogTranslationPass.explicit_module_name,
                    f"AttentionSequence_a{d.spad_addr_bits}_r{shape.row_bits}" )
    SPAD = mk_bits( d.spad_addr_bits )
    spad_bits = d.spad_addr_bits
    row_bits  = shape.row_bits
    CHUNK_T   = mk_chunk( cfg )

    # Interface

    s.start     = InPort()
    s.cmd       = InPort( mk_attend_cmd( cfg ) )
    s.group     = InPort( 8 )
    s.split     = InPort()
    s.src_stride = InPort( SPAD )
    s.dst_stride = InPort( SPAD )
    s.head_step  = InPort( SPAD )
    s.out       = SendIfcRTL( CHUNK_T )

    # State

    s.busy    = Wire()
    s.opens   = Wire()
    s.kv_left = Wire( 8 )
    s.left    = Wire( 8 )            # query heads of this KV head from this sweep on
    s.far     = Wire( FAR_BITS )     # position of the first token row, minus that of the chunk's first key
    s.q_head  = Wire( SPAD )
    s.o_head  = Wire( SPAD )

    # Logic

    s.heads   = Wire( 8 )
    s.skip    = Wire( 8 )            # token rows before the chunk
    s.reach   = Wire( FAR_BITS )
    s.ends    = Wire()               # of the sweep
    s.limit   = Wire( 5 )
    s.closes  = Wire()
    s.step    = Wire( SPAD )         # scratchpad rows of the sweep's heads
    s.steps   = Wire( SPAD )         # the same as `heads`, `skip`
    s.skips   = Wire( SPAD )
    s.row_first = Wire( 16 )
    s.row_last  = Wire( 16 )
    negative    = FAR_BITS - 1

    # A product of so many low bits is right in so many low bits.
    same = min( spad_bits, 8 )
    s.steps[0:same] //= s.heads[0:same]
    s.skips[0:same] //= s.skip[0:same]
    for b in range( same, spad_bits ):
      s.steps[b] //= 0
      s.skips[b] //= 0

    @update
    def up_heads():
      s.heads @= s.left
      if s.split & ( s.left > ROWS_PER_TOKEN ):
        s.heads @= ROWS_PER_TOKEN
      s.skip  @= 0
      s.limit @= s.far[0:5]
      if s.far[negative]:
        s.skip  @= ~s.far[0:8] + 1
        s.limit @= 0
      elif s.far > 16:
        s.limit @= 16
      s.reach  @= s.far + zext( s.cmd.rows, FAR_BITS )
      s.ends   @= s.reach <= 16
      s.closes @= s.ends & ( s.left == s.heads ) & ( s.kv_left == 1 )
      s.step   @= s.steps * s.head_step

    @update
    def up_chunk():
      s.row_first @= zext( s.skip, 16 ) * zext( s.heads, 16 )
      s.row_last  @= zext( s.cmd.rows, 16 ) * zext( s.heads, 16 ) - 1
      s.out.val   @= s.busy
      s.out.msg   @= CHUNK_T( s.q_head + s.skips * s.src_stride, s.o_head + s.skips * s.dst_stride, s.heads,
                              s.cmd.rows - s.skip, s.row_first[0:row_bits], s.row_last[0:row_bits], s.limit, s.opens,
                              s.closes )

    @update_ff
    def ff_chunk():
      if s.reset:
        s.busy <<= 0
      elif s.start:
        s.busy    <<= 1
        s.opens   <<= 1
        s.kv_left <<= s.cmd.kv_heads
        s.left    <<= s.group
        s.far     <<= zext( s.cmd.pos, FAR_BITS )
        s.q_head  <<= s.cmd.src[0:spad_bits]
        s.o_head  <<= s.cmd.dst[0:spad_bits]
      elif s.out.val & s.out.rdy:
        s.opens <<= s.ends
        s.far   <<= s.far - 16
        if s.ends:
          s.far    <<= zext( s.cmd.pos, FAR_BITS )
          s.q_head <<= s.q_head + s.step
          s.o_head <<= s.o_head + s.step
          s.left   <<= s.left - s.heads
          if s.left == s.heads:
            s.left    <<= s.group
            s.kv_left <<= s.kv_left - 1
        if s.closes:
          s.busy <<= 0

  def line_trace( s ):
    return f"{s.kv_left}:{s.left}:{s.far}" if s.busy else "."
