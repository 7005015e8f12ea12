"""Numbers from a checkpoint's type to a GGUF type, a block of rows at a time.

The results are those of llama.cpp's converter: bfloat16 rounds to nearest even, Q8_0 is gguf's
own quantiser.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType
from gguf.quants import quantize

Block = npt.NDArray[Any]

#: The outtypes a caller may ask for, with the file type that GGUF records for each.
FILE_TYPES: dict[str, LlamaFileType] = {
    "f32": LlamaFileType.ALL_F32,
    "f16": LlamaFileType.MOSTLY_F16,
    "bf16": LlamaFileType.MOSTLY_BF16,
    "q8_0": LlamaFileType.MOSTLY_Q8_0,
}
_TENSOR_TYPES = {
    "f32": GGMLQuantizationType.F32,
    "f16": GGMLQuantizationType.F16,
    "bf16": GGMLQuantizationType.BF16,
    "q8_0": GGMLQuantizationType.Q8_0,
}
_STORED_AS = {
    "F32": GGMLQuantizationType.F32,
    "F16": GGMLQuantizationType.F16,
    "BF16": GGMLQuantizationType.BF16,
}


def tensor_type(name: str, shape: Sequence[int], outtype: str) -> GGMLQuantizationType:
    """The GGUF type for a tensor: vectors and norms stay F32, llama.cpp computes with no other.

    A row that Q8_0's blocks of 32 do not divide becomes F16, as in llama.cpp's converter.
    """
    if len(shape) <= 1 or name.endswith("_norm.weight"):
        return GGMLQuantizationType.F32
    wanted = _TENSOR_TYPES[outtype]
    block, _ = GGML_QUANT_SIZES[wanted]
    return wanted if shape[-1] % block == 0 else GGMLQuantizationType.F16


def n_bytes(shape: Sequence[int], kind: GGMLQuantizationType) -> int:
    """The bytes that a tensor takes in a GGUF file, without padding."""
    block, block_bytes = GGML_QUANT_SIZES[kind]
    return int(math.prod(shape) // block * block_bytes)


def as_float32(block: Block, dtype: str) -> npt.NDArray[np.float32]:
    """The block as float32; bfloat16 comes as its bits in uint16 and is widened exactly."""
    if dtype == "BF16":
        wide: npt.NDArray[np.uint32] = block.astype(np.uint32)
        np.left_shift(wide, 16, out=wide)
        return wide.view(np.float32)
    return block.astype(np.float32, copy=False)


def encode(block: Block, dtype: str, kind: GGMLQuantizationType) -> Block:
    """The block in GGUF type `kind`, ready to be written; `dtype` is its safetensors type."""
    if _STORED_AS[dtype] == kind:
        return block
    values = as_float32(block, dtype)
    # Beyond F16's range is infinite, and the caller's affair; Q8_0 loses blocks of denormals.
    with np.errstate(over="ignore", invalid="ignore"):
        encoded: Block = quantize(values, kind)
    return encoded


def is_finite(block: Block, dtype: str) -> bool:
    """Whether no element is infinite or NaN."""
    if dtype == "BF16":
        # An exponent of all ones marks both; the maximum avoids a temporary of booleans.
        return bool((block & 0x7FFF).max(initial=0) < 0x7F80)
    return bool(np.isfinite(block).all())
