"""The port `fetch` of the controller, for those who read there one after the other."""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass
from pymtl3.stdlib.stream.ifcs import MasterIfcRTL, MinionIfcRTL

from npu.arch.messages import mk_mem_read_req

class FetchPort( Component ):
  """A multiplexer without an arbiter: a reader asks only while the port is its own.

  Ports
  -----
  to_box, to_tokens
    The port belongs to the mailbox's reader, to that of tokens; otherwise to the instructions'.
  box, tokens, code
    The readers. Nobody changes while something is under way.
  mem
    The memory.
  """

  def construct( s, cfg ):
    s.set_metadata( VerilogTranslationPass.explicit_module_name, f"FetchPort_n{cfg.n}" )
    BEAT = mk_bits( cfg.derived.beat_bits )
    REQ  = mk_mem_read_req( cfg )

    # Interface

    s.to_box    = InPort()
    s.to_tokens = InPort()
    s.box       = MinionIfcRTL( REQ, BEAT )
    s.tokens    = MinionIfcRTL( REQ, BEAT )
    s.code      = MinionIfcRTL( REQ, BEAT )
    s.mem       = MasterIfcRTL( REQ, BEAT )

    # Logic

    @update
    def up_request():
      s.mem.req.val    @= s.code.req.val | s.tokens.req.val | s.box.req.val
      s.mem.req.msg    @= s.code.req.msg
      if s.to_box:
        s.mem.req.msg  @= s.box.req.msg
      elif s.to_tokens:
        s.mem.req.msg  @= s.tokens.req.msg
      s.box.req.rdy    @= s.mem.req.rdy
      s.tokens.req.rdy @= s.mem.req.rdy
      s.code.req.rdy   @= s.mem.req.rdy

    @update
    def up_response():
      s.mem.resp.rdy    @= s.code.resp.rdy
      if s.to_box:
        s.mem.resp.rdy  @= s.box.resp.rdy
      elif s.to_tokens:
        s.mem.resp.rdy  @= s.tokens.resp.rdy
      s.box.resp.val    @= s.mem.resp.val & s.to_box
      s.tokens.resp.val @= s.mem.resp.val & s.to_tokens
      s.code.resp.val   @= s.mem.resp.val & ~s.to_box & ~s.to_tokens
      s.box.resp.msg    @= s.mem.resp.msg
      s.tokens.resp.msg @= s.mem.resp.msg
      s.code.resp.msg   @= s.mem.resp.msg

  def line_trace( s ):
    return f"{s.mem}"
