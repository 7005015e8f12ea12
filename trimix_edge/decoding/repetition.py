"""Whether a text has run into a loop: its end is the same few tokens, over and over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

MAX_NGRAM = 64
"""Tokens of the longest n-gram that is looked for."""

MIN_COPIES = 4
MIN_TOKENS = 32
"""A loop is this many copies at least, of this many tokens together: lists and verses are none."""


class Repetition(NamedTuple):
    """The end of a text.

    Attributes:
        n_tokens: those of the n-gram that is repeated.
        copies: how often it stands there, whole.
    """

    n_tokens: int
    copies: int


def repetition(tokens: Sequence[int]) -> Repetition | None:
    """The shortest n-gram whose copies are the end of a text; None where there is no such loop."""
    end = np.asarray(tokens[-MAX_NGRAM * max(MIN_COPIES, MIN_TOKENS) :])
    for n in range(1, min(MAX_NGRAM, len(end) // MIN_COPIES) + 1):
        differs = np.flatnonzero(end[n:] != end[:-n])
        same = len(end) - n - (int(differs[-1]) + 1 if len(differs) else 0)
        copies = (same + n) // n
        if copies >= MIN_COPIES and copies * n >= MIN_TOKENS:
            return Repetition(n, copies)
    return None
