"""A small wheelhouse, made on the spot: wheels with the names and needs of the real ones."""

from __future__ import annotations

import base64
import hashlib
import platform
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from trimix_edge import __version__
from trimix_edge.bundling.wheels import TARGETS

HERE = TARGETS[f"linux-{platform.machine()}"]
PYTHON = f"cp{sys.version_info[0]}{sys.version_info[1]}"
ELF = {"x86_64": 62, "aarch64": 183}
PROGRAM = """
import sys

def main():
    trio, file = sys.argv[2], sys.argv[4]
    assert open(trio + "/trio.toml").read()
    print(open(file).read().strip().upper())
"""


def library(machine: str, glibc: str = "2.30") -> bytes:
    """What looks like the head of a shared library."""
    head = b"\x7fELF" + bytes(14) + ELF[machine].to_bytes(2, "little") + bytes(44)
    return head + b"GLIBC_2.2.5\0" + f"GLIBC_{glibc}".encode() + b"\0"


def make_wheel(
    folder: Path,
    name: str,
    version: str,
    tag: str,
    requires: Sequence[str] = (),
    files: Mapping[str, bytes] | None = None,
    metadata: Sequence[str] = (),
) -> Path:
    """A wheel that pip installs."""
    stem = f"{name.replace('-', '_')}-{version}"
    head = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *metadata]
    head += [f"Requires-Dist: {text}" for text in requires]
    content = {
        f"{name.replace('-', '_')}_fake.py": b"",
        **(files or {}),
        f"{stem}.dist-info/METADATA": ("\n".join(head) + "\n").encode(),
        f"{stem}.dist-info/WHEEL": f"Wheel-Version: 1.0\nTag: {tag}\n".encode(),
    }
    record = [
        f"{n},sha256={base64.urlsafe_b64encode(hashlib.sha256(c).digest()).decode().rstrip('=')},"
        f"{len(c)}"
        for n, c in content.items()
    ]
    content[f"{stem}.dist-info/RECORD"] = "\n".join(
        [*record, f"{stem}.dist-info/RECORD,,"]
    ).encode()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inner, data in content.items():
            archive.writestr(inner, data)
    return path


def make_wheelhouse(folder: Path, machine: str = HERE.machine) -> Path:
    """All that trimix-edge needs in a bundle for one version of Python, and nothing of it real."""
    linux = f"manylinux_2_28_{machine}"
    entry = {
        "trimix_edge_fake.py": PROGRAM.encode(),
        f"trimix_edge-{__version__}.dist-info/entry_points.txt": (
            b"[console_scripts]\ntrimix-edge = trimix_edge_fake:main\n"
        ),
        f"trimix_edge-{__version__}.dist-info/licenses/LICENSE": b"Apache License, the whole text",
    }
    make_wheel(
        folder, "trimix-edge", __version__, "py3-none-any",
        ["llama-cpp-python==0.3.36", "numpy>=1.26", "numba", "starlette; extra == 'serve'",
         "tomli; python_version < '3.0'", "matplotlib; extra == 'plot'"],
        entry, ["License-Expression: Apache-2.0", "Provides-Extra: serve", "Provides-Extra: plot"],
    )  # fmt: skip
    make_wheel(folder, "numpy", "2.0.0", f"{PYTHON}-{PYTHON}-{linux}", metadata=["License: BSD"])
    make_wheel(folder, "numba", "0.61", f"{PYTHON}-{PYTHON}-{linux}", ["numpy<2.5", "llvmlite"])
    make_wheel(folder, "llvmlite", "0.50", "py3-none-any")
    make_wheel(folder, "starlette", "0.50", "py3-none-any")
    for level in next(t for t in TARGETS.values() if t.machine == machine).levels:
        make_wheel(
            folder / level, "llama-cpp-python", "0.3.36", f"py3-none-linux_{machine}", ["numpy"],
            {"llama_cpp_fake/lib/libllama.so": library(machine),
             "llama_cpp_fake/level.txt": level.encode()},
        )  # fmt: skip
    (folder / "LICENSE.libfake").write_text("of a library inside of a wheel")
    (folder / "LICENSE.$(x)\n").write_text("of nobody")
    return folder
