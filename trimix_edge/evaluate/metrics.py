"""Scores from 0 to 100 as functions of sums over items: chrF++, ROUGE-L and accuracy.

sacrebleu and rouge-score do the counting; they are an extra, and load when first needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from trimix_edge.errors import EvaluationError
from trimix_edge.evaluate import paper
from trimix_edge.evaluate.answers import as_label, as_letter, first_line
from trimix_edge.evaluate.bootstrap import Floats, Score
from trimix_edge.evaluate.numbers import last_number
from trimix_edge.evaluate.tasks import Judge, JudgeName
from trimix_edge.evaluate.words import UnicodeTokenizer

CHAR_ORDER, WORD_ORDER, BETA = 6, 2, 2.0
N_STATISTICS = 3 * (CHAR_ORDER + WORD_ORDER)

_LIBRARIES = {"sacrebleu": "sacrebleu", "rouge_score": "rouge-score"}


@dataclass(frozen=True)
class Answered:
    """What is judged: an output, the right answer, and how many options a letter had."""

    output: str
    reference: str
    n_options: int = 0


@dataclass(frozen=True)
class Metric:
    """A score in two steps.

    Attributes:
        statistics: of each item what is summed, float64 ``[n_items, k]``.
        score: from sums ``[..., k]`` to scores ``[...]``.
        detail: exactly what was computed, and how it is resampled.
    """

    name: str
    statistics: Callable[[Sequence[Answered]], Floats]
    score: Score
    detail: str


_DETAILS: Mapping[tuple[JudgeName, Judge], str] = {
    ("default", "letter"): "the letter that the first line announces, or the first that stands "
    "alone and is no article, is the option's",
    ("default", "label"): "the first line is the label, case-folded, without punctuation around it",
    ("default", "number"): "the last number of the first line has the answer's value, in any usual "
    "way of writing numbers",
    ("paper", "letter"): "as in the paper's code: the first character, if one of A to E, or else "
    "the whole first line, is the option's letter",
    ("paper", "label"): "as in the paper's code: the first line is the label, in lower case",
    ("paper", "number"): "as in the paper's code: the first line's last number, without commas and "
    "a final full stop, is the answer as a float; no number counts as -1",
}


def metric_of(judge: Judge, name: JudgeName = "default") -> Metric:
    """The metric of a task.

    Args:
        name: whose judge decides whether an answer is right.

    Raises:
        EvaluationError: its library is not installed.
    """
    if judge == "chrf":
        chrf = _library("sacrebleu")
        detail = (
            f"sacrebleu {chrf.__version__}, chrF2++ of the corpus, lower-cased, word order 2; "
            f"resampled through the n-gram counts of each sentence"
        )
        return Metric("chrF++", chrf_statistics, chrf_score, detail)
    if judge == "rouge_l":
        _library("rouge_score")
        detail = (
            "rouge-score, F of ROUGE-L, mean over items, no stemming, trimix-edge's Unicode tokens"
        )
        return Metric("ROUGE-L", rouge_statistics, mean_score, detail)
    detail = _DETAILS[name, judge]
    return Metric("accuracy", lambda items: _correct(judge, items, name), mean_score, detail)


def require_libraries(judges: Sequence[Judge]) -> None:
    """Say so before hours of work if a score can't be computed after them."""
    for judge in judges:
        metric_of(judge)


def library_versions() -> dict[str, str]:
    """Versions of what counts, of those that are installed."""
    found = {}
    for distribution in _LIBRARIES.values():
        try:
            found[distribution] = version(distribution)
        except PackageNotFoundError:
            continue
    return found


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        raise EvaluationError(
            f"{_LIBRARIES[name]} is not installed: pip install 'trimix-edge[evaluate]'"
        ) from None


def _with_ones(values: Sequence[float]) -> Floats:
    return np.stack([np.array(values, np.float64), np.ones(len(values))], axis=1)


def mean_score(sums: Floats) -> Floats:
    """``[..., (sum, number)]`` to the mean, times 100."""
    mean: Floats = 100 * sums[..., 0] / sums[..., 1]
    return mean


def _correct(judge: Judge, items: Sequence[Answered], name: JudgeName) -> Floats:
    return _with_ones([float(is_correct(judge, item, name)) for item in items])


def is_correct(judge: Judge, item: Answered, name: JudgeName = "default") -> bool:
    """Whether an output is right, of a task that is judged by accuracy."""
    if name == "paper":
        rules = {"letter": paper.is_letter, "label": paper.is_label, "number": paper.is_number}
        return rules[judge](item.output, item.reference)
    answer = first_line(item.output)
    if judge == "letter":
        return as_letter(answer, item.n_options) == item.reference
    if judge == "label":
        return as_label(answer) == as_label(item.reference)
    return not last_number(answer).isdisjoint(last_number(item.reference))


def rouge_statistics(items: Sequence[Answered]) -> Floats:
    """``[n_items, (F of ROUGE-L, 1)]``."""
    _library("rouge_score")
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=False, tokenizer=UnicodeTokenizer())
    return _with_ones(
        [scorer.score(item.reference, first_line(item.output))["rougeL"].fmeasure for item in items]
    )


def chrf_statistics(items: Sequence[Answered]) -> Floats:
    """``[n_items, 24]``: of each order the n-grams of output, reference and both."""
    _library("sacrebleu")
    from sacrebleu.metrics.chrf import CHRF

    chrf = CHRF(char_order=CHAR_ORDER, word_order=WORD_ORDER, beta=int(BETA), lowercase=True)
    outputs = [first_line(item.output) for item in items]
    references = [[item.reference for item in items]]
    # sacrebleu's own bootstrap goes through this method; the test compares with corpus_score.
    counts = chrf._extract_corpus_statistics(outputs, references)
    return np.array(counts, np.float64).reshape(len(items), N_STATISTICS)


def chrf_score(sums: Floats) -> Floats:
    """chrF++ from summed counts, ``[..., 24]``: means over orders that both sides have, then F."""
    counts = sums.reshape(*sums.shape[:-1], -1, 3)
    output, reference, both = counts[..., 0], counts[..., 1], counts[..., 2]
    used = (output > 0) & (reference > 0)
    orders = np.maximum(used.sum(axis=-1), 1)
    precision = np.where(used, both / np.maximum(output, 1), 0).sum(axis=-1) / orders
    recall = np.where(used, both / np.maximum(reference, 1), 0).sum(axis=-1) / orders
    below = BETA**2 * precision + recall
    f: Floats = 100 * (1 + BETA**2) * precision * recall / np.where(below > 0, below, 1)
    return f
