"""``trimix-edge score``: what a known text costs, under the fusion and each model alone."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trimix_edge.cli import groups, making
from trimix_edge.cli import options as opt
from trimix_edge.cli.console import Bar, announce_kernels, show_table
from trimix_edge.errors import PromptError, UsageError

if TYPE_CHECKING:
    from trimix_edge.decoding.scoring import Score


@groups.expanded
def command(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TRIO] FILE|-",
            help="TRIO: as for generate; - reads the text from standard input. One line end after "
            "the last line is left out, and CR LF counts as LF.",
            show_default=False,
        ),
    ] = None,
    condition: Annotated[
        str | None,
        typer.Option(help="A prompt that comes before the text, not scored.", show_default=False),
    ] = None,
    condition_file: Annotated[
        Path | None, typer.Option(help="Read that prompt from a file.", show_default=False)
    ] = None,
    chat: Annotated[
        bool | None,
        typer.Option(
            "--chat/--no-chat",
            help="Send the condition through the chat template, or not; what the trio says if "
            "absent.",
            show_default=False,
        ),
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(
            help="Tokens that the window moves by on a text longer than the context; half the "
            "context if absent.",
            show_default=False,
        ),
    ] = None,
    as_json: making.AsJson = False,
    weights: opt.Weights = None,
    rule: opt.Rule = None,
    *,
    models: groups.Models,
    machine: groups.Machine,
) -> None:
    """Score a text: perplexity and bits a byte, for the fusion and each of its models alone.

    Known texts are read in larger batches than prompts, and on x86 weights of Q4_K and Q2_K stay
    as they lie in the file: that is the faster way to read."""
    from trimix_edge.trimix import TriMix
    from trimix_edge.trios.manifest import TrioManifest

    trio, text = _trio_and_text(arguments or [])
    if condition is not None and condition_file is not None:
        raise UsageError("give --condition or --condition-file, not both")
    if condition_file is not None:
        condition = opt.read_text(condition_file, "condition file", PromptError)
    files = models.paths
    announce_kernels()
    context = machine.context(TrioManifest.find(trio, files), reads=True)
    with (
        Bar() as bar,
        TriMix.load(
            trio,
            models=files,
            weights=weights,
            rule=rule,
            context=context,
            on_progress=bar.loading,
        ) as trimix,
    ):
        score = trimix.score(
            text,
            condition,
            chat=chat,
            stride=stride,
            on_progress=lambda done, total: bar.update(f"text of {total} tokens", done, total),
        )
        n_ctx = trimix.n_ctx
    if as_json:
        print(json.dumps(_as_json(score), ensure_ascii=False))
        return
    _print(score, n_ctx)


def _trio_and_text(arguments: list[str]) -> tuple[str | None, str]:
    if not arguments:
        raise UsageError("no text: name a file, or - to read it from standard input")
    if len(arguments) > 2:
        raise UsageError("too many arguments: score takes [TRIO] FILE|-")
    trio = arguments[0] if len(arguments) == 2 else None
    if arguments[-1] == "-":
        return trio, opt.read_stdin()
    return trio, opt.read_text(Path(arguments[-1]), "text", PromptError)


def _print(score: Score, n_ctx: int) -> None:
    told = f"{len(score.token_ids)} tokens, {score.n_bytes} bytes"
    if score.stride is not None:
        told += f"; a window of {n_ctx} tokens, moved by {score.stride}"
    if score.weights is not None:
        told += f"; weights {score.weights}"
        told += f", chosen by {score.chosen_by}" if score.chosen_by else ""
    print(told)
    rows = [
        (
            name,
            f"{scores.nll:.4f}",
            f"{scores.perplexity:.3f}",
            f"{scores.perplexity_error:.3f}",
            f"{scores.bits_per_byte:.4f}",
            f"{scores.greedy.mean():.1%}",
        )
        for name, scores in [
            ("fused", score.fused),
            *((str(r), s) for r, s in score.models.items()),
        ]
    ]
    header = ("", "nats a token", "perplexity", "±", "bits a byte", "likeliest")
    show_table(header, rows, right=range(1, 6))


def _as_json(score: Score) -> dict[str, Any]:
    def figures(scores: Any) -> dict[str, Any]:
        return {
            "nll": _finite(scores.nll),
            "perplexity": _finite(scores.perplexity),
            "perplexity_error": _finite(scores.perplexity_error),
            "bits_per_byte": _finite(scores.bits_per_byte),
            "logprobs": [_finite(p) for p in scores.logprobs.tolist()],
            "greedy": scores.greedy.tolist(),
        }

    return {
        "token_ids": score.token_ids,
        "n_bytes": score.n_bytes,
        "stride": score.stride,
        "weights": opt.weights_json(score.weights),
        "chosen_by": score.chosen_by,
        "fused": figures(score.fused),
        "models": {str(role): figures(scores) for role, scores in score.models.items()},
    }


def _finite(x: float) -> float | None:
    """JSON has no infinity."""
    return x if math.isfinite(x) else None
