"""What ``trimix-edge plan`` predicts, beside what is then measured: five shapes in three types.

    python tests/benchmarks/plan.py [--models DIR]

Each model has random weights (``bench --synthetic``) and a process of its own. There the
measurements that a prediction is made of and those of the model take turns, after a turn that warms
up, so that a machine that gets slower spoils both alike; figures are medians over the turns.
"varied" says how far apart the model's own turns were, the slowest against the fastest.
Generation is timed on tokens after a prompt of 128, prompts on those 128 tokens, memory is the peak
of the process. Shapes with a number of layers behind a colon are cut to so many, as the whole ones
take minutes each: what a token costs is a sum over layers. With ``--results`` runs of a part of the
table add up to all of it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from trimix_edge.config import ContextParams, FusionWeights, Role
from trimix_edge.decoding.trio import Trio
from trimix_edge.gguf import DEFAULT_N_CTX, check_header
from trimix_edge.llama.backend import physical_cores
from trimix_edge.measure.bench import peak_memory
from trimix_edge.measure.synthetic import SyntheticModel
from trimix_edge.planning import measured
from trimix_edge.planning.machine import HERE, Machine
from trimix_edge.planning.plan import memory_need, prompt_seconds, token_seconds
from trimix_edge.planning.weights import ModelWeights, of_file
from trimix_edge.trimix import TriMix

SHAPES = ("qwen2.5-1.5b", "qwen2.5-3b", "gemma-3-4b", "qwen2.5-7b:8", "llama-2-7b:8")
TYPES = ("Q4_K_M", "Q6_K", "Q8_0")
LIMITS = {"generation": 0.15, "prompt": 0.25, "memory": 0.05}
N_PROMPT, N_GENERATE, TURNS = 128, 12, 5


def model_of(shape: str, quantization: str) -> SyntheticModel:
    name, _, n_layer = shape.partition(":")
    return SyntheticModel(name, quantization, int(n_layer) if n_layer else None)


def measure(path: Path) -> dict[str, dict[str, float]]:
    """Predicted and measured: seconds of a generated token and of a prompt, bytes of memory."""
    weights = of_file(check_header(path))
    assert weights is not None
    tokens = np.random.default_rng(0).integers(0, 256, N_PROMPT).tolist()
    predicted: dict[str, list[float]] = {"generation": [], "prompt": []}
    found: dict[str, list[float]] = {"generation": [], "prompt": []}
    context = ContextParams(n_ctx=DEFAULT_N_CTX, n_threads=physical_cores())
    one = FusionWeights.single(Role.LARGE_INS)
    with (
        tempfile.TemporaryDirectory() as folder,
        TriMix.load(models={Role.LARGE_INS: path}, weights=one, context=context) as trimix,
    ):
        trimix.generate("a", max_tokens=4)  # warms up, and takes what memory a process takes
        time_model(trimix.trio, tokens)
        n_bytes = peak_memory()  # before the probes take memory of their own
        for _ in range(TURNS):
            generation, prompt = time_model(trimix.trio, tokens)
            found["generation"].append(median(generation))
            found["prompt"].append(prompt)
            machine = probe(Path(folder) / "probe.gguf", weights)
            predicted["generation"].append(token_seconds(weights, machine))
            predicted["prompt"].append(N_PROMPT * prompt_seconds(weights, machine))
    pairs = {
        name: {
            "predicted": median(predicted[name]),
            "measured": median(turns),
            "varied": max(turns) / min(turns) - 1,
        }
        for name, turns in found.items()
    }
    need = memory_need([weights], DEFAULT_N_CTX)
    return {**pairs, "memory": {"predicted": float(need), "measured": float(n_bytes)}}


def time_model(trio: Trio, tokens: list[int]) -> tuple[list[float], float]:
    """Seconds of each token generated, and of the prompt before them."""
    sequence = trio.sequence([Role.LARGE_INS])
    start = perf_counter()
    sequence.decode(tokens)
    prompt = perf_counter() - start
    generation = []
    for _ in range(N_GENERATE):
        start = perf_counter()
        sequence.decode([7])
        generation.append(perf_counter() - start)
    return generation, prompt


def probe(file: Path, weights: ModelWeights) -> Machine:
    """This machine at this moment, as ``this_machine`` measures it."""
    bandwidth = measured.read_bandwidth(physical_cores())
    layer = measured.measure_layer(file, bandwidth)
    machine = Machine(HERE, 0, layer_seconds=layer, bytes_per_second=bandwidth)
    speeds = {
        kind: measured.measure_type(file, kind, machine, ()) for kind in sorted(weights.types)
    }
    return replace(machine, speeds=speeds)


def results(arguments: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """One a model: what is kept in the file of results, and what is measured now."""
    kept: list[dict[str, Any]] = []
    if arguments.results and arguments.results.exists():
        kept = [json.loads(line) for line in arguments.results.read_text().splitlines()]
    measured_now = 0.0
    for shape in arguments.shapes.split(","):
        for quantization in arguments.types.split(","):
            known = [r for r in kept if (r["shape"], r["type"]) == (shape, quantization)]
            if known:
                yield known[-1]
                continue
            if measured_now > arguments.seconds:
                continue
            path = folder / f"{shape.replace(':', '-')}-{quantization}.gguf"
            if not path.exists():
                model_of(shape, quantization).write(path)
            start = perf_counter()
            command = [sys.executable, __file__, "--one", str(path)]
            out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            measured_now += perf_counter() - start
            row = {"shape": shape, "type": quantization, **json.loads(out)}
            if arguments.results:
                with arguments.results.open("a") as file:
                    file.write(json.dumps(row) + "\n")
            if not arguments.models:
                path.unlink()
            yield row


def show(rows: list[dict[str, Any]]) -> int:
    """The table; how many figures are outside the limits."""
    table = Table("shape", "type", box=None)
    for name, limit in LIMITS.items():
        unit = "MB" if name == "memory" else "tokens/s"
        table.add_column(f"{name}, {unit}\npredicted", justify="right")
        table.add_column("\nmeasured", justify="right")
        table.add_column(f"within\n{limit:.0%}", justify="right")
        if name != "memory":
            table.add_column("\nvaried", justify="right")
    outside = 0
    for row in rows:
        cells = [row["shape"], row["type"]]
        for name, limit in LIMITS.items():
            guess, real = row[name]["predicted"], row[name]["measured"]
            if name == "memory":
                shown = f"{guess / 1e6:.0f}", f"{real / 1e6:.0f}"
                error = guess / real - 1
            else:
                n = N_PROMPT if name == "prompt" else 1
                shown = f"{n / guess:.2f}", f"{n / real:.2f}"
                error = real / guess - 1
            is_outside = abs(error) > limit
            outside += is_outside
            cells += [*shown, f"{error:+.1%}{' !' if is_outside else ''}"]
            if name != "memory":
                cells.append(f"{row[name]['varied']:.0%}")
        table.add_row(*cells)
    Console(width=150).print(table)
    return outside


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", type=Path, help="keep the models in this folder")
    parser.add_argument("--results", type=Path, help="add to this file what it does not hold")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no model after so many")
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--types", default=",".join(TYPES))
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one)))
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = list(results(arguments, arguments.models or Path(folder)))
    outside = show(rows)
    print(f"{len(rows)} models, {3 * len(rows)} figures, {outside} outside the limits")


if __name__ == "__main__":
    main()
