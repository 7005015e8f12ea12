"""What exemplars are worth, and on which tokens of the prompt weights are best chosen.

    python few_shot.py            # the table of docs/weights.md, on the test split
    python few_shot.py --limit 4

Bits a byte of the reference and chrF++ of TriMix-PPL with 0 and 3 exemplars of the trio's own,
its weights chosen on all tokens of the prompt (the paper's rule) and on those of Tibetan script
alone. Intervals are 95 % bootstrap intervals resampled by page; differences are paired.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from likelihood import Bootstrap, Floats, Item, read_items
from rich.box import MARKDOWN
from rich.console import Console
from rich.progress import track
from rich.table import Table

from trimix_edge import TriMix
from trimix_edge.config import Draft
from trimix_edge.decoding.chat import Message
from trimix_edge.trios.exemplars import Exemplar, conversation, read_exemplars

HERE = Path(__file__).parent
SETTINGS = (("auto:all", 0), ("auto:all", 3), ("auto:Tibt", 3))
"""Without exemplars the prompts are English: auto:Tibt is auto:all there."""


@dataclass(frozen=True)
class Result:
    """Of each item: bits of its reference, chrF++, and the weights, ``[n_items, 3]``."""

    bits: Floats
    chrf: Floats
    weights: Floats


def measure(trimix: TriMix, items: list[Item], weights: str, shots: list[Exemplar]) -> Result:
    from sacrebleu.metrics.chrf import CHRF

    chrf = CHRF(word_order=2, lowercase=True)
    bits, quality, chosen = np.empty(len(items)), np.empty(len(items)), np.empty((len(items), 3))
    for n, item in enumerate(track(items, f"{weights}, {len(shots)} exemplars")):
        prompt: list[Message] = conversation(shots, item.english)
        found = trimix.generate(prompt, weights=weights, max_tokens=100, draft=Draft(0))
        assert found.weights is not None
        score = trimix.score(f" {item.dzongkha}", prompt, weights=found.weights, roles=())
        bits[n] = -score.fused.logprobs.sum() / math.log(2)
        quality[n] = chrf.sentence_score(found.text, [item.dzongkha]).score
        chosen[n] = found.weights.large_ins, found.weights.small_cpt, found.weights.small_base
    return Result(bits, quality, chosen)


def shown(figures: tuple[float, float, float], form: str) -> str:
    value, low, high = (format(figure, form) for figure in figures)
    return f"{value} ({low} to {high})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trio", default="dzongkha", help="a trio with exemplars")
    parser.add_argument("--items", type=Path, default=HERE / "heldout" / "test.tsv")
    parser.add_argument(
        "--limit", type=int, help="at least so many items, evenly spaced; all if absent"
    )
    args = parser.parse_args()
    items = read_items(args.items)
    items = items[:: max(1, len(items) // (args.limit or len(items)))]
    with TriMix.load(args.trio, weights="auto:all") as trimix:
        results = [
            measure(trimix, items, weights, read_exemplars(trimix.manifest, n))
            for weights, n in SETTINGS
        ]
    bootstrap = Bootstrap([item.page for item in items])
    n_bytes = np.array([len(item.dzongkha.encode()) for item in items], np.float64)
    ones = np.ones(len(items))
    table = Table("weights", "exemplars", "mean weights", "bits a byte", "chrF++", box=MARKDOWN)
    for (weights, n), result in zip(SETTINGS, results, strict=True):
        table.add_row(
            weights,
            str(n),
            ", ".join(f"{w:.2f}" for w in result.weights.mean(axis=0)),
            shown(bootstrap.ratio(result.bits, n_bytes), ".4f"),
            shown(bootstrap.ratio(result.chrf, ones), ".1f"),
        )
    less = Table("difference", "bits a byte", "chrF++", box=MARKDOWN)
    none, papers, script = results
    pairs = (
        ("auto:all, 3 less 0 exemplars", papers, none),
        ("3 exemplars, auto:Tibt less auto:all", script, papers),
    )
    for name, one, other in pairs:
        less.add_row(
            name,
            shown(bootstrap.ratio(one.bits - other.bits, n_bytes), "+.4f"),
            shown(bootstrap.ratio(one.chrf - other.chrf, ones), "+.1f"),
        )
    console = Console()
    console.print(f"{len(items)} items of {args.items.name}")
    console.print(table)
    console.print(less)


if __name__ == "__main__":
    main()
