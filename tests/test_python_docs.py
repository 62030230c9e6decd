"""The examples of docs/python.md run as they stand, each on its own in an empty folder."""

import re

import pytest

from tests.helpers import ROOT

PAGE = ( ROOT / "docs" / "python.md" ).read_text( encoding="utf-8" )

def examples() -> list[object]:
  """Each example with the heading that it stands below."""
  found, heading = [], ""
  for match in re.finditer( r"^## ([^\n]+)$|^```python\n(.+?)^```$", PAGE, re.MULTILINE | re.DOTALL ):
    heading = match[1] or heading
    if match[2]:
      found.append( pytest.param( match[2], id=f"{heading} {len( found )}" ) )
  return found

@pytest.mark.filterwarnings( "default", "ignore:visit_" )     # others' own are not our errors
@pytest.mark.parametrize( "source", examples() )
def test_an_example_runs( source, tmp_path, monkeypatch ):
  monkeypatch.chdir( tmp_path )
  exec( compile( source, "docs/python.md", "exec" ), { "__name__": "example" } )

def test_every_name_is_mentioned():
  stub  = ( ROOT / "npu" / "__init__.pyi" ).read_text( encoding="utf-8" )
  names = set( re.findall( r" as (\w+)", stub ) )
  said  = set( re.findall( r"\w+", PAGE ) )
  assert names - said == set()
