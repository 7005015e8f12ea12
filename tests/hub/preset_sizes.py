"""What files of the presets' shapes weigh: llama.cpp's quantiser, run dry on files full of holes.

    python tests/hub/preset_sizes.py

prints the table ``[sizes]`` of presets.toml. Nothing is downloaded, and the files take no room:
all that llama.cpp looks at is their head.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter

from trimix_edge.llama.quantize import quantized_bytes
from trimix_edge.measure.synthetic import tensors

TYPES = ("Q2_K", "Q3_K_M", "Q4_0", "Q4_K_M", "Q5_0", "Q5_K_M", "Q6_K", "Q8_0", "F16")


def write_hollow(path: Path, name: str, shape: dict[str, Any]) -> Path:
    """A BF16 file of that shape whose tensors are a hole in the disk."""
    family = {"qwe": "qwen2", "gem": "gemma3", "lla": "llama"}[name[:3]]
    writer = GGUFWriter(path, family)
    writer.add_context_length(32768)
    writer.add_block_count(shape["n_layer"])
    writer.add_embedding_length(shape["n_embd"])
    writer.add_feed_forward_length(shape["n_ff"])
    writer.add_head_count(shape["n_head"])
    writer.add_head_count_kv(shape["n_head_kv"])
    writer.add_key_length(shape["head_dim"])
    writer.add_value_length(shape["head_dim"])
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(shape["n_vocab"])
    writer.add_sliding_window(1024)
    writer.add_tokenizer_model("no_vocab")
    n_bytes = 0
    for tensor, dims in tensors(name, shape):
        vector = len(dims) == 1
        kind = GGMLQuantizationType.F32 if vector else GGMLQuantizationType.BF16
        size = int(np.prod(dims)) * (4 if vector else 2)
        writer.add_tensor_info(tensor, dims, np.dtype(np.float32), size, raw_dtype=kind)
        n_bytes += -(-size // 32) * 32
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("r+b") as file:
        end = file.seek(0, 2)
        file.truncate(-(-end // 32) * 32 + n_bytes)
    return path


def main() -> None:
    from trimix_edge.hub.presets import presets_content

    shapes = presets_content()["shapes"]
    with tempfile.TemporaryDirectory() as folder:
        hollow = {n: write_hollow(Path(folder) / n, n, shape) for n, shape in shapes.items()}
        print("[sizes]")
        for quantization in TYPES:
            row = (
                f'"{n}" = {quantized_bytes(path, quantization) / 1e6:.0f}'
                for n, path in hollow.items()
            )
            print(f"{quantization} = {{ {', '.join(row)} }}")


if __name__ == "__main__":
    main()
