"""What a batch of tokens costs each model on this machine: measured once, kept on disk.

On a CPU a batch is not free, and its price is no straight line: llama.cpp's repacked kernels take
four tokens for little more than one, and three for more than four. Chips differ, so it is measured.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, Protocol

from trimix_edge.config import MAX_DRAFT, Role
from trimix_edge.errors import TargetError
from trimix_edge.files import cache_folder, replacing

SIZES = (1, 2, 3, 4, 6, 8, 12, 16)
PATIENCE = 1.0
"""Seconds for which a model's measurement is repeated; large models are measured once."""

MAX_TOKENS = MAX_DRAFT + 1
_MAX_REPEATS = 5
_REFRESH = 32
"""Batches that are learned from before the cheapest ones are looked for again."""
_OWN, _COMMON = 0.05, 0.05
_DISTURBED = 1.7
"""Times of one size whose median is so many times the least were taken while the machine did
something else."""

CostProgress = Callable[[Role, int, int], None]
"""Called with a role, the measured and all batch sizes."""


class Models(Protocol):
    """What is measured: a :class:`~trimix_edge.decoding.trio.Trio`."""

    @property
    def max_rows(self) -> int: ...
    @property
    def n_ctx(self) -> int: ...
    def start(self, roles: Collection[Role]) -> int: ...
    def truncate(self, n_past: int) -> None: ...
    def decode(self, tokens: Sequence[int], n_rows: int = 1) -> Any: ...


@dataclass
class BatchCosts:
    """Seconds that a model takes for a batch of tokens, each with a row of logits.

    Attributes:
        seconds: by role and batch size.
        steady: whether repeated measurements agreed, so that they are worth keeping.
    """

    seconds: dict[Role, dict[int, float]] = field(default_factory=dict)
    steady: bool = True
    _cheapest: dict[Role, list[tuple[int, float]]] = field(default_factory=dict, repr=False)
    _n_learned: int = 0

    def cheapest(self, role: Role) -> list[tuple[int, float]]:
        """For each number of tokens from 0 to :data:`MAX_TOKENS` the size of the batch that holds
        them at the least cost, and its seconds; beyond what was measured, each token costs what it
        does in the largest batch. As it was some batches ago: see :data:`_REFRESH`."""
        if role not in self._cheapest:
            costs = self.seconds[role]
            largest = max(costs)
            best = (largest, costs[largest])
            table = [best] * (largest + 1)
            for n in range(largest, -1, -1):
                if n in costs and costs[n] <= best[1]:
                    best = (n, costs[n])
                table[n] = best
            beyond = range(largest + 1, MAX_TOKENS + 1)
            table += [(n, costs[largest] * n / largest) for n in beyond]
            self._cheapest[role] = table
        return self._cheapest[role]

    def padded(self, role: Role, n: int) -> int:
        """The size of batch, ``n`` or more, in which ``n`` tokens are cheapest."""
        return self.cheapest(role)[n][0] if role in self.seconds else n

    def of(self, role: Role, n: int) -> float:
        """Seconds for ``n`` tokens, in the cheapest batch that holds them."""
        return self.cheapest(role)[n][1]

    def scale(self, roles: Collection[Role], factor: float) -> None:
        """Take all that was measured of these roles for ``factor`` times as long."""
        for role in roles:
            for size in self.seconds[role]:
                self.seconds[role][size] *= factor
        self._cheapest.clear()

    def learn(self, role: Role, size: int, seconds: float) -> None:
        """Take note of a batch that was really run.

        Contexts grow, and machines get warm: a part of what differs is taken to hold for all sizes.
        """
        costs = self.seconds.get(role, {})
        if size not in costs:
            return
        # One batch that the system kept waiting says nothing about the next.
        ratio = min(2.0, seconds / costs[size])
        for other in costs:
            costs[other] *= 1.0 + _COMMON * (ratio - 1.0)
        costs[size] *= 1.0 + _OWN * (ratio - 1.0)
        self._n_learned += 1
        if self._n_learned % _REFRESH == 0:
            self._cheapest.clear()


def measure(
    models: Models, roles: Collection[Role], on_progress: CostProgress | None = None
) -> BatchCosts:
    """Time batches of each size of :data:`SIZES` on empty contexts, which are empty again then.

    llama.cpp builds a graph whenever a batch differs in size from the one before. Plain decoding
    never pays for that; other batches do, once for themselves and once for going back.
    """
    costs = BatchCosts()
    sizes = [size for size in SIZES if size <= min(models.max_rows, models.n_ctx)]
    for role in roles:
        models.start([role])
        _seconds(models, sizes[-1])  # reads the weights from disk, and warms up
        times: dict[int, list[float]] = {size: [] for size in sizes}
        begun = perf_counter()
        for _ in range(_MAX_REPEATS):
            first, again = _seconds(models, 1), _seconds(models, 1)
            times[1].append(again)
            for n, size in enumerate(sizes[1:], 2):
                times[size].append(_seconds(models, size) + max(0.0, first - again))
                if on_progress is not None:
                    on_progress(role, n, len(sizes))
            if perf_counter() - begun > PATIENCE:
                break
        costs.seconds[role] = {size: median(taken) for size, taken in times.items()}
        costs.steady &= all(median(taken) < _DISTURBED * min(taken) for taken in times.values())
    return costs


def _seconds(models: Models, size: int) -> float:
    start = perf_counter()
    models.decode([0] * size, size)
    seconds = perf_counter() - start
    models.truncate(0)
    return seconds


class CostFile:
    """Measurements by model, settings and machine, kept beside other things that can be made again.

    A file that can't be read counts as empty, and one that can't be written is left alone: then it
    is measured again.

    Args:
        machine: all that the measurements depend on beside the model.
    """

    def __init__(self, machine: Mapping[str, object], path: Path | None = None) -> None:
        self._path = path or cache_folder() / "batch_costs.json"
        self._machine = json.dumps(dict(machine), sort_keys=True)

    def _key(self, fingerprint: str) -> str:
        return hashlib.sha256(f"{self._machine}\n{fingerprint}".encode()).hexdigest()

    def load(self, fingerprints: Mapping[Role, str]) -> BatchCosts | None:
        """The measurements of all these models; None where one is missing."""
        entries = self._read()
        found: dict[Role, dict[int, float]] = {}
        for role, fingerprint in fingerprints.items():
            entry: Any = entries.get(self._key(fingerprint))
            try:
                seconds = {int(size): float(taken) for size, taken in entry.items()}
            except (AttributeError, TypeError, ValueError):
                return None
            sizes_are_sane = all(1 <= size <= MAX_TOKENS for size in seconds)
            times_are_sane = all(0.0 < taken < 1e6 for taken in seconds.values())
            if not seconds or not sizes_are_sane or not times_are_sane:
                return None
            found[role] = seconds
        return BatchCosts(found)

    def save(self, costs: BatchCosts, fingerprints: Mapping[Role, str]) -> None:
        """Keep measurements, unless they were disturbed."""
        if not costs.steady:
            return
        entries = self._read()
        for role, fingerprint in fingerprints.items():
            entries[self._key(fingerprint)] = costs.seconds[role]
        with suppress(OSError, TargetError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self._path) as scratch:
                scratch.write_text(json.dumps(entries), encoding="utf-8")

    def _read(self) -> dict[str, Any]:
        try:
            entries = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return entries if isinstance(entries, dict) else {}
