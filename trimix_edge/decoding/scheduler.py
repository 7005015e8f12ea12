"""Which sequences run, where in the contexts, and which tokens the next step evaluates."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from trimix_edge.config import Role
from trimix_edge.decoding.feed import common_prefix
from trimix_edge.decoding.sequence import Sequence as TokenSequence
from trimix_edge.fusion.rule import TrioLogits


class Places(Protocol):
    """What the scheduler needs of a :class:`~trimix_edge.decoding.trio.Trio`."""

    @property
    def n_batch(self) -> int: ...
    @property
    def n_parallel(self) -> int: ...
    @property
    def max_rows(self) -> int: ...
    def held(self, seq: int, roles: Collection[Role], prompt: Sequence[int]) -> int: ...
    def n_past(self, seq: int, roles: Collection[Role]) -> int: ...
    def begin(self, seq: int, roles: Collection[Role], source: int, n_kept: int) -> None: ...


@dataclass
class Work:
    """What a sequence adds to this step: the next tokens of its prompt, or its last token.

    Attributes:
        n_rows: logits are computed for this many of the last tokens.
        draft: tokens that were drafted after the last one.
        reads: whether the tokens are a part of the prompt.
    """

    sequence: TokenSequence
    tokens: list[int]
    n_rows: int
    draft: list[int] = field(default_factory=list)
    reads: bool = False


@dataclass
class Group:
    """Work of sequences whose rules fuse alike: one call for all of its rows."""

    roles: Collection[Role]
    work: list[Work] = field(default_factory=list)
    logits: TrioLogits = field(default_factory=dict)

    @property
    def n_rows(self) -> int:
        return sum(work.n_rows for work in self.work)


class Scheduler:
    """Owner of the queue and of the places in the contexts.

    :meth:`add` may be called from any thread, the rest from one at a time.
    """

    def __init__(self, models: Places) -> None:
        self._models = models
        self.waiting: deque[TokenSequence] = deque()
        self.running: list[TokenSequence] = []
        self._order = deque(range(models.n_parallel))  # the least recently used first

    @property
    def free(self) -> list[int]:
        """Places that no sequence takes, the least recently used first."""
        taken = {sequence.seq for sequence in self.running}
        return [seq for seq in self._order if seq not in taken]

    def add(self, sequence: TokenSequence) -> None:
        self.waiting.append(sequence)

    def remove(self, sequence: TokenSequence) -> None:
        """Free its place; what its contexts hold may begin another prompt."""
        if sequence in self.waiting:
            self.waiting.remove(sequence)
        if sequence in self.running:
            self.running.remove(sequence)
            self._order.remove(sequence.seq)
            self._order.append(sequence.seq)

    def admit(self) -> None:
        """Start waiting sequences while there is room, the first come first.

        Each begins with the longest part of its prompt that any sequence holds. One whose prompt
        begins like one that is being read just now waits until that part can be copied.
        """
        for sequence in tuple(self.waiting):
            free = self.free
            if not free:
                return
            roles = sequence.rule.needs
            seq, source, n_kept = free[0], free[0], 0
            if sequence.reuse and not sequence.rule.reads_prompt:  # that needs every row
                source, n_kept = self._longest_prefix(sequence.prompt, roles)
                if self._coming(sequence) > n_kept:
                    continue
                is_whole = source in free and n_kept == self._models.n_past(source, roles)
                seq = source if is_whole and n_kept else seq
            self._models.begin(seq, roles, source, n_kept)
            sequence.seq, sequence.n_read, sequence.n_kept = seq, n_kept, n_kept
            self.waiting.remove(sequence)
            self.running.append(sequence)

    def _longest_prefix(self, prompt: list[int], roles: Collection[Role]) -> tuple[int, int]:
        """Which sequence of the contexts holds most of a prompt's beginning, and how much of it;
        the last token is not counted, as its logits are needed."""
        held = [self._models.held(seq, roles, prompt) for seq in range(self._models.n_parallel)]
        source = int(np.argmax(held))
        return source, min(held[source], len(prompt) - 1)

    def _coming(self, sequence: TokenSequence) -> int:
        """Tokens of the prompt's beginning that a running sequence is about to read."""
        roles, prompt = set(sequence.rule.needs), sequence.prompt
        shared = (
            common_prefix(other.prompt, prompt)
            for other in self.running
            if other.is_reading and roles <= set(other.rule.needs)
        )
        return min(max(shared, default=0), len(prompt) - 1)

    def schedule(self) -> list[Group]:
        """The tokens of this step: one for each sequence that generates, and as much of the
        prompts, the first come first, as the batch has room for."""
        groups: dict[Hashable, Group] = {}
        n_tokens, n_rows = self._models.n_batch, self._models.max_rows

        def add(work: Work) -> None:
            rule = work.sequence.rule
            groups.setdefault(rule.key, Group(rule.needs)).work.append(work)

        for sequence in self.running:
            if not sequence.is_reading:
                add(Work(sequence, [sequence.last], 1))
                n_tokens, n_rows = n_tokens - 1, n_rows - 1
        for sequence in self.running:
            if sequence.is_reading:
                rest = sequence.prompt[sequence.n_read :]
                if sequence.rule.reads_prompt:  # a row of logits for each token
                    tokens = rest[: min(n_tokens, n_rows)]
                    wanted = len(tokens)
                else:
                    tokens = rest[: n_tokens if n_rows else min(n_tokens, len(rest) - 1)]
                    wanted = int(len(tokens) == len(rest))
                if tokens:
                    add(Work(sequence, tokens, wanted, reads=True))
                    n_tokens, n_rows = n_tokens - len(tokens), n_rows - wanted
        return list(groups.values())
