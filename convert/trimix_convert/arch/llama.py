"""LlamaForCausalLM: Llama 2 and 3 and everything shaped like them."""

from __future__ import annotations

from gguf import GGUFWriter

from ..checkpoint import ArrayTensor, Tensor
from .base import Architecture, InterleaveHalves, Transform


class Llama(Architecture):
    """Llama: queries and keys reordered, Llama 3's stretched rotary frequencies as a tensor."""

    name = "llama"

    def projection_transform(self, target: str) -> Transform | None:
        return InterleaveHalves(self.head_dim) if target in ("attn_q", "attn_k") else None

    def has_bias(self, target: str) -> bool:
        return super().has_bias(target) or (
            target.startswith("ffn_") and self.config.flag("mlp_bias")
        )

    def extra_tensors(self) -> list[Tensor]:
        if self.rope.kind != "llama3":
            return []
        return [ArrayTensor("rope_freqs.weight", self.rope.llama3_factors(self.head_dim))]

    def write_hyperparameters(self, writer: GGUFWriter) -> None:
        super().write_hyperparameters(writer)
        writer.add_vocab_size(self.n_vocab)
        writer.add_rope_dimension_count(self.head_dim)
