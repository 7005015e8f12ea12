"""What is learned about guessing tokens: what it costs, how often it is right, whether it pays.

Nothing is assumed of a machine or a trio: batches are timed, guesses are counted, and rounds are
compared by the clock with plain decoding.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple

from trimix_edge.config import Role
from trimix_edge.decoding.acceptance import Acceptance
from trimix_edge.decoding.batch_costs import MAX_TOKENS, BatchCosts

DRAFTER = Role.SMALL_CPT
MAX_AUTO = 15
"""With the token before them, a batch of 16."""

WORTH = 1.03
"""Guessing must promise this much more than plain decoding: promises are estimates."""

_TRIAL, _FIRST_SLEEP, _LONGEST_SLEEP = 16, 64, 4096
"""Tokens after which guessing is compared with plain decoding, and for how many it then rests."""

_FIRST_PLAIN = 16
"""Tokens that are decoded plainly first, and now and then: what guessing is compared with."""

_NAP_AFTER = 32
"""Trials that were won in a row before plain decoding is timed again."""

_FADE = 0.97


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
            tables = [costs.cheapest(role) for role in roles]
            return [sum(entry[1] for entry in entries) for entries in zip(*tables, strict=True)]

        if not all(role in costs.seconds for role in active):
            nothing = [0.0] * (MAX_TOKENS + 1)
            return cls(0.0, nothing, nothing)
        drafter = costs.of(DRAFTER, 1) if DRAFTER in active else 0.0
        return cls(drafter, seconds([r for r in active if r is not DRAFTER]), seconds(active))


@dataclass
class Trial:
    """Whether a way of guessing pays off, by the clock. One that does not rests, each time longer,
    as it seems to be the nature of this trio, machine or text.

    Attributes:
        tokens, seconds: what its last rounds brought and took; older ones fade.
        tried: tokens since it was last compared with plain decoding.
        won: how often it was found to pay off.
        sleep: rounds to go until it is tried again.
    """

    tokens: float = 0.0
    seconds: float = 0.0
    tried: int = 0
    won: int = 0
    sleep: int = _FIRST_PLAIN
    next_sleep: int = _FIRST_SLEEP

    def is_awake(self) -> bool:
        """Whether to guess in this round; to be asked once a round."""
        self.sleep = max(0, self.sleep - 1)
        return self.sleep == 0

    def remember(self, tokens: int, seconds: float, plain: float) -> None:
        """Note a round's tokens and seconds, where plain decoding takes ``plain`` a token."""
        self.tokens = _FADE * self.tokens + tokens
        self.seconds = _FADE * self.seconds + seconds
        self.tried += tokens
        if self.tried < _TRIAL:
            return
        self.tried = 0
        if self.tokens * plain > WORTH * self.seconds:
            self.next_sleep = max(_FIRST_SLEEP, self.next_sleep // 2)
            self.won += 1
            if self.won % _NAP_AFTER == 0:
                self.sleep = _FIRST_PLAIN // 2
        else:
            self.sleep, self.next_sleep = self.next_sleep, min(4 * self.next_sleep, _LONGEST_SLEEP)
            self.tokens = self.seconds = 0.0


@dataclass
class Experience:
    """What is learned about guessing, kept from one generation to the next.

    Attributes:
        costs: what batches cost; empty if the length of the draft is fixed.
        drafted: how often the drafter's guesses are emitted, by how sure it was.
        looked_up: how often looked up tokens are, by the length of the match.
        drafting, looking_up: whether it pays off.
        overhead: seconds that choosing a guess takes beside the models.
        plain: seconds of a token of plain decoding, by the clock.
        n_plain: tokens that it was measured over.
    """

    costs: BatchCosts = field(default_factory=BatchCosts)
    drafted: Acceptance = field(default_factory=Acceptance.by_confidence)
    looked_up: Acceptance = field(default_factory=Acceptance.by_match)
    drafting: Trial = field(default_factory=Trial)
    looking_up: Trial = field(default_factory=Trial)
    overhead: float = 0.0
    plain: float = 0.0
    n_plain: int = 0

    @property
    def pace(self) -> float:
        """Tokens a second that drafting brings, and at least those of plain decoding."""
        if self.plain == 0.0:  # nothing is known: no guess is worth a batch
            return math.inf
        drafting = self.drafting
        return max(1.0 / self.plain, drafting.tokens / drafting.seconds if drafting.seconds else 0)

    def remember_plain(self, seconds: float) -> None:
        """Note the seconds of a token that was decoded plainly; the first ones count most, and one
        that the system kept waiting counts no more than twice the usual."""
        self.n_plain += 1
        if self.n_plain == 1:
            return  # the first one builds llama.cpp's graphs
        step = max(0.05, 1.0 / (self.n_plain - 1))
        usual = self.plain or seconds
        self.plain += step * (min(seconds, 2.0 * usual) - self.plain)
