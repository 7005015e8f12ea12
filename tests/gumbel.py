"""The noise of the final draw, once more: arrays of NumPy instead of the kernel's scalars."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _splitmix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    return x ^ (x >> np.uint64(31))


def noise(seed: int, position: int, ids: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Standard Gumbel numbers, one for each token id."""
    counter = np.array([position], np.uint64) * _GOLDEN
    key = _splitmix(_splitmix(np.array([seed], np.uint64) + _GOLDEN) ^ counter)
    bits = _splitmix(key + (np.asarray(ids, np.uint64) + np.uint64(1)) * _GOLDEN)
    u = ((bits >> np.uint64(12)).astype(np.float64) + 0.5) / 2.0**52
    return -np.log(-np.log(u))
