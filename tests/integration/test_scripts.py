"""``auto:SCRIPT`` on real models: the choice equals NumPy's on llama.cpp's own rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from plain_llama import PlainLlama
from tiny_models import GREEDY_TRIO

from trimix_edge import ContextParams, Role, TriMix
from trimix_edge.errors import Notice
from trimix_edge.fusion.by_prompt import WeightGrid

MIXED = " save the file རྫོང་ཁ ཀྱང 12. ལུ་ open བོད་ཡིག"
"""Words of the tiny vocabulary in both scripts, and letters that only bytes can spell."""


@pytest.fixture(scope="module")
def cut(tiny: dict[Role, Path]) -> TriMix:
    """All three, reading the prompt five tokens at a time."""
    context = ContextParams(n_ctx=256, n_batch=5, kv_type="f32", n_threads=1)
    return TriMix.load(GREEDY_TRIO, models=tiny, roles=list(Role), context=context)


def nats(
    trimix: TriMix, tiny: dict[Role, Path], prompt: str
) -> tuple[list[int], list[bytes], np.ndarray]:
    """Of each target of a prompt under each pair, float64 ``[n_tokens - 1, n_pairs]``."""
    tokens = trimix.tokenize(prompt)
    rows = {}
    for role in Role:
        with PlainLlama(tiny[role]) as plain:
            rows[role] = np.array([plain.row(tokens[:i]) for i in range(1, len(tokens))])
    found = []
    for pair in WeightGrid(tuple(Role)).pairs:
        total = sum(pair.of(role) * rows[role].astype(np.float64) for role in Role)
        log_p = total - np.log(np.exp(total).sum(axis=1, keepdims=True))
        found.append(-log_p[np.arange(len(tokens) - 1), tokens[1:]])
    return tokens, [trimix.token_bytes(token) for token in tokens], np.array(found).T


def is_tibetan(pieces: list[bytes]) -> list[bool]:
    owner = [c for c in b"".join(pieces).decode() for _ in c.encode()]
    found, at = [], 0
    for piece in pieces:
        part = owner[at : at + len(piece)]
        found.append(any("\u0f00" <= c <= "\u0fff" for c in part))
        at += len(piece)
    return found


def test_the_pair_is_that_of_an_oracle_in_every_batch_size(
    trimix: TriMix, cut: TriMix, tiny: dict[Role, Path]
) -> None:
    _, pieces, costs = nats(trimix, tiny, MIXED)
    counted = is_tibetan(pieces)
    halves = [p for p, of in zip(pieces, counted, strict=True) if of and not _is_text(p)]
    assert halves, "no character is split: the prompt shows too little"
    assert 0 < sum(counted) < len(counted)
    pairs = WeightGrid(tuple(Role)).pairs
    expected = costs[np.array(counted[1:])].sum(axis=0)
    for loaded in (trimix, cut):
        rule = loaded.fusion_rule(weights="auto:Tibt")
        tokens = loaded.tokenize(MIXED)
        rule.begin(tokens)
        sequence = loaded.trio.sequence(rule.needs)
        for at in range(0, len(tokens) - 1, 3):
            part = tokens[at : min(at + 3, len(tokens) - 1)]
            rule.observe(sequence.decode(part, len(part)), tokens[at + 1 :][: len(part)])
        np.testing.assert_allclose(rule.nats, expected, rtol=2e-2)
        found = loaded.generate(MIXED, weights="auto:Tibt", max_tokens=1, cache_prompt=False)
        assert found.chosen_by == "auto:Tibt"
        assert expected[pairs.index(found.weights)] <= expected.min() * (1 + 1e-3)
        score = loaded.score(" the file", MIXED, weights="auto:Tibt")
        assert (score.weights, score.chosen_by) == (found.weights, "auto:Tibt")
    assert trimix.generate(MIXED, weights="auto:all", max_tokens=1).chosen_by == "auto:all"
    assert trimix.generate(MIXED, weights=(1, 0), max_tokens=1).chosen_by is None


def _is_text(piece: bytes) -> bool:
    try:
        piece.decode()
    except UnicodeDecodeError:
        return False
    return True


def test_a_prompt_without_the_script_is_chosen_on_as_the_paper_does_and_says_so(
    trimix: TriMix,
) -> None:
    prompt = " save the file 12."
    with pytest.warns(Notice, match="no text in the script Tibt .* as with weights auto:all"):
        found = trimix.generate(prompt, weights="auto:Tibt", max_tokens=1)
    assert found.chosen_by == "auto:all"
    assert found.weights == trimix.generate(prompt, weights="auto:all", max_tokens=1).weights
