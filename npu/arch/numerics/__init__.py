"""The arithmetic of the NPU: exact integers and flushed binary32, as pure numpy functions.

`fp32`        one hardware operation each: add, multiply, compare, convert, add to the exponent
`block_float` rows of integers that share one power-of-two exponent
`special`     exp2neg, reciprocal, rsqrt, sigmoid from committed integer tables
`small_float` BF16 and FP16 conversions
`tables`      the committed tables
"""
