"""SentencePiece BPE with byte fallback: tokenizer.model or its tokenizer.json -> GGUF's "llama".

The vocabulary carries a score for each piece; llama.cpp merges the neighbours whose union
scores highest. tokenizer.json lists merges instead of scores, best first: a piece's score is
then minus the rank of the first merge that makes it, which is the order SentencePiece trained.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from gguf import TokenType

from .config import Config
from .normalizer import read_normalizer
from .protobuf import SentencePieceModel, read_sentencepiece_model
from .special_tokens import read_special_tokens
from .tokenizer_files import TokenizerFiles
from .vocab import Vocabulary, place_tokens

_ADDED_SCORE = -1000.0  # these never merge; the values are those llama.cpp's converter writes
_PAD_SCORE = -10000.0
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


def is_sentencepiece(files: TokenizerFiles) -> bool:
    """Whether the checkpoint's tokenizer is of this kind: what tokenizer.json says, if there."""
    if files.tokenizer:
        return bool(files.model().get("byte_fallback"))
    return (files.folder / "tokenizer.model").is_file()


def read(files: TokenizerFiles, config: Config) -> Vocabulary:
    """The vocabulary, from tokenizer.model where there is one. Raises TokenizerError."""
    n_vocab = config.integer("vocab_size")
    path = files.folder / "tokenizer.model"
    model = read_sentencepiece_model(path) if path.is_file() else None
    own, types, scores = _from_model(files, model) if model else _from_json(files)
    added = files.added_tokens()
    within = {token_id: token for token_id, token in added.items() if token_id < n_vocab}
    tokens, all_types = place_tokens(files, own, within, n_vocab)
    all_scores = [_PAD_SCORE] * n_vocab
    for token_id, (kind, score) in enumerate(zip(types, scores, strict=True)):
        all_scores[token_id] = score
        if all_types[token_id] is TokenType.NORMAL:
            all_types[token_id] = kind
        if kind is TokenType.USER_DEFINED:
            tokens[token_id] = tokens[token_id].replace("▁", " ")
    for token_id in within:
        all_scores[token_id] = _ADDED_SCORE
    normalizer, note = _normalizer(files, model)
    vocabulary = Vocabulary(
        model="llama",
        pre="default",
        tokens=tokens,
        types=all_types,
        scores=all_scores,
        special=read_special_tokens(files, config, tokens, all_types, within),
        add_space_prefix=_space_prefix(files, model),
        normalizer=normalizer,
        notes=[note] if note else [],
    )
    beyond = len(added) - len(within)
    if beyond:
        vocabulary.notes.append(
            f"left out: {beyond} added tokens that have no row in the embedding"
        )
    return vocabulary


_Pieces = tuple[dict[str, int], Sequence[TokenType], Sequence[float]]


def _from_model(files: TokenizerFiles, model: SentencePieceModel) -> _Pieces:
    """Ids, types and scores of tokenizer.model's pieces."""
    own = {piece.text: token_id for token_id, piece in enumerate(model.pieces)}
    if len(own) != len(model.pieces):
        raise files.malformed("tokenizer.model", "a piece appears twice")
    if not model.is_bpe:
        raise files.malformed("tokenizer.model", "it is a unigram model, not BPE")
    return own, [piece.type for piece in model.pieces], [piece.score for piece in model.pieces]


def _from_json(files: TokenizerFiles) -> _Pieces:
    """Ids, types and scores of tokenizer.json's vocabulary."""
    model = files.model()
    own: dict[str, int] = model["vocab"]
    merges = model.get("merges") or []
    if not isinstance(merges, list):
        raise files.malformed("tokenizer.json", "its merges are no list")
    ids = list(own.values())
    if any(type(id_) is not int for id_ in ids) or sorted(ids) != list(range(len(ids))):
        raise files.malformed("tokenizer.json", "its ids have gaps")
    scores = [_PAD_SCORE] * len(own)
    rank = 0
    made: set[int] = set()
    for merge in merges:
        token_id = own.get(_merged(files, merge))
        if token_id is not None and token_id not in made:
            made.add(token_id)
            scores[token_id] = -float(rank)
            rank += 1
    # Single characters are never made by merging; they rank after everything that is.
    types = [TokenType.NORMAL] * len(own)
    for text, token_id in own.items():
        if _BYTE.fullmatch(text):
            types[token_id], scores[token_id] = TokenType.BYTE, 0.0
        elif token_id not in made:
            scores[token_id] = -float(rank)
            rank += 1
    unknown = own.get(str(model.get("unk_token")))
    if unknown is not None:
        types[unknown] = TokenType.UNKNOWN
    return own, types, scores


def _merged(files: TokenizerFiles, merge: Any) -> str:
    if isinstance(merge, str):
        left, _, right = merge.partition(" ")
        return left + right
    if isinstance(merge, list) and all(isinstance(part, str) for part in merge):
        return "".join(merge)
    raise files.malformed("tokenizer.json", f"merge {merge!r:.60} is not a pair")


def _normalizer(
    files: TokenizerFiles, model: SentencePieceModel | None
) -> tuple[str | None, str | None]:
    """The Unicode form and a note: from tokenizer.json where there is one, as transformers does."""
    if files.tokenizer or model is None:
        return read_normalizer(files.tokenizer.get("normalizer"), spaces=True)
    if not model.normalizes:
        return None, None
    return None, (
        f"tokenizer.model normalises text ({model.normalization[:40] or 'rules of its own'}), "
        "llama.cpp does not: normalise prompts beforehand"
    )


def _space_prefix(files: TokenizerFiles, model: SentencePieceModel | None) -> bool | None:
    """Whether text gets a space in front; None where nothing says so (llama.cpp's default: yes)."""
    flag = files.config.get("add_prefix_space")
    if isinstance(flag, bool):
        return flag
    if not files.tokenizer:
        return None if model is None or model.adds_space else False
    prepends = any(
        step.get("type") == "Prepend"
        or (step.get("type") == "Metaspace" and step.get("prepend_scheme", "always") != "never")
        for part in ("normalizer", "pre_tokenizer")
        for step in _steps(files.tokenizer.get(part))
    )
    return None if prepends else False


def _steps(part: Any) -> list[dict[str, Any]]:
    """The steps of a normalizer or pre-tokenizer, which may be a sequence of others."""
    if not isinstance(part, dict):
        return []
    inner = part.get("normalizers") or part.get("pretokenizers")
    if isinstance(inner, list):
        return [step for step in inner if isinstance(step, dict)]
    return [part]
