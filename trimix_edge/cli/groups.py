"""Options that several verbs take together: collected once, and handed to a verb as one value.

>>> @expanded
... def command(trio: opt.Trio = None, *, models: Models, machine: Machine) -> None: ...

shows Typer a function with the fields of both as parameters.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import Any, get_type_hints

from trimix_edge import values
from trimix_edge.cli import options as opt
from trimix_edge.config import ContextParams, Role
from trimix_edge.errors import GrammarError, UsageError
from trimix_edge.trios.manifest import TrioManifest


@dataclass(frozen=True)
class Models:
    """The files of the roles, instead of a manifest's."""

    large_ins: opt.LargeIns = None
    small_cpt: opt.SmallCpt = None
    small_base: opt.SmallBase = None

    @property
    def paths(self) -> dict[Role, Path]:
        given = {role: getattr(self, role.value) for role in Role}
        return {role: path for role, path in given.items() if path is not None}


@dataclass(frozen=True)
class Fusion:
    """What :meth:`TriMix.load` takes under these names, refused before anything is read.

    Raises:
        UsageError: a value can't be understood, or weights are given beside a rule that sets them.
    """

    weights: opt.Weights = None
    rule: opt.Rule = None
    plausibility: opt.Mask = None

    def __post_init__(self) -> None:
        if self.weights is not None:
            values.weights(self.weights)
        if self.rule is not None and self.weights is not None:
            values.rule(self.rule).refuse_weights()
        elif self.rule is not None:
            values.rule(self.rule)
        if self.plausibility is not None:
            values.plausibility(self.plausibility)


@dataclass(frozen=True)
class Machine:
    """How the contexts are made, and computed."""

    ctx: opt.Ctx = None
    batch: opt.Batch = None
    threads: opt.Threads = None
    gpu_layers: opt.GpuLayers = None
    kv_type: opt.KvType = None
    rpc: opt.Rpc = None
    rpc_split: opt.RpcSplit = None
    rpc_output: opt.RpcOutput = False

    def context(
        self, manifest: TrioManifest, *, repeatable: bool = False, reads: bool = False
    ) -> ContextParams:
        """Laid over the manifest's.

        Args:
            repeatable, reads: see :class:`ContextParams`.

        Raises:
            UsageError: a value out of range.
        """
        servers = values.rpc(self.rpc or [])
        split = None if self.rpc_split is None else values.rpc_split(self.rpc_split, servers)
        if self.rpc_output and not servers:
            raise UsageError("--rpc-output is for servers: name them with --rpc")
        return values.overlay(
            manifest.context,
            rpc=servers or None,
            rpc_split=split,
            rpc_output=self.rpc_output or None,
            n_ctx=self.ctx,
            n_batch=self.batch,
            n_threads=self.threads,
            gpu_layers=values.gpu_layers(self.gpu_layers or []),
            kv_type=self.kv_type,
            repeatable=repeatable or None,
            reads=reads or None,
        )


@dataclass(frozen=True)
class Sampling:
    """llama.cpp's samplers."""

    greedy: opt.Greedy = False
    temperature: opt.Temperature = None
    top_k: opt.TopK = None
    top_p: opt.TopP = None
    min_p: opt.MinP = None
    typical_p: opt.Typical = None
    top_n_sigma: opt.TopNSigma = None
    xtc_probability: opt.XtcProbability = None
    xtc_threshold: opt.XtcThreshold = None
    repeat_penalty: opt.RepeatPenalty = None
    repeat_last_n: opt.RepeatLastN = None
    frequency_penalty: opt.FrequencyPenalty = None
    presence_penalty: opt.PresencePenalty = None
    dry_multiplier: opt.DryMultiplier = None
    dry_base: opt.DryBase = None
    dry_allowed_length: opt.DryAllowedLength = None
    mirostat: opt.Mirostat = None
    mirostat_tau: opt.MirostatTau = None
    mirostat_eta: opt.MirostatEta = None
    seed: opt.Seed = None
    grammar: opt.Grammar = None

    def given(self, manifest: TrioManifest) -> dict[str, Any]:
        """What is to be laid over the manifest's sampling: what was given, or all for ``--greedy``.

        Raises:
            UsageError: ``--greedy`` beside an option that contradicts it, or a value out of range.
            GrammarError: the grammar's file can't be read.
        """
        named = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "greedy"}
        found = {name: value for name, value in named.items() if value is not None}
        if self.grammar is not None:
            found["grammar"] = opt.read_text(self.grammar, "grammar", GrammarError)
        if self.greedy:
            if found.keys() - {"seed"}:
                name = min(found.keys() - {"seed"}).replace("_", "-")
                raise UsageError(f"--greedy switches every sampler off: leave --{name} away")
            found = opt.every_sampler_off()
        values.overlay(manifest.sampling, found)
        return found


def expanded(command: Callable[..., None]) -> Callable[..., None]:
    """A verb whose groups are spelt out as the parameters that Typer reads."""
    hints = get_type_hints(command, include_extras=True)
    parameters: list[inspect.Parameter] = []
    groups: dict[str, type] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        kind = hints[name]
        if is_dataclass(kind) and isinstance(kind, type):
            groups[name] = kind
            own = get_type_hints(kind, include_extras=True)
            parameters += [_parameter(f.name, own[f.name], f.default) for f in fields(kind)]
        else:
            parameters.append(_parameter(name, kind, parameter.default))

    @wraps(command)
    def run(**given: Any) -> None:
        for name, kind in groups.items():
            given[name] = kind(**{f.name: given.pop(f.name) for f in fields(kind)})
        command(**given)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def _parameter(name: str, kind: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
