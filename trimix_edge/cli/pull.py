"""``trimix-edge pull``: a whole trio from the Hugging Face Hub."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trimix_edge.cli import making
from trimix_edge.cli.console import stderr

if TYPE_CHECKING:
    from trimix_edge.hub import Preset


def command(
    preset: Annotated[
        str,
        typer.Argument(
            help="A name out of `trimix-edge presets`, or a language as tibetan, for its smallest.",
            show_default=False,
        ),
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
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask, also if it will not fit into memory.")
    ] = False,
    as_json: making.AsJson = False,
) -> None:
    """Download, convert and quantise what a named trio needs."""
    from trimix_edge.files import megabytes
    from trimix_edge.hub import find_preset, pull

    found = find_preset(preset)
    texts = making.calibration_texts(imatrix_text or [])
    _check_memory(found, quant.upper(), yes)
    with making.ByteBar() as bar:
        report = pull(
            found,
            to or Path(found.name),
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


def _check_memory(preset: Preset, quant: str, yes: bool) -> None:
    """Show the plan, and ask before what does not fit is downloaded."""
    from trimix_edge.cli.show_plan import rate
    from trimix_edge.errors import UsageError
    from trimix_edge.files import megabytes
    from trimix_edge.gguf import DEFAULT_N_CTX
    from trimix_edge.planning.measured import known_machine
    from trimix_edge.planning.plan import fits, make_plan, memory_need

    if quant not in next(iter(preset.models.values())).sizes:  # told by pull, or of no known size
        return
    target, machine = preset.target([quant]), known_machine()
    models = target.variants[quant]
    if target.types <= machine.speeds.keys():
        (row,) = make_plan(target, machine, n_ctx=DEFAULT_N_CTX, kv_types=["f16"]).rows
        need, does_fit = row.memory, row.fits
        speed = f", {rate(row.fused.generation)} tokens/s"
    else:  # it was never measured: `plan` does that
        need, speed = memory_need([models[name] for name in target.fused], DEFAULT_N_CTX), ""
        does_fit = fits(need, machine.memory)
    told = (
        f"{preset.name} as {quant}: {megabytes(sum(m.n_file_bytes for m in models.values()))} of "
        f"files; {megabytes(need)} of memory at {DEFAULT_N_CTX:,} tokens of context{speed}; this "
        f"machine has {megabytes(machine.memory)} in all"
    )
    if does_fit or yes:
        if stderr.is_terminal:
            stderr.print(told, style="dim")
        return
    if not (sys.stdin.isatty() and stderr.is_terminal):
        raise UsageError(
            f"{told}, and it will not fit: choose a smaller --quant (see trimix-edge plan "
            f"{preset.name}), or download it all the same with --yes"
        )
    stderr.print(f"{told}, and it will not fit (see trimix-edge plan {preset.name})")
    if not typer.confirm("Download it all the same?", err=True):
        raise typer.Abort
