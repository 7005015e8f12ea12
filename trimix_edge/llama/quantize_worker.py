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
    source = bytes.fromhex(job["source"])
    return int(llama_cpp.llama_model_quantize(source, target, ctypes.byref(params)))


def _end_with_parent(target: bytes) -> None:
    """Standard input ends when the parent dies, however it does: then nothing stays behind."""
    os.read(0, 1)  # a lock on sys.stdin would disturb the interpreter's own end
    Path(os.fsdecode(target)).unlink(missing_ok=True)
    os._exit(1)
