"""What a run of a session was: the JSON of `npu run`, and the lines below its text."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from npu.machine.levels import level_name, most_common_level
from npu.runtime.device import Device

if TYPE_CHECKING:
  from npu.machine.simulation import Stats

STATUS_TEXT = { "eos": "the model ended its text", "limit": "token limit reached", "context": "the context is full",
                "stop": "a stop text came", "running": "stopped", "idle": "nothing has run" }

@dataclass( frozen=True )
class RunReport:
  """One run of a session; `to_json` is what `npu run --json` writes. What needs a clock is None without one.

  Attributes
  ----------
  model, precision, config
    Of the image.
  level
    Of all blocks, or `mixed`.
  levels
    By block; None for the functional NPU, which has no blocks to choose.
  prompt_tokens, prompt_token_ids
    How many, and which.
  cached_tokens
    Of the prompt, those that the KV cache held already and that were not computed.
  tokens, text
    What was produced, the end-of-sequence token included; special tokens have no text, and the text ends before a
    stop text.
  status
    eos: the model ended its text; limit: as many tokens as asked for; context: it is full; stop: a stop text came;
    running: nobody took the rest; idle: nothing has run.
  cycles, prefill_cycles, decode_cycles
    Of the whole run, up to the first token, and of each token after it.
  mac_utilization
    Of the MAC array's multipliers in all cycles, 0 to 1.
  busy_cycles, stall_cycles
    By unit: with a command, and of these the cycles in which nothing moved, by cause (docs/memory.md).
  dispatch_wait_cycles
    Cycles in which the next instruction waited for a unit, by unit.
  macs
    Multiply-accumulates: padded dimensions of GEMMs, keys that rows may see in attention.
  dram_bytes_read, dram_bytes_written, dram_bytes_read_by, dram_bytes_written_by
    In whole beats, in all and by the memory hub's client.
  instructions
    Fetched.
  wall_seconds, first_token_seconds
    Of the simulation, and of them up to the first token; compiling and loading are not in it.
  """
  model: str
  precision: str
  config: str
  level: str
  levels: dict[str, str] | None
  prompt_tokens: int
  prompt_token_ids: list[int]
  cached_tokens: int
  tokens: list[int]
  text: str
  status: str
  cycles: int | None
  prefill_cycles: int | None
  decode_cycles: list[int] | None
  mac_utilization: float | None
  busy_cycles: dict[str, int] | None
  stall_cycles: dict[str, dict[str, int]] | None
  dispatch_wait_cycles: dict[str, int] | None
  macs: int
  dram_bytes_read: int
  dram_bytes_written: int
  dram_bytes_read_by: dict[str, int]
  dram_bytes_written_by: dict[str, int]
  instructions: int
  wall_seconds: float
  first_token_seconds: float

  def to_json( self ) -> dict[str, Any]:
    """As `npu run --json` writes it."""
    return asdict( self )

  def rows( self ) -> list[tuple[str, str]]:
    """A few lines on what ran: (name, text)."""
    cached = f" ({self.cached_tokens} cached)" if self.cached_tokens else ""
    return [ ( "tokens", f"{self.prompt_tokens} in{cached}, {len( self.tokens )} out; {STATUS_TEXT[self.status]}" ),
             ( "work", f"{self.macs:,} MACs, {self.dram_bytes_read:,} bytes read, "
                       f"{self.dram_bytes_written:,} written" ),
             *self._cycles(), ( "time", self._time() ) ]

  def _cycles( self ) -> list[tuple[str, str]]:
    if self.cycles is None or self.decode_cycles is None or self.mac_utilization is None:
      return []
    decode   = self.decode_cycles
    each     = f", then {sum( decode ) / len( decode ):,.0f} a token" if decode else ""
    timeless = [ name for name, level in ( self.levels or {} ).items() if level == "fl" ]
    note     = f" (not the hardware's: {', '.join( timeless )} at fl)" if timeless else ""
    return [ ( "cycles", f"{self.cycles:,}: {self.prefill_cycles:,} to the first token{each}; "
                         f"{100 * self.mac_utilization:.1f} % of the multipliers used{note}" ) ]

  def _time( self ) -> str:
    if self.cycles is not None:
      return f"{self.wall_seconds:.2f} s of simulation, {self.cycles / max( self.wall_seconds, 1e-9 ):,.0f} cycles/s"
    seconds = self.wall_seconds - self.first_token_seconds
    rate    = ( len( self.tokens ) - 1 ) / seconds if seconds > 0 else 0.0
    return f"{self.first_token_seconds:.2f} s to the first token, then {rate:.1f} tokens/s of simulation"

  def __str__( self ) -> str:
    width = max( len( name ) for name, _ in self.rows() )
    return "\n".join( f"{name:{width}}  {text}" for name, text in self.rows() )

  def _repr_html_( self ) -> str:
    npu = f"{self.config}, {self.precision}, {levels_text( self.levels )}"
    return html_table( [ ( "model", self.model ), ( "NPU", npu ), *self.rows(), ( "text", self.text ) ] )

def run_report( device: Device, text: str, stopped: bool = False ) -> RunReport:
  """The report of a device's last run, which produced `text`; `stopped` is whether a stop text ended it."""
  done, c = device.last, device.counters
  return RunReport(
    model=device.manifest["model"], precision=device.manifest["precision"], config=device.cfg.name,
    level=level_name( device.levels ), levels=None if device.levels is None else dict( device.levels ),
    prompt_tokens=len( done.prompt_tokens ), prompt_token_ids=list( done.prompt_tokens ),
    cached_tokens=done.cached_tokens, tokens=list( done.tokens ), text=text,
    status="stop" if stopped else done.status.name.lower(),
    **clock_fields( device.stats ),
    macs=c.macs, dram_bytes_read=c.dram_bytes_read.total(), dram_bytes_written=c.dram_bytes_written.total(),
    dram_bytes_read_by=dict( c.dram_bytes_read ), dram_bytes_written_by=dict( c.dram_bytes_written ),
    instructions=c.instructions, wall_seconds=round( done.wall_seconds, 3 ),
    first_token_seconds=round( done.first_token_seconds, 3 ) )

def clock_fields( s: "Stats | None" ) -> dict[str, Any]:
  """What only a clock can tell, of a RunReport."""
  names = ( "cycles", "prefill_cycles", "decode_cycles", "mac_utilization", "busy_cycles", "stall_cycles",
            "dispatch_wait_cycles" )
  if s is None:
    return dict.fromkeys( names )
  values = ( s.cycles, s.prefill_cycles, s.decode_cycles, round( s.mac_utilization, 6 ),
             { name: u.busy for name, u in s.units.items() },
             { name: dict( sorted( u.stalls.items() ) ) for name, u in s.units.items() }, dict( s.dispatch_waits ) )
  return dict( zip( names, values, strict=True ) )

def device_rows( device: Device ) -> list[tuple[str, str]]:
  """The model and the NPU of a device: (name, text)."""
  m, d = device.manifest, device.manifest["dimensions"]
  return [ ( "model", f"{m['model']}: {d['layers']} layers, hidden {d['hidden_size']}, {d['heads']} heads, "
                      f"{d['kv_heads']} KV heads, vocabulary {d['vocab_size']}" ),
           ( "NPU", f"{device.cfg.name} (n = {device.cfg.n}), {m['precision']}, {levels_text( device.levels )}" ) ]

def levels_text( levels: Mapping[str, str] | None ) -> str:
  """The level of all blocks, or that of most and the others."""
  most = most_common_level( levels )
  return ", ".join( [ f"level {most}",
                      *( f"{name} {level}" for name, level in ( levels or {} ).items() if level != most ) ] )

def html_table( rows: list[tuple[str, str]] ) -> str:
  """Rows (name, text) as a table for a notebook."""
  cells = "".join( f"<tr><th style='text-align:left'>{escape( name )}</th>"
                   f"<td style='text-align:left'>{escape( text )}</td></tr>" for name, text in rows )
  return f"<table>{cells}</table>"
