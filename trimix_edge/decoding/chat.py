"""Messages to a prompt, through the chat template in a GGUF: text for people, ids for models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypedDict

from trimix_edge.decoding.templates import TemplateRefusal, renderer
from trimix_edge.errors import TemplateError, UsageError, notice

_OWN_VARIABLES = ("messages", "bos_token", "eos_token")


class Message(TypedDict):
    """One turn: ``role`` is ``system``, ``user`` or ``assistant``."""

    role: str
    content: str


class ChatVocab(Protocol):
    """What chat prompts need of a :class:`~trimix_edge.llama.Vocab`."""

    @property
    def bos(self) -> int: ...
    @property
    def eos(self) -> int: ...
    @property
    def adds_bos(self) -> bool: ...
    @property
    def control_spellings(self) -> list[str]: ...
    def special_text(self, token: int) -> str: ...
    def tokenize(
        self, text: str, *, add_special: bool = True, parse_special: bool = True
    ) -> list[int]: ...
    def partition(self, text: str) -> list[str | int]: ...


def check_messages(messages: object) -> list[dict[str, Any]]:
    """A conversation in one form: what a caller may give, made what templates expect.

    A content that is None is empty, the parts of a list, ``{"type": "text", "text": …}``, are
    joined. Other keys than ``role`` and ``content`` stay as they are.

    Raises:
        UsageError: anything else; names the message.
    """
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Iterable):
        raise UsageError(
            f"a conversation is a list of messages, not {type(messages).__name__}: "
            f'[{{"role": "user", "content": "…"}}]'
        )
    checked = [_message(f"message {i}", message) for i, message in enumerate(messages, 1)]
    if not checked:
        raise UsageError("the conversation is empty: it needs at least one message")
    return checked


def _message(where: str, message: object) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise UsageError(
            f"{where} is {type(message).__name__}, it must be a dict with a role and a content"
        )
    if not isinstance(message.get("role"), str):
        raise UsageError(
            f"{where}: its role is {message.get('role')!r:.60}, it must be system, user or "
            f"assistant"
        )
    if "content" not in message and not message.get("tool_calls"):
        raise UsageError(f"{where} has no content: give a text")
    return {**message, "content": _content(where, message.get("content"))}


def _content(where: str, content: object) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, (list, tuple)):
        raise UsageError(f"{where}: its content is {type(content).__name__}, it must be a text")
    texts = []
    for part in content:
        text = part.get("text") if isinstance(part, Mapping) else None
        if not isinstance(text, str) or part.get("type", "text") != "text":
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            raise UsageError(
                f"{where}: a part of its content is {kind!r:.60}: only parts of the form "
                f'{{"type": "text", "text": "…"}} can be read'
            )
        texts.append(text)
    return "".join(texts)


def render_chat(
    template: str | None,
    messages: Sequence[Mapping[str, object]],
    /,
    *,
    bos: str = "",
    eos: str = "",
    **variables: Any,
) -> str:
    """The prompt that ends where the assistant's next turn begins.

    A system message that the template leaves out or refuses is put before the first user message,
    as llama.cpp does for Gemma, with a notice.

    Args:
        template: Jinja source in Hugging Face's dialect (``tokenizer.chat_template``).
        messages: the conversation so far; see :func:`check_messages`.
        bos, eos: the spellings of those tokens, which templates refer to; "" for none.
        variables: more for the template, values of JSON, as ``enable_thinking=False``, ``tools`` or
            ``add_generation_prompt``.

    Raises:
        TemplateError: there is no template, it is broken, refuses the messages, or tries what a
            template must not do.
        UsageError: the messages or variables are of a wrong type.
    """
    return _conversation(template, check_messages(messages), bos, eos, variables)


def _conversation(
    template: str | None,
    turns: list[dict[str, Any]],
    bos: str,
    eos: str,
    variables: dict[str, Any],
) -> str:
    if not template:
        raise TemplateError(
            "large_ins has no chat template: conversations need one, a plain text can be continued "
            "without"
        )
    for name in _OWN_VARIABLES:
        if name in variables:
            raise UsageError(f"{name} is set by the conversation and the model, not by hand")
    defaults = {"tools": None, "documents": None, "add_generation_prompt": True}
    given = {**defaults, **variables, "bos_token": bos, "eos_token": eos}
    return _with_system(template, turns, given)


def _with_system(template: str, turns: list[dict[str, Any]], variables: dict[str, Any]) -> str:
    system = turns[0]["content"].strip() if turns[0]["role"] == "system" else ""
    merged = _merged(turns) if system else None
    if merged is None:
        return _render(template, turns, variables)
    try:
        text = _render(template, turns, variables)
        if text != _render(template, _altered(turns), variables):
            return text
    except TemplateRefusal as refusal:
        try:
            text = _render(template, merged, variables)
        except TemplateError:
            raise refusal from None
    else:
        text = _render(template, merged, variables)
    notice(
        "the chat template of large_ins has no place for a system message: it is put before the "
        "first user message"
    )
    return text


def _merged(turns: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
    """The conversation with its system message before the first user's; None without a user."""
    system, *others = turns
    for i, turn in enumerate(others):
        if turn["role"] == "user":
            content = f"{system['content'].strip()}\n\n{turn['content']}"
            return [*others[:i], {**turn, "content": content}, *others[i + 1 :]]
    return None


def _altered(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """With another system message: does it make a difference at all?"""
    system, *others = turns
    return [{**system, "content": f"{system['content']} {system['content']}."}, *others]


def _render(template: str, turns: list[dict[str, Any]], variables: dict[str, Any]) -> str:
    try:
        return renderer.render(template, {"messages": turns, **variables})
    except (TypeError, ValueError, RecursionError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(
            f"messages and template variables must be values of JSON: {error}"
        ) from None


def tokenize_chat(
    vocab: ChatVocab,
    template: str | None,
    messages: Sequence[Mapping[str, object]],
    /,
    **variables: Any,
) -> list[int]:
    """The token ids of a conversation, up to where the assistant's next turn begins.

    Special tokens come from the template alone: where a message spells one, as ``<|im_end|>``, it
    stays text. There is one BOS at the beginning if the model wants one, and no EOS at the end.

    Args:
        vocab: of the model that reads it.
        template, messages, variables: see :func:`render_chat`.

    Raises:
        TemplateError, UsageError: see :func:`render_chat`.
        PromptError: a text holds a lone surrogate.
    """
    turns = check_messages(messages)
    guard = _Guard(vocab.control_spellings, (template or "", turns, variables))
    bos, eos = vocab.special_text(vocab.bos), vocab.special_text(vocab.eos)
    text = _conversation(template, guard.protect(turns), bos, eos, guard.protect(variables))
    if guard.was_needed:
        ids = [
            token
            for part in vocab.partition(text)
            for token in (
                [part]
                if isinstance(part, int)
                else vocab.tokenize(guard.freed(part), add_special=False, parse_special=False)
            )
        ]
    else:
        ids = vocab.tokenize(text, add_special=False)
    wants_bos = vocab.adds_bos and vocab.bos >= 0 and ids[:1] != [vocab.bos]
    return [vocab.bos, *ids] if wants_bos else ids


class _Guard:
    """Keeps the spellings of special tokens in messages from being read as those tokens.

    Each spelling is replaced by a character for private use, which nobody has written, before the
    template sees it. The rendered text is cut at the special tokens that the template itself
    spells; then the characters become the spellings again.

    Args:
        spellings: what is to be kept from being read, the longest first.
        present: everything that may hold characters for private use by itself.
    """

    def __init__(self, spellings: Sequence[str], present: object) -> None:
        self._spellings = spellings
        written = set("".join(_strings(present)))
        self._free = (c for c in map(chr, range(0xF0000, 0xFFFFE)) if c not in written)
        self._marks: dict[str, str] = {}

    @property
    def was_needed(self) -> bool:
        return bool(self._marks)

    def protect(self, value: Any) -> Any:
        """The same value with marks in its strings."""
        if isinstance(value, str):
            return self._marked(value)
        if isinstance(value, Mapping):
            return {self.protect(k): self.protect(v) for k, v in value.items()}
        return [self.protect(v) for v in value] if isinstance(value, (list, tuple)) else value

    def _marked(self, text: str) -> str:
        for spelling in self._spellings:
            if spelling in text:
                if spelling not in self._marks:
                    self._marks[spelling] = next(self._free)
                text = text.replace(spelling, self._marks[spelling])
        return text

    def freed(self, text: str) -> str:
        """With the spellings again."""
        for spelling, mark in self._marks.items():
            text = text.replace(mark, spelling)
        return text


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _strings(key)
            yield from _strings(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _strings(inner)
