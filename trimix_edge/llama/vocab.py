"""A model's vocabulary: text to ids, ids to bytes, and whether two models share one."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import llama_cpp

from trimix_edge.errors import PromptError, UsageError, VocabMismatchError

_UNUSED = llama_cpp.LLAMA_TOKEN_ATTR_UNUSED
_CONTROL = llama_cpp.LLAMA_TOKEN_ATTR_CONTROL
_NULL_TOKEN = -1


class Vocab:
    """The vocabulary of one loaded model (``llama_model_get_vocab``). The model owns its memory."""

    def __init__(self, pointer: Any, tokenizer: str, pre_tokenizer: str) -> None:
        self._pointer = pointer
        self._bytes: dict[int, bytes] = {}
        self.tokenizer = tokenizer
        self.pre_tokenizer = pre_tokenizer
        self.size: int = llama_cpp.llama_vocab_n_tokens(pointer)

    @property
    def pointer(self) -> Any:
        """``const llama_vocab *``, for samplers; a :class:`UsageError` once its model is freed."""
        if self._pointer is None:
            raise UsageError("the models were closed: load them again")
        return self._pointer

    def forget(self) -> None:
        """Let go of the model's memory, which is about to be freed."""
        self._pointer = None

    def tokenize(
        self, text: str, *, add_special: bool = True, parse_special: bool = True
    ) -> list[int]:
        """Token ids of a text (``llama_tokenize``).

        Args:
            add_special: add the tokens that the model wants around a text, such as BOS.
            parse_special: read the spelling of a control token, such as ``<|im_end|>``, as it.

        Raises:
            PromptError: the text holds a lone surrogate, or is too long to be tokenized.
        """
        try:
            data = text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise PromptError(
                f"the text is not valid Unicode at character {error.start}: save it as UTF-8"
            ) from None
        capacity = len(data) + 8
        for _ in range(2):
            buffer = (ctypes.c_int32 * capacity)()
            count = llama_cpp.llama_tokenize(
                self.pointer, data, len(data), buffer, capacity, add_special, parse_special
            )
            if count >= 0:
                return list(buffer[:count])
            capacity = -count
        raise PromptError(f"a text of {len(data)} bytes is too long for llama_tokenize")

    def token_bytes(self, token: int, *, special: bool = False) -> bytes:
        """The bytes that a token stands for; often a part of a character only.

        Args:
            special: spell control tokens out; otherwise they are empty.
        """
        if not special and token in self._bytes:
            return self._bytes[token]
        if not 0 <= token < self.size:
            raise ValueError(f"token {token} is not in a vocabulary of {self.size}")
        capacity = 64
        while True:
            buffer = ctypes.create_string_buffer(capacity)
            size = llama_cpp.llama_token_to_piece(self.pointer, token, buffer, capacity, 0, special)
            if size >= 0:
                break
            capacity = -size
        piece = buffer.raw[:size]
        if not special:
            self._bytes[token] = piece
        return piece

    def detokenize(self, tokens: Sequence[int]) -> bytes:
        """The bytes of several tokens, control tokens left out."""
        return b"".join(self.token_bytes(token) for token in tokens)

    def is_end(self, token: int) -> bool:
        """Whether a token ends a generation (``llama_vocab_is_eog``)."""
        return bool(llama_cpp.llama_vocab_is_eog(self.pointer, token))

    def text(self, token: int) -> str:
        """A token as the vocabulary spells it: for messages, and for comparing vocabularies."""
        raw: bytes = llama_cpp.llama_vocab_get_text(self.pointer, token) or b""
        return raw.decode("utf-8", errors="backslashreplace")

    def special_text(self, token: int) -> str:
        return "" if token == _NULL_TOKEN else self.text(token)

    @property
    def bos(self) -> int:
        """Id of the beginning-of-sequence token, -1 for none."""
        return int(llama_cpp.llama_vocab_bos(self.pointer))

    @property
    def eos(self) -> int:
        """Id of the end-of-sequence token, -1 for none."""
        return int(llama_cpp.llama_vocab_eos(self.pointer))

    @property
    def adds_bos(self) -> bool:
        return bool(llama_cpp.llama_vocab_get_add_bos(self.pointer))

    @cached_property
    def _texts(self) -> list[bytes]:
        get, pointer = llama_cpp.llama_vocab_get_text, self.pointer
        return [get(pointer, i) for i in range(self.size)]

    @cached_property
    def _attributes(self) -> list[int]:
        get, pointer = llama_cpp.llama_vocab_get_attr, self.pointer
        return [get(pointer, i) for i in range(self.size)]

    def is_padding(self, token: int) -> bool:
        """Whether a token only pads the embedding matrix and can never be in a text."""
        return bool(self._attributes[token] & _UNUSED)

    def is_control(self, token: int) -> bool:
        return bool(self._attributes[token] & _CONTROL)


@dataclass(frozen=True)
class NamedVocab:
    """A vocabulary and the name, a role or a file, that messages give it."""

    name: str
    vocab: Vocab


def shared_vocab_size(vocabs: Sequence[NamedVocab]) -> int:
    """The number of ids that mean the same in all vocabularies.

    Compared are the tokenizer, the pre-tokenizer, the BOS token, and every token's spelling and
    whether it is a control token. Padding at the end may differ: it is cut. Ends of generation may
    differ as well: an instruction-tuned model often ends with another token than its base.

    Raises:
        VocabMismatchError: anything else differs; names the first differing id and both pieces.
    """
    size = min(v.vocab.size for v in vocabs)
    first = vocabs[0]
    for other in vocabs[1:]:
        _compare_settings(first, other)
        _compare_tokens(first, other, size)
    for v in vocabs:  # tens of megabytes
        v.vocab.__dict__.pop("_texts", None)
    for v in vocabs:
        for token in range(size, v.vocab.size):
            if not v.vocab.is_padding(token):
                raise VocabMismatchError(
                    f"the models do not share a tokenizer: {v.name} has {v.vocab.size} tokens, "
                    f"and id {token} ({v.vocab.text(token)!r}) is missing elsewhere"
                )
    return size


def _compare_settings(a: NamedVocab, b: NamedVocab) -> None:
    for what, of_a, of_b in (
        ("tokenizer", a.vocab.tokenizer, b.vocab.tokenizer),
        ("pre-tokenizer", a.vocab.pre_tokenizer, b.vocab.pre_tokenizer),
        ("BOS token", a.vocab.bos, b.vocab.bos),
        ("habit of adding BOS", a.vocab.adds_bos, b.vocab.adds_bos),
    ):
        if of_a != of_b:
            raise VocabMismatchError(
                f"the models do not share a tokenizer: the {what} of {a.name} is {of_a!r}, "
                f"that of {b.name} is {of_b!r}"
            )


def _compare_tokens(a: NamedVocab, b: NamedVocab, size: int) -> None:
    texts_a, texts_b = a.vocab._texts[:size], b.vocab._texts[:size]
    if texts_a != texts_b:
        token = next(i for i in range(size) if texts_a[i] != texts_b[i])
        raise VocabMismatchError(
            f"the models do not share a tokenizer: id {token} is {a.vocab.text(token)!r} in "
            f"{a.name} and {b.vocab.text(token)!r} in {b.name}"
        )
    for token in range(size):
        if a.vocab.is_control(token) != b.vocab.is_control(token):
            one, two = (a, b) if a.vocab.is_control(token) else (b, a)
            raise VocabMismatchError(
                f"the models do not share a tokenizer: id {token} ({a.vocab.text(token)!r}) is a "
                f"control token in {one.name} and plain text in {two.name}"
            )
