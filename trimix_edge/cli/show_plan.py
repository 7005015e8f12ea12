"""A plan as tables, and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Console

from trimix_edge.cli.console import show_table
from trimix_edge.files import megabytes
from trimix_edge.planning.plan import ACCEPTANCE, N_DRAFT, Plan, Row, Speed


def show_plan(console: Console, plan: Plan) -> None:
    """All rows, and then more about the recommended one."""
    several = len(plan.target.fused) > 1
    header = ["files", "KV", "size", "memory"]
    if any(row.gpu_memory is not None for row in plan.rows):
        header.append("GPU")
    header += ["fits", "prompt", "tokens/s"]
    if plan.target.characters:
        header.append("char./s")
    if several:
        header.append("drafting")
    if plan.n_parallel > 1:
        header.append(f"total of {plan.n_parallel}")
    rows = []
    for n, row in enumerate(plan.rows):
        cells = _cells(plan, row, len(header), n == plan.recommended)
        rows.append(cells + [""] * (len(header) - len(cells)))
    console.print(plain(plan.target.name))
    show_table(header, rows, right=range(2, len(header)), console=console)
    if plan.recommended is None:
        console.print(f"nothing fits into {megabytes(plan.memory)}")
    else:
        _show_recommended(console, plan, plan.rows[plan.recommended])
    if plan.target.characters:
        console.print(
            f"a token is {plan.target.characters:.2f} characters, counted on "
            f"{plain(plan.target.characters_source)}"
        )


def _cells(plan: Plan, row: Row, n_columns: int, is_recommended: bool) -> list[str]:
    gpu = any(other.gpu_memory is not None for other in plan.rows)
    cells = [
        f"{plain(row.quantization)}{' *' if is_recommended else ''}",
        row.kv_type,
        megabytes(row.download),
        megabytes(row.memory),
        *([megabytes(row.gpu_memory) if row.gpu_memory else ""] if gpu else []),
        "yes" if row.fits else "no",
        rate(row.fused.prompt),
        rate(row.fused.generation),
    ]
    if plan.target.characters:
        cells.append(rate(row.fused.generation * plan.target.characters))
    if row.drafting is not None:
        cells.append(rate(row.drafting))
    if plan.n_parallel > 1:
        cells.append(rate(row.total))
    return cells[:n_columns]


def _show_recommended(console: Console, plan: Plan, row: Row) -> None:
    if len(row.files) == 1:
        console.print("* recommended")
        return
    header = ["* recommended", "size", "prompt", "tokens/s alone"]
    if plan.target.characters:
        header.append("char./s")
    rows = []
    for name, speed in row.alone.items():
        cells = [name, megabytes(row.files[name]), rate(speed.prompt), rate(speed.generation)]
        if plan.target.characters:
            cells.append(rate(speed.generation * plan.target.characters))
        rows.append([plain(cell) for cell in cells])
    show_table(header, rows, right=range(1, len(header)), console=console)
    if row.drafting is not None:
        console.print(f"drafting: {N_DRAFT} tokens at a time, {ACCEPTANCE:.0%} of them right")


def show_all(console: Console, plans: list[Plan]) -> None:
    """One row a plan: what is recommended, or the first where nothing fits."""
    header = ("preset", "files", "KV", "size", "memory", "fits", "prompt", "tokens/s", "char./s")
    rows = []
    for plan in plans:
        row, characters = plan.rows[plan.recommended or 0], plan.target.characters
        cells = (
            plan.target.name,
            row.quantization,
            row.kv_type,
            megabytes(row.download),
            megabytes(row.memory),
            "yes" if row.fits else "no",
            rate(row.fused.prompt),
            rate(row.fused.generation),
            rate(row.fused.generation * characters) if characters else "",
        )
        rows.append(cells)
    show_table(header, rows, right=range(3, len(header)), console=console)


def show_machine(console: Console, plan: Plan) -> None:
    """What the speeds are of, and where they come from."""
    machine = plan.machine
    how = "measured" if machine.is_measured else f"not measured here: {machine.source}"
    if machine.is_busy:
        how += " while other programs ran: measure --again at a quiet moment"
    if machine.gpu_memory:
        how += f"; GPU memory {megabytes(machine.gpu_memory)}"
    sequences = f"{plan.n_parallel} x " if plan.n_parallel > 1 else ""
    console.print(
        f"{machine.name}, {megabytes(plan.memory)} of memory in all ({how}); "
        f"{sequences}{plan.n_ctx:,} tokens of context; tokens a second of prompt and generation"
    )


def rate(speed: float) -> str:
    return f"{speed:.0f}" if speed >= 99.5 else f"{speed:.1f}"


def plain(text: str) -> str:
    """A name by a stranger, without what a terminal would obey."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)[:200]


def plan_json(plan: Plan) -> dict[str, Any]:
    """Everything, in plain types; rates are a second."""
    machine = plan.machine
    return {
        "target": plan.target.name,
        "fused": list(plan.target.fused),
        "characters_per_token": plan.target.characters,
        "characters_counted_on": plan.target.characters_source or None,
        "machine": machine.name,
        "measured": machine.is_measured,
        "source": machine.source,
        "busy": machine.is_busy,
        "memory": plan.memory,
        "gpu_memory": machine.gpu_memory,
        "n_ctx": plan.n_ctx,
        "n_parallel": plan.n_parallel,
        "recommended": plan.recommended,
        "rows": [_row_json(row, plan.target.characters) for row in plan.rows],
    }


def _row_json(row: Row, characters: float | None) -> dict[str, Any]:
    def both(speed: Speed) -> dict[str, float | None]:
        return {
            **asdict(speed),
            "prompt_characters": characters and speed.prompt * characters,
            "generation_characters": characters and speed.generation * characters,
        }

    return {
        **asdict(row),
        "download": row.download,
        "alone": {name: both(speed) for name, speed in row.alone.items()},
        "fused": both(row.fused),
        "drafting_characters": characters and row.drafting and row.drafting * characters,
        "total_characters": characters and row.total * characters,
    }
