"""SAF-W's host, chosen on dev data: each host answers them, and the better score wins.

Source: SAF-W's host and scorer are large_ins and small_cpt in the order that wins on dev.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimix_edge.config import Role
from trimix_edge.errors import EvaluationError
from trimix_edge.evaluate.metrics import Answered, metric_of
from trimix_edge.evaluate.plan import Plan
from trimix_edge.evaluate.prompts import CellPrompts
from trimix_edge.evaluate.results import HOSTS, Prediction, read_json
from trimix_edge.evaluate.systems import HOSTS as CANDIDATES
from trimix_edge.evaluate.systems import System
from trimix_edge.evaluate.tasks import Cell

Fill = Callable[[System, Cell, CellPrompts, str], Sequence[Prediction]]
"""Has a system answer a cell under a name; returns the predictions."""


@dataclass(frozen=True)
class HostChoice:
    """What was chosen for a cell.

    Attributes:
        scores: of each host on the dev data, from 0 to 100.
        n_items: of the dev data.
    """

    host: Role
    scores: Mapping[Role, float]
    n_items: int


def choose_host(plan: Plan, system: System, cell_name: str, fill: Fill) -> HostChoice:
    """Choose the host of one system on one cell; the first candidate where both are as good."""
    cell, prompts = plan.dev[cell_name]
    metric = metric_of(cell.task.judge, plan.settings.judge)
    scores = {}
    for host in CANDIDATES:
        found = fill(system.with_host(host), cell, prompts, f"{system.name}:dev:{host}")
        answered = [Answered(p.output, p.reference, p.n_options) for p in found]
        scores[host] = float(metric.score(metric.statistics(answered).sum(axis=0)))
    best = max(CANDIDATES, key=lambda host: scores[host])
    return HostChoice(best, scores, len(cell.items))


def hosts_text(chosen: Mapping[str, Mapping[str, HostChoice]]) -> str:
    """The text of ``hosts.json``: by system, then by cell."""
    content = {
        system: {
            cell: {
                "host": str(choice.host),
                "scores": {str(host): round(score, 6) for host, score in choice.scores.items()},
                "n_items": choice.n_items,
            }
            for cell, choice in cells.items()
        }
        for system, cells in chosen.items()
    }
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def read_hosts(folder: Path) -> dict[str, Any]:
    """What ``hosts.json`` holds; empty where there is none.

    Raises:
        EvaluationError: it is damaged.
    """
    path = folder / HOSTS
    if not path.is_file():
        return {}
    content, names = read_json(path), {str(host) for host in CANDIDATES}
    for cells in content.values():
        for choice in cells.values() if isinstance(cells, dict) else [None]:
            if (
                not isinstance(choice, dict)
                or choice.get("host") not in names
                or not isinstance(choice.get("n_items"), int)
                or not isinstance(choice.get("scores"), dict)
                or choice["scores"].keys() != names
                or not all(isinstance(score, int | float) for score in choice["scores"].values())
            ):
                raise EvaluationError(f"{path} is damaged: run the command of its folder again")
    return content
