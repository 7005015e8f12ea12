"""Which models llama.cpp lays out anew: of any part's types, and by what this CPU can."""

from __future__ import annotations

from pathlib import Path

import llama_cpp
import pytest
from gguf import GGUFReader
from quantize.parts import split
from tiny_models import Shape, random_tensors, write_gguf

from trimix_edge import ContextParams, FusionWeights, Role, TriMix
from trimix_edge.gguf import check_header
from trimix_edge.llama.backend import is_repacked, reads_faster_plain
from trimix_edge.llama.model import LlamaModel
from trimix_edge.llama.quantize import quantize

Q4_0, Q2_K, Q4_K, Q6_K, Q8_0, IQ4_NL, MXFP4 = 2, 10, 12, 14, 8, 20, 39
REPACKED_BY = {
    "AVX2 = 1 | REPACK = 1": {Q4_0, Q4_K, IQ4_NL, MXFP4},
    "AVX2 = 1 | AVX512 = 1 | REPACK = 1": {Q4_0, Q2_K, Q4_K, IQ4_NL, MXFP4},
    "SSE3 = 1 | AVX = 1 | REPACK = 1": set(),
    "AVX2 = 1": set(),
    "NEON = 1 | REPACK = 1": set(),  # a Raspberry Pi 4
    "NEON = 1 | DOTPROD = 1 | REPACK = 1": {Q4_0, Q4_K, Q6_K, Q8_0, IQ4_NL, MXFP4},
}


@pytest.mark.parametrize("features", REPACKED_BY)
def test_a_cpu_repacks_what_its_vector_units_have_a_kernel_for(
    features: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        llama_cpp, "llama_print_system_info", lambda: f"CPU : {features} | ".encode()
    )
    kinds = {0, 1, Q4_0, Q2_K, Q4_K, Q6_K, Q8_0, IQ4_NL, MXFP4}
    assert {kind for kind in kinds if is_repacked({kind})} == REPACKED_BY[features]


def test_a_model_whose_later_part_is_repacked_is_read_not_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first part of norms and F32 alone says nothing about the second."""
    shape = Shape(hidden=256, layers=1, kv_heads=1, ffn=256)
    whole = write_gguf(tmp_path, "wide", shape, random_tensors(shape, seed=1))
    small = tmp_path / "small.gguf"
    quantize(whole, small, "Q4_0")
    tensors = GGUFReader(small).tensors
    n_first = next(i for i, t in enumerate(tensors) if t.tensor_type == Q4_0)
    first, _ = split(small, tmp_path, n_first)
    assert Q4_0 not in {t.tensor_type for t in GGUFReader(first).tensors}
    assert Q4_0 in check_header(first).types
    modes = []
    load = llama_cpp.llama_model_load_from_file

    def spy(path: bytes, params: llama_cpp.llama_model_params) -> object:
        modes.append(params.load_mode)
        return load(path, params)

    monkeypatch.setattr(llama_cpp, "llama_model_load_from_file", spy)
    with LlamaModel(first):
        pass
    repacked = is_repacked({Q4_0})
    expected = llama_cpp.LLAMA_LOAD_MODE_NONE if repacked else llama_cpp.LLAMA_LOAD_MODE_MMAP
    assert modes == [expected]


@pytest.mark.parametrize(
    ("features", "types", "plain"),
    [
        ("AVX2 = 1 | REPACK = 1", {0, Q4_K, Q6_K}, True),
        ("AVX2 = 1 | AVX512 = 1 | REPACK = 1", {Q2_K, Q4_K}, True),
        ("AVX2 = 1 | REPACK = 1", {Q4_0, Q4_K}, False),  # Q4_0 reads faster repacked
        ("AVX2 = 1 | REPACK = 1", {Q6_K, Q8_0}, False),  # nothing would be repacked
        ("AVX2 = 1 | AMX_INT8 = 1 | REPACK = 1", {Q4_K}, False),
        ("NEON = 1 | DOTPROD = 1 | REPACK = 1", {Q4_K}, False),
    ],
)
def test_only_k_quants_on_x86_read_faster_as_they_lie_in_the_file(
    features: str, types: set[int], plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        llama_cpp, "llama_print_system_info", lambda: f"CPU : {features} | ".encode()
    )
    assert reads_faster_plain(types) == plain


@pytest.mark.parametrize("reads", [False, True])
def test_a_trio_that_reads_leaves_k_quants_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reads: bool
) -> None:
    shape = Shape(hidden=256, layers=1, kv_heads=1, ffn=256)
    whole = write_gguf(tmp_path, "wide", shape, random_tensors(shape, seed=1))
    small = tmp_path / "small.gguf"
    quantize(whole, small, "Q4_K_M")
    used = []
    load = llama_cpp.llama_model_load_from_file

    def spy(path: bytes, params: llama_cpp.llama_model_params) -> object:
        if not params.vocab_only:
            used.append((params.use_extra_bufts, params.load_mode))
        return load(path, params)

    monkeypatch.setattr(llama_cpp, "llama_model_load_from_file", spy)
    context = ContextParams(n_ctx=64, n_threads=1, reads=reads)
    weights = FusionWeights.single(Role.LARGE_INS)
    with TriMix.load(models={Role.LARGE_INS: small}, weights=weights, context=context):
        pass
    types = check_header(small).types
    repack = not (reads and reads_faster_plain(types))
    is_read = repack and is_repacked(types)
    mode = llama_cpp.LLAMA_LOAD_MODE_NONE if is_read else llama_cpp.LLAMA_LOAD_MODE_MMAP
    assert used == [(repack, mode)]
