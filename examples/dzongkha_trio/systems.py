"""Every system beside every other: likelihood, decoding and time on the same held-out items.

Whatever has a setting gets it on dev: Newton's weights and the host of SAF-W. TriMix-PPL chooses
its weights for each prompt.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from likelihood import (
    ROLES,
    TOKENS_AT_ONCE,
    Bootstrap,
    Floats,
    Item,
    References,
    bits_per_byte,
    fused_nll,
)
from rich.box import MARKDOWN
from rich.progress import track
from rich.table import Table
from trimix_kernels import token_logprobs

from trimix_edge import FusionWeights, Role, TriMix
from trimix_edge.config import Draft, RuleChoice
from trimix_edge.decoding.scoring import Piece
from trimix_edge.fusion.by_prompt import WeightGrid
from trimix_edge.fusion.saf import SafFusion
from trimix_edge.measure.fit import fit_host, fit_weights
from trimix_edge.weights import WeightChoice, Weights


@dataclass(frozen=True)
class Rows:
    """Stored references as what :mod:`trimix_edge.measure.fit` reads."""

    data: References

    @property
    def n_vocab(self) -> int:
        return self.data.logits.shape[2]

    def pieces(self, what: str = "") -> Iterator[Piece]:
        targets = self.data.targets.astype(np.int32)
        for at in range(0, len(targets), TOKENS_AT_ONCE):
            part = slice(at, at + TOKENS_AT_ONCE)
            rows = {role: self.data.logits[n, part] for n, role in enumerate(ROLES)}
            yield Piece(rows, targets[part])


@dataclass(frozen=True)
class System:
    name: str
    weights: Weights | None = None
    rule: RuleChoice | None = None


def systems(trimix: TriMix, dev: References) -> list[System]:
    """All of the table, tuned on dev."""
    shipped = trimix.manifest.weights
    present = shipped if isinstance(shipped, FusionWeights) else None
    newton = fit_weights(Rows(dev), WeightGrid(ROLES), current=present).weights
    host = fit_host(Rows(dev)).rule
    return [
        *(System(f"{role} alone", FusionWeights.single(role)) for role in Role),
        System("Proxy Tuning", FusionWeights.PROXY_TUNING),
        System("average", FusionWeights(0.5, 0.5)),
        System(f"SAF-W, host {host.role}", rule=host),
        System("TriMix, the trio's weights", shipped),
        System("TriMix-PPL", WeightChoice.ALL),
        System("TriMix, Newton on dev", newton),
    ]


def saf_nll(data: References, host: Role) -> Floats:
    """Nats of each token under SAF-W; float64 ``[n_tokens]``."""
    source = Rows(data)
    rule = SafFusion(host, source.n_vocab)
    costs = []
    for logits, targets in source.pieces():
        found, greedy = np.empty(len(targets)), np.empty(len(targets), np.bool_)
        token_logprobs(rule.fuse(logits).logits, targets, source.n_vocab, found, greedy)
        costs.append(-found)
    return np.concatenate(costs)


def chosen_nll(data: References, chosen: list[FusionWeights]) -> Floats:
    """Nats of each token under the weights that were chosen for its item."""
    nll = np.empty(len(data.targets))
    by_item = np.array([f"{w.large_ins},{w.small_cpt}" for w in chosen])
    for pair in set(by_item.tolist()):
        part = (by_item == pair)[data.item_of]
        weights = chosen[int(np.flatnonzero(by_item == pair)[0])]
        rows = References(
            data.logits[:, part], data.targets[part], data.item_of[part], data.n_bytes, data.pages
        )
        nll[part] = fused_nll(rows, np.array([weights.of(role) for role in ROLES]))
    return nll


def _shown(system: System, chosen: list[FusionWeights]) -> str:
    if system.weights is WeightChoice.ALL:
        mean = np.mean([[w.of(role) for role in ROLES] for w in chosen], axis=0)
        return "by prompt, mean " + ", ".join(f"{w:.2f}" for w in mean)
    if system.rule is not None:
        return "by token"
    return ", ".join(f"{system.weights.of(role):.3g}" for role in ROLES)  # type: ignore[union-attr]


def systems_table(
    trimix: TriMix, dev: References, test: References, items: list[Item]
) -> tuple[Table, list[dict[str, object]]]:
    """Conditional bits a byte of the reference, chrF++ and seconds a sentence, with intervals."""
    from sacrebleu.metrics.chrf import CHRF

    chrf = CHRF(word_order=2, lowercase=True)
    bootstrap = Bootstrap(test.pages)
    ones = np.ones(len(items))
    columns = ("system", "weights", "bits a byte", "95 %", "chrF++", "95 %", "seconds", "95 %")
    table = Table(*columns, box=MARKDOWN)
    rows: list[dict[str, object]] = []
    trimix.generate(items[0].english, chat=True, max_tokens=100)  # compiles the kernels
    for system in systems(trimix, dev):
        scores, seconds, chosen = np.empty(len(items)), np.empty(len(items)), []
        for n, item in enumerate(track(items, description=system.name)):
            start = perf_counter()
            result = trimix.generate(
                item.english,
                chat=True,
                max_tokens=100,
                weights=system.weights,
                rule=system.rule,
                draft=Draft(0),  # the seconds are those of the rules
            )
            seconds[n] = perf_counter() - start
            scores[n] = chrf.sentence_score(result.text, [item.dzongkha]).score
            chosen.append(result.weights)
        if system.rule is not None and system.rule.role is not None:
            nll = saf_nll(test, system.rule.role)
        else:
            nll = chosen_nll(test, chosen)
        bits = bootstrap.ratio(*bits_per_byte(test, nll))
        quality, spent = bootstrap.ratio(scores, ones), bootstrap.ratio(seconds, ones)
        table.add_row(
            system.name,
            _shown(system, chosen),
            f"{bits[0]:.4f}",
            f"{bits[1]:.3f} to {bits[2]:.3f}",
            f"{quality[0]:.1f}",
            f"{quality[1]:.1f} to {quality[2]:.1f}",
            f"{spent[0]:.2f}",
            f"{spent[1]:.2f} to {spent[2]:.2f}",
        )
        rows.append(
            {"system": system.name, "bits_per_byte": bits, "chrf": quality, "seconds": spent}
        )
    return table, rows
