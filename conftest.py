"""Options of the test suite, and the count of what passed at each level.

A test's level is its `level` parameter if it has one, else its mark `level( NAME )`, else `fl`.

Write `--level=cl`, not `--level cl`: pytest takes a word that is also a folder for the place of the
tests, and then does not read this file.
"""

import argparse
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from _pytest.subtests import SubtestReport
from hypothesis import HealthCheck, configuration, settings
from hypothesis.database import DirectoryBasedExampleDatabase

# Before any test imports transformers, so that it holds without the Makefile too.
os.environ.setdefault( "HF_HUB_OFFLINE", "1" )
os.environ.setdefault( "TRANSFORMERS_OFFLINE", "1" )

# A shell that starts the tests in the background lets them ignore Ctrl-C, and with them all that they start. Some tests
# press it.
if signal.getsignal( signal.SIGINT ) is signal.SIG_IGN:
  signal.signal( signal.SIGINT, signal.default_int_handler )

ROOT   = Path( __file__ ).resolve().parent
LEVELS = ( "fl", "cl", "rtl", "verilog" )
EXTRA  = ( "nightly", "published" )     # marks of tests that an option of the same name adds

#-------------------------------------------------------------------------
# Hypothesis
#-------------------------------------------------------------------------

# In CI every run draws the same examples, so a red run is red again when it is repeated. Elsewhere
# they are random and failures are kept. Time limits would only measure how busy the machine is.
IN_CI = os.environ.get( "CI", "" ).lower() in ( "1", "true" )

configuration.set_hypothesis_home_dir( ROOT / ".hypothesis" )
settings.register_profile(
  "npu", deadline=None, derandomize=IN_CI, suppress_health_check=[ HealthCheck.too_slow ],
  database=None if IN_CI else DirectoryBasedExampleDatabase( ROOT / ".hypothesis" / "examples" ) )
settings.load_profile( "npu" )

#-------------------------------------------------------------------------
# Options
#-------------------------------------------------------------------------

def parse_expect( text: str ) -> tuple[str, int]:
  """The level and the number in `LEVEL=N`. Raises ArgumentTypeError for anything else."""
  level, _, number = text.partition( "=" )
  if level not in LEVELS or not number.isdecimal():
    raise argparse.ArgumentTypeError(
      f"expected LEVEL=N with LEVEL one of {', '.join( LEVELS )} and N a number, found '{text}'" )
  return level, int( number )

def pytest_addoption( parser: pytest.Parser ) -> None:
  group = parser.getgroup( "npu" )
  group.addoption( "--level", action="append", choices=LEVELS, default=None,
                   help="run only the tests of this level (repeatable; default: all levels)" )
  group.addoption( "--nightly", action="store_true", default=False,
                   help="also run the tests marked nightly" )
  group.addoption( "--published", action="store_true", default=False,
                   help="also run the tests marked published, on weights that npu fetch has got" )
  group.addoption( "--expect", action="append", type=parse_expect, default=None, metavar="LEVEL=N",
                   help="fail unless at least N tests passed at LEVEL (repeatable; the last one for a "
                        "level counts)" )

def pytest_configure( config: pytest.Config ) -> None:
  config.addinivalue_line( "markers", "level(name): the level tested, fl if not given" )
  config.addinivalue_line( "markers", "nightly: slow, runs only with --nightly" )
  config.addinivalue_line( "markers", "published: needs published weights, runs only with --published" )
  if not hasattr( config, "workerinput" ):  # the controller of pytest-xdist, or a run without it
    config.pluginmanager.register( LevelSummary( config ), "npu-level-summary" )

#-------------------------------------------------------------------------
# Selection
#-------------------------------------------------------------------------

def level_of( item: pytest.Item ) -> str:
  """The level that `item` names, which need not be one of LEVELS."""
  params = item.callspec.params if hasattr( item, "callspec" ) else {}
  mark   = item.get_closest_marker( "level" )
  if "level" in params:
    level = params["level"]
  elif mark:
    level = ", ".join( map( str, mark.args ) )
  else:
    level = "fl"
  return str( level )

# Here and not at collection, where pytest-xdist would answer with an internal error.
@pytest.hookimpl( tryfirst=True )
def pytest_runtest_setup( item: pytest.Item ) -> None:
  level = level_of( item )
  if level not in LEVELS:
    pytest.fail( f"level is '{level}', expected one of {', '.join( LEVELS )}", pytrace=False )

# Last, so that what -k and -m leave out is not counted as left out here.
@pytest.hookimpl( trylast=True )
def pytest_collection_modifyitems( config: pytest.Config, items: list[pytest.Item] ) -> None:
  wanted = config.getoption( "level" ) or LEVELS
  kept: list[pytest.Item]       = []
  deselected: list[pytest.Item] = []
  left_out = dict.fromkeys( EXTRA, 0 )
  for item in items:
    level = level_of( item )
    # User properties travel with the report from a pytest-xdist worker to its controller.
    item.user_properties.append( ( "level", level ) )
    if level in LEVELS and level not in wanted:
      deselected.append( item )
    elif extra := next( ( e for e in EXTRA if item.get_closest_marker( e ) and not config.getoption( e ) ), None ):
      deselected.append( item )
      left_out[extra] += 1
    else:
      kept.append( item )
  if deselected:
    config.hook.pytest_deselected( items=deselected )
  items[:] = kept
  if hasattr( config, "workeroutput" ):
    config.workeroutput["left_out"] = left_out
  else:
    summary = config.pluginmanager.get_plugin( "npu-level-summary" )
    assert isinstance( summary, LevelSummary )
    summary.left_out = left_out

#-------------------------------------------------------------------------
# Summary
#-------------------------------------------------------------------------

class LevelSummary:
  """Counts the passed tests of each level from their reports, prints them, and applies `--expect`."""

  def __init__( self, config: pytest.Config ) -> None:
    self.passed       = dict.fromkeys( LEVELS, 0 )
    self.collect_only = bool( config.getoption( "collectonly" ) )
    self.expected     = dict[str, int]( config.getoption( "expect" ) or [] )
    self.left_out     = dict.fromkeys( EXTRA, 0 )

  def shortfalls( self ) -> list[str]:
    """One message for each level at which fewer tests passed than expected."""
    return [ f"level {level}: {self.passed[level]} tests passed, at least {least} expected (--expect)"
             for level, least in self.expected.items()
             if self.passed[level] < least and not self.collect_only ]

  def pytest_runtest_logreport( self, report: pytest.TestReport ) -> None:
    # A test counts once, however many subtests it has; an unexpected pass (xfail) is not a pass.
    if ( report.when == "call" and report.passed and not hasattr( report, "wasxfail" )
         and not isinstance( report, SubtestReport ) ):
      self.passed[ str( dict( report.user_properties )["level"] ) ] += 1

  @pytest.hookimpl( optionalhook=True )
  def pytest_testnodedown( self, node: Any ) -> None:
    # Every worker collects everything, so their numbers agree; one that crashed reports none.
    for extra, count in getattr( node, "workeroutput", {} ).get( "left_out", {} ).items():
      self.left_out[extra] = max( self.left_out[extra], count )

  def pytest_sessionfinish( self, session: pytest.Session ) -> None:
    passing = ( pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED )
    if session.exitstatus in passing and self.shortfalls():
      session.exitstatus = pytest.ExitCode.TESTS_FAILED

  def pytest_terminal_summary( self, terminalreporter: pytest.TerminalReporter ) -> None:
    ( first, count ), *rest = self.passed.items()
    counts = [ f"{first} {count} passed", *( f"{level} {n}" for level, n in rest ) ]
    if not self.collect_only:
      terminalreporter.write_line( "levels: " + ", ".join( counts ) )
    for extra, count in self.left_out.items():
      if count:
        terminalreporter.write_line( f"{extra}: {count} tests not run (--{extra} runs them)" )
    for message in self.shortfalls():
      terminalreporter.write_line( f"ERROR: {message}", red=True, bold=True )
