"""Will it fit, and how fast will it be: a table before the download."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from trimix_edge.errors import UsageError
from trimix_edge.planning.machine import N_BATCH, Machine
from trimix_edge.planning.memory import GPU_N_BATCH, MemoryNeed
from trimix_edge.planning.weights import ModelWeights

SYSTEM_BYTES = 600_000_000
"""What the system and its services take, which is never free."""

PROCESS_BYTES = 215_000_000
"""What Python with its libraries and compiled kernels takes, before any model."""

KV_TYPES = ("f16", "q8_0")
"""Types of the KV cache that are planned for where nothing is said, the better first."""

ENOUGH = 5.0
"""Tokens a second that a recommended row generates, if any row does."""

_COARSE = re.compile(r"I?Q[123]|TQ")

FUSE_SECONDS = 3e-9
"""For each id of the vocabulary and model, to fuse and choose: memory-bound everywhere."""

N_PAST = 128
"""Tokens of context that speeds of generation are told for."""

GPU_SHARE = 0.95
"""Of a GPU's memory, that models can have: its driver and the screen take some."""

N_DRAFT, ACCEPTANCE = 3, 0.8
"""What drafting is predicted with: tokens that a small model drafts, and those that are right."""


@dataclass(frozen=True)
class Speed:
    """Tokens a second, of a prompt and generated."""

    prompt: float
    generation: float


@dataclass(frozen=True)
class Row:
    """One way to run the models: a type of files, and a type of the KV cache.

    Attributes:
        quantization: of the files.
        files: bytes of each model's files, by its name; ``download`` of all together.
        memory: bytes of the machine's memory that running them takes in all, the process included.
        gpu_memory: bytes of a GPU's memory that they take; None where they do not run there.
        fits: there is that much memory besides what the system takes.
        alone: of each model; ``fused`` of those that work together.
        drafting: tokens a second where a small model drafts :data:`N_DRAFT` tokens and
            :data:`ACCEPTANCE` of them are right; None for a model alone.
        total: tokens a second that all sequences together generate.
    """

    quantization: str
    kv_type: str
    files: Mapping[str, int]
    memory: int
    gpu_memory: int | None
    fits: bool
    alone: Mapping[str, Speed]
    fused: Speed
    drafting: float | None
    total: float

    @property
    def download(self) -> int:
        return sum(self.files.values())


@dataclass(frozen=True)
class Target:
    """Models to plan for.

    Attributes:
        variants: by quantisation the weights of each model, by its name; the largest first.
        fused: names of the models that work together on each token.
        characters: of text in its language that one token stands for; None where it is not known.
        characters_source: what that was counted on.
    """

    name: str
    variants: Mapping[str, Mapping[str, ModelWeights]]
    fused: tuple[str, ...]
    characters: float | None = None
    characters_source: str = ""

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
        rows: by quantisation and then by type of the KV cache.
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
    kv_types: Sequence[str] = KV_TYPES,
) -> Plan:
    """Plan for each quantisation and type of the KV cache.

    Args:
        n_ctx: tokens of context of each sequence.
        n_parallel: sequences at a time.
        memory: bytes instead of the machine's.
        kv_types: of the KV cache, the better first.
    """
    machine = machine if memory is None else replace(machine, memory=memory)
    rows = [
        _row(quantization, models, target.fused, machine, n_ctx, n_parallel, kv_type)
        for quantization, models in target.variants.items()
        for kv_type in kv_types
    ]
    return Plan(target, machine, machine.memory, n_ctx, n_parallel, tuple(rows), _recommended(rows))


def _recommended(rows: list[Row]) -> int | None:
    """The largest that fits and generates :data:`ENOUGH`, else the fastest that fits.

    Files of less than four bits a weight say other things than the model did: only where no larger
    ones fit. Of rows that are alike the first counts, which has the better KV cache.
    """
    fitting = [n for n, row in enumerate(rows) if row.fits]
    fitting = [n for n in fitting if not _COARSE.match(rows[n].quantization)] or fitting
    fast = [n for n in fitting if rows[n].fused.generation >= ENOUGH]
    if fast:
        return max(fast, key=lambda n: rows[n].download)
    return max(fitting, key=lambda n: round(rows[n].fused.generation, 2), default=None)


def _row(
    quantization: str,
    models: Mapping[str, ModelWeights],
    fused: tuple[str, ...],
    machine: Machine,
    n_ctx: int,
    n_parallel: int,
    kv_type: str,
) -> Row:
    together = [models[name] for name in fused]
    need, on_gpu = memory_need(together, n_ctx * n_parallel, kv_type), None
    if machine.gpu_memory:
        whole = sum(_need(m, n_ctx * n_parallel, kv_type, GPU_N_BATCH) for m in together)
        if whole <= machine.gpu_memory * GPU_SHARE:
            need, on_gpu = PROCESS_BYTES, whole
    alone = {
        name: Speed(1 / prompt_seconds(model, machine), 1 / token_seconds(model, machine))
        for name, model in models.items()
    }
    fusing = sum(FUSE_SECONDS * m.shape.n_vocab for m in together) if len(together) > 1 else 0.0
    plain = sum(token_seconds(model, machine) for model in together) + fusing
    batch = sum(batch_seconds(model, machine, n_parallel) for model in together)
    return Row(
        quantization=quantization,
        kv_type=kv_type,
        files={name: model.n_file_bytes for name, model in models.items()},
        memory=need,
        gpu_memory=on_gpu,
        fits=fits(need, machine.memory),
        alone=alone,
        fused=Speed(1 / sum(prompt_seconds(m, machine) for m in together), 1 / plain),
        drafting=_drafting(together, machine, fusing) if len(together) > 1 else None,
        total=n_parallel / (batch + n_parallel * fusing),
    )


def memory_need(models: Iterable[ModelWeights], n_ctx: int, kv_type: str = "f16") -> int:
    """Bytes that a process with these models takes, on a CPU.

    Args:
        n_ctx: tokens of context of all sequences together.
    """
    return PROCESS_BYTES + sum(_need(model, n_ctx, kv_type, N_BATCH) for model in models)


def _need(model: ModelWeights, n_ctx: int, kv_type: str, n_batch: int) -> int:
    need = MemoryNeed.of(model.shape, model.n_bytes, n_ctx, kv_type, n_batch=n_batch)
    return need.total


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


def token_seconds(model: ModelWeights, machine: Machine) -> float:
    """Seconds of one token: all weights once, what the layers do beside, and the KV cache.

    Raises:
        KeyError: the machine has no speed for a type of the model.
    """
    return batch_seconds(model, machine, 1)


def batch_seconds(model: ModelWeights, machine: Machine, n: int, n_past: int = N_PAST) -> float:
    """Seconds of a batch of ``n`` tokens whose logits are all wanted.

    Args:
        n_past: tokens of context that each of them reads.

    Raises:
        KeyError: see :func:`token_seconds`.
    """
    weights = sum(
        weights * machine.speed(kind).seconds(n)
        for part in (model.layers, model.output)
        for kind, weights in part.items()
    )
    kv = n * model.shape.kv_bytes(n_past) / machine.bytes_per_second
    return weights + model.shape.n_layer * machine.layer_seconds + kv


def prompt_seconds(model: ModelWeights, machine: Machine) -> float:
    """Seconds of a prompt for each of its tokens.

    The output layer is used once a batch, as is the feed-forward part of the last layer: llama.cpp
    computes both only for tokens whose logits are wanted.
    """
    shape = model.shape
    n_all = sum(model.layers.values())
    of_last = min(3 * shape.n_embd * shape.n_ff, n_all // shape.n_layer)
    share = 1 - of_last / n_all if n_all else 1.0
    layers = sum(n * machine.speed(kind).seconds(N_BATCH) for kind, n in model.layers.items())
    output = sum(n / machine.speed(kind).token for kind, n in model.output.items())
    return (share * layers + output + shape.n_layer * machine.layer_seconds) / N_BATCH


def _drafting(models: list[ModelWeights], machine: Machine, fusing: float) -> float:
    """Tokens a second with drafts (Leviathan et al. 2023, equation 1)."""
    times = [token_seconds(model, machine) for model in models]
    kept = (1 - ACCEPTANCE ** (N_DRAFT + 1)) / (1 - ACCEPTANCE)
    batch = sum(batch_seconds(model, machine, N_DRAFT + 1) for model in models)
    return kept / (N_DRAFT * min(times) + batch + (N_DRAFT + 1) * fusing)
