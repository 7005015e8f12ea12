"""One pair of weights for a task or a language, from texts without labels or from labelled pairs.

The NLL of known tokens is convex in the weights: the fused distribution is an exponential family in
them. So Newton's method finds the exact optimum; the paper's grid is scored beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from trimix_kernels import moments, token_logprobs

from trimix_edge.config import FusionWeights, Role, RuleChoice
from trimix_edge.decoding.scoring import Forced, Piece, check_stride, teacher_force_all
from trimix_edge.errors import PromptError
from trimix_edge.fusion.by_prompt import GRID, WeightGrid
from trimix_edge.fusion.rule import TrioLogits
from trimix_edge.fusion.saf import SafFusion
from trimix_edge.trimix import TriMix

STORE_BYTES = 512 * 2**20
"""Rows of logits are kept between Newton's steps up to this size; beyond it the texts are read
again for each step."""

_MAX_STEPS = 30
_TOLERANCE = 1e-7
_MAX_WEIGHT = 20.0

Floats = npt.NDArray[np.float64]
FitProgress = Callable[[str, int, int], None]
"""Called with the name of a pass over the texts, and its tokens so far and in all."""


class Sample(NamedTuple):
    """Tokens to fit to: those of ``text``, given ``condition``, which may be empty."""

    condition: list[int]
    text: list[int]


def read_pairs(text: str, where: str) -> list[tuple[str, str]]:
    """Prompts and references, a line each, with a tab between them.

    Raises:
        PromptError: a line has another number of columns, or an empty one.
    """
    pairs = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        columns = line.rstrip("\r").split("\t")
        if len(columns) != 2 or not all(columns):
            raise PromptError(
                f"{where}: line {number} has {len(columns)} columns, not PROMPT, a tab, REFERENCE"
            )
        pairs.append((columns[0], columns[1]))
    if not pairs:
        raise PromptError(f"{where}: there are no pairs in it")
    return pairs


def samples_of(
    trimix: TriMix,
    texts: Sequence[str],
    pairs: Sequence[tuple[str, str]] = (),
    *,
    chat: bool | None = None,
) -> list[Sample]:
    """Texts and pairs as tokens; prompts go through the chat template as generation's do."""
    vocab = trimix.vocab
    return [
        *(Sample([], vocab.tokenize(text, parse_special=False)) for text in texts),
        *(
            Sample(
                trimix.tokenize(prompt, chat=chat),
                vocab.tokenize(reference, add_special=False, parse_special=False),
            )
            for prompt, reference in pairs
        ),
    ]


class Source(Protocol):
    """Where the rows come from: the same pieces, in the same order, at each call."""

    n_vocab: int

    def pieces(self, what: str) -> Iterator[Piece]: ...


class TextSource:
    """Rows of a trio's models over samples; kept in memory where they all fit.

    Args:
        trimix: with the roles loaded.
        roles: whose rows are read.
        samples: what to read.
        store_bytes: see :data:`STORE_BYTES`.
    """

    def __init__(
        self,
        trimix: TriMix,
        roles: Sequence[Role],
        samples: Sequence[Sample],
        on_progress: FitProgress | None = None,
        store_bytes: int = STORE_BYTES,
    ) -> None:
        self._trio = trimix.trio
        self.n_vocab = self._trio.n_vocab
        self._roles = tuple(roles)
        self._samples = [s for s in samples if len(s.condition) + len(s.text) > 1]
        self._on_progress = on_progress
        self.n_tokens = sum(len(s.text) - int(not s.condition) for s in self._samples)
        if self.n_tokens < 2:
            raise PromptError("the texts have fewer than two tokens to fit to: give more text")
        self._keeps = len(self._roles) * self.n_tokens * self.n_vocab * 4 <= store_bytes
        self._kept: list[Piece] = []

    def pieces(self, what: str) -> Iterator[Piece]:
        if self._kept:
            yield from self._kept
            return
        fresh: list[Piece] = []
        done = 0
        stride = check_stride(None, self._trio.n_ctx)
        texts = [Forced([*before, *text], len(before) or 1) for before, text in self._samples]
        for piece in teacher_force_all(self._trio, self._roles, texts, stride):
            yield piece
            if self._keeps:
                fresh.append(Piece(self._copy(piece.logits), piece.targets))
            done += len(piece.targets)
            if self._on_progress is not None:
                self._on_progress(what, done, self.n_tokens)
        self._kept = fresh

    def _copy(self, logits: TrioLogits) -> TrioLogits:
        return {role: rows[:, : self.n_vocab].copy() for role, rows in logits.items()}


@dataclass(frozen=True)
class Gain:
    """Nats a token that one pair of weights saves beside another, and its standard error."""

    nats: float
    error: float


@dataclass(frozen=True)
class Fit:
    """What fits the texts.

    Attributes:
        method: ``newton`` or ``grid``: what :attr:`weights` come from.
        weights: the pair that was asked for.
        grid: mean nats a token, float64 ``[n_pairs]``, of ``pairs``.
        best_pair, best_nll: the grid's best.
        newton, newton_nll: the exact optimum; None if only the grid was asked for.
        current_nll: of the weights that the trio has now; None where it has none.
        gain_on_current, gain_on_grid: of :attr:`weights`.
        n_tokens: tokens that were fitted to.
        n_steps: Newton's steps.
    """

    method: str
    weights: FusionWeights
    pairs: list[FusionWeights]
    grid: Floats
    best_pair: FusionWeights
    best_nll: float
    newton: FusionWeights | None
    newton_nll: float | None
    current: FusionWeights | None
    current_nll: float | None
    gain_on_current: Gain | None
    gain_on_grid: Gain
    n_tokens: int
    n_steps: int


def fit_weights(
    source: Source, grid: WeightGrid, *, method: str = "newton", current: FusionWeights | None
) -> Fit:
    """Fit one pair of weights to known tokens.

    Args:
        source: rows of the grid's roles.
        grid: the pairs to begin with; its roles are those that are fitted.
        method: ``newton`` or ``grid``.
        current: what to compare with.
    """
    costs = np.concatenate(
        [grid.nll(p.logits, p.targets, source.n_vocab) for p in source.pieces("grid")]
    )
    means = costs.mean(axis=0)
    at = int(np.argmin(np.where(np.isfinite(means), means, np.inf)))
    best = grid.pairs[at]
    optimum, chosen, steps = None, costs[:, at], 0
    if method == "newton":
        optimum, chosen, steps = _newton(source, grid, best, costs[:, at])
    now = None if current is None else _costs(source, grid, current, "present weights")
    return Fit(
        method=method,
        weights=optimum or best,
        pairs=grid.pairs,
        grid=means,
        best_pair=best,
        best_nll=float(means[at]),
        newton=optimum,
        newton_nll=float(chosen.mean()) if optimum else None,
        current=current,
        current_nll=None if now is None else float(now.mean()),
        gain_on_current=None if now is None else _gain(now, chosen),
        gain_on_grid=_gain(costs[:, at], chosen),
        n_tokens=len(costs),
        n_steps=steps,
    )


def mean_nll(source: Source, grid: WeightGrid, pair: FusionWeights) -> float:
    """Mean nats a token of known tokens with a pair of weights."""
    return float(_costs(source, grid, pair, "pairs").mean())


def _gain(before: Floats, after: Floats) -> Gain:
    saved = before - after
    error = float(saved.std(ddof=1)) / math.sqrt(len(saved)) if len(saved) > 1 else math.nan
    return Gain(float(saved.mean()), error)


def _moments(source: Source, grid: WeightGrid, w: Floats, what: str) -> Floats:
    """``trimix_kernels.moments`` of all tokens, float64 ``[n_tokens, 6]``."""
    parts = []
    for logits, targets in source.pieces(what):
        found = np.empty((len(targets), 6))
        a, b, c = grid.rows(logits)
        moments(a, b, c, w[0], w[1], targets, source.n_vocab, found)
        parts.append(found)
    return np.concatenate(parts)


def _costs(source: Source, grid: WeightGrid, pair: FusionWeights, what: str) -> Floats:
    return _moments(source, grid, _to_kernel(grid, pair), what)[:, 0]


def _to_kernel(grid: WeightGrid, pair: FusionWeights) -> Floats:
    """With two models small_cpt's rows are the third ones too, and its own weight is free."""
    return np.array([pair.large_ins, pair.small_cpt if grid.has_base else 0.0])


def _from_kernel(grid: WeightGrid, w: Floats) -> FusionWeights:
    large = float(w[0])
    return FusionWeights(large, float(w[1]) if grid.has_base else 1.0 - large)


def _newton(
    source: Source, grid: WeightGrid, start: FusionWeights, start_costs: Floats
) -> tuple[FusionWeights, Floats, int]:
    """Damped Newton's method from the grid's best pair, never above it.

    A step that does not lower the NLL is halved. The NLL may have no minimum (a target that one
    model always puts first gets ever likelier): a weight stops at 20.
    """
    w, best = _to_kernel(grid, start), start_costs
    found = _moments(source, grid, w, "Newton's step 1")
    scale, steps = 1.0, 0
    step = _direction(found)
    while steps < _MAX_STEPS and np.abs(step).max() * scale > _TOLERANCE:
        steps += 1
        trial = np.clip(w + scale * step, -_MAX_WEIGHT, _MAX_WEIGHT)
        there = _moments(source, grid, trial, f"Newton's step {steps + 1}")
        if there[:, 0].mean() < found[:, 0].mean():
            gained = found[:, 0].mean() - there[:, 0].mean()
            w, found, best, scale = trial, there, there[:, 0], 1.0
            if gained < 1e-10:
                break
            step = _direction(found)
        else:
            scale /= 2
    return _from_kernel(grid, w), best, steps


def _direction(found: Floats) -> Floats:
    """Newton's step; a direction along which nothing changes is left alone."""
    _, g_large, g_cpt, h_ll, h_lc, h_cc = found.mean(axis=0)
    hessian = np.array([[h_ll, h_lc], [h_lc, h_cc]])
    step: Floats = -np.linalg.lstsq(hessian, np.array([g_large, g_cpt]), rcond=1e-10)[0]
    return step


@dataclass(frozen=True)
class HostFit:
    """Which model is the better host of SAF-W.

    Attributes:
        rule: the choice.
        nll: mean nats a token with each host.
        gain: of the better host on the other one.
        n_tokens: tokens that were read.
    """

    rule: RuleChoice
    nll: dict[Role, float]
    gain: Gain
    n_tokens: int


def fit_host(source: Source) -> HostFit:
    """Choose SAF-W's host on known tokens."""
    hosts = (Role.LARGE_INS, Role.SMALL_CPT)
    rules = {host: SafFusion(host, source.n_vocab) for host in hosts}
    parts: dict[Role, list[Floats]] = {host: [] for host in hosts}
    for logits, targets in source.pieces("hosts"):
        for host, rule in rules.items():
            logprobs = np.empty(len(targets))
            greedy = np.empty(len(targets), np.bool_)
            token_logprobs(rule.fuse(logits).logits, targets, source.n_vocab, logprobs, greedy)
            parts[host].append(-logprobs)
    costs = {host: np.concatenate(part) for host, part in parts.items()}
    nll = {host: float(cost.mean()) for host, cost in costs.items()}
    best, other = sorted(hosts, key=lambda host: nll[host])
    gain = _gain(costs[other], costs[best])
    return HostFit(RuleChoice("saf", best), nll, gain, len(costs[best]))


def heat_map(fit: Fit) -> Floats | None:
    """Perplexities of the grid, float64 ``[n_large, n_cpt]``; None of a grid of two models."""
    if len(fit.pairs) != len(GRID) ** 2:
        return None
    return np.exp(np.minimum(fit.grid, 700.0)).reshape(len(GRID), len(GRID))
