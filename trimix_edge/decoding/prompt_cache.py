"""A file that keeps what the contexts hold, so that a long prompt need not be evaluated again.

One file for all contexts of a trio: a line of JSON that says which models and which tokens, then
llama.cpp's state of each context (``llama_state_seq_get_data``), then SHA-256 of all before it. A
file that is not whole, or of other models or settings, is refused before llama.cpp sees any of it.
The digest finds accidents, not forgery: use files of your own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import numpy.typing as npt

from trimix_edge.config import Role
from trimix_edge.errors import PromptCacheError, TargetError
from trimix_edge.files import replacing, require_space

_MAGIC = "trimix-edge prompt cache 1"
_START = b'{"magic": "trimix-edge prompt cache'
_MAX_HEAD = 1 << 26
_PIECE = 1 << 22


class Context(Protocol):
    """What is needed of a :class:`~trimix_edge.llama.LlamaContext`."""

    tokens: list[list[int]]
    n_ctx: int

    def state(self, seq: int) -> npt.NDArray[np.uint8]: ...
    def restore(self, state: npt.NDArray[np.uint8], tokens: Sequence[int]) -> None: ...


def refuse_other_files(path: Path) -> None:
    """Raise TargetError where something else is in the place of a prompt cache.

    One that is damaged, or of another version, is none the less a prompt cache.
    """
    try:
        with path.open("rb") as file:
            start = file.read(len(_START))
    except OSError:  # missing, or told by whoever opens it for good
        return
    if not _START.startswith(start):
        raise TargetError(f"{path} is no prompt cache, and is left as it is: name another file")


def save(
    path: Path, contexts: Mapping[Role, Context], identity: Mapping[str, object], seq: int
) -> None:
    """Write what a sequence of the contexts holds; the file appears, or is replaced, once it is
    whole.

    Args:
        identity: what a file must agree in to be used again: models and settings, as JSON.
        seq: the sequence.

    Raises:
        DiskSpaceError: there is no room for it.
        TargetError: the file can't be written, or is something else.
    """
    refuse_other_files(path)
    states = {role: context.state(seq) for role, context in contexts.items() if context.tokens[seq]}
    head = {
        "magic": _MAGIC,
        "identity": identity,
        "contexts": {
            str(role): {"tokens": contexts[role].tokens[seq], "n_bytes": state.size}
            for role, state in states.items()
        },
    }
    text = json.dumps(head).encode() + b"\n"
    total = len(text) + sum(state.size for state in states.values())
    require_space(path.parent, total, f"the prompt cache {path}")
    digest = hashlib.sha256()
    with replacing(path) as part, part.open("wb") as file:
        for piece in (np.frombuffer(text, np.uint8), *states.values()):
            file.write(piece.data)
            digest.update(piece.data)
        file.write(digest.digest())


def load(path: Path, contexts: Mapping[Role, Context], identity: Mapping[str, object]) -> None:
    """Put the contexts into the state that a file holds; those it does not know stay as they are.

    Raises:
        PromptCacheError: there is no such file, it is no such file, not whole, of other models or
            settings, or too long for these contexts, which are then as they were; or llama.cpp
            itself refuses a state, and that context is empty.
        TargetError: it is something else.
    """
    refuse_other_files(path)
    try:
        with path.open("rb") as file:
            head = _read_head(file, path, identity)
            entries = _entries(head, path, contexts)
            _check_digest(file, path, sum(n_bytes for _, _, n_bytes in entries))
            for role, tokens, state in _states(file, entries):
                contexts[role].restore(state, tokens)
    except OSError as error:
        raise PromptCacheError(f"prompt cache {path}: {error.strerror or error}") from None


def _read_head(file: BinaryIO, path: Path, identity: Mapping[str, object]) -> dict[str, Any]:
    try:
        head = json.loads(file.readline(_MAX_HEAD))
    except (ValueError, RecursionError):
        head = None
    if not isinstance(head, dict) or head.get("magic") != _MAGIC:
        raise PromptCacheError(f"{path} is no prompt cache, or of another version")
    of_file, ours = head.get("identity"), json.loads(json.dumps(identity))
    if of_file != ours:
        differing = sorted(
            key for key in ours if not isinstance(of_file, dict) or of_file.get(key) != ours[key]
        )
        raise PromptCacheError(f"prompt cache {path} is of other {' and '.join(differing)}")
    return head


Entries = list[tuple[Role, list[int], int]]


def _entries(head: dict[str, Any], path: Path, contexts: Mapping[Role, Context]) -> Entries:
    entries: Entries = []
    try:
        for name, entry in head["contexts"].items():
            tokens, n_bytes = entry["tokens"], entry["n_bytes"]
            if not all(type(number) is int and number >= 0 for number in (*tokens, n_bytes)):
                raise ValueError
            entries.append((Role(name), tokens, n_bytes))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise PromptCacheError(f"prompt cache {path} is damaged") from None
    for role, tokens, _ in entries:
        if role not in contexts:
            raise PromptCacheError(f"prompt cache {path} is damaged")
        if len(tokens) > contexts[role].n_ctx:
            raise PromptCacheError(
                f"prompt cache {path} holds {len(tokens)} tokens, the context only "
                f"{contexts[role].n_ctx}: raise n_ctx"
            )
    return entries


def _check_digest(file: BinaryIO, path: Path, n_bytes: int) -> None:
    """Compare the length of the file, with states of ``n_bytes`` in all, and the digest at its end,
    and go back to where the head ended."""
    after_head = file.tell()
    size = file.seek(0, 2)
    digest = hashlib.sha256()
    left = size - digest.digest_size
    if left != after_head + n_bytes:
        raise PromptCacheError(f"prompt cache {path} is damaged, or was cut short")
    file.seek(0)
    while left > 0 and (piece := file.read(min(left, _PIECE))):
        digest.update(piece)
        left -= len(piece)
    if left or file.read() != digest.digest():
        raise PromptCacheError(f"prompt cache {path} is damaged, or was cut short")
    file.seek(after_head)


def _states(
    file: BinaryIO, entries: Entries
) -> Iterator[tuple[Role, list[int], npt.NDArray[np.uint8]]]:
    for role, tokens, n_bytes in entries:
        yield role, tokens, np.frombuffer(file.read(n_bytes), np.uint8)
