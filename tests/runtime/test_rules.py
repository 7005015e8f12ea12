"""Rules beside fixed weights: chosen by prompt, SAF-W, and which model carried a token."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from fakes import ByteTokenizer, FakeModels, FirstChoice, never_ends
from hypothesis import given
from hypothesis import strategies as st

from trimix_edge import values
from trimix_edge.config import (
    FusionWeights,
    Plausibility,
    Role,
    RuleChoice,
)
from trimix_edge.decoding.engine import Engine
from trimix_edge.decoding.sequence import Sequence
from trimix_edge.errors import TrioConfigError, UsageError
from trimix_edge.fusion.by_prompt import GRID, DynamicFusion, WeightGrid
from trimix_edge.fusion.choose import make_rule, rule_roles
from trimix_edge.fusion.linear import LinearFusion
from trimix_edge.fusion.saf import SafFusion
from trimix_edge.weights import WeightChoice

Logits = dict[Role, npt.NDArray[np.float32]]
N_VOCAB = 40
TWO = (Role.LARGE_INS, Role.SMALL_CPT)


def logits(n_rows: int = 6, seed: int = 0, roles: tuple[Role, ...] = tuple(Role)) -> Logits:
    rng = np.random.default_rng(seed)
    return {role: rng.normal(size=(n_rows, N_VOCAB)).astype(np.float32) * 3 for role in roles}


def log_softmax(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    shifted = rows - rows.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def fused(rows: Logits, pair: FusionWeights) -> npt.NDArray[np.float64]:
    return sum((pair.of(r) * rows[r].astype(np.float64) for r in pair.roles), np.zeros(1))


@pytest.mark.parametrize("roles", [tuple(Role), TWO])
def test_auto_takes_the_pair_under_which_the_prompt_is_likeliest(roles: tuple[Role, ...]) -> None:
    rows, targets = logits(roles=roles), [3, 1, 4, 1, 5, 9]
    rule = DynamicFusion(WeightChoice.AUTO, roles, N_VOCAB)
    assert rule.reads_prompt
    assert rule.needs == set(roles)
    for at in (0, 2, 4):
        part = {role: r[at : at + 2] for role, r in rows.items()}
        rule.observe(part, targets[at : at + 2])
    pairs = WeightGrid(roles).pairs
    nll = [-log_softmax(fused(rows, p))[np.arange(6), targets].sum() for p in pairs]
    expected = pairs[int(np.argmin(nll))]
    np.testing.assert_array_equal(
        rule.fuse(rows).logits, LinearFusion(expected, N_VOCAB).fuse(rows).logits
    )
    assert rule.weights == expected
    assert rule.needs == set(expected.roles)


def test_entropy_takes_the_pair_that_is_surest_of_the_first_token_and_keeps_it() -> None:
    rows = logits(1)
    rule = DynamicFusion(WeightChoice.ENTROPY, tuple(Role), N_VOCAB)
    assert not rule.reads_prompt
    assert rule.weights is None
    rule.fuse(rows)
    pairs = WeightGrid(tuple(Role)).pairs
    log_p = [log_softmax(fused(rows, pair)) for pair in pairs]
    expected = pairs[int(np.argmin([-(np.exp(p) * p).sum() for p in log_p]))]
    assert rule.weights == expected
    rule.fuse(logits(1, seed=8))
    assert rule.weights == expected


def test_a_prompt_of_one_token_says_nothing_and_gets_the_papers_pair() -> None:
    rule = DynamicFusion(WeightChoice.AUTO, tuple(Role), N_VOCAB)
    rule.observe({role: rows[:0] for role, rows in logits().items()}, [])
    rule.fuse(logits(1))
    assert rule.weights == FusionWeights(0.1, 0.9)


def test_the_grid_of_three_models_is_the_papers_and_that_of_two_leaves_nothing_over() -> None:
    three, two = WeightGrid(tuple(Role)).pairs, WeightGrid(TWO).pairs
    assert {(p.large_ins, p.small_cpt) for p in three} == {(a, b) for a in GRID for b in GRID}
    assert [p.large_ins for p in two] == list(GRID)
    assert all(p.of(Role.SMALL_BASE) == 0 for p in two)


@pytest.mark.parametrize("roles", [(Role.LARGE_INS,), (Role.SMALL_CPT, Role.SMALL_BASE)])
def test_weights_by_prompt_need_two_certain_models(roles: tuple[Role, ...]) -> None:
    missing = "small_cpt" if Role.LARGE_INS in roles else "large_ins"
    with pytest.raises(TrioConfigError, match=missing):
        make_rule(RuleChoice(), WeightChoice.AUTO, N_VOCAB, None, roles)


@pytest.mark.parametrize("host", TWO)
def test_saf_mixes_by_the_scorers_probability_of_the_hosts_choice(host: Role) -> None:
    rows = logits()
    (scorer,) = set(TWO) - {host}
    rule = SafFusion(host, N_VOCAB)
    assert rule.needs == set(TWO)
    out = rule.fuse(rows)
    p = np.exp(log_softmax(rows[scorer].astype(np.float64)))
    e = p[np.arange(6), rows[host].argmax(axis=1)][:, None]
    np.testing.assert_allclose(out.logits, e * rows[host] + (1 - e) * rows[scorer], atol=1e-5)
    assert out.best.tolist() == out.logits.argmax(axis=1).tolist()


def test_the_mask_applies_to_saf_and_its_judge_is_loaded() -> None:
    mask = Plausibility(Role.SMALL_BASE, 1.0)
    rows = logits()
    rule = SafFusion(Role.LARGE_INS, N_VOCAB, mask)
    assert rule.needs == set(Role)
    assert rule.fuse(rows).best.tolist() == rows[Role.SMALL_BASE].argmax(axis=1).tolist()


@pytest.mark.parametrize(
    ("text", "needs"),
    [
        ("trimix", set(TWO)),
        ("proxy", set(Role)),
        ("average", set(TWO)),
        ("saf", set(TWO)),
        ("saf:small_cpt", set(TWO)),
        ("single:small-base", {Role.SMALL_BASE}),
    ],
)
def test_a_rule_loads_only_what_it_runs(text: str, needs: set[Role]) -> None:
    choice = values.rule(text)
    pair = FusionWeights(0.1, 0.9)
    assert rule_roles(choice, pair, None, tuple(Role)) == needs
    assert make_rule(choice, pair, N_VOCAB).needs == needs


@pytest.mark.parametrize("text", ["", "ppl", "single", "single:tiny", "saf:small_base", "proxy:x"])
def test_no_other_rule_exists(text: str) -> None:
    with pytest.raises(UsageError):
        values.rule(text)


@pytest.mark.parametrize(
    ("name", "role"),
    [("foo", None), ("single", None), ("average", Role.LARGE_INS), ("saf", Role.SMALL_BASE)],
)
def test_no_rule_that_means_nothing_can_be_made(name: str, role: Role | None) -> None:
    with pytest.raises(UsageError, match="rule: "):
        RuleChoice(name, role)


def test_weights_are_words_or_numbers() -> None:
    assert values.weights("auto") is WeightChoice.AUTO
    assert values.weights(" entropy") is WeightChoice.ENTROPY
    assert values.weights("0.1,0.9") == FusionWeights(0.1, 0.9)
    with pytest.raises(UsageError, match="neither auto nor entropy"):
        values.weights("automatic")


def test_shares_tell_who_preferred_the_token_over_the_best_other_one() -> None:
    rows = {role: np.zeros((2, 4), np.float32) for role in Role}
    rows[Role.LARGE_INS][1] = [0, 4, 0, 0]
    rows[Role.SMALL_CPT][1] = [0, 1, 3, 0]
    rows[Role.SMALL_BASE][1] = [0, 2, 1, 0]
    rule = LinearFusion(FusionWeights(0.5, 1.0), 4)
    row = rule.fuse(rows).logits[1]
    # token 1 over token 2: 0.5·4 of large_ins, 1·(1 - 3) of small_cpt, -0.5·(2 - 1) of small_base
    expected = {Role.LARGE_INS: 2 / 4.5, Role.SMALL_CPT: -2 / 4.5, Role.SMALL_BASE: -0.5 / 4.5}
    assert rule.shares(rows, 1, row, 1) == pytest.approx(expected)


def test_shares_of_saf_use_its_endorsement_and_a_tie_has_none() -> None:
    rows = logits()
    rule = SafFusion(Role.SMALL_CPT, N_VOCAB)
    out = rule.fuse(rows)
    shares = rule.shares(rows, 2, out.logits[2], int(out.best[2]))
    assert shares.keys() == set(TWO)
    assert sum(map(abs, shares.values())) == pytest.approx(1)
    flat = {role: np.zeros((1, 4), np.float32) for role in Role}
    tied = LinearFusion(FusionWeights(0.1, 0.9), 4)
    assert set(tied.shares(flat, 0, tied.fuse(flat).logits[0], 0).values()) == {0.0}


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(["trimix", "proxy", "average", "saf", "saf:small_cpt", "single:small_base"]),
    st.tuples(st.floats(-1, 2), st.floats(-1, 2)),
    st.none() | st.builds(Plausibility, st.sampled_from(Role), st.floats(1e-3, 1)),
    st.integers(1, 4),
)
def test_magnitudes_of_shares_add_up_to_1_or_no_role_preferred_anything(
    seed: int,
    rule_name: str,
    pair: tuple[float, float],
    plausibility: Plausibility | None,
    n_values: int,
) -> None:
    rng = np.random.default_rng(seed)
    rows = {r: rng.integers(0, n_values, (1, 5)).astype(np.float32) for r in Role}  # many are equal
    rule = make_rule(values.rule(rule_name), FusionWeights(*pair), 5, plausibility)
    row, best = rule.fuse(rows)
    for token in (int(best[0]), int(rng.integers(5))):
        shares = rule.shares(rows, 0, row[0], token)
        magnitude = sum(map(abs, shares.values()))
        if magnitude:
            assert magnitude == pytest.approx(1)
        else:
            weighted = [role for role in shares if rule.weights is None or rule.weights.of(role)]
            others = [t for t in range(5) if t != token]
            assert any(
                all(rows[r][0, t] == rows[r][0, token] for r in weighted) for t in others
            ) or rule_name.startswith("saf")


def test_a_token_that_a_mask_left_alone_is_compared_with_the_best_without_the_mask() -> None:
    rows = {role: np.zeros((1, 4), np.float32) for role in Role}
    rows[Role.LARGE_INS][0] = [5, 1, 4, 0]
    rows[Role.SMALL_CPT][0] = [9, 1, 0, 0]
    rule = LinearFusion(FusionWeights(0.5, 0.5), 4, Plausibility(Role.SMALL_CPT, 0.9))
    row = rule.fuse(rows).logits[0]
    assert np.isfinite(row).sum() == 1
    # token 0 over token 2: 0.5·(5 - 4) of large_ins, 0.5·(9 - 0) of small_cpt
    assert rule.shares(rows, 0, row, 0) == pytest.approx({Role.LARGE_INS: 0.1, Role.SMALL_CPT: 0.9})


def test_auto_evaluates_each_token_of_the_prompt_once_and_drops_a_role_of_weight_0() -> None:
    def script(role: Role, sequence: list[int]) -> npt.NDArray[np.float32]:
        row = never_ends(role, sequence)
        return row if role is not Role.SMALL_BASE else np.roll(row, 7) * 9

    prompt = list(range(23))
    models = FakeModels(script)
    rule = DynamicFusion(WeightChoice.AUTO, tuple(Role), ByteTokenizer.n_vocab)
    engine = Engine(models, ByteTokenizer.is_end, ByteTokenizer.n_vocab)
    engine.add(Sequence(prompt, rule, FirstChoice(), 3))
    while not engine.is_idle:
        engine.step()
    assert [t for (feed,) in models.calls for t in feed.tokens][: len(prompt)] == prompt
    assert rule.weights is not None
    assert len(models.in_step(0, rule.weights.roles)) == len(prompt) + 2
    assert set(models.calls[-1][0].roles) == set(rule.weights.roles)
