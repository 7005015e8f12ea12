"""What Hugging Face does to a text before it is tokenized is kept for the runtime, or told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from trimix_convert import convert_checkpoint

KEY = "trimix.tokenizer.normalizer"
PREPEND = {"type": "Prepend", "prepend": "▁"}
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}


def sequence(*steps: Any) -> dict[str, Any]:
    return {"type": "Sequence", "normalizers": list(steps)}


def convert(folder: Path, normalizer: Any, target: Path) -> tuple[str, ...]:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**content, "normalizer": normalizer}), "utf-8")
    return convert_checkpoint(folder, target).notes


def test_qwen_normalises_to_nfc(checkpoint: Any, fields: Any, tmp_path: Path) -> None:
    report = convert_checkpoint(checkpoint("qwen2"), tmp_path / "m.gguf")
    assert fields(tmp_path / "m.gguf")[KEY] == "NFC"
    assert any("NFC" in note for note in report.notes)


@pytest.mark.parametrize("name", ["trio", "llama3", "llama2", "gemma3"])
def test_a_tokenizer_that_normalises_nothing_has_no_key(
    name: str, checkpoint: Any, fields: Any, tmp_path: Path
) -> None:
    report = convert_checkpoint(checkpoint(name), tmp_path / "m.gguf")
    assert KEY not in fields(tmp_path / "m.gguf")
    assert not any("normalise" in note for note in report.notes)


@pytest.mark.parametrize(
    ("normalizer", "form"),
    [
        ({"type": "NFC"}, "NFC"),
        ({"type": "NFKC"}, "NFKC"),
        ({"type": "NFD"}, "NFD"),
        (sequence({"type": "NFC"}), "NFC"),
        (sequence(sequence({"type": "NFC"}), {"type": "NFC"}), "NFC"),
    ],
)
def test_one_form_is_stored(
    normalizer: Any, form: str, checkpoint: Any, fields: Any, tmp_path: Path
) -> None:
    notes = convert(checkpoint("trio"), normalizer, tmp_path / "m.gguf")
    assert fields(tmp_path / "m.gguf")[KEY] == form
    assert any(form in note for note in notes)


@pytest.mark.parametrize(
    "normalizer",
    [
        {"type": "Lowercase"},
        sequence({"type": "NFC"}, {"type": "Lowercase"}),
        sequence({"type": "NFD"}, {"type": "StripAccents"}),
        {"type": "Precompiled", "precompiled_charsmap": "AA=="},
        REPLACE,
    ],
)
def test_what_is_more_than_a_form_is_told(
    normalizer: Any, checkpoint: Any, fields: Any, tmp_path: Path
) -> None:
    notes = convert(checkpoint("trio"), normalizer, tmp_path / "m.gguf")
    assert KEY not in fields(tmp_path / "m.gguf")
    assert any("normalises text" in note for note in notes)


@pytest.mark.parametrize("normalizer", [None, {}, "NFC", sequence(), {"type": "Sequence"}, [1]])
def test_no_normaliser_at_all(
    normalizer: Any, checkpoint: Any, fields: Any, tmp_path: Path
) -> None:
    notes = convert(checkpoint("trio"), normalizer, tmp_path / "m.gguf")
    assert KEY not in fields(tmp_path / "m.gguf")
    assert not any("normalises" in note for note in notes)


def test_the_marks_of_spaces_are_no_normalisation_in_sentencepiece(
    checkpoint: Any, fields: Any, tmp_path: Path
) -> None:
    folder = checkpoint("llama2")
    notes = convert(folder, sequence({"type": "NFC"}, PREPEND, REPLACE), tmp_path / "m.gguf")
    assert fields(tmp_path / "m.gguf")[KEY] == "NFC"
    assert any("(NFC)" in note for note in notes)


def test_the_rules_of_a_sentencepiece_model_are_told(
    checkpoint: Any, fields: Any, tmp_path: Path
) -> None:
    folder = checkpoint("llama2")
    (folder / "tokenizer.json").unlink()
    path = folder / "tokenizer.model"
    # A second specification of the normaliser: the last one counts in a protocol buffer.
    rules = b"\x0a\x08nmt_nfkc" + b"\x12\x04abcd" + b"\x18\x00"
    path.write_bytes(path.read_bytes() + b"\x1a" + bytes([len(rules)]) + rules)
    report = convert_checkpoint(folder, tmp_path / "m.gguf")
    assert any("nmt_nfkc" in note for note in report.notes)
    assert fields(tmp_path / "m.gguf")["tokenizer.ggml.add_space_prefix"] is False
