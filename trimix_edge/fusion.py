"""The fusion rules: they own the output buffer and call the kernels."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from trimix_kernels import (
    argmax,
    fuse_three,
    fuse_two,
    mask_implausible,
)

from trimix_edge.config import (
    FusionWeights,
    Plausibility,
    Role,
)

TrioLogits = Mapping[Role, npt.NDArray[np.float32]]
"""Raw logits by role, float32 ``[n_rows, >= n_vocab]``, as :meth:`Trio.decode` returns them. A role
that no one needs is absent."""


class Evaluated(NamedTuple):
    """What the models say after the last emitted token, and after each of some drafted ones.

    Attributes:
        logits: of each role ``len(draft) + 1`` rows.
        draft: guesses at the next tokens; row ``i`` follows the first ``i`` of them.
    """

    logits: TrioLogits
    draft: Collection[int]


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
    def reads_prompt(self) -> bool:
        """Whether the rule wants to see the logits of every token of the prompt."""

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
        a role that preferred the token, negative for one that was overruled. All 0 on a tie.

        Args:
            logits: what was fused.
            row: which row of it.
            fused_row: float32 ``[n_vocab]``, what became of it.
            token: the id that was chosen, by whatever sampler.
        """


class LinearFusion:
    """``L = w_large·L_large_ins + w_cpt·L_small_cpt + w_base·L_small_base`` (paper, section 3).

    TriMix, Proxy Tuning and each model alone, depending on the weights.

    Args:
        weights: roles of weight 0 are not read.
        n_vocab: shared vocabulary size.
        plausibility: the optional mask, applied to the sum.
    """

    def __init__(
        self, weights: FusionWeights, n_vocab: int, plausibility: Plausibility | None = None
    ) -> None:
        self._fixed = weights
        self.plausibility = plausibility
        self.reads_prompt = False
        self._n_vocab = n_vocab
        self._buffer = FusedBuffer(n_vocab)
        self._roles = weights.roles
        self._weights = [np.float32(weights.of(role)) for role in self._roles]

    @property
    def weights(self) -> FusionWeights:
        return self._fixed

    @property
    def needs(self) -> frozenset[Role]:
        judges = {self.plausibility.role} if self.plausibility else set()
        return frozenset(self._roles) | judges

    def observe(self, logits: TrioLogits, targets: Sequence[int]) -> None:
        """Fixed weights learn nothing from a prompt."""

    def fuse(self, logits: TrioLogits) -> Fused:
        rows = [logits[role] for role in self._roles]
        fused = self._buffer.rows(len(rows[0]))
        out, best = fused
        w = self._weights
        if len(rows) == 3:
            fuse_three(rows[0], rows[1], rows[2], w[0], w[1], w[2], out, best)
        elif len(rows) == 2:
            fuse_two(rows[0], rows[1], w[0], w[1], out, best)
        else:  # the weights add up to 1: a single role has all of it
            np.copyto(out, rows[0][:, : self._n_vocab])
            argmax(out, best)
        if self.plausibility is not None:
            judge = logits[self.plausibility.role]
            mask_implausible(judge, self.plausibility.alpha, out, best)
        return fused

    def shares(
        self, logits: TrioLogits, row: int, fused_row: npt.NDArray[np.float32], token: int
    ) -> dict[Role, float]:
        weights = {role: self._fixed.of(role) for role in self._roles}
        return shares_of_lead(logits, row, fused_row, token, weights)


def shares_of_lead(
    logits: TrioLogits,
    row: int,
    fused_row: npt.NDArray[np.float32],
    token: int,
    weights: Mapping[Role, float],
) -> dict[Role, float]:
    others = fused_row.copy()
    others[token] = -np.inf
    rival = int(np.argmax(others))
    pulls = {}
    for role, weight in weights.items():
        pull = weight * (float(logits[role][row, token]) - float(logits[role][row, rival]))
        pulls[role] = pull if math.isfinite(pull) else 0.0
    total = sum(map(abs, pulls.values())) or 1.0
    return {role: pull / total for role, pull in pulls.items()}
