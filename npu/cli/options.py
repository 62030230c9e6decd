"""The options and arguments that several commands have: one name, one meaning and one text each."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

import typer

from npu.arch.config import DEFAULT_CONFIG as DEFAULT_CONFIG, PRESETS
from npu.compiler.catalogue import PUBLISHED
from translation.blocks import BLOCKS, LEVELS

# What a shell completes, written out where an import would take longer than a key; a test holds them to the originals.
MODELS     = ( "tiny", "nano" )
PRECISIONS = ( "w8a16", "w16a16", "w8a8", "w4a16", "bf16" )
SAMPLINGS  = ( "model", )
SHAPES     = ( "qwen2-0.5b", "qwen2-1.5b", "tiny", "nano" )

DEFAULT_MODEL     = "tiny"
DEFAULT_PRECISION = "w8a16"
DEFAULT_PROMPT    = "In the beginning"

def among( names: Iterable[str] ) -> Callable[[str], list[str]]:
  """Completes what has been typed to one of the names."""
  return lambda incomplete: [ name for name in names if name.startswith( incomplete ) ]

def among_block_levels( incomplete: str ) -> list[str]:
  """Completes the last of several BLOCK=LEVEL with commas in between."""
  before, comma, last = incomplete.rpartition( "," )
  every = ( f"{block}={level}" for block, levels in BLOCKS.items() for level in ( *levels, "verilog" ) )
  return [ f"{before}{comma}{one}" for one in every if one.startswith( last ) ]

def or_( names: Iterable[str] ) -> str:
  """a, b or c."""
  *some, last = names
  return f"{', '.join( some )} or {last}"

ModelArg     = Annotated[str, typer.Argument(
  metavar="MODEL", help=f"Checkpoint folder, GGUF file, {', '.join( MODELS )}, or a published model (npu models).",
  autocompletion=among( ( *MODELS, *PUBLISHED ) ) )]
ImageArg     = Annotated[Path, typer.Argument( metavar="IMAGE", help="Image file." )]
ConfigOpt    = Annotated[str, typer.Option(
  "--config", help=f"{or_( PRESETS )}.", autocompletion=among( PRESETS ) )]
PrecisionOpt = Annotated[str, typer.Option(
  help=f"{or_( PRECISIONS )}.", autocompletion=among( PRECISIONS ) )]
BlockOpt     = Annotated[str, typer.Option(
  "--block", help=f"{or_( BLOCKS )}.", autocompletion=among( BLOCKS ) )]
PromptOpt    = Annotated[str, typer.Option( help="Text to continue." )]
AnyPromptOpt = Annotated[str | None, typer.Option(
  metavar="TEXT",
  help=f'Text to continue; - is standard input (default: what is piped in, or "{DEFAULT_PROMPT}").' )]
PromptFileOpt = Annotated[str | None, typer.Option( metavar="FILE",
                                                    help="Continue the text of a file; - is standard input." )]
SystemOpt    = Annotated[str | None, typer.Option(
  metavar="TEXT", help="System prompt of a conversation (default: what the model's template has)." )]
SamplingOpt  = Annotated[str | None, typer.Option(
  metavar="model", help="model: sample as its makers advise; the options of sampling change that.",
  autocompletion=among( SAMPLINGS ) )]
HeatOpt      = Annotated[float | None, typer.Option( help="0 is greedy, on the NPU (default); else the host samples." )]
TopKOpt      = Annotated[int | None, typer.Option( help="Sample from the k likeliest tokens; 0: all (default)." )]
TopPOpt      = Annotated[float | None, typer.Option(
  help="Sample from the likeliest tokens of this total (default: 1)." )]
MinPOpt      = Annotated[float | None, typer.Option(
  help="Leave out tokens of less than this share of the likeliest one's probability (default: 0)." )]
PenaltyOpt   = Annotated[float | None, typer.Option(
  help="Divide logits of tokens that are there already by this (default: 1)." )]
SeedOpt      = Annotated[int | None, typer.Option( help="Seed of the sampling (default: 0)." )]
StopOpt      = Annotated[list[str] | None, typer.Option(
  metavar="TEXT", help="End before this text; may be given several times." )]
TraceOpt     = Annotated[bool, typer.Option( "--line-trace", help="Write a line per cycle to standard error." )]
VcdOpt       = Annotated[str | None, typer.Option(
  metavar="FILE", help="Write waveforms; the inside of Verilated blocks goes to files beside it." )]
TokensOpt    = Annotated[int, typer.Option( "--max-new-tokens", help="Tokens to produce at most." )]
EosOpt       = Annotated[bool, typer.Option( "--ignore-eos", help="Go on after the end of the text." )]
LevelOpt     = Annotated[str | None, typer.Option(
  help="Level of all blocks: fl (default, without cycles), cl, rtl or verilog.", autocompletion=among( LEVELS ) )]
LevelsOpt    = Annotated[str | None, typer.Option(
  metavar="BLOCK=LEVEL,...", help="Levels of blocks; the others have --level's, or cl.",
  autocompletion=among_block_levels )]
ProgressOpt  = Annotated[bool | None, typer.Option(
  "--progress/--no-progress", help="Whether to show how far it is, at levels with cycles (default: on a terminal)." )]
LatencyOpt   = Annotated[int | None, typer.Option( help="Cycles from a memory request to its first beat." )]
BandwidthOpt = Annotated[float | None, typer.Option( help="Beats per cycle that memory moves, at most 1." )]
StallOpt     = Annotated[int | None, typer.Option( "--stall-seed",
                                                   help="Random stalls of memory; results stay the same." )]
MaxCyclesOpt = Annotated[int | None, typer.Option( help="End after so many cycles, with what each unit waits for." )]
HangOpt      = Annotated[int | None, typer.Option(
  "--hang-cycles", help="End when nothing has moved for so many cycles (default: 20,000 and ten latencies)." )]
JsonOpt      = Annotated[str | None, typer.Option( "--json", metavar="FILE",
                                                   help="Write the results as JSON; - is standard output." )]
ContextOpt   = Annotated[int | None, typer.Option(
  help="Positions to provide for (default: the model's own, up to 4096)." )]
PassRowsOpt  = Annotated[int | None, typer.Option( help="Prompt rows per pass (default: as many as fit)." )]
NoCacheOpt   = Annotated[bool, typer.Option( "--no-cache", help="Compile anew, and do not keep the image." )]
ImageOpt     = Annotated[Path | None, typer.Option( "--image", metavar="FILE",
                                                    help="Use this image of MODEL instead of compiling." )]
