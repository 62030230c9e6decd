"""A block as Verilog, and how large it is: `npu.translate` and `npu.synthesise`."""

from collections.abc import Callable
from pathlib import Path

from npu.arch.config import DEFAULT_CONFIG, NpuConfig
from translation.output import Translation, synthesise_block, translate_block
from translation.synth import Report

def translate( block: str, config: str | NpuConfig = DEFAULT_CONFIG, output: str | Path | None = None, *,
               lint: bool = False ) -> Translation:
  """A block in SystemVerilog, and its files in `output`; see `translation.output.translate_block`."""
  return translate_block( block, config, output, lint )

def synthesise( block: str, config: str | NpuConfig = DEFAULT_CONFIG,
                progress: Callable[[int, int], None] | None = None ) -> Report:
  """Gates, flip-flops and logic depth of a block's modules; see `translation.output.synthesise_block`."""
  return synthesise_block( block, config, progress )
