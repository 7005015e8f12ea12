"""Fixed weights: TriMix, Proxy Tuning, and each model alone."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from trimix_kernels import argmax, fuse_three, fuse_two, mask_implausible

from trimix_edge.config import FusionWeights, Plausibility, Role
from trimix_edge.fusion.rule import Fused, FusedBuffer, TrioLogits


class LinearFusion:
    """``L = w_large·L_large_ins + w_cpt·L_small_cpt + w_base·L_small_base`` (paper, section 3).

    TriMix, Proxy Tuning and each model alone, depending on the weights.

    Args:
        weights: roles of weight 0 are not read.
        n_vocab: shared vocabulary size.
        plausibility: the optional mask, applied to the sum.
        buffer: for the fused rows, where several rules take turns.
    """

    def __init__(
        self,
        weights: FusionWeights,
        n_vocab: int,
        plausibility: Plausibility | None = None,
        buffer: FusedBuffer | None = None,
    ) -> None:
        self._fixed = weights
        self.plausibility = plausibility
        self.reads_prompt = False
        self.chosen_by = None
        self._n_vocab = n_vocab
        self._buffer = buffer or FusedBuffer(n_vocab)
        self._roles = weights.roles
        judges = {plausibility.role} if plausibility else set()
        self._needs = frozenset(self._roles) | judges
        self._weights = [np.float32(weights.of(role)) for role in self._roles]

    @property
    def weights(self) -> FusionWeights:
        return self._fixed

    @property
    def key(self) -> Hashable:
        return self._fixed, self.plausibility

    @property
    def needs(self) -> frozenset[Role]:
        return self._needs

    def begin(self, prompt: Sequence[int]) -> None:
        """Fixed weights learn nothing from a prompt."""

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
    """:meth:`FusionRule.shares` under the weights of one step."""
    rival = _best_other(fused_row, token)
    if rival == token or fused_row[rival] == -np.inf:  # a mask left one token
        n_vocab = len(fused_row)
        unmasked = [np.float32(w) * logits[role][row, :n_vocab] for role, w in weights.items() if w]
        rival = _best_other(np.sum(unmasked, axis=0), token)
    pulls = {}
    for role, weight in weights.items():
        pull = weight * (float(logits[role][row, token]) - float(logits[role][row, rival]))
        pulls[role] = pull if math.isfinite(pull) else 0.0
    total = sum(map(abs, pulls.values())) or 1.0
    return {role: pull / total for role, pull in pulls.items()}


def _best_other(row: npt.NDArray[np.float32], token: int) -> int:
    others = row.copy()
    others[token] = -np.inf
    return int(np.argmax(others))
