"""The descriptions of the chunks at work. Everybody goes through them, each at its own place."""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass
from pymtl3.stdlib.stream.ifcs import RecvIfcRTL

from rtl_models.attention.sequence import mk_chunk
from rtl_models.attention.shape import AttentionShape

CHUNKS = 4     # chunks between the first that is read and the last that is written

class AttentionRing( Component ):
  """A ring buffer with one writer and six readers. A chunk's place is free when its results are written.

  A reader is one letter: queries `q`, keys `k`, values `v`, softmax `s`, outputs so far `o`, results written `w`.

  Ports
  -----
  in_
    The next chunk (`mk_chunk`).
  x_val, x_chunk, x_next
    There is a chunk for reader x; it; x goes on to the next one. The softmax has rows only of chunks that are there.
  x_slot
    The chunk's number mod 2: which of the two copies is its, of what is kept for two chunks.
  o_oldest
    The chunk of `o` is the oldest that is there, the one of `w`.
  """

  def construct( s, cfg ):
    d, shape = cfg.derived, AttentionShape( cfg )
    s.set_metadata( VerilogTranslationPass.explicit_module_name,
                    f"AttentionRing_a{d.spad_addr_bits}_r{shape.row_bits}" )
    CHUNK_T = mk_chunk( cfg )

    # Interface

    s.in_      = RecvIfcRTL( CHUNK_T )
    s.q_val    = OutPort()
    s.q_chunk  = OutPort( CHUNK_T )
    s.q_next   = InPort()
    s.k_val    = OutPort()
    s.k_chunk  = OutPort( CHUNK_T )
    s.k_slot   = OutPort()
    s.k_next   = InPort()
    s.v_val    = OutPort()
    s.v_chunk  = OutPort( CHUNK_T )
    s.v_slot   = OutPort()
    s.v_next   = InPort()
    s.s_chunk  = OutPort( CHUNK_T )
    s.s_slot   = OutPort()
    s.s_next   = InPort()
    s.o_val    = OutPort()
    s.o_chunk  = OutPort( CHUNK_T )
    s.o_oldest = OutPort()
    s.o_next   = InPort()
    s.w_val    = OutPort()
    s.w_chunk  = OutPort( CHUNK_T )
    s.w_slot   = OutPort()
    s.w_next   = InPort()

    # State: counters of chunks since reset, mod 8. The lower half is the place, the lowest bit the slot.

    s.entry = [ Wire( CHUNK_T ) for _ in range( CHUNKS ) ]
    s.known = Wire( 3 )
    s.at_q  = Wire( 3 )
    s.at_k  = Wire( 3 )
    s.at_v  = Wire( 3 )
    s.at_s  = Wire( 3 )
    s.at_o  = Wire( 3 )
    s.at_w  = Wire( 3 )

    # Logic

    @update
    def up_chunks():
      s.q_chunk @= s.entry[s.at_q[0:2]]
      s.k_chunk @= s.entry[s.at_k[0:2]]
      s.v_chunk @= s.entry[s.at_v[0:2]]
      s.s_chunk @= s.entry[s.at_s[0:2]]
      s.o_chunk @= s.entry[s.at_o[0:2]]
      s.w_chunk @= s.entry[s.at_w[0:2]]

    @update
    def up_vals():
      s.in_.rdy  @= s.known - s.at_w < CHUNKS
      s.q_val    @= s.at_q != s.known
      s.k_val    @= s.at_k != s.known
      s.v_val    @= s.at_v != s.known
      s.o_val    @= s.at_o != s.known
      s.w_val    @= s.at_w != s.known
      s.k_slot   @= s.at_k[0]
      s.v_slot   @= s.at_v[0]
      s.s_slot   @= s.at_s[0]
      s.w_slot   @= s.at_w[0]
      s.o_oldest @= s.at_o == s.at_w

    @update_ff
    def ff_ring():
      if s.reset:
        s.known <<= 0
        s.at_q  <<= 0
        s.at_k  <<= 0
        s.at_v  <<= 0
        s.at_s  <<= 0
        s.at_o  <<= 0
        s.at_w  <<= 0
      else:
        if s.in_.val & s.in_.rdy:
          s.known <<= s.known + 1
          s.entry[s.known[0:2]] <<= s.in_.msg
        s.at_q <<= s.at_q + zext( s.q_next, 3 )
        s.at_k <<= s.at_k + zext( s.k_next, 3 )
        s.at_v <<= s.at_v + zext( s.v_next, 3 )
        s.at_s <<= s.at_s + zext( s.s_next, 3 )
        s.at_o <<= s.at_o + zext( s.o_next, 3 )
        s.at_w <<= s.at_w + zext( s.w_next, 3 )

  def line_trace( s ):
    return f"{s.known}:{s.at_q}{s.at_k}{s.at_v}{s.at_s}{s.at_o}{s.at_w}"
