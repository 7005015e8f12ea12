"""One wheel: what it is for, what it needs, and what its licence is, read from the file."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from email.parser import BytesParser
from pathlib import Path, PurePosixPath

from packaging.requirements import InvalidRequirement, Requirement
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import Version

from trimix_edge.errors import BundleError

Python = tuple[int, int]
"""A version of CPython, as ``(3, 11)``."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+!-]{0,200}\.whl")
_LICENCE = re.compile(r"(licen[cs]e|copying|notice|authors|copyright)", re.IGNORECASE)
_MAX_TEXT = 1 << 20
_MAX_LIBRARY = 1 << 28
_GLIBC = re.compile(rb"GLIBC_2\.(\d{1,3})\0")


@dataclass(frozen=True)
class Target:
    """A kind of machine that a bundle is for.

    Attributes:
        machine: as ``uname -m`` prints it.
        elf: its number in ELF headers (``e_machine``).
        levels: kinds of its processors that llama.cpp is compiled for, the most able first.
    """

    name: str
    machine: str
    elf: int
    levels: tuple[str, ...]

    def accepts(self, platform: str) -> bool:
        """Whether a wheel with this platform tag runs there; musl's do not."""
        return platform == "any" or bool(
            re.fullmatch(rf"(linux|manylinux[\d_]+)_{self.machine}", platform)
        )


TARGETS = {
    target.name: target
    for target in (
        Target("linux-x86_64", "x86_64", 62, ("x86-64-v4", "x86-64-v3", "x86-64-v2")),
        Target("linux-aarch64", "aarch64", 183, ("armv8.2", "armv8.0")),
    )
}


@dataclass(frozen=True)
class Wheel:
    """A wheel's file name and its metadata.

    Attributes:
        name: of the project, in its normal form (PEP 503).
        requires: what it depends on.
        n_unpacked: bytes of the files inside.
    """

    path: Path
    name: str
    version: Version
    tags: frozenset[Tag]
    metadata: Message
    requires: tuple[Requirement, ...]
    n_unpacked: int

    @classmethod
    def read(cls, path: Path) -> Wheel:
        """Read one.

        Raises:
            BundleError: its name is no wheel's, or it is damaged.
        """
        if not _NAME.fullmatch(path.name):
            raise BundleError(f"{path.parent}: {path.name[:200]!r} is not the name of a wheel")
        try:
            name, version, _, tags = parse_wheel_filename(path.name)
        except InvalidWheelFilename:
            raise BundleError(f"{path} is not the name of a wheel") from None
        try:
            with zipfile.ZipFile(path) as archive:
                (found,) = (i for i in archive.infolist() if _inner(i, "METADATA"))
                metadata = BytesParser().parsebytes(_read(archive, found))
                n_unpacked = sum(info.file_size for info in archive.infolist())
            requires = tuple(
                Requirement(str(text)) for text in metadata.get_all("Requires-Dist") or ()
            )
        except (OSError, ValueError, zipfile.BadZipFile, RuntimeError, InvalidRequirement):
            raise BundleError(f"{path} is damaged: make or download it again") from None
        return cls(path, str(name), version, tags, metadata, requires, n_unpacked)

    def check_target(self, target: Target) -> None:
        """Refuse a wheel that is for another platform, by its name or by its libraries.

        Raises:
            BundleError: it is, or a library in it can't be read.
        """
        platforms = sorted({tag.platform for tag in self.tags})
        if not any(map(target.accepts, platforms)):
            raise BundleError(
                f"{self.path} is for {', '.join(platforms)[:200]}, the bundle for {target.name}: "
                f"take it away, or make wheels TARGET={target.name}"
            )
        for name, head in self._libraries(20):
            if head[:4] == b"\x7fELF" and int.from_bytes(head[18:20], "little") != target.elf:
                raise BundleError(
                    f"{self.path}: its library {name[-100:]!r} is not for {target.machine}, "
                    f"whatever its name says: make wheels TARGET={target.name}"
                )

    def runs_on(self, python: Python, target: Target) -> bool:
        """Whether this CPython takes it."""
        short = f"cp{python[0]}{python[1]}"
        wanted = {
            (tag.interpreter, tag.abi)
            for tags in (
                cpython_tags(python, abis=[short], platforms=["x"]),
                compatible_tags(python, interpreter=short, platforms=["x"]),
            )
            for tag in tags
        }
        return any(
            (tag.interpreter, tag.abi) in wanted and target.accepts(tag.platform)
            for tag in self.tags
        )

    def glibc(self) -> int:
        """The glibc 2.x that it needs: what its tag promises, or what its libraries ask for.

        Raises:
            BundleError: a library in it can't be read.
        """
        promised = [
            int(found[1]) if found[1] else 17
            for tag in self.tags
            if (found := re.match(r"manylinux(?:_2_(\d+)|2014|2010|1)_", tag.platform))
        ]
        if promised:
            return min(promised)
        asked = [
            int(number)
            for _, content in self._libraries(_MAX_LIBRARY)
            for number in _GLIBC.findall(content)
        ]
        return max(asked, default=0)

    def licence(self) -> str:
        """What its metadata says in a few words."""
        classifiers = [
            str(line).rpartition(" :: ")[2]
            for line in self.metadata.get_all("Classifier") or ()
            if str(line).startswith("License ::")
        ]
        text = str(self.metadata.get("License-Expression") or "").strip()
        first = str(self.metadata.get("License") or "").strip().split("\n")[0]
        return text or "; ".join(classifiers) or first[:100] or "not told: see its files"

    def licence_files(self) -> Iterator[tuple[str, bytes]]:
        """The texts of its licences: names without a folder, and their content."""
        with zipfile.ZipFile(self.path) as archive:
            for info in archive.infolist():
                path = PurePosixPath(info.filename)
                is_meta = path.parts[:1] and path.parts[0].endswith(".dist-info")
                if info.is_dir() or info.file_size > _MAX_TEXT or not _LICENCE.search(path.name):
                    continue
                if is_meta or path.suffix in (".txt", ".md", ".copyright", ""):
                    yield path.name, _read(archive, info)

    def _libraries(self, n_bytes: int) -> Iterator[tuple[str, bytes]]:
        try:
            with zipfile.ZipFile(self.path) as archive:
                for info in archive.infolist():
                    if re.search(r"\.so(\.[\d.]+)?$", info.filename):
                        with archive.open(info) as file:
                            yield info.filename, file.read(n_bytes)
        except (OSError, ValueError, zipfile.BadZipFile, RuntimeError, EOFError) as error:
            raise BundleError(f"{self.path} is damaged ({error}): make it again") from None


def _inner(info: zipfile.ZipInfo, name: str) -> bool:
    parts = PurePosixPath(info.filename).parts
    return len(parts) == 2 and parts[0].endswith(".dist-info") and parts[1] == name


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """A short text out of an archive, whatever size it claims to have."""
    with archive.open(info) as file:
        return file.read(_MAX_TEXT)
