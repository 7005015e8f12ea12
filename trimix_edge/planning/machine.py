"""What decides how fast a model is on a machine: measured here in seconds, or from a profile.

For one token every weight is read once, and each type of weights has a speed of its own, which
memory or the arithmetic of unpacking bounds. In a prompt, arithmetic alone bounds it. So two
numbers a type, the time that a layer takes beside its weights, and the speed of reading the KV
cache make up a model's time. llama.cpp itself is measured, on one layer of random weights a type.
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import psutil

from trimix_edge.errors import TargetError, UsageError
from trimix_edge.files import cache_folder, replacing
from trimix_edge.llama.backend import backend_info, init_backend
from trimix_edge.llama.speed import decode_seconds
from trimix_edge.planning.probe import N_VOCAB, Probe
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

MeasureProgress = Callable[[str, int, int], None]
"""Called with what is measured, how many of the measurements are done, and all of them."""

_LAYER = Probe(n_layer=1, n_embd=3584, n_ff=18944)  # as Qwen2.5-7B's
_THIN = Probe(n_layer=16, n_embd=512, n_ff=512)
_SECONDS = 0.4
_VERSION = 1


@dataclass(frozen=True)
class TypeSpeed:
    """Weights a second of one type.

    Attributes:
        token: weights that one decode of a single token gets through.
        prompt: weights times tokens, in a batch of :data:`N_BATCH`.
    """

    token: float
    prompt: float


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
    """

    name: str
    memory: int
    speeds: Mapping[str, TypeSpeed] = field(default_factory=dict)
    layer_seconds: float = 0.0
    bytes_per_second: float = 1e10
    is_busy: bool = False
    source: str = ""

    @property
    def is_measured(self) -> bool:
        return not self.source

    def speed(self, kind: str) -> TypeSpeed:
        """The speed of a type, or of that of :data:`TYPES` which stands for it.

        Raises:
            KeyError: it was not measured.
        """
        return self.speeds[_nearest(kind)]


def _nearest(kind: str) -> str:
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


def this_machine(
    types: Collection[str], on_progress: MeasureProgress | None = None, *, anew: bool = False
) -> Machine:
    """This machine, with the speeds of the given types, which are measured once and kept.

    A measurement takes two to four seconds a type, and 0.5 GB of the disk for temporary files.

    Args:
        types: names as ``Q4_K``; others than :data:`TYPES` count as the nearest of them.
        anew: measure again what is known.

    Raises:
        OSError: there is no room for the temporary files.
    """
    init_backend()
    path = cache_folder() / f"machine-{_VERSION}.json"
    key = _key()
    known = Machine(HERE, psutil.virtual_memory().total) if anew else _read(path, key)
    wanted = [kind for kind in TYPES if kind in {_nearest(kind) for kind in types}]
    missing = [kind for kind in wanted if kind not in known.speeds]
    n_all = len(missing) + (known.layer_seconds == 0.0)
    if n_all and _other_load() > 0.2:
        known = replace(known, is_busy=True)
    with tempfile.TemporaryDirectory(prefix="trimix-edge-") as folder:
        file = Path(folder) / "probe.gguf"
        done = 0
        if known.layer_seconds == 0.0:
            known = replace(known, layer_seconds=_measure_layer(file))
            done = 1
        for n, kind in enumerate(missing, done + 1):
            if on_progress is not None:
                on_progress(f"measuring {kind}", n - 1, n_all)
            known = replace(known, speeds={**known.speeds, kind: _measure(file, kind)})
            if on_progress is not None:
                on_progress(f"measuring {kind}", n, n_all)
    if n_all:
        _write(path, key, known)
    return known


def _other_load() -> float:
    """The part of all processors that is at work now, before this process begins to compute."""
    return psutil.cpu_percent(interval=0.3) / 100


def _measure(file: Path, kind: str) -> TypeSpeed:
    _LAYER.write(file, kind)
    seconds = decode_seconds(file, N_VOCAB, (1, N_BATCH), seconds=_SECONDS)
    n = _LAYER.n_weights
    return TypeSpeed(token=n / seconds[1], prompt=n * N_BATCH / seconds[N_BATCH])


def _measure_layer(file: Path) -> float:
    """What a layer takes beside its weights: norms, attention, and all threads' barriers."""
    _THIN.write(file, "Q8_0")
    return decode_seconds(file, N_VOCAB, (1,), seconds=_SECONDS)[1] / _THIN.n_layer


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
    machine = Machine(HERE, psutil.virtual_memory().total)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["key"] != dict(key):
            return machine
        speeds = {
            kind: TypeSpeed(_positive(row["token"]), _positive(row["prompt"]))
            for kind, row in content["speeds"].items()
            if kind in TYPES
        }
        return replace(
            machine,
            speeds=speeds,
            layer_seconds=_positive(content["layer_seconds"]),
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
    speeds = {kind: asdict(speed) for kind, speed in machine.speeds.items()}
    content = {
        "key": key,
        "speeds": speeds,
        "layer_seconds": machine.layer_seconds,
        "is_busy": machine.is_busy,
    }
    with suppress(OSError, TargetError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            part.write_text(json.dumps(content), encoding="utf-8")
