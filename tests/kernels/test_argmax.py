"""The fused argmax: the largest logit, the lowest id on a tie, -1 where there is no choice."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from trimix_kernels import argmax

INF, NAN = np.float32(np.inf), np.float32(np.nan)
NEGATIVE_NAN = np.array([0xFFC00000], np.uint32).view(np.float32)[0]  # what x86 makes of inf - inf
BEYOND_A_BLOCK = 4096 + 7
"""The kernel works in blocks of 4,096."""

logits = st.floats(-100, 100, width=32) | st.just(-float("inf"))


def best_of(*rows: object) -> list[int]:
    matrix = np.array(rows, np.float32)
    best = np.full(len(matrix), -7, np.int32)
    argmax(matrix, best)
    return best.tolist()


@settings(deadline=None)
@given(arrays(np.float32, st.tuples(st.integers(1, 3), st.integers(1, 40)), elements=logits))
def test_equals_numpy_wherever_anything_is_finite(rows: npt.NDArray[np.float32]) -> None:
    expected = [int(np.argmax(row)) if np.isfinite(row).any() else -1 for row in rows]
    assert best_of(*rows) == expected


@settings(deadline=None)
@given(st.lists(st.sampled_from([-1.0, -0.0, 0.0, 2.5]), min_size=1, max_size=20))
def test_ties_go_to_the_lowest_id(row: list[float]) -> None:
    assert best_of(row) == [row.index(max(row))]


def test_negative_zero_ties_with_zero() -> None:
    assert best_of([-1.0, -0.0, 0.0]) == [1]


@pytest.mark.parametrize("first", [0, 4095, 4096, 4102])
@pytest.mark.parametrize("value", [-3.0, -0.0, 3.0])
def test_ties_across_blocks_go_to_the_lowest_id(first: int, value: float) -> None:
    row = np.full(BEYOND_A_BLOCK, -5, np.float32)
    row[first:] = abs(value) if value == 0 else value
    row[first] = value
    assert best_of(row) == [first]


def test_all_minus_infinity_is_no_choice() -> None:
    assert best_of([-INF] * 5, [-INF, -2, -INF, -INF, -INF]) == [-1, 1]


@pytest.mark.parametrize("nan", [NAN, NEGATIVE_NAN], ids=["positive", "negative"])
@pytest.mark.parametrize("at", [0, 2, 4099])
def test_a_nan_of_either_sign_is_no_choice(nan: np.float32, at: int) -> None:
    row = np.ones(BEYOND_A_BLOCK, np.float32)
    row[at] = nan
    assert best_of(row) == [-1]


def test_plus_infinity_wins() -> None:
    assert best_of([1, INF, -INF, 2]) == [1]


def test_rows_are_independent() -> None:
    assert best_of([1, 2, 3], [3, 2, 1], [NAN, 0, 0], [1, 3, 3]) == [2, 0, -1, 1]
