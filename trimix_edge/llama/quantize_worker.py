"""The process that :mod:`trimix_edge.llama.quantize` starts: ``llama_model_quantize``, dry, then
in earnest.

Its standard output is llama.cpp's log, and the line :data:`READY` once the dry run is over. Then
it waits for the name of the target, in hexadecimal, on standard input.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import llama_cpp

from trimix_edge.llama.imatrix_file import read_imatrix

READY = "ready to write"

_MAX_BUFFER_BYTES = 256 << 20
"""Rows kept in memory at once; llama.cpp's own default of 8 GiB is more than a laptop has."""


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _on_log(level: int, text: bytes, user_data: ctypes.c_void_p) -> None:
    os.write(1, text)


def main(argument: str) -> int:
    """Do the job that ``argument`` describes in JSON; 0 if llama.cpp did it."""
    job = json.loads(argument)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    llama_cpp.llama_log_set(_on_log, None)
    if _quantize(job, b"", dry_run=True) != 0:
        return 1
    os.write(1, f"\n{READY}\n".encode())
    target = bytes.fromhex(sys.stdin.readline())
    if not target:
        return 1
    threading.Thread(target=_end_with_parent, args=(target,), daemon=True).start()
    return _quantize(job, target, dry_run=False)


def _quantize(job: dict[str, Any], target: bytes, *, dry_run: bool) -> int:
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = job["ftype"]
    params.only_copy = job["only_copy"]
    params.allow_requantize = job["allow_requantize"]
    params.nthread = job["threads"]
    params.max_buf_size = _MAX_BUFFER_BYTES
    params.dry_run = dry_run
    kept = _use_imatrix(params, job["imatrix"])  # llama.cpp reads it until it returns
    source = bytes.fromhex(job["source"])
    code = int(llama_cpp.llama_model_quantize(source, target, ctypes.byref(params)))
    del kept
    return code


def _use_imatrix(params: Any, name: str | None) -> list[Any]:
    """Hand a matrix to llama.cpp, and say in the file where it came from, as llama-quantize does.

    Returns:
        What must stay in memory while llama.cpp runs.
    """
    if name is None:
        return []
    path = bytes.fromhex(name)
    matrix = read_imatrix(Path(os.fsdecode(path)))
    means = {name.encode(): entry.means() for name, entry in matrix.entries.items()}
    data = (llama_cpp.llama_model_imatrix_data * (len(means) + 1))()  # an empty name ends them
    for item, (weight, values) in zip(data, means.items(), strict=False):
        pointer = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        item.name, item.data, item.size = weight, pointer, values.size
    notes: list[tuple[bytes, bytes | int]] = [(b"file", path)]
    if matrix.datasets:
        notes.append((b"dataset", matrix.datasets[0].encode(errors="surrogateescape")))
    notes.append((b"entries_count", len(means)))
    if matrix.n_chunks:
        notes.append((b"chunks_count", matrix.n_chunks))
    overrides = (llama_cpp.llama_model_kv_override * (len(notes) + 1))()  # an empty key ends them
    for override, (key, value) in zip(overrides, notes, strict=False):
        override.key = b"quantize.imatrix." + key
        if isinstance(value, bytes):
            override.tag = llama_cpp.LLAMA_KV_OVERRIDE_TYPE_STR
            override.value.val_str = value[:127]
        else:
            override.tag = llama_cpp.LLAMA_KV_OVERRIDE_TYPE_INT
            override.value.val_i64 = value
    params.imatrix, params.kv_overrides = data, overrides
    return [means, data, overrides]


def _end_with_parent(target: bytes) -> None:
    """Standard input ends when the parent dies, however it does: then nothing stays behind."""
    os.read(0, 1)  # a lock on sys.stdin would disturb the interpreter's own end
    Path(os.fsdecode(target)).unlink(missing_ok=True)
    os._exit(1)
