"""A GGUF file as it lies on disk: its metadata, and its tensors by their GGUF names.

The layout is the one that ggml describes, versions 2 and 3, little-endian: magic, version, two counts, the metadata as
keys and typed values, a description of each tensor, and from the next aligned byte on their data.

The package `gguf` reads this too, and its `dequantize` is used here. Its reader is not: it makes several numpy views
per string, which takes 6 s of processor time for the 300,000 strings of Qwen2's vocabulary (this one takes 0.1 s), and
it believes the file. Here every size is compared with what the file has before anything of that size is made.
"""

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npu.arch.numerics.fp32 import F32
from npu.errors import NpuError

MAGIC     = b"GGUF"
VERSIONS  = ( 2, 3 )
ALIGNMENT = 32                    # of the data, unless general.alignment says otherwise

# Types of metadata values. The letters mean the same to struct and to numpy.
SCALARS = { 0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d" }
FLOAT32, STRING, ARRAY = 6, 8, 9

# No model comes near these. They keep a damaged count from costing time: a sparse file can be as large as it likes.
MAX_ENTRIES = 1 << 16             # metadata keys, and tensors
MAX_ITEMS   = 1 << 24             # strings of an array
MAX_BYTES   = 1 << 30             # of an array
MAX_TEXT    = 1 << 24             # bytes of a single string
MAX_RANK    = 4

def is_gguf( path: Path ) -> bool:
  """Whether there is a file that starts as a GGUF file does, or is called one."""
  try:
    if not path.is_file():
      return False
    with path.open( "rb" ) as file:
      return path.suffix == ".gguf" or file.read( len( MAGIC ) ) == MAGIC
  except OSError:
    return False

def shown( text: str | bytes ) -> str:
  """A text of a file, quoted for a message of one line, and not longer than that can bear."""
  text = text.decode( errors="replace" ) if isinstance( text, bytes ) else text
  return repr( text if len( text ) <= 60 else text[:57] + "..." )

@dataclass( frozen=True )
class Array:
  """An array of the metadata that has not been read yet: type and number of its elements, and where they start."""
  kind: int
  count: int
  start: int

@dataclass( frozen=True )
class TensorInfo:
  """Where a tensor lies.

  Attributes
  ----------
  shape
    With the rows first, as Hugging Face has it; the file has the elements of a row first.
  kind
    The number of its block type.
  start
    Its first byte in the file.
  row_bytes
    Bytes of a row; a vector is one row.
  """
  shape: tuple[int, ...]
  kind: int
  start: int
  row_bytes: int

#-------------------------------------------------------------------------
# Reading fields
#-------------------------------------------------------------------------

class _Cursor:
  """A place in a file, from which one field after the other is taken."""

  def __init__( self, path: Path, data: mmap.mmap ) -> None:
    self.path, self.data, self.at = path, data, 0

  def expect( self, size: int, what: str ) -> None:
    """NpuError unless the file has `size` more bytes."""
    if size > len( self.data ) - self.at:
      raise NpuError( f"{self.path} is truncated or damaged: {size} bytes of {what} are expected from {self.at} on, "
                      f"and the file has {len( self.data )}" )

  def expect_most( self, size: int, most: int, what: str ) -> None:
    """NpuError for more bytes than a model has use for."""
    if size > most:
      raise NpuError( f"{self.path}: {what} has {size} bytes; at most {most} are supported" )

  def number( self, kind: int, what: str ) -> Any:
    field = struct.Struct( SCALARS[kind] )
    self.expect( field.size, what )
    value = field.unpack_from( self.data, self.at )[0]
    self.at += field.size
    # A float32 is the decimal number that it was written for: 1e-06, and not 9.99999997e-07.
    return float( str( np.float32( value ) ) ) if kind == FLOAT32 else value

  def unsigned( self, what: str, bits: int = 64 ) -> int:
    return int( self.number( { 32: 4, 64: 10 }[bits], what ) )

  def count( self, what: str, size: int, most: int ) -> int:
    """A number of things that take at least `size` bytes each."""
    found = self.unsigned( f"the number of {what}" )
    if found > most:
      raise NpuError( f"{self.path}: {found} {what} are announced; at most {most} are supported" )
    self.expect( found * size, f"{found} {what}" )
    return found

  def text( self, what: str ) -> str:
    size = self.unsigned( f"the length of {what}" )
    self.expect( size, what )
    self.expect_most( size, MAX_TEXT, what )
    self.at += size
    return self.data[self.at - size : self.at].decode( errors="replace" )

  def strings( self, count: int ) -> Iterator[bytes]:
    """So many strings; their sizes have been checked by `skip_strings`."""
    at, data, length = self.at, self.data, struct.Struct( "<Q" ).unpack_from
    for _ in range( count ):
      start = at + 8
      at    = start + length( data, at )[0]
      yield data[start:at]

  def skip_strings( self, count: int, what: str ) -> None:
    """Go past so many strings."""
    at, data, length = self.at, self.data, struct.Struct( "<Q" ).unpack_from
    try:
      for _ in range( count ):
        at += 8 + length( data, at )[0]
    except ( struct.error, OverflowError ):
      at += 8
    size = at - self.at
    self.expect( size, what )
    self.expect_most( size, MAX_BYTES, what )
    self.at = at

  def array( self, what: str ) -> Array:
    kind = self.unsigned( f"the type of {what}", 32 )
    if kind == STRING:
      count = self.count( f"strings of {what}", 8, MAX_ITEMS )
      start = self.at
      self.skip_strings( count, what )
      return Array( kind, count, start )
    if kind not in SCALARS:
      raise NpuError( f"{self.path}: {what} is an array of type {kind}; one of numbers or strings is expected" )
    size     = struct.calcsize( SCALARS[kind] )
    count    = self.count( f"elements of {what}", size, MAX_BYTES // size )
    self.at += count * size
    return Array( kind, count, self.at - count * size )

  def value( self, what: str ) -> Any:
    """A metadata value with its type: a number, a text or an `Array`."""
    kind = self.unsigned( f"the type of {what}", 32 )
    if kind == STRING:
      return self.text( what )
    if kind == ARRAY:
      return self.array( what )
    if kind not in SCALARS:
      raise NpuError( f"{self.path}: {what} is of type {kind}, which GGUF does not have; the file is damaged" )
    return self.number( kind, what )

#-------------------------------------------------------------------------
# The file
#-------------------------------------------------------------------------

class GgufFile:
  """A GGUF file, mapped into memory: only what is read of it takes any.

  Attributes
  ----------
  metadata
    Values by key: numbers, texts, and `Array` for what `strings` and `numbers` read.
  tensors
    Tensors by their GGUF names.

  Raises
  ------
  NpuError
    The file cannot be read, is no GGUF file of this kind, is truncated, or contradicts itself.
  """

  def __init__( self, path: Path ) -> None:
    self.path     = path
    self._data    = _mapped( path )
    cursor        = _Cursor( path, self._data )
    counts        = _header( cursor )
    self.metadata = self._read_metadata( cursor, counts[1] )
    self.tensors  = self._read_tensors( cursor, counts[0] )

  def _read_metadata( self, cursor: _Cursor, count: int ) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for _ in range( count ):
      key = cursor.text( "a key of the metadata" )
      if key in found:
        raise NpuError( f"{self.path} has the key {shown( key )} twice" )
      found[key] = cursor.value( shown( key ) )
    return found

  def _read_tensors( self, cursor: _Cursor, count: int ) -> dict[str, TensorInfo]:
    found: dict[str, TensorInfo] = {}
    for _ in range( count ):
      name = cursor.text( "a tensor's name" )
      if name in found:
        raise NpuError( f"{self.path} has the tensor {shown( name )} twice" )
      found[name] = self._read_tensor( cursor, shown( name ) )
    alignment = self.integer( "general.alignment", ALIGNMENT )
    if alignment & ( alignment - 1 ):
      raise NpuError( f"{self.path}: general.alignment is {alignment}; a power of two is expected" )
    data = -( -cursor.at // alignment ) * alignment
    return { name: self._placed( name, info, data ) for name, info in found.items() }

  def _read_tensor( self, cursor: _Cursor, name: str ) -> TensorInfo:
    """A tensor whose `start` counts from the beginning of the data."""
    from gguf import GGML_QUANT_SIZES
    rank = cursor.unsigned( f"the number of dimensions of tensor {name}", 32 )
    if not 1 <= rank <= MAX_RANK:
      raise NpuError( f"{self.path}: tensor {name} has {rank} dimensions; 1 to {MAX_RANK} are expected" )
    shape = tuple( cursor.unsigned( f"the shape of tensor {name}" ) for _ in range( rank ) )[::-1]
    kind  = cursor.unsigned( f"the type of tensor {name}", 32 )
    start = cursor.unsigned( f"the place of tensor {name}" )
    sizes = { int( known ): found for known, found in GGML_QUANT_SIZES.items() }
    if kind not in sizes:
      raise NpuError( f"{self.path}: tensor {name} is of type {kind}, which is not known; "
                      f"{', '.join( readable_types() )} are supported" )
    block, size = sizes[kind]
    if prod( shape ) == 0 or shape[-1] % block:
      expected = f"rows of a multiple of {block} elements are" if prod( shape ) else "at least one element is"
      raise NpuError( f"{self.path}: tensor {name} has shape {shape}; {expected} expected" )
    return TensorInfo( shape, kind, start, shape[-1] // block * size )

  def _placed( self, name: str, info: TensorInfo, data: int ) -> TensorInfo:
    start = data + info.start
    end   = start + prod( info.shape[:-1] ) * info.row_bytes
    if end > len( self._data ):
      raise NpuError( f"{self.path} is truncated or damaged: tensor {shown( name )} ends at byte {end}, "
                      f"and the file has {len( self._data )}" )
    return TensorInfo( info.shape, info.kind, start, info.row_bytes )

  # Values of the metadata. Each raises NpuError for a value of another type.

  def _typed( self, key: str, kind: type | tuple[type, ...], expected: str ) -> Any:
    value = self.metadata.get( key )
    if value is not None and not _is_a( value, kind ):
      found = "an array" if isinstance( value, Array ) else shown( value ) if isinstance( value, str ) else value
      raise NpuError( f"{self.path}: {key} is {found}; {expected} is expected" )
    return value

  def text( self, key: str ) -> str | None:
    """A text; None if there is no such key."""
    value: str | None = self._typed( key, str, "a text" )
    return value

  def flag( self, key: str ) -> bool:
    """True or False; False if there is no such key."""
    return bool( self._typed( key, bool, "true or false" ) )

  def integer( self, key: str, default: int | None = None ) -> int:
    """A positive integer; without a default, NpuError if there is no such key."""
    value = self._typed( key, int, "a positive integer" )
    value = default if value is None else value
    if value is None or value < 1:
      raise NpuError( f"{self.path}: {key} is {'missing' if value is None else value}; a positive integer is expected" )
    return int( value )

  def index( self, key: str, count: int ) -> int | None:
    """A number from 0 to below `count`; None if there is no such key."""
    value: int | None = self._typed( key, int, "an integer" )
    if value is not None and not 0 <= value < count:
      raise NpuError( f"{self.path}: {key} is {value}; a number from 0 to {count - 1} is expected" )
    return value

  def number( self, key: str ) -> float | None:
    """A number, perhaps infinite or NaN; None if there is no such key."""
    value = self._typed( key, ( int, float ), "a number" )
    return None if value is None else float( value )

  def strings( self, key: str ) -> list[bytes]:
    """An array of texts as they lie in the file; NpuError if there is no such key."""
    value = self._typed( key, Array, "an array of texts" )
    if value is None or value.kind != STRING:
      raise NpuError( f"{self.path}: {key} is {'missing' if value is None else 'an array of numbers'}; "
                      "an array of texts is expected" )
    cursor = _Cursor( self.path, self._data )
    cursor.at = value.start
    return list( cursor.strings( value.count ) )

  def numbers( self, key: str ) -> NDArray:
    """An array of numbers; NpuError if there is no such key."""
    value = self._typed( key, Array, "an array of numbers" )
    if value is None or value.kind == STRING:
      raise NpuError( f"{self.path}: {key} is {'missing' if value is None else 'an array of texts'}; "
                      "an array of numbers is expected" )
    return np.frombuffer( self._data, SCALARS[value.kind], value.count, value.start )

  # Tensors

  def check_type( self, name: str ) -> None:
    """NpuError if the tensor is of a block type that cannot be turned into numbers."""
    from gguf import GGMLQuantizationType
    found = GGMLQuantizationType( self.tensors[name].kind ).name
    if found not in readable_types():
      raise NpuError( f"{self.path}: tensor {name} is {found}; {', '.join( readable_types() )} are supported" )

  def read( self, name: str, start: int, stop: int ) -> F32:
    """Rows start..stop of a tensor, or elements of a vector, in float32."""
    from gguf import GGMLQuantizationType, dequantize
    info   = self.tensors[name]
    vector = len( info.shape ) == 1
    first, rows = ( 0, 1 ) if vector else ( start, stop - start )
    data = np.frombuffer( self._data, np.uint8, rows * info.row_bytes, info.start + first * info.row_bytes )
    # A scale that is infinite or NaN shows in the values, which are checked.
    with np.errstate( all="ignore" ):
      values = dequantize( data.reshape( rows, info.row_bytes ), GGMLQuantizationType( info.kind ) )
    return np.asarray( values[0, start:stop] if vector else values.reshape( rows, *info.shape[1:] ), np.float32 )

def _is_a( value: Any, kind: type | tuple[type, ...] ) -> bool:
  """As isinstance, but True and False are no integers."""
  return isinstance( value, kind ) and ( kind is bool or not isinstance( value, bool ) )

def readable_types() -> list[str]:
  """Block types that `gguf` turns into float32, by name."""
  from gguf import quants
  # The package has no public list of them.
  return sorted( [ "F32", "F16", *( kind.name for kind in quants._type_traits ) ] )

def _mapped( path: Path ) -> mmap.mmap:
  try:
    with path.open( "rb" ) as file:
      head = file.read( len( MAGIC ) )
      if head != MAGIC:
        raise NpuError( f"{path} starts with {head!r}; a GGUF file starts with {MAGIC!r}" )
      return mmap.mmap( file.fileno(), 0, access=mmap.ACCESS_READ )
  except OSError as e:
    raise NpuError( f"{path} cannot be read: {e.strerror}" ) from None

def _header( cursor: _Cursor ) -> tuple[int, int]:
  """Numbers of tensors and of metadata keys."""
  cursor.at = len( MAGIC )
  version   = cursor.unsigned( "the version", 32 )
  if version and not version & 0xffff:
    raise NpuError( f"{cursor.path} is big-endian; a little-endian GGUF file is expected" )
  if version not in VERSIONS:
    raise NpuError( f"{cursor.path} is GGUF version {version}; {' and '.join( map( str, VERSIONS ) )} are supported" )
  # The least that a tensor and a key take: lengths and types, and names that are empty.
  tensors = cursor.count( "tensors", 32, MAX_ENTRIES )
  return tensors, cursor.count( "metadata keys", 13, MAX_ENTRIES )
