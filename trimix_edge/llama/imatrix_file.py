"""Importance matrices in files: the GGUF layout of llama.cpp's ``tools/imatrix``.

A matrix holds, for each weight matrix of a model, the sums of the squared activations that were
multiplied with each of its columns, and over how many rows (tokens) they were taken. The file has
the keys ``general.type`` ("imatrix"), ``imatrix.datasets``, ``imatrix.chunk_count`` and
``imatrix.chunk_size``, and for each weight ``NAME`` the float32 tensors ``NAME.in_sum2``
``[n_matrices, n_columns]`` and ``NAME.counts`` ``[n_matrices, 1]``. A mixture's experts are
``n_matrices`` matrices of one name; every other weight is one.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trimix_edge.errors import ImatrixError, ModelLoadError
from trimix_edge.files import replacing
from trimix_edge.gguf import GgufFile, TensorInfo, read_gguf
from trimix_edge.gguf.reader import MAGIC

SUMS, COUNTS = ".in_sum2", ".counts"

_ALIGNMENT = 32
_UINT32, _STRING, _ARRAY = 4, 8, 9  # enum gguf_type
_F32 = 0  # enum ggml_type
_MOST_BYTES = 8 << 30
_MOST_COUNT = 1 << 62
_BLOCK = re.compile(r"blk\.(\d+)\.")


@dataclass
class Entry:
    """What is known of one weight.

    Attributes:
        sums: sums of squared activations, float32 ``[n_matrices, n_columns]``.
        counts: rows that they were summed over, int64 ``[n_matrices]``; ``[1]`` for all of them.
    """

    sums: npt.NDArray[np.float32]
    counts: npt.NDArray[np.int64]

    def means(self) -> npt.NDArray[np.float32]:
        """Mean squares, as llama.cpp's quantiser takes them: float32 ``[n_matrices * n_columns]``.
        An expert that no token reached has ones: all its columns matter the same."""
        sums = self.sums.reshape(len(self.counts), -1)
        counts = self.counts.astype(np.float32)[:, None]
        means = np.divide(sums, counts, out=np.ones_like(sums), where=counts > 0)
        return means.reshape(-1)


@dataclass
class ImportanceMatrix:
    """An importance matrix.

    Attributes:
        entries: by the name of the weight.
        datasets: the texts that it was made from.
        n_chunks: chunks of text that were run.
        chunk_size: tokens of a chunk.
    """

    entries: dict[str, Entry] = field(default_factory=dict)
    datasets: tuple[str, ...] = ()
    n_chunks: int = 0
    chunk_size: int = 0

    def check_model(self, head: GgufFile) -> None:
        """Refuse a model that the matrix was not made for.

        Raises:
            ImatrixError: names the first tensor that differs.
        """
        shapes = {tensor.name: tensor.shape for tensor in head.tensors}
        for name in self.entries:
            if name not in shapes:
                raise ImatrixError(f"{_other(head)}: {head.path.name} has no tensor {name}")
        for tensor in head.tensors:
            if tensor.name in self.entries and len(tensor.shape) > 1:
                columns, matrices = tensor.shape[0], math.prod(tensor.shape[2:])
                entry = self.entries[tensor.name]
                if entry.sums.size != columns * matrices:
                    raise ImatrixError(
                        f"{_other(head)}: {tensor.name} has {columns * matrices} columns in "
                        f"{head.path.name}, {entry.sums.size} in the matrix"
                    )
        self._check_layers(head)

    def _check_layers(self, head: GgufFile) -> None:
        """Each layer that a text runs through has left its trace."""
        covered = {match[1] for name in self.entries if (match := _BLOCK.match(name))}
        n_layers = head.get(f"{head.architecture}.block_count", int) or 0
        n_layers -= head.get(f"{head.architecture}.nextn_predict_layers", int) or 0
        for tensor in head.tensors:
            match = _BLOCK.match(tensor.name)
            is_matrix = len(tensor.shape) > 1 and tensor.name.endswith(".weight")
            if match and is_matrix and int(match[1]) < n_layers and match[1] not in covered:
                raise ImatrixError(f"{_other(head)}: it has nothing for {tensor.name}")


def _other(head: GgufFile) -> str:
    return f"the importance matrix is not of {head.path}"


def read_imatrix(path: Path) -> ImportanceMatrix:
    """Read a matrix that trimix-edge or llama.cpp made.

    Raises:
        ImatrixError: no such file, not a matrix, truncated, sums without counts, or numbers that
            no sum of squares can be.
    """
    return matrix_of(read_imatrix_head(path))


def read_imatrix_head(path: Path) -> GgufFile:
    """The head of a matrix's file.

    Raises:
        ImatrixError: see :func:`read_imatrix`.
    """
    try:
        with path.open("rb") as file:
            is_gguf = file.read(4) == MAGIC
        if not is_gguf:
            raise ImatrixError(
                f"{path} is no importance matrix in a GGUF file: one in llama.cpp's older format "
                f"is converted by llama-imatrix --in-file OLD -o NEW.gguf"
            )
        head = read_gguf(path)
    except ModelLoadError as error:
        raise ImatrixError(
            str(error).replace("download or convert it again", "make it again")
        ) from None
    except OSError as error:
        raise ImatrixError(f"{path}: {error.strerror or error}") from None
    if head.get("general.type", str) != "imatrix" or not head.tensors or head.n_parts > 1:
        raise ImatrixError(
            f"{path} is no importance matrix: make one with trimix-edge imatrix MODEL --text FILE"
        )
    if head.n_tensor_bytes > min(_MOST_BYTES, head.n_bytes):
        raise ImatrixError(f"{path} is damaged: its tensors overlap or are too large")
    return head


def matrix_of(head: GgufFile) -> ImportanceMatrix:
    """The matrix in a file whose head was read.

    Raises:
        ImatrixError: see :func:`read_imatrix`.
    """
    tensors = {tensor.name: tensor for tensor in head.tensors}
    entries: dict[str, Entry] = {}
    for name, tensor in tensors.items():
        stem = name.removesuffix(COUNTS).removesuffix(SUMS)
        if stem == name:
            continue
        pair = [tensors.get(stem + end) for end in (SUMS, COUNTS)]
        if pair[0] is None or pair[1] is None:
            raise ImatrixError(f"{head.path} is damaged: {stem} lacks its sums or its counts")
        if tensor is pair[0]:
            entries[stem] = _entry(head, stem, pair[0], pair[1])
    if not entries:
        raise ImatrixError(f"{head.path} holds no sums: make it again")
    datasets = head.metadata.get("imatrix.datasets")
    known = datasets if isinstance(datasets, tuple) else ()
    return ImportanceMatrix(
        dict(sorted(entries.items())),
        tuple(text for text in known if isinstance(text, str)),
        max(0, head.get("imatrix.chunk_count", int) or 0),
        max(0, head.get("imatrix.chunk_size", int) or 0),
    )


def _entry(head: GgufFile, name: str, sums: TensorInfo, counts: TensorInfo) -> Entry:
    if {sums.kind, counts.kind} != {"F32"}:
        raise ImatrixError(f"{head.path} is damaged: {name} is not stored as F32")
    n_matrices = counts.n_elements
    if not 0 < n_matrices <= sums.n_elements or sums.n_elements % n_matrices:
        raise ImatrixError(
            f"{head.path} is damaged: {name} has {sums.n_elements} sums for {n_matrices} counts"
        )
    counted = _values(head.path, counts)
    if not (np.isfinite(counted) & (counted >= 0) & (counted <= _MOST_COUNT)).all():
        raise ImatrixError(f"{head.path} is damaged: the counts of {name} are out of range")
    found = Entry(
        _values(head.path, sums).reshape(n_matrices, -1), np.rint(counted).astype(np.int64)
    )
    check_sums(str(head.path), name, found.sums)
    return found


def _values(path: Path, tensor: TensorInfo) -> npt.NDArray[np.float32]:
    with path.open("rb") as file:
        values = np.fromfile(file, "<f4", tensor.n_elements, offset=tensor.start)
    if len(values) != tensor.n_elements:
        raise ImatrixError(f"{path} shrank while it was read")
    return values.astype(np.float32)


def check_sums(source: str, name: str, sums: npt.NDArray[np.float32]) -> None:
    """Raise ImatrixError, which names the tensor, where numbers are no sums of squares."""
    if not np.isfinite(sums).all():
        raise ImatrixError(f"{source}: the sums of {name} are not finite (NaN or infinity)")
    if (sums < 0).any():
        raise ImatrixError(f"{source}: sums of squares of {name} are negative")


def write_imatrix(
    target: Path,
    matrix: ImportanceMatrix,
    *,
    extra: Mapping[str, str] | None = None,
) -> None:
    """Write a matrix as llama.cpp's ``llama-imatrix`` does. The file appears whole, or not at all.

    Args:
        extra: more keys, with texts.

    Raises:
        TargetError: the system refuses to write it.
    """
    tensors = []
    for name, entry in sorted(matrix.entries.items()):
        n = len(entry.counts)
        tensors.append((name + SUMS, entry.sums.reshape(n, -1).astype("<f4")))
        tensors.append((name + COUNTS, entry.counts.reshape(n, 1).astype("<f4")))
    pairs = [
        _text("general.type", "imatrix"),
        _key("imatrix.datasets", _ARRAY)
        + struct.pack("<IQ", _STRING, len(matrix.datasets))
        + b"".join(map(_string, matrix.datasets)),
        _key("imatrix.chunk_count", _UINT32) + struct.pack("<I", matrix.n_chunks),
        _key("imatrix.chunk_size", _UINT32) + struct.pack("<I", matrix.chunk_size),
        *(_text(key, value) for key, value in (extra or {}).items()),
    ]
    infos, at = [], 0
    for name, data in tensors:
        # ggml counts no last dimension of 1, but the first.
        shape = data.shape[::-1] if data.shape[0] > 1 else data.shape[1:]
        info = _string(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        infos.append(info + struct.pack("<IQ", _F32, at))
        at += data.nbytes + -data.nbytes % _ALIGNMENT
    head = MAGIC + struct.pack("<IQQ", 3, len(tensors), len(pairs)) + b"".join(pairs + infos)
    with replacing(target) as temporary, temporary.open("wb") as file:
        file.write(head + bytes(-len(head) % _ALIGNMENT))
        for _, data in tensors:
            file.write(data.tobytes() + bytes(-data.nbytes % _ALIGNMENT))


def _string(text: str) -> bytes:
    data = text.encode("utf-8", errors="surrogateescape")
    return struct.pack("<Q", len(data)) + data


def _key(key: str, kind: int) -> bytes:
    return _string(key) + struct.pack("<I", kind)


def _text(key: str, value: str) -> bytes:
    return _key(key, _STRING) + _string(value)
