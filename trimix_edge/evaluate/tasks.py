"""The tasks, and which parts of them a folder of benchmark data holds.

DIR/TASK/LANG/SPLIT.json                    MiLiC-Eval's tasks, exemplars in train_{1,2,3}.json
DIR/translation/LANG/SPLIT.{LANG,OTHER}     lines of the same number are translations
DIR/classification/LANG/SPLIT.tsv           a header, then columns for a text and its label
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from trimix_edge.errors import EvaluationError, UsageError

Judge = Literal["letter", "label", "number", "rouge_l", "chrf"]
"""How an output is judged; the first three by accuracy."""

Direction = Literal["into", "from"]
"""Of a translation, as seen from the low-resource language."""

Shape = Literal["json", "aligned", "tsv"]


@dataclass(frozen=True)
class Task:
    """What is asked.

    Attributes:
        name: its folder, and its templates.
        fields: what its prompt templates may name beside ``language``.
        max_tokens: an answer's; the benchmark's own figures for MiLiC-Eval.
        shots: exemplars, unless somebody says otherwise.
    """

    name: str
    judge: Judge
    max_tokens: int
    fields: tuple[str, ...]
    shape: Shape = "json"
    shots: int = 5

    @property
    def translates(self) -> bool:
        return self.judge == "chrf"


_TRANSLATION = ("source", "source_language", "target_language")

TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        Task("reading_comprehension", "letter", 2, ("context", "question", "options")),
        Task("response_selection", "letter", 2, ("context", "options")),
        Task("text_classification", "label", 2, ("text", "labels")),
        Task("title_generation_200", "rouge_l", 250, ("content",), shots=3),
        Task("translation_dialogue", "chrf", 200, _TRANSLATION),
        Task("math", "number", 250, ("question",)),
        Task("translation", "chrf", 200, _TRANSLATION, "aligned"),
        Task("classification", "label", 16, ("text", "labels"), "tsv"),
    )
}


@dataclass(frozen=True)
class Item:
    """One question.

    Attributes:
        fields: what a template may show of it.
        reference: the right answer, in one line.
        options: choices in the order of their letters.
        cot: the way to the answer, of an exemplar of mathematics.
    """

    id: str
    fields: Mapping[str, str]
    reference: str
    options: tuple[str, ...] = ()
    cot: str = ""


@dataclass(frozen=True)
class Cell:
    """A task in one language and, for a translation, one direction: a row of a report.

    Attributes:
        source, target: languages of a translation; both the cell's own elsewhere.
        labels: all labels of the data, of a classification.
        exemplars: in the order of the prompt.
        data: SHA-256 of the files that were read, by their names below the folder.
    """

    task: Task
    language: str
    source: str
    target: str
    items: tuple[Item, ...]
    exemplars: tuple[Item, ...]
    labels: tuple[str, ...] = ()
    data: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """``math.bo``, ``translation.en-bo``."""
        pair = f"{self.source}-{self.target}" if self.task.translates else self.language
        return f"{self.task.name}.{pair}"


@dataclass(frozen=True)
class Selection:
    """Which cells of a folder, and how much of each.

    Attributes:
        tasks: their names; empty for all that the folder holds.
        languages: empty for all that a task's folder holds.
        split: the file whose items are asked.
        shots: exemplars; None for the task's own number.
        limit: items of a cell; None for all.
        seed: exemplars begin with ``train_{1 + seed mod 3}.json``.
    """

    data: Path
    tasks: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    directions: tuple[Direction, ...] = ("into", "from")
    split: str = "test"
    shots: int | None = None
    limit: int | None = None
    seed: int = 0
    prompt_language: str = "en"

    def __post_init__(self) -> None:
        for name in self.tasks:
            if name not in TASKS:
                raise UsageError(f"no task is called {name!r}: use all, or {', '.join(TASKS)}")
        for language in self.languages:
            if not language or set("/\\.") & set(language):
                raise UsageError(f"{language!r} is not the code of a language, as bo")
        if self.split not in ("test", "dev"):
            raise UsageError(f"split {self.split!r} is neither test nor dev")
        if self.shots is not None and self.shots < 0:
            raise UsageError(f"shots is {self.shots}, it can't be negative")
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"limit is {self.limit}, it must be 1 or more")
        if not 0 <= self.seed < 2**32 - 1:
            raise UsageError(f"seed is {self.seed}, it must be from 0 to {2**32 - 2}")

    @classmethod
    def parse(
        cls, data: Path, *, tasks: str, languages: str | None, direction: str, **rest: Any
    ) -> Selection:
        """Read what stands on a command line: names with commas between.

        Raises:
            UsageError: a name or a value without meaning.
        """
        directions: dict[str, tuple[Direction, ...]] = {
            "both": ("into", "from"),
            "into": ("into",),
            "from": ("from",),
        }
        if direction not in directions:
            raise UsageError(f"direction {direction!r} is none of {', '.join(directions)}")
        return cls(
            data,
            tasks=() if tasks == "all" else _names(tasks),
            languages=() if languages is None else _names(languages),
            directions=directions[direction],
            **rest,
        )

    def n_shots(self, task: Task) -> int:
        return task.shots if self.shots is None else self.shots


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(",")))


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
        raise EvaluationError(f"{root} holds no task: looked for folders {', '.join(TASKS)}")
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
    from trimix_edge.evaluate import milic, plain

    folder = selection.data / task.name / language
    if task.shape == "json":
        return milic.load(task, language, folder, selection)
    if task.shape == "aligned":
        return plain.load_translation(task, language, folder, selection)
    return plain.load_classification(task, language, folder, selection)
