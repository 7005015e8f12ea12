"""The weighted sums and the plausibility mask, against float64 NumPy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from trimix_kernels import (
    fill_candidates,
    fuse_three,
    fuse_two,
    mask_implausible,
    peak_probability,
)

Rows = npt.NDArray[np.float32]
EPSILON = np.finfo(np.float32).eps
INF = np.float32(np.inf)

weight = st.floats(-2, 2, width=32).map(np.float32)


@st.composite
def padded_rows(draw: Any, count: int) -> tuple[list[Rows], int]:
    """``count`` matrices of logits, each wider than the shared vocabulary by poisoned padding."""
    n_rows, n_vocab = draw(st.integers(1, 3)), draw(st.integers(1, 30))
    matrices = []
    for _ in range(count):
        padding = draw(st.integers(0, 4))
        elements = st.floats(-60, 60, width=32)
        rows = draw(arrays(np.float32, (n_rows, n_vocab + padding), elements=elements))
        rows[:, n_vocab:] = draw(st.sampled_from([np.nan, np.inf, 1e30]))
        matrices.append(rows)
    return matrices, n_vocab


def outputs(rows: Rows, n_vocab: int) -> tuple[Rows, npt.NDArray[np.int32]]:
    return np.full((len(rows), n_vocab), np.nan, np.float32), np.full(len(rows), -7, np.int32)


def check_sum(
    out: Rows, best: npt.NDArray[np.int32], parts: list[Rows], weights: list[np.float32]
) -> None:
    """``out`` is the weighted sum of the parts as exactly as float32 can tell."""
    n_vocab = out.shape[1]
    terms = [
        np.float64(w) * part[:, :n_vocab].astype(np.float64)
        for w, part in zip(weights, parts, strict=True)
    ]
    scale = sum(np.abs(term) for term in terms)
    error = np.abs(out.astype(np.float64) - sum(terms))
    assert (error <= len(terms) * EPSILON * scale + 1e-30).all()
    assert best.tolist() == np.argmax(out, axis=1).tolist()


@settings(deadline=None)
@given(padded_rows(2), weight, weight)
def test_fuse_two_is_the_weighted_sum(
    case: tuple[list[Rows], int], wa: np.float32, wb: np.float32
) -> None:
    (a, b), n_vocab = case
    out, best = outputs(a, n_vocab)
    fuse_two(a, b, wa, wb, out, best)
    check_sum(out, best, [a, b], [wa, wb])


@settings(deadline=None)
@given(padded_rows(3), weight, weight, weight)
def test_fuse_three_is_the_weighted_sum(
    case: tuple[list[Rows], int], wa: np.float32, wb: np.float32, wc: np.float32
) -> None:
    (a, b, c), n_vocab = case
    out, best = outputs(a, n_vocab)
    fuse_three(a, b, c, wa, wb, wc, out, best)
    check_sum(out, best, [a, b, c], [wa, wb, wc])


def test_inputs_are_left_as_they_are() -> None:
    rng = np.random.default_rng(1)
    parts = [rng.normal(size=(2, 50)).astype(np.float32) for _ in range(3)]
    copies = [part.copy() for part in parts]
    out, best = outputs(parts[0], 50)
    one = np.float32(1)
    fuse_three(*parts, one, one, -one, out, best)
    mask_implausible(parts[0], 0.1, out, best)
    for part, copy in zip(parts, copies, strict=True):
        np.testing.assert_array_equal(part, copy)


def test_a_vocabulary_of_several_blocks_is_fused_to_its_end() -> None:
    rng = np.random.default_rng(2)
    parts = [rng.normal(size=(1, 9001)).astype(np.float32) for _ in range(3)]
    parts[1][0, 9000] = 99
    weights = [np.float32(w) for w in (0.1, 0.9, 0.0)]
    out, best = outputs(parts[0], 9001)
    fuse_three(*parts, *weights, out, best)
    check_sum(out, best, parts, weights)
    assert best[0] == 9000


def test_proxy_tuning_cancels_equal_small_models() -> None:
    rng = np.random.default_rng(3)
    large, small = (rng.normal(size=(1, 40)).astype(np.float32) for _ in range(2))
    out, best = outputs(large, 40)
    one = np.float32(1)
    fuse_three(large, small, small, one, one, -one, out, best)
    np.testing.assert_allclose(out, large, atol=1e-6)


def masked(judge: Rows, alpha: float, logits: Rows) -> tuple[Rows, list[int]]:
    out, best = logits.copy(), np.full(len(logits), -7, np.int32)
    mask_implausible(judge, alpha, out, best)
    return out, best.tolist()


@settings(deadline=None)
@given(padded_rows(2), st.floats(1e-4, 1.0))
def test_the_mask_keeps_what_the_judge_finds_likely_enough(
    case: tuple[list[Rows], int], alpha: float
) -> None:
    (judge, fused), n_vocab = case
    fused = np.ascontiguousarray(fused[:, :n_vocab])
    judged = judge[:, :n_vocab].astype(np.float64)
    threshold = judged.max(axis=1, keepdims=True) + math.log(alpha)
    assume((np.abs(judged - threshold) > 1e-4).all() or alpha == 1.0)
    out, best = masked(judge, alpha, fused)
    expected = np.where(judged >= threshold, fused, -INF)
    np.testing.assert_array_equal(out, expected)
    assert best == np.argmax(expected, axis=1).tolist()


def test_alpha_of_one_keeps_the_judges_first_choice_alone() -> None:
    judge = np.array([[0.0, 3.0, 1.0]], np.float32)
    out, best = masked(judge, 1.0, np.array([[9.0, -4.0, 8.0]], np.float32))
    assert out.tolist() == [[-INF, -4.0, -INF]]
    assert best == [1]


def test_a_threshold_is_met_by_equality() -> None:
    judge = np.array([[np.float32(math.log(0.25)), 0.0, -5.0]], np.float32)
    out, best = masked(judge, 0.25, np.array([[7.0, 1.0, 9.0]], np.float32))
    assert out.tolist() == [[7.0, 1.0, -INF]]
    assert best == [0]


def test_a_masked_token_stays_masked_whatever_its_logit() -> None:
    judge = np.array([[0.0, -9.0]], np.float32)
    out, best = masked(judge, 0.5, np.array([[-1e30, INF]], np.float32))
    assert best == [0]
    assert out[0, 1] == -INF


@pytest.mark.parametrize("broken", [-np.inf, np.nan, -np.nan])
def test_a_judge_without_a_finite_choice_leaves_none(broken: float) -> None:
    judge = np.full((1, 6), broken, np.float32)
    out, best = masked(judge, 0.1, np.zeros((1, 6), np.float32))
    assert best == [-1]
    assert (out == -INF).all()


@pytest.mark.parametrize("nan", [np.nan, -np.nan])
def test_a_judge_with_a_nan_leaves_no_choice(nan: float) -> None:
    judge = np.array([[0.0, nan, 1.0]], np.float32)
    assert masked(judge, 0.1, np.zeros((1, 3), np.float32))[1] == [-1]


def test_possible_candidates_are_laid_out_in_vocabulary_order() -> None:
    logits = np.array([0.5, -np.inf, 3.0, -2.0], np.float32)
    record = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
    candidates = np.full(4, 7, record)
    n = fill_candidates(logits, candidates["id"], candidates["logit"], candidates["p"])
    assert n == 3
    assert candidates["id"].tolist() == [0, 2, 3, 7]
    np.testing.assert_array_equal(candidates["logit"][:n], logits[[0, 2, 3]])
    assert not candidates["p"][:n].any()
    assert record.itemsize == 12  # that of llama_token_data


def exact_peak(row: Rows) -> float:
    """The softmax's largest probability, in float64."""
    return float(1 / np.exp(row.astype(np.float64) - row.max()).sum())


@settings(deadline=None)
@given(
    arrays(np.float32, st.integers(1, 60), elements=st.floats(-1000, 1000, width=32)),
    st.lists(st.integers(0, 59), max_size=20),
)
def test_the_peaks_probability_is_right_to_4_percent(row: Rows, masked_ids: list[int]) -> None:
    peak = int(np.argmax(row))
    row[[i for i in masked_ids if i < len(row) and i != peak]] = -INF
    assert peak_probability(row, peak) == pytest.approx(exact_peak(row), rel=0.04)


@pytest.mark.parametrize("spread", [0.0, 0.5, 2.0, 6.0])
def test_the_peaks_probability_is_right_in_a_vocabulary_of_several_blocks(spread: float) -> None:
    row = (np.random.default_rng(4).normal(size=9001) * spread).astype(np.float32)
    assert peak_probability(row, int(np.argmax(row))) == pytest.approx(exact_peak(row), rel=0.04)


def test_a_peak_alone_is_certain_and_never_more() -> None:
    row = np.array([-INF, 1e30, -1e30, -INF], np.float32)
    assert peak_probability(row, 1) == 1.0
    assert peak_probability(np.array([3.0], np.float32), 0) == 1.0
