"""What a caller may want to know of a chosen token: log-probabilities, and each model's part."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from trimix_edge.decoding.sequence import Sequence, Token
from trimix_edge.fusion.rule import TrioLogits

N_OWN = 3
"""Tokens that :func:`describe` names for each model alone."""


def describe(
    sequence: Sequence,
    logits: TrioLogits,
    fused_row: npt.NDArray[np.float32],
    row: int,
    token: int,
    n_vocab: int,
) -> Token:
    """The token, with what its sequence asks for.

    Args:
        logits: what was fused.
        fused_row: float32 ``[n_vocab]``, what became of their row ``row``.
    """
    if sequence.top < 0 and not sequence.explain:
        return Token(token)
    logprob, top, shares, models = None, None, None, None
    if sequence.top >= 0:
        logprobs = log_softmax(fused_row)
        logprob = float(logprobs[token])
        top = [(i, float(logprobs[i])) for i in likeliest(fused_row, sequence.top)]
    if sequence.explain:
        shares = sequence.rule.shares(logits, row, fused_row, token)
        models = {role: _own(rows[row, :n_vocab]) for role, rows in logits.items()}
    return Token(token, logprob=logprob, top=top, shares=shares, models=models)


def _own(row: npt.NDArray[np.float32]) -> list[tuple[int, float]]:
    logprobs = log_softmax(row)
    return [(i, float(np.exp(logprobs[i]))) for i in likeliest(row, N_OWN)]


def likeliest(row: npt.NDArray[np.float32], n: int) -> list[int]:
    """The ids of the ``n`` largest values, best first, ties to the lowest id."""
    n = min(n, len(row))
    if n <= 0:
        return []
    least = np.partition(row, len(row) - n)[len(row) - n]
    some = np.flatnonzero(row >= least)
    return [int(i) for i in some[np.lexsort((some, -row[some]))][:n]]


def log_softmax(row: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Nats, float64 ``[n_vocab]``."""
    shifted = row.astype(np.float64) - row.max()
    result: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum())
    return result
