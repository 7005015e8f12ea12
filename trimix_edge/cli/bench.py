"""``trimix-edge bench``: how fast a trio is on this machine."""

from __future__ import annotations

import json
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trimix_edge.cli import groups, making
from trimix_edge.cli import options as opt
from trimix_edge.cli.console import Bar, announce_kernels, output, show_table
from trimix_edge.cli.show_parallel import parallel_json, parallel_table
from trimix_edge.errors import PromptError, TargetError, UsageError

if TYPE_CHECKING:
    from trimix_edge.config import Role
    from trimix_edge.measure.bench import BenchReport


@groups.expanded
def command(
    trio: opt.Trio = None,
    synthetic: Annotated[
        str | None,
        typer.Option(
            metavar="FAMILY-SMALL+LARGE:TYPE",
            help="Random weights of published shapes instead of a trio, as "
            "qwen2.5-1.5b+7b:Q4_K_M: nothing is downloaded.",
            show_default=False,
        ),
    ] = None,
    acceptance: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="With --synthetic: drafted tokens that are right."),
    ] = 0.9,
    keep: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="With --synthetic: keep the files there, and use them again.",
            show_default=False,
        ),
    ] = None,
    prompt: Annotated[int, typer.Option("--prompt", "-p", min=1, help="Tokens of a prompt.")] = 128,
    generate: Annotated[
        int, typer.Option("--generate", "-n", min=1, help="Tokens to generate.")
    ] = 64,
    runs: Annotated[int, typer.Option("--runs", "-r", min=1, help="Turns of each case.")] = 5,
    file: Annotated[
        Path | None,
        typer.Option("--file", "-f", help="Prompts to go on from, a line each."),
    ] = None,
    parallel: Annotated[
        str | None,
        typer.Option(
            metavar="N,N,...",
            help="Sequences at once, as in 1,2,4,8,16: how fast they are in total and each.",
            show_default=False,
        ),
    ] = None,
    as_json: making.AsJson = False,
    weights: opt.Weights = None,
    *,
    models: groups.Models,
    machine: groups.Machine,
) -> None:
    """Time each model alone, their fusion, and drafting; batches, overhead and memory."""
    from trimix_edge.config import Role
    from trimix_edge.measure.bench import SENTENCES, BenchParams, run_bench
    from trimix_edge.measure.parallel import run_parallel
    from trimix_edge.trimix import TriMix
    from trimix_edge.trios.manifest import TrioManifest

    files = models.paths
    prompts: tuple[str, ...] = SENTENCES
    if file is not None:
        text = opt.read_text(file, "prompt file", PromptError)
        prompts = tuple(line for line in text.split("\n") if line.strip())
        if not prompts:
            raise PromptError(f"prompt file {file} holds no prompt")
    if synthetic is not None and (trio or files):
        raise UsageError("--synthetic takes the place of a trio: name one or the other")
    params = BenchParams(
        prompt, generate, runs, acceptance if synthetic is not None else None, prompts
    )
    sizes = [] if parallel is None else _sizes(parallel)
    announce_kernels()
    with ExitStack() as stack:
        bar = stack.enter_context(Bar())
        if synthetic is not None:
            files = _write_models(stack, synthetic, keep, bar)
        manifest = TrioManifest.find(trio, files)
        machine = replace(machine, ctx=machine.ctx or max(prompt, generate, 512) + 64)
        context = machine.context(manifest)
        trimix = stack.enter_context(
            TriMix.load(
                trio,
                models=files,
                weights=weights,
                context=context,
                n_parallel=max(sizes, default=1),
                roles=[role for role in Role if role in {**manifest.models, **manifest.adapters}],
                on_progress=bar.loading,
            )
        )
        if sizes:
            found = run_parallel(trimix, sizes, n_runs=runs, on_progress=bar.update)
        else:
            report = run_bench(trimix, params, bar.update)
    if sizes:
        parallel_json(found) if as_json else parallel_table(found)
    elif as_json:
        print(json.dumps(_as_json(report)))
    else:
        _show(report)


def _sizes(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--parallel {text!r} is not numbers as in 1,2,4,8,16") from None


def _write_models(
    stack: ExitStack, synthetic: str, keep: Path | None, bar: Bar
) -> dict[Role, Path]:
    from functools import partial

    from trimix_edge.measure.synthetic import parse_synthetic

    models = parse_synthetic(synthetic)
    if keep is None:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="trimix-edge-")))
    else:
        folder = keep
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TargetError(f"--keep {folder}: {error.strerror or error}") from None
    paths = {}
    for seed, (role, model) in enumerate(models.items()):
        paths[role] = folder / f"{role}-{model.name}-{model.quantization}.gguf"
        if not paths[role].exists():
            model.write(paths[role], seed, partial(bar.update, f"writing {paths[role].name}"))
    return paths


def _show(report: BenchReport) -> None:
    from trimix_edge.files import megabytes

    console = output()
    params, mark = report.params, " (simulated)" if report.simulated else ""
    alone = report.measured.get("large_ins alone")
    rows = [
        (f"{role}, prompt", f"{params.n_prompt / seconds:.1f}", "", "", "", "")
        for role, seconds in report.prompt_seconds.items()
    ]
    for name, run in report.measured.items():
        case = run.case
        plain = report.measured[case.baseline] if case.baseline else None
        fused = len(case.weights.roles) > 1
        rows.append(
            (
                name,
                f"{run.tokens_per_second:.1f}",
                f"{run.speedup_over(plain):.2f}" if plain else "",
                f"{run.speedup_over(alone):.2f}" if alone and fused else "",
                "" if run.acceptance is None else f"{run.acceptance:.2f} of {run.drafted}",
                f"{run.outside_ms:.3f} ms  {run.outside_share:.1%}",
            )
        )
    header = ("", "tokens/s", "x plain", "x large_ins", f"accepted{mark}", "outside")
    show_table(header, rows, right=range(1, 6))
    console.print()
    lengths = sorted({n for run in report.measured.values() for n in run.arms})
    if lengths:
        arms = [
            (name, *(f"{rate:.1f} ({rounds})" for rate, rounds in (run.arms[n] for n in lengths)))
            for name, run in report.measured.items()
            if run.arms
        ]
        show_table(("tokens/s by draft length", *map(str, lengths)), arms)
        console.print("in brackets: rounds that drafted so many tokens\n", style="dim")
    rest = report.peak_memory - report.file_bytes - report.kv_bytes
    console.print(
        f"a prompt of {report.n_shared} tokens that shares 90 % of them with the one before starts "
        f"in {report.shared_start:.1%} of its time"
    )
    console.print(
        f"peak memory {megabytes(report.peak_memory)}: files {megabytes(report.file_bytes)}, "
        f"KV caches {megabytes(report.kv_bytes)}, the rest {megabytes(max(0, rest))}"
    )
    if report.simulated:
        console.print(
            f"Random weights: an acceptance of {params.acceptance:g} is simulated.", style="dim"
        )


def _as_json(report: BenchReport) -> dict[str, Any]:
    alone = report.measured.get("large_ins alone")
    rows = []
    for name, run in report.measured.items():
        case = run.case
        rows.append(
            {
                "case": name,
                "weights": [case.weights.large_ins, case.weights.small_cpt],
                "draft": str(case.draft),
                "sampled": case.sampling.temperature > 0,
                "tokens_per_second": run.tokens_per_second,
                "times_plain": run.speedup_over(report.measured[case.baseline])
                if case.baseline
                else None,
                "times_large_ins": run.speedup_over(alone) if alone else None,
                "outside_ms": run.outside_ms,
                "outside_share": run.outside_share,
                "tokens": run.tokens,
                "rounds": run.rounds,
                "drafted": run.drafted,
                "accepted": run.accepted,
                "by_draft_length": {
                    str(n): {"tokens_per_second": rate, "rounds": rounds}
                    for n, (rate, rounds) in run.arms.items()
                },
            }
        )
    params = report.params
    return {
        "acceptance_simulated": params.acceptance,
        "prompt": {
            str(role): {"tokens": params.n_prompt, "tokens_per_second": params.n_prompt / seconds}
            for role, seconds in report.prompt_seconds.items()
        },
        "cases": rows,
        "shared_start": {"tokens": report.n_shared, "share_of_time": report.shared_start},
        "peak_memory": report.peak_memory,
        "file_bytes": report.file_bytes,
        "kv_bytes": report.kv_bytes,
    }
