"""The one njit decorator of the kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import numba

P = ParamSpec("P")
R = TypeVar("R")

# "nnan" and "ninf" are left out on purpose: masked logits are -inf, and LLVM may do anything with
# an infinity once it has been promised that there is none.
FAST_MATH = frozenset({"nsz", "arcp", "contract", "afn", "reassoc"})


def njit(function: Callable[P, R]) -> Callable[P, R]:
    """Compile with the project's flags: no GIL, cached on disk, fast-math that is safe for -inf."""
    compiled: Callable[P, R] = numba.njit(
        nogil=True, cache=True, error_model="numpy", fastmath=set(FAST_MATH)
    )(function)
    return compiled


def njit_in_order(function: Callable[P, R]) -> Callable[P, R]:
    """Like :func:`njit`, with sums and products in the order they are written in.

    For formulas whose rounding is part of them, such as a range reduction in two steps.
    """
    compiled: Callable[P, R] = numba.njit(
        nogil=True, cache=True, error_model="numpy", fastmath={"nsz", "contract"}
    )(function)
    return compiled
