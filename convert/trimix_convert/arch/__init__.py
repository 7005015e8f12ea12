"""Hugging Face model classes and the converter of each.

A new family is one file beside this one and one line in `ARCHITECTURES`.
"""

from __future__ import annotations

from ..config import Config
from ..errors import UnknownArchitectureError
from .base import Architecture
from .gemma import Gemma3
from .llama import Llama
from .qwen import Qwen2, Qwen3

#: Model class in config.json -> its converter.
ARCHITECTURES: dict[str, type[Architecture]] = {
    "Gemma3ForCausalLM": Gemma3,
    "Gemma3ForConditionalGeneration": Gemma3,
    "LlamaForCausalLM": Llama,
    "Qwen2ForCausalLM": Qwen2,
    "Qwen3ForCausalLM": Qwen3,
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
    return ARCHITECTURES[config.architecture](config)
