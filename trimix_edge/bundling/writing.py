"""A folder or a tar file, whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import shutil
import tarfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from trimix_edge.errors import BundleError, DiskSpaceError, TargetError
from trimix_edge.files import megabytes, require_space, scratch_file

SUMS = "SHA256SUMS"

Progress = Callable[[str, int, int], None]
"""Called with what is done, the bytes written, and all bytes."""

_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+!-]*(/[A-Za-z0-9][A-Za-z0-9._+!-]*){0,3}")
_PIECE = 1 << 20
_SLACK = 1 << 20  # folders, and the rounding of files to blocks
_BLOCK = 1 << 12


@dataclass(frozen=True)
class Entry:
    """A file of a bundle: its name in it, and a file or bytes that it is made of."""

    name: str
    content: Path | bytes
    executable: bool = False

    def n_bytes(self) -> int:
        """Bytes of it."""
        return self.content.stat().st_size if isinstance(self.content, Path) else len(self.content)

    def opened(self) -> IO[bytes]:
        """Its bytes, to be read.

        Raises:
            BundleError: the file can't be read.
        """
        if not isinstance(self.content, Path):
            return io.BytesIO(self.content)
        try:
            return self.content.open("rb")
        except OSError as error:
            raise BundleError(f"{self.content}: {error.strerror or error}") from None


class _Writer(Protocol):
    def add(self, entry: Entry, pieces: IO[bytes]) -> None: ...


class _Hashing(io.RawIOBase):
    """A file that is read once: its sum, and how far it is, are known on the way."""

    def __init__(self, file: IO[bytes], on_read: Callable[[int], None]) -> None:
        self._file, self._on_read = file, on_read
        self.digest = hashlib.sha256()
        self.n_bytes = 0

    def read(self, size: int = -1, /) -> bytes:
        data = self._file.read(size if size >= 0 else _PIECE)
        self.digest.update(data)
        self.n_bytes += len(data)
        self._on_read(len(data))
        return data


class _Folder:
    def __init__(self, root: Path) -> None:
        self._root = root

    def add(self, entry: Entry, pieces: IO[bytes]) -> None:
        path = self._root / entry.name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as out:
            shutil.copyfileobj(pieces, out, _PIECE)
            out.flush()
            os.fsync(out.fileno())  # a stick is pulled out soon after
        path.chmod(0o755 if entry.executable else 0o644)


class _Tar:
    def __init__(self, archive: tarfile.TarFile, folder: str) -> None:
        self._archive, self._folder = archive, folder

    def add(self, entry: Entry, pieces: IO[bytes]) -> None:
        info = tarfile.TarInfo(f"{self._folder}/{entry.name}")
        info.size = entry.n_bytes()
        info.mode = 0o755 if entry.executable else 0o644
        self._archive.addfile(info, pieces)


def check_bundle_target(target: Path) -> None:
    """Refuse a target that exists or could not be written, before any work is done for it.

    Raises:
        TargetError: it is so.
    """
    if os.path.lexists(target):
        raise TargetError(f"{target} exists: choose another name, or take it away first")
    parent = target.absolute().parent
    if not parent.is_dir():
        raise TargetError(f"{target}: there is no folder {parent}")
    if not os.access(parent, os.W_OK):
        raise TargetError(f"{target}: no permission to write into {parent}")


def write_bundle(
    target: Path, entries: Iterable[Entry], on_progress: Progress | None = None
) -> dict[str, str]:
    """Write all entries and their sums, to a folder or to a tar file where the name ends in .tar.

    Returns:
        SHA-256 sums by name, that of the list of them included.

    Raises:
        TargetError: the target exists, or can't be written.
        DiskSpaceError: there is no room for it.
        BundleError: a name would lead out of the bundle, or a file changed while it was read.
    """
    check_bundle_target(target)
    planned = list(entries)
    total = 0
    for entry in planned:
        if not _SAFE.fullmatch(entry.name):
            raise BundleError(f"{entry.name[:200]!r} is no name for a file of a bundle")
        total += entry.n_bytes()
    needed = total + _BLOCK * len(planned) + _SLACK
    require_space(target.absolute().parent, needed, f"a bundle of {megabytes(total)}")
    done = 0

    def on_read(n_bytes: int) -> None:
        nonlocal done
        done += n_bytes
        if on_progress is not None:
            on_progress(f"writing {target.name}", done, total)

    sums: dict[str, str] = {}
    try:
        with _opened(target) as writer:
            for entry in planned:
                sums[entry.name] = _add(writer, entry, on_read)
            listed = "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))
            sums[SUMS] = _add(writer, Entry(SUMS, listed.encode()), lambda n: None)
    except OSError as error:
        raise _told(target, error) from None
    return sums


def _add(writer: _Writer, entry: Entry, on_read: Callable[[int], None]) -> str:
    n_bytes = entry.n_bytes()
    with entry.opened() as file:
        hashing = _Hashing(file, on_read)
        writer.add(entry, hashing)  # type: ignore[arg-type]
    if hashing.n_bytes != n_bytes:
        raise BundleError(f"{entry.content!s} changed while it was copied: try again")
    return hashing.digest.hexdigest()


@contextmanager
def _opened(target: Path) -> Iterator[_Writer]:
    with scratch_file(target) as scratch:
        try:
            if is_tar(target):
                with tarfile.open(scratch, "x") as archive:
                    yield _Tar(archive, target.stem)
            else:
                scratch.mkdir()
                yield _Folder(scratch)
            check_bundle_target(target)  # it may have been made meanwhile
            scratch.rename(target)
        finally:
            if scratch.is_dir():
                shutil.rmtree(scratch, ignore_errors=True)


def is_tar(target: Path) -> bool:
    """Whether a target is to be a tar file, by its name."""
    return target.suffix.lower() == ".tar"


def _told(target: Path, error: OSError) -> Exception:
    if error.errno == errno.ENOSPC:
        return DiskSpaceError(f"{target}: the disk is full; nothing is left of the bundle")
    if error.errno == errno.EFBIG:
        return TargetError(
            f"{target}: this file system takes no file of that size: FAT32 holds files up to 4 GB, "
            f"format the stick as exFAT or ext4"
        )
    if error.errno is None:  # tarfile's, for a file that has become shorter
        return BundleError(f"{target}: a file changed while it was copied: try again")
    where = f" ({error.filename})" if error.filename else ""
    return TargetError(f"{target} can't be written: {error.strerror or error}{where}")
