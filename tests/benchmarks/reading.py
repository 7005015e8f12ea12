"""Which layout of the weights llama.cpp reads faster with, and generates faster with.

    make bench

llama.cpp lays the weights of some types out anew for the CPU's vector units ("repacked"). One layer
of each type is timed, repacked and as it lies in the file ("plain"), in interleaved runs, for a
single token and for batches. Above 1 the plain layout is faster.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from gguf import GGMLQuantizationType
from rich.console import Console
from rich.table import Table

from trimix_edge.llama.backend import init_backend, is_repacked
from trimix_edge.llama.speed import decode_seconds
from trimix_edge.planning.probe import N_VOCAB, Probe

TYPES = ("Q4_0", "IQ4_NL", "Q2_K", "Q4_K", "Q5_K", "Q6_K", "Q8_0")
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_LAYER = Probe(n_layer=1, n_embd=1536, n_ff=8960)  # as Qwen2.5-1.5B's


def ratios(path: Path, sizes: tuple[int, ...], runs: int, seconds: float) -> dict[int, float]:
    """Seconds of a batch with repacked weights, divided by those with plain ones, by its size."""
    best = {repack: dict.fromkeys(sizes, float("inf")) for repack in (True, False)}
    for _ in range(runs):
        for repack, found in best.items():
            times = decode_seconds(path, N_VOCAB, sizes, seconds=seconds, repack=repack)
            found.update({n: min(found[n], times[n]) for n in sizes})
    return {n: best[True][n] / best[False][n] for n in sizes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--types", nargs="+", default=TYPES)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=0.15, help="of each size in a run")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()

    init_backend()
    sizes, found = tuple(args.sizes), {}
    with tempfile.TemporaryDirectory(prefix="trimix-edge-") as folder:
        path = Path(folder) / "layer.gguf"
        for kind in args.types:
            _LAYER.write(path, kind)
            found[kind] = ratios(path, sizes, args.runs, args.seconds)
    if args.json:
        print(json.dumps(found))
        return
    table = Table("repacked / plain", "repacked here", *map(str, sizes), box=None)
    for kind, row in found.items():
        here = "yes" if is_repacked({GGMLQuantizationType[kind].value}) else "no"
        table.add_row(kind, here, *(f"{row[n]:.2f}" for n in sizes))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
