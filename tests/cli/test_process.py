"""Commands in processes of their own, as a user runs them: full disks, broken pipes, signals."""

import json
import os
import resource
import subprocess
import sys
from typing import Any

import pytest

from tests.cli.world import NO_MODEL, run_json, untimed
from tests.helpers import cli_command, cli_environment, files

#-------------------------------------------------------------------------
# In a process of their own
#-------------------------------------------------------------------------

def spawn( *args: object, file_size: int | None = None, code: str = "", **options: Any ) -> subprocess.CompletedProcess:
  """`npu ARGS` as a user runs it.

  Parameters
  ----------
  file_size
    The largest file that it can write, in bytes, as on a full disk.
  code
    Python to execute first.
  """
  def limit() -> None:
    if file_size is not None:
      resource.setrlimit( resource.RLIMIT_FSIZE, ( file_size, file_size ) )
  command = cli_command( *args )
  if code:
    command = [ sys.executable, "-c", f"{code}\nfrom npu.cli.main import main\nmain()", *command[3:] ]
  # No byte code: a file of it, cut off, would be in the way of others.
  environment = cli_environment( PYTHONDONTWRITEBYTECODE="1", PYTHONIOENCODING="utf-8" )
  return subprocess.run( command, env=environment, preexec_fn=limit, timeout=60, check=False,
                         **{ "capture_output": True, "text": True, "encoding": "utf-8", **options } )

def test_run_as_a_user_does( model, image, out ):
  done = spawn( "run", model, "--image", image, "--prompt", "é ", "--max-new-tokens", 6, "--json", "r.json", cwd=out )
  assert done.returncode == 0
  report = json.loads( ( out / "r.json" ).read_text() )
  assert done.stdout.rstrip( "\ufffd\n" ) == ( "é " + report["text"] ).rstrip( "\ufffd\n" )
  assert "6 out; token limit reached" in done.stderr
  assert untimed( report ) == untimed( run_json( model, "--prompt", "é ", "--max-new-tokens", 6 ) )

def test_an_error_as_a_user_sees_it( out ):
  done = spawn( "run", "nowhere", "--json", "r.json", cwd=out )
  assert ( done.returncode, done.stdout ) == ( 2, "" )
  assert done.stderr == f"error: {NO_MODEL.format( 'nowhere' )}\n"
  assert files( out ) == set()

def test_run_needs_neither_torch_nor_transformers( model ):
  done = spawn( "run", model, "--max-new-tokens", 2, "--json", "-",
                code="import sys; sys.modules.update( torch=None, transformers=None )" )
  assert ( done.returncode, done.stderr ) == ( 0, "" )
  assert len( json.loads( done.stdout )["tokens"] ) == 2

@pytest.mark.parametrize( "command, file_size", (
  pytest.param( "compile", 20000, id="compile" ),
  pytest.param( "run", 20000, id="run, its image" ),
  pytest.param( "random-model", 20000, id="random-model, weights" ),
  pytest.param( "random-model", 5000, id="random-model, tokenizer" ) ) )
def test_a_full_disk_is_told( model, out, command, file_size ):
  args = { "compile": [ model, "-o", "a.npu" ], "run": [ model, "--json", "r.json" ],
           "random-model": [ "m", "--like", "nano" ] }[command]
  done = spawn( command, *args, file_size=file_size, cwd=out )
  assert ( done.returncode, done.stdout ) == ( 2, "" )
  lines = done.stderr.splitlines()
  assert len( lines ) == 1 and lines[0].startswith( "error: cannot write " )
  assert lines[0].endswith( ": File too large" )
  if command != "run":
    assert lines[0] == f"error: cannot write {args[0] if command == 'random-model' else 'a.npu'}: File too large"
  assert files( out ) == set()

def test_json_on_a_full_disk_is_told( model, image, out ):
  ( out / "r.json" ).write_text( "old" )
  done = spawn( "run", model, "--image", image, "--max-new-tokens", 2, "--json", "r.json", file_size=100, cwd=out )
  assert done.returncode == 2
  assert done.stderr.splitlines()[-1] == "error: cannot write r.json: File too large"
  assert files( out ) == { "r.json" } and ( out / "r.json" ).read_text() == "old"

@pytest.mark.skipif( not os.path.exists( "/dev/full" ), reason="no /dev/full here" )

def test_a_full_disk_behind_standard_output_is_told( model, image ):
  with open( "/dev/full", "w" ) as full:
    done = spawn( "run", model, "--image", image, "--max-new-tokens", 2, capture_output=False, stdout=full,
                  stderr=subprocess.PIPE )
  assert done.returncode == 2
  assert done.stderr == "error: cannot write standard output: No space left on device\n"

def test_a_reader_that_goes_is_no_error( image ):
  read, write = os.pipe()
  os.close( read )
  done = spawn( "disasm", image, capture_output=False, stdout=write, stderr=subprocess.PIPE )
  os.close( write )
  assert done.stderr == ""

def test_help_lists_the_commands():
  done = spawn( "--help" )
  assert done.returncode == 0
  for command in ( "run", "compile", "info", "disasm", "compare", "random-model" ):
    assert command in done.stdout
