"""How soon eight requests start that share 90 % of their prompt: the embedded trio, fused.

    make bench

Times to the first token, as parts of the time of one request of as many tokens; medians over
turns. The shared part is computed once. Where no request has read it before, eight have
``1 + 7 * 0.1`` = 1.7 times the tokens of one to read; where one has, as a system prompt of a
server, 0.8 times.
"""

from __future__ import annotations

import argparse
import json
from statistics import median
from time import perf_counter

import numpy as np
from rich.console import Console
from rich.table import Table

from trimix_edge import Role, TriMix

N_TOKENS, N_REQUESTS, SHARED = 900, 8, 0.9


def prompts(trimix: TriMix, turn: int) -> list[list[int]]:
    """Prompts that begin alike, and like no prompt of another turn."""
    rng = np.random.default_rng(turn)
    n_shared = int(SHARED * N_TOKENS)
    ids = rng.integers(0, trimix.trio.n_vocab // 2, (N_REQUESTS, N_TOKENS))
    ids[:, :n_shared] = ids[0, :n_shared]
    return [[int(token) for token in row] for row in ids]


def starts(trimix: TriMix, wanted: list[list[int]]) -> list[float]:
    """Seconds to the first token of each, in the order in which they come."""
    begin = perf_counter()
    seconds: dict[int, float] = {}
    for i, _ in trimix.batch_stream(wanted, max_tokens=1, temperature=0.0):
        seconds.setdefault(i, perf_counter() - begin)
    return sorted(seconds.values())


def measure(turns: int) -> dict[str, dict[str, float]]:
    found: dict[str, list[list[float]]] = {"nothing read before": [], "the shared part read": []}
    with TriMix.load(n_ctx=1024, n_parallel=N_REQUESTS, roles=list(Role)) as trimix:
        for turn in range(turns + 1):
            eight = prompts(trimix, 2 * turn)
            trimix.forget()
            (alone,) = starts(trimix, prompts(trimix, 2 * turn + 1)[:1])
            trimix.forget()
            cold = starts(trimix, eight)
            trimix.forget()
            starts(trimix, [eight[0][: int(SHARED * N_TOKENS)]])
            warm = starts(trimix, eight)
            if turn:  # the first one warms up
                for times, seconds in zip(found.values(), (cold, warm), strict=True):
                    times.append([s / alone for s in seconds])
    return {
        name: {
            "first": median(t[0] for t in times),
            "middle": median(t[N_REQUESTS // 2] for t in times),
            "last": median(t[-1] for t in times),
        }
        for name, times in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()

    figures = measure(args.turns)
    if args.json:
        print(json.dumps(figures))
        return
    table = Table(f"{N_REQUESTS} of {N_TOKENS} tokens", "first", "middle", "last")
    for name, parts in figures.items():
        table.add_row(name, *(f"{part:.2f}" for part in parts.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
