"""A look at a file before llama.cpp believes it.

llama.cpp answers most nonsense with an error, and some with ``abort()`` or a crash, which ends the
process. The numbers and types that are known to lead there are refused here, in all parts of a
model.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

from trimix_edge.errors import ModelLoadError
from trimix_edge.gguf.reader import GgufFile, Opener, read_gguf

_MAX_LAYERS, _MAX_EXPERTS = 512, 512  # LLAMA_MAX_LAYERS, LLAMA_MAX_EXPERTS
_ROPE_SCALINGS = ("none", "linear", "yarn", "longrope")

_F32 = 0  # enum ggml_type
_FLOATS = frozenset({_F32, 1, 30})  # F32, F16, BF16
_NO_WEIGHTS = frozenset({9, 15, *range(24, 29)})  # Q8_1, Q8_K, integers and F64
_VECTOR = re.compile(r"(norm\.weight|\.bias)$")
_MATRIX = re.compile(
    r"((token_embd|output|attn_(q|k|v|qkv|output)|ffn_(gate|up|down))\.weight|\.lora_[ab])$"
)
_SIZES = ("_count", "_length", "_count_kv")


def check_header(path: Path, opened: Opener | None = None) -> GgufFile:
    """Read the head of a model or an adapter, and refuse what would end the process.

    Args:
        opened: see :func:`read_gguf`.

    Raises:
        ModelLoadError: the file or a part of it is missing, no GGUF, damaged or truncated; or it
            has a number or a tensor that llama.cpp would not survive, which is named.
    """
    file = read_gguf(path, opened)
    found = next(_nonsense(file), None)
    if found is not None:
        raise ModelLoadError(f"{path} is damaged, {found}: download or convert it again")
    return file


def _nonsense(file: GgufFile) -> Iterator[str]:
    """What can't be, in words."""
    for name, value in file.metadata.items():
        for number in value if isinstance(value, tuple) else (value,):
            if not _is_sane(name, number):
                yield f"{name[:80]} is {number:g}"
    for part, whole in (
        ("expert_used_count", "expert_count"),
        ("nextn_predict_layers", "block_count"),
    ):
        n_part, n_whole = (
            file.get(f"{file.architecture}.{name}", int) or 0 for name in (part, whole)
        )
        if n_part > n_whole:
            yield f"{part} is {n_part}, of {n_whole} in all"
    scaling = file.get(f"{file.architecture}.rope.scaling.type", str)
    if scaling and scaling not in _ROPE_SCALINGS:
        yield f"rope.scaling.type is {scaling[:40]!r}"
    for tensor in file.tensors:
        name, kind = tensor.name, tensor.type_id
        if (
            (_VECTOR.search(name) and kind not in _FLOATS)
            or (_MATRIX.search(name) and kind in _NO_WEIGHTS)
            or (name == "rope_freqs.weight" and kind != _F32)
        ):
            yield f"the tensor {name} is of type {kind} ({tensor.kind})"


def _is_sane(name: str, value: object) -> bool:
    if name.startswith("general."):  # told to people, not used by llama.cpp
        return True
    if isinstance(value, float):
        return not name.endswith("epsilon") or 0.0 <= value < math.inf
    if not isinstance(value, int) or isinstance(value, bool):
        return True
    if name.endswith(".block_count"):
        return 0 < value <= _MAX_LAYERS
    if name.endswith(".expert_count"):
        return value <= _MAX_EXPERTS
    return value < 2**31 or not name.endswith(_SIZES)  # beyond it, products of sizes wrap around
