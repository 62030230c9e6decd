"""Small errors in the controller that its suite must notice: name, file, what becomes what."""

# The table of directed rows at n = 4, one at n = 16, mailboxes, broken programs, and faults while units work.
SELECTED = ( "( test_rows and not n8 and not n16 ) or ( test_rows_n16 and program_at_end ) or test_mailboxes "
             "or test_programs or ( test_faults and busy ) or test_skipped" )

CONTROLLER = "rtl_models/controller.py"
ADDRESSES  = "rtl_models/control/address_generator.py"
REGISTERS  = "rtl_models/control/control_registers.py"
DISPATCHER = "rtl_models/control/dispatcher.py"
DMA        = "rtl_models/control/dma.py"
FETCH      = "rtl_models/control/instruction_fetch.py"
INTERLOCK  = "rtl_models/control/interlock.py"
LOAD       = "rtl_models/control/load_unit.py"
READER     = "rtl_models/control/mailbox_reader.py"
STORE      = "rtl_models/control/store_unit.py"
WRITER     = "rtl_models/control/mailbox_writer.py"

MUTATIONS = (
  ( "PC goes on at a fault", CONTROLLER, "      if s.fault != 0:\n        s.steps @= 0\n", "" ),
  ( "only units that write memory are waited for", INTERLOCK,
    "s.lacks    @= s.early & s.busy", "s.lacks    @= s.early & s.busy & WRITERS" ),
  ( "STORE is not waited for", CONTROLLER,
    "s.busy   @= concat( s.dma.store_busy, ", "s.busy   @= concat( Bits1( 0 ), " ),
  ( "array started without its operands", INTERLOCK,
    "s.after    @= s.needs & s.behind", "s.after    @= s.needs & s.behind & WRITERS" ),
  ( "GEMM waits for itself", DISPATCHER, "s.mac_before   @= s.mac_count != 1", "s.mac_before   @= s.mac_count != 0" ),
  ( "GEMM streams what is still being stored", INTERLOCK,
    "s.early @= s.needs & WRITERS", "s.early @= s.needs & ON_LOAD" ),
  ( "EMIT does not wait for ARGMAX", INTERLOCK,
    "if ( s.opcode == EMIT ) | ( s.rel == BY_TOKEN ):", "if s.rel == BY_TOKEN:" ),
  ( "address by TOKEN does not wait for ARGMAX", INTERLOCK,
    "if ( s.opcode == EMIT ) | ( s.rel == BY_TOKEN ):", "if s.opcode == EMIT:" ),
  ( "EMBED overwrites the table of the one before", INTERLOCK, "s.needs @= s.mask | ON_LOAD", "s.needs @= s.mask" ),
  ( "TOKEN from any vector instruction", DISPATCHER,
    "s.vec_done.val & s.kinds.send.val & s.kinds.send.msg", "s.vec_done.val" ),
  ( "TOKEN kept from the run before", DISPATCHER, "      if s.clear:\n", "      if s.reset:\n" ),
  ( "refused command counted", DISPATCHER, "s.answered & ( s.answer == 0 )", "s.answered" ),
  ( "LAST one row too far", ADDRESSES, "s.last_row @= s.rows - 1", "s.last_row @= s.rows" ),
  ( "64-bit line addresses", ADDRESSES, "SUM_BITS = 66", "SUM_BITS = 64" ),
  ( "src wraps", ADDRESSES, "if s.low > zext( FAR, SUM ):", "if s.low[24]:" ),
  ( "ROWS cut to eight bits", ADDRESSES, "if s.rows > 255:", "if s.rows > 511:" ),
  ( "first writable line refused", DMA,
    "( s.low < zext( s.writable, SUM ) )", "( s.low <= zext( s.writable, SUM ) )" ),
  ( "m_max rows refused", DMA, "elif s.rows > m_max:", "elif s.rows >= m_max:" ),
  ( "last token not compared", DMA, "( s.tokens.out.msg >= zext( s.vocab, 32 ) )",
    "( ( s.tokens.out.msg >= zext( s.vocab, 32 ) ) & ( s.taken + 1 != s.rows ) )" ),
  ( "one EOS token too many", READER, "( s.eos_count > k )", "( s.eos_count >= k )" ),
  ( "limit before EOS", REGISTERS, "if s.ends_eos:", "if s.ends_eos & ( s.count != s.max_count ):" ),
  ( "first backward jump refused", REGISTERS, "s.backward & s.jumped & ", "s.backward & " ),
  ( "jump to itself is forward", REGISTERS, "s.target <= s.pc", "s.target < s.pc" ),
  ( "token buffer without its last word", READER,
    "( zext( s.capacity, 34 ) + words_per_line )", "( zext( s.capacity, 34 ) + 15 )" ),
  ( "PREFILL while scoring", INTERLOCK, "~s.score & ( s.pos < s.len )", "s.pos < s.len" ),
  ( "status of HALT checked as a format", "rtl_models/control/decoder.py",
    "( s.opcode == HALT ) & ~s.ok_status.ok", "( s.opcode == HALT ) & ~s.ok_formats.ok" ),
  ( "instruction after a jump executed", FETCH, "s.stale <<= s.left", "s.stale <<= 0" ),
  ( "more instructions asked for than there is room", FETCH, "( s.ahead != DEPTH )", "( s.ahead != 15 )" ),
  ( "fetch past the program", FETCH, "( s.slot < s.limit )", "( s.slot <= s.limit )" ),
  ( "halves of a beat exchanged", FETCH, "if s.odd.send.msg:", "if ~s.odd.send.msg:" ),
  ( "token read twice at the end of a beat", "rtl_models/control/token_reader.py",
    "( ( s.lane == top ) | ( s.left == 1 ) )", "( s.left == 1 )" ),
  ( "lanes past the length loaded", LOAD, "        if ~s.keep[c]:\n          s.masked[c] @= 0\n", "" ),
  ( "one lane too many loaded", LOAD, "( s.tail > c )", "( s.tail >= c )" ),
  ( "rows of a LOAD one line apart", LOAD, "s.line + s.now.row_lines", "s.line + 1" ),
  ( "words past the length stored", STORE, "~s.target.last_column | ( s.tail == 0 ) | ( s.tail > c )", "Bits1( 1 )" ),
  ( "more rows asked for than there is room", STORE, "s.source.more & ( s.free != 0 )", "s.source.more" ),
  ( "token beside its place", WRITER, "s.place  @= s.len - 1", "s.place  @= s.len" ),
  ( "the host's words written over", WRITER, "s.chosen @= s.some[b]", "s.chosen @= s.some[b] | 2" ),
)
