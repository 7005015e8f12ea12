"""The vocabulary of a GGUF file: every token's text and type, and what goes with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from gguf import GGUFWriter, TokenType

from .errors import TokenizerError
from .normalizer import NORMALIZER_KEY
from .special_tokens import SpecialTokens
from .tokenizer_files import AddedToken, TokenizerFiles


@dataclass
class Vocabulary:
    """What GGUF stores under `tokenizer.*`, and the tokenizer's normaliser under a key of ours.

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
    normalizer: str | None = None
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
        if self.normalizer is not None:
            writer.add_string(NORMALIZER_KEY, self.normalizer)
        self.special.write(writer)


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
