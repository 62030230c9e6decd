"""Small blocks to translate, each with something that translation or import may get wrong, and a harness for one."""

# Components carry no type hints, as everywhere.
# mypy: allow-untyped-defs, allow-incomplete-defs, no-check-untyped-defs

from itertools import product

import pytest
from pymtl3 import Bits8, Bits32, Component, DefaultPassGroup, InPort, OutPort, Wire, connect, update, update_ff
from pymtl3.passes.backends.verilog import VerilogTranslationPass
from pymtl3.stdlib.stream.ifcs import RecvIfcRTL, SendIfcRTL

from npu.arch.config import get_config
from npu.arch.messages import mk_spad_write
from tests.harness import Sink, Source
from translation.levels import mk_dut

both    = pytest.mark.parametrize( "level", [ "rtl", "verilog" ] )
verilog = pytest.mark.level( "verilog" )

#-------------------------------------------------------------------------
# Blocks
#-------------------------------------------------------------------------

class AdderRTL( Component ):
  """Adds `amount` to the data of each scratchpad write, one cycle later; wraps."""

  def construct( s, cfg, amount ):
    T = mk_spad_write( cfg )
    s.recv  = RecvIfcRTL( T )
    s.send  = SendIfcRTL( T )
    s.entry = Wire( T )
    s.full  = Wire()
    s.send.val //= s.full
    s.recv.rdy //= lambda: ~s.full | s.send.rdy

    @update
    def add():
      s.send.msg.addr @= s.entry.addr
      s.send.msg.data @= s.entry.data + amount

    @update_ff
    def advance():
      if s.reset:
        s.full <<= 0
      elif s.recv.rdy:
        s.full  <<= s.recv.val
        s.entry <<= s.recv.msg

  def line_trace( s ):
    return f"{s.recv}({s.full}){s.send}"

class WrongRTL( Component ):
  """The adder's ports, but it sends every message twice."""

  def construct( s, cfg, amount ):
    T = mk_spad_write( cfg )
    s.recv  = RecvIfcRTL( T )
    s.send  = SendIfcRTL( T )
    s.entry = Wire( T )
    s.left  = Wire( 2 )
    s.send.val //= lambda: s.left != 0
    s.send.msg //= s.entry
    s.recv.rdy //= lambda: s.left == 0

    @update_ff
    def advance():
      if s.reset:
        s.left <<= 0
      elif s.recv.val & s.recv.rdy:
        s.left  <<= 2
        s.entry <<= s.recv.msg
      elif s.send.val & s.send.rdy:
        s.left <<= s.left - 1

class ForgetfulRTL( Component ):
  """Registers that nothing resets: two single ones, and a memory."""

  def construct( s ):
    s.en    = InPort()
    s.data  = InPort( Bits32 )
    s.addr  = InPort( 2 )
    s.out_a = OutPort( Bits32 )
    s.out_b = OutPort( Bits32 )
    s.word  = OutPort( 100 )
    s.reg_a = Wire( Bits32 )
    s.reg_b = Wire( Bits32 )
    s.mem   = [ Wire( 100 ) for _ in range( 4 ) ]
    s.out_a //= s.reg_a
    s.out_b //= s.reg_b
    s.word  //= lambda: s.mem[ s.addr ]

    # Not the same value in both: Verilator makes one register of registers that are.
    @update_ff
    def keep():
      if s.en:
        s.reg_a <<= s.data
        s.reg_b <<= ~s.data
        s.mem[ s.addr ] <<= 0

WIDTHS = ( 1, 8, 9, 32, 33, 64, 65, 96, 513 )

class PortsRTL( Component ):
  """Ports of many kinds: lists of interfaces and of ports, of 1 to 513 bits; outputs follow inputs at once."""

  def construct( s ):
    s.pairs = [ RecvIfcRTL( Bits8 ) for _ in range( 2 ) ]
    s.grid  = [ [ InPort( Bits8 ) for _ in range( 3 ) ] for _ in range( 2 ) ]
    s.turn  = [ [ OutPort( Bits8 ) for _ in range( 2 ) ] for _ in range( 3 ) ]
    s.wide  = [ InPort( 100 ) for _ in range( 2 ) ]
    s.swap  = [ OutPort( 100 ) for _ in range( 2 ) ]
    for w in WIDTHS:
      setattr( s, f"a{w}", InPort( w ) )
      setattr( s, f"b{w}", OutPort( w ) )
      connect( getattr( s, f"b{w}" ), getattr( s, f"a{w}" ) )
    for i, j in product( range( 2 ), range( 3 ) ):
      s.turn[j][i] //= s.grid[i][j]
    s.swap[0] //= s.wide[1]
    s.swap[1] //= s.wide[0]
    s.pairs[0].rdy //= s.pairs[1].val
    s.pairs[1].rdy //= s.pairs[0].val

class LoopRTL( Component ):
  """Combinational logic that never settles while `en` is set."""

  def construct( s ):
    s.en  = InPort()
    s.out = OutPort()
    s.a   = Wire()
    s.b   = Wire()
    s.out //= s.a

    @update
    def up_a():
      s.a @= s.b

    @update
    def up_b():
      s.b @= s.en & ~s.a

class CrossRTL( Component ):
  """Outputs that follow inputs at once."""

  def construct( s ):
    s.a = [ InPort( Bits8 ) for _ in range( 3 ) ]
    s.b = [ OutPort( Bits8 ) for _ in range( 3 ) ]
    for i in range( 3 ):
      s.b[i] //= s.a[i]

class GivenNameRTL( Component ):

  def construct( s, width, name ):
    s.set_metadata( VerilogTranslationPass.explicit_module_name, name )
    s.out = OutPort( width )
    s.out //= 0

#-------------------------------------------------------------------------
# Around them
#-------------------------------------------------------------------------

class Through( Component ):
  """A value that passes through a block three times in a cycle, in and out again; that is no loop."""

  def construct( s, mk ):
    s.first = Wire( Bits8 )
    s.dut   = mk()
    s.last  = Wire( Bits8 )
    s.first    //= 5
    s.dut.a[2] //= s.first
    s.dut.a[0] //= s.dut.b[2]
    s.dut.a[1] //= s.dut.b[0]
    s.last     //= s.dut.b[1]

class Harness( Component ):

  def construct( s, dut, msgs, expected, src_delays=0, sink_delays=0 ):
    s.dut  = dut
    T      = mk_spad_write( CFG )
    s.src  = Source( T, msgs, src_delays )
    s.sink = Sink( T, expected, sink_delays )
    s.src.send //= s.dut.recv
    s.dut.send //= s.sink.recv

  def done( s ):
    return s.src.done() and s.sink.done()

  def line_trace( s ):
    return s.dut.line_trace()

CFG    = get_config( "edge8" )
AMOUNT = 7
MASK   = 2**CFG.derived.beat_bits - 1

def mk_harness( level, data, src_delays=0, sink_delays=0, cls=AdderRTL, **kwargs ):
  T = mk_spad_write( CFG )
  return Harness( mk_dut( cls, level, CFG, AMOUNT, **kwargs ), [ T( i, x ) for i, x in enumerate( data ) ],
                  [ T( i, ( x + AMOUNT ) & MASK ) for i, x in enumerate( data ) ], src_delays, sink_delays )

def mk_simulation( dut ):
  dut.elaborate()
  dut.apply( DefaultPassGroup() )
  dut.sim_reset()
  return dut
