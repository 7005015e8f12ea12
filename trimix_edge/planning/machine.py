"""What decides how fast a model is on a machine, and the profiles of machines that are not here.

For one token every weight is read once, and each type of weights has a speed of its own, which
memory or the arithmetic of unpacking bounds. In a prompt, arithmetic alone bounds it. So the speeds
of each type by the size of the batch, the time that a layer takes beside its weights, and the
bandwidth at which the KV cache is read make up a model's time.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

from trimix_edge.errors import UsageError
from trimix_edge.planning.weights import weight_bytes

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HERE = "this machine"
TYPES = ("F16", "Q8_0", "Q6_K", "Q5_K", "Q5_0", "Q4_K", "Q4_0", "Q3_K", "Q2_K")
"""Types of weights that speeds are known for, the largest first."""

N_BATCH = 128
"""Tokens of the batch that a prompt is measured with: what contexts on a CPU use."""


@dataclass(frozen=True)
class TypeSpeed:
    """Weights a second of one type.

    Attributes:
        token: weights that one decode of a single token gets through.
        prompt: weights times tokens, in a batch of :data:`N_BATCH`.
        batches: weights times tokens in smaller batches, by their number of tokens; may be empty.
    """

    token: float
    prompt: float
    batches: Mapping[int, float] = field(default_factory=dict)

    def seconds(self, n: int) -> float:
        """Seconds of one weight in a batch of ``n`` tokens.

        Between two sizes that are known it is interpolated; where none is known between one token
        and :data:`N_BATCH`, reading the weights or the arithmetic bounds it, whichever is slower.
        """
        if n == 1:
            return 1 / self.token
        if n >= N_BATCH:
            return n / self.prompt
        if not self.batches:
            return max(1 / self.token, n / self.prompt)
        sizes = [1, *sorted(self.batches), N_BATCH]
        times = [1 / self.token, *(k / self.batches[k] for k in sizes[1:-1]), N_BATCH / self.prompt]
        right = max(1, bisect_left(sizes, n))
        share = (n - sizes[right - 1]) / (sizes[right] - sizes[right - 1])
        return times[right - 1] + share * (times[right] - times[right - 1])


@dataclass(frozen=True)
class Machine:
    """A machine, as far as the speed of models goes.

    Attributes:
        memory: bytes in all, not only those that are free this second.
        speeds: by type of weights.
        layer_seconds: of a layer, for one token, beside its weights.
        bytes_per_second: at which the KV cache is read.
        is_busy: other programs ran while it was measured, so that it may be faster than that.
        source: where the numbers come from; empty if they were measured here.
        gpu_memory: bytes of all GPUs that have memory of their own.
    """

    name: str
    memory: int
    speeds: Mapping[str, TypeSpeed] = field(default_factory=dict)
    layer_seconds: float = 0.0
    bytes_per_second: float = 1e10
    is_busy: bool = False
    source: str = ""
    gpu_memory: int = 0

    @property
    def is_measured(self) -> bool:
        return not self.source

    def speed(self, kind: str) -> TypeSpeed:
        """The speed of a type, or of that of :data:`TYPES` which stands for it.

        Raises:
            KeyError: it was not measured.
        """
        return self.speeds[nearest(kind)]


def nearest(kind: str) -> str:
    """The type of :data:`TYPES` that stands for another one."""
    if kind in TYPES:
        return kind
    if kind in ("F32", "BF16"):
        return "F16"
    for digit in "8654":
        if digit in kind:
            return {"8": "Q8_0", "6": "Q6_K", "5": "Q5_0", "4": "Q4_0"}[digit]
    return "Q3_K" if "3" in kind else "Q2_K"


@cache
def profiles() -> Mapping[str, Machine]:
    """The machines of ``profiles.toml``, by name."""
    text = (files("trimix_edge.planning") / "profiles.toml").read_text(encoding="utf-8")
    found = {}
    machines = tomllib.loads(text)["machines"]
    for name, given in machines.items():
        entry = {**machines.get(given.get("like"), {}), **given}
        bandwidth, macs = 1e9 * entry["gigabytes_per_second"], 1e9 * entry["gigamacs_per_second"]
        found[name] = Machine(
            name=name,
            memory=int(1e9 * entry["memory_gb"]),
            speeds={kind: TypeSpeed(bandwidth / weight_bytes(kind), macs) for kind in TYPES},
            bytes_per_second=bandwidth,
            source=entry["source"],
        )
    return found


def find_profile(name: str) -> Machine:
    """The profile of that name.

    Raises:
        UsageError: there is none.
    """
    known = profiles()
    if name not in known:
        raise UsageError(f"no machine is called {name[:40]!r}: there are {', '.join(known)}")
    return known[name]
