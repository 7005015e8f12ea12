"""Writing files: whole or not at all, and not onto a disk that has no room for them."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trimix_edge.errors import DiskSpaceError, TargetError


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


@contextmanager
def scratch_file(target: Path) -> Iterator[Path]:
    """A name beside the target for a file that is gone at the end, whatever happens."""
    path = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


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
