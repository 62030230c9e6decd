"""Write `tables.py`: piecewise-linear tables of 64 segments, as integers.

    python -m npu.arch.numerics.mk_tables > npu/arch/numerics/tables.py

Each segment is the chord of a convex, falling function, lowered by half its largest error, in units
of 2**-20. The result is committed, and `special.py` reads only that: the golden model does not depend
on the `exp2` of the machine it runs on.
"""

from collections.abc import Callable

SEGMENTS      = 64
FRACTION_BITS = 20

def segments( f: Callable[[float], float], low: float, high: float ) -> tuple[list[int], list[int]]:
  """(base, slope) of each of 64 segments of [low, high]; slope is the fall over one segment."""
  base, slope = [], []
  step = ( high - low ) / SEGMENTS
  for i in range( SEGMENTS ):
    a, b  = low + i * step, low + ( i + 1 ) * step
    fall  = f( a ) - f( b )
    error = max( f( a ) - fall * j / 256 - f( a + step * j / 256 ) for j in range( 257 ) )
    base.append( round( ( f( a ) - error / 2 ) * ( 1 << FRACTION_BITS ) ) )
    slope.append( round( fall * ( 1 << FRACTION_BITS ) ) )
  return base, slope

def show( name: str, values: list[int] ) -> str:
  """One table as Python source."""
  rows = [ ", ".join( f"{v:7d}" for v in values[i : i + 8] ) for i in range( 0, SEGMENTS, 8 ) ]
  return f"{name} = np.array( [\n  " + ",\n  ".join( rows ) + " ], dtype=np.int64 )\n"

def main() -> None:
  """Print the module."""
  print( '"""Piecewise-linear tables, units of 2**-20, committed as integers; made by mk_tables.py."""\n' )
  print( "import numpy as np\n" )
  print( f"FRACTION_BITS = {FRACTION_BITS}\n" )
  for name, f, low, high in (
      ( "EXP2NEG",    lambda x: 2.0 ** -x,   0.0, 1.0 ),
      ( "RECIPROCAL", lambda x: 1.0 / x,     1.0, 2.0 ),
      ( "RSQRT_EVEN", lambda x: x ** -0.5,   1.0, 2.0 ),
      ( "RSQRT_ODD",  lambda x: x ** -0.5,   2.0, 4.0 ) ):
    base, slope = segments( f, low, high )
    print( show( f"{name}_BASE", base ) )
    print( show( f"{name}_SLOPE", slope ), end="" if name == "RSQRT_ODD" else "\n" )

if __name__ == "__main__":
  main()
