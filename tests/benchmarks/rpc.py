"""What a second process and a server of loopback cost, with the embedded trio.

    python tests/benchmarks/rpc.py

The same sentences, greedy and without drafts, computed in this process, in the process that owns
models of servers but without a server, and with one server of this machine. Cases take turns;
medians.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import ExitStack
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from trimix_edge import Role, SamplingParams, TriMix

SENTENCES = ("Save the file.", "Open the window and close the page.", "The name is too long.")
RUNS = 5
PROGRAM = "from trimix_edge.cli import main; main()"


def rpc_server(stack: ExitStack) -> str:
    """The address of a new server; it ends with the stack."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "rpc-server", "--port", "0"],
        stderr=subprocess.PIPE,
        text=True,
    )
    stack.callback(process.wait)
    stack.callback(process.send_signal, signal.SIGINT)
    assert process.stderr is not None
    return process.stderr.readline().split()[3].rstrip(",")


def main() -> None:
    with ExitStack() as stack:
        contexts: dict[str, dict[str, Any]] = {
            "in this process": {},
            "in another process, no server": {"rpc": dict.fromkeys(Role, ())},
            "one server, large_ins": {"rpc": {Role.LARGE_INS: (rpc_server(stack),)}},
            "one server, large_ins, --rpc-output": {
                "rpc": {Role.LARGE_INS: (rpc_server(stack),)},
                "rpc_output": True,
            },
            "one server, all three models": {"rpc": dict.fromkeys(Role, (rpc_server(stack),))},
        }
        loaded = {
            name: stack.enter_context(TriMix.load("dzongkha", context=context))
            for name, context in contexts.items()
        }
        milliseconds: dict[str, list[float]] = {name: [] for name in loaded}
        kilobytes: dict[str, list[float]] = {name: [] for name in loaded}
        for run in range(RUNS + 1):
            for name, trimix in loaded.items():
                worker = trimix.trio.worker
                for sentence in SENTENCES:
                    stream = trimix.stream(sentence, draft="off", sampling=SamplingParams())
                    next(stream)
                    before = 0 if worker is None else worker.n_bytes
                    n = sum(1 for _ in stream)
                    carried = 0 if worker is None else worker.n_bytes - before
                    seconds = stream.run.result().timings.generation
                    if run and n:
                        milliseconds[name].append(1e3 * seconds / n)
                        kilobytes[name].append(carried / 1e3 / n)
    table = Table("the embedded trio", "ms a token", "KB a token")
    for name, times in milliseconds.items():
        table.add_row(name, f"{median(times):.2f}", f"{median(kilobytes[name]):.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
