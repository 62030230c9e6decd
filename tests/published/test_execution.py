"""Answers are executed and judged as they should be. Needs no weights: it runs in `make test`."""

import pytest

from tests.published.execution import code_of, passes
from tests.published.prompts import CONTINUED, EIGHT, TASKS, Task

ADD = Task( "add", "`add(a, b)`.", "add(1, 2) == 3\nadd(0, 0) == 0" )

@pytest.mark.parametrize( "answer, right", (
  pytest.param( "def add(a, b):\n  return a + b", True, id="bare" ),
  pytest.param( "Here it is:\n```python\ndef add(a, b):\n  return a + b\n```\nIt adds.", True, id="fenced" ),
  pytest.param( "```python\ndef add(a, b):\n  return a + b", True, id="cut off" ),
  pytest.param( "def add(a, b):\n  return a - b", False, id="wrong" ),
  pytest.param( "def add(a, b)\n  return a + b", False, id="no Python" ),
  pytest.param( "def plus(a, b):\n  return a + b", False, id="another name" ),
  pytest.param( "def add(a, b):\n  return a + b\nraise SystemExit(0)", False, id="ends itself" ),
  pytest.param( "def add(a, b):\n  with open('x', 'w') as f: f.write('y')\n  return a + b", False, id="writes a file" ),
  pytest.param( "def add(a, b):\n  return [0] * 10 ** 10", False, id="much memory" ),
  pytest.param( "", False, id="nothing" ) ) )
def test_answers_are_judged( answer, right ):
  assert passes( ADD, answer ) == right

def test_an_endless_answer_ends( monkeypatch ):
  monkeypatch.setattr( "tests.published.execution.SECONDS", 1 )
  assert not passes( ADD, "def add(a, b):\n  while True: pass" )

def test_the_first_block_counts():
  assert code_of( "```\nx\n```\n```python\ny\n```" ) == "x\n"

def test_there_is_enough_to_ask():
  assert ( len( CONTINUED ), len( EIGHT ), len( TASKS ) ) == ( 16, 8, 12 )
  assert len( set( CONTINUED ) ) == 16 and all( t.name in t.request and t.name in t.checks for t in TASKS )
