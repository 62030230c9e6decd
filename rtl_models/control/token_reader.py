"""Reads tokens from the token buffer, for EMBED.

Costs a buffer of m_max words. Beats are asked for one by one, which spares the arithmetic of bursts.
"""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass
from pymtl3.stdlib.stream import NormalQueueRTL
from pymtl3.stdlib.stream.ifcs import MasterIfcRTL, SendIfcRTL

from npu.arch.config import ceil_div, clog2
from npu.arch.messages import mk_mem_read_req

WORD_ADDR_BITS = 36    # 2^32 lines of 16 words

class TokenReader( Component ):
  """`count` words of memory from word `first` on, one a cycle; at most m_max.

  Ports
  -----
  start
    Reads begin in the next cycle; only once the words before are taken.
  mem
    Every response is taken at once.
  """

  def construct( s, cfg ):
    n, d  = cfg.n, cfg.derived
    lg    = clog2( n )
    s.set_metadata( VerilogTranslationPass.explicit_module_name, f"TokenReader_n{n}_m{cfg.m_max}" )
    BEAT  = mk_bits( d.beat_bits )
    ADDR  = mk_bits( d.beat_addr_bits )
    LEN   = mk_bits( d.burst_len_bits )
    REQ   = mk_mem_read_req( cfg )
    top   = n - 1

    # Interface

    s.start = InPort()
    s.first = InPort( WORD_ADDR_BITS )
    s.count = InPort( 8 )
    s.mem   = MasterIfcRTL( REQ, BEAT )
    s.out   = SendIfcRTL( Bits32 )

    # Components

    s.queue = NormalQueueRTL( BEAT, ceil_div( cfg.m_max + n - 1, n ) )
    s.addr  = Wire( ADDR )
    s.asks  = Wire( 8 )                   # beats to ask for
    s.left  = Wire( 8 )                   # words to give
    s.lane  = Wire( lg )                  # of the next word
    s.gives = Wire()
    s.span  = Wire( 8 )
    s.word  = [ Wire( 32 ) for _ in range( n ) ]

    # Connections

    s.mem.resp //= s.queue.recv
    for c in range( n ):
      s.word[c] //= s.queue.send.msg[32 * c : 32 * c + 32]

    # Logic

    @update
    def up_words():
      s.mem.req.val @= s.asks != 0
      s.mem.req.msg @= REQ( s.addr, LEN( 1 ) )
      s.out.val     @= s.queue.send.val
      s.out.msg     @= s.word[s.lane]
      s.gives       @= s.queue.send.val & s.out.rdy
      s.queue.send.rdy @= s.out.rdy & ( ( s.lane == top ) | ( s.left == 1 ) )
      s.span        @= ( s.count + zext( s.first[0:lg], 8 ) + top ) >> lg

    @update_ff
    def ff_words():
      if s.reset:
        s.asks <<= 0
      elif s.start:
        s.addr <<= s.first[lg:WORD_ADDR_BITS]
        s.asks <<= s.span
        s.lane <<= s.first[0:lg]
        s.left <<= s.count
      else:
        if s.mem.req.val & s.mem.req.rdy:
          s.addr <<= s.addr + 1
          s.asks <<= s.asks - 1
        if s.gives:
          s.lane <<= s.lane + 1
          s.left <<= s.left - 1

  def line_trace( s ):
    return f"{s.asks}:{s.left}"
