"""An iterator over the chunks of one generation."""

from __future__ import annotations

from types import TracebackType

from trimix_edge.decoding.loop import EngineLoop
from trimix_edge.decoding.run import GenerationChunk, Run


class Stream:
    """An iterator over the chunks of one generation. It may be left at any time."""

    def __init__(self, loop: EngineLoop, run: Run) -> None:
        self._loop = loop
        self._is_added = False
        self.run = run

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> GenerationChunk:
        if not self._is_added:  # a stream that nobody reads takes no place
            self._is_added = True
            self._loop.add(self.run)
        chunk = self._loop.next_chunk(self.run)
        if chunk is None:
            raise StopIteration
        return chunk

    def close(self) -> None:
        """End the generation; safe to call again."""
        self.run.cancel()

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()
