"""The host's side: tokenizer, mailbox, doorbell, tokens out."""

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fl.npu import Counters, NpuFL, Result
from npu.arch.config import LINE_BYTES, NpuConfig
from npu.arch.isa import Error, Status
from npu.arch.mailbox import Flag, Word
from npu.compiler.checkpoint import find_model
from npu.compiler.image import Image
from npu.errors import NpuError
from npu.runtime.progress import OnProgress, Plan, instructions_of

if TYPE_CHECKING:
  from npu.machine.simulation import Machine, Stats

LEVELS = ( "fl", "cl", "rtl", "verilog" )

#-------------------------------------------------------------------------
# Text
#-------------------------------------------------------------------------

class TextCodec:
  """The model's tokenizer: text to tokens, and tokens to text as they come."""

  def __init__( self, model: str ) -> None:
    self._folder = find_model( model )
    self._tokenizer = self._load()

  def _load( self ) -> Any:
    # tokenizer.json alone needs no more than the tokenizers library, which starts at once.
    path = self._folder / "tokenizer.json"
    if not path.exists() and not all( ( self._folder / f ).exists() for f in ( "vocab.json", "merges.txt" ) ):
      raise NpuError( f"{self._folder} has no tokenizer; tokenizer.json, or vocab.json and merges.txt, are expected" )
    try:
      if path.exists():
        from tokenizers import Tokenizer
        return Tokenizer.from_file( str( path ) )
      from transformers import AutoTokenizer
      return AutoTokenizer.from_pretrained( self._folder, local_files_only=True ).backend_tokenizer
    except Exception as e:
      raise NpuError( f"{self._folder}: the tokenizer cannot be loaded: {str( e ).splitlines()[0]}" ) from None

  def encode( self, text: str ) -> list[int]:
    """Tokens of a text; NpuError if it holds what UTF-8 cannot."""
    try:
      text.encode()
    except UnicodeEncodeError:
      raise NpuError( "the prompt is not valid UTF-8" ) from None
    return list( self._tokenizer.encode( text ).ids )

  def decode( self, tokens: list[int] ) -> str:
    """Text of tokens, special ones left out."""
    return str( self._tokenizer.decode( tokens, skip_special_tokens=True ) )

  def stream( self ) -> Callable[[int], str]:
    """A function that takes one token at a time and returns the text that is new and complete.

    A character may take several tokens; it appears with the last of them.
    """
    tokens: list[int] = []
    shown = 0

    def push( token: int ) -> str:
      nonlocal shown
      tokens.append( token )
      text = self.decode( tokens )
      if text.endswith( "\N{REPLACEMENT CHARACTER}" ):
        return ""
      new, shown = text[shown:], len( text )
      return new

    return push

#-------------------------------------------------------------------------
# Sampling
#-------------------------------------------------------------------------

@dataclass( frozen=True )
class Sampling:
  """How the host picks a token from logits. `temperature` 0 is greedy: then the NPU picks.

  Raises
  ------
  NpuError
    A parameter is out of range.
  """
  temperature: float = 0.0
  top_k: int = 0          # 0: all
  top_p: float = 1.0
  seed: int = 0

  def __post_init__( self ) -> None:
    if not 0 <= self.temperature <= 100:
      raise NpuError( f"--temperature is {self.temperature}; choose 0 (greedy) to 100" )
    if self.top_k < 0:
      raise NpuError( f"--top-k is {self.top_k}; choose 0 (all) or more" )
    if not 0 < self.top_p <= 1:
      raise NpuError( f"--top-p is {self.top_p}; choose more than 0, up to 1" )
    if self.seed < 0:
      raise NpuError( f"--seed is {self.seed}; choose 0 or more" )

def sample( logits: NDArray[np.float32], how: Sampling, rng: np.random.Generator ) -> int:
  """One token from logits [vocabulary]: temperature, then top-k, then top-p."""
  order = np.argsort( -logits, kind="stable" )
  if how.top_k:
    order = order[: how.top_k]
  # Differences first: a temperature near zero then makes -infinity, and never infinity - infinity.
  below = logits[order].astype( np.float64 ) - float( logits[order[0]] )
  with np.errstate( over="ignore" ):
    p = np.where( below < 0, np.exp( np.minimum( below, -1e-300 ) / how.temperature ), 1.0 )
  p /= p.sum()
  keep = int( np.searchsorted( np.cumsum( p ), how.top_p ) ) + 1 if how.top_p < 1 else len( p )
  p = p[:keep] / p[:keep].sum()
  return int( order[rng.choice( len( p ), p=p )] )

#-------------------------------------------------------------------------
# Generation and scoring
#-------------------------------------------------------------------------

@dataclass
class Generation:
  """What a run produced. `wall_seconds` is the NPU's prefill and decode, without compiling or loading."""
  prompt_tokens: list[int]
  tokens: list[int] = field( default_factory=list )
  status: Status = Status.IDLE
  wall_seconds: float = 0.0
  first_token_seconds: float = 0.0     # of them, until the first token

  @property
  def decode_rate( self ) -> float:
    """Tokens per second of wall time after the first token; 0 if there was only one."""
    seconds = self.wall_seconds - self.first_token_seconds
    return ( len( self.tokens ) - 1 ) / seconds if seconds > 0 else 0.0

#-------------------------------------------------------------------------
# Levels
#-------------------------------------------------------------------------

# What simulates cycles is imported where it is needed: the functional level starts without it.

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
  from npu.machine.simulation import BLOCKS, check_levels
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

def level_name( levels: Mapping[str, str] | None ) -> str:
  """One word for the levels of all blocks: `mixed` if they differ."""
  found = set( ( levels or { "": "fl" } ).values() )
  return found.pop() if len( found ) == 1 else "mixed"

@dataclass( frozen=True )
class SimOptions:
  """Of a simulation with cycles: the memory's timing, limits, and what is written of every cycle.

  Attributes
  ----------
  dram_latency, dram_bandwidth
    Cycles to the first beat, beats per cycle; None: the configuration's.
  stall_seed
    None, or random stalls of memory and scratchpad. Like all timing, they do not change results.
  max_cycles
    The most cycles of all runs together.
  hang_cycles
    So many cycles without a message anywhere end the run; None: the machine's own number.
  vcd
    Where waveforms go: FILE, and for each Verilated block the inside, beside it.
  trace
    Called with a line per cycle.

  Raises
  ------
  NpuError
    A number is out of range.
  """
  dram_latency: int | None = None
  dram_bandwidth: float | None = None
  stall_seed: int | None = None
  max_cycles: int | None = None
  hang_cycles: int | None = None
  vcd: Path | None = None
  trace: Callable[[str], None] | None = None

  def __post_init__( self ) -> None:
    for name, least in ( ( "dram_latency", 1 ), ( "stall_seed", 0 ), ( "max_cycles", 1 ), ( "hang_cycles", 1 ) ):
      value = getattr( self, name )
      if value is not None and value < least:
        raise NpuError( f"--{name.replace( '_', '-' )} is {value}; choose {least} or more" )
    if self.dram_latency is not None and self.dram_latency > 1000:
      raise NpuError( f"--dram-latency is {self.dram_latency}; choose 1 to 1000 cycles" )
    if self.dram_bandwidth is not None and not 0.01 <= self.dram_bandwidth <= 1:
      raise NpuError( f"--dram-bandwidth is {self.dram_bandwidth}; choose 0.01 to 1 beats per cycle" )

def mk_machine( cfg: NpuConfig, dram: NDArray[np.uint8], levels: Mapping[str, str],
                options: SimOptions | None = None ) -> "Machine":
  """The NPU in simulation with blocks at these levels. Raises NpuError as `npu.machine.simulation.Machine`."""
  from npu.machine.simulation import Machine
  o = options or SimOptions()
  return Machine( cfg, dram, levels, latency=o.dram_latency, bandwidth=o.dram_bandwidth, stall_seed=o.stall_seed,
                  wave=wave_name() if o.vcd else None, trace=o.trace )

def wave_name() -> str:
  """Under which this process's waveforms are written before they are moved to where the user wants them."""
  return f"npu-run-{os.getpid()}"

def move_waves( target: Path ) -> None:
  """Move the finished waveforms to `target`, and those of the Verilated blocks beside it; NpuError if that fails."""
  from translation.simulate import WAVES
  name = wave_name()
  for path in sorted( WAVES.glob( f"{name}.*vcd" ) ):
    place = path.name.removeprefix( name )
    try:
      shutil.move( path, target if place == ".vcd" else target.with_name( target.stem + place ) )
    except OSError as e:
      raise NpuError( f"cannot write {target}: {e.strerror}" ) from None

def mk_stats() -> "Stats":
  """Of no run at all."""
  from npu.machine.simulation import Stats
  return Stats()

def add_stats( total: "Stats", more: "Stats" ) -> None:
  """Take the statistics of another run into a total, as if it had begun in the cycle in which the total ends; all but
  the utilization."""
  total.token_cycles += [ total.cycles + c for c in more.token_cycles ]
  total.cycles       += more.cycles
  total.macs         += more.macs
  for name in ( "dram_bytes_read", "dram_bytes_written", "dispatch_waits" ):
    found = getattr( total, name )
    for key, value in getattr( more, name ).items():
      found[key] = found.get( key, 0 ) + value
  for name, unit in more.units.items():
    if name not in total.units:
      total.units[name] = type( unit )()
    known = total.units[name]
    known.busy     += unit.busy
    known.commands += unit.commands
    known.macs     += unit.macs
    for a, b in ( ( known.stalls, unit.stalls ), ( known.beats_read, unit.beats_read ),
                  ( known.beats_written, unit.beats_written ) ):
      a.update( b )

#-------------------------------------------------------------------------
# Sessions
#-------------------------------------------------------------------------

def later( on_progress: OnProgress, cycles: int ) -> OnProgress:
  """The same for a run before which `cycles` have passed."""
  return lambda cycle, pc: on_progress( cycles + cycle, pc )

def check_prompt( manifest: Mapping[str, Any], tokens: list[int], max_new_tokens: int = 1 ) -> None:
  """NpuError if the prompt is empty, too long, or has a token that the image's model does not know."""
  vocab, context = int( manifest["dimensions"]["vocab_size"] ), int( manifest["context"] )
  if max_new_tokens < 1:
    raise NpuError( f"--max-new-tokens is {max_new_tokens}; choose 1 or more" )
  if not tokens:
    raise NpuError( "the prompt is empty; give at least one token" )
  if len( tokens ) > context:
    raise NpuError( f"the prompt has {len( tokens )} tokens; this image's context is {context}" )
  wrong = [ t for t in tokens if not 0 <= t < vocab ]
  if wrong:
    raise NpuError( f"the prompt has token {max( wrong )}; the model's vocabulary is 0 to {vocab - 1}" )

class Session:
  """An NPU with an image loaded. A context manager: `close` frees what a machine with cycles holds.

  Parameters
  ----------
  image
    From `npu.compiler.image.load_image`.
  levels
    As `parse_levels` takes or returns them: None, or `fl`, is the functional NPU; anything else is a machine with
    cycles.
  options
    Of a machine with cycles.

  Attributes
  ----------
  levels
    By block, or None.
  stats
    Of all runs so far, one after the other; None at the functional level.

  Raises
  ------
  NpuError
    A level is not known, or the machine cannot be built.
  """

  def __init__( self, image: Image, levels: str | Mapping[str, str] | None = None,
                options: SimOptions | None = None ) -> None:
    self.levels   = parse_levels( levels ) if isinstance( levels, str ) else levels
    self.options  = options or SimOptions()
    self.manifest = image.manifest
    self.cfg      = NpuConfig( **image.manifest["config"] )
    self.dram     = image.dram
    self.machine: Machine | None = None
    self.stats: Stats | None = None
    if self.levels is not None:
      self.machine = mk_machine( self.cfg, image.dram, self.levels, self.options )
      self.stats   = mk_stats()
    self.npu      = self.machine or NpuFL( self.cfg, image.dram )
    self.vocab    = int( image.manifest["dimensions"]["vocab_size"] )
    self.context  = int( image.manifest["context"] )
    self._executed = 0          # instructions, of a machine
    regions       = { r["name"]: r for r in image.manifest["regions"] }
    logits        = regions["logits"]
    start         = logits["line"] * LINE_BYTES
    self._logits  = image.dram[start : start + logits["size"]].view( np.float32 ).reshape(
      -1, image.manifest["logits_row_bytes"] // 4 )

  def __enter__( self ) -> "Session":
    return self

  def __exit__( self, kind: type[BaseException] | None, error: BaseException | None,
                where: TracebackType | None ) -> None:
    self.close()

  def close( self ) -> None:
    """Finish waveforms and free Verilated blocks; the session is of no use afterwards."""
    if self.machine:
      self.machine.close()
      if self.options.vcd:
        move_waves( self.options.vcd )

  @property
  def counters( self ) -> Counters:
    """What all runs did so far."""
    if isinstance( self.npu, NpuFL ):
      return self.npu.counters
    assert self.stats
    return Counters( self.stats.macs, Counter( self.stats.dram_bytes_read ), Counter( self.stats.dram_bytes_written ),
                     self._executed )

  def check_prompt( self, tokens: list[int], max_new_tokens: int = 1 ) -> None:
    """As the function of this name."""
    check_prompt( self.manifest, tokens, max_new_tokens )

  def load_prompt( self, tokens: list[int] ) -> None:
    """Put a prompt into the token buffer and go back to position 0; NpuError as `check_prompt`."""
    self.check_prompt( tokens )
    box = self.npu.mailbox
    box.tokens[: len( tokens )] = tokens
    box[Word.POS], box[Word.LEN] = 0, len( tokens )

  def ring( self, limit: int, flags: int = 0, eos: tuple[int, ...] = (),
            on_token: Callable[[int], None] | None = None, on_progress: OnProgress | None = None ) -> Result:
    """Write the run's parameters, ring the doorbell, wait for the end.

    `on_progress` is called now and then with the cycle of this run and the instruction, at levels with cycles.

    Raises
    ------
    NpuError
      The NPU stopped with an error: the image is not one of the compiler's. At levels with cycles also what
      `npu.machine.simulation.Machine.run` raises.
    """
    self.prepare( limit, flags, eos )
    if isinstance( self.npu, NpuFL ):
      result = self.npu.run( on_token )
    else:
      result = self._simulate( self.npu, on_token, on_progress )
    if result.status == Status.ERROR:
      raise NpuError( f"the NPU stopped with {Error( result.error ).name} at instruction {result.pc}" )
    return result

  def prepare( self, limit: int, flags: int = 0, eos: tuple[int, ...] = () ) -> None:
    """Write the run's parameters into the mailbox."""
    box = self.npu.mailbox
    box[Word.FLAGS], box[Word.LIMIT], box[Word.EOS_COUNT] = flags, min( limit, 0xFFFFFFFF ), len( eos )
    for i, token in enumerate( eos ):
      box[Word.EOS + i] = token
    box[Word.DOORBELL] = 1

  def _simulate( self, machine: "Machine", on_token: Callable[[int], None] | None,
                 on_progress: OnProgress | None ) -> Result:
    assert self.stats
    options, before = self.options, self.dram[:LINE_BYTES * 2].copy()
    left = None if options.max_cycles is None else max( options.max_cycles - self.stats.cycles, 1 )
    result = machine.run( on_token, on_progress, left, options.hang_cycles )
    add_stats( self.stats, result.stats )
    work = self.stats.units["mac_array"].macs
    self.stats.mac_utilization = work / ( self.cfg.n ** 2 * self.stats.cycles )
    if result.status != Status.ERROR:
      self._executed += instructions_of( self.dram, before, result.count )
    return result

  def plan( self, limit: int, flags: int = 0 ) -> Plan:
    """What the run that the mailbox describes will execute, if no end-of-sequence token comes before `limit`."""
    self.prepare( limit, flags )
    return Plan( self.cfg, self.dram )

  def generate( self, prompt: list[int], max_new_tokens: int, sampling: Sampling | None = None,
                stop_at_eos: bool = True, on_token: Callable[[int], None] | None = None,
                on_progress: OnProgress | None = None ) -> Generation:
    """Continue a prompt. Greedy runs are one doorbell; sampled ones ring once a token.

    `on_token` is called with each token as it is produced, the end-of-sequence token included; `on_progress`, at levels
    with cycles, now and then with the cycle since the first doorbell and the instruction.
    """
    self.check_prompt( prompt, max_new_tokens )
    eos = tuple( self.manifest["dimensions"]["eos_tokens"] ) if stop_at_eos else ()
    self.load_prompt( prompt )
    done  = Generation( list( prompt ) )
    began = time.perf_counter()

    def push( token: int ) -> None:
      if not done.tokens:
        done.first_token_seconds = time.perf_counter() - began
      done.tokens.append( token )
      if on_token:
        on_token( token )

    if sampling is None or sampling.temperature == 0:
      done.status = self.ring( max_new_tokens, 0, eos, push, on_progress ).status
    else:
      done.status = self._sampled( max_new_tokens, sampling, eos, push, on_progress )
    done.wall_seconds = time.perf_counter() - began
    return done

  def _sampled( self, limit: int, how: Sampling, eos: tuple[int, ...], push: Callable[[int], None],
                on_progress: OnProgress | None ) -> Status:
    rng, box = np.random.default_rng( how.seed ), self.npu.mailbox
    first    = self.stats.cycles if self.stats else 0
    for count in range( limit ):
      before = self.stats.cycles - first if self.stats else 0
      told   = later( on_progress, before ) if on_progress else None
      status = self.ring( 1, Flag.LOGITS, on_progress=told ).status
      token  = sample( self._logits[0, : self.vocab], how, rng )
      box.tokens[box[Word.LEN] - 1] = token
      push( token )
      if token in eos:
        return Status.EOS
      if count + 1 < limit and ( status == Status.CONTEXT or box[Word.LEN] > self.context ):
        return Status.CONTEXT
    return Status.LIMIT

  def score( self, tokens: list[int] ) -> Iterator[NDArray[np.float32]]:
    """Logits of every position, a pass at a time: arrays [rows, vocabulary] (views: copy to keep)."""
    self.load_prompt( tokens )
    box, at = self.npu.mailbox, 0
    while at < len( tokens ):
      self.ring( 1, Flag.SCORE )
      rows = box[Word.POS] - at
      at  += rows
      yield self._logits[:rows, : self.vocab]

def output_path( name: str ) -> Path:
  """A path that can be written, checked before long work; NpuError if its folder does not exist."""
  path = Path( name )
  try:
    problem = ( "it is a folder" if path.is_dir() else
                "it is not a regular file" if path.exists() and not path.is_file() else
                "no such folder" if not path.absolute().parent.is_dir() else "" )
  except OSError as e:
    problem = str( e.strerror )
  if problem:
    raise NpuError( f"cannot write {path}: {problem}" )
  return path
