"""``trimix-edge evaluate``: a trio on benchmarks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated
from unicodedata import category

import typer

from trimix_edge import values
from trimix_edge.cli import groups, making
from trimix_edge.cli import options as opt
from trimix_edge.cli.console import Bar, announce_kernels, show_table, stderr
from trimix_edge.config import SamplingParams

_BENCHMARK, _RESULTS = "Benchmark", "Results"


Judge = Annotated[
    str,
    typer.Option(
        help="default reads letters and numbers as people write them; paper scores exactly as the "
        "paper's code.",
        rich_help_panel=_RESULTS,
    ),
]


@groups.expanded
def command(
    data: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="Holds TASK/LANG/test.json, or the files of the two general tasks.",
            rich_help_panel=_BENCHMARK,
            show_default=False,
        ),
    ],
    tasks: Annotated[
        str,
        typer.Option(help="Names with commas between, or all of DIR.", rich_help_panel=_BENCHMARK),
    ] = "all",
    langs: Annotated[
        str | None,
        typer.Option(
            help="Codes with commas between; all of DIR if absent.",
            rich_help_panel=_BENCHMARK,
            show_default=False,
        ),
    ] = None,
    direction: Annotated[
        str,
        typer.Option(
            help="Of translations, seen from the language: into, from or both.",
            rich_help_panel=_BENCHMARK,
        ),
    ] = "both",
    split: Annotated[str, typer.Option(help="test or dev.", rich_help_panel=_BENCHMARK)] = "test",
    limit: Annotated[
        int | None,
        typer.Option(
            help="Items of each task and language.", rich_help_panel=_BENCHMARK, show_default=False
        ),
    ] = None,
    shots: Annotated[
        int | None,
        typer.Option(
            help="Exemplars; if absent 5, 3 for titles, and 3 of each label where they are "
            "balanced.",
            rich_help_panel=_BENCHMARK,
            show_default=False,
        ),
    ] = None,
    exemplars: Annotated[
        str | None,
        typer.Option(
            help="first: the first of the file; balanced: the first of each label, shuffled. If "
            "absent as in the paper: balanced where there are labels.",
            rich_help_panel=_BENCHMARK,
            show_default=False,
        ),
    ] = None,
    max_chars: Annotated[
        int | None,
        typer.Option(
            help="Characters that are shown of a text (classification) or an article (titles); "
            "1024 if absent, 0 for all.",
            rich_help_panel=_BENCHMARK,
            show_default=False,
        ),
    ] = None,
    dev: Annotated[
        bool,
        typer.Option(
            "--dev",
            help="Let --rule saf:auto choose its host on dev data, for each task and language.",
            rich_help_panel=_BENCHMARK,
        ),
    ] = False,
    seed: Annotated[
        int,
        typer.Option(
            help="0, 1, 2 (the paper's 1, 2, 3): exemplars come from train_1.json, train_2.json, "
            "train_3.json; also of resampling.",
            rich_help_panel=_BENCHMARK,
        ),
    ] = 0,
    prompt_language: Annotated[
        str, typer.Option(help="Of the instructions: en, zh.", rich_help_panel=_BENCHMARK)
    ] = "en",
    templates: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Other wording, a TOML file like trimix_edge/evaluate/templates.toml.",
            rich_help_panel=_BENCHMARK,
            show_default=False,
        ),
    ] = None,
    chat: Annotated[
        bool | None,
        typer.Option(
            "--chat/--no-chat",
            help="Send prompts through the chat template of large_ins, or not; what the trio "
            "says if absent.",
            rich_help_panel=_BENCHMARK,
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The folder of results; evaluations/TRIO-FINGERPRINT if absent.",
            rich_help_panel=_RESULTS,
            show_default=False,
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Begin again in a folder that holds results.",
            rich_help_panel=_RESULTS,
        ),
    ] = False,
    judge: Judge = "default",
    keep_prompts: Annotated[
        bool,
        typer.Option(
            "--keep-prompts",
            help="Write each prompt beside its prediction.",
            rich_help_panel=_RESULTS,
        ),
    ] = False,
    print_prompts: Annotated[
        bool,
        typer.Option(
            "--print-prompts",
            help="Print the first prompt of each task, and do nothing else.",
            rich_help_panel=_RESULTS,
        ),
    ] = False,
    as_json: making.AsJson = False,
    trio: Annotated[
        str | None,
        typer.Option(
            help="An embedded trio's name, a trio.toml or its folder.",
            rich_help_panel="Models",
            show_default=False,
        ),
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            help="Weights of large_ins and small_cpt, as in 0.1,0.9, auto or entropy; may be "
            "repeated: each is a system, compared with the first.",
            rich_help_panel="Fusion",
            show_default=False,
        ),
    ] = None,
    rule: Annotated[
        list[str] | None,
        typer.Option(
            help="A rule beside TriMix: proxy, average, saf:HOST, saf:auto (with --dev), "
            "single:ROLE; may be repeated.",
            rich_help_panel="Fusion",
            show_default=False,
        ),
    ] = None,
    plausibility: opt.Mask = None,
    greedy: opt.Greedy = False,
    repeatable: opt.Repeatable = False,
    parallel: opt.Parallel = None,
    *,
    models: groups.Models,
    machine: groups.Machine,
) -> None:
    """Evaluate a trio on benchmarks; run again, it goes on where it stopped.

    Where every task is to choose a letter or a label, weights of Q4_K and Q2_K stay as they lie in
    the file on x86: that is the faster way to read."""
    from trimix_edge.evaluate.data import skipped
    from trimix_edge.evaluate.evaluation import evaluate
    from trimix_edge.evaluate.plan import Settings, sample_prompts
    from trimix_edge.evaluate.systems import System
    from trimix_edge.evaluate.tasks import Selection, parse_judge
    from trimix_edge.trios.manifest import TrioManifest

    selection = Selection.parse(
        data,
        tasks=tasks,
        languages=langs,
        direction=direction,
        split=split,
        shots=shots,
        exemplars=exemplars,
        max_chars=max_chars,
        limit=limit,
        seed=seed,
        prompt_language=prompt_language,
    )
    if print_prompts:
        show_prompts(sample_prompts(selection, templates), as_json=as_json)
        for text in skipped(selection):
            stderr.print(f"note: {text}", soft_wrap=True)
        return
    manifest = TrioManifest.find(trio, models.paths)
    mask = None if plausibility is None else values.plausibility(plausibility)
    context = machine.context(manifest, repeatable=repeatable)
    settings = Settings(
        selection=selection,
        manifest=manifest,
        systems=System.choose(weights or [], rule or [], mask, manifest, dev=dev),
        context=context,
        sampling=SamplingParams() if greedy or manifest.path is None else manifest.sampling,
        chat=manifest.chat if chat is None else chat,
        templates=templates,
        judge=parse_judge(judge),
        keep_prompts=keep_prompts,
        parallel=opt.parallel(parallel, manifest, context),
    )
    if stderr.is_terminal:
        stderr.print(f"({settings.parallel} items at once: --parallel)", style="dim")
    announce_kernels()
    with Bar() as bar:
        report = evaluate(
            settings,
            out,
            force=force,
            on_progress=bar.update,
            on_folder=lambda folder: stderr.print(f"results: {folder}", soft_wrap=True),
            on_note=lambda note: stderr.print(f"note: {note}", soft_wrap=True),
        )
    if as_json:
        print(json.dumps(report, ensure_ascii=False))
        return
    show(report)


def show_prompts(prompts: list[tuple[str, str]], *, as_json: bool) -> None:
    """Prompts by the names of their cells; what could steer a terminal is shown as U+FFFD."""
    if as_json:
        cells = [{"cell": cell, "prompt": prompt} for cell, prompt in prompts]
        print(json.dumps(cells, ensure_ascii=False))
        return
    for number, (cell, prompt) in enumerate(prompts):
        text = "".join("\ufffd" if category(c) == "Cc" and c not in "\n\t" else c for c in prompt)
        print(f"{chr(10) if number else ''}=== {cell} ===\n{text}")


def show(report: dict[str, object]) -> None:
    """The scores of a report, as a table on the terminal."""
    from trimix_edge.evaluate.show import result_table

    header, *rows = result_table(report)
    show_table(header, rows, right={*range(len(header))} - {0, 1, 3})
