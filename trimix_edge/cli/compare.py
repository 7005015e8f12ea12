"""``trimix-edge compare``: runs of ``evaluate`` side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from trimix_edge.cli import making
from trimix_edge.cli.evaluate import Judge, show


def command(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN RUN...",
            help="Folders of results; the first is what the others are compared with.",
            show_default=False,
        ),
    ],
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the whole report as Markdown.")
    ] = False,
    judge: Judge = "default",
    as_json: making.AsJson = False,
) -> None:
    """Put runs side by side: intervals, differences, and how likely they are chance."""
    from trimix_edge.evaluate.report import compare
    from trimix_edge.evaluate.show import markdown
    from trimix_edge.evaluate.tasks import parse_judge

    report = compare(runs, parse_judge(judge))
    if as_json:
        print(json.dumps(report, ensure_ascii=False))
    elif as_markdown:
        print(markdown(report), end="")
    else:
        show(report)
