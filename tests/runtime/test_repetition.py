"""What counts as a loop at the end of a text."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimix_edge.decoding.repetition import (
    MAX_NGRAM,
    MIN_COPIES,
    MIN_TOKENS,
    Repetition,
    repetition,
)


def by_hand(tokens: list[int]) -> Repetition | None:
    """The definition, slowly."""
    for n in range(1, MAX_NGRAM + 1):
        copies = 1
        while tokens[len(tokens) - (copies + 1) * n : len(tokens) - copies * n] == tokens[-n:]:
            copies += 1
            if (copies + 1) * n > len(tokens):
                break
        if len(tokens) >= n * copies and copies >= MIN_COPIES and copies * n >= MIN_TOKENS:
            return Repetition(n, copies)
    return None


@given(
    head=st.lists(st.integers(0, 3), max_size=40),
    ngram=st.lists(st.integers(0, 3), min_size=1, max_size=20),
    copies=st.integers(1, 40),
)
def test_a_loop_is_found_as_the_definition_says(
    head: list[int], ngram: list[int], copies: int
) -> None:
    text = head + ngram * copies
    assert repetition(text) == by_hand(text)


@pytest.mark.parametrize(
    ("n_tokens", "copies", "is_loop"),
    [(1, 31, False), (1, 32, True), (5, 6, False), (5, 7, True), (64, 3, False), (64, 4, True)],
)
def test_a_loop_has_four_copies_and_32_tokens(n_tokens: int, copies: int, is_loop: bool) -> None:
    ngram = list(range(100, 100 + n_tokens))
    found = repetition([1, 2, 3, *ngram * copies])
    assert found == (Repetition(n_tokens, copies) if is_loop else None)


def test_text_that_does_not_repeat_itself_is_no_loop() -> None:
    rng = random.Random(1)
    assert repetition([rng.randrange(50) for _ in range(2000)]) is None
    assert repetition([]) is None
