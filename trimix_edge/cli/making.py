"""What the verbs that make files share: a bar that counts bytes, and options."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.progress import (
    BarColumn,
    DownloadColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from trimix_edge.cli.console import Bar

AllowFallback = Annotated[
    bool,
    typer.Option(
        "--allow-fallback",
        help="Where the type does not divide a tensor's rows, store that tensor in another type.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite a file that exists.")]
Quant = Annotated[str, typer.Option(help="llama.cpp's name of the type of all three files.")]


class ByteBar(Bar):
    """Shows bytes and their speed, a line for each thing that is done."""

    def columns(self) -> list[Any]:
        return [
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        ]
