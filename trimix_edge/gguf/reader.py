"""The head of a GGUF file: metadata and tensor infos, read without believing a byte of them.

A file is the magic ``GGUF``, a version, two counts, the key-value pairs of the metadata, name,
shape, type and offset of each tensor, and after padding the tensors' data, which is never read
here. Every count and length is checked against what is left of the file before it is used; long
arrays (a vocabulary, its merges) and long strings are walked over, not kept, and what is kept is
bounded in all: a hostile file costs neither memory nor patience.
"""

from __future__ import annotations

import math
import os
import stat
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from gguf import GGML_QUANT_SIZES

from trimix_edge.errors import ModelLoadError
from trimix_edge.gguf.split import MAX_PARTS, part_name
from trimix_edge.gguf.window import Source, Window, damaged

MAGIC = b"GGUF"

_MAX_PAIRS = 1 << 16
_MAX_TENSORS = 1 << 16  # of all parts
_MAX_DIMENSIONS = 4  # GGML_MAX_DIMS
_MAX_NAME = 63  # GGML_MAX_NAME, less the zero at its end
_MAX_KEY = 1 << 10
_MAX_ARRAY = 1 << 24
_KEPT_ITEMS = 1024
_KEPT_STRING = 1 << 20
_KEPT_BYTES = 1 << 25
_ITEM_BYTES = 64  # of an object of Python, about

_SCALARS = {
    kind: struct.Struct(form)
    for kind, form in {
        0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?",
        10: "<Q", 11: "<q", 12: "<d",
    }.items()
}  # fmt: skip
_STRING, _ARRAY = 8, 9
_U32, _U64 = _SCALARS[4], _SCALARS[10]

# ggml's tensor types: name, weights in a block, bytes of a block.
_TYPES: dict[int, tuple[str, int, int]] = {
    int(kind): (kind.name, *sizes) for kind, sizes in GGML_QUANT_SIZES.items()
}
_TYPES.setdefault(42, ("Q2_0", 64, 18))  # llama.cpp writes it, the gguf package learns it later

T = TypeVar("T")

Opener = Callable[[Path], AbstractContextManager[tuple[Source, int]]]
"""Opens a file for the time of a block: what to read from, and how many bytes it has."""


@dataclass(frozen=True)
class LongArray:
    """An array of the metadata that was not kept: only how many items it has."""

    n_items: int


@dataclass(frozen=True)
class LongString:
    """A string of the metadata that was not kept: only how many bytes it has."""

    n_bytes: int


@dataclass(frozen=True)
class TensorInfo:
    """One tensor: ``shape`` as in the file, the length of a row first; ``kind`` as ``Q4_K``, and
    ``type_id`` that type's number in ``enum ggml_type``; ``start`` is the byte of its own file
    where its data begins."""

    name: str
    shape: tuple[int, ...]
    kind: str
    n_bytes: int
    type_id: int
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
        metadata: of the first part: numbers, strings, tuples of them, and :class:`LongArray` or
            :class:`LongString` where they are many.
        tensors: of all parts, in the order of the files.
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
    def types(self) -> frozenset[int]:
        """Types of all tensors, numbers of ``enum ggml_type``."""
        return frozenset(tensor.type_id for tensor in self.tensors)

    @property
    def n_tensor_bytes(self) -> int:
        return sum(tensor.n_bytes for tensor in self.tensors)

    @property
    def n_parameters(self) -> int:
        return sum(tensor.n_elements for tensor in self.tensors)


def read_gguf(path: Path, opened: Opener | None = None) -> GgufFile:
    """Read the head of a GGUF file, and those of the other parts if it is the first of several.

    Args:
        opened: opens a file that is not on this machine; its name is that of ``path``.

    Raises:
        ModelLoadError: not a GGUF file, damaged, truncated, or a part is missing.
    """
    first = _read_one(path, opened)
    count, number = first.get("split.count", int) or 0, first.get("split.no", int) or 0
    if count <= 1:
        return first
    suffix = part_name("", number + 1, count)
    if not 0 <= number < count <= MAX_PARTS or not path.name.endswith(suffix):
        raise ModelLoadError(
            f"{path} is part {number + 1} of {count}, and llama.cpp wants such a file to be "
            f"called NAME{suffix}"
        )
    stem = path.name.removesuffix(suffix)
    names = [part_name(stem, n, count) for n in range(1, count + 1)]
    if number != 0:
        raise ModelLoadError(f"{path} is part {number + 1} of {count}: name the first, {names[0]}")
    n_bytes, tensors = first.n_bytes, {tensor.name: tensor for tensor in first.tensors}
    for n, name in enumerate(names[1:], 1):
        if opened is None and not os.path.lexists(path.with_name(name)):
            raise ModelLoadError(f"{path} has {count} parts, and {name} is missing beside it")
        part = _read_one(path.with_name(name), opened, _MAX_TENSORS - len(tensors))
        if (part.get("split.no", int), part.get("split.count", int)) != (n, count):
            raise ModelLoadError(f"{part.path} does not say that it is part {n + 1} of {count}")
        n_bytes += part.n_bytes
        for tensor in part.tensors:
            if tensor.name in tensors:
                raise ModelLoadError(f"{part.path}: {tensor.name!r} is in another part too")
            tensors[tensor.name] = tensor
    return replace(first, n_bytes=n_bytes, tensors=tuple(tensors.values()), n_parts=count)


def _read_one(path: Path, opened: Opener | None, max_tensors: int = _MAX_TENSORS) -> GgufFile:
    if opened is not None:
        with opened(path) as (source, size):
            return _Reader(path, Window(path, source, size), max_tensors).read()
    try:
        with _opened(path) as (source, size):
            return _Reader(path, Window(path, source, size), max_tensors).read()
    except FileNotFoundError:
        raise ModelLoadError(f"{path}: no such file") from None
    except PermissionError:
        raise ModelLoadError(f"{path}: no permission to read it") from None
    except OSError as error:
        raise ModelLoadError(f"{path}: {error.strerror or error}") from None
    except ValueError:
        raise ModelLoadError(f"{str(path)!r} can't be the name of a file") from None


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Source, int]]:
    """A file here; what is no regular file is not opened, as a pipe would not answer."""
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise ModelLoadError(f"{path} is a directory, not a GGUF file")
    if not stat.S_ISREG(mode):
        raise ModelLoadError(f"{path} is not a regular file")
    with path.open("rb", buffering=0) as file:
        yield file, os.fstat(file.fileno()).st_size


class _Reader:
    """What the bytes of a window mean."""

    def __init__(self, path: Path, window: Window, max_tensors: int) -> None:
        self._path = path
        self._window = window
        self._max_tensors = max_tensors
        self._kept = 0

    def read(self) -> GgufFile:
        size = self._window.size
        if size == 0:
            raise ModelLoadError(f"{self._path} is empty: download or convert it again")
        magic = self._window.take(min(4, size))
        if magic != MAGIC:
            raise ModelLoadError(
                f"{self._path} is not a GGUF file: it begins with {magic!r} instead of {MAGIC!r}"
            )
        version = self._number(_U32)
        if version not in (2, 3):
            what = "of a machine with the other byte order" if version > 1 << 16 else "unknown"
            raise self._damaged(f"version {version} of the format is {what}")
        n_tensors = self._count(_U64, self._max_tensors, "tensors")
        n_pairs = self._count(_U64, _MAX_PAIRS, "metadata entries")
        metadata: dict[str, Any] = {}
        for _ in range(n_pairs):
            key = self._string(self._count(_U64, _MAX_KEY, "bytes in a key"))
            if key in metadata:
                raise self._damaged(f"the key {key[:80]!r} comes twice")
            metadata[key] = self._value(self._number(_U32))
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise self._damaged(f"an alignment of {str(alignment)[:20]} cannot be")
        found = [self._tensor() for _ in range(n_tensors)]
        start = -(-self._window.position // alignment) * alignment
        self._check(found, start)
        tensors = tuple(replace(info, start=start + offset) for info, offset in found)
        return GgufFile(self._path, size, metadata, tensors)

    def _check(self, found: list[tuple[TensorInfo, int]], start: int) -> None:
        names: set[str] = set()
        size = self._window.size
        for info, offset in found:
            if info.name in names:
                raise self._damaged(f"the tensor {info.name!r} comes twice")
            names.add(info.name)
            if start + offset + info.n_bytes > size:
                raise ModelLoadError(
                    f"{self._path} is truncated: {info.name!r} ends at byte "
                    f"{start + offset + info.n_bytes}, the file at {size}: download or "
                    f"convert it again"
                )

    def _tensor(self) -> tuple[TensorInfo, int]:
        name = self._string(self._count(_U64, _MAX_NAME, "bytes in a tensor's name"))
        n_dimensions = self._count(_U32, _MAX_DIMENSIONS, "dimensions")
        shape = tuple(self._number(_U64) for _ in range(n_dimensions))
        number, offset = self._number(_U32), self._number(_U64)
        if number not in _TYPES:
            raise self._damaged(f"the tensor {name!r} has the unknown type {number}")
        kind, block, block_bytes = _TYPES[number]
        row, n = shape[0] if shape else 1, math.prod(shape)
        if row % block or not 0 < n < 1 << 62:
            raise self._damaged(f"the tensor {name!r} can't be {kind} of shape {shape}")
        return TensorInfo(name, shape, kind, n // block * block_bytes, number), offset

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            size = self._number(_U64)
            if size <= _KEPT_STRING:
                return self._string(size)
            self._window.skip(size)
            return LongString(size)
        if kind == _ARRAY:
            item, n = self._number(_U32), self._count(_U64, _MAX_ARRAY, "items in an array")
            return self._array(item, n)
        return self._number(self._form(kind))

    def _array(self, kind: int, n: int) -> Any:
        if kind == _STRING:
            if n <= _KEPT_ITEMS:
                return tuple(self._string(self._number(_U64)) for _ in range(n))
            self._window.skip_strings(n)
            return LongArray(n)
        form = self._form(kind)
        if n <= _KEPT_ITEMS:
            self._keep(n * _ITEM_BYTES)
            return tuple(self._number(form) for _ in range(n))
        self._window.skip(n * form.size)
        return LongArray(n)

    def _form(self, kind: int) -> struct.Struct:
        if kind not in _SCALARS:
            raise self._damaged(f"the metadata has a value of the unknown type {kind}")
        return _SCALARS[kind]

    def _string(self, size: int) -> str:
        self._keep(_ITEM_BYTES + size)
        return self._window.take(size).decode("utf-8", errors="backslashreplace")

    def _keep(self, n_bytes: int) -> None:
        self._kept += n_bytes
        if self._kept > _KEPT_BYTES:
            raise self._damaged(f"its metadata take more than {_KEPT_BYTES >> 20} MiB")

    def _count(self, form: struct.Struct, most: int, what: str) -> int:
        n: int = self._number(form)
        if n > most:
            raise self._damaged(f"it claims to have {n} {what}")
        return n

    def _number(self, form: struct.Struct) -> Any:
        return self._window.number(form)

    def _damaged(self, what: str) -> ModelLoadError:
        return damaged(self._path, what)
