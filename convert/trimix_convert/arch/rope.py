"""Rotary positions: config.json's ways of describing them, and GGUF's keys for them.

What llama.cpp reads is less than config.json can say. Each key of a scaling is therefore turned
into something, or has the value at which it changes nothing, or is an error: a key that nobody
reads would change a model's every answer a little.
"""

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
from .frequencies import llama3_divisors, yarn_divisors, yarn_range, yarn_scale

_ORIGINAL = "original_max_position_embeddings"
_NAMES = frozenset({"rope_theta", "rope_type", "type"})
_NO_SCALING = (("rope_type", "default"), ("type", "default"))
# Kinds of scaling, and the keys that each has a use for.
_KEYS: dict[str, frozenset[str]] = {
    "default": frozenset(),
    "linear": frozenset({"factor", _ORIGINAL}),
    "dynamic": frozenset({"factor"}),
    "llama3": frozenset({"factor", "low_freq_factor", "high_freq_factor", _ORIGINAL}),
    "yarn": frozenset(
        {"factor", "attention_factor", "mscale", "mscale_all_dim", "beta_fast", "beta_slow"}
        | {"truncate", _ORIGINAL}
    ),
}
# The values at which a key means nothing to a kind that has no use for it.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "factor": (1,),
    "attention_factor": (1,),
    "attn_factor": (1,),
    "extrapolation_factor": (1,),
    "mscale": (1,),
    "mscale_all_dim": (1,),
    "partial_rotary_factor": (1,),
    "beta_fast": (32,),
    "beta_slow": (1,),
    "truncate": (True,),
    "finetuned": (True, False),  # says how the model came about
}


@dataclass(frozen=True)
class RopeSupport:
    """What llama.cpp computes for an architecture.

    `kinds` are the scalings that it has a way for, `divisors` whether it reads a divisor for each
    frequency (`rope_freqs.weight`), `local` whether sliding-window layers have their own base.
    """

    kinds: frozenset[str] = frozenset({"default", "linear", "dynamic", "yarn"})
    divisors: bool = False
    local: bool = False


@dataclass(frozen=True)
class Rope:
    """Rotary embedding of (global) attention layers, in llama.cpp's terms.

    `divisors`, float32 `[head_dim / 2]`, divide the frequencies. `attn_factor` multiplies what
    llama.cpp scales rotated queries and keys by of its own accord. `local_theta` is the base in
    sliding-window layers, where config.json names one.
    """

    theta: float
    scaling: RopeScalingType | None = None
    factor: float = 1.0
    original_context: int | None = None
    attn_factor: float = 1.0
    divisors: npt.NDArray[np.float32] | None = None
    local_theta: float | None = None
    notes: list[str] = field(default_factory=list)

    def write(self, writer: GGUFWriter) -> None:
        """Add the `<arch>.rope.*` keys to the writer."""
        writer.add_rope_freq_base(self.theta)
        if self.local_theta is not None:
            writer.add_rope_freq_base_swa(self.local_theta)
        if self.scaling is not None:
            writer.add_rope_scaling_type(self.scaling)
            writer.add_rope_scaling_factor(self.factor)
        if self.original_context is not None:
            writer.add_rope_scaling_orig_ctx_len(self.original_context)
        if self.attn_factor != 1:
            writer.add_rope_scaling_attn_factors(self.attn_factor)


def read_rope(
    config: Config, default_theta: float, context: int, head_dim: int, support: RopeSupport
) -> Rope:
    """The rotary parameters of a checkpoint.

    Raises CheckpointError for what contradicts itself and for what llama.cpp would not compute.
    """
    reader = _Reader(config, context, head_dim, support)
    return reader.read(default_theta)


class _Reader:
    """config.json's parameters, one kind of scaling after the other."""

    def __init__(self, config: Config, context: int, head_dim: int, support: RopeSupport) -> None:
        self.config = config
        self.context = context
        self.head_dim = head_dim
        self.support = support
        self.scaling, self.sliding = _parameters(config)

    def read(self, default_theta: float) -> Rope:
        theta = self._theta(self.scaling, self.config.number("rope_theta", default_theta))
        kind = self._kind(self.scaling)
        self._refuse_contradiction(theta, kind)
        if kind not in self.support.kinds or kind not in _KEYS:
            raise CheckpointError(
                f"config.json: llama.cpp has no rope scaling {kind[:40]!r} for this architecture"
            )
        self._refuse_unread(kind)
        local = self._local_theta(theta)
        if kind == "linear":
            return Rope(
                theta,
                RopeScalingType.LINEAR,
                self._positive("factor"),
                self._original() if self._has(_ORIGINAL) else None,
                local_theta=local,
            )
        if kind == "llama3":
            return self._llama3(theta, local)
        if kind == "yarn":
            return self._yarn(theta, local)
        notes = []
        if kind == "dynamic":
            notes = ["rope scaling 'dynamic' left out: it acts beyond the trained context only"]
        return Rope(theta, local_theta=local, notes=notes)

    def _kind(self, scaling: Mapping[str, Any]) -> str:
        """The kind of a scaling; "type" is the older name of "rope_type"."""
        names = {str(scaling[key]) for key in ("rope_type", "type") if scaling.get(key)}
        if len(names) > 1:
            raise CheckpointError(
                f"config.json: 'rope_type' and 'type' differ: {' and '.join(sorted(names)):.80}"
            )
        return names.pop() if names else "default"

    def _refuse_contradiction(self, theta: float, kind: str) -> None:
        """Raises CheckpointError where `rope_parameters` says other things than `rope_scaling`."""
        newer = self.config.mapping("rope_parameters")
        taken = {**self.scaling, "rope_theta": theta, "rope_type": kind, "type": kind}
        for key, value in newer.items():
            if value is None or isinstance(value, dict) or (key, value) in _NO_SCALING:
                continue
            if taken.get(key) != value:
                raise CheckpointError(
                    f"config.json: 'rope_scaling' and 'rope_parameters' differ about {key[:40]!r}: "
                    "keep the right one"
                )

    def _theta(self, scaling: Mapping[str, Any], default: float) -> float:
        theta = self.config.number_in(scaling, "rope_theta", default)
        if theta < 1e-30:  # float32 has no smaller numbers to compute with
            raise CheckpointError(f"config.json: a rope_theta of {theta} cannot be")
        return theta

    def _local_theta(self, theta: float) -> float | None:
        """The base in sliding-window layers; they have no scaling of their own in llama.cpp."""
        given = self.config.get("rope_local_base_freq")
        local = None if given is None else self._theta({"rope_theta": given}, theta)
        if self.sliding:
            if self._kind(self.sliding) != "default":
                raise CheckpointError(
                    "config.json: llama.cpp has no rope scaling in sliding-window layers"
                )
            self._refuse_unread("default", self.sliding)
            if self.sliding.get("rope_theta") is not None:
                local = self._theta(self.sliding, theta)
        if self.support.local or local == theta:
            return local if self.support.local else None
        if local is not None:
            raise CheckpointError(
                f"config.json: a rope_theta of {local:g} for some layers and {theta:g} for others "
                "is unknown to llama.cpp for this architecture"
            )
        return None

    def _refuse_unread(self, kind: str, scaling: Mapping[str, Any] | None = None) -> None:
        """Raises CheckpointError for a key that would be ignored and is not without meaning."""
        scaling = self.scaling if scaling is None else scaling
        neutral = {**_NEUTRAL, _ORIGINAL: (self.context,)}
        everywhere = {"partial_rotary_factor": self.config.get("partial_rotary_factor")}
        for key, value in {**everywhere, **scaling}.items():
            if key in _NAMES or key in _KEYS[kind] or value is None:
                continue
            if not any(
                value == allowed and isinstance(value, bool) == isinstance(allowed, bool)
                for allowed in neutral.get(key, ())
            ):
                raise CheckpointError(
                    f"config.json: {key[:40]!r} of {str(value)[:40]} in a rope scaling of type "
                    f"{kind!r} has no meaning in llama.cpp: remove it if the model was trained "
                    "without it"
                )

    def _llama3(self, theta: float, local: float | None) -> Rope:
        factor, low, high = map(self._positive, ("factor", "low_freq_factor", "high_freq_factor"))
        if not low < high:
            raise CheckpointError("config.json: the llama3 rope scaling contradicts itself")
        divisors = llama3_divisors(self.head_dim, theta, factor, low, high, self._original())
        return Rope(theta, divisors=divisors, local_theta=local)

    def _yarn(self, theta: float, local: float | None) -> Rope:
        """YaRN: high frequencies stay, low ones are divided by `factor`, a ramp lies between.

        llama.cpp reads the factor and the original context, and fixes where the ramp lies (32
        rotations and 1) and its ends to whole numbers. Another ramp is written as divisors. Of
        its own accord it scales by `1 + 0.1 ln(factor)`; any other scale becomes attn_factor.
        """
        original = self._original()
        if "factor" in self.scaling and self.scaling["factor"] is None:
            factor = self.context / original
        else:
            factor = self._positive("factor")
        fast = self._positive("beta_fast", 32) if self.scaling.get("beta_fast") != 0 else 32.0
        slow = self._positive("beta_slow", 1) if self.scaling.get("beta_slow") != 0 else 1.0
        truncate = self.scaling.get("truncate")
        if truncate is not None and not isinstance(truncate, bool):
            raise self.config.error("truncate", truncate, "true or false")
        attention = self._yarn_attention(factor)
        if theta <= 1 or min(fast, slow, factor) < 1e-6:
            raise CheckpointError("config.json: the yarn rope scaling contradicts itself")
        low, high = yarn_range(self.head_dim, theta, original, fast, slow, truncate is not False)
        own = (fast, slow) == (32, 1) and truncate is not False
        if own and low <= high:
            return Rope(
                theta,
                RopeScalingType.YARN,
                factor,
                original,
                attention / yarn_scale(factor),
                local_theta=local,
            )
        if not self.support.divisors:
            raise CheckpointError(
                f"config.json: yarn with 'beta_fast' {fast:g}, 'beta_slow' {slow:g}, 'truncate' "
                f"{truncate is not False} and original context {original} is unknown to llama.cpp "
                "for this architecture: it computes 32, 1 and True"
            )
        divisors = yarn_divisors(self.head_dim, factor, low, high)
        return Rope(theta, attn_factor=attention, divisors=divisors, local_theta=local)

    def _yarn_attention(self, factor: float) -> float:
        """What rotated queries and keys are scaled by, as transformers computes it."""
        given = self._positive("attention_factor") if self._has("attention_factor") else None
        pair = [self.config.number_in(self.scaling, key, 0) for key in ("mscale", "mscale_all_dim")]
        computed = yarn_scale(factor)
        if all(pair):
            over, under = (yarn_scale(factor, weight) for weight in pair)
            if over <= 0 or under <= 0:
                raise CheckpointError("config.json: the yarn rope scaling contradicts itself")
            computed = over / under
        elif any(weight not in (0, 1) for weight in pair):
            raise CheckpointError(
                "config.json: of 'mscale' and 'mscale_all_dim' only one is set, which has no "
                "meaning in a yarn rope scaling: set both, or 'attention_factor'"
            )
        if given is not None and all(pair) and not math.isclose(given, computed, rel_tol=1e-3):
            raise CheckpointError(
                f"config.json: 'attention_factor' {given:g} contradicts 'mscale' and "
                f"'mscale_all_dim', which make {computed:g}: remove what is wrong"
            )
        return computed if given is None else given

    def _original(self) -> int:
        """The context of the pre-training; beside the scaling it counts more than within."""
        beside = self.config.get(_ORIGINAL)
        value = beside if beside is not None else self.scaling.get(_ORIGINAL, self.context)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 1 << 31:
            raise self.config.error(_ORIGINAL, value, "a positive whole number")
        return value

    def _has(self, key: str) -> bool:
        return self.scaling.get(key) is not None

    def _positive(self, key: str, default: float | None = None) -> float:
        value = self.config.number_in(self.scaling, key, default)
        if value <= 0:
            raise self.config.error(key, value, "a number above zero")
        return value


def _parameters(config: Config) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters of global layers, and those of sliding-window layers where they are named.

    Older configurations keep them under `rope_scaling`, newer ones under `rope_parameters`,
    perhaps by kind of layer. As in transformers, `rope_scaling` counts where both are there.
    """
    newer, older = config.mapping("rope_parameters"), config.mapping("rope_scaling")
    kinds = ("full_attention", "sliding_attention")
    if not any(kind in newer for kind in kinds):
        return older or newer, {}
    for kind in kinds:
        if newer.get(kind) is not None and not isinstance(newer[kind], dict):
            raise config.error(kind, newer[kind], "an object")
    beside = {key: value for key, value in newer.items() if key not in kinds}
    full, sliding = (newer.get(kind) or {} for kind in kinds)
    return {**beside, **full, **older}, sliding
