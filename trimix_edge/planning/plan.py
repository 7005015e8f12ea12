"""Will it fit, and how fast will it be: a table before the download."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from trimix_edge.errors import UsageError
from trimix_edge.planning.machine import N_BATCH, Machine
from trimix_edge.planning.memory import MemoryNeed
from trimix_edge.planning.weights import ModelWeights

SYSTEM_BYTES = 600_000_000
"""What the system and its services take, which is never free."""

PROCESS_BYTES = 260_000_000
"""What Python with its libraries and compiled kernels takes, before any model."""

KV_TYPES = ("f16", "q8_0")
"""Types of the KV cache that are tried, the better first."""

ENOUGH = 5.0
"""Tokens a second that a recommended row generates, if any row does."""

_COARSE = re.compile(r"I?Q[123]|TQ")

FUSE_SECONDS = 3e-9
"""For each id of the vocabulary and model, to fuse and choose: memory-bound everywhere."""

N_DRAFT, ACCEPTANCE = 3, 0.8
"""What drafting is predicted with: tokens that a small model drafts, and those that are right."""


@dataclass(frozen=True)
class Speed:
    """Tokens a second, of a prompt and generated."""

    prompt: float
    generation: float


@dataclass(frozen=True)
class Row:
    """One way to run the models.

    Attributes:
        quantization: of the files.
        download: bytes of all files.
        memory: bytes that running them takes in all, the process included.
        fits: there is that much memory besides what the system takes.
        alone: of each model; ``fused`` of those that work together.
        drafting: tokens a second where a small model drafts :data:`N_DRAFT` tokens and
            :data:`ACCEPTANCE` of them are right; None where it has nothing to gain.
    """

    quantization: str
    kv_type: str
    download: int
    memory: int
    fits: bool
    alone: Mapping[str, Speed]
    fused: Speed
    drafting: float | None = None


@dataclass(frozen=True)
class Target:
    """Models to plan for.

    Attributes:
        variants: by quantisation the weights of each model, by its name; the largest first.
        fused: names of the models that work together on each token.
    """

    name: str
    variants: Mapping[str, Mapping[str, ModelWeights]]
    fused: tuple[str, ...]

    @property
    def types(self) -> frozenset[str]:
        """Types of weights whose speeds are needed."""
        models = [model for variant in self.variants.values() for model in variant.values()]
        return frozenset(kind for model in models for kind in model.types)


@dataclass(frozen=True)
class Plan:
    """What :func:`make_plan` found.

    Attributes:
        memory: bytes that the machine has, or that were given.
        recommended: index of a row; None where nothing fits.
    """

    target: Target
    machine: Machine
    memory: int
    n_ctx: int
    n_parallel: int
    rows: tuple[Row, ...]
    recommended: int | None


def make_plan(
    target: Target,
    machine: Machine,
    *,
    n_ctx: int,
    n_parallel: int = 1,
    memory: int | None = None,
    kv_type: str | None = None,
) -> Plan:
    """Plan for each quantisation; with a KV cache of the best type that fits, f16 if none does.

    Args:
        n_ctx: tokens of context of each sequence.
        n_parallel: sequences at a time.
        memory: bytes instead of the machine's.
        kv_type: the only type of the KV cache that is tried.
    """
    memory = memory or machine.memory
    rows = []
    for quantization, models in target.variants.items():
        tried = [
            _row(quantization, models, target.fused, machine, n_ctx, n_parallel, kv, memory)
            for kv in ((kv_type,) if kv_type else KV_TYPES)
        ]
        rows.append(next((row for row in tried if row.fits), tried[0]))
    return Plan(target, machine, memory, n_ctx, n_parallel, tuple(rows), _recommended(rows))


def _recommended(rows: list[Row]) -> int | None:
    """The largest that fits and generates :data:`ENOUGH`, else the fastest that fits.

    Files of less than four bits a weight say other things than the model did: only where no larger
    ones fit.
    """
    fitting = [n for n, row in enumerate(rows) if row.fits]
    fitting = [n for n in fitting if not _COARSE.match(rows[n].quantization)] or fitting
    fast = [n for n in fitting if rows[n].fused.generation >= ENOUGH]
    if fast:
        return max(fast, key=lambda n: rows[n].download)
    return max(fitting, key=lambda n: rows[n].fused.generation, default=None)


def _row(
    quantization: str,
    models: Mapping[str, ModelWeights],
    fused: tuple[str, ...],
    machine: Machine,
    n_ctx: int,
    n_parallel: int,
    kv_type: str,
    memory: int,
) -> Row:
    need = memory_need([models[name] for name in fused], n_ctx * n_parallel, kv_type)
    alone = {
        name: Speed(1 / prompt_seconds(model, machine), 1 / token_seconds(model, machine))
        for name, model in models.items()
    }
    together = [models[name] for name in fused]
    per_token = sum(token_seconds(model, machine) for model in together)
    if len(together) > 1:
        per_token += sum(FUSE_SECONDS * model.shape.n_vocab for model in together)
    speed = Speed(1 / sum(prompt_seconds(model, machine) for model in together), 1 / per_token)
    return Row(
        quantization=quantization,
        kv_type=kv_type,
        download=sum(model.n_file_bytes for model in models.values()),
        memory=need,
        fits=fits(need, memory),
        alone=alone,
        fused=speed,
        drafting=_drafting(together, machine, 1 / per_token) if len(together) > 1 else None,
    )


def memory_need(models: Iterable[ModelWeights], n_ctx: int, kv_type: str = "f16") -> int:
    """Bytes that a process with these models takes, on a CPU.

    Args:
        n_ctx: tokens of context of all sequences together.
    """
    return PROCESS_BYTES + sum(
        MemoryNeed.of(model.shape, model.n_bytes, n_ctx, kv_type, n_batch=N_BATCH).total
        for model in models
    )


def fits(need: int, memory: int) -> bool:
    """Whether a machine with this much memory in all has ``need`` bytes to spare."""
    return need + SYSTEM_BYTES <= memory


def parse_memory(text: str) -> int:
    """Read a size of memory: ``8GB``, ``7.5 GiB``, ``900M``.

    Raises:
        UsageError: it is no size, or one that no machine has.
    """
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?)\s*([KMGT]?)(i?)B?", text.strip(), re.IGNORECASE)
    n_bytes = 0.0
    if match:
        step = 1024 if match[3] else 1000
        n_bytes = float(match[1]) * step ** " KMGT".index(match[2].upper() or " ")
    if not 1e8 <= n_bytes <= 1e15:
        raise UsageError(f"memory {text[:40]!r} is no size from 100MB to 1000TB, as in 8GB")
    return int(n_bytes)


def token_seconds(model: ModelWeights, machine: Machine, n_past: int = 128) -> float:
    """Seconds of one token: all weights once, what the layers do beside, and the KV cache.

    Raises:
        KeyError: the machine has no speed for a type of the model.
    """
    weights = sum(
        n / machine.speed(kind).token
        for part in (model.layers, model.output)
        for kind, n in part.items()
    )
    kv = model.shape.kv_bytes(n_past) / machine.bytes_per_second
    return weights + model.shape.n_layer * machine.layer_seconds + kv


def prompt_seconds(model: ModelWeights, machine: Machine) -> float:
    """Seconds of a prompt for each of its tokens; the output layer is used once a batch."""
    layers = sum(n / machine.speed(kind).prompt for kind, n in model.layers.items())
    output = sum(n / machine.speed(kind).token for kind, n in model.output.items())
    return layers + (output + model.shape.n_layer * machine.layer_seconds) / N_BATCH


def _drafting(models: list[ModelWeights], machine: Machine, plain: float) -> float | None:
    """Tokens a second with drafts (Leviathan et al. 2023, equation 1), if that is faster."""
    times = [token_seconds(model, machine) for model in models]
    kept = (1 - ACCEPTANCE ** (N_DRAFT + 1)) / (1 - ACCEPTANCE)
    batch = sum(_batch_seconds(model, machine, N_DRAFT + 1) for model in models)
    found = kept / (N_DRAFT * min(times) + batch)
    return found if found > plain else None


def _batch_seconds(model: ModelWeights, machine: Machine, n: int) -> float:
    """Seconds of a small batch: between one token's, and arithmetic alone."""
    arithmetic = n * sum(
        weights / machine.speed(kind).prompt
        for part in (model.layers, model.output)
        for kind, weights in part.items()
    )
    return max(token_seconds(model, machine), arithmetic)
