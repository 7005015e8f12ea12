"""What is put on the fake Hub: a shape that every quantisation divides, and a LoRA adapter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tiny_models import Shape

WIDE = Shape(hidden=256, layers=1, kv_heads=1, ffn=256)


def adapter(folder: Path, base: str, rank: int = 4) -> tuple[Path, dict[str, np.ndarray[Any, Any]]]:
    """A LoRA adapter for the queries and the feed-forward part, as PEFT saves it, and B @ A."""
    random = np.random.RandomState(5)
    folder.mkdir()
    config = {
        "peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "bias": "none",
        "target_modules": ["q_proj", "down_proj"], "base_model_name_or_path": base,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    tensors, deltas = {}, {}
    for module, n_in, n_out in (("self_attn.q_proj", 256, 256), ("mlp.down_proj", 256, 256)):
        a = random.randn(rank, n_in).astype(np.float32) / 16
        b = random.randn(n_out, rank).astype(np.float32) / 2
        name = f"model.layers.0.{module}"
        tensors[f"base_model.model.{name}.lora_A.weight"] = a
        tensors[f"base_model.model.{name}.lora_B.weight"] = b
        deltas[f"{name}.weight"] = 2 * b @ a
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder, deltas
