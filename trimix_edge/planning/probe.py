"""Models of random weights that are as small as a measurement allows: a few layers of one type."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter

from trimix_edge.llama.quantize import quantize_rows

N_VOCAB = 64
"""Rows of the embedding and of the output layer, next to nothing."""

_HEAD = 128
_POOL_ROWS = 1 << 12
"""Rows of 256 random weights that are made; tensors repeat them."""


@dataclass(frozen=True)
class Probe:
    """The sizes of a model of llama.cpp's architecture ``llama``; heads are 128 wide, and four
    query heads share one of keys and values."""

    n_layer: int
    n_embd: int
    n_ff: int

    @property
    def n_weights(self) -> int:
        """Weights of all matrices in the layers."""
        kv = self.n_embd // 4
        return self.n_layer * self.n_embd * (2 * self.n_embd + 2 * kv + 3 * self.n_ff)

    def write(self, path: Path, kind: str) -> None:
        """Write the model, all matrices of the layers in one type, as ``Q4_K``."""
        embd, ff, kv = self.n_embd, self.n_ff, self.n_embd // 4
        type_ = GGMLQuantizationType[kind]
        rng = np.random.default_rng(0)
        values = rng.standard_normal((_POOL_ROWS, 256), np.float32) * np.float32(embd**-0.5)
        pool = quantize_rows(values, type_)
        writer = GGUFWriter(path, "llama")
        writer.add_context_length(4096)
        writer.add_block_count(self.n_layer)
        writer.add_embedding_length(embd)
        writer.add_feed_forward_length(ff)
        writer.add_head_count(embd // _HEAD)
        writer.add_head_count_kv(kv // _HEAD)
        writer.add_layer_norm_rms_eps(1e-6)
        writer.add_vocab_size(N_VOCAB)
        writer.add_tokenizer_model("none")
        writer.add_tensor("token_embd.weight", values[: N_VOCAB * embd // 256].reshape(-1, embd))
        writer.add_tensor("output_norm.weight", np.ones(embd, np.float32))
        matrices = {
            "attn_q": (embd, embd), "attn_k": (kv, embd), "attn_v": (kv, embd),
            "attn_output": (embd, embd), "ffn_gate": (ff, embd), "ffn_up": (ff, embd),
            "ffn_down": (embd, ff),
        }  # fmt: skip
        for i in range(self.n_layer):
            for name in ("attn_norm", "ffn_norm"):
                writer.add_tensor(f"blk.{i}.{name}.weight", np.ones(embd, np.float32))
            for name, (rows, columns) in matrices.items():
                data = _tensor(pool, type_, rows, columns)
                writer.add_tensor(f"blk.{i}.{name}.weight", data, raw_dtype=type_)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _tensor(
    pool: npt.NDArray[np.uint8], type_: GGMLQuantizationType, rows: int, columns: int
) -> npt.NDArray[np.uint8]:
    block, block_bytes = GGML_QUANT_SIZES[type_]
    return np.resize(pool, rows * columns // block * block_bytes).reshape(rows, -1)
