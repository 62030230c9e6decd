"""Writes what the host is told: mailbox words, and new tokens."""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass
from pymtl3.stdlib.stream.ifcs import SendIfcRTL

from npu.arch.config import clog2
from npu.arch.mailbox import Word
from npu.arch.messages import mk_mem_write

# Occasions to write, and the words that are written.
START, TOKEN, END = range( 3 )
REPORTS = ( ( Word.STATUS, Word.ERROR, Word.COUNT ),
            ( Word.LEN, Word.COUNT ),
            ( Word.DOORBELL, Word.POS, Word.LEN, Word.STATUS, Word.ERROR, Word.PC, Word.COUNT ) )
WRITTEN = 16    # words that a report may contain, from the first on

class MailboxWriter( Component ):
  """A report: blocks of mailbox words, one beat each, from high to low; for TOKEN, the new token before them.

  A block without a word to write takes a cycle all the same.

  Ports
  -----
  start, kind
    Begin with the next cycle: START, TOKEN or END.
  pos, len, status, error, pc, count
    Values of the words; DOORBELL is written as zero. They stay as they are until the end.
  token, tokens
    The new token, and the line of the token buffer; its place is LEN - 1.
  ends
    The last write is taken in this cycle.
  """

  def construct( s, cfg ):
    n, d   = cfg.n, cfg.derived
    lg     = clog2( n )
    s.set_metadata( VerilogTranslationPass.explicit_module_name, f"MailboxWriter_n{n}" )
    BEAT   = mk_bits( d.beat_bits )
    blocks = WRITTEN // n
    STEP   = mk_bits( clog2( blocks + 1 ) )
    addr_bits  = d.beat_addr_bits
    beat_shift = clog2( d.beats_per_line )
    ONE    = mk_bits( n )( 1 )
    AT_TOKEN, AT_TOP = STEP( blocks ), STEP( blocks - 1 )
    AT_START, AT_EMIT, AT_END = ( Bits16( sum( 1 << w for w in words ) ) for words in REPORTS )

    # Interface

    s.start  = InPort()
    s.kind   = InPort( 2 )
    s.pos    = InPort( 32 )
    s.len    = InPort( 32 )
    s.status = InPort( 4 )
    s.error  = InPort( 4 )
    s.pc     = InPort( 32 )
    s.count  = InPort( 32 )
    s.token  = InPort( 32 )
    s.tokens = InPort( 32 )
    s.ends   = OutPort()
    s.post   = SendIfcRTL( mk_mem_write( cfg ) )

    # Components

    s.active = Wire()
    s.now    = Wire( 2 )                  # the kind of this report
    s.step   = Wire( STEP )               # the block; past the last one: the token
    s.words  = Wire( WRITTEN )            # words of this report
    s.some   = [ Wire( n ) for _ in range( blocks ) ]
    s.block  = [ Wire( BEAT ) for _ in range( blocks ) ]
    s.chosen = Wire( n )                  # words to write in this cycle
    s.strobe = Wire( 4 * n )
    s.copies = Wire( BEAT )               # the token in every lane
    s.data   = Wire( BEAT )
    s.place  = Wire( 32 )                 # of the token in the buffer
    s.addr   = Wire( addr_bits )
    s.goes   = Wire()

    # Connections

    value = { Word.POS: s.pos, Word.LEN: s.len, Word.PC: s.pc, Word.COUNT: s.count }
    for w in range( WRITTEN ):
      b, low = w // n, 32 * ( w % n )
      if w in value:
        s.block[b][low : low + 32] //= value[w]
      elif w in ( Word.STATUS, Word.ERROR ):
        s.block[b][low : low + 4]      //= s.status if w == Word.STATUS else s.error
        s.block[b][low + 4 : low + 32] //= 0
      else:
        s.block[b][low : low + 32] //= 0
    for b in range( blocks ):
      s.some[b] //= s.words[n * b : n * b + n]
    for k in range( n ):
      s.copies[32 * k : 32 * k + 32] //= s.token
      for b in range( 4 ):
        s.strobe[4 * k + b] //= s.chosen[k]

    # Logic

    @update
    def up_words():
      s.words @= AT_START
      if s.now == TOKEN:
        s.words @= AT_EMIT
      elif s.now == END:
        s.words @= AT_END

    @update
    def up_choice():
      s.place  @= s.len - 1
      s.chosen @= 0
      s.data   @= s.copies
      s.addr   @= zext( s.step, addr_bits )
      for b in range( blocks ):
        if s.step == b:
          s.chosen @= s.some[b]
          s.data   @= s.block[b]
      if s.step == AT_TOKEN:
        s.chosen @= ONE << zext( s.place[0:lg], n )
        s.addr   @= ( zext( s.tokens, addr_bits ) << beat_shift ) + zext( s.place[lg:32], addr_bits )

    @update
    def up_post():
      s.post.val @= s.active & ( s.chosen != 0 )
      s.post.msg.addr   @= s.addr
      s.post.msg.data   @= s.data
      s.post.msg.strobe @= s.strobe
      s.goes     @= s.active & ( ( s.chosen == 0 ) | s.post.rdy )
      s.ends     @= s.goes & ( s.step == 0 )

    @update_ff
    def ff_step():
      if s.reset:
        s.active <<= 0
      elif s.start:
        s.active <<= 1
        s.now    <<= s.kind
        s.step   <<= AT_TOP
        if s.kind == TOKEN:
          s.step <<= AT_TOKEN
      elif s.goes:
        s.step <<= s.step - 1
        if s.step == 0:
          s.active <<= 0

  def line_trace( s ):
    return f"{s.now}:{s.step}" if s.active else "."
