"""Files of benchmark data, read once: their text for the items, their hash for the report."""

from __future__ import annotations

import hashlib
from pathlib import Path

from trimix_edge.errors import EvaluationError


class Source:
    """Reads the files of one cell, and remembers what it read.

    Attributes:
        hashes: SHA-256 by name below the folder of the data, as ``math/bo/test.json``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hashes: dict[str, str] = {}

    def text(self, name: str) -> str:
        """The text of a file, without a byte order mark.

        Raises:
            EvaluationError: it is missing, unreadable or not UTF-8.
        """
        path = self.folder / name
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise EvaluationError(f"{path} is not a regular file")
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            held = ", ".join(sorted(p.name for p in self.folder.iterdir())[:8]) or "nothing"
            raise EvaluationError(f"{path} is missing: {self.folder} holds {held}") from None
        except OSError as error:
            raise EvaluationError(f"{path}: {error.strerror or error}") from None
        self.hashes["/".join(path.parts[-3:])] = hashlib.sha256(data).hexdigest()
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise EvaluationError(f"{path} is not UTF-8: byte {error.start} is invalid") from None

    def lines(self, name: str) -> list[str]:
        """The lines of a file; only a newline ends one, not the other separators of Unicode."""
        lines = self.text(name).replace("\r\n", "\n").split("\n")
        return lines[:-1] if lines[-1] == "" else lines


def one_line(text: str) -> str:
    """An answer in the one line that it has room for."""
    return " ".join(text.split())


def empty(path: Path) -> EvaluationError:
    return EvaluationError(f"{path} holds no items: there is nothing to evaluate")


def too_few(folder: Path, found: int, wanted: int) -> EvaluationError:
    return EvaluationError(
        f"{folder} holds {found} exemplars, {wanted} are wanted: lower --shots, or add to them"
    )
