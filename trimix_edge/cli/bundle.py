"""``trimix-edge bundle``: a trio and everything that runs it, for a computer without a network."""

from __future__ import annotations

import json
import platform
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from trimix_edge import __version__
from trimix_edge.cli import making
from trimix_edge.errors import UsageError


def command(
    trio: Annotated[
        str,
        typer.Argument(
            help="An embedded trio's name, a trio.toml or its folder.", show_default=False
        ),
    ],
    to: Annotated[
        Path,
        typer.Option(
            metavar="DIR|FILE.tar",
            help="The folder or the tar file to write; it must not exist yet.",
            show_default=False,
        ),
    ],
    target: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="linux-x86_64 or linux-aarch64 (Raspberry Pi 4 and 5); as this machine if absent.",
            show_default=False,
        ),
    ] = None,
    wheelhouse: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The wheels, as `make wheels` makes them; dist/wheels/TARGET if absent.",
            show_default=False,
        ),
    ] = None,
    sentence: Annotated[
        str, typer.Option(metavar="TEXT", help="What the installation tests itself with.")
    ] = "Open the file.",
    as_json: making.AsJson = False,
) -> None:
    """Put a trio and all that runs it into a folder that is installed without a network.

    Copy the folder to the other computer, and run install.sh there. It needs Linux and Python.
    """
    from trimix_edge.bundling.bundle import make_bundle
    from trimix_edge.bundling.wheels import TARGETS
    from trimix_edge.files import megabytes
    from trimix_edge.trios.manifest import TrioManifest

    name = target or f"{sys.platform}-{platform.machine()}"
    if name not in TARGETS:
        raise UsageError(f"target is {name[:60]!r}, it must be {' or '.join(TARGETS)}")
    manifest = TrioManifest.find(trio)
    with making.ByteBar() as bar:
        report = make_bundle(
            manifest,
            to,
            TARGETS[name],
            wheelhouse or Path("dist", "wheels", name),
            version=__version__,
            sentence=sentence,
            on_progress=bar.update,
        )
    if as_json:
        print(json.dumps({**asdict(report), "path": str(report.path)}, ensure_ascii=False))
        return
    print(f"{report.path}: {report.n_files} files, {megabytes(report.n_bytes)}")
    print(f"for {report.target} with Python {', '.join(report.pythons)}, glibc {report.glibc}")
    for lack in report.lacking:
        print(f"not for {lack}: the wheelhouse lacks it")
    print(f"sum of the bundle: {report.digest}")
    print("on the other computer: sh install.sh, in the folder")
