"""Whether an instruction is executed or skipped, and which units it waits for before."""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass

from npu.arch.isa import BY_MNEMONIC, Cond, Rel, Unit

class Interlock( Component ):
  """An instruction waits for the units in its mask even if its condition does not hold. Combinational.

  Sets of units are masks of `npu.arch.isa.Unit`.

  Ports
  -----
  opcode, cond, mask, rel, is_mac
    The instruction; `mask` is `wait`, and `is_mac` says that it is a GEMM.
  score, logits, pos, len
    What conditions are about: flags of the mailbox, registers.
  decoded
    The instruction is there and is a defined one.
  busy, behind
    Units with something unfinished; the same without the GEMM that is looked at.
  lacks
    Units that must be finished before the instruction is sent or executed, and are not.
  after
    GEMM: units that must be finished before it starts, and are not.
  skips, executes
    It need not wait any more, and its condition does not hold; it does.
  """

  def construct( s ):
    s.set_metadata( VerilogTranslationPass.explicit_module_name, "Interlock" )
    PREFILL, GENERATE, SCORE, LOGITS = ( Bits4( x ) for x in (
      Cond.PREFILL, Cond.GENERATE, Cond.SCORE, Cond.LOGITS ) )
    BY_TOKEN        = Bits4( Rel.TOKEN )
    EMIT, EMBED     = ( Bits8( BY_MNEMONIC[m].opcode ) for m in ( "EMIT", "EMBED" ) )
    ON_VEC, ON_LOAD = Bits5( Unit.VEC ), Bits5( Unit.LOAD )
    WRITERS         = Bits5( Unit.ATT | Unit.STORE )    # units that may write what a GEMM streams

    # Interface

    s.opcode   = InPort( 8 )
    s.cond     = InPort( 4 )
    s.mask     = InPort( 5 )
    s.rel      = InPort( 4 )
    s.is_mac   = InPort()
    s.score    = InPort()
    s.logits   = InPort()
    s.pos      = InPort( 32 )
    s.len      = InPort( 32 )
    s.decoded  = InPort()
    s.busy     = InPort( 5 )
    s.behind   = InPort( 5 )
    s.lacks    = OutPort( 5 )
    s.after    = OutPort( 5 )
    s.skips    = OutPort()
    s.executes = OutPort()

    # Components

    s.holds = Wire()                      # the condition
    s.needs = Wire( 5 )                   # units that must be finished before the instruction is executed
    s.early = Wire( 5 )                   # and before it is sent
    s.ready = Wire()                      # it need not wait

    # Logic

    @update
    def up_holds():
      s.holds @= 1
      if s.cond == PREFILL:
        s.holds @= ~s.score & ( s.pos < s.len )
      elif s.cond == GENERATE:
        s.holds @= ~s.score
      elif s.cond == SCORE:
        s.holds @= s.score
      elif s.cond == LOGITS:
        s.holds @= s.score | s.logits

    @update
    def up_needs():
      s.needs @= s.mask
      if ( s.opcode == EMIT ) | ( s.rel == BY_TOKEN ):
        s.needs @= s.mask | ON_VEC
      elif s.opcode == EMBED:
        s.needs @= s.mask | ON_LOAD
      s.early @= s.needs
      if s.is_mac & s.holds:
        s.early @= s.needs & WRITERS

    @update
    def up_waits():
      s.lacks    @= s.early & s.busy
      s.after    @= s.needs & s.behind
      s.ready    @= s.decoded & ( s.lacks == 0 )
      s.skips    @= s.ready & ~s.holds
      s.executes @= s.ready & s.holds

  def line_trace( s ):
    return f"{s.lacks}{'x' if s.executes else ' '}"
