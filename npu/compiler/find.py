"""Which model a MODEL argument means: its form is found out here, and nowhere else."""

from pathlib import Path

from npu.compiler.catalogue import PUBLISHED, located
from npu.compiler.folder import FolderModel
from npu.compiler.gguf_file import is_gguf
from npu.compiler.gguf_model import GgufModel, find_gguf
from npu.compiler.model import Model
from npu.errors import NpuError

EMBEDDED   = ( "tiny", "nano" )
MODELS_DIR = Path( __file__ ).resolve().parents[1] / "models"

def open_model( model: str | Path | Model ) -> Model:
  """The model that a MODEL argument means: an embedded or a published model's name, a checkpoint folder, a GGUF file
  (any part of one that was split), or a folder with one GGUF model in it. One that is open already stays as it is.

  Raises
  ------
  NpuError
    There is no such model, it is published and has not been fetched, or a folder has several GGUF models.
  """
  if not isinstance( model, str | Path ):
    return model
  place = located( str( model ) )
  if place not in EMBEDDED and is_gguf( Path( place ) ):
    return GgufModel( Path( place ) )
  folder = find_folder( place )
  gguf   = find_gguf( folder )
  return GgufModel( gguf ) if gguf else FolderModel( folder )

def find_folder( name: str ) -> Path:
  """The checkpoint folder of an embedded model's name, or a folder; NpuError if there is none."""
  if name in EMBEDDED:
    return MODELS_DIR / name
  path = Path( name )
  if not is_folder( path ):
    raise NpuError( f"no such model: {name}; give a checkpoint folder, a GGUF file or one of "
                    f"{', '.join( [ *EMBEDDED, *PUBLISHED ] )}" )
  return path

def is_folder( path: Path ) -> bool:
  """Whether there is such a folder; a name that the file system cannot even hold is none."""
  try:
    return path.is_dir()
  except OSError:
    return False

def held_out_text() -> str:
  """The text that the embedded models were not trained on."""
  return ( MODELS_DIR / "heldout.txt" ).read_text( encoding="utf-8" )
