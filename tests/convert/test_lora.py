"""A LoRA adapter in llama.cpp computes what the merged checkpoint computes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load_file, save_file
from trimix_convert import CheckpointError, TargetError, convert_adapter, convert_checkpoint

MODULES = ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")


def make_adapter(folder: Path, base: Path, **settings: Any) -> dict[str, npt.NDArray[Any]]:
    """A PEFT adapter of random matrices, and the weights that merging it would give."""
    folder.mkdir()
    rng = np.random.default_rng(3)
    weights = load_file(base / "model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 6, "bias": "none", **settings}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    matrices: dict[str, npt.NDArray[np.float32]] = {}
    for module in MODULES:
        name = f"model.layers.0.{module}"
        n_out, n_in = weights[f"{name}.weight"].shape
        short = module.split(".")[1]
        rank = config.get("rank_pattern", {}).get(short, config["r"])
        alpha = config.get("alpha_pattern", {}).get(short, config["lora_alpha"])
        scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
        a = rng.standard_normal((rank, n_in)).astype(np.float32) * np.float32(0.1)
        b = rng.standard_normal((n_out, rank)).astype(np.float32) * np.float32(0.1)
        matrices[f"base_model.model.{name}.lora_A.weight"] = a
        matrices[f"base_model.model.{name}.lora_B.weight"] = b
        weights[f"{name}.weight"] += np.float32(scale) * (b @ a)
    save_file(matrices, folder / "adapter_model.safetensors")
    return weights


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {"down_proj": 12, "v_proj": 1}},
        {"use_rslora": True, "rank_pattern": {"q_proj": 2}},
        {"alpha_pattern": {"q_proj": 0}},
        {"lora_alpha": 0, "alpha_pattern": {"down_proj": 16}},
    ],
)
@pytest.mark.parametrize("name", ["trio", "qwen3"])
def test_adapter_equals_merging(
    name: str, settings: dict[str, Any], checkpoint: Any, golden: Any, load: Any, tmp_path: Path
) -> None:
    base = checkpoint(name)
    merged = make_adapter(tmp_path / "peft", base, **settings)
    convert_checkpoint(base, tmp_path / "base.gguf", outtype="f32")
    report = convert_adapter(tmp_path / "peft", tmp_path / "adapter.gguf", base=base)
    save_file(merged, base / "model.safetensors")
    convert_checkpoint(base, tmp_path / "merged.gguf", outtype="f32")

    ids = golden(name)["input_ids"]
    plain = load(tmp_path / "base.gguf").logits(ids)
    adapted = load(tmp_path / "base.gguf", tmp_path / "adapter.gguf").logits(ids)
    expected = load(tmp_path / "merged.gguf").logits(ids)
    assert report.n_tensors == 2 * len(MODULES)
    assert np.abs(expected - plain).max() > 0.1 * expected.std()
    assert np.abs(adapted - expected).max() <= 1e-3 * expected.std()


@pytest.mark.parametrize("outtype", ["f32", "f16", "q8_0"])
@pytest.mark.parametrize(
    "settings",
    [
        {"lora_alpha": 0},
        {"lora_alpha": 0.0, "use_rslora": True},
        {"lora_alpha": 1e-60},
        {"alpha_pattern": {"q_proj": 0, "v_proj": 0, "down_proj": 0}},
    ],
)
def test_a_scale_of_zero_changes_nothing(
    settings: dict[str, Any], outtype: str, checkpoint: Any, golden: Any, load: Any, tmp_path: Path
) -> None:
    base = checkpoint("trio")
    make_adapter(tmp_path / "peft", base, **settings)
    convert_checkpoint(base, tmp_path / "base.gguf", outtype="f32")
    convert_adapter(tmp_path / "peft", tmp_path / "adapter.gguf", base=base, outtype=outtype)
    ids = golden("trio")["input_ids"]
    plain = load(tmp_path / "base.gguf").logits(ids)
    adapted = load(tmp_path / "base.gguf", tmp_path / "adapter.gguf").logits(ids)
    np.testing.assert_array_equal(adapted, plain)


@pytest.mark.parametrize(
    "start",
    ["pissa", "pissa_niter_16", "PiSSA", "corda", "olora", "OLoRA", "loftq", "lora_ga", "new", 3],
)
def test_an_adapter_of_an_altered_base_is_refused_by_name(
    start: Any, checkpoint: Any, tmp_path: Path
) -> None:
    base = checkpoint("trio")
    make_adapter(tmp_path / "peft", base, init_lora_weights=start)
    with pytest.raises(CheckpointError, match=rf"'{start}'.*the base model's weights") as caught:
        convert_adapter(tmp_path / "peft", tmp_path / "a.gguf", base=base)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "a.gguf").exists()


@pytest.mark.parametrize("start", [True, False, None, "gaussian", "orthogonal", "eva", "mica"])
def test_an_adapter_that_left_its_base_alone_converts(
    start: Any, checkpoint: Any, tmp_path: Path
) -> None:
    base = checkpoint("trio")
    make_adapter(tmp_path / "peft", base, init_lora_weights=start)
    convert_adapter(tmp_path / "peft", tmp_path / "a.gguf", base=base)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"use_qalora": True}, "use_qalora"),
        ({"use_bdlora": {"nblocks": 2}}, "use_bdlora"),
        ({"kasa_config": {"beta": 1}}, "kasa_config"),
        ({"alora_invocation_tokens": [5]}, "alora_invocation_tokens"),
        ({"layer_replication": [[0, 1], [0, 1]]}, "layer_replication"),
        ({"peft_type": "IA3"}, "IA3"),
        ({"modules_to_save": ["embed_tokens"]}, "merge"),
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "biases"),
        ({"r": "four"}, "'r'"),
        ({"rank_pattern": {"(a+)+$": 2}}, "pattern"),
        ({"r": 5}, "rank 5"),
    ],
)
def test_what_is_not_plain_lora_is_refused(
    settings: dict[str, Any], word: str, checkpoint: Any, tmp_path: Path
) -> None:
    base = checkpoint("trio")
    make_adapter(tmp_path / "peft", base)
    path = tmp_path / "peft" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    with pytest.raises(CheckpointError, match=word.replace("'", ".")):
        convert_adapter(tmp_path / "peft", tmp_path / "a.gguf", base=base)
    assert not (tmp_path / "a.gguf").exists()


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("base_model.model.model.embed_tokens.lora_embedding_A", "no LoRA matrix"),
        ("base_model.model.lm_head.lora_A.weight", "has only"),
        ("base_model.model.model.layers.0.input_layernorm.lora_A.weight", "has only"),
    ],
)
def test_matrices_llama_cpp_has_no_place_for(
    name: str, word: str, checkpoint: Any, tmp_path: Path
) -> None:
    base = checkpoint("trio")
    make_adapter(tmp_path / "peft", base)
    path = tmp_path / "peft" / "adapter_model.safetensors"
    save_file({**load_file(path), name: np.zeros((4, 32), np.float32)}, path)
    with pytest.raises(CheckpointError, match=word):
        convert_adapter(tmp_path / "peft", tmp_path / "a.gguf", base=base)


def test_adapted_norm_is_refused(checkpoint: Any, tmp_path: Path) -> None:
    base = checkpoint("trio")
    make_adapter(tmp_path / "peft", base)
    path = tmp_path / "peft" / "adapter_model.safetensors"
    stem = "base_model.model.model.layers.0.input_layernorm.lora_"
    zeros = np.zeros((4, 4), np.float32)
    save_file({f"{stem}A.weight": zeros, f"{stem}B.weight": zeros}, path)
    with pytest.raises(CheckpointError, match="merge it"):
        convert_adapter(tmp_path / "peft", tmp_path / "a.gguf", base=base)


def test_adapter_of_another_model_is_refused(checkpoint: Any, tmp_path: Path) -> None:
    base, other = checkpoint("trio"), checkpoint("qwen3")
    make_adapter(tmp_path / "peft", base)
    with pytest.raises(CheckpointError, match="calls for"):
        convert_adapter(tmp_path / "peft", tmp_path / "a.gguf", base=other)


def test_no_adapter_in_the_folder(checkpoint: Any, tmp_path: Path) -> None:
    base = checkpoint("trio")
    with pytest.raises(CheckpointError, match=r"adapter_config\.json"):
        convert_adapter(base, tmp_path / "a.gguf", base=base)
    make_adapter(tmp_path / "peft", base)
    (tmp_path / "peft" / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors"):
        convert_adapter(tmp_path / "peft", tmp_path / "a.gguf", base=base)


def test_existing_adapter_is_kept(checkpoint: Any, tmp_path: Path) -> None:
    base = checkpoint("trio")
    make_adapter(tmp_path / "peft", base)
    (tmp_path / "a.gguf").write_bytes(b"precious")
    with pytest.raises(TargetError, match="exists"):
        convert_adapter(tmp_path / "peft", tmp_path / "a.gguf", base=base, overwrite=False)
    assert (tmp_path / "a.gguf").read_bytes() == b"precious"
