"""From a model, whatever its form on disk, to an image file, one tensor at a time."""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npu.arch.config import LINE_BYTES, NpuConfig, round_up
from npu.arch.isa import encode
from npu.arch.mailbox import MAILBOX_WORDS, Word
from npu.arch.numerics.fp32 import F32
from npu.arch.weight_stream import StreamLayout, pack
from npu.compiler.checkpoint import tensor_shapes
from npu.compiler.find import open_model
from npu.compiler.image import create_image
from npu.compiler.model import Model
from npu.compiler.precision import get_precision
from npu.compiler.program import NORMS_PER_LAYER, Program, Region, build, head_order
from npu.compiler.quantize_weights import quantize_weights
from npu.errors import NpuError

DEFAULT_CONTEXT = 4096     # the KV cache of a long context is large: more only if asked for
BLOCK_BYTES     = 1 << 26  # embedding rows are copied in blocks of about this size

Progress = Callable[[int, int], None]

#-------------------------------------------------------------------------
# Tables
#-------------------------------------------------------------------------

def rope_table( theta: float, head_dim: int, positions: int, half: int ) -> NDArray[np.uint32]:
  """RoPE lanes [positions, half]: cos in bits 15:0, sin in bits 31:16, Q1.14.

  As Hugging Face forms them: frequencies and angles in float32, cosine and sine of that angle.
  """
  exponent = np.arange( 0, head_dim, 2, dtype=np.float32 ) / np.float32( head_dim )
  inv_freq = ( 1.0 / np.power( np.float32( theta ), exponent, dtype=np.float32 ) ).astype( np.float32 )
  angle    = ( np.arange( positions, dtype=np.float32 )[:, None] * inv_freq ).astype( np.float64 )
  lanes    = np.zeros( ( positions, half ), dtype=np.uint32 )
  cos, sin = ( np.rint( f( angle ) * 16384 ).astype( np.int16 ).view( np.uint16 ) for f in ( np.cos, np.sin ) )
  lanes[:, : head_dim // 2] = cos.astype( np.uint32 ) | ( sin.astype( np.uint32 ) << 16 )
  return lanes

def mailbox_words( program: Program ) -> NDArray[np.uint32]:
  """The mailbox as the compiler leaves it."""
  words, memory = np.zeros( MAILBOX_WORDS, dtype=np.uint32 ), program.memory
  words[Word.PROGRAM]       = memory.line( "program" )
  words[Word.PROGRAM_COUNT] = len( program.instructions )
  words[Word.TOKENS]        = memory.line( "tokens" )
  words[Word.CONTEXT]       = program.context
  words[Word.DRAM_LINES]    = memory.lines
  words[Word.WRITABLE]      = memory.line( "kv.0" )
  return words

#-------------------------------------------------------------------------
# Data of each region
#-------------------------------------------------------------------------

class _Source:
  """Reads tensors and lays them out as the program expects them."""

  def __init__( self, program: Program, model: Model ) -> None:
    self.program, self.model = program, model
    self.shape  = program.shape
    self.shapes = tensor_shapes( program.shape.model )

  def read( self, name: str, start: int = 0, stop: int | None = None ) -> F32:
    return self.model.read( name, self.shapes[name], start, stop )

  def stream( self, layout: StreamLayout, w: F32, bias: F32 | None = None ) -> NDArray[np.uint32]:
    """w [K, N], padded already, as a weight stream."""
    return pack( layout, quantize_weights( w, self.shape.precision, bias ) )

  def norms( self ) -> Iterator[NDArray]:
    """Gains in the order of use, a row of lines each."""
    row   = round_up( 4 * self.shape.hidden, LINE_BYTES ) // 4
    names = [ f"model.layers.{i}.{n}.weight" for i in range( self.shape.model.layers )
              for n in ( "input_layernorm", "post_attention_layernorm" ) ] + [ "model.norm.weight" ]
    assert len( names ) == NORMS_PER_LAYER * self.shape.model.layers + 1
    for name in names:
      gain = np.zeros( row, dtype=np.float32 )
      gain[: self.shape.model.hidden_size] = self.read( name )
      yield gain

  def embedding( self ) -> Iterator[NDArray]:
    """FP32 rows by token."""
    row   = round_up( 4 * self.shape.hidden, LINE_BYTES ) // 4
    block = max( 1, BLOCK_BYTES // ( 4 * row ) )
    for start in range( 0, self.shape.model.vocab_size, block ):
      values = self.read( "model.embed_tokens.weight", start, min( start + block, self.shape.model.vocab_size ) )
      padded = np.zeros( ( len( values ), row ), dtype=np.float32 )
      padded[:, : values.shape[1]] = values
      yield padded

  def heads( self, values: F32, count: int ) -> F32:
    """[count * head_dim, ...] spread to [count * padded head, ...], halves in whole rows."""
    spread = np.zeros( ( count, self.shape.head, *values.shape[1:] ), dtype=np.float32 )
    spread[:, head_order( self.shape )] = values.reshape( count, self.shape.model.head_dim, *values.shape[1:] )
    return spread.reshape( count * self.shape.head, *values.shape[1:] )

  def qkv( self, prefix: str, layout: StreamLayout ) -> NDArray:
    m = self.shape.model
    parts = ( ( "q", m.heads ), ( "k", m.kv_heads ), ( "v", m.kv_heads ) )
    w = np.zeros( ( layout.k, layout.cols ), dtype=np.float32 )
    w[: m.hidden_size] = np.concatenate(
      [ self.heads( self.read( f"{prefix}self_attn.{p}_proj.weight" ), c ) for p, c in parts ] ).T
    bias = np.concatenate( [ self.heads( self.read( f"{prefix}self_attn.{p}_proj.bias" ), c ) for p, c in parts ] )
    return self.stream( layout, w, bias )

  def o( self, prefix: str, layout: StreamLayout ) -> NDArray:
    m = self.shape.model
    w = np.zeros( ( layout.k, layout.cols ), dtype=np.float32 )
    w[:, : m.hidden_size] = self.heads( self.read( f"{prefix}self_attn.o_proj.weight" ).T, m.heads )
    return self.stream( layout, w )

  def gate_up( self, prefix: str, layout: StreamLayout ) -> NDArray:
    m = self.shape.model
    w = np.zeros( ( layout.k, layout.cols ), dtype=np.float32 )
    for p, start in ( ( "gate", 0 ), ( "up", self.shape.inter ) ):
      w[: m.hidden_size, start : start + m.intermediate_size] = self.read( f"{prefix}mlp.{p}_proj.weight" ).T
    return self.stream( layout, w )

  def down( self, prefix: str, layout: StreamLayout ) -> NDArray:
    m = self.shape.model
    w = np.zeros( ( layout.k, layout.cols ), dtype=np.float32 )
    w[: m.intermediate_size, : m.hidden_size] = self.read( f"{prefix}mlp.down_proj.weight" ).T
    return self.stream( layout, w )

  def head( self, j: int ) -> NDArray:
    """Part j of the output head; columns past the vocabulary are zero."""
    m, tile = self.shape.model, self.program.tiles[j]
    layout  = self.shape.stream( self.shape.hidden, tile.cols )
    name    = "model.embed_tokens.weight" if m.tied else "lm_head.weight"
    values  = self.read( name, tile.start, min( tile.start + tile.cols, m.vocab_size ) )
    w = np.zeros( ( layout.k, layout.cols ), dtype=np.float32 )
    w[: m.hidden_size, : len( values )] = values.T
    return self.stream( layout, w )

  def region( self, name: str ) -> Iterator[NDArray]:
    """The data of a stored region, in pieces."""
    s, m = self.shape, self.shape.model
    if name == "mailbox":
      yield mailbox_words( self.program )
    elif name == "tokens":
      yield np.zeros( self.program.context + 1, dtype=np.uint32 )
    elif name == "program":
      yield np.frombuffer( b"".join( encode( i ) for i in self.program.instructions ), dtype=np.uint8 )
    elif name == "norms":
      yield from self.norms()
    elif name == "rope":
      half  = round_up( 4 * s.half, LINE_BYTES ) // 4
      yield rope_table( m.rope_theta, m.head_dim, self.program.context, half )
    elif name == "embedding":
      yield from self.embedding()
    elif name.startswith( "head." ):
      yield self.head( int( name.partition( "." )[2] ) )
    else:
      _, layer, part = name.split( "." )
      yield getattr( self, part )( f"model.layers.{layer}.", s.matrices()[part] )

#-------------------------------------------------------------------------
# Compile
#-------------------------------------------------------------------------

def manifest( program: Program, name: str, digest: str ) -> dict[str, Any]:
  """What the image says about itself; `digest` is the model's fingerprint."""
  s = program.shape
  return { "model": name, "model_digest": digest, "precision": s.precision.name, "config": asdict( s.cfg ),
           "dimensions": asdict( s.model ), "context": program.context, "pass_rows": program.spad.pass_rows,
           "instructions": len( program.instructions ), "logits_row_bytes": program.logits_row_bytes,
           "regions": [ asdict( r ) for r in program.memory.regions.values() ] }

def compile_model( model: str | Path | Model, output: Path, cfg: NpuConfig, precision: str, context: int | None = None,
                   pass_rows: int | None = None, progress: Progress | None = None,
                   digest: str | None = None ) -> Program:
  """Compile a model to an image file.

  Parameters
  ----------
  model
    As `npu.compiler.find.open_model` takes or returns it.
  context
    Positions to provide for; default: the model's own, at most 4,096.
  progress
    Called with (bytes done, bytes in all).
  digest
    The model's fingerprint, if it is known already; finding it out reads all weights.

  Raises
  ------
  NpuError
    The model is not one that the NPU can run, does not fit the configuration, or the file cannot be
    written. Nothing is left half-written.
  """
  opened = open_model( model )
  dims = opened.dims
  if context is None:
    context = min( dims.context, DEFAULT_CONTEXT )
  if not 1 <= context <= dims.context:
    raise NpuError( f"context is {context}; {opened.path} was made for 1 to {dims.context} positions" )
  for name, shape in tensor_shapes( dims ).items():
    opened.check( name, shape )
  program = build( dims, cfg, get_precision( precision ), context, pass_rows )
  source  = _Source( program, opened )
  stored: list[Region] = [ r for r in program.memory.regions.values() if r.stored ]
  total   = sum( r.size for r in stored )
  with create_image( output ) as image:
    for region in stored:
      image.seek_line( region.line )
      for piece in source.region( region.name ):
        image.write( piece )
        if progress:
          progress( min( image.written, total ), total )
      assert image.written == region.line * LINE_BYTES + region.size, region.name
    image.finish( manifest( program, opened.name, digest or opened.fingerprint() ), program.memory.lines * LINE_BYTES )
  return program
