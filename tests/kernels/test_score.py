"""What known tokens cost under the fused distribution, against float64 NumPy."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from trimix_kernels import (
    exponentials,
    fuse_saf,
    grid_entropy,
    grid_nll,
    moments,
    token_logprobs,
)

Rows = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
PAPER = np.array([0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
EPSILON = float(np.finfo(np.float32).eps)
INF = float("inf")

weights = st.floats(-2, 2).map(lambda w: round(w, 2))
grids = (
    st.just(PAPER)
    | st.lists(weights, min_size=1, max_size=7).map(np.array)
    | st.lists(st.integers(0, 8), min_size=1, max_size=7).map(lambda w: np.sort(np.array(w) / 4.0))
)


class Case(NamedTuple):
    """Three matrices, each with its own padding, the shared vocabulary, and a target a row."""

    parts: list[Rows]
    n_vocab: int
    targets: npt.NDArray[np.int32]

    @property
    def exact(self) -> list[Floats]:
        return [part[:, : self.n_vocab].astype(np.float64) for part in self.parts]


@st.composite
def cases(draw: Any, *, infinite: bool = True) -> Case:
    """Logits of every size: of models, tiny, huge, equal, and -inf."""
    n_rows, n_vocab = draw(st.integers(1, 2)), draw(st.integers(1, 20))
    parts = []
    for _ in range(3):
        scale = draw(st.sampled_from([1e-6, 1.0, 20.0, 100.0, 1e4, 1e30]))
        values = st.floats(-1, 1, width=32).map(lambda x, scale=scale: np.float32(x * scale))
        values = values | st.sampled_from([np.float32(0.0), np.float32(scale)])
        if infinite:
            values = values | st.just(np.float32(-INF))
        padding = draw(st.integers(0, 3))
        rows = draw(arrays(np.float32, (n_rows, n_vocab + padding), elements=values))
        rows[:, n_vocab:] = draw(st.sampled_from([np.nan, INF, 1e30]))
        parts.append(rows)
    targets = draw(arrays(np.int32, n_rows, elements=st.integers(0, n_vocab - 1)))
    return Case(parts, n_vocab, targets)


def third(w_large: float, w_cpt: float) -> float:
    rest = 1 - w_large - w_cpt
    return 0.0 if abs(rest) <= 1e-9 else rest


def fuse(case: Case, w_large: float, w_cpt: float) -> tuple[Floats, Floats]:
    """The fused logits, and the size of what was added up; a weight of 0 leaves its term out."""
    total, size = np.zeros((len(case.targets), case.n_vocab)), np.zeros(len(case.targets))
    for w, part in zip((w_large, w_cpt, third(w_large, w_cpt)), case.exact, strict=True):
        if w:
            with np.errstate(invalid="ignore"):  # infinities of both signs
                total = total + w * part
            finite = np.where(np.isfinite(part), np.abs(part), 0)
            size = np.maximum(size, np.abs(w) * finite.max(axis=1))
    return total, size


def nll(fused: Floats, targets: npt.NDArray[np.int32]) -> Floats:
    """-log softmax at the targets, with all digits where a target is nearly certain."""
    with np.errstate(all="ignore"):
        at = fused[np.arange(len(targets)), targets]
        others = fused.copy()
        others[np.arange(len(targets)), targets] = -INF
        shifted = others - fused.max(axis=1, keepdims=True)
        gap = at - fused.max(axis=1)
        rest = np.exp(shifted).sum(axis=1)
        near, far = np.log1p(rest / np.exp(gap)), np.log(rest) - gap
        return np.where(gap > -600, near, far)


def close(found: Floats, expected: Floats, size: Floats | float) -> None:
    """1e-4 relative, and the last digits that float32 logits of this size have."""
    assert (np.isnan(found) == np.isnan(expected)).all(), (found, expected)
    there = ~np.isnan(expected)
    found, expected = found[there], expected[there]
    size = np.broadcast_to(size, there.shape)[there]
    same = found == expected  # both infinite
    with np.errstate(invalid="ignore"):
        error = np.abs(found - expected)
    allowed = 1e-4 * np.abs(expected) + 1e-9 + 1e-14 * size
    assert (same | (error <= allowed)).all(), (found, expected)


def test_the_exponential_is_within_1e_7_of_numpys() -> None:
    x = np.linspace(-87, 88, 200_001 if "py_func" in dir(exponentials) else 2001)
    x = x.astype(np.float32)
    found = np.empty_like(x)
    exponentials(x, found)
    np.testing.assert_allclose(found, np.exp(x.astype(np.float64)), rtol=1.1e-7)


def test_the_exponential_has_ends_and_a_nan() -> None:
    x = np.array([-INF, -1000, -88, 0, 89, 1000, INF, np.nan], np.float32)
    found = np.empty_like(x)
    exponentials(x, found)
    np.testing.assert_array_equal(found, [0, 0, 0, 1, INF, INF, INF, np.nan])


@settings(deadline=None, max_examples=200)
@given(cases(), grids, grids)
def test_the_grid_costs_what_a_softmax_a_pair_costs(case: Case, large: Floats, cpt: Floats) -> None:
    found = np.full((len(case.targets), len(large), len(cpt)), 7.0)
    grid_nll(*case.parts, large, cpt, case.targets, case.n_vocab, found)
    for i, w_large in enumerate(large):
        for j, w_cpt in enumerate(cpt):
            fused, size = fuse(case, w_large, w_cpt)
            close(found[:, i, j], nll(fused, case.targets), size)


@settings(deadline=None, max_examples=200)
@given(cases(), weights, weights)
def test_moments_are_the_cost_and_its_derivatives(case: Case, w_large: float, w_cpt: float) -> None:
    found = np.full((len(case.targets), 6), 7.0)
    moments(*case.parts, w_large, w_cpt, case.targets, case.n_vocab, found)
    fused, size = fuse(case, w_large, w_cpt)
    expected = nll(fused, case.targets)
    close(found[:, 0], expected, size)
    a, b, c = case.exact
    with np.errstate(all="ignore"):
        p = np.exp(fused - fused.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        at = np.arange(len(p)), case.targets
        d = np.stack([a - c, b - c])
        d = d - d[:, at[0], at[1]][:, :, None]
        mean = np.where(p > 0, p * d, 0).sum(axis=2)
        centred = np.where(p > 0, d - mean[:, :, None], 0)
        covariance = np.einsum("rv,irv,jrv->rij", p, centred, centred)
    reach = np.abs(np.where(p > 0, d, 0)).max(axis=(0, 2))
    for r in np.flatnonzero(np.isfinite(expected) & np.isfinite(reach) & (reach < 1e8)):
        slack = 2e-6 * (1 + reach[r]) + 1e-14 * size[r]
        np.testing.assert_allclose(found[r, 1:3], mean[:, r], rtol=1e-4, atol=slack)
        hessian = covariance[r][[0, 0, 1], [0, 1, 1]]
        np.testing.assert_allclose(found[r, 3:], hessian, rtol=1e-4, atol=slack * (1 + reach[r]))


@settings(deadline=None, max_examples=200)
@given(cases())
def test_log_probabilities_and_the_argmax_of_single_rows(case: Case) -> None:
    rows = case.parts[0]
    found = np.full(len(rows), 7.0)
    greedy = np.zeros(len(rows), np.bool_)
    token_logprobs(rows, case.targets, case.n_vocab, found, greedy)
    (exact, *_) = case.exact
    size = np.abs(np.where(np.isfinite(exact), exact, 0)).max(axis=1)
    close(found, -nll(exact, case.targets), size)
    choice = np.where(np.isfinite(exact).any(axis=1), exact.argmax(axis=1), -1)
    assert greedy.tolist() == (choice == case.targets).tolist()


@settings(deadline=None)
@given(cases(), grids, grids)
def test_entropies_of_the_grid(case: Case, large: Floats, cpt: Floats) -> None:
    found = np.full((len(case.targets), len(large), len(cpt)), 7.0)
    grid_entropy(*case.parts, large, cpt, case.n_vocab, found)
    for i, w_large in enumerate(large):
        for j, w_cpt in enumerate(cpt):
            fused, size = fuse(case, w_large, w_cpt)
            with np.errstate(all="ignore"):
                x = fused - fused.max(axis=1, keepdims=True)
                p = np.exp(x)
                total = p.sum(axis=1)
                weighted = np.where(p > 0, p * x, 0).sum(axis=1)
                expected = np.log(total) - weighted / total
            usable = np.isfinite(expected)
            np.testing.assert_allclose(
                found[usable, i, j], expected[usable], rtol=1e-4, atol=1e-6 + 1e-14 * size.max()
            )


def test_a_certain_target_costs_the_little_that_the_others_have() -> None:
    row = np.array([[0.0, 30.0, 1.0]], np.float32)
    target, expected = np.array([1], np.int32), np.exp(-30.0) + np.exp(-29.0)
    one, greedy, grid = np.empty(1), np.empty(1, np.bool_), np.empty((1, 6, 6))
    token_logprobs(row, target, 3, one, greedy)
    grid_nll(row, row, row, PAPER, PAPER, target, 3, grid)
    np.testing.assert_allclose(-one, expected, rtol=1e-5)
    np.testing.assert_allclose(grid, expected, rtol=1e-5)


def test_a_vocabulary_of_many_blocks_is_read_to_its_end() -> None:
    rng = np.random.default_rng(4)
    n_vocab = 3000
    parts = [rng.normal(size=(1, n_vocab + pad)).astype(np.float32) * 3 for pad in (0, 5, 9)]
    case = Case(parts, n_vocab, np.array([n_vocab - 1], np.int32))
    grid, one = np.empty((1, 6, 6)), np.empty((1, 6))
    grid_nll(*parts, PAPER, PAPER, case.targets, n_vocab, grid)
    for i, w_large in enumerate(PAPER):
        for j, w_cpt in enumerate(PAPER):
            expected = nll(fuse(case, w_large, w_cpt)[0], case.targets)
            np.testing.assert_allclose(grid[:, i, j], expected, rtol=1e-6)
            moments(*parts, w_large, w_cpt, case.targets, n_vocab, one)
            np.testing.assert_allclose(one[:, 0], expected, rtol=1e-6)


def test_rows_that_leave_float32s_range_are_as_exact_as_the_others() -> None:
    """What ``b`` likes, ``c`` finds impossible, and the other way round: factors of e^200."""
    a = np.array([[0.0, 50.0, -40.0, 3.0]], np.float32)
    b = np.array([[100.0, 0.0, 90.0, 2.0]], np.float32)
    c = np.array([[-100.0, 80.0, 100.0, 1.0]], np.float32)
    case = Case([a, b, c], 4, np.array([3], np.int32))
    grid = np.empty((1, 6, 6))
    grid_nll(a, b, c, PAPER, PAPER, case.targets, 4, grid)
    for i, w_large in enumerate(PAPER):
        for j, w_cpt in enumerate(PAPER):
            expected = nll(fuse(case, w_large, w_cpt)[0], case.targets)
            np.testing.assert_allclose(grid[:, i, j], expected, rtol=1e-6)


def saf(host: Floats, scorer: Floats) -> Floats:
    p = np.exp(scorer - scorer.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    e = p[np.arange(len(p)), host.argmax(axis=1)][:, None]
    return e * host + (1 - e) * scorer


@settings(deadline=None)
@given(cases(infinite=False))
def test_saf_weighs_the_host_by_the_scorers_endorsement(case: Case) -> None:
    host, scorer = case.parts[:2]
    out = np.full((len(host), case.n_vocab), np.nan, np.float32)
    best = np.full(len(host), -7, np.int32)
    fuse_saf(host, scorer, out, best)
    expected = saf(*case.exact[:2])
    scale = np.abs(case.exact[0]).max() + np.abs(case.exact[1]).max()
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=4 * EPSILON * scale + 1e-30)
    assert best.tolist() == out.argmax(axis=1).tolist()


def test_saf_follows_a_host_that_the_scorer_is_sure_of_and_else_the_scorer() -> None:
    host = np.array([[9.0, 0.0, 1.0], [9.0, 0.0, 1.0]], np.float32)
    scorer = np.array([[60.0, 0.0, 0.0], [-60.0, 2.0, 0.0]], np.float32)
    out, best = np.empty((2, 3), np.float32), np.empty(2, np.int32)
    fuse_saf(host, scorer, out, best)
    np.testing.assert_allclose(out, [host[0], scorer[1]], atol=1e-5)
    assert best.tolist() == [0, 1]


@pytest.mark.parametrize("broken", [np.nan, -INF])
def test_saf_of_a_model_without_a_choice_has_none(broken: float) -> None:
    good, bad = np.zeros((1, 3), np.float32), np.full((1, 3), broken, np.float32)
    out, best = np.empty((1, 3), np.float32), np.empty(1, np.int32)
    for host, scorer in ((good, bad), (bad, good)):
        fuse_saf(host, scorer, out, best)
        assert best.tolist() == [-1]
