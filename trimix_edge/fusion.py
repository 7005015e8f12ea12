"""The fusion rules: they own the output buffer and call the kernels."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt
from trimix_kernels import argmax, fuse_three, fuse_two, mask_implausible

from trimix_edge.config import FusionWeights, Plausibility, Role

TrioLogits = Mapping[Role, npt.NDArray[np.float32]]
"""Raw logits by role, float32 ``[n_rows, >= n_vocab]``, as :meth:`Trio.decode` returns them. A role
that no one needs is absent."""


class Fused:
    """Fused rows and their argmax; overwritten by the next fusion.

    Attributes:
        logits: float32 ``[n_rows, n_vocab]``.
        best: int32 ``[n_rows]``: the argmax, ties to the lowest id, -1 where nothing is finite.
    """

    def __init__(self, n_rows: int, n_vocab: int) -> None:
        self.logits: npt.NDArray[np.float32] = np.empty((n_rows, n_vocab), np.float32)
        self.best: npt.NDArray[np.int32] = np.empty(n_rows, np.int32)


class FusionRule(Protocol):
    """How the logits of several models become one row."""

    @property
    def needs(self) -> Collection[Role]:
        """The roles whose logits the rule reads."""

    def fuse(self, logits: TrioLogits) -> Fused:
        """Fuse all rows, of which each role in ``needs`` has the same number."""


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
        self.weights = weights
        self.plausibility = plausibility
        self._n_vocab = n_vocab
        self._roles = weights.roles
        self._weights = [np.float32(weights.of(role)) for role in self._roles]
        self._fused = Fused(1, n_vocab)

    @property
    def needs(self) -> frozenset[Role]:
        judges = {self.plausibility.role} if self.plausibility else set()
        return frozenset(self._roles) | judges

    def fuse(self, logits: TrioLogits) -> Fused:
        rows = [logits[role] for role in self._roles]
        if len(self._fused.best) != len(rows[0]):
            self._fused = Fused(len(rows[0]), self._n_vocab)
        out, best = self._fused.logits, self._fused.best
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
        return self._fused
