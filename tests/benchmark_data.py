"""Benchmark data small enough for the tiny trio, in the formats that ``evaluate`` reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

WORDS = {
    "bo": ("དེབ", "སློབ་གྲྭ", "ཆུ", "རི"),
    "ug": ("كىتاب", "مەكتەپ", "سۇ", "ئۆي"),
    "mn": ("ᠨᠣᠮ", "ᠤᠰᠤ", "ᠭᠡᠷ", "ᠮᠣᠷᠢ"),
    "kk": ("كىتاپ", "ۋقۋشى", "سۋ", "ءۇي"),
}
ENGLISH = ("book", "school", "water", "house")
CHINESE = ("书", "学校", "水", "房子")
MILIC = (
    "reading_comprehension",
    "response_selection",
    "text_classification",
    "title_generation_200",
    "translation_dialogue",
    "math",
)


def record(task: str, language: str, n: int) -> dict[str, Any]:
    """One object of a MiLiC-Eval file."""
    at = n % 4
    word, other = WORDS[language][at], WORDS[language][at - 1]
    letter, options = "AB"[n % 2], [word, other]
    contents: dict[str, dict[str, Any]] = {
        "reading_comprehension": {
            "context": [word],
            "question": other,
            "options": options,
            "answer": letter,
        },
        "response_selection": {"context": [word, other], "options": options, "answer": letter},
        "text_classification": {
            "text": f"{word} {other}",
            "label": {"en": ("Sport", "Travel")[n % 2], "zh": ("体育", "旅行")[n % 2]},
        },
        "title_generation_200": {"content": f"{word} {other}", "title": word},
        "translation_dialogue": {language: word, "en": ENGLISH[at], "zh": CHINESE[at]},
        "math": {
            "question": f"{word} 1 + {n}",
            "answer": n + 1,
            "cot": {"en": f"1 + {n} = {n + 1}.", "zh": f"1 + {n} = {n + 1}。"},
        },
    }
    return {"id": n, **contents[task]}


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def write_milic(
    folder: Path,
    languages: Sequence[str] = tuple(WORDS),
    tasks: Sequence[str] = MILIC,
    n_items: int = 3,
) -> Path:
    """Tasks of MiLiC-Eval: ``n_items`` in ``test.json``, two exemplars in each train file."""
    for task in tasks:
        for language in languages:
            place = folder / task / language
            write_json(place / "test.json", [record(task, language, n) for n in range(n_items)])
            for split in (1, 2, 3):
                shown = [record(task, language, 10 * split + n) for n in range(2)]
                write_json(place / f"train_{split}.json", shown)
    return folder


def write_plain(folder: Path, n_items: int = 4) -> Path:
    """Line-aligned Tibetan and English, and Uyghur texts with labels."""
    pair = folder / "translation" / "bo"
    labelled = folder / "classification" / "ug"
    for place in (pair, labelled):
        place.mkdir(parents=True)
    for split in ("test", "train"):
        for suffix, words in (("bo", WORDS["bo"]), ("en", ENGLISH)):
            lines = "".join(f"{words[n % 4]}\n" for n in range(n_items))
            (pair / f"{split}.{suffix}").write_text(lines, encoding="utf-8")
        rows = "".join(
            f"{WORDS['ug'][n % 4]}\t{('sport', 'travel')[n % 2]}\n" for n in range(n_items)
        )
        (labelled / f"{split}.tsv").write_text(f"text\tlabel\n{rows}", encoding="utf-8")
    return folder
