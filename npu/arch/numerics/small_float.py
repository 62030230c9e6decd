"""BF16 and FP16: 16-bit patterns to and from binary32, round to nearest even, subnormals flushed."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npu.arch.numerics.fp32 import F32, bits, flush, from_bits

@dataclass( frozen=True )
class SmallFloat:
  """A 16-bit floating format: 1 sign, `exponent_bits`, `fraction_bits`."""
  name: str
  exponent_bits: int
  fraction_bits: int

  @property
  def bias( self ) -> int:
    """The exponent bias."""
    return ( 1 << ( self.exponent_bits - 1 ) ) - 1

BF16 = SmallFloat( "bf16", 8, 7 )
FP16 = SmallFloat( "fp16", 5, 10 )

def round_to( fmt: SmallFloat, x: ArrayLike ) -> NDArray[np.uint16]:
  """binary32 to the 16-bit pattern; beyond the largest finite number it saturates.

  It rounds as if exponents had no lower end; then what is below the smallest normal number is zero with
  its sign.
  """
  pattern  = bits( flush( x ) ).astype( np.int64 ).reshape( np.shape( x ) )
  drop     = 23 - fmt.fraction_bits
  magnitude = pattern & 0x7FFFFFFF
  # Rounding the magnitude as one integer carries from the fraction into the exponent, as it should.
  rounded  = ( magnitude + ( ( 1 << ( drop - 1 ) ) - 1 ) + ( ( magnitude >> drop ) & 1 ) ) >> drop
  small    = rounded - ( ( 127 - fmt.bias ) << fmt.fraction_bits )
  top      = ( ( ( 1 << fmt.exponent_bits ) - 1 ) << fmt.fraction_bits ) - 1
  small    = np.where( small < 1 << fmt.fraction_bits, 0, np.minimum( small, top ) )
  return ( ( pattern >> 31 << 15 ) | small ).astype( np.uint16 )

def to_fp32( fmt: SmallFloat, pattern: NDArray[np.uint16] ) -> F32:
  """The 16-bit pattern as binary32, exactly; subnormals are zero."""
  sign, exponent, fraction = fields( fmt, pattern )
  magnitude = ( ( exponent + 127 - fmt.bias ) << 23 ) | ( fraction << ( 23 - fmt.fraction_bits ) )
  magnitude = np.where( exponent == 0, 0, magnitude )
  return from_bits( ( ( sign << 31 ) | magnitude ).astype( np.uint32 ) ).reshape( np.shape( pattern ) )

def fields( fmt: SmallFloat, pattern: NDArray[np.uint16] ) -> tuple[NDArray[np.int64], ...]:
  """(sign, biased exponent, fraction) of each pattern, as int64."""
  p = np.asarray( pattern ).astype( np.int64 )
  return ( p >> 15, ( p >> fmt.fraction_bits ) & ( ( 1 << fmt.exponent_bits ) - 1 ),
           p & ( ( 1 << fmt.fraction_bits ) - 1 ) )
