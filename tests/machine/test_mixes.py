"""Blocks of the NPU swapped level by level: every mix gives what NpuFL gives."""

from itertools import combinations, product

import pytest

from npu.arch.mailbox import Flag
from tests.machine.world import PROMPT, mk_images, simulate

SWAPPED = ( "mac_array", "vector_unit", "attention_engine", "controller" )
LEVELS  = ( "fl", "cl", "rtl" )

# Nine mixes in which every pair of blocks is at every pair of levels: rows ( a, b, a + b, a + 2b ) modulo 3.
COVERING = [ tuple( LEVELS[i % 3] for i in ( a, b, a + b, a + 2 * b ) ) for a, b in product( range( 3 ), repeat=2 ) ]

@pytest.fixture( scope="module" )
def images( tmp_path_factory ):
  return mk_images( tmp_path_factory.mktemp( "images" ) )

def check_mix( mix, images ):
  """One decode step of a model of one layer: tokens and all of the memory; cycles, if all blocks have time."""
  levels = dict( zip( SWAPPED, mix, strict=True ) )
  result = simulate( images( "small" ), levels, [ 3 ], 1 )
  if "fl" not in mix:
    assert result.stats == simulate( images( "small" ), "cl", [ 3 ], 1 ).stats

def test_the_covering_mixes_cover_every_pair():
  for i, j in combinations( range( 4 ), 2 ):
    assert { ( mix[i], mix[j] ) for mix in COVERING } == set( product( LEVELS, repeat=2 ) )

@pytest.mark.level( "rtl" )
@pytest.mark.parametrize( "mix", COVERING, ids="-".join )
def test_mix( mix, images ):
  check_mix( mix, images )

@pytest.mark.nightly
@pytest.mark.level( "rtl" )
@pytest.mark.parametrize( "mix", sorted( set( product( LEVELS, repeat=4 ) ) - set( COVERING ) ), ids="-".join )
def test_every_other_mix( mix, images ):
  check_mix( mix, images )

#-------------------------------------------------------------------------
# Whole models, logits included
#-------------------------------------------------------------------------

# The memory that is compared has the logits of the last position in it.
@pytest.mark.parametrize( ( "level", "model", "n", "tokens" ), [
  ( "fl", "nano", 4, 3 ), ( "cl", "nano", 4, 3 ), ( "verilog", "nano", 4, 3 ), ( "cl", "tiny", 16, 3 ),
  ( "verilog", "tiny", 16, 3 ), pytest.param( "rtl", "nano", 4, 2, marks=pytest.mark.nightly ) ] )
def test_logits( level, model, n, tokens, images ):
  """Tokens and logits, bit for bit; the cycles of every level with time."""
  image  = images( model, n )
  result = simulate( image, level, PROMPT, tokens, Flag.LOGITS )
  if level in ( "rtl", "verilog" ):
    assert result.stats == simulate( image, "cl", PROMPT, tokens, Flag.LOGITS ).stats
