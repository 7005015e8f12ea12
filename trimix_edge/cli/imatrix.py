"""``trimix-edge imatrix``: which columns of a model's weights matter on given texts."""

from __future__ import annotations

import json
from pathlib import Path
from time import monotonic
from typing import Annotated

import typer

from trimix_edge.cli import making
from trimix_edge.cli import options as opt
from trimix_edge.cli.console import Bar, stderr

_LONG = 20.0
"""Seconds from which on a run is announced, with an estimate."""


def command(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL.gguf",
            help="Unquantised, or Q8_0 where that does not fit into memory.",
            show_default=False,
        ),
    ],
    text: Annotated[
        list[str],
        typer.Option(
            "--text",
            "-f",
            "--file",
            metavar="FILE[:SHARE]",
            help="A text of what the model is for, in UTF-8; several with their shares: "
            "dzo.txt:0.7. All of it if there is no share.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            "--output",
            metavar="OUT.gguf",
            help="The file to write. OUT.gguf.part holds an unfinished run, which goes on.",
        ),
    ] = Path("imatrix.gguf"),
    ctx: Annotated[
        int | None,
        typer.Option(
            "--ctx",
            "-c",
            "--ctx-size",
            help="Tokens of a chunk; 512 if absent.",
            show_default=False,
        ),
    ] = None,
    chunks: Annotated[
        int | None, typer.Option(help="No more than these, in all.", show_default=False)
    ] = None,
    process_output: Annotated[
        bool, typer.Option("--process-output", help="Also the output matrix.")
    ] = False,
    threads: opt.Threads = None,
    gpu_layers: Annotated[
        int, typer.Option("--gpu-layers", "-ngl", help="Layers to put on a GPU, -1 for all.")
    ] = -1,
    force: making.Force = False,
    as_json: making.AsJson = False,
) -> None:
    """Make an importance matrix, for `quantize --imatrix`, in llama.cpp's format."""
    from trimix_edge.config import ContextParams
    from trimix_edge.llama.imatrix import collect_imatrix

    texts = making.calibration_texts(text)
    began = monotonic()
    heard: list[float] = []

    def on_progress(done: int, total: int) -> None:
        heard.append(monotonic())
        rest = (heard[-1] - heard[0]) / (len(heard) - 1) * (total - done) if heard[1:] else 0.0
        if len(heard) == 2 and rest > _LONG:
            stderr.print(f"{total} chunks, about {_duration(rest)} to go", style="dim")
        bar.update(f"importance matrix, {done} of {total} chunks", done, total)

    with Bar() as bar:
        report = collect_imatrix(
            model,
            out,
            texts,
            chunk_size=ctx,
            max_chunks=chunks,
            process_output=process_output,
            threads=ContextParams(n_threads=threads or 0).n_threads,
            gpu_layers=gpu_layers,
            overwrite=force,
            on_progress=on_progress,
        )
    matrix = report.matrix
    if as_json:
        facts = {
            "target": str(report.target),
            "chunks": [{"text": name, "chunks": n} for name, n in report.chunks],
            "chunk_size": matrix.chunk_size,
            "n_resumed": report.n_resumed,
            "tensors": len(matrix.entries),
            "partly": report.partly,
        }
        print(json.dumps(facts, ensure_ascii=False))
        return
    print(
        f"{report.target}: {len(matrix.entries)} tensors from {matrix.n_chunks} chunks of "
        f"{matrix.chunk_size} tokens, in {_duration(monotonic() - began)}"
    )
    for name, n in report.chunks:
        print(f"  {n} chunks of {name}")
    if report.n_resumed:
        print(f"  {report.n_resumed} chunks were done before")
    if report.partly:
        print(f"  {len(report.partly)} tensors have experts that no token reached: give more text")


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
