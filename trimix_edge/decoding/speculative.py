"""Speculative fused decoding: the small model guesses, all models check, in one batch.

``small_cpt`` has most of the say in the fusion, so that its own next tokens are nearly always the
fused ones, and its logits are needed anyway. A round: it evaluates the last token and its own
guesses one by one, keeping each row of logits; the other models evaluate the same tokens in one
batch; the engine fuses all rows and emits as long as it chooses what was guessed, and one token
more. What is emitted is what plain decoding emits, since only the engine chooses. Text that repeats
itself is guessed by looking it up, and then ``small_cpt`` checks in a batch as well.

Leviathan, Kalman and Matias (ICML 2023) for one model; collaborative speculation (Fu et al., ICML
2025) for several that are combined.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from time import perf_counter
from typing import Protocol

import numpy as np
import numpy.typing as npt
from trimix_kernels import argmax, peak_probability

from trimix_edge.config import Draft, Role
from trimix_edge.decoding.acceptance import Acceptance, PhraseBook
from trimix_edge.decoding.experience import DRAFTER, MAX_AUTO, WORTH, Experience, Prices, Trial
from trimix_edge.decoding.sequence import Sequence
from trimix_edge.errors import DecodeError
from trimix_edge.fusion.rule import Evaluated, TrioLogits

_REFRESH = 32
"""Rounds between looks at the costs."""


class Models(Protocol):
    """What is needed of a :class:`~trimix_edge.decoding.trio.Trio`."""

    decode_seconds: dict[Role, float]

    @property
    def active(self) -> Collection[Role]: ...
    @property
    def max_rows(self) -> int: ...
    def decode(
        self,
        tokens: list[int],
        n_rows: int = 1,
        *,
        roles: Collection[Role] | None = None,
        padding: Mapping[Role, int] | None = None,
    ) -> TrioLogits: ...


class Guesser(Protocol):
    """What is needed of a :class:`~trimix_edge.llama.Sampler`: one that guesses like the real one.

    Its noise, penalties and grammar are those of the real sampler, so that they agree as often as
    the distributions do.
    """

    def clone(self) -> Guesser: ...
    def choose(self, logits: npt.NDArray[np.float32], best: int) -> int: ...
    def accept(self, token: int) -> None: ...
    def close(self) -> None: ...


class Speculation:
    """The engine's ``Lookahead`` that guesses.

    Args:
        models: the trio; its sequence is started before the first round, not earlier.
        sampler: the engine's own sampler; only clones of it are used.
        is_end: whether a token ends the generation: nothing is guessed beyond it.
        n_vocab: shared vocabulary size.
        draft: how many tokens to guess.
        experience: shared by the generations of a trio.
        look_up: guess by looking up as well.
    """

    def __init__(
        self,
        models: Models,
        sampler: Guesser,
        is_end: Callable[[int], bool],
        n_vocab: int,
        draft: Draft,
        experience: Experience,
        *,
        look_up: bool = True,
    ) -> None:
        self._models = models
        self._sampler = sampler
        self._is_end = is_end
        self._n_vocab = n_vocab
        self._fixed = draft.n_tokens
        at_most = min(MAX_AUTO, models.max_rows - 1)  # a small --batch has no room for more
        self._max = at_most if draft.n_tokens is None else draft.n_tokens
        self._experience = experience
        self._phrases = PhraseBook() if look_up else None
        self._prices: Prices | None = None
        self._rows = np.empty((0, 0), np.float32)
        self._best = np.empty(1, np.int32)
        self._checks: list[list[tuple[Acceptance, int, int]]] = []
        self._round_seconds = 0.0
        self._n_rounds = 0
        self._trial: Trial | None = None

    def advance(self, sequence: Sequence, limit: int) -> Evaluated:
        start = perf_counter()
        self._checks.clear()
        limit, self._trial = min(limit, self._max), None
        found = self._look_up(sequence, limit) if self._may(self._experience.looking_up) else []
        if found:
            self._trial = self._experience.looking_up
            sequence.draft.looked_up += len(found)
            evaluated = self._verify(sequence, found, self._models.active)
        elif self._may(self._experience.drafting) and limit > 0 and self._can_draft:
            self._trial = self._experience.drafting
            evaluated = self._draft_and_verify(sequence, limit)
        else:
            evaluated = Evaluated(self._models.decode([sequence.last]), ())
        self._round_seconds = perf_counter() - start
        return evaluated

    def learn(self, emitted: list[int], seconds: float) -> None:
        """See which guesses were right; those after the first wrong one were never put to it."""
        for checks in self._checks:  # what was looked up, and what was drafted instead
            for (acceptance, kind, guess), token in zip(checks, emitted, strict=False):
                acceptance.learn(kind, guess == token)
                if guess != token:
                    break
        if self._fixed is not None or not self._round_seconds:
            return
        seconds += self._round_seconds
        if self._trial is None:
            self._experience.remember_plain(seconds)
        else:
            self._trial.remember(len(emitted), seconds, self._experience.plain)

    def _may(self, trial: Trial) -> bool:
        return self._fixed is not None or trial.is_awake()

    @property
    def _can_draft(self) -> bool:
        return DRAFTER in self._models.active and len(self._models.active) > 1

    def _refreshed(self) -> Prices:
        """The prices, of the roles that are active now."""
        if self._prices is None or self._n_rounds % _REFRESH == 0:
            costs, active = self._experience.costs, self._models.active
            self._prices = Prices.of(costs, active)
            plain, thought = self._experience.plain, self._prices.everyone[1]
            if 0.0 < plain < 0.5 * thought:  # measured while the machine did something else
                costs.scale(active, plain / thought)
                self._prices = Prices.of(costs, active)
        return self._prices

    def _draft_and_verify(self, sequence: Sequence, limit: int) -> Evaluated:
        self._n_rounds += 1
        draft = self._draft(sequence, limit)
        others = [role for role in self._models.active if role is not DRAFTER]
        checked = self._verify(sequence, draft, others)
        own = {DRAFTER: self._rows[: len(draft) + 1]}
        return Evaluated({**checked.logits, **own}, draft)

    def _draft(self, sequence: Sequence, limit: int) -> list[int]:
        """Let the drafter go on by itself while its next guess is worth checking."""
        start, busy = perf_counter(), self._models.decode_seconds[DRAFTER]
        draft: list[int] = []
        checks: list[tuple[Acceptance, int, int]] = []
        self._checks.append(checks)
        prices = self._refreshed()
        survival = 1.0
        guesser = self._sampler.clone()
        try:
            while True:
                token = draft[-1] if draft else sequence.last
                row = self._models.decode([token], roles=(DRAFTER,))[DRAFTER]
                self._keep(row[0], len(draft))
                if len(draft) == limit:
                    break
                guess, kind = self._guess(guesser, row[:, : self._n_vocab])
                if guess is None or self._is_end(guess):
                    break
                if self._fixed is None:
                    checks.append((self._experience.drafted, kind, guess))
                    survival *= self._experience.drafted.rate(kind)
                    if not self._is_worth(prices, len(draft), survival, limit):
                        break
                guesser.accept(guess)
                draft.append(guess)
        finally:
            guesser.close()
        busy = self._models.decode_seconds[DRAFTER] - busy
        spent, n_steps = perf_counter() - start - busy, len(draft) + 1
        sequence.timings.drafting += spent
        self._experience.costs.learn(DRAFTER, 1, busy / n_steps)
        self._experience.overhead += 0.1 * (spent / n_steps - self._experience.overhead)
        return draft

    def _guess(self, guesser: Guesser, row: npt.NDArray[np.float32]) -> tuple[int | None, int]:
        """The drafter's next token, None where a grammar leaves it nothing, and how sure it is."""
        argmax(row, self._best)
        try:
            guess = guesser.choose(row[0], int(self._best[0]))
        except DecodeError:
            return None, 0
        if self._fixed is not None:
            return guess, 0
        return guess, Acceptance.confidence(peak_probability(row[0], self._best[0]))

    def _is_worth(self, prices: Prices, n: int, survival: float, limit: int) -> bool:
        """Whether to draft on, to any length, after ``n`` tokens, where the next one is right with
        probability ``survival``: whether that brings tokens at a better pace than lately."""
        verify, step = prices.others, prices.drafter + self._experience.overhead
        pace = WORTH * self._experience.pace
        mean = self._experience.drafted.mean
        tokens, stop = 0.0, verify[n + 1]
        for more in range(1, limit - n + 1):
            tokens += survival
            survival *= mean
            if tokens > pace * (more * step + verify[n + 1 + more] - stop):
                return True
        return False

    def _look_up(self, sequence: Sequence, limit: int) -> list[int]:
        """Tokens that followed the last few when they stood in the text before, if worth it."""
        if self._phrases is None:
            return []
        found, n_match = self._phrases.follow(sequence.prompt, sequence.generated, limit)
        if not found or self._fixed is not None:
            return found
        acceptance = self._experience.looked_up
        self._checks.append([(acceptance, n_match, token) for token in found])
        rate = acceptance.rate(n_match)
        everyone = self._refreshed().everyone
        pace = WORTH * self._experience.pace
        tokens, best, best_gain = 1.0, 0, 0.0
        for n in range(1, len(found) + 1):
            tokens += rate**n
            gain = tokens - pace * everyone[n + 1]
            if gain > best_gain:
                best, best_gain = n, gain
        return found[:best]

    def _verify(self, sequence: Sequence, draft: list[int], roles: Collection[Role]) -> Evaluated:
        """Evaluate the last token and the draft after it in one batch a model."""
        batch = [sequence.last, *draft]
        n, costs, seconds = len(batch), self._experience.costs, self._models.decode_seconds
        sizes = {role: costs.padded(role, n) for role in roles}
        before = dict(seconds)
        padding = {role: size - n for role, size in sizes.items()}
        logits = self._models.decode(batch, n, roles=roles, padding=padding)
        for role, size in sizes.items():
            costs.learn(role, size, seconds[role] - before[role])
        sequence.draft.rounds += bool(draft)
        sequence.draft.drafted += len(draft)
        return Evaluated(logits, draft)

    def _keep(self, row: npt.NDArray[np.float32], n: int) -> None:
        """Store a row of the drafter: its own memory is overwritten by its next decode."""
        if not len(self._rows):
            self._rows = np.empty((self._max + 1, len(row)), np.float32)
        self._rows[n] = row
