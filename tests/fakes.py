"""Stand-ins for the models: scripted logits, and a tokenizer whose tokens are bytes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from trimix_edge.config import Role
from trimix_edge.decoding.feed import Feed, common_prefix
from trimix_edge.errors import DecodeError

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
class FakeModels:
    """The engine's ``Models``: answers from a script, refuses what a trio would refuse.

    Attributes:
        held: what each role has read, by sequence.
        calls: the feeds of each decode.
        price: seconds that a role's batch of so many tokens takes on ``clock``.
    """

    script: Script
    n_ctx: int = 64
    n_batch: int = 8
    n_parallel: int = 1
    calls: list[list[Feed]] = field(default_factory=list)
    abortable: list[bool] = field(default_factory=list)
    begun: list[tuple[int, int, int]] = field(default_factory=list)
    clock: float = 0.0
    price: Callable[[Role, int], float] = lambda role, n_tokens: 0.0
    on_decode: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self.decode_seconds = dict.fromkeys(Role, 0.0)
        self.held_tokens: dict[tuple[Role, int], list[int]] = {
            (role, seq): [] for role in Role for seq in range(self.n_parallel)
        }

    @property
    def max_rows(self) -> int:
        return max(5, self.n_parallel)

    def held(self, seq: int, roles: Collection[Role], prompt: Sequence[int]) -> int:
        return min(common_prefix(self.held_tokens[role, seq], prompt) for role in roles)

    def n_past(self, seq: int, roles: Collection[Role]) -> int:
        return max(len(self.held_tokens[role, seq]) for role in roles)

    def begin(self, seq: int, roles: Collection[Role], source: int, n_kept: int) -> None:
        self.begun.append((seq, source, n_kept))
        for role in roles:
            self.held_tokens[role, seq] = self.held_tokens[role, source][:n_kept]

    def truncate(self, seq: int, n_past: int, roles: Collection[Role]) -> None:
        for role in roles:
            del self.held_tokens[role, seq][n_past:]

    def decode(
        self, feeds: Sequence[Feed], *, is_cancelled: Callable[[], bool] | None = None
    ) -> dict[Role, Row]:
        assert 0 < sum(len(feed.tokens) for feed in feeds) <= max(self.n_batch, self.max_rows)
        assert sum(feed.n_rows for feed in feeds) <= self.max_rows
        assert len({feed.seq for feed in feeds}) == len(feeds), "a sequence twice in a batch"
        self.on_decode()
        if is_cancelled is not None and is_cancelled():
            raise DecodeError("fake", 2)
        self.calls.append([feed._replace(tokens=list(feed.tokens)) for feed in feeds])
        self.abortable.append(is_cancelled is not None)
        rows: dict[Role, list[Row]] = {}
        for role in Role:
            mine = [feed for feed in feeds if role in feed.roles]
            for feed in mine:
                held = self.held_tokens[role, feed.seq]
                held += feed.tokens
                assert len(held) <= self.n_ctx, "the context is full"
                ends = range(len(held) - feed.n_rows + 1, len(held) + 1)
                rows.setdefault(role, []).extend(self.script(role, held[:end]) for end in ends)
            if mine:
                seconds = self.price(role, sum(len(feed.tokens) for feed in mine))
                self.decode_seconds[role] += seconds
                self.clock += seconds
        return {role: np.stack(found) for role, found in rows.items() if found}

    def in_step(self, seq: int, roles: Collection[Role]) -> list[int]:
        """What all these roles have read."""
        first, *others = (self.held_tokens[role, seq] for role in roles)
        assert all(other == first for other in others), "roles are out of step"
        return first


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
