"""Weights that are chosen for each prompt, from the paper's grid."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence

import numpy as np
import numpy.typing as npt
from trimix_kernels import (
    grid_entropy,
    grid_nll,
)

from trimix_edge.config import (
    FusionWeights,
    Plausibility,
    Role,
)
from trimix_edge.errors import TrioConfigError, notice
from trimix_edge.fusion.linear import LinearFusion
from trimix_edge.fusion.rule import (
    Fused,
    FusedBuffer,
    TrioLogits,
)
from trimix_edge.fusion.scripts import tokens_of_script
from trimix_edge.weights import ScriptChoice, WeightChoice

GRID = np.array([0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
"""The paper's values of each weight."""

_UNREAD = FusionWeights(0.1, 0.9)
"""For a prompt of one token, which says nothing: what the paper's method chose most often."""


class WeightGrid:
    """The pairs of the paper's grid: 36, or with two models the 6 that leave nothing over.

    Args:
        roles: those that can be run. Without ``small_base`` its weight has to be 0.

    Raises:
        TrioConfigError: neither all three nor ``large_ins`` and ``small_cpt``.
    """

    def __init__(self, roles: Collection[Role]) -> None:
        missing = [str(r) for r in (Role.LARGE_INS, Role.SMALL_CPT) if r not in roles]
        if missing:
            raise TrioConfigError(
                f"weights chosen by prompt need large_ins and small_cpt: {', '.join(missing)} has "
                f"no file"
            )
        self.has_base = Role.SMALL_BASE in roles
        self.roles = tuple(role for role in Role if role is not Role.SMALL_BASE or self.has_base)
        # With two models the third weight's share goes to small_cpt: see trimix_kernels.score.
        self.cpt = GRID if self.has_base else np.zeros(1)
        self.pairs = [
            FusionWeights(float(w), float(v) if self.has_base else float(1 - w))
            for w in GRID
            for v in self.cpt
        ]

    def rows(self, logits: TrioLogits) -> list[npt.NDArray[np.float32]]:
        """The rows of the three weights, in the kernels' order."""
        small = logits[Role.SMALL_CPT]
        return [
            logits[Role.LARGE_INS],
            small,
            logits[Role.SMALL_BASE] if self.has_base else small,
        ]

    def nll(
        self, logits: TrioLogits, targets: npt.NDArray[np.int32], n_vocab: int
    ) -> npt.NDArray[np.float64]:
        """Nats of each row's target under each pair, float64 ``[n_rows, n_pairs]``."""
        found = np.empty((len(targets), len(GRID), len(self.cpt)))
        a, b, c = self.rows(logits)
        grid_nll(a, b, c, GRID, self.cpt, targets, n_vocab, found)
        return found.reshape(len(targets), -1)

    def entropy(self, logits: TrioLogits, n_vocab: int) -> npt.NDArray[np.float64]:
        """Nats of the first row's entropy under each pair, float64 ``[n_pairs]``."""
        found = np.empty((1, len(GRID), len(self.cpt)))
        a, b, c = self.rows(logits)
        grid_entropy(a, b, c, GRID, self.cpt, n_vocab, found)
        return found.ravel()


class DynamicFusion:
    """TriMix with weights chosen for one prompt (paper, section 3): no labels, no extra model pass.

    Until they are chosen the rule needs all roles of the grid; afterwards it is a
    :class:`LinearFusion`, and a role of weight 0 is run no more where the prompt was read.

    Args:
        choice: the perplexity of the prompt, or of its tokens of one script, or the entropy of the
            first generated token. ``AUTO`` is ``ALL`` here, as a rule knows of no trio.
        roles: those that can be run.
        n_vocab, plausibility, buffer: as for :class:`LinearFusion`.
        token_bytes: the bytes of a token; of no use without a script.
    """

    def __init__(
        self,
        choice: WeightChoice | ScriptChoice,
        roles: Collection[Role],
        n_vocab: int,
        plausibility: Plausibility | None = None,
        buffer: FusedBuffer | None = None,
        token_bytes: Callable[[int], bytes] | None = None,
    ) -> None:
        self.plausibility = plausibility
        self.reads_prompt = choice is not WeightChoice.ENTROPY
        self.chosen_by = str(WeightChoice.ALL if choice is WeightChoice.AUTO else choice)
        self._choice = choice
        self._token_bytes = token_bytes
        self._counts: npt.NDArray[np.bool_] | None = None
        self._n_seen = 0
        self._buffer = buffer
        self._grid = WeightGrid(roles)
        self._n_vocab = n_vocab
        self._nats = np.zeros(len(self._grid.pairs))
        self._n_read = 0
        self._chosen: LinearFusion | None = None

    @property
    def weights(self) -> FusionWeights | None:
        """The chosen pair; None before the choice."""
        return self._chosen.weights if self._chosen else None

    @property
    def nats(self) -> npt.NDArray[np.float64]:
        """What the counted tokens that were read cost under each pair of :class:`WeightGrid`,
        float64 ``[n_pairs]``."""
        return np.array(self._nats)

    @property
    def key(self) -> Hashable:
        return self._chosen.key if self._chosen else id(self)

    @property
    def needs(self) -> frozenset[Role]:
        if self._chosen is not None:
            return self._chosen.needs
        judges = {self.plausibility.role} if self.plausibility else set()
        return frozenset(self._grid.roles) | judges

    def begin(self, prompt: Sequence[int]) -> None:
        if not isinstance(self._choice, ScriptChoice):
            return
        assert self._token_bytes is not None, "a script needs the bytes of tokens"
        script = self._choice.script
        # The first token is no target, but it may hold the first part of a character.
        counts = tokens_of_script([self._token_bytes(token) for token in prompt], script)[1:]
        if counts.any():
            self._counts = counts
            return
        self.chosen_by = str(WeightChoice.ALL)
        notice(
            f"the prompt has no text in the script {script} that weights could be chosen on: all "
            f"of it counts, as with weights auto:all"
        )

    def observe(self, logits: TrioLogits, targets: Sequence[int]) -> None:
        ids = np.array(targets, np.int32)
        if self._counts is not None:
            counted = self._counts[self._n_seen : self._n_seen + len(ids)]
            self._n_seen += len(ids)
            if not counted.all():
                logits = {role: logits[role][: len(ids)][counted] for role in self._grid.roles}
                ids = ids[counted]
        if len(ids):
            self._nats += self._grid.nll(logits, ids, self._n_vocab).sum(axis=0)
            self._n_read += len(ids)

    def _choose(self, figures: npt.NDArray[np.float64]) -> None:
        usable = np.where(np.isfinite(figures), figures, np.inf)
        pair = self._grid.pairs[int(np.argmin(usable))] if np.isfinite(usable).any() else _UNREAD
        self._chosen = LinearFusion(pair, self._n_vocab, self.plausibility, self._buffer)

    def fuse(self, logits: TrioLogits) -> Fused:
        if self._chosen is None:
            if self._choice is WeightChoice.ENTROPY:
                self._choose(self._grid.entropy(logits, self._n_vocab))
            else:
                self._choose(self._nats if self._n_read else np.full(1, np.inf))
        assert self._chosen is not None
        return self._chosen.fuse(logits)

    def shares(
        self, logits: TrioLogits, row: int, fused_row: npt.NDArray[np.float32], token: int
    ) -> dict[Role, float]:
        assert self._chosen is not None, "nothing has been fused yet"
        return self._chosen.shares(logits, row, fused_row, token)
