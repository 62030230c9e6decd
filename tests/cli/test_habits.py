"""Habits of the command line: version, help by task, completion, one name for one thing."""

import importlib.metadata
import inspect
import subprocess
from pathlib import Path

import pytest
from typer.models import OptionInfo

import npu
from npu.cli import options
from npu.cli.main import COMMANDS
from npu.compiler.find import EMBEDDED
from npu.tools.random_model import SHAPES
from tests.helpers import cli_command, cli_environment, run_cli

ALL = [ ( name, command ) for commands in COMMANDS.values() for name, command in commands ]

def test_version():
  result = run_cli( "--version" )
  assert ( result.code, result.out ) == ( 0, f"npu {npu.__version__}\n" )
  assert npu.__version__ == importlib.metadata.version( "npu-qwen2" )

def test_help_is_grouped_by_task( monkeypatch ):
  monkeypatch.setenv( "COLUMNS", "120" )
  text = run_cli( "--help" ).out
  at   = [ text.index( f"─ {task} ─" ) for task in ( "Run", "Look inside", "Measure", "Hardware" ) ]
  assert at == sorted( at )
  for name, _ in ALL:
    assert f"│ {name} " in text

@pytest.mark.parametrize( "command", ( (), *( ( name, ) for name, _ in ALL ) ), ids=lambda c: " ".join( c ) or "npu" )
def test_help_has_a_short_name( command ):
  short = run_cli( *command, "-h" )
  assert short.code == 0 and short == run_cli( *command, "--help" )

@pytest.mark.parametrize( "command, usage", (
  pytest.param( "compile", "-o FILE", id="compile" ),
  pytest.param( "random-model", "DIR", id="random-model" ),
  pytest.param( "translate", "-o DIR", id="translate" ) ) )
def test_help_says_file_or_folder( command, usage, monkeypatch ):
  monkeypatch.setenv( "COLUMNS", "120" )
  text = " ".join( run_cli( command, "--help" ).out.replace( "--output", "" ).split() )
  assert usage in text, text

def test_names_for_completion_are_those_that_there_are():
  assert EMBEDDED == options.MODELS
  assert tuple( npu.PRECISIONS ) == options.PRECISIONS
  assert set( SHAPES ) == set( options.SHAPES )
  assert tuple( options.BLOCKS ) == npu.BLOCKS and npu.LEVELS == options.LEVELS
  assert options.DEFAULT_PRECISION in npu.PRECISIONS and options.DEFAULT_MODEL in EMBEDDED

def test_an_option_has_one_name_everywhere():
  found: dict[str, set[tuple[str, ...]]] = {}
  for _, command in ALL:
    for name, parameter in inspect.signature( command ).parameters.items():
      [ info ] = parameter.annotation.__metadata__
      if isinstance( info, OptionInfo ):
        # Inside Annotated, Typer takes the first flag for a default.
        flags = ( info.default, *( info.param_decls or () ) )
        found.setdefault( name, set() ).add( tuple( f for f in flags if str( f ).startswith( "-" ) ) )
  assert { name: flags for name, flags in found.items() if len( flags ) > 1 } == {}
  # And one flag means one thing.
  flags = [ flag for [ flag ] in found.values() if flag ]
  assert len( flags ) == len( set( flags ) ) and ( "--json", ) in flags

@pytest.mark.parametrize( "words, expected", (
  pytest.param( "npu ru", { "run" }, id="command" ),
  pytest.param( "npu run ti", { "tiny" }, id="model" ),
  pytest.param( "npu run --config edge", { "edge4", "edge8", "edge16" }, id="configuration" ),
  pytest.param( "npu compile tiny --precision w8", { "w8a16", "w8a8" }, id="precision" ),
  pytest.param( "npu diff --b ver", { "verilog" }, id="level" ),
  pytest.param( "npu run --levels att", { f"attention_engine={level}" for level in npu.LEVELS },
                id="level of a block" ),
  pytest.param( "npu run --levels mac_array=rtl,memory_hub=c", { "mac_array=rtl,memory_hub=cl" }, id="another one" ),
  pytest.param( "npu synth --block m", { "mac_array", "memory_hub" }, id="block" ),
  pytest.param( "npu run --dram-l", { "--dram-latency" }, id="option" ) ) )
def test_a_shell_completes( words, expected, tmp_path ):
  environment = cli_environment( _NPU_COMPLETE="complete_bash", COMP_WORDS=words,
                                 COMP_CWORD=str( len( words.split() ) - 1 ) )
  done = subprocess.run( cli_command(), env=environment, cwd=tmp_path, capture_output=True, text=True, check=False )
  assert set( done.stdout.split() ) == expected, done.stderr

def test_the_command_is_installed():
  [ script ] = importlib.metadata.distribution( "npu-qwen2" ).entry_points.select( group="console_scripts" )
  assert ( script.name, script.value ) == ( "npu", "npu.cli.main:main" )
  assert callable( script.load() ) and Path( inspect.getfile( script.load() ) ).name == "main.py"
