"""What the verbs that make files share: a bar that counts bytes, and options."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import (
    BarColumn,
    DownloadColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from trimix_edge.cli import options as opt
from trimix_edge.cli.console import Bar
from trimix_edge.errors import PromptError, UsageError

if TYPE_CHECKING:
    from trimix_edge.llama.calibration import CalibrationText

AllowFallback = Annotated[bool, typer.Option("--allow-fallback", hidden=True)]
"""What llama.cpp does in any case; older scripts ask for it."""

Imatrix = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="An importance matrix, as trimix-edge imatrix and llama-imatrix write it.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite a file that exists.")]
Type = Annotated[
    str | None,
    typer.Option("--type", "--outtype", "--quant", help="The same as TYPE.", show_default=False),
]
Quant = Annotated[
    str,
    typer.Option(
        "--quant", "--type", "--outtype", help="llama.cpp's name of the type of all three files."
    ),
]


def calibration_texts(arguments: list[str]) -> list[CalibrationText]:
    """The texts that ``--text FILE[:SHARE]`` names.

    Raises:
        UsageError: a share is no number.
        PromptError: a file can't be read.
    """
    from trimix_edge.llama.calibration import CalibrationText

    texts = []
    for argument in arguments:
        name, colon, tail = argument.rpartition(":")
        share: float | None = None
        if colon and name and not Path(argument).exists():
            try:
                share = float(tail)
            except ValueError:
                raise UsageError(
                    f"{argument!r}: there is no such file, and {tail!r} is no share: write FILE:0.7"
                ) from None
        path = Path(argument if share is None else name)
        text = opt.read_text(path, "text", PromptError)
        texts.append(CalibrationText(str(path), text, share))
    return texts


class ByteBar(Bar):
    """Shows bytes and their speed, a line for each thing that is done."""

    def columns(self) -> list[Any]:
        return [
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        ]


def pyplot() -> Any:
    """matplotlib, which draws without a screen.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        raise UsageError(
            "--plot needs matplotlib: pip install 'trimix-edge[plot]', or leave --plot away"
        ) from None
    return pyplot
