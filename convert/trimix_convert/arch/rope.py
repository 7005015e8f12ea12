"""Rotary positions: the ways config.json has of describing them, and GGUF's keys for them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGUFWriter, RopeScalingType

from ..config import Config
from ..errors import CheckpointError


@dataclass(frozen=True)
class Rope:
    """Base frequency and scaling of the rotary embedding of (global) attention layers.

    `scaling` holds config.json's own parameters; `local_theta` is the base in sliding-window
    layers, where those differ.
    """

    theta: float
    kind: str
    scaling: Mapping[str, Any]
    config: Config
    context: int
    local_theta: float | None = None
    notes: list[str] = field(default_factory=list)

    def write(self, writer: GGUFWriter) -> None:
        """Add the `<arch>.rope.*` keys. Raises CheckpointError for incomplete scaling."""
        writer.add_rope_freq_base(self.theta)
        if self.local_theta is not None:
            writer.add_rope_freq_base_swa(self.local_theta)
        if self.kind == "linear":
            writer.add_rope_scaling_type(RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(self._parameter("factor"))
        elif self.kind == "yarn":
            writer.add_rope_scaling_type(RopeScalingType.YARN)
            writer.add_rope_scaling_factor(self._parameter("factor"))
            original = self._parameter("original_max_position_embeddings", self.context)
            writer.add_rope_scaling_orig_ctx_len(int(original))
            for key, add in (
                ("attention_factor", writer.add_rope_scaling_yarn_attn_factor),
                ("beta_fast", writer.add_rope_scaling_yarn_beta_fast),
                ("beta_slow", writer.add_rope_scaling_yarn_beta_slow),
            ):
                if self.scaling.get(key) is not None:
                    add(self._parameter(key))

    def llama3_factors(self, head_dim: int) -> npt.NDArray[np.float32]:
        """Divisors of the rotary frequencies, float32 `[head_dim / 2]` (Llama 3.1's scaling).

        Wavelengths up to `context / high_freq_factor` keep their frequency, those from
        `context / low_freq_factor` on are stretched by `factor`, between them it blends;
        `context` is that of the pre-training.
        """
        factor = self._parameter("factor", 8.0)
        low = self._parameter("low_freq_factor", 1.0)
        high = self._parameter("high_freq_factor", 4.0)
        context = self._parameter("original_max_position_embeddings", 8192)
        if not 0 < low < high or factor <= 0 or context <= 0:
            raise CheckpointError("config.json: the llama3 rope scaling contradicts itself")
        exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
        frequencies = np.float32(1) / np.power(np.float32(self.theta), exponents)
        factors = np.ones(frequencies.shape, np.float32)
        for i, frequency in enumerate(frequencies.tolist()):
            wavelength = 2 * math.pi / frequency
            if wavelength > context / low:
                factors[i] = factor
            elif wavelength >= context / high:
                smooth = (context / wavelength - low) / (high - low)
                factors[i] = 1 / ((1 - smooth) / factor + smooth)
        return factors

    def _parameter(self, key: str, default: float | None = None) -> float:
        return self.config.number_in(self.scaling, key, default)


def read_rope(config: Config, default_theta: float, context: int) -> Rope:
    """The rotary parameters of a checkpoint. Raises CheckpointError.

    Older configurations keep them under `rope_theta` and `rope_scaling`, newer ones under
    `rope_parameters`, there perhaps by kind of layer.
    """
    by_layer = config.mapping("rope_parameters")
    scaling = by_layer or config.mapping("rope_scaling")
    local = config.get("rope_local_base_freq")
    if isinstance(by_layer.get("full_attention"), dict):
        scaling = by_layer["full_attention"]
        sliding = by_layer.get("sliding_attention")
        local = sliding.get("rope_theta", local) if isinstance(sliding, dict) else local
    theta = config.number_in(scaling, "rope_theta", config.number("rope_theta", default_theta))
    if theta <= 0:
        raise CheckpointError(f"config.json: a rope_theta of {theta} cannot be")
    kind = str(scaling.get("rope_type") or scaling.get("type") or "default")
    if kind not in ("default", "linear", "yarn", "llama3", "dynamic"):
        raise CheckpointError(f"config.json: llama.cpp has no rope scaling {kind[:40]!r}")
    return Rope(
        theta=theta,
        kind=kind,
        scaling=scaling,
        config=config,
        context=context,
        local_theta=None if local is None else config.number_in({"local": local}, "local"),
        notes=["rope scaling 'dynamic' left out: it acts beyond the trained context only"]
        if kind == "dynamic"
        else [],
    )
