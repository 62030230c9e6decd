"""Where the image of a session comes from: a file that is there, one that is kept, or a checkpoint compiled for it."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from npu.arch.config import NpuConfig, as_config
from npu.compiler.build import Progress, compile_model
from npu.compiler.find import open_model
from npu.compiler.image import Image, load_image
from npu.compiler.model import Model
from npu.compiler.precision import DEFAULT_PRECISION
from npu.errors import NpuError
from npu.runtime.image_cache import Wanted, fingerprint, keeps, kept_image

def load( path: str | Path ) -> Image:
  """Open an image file and check it. Raises as `npu.compiler.image.load_image`."""
  return load_image( Path( path ) )

def compile( model: str | Path | Model, output: str | Path | None = None, *, precision: str = DEFAULT_PRECISION,
             config: str | NpuConfig | None = None, context: int | None = None, pass_rows: int | None = None,
             progress: Progress | None = None, cache: bool = True ) -> Image:
  """Compile a checkpoint and load the image.

  Parameters
  ----------
  model
    A checkpoint folder, or the name of an embedded or a published model.
  output
    The image file to write. None: the image lives as long as the returned object does, and needs no file of the
    user's.
  config
    A preset's name or a configuration; None: `edge16`.
  context, pass_rows, progress
    As for `npu.compiler.build.compile_model`, whose errors these are too.
  cache
    Whether an image without `output` may be one that was compiled earlier, and is kept for later; see
    `npu.runtime.image_cache`.
  """
  if output is not None:
    compile_model( model, Path( output ), as_config( config ), precision, context, pass_rows, progress )
    return load( output )
  # The mapping keeps the data when the file has gone.
  with _compiled( model, config, precision, context, pass_rows, progress, cache ) as image:
    return image

@contextmanager
def image_file( model: str | Path | Model, image: str | Path | None = None, *, precision: str = DEFAULT_PRECISION,
                config: str | NpuConfig | None = None, context: int | None = None, pass_rows: int | None = None,
                progress: Progress | None = None, cache: bool = True ) -> Iterator[Path]:
  """The file of an image: the given one, or one that is compiled or kept, and is there inside the context.

  Parameters and errors as for `compile`.
  """
  if image is not None:
    yield Path( image )
    return
  with _compiled( model, config, precision, context, pass_rows, progress, cache ) as found:
    yield found.path

@contextmanager
def _compiled( model: str | Path | Model, config: str | NpuConfig | None, precision: str, context: int | None,
               pass_rows: int | None, progress: Progress | None, cache: bool ) -> Iterator[Image]:
  """A kept image, or one in a temporary folder; its path is good inside the context."""
  cfg    = as_config( config )
  wanted = Wanted( open_model( model ), cfg, precision, context, pass_rows )
  if cache and keeps( wanted.model ):
    with kept_image( wanted, progress ) as image:
      yield image
    return
  with tempfile.TemporaryDirectory( prefix="npu-" ) as folder:
    yield wanted.compile( Path( folder ) / "image.npu", progress )

def open_image( model: str | Path | Model, image: Image | str | Path | None = None, *,
                precision: str = DEFAULT_PRECISION, config: str | NpuConfig | None = None,
                context: int | None = None, pass_rows: int | None = None, progress: Progress | None = None,
                cache: bool = True ) -> Image:
  """The given image of a model, or one that is compiled as `compile` does.

  Raises
  ------
  NpuError
    The image is of another model, or as `compile` and `load_image`.
  """
  if image is None:
    return compile( model, precision=precision, config=config, context=context, pass_rows=pass_rows,
                    progress=progress, cache=cache )
  loaded = image if isinstance( image, Image ) else load( image )
  check_same_model( model, loaded )
  return loaded

def check_same_model( model: str | Path | Model, image: Image ) -> None:
  """NpuError if an image is not of this model.

  Dimensions alone are compared where that has to do: with an image of an earlier revision, which does not say what it
  was made of, and with a model whose weights cannot be read. The image has all that a run needs.
  """
  opened      = open_model( model )
  given       = model if isinstance( model, str | Path ) else model.path
  dims, found = asdict( opened.dims ), image.manifest["dimensions"]
  for name, value in dims.items():
    if name != "eos_tokens" and found[name] != value:
      raise NpuError( f"the image is of another model than {given}: its {name} is {found[name]}, not {value}" )
  made_of = image.manifest.get( "model_digest" )
  if made_of is not None and _fingerprint( opened ) not in ( made_of, None ):
    raise NpuError( f"the image is of other weights than {given}; compile it again" )

def _fingerprint( model: Model ) -> str | None:
  """Of the model; None if its weights cannot be read."""
  try:
    return fingerprint( model )
  except NpuError:
    return None
