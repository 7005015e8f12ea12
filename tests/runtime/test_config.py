"""What a user can set cannot hold a value without meaning."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimix_edge import values
from trimix_edge.config import (
    MAX_DRAFT,
    ContextParams,
    Draft,
    FusionWeights,
    Plausibility,
    Role,
    SamplingParams,
)
from trimix_edge.errors import TriMixError, UsageError


@given(st.floats(-10, 10), st.floats(-10, 10))
def test_weights_add_up_to_one(large_ins: float, small_cpt: float) -> None:
    weights = FusionWeights(large_ins, small_cpt)
    assert sum(weights.of(role) for role in Role) == pytest.approx(1.0, abs=1e-8)


def test_proxy_tuning_is_one_one_minus_one() -> None:
    assert [FusionWeights.PROXY_TUNING.of(role) for role in Role] == [1.0, 1.0, -1.0]


@pytest.mark.parametrize("role", Role)
def test_a_single_role_has_all_the_weight(role: Role) -> None:
    weights = FusionWeights.single(role)
    assert weights.roles == (role,)
    assert weights.of(role) == 1.0


@pytest.mark.parametrize(
    ("pair", "roles"),
    [
        ((0.1, 0.9), "large_ins small_cpt"),  # 1 - 0.1 - 0.9 is 2.8e-17 in floats
        ((0.3, 0.7), "large_ins small_cpt"),
        ((0.1, 0.9 + 1e-10), "large_ins small_cpt"),
        ((1e-10, 1.0), "small_cpt"),
        ((0.1, 0.9 + 1e-8), "large_ins small_cpt small_base"),
        ((1e-8, 1.0), "large_ins small_cpt small_base"),
        ((0.0, 0.0), "small_base"),
        ((0.5, 0.0), "large_ins small_base"),
    ],
)
def test_a_weight_within_a_billionth_of_zero_is_zero(pair: tuple[float, float], roles: str) -> None:
    assert " ".join(FusionWeights(*pair).roles) == roles


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.1,0.9", (0.1, 0.9)),
        (" 1 , 1 ", (1, 1)),
        ("1,1,-1", (1, 1)),
        ("-.5,2e0", (-0.5, 2)),
        ("0.333333,0.333333,0.333334", (0.333333, 0.333333)),
    ],
)
def test_weights_are_read_from_text(text: str, expected: tuple[float, float]) -> None:
    weights = values.fusion_weights(text)
    assert (weights.large_ins, weights.small_cpt) == expected


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "not a number"),
        ("0.5", "LARGE_INS,SMALL_CPT"),
        ("0.1,x", "'x' is not a number"),
        ("nan,1", "'nan' is not a number"),
        ("inf,1", "'inf' is not a number"),
        ("1,2,3", "adds up to 6"),
        ("1,2,3,4", "LARGE_INS,SMALL_CPT"),
        ("1e308,1e308", "weights"),
        ("1e39,0", "weights"),
    ],
)
def test_weights_that_are_none_are_refused(text: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        values.fusion_weights(text)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300])
def test_weights_without_meaning_cannot_exist(value: float) -> None:
    with pytest.raises(UsageError, match="weights"):
        FusionWeights(value, 0.5)


def test_plausibility_is_read_from_text() -> None:
    assert values.plausibility("small-cpt:0.1") == Plausibility(Role.SMALL_CPT, 0.1)
    assert str(values.plausibility("large_ins:1")) == "large_ins:1"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("0.1", "ROLE:ALPHA"),
        ("tiny:0.1", "no role is called 'tiny'"),
        ("small_cpt:", "not a number"),
        ("small_cpt:0", r"\(0, 1\]"),
        ("small_cpt:1.5", r"\(0, 1\]"),
        ("small_cpt:nan", "not a number"),
    ],
)
def test_plausibility_that_is_none_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        values.plausibility(text)


NUMERIC = sorted({f.name for f in fields(SamplingParams)} - {"grammar", "logit_bias"})


@pytest.mark.parametrize("name", NUMERIC)
@pytest.mark.parametrize("value", [-1e9, 1e12, math.nan])
def test_every_sampling_option_has_a_range_and_is_named(name: str, value: float) -> None:
    with pytest.raises(UsageError, match=rf"^{name} is "):
        SamplingParams(**{name: value})  # type: ignore[arg-type]


def test_the_seed_that_llama_cpp_reads_as_random_is_refused() -> None:
    SamplingParams(seed=2**32 - 2)
    with pytest.raises(UsageError, match="seed"):
        SamplingParams(seed=2**32 - 1)


@pytest.mark.parametrize(
    ("params", "bare"),
    [
        (SamplingParams(), True),
        (SamplingParams(top_k=1, top_p=0.1, seed=3), True),
        (SamplingParams(repeat_penalty=1.1), False),
        (SamplingParams(repeat_penalty=1.1, repeat_last_n=0), True),
        (SamplingParams(presence_penalty=0.5), False),
        (SamplingParams(temperature=0.7), False),
        (SamplingParams(grammar='root ::= "a"'), False),
        (SamplingParams(dry_multiplier=0.8), False),
        (SamplingParams(mirostat=2), False),
        (SamplingParams(logit_bias={3: 1.0}), False),
    ],
)
def test_only_settings_that_change_no_argmax_are_bare(params: SamplingParams, bare: bool) -> None:
    assert params.is_bare_argmax is bare


@pytest.mark.parametrize(
    ("texts", "layers"),
    [
        (["7"], {role: 7 for role in Role}),
        (["small_cpt=0"], {Role.SMALL_CPT: 0}),
        (["-1", "large-ins=3"], {**dict.fromkeys(Role, -1), Role.LARGE_INS: 3}),
        ([], {}),
    ],
)
def test_gpu_layers_are_read_from_text(texts: list[str], layers: dict[Role, int]) -> None:
    assert values.gpu_layers(texts) == layers


@pytest.mark.parametrize("text", ["x", "tiny=3", "large_ins=", "3=large_ins", "99999999999"])
def test_gpu_layers_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        values.gpu_layers([text])


@pytest.mark.parametrize(
    "values",
    [
        {"n_ctx": -1},
        {"n_ctx": 2**31},
        {"n_batch": -1},
        {"n_threads": -1},
        {"n_threads": 5000},
        {"kv_type": "f8"},
    ],
)
def test_contexts_without_meaning_cannot_exist(values: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        ContextParams(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "n_tokens", "shown"),
    [
        ("auto", None, "auto"),
        ("off", 0, "off"),
        ("0", 0, "off"),
        (" 3 ", 3, "3"),
        (str(MAX_DRAFT), MAX_DRAFT, str(MAX_DRAFT)),
    ],
)
def test_drafts_are_read_from_text(text: str, n_tokens: int | None, shown: str) -> None:
    draft = values.draft(text)
    assert draft.n_tokens == n_tokens
    assert str(draft) == shown
    assert values.draft(str(draft)) == draft


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "not auto, off or a number"),
        ("Auto", "'Auto' is not auto"),
        ("2.5", "'2.5' is not"),
        ("-1", f"draft is -1, it must be from 0 to {MAX_DRAFT}"),
        (str(MAX_DRAFT + 1), f"draft is {MAX_DRAFT + 1}, it must be"),
        ("9" * 5000, "not auto, off or a number"),
    ],
)
def test_drafts_that_are_none_are_refused(text: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        values.draft(text)


@pytest.mark.parametrize("n_tokens", [-1, MAX_DRAFT + 1])
def test_drafts_without_room_cannot_exist(n_tokens: int) -> None:
    with pytest.raises(UsageError, match=f"draft is {n_tokens}"):
        Draft(n_tokens)


def test_settings_are_frozen() -> None:
    for settings in (FusionWeights(0, 1), SamplingParams(), ContextParams(), Draft()):
        with pytest.raises(FrozenInstanceError):
            settings.seed = 1  # type: ignore[union-attr]


def test_wrong_usage_is_a_value_error_too() -> None:
    assert issubclass(UsageError, (TriMixError, ValueError))
