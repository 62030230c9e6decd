"""The Verilog of a block: names of modules and structs, and a text that is the same everywhere."""

import os
import re
import subprocess
import sys

import pytest
from pymtl3 import Bits1, Bits8, Bits32, Component, OutPort
from pymtl3.passes.backends.verilog import VerilogTranslationPass
from pymtl3.stdlib.stream import PipeQueueRTL
from pymtl3.stdlib.stream.ifcs import RecvIfcRTL, SendIfcRTL

from npu.arch.messages import mk_spad_write
from npu.errors import NpuError
from tests.translation.small_blocks import AMOUNT, CFG, AdderRTL, GivenNameRTL, verilog
from translation.verilog import ROOT, to_verilog, translate

class NamedRTL( Component ):
  """Names its module; has two queues, which do not."""

  def construct( s, name="Named_w8" ):
    s.set_metadata( VerilogTranslationPass.explicit_module_name, name )
    s.recv = RecvIfcRTL( Bits8 )
    s.send = SendIfcRTL( Bits8 )
    s.wide = PipeQueueRTL( Bits32, 2 )
    s.q    = PipeQueueRTL( Bits8, 2 )
    s.recv //= s.q.recv
    s.send //= s.q.send
    s.wide.recv.val //= 0
    s.wide.recv.msg //= 0
    s.wide.send.rdy //= 0

def modules_of( source ):
  return re.findall( r"(?m)^module (\w+)", source )

@verilog
def test_module_names_have_no_double_underscore():
  top, source = to_verilog( NamedRTL() )
  names       = modules_of( source )
  assert top == "Named_w8" == names[-1]
  assert { "PipeQueueRTL_EntryType_Bits8_num_entries_2", "PipeQueueRTL_EntryType_Bits32_num_entries_2" } <= set( names )
  assert not [ n for n in names if "__" in n ]
  assert len( set( names ) ) == len( names )

@verilog
def test_struct_names_are_those_of_the_messages():
  _, source = to_verilog( AdderRTL( CFG, AMOUNT ) )
  assert f"}} {mk_spad_write( CFG ).__name__};" in source

@verilog
def test_text_is_independent_of_the_place():
  _, source = to_verilog( NamedRTL() )
  assert "// At tests/translation/test_verilog.py" in source and "// At pymtl3/stdlib/stream/queues.py" in source
  assert str( ROOT ) not in source
  assert not re.search( r"(?m)[ \t]$", source )

@verilog
def test_text_is_the_same_in_every_process():
  code = ( "from tests.translation.test_verilog import NamedRTL, to_verilog; import hashlib;"
           "print( hashlib.sha256( to_verilog( NamedRTL() )[1].encode() ).hexdigest() )" )
  seen = { subprocess.run( [ sys.executable, "-c", code ], cwd=ROOT, check=True, capture_output=True, text=True,
                           env={ **os.environ, "PYTHONPATH": str( ROOT ), "PYTHONHASHSEED": seed } ).stdout
           for seed in ( "1", "2" ) }
  assert len( seen ) == 1

class ClashRTL( Component ):
  """Two blocks that want the same module name."""

  def construct( s, first, second ):
    s.out = OutPort( Bits1 )
    s.a   = first
    s.b   = second
    s.out //= 0

@verilog
def test_module_names_that_clash():
  message = r"^s.a \(GivenNameRTL\) and s.b \(GivenNameRTL\) are different but share the module name Same"
  with pytest.raises( NpuError, match=message ):
    to_verilog( ClashRTL( GivenNameRTL( 8, "Same" ), GivenNameRTL( 9, "Same" ) ) )
  top, source = to_verilog( ClashRTL( GivenNameRTL( 8, "Same" ), GivenNameRTL( 8, "Same" ) ) )
  assert modules_of( source ) == [ "Same", top ]

@verilog
def test_classes_that_look_alike():
  def mk( value ):
    class Constant( Component ):
      def construct( s ):
        s.out = OutPort( Bits8 )
        s.out //= value
    return Constant
  with pytest.raises( NpuError, match="are different but share the module name Constant_noparam" ):
    to_verilog( ClashRTL( mk( 1 )(), mk( 2 )() ) )

@verilog
def test_double_underscore_is_refused():
  with pytest.raises( NpuError, match=r"^s \(NamedRTL\) asks for the module name A__B; choose one without" ):
    to_verilog( NamedRTL( "A__B" ) )

@verilog
def test_translate_writes_a_file_list( tmp_path ):
  files = translate( NamedRTL(), tmp_path / "rtl" )
  assert files == [ tmp_path / "rtl" / "Named_w8.sv" ]
  assert sorted( p.name for p in ( tmp_path / "rtl" ).iterdir() ) == [ "Named_w8.f", "Named_w8.sv" ]
  assert ( tmp_path / "rtl" / "Named_w8.f" ).read_text() == "Named_w8.sv\n"
  again = translate( NamedRTL(), tmp_path / "rtl" )
  assert again[0].read_text() == to_verilog( NamedRTL() )[1]
