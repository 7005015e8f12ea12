"""``trimix-edge quantize``: a GGUF file becomes a smaller one."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from trimix_edge.cli import making
from trimix_edge.cli import options as opt
from trimix_edge.errors import UsageError


def command(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="IN.gguf",
            help="A model; F32, F16 or BF16 for good results.",
            show_default=False,
        ),
    ],
    target: Annotated[
        Path, typer.Argument(metavar="OUT.gguf", help="The file to write.", show_default=False)
    ],
    type_name: Annotated[
        str | None,
        typer.Argument(
            metavar="TYPE",
            help="llama.cpp's name of the type, as Q4_K_M, in any case.",
            show_default=False,
        ),
    ] = None,
    type_option: making.Type = None,
    imatrix: making.Imatrix = None,
    allow_requantize: Annotated[
        bool,
        typer.Option("--allow-requantize", help="Start from weights that are quantised already."),
    ] = False,
    allow_fallback: making.AllowFallback = False,
    threads: opt.Threads = None,
    force: making.Force = False,
    as_json: making.AsJson = False,
) -> None:
    """Quantise a GGUF file with llama.cpp's own quantiser."""
    from trimix_edge.config import ContextParams
    from trimix_edge.files import megabytes
    from trimix_edge.llama.quantize import quantize

    if (type_name is None) == (type_option is None):
        what = "no type" if type_name is None else "the type twice"
        raise UsageError(f"quantize was given {what}: quantize IN.gguf OUT.gguf Q4_K_M")
    with making.ByteBar() as bar:
        report = quantize(
            source,
            target,
            type_name or type_option or "",
            imatrix=imatrix,
            allow_requantize=allow_requantize,
            overwrite=force,
            threads=ContextParams(n_threads=threads or 0).n_threads,
            on_progress=partial(bar.update, f"quantising {source.name}"),
        )
    if as_json:
        print(json.dumps({**asdict(report), "target": str(report.target)}))
        return
    print(
        f"{report.target}: {report.type}, {megabytes(report.n_bytes_before)} -> "
        f"{megabytes(report.n_bytes)}"
    )
    for note in report.notes:
        print(f"  {note}")
