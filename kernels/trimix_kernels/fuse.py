"""The weighted sum of logit rows, the plausibility mask and the fused argmax.

Rows come straight from llama.cpp: float32, C-contiguous, ``[n_rows, width]``, where a width may
exceed the shared vocabulary by padding. The width of ``out`` is the shared size, and only that
many columns are read.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from trimix_kernels._jit import njit

Rows = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int32]

_BLOCK = 2048
_INF = 0x7F800000
"""Infinity in :func:`_order`; -inf is ``-_INF - 1``, and whatever lies beyond the two is NaN."""
_NAN = 0x7FFFFFFF


@njit
def _order(bits: np.int32) -> np.int32:
    """The bits of a float32 as the integer of the same order; -0.0 is -1, just below 0.0."""
    return np.int32(bits ^ np.int32(np.int32(bits >> 31) & np.int32(0x7FFFFFFF)))


@njit
def _block_max(bits: Ids) -> np.int32:
    """The largest element of a block in :func:`_order`, 0 for -0.0; ``_NAN`` if there is a NaN.

    Without "nnan" LLVM does not vectorise a maximum of floats. Of integers it does: a dozen times
    faster, as long as every operand stays an int32.
    """
    top = np.int32(-(2**31))
    bottom = np.int32(2**31 - 1)
    for i in range(bits.size):
        key = _order(bits[i])
        if key > top:
            top = key
        if key < bottom:
            bottom = key
    if bottom < -_INF - 1:  # a NaN with its sign bit set, as inf - inf is on x86
        return np.int32(_NAN)
    return np.int32(0) if top == -1 else top


@njit
def _row_argmax(row: Rows) -> int:
    """Index of the largest element, the lowest on a tie; -1 where that is -inf, or any is NaN."""
    bits = row.view(np.int32)
    top = np.int32(-_INF - 1)
    start = 0
    for block in range(0, row.size, _BLOCK):
        key = _block_max(bits[block : block + _BLOCK])
        if key > top:
            top, start = key, block
    return _first(bits, start, top)


@njit
def _first(bits: Ids, start: int, top: np.int32) -> int:
    """Index of the first element that is ``top`` in :func:`_order`, in the block from ``start``.

    Returns:
        -1 where ``top`` is -inf or NaN.
    """
    if top == -_INF - 1 or top > _INF:
        return -1
    for i in range(start, min(start + _BLOCK, bits.size)):
        key = _order(bits[i])
        if key == top or (key == -1 and top == 0):
            return i
    return -1


@njit
def fuse_two(
    a: Rows, b: Rows, weight_a: np.float32, weight_b: np.float32, out: Rows, best: Ids
) -> None:
    """``out = weight_a·a + weight_b·b``, row by row, and the argmax of each row.

    Args:
        a, b: float32 ``[n_rows, >= n_vocab]``.
        weight_a, weight_b: float32.
        out: float32 ``[n_rows, n_vocab]``, overwritten.
        best: int32 ``[n_rows]``, overwritten: see :func:`argmax`.
    """
    for r in range(out.shape[0]):
        row_a, row_b, row = a[r], b[r], out[r]
        bits = row.view(np.int32)
        top, start = np.int32(-_INF - 1), 0
        for block in range(0, row.size, _BLOCK):  # its maximum is taken while the cache holds it
            end = block + _BLOCK
            part_a, part_b, part = row_a[block:end], row_b[block:end], row[block:end]
            for i in range(part.size):
                part[i] = weight_a * part_a[i] + weight_b * part_b[i]
            key = _block_max(bits[block:end])
            if key > top:
                top, start = key, block
        best[r] = _first(bits, start, top)


@njit
def fuse_three(
    a: Rows,
    b: Rows,
    c: Rows,
    weight_a: np.float32,
    weight_b: np.float32,
    weight_c: np.float32,
    out: Rows,
    best: Ids,
) -> None:
    """``out = weight_a·a + weight_b·b + weight_c·c``: TriMix, section 3 of the paper.

    Shapes and dtypes as in :func:`fuse_two`.
    """
    for r in range(out.shape[0]):
        row_a, row_b, row_c, row = a[r], b[r], c[r], out[r]
        bits = row.view(np.int32)
        top, start = np.int32(-_INF - 1), 0
        for block in range(0, row.size, _BLOCK):
            end = block + _BLOCK
            part_a, part_b, part_c = row_a[block:end], row_b[block:end], row_c[block:end]
            part = row[block:end]
            for i in range(part.size):
                part[i] = weight_a * part_a[i] + weight_b * part_b[i] + weight_c * part_c[i]
            key = _block_max(bits[block:end])
            if key > top:
                top, start = key, block
        best[r] = _first(bits, start, top)


@njit
def mask_implausible(judge: Rows, alpha: float, out: Rows, best: Ids) -> None:
    """Set to -inf every token that a judging model finds too unlikely.

    A token stays where ``judge[v] >= log(alpha) + max(judge)``. The paper writes ``>``; with ``>=``
    an ``alpha`` of 1 keeps the judge's own first choice instead of nothing.

    Args:
        judge: float32 ``[n_rows, >= n_vocab]``, the judging model's logits.
        alpha: in (0, 1].
        out: float32 ``[n_rows, n_vocab]``, masked in place.
        best: int32 ``[n_rows]``, overwritten with the argmax of what is left.
    """
    log_alpha = np.float32(math.log(alpha))
    for r in range(out.shape[0]):
        row, judged = out[r], judge[r]
        top = _row_argmax(judged[: row.size])
        threshold = log_alpha + judged[top] if top >= 0 else np.float32(np.inf)
        for i in range(row.size):
            if not judged[i] >= threshold:  # a NaN is not
                row[i] = -np.inf
        best[r] = _row_argmax(row)


@njit
def argmax(rows: Rows, best: Ids) -> None:
    """The argmax of each row, ties to the lowest id, -1 where nothing is above -inf or any is NaN.

    Args:
        rows: float32 ``[n_rows, n_vocab]``.
        best: int32 ``[n_rows]``, overwritten.
    """
    for r in range(rows.shape[0]):
        best[r] = _row_argmax(rows[r])


@njit
def peak_probability(row: Rows, peak: int) -> float:
    """The probability of a row's argmax, to 4 %: how sure a model is, not a score of it.

    Args:
        row: float32 ``[n_vocab]``, logits.
        peak: its argmax.

    Returns:
        ``1 / Σ exp(row[v] - row[peak])``, with exponentials read off the bits of a float32
        (Schraudolph, Neural Computation 1999), which unlike the exact ones vectorise.
    """
    top = row[peak]
    bits = np.empty(_BLOCK, np.int32)
    exponentials = bits.view(np.float32)
    total = 0.0
    for start in range(0, row.size, _BLOCK):
        n = min(_BLOCK, row.size - start)
        for i in range(n):
            below = max(row[start + i] - top, np.float32(-80.0))
            bits[i] = np.int32(below * np.float32(12102203.0) + np.float32(1064866805.0))
        part = np.float32(0.0)
        for i in range(n):
            part += exponentials[i]
        total += part
    return 1.0 / max(1.0, total)


@njit
def fill_candidates(logits: Rows, ids: Ids, candidate_logits: Rows, p: Rows) -> int:
    """Lay the possible tokens of a row out as llama.cpp's ``llama_token_data``, by id.

    Tokens at -inf are left out: llama.cpp's typical-p computes NaN from them.

    Args:
        logits: float32 ``[n_vocab]``.
        ids: int32 ``[n_vocab]``, the strided ``id`` field, overwritten from the beginning.
        candidate_logits: float32 ``[n_vocab]``, the strided ``logit`` field, likewise.
        p: float32 ``[n_vocab]``, the strided ``p`` field, likewise, with zeros.

    Returns:
        How many there are.
    """
    n = 0
    for i in range(logits.size):
        if logits[i] > -np.inf:
            ids[n] = i
            candidate_logits[n] = logits[i]
            p[n] = 0.0
            n += 1
    return n
