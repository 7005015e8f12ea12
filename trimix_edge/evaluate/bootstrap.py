"""How sure a score is, and a difference: the bootstrap over items.

A score is a function of sums over items, so a resample is a vector of counts, how often each item
was drawn, and its score that function of ``counts @ statistics``. The same counts serve all
systems: their differences are paired.

Source: Koehn, "Statistical Significance Tests for Machine Translation Evaluation", EMNLP 2004; the
null distribution is the resampled difference moved to zero, as in Riezler and Maxwell, "On Some
Pitfalls in Automatic Evaluation and Significance Testing for MT", 2005, and in sacrebleu.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from zlib import crc32

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Score = Callable[[Floats], Floats]
"""From sums of the statistics, ``[..., k]``, to scores, ``[...]``."""

DRAWS = 10_000
_CHUNK = 1 << 22
"""Counts that are held at once: 32 MB."""


@dataclass(frozen=True)
class Interval:
    """A value and its 95 % percentile interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, draws: Floats) -> Interval:
        low, high = np.percentile(draws, [2.5, 97.5])
        return cls(float(value), float(low), float(high))


@dataclass(frozen=True)
class Difference:
    """A paired difference, its interval, and the two-sided p-value of there being none."""

    interval: Interval
    p: float

    @classmethod
    def of(cls, value: float, draws: Floats) -> Difference:
        """A test of a difference from its resamples; the smallest p is 1 / (draws + 1)."""
        # Equal sums differ in their last bits after other additions: a tie is not a rarity.
        extreme = np.abs(draws - draws.mean()) >= abs(value) - 1e-9
        p = (1 + int(extreme.sum())) / (len(draws) + 1)
        return cls(Interval.of(value, draws), p)


def resample(
    systems: list[Floats], score: Score, name: str, seed: int, draws: int = DRAWS
) -> list[Floats]:
    """Scores of resampled items.

    Args:
        systems: of each system float64 ``[n_items, k]``, the same items in the same order.
        name: what is resampled: another name draws other items.

    Returns:
        Of each system its scores, float64 ``[draws]``; draw by draw of the same items.
    """
    n = len(systems[0])
    random = np.random.default_rng([seed, crc32(name.encode())])
    even = np.full(n, 1 / n)
    scores: list[list[Floats]] = [[] for _ in systems]
    rows = max(1, _CHUNK // n)
    for start in range(0, draws, rows):
        counts = random.multinomial(n, even, size=min(rows, draws - start)).astype(np.float64)
        for found, statistics in zip(scores, systems, strict=True):
            found.append(score(counts @ statistics))
    return [np.concatenate(found) for found in scores]
