"""A plan is arithmetic on sizes and measured speeds: it agrees with files, and with what others
have published of their machines."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimix_edge.errors import UsageError
from trimix_edge.gguf import ModelShape
from trimix_edge.hub import presets
from trimix_edge.measure.synthetic import SyntheticModel
from trimix_edge.planning.machine import TYPES, Machine, TypeSpeed, find_profile
from trimix_edge.planning.plan import (
    ENOUGH,
    GPU_SHARE,
    KV_TYPES,
    PROCESS_BYTES,
    SYSTEM_BYTES,
    Target,
    make_plan,
    memory_need,
    parse_memory,
    prompt_seconds,
    token_seconds,
)
from trimix_edge.planning.weights import ModelWeights, of_sizes, weight_bytes

# Shapes as their makers published them, sizes of their files as the Hub shows them.
LLAMA_3B = of_sizes(
    ModelShape(28, 3072, 8192, 24, 28 * 8 * 2 * 128, 128256),
    "Q4_K_M", 2_012_000_000, 6_425_000_000, is_tied=True,
)  # fmt: skip
LLAMA_8B = of_sizes(
    ModelShape(32, 4096, 14336, 32, 32 * 8 * 2 * 128, 128256),
    "Q4_K_M", 4_913_000_000, 16_060_000_000, is_tied=False,
)  # fmt: skip


@pytest.mark.parametrize(
    ("machine", "model", "low", "high"),
    [
        ("pi5-8gb", LLAMA_3B, 4.5, 4.9),
        ("pi5-8gb", LLAMA_8B, 1.87, 2.17),
        ("laptop-ddr4", LLAMA_8B, 6.86, 6.86),
        ("laptop-2017", LLAMA_8B, 4.42, 4.42),
    ],
)
def test_a_profile_predicts_what_was_published_of_it(
    machine: str, model: ModelWeights, low: float, high: float
) -> None:
    speed = 1 / token_seconds(model, find_profile(machine))
    assert 0.85 * low <= speed <= 1.15 * high


@pytest.mark.parametrize(("machine", "published"), [("laptop-ddr4", 25.52), ("laptop-2017", 13.07)])
def test_a_profile_predicts_the_published_speed_of_prompts(machine: str, published: float) -> None:
    speed = 1 / prompt_seconds(LLAMA_8B, find_profile(machine))
    assert speed == pytest.approx(published, rel=0.25)


@pytest.mark.parametrize("quantization", ["F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M"])
@pytest.mark.parametrize("shape", ["qwen2.5-1.5b", "qwen2.5-7b", "gemma-3-4b", "llama-2-13b"])
def test_sizes_alone_tell_what_of_a_model_is_of_which_type(shape: str, quantization: str) -> None:
    sizes = {q: SyntheticModel(shape, q).n_bytes for q in ("F16", quantization)}
    wanted = SyntheticModel(shape, "F16").shape
    models = [model for preset in presets().values() for model in preset.models.values()]
    sides = wanted["n_layer"], wanted["n_embd"]
    preset = next(m for m in models if (m.shape.n_layer, m.shape.n_embd) == sides)
    found = of_sizes(
        preset.shape, quantization, sizes[quantization], sizes["F16"], is_tied=preset.is_tied
    )
    exact = Counter[str]()
    for name, dims, kind in SyntheticModel(shape, quantization)._tensors():
        is_read = name != "token_embd.weight" or preset.is_tied
        if len(dims) == 2 and is_read:
            exact[kind.name] += dims[0] * dims[1]
    both = Counter(found.layers)
    both.update(found.output)
    for kind in exact | both:
        assert both[kind] == pytest.approx(exact[kind], rel=0.02, abs=1e6), kind


SHAPE = ModelShape(n_layer=10, n_embd=1000, n_ff=3000, n_head=8, kv_width=4000, n_vocab=5000)


def test_a_token_reads_each_weight_once_at_the_speed_of_its_type() -> None:
    model = ModelWeights(SHAPE, {"Q4_K": 600, "Q6_K": 300}, {"Q8_0": 100}, 1000, 1000)
    machine = Machine(
        "m",
        10**9,
        {"Q4_K": TypeSpeed(100, 900), "Q6_K": TypeSpeed(50, 300), "Q8_0": TypeSpeed(20, 1)},
        layer_seconds=0.5,
        bytes_per_second=4000 * 2 * 128,
    )
    assert token_seconds(model, machine) == pytest.approx(6 + 6 + 5 + 10 * 0.5 + 1)
    assert prompt_seconds(model, machine) == pytest.approx(
        (1 - 90 / 900) * (600 / 900 + 1) + (5 + 5) / 128
    ), "the last layer's feed-forward part is left out"


def target(sizes: dict[str, int]) -> Target:
    """A model of one layer type for each name, with that many weights."""
    return Target(
        "t",
        {
            name: {"one": ModelWeights(SHAPE, {"Q4_K": n}, {"Q4_K": 1}, int(n * 0.5625), n)}
            for name, n in sizes.items()
        },
        ("one",),
    )


MACHINE = Machine("m", 10**12, {kind: TypeSpeed(1e10, 1e11) for kind in TYPES})


@given(memory=st.integers(10**8, 10**11), kv=st.sampled_from([None, "f16", "q4_0"]))
def test_what_is_recommended_fits(memory: int, kv: str | None) -> None:
    plan = make_plan(
        target({"Q8_0": 10**10, "Q4_K_M": 5 * 10**9, "Q2_K": 10**9}),
        MACHINE,
        n_ctx=4096,
        memory=memory,
        kv_types=KV_TYPES if kv is None else [kv],
    )
    for row in plan.rows:
        assert row.fits == (row.memory + SYSTEM_BYTES <= memory)
    fitting = [row for row in plan.rows if row.fits]
    if plan.recommended is None:
        assert not fitting
    else:
        best = plan.rows[plan.recommended]
        assert best in fitting
        if best.quantization == "Q2_K":
            assert {row.quantization for row in fitting} == {"Q2_K"}


def test_the_largest_that_is_fast_enough_is_recommended_else_the_fastest() -> None:
    weights_for = int(1e10 / ENOUGH)
    sizes = {"Q8_0": 3 * weights_for, "Q5_K_M": weights_for // 2, "Q4_K_M": weights_for // 4}
    assert make_plan(target(sizes), MACHINE, n_ctx=64, kv_types=["f16"]).recommended == 1
    slow = {name: 100 * n for name, n in sizes.items()}
    assert make_plan(target(slow), MACHINE, n_ctx=64, kv_types=["f16"]).recommended == 2


def test_each_sequence_has_a_context_of_its_own_in_memory() -> None:
    models = [LLAMA_8B]
    one, eight = (memory_need(models, 4096 * n) for n in (1, 8))
    assert eight - one == 7 * 4096 * LLAMA_8B.shape.kv_width * 2
    assert one > LLAMA_8B.n_bytes + PROCESS_BYTES


def test_a_smaller_kv_cache_is_recommended_where_f16_does_not_fit() -> None:
    need = memory_need([LLAMA_8B], 32768)
    one = Target("t", {"Q4_K_M": {"one": LLAMA_8B}}, ("one",))
    for memory, best in ((need + SYSTEM_BYTES, 0), (need + SYSTEM_BYTES - 1, 1)):
        plan = make_plan(one, MACHINE, n_ctx=32768, memory=memory)
        assert [row.kv_type for row in plan.rows] == ["f16", "q8_0"]
        assert plan.recommended == best


def test_sequences_at_once_take_their_contexts_and_share_the_reading_of_the_weights() -> None:
    one = Target("t", {"Q4_K_M": {"one": LLAMA_8B}}, ("one",))
    alone, eight = (make_plan(one, MACHINE, n_ctx=512, n_parallel=n).rows[0] for n in (1, 8))
    assert alone.total == pytest.approx(alone.fused.generation)
    assert 2 * alone.total < eight.total <= 8 * alone.total
    assert eight.memory - alone.memory == 7 * LLAMA_8B.shape.kv_bytes(512)
    assert eight.fused == alone.fused


def test_models_that_fit_into_a_gpu_take_its_memory_and_not_the_machines() -> None:
    one = Target("t", {"Q4_K_M": {"one": LLAMA_8B}}, ("one",))
    card = replace(MACHINE, gpu_memory=8 * 10**9, memory=2 * 10**9)
    on_gpu = make_plan(one, card, n_ctx=4096).rows[0]
    assert on_gpu.fits
    assert on_gpu.memory == PROCESS_BYTES
    assert on_gpu.gpu_memory is not None
    assert LLAMA_8B.n_bytes < on_gpu.gpu_memory < 8 * 10**9 * GPU_SHARE
    small = make_plan(one, replace(card, gpu_memory=4 * 10**9), n_ctx=4096).rows[0]
    assert (small.fits, small.gpu_memory) == (False, None)
    assert small.memory == memory_need([LLAMA_8B], 4096)


def test_drafting_is_predicted_for_models_that_work_together() -> None:
    both = {"large": LLAMA_8B, "small": LLAMA_3B}
    row = make_plan(Target("t", {"Q4_K_M": both}, tuple(both)), MACHINE, n_ctx=512).rows[0]
    alone = make_plan(Target("t", {"Q4_K_M": both}, ("large",)), MACHINE, n_ctx=512).rows[0]
    assert row.drafting is not None
    assert alone.drafting is None
    assert row.fused.generation < min(speed.generation for speed in row.alone.values())


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [("8GB", 8 * 10**9), ("7.5 GiB", int(7.5 * 2**30)), ("900m", 9 * 10**8), ("2T", 2 * 10**12)],
)
def test_sizes_of_memory_are_read(text: str, n_bytes: int) -> None:
    assert parse_memory(text) == n_bytes


@pytest.mark.parametrize("text", ["", "8", "GB", "-8GB", "1e9GB", "9" * 40 + "GB", "8XB", "0GB"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="as in 8GB"):
        parse_memory(text)


def test_bits_of_a_type_are_ggmls() -> None:
    assert (weight_bytes("Q4_K"), weight_bytes("F16")) == (144 / 256, 2.0)
