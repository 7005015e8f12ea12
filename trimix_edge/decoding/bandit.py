"""A bandit over choices whose speed is only known by the clock."""

from __future__ import annotations

from collections.abc import Sequence


class Arm:
    """What one choice brought in its last rounds: work and seconds, each an exponential
    recency-weighted average (Sutton and Barto, section 2.5), as the machine's speed changes.

    A round that took more than ``STALL`` times the average was another program's doing, and counts
    as so many rounds only: one stall of the machine would outweigh dozens of rounds.
    """

    STALL = 4.0

    def __init__(self, window: int) -> None:
        self.n_rounds = 0
        self.rate = 0.0
        """Work a second; 0 before the first round."""
        self._window = window
        self._work = 0.0
        self._seconds = 0.0

    def learn(self, work: float, seconds: float) -> None:
        if self.n_rounds and seconds > self.STALL * self._seconds:
            share = self.STALL * self._seconds / seconds
            work, seconds = work * share, seconds * share
        self.n_rounds += 1
        step = 1 / min(self.n_rounds, self._window)
        self._work += step * (work - self._work)
        self._seconds += step * (seconds - self._seconds)
        self.rate = self._work / self._seconds if self._seconds else 0.0


class EpsilonGreedy:
    """Which of some choices is the fastest, by the clock: an epsilon-greedy bandit (Sutton and
    Barto, section 2.2; Auer, Cesa-Bianchi and Fischer 2002 for its regret).

    The first choice runs first, then each other one is tried once. After that the fastest is used,
    and the others are tried in turn. Epsilon is a share of the time, not of the rounds, as a wrong
    choice can cost more than a round: a trial waits until what all trials have lost, against the
    fastest choice, is less than ``EPSILON`` of the time so far.

    Args:
        arms: the choices; the first one is the default.
        window: rounds of a choice that count most: few follow a change at once, many are surer.
    """

    EPSILON = 0.01
    N_DEFAULT = 8
    """Rounds of the default before the first trial."""

    def __init__(self, arms: Sequence[int], window: int = 64) -> None:
        self.arms = {arm: Arm(window) for arm in arms}
        self.best = self._default = arms[0]
        self._rates = dict.fromkeys(arms, 0.0)
        self._untried = list(arms[1:])
        self._lost = 0.0
        self._seconds = 0.0

    def choose(self) -> int:
        """The choice for the next round."""
        if self._untried:
            if self.arms[self._default].n_rounds < self.N_DEFAULT:
                return self._default
            return self._untried[0]
        if self._lost < self.EPSILON * self._seconds and len(self.arms) > 1:
            others = [arm for arm in self.arms if arm != self.best]
            return min(others, key=lambda arm: self.arms[arm].n_rounds)
        return self.best

    def learn(self, arm: int, work: float, seconds: float) -> None:
        """Note what a round brought: tokens, or any other unit of work, and its time."""
        chosen = self.arms[arm]
        chosen.learn(work, seconds)
        self._seconds += seconds
        top = self._rates[self.best]
        if arm != self.best and top:
            self._lost += max(0.0, seconds - work / top)
        if arm in self._untried:
            self._untried.remove(arm)
        # Kept, not found anew at each choice: this is on the path of every token.
        self._rates[arm] = chosen.rate
        self.best = max(self._rates, key=self._rates.__getitem__)
