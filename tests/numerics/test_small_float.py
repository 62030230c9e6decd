"""BF16 and FP16 against exact fractions, and against numpy's float16 and ml_dtypes' bfloat16."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from npu.arch.numerics.small_float import BF16, FP16, fields, round_to, to_fp32
from tests.numerics.data import FRACTIONS, assert_bits, floats, joined, named, random_patterns
from tests.numerics.oracle import TINY, exact_small

FORMATS = named( [ ( "bf16", BF16, ml_dtypes.bfloat16 ), ( "fp16", FP16, np.float16 ) ] )

ROUND_TO_ROWS = [
  # name                                 format  x           pattern
  ( "bf16 zero",                         BF16,   0x00000000, 0x0000 ),
  ( "bf16 -zero",                        BF16,   0x80000000, 0x8000 ),
  ( "bf16 one",                          BF16,   0x3F800000, 0x3F80 ),
  ( "bf16 tie stays at even",            BF16,   0x3F808000, 0x3F80 ),
  ( "bf16 tie moves to even",            BF16,   0xBF818000, 0xBF82 ),
  ( "bf16 just above a tie",             BF16,   0x3F808001, 0x3F81 ),
  ( "bf16 carry",                        BF16,   0x3FFF8000, 0x4000 ),
  ( "bf16 saturates",                    BF16,   0x7F7FFFFF, 0x7F7F ),
  ( "bf16 saturates from a tie",         BF16,   0xFF7F8000, 0xFF7F ),
  ( "bf16 smallest normal",              BF16,   0x00800000, 0x0080 ),
  ( "bf16 subnormals are zero first",    BF16,   0x807FFFFF, 0x8000 ),
  ( "fp16 zero",                         FP16,   0x00000000, 0x0000 ),
  ( "fp16 -zero",                        FP16,   0x80000000, 0x8000 ),
  ( "fp16 one",                          FP16,   0x3F800000, 0x3C00 ),
  ( "fp16 tie stays at even",            FP16,   0x3F801000, 0x3C00 ),
  ( "fp16 tie moves to even",            FP16,   0xBF803000, 0xBC02 ),
  ( "fp16 just above a tie",             FP16,   0x3F801001, 0x3C01 ),
  ( "fp16 carry",                        FP16,   0x3FFFF000, 0x4000 ),
  ( "fp16 largest",                      FP16,   0x477FE000, 0x7BFF ),
  ( "fp16 saturates",                    FP16,   0x477FF000, 0x7BFF ),
  ( "fp16 saturates far out",            FP16,   0xFF7FFFFF, 0xFBFF ),
  ( "fp16 smallest normal",              FP16,   0xB8800000, 0x8400 ),
  ( "fp16 rounds up to it by a tie",     FP16,   0x387FF000, 0x0400 ),
  # With gradual underflow it would round up; the format's full precision keeps it below.
  ( "fp16 just below that is zero",      FP16,   0x387FEFFF, 0x0000 ),
  ( "fp16 largest subnormal is zero",    FP16,   0xB87FC000, 0x8000 ),
  ( "fp16 far below is zero",            FP16,   0x80800000, 0x8000 ),
]

@pytest.mark.parametrize( "fmt, x, expected", named( ROUND_TO_ROWS ) )
def test_round_to_row( fmt, x, expected ):
  assert exact_small( fmt, x ) == expected
  got = round_to( fmt, floats( [ x ] ) )
  assert got.dtype == np.uint16
  assert got.tolist() == [ expected ]

@pytest.mark.parametrize( "fmt, dtype", FORMATS )
@settings( max_examples=300 )
@given( data=st.data() )
def test_round_to_rounds_the_exact_value( fmt, dtype, data ):
  about = 127 - fmt.bias, 127 + fmt.bias
  drop  = 23 - fmt.fraction_bits
  # Fractions within one unit of a tie, and any others, at the ends of the format's range and anywhere.
  ties  = st.builds( lambda high, low: ( high << drop | 1 << ( drop - 1 ) ) + low,
                     st.integers( 0, ( 1 << fmt.fraction_bits ) - 1 ), st.integers( -1, 1 ) )
  ends  = st.sampled_from( [ e for end in about for e in range( end - 2, end + 4 ) if 0 <= e <= 254 ] )
  drawn = st.builds( joined, st.integers( 0, 1 ), ends | st.integers( 0, 254 ), ties | FRACTIONS )
  x     = data.draw( st.lists( drawn, min_size=1, max_size=20 ) )
  assert round_to( fmt, floats( x ) ).tolist() == [ exact_small( fmt, a ) for a in x ]

@pytest.mark.parametrize( "fmt, dtype", FORMATS )
def test_round_to_is_the_usual_conversion_but_for_our_rules( fmt, dtype ):
  low, high = max( 0, 127 - fmt.bias - 12 ), min( 254, 127 + fmt.bias + 3 )
  x = floats( np.concatenate( [ random_patterns( 11, 1 << 20 ),
                                random_patterns( 12, 1 << 20, low, high ) ] ) )
  with np.errstate( over="ignore" ):
    usual = x.astype( dtype ).view( np.uint16 ).astype( np.int64 )
  sign, magnitude = usual & 0x8000, usual & 0x7FFF
  # Saturation: no infinities.
  magnitude = np.minimum( magnitude, ( ( 2 ** fmt.exponent_bits - 1 ) << fmt.fraction_bits ) - 1 )
  # Flushing: zero below the smallest normal number, after rounding with the format's full precision;
  # so what is less than a quarter of the format's finest spacing below it rounds up. A binary32
  # subnormal, though, is zero before any rounding.
  smallest  = 2.0 ** ( 1 - fmt.bias )
  flushed   = np.abs( x ) < max( smallest * ( 1 - 2.0 ** -( fmt.fraction_bits + 2 ) ), TINY )
  assert np.array_equal( round_to( fmt, x ), sign | np.where( flushed, 0, magnitude ) )

@pytest.mark.parametrize( "fmt, dtype", FORMATS )
def test_to_fp32_is_exact_for_every_pattern_and_rounds_back( fmt, dtype ):
  p        = np.arange( 1 << 16, dtype=np.uint16 )
  ones     = ( 1 << fmt.exponent_bits ) - 1
  exponent = p >> fmt.fraction_bits & ones
  p        = p[ exponent < ones ]   # infinities and NaN are not accepted inputs
  assert p.size == ( 1 << 16 ) - ( 2 << fmt.fraction_bits )
  usual    = p.view( dtype ).astype( np.float32 )
  subnormal = np.abs( usual ) < 2.0 ** ( 1 - fmt.bias )
  expected = np.where( subnormal, np.copysign( np.float32( 0 ), usual ), usual )
  assert_bits( to_fp32( fmt, p ), expected, p )
  assert np.array_equal( round_to( fmt, to_fp32( fmt, p ) ), np.where( subnormal, p & 0x8000, p ) )

@pytest.mark.parametrize( "fmt, dtype", FORMATS )
def test_fields_take_every_pattern_apart( fmt, dtype ):
  p = np.arange( 1 << 16, dtype=np.uint16 )
  sign, exponent, fraction = fields( fmt, p )
  assert np.array_equal( np.signbit( p.view( dtype ).astype( np.float32 ) ), sign == 1 )
  assert exponent.min() == 0 and exponent.max() == ( 1 << fmt.exponent_bits ) - 1
  assert fraction.min() == 0 and fraction.max() == ( 1 << fmt.fraction_bits ) - 1
  assert np.array_equal( sign << 15 | exponent << fmt.fraction_bits | fraction, p )
