"""GGUF in, smaller GGUF out: llama.cpp's quantiser, held at arm's length.

``llama_model_quantize`` trusts its input: a damaged or hostile file can make it abort, and a full
disk can go unnoticed. So the head of the input is checked first, the quantiser runs in a process
of its own, dry first (which tells the size, and what it would do against what was asked), and
its output is checked before it is given its name.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import llama_cpp
import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from trimix_edge.errors import ModelLoadError, QuantizeError, UsageError
from trimix_edge.files import check_gguf_target, replacing, require_space
from trimix_edge.gguf import GgufFile, read_gguf
from trimix_edge.llama.backend import ggml_library, init_backend, physical_cores
from trimix_edge.llama.imatrix_file import read_imatrix
from trimix_edge.llama.quantize_worker import READY

Progress = Callable[[int, int], None]
"""Called with the bytes of the input's tensors that are done, and with all of them."""

COPY = "COPY"
_ALIASES = {
    "Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M",
    "FP32": "F32", "FLOAT32": "F32", "FP16": "F16", "FLOAT16": "F16", "HALF": "F16",
    "BFLOAT16": "BF16",
}  # fmt: skip
_NOT_FOR_QUANTIZING = frozenset({"GUESSED", "NVFP4"})  # llama_ftype_get_default_type has no answer

_WORKER = (
    "import sys; sys.path[:] = sys.argv.pop().split('\\n');"
    "from trimix_edge.llama.quantize_worker import main; sys.exit(main(sys.argv[1]))"
)
_TENSOR = re.compile(r"\[ *\d+/ *\d+\] +(.+?) +- \[")
_SIZE = re.compile(r"quant size += +([\d.]+) MiB")
_FALLBACK = re.compile(r"warning: (\S+) +- ncols +\d+ not divisible by +(\d+) .*to +(\w+)$")
_NEEDS_MATRIX = re.compile(r"will require an imatrix|Missing importance matrix for tensor (\S+)")
_FAILURE = re.compile(r"failed to quantize: (.+)")
_ASSERTION = re.compile(r"\b(GGML_(?:ASSERT|ABORT)\(.*|.*: fatal error.*|.*what\(\): .*)")


def quantizations() -> dict[str, int]:
    """The names of the types that llama.cpp quantises to, with its ``llama_ftype`` for each."""
    found: dict[str, int] = {}
    for constant, value in vars(llama_cpp).items():
        match = re.fullmatch(r"LLAMA_FTYPE_(?:MOSTLY_|ALL_)?(\w+)", constant)
        if match and match[1] not in _NOT_FOR_QUANTIZING:
            found[match[1]] = value
    found.update({alias: found[name] for alias, name in _ALIASES.items()})
    found[COPY] = found["F32"]
    return found


def parse_quantization(text: str) -> str:
    """llama.cpp's spelling of a type's name, whatever the case; aliases become what they mean.

    Raises:
        UsageError: there is no such type.
    """
    name = text.strip().upper()
    if name not in quantizations():
        known = ", ".join(sorted(quantizations()))
        raise UsageError(f"no quantisation is called {text[:40]!r}: use one of {known}")
    return _ALIASES.get(name, name)


@dataclass(frozen=True)
class QuantizeReport:
    """What :func:`quantize` wrote.

    Attributes:
        fallbacks: names of tensors that were stored in another type than asked for, as the type
            does not divide their rows.
        notes: what a reader ought to know, a line each.
    """

    target: Path
    type: str
    n_bytes_before: int
    n_bytes: int
    fallbacks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def quantize(
    source: Path,
    target: Path,
    type_: str,
    *,
    imatrix: Path | None = None,
    allow_requantize: bool = False,
    overwrite: bool = False,
    threads: int = 0,
    on_progress: Progress | None = None,
) -> QuantizeReport:
    """Quantise a GGUF file (``llama_model_quantize``). The target appears whole, or not at all.

    Tensors whose rows the type does not divide are stored as llama.cpp's fallback for it.

    Args:
        source: a model, the first part of one in several; F32, F16 or BF16 for good results.
        type_: a name out of :func:`quantizations`; ``COPY`` only joins parts into one file.
        imatrix: an importance matrix of this model, which some types of few bits need.
        allow_requantize: also start from weights that are quantised already.
        threads: 0 for one a physical core.

    Raises:
        UsageError: no such type.
        ModelLoadError: the source is no model, or damaged.
        ImatrixError: the matrix can't be read, or is of another model.
        QuantizeError: llama.cpp can't, or does not want to, do this.
        TargetError, DiskSpaceError: the target can't be written.
        KeyboardInterrupt: Ctrl-C; nothing is left behind.
    """
    type_ = parse_quantization(type_)
    head = read_gguf(source)
    _check_source(head)
    check_gguf_target(target, overwrite=overwrite)
    if target.exists() and target.samefile(source):
        raise QuantizeError(f"{target} is the input: a file can't be quantised onto itself")
    if imatrix is not None:
        read_imatrix(imatrix).check_model(head)
    with _Worker(head, type_, allow_requantize, threads or physical_cores(), imatrix) as worker:
        plan = worker.plan()
        if plan.needs_matrix and imatrix is None:
            raise QuantizeError(worker.matrix_needed())
        n_bytes_expected = plan.n_tensor_bytes + head.n_bytes - head.n_tensor_bytes
        require_space(target.parent, n_bytes_expected, f"{target.name} as {type_}")
        with replacing(target) as temporary:
            worker.write(temporary, on_progress)
            n_bytes = _check_output(temporary, head)
    notes = (plan.fallback_note(),) if plan.fallbacks else ()
    return QuantizeReport(target, type_, head.n_bytes, n_bytes, tuple(plan.fallbacks), notes)


def quantize_rows(
    values: npt.NDArray[np.float32], kind: GGMLQuantizationType
) -> npt.NDArray[np.uint8]:
    """Quantise an array in memory (``ggml_quantize_chunk``).

    Args:
        values: float32 ``[n_rows, n_per_row]``, finite, rows of whole blocks of the type.

    Returns:
        uint8, the rows one after the other.
    """
    if kind == GGMLQuantizationType.F32:
        return values.reshape(-1).view(np.uint8)
    init_backend()
    call = ggml_library("ggml-base").ggml_quantize_chunk
    call.restype, floats = ctypes.c_size_t, ctypes.POINTER(ctypes.c_float)
    call.argtypes = [ctypes.c_int, floats, ctypes.c_void_p, *[ctypes.c_int64] * 3, floats]
    values = np.ascontiguousarray(values, np.float32)
    n_rows, n_per_row = values.shape
    block, block_bytes = GGML_QUANT_SIZES[kind]
    out = np.empty(values.size // block * block_bytes, np.uint8)
    source = values.ctypes.data_as(floats)
    call(int(kind), source, out.ctypes.data, 0, n_rows, n_per_row, None)
    return out


def quantized_bytes(source: Path, type_: str) -> int:
    """Bytes that a file's tensors would take; nothing is computed or written."""
    with _Worker(read_gguf(source), parse_quantization(type_), True, 1) as worker:
        return worker.plan().n_tensor_bytes


def _check_output(path: Path, head: GgufFile) -> int:
    """The size of what llama.cpp wrote, once it is known to be whole."""
    try:
        written = read_gguf(path)
    except ModelLoadError as error:
        raise QuantizeError(f"llama.cpp left an unusable file: is the disk full? {error}") from None
    if len(written.tensors) != len(head.tensors):
        raise QuantizeError(f"{head.path}: llama.cpp wrote {len(written.tensors)} tensors only")
    return written.n_bytes


def _check_source(head: GgufFile) -> None:
    kind = head.get("general.type", str) or "model"
    if kind != "model" or not head.tensors:
        what = f"of the kind {kind[:20]!r}" if kind != "model" else "without tensors"
        raise ModelLoadError(f"{head.path} is a GGUF file {what}: only models can be quantised")


@dataclass
class _Outcome:
    """What llama.cpp told on its way."""

    n_tensor_bytes: int = 0
    fallbacks: dict[str, tuple[str, str]] = field(default_factory=dict)
    needs_matrix: bool = False
    missing: str = ""
    failure: str = ""
    assertion: str = ""

    def hear(self, line: str) -> None:
        if match := _SIZE.search(line):
            self.n_tensor_bytes = int(float(match[1]) * (1 << 20))
        elif match := _FALLBACK.search(line.rstrip()):
            self.fallbacks[match[1]] = match[2], match[3].upper()
        elif match := _NEEDS_MATRIX.search(line):
            self.needs_matrix = True
            self.missing = match[1] or self.missing
        elif match := _FAILURE.search(line):
            self.failure = match[1].strip()
        elif match := _ASSERTION.search(line):
            self.assertion = match[1].strip()[:200]

    def fallback_note(self) -> str:
        """One line for all tensors whose rows the type does not divide."""
        if not self.fallbacks:
            return ""
        blocks = sorted({int(block) for block, _ in self.fallbacks.values()})
        kinds = Counter(kind for _, kind in self.fallbacks.values())
        told = ", ".join(f"{n} as {kind}" for kind, n in kinds.most_common())
        return (
            f"{len(self.fallbacks)} tensors have rows that are no multiple of "
            f"{' or '.join(map(str, blocks))}; llama.cpp stores {told}"
        )


class _Worker:
    """The process that runs llama.cpp's quantiser; it ends with the block that it is used in."""

    def __init__(
        self,
        head: GgufFile,
        type_: str,
        allow_requantize: bool,
        threads: int,
        imatrix: Path | None = None,
    ) -> None:
        self._head = head
        self._type = type_
        job = {
            "source": os.fsencode(head.path).hex(),
            "ftype": quantizations()[type_],
            "only_copy": type_ == COPY,
            "allow_requantize": allow_requantize,
            "threads": threads,
            "imatrix": None if imatrix is None else os.fsencode(imatrix).hex(),
        }
        self._process = subprocess.Popen(
            # The paths of this process, not of the folder that it happens to stand in.
            [sys.executable, "-c", _WORKER, json.dumps(job), "\n".join(filter(None, sys.path))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "GGML_NO_BACKTRACE": "1"},
        )

    def plan(self) -> _Outcome:
        """What quantising would come to."""
        outcome = _Outcome()
        for line in self._lines():
            if line.rstrip() == READY:
                return outcome
            outcome.hear(line)
        raise QuantizeError(self._reason(outcome))

    def write(self, target: Path, on_progress: Progress | None) -> None:
        """Quantise."""
        outcome = _Outcome()
        sizes = {tensor.name: tensor.n_bytes for tensor in self._head.tensors}
        done, total = 0, self._head.n_tensor_bytes
        assert self._process.stdin is not None
        self._process.stdin.write(os.fsencode(target).hex().encode() + b"\n")
        self._process.stdin.flush()
        for line in self._lines():
            outcome.hear(line)
            if match := _TENSOR.match(line):
                done += sizes.get(match[1], 0)
                if on_progress is not None:
                    on_progress(done, total)
        if self._process.wait() != 0:
            raise QuantizeError(self._reason(outcome))

    def _lines(self) -> Iterator[str]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            yield line.decode("utf-8", errors="replace")

    def _reason(self, outcome: _Outcome) -> str:
        path, code = self._head.path, self._process.wait()
        if "requantizing from type" in outcome.failure:
            return (
                f"{path} is quantised already ({outcome.failure.split()[3]}): start from the F16 "
                f"or BF16 file, or lose quality twice with --allow-requantize"
            )
        if outcome.missing:
            return f"{self._type} needs an importance matrix with sums for {outcome.missing}"
        if outcome.needs_matrix:
            return self.matrix_needed()
        if outcome.failure:
            return f"{path} could not be quantised to {self._type}: {outcome.failure}"
        died = f"by {signal.Signals(-code).name}" if code < 0 else f"with code {code}"
        why = f" ({outcome.assertion})" if outcome.assertion else ""
        return f"{path} could not be quantised: llama.cpp ended {died}{why}: is the file damaged?"

    def matrix_needed(self) -> str:
        """What to do where the type can't do without a matrix."""
        model = self._head.path
        return (
            f"{self._type} needs an importance matrix: make one with trimix-edge imatrix {model} "
            f"--text FILE --out {model.stem}.imatrix.gguf, and name it with --imatrix"
        )

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.communicate()
