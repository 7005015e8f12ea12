"""Damaged and hostile checkpoints end in one clear line, and never in half a file."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from trimix_convert import (
    CheckpointError,
    TokenizerError,
    UnknownArchitectureError,
    convert_checkpoint,
)

Change = Callable[[Path], None]


def edit(name: str, **changes: Any) -> Change:
    """Change keys of a JSON file; None removes one."""

    def change(folder: Path) -> None:
        content = {**json.loads((folder / name).read_text("utf-8")), **changes}
        kept = {key: value for key, value in content.items() if value is not None}
        (folder / name).write_text(json.dumps(kept), "utf-8")

    return change


def both(first: Change, second: Change) -> Change:
    def change(folder: Path) -> None:
        first(folder)
        second(folder)

    return change


def write(name: str, data: bytes) -> Change:
    def change(folder: Path) -> None:
        (folder / name).write_bytes(data)

    return change


def remove(name: str) -> Change:
    return lambda folder: (folder / name).unlink()


def tensors(change: Callable[[dict[str, Any]], Any]) -> Change:
    """Change the weights of the float32 checkpoint."""

    def apply(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors")

    return apply


def header(change: Callable[[dict[str, Any]], Any]) -> Change:
    """Change the header of a safetensors file and leave its data alone."""

    def apply(folder: Path) -> None:
        path = folder / "model.safetensors"
        data = path.read_bytes()
        size = int.from_bytes(data[:8], "little")
        entries = json.loads(data[8 : 8 + size])
        change(entries)
        text = json.dumps(entries).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])

    return apply


def cut(n: int) -> Change:
    """Cut bytes off the end of the weights."""

    def apply(folder: Path) -> None:
        path = folder / "model.safetensors"
        os.truncate(path, path.stat().st_size - n)

    return apply


NORM = "model.norm.weight"
EMBEDDING = "model.embed_tokens.weight"

# Every change to the float32 checkpoint "trio", the error it must cause, words of its message.
BROKEN: dict[str, tuple[Change, type[Exception], tuple[str, ...]]] = {
    "no config": (remove("config.json"), CheckpointError, ("config.json",)),
    "config no JSON": (write("config.json", b"{not"), CheckpointError, ("config.json", "JSON")),
    "config nested too deep": (
        write("config.json", b"[" * 200_000),
        CheckpointError,
        ("config.json",),
    ),
    "config a list": (write("config.json", b"[]"), CheckpointError, ("object",)),
    "config not UTF-8": (write("config.json", b'{"a": "\xff"}'), CheckpointError, ("UTF-8",)),
    "no architecture": (
        edit("config.json", architectures=None),
        UnknownArchitectureError,
        ("architectures",),
    ),
    "unknown architecture": (
        edit("config.json", architectures=["MambaForCausalLM"]),
        UnknownArchitectureError,
        ("Mamba", "LlamaForCausalLM", "Gemma3ForConditionalGeneration", "Qwen3ForCausalLM"),
    ),
    "no width": (edit("config.json", hidden_size=None), CheckpointError, ("'hidden_size'",)),
    "width a word": (edit("config.json", hidden_size="32"), CheckpointError, ("hidden_size",)),
    "negative layers": (
        edit("config.json", num_hidden_layers=-1),
        CheckpointError,
        ("num_hidden_layers",),
    ),
    "a million layers": (
        edit("config.json", num_hidden_layers=1_000_000),
        CheckpointError,
        ("layers",),
    ),
    "heads that do not divide": (
        edit("config.json", num_key_value_heads=3),
        CheckpointError,
        ("heads",),
    ),
    "another activation": (edit("config.json", hidden_act="relu"), CheckpointError, ("relu",)),
    "unknown rope": (
        edit("config.json", rope_parameters={"rope_type": "spiral", "rope_theta": 1.0}),
        CheckpointError,
        ("spiral",),
    ),
    "quantised already": (
        edit("config.json", quantization_config={"quant_method": "gptq"}),
        CheckpointError,
        ("quantised",),
    ),
    "no weights": (remove("model.safetensors"), CheckpointError, ("no weights", "safetensors")),
    "empty weights": (write("model.safetensors", b""), CheckpointError, ("truncated",)),
    "header longer than the file": (
        write("model.safetensors", struct.pack("<Q", 1 << 60) + b"{}"),
        CheckpointError,
        ("header",),
    ),
    "header no JSON": (
        write("model.safetensors", struct.pack("<Q", 4) + b"\x80abc"),
        CheckpointError,
        ("JSON",),
    ),
    "truncated weights": (cut(100), CheckpointError, ("truncated", "model.safetensors")),
    "entry without offsets": (
        header(lambda h: h[NORM].pop("data_offsets")),
        CheckpointError,
        ("malformed",),
    ),
    "offsets that lie": (
        header(lambda h: h[NORM].update(data_offsets=[0, 4])),
        CheckpointError,
        ("offsets", NORM),
    ),
    "negative offsets": (
        header(lambda h: h[NORM].update(data_offsets=[-128, 0])),
        CheckpointError,
        ("malformed",),
    ),
    "shape that lies": (
        header(lambda h: h[NORM].update(shape=[1 << 40])),
        CheckpointError,
        ("shape",),
    ),
    "shape of another model": (
        header(lambda h: h[EMBEDDING].update(shape=[32, 320])),
        CheckpointError,
        (EMBEDDING, "[32, 320]", "[320, 32]"),
    ),
    "integer weights": (
        header(lambda h: h[NORM].update(dtype="I32")),
        CheckpointError,
        (NORM, "I32"),
    ),
    "missing tensor": (tensors(lambda w: w.pop(NORM)), CheckpointError, ("lacks", NORM)),
    "unknown tensor": (
        tensors(lambda w: w.update({"model.layers.9.mlp.up_proj.weight": w[NORM]})),
        CheckpointError,
        ("unexpected", "layers.9"),
    ),
    "NaN": (
        tensors(lambda w: w[EMBEDDING].__setitem__((5, 5), np.nan)),
        CheckpointError,
        (EMBEDDING, "NaN", "--allow-nan"),
    ),
    "infinity": (
        tensors(lambda w: w[NORM].__setitem__(3, -np.inf)),
        CheckpointError,
        (NORM, "infinite"),
    ),
    "no tokenizer": (remove("tokenizer.json"), TokenizerError, ("no tokenizer",)),
    "tokenizer no JSON": (write("tokenizer.json", b"\0"), CheckpointError, ("tokenizer.json",)),
    "tokenizer without vocabulary": (
        edit("tokenizer.json", model={"type": "BPE"}),
        TokenizerError,
        ("vocabulary",),
    ),
    "word-piece tokenizer": (
        edit("tokenizer.json", model={"type": "WordPiece", "vocab": {}}),
        TokenizerError,
        ("WordPiece",),
    ),
    "tokenizer larger than the embedding": (
        edit("tokenizer.json", added_tokens=[{"id": 320, "content": "<x>", "special": True}]),
        TokenizerError,
        ("320", "embedding"),
    ),
    "added token without text": (
        edit("tokenizer.json", added_tokens=[{"id": 3}]),
        TokenizerError,
        ("added token",),
    ),
    "token twice": (
        edit("tokenizer.json", added_tokens=[{"id": 319, "content": "a", "special": True}]),
        TokenizerError,
        ("319", "'a'"),
    ),
    "no end of text": (
        both(edit("tokenizer_config.json", eos_token=None), edit("config.json", eos_token_id=None)),
        TokenizerError,
        ("eos_token",),
    ),
    "null character in a token": (
        edit("tokenizer.json", added_tokens=[{"id": 319, "content": "a\0b"}]),
        TokenizerError,
        ("319", "null"),
    ),
    "half a surrogate pair in a token": (
        edit("tokenizer.json", added_tokens=[{"id": 319, "content": "\ud800"}]),
        CheckpointError,
        ("metadata",),
    ),
    "a vocabulary of two thousand million": (
        edit("config.json", vocab_size=2_000_000_000),
        CheckpointError,
        (EMBEDDING, "2000000000"),
    ),
    "unknown pre-tokenizer": (
        edit(
            "tokenizer.json",
            pre_tokenizer={
                "type": "Sequence",
                "pretokenizers": [
                    {
                        "type": "Split",
                        "pattern": {"Regex": r"\w+"},
                        "behavior": "Isolated",
                        "invert": False,
                    },
                    {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
                ],
            },
        ),
        TokenizerError,
        (r"\w+", "--pre"),
    ),
    "no pre-tokenizer": (edit("tokenizer.json", pre_tokenizer=None), TokenizerError, ("--pre",)),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_checkpoint_is_refused(
    case: str, checkpoint: Any, tmp_path: Path, refuse: Any
) -> None:
    change, kind, words = BROKEN[case]
    folder = checkpoint("trio")
    change(folder)
    refuse(folder, tmp_path / "model.gguf", kind, *words)


def test_source_that_is_no_folder(tmp_path: Path, refuse: Any) -> None:
    refuse(tmp_path / "nowhere", tmp_path / "model.gguf", CheckpointError, "nowhere", "folder")


@pytest.mark.parametrize(
    "shard", ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "..", "c:x", "", 7]
)
def test_shard_names_stay_inside(shard: Any, checkpoint: Any, tmp_path: Path, refuse: Any) -> None:
    folder = checkpoint("llama2")
    (tmp_path / "secret.safetensors").write_bytes(b"x" * 64)
    index = folder / "model.safetensors.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    weight_map["model.norm.weight"] = shard
    index.write_text(json.dumps({"weight_map": weight_map}))
    refuse(folder, tmp_path / "model.gguf", CheckpointError, "outside the folder")


def test_missing_shard(checkpoint: Any, tmp_path: Path, refuse: Any) -> None:
    folder = checkpoint("llama2")
    (folder / "model-00002-of-00002.safetensors").unlink()
    refuse(folder, tmp_path / "m.gguf", CheckpointError, "missing shard", "00002-of-00002")


def test_extra_shard(checkpoint: Any, tmp_path: Path, refuse: Any) -> None:
    folder = checkpoint("llama2")
    (folder / "model-00003-of-00003.safetensors").write_bytes(b"")
    refuse(folder, tmp_path / "m.gguf", CheckpointError, "extra shard", "00003-of-00003")


def test_shard_that_lacks_what_the_index_says(checkpoint: Any, tmp_path: Path, refuse: Any) -> None:
    folder = checkpoint("llama2")
    path = folder / "model-00002-of-00002.safetensors"
    weights = load_file(path)
    gone = weights.popitem()[0]
    save_file(weights, path)
    refuse(folder, tmp_path / "m.gguf", CheckpointError, gone, "lacks")


def test_index_without_map(checkpoint: Any, tmp_path: Path, refuse: Any) -> None:
    folder = checkpoint("llama2")
    (folder / "model.safetensors.index.json").write_text("{}")
    refuse(folder, tmp_path / "m.gguf", CheckpointError, "weight_map")


@pytest.mark.parametrize(
    "data", [b"", b"\x0a\xff\xff\xff\xff\x7f", b"PK\x03\x04 no model", b"\x08"]
)
def test_damaged_sentencepiece_model(
    data: bytes, checkpoint: Any, tmp_path: Path, refuse: Any
) -> None:
    folder = checkpoint("llama2")
    (folder / "tokenizer.model").write_bytes(data)
    refuse(folder, tmp_path / "m.gguf", TokenizerError, "tokenizer.model")


def test_weights_beyond_float16(checkpoint: Any, tmp_path: Path, refuse: Any) -> None:
    folder = checkpoint("trio")
    tensors(lambda w: w[EMBEDDING].__setitem__((5, 5), 1e6))(folder)
    refuse(folder, tmp_path / "m.gguf", CheckpointError, "F16", "bf16", outtype="f16")
    convert_checkpoint(folder, tmp_path / "m.gguf", outtype="bf16")


def test_nan_passes_when_allowed(checkpoint: Any, tmp_path: Path) -> None:
    folder = checkpoint("trio")
    BROKEN["NaN"][0](folder)
    convert_checkpoint(folder, tmp_path / "m.gguf", allow_nan=True)
    assert (tmp_path / "m.gguf").is_file()


@pytest.mark.parametrize("name", ["llama2", "gemma3"])
@pytest.mark.parametrize(
    "change",
    [
        lambda tokenizer: tokenizer["model"].update(merges=5),
        lambda tokenizer: tokenizer["model"]["vocab"].update({"zzz": None}),
        lambda tokenizer: tokenizer["model"]["vocab"].update({"zzz": []}),
    ],
)
def test_a_vocabulary_of_other_types_is_refused(
    name: str, change: Any, checkpoint: Any, tmp_path: Path, refuse: Any
) -> None:
    folder = checkpoint(name)
    (folder / "tokenizer.model").unlink(missing_ok=True)
    edit_tokenizer(folder, change)
    refuse(folder, tmp_path / "m.gguf", TokenizerError, "tokenizer.json")


@pytest.mark.parametrize("name", ["llama2", "gemma3", "qwen2", "llama3"])
def test_a_post_processor_that_is_none_adds_nothing(
    name: str, checkpoint: Any, tmp_path: Path
) -> None:
    folder = checkpoint(name)
    edit_tokenizer(folder, lambda tokenizer: tokenizer.update(post_processor={"processors": 5}))
    convert_checkpoint(folder, tmp_path / "m.gguf")


@pytest.mark.parametrize("name", ["qwen2", "llama3"])
def test_a_pre_tokenizer_of_no_steps_is_unknown(
    name: str, checkpoint: Any, tmp_path: Path, refuse: Any
) -> None:
    folder = checkpoint(name)
    steps = {"type": "Sequence", "pretokenizers": 5}
    edit_tokenizer(folder, lambda tokenizer: tokenizer.update(pre_tokenizer=steps))
    refuse(folder, tmp_path / "m.gguf", TokenizerError, "pre-tokenizer")


def edit_tokenizer(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")
