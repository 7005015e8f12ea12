"""Intervals that cover, a test that does not cry wolf, and the same draws from the same seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimix_edge.evaluate import bootstrap
from trimix_edge.evaluate.bootstrap import Difference, Floats, Interval, resample
from trimix_edge.evaluate.metrics import chrf_score, mean_score

VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=30)


def items(values: object) -> Floats:
    found = np.asarray(values, np.float64)
    return np.stack([found, np.ones_like(found)], axis=1)


def drawn(values: object, seed: int = 0, name: str = "a", draws: int = 200) -> Floats:
    return resample([items(values)], mean_score, name, seed, draws)[0]


def difference(one: object, other: object, draws: int = 500) -> Difference:
    systems = [items(one), items(other)]
    first, second = resample(systems, mean_score, "a", 0, draws)
    values = [float(mean_score(system.sum(axis=0))) for system in systems]
    return Difference.of(values[1] - values[0], second - first)


def test_intervals_cover_the_truth_nineteen_times_of_twenty() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(300):
        right = rng.random(150) < 0.6
        interval = Interval.of(0.0, drawn(right, seed=trial, draws=400))
        covered += interval.low <= 60 <= interval.high
    assert 0.91 < covered / 300 < 0.98


def test_the_interval_is_as_wide_as_the_standard_error_says() -> None:
    right = np.arange(400) < 240
    interval = Interval.of(60.0, drawn(right, draws=4000))
    error = 100 * np.sqrt(0.6 * 0.4 / 400)
    assert interval.low == pytest.approx(60 - 1.96 * error, abs=0.6)
    assert interval.high == pytest.approx(60 + 1.96 * error, abs=0.6)


def test_identical_systems_differ_with_p_of_one() -> None:
    right = np.arange(50) % 3 == 0
    found = difference(right, right)
    assert found == Difference(Interval(0, 0, 0), 1.0)


def test_a_clear_difference_has_the_smallest_p() -> None:
    found = difference(np.arange(200) % 10 == 0, np.arange(200) % 10 != 0)
    assert found.p == 1 / 501
    assert 0 < found.interval.low < found.interval.value < found.interval.high


def test_a_test_of_nothing_is_significant_one_time_in_twenty() -> None:
    rng = np.random.default_rng(2)
    found = [difference(*(rng.random((2, 100)) < 0.5), draws=300).p for _ in range(300)]
    assert 0.02 < np.mean(np.array(found) < 0.05) < 0.09


def test_pairing_finds_what_two_intervals_hide() -> None:
    rng = np.random.default_rng(3)
    one = rng.random(100) < 0.5
    other = one.copy()
    other[np.flatnonzero(~one)[:10]] = True
    found = difference(one, other)
    assert found.p < 0.01
    alone = [Interval.of(0.0, drawn(values)) for values in (one, other)]
    assert alone[0].high > alone[1].low


def test_the_same_seed_draws_the_same_and_another_does_not() -> None:
    values = np.linspace(0, 1, 20)
    assert np.array_equal(drawn(values, seed=7), drawn(values, seed=7))
    assert not np.array_equal(drawn(values, seed=7), drawn(values, seed=8))
    assert not np.array_equal(drawn(values, name="a"), drawn(values, name="b"))


def test_the_draws_do_not_depend_on_the_memory_that_they_may_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = np.linspace(0, 1, 20)
    at_once = drawn(values)
    monkeypatch.setattr(bootstrap, "_CHUNK", 7 * 20)
    assert drawn(values) == pytest.approx(at_once, rel=1e-12)


def test_corpus_scores_are_resampled_through_their_counts() -> None:
    counts = np.tile(np.array([10.0, 8.0, 4.0] * 8), (30, 1))
    found = resample([counts], chrf_score, "a", 0, 50)[0]
    assert found == pytest.approx(float(chrf_score(counts[0])))


@settings(deadline=None)
@given(VALUES, st.integers(0, 2**32 - 2))
def test_a_resample_stays_between_the_worst_and_the_best_item(
    values: list[float], seed: int
) -> None:
    found = drawn(values, seed=seed, draws=50)
    assert found.shape == (50,)
    assert np.all((found >= 100 * min(values) - 1e-6) & (found <= 100 * max(values) + 1e-6))


@settings(deadline=None)
@given(VALUES, st.floats(0, 1))
def test_systems_are_drawn_together(values: list[float], shift: float) -> None:
    one, other = resample([items(values), items(np.array(values) + shift)], mean_score, "a", 0, 50)
    assert other - one == pytest.approx(100 * shift, abs=1e-6)


@settings(deadline=None)
@given(VALUES, VALUES)
def test_a_p_is_a_probability_and_the_same_in_both_directions(
    one: list[float], other: list[float]
) -> None:
    n = min(len(one), len(other))
    there, back = difference(one[:n], other[:n], 100), difference(other[:n], one[:n], 100)
    assert 0 < there.p <= 1
    assert there.p == back.p
    assert there.interval.value == -back.interval.value
