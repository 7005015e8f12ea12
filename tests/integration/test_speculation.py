"""Drafting on real models: in float32 it emits exactly what plain decoding emits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader
from tiny_models import GREEDY_TRIO
from trimix_convert import convert_checkpoint

from trimix_edge import (
    ContextParams,
    FusionWeights,
    Generation,
    Plausibility,
    Role,
    SamplingParams,
    TriMix,
)
from trimix_edge.config import Draft
from trimix_edge.errors import UsageError
from trimix_edge.llama.quantize import quantize
from trimix_edge.trios.manifest import DEFAULT_TRIO, embedded_trios

EXACT = ContextParams(n_ctx=256, kv_type="f32", n_threads=1)
OFF, AUTO = Draft(0), Draft(p_min=0)  # random models are sure of nothing
DRAFTS = [Draft(1, p_min=0), Draft(3, p_min=0), Draft(7), AUTO]
WEIGHTS = [FusionWeights(0.1, 0.9), FusionWeights(0.5, 0.5), FusionWeights(0.9, 0.4)]
PROMPTS = [
    "Save the file.",
    "Open the window and close it again.",
    "The page is empty.",
    "Click on the name of the file, then on the name of the page.",
    "Print",
    "རྫོང་ཁ",
    "Select all files in the folder, and move all files in the folder to the other folder.",
    "Could not open 3 of 12 files: error 404.",
]
LIVELY = SamplingParams(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0)
SAMPLINGS = {
    "temperature": LIVELY,
    "top_k": replace(LIVELY, temperature=1.5, top_k=20),
    "top_p": replace(LIVELY, temperature=1.5, top_p=0.7),
    "min_p": replace(LIVELY, temperature=1.5, min_p=0.1),
    "penalties": replace(LIVELY, repeat_penalty=1.4, frequency_penalty=0.5, presence_penalty=0.3),
    "grammar": replace(LIVELY, grammar='root ::= ([a-z ]+ [0-9] ","? )+ "."'),
    "mirostat_1": SamplingParams(temperature=1.2, mirostat=1, mirostat_tau=3.0),
    "mirostat_2": SamplingParams(temperature=1.2, mirostat=2, mirostat_tau=3.0),
    "xtc": replace(LIVELY, xtc_probability=0.5, xtc_threshold=0.05),
    "dry": replace(LIVELY, dry_multiplier=5.0, dry_allowed_length=1),
    "greedy_penalties": SamplingParams(repeat_penalty=1.5, dry_multiplier=2.0),
    "greedy_grammar": SamplingParams(grammar='root ::= ([a-z ]+ [0-9] ","? )+ "."'),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[Role, Path]:
    """The embedded trio in F32, in which a batch adds up as single tokens do."""
    folder, source = tmp_path_factory.mktemp("f32"), embedded_trios()[DEFAULT_TRIO].parent
    found = {}
    for role in Role:
        (path,) = source.glob(f"*{role.value.replace('_', '[-_]')}*.gguf")
        found[role] = folder / f"{role}.gguf"
        quantize(path, found[role], "F32", allow_requantize=True, threads=1)
    return found


@pytest.fixture(scope="module")
def trio(files: dict[Role, Path]) -> Iterator[TriMix]:
    with TriMix.load(DEFAULT_TRIO, models=files, roles=list(Role), context=EXACT) as trimix:
        yield trimix


def eager(trimix: TriMix) -> None:
    """Let ``auto`` draft wherever it can: by its experience, plain decoding is slow."""
    for n in (1, 2, 3):
        for roles in combinations(Role, n):
            for length, arm in trimix.engine.drafting.policy(roles).arms.items():
                for _ in range(64):
                    arm.learn(1e-3 * (length + 1), 1.0)


def generate(
    trimix: TriMix,
    prompt: str,
    draft: Draft,
    weights: FusionWeights = WEIGHTS[0],
    sampling: SamplingParams | None = None,
    *,
    max_tokens: int | None = 14,
    **options: object,
) -> Generation:
    if draft == AUTO:
        eager(trimix)
    return trimix.generate(
        prompt, draft=draft, weights=weights, sampling=sampling or SamplingParams(),
        max_tokens=max_tokens, **options,
    )  # type: ignore[arg-type]  # fmt: skip


def check(trimix: TriMix, prompt: str, **settings: object) -> list[Generation]:
    """All lengths of draft emit what none does; returns what they did."""
    plain = generate(trimix, prompt, OFF, **settings)  # type: ignore[arg-type]
    assert plain.draft.rounds == plain.draft.drafted == plain.draft.accepted == 0
    found = []
    for draft in DRAFTS:
        result = generate(trimix, prompt, draft, **settings)  # type: ignore[arg-type]
        assert result.token_ids == plain.token_ids, (prompt, draft, settings)
        assert (result.text, result.finish_reason) == (plain.text, plain.finish_reason)
        found.append(result)
    return found


def accepted(results: list[Generation]) -> int:
    return sum(result.draft.accepted for result in results)


def rejected(results: list[Generation]) -> int:
    return sum(result.draft.drafted - result.draft.accepted for result in results)


@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
def test_greedy_drafting_emits_what_plain_decoding_emits(
    trio: TriMix, weights: FusionWeights
) -> None:
    by_prompt = [check(trio, prompt, weights=weights) for prompt in PROMPTS]
    for of_one_draft in zip(*by_prompt, strict=True):
        assert accepted(list(of_one_draft)) > 0
        assert rejected(list(of_one_draft)) > 0


@pytest.mark.parametrize("name", SAMPLINGS)
def test_sampled_drafting_emits_what_plain_decoding_emits(trio: TriMix, name: str) -> None:
    results, texts = [], set()
    for seed, weights in enumerate(WEIGHTS):
        prompt = PROMPTS[(list(SAMPLINGS).index(name) + seed) % len(PROMPTS)]
        sampling = replace(SAMPLINGS[name], seed=seed)
        found = check(trio, prompt, weights=weights, sampling=sampling)
        results += found
        texts.add(found[0].text)
    assert len(texts) == 3
    assert accepted(results) > 0
    assert rejected(results) > 0


@pytest.mark.parametrize("seed", range(3))
def test_seeds_of_one_prompt_differ_and_each_is_drafted_exactly(trio: TriMix, seed: int) -> None:
    sampling = replace(LIVELY, seed=seed)
    found = check(trio, PROMPTS[1], weights=WEIGHTS[2], sampling=sampling)
    other = generate(trio, PROMPTS[1], OFF, WEIGHTS[2], replace(LIVELY, seed=seed + 1))
    assert found[0].token_ids != other.token_ids


@pytest.mark.parametrize("judge", Role)
def test_the_mask_is_drafted_exactly(trio: TriMix, judge: Role) -> None:
    for seed, weights in enumerate(WEIGHTS):
        check(
            trio, PROMPTS[seed], weights=weights, sampling=replace(LIVELY, seed=seed),
            plausibility=Plausibility(judge, 0.1),
        )  # fmt: skip


def test_a_shared_seed_lets_the_drafter_draw_what_the_trio_draws(trio: TriMix) -> None:
    """Independent draws at this temperature would agree in a few cases of a hundred."""
    results = [
        generate(trio, prompt, Draft(1), WEIGHTS[0], replace(LIVELY, seed=seed))
        for prompt in PROMPTS[:4]
        for seed in range(2)
    ]
    drafted = sum(result.draft.drafted - result.draft.from_ngrams for result in results)
    assert accepted(results) > 0.6 * drafted > 10


def test_a_stop_string_inside_a_draft_stops_where_it_stops_plainly(trio: TriMix) -> None:
    plain = generate(trio, PROMPTS[1], OFF)
    stops = [plain.text[i : i + 2] for i in range(2, len(plain.text) - 2, 4)]
    assert len(stops) > 3
    for stop in stops[:6]:
        for result in check(trio, PROMPTS[1], stop=[stop]):
            assert result.finish_reason == "stop"
            assert stop not in result.text
            assert result.text == plain.text[: plain.text.index(stop)]


@pytest.mark.parametrize("max_tokens", [0, 1, 2, 3, 5])
def test_a_limit_inside_a_draft_is_kept(trio: TriMix, max_tokens: int) -> None:
    for result in check(trio, PROMPTS[6], max_tokens=max_tokens, weights=WEIGHTS[1]):
        assert len(result.token_ids) == max_tokens
        assert result.finish_reason == "length"


@pytest.mark.parametrize("n_ctx", [24, 25, 40])
def test_a_full_context_ends_as_it_does_plainly(tiny: dict[Role, Path], n_ctx: int) -> None:
    context = replace(EXACT, n_ctx=n_ctx)
    with TriMix.load(GREEDY_TRIO, models=tiny, roles=list(Role), context=context) as trimix:
        for weights in WEIGHTS:
            for result in check(trimix, " save the file", weights=weights, max_tokens=None):
                assert result.finish_reason == "context"
                assert len(result.prompt_token_ids) + len(result.token_ids) == n_ctx


@pytest.mark.parametrize("n_batch", [2, 5])
def test_small_batches_draft_no_more_than_they_hold(
    tiny: dict[Role, Path], trio: TriMix, n_batch: int
) -> None:
    with TriMix.load(
        GREEDY_TRIO, models=tiny, roles=list(Role), context=replace(EXACT, n_batch=n_batch)
    ) as trimix:
        plain = generate(trimix, " save the file save the file", OFF, WEIGHTS[0])
        for draft in (Draft(n_batch - 1, p_min=0), AUTO):
            result = generate(trimix, " save the file save the file", draft, WEIGHTS[0])
            assert result.token_ids == plain.token_ids
            assert result.draft.rounds > 0 or (draft == AUTO and n_batch <= 3)
        with pytest.raises(UsageError, match=rf"draft is {n_batch}.*n_batch"):
            generate(trimix, "x", Draft(n_batch))


@pytest.fixture(scope="module")
def windowed(tmp_path_factory: pytest.TempPathFactory) -> dict[Role, Path]:
    """A tiny Gemma 3 with a sliding window, and the same one moved some way off."""
    folder = tmp_path_factory.mktemp("gemma3")
    source = Path(__file__).parents[1] / "convert" / "checkpoints" / "gemma3"
    paths = {Role.LARGE_INS: folder / "large.gguf", Role.SMALL_CPT: folder / "small.gguf"}
    for path in paths.values():
        convert_checkpoint(source, path, outtype="f32")
    rng = np.random.default_rng(1)
    for tensor in GGUFReader(paths[Role.SMALL_CPT], "r+").tensors:
        noise = rng.normal(size=tensor.data.shape) * tensor.data.std()
        tensor.data[:] += (0.1 * noise).astype(np.float32)
    return paths


@pytest.mark.filterwarnings("ignore:a text repeats its last words")
def test_a_sliding_window_is_cut_back_exactly(windowed: dict[Role, Path]) -> None:
    with TriMix.load(GREEDY_TRIO, models=windowed, weights=WEIGHTS[1], context=EXACT) as trimix:
        results = [
            result
            for seed in range(3)
            for result in check(
                trimix,
                "the file " * 4,
                weights=WEIGHTS[1],
                max_tokens=60,
                sampling=replace(LIVELY, temperature=0.7, seed=seed),
            )
        ]
        results += check(trimix, "the page", weights=WEIGHTS[1], max_tokens=60)
    assert accepted(results) > 0
    assert rejected(results) > 0


def test_a_kept_beginning_never_changes_the_tokens(trio: TriMix) -> None:
    beginning = " ".join(PROMPTS[:4])
    for draft, end in ((OFF, " Save the page."), (Draft(3), " Print it.")):
        trio.forget()
        fresh = generate(trio, beginning + end, draft, WEIGHTS[2])
        assert fresh.n_kept == 0
        generate(trio, beginning + " Close the window.", draft, WEIGHTS[2])
        kept = generate(trio, beginning + end, draft, WEIGHTS[2])
        assert kept.token_ids == fresh.token_ids
        assert kept.n_kept > 20
