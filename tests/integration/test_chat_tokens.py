"""Chat prompts as token ids: special tokens come from the template alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import pytest
from tiny_models import CHATML, END, GREEDY_TRIO, N_VOCAB, TURN_END, edit_gguf
from trimix_convert import convert_checkpoint

from trimix_edge import ContextParams, FusionWeights, Role, TriMix
from trimix_edge.decoding.chat import render_chat, tokenize_chat
from trimix_edge.errors import ModelLoadError, Notice, UsageError
from trimix_edge.llama import LlamaModel, Vocab
from trimix_edge.llama.model import NORMALIZER_KEY

CHECKPOINTS = Path(__file__).parents[1] / "convert" / "checkpoints"
FAMILIES = ("gemma3", "llama2", "llama3", "qwen2", "qwen3")
TEXTS = (
    "",
    "a",
    " two  spaces ",
    "རྫོང་ཁ་ཨིན།\n\nབོད",
    "x\n<\n>\t|im_end|> <|im_",
    "def f(x):\n    return x < 3 and x > 1\n",
)


@pytest.fixture(scope="module", params=FAMILIES)
def vocab(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Vocab]:
    target = tmp_path_factory.mktemp("vocab") / "model.gguf"
    convert_checkpoint(CHECKPOINTS / request.param, target, outtype="f32")
    with LlamaModel(target, vocab_only=True) as model:
        yield model.vocab


def spelt(vocab: Vocab, ids: list[int]) -> str:
    return b"".join(vocab.token_bytes(i, special=True) for i in ids).decode()


def template_of(vocab: Vocab) -> str:
    """ChatML in the spellings that the vocabulary has."""
    control = [t for i, t in vocab.special_tokens if vocab.is_control(i) and i != vocab.bos]
    return CHATML.replace("<|im_start|>", control[0]).replace("<|im_end|>", control[-1])


def by_llama_cpp(vocab: Vocab, text: str) -> list[int]:
    data = text.encode()
    buffer = (llama_cpp.llama_token * (len(data) + 8))()
    count = llama_cpp.llama_tokenize(
        vocab.pointer, data, len(data), buffer, len(buffer), vocab.adds_bos, True
    )
    return list(buffer[:count])


def test_plain_messages_become_what_llama_cpp_makes_of_the_whole_text(vocab: Vocab) -> None:
    template = template_of(vocab)
    for text in TEXTS:
        messages = [{"role": "system", "content": "s"}, {"role": "user", "content": text}]
        whole = render_chat(template, messages)
        assert tokenize_chat(vocab, template, messages) == by_llama_cpp(vocab, whole)


def test_a_text_cut_at_special_tokens_is_what_llama_cpp_makes_of_the_whole(vocab: Vocab) -> None:
    """The way of messages that spell special tokens, on texts that llama.cpp can check."""
    specials = [text for _, text in vocab.special_tokens][:30]
    for text in (*TEXTS, "".join(f"a{s} b{s}{s}\n" for s in specials)):
        parts = vocab.partition(text)
        ids = [
            i
            for part in parts
            for i in (
                [part]
                if isinstance(part, int)
                else vocab.tokenize(part, add_special=False, parse_special=False)
            )
        ]
        expected = by_llama_cpp(vocab, text)
        assert ([vocab.bos, *ids] if vocab.adds_bos else ids) == expected


def test_special_tokens_in_messages_stay_text(vocab: Vocab) -> None:
    """As many special tokens as with another text, and the text comes back whole."""
    template = template_of(vocab)
    control = {i: t for i, t in vocab.special_tokens if t in vocab.control_spellings}

    def count(content: str) -> int:
        ids = tokenize_chat(vocab, template, [{"role": "user", "content": content}])
        assert content in spelt(vocab, ids)
        return sum(i in control for i in ids)

    expected = count("harmless")
    for spelling in control.values():
        assert count(spelling) == expected
        assert count(f"a{spelling}b {spelling}{spelling}\n") == expected
    assert count("".join(control.values())) == expected


def test_a_message_in_front_cannot_replace_bos(vocab: Vocab) -> None:
    text = vocab.special_text(vocab.bos)
    ids = tokenize_chat(vocab, "{{ messages[0].content }}", [{"role": "user", "content": text}])
    assert ids.count(vocab.bos) == vocab.adds_bos


def test_variables_of_a_template_are_text_too(vocab: Vocab) -> None:
    spelling = vocab.control_spellings[0]
    ids = tokenize_chat(
        vocab, "{{ tools[0].x }}", [{"role": "user", "content": ""}], tools=[{"x": spelling}]
    )
    assert spelling in spelt(vocab, ids)
    assert not any(vocab.is_control(i) for i in ids[vocab.adds_bos :])


class Edited:
    """The tiny large_ins with other metadata."""

    def __init__(self, tiny: dict[Role, Path], folder: Path) -> None:
        self._source, self._folder = tiny[Role.LARGE_INS], folder

    def load(self, changes: dict[str, Any], drop: str = "\0") -> TriMix:
        path = edit_gguf(self._source, self._folder / "edited.gguf", changes, drop=drop)
        return TriMix.load(
            GREEDY_TRIO,
            models={Role.LARGE_INS: path},
            weights=FusionWeights(1, 0),
            context=ContextParams(n_ctx=256, kv_type="f32", n_threads=1),
        )


@pytest.fixture
def edited(tiny: dict[Role, Path], tmp_path: Path) -> Edited:
    return Edited(tiny, tmp_path)


def test_an_eos_after_each_text_is_left_out(edited: Edited, trimix: TriMix) -> None:
    with edited.load({"tokenizer.ggml.add_eos_token": True}) as loaded:
        assert loaded.trio.vocab.adds_eos
        assert loaded.tokenize(" save", chat=True) == trimix.tokenize(" save", chat=True)
        with pytest.warns(Notice, match="left out"):
            assert loaded.tokenize(" save", chat=False) == trimix.tokenize(" save", chat=False)
        expected = trimix.generate(" save", max_tokens=8, weights=FusionWeights(1, 0), chat=True)
        assert loaded.generate(" save", max_tokens=8, chat=True).token_ids == expected.token_ids


def test_a_file_without_bos_has_none(edited: Edited) -> None:
    """llama.cpp takes token 11 for it."""
    changes = {"tokenizer.chat_template": "[{{ bos_token }}]", "tokenizer.ggml.add_bos_token": True}
    with edited.load(changes, drop="tokenizer.ggml.bos_token_id") as loaded:
        vocab = loaded.trio.vocab
        assert (vocab.bos, vocab.special_text(vocab.bos), vocab.adds_bos) == (-1, "", False)
        assert vocab.detokenize(loaded.tokenize("x", chat=True)) == b"[]"
        assert loaded.tokenize("x", chat=False) == vocab.tokenize("x", add_special=False)


def test_a_file_without_eos_does_not_end_at_a_letter(edited: Edited) -> None:
    with edited.load({}, drop="tokenizer.ggml.eos_token_id") as loaded:
        vocab = loaded.trio.vocab
        ends = [i for i in range(vocab.size) if vocab.is_end(i)]
        assert {vocab.text(i) for i in ends} <= {END, TURN_END}
        assert TURN_END in map(vocab.text, ends)
        assert vocab.token_bytes(11) != b""


@pytest.mark.parametrize("kind", [1, 4], ids=["normal", "user_defined"])
@pytest.mark.parametrize("key", ["eos", "eot"])
def test_an_end_is_never_shown_whatever_its_type(
    edited: Edited, trimix: TriMix, kind: int, key: str
) -> None:
    """The file types it as text, and the model is bound to say it."""
    expected = trimix.generate(" save", max_tokens=4, weights=FusionWeights(1, 0)).token_ids
    end = expected[2]
    assert end not in expected[:2]
    changes = {f"tokenizer.ggml.{key}_token_id": end}
    with edited.load(changes) as loaded:
        vocab = loaded.trio.vocab
        assert not vocab.is_control(end)
        done = loaded.generate(" save", max_tokens=8)
        assert (done.token_ids, done.finish_reason) == (expected[:3], "end")
        assert done.text == vocab.detokenize(expected[:2]).decode("utf-8", errors="ignore")


DECOMPOSED, COMPOSED = "\u0f43", "\u0f42\u0fb7"  # Tibetan gha: NFC is the longer one


def test_texts_are_normalised_as_the_file_says(edited: Edited, trimix: TriMix) -> None:
    plain = trimix.trio.vocab
    with edited.load({NORMALIZER_KEY: "NFC"}) as loaded:
        vocab = loaded.trio.vocab
        assert vocab.normalizer == "NFC"
        assert vocab.tokenize(DECOMPOSED) == plain.tokenize(COMPOSED) != plain.tokenize(DECOMPOSED)
        chat = loaded.tokenize(f"{DECOMPOSED} {TURN_END}", chat=True)
        assert chat == trimix.tokenize(f"{COMPOSED} {TURN_END}", chat=True)
        weights = FusionWeights(1, 0)
        scored = loaded.score(f"a {DECOMPOSED} b").fused.nll
        assert scored == pytest.approx(trimix.score(f"a {COMPOSED} b", weights=weights).fused.nll)


@pytest.mark.parametrize(("said", "form"), [('normalizer = "NFC"', "NFC"), ('normalizer = ""', "")])
def test_a_manifest_has_the_last_word_on_normalising(
    tiny: dict[Role, Path], tmp_path: Path, trimix: TriMix, said: str, form: str
) -> None:
    stored = "" if form else "NFC"
    edit_gguf(tiny[Role.LARGE_INS], tmp_path / "l.gguf", {NORMALIZER_KEY: stored})
    text = f'{said}\n[models]\nlarge_ins = "l.gguf"\n[fusion]\nweights = [1, 0]\n'
    (tmp_path / "trio.toml").write_text(text)
    expected = trimix.trio.vocab.tokenize(COMPOSED if form else DECOMPOSED)
    with TriMix.load(tmp_path) as loaded:
        assert loaded.tokenize(DECOMPOSED) == expected


def test_normalising_does_not_reach_into_special_tokens(edited: Edited) -> None:
    """U+0338 after ``>`` would become one character with it."""
    with edited.load({NORMALIZER_KEY: "NFC"}) as loaded:
        ids = loaded.trio.vocab.tokenize(f"a{TURN_END}\u0338 e\u0301")
        assert ids[1] == N_VOCAB - 1
        assert loaded.trio.vocab.detokenize(ids).decode() == "a\u0338 \u00e9"


def test_scored_texts_are_plain_text(trimix: TriMix) -> None:
    text = f" save {TURN_END} the"
    plain = trimix.trio.vocab.tokenize(text, parse_special=False)
    assert trimix.score(text).token_ids == plain[1:], "nothing predicts the first one"
    assert trimix.score(text, " file").token_ids == plain
    assert plain != trimix.tokenize(text), "a raw prompt is read as llama.cpp reads it"


def test_an_unknown_normaliser_is_told(edited: Edited) -> None:
    with pytest.raises(ModelLoadError, match="normalizer is 'lowercase'"):
        edited.load({NORMALIZER_KEY: "lowercase"})


@pytest.mark.parametrize("prompt", [b"text", bytearray(b"text"), 5, None, {"role": "user"}, [5.0]])
def test_a_prompt_of_another_type_is_told_at_the_call(trimix: TriMix, prompt: Any) -> None:
    for call in (trimix.generate, trimix.stream, trimix.tokenize):
        with pytest.raises(UsageError):
            call(prompt)
    with pytest.raises(UsageError):
        trimix.score(prompt)


def test_a_context_beyond_the_training_is_told(
    tiny: dict[Role, Path], recwarn: pytest.WarningsRecorder
) -> None:
    with TriMix.load(GREEDY_TRIO, models=tiny, context=ContextParams(n_ctx=512)):
        assert not recwarn.list
    with (
        pytest.warns(
            Notice, match="513 tokens is longer than the 512 that large_ins was trained"
        ) as told,
        TriMix.load(GREEDY_TRIO, models=tiny, context=ContextParams(n_ctx=513)),
    ):
        assert len(told) == 1
