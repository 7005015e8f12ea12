"""All that decides the predictions, read and checked before a model loads, and its fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import trimix_edge
from trimix_edge.config import ContextParams, Role, SamplingParams
from trimix_edge.errors import ModelLoadError, UsageError
from trimix_edge.evaluate.data import load_cells, skipped
from trimix_edge.evaluate.exemplars import SHUFFLE_SEED
from trimix_edge.evaluate.metrics import require_libraries
from trimix_edge.evaluate.prompts import CellPrompts, Prompts
from trimix_edge.evaluate.systems import System
from trimix_edge.evaluate.tasks import Cell, JudgeName, Selection
from trimix_edge.gguf import part_paths
from trimix_edge.trios.manifest import TrioManifest

Progress = Callable[[str, float, float], None]
"""Called with what is being done, how much of it is, and all of it."""


@dataclass(frozen=True)
class Settings:
    """What a person asks for.

    Attributes:
        manifest: the trio; its weights are not used where ``systems`` say others.
        chat: send prompts through the chat template.
        templates: a file over the wording that ships.
        judge: whose judge scores; predictions do not depend on it.
        keep_prompts: write each prompt beside its prediction.
        parallel: items that are answered at once.
    """

    selection: Selection
    manifest: TrioManifest
    systems: tuple[System, ...]
    context: ContextParams
    sampling: SamplingParams
    chat: bool = False
    templates: Path | None = None
    judge: JudgeName = "default"
    keep_prompts: bool = False
    parallel: int = 1

    @property
    def picks_hosts(self) -> bool:
        """Whether a system chooses its host on dev data."""
        return any(system.picks_host for system in self.systems)

    @property
    def repeatable_sampling(self) -> SamplingParams:
        """The sampling with a seed, so that a resumed run ends as one that never stopped."""
        seed = self.sampling.seed
        return replace(self.sampling, seed=self.selection.seed if seed is None else seed)


@dataclass(frozen=True)
class Plan:
    """What will be done.

    Attributes:
        prompts: of each cell.
        dev: cells of the dev data, and their prompts, by name; empty if nothing is chosen on them.
        skipped: what the folder holds beside the cells, and why it is not read.
        configuration: all that decides the predictions, as JSON: who has the same gets the same.
    """

    settings: Settings
    cells: tuple[Cell, ...]
    prompts: Mapping[str, CellPrompts]
    dev: Mapping[str, tuple[Cell, CellPrompts]]
    skipped: tuple[str, ...]
    configuration: dict[str, Any]

    @classmethod
    def make(cls, settings: Settings, on_progress: Progress | None = None) -> Plan:
        """Read and check everything but the models.

        Raises:
            TriMixError: data, templates or files of models can't be used, a library is missing.
        """
        selection = settings.selection
        cells = tuple(load_cells(selection))
        require_libraries([cell.task.judge for cell in cells])
        prompts = Prompts.load(selection.prompt_language, settings.templates)
        worded = {cell.name: prompts.of(cell) for cell in cells}
        dev = {}
        if settings.picks_hosts:
            if selection.split == "dev":
                raise UsageError(
                    "rule saf:auto chooses its host on dev data, so it can't be evaluated on them: "
                    "leave --split dev away"
                )
            dev = {c.name: (c, prompts.of(c)) for c in load_cells(replace(selection, split="dev"))}
        roles = {role for system in settings.systems for role in system.roles}
        configuration = {
            "versions": {
                "trimix-edge": trimix_edge.__version__,
                "llama-cpp-python": version("llama-cpp-python"),
            },
            "trio": settings.manifest.name,
            "models": model_hashes(settings.manifest, roles, on_progress),
            "systems": [system.as_json() for system in settings.systems],
            "sampling": asdict(settings.repeatable_sampling),
            "chat": settings.chat,
            "context": {
                "n_ctx": settings.context.n_ctx,
                "kv_type": settings.context.kv_type,
                **({"rpc": True} if settings.context.rpc else {}),
                **({"repeatable": True} if settings.context.repeatable else {}),
                **({"reads": True} if _reads(settings, cells) else {}),
            },
            "split": selection.split,
            "limit": selection.limit,
            "seed": selection.seed,
            "prompt_language": selection.prompt_language,
            "keep_prompts": settings.keep_prompts,
            "parallel": settings.parallel,
            "cells": {
                cell.name: _facts(cell, selection, prompts, worded[cell.name]) for cell in cells
            },
        }
        if dev:  # another judge may choose another host, and so other predictions
            configuration["dev"] = {
                "judge": settings.judge,
                "cells": {
                    name: _facts(cell, selection, prompts, worded_)
                    for name, (cell, worded_) in dev.items()
                },
            }
        return cls(settings, cells, worded, dev, tuple(skipped(selection)), configuration)

    @property
    def fingerprint(self) -> str:
        """Eight hexadecimal digits of the configuration's SHA-256."""
        text = json.dumps(self.configuration, ensure_ascii=False, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]


def _facts(
    cell: Cell, selection: Selection, prompts: Prompts, worded: CellPrompts
) -> dict[str, Any]:
    """All of a cell that decides its predictions."""
    task, balances = cell.task, selection.balances(cell.task)
    facts: dict[str, Any] = {
        "task": task.name,
        "judge": task.judge,
        "language": cell.language,
        "n_items": len(cell.items),
        "shots": len(cell.exemplars),
        "exemplars": "balanced" if balances else "first",
        "exemplar_ids": [exemplar.id for exemplar in cell.exemplars],
        "max_tokens": task.max_tokens,
        "data": dict(cell.data),
        "templates": prompts.wording(task),
        "first_prompt": worded.prompt(cell.items[0], worded.shots),
    }
    if balances:
        facts["per_label"] = selection.n_shots(task)
        facts["shuffle_seed"] = SHUFFLE_SEED
        facts["lacking"] = list(cell.lacking)
    if cell.labels:
        facts["labels"] = list(cell.labels)
    if task.long_field is not None:
        facts["cut"] = {
            "field": task.long_field,
            "max_chars": selection.n_chars(task),
            "items": cell.n_cut[0],
            "exemplars": cell.n_cut[1],
        }
    return facts


def sample_prompts(selection: Selection, templates: Path | None) -> list[tuple[str, str]]:
    """The first prompt of each task, by the name of its cell, with all of its exemplars; a chat
    template comes around it later.

    Raises:
        EvaluationError: data or templates can't be used.
    """
    prompts = Prompts.load(selection.prompt_language, templates)
    found: dict[str, tuple[str, str]] = {}
    for cell in load_cells(selection):
        worded = prompts.of(cell)
        found.setdefault(cell.task.name, (cell.name, worded.prompt(cell.items[0], worded.shots)))
    return list(found.values())


def _reads(settings: Settings, cells: Collection[Cell]) -> bool:
    """Whether the models mostly read: where every task is to choose an answer."""
    return settings.context.reads or all(cell.task.reads for cell in cells)


def model_hashes(
    manifest: TrioManifest, roles: Collection[Role], on_progress: Progress | None = None
) -> dict[str, dict[str, str]]:
    """SHA-256 of the files of the roles that are used, by role; an adapter's beside its model's."""
    known: dict[Path, str] = {}

    def entry(path: Path) -> str:
        if path not in known:
            known[path] = _sha256(path, on_progress)
        return known[path]

    found: dict[str, dict[str, str]] = {}
    for role in Role:
        adapter = manifest.adapters.get(role)
        path = manifest.models.get(role if adapter is None else adapter.base)
        if role not in roles or path is None:  # a role without a file is told when it is loaded
            continue
        found[str(role)] = {"file": path.name, "sha256": entry(path)}
        if adapter is not None:
            found[str(role)] |= {"lora": adapter.path.name, "lora_sha256": entry(adapter.path)}
    return found


def _sha256(path: Path, on_progress: Progress | None) -> str:
    """Of a file, or of all parts of a split one, one after the other."""
    digest = hashlib.sha256()
    try:
        for part in part_paths(path):
            n_bytes = part.stat().st_size
            with part.open("rb") as file:
                while block := file.read(1 << 22):
                    digest.update(block)
                    if on_progress is not None:
                        on_progress(f"checking {part.name}", file.tell(), n_bytes)
    except OSError as error:
        raise ModelLoadError(f"{path}: {error.strerror or error}") from None
    return digest.hexdigest()
