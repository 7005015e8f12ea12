"""Files: written whole or not at all, where there is room for them, and told from one another."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import platformdirs

from trimix_edge.errors import DiskSpaceError, TargetError

_OTHER_FORMATS = frozenset({".safetensors", ".bin", ".pt", ".pth", ".onnx", ".json", ".toml"})
_HEAD, _SAMPLES, _SAMPLE = 1 << 16, 256, 1 << 12


def check_target(target: Path, *, overwrite: bool) -> None:
    """Refuse a target that could not be written, before any work is done for it.

    Raises:
        TargetError: it exists, is a folder, or its folder does not exist or may not be written.
    """
    if target.is_dir():
        raise TargetError(f"{target} is a folder: name a file")
    if target.exists() and not overwrite:
        raise TargetError(f"{target} exists: choose another name, or overwrite it with --force")
    if not target.parent.is_dir():
        raise TargetError(f"{target}: there is no folder {target.parent}")
    if not os.access(target.parent, os.W_OK):
        raise TargetError(f"{target}: no permission to write into {target.parent}")


def check_gguf_target(target: Path, *, overwrite: bool) -> None:
    """The same for a GGUF file: a name that promises another format is refused, too."""
    if target.suffix.lower() in _OTHER_FORMATS:
        raise TargetError(f"{target}: what is written is a GGUF file: call it NAME.gguf")
    check_target(target, overwrite=overwrite)


@contextmanager
def scratch_file(target: Path) -> Iterator[Path]:
    """A name beside the target for a file that is gone at the end, whatever happens."""
    path = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        yield path
    finally:
        with suppress(OSError):  # it may never have been there
            path.unlink()


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A scratch file that is moved onto the target at the end, unless something fails.

    Raises:
        TargetError: the system refuses to write or to move the file.
    """
    with scratch_file(target) as path:
        try:
            yield path
            path.replace(target)
        except OSError as error:
            raise TargetError(f"{target} can't be written: {error.strerror or error}") from None


def cache_folder() -> Path:
    """Where things are kept that can be made again: ``TRIMIX_EDGE_CACHE``, or the user's cache."""
    given = os.environ.get("TRIMIX_EDGE_CACHE")
    return Path(given) if given else platformdirs.user_cache_path("trimix-edge", appauthor=False)


def fingerprint(path: Path) -> str:
    """What tells a large file from another: SHA-256 of its size, its head and samples of the rest.

    Reading gigabytes would take longer than what it is for. Files made to deceive can have the same
    one: do not let safety depend on it.

    Raises:
        OSError: the file can't be read.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        digest.update(file.read(_HEAD))
        for n in range(_SAMPLES):
            file.seek(size * n // _SAMPLES)
            digest.update(file.read(_SAMPLE))
    return digest.hexdigest()


def free_bytes(folder: Path) -> int:
    """Bytes free where the folder is, or will be."""
    return shutil.disk_usage(_existing(folder)).free


def same_disk(one: Path, other: Path) -> bool:
    """Whether two folders, which need not exist yet, share their free space."""
    return _existing(one).stat().st_dev == _existing(other).stat().st_dev


def require_space(folder: Path, n_bytes: int, purpose: str) -> None:
    """Raise DiskSpaceError, which tells what is needed, unless ``n_bytes`` are free."""
    free = free_bytes(folder)
    if free < n_bytes:
        raise DiskSpaceError(
            f"{purpose} needs {megabytes(n_bytes)} in {folder}, {megabytes(free)} are free"
        )


def megabytes(n_bytes: float) -> str:
    """A size for a person: ``986 MB``, ``4.68 GB``."""
    if n_bytes < 9.95e6:
        return f"{n_bytes / 1e6:.1f} MB"
    return f"{n_bytes / 1e6:.0f} MB" if n_bytes < 999.5e6 else f"{n_bytes / 1e9:.2f} GB"


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())
