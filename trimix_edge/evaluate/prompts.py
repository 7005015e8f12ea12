"""Items to prompts, by templates that are data: nothing in them is ever run.

A template is text with named fields in braces. A field is a bare name out of a list that belongs to
the task; attributes, indices, conversions and formats are refused.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Formatter, ascii_uppercase
from typing import Any

from trimix_edge.errors import EvaluationError
from trimix_edge.evaluate.tasks import TASKS, Cell, Item, Task

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_PARTS = ("instruction", "item", "answer")
_SHARED = ("separator", "option", "label_separator")


@dataclass(frozen=True)
class Template:
    """A checked template: texts and fields in turn."""

    text: str
    parts: tuple[tuple[str, str | None], ...]

    @classmethod
    def parse(cls, text: str, allowed: Sequence[str], where: str) -> Template:
        """Check a template.

        Raises:
            EvaluationError: a field that is not allowed, or braces that do not pair.
        """
        try:
            parsed = list(Formatter().parse(text))
        except ValueError as error:
            raise EvaluationError(f"template {where}: {error}; write {{{{ for a brace") from None
        for _, name, form, conversion in parsed:
            if name is None:
                continue
            if name not in allowed:
                raise EvaluationError(
                    f"template {where} has an unknown field {{{name}}}: it may use "
                    f"{', '.join(f'{{{known}}}' for known in allowed) or 'none'}"
                )
            if form or conversion:
                raise EvaluationError(f"template {where}: write {{{name}}}, without a format")
        return cls(text, tuple((literal, name) for literal, name, _, _ in parsed))

    @property
    def fields(self) -> set[str]:
        return {name for _, name in self.parts if name is not None}

    def fill(self, values: Mapping[str, str]) -> str:
        return "".join(
            literal + (values[name] if name is not None else "") for literal, name in self.parts
        )


@dataclass(frozen=True)
class Prompts:
    """The wording of all tasks in one language of instructions."""

    language: str
    names: Mapping[str, str]
    separator: str
    label_separator: str
    option: Template
    tasks: Mapping[str, Mapping[str, Template]]

    @classmethod
    def load(cls, language: str, override: Path | None = None) -> Prompts:
        """The wording that ships, with a user's file over it.

        Raises:
            EvaluationError: the file is missing or wrong, or nothing is worded in this language.
        """
        shipped = files("trimix_edge.evaluate") / "templates.toml"
        content: dict[str, Any] = tomllib.loads(shipped.read_text(encoding="utf-8"))
        where = "of trimix-edge"
        if override is not None:
            content = _merged(content, _read(override))
            where = str(override)
        if not isinstance(content.get(language), dict):
            known = [name for name, table in content.items() if isinstance(table, dict)]
            raise EvaluationError(
                f"no prompts are written in {language!r}: --prompt-language is one of "
                f"{', '.join(known)}, or --templates brings a table [{language}]"
            )
        return cls._from_table(language, content[language], where)

    @classmethod
    def _from_table(cls, language: str, table: Mapping[str, Any], where: str) -> Prompts:
        known = (*_SHARED, "languages", *TASKS)
        _refuse_unknown(table, known, f"{language} {where}")
        names = table.get("languages", {})
        if not isinstance(names, dict) or not all(isinstance(v, str) for v in names.values()):
            raise EvaluationError(f"{where}: {language}.languages must be a table of texts")
        tasks = {}
        for name, task in TASKS.items():
            entry: dict[str, Any] = {}
            for table_name in filter(None, (task.like, name)):
                own = table.get(table_name, {})
                if not isinstance(own, dict):
                    raise EvaluationError(
                        f"template {language}.{table_name} {where} must be a table"
                    )
                _refuse_unknown(own, _PARTS, f"{language}.{table_name} {where}")
                entry |= own
            tasks[name] = {
                part: Template.parse(
                    _text(entry, part, f"{language}.{name}.{part}", where),
                    _allowed(task, part),
                    f"{language}.{name}.{part}",
                )
                for part in _PARTS
                if part in entry
            }
        option = _text(table, "option", f"{language}.option", where)
        return cls(
            language=language,
            names=names,
            separator=_text(table, "separator", f"{language}.separator", where),
            label_separator=_text(
                {"label_separator": ", ", **table},
                "label_separator",
                f"{language}.label_separator",
                where,
            ),
            option=Template.parse(option, ("letter", "text"), f"{language}.option"),
            tasks=tasks,
        )

    def wording(self, task: Task) -> dict[str, str]:
        """The texts of a task's templates, for the report."""
        parts = {part: template.text for part, template in self.tasks[task.name].items()}
        shared = {"separator": self.separator, "option": self.option.text}
        return parts | shared | {"label_separator": self.label_separator}

    def of(self, cell: Cell) -> CellPrompts:
        """The prompts of a cell.

        Raises:
            EvaluationError: the language has no name in these prompts, or the task no wording.
        """
        templates = self.tasks[cell.task.name]
        for part in _PARTS:
            if part not in templates:
                raise EvaluationError(
                    f"no prompts are written in {self.language!r} for {cell.task.name}: "
                    f"{self.language}.{cell.task.name}.{part} is missing"
                )
        for code in (cell.language, cell.source, cell.target):
            if code not in self.names:
                raise EvaluationError(
                    f"the prompts in {self.language!r} have no name for the language {code!r}: "
                    f"give it one with --templates, under [{self.language}.languages]"
                )
        shared = {
            "language": self.names[cell.language],
            "source_language": self.names[cell.source],
            "target_language": self.names[cell.target],
            "labels": self.label_separator.join(cell.labels),
        }
        return CellPrompts(templates, self.separator, self.option, shared, cell)


@dataclass(frozen=True)
class CellPrompts:
    """The prompts of one cell: all begin with the same exemplars."""

    templates: Mapping[str, Template]
    separator: str
    option: Template
    shared: Mapping[str, str]
    cell: Cell

    @property
    def shots(self) -> int:
        """Exemplars that a prompt may have."""
        return len(self.cell.exemplars)

    def prompt(self, item: Item, shots: int) -> str:
        """The prompt of an item with so many exemplars; see :attr:`Cell.kept`."""
        instruction = self.templates["instruction"].fill(self.shared)
        shown = [self._question(e) + self.answer(e) for e in self.cell.shown(shots)]
        parts = [instruction, *shown, self._question(item)]
        return self.separator.join(part for part in parts if part)

    def answer(self, item: Item) -> str:
        """The right answer as an exemplar would show it."""
        values = {**self._values(item), "answer": item.reference, "cot": item.cot}
        return self.templates["answer"].fill(values)

    def _question(self, item: Item) -> str:
        return self.templates["item"].fill(self._values(item))

    def _values(self, item: Item) -> dict[str, str]:
        lines = [
            self.option.fill({"letter": letter, "text": text})
            for letter, text in zip(ascii_uppercase, item.options, strict=False)
        ]
        return {**self.shared, **item.fields, "options": "\n".join(lines)}


def _allowed(task: Task, part: str) -> tuple[str, ...]:
    """Fields of a part: an instruction is of no item, and an item must not tell its answer."""
    shared = ("language", "source_language", "target_language", "labels")
    if part == "instruction":
        return ("language", *(name for name in task.fields if name in shared))
    if part == "item":
        return ("language", *task.fields)
    return ("language", *task.fields, "answer", *(("cot",) if task.judge == "number" else ()))


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        return content
    except OSError as error:
        raise EvaluationError(f"templates {path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise EvaluationError(f"{path} is not UTF-8: byte {error.start} is invalid") from None
    except tomllib.TOMLDecodeError as error:
        raise EvaluationError(f"{path} is not TOML: {error}") from None
    except RecursionError:
        raise EvaluationError(f"{path} is not TOML of a sensible kind") from None


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        inner = merged.get(key)
        if isinstance(value, dict) and isinstance(inner, dict):
            value = _merged(inner, value)
        merged[key] = value
    return merged


def _text(table: Mapping[str, Any], key: str, name: str, where: str) -> str:
    value = table.get(key)
    if not isinstance(value, str):
        what = "is missing" if value is None else f"must be a text, not {value!r}"
        raise EvaluationError(f"template {name} {where} {what}")
    return value


def _refuse_unknown(table: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in table:
        if key not in known:
            raise EvaluationError(f"template {where}: unknown key {key}; known: {', '.join(known)}")
