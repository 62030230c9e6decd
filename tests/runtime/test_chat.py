"""Conversations: templates as transformers renders them, and turns that go on from the KV cache, bit for bit."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import npu
from npu.arch.mailbox import Word
from npu.compiler.model import ChatTemplate
from npu.errors import NpuError
from npu.runtime import chat, render
from npu.runtime.chat import Conversation, chat_tokens, end_tokens, render_chats, user
from npu.runtime.device import Device
from npu.runtime.sampling import Sampling
from npu.runtime.text import TextCodec
from tests.helpers import CHATML, mk_chain, mk_checkpoint

LEVELS = ( pytest.param( "fl", id="fl" ), pytest.param( "cl", marks=pytest.mark.level( "cl" ), id="cl" ) )

#-------------------------------------------------------------------------
# Templates
#-------------------------------------------------------------------------

CHATS = ( [ user( "Hi!" ) ],
          [ { "role": "system", "content": "Be brief.\n" }, user( "  <b>é\n" ), { "role": "assistant", "content": "A" },
            user( "" ) ] )

@pytest.mark.filterwarnings( "default" )     # transformers' own are not our errors
@pytest.mark.parametrize( "source", (
  pytest.param( CHATML, id="ChatML" ),
  pytest.param( "{{ bos_token }}{% for m in messages %}\n  {% if m.role == 'user' %}\n[{{ m.content | trim }}]"
                "\n  {% endif %}\n{% endfor %}", id="blocks, and a special token" ),
  pytest.param( "{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}{{ m | tojson }}{% endfor %}",
                id="loop controls and JSON" ),
  pytest.param( "{{ messages | tojson( indent=2, sort_keys=true ) }}{{ tools }}{{ documents }}", id="JSON, indented" ),
  pytest.param( "{% set ns = namespace( n=0 ) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}"
                "{{ dict( a=1 ).a }}{{ strftime_now( '%Y' ) }}{{ missing }}", id="functions" ),
  pytest.param( "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
                id="generation" ) ) )
def test_a_template_is_rendered_as_transformers_does( tmp_path, source ):
  from transformers import AutoTokenizer
  folder    = mk_checkpoint( tmp_path / "model", template=source )
  config    = json.loads( ( folder / "tokenizer_config.json" ).read_text() )
  ( folder / "tokenizer_config.json" ).write_text( json.dumps( { **config, "bos_token": "<|im_start|>" } ) )
  reference = AutoTokenizer.from_pretrained( folder, local_files_only=True )
  codec     = TextCodec( folder )
  template  = chat.chat_template( codec )
  for answer in ( True, False ):
    assert render_chats( template, CHATS, answer ) == [
      reference.apply_chat_template( c, tokenize=False, add_generation_prompt=answer ) for c in CHATS ]
  assert chat_tokens( codec, template, CHATS[1] ) == reference.apply_chat_template(
    CHATS[1], add_generation_prompt=True, return_dict=False )

CANNOT = "the chat template cannot be rendered: "

@pytest.mark.parametrize( "source, message", (
  pytest.param( "{% for m in messages %}", CANNOT + "line 1: Unexpected end of template.", id="syntax" ),
  pytest.param( "{{ raise_exception( 'roles must alternate' ) }}", CANNOT + "roles must alternate", id="refusal" ),
  pytest.param( "{{ messages[7].content.x }}", CANNOT + "list object has no element 7", id="undefined" ),
  pytest.param( "{{ 1 / 0 }}", CANNOT + "division by zero", id="Python" ),
  pytest.param( "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", CANNOT + "maximum recursion depth", id="recursion" ),
  pytest.param( "{{ messages.__class__.__mro__ }}", CANNOT + "access to attribute '__class__'", id="sandbox" ),
  pytest.param( "{% set n = namespace( __x=1 ) %}", CANNOT + "a namespace cannot have '__x'", id="namespace" ),
  pytest.param( "{{ 'x' * 10 ** 10 }}", CANNOT + "it takes more than 1,024 MiB of memory", id="memory" ),
  pytest.param( "{% for i in range( 9999 ) %}{{ 'x' * 9999 }}{% endfor %}",
                CANNOT + "its text is longer than 16,777,216 characters", id="length" ),
  pytest.param( "{% for i in range( 99999 ) %}{% for j in range( 99999 ) %}{% endfor %}{% endfor %}",
                f"the chat template does not end: stopped after {render.SECONDS} s of processor time", id="time" ) ) )
def test_a_template_that_fails_is_told_in_one_line( source, message ):
  with pytest.raises( NpuError ) as e:
    render_chats( ChatTemplate( source ), [ [ user( "x" ) ] ] )
  assert str( e.value ).startswith( message ) and "\n" not in str( e.value )

@pytest.mark.parametrize( "source, expected", (
  pytest.param( CHATML, [ 383 ], id="ChatML" ),
  pytest.param( "{% for m in messages %}{{ m.content }} <|endoftext|>{% endfor %}", [ 381 ], id="after a space" ),
  pytest.param( "{% for m in messages %}{{ m.content }}\n\n{% endfor %}", [], id="none" ),
  pytest.param( "{{ messages[0].content }}<|im_end|>", [], id="answers are left out" ) ) )
def test_the_end_of_an_answer_is_what_the_template_puts_there( source, expected ):
  assert end_tokens( TextCodec( "nano" ), ChatTemplate( source ) ) == expected

#-------------------------------------------------------------------------
# A device that goes on
#-------------------------------------------------------------------------

MODEL = { "seed": 3, "tie_word_embeddings": False, "max_position_embeddings": 96 }

@pytest.fixture( scope="module" )
def model( tmp_path_factory: pytest.TempPathFactory ) -> Path:
  """A random model with a ChatML template."""
  return mk_checkpoint( tmp_path_factory.mktemp( "models" ) / "small", template=CHATML, **MODEL )

@pytest.fixture( scope="module" )
def image( model: Path ) -> Callable[..., Path]:
  """An image of `model` for edge4, by precision."""
  def of( precision: str = "w8a16" ) -> Path:
    path = model.with_name( f"{precision}.npu" )
    if not path.exists():
      npu.compile( model, path, precision=precision, config="edge4" )
    return path
  return of

# The host sees the logits of each token then, and takes the likeliest.
HOST = Sampling( 1e-6 )

def told( device: Device, prompt: list[int], reuse_cache: bool ) -> tuple[list[int], list[bytes]]:
  """Three more tokens, and the logits of each, bit for bit."""
  logits: list[bytes] = []
  tokens = []
  for token in device.stream( prompt, 3, HOST, False, reuse_cache=reuse_cache ):
    tokens.append( token )
    logits.append( device._logits[0].tobytes() )
  return tokens, logits

@pytest.mark.parametrize( "at, precision", (
  *( pytest.param( "fl", precision, id=f"fl {precision}" ) for precision in npu.PRECISIONS ),
  *( pytest.param( "cl", precision, marks=pytest.mark.level( "cl" ), id=f"cl {precision}" )
     for precision in ( "w8a16", "bf16" ) ) ) )
def test_going_on_is_computing_all_anew( image, at, precision ):
  with Device( npu.load( image( precision ) ), at ) as device, Device( npu.load( image( precision ) ) ) as anew:
    first  = device.generate( [ 5, 6, 7, 8, 9 ], 4, stop_at_eos=False )
    known  = first.prompt_tokens + first.tokens
    assert device.cached == known[:-1]
    # Longer by more than a pass; the same but for its end; from the beginning; what is in the cache already.
    for prompt in ( [ *known, *range( 20, 45 ) ], [ *known, *range( 20, 30 ), 99 ], [ 7, 7 ], [ 7, 7 ] ):
      shared = device.cached
      assert told( device, prompt, True ) == told( anew, prompt, False ), prompt
      assert device.last.cached_tokens == len( common( shared, prompt[:-1] ) )
      assert ( anew.last.cached_tokens, device.cached[: len( prompt )] ) == ( 0, prompt )

def common( a: list[int], b: list[int] ) -> list[int]:
  return [ x for i, x in enumerate( a[: len( b )] ) if a[: i + 1] == b[: i + 1] ]

@pytest.mark.parametrize( "at", LEVELS )
@pytest.mark.parametrize( "how", ( pytest.param( None, id="greedy" ), pytest.param( HOST, id="sampled" ) ) )
@pytest.mark.parametrize( "end", ( "limit", "eos", "context", "closed" ) )
def test_what_the_cache_holds_after_a_run( image, at, how, end ):
  prompt = [ 5, 6, 7 ] if end != "context" else list( range( 93 ) )
  with Device( npu.load( image() ), at ) as device, Device( npu.load( image() ) ) as anew:
    tokens = anew.generate( prompt, 4, stop_at_eos=False ).tokens
    run    = device.stream( prompt, 2 if end == "limit" else 9, how, False,
                            end_tokens=tokens[1:2] if end == "eos" else () )
    taken  = [ next( run ), next( run ) ] if end == "closed" else list( run )
    run.close()
    assert taken == tokens[:2] if end != "context" else taken == tokens
    assert device.cached == [ *prompt, *taken ][:-1]
    if end != "context":
      follows = [ *prompt, *taken, 11, 12 ]
      assert told( device, follows, True ) == told( anew, follows, False )
      assert device.last.cached_tokens == len( prompt ) + 1

@pytest.mark.level( "cl" )
@pytest.mark.parametrize( "calls", ( 1, 10, 60, 150 ) )
@pytest.mark.parametrize( "how", ( pytest.param( None, id="greedy" ), pytest.param( HOST, id="sampled" ) ) )
def test_an_interrupt_leaves_the_cache_as_it_is( image, calls, how ):
  """Ctrl-C may come at any time, here in so many calls of `on_progress`."""
  left = [ calls ]
  def interrupt( cycle: int, pc: int ) -> None:
    left[0] -= 1
    if not left[0]:
      raise KeyboardInterrupt
  prompt = [ 5, 6, 7, 8, 9, 10 ]
  with Device( npu.load( image() ), "cl" ) as device, Device( npu.load( image() ) ) as anew:
    with pytest.raises( KeyboardInterrupt ):
      list( device.stream( prompt, 40, how, False, interrupt ) )
    taken = device.last.tokens
    assert device.cached == ( [ *prompt, *taken ][:-1] if taken else [] )
    assert device.stats.cycles > 0 and bool( taken ) == ( calls > 10 )
    follows = [ *prompt, *taken, 11, 12 ]
    assert told( device, follows, True ) == told( anew, follows, False )

@pytest.mark.parametrize( "after", ( 1, 12, 90, 91, 100 ) )
def test_an_interrupt_of_the_functional_level( image, monkeypatch, after ):
  from fl.npu import NpuFL
  left, execute = [ after ], NpuFL.execute
  def interrupt( s: NpuFL, i: Any ) -> None:
    left[0] -= 1
    if not left[0]:
      raise KeyboardInterrupt
    execute( s, i )
  prompt = [ 5, 6, 7, 8, 9, 10 ]
  with Device( npu.load( image() ) ) as device, Device( npu.load( image() ) ) as anew:
    with monkeypatch.context() as patch, pytest.raises( KeyboardInterrupt ):
      patch.setattr( NpuFL, "execute", interrupt )
      list( device.stream( prompt, 40, None, False ) )
    taken = device.last.tokens
    assert device.cached == ( [ *prompt, *taken ][:-1] if taken else [] )
    follows = [ *prompt, *taken, 11, 12 ]
    assert told( device, follows, True ) == told( anew, follows, False )

#-------------------------------------------------------------------------
# Conversations
#-------------------------------------------------------------------------

@pytest.mark.parametrize( "at", LEVELS )
@pytest.mark.parametrize( "how", ( pytest.param( None, id="greedy" ), pytest.param( Sampling( 0.9 ), id="sampled" ) ) )
def test_a_turn_computes_only_what_is_new( model, image, at, how ):
  with npu.Session( model, image=image(), level=at ) as session:
    talk = Conversation( session, system="B" )
    for text, tokens in ( ( "Hi", 3 ), ( "yo", 2 ), ( "c", 2 ) ):
      cached = session.device.cached
      answer = "".join( talk.say( text, tokens, how ) )
      report = talk.report()
      assert talk.messages[-2:] == [ user( text ), { "role": "assistant", "content": answer } ]
      # The template writes the same as before; a random model's answer may not be what its text is encoded as.
      assert report.cached_tokens == len( common( cached, report.prompt_token_ids[:-1] ) )
      assert session.device.npu.mailbox[Word.POS] == report.prompt_tokens + len( report.tokens ) - 1
      with npu.Session( model, image=image() ) as other:
        anew = list( other.generate_tokens( report.prompt_token_ids, tokens, how, end_tokens=[ 383 ] ) )
      assert anew == report.tokens
    talk.reset()
    assert talk.messages == [ { "role": "system", "content": "B" } ]

@pytest.fixture( scope="module" )
def speaker( tmp_path_factory: pytest.TempPathFactory ) -> Path:
  """A model that answers anything with `Yes<|im_end|>`: its template ends in a new line, after which it says so."""
  codec = TextCodec( "nano" )
  chain = [ codec.encode( "\n" )[0], *codec.encode( "Yes" ), 383 ]
  return mk_chain( tmp_path_factory.mktemp( "models" ) / "speaker", chain, template=CHATML )

def test_a_conversation_goes_on_from_its_end( speaker ):
  with npu.Session( speaker ) as session:
    talk = Conversation( session )
    assert "".join( talk.say( "a" ) ) == "Yes"
    first = talk.report()
    assert ( first.text, first.status, first.tokens[-1], first.cached_tokens ) == ( "Yes", "eos", 383, 0 )
    assert "".join( talk.say( "b" ) ) == "Yes"
    # All but the token that ended the answer is in the cache.
    assert talk.report().cached_tokens == first.prompt_tokens + len( first.tokens ) - 1
    assert talk.report().macs > 0 and talk.report().prompt_tokens > talk.report().cached_tokens
    # Another history is used as far as it is the same.
    talk.messages[0] = user( "x" )
    assert "".join( talk.say( "c" ) ) == "Yes"
    assert talk.report().cached_tokens == len( session.encode( "<|im_start|>user\n" ) )

def test_an_answer_that_is_stopped_stays_as_it_is( speaker ):
  with npu.Session( speaker ) as session:
    talk   = Conversation( session )
    pieces = talk.say( "a" )
    first  = next( pieces )
    pieces.close()
    assert talk.messages == [ user( "a" ), { "role": "assistant", "content": first } ]
    assert talk.report().status == "running"
    # Before anything has come, it is as if nothing had been said.
    assert talk.say( "b" ) is not None
    assert len( talk.messages ) == 2
    assert "".join( talk.say( "c", stop=[ "s" ] ) ) == "Ye"
    assert talk.messages[-1]["content"] == "Ye" and talk.report().status == "stop"
    assert "".join( talk.say( "d", 1 ) ) == first and talk.report().status == "limit"

def test_a_full_context_is_told_and_does_not_change_the_conversation( speaker ):
  with npu.Session( speaker, context=32 ) as session:
    talk = Conversation( session )
    "".join( talk.say( "a" ) )
    before = list( talk.messages )
    with pytest.raises( NpuError ) as e:
      talk.say( "b" * 30 )
    tokens = len( chat_tokens( session.codec, ChatTemplate( CHATML ), [ *before, user( "b" * 30 ) ] ) )
    assert str( e.value ) == ( f"the conversation has {tokens} tokens with this message, and the context holds 32; "
                               "begin anew, or choose a larger context" )
    assert talk.messages == before
    talk.reset()
    assert "".join( talk.say( "a" ) ) == "Yes"

def test_the_context_ends_an_answer( model, image ):
  with npu.Session( model, image=image() ) as session:
    talk = Conversation( session )
    "".join( talk.say( "a" * 30, stop_at_eos=False ) )
    assert talk.report().status == "context" and talk.messages[-1]["role"] == "assistant"

def test_a_model_without_a_template_is_told():
  with npu.Session( "nano" ) as session:
    with pytest.raises( NpuError ) as e:
      Conversation( session )
    assert str( e.value ) == ( "nano has no chat template, so it cannot chat; choose a model that was made for "
                               "conversations (an instruct or chat model)" )
    talk = Conversation( session, template=CHATML )
    assert "".join( talk.say( "In the", 4 ) ) == talk.messages[-1]["content"] != ""
