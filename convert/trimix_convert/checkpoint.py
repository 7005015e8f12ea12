"""The tensors of a checkpoint, found without reading them: a slice of rows at a time, never more.

The safetensors format is an 8-byte little-endian header length, a JSON header
`{name: {"dtype", "shape", "data_offsets": [begin, end]}}` and the raw bytes. The header is
checked against the file before anything is believed: strangers wrote both.
"""

from __future__ import annotations

import json
import math
import os
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from .config import read_json
from .errors import CheckpointError

_MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors reference implementation


class Tensor(ABC):
    """A named tensor somewhere else: on disk, or computed from the configuration.

    `dtype` is "F32", "F16", "BF16", or another safetensors name that no conversion can use.
    """

    #: The NumPy type of what `rows` returns; NumPy has no bfloat16, its bits come as uint16.
    NUMPY_TYPES: ClassVar[dict[str, str]] = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}

    def __init__(self, name: str, dtype: str, shape: tuple[int, ...]) -> None:
        self.name = name
        self.dtype = dtype
        self.shape = shape

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @abstractmethod
    def rows(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Rows `start` to `stop` of the first axis, shape `[stop - start, *shape[1:]]`."""


class ArrayTensor(Tensor):
    """A tensor held in memory as float32."""

    def __init__(self, name: str, values: npt.NDArray[np.float32]) -> None:
        super().__init__(name, "F32", values.shape)
        self._values = values

    def rows(self, start: int, stop: int) -> npt.NDArray[Any]:
        return self._values[start:stop]


class SafetensorsTensor(Tensor):
    """A tensor inside a safetensors file, `offset` bytes from the start of the file."""

    def __init__(
        self, name: str, dtype: str, shape: tuple[int, ...], path: Path, offset: int
    ) -> None:
        super().__init__(name, dtype, shape)
        self.path = path
        self.offset = offset

    def rows(self, start: int, stop: int) -> npt.NDArray[Any]:
        dtype = np.dtype(self.NUMPY_TYPES[self.dtype])
        width = math.prod(self.shape[1:])
        count = (stop - start) * width
        # fromfile, not a memory map: pages of a map would count as resident until evicted.
        offset = self.offset + start * width * dtype.itemsize
        try:
            values = np.fromfile(self.path, dtype, count, offset=offset)
        except OSError as error:
            raise CheckpointError(f"cannot read {self.path}: {error.strerror}") from None
        if values.size != count:
            raise CheckpointError(f"{self.path} is truncated: {self.name} ends too early")
        return values.reshape(stop - start, *self.shape[1:])


_ITEM_BYTES = {name: np.dtype(numpy).itemsize for name, numpy in Tensor.NUMPY_TYPES.items()}


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of one safetensors file, in the order of their bytes.

    Raises CheckpointError when the header is not one, or does not fit the file.
    """
    try:
        with path.open("rb") as file:
            file_size = os.fstat(file.fileno()).st_size
            prefix = file.read(8)
            if len(prefix) < 8:
                raise CheckpointError(f"{path} is truncated: no safetensors header")
            (header_size,) = struct.unpack("<Q", prefix)
            if header_size > min(_MAX_HEADER_BYTES, file_size - 8):
                raise CheckpointError(
                    f"{path} is truncated or no safetensors file: "
                    f"its header claims {header_size} bytes, the file has {file_size}"
                )
            header = json.loads(file.read(header_size))
    except FileNotFoundError:
        raise CheckpointError(f"missing shard: {path}") from None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise CheckpointError(f"{path} is no safetensors file: its header is not JSON") from None
    if not isinstance(header, dict):
        raise CheckpointError(f"{path} is no safetensors file: its header is not an object")
    header.pop("__metadata__", None)
    start = 8 + header_size
    found = []
    for name, entry in header.items():
        dtype, shape, begin = _read_entry(path, name, entry, file_size - start)
        found.append(SafetensorsTensor(name, dtype, shape, path, start + begin))
    found.sort(key=lambda tensor: tensor.offset)
    return {tensor.name: tensor for tensor in found}


def _read_entry(
    path: Path, name: str, entry: Any, n_data_bytes: int
) -> tuple[str, tuple[int, ...], int]:
    """Type, shape and first byte of one header entry, once they are known to be true."""
    try:
        dtype, shape = entry["dtype"], tuple(entry["shape"])
        begin, end = entry["data_offsets"]
    except (TypeError, KeyError, ValueError):
        raise CheckpointError(f"{path}: the header entry of {name!r} is malformed") from None
    whole = all(isinstance(n, int) and not isinstance(n, bool) for n in (*shape, begin, end))
    if not whole or not isinstance(dtype, str) or min((0, *shape)) < 0 or not 0 <= begin <= end:
        raise CheckpointError(f"{path}: the header entry of {name!r:.120} is malformed")
    # A type no conversion uses may belong to a tensor that no conversion needs.
    if dtype in _ITEM_BYTES and end - begin != math.prod(shape) * _ITEM_BYTES[dtype]:
        raise CheckpointError(f"{path}: the offsets of {name!r:.120} do not fit its shape")
    if end > n_data_bytes:
        raise CheckpointError(f"{path} is truncated: {name!r:.120} ends beyond the file")
    return dtype, shape, begin


def open_tensors(folder: Path) -> dict[str, Tensor]:
    """Every tensor of the checkpoint in `folder`, by its name, none of them read yet.

    Looks for one safetensors file, then for an index of several, then for the pickles of
    `torch.save`, which need PyTorch. Raises CheckpointError, MissingDependencyError.
    """
    from .pickles import read_pickle  # it builds on this module

    for stem, suffix, read in (
        ("model", ".safetensors", read_safetensors),
        ("pytorch_model", ".bin", read_pickle),
    ):
        if (folder / f"{stem}{suffix}").is_file():
            return read(folder / f"{stem}{suffix}")
        if (folder / f"{stem}{suffix}.index.json").is_file():
            return _read_shards(folder, stem, suffix, read)
    raise CheckpointError(
        f"no weights in {folder}: expected model.safetensors, "
        "model.safetensors.index.json or pytorch_model.bin"
    )


def _read_shards(
    folder: Path, stem: str, suffix: str, read: Callable[[Path], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """All tensors of a checkpoint in several files, checked against its index."""
    index = folder / f"{stem}{suffix}.index.json"
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no 'weight_map'")
    for shard in weight_map.values():
        _check_shard_name(index, shard)
    shards = sorted(set(weight_map.values()))
    extra = {path.name for path in folder.glob(f"{stem}-*-of-*{suffix}")} - set(shards)
    if extra:
        raise CheckpointError(f"extra shard: {folder / min(extra)}, not named in {index.name}")
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        if not (folder / shard).is_file():
            raise CheckpointError(f"missing shard: {folder / shard}, named in {index.name}")
        for name, tensor in read(folder / shard).items():
            if weight_map.get(name) != shard:
                raise CheckpointError(f"{folder / shard} holds {name!r:.120} against {index.name}")
            tensors[name] = tensor
    missing = sorted(set(weight_map) - set(tensors))
    if missing:
        raise CheckpointError(
            f"{folder / weight_map[missing[0]]} lacks {missing[0]!r:.120}, "
            f"which {index.name} says it holds ({len(missing)} tensors missing in all)"
        )
    return tensors


def _check_shard_name(index: Path, shard: Any) -> None:
    """A shard is a plain file name: anything with a folder in it could point anywhere."""
    if (
        not isinstance(shard, str)
        or not shard
        or shard in (".", "..")
        or any(separator in shard for separator in ("/", "\\", "\0", ":"))
    ):
        raise CheckpointError(f"{index}: shard name {str(shard)[:80]!r} points outside the folder")
