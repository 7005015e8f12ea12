"""What a sequence hands to the models, and one sequence of a trio by hand."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from trimix_edge.config import Role


class Feed(NamedTuple):
    """What one sequence adds to a step.

    Attributes:
        seq: the sequence, from 0 to ``n_parallel - 1``.
        tokens: ids that are appended to it.
        n_rows: logits are computed for this many of the last ones.
        roles: the models that evaluate them.
    """

    seq: int
    tokens: Sequence[int]
    n_rows: int
    roles: Collection[Role]


class Sequences(Protocol):
    """What :class:`TrioSequence` needs of a :class:`~trimix_edge.decoding.trio.Trio`."""

    def held(self, seq: int, roles: Collection[Role], prompt: Sequence[int]) -> int: ...
    def begin(self, seq: int, roles: Collection[Role], source: int, n_kept: int) -> None: ...
    def truncate(self, seq: int, n_past: int, roles: Collection[Role]) -> None: ...
    def decode(
        self, feeds: Sequence[Feed], *, is_cancelled: Callable[[], bool] | None = None
    ) -> Mapping[Role, npt.NDArray[np.float32]]: ...


class TrioSequence:
    """One sequence of a trio, by hand: for teacher forcing, and for loops of one's own.

    Attributes:
        n_kept: tokens that it begins with, as the contexts still held them.
    """

    def __init__(self, trio: Sequences, roles: Collection[Role], seq: int, prompt: Sequence[int]):
        self._trio = trio
        self._roles = frozenset(roles)
        self._seq = seq
        held = trio.held(seq, self._roles, prompt)
        self.n_kept = max(0, min(held, len(prompt) - 1))
        trio.begin(seq, self._roles, seq, self.n_kept)

    def decode(
        self, tokens: Sequence[int], n_rows: int = 1, *, abortable: bool = False
    ) -> Mapping[Role, npt.NDArray[np.float32]]:
        """Append tokens; see :meth:`Trio.decode`.

        Args:
            abortable: let Ctrl-C stop the computation.
        """
        return self._trio.decode(
            [Feed(self._seq, tokens, n_rows, self._roles)],
            is_cancelled=never if abortable else None,
        )

    def truncate(self, n_past: int) -> None:
        """Forget every token after the first ``n_past``."""
        self._trio.truncate(self._seq, n_past, self._roles)


def never() -> bool:
    """For decodes that Ctrl-C alone may stop."""
    return False


def common_prefix(held: Sequence[int], prompt: Sequence[int]) -> int:
    """How many tokens two texts begin with in common."""
    n = min(len(held), len(prompt))
    return next((i for i in range(n) if held[i] != prompt[i]), n)
