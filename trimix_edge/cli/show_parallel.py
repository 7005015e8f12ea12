"""The table of ``bench --parallel``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from trimix_edge.cli.console import show_table

if TYPE_CHECKING:
    from trimix_edge.measure.parallel import ParallelCase


def parallel_table(cases: list[ParallelCase]) -> None:
    """Tokens a second of N sequences: in total, for each, over one, of what batches allow."""
    first = {case.name: case for case in reversed(cases)}
    rows = [
        (
            case.name,
            str(case.n),
            f"{case.total:.1f}",
            f"{case.each:.1f}",
            f"{case.times(first[case.name]):.2f}",
            f"{case.of_possible:.0%}",
        )
        for case in cases
    ]
    header = ("", "sequences", "tokens/s", "each", "x one", "of llama.cpp's batch")
    show_table(header, rows, right=range(1, 6))


def parallel_json(cases: list[ParallelCase]) -> None:
    """The same as JSON."""
    first = {case.name: case for case in reversed(cases)}
    rows = [
        {
            "case": case.name,
            "sequences": case.n,
            "tokens_per_second": case.total,
            "times_one": case.times(first[case.name]),
            "of_bare_batches": case.of_possible,
        }
        for case in cases
    ]
    print(json.dumps(rows))
