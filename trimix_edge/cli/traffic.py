"""What a generation has sent to servers and got from them, a token."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trimix_edge.decoding.run import GenerationChunk
    from trimix_edge.trimix import TriMix


class Traffic:
    """Counts the bytes of generated tokens after the first, which the prompt belongs to.

    Attributes:
        servers: ``HOST:PORT``; none where all is computed here.
        n_bytes: of those tokens.
    """

    def __init__(self, trimix: TriMix) -> None:
        self._worker = trimix.trio.worker
        used = trimix.trio.context.rpc.items()
        self.servers = tuple(
            dict.fromkeys(one for role, own in used if role in trimix.roles for one in own)
        )
        self.n_bytes = self._n_tokens = 0

    def counted(self, chunks: Iterable[GenerationChunk]) -> Iterator[GenerationChunk]:
        """The same chunks."""
        first = 0
        for self._n_tokens, chunk in enumerate(chunks):
            now = 0 if self._worker is None else self._worker.n_bytes
            first = first or now
            self.n_bytes = now - first
            yield chunk

    @property
    def bytes_per_token(self) -> float | None:
        """None for fewer than two tokens."""
        return self.n_bytes / self._n_tokens if self._n_tokens else None

    def __str__(self) -> str:
        each = self.bytes_per_token
        told = "nothing was generated" if each is None else f"{each / 1e3:.1f} KB a token"
        return f"({told} to and from {', '.join(self.servers)})"

    def record(self) -> dict[str, Any]:
        """For ``--json``; empty where all is computed here."""
        if not self.servers:
            return {}
        told = {"servers": list(self.servers), "bytes_per_token": self.bytes_per_token}
        return {"rpc": told}
