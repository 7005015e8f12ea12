"""tokenizer.model: the few fields of SentencePiece's protocol buffer that GGUF needs.

The format (sentencepiece_model.proto): field 1 of the model repeats the pieces, each with its
text (1), score (2) and type (3); field 2 is the trainer's specification, whose field 3 is the
model type, 1 unigram and 2 BPE; field 3 is the normaliser's, with a name (1), compiled rules (2),
whether a space goes before a text (3) and whether extra spaces are removed (4), both true unless
it says otherwise. SentencePiece itself is not needed to read that.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gguf import TokenType

from .config import read_bytes
from .errors import TokenizerError

_BPE = 2


@dataclass(frozen=True)
class Piece:
    """One entry of a SentencePiece vocabulary."""

    text: str
    score: float
    type: TokenType


@dataclass(frozen=True)
class SentencePieceModel:
    """The vocabulary of a tokenizer.model, in the order of its ids, and how it treats text.

    `normalization` is the name of its rules, `normalizes` whether they change any text.
    """

    pieces: list[Piece]
    is_bpe: bool
    normalization: str = ""
    normalizes: bool = False
    adds_space: bool = True


def read_sentencepiece_model(path: Path) -> SentencePieceModel:
    """Read tokenizer.model. Raises TokenizerError when it is something else."""
    message = read_bytes(path)
    try:
        pieces: list[Piece] = []
        model_type = 1
        normalizer: dict[int, int | float | bytes] = {}
        for number, value in _fields(message):
            if number == 1 and isinstance(value, bytes):
                pieces.append(_piece(value))
            elif number == 2 and isinstance(value, bytes):
                found = dict(_fields(value)).get(3, model_type)
                model_type = found if isinstance(found, int) else model_type
            elif number == 3 and isinstance(value, bytes):
                normalizer = dict(_fields(value))
        if not pieces:
            raise ValueError("no pieces")
        name = normalizer.get(1, b"")
        normalization = name.decode("utf-8") if isinstance(name, bytes) else ""
    except (ValueError, IndexError, struct.error):  # also UnicodeDecodeError
        raise TokenizerError(f"{path} is damaged or no SentencePiece model") from None
    return SentencePieceModel(
        pieces,
        model_type == _BPE,
        normalization,
        normalizes=bool(normalizer.get(2)) or bool(normalizer.get(4, bool(normalizer))),
        adds_space=bool(normalizer.get(3, True)),
    )


def _piece(message: bytes) -> Piece:
    text, score, kind = "", 0.0, 1
    for number, value in _fields(message):
        if number == 1 and isinstance(value, bytes):
            text = value.decode("utf-8")
        elif number == 2 and isinstance(value, float):
            score = value
        elif number == 3 and isinstance(value, int):
            kind = value
    return Piece(text, score, TokenType(kind))


def _fields(message: bytes) -> Iterator[tuple[int, int | float | bytes]]:
    """The fields of a protocol buffer message: number and value. Raises ValueError."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        wire = key & 7
        value: int | float | bytes
        if wire == 0:
            value, at = _varint(message, at)
        elif wire == 1:
            (value,) = struct.unpack_from("<q", message, at)
            at += 8
        elif wire == 2:
            length, at = _varint(message, at)
            if at + length > len(message):
                raise ValueError("a field ends beyond the message")
            value, at = message[at : at + length], at + length
        elif wire == 5:
            (value,) = struct.unpack_from("<f", message, at)
            at += 4
        else:
            raise ValueError(f"wire type {wire}")
        yield key >> 3, value


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")
