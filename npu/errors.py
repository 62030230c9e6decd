"""Errors that a user can cause and mend."""

class NpuError( Exception ):
  """Wrong input. The message is one line: what was found, where, and what would be right.

  The command line prints it after `error:` and exits with code 2.
  """
