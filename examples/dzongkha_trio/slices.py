"""When does the third model pay? Trios whose ``large_ins`` has seen fewer translations.

    python slices.py --pairs 1500 12000 --budget 0.1    # trains; then measures and prints
    python slices.py --show                             # the figures of slices.json again

``large_ins`` is trained anew with each number of pairs. ``small_base`` and ``small_cpt`` are
trained once, with the first number, so that one thing alone varies. ``--budget`` is the share of
the training tokens of the shipped trio, which is measured too, as it is. Weights are fitted on dev.

Training reads what ``prepare.py`` wrote into ``work/``. What has been trained, or is in the file of
figures, is not done again.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from likelihood import (
    ROLES,
    Bootstrap,
    Floats,
    Item,
    bits_per_byte,
    fit_weights,
    fused_nll,
    read_items,
    teacher_force,
)
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

from trimix_edge import ContextParams, Role, TriMix

HERE = Path(__file__).parent
FIGURES = HERE / "slices.json"
SMALL = (Role.SMALL_BASE, Role.SMALL_CPT)
PROXY = np.array([1.0, 1.0, -1.0])


def make_folder(work: Path, folder: Path, n_pairs: int) -> None:
    """What ``train.py`` reads: the data of ``work``, but only the first pairs as translations."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("english.txt", "dzongkha.txt", "tokenizer"):
        if not (folder / name).exists():
            (folder / name).symlink_to((work / name).resolve())
    with (
        (work / "pairs.tsv").open(encoding="utf-8", newline="") as source,
        (folder / "pairs.tsv").open("w", encoding="utf-8", newline="") as target,
    ):
        writer = csv.writer(target, delimiter="\t", lineterminator="\n")
        for n, (english, dzongkha, _) in enumerate(csv.reader(source, delimiter="\t")):
            writer.writerow((english, dzongkha, int(n < n_pairs)))


def train(folder: Path, role: Role, args: argparse.Namespace) -> Path:
    """The GGUF file of a role, trained and converted unless it is there."""
    gguf = folder / f"{role}.gguf"
    if not (folder / role.value / "training.json").exists():
        from train import RECIPES  # needs PyTorch

        tokens = round(RECIPES[role.value].tokens * args.budget)
        command = [sys.executable, HERE / "train.py", role.value, "--work", folder]
        options = {"tokens": tokens, "rows": args.rows, "threads": args.threads, "seed": args.seed}
        for name, value in options.items():
            command += [f"--{name}", str(value)]
        subprocess.run(command, check=True)
    if not gguf.exists():
        from trimix_convert import convert_checkpoint

        convert_checkpoint(folder / role.value, gguf, outtype="q8_0")
    return gguf


def measure(trimix: TriMix, dev_items: list[Item], test_items: list[Item]) -> dict[str, Any]:
    """Weights; of both splits each system's bits a byte, and what TriMix saves."""
    dev = teacher_force(trimix, dev_items, "dev references")
    test = teacher_force(trimix, test_items, "test references")
    ours = fit_weights(dev, ROLES, sum_to_one=True)
    two = fit_weights(dev, [Role.LARGE_INS, Role.SMALL_CPT], sum_to_one=True)
    systems: dict[str, Floats] = {str(role): np.eye(3)[n] for n, role in enumerate(ROLES)}
    systems |= {"Proxy Tuning": PROXY, "two models": two, "TriMix": ours}
    found: dict[str, Any] = {"weights": ours.tolist(), "weights_of_two": two.tolist()}
    best = ""
    for split, data in (("dev", dev), ("test", test)):
        bits = {name: bits_per_byte(data, fused_nll(data, w))[0] for name, w in systems.items()}
        best = best or min(map(str, ROLES), key=lambda name: bits[name].sum())  # chosen on dev
        bootstrap = Bootstrap(data.pages)
        found[split] = {
            "items": len(data.n_bytes),
            "bits_per_byte": {n: bootstrap.ratio(b, data.n_bytes)[0] for n, b in bits.items()},
            "less_best_single": bootstrap.ratio(bits["TriMix"] - bits[best], data.n_bytes),
            "less_two_models": bootstrap.ratio(bits["TriMix"] - bits["two models"], data.n_bytes),
        }
    return {**found, "best_single": best}


def shown(difference: list[float]) -> str:
    value, low, high = difference
    return f"{value:+.4f} ({low:+.4f} to {high:+.4f})"


def table(rows: list[dict[str, Any]]) -> Table:
    systems = ("large_ins", "small_cpt", "small_base", "Proxy Tuning", "two models", "TriMix")
    gains = (
        "TriMix less the best single model (95 %)",
        "the same on dev",
        "TriMix less two models (95 %)",
    )
    found = Table("pairs", "budget", *systems, "weights", *gains, box=MARKDOWN)
    for row in sorted(rows, key=lambda row: (row["budget"], row["pairs"])):
        test = row["test"]
        found.add_row(
            f"{row['pairs']:,}",
            f"{row['budget']:g}",
            *(f"{test['bits_per_byte'][name]:.4f}" for name in systems),
            ", ".join(f"{w:.2f}" for w in row["weights"]),
            f"{row['best_single']}: {shown(test['less_best_single'])}",
            f"{row['dev']['less_best_single'][0]:+.4f}",
            shown(test["less_two_models"]),
        )
    return found


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Bits a byte and weights of each trio, the one first whose ``large_ins`` knows least."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = sorted(rows, key=lambda row: -row["test"]["bits_per_byte"]["large_ins"])
    trios = [f"{row['pairs']:,} pairs\nbudget {row['budget']:g}" for row in rows]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.6), constrained_layout=True)
    for name in ("large_ins", "small_cpt", "small_base", "Proxy Tuning", "TriMix"):
        left.plot(trios, [row["test"]["bits_per_byte"][name] for row in rows], "o", label=name)
    for n, role in enumerate(ROLES):
        right.plot(trios, [row["weights"][n] for row in rows], "o", label=str(role))
    right.axhline(0, linewidth=0.5)
    left.set_ylabel("bits a byte on test")
    right.set_ylabel("weight, fitted on dev")
    for axis in (left, right):
        axis.margins(x=0.2)
        axis.legend()
    figure.savefig(path, dpi=110)


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of the file, and those that it lacks: each is written when it is there."""
    dev = read_items(HERE / "heldout" / "dev.tsv", args.limit)
    test = read_items(HERE / "heldout" / "test.tsv", args.limit)
    context = ContextParams(n_ctx=1024, n_threads=args.threads)
    rows = json.loads(args.json.read_text(encoding="utf-8")) if args.json.exists() else []

    def add(key: dict[str, Any], trio: str | None, models: dict[Role, Path] | None) -> None:
        if not any(key.items() <= row.items() for row in rows):
            with TriMix.load(trio, models=models, roles=ROLES, context=context) as trimix:
                rows.append({**key, **measure(trimix, dev, test)})
            args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")

    small: dict[Role, Path] = {}
    for n_pairs in args.pairs:
        folder = args.work / "slices" / str(n_pairs)
        make_folder(args.work, folder, n_pairs)
        small = small or {role: train(folder, role, args) for role in SMALL}
        models = {Role.LARGE_INS: train(folder, Role.LARGE_INS, args), **small}
        key = {"pairs": n_pairs, "budget": args.budget, "seed": args.seed, "limit": args.limit}
        add(key, None, models)
    add({"pairs": 12_000, "budget": 1.0, "seed": 0, "limit": args.limit}, "dzongkha", None)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, nargs="*", default=[1500, 3000, 6000, 12000])
    parser.add_argument("--budget", type=float, default=1.0, help="share of the training tokens")
    parser.add_argument("--rows", type=int, default=16, help="rows of 256 tokens a batch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="0 is one a core")
    parser.add_argument("--limit", type=int, help="items of each split, for a quick look")
    parser.add_argument("--work", type=Path, default=HERE / "work")
    parser.add_argument("--json", type=Path, default=FIGURES, metavar="FILE")
    parser.add_argument("--show", action="store_true", help="train nothing, show the figures")
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    args = parser.parse_args()
    if not 0 < args.budget <= 1 or any(n < 1 for n in args.pairs):
        parser.error("--budget is above 0 and at most 1, and --pairs are 1 or more")
    rows = json.loads(args.json.read_text(encoding="utf-8")) if args.show else run(args)
    Console(width=400).print(table(rows))
    if args.plot:
        plot(rows, args.plot)


if __name__ == "__main__":
    main()
