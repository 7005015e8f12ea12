"""``trimix-edge pull``: a whole trio from the Hugging Face Hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from trimix_edge.cli import making


def command(
    preset: Annotated[
        str, typer.Argument(help="A name out of `trimix-edge presets`.", show_default=False)
    ],
    quant: making.Quant = "Q4_K_M",
    to: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The folder to make; called like the preset if absent.",
            show_default=False,
        ),
    ] = None,
    imatrix_text: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE[:SHARE]",
            help="Make an importance matrix of each model from this text, and quantise with it; "
            "may be given several times.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Fetch and convert again what is already there.")
    ] = False,
    as_json: making.AsJson = False,
) -> None:
    """Download, convert and quantise what a named trio needs."""
    from trimix_edge.files import megabytes
    from trimix_edge.hub import find_preset, pull

    found = find_preset(preset)
    texts = making.calibration_texts(imatrix_text or [])
    with making.ByteBar() as bar:
        report = pull(
            found,
            to or Path(preset),
            quant,
            imatrix_texts=texts,
            overwrite=force,
            on_progress=bar.update,
        )
    if as_json:
        models = {
            str(role): {
                "file": str(model.path),
                "how": model.how,
                "n_bytes": model.n_bytes,
                "notes": model.notes,
            }
            for role, model in report.models.items()
        }
        facts = {"trio": str(report.trio), "quantization": report.quantization, "models": models}
        print(json.dumps(facts, ensure_ascii=False))
        return
    for role, model in report.models.items():
        print(f"{role}: {model.path}, {megabytes(model.n_bytes)}, {model.how}")
        for note in model.notes:
            print(f"  {note}")
    print(f"try it: trimix-edge generate {report.trio.parent} 'YOUR PROMPT'")
    if any(model.how == "converted" for model in report.models.values()):
        print("the checkpoints stay in Hugging Face's cache: `hf cache ls`, `hf cache rm`")
