"""Gumbel noise, against 64-bit arithmetic on NumPy arrays, and the draws that it makes."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from gumbel import noise
from hypothesis import given, settings
from hypothesis import strategies as st
from trimix_kernels import gumbel_argmax, gumbel_noise
from trimix_kernels.noise import _gumbel

# Integers that wrap around are the point; NumPy warns of them where Numba does not compile.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")

INF = float("inf")
EULER = 0.5772156649015329

seeds = st.integers(0, 2**32 - 1)
positions = st.integers(0, 2**20)


def of_kernel(seed: int, position: int, ids: npt.ArrayLike) -> npt.NDArray[np.float64]:
    tokens = np.asarray(ids, np.int32)
    out = np.full(len(tokens), np.nan)
    gumbel_noise(seed, position, tokens, out)
    return out


def draw(logits: npt.ArrayLike, ids: npt.ArrayLike, seed: int, position: int) -> int:
    return int(
        gumbel_argmax(np.asarray(logits, np.float32), np.asarray(ids, np.int32), seed, position)
    )


@settings(deadline=None)
@given(seeds, positions, st.lists(st.integers(0, 2**18), min_size=1, max_size=30))
def test_noise_is_splitmix_through_the_gumbel_quantile(
    seed: int, position: int, ids: list[int]
) -> None:
    np.testing.assert_allclose(
        of_kernel(seed, position, ids), noise(seed, position, ids), rtol=1e-12, atol=1e-14
    )


@pytest.mark.parametrize("bits", [0, 1, 2**63, 2**64 - 2**11, 2**64 - 1])
def test_noise_is_finite_whatever_the_bits(bits: int) -> None:
    value = _gumbel(np.uint64(bits))
    assert math.isfinite(value)
    assert -4 < value < 40


def test_noise_grows_with_its_bits() -> None:
    values = [_gumbel(np.uint64(bits)) for bits in range(0, 2**64, 2**56)]
    assert values == sorted(values)
    assert len(set(values)) == 256


def test_noise_depends_on_seed_position_and_token() -> None:
    ids = range(50)
    draws = [of_kernel(seed, position, ids) for seed in range(4) for position in range(4)]
    assert len({value for row in draws for value in row}) == 16 * 50
    assert np.abs(np.corrcoef(draws) - np.eye(16)).max() < 0.6


def test_seed_and_position_are_not_interchangeable() -> None:
    assert not np.isin(of_kernel(3, 5, range(40)), of_kernel(5, 3, range(40))).any()


def test_noise_has_the_mean_and_variance_of_a_gumbel_number() -> None:
    sample = of_kernel(7, 0, range(8000))
    assert sample.mean() == pytest.approx(EULER, abs=4 * math.pi / math.sqrt(6 * 8000))
    assert sample.var() == pytest.approx(math.pi**2 / 6, rel=0.1)


logit_lists = st.lists(
    st.floats(-100, 100, width=32) | st.sampled_from([-INF, 0.0, 1.0]), min_size=1, max_size=40
)


@settings(deadline=None, max_examples=300)
@given(logit_lists, seeds, positions, st.randoms(use_true_random=False))
def test_the_draw_is_the_argmax_of_logits_and_noise(
    logits: list[float], seed: int, position: int, random: object
) -> None:
    ids = list(range(len(logits)))
    random.shuffle(ids)  # type: ignore[attr-defined]
    place = draw(logits, ids, seed, position)
    values = np.asarray(logits) + noise(seed, position, ids)
    if all(logit == -INF for logit in logits):
        assert place == -1
    else:
        assert values[place] >= values.max() - 1e-9


def test_a_large_vocabulary_draws_the_argmax_though_most_of_it_is_skipped() -> None:
    rng = np.random.default_rng(5)
    ids = np.arange(5000)
    for seed in range(8):
        for spread in (0.0, 1.0, 8.0):
            logits = (rng.normal(size=5000) * spread).astype(np.float32)
            values = logits.astype(np.float64) + noise(seed, 9, ids)
            assert draw(logits, ids, seed, 9) == int(np.argmax(values))


@settings(deadline=None)
@given(st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=30), seeds, st.data())
def test_the_order_of_the_candidates_does_not_matter(
    logits: list[float], seed: int, data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(logits))))
    plain = draw(logits, range(len(logits)), seed, 2)
    assert order[draw([logits[i] for i in order], order, seed, 2)] == plain


@settings(deadline=None)
@given(st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=30), seeds, st.data())
def test_leaving_losers_out_does_not_change_the_draw(
    logits: list[float], seed: int, data: st.DataObject
) -> None:
    winner = draw(logits, range(len(logits)), seed, 4)
    kept = sorted({winner} | data.draw(st.sets(st.sampled_from(range(len(logits))))))
    assert kept[draw([logits[i] for i in kept], kept, seed, 4)] == winner


def test_strided_candidates_are_read_as_what_they_are() -> None:
    record = np.zeros(64, [("id", np.int32), ("logit", np.float32), ("p", np.float32)])
    record["id"] = np.arange(64)[::-1]
    record["logit"] = np.linspace(-2, 2, 64)
    expected = np.argmax(record["logit"] + noise(11, 3, record["id"]))
    assert gumbel_argmax(record["logit"], record["id"], 11, 3) == expected


@pytest.mark.parametrize("reverse", [False, True])
def test_a_tie_goes_to_the_lowest_id(reverse: bool) -> None:
    """Noise is lost beside logits of 1e30, so that all of them tie."""
    ids = [9, 4, 7] if not reverse else [7, 4, 9]
    assert draw([1e30] * 3, ids, 1, 0) == 1


@pytest.mark.parametrize("n", [0, 1, 5])
def test_nothing_above_minus_infinity_is_no_draw(n: int) -> None:
    assert draw([-INF] * n, range(n), 3, 1) == -1


@pytest.mark.parametrize("place", [0, 2, 4])
def test_the_only_candidate_is_drawn(place: int) -> None:
    logits = [-INF] * 5
    logits[place] = -900.0
    assert {draw(logits, range(5), seed, 0) for seed in range(30)} == {place}


@pytest.mark.parametrize("over", ["seeds", "positions"])
def test_draws_follow_the_softmax(over: str) -> None:
    """Chi-square with 5 degrees of freedom: above 20.5 once in a thousand; the seeds are fixed."""
    logits = np.array([1.5, 0.0, -1.0, 0.5, -INF, -2.0, 1.0], np.float32)
    probabilities = np.exp(logits.astype(np.float64))
    probabilities /= probabilities.sum()
    n = 3000
    counts = np.zeros(len(logits))
    for i in range(n):
        seed, position = (i, 6) if over == "seeds" else (6, i)
        counts[draw(logits, range(7), seed, position)] += 1
    possible = probabilities > 0
    assert counts[~possible].sum() == 0
    expected = n * probabilities[possible]
    assert ((counts[possible] - expected) ** 2 / expected).sum() < 20.5


def test_close_distributions_draw_the_same_token_more_often_than_independent_ones() -> None:
    """What speculative sampling lives on."""
    rng = np.random.default_rng(0)
    one = rng.normal(size=30).astype(np.float32) * 2
    other = one + rng.normal(size=30).astype(np.float32) * 0.2
    ids = range(30)
    shared = sum(draw(one, ids, s, 0) == draw(other, ids, s, 0) for s in range(400))
    apart = sum(draw(one, ids, s, 0) == draw(other, ids, s, 1) for s in range(400))
    assert shared > 0.85 * 400
    assert apart < 0.6 * 400
