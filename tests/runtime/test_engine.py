"""Continuous batching, on fake models and a byte tokenizer."""

from __future__ import annotations

import math
from collections.abc import Sequence as Items
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pytest
from fakes import ByteTokenizer, FakeModels, FirstChoice, never_ends, says
from hypothesis import given
from hypothesis import strategies as st

from trimix_edge.config import FusionWeights, Plausibility, Role
from trimix_edge.decoding.engine import Engine
from trimix_edge.decoding.sequence import Sequence, Token
from trimix_edge.errors import ContextOverflowError, DecodeError, PromptError
from trimix_edge.fusion.linear import LinearFusion

PAPER_WEIGHTS = FusionWeights(0.1, 0.9)
TWO = {Role.LARGE_INS, Role.SMALL_CPT}
PROMPT = ByteTokenizer.encode("Save the file.")


def engine_of(models: FakeModels) -> Engine:
    return Engine(models, ByteTokenizer.is_end, ByteTokenizer.n_vocab)


def request(
    prompt: Items[int] = PROMPT,
    max_tokens: int | None = None,
    *,
    weights: FusionWeights = PAPER_WEIGHTS,
    plausibility: Plausibility | None = None,
    **more: object,
) -> Sequence:
    rule = LinearFusion(weights, ByteTokenizer.n_vocab, plausibility)
    return Sequence(list(prompt), rule, FirstChoice(), max_tokens, **more)  # type: ignore[arg-type]


def run(models: FakeModels, *sequences: Sequence) -> list[Token]:
    """Step until all have ended; the tokens of the first one."""
    engine = engine_of(models)
    for sequence in sequences:
        engine.add(sequence)
    tokens = []
    while not engine.is_idle:
        tokens += [t for s, t in engine.step() if s is sequences[0] and t is not None]
    return tokens


def test_generates_until_an_end_token_which_comes_last() -> None:
    sequence = request()
    tokens = run(FakeModels(says("Yes", len(PROMPT))), sequence)
    assert [t.id for t in tokens] == [*b"Yes", ByteTokenizer.END] == sequence.generated
    assert [t.finish_reason for t in tokens] == [None, None, None, "end"]
    assert sequence.finish_reason == "end"


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_max_tokens_ends_with_length(limit: int) -> None:
    sequence, models = request(max_tokens=limit), FakeModels(never_ends)
    assert len(run(models, sequence)) == limit
    assert sequence.finish_reason == "length"
    assert len(models.in_step(0, TWO)) == len(PROMPT) + limit - 1, "the last needs no decode"


def test_an_end_token_at_the_limit_is_an_end_and_can_be_ignored() -> None:
    sequence = request(max_tokens=3)
    run(FakeModels(says("ab", len(PROMPT))), sequence)
    assert sequence.finish_reason == "end"
    ignoring = request(max_tokens=5, ignore_end=True)
    run(FakeModels(says("aaaa", len(PROMPT))), ignoring)
    assert ignoring.finish_reason == "length"


def test_max_tokens_of_zero_yields_nothing_and_says_length() -> None:
    sequence = request(max_tokens=0)
    assert run(FakeModels(never_ends), sequence) == []
    assert sequence.finish_reason == "length"


def test_a_full_context_ends_with_context() -> None:
    sequence = request()
    run(FakeModels(never_ends, n_ctx=20), sequence)
    assert (sequence.finish_reason, len(sequence)) == ("context", 20)


@pytest.mark.parametrize("n_ctx", [len(PROMPT), 5])
def test_a_prompt_without_room_for_an_answer_is_refused_with_both_counts(n_ctx: int) -> None:
    models = FakeModels(never_ends, n_ctx=n_ctx)
    with pytest.raises(ContextOverflowError, match=rf"\b14 tokens.*\b{n_ctx}\b") as caught:
        engine_of(models).add(request())
    assert (caught.value.n_prompt, caught.value.n_ctx) == (14, n_ctx)
    assert not models.calls


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(PromptError, match="empty"):
        engine_of(FakeModels(never_ends)).add(request([]))


@given(n_prompt=st.integers(1, 60), n_batch=st.integers(1, 70))
def test_prompts_are_evaluated_in_chunks_with_rows_for_the_last_token_only(
    n_prompt: int, n_batch: int
) -> None:
    prompt = [i % 256 for i in range(n_prompt)]
    models = FakeModels(never_ends, n_batch=n_batch)
    run(models, request(prompt, 1))
    assert [token for (feed,) in models.calls for token in feed.tokens] == prompt
    assert all(len(feed.tokens) == n_batch for (feed,) in models.calls[:-1])
    assert [feed.n_rows for (feed,) in models.calls] == [0] * (len(models.calls) - 1) + [1]


def test_prompts_can_be_interrupted_and_single_tokens_need_not() -> None:
    models = FakeModels(never_ends)
    run(models, request(max_tokens=3))
    assert models.abortable == [True, True, False, False]


def test_progress_of_a_prompt_reaches_its_end() -> None:
    seen: list[tuple[int, int]] = []
    progress = request(max_tokens=1, on_progress=lambda done, total: seen.append((done, total)))
    run(FakeModels(never_ends, n_batch=6), progress)
    assert seen == [(6, 14), (12, 14), (14, 14)]


def test_an_error_of_a_callback_ends_its_own_sequence_alone() -> None:
    def broken(done: int, total: int) -> None:
        raise RuntimeError("mine")

    models = FakeModels(never_ends, n_parallel=2)
    engine, good, bad = (
        engine_of(models),
        request([1], 4),
        request(max_tokens=4, on_progress=broken),
    )
    engine.add(good)
    engine.step()
    engine.add(bad)
    while not engine.is_idle:
        engine.step()
    assert (bad.finish_reason, str(bad.error), bad.generated) == ("error", "mine", [])
    assert (good.finish_reason, len(good.generated)) == ("length", 4)
    held = models.held_tokens[Role.LARGE_INS, 0]
    assert held == [*good.prompt, *good.generated[:-1]]


def test_only_roles_that_the_rule_needs_are_run() -> None:
    models = FakeModels(never_ends)
    run(models, request(max_tokens=1))
    assert {frozenset(feed.roles) for call in models.calls for feed in call} == {frozenset(TWO)}
    mask, models = Plausibility(Role.SMALL_CPT, 0.1), FakeModels(never_ends)
    run(models, request(max_tokens=1, weights=FusionWeights(1, 0), plausibility=mask))
    assert {frozenset(feed.roles) for call in models.calls for feed in call} == {frozenset(TWO)}


def test_the_sampler_hears_the_prompt_and_every_token_but_the_last() -> None:
    sequence = request()
    run(FakeModels(says("abc", len(PROMPT))), sequence)
    assert isinstance(sequence.sampler, FirstChoice)
    assert sequence.sampler.prompt == PROMPT
    assert sequence.sampler.accepted == [*b"abc"]


def by_role(role: Role, sequence: list[int]) -> npt.NDArray[np.float32]:
    row = np.zeros(ByteTokenizer.n_vocab, np.float32)
    row[list(Role).index(role)] = 1.0
    return row


def test_roles_pull_the_choice_as_their_weights_say_in_one_batch_as_alone() -> None:
    pulls = [FusionWeights(0.6, 0.4), FusionWeights(0.4, 0.6), FusionWeights(0.1, 0.1)]
    alone = [run(FakeModels(by_role), request(max_tokens=1, weights=w))[0].id for w in pulls]
    together = [request(max_tokens=1, weights=w) for w in (*pulls, *pulls)]
    run(FakeModels(by_role, n_parallel=6, n_batch=200), *together)
    assert alone == [0, 1, 2]
    assert [s.generated for s in together] == [[0], [1], [2], [0], [1], [2]]


def test_logprobs_are_those_of_the_fused_distribution() -> None:
    token = run(FakeModels(says("a", len(PROMPT))), request(max_tokens=1, top=2))[0]
    expected = 5 - math.log(math.exp(5) + ByteTokenizer.n_vocab - 1)
    assert token.logprob == pytest.approx(expected, abs=1e-6)
    assert token.top is not None
    assert [i for i, _ in token.top] == [ord("a"), 0]
    assert token.top[0][1] == token.logprob
    assert run(FakeModels(says("a", len(PROMPT))), request(max_tokens=1))[0].logprob is None


def counting(role: Role, sequence: list[int]) -> npt.NDArray[np.float32]:
    """The next token depends on all that came before, so that a mix-up shows."""
    row = np.zeros(ByteTokenizer.n_vocab, np.float32)
    row[(sum((i + 1) * t for i, t in enumerate(sequence)) * 31 + len(sequence)) % 256] = 5.0
    return row


Prompts = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=20), min_size=1, max_size=12)


@given(
    prompts=Prompts,
    n_parallel=st.integers(1, 5),
    n_batch=st.integers(5, 40),
    max_tokens=st.integers(1, 6),
    reuse=st.booleans(),
)
def test_many_sequences_say_what_each_says_alone(
    prompts: list[list[int]], n_parallel: int, n_batch: int, max_tokens: int, reuse: bool
) -> None:
    alone = [request(p, max_tokens) for p in prompts]
    for sequence in alone:
        run(FakeModels(counting), sequence)
    models = FakeModels(counting, n_parallel=n_parallel, n_batch=n_batch)
    together = [request(p, max_tokens, reuse=reuse) for p in prompts]
    run(models, *together)
    assert [s.generated for s in together] == [s.generated for s in alone]
    assert all(s.finish_reason == "length" for s in together)


def test_running_sequences_share_one_decode_a_step() -> None:
    models = FakeModels(never_ends, n_parallel=3, n_batch=100)
    run(models, *(request([i, i + 1], 4) for i in (10, 20, 30)))
    assert [len(call) for call in models.calls] == [3, 3, 3, 3]


def test_sequences_join_and_leave_between_steps() -> None:
    models = FakeModels(never_ends, n_parallel=2, n_batch=100)
    short, long, later = request([1, 2], 1), request([3, 4], 3), request([5, 6], 2)
    run(models, short, long, later)
    assert [sorted(feed.seq for feed in call) for call in models.calls] == [[0, 1], [0, 1], [0, 1]]
    assert len(later.generated) == 2


def test_a_shared_beginning_is_read_once_and_copied() -> None:
    common = [9] * 20
    models = FakeModels(never_ends, n_parallel=4, n_batch=8)
    run(models, *(request([*common, i], 2) for i in range(4)))
    read = sum(len(feed.tokens) for call in models.calls for feed in call if feed.roles)
    n_generated = 4  # the first token of each comes with its prompt
    assert read == 20 + 4 + n_generated
    assert sorted(n_kept for _, _, n_kept in models.begun) == [0, 20, 20, 20]


def test_a_conversation_goes_on_where_its_sequence_stopped() -> None:
    models = FakeModels(never_ends, n_parallel=2)
    first = request([1, 2, 3], 3)
    run(models, first)
    models.calls.clear()
    again = request([*first.prompt, *first.generated, 77], 1)
    run(models, again)
    assert again.n_kept == 5, "the last generated token was never evaluated"
    assert [list(feed.tokens) for (feed,) in models.calls] == [[first.generated[-1], 77]]


def test_a_cancelled_sequence_frees_its_place_before_the_next_step() -> None:
    models = FakeModels(never_ends, n_parallel=1)
    engine = engine_of(models)
    first, second = request(), request([7], 1)
    engine.add(first)
    engine.add(second)
    engine.step()
    engine.cancel(first)
    outputs = engine.step()
    assert (first, None) in outputs
    assert first.finish_reason == "cancelled"
    assert second.generated == [8]


def test_a_decode_stops_where_all_its_sequences_are_cancelled() -> None:
    models = FakeModels(never_ends, n_parallel=2)
    engine = engine_of(models)
    sequence = request()
    engine.add(sequence)
    models.on_decode = lambda: engine.cancel(sequence)
    assert engine.step() == []
    assert engine.step() == [(sequence, None)]
    assert sequence.error is None
    assert engine.is_idle


def test_a_waiting_sequence_can_be_cancelled() -> None:
    engine = engine_of(FakeModels(never_ends))
    first, waiting = request(max_tokens=50), request()
    engine.add(first)
    engine.add(waiting)
    engine.step()
    engine.cancel(waiting)
    assert (waiting, None) in engine.step()


@dataclass
class Refusing(FirstChoice):
    """A grammar that leaves nothing after some tokens."""

    n_good: int = 1
    told: list[int] = field(default_factory=list)

    def choose(self, logits: npt.NDArray[np.float32], best: int) -> int:
        if len(self.accepted) >= self.n_good:
            raise DecodeError("fusion", 0, "nothing is left")
        return best


def test_an_error_of_one_sequence_ends_that_one_alone() -> None:
    models = FakeModels(never_ends, n_parallel=2)
    bad, good = request([1], 4), request([2], 4)
    bad.sampler = Refusing()
    run(models, bad, good)
    assert bad.finish_reason == "error"
    assert isinstance(bad.error, DecodeError)
    assert (good.finish_reason, len(good.generated)) == ("length", 4)


def test_an_interrupt_loses_nothing() -> None:
    models = FakeModels(never_ends)
    engine, sequence = engine_of(models), request(max_tokens=3)
    engine.add(sequence)
    engine.step()

    def interrupt() -> None:
        models.on_decode = lambda: None
        raise KeyboardInterrupt

    models.on_decode = interrupt
    with pytest.raises(KeyboardInterrupt):
        engine.step()
    while not engine.is_idle:
        engine.step()
    assert models.in_step(0, TWO) == [*PROMPT, *sequence.generated[:-1]]
    assert sequence.generated == [PROMPT[-1] + 1, PROMPT[-1] + 2, PROMPT[-1] + 3]


def test_times_are_kept_by_stage_and_model() -> None:
    sequence = request(max_tokens=3)
    run(FakeModels(never_ends, price=lambda role, n: 1.0), sequence)
    timings = sequence.timings
    assert timings.prompt > 0
    assert timings.fusion > 0
    assert timings.models[Role.LARGE_INS] == 4.0, "two chunks of the prompt, two tokens"
    assert timings.prompt_models == 4.0, "two models"
