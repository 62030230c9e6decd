"""The vector unit's macro operations of a layer, compiled. What happens once per token stays numpy's."""

# Compiled functions carry no type hints: numba's signatures say what they take.
# mypy: allow-untyped-defs, allow-incomplete-defs

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from fl import vector_unit
from fl.kernels.compiler import compiled
from fl.kernels.scalar import (
  add_exponent,
  fadd,
  fmul,
  fsub,
  i2f,
  largest_exponent,
  lsb_exponent,
  rsqrt,
  sigmoid,
  to_integers,
)
from npu.arch.isa import Instruction
from npu.arch.numerics.fp32 import F32

U32 = NDArray[np.uint32]

# Elements are binary32 [rows, length], results likewise; a range of rows is the work.

@compiled( "void( float32[:,::1], float32[::1], float32, float32, float32[:,::1], int64, int64 )" )
def _rmsnorm( x, gain, inv_length, eps, y, first, end ):
  q = np.empty( x.shape[1], np.int64 )
  for row in range( first, end ):
    lsb     = lsb_exponent( largest_exponent( x[row] ), 16 )
    squares = np.int64( 0 )
    to_integers( x[row], lsb, 32767, q )
    for i in range( x.shape[1] ):
      squares += q[i] * q[i]
    mean = add_exponent( fmul( i2f( squares ), inv_length ), 2 * lsb )
    r    = rsqrt( fadd( mean, eps ) )
    for i in range( x.shape[1] ):
      y[row, i] = fmul( fmul( x[row, i], r ), gain[i] )

@compiled( "void( float32[:,::1], int64, uint32[:,::1], int64, int64 )" )
def _quantize( x, width, lanes, first, end ):
  q = np.empty( x.shape[1], np.int64 )
  for row in range( first, end ):
    exponent = largest_exponent( x[row] )
    to_integers( x[row], lsb_exponent( exponent, width ), ( 1 << ( width - 1 ) ) - 1, q )
    for i in range( x.shape[1] ):
      lanes[row, i] = ( q[i] & 0xFFFF ) | ( exponent << 16 )

@compiled( "void( float32[:,::1], float32[:,::1], float32[:,::1], int64, int64 )" )
def _swiglu( gate, up, y, first, end ):
  for row in range( first, end ):
    for i in range( gate.shape[1] ):
      y[row, i] = fmul( fmul( gate[row, i], sigmoid( gate[row, i] ) ), up[row, i] )

@compiled( "void( float32[:,:,::1], uint32[:,:], float32[:,:,::1], int64, int64 )" )
def _rope( x, table, y, first, end ):
  half = x.shape[2] // 2
  for row in range( first, end ):
    for i in range( half ):
      lane = np.int64( table[row, i] )
      cos  = add_exponent( i2f( ( ( lane & 0xFFFF ) ^ 0x8000 ) - 0x8000 ), -14 )
      sin  = add_exponent( i2f( ( ( lane >> 16 ) ^ 0x8000 ) - 0x8000 ), -14 )
      for s in range( x.shape[1] ):
        a, b = x[row, s, i], x[row, s, i + half]
        y[row, s, i]        = fsub( fmul( a, cos ), fmul( b, sin ) )
        y[row, s, i + half] = fadd( fmul( b, cos ), fmul( a, sin ) )

#-------------------------------------------------------------------------
# As in vector_unit.FUNCTIONS: elements [rows, segments, length], and the words of src2
#-------------------------------------------------------------------------

def _flat( words: U32 ) -> F32:
  """A row per segment, binary32 [rows * segments, length]; a view, if `words` is contiguous."""
  return np.ascontiguousarray( words ).view( np.float32 ).reshape( -1, words.shape[-1] )

def rmsnorm( i: Instruction, x: U32, gains: U32 ) -> U32:
  """RMSNORM."""
  y    = np.empty( x.shape, dtype=np.uint32 )
  flat = _flat( y )
  gain = gains[0, : int( i.length )].view( np.float32 )
  _rmsnorm( _flat( x ), gain, np.float32( i.inv_length ), np.float32( i.eps ), flat, 0, len( flat ) )
  return y

def quantize( i: Instruction, x: U32 ) -> U32:
  """QUANTIZE."""
  y    = np.empty( x.shape, dtype=np.uint32 )
  flat = y.reshape( -1, x.shape[-1] )
  _quantize( _flat( x ), int( i.bits ), flat, 0, len( flat ) )
  return y

def swiglu( i: Instruction, x: U32, other: U32 ) -> U32:
  """SWIGLU."""
  y    = np.empty( x.shape, dtype=np.uint32 )
  flat = _flat( y )
  up   = vector_unit.elements( i, other, int( i.segments ) )
  _swiglu( _flat( x ), _flat( up ), flat, 0, len( flat ) )
  return y

def rope( i: Instruction, x: U32, table: U32 ) -> U32:
  """ROPE."""
  y = np.empty( x.shape, dtype=np.uint32 )
  _rope( np.ascontiguousarray( x ).view( np.float32 ), table, y.view( np.float32 ), 0, len( y ) )
  return y

FUNCTIONS: Mapping[str, Callable[..., U32]] = {
  **vector_unit.FUNCTIONS, "RMSNORM": rmsnorm, "QUANTIZE": quantize, "SWIGLU": swiglu, "ROPE": rope }
