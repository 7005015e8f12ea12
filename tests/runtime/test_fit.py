"""Fitting: Newton's optimum, the grid, and what they gain; on random logits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest

from trimix_edge.config import FusionWeights, Role
from trimix_edge.decoding.scoring import Piece
from trimix_edge.errors import PromptError
from trimix_edge.fusion.by_prompt import WeightGrid
from trimix_edge.measure.fit import Fit, fit_host, fit_weights, heat_map, read_pairs

N_VOCAB = 30
ALL, TWO = tuple(Role), (Role.LARGE_INS, Role.SMALL_CPT)


@dataclass
class RandomText:
    """Rows that know something of their targets, in pieces."""

    seed: int
    n_tokens: int = 40
    roles: tuple[Role, ...] = ALL
    n_vocab: int = N_VOCAB

    def pieces(self, what: str) -> Iterator[Piece]:
        rng = np.random.default_rng(self.seed)
        targets = rng.integers(0, N_VOCAB, self.n_tokens).astype(np.int32)
        rows: dict[Role, npt.NDArray[np.float32]] = {}
        for role, hint in zip(Role, rng.uniform(0, 3, 3), strict=True):
            drawn = rng.normal(size=(self.n_tokens, N_VOCAB)) * 2
            drawn[np.arange(self.n_tokens), targets] += hint
            rows[role] = drawn.astype(np.float32)
        for at in range(0, self.n_tokens, 16):
            part = slice(at, at + 16)
            yield Piece({role: rows[role][part] for role in self.roles}, targets[part])


def nll(source: RandomText, pair: FusionWeights) -> float:
    costs = []
    for logits, targets in source.pieces(""):
        rows = sum((pair.of(r) * logits[r].astype(np.float64) for r in pair.roles), np.zeros(1))
        top = rows.max(axis=1, keepdims=True)
        log_p = rows - top - np.log(np.exp(rows - top).sum(axis=1, keepdims=True))
        costs.append(-log_p[np.arange(len(targets)), targets])
    return float(np.concatenate(costs).mean())


def fit(source: RandomText, method: str = "newton") -> Fit:
    grid = WeightGrid(source.roles)
    return fit_weights(source, grid, method=method, current=FusionWeights(0.1, 0.9))


@pytest.mark.parametrize("roles", [ALL, TWO], ids=["three", "two"])
def test_newton_is_never_above_the_grids_best_on_100_random_texts(roles: tuple[Role, ...]) -> None:
    for seed in range(100):
        source = RandomText(seed, roles=roles)
        found = fit(source)
        assert found.newton is not None
        assert nll(source, found.newton) <= nll(source, found.best_pair) + 1e-4


@pytest.mark.parametrize("roles", [ALL, TWO], ids=["three", "two"])
def test_no_pair_around_newtons_is_better(roles: tuple[Role, ...]) -> None:
    for seed in range(5):
        source = RandomText(seed, roles=roles)
        w = fit(source).weights
        best = nll(source, w)
        for d_large, d_cpt in ((0.02, -0.02), (-0.02, 0.02), (0.02, 0), (0, 0.02), (-0.02, -0.02)):
            if roles == ALL or d_large == -d_cpt:
                near = FusionWeights(w.large_ins + d_large, w.small_cpt + d_cpt)
                assert nll(source, near) >= best - 1e-7


def test_the_grid_method_stays_on_the_grid_and_gains_are_differences_of_means() -> None:
    source = RandomText(3)
    newton, grid = fit(source), fit(source, "grid")
    assert grid.newton is None
    assert grid.weights == grid.best_pair in grid.pairs
    assert grid.gain_on_grid.nats == 0
    assert grid.best_nll == pytest.approx(min(nll(source, p) for p in grid.pairs), abs=1e-6)
    assert newton.newton_nll == pytest.approx(nll(source, newton.weights), abs=1e-6)
    assert newton.current_nll == pytest.approx(nll(source, FusionWeights(0.1, 0.9)), abs=1e-6)
    assert newton.gain_on_grid.nats == pytest.approx(newton.best_nll - newton.newton_nll, abs=1e-6)
    assert newton.gain_on_current is not None
    gained = newton.current_nll - newton.newton_nll
    assert newton.gain_on_current.nats == pytest.approx(gained, abs=1e-6)
    assert newton.gain_on_current.error > 0


def test_the_surface_is_the_grids_perplexity() -> None:
    found = fit(RandomText(5), "grid")
    surface = heat_map(found)
    assert surface is not None
    assert surface.shape == (6, 6)
    at = found.pairs.index(FusionWeights(0.3, 1.0))
    assert surface[1, 5] == pytest.approx(math.exp(found.grid[at]))
    assert heat_map(fit(RandomText(5, roles=TWO), "grid")) is None


def test_a_text_that_one_model_always_gets_right_still_ends() -> None:
    class Certain(RandomText):
        def pieces(self, what: str) -> Iterator[Piece]:
            for logits, targets in super().pieces(what):
                logits[Role.LARGE_INS][np.arange(len(targets)), targets] = 30
                yield Piece(logits, targets)

    found = fit(Certain(1))
    assert found.newton_nll is not None
    assert 0 <= found.newton_nll <= found.best_nll


def test_the_host_of_saf_is_the_one_with_the_lower_cost() -> None:
    found = fit_host(RandomText(2))
    assert found.rule.name == "saf"
    assert found.nll[found.rule.role] == min(found.nll.values())
    assert found.gain.nats == pytest.approx(abs(np.subtract(*found.nll.values())))


def test_pairs_are_two_columns() -> None:
    assert read_pairs("a\tb\n\nc d\te f\r\n", "x.tsv") == [("a", "b"), ("c d", "e f")]
    for text in ("a\tb\nc\n", "a\tb\tc\n", "a\t\n"):
        with pytest.raises(PromptError, match=r"x\.tsv: line \d has \d columns"):
            read_pairs(text, "x.tsv")
    with pytest.raises(PromptError, match="no pairs"):
        read_pairs("\n", "x.tsv")
