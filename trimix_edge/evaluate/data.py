"""Which tasks and languages a folder of benchmark data holds, and their cells.

DIR/TASK/LANG/SPLIT.json                    MiLiC-Eval's tasks, exemplars in train_{1,2,3}.json
DIR/translation/LANG/SPLIT.{LANG,OTHER}     lines of the same number are translations
DIR/classification/LANG/SPLIT.tsv           a header, then columns for a text and its label
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trimix_edge.errors import EvaluationError
from trimix_edge.evaluate import milic, plain
from trimix_edge.evaluate.tasks import TASKS, UNREAD, Cell, Selection, Task


def load_cells(selection: Selection) -> list[Cell]:
    """Read the cells that are asked for, in the order of :data:`TASKS`, then of languages.

    Raises:
        EvaluationError: a folder or a file is missing, or its content is wrong.
    """
    root = selection.data
    if not root.is_dir():
        raise EvaluationError(f"{root} is no folder: --data names the one that holds TASK/LANG")
    chosen = [task for task in TASKS.values() if task.name in selection.tasks]
    tasks = chosen or [task for task in TASKS.values() if (root / task.name).is_dir()]
    if not tasks:
        held = "".join(f"; {text}" for text in skipped(selection)[:4])
        raise EvaluationError(f"{root} holds no task: looked for folders {', '.join(TASKS)}{held}")
    cells: list[Cell] = []
    for task in tasks:
        for language in _languages(root / task.name, selection, named=bool(chosen)):
            cells += _load(task, language, selection)
    if not cells:
        raise EvaluationError(
            f"{root} holds nothing in {', '.join(selection.languages)}: looked for folders "
            f"{', '.join(f'{task.name}/LANG' for task in tasks)}"
        )
    return cells


def skipped(selection: Selection) -> list[str]:
    """What stands beside the cells that :func:`load_cells` reads and is not read, each with why.

    Nothing where tasks were named: the rest was left away on purpose.
    """
    if selection.tasks:
        return []
    found = []
    for name in sorted(path.name for path in selection.data.iterdir() if path.is_dir()):
        if name in TASKS:
            held = {path.name for path in (selection.data / name).iterdir() if path.is_dir()}
            missing = [language for language in selection.languages if language not in held]
            if missing:
                found.append(f"{name} is skipped in {', '.join(missing)}: it has no such folder")
        elif not name.startswith("."):
            found.append(f"folder {name!r} is skipped: {UNREAD.get(name, 'it is no task')}")
    return found


def _languages(folder: Path, selection: Selection, *, named: bool) -> Sequence[str]:
    """The languages of a task: all that were asked for must be there if the task was named."""
    if not folder.is_dir():
        raise EvaluationError(
            f"{selection.data} has no task {folder.name}: looked for the folder {folder}"
        )
    folders = (path.name for path in folder.iterdir() if path.is_dir())
    found = sorted(name for name in folders if not name.startswith("."))
    missing = [language for language in selection.languages if language not in found]
    if (missing and named) or not found:
        languages = " and ".join(missing) or "LANG"
        raise EvaluationError(
            f"{folder} has no language {languages}: looked for {folder / languages}, it holds "
            f"{', '.join(found) or 'no folder'}"
        )
    return [language for language in found if language in (selection.languages or found)]


def _load(task: Task, language: str, selection: Selection) -> list[Cell]:
    folder = selection.data / task.name / language
    if task.shape == "json":
        return milic.load(task, language, folder, selection)
    if task.shape == "aligned":
        return plain.load_translation(task, language, folder, selection)
    return plain.load_classification(task, language, folder, selection)
