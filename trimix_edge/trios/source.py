"""Where the weights of a ``trio.toml`` come from: its table ``[fusion.source]``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


class Table(Protocol):
    """A table of TOML that checks types."""

    def text(self, key: str) -> str | None: ...
    def texts(self, key: str) -> tuple[str, ...]: ...
    def integer(self, key: str) -> int | None: ...


@dataclass(frozen=True)
class WeightSource:
    """What a pair of weights was fitted to.

    Attributes:
        weights: the pair, as it was saved.
        method: ``fit --text`` or the like.
        files: names of the files.
        sha256: of their contents, in the same order.
        date: the day, ISO 8601.
        nats: a token of the files, with the pair, to five digits.
        n_tokens: of the files.
    """

    weights: str
    method: str
    files: tuple[str, ...]
    sha256: tuple[str, ...]
    date: str
    nats: str
    n_tokens: int

    @classmethod
    def read(cls, table: Table) -> WeightSource | None:
        """What a table says; None of an empty one."""
        method = table.text("method")
        found = cls(
            weights=table.text("weights") or "",
            method=method or "",
            files=table.texts("files"),
            sha256=table.texts("sha256"),
            date=table.text("date") or "",
            nats=table.text("nats_a_token") or "",
            n_tokens=table.integer("tokens") or 0,
        )
        return found if method is not None else None

    def as_table(self) -> dict[str, Any]:
        """The keys of ``[fusion.source]``."""
        return {
            "weights": self.weights,
            "method": self.method,
            "files": list(self.files),
            "sha256": list(self.sha256),
            "date": self.date,
            "nats_a_token": self.nats,
            "tokens": self.n_tokens,
        }

    def as_toml(self) -> list[str]:
        """The lines of the table; JSON's strings, lists and numbers are TOML's."""
        lines = ["[fusion.source]"]
        for key, value in self.as_table().items():
            lines.append(f"{key} = {json.dumps(value, ensure_ascii=True)}")
        return lines

    def __str__(self) -> str:
        return (
            f"{self.method} on {self.date}: {', '.join(self.files)}, {self.n_tokens} tokens, "
            f"{self.nats} nats a token"
        )


def hashes(paths: Sequence[Path]) -> tuple[str, ...]:
    """SHA-256 of each file's content."""
    return tuple(hashlib.sha256(path.read_bytes()).hexdigest() for path in paths)
