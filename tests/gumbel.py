"""The noise of :mod:`trimix_kernels.noise` in NumPy, on whole arrays: its oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def noise(seed: int, position: int, ids: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Standard Gumbel numbers of these tokens at a position."""
    of_seed = _mix(np.array([seed], np.uint64) + _GOLDEN)
    key = _mix(of_seed ^ (np.array([position], np.uint64) * _GOLDEN))
    bits = _mix(key + (ids.astype(np.uint64) + np.uint64(1)) * _GOLDEN)
    u = ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return -np.log(-np.log(u))
