"""The command line: which commands there are, and how errors are told. What a command does is in `import npu`."""

import os
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from npu.cli import chat, hardware, look, measure, models, run
from npu.cli.output import messages
from npu.errors import NpuError, OptionError

app = typer.Typer( help="The open NPU: compile and run Qwen2 models, at the levels fl, cl, rtl and verilog.",
                   context_settings={ "help_option_names": [ "-h", "--help" ] }, no_args_is_help=True,
                   pretty_exceptions_enable=False )

# By task, in the order of the help.
COMMANDS: dict[str, tuple[tuple[str, Callable[..., None]], ...]] = {
  "Run":         ( ( "run", run.run ), ( "chat", chat.chat ), ( "compile", run.compile_ ),
                   ( "random-model", run.random_model ) ),
  "Models":      ( ( "models", models.models ), ( "fetch", models.fetch ) ),
  "Look inside": ( ( "info", look.info ), ( "disasm", look.disasm ), ( "diff", look.diff ) ),
  "Measure":     ( ( "compare", measure.compare ), ),
  "Hardware":    ( ( "translate", hardware.translate ), ( "synth", hardware.synth ) ) }

for task, commands in COMMANDS.items():
  for name, command in commands:
    app.command( name, rich_help_panel=task )( command )

def show_version( wanted: bool ) -> None:
  """Print the version and end."""
  if wanted:
    from npu import __version__
    typer.echo( f"npu {__version__}" )
    raise typer.Exit

@app.callback()
def options( version: Annotated[bool, typer.Option( "--version", callback=show_version, is_eager=True,
                                                    help="Show the version and exit." )] = False ) -> None:
  """The open NPU: compile and run Qwen2 models, at the levels fl, cl, rtl and verilog."""

def main() -> None:
  """Entry point: a user's error is one line on standard error and exit code 2.

  A reader that goes away, as in `npu disasm X | head`, is no error; Typer ends the program silently.
  """
  try:
    sys.exit( app( standalone_mode=False, prog_name="npu" ) )
  except OptionError as e:
    fail( f"--{e.option.replace( '_', '-' )} {e.problem}" )
  except NpuError as e:
    fail( str( e ) )
  except typer.TyperException as e:
    if type( e ).__name__ == "NoArgsIsHelpError":
      e.show( file=sys.stdout )     # type: ignore[attr-defined]
      sys.exit( 0 )
    fail( e.format_message() )
  except OSError as e:
    # Files are handled where they are used; what is left is standard output.
    os.dup2( os.open( os.devnull, os.O_WRONLY ), sys.stdout.fileno() )
    fail( f"cannot write standard output: {e.strerror}" )
  except ( KeyboardInterrupt, typer.Abort ):
    sys.exit( 130 )

def fail( message: str ) -> None:
  """One line on standard error, exit code 2."""
  messages.print( f"error: {' '.join( message.split() )}", markup=False, soft_wrap=True )
  sys.exit( 2 )

if __name__ == "__main__":
  main()
