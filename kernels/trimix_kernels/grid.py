"""What known tokens cost under a whole grid of weights, in one pass.

Rows, weights and costs are those of :mod:`trimix_kernels.score`.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from trimix_kernels._jit import njit
from trimix_kernels.exact import BLOCK, Costs, _cost, _exp, _fuse_exactly, _fused, _left, _pair_nll
from trimix_kernels.fuse import _INF, Ids, Rows, _block_max, _order, _row_argmax

Pairs = npt.NDArray[np.float64]

_HEADROOM = 55.0
"""Nats that the factors of :func:`grid_nll` may grow by before float32's range is too small."""


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
    a_powers = np.ones((a_step_of.size + 1, BLOCK), np.float32)
    b_powers = np.ones((b_step_of.size + 1, BLOCK), np.float32)
    grown = np.empty((max(a_steps.size, b_steps.size), BLOCK), np.float32)
    d = np.empty(BLOCK, np.float32)
    sums = np.empty((a_step_of.size, b_step_of.size), np.float64)
    exact = np.empty(n_vocab, np.float64)
    climbs = _climbs(large) and _climbs(cpt)
    for r in range(targets.size):
        row_a, row_b, row_c, target = a[r, :n_vocab], b[r, :n_vocab], c[r, :n_vocab], targets[r]
        ref = _row_argmax(row_b) if climbs else -1
        high_a = high_b = np.float32(0.0)
        sums[:] = 0.0
        a_ref, b_ref, c_ref = row_a[ref], row_b[ref], row_c[ref]
        for start in range(0, n_vocab if ref >= 0 else 0, BLOCK):
            n = min(BLOCK, n_vocab - start)
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
