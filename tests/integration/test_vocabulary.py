"""Vocabularies of three files: the same tokens, padding apart, or a plain refusal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
from tiny_models import (
    END,
    GREEDY_TRIO,
    N_VOCAB,
    SMALL,
    TURN_END,
    edit_gguf,
    random_tensors,
    tokenizer,
    trio_tensors,
    write_gguf,
)

from trimix_edge import ContextParams, FusionWeights, Role, TriMix
from trimix_edge.errors import PromptError, UsageError, VocabMismatchError
from trimix_edge.llama import LlamaModel, Vocab

EXACT = ContextParams(n_ctx=256, kv_type="f32", n_threads=1)
WEIGHTS = FusionWeights(0.4, 0.9)


@pytest.fixture(scope="module")
def vocab(tiny: dict[Role, Path]) -> Iterator[Vocab]:
    with LlamaModel(tiny[Role.LARGE_INS], vocab_only=True) as model:
        yield model.vocab


def load_with(tiny: dict[Role, Path], role: Role, path: Path) -> TriMix:
    return TriMix.load(GREEDY_TRIO, models={**tiny, role: path}, weights=WEIGHTS, context=EXACT)


@pytest.mark.parametrize("role", Role)
def test_padding_at_the_end_is_cut(
    tiny: dict[Role, Path], trimix: TriMix, tmp_path: Path, role: Role
) -> None:
    """The padding has logits that would win every time."""
    shape, tensors = trio_tensors()[role.value]
    loud = 100 * np.random.RandomState(1).randn(16, shape.hidden).astype(np.float32)
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        tensors[name] = np.concatenate([tensors[name], loud])
    padded = write_gguf(tmp_path, "padded", shape, tensors)
    expected = trimix.generate(" save the file", max_tokens=20, weights=WEIGHTS)
    with load_with(tiny, role, padded) as loaded:
        assert loaded.trio.models[role].n_vocab == N_VOCAB + 16
        assert loaded.trio.n_vocab == N_VOCAB
        assert loaded.generate(" save the file", max_tokens=20).token_ids == expected.token_ids


def another_token(json: dict[str, Any]) -> None:
    vocab = json["model"]["vocab"]
    vocab["ĠTHE"] = vocab.pop("Ġthe")


def another_control_token(json: dict[str, Any]) -> None:
    json["added_tokens"][1]["content"] = "<|start|>"


def plain_text(json: dict[str, Any]) -> None:
    json["added_tokens"][1] |= {"content": "[START]", "special": False}


def control_token(json: dict[str, Any]) -> None:
    json["added_tokens"][1]["content"] = "[START]"


def one_more(json: dict[str, Any]) -> None:
    added = json["added_tokens"]
    added.append({**added[-1], "id": N_VOCAB, "content": "<|more|>"})


def same_tokens(json: dict[str, Any]) -> None:
    pass


@pytest.fixture
def variant(tmp_path: Path) -> Callable[..., Path]:
    """A small model with another tokenizer."""

    def write(change: Callable[[dict[str, Any]], None], **options: Any) -> Path:
        json = tokenizer()
        change(json)
        n_vocab = json["added_tokens"][-1]["id"] + 1
        tensors = random_tensors(SMALL, 1, n_vocab)
        return write_gguf(tmp_path, change.__name__, SMALL, tensors, json, **options)

    return write


def test_a_differing_token_is_told_with_id_and_both_pieces(
    tiny: dict[Role, Path], variant: Callable[..., Path]
) -> None:
    first = tokenizer()["model"]["vocab"]["Ġthe"]
    with pytest.raises(VocabMismatchError) as caught:
        load_with(tiny, Role.SMALL_CPT, variant(another_token))
    assert f"id {first} is 'Ġthe' in large_ins and 'ĠTHE' in small_cpt" in str(caught.value)


def test_a_differing_control_token_is_told(
    tiny: dict[Role, Path], variant: Callable[..., Path]
) -> None:
    with pytest.raises(VocabMismatchError) as caught:
        load_with(tiny, Role.SMALL_BASE, variant(another_control_token))
    expected = f"id {N_VOCAB - 2} is '<|im_start|>' in large_ins and '<|start|>' in small_base"
    assert expected in str(caught.value)


def test_a_control_token_that_is_text_elsewhere_is_told(variant: Callable[..., Path]) -> None:
    files = {Role.LARGE_INS: variant(control_token), Role.SMALL_CPT: variant(plain_text)}
    with pytest.raises(VocabMismatchError) as caught:
        TriMix.load(GREEDY_TRIO, models=files)
    expected = f"id {N_VOCAB - 2} ('[START]') is a control token in large_ins and plain text in"
    assert expected in str(caught.value)


def test_another_pre_tokenizer_is_told(
    tiny: dict[Role, Path], variant: Callable[..., Path]
) -> None:
    other = variant(same_tokens, pre="qwen2")
    with pytest.raises(VocabMismatchError, match=r"pre-tokenizer.*'gpt-2'.*'qwen2'"):
        load_with(tiny, Role.SMALL_CPT, other)


@pytest.mark.parametrize("role", [Role.LARGE_INS, Role.SMALL_CPT])
def test_a_real_token_beyond_the_others_is_told(
    tiny: dict[Role, Path], variant: Callable[..., Path], role: Role
) -> None:
    with pytest.raises(VocabMismatchError, match=rf"{role} has 385 .*384.*'<\|more\|>'"):
        load_with(tiny, role, variant(one_more))


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        ("tokenizer.ggml.bos_token_id", N_VOCAB - 2, "BOS token"),
        ("tokenizer.ggml.add_bos_token", True, "adding BOS"),
    ],
)
def test_another_beginning_is_told(
    tiny: dict[Role, Path], tmp_path: Path, key: str, value: Any, what: str
) -> None:
    other = edit_gguf(tiny[Role.SMALL_CPT], tmp_path / "other.gguf", {key: value})
    with pytest.raises(VocabMismatchError, match=what):
        load_with(tiny, Role.SMALL_CPT, other)


def test_vocabularies_are_compared_before_weights_are_read(
    tiny: dict[Role, Path], variant: Callable[..., Path]
) -> None:
    loading: list[Role] = []
    files = {**tiny, Role.SMALL_CPT: variant(another_token)}
    with pytest.raises(VocabMismatchError):
        TriMix.load(GREEDY_TRIO, models=files, on_progress=lambda role, part: loading.append(role))
    assert not loading


def test_one_vocabulary_serves_all_models(trimix: TriMix) -> None:
    trio = trimix.trio
    for model in trio.models.values():
        vocab = llama_cpp.llama_model_get_vocab(model.pointer)
        assert llama_cpp.llama_vocab_type(vocab) == llama_cpp.LLAMA_VOCAB_TYPE_NONE
        assert model.n_vocab == trio.n_vocab
        with pytest.raises(UsageError, match="without its vocabulary"):
            model.vocab.tokenize("a")
    assert trio.vocab.detokenize(trio.vocab.tokenize("རྫོང་ཁ")).decode() == "རྫོང་ཁ"


def test_ends_may_differ_and_those_of_large_ins_count(
    tiny: dict[Role, Path], tmp_path: Path
) -> None:
    other = edit_gguf(
        tiny[Role.SMALL_BASE], tmp_path / "other.gguf", {"tokenizer.ggml.eos_token_id": 5}
    )
    with load_with(tiny, Role.SMALL_BASE, other) as trimix:
        ends = [i for i in range(N_VOCAB) if trimix.trio.vocab.is_end(i)]
    assert ends == [N_VOCAB - 3, N_VOCAB - 1]


def test_a_role_of_weight_zero_is_not_loaded_and_may_lack_its_file(
    tiny: dict[Role, Path], tmp_path: Path
) -> None:
    missing = tmp_path / "missing.gguf"
    files = {**tiny, Role.SMALL_BASE: missing}
    with TriMix.load(GREEDY_TRIO, models=files, weights=FusionWeights(0.1, 0.9)) as trimix:
        assert trimix.trio.roles == (Role.LARGE_INS, Role.SMALL_CPT)
        assert trimix.generate(" save", max_tokens=2).token_ids
    files = {Role.LARGE_INS: missing, Role.SMALL_CPT: tiny[Role.SMALL_CPT]}
    with TriMix.load(GREEDY_TRIO, models=files, weights=FusionWeights(0, 1)) as trimix:
        assert trimix.trio.roles == (Role.SMALL_CPT,)


def test_the_template_is_that_of_large_ins_even_where_its_weight_is_zero(
    tiny: dict[Role, Path], tmp_path: Path
) -> None:
    own = edit_gguf(
        tiny[Role.LARGE_INS],
        tmp_path / "own.gguf",
        {"tokenizer.chat_template": "[{{ bos_token }}]"},
    )
    files = {**tiny, Role.LARGE_INS: own}
    with TriMix.load(GREEDY_TRIO, models=files, weights=FusionWeights(0, 1)) as trimix:
        assert trimix.trio.roles == (Role.SMALL_CPT,)
        ids = trimix.tokenize("hello", chat=True)
        assert trimix.trio.vocab.detokenize(ids) == b"[]"
        assert ids[1] == N_VOCAB - 3


@pytest.mark.parametrize("template", ["{{ bos_token }}hello", "hello"])
def test_a_conversation_begins_with_one_bos_whoever_writes_it(
    tiny: dict[Role, Path], tmp_path: Path, template: str
) -> None:
    changes = {"tokenizer.ggml.add_bos_token": True, "tokenizer.chat_template": template}
    own = edit_gguf(tiny[Role.LARGE_INS], tmp_path / "own.gguf", changes)
    with TriMix.load(
        GREEDY_TRIO, models={Role.LARGE_INS: own}, weights=FusionWeights(1, 0)
    ) as trimix:
        ids = trimix.tokenize("ignored", chat=True)
        assert ids[0] == trimix.trio.vocab.bos
        assert trimix.trio.vocab.bos not in ids[1:]


def test_conversations_go_through_the_template(trimix: TriMix) -> None:
    ids = trimix.tokenize([{"role": "user", "content": "རྫོང་ཁ"}])
    spelt = b"".join(trimix.trio.vocab.token_bytes(i, special=True) for i in ids).decode()
    assert spelt == "<|im_start|>user\nརྫོང་ཁ<|im_end|>\n<|im_start|>assistant\n"
    assert trimix.tokenize("རྫོང་ཁ", chat=True) == ids
    assert trimix.tokenize("རྫོང་ཁ") == trimix.trio.vocab.tokenize("རྫོང་ཁ")


@pytest.mark.parametrize("text", ["", "a", " save the file", "རྫོང་ཁ་ཨིན།", "😀\n\0x", "a" * 5000])
def test_tokens_of_a_text_are_its_bytes(vocab: Vocab, text: str) -> None:
    assert vocab.detokenize(vocab.tokenize(text)) == text.encode()


def test_control_tokens_are_silent_unless_spelt_out(vocab: Vocab) -> None:
    ids = vocab.tokenize(f"a{TURN_END}")
    assert ids[-1] == N_VOCAB - 1
    assert vocab.detokenize(ids) == b"a"
    assert vocab.token_bytes(ids[-1], special=True) == TURN_END.encode()
    assert len(vocab.tokenize(TURN_END, parse_special=False)) > 1
    assert vocab.special_text(vocab.bos) == END


def test_text_that_is_no_unicode_is_refused(vocab: Vocab) -> None:
    with pytest.raises(PromptError, match="character 2"):
        vocab.tokenize("ab\udcff")


def test_an_id_outside_the_vocabulary_is_refused(vocab: Vocab) -> None:
    with pytest.raises(ValueError, match="384"):
        vocab.token_bytes(N_VOCAB)
