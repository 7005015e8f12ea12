"""What a user can set: frozen dataclasses that cannot hold a value without meaning."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar

from trimix_edge.errors import UsageError

NO_WEIGHT = 1e-9
"""A weight this close to 0 counts as 0: the role contributes nothing and is not run."""

_MAX_WEIGHT = 1e6
_MAX_BIAS = 1e6
"""Beyond this, sums of logits leave float32."""


class Role(str, Enum):
    """The three models of a trio (paper, section 3), named as in manifests and on flags."""

    LARGE_INS = "large_ins"
    SMALL_CPT = "small_cpt"
    SMALL_BASE = "small_base"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter, a GGUF file, that makes a role out of the weights of another one."""

    base: Role
    path: Path


@dataclass(frozen=True)
class FusionWeights:
    """The weights of the three models' logits, which add up to 1 by construction.

    ``L = large_ins·L_large_ins + small_cpt·L_small_cpt + small_base·L_small_base`` (paper, section
    3), with ``small_base = 1 - large_ins - small_cpt``, which is often negative.
    """

    large_ins: float
    small_cpt: float

    PROXY_TUNING: ClassVar[FusionWeights]

    def __post_init__(self) -> None:
        if not (abs(self.large_ins) < _MAX_WEIGHT and abs(self.small_cpt) < _MAX_WEIGHT):
            raise UsageError(f"weights must be numbers of a sensible size, not {self}")

    @property
    def small_base(self) -> float:
        rest = 1.0 - self.large_ins - self.small_cpt
        return 0.0 if abs(rest) <= NO_WEIGHT else rest

    def of(self, role: Role) -> float:
        """The weight of a role; exactly 0.0 where it is within 1e-9 of 0."""
        weight: float = getattr(self, role.value)
        return 0.0 if abs(weight) <= NO_WEIGHT else weight

    @property
    def roles(self) -> tuple[Role, ...]:
        """The roles with a weight other than 0."""
        return tuple(role for role in Role if self.of(role) != 0.0)

    @classmethod
    def single(cls, role: Role) -> FusionWeights:
        """All the weight on one model."""
        return cls(float(role is Role.LARGE_INS), float(role is Role.SMALL_CPT))

    def __str__(self) -> str:
        return f"({self.large_ins:g}, {self.small_cpt:g}, {self.small_base:g})"


FusionWeights.PROXY_TUNING = FusionWeights(1.0, 1.0)


RULE_NAMES = "trimix, proxy, average, saf, saf:HOST, single:ROLE"


@dataclass(frozen=True)
class RuleChoice:
    """Which fusion rule, by name.

    Attributes:
        name: ``trimix``, ``proxy`` (Proxy Tuning), ``average`` (of large_ins and small_cpt),
            ``saf`` (SAF-W) or ``single``.
        role: the model of ``single``, or the host of ``saf``: ``large_ins``, or ``small_cpt``, the
            default. The host proposes, the scorer endorses; ``small_cpt`` was the better host of
            the embedded trio, and ``fit --rule saf`` finds the better one on a text.
    """

    name: str = "trimix"
    role: Role | None = None

    def __post_init__(self) -> None:
        if self.name == "saf" and self.role is None:
            object.__setattr__(self, "role", Role.SMALL_CPT)
        if self.name not in ("trimix", "proxy", "average", "saf", "single"):
            raise UsageError(f"rule: {self.name!r} is not one of {RULE_NAMES}")
        if self.name != "saf" and (self.name == "single") != (self.role is not None):
            raise UsageError(f"rule: {self.name} has {self.role or 'no role'}: {RULE_NAMES}")
        if self.name == "saf" and self.role is Role.SMALL_BASE:
            raise UsageError("rule: the host of saf is large_ins or small_cpt")

    @property
    def weights(self) -> FusionWeights | None:
        """The weights that the rule stands for; None where it has a say in them."""
        if self.name == "proxy":
            return FusionWeights.PROXY_TUNING
        if self.name == "average":
            return FusionWeights(0.5, 0.5)
        return FusionWeights.single(self.role) if self.name == "single" and self.role else None

    def refuse_weights(self) -> None:
        """Raise UsageError unless weights may be given beside the rule."""
        if self.name != "trimix":
            raise UsageError(f"rule {self} sets its weights itself: give no weights beside it")

    def __str__(self) -> str:
        return f"{self.name}:{self.role}" if self.role else self.name


@dataclass(frozen=True)
class Plausibility:
    """The plausibility constraint: only tokens that ``role`` finds likely enough may be chosen.

    A token stays where ``L_role[v] >= log(alpha) + max(L_role)``, with ``alpha`` in (0, 1].
    """

    role: Role
    alpha: float

    def __post_init__(self) -> None:
        if not 0.0 < self.alpha <= 1.0:
            raise UsageError(f"plausibility: alpha is {self.alpha:g}, it must be in (0, 1]")

    def __str__(self) -> str:
        return f"{self.role}:{self.alpha:g}"


@dataclass(frozen=True)
class SamplingParams:
    """llama.cpp's samplers over the fused logits; names and meanings are llama.cpp's.

    A ``temperature`` of 0 takes the likeliest token after penalties and grammar. The neutral value
    of each field switches its sampler off. ``seed`` ``None`` draws one.
    """

    def __new__(cls, *args: object, **named: object) -> Any:
        self = super().__new__(cls)
        own = {*named, *(f.name for f in fields(cls)[: len(args)])}
        object.__setattr__(self, "named", frozenset(own))  # a default that was named counts too
        return self

    temperature: float = 0.0
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    top_n_sigma: float = -1.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    grammar: str | None = None
    seed: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)

    _RANGES: ClassVar[Mapping[str, tuple[float, float]]] = {
        "temperature": (0.0, 100.0),
        "top_k": (0, 2**31 - 1),
        "top_p": (0.0, 1.0),
        "min_p": (0.0, 1.0),
        "typical_p": (0.0, 1.0),
        "top_n_sigma": (-1.0, 1e6),
        "xtc_probability": (0.0, 1.0),
        "xtc_threshold": (0.0, 1.0),
        "repeat_penalty": (1e-3, 100.0),
        "repeat_last_n": (-1, 2**31 - 1),
        "frequency_penalty": (-100.0, 100.0),
        "presence_penalty": (-100.0, 100.0),
        "dry_multiplier": (0.0, 100.0),
        "dry_base": (1.0, 100.0),
        "dry_allowed_length": (0, 2**31 - 1),
        "dry_penalty_last_n": (-1, 2**31 - 1),
        "mirostat": (0, 2),
        "mirostat_tau": (0.0, 100.0),
        "mirostat_eta": (0.0, 100.0),
        "seed": (0, 2**32 - 2),  # llama.cpp takes the last one for "draw one"
    }

    def __post_init__(self) -> None:
        for name, (low, high) in self._RANGES.items():
            value = getattr(self, name)
            is_whole = name == "seed" or isinstance(getattr(type(self), name), int)
            if value is None and name == "seed":
                continue
            if isinstance(value, bool) or not isinstance(value, int if is_whole else (int, float)):
                raise UsageError(f"{name} is {value!r}, it must be a number")
            if not low <= value <= high:
                raise UsageError(f"{name} is {value}, it must be from {low:.10g} to {high:.10g}")
        for token, bias in self.logit_bias.items():
            is_number = bias == -math.inf or abs(bias) <= _MAX_BIAS
            if not isinstance(token, int) or token < 0 or not is_number:
                raise UsageError(
                    f"logit_bias: {token!r}: {bias!r} is not a token id and a number from "
                    f"{-_MAX_BIAS:.0f} to {_MAX_BIAS:.0f}, or -inf"
                )

    @property
    def is_bare_argmax(self) -> bool:
        """Whether no sampler could change the argmax of the fused logits."""
        return (
            self.temperature == 0.0
            and self.mirostat == 0
            and self.grammar is None
            and self.dry_multiplier == 0.0
            and not self.logit_bias
            and (
                self.repeat_last_n == 0
                or (self.repeat_penalty, self.frequency_penalty, self.presence_penalty) == (1, 0, 0)
            )
        )


MAX_DRAFT = 31
"""A batch of drafted tokens, and the token before them, has a row of logits for each."""


@dataclass(frozen=True)
class Draft:
    """How many tokens are drafted and then verified in one batch.

    Attributes:
        n_tokens: None for the number that turns out to be the fastest here, 0 for none.
        p_min: ``small_cpt`` stops drafting where its likeliest token is less probable.
        ngrams: look the end of the text up in the text before, and draft what followed there.
    """

    n_tokens: int | None = None
    p_min: float = 0.5
    ngrams: bool = True

    def __post_init__(self) -> None:
        if not 0.0 <= self.p_min <= 1.0:
            raise UsageError(f"draft p_min is {self.p_min:g}, it must be from 0 to 1")
        if self.n_tokens is not None and not 0 <= self.n_tokens <= MAX_DRAFT:
            raise UsageError(
                f"draft is {self.n_tokens}, it must be from 0 to {MAX_DRAFT}, auto or off"
            )

    def __str__(self) -> str:
        return "auto" if self.n_tokens is None else str(self.n_tokens or "off")


MAX_PARALLEL = 64
"""Sequences at once: each may ask for a row of logits in the same batch."""

KV_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")


@dataclass(frozen=True)
class ContextParams:
    """How the three llama.cpp contexts are made.

    Attributes:
        n_ctx: tokens a sequence may hold; 0 for what the models were trained on, at most 4,096.
        n_parallel: sequences that may run at once; each has room for ``n_ctx`` tokens.
        n_batch: tokens of a prompt that are evaluated at once; 0 for 512 on a GPU, 128 on a CPU,
            where more are hardly faster and progress would be slow to show.
        n_threads: CPU threads; 0 for one a physical core, and fewer while other programs keep the
            cores busy.
        gpu_layers: layers a role puts on a GPU; -1, the default of a role, for all of them.
        kv_type: type of the KV cache's elements, one of :data:`KV_TYPES`.
        repeatable: a generation depends on its prompt, the settings and the machine alone: one runs
            at a time, each reads its whole prompt in batches of ``n_batch``, nothing is drafted,
            and the number of threads is fixed. Otherwise llama.cpp may round the same token
            differently, as it has other kernels for other sizes of a batch.
        reads: the work is to read much and to generate little, as scoring does: a batch may give a
            row of logits for each of its tokens, up to 128, and weights get the layout that
            llama.cpp reads fastest with, which may generate more slowly.
        rpc: servers, ``HOST:PORT``, that compute the layers of a role which ``gpu_layers`` counts.
        rpc_split: the share of each server; by its free memory if empty.
        rpc_output: the output layer is computed there too.
    """

    n_ctx: int = 0
    n_batch: int = 0
    n_threads: int = 0
    gpu_layers: Mapping[Role, int] = field(default_factory=dict)
    kv_type: str = "f16"
    n_parallel: int = 1
    repeatable: bool = False
    reads: bool = False
    rpc: Mapping[Role, tuple[str, ...]] = field(default_factory=dict)
    rpc_split: tuple[float, ...] = ()
    rpc_output: bool = False

    def __post_init__(self) -> None:
        limits = (
            ("n_ctx", 0, 2**31 - 1),
            ("n_batch", 0, 2**20),
            ("n_parallel", 1, MAX_PARALLEL),
        )
        for name, low, high in limits:
            if not low <= getattr(self, name) <= high:
                raise UsageError(f"{name} is {getattr(self, name)}, from {low} to {high} is fine")
        if not isinstance(self.repeatable, bool):
            raise UsageError(f"repeatable is {self.repeatable!r}, it must be True or False")
        if not 0 <= self.n_threads <= 1024:
            raise UsageError(f"n_threads is {self.n_threads}, it must be from 0 to 1024")
        if not isinstance(self.rpc, Mapping):
            raise UsageError(f"rpc is {self.rpc!r}, it must be servers by role")
        if self.kv_type not in KV_TYPES:
            raise UsageError(f"kv_type {self.kv_type!r} is not one of {', '.join(KV_TYPES)}")
