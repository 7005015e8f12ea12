"""Acceptance that is simulated, for models whose weights are random."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


class Agreeing:
    """Stands in for a sampler: agrees with a given share of all guesses, whatever the logits say.

    Its clones guess the argmax and write it down; it then takes their guess, or another token,
    by a coin that depends on the position alone.
    """

    def __init__(self, acceptance: float, seed: int) -> None:
        self._coins = np.random.default_rng(seed).random(1 << 14) < acceptance
        self._guesses: dict[int, int] = {}
        self._n = 0
        self._guesses_only = False

    def clone(self) -> Agreeing:
        other = Agreeing.__new__(Agreeing)
        other.__dict__.update(self.__dict__, _guesses_only=True)
        return other

    def choose(self, logits: npt.NDArray[np.float32], best: int) -> int:
        best = max(best, 0)
        if self._guesses_only:
            self._guesses[self._n] = best
            return best
        guess = self._guesses.pop(self._n, best)
        agrees = self._coins[self._n % len(self._coins)]
        return guess if agrees else (guess + 1) % logits.size

    def accept(self, token: int) -> None:
        self._n += 1

    def accept_prompt(self, tokens: list[int]) -> None:
        """The prompt changes nothing."""

    def close(self) -> None:
        """There is nothing to free."""
