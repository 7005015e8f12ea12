"""Qwen2ForCausalLM (Qwen 2 and 2.5) and Qwen3ForCausalLM."""

from __future__ import annotations

from collections.abc import Iterator

from ..config import Config
from ..errors import CheckpointError
from .base import Architecture, TensorPlan


class Qwen2(Architecture):
    """Qwen 2 and 2.5: biases on queries, keys and values."""

    name = "qwen2"
    default_context = 32_768

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        if config.flag("use_sliding_window"):
            self.notes.append(
                f"sliding windows are unknown to llama.cpp's {self.name}: attention is full"
            )

    def has_bias(self, target: str) -> bool:
        return target in ("attn_q", "attn_k", "attn_v")


class Qwen3(Qwen2):
    """Qwen 3: norms on queries and keys, no biases, a head width of its own."""

    name = "qwen3"
    default_head_dim = 128

    def has_bias(self, target: str) -> bool:
        if self.config.flag("attention_bias"):
            raise CheckpointError("config.json: llama.cpp's qwen3 has no attention biases")
        return False

    def norms(self) -> Iterator[tuple[str, TensorPlan]]:
        yield from super().norms()
        yield "self_attn.q_norm.weight", TensorPlan("attn_q_norm.weight", (self.head_dim,))
        yield "self_attn.k_norm.weight", TensorPlan("attn_k_norm.weight", (self.head_dim,))
