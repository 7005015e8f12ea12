"""The table of the model card: the shipped files, run by llama.cpp, on the held-out test split.

    python evaluate.py            # both tables: likelihoods, and every system side by side
    python evaluate.py --no-chrf  # the first one only, a few minutes less

Everything that is tuned (temperatures, weights, mixture shares) is tuned on dev. Intervals are
95 % bootstrap intervals resampled by page; differences are paired.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path

import numpy as np
from likelihood import (
    ROLES,
    Bootstrap,
    Floats,
    References,
    bits_per_byte,
    fit_weights,
    fused_nll,
    mixture_nll,
    read_items,
    teacher_force,
)
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table
from systems import systems_table

from trimix_edge import ContextParams, TriMix

HERE = Path(__file__).parent


@dataclass(frozen=True)
class System:
    name: str
    setting: str
    test_nll: Floats


def _shown(weights: Floats) -> str:
    return ", ".join(f"{w:.2f}" for w in weights)


def likelihood_systems(dev: References, test: References) -> list[System]:
    """Every system of the table's first half; the last one is TriMix."""
    systems: list[System] = []

    def fixed(name: str, weights: Floats) -> None:
        systems.append(System(name, _shown(weights), fused_nll(test, weights)))

    for n, role in enumerate(ROLES):
        fixed(f"{role} alone", np.eye(3)[n])
    for role in ROLES:
        fixed(f"{role}, temperature from dev", fit_weights(dev, [role], sum_to_one=False))
    fixed("Proxy Tuning", np.array([1.0, 1.0, -1.0]))
    for pair in combinations(ROLES, 2):
        weights = fit_weights(dev, pair, sum_to_one=False)
        fixed(f"{pair[0]} and {pair[1]}, both weights free", weights)
    _, shares = mixture_nll(dev)
    systems.append(
        System("mixture of the three probabilities", _shown(shares), mixture_nll(test, shares)[0])
    )
    fixed("TriMix, all three weights free", fit_weights(dev, ROLES, sum_to_one=False))
    fixed("**TriMix**", fit_weights(dev, ROLES, sum_to_one=True))
    return systems


def likelihood_table(dev: References, test: References) -> tuple[Table, list[dict[str, object]]]:
    table = Table(
        "system", "weights", "bits a byte", "95 %", "TriMix less it", "95 %", box=MARKDOWN
    )
    bootstrap = Bootstrap(test.pages)
    systems = likelihood_systems(dev, test)
    ours, n_bytes = bits_per_byte(test, systems[-1].test_nll)
    rows: list[dict[str, object]] = []
    for system in systems:
        bits, _ = bits_per_byte(test, system.test_nll)
        value, low, high = bootstrap.ratio(bits, n_bytes)
        less, less_low, less_high = bootstrap.ratio(ours - bits, n_bytes)
        is_trimix = system is systems[-1]
        table.add_row(
            system.name,
            system.setting,
            f"{value:.4f}",
            f"{low:.3f} to {high:.3f}",
            "" if is_trimix else f"{less:+.4f}",
            "" if is_trimix else f"{less_low:+.4f} to {less_high:+.4f}",
        )
        rows.append(
            {
                "system": system.name.strip("*"),
                "weights": system.setting,
                "bits_per_byte": [value, low, high],
                "trimix_less_it": [less, less_low, less_high],
            }
        )
    return table, rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trio", default="dzongkha", help="a trio's name, trio.toml or folder")
    parser.add_argument("--dev", type=Path, default=HERE / "heldout" / "dev.tsv")
    parser.add_argument("--test", type=Path, default=HERE / "heldout" / "test.tsv")
    parser.add_argument("--limit", type=int, help="items of each split, for a quick look")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 is one a core")
    parser.add_argument("--no-chrf", action="store_true", help="likelihoods only, no decoding")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    args = parser.parse_args()
    if not args.no_chrf and find_spec("sacrebleu") is None:
        parser.error("chrF++ needs sacrebleu: pip install 'trimix-edge[evaluate]', or --no-chrf")

    console = Console(width=200)
    dev_items, test_items = read_items(args.dev, args.limit), read_items(args.test, args.limit)
    figures: dict[str, object] = {"dev_items": len(dev_items), "test_items": len(test_items)}
    context = ContextParams(n_ctx=1024, n_threads=args.threads)
    with TriMix.load(args.trio, roles=ROLES, context=context) as trimix:
        dev = teacher_force(trimix, dev_items, "dev references")
        test = teacher_force(trimix, test_items, "test references")
        table, figures["likelihood"] = likelihood_table(dev, test)
        console.print(table)
        if not args.no_chrf:
            print()
            table, figures["systems"] = systems_table(trimix, dev, test, test_items)
            console.print(table)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
