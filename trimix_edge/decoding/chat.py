"""Messages to a prompt, through the chat template in a GGUF: a program from a stranger."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, TypedDict

import psutil
from jinja2.exceptions import SecurityError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from trimix_edge.errors import TemplateError

MAX_TEMPLATE = 200_000
MAX_RENDERED = 10_000_000
MAX_GROWTH = 256 << 20
"""Bytes that the process may grow by while a template is rendered."""


class Message(TypedDict):
    """One turn: ``role`` is ``system``, ``user`` or ``assistant``."""

    role: str
    content: str


class _Sandbox(ImmutableSandboxedEnvironment):
    """No attribute of Python's own can be reached, and no product can take for ever."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" or not (
            isinstance(left, (int, float)) and isinstance(right, (int, float))
        ):
            raise SecurityError(f"a chat template may not use {operator} on these values")
        return super().call_binop(context, operator, left, right)


def _raise_exception(message: str) -> None:
    raise TemplateError(f"the chat template refuses the conversation: {message}")


def render_chat(
    template: str | None,
    messages: Sequence[Message],
    *,
    bos: str = "",
    eos: str = "",
) -> str:
    """The prompt that ends where the assistant's next turn begins.

    Args:
        template: Jinja source in Hugging Face's dialect (``tokenizer.chat_template``).
        messages: the conversation so far.
        bos, eos: the spellings of those tokens, which templates refer to.

    Raises:
        TemplateError: there is no template, it is broken, refuses the messages, or tries what a
            template must not do.
    """
    if not template:
        raise TemplateError("large_ins has no chat template: leave --chat away")
    if len(template) > MAX_TEMPLATE:
        raise TemplateError(
            f"the chat template is {len(template)} characters long: that is no one's"
        )
    pieces: list[str] = []
    try:
        with _bounded_memory():
            size = 0
            for piece in _generate(template, messages, bos, eos):
                pieces.append(piece)
                size += len(piece)
                if size > MAX_RENDERED:
                    raise TemplateError("the chat template writes without end")
    except TemplateError:
        raise
    except Exception as error:  # a template can make any Python operation fail
        raise TemplateError(f"the chat template fails: {_one_line(error)}") from None
    return "".join(pieces)


def _generate(template: str, messages: Sequence[Message], bos: str, eos: str) -> Iterator[str]:
    environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(template).generate(
        messages=list(messages),
        add_generation_prompt=True,
        bos_token=bos,
        eos_token=eos,
        tools=None,
        documents=None,
    )


@contextmanager
def _bounded_memory() -> Iterator[None]:
    """Make what would fill the memory a MemoryError: strings grow by many more ways than products.

    Only Linux keeps a limit on the address space.
    """
    if sys.platform != "linux":
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = psutil.Process().memory_info().vms + MAX_GROWTH
    if soft != resource.RLIM_INFINITY:
        limit = min(limit, soft)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
