"""Unpacks a weight stream into the columns' shadow registers, and queues scales and biases.

One beat per cycle; it stalls only while the shadow registers are full or a queue is. See
npu/arch/weight_stream.py for the order of the stream. Costs 8n operand decoders (4n at n = 4).
"""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass
from pymtl3.stdlib.stream import NormalQueueRTL
from pymtl3.stdlib.stream.ifcs import RecvIfcRTL, SendIfcRTL

from npu.arch.config import clog2
from npu.arch.isa import GemmMode
from npu.arch.messages import mk_gemm_cmd
from rtl_models.mac.column import WEIGHT_BITS
from rtl_models.mac.operand_decode import OperandDecode

HEADERS = 4    # output tiles (or groups) whose scales may wait

# Parts of an output tile, in the order of the stream.
BIAS, SCALE, GROUP, WEIGHTS = range( 4 )

class WeightLoader( Component ):
  """`full` says that the shadow registers hold a whole tile; `swap` takes it.

  Ports
  -----
  start
    A command whose stream arrives next at `beats`.
  load_en, load
    To every column c: write row k of the shadow weights with load[k % rows][c].
  scales, biases
    One beat per output tile (scales: per group), in order.
  """

  def construct( s, cfg ):
    n, d  = cfg.n, cfg.derived
    rows  = min( n, 8 )                   # weight rows decoded at once, at most
    lg    = clog2( n )
    s.set_metadata( VerilogTranslationPass.explicit_module_name, f"WeightLoader_n{n}" )
    BEAT  = mk_bits( d.beat_bits )
    CMD   = mk_gemm_cmd( cfg )
    STEP  = mk_bits( 3 )
    MASK  = mk_bits( n )
    EIGHT = MASK( ( 1 << rows ) - 1 )         # a step of INT4: 8 rows, or all 4
    I16_I16, I16_G4, I16_G8, BF16, FP16 = ( int( m ) for m in (
      GemmMode.I16_I16, GemmMode.I16_G4, GemmMode.I16_G8, GemmMode.BF16, GemmMode.FP16 ) )

    # Interface

    s.start   = RecvIfcRTL( CMD )
    s.beats   = RecvIfcRTL( BEAT )
    s.load_en = OutPort( n )
    s.load    = [ [ OutPort( WEIGHT_BITS ) for _ in range( n ) ] for _ in range( rows ) ]
    s.full    = OutPort()
    s.swap    = InPort()
    s.scales  = SendIfcRTL( BEAT )
    s.biases  = SendIfcRTL( BEAT )

    # Components

    s.scale_q = NormalQueueRTL( BEAT, HEADERS )
    s.bias_q  = NormalQueueRTL( BEAT, HEADERS )
    s.decode  = [ [ OperandDecode() for _ in range( n ) ] for _ in range( rows ) ]
    s.scales //= s.scale_q.send
    s.biases //= s.bias_q.send

    # State: what is loaded next

    s.setup    = Wire()                   # a command has just come: counters are set in this cycle
    s.cmd      = Wire( CMD )
    s.phase    = Wire( 2 )
    s.tiles    = Wire( 20 )               # output tiles to go; none: ready for a command
    s.k_tiles  = Wire( 20 )               # K tiles to go in this output tile
    s.g_tiles  = Wire( 6 )                # K tiles to go in this group
    s.step     = Wire( STEP )             # step within the tile
    s.second   = Wire()                   # n = 4, INT4: the second half of a beat
    s.is_full  = Wire()
    s.full   //= s.is_full

    # What the command means

    s.grouped   = Wire()
    s.int4      = Wire()
    s.sixteen   = Wire()
    s.floating  = Wire()
    s.half      = Wire()
    s.last_step = Wire( STEP )
    s.first     = Wire( 2 )
    s.after     = Wire( 2 )               # the part after the biases
    s.all_k     = Wire( 20 )
    s.all_g     = Wire( 6 )
    tiles_32, tiles_64, tiles_128 = ( Bits6( size // n ) for size in ( 32, 64, 128 ) )
    last16, last8, last4 = STEP( n // 2 - 1 ), STEP( n // 4 - 1 ), STEP( max( n // 8, 1 ) - 1 )
    HALVES = Bits1( n == 4 )              # an INT4 beat is two tiles

    @update
    def up_mode():
      s.grouped  @= ( s.cmd.mode == I16_G4 ) | ( s.cmd.mode == I16_G8 )
      s.int4     @= s.cmd.mode == I16_G4
      s.floating @= ( s.cmd.mode == BF16 ) | ( s.cmd.mode == FP16 )
      s.half     @= s.cmd.mode == FP16
      s.sixteen  @= ( s.cmd.mode == I16_I16 ) | s.floating
      s.last_step @= last8
      if s.sixteen:
        s.last_step @= last16
      elif s.int4:
        s.last_step @= last4
      s.after @= SCALE
      if s.grouped:
        s.after @= GROUP
      elif s.floating:
        s.after @= WEIGHTS
      s.first @= s.after
      if s.cmd.bias:
        s.first @= BIAS
      s.all_k @= trunc( ( zext( s.cmd.k, 28 ) + ( n - 1 ) ) >> lg, 20 )
      s.all_g @= tiles_32
      if s.cmd.group == 2:
        s.all_g @= tiles_64
      elif s.cmd.group == 3:
        s.all_g @= tiles_128

    # Handshakes

    s.busy   = Wire()
    s.fire   = Wire()                     # a part of the stream is taken in this cycle
    s.weigh  = Wire()                     # and it is weights
    s.filled = Wire()                     # and they complete a tile

    @update
    def up_fire():
      s.scale_q.recv.msg @= s.beats.msg
      s.bias_q.recv.msg  @= s.beats.msg
      s.busy             @= ~s.setup & ( s.tiles != 0 )
      s.start.rdy        @= ~s.setup & ( s.tiles == 0 )
      s.scale_q.recv.val @= s.busy & s.beats.val & ( ( s.phase == SCALE ) | ( s.phase == GROUP ) )
      s.bias_q.recv.val  @= s.busy & s.beats.val & ( s.phase == BIAS )
      s.weigh @= s.busy & s.beats.val & ( s.phase == WEIGHTS ) & ( ~s.is_full | s.swap )
      s.fire  @= ( s.scale_q.recv.val & s.scale_q.recv.rdy ) | ( s.bias_q.recv.val & s.bias_q.recv.rdy ) | s.weigh
      s.filled @= s.weigh & ( s.step == s.last_step )
      s.beats.rdy @= s.fire
      if HALVES & s.int4 & s.weigh & ~s.second:
        s.beats.rdy @= 0

    @update_ff
    def ff_state():
      if s.reset:
        s.setup   <<= 0
        s.tiles   <<= 0
        s.is_full <<= 0
        s.second  <<= 0
        s.step    <<= 0
      else:
        if s.filled:
          s.is_full <<= 1
        elif s.swap:
          s.is_full <<= 0
        s.setup <<= s.start.val & s.start.rdy
        if s.start.val & s.start.rdy:
          s.cmd <<= s.start.msg
        elif s.setup:
          s.tiles   <<= trunc( ( zext( s.cmd.cols, 28 ) + ( n - 1 ) ) >> lg, 20 )
          s.phase   <<= s.first
          s.k_tiles <<= s.all_k
          s.g_tiles <<= s.all_g
        elif s.fire:
          if s.phase == BIAS:
            s.phase <<= s.after
          elif ~s.weigh:
            s.phase <<= WEIGHTS
          if s.weigh:
            s.step <<= s.step + 1
            if HALVES & s.int4:
              s.second <<= ~s.second
          if s.filled:
            s.step    <<= 0
            s.k_tiles <<= s.k_tiles - 1
            s.g_tiles <<= s.g_tiles - 1
            if s.grouped & ( s.g_tiles == 1 ):
              s.phase   <<= GROUP
              s.g_tiles <<= s.all_g
            if s.k_tiles == 1:
              s.phase   <<= s.first
              s.k_tiles <<= s.all_k
              s.g_tiles <<= s.all_g
              s.tiles   <<= s.tiles - 1

    # Zero points of the group: one signed byte per column

    s.zero = [ Wire( 8 ) for _ in range( n ) ]
    s.lane = [ Wire( 8 ) for _ in range( n ) ]
    for c in range( n ):
      s.lane[c] //= s.beats.msg[32 * c : 32 * c + 8]

    @update_ff
    def ff_zero():
      for c in range( n ):
        if s.fire & ( s.phase == GROUP ):
          s.zero[c] <<= s.lane[c]
        elif ~s.grouped:
          s.zero[c] <<= 0

    # Unpacking: a beat is 8 rows of INT4, 4 of INT8 or 2 of 16 bits

    s.nibble  = [ [ Wire( 4 )  for _ in range( n ) ] for _ in range( rows ) ]
    s.low4    = [ [ Wire( 4 )  for _ in range( n ) ] for _ in range( rows ) ]
    s.high4   = [ [ Wire( 4 )  for _ in range( n ) ] for _ in range( rows ) ]
    s.octet   = [ [ Wire( 8 )  for _ in range( n ) ] for _ in range( rows ) ]
    s.pattern = [ [ Wire( 16 ) for _ in range( n ) ] for _ in range( rows ) ]
    s.value   = [ [ Wire( 16 ) for _ in range( n ) ] for _ in range( rows ) ]
    for j in range( rows ):
      for c in range( n ):
        at4, at8, at16 = 4 * ( j * n + c ), 8 * ( j % 4 * n + c ), 16 * ( j % 2 * n + c )
        high = ( at4 + d.beat_bits // 2 ) % d.beat_bits
        s.low4[j][c]    //= s.beats.msg[at4 : at4 + 4]
        s.high4[j][c]   //= s.beats.msg[high : high + 4]
        s.octet[j][c]   //= s.beats.msg[at8 : at8 + 8]
        s.pattern[j][c] //= s.beats.msg[at16 : at16 + 16]

    s.zero16  = [ Wire( 16 ) for _ in range( n ) ]
    s.octet16 = [ [ Wire( 16 ) for _ in range( n ) ] for _ in range( rows ) ]

    # Signs are extended by wires: `sext` of an array element translates wrongly.
    for c in range( n ):
      s.zero16[c][0:8] //= s.zero[c]
      for b in range( 8, 16 ):
        s.zero16[c][b] //= s.zero[c][7]
      for j in range( rows ):
        s.octet16[j][c][0:8] //= s.octet[j][c]
        for b in range( 8, 16 ):
          s.octet16[j][c][b] //= s.octet[j][c][7]

    @update
    def up_nibble():
      for c in range( n ):
        for j in range( rows ):
          s.nibble[j][c] @= s.low4[j][c]
          if s.second:
            s.nibble[j][c] @= s.high4[j][c]

    @update
    def up_value():
      for j in range( rows ):
        for c in range( n ):
          if s.sixteen:
            s.value[j][c] @= s.pattern[j][c]
          elif s.int4:
            s.value[j][c] @= zext( s.nibble[j][c], 16 ) - s.zero16[c]
          else:
            s.value[j][c] @= s.octet16[j][c] - s.zero16[c]

    for j in range( rows ):
      for c in range( n ):
        s.decode[j][c].in_      //= s.value[j][c]
        s.decode[j][c].floating //= s.floating
        s.decode[j][c].half     //= s.half
        s.load[j][c]            //= s.decode[j][c].out

    # Which rows: `step` counts groups of 8, 4 or 2 rows

    @update
    def up_enable():
      s.load_en @= MASK( 0 )
      if s.weigh:
        if s.sixteen:
          s.load_en @= MASK( 0x3 ) << ( zext( s.step, n ) << 1 )
        elif s.int4:
          s.load_en @= EIGHT << ( zext( s.step, n ) << 3 )
        else:
          s.load_en @= MASK( 0xF ) << ( zext( s.step, n ) << 2 )

  def line_trace( s ):
    return f"{s.phase}:{s.tiles}:{s.k_tiles}{'F' if s.is_full else ' '}"
