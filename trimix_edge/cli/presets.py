"""``trimix-edge presets``: the trios that can be pulled."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trimix_edge.cli import making
from trimix_edge.cli import options as opt
from trimix_edge.cli.console import show_table

if TYPE_CHECKING:
    from trimix_edge.hub import Preset


def command(
    language: Annotated[
        str | None,
        typer.Option(
            help="Only those for a language, as tibetan or its code, bo.", show_default=False
        ),
    ] = None,
    quant: making.Quant = "Q4_K_M",
    ctx: opt.Ctx = None,
    as_json: making.AsJson = False,
) -> None:
    """List the trios that `trimix-edge pull` knows, with their sizes and memory needs."""
    import psutil
    from rich.console import Console

    from trimix_edge.config import ContextParams, Role
    from trimix_edge.errors import UsageError
    from trimix_edge.gguf import DEFAULT_N_CTX
    from trimix_edge.hub import presets, presets_for
    from trimix_edge.planning.plan import fits, memory_need

    quant = quant.upper()
    found = list(presets().values()) if language is None else presets_for(language)
    if not found:
        pairs = {(preset.language, preset.language_name) for preset in presets().values()}
        known = ", ".join(f"{code} ({name.partition(' (')[0]})" for code, name in sorted(pairs))
        raise UsageError(f"no preset is for the language {language!r}: there are {known}")
    n_ctx = ContextParams(n_ctx=ctx or 0).n_ctx or DEFAULT_N_CTX
    if as_json:
        print(json.dumps([_as_json(p, quant, n_ctx) for p in found], ensure_ascii=False))
        return
    rows, installed = [], psutil.virtual_memory().total
    for preset in found:
        models = preset.models.values()
        notes = list(preset.licenses)
        if any(model.gated for model in models):
            notes.append("gated")
        if any(model.needs_pytorch for model in models):
            notes.append("needs PyTorch")
        size = preset.n_bytes(quant)
        memory = memory_need([preset.models[r].weights(quant) for r in preset.weights.roles], n_ctx)
        row = (
            preset.name,
            preset.language_name.partition(" (")[0],
            f"{size / 1e9:.1f} GB",
            f"{memory / 1e9:.1f} GB",
            "fits" if fits(memory, installed) else "no",
            ", ".join(notes),
        )
        rows.append(row)
    show_table(("preset", "language", "size", "memory", "here", "licence"), rows, right=(2, 3))
    unused = [p for p in found if p.weights.of(Role.SMALL_BASE) == 0.0]
    Console(highlight=False).print(
        f"[dim]{quant}; size: all three files; memory: with the default weights, at {n_ctx} tokens "
        f"of context"
        + ("; small_base is not loaded where its weight is 0" if unused else "")
        + "[/dim]"
    )


def _as_json(preset: Preset, quant: str, n_ctx: int) -> dict[str, Any]:
    return {
        "name": preset.name,
        "language": preset.language,
        "language_name": preset.language_name,
        "script": preset.script,
        "prompt_language": preset.prompt_language,
        "quantization": quant,
        "n_bytes": preset.n_bytes(quant),
        "n_ctx": n_ctx,
        "memory": preset.memory(quant, n_ctx),
        "memory_with_default_weights": preset.memory(quant, n_ctx, preset.weights.roles),
        "models": {
            str(role): {
                "checkpoint": str(model.hub_id),
                "gguf": None if model.gguf is None else str(model.gguf),
                "license": model.license,
                "gated": model.gated,
                "needs_pytorch": model.needs_pytorch,
                "n_bytes": model.n_bytes(quant),
            }
            for role, model in preset.models.items()
        },
        "weights": [preset.weights.large_ins, preset.weights.small_cpt],
        "task_weights": {
            task: [weights.large_ins, weights.small_cpt]
            for task, weights in preset.task_weights.items()
        },
    }
