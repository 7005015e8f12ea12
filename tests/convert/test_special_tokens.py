"""Special tokens: whichever file names them, they end up as llama.cpp needs them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from gguf import TokenType
from trimix_convert import CheckpointError, convert_checkpoint

IM_END = 319  # of the checkpoint "trio"


def change(folder: Path, name: str, **values: Any) -> None:
    path = folder / name
    content = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    merged = {**content, **values}
    kept = {key: value for key, value in merged.items() if value is not None}
    path.write_text(json.dumps(kept), "utf-8")


def change_added_token(folder: Path, text: str, **values: Any) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text("utf-8"))
    (token,) = [token for token in content["added_tokens"] if token["content"] == text]
    token.update(values)
    path.write_text(json.dumps(content), "utf-8")


def token_type(found: dict[str, Any], text: str) -> int:
    index = found["tokenizer.ggml.tokens"].index(text)
    return int(found["tokenizer.ggml.token_type"][index])


@pytest.mark.parametrize("entry", ["<|im_end|>", {"content": "<|im_end|>", "lstrip": False}])
@pytest.mark.parametrize("within", [None, "<|endoftext|>"])
def test_special_tokens_map_names_the_end(
    entry: Any, within: str | None, checkpoint: Any, fields: Any, tmp_path: Path
) -> None:
    folder = checkpoint("trio")
    change(folder, "tokenizer_config.json", eos_token=within)
    change(folder, "special_tokens_map.json", eos_token=entry, chat_template="{{ not here }}")
    report = convert_checkpoint(folder, tmp_path / "m.gguf")
    found = fields(tmp_path / "m.gguf")
    assert found["tokenizer.ggml.eos_token_id"] == IM_END
    assert "not here" not in found["tokenizer.chat_template"]
    assert any("differ" in note for note in report.notes) == (within is not None)


def test_a_list_of_added_tokens_makes_the_map_fill_gaps_only(
    checkpoint: Any, fields: Any, tmp_path: Path
) -> None:
    folder = checkpoint("trio")
    decoder = {str(IM_END): {"content": "<|im_end|>", "special": True}}
    change(folder, "tokenizer_config.json", added_tokens_decoder=decoder, pad_token=None)
    change(folder, "special_tokens_map.json", eos_token="<|im_end|>", pad_token="<|im_end|>")
    convert_checkpoint(folder, tmp_path / "m.gguf")
    found = fields(tmp_path / "m.gguf")
    assert found["tokenizer.ggml.eos_token_id"] == IM_END - 2
    assert found["tokenizer.ggml.padding_token_id"] == IM_END


def test_damaged_special_tokens_map(checkpoint: Any, refuse: Any, tmp_path: Path) -> None:
    folder = checkpoint("trio")
    (folder / "special_tokens_map.json").write_text("[")
    refuse(folder, tmp_path / "m.gguf", CheckpointError, "special_tokens_map.json")


def test_the_map_tells_which_of_the_older_added_tokens_are_special(
    checkpoint: Any, fields: Any, tmp_path: Path
) -> None:
    folder = checkpoint("qwen2")
    change(folder, "added_tokens.json", **{"[A]": 311, "[B]": 312})
    change(folder, "special_tokens_map.json", additional_special_tokens=["[A]", 7, None])
    convert_checkpoint(folder, tmp_path / "m.gguf")
    found = fields(tmp_path / "m.gguf")
    assert token_type(found, "[A]") == TokenType.CONTROL
    assert token_type(found, "[B]") == TokenType.USER_DEFINED


@pytest.mark.parametrize("flag", ["rstrip", "lstrip", "single_word"])
@pytest.mark.parametrize("place", ["tokenizer.json", "decoder", "map", "config"])
def test_what_an_added_token_does_to_its_neighbours_is_told(
    flag: str, place: str, checkpoint: Any, tmp_path: Path
) -> None:
    folder = checkpoint("trio")
    entry = {"content": "<|im_end|>", "special": True, flag: True}
    if place == "tokenizer.json":
        change_added_token(folder, "<|im_end|>", **{flag: True})
    elif place == "decoder":
        change(folder, "tokenizer_config.json", added_tokens_decoder={str(IM_END): entry})
    elif place == "map":
        change(folder, "special_tokens_map.json", eos_token=entry)
    else:
        change(folder, "tokenizer_config.json", eos_token=entry)
    notes = convert_checkpoint(folder, tmp_path / "m.gguf").notes
    assert [note for note in notes if flag in note and "<|im_end|>" in note]


def test_tokens_that_leave_their_neighbours_alone_need_no_note(
    checkpoint: Any, tmp_path: Path
) -> None:
    notes = convert_checkpoint(checkpoint("trio"), tmp_path / "m.gguf").notes
    assert not [note for note in notes if "strip" in note]


def rename_token(folder: Path, old: str, new: str) -> None:
    """Another text for an added token, which llama.cpp knows nothing about."""
    change_added_token(folder, old, content=new, special=False)


@pytest.mark.parametrize("place", ["tokenizer_config.json", "special_tokens_map.json"])
def test_a_named_end_is_a_control_token(
    place: str, checkpoint: Any, fields: Any, load: Any, tmp_path: Path
) -> None:
    folder = checkpoint("trio")
    rename_token(folder, "<|im_end|>", "<END>")
    change(folder, place, eos_token="<END>")
    convert_checkpoint(folder, tmp_path / "m.gguf")
    assert token_type(fields(tmp_path / "m.gguf"), "<END>") == TokenType.CONTROL
    witness = load(tmp_path / "m.gguf")
    assert witness.special("eos") == IM_END
    assert IM_END in witness.ends()


def test_a_named_end_within_the_vocabulary_is_a_control_token(
    checkpoint: Any, fields: Any, tmp_path: Path
) -> None:
    folder = checkpoint("trio", eos_token_id=317)
    own = json.loads((folder / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
    change(folder, "tokenizer_config.json", eos_token="z")
    convert_checkpoint(folder, tmp_path / "m.gguf")
    found = fields(tmp_path / "m.gguf")
    assert found["tokenizer.ggml.eos_token_id"] == own["z"]
    assert token_type(found, "z") == TokenType.CONTROL


def test_an_end_that_only_a_number_names_stays_what_it_is(
    checkpoint: Any, fields: Any, tmp_path: Path
) -> None:
    folder = checkpoint("trio")
    rename_token(folder, "<|im_end|>", "<END>")
    convert_checkpoint(folder, tmp_path / "m.gguf")
    found = fields(tmp_path / "m.gguf")
    assert token_type(found, "<END>") == TokenType.USER_DEFINED
    assert token_type(found, "Ċ") == TokenType.NORMAL
    assert IM_END in (found["tokenizer.ggml.eot_token_id"], found["tokenizer.ggml.eom_token_id"])


def test_ends_beyond_three_are_told(checkpoint: Any, tmp_path: Path) -> None:
    folder = checkpoint("trio")
    change(folder, "generation_config.json", eos_token_id=[317, 5, 6, 7, 5])
    notes = convert_checkpoint(folder, tmp_path / "m.gguf").notes
    tokens = json.loads((folder / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
    (text,) = [text for text, token_id in tokens.items() if token_id == 7]
    assert [note for note in notes if "ends of generation" in note and repr(text) in note]
