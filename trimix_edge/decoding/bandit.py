"""A bandit over choices whose speed is only known by the clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from statistics import median_high


class Arm:
    """What one choice brought in its last rounds.

    A round that took more than ``STALL`` times their median was another program's doing, and is not
    counted: one stall of the machine would outweigh dozens of rounds.
    """

    STALL = 4.0

    def __init__(self, window: int) -> None:
        self.n_rounds = 0
        self.rate = 0.0
        """Work a second; 0 before the first round."""
        self._rounds: deque[tuple[float, float]] = deque(maxlen=window)

    def learn(self, work: float, seconds: float) -> None:
        self.n_rounds += 1
        self._rounds.append((work, seconds))
        longest = self.STALL * median_high(s for _, s in self._rounds)
        counted = [(w, s) for w, s in self._rounds if s <= longest]
        total = sum(s for _, s in counted)
        self.rate = sum(w for w, _ in counted) / total if total else 0.0


class EpsilonGreedy:
    """Which of some choices is the fastest, by the clock: an epsilon-greedy bandit (Sutton and
    Barto, section 2.2; Auer, Cesa-Bianchi and Fischer 2002 for its regret).

    The first choice runs first, then each other one is tried once. After that the fastest is used,
    and the others are tried in turn. Epsilon is a share of the time, not of the rounds, as a wrong
    choice can cost more than a round: a trial waits until what all trials have lost, against the
    fastest choice, is less than ``EPSILON`` of the time so far.

    Args:
        arms: the choices; the first one is the default.
        window: rounds of a choice that count: few follow a change at once, many are surer.
    """

    EPSILON = 0.01
    N_DEFAULT = 8
    """Rounds of the default before the first trial."""

    def __init__(self, arms: Sequence[int], window: int = 64) -> None:
        self.arms = {arm: Arm(window) for arm in arms}
        self._default = arms[0]
        self._lost = 0.0
        self._seconds = 0.0

    @property
    def best(self) -> int:
        return max(self.arms, key=lambda arm: self.arms[arm].rate)

    def choose(self) -> int:
        """The choice for the next round."""
        if self.arms[self._default].n_rounds < self.N_DEFAULT:
            return self._default
        best = self.best
        fresh = [arm for arm in self.arms if not self.arms[arm].n_rounds]
        if fresh:
            return fresh[0]
        others = [arm for arm in self.arms if arm != best]
        if others and self._lost < self.EPSILON * self._seconds:
            return min(others, key=lambda arm: self.arms[arm].n_rounds)
        return best

    def learn(self, arm: int, work: float, seconds: float) -> None:
        """Note what a round brought: tokens, or any other unit of work, and its time."""
        best = self.best
        self.arms[arm].learn(work, seconds)
        self._seconds += seconds
        if arm != best and self.arms[best].rate:
            self._lost += max(0.0, seconds - work / self.arms[best].rate)
