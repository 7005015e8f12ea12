"""A GGUF file written piece by piece beside its target, and moved there when it is complete."""

from __future__ import annotations

import shutil
import struct
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter

from .arch.base import Transform
from .encode import Block, encode, is_finite, n_bytes
from .errors import CheckpointError, TargetError
from .tensor import Tensor

#: `progress(done, total)`, both in bytes of tensor data.
Progress = Callable[[int, int], None]

# Blocks this large amortise the calls and still fit in a processor's cache.
_BLOCK_BYTES = 1 << 20
# Names of other formats: a GGUF file under one of them would be taken for what it is not.
_OTHER_FORMATS = (".safetensors", ".pt", ".pth")


@dataclass(frozen=True)
class Output:
    """One tensor of the file to be: where its numbers come from and how they are stored."""

    name: str
    source: Tensor
    kind: GGMLQuantizationType
    transform: Transform | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """As in the checkpoint; GGUF counts the axes from the other end."""
        return self.source.shape

    @property
    def n_bytes(self) -> int:
        """The bytes it takes in the file, without padding."""
        return n_bytes(self.shape, self.kind)

    def blocks(self, allow_nan: bool) -> Iterator[Block]:
        """The encoded tensor, a block of rows at a time. Raises CheckpointError."""
        n_rows = self.shape[0]
        granule = self.transform.granule if self.transform else 1
        row_bytes = 4 * max(1, self.source.size // max(1, self.source.shape[0]))
        step = max(1, _BLOCK_BYTES // (row_bytes * granule)) * granule
        for start in range(0, n_rows, step):
            block, dtype = self.source.rows(start, min(start + step, n_rows)), self.source.dtype
            if self.transform is not None:
                block, dtype = self.transform(block, dtype)
            if not allow_nan and not is_finite(block, dtype):
                raise CheckpointError(
                    f"tensor {self.source.name!r} holds NaN or infinite weights: the checkpoint is "
                    "damaged (--allow-nan converts it all the same)"
                )
            encoded = encode(block, dtype, self.kind)
            if self.kind is GGMLQuantizationType.F16 and dtype != "F16" and not allow_nan:
                _check_overflow(self.source.name, encoded)
            yield encoded


def _check_overflow(name: str, encoded: Block) -> None:
    if not np.isfinite(encoded).all():
        raise CheckpointError(
            f"tensor {name!r} holds weights beyond F16's range: choose outtype bf16 or f32"
        )


def write_file(
    writer: GGUFWriter,
    outputs: Sequence[Output],
    target: Path,
    *,
    progress: Progress | None = None,
    allow_nan: bool = False,
    overwrite: bool = True,
) -> int:
    """Write the writer's metadata and the tensors to `target`; its size in bytes.

    Raises TargetError when the file can't be written, CheckpointError when a tensor can't be
    read; the target is then as it was.
    """
    total = sum(output.n_bytes for output in outputs)
    for output in outputs:
        writer.add_tensor_info(
            output.name, output.shape, np.dtype(np.float32), output.n_bytes, raw_dtype=output.kind
        )
    with _replacing(target, total, overwrite=overwrite) as temporary:
        try:
            writer.write_header_to_file(temporary)
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            assert writer.fout is not None
            (file,) = writer.fout
            writer.write_padding(file, file.tell())
            done = 0
            for output in outputs:
                for block in output.blocks(allow_nan):
                    file.write(np.ascontiguousarray(block).data)
                    done += block.nbytes
                    if progress is not None:
                        progress(done, total)
                writer.write_padding(file, output.n_bytes)
            size = int(file.tell())
        finally:
            _close(writer)
    return size


def _close(writer: GGUFWriter) -> None:
    """Close the writer's file; on a full disk even that fails, and again."""
    for file in writer.fout or []:
        file.close()
    writer.fout = None


@contextmanager
def _replacing(target: Path, n_data_bytes: int, *, overwrite: bool) -> Iterator[Path]:
    """A temporary name beside the target, moved onto it if all goes well and removed if not.

    A symbolic link stands for the file that it leads to, and stays.
    """
    try:
        target = target.resolve() if target.is_symlink() else target
        _check_target(target, n_data_bytes, overwrite)
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")
        try:
            yield temporary
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise TargetError(f"cannot write {target}: {error.strerror or error}") from None
    except (struct.error, OverflowError, UnicodeEncodeError) as error:
        raise CheckpointError(f"a value of the metadata does not fit GGUF: {error}") from None


def check_target_name(target: Path, source: Path) -> None:
    """Raises TargetError for a name of another format, and for a file of the checkpoint itself."""
    if target.suffix.lower() in _OTHER_FORMATS:
        raise TargetError(f"{target} would be a GGUF file: call it {target.stem}.gguf")
    if (
        target.suffix.lower() != ".gguf"
        and target.is_file()
        and target.parent.resolve() == source.resolve()
    ):
        raise TargetError(f"{target} is a file of the checkpoint: call the GGUF file another name")


def _check_target(target: Path, n_data_bytes: int, overwrite: bool) -> None:
    """Raises TargetError for what is clear before the first byte."""
    if target.is_dir():
        raise TargetError(f"cannot write {target}: it is a folder")
    if target.exists() and not overwrite:
        raise TargetError(f"{target} exists: choose another name or overwrite it (--force)")
    if not target.parent.is_dir():
        raise TargetError(f"cannot write {target}: there is no folder {target.parent}")
    free = shutil.disk_usage(target.parent).free
    if free < n_data_bytes:
        raise TargetError(
            f"cannot write {target}: {_megabytes(n_data_bytes)} needed, {_megabytes(free)} free"
        )


def _megabytes(n: int) -> str:
    return f"{n / 1e6:,.0f} MB"
