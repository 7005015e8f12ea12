"""Translate held-out English sentences into Dzongkha, and compare with each model alone.

make demo
"""

from __future__ import annotations

import csv
from pathlib import Path
from time import perf_counter

from rich.console import Console
from rich.table import Column, Table

from trimix_edge import FusionWeights, Generation, Role, TriMix

HELDOUT = Path(__file__).parent / "dzongkha_trio" / "heldout" / "test.tsv"
SENTENCES = (3, 20, 60)
console = Console(highlight=False)


def read_sentences() -> list[tuple[str, str]]:
    with HELDOUT.open(encoding="utf-8", newline="") as file:
        rows = [(english, dzongkha) for _, _, english, dzongkha in csv.reader(file, delimiter="\t")]
    return [rows[n] for n in SENTENCES]


def main() -> None:
    with TriMix.load("dzongkha", roles=list(Role)) as trimix:
        systems = {str(role): FusionWeights.single(role) for role in Role}
        systems["Proxy Tuning"] = FusionWeights.PROXY_TUNING
        systems["TriMix"] = trimix.manifest.weights
        for weights in systems.values():  # the first use of a kernel compiles it
            trimix.generate("OK", weights=weights)
        for english, reference in read_sentences():
            console.print(f"\n[bold]{english}[/bold]")
            for chunk in trimix.stream(english):
                print(chunk.text, end="", flush=True)
            print()
            table = Table("", Column("translation", overflow="fold"), "tokens/s", "characters/s")
            for name, weights in systems.items():
                start = perf_counter()
                result = trimix.generate(english, weights=weights)
                table.add_row(name, *row(result, perf_counter() - start))
            table.add_section()
            table.add_row("reference", reference)
            console.print(table)


def row(result: Generation, seconds: float) -> tuple[str, str, str]:
    return (
        result.text.strip(),
        f"{len(result.token_ids) / seconds:.0f}",
        f"{len(result.text) / seconds:.0f}",
    )


if __name__ == "__main__":
    main()
