"""The normaliser of a tokenizer: what Hugging Face does to a text before it is tokenized.

llama.cpp normalises nothing. The form that a tokenizer brings its text into is therefore stored
under a key of this project, for its runtime to apply; it is one of Unicode's four.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

#: GGUF key, a string: "NFC", "NFD", "NFKC" or "NFKD", as `unicodedata.normalize` takes it.
NORMALIZER_KEY = "trimix.tokenizer.normalizer"

_FORMS = ("NFC", "NFD", "NFKC", "NFKD")


def read_normalizer(normalizer: Any, *, spaces: bool) -> tuple[str | None, str | None]:
    """The Unicode form of tokenizer.json's normaliser, and a note about what it does.

    `spaces` passes the steps that a SentencePiece tokenizer marks spaces with, which llama.cpp
    does too. Both are None where nothing remains; the form alone is None where the steps are
    more than one form: part of a normalisation would be another one.
    """
    steps = [step for step in _steps(normalizer) if not (spaces and _marks_spaces(step))]
    kinds = list(dict.fromkeys(str(step.get("type")) for step in steps))
    if not kinds:
        return None, None
    if len(kinds) == 1 and kinds[0] in _FORMS:
        return kinds[0], (
            f"the tokenizer normalises text ({kinds[0]}), llama.cpp does not: the file says so "
            f"under {NORMALIZER_KEY}; other programs need normalised prompts"
        )
    return None, (
        f"the tokenizer normalises text ({' + '.join(kinds)[:80]}), llama.cpp does not: "
        "normalise prompts beforehand"
    )


def _steps(normalizer: Any) -> Iterator[dict[str, Any]]:
    """The steps of a normaliser in order, sequences of sequences flattened."""
    waiting = [normalizer]
    while waiting:
        step = waiting.pop()
        if not isinstance(step, dict):
            continue
        if step.get("type") == "Sequence":
            inner = step.get("normalizers")
            waiting += reversed(inner if isinstance(inner, list) else [])
        elif step.get("type"):
            yield step


def _marks_spaces(step: dict[str, Any]) -> bool:
    if step.get("type") == "Prepend":
        return step.get("prepend") == "▁"
    pattern = step.get("pattern")
    return (
        step.get("type") == "Replace"
        and isinstance(pattern, dict)
        and pattern.get("String") == " "
        and step.get("content") == "▁"
    )
