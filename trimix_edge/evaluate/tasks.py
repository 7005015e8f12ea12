"""The tasks, and what may be asked of them: values, no files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from trimix_edge.errors import UsageError

Judge = Literal["letter", "label", "number", "rouge_l", "chrf"]
"""How an output is judged; the first three by accuracy."""

JudgeName = Literal["default", "paper"]
"""Whose judge: one that reads answers as a person would, or the paper's code, case by case."""

Direction = Literal["into", "from"]
"""Of a translation, as seen from the low-resource language."""

Shape = Literal["json", "aligned", "tsv"]

Order = Literal["first", "balanced"]
"""Of exemplars: the first ones of the file, or as many of each label."""

MAX_CHARS = 1024
"""Characters (code points) of a text or an article that a prompt shows, in the paper."""


@dataclass(frozen=True)
class Task:
    """What is asked.

    Attributes:
        name: its folder, and its templates.
        fields: what its prompt templates may name beside ``language``.
        max_tokens: an answer's; the paper's figures for MiLiC-Eval.
        shots: exemplars, unless somebody says otherwise, where they are the first of the file.
        long_field: what is cut after ``max_chars`` characters; None where nothing is.
        like: the task whose templates it shares; None for its own.
    """

    name: str
    judge: Judge
    max_tokens: int
    fields: tuple[str, ...]
    shape: Shape = "json"
    shots: int = 5
    long_field: str | None = None
    max_chars: int = MAX_CHARS
    like: str | None = None

    @property
    def translates(self) -> bool:
        return self.judge == "chrf"

    @property
    def reads(self) -> bool:
        """Whether its prompts are much longer than its answers: a letter, or a label."""
        return self.judge in ("letter", "label")

    @property
    def has_labels(self) -> bool:
        return self.judge == "label"


PER_LABEL = 3
"""Exemplars of each label, unless somebody says otherwise, in the paper."""

_TRANSLATION = ("source", "source_language", "target_language")
_LABELLED = ("text", "labels")


def _classification(name: str, max_tokens: int = 2, **more: Any) -> Task:
    return Task(name, "label", max_tokens, _LABELLED, long_field="text", **more)


def _title(name: str, **more: Any) -> Task:
    return Task(name, "rouge_l", 250, ("content",), shots=3, long_field="content", **more)


TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        Task("reading_comprehension", "letter", 2, ("context", "question", "options")),
        Task("response_selection", "letter", 2, ("context", "options")),
        _classification("text_classification"),
        _classification("text_classification_sentence", like="text_classification"),
        _classification("text_classification_passage", like="text_classification"),
        _title("title_generation_200"),
        _title("title_generation", like="title_generation_200"),
        Task("translation_dialogue", "chrf", 200, _TRANSLATION),
        Task("translation_article", "chrf", 200, _TRANSLATION, like="translation_dialogue"),
        Task("math", "number", 250, ("question",)),
        Task("translation", "chrf", 200, _TRANSLATION, "aligned"),
        _classification("classification", 16, shape="tsv"),
    )
}

UNREAD: Mapping[str, str] = {
    "vocabulary": "MiLiC-Eval's vocabulary task is not one of the paper's, and is not read here",
}
"""Tasks of the benchmark that can't be evaluated, and why."""


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
        labels: all labels of the evaluated file, of a classification, by their code points.
        exemplars: in the order of the prompt.
        kept: positions of exemplars, those first that stay where not all have room; empty for
            their order.
        lacking: labels with fewer exemplars than were wanted.
        n_cut: items and exemplars whose long field was cut.
        data: SHA-256 of the files that were read, by their names below the folder.
    """

    task: Task
    language: str
    source: str
    target: str
    items: tuple[Item, ...]
    exemplars: tuple[Item, ...]
    labels: tuple[str, ...] = ()
    kept: tuple[int, ...] = ()
    lacking: tuple[str, ...] = ()
    n_cut: tuple[int, int] = (0, 0)
    data: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """``math.bo``, ``translation.en-bo``."""
        pair = f"{self.source}-{self.target}" if self.task.translates else self.language
        return f"{self.task.name}.{pair}"

    def shown(self, shots: int) -> tuple[Item, ...]:
        """The exemplars of a prompt that has room for so many."""
        order = self.kept or tuple(range(len(self.exemplars)))
        return tuple(self.exemplars[at] for at in sorted(order[:shots]))


@dataclass(frozen=True)
class Selection:
    """Which cells of a folder, and how much of each.

    Attributes:
        tasks: their names; empty for all that the folder holds.
        languages: empty for all that a task's folder holds.
        split: the file whose items are asked.
        shots: exemplars, of each label where they are balanced; None for the task's own number.
        exemplars: None for the paper's order: balanced where there are labels.
        max_chars: characters of a long text; None for the task's own number, 0 for all.
        limit: items of a cell; None for all.
        seed: exemplars begin with ``train_{1 + seed mod 3}.json``.
    """

    data: Path
    tasks: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    directions: tuple[Direction, ...] = ("into", "from")
    split: str = "test"
    shots: int | None = None
    exemplars: Order | None = None
    max_chars: int | None = None
    limit: int | None = None
    seed: int = 0
    prompt_language: str = "en"

    def __post_init__(self) -> None:
        for name in self.tasks:
            if name in UNREAD:
                raise UsageError(f"task {name!r}: {UNREAD[name]}; leave it away")
            if name not in TASKS:
                raise UsageError(f"no task is called {name!r}: use all, or {', '.join(TASKS)}")
        for language in self.languages:
            if not language or set("/\\.") & set(language):
                raise UsageError(f"{language!r} is not the code of a language, as bo")
        if self.split not in ("test", "dev"):
            raise UsageError(f"split {self.split!r} is neither test nor dev")
        if self.shots is not None and self.shots < 0:
            raise UsageError(f"shots is {self.shots}, it can't be negative")
        if self.exemplars is not None and self.exemplars not in get_args(Order):
            raise UsageError(f"exemplars {self.exemplars!r} are neither first nor balanced")
        if self.max_chars is not None and self.max_chars < 0:
            raise UsageError(f"max-chars is {self.max_chars}, it can't be negative; 0 cuts nothing")
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

    def balances(self, task: Task) -> bool:
        """Whether a task's exemplars are as many of each label."""
        return task.has_labels and self.exemplars != "first"

    def n_shots(self, task: Task) -> int:
        """Exemplars of a task, of each label where they are balanced."""
        if self.shots is not None:
            return self.shots
        return PER_LABEL if self.balances(task) else task.shots

    def n_chars(self, task: Task) -> int:
        """Characters that are shown of a task's long field; 0 for all."""
        return task.max_chars if self.max_chars is None else self.max_chars


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(",")))


def parse_judge(text: str) -> JudgeName:
    """Read the name of a judge.

    Raises:
        UsageError: there is none of that name.
    """
    names: tuple[JudgeName, ...] = get_args(JudgeName)
    for name in names:
        if text == name:
            return name
    raise UsageError(f"judge {text!r} is none of {', '.join(names)}")
