"""`npu.Session`: what it generates, how it ends early, what its report says, and how it shows in a notebook."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import npu
from npu.runtime.device import Device
from tests.helpers import ROOT, cli_environment, mk_chain, mk_checkpoint, run_cli

PROMPT = "In the"
LEVELS = ( pytest.param( "fl", id="fl" ), pytest.param( "cl", marks=pytest.mark.level( "cl" ), id="cl" ) )

@pytest.fixture( scope="module" )
def model( tmp_path_factory: pytest.TempPathFactory ) -> Path:
  """A random model, untied, since a tied one mostly repeats its last token."""
  return mk_checkpoint( tmp_path_factory.mktemp( "models" ) / "small", seed=3, tie_word_embeddings=False )

@pytest.fixture( scope="module" )
def image( model: Path ) -> Path:
  path = model.with_name( "small.npu" )
  npu.compile( model, path, config="edge4" )
  return path

def untimed( report: dict ) -> dict:
  return { k: v for k, v in report.items() if not k.endswith( "_seconds" ) }

@pytest.mark.parametrize( "at", LEVELS )
def test_the_report_is_the_json_of_the_command( model, image, at ):
  with npu.Session( model, image=image, level=at ) as session:
    text   = "".join( session.generate( PROMPT, 4, stop_at_eos=False ) )
    report = session.report()
  result = run_cli( "run", model, "--image", image, "--level", at, "--prompt", PROMPT, "--max-new-tokens", 4,
                    "--ignore-eos", "--json", "-" )
  told   = json.loads( result.out )
  assert json.loads( json.dumps( report.to_json() ) ).keys() == told.keys()
  assert untimed( json.loads( json.dumps( report.to_json() ) ) ) == untimed( told )
  assert text == report.text and len( report.tokens ) == 4

@pytest.mark.parametrize( "at", LEVELS )
def test_whoever_stops_ends_the_run( model, image, at ):
  with npu.Session( model, image=image, level=at ) as session:
    whole = list( session.generate_tokens( PROMPT, 6, stop_at_eos=False ) )
    first = session.report()
    run   = session.generate_tokens( PROMPT, 6, stop_at_eos=False )
    assert [ next( run ), next( run ) ] == whole[:2]
    run.close()
    report = session.report()
    assert ( report.tokens, report.status ) == ( whole[:2], "running" )
    assert 0 < report.macs < first.macs
    if at == "cl":
      assert report.cycles == first.prefill_cycles + first.decode_cycles[0]
    # What is left of it does not disturb the next run.
    assert list( session.generate_tokens( PROMPT, 6, stop_at_eos=False ) ) == whole
    assert untimed( session.report().to_json() ) == untimed( first.to_json() )

def test_pieces_are_whole_characters( tmp_path ):
  codec  = npu.TextCodec( "nano" )
  tokens = codec.encode( "a€b" )
  folder = mk_chain( tmp_path / "model", [ *codec.encode( ">" ), *tokens ] )
  with npu.Session( folder ) as session:
    assert list( session.generate( ">", len( tokens ) ) ) == [ "a", "€", "b" ]
    # And the beginning of one that never came to its end.
    assert list( session.generate( ">", 2 ) ) == [ "a", "\ufffd" ]

def test_tokens_are_a_prompt_too( model, image ):
  with npu.Session( model, image=image ) as session:
    tokens = session.encode( PROMPT )
    a = list( session.generate_tokens( PROMPT, 3 ) )
    b = list( session.generate_tokens( np.array( tokens ), 3 ) )
  assert a == b

def test_logits_are_those_of_every_position( model, image ):
  with npu.Session( model, image=image ) as session:
    logits = session.logits( PROMPT )
    first  = next( session.generate_tokens( PROMPT, 1 ) )
  assert logits.shape == ( len( npu.TextCodec( str( model ) ).encode( PROMPT ) ), 384 )
  assert int( logits[-1].argmax() ) == first

def test_an_image_of_an_embedded_model_knows_its_tokenizer( tmp_path ):
  with npu.Session( npu.compile( "nano", tmp_path / "n.npu" ) ) as session:
    assert len( "".join( session.generate( PROMPT, 4 ) ) ) > 0

def test_an_image_without_a_tokenizer_works_with_tokens( model, image ):
  with npu.Session( npu.load( image ) ) as session:
    assert len( list( session.generate_tokens( [ 5, 6 ], 2, stop_at_eos=False ) ) ) == 2
    assert session.report().text == ""
    with pytest.raises( npu.NpuError ) as e:
      session.generate( "text" )
    assert str( e.value ) == ( "the image of small comes without a tokenizer; give the session one "
                               "(tokenizer=FOLDER), or work with tokens" )
  with npu.Session( npu.load( image ), tokenizer=model ) as session:
    assert "".join( session.generate( "text", 2 ) )

@pytest.mark.parametrize( "arguments, message", (
  pytest.param( { "level": "gates" }, "unknown level 'gates'; choose one of fl, cl, rtl, verilog", id="level" ),
  pytest.param( { "levels": { "mac": "cl" } }, f"unknown block 'mac'; choose one of {', '.join( npu.BLOCKS )}",
                id="block" ),
  pytest.param( { "config": "huge" }, "unknown config 'huge'; choose one of edge4, edge8, edge16", id="config" ),
  pytest.param( { "config": "" }, "unknown config ''; choose one of edge4, edge8, edge16", id="no config" ),
  pytest.param( { "options": npu.SimOptions( max_cycles=5 ) }, "max_cycles needs a level with cycles, such as cl",
                id="no clock" ) ) )
def test_wrong_arguments_are_told( model, arguments, message ):
  with pytest.raises( npu.NpuError ) as e:
    npu.Session( model, **arguments )
  assert str( e.value ) == message

def test_two_images_are_one_too_many( image ):
  with pytest.raises( npu.NpuError ) as e:
    npu.Session( npu.load( image ), image=image )
  assert str( e.value ) == "the model is an image already; leave out image"

def test_sessions_and_reports_are_tables_in_a_notebook( model, image ):
  with npu.Session( model, image=image, level="cl" ) as session:
    list( session.generate( PROMPT, 2, stop_at_eos=False ) )
    report = session.report()
    shown  = session._repr_html_()
  assert shown.startswith( "<table>" ) and "small: 2 layers" in shown and "level cl" in shown
  assert report._repr_html_().count( "<tr>" ) == 7 and f"{report.cycles:,}" in report._repr_html_()
  # Text is the model's: it must not become markup.
  markup = npu.RunReport( **{ **report.to_json(), "text": "<script>" } )
  assert "<script>" not in markup._repr_html_() and "&lt;script&gt;" in markup._repr_html_()

def test_counts_begin_anew_with_each_run( model, image ):
  with npu.Session( model, image=image ) as session:
    reports = []
    for _ in range( 2 ):
      list( session.generate_tokens( PROMPT, 3, stop_at_eos=False ) )
      reports.append( session.report() )
  assert untimed( reports[0].to_json() ) == untimed( reports[1].to_json() )

def test_only_the_time_of_the_npu_counts( model, image ):
  with Device( npu.load( image ) ) as device:
    clock = iter( [ 0.0, 1.0, 10.0, 12.0, 20.0, 20.5 ] )
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr( "npu.runtime.device.time.perf_counter", lambda: next( clock ) )
      assert len( list( device.stream( [ 5 ], 2, stop_at_eos=False ) ) ) == 2
  assert ( device.last.first_token_seconds, device.last.wall_seconds ) == ( 1.0, 3.5 )

#-------------------------------------------------------------------------
# import npu
#-------------------------------------------------------------------------

def modules_after( code: str ) -> set[str]:
  """The modules that a process has imported after some code."""
  done = subprocess.run( [ sys.executable, "-c", f"{code}\nimport sys\nprint( '\\n'.join( sys.modules ) )" ],
                         env=cli_environment(), cwd=ROOT, capture_output=True, text=True, check=True )
  return set( done.stdout.split() )

@pytest.mark.parametrize( "code, absent", (
  pytest.param( "import npu", ( "numpy", "pymtl3", "rich", "typer", "npu.errors" ), id="import npu" ),
  pytest.param( "import npu.cli.main", ( "numpy", "pymtl3", "tokenizers", "safetensors", "fl", "cl", "rtl_models" ),
                id="the command line" ),
  pytest.param( "import npu\nlist( npu.Session( 'nano' ).generate( 'In', 1 ) )", ( "cl", "rtl_models", "torch" ),
                id="a functional session" ) ) )
def test_nothing_is_imported_before_it_is_needed( code, absent ):
  assert modules_after( code ) & set( absent ) == set()

def test_every_name_of_the_package_is_there():
  assert set( dir( npu ) ) >= { "Session", "compile", "load", "compare", "diff", "translate", "Npu", "__version__" }
  for name in dir( npu ):
    assert getattr( npu, name ) is not None
  with pytest.raises( AttributeError ):
    getattr( npu, "nothing" )      # noqa: B009

#-------------------------------------------------------------------------
# One run at a time
#-------------------------------------------------------------------------

ANOTHER = "another run has begun on this image; this one cannot go on"

@pytest.mark.parametrize( "at", LEVELS )
@pytest.mark.parametrize( "begin", (
  pytest.param( lambda s: s.generate_tokens( "In", 2 ), id="a run" ),
  pytest.param( lambda s: s.logits( "In" ), id="logits" ),
  pytest.param( lambda s: s.plan( "In", 2 ), id="a plan" ) ) )
def test_a_run_ends_when_another_begins( model, image, at, begin ):
  with npu.Session( model, image=image, level=at ) as session:
    whole = list( session.generate_tokens( PROMPT, 4, stop_at_eos=False ) )
    for taken in ( 0, 2 ):
      run = session.generate_tokens( PROMPT, 4, stop_at_eos=False )
      assert [ next( run ) for _ in range( taken ) ] == whole[:taken]
      begin( session )
      with pytest.raises( npu.NpuError ) as e:
        next( run )
      assert str( e.value ) == ANOTHER
    assert list( session.generate_tokens( PROMPT, 4, stop_at_eos=False ) ) == whole

@pytest.mark.parametrize( "at", LEVELS )
def test_what_another_run_left_does_not_count( model, image, at ):
  with npu.Session( model, image=image, level=at ) as session:
    whole = list( session.generate_tokens( "In", 2, stop_at_eos=False ) )
    clean = session.report()
    left  = session.generate_tokens( PROMPT, 6, stop_at_eos=False )
    assert [ next( left ), next( left ) ]
    assert list( session.generate_tokens( "In", 2, stop_at_eos=False ) ) == whole
    assert untimed( session.report().to_json() ) == untimed( clean.to_json() )

@pytest.mark.parametrize( "at", LEVELS )
def test_a_plan_in_the_middle_of_a_run_spoils_no_cache( model, image, at ):
  with npu.Session( model, image=image, level=at ) as session:
    whole = list( session.generate_tokens( "quite another one", 2, stop_at_eos=False ) )
    left  = session.generate_tokens( PROMPT, 6, stop_at_eos=False )
    assert [ next( left ), next( left ), next( left ) ]
    session.plan( "quite another one", 2 )
    assert list( session.generate_tokens( "quite another one", 2, stop_at_eos=False, reuse_cache=True ) ) == whole
    assert session.report().cached_tokens == 0       # the cache held the other run's

def test_sessions_on_one_image_do_not_mix( image ):
  one = npu.load( image )
  with npu.Session( one ) as a, npu.Session( one ) as b:
    run   = a.generate_tokens( [ 5, 6 ], 4, stop_at_eos=False )
    first = next( run )
    again = list( b.generate_tokens( [ 5, 6 ], 4, stop_at_eos=False ) )
    assert again[0] == first
    with pytest.raises( npu.NpuError ) as e:
      next( run )
    assert str( e.value ) == ANOTHER

class Interrupt( Exception ):
  pass

@pytest.mark.level( "cl" )
@pytest.mark.parametrize( "what", ( KeyboardInterrupt, Interrupt ) )
def test_what_breaks_off_a_run_leaves_nothing_for_the_next( model, image, what ):
  def breaks( cycle: int, pc: int ) -> None:
    if cycle >= 3000:
      raise what
  with npu.Session( model, image=image, level="cl" ) as session:
    whole = list( session.generate_tokens( PROMPT, 2, stop_at_eos=False ) )
    clean = session.report()
    with pytest.raises( what ):
      list( session.generate_tokens( "quite another prompt", 30, stop_at_eos=False, on_progress=breaks ) )
    assert session.report().cycles == 3072      # looked at every 256 cycles
    assert list( session.generate_tokens( PROMPT, 2, stop_at_eos=False ) ) == whole
    assert untimed( session.report().to_json() ) == untimed( clean.to_json() )

@pytest.mark.level( "cl" )
def test_a_run_past_its_cycles_leaves_nothing_for_the_next( model, image ):
  with npu.Session( model, image=image, level="cl", options=npu.SimOptions( max_cycles=12_000 ) ) as session:
    whole = list( session.generate_tokens( [ 5 ], 1, stop_at_eos=False ) )
    with pytest.raises( npu.SimulationError ):
      list( session.generate_tokens( PROMPT, 30, stop_at_eos=False ) )
    assert session.report().cycles == 12_000
    assert list( session.generate_tokens( [ 5 ], 1, stop_at_eos=False ) ) == whole

@pytest.mark.parametrize( "most, levels", (
  pytest.param( "fl", None, id="fl" ),
  pytest.param( "cl", None, id="cl", marks=pytest.mark.level( "cl" ) ),
  pytest.param( "cl", { "memory_hub": "verilog" }, id="verilog", marks=pytest.mark.level( "verilog" ) ) ) )
def test_a_closed_session_says_so( model, image, most, levels ):
  session = npu.Session( model, image=image, level=most, levels=levels )
  run = session.generate_tokens( PROMPT, 4, stop_at_eos=False )
  next( run )
  session.close()
  session.close()
  for use in ( lambda: next( run ), lambda: session.generate( PROMPT ), lambda: session.logits( PROMPT ),
               lambda: session.plan( PROMPT ) ):
    with pytest.raises( npu.NpuError ) as e:
      use()
    assert str( e.value ) == "the session is closed"

@pytest.mark.level( "cl" )
def test_a_run_cannot_begin_inside_another( model, image ):
  said = []
  def nested( cycle: int, pc: int ) -> None:
    with pytest.raises( npu.NpuError ) as e:
      session.generate( PROMPT )
    said.append( str( e.value ) )
  with npu.Session( model, image=image, level="cl" ) as session:
    assert len( list( session.generate_tokens( PROMPT, 1, stop_at_eos=False, on_progress=nested ) ) ) == 1
  assert set( said ) == { "a run is at work on this image; no other can begin" }

def test_logits_do_not_count_for_the_report( model, image ):
  with npu.Session( model, image=image ) as session:
    assert session.report().status == "idle"
    list( session.generate_tokens( PROMPT, 2, stop_at_eos=False ) )
    before = session.report()
    session.logits( PROMPT )
    assert session.report() == before
  assert "2 out" in str( before ) and "small" in repr( session )

@pytest.mark.level( "cl" )
def test_a_place_for_waves_is_looked_at_first( model, image, tmp_path ):
  with pytest.raises( npu.NpuError ) as e:
    npu.Session( model, image=image, level="cl", options=npu.SimOptions( vcd=tmp_path / "no" / "w.vcd" ) )
  assert str( e.value ) == f"cannot write {tmp_path / 'no' / 'w.vcd'}: no such folder"
