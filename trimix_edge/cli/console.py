"""What a person sees beside the text: progress of loading and of long prompts, on stderr."""

from __future__ import annotations

import io
import sys
from time import monotonic
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from trimix_edge.config import Role

stderr = Console(stderr=True, highlight=False)

PATIENCE = 1.0
"""Seconds before a bar appears: what is over sooner needs none."""


class Bar:
    """A progress bar that shows itself only once a wait has become long, and only to a person."""

    def __init__(self) -> None:
        self._since = monotonic()
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def columns(self) -> list[Any]:
        return [TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()]

    def update(self, label: str, done: float, total: float) -> None:
        if not stderr.is_terminal or monotonic() - self._since < PATIENCE:
            return
        if self._progress is None:
            self._progress = Progress(*self.columns(), console=stderr, transient=True)
            self._progress.start()
        if label not in self._tasks:
            self._tasks[label] = self._progress.add_task(label)
        self._progress.update(self._tasks[label], completed=done, total=total)

    def loading(self, role: Role, fraction: float) -> None:
        self.update(f"loading {role}", fraction, 1.0)

    def measuring(self, role: Role, done: int, total: int) -> None:
        self.update(f"measuring batches of {role}, once", done, total)

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


def write(text: str) -> None:
    """Show a piece of the output at once."""
    if text:
        sys.stdout.write(text)
        sys.stdout.flush()


def use_utf8() -> None:
    """Read and write UTF-8 whatever the locale says: these scripts exist in no other encoding."""
    for stream, errors in (
        (sys.stdin, "strict"),
        (sys.stdout, "backslashreplace"),
        (sys.stderr, "backslashreplace"),
    ):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors=errors)
