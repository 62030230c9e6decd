"""Instructions for the controller's programs, and a program as the compiler writes them."""

import struct

from npu.arch.config import PRESETS
from npu.arch.isa import Cond, Field, Instruction, Rel, Status, encode, mk
from npu.compiler.program import assign_waits

PASS    = mk( "PASS", limit=8 )
EMBED   = mk( "EMBED", dram=64, dst=0, vocab=8, length=16, row_lines=1, dst_stride=4 )
LOAD    = mk( "LOAD", rows=1, dram=100, dst=40, length=16, dst_stride=4 )
STORE   = mk( "STORE", rows=1, dram=600, src=40, length=16, src_stride=4 )
GEMM    = mk( "GEMM", rows=1, dram=128, dst=80, src=90, k=16, cols=16 )
COPY    = mk( "COPY", rows=1, dst=100, src=110, segments=1, length=16 )
RMSNORM = mk( "RMSNORM", rows=1, dst=100, src=110, src2=120, segments=1, length=16, inv_length=1 / 16, eps=1e-6 )
ARGMAX  = mk( "ARGMAX", rows=1, src=7, length=16, base=3, first=1 )
ATT     = mk( "ATTEND", dram=700, dst=128, heads=2, kv_heads=1, src=140, src2=160, length=16, chunks=2, dst_stride=8,
              src_stride=16, factor=0.25 )
ADVANCE = mk( "ADVANCE" )
EMIT    = mk( "EMIT" )
HALT    = mk( "HALT", status=Status.SCORED )
WAIT    = mk( "WAIT" )

def jump( target: int, **operands: int ) -> Instruction:
  return mk( "JUMP", target=target, **operands )

def raw( i: Instruction, **fields: int ) -> bytes:
  """An instruction with fields set to bits that `encode` may not take."""
  words  = list( struct.unpack( "<8I", encode( i ) ) )
  places = { f.name: f for f in i.format.all_fields } | { "opcode": Field( "opcode", 0, 0, 8, "" ) }
  for name, value in fields.items():
    f = places[name]
    words[f.word] = words[f.word] & ~( ( ( 1 << f.width ) - 1 ) << f.low ) | value << f.low
  return struct.pack( "<8I", *words )

FAR = 0xFFFFFFFF

# Every unit at work.
BUSY = [ PASS, LOAD.but( length=200 ), EMBED, GEMM, COPY, ARGMAX, ATT, STORE.but( length=200, src=300 ) ]

def ordered( code: list[Instruction], n: int = 4 ) -> list[Instruction]:
  """A program with the compiler's wait masks."""
  return assign_waits( PRESETS[f"edge{n}"], code, PRESETS[f"edge{n}"].m_max )

# As the compiler writes them: passes over the prompt, then a token each.
LOOP = ordered( [
  PASS,                                                                          # 0
  EMBED,
  LOAD.but( rows=0, rel=Rel.POS, dram=200, row_lines=2, length=20, dst=70, dst_stride=5 ),
  RMSNORM.but( rows=0, src=0, src_stride=4, dst_stride=4 ),
  GEMM.but( rows=0, src=100, dst=200, src_stride=4, dst_stride=4, flags=1 ),
  mk( "ROPE", src=200, dst=200, src2=70, segments=1, length=16, src_stride=4, dst_stride=4, src2_stride=5 ),
  mk( "QUANTIZE", src=200, dst=200, segments=1, length=16, src_stride=4, dst_stride=4, bits=16 ),
  ATT.but( src=200, src2=400, dst=500 ),
  GEMM.but( rows=0, dram=160, src=500, dst=0, src2=0, src_stride=4, dst_stride=4, flags=2 ),
  ADVANCE,
  jump( 0, cond=Cond.PREFILL ),                                                  # 10
  COPY.but( cond=Cond.GENERATE, rel=Rel.LAST, src=0, dst=0, src_stride=4, dst_stride=4 ),
  mk( "SETROWS", cond=Cond.GENERATE, rows=1 ),
  GEMM.but( rows=0, src=0, dst=600, src_stride=4, dst_stride=20, cols=80 ),
  ARGMAX.but( src=600, length=80 ),
  STORE.but( cond=Cond.LOGITS, rows=0, dram=800, src=600, length=79, src_stride=20, row_lines=6 ),
  GEMM.but( rows=0, dram=300, src=0, dst=1000, src_stride=4, dst_stride=20, cols=80 ),
  ARGMAX.but( src=1000, length=78, first=0, base=80 ),
  HALT.but( cond=Cond.SCORE ),                                                   # 18
  EMIT,
  jump( 0 ) ] )
