"""The presets say what the paper and llama.cpp say."""

from __future__ import annotations

import json
import logging
import os
import re
from dataclasses import replace
from pathlib import Path

import llama_cpp
import pytest
from hub.preset_sizes import write_hollow

from trimix_edge import FusionWeights, Role
from trimix_edge.cli import run
from trimix_edge.errors import Notice, UsageError
from trimix_edge.gguf import ModelShape, read_gguf
from trimix_edge.hub import find_preset, presets, presets_for
from trimix_edge.hub.presets import presets_content
from trimix_edge.hub.trio_file import trio_toml
from trimix_edge.llama import backend
from trimix_edge.llama.quantize import quantized_bytes
from trimix_edge.planning.memory import compute_bytes
from trimix_edge.scripts import check_script
from trimix_edge.trios.manifest import TrioManifest

SHAPES = presets_content()["shapes"]
TASKS = {
    "response_selection", "reading_comprehension", "text_classification", "title_generation",
    "math", "translation_to_en", "translation_from_en",
}  # fmt: skip


def test_every_pair_of_the_published_checkpoints_is_there() -> None:
    names = set(presets())
    for pair in ("1.5b-3b", "1.5b-7b", "1.5b-14b", "3b-7b", "3b-14b"):
        assert {f"qwen2.5-{pair}-{language}" for language in ("bo", "kk", "mn", "ug")} <= names
    assert {f"gemma-3-4b-12b-{language}" for language in ("bo", "kk", "mn", "ug")} <= names
    llama = ("bn", "bo", "mn", "or", "ta", "te", "ug")
    assert {f"llama-2-7b-13b-{language}" for language in llama} <= names
    assert len(names) == 31


def test_the_published_weights() -> None:
    """56 settings, 32 of them (0.1, 0.9), as the paper's authors published them."""
    published = [p.task_weights for p in presets().values() if p.task_weights]
    assert [set(weights) for weights in published] == [TASKS] * 8
    pairs = [pair for weights in published for pair in weights.values()]
    assert len(pairs) == 56
    assert pairs.count(FusionWeights(0.1, 0.9)) == 32
    preset = presets()["qwen2.5-3b-14b-ug"]
    assert preset.task_weights["translation_from_en"] == FusionWeights(0.3, 1.0)
    assert preset.weights == FusionWeights(0.1, 1.0)
    assert presets()["gemma-3-4b-12b-bo"].weights == FusionWeights(0.1, 0.9)


def test_the_models_of_a_trio_fit_together() -> None:
    for preset in presets().values():
        models = preset.models
        assert models[Role.SMALL_CPT].shape == models[Role.SMALL_BASE].shape
        assert models[Role.LARGE_INS].n_bytes("Q4_K_M") > models[Role.SMALL_CPT].n_bytes("Q4_K_M")
        assert preset.prompt_language == "en"
        assert check_script(preset.script) == preset.script
        assert all(model.license for model in models.values())
        assert preset.memory("Q4_K_M") > preset.n_bytes("Q4_K_M")


@pytest.mark.parametrize("name", ["qwen2.5-1.5b", "gemma-3-4b"])
@pytest.mark.parametrize("quantization", ["Q4_K_M", "Q8_0"])
def test_sizes_are_those_of_llama_cpp(name: str, quantization: str, tmp_path: Path) -> None:
    hollow = write_hollow(tmp_path / "hollow.gguf", name, SHAPES[name])
    listed = presets_content()["sizes"][quantization][name]
    assert round(quantized_bytes(hollow, quantization) / 1e6) == listed


@pytest.mark.parametrize("name", ["qwen2.5-1.5b", "gemma-3-4b", "llama-2-7b"])
def test_memory_is_what_llama_cpp_reserves(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    backend.init_backend()
    llama_cpp.llama_log_set(backend._on_log, None)  # other tests may have taken it
    caplog.set_level(logging.DEBUG, "trimix_edge.llama")
    hollow = write_hollow(tmp_path / "hollow.gguf", name, {**SHAPES[name], "n_layer": 2})
    shape = ModelShape.of(read_gguf(hollow))
    assert shape is not None
    shape = replace(shape, n_vocab=SHAPES[name]["n_vocab"])
    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = 0
    model = llama_cpp.llama_model_load_from_file(os.fsencode(hollow), params)
    assert model
    settings = llama_cpp.llama_context_default_params()
    settings.n_ctx, settings.n_batch, settings.n_ubatch = 2048, 512, 512
    settings.n_seq_max, settings.n_outputs_max, settings.swa_full = 1, 32, True
    context = llama_cpp.llama_init_from_model(model, settings)
    assert context
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)

    def reserved(what: str) -> float:
        sizes = re.findall(rf"CPU {what} buffer size = +([\d.]+) MiB", caplog.text)
        return sum(float(mib) for mib in sizes) * (1 << 20)

    copied_out = 32 * shape.n_vocab * 4
    assert shape.kv_bytes(2048) == reserved("KV")
    assert compute_bytes(shape) - copied_out == pytest.approx(reserved("compute"), rel=0.08)


def test_the_list_and_its_json(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["presets", "--language", "bo"]) == 0
    table = capfd.readouterr().out
    assert "qwen2.5-1.5b-7b-bo" in table
    assert "6.6 GB" in table
    assert run(["presets", "--json", "--ctx", "1024"]) == 0
    listed = {preset["name"]: preset for preset in json.loads(capfd.readouterr().out)}
    assert len(listed) == 31
    assert listed["qwen2.5-1.5b-7b-bo"]["task_weights"]["math"] == [0.1, 0.9]
    assert listed["llama-2-7b-13b-ta"]["models"]["small_cpt"]["needs_pytorch"]
    assert listed["gemma-3-4b-12b-bo"]["models"]["large_ins"]["gated"]
    bo = listed["qwen2.5-1.5b-7b-bo"]
    assert bo["weights"] == [0.1, 0.9]
    assert bo["memory"] - bo["memory_with_default_weights"] > bo["models"]["small_base"]["n_bytes"]
    assert run(["presets", "--language", "xx"]) == 2
    assert "there are bn (Bengali), bo (Tibetan), kk" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("tibetan", "bo"),
        ("Tibetan", "bo"),
        (" bo ", "bo"),
        ("Kazakh", "kk"),
        ("kazakh (arabic script)", "kk"),
        ("MONGOLIAN", "mn"),
    ],
)
def test_languages_have_names(said: str, code: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert {preset.language for preset in presets_for(said)} == {code}
    assert run(["presets", "--json", "--language", said]) == 0
    told = json.loads(capfd.readouterr().out)
    assert [p["name"] for p in told] == [n for n, p in presets().items() if p.language == code]


def test_a_language_is_its_smallest_preset_that_anyone_can_pull() -> None:
    with pytest.warns(Notice, match="tibetan: qwen2.5-1.5b-3b-bo, the smallest of 7"):
        assert find_preset("tibetan").name == "qwen2.5-1.5b-3b-bo"
    with pytest.warns(Notice, match="tamil: llama-2-7b-13b-ta; "):
        assert find_preset("tamil").name == "llama-2-7b-13b-ta"
    with pytest.raises(UsageError, match="no preset is called 'klingon'"):
        find_preset("klingon")


def test_a_manifest_says_which_normal_form_its_tokenizer_wants(tmp_path: Path) -> None:
    """Files that others have made ready do not know it; those converted here do."""
    names = {role: f"{role}.gguf" for role in Role}
    preset = presets()["qwen2.5-1.5b-7b-bo"]
    for normalizer in ("NFC", None):
        path = tmp_path / "trio.toml"
        path.write_text(trio_toml(preset, "Q8_0", names, normalizer), encoding="utf-8")
        assert TrioManifest.read(path).normalizer == normalizer
