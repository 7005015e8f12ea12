"""A model's vocabulary: text to ids, ids to bytes, and whether two models share one."""

from __future__ import annotations

import ctypes
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import llama_cpp

from trimix_edge.errors import PromptError, UsageError, VocabMismatchError, notice

_UNUSED = llama_cpp.LLAMA_TOKEN_ATTR_UNUSED
_CONTROL = llama_cpp.LLAMA_TOKEN_ATTR_CONTROL
_NOT_IN_PLAIN_TEXT = _CONTROL | llama_cpp.LLAMA_TOKEN_ATTR_UNKNOWN
_SPECIAL = _NOT_IN_PLAIN_TEXT | llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED
_LSTRIP, _RSTRIP = llama_cpp.LLAMA_TOKEN_ATTR_LSTRIP, llama_cpp.LLAMA_TOKEN_ATTR_RSTRIP
_SPACES = " \t\n\v\f\r"
_NULL_TOKEN = -1


class Vocab:
    """The vocabulary of one loaded model (``llama_model_get_vocab``). The model owns its memory.

    Attributes:
        normalizer: the Unicode normal form that texts get before they become tokens, as ``NFC``;
            "" for none. llama.cpp knows of none, Hugging Face's tokenizers of some models do.

    Args:
        has_bos, has_eos: whether the file names such a token. Where it does not, llama.cpp takes an
            id that some other model has for it; that counts only if it is a control token here.
    """

    def __init__(
        self,
        pointer: Any,
        tokenizer: str,
        pre_tokenizer: str,
        normalizer: str = "",
        *,
        has_bos: bool = True,
        has_eos: bool = True,
    ) -> None:
        self._pointer = pointer
        self._bytes: dict[int, bytes] = {}
        self._is_end: dict[int, bool] = {}
        self.normalizer = normalizer
        self.tokenizer = tokenizer
        self.pre_tokenizer = pre_tokenizer
        self.size: int = llama_cpp.llama_vocab_n_tokens(pointer)
        self._has_bos, self._has_eos = has_bos, has_eos

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
        """Token ids of a text (``llama_tokenize``), which is normalised first.

        Args:
            add_special: add the tokens that the model wants before a text, such as BOS. An EOS
                that a file wants after each text is left out: the text is to be continued.
            parse_special: read the spelling of a control token, such as ``<|im_end|>``, as it.

        Raises:
            PromptError: the text holds a lone surrogate, or is too long to be tokenized.
            UsageError: it is no text.
        """
        if not isinstance(text, str):
            raise UsageError(f"a text is a str, not {type(text).__name__}: {text!r:.60}")
        ids = self._tokenize(self.normalize(text), parse_special)
        if add_special and self.adds_eos:
            notice(
                f"the model wants {self.text(self.eos)} after each text: it is left out, as "
                f"nothing would come after it"
            )
        return [self.bos, *ids] if add_special and self.adds_bos else ids

    def normalize(self, text: str) -> str:
        """The text in the vocabulary's normal form, the spellings of special tokens untouched."""
        form: Any = self.normalizer
        if not form or unicodedata.is_normalized(form, text):
            return text
        return "".join(
            self.text(part) if isinstance(part, int) else unicodedata.normalize(form, part)
            for part in self.partition(text, strip=False)
        )

    def partition(self, text: str, *, strip: bool = True) -> list[str | int]:
        """A text cut at the spellings of special tokens: their ids, and the plain text between.

        So does ``llama_tokenize`` with ``parse_special``: the longest spellings first, everywhere.

        Args:
            strip: leave out the spaces that a token takes with it, where the file says so.
        """
        parts: list[str | int] = [text]
        for token, spelling in self.special_tokens:
            if spelling in text:
                attributes = self._attributes[token] if strip else 0
                parts = [cut for part in parts for cut in _cut(part, token, spelling, attributes)]
        return [part for part in parts if part != ""]

    def _tokenize(self, text: str, parse_special: bool) -> list[int]:
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
                self.pointer, data, len(data), buffer, capacity, False, parse_special
            )
            if count >= 0:
                return list(buffer[:count])
            capacity = -count
        raise PromptError(f"a text of {len(data)} bytes is too long for llama_tokenize")

    def token_bytes(self, token: int, *, special: bool = False) -> bytes:
        """The bytes that a token stands for; often a part of a character only.

        Args:
            special: spell control tokens out; otherwise they are empty, and so is every token
                that ends a generation, of whatever type the file says that it is.
        """
        if not special and token in self._bytes:
            return self._bytes[token]
        if not 0 <= token < self.size:
            raise ValueError(f"token {token} is not in a vocabulary of {self.size}")
        if not special and self.is_end(token):
            return b""
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
        """Whether a token ends a generation (``llama_vocab_is_eog``): EOS, EOT and their like."""
        known = self._is_end.get(token)
        if known is None:
            known = self._is_end[token] = token in self._ends or self._is_eog(token)
        return known

    def _is_eog(self, token: int) -> bool:
        invented = not self._has_eos and self.eos == _NULL_TOKEN  # llama.cpp's own idea of EOS
        if invented and token == llama_cpp.llama_vocab_eos(self.pointer):
            return False
        return bool(llama_cpp.llama_vocab_is_eog(self.pointer, token))

    def text(self, token: int) -> str:
        """A token as the vocabulary spells it: for messages, and for comparing vocabularies."""
        raw: bytes = llama_cpp.llama_vocab_get_text(self.pointer, token) or b""
        return raw.decode("utf-8", errors="backslashreplace")

    def special_text(self, token: int) -> str:
        """The spelling of a special token; empty where the model has none (id -1)."""
        return "" if token == _NULL_TOKEN else self.text(token)

    @property
    def bos(self) -> int:
        """Id of the beginning-of-sequence token, -1 for none."""
        return self._real(int(llama_cpp.llama_vocab_bos(self.pointer)), self._has_bos)

    @property
    def eos(self) -> int:
        """Id of the end-of-sequence token, -1 for none."""
        return self._real(int(llama_cpp.llama_vocab_eos(self.pointer)), self._has_eos)

    def _real(self, token: int, is_named: bool) -> int:
        if not is_named and 0 <= token < self.size:
            kind = llama_cpp.llama_vocab_get_attr(self.pointer, token)
            return token if kind & _CONTROL else _NULL_TOKEN
        return token

    @property
    def adds_bos(self) -> bool:
        """Whether BOS comes before each text."""
        return bool(llama_cpp.llama_vocab_get_add_bos(self.pointer)) and self.bos != _NULL_TOKEN

    @property
    def adds_eos(self) -> bool:
        """Whether the file wants EOS after each text, as for training."""
        return bool(llama_cpp.llama_vocab_get_add_eos(self.pointer)) and self.eos != _NULL_TOKEN

    @cached_property
    def _ends(self) -> frozenset[int]:
        """EOS and EOT by their ids, should llama.cpp not count them among the ends."""
        return frozenset({self.eos, int(llama_cpp.llama_vocab_eot(self.pointer))} - {_NULL_TOKEN})

    @cached_property
    def special_tokens(self) -> list[tuple[int, str]]:
        """Ids and spellings of the tokens that are cut out of a text before it is tokenized, the
        longest first."""
        found = [(i, self.text(i)) for i, kind in enumerate(self._attributes) if kind & _SPECIAL]
        return sorted((f for f in found if f[1]), key=lambda found: -len(found[1].encode()))

    @cached_property
    def control_spellings(self) -> list[str]:
        """Spellings that mean something else in plain text: of control tokens, and of UNK."""
        return [text for i, text in self.special_tokens if self._attributes[i] & _NOT_IN_PLAIN_TEXT]

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


def _cut(part: str | int, token: int, spelling: str, attributes: int) -> list[str | int]:
    if isinstance(part, int):
        return [part]
    first, *others = part.split(spelling)
    cut: list[str | int] = [first]
    for text in others:
        before = cut[-1]
        if attributes & _LSTRIP and isinstance(before, str):
            cut[-1] = before.rstrip(_SPACES)
        cut += [token, text.lstrip(_SPACES) if attributes & _RSTRIP else text]
    return cut


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
