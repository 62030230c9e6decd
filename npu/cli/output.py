"""How commands speak: bars and messages on standard error, tables on standard output."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from npu.errors import NpuError

if TYPE_CHECKING:
  from npu.runtime.plan import Plan
  from npu.runtime.progress import ProgressLine

messages = Console( stderr=True, highlight=False )

@contextmanager
def progress_bar( what: str ) -> Iterator[Callable[[int, int], None]]:
  """A bar on the terminal's standard error, gone when the work is done; silent elsewhere."""
  columns = ( TextColumn( "{task.description}" ), BarColumn(), TaskProgressColumn(), TimeRemainingColumn() )
  with Progress( *columns, console=messages, transient=True, disable=not messages.is_terminal ) as bar:
    task = bar.add_task( escape( what ), total=None )
    yield lambda done, total: bar.update( task, completed=done, total=total )

def wants_line( progress: bool | None, other_output: bool = False ) -> bool:
  """Whether to show how far a simulation is; by default on a terminal that shows nothing else."""
  return messages.is_terminal and not other_output if progress is None else progress

def progress_line( plan: "Plan", text: str = "", title: str = "" ) -> "ProgressLine":
  """The line on standard error for a run of this plan."""
  from npu.runtime.progress import Pace, ProgressLine
  return ProgressLine( messages, Pace( plan ), text, title )

def refuse_without_clock( options: dict[str, object | None] ) -> None:
  """NpuError if one of the options is given, which the functional level has no use for."""
  for name, value in options.items():
    if value is not None:
      raise NpuError( f"{name} needs a level with cycles, such as cl" )

def rows_table( rows: list[tuple[str, str]] ) -> Table:
  """Rows (name, text) as a table without lines."""
  table = Table( box=None, show_header=False, pad_edge=False )
  for name, value in rows:
    table.add_row( f"[dim]{name}[/dim]", escape( value ) )
  return table
