"""Files without a manifest: llama.cpp's defaults, a limit, and a word about loops."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from trimix_edge import ContextParams, Role, SamplingParams, TriMix
from trimix_edge.decoding import prepare
from trimix_edge.decoding.run import Run
from trimix_edge.errors import Notice

PROMPT = " save the file"


def step_to_the_end(trimix: TriMix, run: Run) -> None:
    while not run.finished:
        trimix.step()


@pytest.fixture(scope="module")
def own(tiny: dict[Role, Path]) -> Iterator[TriMix]:
    context = ContextParams(n_ctx=256, kv_type="f32", n_threads=1)
    with TriMix.load(models=tiny, weights=(0.4, 0.8), context=context) as loaded:
        yield loaded


def test_files_without_a_manifest_are_sampled_with_llama_cpps_defaults(own: TriMix) -> None:
    defaults = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05, "repeat_penalty": 1}
    options = {"seed": 3, "max_tokens": 20}
    found = own.generate(PROMPT, **options)
    assert found.token_ids == own.generate(PROMPT, sampling=defaults, **options).token_ids
    others = {tuple(own.generate(PROMPT, seed=s, max_tokens=20).token_ids) for s in range(4)}
    assert len(others) > 1


def test_a_temperature_of_0_that_is_named_counts_though_it_is_the_fields_default(
    own: TriMix,
) -> None:
    greedy = [
        own.generate(PROMPT, max_tokens=20, seed=seed, **options).token_ids
        for seed in (1, 2)
        for options in (
            {"temperature": 0.0},
            {"sampling": SamplingParams(temperature=0.0)},
            {"sampling": {"temperature": 0}},
        )
    ]
    assert all(tokens == greedy[0] for tokens in greedy)
    drawn = own.generate(PROMPT, max_tokens=20, seed=1, sampling=SamplingParams()).token_ids
    assert drawn == own.generate(PROMPT, max_tokens=20, seed=1).token_ids


def test_without_a_limit_a_text_ends_at_1024_tokens_and_says_so(
    own: TriMix, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = own.submit(PROMPT)
    assert run.sequence.max_tokens == 1024
    run.cancel()
    monkeypatch.setattr(prepare, "DEFAULT_MAX_TOKENS", 5)
    options = {"temperature": 0.0, "ignore_eos": True}
    with pytest.warns(Notice, match="ended at 5 tokens, the limit where none is given") as told:
        result = own.generate(PROMPT, **options)
    assert (len(result.token_ids), result.finish_reason, len(told)) == (5, "length", 1)
    assert len(own.generate(PROMPT, max_tokens=5, **options).token_ids) == 5  # silently
    whole = own.generate(PROMPT, max_tokens=-1, temperature=1.0, seed=1, ignore_eos=True)
    assert whole.finish_reason == "context"


def test_a_text_that_loops_says_so(own: TriMix) -> None:
    options = {"temperature": 0.0, "max_tokens": 60, "grammar": 'root ::= "abc" root'}
    with pytest.warns(Notice, match="repeats its last words over and over"):
        result = own.generate(PROMPT, **options)
    assert result.text.startswith("abcabcabc")
    assert result.repetition is not None
    assert result.repetition.copies >= 4
    with pytest.warns(Notice, match="repeats its last words"):
        list(own.stream(PROMPT, **options))
    run = own.submit(PROMPT, **options)
    with pytest.warns(Notice, match="repeats its last words"):
        step_to_the_end(own, run)
    short = own.generate(PROMPT, temperature=0.0, max_tokens=12)
    assert short.repetition is None
