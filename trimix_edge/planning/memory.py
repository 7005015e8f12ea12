"""How much memory a model takes while it runs: weights, KV cache, and room to compute in."""

from __future__ import annotations

from dataclasses import dataclass

from trimix_edge.gguf import DEFAULT_N_CTX, MAX_ROWS, ModelShape

GPU_N_BATCH = 512
"""Tokens of a batch where there is a GPU; on a CPU the default is smaller."""


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes that a model takes at one length of context."""

    n_ctx: int
    weights: int
    kv_cache: int
    compute: int

    @property
    def total(self) -> int:
        return self.weights + self.kv_cache + self.compute

    @classmethod
    def of(
        cls,
        shape: ModelShape,
        weights: int,
        n_ctx: int = DEFAULT_N_CTX,
        kv_type: str = "f16",
        *,
        n_batch: int = GPU_N_BATCH,
    ) -> MemoryNeed:
        return cls(n_ctx, weights, shape.kv_bytes(n_ctx, kv_type), compute_bytes(shape, n_batch))


def compute_bytes(shape: ModelShape, n_batch: int = GPU_N_BATCH) -> int:
    """Bytes that llama.cpp reserves for intermediate results and logits, to a few percent.

    The graph is as wide as its feed-forward part, over one batch of tokens in float32, or as
    the rows of logits that one decode may ask for, which are then copied out.
    """
    activations = n_batch * (3 * shape.n_ff + 4 * shape.n_embd) * 4
    logits = MAX_ROWS * shape.n_vocab * 4
    return max(activations, logits) + logits
