"""A tokenizer for ROUGE that knows more than Latin.

rouge-score's own drops every letter but a to z: all Tibetan is empty to it. Here a token is a run
of letters, marks and digits of any script: words between spaces (Uyghur, Kazakh, Mongolian),
syllables between tshegs (Tibetan, Dzongkha). Scripts that write no spaces give a token a letter.
"""

from __future__ import annotations

import unicodedata

# First and last letters of scripts that put no space or other sign between words.
_UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x3040, 0x30FF),  # kana
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)
_JOINERS = "\u180e\u200c\u200d"
"""Shape the letters around them, in Mongolian and in Arabic script, and part no words."""


class UnicodeTokenizer:
    """What ``rouge_score`` calls a tokenizer: an object with ``tokenize``."""

    def tokenize(self, text: str) -> list[str]:
        """The tokens of a text; its signs, if it has no letters, so that only blanks have none."""
        text = unicodedata.normalize("NFC", text).casefold()
        tokens: list[str] = []
        run = ""
        for letter in text:
            if _is_mark(letter) or (run and letter in _JOINERS):
                run += letter
            elif unicodedata.category(letter)[0] not in "LN":
                tokens.append(run)
                run = ""
            elif _is_unspaced(letter):
                tokens.append(run)
                run = letter
            else:
                if run and _is_unspaced(run[0]):
                    tokens.append(run)
                    run = ""
                run += letter
        tokens = [token for token in (*tokens, run) if token]
        return tokens or [letter for letter in text if not letter.isspace()]


def _is_mark(letter: str) -> bool:
    return unicodedata.category(letter)[0] == "M"


def _is_unspaced(letter: str) -> bool:
    return any(first <= ord(letter) <= last for first, last in _UNSPACED)
