"""Tokenizer files of a checkpoint -> the vocabulary of a GGUF file.

Two kinds: byte-level BPE (GGUF's "gpt2": Llama 3, Qwen, the embedded trio) and SentencePiece BPE
with byte fallback (GGUF's "llama": Llama 2, Gemma).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gguf import GGUFWriter, TokenType

from .config import Config, read_json
from .errors import TokenizerError
from .special_tokens import SpecialTokens


@dataclass
class Vocabulary:
    """What GGUF stores under `tokenizer.*`.

    `tokens`, `types` and, for SentencePiece, `scores` have one entry for each row of the
    embedding; rows no token owns are "[PAD<id>]" of type UNUSED.
    """

    model: str
    pre: str
    tokens: list[str]
    types: list[TokenType]
    special: SpecialTokens
    merges: Sequence[str] = ()
    scores: Sequence[float] = ()
    add_space_prefix: bool | None = None
    notes: list[str] = field(default_factory=list)

    def check(self) -> None:
        """Raises TokenizerError for texts that would make llama.cpp abort: equal ones, or cut."""
        seen: dict[str, int] = {}
        for token_id, text in enumerate(self.tokens):
            if seen.setdefault(text, token_id) != token_id:
                raise TokenizerError(f"tokens {seen[text]} and {token_id} are both {text[:40]!r}")
            if "\0" in text:
                raise TokenizerError(f"token {token_id} has a null character in it")

    def write(self, writer: GGUFWriter) -> None:
        """Add every `tokenizer.*` key to the writer."""
        writer.add_tokenizer_model(self.model)
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.tokens)
        if self.scores:
            writer.add_token_scores(self.scores)
        writer.add_token_types(self.types)
        if self.merges:
            writer.add_token_merges(self.merges)
        if self.add_space_prefix is not None:
            writer.add_add_space_prefix(self.add_space_prefix)
        self.special.write(writer)


@dataclass(frozen=True)
class AddedToken:
    """A token from outside the model's own vocabulary, matched before any merging."""

    id: int
    text: str
    special: bool

    @property
    def is_control(self) -> bool:
        """Whether it steers rather than writes. Some checkpoints forget to say so (Gemma)."""
        return (
            self.special
            or self.text in ("<pad>", "<mask>", "<2mass>", "[@BOS@]")
            or (self.text.startswith("<|") and self.text.endswith("|>"))
            or (self.text.startswith("<unused") and self.text.endswith(">"))
        )


class TokenizerFiles:
    """The tokenizer files of one checkpoint, each parsed once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tokenizer = self._read("tokenizer.json")
        self.config = self._read("tokenizer_config.json")

    def _read(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        return read_json(path) if path.is_file() else {}

    def model(self) -> dict[str, Any]:
        """The `model` of tokenizer.json, a BPE one. Raises TokenizerError."""
        if not self.tokenizer:
            raise TokenizerError(
                f"no tokenizer in {self.folder}: expected tokenizer.json or tokenizer.model"
            )
        model = self.tokenizer.get("model")
        if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict):
            raise self.malformed("tokenizer.json", "no vocabulary in it")
        if model.get("type", "BPE") != "BPE":
            raise self.malformed("tokenizer.json", f"{model.get('type')!r:.40} is not BPE")
        return model

    def added_tokens(self) -> dict[int, AddedToken]:
        """Added tokens by id: tokenizer.json's, then those only the smaller files know."""
        found: dict[int, AddedToken] = {}
        listed = self.tokenizer.get("added_tokens") or []
        decoder = self.config.get("added_tokens_decoder") or {}
        try:
            entries = [(entry["id"], entry) for entry in listed]
            entries += [(int(key), entry) for key, entry in decoder.items()]
            legacy = self._read("added_tokens.json")
            entries += [(token_id, {"content": text}) for text, token_id in legacy.items()]
            for token_id, entry in entries:
                text, special = entry["content"], bool(entry.get("special"))
                if not isinstance(token_id, int) or not isinstance(text, str) or token_id < 0:
                    raise ValueError
                found.setdefault(token_id, AddedToken(token_id, text, special))
        except (TypeError, KeyError, ValueError, AttributeError):
            raise self.malformed("tokenizer.json", "an added token lacks id or content") from None
        return found

    def malformed(self, name: str, what: str) -> TokenizerError:
        """The complaint about one of the files, ready to be raised."""
        return TokenizerError(f"cannot use {self.folder / name}: {what}")


def place_tokens(
    files: TokenizerFiles, own: dict[str, int], added: dict[int, AddedToken], n_vocab: int
) -> tuple[list[str], list[TokenType]]:
    """Texts and types for the `n_vocab` rows of the embedding: own tokens, then added ones.

    Raises TokenizerError when a token's id lies beyond the embedding.
    """
    tokens = [f"[PAD{i}]" for i in range(n_vocab)]
    types = [TokenType.UNUSED] * n_vocab
    for text, token_id in own.items():
        if not isinstance(token_id, int) or not 0 <= token_id < n_vocab:
            raise _beyond(files, text, token_id, n_vocab)
        if types[token_id] is not TokenType.UNUSED:
            raise files.malformed("tokenizer.json", f"two tokens have id {token_id}")
        tokens[token_id], types[token_id] = text, TokenType.NORMAL
    for token_id, token in added.items():
        if token_id >= n_vocab:
            raise _beyond(files, token.text, token_id, n_vocab)
        if token.is_control:
            tokens[token_id], types[token_id] = token.text, TokenType.CONTROL
        else:
            # llama.cpp looks for these in raw text, where a space is a space and no "▁".
            tokens[token_id] = token.text.replace("▁", " ")
            types[token_id] = TokenType.USER_DEFINED
    return tokens, types


def _beyond(files: TokenizerFiles, text: str, token_id: object, n_vocab: int) -> TokenizerError:
    return files.malformed(
        "the tokenizer", f"token {text[:40]!r} has id {token_id}, the embedding {n_vocab} rows"
    )


def read_vocabulary(folder: Path, config: Config, pre: str | None = None) -> Vocabulary:
    """The vocabulary of the checkpoint in `folder`, one entry for each embedding row.

    `pre` names llama.cpp's pre-tokenizer and overrules the recognition. Raises TokenizerError.
    """
    from . import bpe, sentencepiece  # both build on this module

    files = TokenizerFiles(folder)
    if sentencepiece.is_sentencepiece(files):
        vocabulary = sentencepiece.read(files, config)
        if pre is not None:
            vocabulary.notes.append(
                f"--pre {pre} is without effect: the tokenizer is SentencePiece"
            )
    else:
        vocabulary = bpe.read(files, config, pre)
    vocabulary.check()
    return vocabulary
