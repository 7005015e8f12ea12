"""safetensors files: the tensors of one, found without reading them.

The format is an 8-byte little-endian header length, a JSON header
`{name: {"dtype", "shape", "data_offsets": [begin, end]}}` and the raw bytes. The header is
checked against the file before anything is believed: strangers wrote both.
"""

from __future__ import annotations

import json
import math
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import CheckpointError
from .tensor import Tensor

_MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors reference implementation


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
