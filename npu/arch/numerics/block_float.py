"""Block floating point: a row of integers that shares one power-of-two exponent.

In the scratchpad a block-float element is one 32-bit lane: bits 15:0 the signed integer, bits 23:16
the row's biased exponent E, repeated in every lane, bits 31:24 zero. So a row carries its own
exponent and needs no second address. The value of an element is q * 2**(E - 127 - (bits - 2)).
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npu.arch.numerics.fp32 import BIAS, F32, I64, biased_exponent, f2i

def lsb_exponent( exponent: ArrayLike, bits: int ) -> I64:
  """The power of two that one unit of q stands for: E - 127 - (bits - 2)."""
  return np.asarray( exponent, dtype=np.int64 ) - BIAS - ( bits - 2 )

def quantize( x: F32, bits: int ) -> tuple[I64, I64]:
  """Quantise rows to block floating point (architecture, numerics unit 1).

  Parameters
  ----------
  x
    float32, shape [..., length]; a row is the last axis.
  bits
    8 or 16.

  Returns
  -------
  q, exponent
    q: int64, shape of x, within +-(2**(bits-1) - 1), rounded to nearest even;
    exponent: int64, shape [...], the row's largest biased exponent (0 for a row of zeros).
  """
  exponent = biased_exponent( np.asarray( x ) ).max( axis=-1 )
  q = f2i( x, lsb_exponent( exponent, bits )[..., None], ( 1 << ( bits - 1 ) ) - 1 )
  return q, exponent

def pack( q: I64, exponent: I64 ) -> NDArray[np.uint32]:
  """Scratchpad lanes of block-float rows: q [..., length] and exponent [...] to uint32 [..., length]."""
  return ( ( q & 0xFFFF ) | ( exponent[..., None] << 16 ) ).astype( np.uint32 )

def unpack( lanes: NDArray[np.uint32] ) -> tuple[I64, I64]:
  """The inverse of `pack`; the exponent is read from the first lane of each row."""
  q = ( lanes & np.uint32( 0xFFFF ) ).astype( np.uint16 ).view( np.int16 ).astype( np.int64 )
  return q, ( lanes[..., 0] >> np.uint32( 16 ) ).astype( np.int64 ) & 0xFF
