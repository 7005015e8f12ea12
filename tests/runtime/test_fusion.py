"""The fusion rules: which roles they read, and what they make of them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimix_edge.config import FusionWeights, Plausibility, Role
from trimix_edge.fusion.linear import LinearFusion

N_VOCAB = 50
WIDTHS = {Role.LARGE_INS: N_VOCAB + 14, Role.SMALL_CPT: N_VOCAB, Role.SMALL_BASE: N_VOCAB + 2}


def logits(n_rows: int = 1, seed: int = 0) -> dict[Role, npt.NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    rows = {
        role: rng.normal(size=(n_rows, width)).astype(np.float32) for role, width in WIDTHS.items()
    }
    for row in rows.values():
        row[:, N_VOCAB:] = 1e9  # padding, which no rule may read
    return rows


def expected(
    rows: dict[Role, npt.NDArray[np.float32]], weights: FusionWeights
) -> npt.NDArray[np.float64]:
    return sum(
        (weights.of(role) * rows[role][:, :N_VOCAB].astype(np.float64) for role in weights.roles),
        np.zeros(1),
    )


@settings(deadline=None)
@given(st.floats(-2, 2), st.floats(-2, 2), st.integers(1, 3))
def test_all_weights_give_the_weighted_sum(large: float, cpt: float, n_rows: int) -> None:
    weights = FusionWeights(large, cpt)
    rows = logits(n_rows)
    fused = LinearFusion(weights, N_VOCAB).fuse(rows)
    np.testing.assert_allclose(fused.logits, expected(rows, weights), atol=1e-5)
    assert fused.best.tolist() == np.argmax(fused.logits, axis=1).tolist()


@pytest.mark.parametrize("role", Role)
def test_a_single_role_is_passed_through_bit_by_bit(role: Role) -> None:
    rows = logits()
    fused = LinearFusion(FusionWeights.single(role), N_VOCAB).fuse({role: rows[role]})
    np.testing.assert_array_equal(fused.logits, rows[role][:, :N_VOCAB])
    assert fused.best[0] == np.argmax(rows[role][0, :N_VOCAB])


@pytest.mark.parametrize(
    ("weights", "mask", "needs"),
    [
        (FusionWeights(0.1, 0.9), None, {Role.LARGE_INS, Role.SMALL_CPT}),
        (FusionWeights(1, 0), None, {Role.LARGE_INS}),
        (FusionWeights(1, 1), None, set(Role)),
        (FusionWeights(1, 0), Role.SMALL_CPT, {Role.LARGE_INS, Role.SMALL_CPT}),
        (FusionWeights(0.1, 0.9), Role.SMALL_BASE, set(Role)),
    ],
)
def test_needs_are_the_weighted_roles_and_the_judge(
    weights: FusionWeights, mask: Role | None, needs: set[Role]
) -> None:
    rule = LinearFusion(weights, N_VOCAB, Plausibility(mask, 0.1) if mask else None)
    assert rule.needs == needs
    rule.fuse({role: rows for role, rows in logits().items() if role in needs})


@pytest.mark.parametrize("judge", Role)
def test_the_mask_applies_to_the_sum(judge: Role) -> None:
    weights, rows = FusionWeights(0.6, 0.9), logits(3)
    fused = LinearFusion(weights, N_VOCAB, Plausibility(judge, 0.3)).fuse(rows)
    judged = rows[judge][:, :N_VOCAB].astype(np.float64)
    kept = judged >= judged.max(axis=1, keepdims=True) + np.log(0.3)
    assert 3 <= kept.sum() < kept.size / 2
    assert (fused.logits[~kept] == -np.inf).all()
    np.testing.assert_allclose(fused.logits[kept], expected(rows, weights)[kept], atol=1e-5)
    assert fused.best.tolist() == np.argmax(fused.logits, axis=1).tolist()


def test_the_output_buffer_is_used_again_and_grows_when_it_must() -> None:
    rule = LinearFusion(FusionWeights(0.5, 0.3), N_VOCAB)
    first = rule.fuse(logits())
    assert rule.fuse(logits(seed=1)) is first
    assert rule.fuse(logits(4)).logits.shape == (4, N_VOCAB)
    np.testing.assert_allclose(
        rule.fuse(logits()).logits, expected(logits(), rule.weights), atol=1e-5
    )
