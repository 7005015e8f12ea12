"""Random-weight GGUF files with a vocabulary of Qwen2.5's size, for measuring what is around it."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

from trimix_edge.measure.synthetic import add_vocabulary

N_VOCAB = 151_936
_HIDDEN, _HEADS, _FEED_FORWARD, _LAYERS = 64, 1, 128, 1


def write_model(path: Path, seed: int) -> None:
    """A Llama of one narrow layer: the time of a step is then mostly that of its logits."""
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(1024)
    writer.add_embedding_length(_HIDDEN)
    writer.add_block_count(_LAYERS)
    writer.add_feed_forward_length(_FEED_FORWARD)
    writer.add_head_count(_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    add_vocabulary(writer, N_VOCAB)

    def add(name: str, *shape: int) -> None:
        writer.add_tensor(name, rng.standard_normal(shape, dtype=np.float32) * 0.1)

    add("token_embd.weight", N_VOCAB, _HIDDEN)
    add("output_norm.weight", _HIDDEN)
    for n in range(_LAYERS):
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"blk.{n}.{part}.weight", _HIDDEN, _HIDDEN)
        for part in ("attn_norm", "ffn_norm"):
            add(f"blk.{n}.{part}.weight", _HIDDEN)
        for part in ("ffn_gate", "ffn_up"):
            add(f"blk.{n}.{part}.weight", _FEED_FORWARD, _HIDDEN)
        add(f"blk.{n}.ffn_down.weight", _HIDDEN, _FEED_FORWARD)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
