"""Weights by the tokens of one script: which tokens are of it, and what is chosen on them."""

from __future__ import annotations

import unicodedata
import warnings
from itertools import pairwise

import numpy as np
import pytest
from fakes import ByteTokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from trimix_edge import values
from trimix_edge.config import FusionWeights, Role
from trimix_edge.errors import Notice, UsageError
from trimix_edge.fusion.by_prompt import DynamicFusion, WeightGrid
from trimix_edge.fusion.scripts import tokens_of_script
from trimix_edge.weights import ScriptChoice, WeightChoice, of_trio

N_VOCAB = ByteTokenizer.n_vocab
NAMES = {"Tibt": "TIBETAN", "Beng": "BENGALI", "Latn": "LATIN", "Mong": "MONGOLIAN"}
MIXED = st.text(st.sampled_from("རྫོང་ཁ༡།বাংলাᠮᠣᠩabé 1.,\n中🙂"), max_size=30)


def of_name(char: str, code: str) -> bool:
    return unicodedata.name(char, "").startswith(f"{NAMES[code]} ")


@given(MIXED, st.sampled_from(sorted(NAMES)), st.data())
def test_a_token_is_of_a_script_where_its_bytes_are_part_of_a_character_of_it(
    text: str, code: str, data: st.DataObject
) -> None:
    encoded = text.encode()
    cuts = data.draw(st.lists(st.integers(0, len(encoded)), max_size=20))
    at = [0, *sorted(cuts), len(encoded)]
    pieces = [encoded[a:b] for a, b in pairwise(at)]
    owner = [char for char in text for _ in char.encode()]
    expected = [any(of_name(char, code) for char in owner[a:b]) for a, b in pairwise(at)]
    assert tokens_of_script(pieces, code).tolist() == expected


def test_bytes_that_are_no_text_are_of_no_script_and_hide_none() -> None:
    pieces = [b"\xff", "ཀ".encode()[:2], b"a", "ཁ".encode()[:1], "ཁ".encode()[1:], b"\xed\xa0\x80"]
    assert tokens_of_script(pieces, "Tibt").tolist() == [False, False, False, True, True, False]
    assert tokens_of_script([], "Tibt").tolist() == []


def byte_logits(n_rows: int, seed: int) -> dict[Role, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {role: rng.normal(size=(n_rows, N_VOCAB)).astype(np.float32) * 3 for role in Role}


def oracle(rows: dict[Role, np.ndarray], targets: list[int], counted: list[bool]) -> np.ndarray:
    """Nats of the counted targets under each pair, in float64."""
    found = []
    for pair in WeightGrid(tuple(Role)).pairs:
        total = sum(pair.of(role) * rows[role].astype(np.float64) for role in Role)
        log_p = total - np.log(np.exp(total).sum(axis=1, keepdims=True))
        cost = -log_p[np.arange(len(targets)), targets]
        found.append(cost[np.array(counted)].sum())
    return np.array(found)


@settings(deadline=None)  # the first example compiles the kernels
@given(MIXED, st.sampled_from(["Tibt", "Beng"]), st.integers(0, 1000), st.integers(1, 7))
def test_the_nats_are_those_of_the_scripts_tokens_alone_however_the_prompt_is_cut(
    text: str, code: str, seed: int, n_batch: int
) -> None:
    """Every byte is a token, so that all characters of these scripts are split over three."""
    prompt = [*ByteTokenizer.encode("x" + text), ByteTokenizer.END]
    owner = [char for char in "x" + text for _ in char.encode()]
    counted = [of_name(char, code) for char in owner[1:]] + [False]  # the first is no target
    rule = DynamicFusion(
        ScriptChoice(code), tuple(Role), N_VOCAB, token_bytes=ByteTokenizer.token_bytes
    )
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        rule.begin(prompt)
    falls_back = not any(counted)
    assert [w.category for w in told] == [Notice] * falls_back
    assert rule.chosen_by == ("auto:all" if falls_back else f"auto:{code}")
    rows, targets = byte_logits(len(prompt), seed), prompt[1:]
    for at in range(0, len(targets), n_batch):
        part = {role: r[at : at + n_batch] for role, r in rows.items()}
        rule.observe(part, targets[at : at + n_batch])
    used = {role: r[: len(targets)] for role, r in rows.items()}
    expected = oracle(used, targets, [True] * len(targets) if falls_back else counted)
    np.testing.assert_allclose(rule.nats, expected, rtol=1e-4, atol=1e-4)
    rule.fuse({role: r[-1:] for role, r in rows.items()})
    assert rule.weights is not None
    chosen = WeightGrid(tuple(Role)).pairs.index(rule.weights)
    assert expected[chosen] <= expected.min() + 1e-3


def test_a_character_that_began_in_the_first_token_counts_in_the_tokens_after_it() -> None:
    prompt = ByteTokenizer.encode("ཀ")
    rule = DynamicFusion(
        ScriptChoice("Tibt"), tuple(Role), N_VOCAB, token_bytes=ByteTokenizer.token_bytes
    )
    rule.begin(prompt)
    rows = byte_logits(2, 0)
    rule.observe(rows, prompt[1:])
    assert rule.chosen_by == "auto:Tibt"
    np.testing.assert_allclose(rule.nats, oracle(rows, prompt[1:], [True, True]), rtol=1e-4)


def test_weights_by_script_are_words_too() -> None:
    assert values.weights("auto:tibt") == ScriptChoice("Tibt")
    assert str(values.weights(" auto:Mong ")) == "auto:Mong"
    assert values.weights("auto:all") is WeightChoice.ALL
    assert values.weights(ScriptChoice("Arab")) == ScriptChoice("Arab")


@pytest.mark.parametrize(
    "code", ["", "Tib", "Xxxx", "Tibetan", "Zyyy", "Zinh", "Qaai", "Zzzz", "ti}b", "Ｔibt", "Jpan"]
)
def test_what_is_no_script_is_refused_with_what_is_allowed(code: str) -> None:
    with pytest.raises(UsageError, match=r"weights: script .* ISO 15924 .* Tibt, .*; auto:all"):
        values.weights(f"auto:{code}")


def test_auto_is_the_trios_script_and_the_papers_rule_where_it_names_none() -> None:
    assert of_trio(WeightChoice.AUTO, "Tibt") == ScriptChoice("Tibt")
    assert of_trio(WeightChoice.AUTO, None) is WeightChoice.AUTO
    for same in (WeightChoice.ALL, WeightChoice.ENTROPY, FusionWeights(1, 0), ScriptChoice("Arab")):
        assert of_trio(same, "Tibt") == same
    assert DynamicFusion(WeightChoice.AUTO, tuple(Role), N_VOCAB).chosen_by == "auto:all"
    assert DynamicFusion(WeightChoice.ENTROPY, tuple(Role), N_VOCAB).chosen_by == "entropy"
