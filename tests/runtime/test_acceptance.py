"""What is expected of guesses, and phrases that come again."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimix_edge.decoding.acceptance import Acceptance, PhraseBook

texts = st.lists(st.integers(0, 3), max_size=40)


def found_by_search(text: list[int], limit: int) -> tuple[list[int], int]:
    """The last earlier place of the longest of the phrases of 4, 3 and 2 tokens at the end."""
    for n in (4, 3, 2):
        for end in range(len(text) - 1, n - 1, -1):
            if len(text) >= n and limit > 0 and text[end - n : end] == text[-n:]:
                return text[end : end + limit], n
    return [], 0


@given(prompt=st.lists(st.integers(0, 3), min_size=1, max_size=30), answer=texts, data=st.data())
def test_phrases_are_found_where_a_search_of_the_whole_text_finds_them(
    prompt: list[int], answer: list[int], data: st.DataObject
) -> None:
    book, n = PhraseBook(), 0
    while n <= len(answer):
        limit = data.draw(st.integers(0, 6))
        assert book.follow(prompt, answer[:n], limit) == found_by_search(prompt + answer[:n], limit)
        n += data.draw(st.integers(1, 5))


def test_the_end_of_a_text_does_not_find_itself() -> None:
    assert PhraseBook().follow([1, 2, 3, 4, 5], [], 4) == ([], 0)


def test_a_text_that_repeats_one_token_goes_on() -> None:
    assert PhraseBook().follow([5] * 6, [], 3) == ([5], 4)


def test_the_latest_of_several_places_counts() -> None:
    assert PhraseBook().follow([1, 2, 7, 1, 2, 8, 1, 2], [], 1) == ([8], 2)


@pytest.mark.parametrize("truth", [0.05, 0.5, 0.9])
def test_rates_converge_to_what_happens_whatever_was_expected(truth: float) -> None:
    generator = random.Random(1)
    for make in (Acceptance.by_confidence, Acceptance.by_match):
        acceptance = make()
        for _ in range(3000):
            acceptance.learn(2, generator.random() < truth)
        assert acceptance.rate(2) == pytest.approx(truth, abs=0.1)
        assert acceptance.mean == pytest.approx(truth, abs=0.1)


def test_kinds_are_learned_apart_and_the_mean_over_all() -> None:
    acceptance = Acceptance([0.5, 0.5])
    for _ in range(500):
        acceptance.learn(0, True)
        acceptance.learn(1, False)
    assert acceptance.rate(0) > 0.95
    assert acceptance.rate(1) < 0.05
    assert acceptance.mean == pytest.approx(0.5, abs=0.01)


def test_older_observations_fade() -> None:
    acceptance = Acceptance([0.5])
    for right in (True, False):
        for _ in range(1500):
            acceptance.learn(0, right)
    assert acceptance.rate(0) < 0.05
    assert acceptance.mean < 0.05


def test_before_anything_is_seen_a_surer_guess_is_expected_to_be_right_more_often() -> None:
    acceptance = Acceptance.by_confidence()
    kinds = [Acceptance.confidence(p) for p in (0.0, 0.1, 0.3, 0.45, 0.6, 0.7, 0.85, 0.95, 0.97, 1)]
    rates = [acceptance.rate(kind) for kind in kinds]
    assert kinds == sorted(kinds)
    assert rates == sorted(rates)
    assert rates[0] < 0.2 < 0.95 < rates[-1]


@given(st.floats(0, 1))
def test_every_probability_is_of_a_kind_whose_prior_is_near(probability: float) -> None:
    rate = Acceptance.by_confidence().rate(Acceptance.confidence(probability))
    assert rate == pytest.approx(probability, abs=0.11)
