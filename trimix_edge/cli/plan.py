"""``trimix-edge plan``: will it fit, and how fast will it be, before anything is downloaded."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trimix_edge.cli import making
from trimix_edge.cli import options as opt
from trimix_edge.cli.console import Bar
from trimix_edge.errors import ModelLoadError, TargetError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from trimix_edge.planning.machine import Machine
    from trimix_edge.planning.plan import Plan, Row, Target
    from trimix_edge.planning.weights import ModelWeights

QUANTIZATIONS = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "Q3_K_M", "Q2_K")


def command(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PRESET|TRIO|FILE.gguf]...",
            help="Presets, trios, or files, which count as one trio; all presets if absent.",
            show_default=False,
        ),
    ] = None,
    ctx: Annotated[
        int, typer.Option(min=1, max=1 << 24, help="Tokens of context of each sequence.")
    ] = 4096,
    parallel: Annotated[int, typer.Option(min=1, max=1024, help="Sequences at a time.")] = 1,
    quant: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE,...", help="Only these types of a preset's files.", show_default=False
        ),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Memory in all, as in 8GB.", show_default=False),
    ] = None,
    machine: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Another machine than this one, as pi5-8gb, pi4-4gb or laptop-ddr4.",
            show_default=False,
        ),
    ] = None,
    kv_type: opt.KvType = None,
    again: Annotated[
        bool, typer.Option("--again", help="Measure this machine again, at a quiet moment.")
    ] = False,
    as_json: making.AsJson = False,
) -> None:
    """Tell whether models fit into a machine, and how fast they will be there.

    This machine is measured once, in a few seconds for each type of weights.
    """
    from rich.console import Console

    from trimix_edge.config import ContextParams
    from trimix_edge.planning.machine import find_profile, this_machine
    from trimix_edge.planning.plan import make_plan, parse_memory

    n_bytes = None if memory is None else parse_memory(memory)
    kv_type = None if kv_type is None else ContextParams(kv_type=kv_type).kv_type
    profile = None if machine is None else find_profile(machine)
    targets = _targets(names or [], quant)
    types = {kind for target in targets for kind in target.types}
    if profile is None:
        with Bar() as bar:
            try:
                profile = this_machine(types, bar.update, anew=again)
            except OSError as error:
                raise TargetError(f"measuring: {error.strerror or error}") from None
    plans = [
        make_plan(target, profile, n_ctx=ctx, n_parallel=parallel, memory=n_bytes, kv_type=kv_type)
        for target in targets
    ]
    if as_json:
        print(json.dumps([_as_json(plan) for plan in plans], ensure_ascii=False))
        return
    console = Console(highlight=False, markup=False)
    if names:
        for plan in plans:
            _show(console, plan)
    else:
        _show_all(console, plans)
    _show_machine(console, plans[0])


def _targets(names: list[str], quant: str | None) -> list[Target]:
    from trimix_edge.hub import find_preset, presets
    from trimix_edge.planning.plan import Target

    wanted = [name.strip().upper() for name in quant.split(",")] if quant else []
    if not names:
        return [preset.target(wanted or ["Q4_K_M"]) for preset in presets().values()]
    paths = [Path(name) for name in names if name.lower().endswith(".gguf")]
    others = [name for name in names if not name.lower().endswith(".gguf")]
    targets = []
    for name in others:
        is_trio = Path(name).exists() or name not in presets()
        targets.append(
            _trio(name) if is_trio else find_preset(name).target(wanted or QUANTIZATIONS)
        )
    if paths:
        models = {path.stem: _weights(path) for path in paths}
        label = " + ".join(models)
        targets.append(Target(label, {"as it is": models}, tuple(models)))
    return targets


def _trio(name: str) -> Target:
    from trimix_edge.config import FusionWeights
    from trimix_edge.errors import TrioConfigError
    from trimix_edge.planning.plan import Target
    from trimix_edge.trios.manifest import TrioManifest

    try:
        manifest = TrioManifest.find(name)
    except TrioConfigError as error:
        if Path(name).exists():
            raise
        raise UsageError(f"{error}, nor a preset (see trimix-edge presets)") from None
    models = {str(role): _weights(path) for role, path in manifest.models.items()}
    for role, adapter in manifest.adapters.items():
        n_bytes = adapter.path.stat().st_size
        base = models[str(adapter.base)]
        models[str(role)] = replace(base, n_bytes=n_bytes, n_file_bytes=n_bytes)
    roles = manifest.weights.roles if isinstance(manifest.weights, FusionWeights) else ()
    fused = tuple(str(role) for role in roles if str(role) in models) or tuple(models)
    return Target(manifest.name, {"as it is": models}, fused)


def _weights(path: Path) -> ModelWeights:
    from trimix_edge.gguf import check_header
    from trimix_edge.planning.weights import of_file

    found = of_file(check_header(path))
    if found is None or not found.layers:
        raise ModelLoadError(f"{path} is no model that a plan can be made for")
    return found


def _show(console: Console, plan: Plan) -> None:
    from rich.table import Table

    from trimix_edge.files import megabytes

    table = Table("files", "size", "KV", "memory", "fits", "prompt", "tokens/s", box=None)
    for column in (1, 3, 5, 6):
        table.columns[column].justify = "right"
    drafts = any(row.drafting for row in plan.rows)
    if drafts:
        table.add_column("drafting", justify="right")
    for n, row in enumerate(plan.rows):
        cells = [
            f"{row.quantization}{' *' if n == plan.recommended else ''}",
            megabytes(row.download),
            row.kv_type,
            megabytes(row.memory),
            "yes" if row.fits else "no",
            _rate(row.fused.prompt),
            _rate(row.fused.generation),
        ]
        if drafts:
            cells.append(_rate(row.drafting) if row.drafting else "")
        table.add_row(*cells)
    console.print(_plain(plan.target.name))
    console.print(table)
    if plan.recommended is None:
        console.print(f"nothing fits into {megabytes(plan.memory)}")
    else:
        row = plan.rows[plan.recommended]
        console.print(f"* recommended; alone: {_alone(row)}" if len(row.alone) > 1 else "")


def _alone(row: Row) -> str:
    parts = (f"{_plain(name)} {_rate(speed.generation)}" for name, speed in row.alone.items())
    return ", ".join(parts)


def _show_all(console: Console, plans: list[Plan]) -> None:
    from rich.table import Table

    from trimix_edge.files import megabytes

    table = Table("preset", "files", "size", "memory", "fits", "prompt", "tokens/s", box=None)
    table.columns[0].no_wrap = True
    for column in (2, 3, 5, 6):
        table.columns[column].justify = "right"
    for plan in plans:
        row = plan.rows[plan.recommended or 0]
        table.add_row(
            plan.target.name,
            row.quantization,
            megabytes(row.download),
            megabytes(row.memory),
            "yes" if row.fits else "no",
            _rate(row.fused.prompt),
            _rate(row.fused.generation),
        )
    console.print(table)


def _show_machine(console: Console, plan: Plan) -> None:
    from trimix_edge.files import megabytes

    machine = plan.machine
    how = "measured" if machine.is_measured else f"not measured here: {machine.source}"
    if machine.is_busy:
        how += " while other programs ran: measure --again at a quiet moment"
    sequences = f"{plan.n_parallel} x " if plan.n_parallel > 1 else ""
    console.print(
        f"{machine.name}, {megabytes(plan.memory)} of memory in all ({how}); "
        f"{sequences}{plan.n_ctx:,} tokens of context; tokens a second of prompt and generation"
    )


def _rate(speed: float) -> str:
    return f"{speed:.0f}" if speed >= 99.5 else f"{speed:.1f}"


def _plain(text: str) -> str:
    """A name by a stranger, without what a terminal would obey."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)[:200]


def _as_json(plan: Plan) -> dict[str, Any]:
    machine: Machine = plan.machine
    return {
        "target": plan.target.name,
        "fused": list(plan.target.fused),
        "machine": machine.name,
        "measured": machine.is_measured,
        "source": machine.source,
        "busy": machine.is_busy,
        "memory": plan.memory,
        "n_ctx": plan.n_ctx,
        "n_parallel": plan.n_parallel,
        "recommended": plan.recommended,
        "rows": [asdict(row) for row in plan.rows],
    }
