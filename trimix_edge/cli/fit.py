"""``trimix-edge fit``: one pair of weights for a task or a language."""

from __future__ import annotations

import json
import math
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trimix_edge.cli import groups, making
from trimix_edge.cli import options as opt
from trimix_edge.cli.console import Bar, announce_kernels, output, show_table
from trimix_edge.errors import PromptError, TrioConfigError, UsageError, notice

if TYPE_CHECKING:
    from trimix_edge.measure.fit import Fit, Gain, HostFit


@groups.expanded
def command(
    trio: opt.Trio = None,
    text: Annotated[
        list[Path] | None,
        typer.Option(help="A text in the language; may be repeated.", show_default=False),
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(
            help="Labelled pairs, PROMPT<tab>REFERENCE a line: fits what the references cost "
            "after their prompts.",
            show_default=False,
        ),
    ] = None,
    chat: Annotated[
        bool | None,
        typer.Option(
            "--chat/--no-chat",
            help="Send the prompts through the chat template, or not; what the trio says if "
            "absent.",
            show_default=False,
        ),
    ] = None,
    method: Annotated[
        str, typer.Option(help="newton, the exact optimum, or grid, the paper's 36 pairs.")
    ] = "newton",
    rule: Annotated[
        str, typer.Option(help="trimix, or saf to choose the host of SAF-W.")
    ] = "trimix",
    save: Annotated[
        bool, typer.Option("--save", help="Write the weights into the trio's manifest.")
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw the perplexity of the grid, a PNG file.", show_default=False),
    ] = None,
    as_json: making.AsJson = False,
    *,
    models: groups.Models,
    machine: groups.Machine,
) -> None:
    """Fit the weights to texts without labels, or to labelled pairs.

    Known texts are read in larger batches than prompts, and on x86 weights of Q4_K and Q2_K stay
    as they lie in the file: that is the faster way to read."""
    from trimix_edge.config import FusionWeights, RuleChoice
    from trimix_edge.fusion.by_prompt import WeightGrid
    from trimix_edge.measure.fit import (
        TextSource,
        fit_host,
        fit_weights,
        mean_nll,
        read_pairs,
        samples_of,
    )
    from trimix_edge.trimix import TriMix
    from trimix_edge.trios.manifest import TrioManifest
    from trimix_edge.trios.saving import check_savable, rounded, save_weights
    from trimix_edge.trios.source import WeightSource, hashes
    from trimix_edge.weights import WeightChoice

    if method not in ("newton", "grid"):
        raise UsageError(f"method is {method!r}, it must be newton or grid")
    if rule not in ("trimix", "saf"):
        raise UsageError(f"fit --rule is {rule!r}, it must be trimix or saf")
    if not text and pairs is None:
        raise UsageError("nothing to fit to: name a text with --text, or pairs with --pairs")
    files = models.paths
    manifest = TrioManifest.find(trio, files)
    if save and (manifest.path is None or rule == "saf"):
        why = "there is no manifest" if manifest.path is None else "a manifest holds no SAF-W host"
        raise TrioConfigError(f"--save: {why}, only trimix's weights in a trio.toml can be saved")
    if save and files:
        raise TrioConfigError(
            "--save: the weights would not be those of the trio's own models: leave --large-ins, "
            "--small-cpt and --small-base away"
        )
    if save and manifest.path is not None:
        check_savable(manifest.path)
    plt = None if plot is None else making.pyplot()
    texts = [opt.read_text(path, "text", PromptError) for path in text or []]
    read = (
        [] if pairs is None else read_pairs(opt.read_text(pairs, "pairs", PromptError), str(pairs))
    )
    grid = WeightGrid({*manifest.models, *manifest.adapters})
    choice = RuleChoice("saf") if rule == "saf" else None
    context = machine.context(manifest, reads=True)
    announce_kernels()
    with (
        Bar() as bar,
        TriMix.load(
            trio,
            models=files,
            weights=WeightChoice.ALL if choice is None else None,
            rule=choice,
            context=context,
            n_parallel=opt.parallel(None, manifest, context) if read or len(texts) > 1 else None,
            on_progress=bar.loading,
        ) as trimix,
    ):
        roles = grid.roles if choice is None else trimix.roles
        source = TextSource(trimix, roles, samples_of(trimix, texts, read, chat=chat), bar.update)
        if choice is not None:
            host = fit_host(source)
        else:
            present = manifest.weights if isinstance(manifest.weights, FusionWeights) else None
            if present is not None and not set(present.roles) <= set(grid.roles):
                present = None
            fit = fit_weights(source, grid, method=method, current=present)
            if texts and (manifest.chat if chat is None else chat):
                answers = None
                if read:
                    only = TextSource(
                        trimix, roles, samples_of(trimix, [], read, chat=chat), bar.update
                    )
                    answers = [
                        None if pair is None else mean_nll(only, grid, pair)
                        for pair in (fit.weights, present)
                    ]
                notice(fluency_warning(manifest.name, fit, answers))
    if choice is not None:
        _tell_host(host, as_json=as_json)
        return
    if plt is not None and plot is not None:
        _draw(plt, fit, plot)
    if as_json:
        print(json.dumps(_as_json(fit)))
    else:
        _print(fit)
    if save and manifest.path is not None:
        paths = [*(text or []), *([] if pairs is None else [pairs])]
        kept = rounded(fit.weights)
        flags = ["--text"] * bool(text) + ["--pairs"] * (pairs is not None)
        source_of = WeightSource(
            weights=f"{kept.large_ins!r}, {kept.small_cpt!r}",
            method=" ".join(["fit", *flags, "--method", method]),
            files=tuple(path.name for path in paths),
            sha256=hashes(paths),
            date=datetime.now(timezone.utc).date().isoformat(),
            nats=f"{fit.newton_nll if fit.newton_nll is not None else fit.best_nll:.5f}",
            n_tokens=fit.n_tokens,
        )
        save_weights(manifest.path, fit.weights, source_of)
        if not as_json:
            print(f"saved in {manifest.path}")


def fluency_warning(name: str, fit: Fit, answers: list[float | None] | None) -> str:
    """What weights that were fitted to a text may do to a trio that answers prompts.

    Args:
        answers: nats a token of the pairs' references with the new weights and with the present
            ones; None without pairs.
    """
    new = fit.best_nll if fit.newton_nll is None else fit.newton_nll

    def both(after: float, before: float | None) -> str:
        said = f"{after:.4f} nats ({after / math.log(2):.4f} bits) a token with the new weights"
        if before is None:
            return said
        return f"{said}, {before:.4f} ({before / math.log(2):.4f}) with the present ones"

    if answers is None or answers[0] is None:
        told = "what they do to answers is not known: add --pairs to see it"
    else:
        told = f"the references of the pairs: {both(answers[0], answers[1])}"
    return (
        f"{name} answers prompts, and weights that are fitted to a text fit its fluency: answers "
        f"may become worse. What was fitted: {both(new, fit.current_nll)}; {told}. Pairs alone, "
        f"with --pairs, fit answers"
    )


def _gain(gain: Gain | None) -> list[float] | None:
    return None if gain is None else [gain.nats, gain.error]


def _as_json(fit: Fit) -> dict[str, Any]:
    return {
        "method": fit.method,
        "weights": opt.weights_json(fit.weights),
        "grid": [
            {"weights": opt.weights_json(pair), "nll": nll}
            for pair, nll in zip(fit.pairs, fit.grid.tolist(), strict=True)
        ],
        "grid_best": {"weights": opt.weights_json(fit.best_pair), "nll": fit.best_nll},
        "newton": {"weights": opt.weights_json(fit.newton), "nll": fit.newton_nll},
        "present": {"weights": opt.weights_json(fit.current), "nll": fit.current_nll},
        "gain_on_present": _gain(fit.gain_on_current),
        "gain_on_grid": _gain(fit.gain_on_grid),
        "n_tokens": fit.n_tokens,
        "n_steps": fit.n_steps,
    }


def _print(fit: Fit) -> None:
    console = output()
    rows = [
        ("grid's best", fit.best_pair, fit.best_nll),
        (f"Newton, {fit.n_steps} steps", fit.newton, fit.newton_nll),
        ("present", fit.current, fit.current_nll),
    ]
    shown = [
        (
            name,
            f"{pair.large_ins:.4g}, {pair.small_cpt:.4g}, {pair.small_base:.4g}",
            f"{nll:.5f}",
            f"{math.exp(min(nll, 700)):.4f}",
        )
        for name, pair, nll in rows
        if pair is not None and nll is not None
    ]
    console.print(f"{fit.n_tokens} tokens")
    header = ("", "large_ins, small_cpt, small_base", "nats a token", "perplexity")
    show_table(header, shown, right=(2, 3), console=console)
    for name, gain in (("present weights", fit.gain_on_current), ("grid's best", fit.gain_on_grid)):
        if gain is not None:
            console.print(f"gain on the {name}: {gain.nats:.5f} ± {gain.error:.5f} nats a token")
    _print_surface(fit)


def _print_surface(fit: Fit) -> None:
    """The grid's perplexities, the better the greener."""
    import numpy as np
    from rich.table import Table
    from rich.text import Text

    from trimix_edge.fusion.by_prompt import GRID
    from trimix_edge.measure.fit import heat_map

    surface = heat_map(fit)
    if surface is None:
        return
    table = Table("", *(f"{w:g}" for w in GRID), box=None, padding=0)
    logs = np.log(surface)
    shades = (logs - logs.min()) / max(float(np.ptp(logs)), 1e-12)
    for w, row, shade in zip(GRID, surface, shades, strict=True):
        cells = []
        for value, heat in zip(row, shade, strict=True):
            red, green = int(60 + 160 * heat**0.5), int(160 - 120 * heat**0.5)
            told = f"{value:.4g}" if value < 9999.5 else f"{value:.2e}"
            cells.append(Text(f" {told:>8}", style=f"white on rgb({red},{green},50)"))
        table.add_row(f"{w:g}", *cells)
    console = output()
    console.print(
        "perplexity of the fitted tokens, the greener the lower; down: the weight of large_ins, "
        "across: the weight of small_cpt; small_base has the rest of 1"
    )
    console.print(table)


def _tell_host(host: HostFit, *, as_json: bool) -> None:
    if as_json:
        nll = {str(role): value for role, value in host.nll.items()}
        found = {"rule": str(host.rule), "nll": nll, "gain": _gain(host.gain)}
        print(json.dumps({**found, "n_tokens": host.n_tokens}))
        return
    for role, value in host.nll.items():
        print(f"host {role}: {value:.5f} nats a token")
    print(
        f"gain: {host.gain.nats:.5f} ± {host.gain.error:.5f} nats a token, {host.n_tokens} tokens"
    )
    print(f"--rule {host.rule}")


def _draw(plt: Any, fit: Fit, target: Path) -> None:
    from trimix_edge.files import replacing
    from trimix_edge.fusion.by_prompt import GRID
    from trimix_edge.measure.fit import heat_map

    surface = heat_map(fit)
    if surface is None:
        raise UsageError("--plot draws the grid of three models, this trio has two")
    figure, axes = plt.subplots(figsize=(6, 5), layout="constrained")
    image = axes.imshow(surface, origin="lower", cmap="viridis_r", norm="log")
    ticks = [f"{w:g}" for w in GRID]
    axes.set_xticks(range(len(GRID)), ticks)
    axes.set_yticks(range(len(GRID)), ticks)
    axes.set_xlabel("weight of small_cpt")
    axes.set_ylabel("weight of large_ins")
    for i, row in enumerate(surface):
        for j, value in enumerate(row):
            shade = "white" if image.norm(value) > 0.5 else "black"
            axes.text(j, i, f"{value:.4g}", ha="center", va="center", fontsize=8, color=shade)
    figure.colorbar(image, label="perplexity")
    with replacing(target) as scratch:
        figure.savefig(scratch, format="png", dpi=150)
    plt.close(figure)
