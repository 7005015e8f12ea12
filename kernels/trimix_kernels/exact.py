"""What the scoring kernels share: a vectorising exponential, and the careful path in float64."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from trimix_kernels._jit import njit, njit_in_order
from trimix_kernels.fuse import Rows

Costs = npt.NDArray[np.float64]

BLOCK = 512
"""Tokens of the vocabulary at once: their factors stay in the first-level cache."""
_NO_WEIGHT = 1e-9


@njit_in_order
def _exp(x: np.float32) -> np.float32:
    """e to the x, within 1e-7 relative; 0 below -87.7, infinity above 88.7, NaN of NaN.

    Range reduction after Cody and Waite, Cephes' polynomial, the power of two put together from its
    bits: unlike a call of the C library's, LLVM vectorises it.
    """
    x = np.float32(-88.0) if x < np.float32(-88.0) else x
    x = np.float32(89.0) if x > np.float32(89.0) else x
    biased = np.int32(x * np.float32(1.44269504) + np.float32(127.5))
    n = np.float32(np.int32(biased - np.int32(127)))
    r = x - n * np.float32(0.693359375)
    r = r - n * np.float32(-2.12194440e-4)
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    p = p * r * r + r + np.float32(1.0)
    return p * np.int32(biased << np.int32(23)).view(np.float32)


@njit
def exponentials(x: Rows, out: Rows) -> None:
    """``out = exp(x)``, float32 ``[n]`` both: the exponential of these kernels."""
    for i in range(x.size):
        out[i] = _exp(x[i])


@njit
def _cost(rest: float, gap: float) -> float:
    """-log of a token's share, from the mass of all others beside that of the token it is ``gap``
    nats above. Of a token that is nearly certain the small rest counts, not its distance from 1."""
    if gap > -600.0:
        return np.log1p(rest * np.exp(-gap))
    return np.log(rest) - gap


@njit
def _fused(a: float, b: float, c: float, w_a: float, w_b: float, w_c: float) -> float:
    """A weighted sum in which a weight of 0 leaves its term out, be it infinite."""
    total = 0.0
    if w_a != 0.0:
        total += w_a * a
    if w_b != 0.0:
        total += w_b * b
    if w_c != 0.0:
        total += w_c * c
    return total


@njit
def _left(w_a: float, w_b: float) -> float:
    """What the third model is left with; exactly 0 where it is next to nothing."""
    rest = 1.0 - w_a - w_b
    return 0.0 if abs(rest) <= _NO_WEIGHT else rest


@njit
def _fuse_exactly(
    a: Rows, b: Rows, c: Rows, w_a: float, w_b: float, out: npt.NDArray[np.float64]
) -> float:
    """Fuse one row into float64 and return its maximum: slower, and right for any logits."""
    w_c = _left(w_a, w_b)
    top = -math.inf
    for i in range(out.size):
        out[i] = _fused(a[i], b[i], c[i], w_a, w_b, w_c)
        if out[i] > top:
            top = out[i]
    return top


@njit
def _pair_nll(fused: npt.NDArray[np.float64], top: float, target: int) -> float:
    """The cost of one target under float64 logits."""
    rest = 0.0
    for i in range(fused.size):
        if i != target:
            rest += _exp(np.float32(fused[i] - top))
    return _cost(rest, fused[target] - top)
