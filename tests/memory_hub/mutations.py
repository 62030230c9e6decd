"""Small errors in the memory hub that its suite must notice: name, file, what becomes what."""

# The table at n = 4 and at the other sizes, and the tests of cycles.
SELECTED = "test_rows or test_latency or test_no_bubbles or test_priority"

HUB = "rtl_models/memory_hub.py"

MUTATIONS = (
  ( "read does not wait for writes", HUB, "s.follows <<= s.busy & ~s.ends", "s.follows <<= 0" ),
  ( "read waits for writes that are gone", HUB, "s.follows <<= s.busy & ~s.ends", "s.follows <<= s.busy" ),
  ( "read waits for one batch only", HUB, "s.send.val @= s.full & ( s.follows == 0 )",
    "s.send.val @= s.full & ~s.follows[0]" ),
  ( "read waits until any batch is gone", HUB, "s.follows <<= s.follows & ~s.ends",
    "s.follows <<= s.follows if s.ends == 0 else 0" ),
  ( "request offered again", HUB,
    "        if s.send.val & s.send.rdy:\n          s.full <<= 0\n",
    "        s.full <<= s.full\n" ),
  ( "request lost when the memory is not ready", HUB, "        if s.send.val & s.send.rdy:\n          s.full <<= 0\n",
    "        if s.send.val:\n          s.full <<= 0\n" ),
  ( "writes of a cycle, last client first", HUB,
    "      s.send.msg @= s.held[2]\n      if s.valid[1]:\n        s.send.msg @= s.held[1]\n      if s.valid[0]:\n"
    "        s.send.msg @= s.held[0]\n",
    "      s.send.msg @= s.held[0]\n      if s.valid[1]:\n        s.send.msg @= s.held[1]\n      if s.valid[2]:\n"
    "        s.send.msg @= s.held[2]\n" ),
  ( "first write of a batch only", HUB, "s.rest @= s.valid & ( s.valid - 1 )", "s.rest @= 0" ),
  ( "batch ends early", HUB, "s.send.rdy & ( s.rest == 0 )", "s.send.rdy" ),
  ( "write lost when the memory is not ready", HUB,
    "      elif s.send.val & s.send.rdy:\n        s.valid <<= s.rest",
    "      elif s.send.val:\n        s.valid <<= s.rest" ),
  ( "last client's writes not taken", HUB, "s.valid <<= concat( s.val[2], s.val[1], s.val[0] )",
    "s.valid <<= concat( Bits1( 0 ), s.val[1], s.val[0] )" ),
  ( "one batch only", HUB, "s.fill <<= ~s.fill", "s.fill <<= s.fill" ),
  ( "batches drained in the wrong order", HUB, "          s.drain <<= ~s.drain", "          s.drain <<= s.fill" ),
  ( "client ready while its batch drains", HUB, "s.open @= ~s.batch[s.fill].busy", "s.open @= 1" ),
  ( "priority of two clients exchanged", HUB,
    "      if s.asks[2]:\n        s.grant @= 2\n      if s.asks[1]:\n        s.grant @= 1\n",
    "      if s.asks[1]:\n        s.grant @= 1\n      if s.asks[2]:\n        s.grant @= 2\n" ),
  ( "request withdrawn for a better one", HUB, "      if s.held:\n        s.grant @= s.chose\n", "" ),
  ( "route not remembered when the queue is full", HUB, "( s.asks != 0 ) & s.routes.recv.rdy", "( s.asks != 0 )" ),
  ( "a request under way too few", HUB, "NormalQueueRTL( ROUTE, depth )", "NormalQueueRTL( ROUTE, depth - 1 )" ),
  ( "beats held up by a buffer of one", HUB, "NormalQueueRTL( BEAT, 2 )", "NormalQueueRTL( BEAT, 1 )" ),
  ( "all clients offered the beat", HUB, "s.read[i].resp.val @= s.shown & ( s.client == i )",
    "s.read[i].resp.val @= s.shown" ),
  ( "beat given without the client", HUB, "s.gave @= s.shown & s.read[s.client].resp.rdy", "s.gave @= s.shown" ),
  ( "route changes one beat late", HUB, "s.routes.send.rdy @= s.gave & ( s.given + 1 == s.routes.send.msg.beats )",
    "s.routes.send.rdy @= s.gave & ( s.given == s.routes.send.msg.beats )" ),
  ( "beats not counted from zero", HUB, "        if s.given + 1 == s.routes.send.msg.beats:\n          s.given <<= 0\n",
    "" ),
)
