"""How much memory a model takes while it runs: weights, KV cache, and room to compute in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from trimix_edge.gguf.reader import GgufFile, LongArray

DEFAULT_N_CTX = 4096
_N_BATCH = 512  # on a GPU; on a CPU the default is smaller
_N_ROWS = 32


@dataclass(frozen=True)
class ModelShape:
    """The hyperparameters that memory depends on, by llama.cpp's names.

    Attributes:
        kv_width: elements of keys and values together that one token takes, in all layers.
    """

    n_layer: int
    n_embd: int
    n_ff: int
    n_head: int
    kv_width: int
    n_vocab: int

    @classmethod
    def of(cls, file: GgufFile) -> ModelShape | None:
        """The shape of a model file; None where it leaves too much unsaid (an adapter, say)."""

        def size(key: str) -> int:
            """A number of the metadata; of one for each layer the largest."""
            value: Any = file.metadata.get(f"{file.architecture}.{key}")
            if isinstance(value, tuple) and value:
                value = max(value)
            return value if isinstance(value, int) and 0 < value < 1 << 31 else 0

        n_layer, n_embd = size("block_count"), size("embedding_length")
        n_head = size("attention.head_count")
        if not (n_layer and n_embd and n_head):
            return None
        n_head_kv = size("attention.head_count_kv") or n_head
        key = size("attention.key_length") or n_embd // n_head
        value = size("attention.value_length") or n_embd // n_head
        return cls(
            n_layer=n_layer,
            n_embd=n_embd,
            n_ff=size("feed_forward_length"),
            n_head=n_head,
            kv_width=n_layer * n_head_kv * (key + value),
            n_vocab=n_tokens(file),
        )

    def kv_bytes(self, n_ctx: int, kv_type: str = "f16") -> int:
        """Bytes of a KV cache of ``n_ctx`` tokens; sliding windows are cached in full here."""
        block: int
        block_bytes: int
        block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[kv_type.upper()]]
        return n_ctx * self.kv_width * block_bytes // block

    @property
    def compute_bytes(self) -> int:
        """Bytes that llama.cpp reserves for intermediate results and logits, to a few percent.

        The graph is as wide as its feed-forward part, over one batch of tokens in float32, or as
        the rows of logits that one decode may ask for, which are then copied out.
        """
        activations = _N_BATCH * (3 * self.n_ff + 4 * self.n_embd) * 4
        logits = _N_ROWS * self.n_vocab * 4
        return max(activations, logits) + logits


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
        cls, shape: ModelShape, weights: int, n_ctx: int = DEFAULT_N_CTX, kv_type: str = "f16"
    ) -> MemoryNeed:
        return cls(n_ctx, weights, shape.kv_bytes(n_ctx, kv_type), shape.compute_bytes)


def n_tokens(file: GgufFile) -> int:
    """Tokens in a file's vocabulary, 0 where it has none."""
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, LongArray):
        return tokens.n_items
    return len(tokens) if isinstance(tokens, tuple) else 0
