"""Reads the mailbox at a doorbell, and checks it."""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass
from pymtl3.stdlib.stream.ifcs import MasterIfcRTL

from npu.arch.config import LINE_BYTES, clog2
from npu.arch.mailbox import MAILBOX_WORDS, MAX_EOS, Flag, Word
from npu.arch.messages import mk_mem_read_req
from rtl_models.control.instruction_fetch import SLOT_BITS

WORDS = max( Word ) + 1    # that mean something

class MailboxReader( Component ):
  """All of the mailbox in one burst. What it says stays until the next one.

  Ports
  -----
  start
    Asks in the next cycle.
  busy
    The words are not all there.
  mem
    Every response is taken at once.
  score, logits
    Flags.
  max_count, capacity, lines, writable, first_pos, first_len, code_count, token_line
    Words: LIMIT, CONTEXT, DRAM_LINES, WRITABLE, POS, LEN, PROGRAM_COUNT, TOKENS.
  bad
    No run can be made of it: BAD_MAILBOX.
  first_slot, end_slot
    Slots, half lines, from which and before which instructions are fetched; none of a bad mailbox.
  token, ends_eos
    Whether a token is one of those that end the sequence.
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
    words_per_line = LINE_BYTES // 4
    line_shift     = clog2( words_per_line )

    # Interface

    s.start      = InPort()
    s.busy       = OutPort()
    s.mem        = MasterIfcRTL( REQ, BEAT )
    s.score      = OutPort()
    s.logits     = OutPort()
    s.max_count  = OutPort( 32 )
    s.capacity   = OutPort( 32 )
    s.lines      = OutPort( 32 )
    s.writable   = OutPort( 32 )
    s.first_pos  = OutPort( 32 )
    s.first_len  = OutPort( 32 )
    s.code_count = OutPort( 32 )
    s.token_line = OutPort( 32 )
    s.bad        = OutPort()
    s.first_slot = OutPort( SLOT_BITS )
    s.end_slot   = OutPort( SLOT_BITS )
    s.token      = InPort( 32 )
    s.ends_eos   = OutPort()

    # Components

    s.asking = Wire()
    s.left   = Wire( LEFT )               # beats to come
    s.word   = [ Wire( 32 ) for _ in range( WORDS ) ]
    s.lane   = [ Wire( 32 ) for _ in range( WORDS ) ]
    s.turn   = [ Wire( LEFT ) for _ in range( WORDS ) ]   # `left` when the word comes
    for w in range( WORDS ):
      s.lane[w] //= s.mem.resp.msg[32 * ( w % n ) : 32 * ( w % n ) + 32]
      s.turn[w] //= beats - w // n

    # Words by their names

    s.eos_count = Wire( 32 )
    s.code_line = Wire( 32 )
    s.eos       = [ Wire( 32 ) for _ in range( MAX_EOS ) ]
    for port, word in ( ( s.max_count, Word.LIMIT ), ( s.capacity, Word.CONTEXT ), ( s.lines, Word.DRAM_LINES ),
                        ( s.writable, Word.WRITABLE ), ( s.first_pos, Word.POS ), ( s.first_len, Word.LEN ),
                        ( s.code_line, Word.PROGRAM ), ( s.code_count, Word.PROGRAM_COUNT ),
                        ( s.token_line, Word.TOKENS ), ( s.eos_count, Word.EOS_COUNT ) ):
      connect( port, s.word[int( word )] )
    for k in range( MAX_EOS ):
      s.eos[k] //= s.word[int( Word.EOS ) + k]
    s.score  //= s.word[int( Word.FLAGS )][Flag.SCORE.bit_length() - 1]
    s.logits //= s.word[int( Word.FLAGS )][Flag.LOGITS.bit_length() - 1]

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

    # Check

    s.buffer_end = Wire( 34 )
    s.code_end   = Wire( SLOT_BITS )
    s.memory_end = Wire( SLOT_BITS )

    @update
    def up_bad():
      # The token buffer has CONTEXT + 1 words.
      s.buffer_end @= zext( s.token_line, 34 ) + ( ( zext( s.capacity, 34 ) + words_per_line ) >> line_shift )
      s.bad        @= ( ( s.eos_count > MAX_EOS ) | ( s.max_count == 0 ) | ( s.first_pos > s.first_len )
                        | ( s.first_len > s.capacity ) | ( s.buffer_end > zext( s.lines, 34 ) ) )

    @update
    def up_slots():
      s.first_slot @= zext( s.code_line, SLOT_BITS ) << 1
      s.memory_end @= zext( s.lines, SLOT_BITS ) << 1
      s.code_end   @= s.first_slot + zext( s.code_count, SLOT_BITS )
      s.end_slot   @= s.memory_end
      if s.code_end < s.memory_end:
        s.end_slot @= s.code_end
      if s.bad:
        s.end_slot @= 0

    # End of a sequence

    s.match = [ Wire() for _ in range( MAX_EOS ) ]
    s.hits  = Wire( MAX_EOS )
    for k in range( MAX_EOS ):
      s.hits[k] //= s.match[k]

    @update
    def up_match():
      for k in range( MAX_EOS ):
        s.match[k] @= ( s.eos[k] == s.token ) & ( s.eos_count > k )

    @update
    def up_ends():
      s.ends_eos @= s.hits != 0

  def line_trace( s ):
    return f"{s.left}"
