"""IEEE-754 binary32 operators: combinational, bit for bit `npu/arch/numerics/fp32.py`.

Round to nearest even, subnormals flushed: operands on the way in, results after rounding. Infinities
and NaN are not accepted as operands; the result for them is some pattern.

No operator has a register. Those that round have two halves, a front that makes an exact sum, product
or magnitude and `Fp32Pack`, which normalises, rounds and packs it; a user who needs a register in the
middle takes the halves instead of the whole.

| operator          | halves                       | computes                                  |
|-------------------|------------------------------|-------------------------------------------|
| `Fp32Add`         | `Fp32AddAlign`, `Fp32Pack`   | a + b                                     |
| `Fp32Mul`         | `Fp32MulProduct`, `Fp32Pack` | a * b                                     |
| `IntToFp32`       | a negation, `Fp32Pack`       | a signed integer as binary32              |
| `Fp32ToFixed`     |                              | x / 2**scale_exponent as a signed integer |
| `Fp32AddExponent` |                              | x * 2**k                                  |
| `Fp32Less`        |                              | a < b                                     |
"""

from pymtl3 import *
from pymtl3.passes.backends.verilog import VerilogTranslationPass

FRACTION_BITS = 23
BIAS          = 127
EXPONENT_BITS = 10                  # an exponent inside an operator: signed, -512..511
ROUND_BITS    = FRACTION_BITS + 3   # what rounding looks at: hidden bit, fraction, guard, one below
ADD_BITS      = ROUND_BITS + 2      # a sum: one bit below, and one above for the carry
MUL_BITS      = 2 * ( FRACTION_BITS + 1 )

class Fp32Pack( Component ):
  """Back half of every operator that rounds: sign, exponent and exact magnitude to binary32.

  Parameters
  ----------
  nbits
    Width of the magnitude, at least 26. A lowest bit that is the OR of everything below it (sticky)
    is as good as exact.
  max_zeros
    The most leading zeros that a magnitude other than zero has.

  Ports
  -----
  sign
    Of the result, a zero too.
  exponent
    Signed: the biased exponent of a magnitude whose highest bit is one.
  magnitude
    Zero gives zero.
  out
    Overflow gives infinity.
  """
  def construct( s, nbits, max_zeros ):
    assert nbits >= ROUND_BITS, f"Fp32Pack: nbits is {nbits}; pad the magnitude to {ROUND_BITS} bits"
    assert 1 <= max_zeros < nbits, f"Fp32Pack: max_zeros is {max_zeros}; choose 1 to {nbits - 1}"

    # Each index has a name, because a sum as an index in the generated Verilog is a lint warning.
    top      = nbits - 1
    guard    = nbits - FRACTION_BITS - 2
    lsb      = guard + 1
    negative = EXPONENT_BITS - 1

    steps    = clog2( max_zeros + 1 )
    half     = mk_bits( nbits )( 1 << top )
    largest  = mk_bits( EXPONENT_BITS )( 1 << ( steps - 1 ) )
    nothing  = mk_bits( EXPONENT_BITS )( 0 )

    s.sign       = InPort()
    s.exponent   = InPort( EXPONENT_BITS )
    s.magnitude  = InPort( nbits )
    s.out        = OutPort( 32 )

    s.normal     = Wire( nbits )
    s.normal_exp = Wire( EXPONENT_BITS )
    s.increment  = Wire()
    s.rounded    = Wire( 31 )

    # A logarithmic shifter that counts as it goes, log2( max_zeros ) stages in series; counting first
    # and shifting after needs a priority encoder too.
    @update
    def up_normalise():
      value = s.magnitude
      zeros = nothing
      for i in range( steps ):
        step = largest >> i
        if value < ( half >> zext( step - 1, nbits ) ):
          value = value << zext( step, nbits )
          zeros = zeros | step
      s.normal     @= value
      s.normal_exp @= s.exponent - zeros

    # At exponent 0 gradual underflow rounds one bit higher up, where only a significand of all ones
    # reaches the smallest normal number, and it does so whatever is below it; every other result there
    # is flushed, so that an unconditional increment is right. A shift back by one would cost a
    # multiplexer per bit.
    @update
    def up_round():
      s.increment @= ( ( s.normal[guard] & ( s.normal[lsb] | reduce_or( s.normal[0:guard] ) ) )
                       | ( s.normal_exp == 0 ) )
      s.rounded   @= ( concat( s.normal_exp[0:8], s.normal[lsb:top] )
                       + zext( s.increment, 31 ) )

    # A carry out of the fraction goes on into the exponent, and from 254 makes infinity.
    @update
    def up_pack():
      if ( ~s.normal[top] ) | s.normal_exp[negative]:
        s.out @= concat( s.sign, Bits31( 0 ) )
      elif s.normal_exp >= 255:
        s.out @= concat( s.sign, Bits31( 0x7F800000 ) )
      elif s.rounded[23:31] == 0:
        s.out @= concat( s.sign, Bits31( 0 ) )
      else:
        s.out @= concat( s.sign, s.rounded )

    s.set_metadata( VerilogTranslationPass.explicit_module_name, f"Fp32Pack_{nbits}_{max_zeros}" )

class Fp32AddAlign( Component ):
  """Front half of `Fp32Add`: the sum as sign, exponent and exact or sticky magnitude.

  An exact sum of zero has sign plus, but of two negative zeros minus.
  """
  def construct( s ):
    ones = mk_bits( ADD_BITS )( -1 )

    s.a         = InPort( 32 )
    s.b         = InPort( 32 )
    s.sign      = OutPort()
    s.exponent  = OutPort( EXPONENT_BITS )
    s.magnitude = OutPort( ADD_BITS )

    s.mag_a     = Wire( 31 )
    s.mag_b     = Wire( 31 )
    s.bigger    = Wire( 31 )
    s.smaller   = Wire( 31 )
    s.subtract  = Wire()
    s.addend    = Wire( ADD_BITS )
    s.moved     = Wire( ADD_BITS )
    s.distance  = Wire( ADD_BITS )
    s.lost      = Wire( ADD_BITS )

    # The larger magnitude first, so that the difference is never negative: a comparator in front. Two
    # paths, for close and for far exponents, would be faster and larger.
    @update
    def up_order():
      s.mag_a @= s.a[0:31] if s.a[23:31] != 0 else Bits31( 0 )
      s.mag_b @= s.b[0:31] if s.b[23:31] != 0 else Bits31( 0 )
      if s.mag_a < s.mag_b:
        s.bigger  @= s.mag_b
        s.smaller @= s.mag_a
      else:
        s.bigger  @= s.mag_a
        s.smaller @= s.mag_b
      s.subtract @= s.a[31] ^ s.b[31]
      if ( s.mag_a == s.mag_b ) & s.subtract:
        s.sign @= 0
      else:
        s.sign @= s.b[31] if s.mag_a < s.mag_b else s.a[31]

    # Three bits below the fraction are enough: where the shift loses any bit, the difference needs at
    # most one place of normalisation. The lost bits come from a mask beside the shifter; a shifter of
    # twice the width with an OR after it would be slower.
    @update
    def up_align():
      s.distance @= zext( s.bigger[23:31] - s.smaller[23:31], ADD_BITS )
      s.addend   @= concat( Bits1( 0 ), s.smaller[23:31] != 0, s.smaller[0:23], Bits3( 0 ) )
      s.lost     @= s.addend & ~( ones << s.distance )
      s.moved    @= ( s.addend >> s.distance ) | zext( reduce_or( s.lost ), ADD_BITS )

    @update
    def up_add():
      augend = concat( Bits1( 0 ), s.bigger[23:31] != 0, s.bigger[0:23], Bits3( 0 ) )
      if s.subtract:
        s.magnitude @= augend - s.moved
      else:
        s.magnitude @= augend + s.moved
      s.exponent @= zext( s.bigger[23:31], EXPONENT_BITS ) + 1

    s.set_metadata( VerilogTranslationPass.explicit_module_name, "Fp32AddAlign" )

class Fp32Add( Component ):
  """out = a + b."""
  def construct( s ):
    s.a     = InPort( 32 )
    s.b     = InPort( 32 )
    s.out   = OutPort( 32 )

    s.align = Fp32AddAlign()
    s.pack  = Fp32Pack( ADD_BITS, ADD_BITS - 3 )   # the two lowest bits are zero where most cancels

    s.align.a         //= s.a
    s.align.b         //= s.b
    s.align.sign      //= s.pack.sign
    s.align.exponent  //= s.pack.exponent
    s.align.magnitude //= s.pack.magnitude
    s.pack.out        //= s.out

    s.set_metadata( VerilogTranslationPass.explicit_module_name, "Fp32Add" )

  def line_trace( s ):
    return f"{s.a}+{s.b}={s.out}"

class Fp32MulProduct( Component ):
  """Front half of `Fp32Mul`: sign, exponent and the exact 48-bit product."""
  def construct( s ):
    s.a         = InPort( 32 )
    s.b         = InPort( 32 )
    s.sign      = OutPort()
    s.exponent  = OutPort( EXPONENT_BITS )
    s.magnitude = OutPort( MUL_BITS )

    s.sig_a     = Wire( FRACTION_BITS + 1 )
    s.sig_b     = Wire( FRACTION_BITS + 1 )

    @update
    def up_significands():
      s.sig_a @= concat( Bits1( 1 ), s.a[0:23] ) if s.a[23:31] != 0 else Bits24( 0 )
      s.sig_b @= concat( Bits1( 1 ), s.b[0:23] ) if s.b[23:31] != 0 else Bits24( 0 )

    # One array multiplier, left to the synthesis tool: Booth recoding by hand would fix its shape.
    @update
    def up_product():
      s.sign      @= s.a[31] ^ s.b[31]
      s.exponent  @= ( zext( s.a[23:31], EXPONENT_BITS ) + zext( s.b[23:31], EXPONENT_BITS )
                       - ( BIAS - 1 ) )
      s.magnitude @= zext( s.sig_a, MUL_BITS ) * zext( s.sig_b, MUL_BITS )

    s.set_metadata( VerilogTranslationPass.explicit_module_name, "Fp32MulProduct" )

class Fp32Mul( Component ):
  """out = a * b."""
  def construct( s ):
    s.a       = InPort( 32 )
    s.b       = InPort( 32 )
    s.out     = OutPort( 32 )

    s.product = Fp32MulProduct()
    s.pack    = Fp32Pack( MUL_BITS, 1 )

    s.product.a         //= s.a
    s.product.b         //= s.b
    s.product.sign      //= s.pack.sign
    s.product.exponent  //= s.pack.exponent
    s.product.magnitude //= s.pack.magnitude
    s.pack.out          //= s.out

    s.set_metadata( VerilogTranslationPass.explicit_module_name, "Fp32Mul" )

  def line_trace( s ):
    return f"{s.a}*{s.b}={s.out}"

class IntToFp32( Component ):
  """out = in_, a signed integer of nbits, at least 2, as binary32."""
  def construct( s, nbits ):
    assert 2 <= nbits <= 128, f"IntToFp32: nbits is {nbits}; choose 2 to 128"

    width  = max( nbits, ROUND_BITS )
    pad    = width - nbits
    top    = nbits - 1

    s.in_  = InPort( nbits )
    s.out  = OutPort( 32 )

    s.size = Wire( nbits )
    s.pack = Fp32Pack( width, nbits - 1 )

    s.pack.sign     //= s.in_[top]
    s.pack.exponent //= BIAS + nbits - 1
    s.pack.out      //= s.out

    # The most negative integer negates to itself, which is its magnitude read without a sign.
    @update
    def up_magnitude():
      s.size @= ~s.in_ + 1 if s.in_[top] else s.in_
      s.pack.magnitude @= zext( s.size, width ) << pad

    s.set_metadata( VerilogTranslationPass.explicit_module_name, f"IntToFp32_{nbits}" )

  def line_trace( s ):
    return f"{s.in_}={s.out}"

class Fp32ToFixed( Component ):
  """out = x / 2**scale_exponent to the nearest integer, ties to even, within -limit..limit (`f2i`).

  Parameters
  ----------
  nbits
    Width of the signed result.

  Ports
  -----
  scale_exponent
    Signed: the weight of the result's lowest bit, as a power of two.
  limit
    The largest magnitude of the result; all ones if the result may use its whole width.
  """
  def construct( s, nbits ):
    assert 2 <= nbits <= 128, f"Fp32ToFixed: nbits is {nbits}; choose 2 to 128"

    whole    = nbits - 1                                # bits of the magnitude
    width    = max( whole + 2, FRACTION_BITS + 1 )      # with a guard bit and one below it
    lsb      = width - whole
    guard    = lsb - 1
    pad      = width - ( FRACTION_BITS + 1 )
    signed   = EXPONENT_BITS + 1
    negative = EXPONENT_BITS
    ones     = mk_bits( width )( -1 )

    s.x              = InPort( 32 )
    s.scale_exponent = InPort( EXPONENT_BITS )
    s.limit          = InPort( whole )
    s.out            = OutPort( nbits )

    s.nonzero        = Wire()
    s.field          = Wire( width )
    s.distance       = Wire( signed )
    s.shift          = Wire( width )
    s.lost           = Wire( width )
    s.moved          = Wire( width )
    s.increment      = Wire()
    s.rounded        = Wire( nbits )
    s.size           = Wire( nbits )

    # The significand starts where it just fits, so that there is only a shift to the right, and a
    # negative distance means that it does not fit: half the cost of a shifter for both ways.
    @update
    def up_distance():
      s.nonzero  @= s.x[23:31] != 0
      s.distance @= ( sext( s.scale_exponent, signed )
                      - zext( s.x[23:31], signed ) + ( BIAS + whole - 1 ) )

    @update
    def up_shift():
      s.field @= zext( concat( s.nonzero, s.x[0:23] ), width ) << pad
      s.shift @= zext( s.distance, width )
      s.lost  @= s.field & ~( ones << s.shift )
      s.moved @= s.field >> s.shift

    @update
    def up_round():
      s.increment @= ( s.moved[guard]
                       & ( s.moved[lsb] | reduce_or( s.moved[0:guard] ) | reduce_or( s.lost ) ) )
      s.rounded   @= zext( s.moved[lsb:width], nbits ) + zext( s.increment, nbits )

    @update
    def up_saturate():
      s.size @= s.rounded
      if s.distance[negative] | ( s.rounded > zext( s.limit, nbits ) ):
        s.size @= zext( s.limit, nbits )
      if ~s.nonzero:
        s.size @= 0
      s.out @= ~s.size + 1 if s.x[31] else s.size

    s.set_metadata( VerilogTranslationPass.explicit_module_name, f"Fp32ToFixed_{nbits}" )

  def line_trace( s ):
    return f"{s.x}/2^{s.scale_exponent}={s.out}"

class Fp32AddExponent( Component ):
  """out = x * 2**k, k signed of kbits (`add_exponent`).

  Below the smallest normal number it is zero, above the largest finite number it is that number.
  """
  def construct( s, kbits ):
    assert kbits >= 2, f"Fp32AddExponent: kbits is {kbits}; choose at least 2"

    width    = max( kbits, 9 ) + 1
    negative = width - 1

    s.x     = InPort( 32 )
    s.k     = InPort( kbits )
    s.out   = OutPort( 32 )

    s.moved = Wire( width )

    # Two comparisons with constants after one short add: no shifter and no rounding, which is why
    # scaling by a power of two is not left to the multiplier.
    @update
    def up_add():
      s.moved @= zext( s.x[23:31], width ) + sext( s.k, width )
      if ( s.x[23:31] == 0 ) | s.moved[negative] | ( s.moved == 0 ):
        s.out @= concat( s.x[31], Bits31( 0 ) )
      elif s.moved >= 255:
        s.out @= concat( s.x[31], Bits31( 0x7F7FFFFF ) )
      else:
        s.out @= concat( s.x[31], s.moved[0:8], s.x[0:23] )

    s.set_metadata( VerilogTranslationPass.explicit_module_name, f"Fp32AddExponent_{kbits}" )

  def line_trace( s ):
    return f"{s.x}*2^{s.k}={s.out}"

class Fp32Less( Component ):
  """out = a < b, where the zeros are equal. A maximum is this and a multiplexer."""
  def construct( s ):
    s.a     = InPort( 32 )
    s.b     = InPort( 32 )
    s.out   = OutPort()

    s.mag_a = Wire( 31 )
    s.mag_b = Wire( 31 )

    # Patterns of one sign are in the order of their magnitudes: a comparator instead of a subtraction.
    @update
    def up_less():
      s.mag_a @= s.a[0:31] if s.a[23:31] != 0 else Bits31( 0 )
      s.mag_b @= s.b[0:31] if s.b[23:31] != 0 else Bits31( 0 )
      if s.a[31] & s.b[31]:
        s.out @= s.mag_b < s.mag_a
      elif s.a[31]:
        s.out @= ( s.mag_a != 0 ) | ( s.mag_b != 0 )
      elif s.b[31]:
        s.out @= 0
      else:
        s.out @= s.mag_a < s.mag_b

    s.set_metadata( VerilogTranslationPass.explicit_module_name, "Fp32Less" )

  def line_trace( s ):
    return f"{s.a}<{s.b}={s.out}"
