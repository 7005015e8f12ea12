"""Runs on disk to a report: systems side by side, with intervals, tests, speed and provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from trimix_edge.errors import EvaluationError, UsageError
from trimix_edge.evaluate.bootstrap import (
    DRAWS,
    Difference,
    Floats,
    Interval,
    resample,
)
from trimix_edge.evaluate.hosts import read_hosts
from trimix_edge.evaluate.metrics import Answered, Metric, library_versions, metric_of
from trimix_edge.evaluate.results import (
    RUN,
    Prediction,
    predictions_path,
    read_json,
    read_predictions,
)
from trimix_edge.evaluate.tasks import Judge, JudgeName


@dataclass(frozen=True)
class Ran:
    """A system of a run, as its folder tells.

    Attributes:
        name: unique in a report.
        facts: what the run says of the system.
        cells: predictions by the name of the cell.
        hosts: of a system that chooses its host, what it chose, by the name of the cell.
    """

    name: str
    facts: Mapping[str, Any]
    run: Mapping[str, Any]
    cells: Mapping[str, list[Prediction]]
    hosts: Mapping[str, Any] = field(default_factory=dict)


def read_run(folder: Path) -> list[Ran]:
    """The systems of a finished run.

    Raises:
        EvaluationError: no results, damaged ones, or not all of them.
    """
    if not (folder / RUN).is_file():
        raise EvaluationError(f"{folder} is no folder of results: it has no {RUN}")
    run = read_json(folder / RUN)
    if not _is_whole(run):
        raise EvaluationError(f"{folder / RUN} is damaged: it lacks a part")
    configuration = run["configuration"]
    systems = {str(system["name"]): system for system in configuration["systems"]}
    sizes = {cell: entry["n_items"] for cell, entry in configuration["cells"].items()}
    hosts = read_hosts(folder)
    return [
        Ran(
            name,
            systems[name],
            run,
            {cell: _finished(folder, name, cell, n) for cell, n in sizes.items()},
            hosts.get(name, {}),
        )
        for name in systems
    ]


_PARTS: Mapping[str, type | tuple[type, ...]] = {
    "versions": dict,
    "trio": str,
    "models": dict,
    "systems": list,
    "sampling": dict,
    "chat": bool,
    "context": dict,
    "split": str,
    "limit": (int, type(None)),
    "seed": int,
    "prompt_language": str,
    "cells": dict,
}
_CELL_PARTS = {"task": str, "judge": str, "shots": int, "n_items": int, "data": dict}
_BALANCED_PARTS = {"per_label": int, "shuffle_seed": int, "lacking": list, "labels": list}
_CUT_PARTS = {"field": str, "max_chars": int, "items": int, "exemplars": int}


def _is_whole(run: Mapping[str, Any]) -> bool:
    """Whether a ``run.json`` has all that a report reads of it."""
    configuration: Any = run.get("configuration")
    return (
        _has({"skipped": [], **run}, {"configuration": dict, "machine": dict, "skipped": list})
        and _has(configuration, _PARTS)
        and all(_has(system, {"name": str}) for system in configuration["systems"])
        and all(map(_is_whole_cell, configuration["cells"].values()))
        and all(
            _has(model, {"file": str, "sha256": str}) for model in configuration["models"].values()
        )
        and _has(configuration["context"], {"n_ctx": int, "kv_type": str})
    )


def _is_whole_cell(cell: Any) -> bool:
    return (
        _has(cell, _CELL_PARTS)
        and cell["judge"] in get_args(Judge)
        and (cell.get("exemplars") != "balanced" or _has(cell, _BALANCED_PARTS))
        and ("cut" not in cell or _has(cell["cut"], _CUT_PARTS))
    )


def _has(entry: Any, parts: Mapping[str, type | tuple[type, ...]]) -> bool:
    return isinstance(entry, dict) and all(isinstance(entry.get(k), t) for k, t in parts.items())


def _finished(folder: Path, system: str, cell: str, n_items: int) -> list[Prediction]:
    path = predictions_path(folder, system, cell)
    found = read_predictions(path)[0] if path.is_file() else []
    if len(found) != n_items:
        raise EvaluationError(
            f"{folder} is not finished: it has {len(found)} of {n_items} predictions of {cell}; "
            f"run its command again"
        )
    return found


def compare(folders: Sequence[Path], judge: JudgeName = "default") -> dict[str, Any]:
    """The report of several runs, scored anew; see :func:`report`.

    Raises:
        UsageError: nothing to compare.
        EvaluationError: see :func:`read_run` and :func:`report`.
    """
    systems = _read_runs(folders)
    if len(systems) < 2:
        raise UsageError("name two runs or more: there is nothing to compare one with")
    return report(systems, judge=judge)


def _read_runs(folders: Sequence[Path]) -> list[Ran]:
    """The systems of several runs, under names that tell them apart."""
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UsageError("a folder is named twice: a run can't be compared with itself")
    short = len({folder.name for folder in folders}) == len(folders)
    found = []
    for folder in folders:
        systems = read_run(folder)
        label = folder.name if short and folder.name else str(folder)
        for ran in systems:
            name = label if len(systems) == 1 else f"{label}: {ran.name}"
            found.append(replace(ran, name=name))
    return found


def report(
    systems: Sequence[Ran], seed: int = 0, draws: int = DRAWS, judge: JudgeName = "default"
) -> dict[str, Any]:
    """Scores of all systems on the cells that they share; the others are compared with the first.

    Args:
        seed: of the resamples.
        judge: who decides whether an answer is right.

    Returns:
        What ``report.json`` holds.

    Raises:
        EvaluationError: no shared cell, other items under the same name, or a library is missing.
    """
    shared = [cell for cell in systems[0].cells if all(cell in ran.cells for ran in systems)]
    if not shared:
        raise EvaluationError("these runs have no task and language in common")
    cells = [_Cell(name, systems, seed, draws, judge) for name in shared]
    left_out = sorted({cell for ran in systems for cell in ran.cells} - set(shared))
    return {
        "systems": [
            {"name": ran.name, **{k: v for k, v in ran.facts.items() if k != "name"}}
            for ran in systems
        ],
        "cells": [cell.as_json(systems) for cell in cells],
        "average": _average(cells, systems),
        "left_out": left_out,
        "judge": judge,
        "metrics": {
            cell.task: {"metric": cell.metric.name, "detail": cell.metric.detail} for cell in cells
        },
        "bootstrap": {"draws": draws, "seed": seed, "interval": "95 % percentile, over items"},
        "metric_versions": library_versions(),
        "runs": _distinct(ran.run for ran in systems),
    }


def _distinct(runs: Any) -> list[Any]:
    found: list[Any] = []
    for run in runs:
        if run not in found:
            found.append(run)
    return found


class _Cell:
    """Scores of the systems on one cell."""

    def __init__(
        self, name: str, systems: Sequence[Ran], seed: int, draws: int, judge: JudgeName
    ) -> None:
        self.name = name
        self._predictions = [ran.cells[name] for ran in systems]
        _require_same_items(name, systems)
        facts = systems[0].run["configuration"]["cells"][name]
        self.task = str(facts["task"])
        self.metric: Metric = metric_of(facts["judge"], judge)
        statistics = [
            self.metric.statistics([Answered(p.output, p.reference, p.n_options) for p in found])
            for found in self._predictions
        ]
        self.values = [float(self.metric.score(s.sum(axis=0))) for s in statistics]
        self.draws = resample(statistics, self.metric.score, name, seed, draws)

    def as_json(self, systems: Sequence[Ran]) -> dict[str, Any]:
        pairs = zip(self.values, self.draws, strict=True)
        return {
            "cell": self.name,
            "metric": self.metric.name,
            "n_items": len(self._predictions[0]),
            "scores": [asdict(Interval.of(value, draws)) for value, draws in pairs],
            "less_first": _differences(self.values, self.draws),
            "counts": [_counts(ran, self.name) for ran in systems],
            "speed": [_speed(found) for found in self._predictions],
            "hosts": [ran.hosts.get(self.name) for ran in systems],
        }


def _require_same_items(name: str, systems: Sequence[Ran]) -> None:
    first = [(p.id, p.reference) for p in systems[0].cells[name]]
    judges = {ran.run["configuration"]["cells"][name]["judge"] for ran in systems}
    for ran in systems[1:]:
        other = [(p.id, p.reference) for p in ran.cells[name]]
        if other != first or len(judges) > 1:
            raise EvaluationError(
                f"{name} holds {len(other)} items in {ran.name}, and others in {systems[0].name} "
                f"({len(first)}): compare runs of the same data, split and limit"
            )


def _differences(values: Sequence[float], draws: Sequence[Floats]) -> list[dict[str, Any]]:
    """Of each system but the first, what it has more than the first."""
    found = []
    for value, drawn in zip(values[1:], draws[1:], strict=True):
        tested = Difference.of(value - values[0], drawn - draws[0])
        found.append({**asdict(tested.interval), "p": tested.p})
    return found


def _average(cells: Sequence[_Cell], systems: Sequence[Ran]) -> dict[str, Any] | None:
    """The mean over cells, as the paper's tables have it; None for a single cell."""
    if len(cells) < 2:
        return None
    ranks = range(len(systems))
    values = [float(np.mean([cell.values[n] for cell in cells])) for n in ranks]
    draws = [np.mean([cell.draws[n] for cell in cells], axis=0) for n in ranks]
    pairs = zip(values, draws, strict=True)
    return {
        "n_cells": len(cells),
        "scores": [asdict(Interval.of(value, drawn)) for value, drawn in pairs],
        "less_first": _differences(values, draws),
    }


def _counts(ran: Ran, cell: str) -> dict[str, Any]:
    """What a reader should know of the prompts and the ends of a cell's outputs."""
    found = ran.cells[cell]
    asked = ran.run["configuration"]["cells"][cell].get("shots", 0)
    weights = [prediction.weights for prediction in found if prediction.weights is not None]
    return {
        "prompt_tokens": sum(p.n_prompt for p in found),
        "prompt_tokens_evaluated": sum(map(_n_evaluated, found)),
        "tokens": sum(p.n_tokens for p in found),
        "characters": sum(len(p.output) for p in found),
        "fewer_exemplars": sum(p.shots < asked for p in found),
        "mean_exemplars": round(float(np.mean([p.shots for p in found])), 3),
        "too_long": sum(p.finish_reason == "overflow" for p in found),
        "cut_short": sum(p.finish_reason in ("length", "context") for p in found),
        "mean_weights": np.mean(weights, axis=0).round(6).tolist() if weights else None,
    }


def _n_evaluated(prediction: Prediction) -> int:
    """Tokens of a prompt that were computed; all that were read, of a run that does not say."""
    if prediction.n_evaluated is not None:
        return prediction.n_evaluated
    return 0 if prediction.finish_reason == "overflow" else prediction.n_prompt


def _speed(found: Sequence[Prediction]) -> dict[str, float]:
    prompt = sum(p.seconds["prompt"] for p in found)
    generation = sum(p.seconds["generation"] for p in found)

    def rate(n: int, seconds: float) -> float:
        return round(n / seconds, 3) if seconds > 0 else 0.0

    return {
        "seconds": round(prompt + generation, 3),
        "prompt_tokens_per_second": rate(sum(map(_n_evaluated, found)), prompt),
        "tokens_per_second": rate(sum(p.n_tokens for p in found), generation),
        "characters_per_second": rate(sum(len(p.output) for p in found), generation),
    }
