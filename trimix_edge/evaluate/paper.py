"""The paper's own judge of an answer, for figures that are compared with its tables.

Source: what the authors' released code scores, case by case; it is less forgiving than
:mod:`~trimix_edge.evaluate.answers` with numbers and labels, and takes the article in "A good
answer" for the letter A.
"""

from __future__ import annotations

import re

from trimix_edge.evaluate.answers import first_line

_LETTERS = "ABCDE"
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


def is_letter(output: str, reference: str) -> bool:
    """Whether the first character, if it is one of A to E, or else the whole answer is right."""
    answer = first_line(output)
    return (answer[0] if answer and answer[0] in _LETTERS else answer) == reference


def is_label(output: str, reference: str) -> bool:
    """Whether the answer is the label in lower case, and nothing more."""
    return first_line(output).lower() == reference.lower()


def number(text: str) -> float:
    """The last number of a text without its commas and its final full stop; -1 if it has none."""
    text = text.replace(",", "").strip().removesuffix(".")
    found = _NUMBER.findall(text)
    return float(found[-1]) if found else -1.0


def is_number(output: str, reference: str) -> bool:
    """Whether the answer's last number has the reference's value, as floats.

    The reference keeps its sign; an answer's is not read.
    """
    try:
        wanted = float(reference.replace(",", ""))
    except ValueError:
        wanted = number(reference)
    return number(first_line(output)) == wanted
