"""Small errors in the attention engine's RTL, each of which its suite must notice."""

SELECTED = "(test_rows and not n8 and not n16) or test_long_rows or test_bad or test_edges or test_cycles"

CHECK    = "rtl_models/attention/check.py"
APPEND   = "rtl_models/attention/append.py"
COMMAND  = "rtl_models/attention/command.py"
SEQUENCE = "rtl_models/attention/sequence.py"
CHUNKS   = "rtl_models/attention/chunks.py"
TILES    = "rtl_models/attention/tiles.py"
SUMS     = "rtl_models/attention/accumulators.py"
SOFTMAX  = "rtl_models/attention/softmax.py"
LANE     = "rtl_models/attention/softmax_lane.py"
OUTPUT   = "rtl_models/attention/output.py"
ENGINE   = "rtl_models/attention_engine.py"

# What is broken, where, what becomes what.
MUTATIONS = (
  ( "m_max rows refused", CHECK, "s.now.rows > m_max", "s.now.rows >= m_max" ),
  ( "heads that do not divide accepted", CHECK, "| ( s.rest != 0 ) ", "" ),
  ( "longest head refused", CHECK, "s.now.length > MAX_HEAD_DIM", "s.now.length >= MAX_HEAD_DIM" ),
  ( "last position refused", CHECK, "s.tokens > s.capacity", "s.tokens >= s.capacity" ),
  ( "end of memory refused", CHECK, "( s.high > zext( s.now.lines, 43 ) )", "( s.high >= zext( s.now.lines, 43 ) )" ),
  ( "first writable line refused", CHECK, "s.now.dram < s.now.writable", "s.now.dram <= s.now.writable" ),
  ( "only the results' range counts", CHECK, "s.in_range & s.range_.ok", "s.range_.ok" ),
  ( "values left out of the range", CHECK, "zext( s.head_rows, 28 ) ) << 1", "zext( s.head_rows, 28 ) ) << 0" ),
  ( "refused commands executed", CHECK, "s.ack.rdy & ( s.error == 0 )", "s.ack.rdy" ),
  ( "next chunk a token too early", APPEND, "if s.place == 15:", "if s.place == 14:" ),
  ( "value exponents among the keys'", APPEND, "zext( s.which & OWN_BEATS, ADDR )", "zext( s.reset, ADDR )" ),
  ( "first half of a row not written", APPEND, "if s.t != 0:", "if s.t == 0:" ),
  ( "last half of an odd row not written", APPEND, "( s.exp_next | s.high | s.last_t )", "( s.exp_next | s.high )" ),
  ( "stall of the memory's write port ignored", APPEND, "( ~s.full | s.kv_wr.rdy )", "Bits1( 1 )" ),
  ( "a token row too many sees the chunk", SEQUENCE, "s.skip  @= ~s.far[0:8] + 1", "s.skip  @= ~s.far[0:8]" ),
  ( "a chunk too many", SEQUENCE, "s.reach <= 16", "s.reach < 16" ),
  ( "rows of a later chunk misplaced", SEQUENCE, "s.row_first @= zext( s.skip, 16 ) * zext( s.heads, 16 )",
    "s.row_first @= zext( s.skip, 16 )" ),
  ( "odd rows of a cache misplaced", CHUNKS, "concat( s.key1[0], s.tile1[0] )", "concat( s.key[0], s.tile1[0] )" ),
  ( "even and odd keys exchanged", TILES, "s.weight_odd[k] if c % 2", "s.weight_even[k] if c % 2" ),
  ( "exponent of another query", SUMS, "s.new_exp @= s.exp\n", "s.new_exp @= s.old_exp\n" ),
  ( "own key not seen", SOFTMAX, "s.key4[c] <= s.limit4", "s.key4[c] < s.limit4" ),
  ( "maximum of an earlier sweep", SOFTMAX, "if ~s.freshs.out[6] & ( s.old6 > s.ceil6[0:TOP_BITS] ):",
    "if s.old6 > s.ceil6[0:TOP_BITS]:" ),
  ( "large rises wrap", SOFTMAX, "if s.rise6 > max_drop:", "if s.reset:" ),
  ( "maximum not rounded up", SOFTMAX, "+ round_up ) >> twelve", ") >> twelve" ),
  ( "exponents of values off by one", SOFTMAX, "K_BITS ) - 127", "K_BITS ) - 126" ),
  ( "mass not started anew", SOFTMAX, "if s.fresh10:", "if s.reset:" ),
  ( "largest term of the first tile only", SOFTMAX, "if s.first9 | ( s.exp_of.out > s.exp10 ):", "if s.first9:" ),
  ( "result divided a chunk too early", SOFTMAX, "s.limit < 16", "s.limit <= 16" ),
  ( "probabilities wrap", LANE, "if s.below > u_max:", "if s.reset & ( s.below > u_max ):" ),
  ( "later keys count", LANE, "        if s.none:\n", "        if s.reset:\n" ),
  ( "output not started anew", OUTPUT, "        if s.fresh:\n", "        if s.reset:\n" ),
  ( "write stall ignored", ENGINE, "s.v[8] & s.wr.rdy & s.results.val", "s.v[8] & s.results.val" ),
  ( "outputs read before they are written", ENGINE, " & s.ring.o_oldest", "" ),
  ( "a sweep too many", COMMAND, "( ROWS_PER_TOKEN - 1 )", "ROWS_PER_TOKEN" ),
)
