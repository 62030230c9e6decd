"""Which level every block of an NPU is at.

Nothing of a level is imported here: a name is checked, and what it stands for is found later, by `translation.blocks`.
"""

from collections.abc import Mapping

from npu.errors import NpuError
from translation.blocks import BLOCKS as CLASSES, LEVELS as LEVELS

BLOCKS = tuple( CLASSES )

def check_levels( levels: Mapping[str, str] | str ) -> dict[str, str]:
  """The level of every block, from one level for all or levels by block (`cl` for the others).

  Raises
  ------
  NpuError
    A block or a level is not known.
  """
  given = dict.fromkeys( BLOCKS, levels ) if isinstance( levels, str ) else dict( levels )
  for name, level in given.items():
    if name not in BLOCKS:
      raise NpuError( f"unknown block '{name}'; choose one of {', '.join( BLOCKS )}" )
    if level not in LEVELS:
      raise NpuError( f"unknown level '{level}'; choose one of {', '.join( LEVELS )}" )
  return { name: given.get( name, "cl" ) for name in BLOCKS }

def parse_levels( text: str, option: str = "--level" ) -> dict[str, str] | None:
  """The level of every block; None is the functional NPU, which has no blocks to choose.

  `text` is a level for all blocks, or BLOCK=LEVEL with commas in between, the other blocks being at `cl`; a level in
  front is that of the other blocks: `rtl,controller=cl`. `fl` alone is None, `fl,mac_array=rtl` is not.

  Raises
  ------
  NpuError
    The text is neither, or a level or a block is not known; `option` is where the text is from.
  """
  first, *rest = items = text.split( "," )
  base = ""
  if "=" not in first:
    base, items = first, rest
    if base not in LEVELS:
      raise NpuError( f"unknown level '{base}'; choose one of {', '.join( LEVELS )}" )
  if base == "fl" and not items:
    return None
  levels: dict[str, str] = {}
  for item in items:
    name, given, level = item.partition( "=" )
    if not given:
      raise NpuError( f"{option} has '{item}'; write BLOCK=LEVEL with commas in between, as in "
                      "mac_array=rtl,vector_unit=cl" )
    if name in levels:
      raise NpuError( f"{option} names {name} twice" )
    levels[name] = level
  return check_levels( { **dict.fromkeys( BLOCKS, base or "cl" ), **levels } )

def choose_levels( level: str | None, levels: str | Mapping[str, str] | None ) -> dict[str, str] | None:
  """The level of every block, from that of all blocks (default: fl, or cl where `levels` is given) and those of some.

  None is the functional NPU. Raises NpuError as `parse_levels`.
  """
  if level is not None and level not in LEVELS:
    raise NpuError( f"unknown level '{level}'; choose one of {', '.join( LEVELS )}" )
  if levels is None:
    return parse_levels( level or "fl" )
  if isinstance( levels, str ):
    return parse_levels( f"{level or 'cl'},{levels}", "--levels" )
  return check_levels( { **dict.fromkeys( BLOCKS, level or "cl" ), **levels } )

def most_common_level( levels: Mapping[str, str] | None ) -> str:
  """The level of most blocks; the first of those that are equally common."""
  found = list( ( levels or { "": "fl" } ).values() )
  return max( found, key=found.count )

def level_name( levels: Mapping[str, str] | None ) -> str:
  """One word for the levels of all blocks: `mixed` if they differ."""
  found = set( ( levels or { "": "fl" } ).values() )
  return found.pop() if len( found ) == 1 else "mixed"
