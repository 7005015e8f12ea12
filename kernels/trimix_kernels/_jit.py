"""The one njit decorator of the kernels."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numba
import numpy as np

P = ParamSpec("P")
R = TypeVar("R")

# "nnan" and "ninf" are left out on purpose: masked logits are -inf, and LLVM may do anything with
# an infinity once it has been promised that there is none.
FAST_MATH = frozenset({"nsz", "arcp", "contract", "afn", "reassoc"})


def njit(function: Callable[P, R]) -> Callable[P, R]:
    """Compile with the project's flags: no GIL, cached on disk, fast-math that is safe for -inf."""
    return _compiled(function, set(FAST_MATH))


def is_cached(kernel: Callable[..., Any]) -> bool:
    """Whether a kernel was compiled on this machine before, since it was last changed.

    Numba compiles a kernel at its first call, which takes seconds, and loads it from then on.
    """
    statistics = getattr(kernel, "stats", None)
    if statistics is None:  # NUMBA_DISABLE_JIT: there is nothing to compile
        return True
    if not statistics.cache_path:  # there is nowhere to keep it
        return False
    source = Path(inspect.getfile(kernel.py_func))  # type: ignore[attr-defined]
    name = f"{source.stem}.{kernel.__name__}-*.nbi"
    changed = source.stat().st_mtime
    return any(index.stat().st_mtime >= changed for index in Path(statistics.cache_path).glob(name))


def njit_in_order(function: Callable[P, R]) -> Callable[P, R]:
    """Like :func:`njit`, with sums and products in the order they are written in.

    For formulas whose rounding is part of them, such as a range reduction in two steps.
    """
    return _compiled(function, {"nsz", "contract"})


def _compiled(function: Callable[P, R], fastmath: set[str]) -> Callable[P, R]:
    if numba.config.DISABLE_JIT:
        # As silent about infinities and wrapped hashes as machine code: kernels count on both.
        return np.errstate(all="ignore")(function)
    options = {"nogil": True, "error_model": "numpy", "fastmath": fastmath}
    try:
        compiled: Callable[P, R] = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder that can be written: it is compiled at each start
        compiled = numba.njit(**options)(function)
    return compiled
