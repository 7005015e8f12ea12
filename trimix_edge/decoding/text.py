"""Bytes to text: whole characters only, and nothing of a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Iterable

from trimix_edge.errors import UsageError


class TextStream:
    """Turns the bytes of tokens into text, as soon as it is certain.

    A token of these scripts is often a part of a character, so bytes wait until their character is
    complete; text that may be the beginning of a stop string waits as well. Bytes that can't be
    part of any character are left out: no stream ever shows U+FFFD in their place.

    Args:
        stop: the text ends before the first of these that appears.
    """

    def __init__(self, stop: Iterable[str] = ()) -> None:
        self._stops = tuple(stop)
        if "" in self._stops:
            raise UsageError("a stop string is empty: it would stop at once")
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="ignore")
        self._held = ""
        self.stopped = False

    def push(self, piece: bytes) -> str:
        """Add a token's bytes; returns the text that is now certain, often empty."""
        return self._release(self._decoder.decode(piece))

    def finish(self) -> str:
        """The rest, after the last token: what was held in case it began a stop string."""
        text = self._release(self._decoder.decode(b"", final=True))
        text, self._held = text + self._held, ""
        return text

    def _release(self, text: str) -> str:
        if self.stopped:
            return ""
        self._held += text
        found = [(self._held.find(stop), stop) for stop in self._stops]
        # The one that is complete first, so that the text does not depend on token boundaries.
        spans = [(at + len(stop), at) for at, stop in found if at >= 0]
        if spans:
            self.stopped = True
            text, self._held = self._held[: min(spans)[1]], ""
            return text
        keep = self._possible_stop()
        cut = len(self._held) - keep
        text, self._held = self._held[:cut], self._held[cut:]
        return text

    def _possible_stop(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = max(map(len, self._stops), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0
