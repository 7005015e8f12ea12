"""Time outside llama_decode, for a vocabulary of 152k: at most 0.3 ms a token.

    make bench

First the fusion step alone, on rows of Qwen2.5's width, beside the same in NumPy. Then the whole
way of a token, from ``TriMix.stream`` to its chunk, on three random models of that vocabulary: all
the time that is not inside ``llama_decode``. Medians; cases take turns, so that drift cancels.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import llama_cpp
import numpy as np
from rich.console import Console
from rich.table import Table
from synthetic import N_VOCAB, write_model

from trimix_edge import FusionWeights, Plausibility, Role, SamplingParams, TriMix
from trimix_edge.config import Draft
from trimix_edge.fusion.linear import LinearFusion

WIDTHS = {Role.LARGE_INS: 152_064, Role.SMALL_CPT: N_VOCAB, Role.SMALL_BASE: N_VOCAB}
TWO, THREE = FusionWeights(0.1, 0.9), FusionWeights(0.3, 0.9)
MASK = Plausibility(Role.SMALL_CPT, 0.1)
LIMIT_MS = 0.3


def fusion_ms(runs: int) -> dict[str, float]:
    """Milliseconds of one fusion and its argmax."""
    rng = np.random.default_rng(0)
    logits = {
        role: rng.standard_normal((1, width), dtype=np.float32) * 3
        for role, width in WIDTHS.items()
    }

    def in_numpy() -> int:
        rows = (THREE.of(role) * logits[role][0, :N_VOCAB] for role in THREE.roles)
        return int(np.argmax(sum(rows)))

    def rule(weights: FusionWeights, mask: Plausibility | None = None) -> Callable[[], object]:
        fusion = LinearFusion(weights, N_VOCAB, mask)
        return lambda: fusion.fuse(logits)

    cases = {
        "fusion, two models": rule(TWO),
        "fusion, three models": rule(THREE),
        "fusion, three models, mask": rule(THREE, MASK),
        "the same in NumPy, three models": in_numpy,
    }
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for case in cases.values():
        case()  # compiles the kernels
    for _ in range(runs):
        for name, case in cases.items():
            start = perf_counter()
            case()
            seconds[name].append(perf_counter() - start)
    return {name: median(times) * 1e3 for name, times in seconds.items()}


class DecodeClock:
    """Stands in for ``llama_decode`` and adds up the time inside the real one."""

    def __init__(self) -> None:
        self._decode = llama_cpp.llama_decode
        self.seconds = 0.0

    def __call__(self, *arguments: Any) -> int:
        start = perf_counter()
        code: int = self._decode(*arguments)
        self.seconds += perf_counter() - start
        return code


def token_ms(tokens: int) -> dict[str, float]:
    """Milliseconds a token outside ``llama_decode``, everything included."""
    greedy = SamplingParams(temperature=0.0)
    sampled = SamplingParams(temperature=0.8, seed=1)
    cases: dict[str, dict[str, Any]] = {
        "whole token, two models": {"weights": TWO, "sampling": greedy},
        "whole token, three models": {"weights": THREE, "sampling": greedy},
        "whole token, three models, mask": {
            "weights": THREE, "plausibility": MASK, "sampling": greedy,
        },
        "whole token, three models, sampled": {"weights": THREE, "sampling": sampled},
    }  # fmt: skip
    outside: dict[str, list[float]] = {name: [] for name in cases}
    clock = DecodeClock()
    with tempfile.TemporaryDirectory() as folder:
        paths = {role: Path(folder) / f"{role}.gguf" for role in Role}
        for seed, path in enumerate(paths.values()):
            write_model(path, seed)
        with TriMix.load(models=paths, roles=list(Role)) as trimix:
            llama_cpp.llama_decode = clock
            for turn in range(6):
                for name, options in cases.items():
                    stream = trimix.stream("a", max_tokens=tokens, draft=Draft(0), **options)
                    next(stream)  # the prompt, and kernels not yet compiled
                    clock.seconds, start = 0.0, perf_counter()
                    count = sum(1 for _ in stream)
                    if turn:
                        spent = perf_counter() - start - clock.seconds
                        outside[name].append(spent / count)
    return {name: median(times) * 1e3 for name, times in outside.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()

    figures = {**fusion_ms(args.runs), **token_ms(args.tokens)}
    if args.json:
        print(json.dumps(figures))
        return
    table = Table(f"vocabulary of {N_VOCAB}", "median ms", f"of {LIMIT_MS} ms")
    for name, ms in figures.items():
        table.add_row(name, f"{ms:.3f}", "" if "NumPy" in name else f"{ms / LIMIT_MS:.0%}")
    Console().print(table)


if __name__ == "__main__":
    main()
