"""Which chunks of which texts an importance matrix is made from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from trimix_edge.errors import ImatrixError, UsageError
from trimix_edge.llama.chunks import SMALLEST, chunks_of
from trimix_edge.llama.vocab import Vocab


@dataclass(frozen=True)
class CalibrationText:
    """A text to calibrate on.

    Attributes:
        name: what the matrix calls it: its file.
        share: its part of all chunks, in proportion to those of the other texts; None takes all
            that it has.
    """

    name: str
    text: str
    share: float | None = None


def check_settings(
    texts: Sequence[CalibrationText], chunk_size: int | None, max_chunks: int | None
) -> None:
    if not texts:
        raise UsageError("an importance matrix needs at least one text")
    if chunk_size is not None and (chunk_size < SMALLEST or chunk_size % SMALLEST):
        raise UsageError(f"chunk size is {chunk_size}, it must be a multiple of {SMALLEST}")
    if max_chunks is not None and max_chunks < 1:
        raise UsageError(f"chunks is {max_chunks}, it must be at least 1")
    shares = [text.share for text in texts if text.share is not None]
    if shares and len(shares) < len(texts):
        raise UsageError("either all texts have a share or none")
    if any(not 0 < share < math.inf for share in shares):
        raise UsageError(f"a share is {min(shares)}, it must be a number greater than 0")


def plan_chunks(
    vocab: Vocab, texts: Sequence[CalibrationText], size: int, max_chunks: int | None
) -> list[tuple[int, list[int]]]:
    """The chunks to run, each with its text's number; texts alternate in proportion."""
    found = []
    for text in texts:
        tokens = vocab.tokenize(text.text, parse_special=False)
        found.append(chunks_of(vocab, tokens, size))
        if not found[-1]:
            raise ImatrixError(
                f"{text.name} is too short: it has {len(tokens)} tokens, a chunk takes {size}: "
                f"give more text, or smaller chunks"
            )
    shares = [text.share for text in texts if text.share is not None]
    counts = plan_counts([len(chunks) for chunks in found], shares or None, max_chunks)
    picked = []
    for i, (chunks, n) in enumerate(zip(found, counts, strict=True)):
        # Evenly from the whole text; the place of a chunk among all of them is its own share.
        picked += [((k + 0.5) / n, i, chunks[k * len(chunks) // n]) for k in range(n)]
    return [(i, chunk) for _, i, chunk in sorted(picked, key=lambda entry: entry[:2])]


def plan_counts(
    available: Sequence[int], shares: Sequence[float] | None, most: int | None
) -> list[int]:
    """How many chunks of each text are run: as many as its share allows, at least one of each.

    Args:
        available: whole chunks of each text.
        shares: their proportions; None for those of ``available``.
        most: chunks in all.
    """
    parts = [float(share) for share in shares or available]
    total = math.fsum(parts)
    n = min(a * total / part for a, part in zip(available, parts, strict=True))
    n = min(n, float(most)) if most is not None else n
    return [
        max(1, min(a, math.floor(n * part / total + 1e-9)))
        for a, part in zip(available, parts, strict=True)
    ]
