"""``trimix-edge compare-quants``: what quantisation costs on given texts, in one table."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trimix_edge.cli import making
from trimix_edge.cli import options as opt
from trimix_edge.cli.console import Bar, output, show_table
from trimix_edge.errors import PromptError, UsageError

if TYPE_CHECKING:
    from trimix_edge.measure.compare_quants import Comparison
    from trimix_edge.measure.quant_loss import Variant

_NONE = "none"
_UNITS = {"": 1, "K": 1e3, "M": 1e6, "G": 1e9, "KI": 2**10, "MI": 2**20, "GI": 2**30}


def command(
    model: Annotated[
        Path,
        typer.Argument(metavar="MODEL.gguf", help="The model, unquantised.", show_default=False),
    ],
    types: Annotated[
        str,
        typer.Option(help="llama.cpp's names, as Q8_0,Q4_K_M,IQ3_M,Q2_K.", show_default=False),
    ],
    text: Annotated[
        list[Path],
        typer.Option(
            "--text",
            "-f",
            help="A text to measure on; several are told apart. The recommendation is for the "
            "first.",
            show_default=False,
        ),
    ],
    imatrix: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE|none",
            help="Make each type with this importance matrix; several are compared; none is "
            "without.",
            show_default=False,
        ),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            help="Recommend a type that runs in so much: 2GB, 512MB; this machine's if absent.",
            show_default=False,
        ),
    ] = None,
    ctx: Annotated[
        int | None,
        typer.Option("--ctx", "-c", help="Tokens of a chunk; 512 if absent.", show_default=False),
    ] = None,
    chunks: Annotated[int, typer.Option(help="Chunks of each text, at most.")] = 40,
    allow_requantize: Annotated[
        bool, typer.Option("--allow-requantize", help="The model may be quantised already.")
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw bits a byte over size, a PNG file.", show_default=False),
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a Markdown table.")] = False,
    threads: opt.Threads = None,
    as_json: making.AsJson = False,
) -> None:
    """Quantise a model to several types and measure what each one costs on texts."""
    from trimix_edge.config import ContextParams
    from trimix_edge.measure.compare_quants import compare_quants, recommend
    from trimix_edge.measure.quant_loss import Text

    if as_json and markdown:
        raise UsageError("give --json or --markdown, not both")
    limit = _memory(memory)
    plt = None if plot is None else making.pyplot()
    texts = [Text(str(path), opt.read_text(path, "text", PromptError)) for path in text]
    with Bar() as bar:
        comparison = compare_quants(
            model,
            [name for name in types.split(",") if name.strip()],
            texts,
            imatrices=[None if name == _NONE else Path(name) for name in imatrix or [_NONE]],
            chunk_size=ctx,
            max_chunks=chunks,
            threads=ContextParams(n_threads=threads or 0).n_threads,
            allow_requantize=allow_requantize,
            on_progress=bar.update,
        )
    chosen = recommend(comparison, limit)
    if plt is not None and plot is not None:
        _draw(plt, comparison, plot)
    if as_json:
        print(json.dumps(_as_json(comparison, chosen, limit), ensure_ascii=False))
        return
    _print(comparison, chosen, limit, markdown=markdown)


def _memory(text: str | None) -> int:
    if text is None:
        from trimix_edge.llama.backend import backend_info

        return backend_info().memory
    match = re.fullmatch(r"\s*([\d.]+)\s*([KMG]?I?)B?\s*", text.upper())
    try:
        n_bytes = float(match[1]) * _UNITS[match[2]] if match else 0.0
    except (ValueError, KeyError):
        n_bytes = 0.0
    if n_bytes < 1:
        raise UsageError(f"memory is {text!r}, it must be a size such as 512MB or 2GB")
    return int(n_bytes)


def _variants(comparison: Comparison) -> Iterator[Variant]:
    yield comparison.base
    yield from comparison.variants


def _print(comparison: Comparison, chosen: Variant | None, limit: int, *, markdown: bool) -> None:
    from trimix_edge.files import megabytes

    say = output().print

    head = ["type", "size", "tokens/s"]
    for i, loss in enumerate(comparison.base.losses):
        name = Path(loss.text).name
        head += [f"{name}: bits/byte", "more than as given (95 %)", "KL, nats (95 %)", "same top"]
        say(
            f"{name}: {comparison.n_chunks[i]} chunks of {comparison.chunk_size} tokens, "
            f"{comparison.n_tokens[i]} tokens scored"
        )
    rows = [_row(variant, variant is comparison.base) for variant in _variants(comparison)]
    if markdown:
        _print_markdown(head, rows)
    else:
        show_table(head, rows, right=range(1, len(head)))
    notes: dict[str, list[str]] = {}
    for variant in comparison.variants:
        for note in variant.notes:
            notes.setdefault(note, []).append(variant.name)
    for note, names in notes.items():
        say(f"{', '.join(names)}: {note}")
    what = f"in {megabytes(limit)} of memory, for {Path(comparison.base.losses[0].text).name}"
    if chosen is None:
        say(f"{what}: none of these runs")
        return
    say(
        f"{what}: {chosen.name}, which takes {megabytes(chosen.n_memory)}: of those that fit, "
        f"the closest to the model as given, by KL divergence"
    )


def _row(variant: Variant, is_base: bool) -> list[str]:
    from trimix_edge.files import megabytes

    speed = "" if math.isnan(variant.tokens_per_second) else f"{variant.tokens_per_second:.1f}"
    name = f"{variant.name} (as given)" if is_base else variant.name
    row = [name, megabytes(variant.n_bytes), speed]
    for loss in variant.losses:
        more, low, high = loss.change
        kl, kl_low, kl_high = loss.kl
        row += [
            f"{loss.bits_per_byte:.4f}",
            "" if is_base else f"{more:+.4f} ({low:+.4f} to {high:+.4f})",
            "" if is_base else f"{kl:.4f} ({kl_low:.4f} to {kl_high:.4f})",
            "" if is_base else f"{loss.same_top:.1%}",
        ]
    return row


def _print_markdown(head: list[str], rows: list[list[str]]) -> None:
    for row in (head, ["---"] * len(head), *rows):
        print(f"| {' | '.join(row + [''] * (len(head) - len(row)))} |")


def _as_json(comparison: Comparison, chosen: Variant | None, limit: int) -> dict[str, Any]:
    def figures(variant: Variant) -> dict[str, Any]:
        speed = variant.tokens_per_second
        return {
            "type": variant.type,
            "imatrix": None if variant.imatrix is None else str(variant.imatrix),
            "n_bytes": variant.n_bytes,
            "n_memory": variant.n_memory,
            "tokens_per_second": None if math.isnan(speed) else speed,
            "notes": variant.notes,
            "texts": [
                {
                    "text": loss.text,
                    "bits_per_byte": loss.bits_per_byte,
                    "change": loss.change,
                    "kl": loss.kl,
                    "same_top": loss.same_top,
                }
                for loss in variant.losses
            ],
        }

    return {
        "model": str(comparison.model),
        "chunk_size": comparison.chunk_size,
        "chunks": comparison.n_chunks,
        "tokens": comparison.n_tokens,
        "base": figures(comparison.base),
        "variants": [figures(variant) for variant in comparison.variants],
        "memory": limit,
        "recommended": None if chosen is None else figures(chosen),
    }


def _draw(plt: Any, comparison: Comparison, target: Path) -> None:
    from trimix_edge.files import replacing

    texts = [loss.text for loss in comparison.base.losses]
    figure, grid = plt.subplots(
        1, len(texts), figsize=(5 * len(texts), 4), layout="constrained", squeeze=False
    )
    matrices = list(dict.fromkeys(variant.imatrix for variant in comparison.variants))
    for i, (name, axes) in enumerate(zip(texts, grid[0], strict=True)):
        base = comparison.base
        axes.axhline(base.losses[i].bits_per_byte, color="grey", lw=0.8, label=f"{base.name}")
        for matrix in matrices:
            drawn = [v for v in comparison.variants if v.losses and v.imatrix == matrix]
            sizes = [variant.n_bytes / 1e6 for variant in drawn]
            bits = [variant.losses[i].bits_per_byte for variant in drawn]
            axes.plot(sizes, bits, "o", label="no matrix" if matrix is None else matrix.name)
            for variant, size, bit in zip(drawn, sizes, bits, strict=True):
                axes.annotate(variant.type, (size, bit), fontsize=7)
        axes.set(title=Path(name).name, xlabel="MB", ylabel="bits a byte")
        axes.legend(fontsize=7)
    with replacing(target) as temporary:
        figure.savefig(temporary, format="png")
    plt.close(figure)
