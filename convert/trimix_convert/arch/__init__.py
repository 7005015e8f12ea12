"""Hugging Face model classes and the converter of each; a family's file is imported when needed.

A new family is one file beside this one and one line in `ARCHITECTURES`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ..errors import UnknownArchitectureError

if TYPE_CHECKING:
    from ..config import Config
    from .base import Architecture

#: Model class in config.json -> module in this package and class in it.
ARCHITECTURES: dict[str, tuple[str, str]] = {
    "Gemma3ForCausalLM": ("gemma", "Gemma3"),
    "Gemma3ForConditionalGeneration": ("gemma", "Gemma3"),
    "LlamaForCausalLM": ("llama", "Llama"),
    "Qwen2ForCausalLM": ("qwen", "Qwen2"),
    "Qwen3ForCausalLM": ("qwen", "Qwen3"),
}


def architecture_for(config: Config) -> Architecture:
    """The converter for a checkpoint. Raises UnknownArchitectureError, CheckpointError."""
    if config.architecture is None:
        raise UnknownArchitectureError(
            "config.json names no model class under 'architectures': this is not a text model's"
        )
    if config.architecture not in ARCHITECTURES:
        raise UnknownArchitectureError(
            f"cannot convert {config.architecture[:80]!r}; known: "
            + ", ".join(sorted(ARCHITECTURES))
        )
    module, name = ARCHITECTURES[config.architecture]
    converter: type[Architecture] = getattr(import_module(f".{module}", __name__), name)
    return converter(config)
