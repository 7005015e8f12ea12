"""How often guessed tokens turn out right, and where guesses can be copied from."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise

_CONFIDENCE = (0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.96, 0.99)
_MATCHES = (2, 3, 4)
"""Lengths of the phrases that are looked up; the longest is tried first."""

_PRIOR = 3.0
_FADE = 0.995


class Acceptance:
    """A running estimate of a probability, by kind of guess; older observations fade.

    Args:
        priors: what to expect of each kind before anything was seen.
    """

    def __init__(self, priors: Sequence[float]) -> None:
        self._right = [_PRIOR * prior for prior in priors]
        self._seen = [_PRIOR] * len(priors)
        self._all_right, self._all_seen = _PRIOR * 0.7, _PRIOR

    @classmethod
    def by_confidence(cls) -> Acceptance:
        """Kinds are those of :meth:`confidence`."""
        edges = (0.0, *_CONFIDENCE, 1.0)
        return cls([(low + high) / 2 for low, high in pairwise(edges)])

    @classmethod
    def by_match(cls) -> Acceptance:
        """Kinds are lengths of a match, as :meth:`PhraseBook.follow` tells them."""
        return cls([0.5] * (_MATCHES[-1] + 1))

    @staticmethod
    def confidence(probability: float) -> int:
        """The kind of a guess whose model gives its favourite this probability."""
        return bisect_right(_CONFIDENCE, probability)

    def rate(self, kind: int) -> float:
        """The probability that a guess of this kind is right."""
        return self._right[kind] / self._seen[kind]

    @property
    def mean(self) -> float:
        """The probability that a guess is right, whatever its kind."""
        return self._all_right / self._all_seen

    def learn(self, kind: int, right: bool) -> None:
        self._right[kind] = _FADE * self._right[kind] + right
        self._seen[kind] = _FADE * self._seen[kind] + 1.0
        self._all_right = _FADE * self._all_right + right
        self._all_seen = _FADE * self._all_seen + 1.0


class PhraseBook:
    """Where each phrase of a few tokens last stood in one text that only grows.

    Translations and summaries copy names and numbers: what followed a phrase then may follow now
    (prompt lookup, Saxena 2023).
    """

    def __init__(self) -> None:
        self._text: list[int] = []
        self._ends: dict[tuple[int, ...], int] = {}

    def follow(
        self, prompt: Sequence[int], generated: Sequence[int], limit: int
    ) -> tuple[list[int], int]:
        """At most ``limit`` tokens that followed the end of the text when it stood there before.

        Args:
            prompt, generated: the text in two parts, of which only the second has grown.

        Returns:
            The tokens, and the length of the phrase that was found again; ``[], 0`` where there is
            none.
        """
        if not self._text:
            self._add(prompt)
        self._add(generated[len(self._text) - len(prompt) :])
        text = self._text
        if limit > 0:
            for n in reversed(_MATCHES):
                at = self._ends.get(tuple(text[-n:]))
                if at is not None:
                    return text[at : at + limit], n
        return [], 0

    def _add(self, tokens: Sequence[int]) -> None:
        """Index phrases only once something follows them: the end must not find itself."""
        for token in tokens:
            for n in _MATCHES:
                if len(self._text) >= n:
                    self._ends[tuple(self._text[-n:])] = len(self._text)
            self._text.append(token)
