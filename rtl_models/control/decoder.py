"""Instruction fields as wires, what an instruction is, and whether it is defined at all.

Everything here is made from the tables of `npu.arch.isa`: no encoding is written twice.
"""

from enum import IntFlag

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass

from npu.arch.isa import BY_MNEMONIC, FORMATS, INSTRUCTION_BYTES, OPCODE, Error, Unit

INSTRUCTION_BITS = 8 * INSTRUCTION_BYTES
OPERAND_BITS     = INSTRUCTION_BITS - 32    # without word 0

def field_of( mnemonic, name ):
  """The definition of a field."""
  return next( f for f in ( OPCODE, *BY_MNEMONIC[mnemonic].all_fields ) if f.name == name )

def place( mnemonic, name ):
  """Where a field stands among the bits of an instruction, as a slice."""
  f   = field_of( mnemonic, name )
  low = 32 * f.word + f.low
  return slice( low, low + f.width )

def operand( mnemonic, name ):
  """The same among the operands, the instruction without its word 0."""
  whole = place( mnemonic, name )
  return slice( whole.start - 32, whole.stop - 32 )

def opcodes( *mnemonics ):
  """The opcodes of some instructions."""
  return { BY_MNEMONIC[m].opcode for m in mnemonics }

def opcodes_of( unit ):
  """The opcodes that a unit runs."""
  return { f.opcode for f in FORMATS if f.unit == unit }

def opcodes_with( unit, *names ):
  """The opcodes of a unit that have one of these fields."""
  return { f.opcode for f in FORMATS if f.unit == unit and any( g.name in names for g in f.fields ) }

def is_defined( f, value ):
  """Whether a field may have a value, as `npu.arch.isa.decode` sees it."""
  if issubclass( f.kind, IntFlag ):     # any union of members
    return value & ~sum( int( v ) for v in f.kind ) == 0
  return value in { int( v ) for v in f.kind }

class Member( Component ):
  """`ok` if `value` is in a constant set of numbers; a table of one bit per number. Combinational."""

  def construct( s, name, nbits, members ):
    s.set_metadata( VerilogTranslationPass.explicit_module_name, f"Member_{name}" )
    size = 1 << nbits
    SET  = mk_bits( size )( sum( 1 << m for m in members ) )

    s.value = InPort( nbits )
    s.ok    = OutPort()

    s.members = Wire( size )
    s.members //= SET

    @update
    def up_ok():
      s.ok @= s.members[s.value]

  def line_trace( s ):
    return f"{s.value}{'' if s.ok else '!'}"

def opcode_set( name, codes ):
  """A `Member` for opcodes."""
  return Member( f"op_{name}", OPCODE.width, codes )

def values_of( mnemonic, name ):
  """A `Member` for the defined values of an enumerated field."""
  f = field_of( mnemonic, name )
  return Member( f"{mnemonic}_{name}", f.width, [ v for v in range( 1 << f.width ) if is_defined( f, v ) ] )

class Decoder( Component ):
  """Combinational.

  Ports
  -----
  opcode, cond, mask, rel, flags
    Fields; `mask` is `wait`.
  kind
    What stands in the place of GEMM's mode, CONVERT's formats and HALT's status.
  error
    What `npu.arch.isa.decode` says of the instruction: BAD_OPCODE, BAD_FIELD or NONE.
  is_control, is_mac, is_vec, is_att
    The unit that it is for; none of them: LOAD or STORE.
  is_embed
    It is EMBED.
  may_move
    It has an address that `rel` moves.
  """

  def construct( s ):
    s.set_metadata( VerilogTranslationPass.explicit_module_name, "Decoder" )
    NONE, BAD_OPCODE, BAD_FIELD = Bits4( Error.NONE ), Bits4( Error.BAD_OPCODE ), Bits4( Error.BAD_FIELD )
    GEMM, CONVERT, HALT, EMBED = ( Bits8( BY_MNEMONIC[m].opcode ) for m in ( "GEMM", "CONVERT", "HALT", "EMBED" ) )

    # Interface

    s.opcode     = InPort( 8 )
    s.cond       = InPort( 4 )
    s.mask       = InPort( 8 )
    s.rel        = InPort( 4 )
    s.kind       = InPort( 8 )
    s.flags      = InPort( 8 )
    s.error      = OutPort( 4 )
    s.is_control = OutPort()
    s.is_mac     = OutPort()
    s.is_vec     = OutPort()
    s.is_att     = OutPort()
    s.is_embed   = OutPort()
    s.may_move   = OutPort()

    # Components

    s.control    = opcode_set( "control", opcodes_of( Unit.CTRL ) )
    s.mac        = opcode_set( "mac", opcodes_of( Unit.MAC ) )
    s.vec        = opcode_set( "vec", opcodes_of( Unit.VEC ) )
    s.att        = opcode_set( "att", opcodes_of( Unit.ATT ) )
    s.moves      = opcode_set( "may_move", opcodes( "LOAD", "STORE" ) | opcodes_with( Unit.VEC, "src_stride" ) )
    s.known      = opcode_set( "known", { f.opcode for f in FORMATS } )
    s.ok_cond    = values_of( "WAIT", "cond" )
    s.ok_mask    = values_of( "WAIT", "wait" )
    s.ok_rel     = values_of( "WAIT", "rel" )
    s.ok_mode    = values_of( "GEMM", "mode" )
    s.ok_flags   = values_of( "GEMM", "flags" )
    s.ok_formats = values_of( "CONVERT", "formats" )
    s.ok_status  = values_of( "HALT", "status" )

    # Connections

    for member, port in ( ( s.control, s.is_control ), ( s.mac, s.is_mac ), ( s.vec, s.is_vec ), ( s.att, s.is_att ),
                          ( s.moves, s.may_move ) ):
      connect( member.value, s.opcode )
      connect( member.ok, port )
    s.is_embed         //= lambda: s.opcode == EMBED
    s.known.value      //= s.opcode
    s.ok_cond.value    //= s.cond
    s.ok_mask.value    //= s.mask
    s.ok_rel.value     //= s.rel
    s.ok_mode.value    //= s.kind
    s.ok_flags.value   //= s.flags
    s.ok_formats.value //= s.kind
    s.ok_status.value  //= s.kind

    # Logic

    @update
    def up_error():
      s.error @= NONE
      if ~s.known.ok:
        s.error @= BAD_OPCODE
      elif ~s.ok_cond.ok | ~s.ok_mask.ok | ~s.ok_rel.ok:
        s.error @= BAD_FIELD
      elif ( s.opcode == GEMM ) & ( ~s.ok_mode.ok | ~s.ok_flags.ok ):
        s.error @= BAD_FIELD
      elif ( s.opcode == CONVERT ) & ~s.ok_formats.ok:
        s.error @= BAD_FIELD
      elif ( s.opcode == HALT ) & ~s.ok_status.ok:
        s.error @= BAD_FIELD

  def line_trace( s ):
    return f"{s.opcode}:{s.error}"
