"""What a person wants to know of a GGUF file, from its head alone."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import LlamaFileType

from trimix_edge.gguf import DEFAULT_N_CTX, GgufFile, ModelShape, n_tokens
from trimix_edge.planning.memory import MemoryNeed


@dataclass(frozen=True)
class TensorGroup:
    """Tensors of one purpose in all layers, as ``attn_q``: how many there are of each type."""

    name: str
    n_tensors: int
    n_parameters: int
    n_bytes: int
    types: dict[str, int]


@dataclass(frozen=True)
class Vocabulary:
    """The tokenizer: llama.cpp's name for its kind and its pre-tokenizer, and its size."""

    model: str
    pre: str
    n_tokens: int


@dataclass(frozen=True)
class GgufSummary:
    """The facts about a file; None or empty where it is silent.

    Attributes:
        kind: ``model``, or ``adapter`` and the like.
        quantization: of the file as a whole, by llama.cpp's name.
        n_bytes: of all parts of the file.
        bits_per_weight: of the tensors.
        n_ctx_train: tokens of context that the model was trained on.
        memory: what running it takes; None where that can't be told.
    """

    path: Path
    kind: str
    architecture: str
    name: str
    quantization: str
    n_parts: int
    n_bytes: int
    n_parameters: int
    bits_per_weight: float
    n_ctx_train: int | None
    vocabulary: Vocabulary | None
    chat_template: str | None
    license: str | None
    languages: tuple[str, ...]
    base_models: tuple[str, ...]
    groups: tuple[TensorGroup, ...]
    memory: MemoryNeed | None


def summarise(file: GgufFile, n_ctx: int | None = None, kv_type: str = "f16") -> GgufSummary:
    """Gather the facts.

    Args:
        n_ctx: tokens of context for :attr:`GgufSummary.memory`; what the model was trained on, at
            most 4,096, if absent.
        kv_type: type of the KV cache's elements.
    """
    n_ctx_train = file.get(f"{file.architecture}.context_length", int)
    shape = ModelShape.of(file)
    n_ctx = n_ctx or min(n_ctx_train or DEFAULT_N_CTX, DEFAULT_N_CTX)
    size = n_tokens(file)
    return GgufSummary(
        path=file.path,
        kind=file.get("general.type", str) or "model",
        architecture=file.architecture,
        name=file.get("general.name", str) or "",
        quantization=quantization(file),
        n_parts=file.n_parts,
        n_bytes=file.n_bytes,
        n_parameters=file.n_parameters,
        bits_per_weight=round(8 * file.n_tensor_bytes / max(1, file.n_parameters), 2),
        n_ctx_train=n_ctx_train,
        vocabulary=Vocabulary(
            model=file.get("tokenizer.ggml.model", str) or "",
            pre=file.get("tokenizer.ggml.pre", str) or "",
            n_tokens=size,
        )
        if size
        else None,
        chat_template=file.get("tokenizer.chat_template", str),
        license=file.get("general.license.name", str) or file.get("general.license", str),
        languages=_texts(file.metadata.get("general.languages")),
        base_models=_base_models(file),
        groups=_groups(file),
        memory=MemoryNeed.of(shape, file.n_tensor_bytes, n_ctx, kv_type) if shape else None,
    )


def quantization(file: GgufFile) -> str:
    """The type of a file as a whole, by llama.cpp's name, or what most of its bytes are."""
    number = file.get("general.file_type", int)
    try:
        name: str = LlamaFileType(number).name
        return name.removeprefix("MOSTLY_").removeprefix("ALL_")
    except ValueError:
        kinds = Counter[str]()
        for tensor in file.tensors:
            kinds[tensor.kind] += tensor.n_bytes
        return f"mostly {kinds.most_common(1)[0][0]}" if kinds else ""


def _groups(file: GgufFile) -> tuple[TensorGroup, ...]:
    """Tensors by purpose, the largest group first; all norms and biases are one group."""
    found: dict[str, list[Any]] = {}
    for tensor in file.tensors:
        name = re.sub(r"^blk\.\d+\.|\.weight\b", "", tensor.name)
        if len(tensor.shape) <= 1:
            name = "norms and biases"
        found.setdefault(name, []).append(tensor)
    groups = [
        TensorGroup(
            name=name,
            n_tensors=len(tensors),
            n_parameters=sum(tensor.n_elements for tensor in tensors),
            n_bytes=sum(tensor.n_bytes for tensor in tensors),
            types=dict(Counter(tensor.kind for tensor in tensors).most_common()),
        )
        for name, tensors in found.items()
    ]
    return tuple(sorted(groups, key=lambda group: -group.n_bytes))


def _base_models(file: GgufFile) -> tuple[str, ...]:
    count = min(file.get("general.base_model.count", int) or 0, 16)
    names = []
    for i in range(count):
        url = file.get(f"general.base_model.{i}.repo_url", str) or ""
        name = file.get(f"general.base_model.{i}.name", str)
        repo = re.search(r"[^/]+/[^/]+$", url)
        if repo or name:
            names.append(repo[0] if repo else str(name))
    return tuple(names)


def _texts(value: object) -> tuple[str, ...]:
    return tuple(v for v in value if isinstance(v, str)) if isinstance(value, tuple) else ()
