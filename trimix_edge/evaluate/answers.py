"""What an output answers: a letter, a label, a number, or its text.

Two judges: the wiser one here reads what a person would read, the paper's is in
:mod:`~trimix_edge.evaluate.paper`.
"""

from __future__ import annotations

import re
import unicodedata
from string import ascii_uppercase

# Texts of special tokens of the families that the paper fuses; a vocabulary may spell one as text.
_SPECIAL = re.compile(
    r"<\|[A-Za-z0-9_]+\|>|</?s>|<(?:unk|pad|bos|eos|mask|start_of_turn|end_of_turn)>"
)

# What leads up to a letter where an answer is a sentence: surely, and perhaps.
_LETTER = r"[\s:：]*[(\[（「'\"*]*([A-Z])(?![A-Za-z0-9]|[-'’][A-Za-z])"
_ANSWER_IS = re.compile(r"(?:\banswer(?: is| would be| should be)?|答案是?)" + _LETTER)
_IS = re.compile(r"(?:\b(?:is|option|choice|reply)|是|选项?|选择)" + _LETTER)
_ALONE = re.compile(r"(?<![A-Za-z0-9'’-])(?<![A-Za-z]\.)([A-Za-z])(?![A-Za-z0-9]|[-'’][A-Za-z])")
# After the letter A these make it an answer ("A is right"), before any other word it is an article.
_NO_ARTICLE = frozenset(
    {"is", "was", "and", "or", "but", "because", "since", "as", "for", "seems", "would", "should"}
)


def first_line(output: str) -> str:
    """The answer in an output: its first line that is not blank, without special tokens' texts.

    As the paper's code takes it: stripped, the first line, special tokens removed, stripped again.
    """
    return _SPECIAL.sub("", output.strip().partition("\n")[0]).strip()


def as_letter(answer: str, n_options: int) -> str | None:
    """The option that an answer names; None if it names none.

    A letter that the sentence announces ("the answer is B") goes before the first one that stands
    alone. The article in "A good answer" is no letter. Full-width letters are the same, and a small
    one counts where it stands for the answer: alone, in brackets or before a sign.
    """
    text = unicodedata.normalize("NFKC", answer).strip()
    letters = ascii_uppercase[:n_options]
    if not _begins_with_letter(text, letters):
        # Words in small letters, letters as they are.
        said = re.sub(r"[A-Za-z]{2,}", lambda word: word[0].lower(), text)
        for cue, which in ((_ANSWER_IS, -1), (_IS, 0)):
            announced = [f[1] for f in cue.finditer(said) if not _is_article(said, f, 1)]
            announced = [letter for letter in announced if letter in letters]
            if announced:
                return announced[which]
    for found in _ALONE.finditer(text):
        letter = found[1].upper()
        if letter in letters and not _is_small_word(text, found):
            return letter
    return None


def _begins_with_letter(text: str, letters: str) -> bool:
    """Whether the answer is the letter itself, with a sign or nothing after it: ``(B) ...``."""
    found = re.match(r"[(\[（「'\"*]*([A-Za-z])(?:\s*[)\].:,;、。）」'\"*།]|\s*$)", text)
    return found is not None and found[1].upper() in letters


def _is_article(text: str, found: re.Match[str], group: int) -> bool:
    """Whether a capital letter is the first word of something else: "A good one", "I think"."""
    word = re.match(r"\s+([A-Za-z]+)", text[found.end(group) :])
    if found[group] not in "AI" or word is None:
        return False
    return word[1].islower() and word[1] not in _NO_ARTICLE


def _is_small_word(text: str, found: re.Match[str]) -> bool:
    """Whether a letter that stands alone is a word of its sentence: an article, a small letter."""
    if found[1].isupper():
        return _is_article(text, found, 1)
    has_next = re.match(r"\s+[A-Za-z]", text[found.end() :]) is not None
    return has_next or (found.start() > 0 and text[found.start() - 1].isspace())


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
