"""The wheels that a target needs: all of them, for each version of Python that can be served.

A wheelhouse is a folder as ``make wheels`` makes it::

    numpy-2.4.6-cp311-cp311-manylinux_2_27_x86_64.whl, ...    for any processor
    x86-64-v3/llama_cpp_python-0.3.36-py3-none-linux_x86_64.whl    for one kind of them
    LICENSE.llama.cpp                  of what was compiled, and names no licence in its wheel
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from trimix_edge.bundling.wheels import Python, Target, Wheel
from trimix_edge.errors import BundleError

_LLAMA = "llama-cpp-python"


@dataclass(frozen=True)
class Wheelhouse:
    """What :func:`read_wheelhouse` found fit to travel.

    Attributes:
        common: wheels for every processor.
        by_level: llama.cpp's, by kind of processor.
        pythons: versions for which nothing is missing, the oldest first.
        lacking: what keeps another version from being served.
        licences: texts that lie beside the wheels.
    """

    target: Target
    common: tuple[Wheel, ...]
    by_level: Mapping[str, Wheel]
    pythons: tuple[Python, ...]
    lacking: tuple[str, ...]
    licences: tuple[Path, ...]

    @property
    def wheels(self) -> tuple[Wheel, ...]:
        return (*self.common, *self.by_level.values())

    def glibc(self) -> int:
        """The glibc 2.x that the most demanding wheel needs."""
        return max(wheel.glibc() for wheel in self.wheels)


def read_wheelhouse(folder: Path, target: Target, version: str) -> Wheelhouse:
    """Choose what a target needs to run this version, and check that it is all there.

    Raises:
        BundleError: the folder or a wheel is missing, a wheel is damaged or for another platform.
    """
    if not folder.is_dir():
        raise BundleError(
            f"there is no folder {folder} with wheels: make wheels TARGET={target.name} makes it, "
            f"or name one with --wheelhouse"
        )
    by_level = {level: _llama(folder / level, target) for level in target.levels}
    found = {level: wheel for level, wheel in by_level.items() if wheel is not None}
    if not found:
        raise BundleError(
            f"{folder} holds no wheel of {_LLAMA} in any of the folders {', '.join(by_level)}: "
            f"make wheels TARGET={target.name} makes them"
        )
    wheels = [Wheel.read(path) for path in sorted(folder.glob("*.whl"))]
    for wheel in wheels:
        wheel.check_target(target)
    (llama,) = _latest(found.values())
    usable = [wheel for wheel in wheels if wheel.name != _LLAMA]
    wanted = Requirement(f"trimix-edge[serve]=={version}")
    chosen: dict[Path, Wheel] = {}
    pythons, lacking = [], []
    for python in _pythons(usable):
        needed, missing = _closure(wanted, [*usable, llama], python, target)
        if missing:
            lacking.append(f"Python {python[0]}.{python[1]}: {', '.join(missing)}")
            continue
        pythons.append(python)
        chosen |= {wheel.path: wheel for wheel in needed if wheel is not llama}
    if not pythons:
        what = lacking[0] if lacking else "wheels of numpy and numba for any version of Python"
        raise BundleError(f"{folder} lacks {what}: make wheels TARGET={target.name} fetches all")
    return Wheelhouse(
        target, tuple(chosen[path] for path in sorted(chosen)), found, tuple(pythons),
        tuple(lacking), tuple(_licences(folder)),
    )  # fmt: skip


def _licences(folder: Path) -> Iterable[Path]:
    for path in sorted(folder.glob("LICENSE.*")):
        if re.fullmatch(r"[A-Za-z0-9._-]{1,80}", path.name) and path.is_file():
            yield path


def _llama(folder: Path, target: Target) -> Wheel | None:
    """The wheel for one kind of processor."""
    paths = sorted(folder.glob("*.whl"))
    if not paths:
        return None
    wheels = [Wheel.read(path) for path in paths]
    if len(wheels) > 1 or wheels[0].name != _LLAMA:
        raise BundleError(f"{folder} must hold one wheel, of {_LLAMA}, not {len(wheels)} others")
    wheels[0].check_target(target)
    return wheels[0]


def _latest(wheels: Collection[Wheel]) -> tuple[Wheel]:
    """One for all kinds: they must be of the same version."""
    versions = {wheel.version for wheel in wheels}
    if len(versions) > 1:
        told = ", ".join(sorted(str(wheel.path) for wheel in wheels))
        raise BundleError(f"these wheels must be of the same version: {told}")
    return (next(iter(wheels)),)


def _pythons(wheels: Iterable[Wheel]) -> list[Python]:
    """Versions of Python that a wheel was compiled for."""
    tags = {tag.interpreter for wheel in wheels for tag in wheel.tags if tag.abi != "abi3"}
    found = (re.fullmatch(r"cp3(\d+)", tag) for tag in tags)
    return sorted((3, int(match[1])) for match in found if match and int(match[1]) >= 10)


def _closure(
    root: Requirement, wheels: Collection[Wheel], python: Python, target: Target
) -> tuple[list[Wheel], list[str]]:
    """The wheels that one version of Python needs, and what is not there."""
    usable = [wheel for wheel in wheels if wheel.runs_on(python, target)]
    wanted: dict[str, list[Requirement]] = {}
    waiting = [root]
    chosen: dict[str, Wheel] = {}
    missing: list[str] = []
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        known = wanted.setdefault(name, [])
        if str(requirement) in map(str, known):
            continue
        known.append(requirement)
        fitting = [
            wheel
            for wheel in usable
            if wheel.name == name and all(r.specifier.contains(wheel.version, True) for r in known)
        ]
        if not fitting:
            missing.append(str(requirement).partition(";")[0].strip())
            continue
        best = max(fitting, key=lambda wheel: wheel.version)
        chosen[name] = best
        extras = {extra for r in known for extra in r.extras}
        waiting += [r for r in best.requires if _applies(r.marker, extras, python, target)]
    return list(chosen.values()), sorted(set(missing))


def _applies(
    marker: Marker | None, extras: Collection[str], python: Python, target: Target
) -> bool:
    if marker is None:
        return True
    version = f"{python[0]}.{python[1]}"
    machine = {
        "implementation_name": "cpython",
        "implementation_version": f"{version}.0",
        "os_name": "posix",
        "platform_machine": target.machine,
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": "Linux",
        "platform_version": "",
        "python_full_version": f"{version}.0",
        "python_version": version,
        "sys_platform": "linux",
    }
    return any(marker.evaluate({**machine, "extra": extra}) for extra in ("", *extras))
