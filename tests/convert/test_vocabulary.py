"""Special tokens, types, templates, licences: the metadata of converted files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from gguf import TokenType
from trimix_convert import TokenizerError, convert_checkpoint
from trimix_convert.bpe import PRE_TOKENIZERS


def change(folder: Path, name: str, **values: Any) -> None:
    path = folder / name
    content = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    path.write_text(json.dumps({**content, **values}), "utf-8")


@pytest.mark.parametrize(
    ("name", "pre"),
    [
        ("llama2", "default"),
        ("llama3", "llama-bpe"),
        ("qwen2", "qwen2"),
        ("qwen3", "qwen2"),
        ("trio", "qwen35"),
        ("gemma3", "default"),
    ],
)
def test_pre_tokenizer_is_recognised(
    name: str, pre: str, checkpoint: Any, fields: Any, tmp_path: Path
) -> None:
    target = tmp_path / "m.gguf"
    assert convert_checkpoint(checkpoint(name), target).pre_tokenizer == pre
    assert fields(target)["tokenizer.ggml.pre"] == pre


def test_pre_tokenizers_are_distinct() -> None:
    assert len(set(PRE_TOKENIZERS.values())) == len(PRE_TOKENIZERS)


def test_gpt2_is_recognised_by_its_built_in_expression(checkpoint: Any, tmp_path: Path) -> None:
    folder = checkpoint("trio")
    step = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
    change(folder, "tokenizer.json", pre_tokenizer=step)
    assert convert_checkpoint(folder, tmp_path / "m.gguf").pre_tokenizer == "gpt-2"


def test_pre_overrules(checkpoint: Any, fields: Any, tmp_path: Path) -> None:
    folder, target = checkpoint("trio"), tmp_path / "m.gguf"
    change(folder, "tokenizer.json", pre_tokenizer=None)
    convert_checkpoint(folder, target, pre="tekken")
    assert fields(target)["tokenizer.ggml.pre"] == "tekken"


def test_ignore_merges_must_be_what_the_pre_tokenizer_implies(
    checkpoint: Any, tmp_path: Path
) -> None:
    folder = checkpoint("llama3")
    model = json.loads((folder / "tokenizer.json").read_text("utf-8"))["model"]
    change(folder, "tokenizer.json", model={**model, "ignore_merges": False})
    with pytest.raises(TokenizerError, match="ignore_merges"):
        convert_checkpoint(folder, tmp_path / "m.gguf")


def test_rows_beyond_the_tokens_are_unused_padding(
    checkpoint: Any, fields: Any, tmp_path: Path
) -> None:
    target = tmp_path / "m.gguf"
    convert_checkpoint(checkpoint("qwen2"), target)
    found = fields(target)
    tokens, types = found["tokenizer.ggml.tokens"], found["tokenizer.ggml.token_type"]
    assert len(tokens) == len(types) == 320
    assert tokens[311:] == [f"[PAD{i}]" for i in range(311, 320)]
    assert types[311:] == [TokenType.UNUSED] * 9
    assert tokens[310] == "<think>"
    assert types[310] == TokenType.USER_DEFINED
    assert types[307:310] == [TokenType.CONTROL] * 3


def test_every_end_of_generation_config_ends_generation(
    checkpoint: Any, load: Any, tmp_path: Path
) -> None:
    folder, target = checkpoint("trio"), tmp_path / "m.gguf"
    convert_checkpoint(folder, target)
    ends = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    assert len(ends) == 3
    assert load(target).ends() == set(ends)


def test_ends_may_stand_in_config_alone(checkpoint: Any, load: Any, tmp_path: Path) -> None:
    folder, target = checkpoint("trio", eos_token_id=[40, 41, 42]), tmp_path / "m.gguf"
    (folder / "generation_config.json").unlink()
    change(folder, "tokenizer_config.json", eos_token=None)
    convert_checkpoint(folder, target)
    witness = load(target)
    assert witness.special("eos") == 40
    assert {40, 41, 42} <= witness.ends()


def test_a_model_without_bos_adds_none(checkpoint: Any, load: Any, tmp_path: Path) -> None:
    target = tmp_path / "m.gguf"
    convert_checkpoint(checkpoint("trio"), target)
    witness = load(target)
    assert not witness.adds_bos()
    assert witness.special("bos") == witness.special("eos") == 317
    assert witness.tokenize("a", add_special=True) == witness.tokenize("a")


@pytest.mark.parametrize("name", ["llama2", "llama3"])
def test_bos_is_added_where_the_tokenizer_does(
    name: str, checkpoint: Any, load: Any, tmp_path: Path
) -> None:
    target = tmp_path / "m.gguf"
    convert_checkpoint(checkpoint(name), target)
    witness = load(target)
    assert witness.tokenize("a", add_special=True)[0] == witness.special("bos")


@pytest.mark.parametrize("place", ["tokenizer_config.json", "chat_template.jinja", "both"])
def test_the_file_of_the_chat_template_goes_first(
    place: str, checkpoint: Any, fields: Any, tmp_path: Path
) -> None:
    folder, target = checkpoint("qwen3"), tmp_path / "m.gguf"
    template = (folder / "chat_template.jinja").read_text("utf-8")
    if place != "chat_template.jinja":
        change(folder, "tokenizer_config.json", chat_template="{{ inside }}")
    if place == "tokenizer_config.json":
        (folder / "chat_template.jinja").unlink()
        template = "{{ inside }}"
    convert_checkpoint(folder, target)
    assert fields(target)["tokenizer.chat_template"] == template


def test_named_chat_templates(checkpoint: Any, fields: Any, tmp_path: Path) -> None:
    folder, target = checkpoint("trio"), tmp_path / "m.gguf"
    templates = [
        {"name": "default", "template": "{{ a }}"},
        {"name": "tool use", "template": "{{ b }}"},
    ]
    change(folder, "tokenizer_config.json", chat_template=templates)
    convert_checkpoint(folder, target)
    found = fields(target)
    assert found["tokenizer.chat_template"] == "{{ a }}"
    assert found["tokenizer.chat_template.tool_use"] == "{{ b }}"


def test_files_of_named_chat_templates(checkpoint: Any, fields: Any, tmp_path: Path) -> None:
    folder, target = checkpoint("qwen3"), tmp_path / "m.gguf"
    inside = [
        {"name": "default", "template": "{{ old }}"},
        {"name": "rag", "template": "{{ r }}"},
        {"name": "tool use", "template": "{{ old }}"},
    ]
    change(folder, "tokenizer_config.json", chat_template=inside)
    extra = folder / "additional_chat_templates"
    extra.mkdir()
    (extra / "tool_use.jinja").write_text("{{ t }}")
    convert_checkpoint(folder, target)
    found = fields(target)
    assert found["tokenizer.chat_template"] == (folder / "chat_template.jinja").read_text()
    assert found["tokenizer.chat_template.rag"] == "{{ r }}"
    assert found["tokenizer.chat_template.tool_use"] == "{{ t }}"


def test_the_json_file_of_the_chat_template_goes_last(
    checkpoint: Any, fields: Any, tmp_path: Path
) -> None:
    folder, target = checkpoint("qwen3"), tmp_path / "m.gguf"
    (folder / "chat_template.jinja").unlink()
    change(folder, "chat_template.json", chat_template="{{ c }}")
    convert_checkpoint(folder, target)
    assert fields(target)["tokenizer.chat_template"] == "{{ c }}"
    change(folder, "tokenizer_config.json", chat_template="{{ b }}")
    convert_checkpoint(folder, target)
    assert fields(target)["tokenizer.chat_template"] == "{{ b }}"


def test_model_card_becomes_metadata(checkpoint: Any, fields: Any, tmp_path: Path) -> None:
    target = tmp_path / "m.gguf"
    convert_checkpoint(checkpoint("llama2"), target)
    found = fields(target)
    assert found["general.license"] == "apache-2.0"
    assert found["general.languages"] == ["bo", "en"]
    assert found["general.base_model.0.repo_url"] == "https://huggingface.co/someone/Tiny-7b"


@pytest.mark.parametrize(
    "card",
    [
        "---\nlicense: [1, {2: 3}]\nlanguage: {a: b}\nbase_model: 7\n---\n",
        "---\n: : :\n\t- [\n---\n",
        "---\n" + "&a [" * 2000,
        "---\nname: 5\ntags: [1, null]\nlicense_name: {x: y}\n---\n",
        "\0\0",
    ],
)
def test_broken_model_card_stops_nothing(
    card: str, checkpoint: Any, load: Any, tmp_path: Path
) -> None:
    folder, target = checkpoint("trio"), tmp_path / "m.gguf"
    (folder / "README.md").write_text(card)
    convert_checkpoint(folder, target)
    load(target)


def test_sampling_advice_becomes_metadata(checkpoint: Any, fields: Any, tmp_path: Path) -> None:
    folder, target = checkpoint("trio"), tmp_path / "m.gguf"
    change(folder, "generation_config.json", top_k=20, repetition_penalty=1.5, temperature="hot")
    convert_checkpoint(folder, target)
    found = fields(target)
    assert found["general.sampling.top_k"] == 20
    assert found["general.sampling.penalty_repeat"] == 1.5
    assert "general.sampling.temp" not in found


def test_gemma_layers_that_deviate_are_listed(checkpoint: Any, fields: Any, tmp_path: Path) -> None:
    convert_checkpoint(checkpoint("gemma3"), tmp_path / "a.gguf")
    convert_checkpoint(checkpoint("gemma3_multimodal"), tmp_path / "b.gguf")
    key = "gemma3.attention.sliding_window_pattern"
    assert key not in fields(tmp_path / "a.gguf")
    assert fields(tmp_path / "b.gguf")[key] == [True, False, True]
