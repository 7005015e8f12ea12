"""Gumbel noise by counter: the same whoever asks, and a fair draw from any softmax."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from gumbel import noise
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from trimix_kernels import gumbel_argmax, gumbel_noise, peak_probability

pytestmark = pytest.mark.filterwarnings("ignore:overflow")  # NumPy's scalars, without the compiler
seeds = st.integers(0, 2**32 - 1)
positions = st.integers(0, 2**31)
logits = arrays(
    np.float32,
    st.integers(1, 60),
    elements=st.floats(-1e4, 1e4, width=32) | st.just(-float("inf")) | st.sampled_from([0.0, 1.0]),
)


def ids_of(n: int) -> npt.NDArray[np.int32]:
    return np.arange(n, dtype=np.int32)


@settings(deadline=None)
@given(seed=seeds, position=positions, ids=arrays(np.int32, 20, elements=st.integers(0, 2**31 - 1)))
def test_noise_is_that_of_the_oracle(seed: int, position: int, ids: npt.NDArray[np.int32]) -> None:
    out = np.empty(20)
    gumbel_noise(seed, position, ids, out)
    np.testing.assert_allclose(out, noise(seed, position, ids), rtol=1e-12, atol=1e-12)
    assert np.isfinite(out).all()


@settings(deadline=None)
@given(logits=logits, seed=seeds, position=positions)
def test_the_draw_is_the_argmax_of_logits_and_noise(
    logits: npt.NDArray[np.float32], seed: int, position: int
) -> None:
    ids = ids_of(logits.size)
    place = gumbel_argmax(logits, ids, seed, position)
    if not np.isfinite(logits).any():
        assert place == -1
    else:
        assert place == int(np.argmax(logits + noise(seed, position, ids)))


@settings(deadline=None)
@given(logits=logits, seed=seeds, data=st.data())
def test_the_draw_does_not_depend_on_the_order_of_the_candidates(
    logits: npt.NDArray[np.float32], seed: int, data: st.DataObject
) -> None:
    ids = ids_of(logits.size)
    order = np.array(data.draw(st.permutations(range(logits.size))))
    place = gumbel_argmax(logits, ids, seed, 3)
    shuffled = gumbel_argmax(logits[order].copy(), ids[order].copy(), seed, 3)
    if place < 0:
        assert shuffled == -1
    else:
        assert ids[order][shuffled] == ids[place]


def test_other_seeds_and_positions_have_other_noise() -> None:
    ids = ids_of(500)
    drawn = {(seed, at): noise(seed, at, ids) for seed in (0, 1, 2**32 - 2) for at in (0, 1, 99)}
    flat = np.stack(list(drawn.values()))
    correlation = np.corrcoef(flat) - np.eye(len(flat))
    assert np.abs(correlation).max() < 0.2


def test_noise_is_standard_gumbel() -> None:
    draws = np.empty(20_000)
    gumbel_noise(7, 11, ids_of(draws.size), draws)
    assert draws.mean() == pytest.approx(np.euler_gamma, abs=0.03)
    assert draws.var() == pytest.approx(np.pi**2 / 6, rel=0.05)
    assert np.mean(draws < 0.0) == pytest.approx(np.exp(-1.0), abs=0.01)


def test_tokens_are_drawn_as_often_as_their_probability_says() -> None:
    row = np.log(np.array([0.5, 0.25, 0.15, 0.1], np.float32))
    n = 4000
    drawn = np.bincount([gumbel_argmax(row, ids_of(4), 5, at) for at in range(n)], minlength=4)
    expected = n * np.exp(row.astype(np.float64))
    assert ((drawn - expected) ** 2 / expected).sum() < 16.3  # chi-square, 3 degrees: p = 0.001


@settings(deadline=None)
@given(
    row=arrays(
        np.float32,
        st.integers(1, 9000),
        elements=st.floats(-60, 60, width=32) | st.just(-float("inf")),
        fill=st.floats(-3, 3, width=32),
    )
)
def test_how_sure_a_model_is_is_right_to_four_percent(row: npt.NDArray[np.float32]) -> None:
    row[0] = max(row[0], np.float32(-60.0))
    peak = int(np.argmax(row))
    exact = 1.0 / np.exp(row.astype(np.float64) - row[peak]).sum()
    assert peak_probability(row, peak) == pytest.approx(exact, rel=0.045)
