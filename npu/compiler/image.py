"""The image file: one NPU memory, as the host loads it.

    header    64 bytes: magic, version, sizes, SHA-256 of manifest and payload
    payload   at byte 4096: DRAM from line 0 up to the last stored region
    (hole)    the rest of DRAM: KV cache and logits, zeros that take no disk space
    manifest  JSON after the hole: model, precision, configuration, regions

A file is written under a temporary name and renamed when it is complete, so a failure leaves nothing.
"""

import hashlib
import json
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from npu.arch.config import LINE_BYTES
from npu.arch.isa import INSTRUCTION_BYTES, Instruction, decode
from npu.errors import NpuError

MAGIC          = b"NPUIMAGE"
VERSION        = 1
PAYLOAD_OFFSET = 4096
HEADER         = struct.Struct( "<8sIIQQ32s" )   # magic, version, manifest bytes, payload bytes, DRAM bytes, hash

class ImageWriter:
  """Writes payload in order of address; made by `create_image`."""

  def __init__( self, file: BinaryIO ) -> None:
    self._file = file
    self._hash = hashlib.sha256()
    self.written = 0                   # bytes of payload so far

  def seek_line( self, line: int ) -> None:
    """Pad with zeros up to a line at or after the current position."""
    gap = line * LINE_BYTES - self.written
    assert gap >= 0, "regions are written in order of address"
    self.write( np.zeros( gap, dtype=np.uint8 ) )

  def write( self, data: NDArray ) -> None:
    """Append an array's bytes."""
    octets = np.ascontiguousarray( data ).reshape( -1 ).view( np.uint8 )
    self._file.write( octets.data )
    self._hash.update( octets.data )
    self.written += octets.size

  def finish( self, manifest: dict[str, Any], dram_bytes: int ) -> None:
    """Write manifest and header."""
    text = json.dumps( manifest ).encode()
    self._file.seek( PAYLOAD_OFFSET + dram_bytes )
    self._file.write( text )
    self._hash.update( text )
    self._file.seek( 0 )
    self._file.write( HEADER.pack( MAGIC, VERSION, len( text ), self.written, dram_bytes, self._hash.digest() ) )

@contextmanager
def create_image( path: Path ) -> Iterator[ImageWriter]:
  """Open a new image for writing; on any error, and until it is finished, `path` is not touched.

  Raises
  ------
  NpuError
    The file cannot be written: no such folder, no permission, disk full.
  """
  part = path.with_name( f".{path.name}.{os.getpid()}.part" )
  try:
    if path.is_dir():
      raise NpuError( f"cannot write {path}: it is a folder; give a file name" )
    with part.open( "w+b" ) as file:
      file.write( bytes( PAYLOAD_OFFSET ) )
      yield ImageWriter( file )
      file.flush()
      os.fsync( file.fileno() )
    part.replace( path )
  except OSError as e:
    raise NpuError( f"cannot write {path}: {e.strerror or e}" ) from None
  finally:
    with suppress( OSError ):          # what went wrong before is what the user has to know
      part.unlink()

@dataclass( frozen=True )
class Image:
  """A loaded image: `dram` is private to the process, `manifest` is what the compiler wrote.

  NPUs that are given the same image share its memory: one run at a time (`runs` has the one that may go on).
  """
  path: Path
  manifest: dict[str, Any]
  dram: NDArray[np.uint8]
  runs: list[Any] = field( default_factory=list, compare=False, repr=False )

  def instructions( self ) -> Iterator[Instruction]:
    """The program; `npu.arch.isa.disassemble` shows an instruction as text."""
    region = next( r for r in self.manifest["regions"] if r["name"] == "program" )
    data   = self.dram[region["line"] * LINE_BYTES :][: region["size"]].tobytes()
    for start in range( 0, len( data ), INSTRUCTION_BYTES ):
      yield decode( data[start : start + INSTRUCTION_BYTES] )

def _read_header( path: Path, file: BinaryIO ) -> tuple[int, int, int, bytes]:
  head = file.read( HEADER.size )
  if len( head ) < HEADER.size or head[:8] != MAGIC:
    raise NpuError( f"{path} is not an NPU image; make one with `npu compile MODEL -o FILE`" )
  _, version, manifest_bytes, payload_bytes, dram_bytes, digest = HEADER.unpack( head )
  if version != VERSION:
    raise NpuError( f"{path} is an image of version {version}; this program reads version {VERSION}: compile it again" )
  if payload_bytes > dram_bytes:
    raise NpuError( f"{path} is damaged: its header says that {payload_bytes} of {dram_bytes} bytes are stored; "
                    "compile it again" )
  expected = PAYLOAD_OFFSET + dram_bytes + manifest_bytes
  size = os.fstat( file.fileno() ).st_size
  if size != expected:
    problem = "truncated" if size < expected else "too long"
    raise NpuError( f"{path} has {size} bytes; its header says {expected}: it is {problem}, compile it again" )
  return manifest_bytes, payload_bytes, dram_bytes, digest

def load_image( path: Path ) -> Image:
  """Open an image and check it.

  Raises
  ------
  NpuError
    Not an image, another version, truncated, or its checksum is wrong.
  """
  try:
    with path.open( "rb" ) as file:
      manifest_bytes, payload_bytes, dram_bytes, digest = _read_header( path, file )
      hasher = hashlib.sha256()
      file.seek( PAYLOAD_OFFSET )
      left = payload_bytes
      while left:
        block = file.read( min( left, 1 << 22 ) )
        hasher.update( block )
        left -= len( block )
      file.seek( PAYLOAD_OFFSET + dram_bytes )
      text = file.read( manifest_bytes )
      hasher.update( text )
  except OSError as e:
    raise NpuError( f"cannot read image {path}: {e.strerror or e}" ) from None
  if hasher.digest() != digest:
    raise NpuError( f"{path} is damaged: its checksum is wrong; compile it again" )
  # Copy on write: weights stay shared with the file, what the NPU writes is the process's own.
  dram = np.memmap( path, dtype=np.uint8, mode="c", offset=PAYLOAD_OFFSET, shape=( dram_bytes, ) )
  return Image( path, json.loads( text ), dram )
