"""The two general tasks: translation from line-aligned texts, classification from TSV."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from trimix_edge.errors import EvaluationError
from trimix_edge.evaluate.cells import make_cell
from trimix_edge.evaluate.source import Source, empty, one_line
from trimix_edge.evaluate.tasks import Cell, Item, Selection, Task

_TEXT, _LABEL, _ID = ("text", "sentence"), ("label", "category"), ("id", "index_id")
"""Names of columns that are understood; the second ones are those of SIB-200."""


def load_translation(task: Task, language: str, folder: Path, selection: Selection) -> list[Cell]:
    """One cell a direction; the other language is the other file's suffix.

    Raises:
        EvaluationError: no pair of files, or one whose lines do not pair.
    """
    other = _other_language(folder, selection.split, language)
    files = Source(folder)
    items = _pairs(files, folder, selection.split, language, other)
    if not items:
        raise empty(folder / f"{selection.split}.{language}")

    def cell(source: str, target: str, ours: int) -> Cell:
        def item(number: int, pair: tuple[str, str]) -> Item:
            return Item(str(number), {"source": pair[1 - ours]}, pair[ours])

        def exemplars() -> list[Item]:
            return [item(n, pair) for n, pair in _pairs(files, folder, "train", language, other)]

        found = [item(n, pair) for n, pair in items]
        pair = (source, target)
        return make_cell(task, selection, language, pair, found, [exemplars], files, folder)

    cells = {"into": cell(other, language, 0), "from": cell(language, other, 1)}
    return [cells[direction] for direction in selection.directions]


def _other_language(folder: Path, split: str, language: str) -> str:
    suffixes = {path.suffix[1:] for path in folder.glob(f"{split}.*") if path.is_file()}
    others = sorted(suffixes - {language, ""})
    if language not in suffixes or len(others) != 1:
        raise EvaluationError(
            f"{folder} must hold two files of aligned lines, {split}.{language} and one of another "
            f"language, as {split}.en: it holds {', '.join(sorted(suffixes)) or 'none'}"
        )
    return others[0]


def _pairs(
    files: Source, folder: Path, split: str, language: str, other: str
) -> list[tuple[int, tuple[str, str]]]:
    """Numbered pairs of lines; where one of them is blank there is nothing to translate."""
    names = (f"{split}.{language}", f"{split}.{other}")
    ours, theirs = (files.lines(name) for name in names)
    if len(ours) != len(theirs):
        raise EvaluationError(
            f"{folder / names[0]} has {len(ours)} lines, {names[1]} has {len(theirs)}: line n of "
            f"one must be the translation of line n of the other"
        )
    lines = enumerate(zip(ours, theirs, strict=True), 1)
    return [(n, (one_line(a), one_line(b))) for n, (a, b) in lines if a.strip() and b.strip()]


def load_classification(
    task: Task, language: str, folder: Path, selection: Selection
) -> list[Cell]:
    """One cell.

    Raises:
        EvaluationError: a file is missing, or a row is wrong.
    """
    files = Source(folder)
    items = _rows(files, folder, f"{selection.split}.tsv")
    if not items:
        raise empty(folder / f"{selection.split}.tsv")
    exemplars = [partial(_rows, files, folder, "train.tsv")]
    pair = (language, language)
    return [make_cell(task, selection, language, pair, items, exemplars, files, folder)]


def _rows(files: Source, folder: Path, name: str) -> list[Item]:
    lines = files.lines(name)
    header = lines[0].split("\t") if lines else []
    text, label = _column(header, _TEXT), _column(header, _LABEL)
    if text is None or label is None:
        raise EvaluationError(
            f"{folder / name}: the first line must name the columns, text and label among them"
        )
    number = _column(header, _ID)
    items = []
    for at, line in enumerate(lines[1:], 2):
        row = line.split("\t")
        if len(row) != len(header):
            raise EvaluationError(
                f"{folder / name}, line {at} has {len(row)} columns, the first line has "
                f"{len(header)}"
            )
        if not row[text].strip() or not row[label].strip():
            raise EvaluationError(f"{folder / name}, line {at}: its text or its label is blank")
        identity = row[number] if number is not None else str(at - 1)
        items.append(Item(identity, {"text": row[text]}, one_line(row[label])))
    return items


def _column(header: list[str], names: tuple[str, ...]) -> int | None:
    return next((header.index(name) for name in names if name in header), None)
