"""A chat template of somebody else's, rendered where it can do no harm: a program of its own, with limits.

Standard input is JSON, `{ "source": TEMPLATE, "variables": {...}, "chats": [ { "messages": [...],
"add_generation_prompt": BOOL }, ... ] }`; standard output is JSON, `{ "texts": [...] }` or `{ "error": LINE }`. It
imports nothing of this project, so that it starts at once. The surroundings of a template (Jinja's sandbox, its
extensions, functions and filters) are those of transformers' `apply_chat_template`.
"""

import json
import resource
import sys
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

SECONDS    = 5           # of processor time
BYTES      = 1 << 30     # of memory
CHARACTERS = 1 << 24     # of a text

class Generation( Extension ):
  """`{% generation %}` marks what the assistant says, for training; here it is nothing but its body."""
  tags = { "generation" }      # noqa: RUF012 (as Jinja has it)

  def parse( self, parser: Parser ) -> nodes.Node | list[nodes.Node]:
    """Jinja's hook."""
    next( parser.stream )
    return parser.parse_statements( ( "name:endgeneration", ), drop_needle=True )

class Dict:
  """`dict` without its attributes."""

  def __call__( self, *args: Any, **names: Any ) -> dict[Any, Any]:
    return dict( *args, **names )

  def fromkeys( self, *args: Any ) -> dict[Any, Any]:
    """As dict's."""
    return dict.fromkeys( *args )

class PlainNamespace( Namespace ):
  """A namespace that keeps no names of Python's own."""

  def __init__( self, *args: Any, **names: Any ) -> None:
    super().__init__()
    for name, value in dict( *args, **names ).items():
      self[name] = value

  def __setitem__( self, name: str, value: Any ) -> None:
    if name.startswith( "_" ):
      raise SecurityError( f"a namespace cannot have {name!r}; names that begin with _ are refused" )
    super().__setitem__( name, value )

def raise_exception( message: str ) -> None:
  """How a template says that it does not take a conversation."""
  raise TemplateError( message )

def tojson( value: Any, ensure_ascii: bool = False, indent: int | None = None,
            separators: tuple[str, str] | None = None, sort_keys: bool = False ) -> str:
  """Jinja's own escapes what HTML would."""
  return json.dumps( value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys )

def strftime_now( form: str ) -> str:
  """Date and time."""
  return datetime.now().strftime( form )

def mk_environment() -> ImmutableSandboxedEnvironment:
  """What a template finds around it."""
  env = ImmutableSandboxedEnvironment( trim_blocks=True, lstrip_blocks=True, extensions=[ Generation, loopcontrols ] )
  env.filters["tojson"] = tojson
  env.globals.update( raise_exception=raise_exception, strftime_now=strftime_now, dict=Dict(),
                      namespace=PlainNamespace )
  return env

def render( job: dict[str, Any] ) -> list[str]:
  """The texts of a job's chats."""
  template = mk_environment().from_string( job["source"] )
  texts    = []
  for chat in job["chats"]:
    parts, size = [], 0
    for part in template.generate( { **job["variables"], "tools": None, "documents": None, **chat } ):
      parts.append( part )
      size += len( part )
      if size > CHARACTERS:
        raise TemplateError( f"its text is longer than {CHARACTERS:,} characters" )
    texts.append( "".join( parts ) )
  return texts

def main() -> None:
  """One job."""
  job = json.load( sys.stdin )
  resource.setrlimit( resource.RLIMIT_CPU, ( SECONDS, SECONDS ) )
  resource.setrlimit( resource.RLIMIT_AS, ( BYTES, BYTES ) )
  try:
    answer: dict[str, Any] = { "texts": render( job ) }
  except TemplateSyntaxError as e:
    answer = { "error": f"line {e.lineno}: {e}" }
  except MemoryError:
    answer = { "error": f"it takes more than {BYTES >> 20:,} MiB of memory" }
  except Exception as e:       # whatever a template makes of Python
    answer = { "error": str( e ) or type( e ).__name__ }
  # Lone surrogates, which json keeps as escapes, stay what they are.
  print( json.dumps( answer ) )

if __name__ == "__main__":
  main()
