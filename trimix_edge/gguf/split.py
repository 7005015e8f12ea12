"""The files of a model that comes in several parts, as ``llama-gguf-split`` names them."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from trimix_edge import files

MAX_PARTS = 1000

_FIRST = re.compile(r"(.*)-00001-of-(\d{5})\.gguf", re.DOTALL)


def part_name(stem: str, number: int, count: int) -> str:
    """The name that llama.cpp wants part ``number``, from 1, to have (``llama_split_path``)."""
    return f"{stem}-{number:05d}-of-{count:05d}.gguf"


def part_paths(path: Path) -> tuple[Path, ...]:
    """All files of a model, the first first: one, unless its name is that of a first part.

    Nothing is opened, and a part need not exist.
    """
    match = _FIRST.fullmatch(path.name)
    count = int(match[2]) if match else 1
    if match is None or not 1 < count <= MAX_PARTS:
        return (path,)
    names = (part_name(match[1], n, count) for n in range(2, count + 1))
    return (path, *(path.with_name(name) for name in names))


def n_file_bytes(path: Path) -> int:
    """Bytes of all parts of a model.

    Raises:
        OSError: one of them is not there.
    """
    return sum(part.stat().st_size for part in part_paths(path))


def fingerprint(path: Path) -> str:
    """What tells a model from others: :func:`trimix_edge.files.fingerprint` of every part.

    Raises:
        OSError: a part can't be read.
    """
    parts = part_paths(path)
    if len(parts) == 1:
        return files.fingerprint(path)
    digest = hashlib.sha256()
    for part in parts:
        digest.update(files.fingerprint(part).encode())
    return digest.hexdigest()
