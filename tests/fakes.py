"""Stand-ins for the models: scripted logits, and a tokenizer whose tokens are bytes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
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
    roles: frozenset[Role] = frozenset()


@dataclass
class Clock:
    """Time that passes in the models alone."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def _free(role: Role, n_tokens: int) -> float:
    return 0.0


@dataclass
class FakeModels:
    """The engine's ``Models``: answers from a script, refuses what a trio would refuse.

    Attributes:
        sequences: what each role has read; they differ in the middle of a round only.
        price: seconds of a role's batch of so many tokens, padding included.
    """

    script: Script
    n_ctx: int = 64
    n_batch: int = 8
    sequences: dict[Role, list[int]] = field(default_factory=dict)
    calls: list[Decode] = field(default_factory=list)
    active: frozenset[Role] = frozenset()
    decode_seconds: dict[Role, float] = field(default_factory=dict)
    clock: Clock = field(default_factory=Clock)
    price: Callable[[Role, int], float] = _free

    @property
    def max_rows(self) -> int:
        return min(self.n_batch, 5)

    @property
    def sequence(self) -> list[int]:
        """What all active roles have read."""
        first, *others = (self.sequences[role] for role in self.active)
        assert all(other == first for other in others), "roles are out of step"
        return first

    def start(self, roles: Collection[Role], prompt: list[int]) -> int:
        self.active = frozenset(roles)
        self.sequences = {role: [] for role in roles}
        self.decode_seconds = dict.fromkeys(roles, 0.0)
        return 0

    def focus(self, roles: Collection[Role]) -> None:
        self.active &= frozenset(roles)

    def truncate(self, n_past: int) -> None:
        for role in self.active:
            del self.sequences[role][n_past:]

    def decode(
        self,
        tokens: list[int],
        n_rows: int = 1,
        *,
        roles: Collection[Role] | None = None,
        padding: Mapping[Role, int] | None = None,
        abortable: bool = False,
    ) -> dict[Role, Row]:
        assert self.active, "decode before start"
        running = self.active if roles is None else self.active & frozenset(roles)
        assert running, "decode of roles that are not active"
        assert 0 < len(tokens) <= self.n_batch
        assert 0 <= n_rows <= len(tokens)
        self.calls.append(Decode(list(tokens), n_rows, abortable, running))
        for role in running:
            assert len(self.sequences[role]) + len(tokens) <= self.n_ctx, "the context is full"
            self.sequences[role] += tokens
            seconds = self.price(role, len(tokens) + (padding or {}).get(role, 0))
            self.decode_seconds[role] += seconds
            self.clock.now += seconds
        if not n_rows:
            return {}
        return {role: self._rows(role, n_rows) for role in running}

    def _rows(self, role: Role, n_rows: int) -> Row:
        read = self.sequences[role]
        ends = range(len(read) - n_rows + 1, len(read) + 1)
        return np.stack([self.script(role, read[:end]) for end in ends])


@dataclass
class FirstChoice:
    """The engine's ``Chooser``: takes the argmax, and remembers what it was told."""

    prompt: list[int] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)
    clones: list[FirstChoice] = field(default_factory=list)
    closed: bool = False

    def choose(self, logits: Row, best: int) -> int:
        assert not self.closed
        return best

    def accept(self, token: int) -> None:
        assert not self.closed
        self.accepted.append(token)

    def accept_prompt(self, tokens: list[int]) -> None:
        self.prompt = list(tokens)

    def clone(self) -> FirstChoice:
        other = FirstChoice(list(self.prompt), list(self.accepted))
        self.clones.append(other)
        return other

    def close(self) -> None:
        self.closed = True
