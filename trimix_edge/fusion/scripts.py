"""Which tokens of a prompt are written in a script."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from trimix_edge.scripts import check_script, script_pattern


def tokens_of_script(pieces: Sequence[bytes], code: str) -> npt.NDArray[np.bool_]:
    """Which tokens have a part in a character of a script.

    A character that is split over several tokens counts for each of them. Bytes that are no UTF-8
    are of no script.

    Args:
        pieces: the bytes of consecutive tokens; what comes after a character's first part may
            stand in a later piece.
        code: see :func:`check_script`.

    Returns:
        bool ``[n_tokens]``.

    Raises:
        UsageError: see :func:`check_script`.
    """
    pattern = script_pattern(check_script(code))
    assert pattern is not None
    text = b"".join(pieces).decode("utf-8", "surrogateescape")  # a byte that is none: a surrogate
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    is_of = np.zeros(len(points), np.bool_)
    for found in pattern.finditer(text):
        is_of[found.start() : found.end()] = True
    sizes = 1 + (points >= 0x80) + (points >= 0x800).astype(int) + (points >= 0x10000)
    sizes[(points >= 0xDC80) & (points <= 0xDCFF)] = 1
    before = np.concatenate([[0], np.cumsum(np.repeat(is_of, sizes))])
    ends = np.cumsum([len(piece) for piece in pieces], dtype=np.int64)
    starts = ends - [len(piece) for piece in pieces]
    return np.asarray(before[ends] > before[starts]) if len(pieces) else np.zeros(0, np.bool_)
