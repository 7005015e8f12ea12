"""llama.cpp's process-wide state: its initialisation, its log, and what this build can do."""

from __future__ import annotations

import ctypes
import inspect
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FrameType

import llama_cpp
import psutil

from trimix_edge.errors import owns_process

log = logging.getLogger("trimix_edge.llama")
log.addHandler(logging.NullHandler())  # silent unless the application sets logging up

_LEVELS = {1: logging.DEBUG, 2: logging.INFO, 3: logging.WARNING, 4: logging.ERROR}
_CONTINUED = 5
_EXPECTED = ("dummy tokens", "possible training context overflow")
"""Warnings about every model that is loaded without its vocabulary, and about contexts whose
sequences together are longer than the training's; of a single one that is, the trio tells."""

_CPU = 0
_DISCRETE_GPU = 1
_GPUS = frozenset({_DISCRETE_GPU, 2})  # enum ggml_backend_dev_type: GPU, IGPU

# What a CPU with a feature lays out anew, numbers of enum ggml_type
# (``ggml_repack_get_optimal_repack_type``).
_REPACKED = {
    "AVX2": frozenset({2, 12, 20, 39}),  # Q4_0, Q4_K, IQ4_NL, MXFP4
    "AVX512": frozenset({10}),  # Q2_K
    "DOTPROD": frozenset({2, 8, 12, 13, 14, 20, 39, 41}),  # also Q8_0, Q5_K, Q6_K, Q1_0
}

_READ_FASTER_PLAIN = frozenset({10, 12})
"""Q2_K and Q4_K: with AVX2 or AVX-512, batches of more than about 32 tokens are computed faster
with the layout of the file than with the other one (tests/benchmarks/reading.py)."""


class _LogSink:
    """Turns llama.cpp's pieces of log lines into records, and remembers its complaints."""

    def __init__(self) -> None:
        self._level = logging.DEBUG
        self._pending = ""
        self.errors: list[str] = []

    def write(self, level: int, text: str) -> None:
        if level != _CONTINUED:
            self._flush()
            self._level = _LEVELS.get(level, logging.DEBUG)
        self._pending += text
        if self._pending.endswith("\n"):
            self._flush()

    def _flush(self) -> None:
        line, self._pending = self._pending.strip(), ""
        if line and not line.endswith(_EXPECTED):
            log.log(self._level, line)
            if self._level >= logging.WARNING:
                del self.errors[:-7]
                self.errors.append(line)


_sink = _LogSink()


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _on_log(level: int, text: bytes, user_data: ctypes.c_void_p) -> None:
    _sink.write(level, text.decode("utf-8", errors="replace"))


def ggml_library(name: str) -> ctypes.CDLL:
    """The library ``ggml`` or ``ggml-base``, for calls that the binding does not wrap.

    Symbols are found through the library of llama.cpp that depends on it. Its file must not be
    loaded by name: wheels hold several copies of it, and another copy has a state of its own.
    """
    if sys.platform == "win32":
        return ctypes.CDLL(str(Path(llama_cpp.__file__).parent / "lib" / f"{name}.dll"))
    library: ctypes.CDLL = llama_cpp.llama_cpp._lib
    return library


@ctypes.CFUNCTYPE(None, ctypes.c_char_p)  # type: ignore[untyped-decorator]
def _on_abort(message: bytes) -> None:
    """End the process in one line, where ggml would let a debugger print its stack.

    ggml ends it in any case: there is no way back from here into Python, and none to raise.
    """
    _, _, what = message.decode(errors="replace").rpartition("llama.cpp/")
    os.write(2, f"trimix-edge: llama.cpp gave up at {what.strip()}\n".encode())
    os._exit(1)


@cache
def init_backend() -> None:
    """Initialise llama.cpp once in a process, and take over its log; in the command line's own
    process its last words as well.

    The callbacks are module globals because llama.cpp keeps bare pointers: were one collected, the
    next log line would crash the interpreter.
    """
    llama_cpp.llama_log_set(_on_log, None)
    if owns_process():
        ggml_library("ggml-base").ggml_set_abort_callback(_on_abort)
    llama_cpp.llama_backend_init()


@contextmanager
def collected_errors() -> Iterator[list[str]]:
    """Collect the warnings and errors that llama.cpp logs inside the block, oldest first."""
    errors: list[str] = []
    _sink.errors = errors
    yield errors


def reason(errors: list[str]) -> str:
    """The most telling of collected error lines, without the name of the C++ function.

    llama.cpp reports a failure from the inside out: the first error names the cause.
    """
    for line in errors:
        _, _, tail = line.partition(": ")
        text = tail or line
        if "fail" in text or "error" in text or "invalid" in text or "unknown" in text:
            return text.removeprefix("error loading model: ").rstrip(".")
    return errors[-1] if errors else ""


# Python's wrappers of these look each handler up in an enumeration, with an exception where it is a
# function. After a decode, with cold caches, that takes a tenth of a millisecond a token.
_get_signal = inspect.unwrap(signal.getsignal)
_set_signal = inspect.unwrap(signal.signal)


@contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Hold Ctrl-C back until the end of the block, and tell whether it came.

    Inside a callback from llama.cpp an exception would be lost: the callback asks instead, makes
    llama.cpp stop, and the interrupt is raised where Python's own frames are.
    """
    previous = _get_signal(signal.SIGINT)
    # Python hears signals in the main thread only; a shell's background jobs ignore this one.
    if threading.current_thread() is not threading.main_thread() or not callable(previous):
        yield lambda: False
        return
    caught: list[tuple[int, FrameType | None]] = []
    _set_signal(signal.SIGINT, lambda number, frame: caught.append((number, frame)))
    try:
        yield lambda: bool(caught)
    finally:
        _set_signal(signal.SIGINT, previous)
        if caught:
            previous(*caught[0])


@cache
def physical_cores() -> int:
    """Physical cores this process may use; SMT siblings only slow llama.cpp's kernels down."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(usable or 1, psutil.cpu_count(logical=False) or usable or 1))


def has_gpu() -> bool:
    """Whether ggml has registered a GPU, one that is part of the processor included.

    (``ggml_backend_dev_type``.) ``llama_supports_gpu_offload`` is also true where a module for
    other machines is loaded. Libraries that speed up the CPU (BLAS, AMX) are no GPU: they take no
    layers.
    """
    ggml = ggml_library("ggml")
    ggml.ggml_backend_dev_type.restype = ctypes.c_int
    ggml.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
    return any(ggml.ggml_backend_dev_type(device) in _GPUS for device in _devices(ggml))


def devices_to_serve() -> list[int]:
    """What a server offers, of type ``ggml_backend_dev_t``: this machine's GPUs, or its CPU."""
    ggml = ggml_library("ggml")
    ggml.ggml_backend_dev_type.restype = ctypes.c_int
    ggml.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
    kinds = {device: ggml.ggml_backend_dev_type(device) for device in _devices(ggml)}
    gpus = [device for device, kind in kinds.items() if kind in _GPUS]
    return gpus or [device for device, kind in kinds.items() if kind == _CPU]


def gpu_memory() -> int:
    """Bytes of all GPUs that have memory of their own (``ggml_backend_dev_memory``).

    A GPU that is part of the processor shares the machine's memory, and does not count.
    """
    ggml = ggml_library("ggml")
    ggml.ggml_backend_dev_type.restype = ctypes.c_int
    ggml.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
    size = ctypes.POINTER(ctypes.c_size_t)
    ggml.ggml_backend_dev_memory.restype = None
    ggml.ggml_backend_dev_memory.argtypes = [ctypes.c_void_p, size, size]
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    n_bytes = 0
    for device in _devices(ggml):
        if ggml.ggml_backend_dev_type(device) == _DISCRETE_GPU:
            ggml.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
            n_bytes += total.value
    return n_bytes


def is_repacked(types: Collection[int]) -> bool:
    """Whether llama.cpp lays out tensors of these types anew for the CPU's vector units.

    A file that is mapped is then in memory twice, the second time for nothing: it is better read.

    Args:
        types: numbers of ``enum ggml_type``, those of all parts of a model.
    """
    return bool(_repacked_types(types))


def _repacked_types(types: Collection[int]) -> set[int]:
    features = _system_features()
    if has_gpu() or "REPACK" not in features:
        return set()
    return {
        kind
        for name, kinds in _REPACKED.items()
        if name in features
        for kind in kinds.intersection(types)
    }


def reads_faster_plain(types: Collection[int]) -> bool:
    """Whether llama.cpp reads long texts faster if it leaves tensors of these types as they lie in
    the file, though it could lay them out anew.

    That holds of x86 and some types; for all others, the layout for generating is the faster one
    for reading as well. Where AMX computes, it computes both.

    Args:
        types: as for :func:`is_repacked`.
    """
    repacked, features = _repacked_types(types), _system_features()
    is_plain_x86 = "AVX2" in features and "AMX_INT8" not in features
    return bool(repacked) and is_plain_x86 and repacked <= _READ_FASTER_PLAIN


@dataclass(frozen=True)
class BackendInfo:
    """What this build of llama.cpp and this machine can do.

    Attributes:
        llama_cpp_python: version of the binding.
        gpu_offload: whether there is a GPU to put layers on.
        mmap: whether models are mapped instead of read.
        features: name to value of the CPU and GPU features that the build uses.
        devices: llama.cpp's names and descriptions of its compute devices.
        physical_cores: cores that are used by default.
        memory: bytes of memory in all.
        memory_available: bytes that are free to use now.
    """

    llama_cpp_python: str
    gpu_offload: bool
    mmap: bool
    features: dict[str, str]
    devices: tuple[tuple[str, str], ...]
    physical_cores: int
    memory: int
    memory_available: int


def _system_features() -> dict[str, str]:
    text: bytes = llama_cpp.llama_print_system_info()
    features = {}
    for part in text.decode().replace(":", "|").split("|"):
        name, equals, value = part.partition("=")
        if equals:
            features[name.strip()] = value.strip()
    return features


def _devices(ggml: ctypes.CDLL) -> Iterator[int]:
    """ggml's device registry, which the binding does not wrap."""
    ggml.ggml_backend_dev_count.restype = ctypes.c_size_t
    ggml.ggml_backend_dev_get.restype = ctypes.c_void_p
    ggml.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    for i in range(ggml.ggml_backend_dev_count()):
        yield ggml.ggml_backend_dev_get(i)


def _described_devices() -> Iterator[tuple[str, str]]:
    ggml = ggml_library("ggml")
    calls = (ggml.ggml_backend_dev_name, ggml.ggml_backend_dev_description)
    for call in calls:
        call.restype, call.argtypes = ctypes.c_char_p, [ctypes.c_void_p]
    for device in _devices(ggml):
        name, description = (call(device).decode(errors="replace") for call in calls)
        yield name, description


def backend_info() -> BackendInfo:
    """Ask llama.cpp and the system (``llama_print_system_info``, ``ggml_backend_dev_get``)."""
    init_backend()
    memory = psutil.virtual_memory()
    return BackendInfo(
        llama_cpp_python=llama_cpp.__version__,
        gpu_offload=has_gpu(),
        mmap=bool(llama_cpp.llama_supports_mmap()),
        features=_system_features(),
        devices=tuple(_described_devices()),
        physical_cores=physical_cores(),
        memory=memory.total,
        memory_available=memory.available,
    )
