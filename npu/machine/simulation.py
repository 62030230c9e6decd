"""The NPU in simulation: the host's side of a machine whose blocks are at any levels, with its cycles.

`Machine` is to the levels with time what `fl.npu.NpuFL` is to the functional one: a DRAM array goes in, `run` answers
a doorbell and returns how it ended, here with statistics.
"""

from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymtl3 import Bits1, Bits4, Component, update_ff
from pymtl3.stdlib.stream.ifcs import RecvIfcRTL, SendIfcRTL

from cl.memory_hub import READ_CLIENTS, WRITE_CLIENTS
from fl.npu import Result, TokenCallback, drain
from npu.arch.config import NpuConfig
from npu.arch.isa import Error, Status
from npu.arch.mailbox import Mailbox, Word
from npu.errors import NpuError
from npu.machine.levels import check_levels
from npu.machine.npu import Npu, SimulationError, UnitStats
from translation.blocks import get_block
from translation.levels import mk_dut, registered
from translation.simulate import simulator

QUIET_CYCLES   = 20_000        # without a message anywhere: more than any unit computes between two messages
CHECKED_CYCLES = 256           # limits are looked at, and progress is told, so often

Progress = Callable[[int, int], None]      # cycle of the run, and the instruction that is dealt with

@dataclass
class Stats:
  """What a run took.

  Attributes
  ----------
  cycles
    From the doorbell to the end.
  token_cycles
    The cycle in which each token appeared in the mailbox.
  macs
    Multiply-accumulates: padded dimensions of GEMMs, keys that rows may see in attention.
  mac_utilization
    Of the MAC array's multipliers in all cycles.
  dram_bytes_read, dram_bytes_written
    By the memory hub's client, in whole beats.
  units
    By unit: mac_array, vector_unit, attention_engine, load, store, controller.
  dispatch_waits
    Cycles in which the next instruction waited for a unit, by unit.
  """
  cycles: int = 0
  token_cycles: list[int] = field( default_factory=list )
  macs: int = 0
  mac_utilization: float = 0.0
  dram_bytes_read: dict[str, int] = field( default_factory=dict )
  dram_bytes_written: dict[str, int] = field( default_factory=dict )
  units: dict[str, UnitStats] = field( default_factory=dict )
  dispatch_waits: dict[str, int] = field( default_factory=dict )

  @property
  def prefill_cycles( self ) -> int:
    """Up to the first token; all of them if there is none."""
    return self.token_cycles[0] if self.token_cycles else self.cycles

  @property
  def decode_cycles( self ) -> list[int]:
    """Of each token after the first."""
    return [ int( c ) for c in np.diff( self.token_cycles ) ]

  def add( self, more: "Stats", n: int ) -> None:
    """Take in another run, as if it had begun in the cycle in which this one ends; `n` is the MAC array's geometry."""
    self.token_cycles += [ self.cycles + c for c in more.token_cycles ]
    self.cycles       += more.cycles
    self.macs         += more.macs
    for name in ( "dram_bytes_read", "dram_bytes_written", "dispatch_waits" ):
      found = getattr( self, name )
      for key, value in getattr( more, name ).items():
        found[key] = found.get( key, 0 ) + value
    for name, unit in more.units.items():
      self.units.setdefault( name, UnitStats() ).add( unit )
    self.mac_utilization = self.units["mac_array"].macs / ( n * n * max( self.cycles, 1 ) )

@dataclass( frozen=True )
class TimedResult( Result ):
  """How a run ended, and what it took."""
  stats: Stats = field( default_factory=Stats )

class Host( Component ):
  """Rings the doorbell when `rings` is set, and takes the answer into `status`."""

  def construct( s ) -> None:
    s.doorbell = SendIfcRTL( Bits1 )
    s.finished = RecvIfcRTL( Bits4 )
    s.rings: bool = False
    s.status: int | None = None

    @update_ff
    def ff_host() -> None:
      if s.reset:
        s.rings  = False
        s.status = None
        s.doorbell.val <<= 0
        s.doorbell.msg <<= 0
        s.finished.rdy <<= 1
      else:
        if s.rings:
          s.rings = False
          s.doorbell.val <<= 1
        elif s.doorbell.val:
          s.doorbell.val <<= ~s.doorbell.rdy
        if s.finished.val:
          s.status = int( s.finished.msg )

class Board( Component ):
  """The NPU and its host."""

  def construct( s, cfg: NpuConfig, dram: NDArray[np.uint8], blocks: Mapping[str, Any],
                 stall_seed: int | None ) -> None:
    s.host = Host()
    s.npu  = Npu( cfg, dram, **blocks, stall_seed=stall_seed )
    s.host.doorbell //= s.npu.doorbell
    s.npu.finished  //= s.host.finished

  def line_trace( s ) -> str:
    return str( s.npu.line_trace() )

def _mk_block( name: str, level: str, cfg: NpuConfig, **options: Any ) -> Any:
  return registered( mk_dut( get_block( name ), level, cfg, **options ) )

class Machine:
  """An NPU in simulation, on a DRAM array. A context manager: `close` frees what it holds.

  Parameters
  ----------
  cfg
    The configuration that the image was compiled for.
  dram
    Bytes; the mailbox is at address 0. It is written to.
  levels
    fl, cl, rtl or verilog: one for all blocks, or by block (mac_array, vector_unit, attention_engine, controller,
    memory_hub). The memory behind the hub is a cycle-level model always, and so is the hub at `fl`.
  latency, bandwidth
    Cycles, and beats per cycle, of the memory; by default cfg's.
  stall_seed
    Random stalls of memory and scratchpad.
  classes
    By block, a class or a function of cfg to use instead of what `translation.blocks` has at the level.
  wave
    Write a waveform to build/waves/WAVE.vcd, and one more for each Verilated block.
  trace
    Called with a line per cycle.
  x_initial, seed
    Initial state of Verilated blocks, see `translation.levels.mk_dut`.

  Raises
  ------
  NpuError
    A block or a level is not known, or a parameter is out of range.
  """

  def __init__( self, cfg: NpuConfig, dram: NDArray[np.uint8], levels: Mapping[str, str] | str = "cl", *,
                latency: int | None = None, bandwidth: float | None = None, stall_seed: int | None = None,
                classes: Mapping[str, Any] | None = None, wave: str | None = None,
                trace: Callable[[str], None] | None = None, x_initial: str | None = None, seed: int = 1 ) -> None:
    if latency is not None:
      cfg = cfg.but( dram_latency=latency )
    if bandwidth is not None:
      cfg = cfg.but( dram_bandwidth=bandwidth )
    self.cfg     = cfg
    self.dram    = dram
    self.levels  = check_levels( levels )
    self.mailbox = Mailbox( dram )
    self.trace   = trace
    blocks: dict[str, Any] = {
      name: partial( _mk_block, name, level, x_initial=x_initial, seed=seed )
      for name, level in self.levels.items() if name != "memory_hub" or level not in ( "fl", "cl" ) }
    blocks.update( classes or {} )
    self._stack = ExitStack()
    with ExitStack() as stack:
      board = Board( cfg, dram, blocks, stall_seed )
      self._board, self._tick = stack.enter_context( simulator( board, { "dump_vcd": wave } if wave else None ) )
      self._stack = stack.pop_all()
    self.npu = self._board.npu
    self._closed = False
    self.stopped = Stats()
    self.reset()

  def __enter__( self ) -> "Machine":
    return self

  def __exit__( self, kind: type[BaseException] | None, error: BaseException | None,
                where: TracebackType | None ) -> None:
    self.close()

  def close( self ) -> None:
    """Free the Verilated blocks and finish the waveforms."""
    self._closed = True
    self._stack.close()

  def reset( self ) -> None:
    """Reset all blocks, whatever they are doing. DRAM and scratchpad keep what they hold."""
    self._board.sim_reset()

  def run( self, on_token: TokenCallback | None = None, progress: Progress | None = None,
           max_cycles: int | None = None, quiet_cycles: int | None = None ) -> TimedResult:
    """Ring the doorbell and simulate until the run has ended; `on_token` is called with each token. See `stream`."""
    return drain( self.stream( progress, max_cycles, quiet_cycles ), on_token )

  def stream( self, progress: Progress | None = None, max_cycles: int | None = None,
              quiet_cycles: int | None = None ) -> Generator[int, None, TimedResult]:
    """Ring the doorbell and simulate until the run has ended: tokens as they appear in the mailbox, and how it ended.

    Whatever ends it early (`close` of the generator, Ctrl-C, an error of its own or of `progress`) resets the machine;
    `stopped` is what it took until then.

    Parameters
    ----------
    progress
      Called now and then with the cycle and the instruction.
    max_cycles
      The limit; by default there is none.
    quiet_cycles
      So many cycles without a message anywhere are a hang; by default 20,000 and ten memory latencies.

    Raises
    ------
    SimulationError
      A limit is reached: the message says what every unit waits for. Or a block breaks a rule of its ports.
    NpuError
      The machine is closed.
    """
    self._check_open()
    stats = Stats()
    try:
      return ( yield from self._stream( stats, progress, max_cycles, quiet_cycles ) )
    except BaseException:
      # Half a run must not come out of the next one.
      if not self._closed:
        self._collect( stats )
        self.stopped = stats
        self.reset()
      raise

  def _check_open( self ) -> None:
    # Verilated blocks are gone after `close`: the next cycle would end the process.
    if self._closed:
      raise NpuError( "the machine is closed" )

  def _stream( self, stats: Stats, progress: Progress | None, max_cycles: int | None,
               quiet_cycles: int | None ) -> Generator[int, None, TimedResult]:
    npu, host, dram, tick = self.npu, self._board.host, self.npu.memory.dram, self._tick
    quiet  = QUIET_CYCLES + 10 * self.cfg.dram_latency if quiet_cycles is None else quiet_cycles
    tokens = _Tokens( self.mailbox )
    npu.clear_stats()
    host.rings, host.status = True, None
    seen  = dram.mailbox_writes
    began = npu.now
    cycle = 0
    # The host looks into the memory, so the last writes must have come there.
    while host.status is None or npu.writes_pending():
      if self.trace:
        self.trace( f"{npu.now:6}: {npu.line_trace()}" )
      try:
        tick()
      except Exception as e:
        e.add_note( f"cycle {npu.now}: {npu.line_trace()}" )
        raise
      cycle += 1
      stats.cycles = cycle
      if dram.mailbox_writes != seen:
        seen = dram.mailbox_writes
        for token in tokens.new():
          stats.token_cycles.append( cycle )
          yield token
          self._check_open()
      if cycle % CHECKED_CYCLES == 0 or cycle == max_cycles:
        if progress:
          progress( cycle, int( npu.pc_port ) )
        if npu.now - max( npu.last_move(), began ) > quiet:
          raise SimulationError( f"nothing has moved for {quiet} cycles, in cycle {cycle}: {npu.waiting_for()}" )
        if max_cycles is not None and cycle >= max_cycles and host.status is None:
          raise SimulationError( f"the run has not ended after {cycle} cycles: {npu.waiting_for()}" )
    self._collect( stats )
    box = self.mailbox
    return TimedResult( Status( box[Word.STATUS] ), Error( box[Word.ERROR] ), box[Word.PC], box[Word.COUNT], stats )

  def _collect( self, stats: Stats ) -> None:
    n, size     = self.cfg.n, self.cfg.derived.beat_bytes
    stats.units = self.npu.stats()
    stats.macs  = sum( u.macs for u in stats.units.values() )
    stats.mac_utilization    = stats.units["mac_array"].macs / ( n * n * max( stats.cycles, 1 ) )
    stats.dram_bytes_read    = { name: size * sum( u.beats_read[name] for u in stats.units.values() )
                                 for name in READ_CLIENTS }
    stats.dram_bytes_written = { name: size * sum( u.beats_written[name] for u in stats.units.values() )
                                 for name in WRITE_CLIENTS }
    stats.dispatch_waits     = self.npu.dispatch_waits()

class _Tokens:
  # Notices tokens: COUNT in the mailbox grows, and the token stands in the buffer by then.
  def __init__( self, mailbox: Mailbox ) -> None:
    self._mailbox = mailbox
    self._first   = mailbox[Word.LEN]
    self._count   = 0
    mailbox[Word.COUNT] = 0      # the NPU's first act as well: what an earlier run left there is not news

  def new( self ) -> list[int]:
    """The tokens that have come since the last call."""
    count, first = self._mailbox[Word.COUNT], self._first
    found = [ int( t ) for t in self._mailbox.tokens[first + self._count : first + count] ]
    self._count = max( count, self._count )
    return found
