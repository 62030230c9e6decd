"""Reads the mailbox at a doorbell."""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass
from pymtl3.stdlib.stream.ifcs import MasterIfcRTL

from npu.arch.config import clog2
from npu.arch.mailbox import MAILBOX_WORDS, Word
from npu.arch.messages import mk_mem_read_req

WORDS = max( Word ) + 1    # that mean something

class MailboxReader( Component ):
  """All of the mailbox in one burst; `word` has what came, by `npu.arch.mailbox.Word`.

  Ports
  -----
  start
    Asks in the next cycle.
  busy
    The words are not all there.
  mem
    Every response is taken at once.
  """

  def construct( s, cfg ):
    n, d  = cfg.n, cfg.derived
    s.set_metadata( VerilogTranslationPass.explicit_module_name, f"MailboxReader_n{n}" )
    BEAT  = mk_bits( d.beat_bits )
    ADDR  = mk_bits( d.beat_addr_bits )
    LEN   = mk_bits( d.burst_len_bits )
    REQ   = mk_mem_read_req( cfg )
    beats = MAILBOX_WORDS // n
    LEFT  = mk_bits( clog2( beats + 1 ) )
    first, words = LEFT( beats ), WORDS

    # Interface

    s.start = InPort()
    s.busy  = OutPort()
    s.mem   = MasterIfcRTL( REQ, BEAT )
    s.word  = [ OutPort( 32 ) for _ in range( WORDS ) ]

    # Components

    s.asking = Wire()
    s.left   = Wire( LEFT )               # beats to come
    s.lane   = [ Wire( 32 ) for _ in range( WORDS ) ]
    s.turn   = [ Wire( LEFT ) for _ in range( WORDS ) ]   # `left` when the word comes
    for w in range( WORDS ):
      s.lane[w] //= s.mem.resp.msg[32 * ( w % n ) : 32 * ( w % n ) + 32]
      s.turn[w] //= beats - w // n

    # Logic

    @update
    def up_request():
      s.busy         @= s.left != 0
      s.mem.req.val  @= s.asking
      s.mem.req.msg  @= REQ( ADDR( 0 ), LEN( beats ) )
      s.mem.resp.rdy @= 1

    @update_ff
    def ff_words():
      if s.reset:
        s.asking <<= 0
        s.left   <<= 0
      else:
        if s.start:
          s.asking <<= 1
          s.left   <<= first
        elif s.mem.req.rdy:
          s.asking <<= 0
        if s.mem.resp.val & s.busy:
          s.left <<= s.left - 1
          for w in range( words ):
            if s.left == s.turn[w]:
              s.word[w] <<= s.lane[w]

  def line_trace( s ):
    return f"{s.left}"
