"""Which layout of the weights llama.cpp reads faster with, and generates faster with.

    make bench

llama.cpp lays the weights of some types out anew for the CPU's vector units ("repacked"). One layer
of each type is timed, repacked and as it lies in the file ("plain"), in interleaved runs, for a
single token and for batches. Above 1 the plain layout is faster.

Then known texts are read with a row of logits for each token, as scoring and fitting do: one text
after the other with the settings of generation (32 rows a batch), with those of reading, and with
several texts in a batch. Medians of interleaved runs.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
from gguf import GGMLQuantizationType
from rich.console import Console
from rich.table import Table

from trimix_edge import ContextParams, Role, TriMix
from trimix_edge.decoding.scoring import Forced, teacher_force_all
from trimix_edge.llama.backend import init_backend, is_repacked
from trimix_edge.llama.speed import decode_seconds
from trimix_edge.planning.probe import N_VOCAB, Probe
from trimix_edge.trios.manifest import TrioManifest

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


def reading(models: dict[Role, Path], n_tokens: int, n_texts: int, runs: int) -> list[float]:
    """Milliseconds a token of each way to read: as generation would, reading, texts together."""
    ids = np.random.default_rng(0).integers(0, 256, (n_texts, n_tokens)).tolist()
    texts = [Forced(one, 1) for one in ids]
    times: dict[int, list[float]] = {}
    with ExitStack() as stack:
        trios = [
            stack.enter_context(
                TriMix.load(models=models, weights=(1, 0), roles=list(models), context=params)
            ).trio
            for params in (
                ContextParams(n_ctx=512),
                ContextParams(n_ctx=512, reads=True),
                ContextParams(n_ctx=512, reads=True, n_parallel=16),
            )
        ]
        for _ in range(runs):
            for way, trio in enumerate(trios):
                start = perf_counter()
                for _piece in teacher_force_all(trio, trio.roles, texts, trio.n_ctx // 2):
                    pass
                times.setdefault(way, []).append(perf_counter() - start)
    return [median(seconds) * 1e3 / (n_texts * n_tokens) for seconds in times.values()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--types", nargs="*", default=TYPES, choices=TYPES)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=0.15, help="of each size in a run")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--tokens", type=int, nargs="+", default=[16, 64, 256], help="of a text")
    parser.add_argument("--texts", type=int, default=64)
    parser.add_argument("--model", type=Path, help="read with this one, not with the embedded trio")
    args = parser.parse_args()

    init_backend()
    sizes, found = tuple(args.sizes), {}
    with tempfile.TemporaryDirectory(prefix="trimix-edge-") as folder:
        path = Path(folder) / "layer.gguf"
        for kind in args.types:
            _LAYER.write(path, kind)
            found[kind] = ratios(path, sizes, args.runs, args.seconds)
    models = {Role.LARGE_INS: args.model} if args.model else dict(TrioManifest.find().models)
    ways = {n: reading(models, n, args.texts, args.runs) for n in args.tokens}
    if args.json:
        print(json.dumps({"layouts": found, "texts": ways}))
        return
    table = Table("repacked / plain", "repacked here", *map(str, sizes), box=None)
    for kind, row in found.items():
        here = "yes" if is_repacked({GGMLQuantizationType[kind].value}) else "no"
        table.add_row(kind, here, *(f"{row[n]:.2f}" for n in sizes))
    names = ("one by one, as generation would", "one by one, reading", "together, reading")
    times = Table("ms a token", *names, box=None)
    for n, milliseconds in ways.items():
        times.add_row(f"texts of {n} tokens", *(f"{ms:.3f}" for ms in milliseconds))
    console = Console(width=120)
    console.print(table)
    console.print(times)


if __name__ == "__main__":
    main()
