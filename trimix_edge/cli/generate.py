"""``trimix-edge generate``: continue a prompt."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from trimix_edge.cli import groups
from trimix_edge.cli import options as opt
from trimix_edge.cli.console import Bar, announce_kernels, stderr, write
from trimix_edge.cli.lines import generate_lines, n_written
from trimix_edge.cli.records import as_record, token_record
from trimix_edge.cli.traffic import Traffic
from trimix_edge.config import FusionWeights
from trimix_edge.errors import PromptCacheError, PromptError, UsageError, notice

if TYPE_CHECKING:
    from trimix_edge.decoding.prepare import Prompt
    from trimix_edge.trimix import TriMix


@groups.expanded
def command(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TRIO] PROMPT|-",
            help="TRIO: an embedded trio's name, a trio.toml or its folder; - reads the prompt "
            "from standard input.",
            show_default=False,
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            "-f",
            help="Read the prompt from a file. Of files and standard input, one line end after the "
            "last line is left out, and CR LF counts as LF.",
            show_default=False,
        ),
    ] = None,
    max_tokens: opt.MaxTokens = None,
    stop: opt.Stop = None,
    chat: Annotated[
        bool | None,
        typer.Option(
            "--chat/--no-chat",
            help="Send the prompt through the chat template of large_ins, or not; "
            "what the trio says if absent.",
            show_default=False,
        ),
    ] = None,
    system: Annotated[
        str | None, typer.Option(help="A system message; implies --chat.", show_default=False)
    ] = None,
    shots: Annotated[
        int,
        typer.Option(
            help="Put so many of the trio's exemplars before the prompt, as turns of the chat "
            "template.",
            show_default=False,
        ),
    ] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of streaming.")
    ] = False,
    as_stream: Annotated[
        bool,
        typer.Option(
            "--stream", help="With --json: a JSON line a token first; the last line is the object."
        ),
    ] = False,
    logprobs: Annotated[
        int | None,
        typer.Option(
            help="With --json: the log-probability of each token, and so many alternatives.",
            show_default=False,
        ),
    ] = None,
    lines: Annotated[
        bool,
        typer.Option(
            "--lines", help="A generation for each line of the prompt, several at once, in order."
        ),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="With --lines: append the answers to this file; lines that it holds already are "
            "not generated again.",
            show_default=False,
        ),
    ] = None,
    parallel: opt.Parallel = None,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain",
            help="Colour each token by the model that carried it; without colours, a line a token "
            "with each model's share.",
        ),
    ] = False,
    draft: opt.DraftLength = None,
    repeatable: opt.Repeatable = False,
    prompt_cache: opt.PromptCache = None,
    *,
    models: groups.Models,
    fusion: groups.Fusion,
    sampling: groups.Sampling,
    machine: groups.Machine,
) -> None:
    """Continue a prompt, streaming to the terminal."""
    from trimix_edge.decoding.prompt_cache import refuse_other_files
    from trimix_edge.files import check_target
    from trimix_edge.trimix import TriMix
    from trimix_edge.trios.exemplars import conversation, read_exemplars
    from trimix_edge.trios.manifest import TrioManifest

    files = models.paths
    trio, prompt = _trio_and_prompt(arguments or [], file)
    manifest = TrioManifest.find(trio, files)
    samplers = sampling.given(manifest)
    if shots < 0:
        raise UsageError(f"--shots is {shots}: give 0 or more")
    if shots and chat is False:
        raise UsageError("--shots are turns of the chat template: leave --no-chat away")
    exemplars = read_exemplars(manifest, shots) if shots else []
    context = machine.context(manifest, repeatable=repeatable)
    if output is not None and not lines:
        raise UsageError("--output is for --lines: redirect the output of a single prompt")
    if as_stream and (lines or not as_json):
        raise UsageError("--stream is for --json, and not for --lines: leave it away")
    if logprobs is not None and not as_json:
        raise UsageError("--logprobs is for --json: give it beside")
    n_done = n_written(output) if output is not None else 0
    if output is not None:
        check_target(output, overwrite=True)
    if manifest.lines and not lines and "\n" in prompt.strip():
        notice(f"{manifest.name} reads one line at a time: --lines generates for each line")
    length = opt.draft(draft, manifest, fusion.weights, repeatable=repeatable)
    if prompt_cache is not None and repeatable:
        raise UsageError("--repeatable reads the whole prompt each time: leave --prompt-cache away")
    if prompt_cache is not None:
        check_target(prompt_cache, overwrite=True)
        refuse_other_files(prompt_cache)
    announce_kernels()
    with Bar() as bar:
        trimix = TriMix.load(
            trio,
            models=files,
            weights=fusion.weights,
            rule=fusion.rule,
            plausibility=fusion.plausibility,
            context=context,
            n_parallel=opt.parallel(parallel, manifest, context) if lines else None,
            on_progress=bar.loading,
        )
        with trimix:
            settings: dict[str, Any] = {
                "chat": chat,
                "max_tokens": max_tokens,
                "stop": stop,
                "sampling": samplers,
                "explain": explain,
                "draft": length,
                "logprobs": False if logprobs is None else logprobs,
                "on_progress": bar.prompt,
            }
            if prompt_cache is not None:
                _take_up(trimix, prompt_cache)

            def as_prompt(text: str) -> Prompt:
                if system is None and not exemplars:
                    return text
                first = [] if system is None else [{"role": "system", "content": system}]
                return cast("Prompt", [*first, *conversation(exemplars, text)])

            turns = as_prompt(prompt)
            if lines:
                settings.update(on_progress=None)
                with ExitStack() as stack:
                    out = sys.stdout
                    if output is not None:
                        out = stack.enter_context(output.open("a", encoding="utf-8"))
                    generate_lines(
                        trimix,
                        prompt.split("\n") if prompt else [],
                        as_prompt,
                        settings,
                        out,
                        bar,
                        n_done=n_done,
                        to_json=partial(as_record, vocab=trimix, load_seconds=trimix.load_seconds)
                        if as_json
                        else None,
                    )
            elif as_json:
                stream = trimix.stream(turns, **settings)
                traffic = Traffic(trimix)
                for chunk in traffic.counted(stream):
                    if as_stream:
                        line = json.dumps(token_record(chunk, trimix), ensure_ascii=False)
                        write(line + "\n")
                result = stream.run.result()
                record = as_record(result, vocab=trimix, load_seconds=trimix.load_seconds)
                record |= traffic.record()
                print(json.dumps(record, ensure_ascii=False))
            else:
                _stream(trimix, turns, settings)
            if prompt_cache is not None:
                trimix.save_prompt_cache(prompt_cache)


def _stream(trimix: TriMix, turns: Prompt, settings: dict[str, Any]) -> None:
    from trimix_edge.cli.explain import Explainer

    reason = in_force = None
    explainer = Explainer() if settings["explain"] else None
    traffic = Traffic(trimix)
    for chunk in traffic.counted(trimix.stream(turns, **settings)):
        if explainer is None:
            write(chunk.text)
        else:
            explainer.show(chunk.text, chunk.shares)
        reason, in_force = chunk.finish_reason or reason, chunk.weights
    write("\n")
    if explainer is not None:
        stderr.print(explainer.legend())
    if traffic.servers:
        stderr.print(str(traffic), style="dim", soft_wrap=True)
    if not isinstance(trimix.manifest.weights, FusionWeights) and in_force and stderr.is_terminal:
        stderr.print(f"(weights {in_force}, chosen for this prompt)", style="dim")
    if reason in ("length", "context") and stderr.is_terminal:
        limit = "--max-tokens" if reason == "length" else "--ctx"
        stderr.print(f"(cut short by {limit})", style="dim")


def _take_up(trimix: TriMix, path: Path) -> None:
    """Begin with a prompt cache; one that is of no use is replaced at the end."""
    if not path.exists():
        return
    try:
        trimix.load_prompt_cache(path)
    except PromptCacheError as error:
        stderr.print(f"trimix-edge: {error}; it is ignored", soft_wrap=True)


def _trio_and_prompt(arguments: list[str], file: Path | None) -> tuple[str | None, str]:
    """Read ``[TRIO] PROMPT|-``, or ``[TRIO]`` where ``--file`` holds the prompt."""
    from trimix_edge.trios.manifest import is_trio

    expected = 1 if file else 2
    if len(arguments) > expected:
        raise UsageError("too many arguments: quote the prompt, as in generate 'Save the file.'")
    trio = arguments[0] if len(arguments) == expected else None
    if file is not None:
        prompt = opt.read_text(file, "prompt file", PromptError)
    elif not arguments:
        raise UsageError("no prompt: give one, or - to read it from standard input")
    elif len(arguments) == 1 and is_trio(arguments[0]):
        raise UsageError(f"no prompt: {arguments[0]} is a trio; give it something to continue")
    else:
        prompt = opt.read_stdin() if arguments[-1] == "-" else arguments[-1]
    if not prompt:
        raise PromptError("the prompt is empty: there is nothing to continue")
    return trio, prompt
