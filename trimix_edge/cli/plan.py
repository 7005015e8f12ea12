"""``trimix-edge plan``: will it fit, and how fast will it be, before anything is downloaded."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trimix_edge.cli import making
from trimix_edge.cli import options as opt
from trimix_edge.cli.console import Bar, output
from trimix_edge.errors import HubError, ModelLoadError, PromptError, TargetError, UsageError

if TYPE_CHECKING:
    from trimix_edge.hub.client import HubId
    from trimix_edge.hub.remote import HubFile
    from trimix_edge.planning.plan import Target
    from trimix_edge.planning.weights import ModelWeights

QUANTIZATIONS = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "Q3_K_M", "Q2_K")

MAX_VARIANTS = 16
"""Files of a repository whose heads are fetched."""


def command(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PRESET|TRIO|FILE.gguf|OWNER/NAME[/FILE.gguf]]...",
            help="Presets, trios, files, which count as one trio, or GGUF repositories and files "
            "of the Hub, of which only the heads are fetched; all presets if absent.",
            show_default=False,
        ),
    ] = None,
    ctx: Annotated[
        int, typer.Option(min=1, max=1 << 24, help="Tokens of context of each sequence.")
    ] = 4096,
    parallel: Annotated[int, typer.Option(min=1, max=1024, help="Sequences at a time.")] = 1,
    quant: Annotated[
        str | None,
        typer.Option(metavar="TYPE,...", help="Only these types of files.", show_default=False),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Memory in all, as in 8GB.", show_default=False),
    ] = None,
    machine: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Another machine than this one, as pi5-8gb, pi4-4gb or laptop-ddr4.",
            show_default=False,
        ),
    ] = None,
    kv_type: Annotated[
        str, typer.Option(metavar="TYPE,...", help="Types of the KV cache's elements.")
    ] = "f16,q8_0",
    sample: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A text in the language, for characters a second of local models; presets know "
            "their language.",
            show_default=False,
        ),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Measure this machine again, at a quiet moment.")
    ] = False,
    as_json: making.AsJson = False,
) -> None:
    """Tell whether models fit into a machine, and how fast they will be there.

    This machine is measured once, in a few seconds for each type of weights.
    """
    from trimix_edge.cli.show_plan import plan_json, show_all, show_machine, show_plan
    from trimix_edge.config import ContextParams
    from trimix_edge.planning.machine import find_profile
    from trimix_edge.planning.measured import this_machine
    from trimix_edge.planning.plan import make_plan, parse_memory

    n_bytes = None if memory is None else parse_memory(memory)
    kv_types = [ContextParams(kv_type=part.strip()).kv_type for part in kv_type.split(",")]
    profile = None if machine is None else find_profile(machine)
    if again and profile is not None:
        raise UsageError(f"--again measures this machine, and --machine names {machine}: leave one")
    text = None if sample is None else opt.read_text(sample, "sample", PromptError)
    targets = _targets(names or [], quant, text)
    types = {kind for target in targets for kind in target.types}
    if profile is None:
        with Bar() as bar:
            try:
                profile = this_machine(types, bar.update, anew=again)
            except OSError as error:
                raise TargetError(f"measuring: {error.strerror or error}") from None
    plans = [
        make_plan(
            target, profile, n_ctx=ctx, n_parallel=parallel, memory=n_bytes, kv_types=kv_types
        )
        for target in targets
    ]
    if as_json:
        print(json.dumps([plan_json(plan) for plan in plans], ensure_ascii=False))
        return
    console = output()
    if names:
        for plan in plans:
            show_plan(console, plan)
    else:
        show_all(console, plans)
    show_machine(console, plans[0])


def _targets(names: list[str], quant: str | None, sample: str | None) -> list[Target]:
    from trimix_edge.hub import find_preset, presets
    from trimix_edge.hub.client import HubId
    from trimix_edge.hub.remote import HubFile

    wanted = [name.strip().upper() for name in quant.split(",")] if quant else []
    if not names:
        return [preset.target(wanted or ["Q4_K_M"]) for preset in presets().values()]
    targets = []
    files: list[Path | HubFile] = []

    def as_it_is(name: str) -> str:
        if wanted:
            raise UsageError(f"--quant is for presets and repositories: {name} is there as it is")
        return name

    for name in names:
        is_here = Path(name).exists()
        if not is_here and HubFile.is_one(name):
            files.append(HubFile.parse(as_it_is(name)))
        elif name.lower().endswith(".gguf"):
            files.append(Path(as_it_is(name)))
        elif not is_here and name in presets():
            targets.append(find_preset(name).target(wanted or QUANTIZATIONS))
        elif not is_here and HubId.is_one(name):
            targets.append(_repository(HubId.parse(name), wanted))
        else:
            targets.append(_trio(as_it_is(name), sample))
    if files:
        targets.append(_files(files, sample))
    return targets


def _files(files: list[Path | HubFile], sample: str | None) -> Target:
    from trimix_edge.planning.plan import Target

    models: dict[str, ModelWeights] = {}
    for file in files:
        stem = Path(file.name).stem
        name = next(n for n in (stem, *map(f"{stem} {{}}".format, range(2, 99))) if n not in models)
        models[name] = _weights(file) if isinstance(file, Path) else _remote(file)
    here = [file for file in files if isinstance(file, Path)]
    target = Target(" + ".join(models), {"as it is": models}, tuple(models))
    return _with_characters(target, here[0] if here else None, sample)


def _repository(hub_id: HubId, wanted: list[str]) -> Target:
    """Each model of a repository, as one of several types of the same model."""
    from trimix_edge.hub.client import list_files
    from trimix_edge.hub.remote import HubFile, gguf_names, read_head
    from trimix_edge.planning.plan import Target
    from trimix_edge.planning.summary import quantization
    from trimix_edge.planning.weights import of_file

    listing = list_files(hub_id)
    names = gguf_names(listing)
    # Names tell the type, as a rule: what they do not tell shows in the head.
    told = [name for name in names if any(kind in name.upper() for kind in wanted)]
    variants: dict[str, dict[str, ModelWeights]] = {}
    for name in (told or names)[:MAX_VARIANTS]:
        head = read_head(HubFile(hub_id, name), listing)
        kind, found = quantization(head), of_file(head)
        if found is None or not found.layers or (wanted and kind not in wanted):
            continue
        variants[name if kind in variants else kind] = {hub_id.name: found}
    if not variants:
        what = f" of the types {', '.join(wanted)}" if wanted else ""
        raise HubError(f"{hub_id} holds no GGUF models{what} that a plan can be made for")
    ordered = sorted(variants.items(), key=lambda pair: -pair[1][hub_id.name].n_bytes)
    return Target(str(hub_id), dict(ordered), (hub_id.name,))


def _remote(file: HubFile) -> ModelWeights:
    from trimix_edge.hub.remote import read_head
    from trimix_edge.planning.weights import of_file

    found = of_file(read_head(file))
    if found is None or not found.layers:
        raise ModelLoadError(f"{file.hub_id}/{file.name} is no model that a plan can be made for")
    return found


def _with_characters(target: Target, file: Path | None, sample: str | None) -> Target:
    """Count the characters of a token on a sample, with the vocabulary of a file."""
    from trimix_edge.planning.characters import characters_per_token

    if sample is None:
        return target
    if file is None:
        raise UsageError("sample: it takes a model's vocabulary, and none of the files is here")
    counted = characters_per_token(file, sample)
    return replace(target, characters=counted, characters_source="the sample")


def _trio(name: str, sample: str | None) -> Target:
    from trimix_edge.config import FusionWeights
    from trimix_edge.errors import TrioConfigError
    from trimix_edge.planning.plan import Target
    from trimix_edge.trios.manifest import TrioManifest

    try:
        manifest = TrioManifest.find(name)
    except TrioConfigError as error:
        if Path(name).exists():
            raise
        raise UsageError(f"{error}, nor a preset (see trimix-edge presets)") from None
    models = {str(role): _weights(path) for role, path in manifest.models.items()}
    for role, adapter in manifest.adapters.items():
        n_bytes = adapter.path.stat().st_size
        base = models[str(adapter.base)]
        models[str(role)] = replace(base, n_bytes=n_bytes, n_file_bytes=n_bytes)
    roles = manifest.weights.roles if isinstance(manifest.weights, FusionWeights) else ()
    fused = tuple(str(role) for role in roles if str(role) in models) or tuple(models)
    target = Target(manifest.name, {"as it is": models}, fused)
    return _with_characters(target, next(iter(manifest.models.values()), None), sample)


def _weights(path: Path) -> ModelWeights:
    from trimix_edge.gguf import check_header
    from trimix_edge.planning.weights import of_file

    found = of_file(check_header(path))
    if found is None or not found.layers:
        raise ModelLoadError(f"{path} is no model that a plan can be made for")
    return found
