"""What the tests of the command line share: `npu run` as JSON, and its prompt."""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.helpers import run_cli

PROMPT = "the lord "

def run_json( *args: object ) -> dict[str, Any]:
  """What `npu run ARGS --json -` prints, which must be JSON and nothing else."""
  result = run_cli( "run", *args, "--json", "-" )
  assert ( result.code, result.err ) == ( 0, "" )
  found = json.loads( result.out )
  assert isinstance( found, dict )
  return found

def untimed( report: dict[str, Any] ) -> dict[str, Any]:
  """A report without the times, which differ from run to run."""
  return { key: value for key, value in report.items() if not key.endswith( "_seconds" ) }

@contextmanager
def time_limit( seconds: float ) -> Iterator[None]:
  """Fail what would hang. Not TimeoutError, which is an OSError and would be taken for the file's."""
  def stop( *_: object ) -> None:
    raise AssertionError( f"still running after {seconds} s" )
  old = signal.signal( signal.SIGALRM, stop )
  signal.setitimer( signal.ITIMER_REAL, seconds )
  try:
    yield
  finally:
    signal.setitimer( signal.ITIMER_REAL, 0 )
    signal.signal( signal.SIGALRM, old )

NO_MODEL = "no such model: {}; give a checkpoint folder, a GGUF file or one of tiny, nano, qwen2.5-coder-0.5b"
