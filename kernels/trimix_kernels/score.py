"""What known tokens cost under one distribution, and how that changes with the weights.

Rows come straight from llama.cpp, as in :mod:`trimix_kernels.fuse`: float32, of ``large_ins`` (a),
``small_cpt`` (b) and ``small_base`` (c), each ``[n_rows, >= n_vocab]``. Costs are nats, float64.
The fused logits are ``w_large·a + w_cpt·b + (1 - w_large - w_cpt)·c``; with two models pass the
second one's rows as c too: what is left of their weights then goes to it.

A token of fused logit -inf has no probability; as a target it costs infinity. Where a fused logit
is NaN or +inf there is no distribution, and the cost is NaN.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from trimix_kernels._jit import njit
from trimix_kernels.exact import BLOCK, Costs, _cost, _exp, _fuse_exactly, _left, _pair_nll
from trimix_kernels.fuse import _INF, Ids, Rows, _row_argmax

_FAR = 0x43800000
"""The bits of 256.0: models that differ by more, in nats, are compared in float64."""


@njit
def _largest(block: Ids) -> np.int32:
    """The bits of the largest magnitude among floats, in which NaN is above infinity."""
    top = np.int32(0)
    for i in range(block.size):
        bits = np.int32(block[i] & np.int32(0x7FFFFFFF))
        if bits > top:
            top = bits
    return top


@njit
def _moments_exactly(
    a: Rows, b: Rows, c: Rows, w_a: float, w_b: float, target: int, out: Costs
) -> None:
    """One row of :func:`moments` in float64."""
    fused = np.empty(a.size, np.float64)
    top = _fuse_exactly(a, b, c, w_a, w_b, fused)
    total = m_a = m_b = m_aa = m_ab = m_bb = 0.0
    # Beside the target's own differences, whatever is far away from them loses no digits.
    a_at = np.float64(a[target]) - c[target]
    b_at = np.float64(b[target]) - c[target]
    for k in range(a.size):
        p = np.float64(_exp(np.float32(fused[k] - top)))
        if p != 0.0:  # a NaN counts; an impossible token may be infinitely far
            d_a = (np.float64(a[k]) - c[k]) - a_at
            d_b = (np.float64(b[k]) - c[k]) - b_at
            total += p
            m_a += p * d_a
            m_b += p * d_b
            m_aa += p * d_a * d_a
            m_ab += p * d_a * d_b
            m_bb += p * d_b * d_b
    m_a, m_b = m_a / total, m_b / total
    out[0] = _pair_nll(fused, top, target)
    out[1], out[2] = m_a, m_b
    out[3] = m_aa / total - m_a * m_a
    out[4] = m_ab / total - m_a * m_b
    out[5] = m_bb / total - m_b * m_b


@njit
def moments(
    a: Rows, b: Rows, c: Rows, w_large: float, w_cpt: float, targets: Ids, n_vocab: int, out: Costs
) -> None:
    """The cost of each row's target at one pair of weights, and its derivatives by the two.

    The fused distribution is an exponential family in its weights: the gradient is the mean of
    ``(a - c, b - c)`` less that of the target, and the Hessian their covariance.

    Args:
        a, b, c: float32 ``[n_rows, >= n_vocab]``.
        targets: int32 ``[n_rows]``.
        out: float64 ``[n_rows, 6]``, overwritten: cost, two of the gradient, and of the Hessian
            large-large, large-cpt, cpt-cpt.
    """
    w_a, w_b, w_c = np.float32(w_large), np.float32(w_cpt), np.float32(_left(w_large, w_cpt))
    fused = np.empty(n_vocab, np.float32)
    d_a, d_b = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    p = np.empty(BLOCK, np.float32)
    for r in range(targets.size):
        row_a, row_b, row_c, target = a[r, :n_vocab], b[r, :n_vocab], c[r, :n_vocab], targets[r]
        for k in range(n_vocab):
            fused[k] = w_a * row_a[k] + w_b * row_b[k] + w_c * row_c[k]
        ref = _row_argmax(fused)
        a_ref, b_ref, c_ref = row_a[ref], row_b[ref], row_c[ref]
        total = m_a = m_b = m_aa = m_ab = m_bb = 0.0
        largest = np.int32(_INF if ref < 0 else 0)
        for start in range(0, n_vocab if ref >= 0 else 0, BLOCK):
            n = min(BLOCK, n_vocab - start)
            part_a, part_b = row_a[start : start + n], row_b[start : start + n]
            part_c = row_c[start : start + n]
            for k in range(n):
                d_a[k] = (part_a[k] - part_c[k]) - (a_ref - c_ref)
                d_b[k] = (part_b[k] - part_c[k]) - (b_ref - c_ref)
                # Beside the fused argmax, so that no rounding of a large logit is left in it.
                p[k] = (part_c[k] - c_ref) + w_a * d_a[k] + w_b * d_b[k]
            if start <= target < start + n:
                p[target - start] = -np.inf  # it comes last, in float64
            largest = max(largest, _largest(d_a[:n].view(np.int32)))
            largest = max(largest, _largest(d_b[:n].view(np.int32)))
            s = s_a = s_b = s_aa = s_ab = s_bb = np.float32(0.0)
            for k in range(n):
                e = _exp(p[k])
                e_a, e_b = e * d_a[k], e * d_b[k]
                s += e
                s_a += e_a
                s_b += e_b
                s_aa += e_a * d_a[k]
                s_ab += e_a * d_b[k]
                s_bb += e_b * d_b[k]
            total += s
            m_a += s_a
            m_b += s_b
            m_aa += s_aa
            m_ab += s_ab
            m_bb += s_bb
        if largest >= _FAR or not total < math.inf:
            _moments_exactly(row_a, row_b, row_c, w_large, w_cpt, target, out[r])
            continue
        gap_a = (np.float64(row_a[target]) - row_c[target]) - (np.float64(a_ref) - c_ref)
        gap_b = (np.float64(row_b[target]) - row_c[target]) - (np.float64(b_ref) - c_ref)
        gap = np.float64(row_c[target]) - c_ref + w_large * gap_a + w_cpt * gap_b
        own = np.exp(gap)
        out[r, 0] = _cost(total, gap)
        total += own
        m_a, m_b = (m_a + own * gap_a) / total, (m_b + own * gap_b) / total
        out[r, 1], out[r, 2] = m_a - gap_a, m_b - gap_b
        out[r, 3] = (m_aa + own * gap_a * gap_a) / total - m_a * m_a
        out[r, 4] = (m_ab + own * gap_a * gap_b) / total - m_a * m_b
        out[r, 5] = (m_bb + own * gap_b * gap_b) / total - m_b * m_b


@njit
def token_logprobs(
    rows: Rows, targets: Ids, n_vocab: int, logprobs: Costs, greedy: npt.NDArray[np.bool_]
) -> None:
    """The log-probability of each row's target, and whether it is the row's argmax.

    Args:
        rows: float32 ``[n_rows, >= n_vocab]``: fused ones, or those of one model.
        targets: int32 ``[n_rows]``.
        logprobs: float64 ``[n_rows]``, overwritten; NaN where nothing is finite, or any is NaN.
        greedy: bool ``[n_rows]``, overwritten.
    """
    for r in range(targets.size):
        row, target = rows[r, :n_vocab], targets[r]
        best = _row_argmax(row)
        greedy[r] = best == target
        if best < 0:
            logprobs[r] = math.nan
            continue
        top = row[best]
        rest = 0.0
        for start in range(0, n_vocab, BLOCK):
            part = row[start : start + BLOCK]
            total = np.float32(0.0)
            for k in range(part.size):
                total += _exp(part[k] - top)
            if start <= target < start + part.size:  # near 1 only the others tell what it costs
                total = np.float32(0.0)
                for k in range(part.size):
                    if start + k != target:
                        total += _exp(part[k] - top)
            rest += total
        logprobs[r] = -_cost(rest, np.float64(row[target]) - top)


@njit
def fuse_saf(host: Rows, scorer: Rows, out: Rows, best: Ids) -> None:
    """``out = e·host + (1 - e)·scorer``, with ``e`` the probability that the scorer gives to the
    host's first choice: SAF-W.

    Args:
        host, scorer: float32 ``[n_rows, >= n_vocab]``.
        out, best: as for :func:`trimix_kernels.fuse.fuse_two`. A row in which a model has no finite
            choice becomes NaN, and its choice -1.
    """
    n_vocab = out.shape[1]
    for r in range(out.shape[0]):
        row_host, row_scorer, row = host[r, :n_vocab], scorer[r, :n_vocab], out[r]
        proposal, top = _row_argmax(row_host), _row_argmax(row_scorer)
        e = np.float32(np.nan)
        if proposal >= 0 and top >= 0:
            total = 0.0
            for start in range(0, n_vocab, BLOCK):
                part = row_scorer[start : start + BLOCK]
                subtotal = np.float32(0.0)
                for k in range(part.size):
                    subtotal += _exp(part[k] - row_scorer[top])
                total += subtotal
            e = np.float32(_exp(row_scorer[proposal] - row_scorer[top]) / total)
        for i in range(n_vocab):
            row[i] = e * row_host[i] + (np.float32(1.0) - e) * row_scorer[i]
        best[r] = _row_argmax(row)
