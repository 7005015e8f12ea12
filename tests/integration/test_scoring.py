"""Scores of known texts: llama.cpp's own perplexity, windows, conditions, and chosen weights."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from plain_llama import PlainLlama
from tiny_models import GREEDY_TRIO, WORDS

from trimix_edge import ContextParams, FusionWeights, Role, TriMix, values
from trimix_edge.config import RuleChoice
from trimix_edge.errors import PromptError, UsageError
from trimix_edge.fusion.by_prompt import WeightGrid
from trimix_edge.measure.fit import TextSource, fit_weights, samples_of
from trimix_edge.weights import WeightChoice

TEXT = "".join(WORDS)
CONDITION = " save the file"


def log_softmax(row: np.ndarray) -> np.ndarray:
    shifted = row.astype(np.float64) - row.max()
    return shifted - np.log(np.exp(shifted).sum())


@pytest.mark.parametrize("role", list(Role))
def test_a_single_model_has_llama_cpps_perplexity(
    trimix: TriMix, tiny: dict[Role, Path], role: Role
) -> None:
    """llama.cpp's procedure: the row after each token, and the log of the next one's share."""
    tokens = trimix.trio.vocab.tokenize(TEXT)
    with PlainLlama(tiny[role]) as plain:
        costs = [-log_softmax(plain.row(tokens[:i]))[tokens[i]] for i in range(1, len(tokens))]
    score = trimix.score(TEXT, rule=RuleChoice("single", role))
    assert score.token_ids == tokens[1:]
    expected = math.exp(np.mean(costs))
    for scores in (score.fused, score.models[role]):
        assert scores.perplexity == pytest.approx(expected, rel=1e-3)
    error = expected * np.std(costs, ddof=1) / math.sqrt(len(costs))
    assert score.fused.perplexity_error == pytest.approx(error, rel=1e-2)


def test_the_fused_score_is_that_of_the_summed_logits(
    trimix: TriMix, tiny: dict[Role, Path]
) -> None:
    weights = FusionWeights(0.5, 0.8)
    tokens = trimix.trio.vocab.tokenize(TEXT)[:12]
    row = np.zeros(1)
    for role in Role:
        with PlainLlama(tiny[role]) as plain:
            row = row + weights.of(role) * plain.row(tokens[:-1]).astype(np.float64)
    text = trimix.trio.vocab.detokenize(tokens).decode()
    score = trimix.score(text, weights=weights)
    assert score.fused.logprobs[-1] == pytest.approx(log_softmax(row)[tokens[-1]], abs=2e-2)
    assert score.fused.greedy[-1] == (row.argmax() == tokens[-1])


def test_a_condition_is_not_scored_and_every_token_after_it_is(trimix: TriMix) -> None:
    score = trimix.score(TEXT, CONDITION)
    assert score.token_ids == trimix.trio.vocab.tokenize(TEXT)
    assert score.n_bytes == len(TEXT.encode())
    whole = trimix.score(CONDITION + TEXT)
    n = len(score.token_ids)
    np.testing.assert_allclose(score.fused.logprobs, whole.fused.logprobs[-n:], atol=1e-3)
    bits = -score.fused.logprobs.sum() / math.log(2)
    assert score.fused.bits_per_byte == pytest.approx(bits / score.n_bytes)


@pytest.mark.parametrize("stride", [1, 7, 16, 20])
def test_a_long_text_is_read_through_a_window_of_the_stated_stride(
    tiny: dict[Role, Path], stride: int
) -> None:
    weights = FusionWeights.single(Role.SMALL_CPT)
    context = ContextParams(n_ctx=20, n_batch=8, n_threads=1)
    with (
        TriMix.load(GREEDY_TRIO, models=tiny, weights=weights, context=context) as trimix,
        PlainLlama(tiny[Role.SMALL_CPT]) as plain,
    ):
        tokens = trimix.trio.vocab.tokenize(TEXT)[:50]
        text = trimix.trio.vocab.detokenize(tokens).decode(errors="ignore")
        tokens = trimix.trio.vocab.tokenize(text)
        score = trimix.score(text, stride=stride)
        expected, start = [], 0
        for i in range(1, len(tokens)):
            while i - start > 20:
                start += stride
            expected.append(log_softmax(plain.row(tokens[start:i]))[tokens[i]])
    assert score.stride == stride
    np.testing.assert_allclose(score.fused.logprobs, expected, atol=1e-2)


@pytest.mark.parametrize("stride", [0, -1, 257])
def test_a_stride_out_of_range_is_refused(trimix: TriMix, stride: int) -> None:
    with pytest.raises(UsageError, match="stride"):
        trimix.score(TEXT, stride=stride)


def test_auto_scores_with_the_weights_that_generation_chooses(trimix: TriMix) -> None:
    for prompt in (CONDITION, "རྫོང་ཁ the file", " in the window" * 20):
        chosen = trimix.generate(prompt, weights=WeightChoice.AUTO, max_tokens=2).weights
        score = trimix.score(TEXT, prompt, weights=WeightChoice.AUTO)
        assert score.weights == chosen
        fixed = trimix.score(TEXT, prompt, weights=chosen)
        np.testing.assert_allclose(score.fused.logprobs, fixed.fused.logprobs, atol=1e-4)
        nll = {
            pair: trimix.score(prompt, weights=pair, roles=()).fused.nll
            for pair in WeightGrid(tuple(Role)).pairs
        }
        assert nll[chosen] <= min(nll.values()) + 1e-4


def test_auto_without_a_condition_chooses_on_the_text_itself(trimix: TriMix) -> None:
    score = trimix.score(TEXT, weights=WeightChoice.AUTO, roles=())
    others = [trimix.score(TEXT, weights=p, roles=()) for p in WeightGrid(tuple(Role)).pairs]
    assert score.fused.nll == pytest.approx(min(s.fused.nll for s in others), abs=1e-5)


def test_entropy_needs_a_condition_and_agrees_with_generation(trimix: TriMix) -> None:
    with pytest.raises(UsageError, match="give a condition"):
        trimix.score(TEXT, weights=WeightChoice.ENTROPY)
    chosen = trimix.generate(CONDITION, weights=WeightChoice.ENTROPY, max_tokens=1).weights
    assert trimix.score(TEXT, CONDITION, weights=WeightChoice.ENTROPY).weights == chosen


@pytest.mark.parametrize("text", ["", "x"])
def test_a_text_of_fewer_than_two_tokens_is_refused(trimix: TriMix, text: str) -> None:
    with pytest.raises(PromptError, match=f"the text has {len(text)} tokens"):
        trimix.score(text)
    if text:
        assert len(trimix.score(text, CONDITION).token_ids) == 1


def test_progress_reaches_the_end(trimix: TriMix) -> None:
    seen: list[tuple[int, int]] = []
    score = trimix.score(TEXT, on_progress=lambda *at: seen.append(at))
    assert seen[-1] == (len(score.token_ids),) * 2


def test_a_score_between_two_generations_changes_neither(trimix: TriMix) -> None:
    first = trimix.generate(CONDITION, max_tokens=8).token_ids
    trimix.score(TEXT)
    assert trimix.generate(CONDITION, max_tokens=8).token_ids == first


@pytest.mark.parametrize("store_bytes", [0, 2**30])
def test_newton_on_real_rows_is_the_same_kept_or_read_again(
    trimix: TriMix, store_bytes: int
) -> None:
    grid = WeightGrid(tuple(Role))
    samples = samples_of(trimix, [TEXT], [(CONDITION, TEXT), (" open", " the window")])
    source = TextSource(trimix, grid.roles, samples, store_bytes=store_bytes)
    found = fit_weights(source, grid, current=FusionWeights(0.5, 0.8))
    assert found.n_tokens == source.n_tokens
    assert found.newton_nll is not None
    assert found.newton_nll <= found.best_nll + 1e-4
    again = TextSource(trimix, grid.roles, samples)
    kept = fit_weights(again, grid, current=None)
    assert found.weights.large_ins == pytest.approx(kept.weights.large_ins, abs=1e-3)


def test_explained_tokens_have_shares_of_the_models_in_force(trimix: TriMix) -> None:
    options = {"max_tokens": 6, "explain": True}
    for rule, roles in ((RuleChoice("proxy"), set(Role)), (values.rule("saf"), 2)):
        result = trimix.generate(CONDITION, rule=rule, **options)
        assert result.shares is not None
        assert len(result.shares) == len(result.token_ids)
        for shares in result.shares:
            assert sum(map(abs, shares.values())) == pytest.approx(1)
            assert set(shares) == roles or len(shares) == roles
    assert trimix.generate(CONDITION, max_tokens=2).shares is None


@pytest.mark.parametrize("n_batch", [8, 64, 0])
def test_a_trio_that_reads_asks_for_rows_of_whole_batches_and_scores_the_same(
    trimix: TriMix, tiny: dict[Role, Path], n_batch: int
) -> None:
    context = ContextParams(n_ctx=256, n_batch=n_batch, kv_type="f32", n_threads=1, reads=True)
    text = TEXT * 3
    with TriMix.load(models=tiny, roles=list(Role), context=context) as reading:
        assert reading.trio.max_rows == (n_batch or 128)
        score = reading.score(text)
    assert trimix.trio.max_rows == 32
    np.testing.assert_allclose(score.fused.logprobs, trimix.score(text).fused.logprobs, atol=1e-3)


@pytest.mark.parametrize(("n_batch", "n_parallel"), [(64, 1), (64, 3), (0, 16), (8, 4)])
def test_texts_that_are_read_together_cost_what_each_costs_alone(
    trimix: TriMix, tiny: dict[Role, Path], n_batch: int, n_parallel: int
) -> None:
    """Pairs of all lengths, longer ones than a batch or the context among them."""
    pairs = [(word, word * (1 + i)) for i, word in enumerate(WORDS)]
    texts = [TEXT, TEXT * 5, "ab"]
    context = ContextParams(
        n_ctx=256, n_batch=n_batch, n_parallel=n_parallel, kv_type="f32", n_threads=1, reads=True
    )
    grid, costs = WeightGrid(tuple(Role)), []
    with TriMix.load(models=tiny, roles=list(Role), context=context) as reading:
        for one in (reading, trimix):
            source = TextSource(one, grid.roles, samples_of(one, texts, pairs), store_bytes=0)
            pieces = list[tuple[list[int], np.ndarray]]()
            for piece in source.pieces(""):
                nats = grid.nll(piece.logits, piece.targets, source.n_vocab)
                pieces.append((piece.targets.tolist(), nats))
            costs.append(([t for ids, _ in pieces for t in ids], [n for _, n in pieces]))
            assert len(costs[-1][0]) == source.n_tokens
    (ids, nats), (expected_ids, expected) = costs
    assert ids == expected_ids
    np.testing.assert_allclose(np.concatenate(nats), np.concatenate(expected), atol=1e-2)
    if n_parallel == 16:
        assert len(nats) < len(expected), "fewer batches"
