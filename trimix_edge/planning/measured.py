"""This machine, measured in seconds: llama.cpp itself, on four layers of random weights a type.

What is measured is kept on disk, so that each type is measured once.
"""

from __future__ import annotations

import json
import platform
import tempfile
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import psutil

from trimix_edge.errors import TargetError
from trimix_edge.files import cache_folder, replacing
from trimix_edge.llama.backend import backend_info, gpu_memory, init_backend, physical_cores
from trimix_edge.llama.speed import decode_seconds
from trimix_edge.planning.machine import HERE, N_BATCH, TYPES, Machine, TypeSpeed, nearest
from trimix_edge.planning.probe import N_VOCAB, Probe
from trimix_edge.planning.weights import weight_bytes

MeasureProgress = Callable[[str, int, int], None]
"""Called with what is measured, how many of the measurements are done, and all of them."""

LAYERS = Probe(n_layer=4, n_embd=2048, n_ff=11008)
"""As Qwen2.5-3B's: together larger than most processors' caches. One large layer by itself would
be measured slower than the layers of a model, which are read one after the other."""

THIN = Probe(n_layer=16, n_embd=512, n_ff=256)
"""Layers with so few weights that their time is that of everything else."""

SECONDS = 0.4
"""That each size of batch is repeated for."""

SMALL_BATCHES = (4, 16)
"""Tokens of drafts that are verified, and of sequences that run at once."""

READ_BYTES = 1 << 29
"""Bytes that all threads together read to measure the bandwidth of memory; caches hold less."""

_VERSION = 3


def this_machine(
    types: Collection[str], on_progress: MeasureProgress | None = None, *, anew: bool = False
) -> Machine:
    """This machine, with the speeds of the given types, which are measured once and kept.

    A measurement takes two to four seconds a type, and up to 0.7 GB of the disk for a temporary
    file.

    Args:
        types: names as ``Q4_K``; others than :data:`TYPES` count as the nearest of them.
        anew: measure again what is known.

    Raises:
        OSError: there is no room for the temporary files.
    """
    init_backend()
    path = cache_folder() / f"machine-{_VERSION}.json"
    key = _key()
    known = _blank() if anew else _read(path, key)
    wanted = [kind for kind in TYPES if kind in {nearest(kind) for kind in types}]
    missing = [kind for kind in wanted if kind not in known.speeds]
    n_all = len(missing) + (known.layer_seconds == 0.0)
    if n_all and _other_load() > 0.2:
        known = replace(known, is_busy=True)
    with tempfile.TemporaryDirectory(prefix="trimix-edge-") as folder:
        file = Path(folder) / "probe.gguf"
        done = 0
        if known.layer_seconds == 0.0:
            bandwidth = read_bandwidth(physical_cores())
            layer = measure_layer(file, bandwidth)
            known = replace(known, layer_seconds=layer, bytes_per_second=bandwidth)
            done = 1
        for n, kind in enumerate(missing, done + 1):
            if on_progress is not None:
                on_progress(f"measuring {kind}", n - 1, n_all)
            known = replace(known, speeds={**known.speeds, kind: measure_type(file, kind, known)})
            if on_progress is not None:
                on_progress(f"measuring {kind}", n, n_all)
    if n_all:
        _write(path, key, known)
    return known


def known_machine() -> Machine:
    """This machine with what was measured before, which may be nothing; measures nothing."""
    init_backend()
    return _read(cache_folder() / f"machine-{_VERSION}.json", _key())


def _other_load() -> float:
    """The part of all processors that is at work now, before this process begins to compute."""
    return psutil.cpu_percent(interval=0.3) / 100


def measure_type(
    file: Path, kind: str, machine: Machine, small: tuple[int, ...] = SMALL_BATCHES
) -> TypeSpeed:
    """Time layers of that type; what they take beside their weights is left out.

    Args:
        file: where the layers are written.
        machine: tells that time.
        small: sizes of small batches that are measured as well.
    """
    LAYERS.write(file, kind)
    sizes = (1, *small, N_BATCH)
    found = decode_seconds(file, N_VOCAB, sizes, seconds=SECONDS, all_rows=True)
    n, beside = LAYERS.n_weights, LAYERS.n_layer * machine.layer_seconds
    # Of a damaged or very busy clock something positive must remain.
    speeds = {size: n * size / max(found[size] - beside, found[size] / 2) for size in sizes}
    return TypeSpeed(speeds[1], speeds[N_BATCH], {size: speeds[size] for size in small})


def measure_layer(file: Path, bandwidth: float) -> float:
    """Seconds that a layer takes beside its weights: norms, attention, and all threads' barriers.

    Args:
        bandwidth: bytes a second, at which the few weights of the measured layers are read.
    """
    THIN.write(file, "Q8_0")
    each = decode_seconds(file, N_VOCAB, (1,), seconds=SECONDS)[1] / THIN.n_layer
    reading = THIN.n_weights * weight_bytes("Q8_0") / THIN.n_layer / bandwidth
    return max(each - reading, each / 4)


def read_bandwidth(n_threads: int) -> float:
    """Bytes a second that so many threads together read from memory, the best of some rounds."""
    parts = [np.ones(READ_BYTES // n_threads // 8, np.int64) for _ in range(n_threads)]
    best = 0.0
    with ThreadPoolExecutor(n_threads) as pool:
        for _ in range(5):
            start = perf_counter()
            list(pool.map(np.max, parts))
            best = max(best, READ_BYTES / (perf_counter() - start))
    return best


def _blank() -> Machine:
    return Machine(HERE, psutil.virtual_memory().total, gpu_memory=gpu_memory())


def _key() -> dict[str, Any]:
    """What the speeds depend on, beside the machine's other work."""
    info = backend_info()
    return {
        "llama_cpp_python": info.llama_cpp_python,
        "machine": [platform.node(), platform.machine(), info.physical_cores],
        "features": info.features,
        "devices": [list(device) for device in info.devices],
    }


def _read(path: Path, key: Mapping[str, Any]) -> Machine:
    """What is known of this machine; nothing where the file is damaged, or of another one."""
    machine = _blank()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["key"] != dict(key):
            return machine
        speeds = {
            kind: TypeSpeed(
                _positive(row["token"]),
                _positive(row["prompt"]),
                {size: _positive(row["batches"][str(size)]) for size in SMALL_BATCHES},
            )
            for kind, row in content["speeds"].items()
            if kind in TYPES
        }
        return replace(
            machine,
            speeds=speeds,
            layer_seconds=_positive(content["layer_seconds"]),
            bytes_per_second=_positive(content["bytes_per_second"]),
            is_busy=content["is_busy"] is True,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return machine


def _positive(value: object) -> float:
    if not isinstance(value, float) or not 0.0 < value < 1e18:
        raise ValueError(value)
    return value


def _write(path: Path, key: Mapping[str, Any], machine: Machine) -> None:
    """Keep the speeds; where nothing can be written, they are measured again next time."""
    speeds = {
        kind: {"token": speed.token, "prompt": speed.prompt, "batches": dict(speed.batches)}
        for kind, speed in machine.speeds.items()
    }
    content = {
        "key": key,
        "speeds": speeds,
        "layer_seconds": machine.layer_seconds,
        "bytes_per_second": machine.bytes_per_second,
        "is_busy": machine.is_busy,
    }
    with suppress(OSError, TargetError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            part.write_text(json.dumps(content), encoding="utf-8")
