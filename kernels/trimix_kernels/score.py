"""What known tokens cost under the fused distribution: at one pair of weights, or a whole grid.

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

from trimix_kernels._jit import njit, njit_in_order
from trimix_kernels.fuse import _INF, Ids, Rows, _block_max, _order, _row_argmax

Costs = npt.NDArray[np.float64]
Pairs = npt.NDArray[np.float64]

_BLOCK = 512
"""Tokens of the vocabulary at once: their factors stay in the first-level cache."""
_HEADROOM = 55.0
"""Nats that the factors of :func:`grid_nll` may grow by before float32's range is too small."""
_FAR = 0x43800000
"""The bits of 256.0: models that differ by more, in nats, are compared in float64."""
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


@njit
def _steps(grid: Pairs) -> tuple[Rows, Ids, Ids]:
    """Write the grid as a path from 0.

    Returns:
        Its distinct steps, float32; of each the step of half its size, -1 for none, which spares an
        exponential; and the step that leads to each weight, padded to a multiple of 6. The paper's
        grid has two steps, 0.1 and its double.
    """
    steps = np.empty(grid.size, np.float32)
    half_of = np.full(grid.size, -1, np.int32)
    step_of = np.zeros((grid.size + 5) // 6 * 6, np.int32)
    count = 0
    before = 0.0
    for i in range(grid.size):
        step = grid[i] - before
        before = grid[i]
        found, half = count, -1
        for known in range(count):
            if abs(steps[known] - step) < 1e-7:
                found = known
            elif abs(2 * steps[known] - step) < 1e-7:
                half = known
        step_of[i] = found
        if found == count:
            steps[count], half_of[count] = step, half
            count += 1
    return steps[:count], half_of[:count], step_of


@njit
def _climbs(grid: Pairs) -> bool:
    """Whether the grid goes up from 0 or more, as :func:`_grid_sums` needs it."""
    before = 0.0
    for weight in grid:
        if weight < before:
            return False
        before = weight
    return True


@njit
def _highest(block: Rows, so_far: np.float32) -> np.float32:
    """The larger of a value and the maximum of a block; infinity if there is a NaN."""
    key = _block_max(block.view(np.int32))
    if key > _INF:
        return np.float32(np.inf)
    return max(so_far, np.int32(_order(key)).view(np.float32))


@njit
def _powers(d: Rows, steps: Rows, half_of: Ids, step_of: Ids, grown: Rows, powers: Rows) -> None:
    """``powers[i] = powers[-1]·exp(grid[i]·d)``: an exponential a step, products for the rest.

    Args:
        d: float32 ``[n]``.
        grown: float32 ``[n_steps, >= n]``, overwritten with the exponentials of the steps.
        step_of: int32 ``[2·x]``, the step that leads to each weight.
        powers: float32 ``[> 2·x, >= n]``, overwritten but for the last one.
    """
    n = d.size
    for s in range(steps.size):
        row = grown[s]
        if half_of[s] >= 0:
            half = grown[half_of[s]]
            for k in range(n):
                row[k] = half[k] * half[k]
        else:
            step = steps[s]
            for k in range(n):
                row[k] = _exp(step * d[k])
    for i in range(0, step_of.size, 2):
        before, row_0, row_1 = powers[i - 1], powers[i], powers[i + 1]
        by_0, by_1 = grown[step_of[i]], grown[step_of[i + 1]]
        for k in range(n):
            power = before[k] * by_0[k]
            row_0[k] = power
            row_1[k] = power * by_1[k]


@njit
def _add_products(left: Rows, right: Rows, n: int, sums: Costs) -> None:
    """Add ``left @ right.T`` to the sums, two by three rows at a time: six sums a pass share what
    they read.

    Args:
        left, right: float32 ``[2·x, >= n]`` and ``[3·y, >= n]``.
        sums: float64 ``[2·x, 3·y]``.
    """
    for i in range(0, sums.shape[0], 2):
        a0, a1 = left[i], left[i + 1]
        for j in range(0, sums.shape[1], 3):
            b0, b1, b2 = right[j], right[j + 1], right[j + 2]
            s00 = s01 = s02 = s10 = s11 = s12 = np.float32(0.0)
            for k in range(n):
                s00 += a0[k] * b0[k]
                s01 += a0[k] * b1[k]
                s02 += a0[k] * b2[k]
                s10 += a1[k] * b0[k]
                s11 += a1[k] * b1[k]
                s12 += a1[k] * b2[k]
            sums[i, j] += s00
            sums[i, j + 1] += s01
            sums[i, j + 2] += s02
            sums[i + 1, j] += s10
            sums[i + 1, j + 1] += s11
            sums[i + 1, j + 2] += s12


@njit
def grid_nll(
    a: Rows, b: Rows, c: Rows, large: Pairs, cpt: Pairs, targets: Ids, n_vocab: int, out: Costs
) -> None:
    """The cost of each row's target under all pairs of weights, in one pass over the three rows.

    The fused logit is ``c + w_large·(a - c) + w_cpt·(b - c)``: its exponential falls apart into
    three factors, and the grid is the outer product of two families of them. So three exponentials
    and some products a token of the vocabulary stand for 36. They are taken beside a token that is
    likely under ``b``, which keeps them within float32's range for logits as models have them; a
    row where they might leave it, and a grid that does not climb from 0, is fused pair by pair in
    float64. Within 1e-4 relative of an exact softmax either way.

    Args:
        a, b, c: float32 ``[n_rows, >= n_vocab]``.
        large, cpt: float64 ``[n_large]`` and ``[n_cpt]``, the weights of the grid.
        targets: int32 ``[n_rows]``.
        out: float64 ``[n_rows, n_large, n_cpt]``, overwritten.
    """
    n_a, n_b = large.size, cpt.size
    a_steps, a_halves, a_step_of = _steps(large)
    b_steps, b_halves, b_step_of = _steps(cpt)
    # The last of the powers is what the others start from.
    a_powers = np.ones((a_step_of.size + 1, _BLOCK), np.float32)
    b_powers = np.ones((b_step_of.size + 1, _BLOCK), np.float32)
    grown = np.empty((max(a_steps.size, b_steps.size), _BLOCK), np.float32)
    d = np.empty(_BLOCK, np.float32)
    sums = np.empty((a_step_of.size, b_step_of.size), np.float64)
    exact = np.empty(n_vocab, np.float64)
    climbs = _climbs(large) and _climbs(cpt)
    for r in range(targets.size):
        row_a, row_b, row_c, target = a[r, :n_vocab], b[r, :n_vocab], c[r, :n_vocab], targets[r]
        ref = _row_argmax(row_b) if climbs else -1
        high_a = high_b = np.float32(0.0)
        sums[:] = 0.0
        a_ref, b_ref, c_ref = row_a[ref], row_b[ref], row_c[ref]
        for start in range(0, n_vocab if ref >= 0 else 0, _BLOCK):
            n = min(_BLOCK, n_vocab - start)
            part_a, part_b = row_a[start : start + n], row_b[start : start + n]
            part_c, first = row_c[start : start + n], a_powers[-1]
            for k in range(n):
                first[k] = _exp(part_c[k] - c_ref)
            if start <= target < start + n:
                first[target - start] = 0.0
            for k in range(n):
                d[k] = (part_a[k] - part_c[k]) - (a_ref - c_ref)
            high_a = _highest(d[:n], high_a)
            _powers(d[:n], a_steps, a_halves, a_step_of, grown, a_powers)
            for k in range(n):
                d[k] = (part_b[k] - part_c[k]) - (b_ref - c_ref)
            high_b = _highest(d[:n], high_b)
            _powers(d[:n], b_steps, b_halves, b_step_of, grown, b_powers)
            _add_products(a_powers, b_powers, n, sums)
        fits = ref >= 0 and high_a * large[-1] + high_b * cpt[-1] < _HEADROOM
        for i in range(n_a):
            for j in range(n_b):
                if fits and sums[i, j] < math.inf:
                    w_c = _left(large[i], cpt[j])
                    gap = _fused(
                        np.float64(row_a[target]) - a_ref,
                        np.float64(row_b[target]) - b_ref,
                        np.float64(row_c[target]) - c_ref,
                        large[i], cpt[j], w_c,
                    )  # fmt: skip
                    out[r, i, j] = _cost(sums[i, j], gap)
                else:
                    top = _fuse_exactly(row_a, row_b, row_c, large[i], cpt[j], exact)
                    out[r, i, j] = _pair_nll(exact, top, target)


@njit
def grid_entropy(
    a: Rows, b: Rows, c: Rows, large: Pairs, cpt: Pairs, n_vocab: int, out: Costs
) -> None:
    """The entropy in nats of each row's fused distribution under all pairs of weights.

    Args:
        a, b, c, large, cpt: as for :func:`grid_nll`, the grid in any order.
        out: float64 ``[n_rows, n_large, n_cpt]``, overwritten.
    """
    fused = np.empty(n_vocab, np.float64)
    for r in range(out.shape[0]):
        for i in range(large.size):
            for j in range(cpt.size):
                top = _fuse_exactly(
                    a[r, :n_vocab], b[r, :n_vocab], c[r, :n_vocab], large[i], cpt[j], fused
                )
                total = weighted = 0.0
                for k in range(n_vocab):
                    x = fused[k] - top
                    p = np.float64(_exp(np.float32(x)))
                    total += p
                    if p > 0.0:
                        weighted += p * x
                out[r, i, j] = np.log(total) - weighted / total


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
    d_a, d_b = np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.float32)
    p = np.empty(_BLOCK, np.float32)
    for r in range(targets.size):
        row_a, row_b, row_c, target = a[r, :n_vocab], b[r, :n_vocab], c[r, :n_vocab], targets[r]
        for k in range(n_vocab):
            fused[k] = w_a * row_a[k] + w_b * row_b[k] + w_c * row_c[k]
        ref = _row_argmax(fused)
        a_ref, b_ref, c_ref = row_a[ref], row_b[ref], row_c[ref]
        total = m_a = m_b = m_aa = m_ab = m_bb = 0.0
        largest = np.int32(_INF if ref < 0 else 0)
        for start in range(0, n_vocab if ref >= 0 else 0, _BLOCK):
            n = min(_BLOCK, n_vocab - start)
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
        for start in range(0, n_vocab, _BLOCK):
            part = row[start : start + _BLOCK]
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
            for start in range(0, n_vocab, _BLOCK):
                part = row_scorer[start : start + _BLOCK]
                subtotal = np.float32(0.0)
                for k in range(part.size):
                    subtotal += _exp(part[k] - row_scorer[top])
                total += subtotal
            e = np.float32(_exp(row_scorer[proposal] - row_scorer[top]) / total)
        for i in range(n_vocab):
            row[i] = e * row_host[i] + (np.float32(1.0) - e) * row_scorer[i]
        best[r] = _row_argmax(row)
