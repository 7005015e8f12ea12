"""The child process that renders chat templates: a template is a program from a stranger.

It reads one JSON object a line, ``{"template": …, "variables": {…}}``, and answers each with one
line: ``{"text": …}``, ``{"refused": …}`` where the template raises an error of its own, or
``{"failed": …}``. Its memory and its time are bounded, and its death is an answer too.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache
from typing import Any

from jinja2 import Template, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_RENDERED = 10_000_000
MAX_GROWTH = 256 << 20
"""Bytes that the process may grow by while a template is rendered."""

IDLE_SECONDS, REQUEST_SECONDS = 30, 120
"""Without a request, and within one, after which the process ends by itself: its memory is of use
to others, and its parent may have died."""


class _Refused(Exception):
    """What a template raises on purpose."""


class _Sandbox(ImmutableSandboxedEnvironment):
    """No attribute of Python's own can be reached, and no product can take for ever."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" or not (
            isinstance(left, (int, float)) and isinstance(right, (int, float))
        ):
            raise SecurityError(f"a chat template may not use {operator} on these values")
        return super().call_binop(context, operator, left, right)


class _Generation(Extension):
    """``{% generation %}``: marks what an assistant says, for training; here only its body counts.

    A scope of its own, as in Transformers.
    """

    tags = {"generation"}  # noqa: RUF012, as Jinja declares it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_render")
        return nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _render(self, caller: Any) -> Any:
        return caller()


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as Transformers' templates get it: letters, ``<`` and the order of keys stay."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: object) -> None:
    raise _Refused(str(message))


@lru_cache(maxsize=4)
def _compiled(template: str) -> Template:
    environment = _Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(template)


def answer(request: dict[str, Any]) -> dict[str, str]:
    """Render one template; see the module for the forms."""
    pieces: list[str] = []
    size = 0
    try:
        for piece in _compiled(request["template"]).generate(**request["variables"]):
            pieces.append(piece)
            size += len(piece)
            if size > MAX_RENDERED:
                return {"failed": "it writes without end"}
        return {"text": "".join(pieces)}
    except _Refused as error:
        return {"refused": _one_line(error)}
    except Exception as error:  # a template can make any Python operation fail
        pieces.clear()
        return {"failed": _one_line(error)}


def _bound_memory(n_request: int) -> None:
    """Make what would fill the memory a MemoryError. Only Linux keeps a limit on addresses."""
    if sys.platform != "linux":
        return
    import resource

    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
        held = int(file.read().split()[0]) * resource.getpagesize()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = held + MAX_GROWTH + 16 * n_request
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _requests() -> Iterator[str]:
    """The lines of standard input, with a clock that ends the process when it is forgotten."""
    while True:
        _end_after(IDLE_SECONDS)
        line = sys.stdin.readline()
        if not line:
            return
        _end_after(REQUEST_SECONDS)
        yield line


def _end_after(seconds: int) -> None:
    if hasattr(signal, "alarm"):
        signal.alarm(seconds)


def main() -> None:
    """Answer requests until standard input ends."""
    for line in _requests():
        _bound_memory(len(line))
        try:
            reply = answer(json.loads(line))
        except MemoryError:
            reply = {"failed": "it needs too much memory"}
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()


def _one_line(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "it needs too much memory"
    return " ".join(str(error).split())[:200] or type(error).__name__
