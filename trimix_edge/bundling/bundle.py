"""All of a bundle together: wheels, a trio, licences, and the scripts that install it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from trimix_edge.bundling.licences import licence_entries, plain
from trimix_edge.bundling.trio import TrioFiles, trio_files
from trimix_edge.bundling.wheelhouse import Wheelhouse, read_wheelhouse
from trimix_edge.bundling.wheels import Target
from trimix_edge.bundling.writing import SUMS, Entry, Progress, check_bundle_target, write_bundle
from trimix_edge.errors import UsageError
from trimix_edge.files import megabytes
from trimix_edge.trios.manifest import TrioManifest

SENTENCE = "Open the file."
"""What the installation tests itself with."""

_MAX_SENTENCE = 2000
_VENV = 30_000_000  # pip itself; compiled Python files are the fifth quarter of a wheel


@dataclass(frozen=True)
class BundleReport:
    """What :func:`make_bundle` wrote.

    Attributes:
        pythons: versions of Python that it can be installed with, as ``3.11``.
        levels: kinds of processors that it has llama.cpp for, the most able first.
        glibc: the oldest glibc that it runs with, as ``2.34``.
        lacking: what keeps it from being installed with another version of Python.
        digest: SHA-256 of the list of sums: who has it can tell that the bundle is this one.
    """

    path: Path
    target: str
    trio: str
    pythons: tuple[str, ...]
    levels: tuple[str, ...]
    glibc: str
    lacking: tuple[str, ...]
    n_files: int
    n_bytes: int
    digest: str


def make_bundle(
    manifest: TrioManifest,
    to: Path,
    target: Target,
    wheelhouse: Path,
    *,
    version: str,
    sentence: str = SENTENCE,
    on_progress: Progress | None = None,
) -> BundleReport:
    """Write a bundle to a folder, or to a tar file where the name ends in ``.tar``.

    Args:
        wheelhouse: a folder as ``make wheels`` makes it.
        version: of trimix-edge, whose wheel must be among them.
        sentence: a prompt that the installation tests itself with.

    Raises:
        UsageError: the sentence is empty or long.
        BundleError: a wheel or a file of the trio is missing, or not for the target.
        ModelLoadError: a GGUF file is missing or damaged.
        TargetError: the target exists, or can't be written.
        DiskSpaceError: there is no room for it.
    """
    if not sentence.strip() or len(sentence) > _MAX_SENTENCE or "\0" in sentence:
        raise UsageError(f"the sentence must have from 1 to {_MAX_SENTENCE} characters")
    check_bundle_target(to)
    house = read_wheelhouse(wheelhouse, target, version)
    trio = trio_files(manifest)
    wheels = [Entry(f"wheels/{wheel.path.name}", wheel.path) for wheel in house.common]
    wheels += [
        Entry(f"wheels/{level}/{wheel.path.name}", wheel.path)
        for level, wheel in house.by_level.items()
    ]
    facts = _facts(house, trio, version)
    entries = [
        Entry("README.txt", _readme(facts, house, trio).encode()),
        Entry("install.sh", _resource("install.sh"), executable=True),
        Entry("start.sh", _resource("start.sh"), executable=True),
        Entry("check.py", _resource("check.py")),
        Entry("bundle.conf", "".join(f"{k}={v}\n" for k, v in facts.items()).encode()),
        Entry("selftest.txt", (sentence.rstrip("\n") + "\n").encode()),
        *licence_entries(trio, house.wheels, house.licences),
        *wheels,
        *trio.entries,
    ]
    sums = write_bundle(to, entries, on_progress)
    return BundleReport(
        path=to,
        target=target.name,
        trio=manifest.name,
        pythons=tuple(facts["pythons"].split()),
        levels=tuple(house.by_level),
        glibc=facts["glibc"],
        lacking=house.lacking,
        n_files=len(sums),
        n_bytes=sum(entry.n_bytes() for entry in entries),
        digest=sums[SUMS],
    )


def _facts(house: Wheelhouse, trio: TrioFiles, version: str) -> dict[str, str]:
    """What ``install.sh`` and ``check.py`` go by: no value holds anything of a stranger's."""
    unpacked = sum(wheel.n_unpacked for wheel in house.wheels)
    models = sum(entry.n_bytes() for entry in trio.entries)
    return {
        "name": trio.name,
        "version": version,
        "machine": house.target.machine,
        "pythons": " ".join(f"{major}.{minor}" for major, minor in house.pythons),
        "levels": " ".join(house.by_level),
        "glibc": f"2.{house.glibc()}",
        "needs": str(unpacked // len(house.pythons) * 5 // 4 + models + _VENV),
    }


def _resource(name: str) -> bytes:
    return (files("trimix_edge.bundling") / "resources" / name).read_bytes()


def _readme(facts: dict[str, str], house: Wheelhouse, trio: TrioFiles) -> str:
    """``README.txt``: what to do, for whoever finds the folder."""
    *others, last = facts["pythons"].split()
    told = {
        "NAME": plain(trio.manifest.name),
        "DESCRIPTION": plain(trio.manifest.description) or "a trio of language models",
        "FOLDER": f"trimix-edge-{trio.name}",
        "MACHINE": _MACHINES[house.target.name],
        "PYTHONS": f"{', '.join(others)} or {last}" if others else last,
        "GLIBC": facts["glibc"],
        "NEEDS": megabytes(int(facts["needs"])),
        "VERSION": facts["version"],
    }
    return re.sub("@([A-Z]+)@", lambda key: told[key[1]], _resource("README.txt").decode())


_MACHINES = {
    "linux-x86_64": "a PC or laptop with a 64-bit Intel or AMD processor (from about 2009 on)",
    "linux-aarch64": "a 64-bit ARM computer, as a Raspberry Pi 4 or 5 with a 64-bit system",
}
