"""What fusion does, in some seconds: three sentences, then a table over 40 held-out ones.

make demo
"""

from __future__ import annotations

import csv
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import numpy as np
from rich.console import Console

from trimix_edge import FusionWeights, Role, TriMix
from trimix_edge.cli.console import show_table
from trimix_edge.cli.explain import Explainer
from trimix_edge.errors import Notice
from trimix_edge.evaluate.bootstrap import Floats, Interval, Score, resample
from trimix_edge.evaluate.metrics import Answered, chrf_score, chrf_statistics
from trimix_edge.fusion.by_prompt import WeightGrid
from trimix_edge.measure.fit import TextSource, fit_weights, samples_of

HELDOUT = Path(__file__).parent / "dzongkha_trio" / "heldout"
STREAMED = ("Click OK to close the dialog.", "Opens the selected file.", "Print the document.")
DEV_STEP, TEST_STEP, N_TEST = 6, 9, 40
BAR = 12
FITTED = "TriMix, fitted"

console = Console(highlight=False, soft_wrap=True)


class Item(NamedTuple):
    english: str
    dzongkha: str


@dataclass(frozen=True)
class Measured:
    """One system.

    Attributes:
        bits: bits and bytes of each reference, float64 ``[n_items, 2]``.
        ngrams: what chrF++ is computed from; None without sacrebleu.
        speed: tokens and characters a second.
    """

    bits: Floats
    ngrams: Floats | None
    speed: tuple[float, float]


def read(split: str, step: int) -> list[Item]:
    """Every ``step``-th item, so that all pages have a part."""
    with (HELDOUT / f"{split}.tsv").open(encoding="utf-8", newline="") as file:
        return [Item(english, dz) for _, _, english, dz in csv.reader(file, delimiter="\t")][::step]


def bits_per_byte(sums: Floats) -> Floats:
    ratio: Floats = sums[..., 0] / sums[..., 1]
    return ratio


def stream(trimix: TriMix) -> None:
    """Text in the colour of the model that carried it."""
    explainer = Explainer(Console(highlight=False, markup=False, soft_wrap=True))
    for english in STREAMED:
        console.print(f"[bold]{english}[/bold]")
        for chunk in trimix.stream(english, explain=True):
            if explainer.has_colours:
                explainer.show(chunk.text, chunk.shares)
            else:
                print(chunk.text, end="", flush=True)
        print("\n")
    if explainer.has_colours:
        console.print(explainer.legend())


def measure(trimix: TriMix, weights: FusionWeights, items: Sequence[Item]) -> Measured:
    bits, answers, seconds, n_tokens = [], [], 0.0, 0
    for english, reference in items:
        score = trimix.score(f" {reference}", english, weights=weights, roles=(), chat=True)
        bits.append((-score.fused.logprobs.sum() / math.log(2), len(reference.encode())))
        start = perf_counter()
        result = trimix.generate(english, weights=weights, max_tokens=100, draft="off")
        seconds += perf_counter() - start
        n_tokens += len(result.token_ids)
        answers.append(Answered(result.text, reference))
    ngrams = chrf_statistics(answers) if find_spec("sacrebleu") else None
    n_characters = sum(len(answer.output) for answer in answers)
    return Measured(np.array(bits), ngrams, (n_tokens / seconds, n_characters / seconds))


def difference(ours: Floats, theirs: Floats, score: Score) -> Interval:
    """A paired difference and its 95 % interval, resampled by sentence."""
    a, b = resample([ours, theirs], score, "demo", seed=0)
    return Interval.of(float(score(ours.sum(axis=0)) - score(theirs.sum(axis=0))), a - b)


def shown(interval: Interval, digits: int) -> str:
    low, high = f"{interval.low:+.{digits}f}", f"{interval.high:+.{digits}f}"
    return f"{interval.value:+.{digits}f} ({low} to {high})"


def rows(systems: dict[str, Measured], single: str) -> list[tuple[str, ...]]:
    """How likely the human translation is, how close the model's own is to it, and how fast."""
    bits = {name: float(bits_per_byte(s.bits.sum(axis=0))) for name, s in systems.items()}
    found = []
    for name, system in systems.items():
        less = difference(system.bits, systems[single].bits, bits_per_byte)
        row = (
            name,
            f"{bits[name]:.4f}",
            "█" * round(BAR * bits[name] / max(bits.values())),
            "" if name == single else shown(less, 4),
            "" if system.ngrams is None else f"{chrf_score(system.ngrams.sum(axis=0)):.1f}",
            *(f"{speed:.0f}" for speed in system.speed),
        )
        found.append(row)
    return found


def conclusion(ours: Measured, single: str, other: Measured) -> str:
    """What the intervals allow to say."""
    bits = difference(ours.bits, other.bits, bits_per_byte)
    said = (
        "likelier than" if bits.high < 0 else "less likely than" if bits.low > 0 else "as likely as"
    )
    text = f"With TriMix the human translation is {said} with {single}, the best single model"
    if ours.ngrams is None or other.ngrams is None:
        return f"{text}. For chrF++: pip install 'trimix-edge[evaluate]'."
    chrf = difference(ours.ngrams, other.ngrams, chrf_score)
    said = "ahead" if chrf.low > 0 else "behind" if chrf.high < 0 else "not told apart"
    return f"{text}; by chrF++ TriMix is {said} ({shown(chrf, 1)})."


def main() -> None:
    warnings.simplefilter("ignore", Notice)  # a small model alone repeats itself
    with TriMix.load("dzongkha", roles=list(Role)) as trimix:
        stream(trimix)
        dev = [(english, f" {dzongkha}") for english, dzongkha in read("dev", DEV_STEP)]
        source = TextSource(trimix, list(Role), samples_of(trimix, [], dev, chat=True))
        fitted = fit_weights(source, WeightGrid(set(Role)), current=None).weights
        items = read("test", TEST_STEP)[:N_TEST]
        settings = {
            **{str(role): FusionWeights.single(role) for role in Role},
            "Proxy Tuning": FusionWeights.PROXY_TUNING,
            f"TriMix {trimix.manifest.weights}": trimix.manifest.weights,
            FITTED: fitted,
        }
        systems = {}
        for name, weights in settings.items():
            trimix.generate("OK", weights=weights)  # the first use of a kernel compiles it
            systems[name] = measure(trimix, weights, items)
    single = min(map(str, Role), key=lambda name: bits_per_byte(systems[name].bits.sum(axis=0)))
    w = ", ".join(f"{fitted.of(role):.2f}" for role in Role)
    console.print(f"{len(items)} held-out sentences; ({w}) are fitted to {len(dev)} others.")
    console.print("Fewer bits a byte: the human translation is likelier.")
    console.print("Higher chrF++: the system's own translation is closer to it.\n")
    header = ("system", "bits a byte", "", f"less {single} (95 %)", "chrF++", "tokens/s", "chars/s")
    show_table(header, rows(systems, single), right=(1, 4, 5, 6))
    console.print(f"\n{conclusion(systems[FITTED], single, systems[single])}")


if __name__ == "__main__":
    main()
