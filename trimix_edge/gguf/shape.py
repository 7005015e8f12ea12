"""The sizes that memory depends on: of a model, of its KV cache, of one decode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from trimix_edge.gguf.reader import GgufFile, LongArray

DEFAULT_N_CTX = 4096
"""Tokens of context where nothing is said and the model was trained on at least as many."""

MAX_ROWS = 32
"""Rows of logits that one decode may ask for. llama.cpp reserves memory for them: at Qwen2.5's
vocabulary of 152k, a row for each token of a batch of 512 would take 300 MB."""

MAX_READ_ROWS = 128
"""The same where known texts are read, each token of which needs a row: at 152k they take 78 MB in
llama.cpp's result, and as much while it computes. Batches of more tokens are hardly faster."""

_KV_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")


def _element_bytes(kind: str) -> float:
    block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[kind.upper()]]
    return float(block_bytes) / float(block)


KV_BYTES: Mapping[str, float] = {kind: _element_bytes(kind) for kind in _KV_TYPES}
"""Bytes of one element of a KV cache, by the cache's type."""


@dataclass(frozen=True)
class ModelShape:
    """The hyperparameters that memory and speed depend on, by llama.cpp's names.

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
                value = max(v if isinstance(v, int) else 0 for v in value)
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
        return int(n_ctx * self.kv_width * KV_BYTES[kv_type])


def n_tokens(file: GgufFile) -> int:
    """Tokens in a file's vocabulary, 0 where it has none."""
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, LongArray):
        return tokens.n_items
    return len(tokens) if isinstance(tokens, tuple) else 0
