"""SAF-W: the scorer's endorsement of the host's proposal is the mixing weight."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt
from trimix_kernels import (
    argmax,
    fuse_saf,
    mask_implausible,
    token_logprobs,
)

from trimix_edge.config import (
    Plausibility,
    Role,
)
from trimix_edge.fusion.linear import shares_of_lead
from trimix_edge.fusion.rule import (
    Fused,
    FusedBuffer,
    TrioLogits,
)


class SafFusion:
    """SAF-W: ``L = e·L_host + (1 - e)·L_scorer``, with ``e`` the probability that the scorer gives
    to the host's first choice.

    Args:
        host: ``large_ins`` or ``small_cpt``; the other one is the scorer.
        n_vocab, plausibility, buffer: as for :class:`LinearFusion`.
    """

    def __init__(
        self,
        host: Role,
        n_vocab: int,
        plausibility: Plausibility | None = None,
        buffer: FusedBuffer | None = None,
    ) -> None:
        self.host = host
        self.scorer = Role.SMALL_CPT if host is Role.LARGE_INS else Role.LARGE_INS
        self.weights = None
        self.plausibility = plausibility
        judges = {plausibility.role} if plausibility else set()
        self._needs = frozenset({self.host, self.scorer}) | judges
        self.reads_prompt = False
        self.chosen_by = None
        self._n_vocab = n_vocab
        self._buffer = buffer or FusedBuffer(n_vocab)

    @property
    def key(self) -> Hashable:
        return self.host, self.plausibility

    @property
    def needs(self) -> frozenset[Role]:
        return self._needs

    def begin(self, prompt: Sequence[int]) -> None:
        """The mixing weight comes from each step's own rows."""

    def observe(self, logits: TrioLogits, targets: Sequence[int]) -> None:
        """The mixing weight comes from each step's own rows."""

    def fuse(self, logits: TrioLogits) -> Fused:
        fused = self._buffer.rows(len(logits[self.host]))
        fuse_saf(logits[self.host], logits[self.scorer], fused.logits, fused.best)
        if self.plausibility is not None:
            judge = logits[self.plausibility.role]
            mask_implausible(judge, self.plausibility.alpha, fused.logits, fused.best)
        return fused

    def shares(
        self, logits: TrioLogits, row: int, fused_row: npt.NDArray[np.float32], token: int
    ) -> dict[Role, float]:
        part = slice(row, row + 1)
        proposal, logprob = np.empty(1, np.int32), np.empty(1)
        argmax(logits[self.host][part, : self._n_vocab], proposal)
        scorer = logits[self.scorer][part]
        token_logprobs(scorer, proposal, self._n_vocab, logprob, np.empty(1, np.bool_))
        endorsement = float(np.exp(logprob[0]))
        weights = {self.host: endorsement, self.scorer: 1 - endorsement}
        return shares_of_lead(logits, row, fused_row, token, weights)
