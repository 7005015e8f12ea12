"""Contexts and trios: models as llama.cpp runs them, rows, truncation, and staying in step."""

from __future__ import annotations

import ctypes
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
from plain_llama import PlainLlama
from tiny_models import GREEDY_TRIO, N_VOCAB, WORDS

from trimix_edge import ContextParams, FusionWeights, Role, TriMix
from trimix_edge.decoding.trio import Trio
from trimix_edge.errors import ContextError, DecodeError, UsageError
from trimix_edge.gguf import MAX_ROWS
from trimix_edge.llama import LlamaContext, LlamaModel
from trimix_edge.llama.context import BatchItem

PROMPTS = [" save the file", "རྫོང་ཁ", "x", "".join(WORDS), " the" * 150]
EXACT = ContextParams(n_ctx=256, n_batch=64, kv_type="f32", n_threads=1)
TOKENS = np.random.RandomState(0).randint(0, N_VOCAB - 3, 40).tolist()


@pytest.fixture(params=[role.value for role in Role])
def role(request: pytest.FixtureRequest) -> Role:
    return Role(request.param)


@pytest.fixture
def context(tiny: dict[Role, Path]) -> Iterator[LlamaContext]:
    with LlamaModel(tiny[Role.LARGE_INS]) as model, LlamaContext(model, "large", EXACT) as context:
        yield context


def feed(context: LlamaContext, tokens: list[int], n_rows: int = 1) -> None:
    context.decode([BatchItem(0, tokens, n_rows)])


@pytest.fixture
def trio(tiny: dict[Role, Path]) -> Iterator[Trio]:
    with Trio(tiny, list(Role), EXACT) as trio:
        yield trio


def test_a_single_role_generates_what_llama_cpp_generates(
    tiny: dict[Role, Path], role: Role
) -> None:
    with (
        PlainLlama(tiny[role]) as plain,
        TriMix.load(
            GREEDY_TRIO,
            models=tiny,
            weights=FusionWeights.single(role),
            context=ContextParams(n_threads=1),
        ) as trimix,
    ):
        for prompt in PROMPTS:
            result = trimix.generate(prompt, max_tokens=32)
            assert result.token_ids == plain.generate(result.prompt_token_ids, 32)


def test_logits_are_llama_cpps_own_memory(context: LlamaContext) -> None:
    feed(context, TOKENS[:5])
    rows = context.logits()
    start = llama_cpp.llama_get_logits(context._pointer)
    assert rows.ctypes.data == ctypes.addressof(start.contents)
    assert (rows.dtype, rows.shape, rows.flags.owndata) == (np.float32, (1, N_VOCAB), False)


@pytest.mark.parametrize("n_rows", [1, 7, MAX_ROWS])
def test_rows_of_many_tokens_equal_those_of_one_by_one(context: LlamaContext, n_rows: int) -> None:
    one_by_one = []
    for token in TOKENS:
        feed(context, [token])
        one_by_one.append(context.logits()[0].copy())
    context.truncate(0, 0)
    feed(context, TOKENS, n_rows)
    np.testing.assert_allclose(context.logits(), one_by_one[-n_rows:], atol=2e-4)


def test_chunks_of_any_size_give_the_same_logits(context: LlamaContext) -> None:
    feed(context, TOKENS)
    whole = context.logits().copy()
    for size in (1, 3, 39):
        context.truncate(0, 0)
        for at in range(0, len(TOKENS), size):
            last = at + size >= len(TOKENS)
            feed(context, TOKENS[at : at + size], n_rows=int(last))
        np.testing.assert_allclose(context.logits(), whole, atol=2e-4)


def test_truncated_tokens_are_forgotten(context: LlamaContext) -> None:
    feed(context, TOKENS[:10])
    feed(context, TOKENS[20:24])
    fresh = context.logits().copy()
    context.truncate(0, 10)
    feed(context, TOKENS[30:38])
    context.truncate(0, 10)
    feed(context, TOKENS[20:24])
    np.testing.assert_allclose(context.logits(), fresh, atol=1e-5)
    context.truncate(0, 0)
    feed(context, TOKENS[20:24])
    assert np.abs(context.logits() - fresh).max() > 0.1, "a context matters to these models"


def test_a_full_context_is_an_error_and_stays_usable(context: LlamaContext) -> None:
    for _ in range(4):
        feed(context, [1] * 64, n_rows=0)
    with pytest.raises(DecodeError, match="256 tokens is full"):
        feed(context, [1])
    context.truncate(0, 255)
    feed(context, [1])


def test_a_token_outside_the_vocabulary_is_an_error_and_changes_nothing(
    context: LlamaContext,
) -> None:
    feed(context, TOKENS[:8])
    before = context.logits().copy()
    with pytest.raises(DecodeError, match="large"):
        feed(context, [5, N_VOCAB + 1])
    assert context.n_past(0) == 8
    context.truncate(0, 7)
    feed(context, TOKENS[7:8])
    np.testing.assert_allclose(context.logits(), before, atol=1e-5)


@pytest.mark.parametrize(("n", "n_rows"), [(0, 0), (65, 1), (3, 4), (60, MAX_ROWS + 1)])
def test_impossible_batches_are_refused(context: LlamaContext, n: int, n_rows: int) -> None:
    with pytest.raises(ValueError, match="rows"):
        feed(context, [1] * n, n_rows)


def test_a_context_larger_than_memory_is_refused(tiny: dict[Role, Path]) -> None:
    with (
        LlamaModel(tiny[Role.SMALL_CPT]) as model,
        pytest.raises(ContextError, match=r"small_cpt: .* GB .*n_ctx"),
    ):
        LlamaContext(model, "small_cpt", ContextParams(n_ctx=2**31 - 1, n_batch=64))


def test_the_default_context_is_what_the_models_were_trained_on(tiny: dict[Role, Path]) -> None:
    with Trio(tiny, [Role.SMALL_BASE], ContextParams(n_threads=1)) as trio:
        assert trio.n_ctx == 512


def test_models_stay_in_step_after_an_interrupt(
    trio: Trio, monkeypatch: pytest.MonkeyPatch
) -> None:
    sequence = trio.sequence(list(Role))
    sequence.decode(TOKENS[:9])
    last = trio._contexts[Role.SMALL_BASE]
    monkeypatch.setattr(last, "decode", lambda *args, **options: _interrupt())
    with pytest.raises(KeyboardInterrupt):
        sequence.decode(TOKENS[9:12])
    assert [context.n_past(0) for context in trio._contexts.values()] == [9, 9, 9]


def _interrupt() -> None:
    raise KeyboardInterrupt


def test_only_the_roles_of_a_sequence_are_decoded(trio: Trio) -> None:
    sequence = trio.sequence([Role.SMALL_CPT])
    assert set(sequence.decode(TOKENS[:5])) == {Role.SMALL_CPT}
    assert sequence.decode(TOKENS[:5], n_rows=0) == {}
    assert trio._contexts[Role.LARGE_INS].n_past(0) == 0
    assert set(trio.sequence(list(Role)).decode(TOKENS[:5])) == set(Role)


def test_one_trio_generates_the_same_again_and_again(trimix: TriMix) -> None:
    first = [trimix.generate(prompt, max_tokens=20).token_ids for prompt in PROMPTS]
    again = [trimix.generate(prompt, max_tokens=20).token_ids for prompt in reversed(PROMPTS)]
    assert first == again[::-1]
    assert len({tuple(tokens) for tokens in first}) == len(PROMPTS)


def test_an_abandoned_generation_leaves_nothing_behind(trimix: TriMix) -> None:
    expected = trimix.generate(PROMPTS[0], max_tokens=10).token_ids
    stream = trimix.stream(PROMPTS[3], max_tokens=50)
    next(stream)
    stream.close()
    assert trimix.generate(PROMPTS[0], max_tokens=10).token_ids == expected


def test_a_stream_goes_on_as_if_no_other_call_had_come_between(trimix: TriMix) -> None:
    expected = trimix.generate(PROMPTS[0], max_tokens=10, draft="off").token_ids
    stream = trimix.stream(PROMPTS[0], max_tokens=10, draft="off")
    first = next(stream)
    trimix.score(PROMPTS[3])
    trimix.generate(PROMPTS[2], max_tokens=3)
    assert [first.token_id, *(chunk.token_id for chunk in stream)] == expected


def test_a_stream_that_has_ended_is_not_overtaken(trimix: TriMix) -> None:
    stream = trimix.stream(PROMPTS[0], max_tokens=2)
    assert [next(stream).finish_reason, next(stream).finish_reason] == [None, "length"]
    trimix.generate(PROMPTS[1], max_tokens=1)
    assert list(stream) == []


def test_what_is_used_after_closing_says_so(tiny: dict[Role, Path]) -> None:
    trimix = TriMix.load(GREEDY_TRIO, models=tiny)
    vocab, lead = trimix.trio.vocab, trimix.trio.lead
    stream = trimix.stream(PROMPTS[0], max_tokens=10)
    next(stream)
    trimix.close()
    trimix.close()
    for use in (
        lambda: next(stream),
        lambda: trimix.generate(PROMPTS[0]),
        lambda: vocab.token_bytes(200),
        lambda: lead.n_ctx_train,
    ):
        with pytest.raises(UsageError):
            use()


@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal to itself")
def test_an_interrupt_that_a_handler_swallows_is_an_error_all_the_same(
    context: LlamaContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under asyncio, whose handler raises nothing; and too late for llama.cpp to stop."""
    feed(context, TOKENS[:5])
    decode = context._decode_batch

    def decode_and_interrupt() -> int:
        code = decode()
        signal.raise_signal(signal.SIGINT)
        return code

    monkeypatch.setattr(context, "_decode_batch", decode_and_interrupt)
    previous = signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        with pytest.raises(DecodeError, match="code 2"):
            context.decode([BatchItem(0, TOKENS[5:9])], is_cancelled=lambda: False)
    finally:
        signal.signal(signal.SIGINT, previous)
    assert context.tokens[0] == TOKENS[:5]
    monkeypatch.undo()
    feed(context, TOKENS[5:9])
    assert context.n_past(0) == 9


def test_an_error_while_loading_reaches_the_caller(tiny: dict[Role, Path]) -> None:
    def stumble(role: Role, part: float) -> None:
        raise RuntimeError("the caller's own")

    with pytest.raises(RuntimeError, match="the caller's own"):
        TriMix.load(GREEDY_TRIO, models=tiny, on_progress=stumble)


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"max_new_tokens": 2}, TypeError, "(generate|stream|submit)[(][)] got .*'max_new_tokens'"),
        ({"weights": (0.5,)}, UsageError, "LARGE_INS,SMALL_CPT"),
        ({"weights": "0.5;0.5"}, UsageError, "not a number"),
        ({"weights": (0.5, 0.5), "rule": "saf"}, UsageError, "sets its weights itself"),
        ({"rule": "best"}, UsageError, "not one of trimix, proxy"),
        ({"draft": "much"}, UsageError, "auto, off or a number"),
        ({"stop": ["a", ""]}, UsageError, "empty"),
        ({"stop": [3]}, UsageError, "not a text"),
        ({"plausibility": "0.1"}, UsageError, "ROLE:ALPHA"),
        ({"sampling": {"heat": 2}}, UsageError, "'heat' is no setting"),
        ({"temperature": "hot"}, UsageError, "temperature"),
        ({"temperature": 1e9}, UsageError, "from 0 to 100"),
        ({"logprobs": 21}, UsageError, "from 0 to 20"),
        ({"max_tokens": -2}, UsageError, "max_tokens"),
    ],
)
def test_options_that_mean_nothing_are_refused(
    trimix: TriMix, options: dict[str, Any], error: type[Exception], told: str
) -> None:
    for call in (trimix.generate, trimix.stream, trimix.submit):
        with pytest.raises(error, match=told):  # at the call, not at the first token
            call(PROMPTS[0], **options)


def test_files_may_be_named_by_texts(tiny: dict[Role, Path]) -> None:
    named: Any = {role.value: str(path) for role, path in tiny.items()}
    with TriMix.load(GREEDY_TRIO, models=named, weights=FusionWeights(0.1, 0.9)) as trimix:
        assert trimix.trio.roles == (Role.LARGE_INS, Role.SMALL_CPT)
