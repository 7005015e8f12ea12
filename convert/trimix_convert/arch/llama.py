"""LlamaForCausalLM: Llama 2 and 3 and everything shaped like them."""

from __future__ import annotations

from gguf import GGUFWriter

from .base import Architecture, InterleaveHalves, Transform
from .rope import RopeSupport


class Llama(Architecture):
    """Llama: queries and keys reordered, stretched rotary frequencies as a tensor."""

    name = "llama"
    rope_support = RopeSupport(
        frozenset({"default", "linear", "dynamic", "llama3", "yarn"}), divisors=True
    )

    def projection_transform(self, target: str) -> Transform | None:
        return InterleaveHalves(self.head_dim) if target in ("attn_q", "attn_k") else None

    def has_bias(self, target: str) -> bool:
        return super().has_bias(target) or (
            target.startswith("ffn_") and self.config.flag("mlp_bias")
        )

    def write_hyperparameters(self, writer: GGUFWriter) -> None:
        super().write_hyperparameters(writer)
        writer.add_vocab_size(self.n_vocab)
        writer.add_rope_dimension_count(self.head_dim)
