"""MiLiC-Eval's items: lists of JSON objects, one file a split."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from trimix_edge.errors import EvaluationError
from trimix_edge.evaluate.cells import make_cell
from trimix_edge.evaluate.numbers import last_number
from trimix_edge.evaluate.source import Source, empty, one_line
from trimix_edge.evaluate.tasks import Cell, Item, Selection, Task

N_TRAIN_FILES = 3

_TEXT = ("text", "sentence", "passage", "content")
_ARTICLE = ("content", "text", "article", "passage")
"""Names that long fields have or may have; the first ones are those of the paper's data."""


class Record:
    """One object of a file: its getters name file, item and field of what is wrong.

    A dotted name, as ``label.en``, is a key of that spelling or a path into nested objects.
    """

    def __init__(self, content: Mapping[str, Any], path: Path, number: int) -> None:
        self._content = content
        self._where = f"{path}, item {number}"
        self.id = self.scalar("id")

    def _find(self, name: str) -> Any:
        if name in self._content:
            return self._content[name]
        value: Any = self._content
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return value

    def _get(self, name: str) -> Any:
        value = self._find(name)
        if value is None:
            raise EvaluationError(f"{self._where} lacks the field {name!r}")
        return value

    def wrong(self, name: str, expected: str) -> EvaluationError:
        return EvaluationError(
            f"{self._where}: the field {name!r} must be {expected}, not {self._find(name)!r}"
        )

    def __contains__(self, name: str) -> bool:
        return self._find(name) is not None

    def first(self, names: Sequence[str]) -> str:
        """The first of these names that is a field; the first one if none is."""
        return next((name for name in names if name in self), names[0])

    def text(self, name: str) -> str:
        value = self._get(name)
        if not isinstance(value, str) or not value.strip():
            raise self.wrong(name, "a text that is not blank")
        return self._checked(name, value)

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts; a lone text is a list of one."""
        value = self._get(name)
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
            raise self.wrong(name, "a list of texts")
        return tuple(self._checked(name, v) for v in values)

    def scalar(self, name: str) -> str:
        """A text, or a number as a text."""
        value = self._get(name)
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise self.wrong(name, "a text or a number")
        if isinstance(value, float) and math.isfinite(value):  # 1e-05 would read as 5
            return format(Decimal(repr(value)), "f")
        return self._checked(name, str(value)).strip()

    def _checked(self, name: str, text: str) -> str:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:  # JSON can spell half of a character: \ud800
            raise EvaluationError(
                f"{self._where}: the field {name!r} is not valid Unicode"
            ) from None
        return text


def records(text: str, path: Path) -> list[Record]:
    """The objects of a file.

    Raises:
        EvaluationError: not JSON, not a list of objects, or an object without ``id``.
    """
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise EvaluationError(
            f"{path} is not JSON: {error.msg} in line {error.lineno}, column {error.colno}"
        ) from None
    except (RecursionError, ValueError):  # nested too deeply, or a number of too many digits
        raise EvaluationError(f"{path} is not JSON of a sensible kind") from None
    if not isinstance(content, list):
        raise EvaluationError(f"{path} must be a list of objects, it is {_kind(content)}")
    for number, entry in enumerate(content, 1):
        if not isinstance(entry, dict):
            raise EvaluationError(f"{path}, item {number} must be an object, it is {_kind(entry)}")
    return [Record(entry, path, number) for number, entry in enumerate(content, 1)]


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a text", type(None): "null"}
    return names.get(type(value), "a number")


def load(task: Task, language: str, folder: Path, selection: Selection) -> list[Cell]:
    """The cells of a task in a language: two for a translation, one for others.

    Raises:
        EvaluationError: a file is missing or wrong, or holds too little.
    """
    name = f"{selection.split}.json"
    cells = []
    for source, target in _pairs(task, language, selection):
        files = Source(folder)
        read = _reader(task, source, target, selection)
        show = _reader(task, source, target, selection, exemplar=True)
        found = _read(files, name, read)
        if not found:
            raise empty(folder / name)

        readers = [partial(_read, files, train, show) for train in _train_files(selection.seed)]
        pair = (source, target)
        cells.append(make_cell(task, selection, language, pair, found, readers, files, folder))
    return cells


def _read(files: Source, name: str, read: Callable[[Record], Item]) -> list[Item]:
    return [read(record) for record in records(files.text(name), files.folder / name)]


def _train_files(seed: int) -> Iterator[str]:
    for n in range(N_TRAIN_FILES):
        yield f"train_{(seed + n) % N_TRAIN_FILES + 1}.json"


def _pairs(task: Task, language: str, selection: Selection) -> list[tuple[str, str]]:
    """Source and target; the other language of a translation is that of the prompts."""
    if not task.translates:
        return [(language, language)]
    other = selection.prompt_language
    pairs = {"into": (other, language), "from": (language, other)}
    return [pairs[direction] for direction in selection.directions]


def _reader(
    task: Task, source: str, target: str, selection: Selection, *, exemplar: bool = False
) -> Callable[[Record], Item]:
    """What turns a record into an item; exemplars of mathematics must show the way."""
    prompt_language = selection.prompt_language

    def choice(record: Record) -> Item:
        options = record.texts("options")
        letters = ascii_uppercase[: len(options)]
        if not 2 <= len(options) <= len(ascii_uppercase):
            raise record.wrong("options", "a list of 2 to 26 texts")
        answer = record.text("answer").strip().upper()
        if answer not in tuple(letters):
            raise record.wrong("answer", f"a letter from A to {letters[-1]}")
        fields = {"context": "\n".join(record.texts("context"))}
        if "question" in task.fields:
            fields["question"] = record.text("question")
        return Item(record.id, fields, answer, options)

    def label(record: Record) -> Item:
        name = record.first((f"label.{prompt_language}", "label.en"))
        fields = {"text": record.text(record.first(_TEXT))}
        return Item(record.id, fields, one_line(record.text(name)))

    def title(record: Record) -> Item:
        fields = {"content": record.text(record.first(_ARTICLE))}
        return Item(record.id, fields, one_line(record.text("title")))

    def translation(record: Record) -> Item:
        fields = {"source": one_line(record.text(source))}
        return Item(record.id, fields, one_line(record.text(target)))

    def number(record: Record) -> Item:
        answer = record.scalar("answer")
        if not last_number(answer):
            raise record.wrong("answer", "a number")
        name = record.first((f"cot.{prompt_language}", "cot.en"))
        cot = one_line(record.text(name)) if exemplar else ""
        return Item(record.id, {"question": record.text("question")}, answer, cot=cot)

    return {
        "letter": choice,
        "label": label,
        "rouge_l": title,
        "chrf": translation,
        "number": number,
    }[task.judge]
