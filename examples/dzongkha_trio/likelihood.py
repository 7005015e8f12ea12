"""Teacher-forced logits of three models on held-out references, and what can be fitted to them.

Fusion is linear in logits, so one pass of llama.cpp over the references serves every weighting:
the rows are kept (about 1.5 GB for 400 items and a vocabulary of 8,192), and all systems are
computed from them in NumPy, in float64 where it matters.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.progress import track

from trimix_edge import Role, TriMix

ROLES = tuple(Role)
ROWS_AT_ONCE = 32
TOKENS_AT_ONCE = 256

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Item:
    page: str
    english: str
    dzongkha: str


def read_items(path: Path, limit: int | None = None) -> list[Item]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file, delimiter="\t")
        return [Item(page, english, dzongkha) for page, _, english, dzongkha in rows][:limit]


@dataclass(frozen=True)
class References:
    """The logits of every reference token.

    Attributes:
        logits: float32 ``[3 roles, n_tokens, n_vocab]``.
        targets: int64 ``[n_tokens]``.
        item_of: int64 ``[n_tokens]``, the item that a token belongs to.
        n_bytes: float64 ``[n_items]``, UTF-8 bytes of each reference.
        pages: the page of each item.
    """

    logits: npt.NDArray[np.float32]
    targets: npt.NDArray[np.int64]
    item_of: npt.NDArray[np.int64]
    n_bytes: Floats
    pages: tuple[str, ...]

    def per_item(self, token_nll: Floats) -> Floats:
        """Nats of each item's reference, from nats of each token."""
        return np.bincount(self.item_of, token_nll, len(self.n_bytes))


def teacher_force(trimix: TriMix, items: Sequence[Item], label: str) -> References:
    """Run the three models over prompt and reference of each item."""
    trio = trimix.trio
    rows: dict[Role, list[npt.NDArray[np.float32]]] = {role: [] for role in ROLES}
    targets: list[int] = []
    item_of: list[int] = []
    for n, item in enumerate(track(items, description=label)):
        prompt = trimix.tokenize(item.english, chat=True)
        reference = trio.vocab.tokenize(f" {item.dzongkha}", add_special=False)
        sequence = trio.sequence(ROLES)
        # The row after token i predicts token i + 1, so the last reference token is not decoded.
        tokens = [*prompt, *reference[:-1]]
        first = len(prompt) - 1
        if first:
            sequence.decode(tokens[:first], n_rows=0)
        for at in range(first, len(tokens), ROWS_AT_ONCE):
            piece = tokens[at : at + ROWS_AT_ONCE]
            for role, logits in sequence.decode(piece, n_rows=len(piece)).items():
                rows[role].append(logits[:, : trio.n_vocab].copy())
        targets += reference
        item_of += [n] * len(reference)
    return References(
        logits=np.stack([np.concatenate(rows[role]) for role in ROLES]),
        targets=np.array(targets),
        item_of=np.array(item_of),
        n_bytes=np.array([len(item.dzongkha.encode()) for item in items], dtype=np.float64),
        pages=tuple(item.page for item in items),
    )


def _log_softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True, dtype=np.float64)).astype(
        np.float32
    )


def fused_nll(data: References, weights: Floats) -> Floats:
    """Nats of each token under ``softmax(Σ weights[r]·logits[r])``; float64 ``[n_tokens]``."""
    nll = np.empty(len(data.targets))
    for at in range(0, len(nll), TOKENS_AT_ONCE):
        part = slice(at, at + TOKENS_AT_ONCE)
        fused = np.tensordot(weights.astype(np.float32), data.logits[:, part], 1)
        nll[part] = -_log_softmax(fused)[np.arange(len(fused)), data.targets[part]]
    return nll


def fit_weights(data: References, roles: Sequence[Role], *, sum_to_one: bool) -> Floats:
    """The weights of these roles' logits that minimise the NLL: Newton's method, as it is convex.

    With ``sum_to_one`` the weights keep the paper's constraint; else they also set a temperature.
    """
    index = [ROLES.index(role) for role in roles]
    # Columns span the directions that are free: all of them, or those that keep the sum.
    basis = np.eye(len(index))
    if sum_to_one:
        basis = np.vstack([np.eye(len(index) - 1), -np.ones(len(index) - 1)])
    w = np.full(len(index), 1.0 / len(index))
    for _ in range(20):
        gradient, hessian = _moments(data, index, w)
        step = basis @ np.linalg.solve(basis.T @ hessian @ basis, basis.T @ gradient)
        w = w - step
        if np.abs(step).max() < 1e-4:
            break
    weights = np.zeros(len(ROLES))
    weights[index] = w
    return weights


def _moments(data: References, index: list[int], w: Floats) -> tuple[Floats, Floats]:
    """Gradient and Hessian of the mean NLL: mean and covariance of logits, less the targets'."""
    k, n = len(index), len(data.targets)
    gradient, hessian = np.zeros(k), np.zeros((k, k))
    for at in range(0, n, TOKENS_AT_ONCE):
        logits = data.logits[index, at : at + TOKENS_AT_ONCE]
        p = np.exp(_log_softmax(np.tensordot(w.astype(np.float32), logits, 1)))
        weighted = logits * p
        mean = weighted.sum(axis=2, dtype=np.float64)
        second = np.einsum("itv,jtv->ij", weighted, logits, optimize=True)
        target = data.targets[at : at + TOKENS_AT_ONCE]
        gradient += (mean - logits[:, np.arange(len(target)), target]).sum(axis=1)
        hessian += second - mean @ mean.T
    return gradient / n, hessian / n


def mixture_nll(data: References, shares: Floats | None = None) -> tuple[Floats, Floats]:
    """Nats of each token under a mixture of the models' probabilities, and the shares.

    Without ``shares`` they are fitted: expectation maximisation.
    """
    log_p = np.stack([-fused_nll(data, one) for one in np.eye(len(ROLES))])
    p = np.exp(log_p)
    if shares is None:
        shares = np.full(len(ROLES), 1.0 / len(ROLES))
        for _ in range(500):
            joint = shares[:, None] * p
            shares = (joint / joint.sum(axis=0)).mean(axis=1)
    return -np.log(shares @ p), shares


class Bootstrap:
    """95 % intervals, resampled by page: paragraphs of one page are alike, so they go together."""

    def __init__(self, pages: Sequence[str], samples: int = 10_000, seed: int = 0) -> None:
        names = sorted(set(pages))
        self._page_of = np.array([names.index(page) for page in pages])
        self._n_pages = len(names)
        draws = np.random.default_rng(seed).integers(0, len(names), (samples, len(names)))
        self._counts = np.apply_along_axis(np.bincount, 1, draws, minlength=len(names))

    def _by_page(self, values: Floats) -> Floats:
        return self._counts @ np.bincount(self._page_of, values, self._n_pages)

    def ratio(self, numerator: Floats, denominator: Floats) -> tuple[float, float, float]:
        """``Σ numerator / Σ denominator`` and its interval."""
        samples = self._by_page(numerator) / self._by_page(denominator)
        low, high = np.percentile(samples, [2.5, 97.5])
        return float(numerator.sum() / denominator.sum()), float(low), float(high)


def bits_per_byte(data: References, token_nll: Floats) -> tuple[Floats, Floats]:
    """Bits and bytes of each item, for :meth:`Bootstrap.ratio`."""
    return data.per_item(token_nll) / math.log(2), data.n_bytes
