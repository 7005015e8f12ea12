"""A look at a file's metadata with ggml's own reader, before llama.cpp believes it.

llama.cpp answers most nonsense with an error, and some with ``abort()`` or a crash, which ends the
process. The numbers and types that are known to lead there are checked here.
"""

from __future__ import annotations

import ctypes
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trimix_edge.errors import ModelLoadError
from trimix_edge.llama.backend import ggml_library

_UINT32, _FLOAT32, _STRING = 4, 6, 8  # enum gguf_type
_MAX_LAYERS, _MAX_EXPERTS = 512, 512  # LLAMA_MAX_LAYERS, LLAMA_MAX_EXPERTS
_ROPE_SCALINGS = ("none", "linear", "yarn", "longrope")

_F32 = 0  # enum ggml_type
_FLOATS = frozenset({_F32, 1, 30})  # F32, F16, BF16
_NO_WEIGHTS = frozenset({9, 15, *range(24, 29)})  # Q8_1, Q8_K, integers and F64
_VECTOR = re.compile(r"(norm\.weight|\.bias)$")
_MATRIX = re.compile(
    r"((token_embd|output|attn_(q|k|v|qkv|output)|ffn_(gate|up|down))\.weight|\.lora_[ab])$"
)


class _InitParams(ctypes.Structure):
    """``gguf_init_params``."""

    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))


@dataclass(frozen=True)
class Header:
    """What must be known of a file before it is loaded.

    Attributes:
        architecture: llama.cpp's name for it; empty where the file does not say.
        types: those of its tensors, of ``enum ggml_type``.
    """

    architecture: str = ""
    types: frozenset[int] = frozenset()


def check_header(path: Path) -> Header:
    """Refuse a file with what would end the process (``gguf_init_from_file``).

    A file that can't be read passes, as an empty header: llama.cpp says what is wrong with it.

    Raises:
        ModelLoadError: names the number or the tensor.
    """
    ggml = _gguf_calls()
    file = ggml.gguf_init_from_file(os.fsencode(path), _InitParams(True, None))
    if not file:
        return Header()
    try:
        architecture = _text(ggml, file, "general.architecture")
        found = next(_nonsense(ggml, file, architecture), None)
        n_tensors = ggml.gguf_get_n_tensors(file)
        types = frozenset(ggml.gguf_get_tensor_type(file, i) for i in range(n_tensors))
        header = Header(architecture, types)
    finally:
        ggml.gguf_free(file)
    if found is not None:
        raise ModelLoadError(f"{path} is damaged, {found}: download or convert it again")
    return header


def _gguf_calls() -> ctypes.CDLL:
    ggml = ggml_library("ggml-base")
    pointer, key = ctypes.c_void_p, ctypes.c_int64
    ggml.gguf_init_from_file.restype = pointer
    ggml.gguf_init_from_file.argtypes = [ctypes.c_char_p, _InitParams]
    ggml.gguf_free.argtypes = [pointer]
    for count in (ggml.gguf_get_n_kv, ggml.gguf_get_n_tensors):
        count.restype, count.argtypes = key, [pointer]
    for name, kind in (
        ("gguf_get_key", ctypes.c_char_p),
        ("gguf_get_kv_type", ctypes.c_int),
        ("gguf_get_val_u32", ctypes.c_uint32),
        ("gguf_get_val_f32", ctypes.c_float),
        ("gguf_get_val_str", ctypes.c_char_p),
        ("gguf_get_tensor_name", ctypes.c_char_p),
        ("gguf_get_tensor_type", ctypes.c_int),
    ):
        function = getattr(ggml, name)
        function.restype, function.argtypes = kind, [pointer, key]
    ggml.gguf_find_key.restype = key
    ggml.gguf_find_key.argtypes = [pointer, ctypes.c_char_p]
    return ggml


def _text(ggml: ctypes.CDLL, file: int, key: str) -> str:
    """A value of the metadata; empty where there is none, or no text."""
    i = ggml.gguf_find_key(file, key.encode())
    if i < 0 or ggml.gguf_get_kv_type(file, i) != _STRING:
        return ""
    value: bytes = ggml.gguf_get_val_str(file, i)
    return value.decode(errors="replace")


def _nonsense(ggml: ctypes.CDLL, file: int, architecture: str) -> Iterator[str]:
    """What can't be, in words."""
    numbers: dict[str, float] = {}
    for i in range(ggml.gguf_get_n_kv(file)):
        name = ggml.gguf_get_key(file, i).decode(errors="replace")
        kind = ggml.gguf_get_kv_type(file, i)
        value: float = 0
        if kind == _UINT32:
            value = ggml.gguf_get_val_u32(file, i)
        elif kind == _FLOAT32:
            value = ggml.gguf_get_val_f32(file, i)
        if not _is_sane(name, kind, value):
            yield f"{name} is {value:g}"
        numbers[name] = value
    for part, whole in (
        ("expert_used_count", "expert_count"),
        ("nextn_predict_layers", "block_count"),
    ):
        n_part, n_whole = (numbers.get(f"{architecture}.{name}", 0) for name in (part, whole))
        if n_part > n_whole:
            yield f"{part} is {n_part:g}, of {n_whole:g} in all"
    scaling = _text(ggml, file, f"{architecture}.rope.scaling.type")
    if scaling and scaling not in _ROPE_SCALINGS:
        yield f"rope.scaling.type is {scaling!r}"
    for i in range(ggml.gguf_get_n_tensors(file)):
        name = ggml.gguf_get_tensor_name(file, i).decode(errors="replace")
        kind = ggml.gguf_get_tensor_type(file, i)
        if (
            (_VECTOR.search(name) and kind not in _FLOATS)
            or (_MATRIX.search(name) and kind in _NO_WEIGHTS)
            or (name == "rope_freqs.weight" and kind != _F32)
        ):
            yield f"the tensor {name} is of type {kind}"


def _is_sane(name: str, kind: int, value: float) -> bool:
    if kind == _UINT32 and name.endswith(".block_count"):
        return 0 < value <= _MAX_LAYERS
    if kind == _UINT32 and name.endswith(".expert_count"):
        return value <= _MAX_EXPERTS
    if kind == _UINT32 and name.endswith(("_count", "_length", "_count_kv")):
        return value < 2**31  # beyond it, products of sizes wrap around
    if kind == _FLOAT32 and name.endswith("epsilon"):
        return 0.0 <= value < math.inf
    return True
