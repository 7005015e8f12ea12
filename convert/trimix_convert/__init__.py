"""A Hugging Face checkpoint in, a GGUF file out: no PyTorch, no llama.cpp, little memory.

>>> from trimix_convert import convert_checkpoint
>>> report = convert_checkpoint("Qwen2.5-1.5B", "small_base.gguf", outtype="q8_0")
"""

from __future__ import annotations

from .errors import (
    CheckpointError,
    ConversionError,
    MissingDependencyError,
    TargetError,
    TokenizerError,
    UnknownArchitectureError,
)
from .lora import convert_adapter
from .pipeline import ConversionReport, convert_checkpoint

__all__ = [
    "CheckpointError",
    "ConversionError",
    "ConversionReport",
    "MissingDependencyError",
    "TargetError",
    "TokenizerError",
    "UnknownArchitectureError",
    "convert_adapter",
    "convert_checkpoint",
]
