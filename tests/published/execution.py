"""Runs what a model wrote: in a process of its own, with limits, against the assertions of a task."""

import re
import resource
import subprocess
import sys
import tempfile

from tests.published.prompts import Task

SECONDS = 10
BYTES   = 1 << 30

def code_of( answer: str ) -> str:
  """The program in an answer: its first fenced block, or all of it."""
  found = re.search( r"```(?:python|py)?\s*\n(.*?)(?:```|\Z)", answer, re.DOTALL )
  return found[1] if found else answer

def _limit() -> None:
  resource.setrlimit( resource.RLIMIT_CPU, ( SECONDS, SECONDS ) )
  resource.setrlimit( resource.RLIMIT_AS, ( BYTES, BYTES ) )
  resource.setrlimit( resource.RLIMIT_FSIZE, ( 0, 0 ) )

def passes( task: Task, answer: str ) -> bool:
  """Whether the program in the answer fulfils all assertions of the task."""
  checks = "".join( f"assert {line}\n" for line in task.checks.splitlines() )
  source = f"{code_of( answer )}\n{checks}print( 'all passed' )\n"
  with tempfile.TemporaryDirectory( prefix="npu-answer-" ) as folder:
    try:
      done = subprocess.run( [ sys.executable, "-I", "-S", "-c", source ], cwd=folder, env={}, preexec_fn=_limit,
                             stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=2 * SECONDS,
                             check=False )
    except subprocess.TimeoutExpired:
      return False
  return done.returncode == 0 and done.stdout.endswith( "all passed\n" )
