"""The tables of `tests.mutations` fit the code; that the suites notice them takes `make test-all`."""

import pytest

from tests.mutations import BLOCKS, ROOT, table

@pytest.mark.parametrize( "block", BLOCKS )
def test_every_mutation_applies( block ):
  names = [ mutation[0] for mutation in table( block ).MUTATIONS ]
  assert len( names ) == len( set( names ) )
  for name, file, before, after in table( block ).MUTATIONS:
    assert before in ( ROOT / file ).read_text(), f"{name}: {file} has no {before!r}"
    assert before != after, name

def test_every_table_is_run():
  assert { path.parent.name for path in ( ROOT / "tests" ).glob( "*/mutations.py" ) } == set( BLOCKS )
