"""Pages and docstrings name files, modules and functions that exist; files and folders stay small enough to read."""

import importlib
import re
from collections import Counter
from pathlib import Path

from tests.helpers import ROOT

PACKAGES = ( "npu", "fl", "cl", "rtl_models", "translation", "tests" )
PAGES    = sorted( [ *ROOT.glob( "*.md" ), *ROOT.glob( "docs/*.md" ) ] )
SOURCES  = sorted( p for package in PACKAGES for p in ( ROOT / package ).rglob( "*.py" ) )
ANY      = "|".join( PACKAGES )

# What the changelog says of earlier revisions is right for them.
CHECKED  = [ p for p in PAGES if p.name != "CHANGELOG.md" ] + SOURCES

def name_of( path: Path ) -> str:
  return str( path.relative_to( ROOT ) )

def said( pattern: str, pages: list[Path] ) -> list[tuple[Path, str]]:
  """What is found in the pages, with the page."""
  return [ ( page, found ) for page in pages for found in set( re.findall( pattern, page.read_text( "utf-8" ) ) ) ]

def test_files_that_are_named_exist():
  named = said( rf"`((?:{ANY}|docs)/[\w/.]*)`", CHECKED )
  assert len( named ) > 100
  assert [ ( name_of( p ), n ) for p, n in named if not ( ROOT / n ).exists() and "BLOCK" not in n ] == []

def exists( name: str ) -> bool:
  """Whether a dotted name is a module, or something in one."""
  parts = name.split( "." )
  for cut in range( len( parts ), 0, -1 ):
    try:
      found = importlib.import_module( ".".join( parts[:cut] ) )
    except ModuleNotFoundError:
      continue
    for part in parts[cut:]:
      if not hasattr( found, part ):
        # Attributes that instances have are named in docstrings of their classes.
        return part in getattr( found, "__annotations__", {} )
      found = getattr( found, part )
    return True
  return False

def test_names_that_are_said_exist():
  named = [ ( p, n ) for p, n in said( rf"`((?:{ANY})(?:\.\w+)+)`", CHECKED ) if not n.endswith( ( ".npu", ".py" ) ) ]
  assert len( named ) > 50
  assert [ ( name_of( p ), n ) for p, n in named if not exists( n ) ] == []

def test_links_lead_somewhere():
  links = [ ( p, link.partition( "#" )[0] ) for p, link in said( r"\]\(([^)]+)\)", PAGES ) if "://" not in link ]
  assert len( links ) > 30
  assert [ ( name_of( p ), link ) for p, link in links if link and not ( p.parent / link ).exists() ] == []

def test_files_are_short():
  lines = { name_of( p ): len( p.read_text( encoding="utf-8" ).splitlines() ) for p in PAGES + SOURCES }
  assert { name: n for name, n in lines.items() if n >= 600 } == {}

def test_folders_are_short():
  count = Counter( p.parent for p in SOURCES + PAGES )
  assert { name_of( folder ): n for folder, n in count.items() if n > 20 } == {}
