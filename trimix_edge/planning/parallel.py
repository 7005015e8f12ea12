"""How many sequences a machine has memory for."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import psutil

from trimix_edge.gguf import ModelShape
from trimix_edge.gguf.reader import read_gguf

SIZES = (16, 8, 4, 2, 1)
SHARE = 1 / 8
"""Of all memory, for the KV caches. Not of what is free now: a second call, whose results must
agree with the first one's, would get another number."""


def default_parallel(paths: Iterable[Path], n_ctx: int, kv_type: str = "f16") -> int:
    """The most sequences, up to 16, whose KV caches take no more than an eighth of the memory.

    Raises:
        GgufError: a file can't be read.
    """
    shapes = [ModelShape.of(read_gguf(path)) for path in paths]
    each = sum(shape.kv_bytes(n_ctx, kv_type) for shape in shapes if shape is not None)
    budget = psutil.virtual_memory().total * SHARE
    return next((n for n in SIZES if n * each <= budget), 1)
