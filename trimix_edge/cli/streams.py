"""The process's streams and arguments, put in order before anything else happens."""

from __future__ import annotations

import io
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from trimix_edge.cli.flags import name_flags
from trimix_edge.errors import Notice, PromptError


class ClosedInput(io.TextIOBase):
    """Stands for a standard input that is closed: an error to who reads it, and to nobody else."""

    @property
    def buffer(self) -> ClosedInput:
        return self

    def read(self, size: int | None = -1) -> str:
        raise PromptError("standard input is closed: give the text as an argument or in a file")

    def readline(self, size: int = -1) -> str:  # type: ignore[override]
        return self.read()


def fill_closed_streams() -> bool:
    """Give closed streams something harmless in their place.

    Otherwise the next file that is opened gets the descriptor, and llama.cpp's own messages may be
    written into it.

    Returns:
        Whether there is a standard output.
    """
    has_output = sys.stdout is not None
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number: this one
    if sys.stdin is None:
        sys.stdin = ClosedInput()
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
    return has_output


def use_utf8() -> None:
    """Read and write UTF-8 whatever the locale says: these scripts exist in no other encoding."""
    for stream, errors in (
        (sys.stdin, "strict"),
        (sys.stdout, "backslashreplace"),
        (sys.stderr, "backslashreplace"),
    ):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors=errors)


def restart_in_utf8() -> None:
    """Under a locale of another encoding, begin again in Python's UTF-8 mode.

    Arguments, names of files and the environment have then been decoded with the locale's encoding;
    to mend the arguments alone would make names of files that can't be opened.
    """
    if sys.flags.utf8_mode or sys.getfilesystemencoding().lower() == "utf-8":
        return
    with suppress(OSError):  # then with what there is
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def one_line(message: object) -> str:
    """A message that may quote a stranger's file: no control character reaches the terminal."""
    return re.sub(r"[\s\x00-\x1f\x7f-\x9f]+", " ", str(message))


@contextmanager
def shown_notices() -> Iterator[None]:
    """Show each notice of the library once, as a line on standard error."""
    told: set[str] = set()

    with warnings.catch_warnings():
        others = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if not issubclass(category, Notice):
                others(message, category, filename, lineno, file, line)
            elif (text := name_flags(one_line(message))) not in told:
                told.add(text)
                print("trimix-edge:", text, file=sys.stderr)

        warnings.filterwarnings("always", category=Notice)
        warnings.showwarning = show
        yield
