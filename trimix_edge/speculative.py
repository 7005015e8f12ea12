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

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from trimix_kernels import argmax, peak_probability

from trimix_edge.acceptance import Acceptance, PhraseBook
from trimix_edge.batch_costs import BatchCosts
from trimix_edge.config import MAX_DRAFT, Draft, Role
from trimix_edge.errors import DecodeError
from trimix_edge.fusion import Evaluated, TrioLogits
from trimix_edge.sequence import Sequence

DRAFTER = Role.SMALL_CPT
MAX_AUTO = 15
"""With the token before them, a batch of 16."""

_WORTH = 1.03
"""Guessing must promise this much more than plain decoding: promises are estimates."""

_REFRESH = 8
"""Rounds between looks at the costs."""

_TRIAL, _FIRST_SLEEP, _LONGEST_SLEEP = 16, 64, 1024
"""Tokens after which guessing is compared with plain decoding, and for how many it then rests."""

_FADE = 0.97


class Models(Protocol):
    """What is needed of a :class:`~trimix_edge.trio.Trio`."""

    decode_seconds: dict[Role, float]

    @property
    def active(self) -> Collection[Role]: ...
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


class Prices(NamedTuple):
    """Seconds, as costs were lately; all 0 where they were not measured.

    Attributes:
        drafter: for a token of the drafter's own.
        others: for a batch of ``n`` tokens in all models but the drafter, by ``n``.
        everyone: for such a batch in all models.
    """

    drafter: float
    others: list[float]
    everyone: list[float]

    @classmethod
    def of(cls, costs: BatchCosts, active: Collection[Role]) -> Prices:
        def seconds(roles: Collection[Role]) -> list[float]:
            sizes = range(1, MAX_DRAFT + 2)
            return [0.0, *(sum(costs.of(role, n) for role in roles) for n in sizes)]

        if not all(role in costs.seconds for role in active):
            nothing = [0.0] * (MAX_DRAFT + 2)
            return cls(0.0, nothing, nothing)
        drafter = costs.of(DRAFTER, 1) if DRAFTER in active else 0.0
        return cls(drafter, seconds([r for r in active if r is not DRAFTER]), seconds(active))


@dataclass
class Experience:
    """What is learned about guessing, kept from one generation to the next.

    Attributes:
        costs: what batches cost; empty if the length of the draft is fixed.
        drafted: how often the drafter's guesses are emitted, by how sure it was.
        looked_up: how often looked up tokens are, by the length of the match.
        tokens, seconds: what the last rounds brought and took, by the clock.
        overhead: seconds that choosing a guess takes beside the models.
        tried: tokens since guessing was last found to pay off, or not.
        sleep: tokens to go until guessing is tried again.
    """

    costs: BatchCosts = field(default_factory=BatchCosts)
    drafted: Acceptance = field(default_factory=Acceptance.by_confidence)
    looked_up: Acceptance = field(default_factory=Acceptance.by_match)
    tokens: float = 0.0
    seconds: float = 0.0
    overhead: float = 0.0
    tried: int = 0
    sleep: int = 0
    next_sleep: int = _FIRST_SLEEP

    def pace(self, plain: float) -> float:
        """Tokens a second of the last rounds, and at least what plain decoding brings with its
        ``plain`` seconds a token."""
        if plain == 0.0:  # nothing is known: no guess is worth a batch
            return math.inf
        return max(1.0 / plain, self.tokens / self.seconds if self.seconds else 0.0)

    def remember(self, tokens: int, seconds: float, plain: float) -> None:
        """Note a round's tokens and seconds, and rest where rounds are no faster than plain
        decoding: each time longer, as it seems to be the nature of this trio."""
        self.tokens = _FADE * self.tokens + tokens
        self.seconds = _FADE * self.seconds + seconds
        self.tried += tokens
        if self.tried < _TRIAL:
            return
        self.tried = 0
        if self.tokens * plain > self.seconds:
            self.next_sleep = _FIRST_SLEEP
        else:
            self.sleep, self.next_sleep = self.next_sleep, min(2 * self.next_sleep, _LONGEST_SLEEP)
            self.tokens = self.seconds = 0.0


class Speculation:
    """The engine's ``Lookahead`` that guesses.

    Args:
        models: the trio, its sequence started.
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
        self._max = MAX_AUTO if draft.n_tokens is None else draft.n_tokens
        self._experience = experience
        self._phrases = PhraseBook() if look_up else None
        self._prices = Prices.of(experience.costs, models.active)
        self._rows = np.empty((0, 0), np.float32)
        self._best = np.empty(1, np.int32)
        self._checks: list[tuple[Acceptance, int, int]] = []
        self._round_seconds = 0.0
        self._n_rounds = 0
        self._awake = False

    def advance(self, sequence: Sequence, limit: int) -> Evaluated:
        start = perf_counter()
        if self._n_rounds % _REFRESH == 0:
            self._prices = Prices.of(self._experience.costs, self._models.active)
        self._n_rounds += 1
        self._checks.clear()
        found = self._look_up(sequence, min(limit, self._max))
        self._awake = self._is_awake(found, limit)
        if found:
            sequence.draft.looked_up += len(found)
            evaluated = self._verify(sequence, found, self._models.active)
        elif self._awake:
            evaluated = self._draft_and_verify(sequence, min(limit, self._max))
        else:
            evaluated = self._plain(sequence)
        self._round_seconds = perf_counter() - start
        return evaluated

    def learn(self, emitted: list[int]) -> None:
        """See which guesses were right; those after the first wrong one were never put to it."""
        for (acceptance, kind, guess), token in zip(self._checks, emitted, strict=False):
            acceptance.learn(kind, guess == token)
            if guess != token:
                break
        if self._awake and self._fixed is None:
            plain = self._prices.everyone[1]
            self._experience.remember(len(emitted), self._round_seconds, plain)

    def _is_awake(self, found: list[int], limit: int) -> bool:
        active = self._models.active
        if self._experience.sleep and self._fixed is None:
            self._experience.sleep -= 1
            return bool(found)
        return bool(found) or (limit > 0 and DRAFTER in active and len(active) > 1)

    def _plain(self, sequence: Sequence) -> Evaluated:
        if self._fixed is None and self._n_rounds % _REFRESH == 0:
            return self._verify(sequence, [], self._models.active)
        return Evaluated(self._models.decode([sequence.last]), ())

    def _draft_and_verify(self, sequence: Sequence, limit: int) -> Evaluated:
        draft = self._draft(sequence, limit)
        others = [role for role in self._models.active if role is not DRAFTER]
        checked = self._verify(sequence, draft, others)
        own = {DRAFTER: self._rows[: len(draft) + 1]}
        return Evaluated({**checked.logits, **own}, draft)

    def _draft(self, sequence: Sequence, limit: int) -> list[int]:
        """Let the drafter go on by itself while its next guess is worth checking."""
        start, busy = perf_counter(), self._models.decode_seconds[DRAFTER]
        draft: list[int] = []
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
                    self._checks.append((self._experience.drafted, kind, guess))
                    survival *= self._experience.drafted.rate(kind)
                    if not self._is_worth(len(draft), survival, limit):
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

    def _is_worth(self, n: int, survival: float, limit: int) -> bool:
        """Whether to draft on, to any length, after ``n`` tokens, where the next one is right with
        probability ``survival``: whether that brings tokens at a better pace than lately."""
        verify = self._prices.others
        pace = _WORTH * self._experience.pace(self._prices.everyone[1])
        mean, step = self._experience.drafted.mean, self._step
        tokens, stop = 0.0, verify[n + 1]
        for more in range(1, limit - n + 1):
            tokens += survival
            survival *= mean
            if tokens > pace * (more * step + verify[n + 1 + more] - stop):
                return True
        return False

    @property
    def _step(self) -> float:
        """Seconds for a token of the drafter's own."""
        return self._prices.drafter + self._experience.overhead

    def _look_up(self, sequence: Sequence, limit: int) -> list[int]:
        """Tokens that followed the last few when they stood in the text before, if worth it."""
        if self._phrases is None:
            return []
        found, n_match = self._phrases.follow(sequence.prompt, sequence.generated, limit)
        if not found or self._fixed is not None:
            return found
        acceptance = self._experience.looked_up
        self._checks += [(acceptance, n_match, token) for token in found]
        rate = acceptance.rate(n_match)
        everyone = self._prices.everyone
        pace = _WORTH * self._experience.pace(everyone[1])
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
