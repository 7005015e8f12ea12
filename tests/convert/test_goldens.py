"""Converted checkpoints compute and tokenize what Hugging Face's libraries do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from trimix_convert import convert_checkpoint

EVERY = ["llama2", "llama3", "qwen2", "qwen3", "trio", "gemma3", "gemma3_multimodal"]


def assert_same_numbers(logits: Any, golden: Any) -> None:
    assert logits.shape == golden.shape
    assert np.abs(logits - golden).max() <= 1e-3 * golden.std()
    np.testing.assert_array_equal(logits.argmax(axis=1), golden.argmax(axis=1))


def assert_same_ids(witness: Any, truth: dict[str, Any], lines: list[str]) -> None:
    expected = np.split(truth["line_ids"], truth["line_ends"][:-1])
    wrong = [
        (line, witness.tokenize(line), ids.tolist())
        for line, ids in zip(lines, expected, strict=True)
        if witness.tokenize(line) != ids.tolist()
    ]
    assert not wrong, f"{len(wrong)} of {len(lines)} lines differ, the first: {wrong[0]}"


@pytest.mark.parametrize("name", EVERY)
def test_logits_equal_transformers(
    name: str, checkpoint: Callable[..., Path], golden: Any, load: Any, tmp_path: Path
) -> None:
    target = tmp_path / "model.gguf"
    convert_checkpoint(checkpoint(name), target, outtype="f32")
    truth = golden(name)
    assert_same_numbers(load(target).logits(truth["input_ids"]), truth["logits"])


@pytest.mark.parametrize("name", EVERY)
def test_token_ids_equal_hugging_face(
    name: str, checkpoint: Any, golden: Any, load: Any, lines: list[str], tmp_path: Path
) -> None:
    target = tmp_path / "model.gguf"
    convert_checkpoint(checkpoint(name), target)
    assert_same_ids(load(target), golden(name), lines)


@pytest.mark.parametrize("absent", ["tokenizer.model", "tokenizer.json"])
@pytest.mark.parametrize("name", ["llama2", "gemma3"])
def test_either_sentencepiece_file_is_enough(
    name: str,
    absent: str,
    checkpoint: Any,
    golden: Any,
    load: Any,
    lines: list[str],
    tmp_path: Path,
) -> None:
    folder = checkpoint(name)
    (folder / absent).unlink()
    target = tmp_path / "model.gguf"
    convert_checkpoint(folder, target)
    assert_same_ids(load(target), golden(name), lines)


def test_newer_names_of_the_multimodal_class(
    checkpoint: Any, golden: Any, load: Any, tmp_path: Path
) -> None:
    folder = checkpoint("gemma3_multimodal")
    path = folder / "model.safetensors"
    bits = path.read_bytes()
    size = int.from_bytes(bits[:8], "little")
    header = bits[8 : 8 + size].replace(b'"language_model.model.', b'"model.language_model.')
    assert header != bits[8 : 8 + size]
    path.write_bytes(bits[:8] + header + bits[8 + size :])
    target = tmp_path / "model.gguf"
    convert_checkpoint(folder, target, outtype="f32")
    truth = golden("gemma3_multimodal")
    assert_same_numbers(load(target).logits(truth["input_ids"]), truth["logits"])


def test_vision_part_is_left_out_and_said(checkpoint: Any, tmp_path: Path) -> None:
    report = convert_checkpoint(checkpoint("gemma3_multimodal"), tmp_path / "model.gguf")
    assert any("vision tower" in note for note in report.notes)
    assert report.architecture == "gemma3"


def test_tied_head_is_left_out_and_said(
    checkpoint: Any, golden: Any, load: Any, tmp_path: Path
) -> None:
    folder = checkpoint("trio")
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].copy()
    save_file(weights, folder / "model.safetensors")
    target = tmp_path / "model.gguf"
    report = convert_checkpoint(folder, target, outtype="f32")
    assert any("lm_head" in note for note in report.notes)
    truth = golden("trio")
    assert_same_numbers(load(target).logits(truth["input_ids"]), truth["logits"])


def test_older_spelling_of_rope_parameters(
    checkpoint: Any, golden: Any, load: Any, tmp_path: Path
) -> None:
    folder = checkpoint("llama3")
    path = folder / "config.json"
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = rope
    path.write_text(json.dumps(config))
    target = tmp_path / "model.gguf"
    convert_checkpoint(folder, target, outtype="f32")
    truth = golden("llama3")
    assert_same_numbers(load(target).logits(truth["input_ids"]), truth["logits"])
