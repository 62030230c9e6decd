"""Where the image of a session comes from: a file that is there, or a checkpoint that is compiled for it."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from npu.arch.config import NpuConfig, as_config
from npu.compiler.build import Progress, compile_model
from npu.compiler.image import Image, load_image
from npu.compiler.model import Model, open_model
from npu.compiler.precision import DEFAULT_PRECISION
from npu.errors import NpuError

def load( path: str | Path ) -> Image:
  """Open an image file and check it. Raises as `npu.compiler.image.load_image`."""
  return load_image( Path( path ) )

def compile( model: str | Path | Model, output: str | Path | None = None, *, precision: str = DEFAULT_PRECISION,
             config: str | NpuConfig | None = None, context: int | None = None, pass_rows: int | None = None,
             progress: Progress | None = None ) -> Image:
  """Compile a checkpoint and load the image.

  Parameters
  ----------
  model
    A checkpoint folder or an embedded model's name.
  output
    The image file to write. None: the image lives as long as the returned object does, and leaves no file.
  config
    A preset's name or a configuration; None: `edge16`.
  context, pass_rows, progress
    As for `npu.compiler.build.compile_model`, whose errors these are too.
  """
  if output is not None:
    compile_model( model, Path( output ), as_config( config ), precision, context, pass_rows, progress )
    return load( output )
  # The mapping keeps the data when the file has gone: nothing stays behind, even if we are killed.
  with image_file( model, precision=precision, config=config, context=context, pass_rows=pass_rows,
                   progress=progress ) as path:
    return load( path )

@contextmanager
def image_file( model: str | Path | Model, image: str | Path | None = None, *, precision: str = DEFAULT_PRECISION,
                config: str | NpuConfig | None = None, context: int | None = None, pass_rows: int | None = None,
                progress: Progress | None = None ) -> Iterator[Path]:
  """The file of an image: the given one, or one compiled into a temporary folder that is removed afterwards.

  Parameters and errors as for `compile`.
  """
  if image is not None:
    yield Path( image )
    return
  with tempfile.TemporaryDirectory( prefix="npu-" ) as folder:
    path = Path( folder ) / "image.npu"
    compile_model( model, path, as_config( config ), precision, context, pass_rows, progress )
    yield path

def open_image( model: str | Path | Model, image: Image | str | Path | None = None, *,
                precision: str = DEFAULT_PRECISION, config: str | NpuConfig | None = None,
                context: int | None = None, pass_rows: int | None = None, progress: Progress | None = None ) -> Image:
  """The given image of a model, or one that is compiled as `compile` does.

  Raises
  ------
  NpuError
    The image is of another model, or as `compile` and `load_image`.
  """
  if image is None:
    return compile( model, precision=precision, config=config, context=context, pass_rows=pass_rows,
                          progress=progress )
  loaded = image if isinstance( image, Image ) else load( image )
  check_same_model( model, loaded )
  return loaded

def check_same_model( model: str | Path | Model, image: Image ) -> None:
  """NpuError if an image is not of a model of these dimensions."""
  opened      = open_model( model ) if isinstance( model, str | Path ) else model
  given       = model if isinstance( model, str | Path ) else model.path
  dims, found = asdict( opened.dims ), image.manifest["dimensions"]
  for name, value in dims.items():
    if name != "eos_tokens" and found[name] != value:
      raise NpuError( f"the image is of another model than {given}: its {name} is {found[name]}, not {value}" )
