"""The commands that measure a model: `npu compare`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

import npu
from npu.cli.options import (
  DEFAULT_CONFIG,
  DEFAULT_MODEL,
  DEFAULT_PRECISION,
  ConfigOpt,
  ContextOpt,
  ImageOpt,
  JsonOpt,
  ModelArg,
  NoCacheOpt,
  PassRowsOpt,
  PrecisionOpt,
)
from npu.cli.output import progress_bar, rows_table
from npu.cli.run import open_with_bar
from npu.errors import NpuError, OptionError
from npu.files import STDOUT, check_json, write_json

def compare( model: ModelArg = DEFAULT_MODEL, precision: PrecisionOpt = DEFAULT_PRECISION,
             config: ConfigOpt = DEFAULT_CONFIG,
             text: Annotated[Path | None, typer.Option(
               metavar="FILE", help="Text (default: the held-out text)." )] = None,
             tokens: Annotated[int, typer.Option( help="Tokens to compare on, from the start of the text." )] = 4096,
             context: ContextOpt = None, pass_rows: PassRowsOpt = None, image: ImageOpt = None,
             no_cache: NoCacheOpt = False, json_file: JsonOpt = None ) -> None:
  """Compare with Hugging Face's float32 model, teacher-forced on the same tokens."""
  check_json( json_file )
  if tokens < 2:
    raise OptionError( "tokens", f"is {tokens}; choose 2 or more" )
  words  = None if text is None else read_text( text )
  loaded = open_with_bar( model, image, precision, config, context, pass_rows, no_cache )
  with progress_bar( "comparing" ) as progress:
    report = npu.compare( model, text=words, tokens=tokens, image=loaded, progress=progress )
  if json_file:
    write_json( json_file, report.to_json() )
  if json_file != STDOUT:
    Console( highlight=False ).print( rows_table( report.rows() ), soft_wrap=True )

def read_text( path: Path ) -> str:
  """A text file; NpuError if it cannot be read as UTF-8."""
  try:
    return path.read_text( encoding="utf-8" )
  except OSError as e:
    raise NpuError( f"cannot read {path}: {e.strerror}" ) from None
  except UnicodeDecodeError as e:
    raise NpuError( f"cannot read {path}: {e}" ) from None
