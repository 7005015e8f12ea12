"""Speculative decoding: tokens are drafted cheaply, and verified by all models in one batch.

Propose: the end of the text is looked up in the text before (n-gram lookup: prompt lookup decoding,
Saxena 2023); where it did not occur, ``small_cpt`` drafts on its own, as long as its probability
stays above ``p_min``. ``small_cpt`` has most of the weight in the fusion, and its logits at the
drafted positions are needed for it anyway (collaborative speculation, Fu et al., ICML 2025).

Verify: all models evaluate the drafted tokens in one batch each. The engine fuses every row and
chooses from it; a drafted token is emitted only where the engine chooses the same one (Leviathan,
Kalman and Matias, ICML 2023).

Policy: how many tokens to draft is a bandit problem, after BanditSpec (Hou et al., ICML 2025): see
:class:`~trimix_edge.decoding.bandit.EpsilonGreedy`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from time import perf_counter
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from trimix_kernels import argmax, peak_probability

from trimix_edge.config import Draft, Role
from trimix_edge.decoding.bandit import EpsilonGreedy
from trimix_edge.decoding.feed import Feed
from trimix_edge.decoding.sequence import Sequence as TokenSequence
from trimix_edge.errors import DecodeError
from trimix_edge.fusion.rule import TrioLogits

DRAFTER = Role.SMALL_CPT
ARMS = (0, 3, 7, 15)
"""Draft lengths that the policy chooses from: with the last token, batches of 1, 4, 8 and 16."""

NGRAM = 3
"""Tokens at the end of the text that are looked up."""


class Models(Protocol):
    """What is needed of a :class:`~trimix_edge.decoding.trio.Trio`."""

    decode_seconds: dict[Role, float]

    @property
    def max_rows(self) -> int: ...
    def decode(self, feeds: Sequence[Feed]) -> TrioLogits: ...


class Evaluated(NamedTuple):
    """The rows after the last token of a sequence, and after each drafted one.

    Attributes:
        logits: of each role ``len(draft) + 1`` rows.
        draft: row ``i`` follows the first ``i`` of these tokens.
    """

    logits: TrioLogits
    draft: list[int]


class NgramIndex:
    """Where each n-gram of one text was followed by something; the text only grows."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}
        self.extend(tokens)

    def extend(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            if len(self._tokens) >= NGRAM:  # the end of the text must not find itself
                self._after[tuple(self._tokens[-NGRAM:])] = len(self._tokens)
            self._tokens.append(token)

    def __len__(self) -> int:
        return len(self._tokens)

    def follow(self, limit: int) -> list[int]:
        """At most ``limit`` tokens that followed the last n-gram when it last stood in the text."""
        at = self._after.get(tuple(self._tokens[-NGRAM:]))
        return [] if at is None else self._tokens[at : at + limit]


class Drafting:
    """Drafts for a sequence that runs alone. What it learns is kept for each set of models.

    Args:
        models: the trio.
        is_end: whether a token ends the generation: nothing is drafted beyond it.
        n_vocab: shared vocabulary size.
    """

    def __init__(self, models: Models, is_end: Callable[[int], bool], n_vocab: int) -> None:
        self._models = models
        self._is_end = is_end
        self._n_vocab = n_vocab
        self._policies: dict[frozenset[Role], EpsilonGreedy] = {}
        self._sequence: TokenSequence | None = None
        self._ngrams = NgramIndex(())
        self._rows = np.empty((0, 0), np.float32)
        self._best = np.empty(1, np.int32)
        self._round: tuple[EpsilonGreedy, int, float] | None = None

    def policy(self, roles: Collection[Role]) -> EpsilonGreedy:
        """What is known about draft lengths with these models."""
        key = frozenset(roles)
        if key not in self._policies:
            arms = [arm for arm in ARMS if arm < self._models.max_rows]
            self._policies[key] = EpsilonGreedy(arms)
        return self._policies[key]

    def run(self, sequence: TokenSequence, limit: int) -> Evaluated:
        """Evaluate the last token of a sequence, and at most ``limit`` drafted ones."""
        start, self._round = perf_counter(), None
        roles, settings = frozenset(sequence.rule.needs), sequence.draft
        policy = self.policy(roles) if settings.n_tokens is None else None
        arm = policy.choose() if policy is not None else settings.n_tokens or 0
        limit = min(arm, limit, self._models.max_rows - 1)
        drafted, own = self._propose(sequence, roles, limit, settings) if limit > 0 else ([], 0)
        batch = [sequence.last, *drafted]
        verifiers = roles - {DRAFTER} if own else roles
        logits = dict(self._models.decode([Feed(sequence.seq, batch, len(batch), verifiers)]))
        if own:
            logits[DRAFTER] = self._rows[: len(batch)]
        sequence.drafted.rounds += bool(drafted)
        sequence.drafted.drafted += len(drafted)
        if policy is not None:
            self._round = policy, arm, start
        return Evaluated(logits, drafted)

    def learn(self, n_emitted: int) -> None:
        """Hear how many tokens the round brought, once they are chosen."""
        if self._round is not None:
            policy, arm, start = self._round
            policy.learn(arm, n_emitted, perf_counter() - start)
            self._round = None

    def _propose(
        self, sequence: TokenSequence, roles: frozenset[Role], limit: int, settings: Draft
    ) -> tuple[list[int], bool]:
        """Drafted tokens, and whether the drafter has evaluated them already."""
        found = self._look_up(sequence, limit) if settings.ngrams else []
        if found:
            sequence.drafted.from_ngrams += len(found)
            return found, False
        if DRAFTER not in roles or len(roles) == 1:
            return [], False
        start, busy = perf_counter(), self._models.decode_seconds[DRAFTER]
        drafted = self._draft(sequence, limit, settings.p_min)
        busy = self._models.decode_seconds[DRAFTER] - busy
        sequence.timings.drafting += perf_counter() - start - busy
        return drafted, True

    def _look_up(self, sequence: TokenSequence, limit: int) -> list[int]:
        if self._sequence is not sequence:
            self._sequence, self._ngrams = sequence, NgramIndex(sequence.prompt)
        self._ngrams.extend(sequence.generated[len(self._ngrams) - len(sequence.prompt) :])
        return self._ngrams.follow(limit)

    def _draft(self, sequence: TokenSequence, limit: int, p_min: float) -> list[int]:
        """Let the drafter go on alone; its rows are kept, as they are fused later."""
        drafted: list[int] = []
        guesser = sequence.sampler.clone()
        try:
            while True:
                token = drafted[-1] if drafted else sequence.last
                row = self._models.decode([Feed(sequence.seq, [token], 1, (DRAFTER,))])[DRAFTER]
                self._keep(row[0], len(drafted))
                if len(drafted) == limit:
                    break
                shared = row[:, : self._n_vocab]
                argmax(shared, self._best)
                if peak_probability(shared[0], self._best[0]) < p_min:
                    break
                try:
                    guess = guesser.choose(shared[0], int(self._best[0]))
                except DecodeError:  # a grammar leaves the drafter nothing
                    break
                if self._is_end(guess):
                    break
                guesser.accept(guess)
                drafted.append(guess)
        finally:
            guesser.close()
        return drafted

    def _keep(self, row: npt.NDArray[np.float32], n: int) -> None:
        """Store a row: the drafter's next decode overwrites its own memory."""
        if self._rows.shape[1] != len(row):
            self._rows = np.empty((self._models.max_rows, len(row)), np.float32)
        self._rows[n] = row
