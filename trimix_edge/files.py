"""Files: written whole or not at all, where there is room for them, and told from one another."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import platformdirs

from trimix_edge.errors import DiskSpaceError, TargetError

_OTHER_FORMATS = frozenset({".safetensors", ".bin", ".pt", ".pth", ".onnx"})
_HEAD, _SAMPLES, _SAMPLE = 1 << 16, 256, 1 << 12


def check_target(target: Path, *, overwrite: bool) -> None:
    """Refuse a target that could not be written, before any work is done for it.

    A symbolic link stands for the file that it leads to.

    Raises:
        TargetError: it exists, is no regular file, or its folder does not exist or may not be
            written.
    """
    real = _real(target)
    if real.is_dir():
        raise TargetError(f"{target} is a folder: name a file")
    if real.exists() and not real.is_file():
        raise TargetError(f"{target} is a device or a pipe: name a file")
    if real.exists() and not overwrite:
        raise TargetError(f"{target} exists: choose another name, or overwrite it with --force")
    if not real.parent.is_dir():
        raise TargetError(f"{target}: there is no folder {real.parent}")
    if not os.access(real.parent, os.W_OK):
        raise TargetError(f"{target}: no permission to write into {real.parent}")


def check_gguf_target(target: Path, *, overwrite: bool) -> None:
    """The same for a GGUF file: other programs would believe the name of another format."""
    if target.suffix.lower() in _OTHER_FORMATS:
        raise TargetError(f"{target}: what is written is a GGUF file: call it NAME.gguf")
    check_target(target, overwrite=overwrite)


@contextmanager
def scratch_file(target: Path) -> Iterator[Path]:
    """A name beside the target for a file that is gone at the end, whatever happens.

    Beside a symbolic link's target, that is: a link may lead to another disk.
    """
    real = _real(target)
    path = real.with_name(f".{real.name[:200]}.{uuid.uuid4().hex[:8]}.part")
    try:
        yield path
    finally:
        with suppress(OSError):  # it may never have been there
            path.unlink()


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A scratch file that is moved onto the target at the end, unless something fails.

    Symbolic links are followed, and stay; a file that is replaced hands on its mode.

    Raises:
        TargetError: the system refuses to write or to move the file, or the target is no file.
    """
    real = _real(target)
    if real.exists() and not real.is_file():
        raise TargetError(f"{target} is no regular file: name a file")
    with scratch_file(target) as path:
        try:
            yield path
            with suppress(FileNotFoundError):
                path.chmod(stat.S_IMODE(real.stat().st_mode))
            path.replace(real)
        except OSError as error:
            raise TargetError(f"{target} can't be written: {error.strerror or error}") from None


def _real(target: Path) -> Path:
    """The file that a path leads to, through symbolic links, whether it exists or not.

    Raises:
        TargetError: the links lead in a circle.
    """
    real = Path(os.path.realpath(target))
    if real.is_symlink():
        raise TargetError(f"{target}: its symbolic links lead in a circle")
    return real


def text_from_outside(data: bytes) -> str:
    """A text file's or a stream's content, as who looks at it in an editor sees it.

    A byte order mark at the start is left out, CR LF is one end of a line, and one end of a line
    after the last line is no part of the text.

    Raises:
        UnicodeDecodeError: it is not UTF-8.
    """
    text = data.decode("utf-8")  # not utf-8-sig: positions of errors are those of the file
    return text.removeprefix("\ufeff").replace("\r\n", "\n").removesuffix("\n")


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
