"""Counter-based Gumbel noise: a function of seed, position and token, not of what was drawn before.

The token that maximises ``logit[v] + gumbel(seed, position, v)`` is a draw from the softmax of the
logits (the Gumbel-max trick: Gumbel 1954; Maddison, Tarlow and Minka, NeurIPS 2014). Two models
that are given the same noise draw the same token whenever their distributions are close, which is
what lets one of them draft for the other; and what is drawn at a position does not depend on how
many draws were made on the way there.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from trimix_kernels._jit import njit

Logits = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int32]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_LN_2 = math.log(2.0)
_ALL_ONES = np.uint64(0xFFFFFFFFFFFFFFFF)


@njit
def _mix(x: np.uint64) -> np.uint64:
    """The output function of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    x = (x ^ (x >> np.uint64(30))) * _MIX_1
    x = (x ^ (x >> np.uint64(27))) * _MIX_2
    return x ^ (x >> np.uint64(31))


@njit
def _key(seed: int, position: int) -> np.uint64:
    return _mix(_mix(np.uint64(seed) + _GOLDEN) ^ (np.uint64(position) * _GOLDEN))


@njit
def _hash(key: np.uint64, token: np.int32) -> np.uint64:
    """64 random bits: the ``token``-th output of SplitMix64, begun at ``key``."""
    return _mix(key + (np.uint64(token) + np.uint64(1)) * _GOLDEN)


@njit
def _gumbel(bits: np.uint64) -> float:
    # Of 53 bits the largest would round to a u of 1, and to noise without end.
    u = (float(bits >> np.uint64(12)) + 0.5) * 2.0**-52
    return -math.log(-math.log(u))


@njit
def gumbel_noise(seed: int, position: int, ids: Ids, out: npt.NDArray[np.float64]) -> None:
    """The noise of some tokens at a position.

    Args:
        seed: 0 to 2**32 - 1.
        position: how many tokens were drawn before, 0 or more.
        ids: int32 ``[n]``, any layout.
        out: float64 ``[n]``, overwritten: standard Gumbel numbers, all finite.
    """
    key = _key(seed, position)
    for i in range(ids.size):
        out[i] = _gumbel(_hash(key, ids[i]))


@njit
def gumbel_argmax(logits: Logits, ids: Ids, seed: int, position: int) -> int:
    """The place of the candidate with the largest ``logit + gumbel(seed, position, id)``.

    Args:
        logits: float32 ``[n]``, in nats; -inf is never drawn. Any layout.
        ids: int32 ``[n]``, the tokens that the logits belong to; their order does not matter.
        seed, position: see :func:`gumbel_noise`.

    Returns:
        An index into ``ids``; -1 where no logit is above -inf.
    """
    key = _key(seed, position)
    best, place, best_id = -math.inf, -1, np.int32(0)
    for i in range(ids.size):
        logit = float(logits[i])
        bits = _hash(key, ids[i])
        # As -log(-log(u)) <= -log(1 - u), a candidate can be too far behind to need its logarithms:
        # that leaves a handful of them among 152k.
        behind = best - logit
        if behind >= _LN_2:
            halvings = 63 if behind > 43.0 else int(behind / _LN_2)
            if (bits ^ _ALL_ONES) >> np.uint64(64 - halvings) != np.uint64(0):
                continue
        value = logit + _gumbel(bits)
        if value > best or (value == best and place >= 0 and ids[i] < best_id):
            best, place, best_id = value, i, ids[i]
    return place
