"""`npu run` at the levels that have cycles: the same tokens and logits, what the cycles are, options and errors.

The model is a small random one on edge4, so that a run is some thousand cycles.
"""

import io
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from rich.console import Console

from npu.arch.config import get_config
from npu.arch.isa import Status
from npu.arch.mailbox import Flag, Word
from npu.compiler.build import compile_model
from npu.compiler.image import load_image
from npu.errors import NpuError
from npu.machine.levels import BLOCKS, level_name, parse_levels
from npu.runtime.device import Device, SimOptions
from npu.runtime.plan import Plan, instructions_of, steps
from npu.runtime.progress import Pace, ProgressLine, duration
from npu.runtime.sampling import Sampling
from npu.runtime.text import TextCodec
from npu.tools import bench
from tests.helpers import CliResult, cli_command, cli_environment, cli_error, files, mk_checkpoint, run_cli

PROMPT = "abc"        # three tokens of three rows

@pytest.fixture( scope="module" )
def model( tmp_path_factory: pytest.TempPathFactory ) -> Path:
  """A random model, untied, since a tied one mostly repeats its last token."""
  return mk_checkpoint( tmp_path_factory.mktemp( "models" ) / "small", seed=3, tie_word_embeddings=False )

@pytest.fixture( scope="module" )
def image( model: Path ) -> Path:
  """The image of `model` for edge4, at most two rows a pass: the prompt takes two passes."""
  path = model.with_name( "small.npu" )
  compile_model( str( model ), path, get_config( "edge4" ), "w8a16", None, 2 )
  return path

@pytest.fixture( scope="module" )
def functional( image: Path ) -> dict[str, Any]:
  """What the functional level says of PROMPT and three tokens."""
  return report( "--image", image, model=image.with_suffix( "" ) )

def report( *args: object, model: Path, tokens: int = 3 ) -> dict[str, Any]:
  """The JSON of `npu run`, which must be all that is printed."""
  result = run_cli( "run", model, "--prompt", PROMPT, "--max-new-tokens", tokens, "--ignore-eos", *args, "--json", "-" )
  assert ( result.code, result.err ) == ( 0, "" ), result.err
  found = json.loads( result.out )
  assert isinstance( found, dict )
  return found

# All components of one level, and mixes; PyMTL3 in Python takes a minute or two for the whole NPU.
LEVELS = (
  pytest.param( "cl", [ "--level", "cl" ], id="cl" ),
  pytest.param( "fl", [ "--levels", ",".join( f"{name}=fl" for name in BLOCKS ) ], id="functional components" ),
  pytest.param( "verilog", [ "--level", "verilog" ], id="verilog" ),
  pytest.param( "rtl", [ "--level", "rtl" ], id="rtl", marks=pytest.mark.nightly ),
  pytest.param( "rtl", [ "--levels", "memory_hub=rtl" ], id="rtl hub" ) )

#-------------------------------------------------------------------------
# Results
#-------------------------------------------------------------------------

@pytest.mark.parametrize( "level, args", LEVELS )
def test_a_run_at_every_level( model, image, functional, level, args ):
  found = report( "--image", image, *args, model=model )
  for key in ( "model", "precision", "config", "prompt_token_ids", "tokens", "text", "status", "instructions", "macs" ):
    assert found[key] == functional[key], key
  assert set( found ) == set( functional )
  assert found["level"] == ( "mixed" if args == [ "--levels", "memory_hub=rtl" ] else level )
  assert set( found["levels"] ) == set( BLOCKS )
  # Time: the prompt and then every token, one after the other; the end comes after the last token.
  for count in ( found["cycles"], found["prefill_cycles"], *found["decode_cycles"] ):
    assert type( count ) is int and count > 0
  assert len( found["decode_cycles"] ) == len( found["tokens"] ) - 1
  total = found["prefill_cycles"] + sum( found["decode_cycles"] )
  assert total <= found["cycles"] < total + 200
  # The array's part of the multiply-accumulates, so not more than all of them.
  assert 0 < found["mac_utilization"] <= functional["macs"] / ( 16 * found["cycles"] ) + 1e-6
  units = { "mac_array", "vector_unit", "attention_engine", "load", "store", "controller" }
  assert set( found["busy_cycles"] ) == set( found["stall_cycles"] ) == units
  for name, busy in found["busy_cycles"].items():
    assert 0 <= sum( found["stall_cycles"][name].values() ) <= busy <= found["cycles"]
  assert set( found["dispatch_wait_cycles"] ) == { "MAC", "VEC", "ATT", "LOAD", "STORE" }
  for key in ( "dram_bytes_read", "dram_bytes_written" ):
    assert sum( found[f"{key}_by"].values() ) == found[key] > 0
  # The same data at every level; instructions are prefetched and reports written only where there is a clock.
  if "fl" not in found["levels"].values():
    for key, clients in ( ( "dram_bytes_read_by", ( "load", "kv", "weights" ) ),
                          ( "dram_bytes_written_by", ( "store", "kv_wr" ) ) ):
      assert { c: found[key][c] for c in clients } == { c: functional[key][c] for c in clients }
  assert found["dram_bytes_read_by"]["fetch"] > functional["dram_bytes_read_by"]["fetch"] > 0

@pytest.mark.level( "cl" )
@pytest.mark.parametrize( "levels", ( "mac_array=cl", "vector_unit=fl", "attention_engine=fl" ) )
def test_cycles_are_the_same_in_every_process( model, image, levels ):
  """PyMTL3 orders the blocks of a clock edge by their hash."""
  command = cli_command( "run", model, "--image", image, "--prompt", "abc", "--max-new-tokens", 1, "--levels", levels,
                         "--json", "-" )
  found = [ json.loads( subprocess.run( command, env=cli_environment( PYTHONHASHSEED=seed ), capture_output=True,
                                        check=True ).stdout ) for seed in ( "1", "2", "3" ) ]
  assert len( { str( { key: value for key, value in report.items() if "cycles" in key } ) for report in found } ) == 1

def scores( image: Path, levels: str ) -> np.ndarray:
  """Logits of every position of PROMPT, as bits."""
  with Device( load_image( image ), levels ) as session:
    tokens = TextCodec( "nano" ).encode( PROMPT )
    return np.concatenate( [ rows.copy() for rows in session.score( tokens ) ] ).view( np.uint32 )

@pytest.mark.parametrize( "level", ( "cl", "verilog", pytest.param( "rtl", marks=pytest.mark.nightly ) ) )
def test_logits_are_the_same_at_every_level( image, level ):
  expected = scores( image, "fl" )
  assert expected.any( axis=1 ).all()
  np.testing.assert_array_equal( scores( image, level ), expected )

@pytest.mark.level( "cl" )
def test_logits_of_a_run_are_the_same( image ):
  # LOGITS stores those of the last position only, with each token.
  found = []
  for levels in ( "fl", "cl" ):
    with Device( load_image( image ), levels ) as session:
      session.load_prompt( TextCodec( "nano" ).encode( PROMPT ) )
      session.ring( 2, Flag.LOGITS )
      found.append( session._logits.view( np.uint32 ).copy() )
  assert found[0].any()
  np.testing.assert_array_equal( *found )

@pytest.mark.level( "cl" )
def test_sampling_is_the_same_and_its_cycles_add_up( model, image ):
  args  = [ "--image", image, "--temperature", "1", "--seed", "5" ]
  fl    = report( *args, model=model, tokens=4 )
  found = report( *args, "--level", "cl", model=model, tokens=4 )
  assert ( found["tokens"], found["status"] ) == ( fl["tokens"], fl["status"] )
  # A doorbell for every token: what comes after a token belongs to the next one.
  assert ( found["instructions"], len( found["decode_cycles"] ) ) == ( fl["instructions"], 3 )
  total = found["prefill_cycles"] + sum( found["decode_cycles"] )
  assert total <= found["cycles"] < total + 200

@pytest.mark.level( "cl" )
def test_a_session_goes_on_with_another_prompt( image ):
  with Device( load_image( image ), "cl" ) as session:
    first  = session.generate( [ 5, 6, 7 ], 2, stop_at_eos=False )
    cycles = session.stats.cycles
    other  = session.generate( [ 9 ], 3, stop_at_eos=False )
    again  = session.generate( [ 5, 6, 7 ], 2, stop_at_eos=False )
    assert first.tokens == again.tokens
    assert len( session.stats.token_cycles ) == 7 and session.stats.token_cycles == sorted( session.stats.token_cycles )
    assert session.stats.cycles > 2 * cycles
  fl = Device( load_image( image ) )
  assert [ other.tokens, again.tokens ] == [ fl.generate( p, t, stop_at_eos=False ).tokens
                                             for p, t in ( ( [ 9 ], 3 ), ( [ 5, 6, 7 ], 2 ) ) ]

@pytest.mark.level( "cl" )
@pytest.mark.parametrize( "args, slower", (
  pytest.param( [ "--dram-latency", "200" ], True, id="latency" ),
  pytest.param( [ "--dram-bandwidth", "0.25" ], True, id="bandwidth" ),
  pytest.param( [ "--stall-seed", "3" ], True, id="stalls" ),
  pytest.param( [ "--dram-latency", "1" ], False, id="short latency" ) ) )
def test_timing_changes_cycles_alone( model, image, functional, args, slower ):
  usual = report( "--image", image, "--level", "cl", model=model )
  found = report( "--image", image, "--level", "cl", *args, model=model )
  assert found["tokens"] == functional["tokens"]
  assert found["dram_bytes_read_by"]["weights"] == usual["dram_bytes_read_by"]["weights"]
  assert found["cycles"] > usual["cycles"] if slower else found["cycles"] < usual["cycles"]

@pytest.mark.level( "cl" )
def test_a_run_takes_the_same_cycles_again( model, image ):
  one, two = ( report( "--image", image, "--level", "cl", "--stall-seed", "7", model=model ) for _ in range( 2 ) )
  assert { k: v for k, v in one.items() if not k.endswith( "_seconds" ) } == {
           k: v for k, v in two.items() if not k.endswith( "_seconds" ) }

@pytest.mark.level( "cl" )
def test_the_summary_tells_cycles( model, image ):
  result = run_cli( "run", model, "--image", image, "--prompt", PROMPT, "--max-new-tokens", 2, "--ignore-eos",
                    "--levels", "vector_unit=fl" )
  assert result.code == 0
  text = " ".join( result.err.split() )
  assert "edge4 (n = 4), w8a16, level cl, vector_unit fl" in text
  assert re.search( r"cycles [\d,]+: [\d,]+ to the first token, then [\d,]+ a token; [\d.]+ % of the multipliers used",
                    text )
  assert re.search( r"time [\d.]+ s of simulation, [\d,]+ cycles/s", text )

#-------------------------------------------------------------------------
# Limits
#-------------------------------------------------------------------------

def limited( model: Path, image: Path, *args: object ) -> CliResult:
  """A run at cl that does not come to its end."""
  result = run_cli( "run", model, "--image", image, "--prompt", PROMPT, "--level", "cl", *args )
  assert result.code == 1
  assert "Traceback" not in result.err
  return result

@pytest.mark.level( "cl" )
def test_too_many_cycles_end_with_a_report( model, image ):
  result = limited( model, image, "--max-cycles", 1500 )
  first, *rest = result.err.splitlines()
  assert first.startswith( "error: the run has not ended after 1500 cycles: instruction " )
  assert rest and all( line.startswith( "  " ) for line in rest ), result.err
  assert result.out.startswith( PROMPT ) and result.out.endswith( "\n" )

@pytest.mark.level( "cl" )
def test_the_limit_is_that_of_all_doorbells( model, image ):
  once = report( "--image", image, "--level", "cl", "--temperature", "1", model=model, tokens=1 )["cycles"]
  args = [ "--temperature", "1", "--ignore-eos", "--max-new-tokens", 9 ]
  assert "has not ended after" in limited( model, image, *args, "--max-cycles", once + 1000 ).err
  # Nothing is left for the second one.
  assert "has not ended after 1 cycles" in limited( model, image, *args, "--max-cycles", once + 1 ).err

@pytest.mark.level( "cl" )
def test_silence_ends_with_a_report( model, image ):
  # Memory is silent for longer than that.
  result = limited( model, image, "--dram-latency", 900, "--hang-cycles", 300 )
  first, *rest = result.err.splitlines()
  assert re.fullmatch( r"error: nothing has moved for 300 cycles, in cycle \d+: instruction \d+ waits for .*", first )
  assert any( "beats due" in line for line in rest )

@pytest.mark.level( "cl" )
def test_a_limit_leaves_no_json( model, image, tmp_path ):
  limited( model, image, "--max-cycles", 100, "--json", tmp_path / "r.json" )
  assert files( tmp_path ) == set()

#-------------------------------------------------------------------------
# What is written of every cycle
#-------------------------------------------------------------------------

@pytest.mark.level( "cl" )
def test_line_trace( model, image ):
  result = limited( model, image, "--line-trace", "--max-cycles", 50 )
  lines  = [ line for line in result.err.splitlines() if re.match( r" *\d+: \[", line ) ]
  assert [ int( line.partition( ":" )[0] ) for line in lines ] == list( range( 50 ) )
  assert result.out == PROMPT + "\n"

@pytest.mark.parametrize( "level, args, names", (
  pytest.param( "cl", [], { "w.vcd" }, id="cl" ),
  pytest.param( "verilog", [ "--levels", "memory_hub=verilog" ], { "w.vcd", "w.npu.memory.memory_hub.vcd" },
                id="verilog" ) ) )
def test_waveforms( model, image, tmp_path, level, args, names ):
  limited( model, image, "--vcd", tmp_path / "w.vcd", "--max-cycles", 60, *args )
  assert files( tmp_path ) == names
  for name in names:
    text = ( tmp_path / name ).read_text()
    assert "$enddefinitions" in text and "clk" in text
    assert len( re.findall( r"^#\d+$", text, re.MULTILINE ) ) >= 60

@pytest.mark.level( "cl" )
def test_progress_where_there_is_no_terminal( model, image ):
  args   = [ "run", model, "--image", image, "--prompt", PROMPT, "--max-new-tokens", 1, "--level", "cl" ]
  result = run_cli( *args, "--progress" )
  assert result.code == 0
  assert re.match( r"instruction \d+ \([\d,]+ of at most [\d,]+\), cycle 256, [\d,]+ cycles/s", result.err )
  assert "instruction" not in run_cli( *args ).err.partition( "NPU" )[0]

#-------------------------------------------------------------------------
# Progress
#-------------------------------------------------------------------------

def planned( image: Path, prompt: list[int], limit: int, flags: int = 0 ) -> tuple[Device, Plan]:
  """A functional session at the doorbell, and its plan."""
  session = Device( load_image( image ) )
  session.load_prompt( prompt )
  return session, session.plan( limit, flags )

@pytest.mark.parametrize( "flags", ( 0, Flag.LOGITS ) )
@pytest.mark.parametrize( "prompt, limit", (
  pytest.param( [ 5 ], 1, id="one token" ),
  pytest.param( [ 5, 6, 7, 8, 9 ], 4, id="three passes" ),
  pytest.param( [ 5 ] * 64, 9, id="to the end of the context" ) ) )
def test_a_plan_is_what_is_executed( image, prompt, limit, flags ):
  session, plan = planned( image, prompt, limit, flags )
  before = session.dram.copy()
  pcs    = [ pc for pc, _, _ in steps( before, before ) ]
  found  = []
  fetch  = session.npu.fetch
  session.npu.fetch = lambda: found.append( session.npu.r.pc ) or fetch()
  result = session.ring( limit, flags )
  assert found == pcs and plan.total == len( pcs )
  assert instructions_of( before, before, result.count ) == len( pcs ) == session.counters.instructions

def test_a_plan_ends_with_the_tokens_that_came( image ):
  session, plan = planned( image, [ 5, 6 ], 8 )
  before = session.dram.copy()
  eos    = session.generate( [ 5, 6 ], 8, stop_at_eos=False ).tokens[2]
  session = Device( load_image( image ) )
  session.load_prompt( [ 5, 6 ] )
  result = session.ring( 8, eos=( eos, ) )
  assert result.status == Status.EOS
  assert instructions_of( before, before, result.count ) == session.counters.instructions < plan.total

def test_a_plan_of_a_broken_mailbox_is_empty( image ):
  session, _ = planned( image, [ 5 ], 1 )
  session.npu.mailbox[Word.LIMIT] = 0
  assert list( steps( session.dram, session.dram ) ) == []

@pytest.mark.level( "cl" )
def test_the_share_grows_from_nothing_to_nearly_all( image ):
  shares = []
  with Device( load_image( image ), "cl" ) as session:
    session.load_prompt( [ 5, 6, 7 ] )
    plan = session.plan( 3 )

    def told( cycle: int, pc: int ) -> None:
      plan.move( pc )
      shares.append( ( cycle, plan.share ) )

    session.generate( [ 5, 6, 7 ], 3, stop_at_eos=False, on_progress=told )
    total = session.stats.cycles
  assert [ s for _, s in shares ] == sorted( s for _, s in shares )
  # An honest estimate: the share of the work is about the share of the cycles.
  for cycle, share in shares:
    assert abs( share - cycle / total ) < 0.15, ( cycle, total, share )

def test_pace_says_how_long( image ):
  session, plan = planned( image, [ 5, 6, 7 ], 3 )
  now    = 0.0
  pace   = Pace( plan, lambda: now )
  assert "left" not in pace.text( 0, 0 )
  now    = 30.0
  middle = plan.total // 2
  pcs    = [ pc for pc, _, _ in steps( session.dram, session.dram ) ]
  for pc in pcs[:middle + 1]:
    plan.move( pc )
  found  = re.fullmatch( rf"instruction {pcs[middle]} \({middle} of at most {plan.total}\), cycle 3,000, 100 cycles/s, "
                         r"at most about (\d+) s left", pace.text( 3000, pcs[middle] ) )
  assert found and abs( int( found[1] ) - 30 * ( 1 / plan.share - 1 ) ) < 1

@pytest.mark.parametrize( "seconds, text", ( ( 0.4, "0 s" ), ( 99, "99 s" ), ( 100, "2 min" ), ( 3600, "60 min" ),
                                             ( 6000, "1.7 h" ), ( 90000, "25.0 h" ) ) )
def test_durations( seconds, text ):
  assert duration( seconds ) == text

def test_the_line_on_a_terminal_is_gone_at_the_end( image ):
  out     = io.StringIO()
  console = Console( file=out, force_terminal=True, width=60, height=20 )
  _, plan = planned( image, [ 5 ], 2 )
  with ProgressLine( console, Pace( plan ), "the text" ) as line:
    line( 256, 3 )
    line.add_text( " goes on" )
  text = out.getvalue()
  assert "the text goes on" in text and "instruction 3" in text and "cycle 256" in text
  assert text.rstrip().endswith( ( "\x1b[2K", "\x1b[?25h", "\x1b[1A\x1b[2K" ) ), repr( text[-60:] )

#-------------------------------------------------------------------------
# Benchmark
#-------------------------------------------------------------------------

@pytest.mark.level( "cl" )
@pytest.mark.parametrize( "limit", ( pytest.param( 600, id="some cycles" ), pytest.param( None, id="whole run" ) ) )
def test_speed_is_measured( tmp_path, limit ):
  found = bench.simulate( bench.Simulation( "cl", "edge4", "nano", 1, limit ), tmp_path )
  assert 600 <= found.cycles < 1000 if limit else found.cycles > 10000
  assert found.seconds > 0 and found.build_seconds > 0

@pytest.mark.level( "cl" )
def test_figures_are_markdown( monkeypatch, tmp_path, capsys ):
  monkeypatch.setattr( bench, "SIMULATIONS", ( bench.Simulation( "cl", "edge4", "nano", 1, 300 ),
                                               bench.Simulation( "rtl", "edge4", "nano", 1 ) ) )
  bench.main( levels="cl" )
  first, empty, head, line, row = capsys.readouterr().out.splitlines()
  assert first.startswith( "machine: " ) and first.endswith( " cores" ) and empty == ""
  assert head == "| whole NPU | model | cycles | simulation | build |" and line == "|---|---|---|---|---|"
  assert re.fullmatch( r"\| CL, n = 4 \| nano \| the first 512 \| [\d,]+ cycles/s \| \d+ s \|", row )

def test_an_unknown_level_is_told_by_the_benchmark():
  with pytest.raises( typer.BadParameter ) as e:
    bench.main( levels="cl,gates" )
  assert "unknown level 'gates'; choose one of fl, cl, rtl, verilog" in str( e.value )

#-------------------------------------------------------------------------
# Levels
#-------------------------------------------------------------------------

ALL = "choose one of fl, cl, rtl, verilog"

@pytest.mark.parametrize( "text, expected", (
  pytest.param( "fl", None, id="functional" ),
  pytest.param( "rtl", dict.fromkeys( BLOCKS, "rtl" ), id="all" ),
  pytest.param( "mac_array=rtl", { **dict.fromkeys( BLOCKS, "cl" ), "mac_array": "rtl" }, id="one" ),
  pytest.param( "mac_array=rtl,memory_hub=verilog",
                { **dict.fromkeys( BLOCKS, "cl" ), "mac_array": "rtl", "memory_hub": "verilog" }, id="two" ),
  pytest.param( "rtl,controller=cl", { **dict.fromkeys( BLOCKS, "rtl" ), "controller": "cl" }, id="all but one" ),
  pytest.param( "fl,controller=fl", dict.fromkeys( BLOCKS, "fl" ), id="functional components" ) ) )
def test_levels_are_read( text, expected ):
  assert parse_levels( text ) == expected

@pytest.mark.parametrize( "levels, name", ( ( None, "fl" ), ( dict.fromkeys( BLOCKS, "rtl" ), "rtl" ),
                                            ( { "mac_array": "rtl", "controller": "cl" }, "mixed" ) ) )
def test_levels_have_a_name( levels, name ):
  assert level_name( levels ) == name

SYNTAX = "write BLOCK=LEVEL with commas in between, as in mac_array=rtl,vector_unit=cl"
KNOWN  = "choose one of mac_array, vector_unit, attention_engine, controller, memory_hub"

@pytest.mark.parametrize( "args, message", (
  pytest.param( [ "--level", "gates" ], f"unknown level 'gates'; {ALL}", id="level" ),
  pytest.param( [ "--level", "" ], f"unknown level ''; {ALL}", id="empty level" ),
  pytest.param( [ "--level", "RTL" ], f"unknown level 'RTL'; {ALL}", id="capitals" ),
  pytest.param( [ "--level", "mac_array=rtl" ], f"unknown level 'mac_array=rtl'; {ALL}", id="block in --level" ),
  pytest.param( [ "--levels", "mac_array=gates" ], f"unknown level 'gates'; {ALL}", id="level of a block" ),
  pytest.param( [ "--levels", "mac_array=" ], f"unknown level ''; {ALL}", id="no level of a block" ),
  pytest.param( [ "--levels", "array=rtl" ], f"unknown block 'array'; {KNOWN}", id="block" ),
  pytest.param( [ "--levels", "=rtl" ], f"unknown block ''; {KNOWN}", id="no block" ),
  pytest.param( [ "--levels", "rtl" ], f"--levels has 'rtl'; {SYNTAX}", id="level in --levels" ),
  pytest.param( [ "--levels", "" ], f"--levels has ''; {SYNTAX}", id="empty levels" ),
  pytest.param( [ "--levels", "mac_array=rtl," ], f"--levels has ''; {SYNTAX}", id="comma at the end" ),
  pytest.param( [ "--levels", "mac_array=rtl;vector_unit=cl" ], f"unknown level 'rtl;vector_unit=cl'; {ALL}",
                id="semicolon" ),
  pytest.param( [ "--levels", "mac_array=rtl,mac_array=cl" ], "--levels names mac_array twice", id="twice" ),
  pytest.param( [ "--level", "gates", "--levels", "mac_array=rtl" ], f"unknown level 'gates'; {ALL}", id="both" ) ) )
def test_wrong_levels_are_told( model, args, message ):
  assert cli_error( "run", model, *args ) == message

@pytest.mark.parametrize( "args", (
  [ "--progress" ], [ "--line-trace" ], [ "--vcd", "x.vcd" ], [ "--max-cycles", "10" ], [ "--hang-cycles", "10" ],
  [ "--dram-latency", "10" ], [ "--dram-bandwidth", "0.5" ], [ "--stall-seed", "1" ], [ "--stall-seed", "0" ] ),
  ids=lambda args: args[0] )
@pytest.mark.parametrize( "functional", ( [], [ "--level", "fl" ] ), ids=( "by default", "asked for" ) )
def test_what_needs_a_clock_is_refused_without( model, args, functional ):
  assert ( cli_error( "run", model, *functional, *args )
           == f"{args[0]} needs a level with cycles, such as cl" )

@pytest.mark.parametrize( "args, message", (
  pytest.param( [ "--dram-latency", "0" ], "--dram-latency is 0; choose 1 or more", id="latency" ),
  pytest.param( [ "--dram-latency", "1001" ], "--dram-latency is 1001; choose 1 to 1000 cycles", id="long latency" ),
  *( pytest.param( [ "--dram-bandwidth", value ], f"--dram-bandwidth is {value}; choose 0.01 to 1 beats per cycle",
                   id=f"bandwidth {value}" ) for value in ( "0.0", "1.5", "nan", "-1.0" ) ),
  pytest.param( [ "--stall-seed", "-1" ], "--stall-seed is -1; choose 0 or more", id="seed" ),
  pytest.param( [ "--max-cycles", "0" ], "--max-cycles is 0; choose 1 or more", id="no cycles" ),
  pytest.param( [ "--hang-cycles", "-5" ], "--hang-cycles is -5; choose 1 or more", id="hang" ),
  pytest.param( [ "--vcd", "no/such/w.vcd" ], "cannot write no/such/w.vcd: no such folder", id="waveform" ),
  pytest.param( [ "--vcd", "" ], "cannot write .: it is a folder", id="waveform without a name" ) ) )
def test_wrong_numbers_are_told( model, args, message ):
  assert cli_error( "run", model, "--level", "cl", *args ) == message

def test_a_prompt_is_refused_before_a_machine_is_built( model, monkeypatch ):
  monkeypatch.setattr( "npu.runtime.device.mk_machine", None )
  assert cli_error( "run", model, "--level", "verilog", "--config", "edge4", "--prompt", "x" * 65 ) == (
    "the prompt has 65 tokens; this image's context is 64" )

def test_options_of_a_simulation_are_checked():
  with pytest.raises( NpuError ):
    SimOptions( dram_latency=-1 )
  assert Sampling() and SimOptions().vcd is None

@pytest.mark.parametrize( "command", ( "run", "diff" ) )
def test_help_names_the_levels( command, monkeypatch ):
  monkeypatch.setenv( "COLUMNS", "200" )
  text = run_cli( command, "--help" ).out
  for word in ( "cl", "rtl", "verilog", "BLOCK=LEVEL", "--max-cycles", "--hang-cycles", "--dram-latency" ):
    assert word in text
