"""Repeatable generations: nothing but the prompt and the settings decides, to the last bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_models import GREEDY_TRIO, Shape, random_tensors, write_gguf

from trimix_edge import Generation, Role, TriMix
from trimix_edge.llama.quantize import quantize

PROMPTS = [
    " save the file and open the window of the page",
    " open",
    " close the window, name the page, save the file and the page and the file",
    " save the file" * 130,  # attention to 512 keys and more takes another kernel
]
OPTIONS: dict[str, Any] = {"temperature": 0.0, "max_tokens": 16, "logprobs": 2}


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> dict[Role, Path]:
    """Two models of a type that llama.cpp has different kernels for, by the size of the batch."""
    folder = tmp_path_factory.mktemp("quantised")
    files = {}
    for role, seed in ((Role.LARGE_INS, 1), (Role.SMALL_CPT, 2)):
        shape = Shape(hidden=256, layers=2, kv_heads=2, ffn=256, n_ctx=1024)
        whole = write_gguf(folder, f"{role}-f32", shape, random_tensors(shape, seed))
        files[role] = folder / f"{role}.gguf"
        quantize(whole, files[role], "Q4_K_M", threads=1)
    return files


def load(files: dict[Role, Path], **settings: Any) -> TriMix:
    return TriMix.load(
        GREEDY_TRIO, models=files, weights=(0.4, 0.6), n_ctx=1024, repeatable=True, **settings
    )


@pytest.fixture(scope="module")
def alone(quantised: dict[Role, Path]) -> list[Generation]:
    """Each prompt in models that have read nothing before."""
    found = []
    for prompt in PROMPTS:
        with load(quantised) as trimix:
            found.append(trimix.generate(prompt, draft="off", **OPTIONS))
    return found


def check(found: list[Generation], alone: list[Generation]) -> None:
    for one, other in zip(found, alone, strict=True):
        assert one.token_ids == other.token_ids
        assert one.logprobs == other.logprobs  # not nearly: the same bits
        assert not one.batched


def test_drafts_do_not_change_a_repeatable_text(
    quantised: dict[Role, Path], alone: list[Generation]
) -> None:
    with load(quantised) as trimix:
        check([trimix.generate(prompt, draft=6, **OPTIONS) for prompt in PROMPTS], alone)


def test_neither_other_sequences_nor_earlier_prompts_change_a_repeatable_text(
    quantised: dict[Role, Path], alone: list[Generation]
) -> None:
    with load(quantised, n_parallel=8) as trimix:
        check(trimix.generate_all(PROMPTS, **OPTIONS), alone)
        check([trimix.generate(prompt, **OPTIONS) for prompt in PROMPTS], alone)
        assert not trimix.generate(PROMPTS[2] + " of", **OPTIONS).batched


def test_a_generation_says_that_drafts_other_sequences_or_earlier_prompts_may_have_changed_it(
    quantised: dict[Role, Path],
) -> None:
    with TriMix.load(
        GREEDY_TRIO, models=quantised, weights=(0.4, 0.6), n_ctx=1024, n_parallel=2
    ) as trimix:
        assert not trimix.generate(PROMPTS[0], draft="off", **OPTIONS).batched
        assert trimix.generate(PROMPTS[0], draft="off", **OPTIONS).n_kept
        assert trimix.generate(PROMPTS[0], draft="off", **OPTIONS).batched
        assert all(g.batched for g in trimix.generate_all(PROMPTS[1:3], draft="off", **OPTIONS))
        again = trimix.generate(PROMPTS[0], draft="off", cache_prompt=False, **OPTIONS)
        assert not again.batched
