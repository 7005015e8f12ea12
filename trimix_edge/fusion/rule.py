"""What a fusion rule is, and the memory that fused rows are written to."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from trimix_edge.config import (
    FusionWeights,
    Role,
)

TrioLogits = Mapping[Role, npt.NDArray[np.float32]]
"""Raw logits by role, float32 ``[n_rows, >= n_vocab]``, as :meth:`Trio.decode` returns them. A role
that no one needs is absent."""


class Fused(NamedTuple):
    """Fused rows and their argmax; overwritten by the next fusion.

    Attributes:
        logits: float32 ``[n_rows, n_vocab]``.
        best: int32 ``[n_rows]``: the argmax, ties to the lowest id, -1 where nothing is finite.
    """

    logits: npt.NDArray[np.float32]
    best: npt.NDArray[np.int32]


class FusedBuffer:
    """The memory of fused rows. It grows with the largest batch and is never given back: a fresh
    array for each batch would cost more than the fusion, in page faults."""

    def __init__(self, n_vocab: int) -> None:
        self._n_vocab = n_vocab
        self._views: dict[int, Fused] = {}
        self._grow(1)

    def _grow(self, n_rows: int) -> None:
        logits = np.empty((n_rows, self._n_vocab), np.float32)
        best = np.empty(n_rows, np.int32)
        self._views = {n: Fused(logits[:n], best[:n]) for n in range(1, n_rows + 1)}

    def rows(self, n_rows: int) -> Fused:
        """The first ``n_rows`` rows."""
        if n_rows not in self._views:
            self._grow(n_rows)
        return self._views[n_rows]


class FusionRule(Protocol):
    """How the logits of several models become one row. A rule serves one generation."""

    @property
    def needs(self) -> Collection[Role]:
        """The roles whose logits the rule reads; fewer, if it likes, once the prompt is read."""

    @property
    def key(self) -> Hashable:
        """Rules with equal keys fuse alike: one call for the rows of all of them."""

    @property
    def reads_prompt(self) -> bool:
        """Whether the rule wants to see the logits of every token of the prompt."""

    @property
    def chosen_by(self) -> str | None:
        """How the weights were chosen for this prompt, ``auto:Tibt``, ``auto:all`` or ``entropy``;
        None where no prompt has a say in them. Certain once the prompt has begun."""

    def begin(self, prompt: Sequence[int]) -> None:
        """Hear of the prompt, all of its ids, before any of it is read."""

    def observe(self, logits: TrioLogits, targets: Sequence[int]) -> None:
        """Read the prompt, a piece at a time, before the first fusion.

        Args:
            logits: rows after consecutive tokens of the prompt.
            targets: the tokens that follow them, one a row; the row after the last token of the
                prompt is not among them.
        """

    def fuse(self, logits: TrioLogits) -> Fused:
        """Fuse all rows, of which each role in ``needs`` has the same number."""

    @property
    def weights(self) -> FusionWeights | None:
        """The weights in force; None where they change from token to token."""

    def shares(
        self, logits: TrioLogits, row: int, fused_row: npt.NDArray[np.float32], token: int
    ) -> dict[Role, float]:
        """Which model carried this token.

        With ``t`` the token and ``r`` the best other one of the fused row, the share of a role is
        ``w·(L[t] - L[r])`` of its logits, divided by the sum of all roles' magnitudes: positive for
        a role that preferred the token, negative for one that was overruled. So the magnitudes
        add up to 1; all shares are 0 where no role preferred either of the two.

        Where a mask left no other token, ``r`` is the best other one without the mask.

        Args:
            logits: what was fused.
            row: which row of it.
            fused_row: float32 ``[n_vocab]``, what became of it.
            token: the id that was chosen, by whatever sampler.
        """
