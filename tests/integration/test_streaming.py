"""The facade: chunks of text, their ends, and what comes with them."""

from __future__ import annotations

import math

import pytest
from tiny_models import GREEDY_TRIO, N_VOCAB

from trimix_edge import FusionWeights, Plausibility, Role, SamplingParams, TriMix
from trimix_edge.errors import ContextOverflowError, PromptError, TrioConfigError, UsageError

PROMPT = " save the file"
ASCII = SamplingParams(grammar="root ::= [a-z ]+")
TIBETAN = SamplingParams(grammar="root ::= [ཀ-ཬ]+", temperature=1.0, seed=1)


def test_chunks_join_to_the_generated_text(trimix: TriMix) -> None:
    chunks = list(trimix.stream(PROMPT, max_tokens=30, sampling=ASCII))
    result = trimix.generate(PROMPT, max_tokens=30, sampling=ASCII)
    assert "".join(chunk.text for chunk in chunks) == result.text != ""
    assert [chunk.token_id for chunk in chunks] == result.token_ids
    assert [chunk.finish_reason for chunk in chunks] == [None] * 29 + ["length"]


def test_characters_of_several_tokens_come_whole(trimix: TriMix) -> None:
    chunks = list(trimix.stream(PROMPT, max_tokens=31, sampling=TIBETAN))
    text = "".join(chunk.text for chunk in chunks)
    raw = trimix.trio.vocab.detokenize([chunk.token_id for chunk in chunks])
    assert text == raw.decode("utf-8", errors="ignore")
    assert len(text) < len(chunks), "some tokens are parts of a character"
    assert all("ཀ" <= letter <= "ཬ" for letter in text)


def test_a_stop_string_ends_the_text_before_it(trimix: TriMix) -> None:
    full = trimix.generate(PROMPT, max_tokens=30, sampling=ASCII).text
    stop = full[10:13]
    result = trimix.generate(PROMPT, max_tokens=30, sampling=ASCII, stop=[stop])
    assert result.text == full[: full.index(stop)]
    assert result.finish_reason == "stop"


def test_an_end_token_adds_no_text(trimix: TriMix) -> None:
    sampling = SamplingParams(grammar='root ::= "yes"')
    chunks = list(trimix.stream(PROMPT, max_tokens=30, sampling=sampling))
    assert "".join(chunk.text for chunk in chunks) == "yes"
    assert chunks[-1].finish_reason == "end"
    assert trimix.trio.vocab.is_end(chunks[-1].token_id)


def test_a_full_context_is_told(trimix: TriMix) -> None:
    long_word = SamplingParams(grammar="root ::= [a-z]{40}")
    result = trimix.generate(" the" * 250, sampling=long_word)
    assert result.finish_reason == "context"
    assert len(result.prompt_token_ids) + len(result.token_ids) == trimix.trio.n_ctx == 256


def test_a_prompt_beyond_the_context_is_told_with_both_counts(trimix: TriMix) -> None:
    with pytest.raises(ContextOverflowError, match=r"\b300 tokens.*\b256\b"):
        trimix.generate(" the" * 300)


def test_an_empty_prompt_is_told(trimix: TriMix) -> None:
    with pytest.raises(PromptError, match="empty"):
        trimix.generate("")


def test_a_negative_limit_is_refused(trimix: TriMix) -> None:
    with pytest.raises(UsageError, match="max_tokens"):
        trimix.generate(PROMPT, max_tokens=-2)


def test_no_tokens_wanted_gives_none(trimix: TriMix) -> None:
    result = trimix.generate(PROMPT, max_tokens=0)
    assert (result.text, result.token_ids, result.finish_reason) == ("", [], "length")


def test_progress_is_told(trimix: TriMix) -> None:
    seen: list[tuple[int, int]] = []
    trimix.generate(" the" * 200, max_tokens=1, on_progress=lambda *at: seen.append(at))
    assert seen == [(128, 200), (200, 200)]


def test_logprobs_are_of_a_distribution(trimix: TriMix) -> None:
    """The chosen token of a greedy step is at least as likely as a uniform one."""
    for chunk in trimix.stream(PROMPT, max_tokens=10, logprobs=True):
        assert -math.log(N_VOCAB) < chunk.logprob <= 0  # type: ignore[operator]


def test_a_generation_tells_how_it_was_made(trimix: TriMix) -> None:
    weights = FusionWeights(0.2, 1.0)
    result = trimix.generate(PROMPT, max_tokens=5, weights=weights)
    assert result.weights == weights
    assert result.prompt_token_ids == trimix.tokenize(PROMPT)
    assert set(result.timings.models) == set(Role)
    assert (
        0 < sum(result.timings.models.values()) < result.timings.prompt + result.timings.generation
    )
    assert trimix.load_seconds > 0


@pytest.mark.parametrize(
    "options",
    [
        {"weights": FusionWeights(0.1, 0.8)},
        {"plausibility": Plausibility(Role.SMALL_BASE, 0.1)},
    ],
)
def test_a_role_that_was_not_loaded_is_told(tiny: dict, options: dict) -> None:
    with (
        TriMix.load(GREEDY_TRIO, models=tiny, weights=FusionWeights(0.1, 0.9)) as trimix,
        pytest.raises(TrioConfigError, match="small_base: needed here, but not loaded"),
    ):
        trimix.generate(PROMPT, max_tokens=1, **options)
