"""A report for people: tables of scores, differences and speed, and how to have it all again."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from trimix_edge.config import SamplingParams

Rows = list[list[str]]
"""A header, and rows as long as it is."""


def markdown(report: Mapping[str, Any]) -> str:
    """The text of ``report.md``."""
    names = system_names(report)
    lines = ["# Evaluation", "", *_table(_score_table(report), left=2)]
    lines += ["", "Scores are from 0 to 100, with 95 % intervals."]
    if len(names) > 1:
        lines += ["", f"## Differences to {_plain(names[0])}", ""]
        lines += _table(_difference_table(report), left=2)
        lines += ["", "Paired; p is two-sided and not corrected for the number of tests."]
    if report["left_out"]:
        lines += [
            "",
            f"Not in all runs, so left out: {', '.join(map(_plain, report['left_out']))}.",
        ]
    notes = [f"- {note}" for note in (*_hosts(report), *_notes(report))]
    lines += ["", *notes] if notes else []
    lines += ["", "## Speed", "", *_table(_speed_table(report), left=2)]
    lines += ["", "## How", ""]
    lines += [
        f"- {_plain(task)}: {how['metric']}, {how['detail']}"
        for task, how in report["metrics"].items()
    ]
    lines.append(f"- judge: {report['judge']}")
    bootstrap = report["bootstrap"]
    lines += [f"- bootstrap: {bootstrap['draws']} resamples of items, seed {bootstrap['seed']}"]
    for number, run in enumerate(report["runs"], 1):
        lines += ["", f"## Run {number}" if len(report["runs"]) > 1 else "## Run", "", *_run(run)]
    return "\n".join(lines) + "\n"


def system_names(report: Mapping[str, Any]) -> list[str]:
    return [_visible(system["name"]) for system in report["systems"]]


def result_table(report: Mapping[str, Any]) -> Rows:
    """A row for each cell and system, narrow enough for a terminal."""
    names = system_names(report)
    rows = [["task", "metric", "items", "system", "score", "95 %"]]
    if len(names) > 1:
        rows[0] += ["difference", "95 %", "p"]
    for cell in _cells_and_average(report):
        head = [_visible(cell["cell"]), cell["metric"], str(cell["n_items"])]
        less = [None, *cell["less_first"]]
        for name, score, more in zip(names, cell["scores"], less, strict=True):
            row = [*head, name, f"{score['value']:.1f}", _range(score, ".1f")]
            if more is not None:
                row += [f"{more['value']:+.1f}", _range(more, "+.1f"), f"{more['p']:.4f}"]
            rows.append(row + [""] * (len(rows[0]) - len(row)))
    return rows


def _cells_and_average(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    average = report["average"]
    more = [{"cell": "average", "metric": "", "n_items": "", **average}] if average else []
    return [*report["cells"], *more]


def _score_table(report: Mapping[str, Any]) -> Rows:
    """A row a cell, systems side by side."""
    rows = [["task", "metric", "items", *system_names(report)]]
    for cell in _cells_and_average(report):
        scores = [f"{s['value']:.1f} ({_range(s, '.1f')})" for s in cell["scores"]]
        rows.append([cell["cell"], cell["metric"], str(cell["n_items"]), *scores])
    return rows


def _difference_table(report: Mapping[str, Any]) -> Rows:
    rows = [["task", "system", "difference", "95 %", "p"]]
    for cell in _cells_and_average(report):
        for name, more in zip(system_names(report)[1:], cell["less_first"], strict=True):
            difference = [f"{more['value']:+.1f}", _range(more, "+.1f"), f"{more['p']:.4f}"]
            rows.append([cell["cell"], name, *difference])
    return rows


def _range(entry: Mapping[str, float], form: str) -> str:
    return f"{entry['low']:{form}} to {entry['high']:{form}}"


def _speed_table(report: Mapping[str, Any]) -> Rows:
    """A row for each cell and system."""
    rows = [["task", "system", "seconds", "tokens/s", "characters/s", "prompt tokens/s"]]
    figures = (
        "seconds",
        "tokens_per_second",
        "characters_per_second",
        "prompt_tokens_per_second",
    )
    for cell in report["cells"]:
        for name, speed in zip(system_names(report), cell["speed"], strict=True):
            rows.append([cell["cell"], name, *(f"{speed[figure]:.1f}" for figure in figures)])
    return rows


def _notes(report: Mapping[str, Any]) -> Iterator[str]:
    for cell in report["cells"]:
        for name, counts in zip(system_names(report), cell["counts"], strict=True):
            where, n = f"{_plain(cell['cell'])}, {_plain(name)}", cell["n_items"]
            if counts["fewer_exemplars"]:
                yield (
                    f"{where}: {counts['fewer_exemplars']} of {n} prompts had room for fewer "
                    f"exemplars, {counts['mean_exemplars']:g} on average"
                )
            if counts["too_long"]:
                yield f"{where}: {counts['too_long']} of {n} prompts do not fit: counted as wrong"


def _hosts(report: Mapping[str, Any]) -> Iterator[str]:
    """What was chosen on dev data."""
    for cell in report["cells"]:
        for name, choice in zip(system_names(report), cell["hosts"], strict=True):
            if choice is not None:
                scores = ", ".join(
                    f"{host} {value:.1f}" for host, value in choice["scores"].items()
                )
                yield (
                    f"{_plain(cell['cell'])}, {_plain(name)}: host {choice['host']}, chosen on "
                    f"{choice['n_items']} items of dev data ({scores})"
                )


def _run(run: Mapping[str, Any]) -> Iterator[str]:
    configuration, machine = run["configuration"], run["machine"]
    yield f"- trio: {_plain(configuration['trio'])}"
    for role, model in configuration["models"].items():
        for file, digest in (("file", "sha256"), ("lora", "lora_sha256")):
            if file in model:
                yield f"- {role}: {_plain(model[file])}, SHA-256 `{model[digest]}`"
    for system in configuration["systems"]:
        yield f"- system {_plain(system['name'])}: {_facts(system, leave_out=('name',))}"
    cells = configuration["cells"].values()
    for told in dict.fromkeys(map(_exemplars, cells)):
        yield f"- exemplars of {told}"
    for told in dict.fromkeys(_cut(cell) for cell in cells if cell.get("cut")):
        yield f"- {told}"
    yield f"- prompts in {_plain(configuration['prompt_language'])}"
    yield f"- chat template: {'yes' if configuration['chat'] else 'no'}"
    limit = configuration["limit"] or "none"
    yield f"- split {configuration['split']}, limit {limit}, seed {configuration['seed']}"
    context = configuration["context"]
    n_ctx = context["n_ctx"] or "as in training, at most 4096"
    yield f"- context: n_ctx {n_ctx}, kv_type {_plain(context['kv_type'])}"
    usual = asdict(SamplingParams())
    changed = {k: v for k, v in configuration["sampling"].items() if v != usual.get(k)}
    yield f"- sampling: {_facts(changed, leave_out=('seed',)) or 'none: the likeliest token'}"
    yield f"- versions: {_facts(configuration['versions'])}"
    yield f"- machine: {_facts(machine)}"
    for told in run.get("skipped", ()):
        yield f"- {_plain(told)}"
    data = {name: digest for cell in cells for name, digest in cell["data"].items()}
    for name, digest in data.items():
        yield f"- {_plain(name)}: SHA-256 `{digest}`"


def _exemplars(cell: Mapping[str, Any]) -> str:
    """How the exemplars of a cell were chosen."""
    task, shots = _plain(cell["task"]), cell["shots"]
    if not shots or cell.get("exemplars") != "balanced":
        return f"{task}: {shots}, the first ones of the file" if shots else f"{task}: none"
    lacking = f" (fewer of {', '.join(map(_plain, cell['lacking']))})" if cell["lacking"] else ""
    return (
        f"{task}: {shots}, the first {cell['per_label']} of each label{lacking}, shuffled with "
        f"seed {cell['shuffle_seed']}; labels by their code points: "
        f"{', '.join(map(_plain, cell['labels']))}"
    )


def _cut(cell: Mapping[str, Any]) -> str:
    """Where long texts were cut."""
    cut, task = cell["cut"], _plain(cell["task"])
    if not cut["max_chars"]:
        return f"{task}: {cut['field']} is not cut"
    return (
        f"{task}: {cut['field']} cut to {cut['max_chars']} characters, which shortened "
        f"{cut['items']} of {cell['n_items']} items and {cut['exemplars']} of {cell['shots']} "
        f"exemplars"
    )


def _facts(facts: Mapping[str, Any], leave_out: Sequence[str] = ()) -> str:
    """Names and values, nested ones likewise."""
    shown = []
    for name, value in facts.items():
        if name in leave_out or value is None or value == []:
            continue
        if isinstance(value, dict):
            shown.append(_facts(value))
        elif isinstance(value, list):
            shown.append(f"{name} {' '.join(map(_plain, value))}")
        else:
            shown.append(f"{name} {_plain(value)}")
    return ", ".join(shown)


def _plain(value: object) -> str:
    """Text for a table: a bar would end the cell, a newline the row."""
    return _visible(value).replace("|", "\\|")


def _visible(value: object) -> str:
    """In one line and without control characters: a folder of results may be a stranger's."""
    line = " ".join(str(value).split())
    return "".join(letter for letter in line if unicodedata.category(letter) != "Cc")


def _table(rows: Rows, left: int) -> list[str]:
    """A Markdown table; the first columns are aligned to the left, figures to the right."""
    header, *body = rows
    rule = ["---" if at < left else "---:" for at in range(len(header))]
    return [f"| {' | '.join(map(_plain, row))} |" for row in (header, rule, *body)]
