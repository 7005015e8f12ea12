"""A file read from its front, with no more of it in memory than a piece."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, Protocol

from trimix_edge.errors import ModelLoadError

_LENGTH = struct.Struct("<Q")


def damaged(path: Path, what: str) -> ModelLoadError:
    return ModelLoadError(f"{path} is damaged: {what}: download or convert it again")


class Source(Protocol):
    """What a window reads from: a file that is open, or one on another machine."""

    def seek(self, position: int, /) -> int:
        """Go to a byte of the file."""

    def read(self, n: int, /) -> bytes | None:
        """Up to ``n`` bytes from there on; fewer only where the file ends."""


class Window:
    """Takes bytes off the front of a file, never more than are left of it, a piece in memory."""

    PIECE = 1 << 18

    def __init__(self, path: Path, file: Source, size: int) -> None:
        self.size = size
        self._path = path
        self._file = file
        self._data = b""
        self._start = 0  # where in the file the piece begins
        self._at = 0  # where in the piece we are

    @property
    def position(self) -> int:
        return self._start + self._at

    def take(self, n: int) -> bytes:
        self._require(n)
        self._at += n
        return self._data[self._at - n : self._at]

    def number(self, form: struct.Struct) -> Any:
        if len(self._data) - self._at < form.size:
            self._require(form.size)
        self._at += form.size
        return form.unpack_from(self._data, self._at - form.size)[0]

    def skip(self, n: int) -> None:
        self._go(self._at + n)

    def skip_strings(self, n: int) -> None:
        """Go past ``n`` strings, of which only the lengths are looked at."""
        unpack = _LENGTH.unpack_from
        while n > 0:
            self._require(_LENGTH.size)
            data, at, last = self._data, self._at, len(self._data) - _LENGTH.size
            while n > 0 and at <= last:
                at += _LENGTH.size + unpack(data, at)[0]
                n -= 1
            self._go(at)

    def _go(self, at: int) -> None:
        if self._start + at > self.size:
            raise damaged(self._path, "it ends inside its metadata")
        if at <= len(self._data):
            self._at = at
        else:
            self._start, self._data, self._at = self._start + at, b"", 0
            self._file.seek(self._start)

    def _require(self, n: int) -> None:
        """Have the next ``n`` bytes in memory."""
        if self.position + n > self.size:
            raise damaged(self._path, "it ends inside its metadata")
        if len(self._data) - self._at >= n:
            return
        pieces = [self._data[self._at :]]
        have = len(pieces[0])
        while have < n:
            piece = self._file.read(max(n - have, self.PIECE))
            if not piece:
                raise damaged(self._path, "it shrank while it was read")
            pieces.append(piece)
            have += len(piece)
        self._start, self._data, self._at = self.position, b"".join(pieces), 0
