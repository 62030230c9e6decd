"""Conversations: the model's own chat template around messages, and turns that go on from the KV cache."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing

from npu.compiler.model import ChatTemplate
from npu.errors import NpuError
from npu.runtime import render
from npu.runtime.plan import OnProgress
from npu.runtime.report import RunReport
from npu.runtime.sampling import Sampling
from npu.runtime.session import Session
from npu.runtime.text import TextCodec

SECONDS = 60         # that a template may take, waiting included: a busy machine is no endless template

Message = dict[str, str]

#-------------------------------------------------------------------------
# Templates
#-------------------------------------------------------------------------

def render_chats( template: ChatTemplate, chats: Sequence[list[Message]], answer: bool = True ) -> list[str]:
  """The text that a template makes of each conversation, with the beginning of an answer if it is to follow.

  Raises
  ------
  NpuError
    The template is broken, refuses a conversation, or takes more than `npu.runtime.render` allows.
  """
  job = { "source": template.source, "variables": dict( template.variables ),
          "chats": [ { "messages": chat, "add_generation_prompt": answer } for chat in chats ] }
  try:
    done = subprocess.run( [ sys.executable, "-I", render.__file__ ], input=json.dumps( job ), capture_output=True,
                           text=True, encoding="utf-8", timeout=SECONDS, check=False )
  except subprocess.TimeoutExpired:
    raise NpuError( f"the chat template does not end: stopped after {SECONDS} s" ) from None
  if done.returncode in ( -signal.SIGXCPU, -signal.SIGKILL ):
    raise NpuError( f"the chat template does not end: stopped after {render.SECONDS} s of processor time" )
  try:
    told = json.loads( done.stdout )
  except ValueError:
    last = done.stderr.strip().rpartition( "\n" )[2]
    raise NpuError( f"the chat template cannot be rendered: {last or f'exit code {done.returncode}'}" ) from None
  if "error" in told:
    raise NpuError( f"the chat template cannot be rendered: {told['error']}" )
  return list( told["texts"] )

def chat_template( codec: TextCodec ) -> ChatTemplate:
  """The template of the model that a tokenizer is from; NpuError if it has none."""
  found = codec.model.chat_template()
  if found is None:
    raise NpuError( f"{codec.model.name} has no chat template, so it cannot chat; choose a model that was made for "
                    "conversations (an instruct or chat model)" )
  return found

def end_tokens( codec: TextCodec, template: ChatTemplate ) -> list[int]:
  """The special token that ends an answer: what the template puts behind one.

  Models say it as their end-of-sequence token as well, but not all: some of them only say there what ends a document.
  Empty if no special token follows. NpuError if the template fails.
  """
  answer = "An answer."
  chat   = [ { "role": "user", "content": "A question?" }, { "role": "assistant", "content": answer } ]
  [ text ]     = render_chats( template, [ chat ], answer=False )
  _, said, end = text.rpartition( answer )
  token        = codec.special_at_start( end.lstrip() ) if said else None
  return [] if token is None else [ token ]

def chat_tokens( codec: TextCodec, template: ChatTemplate, messages: list[Message] ) -> list[int]:
  """The prompt for the answer to a conversation; NpuError if the template fails."""
  [ text ] = render_chats( template, [ messages ] )
  return codec.encode( text, special=False )

def mk_messages( system: str | None, *messages: Message ) -> list[Message]:
  """A conversation, with a system prompt if there is one."""
  return [ *( [] if system is None else [ { "role": "system", "content": system } ] ), *messages ]

def user( text: str ) -> Message:
  """What a user says."""
  return { "role": "user", "content": text }

#-------------------------------------------------------------------------
# Conversations
#-------------------------------------------------------------------------

class Conversation:
  """Several turns with a model: each goes on from what the KV cache holds, and computes only what is new.

      with npu.Session( "path/to/Qwen2.5-0.5B-Instruct" ) as session:
        chat = npu.Conversation( session, system="Answer briefly." )
        for piece in chat.say( "What is a systolic array?" ):
          print( piece, end="" )

  Parameters
  ----------
  session
    The model on its NPU.
  system
    The system prompt; None: what the template has for this case.
  template
    Jinja, or what `Model.chat_template` returns; None: the model's own.

  Attributes
  ----------
  messages
    All so far: dicts of `role` (system, user, assistant) and `content`. They may be changed between turns: what the KV
    cache holds is used as far as it still fits.

  Raises
  ------
  NpuError
    There is no template or no tokenizer, or the template fails.
  """

  def __init__( self, session: Session, *, system: str | None = None,
                template: ChatTemplate | str | None = None ) -> None:
    self.session   = session
    self._codec    = session.tokenizer()
    self._template = chat_template( self._codec ) if template is None else \
                     ChatTemplate( template ) if isinstance( template, str ) else template
    self._ends     = end_tokens( self._codec, self._template )
    self._system   = system
    self.messages: list[Message] = []
    self.reset()

  def reset( self ) -> None:
    """Begin anew, with the same system prompt."""
    self.messages = mk_messages( self._system )

  def prompt( self, text: str ) -> list[int]:
    """The tokens of the conversation with this message from the user, up to where the answer begins.

    Raises
    ------
    NpuError
      The template fails, or the conversation does not fit into the context.
    """
    tokens  = chat_tokens( self._codec, self._template, [ *self.messages, user( text ) ] )
    context = self.session.device.context
    if len( tokens ) > context:
      raise NpuError( f"the conversation has {len( tokens )} tokens with this message, and the context holds "
                      f"{context}; begin anew, or choose a larger context" )
    return tokens

  def say( self, text: str, max_new_tokens: int = 512, sampling: Sampling | None = None, *,
           stop: Sequence[str] = (), stop_at_eos: bool = True, on_progress: OnProgress | None = None ) -> Iterator[str]:
    """Say something, and get the answer: pieces of text as they come, whole characters each.

    Both become part of the conversation when the answer ends. Whoever stops taking pieces ends the answer, and it
    stays as it is by then; if nothing has come yet, it is as if nothing had been said. What the answer took is in
    `report`.

    Parameters
    ----------
    text
      What the user says.
    max_new_tokens
      Tokens of the answer at most; it also ends where the context does.
    sampling, stop, on_progress
      As for `Session.generate`.
    stop_at_eos
      False: go on after the end of the answer.

    Raises
    ------
    NpuError
      As `prompt` and `Session.generate`.
    """
    run = self.session.generate( self.prompt( text ), max_new_tokens, sampling, stop=stop, stop_at_eos=stop_at_eos,
                                 end_tokens=self._ends if stop_at_eos else (), reuse_cache=True,
                                 on_progress=on_progress )
    return self._answer( user( text ), run )

  def _answer( self, message: Message, run: Iterator[str] ) -> Iterator[str]:
    said = ""
    try:
      with closing( run ):      # type: ignore[type-var]
        for piece in run:
          said += piece
          yield piece
    finally:
      if self.session.device.last.tokens:
        self.messages = [ *self.messages, message, { "role": "assistant", "content": said } ]

  def report( self ) -> RunReport:
    """What the last answer took, as `Session.report`."""
    return self.session.report()
