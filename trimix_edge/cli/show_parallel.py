"""The table of ``bench --parallel``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trimix_edge.measure.parallel import ParallelCase


def parallel_table(cases: list[ParallelCase]) -> None:
    """Tokens a second of N sequences: in total, for each, over one, of what batches allow."""
    from rich.console import Console
    from rich.table import Table

    table = Table("", "sequences", "tokens/s", "each", "x one", "of llama.cpp's batch", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    first = {case.name: case for case in reversed(cases)}
    last = ""
    for case in cases:
        if case.name != last and last:
            table.add_section()
        table.add_row(
            case.name if case.name != last else "",
            str(case.n),
            f"{case.total:.1f}",
            f"{case.each:.1f}",
            f"{case.times(first[case.name]):.2f}",
            f"{case.of_possible:.0%}",
        )
        last = case.name
    Console(highlight=False).print(table)


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
