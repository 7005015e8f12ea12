"""Items and exemplars to a cell: chosen, cut and limited alike, whatever files they come from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from trimix_edge.evaluate.exemplars import choose
from trimix_edge.evaluate.source import Source, too_few
from trimix_edge.evaluate.tasks import Cell, Item, Selection, Task


def make_cell(
    task: Task,
    selection: Selection,
    language: str,
    pair: tuple[str, str],
    items: Sequence[Item],
    exemplar_files: Sequence[Callable[[], Sequence[Item]]],
    files: Source,
    folder: Path,
) -> Cell:
    """The cell of all items of a file.

    Args:
        pair: source and target language.
        exemplar_files: readers of the files of exemplars, in the order in which they are used.
        files: what the readers read through.
        folder: of the data, for messages.

    Raises:
        EvaluationError: fewer exemplars than are wanted, or a file of them is wrong.
    """
    labels = {item.reference for item in items} if task.has_labels else set()
    chosen = choose(task, selection, exemplar_files, sorted(labels))
    if not chosen.is_enough:
        raise too_few(folder, len(chosen.items), chosen.wanted)
    if task.has_labels:
        labels |= {item.reference for item in chosen.items}
    shown = [_cut(task, selection, item) for item in items[: selection.limit]]
    exemplars = [_cut(task, selection, item) for item in chosen.items]
    return Cell(
        task=task,
        language=language,
        source=pair[0],
        target=pair[1],
        items=tuple(item for item, _ in shown),
        exemplars=tuple(item for item, _ in exemplars),
        labels=tuple(sorted(labels)),
        kept=chosen.kept,
        lacking=chosen.lacking,
        n_cut=(sum(is_cut for _, is_cut in shown), sum(is_cut for _, is_cut in exemplars)),
        data=files.hashes,
    )


def _cut(task: Task, selection: Selection, item: Item) -> tuple[Item, bool]:
    """An item with its long field cut, and whether it had to be."""
    name, n_chars = task.long_field, selection.n_chars(task)
    if name is None or n_chars == 0 or len(item.fields[name]) <= n_chars:
        return item, False
    return replace(item, fields={**item.fields, name: item.fields[name][:n_chars]}), True
