"""What the contexts hold is kept between prompts, and in files; it never changes what comes out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from quantize.parts import split
from tiny_models import GREEDY_TRIO

from trimix_edge import ContextParams, FusionWeights, Role, TriMix
from trimix_edge.errors import PromptCacheError, TargetError

CONTEXT = ContextParams(n_ctx=256, kv_type="f32", n_threads=1)
BEGINNING = " save the file and open the window of the page" * 6
PROMPTS = [BEGINNING + end for end in (" click", " close the name", "", " རྫོང་ཁ འདི་")]


def load(tiny: dict[Role, Path], context: ContextParams = CONTEXT) -> TriMix:
    return TriMix.load(GREEDY_TRIO, models=tiny, weights=FusionWeights(0.5, 0.8), context=context)


@pytest.fixture
def fresh(tiny: dict[Role, Path]) -> Iterator[TriMix]:
    with load(tiny) as trimix:
        yield trimix


@pytest.fixture(scope="module")
def expected(tiny: dict[Role, Path]) -> list[list[int]]:
    """Each prompt answered by models that have read nothing before."""
    answers = []
    for prompt in PROMPTS:
        with load(tiny) as trimix:
            answers.append(trimix.generate(prompt, max_tokens=12).token_ids)
    return answers


def test_a_shared_beginning_is_kept_and_changes_nothing(
    fresh: TriMix, expected: list[list[int]]
) -> None:
    kept = []
    for prompt, answer in zip(PROMPTS, expected, strict=True):
        result = fresh.generate(prompt, max_tokens=12)
        assert result.token_ids == answer
        kept.append((result.n_kept, len(result.prompt_token_ids)))
    assert kept[0][0] == 0
    assert all(n_kept > 50 for n_kept, _ in kept[1:])


def test_the_same_prompt_again_evaluates_its_last_token_only(fresh: TriMix) -> None:
    first = fresh.generate(PROMPTS[0], max_tokens=5)
    second = fresh.generate(PROMPTS[0], max_tokens=5)
    assert second.n_kept == len(second.prompt_token_ids) - 1
    assert second.token_ids == first.token_ids


def test_a_file_restores_the_state_in_another_process_or_object(
    fresh: TriMix, tiny: dict[Role, Path], tmp_path: Path, expected: list[list[int]]
) -> None:
    fresh.generate(PROMPTS[0], max_tokens=12)
    fresh.save_prompt_cache(tmp_path / "cache")
    for prompt, answer in zip(PROMPTS, expected, strict=True):
        with load(tiny) as other:
            other.load_prompt_cache(tmp_path / "cache")
            result = other.generate(prompt, max_tokens=12)
            assert result.token_ids == answer
            assert result.n_kept > 50


def test_a_file_holds_what_was_read_last_of_several_places(
    tiny: dict[Role, Path], tmp_path: Path
) -> None:
    path = tmp_path / "cache"
    with TriMix.load(GREEDY_TRIO, models=tiny, context=CONTEXT, n_parallel=3) as trimix:
        for prompt in ("first", "second and longer", PROMPTS[0]):
            trimix.generate(prompt, max_tokens=1)
        trimix.save_prompt_cache(path)
    for n_parallel in (1, 3):
        with TriMix.load(
            GREEDY_TRIO, models=tiny, context=CONTEXT, n_parallel=n_parallel
        ) as trimix:
            trimix.load_prompt_cache(path)
            result = trimix.generate(PROMPTS[0], max_tokens=1)
            assert result.n_kept == len(result.prompt_token_ids) - 1


@pytest.fixture(scope="module")
def cache(tiny: dict[Role, Path], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("cache") / "cache"
    with load(tiny) as trimix:
        trimix.generate(" save the file", max_tokens=3)
        trimix.save_prompt_cache(path)
    return path.read_bytes()


@settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_damage_anywhere_is_refused_and_leaves_the_contexts_alone(
    fresh: TriMix, cache: bytes, tmp_path: Path, data: st.DataObject
) -> None:
    fresh.generate(" the", max_tokens=2)
    held = {role: list(context.tokens[0]) for role, context in fresh.trio.contexts.items()}
    at = data.draw(st.integers(0, len(cache) - 1))
    kinds = [cache[:at], cache[:at] + bytes([cache[at] ^ 1]) + cache[at + 1 :], cache + b"x"]
    path = tmp_path / "damaged"
    path.write_bytes(data.draw(st.sampled_from(kinds)))
    with pytest.raises((PromptCacheError, TargetError)):
        fresh.load_prompt_cache(path)
    assert {role: list(c.tokens[0]) for role, c in fresh.trio.contexts.items()} == held


def test_a_file_of_other_models_is_refused(
    tiny: dict[Role, Path], tmp_path: Path, cache: bytes
) -> None:
    path = tmp_path / "cache"
    path.write_bytes(cache)
    swapped = {**tiny, Role.SMALL_CPT: tiny[Role.SMALL_BASE]}
    with load(swapped) as other, pytest.raises(PromptCacheError, match="of other models"):
        other.load_prompt_cache(path)
    f16 = ContextParams(n_ctx=256, n_threads=1)
    with load(tiny, f16) as other, pytest.raises(PromptCacheError, match="of other settings"):
        other.load_prompt_cache(path)


def test_a_file_longer_than_the_context_is_refused(
    fresh: TriMix, tiny: dict[Role, Path], tmp_path: Path
) -> None:
    fresh.generate(PROMPTS[0], max_tokens=2)
    fresh.save_prompt_cache(tmp_path / "cache")
    short = ContextParams(n_ctx=32, kv_type="f32", n_threads=1)
    with load(tiny, short) as other, pytest.raises(PromptCacheError, match="n_ctx"):
        other.load_prompt_cache(tmp_path / "cache")


def test_a_whole_file_with_a_state_that_llama_cpp_refuses_is_told(
    fresh: TriMix, cache: bytes, tmp_path: Path
) -> None:
    head, _, rest = cache.partition(b"\n")
    told = json.loads(head)
    entries = list(told["contexts"].values())
    entries[0]["n_bytes"] += 8
    entries[1]["n_bytes"] -= 8
    path = tmp_path / "forged"
    path.write_bytes(signed(json.dumps(told).encode() + b"\n" + rest[:-32]))
    with pytest.raises(PromptCacheError, match="refuses"):
        fresh.load_prompt_cache(path)
    assert fresh.generate(" the", max_tokens=2).token_ids


def signed(text: bytes) -> bytes:
    return text + hashlib.sha256(text).digest()


@pytest.mark.parametrize("n_bytes", [1.5, True, "8", -1, 10**18, 10**30])
def test_a_whole_file_with_an_impossible_length_is_refused(
    fresh: TriMix, cache: bytes, tmp_path: Path, n_bytes: object
) -> None:
    head, _, rest = cache.partition(b"\n")
    told = json.loads(head)
    next(iter(told["contexts"].values()))["n_bytes"] = n_bytes
    path = tmp_path / "forged"
    path.write_bytes(signed(json.dumps(told).encode() + b"\n" + rest[:-32]))
    with pytest.raises(PromptCacheError, match="is damaged"):
        fresh.load_prompt_cache(path)


def test_a_head_that_nests_without_end_is_refused(fresh: TriMix, tmp_path: Path) -> None:
    path = tmp_path / "nested"
    head = b'{"magic": "trimix-edge prompt cache 1", "identity": ' + b"[" * 200_000 + b"\n"
    path.write_bytes(signed(head))
    with pytest.raises(PromptCacheError, match="is no prompt cache"):
        fresh.load_prompt_cache(path)


def test_a_missing_file_and_one_that_cant_be_written_are_told(
    fresh: TriMix, tmp_path: Path
) -> None:
    with pytest.raises(PromptCacheError, match="No such file"):
        fresh.load_prompt_cache(tmp_path / "missing")
    fresh.generate(" the", max_tokens=2)
    with pytest.raises(TargetError):
        fresh.save_prompt_cache(tmp_path / "no folder" / "cache")


def test_a_file_of_a_model_whose_later_part_differs_is_refused(
    tiny: dict[Role, Path], tmp_path: Path
) -> None:
    firsts = []
    for name in ("one", "other"):
        folder = tmp_path / name
        folder.mkdir()
        first, second = split(tiny[Role.SMALL_CPT], folder)
        firsts.append(first)
    data = bytearray(second.read_bytes())
    data[-1] ^= 0x40  # of a weight
    second.write_bytes(data)
    assert firsts[0].read_bytes() == firsts[1].read_bytes()
    file = tmp_path / "cache"
    with load({**tiny, Role.SMALL_CPT: firsts[0]}) as trimix:
        trimix.generate(PROMPTS[0], max_tokens=2)
        trimix.save_prompt_cache(file)
        trimix.load_prompt_cache(file)
    with (
        load({**tiny, Role.SMALL_CPT: firsts[1]}) as trimix,
        pytest.raises(PromptCacheError, match="is of other models"),
    ):
        trimix.load_prompt_cache(file)
