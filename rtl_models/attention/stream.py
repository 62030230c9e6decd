"""The cache as one stream of beats: KV head after KV head, each once per sweep."""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass
from pymtl3.stdlib.stream.ifcs import MasterIfcRTL, SendIfcRTL

from npu.arch.messages import mk_mem_read_req
from rtl_models.common.stream_reader import StreamReader

class AttentionStream( Component ):
  """`start` begins; the parameters stay until the last beat is out.

  Ports
  -----
  first, head_beats
    First beat of KV head 0, and beats from one KV head to the next.
  beats
    To read of each.
  kv_heads, sweeps
    How many, and how often each is read.
  """

  def construct( s, cfg ):
    d = cfg.derived
    s.set_metadata( VerilogTranslationPass.explicit_module_name, f"AttentionStream_n{cfg.n}_d{d.stream_beats}" )
    BEAT = mk_bits( d.beat_bits )
    ADDR = mk_bits( d.beat_addr_bits )

    # Interface

    s.start      = InPort()
    s.first      = InPort( ADDR )
    s.head_beats = InPort( 32 )
    s.beats      = InPort( 32 )
    s.kv_heads   = InPort( 8 )
    s.sweeps     = InPort( 6 )
    s.mem        = MasterIfcRTL( mk_mem_read_req( cfg ), BEAT )
    s.out        = SendIfcRTL( BEAT )

    # Components

    s.reader = StreamReader( cfg )
    s.addr   = Wire( ADDR )
    s.heads  = Wire( 8 )       # to go
    s.sweep  = Wire( 6 )

    # Connections

    s.reader.mem //= s.mem
    s.reader.out //= s.out

    # Logic

    @update
    def up_start():
      s.reader.start.val       @= s.heads != 0
      s.reader.start.msg.addr  @= s.addr
      s.reader.start.msg.beats @= s.beats

    @update_ff
    def ff_next():
      if s.reset:
        s.heads <<= 0
      elif s.start:
        s.heads <<= s.kv_heads
        s.sweep <<= 0
        s.addr  <<= s.first
      elif s.reader.start.val & s.reader.start.rdy:
        s.sweep <<= s.sweep + 1
        if s.sweep + 1 == s.sweeps:
          s.sweep <<= 0
          s.heads <<= s.heads - 1
          s.addr  <<= s.addr + zext( s.head_beats, ADDR )

  def line_trace( s ):
    return f"{s.heads}:{s.reader.line_trace()}"
