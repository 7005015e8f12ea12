"""A plan as tables, and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from trimix_edge.files import megabytes
from trimix_edge.planning.plan import ACCEPTANCE, N_DRAFT, Plan, Row, Speed


def show_plan(console: Console, plan: Plan) -> None:
    """All rows, and then more about the recommended one."""
    several = len(plan.target.fused) > 1
    table = _table("files", "KV", "size", "memory")
    if any(row.gpu_memory is not None for row in plan.rows):
        table.add_column("GPU", justify="right")
    for title in ("fits", "prompt", "tokens/s"):
        table.add_column(title, justify="right")
    if plan.target.characters:
        table.add_column("char./s", justify="right")
    if several:
        table.add_column("drafting", justify="right")
    if plan.n_parallel > 1:
        table.add_column(f"total of {plan.n_parallel}", justify="right")
    for n, row in enumerate(plan.rows):
        table.add_row(*_cells(plan, row, len(table.columns), n == plan.recommended))
    console.print(plain(plan.target.name))
    console.print(table)
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
    table = _table("* recommended", "size", "prompt", "tokens/s alone")
    if plan.target.characters:
        table.add_column("char./s", justify="right")
    for name, speed in row.alone.items():
        cells = [name, megabytes(row.files[name]), rate(speed.prompt), rate(speed.generation)]
        if plan.target.characters:
            cells.append(rate(speed.generation * plan.target.characters))
        table.add_row(*(plain(cell) for cell in cells))
    console.print(table)
    if row.drafting is not None:
        console.print(f"drafting: {N_DRAFT} tokens at a time, {ACCEPTANCE:.0%} of them right")


def show_all(console: Console, plans: list[Plan]) -> None:
    """One row a plan: what is recommended, or the first where nothing fits."""
    table = Table("preset", "files", "KV", "size", "memory", "fits", "prompt", "tokens/s", box=None)
    table.add_column("char./s")
    table.columns[0].no_wrap = True
    for column in table.columns[3:]:
        column.justify = "right"
    for plan in plans:
        row, characters = plan.rows[plan.recommended or 0], plan.target.characters
        table.add_row(
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
    console.print(table)


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


def _table(*titles: str) -> Table:
    table = Table(*titles, box=None)
    for column in table.columns[1:]:
        column.justify = "left" if column.header == "KV" else "right"
    table.columns[0].no_wrap = True
    return table


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
