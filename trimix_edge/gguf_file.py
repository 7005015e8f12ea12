"""The head of a GGUF file: metadata and tensor infos, read without believing a byte of them.

A file is the magic ``GGUF``, a version, two counts, the key-value pairs of the metadata, name,
shape, type and offset of each tensor, and after padding the tensors' data, which is never read
here. Every count and length is checked against what is left of the file before it is used, and
long arrays (a vocabulary, its merges) are walked over, not kept: a hostile file costs neither
memory nor patience.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from gguf import GGML_QUANT_SIZES

from trimix_edge.errors import ModelLoadError

MAGIC = b"GGUF"

_MAX_PAIRS = 1 << 16
_MAX_TENSORS = 1 << 20
_MAX_DIMENSIONS = 4
_MAX_PARTS = 1000
_MAX_STRING = 1 << 24
_MAX_ARRAY = 1 << 24
_KEPT_ITEMS = 1024

_SCALARS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?",
    10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
_STRING, _ARRAY = 8, 9

# ggml's tensor types: name, weights in a block, bytes of a block.
_TYPES: dict[int, tuple[str, int, int]] = {
    int(kind): (kind.name, *sizes) for kind, sizes in GGML_QUANT_SIZES.items()
}
_TYPES.setdefault(42, ("Q2_0", 64, 18))  # llama.cpp writes it, the gguf package learns it later

T = TypeVar("T")


@dataclass(frozen=True)
class LongArray:
    """An array of the metadata that was not kept: only how many items it has."""

    n_items: int


@dataclass(frozen=True)
class TensorInfo:
    """One tensor: ``shape`` as in the file, the length of a row first; ``kind`` as ``Q4_K``;
    ``start`` is the byte of its own file where its data begins."""

    name: str
    shape: tuple[int, ...]
    kind: str
    n_bytes: int
    start: int = 0

    @property
    def n_elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class GgufFile:
    """What the head of a GGUF file says.

    Attributes:
        path: the file; the first one of a model in several parts.
        n_bytes: bytes of all parts together.
        metadata: numbers, strings, tuples of them, and :class:`LongArray` where they are many.
        tensors: of all parts, in the order of the file.
        n_parts: files that make the model, nearly always 1.
    """

    path: Path
    n_bytes: int
    metadata: Mapping[str, Any]
    tensors: tuple[TensorInfo, ...]
    n_parts: int = 1

    def get(self, key: str, kind: type[T]) -> T | None:
        """A value of the metadata if it is there and has that type."""
        value = self.metadata.get(key)
        if isinstance(value, bool) and kind is not bool:
            return None
        return value if isinstance(value, kind) else None

    @property
    def architecture(self) -> str:
        return self.get("general.architecture", str) or ""

    @property
    def n_tensor_bytes(self) -> int:
        return sum(tensor.n_bytes for tensor in self.tensors)

    @property
    def n_parameters(self) -> int:
        return sum(tensor.n_elements for tensor in self.tensors)


def read_gguf(path: Path) -> GgufFile:
    """Read the head of a GGUF file, and those of the other parts if it is the first of several.

    Raises:
        ModelLoadError: not a GGUF file, damaged, truncated, or a part is missing.
    """
    first = _read_one(path)
    count, number = first.get("split.count", int) or 0, first.get("split.no", int) or 0
    if count <= 1:
        return first
    suffix = f"-{number + 1:05d}-of-{count:05d}.gguf"
    if count > _MAX_PARTS or not path.name.endswith(suffix):
        raise ModelLoadError(
            f"{path} is part {number + 1} of {count}, and llama.cpp wants such a file to be "
            f"called NAME{suffix}"
        )
    stem = path.name.removesuffix(suffix)
    names = [f"{stem}-{i + 1:05d}-of-{count:05d}.gguf" for i in range(count)]
    if number != 0:
        raise ModelLoadError(f"{path} is part {number + 1} of {count}: name the first, {names[0]}")
    parts = [first]
    for name in names[1:]:
        if not path.with_name(name).is_file():
            raise ModelLoadError(f"{path} has {count} parts, and {name} is missing beside it")
        parts.append(_read_one(path.with_name(name)))
    return GgufFile(
        path,
        n_bytes=sum(part.n_bytes for part in parts),
        metadata=first.metadata,
        tensors=tuple(tensor for part in parts for tensor in part.tensors),
        n_parts=count,
    )


def _read_one(path: Path) -> GgufFile:
    try:
        if path.is_dir():
            raise ModelLoadError(f"{path} is a directory, not a GGUF file")
        with path.open("rb") as file:
            return _Reader(path, file).read()
    except FileNotFoundError:
        raise ModelLoadError(f"{path}: no such file") from None
    except OSError as error:
        raise ModelLoadError(f"{path}: {error.strerror or error}") from None


class _Reader:
    """Takes values off the front of a file, and never more than are left of it."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file
        self._size = os.fstat(file.fileno()).st_size
        self._left = self._size

    def read(self) -> GgufFile:
        magic = self._file.read(4)
        if magic != MAGIC:
            is_what = f"begins with {magic!r} instead of {MAGIC!r}" if magic else "is empty"
            raise ModelLoadError(f"{self._path} is not a GGUF file: it {is_what}")
        self._left -= 4
        version = self._number("<I")
        if version not in (2, 3):
            what = "of a machine with the other byte order" if version > 1 << 16 else "unknown"
            raise self._damaged(f"version {version} of the format is {what}")
        n_tensors = self._count("<Q", _MAX_TENSORS, "tensors")
        n_pairs = self._count("<Q", _MAX_PAIRS, "metadata entries")
        metadata: dict[str, Any] = {}
        for _ in range(n_pairs):
            key = self._string()
            if key in metadata:
                raise self._damaged(f"the key {key[:80]!r} comes twice")
            metadata[key] = self._value(self._number("<I"))
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise self._damaged(f"an alignment of {str(alignment)[:20]} cannot be")
        found = [self._tensor() for _ in range(n_tensors)]
        start = -(-(self._size - self._left) // alignment) * alignment
        self._check(found, start)
        tensors = tuple(replace(info, start=start + offset) for info, offset in found)
        return GgufFile(self._path, self._size, metadata, tensors)

    def _check(self, found: list[tuple[TensorInfo, int]], start: int) -> None:
        names: set[str] = set()
        for info, offset in found:
            if info.name in names:
                raise self._damaged(f"the tensor {info.name!r} comes twice")
            names.add(info.name)
            if start + offset + info.n_bytes > self._size:
                raise ModelLoadError(
                    f"{self._path} is truncated: {info.name!r} ends at byte "
                    f"{start + offset + info.n_bytes}, the file at {self._size}: download or "
                    f"convert it again"
                )

    def _tensor(self) -> tuple[TensorInfo, int]:
        name = self._string()
        n_dimensions = self._count("<I", _MAX_DIMENSIONS, "dimensions")
        shape = tuple(self._number("<Q") for _ in range(n_dimensions))
        number, offset = self._number("<I"), self._number("<Q")
        if number not in _TYPES:
            raise self._damaged(f"the tensor {name[:80]!r} has the unknown type {number}")
        kind, block, block_bytes = _TYPES[number]
        row = shape[0] if shape else 1
        if row % block or math.prod(shape) >= 1 << 62:
            raise self._damaged(f"the tensor {name[:80]!r} can't be {kind} of shape {shape}")
        return TensorInfo(name, shape, kind, math.prod(shape) // block * block_bytes), offset

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            item, n = self._number("<I"), self._count("<Q", _MAX_ARRAY, "items in an array")
            return self._array(item, n)
        return self._number(self._format(kind))

    def _array(self, kind: int, n: int) -> Any:
        if kind == _STRING:
            if n <= _KEPT_ITEMS:
                return tuple(self._string() for _ in range(n))
            for _ in range(n):
                self._skip(self._number("<Q"))
            return LongArray(n)
        form = self._format(kind)
        if n <= _KEPT_ITEMS:
            return tuple(self._number(form) for _ in range(n))
        self._skip(n * struct.calcsize(form))
        return LongArray(n)

    def _format(self, kind: int) -> str:
        if kind not in _SCALARS:
            raise self._damaged(f"the metadata has a value of the unknown type {kind}")
        return _SCALARS[kind]

    def _string(self) -> str:
        size = self._count("<Q", _MAX_STRING, "bytes in a string")
        return self._take(size).decode("utf-8", errors="backslashreplace")

    def _count(self, form: str, most: int, what: str) -> int:
        n: int = self._number(form)
        if n > most:
            raise self._damaged(f"it claims to have {n} {what}")
        return n

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _take(self, n: int) -> bytes:
        self._advance(n)
        data = self._file.read(n)
        if len(data) != n:
            raise self._damaged("it shrank while it was read")
        return data

    def _skip(self, n: int) -> None:
        self._advance(n)
        self._file.seek(n, os.SEEK_CUR)

    def _advance(self, n: int) -> None:
        if n > self._left:
            raise self._damaged("it ends inside its metadata")
        self._left -= n

    def _damaged(self, what: str) -> ModelLoadError:
        return ModelLoadError(f"{self._path} is damaged: {what}: download or convert it again")
