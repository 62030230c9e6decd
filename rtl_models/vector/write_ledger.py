"""The scratchpad rows that are still to be written, in order; and whether a read must wait for one of them."""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass

from npu.arch.config import clog2

PENDING = 16    # results under way: more than the rows between a read and its write

class WriteLedger( Component ):
  """Costs `PENDING` addresses and two comparators for each.

  Ports
  -----
  push, addr
    A row is asked for whose result goes to `addr`; only if `room`.
  pop, head
    The oldest result is written; its address.
  seal
    A new command begins: reads must wait for everything that is pending now. (A command does not wait for
    its own results: it reads a row before it writes it.)
  query, hit
    For each reader: whether the row waits for a result of an earlier command.
  """

  def construct( s, cfg ):
    a    = cfg.derived.spad_addr_bits
    s.set_metadata( VerilogTranslationPass.explicit_module_name, f"WriteLedger_a{a}" )
    SPAD = mk_bits( a )
    PTR  = mk_bits( clog2( PENDING ) )

    # Interface

    s.push  = InPort()
    s.addr  = InPort( SPAD )
    s.room  = OutPort()
    s.pop   = InPort()
    s.head  = OutPort( SPAD )
    s.seal  = InPort()
    s.query = [ InPort( SPAD ) for _ in range( 2 ) ]
    s.hit   = [ OutPort() for _ in range( 2 ) ]

    # State

    s.rows   = [ Wire( SPAD ) for _ in range( PENDING ) ]
    s.busy   = Wire( PENDING )
    s.sealed = Wire( PENDING )
    s.oldest = Wire( PTR )
    s.newest = Wire( PTR )                    # where the next one goes

    # Logic

    s.match = [ Wire( PENDING ) for _ in range( 2 ) ]

    @update
    def up_match():
      for q in range( 2 ):
        for i in range( PENDING ):
          s.match[q][i] @= s.busy[i] & s.sealed[i] & ( s.rows[i] == s.query[q] )

    @update
    def up_out():
      for q in range( 2 ):
        s.hit[q] @= s.match[q] != 0
      s.room @= ~s.busy[s.newest]
      s.head @= s.rows[s.oldest]

    s.busy_next = Wire( PENDING )

    @update
    def up_busy():
      s.busy_next @= s.busy
      if s.pop:
        s.busy_next[s.oldest] @= 0
      if s.push:
        s.busy_next[s.newest] @= 1

    @update_ff
    def ff_ledger():
      if s.reset:
        s.busy   <<= 0
        s.oldest <<= 0
        s.newest <<= 0
      else:
        s.busy <<= s.busy_next
        if s.push:
          s.rows[s.newest] <<= s.addr
          s.newest <<= s.newest + 1
        if s.pop:
          s.oldest <<= s.oldest + 1
      # Entries are used in a ring: one that is not busy now is new when it is busy again.
      if s.seal:
        s.sealed <<= s.busy
      elif s.push:
        s.sealed <<= s.sealed & s.busy

  def line_trace( s ):
    return f"{s.busy}"
