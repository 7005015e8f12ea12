"""What an output answers: a letter, a label, a number, or its text."""

from __future__ import annotations

import re
import unicodedata
from decimal import Decimal
from string import ascii_uppercase

# Any script's digits, in groups of three or not, and a sign that is no subtraction.
_NUMBER = re.compile(
    r"(?:(?<![\w).])[-−])?(?:\d{1,3}(?:[,，٬]\d{3})+(?!\d)|\d+)(?:[.٫]\d+)?",
)
_SEPARATORS = str.maketrans({",": None, "，": None, "٬": None, "٫": ".", "−": "-"})
_MAX_DIGITS = 400


def first_line(output: str) -> str:
    """The answer in an output: its first line, without the space around it."""
    return output.partition("\n")[0].strip()


def as_letter(answer: str, n_options: int) -> str | None:
    """The first of the letters A, B, ... that stands alone; full-width ones are the same."""
    text = unicodedata.normalize("NFKC", answer).upper()
    letters = ascii_uppercase[:n_options]
    found = re.search(rf"(?<![A-Z])[{letters}](?![A-Z])", text)
    return found[0] if found else None


def as_label(answer: str) -> str:
    """A label as it is compared: case-folded, without space and punctuation around it."""
    text = unicodedata.normalize("NFC", answer).casefold()
    start, end = 0, len(text)
    while start < end and _is_around(text[start]):
        start += 1
    while start < end and _is_around(text[end - 1]):
        end -= 1
    return " ".join(text[start:end].split())


def _is_around(letter: str) -> bool:
    return letter.isspace() or unicodedata.category(letter)[0] == "P"


def as_number(answer: str) -> Decimal | None:
    """The last number of an answer; ༡༢, ١٢, １２ and 12 are the same, and so are 3 and 3.0."""
    found = _NUMBER.findall(answer)
    if not found or len(found[-1]) > _MAX_DIGITS:
        return None
    digits = "".join(
        str(unicodedata.decimal(letter)) if letter.isdecimal() else letter for letter in found[-1]
    )
    return Decimal(digits.translate(_SEPARATORS))
