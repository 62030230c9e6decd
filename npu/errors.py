"""Errors that a user can cause and mend."""

class NpuError( Exception ):
  """Wrong input. The message is one line: what was found, where, and what would be right.

  The command line prints it after `error:` and exits with code 2.
  """

class OptionError( NpuError ):
  """A value that a parameter cannot have.

  Parameters
  ----------
  option
    The parameter's name in Python; on the command line, `max_cycles` is `--max-cycles`.
  problem
    The rest of the message: what was found, and what would be right.
  """

  def __init__( self, option: str, problem: str ) -> None:
    super().__init__( f"{option} {problem}" )
    self.option, self.problem = option, problem
