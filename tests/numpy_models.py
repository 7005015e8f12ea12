"""Llama and Qwen 2 in plain NumPy: what a checkpoint computes, rotary scaling included.

An oracle for converted files, written after the published definitions: RMS norm, rotary
positions by halves, grouped attention, SwiGLU. Everything is float64.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from trimix_convert.checkpoint import open_tensors
from trimix_convert.encode import as_float32

Array = npt.NDArray[np.float64]


def logits(folder: Path, ids: npt.NDArray[Any], frequencies: Array, scale: float = 1.0) -> Array:
    """Logits after every token, `[n_tokens, n_vocab]`, of a Llama or Qwen 2 checkpoint.

    `frequencies`, `[head_dim / 2]` in radians a position, turn queries and keys, which are then
    multiplied by `scale`.
    """
    config = json.loads((folder / "config.json").read_text())
    weights: dict[str, Array] = {
        name: as_float32(tensor.rows(0, tensor.shape[0]), tensor.dtype).astype(np.float64)
        for name, tensor in open_tensors(folder).items()
    }
    n_heads, n_kv = config["num_attention_heads"], config["num_key_value_heads"]
    n = len(ids)
    angles = np.outer(np.arange(n), frequencies)
    cos, sin = (np.tile(scale * turn(angles), 2)[:, None, :] for turn in (np.cos, np.sin))
    hidden = np.tril(np.ones((n, n), bool))

    def norm(x: Array, name: str) -> Array:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + config["rms_norm_eps"]) * weights[name]

    def linear(x: Array, name: str) -> Array:
        return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0.0)

    def rotated(x: Array) -> Array:
        first, second = np.split(x, 2, axis=-1)
        return x * cos + np.concatenate([-second, first], axis=-1) * sin

    x = weights["model.embed_tokens.weight"][ids]
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        h = norm(x, f"{layer}.input_layernorm.weight")
        q, k, v = (
            linear(h, f"{layer}.self_attn.{name}_proj").reshape(n, heads, -1)
            for name, heads in (("q", n_heads), ("k", n_kv), ("v", n_kv))
        )
        q, k = rotated(q), rotated(k)
        k, v = (np.repeat(each, n_heads // n_kv, axis=1) for each in (k, v))
        scores = np.einsum("qhd,khd->hqk", q, k) / math.sqrt(q.shape[-1])
        scores = np.where(hidden, scores, -np.inf)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        attended = np.einsum("hqk,khd->qhd", shares, v).reshape(n, -1)
        x = x + linear(attended, f"{layer}.self_attn.o_proj")
        h = norm(x, f"{layer}.post_attention_layernorm.weight")
        gate = linear(h, f"{layer}.mlp.gate_proj")
        gate = gate / (1 + np.exp(-gate)) * linear(h, f"{layer}.mlp.up_proj")
        x = x + linear(gate, f"{layer}.mlp.down_proj")
    head = weights.get("lm_head.weight", weights["model.embed_tokens.weight"])
    return norm(x, "model.norm.weight") @ head.T


def plain_frequencies(head_dim: int, theta: float) -> Array:
    """The frequencies without any scaling."""
    return theta ** (-np.arange(0, head_dim, 2) / head_dim)


def yarn(head_dim: int, rope: dict[str, Any]) -> tuple[Array, float]:
    """Frequencies and scale of YaRN (arXiv 2309.00071), its settings named as in config.json."""
    theta, factor = rope["rope_theta"], rope["factor"]
    fast, slow = rope.get("beta_fast", 32), rope.get("beta_slow", 1)

    def dimension(turns: float) -> float:
        """The dimension that turns so often within the original context."""
        context = rope["original_max_position_embeddings"]
        return head_dim * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = dimension(fast), dimension(slow)
    if rope.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    if low == high:
        high += 0.001
    kept = 1 - np.clip((np.arange(head_dim // 2) - low) / (high - low), 0, 1)
    frequencies = plain_frequencies(head_dim, theta)
    frequencies = frequencies / factor * (1 - kept) + frequencies * kept

    def scale(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1 if factor > 1 else 1.0

    if rope.get("attention_factor") is not None:
        return frequencies, rope["attention_factor"]
    if rope.get("mscale") and rope.get("mscale_all_dim"):
        return frequencies, scale(rope["mscale"]) / scale(rope["mscale_all_dim"])
    return frequencies, scale(1)
