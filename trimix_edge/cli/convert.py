"""``trimix-edge convert``: a Hugging Face checkpoint becomes a GGUF file."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from trimix_edge.cli import making


def command(
    source: Annotated[
        str,
        typer.Argument(
            help="A folder, or a Hub id, owner/name\\[@revision]: a checkpoint or a LoRA adapter.",
            show_default=False,
        ),
    ],
    target: Annotated[
        Path, typer.Argument(metavar="TARGET.gguf", help="The file to write.", show_default=False)
    ],
    outtype: Annotated[
        str,
        typer.Option(
            "--outtype",
            "--type",
            "--quant",
            help="f32, f16, bf16, q8_0, auto, or a type that llama.cpp quantises to.",
        ),
    ] = "auto",
    imatrix: making.Imatrix = None,
    base: Annotated[
        str | None,
        typer.Option(
            help="The checkpoint that a LoRA adapter was trained on, a folder or a Hub id; "
            "what the adapter names if absent.",
            show_default=False,
        ),
    ] = None,
    pre: Annotated[
        str | None,
        typer.Option(help="llama.cpp's name of the pre-tokenizer.", show_default=False),
    ] = None,
    allow_nan: Annotated[
        bool, typer.Option("--allow-nan", help="Convert weights that are not finite, too.")
    ] = False,
    allow_fallback: making.AllowFallback = False,
    force: making.Force = False,
    as_json: making.AsJson = False,
) -> None:
    """Convert a Hugging Face checkpoint to a GGUF file, without PyTorch."""
    from trimix_edge.files import megabytes
    from trimix_edge.hub import make_gguf

    with making.ByteBar() as bar:
        made = make_gguf(
            source,
            target,
            outtype=outtype,
            base=base,
            pre=pre,
            allow_nan=allow_nan,
            imatrix=imatrix,
            overwrite=force,
            on_progress=bar.update,
        )
    if as_json:
        print(json.dumps({**asdict(made), "target": str(made.target)}, ensure_ascii=False))
        return
    print(
        f"{made.target}: {made.architecture}, {made.n_parameters / 1e6:,.1f} M parameters, "
        f"{made.type}, {megabytes(made.n_bytes)}"
    )
    for note in made.notes:
        print(f"  {note}")
