"""Stand-ins for the models: scripted logits, and a tokenizer whose tokens are bytes."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from trimix_edge.config import Role

Row = npt.NDArray[np.float32]
Script = Callable[[Role, list[int]], Row]
"""The logits of a role after a sequence of tokens."""


class ByteTokenizer:
    """Every byte is a token; one more ends the text."""

    END = 256
    n_vocab = 257

    @staticmethod
    def encode(text: str) -> list[int]:
        return list(text.encode())

    @staticmethod
    def token_bytes(token: int) -> bytes:
        return bytes([token]) if token < 256 else b""

    @staticmethod
    def is_end(token: int) -> bool:
        return token == ByteTokenizer.END


def says(answer: str, n_prompt: int) -> Script:
    """All models answer a prompt of ``n_prompt`` tokens with this text, and end."""
    tokens = [*ByteTokenizer.encode(answer), ByteTokenizer.END]

    def script(role: Role, sequence: list[int]) -> Row:
        row = np.zeros(ByteTokenizer.n_vocab, np.float32)
        row[tokens[len(sequence) - n_prompt]] = 5.0
        return row

    return script


def never_ends(role: Role, sequence: list[int]) -> Row:
    """The likeliest token is the one after the last, and never the end."""
    row = np.zeros(ByteTokenizer.n_vocab, np.float32)
    row[(sequence[-1] + 1) % 256] = 5.0
    return row


@dataclass
class Decode:
    """One call of :meth:`FakeModels.decode`."""

    tokens: list[int]
    n_rows: int
    abortable: bool


@dataclass
class FakeModels:
    """The engine's ``Models``: answers from a script, refuses what a trio would refuse."""

    script: Script
    n_ctx: int = 64
    n_batch: int = 8
    sequence: list[int] = field(default_factory=list)
    calls: list[Decode] = field(default_factory=list)
    active: frozenset[Role] = frozenset()
    decode_seconds: dict[Role, float] = field(default_factory=dict)

    @property
    def max_rows(self) -> int:
        return min(self.n_batch, 5)

    def start(self, roles: Collection[Role], prompt: list[int]) -> int:
        self.active = frozenset(roles)
        self.sequence = []
        self.decode_seconds = dict.fromkeys(roles, 0.0)
        return 0

    def focus(self, roles: Collection[Role]) -> None:
        self.active &= frozenset(roles)

    def truncate(self, n_past: int) -> None:
        del self.sequence[n_past:]

    def decode(
        self, tokens: list[int], n_rows: int = 1, *, abortable: bool = False
    ) -> dict[Role, Row]:
        assert self.active, "decode before start"
        assert 0 < len(tokens) <= self.n_batch
        assert 0 <= n_rows <= len(tokens)
        assert len(self.sequence) + len(tokens) <= self.n_ctx, "the context is full"
        self.calls.append(Decode(list(tokens), n_rows, abortable))
        self.sequence += tokens
        if not n_rows:
            return {}
        ends = range(len(self.sequence) - n_rows + 1, len(self.sequence) + 1)
        return {
            role: np.stack([self.script(role, self.sequence[:end]) for end in ends])
            for role in self.active
        }


@dataclass
class FirstChoice:
    """The engine's ``Chooser``: takes the argmax, and remembers what it was told."""

    prompt: list[int] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)

    def choose(self, logits: Row, best: int) -> int:
        return best

    def accept(self, token: int) -> None:
        self.accepted.append(token)

    def accept_prompt(self, tokens: list[int]) -> None:
        self.prompt = list(tokens)
