"""The loop of tokens, on fake models and a byte tokenizer."""

from __future__ import annotations

import math

import numpy as np
import pytest
from fakes import ByteTokenizer, FakeModels, FirstChoice, never_ends, says
from hypothesis import given
from hypothesis import strategies as st

from trimix_edge.config import FusionWeights, Plausibility, Role
from trimix_edge.decoding.engine import Engine
from trimix_edge.decoding.sequence import Sequence
from trimix_edge.errors import ContextOverflowError, PromptError
from trimix_edge.fusion.linear import LinearFusion

PAPER_WEIGHTS = FusionWeights(0.1, 0.9)
PROMPT = ByteTokenizer.encode("Save the file.")


def engine(
    models: FakeModels,
    sampler: FirstChoice | None = None,
    *,
    weights: FusionWeights = PAPER_WEIGHTS,
    plausibility: Plausibility | None = None,
    logprobs: bool = False,
) -> Engine:
    rule = LinearFusion(weights, ByteTokenizer.n_vocab, plausibility)
    return Engine(models, rule, sampler or FirstChoice(), ByteTokenizer.is_end, logprobs=logprobs)


def test_generates_until_an_end_token_which_comes_last() -> None:
    sequence = Sequence(PROMPT)
    tokens = list(engine(FakeModels(says("Yes", len(PROMPT)))).generate(sequence))
    assert [t.id for t in tokens] == [*b"Yes", ByteTokenizer.END]
    assert sequence.generated == [*b"Yes", ByteTokenizer.END]
    assert sequence.finish_reason == "end"


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_max_tokens_ends_with_length(limit: int) -> None:
    sequence = Sequence(PROMPT)
    models = FakeModels(never_ends)
    assert len(list(engine(models).generate(sequence, limit))) == limit
    assert sequence.finish_reason == "length"
    assert len(models.sequence) == len(PROMPT) + limit - 1, "the last token needs no decode"


def test_an_end_token_at_the_limit_is_an_end() -> None:
    sequence = Sequence(PROMPT)
    list(engine(FakeModels(says("ab", len(PROMPT)))).generate(sequence, 3))
    assert sequence.finish_reason == "end"


def test_max_tokens_of_zero_yields_nothing_and_says_length() -> None:
    sequence = Sequence(PROMPT)
    assert list(engine(FakeModels(never_ends)).generate(sequence, 0)) == []
    assert sequence.finish_reason == "length"


def test_a_full_context_ends_with_context() -> None:
    sequence = Sequence(PROMPT)
    models = FakeModels(never_ends, n_ctx=20)
    list(engine(models).generate(sequence))
    assert sequence.finish_reason == "context"
    assert len(sequence) == 20


def test_a_prompt_that_leaves_room_for_one_token_is_answered_with_one() -> None:
    sequence = Sequence(PROMPT)
    assert len(list(engine(FakeModels(never_ends, n_ctx=len(PROMPT) + 1)).generate(sequence))) == 1
    assert sequence.finish_reason == "context"


@pytest.mark.parametrize("n_ctx", [len(PROMPT), 5])
def test_a_prompt_without_room_for_an_answer_is_refused_with_both_counts(n_ctx: int) -> None:
    models = FakeModels(never_ends, n_ctx=n_ctx)
    with pytest.raises(ContextOverflowError, match=rf"\b14 tokens.*\b{n_ctx}\b") as caught:
        list(engine(models).generate(Sequence(PROMPT)))
    assert (caught.value.n_prompt, caught.value.n_ctx) == (14, n_ctx)
    assert not models.calls


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(PromptError, match="empty"):
        list(engine(FakeModels(never_ends)).generate(Sequence([])))


@given(n_prompt=st.integers(1, 60), n_batch=st.integers(1, 70))
def test_prompts_are_evaluated_in_chunks_with_rows_for_the_last_token_only(
    n_prompt: int, n_batch: int
) -> None:
    prompt = [i % 256 for i in range(n_prompt)]
    models = FakeModels(never_ends, n_batch=n_batch)
    logits = engine(models).prefill(Sequence(prompt))
    assert [token for call in models.calls for token in call.tokens] == prompt
    assert all(len(call.tokens) == n_batch for call in models.calls[:-1])
    assert [call.n_rows for call in models.calls] == [0] * (len(models.calls) - 1) + [1]
    assert all(rows.shape == (1, ByteTokenizer.n_vocab) for rows in logits.values())


def test_prompts_can_be_interrupted_and_single_tokens_need_not() -> None:
    models = FakeModels(never_ends)
    list(engine(models).generate(Sequence(PROMPT), 3))
    assert [call.abortable for call in models.calls] == [True, True, False, False]


def test_progress_of_a_prompt_reaches_its_end() -> None:
    seen: list[tuple[int, int]] = []
    run = engine(FakeModels(never_ends, n_batch=6))
    run.prefill(Sequence(PROMPT), lambda done, total: seen.append((done, total)))
    assert seen == [(6, 14), (12, 14), (14, 14)]


def test_only_roles_that_the_rule_needs_are_started() -> None:
    models = FakeModels(never_ends)
    list(engine(models, weights=PAPER_WEIGHTS).generate(Sequence(PROMPT), 1))
    assert models.active == {Role.LARGE_INS, Role.SMALL_CPT}
    mask = Plausibility(Role.SMALL_CPT, 0.1)
    run = engine(models, weights=FusionWeights(1, 0), plausibility=mask)
    list(run.generate(Sequence(PROMPT), 1))
    assert models.active == {Role.LARGE_INS, Role.SMALL_CPT}


def test_the_sampler_hears_the_prompt_and_every_token_but_the_last() -> None:
    sampler = FirstChoice()
    list(engine(FakeModels(says("abc", len(PROMPT))), sampler).generate(Sequence(PROMPT)))
    assert sampler.prompt == PROMPT
    assert sampler.accepted == [*b"abc"]


def test_roles_pull_the_choice_as_their_weights_say() -> None:
    def script(role: Role, sequence: list[int]) -> np.ndarray:
        row = np.zeros(ByteTokenizer.n_vocab, np.float32)
        row[list(Role).index(role)] = 1.0
        return row

    choices = []
    for weights in (FusionWeights(0.6, 0.4), FusionWeights(0.4, 0.6), FusionWeights(0.1, 0.1)):
        token = next(engine(FakeModels(script), weights=weights).generate(Sequence(PROMPT)))
        choices.append(token.id)
    assert choices == [0, 1, 2]


def test_logprobs_are_those_of_the_fused_distribution() -> None:
    models = FakeModels(says("a", len(PROMPT)))
    token = next(engine(models, logprobs=True).generate(Sequence(PROMPT)))
    expected = 5 - math.log(math.exp(5) + ByteTokenizer.n_vocab - 1)
    assert token.logprob == pytest.approx(expected, abs=1e-6)
    assert next(engine(models).generate(Sequence(PROMPT))).logprob is None


def test_a_second_generation_starts_from_nothing() -> None:
    models = FakeModels(never_ends)
    run = engine(models)
    first, second = Sequence(PROMPT), Sequence(PROMPT)
    list(run.generate(first, 4))
    list(run.generate(second, 4))
    assert first.generated == second.generated


def test_times_are_kept_by_stage_and_model() -> None:
    sequence = Sequence(PROMPT)
    list(engine(FakeModels(never_ends)).generate(sequence, 3))
    timings = sequence.timings
    assert timings.prompt > 0
    assert 0 < timings.fusion + timings.sampling <= timings.generation
    assert set(timings.models) == {Role.LARGE_INS, Role.SMALL_CPT}
