"""What a person sees beside the text: progress of loading and of long prompts, on stderr."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection, Sequence
from time import monotonic
from types import TracebackType
from typing import Any

from rich.cells import cell_len
from rich.console import Console, JustifyMethod
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from trimix_edge.config import Role

stderr = Console(stderr=True, highlight=False, markup=False)

PATIENCE = 1.0
"""Seconds before a bar appears: what is over sooner needs none."""

_BREAK = r"\s\u0f0b\u0f0d-\u0f14"  # spaces, the tsheg and the shads; not the tsheg that binds
_BREAKABLE = re.compile(rf"[^{_BREAK}]*[{_BREAK}]+|[^{_BREAK}]+")

LINE_EVERY = 60.0
"""Seconds between two lines of progress where there is no terminal to draw a bar on."""


class Bar:
    """A progress bar that shows itself only once a wait has become long.

    Without a terminal, as in a log, long work says a line a minute.
    """

    def __init__(self) -> None:
        self._since = self._last_line = monotonic()
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def columns(self) -> list[Any]:
        return [TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn()]

    def update(self, label: str, done: float, total: float) -> None:
        if not stderr.is_terminal:
            self._write_line(label, done, total)
            return
        if monotonic() - self._since < PATIENCE:
            return
        if self._progress is None:
            self._progress = Progress(*self.columns(), console=stderr, transient=True)
            self._progress.start()
        if label not in self._tasks:
            self._tasks[label] = self._progress.add_task(label)
        self._progress.update(self._tasks[label], completed=done, total=total)

    def _write_line(self, label: str, done: float, total: float) -> None:
        if monotonic() - self._last_line >= LINE_EVERY:
            self._last_line = monotonic()
            part = f"{done / total:.0%}" if total else f"{done:g}"
            stderr.print(f"trimix-edge: {label}: {part}", soft_wrap=True)

    def loading(self, role: Role, fraction: float) -> None:
        self.update(f"loading {role}", fraction, 1.0)

    def prompt(self, done: int, total: int) -> None:
        self.update(f"prompt of {total} tokens", done, total)
        if done == total:
            self.close()

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
            self._tasks.clear()
        self._since = monotonic()

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def output() -> Console:
    """Where results go. A pipe or a file has no width: a row of a table is one line there, unless
    ``COLUMNS`` says how wide it may be."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 10_000
    return console


def show_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Collection[int] = (),
    console: Console | None = None,
) -> None:
    """Print a table; where the terminal is too narrow for whole cells, a block of lines a row.

    Only the last column may take several lines. A block leaves out empty cells.

    Args:
        header: empty strings for columns that explain themselves.
        right: the columns, from 0, whose cells stand at the right: numbers.
        console: :func:`output` if absent.
    """
    console = console or output()
    columns = list(zip(header, *rows, strict=True))
    words = [word for cell in columns[-1] for word in cell.split()]
    needed = sum(max(map(cell_len, cells), default=0) + 2 for cells in (*columns[:-1], words))
    if needed <= console.width:
        table = Table(box=None, show_header=any(header))
        for i, name in enumerate(header):
            is_last = i == len(header) - 1
            justify: JustifyMethod = "right" if i in right else "left"
            table.add_column(Text(name), justify=justify, no_wrap=not is_last)
        for row in rows:
            table.add_row(*map(Text, row))
        console.print(table)
        return
    for first, *others in rows:
        block = [(first, "")]
        for name, cell in zip(header[1:], others, strict=True):
            label = f"{name}: " if name else ""
            block += [(f"  {label}{line}", "    ") for line in cell.splitlines() if line.strip()]
        for line, indent in block:
            console.print(Text("\n".join(wrapped(line, console.width, indent))), soft_wrap=True)


def wrapped(text: str, width: int, indent: str = "") -> list[str]:
    """A text in lines of at most ``width`` cells, broken after spaces and after the marks that end
    a syllable in Tibetan script; within a syllable only where it is longer than a line.

    Args:
        indent: what the lines after the first begin with.
    """
    lines, line = [], ""
    for piece in _BREAKABLE.findall(text):
        if line.strip() and cell_len((line + piece).rstrip()) > width:
            lines.append(line.rstrip())
            line = indent
        line += piece
        while cell_len(line.rstrip()) > width:
            cut = next(n for n in range(len(line), 0, -1) if cell_len(line[:n]) <= max(width, 2))
            lines.append(line[:cut])
            line = line[cut:]
    return [*lines, line.rstrip()]


def announce_kernels() -> None:
    """Say why the first run on a machine takes seconds longer, before it does."""
    from trimix_kernels import argmax, fuse_three, fuse_two, is_cached

    if stderr.is_terminal and not (
        is_cached(argmax) and is_cached(fuse_two) and is_cached(fuse_three)
    ):
        stderr.print("compiling kernels for this machine, once", style="dim")


def write(text: str) -> None:
    """Show a piece of the output at once."""
    if text:
        sys.stdout.write(text)
        sys.stdout.flush()
