"""Checks a GEMM: `fl.mac_array.check` without a register.

Costs a multiplier of 48 x 28 bits for the length of the stream, and three `RangeCheck`s.
"""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass

from npu.arch.config import clog2
from npu.arch.isa import Error, GemmMode
from npu.arch.messages import Ack, mk_gemm_cmd
from rtl_models.common.range_check import RangeCheck

class MacCheck( Component ):
  """Combinational.

  Ports
  -----
  cmd
    A command (`npu.arch.messages.mk_gemm_cmd`).
  error
    What is wrong with it, as `npu.arch.isa.Error`.
  beats
    Of its weight stream, if it is good.
  """

  def construct( s, cfg ):
    n, d  = cfg.n, cfg.derived
    lg    = clog2( n )
    s.set_metadata( VerilogTranslationPass.explicit_module_name,
                    f"MacCheck_n{n}_m{cfg.m_max}_k{cfg.k_max}_r{d.spad_rows}" )
    LINES = mk_bits( 48 )                     # an end address in lines, wide enough for any command
    m_max, k_max = cfg.m_max, cfg.k_max
    I16_I16, I16_G4, I16_G8, BF16, FP16 = ( int( m ) for m in (
      GemmMode.I16_I16, GemmMode.I16_G4, GemmMode.I16_G8, GemmMode.BF16, GemmMode.FP16 ) )
    ZERO_SIZE, BAD_FIELD, BAD_SIZE, BAD_DRAM, BAD_SPAD = ( int( e ) for e in (
      Error.ZERO_SIZE, Error.BAD_FIELD, Error.BAD_SIZE, Error.BAD_DRAM, Error.BAD_SPAD ) )

    # Interface

    s.cmd   = InPort( mk_gemm_cmd( cfg ) )
    s.error = OutPort( Ack )
    s.beats = OutPort( 32 )

    # Components

    s.in_spad = [ RangeCheck( cfg ) for _ in range( 3 ) ]   # src, dst, src2

    # Sizes

    beat_shift = clog2( d.beats_per_line )
    # Beats of a tile. (Sums of constants inside a block are computed in the width of the constants.)
    tile_shift8, tile_shift16 = clog2( n // 4 ), clog2( n // 2 )
    line_round = d.beats_per_line - 1
    s.c_k      = Wire( 28 )                   # K tiles
    s.c_n      = Wire( 28 )                   # output tiles
    s.c_beats  = Wire( LINES )                # beats of an output tile
    s.c_groups = Wire( LINES )
    s.c_total  = Wire( LINES )                # beats of the stream
    s.c_end    = Wire( LINES )                # the line after it

    @update
    def up_size():
      s.c_k @= ( zext( s.cmd.k, 28 ) + ( n - 1 ) ) >> lg
      s.c_n @= ( zext( s.cmd.cols, 28 ) + ( n - 1 ) ) >> lg
      s.c_groups @= zext( s.cmd.k, LINES ) >> 5
      if s.cmd.group == 2:
        s.c_groups @= zext( s.cmd.k, LINES ) >> 6
      elif s.cmd.group == 3:
        s.c_groups @= zext( s.cmd.k, LINES ) >> 7
      s.c_beats @= ( zext( s.c_k, LINES ) << tile_shift8 ) + 1
      if s.cmd.mode == I16_G4:
        s.c_beats @= ( ( zext( s.c_k, LINES ) << tile_shift8 ) >> 1 ) + s.c_groups
      elif s.cmd.mode == I16_G8:
        s.c_beats @= ( zext( s.c_k, LINES ) << tile_shift8 ) + s.c_groups
      elif s.cmd.mode == I16_I16:
        s.c_beats @= ( zext( s.c_k, LINES ) << tile_shift16 ) + 1
      elif s.cmd.mode >= BF16:
        s.c_beats @= zext( s.c_k, LINES ) << tile_shift16
      s.c_total @= ( s.c_beats + zext( s.cmd.bias, LINES ) ) * zext( s.c_n, LINES )
      s.c_end   @= zext( s.cmd.dram, LINES ) + ( ( s.c_total + line_round ) >> beat_shift )
      s.beats   @= trunc( s.c_total, 32 )

    for c in s.in_spad:
      c.rows //= s.cmd.rows
    s.in_spad[0].base   //= s.cmd.src
    s.in_spad[0].stride //= s.cmd.src_stride
    s.in_spad[0].width  //= s.c_k
    s.in_spad[1].base   //= s.cmd.dst
    s.in_spad[1].stride //= s.cmd.dst_stride
    s.in_spad[1].width  //= s.c_n
    s.in_spad[2].base   //= s.cmd.src2
    s.in_spad[2].stride //= s.cmd.dst_stride
    s.in_spad[2].width  //= s.c_n

    # Check

    s.grouped = Wire()
    s.ragged  = Wire()                        # K is not a multiple of the group

    @update
    def up_check():
      s.grouped @= ( s.cmd.mode == I16_G4 ) | ( s.cmd.mode == I16_G8 )
      s.ragged  @= s.cmd.k[0:5] != 0
      if s.cmd.group == 2:
        s.ragged @= s.cmd.k[0:6] != 0
      elif s.cmd.group == 3:
        s.ragged @= s.cmd.k[0:7] != 0
      s.error @= 0
      if ( s.cmd.rows == 0 ) | ( s.cmd.k == 0 ) | ( s.cmd.cols == 0 ):
        s.error @= ZERO_SIZE
      elif ( s.cmd.mode > FP16 ) | ( s.cmd.group > 3 ):
        s.error @= BAD_FIELD
      elif ( s.cmd.rows > m_max ) | ( zext( s.cmd.k, 32 ) > k_max ):
        s.error @= BAD_SIZE
      elif s.grouped != ( s.cmd.group != 0 ):
        s.error @= BAD_SIZE
      elif s.grouped & s.ragged:
        s.error @= BAD_SIZE
      elif s.c_total[32:48] != 0:
        s.error @= BAD_SIZE
      elif s.c_end > zext( s.cmd.lines, LINES ):
        s.error @= BAD_DRAM
      elif ~s.in_spad[0].ok | ~s.in_spad[1].ok | ( s.cmd.residual & ~s.in_spad[2].ok ):
        s.error @= BAD_SPAD

  def line_trace( s ):
    return f"{s.error}:{s.beats}"
