"""The NPU as its host sees it: an image in memory, a mailbox, a doorbell, tokens in and tokens out.

Text is not known here (see `npu.runtime.session`), and the level only where the machine is built.
"""

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fl.npu import Counters, NpuFL, Result, drain
from npu.arch.config import LINE_BYTES, NpuConfig
from npu.arch.isa import Error, Status
from npu.arch.mailbox import MAX_EOS, Flag, Word
from npu.compiler.image import Image
from npu.errors import NpuError, OptionError
from npu.files import output_path
from npu.machine.levels import parse_levels
from npu.runtime.plan import OnProgress, Plan, instructions_of
from npu.runtime.sampling import Sampling, sample

if TYPE_CHECKING:
  from npu.machine.simulation import Machine, Stats

#-------------------------------------------------------------------------
# A machine with cycles
#-------------------------------------------------------------------------

# What simulates cycles is imported where it is needed: the functional level starts without it.

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
        raise OptionError( name, f"is {value}; choose {least} or more" )
    if self.dram_latency is not None and self.dram_latency > 1000:
      raise OptionError( "dram_latency", f"is {self.dram_latency}; choose 1 to 1000 cycles" )
    if self.dram_bandwidth is not None and not 0.01 <= self.dram_bandwidth <= 1:
      raise OptionError( "dram_bandwidth", f"is {self.dram_bandwidth}; choose 0.01 to 1 beats per cycle" )

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

#-------------------------------------------------------------------------
# Runs
#-------------------------------------------------------------------------

@dataclass
class Generation:
  """What a run produced. `wall_seconds` is the NPU's prefill and decode, without compiling or loading."""
  prompt_tokens: list[int]
  cached_tokens: int = 0               # of the prompt, in the KV cache already
  tokens: list[int] = field( default_factory=list )
  status: Status = Status.IDLE         # RUNNING until the end, and still if nobody took the last tokens
  wall_seconds: float = 0.0
  first_token_seconds: float = 0.0     # of them, until the first token

  @property
  def decode_rate( self ) -> float:
    """Tokens per second of wall time after the first token; 0 if there was only one."""
    seconds = self.wall_seconds - self.first_token_seconds
    return ( len( self.tokens ) - 1 ) / seconds if seconds > 0 else 0.0

def later( on_progress: OnProgress, cycles: int ) -> OnProgress:
  """The same for a run before which `cycles` have passed."""
  return lambda cycle, pc: on_progress( cycles + cycle, pc )

def check_prompt( manifest: Mapping[str, Any], tokens: list[int], max_new_tokens: int = 1 ) -> None:
  """NpuError if the prompt is empty, too long, or has a token that the image's model does not know."""
  vocab, context = int( manifest["dimensions"]["vocab_size"] ), int( manifest["context"] )
  if max_new_tokens < 1:
    raise OptionError( "max_new_tokens", f"is {max_new_tokens}; choose 1 or more" )
  if not tokens:
    raise NpuError( "the prompt is empty; give at least one token" )
  if len( tokens ) > context:
    raise NpuError( f"the prompt has {len( tokens )} tokens; this image's context is {context}" )
  wrong = [ t for t in tokens if not 0 <= t < vocab ]
  if wrong:
    raise NpuError( f"the prompt has token {max( wrong )}; the model's vocabulary is 0 to {vocab - 1}" )

def common_prefix( a: Sequence[int], b: Sequence[int] ) -> int:
  """How many elements two sequences have in common at their beginning."""
  return next( ( i for i, ( x, y ) in enumerate( zip( a, b, strict=False ) ) if x != y ), min( len( a ), len( b ) ) )

class Run:
  """The tokens of a run as they come; an iterator. Only the NPU's time counts, not what is done with a token meanwhile.

  Raises
  ------
  NpuError
    Another run has begun on the same image, or the device is closed: what is left of this one cannot be had any more.
  """

  def __init__( self, device: "Device", tokens: Generator[int, None, Status], done: Generation ) -> None:
    self.device = device
    self._tokens, self._done = tokens, done
    done.status = Status.RUNNING

  def __iter__( self ) -> "Run":
    return self

  def __next__( self ) -> int:
    self.device.check_turn( self )
    done, began = self._done, time.perf_counter()
    try:
      token = next( self._tokens )
    except StopIteration as end:
      # A generator that was closed has no value.
      done.status = done.status if end.value is None else end.value
      raise
    finally:
      done.wall_seconds += time.perf_counter() - began
    if not done.tokens:
      done.first_token_seconds = done.wall_seconds
    done.tokens.append( token )
    return token

  def close( self ) -> None:
    """End the run here; NpuError if it is at work, as it is when it calls `on_progress`."""
    try:
      self._tokens.close()
    except ValueError:
      raise NpuError( "a run is at work on this image; no other can begin" ) from None

class Device:
  """An NPU with an image loaded. A context manager: `close` frees what a machine with cycles holds.

  One run at a time: the next one ends what is left of the one before.

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
    Of all runs since `clear_counts`, one after the other; None at the functional level.
  last
    What the last `generate` or `stream` produced so far.

  Raises
  ------
  NpuError
    A level is not known, or the machine cannot be built.
  """

  def __init__( self, image: Image, levels: str | Mapping[str, str] | None = None,
                options: SimOptions | None = None ) -> None:
    self.levels   = parse_levels( levels ) if isinstance( levels, str ) else levels
    self.options  = options or SimOptions()
    if self.options.vcd:
      output_path( self.options.vcd )
    self._image   = image
    self._closed  = False
    self.manifest = image.manifest
    self.cfg      = NpuConfig( **image.manifest["config"] )
    self.dram     = image.dram
    self.machine  = None if self.levels is None else mk_machine( self.cfg, image.dram, self.levels, self.options )
    self.npu      = self.machine or NpuFL( self.cfg, image.dram )
    self.stats: Stats | None = None
    self._executed = 0          # instructions, of a machine
    self.clear_counts()
    self.vocab    = int( image.manifest["dimensions"]["vocab_size"] )
    self.context  = int( image.manifest["context"] )
    self.last     = Generation( [] )
    regions       = { r["name"]: r for r in image.manifest["regions"] }
    logits        = regions["logits"]
    start         = logits["line"] * LINE_BYTES
    self._logits  = image.dram[start : start + logits["size"]].view( np.float32 ).reshape(
      -1, image.manifest["logits_row_bytes"] // 4 )

  def __enter__( self ) -> "Device":
    return self

  def __exit__( self, kind: type[BaseException] | None, error: BaseException | None,
                where: TracebackType | None ) -> None:
    self.close()

  def close( self ) -> None:
    """End what is running, finish waveforms and free Verilated blocks; the device is of no use afterwards."""
    if self._closed:
      return
    if any( isinstance( run, Run ) and run.device is self for run in self._image.runs ):
      self._take_turn( None )
    self._closed = True
    if self.machine:
      self.machine.close()
      if self.options.vcd:
        move_waves( self.options.vcd )

  def _take_turn( self, run: object ) -> None:
    """From now on this run has the NPU; the one before it ends. NpuError if the device is closed."""
    if self._closed:
      raise NpuError( "the session is closed" )
    for other in self._image.runs:
      if isinstance( other, Run ) and other is not run:
        other.close()
    self._image.runs[:] = [ run ]

  def end_run( self ) -> None:
    """End what is left of the run before, with its counts and what it left in the mailbox; as `_take_turn`."""
    self._take_turn( None )

  def check_turn( self, run: object ) -> None:
    """NpuError unless this run still has the NPU."""
    if self._closed:
      raise NpuError( "the session is closed" )
    if not self._image.runs or self._image.runs[0] is not run:
      raise NpuError( "another run has begun on this image; this one cannot go on" )

  @contextmanager
  def uncounted( self ) -> Iterator[None]:
    """What is done inside does not count for `stats` and `counters`."""
    kept = self.counters, self.stats, self._executed
    self.clear_counts()
    try:
      yield
    finally:
      counters, self.stats, self._executed = kept
      if isinstance( self.npu, NpuFL ):
        self.npu.counters = counters

  def clear_counts( self ) -> None:
    """Begin anew with `stats` and `counters`."""
    if isinstance( self.npu, NpuFL ):
      self.npu.counters = Counters()
      return
    from npu.machine.simulation import Stats
    self.stats, self._executed = Stats(), 0

  @property
  def counters( self ) -> Counters:
    """What all runs did since `clear_counts`."""
    if isinstance( self.npu, NpuFL ):
      return self.npu.counters
    assert self.stats
    return Counters( self.stats.macs, Counter( self.stats.dram_bytes_read ), Counter( self.stats.dram_bytes_written ),
                     self._executed )

  def check_prompt( self, tokens: list[int], max_new_tokens: int = 1 ) -> None:
    """As the function of this name."""
    check_prompt( self.manifest, tokens, max_new_tokens )

  @property
  def cached( self ) -> list[int]:
    """The tokens whose keys and values the KV cache holds, from position 0 on."""
    box = self.npu.mailbox
    return [ int( t ) for t in box.tokens[: box[Word.POS]] ]

  def load_prompt( self, tokens: list[int], reuse_cache: bool = False ) -> int:
    """Put a prompt into the token buffer and go back to position 0; NpuError as `check_prompt`.

    With `reuse_cache`, go back no further than to where the prompt leaves what the KV cache holds: what is beyond will
    be written over. The last token is always computed, since the next one follows from it. Returns the position.
    """
    self.check_prompt( tokens )
    box = self.npu.mailbox
    # The position first: wherever this is interrupted, what is before the position is in the cache.
    box[Word.POS] = common_prefix( self.cached, tokens[:-1] ) if reuse_cache else 0
    box.tokens[: len( tokens )] = tokens
    box[Word.LEN] = len( tokens )
    return box[Word.POS]

  def ring( self, limit: int, flags: int = 0, eos: tuple[int, ...] = (),
            on_token: Callable[[int], None] | None = None, on_progress: OnProgress | None = None ) -> Result:
    """Write the run's parameters, ring the doorbell, wait for the end; `on_token` is called with each token.

    Raises as `ringing`.
    """
    return drain( self.ringing( limit, flags, eos, on_progress ), on_token )

  def ringing( self, limit: int, flags: int = 0, eos: tuple[int, ...] = (),
               on_progress: OnProgress | None = None ) -> Generator[int, None, Result]:
    """The same, a token at a time as they come; at the end, how the run ended.

    `on_progress` is called now and then with the cycle of this run and the instruction, at levels with cycles.

    Raises
    ------
    NpuError
      The NPU stopped with an error: the image is not one of the compiler's. At levels with cycles also what
      `npu.machine.simulation.Machine.stream` raises.
    """
    self.prepare( limit, flags, eos )
    known = self.npu.mailbox[Word.LEN]
    try:
      if isinstance( self.npu, NpuFL ):
        result = yield from self.npu.stream()
      else:
        result = yield from self._simulate( self.npu, on_progress )
    except BaseException:
      self._note_position( known )
      raise
    if result.status == Status.ERROR:
      raise NpuError( f"the NPU stopped with {Error( result.error ).name} at instruction {result.pc}" )
    return result

  def prepare( self, limit: int, flags: int = 0, eos: tuple[int, ...] = () ) -> None:
    """Write the run's parameters into the mailbox."""
    box = self.npu.mailbox
    box[Word.FLAGS], box[Word.LIMIT], box[Word.EOS_COUNT] = flags, min( limit, 0xFFFFFFFF ), len( eos )
    for i, token in enumerate( eos ):
      box[Word.EOS + i] = token
    box[Word.COUNT]    = 0       # the NPU's first act as well; if it is stopped before that, no token has come
    box[Word.DOORBELL] = 1

  def _note_position( self, known: int ) -> None:
    """After a run from so many tokens on that was stopped, which has not written POS: all tokens but the last one it
    produced are in the cache. If it produced none, what was there before is all that is sure.
    """
    box = self.npu.mailbox
    if box[Word.COUNT]:
      box[Word.POS] = known + box[Word.COUNT] - 1

  def _simulate( self, machine: "Machine", on_progress: OnProgress | None ) -> Generator[int, None, Result]:
    assert self.stats
    options, before = self.options, self.dram[:LINE_BYTES * 2].copy()
    left   = None if options.max_cycles is None else max( options.max_cycles - self.stats.cycles, 1 )
    try:
      result = yield from machine.stream( on_progress, left, options.hang_cycles )
    except BaseException:
      self.stats.add( machine.stopped, self.cfg.n )
      if count := machine.mailbox[Word.COUNT]:
        self._executed += instructions_of( self.dram, before, count )
      raise
    self.stats.add( result.stats, self.cfg.n )
    if result.status != Status.ERROR:
      self._executed += instructions_of( self.dram, before, result.count )
    return result

  def plan( self, limit: int, flags: int = 0 ) -> Plan:
    """What the run that the mailbox describes will execute, if no end-of-sequence token comes before `limit`."""
    self._take_turn( None )
    self.prepare( limit, flags )
    return Plan( self.cfg, self.dram )

  def generate( self, prompt: list[int], max_new_tokens: int, sampling: Sampling | None = None,
                stop_at_eos: bool = True, on_token: Callable[[int], None] | None = None,
                on_progress: OnProgress | None = None ) -> Generation:
    """Continue a prompt to the end; `on_token` is called with each token, the end-of-sequence token included.

    Raises as `stream`.
    """
    for token in self.stream( prompt, max_new_tokens, sampling, stop_at_eos, on_progress ):
      if on_token:
        on_token( token )
    return self.last

  def stream( self, prompt: list[int], max_new_tokens: int, sampling: Sampling | None = None,
              stop_at_eos: bool = True, on_progress: OnProgress | None = None, *, end_tokens: Sequence[int] = (),
              reuse_cache: bool = False ) -> Run:
    """Continue a prompt: tokens as they come, the end-of-sequence token included. What it took is in `last`.

    Greedy runs are one doorbell; sampled ones ring once a token. Whoever stops taking tokens ends the run; the KV
    cache then holds all tokens but the last one, as it does after any end.

    Parameters
    ----------
    prompt
      Tokens.
    max_new_tokens
      Tokens to produce at most.
    sampling
      How the host picks tokens; by default the NPU takes the likeliest.
    stop_at_eos
      Whether the model's end-of-sequence tokens end the run.
    on_progress
      At levels with cycles, called now and then with the cycle since the first doorbell and the instruction.
    end_tokens
      More tokens that end the run; of all of them, the first four count.
    reuse_cache
      Compute only what the KV cache does not hold yet of the prompt; the results are the same.

    Raises
    ------
    NpuError
      The prompt is not one for this image, or as `ringing`.
    """
    self.check_prompt( prompt, max_new_tokens )
    image_eos = self.manifest["dimensions"]["eos_tokens"] if stop_at_eos else ()
    eos       = tuple( dict.fromkeys( [ *end_tokens, *image_eos ] ) )[:MAX_EOS]
    self._take_turn( None )       # before the mailbox is written
    self.last = Generation( list( prompt ), self.load_prompt( prompt, reuse_cache ) )
    if sampling is None or not sampling.on_host:
      tokens = self._greedy( max_new_tokens, eos, on_progress )
    else:
      tokens = self._sampled( max_new_tokens, sampling, eos, on_progress )
    run = Run( self, tokens, self.last )
    self._take_turn( run )
    return run

  def _greedy( self, limit: int, eos: tuple[int, ...],
               on_progress: OnProgress | None ) -> Generator[int, None, Status]:
    result = yield from self.ringing( limit, 0, eos, on_progress )
    return result.status

  def _sampled( self, limit: int, how: Sampling, eos: tuple[int, ...],
                on_progress: OnProgress | None ) -> Generator[int, None, Status]:
    rng, box = np.random.default_rng( how.seed ), self.npu.mailbox
    first    = self.stats.cycles if self.stats else 0
    for count in range( limit ):
      before = self.stats.cycles - first if self.stats else 0
      told   = later( on_progress, before ) if on_progress else None
      status = self.ring( 1, Flag.LOGITS, on_progress=told ).status
      token  = sample( self._logits[0, : self.vocab], how, rng, box.tokens[: box[Word.LEN] - 1] )
      box.tokens[box[Word.LEN] - 1] = token
      yield token
      if token in eos:
        return Status.EOS
      if count + 1 < limit and ( status == Status.CONTEXT or box[Word.LEN] > self.context ):
        return Status.CONTEXT
    return Status.LIMIT

  def score( self, tokens: list[int] ) -> Iterator[NDArray[np.float32]]:
    """Logits of every position, a pass at a time: arrays [rows, vocabulary] (views: copy to keep)."""
    turn = object()
    self._take_turn( turn )
    self.load_prompt( tokens )
    box, at = self.npu.mailbox, 0
    while at < len( tokens ):
      self.check_turn( turn )
      self.ring( 1, Flag.SCORE )
      rows = box[Word.POS] - at
      at  += rows
      yield self._logits[:rows, : self.vocab]
