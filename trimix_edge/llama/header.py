"""A look at a file's metadata with ggml's own reader, before llama.cpp believes it.

llama.cpp answers most nonsense with an error, and some with ``abort()``, which ends the process.
The numbers that lead there whatever the architecture are checked here.
"""

from __future__ import annotations

import ctypes
import math
import os
from pathlib import Path

from trimix_edge.errors import ModelLoadError
from trimix_edge.llama.backend import ggml_library

_UINT32, _FLOAT32 = 4, 6  # enum gguf_type
_MAX_LAYERS = 512  # LLAMA_MAX_LAYERS


class _InitParams(ctypes.Structure):
    """``gguf_init_params``."""

    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))


def check_header(path: Path) -> None:
    """Refuse a file with numbers that would end the process (``gguf_init_from_file``).

    A file that can't be read passes: llama.cpp says what is wrong with it.

    Raises:
        ModelLoadError: names the number.
    """
    ggml = ggml_library("ggml-base")
    pointer, key = ctypes.c_void_p, ctypes.c_int64
    ggml.gguf_init_from_file.restype = pointer
    ggml.gguf_init_from_file.argtypes = [ctypes.c_char_p, _InitParams]
    ggml.gguf_free.argtypes = [pointer]
    ggml.gguf_get_n_kv.argtypes = [pointer]
    ggml.gguf_get_n_kv.restype = key
    for name, kind in (
        ("gguf_get_key", ctypes.c_char_p),
        ("gguf_get_kv_type", ctypes.c_int),
        ("gguf_get_val_u32", ctypes.c_uint32),
        ("gguf_get_val_f32", ctypes.c_float),
    ):
        function = getattr(ggml, name)
        function.restype, function.argtypes = kind, [pointer, key]

    file = ggml.gguf_init_from_file(os.fsencode(path), _InitParams(True, None))
    if not file:
        return
    try:
        for i in range(ggml.gguf_get_n_kv(file)):
            name = ggml.gguf_get_key(file, i).decode(errors="replace")
            kind = ggml.gguf_get_kv_type(file, i)
            value: float = 0
            if kind == _UINT32:
                value = ggml.gguf_get_val_u32(file, i)
            elif kind == _FLOAT32:
                value = ggml.gguf_get_val_f32(file, i)
            if not _is_sane(name, kind, value):
                raise ModelLoadError(
                    f"{path} is damaged, {name} is {value:g}: download or convert it again"
                )
    finally:
        ggml.gguf_free(file)


def _is_sane(name: str, kind: int, value: float) -> bool:
    if kind == _UINT32 and name.endswith(".block_count"):
        return 0 < value <= _MAX_LAYERS
    if kind == _UINT32 and name.endswith(("_count", "_length", "_count_kv")):
        return value < 2**31  # beyond it, products of sizes wrap around
    if kind == _FLOAT32 and name.endswith("epsilon"):
        return 0.0 <= value < math.inf
    return True
