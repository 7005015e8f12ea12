"""``trimix-edge info``: what this build and this machine can do."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from trimix_edge.cli.console import show_table


def command(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Tell what this build of llama.cpp and this machine can do."""
    from trimix_edge import __version__
    from trimix_edge.llama import backend_info
    from trimix_edge.trios.manifest import embedded_trios

    info = backend_info()
    trios = sorted(embedded_trios())
    if as_json:
        print(json.dumps({"trimix_edge": __version__, **asdict(info), "trios": trios}))
        return
    facts = (
        ("trimix-edge", __version__),
        ("llama-cpp-python", info.llama_cpp_python),
        (
            "GPU offload",
            "yes" if info.gpu_offload else "no: this llama.cpp was built for the CPU only",
        ),
        ("devices", "\n".join(f"{name}: {text}" for name, text in info.devices)),
        ("features", ", ".join(name for name, on in info.features.items() if on == "1")),
        ("physical cores", str(info.physical_cores)),
        ("memory", f"{info.memory_available / 1e9:.1f} of {info.memory / 1e9:.1f} GB free"),
        ("embedded trios", ", ".join(trios)),
    )
    show_table(("", ""), facts)
